//! Reviews of access: who can do this, what can she do, who is in a role; each with what gives it, since
//! when, and by whom.

use http::StatusCode;
use keepgate_api as api;
use maud::{Markup, html};

use super::access::{ROWS, as_uid, end};
use super::form::encoded;
use super::frame::Place;
use super::part::{Field, Icon, Tone, badge, empty, num, refused, still, table};
use super::text::Lang;
use super::visit::Visit;
use super::way::{given, since, stops, way};
use super::{Console, complete, why};

/// Policies of a row that are shown.
const SHOWN: usize = 5;

/// A question about access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Review {
    Who,
    What,
    Role,
}

impl Review {
    const ALL: [Review; 3] = [Review::Who, Review::What, Review::Role];

    pub(crate) fn of(visit: &Visit) -> Option<Review> {
        Review::ALL.into_iter().find(|review| review.tab() == visit.query.text("tab"))
    }

    fn tab(self) -> &'static str {
        match self {
            Review::Who => "who",
            Review::What => "what",
            Review::Role => "role",
        }
    }

    fn title(self, t: Lang) -> &'static str {
        match self {
            Review::Who => t.who_can(),
            Review::What => t.what_can(),
            Review::Role => t.who_is_in_role(),
        }
    }

    /// The fields of the question, and whether each is needed.
    fn fields(self) -> &'static [(&'static str, bool)] {
        match self {
            Review::Who => {
                &[("action", false), ("resource", true), ("type", false), ("as_of", false)]
            }
            Review::What => &[("principal", true), ("action", false), ("as_of", false)],
            Review::Role => &[("role", true), ("as_of", false)],
        }
    }
}

/// The tabs of the page.
pub(crate) fn tabs(t: Lang, service: &str, chosen: Option<Review>) -> Markup {
    let tab = |review: Option<Review>, title: &str| {
        html! {
            a href={ "/access?service=" (encoded(service)) "&tab=" (review.map_or("roles", Review::tab)) }
                aria-current=[(review == chosen).then_some("true")] { (title) }
        }
    };
    html! {
        nav class="seg" aria-label=(t.questions()) {
            (tab(None, t.roles_and_grants()))
            @for review in Review::ALL { (tab(Some(review), review.title(t))) }
        }
    }
}

/// The question, and its answer.
pub(crate) async fn show(
    console: &Console,
    visit: &Visit,
    place: &Place,
    review: Review,
) -> (StatusCode, Markup) {
    let t = visit.lang;
    let service = place.service.as_deref().unwrap_or_default();
    let form = question(console, visit, service, review).await;
    let needed = review.fields().iter().filter(|(_, needed)| *needed);
    let is_asked = needed.clone().all(|(name, _)| !visit.query.text(name).is_empty());
    if service.is_empty() || !is_asked {
        let hint = still("found", review.title(t), "", &empty(t.ask_access(), t.ask_access_more()));
        return (StatusCode::OK, html! { (form) (hint) });
    }
    let asked = Asked::of(visit, service, review);
    let found = match review {
        Review::Who => console
            .get(visit, &asked.path("/v1/access/resource"))
            .await
            .map(|found| who(t, &asked, &found)),
        Review::What => console
            .get(visit, &asked.path("/v1/access/principal"))
            .await
            .map(|found| what(t, &asked, &found)),
        Review::Role => console
            .get(visit, &asked.path("/v1/access/role"))
            .await
            .map(|found| role(t, &asked, &found)),
    };
    match found {
        Ok(found) => (StatusCode::OK, html! { (form) (found) }),
        Err(problem) => {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
            (status, html! { (form) (refused(t, &problem)) })
        }
    }
}

/// Whether a field is completed while one types.
fn is_completed(name: &str) -> bool {
    !matches!(name, "as_of" | "type")
}

async fn question(console: &Console, visit: &Visit, service: &str, review: Review) -> Markup {
    let t = visit.lang;
    let mut lists = html! {};
    for (name, _) in review.fields() {
        if is_completed(name) {
            let list = complete::list(console, visit, service, name).await;
            lists = html! { (lists) (list) };
        }
    }
    let words = |name: &str| match name {
        "principal" => (t.principal(), t.principal_hint()),
        "action" => (t.action(), t.action_hint_any()),
        "resource" => (t.resource(), t.resource_hint()),
        "role" => (t.role_head(), t.role_hint()),
        "type" => (t.of_type(), t.of_type_hint()),
        _ => (t.as_of(), t.as_of_hint()),
    };
    let body = html! {
        form class="in" method="get" action="/access" data-complete={ "/complete?service=" (encoded(service)) } {
            input type="hidden" name="service" value=(service);
            input type="hidden" name="tab" value=(review.tab());
            div class="row" {
                @for (name, needed) in review.fields() {
                    @let (label, hint) = words(name);
                    @let field = Field { name, label, value: visit.query.text(name), hint, needed: *needed };
                    @if is_completed(name) { (field.completed()) } @else { (field.show()) }
                }
            }
            (lists)
            div class="actions" { button class="btn primary" { (t.search()) } }
        }
    };
    still("question", review.title(t), "", &body)
}

/// A question that was asked.
struct Asked<'a> {
    service: &'a str,
    review: Review,
    /// Each field's value, as the API takes it.
    fields: Vec<(&'static str, String)>,
    after: &'a str,
}

impl<'a> Asked<'a> {
    fn of(visit: &'a Visit, service: &'a str, review: Review) -> Asked<'a> {
        let fields = review.fields().iter().filter_map(|(name, _)| {
            let value = match *name {
                "as_of" => why::as_of(visit),
                "role" => as_uid(visit.query.text("role"), "role"),
                "principal" => as_uid(visit.query.text("principal"), "user"),
                name => visit.query.text(name).to_owned(),
            };
            (!value.is_empty()).then_some((*name, value))
        });
        Asked { service, review, fields: fields.collect(), after: visit.query.text("after") }
    }

    fn value(&self, name: &str) -> &str {
        self.fields.iter().find(|(of, _)| *of == name).map_or("", |(_, value)| value)
    }

    fn query(&self) -> String {
        let fields = self.fields.iter().map(|(name, value)| format!("&{name}={}", encoded(value)));
        fields.collect()
    }

    fn path(&self, list: &str) -> String {
        let after = match self.after {
            "" => String::new(),
            after => format!("&after={}", encoded(after)),
        };
        format!("{list}?limit={ROWS}&service={}{}{after}", encoded(self.service), self.query())
    }

    /// Where it is asked again.
    fn base(&self) -> String {
        let tab = self.review.tab();
        format!("/access?service={}&tab={tab}{}", encoded(self.service), self.query())
    }

    /// The same on the command line, which can also write it as CSV.
    fn command(&self) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
        let mut line = "keepgate access".to_owned();
        for (name, value) in &self.fields {
            let value = value.strip_prefix("Action::").unwrap_or(value);
            let name = name.replace('_', "-");
            line = format!("{line} --{name} {}", quoted(value));
        }
        format!("{line} --service {} --csv", quoted(self.service))
    }
}

/// What follows a list: its revision, the next page, and the command that prints all of it.
fn foot(t: Lang, asked: &Asked<'_>, revision: u64, next: Option<&str>) -> Markup {
    let base = asked.base();
    html! {
        footer {
            span { (t.at_revision(num(revision))) }
            @if !asked.after.is_empty() { a href=(base) { (t.first_page()) } }
            @if let Some(next) = next { a href={ (base) "&after=" (encoded(next)) } { (t.next_page()) } }
        }
        footer { span { (t.all_as_csv()) } code class="long" { (asked.command()) } }
    }
}

/// A page may be empty and still be followed by another.
fn nothing(t: Lang, more: bool) -> Markup {
    if more {
        empty(t.nothing_so_far(), t.nothing_so_far_page())
    } else {
        empty(t.nobody_can(), t.nobody_can_more())
    }
}

/// A list of policies within a row, the first of them.
fn givens(t: Lang, service: &str, all: &[api::GivenBy]) -> Markup {
    html! {
        @for one in all.iter().take(SHOWN) { div class="given" { (given(t, service, one)) } }
        @if all.len() > SHOWN { small { (t.and_more(num((all.len() - SHOWN) as u64))) } }
    }
}

fn who(t: Lang, asked: &Asked<'_>, found: &api::ResourceAccess) -> Markup {
    let service = asked.service;
    let heads = [
        (t.principal(), false),
        (t.may_do(), false),
        (t.how(), false),
        (t.given_by(), false),
        ("", false),
    ];
    let rows = html! {
        @for one in &found.entries {
            @let first = one.by.first().or(one.when.first());
            tr {
                th scope="row" class="name" {
                    @match one.principal.strip_prefix("any") {
                        Some("") => (t.anyone()),
                        Some(kind) => (t.any_of_type(kind.trim())),
                        None => a href={ "/access?service=" (encoded(service)) "&tab=what&principal=" (encoded(&one.principal)) } { (one.principal) },
                    }
                }
                td {
                    @for (n, action) in one.actions.iter().take(20).enumerate() {
                        @if n > 0 { " " }
                        @if action == "any other" { (t.any_other()) } @else { code { (action) } }
                    }
                    @if one.actions.len() > 20 { " " (t.and_more(num((one.actions.len() - 20) as u64))) }
                }
                td class="wrap" {
                    @if one.conditional { (badge(Tone::Warn, Icon::Warn, t.conditional())) }
                    (givens(t, service, &one.by))
                    @if !one.when.is_empty() {
                        div class="part" { b { (t.where_holds()) } (givens(t, service, &one.when)) }
                    }
                    @if !one.unless.is_empty() {
                        div class="part" { b { (t.unless_holds()) } (givens(t, service, &one.unless)) }
                    }
                }
                td class="wrap" { @if let Some(first) = first { (since(t, service, &first.since)) } }
                td class="n" { (take(t, service, &one.principal, first)) }
            }
        }
    };
    let body = html! {
        @if found.entries.is_empty() { (nothing(t, found.next.is_some())) }
        @else { (table(t.who_can(), &heads, &rows)) }
        (foot(t, asked, found.revision, found.next.as_deref()))
    };
    let action = match asked.value("action") {
        "" => t.something().to_owned(),
        action => action.to_owned(),
    };
    still("found", &t.who_can_do(action, asked.value("resource")), t.forbids_count(), &body)
}

/// The way to take it: the membership of the first step, or the grant itself.
fn take(t: Lang, service: &str, principal: &str, by: Option<&api::GivenBy>) -> Markup {
    let Some(by) = by else { return html! {} };
    let by_membership =
        by.path.first().filter(|step| step.by.as_ref().is_some_and(|item| item.kind == "member"));
    let (to, what) = match by_membership {
        Some(step) => (
            format!(
                "/access/take?service={}&member={}&role={}",
                encoded(service),
                encoded(principal),
                encoded(&step.to)
            ),
            step.to.as_str(),
        ),
        None if by.path.is_empty() && by.item.kind == "grant" => (
            format!("/access/ungrant?service={}&grant={}", encoded(service), encoded(&by.item.id)),
            by.item.id.as_str(),
        ),
        None => return html! {},
    };
    html! { a class="btn small" href=(to) { (t.take()) span class="sr" { " " (what) " " (principal) } } }
}

fn what(t: Lang, asked: &Asked<'_>, found: &api::PrincipalAccess) -> Markup {
    let service = asked.service;
    let principal = asked.value("principal");
    let heads = [
        (t.effect(), false),
        (t.actions(), false),
        (t.resource(), false),
        (t.how(), false),
        (t.until(), false),
        (t.given_by(), false),
        ("", false),
    ];
    let rows = html! {
        @for one in &found.entries {
            tr {
                td {
                    @match one.effect {
                        api::PolicyEffect::Permit => (badge(Tone::Ok, Icon::Ok, t.permits())),
                        api::PolicyEffect::Forbid => (badge(Tone::Bad, Icon::Bad, t.forbids())),
                    }
                }
                td { code class="long" { (one.action) } }
                td { code class="long" { (one.resource) } }
                td class="wrap" {
                    (given(t, service, &one.given))
                    details { summary { (t.its_text()) } pre tabindex="0" role="group" aria-label=(t.text_of(&one.given.item.id)) { (one.text) } }
                }
                td class="nw" { (end(t, one.until_unix_s)) }
                td class="wrap" { (since(t, service, &one.given.since)) }
                td class="n" { @if one.effect == api::PolicyEffect::Permit { (take(t, service, principal, Some(&one.given))) } }
            }
        }
    };
    let body = html! {
        @if found.entries.is_empty() { (nothing(t, found.next.is_some())) }
        @else { (table(t.what_can(), &heads, &rows)) }
        (foot(t, asked, found.revision, found.next.as_deref()))
    };
    still("found", &t.what_can_do(principal), t.what_can_rest(), &body)
}

fn role(t: Lang, asked: &Asked<'_>, found: &api::RoleAccess) -> Markup {
    let service = asked.service;
    let role = asked.value("role");
    let heads = [(t.member(), false), (t.how(), false), (t.given_by(), false), ("", false)];
    let rows = html! {
        @for one in &found.entries {
            @let own = one.path.first().filter(|_| one.path.len() == 1);
            tr {
                th scope="row" class="name" { (one.member) }
                td class="wrap" { (way(t.way_of_principal(), &stops(t, service, &one.path))) }
                td class="wrap" {
                    @if let Some(of) = one.path.first().and_then(|step| step.since.as_ref()) { (since(t, service, of)) }
                }
                td class="n" {
                    @if own.is_some_and(|step| step.by.as_ref().is_some_and(|item| item.kind == "member")) {
                        a class="btn small" href={
                            "/access/take?service=" (encoded(service)) "&member=" (encoded(&one.member)) "&role=" (encoded(role))
                        } { (t.take()) span class="sr" { " " (role) " " (one.member) } }
                    }
                }
            }
        }
    };
    let body = html! {
        @if found.entries.is_empty() { (nothing(t, found.next.is_some())) }
        @else { (table(t.members(), &heads, &rows)) }
        (foot(t, asked, found.revision, found.next.as_deref()))
    };
    still("found", &t.who_is_in_this(role), t.roles_in_roles(), &body)
}
