//! Signing in at an identity provider: the way there, and the way back.
//!
//! The way there is a link and no form: `form-action` holds for where a form is sent on to. The way back
//! ends in a page and no redirect: a browser that comes from another site shows no cookie of
//! `SameSite=Strict`, along all redirects.

use std::time::Instant;

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use maud::{Markup, html};

use super::cookies::Cookie;
use super::form::{Fields, encoded};
use super::login::{self, next};
use super::part::{Icon, Tone, carried, notice};
use super::session::{self, NoSession};
use super::visit::{self, Visit, see_other};
use super::{Console, PATHS, frame};
use crate::oidc::{Attempt, NotSignedIn, Provider, plain};

/// Where one begins.
pub(crate) const BEGIN: &str = "/login/oidc";

/// Where the provider sends one back to.
pub(crate) const BACK: &str = "/login/oidc/back";

/// What comes back, each once at most (RFC 6749, section 3.1).
const PARAMETERS: [&str; 4] = ["code", "state", "iss", "error"];

/// The link to the provider; nothing where there is none.
pub(crate) fn link(console: &Console, visit: &Visit, to: &str) -> Markup {
    let Some(provider) = &console.app.oidc else { return html! {} };
    let t = visit.lang;
    let query = if to.is_empty() { String::new() } else { format!("?next={}", encoded(to)) };
    html! {
        div class="in" {
            a class="btn primary" href={ (BEGIN) (query) } data-keep=(to) {
                (t.sign_in_with(provider.name()))
            }
        }
    }
}

fn redirect_uri(console: &Console, visit: &Visit) -> String {
    let base = console.app.public_url.as_deref().unwrap_or(&visit.origin);
    format!("{base}{BACK}")
}

/// The way there.
pub(crate) async fn begin(console: &Console, visit: &Visit) -> Response {
    let to = next(visit.query.text("next"));
    let Some(provider) = &console.app.oidc else { return see_other("/login") };
    if visit.who.is_some() {
        return see_other(if to.is_empty() { "/overview" } else { to });
    }
    if let Some(refused) = login::too_many(console, visit, to) {
        return refused;
    }
    let Some(attempt) = Attempt::new(to, keepgate_observe::unix_s()) else {
        tracing::error!("no sign-in was begun: the system gives no random numbers");
        return login::again(console, visit, StatusCode::INTERNAL_SERVER_ERROR, to, &html! {});
    };
    match provider.begin(&attempt, &redirect_uri(console, visit)).await {
        Ok(url) => {
            let mut response = see_other(&url);
            if let Some(cookie) = Cookie::SignIn.set(visit.secure, &attempt.text()) {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            response
        }
        Err(why) => refused(console, visit, provider, to, &why),
    }
}

/// The way back.
pub(crate) async fn back(console: &Console, visit: &Visit) -> Response {
    let Some(provider) = &console.app.oidc else { return see_other("/login") };
    let mut response = answered(console, visit, provider).await;
    // It was for one try, however that ended.
    if let Some(cookie) = Cookie::SignIn.set(visit.secure, "") {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

async fn answered(console: &Console, visit: &Visit, provider: &Provider) -> Response {
    let t = visit.lang;
    let now = keepgate_observe::unix_s();
    if let Some(refused) = login::too_many(console, visit, "") {
        return refused;
    }
    let is_once = |name: &&str| visit.query.iter().filter(|(of, _)| of == name).count() <= 1;
    let attempt = Attempt::of(&visit.sign_in, now)
        .filter(|attempt| attempt.is_state(visit.query.raw("state")))
        .filter(|_| PARAMETERS.iter().all(is_once));
    let Some(attempt) = attempt else {
        // Nobody here has begun it: a link of somebody else signs nobody in.
        let body = html! {
            p { (t.sign_in_stale_why()) }
            @if let Some(url) = console.app.public_url.as_deref() {
                p { a class="mono" href={ (url) "/login" } { (url) } }
            }
        };
        let said = notice(Tone::Warn, Icon::Warn, t.sign_in_stale(), &body);
        return login::again(console, visit, StatusCode::FORBIDDEN, "", &said);
    };
    let to = next(&attempt.next);
    let issuer = visit.query.iter().find(|(of, _)| *of == "iss").map(|(_, issuer)| issuer);
    match provider.is_from(issuer).await {
        Ok(true) => {}
        Ok(false) => {
            tracing::warn!(
                issuer = provider.issuer(),
                "an answer to a sign-in names another issuer, or none"
            );
            console.attempts.wrong(visit.from, Instant::now());
            let why = NotSignedIn::Refused("invalid_issuer".to_owned());
            return refused(console, visit, provider, to, &why);
        }
        Err(why) => return refused(console, visit, provider, to, &why),
    }
    let error = visit.query.raw("error");
    if !error.is_empty() {
        console.attempts.wrong(visit.from, Instant::now());
        let why = NotSignedIn::Refused(plain(error));
        return refused(console, visit, provider, to, &why);
    }
    let code = visit.query.raw("code");
    let uri = redirect_uri(console, visit);
    // Counted before the provider is asked: many at the same time are as many.
    console.attempts.wrong(visit.from, Instant::now());
    let person = match provider.finish(&attempt, code, &uri, now).await {
        Ok(person) => {
            console.attempts.right(visit.from);
            person
        }
        Err(why) => {
            if !matches!(
                why,
                NotSignedIn::Refused(_) | NotSignedIn::Token(_) | NotSignedIn::Away(_)
            ) {
                console.attempts.right(visit.from);
            }
            return refused(console, visit, provider, to, &why);
        }
    };
    match session::begin_person(console, person).await {
        Ok(who) => {
            let mut response = onward(visit, &who.secret, to);
            let cookies = [
                Cookie::Session.set(visit.secure, &who.secret),
                Cookie::Form.set(visit.secure, ""),
            ];
            for cookie in cookies.into_iter().flatten() {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            response
        }
        Err(no) => {
            let said = match no {
                NoSession::Full => t.sessions_full().to_owned(),
                NoSession::Refused(problem) => problem.detail().to_owned(),
                // Neither can come of a person.
                NoSession::Wrong | NoSession::Role(_) => t.sign_in_stale().to_owned(),
            };
            let said = notice(Tone::Bad, Icon::Bad, &said, &html! {});
            login::again(console, visit, StatusCode::SERVICE_UNAVAILABLE, to, &said)
        }
    }
}

/// Nobody signed in; why, and what to do.
fn refused(
    console: &Console,
    visit: &Visit,
    provider: &Provider,
    to: &str,
    why: &NotSignedIn,
) -> Response {
    let t = visit.lang;
    let cause = keepgate_observe::chain(why);
    let (status, said, more) = match why {
        NotSignedIn::Away(_) => {
            tracing::warn!(error = cause, "nobody can sign in at the identity provider");
            let more = t.sign_in_away_why().to_owned();
            (StatusCode::SERVICE_UNAVAILABLE, t.sign_in_away(provider.name()), more)
        }
        NotSignedIn::Busy => {
            let more = t.sign_in_away_why().to_owned();
            (StatusCode::SERVICE_UNAVAILABLE, t.sign_in_busy().to_owned(), more)
        }
        NotSignedIn::Refused(error) => {
            tracing::info!(error = cause, "a sign-in was refused");
            let more = t.sign_in_again().to_owned();
            (StatusCode::FORBIDDEN, t.sign_in_refused(error), more)
        }
        NotSignedIn::Token(_) => {
            tracing::warn!(error = cause, "a sign-in was refused");
            (StatusCode::FORBIDDEN, t.sign_in_token().to_owned(), t.see_log().to_owned())
        }
        NotSignedIn::Name(claim) => {
            tracing::warn!(error = cause, "a sign-in was refused");
            (StatusCode::FORBIDDEN, t.sign_in_name(claim), t.see_log().to_owned())
        }
        NotSignedIn::Unverified => {
            tracing::info!(error = cause, "a sign-in was refused");
            let more = t.sign_in_again().to_owned();
            (StatusCode::FORBIDDEN, t.sign_in_unverified().to_owned(), more)
        }
        NotSignedIn::NoRole(name) => {
            tracing::info!(error = cause, "a sign-in was refused");
            (StatusCode::FORBIDDEN, t.sign_in_no_role(name), t.sign_in_no_role_why().to_owned())
        }
    };
    if matches!(why, NotSignedIn::Refused(_) | NotSignedIn::Token(_)) {
        console.app.metrics.unauthenticated.add(1);
    }
    let tone = if status == StatusCode::FORBIDDEN { Tone::Bad } else { Tone::Warn };
    let said = notice(tone, Icon::Warn, &said, &html! { p { (more) } });
    login::again(console, visit, status, to, &said)
}

/// The page after a sign-in: from here on the browser comes from this site, and shows the session.
fn onward(visit: &Visit, secret: &str, to: &str) -> Response {
    let t = visit.lang;
    let to = if to.is_empty() { "/overview" } else { to };
    let (path, query) = to.split_once('?').unwrap_or((to, ""));
    let is = |method: &str| PATHS.iter().any(|one| one.path == path && one.method == method);
    let (back, query) = if is("GET") { (path, query) } else { ("/overview", "") };
    let fields = Fields::read(query).unwrap_or_default();
    let fields: Vec<(&str, &str)> = fields.iter().collect();
    // What was written before is in the browser, where it is posted to the page that it was for.
    let csrf = is("POST").then(|| visit::csrf(secret));
    let body = html! {
        (notice(Tone::Ok, Icon::Ok, t.signed_in(), &html! {}))
        form method="get" action=(back) data-go data-kept=(to) data-csrf=[csrf] {
            (carried(&fields))
            button class="btn primary" { (t.go_on()) }
        }
    };
    let mut response = frame::said(visit, StatusCode::OK, t.signed_in(), &body);
    // The address of this page has the code.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
