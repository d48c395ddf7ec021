//! Who may do what: roles, permissions, and the caller of a request.
//!
//! Every endpoint names the one [`Permission`] it needs (see `api::table`); which role has which
//! is the table in [`Role::has`]. The golden matrix in `tests/it/matrix.rs` shows the product.

use std::sync::Arc;

use crate::desk::Head;
use crate::store::TokenRow;
use crate::token::{self, Role};

/// What an endpoint asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Nothing: anyone, without a token.
    Open,
    /// Any good token.
    Known,
    /// Read services, the directory, keys (without secrets), audit, followers.
    Read,
    /// Change services, the directory and keys.
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

/// Whoever made a request, proven by a token.
#[derive(Clone, Debug)]
pub struct Caller(Arc<TokenRow>);

impl Caller {
    /// The caller of this token text, if it is good.
    pub(crate) fn of(text: &str, head: &Head) -> Option<Caller> {
        let id = token::id_of(text)?;
        let row = head.tokens.get(id)?;
        // The hash is compared even where the token is revoked: both take the same time.
        let same = token::matches(text, &row.sha256);
        (same && row.revoked_unix_s.is_none()).then(|| Caller(Arc::new(row.clone())))
    }

    /// Its token's id.
    pub fn token_id(&self) -> &str {
        &self.0.id
    }

    /// Its token's role.
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// The service that its token is bound to; none: any.
    pub fn service(&self) -> Option<&str> {
        (!self.0.service.is_empty()).then_some(self.0.service.as_str())
    }

    /// Whether it has this permission.
    pub fn may(&self, permission: Permission) -> bool {
        self.role().has(permission)
    }

    /// Whether its token still is what it was when it was shown.
    pub(crate) fn still_good(&self, head: &Head) -> bool {
        head.tokens
            .get(&self.0.id)
            .is_some_and(|row| row.revoked_unix_s.is_none() && row.sha256 == self.0.sha256)
    }
}
