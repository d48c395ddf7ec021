//! A server's certificate and key, read from PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Where certificate and key are, both PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// Its private key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// A certificate or a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file does not hold what it should.
    #[error("cannot read the {what} in `{path}`")]
    Pem {
        /// `certificate` or `private key`.
        what: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate file holds none.
    #[error("there is no certificate in `{0}`")]
    Empty(String),
    /// Certificate and key do not go together, or the key is of an unknown sort.
    #[error("certificate `{cert}` and key `{key}` cannot be used")]
    Unusable {
        /// The certificate file.
        cert: String,
        /// The key file.
        key: String,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

impl TlsFiles {
    /// The configuration of a listener that speaks HTTP/2 and HTTP/1.1 (by ALPN), TLS 1.2 and 1.3,
    /// and asks callers for no certificate.
    ///
    /// # Errors
    /// Names the file that is at fault; see [`TlsError`].
    pub fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let shown = |path: &Path| path.display().to_string();
        let pem = |what, path: &Path| {
            let path = shown(path);
            move |source| TlsError::Pem { what, path, source }
        };
        let chain = CertificateDer::pem_file_iter(&self.cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(pem("certificate", &self.cert))?;
        if chain.is_empty() {
            return Err(TlsError::Empty(shown(&self.cert)));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(pem("private key", &self.key))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|source| TlsError::Unusable {
                cert: shown(&self.cert),
                key: shown(&self.key),
                source,
            })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Two files that go with the test.
    struct Pair(TlsFiles);

    impl Pair {
        fn new(cert: &str, key: &str) -> Pair {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let at = |name: &str, text: &str| {
                let name = format!("keepgate-tls-{}-{number}-{name}.pem", std::process::id());
                let path = std::env::temp_dir().join(name);
                std::fs::write(&path, text).unwrap();
                path
            };
            Pair(TlsFiles { cert: at("cert", cert), key: at("key", key) })
        }
    }

    impl Drop for Pair {
        fn drop(&mut self) {
            for path in [&self.0.cert, &self.0.key] {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_and_its_key_are_used() {
        let (cert, key) = made();
        let config = Pair::new(&cert, &key).0.load().unwrap();
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }

    #[test]
    fn the_file_at_fault_is_named() {
        let (cert, key) = made();
        let (_, other) = made();
        let cases = [
            (Pair::new("", &key), "there is no certificate in `", "cert.pem"),
            (Pair::new(&key, &key), "there is no certificate in `", "cert.pem"),
            (Pair::new(&cert, ""), "cannot read the private key in `", "key.pem"),
            (Pair::new(&cert, &cert), "cannot read the private key in `", "key.pem"),
            (Pair::new(&cert, &other), "cannot be used", "key.pem"),
        ];
        for (pair, says, names) in cases {
            let error = pair.0.load().unwrap_err().to_string();
            assert!(error.contains(says) && error.contains(names), "{error}");
        }
        let (cert, key) = made();
        let pair = Pair::new(&cert, &key);
        let missing = TlsFiles { cert: pair.0.cert.with_extension("none"), ..pair.0.clone() };
        let error = missing.load().unwrap_err().to_string();
        assert!(error.contains("cannot read the certificate in `"), "{error}");
    }
}
