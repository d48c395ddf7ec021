//! Sessions with the database inside of TLS, and what ties a password to the certificate.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

/// TLS to the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of `sslrootcert`.
    #[error("`{}` of `sslrootcert` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It holds no certificate.
    #[error("expected certificates (PEM) in `{}` of `sslrootcert`, found none", .0.display())]
    Pem(PathBuf),
    /// The host's store is empty.
    #[error(
        "the host has no usable root certificate; install ca-certificates, or name a CA file \
         (`sslrootcert=FILE` in the database URL)"
    )]
    NoRoots,
    /// The library refuses them.
    #[error("the certificates cannot be used")]
    Rustls(#[source] rustls::Error),
}

/// Settings that trust the certificates in this file, or else those of the host. The server's name is
/// always verified. Blocks on files.
pub(super) fn config(roots: Option<&Path>, direct: bool) -> Result<Arc<ClientConfig>, TlsError> {
    let certificates: Vec<CertificateDer<'static>> = match roots {
        Some(path) => {
            let read = |source| TlsError::Read { path: path.to_owned(), source };
            let pem = std::fs::read(path).map_err(read)?;
            let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            found.map_err(|_| TlsError::Pem(path.to_owned()))?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut store = rustls::RootCertStore::empty();
    store.add_parsable_certificates(certificates);
    match roots {
        Some(path) if store.is_empty() => return Err(TlsError::Pem(path.to_owned())),
        None if store.is_empty() => return Err(TlsError::NoRoots),
        _ => {}
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?
        .with_root_certificates(store)
        .with_no_client_auth();
    if direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(Arc::new(config))
}

/// Makes sessions encrypted; none: the address asks for none, and it is never used.
#[derive(Clone)]
pub(super) struct Tls(pub(super) Option<Arc<ClientConfig>>);

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Encrypted;
    type TlsConnect = Handshake;
    type Error = rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Handshake, Self::Error> {
        let Some(config) = &self.0 else { return Ok(Handshake(None)) };
        let bare = domain.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned())?;
        Ok(Handshake(Some((Arc::clone(config), name))))
    }
}

/// With these settings, to a server of this name.
pub(super) struct Handshake(Option<(Arc<ClientConfig>, ServerName<'static>)>);

impl TlsConnect<Socket> for Handshake {
    type Stream = Encrypted;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Encrypted>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let Some((config, name)) = self.0 else {
                return Err(std::io::Error::other("the address asks for no TLS"));
            };
            let connected = TlsConnector::from(config).connect(name, socket).await?;
            Ok(Encrypted(Box::new(connected)))
        })
    }
}

/// A connection inside of TLS.
pub(super) struct Encrypted(Box<tokio_rustls::client::TlsStream<Socket>>);

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        let leaf = self.0.get_ref().1.peer_certificates().and_then(<[_]>::first);
        match leaf.and_then(|leaf| end_point(leaf)) {
            Some(hash) => ChannelBinding::tls_server_end_point(hash),
            None => ChannelBinding::none(),
        }
    }
}

/// `tls-server-end-point` of RFC 5929: the certificate's hash, by the hash function of its signature,
/// and SHA-256 in place of the weak ones. None: the signature has no one hash function.
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    let (outer, _) = part(certificate, 0x30)?;
    let (_signed, rest) = part(outer, 0x30)?;
    let (algorithm, _) = part(rest, 0x30)?;
    let (oid, _) = part(algorithm, 0x06)?;
    let which = match oid.strip_prefix(RSA) {
        Some([4 | 5 | 11]) => 256,
        Some([12]) => 384,
        Some([13]) => 512,
        Some(_) => return None,
        None => match oid.strip_prefix(ECDSA)? {
            [2] => 256,
            [3] => 384,
            [4] => 512,
            _ => return None,
        },
    };
    Some(match which {
        256 => Sha256::digest(certificate).to_vec(),
        384 => Sha384::digest(certificate).to_vec(),
        _ => Sha512::digest(certificate).to_vec(),
    })
}

/// The contents of a DER value with this tag at the front, and what follows it.
fn part(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_hashed_by_the_function_of_its_signature() {
        for (algorithm, bytes) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(32)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(48)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let params = rcgen::CertificateParams::new(vec!["db".to_owned()]).unwrap();
            let der = params.self_signed(&key).unwrap();
            assert_eq!(end_point(der.der()).map(|hash| hash.len()), bytes);
        }
        assert_eq!(end_point(&[]), None);
        assert_eq!(end_point(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
