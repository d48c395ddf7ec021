//! Certificates, and the rule that tokens never travel in clear text between hosts.

use std::net::SocketAddr;
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
    /// Its private key.
    pub key: PathBuf,
}

/// TLS cannot be used, or must be.
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
    /// Plain HTTP was asked for where others can listen.
    #[error(
        "refusing plain HTTP on `{0}`: tokens would travel in clear text; give a certificate and \
         key (--tls-cert FILE --tls-key FILE) or listen on a loopback address such as \
         127.0.0.1:7480"
    )]
    Plain(SocketAddr),
}

/// The configuration of the listener; none: plain HTTP, on loopback only.
pub(crate) fn config(
    files: Option<&TlsFiles>,
    listen: SocketAddr,
) -> Result<Option<Arc<ServerConfig>>, TlsError> {
    match files {
        Some(files) => load(&files.cert, &files.key).map(Some),
        None if listen.ip().to_canonical().is_loopback() => Ok(None),
        None => Err(TlsError::Plain(listen)),
    }
}

fn load(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let shown = |path: &Path| path.display().to_string();
    let pem = |what, path: &Path| {
        let path = shown(path);
        move |source| TlsError::Pem { what, path, source }
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .map_err(pem("certificate", cert))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem("certificate", cert))?;
    if chain.is_empty() {
        return Err(TlsError::Empty(shown(cert)));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(pem("private key", key))?;
    let unusable = |source| TlsError::Unusable { cert: shown(cert), key: shown(key), source };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
