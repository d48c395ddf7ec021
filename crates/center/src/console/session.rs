//! Who has signed in: from a cookie's secret to the caller of the admin API.
//!
//! A session begins with a token and is never more than it: when the token is revoked or expires, it
//! ends. Or it begins at an identity provider, and is never more than the setting that gave the role: it
//! ends when that is gone, when it is ended, and soon in any case. The store keeps the hash of the secret,
//! so that all centers of a store agree.

use http::HeaderMap;
use sha2::{Digest as _, Sha256};

use super::Console;
use super::cookies::Cookie;
use crate::access::{Caller, Permission};
use crate::api::problem::Problem;
use crate::oidc::SignedIn;
use crate::store::{Person, Reading, SessionBounds, SessionChange, SessionRow, SessionsOf};
use crate::token;

/// How long a session lasts that nobody uses, in seconds.
const IDLE_S: u64 = 30 * 60;

/// How long a session lasts in all, in seconds.
const WHOLE_S: u64 = 12 * 3_600;

/// A use is noted when the last one was this long ago, in seconds.
const NOTED_S: u64 = 60;

/// Whoever has signed in.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    /// As the admin API knows them.
    pub(crate) caller: Caller,
    /// The session's secret.
    pub(crate) secret: String,
    expires_unix_s: u64,
    ends_unix_s: u64,
}

/// Why nobody signed in.
pub(crate) enum NoSession {
    /// There is no such token, or it has ended.
    Wrong,
    /// Its role reads nothing.
    Role(&'static str),
    /// There are too many sessions.
    Full,
    /// The store cannot be asked or written now.
    Refused(Problem),
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::new_with_prefix(b"keepgate session\0").chain_update(secret).finalize().into()
}

/// Begins a session; the caller's secret is in it.
pub(crate) async fn begin(console: &Console, text: &str) -> Result<Who, NoSession> {
    let head = console.app.desk.head();
    let caller = Caller::of(text, &head).ok_or(NoSession::Wrong)?;
    if !caller.may(Permission::Read) {
        return Err(NoSession::Role(caller.role().name()));
    }
    let holder = caller.token_id().to_owned();
    let who = keep(console, holder, None, WHOLE_S, |_| Some(caller)).await?;
    tracing::info!(token = who.caller.token_id(), "signed in to the console");
    Ok(who)
}

/// Begins the session of who has signed in at an identity provider.
pub(crate) async fn begin_person(console: &Console, signed_in: SignedIn) -> Result<Who, NoSession> {
    let SignedIn { holder, person, lasts_s } = signed_in;
    let (issuer, rule) = (person.issuer.clone(), person.rule.clone());
    let caller = |row: &SessionRow| caller_of(console, row);
    let who = keep(console, holder, Some(person), lasts_s, caller).await?;
    let person = who.caller.token_id();
    tracing::info!(person, issuer, rule, "signed in to the console");
    Ok(who)
}

/// Keeps a new session of this holder for so many seconds at most.
async fn keep(
    console: &Console,
    holder: String,
    person: Option<Person>,
    lasts_s: u64,
    caller: impl FnOnce(&SessionRow) -> Option<Caller>,
) -> Result<Who, NoSession> {
    let secret: [u8; 32] = crate::store::random().map_err(|_| {
        tracing::error!("no session was made: the system gives no random numbers");
        NoSession::Refused(Problem::internal())
    })?;
    let secret = token::hex(&secret);
    let now = keepgate_observe::unix_s();
    let (expires_unix_s, ends_unix_s) = (now + IDLE_S.min(lasts_s), now + lasts_s);
    let row = SessionRow {
        sha256: hash(&secret),
        holder,
        person,
        created_unix_s: now,
        expires_unix_s,
        ends_unix_s,
    };
    let caller = caller(&row).ok_or(NoSession::Wrong)?;
    let begun = console.app.desk.session(SessionChange::Begin(row), SessionBounds::DEFAULT).await;
    match begun {
        Ok(true) => Ok(Who { caller, secret, expires_unix_s, ends_unix_s }),
        Ok(false) => Err(NoSession::Full),
        Err(refusal) => Err(NoSession::Refused(refusal.into())),
    }
}

/// Who has a session, as the admin API knows them; none: they are not let in any more.
fn caller_of(console: &Console, row: &SessionRow) -> Option<Caller> {
    let Some(person) = &row.person else {
        return Caller::of_session(&row.holder, &console.app.desk.head());
    };
    let rule = console.app.oidc.as_ref()?.rule_of(person)?;
    Some(Caller::of_person(&row.holder, rule.role, &rule.service, row))
}

/// Whoever shows a session's secret; none: nobody whose session is good.
pub(crate) async fn of(
    console: &Console,
    headers: &HeaderMap,
    secure: bool,
) -> Result<Option<Who>, Problem> {
    match Cookie::Session.read(headers, secure) {
        Some(secret) if secret.len() == 64 => look(console, secret.to_owned()).await,
        _ => Ok(None),
    }
}

/// The same, of a secret at hand.
pub(crate) async fn look(console: &Console, secret: String) -> Result<Option<Who>, Problem> {
    let sha256 = hash(&secret);
    let read =
        move |store: &dyn Reading| Ok(store.console_sessions(SessionsOf::Secret(&sha256))?.pop());
    let row = console.app.desk.read(read).await?;
    let now = keepgate_observe::unix_s();
    let Some(row) = row.filter(|row| now < row.expires_unix_s.min(row.ends_unix_s)) else {
        return Ok(None);
    };
    let Some(caller) = caller_of(console, &row) else { return Ok(None) };
    let SessionRow { expires_unix_s, ends_unix_s, .. } = row;
    Ok(Some(Who { caller, secret, expires_unix_s, ends_unix_s }))
}

/// Notes that somebody uses a session: it lasts on.
pub(crate) async fn used(console: &Console, who: &Who) {
    let until = (keepgate_observe::unix_s() + IDLE_S).min(who.ends_unix_s);
    if until < who.expires_unix_s + NOTED_S {
        return;
    }
    let change = SessionChange::Extend(hash(&who.secret), until);
    // It ends earlier then, and its user signs in again.
    if let Err(error) = console.app.desk.session(change, SessionBounds::DEFAULT).await {
        tracing::debug!(%error, "the use of a session was not noted");
    }
}

/// Ends a session.
pub(crate) async fn end(console: &Console, who: &Who) -> Result<(), Problem> {
    console.app.desk.session(SessionChange::End(hash(&who.secret)), SessionBounds::DEFAULT).await?;
    Ok(())
}
