//! An issuer's own document (OpenID Connect Discovery 1.0), of which few members are read.
//!
//! INVARIANT: the document speaks for the issuer that was asked and for no other. Its `issuer` must be
//! the configured one byte for byte, or one issuer's keys would verify another's tokens.

use serde::Deserialize;

/// The largest document, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// Why a document is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Over [`MAX_BYTES`].
    #[error("the issuer's document is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// No JSON, or a member is missing that is needed.
    #[error("the issuer's document is not one of OpenID Connect Discovery: {0}")]
    Json(String),
    /// It is another issuer's.
    #[error(
        "the document at `{asked}` is of issuer `{found}`; `issuer` must say the same, byte for byte"
    )]
    Issuer {
        /// The issuer that was asked.
        asked: String,
        /// Who it says it is, at most its first 200 characters.
        found: String,
    },
}

/// What is read of it; URLs as they are written, not judged.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Document {
    issuer: String,
    /// Where its keys are.
    pub jwks_uri: String,
    /// Where people sign in; none: they cannot.
    pub authorization_endpoint: Option<String>,
    /// Where a code is exchanged; none: it cannot be.
    pub token_endpoint: Option<String>,
    /// How a client authenticates there; none: by HTTP Basic (section 3).
    #[serde(rename = "token_endpoint_auth_methods_supported")]
    pub token_auth: Option<Vec<String>>,
    /// Whether its answers to the browser always say who gives them (RFC 9207).
    #[serde(default, rename = "authorization_response_iss_parameter_supported")]
    pub says_issuer: bool,
}

/// Where an issuer's document is (section 4 there): a slash at the issuer's end counts once.
pub fn url(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
}

/// Reads the document of this issuer.
///
/// # Errors
/// [`DocumentError`].
pub fn read(issuer: &str, document: &[u8]) -> Result<Document, DocumentError> {
    if document.len() > MAX_BYTES {
        return Err(DocumentError::TooLarge);
    }
    let read: Document =
        serde_json::from_slice(document).map_err(|e| DocumentError::Json(e.to_string()))?;
    if read.issuer != issuer {
        let found = read.issuer.chars().take(200).collect();
        return Err(DocumentError::Issuer { asked: issuer.to_owned(), found });
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwks_uri(issuer: &str, document: &[u8]) -> Result<String, DocumentError> {
        read(issuer, document).map(|read| read.jwks_uri)
    }

    #[test]
    fn a_document_speaks_for_its_own_issuer() {
        let of = |issuer: &str| {
            format!(r#"{{"issuer":"{issuer}","jwks_uri":"https://k.example/keys","x":[1]}}"#)
        };
        let issuer = "https://id.example";
        assert_eq!(jwks_uri(issuer, of(issuer).as_bytes()).unwrap(), "https://k.example/keys");
        for other in ["https://id.example/", "https://ID.example", "https://id.example.evil", ""] {
            let error = jwks_uri(issuer, of(other).as_bytes()).unwrap_err();
            assert!(matches!(error, DocumentError::Issuer { .. }), "{other}");
        }
        let other = [
            "[]",
            "{}",
            r#"{"issuer":"https://id.example"}"#,
            "",
            "x",
            r#"{"issuer":"https://id.example","jwks_uri":7}"#,
            r#"{"issuer":"a","issuer":"https://id.example","jwks_uri":"k"}"#,
        ];
        for bad in other {
            assert!(
                matches!(jwks_uri(issuer, bad.as_bytes()), Err(DocumentError::Json(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_document_is_bounded() {
        let issuer = "https://id.example";
        let sized = |bytes: usize| {
            let mut text = format!(r#"{{"issuer":"{issuer}","jwks_uri":"k"}}"#);
            text.extend(std::iter::repeat_n(' ', bytes - text.len()));
            jwks_uri(issuer, text.as_bytes())
        };
        assert_eq!(sized(MAX_BYTES), Ok("k".to_owned()));
        assert_eq!(sized(MAX_BYTES + 1), Err(DocumentError::TooLarge));
    }

    #[test]
    fn a_slash_at_the_end_counts_once() {
        for (issuer, at) in [
            ("https://a.example", "https://a.example/.well-known/openid-configuration"),
            ("https://a.example/", "https://a.example/.well-known/openid-configuration"),
            ("https://a.example/r/x", "https://a.example/r/x/.well-known/openid-configuration"),
        ] {
            assert_eq!(url(issuer), at);
        }
    }
}
