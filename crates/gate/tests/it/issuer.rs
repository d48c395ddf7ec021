//! An issuer of the test's own: its document, its keys, its tokens, and what goes wrong with it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::support::{Echo, serve};

/// What an issuer serves, which may change.
#[derive(Clone, Default)]
struct Served {
    /// None: the document as it should be.
    document: Option<String>,
    keys: Vec<Value>,
}

/// See the module. Its URL ends with a path, as Keycloak's realms have it.
pub(crate) struct TestIssuer {
    pub(crate) url: String,
    served: Arc<Mutex<Served>>,
    broken: Arc<AtomicBool>,
    /// How often the key set was asked for.
    asked: Arc<AtomicU64>,
    documents: Arc<AtomicU64>,
    _echo: Echo,
}

impl TestIssuer {
    pub(crate) async fn start(keys: Vec<Value>) -> TestIssuer {
        let served = Arc::new(Mutex::new(Served { document: None, keys }));
        let (broken, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let documents = Arc::new(AtomicU64::new(0));
        let of_documents = Arc::clone(&documents);
        let own_url = Arc::new(Mutex::new(String::new()));
        let (held, fails, count, url) =
            (Arc::clone(&served), Arc::clone(&broken), Arc::clone(&asked), Arc::clone(&own_url));
        let echo = serve(move |request| {
            let url = url.lock().unwrap().clone();
            let now = held.lock().unwrap().clone();
            let body = match request.uri().path() {
                "/realms/shop/.well-known/openid-configuration" => {
                    of_documents.fetch_add(1, Ordering::SeqCst);
                    let own = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
                    now.document.unwrap_or_else(|| own.to_string())
                }
                "/realms/shop/keys" => {
                    count.fetch_add(1, Ordering::SeqCst);
                    json!({"keys": now.keys}).to_string()
                }
                other => panic!("nobody asks for {other}"),
            };
            let mut response = Response::new(Full::new(Bytes::from(body)));
            if fails.load(Ordering::SeqCst) {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            async move { response }
        })
        .await;
        let url = format!("{}/realms/shop", echo.url);
        own_url.lock().unwrap().clone_from(&url);
        TestIssuer { url, served, broken, asked, documents, _echo: echo }
    }

    pub(crate) fn rotate(&self, keys: Vec<Value>) {
        self.served.lock().unwrap().keys = keys;
    }

    pub(crate) fn set_document(&self, document: Option<String>) {
        self.served.lock().unwrap().document = document;
    }

    pub(crate) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// How often its document was asked for.
    pub(crate) fn documents(&self) -> u64 {
        self.documents.load(Ordering::SeqCst)
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}
