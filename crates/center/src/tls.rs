//! The rule that tokens never travel in clear text between hosts.

use std::net::SocketAddr;
use std::sync::Arc;

use keepgate_serve::TlsFiles;
use rustls::ServerConfig;

/// TLS cannot be used, or must be.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate or the key.
    #[error(transparent)]
    Files(#[from] keepgate_serve::TlsError),
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
        Some(files) => Ok(Some(files.load()?)),
        None if listen.ip().to_canonical().is_loopback() => Ok(None),
        None => Err(TlsError::Plain(listen)),
    }
}
