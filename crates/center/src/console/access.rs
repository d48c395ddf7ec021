//! *Access*: roles, who is in them, and the grants of a service; giving and taking with a preview.

use axum::response::Response;
use http::StatusCode;
use keepgate_api as api;
use keepgate_policy::model::RoleBody;
use maud::{Markup, html};
use serde_json::json;

use super::ask::Ask;
use super::callers::until;
use super::diff::revision_link;
use super::form::encoded;
use super::frame::{self, Nav, Place};
use super::part::{
    Field, Icon, Preview, Tone, badge, done, empty, num, pages, refused, still, table, tag, uid,
};
use super::reviews::{self, Review};
use super::text::Lang;
use super::visit::{Visit, see_other};
use super::{Console, complete, grants};

/// Rows of a page.
pub(super) const ROWS: usize = 50;

/// Policies of a service that a preview looks at.
const LOOKED_AT: usize = 200;

pub(crate) async fn show(console: &Console, visit: &Visit) -> Response {
    let t = visit.lang;
    let place = match Place::of(console, visit).await {
        Ok(place) => place,
        Err(problem) => return frame::failed(visit, &problem),
    };
    let service = place.service.as_deref().unwrap_or_default();
    if let Some(review) = Review::of(visit) {
        let (status, found) = reviews::show(console, visit, &place, review).await;
        let body = html! { (reviews::tabs(t, service, Some(review))) (found) };
        return frame::page(visit, status, Nav::Access, &place, &body);
    }
    let (status, body) = match parts(console, visit, &place).await {
        Ok(body) => (StatusCode::OK, body),
        Err(problem) => (
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            refused(t, &problem),
        ),
    };
    let body = html! { (reviews::tabs(t, service, None)) (body) };
    frame::page(visit, status, Nav::Access, &place, &body)
}

async fn parts(console: &Console, visit: &Visit, place: &Place) -> Result<Markup, api::Problem> {
    let t = visit.lang;
    let (role, member) = (visit.query.text("role"), visit.query.text("member"));
    let after = |of: &str| visit.query.text(of).to_owned();
    let mut path = format!("/v1/members?limit={ROWS}&after={}", encoded(&after("after")));
    for (name, value) in [("role", role), ("member", member)] {
        if !value.is_empty() {
            let value = as_uid(value, if name == "role" { "role" } else { "user" });
            path = format!("{path}&{name}={}", encoded(&value));
        }
    }
    let members: api::Members = console.get(visit, &path).await?;
    let path = format!("/v1/roles?limit={ROWS}&after={}", encoded(&after("roles")));
    let roles: api::ItemList<RoleBody> = console.get(visit, &path).await?;
    let saved = visit.query.text("saved").parse::<u64>().ok();
    let grants = match &place.service {
        Some(service) => Some(grants::panel_of(console, visit, service).await?),
        None => None,
    };
    let lists = lists(console, visit, place.service.as_deref().unwrap_or_default()).await;
    Ok(html! {
        @if let Some(revision) = saved { (done(&t.changed_as(num(revision)))) }
        (search(visit, place, &lists))
        (members_panel(visit, place, &members))
        @if let Some(grants) = grants { (grants) }
        (roles_panel(visit, place, &roles))
    })
}

/// As one writes it: a name alone is of this type.
pub(super) fn as_uid(text: &str, kind: &str) -> String {
    if text.contains("::") { text.to_owned() } else { format!("{kind}::{}", json!(text)) }
}

/// What members and roles are completed from.
async fn lists(console: &Console, visit: &Visit, service: &str) -> Markup {
    let members = complete::list(console, visit, service, "member").await;
    let roles = complete::list(console, visit, service, "role").await;
    html! { (members) (roles) }
}

fn search(visit: &Visit, place: &Place, lists: &Markup) -> Markup {
    let t = visit.lang;
    let service = place.service.as_deref().unwrap_or_default();
    let field = |name, label, hint| {
        Field { name, label, value: visit.query.text(name), hint, needed: false }.completed()
    };
    let body = html! {
        form class="in" method="get" action="/access" data-complete={ "/complete?service=" (encoded(service)) } {
            input type="hidden" name="service" value=(service);
            (lists)
            div class="row" {
                (field("member", t.member(), t.principal_hint()))
                (field("role", t.role_head(), t.role_hint()))
            }
            div class="actions" {
                button class="btn primary" { (t.search()) }
                a class="btn" href={ "/access/give?service=" (encoded(service)) } {
                    (t.give_role())
                }
            }
        }
    };
    still("search", t.who_is_in(), "", &body)
}

fn members_panel(visit: &Visit, place: &Place, members: &api::Members) -> Markup {
    let t = visit.lang;
    let service = place.service.as_deref().unwrap_or_default();
    let heads = [
        (t.member(), false),
        (t.role_head(), false),
        (t.until(), false),
        (t.changed_at(), true),
        (t.brought_by(), false),
        ("", false),
    ];
    let rows = html! {
        @for one in &members.members {
            @let (member, role) = (uid(&one.member), uid(&one.role));
            tr {
                th scope="row" class="name" {
                    a href={ "/access?service=" (encoded(service)) "&tab=what&principal=" (encoded(&member)) } { (member) }
                }
                td { a href={ "/access?service=" (encoded(service)) "&role=" (encoded(&role)) } { (role) } }
                td class="nw" { (end(t, one.until_unix_s)) }
                td class="n" { (revision_link(t, service, Some(one.revision))) }
                td {
                    (tag(t.brought(one.brought)))
                    @if !one.source.is_empty() { small { (one.source) } }
                }
                td class="n" {
                    a class="btn small" href={
                        "/access/take?service=" (encoded(service)) "&member=" (encoded(&member))
                        "&role=" (encoded(&role))
                    } { (t.take()) span class="sr" { " " (role) " " (member) } }
                }
            }
        }
    };
    let base = format!(
        "/access?service={}&role={}&member={}",
        encoded(service),
        encoded(visit.query.text("role")),
        encoded(visit.query.text("member"))
    );
    let body = html! {
        @if members.members.is_empty() { (empty(t.nobody_in(), t.nobody_in_more())) }
        @else { (table(t.members(), &heads, &rows)) }
        (pages(t, &base, visit.query.text("after"), members.next.as_deref()))
    };
    still("members", t.members(), &t.at_revision(num(members.revision)), &body)
}

pub(super) fn end(t: Lang, until: Option<u64>) -> Markup {
    html! {
        @match until {
            Some(at) if at <= keepgate_observe::unix_s() => (badge(Tone::None, Icon::Minus, t.has_ended())),
            Some(at) => (keepgate_observe::date(at)),
            None => span class="quiet" { (t.no_end()) },
        }
    }
}

fn roles_panel(visit: &Visit, place: &Place, roles: &api::ItemList<RoleBody>) -> Markup {
    let t = visit.lang;
    let service = place.service.as_deref().unwrap_or_default();
    let heads = [(t.role_head(), false), (t.changed_at(), true), (t.brought_by(), false)];
    let rows = html! {
        @for one in &roles.items {
            tr {
                th scope="row" {
                    a href={ "/access?service=" (encoded(service)) "&role=" (encoded(&one.id)) } { (one.id) }
                    @if !one.body.description.is_empty() { small { (one.body.description) } }
                }
                td class="n" { (revision_link(t, service, Some(one.revision))) }
                td { (tag(t.brought(one.brought))) }
            }
        }
    };
    let next = roles.next.as_deref();
    let body = html! {
        @if roles.items.is_empty() { (empty(t.no_role(), t.no_role_more())) }
        @else { (table(t.roles(), &heads, &rows)) }
        @if let Some(next) = next {
            footer {
                a href={ "/access?service=" (encoded(service)) "&roles=" (encoded(next)) } { (t.next_page()) }
            }
        }
    };
    still("roles", t.roles(), t.roles_rest(), &body)
}

/// A membership that somebody asks for.
struct Asked {
    member: String,
    role: String,
    days: String,
}

impl Asked {
    fn of(visit: &Visit) -> Asked {
        let value = |name| match visit.form.text(name) {
            "" => visit.query.text(name),
            posted => posted,
        };
        let uid = |name, kind| match value(name) {
            "" => String::new(),
            text => as_uid(text, kind),
        };
        Asked {
            member: uid("member", "user"),
            role: uid("role", "role"),
            days: value("days").to_owned(),
        }
    }

    fn is_whole(&self) -> bool {
        !self.member.is_empty() && !self.role.is_empty()
    }
}

pub(crate) async fn give(console: &Console, visit: &Visit) -> Response {
    let asked = Asked::of(visit);
    let t = visit.lang;
    let made = if visit.form.text("do") == "make" {
        let made = async {
            let body = api::Membership {
                member: api::UidInput::Text(asked.member.clone()),
                role: api::UidInput::Text(asked.role.clone()),
                until_unix_s: until(t, &asked.days)?,
            };
            let create = visit.form.text("create") == "yes";
            let path = format!("/v1/roles/assign?must_exist={}", !create);
            let ask = Ask::post(&path, json!(body)).once(visit);
            Ok::<_, api::Problem>(console.ask::<api::Changed>(visit, ask).await?.value)
        };
        Some(made.await)
    } else {
        None
    };
    changed(console, visit, &asked, made, true).await
}

pub(crate) async fn take(console: &Console, visit: &Visit) -> Response {
    let asked = Asked::of(visit);
    let made = if visit.form.text("do") == "make" {
        let body = api::MembershipName {
            member: api::UidInput::Text(asked.member.clone()),
            role: api::UidInput::Text(asked.role.clone()),
        };
        let ask = Ask::post("/v1/roles/revoke", json!(body)).once(visit);
        Some(console.ask::<api::Changed>(visit, ask).await.map(|told| told.value))
    } else {
        None
    };
    changed(console, visit, &asked, made, false).await
}

async fn changed(
    console: &Console,
    visit: &Visit,
    asked: &Asked,
    made: Option<Result<api::Changed, api::Problem>>,
    gives: bool,
) -> Response {
    let t = visit.lang;
    let service = visit.service();
    let back = format!("/access?service={}&member={}", encoded(service), encoded(&asked.member));
    let mut status = StatusCode::OK;
    let above = match made {
        Some(Ok(changed)) => return see_other(&format!("{back}&saved={}", changed.revision)),
        Some(Err(problem)) => {
            status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
            refused(t, &problem)
        }
        None => html! {},
    };
    let place = match Place::of(console, visit).await {
        Ok(place) => place,
        Err(problem) => return frame::failed(visit, &problem),
    };
    let preview = match asked.is_whole() {
        true => preview(console, visit, &place, asked, gives, &back).await,
        false => html! {},
    };
    let lists = lists(console, visit, place.service.as_deref().unwrap_or_default()).await;
    let body = html! {
        (above)
        @if gives { (give_form(visit, asked, &lists)) }
        (preview)
    };
    frame::page(visit, status, Nav::Access, &place, &body)
}

fn give_form(visit: &Visit, asked: &Asked, lists: &Markup) -> Markup {
    let t = visit.lang;
    let body = html! {
        form class="in" method="get" action="/access/give" data-complete={ "/complete?service=" (encoded(visit.service())) } {
            input type="hidden" name="service" value=(visit.service());
            (lists)
            div class="row" {
                (Field { name: "member", label: t.member(), value: &asked.member, hint: t.principal_hint(), needed: true }.completed())
                (Field { name: "role", label: t.role_head(), value: &asked.role, hint: t.role_hint(), needed: true }.completed())
                (Field { name: "days", label: t.days(), value: &asked.days, hint: t.days_hint(), needed: false }.show())
            }
            div class="actions" { button class="btn" { (t.show_changes()) } }
        }
    };
    still("give", t.give_role(), t.nothing_changes_yet(), &body)
}

/// Whether a policy applies to a role because it is that role, and not to everyone.
fn is_of(role: &str, one: &api::Holding) -> bool {
    !one.given.path.is_empty() || one.given.item.kind == "link" || one.text.contains(role)
}

/// What a membership is worth by the policies, links and grants of the services that the page looks at.
async fn preview(
    console: &Console,
    visit: &Visit,
    place: &Place,
    asked: &Asked,
    gives: bool,
    back: &str,
) -> Markup {
    let t = visit.lang;
    let mut note = t.preview_note().to_owned();
    // What the role permits, and what it forbids.
    let mut lines = (Vec::new(), Vec::new());
    let services = place.services.iter();
    for service in services.filter(|one| one.grants + one.policies + one.links > 0) {
        let path = format!(
            "/v1/access/principal?limit={LOOKED_AT}&service={}&principal={}",
            encoded(&service.name),
            encoded(&asked.role)
        );
        let found = console.get::<api::PrincipalAccess>(visit, &path).await;
        let Ok(found) = found else {
            note = format!("{note} {}", t.not_looked_at(&service.name));
            continue;
        };
        for one in found.entries.iter().filter(|one| is_of(&asked.role, one)) {
            let item = format!("{} {}", one.given.item.kind, one.given.item.id);
            let mut words = t.holding_words(&one.action, &one.resource, item);
            if let Some(condition) = &one.given.condition {
                words = t.only_where(words, condition);
            }
            let line = t.grant_of(&service.name, words);
            match one.effect {
                api::PolicyEffect::Permit => lines.0.push(line),
                api::PolicyEffect::Forbid => lines.1.push(line),
            }
        }
        if found.next.is_some() {
            note = format!("{note} {}", t.more_not_looked_at(&service.name));
        }
    }
    lines.0.truncate(100);
    lines.1.truncate(100);
    let title = match gives {
        true => t.give_to(&asked.role, &asked.member),
        false => t.take_from(&asked.role, &asked.member),
    };
    let (gained, lost) = if gives { lines } else { (lines.1, lines.0) };
    let mut carried = vec![
        ("service", visit.service()),
        ("member", asked.member.as_str()),
        ("role", asked.role.as_str()),
        ("days", asked.days.as_str()),
    ];
    if visit.form.text("create") == "yes" {
        carried.push(("create", "yes"));
    }
    Preview {
        title: &title,
        gives: gained,
        takes: lost,
        note: &note,
        action: if gives { "/access/give" } else { "/access/take" },
        carried,
        deed: &title,
        danger: !gives,
        back,
    }
    .show(visit)
}
