//! Signing in and out, and the settings of whoever looks.

use std::time::Instant;

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use maud::{Markup, html};

use super::cookies::Cookie;
use super::form::Fields;
use super::part::{Icon, Tone, carried, english, hidden, notice, num};
use super::session::{self, NoSession};
use super::text::Lang;
use super::visit::{self, Theme, Visit, see_other};
use super::{Console, PATHS, frame, oidc};

/// What the names of fields begin with that are kept over a sign-in.
const KEPT: &str = "kept.";

/// Bytes of a token's text; it has fewer.
const TOKEN: usize = 256;

/// The page to go to, where it is one of the console's.
pub(crate) fn next(text: &str) -> &str {
    let path = text.split('?').next().unwrap_or_default();
    let known = PATHS.iter().any(|one| one.path == path && one.signed_in && path != "/live");
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains('\\');
    if known && is_plain && path != "/logout" { text } else { "" }
}

struct Kept<'a> {
    next: &'a str,
    fields: Vec<(String, &'a str)>,
}

fn form(
    console: &Console,
    visit: &Visit,
    status: StatusCode,
    said: &Markup,
    kept: &Kept<'_>,
    wrong: &str,
) -> Response {
    let t = visit.lang;
    let is_wrong = !wrong.is_empty();
    let has_provider = console.app.oidc.is_some();
    let body = html! {
        (said)
        section class="panel" aria-labelledby="sign-in" {
            header { h1 class="plain" id="sign-in" { (t.sign_in()) } }
            (oidc::link(console, visit, kept.next))
            form class="in" method="post" action="/login" {
                (hidden(visit))
                input type="hidden" name="next" value=(kept.next);
                @for (name, value) in &kept.fields {
                    input type="hidden" name={ (KEPT) (name) } value=(value);
                }
                div class="field" {
                    label for="token" { (t.token()) }
                    input class="mono" type="password" id="token" name="token" required autofocus[!has_provider]
                        autocomplete="current-password" spellcheck="false"
                        aria-invalid=[is_wrong.then_some("true")]
                        aria-describedby={ "token-hint" (if is_wrong { " token-error" } else { "" }) };
                    @if is_wrong {
                        p class="error" id="token-error" role="alert" { (Icon::Bad.at(14)) (wrong) }
                    }
                    span class="hint" id="token-hint" { (t.token_hint()) }
                }
                button class={ "btn" @if !has_provider { " primary" } } { (t.sign_in()) }
            }
        }
    };
    frame::solo(visit, status, t.sign_in(), &body)
}

pub(crate) fn show(console: &Console, visit: &Visit) -> Response {
    let to = next(visit.query.text("next"));
    if visit.who.is_some() {
        return see_other(if to.is_empty() { "/overview" } else { to });
    }
    let kept = Kept { next: to, fields: Vec::new() };
    form(console, visit, StatusCode::OK, &html! {}, &kept, "")
}

/// A form was sent by whoever has no session any more: what was written is kept, and nothing is done.
pub(crate) fn expired(console: &Console, visit: &Visit) -> Response {
    let t = visit.lang;
    let fields = visit.form.iter().filter(|(name, _)| !matches!(*name, "csrf" | "once" | "do"));
    let fields = fields.map(|(name, value)| (name.to_owned(), value)).collect();
    let kept = Kept { next: next(&visit.path), fields };
    let said = notice(Tone::Warn, Icon::Warn, t.expired(), &html! { p { (t.expired_why()) } });
    form(console, visit, StatusCode::UNAUTHORIZED, &said, &kept, "")
}

/// The page again, with what was said.
pub(crate) fn again(
    console: &Console,
    visit: &Visit,
    status: StatusCode,
    to: &str,
    said: &Markup,
) -> Response {
    let kept = Kept { next: to, fields: Vec::new() };
    form(console, visit, status, said, &kept, "")
}

/// The refusal of an address with too many wrong tries.
pub(crate) fn too_many(console: &Console, visit: &Visit, to: &str) -> Option<Response> {
    too_many_of(console, visit, &Kept { next: to, fields: Vec::new() })
}

fn too_many_of(console: &Console, visit: &Visit, kept: &Kept<'_>) -> Option<Response> {
    let wait = console.attempts.may(visit.from, Instant::now()).err()?;
    let seconds = wait.as_secs().max(1);
    let wrong = visit.lang.too_many_wrong(num(seconds));
    let status = StatusCode::TOO_MANY_REQUESTS;
    let mut response = form(console, visit, status, &html! {}, kept, &wrong);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    Some(response)
}

fn kept_of(fields: &Fields) -> Kept<'_> {
    let kept = |(name, value)| {
        let name: &str = name;
        name.strip_prefix(KEPT).map(|name| (name.to_owned(), value))
    };
    Kept { next: next(fields.text("next")), fields: fields.iter().filter_map(kept).collect() }
}

pub(crate) async fn sign_in(console: &Console, visit: &Visit) -> Response {
    let t = visit.lang;
    let kept = kept_of(&visit.form);
    let now = Instant::now();
    if let Some(refused) = too_many_of(console, visit, &kept) {
        return refused;
    }
    let text = visit.form.text("token");
    let begun = if text.len() > TOKEN {
        Err(NoSession::Wrong)
    } else {
        session::begin(console, text).await
    };
    let who = match begun {
        Ok(who) => who,
        Err(no) => {
            let (status, wrong) = match no {
                NoSession::Wrong => {
                    console.attempts.wrong(visit.from, now);
                    console.app.metrics.unauthenticated.add(1);
                    (StatusCode::UNAUTHORIZED, t.wrong_token().to_owned())
                }
                NoSession::Role(role) => (StatusCode::FORBIDDEN, t.wrong_role(role)),
                NoSession::Full => (StatusCode::SERVICE_UNAVAILABLE, t.sessions_full().to_owned()),
                NoSession::Refused(problem) => {
                    (StatusCode::SERVICE_UNAVAILABLE, problem.detail().to_owned())
                }
            };
            return form(console, visit, status, &html! {}, &kept, &wrong);
        }
    };
    let to = if kept.next.is_empty() { "/overview" } else { kept.next };
    let mut response =
        if kept.fields.is_empty() { see_other(to) } else { on_with(visit, &who.secret, to, &kept) };
    let cookies =
        [Cookie::Session.set(visit.secure, &who.secret), Cookie::Form.set(visit.secure, "")];
    for cookie in cookies.into_iter().flatten() {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// The way back to the page whose form was sent too late, with what was written.
fn on_with(visit: &Visit, secret: &str, to: &str, kept: &Kept<'_>) -> Response {
    let t = visit.lang;
    let path = to.split('?').next().unwrap_or_default();
    let is_form = PATHS.iter().any(|one| one.path == path && one.method == "POST");
    let method = if is_form { "post" } else { "get" };
    let fields: Vec<(&str, &str)> =
        kept.fields.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let body = html! {
        (notice(Tone::Ok, Icon::Ok, t.signed_in(), &html! { p { (t.signed_in_kept()) } }))
        form method=(method) action=(path) data-go {
            @if is_form {
                input type="hidden" name="csrf" value=(visit::csrf(secret));
                input type="hidden" name="do" value="show";
            }
            (carried(&fields))
            button class="btn primary" { (t.back_to_page()) }
        }
    };
    frame::said(visit, StatusCode::OK, t.signed_in(), &body)
}

pub(crate) async fn sign_out(console: &Console, visit: &Visit) -> Response {
    if let Some(who) = &visit.who
        && let Err(problem) = session::end(console, who).await
    {
        let t = visit.lang;
        let body = html! { p { (english(t, problem.detail())) } };
        let said = notice(Tone::Bad, Icon::Bad, t.not_signed_out(), &body);
        return frame::said(visit, StatusCode::SERVICE_UNAVAILABLE, t.not_signed_out(), &said);
    }
    let mut response = see_other("/login");
    if let Some(cookie) = Cookie::Session.set(visit.secure, "") {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

pub(crate) fn settings(visit: &Visit) -> Response {
    let theme = Theme::from_name(visit.form.text("theme"));
    let theme = if theme == Theme::System { "" } else { theme.name() };
    let language = Lang::from_tag(visit.form.text("language")).map_or("", Lang::tag);
    let to = match next(visit.form.text("next")) {
        "" if visit.who.is_none() => "/login",
        "" => "/overview",
        to => to,
    };
    let mut response = see_other(to);
    let cookies =
        [Cookie::Theme.set(visit.secure, theme), Cookie::Language.set(visit.secure, language)];
    for cookie in cookies.into_iter().flatten() {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_sent_to_pages_of_the_console_alone() {
        for good in ["/overview", "/policies?service=a%20b", "/access/give"] {
            assert_eq!(next(good), good);
        }
        for bad in [
            "",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example/overview",
            "/overview\\",
            "/overview\n",
            "/overviews",
            "/login",
            "/logout",
            "/live",
            "/v1/tokens",
        ] {
            assert_eq!(next(bad), "", "{bad}");
        }
    }
}
