//! From whom a gate obtains its certificates by ACME (RFC 8555).

use std::path::PathBuf;

/// The directory of Let's Encrypt, RFC 8555 section 7.1.1.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// The most names that a gate obtains certificates for.
pub const ACME_HOSTS: usize = 200;

/// The authority, the names, and where all is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeConfig {
    /// The URL of the authority's directory.
    pub directory: String,
    /// The names, in lower case; each has a certificate of its own. At most [`ACME_HOSTS`].
    pub hosts: Vec<String>,
    /// Where the authority may write to, such as `mailto:ops@example.com`; none: nowhere.
    pub contact: Option<String>,
    /// Where account, certificates and keys are kept.
    pub dir: PathBuf,
    /// The authority's terms of service are accepted.
    pub accepts_terms: bool,
    /// A PEM file with the certificates to trust for the authority; none: the host's store.
    pub ca: Option<PathBuf>,
}

impl AcmeConfig {
    /// What makes no sense; none: all does.
    pub(crate) fn wrong(&self) -> Option<String> {
        if self.hosts.is_empty() || self.hosts.len() > ACME_HOSTS {
            return Some(format!("names {} hosts; expected 1 to {ACME_HOSTS}", self.hosts.len()));
        }
        if self.dir.as_os_str().is_empty() {
            return Some("needs a directory for certificates and keys: pass --acme-dir".to_owned());
        }
        if !self.accepts_terms {
            let directory = &self.directory;
            return Some(format!(
                "needs the terms of service of `{directory}` to be accepted: read them, and pass \
                 --acme-accept-terms"
            ));
        }
        if !self.directory.starts_with("https://") {
            return Some(format!("expected an https URL as directory, got `{}`", self.directory));
        }
        let is_name = |host: &&String| {
            host.contains('.')
                && host.len() <= 253
                && host.parse::<std::net::IpAddr>().is_err()
                && host.split('.').all(|label| {
                    !label.is_empty()
                        && label.len() <= 63
                        && label
                            .bytes()
                            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                })
        };
        let bad = self.hosts.iter().find(|host| !is_name(host))?;
        Some(format!(
            "expected a host name such as `shop.example`, in lower case and without `*`, got `{bad}`; \
             a wildcard needs a certificate from elsewhere (`tls`)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_authority_certifies_are_refused() {
        let config = |host: &str| AcmeConfig {
            directory: LETS_ENCRYPT.to_owned(),
            hosts: vec![host.to_owned()],
            contact: None,
            dir: "certificates".into(),
            accepts_terms: true,
            ca: None,
        };
        for good in ["shop.example", "a-1.shop.example"] {
            assert_eq!(config(good).wrong(), None);
        }
        for bad in ["*.shop.example", "127.0.0.1", "shop", "Shop.example", "a..b", "../x.y", ""] {
            assert!(config(bad).wrong().is_some_and(|said| said.contains(bad)), "{bad}");
        }
        let plain = AcmeConfig { directory: "http://a/".to_owned(), ..config("a.example") };
        assert!(plain.wrong().is_some());
        let none = AcmeConfig { hosts: Vec::new(), ..config("a.example") };
        assert!(none.wrong().is_some());
        let nowhere = AcmeConfig { dir: PathBuf::new(), ..config("a.example") };
        assert!(nowhere.wrong().is_some_and(|said| said.contains("--acme-dir")));
        let unread = AcmeConfig { accepts_terms: false, ..config("a.example") };
        assert!(unread.wrong().is_some_and(|said| said.contains("--acme-accept-terms")));
        let many = vec!["a.example".to_owned(); ACME_HOSTS];
        let at = AcmeConfig { hosts: many.clone(), ..config("a.example") };
        assert_eq!(at.wrong(), None);
        let beyond = AcmeConfig { hosts: [many, vec!["b.example".to_owned()]].concat(), ..at };
        assert!(beyond.wrong().is_some());
    }
}
