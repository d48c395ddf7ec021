//! TLS settings with an identity: equal settings, and only those, may share connections.

use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsConnector;

use super::error::DialError;
use super::pinned::{Pinned, in_words};
use super::stream::Stream;

/// Whom to trust.
#[derive(Clone, Debug, Default)]
pub enum Roots {
    /// The host's certificate store.
    #[default]
    System,
    /// These certificates alone (PEM).
    Pem(Vec<u8>),
    /// The certificates in this file alone (PEM).
    File(PathBuf),
}

/// As whom to speak: a certificate chain and its key, both PEM.
#[derive(Clone)]
pub struct Identity {
    /// The chain, leaf first.
    pub chain_pem: Vec<u8>,
    /// The private key.
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity { .. }")
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("`{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not PEM, or nothing in it.
    #[error("{what} is not PEM, or holds none")]
    Pem {
        /// Which input.
        what: &'static str,
    },
    /// The host's store is empty.
    #[error(
        "the host has no usable root certificate ({errors} unreadable); install ca-certificates or name a CA file"
    )]
    NoRoots {
        /// How many could not be read.
        errors: usize,
    },
    /// The library refuses them.
    #[error("the certificates cannot be used")]
    Rustls(#[source] rustls::Error),
    /// The name to verify is neither a DNS name nor an address.
    #[error("`{0}` is neither a DNS name nor an address")]
    ServerName(String),
}

/// Roots, client certificate and ALPN, ready for use.
///
/// Compared by a SHA-256 over all of them, never by address or by a short hash.
pub struct TlsSettings {
    config: Arc<rustls::ClientConfig>,
    identity: [u8; 32],
}

impl TlsSettings {
    /// Settings that trust `roots`, offer `alpn` in this order (such as `h2`, `http/1.1`) and,
    /// when asked, show `client`'s certificate. Verification cannot be turned off.
    pub fn new(
        roots: &Roots,
        client: Option<&Identity>,
        alpn: &[&str],
    ) -> Result<TlsSettings, TlsError> {
        // The host's store holds CAs alone; what a person names may be the server's own.
        let may_be_own = !matches!(roots, Roots::System);
        let roots = match roots {
            Roots::System => system_roots()?,
            Roots::Pem(pem) => certificates(pem, "the CA certificate")?,
            Roots::File(path) => certificates(&read(path)?, "the CA file")?,
        };
        let mut hash = Sha256::new();
        let mut feed = |part: &str, bytes: &[u8]| {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        let mut store = rustls::RootCertStore::empty();
        let mut trusted: Vec<&[u8]> = roots.iter().map(|root| &**root).collect();
        trusted.sort();
        for certificate in trusted {
            feed("root", certificate);
        }
        let (_, ignored) = store.add_parsable_certificates(roots.iter().cloned());
        if store.is_empty() {
            return Err(TlsError::NoRoots { errors: ignored });
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Rustls)?;
        let builder = if may_be_own {
            let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
                .build()
                .map_err(|_| TlsError::NoRoots { errors: ignored })?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Pinned::new(inner, roots)))
        } else {
            builder.with_root_certificates(store)
        };
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let chain = certificates(&client.chain_pem, "the client certificate")?;
                let key = PrivateKeyDer::from_pem_slice(&client.key_pem)
                    .map_err(|_| TlsError::Pem { what: "the client key" })?;
                for certificate in &chain {
                    feed("chain", certificate);
                }
                feed("key", key.secret_der());
                builder.with_client_auth_cert(chain, key).map_err(TlsError::Rustls)?
            }
        };
        for protocol in alpn {
            feed("alpn", protocol.as_bytes());
        }
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Ok(TlsSettings { config: Arc::new(config), identity: hash.finalize().into() })
    }

    pub(super) async fn handshake(
        &self,
        server_name: &str,
        stream: Stream,
    ) -> Result<(Stream, Option<Vec<u8>>), DialError> {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| DialError::TlsSettings(TlsError::ServerName(server_name.to_owned())))?;
        let tls = TlsConnector::from(self.config.clone()).connect(name, stream).await.map_err(
            |error| {
                let source = match in_words(&error) {
                    Some(words) => std::io::Error::new(error.kind(), words),
                    None => error,
                };
                DialError::Tls { server_name: server_name.to_owned(), source }
            },
        )?;
        let alpn = tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        Ok((Stream::Tls(Box::new(tls)), alpn))
    }
}

impl PartialEq for TlsSettings {
    fn eq(&self, other: &TlsSettings) -> bool {
        self.identity == other.identity
    }
}

impl Eq for TlsSettings {}

impl Hash for TlsSettings {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity.hash(state);
    }
}

impl std::fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsSettings { .. }")
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::Pem { what }),
    }
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let loaded = rustls_native_certs::load_native_certs();
    if loaded.certs.is_empty() {
        return Err(TlsError::NoRoots { errors: loaded.errors.len() });
    }
    Ok(loaded.certs)
}
