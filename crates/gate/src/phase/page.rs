//! The page for callers: what the API is, what a key has left, and how to get one.
//!
//! It is served from the table that requests are decided on, so it is there when the center is not.
//! What is asked on it goes to the center on the connection on which it is followed; nothing else of
//! the center can be reached here, and no bytes of a caller but those of its two questions.
//!
//! INVARIANT: no answer is 503, never "declined". Codes and keys are in no log.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_LANGUAGE, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_LENGTH,
    CONTENT_TYPE, HOST, ORIGIN, RETRY_AFTER,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use keepgate_limit::Caller;
use keepgate_limit::limiter::Unit;
use keepgate_observe::unix_s;
use keepgate_page::{
    Api, AskForm, HEADERS, HasLeft, Lang, Left, Limit, MAX_CODE, MAX_OPERATIONS, MAX_SENT, May,
    Notice, Page, STYLE, YourKey, field, fields, is_own, paths,
};
use keepgate_policy::Query;
use keepgate_policy::decision::Effect;
use keepgate_policy::proto::caller_answer::Answer;
use keepgate_policy::proto::caller_question::Question;
use keepgate_policy::proto::{self, CallerRefused};
use keepgate_policy::world::Prepared;

use super::stage::{Accepted, Ended, Refused, Unrouted};
use super::undecided::{fresh_within, no_decision};
use crate::identify::key;
use crate::message::body::GateBody;
use crate::message::headers::{X_FORWARDED_PROTO, X_REQUEST_ID};
use crate::message::problem::{Kind, Problem};
use crate::observe::phase::Phase;
use crate::service::page_limits::Counted;
use crate::service::table::{Service, Table};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// How long a form may take to arrive.
const FORM_WITHIN: Duration = Duration::from_secs(10);

/// What belongs to the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Page,
    Style,
    Ask,
    Fetch,
    Left,
}

/// An answer of the page.
pub(crate) struct Paged {
    pub(crate) ended: Ended,
    pub(crate) response: Response<GateBody>,
}

/// What of the page is asked for; none: it is another request. The path counts as it came: in another
/// spelling it is a path of the service.
pub(super) fn asked_for(accepted: &Accepted) -> Option<Place> {
    let rest = accepted.arrived.parts.uri.path().strip_prefix(accepted.page()?)?;
    match rest {
        "" => Some(Place::Page),
        paths::STYLE => Some(Place::Style),
        paths::ASK => Some(Place::Ask),
        paths::FETCH => Some(Place::Fetch),
        paths::LEFT => Some(Place::Left),
        _ => None,
    }
}

pub(super) async fn run(
    accepted: Accepted,
    place: Place,
    body: Option<Incoming>,
) -> Result<Box<Paged>, Box<Refused>> {
    let table = accepted.entry.served.table();
    let service = table.as_ref().and_then(|table| table.service.clone());
    let answered = answer(&accepted, place, body, table.zip(service.clone())).await;
    let ended = Ended::Unrouted(Unrouted { accepted, service, by_address: None });
    match answered {
        Ok(response) => Ok(Box::new(Paged { ended, response })),
        Err(problem) => Err(Refused::new(Phase::Route, problem, ended)),
    }
}

async fn answer(
    accepted: &Accepted,
    place: Place,
    body: Option<Incoming>,
    held: Option<(Arc<Table>, Arc<Service>)>,
) -> Result<Response<GateBody>, Problem> {
    let parts = &accepted.arrived.parts;
    let is_form = !matches!(place, Place::Page | Place::Style);
    let (allowed, methods) = if is_form {
        ("POST", &[Method::POST][..])
    } else {
        ("GET, HEAD", &[Method::GET, Method::HEAD][..])
    };
    if !methods.contains(&parts.method) {
        return Err(Problem::new(Kind::MethodNotAllowed, "the path does not have this method")
            .header(ALLOW, HeaderValue::from_static(allowed)));
    }
    let Some((table, service)) = held else {
        return Err(no_decision("no_replica", "the gate has no permissions yet"));
    };
    if !service.hosts.is_empty() && !service.hosts.iter().any(|own| own.matches(&accepted.host)) {
        return Err(Problem::new(Kind::Misdirected, "the host is not one of the service's"));
    }
    let shown = shown_key(&parts.headers, &service).filter(|_| place == Place::Page);
    let counted = match place {
        Place::Page if shown.is_some() => Counted::Secrets,
        Place::Page | Place::Style => Counted::Page,
        Place::Ask => Counted::Asks,
        Place::Fetch | Place::Left => Counted::Secrets,
    };
    let limits = &accepted.arrived.worker.common.page_limits;
    let counted = limits.count(counted, &accepted.address());
    let view = View { accepted, table: &table, service: &service, sent: Vec::new() };
    if !is_form {
        if let Err(wait) = counted {
            let detail = "too many requests for this page from the address";
            return Err(Problem::new(Kind::LimitReached, detail).retry_after_s(wait));
        }
        if place == Place::Style {
            return Ok(view.respond(Answered::style()));
        }
        let key = shown.map(|key| view.key(&key));
        return Ok(view.respond(view.page(StatusCode::OK, None, key, AskForm::default())));
    }
    check_origin(&parts.headers, &accepted.host)?;
    let sent = read(&parts.headers, body).await?;
    let view = View { sent, ..view };
    if let Err(wait) = counted {
        let page = view.notice(StatusCode::TOO_MANY_REQUESTS, Notice::TooMany(wait));
        return Ok(view.respond(Answered { retry_after_s: Some(wait), ..page }));
    }
    let answered = match place {
        Place::Ask => view.ask().await,
        Place::Fetch => view.fetch().await,
        _ => {
            let key = Some(view.key(field(&view.sent, "key")));
            view.page(StatusCode::OK, None, key, AskForm::default())
        }
    };
    Ok(view.respond(answered))
}

/// The API key among the headers, where the service takes keys.
fn shown_key(headers: &HeaderMap, service: &Service) -> Option<String> {
    let header = service.ways.api_key.as_ref()?;
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|text| text.split_once(' ')).filter(|(scheme, key)| {
        scheme.eq_ignore_ascii_case("bearer") && key.trim_start().starts_with("kgk_")
    });
    let own = headers.get(header).and_then(|value| value.to_str().ok());
    let key = bearer.map(|(_, key)| key).or(own.filter(|_| *header != AUTHORIZATION))?;
    Some(key.trim().to_owned())
}

/// A form must come from the page itself.
fn check_origin(headers: &HeaderMap, own: &str) -> Result<(), Problem> {
    let said = |name: &HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    if is_own(said(&SEC_FETCH_SITE), said(&ORIGIN), own) {
        return Ok(());
    }
    Err(Problem::new(Kind::BadRequest, "the form was sent from a page of another origin"))
}

/// The fields of a form.
async fn read(
    headers: &HeaderMap,
    body: Option<Incoming>,
) -> Result<Vec<(String, String)>, Problem> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let detail = "expected a form (application/x-www-form-urlencoded)";
        return Err(Problem::new(Kind::BadRequest, detail).close());
    }
    let too_large = || {
        let detail = format!("a form has at most {MAX_SENT} bytes");
        Problem::new(Kind::BodyTooLarge, detail).close()
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced
        .and_then(|text| text.parse().ok())
        .is_some_and(|bytes: u64| bytes > MAX_SENT as u64)
    {
        return Err(too_large());
    }
    let Some(body) = body else { return Ok(Vec::new()) };
    let sent = match tokio::time::timeout(FORM_WITHIN, Limited::new(body, MAX_SENT).collect()).await
    {
        Ok(Ok(sent)) => sent.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => {
            return Err(Problem::new(Kind::BadBody, "the request body could not be read").close());
        }
        Err(_) => return Err(Problem::new(Kind::TooSlow, "the form arrives too slowly").close()),
    };
    fields(&sent).ok_or_else(|| {
        let detail = "the form is too large, has too many fields, or is not UTF-8";
        Problem::new(Kind::BadRequest, detail)
    })
}

/// An answer before it is a response.
struct Answered {
    status: StatusCode,
    media_type: &'static str,
    caching: &'static str,
    lang: Option<Lang>,
    retry_after_s: Option<u32>,
    bytes: Bytes,
}

impl Answered {
    fn style() -> Answered {
        Answered {
            status: StatusCode::OK,
            media_type: "text/css; charset=utf-8",
            caching: "public, max-age=3600",
            lang: None,
            retry_after_s: None,
            bytes: Bytes::from_static(STYLE.as_bytes()),
        }
    }
}

/// What pages of a request are made of.
struct View<'r> {
    accepted: &'r Accepted,
    table: &'r Table,
    service: &'r Service,
    /// What was sent.
    sent: Vec<(String, String)>,
}

impl View<'_> {
    fn respond(&self, answered: Answered) -> Response<GateBody> {
        let Answered { status, media_type, caching, lang, retry_after_s, bytes } = answered;
        let mut response = Response::new(GateBody::full(bytes));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let mut say = |name, value| headers.insert(name, HeaderValue::from_static(value));
        say(CONTENT_TYPE, media_type);
        say(CACHE_CONTROL, caching);
        for (name, value) in HEADERS {
            say(HeaderName::from_static(name), value);
        }
        if let Some(lang) = lang {
            say(CONTENT_LANGUAGE, lang.tag());
        }
        if let Some(seconds) = retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        headers.insert(X_REQUEST_ID, self.accepted.arrived.request_id.clone());
        response
    }

    fn notice(&self, status: StatusCode, notice: Notice<'_>) -> Answered {
        self.page(status, Some(notice), None, AskForm::default())
    }

    fn page(
        &self,
        status: StatusCode,
        notice: Option<Notice<'_>>,
        key: Option<YourKey>,
        form: AskForm,
    ) -> Answered {
        let Accepted { arrived, entry, .. } = self.accepted;
        let site = &entry.site.config;
        let prefix = if site.strip_prefix { site.path.as_str() } else { "" };
        let api = Api::of(
            &entry.served.tables.service,
            self.service.router.routes(),
            &self.service.limits.limits,
            self.service.identify(),
            prefix,
        );
        let lang = self.lang();
        let html = Page {
            api: &api,
            lang,
            here: self.accepted.page().unwrap_or_default(),
            origin: Some(&origin(self.accepted, &arrived.parts.headers)),
            notice,
            key,
            shows_keys: self.service.ways.api_key.is_some(),
            counts: true,
            takes_asks: true,
            form,
        }
        .html();
        Answered {
            status,
            media_type: "text/html; charset=utf-8",
            caching: "no-store",
            lang: Some(lang),
            retry_after_s: None,
            bytes: Bytes::from(html),
        }
    }

    /// The one that was chosen, else the one that the browser prefers.
    fn lang(&self) -> Lang {
        let parts = &self.accepted.arrived.parts;
        let query = parts.uri.query().unwrap_or_default();
        let asked = query.split('&').find_map(|pair| pair.strip_prefix("lang="));
        let chosen = asked.unwrap_or_else(|| field(&self.sent, "lang"));
        Lang::from_tag(chosen).unwrap_or_else(|| {
            let accepted = parts.headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
            Lang::accepted(accepted.unwrap_or_default())
        })
    }

    async fn ask(&self) -> Answered {
        let ask = match AskForm::read(&self.sent) {
            Ok(ask) => ask,
            Err(form) => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                return self.page(status, Some(Notice::Wrong), None, form);
            }
        };
        let keepgate_page::Ask { who, what_for, per_day } = ask.clone();
        let question = Question::AskAccess(proto::AskAccess { who, what_for, per_day });
        match self.ask_center(question).await {
            Some(Answer::Asked(asked)) => self.notice(StatusCode::OK, Notice::Asked(&asked.code)),
            other => {
                let (status, notice, wait) = self.refused(other);
                // What was written is not lost.
                let form = AskForm {
                    who: ask.who,
                    what_for: ask.what_for,
                    per_day: ask.per_day.to_string(),
                    ..AskForm::default()
                };
                let page = self.page(status, Some(notice), None, form);
                Answered { retry_after_s: wait, ..page }
            }
        }
    }

    async fn fetch(&self) -> Answered {
        let code = field(&self.sent, "code");
        if code.is_empty() || code.len() > MAX_CODE {
            return self.notice(StatusCode::NOT_FOUND, Notice::Unknown);
        }
        let question = Question::FetchKey(proto::FetchKey { code: code.to_owned() });
        match self.ask_center(question).await {
            Some(Answer::Key(made)) => {
                self.notice(StatusCode::OK, Notice::Made(&made.key, &made.plan))
            }
            other => {
                let (status, notice, wait) = self.refused(other);
                Answered { retry_after_s: wait, ..self.notice(status, notice) }
            }
        }
    }

    /// None: there is no answer.
    async fn ask_center(&self, question: Question) -> Option<Answer> {
        let tables = &self.accepted.entry.served.tables;
        let address = self.accepted.client.as_ref().map(IpAddr::to_string).unwrap_or_default();
        match tables.source.ask_center(&tables.service, &address, question).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::debug!(service = tables.service, %error, "a caller's question has no answer");
                None
            }
        }
    }

    /// What it means that it was not done.
    fn refused(&self, answer: Option<Answer>) -> (StatusCode, Notice<'static>, Option<u32>) {
        let (reason, retry_after_s) = match answer {
            Some(Answer::Refused(CallerRefused { reason, retry_after_s })) => {
                (reason, retry_after_s)
            }
            _ => (String::new(), 0),
        };
        let (status, notice, wait) = Notice::of_refusal(&reason, retry_after_s);
        (StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE), notice, wait)
    }

    /// What a key may do, and has left.
    fn key(&self, shown: &str) -> YourKey {
        let name = &self.accepted.entry.served.tables.service;
        let found = key::prefix(shown).ok().and_then(|prefix| {
            let body = self.table.key(name, prefix)?;
            key::check(shown, body, unix_s()).ok().map(|()| (prefix, body))
        });
        let Some((prefix, body)) = found else { return YourKey::Unknown };
        let parts = &self.accepted.arrived.parts;
        let caller = Caller {
            address: self.accepted.address(),
            principal: Some((&body.principal.kind, &body.principal.id)),
            api_key: Some(prefix),
            plan: Some(body.plan.as_str()).filter(|plan| !plan.is_empty()),
            header: &|name| parts.headers.get(name).map(HeaderValue::as_bytes),
        };
        YourKey::Known {
            prefix: prefix.to_owned(),
            plan: body.plan.clone(),
            left: HasLeft::Here(self.left(&caller)),
            may: self.may(&body.principal),
        }
    }

    /// What the limits of a caller have left: those of all requests, then those of single methods and routes,
    /// in the order of the operations. Nothing is charged.
    fn left(&self, caller: &Caller<'_>) -> Vec<Left> {
        let limiter = &self.service.limits.limiter;
        let now = self.accepted.entry.served.tables.limiting.now();
        let routes = self.service.router.routes().iter().take(MAX_OPERATIONS);
        let routes = routes.map(|route| {
            let method = if route.method == "*" { "GET" } else { route.method.as_str() };
            (method, Some(route.path.as_str()))
        });
        let mut all: Vec<Left> = Vec::new();
        for (method, route) in std::iter::once(("GET", None)).chain(routes) {
            // What its address has left is not the key's.
            let [_, said] = limiter.peek(caller, method, route, now);
            for report in said.reports().iter().filter(|report| !report.shadow) {
                let Some(policy) = limiter.policy(&said, report) else { continue };
                let (rule, unit) = (policy.rule(), report.unit);
                if all.iter().any(|one| one.name == rule.name && one.unit == unit) {
                    continue;
                }
                let of = match unit {
                    Unit::Rate => policy.quota().map(|quota| quota.burst()),
                    Unit::Concurrency => rule.concurrency,
                };
                let Some(of) = of else { continue };
                all.push(Left {
                    name: rule.name.clone(),
                    on: Limit::subject(rule),
                    unit,
                    left: report.remaining.into(),
                    of: of.into(),
                    full_in_s: report.reset_ns.div_ceil(1_000_000_000),
                });
            }
        }
        all
    }

    /// What a principal may do, as far as it is the same for all requests of a route.
    fn may(&self, principal: &keepgate_policy::Uid) -> Vec<May> {
        let Accepted { arrived, entry, host, client, .. } = self.accepted;
        let name = &entry.served.tables.service;
        let reads = self.table.reads(name);
        let depends = ["path", "ip"].iter().any(|member| reads.context.has(member));
        let now = if self.table.depends_on_time { unix_s() } else { 0 };
        let router = &self.service.router;
        let routes = router.routes().iter().take(MAX_OPERATIONS).enumerate();
        let may = |(index, route): (usize, &keepgate_policy::route::Route)| {
            let (Some(action), Some(resource)) = router.fixed(index) else { return May::Depends };
            if depends {
                return May::Depends;
            }
            let max_age_ms = route.max_age_ms.unwrap_or(self.service.max_age_ms);
            if fresh_within(self.table, max_age_ms).is_err() {
                return May::NotKnown;
            }
            arrived.worker.with_context(|context| {
                context.fill(&route.method, &route.path, host, *client);
                let query = Query::new(principal, action, resource)
                    .service(name)
                    .context(&context.map)
                    .at(now);
                match self.table.world.judge(&query, Prepared::nothing()) {
                    Ok(verdict) if verdict.effect == Effect::Allow => May::Yes,
                    Ok(_) => May::No,
                    Err(_) => May::NotKnown,
                }
            })
        };
        routes.map(may).collect()
    }
}

/// How the caller reaches the gate: scheme, host and port.
fn origin(accepted: &Accepted, headers: &HeaderMap) -> String {
    let arrived = &accepted.arrived;
    let forwarded = headers.get(X_FORWARDED_PROTO).filter(|_| accepted.trusted);
    let is_tls = forwarded.map_or(arrived.peer.is_tls, |proto| proto == "https");
    let authority = arrived.parts.uri.authority().map(http::uri::Authority::as_str);
    let named = headers.get(HOST).and_then(|value| value.to_str().ok());
    let host = authority.or(named).unwrap_or(&accepted.host);
    format!("{}://{host}", if is_tls { "https" } else { "http" })
}
