//! What a field may be completed to: bounded answers, of the admin API's own lists, in key order.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use keepgate_api as api;
use keepgate_policy::Uid;
use keepgate_policy::model::{GrantBody, RoleBody};
use keepgate_policy::route::Route;
use maud::{Markup, html};
use serde_json::Value;

use super::Console;
use super::form::encoded;
use super::visit::Visit;

/// Answers to one question.
const ANSWERS: usize = 12;

/// Types that are tried where only a name is typed.
const TYPES: usize = 8;

/// Items of a list that are looked at where its order is of no help.
const LOOKED_AT: usize = 200;

/// Bytes of a question.
const TYPED: usize = 256;

/// `GET /complete?field=principal&q=bo&service=orders`: an array of texts. Whatever cannot be looked up is
/// left out: a field that is not completed is typed.
pub(crate) async fn answer(console: &Console, visit: &Visit) -> Response {
    let typed = visit.query.text("q");
    let field = visit.query.text("field");
    let found = match typed.len() > TYPED {
        true => Vec::new(),
        false => of(console, visit, visit.service(), field, typed).await,
    };
    Json(found).into_response()
}

/// The list of a field as it is before anything is typed.
pub(crate) async fn list(console: &Console, visit: &Visit, service: &str, field: &str) -> Markup {
    let typed = visit.query.text(field);
    let typed = if typed.len() > TYPED { "" } else { typed };
    let found = of(console, visit, service, field, typed).await;
    html! {
        datalist id={ "list-" (field) } { @for one in &found { option value=(one) {} } }
    }
}

async fn of(
    console: &Console,
    visit: &Visit,
    service: &str,
    field: &str,
    typed: &str,
) -> Vec<String> {
    let look = Look { console, visit, service };
    let mut found = match field {
        "principal" | "member" => look.principals(typed).await,
        "action" => look.actions(typed).await,
        "resource" => look.resources(typed).await,
        "role" => look.roles(typed).await,
        _ => Vec::new(),
    };
    found.sort_unstable();
    found.dedup();
    found.truncate(ANSWERS);
    found
}

struct Look<'a> {
    console: &'a Console,
    visit: &'a Visit,
    service: &'a str,
}

impl Look<'_> {
    /// Ids of a list after one, in its order.
    async fn ids(&self, list: &str, after: &str, limit: usize) -> Vec<String> {
        let path = format!("{list}?limit={limit}&after={}", encoded(after));
        let list = self.console.get::<api::ItemList<Value>>(self.visit, &path).await;
        list.map(|list| list.items.into_iter().map(|one| one.id).collect()).unwrap_or_default()
    }

    async fn members(&self, after: &str, limit: usize) -> Vec<String> {
        let path = format!("/v1/members?limit={limit}&after={}", encoded(after));
        let list = self.console.get::<api::Members>(self.visit, &path).await;
        let uid = |one: api::Member| super::part::uid(&one.member);
        list.map(|list| list.members.into_iter().map(uid).collect()).unwrap_or_default()
    }

    /// Entities of a list that begin as it was typed: by their text, or by their name alone.
    async fn entities(&self, list: List, typed: &str) -> Vec<String> {
        let read = async |after: &str, limit: usize| match list {
            List::Members => self.members(after, limit).await,
            List::Directory => self.ids("/v1/entities", after, limit).await,
            List::Own => {
                let path = format!("/v1/services/{}/entities", encoded(self.service));
                self.ids(&path, after, limit).await
            }
        };
        if typed.contains("::") || typed.is_empty() {
            let mut found = read(typed, ANSWERS).await;
            found.retain(|text| text.starts_with(typed));
            return found;
        }
        // A name alone: it is looked for in each type, and types are found by skipping each.
        let (mut after, mut found) = (String::new(), Vec::new());
        for _ in 0..TYPES {
            let Some(first) = read(&after, 1).await.pop() else { break };
            let Some(kind) = first.split("::\"").next().filter(|kind| kind.len() < first.len())
            else {
                break;
            };
            let begin = format!("{kind}::\"{typed}");
            if kind.starts_with(typed) {
                let all = format!("{kind}::\"");
                let more = read(&all, ANSWERS).await;
                found.extend(more.into_iter().filter(|text| text.starts_with(&all)));
            }
            let more = read(&begin, ANSWERS).await;
            found.extend(more.into_iter().filter(|text| text.starts_with(&begin)));
            after = format!("{kind}::\"\u{10ffff}");
        }
        found
    }

    async fn principals(&self, typed: &str) -> Vec<String> {
        let mut found = self.entities(List::Members, typed).await;
        found.extend(self.entities(List::Directory, typed).await);
        found.extend(self.entities(List::Own, typed).await);
        found
    }

    async fn grants(&self) -> Vec<GrantBody> {
        let path = format!("/v1/services/{}/grants?limit={LOOKED_AT}", encoded(self.service));
        let list = self.console.get::<api::ItemList<GrantBody>>(self.visit, &path).await;
        list.map(|list| list.items.into_iter().map(|one| one.body).collect()).unwrap_or_default()
    }

    async fn routes(&self) -> Vec<Route> {
        let path = format!("/v1/services/{}/routes?limit={LOOKED_AT}", encoded(self.service));
        let list = self.console.get::<api::ItemList<Route>>(self.visit, &path).await;
        list.map(|list| list.items.into_iter().map(|one| one.body).collect()).unwrap_or_default()
    }

    /// Of the first routes and grants.
    async fn actions(&self, typed: &str) -> Vec<String> {
        let routes = self.routes().await;
        let mut found: Vec<String> =
            routes.into_iter().map(|route| route.action.unwrap_or(route.method)).collect();
        for grant in self.grants().await {
            found.extend(grant.actions.iter().map(Uid::to_action_text));
        }
        let typed = typed.to_lowercase();
        found.retain(|text| text.to_lowercase().starts_with(&typed));
        found
    }

    /// Of the first routes and grants, and of all entities.
    async fn resources(&self, typed: &str) -> Vec<String> {
        let routes = self.routes().await.into_iter().filter(|route| route.resource.is_none());
        let routes =
            routes.map(|route| Uid { kind: "route".to_owned(), id: route.path }.to_string());
        let grants = self.grants().await.into_iter();
        let grants = grants.filter_map(|grant| grant.resource.map(|uid| uid.to_string()));
        let name = format!("::\"{typed}");
        let fits = |text: &String| text.starts_with(typed) || text.contains(&name);
        let mut found: Vec<String> = routes.chain(grants).filter(fits).collect();
        found.extend(self.entities(List::Own, typed).await);
        found.extend(self.entities(List::Directory, typed).await);
        found
    }

    /// Roles with a description, and those that grants name.
    async fn roles(&self, typed: &str) -> Vec<String> {
        let begin =
            if typed.contains("::") { typed.to_owned() } else { format!("role::\"{typed}") };
        let path = format!("/v1/roles?limit={ANSWERS}&after={}", encoded(&begin));
        let list = self.console.get::<api::ItemList<RoleBody>>(self.visit, &path).await;
        let mut found: Vec<String> =
            list.map(|list| list.items.into_iter().map(|one| one.id).collect()).unwrap_or_default();
        let grants = self.grants().await.into_iter().map(|grant| grant.principal.to_string());
        found.extend(grants.filter(|text| text.starts_with("role::")));
        found.retain(|text| text.starts_with(&begin));
        found
    }
}

/// A list of entities.
#[derive(Clone, Copy)]
enum List {
    Members,
    Directory,
    Own,
}
