//! Tokens: create, list, rotate, revoke. Shown once; the last way in cannot be revoked.

use std::collections::BTreeSet;

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use http::StatusCode;
use keepgate_api::{Landed, MadeToken, NewToken, Rotate, Token, Tokens};
use keepgate_policy::service::is_service_name;
use keepgate_serve::certificate::wrong_machine_name;

use super::input::{Args, Json, Page, Params};
use super::problem::Problem;
use super::writes::told_once;
use super::{Answer, App, items};
use crate::access::Caller;
use crate::desk::{self, EditPlan, Refusal};
use crate::follow::SERVICES;
use crate::store::TokenRow;
use crate::token::{self, Minted, Role};

/// The longest note, in bytes.
pub(crate) const NOTE_BYTES: usize = 500;

/// Tokens in a store, those that have ended included.
const TOKENS: usize = 100_000;

/// The latest end: that of the year 9999.
const LATEST_UNIX_S: u64 = keepgate_policy::instant::LAST;

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
    in_the_future("expires_unix_s", asked.expires_unix_s)?;
    let mut minted = mint_one_more(&app)?;
    let mut note = asked.note;
    if !asked.certificate.is_empty() {
        (minted, note) = of_certificate(role, &asked.certificate, minted.id, &note)?;
    }
    let expires_unix_s = asked.expires_unix_s;
    let row = TokenRow { expires_unix_s, ..row(&minted, role, asked.service, note) };
    let outcome = items::edit(&app, &caller, "token.create", move |_, head| {
        let now = keepgate_observe::unix_s();
        let same = |other: &&TokenRow| other.sha256 == row.sha256 && other.is_good(now);
        if let Some(other) = head.tokens.values().find(same) {
            let id = &other.id;
            return Err(Refusal::Unfit(format!(
                "`certificate`: token `{id}` is for a certificate of this name already; revoke it, or \
                 let it follow the other service too by a new one with both"
            )));
        }
        Ok(EditPlan { tokens: vec![row], ..EditPlan::default() })
    })
    .await?;
    told_once(&outcome)?;
    Ok(made(minted, outcome.revision.0))
}

/// What is kept where a certificate takes the secret's place, and the note that names it.
fn of_certificate(role: Role, name: &str, id: String, note: &str) -> Answer<(Minted, String)> {
    if role != Role::Gate {
        let detail = "`certificate`: only a gate shows one in place of a token; leave it out";
        return Err(Problem::unprocessable(detail));
    }
    let wrong =
        |what: &str| Err(Problem::unprocessable(format!("`certificate`: {what}, got `{name}`")));
    if name.len() > token::CERTIFICATE_BYTES {
        return wrong(&format!("expected at most {} bytes", token::CERTIFICATE_BYTES));
    }
    if let Some(what) = wrong_machine_name(name) {
        return wrong(what);
    }
    let sha256 = token::certificate_sha256(name);
    Ok((Minted { id, text: String::new(), sha256 }, token::certificate_note(name, note)))
}

/// One more, where there is room for it.
fn mint_one_more(app: &App) -> Answer<Minted> {
    if app.desk.head().tokens.len() >= TOKENS {
        return Err(Problem::conflict(format!("there are {TOKENS} tokens already")));
    }
    mint("kgt")
}

/// The secret of a new token or API key, which begins with this mark.
pub(crate) fn mint(mark: &str) -> Answer<Minted> {
    token::mint(mark).map_err(|e| {
        tracing::error!(error = %e, mark, "no secret was made");
        Problem::internal()
    })
}

fn made(minted: Minted, revision: u64) -> (StatusCode, Out<MadeToken>) {
    let (id, token) = (minted.id, minted.text);
    (StatusCode::CREATED, Out(MadeToken { id, token, revision }))
}

/// The row of a token that is being made, which never expires.
pub(crate) fn row(minted: &Minted, role: Role, service: String, note: String) -> TokenRow {
    TokenRow {
        id: minted.id.clone(),
        role,
        service,
        sha256: minted.sha256,
        note,
        created_unix_s: keepgate_observe::unix_s(),
        last_used_unix_s: None,
        last_used_from: String::new(),
        revoked_unix_s: None,
        expires_unix_s: None,
    }
}

/// Refuses an end that has come already; `field` is named.
pub(crate) fn in_the_future(field: &str, unix_s: Option<u64>) -> Answer<()> {
    let now = keepgate_observe::unix_s();
    match unix_s {
        Some(at) if at <= now || at > LATEST_UNIX_S => Err(Problem::unprocessable(format!(
            "`{field}`: expected a time in the future (after {now}, up to {LATEST_UNIX_S}), got {at}"
        ))),
        _ => Ok(()),
    }
}

/// The term of what takes an old one's place: as asked; else as long as that of the old one, which
/// was made at `created_unix_s` (none: nobody knows when). Seconds since the Unix epoch.
pub(crate) fn new_term(
    asked: &Rotate,
    created_unix_s: Option<u64>,
    expires_unix_s: Option<u64>,
    now_unix_s: u64,
) -> Result<Option<u64>, String> {
    match (asked.expires_unix_s, expires_unix_s, created_unix_s) {
        (at @ Some(_), _, _) => Ok(at),
        (None, None, _) => Ok(None),
        (None, ..) if asked.never_expires => Ok(None),
        (None, Some(ends), Some(created)) if ends > created => {
            Ok(Some(now_unix_s.saturating_add(ends - created)))
        }
        (None, Some(_), _) => Err("the old one expires, and how long it was meant to be valid is \
            not known any more: say when the new one expires (`expires_unix_s`), or that it never \
            does (`never_expires`)"
            .to_owned()),
    }
}

/// Refuses what does not go together.
pub(crate) fn check_rotation(asked: &Rotate) -> Answer<()> {
    if asked.never_expires && asked.expires_unix_s.is_some() {
        return Err(Problem::unprocessable(
            "`expires_unix_s` and `never_expires` do not go together",
        ));
    }
    in_the_future("expires_unix_s", asked.expires_unix_s)
}

/// A new token of the same role and service; the old one ends after the overlap, never later than it
/// would have.
pub(crate) async fn rotate(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(id): Params<String>,
    Json(asked): Json<Rotate>,
) -> Answer<(StatusCode, Out<MadeToken>)> {
    check_rotation(&asked)?;
    let minted = mint_one_more(&app)?;
    let now = keepgate_observe::unix_s();
    let fresh = row(&minted, Role::Pep, String::new(), String::new());
    let outcome = items::edit(&app, &caller, "token.rotate", move |_, head| {
        let Some(old) = head.tokens.get(&id) else {
            return Err(Refusal::Missing { kind: "token", id, place: String::new() });
        };
        if !old.is_good(now) {
            return Err(Refusal::Ended(id));
        }
        if token::certificate_of(&old.note, &old.sha256).is_some() {
            return Err(Refusal::Unfit(
                "a certificate takes the place of this token's secret, so there is none to rotate: \
                 renew the certificate under the same name"
                    .to_owned(),
            ));
        }
        let term = new_term(&asked, Some(old.created_unix_s), old.expires_unix_s, now);
        let new = TokenRow {
            role: old.role,
            service: old.service.clone(),
            note: old.note.clone(),
            expires_unix_s: term.map_err(Refusal::Unfit)?,
            ..fresh
        };
        let ends = now.saturating_add(asked.overlap_s).min(LATEST_UNIX_S);
        let ends = old.expires_unix_s.map_or(ends, |before| before.min(ends));
        let old = TokenRow { expires_unix_s: Some(ends), ..old.clone() };
        Ok(EditPlan { tokens: vec![new, old], ..EditPlan::default() })
    })
    .await?;
    told_once(&outcome)?;
    Ok(made(minted, outcome.revision.0))
}

/// What is wrong with binding this role to this service, if anything.
pub(crate) fn wrong_service(role: Role, service: &str) -> Option<String> {
    match (role, service) {
        (Role::Gate, "") => {
            Some("`service`: a gate token is for one or more services; name them".to_owned())
        }
        (_, "") => None,
        (Role::Gate, names) if names.contains(',') => wrong_services(names),
        (Role::Gate | Role::Pep | Role::Editor, name) if is_service_name(name) => None,
        (Role::Gate | Role::Pep | Role::Editor, name) => {
            Some(format!("`service`: expected the name of a service, got `{name}`"))
        }
        (role, _) => Some(format!(
            "`service`: a token of role `{}` is for all services; leave it out",
            role.name()
        )),
    }
}

/// What is wrong with a list of services, if anything.
fn wrong_services(names: &str) -> Option<String> {
    let mut seen = BTreeSet::new();
    for name in names.split(',') {
        if !is_service_name(name) {
            return Some(format!(
                "`service`: expected names of services with `,` between them and no space, got \
                 `{name}` as one of them"
            ));
        }
        if !seen.insert(name) {
            return Some(format!("`service`: `{name}` is there twice; leave one"));
        }
    }
    (seen.len() > SERVICES)
        .then(|| format!("`service`: expected at most {SERVICES} services, got {}", seen.len()))
}

pub(crate) async fn list(State(app): State<App>, Args(page): Args<Page>) -> Answer<Out<Tokens>> {
    let (revision, mut rows) =
        app.desk.read(move |store| Ok((store.head()?, store.tokens()?))).await?;
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    let (rows, next) = page.cut(rows, |row| &row.id);
    let shown = |row: TokenRow| {
        let (last_used_unix_s, last_used_from) = match app.usage.last(&row.id) {
            Some(last) => (Some(last.unix_s), last.from),
            None => (row.last_used_unix_s, row.last_used_from),
        };
        let certificate = token::certificate_of(&row.note, &row.sha256).map(str::to_owned);
        Token {
            certificate,
            id: row.id,
            role: row.role.name().to_owned(),
            service: row.service,
            note: row.note,
            created_unix_s: row.created_unix_s,
            last_used_unix_s,
            last_used_from,
            revoked_unix_s: row.revoked_unix_s,
            expires_unix_s: row.expires_unix_s,
        }
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
