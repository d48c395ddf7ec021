//! The grants of a service: what a role or a principal may do, given and taken one by one.

use axum::response::Response;
use http::StatusCode;
use keepgate_api as api;
use keepgate_policy::Uid;
use keepgate_policy::model::GrantBody;
use maud::{Markup, html};
use serde_json::json;

use super::Console;
use super::access::{ROWS, as_uid, end};
use super::ask::Ask;
use super::callers::until;
use super::diff::revision_link;
use super::form::encoded;
use super::frame::{self, Nav, Place};
use super::part::{Field, Preview, empty, refused, still, table, tag};
use super::text::Lang;
use super::visit::{Visit, see_other};

/// What a grant lets do.
pub(crate) fn words(t: Lang, grant: &GrantBody) -> String {
    let actions: Vec<String> = grant.actions.iter().map(Uid::to_action_text).collect();
    let actions = if actions.is_empty() { t.any_action().to_owned() } else { actions.join(", ") };
    let resource = grant.resource.as_ref().map(Uid::to_string);
    t.grant_words(actions, resource.unwrap_or_else(|| t.any_resource().to_owned()))
}

/// The panel of a service's grants.
pub(crate) async fn panel_of(
    console: &Console,
    visit: &Visit,
    service: &str,
) -> Result<Markup, api::Problem> {
    let t = visit.lang;
    let after = visit.query.text("grants");
    let path =
        format!("/v1/services/{}/grants?limit={ROWS}&after={}", encoded(service), encoded(after));
    let list: api::ItemList<GrantBody> = console.get(visit, &path).await?;
    let heads = [
        (t.principal(), false),
        (t.lets_do(), false),
        (t.until(), false),
        (t.brought_by(), false),
        ("", false),
    ];
    let rows = html! {
        @for one in &list.items {
            tr {
                th scope="row" class="name" { (one.body.principal) small { (one.id) } }
                td { (words(t, &one.body)) }
                td class="nw" { (end(t, one.body.until_unix_s)) }
                td { (tag(t.brought(one.brought))) small { (t.revision_short("")) (revision_link(t, service, Some(one.revision))) } }
                td class="n" {
                    a class="btn small" href={
                        "/access/ungrant?service=" (encoded(service)) "&grant=" (encoded(&one.id))
                    } { (t.take()) span class="sr" { " " (one.id) } }
                }
            }
        }
    };
    let body = html! {
        @if list.items.is_empty() { (empty(t.no_grant(), t.no_grant_more())) }
        @else { (table(t.grants(), &heads, &rows)) }
        footer {
            a class="btn small" href={ "/access/grant?service=" (encoded(service)) } { (t.new_grant()) }
            @if let Some(next) = &list.next {
                a href={ "/access?service=" (encoded(service)) "&grants=" (encoded(next)) } { (t.next_page()) }
            }
        }
    };
    Ok(still("grants", &t.grants_of(service), "", &body))
}

/// A grant that somebody asks for.
fn asked(visit: &Visit) -> Result<GrantBody, api::Problem> {
    let t = visit.lang;
    let value = |name| match visit.form.text(name) {
        "" => visit.query.text(name),
        posted => posted,
    };
    let wrong = |what: &str, text: &str| api::Problem {
        status: 422,
        detail: t.not_an_entity(what, text),
        ..api::Problem::default()
    };
    let uid = |what: &str, text: String| text.parse::<Uid>().map_err(|_| wrong(what, &text));
    let actions = value("actions").split(',').map(str::trim).filter(|text| !text.is_empty());
    Ok(GrantBody {
        principal: uid(t.principal(), as_uid(value("principal"), "role"))?,
        actions: actions
            .map(|text| uid(t.action(), as_uid(text, "Action")))
            .collect::<Result<_, _>>()?,
        resource: match value("resource") {
            "" => None,
            text => Some(uid(t.resource(), text.to_owned())?),
        },
        until_unix_s: until(t, value("days"))?,
    })
}

pub(crate) async fn give(console: &Console, visit: &Visit) -> Response {
    let t = visit.lang;
    let service = visit.service();
    let value = |name| match visit.form.text(name) {
        "" => visit.query.text(name),
        posted => posted,
    };
    let grant = match value("principal") {
        "" => None,
        _ => Some(asked(visit)),
    };
    let mut status = StatusCode::OK;
    let mut above = html! {};
    let mut refuse = |problem: &api::Problem| {
        status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
        above = refused(t, problem);
    };
    let grant = match grant {
        Some(Ok(grant)) => Some(grant),
        Some(Err(problem)) => {
            refuse(&problem);
            None
        }
        None => None,
    };
    if visit.form.text("do") == "make"
        && let Some(grant) = &grant
    {
        let path =
            format!("/v1/services/{}/grants/{}", encoded(service), encoded(&grant.default_id()));
        match console.ask::<api::Changed>(visit, Ask::put(&path, json!(grant)).once(visit)).await {
            Ok(told) => return see_other(&saved(service, told.value.revision)),
            Err(problem) => refuse(&problem),
        }
    }
    let place = match Place::of(console, visit).await {
        Ok(place) => place,
        Err(problem) => return frame::failed(visit, &problem),
    };
    let field =
        |name, label, hint, needed| Field { name, label, value: value(name), hint, needed }.show();
    let form = html! {
        form class="in" method="get" action="/access/grant" {
            input type="hidden" name="service" value=(service);
            div class="row" {
                (field("principal", t.principal(), t.role_hint(), true))
                (field("actions", t.actions(), t.actions_hint(), false))
                (field("resource", t.resource(), t.grant_resource_hint(), false))
                (field("days", t.days(), t.days_hint(), false))
            }
            div class="actions" { button class="btn" { (t.show_changes()) } }
        }
    };
    let back = format!("/access?service={}", encoded(service));
    let body = html! {
        (above)
        (still("new-grant", t.new_grant(), t.nothing_changes_yet(), &form))
        @if let Some(grant) = &grant {
            (Preview {
                title: &t.grant_to(grant.principal.to_string()),
                gives: vec![t.grant_of(service, words(t, grant))],
                takes: Vec::new(),
                note: t.preview_note(),
                action: "/access/grant",
                carried: ["principal", "actions", "resource", "days"].into_iter()
                    .map(|name| (name, value(name))).chain([("service", service)]).collect(),
                deed: &t.grant_to(grant.principal.to_string()),
                danger: false,
                back: &back,
            }.show(visit))
        }
    };
    frame::page(visit, status, Nav::Access, &place, &body)
}

fn saved(service: &str, revision: u64) -> String {
    format!("/access?service={}&saved={revision}", encoded(service))
}

pub(crate) async fn take(console: &Console, visit: &Visit) -> Response {
    let t = visit.lang;
    let service = visit.service();
    let id = match visit.form.text("grant") {
        "" => visit.query.text("grant"),
        posted => posted,
    };
    let path = format!("/v1/services/{}/grants/{}", encoded(service), encoded(id));
    let mut status = StatusCode::OK;
    let mut above = html! {};
    if visit.form.text("do") == "make" {
        let ask = Ask::delete(&path).over(visit.form.text("tag")).once(visit);
        match console.ask::<api::Changed>(visit, ask).await {
            Ok(told) => return see_other(&saved(service, told.value.revision)),
            Err(problem) => {
                status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
                above = refused(t, &problem);
            }
        }
    }
    let place = match Place::of(console, visit).await {
        Ok(place) => place,
        Err(problem) => return frame::failed(visit, &problem),
    };
    let found = console.ask::<GrantBody>(visit, Ask::get(&path)).await;
    let back = format!("/access?service={}", encoded(service));
    let preview = match &found {
        Ok(told) => Preview {
            title: &t.ungrant_from(told.value.principal.to_string()),
            gives: Vec::new(),
            takes: vec![t.grant_of(service, words(t, &told.value))],
            note: t.preview_note(),
            action: "/access/ungrant",
            carried: vec![("service", service), ("grant", id), ("tag", &told.tag)],
            deed: &t.ungrant_from(told.value.principal.to_string()),
            danger: true,
            back: &back,
        }
        .show(visit),
        Err(problem) => {
            status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
            refused(t, problem)
        }
    };
    let body = html! { (above) (preview) };
    frame::page(visit, status, Nav::Access, &place, &body)
}
