//! Tokens: create, list, revoke. Shown once; the last way in cannot be revoked.

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use http::StatusCode;
use keepgate_api::{Landed, MadeToken, NewToken, Token, Tokens};
use keepgate_policy::service::is_service_name;

use super::input::{Args, Json, Page, Params};
use super::problem::Problem;
use super::{Answer, App, items};
use crate::access::Caller;
use crate::desk::{self, EditPlan, Refusal};
use crate::store::TokenRow;
use crate::token::{self, Minted, Role};

/// The longest note, in bytes.
const NOTE_BYTES: usize = 500;

/// Tokens in a store, revoked ones included.
const TOKENS: usize = 100_000;

pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Json(asked): Json<NewToken>,
) -> Answer<(StatusCode, Out<MadeToken>)> {
    let role = Role::from_name(&asked.role).ok_or_else(|| {
        let known: Vec<&str> = Role::ALL.iter().map(|role| role.name()).collect();
        let known = known.join(", ");
        Problem::bad_request(format!("`role`: expected one of {known}, got `{}`", asked.role))
    })?;
    if let Some(wrong) = wrong_service(role, &asked.service) {
        return Err(Problem::unprocessable(wrong));
    }
    if asked.note.len() > NOTE_BYTES {
        return Err(Problem::unprocessable(format!("`note`: at most {NOTE_BYTES} bytes")));
    }
    if app.desk.head().tokens.len() >= TOKENS {
        return Err(Problem::conflict(format!("there are {TOKENS} tokens already")));
    }
    let minted = token::mint("kgt").map_err(|e| {
        tracing::error!(error = %e, "no token was made");
        Problem::internal()
    })?;
    let row = row(&minted, role, asked.service, asked.note);
    let outcome = items::edit(&app, &caller, "token.create", move |_, _| {
        Ok(EditPlan { tokens: vec![row], ..EditPlan::default() })
    })
    .await?;
    let (id, token) = (minted.id, minted.text);
    Ok((StatusCode::CREATED, Out(MadeToken { id, token, revision: outcome.revision.0 })))
}

/// The row of a token that is being made.
pub(crate) fn row(minted: &Minted, role: Role, service: String, note: String) -> TokenRow {
    TokenRow {
        id: minted.id.clone(),
        role,
        service,
        sha256: minted.sha256,
        note,
        created_unix_s: keepgate_observe::unix_s(),
        last_used_unix_s: None,
        revoked_unix_s: None,
    }
}

/// What is wrong with binding this role to this service, if anything.
pub(crate) fn wrong_service(role: Role, service: &str) -> Option<String> {
    match (role, service) {
        (Role::Gate, "") => Some("`service`: a gate token is for one service; name it".to_owned()),
        (_, "") => None,
        (Role::Gate | Role::Pep, name) if is_service_name(name) => None,
        (Role::Gate | Role::Pep, name) => {
            Some(format!("`service`: expected the name of a service, got `{name}`"))
        }
        (role, _) => Some(format!(
            "`service`: a token of role `{}` is for all services; leave it out",
            role.name()
        )),
    }
}

pub(crate) async fn list(State(app): State<App>, Args(page): Args<Page>) -> Answer<Out<Tokens>> {
    let (revision, mut rows) =
        app.desk.read(move |store| Ok((store.head()?, store.tokens()?))).await?;
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    let (rows, next) = page.cut(rows, |row| &row.id);
    let shown = |row: TokenRow| Token {
        last_used_unix_s: app.usage.last(&row.id).or(row.last_used_unix_s),
        id: row.id,
        role: row.role.name().to_owned(),
        service: row.service,
        note: row.note,
        created_unix_s: row.created_unix_s,
        revoked_unix_s: row.revoked_unix_s,
    };
    let tokens = rows.into_iter().map(shown).collect();
    Ok(Out(Tokens { revision: revision.0, tokens, next }))
}

pub(crate) async fn revoke(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(id): Params<String>,
) -> Answer<Out<Landed>> {
    let outcome = items::edit(&app, &caller, "token.revoke", move |_, head| {
        let Some(row) = head.tokens.get(&id) else {
            return Err(Refusal::Missing { kind: "token", id, place: String::new() });
        };
        if row.revoked_unix_s.is_some() {
            return Ok(EditPlan::default());
        }
        if row.role == Role::Admin && !desk::an_admin_remains(head, &id) {
            return Err(Refusal::LastAdmin(id));
        }
        let revoked = TokenRow { revoked_unix_s: Some(keepgate_observe::unix_s()), ..row.clone() };
        Ok(EditPlan { tokens: vec![revoked], ..EditPlan::default() })
    })
    .await?;
    Ok(Out(Landed { revision: outcome.revision.0 }))
}
