//! Certificates by ACME (RFC 8555). A certificate authority wants a proof that a name is the gate's; it
//! is given in a TLS handshake on the gate's own listener (TLS-ALPN-01, RFC 8737), so no other port and
//! no other program is needed.
//!
//! A directory keeps the account and, for each name, the certificate with its key in one file. A name
//! without a certificate gets one at the start; each is renewed when two thirds of its life have passed.
//! What fails is tried again later, at growing intervals: authorities limit how often one may fail.

mod directory;
mod http;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, OrderStatus,
    RetryPolicy,
};
use keepgate_client::dial::{Dialer, Roots};
use keepgate_observe::{Counter, Page, Sort, chain};
use keepgate_serve::Issued;
use rustls::sign::CertifiedKey;

use self::directory::Directory;
pub use self::directory::DirectoryError;
use self::http::Http;
use crate::config::acme::AcmeConfig;

/// After the first failure for a name.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// Whatever is said of a certificate's life.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// How long one certificate may take.
const LONGEST_ORDER: Duration = Duration::from_secs(300);
/// Orders begun anew because of nonces.
const NONCE_ATTEMPTS: usize = 5;
const BAD_NONCE: &str = "urn:ietf:params:acme:error:badNonce";
/// Between two looks at the clock, which may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Why a certificate could not be obtained.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error(transparent)]
    Acme(#[from] instant_acme::Error),
    #[error("the authority offers no proof by TLS (TLS-ALPN-01)")]
    NoChallenge,
    #[error("the authority did not accept the proof: the order is {0:?}")]
    NotReady(OrderStatus),
    #[error("the authorization is {0:?}")]
    NotPending(AuthorizationStatus),
    #[error("the proof cannot be made")]
    Proof(#[from] rcgen::Error),
    #[error("the proof cannot be used")]
    ProofKey(#[source] rustls::Error),
    #[error("the authority's root certificates cannot be used")]
    Roots(#[source] keepgate_client::dial::TlsError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("it took more than {LONGEST_ORDER:?}")]
    TooLong,
}

/// See the module.
pub(crate) struct Acme {
    config: AcmeConfig,
    directory: Directory,
    issued: Issued,
    dialer: Dialer,
    names: Vec<Name>,
    failures: Counter,
}

/// A name and its certificate.
struct Name {
    host: String,
    /// When its certificate ends, in seconds of Unix time; 0: there is none.
    ends: AtomicU64,
    /// How long that certificate is valid, in milliseconds; 0: there is none.
    life: AtomicU64,
    /// When one is to be obtained, in milliseconds of Unix time.
    due: AtomicU64,
    /// Failures in a row.
    failed: AtomicU64,
}

impl Acme {
    /// Takes what the directory has.
    pub(crate) fn open(config: &AcmeConfig, dialer: Dialer) -> Result<Acme, DirectoryError> {
        let directory = Directory::open(&config.dir)?;
        let issued = Issued::default();
        let mut names = Vec::with_capacity(config.hosts.len());
        for host in &config.hosts {
            let name = Name {
                host: host.clone(),
                ends: AtomicU64::new(0),
                life: AtomicU64::new(0),
                due: AtomicU64::new(0),
                failed: AtomicU64::new(0),
            };
            match directory.certificate(host) {
                None => {}
                Some(Ok(certified)) => name.has(&issued, certified),
                Some(Err(error)) => {
                    let error = chain(&error);
                    tracing::warn!(
                        host,
                        error,
                        "the certificate cannot be used; another is obtained"
                    );
                }
            }
            names.push(name);
        }
        let (config, failures) = (config.clone(), Counter::default());
        Ok(Acme { config, directory, issued, dialer, names, failures })
    }

    /// The certificates, as they are now and will be.
    pub(crate) fn issued(&self) -> Issued {
        self.issued.clone()
    }

    /// Obtains and renews certificates. Runs until it is dropped.
    pub(crate) async fn run(&self) {
        loop {
            for name in &self.names {
                if name.due.load(Ordering::Relaxed) <= now_ms() {
                    self.attempt(name).await;
                }
            }
            let next = self.names.iter().map(|name| name.due.load(Ordering::Relaxed)).min();
            let until = next.unwrap_or(u64::MAX).saturating_sub(now_ms());
            tokio::time::sleep(Duration::from_millis(until).min(LONGEST_SLEEP)).await;
        }
    }

    async fn attempt(&self, name: &Name) {
        let host = &name.host;
        let order = tokio::time::timeout(LONGEST_ORDER, self.obtain_anew(host)).await;
        self.issued.prove(host, None);
        match order.unwrap_or(Err(OrderError::TooLong)) {
            Ok(certified) => {
                name.has(&self.issued, certified);
                let ends = name.ends.load(Ordering::Relaxed);
                tracing::info!(host, ends_unix_s = ends, "a certificate was obtained");
            }
            Err(error) => {
                self.failures.add(1);
                let pause = name.pause();
                name.due.store(now_ms().saturating_add(ms(pause)), Ordering::Relaxed);
                let error = chain(&error);
                let has_one = name.ends.load(Ordering::Relaxed) != 0;
                tracing::warn!(
                    host, error, has_one, again_in = ?pause,
                    "no certificate could be obtained; the one that there is stays"
                );
            }
        }
    }

    /// An authority may forget its nonces at any time; then a request is made anew (RFC 8555 section 6.5).
    /// The library does so twice, and that is no failure of the name yet.
    async fn obtain_anew(&self, host: &str) -> Result<CertifiedKey, OrderError> {
        for _ in 1..NONCE_ATTEMPTS {
            match self.obtain(host).await {
                Err(OrderError::Acme(instant_acme::Error::Api(problem)))
                    if problem.r#type.as_deref() == Some(BAD_NONCE) => {}
                done => return done,
            }
        }
        self.obtain(host).await
    }

    async fn obtain(&self, host: &str) -> Result<CertifiedKey, OrderError> {
        let account = self.account().await?;
        let names = [Identifier::Dns(host.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&names)).await?;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                other => return Err(OrderError::NotPending(other)),
            }
            let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
            let mut challenge = challenge.ok_or(OrderError::NoChallenge)?;
            let digest = challenge.key_authorization().digest();
            self.issued.prove(host, Some(proof(host, digest.as_ref())?));
            challenge.set_ready().await?;
        }
        let patience = RetryPolicy::new().timeout(LONGEST_ORDER / 3);
        match order.poll_ready(&patience).await? {
            OrderStatus::Ready => {}
            other => return Err(OrderError::NotReady(other)),
        }
        let key = order.finalize().await?;
        let certificates = order.poll_certificate(&patience).await?;
        Ok(self.directory.keep(host, &certificates, &key)?)
    }

    async fn account(&self) -> Result<Account, OrderError> {
        let roots = self.config.ca.clone().map_or(Roots::System, Roots::File);
        let http = Http::new(self.dialer.clone(), &roots).map_err(OrderError::Roots)?;
        let builder = Account::builder_with_http(Box::new(http));
        let url = &self.config.directory;
        if let Some(held) = self.directory.account(url)? {
            return Ok(builder.from_credentials(held).await?);
        }
        let contact: Vec<&str> = self.config.contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) = builder.create(&new, url.clone(), None).await?;
        self.directory.keep_account(url, &credentials)?;
        Ok(account)
    }

    /// Its lines of the metrics page.
    pub(crate) fn metrics(&self, page: &mut Page) {
        let help =
            "When the certificate of a name ends, in seconds of Unix time; 0: there is none.";
        let mut series = page.metric(Sort::Gauge, "acme_certificate_ends_seconds", help);
        for name in &self.names {
            series.line(&[("host", &name.host)], name.ends.load(Ordering::Relaxed));
        }
        let help = "Certificates that could not be obtained.";
        page.metric(Sort::Counter, "acme_failures_total", help).line(&[], self.failures.value());
    }
}

impl Name {
    /// How long to wait after one more failure. Of a certificate that lives shortly, no more than a tenth
    /// of its life: three attempts fit into what is left of it.
    fn pause(&self) -> Duration {
        let failed = self.failed.fetch_add(1, Ordering::Relaxed).min(16);
        let pause = FIRST_PAUSE.saturating_mul(1 << failed).min(LONGEST_PAUSE);
        match self.life.load(Ordering::Relaxed) {
            0 => pause,
            life => pause.min(Duration::from_millis(life / 10).max(SHORTEST_PAUSE)),
        }
    }

    /// It has this certificate, which is renewed in time.
    fn has(&self, issued: &Issued, certified: CertifiedKey) {
        if let Some((begins, ends)) = certified.cert.first().and_then(|leaf| validity(leaf)) {
            self.ends.store(ends, Ordering::Relaxed);
            let life = ends.saturating_sub(begins).saturating_mul(1000);
            self.life.store(life, Ordering::Relaxed);
            let due = begins.saturating_mul(1000).saturating_add(life / 3 * 2);
            self.due.store(due, Ordering::Relaxed);
        }
        self.failed.store(0, Ordering::Relaxed);
        issued.put(&self.host, certified);
    }
}

/// The certificate that proves that a name is ours (RFC 8737 section 3).
fn proof(host: &str, digest: &[u8]) -> Result<CertifiedKey, OrderError> {
    let mut params = rcgen::CertificateParams::new(vec![host.to_owned()])?;
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
    let key = rcgen::KeyPair::generate()?;
    let made = params.self_signed(&key)?;
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    // The key is the certificate's. The library's own check of that does not read a certificate with an
    // extension that is critical and unknown to it, as this one's must be.
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(OrderError::ProofKey)?;
    Ok(CertifiedKey::new(vec![made.der().clone()], key))
}

/// When a certificate begins and ends to be valid, in seconds of Unix time. The library says so when it
/// is asked whether it is valid at a time at which it is not.
fn validity(leaf: &rustls::pki_types::CertificateDer<'_>) -> Option<(u64, u64)> {
    let leaf = webpki::EndEntityCert::try_from(leaf).ok()?;
    let at = |seconds: u64| {
        let time = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let usage = webpki::KeyUsage::server_auth();
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[], &[], time, usage, None, None)
            .err()
    };
    let begins = match at(0)? {
        webpki::Error::CertNotValidYet { not_before, .. } => not_before.as_secs(),
        _ => 0,
    };
    // The year 9999, as the last that a certificate can name.
    match at(253_402_300_800)? {
        webpki::Error::CertExpired { not_after, .. } => Some((begins, not_after.as_secs())),
        _ => None,
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, ms)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let (begins, ends) = validity(made.der()).unwrap();
        assert_eq!((begins, ends - begins), (1_893_456_000, 30 * 86_400));
        let der = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let provider = rustls::crypto::ring::default_provider();
        let certified = CertifiedKey::from_der(vec![made.der().clone()], der, &provider).unwrap();
        let name = Name {
            host: "a.example".to_owned(),
            ends: AtomicU64::new(0),
            life: AtomicU64::new(0),
            due: AtomicU64::new(0),
            failed: AtomicU64::new(3),
        };
        name.has(&Issued::default(), certified);
        assert_eq!(name.due.load(Ordering::Relaxed), (begins + 20 * 86_400) * 1000);
        assert_eq!(name.failed.load(Ordering::Relaxed), 0);
        // Of thirty days a tenth is far off; of twenty seconds it is not.
        let pauses = || [(); 8].map(|()| name.pause().as_secs());
        assert_eq!(pauses(), [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        name.life.store(20_000, Ordering::Relaxed);
        assert_eq!(pauses(), [2; 8]);
    }
}
