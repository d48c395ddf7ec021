//! A server's certificates and keys, read from PEM files, and which one a caller is shown; and the
//! authorities whose certificates callers may show.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

/// Where certificate and key are, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// A file of authorities has none that can be used.
    #[error("there is no certificate of an authority in `{path}` that can be used")]
    Authority {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The TLS library supports none of the versions.
    #[error("TLS cannot be set up")]
    Versions(#[source] rustls::Error),
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
        Ok(Certificates { default: Some(self.clone()), ..Certificates::default() }.load()?.config)
    }

    /// As [`TlsFiles::load`], for a listener that asks callers for a certificate of an authority in
    /// this file, and takes those that show none all the same.
    ///
    /// # Errors
    /// Names the file that is at fault; see [`TlsError`].
    pub fn load_asking(&self, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, TlsError> {
        let client_cas = client_ca.map(Path::to_owned).into_iter().collect();
        let all =
            Certificates { default: Some(self.clone()), client_cas, ..Certificates::default() };
        Ok(all.load()?.config)
    }

    /// The certificate with its key.
    ///
    /// # Errors
    /// Names the file that is at fault; see [`TlsError`].
    pub fn certified_key(&self) -> Result<CertifiedKey, TlsError> {
        self.certified(&rustls::crypto::ring::default_provider())
    }

    fn certified(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
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
        CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsError::Unusable {
            cert: shown(&self.cert),
            key: shown(&self.key),
            source,
        })
    }
}

/// The certificates of a listener, by the name that a caller asks for in TLS (SNI, RFC 6066).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// For names that are not among the others, and for callers that name none. Without it, such a
    /// handshake is refused.
    pub default: Option<TlsFiles>,
    /// By name, in lower case; `*.` before a name means all names below it. A name counts before a
    /// wildcard, and a longer wildcard before a shorter one.
    pub named: Vec<(String, TlsFiles)>,
    /// Those that are obtained while the listener runs. They count after names and before wildcards.
    pub issued: Option<Issued>,
    /// PEM files with authorities. Where there are any, callers are asked for a certificate of one of
    /// them; one that is shown must hold, and who shows none is taken all the same.
    pub client_cas: Vec<PathBuf>,
}

/// What a listener needs, read from files.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration of the listener.
    pub config: Arc<ServerConfig>,
    /// Those who may issue callers' certificates.
    pub client_cas: Arc<ClientCas>,
}

/// The authorities of callers' certificates, by file. A handshake takes a certificate of any of them;
/// whether one of a certain file has issued it is asked here.
#[derive(Debug, Default)]
pub struct ClientCas(Vec<(PathBuf, Arc<dyn ClientCertVerifier>)>);

impl ClientCas {
    /// Whether a handshake that one of these has accepted was accepted by this one.
    pub fn is_only(&self, ca: &Path) -> bool {
        matches!(self.0.as_slice(), [(only, _)] if only == ca)
    }

    /// Whether an authority in this file has issued the first certificate of a chain, and it holds at
    /// this time, in seconds since the Unix epoch.
    pub fn accepts(&self, ca: &Path, chain: &[CertificateDer<'_>], now_unix_s: u64) -> bool {
        let Some((_, verifier)) = self.0.iter().find(|(path, _)| path == ca) else { return false };
        let Some((own, others)) = chain.split_first() else { return false };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now_unix_s));
        verifier.verify_client_cert(own, others, now).is_ok()
    }
}

/// The authorities in a file.
fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let shown = || path.display().to_string();
    let pem = |source| TlsError::Pem { what: "certificate", path: shown(), source };
    let all = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem)?;
    if all.is_empty() {
        return Err(TlsError::Empty(shown()));
    }
    let mut roots = RootCertStore::empty();
    for certificate in all {
        let added = roots.add(certificate);
        added.map_err(|source| TlsError::Authority { path: shown(), source })?;
    }
    Ok(roots)
}

/// What asks for a certificate of one of these authorities, and insists on none.
fn verifier(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Versions(rustls::Error::General(error.to_string())))
}

/// The protocol of a handshake that proves that a name is ours (TLS-ALPN-01, RFC 8737).
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// Certificates that are obtained while a listener runs. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Issued(Arc<RwLock<Held>>);

#[derive(Debug, Default)]
struct Held {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// What is shown to those who want a proof.
    proofs: HashMap<String, Arc<CertifiedKey>>,
}

impl PartialEq for Issued {
    fn eq(&self, other: &Issued) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Issued {}

impl Issued {
    /// Shows this certificate for a name, in lower case, from now on.
    pub fn put(&self, name: &str, certified: CertifiedKey) {
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        held.by_name.insert(name.to_owned(), Arc::new(certified));
    }

    /// Shows this proof for a name, or none any more.
    pub fn prove(&self, name: &str, proof: Option<CertifiedKey>) {
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match proof {
            Some(proof) => held.proofs.insert(name.to_owned(), Arc::new(proof)),
            None => held.proofs.remove(name),
        };
    }

    fn of(&self, name: &str, is_proof: bool) -> Option<Arc<CertifiedKey>> {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let all = if is_proof { &held.proofs } else { &held.by_name };
        all.get(name).cloned()
    }
}

impl Certificates {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.default.is_none() && self.named.is_empty() && self.issued.is_none()
    }

    /// The configuration of a listener that speaks HTTP/2 and HTTP/1.1 (by ALPN), TLS 1.2 and 1.3,
    /// and asks callers for a certificate only where there are authorities of such. Reads each file
    /// once. Sessions of an earlier configuration are not resumed: what it took is judged anew.
    ///
    /// # Errors
    /// Names the file that is at fault; see [`TlsError`].
    pub fn load(&self) -> Result<Loaded, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut by_name = ByName::default();
        let mut read: Vec<(&TlsFiles, Arc<CertifiedKey>)> = Vec::new();
        let mut certified = |files| match read.iter().find(|(known, _)| *known == files) {
            Some((_, certified)) => Ok(Arc::clone(certified)),
            None => {
                let certified = Arc::new(TlsFiles::certified(files, &provider)?);
                read.push((files, Arc::clone(&certified)));
                Ok::<_, TlsError>(certified)
            }
        };
        by_name.issued.clone_from(&self.issued);
        by_name.default = self.default.as_ref().map(&mut certified).transpose()?;
        for (name, files) in &self.named {
            let certified = certified(files)?;
            match name.strip_prefix("*.") {
                Some(below) => by_name.wildcard.insert(below.to_owned(), certified),
                None => by_name.exact.insert(name.clone(), certified),
            };
        }
        let mut client_cas = ClientCas::default();
        let mut everybody = RootCertStore::empty();
        for path in &self.client_cas {
            let roots = authorities(path)?;
            everybody.extend(roots.roots.iter().cloned());
            client_cas.0.push((path.clone(), verifier(roots, &provider)?));
        }
        let clients = match everybody.is_empty() {
            true => WebPkiClientVerifier::no_client_auth(),
            false => verifier(everybody, &provider)?,
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Versions)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(by_name));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.alpn_protocols.extend(self.issued.as_ref().map(|_| ACME_TLS.to_vec()));
        Ok(Loaded { config: Arc::new(config), client_cas: Arc::new(client_cas) })
    }
}

/// Chooses by name.
#[derive(Debug, Default)]
struct ByName {
    exact: HashMap<String, Arc<CertifiedKey>>,
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
    issued: Option<Issued>,
}

impl ByName {
    fn of(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        if let Some(certified) = self.exact.get(name) {
            return Some(Arc::clone(certified));
        }
        if let Some(certified) = self.issued.as_ref().and_then(|issued| issued.of(name, false)) {
            return Some(certified);
        }
        let mut rest = name;
        while let Some((_, below)) = rest.split_once('.') {
            if let Some(certified) = self.wildcard.get(below) {
                return Some(Arc::clone(certified));
            }
            rest = below;
        }
        None
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        if let Some(issued) = &self.issued
            && hello.alpn().is_some_and(|mut all| all.any(|protocol| protocol == ACME_TLS))
        {
            // Only who asks for a proof offers this; no other certificate is one.
            return issued.of(name.as_deref()?, true);
        }
        let named = name.as_deref().and_then(|name| self.of(name));
        named.or_else(|| self.default.clone())
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

    /// Another way to the same choice: every name is looked at, the best that matches is taken.
    #[test]
    fn a_certificate_is_chosen_by_the_longest_name() {
        let provider = rustls::crypto::ring::default_provider();
        let certified = || {
            let (cert, key) = made();
            Arc::new(Pair::new(&cert, &key).0.certified(&provider).unwrap())
        };
        let names = ["a.example", "*.a.example", "*.example", "*.b.a.example", "example"];
        let mut by_name = ByName::default();
        let mut all = Vec::new();
        for name in names {
            let certified = certified();
            all.push((name, Arc::clone(&certified)));
            match name.strip_prefix("*.") {
                Some(below) => by_name.wildcard.insert(below.to_owned(), certified),
                None => by_name.exact.insert(name.to_owned(), certified),
            };
        }
        let matches = |name: &str, asked: &str| match name.strip_prefix('*') {
            Some(end) => asked.ends_with(end) && asked.len() > end.len(),
            None => asked == name,
        };
        for asked in [
            "a.example",
            "x.a.example",
            "y.x.a.example",
            "b.a.example",
            "c.b.a.example",
            "example",
            "z.example",
            "other",
            "xa.example",
        ] {
            let best = all
                .iter()
                .filter(|(name, _)| matches(name, asked))
                .max_by_key(|(name, _)| (!name.starts_with('*'), name.len()));
            let found = by_name.of(asked);
            let same = match (found, best) {
                (Some(found), Some((_, best))) => Arc::ptr_eq(&found, best),
                (None, None) => true,
                _ => false,
            };
            assert!(same, "{asked}: {:?}", best.map(|(name, _)| name));
        }
    }

    #[test]
    fn a_named_certificate_at_fault_is_named_too() {
        let (cert, key) = made();
        let (good, bad) = (Pair::new(&cert, &key), Pair::new(&cert, &cert));
        let mut certificates = Certificates {
            default: Some(good.0.clone()),
            named: vec![("a.example".to_owned(), good.0.clone())],
            ..Certificates::default()
        };
        certificates.load().unwrap();
        certificates.named.push(("b.example".to_owned(), bad.0.clone()));
        let error = certificates.load().unwrap_err().to_string();
        assert!(error.contains("cannot read the private key in `"), "{error}");
        let at =
            |client_ca: &Path| good.0.load_asking(Some(client_ca)).err().map(|e| e.to_string());
        assert_eq!(at(&good.0.cert), None);
        let said = at(&good.0.key).unwrap();
        assert!(said.contains("there is no certificate in `"), "{said}");
        let said = at(Path::new("/nowhere/ca.pem")).unwrap();
        assert!(said.contains("cannot read the certificate in `/nowhere/ca.pem`"), "{said}");
        assert!(Certificates::default().is_empty() && !certificates.is_empty());
    }
}
