//! Sessions of the console: who has signed in, and their end.

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use keepgate_api as api;

use super::input::{Args, Page, Params};
use super::{Answer, App, items};
use crate::access::Caller;
use crate::desk::{EditPlan, Refusal};
use crate::store::{SessionRow, SessionsOf};
use crate::token;

/// Bytes of a session's hash by which it is told: nobody finds its secret by them.
const ID: usize = 8;

pub(crate) async fn list(
    State(app): State<App>,
    Args(page): Args<Page>,
) -> Answer<Out<api::Sessions>> {
    let now = keepgate_observe::unix_s();
    let read = move |store: &dyn crate::store::Reading| {
        Ok((store.head()?, store.console_sessions(SessionsOf::Good(now))?))
    };
    let (revision, rows) = app.desk.read(read).await?;
    let head = app.desk.head();
    let shown = |row: SessionRow| {
        let (role, service) = match &row.person {
            Some(person) => {
                let rule = app.oidc.as_ref()?.rule_of(person)?;
                (rule.role, rule.service.clone())
            }
            None => {
                let token = head.tokens.get(&row.holder).filter(|token| token.is_good(now))?;
                (token.role, token.service.clone())
            }
        };
        Some(api::Session {
            id: token::hex(row.sha256.get(..ID).unwrap_or_default()),
            holder: row.holder,
            role: role.name().to_owned(),
            service,
            issuer: row.person.map(|person| person.issuer),
            began_unix_s: row.created_unix_s,
            expires_unix_s: row.expires_unix_s,
            ends_unix_s: row.ends_unix_s,
        })
    };
    let mut sessions: Vec<api::Session> = rows.into_iter().filter_map(shown).collect();
    sessions.sort_by(|a, b| a.id.cmp(&b.id));
    let (sessions, next) = page.cut(sessions, |session| &session.id);
    Ok(Out(api::Sessions { revision: revision.0, sessions, next }))
}

/// Ends all of one holder, also those that another center has begun.
pub(crate) async fn end(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(holder): Params<String>,
) -> Answer<Out<api::Landed>> {
    let outcome = items::edit(&app, &caller, "session.end", move |store, _| {
        let now = keepgate_observe::unix_s();
        let all = store.console_sessions(SessionsOf::Good(now))?;
        if !all.iter().any(|row| row.holder == holder) {
            let place = String::new();
            return Err(Refusal::Missing { kind: "session of", id: holder, place });
        }
        Ok(EditPlan { ended: vec![holder], ..EditPlan::default() })
    })
    .await?;
    Ok(Out(api::Landed { revision: outcome.revision.0 }))
}
