//! Where the database is and how to talk to it: the URL of `--database`, checked.
//!
//! Most of a URL is PostgreSQL's own. What the library does not know, or must not be left to its
//! defaults, is taken out first: TLS, the schema, prepared statements, the password's file.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, SslNegotiation, TargetSessionAttrs};

use super::tls::{self, TlsError};

/// How long one host may take to accept a connection, unless the URL says otherwise.
const CONNECT_WAIT: Duration = Duration::from_secs(3);

/// How long sent bytes may stay unacknowledged before a connection counts as dead.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// The longest name of a schema, in bytes: the name of a channel is made of it.
const SCHEMA_BYTES: usize = 40;

/// The largest file of a password, in bytes.
const PASSWORD_BYTES: u64 = 4096;

/// The schema that is used where the URL names none.
pub(super) const SCHEMA: &str = "keepgate";

/// A database URL that cannot be used. No message holds a password.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It is not such a URL.
    #[error("expected a database URL such as `postgres://keepgate@db.example.com/keepgate`")]
    Scheme,
    /// The library cannot read it.
    #[error("the database URL cannot be used")]
    Url(#[source] tokio_postgres::Error),
    /// A parameter of it does not say what it must.
    #[error("`{name}` of the database URL: expected {expected}, got `{found}`")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What it may say.
        expected: &'static str,
        /// What it says.
        found: String,
    },
    /// It names no host.
    #[error(
        "the database URL names no host; name one (`postgres://keepgate@db.example.com/keepgate`), \
         or the directory of the server's socket (`postgres:///keepgate?host=/run/postgresql`)"
    )]
    NoHost,
    /// It names a password and a file of one.
    #[error("the database URL has a password and a `password_file`; leave one of them out")]
    TwoPasswords,
    /// There are not as many ports, or addresses, as hosts.
    #[error("the database URL has {hosts} hosts and {others} {what}; give one for each host")]
    Uneven {
        /// How many hosts.
        hosts: usize,
        /// How many of the others.
        others: usize,
        /// What they are.
        what: &'static str,
    },
    /// Without TLS to another host.
    #[error(
        "refusing `sslmode={mode}` to `{host}`: passwords and policies would travel in clear text; \
         leave `sslmode` out (the server's certificate is verified, `sslrootcert=FILE` names a CA of \
         your own), or connect to this host's own database"
    )]
    Plain {
        /// What was asked for.
        mode: String,
        /// The host.
        host: String,
    },
    /// A file that it names cannot be read.
    #[error("`{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The certificates that are to be trusted.
    #[error("TLS to the database cannot be used")]
    Tls(#[from] TlsError),
}

/// A database, and how sessions with it are opened. `Display` and `Debug` show no password.
#[derive(Clone)]
pub struct Address {
    /// One for each host, in the order in which they are tried.
    pub(super) hosts: Vec<(String, Config)>,
    /// The place of the one that was good last.
    pub(super) good: Arc<AtomicUsize>,
    /// None: without TLS.
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    /// Whether statements have names that a session keeps.
    pub(super) prepared: bool,
    pub(super) schema: String,
    /// How long one attempt at one host may take, its greeting included.
    pub(super) attempt: Duration,
    shown: String,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({})", self.shown)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// What the library is not asked about.
#[derive(Default)]
struct Ours {
    prepared: Option<bool>,
    schema: Option<String>,
    sslmode: Option<String>,
    sslrootcert: Option<PathBuf>,
    password_file: Option<PathBuf>,
    /// Other names that the URL says something of.
    said: Vec<String>,
}

impl Address {
    /// Reads a database URL and the files that it names. Blocks on them.
    ///
    /// # Errors
    /// Names the part of the URL, or the file, that cannot be used.
    pub fn parse(url: &str) -> Result<Address, AddressError> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(AddressError::Scheme);
        }
        let (rest, ours) = take_ours(url)?;
        let mut base: Config = rest.parse().map_err(AddressError::Url)?;
        let schema = ours.schema.unwrap_or_else(|| SCHEMA.to_owned());
        check_schema(&schema)?;
        if base.get_target_session_attrs() == TargetSessionAttrs::ReadOnly {
            return Err(AddressError::Parameter {
                name: "target_session_attrs",
                expected: "`read-write`: a center writes",
                found: "read-only".to_owned(),
            });
        }
        match (ours.password_file, base.get_password().is_some()) {
            (Some(_), true) => return Err(AddressError::TwoPasswords),
            (Some(path), false) => {
                base.password(password_of(&path)?);
            }
            (None, _) => {}
        }
        let said = |name: &str| ours.said.iter().any(|said| said == name);
        if base.get_connect_timeout().is_none() {
            base.connect_timeout(CONNECT_WAIT);
        }
        if !said("tcp_user_timeout") {
            base.tcp_user_timeout(UNACKNOWLEDGED);
        }
        if !said("keepalives_idle") {
            base.keepalives_idle(Duration::from_secs(5));
        }
        if !said("keepalives_interval") {
            base.keepalives_interval(Duration::from_secs(2));
        }
        if !said("keepalives_retries") {
            base.keepalives_retries(3);
        }
        if base.get_application_name().is_none() {
            base.application_name("keepgate-center");
        }
        let places = places(&base)?;
        let far = places.iter().find(|place| !place.is_here()).map(Place::shown);
        let tls = match (ours.sslmode.as_deref(), far) {
            (Some(mode @ ("disable" | "allow" | "prefer")), Some(host)) => {
                return Err(AddressError::Plain { mode: mode.to_owned(), host });
            }
            (None | Some("disable" | "allow" | "prefer"), None) => None,
            (None | Some("require" | "verify-ca" | "verify-full"), _) => {
                let direct = base.get_ssl_negotiation() == SslNegotiation::Direct;
                Some(tls::config(ours.sslrootcert.as_deref(), direct)?)
            }
            (Some(other), _) => {
                return Err(AddressError::Parameter {
                    name: "sslmode",
                    expected: "`disable`, `require` or `verify-full`",
                    found: other.to_owned(),
                });
            }
        };
        base.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        let attempt = base.get_connect_timeout().copied().unwrap_or(CONNECT_WAIT) * 2;
        let shown = shown(&base, &places, &schema);
        let hosts = places.into_iter().map(|place| (place.shown(), place.alone(&base))).collect();
        let prepared = ours.prepared.unwrap_or(true);
        let good = Arc::default();
        Ok(Address { hosts, good, tls, prepared, schema, attempt, shown })
    }

    /// The schema that holds the tables.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The channel on which a new head is told.
    pub(super) fn channel(&self) -> String {
        match self.schema.as_str() {
            SCHEMA => "keepgate_head".to_owned(),
            schema => format!("keepgate_head_{schema}"),
        }
    }
}

/// One host, where it is and its port.
struct Place {
    host: Option<Host>,
    address: Option<IpAddr>,
    port: u16,
}

impl Place {
    /// Whether what is sent there stays on this machine.
    fn is_here(&self) -> bool {
        match (&self.host, self.address) {
            (_, Some(address)) => address.to_canonical().is_loopback(),
            (Some(Host::Unix(_)), None) => true,
            (Some(Host::Tcp(name)), None) => {
                let bare = name.trim_start_matches('[').trim_end_matches(']');
                name.eq_ignore_ascii_case("localhost")
                    || bare.parse().is_ok_and(|at: IpAddr| at.to_canonical().is_loopback())
            }
            (None, None) => false,
        }
    }

    fn shown(&self) -> String {
        match (&self.host, self.address) {
            (Some(Host::Tcp(name)), _) => format!("{name}:{}", self.port),
            (Some(Host::Unix(path)), _) => path.display().to_string(),
            (None, Some(address)) => format!("{address}:{}", self.port),
            (None, None) => String::new(),
        }
    }

    /// The settings with this host alone.
    fn alone(&self, base: &Config) -> Config {
        let mut config = Config::new();
        match &self.host {
            Some(Host::Tcp(name)) => {
                config.host(name);
            }
            Some(Host::Unix(path)) => {
                config.host_path(path);
            }
            None => {}
        }
        if let Some(address) = self.address {
            config.hostaddr(address);
        }
        config.port(self.port);
        if let Some(user) = base.get_user() {
            config.user(user);
        }
        if let Some(password) = base.get_password() {
            config.password(password);
        }
        if let Some(name) = base.get_dbname() {
            config.dbname(name);
        }
        if let Some(options) = base.get_options() {
            config.options(options);
        }
        if let Some(name) = base.get_application_name() {
            config.application_name(name);
        }
        if let Some(wait) = base.get_connect_timeout() {
            config.connect_timeout(*wait);
        }
        if let Some(wait) = base.get_tcp_user_timeout() {
            config.tcp_user_timeout(*wait);
        }
        if let Some(interval) = base.get_keepalives_interval() {
            config.keepalives_interval(interval);
        }
        if let Some(retries) = base.get_keepalives_retries() {
            config.keepalives_retries(retries);
        }
        config
            .keepalives(base.get_keepalives())
            .keepalives_idle(base.get_keepalives_idle())
            .ssl_mode(base.get_ssl_mode())
            .ssl_negotiation(base.get_ssl_negotiation())
            .channel_binding(base.get_channel_binding())
            .load_balance_hosts(base.get_load_balance_hosts())
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        config
    }
}

fn places(base: &Config) -> Result<Vec<Place>, AddressError> {
    let (hosts, addresses, ports) = (base.get_hosts(), base.get_hostaddrs(), base.get_ports());
    let count = hosts.len().max(addresses.len());
    if count == 0 {
        return Err(AddressError::NoHost);
    }
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        let (hosts, others) = (hosts.len(), addresses.len());
        return Err(AddressError::Uneven { hosts, others, what: "addresses" });
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(AddressError::Uneven { hosts: count, others: ports.len(), what: "ports" });
    }
    let place = |at: usize| Place {
        host: hosts.get(at).cloned(),
        address: addresses.get(at).copied(),
        port: ports.get(at).or_else(|| ports.first()).copied().unwrap_or(5432),
    };
    Ok((0..count).map(place).collect())
}

/// The URL as people may see it.
fn shown(base: &Config, places: &[Place], schema: &str) -> String {
    let hosts: Vec<String> = places.iter().map(Place::shown).collect();
    let user = base.get_user().map(|user| format!("{user}@")).unwrap_or_default();
    let name = base.get_dbname().or(base.get_user()).unwrap_or_default();
    let schema = match schema {
        SCHEMA => String::new(),
        schema => format!("?schema={schema}"),
    };
    format!("postgres://{user}{}/{name}{schema}", hosts.join(","))
}

/// A name that needs no quotes anywhere.
fn check_schema(schema: &str) -> Result<(), AddressError> {
    let first = schema.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let rest = schema.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if first && rest && schema.len() <= SCHEMA_BYTES && !schema.starts_with("pg_") {
        return Ok(());
    }
    Err(AddressError::Parameter {
        name: "schema",
        expected: "at most 40 of a to z, 0 to 9 and `_`, a letter first, and not `pg_..`",
        found: schema.to_owned(),
    })
}

fn password_of(path: &Path) -> Result<String, AddressError> {
    use std::io::Read as _;
    let failed = |source| AddressError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(PASSWORD_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The URL without what the library does not know.
fn take_ours(url: &str) -> Result<(String, Ours), AddressError> {
    let mut ours = Ours::default();
    let Some((before, query)) = url.split_once('?') else { return Ok((url.to_owned(), ours)) };
    let mut theirs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, raw) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(raw);
        match name {
            "prepared" => {
                ours.prepared = Some(match value.as_str() {
                    "true" => true,
                    "false" => false,
                    _ => {
                        return Err(AddressError::Parameter {
                            name: "prepared",
                            expected: "`true` or `false`",
                            found: value,
                        });
                    }
                });
            }
            "schema" => ours.schema = Some(value),
            "sslmode" => ours.sslmode = Some(value),
            "sslrootcert" => ours.sslrootcert = Some(PathBuf::from(value)),
            "password_file" => ours.password_file = Some(PathBuf::from(value)),
            // The library takes hosts apart before the question mark only.
            "host" if value.contains(',') => {
                theirs
                    .extend(raw.replace("%2C", ",").split(',').map(|host| format!("host={host}")));
            }
            // As other clients name what is always asked for here.
            "target_session_attrs" if value == "primary" => {}
            _ => {
                ours.said.push(name.to_owned());
                theirs.push(pair.to_owned());
            }
        }
    }
    let rest = match theirs.is_empty() {
        true => before.to_owned(),
        false => format!("{before}?{}", theirs.join("&")),
    };
    Ok((rest, ours))
}

/// With `%XX` taken as the byte that it is.
fn decoded(raw: &str) -> String {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'%');
        let byte = hex
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        keepgate_observe::chain(&Address::parse(url).unwrap_err())
    }

    #[test]
    fn a_url_is_taken_apart() {
        let url = "postgres://kg:secret@127.0.0.1:5433,localhost:5434/db?schema=other\
                   &prepared=false&connect_timeout=2&target_session_attrs=read-write";
        let address = Address::parse(url).unwrap();
        assert_eq!(
            address.to_string(),
            "postgres://kg@127.0.0.1:5433,localhost:5434/db?schema=other"
        );
        assert!(!format!("{address:?}").contains("secret"));
        assert!(!address.prepared && address.tls.is_none());
        assert_eq!(address.hosts.len(), 2);
        assert_eq!(address.attempt, Duration::from_secs(4));
        assert_eq!(address.channel(), "keepgate_head_other");
        let (_, second) = &address.hosts[1];
        assert_eq!(second.get_ports(), [5434]);
        assert_eq!(second.get_password(), Some(b"secret".as_slice()));
        assert_eq!(second.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        let address = Address::parse("postgresql:///db?host=/a,/b&port=1,2&user=kg").unwrap();
        let hosts: Vec<&str> = address.hosts.iter().map(|(host, _)| host.as_str()).collect();
        assert_eq!(hosts, ["/a", "/b"]);
        let address = Address::parse("postgresql:///db?host=/run/postgresql&user=kg").unwrap();
        assert!(address.tls.is_none() && address.prepared);
        assert_eq!(address.channel(), "keepgate_head");
    }

    #[test]
    fn another_host_is_reached_by_tls_alone() {
        for mode in ["disable", "prefer", "allow"] {
            let said = refused(&format!("postgres://kg:secret@db.example.com/kg?sslmode={mode}"));
            assert!(
                said.starts_with(&format!("refusing `sslmode={mode}` to `db.example.com:5432`"))
            );
            assert!(!said.contains("secret"));
        }
        let said = refused("postgres://kg@127.0.0.1,db.example.com/kg?sslmode=disable");
        assert!(said.contains("`db.example.com:5432`"), "{said}");
        let said = refused("postgres://localhost/kg?hostaddr=10.0.0.1&sslmode=disable");
        assert!(said.contains("refusing"), "{said}");
        let said = refused("postgres://kg@db.example.com/kg?sslmode=none");
        assert!(
            said.contains("expected `disable`, `require` or `verify-full`, got `none`"),
            "{said}"
        );
        let said = refused("postgres://kg@db.example.com/kg?sslrootcert=/nowhere/ca.pem");
        assert!(said.contains("/nowhere/ca.pem"), "{said}");
    }

    #[test]
    fn a_wrong_url_says_what_is_wrong() {
        let long = format!("postgres://localhost/db?schema={}", "a".repeat(41));
        for (url, says) in [
            ("mysql://localhost/db", "expected a database URL"),
            ("postgres:///db", "names no host"),
            ("postgres://localhost/db?prepared=no", "expected `true` or `false`, got `no`"),
            ("postgres://localhost/db?schema=a%22b", "`schema` of the database URL"),
            ("postgres://localhost/db?schema=Pg", "`schema` of the database URL"),
            ("postgres://localhost/db?schema=pg_x", "`schema` of the database URL"),
            (long.as_str(), "`schema` of the database URL"),
            ("postgres://localhost/db?colour=red", "unknown option `colour`"),
            ("postgres://localhost/db?target_session_attrs=read-only", "a center writes"),
            ("postgres://u:p@localhost/db?password_file=/x", "leave one of them out"),
            ("postgres://u@localhost/db?password_file=/nowhere/x", "`/nowhere/x` cannot be read"),
            ("postgres://a,b,c/db?port=1,2&sslmode=require", "3 hosts"),
        ] {
            let said = refused(url);
            assert!(said.contains(says), "{url}: {said}");
        }
    }
}
