//! The directory: who is in which role, shared by all services.

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use keepgate_api as api;
use keepgate_policy::model::MemberBody;
use keepgate_policy::{Change, Item, ItemBody, ItemKey, Kind};
use serde::Deserialize;

use super::input::{Args, Json, PAGE, path_uid, told, uid};
use super::{Answer, App, items, roles, tokens};
use crate::access::{self, Caller};
use crate::desk::{EditPlan, Refusal};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AssignArgs {
    /// A role that nothing knows is refused.
    #[serde(default)]
    must_exist: bool,
}

pub(crate) async fn assign(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Args(args): Args<AssignArgs>,
    Json(asked): Json<api::Membership>,
) -> Answer<Out<api::Changed>> {
    let (member, role) = (uid(asked.member, "member")?, uid(asked.role, "role")?);
    if args.must_exist {
        let role = role.clone();
        app.desk.read(move |store| roles::must_exist(store, &role)).await?;
    }
    let until_unix_s = asked.until_unix_s;
    tokens::in_the_future("until_unix_s", until_unix_s)?;
    // What a bound editor brings is of its service.
    let source = access::source(&caller);
    let outcome = items::edit(&app, &caller, "role.assign", move |store, _| {
        let key = ItemKey::member(&member, &role);
        // Whoever brought a membership first, it is there; only its end may be another one.
        let source = match store.item(&key)? {
            Some(row) => row.parsed::<MemberBody>()?.source,
            None => source,
        };
        let body = ItemBody::Member(MemberBody { member, role, source, until_unix_s });
        let changes = vec![Change::Put(Item { key, body })];
        Ok(EditPlan { changes, ..EditPlan::default() })
    })
    .await?;
    Ok(Out(items::changed(&outcome)))
}

pub(crate) async fn revoke(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Json(asked): Json<api::MembershipName>,
) -> Answer<Out<api::Changed>> {
    let (member, role) = (uid(asked.member, "member")?, uid(asked.role, "role")?);
    let outcome = items::edit(&app, &caller, "role.revoke", move |store, _| {
        let key = ItemKey::member(&member, &role);
        if store.item(&key)?.is_none() {
            return Err(Refusal::missing(&key));
        }
        Ok(EditPlan { changes: vec![Change::Delete(key)], ..EditPlan::default() })
    })
    .await?;
    Ok(Out(items::changed(&outcome)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemberArgs {
    /// Only memberships in this role.
    #[serde(default)]
    role: Option<String>,
    /// Only memberships of this member.
    #[serde(default)]
    member: Option<String>,
    #[serde(default)]
    after: String,
    #[serde(default)]
    limit: Option<usize>,
}

/// Memberships looked at for one answer; a list goes on at its `next`.
const LOOKED_AT: usize = 20_000;

pub(crate) async fn members(
    State(app): State<App>,
    Args(args): Args<MemberArgs>,
) -> Answer<Out<api::Members>> {
    let role = args.role.as_deref().map(path_uid).transpose()?;
    let member = args.member.as_deref().map(path_uid).transpose()?;
    let limit = args.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let answer = app
        .desk
        .read(move |store| {
            let revision = store.head()?;
            let mut after = args.after;
            // A member's ids begin with its text, so looking may begin there.
            if let Some(member) = &member {
                after = after.max(format!("{member} in"));
            }
            let mut found = Vec::new();
            let mut looked_at = 0;
            let mut next = None;
            'pages: loop {
                let rows = store.list("", Kind::Member, &after, PAGE)?;
                let last = rows.len() < PAGE;
                for row in rows {
                    looked_at += 1;
                    after.clone_from(&row.key.id);
                    let body: MemberBody = row.parsed()?;
                    if member.as_ref().is_some_and(|member| *member != body.member) {
                        if after.starts_with(&format!("{} in ", body.member))
                            && member
                                .as_ref()
                                .is_some_and(|m| body.member.to_string() > m.to_string())
                        {
                            // Past the member's own range nothing of it follows.
                            break 'pages;
                        }
                        continue;
                    }
                    if role.as_ref().is_some_and(|role| *role != body.role) {
                        continue;
                    }
                    found.push(api::Member {
                        member: told(body.member),
                        role: told(body.role),
                        source: body.source,
                        until_unix_s: body.until_unix_s,
                        brought: super::sources::told(row.origin.brought),
                        revision: row.revision.0,
                    });
                    if found.len() == limit {
                        next = Some(after.clone());
                        break 'pages;
                    }
                }
                if last {
                    break;
                }
                if looked_at >= LOOKED_AT {
                    next = Some(after.clone());
                    break;
                }
            }
            Ok(api::Members { revision: revision.0, members: found, next })
        })
        .await?;
    Ok(Out(answer))
}
