//! `roles.toml` and `links.toml`: roles, their members, grants, and links of templates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::line::Lines;
use super::{LINKS, ROLES, Reader, toml_text};
use crate::instant;
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
    members: Vec<Spanned<MemberIn>>,
    #[serde(default)]
    grant: Vec<Spanned<RoleGrantIn>>,
}

/// Who is in a role; with an end where there is one.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a uid, or `{ member = UID, until = TIME }`")]
enum MemberIn {
    Plain(String),
    Until(MemberUntil),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberUntil {
    member: String,
    until: Until,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MembershipIn {
    member: Spanned<String>,
    role: String,
    #[serde(default)]
    until: Option<Until>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleGrantIn {
    #[serde(default)]
    id: Option<String>,
    actions: Actions,
    resource: String,
    #[serde(default)]
    until: Option<Until>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantIn {
    #[serde(default)]
    id: Option<String>,
    principal: String,
    actions: Actions,
    resource: String,
    #[serde(default)]
    until: Option<Until>,
}

/// When something ends: a date and time of TOML, or a text of that form; not read yet.
struct Until(String);

impl<'de> Deserialize<'de> for Until {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Until, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a time such as 2030-01-31T18:00:00Z")]
        enum Written {
            Time(toml::value::Datetime),
            Text(String),
        }
        Ok(Until(match Written::deserialize(from)? {
            Written::Time(time) => time.to_string(),
            Written::Text(text) => text,
        }))
    }
}

impl Until {
    /// The time; an error of the file where it is none.
    fn read(until: Option<Until>, reader: &mut Reader, line: usize) -> Option<Option<u64>> {
        match until.map(|until| instant::parse(&until.0)).transpose() {
            Ok(until) => Some(until),
            Err(error) => {
                reader.error(ROLES, Some(line), format!("`until`: {error}"));
                None
            }
        }
    }
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
    members: Vec<MemberOut>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    grant: Vec<GrantOut>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum MemberOut {
    Plain(String),
    Until { member: String, until: String },
}

#[derive(Serialize)]
struct MembershipOut {
    member: String,
    role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

#[derive(Serialize)]
struct GrantOut {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
    actions: Actions,
    resource: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
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
            let line = lines.at(member.span().start);
            let (member, until) = match member.into_inner() {
                MemberIn::Plain(member) => (member, None),
                MemberIn::Until(MemberUntil { member, until }) => (member, Some(until)),
            };
            membership(reader, line, &member, uid.clone(), until);
        }
        for table in role.grant {
            let line = lines.at(table.span().start);
            let RoleGrantIn { id, actions, resource, until } = table.into_inner();
            grant(reader, line, id, (uid.clone(), actions, &resource, until));
        }
    }
    for table in file.membership {
        let line = lines.at(table.member.span().start);
        membership(reader, line, table.member.get_ref(), Uid::role(&table.role), table.until);
    }
    for table in file.grant {
        let line = lines.at(table.span().start);
        let GrantIn { id, principal, actions, resource, until } = table.into_inner();
        grant(reader, line, id, (Uid::role(&principal), actions, &resource, until));
    }
}

fn membership(reader: &mut Reader, line: usize, member: &str, role: Uid, until: Option<Until>) {
    match member.parse::<Uid>() {
        Ok(member) => {
            let Some(until_unix_s) = Until::read(until, reader, line) else { return };
            let source = reader.service.clone();
            let body = MemberBody { member, role, source, until_unix_s };
            reader.put(ROLES, line, Item::new("", "", ItemBody::Member(body)));
        }
        Err(error) => reader.error(ROLES, Some(line), error.to_string()),
    }
}

fn grant(
    reader: &mut Reader,
    line: usize,
    id: Option<String>,
    (principal, actions, resource, until): (Uid, Actions, &str, Option<Until>),
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
    let Some(until_unix_s) = Until::read(until, reader, line) else { return };
    let mut body = GrantBody { principal, actions, resource, until_unix_s };
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
            ItemBody::Member(body) => {
                let (member, until) = (body.member.to_string(), body.until_unix_s);
                let until = until.map(instant::to_text);
                match roles.get_mut(&body.role) {
                    Some(role) => role.members.push(match until {
                        Some(until) => MemberOut::Until { member, until },
                        None => MemberOut::Plain(member),
                    }),
                    None => {
                        let role = body.role.to_role_text();
                        membership.push(MembershipOut { member, role, until });
                    }
                }
            }
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
                    until: body.until_unix_s.map(instant::to_text),
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
