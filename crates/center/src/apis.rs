//! The page for callers at `/apis/NAME`: what an API is, what a key may do, and asking for access.
//!
//! It is there for services that say so (`[callers_page] center = true`), for everybody who reaches the
//! center, and made from the published state, so no store is asked for it. What is asked on it is answered by
//! [`Requests`], as what comes by a gate. What a key has left is not known here: gates count.
//!
//! INVARIANT: a service without the page, a name that is none, and any other path are answered alike. The
//! page waits for nothing of the admin API, and has few places of its own. Codes and keys are in no log.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use keepgate_identify::key;
use keepgate_page::{
    Api, Ask, AskForm, HEADERS, HasLeft, Lang, MAX_CODE, MAX_OPERATIONS, MAX_SENT, May, Notice,
    Page, STYLE, YourKey, field, fields, is_own, paths,
};
use keepgate_policy::decision::Effect;
use keepgate_policy::proto::caller_answer::Answer;
use keepgate_policy::proto::caller_question::Question;
use keepgate_policy::proto::{AskAccess, CallerQuestion, CallerRefused, FetchKey};
use keepgate_policy::router;
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::world::{Prepared, ServiceView};
use keepgate_policy::{Query, Uid, host};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::guard::SaysWhen;
use crate::api::problem::Problem;
use crate::api::{App, input};
use crate::attempts::Attempts;
use crate::desk::{Head, Scope};
use crate::server::Peer;

/// Where the pages are.
const ROOT: &str = "/apis/";
/// In place of a gate's token: who asked, in the audit log.
const ACTOR: &str = "callers-page";
/// Pages that are made, and keys that are looked at, at the same time.
const PLACES: usize = 4;
/// How long a caller waits for one of these places.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions that wait for the store at the same time; less than there are places for those of gates.
const QUESTIONS: usize = 16;
/// How long an answer to a question may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a key is waited for.
const FETCHED: Duration = Duration::from_secs(60);
/// An address gets the page so often at once, and once more each time that this has passed.
const PAGES: (u32, Duration) = (120, Duration::from_millis(500));
/// After which time a caller for whom there is no place may try again, in seconds.
const AGAIN_S: u32 = 5;

/// See the module.
#[derive(Clone)]
pub(crate) struct Apis {
    app: App,
    shared: Arc<Shared>,
}

struct Shared {
    places: Arc<Semaphore>,
    questions: Semaphore,
    pages: Attempts,
    keys: Attempts,
}

/// The pages' routes.
pub(crate) fn router(app: App) -> Router {
    let shared = Shared {
        places: Arc::new(Semaphore::new(PLACES)),
        questions: Semaphore::new(QUESTIONS),
        pages: Attempts::new(PAGES.0, PAGES.1),
        keys: Attempts::default(),
    };
    let apis = Apis { app, shared: Arc::new(shared) };
    Router::new().route("/apis/{*rest}", any(serve)).with_state(apis)
}

/// What belongs to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Page,
    Style,
    Ask,
    Fetch,
    Left,
}

impl Part {
    /// The name and the part of a path, which counts as it came.
    fn of(path: &str) -> Option<(&str, Part)> {
        let rest = path.strip_prefix(ROOT)?;
        let (name, place) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let part = match place {
            "" => Part::Page,
            paths::STYLE => Part::Style,
            paths::ASK => Part::Ask,
            paths::FETCH => Part::Fetch,
            paths::LEFT => Part::Left,
            _ => return None,
        };
        Some((name, part))
    }
}

async fn serve(State(apis): State<Apis>, request: Request) -> Response {
    apis.answer(request).await.unwrap_or_else(|problem| problem.into_response())
}

impl Apis {
    async fn answer(&self, request: Request) -> Result<Response, Problem> {
        let path = request.uri().path().to_owned();
        let from = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        // Before anything is looked up, so that it is the same for all names.
        let counted = self.shared.pages.count(from, Instant::now());
        if counted.is_err() {
            return Err(Problem::too_many("too many requests for this page from the address"));
        }
        let head = self.app.desk.head();
        let found = Part::of(&path).and_then(|(name, part)| {
            let settings = head.services.get(name)?;
            settings.callers_page.center.then(|| (Arc::clone(settings), part))
        });
        // As for a path at which nothing is.
        let nothing = || Problem::not_found(format!("nothing is at `{path}`"));
        let (settings, part) = found.ok_or_else(nothing)?;
        let is_form = !matches!(part, Part::Page | Part::Style);
        let (allowed, methods) = if is_form {
            ("POST", &[Method::POST][..])
        } else {
            ("GET, HEAD", &[Method::GET, Method::HEAD][..])
        };
        if !methods.contains(request.method()) {
            let said = format!("`{path}` does not take {}", request.method());
            let mut response = Problem::method(said).into_response();
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
            return Ok(response);
        }
        if part == Part::Style {
            return Ok(style());
        }
        let (parts, body) = request.into_parts();
        let mut view = View {
            apis: self,
            head,
            here: format!("{ROOT}{}", settings.name),
            settings,
            from,
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: parts.headers.clone(),
            sent: Vec::new(),
        };
        if !is_form {
            let shown = view.shown_key();
            return match shown {
                Some(shown) => view.key(shown).await,
                None => view.page(StatusCode::OK, None, None, AskForm::default()).await,
            };
        }
        let own = own_host(&parts.uri, &parts.headers);
        let said = |name: &str| parts.headers.get(name).map(HeaderValue::as_bytes);
        if !is_own(said("sec-fetch-site"), said("origin"), &own) {
            return Err(Problem::bad_request("the form was sent from a page of another origin"));
        }
        if !input::is_type(&parts.headers, "application/x-www-form-urlencoded") {
            let expected = "expected a form (application/x-www-form-urlencoded)";
            return Err(Problem::media_type(expected));
        }
        let request = Request::from_parts(parts, body);
        let bytes = input::bytes(request, MAX_SENT, &self.app).await?;
        view.sent = fields(&bytes).ok_or_else(|| {
            Problem::bad_request("the form is too large, has too many fields, or is not UTF-8")
        })?;
        match part {
            Part::Ask => view.ask().await,
            Part::Fetch => view.fetch().await,
            _ => {
                let shown = field(&view.sent, "key").to_owned();
                view.key(shown).await
            }
        }
    }
}

/// The host by which the page was asked for, in its one form; empty: it has none.
fn own_host(uri: &Uri, headers: &HeaderMap) -> String {
    let named = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = uri.authority().map(http::uri::Authority::as_str).or(named);
    let normal = authority.and_then(|authority| host::normal(authority).ok());
    normal.map(|(name, _)| name.into_owned()).unwrap_or_default()
}

fn style() -> Response {
    let mut response = STYLE.into_response();
    say(&mut response, header::CONTENT_TYPE, "text/css; charset=utf-8");
    say(&mut response, header::CACHE_CONTROL, "public, max-age=3600");
    guarded(response)
}

fn say(response: &mut Response, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}

fn guarded(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        say(&mut response, HeaderName::from_static(name), value);
    }
    response
}

/// Adds when to come again, for an answer of 429 or 503 that is no failure of the center.
fn again(mut response: Response, wait: Option<u32>) -> Response {
    if let Some(seconds) = wait {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        response.extensions_mut().insert(SaysWhen);
    }
    response
}

/// What the pages of a request are made of.
struct View<'a> {
    apis: &'a Apis,
    head: Arc<Head>,
    settings: Arc<ServiceSettings>,
    /// The page's own path.
    here: String,
    from: Option<IpAddr>,
    query: String,
    headers: HeaderMap,
    sent: Vec<(String, String)>,
}

impl View<'_> {
    /// A place for making a page; none: there was none for long.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.apis.shared.places).acquire_owned();
        tokio::time::timeout(PATIENCE, place).await.ok()?.ok()
    }

    fn service(&self) -> Result<ServiceView<'_>, Problem> {
        // A head has the settings of the services in its world.
        self.head.world.service(&self.settings.name).ok_or_else(Problem::internal)
    }

    /// The one that was chosen, else the one that the browser prefers.
    fn lang(&self) -> Lang {
        let asked = self.query.split('&').find_map(|pair| pair.strip_prefix("lang="));
        let chosen = asked.unwrap_or_else(|| field(&self.sent, "lang"));
        Lang::from_tag(chosen).unwrap_or_else(|| {
            let accepted = self.headers.get(header::ACCEPT_LANGUAGE);
            Lang::accepted(accepted.and_then(|value| value.to_str().ok()).unwrap_or_default())
        })
    }

    async fn page(
        &self,
        status: StatusCode,
        notice: Option<Notice<'_>>,
        key: Option<YourKey>,
        form: AskForm,
    ) -> Result<Response, Problem> {
        let Some(_place) = self.place().await else { return Ok(crowded()) };
        self.made(status, notice, key, form)
    }

    /// The page, made without a place of its own: what it says once must not be lost for want of one. Those
    /// who get that far are bounded by the questions that are answered at once.
    fn made(
        &self,
        status: StatusCode,
        notice: Option<Notice<'_>>,
        key: Option<YourKey>,
        form: AskForm,
    ) -> Result<Response, Problem> {
        let view = self.service()?;
        let limits = view.limits();
        let api = Api::of(&self.settings.name, view.routes(), &limits, &self.settings.identify, "");
        let lang = self.lang();
        let html = Page {
            api: &api,
            lang,
            here: &self.here,
            origin: self.settings.callers_page.url.as_deref(),
            notice,
            key,
            shows_keys: self.settings.identify.api_key.is_some(),
            counts: false,
            takes_asks: true,
            form,
        }
        .html();
        let mut response = (status, html).into_response();
        say(&mut response, header::CONTENT_TYPE, "text/html; charset=utf-8");
        say(&mut response, header::CACHE_CONTROL, "no-store");
        say(&mut response, header::CONTENT_LANGUAGE, lang.tag());
        Ok(guarded(response))
    }

    async fn notice(&self, status: StatusCode, notice: Notice<'_>) -> Result<Response, Problem> {
        self.page(status, Some(notice), None, AskForm::default()).await
    }

    async fn ask(&self) -> Result<Response, Problem> {
        let ask = match AskForm::read(&self.sent) {
            Ok(ask) => ask,
            Err(form) => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                return self.page(status, Some(Notice::Wrong), None, form).await;
            }
        };
        let Ask { who, what_for, per_day } = ask.clone();
        let question = Question::AskAccess(AskAccess { who, what_for, per_day });
        match self.question(question).await {
            Answer::Asked(asked) => self.made(
                StatusCode::OK,
                Some(Notice::Asked(&asked.code)),
                None,
                AskForm::default(),
            ),
            other => {
                // What was written is not lost.
                let form = AskForm {
                    who: ask.who,
                    what_for: ask.what_for,
                    per_day: ask.per_day.to_string(),
                    ..AskForm::default()
                };
                self.refused(other, form).await
            }
        }
    }

    async fn fetch(&self) -> Result<Response, Problem> {
        let code = field(&self.sent, "code");
        if code.is_empty() || code.len() > MAX_CODE {
            return self.notice(StatusCode::NOT_FOUND, Notice::Unknown).await;
        }
        match self.question(Question::FetchKey(FetchKey { code: code.to_owned() })).await {
            Answer::Key(made) => {
                let notice = Notice::Made(&made.key, &made.plan);
                self.made(StatusCode::OK, Some(notice), None, AskForm::default())
            }
            other => self.refused(other, AskForm::default()).await,
        }
    }

    /// Asks as a gate asks for its callers.
    async fn question(&self, question: Question) -> Answer {
        let none = || {
            let reason = "unavailable".to_owned();
            Answer::Refused(CallerRefused { reason, retry_after_s: 0 })
        };
        let Ok(_place) = self.apis.shared.questions.try_acquire() else { return none() };
        let service = self.settings.name.clone();
        let scope = Scope::of(vec![service.clone()]);
        let address = self.from.map(|from| from.to_canonical().to_string()).unwrap_or_default();
        let is_fetch = matches!(question, Question::FetchKey(_));
        let asked = CallerQuestion { id: 1, service, address, question: Some(question) };
        let answer = self.apis.app.requests.answer(ACTOR, &scope, asked);
        // A key is made once: what makes it is not given up while the store takes long.
        let patience = if is_fetch { FETCHED } else { ANSWER };
        match tokio::time::timeout(patience, answer).await {
            Ok(told) => told.answer.unwrap_or_else(none),
            Err(_) => none(),
        }
    }

    async fn refused(&self, answer: Answer, form: AskForm) -> Result<Response, Problem> {
        let (reason, retry_after_s) = match answer {
            Answer::Refused(CallerRefused { reason, retry_after_s }) => (reason, retry_after_s),
            _ => (String::new(), 0),
        };
        let (status, notice, wait) = Notice::of_refusal(&reason, retry_after_s);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Ok(again(self.page(status, Some(notice), None, form).await?, wait))
    }

    /// The API key among the headers, where the service takes keys.
    fn shown_key(&self) -> Option<String> {
        let own = self.settings.identify.api_key.as_ref()?;
        let text = |name: &str| self.headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text("authorization").and_then(|text| text.split_once(' '));
        let bearer = bearer.filter(|(scheme, key)| {
            scheme.eq_ignore_ascii_case("bearer") && key.trim_start().starts_with("kgk_")
        });
        let is_bearer = own.header.eq_ignore_ascii_case("authorization");
        let plain = text(&own.header).filter(|_| !is_bearer);
        Some(bearer.map(|(_, key)| key).or(plain)?.trim().to_owned())
    }

    /// The page with what a key may do.
    async fn key(&self, shown: String) -> Result<Response, Problem> {
        if let Err(wait) = self.apis.shared.keys.count(self.from, Instant::now()) {
            let wait = u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX);
            let page = self.notice(StatusCode::TOO_MANY_REQUESTS, Notice::TooMany(wait)).await?;
            return Ok(again(page, Some(wait)));
        }
        let known = {
            let Some(place) = self.place().await else { return Ok(crowded()) };
            let (head, name) = (Arc::clone(&self.head), self.settings.name.clone());
            let serves = self.apis.app.desk.condition().serves();
            // A service may have many policies. The place is given back when the work has ended, not when
            // its caller has gone.
            let look = tokio::task::spawn_blocking(move || {
                let _place = place;
                look(&head, &name, &shown, serves)
            });
            look.await.map_err(|_| Problem::internal())?
        };
        self.page(StatusCode::OK, None, Some(known), AskForm::default()).await
    }
}

fn crowded() -> Response {
    let problem = Problem::busy("too many pages are made at this moment; try again");
    again(problem.into_response(), Some(AGAIN_S))
}

/// What a key may do. Blocks.
fn look(head: &Head, service: &str, shown: &str, serves: bool) -> YourKey {
    let now = keepgate_observe::unix_s();
    let Some(view) = head.world.service(service) else { return YourKey::Unknown };
    let found = key::prefix(shown).ok().and_then(|prefix| {
        let body = view.key(prefix)?;
        key::check(shown, body, now).ok().map(|()| (prefix, body))
    });
    let Some((prefix, body)) = found else { return YourKey::Unknown };
    YourKey::Known {
        prefix: prefix.to_owned(),
        plan: body.plan.clone(),
        left: HasLeft::AtGates,
        may: may(head, &view, service, &body.principal, serves.then_some(now)),
    }
}

/// What a principal may do, as far as it is the same for all requests of a route; no time: nothing can be
/// decided.
fn may(
    head: &Head,
    view: &ServiceView<'_>,
    service: &str,
    principal: &Uid,
    now: Option<u64>,
) -> Vec<May> {
    let routes = view.routes().get(..MAX_OPERATIONS).unwrap_or(view.routes());
    let Ok(router) = router::Router::new(routes) else { return vec![May::NotKnown; routes.len()] };
    let reads = head.world.reads(service);
    // What a gate adds to a question, but for the method.
    let depends = ["path", "ip", "host"].iter().any(|member| reads.context.has(member));
    let may = |(index, route): (usize, &keepgate_policy::route::Route)| {
        let (Some(action), Some(resource)) = router.fixed(index) else { return May::Depends };
        let Some(now) = now else { return May::NotKnown };
        if depends || route.method == "*" && reads.context.has("method") {
            return May::Depends;
        }
        let context = [("method".to_owned(), Value::String(route.method.clone()))].into();
        let query = Query::new(principal, action, resource).service(service).context(&context);
        match head.world.judge(&query.at(now), Prepared::nothing()) {
            Ok(verdict) if verdict.effect == Effect::Allow => May::Yes,
            Ok(_) => May::No,
            Err(_) => May::NotKnown,
        }
    };
    routes.iter().enumerate().map(may).collect()
}
