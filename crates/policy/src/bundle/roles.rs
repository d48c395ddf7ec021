//! `roles.toml` and `links.toml`: roles, their members, grants, and links of templates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::line::Lines;
use super::{LINKS, ROLES, Reader, toml_text};
use crate::model::{GrantBody, Item, ItemBody, LinkBody, MemberBody, RoleBody, Uid};

/// In place of a list of actions or of a resource: all there are. It must be written, so that
/// a line that was forgotten does not grant everything.
const ANY: &str = "any";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RolesIn {
    #[serde(default)]
    role: Vec<RoleIn>,
    #[serde(default)]
    membership: Vec<MembershipIn>,
    #[serde(default)]
    grant: Vec<Spanned<GrantIn>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleIn {
    id: Spanned<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    members: Vec<Spanned<String>>,
    #[serde(default)]
    grant: Vec<Spanned<RoleGrantIn>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MembershipIn {
    member: Spanned<String>,
    role: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleGrantIn {
    #[serde(default)]
    id: Option<String>,
    actions: Actions,
    resource: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantIn {
    #[serde(default)]
    id: Option<String>,
    principal: String,
    actions: Actions,
    resource: String,
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Actions {
    Any(String),
    Some(Vec<String>),
}

#[derive(Serialize)]
struct RolesOut {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    role: Vec<RoleOut>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    membership: Vec<MembershipOut>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    grant: Vec<GrantOut>,
}

#[derive(Serialize)]
struct RoleOut {
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    grant: Vec<GrantOut>,
}

#[derive(Serialize)]
struct MembershipOut {
    member: String,
    role: String,
}

#[derive(Serialize)]
struct GrantOut {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
    actions: Actions,
    resource: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinksIn {
    #[serde(default)]
    link: Vec<Spanned<LinkTable>>,
}

#[derive(Serialize)]
struct LinksOut {
    link: Vec<LinkTable>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct LinkTable {
    id: String,
    template: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
}

impl GrantBody {
    /// The id of a grant that is given none: what it says, in one line.
    pub fn default_id(&self) -> String {
        let actions: Vec<String> = self.actions.iter().map(Uid::to_action_text).collect();
        let actions = if actions.is_empty() { ANY.to_owned() } else { actions.join(", ") };
        let resource = self.resource.as_ref().map_or_else(|| ANY.to_owned(), Uid::to_string);
        format!("{}: {actions} on {resource}", self.principal.to_role_text())
    }
}

pub(super) fn parse_roles(reader: &mut Reader, text: &str) {
    let file: RolesIn = match toml::from_str(text) {
        Ok(file) => file,
        Err(error) => return reader.toml_error(ROLES, text, &error),
    };
    let (source, lines) = (reader.service.clone(), Lines::of(text));
    for role in file.role {
        let line = lines.at(role.id.span().start);
        let uid = Uid::role(role.id.get_ref());
        let body =
            RoleBody { uid: uid.clone(), description: role.description, source: source.clone() };
        reader.put(ROLES, line, Item::new("", "", ItemBody::Role(body)));
        for member in role.members {
            membership(reader, &lines, &member, uid.clone());
        }
        for table in role.grant {
            let line = lines.at(table.span().start);
            let RoleGrantIn { id, actions, resource } = table.into_inner();
            grant(reader, line, id, uid.clone(), actions, &resource);
        }
    }
    for table in file.membership {
        membership(reader, &lines, &table.member, Uid::role(&table.role));
    }
    for table in file.grant {
        let line = lines.at(table.span().start);
        let GrantIn { id, principal, actions, resource } = table.into_inner();
        grant(reader, line, id, Uid::role(&principal), actions, &resource);
    }
}

fn membership(reader: &mut Reader, lines: &Lines, member: &Spanned<String>, role: Uid) {
    let line = lines.at(member.span().start);
    match member.get_ref().parse::<Uid>() {
        Ok(member) => {
            let body = MemberBody { member, role, source: reader.service.clone() };
            reader.put(ROLES, line, Item::new("", "", ItemBody::Member(body)));
        }
        Err(error) => reader.error(ROLES, Some(line), error.to_string()),
    }
}

fn grant(
    reader: &mut Reader,
    line: usize,
    id: Option<String>,
    principal: Uid,
    actions: Actions,
    resource: &str,
) {
    let actions = match actions {
        Actions::Any(any) if any == ANY => Vec::new(),
        Actions::Some(list) if !list.is_empty() => {
            list.iter().map(|action| Uid::action(action)).collect()
        }
        _ => {
            let message = "`actions` is a list of at least one, or \"any\"";
            return reader.error(ROLES, Some(line), message);
        }
    };
    let resource = if resource == ANY {
        None
    } else {
        match resource.parse::<Uid>() {
            Ok(uid) => Some(uid),
            Err(error) => {
                let message = format!("`resource`: {error}, or as \"any\"");
                return reader.error(ROLES, Some(line), message);
            }
        }
    };
    let mut body = GrantBody { principal, actions, resource };
    body.actions.sort();
    body.actions.dedup();
    let id = id.unwrap_or_else(|| body.default_id());
    reader.put(ROLES, line, Item::new(&reader.service, &id, ItemBody::Grant(body)));
}

pub(super) fn parse_links(reader: &mut Reader, text: &str) {
    let file: LinksIn = match toml::from_str(text) {
        Ok(file) => file,
        Err(error) => return reader.toml_error(LINKS, text, &error),
    };
    let lines = Lines::of(text);
    for table in file.link {
        let line = lines.at(table.span().start);
        let table = table.into_inner();
        let uid = |text: Option<String>| text.map(|text| text.parse::<Uid>()).transpose();
        match (uid(table.principal), uid(table.resource)) {
            (Ok(principal), Ok(resource)) => {
                let body = LinkBody { template: table.template, principal, resource };
                let item = Item::new(&reader.service, &table.id, ItemBody::Link(body));
                reader.put(LINKS, line, item);
            }
            (Err(error), _) | (_, Err(error)) => {
                reader.error(LINKS, Some(line), error.to_string());
            }
        }
    }
}

pub(super) fn render_roles(items: &[&Item]) -> Option<String> {
    let mut roles: BTreeMap<&Uid, RoleOut> = BTreeMap::new();
    for item in items {
        if let ItemBody::Role(role) = &item.body {
            let out = RoleOut {
                id: role.uid.to_role_text(),
                description: role.description.clone(),
                members: Vec::new(),
                grant: Vec::new(),
            };
            roles.insert(&role.uid, out);
        }
    }
    let (mut membership, mut grant) = (Vec::new(), Vec::new());
    for item in items {
        match &item.body {
            ItemBody::Member(body) => match roles.get_mut(&body.role) {
                Some(role) => role.members.push(body.member.to_string()),
                None => membership.push(MembershipOut {
                    member: body.member.to_string(),
                    role: body.role.to_role_text(),
                }),
            },
            ItemBody::Grant(body) => {
                let actions = if body.actions.is_empty() {
                    Actions::Any(ANY.to_owned())
                } else {
                    Actions::Some(body.actions.iter().map(Uid::to_action_text).collect())
                };
                let resource = body.resource.as_ref();
                let mut out = GrantOut {
                    id: (item.key.id != body.default_id()).then(|| item.key.id.clone()),
                    principal: None,
                    actions,
                    resource: resource.map_or_else(|| ANY.to_owned(), Uid::to_string),
                };
                match roles.get_mut(&body.principal) {
                    Some(role) => role.grant.push(out),
                    None => {
                        out.principal = Some(body.principal.to_role_text());
                        grant.push(out);
                    }
                }
            }
            _ => {}
        }
    }
    let role: Vec<RoleOut> = roles.into_values().collect();
    let is_empty = role.is_empty() && membership.is_empty() && grant.is_empty();
    (!is_empty).then(|| toml_text(&RolesOut { role, membership, grant }))
}

pub(super) fn render_links(items: &[&Item]) -> Option<String> {
    let link: Vec<LinkTable> = items
        .iter()
        .filter_map(|item| match &item.body {
            ItemBody::Link(body) => Some(LinkTable {
                id: item.key.id.clone(),
                template: body.template.clone(),
                principal: body.principal.as_ref().map(Uid::to_string),
                resource: body.resource.as_ref().map(Uid::to_string),
            }),
            _ => None,
        })
        .collect();
    (!link.is_empty()).then(|| toml_text(&LinksOut { link }))
}
