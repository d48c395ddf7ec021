//! Who may do what: roles, permissions, and the caller of a request.
//!
//! Every endpoint names the one [`Permission`] it needs (see `api::table`); which role has which
//! is the table in [`Role::has`]. The golden matrix in `tests/it/matrix.rs` shows the product.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keepgate_policy::service::Authzen;
use keepgate_policy::world::{Naming, member_key};
use keepgate_policy::{Change, ItemBody, ItemKey, Kind, Uid, World, source_of};

use crate::desk::{Head, Outcome, Refusal, Step, WriteId, is_default};
use crate::store::{Reading, SessionRow, StoreError, TokenRow};
use crate::token::{self, PeerCertificate, Role};

/// What an endpoint asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Nothing: anyone, without a token.
    Open,
    /// Any good token.
    Known,
    /// Read services, the directory, keys (without secrets), audit, followers.
    Read,
    /// Change services, the directory and keys; for editors of one service only those of that service.
    Write,
    /// Create, list and revoke tokens.
    Tokens,
    /// Ask for decisions.
    Decide,
    /// Follow a service.
    Follow,
}

impl Role {
    /// Whether this role has this permission.
    pub fn has(self, permission: Permission) -> bool {
        use Permission::{Decide, Follow, Known, Open, Read, Tokens, Write};
        match permission {
            Open | Known => true,
            Read => matches!(self, Role::Admin | Role::Editor | Role::Viewer),
            Write => matches!(self, Role::Admin | Role::Editor),
            Tokens => self == Role::Admin,
            // Whoever reads all policies can work out every decision.
            Decide => matches!(self, Role::Admin | Role::Editor | Role::Viewer | Role::Pep),
            Follow => matches!(self, Role::Admin | Role::Gate),
        }
    }
}

/// A write of an item, as far as it matters here.
pub(crate) struct Write<'a> {
    key: &'a ItemKey,
    /// The source that it has then; none: it goes.
    source: Option<&'a str>,
    /// Of a service's settings: whether they say `authzen = "default"`.
    is_default: bool,
}

impl<'a> Write<'a> {
    /// The item of this key goes.
    pub(crate) fn deletion(key: &'a ItemKey) -> Write<'a> {
        Write { key, source: None, is_default: false }
    }

    pub(crate) fn of_change(change: &'a Change) -> Write<'a> {
        match change {
            Change::Delete(key) => Write::deletion(key),
            Change::Put(item) => {
                let is_default = match &item.body {
                    ItemBody::Service(settings) => settings.authzen == Authzen::Default,
                    _ => false,
                };
                Write { key: &item.key, source: Some(source_of(&item.body)), is_default }
            }
        }
    }

    pub(crate) fn of_step(step: &'a Step) -> Result<Write<'a>, StoreError> {
        let is_service = step.key.kind == Kind::Service;
        let settings = step.after.as_ref().filter(|_| is_service).map(|after| &after.body);
        let is_default = settings.map(|body| is_default(body)).transpose()?.unwrap_or(false);
        let source = step.after.as_ref().map(|after| after.source.as_ref());
        Ok(Write { key: &step.key, source, is_default })
    }
}

/// What a caller who is bound to a service may not write, if anything.
///
/// INVARIANT: of a service only its own items, and not whether it decides what names no service: that
/// is everybody's business; of the directory only items that its own service
/// brought or brings now, and no membership in a role that a policy or grant of another service
/// names, directly or through roles that the role is in.
pub(crate) fn check_writes<'a>(
    caller: &Caller,
    store: &dyn Reading,
    world: &World,
    writes: impl Iterator<Item = Result<Write<'a>, StoreError>>,
) -> Result<(), Refusal> {
    let Some(own) = caller.bound() else { return Ok(()) };
    let refused = |what: String| {
        Err(Refusal::NotAllowed(format!("an editor of service `{own}` may not write {what}")))
    };
    let mut roles: Vec<Uid> = Vec::new();
    for write in writes {
        let Write { key, source, is_default: will_be } = write?;
        if !key.service.is_empty() {
            if key.service != own {
                return refused(key.to_string());
            }
            if key.kind == Kind::Service {
                let row = store.item(key)?;
                let was = row.map(|row| is_default(&row.body)).transpose()?.unwrap_or(false);
                if was != will_be {
                    return refused(
                        "whether it decides AuthZEN requests that name no service".into(),
                    );
                }
            }
            continue;
        }
        let before = store.item(key)?.map(|row| row.source);
        let others = [before.as_deref(), source].into_iter().flatten().find(|of| *of != own);
        if let Some(other) = others {
            let of = match other {
                "" => "which no service's files or editor brought".to_owned(),
                other => format!("which service `{other}` brought"),
            };
            return refused(format!("the directory's {key}, {of}"));
        }
        if key.kind == Kind::Member {
            let (_, role) = member_key(&key.id).ok_or_else(|| StoreError::Corrupt {
                what: format!("{key} does not name a member and a role"),
            })?;
            roles.push(role);
        }
    }
    roles.sort_unstable();
    roles.dedup();
    match world.named_elsewhere(own, &roles) {
        None => Ok(()),
        Some(Naming { service, policy, entity }) => refused(format!(
            "members of `{entity}`: policy `{policy}` of service `{service}` names it, or a role \
             that it is in"
        )),
    }
}

/// The source of what a caller puts into the directory.
pub(crate) fn source(caller: &Caller) -> String {
    caller.bound().unwrap_or_default().to_owned()
}

/// A write that its request has named.
#[derive(Debug)]
pub(crate) struct Named {
    id: WriteId,
    replayed: AtomicBool,
}

impl Named {
    pub(crate) fn new(id: WriteId) -> Named {
        Named { id, replayed: AtomicBool::new(false) }
    }

    /// By what the store knows it.
    pub(crate) fn id(&self) -> WriteId {
        self.id
    }

    /// Whether it had landed before.
    pub(crate) fn is_replayed(&self) -> bool {
        self.replayed.load(Ordering::Relaxed)
    }
}

/// Whoever made a request, proven by a token or by an identity provider's word, and the name that the
/// request gave its write.
#[derive(Clone, Debug)]
pub struct Caller {
    /// A person's has their name in place of an id, and is not in the store.
    token: Arc<TokenRow>,
    is_person: bool,
    write: Option<Arc<Named>>,
}

impl Caller {
    /// The caller of this token text, if it is good.
    pub(crate) fn of(text: &str, head: &Head) -> Option<Caller> {
        let id = token::id_of(text)?;
        let row = head.tokens.get(id)?;
        // The hash is compared even where the token has ended: both take the same time.
        let same = token::matches(text, &row.sha256);
        (same && row.is_good(keepgate_observe::unix_s())).then(|| Caller::with(row.clone()))
    }

    /// The gate of a connection's client certificate, if one of its names takes the place of a good
    /// token. It ends with the certificate.
    pub(crate) fn of_certificate(certificate: &PeerCertificate, head: &Head) -> Option<Caller> {
        let now = keepgate_observe::unix_s();
        if now >= certificate.until_unix_s {
            return None;
        }
        let hashes: Vec<_> =
            certificate.names.iter().map(|name| token::certificate_sha256(name)).collect();
        let mut found: Vec<&TokenRow> = head
            .tokens
            .values()
            .filter(|row| row.role == Role::Gate && row.is_good(now))
            .filter(|row| hashes.contains(&row.sha256))
            .collect();
        // Of several names the first that is known counts, and of a name there is one.
        found.sort_by_key(|row| {
            (hashes.iter().position(|hash| *hash == row.sha256), row.created_unix_s, row.id.clone())
        });
        let row = TokenRow::clone(found.first()?);
        let until = certificate.until_unix_s;
        let until = row.expires_unix_s.map_or(until, |ends| ends.min(until));
        Some(Caller::with(TokenRow { expires_unix_s: Some(until), ..row }))
    }

    /// Who signed in at an identity provider, until their session ends (seconds since the Unix epoch).
    pub(crate) fn of_person(name: &str, role: Role, service: &str, session: &SessionRow) -> Caller {
        let row = TokenRow {
            id: name.to_owned(),
            role,
            service: service.to_owned(),
            sha256: [0; 32],
            note: String::new(),
            created_unix_s: session.created_unix_s,
            last_used_unix_s: None,
            last_used_from: String::new(),
            revoked_unix_s: None,
            expires_unix_s: Some(session.ends_unix_s),
        };
        Caller { is_person: true, ..Caller::with(row) }
    }

    /// Whoever signed in with the token of this id, while that is good.
    pub(crate) fn of_session(token: &str, head: &Head) -> Option<Caller> {
        let row = head.tokens.get(token).filter(|row| row.is_good(keepgate_observe::unix_s()))?;
        Some(Caller::with(row.clone()))
    }

    fn with(row: TokenRow) -> Caller {
        Caller { token: Arc::new(row), is_person: false, write: None }
    }

    /// The same, of a request that gave its write this name.
    pub(crate) fn named(self, write: Option<Arc<Named>>) -> Caller {
        Caller { write, ..self }
    }

    /// The name of the request's write.
    pub(crate) fn write(&self) -> Option<&Arc<Named>> {
        self.write.as_ref()
    }

    /// Notes what came of the request's write.
    pub(crate) fn note(&self, outcome: &Outcome) {
        if let Some(write) = &self.write {
            write.replayed.fetch_or(outcome.replayed, Ordering::Relaxed);
        }
    }

    /// Its token's id; of a person, how the audit log names them.
    pub fn token_id(&self) -> &str {
        &self.token.id
    }

    /// Whether it signed in at an identity provider, and has no token.
    pub(crate) fn is_person(&self) -> bool {
        self.is_person
    }

    /// Its role.
    pub fn role(&self) -> Role {
        self.token.role
    }

    /// The services that its token is bound to; none: any.
    pub fn services(&self) -> Option<std::str::Split<'_, char>> {
        self.service().map(|names| names.split(','))
    }

    /// The service that its token is bound to (a gate's: several, with `,` between them); none: any.
    pub fn service(&self) -> Option<&str> {
        (!self.token.service.is_empty()).then_some(self.token.service.as_str())
    }

    /// The one service that it may write; none: all of them.
    pub fn bound(&self) -> Option<&str> {
        self.service().filter(|_| self.role() == Role::Editor)
    }

    /// Whether it has this permission.
    pub fn may(&self, permission: Permission) -> bool {
        self.role().has(permission)
    }

    /// Whether its token still is what it was when it was shown, and has not ended since.
    pub(crate) fn still_good(&self, head: &Head) -> bool {
        let now = keepgate_observe::unix_s();
        if self.is_person {
            return self.token.is_good(now);
        }
        head.tokens
            .get(&self.token.id)
            .is_some_and(|row| row.is_good(now) && row.sha256 == self.token.sha256)
            && self.token.is_good(now)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The caller with a gate's token.
    pub(crate) fn caller(id: &str, service: &str) -> Caller {
        let row = TokenRow {
            id: id.to_owned(),
            role: Role::Gate,
            service: service.to_owned(),
            sha256: [7; 32],
            note: String::new(),
            created_unix_s: 0,
            last_used_unix_s: None,
            last_used_from: String::new(),
            revoked_unix_s: None,
            expires_unix_s: None,
        };
        Caller::with(row)
    }
}
