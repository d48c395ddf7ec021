//! The rule that tokens never travel in clear text between hosts, and the certificate for it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use keepgate_serve::TlsFiles;
use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

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
    /// Client certificates where there is no TLS.
    #[error(
        "client certificates (`{0}`) are shown in TLS: give the center a certificate and key \
         (--tls-cert FILE --tls-key FILE)"
    )]
    ClientCa(String),
    /// Callers are to use plain HTTP where others can listen.
    #[error(
        "refusing the public URL `{0}`: tokens would travel in clear text; give an `https` URL, or \
         one of this host such as http://127.0.0.1:7480"
    )]
    PublicPlain(String),
    /// It is no URL that callers could use.
    #[error("expected a public URL such as https://pdp.example.com, got `{0}`")]
    PublicUrl(String),
}

/// The rule for the URL by which callers reach the center.
pub(crate) fn check_public_url(url: &str) -> Result<(), TlsError> {
    let bad = || TlsError::PublicUrl(url.to_owned());
    let uri: http::Uri = url.parse().map_err(|_| bad())?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
    let host = authority.map(http::uri::Authority::host).filter(|host| !host.is_empty());
    let host = host.filter(|_| uri.query().is_none()).ok_or_else(bad)?;
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_here = host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if is_here => Ok(()),
        Some("http") => Err(TlsError::PublicPlain(url.to_owned())),
        _ => Err(bad()),
    }
}

/// The certificate of a center. A clone is the same one.
#[derive(Clone)]
pub struct Certificate {
    files: TlsFiles,
    client_ca: Option<PathBuf>,
    current: Arc<ArcSwap<ServerConfig>>,
}

impl Certificate {
    fn load(files: &TlsFiles, client_ca: Option<&Path>) -> Result<Certificate, TlsError> {
        let current = Arc::new(ArcSwap::from(files.load_asking(client_ca)?));
        let client_ca = client_ca.map(Path::to_owned);
        Ok(Certificate { files: files.clone(), client_ca, current })
    }

    /// The files that it is read from.
    pub fn files(&self) -> Vec<PathBuf> {
        let own = [self.files.cert.clone(), self.files.key.clone()];
        own.into_iter().chain(self.client_ca.clone()).collect()
    }

    /// Reads it anew, for connections from now on. Blocks on the files.
    ///
    /// # Errors
    /// Names the file that cannot be used; what was used before stays.
    pub fn reload(&self) -> Result<(), keepgate_serve::TlsError> {
        self.current.store(self.files.load_asking(self.client_ca.as_deref())?);
        Ok(())
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

/// The certificate of the listener; none: plain HTTP, on loopback only.
pub(crate) fn certificate(
    files: Option<&TlsFiles>,
    client_ca: Option<&Path>,
    listen: SocketAddr,
) -> Result<Option<Certificate>, TlsError> {
    match files {
        Some(files) => Certificate::load(files, client_ca).map(Some),
        None if client_ca.is_some() => {
            Err(TlsError::ClientCa(client_ca.unwrap_or(Path::new("")).display().to_string()))
        }
        None if listen.ip().to_canonical().is_loopback() => Ok(None),
        None => Err(TlsError::Plain(listen)),
    }
}
