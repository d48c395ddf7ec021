//! Writes that may be sent twice: `Idempotency-Key`, and what became of a write.
//!
//! A caller that does not hear what came of a write sends it again under the same key. The key makes the
//! id of the write, under which the store keeps its revision: one that landed is not made again.

use std::sync::Arc;

use axum::Json as Out;
use axum::extract::{Request, State};
use http::{HeaderName, HeaderValue, header};
use keepgate_api as api;
use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest as _, Sha256};

use super::input::Params;
use super::problem::Problem;
use super::{Answer, App};
use crate::access::Named;
use crate::desk::{Outcome, WriteId, Written};
use crate::token::{self, RandomError};

/// The header that names a write.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header of an answer to a write that had landed before.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The value of [`REPLAYED`].
pub(crate) const TRUE: HeaderValue = HeaderValue::from_static("true");

/// The longest key, in bytes.
const KEY_BYTES: usize = 64;

/// What a key may be, for people and for the OpenAPI document.
pub(crate) const KEY_PATTERN: &str = "^[!-~]{1,64}$";

/// The name that a request gives its write by `Idempotency-Key`, if it has one. A key is its token's
/// own, and of one method, path and condition.
pub(crate) fn named(request: &Request, token_id: &str) -> Answer<Option<Arc<Named>>> {
    let headers = request.headers();
    let mut keys = headers.get_all(&KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let good = (1..=KEY_BYTES).contains(&key.len())
        && key.as_bytes().iter().all(u8::is_ascii_graphic)
        && keys.next().is_none();
    if !good {
        return Err(Problem::bad_request(format!(
            "`Idempotency-Key`: expected one UUID, or another text of 1 to {KEY_BYTES} visible ASCII \
             characters without spaces"
        )));
    }
    Ok(Some(Arc::new(Named::new(id_of(token_id, request, key.as_bytes())))))
}

/// A key for a request that is sent again where its answer is lost.
pub fn idempotency_key() -> Result<String, RandomError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| RandomError)?;
    Ok(token::hex(&bytes))
}

/// The first 16 bytes of SHA-256 over the token's id, the method, the path with its query, the
/// conditions, and the key, with a line feed after each but the last, which none of them has.
fn id_of(token_id: &str, request: &Request, key: &[u8]) -> WriteId {
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    let mut hash = Sha256::new();
    for part in [token_id, request.method().as_str(), path] {
        hash.update(part.as_bytes());
        hash.update(b"\n");
    }
    for name in [header::IF_MATCH, header::IF_NONE_MATCH] {
        for condition in request.headers().get_all(name) {
            hash.update(condition.as_bytes());
        }
        hash.update(b"\n");
    }
    hash.update(key);
    let mut id = WriteId::default();
    for (to, from) in id.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    id
}

/// For an answer with a secret, which is told once: a write that is sent again cannot get it.
pub(crate) fn told_once(outcome: &Outcome) -> Answer<()> {
    if !outcome.replayed {
        return Ok(());
    }
    Err(Problem::conflict(format!(
        "`Idempotency-Key`: this request landed before, as revision {}; what it made is there, but its \
         secret was told in the first answer alone: revoke or delete it, and make another under a new \
         key",
        outcome.revision
    )))
}

/// `GET /v1/writes/{write_id}`
pub(crate) async fn fetch(
    State(app): State<App>,
    Params(write_id): Params<String>,
) -> Answer<Out<api::Written>> {
    let id = parsed(&write_id).ok_or_else(|| {
        Problem::unprocessable(format!(
            "the path: expected a write id of 32 hexadecimal digits, got `{write_id}`"
        ))
    })?;
    let write_id = token::hex(&id);
    Ok(Out(match app.desk.written(id).await? {
        Written::Landed { revision, unix_ms } => api::Written {
            write_id,
            landed: true,
            revision: Some(revision.0),
            unix_ms: Some(unix_ms),
            kept_since_unix_ms: None,
        },
        Written::Absent { kept_since_unix_ms } => api::Written {
            write_id,
            landed: false,
            revision: None,
            unix_ms: None,
            kept_since_unix_ms,
        },
    }))
}

fn parsed(text: &str) -> Option<WriteId> {
    let digits = text.as_bytes();
    if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    Some(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, keys: &[&[u8]]) -> Request {
        let mut request =
            Request::builder().method("PUT").uri(path).body(Default::default()).unwrap();
        for key in keys {
            request.headers_mut().append(KEY, HeaderValue::from_bytes(key).unwrap());
        }
        request
    }

    fn id(token: &str, keys: &[&[u8]]) -> Result<Option<WriteId>, ()> {
        let named = named(&request("/a", keys), token);
        named.map(|named| named.map(|named| named.id())).map_err(drop)
    }

    #[test]
    fn a_key_is_bounded_and_its_tokens_own() {
        assert_eq!(id("t", &[]), Ok(None));
        let uuid: &[u8] = b"8e03978e-40d5-43dd-bc93-6894a57f9324";
        let one = id("t", &[uuid]).unwrap().unwrap();
        assert_eq!(id("t", &[uuid]), Ok(Some(one)));
        assert_ne!(id("u", &[uuid]), Ok(Some(one)));
        assert_ne!(id("t", &[b"x"]), Ok(Some(one)));
        assert_ne!(id_of("t", &request("/b", &[]), uuid), one);
        assert_ne!(id_of("t", &request("/a?dry_run=true", &[]), uuid), one);
        assert!(id("t", &[&[b'x'; 64]]).is_ok());
        for wrong in [&b""[..], &[b'x'; 65], b"a b", "\u{e4}".as_bytes()] {
            assert_eq!(id("t", &[wrong]), Err(()), "{wrong:?}");
        }
        assert_eq!(id("t", &[b"a", b"b"]), Err(()));
    }

    #[test]
    fn an_id_is_shown_as_it_is_read() {
        let made = id_of("t", &request("/a", &[]), b"k");
        assert_eq!(parsed(&token::hex(&made)), Some(made));
        for wrong in
            ["", "00", "+0000000000000000000000000000000", &"g".repeat(32), &"0".repeat(33)]
        {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
