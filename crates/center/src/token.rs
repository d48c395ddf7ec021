//! Tokens of the admin API, of AuthZEN callers and of followers: their text, hash and roles.
//!
//! A token is `kgt_<id>_<secret>`, 256 random bits of secret; the store keeps SHA-256 of the
//! whole text. A plain hash is enough: nobody guesses 256 bits, so there is nothing to slow down.

use std::sync::Arc;

use keepgate_serve::certificate::Certificate;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// What a token may do; see [`crate::access`] for where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Everything, tokens included.
    Admin,
    /// Reads and writes services, the directory and keys; no tokens.
    Editor,
    /// Reads what an editor reads.
    Viewer,
    /// Follows the services that it names.
    Gate,
    /// Asks for decisions.
    Pep,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 5] = [Role::Admin, Role::Editor, Role::Viewer, Role::Gate, Role::Pep];

    /// As in requests, answers and the store.
    pub fn name(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Editor => "editor",
            Role::Viewer => "viewer",
            Role::Gate => "gate",
            Role::Pep => "pep",
        }
    }

    /// The role of a name.
    pub fn from_name(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// A new secret text and what is kept of it.
pub(crate) struct Minted {
    /// The readable part: 12 lower-case hex digits.
    pub(crate) id: String,
    /// The whole text, shown once.
    pub(crate) text: String,
    /// SHA-256 of the text.
    pub(crate) sha256: [u8; 32],
}

/// The system's random numbers are not available.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct RandomError;

/// Makes `PREFIX_<id>_<secret>`.
pub(crate) fn mint(prefix: &str) -> Result<Minted, RandomError> {
    let mut bytes = [0_u8; 38];
    SystemRandom::new().fill(&mut bytes).map_err(|_| RandomError)?;
    let (id, secret) = bytes.split_at(6);
    let id = hex(id);
    let text = format!("{prefix}_{id}_{}", hex(secret));
    let sha256 = Sha256::digest(text.as_bytes()).into();
    Ok(Minted { id, text, sha256 })
}

/// What a connection's client certificate says; in the extensions of its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerCertificate {
    /// The names by which a machine is known.
    pub(crate) names: Vec<String>,
    /// From when on it is refused, in seconds since the Unix epoch.
    pub(crate) until_unix_s: u64,
}

impl PeerCertificate {
    /// Of a chain that the handshake has accepted; none: there is none, or it cannot be read.
    pub(crate) fn of(chain: Option<&[CertificateDer<'_>]>) -> Option<Arc<PeerCertificate>> {
        let read = Certificate::parse(chain?.first()?).ok()?;
        let (names, until_unix_s) = (read.machine_names(), read.until_unix_s());
        Some(Arc::new(PeerCertificate { names, until_unix_s }))
    }
}

/// The longest name of a certificate that takes a secret's place, in bytes.
pub(crate) const CERTIFICATE_BYTES: usize = 400;

/// What a note of a token begins with whose secret is a client certificate.
const CERTIFICATE: &str = "certificate ";

/// What is kept of the name of a certificate that takes a secret's place. No text of a token has this
/// hash, and no name has that of a token.
pub(crate) fn certificate_sha256(name: &str) -> [u8; 32] {
    Sha256::new_with_prefix(b"keepgate certificate\0").chain_update(name).finalize().into()
}

/// The note of such a token: the name, and what people say.
pub(crate) fn certificate_note(name: &str, note: &str) -> String {
    if note.is_empty() {
        format!("{CERTIFICATE}{name}")
    } else {
        format!("{CERTIFICATE}{name} {note}")
    }
}

/// The name of the certificate that takes the place of a token's secret; none: it has a secret.
pub(crate) fn certificate_of<'n>(note: &'n str, sha256: &[u8; 32]) -> Option<&'n str> {
    let name = note.strip_prefix(CERTIFICATE)?.split(' ').next()?;
    (certificate_sha256(name) == *sha256).then_some(name)
}

/// The id part of a token text; none: it is no such text.
pub(crate) fn id_of(text: &str) -> Option<&str> {
    let (id, secret) = text.strip_prefix("kgt_")?.split_once('_')?;
    (!id.is_empty() && !secret.is_empty()).then_some(id)
}

/// Whether the text hashes to it, in constant time.
pub(crate) fn matches(text: &str, sha256: &[u8; 32]) -> bool {
    Sha256::digest(text.as_bytes()).as_slice().ct_eq(sha256.as_slice()).into()
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    keepgate_record::hex::text(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificates_name_is_found_in_its_note_alone() {
        let sha256 = certificate_sha256("spiffe://a/gate");
        for note in ["", "for the shop"] {
            let note = certificate_note("spiffe://a/gate", note);
            assert_eq!(certificate_of(&note, &sha256), Some("spiffe://a/gate"));
            assert_eq!(certificate_of(&note, &certificate_sha256("b")), None);
        }
        assert_eq!(certificate_of("spiffe://a/gate", &sha256), None);
        let minted = mint("kgt").unwrap();
        assert_eq!(certificate_of(&certificate_note(&minted.text, ""), &minted.sha256), None);
    }

    #[test]
    fn a_minted_token_is_found_by_its_id_and_matches_only_itself() {
        let (one, two) = (mint("kgt").unwrap(), mint("kgt").unwrap());
        assert_eq!(id_of(&one.text), Some(one.id.as_str()));
        assert!(matches(&one.text, &one.sha256));
        assert!(!matches(&two.text, &one.sha256));
        assert_eq!(one.text.len(), 4 + 12 + 1 + 64);
        for bad in ["", "kgt_", "kgt_abc", "kgt__x", "kgk_a_b", "kgt_a_"] {
            assert_eq!(id_of(bad), None, "{bad}");
        }
    }
}
