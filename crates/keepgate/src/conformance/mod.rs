//! A conformance runner for the OpenID AuthZEN Authorization API 1.0.
//!
//! [`cases`] holds the cases of the working group's certification scenario
//! (`certification/authorization-api-1_0-scenario.md` in the repository openid/authzen) by its
//! section numbers, plus the evaluation semantics of the specification, section 7.1.2.1, which
//! the scenario leaves out. [`verdict`] judges one answer, and knows no network. This file sends.
//!
//! The decision point must hold the scenario's fixture; `examples/authzen` is that fixture for
//! Keepgate.

mod cases;
mod verdict;

use clap::ValueEnum;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use serde_json::Value;

use crate::origin::{Answer, Origin};
use cases::{CASES, Expect};
pub(crate) use cases::{Case, Endpoint};

/// What is certified on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Level {
    /// One decision, identifiers only
    BasicCore,
    /// One decision, with properties
    BasicProperties,
    /// Several decisions, identifiers only
    BatchCore,
    /// Several decisions, with properties and defaults
    BatchProperties,
    /// Several decisions, cut short at the first deny or permit (specification, not certified)
    BatchSemantics,
    /// Searches for subjects, actions and resources, identifiers only
    SearchCore,
    /// Searches for subjects, actions and resources, with properties
    SearchProperties,
    /// The metadata document
    Discovery,
}

impl Level {
    /// All, in order.
    pub(crate) const ALL: [Level; 8] = [
        Level::BasicCore,
        Level::BasicProperties,
        Level::BatchCore,
        Level::BatchProperties,
        Level::BatchSemantics,
        Level::SearchCore,
        Level::SearchProperties,
        Level::Discovery,
    ];

    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Level::BasicCore => "Basic Core",
            Level::BasicProperties => "Basic Properties",
            Level::BatchCore => "Batch Core",
            Level::BatchProperties => "Batch Properties",
            Level::BatchSemantics => "Batch Semantics",
            Level::SearchCore => "Search Core",
            Level::SearchProperties => "Search Properties",
            Level::Discovery => "Discovery",
        }
    }
}

/// How a case went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As expected.
    Pass,
    /// Not as expected, and how.
    Fail(String),
    /// It does not apply, and why.
    Skip(String),
}

/// One case and how it went.
pub(crate) struct CaseReport {
    pub(crate) id: &'static str,
    pub(crate) level: Level,
    pub(crate) title: &'static str,
    pub(crate) outcome: Outcome,
}

/// A decision point under test.
pub(crate) struct Target {
    origin: Origin,
    url: String,
    authorization: Option<HeaderValue>,
    metadata: Metadata,
}

/// The decision point's own description, where it has one.
enum Metadata {
    /// As it was answered.
    Document(Value),
    /// There is none: the default paths apply.
    Missing,
    /// It cannot be used, and why.
    Bad(String),
}

impl Target {
    /// Asks for the metadata; fails only if the decision point cannot be reached at all.
    pub(crate) async fn discover(
        mut origin: Origin,
        url: &str,
        token: Option<&str>,
    ) -> anyhow::Result<Target> {
        let authorization = match token {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        // RFC 8615: between the host and the path.
        let well_known = format!("/.well-known/authzen-configuration{}", origin.base());
        let answer =
            origin.send_at_root(Method::GET, &well_known, &headers(&authorization), None).await?;
        let metadata = match answer.status.as_u16() {
            404 => Metadata::Missing,
            200 => match verdict::json(&answer) {
                Ok(document) => Metadata::Document(document),
                Err(why) => Metadata::Bad(why),
            },
            status => Metadata::Bad(format!("the metadata endpoint answered {status}")),
        };
        Ok(Target { origin, url: url.trim_end_matches('/').to_owned(), authorization, metadata })
    }

    /// The levels that the decision point says it serves.
    pub(crate) fn levels(&self) -> Vec<Level> {
        let names = |endpoint: Endpoint| match &self.metadata {
            Metadata::Document(document) => document.get(endpoint.parameter()).is_some(),
            Metadata::Missing | Metadata::Bad(_) => false,
        };
        let wanted = |level: &Level| match level {
            Level::SearchCore | Level::SearchProperties => names(Endpoint::SubjectSearch),
            // Its URLs must be https; on a plain loopback port there is nothing to certify.
            Level::Discovery => self.url.starts_with("https:"),
            _ => true,
        };
        Level::ALL.into_iter().filter(wanted).collect()
    }

    /// Runs the cases of these levels.
    pub(crate) async fn run(&mut self, levels: &[Level]) -> anyhow::Result<Vec<CaseReport>> {
        let mut reports = Vec::new();
        for case in CASES.iter().filter(|case| levels.contains(&case.level)) {
            let outcome = self.run_case(case).await?;
            reports.push(CaseReport { id: case.id, level: case.level, title: case.title, outcome });
        }
        if levels.contains(&Level::Discovery) {
            reports.extend(self.discovery());
        }
        Ok(reports)
    }

    async fn run_case(&mut self, case: &Case) -> anyhow::Result<Outcome> {
        let mut first = None;
        for _ in 0..case.times {
            let answer = match self.ask(case, case.body.as_bytes()).await? {
                Ok(answer) => answer,
                Err(why) => return Ok(Outcome::Fail(why)),
            };
            if let Err(why) = verdict::judge(case, &answer) {
                return Ok(Outcome::Fail(why));
            }
            let decided = serde_json::from_slice::<Value>(&answer.body).ok();
            let decided = decided.as_ref().and_then(|body| body.get("decision").cloned());
            if *first.get_or_insert_with(|| decided.clone()) != decided {
                return Ok(Outcome::Fail("the same request got another decision".into()));
            }
            if matches!(case.expect, Expect::NextPage) {
                return self.next_page(case, &answer).await;
            }
        }
        Ok(Outcome::Pass)
    }

    /// Follows the token of a first page, where there is one.
    async fn next_page(&mut self, case: &Case, first: &Answer) -> anyhow::Result<Outcome> {
        let token = verdict::next_token(first);
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            return Ok(Outcome::Skip("all results came on one page".into()));
        };
        let mut body: Value = serde_json::from_str(case.body)?;
        if let Some(object) = body.as_object_mut() {
            object.insert("page".into(), serde_json::json!({ "token": token }));
        }
        let answer = match self.ask(case, body.to_string().as_bytes()).await? {
            Ok(answer) => answer,
            Err(why) => return Ok(Outcome::Fail(why)),
        };
        Ok(match verdict::later_page(&answer) {
            Ok(()) => Outcome::Pass,
            Err(why) => Outcome::Fail(why),
        })
    }

    /// The answer, or why the endpoint cannot be used.
    async fn ask(&mut self, case: &Case, body: &[u8]) -> anyhow::Result<Result<Answer, String>> {
        let path = match self.path(case.endpoint) {
            Ok(path) => path,
            Err(why) => return Ok(Err(why)),
        };
        let mut headers = headers(&self.authorization);
        if let Some(id) = case.request_id {
            headers.push((cases::REQUEST_ID, HeaderValue::from_static(id)));
        }
        let body = Some((case.content_type, body.to_vec().into()));
        let answer = if path.at_root {
            self.origin.send_at_root(Method::POST, &path.text, &headers, body).await?
        } else {
            self.origin.send(Method::POST, &path.text, &headers, body).await?
        };
        Ok(Ok(answer))
    }

    /// Where an endpoint is: as the metadata says, else the default path below the base URL.
    fn path(&self, endpoint: Endpoint) -> Result<Path, String> {
        let default = Path { text: endpoint.default_path().to_owned(), at_root: false };
        let Metadata::Document(document) = &self.metadata else { return Ok(default) };
        let Some(url) = document.get(endpoint.parameter()) else { return Ok(default) };
        let url = url
            .as_str()
            .ok_or_else(|| format!("expected `{}` to be a string", endpoint.parameter()))?;
        let (origin, path) = crate::origin::split(url);
        if origin != crate::origin::split(&self.url).0 {
            return Err(format!(
                "the metadata sends `{}` to another origin, `{origin}`; run the test with that URL",
                endpoint.parameter()
            ));
        }
        Ok(Path { text: path.to_owned(), at_root: true })
    }

    fn discovery(&self) -> Vec<CaseReport> {
        let report =
            |id, title, outcome| CaseReport { id, level: Level::Discovery, title, outcome };
        let document = match &self.metadata {
            Metadata::Document(document) => document,
            Metadata::Missing => {
                let why = "there is no metadata document (404)".to_owned();
                return vec![report("6.1", "metadata endpoint", Outcome::Fail(why))];
            }
            Metadata::Bad(why) => {
                return vec![report("6.1", "metadata endpoint", Outcome::Fail(why.clone()))];
            }
        };
        let mut reports = vec![report("6.1", "metadata endpoint", Outcome::Pass)];
        for (id, title, outcome) in verdict::metadata(document, &self.url) {
            reports.push(report(id, title, outcome));
        }
        reports
    }
}

struct Path {
    text: String,
    /// Whether it is a whole path, rather than one below the base URL.
    at_root: bool,
}

fn headers(authorization: &Option<HeaderValue>) -> Vec<(HeaderName, HeaderValue)> {
    authorization.iter().map(|value| (AUTHORIZATION, value.clone())).collect()
}

/// The media type of an answer, without parameters.
fn media_type(answer: &Answer) -> &str {
    let value = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().split(';').next().unwrap_or_default().trim()
}
