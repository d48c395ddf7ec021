//! Tells a URL of each new request for access, signed as Standard Webhooks has it
//! (<https://www.standardwebhooks.com>).
//!
//! At least once: a request that was not told when the center ended is told by the next one that starts,
//! and receivers know one that comes twice by its `webhook-id`. No caller waits for it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use keepgate_identify::access::KeyAccess;
use keepgate_identify::ask::{self, AskError, Question};
use keepgate_policy::instant;
use ring::hmac;
use tokio::sync::Notify;

use crate::desk::Desk;
use crate::metrics::Metrics;
use crate::store::{RequestChange, RequestRow, RequestsOf};

/// Messages that wait at most.
const WAITING: usize = 1_000;
/// Tries of one message.
const TRIES: u32 = 10;
/// Between the first two tries; then four times as long each time.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// For one try, with the name, the connection, and the answer.
const WITHIN: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const ANSWER: usize = 64 * 1024;
/// The shortest secret, in bytes.
pub(crate) const MIN_SECRET: usize = 16;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Where new requests for access are told.
#[derive(Clone)]
pub struct WebhookConfig {
    /// Judged by the center's rules for what it asks.
    pub url: String,
    /// With what messages are signed; `whsec_` and base64, or the bytes themselves.
    pub secret: String,
}

impl fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookConfig").field("url", &self.url).finish_non_exhaustive()
    }
}

/// A webhook that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The URL is not allowed.
    #[error("the webhook cannot be asked")]
    Access(#[from] keepgate_identify::access::AccessError),
    /// The secret is none.
    #[error(
        "the webhook's secret: expected {MIN_SECRET} bytes at least, or `whsec_` and base64 of them"
    )]
    Secret,
    /// No certificates to trust.
    #[error("the webhook cannot be asked")]
    Tls(#[source] AskError),
}

/// See the module.
pub(crate) struct Webhook {
    url: String,
    key: hmac::Key,
    access: KeyAccess,
    tls: Arc<rustls::ClientConfig>,
    queue: Mutex<VecDeque<Due>>,
    woken: Notify,
    metrics: Arc<Metrics>,
}

struct Due {
    at: Instant,
    tries: u32,
    row: RequestRow,
}

impl Webhook {
    pub(crate) fn new(
        config: &WebhookConfig,
        access: KeyAccess,
        metrics: Arc<Metrics>,
    ) -> Result<Webhook, WebhookError> {
        access.url(&config.url)?;
        let secret = config.secret.trim();
        let secret = match secret.strip_prefix("whsec_") {
            Some(text) => STANDARD.decode(text).map_err(|_| WebhookError::Secret)?,
            None => secret.as_bytes().to_vec(),
        };
        if secret.len() < MIN_SECRET {
            return Err(WebhookError::Secret);
        }
        Ok(Webhook {
            url: config.url.clone(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            access,
            tls: ask::tls(None).map_err(WebhookError::Tls)?,
            queue: Mutex::default(),
            woken: Notify::new(),
            metrics,
        })
    }

    /// Has it told; never waits. One too many is told after the next start.
    pub(crate) fn tell(&self, row: RequestRow) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= WAITING {
            drop(queue);
            self.lose(&row, "too many messages wait");
            return;
        }
        queue.push_back(Due { at: Instant::now(), tries: 0, row });
        drop(queue);
        self.woken.notify_one();
    }

    fn lose(&self, row: &RequestRow, why: &str) {
        self.metrics.webhooks_lost.add(1);
        tracing::error!(
            request = row.id,
            service = row.service,
            why,
            "the webhook was not told of a request for access; it is told after the next start"
        );
    }

    /// Sends until it is dropped.
    pub(crate) async fn run(&self, desk: &Desk) {
        match desk.read(|store| Ok(store.requests(RequestsOf::Untold(WAITING))?)).await {
            Ok(rows) => rows.into_iter().for_each(|row| self.tell(row)),
            Err(error) => {
                let error = keepgate_observe::chain(&error);
                tracing::warn!(error, "requests that the webhook was not told of cannot be read");
            }
        }
        loop {
            let next = {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                let earliest = queue.iter().enumerate().min_by_key(|(_, due)| due.at);
                match earliest.map(|(at, due)| (at, due.at)) {
                    Some((at, due)) if due <= Instant::now() => Ok(queue.remove(at)),
                    other => Err(other.map(|(_, due)| due)),
                }
            };
            match next {
                Ok(Some(due)) => self.send(desk, due).await,
                Ok(None) => {}
                Err(None) => self.woken.notified().await,
                Err(Some(at)) => {
                    let pause = tokio::time::sleep_until(at.into());
                    tokio::select! { () = pause => {}, () = self.woken.notified() => {} }
                }
            }
        }
    }

    async fn send(&self, desk: &Desk, due: Due) {
        let Due { tries, row, .. } = due;
        let error = match self.once(&row).await {
            Ok(status) if status.is_success() => {
                self.metrics.webhooks_sent.add(1);
                if let Err(error) = desk.request(RequestChange::Told(row.id.clone())).await {
                    let error = keepgate_observe::chain(&error);
                    tracing::warn!(
                        error,
                        request = row.id,
                        "that the webhook was told is not noted"
                    );
                }
                return;
            }
            Ok(status) => format!("it answered {status}"),
            Err(error) => keepgate_observe::chain(&error),
        };
        self.metrics.webhooks_failed.add(1);
        let tries = tries + 1;
        tracing::warn!(error, tries, request = row.id, "the webhook did not take a message");
        if tries >= TRIES {
            return self.lose(&row, "it did not take the message");
        }
        let pause = PAUSE.saturating_mul(4_u32.saturating_pow(tries - 1)).min(LONGEST_PAUSE);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(Due { at: Instant::now() + pause, tries, row });
    }

    async fn once(&self, row: &RequestRow) -> Result<http::StatusCode, AskError> {
        let body = body(row);
        let now = keepgate_observe::unix_s();
        let value =
            |text: &str| HeaderValue::from_str(text).map_err(|e| AskError::Request(e.into()));
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (WEBHOOK_ID, value(&row.id)?),
            (WEBHOOK_TIMESTAMP, HeaderValue::from(now)),
            (WEBHOOK_SIGNATURE, value(&signature(&self.key, &row.id, now, &body))?),
        ];
        let question = Question {
            method: Method::POST,
            url: &self.url,
            headers: &headers,
            body: Bytes::from(body),
            max_answer: ANSWER,
            timeout: WITHIN,
        };
        Ok(ask::ask(question, &self.access, &self.tls).await?.status)
    }
}

/// Without the code, which only the asker has.
fn body(row: &RequestRow) -> Vec<u8> {
    let body = serde_json::json!({
        "type": "access.requested",
        "timestamp": instant::to_text(row.created_unix_s),
        "data": {
            "id": row.id,
            "service": row.service,
            "who": row.body.who,
            "what_for": row.body.what_for,
            "per_day": row.body.per_day,
            "address": row.address,
        },
    });
    body.to_string().into_bytes()
}

fn signature(key: &hmac::Key, id: &str, unix_s: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{id}.{unix_s}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign().as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(
            signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn a_secret_has_a_least_length() {
        let made = |secret: &str| {
            let config = WebhookConfig {
                url: "https://hook.example/".to_owned(),
                secret: secret.to_owned(),
            };
            Webhook::new(&config, KeyAccess::default(), Arc::default()).map(|_| ())
        };
        made("0123456789abcdef\n").unwrap();
        assert!(matches!(made("0123456789abcde"), Err(WebhookError::Secret)));
        made("whsec_MDEyMzQ1Njc4OWFiY2RlZg==").unwrap();
        assert!(matches!(made("whsec_MDEyMzQ1Njc4OWFiY2Rl"), Err(WebhookError::Secret)));
        assert!(matches!(made("whsec_?"), Err(WebhookError::Secret)));
        let config = WebhookConfig { url: "http://127.0.0.1/".to_owned(), secret: String::new() };
        let refused = Webhook::new(&config, KeyAccess::default(), Arc::default());
        assert!(matches!(refused, Err(WebhookError::Access(_))));
    }
}
