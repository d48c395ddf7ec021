//! What is recorded of requests, and where.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use keepgate_record::{Destination, Format, HashKey, Member, Members, Shape};

/// Rules of sampling at most.
pub const MAX_SAMPLES: usize = 64;

/// The decision and access log of a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordConfig {
    /// Where records go.
    pub destination: Destination,
    /// How they look.
    pub format: Format,
    /// The gate's name in them.
    pub gate: String,
    /// What is not written.
    pub left_out: Members,
    /// What is hashed.
    pub hashed: Members,
    /// The key of hashes; none: what is to be hashed is left out.
    pub key: Option<HashSecret>,
    /// Paths with their query.
    pub query: bool,
    /// Which requests that are allowed are written; the first rule that fits counts. Without one: all.
    pub samples: Vec<Sample>,
}

impl RecordConfig {
    /// With the defaults.
    pub fn new(destination: Destination, gate: &str) -> RecordConfig {
        RecordConfig {
            destination,
            format: Format::default(),
            gate: gate.to_owned(),
            left_out: Members::NONE,
            hashed: Members::NONE,
            key: None,
            query: false,
            samples: Vec::new(),
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape {
            format: self.format,
            left_out: self.left_out,
            hashed: self.hashed,
            key: self.key.as_ref().and_then(|key| HashKey::new(&key.0)),
            query: self.query,
        }
    }
}

/// The bytes of a key of hashes; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct HashSecret(pub Vec<u8>);

impl fmt::Debug for HashSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashSecret(..)")
    }
}

/// Sizes and times of the log.
#[derive(Clone, Debug)]
pub struct RecordBounds {
    /// Bytes of a file, after which the next one begins.
    pub file_bytes: u64,
    /// The time after which it does.
    pub file_age: Duration,
    /// Bytes of all files; the oldest are removed.
    pub total_bytes: u64,
    /// Bytes that wait to be written, of all workers together.
    pub queue_bytes: usize,
}

impl Default for RecordBounds {
    fn default() -> RecordBounds {
        RecordBounds {
            file_bytes: 256 << 20,
            file_age: Duration::from_secs(86_400),
            total_bytes: 4 << 30,
            queue_bytes: 32 << 20,
        }
    }
}

/// How many of the requests that a rule is about, and that are allowed, are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Empty: any.
    pub method: String,
    /// The route's template; `*`: any, also none.
    pub route: String,
    /// One in so many; 0: none.
    pub one_in: u64,
}

impl Sample {
    /// Whether it is about this request.
    pub(crate) fn fits(&self, method: &str, route: &str) -> bool {
        (self.method.is_empty() || self.method == method)
            && (self.route == "*" || self.route == route)
    }
}

impl FromStr for Sample {
    type Err = String;

    fn from_str(text: &str) -> Result<Sample, String> {
        let wrong = || {
            format!(
                "expected a route and a number, such as `/health=100` or `GET *=10`, got `{text}`"
            )
        };
        let (rule, one_in) = text.rsplit_once('=').ok_or_else(wrong)?;
        let (method, route) = rule.split_once(' ').unwrap_or(("", rule));
        let is_route = route == "*" || route.starts_with('/');
        if !is_route || !method.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong());
        }
        let one_in = one_in.parse().map_err(|_| wrong())?;
        Ok(Sample { method: method.to_owned(), route: route.to_owned(), one_in })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = if self.method.is_empty() { "" } else { " " };
        write!(f, "{}{space}{}={}", self.method, self.route, self.one_in)
    }
}

/// Where records go, as a flag says it: `stdout`, `unix:/path`, or the path of a file.
pub fn destination(text: &str) -> Result<Destination, String> {
    match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => Ok(Destination::Unix(path.into())),
        Some(path) => Err(format!("expected an absolute path after `unix:`, got `{path}`")),
        None if text == "stdout" => Ok(Destination::Stdout),
        None if text.is_empty() || text.ends_with('/') => {
            Err(format!("expected `stdout`, `unix:/path` or the path of a file, got `{text}`"))
        }
        None => Ok(Destination::File(text.into())),
    }
}

/// A member of a record that can be left out.
pub fn omitted(name: &str) -> Result<Member, String> {
    match Member::of(name) {
        Some(member) if !member.is_needed() => Ok(member),
        Some(_) => Err(format!("`{name}` cannot be left out: a record without it says nothing")),
        None => Err(unknown(name)),
    }
}

/// A member of a record that can be hashed.
pub fn hashed(name: &str) -> Result<Member, String> {
    match Member::of(name) {
        Some(member) if member.is_text() && !member.is_needed() => Ok(member),
        Some(_) => Err(format!("`{name}` cannot be hashed; leave it out instead")),
        None => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> String {
    let names: Vec<_> = Member::ALL.iter().map(|member| member.name()).collect();
    format!("a record has no `{name}`; it has {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples() {
        for text in ["/health=100", "GET /a/{id}=0", "GET *=10"] {
            assert_eq!(text.parse::<Sample>().unwrap().to_string(), text);
        }
        for text in ["", "/health", "health=1", "/a=x", "/a=-1", " *=1x"] {
            assert!(text.parse::<Sample>().is_err(), "{text}");
        }
        let sample: Sample = "GET /a=2".parse().unwrap();
        assert!(
            sample.fits("GET", "/a") && !sample.fits("POST", "/a") && !sample.fits("GET", "/b")
        );
    }

    #[test]
    fn members_and_destinations() {
        assert!(omitted("path").is_ok() && omitted("status").is_err() && omitted("x").is_err());
        assert!(hashed("path").is_ok() && hashed("age_ms").is_err() && hashed("x").is_err());
        assert_eq!(destination("stdout"), Ok(Destination::Stdout));
        assert_eq!(destination("a.log"), Ok(Destination::File("a.log".into())));
        assert!(destination("unix:x").is_err() && destination("dir/").is_err());
    }
}
