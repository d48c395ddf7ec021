//! Talks to the identity provider: its document, its keys, its token endpoint.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use form_urlencoded::Serializer;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use keepgate_identify::access::KeyAccess;
use keepgate_identify::ask::{self, Answer, AskError, Question};
use keepgate_identify::discovery::{self, Document, DocumentError};
use keepgate_identify::id_token::{self, Expected};
use keepgate_identify::jwks::{self, KeySet, KeySetError};
use keepgate_identify::jwt::JwtError;
use rustls::ClientConfig;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::{Mutex, Semaphore};

use super::rules::{RoleRule, find};
use super::{Attempt, OidcConfig, OidcError};
use crate::store::Person;

/// What people are called in the audit log begins with this; no token's id has it.
const MARK: &str = "oidc:";

/// The claim of an address that people may have typed themselves.
const EMAIL: &str = "email";

/// The longest name of a person, in bytes.
const MAX_NAME: usize = 255;

/// The provider's document and keys are read anew after this.
const FRESH: Duration = Duration::from_secs(3_600);

/// Keys are not read again for an unknown one before this.
const KEYS_AGAIN: Duration = Duration::from_secs(10);

/// Nobody waits again for a provider that was away a moment ago.
const AWAY_FOR: Duration = Duration::from_secs(5);

/// For one question.
const WITHIN: Duration = Duration::from_secs(10);

/// Sign-ins that ask the provider at the same time.
const AT_ONCE: usize = 16;

/// The largest answer of the token endpoint, in bytes.
const ANSWER: usize = 64 * 1024;

/// The longest code, in bytes.
const MAX_CODE: usize = 4_096;

/// Why nobody signed in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotSignedIn {
    /// The provider gave no answer that can be used: who it is cannot be told.
    #[error(transparent)]
    Away(#[from] Away),
    /// Too many ask at the same time.
    #[error("too many people sign in at the same time")]
    Busy,
    /// The provider does not take the code, or the client.
    #[error("the identity provider refuses the sign-in: {0}")]
    Refused(String),
    /// The ID token is not good.
    #[error("the ID token is not accepted")]
    Token(#[from] JwtError),
    /// The claim that names people is not in it, or cannot be used.
    #[error("the ID token has no usable claim `{0}`")]
    Name(String),
    /// The email address that would name the person is not verified.
    #[error("the identity provider has not verified the email address")]
    Unverified,
    /// No rule gives a role.
    #[error("`{0}` has no role here")]
    NoRole(String),
}

/// Why a provider cannot be used now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Away {
    /// It does not answer.
    #[error("`{url}` gives no answer")]
    Ask {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: AskError,
    },
    /// It answers something else.
    #[error("`{url}` answers {status}")]
    Status {
        /// What was asked.
        url: String,
        /// What it answers.
        status: StatusCode,
    },
    /// Its document cannot be used.
    #[error("the identity provider's document cannot be used")]
    Document(#[from] DocumentError),
    /// Its keys cannot be used.
    #[error("the identity provider's keys cannot be used")]
    Keys(#[from] KeySetError),
    /// People cannot sign in there by a code.
    #[error("the identity provider's document has no usable `{0}`")]
    Endpoint(&'static str),
    /// The answer of the token endpoint is none.
    #[error("the token endpoint's answer has no ID token")]
    NoToken,
    /// It was away a moment ago.
    #[error("the identity provider gave no answer a moment ago")]
    Recently,
}

/// Who signed in.
pub(crate) struct SignedIn {
    /// As the audit log names them.
    pub(crate) holder: String,
    /// What the session keeps.
    pub(crate) person: Person,
    /// How long the session lasts at most, in seconds.
    pub(crate) lasts_s: u64,
}

/// The provider of the settings.
pub(crate) struct Provider {
    config: OidcConfig,
    expected: Expected,
    access: KeyAccess,
    tls: Arc<ClientConfig>,
    document: Cached<Document>,
    keys: Cached<KeySet>,
    seats: Semaphore,
}

/// What was read of the provider. One reads it anew; others have what was read before, or wait for that one.
struct Cached<T> {
    held: std::sync::Mutex<Held<T>>,
    reading: Mutex<()>,
}

struct Held<T> {
    value: Option<(Arc<T>, Instant)>,
    away: Option<Instant>,
}

impl<T> Default for Cached<T> {
    fn default() -> Cached<T> {
        let held = Held { value: None, away: None };
        Cached { held: std::sync::Mutex::new(held), reading: Mutex::default() }
    }
}

impl<T> Cached<T> {
    fn held(&self) -> std::sync::MutexGuard<'_, Held<T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is at hand: as young as asked, or where the provider was away a moment ago, of any age if that
    /// will do. None: it is to be read.
    fn at_hand(&self, fresh: Duration, any_age: bool) -> Option<Result<Arc<T>, Away>> {
        let held = self.held();
        let old = held.value.as_ref();
        if let Some((value, _)) = old.filter(|(_, read)| read.elapsed() < fresh) {
            return Some(Ok(Arc::clone(value)));
        }
        held.away.filter(|at| at.elapsed() < AWAY_FOR)?;
        Some(old.filter(|_| any_age).map(|(value, _)| Arc::clone(value)).ok_or(Away::Recently))
    }

    /// What was read this short a time ago at most; where the provider is away and `any_age`, what was read
    /// last.
    async fn get(
        &self,
        fresh: Duration,
        any_age: bool,
        read: impl Future<Output = Result<T, Away>>,
    ) -> Result<Arc<T>, Away> {
        if let Some(found) = self.at_hand(fresh, any_age) {
            return found;
        }
        let old = || self.held().value.as_ref().map(|(value, _)| Arc::clone(value));
        let _reading = match (self.reading.try_lock(), old()) {
            (Ok(reading), _) => reading,
            // Another one reads it: nobody waits for that who has something.
            (Err(_), Some(old)) if any_age => return Ok(old),
            (Err(_), _) => self.reading.lock().await,
        };
        if let Some(found) = self.at_hand(fresh, any_age) {
            return found;
        }
        match read.await {
            Ok(value) => {
                let value = Arc::new(value);
                *self.held() =
                    Held { value: Some((Arc::clone(&value), Instant::now())), away: None };
                Ok(value)
            }
            Err(why) => {
                self.held().away = Some(Instant::now());
                // Where there is nothing old, who asked says why nobody can sign in.
                let Some(old) = old().filter(|_| any_age) else { return Err(why) };
                tracing::warn!(
                    error = keepgate_observe::chain(&why),
                    "the identity provider of the console gives no answer that can be used; what was \
                     read before goes on"
                );
                Ok(old)
            }
        }
    }
}

impl Provider {
    pub(crate) fn new(config: OidcConfig, access: KeyAccess) -> Result<Provider, OidcError> {
        access.url(&config.issuer)?;
        if config.issuer.contains(['?', '#']) {
            return Err(OidcError::Issuer(config.issuer));
        }
        let scopes = config.scopes.iter().map(|scope| ("scope", scope));
        let secret = config.client_secret.iter().map(|secret| ("client secret", secret));
        let texts = [
            ("issuer", &config.issuer),
            ("client id", &config.client_id),
            ("user claim", &config.user_claim),
        ];
        for (what, text) in texts.into_iter().chain(scopes).chain(secret) {
            // RFC 6749, appendix A: in a client's id and secret there may be spaces.
            let is_plain = !text.chars().any(|c| c.is_control() || (c == ' ' && what == "scope"));
            if text.is_empty() || text.len() > OidcConfig::MAX_TEXT || !is_plain {
                return Err(OidcError::Text { what });
            }
        }
        if config.roles.is_empty() || config.roles.len() > OidcConfig::MAX_RULES {
            return Err(OidcError::Rules { found: config.roles.len() });
        }
        if !(Duration::from_secs(60)..=OidcConfig::LONGEST).contains(&config.session) {
            return Err(OidcError::Session);
        }
        Ok(Provider {
            expected: Expected::new(&config.issuer, &config.client_id),
            tls: ask::tls(None).map_err(OidcError::Tls)?,
            config,
            access,
            document: Cached::default(),
            keys: Cached::default(),
            seats: Semaphore::new(AT_ONCE),
        })
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// For people: the provider's host.
    pub(crate) fn name(&self) -> &str {
        let (_, rest) = self.config.issuer.split_once("://").unwrap_or_default();
        rest.split('/').next().unwrap_or_default()
    }

    /// The rule by which a person's session goes on; none: the settings have changed.
    pub(crate) fn rule_of(&self, person: &Person) -> Option<&RoleRule> {
        if person.issuer != self.config.issuer {
            return None;
        }
        self.config.roles.iter().find(|rule| rule.to_string() == person.rule)
    }

    /// Where the browser goes to sign in.
    pub(crate) async fn begin(
        &self,
        attempt: &Attempt,
        redirect_uri: &str,
    ) -> Result<String, NotSignedIn> {
        let document = self.document().await?;
        let endpoint = document.authorization_endpoint.as_deref().unwrap_or_default();
        self.is_for_browsers(endpoint)?;
        let mut scope = "openid".to_owned();
        for more in self.config.scopes.iter().filter(|scope| *scope != "openid") {
            scope.push(' ');
            scope.push_str(more);
        }
        let query = Serializer::new(String::new())
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.config.client_id)
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("scope", &scope)
            .append_pair("state", &attempt.state())
            .append_pair("nonce", &attempt.nonce())
            .append_pair("code_challenge", &attempt.challenge())
            .append_pair("code_challenge_method", "S256")
            .finish();
        let joint = if endpoint.contains('?') { '&' } else { '?' };
        Ok(format!("{endpoint}{joint}{query}"))
    }

    /// By TLS, unless the issuer itself is not, and nothing that would break out of a header.
    fn is_for_browsers(&self, url: &str) -> Result<(), Away> {
        let plain = self.config.issuer.starts_with("http://");
        let is_web = url.starts_with("https://") || (plain && url.starts_with("http://"));
        let is_good = is_web
            && url.len() <= OidcConfig::MAX_TEXT
            && url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if is_good { Ok(()) } else { Err(Away::Endpoint("authorization_endpoint")) }
    }

    /// Whether an answer to the browser comes from this provider (RFC 9207): what another one says is
    /// not taken to this one's token endpoint.
    pub(crate) async fn is_from(&self, issuer: Option<&str>) -> Result<bool, NotSignedIn> {
        match issuer {
            Some(issuer) => Ok(issuer == self.config.issuer),
            None => Ok(!self.document().await?.says_issuer),
        }
    }

    /// Who has signed in with this code.
    pub(crate) async fn finish(
        &self,
        attempt: &Attempt,
        code: &str,
        redirect_uri: &str,
        now_unix_s: u64,
    ) -> Result<SignedIn, NotSignedIn> {
        if code.is_empty() || code.len() > MAX_CODE {
            return Err(NotSignedIn::Refused("invalid_code".to_owned()));
        }
        let _seat = self.seats.try_acquire().map_err(|_| NotSignedIn::Busy)?;
        let token = self.exchange(attempt, code, redirect_uri).await?;
        let nonce = attempt.nonce();
        let keys = self.keys(false).await?;
        let claims = match self.expected.verify(&token, &nonce, &keys, now_unix_s) {
            Err(JwtError::UnknownKey) => {
                let newer = self.keys(true).await?;
                self.expected.verify(&token, &nonce, &newer, now_unix_s)?
            }
            verified => verified?,
        };
        self.who(&claims)
    }

    fn who(&self, claims: &Map<String, Value>) -> Result<SignedIn, NotSignedIn> {
        let claim = self.config.user_claim.as_str();
        let name = find(claims, claim).and_then(Value::as_str).unwrap_or_default();
        // Nothing that a page shows as another name: marks of direction, spaces of no width.
        let is_plain = |c: char| c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ';
        let is_padded = name.trim() != name || name.contains("  ");
        if name.is_empty() || name.len() > MAX_NAME || is_padded || !name.chars().all(is_plain) {
            return Err(NotSignedIn::Name(claim.to_owned()));
        }
        // Else anybody could take the address of another. A role needs the provider's word that it is
        // verified; for a name it is enough that it does not say the contrary.
        let verified = claims.get("email_verified");
        let is_verified = verified.is_some_and(|is| *is == Value::Bool(true) || *is == "true");
        if claim == EMAIL && verified.is_some() && !is_verified {
            return Err(NotSignedIn::Unverified);
        }
        let is_known = |rule: &&RoleRule| rule.claim != EMAIL || is_verified;
        let fitting = || self.config.roles.iter().filter(|rule| rule.fits(claims));
        let rule = match (fitting().find(is_known), fitting().next()) {
            (Some(rule), _) => rule,
            (None, Some(_)) => return Err(NotSignedIn::Unverified),
            (None, None) => return Err(NotSignedIn::NoRole(name.to_owned())),
        };
        let person = Person { issuer: self.config.issuer.clone(), rule: rule.to_string() };
        let lasts_s = self.config.session.as_secs();
        Ok(SignedIn { holder: format!("{MARK}{name}"), person, lasts_s })
    }

    /// The ID token for a code (OpenID Connect Core 1.0, section 3.1.3).
    async fn exchange(
        &self,
        attempt: &Attempt,
        code: &str,
        redirect_uri: &str,
    ) -> Result<String, NotSignedIn> {
        #[derive(Deserialize)]
        struct Tokens {
            id_token: Option<String>,
        }
        #[derive(Deserialize)]
        struct Refused {
            error: String,
        }

        let document = self.document().await?;
        let url = document.token_endpoint.as_deref().ok_or(Away::Endpoint("token_endpoint"))?;
        let mut headers = vec![
            value(header::CONTENT_TYPE, "application/x-www-form-urlencoded"),
            value(header::ACCEPT, "application/json"),
        ];
        let secret = self.config.client_secret.as_deref();
        let form = {
            let mut form = Serializer::new(String::new());
            form.append_pair("grant_type", "authorization_code")
                .append_pair("code", code)
                .append_pair("redirect_uri", redirect_uri)
                .append_pair("code_verifier", &attempt.verifier());
            match secret {
                Some(secret) if takes_basic(&document) => {
                    headers.extend(basic(&self.config.client_id, secret));
                }
                secret => {
                    form.append_pair("client_id", &self.config.client_id);
                    form.extend_pairs(secret.map(|secret| ("client_secret", secret)));
                }
            }
            form.finish()
        };
        let answer = self.ask(Method::POST, url, &headers, form, ANSWER).await?;
        if answer.status.is_success() {
            let read = serde_json::from_slice::<Tokens>(&answer.body).ok();
            let token =
                read.and_then(|read| read.id_token).filter(|t| t.len() <= id_token::MAX_BYTES);
            return Ok(token.ok_or(Away::NoToken)?);
        }
        // RFC 6749, section 5.2; anything else is no answer.
        match serde_json::from_slice::<Refused>(&answer.body) {
            Ok(Refused { error }) if matches!(answer.status.as_u16(), 400 | 401) => {
                Err(NotSignedIn::Refused(plain(&error)))
            }
            _ => Err(Away::Status { url: url.to_owned(), status: answer.status }.into()),
        }
    }

    async fn document(&self) -> Result<Arc<Document>, Away> {
        self.document.get(FRESH, true, self.read_document()).await
    }

    async fn read_document(&self) -> Result<Document, Away> {
        let url = discovery::url(&self.config.issuer);
        let body = self.fetch(&url, discovery::MAX_BYTES).await?;
        Ok(discovery::read(&self.config.issuer, &body)?)
    }

    /// The provider's keys; `newer`: a token names one that is not among them, so that older ones will not
    /// do.
    async fn keys(&self, newer: bool) -> Result<Arc<KeySet>, Away> {
        let fresh = if newer { KEYS_AGAIN } else { FRESH };
        self.keys.get(fresh, !newer, self.read_keys()).await
    }

    async fn read_keys(&self) -> Result<KeySet, Away> {
        let document = self.document().await?;
        Ok(KeySet::from_jwks(&self.fetch(&document.jwks_uri, jwks::MAX_BYTES).await?)?)
    }

    async fn fetch(&self, url: &str, max: usize) -> Result<Bytes, Away> {
        let headers = [value(header::ACCEPT, "application/json")];
        let answer = self.ask(Method::GET, url, &headers, String::new(), max).await?;
        if answer.status != StatusCode::OK {
            return Err(Away::Status { url: url.to_owned(), status: answer.status });
        }
        Ok(answer.body)
    }

    async fn ask(
        &self,
        method: Method,
        url: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: String,
        max_answer: usize,
    ) -> Result<Answer, Away> {
        let question =
            Question { method, url, headers, body: body.into(), max_answer, timeout: WITHIN };
        ask::ask(question, &self.access, &self.tls)
            .await
            .map_err(|source| Away::Ask { url: url.to_owned(), source })
    }
}

fn value(name: HeaderName, text: &'static str) -> (HeaderName, HeaderValue) {
    (name, HeaderValue::from_static(text))
}

/// Whether the token endpoint takes HTTP Basic, which it does where it says nothing.
fn takes_basic(document: &Document) -> bool {
    let methods = document.token_auth.as_deref();
    methods.is_none_or(|all| all.iter().any(|method| method == "client_secret_basic"))
        || methods.is_some_and(|all| !all.iter().any(|method| method == "client_secret_post"))
}

/// RFC 6749, section 2.3.1: both are encoded as forms are.
fn basic(client: &str, secret: &str) -> Option<(HeaderName, HeaderValue)> {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let both = STANDARD.encode(format!("{}:{}", encoded(client), encoded(secret)));
    let mut value = HeaderValue::from_str(&format!("Basic {both}")).ok()?;
    value.set_sensitive(true);
    Some((header::AUTHORIZATION, value))
}

/// An error's name for people: what may be in one (RFC 6749, section 5.2), and not much of it.
pub(crate) fn plain(error: &str) -> String {
    error.chars().filter(|c| c.is_ascii_alphanumeric() || "_-.".contains(*c)).take(64).collect()
}
