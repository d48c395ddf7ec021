//! Reviews of access: who may do what on a resource, what somebody may do, who is in a role.
//!
//! What a decision would say is the world's matter ([`keepgate_policy::world`]); here it is put together
//! with since when, and by whom, each item says so.

use std::collections::{BTreeMap, HashMap};

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use keepgate_api as api;
use keepgate_policy::world::{Cursor, Given, PathStep, WhoCan, Whom};
use keepgate_policy::{ItemKey, QueryError, Revision, Uid, World};
use serde::Deserialize;

use super::check::beside;
use super::input::{Args, uid};
use super::items::named;
use super::past::{self, Then};
use super::problem::Problem;
use super::{Answer, App};
use crate::access::Caller;
use crate::desk::{Head, shown_id};
use crate::store::{Reading, StoreError};

/// Entries of a page.
const PAGE: usize = 500;

/// Items that are looked up for one answer; of others it is not said since when.
const LOOKED_UP: usize = 20_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccessArgs {
    #[serde(default)]
    service: Option<String>,
    #[serde(default)]
    resource: Option<String>,
    #[serde(default)]
    principal: Option<String>,
    #[serde(default)]
    role: Option<String>,
    /// A name, or Cedar text.
    #[serde(default)]
    action: Option<String>,
    /// Only principals of this type.
    #[serde(default)]
    r#type: Option<String>,
    /// A revision or a time.
    #[serde(default)]
    as_of: Option<String>,
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    limit: Option<usize>,
}

impl AccessArgs {
    fn entity(text: Option<String>, field: &str) -> Answer<Uid> {
        let text = text.ok_or_else(|| {
            Problem::unprocessable(format!("`{field}`: expected an entity, got nothing"))
        })?;
        uid(api::UidInput::Text(text), field)
    }

    fn action(&self) -> Option<Uid> {
        // `read` is short for `Action::"read"`.
        self.action.as_deref().map(Uid::action)
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE).clamp(1, PAGE)
    }

    /// Refuses what another of the three lists is asked by.
    fn only(&self, names: &[&str]) -> Answer<()> {
        let given = [
            ("resource", self.resource.is_some()),
            ("principal", self.principal.is_some()),
            ("role", self.role.is_some()),
            ("action", self.action.is_some()),
            ("type", self.r#type.is_some()),
        ];
        match given.iter().find(|(name, given)| *given && !names.contains(name)) {
            Some((name, _)) => {
                Err(Problem::bad_request(format!("`{name}`: this list is not asked by it")))
            }
            None => Ok(()),
        }
    }
}

/// The state that is looked at, and the service whose policies decide.
struct Looked {
    world: World,
    /// See [`Then::since`].
    since: BTreeMap<ItemKey, Revision>,
    service: String,
    now_unix_s: u64,
}

async fn looked(app: &App, caller: &Caller, args: &AccessArgs) -> Answer<Looked> {
    let head = app.desk.head();
    let then = match &args.as_of {
        None => None,
        Some(as_of) => Some(past::state(app, caller, &api::AsOf::Time(as_of.clone())).await?),
    };
    let service = one_service(&head, args.service.as_deref(), then.as_ref())?;
    Ok(match then {
        Some(Then { world, since, at_unix_s, .. }) => {
            Looked { world, since, service, now_unix_s: at_unix_s }
        }
        None => {
            let now_unix_s = keepgate_observe::unix_s();
            let since = BTreeMap::new();
            Looked { world: head.world.clone(), since, service, now_unix_s }
        }
    })
}

fn one_service(head: &Head, named: Option<&str>, then: Option<&Then>) -> Answer<String> {
    past::must_be_a_name(named)?;
    let is_there = |name: &str| match then {
        // It need not be there any more.
        Some(then) => then.world.service(name).is_some(),
        None => head.services.contains_key(name),
    };
    match named {
        Some(name) if is_there(name) => Ok(name.to_owned()),
        Some(name) => Err(Problem::unprocessable(format!("there is no service `{name}`"))),
        None => match head.unnamed().as_deref() {
            Ok([one]) => Ok((*one).to_owned()),
            Ok(_) => Err(Problem::unprocessable("several services decide: name one (`service`)")),
            Err(e) => Err(Problem::unprocessable(e.to_string())),
        },
    }
}

/// A question that cannot be put: its `after` is none, or a type is no Cedar name.
fn unputtable(error: &QueryError) -> Problem {
    match error {
        QueryError::Undecided { .. } => Problem::of_query(error),
        _ => Problem::unprocessable(error.to_string()),
    }
}

/// `GET /v1/access/resource`
pub(crate) async fn of_resource(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Args(args): Args<AccessArgs>,
) -> Answer<Out<api::ResourceAccess>> {
    args.only(&["resource", "action", "type"])?;
    let resource = AccessArgs::entity(args.resource.clone(), "resource")?;
    let Looked { world, since, service, now_unix_s } = looked(&app, &caller, &args).await?;
    let revision = world.revision();
    let of = service.clone();
    let found = beside(&app, &caller, move |_| {
        let action = args.action();
        let who = WhoCan {
            service: &of,
            resource: &resource,
            action: action.as_ref(),
            kind: args.r#type.as_deref(),
            now_unix_s,
        };
        let page = Cursor { after: args.after.as_deref(), limit: args.limit() };
        world.who_can(&who, &page).map_err(|e| unputtable(&e))
    });
    let found = found.await?;
    let read = app.desk.read(move |store| {
        let mut known = Known::new(store, revision, &since);
        let mut entries = Vec::new();
        for row in found.rows {
            entries.push(api::AccessEntry {
                principal: match row.principal {
                    Whom::Anyone => "any".to_owned(),
                    Whom::Type(kind) => format!("any {kind}"),
                    Whom::Entity(uid) => uid.to_string(),
                },
                actions: row
                    .actions
                    .iter()
                    .map(|action| {
                        action.as_ref().map_or("any other".to_owned(), Uid::to_action_text)
                    })
                    .collect(),
                conditional: row.by.is_empty() || !row.unless.is_empty(),
                by: known.all(row.by)?,
                when: known.all(row.when)?,
                unless: known.all(row.unless)?,
            });
        }
        Ok((entries, found.next))
    });
    let (entries, next) = read.await?;
    Ok(Out(api::ResourceAccess { revision: revision.0, service, entries, next }))
}

/// `GET /v1/access/principal`
pub(crate) async fn of_principal(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Args(args): Args<AccessArgs>,
) -> Answer<Out<api::PrincipalAccess>> {
    args.only(&["principal", "action"])?;
    let principal = AccessArgs::entity(args.principal.clone(), "principal")?;
    let Looked { world, since, service, now_unix_s } = looked(&app, &caller, &args).await?;
    let revision = world.revision();
    let of = service.clone();
    let found = beside(&app, &caller, move |_| {
        let page = Cursor { after: args.after.as_deref(), limit: args.limit() };
        let action = args.action();
        let held = world.holdings(&of, &principal, action.as_ref(), now_unix_s, &page);
        held.map_err(|e| unputtable(&e))
    });
    let found = found.await?;
    let read = app.desk.read(move |store| {
        let mut known = Known::new(store, revision, &since);
        let mut entries = Vec::new();
        for row in found.rows {
            entries.push(api::Holding {
                effect: match row.forbid {
                    true => api::PolicyEffect::Forbid,
                    false => api::PolicyEffect::Permit,
                },
                given: known.given(row.given)?,
                action: row.action,
                resource: row.resource,
                until_unix_s: row.until_unix_s,
                text: row.policy.text,
            });
        }
        Ok((entries, found.next))
    });
    let (entries, next) = read.await?;
    Ok(Out(api::PrincipalAccess { revision: revision.0, service, entries, next }))
}

/// `GET /v1/access/role`
pub(crate) async fn of_role(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Args(args): Args<AccessArgs>,
) -> Answer<Out<api::RoleAccess>> {
    args.only(&["role"])?;
    let role = AccessArgs::entity(args.role.clone(), "role")?;
    let Looked { world, since, service, now_unix_s } = looked(&app, &caller, &args).await?;
    let revision = world.revision();
    let found = beside(&app, &caller, move |_| {
        let page = Cursor { after: args.after.as_deref(), limit: args.limit() };
        let found = world.in_role(&service, &role, now_unix_s, &page);
        found.map_err(|e| unputtable(&e))
    });
    let found = found.await?;
    let read = app.desk.read(move |store| {
        let mut known = Known::new(store, revision, &since);
        let mut entries = Vec::new();
        for row in found.rows {
            let path = known.path(row.path)?;
            entries.push(api::RoleEntry { member: row.member.to_string(), path });
        }
        Ok((entries, found.next))
    });
    let (entries, next) = read.await?;
    Ok(Out(api::RoleAccess { revision: revision.0, entries, next }))
}

/// What was looked up of items.
struct Known<'a> {
    store: &'a dyn Reading,
    through: Revision,
    /// See [`Then::since`].
    was: &'a BTreeMap<ItemKey, Revision>,
    since: HashMap<ItemKey, api::Since>,
}

impl<'a> Known<'a> {
    fn new(
        store: &'a dyn Reading,
        through: Revision,
        was: &'a BTreeMap<ItemKey, Revision>,
    ) -> Known<'a> {
        Known { store, through, was, since: HashMap::new() }
    }

    fn since(&mut self, key: &ItemKey) -> Result<api::Since, StoreError> {
        if let Some(since) = self.since.get(key) {
            return Ok(since.clone());
        }
        if self.since.len() >= LOOKED_UP {
            return Ok(api::Since { revision: None, unix_ms: None, actor: None, action: None });
        }
        let since = past::since(self.store, key, self.through, self.was)?;
        self.since.insert(key.clone(), since.clone());
        Ok(since)
    }

    fn all(&mut self, given: Vec<Given>) -> Result<Vec<api::GivenBy>, StoreError> {
        given.into_iter().map(|given| self.given(given)).collect()
    }

    fn given(&mut self, given: Given) -> Result<api::GivenBy, StoreError> {
        Ok(api::GivenBy {
            item: api::ItemName { id: shown_id(&given.item).to_owned(), ..named(&given.item) },
            since: self.since(&given.item)?,
            path: self.path(given.path)?,
            condition: given.condition,
        })
    }

    fn path(&mut self, steps: Vec<PathStep>) -> Result<Vec<api::PathStep>, StoreError> {
        steps
            .into_iter()
            .map(|step| {
                let since = step.by.as_ref().map(|key| self.since(key)).transpose()?;
                Ok(api::PathStep { since, ..step_told(step) })
            })
            .collect()
    }
}

/// A step as answers show it.
pub(crate) fn step_told(step: PathStep) -> api::PathStep {
    api::PathStep {
        to: step.entity.to_string(),
        by: step.by.as_ref().map(named),
        until_unix_s: step.until_unix_s,
        since: None,
    }
}
