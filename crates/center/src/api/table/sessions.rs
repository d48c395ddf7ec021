//! Endpoints of tokens and of sessions of the console.

use axum::routing::{delete, get, post};
use keepgate_api as api;

use super::{PAGE, Table};
use crate::access::Permission;
use crate::api::{sessions, tokens};

pub(super) fn of_tokens(t: &mut Table) {
    use Permission::Tokens;
    t.add(("GET", "/v1/tokens"), Tokens, ("listTokens", "all tokens, without hashes"), || {
        get(tokens::list)
    })
    .query(PAGE)
    .answers::<api::Tokens>();
    t.add(("POST", "/v1/tokens"), Tokens, ("createToken", "make a token; shown once"), || {
        post(tokens::create)
    })
    .created()
    .takes::<api::NewToken>()
    .answers::<api::MadeToken>();
    t.add(("DELETE", "/v1/tokens/{id}"), Tokens, ("revokeToken", "revoke a token"), || {
        delete(tokens::revoke)
    })
    .answers::<api::Landed>();
    let what =
        ("rotateToken", "make a new token in the place of one, which ends after the overlap");
    t.add(("POST", "/v1/tokens/{id}/rotate"), Tokens, what, || post(tokens::rotate))
        .created()
        .takes::<api::Rotate>()
        .answers::<api::MadeToken>();
}

pub(super) fn of_sessions(t: &mut Table) {
    use Permission::Tokens;
    let what = ("listSessions", "sessions of the console, without their secrets");
    t.add(("GET", "/v1/sessions"), Tokens, what, || get(sessions::list))
        .query(PAGE)
        .answers::<api::Sessions>();
    let what = ("endSessions", "end all sessions of the console that one person or token has");
    t.add(("DELETE", "/v1/sessions/{holder}"), Tokens, what, || delete(sessions::end))
        .answers::<api::Landed>();
}
