//! The center's admin API as commands use it: which center, which token, and its answers as
//! JSON or as an error a person can act on.
//!
//! Each write has an `Idempotency-Key`. Where its answer is lost, or the center does not know what came
//! of it, it is sent again under the same key: the center makes it once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use keepgate_api::{
    Applied, Changed, ItemList, Key, Keys, Landed, Line, Listed, Located, Member, Members, Problem,
    Progress, ServiceSummary, Services, Session, Sessions, Token, Tokens,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::exit::usage;
use crate::origin::{Lost, Origin};
use crate::secret;

/// Where a center listens unless told otherwise.
pub(crate) const CENTER_DEFAULT: &str = "http://127.0.0.1:7480";
/// Where a center keeps its data unless told otherwise.
pub(crate) const DATA_DEFAULT: &str = "keepgate-data";
/// The file in the data directory that the first start writes the admin token to.
pub(crate) const ADMIN_TOKEN_FILE: &str = "admin.token";
/// Elements asked for at a time, where a list comes in pages.
const PAGE_LIMIT: usize = 500;
/// Pages of one list at most.
const MAX_PAGES: usize = 10_000;
/// How often a write is sent again whose outcome is not known.
const SENT_AGAIN: u32 = 6;
/// The pause before it is sent again for the first time; each pause is twice the one before.
const PAUSE: Duration = Duration::from_millis(250);
/// The problem of a write of which the center does not know what came of it.
const UNKNOWN: &str = "urn:keepgate:problem:outcome-unknown";
/// The header that names a write.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// A write that there is none of: whoever answers for it can tell of others.
const NO_WRITE: &str = "/v1/writes/00000000000000000000000000000000";
/// Largest token file, in bytes.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Which center a command talks to, and as whom.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Center")]
pub(crate) struct CenterArgs {
    /// The center's URL; of several with commas between them, the first that can be connected to is
    /// asked
    #[arg(
        long,
        env = "KEEPGATE_CENTER",
        value_name = "URL",
        value_delimiter = ',',
        default_value = CENTER_DEFAULT,
        display_order = 800
    )]
    center: Vec<String>,
    /// File with the token; KEEPGATE_TOKEN may hold the token itself. For the default center,
    /// ./keepgate-data/admin.token is used if it can be read
    #[arg(long, env = "KEEPGATE_TOKEN_FILE", value_name = "F", display_order = 801)]
    token_file: Option<PathBuf>,
    /// PEM file with the certificates to trust in place of this host's store
    #[arg(long, env = "KEEPGATE_CA_FILE", value_name = "F", display_order = 802)]
    ca_file: Option<PathBuf>,
}

/// Which center, and which service of it.
#[derive(Debug, clap::Args)]
pub(crate) struct ServiceArgs {
    /// The service; needed only if the center has several
    #[arg(long, env = "KEEPGATE_SERVICE", value_name = "NAME")]
    service: Option<String>,
    #[command(flatten)]
    center: CenterArgs,
}

impl ServiceArgs {
    /// The center, ready to be asked, and the service's name.
    pub(crate) async fn connect(&self) -> anyhow::Result<(Admin, String)> {
        let mut admin = self.center.connect()?;
        let name = only_service(&mut admin, self.service.as_deref()).await?;
        Ok((admin, name))
    }
}

/// The service that was named, else the only one there is.
pub(crate) async fn only_service(admin: &mut Admin, named: Option<&str>) -> anyhow::Result<String> {
    if let Some(name) = named {
        return Ok(name.to_owned());
    }
    let services = admin.load_all::<Services>("/v1/services").await?;
    let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
    match names.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => bail!("the center has no service yet; `keepgate apply DIR` makes one"),
        several => Err(usage(format!(
            "the center has several services; name one with --service: {}",
            several.join(", ")
        ))),
    }
}

impl CenterArgs {
    /// The center, ready to be asked.
    pub(crate) fn connect(&self) -> anyhow::Result<Admin> {
        let origin = Origin::first_of(&self.center, self.ca_file.as_deref())
            .map_err(|e| usage(format!("--center: {e:#}")))?;
        Admin::new(origin, self.shown(), &self.token()?)
    }

    fn shown(&self) -> String {
        self.center.join(", ")
    }

    fn token(&self) -> anyhow::Result<String> {
        if let Some(path) = &self.token_file {
            return read_token(path);
        }
        if let Some(token) = std::env::var_os("KEEPGATE_TOKEN") {
            let token = token.into_string().map_err(|_| usage("KEEPGATE_TOKEN is not text"))?;
            return Ok(token.trim().to_owned());
        }
        if self.center == [CENTER_DEFAULT] {
            let path = Path::new(DATA_DEFAULT).join(ADMIN_TOKEN_FILE);
            return match read_token(&path) {
                Ok(token) => Ok(token),
                Err(_) => Err(usage(format!(
                    "no token for the center `{}`: pass --token-file F (or set KEEPGATE_TOKEN_FILE, or KEEPGATE_TOKEN to the token itself). \
                     The first start of `keepgate up` or `keepgate center` wrote one to admin.token in its data directory; `{}` cannot be read here",
                    self.shown(),
                    path.display()
                ))),
            };
        }
        Err(usage(format!(
            "no token for the center `{}`: pass --token-file F (or set KEEPGATE_TOKEN_FILE, or KEEPGATE_TOKEN to the token itself)",
            self.shown()
        )))
    }
}

/// A token from a file: its text without the spaces around it. Links are followed; see
/// [`secret::read`] for who may be able to read or write the file.
pub(crate) fn read_token(path: &Path) -> anyhow::Result<String> {
    let name = || format!("reading the token file `{}`", path.display());
    let text = secret::read(path, MAX_TOKEN_BYTES).with_context(name)?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(anyhow!("the file must hold one token and nothing else").context(name()));
    }
    Ok(token.to_owned())
}

/// A center's admin API.
pub(crate) struct Admin {
    origin: Origin,
    url: String,
    authorization: HeaderValue,
}

/// A list that comes in pages.
pub(crate) trait Pages: DeserializeOwned {
    /// One element.
    type One;

    /// The elements, and where the next page begins.
    fn split(self) -> (Vec<Self::One>, Option<String>);
}

impl Pages for Keys {
    type One = Key;

    fn split(self) -> (Vec<Key>, Option<String>) {
        (self.keys, self.next)
    }
}

impl Pages for Services {
    type One = ServiceSummary;

    fn split(self) -> (Vec<ServiceSummary>, Option<String>) {
        (self.services, self.next)
    }
}

impl Pages for Tokens {
    type One = Token;

    fn split(self) -> (Vec<Token>, Option<String>) {
        (self.tokens, self.next)
    }
}

impl Pages for Sessions {
    type One = Session;

    fn split(self) -> (Vec<Session>, Option<String>) {
        (self.sessions, self.next)
    }
}

impl Pages for Members {
    type One = Member;

    fn split(self) -> (Vec<Member>, Option<String>) {
        (self.members, self.next)
    }
}

impl<B: DeserializeOwned> Pages for ItemList<B> {
    type One = Listed<B>;

    fn split(self) -> (Vec<Listed<B>>, Option<String>) {
        (self.items, self.next)
    }
}

/// A refusal by the center.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) status: u16,
    /// In words.
    text: String,
    /// Whether the center does not know what came of the request.
    is_unknown: bool,
    /// File by file, where files were sent.
    pub(crate) problems: Vec<Located>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

impl Admin {
    /// The center at `origin` (shown as `url`), spoken to with `token`.
    pub(crate) fn new(origin: Origin, url: String, token: &str) -> anyhow::Result<Admin> {
        if !origin.is_private() {
            return Err(usage(format!(
                "the center `{url}` is neither https nor on this host: the token would travel in the clear"
            )));
        }
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| usage("the token has characters that no token has"))?;
        authorization.set_sensitive(true);
        Ok(Admin { origin, url, authorization })
    }

    /// GET; the answer.
    pub(crate) async fn load<T: DeserializeOwned>(&mut self, path: &str) -> anyhow::Result<T> {
        self.ask(Method::GET, path, None::<&()>).await
    }

    /// GET; the answer's bytes, whatever they are.
    pub(crate) async fn load_bytes(&mut self, path: &str) -> anyhow::Result<Bytes> {
        let headers = [(AUTHORIZATION, self.authorization.clone())];
        let answer = self
            .origin
            .send(Method::GET, path, &headers, None)
            .await
            .with_context(|| format!("the center `{}` cannot be asked", self.url))?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        self.judged(&format!("GET {path}"), answer.status, &answer.body).map(|_| Bytes::new())
    }

    /// GET of a list that comes in pages; all of its elements.
    pub(crate) async fn load_all<P: Pages>(&mut self, path: &str) -> anyhow::Result<Vec<P::One>> {
        let mut all = Vec::new();
        let mut after = String::new();
        for _ in 0..MAX_PAGES {
            let path = format!("{path}?limit={PAGE_LIMIT}&after={}", segment(&after));
            let (mut page, next) = self.load::<P>(&path).await?.split();
            all.append(&mut page);
            match next {
                None => return Ok(all),
                Some(next) => after = next,
            }
        }
        Err(anyhow!("`{path}` has more than {MAX_PAGES} pages"))
    }

    /// POST of a JSON body; the answer.
    pub(crate) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// PUT of a JSON body; the answer.
    pub(crate) async fn put(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<Changed> {
        self.ask(Method::PUT, path, Some(body)).await
    }

    /// DELETE; the revision without it.
    pub(crate) async fn delete(&mut self, path: &str) -> anyhow::Result<Landed> {
        self.ask(Method::DELETE, path, None::<&()>).await
    }

    /// DELETE of an item, with all that hangs on it where `cascade` says so; what has changed.
    pub(crate) async fn remove(&mut self, path: &str, cascade: bool) -> anyhow::Result<Changed> {
        let path = if cascade { format!("{path}?cascade=true") } else { path.to_owned() };
        self.ask(Method::DELETE, &path, None::<&()>).await
    }

    /// POST of JSON lines; the answer.
    pub(crate) async fn post_lines<T: DeserializeOwned>(
        &mut self,
        path: &str,
        lines: Vec<u8>,
    ) -> anyhow::Result<T> {
        let lines = Some(("application/x-ndjson", lines.into()));
        let answer = self.send(Method::POST, path, lines).await?;
        self.read(&format!("POST {path}"), answer)
    }

    /// POST of a JSON body to an endpoint that tells how far it is, in JSON lines; the result.
    /// There is no limit of time while it does.
    pub(crate) async fn post_and_follow(
        &mut self,
        path: &str,
        body: Vec<u8>,
        mut told: impl FnMut(&Progress),
    ) -> anyhow::Result<Applied> {
        let (key, body) = (new_key()?, Bytes::from(body));
        let mut sent = 0;
        loop {
            let done = self.follow(path, (&key, body.clone()), &mut told).await;
            match self.again(&mut sent, done).await? {
                Some(done) => return Ok(done),
                None => continue,
            }
        }
    }

    async fn follow(
        &mut self,
        path: &str,
        (key, body): (&HeaderValue, Bytes),
        mut told: impl FnMut(&Progress),
    ) -> anyhow::Result<Applied> {
        let accept = HeaderValue::from_static("application/x-ndjson, application/json");
        let headers = [
            (AUTHORIZATION, self.authorization.clone()),
            (ACCEPT, accept),
            (IDEMPOTENCY_KEY, key.clone()),
        ];
        let asked = format!("POST {path}");
        let mut answer = self
            .origin
            .send_and_follow(Method::POST, path, &headers, ("application/json", body))
            .await
            .with_context(|| format!("the center `{}` cannot be asked", self.url))?;
        if !answer.has_lines() {
            let mut body = Vec::new();
            while let Some(line) = answer.line().await? {
                body.extend(line);
                body.push(b'\n');
            }
            let answer = self.judged(&asked, answer.head.status, &body)?;
            return self.read(&asked, answer);
        }
        while let Some(line) = answer.line().await? {
            let line: Line = serde_json::from_slice(&line)
                .with_context(|| format!("`{}` answered `{asked}` with other lines", self.url))?;
            match line {
                Line::Progress(progress) => told(&progress),
                Line::Result(applied) => return Ok(applied),
                Line::Problem(problem) => {
                    let status = StatusCode::from_u16(problem.status).ok();
                    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                    return Err(refusal(&asked, status, problem).into());
                }
            }
        }
        let ended =
            format!("the center `{}` ended its answer to `{asked}` without a result", self.url);
        Err(anyhow!(ended).context(Lost))
    }

    /// What came of a write; none: after a pause it is to be sent again, under the same key.
    async fn again<T>(
        &mut self,
        sent: &mut u32,
        done: anyhow::Result<T>,
    ) -> anyhow::Result<Option<T>> {
        *sent += 1;
        let error = match done {
            Ok(done) => {
                if *sent > 1 {
                    tracing::debug!(sent, "the write was sent several times; it is made once");
                }
                return Ok(Some(done));
            }
            Err(error) => error,
        };
        let refusal = error.downcast_ref::<Refusal>();
        let is_unknown = match refusal {
            Some(refusal) => refusal.is_unknown,
            // A center that was there and is not any more may be back soon.
            None => error.is::<Lost>() || *sent > 1,
        };
        if !is_unknown {
            return Err(error);
        }
        let untold = "whether the change was made is not known; `keepgate audit` lists what was";
        if *sent > SENT_AGAIN {
            return Err(error.context(untold));
        }
        tokio::time::sleep(PAUSE * 2_u32.pow(*sent - 1)).await;
        // An earlier release would make it twice.
        let headers = [(AUTHORIZATION, self.authorization.clone())];
        let known = self.origin.send(Method::GET, NO_WRITE, &headers, None).await;
        if known.is_ok_and(|answer| answer.status == StatusCode::NOT_FOUND) {
            return Err(error.context(untold));
        }
        Ok(None)
    }

    async fn ask<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<T> {
        let asked = format!("{method} {path}");
        let body = body.map(serde_json::to_vec).transpose().context("writing the request")?;
        let body = body.map(|body| ("application/json", body.into()));
        let answer = self.send(method, path, body).await?;
        self.read(&asked, answer)
    }

    fn read<T: DeserializeOwned>(&self, asked: &str, answer: Value) -> anyhow::Result<T> {
        serde_json::from_value(answer).with_context(|| {
            format!(
                "`{}` did not answer `{asked}` as this release expects; is it another release?",
                self.url
            )
        })
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> anyhow::Result<Value> {
        let mut headers = vec![(AUTHORIZATION, self.authorization.clone())];
        if method == Method::GET {
            return self.send_once(method, path, &headers, body).await;
        }
        headers.push((IDEMPOTENCY_KEY, new_key()?));
        let mut sent = 0;
        loop {
            let done = self.send_once(method.clone(), path, &headers, body.clone()).await;
            match self.again(&mut sent, done).await? {
                Some(done) => return Ok(done),
                None => continue,
            }
        }
    }

    async fn send_once(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Option<(&str, Bytes)>,
    ) -> anyhow::Result<Value> {
        let asked = format!("{method} {path}");
        let answer = self
            .origin
            .send(method, path, headers, body)
            .await
            .with_context(|| format!("the center `{}` cannot be asked", self.url))?;
        self.judged(&asked, answer.status, &answer.body)
    }

    /// The JSON of a good answer, or the refusal.
    fn judged(&self, asked: &str, status: StatusCode, body: &[u8]) -> anyhow::Result<Value> {
        if status.is_success() {
            if body.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_slice(body).with_context(|| {
                format!("`{}` did not answer `{asked}` with JSON; is it a center?", self.url)
            });
        }
        Err(refusal(asked, status, serde_json::from_slice(body).unwrap_or_default()).into())
    }
}

fn refusal(asked: &str, status: StatusCode, problem: Problem) -> Refusal {
    let reason = status.canonical_reason();
    let status = status.as_u16();
    let words = match (problem.title.as_str(), problem.detail.as_str()) {
        ("", "") => reason.unwrap_or("no reason given").to_owned(),
        ("", text) | (text, "") => text.to_owned(),
        (title, detail) => format!("{title}: {detail}"),
    };
    let hint = match status {
        401 => "; the token is unknown here, revoked, or of another center",
        403 => "; the token's role may not do that",
        _ => "",
    };
    let text = format!("the center refused `{asked}`: {status} {words}{hint}");
    Refusal { status, text, is_unknown: problem.kind == UNKNOWN, problems: problem.problems }
}

/// A key of a write.
fn new_key() -> anyhow::Result<HeaderValue> {
    let key = keepgate_center::idempotency_key().context("cannot make a key for the request")?;
    HeaderValue::from_str(&key).context("cannot make a key for the request")
}

/// A path segment: everything but unreserved characters percent-encoded (RFC 3986, section 2.3).
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A value as a person reads it: a uid as Cedar text, nothing as nothing.
pub(crate) fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(map)) if map.contains_key("type") && map.contains_key("id") => {
            serde_json::from_value::<keepgate_policy::Uid>(Value::Object(map.clone()))
                .map_or_else(|_| Value::Object(map.clone()).to_string(), |uid| uid.to_string())
        }
        Some(Value::Array(values)) => {
            values.iter().map(|value| shown(Some(value))).collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A center of few words: one answer for each connection (none: it breaks off), and what was asked.
    async fn center(answers: Vec<Option<&'static str>>) -> (Admin, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&asked);
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut held = vec![0; 4096];
                let length = stream.read(&mut held).await.unwrap();
                heard.lock().unwrap().push(String::from_utf8(held[..length].to_vec()).unwrap());
                if let Some(answer) = answer {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        let admin = Admin::new(Origin::new(&url, None).unwrap(), url, "kgt_a_b").unwrap();
        (admin, asked)
    }

    const LANDED: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 14\r\n\r\n\
                          {\"revision\":7}";
    const ABSENT: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    const NOTHING_THERE: &str = "HTTP/1.1 404 Not Found\r\nconnection: close\r\n\
                                 content-length: 2\r\n\r\n{}";
    const NOT_KNOWN: &str = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\
                             content-length: 48\r\n\r\n\
                             {\"type\":\"urn:keepgate:problem:outcome-unknown\"}\n";
    const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\
                        content-length: 45\r\n\r\n\
                        {\"type\":\"urn:keepgate:problem:unavailable\"}\n\n";

    fn keys(asked: &Mutex<Vec<String>>) -> Vec<String> {
        let key = |text: &String| {
            let line = text.lines().find_map(|line| line.strip_prefix("idempotency-key: "));
            line.unwrap_or_default().to_owned()
        };
        asked.lock().unwrap().iter().map(key).collect()
    }

    #[tokio::test]
    async fn a_write_whose_answer_is_lost_is_sent_again_under_its_key() {
        let answers = vec![None, Some(ABSENT), Some(NOT_KNOWN), Some(ABSENT), Some(LANDED)];
        let (mut admin, asked) = center(answers).await;
        assert_eq!(admin.delete("/v1/tokens/x").await.unwrap().revision, 7);
        let keys = keys(&asked);
        let asked = asked.lock().unwrap();
        assert!(asked[1].starts_with("GET /v1/writes/0000"), "{}", asked[1]);
        assert_eq!(keys[0].len(), 32);
        assert_eq!((&keys[0], &keys[0]), (&keys[2], &keys[4]));
        assert_eq!((&*keys[1], &*keys[3]), ("", ""));
    }

    #[tokio::test]
    async fn what_an_earlier_release_would_do_twice_is_sent_once() {
        let (mut admin, asked) = center(vec![None, Some(NOTHING_THERE)]).await;
        let error = format!("{:#}", admin.delete("/v1/tokens/x").await.unwrap_err());
        assert!(error.starts_with("whether the change was made is not known"), "{error}");
        assert_eq!(asked.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_refusal_is_final_and_so_is_a_read() {
        let (mut admin, asked) = center(vec![Some(BUSY), None]).await;
        let error = format!("{:#}", admin.delete("/v1/tokens/x").await.unwrap_err());
        assert!(error.contains("503"), "{error}");
        assert!(admin.load::<Value>("/v1/status").await.is_err());
        let keys = keys(&asked);
        assert_eq!((keys.len(), keys[1].as_str()), (2, ""));
    }

    #[test]
    fn segments_are_encoded() {
        assert_eq!(segment("orders-1"), "orders-1");
        assert_eq!(segment("role::\"a/b\""), "role%3A%3A%22a%2Fb%22");
    }
}
