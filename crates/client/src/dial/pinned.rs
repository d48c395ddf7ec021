//! The usual self-signed certificate as its own CA file.
//!
//! `openssl req -x509` makes a certificate that calls itself a CA. Served by the server itself it is
//! the end of its own chain, which the verifier refuses: a CA is no server. But who trusts it to
//! vouch for others can trust it to be itself: where the server shows the very certificate that is
//! trusted, byte for byte, its name and its time decide.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// See the module.
#[derive(Debug)]
pub(super) struct Pinned {
    inner: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl Pinned {
    pub(super) fn new(
        inner: Arc<WebPkiServerVerifier>,
        trusted: Vec<CertificateDer<'static>>,
    ) -> Pinned {
        Pinned { inner, trusted }
    }
}

/// Whether the one thing that is wrong with a certificate is that it calls itself a CA; its time
/// was looked at before that (a test holds it).
fn is_ca_as_server(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    other.0.downcast_ref::<webpki::Error>() == Some(&webpki::Error::CaUsedAsEndEntity)
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            Err(error) if is_ca_as_server(&error) && self.trusted.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// What is wrong with the other side's certificate and what would be right, where that is known.
pub(super) fn in_words(error: &std::io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let Error::InvalidCertificate(why) = error else { return None };
    let webpki = match why {
        CertificateError::Other(other) => other.0.downcast_ref::<webpki::Error>(),
        _ => None,
    };
    let words = match (why, webpki) {
        (CertificateError::Expired | CertificateError::ExpiredContext { .. }, _) => {
            "its certificate has expired; renew it, or set this host's clock".to_owned()
        }
        (CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }, _) => {
            "its certificate is not valid yet; set this host's clock".to_owned()
        }
        (CertificateError::UnknownIssuer, _) => "its certificate is not signed by a CA that is \
            trusted here; name the CA's certificate as the CA file"
            .to_owned(),
        (CertificateError::NotValidForNameContext { presented, .. }, _) if presented.is_empty() => {
            "its certificate names no host: a subjectAltName is needed, a common name does not \
             count; make it with `-addext subjectAltName=DNS:NAME` or `IP:ADDRESS`"
                .to_owned()
        }
        (CertificateError::NotValidForNameContext { expected, presented }, _) => format!(
            "its certificate is for {}, and not for {}",
            presented.join(", "),
            expected.to_str()
        ),
        (_, Some(webpki::Error::CaUsedAsEndEntity)) => {
            "its certificate is a CA's, and not one that is trusted here; name this very \
             certificate as the CA file, or give the server one with `CA:FALSE`"
                .to_owned()
        }
        (_, Some(webpki::Error::UnsupportedCertVersion)) => {
            "its certificate is of X.509 version 1; make one of version 3, with a subjectAltName"
                .to_owned()
        }
        _ => return None,
    };
    Some(words)
}
