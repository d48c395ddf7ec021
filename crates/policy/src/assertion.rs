//! The public keys of what gates assert to upstreams, as gates tell them to their center and as the
//! center publishes them (RFC 7517).
//!
//! A key is a point on P-256 and a proof that its teller has the private half. So the center publishes
//! nothing but keys, under names that it computes itself: no gate can break the list for the upstreams
//! of others, or take another key's name.

use schemars::JsonSchema;
use serde::Serialize;

use crate::proto;

/// Keys that one follower may have at the same time: one that signs, and the next.
pub const KEYS: usize = 4;
/// Bytes of a point: 4, x and y (SEC 1, uncompressed).
pub const POINT_BYTES: usize = 65;
/// The longest proof, in bytes.
pub const PROOF_BYTES: usize = 64;

/// A public key of ES256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// The point, uncompressed.
    pub point: [u8; POINT_BYTES],
    /// A signature with the key over [`possession`].
    pub proof: Vec<u8>,
}

/// A key of a key set (RFC 7517, RFC 7518 section 6.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Jwk {
    /// `EC`.
    pub kty: &'static str,
    /// `P-256`.
    pub crv: &'static str,
    /// The first coordinate, in base64url.
    pub x: String,
    /// The second.
    pub y: String,
    /// Its thumbprint (RFC 7638).
    pub kid: String,
    /// `sig`.
    #[serde(rename = "use")]
    pub purpose: &'static str,
    /// `ES256`.
    pub alg: &'static str,
}

/// What a proof of possession signs.
pub fn possession(point: &[u8; POINT_BYTES]) -> Vec<u8> {
    [b"keepgate assertion key\0".as_slice(), point].concat()
}

impl PublicKey {
    /// As a follower says it; none: it is not of that form. The proof is not verified here.
    pub fn from_proto(key: &proto::AssertionKey) -> Option<PublicKey> {
        let point: [u8; POINT_BYTES] = key.point.as_slice().try_into().ok()?;
        let is_one = point.first() == Some(&4) && key.proof.len() == PROOF_BYTES;
        is_one.then(|| PublicKey { point, proof: key.proof.clone() })
    }

    /// As it is said to a center.
    pub fn to_proto(&self) -> proto::AssertionKey {
        proto::AssertionKey { point: self.point.to_vec(), proof: self.proof.clone() }
    }

    fn coordinates(&self) -> (String, String) {
        let (_, coordinates) = self.point.split_at(1);
        let (x, y) = coordinates.split_at(32);
        (base64url(x), base64url(y))
    }

    /// Its name: the thumbprint of RFC 7638.
    pub fn kid(&self) -> String {
        use sha2::Digest as _;
        let (x, y) = self.coordinates();
        let members = format!("{{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"{x}\",\"y\":\"{y}\"}}");
        base64url(&sha2::Sha256::digest(members.as_bytes()))
    }

    /// As a member of a key set.
    pub fn jwk(&self) -> Jwk {
        let (x, y) = self.coordinates();
        let kid = self.kid();
        Jwk { kty: "EC", crv: "P-256", x, y, kid, purpose: "sig", alg: "ES256" }
    }
}

/// Base64 with the alphabet for URLs, without padding (RFC 4648, section 5).
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = [0, 1, 2].map(|i| u32::from(chunk.get(i).copied().unwrap_or(0)));
        let [a, b, c] = bits;
        let bits = a << 16 | b << 8 | c;
        for place in 0..=chunk.len() {
            let index = bits >> (18 - 6 * place) & 63;
            let index = usize::try_from(index).unwrap_or(0);
            text.push(char::from(ALPHABET.get(index).copied().unwrap_or(b'A')));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_that_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff, 0xbf]), "-_-_");
    }

    #[test]
    fn a_key_is_published_under_its_thumbprint() {
        let mut point = [4; POINT_BYTES];
        for (place, byte) in (0..=255).cycle().take(64).enumerate() {
            point[place + 1] = byte;
        }
        let key = PublicKey { point, proof: vec![0; PROOF_BYTES] };
        assert_eq!(PublicKey::from_proto(&key.to_proto()), Some(key.clone()));
        let jwk = key.jwk();
        assert_eq!(jwk.x, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
        assert_eq!((jwk.kid.len(), &jwk.kid), (43, &key.kid()));
        for (place, wrong) in [(0, 2_u8), (0, 0)] {
            let mut said = key.to_proto();
            said.point[place] = wrong;
            assert_eq!(PublicKey::from_proto(&said), None);
        }
        for cut in [0, 1, 64] {
            let mut said = key.to_proto();
            said.point.truncate(cut);
            assert_eq!(PublicKey::from_proto(&said), None);
        }
        let said = proto::AssertionKey { proof: vec![0; 65], ..key.to_proto() };
        assert_eq!(PublicKey::from_proto(&said), None);
    }
}
