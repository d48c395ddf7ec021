//! From where the keys of JWT issuers may be read, and which servers are asked at all.
//!
//! Whoever edits a service names files and URLs that *the gate* opens, with the gate's rights and
//! from the gate's place in the network. So the gate's operator says where they may be: files
//! below one directory, URLs by HTTPS, nothing on this host or in its cloud's innards. The same holds
//! for what the center asks.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use http::uri::{PathAndQuery, Uri};

/// The largest file of keys or a secret, in bytes.
pub const MAX_FILE: u64 = 64 * 1024;

/// What a gate's operator allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyAccess {
    /// The directory below which files are (`--secrets`); none: no file is read.
    pub secrets: Option<PathBuf>,
    /// The only origins that are asked (`--jwks-allow`), also by plain HTTP or on this host where
    /// that is what they say; empty: any, by HTTPS and elsewhere.
    pub allow: Vec<Origin>,
    /// Plain HTTP and this host are fine where `allow` is empty: center and gate are one process
    /// that somebody tries out.
    pub local: bool,
    /// Who asks, and by which option an origin is allowed; for messages.
    pub asker: Asker,
}

/// Who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asker {
    /// A gate; its option is `--jwks-allow`.
    #[default]
    Gate,
    /// A center; its option is `--outbound-allow`.
    Center,
}

impl Asker {
    const fn option(self) -> &'static str {
        match self {
            Asker::Gate => "--jwks-allow",
            Asker::Center => "--outbound-allow",
        }
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Asker::Gate => "gate",
            Asker::Center => "center",
        };
        write!(f, "the {name} with {}", self.option())
    }
}

/// Why keys are not read.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Files are not read at all.
    #[error("`{path}` is not read: start the gate with --secrets DIR, the directory that it is in")]
    NoSecrets {
        /// The file.
        path: String,
    },
    /// The file, or the directory, cannot be opened.
    #[error("`{path}` cannot be opened")]
    Open {
        /// Which one.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is somewhere else, perhaps by a link.
    #[error("`{path}` is not read: it is not below `{}`, the directory of --secrets", dir.display())]
    Outside {
        /// The file.
        path: String,
        /// The directory.
        dir: PathBuf,
    },
    /// A directory, a pipe, a device, a socket.
    #[error("`{path}` is not read: expected a regular file")]
    NotRegular {
        /// The file.
        path: String,
    },
    /// Over [`MAX_FILE`].
    #[error("`{path}` is not read: expected at most {MAX_FILE} bytes")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// Not a URL that could be asked.
    #[error("`{url}` is not asked: expected https://host[:port]/path")]
    Url {
        /// The URL.
        url: String,
    },
    /// Plain HTTP that nobody allowed.
    #[error("`{url}` is not asked: expected https; for plain HTTP start {asker} {origin}")]
    Plain {
        /// Who asks.
        asker: Asker,
        /// The URL.
        url: String,
        /// Its origin.
        origin: Origin,
    },
    /// An origin that is not in the list.
    #[error("`{url}` is not asked: {origin} is not among those of {}", asker.option())]
    NotListed {
        /// Who asks.
        asker: Asker,
        /// The URL.
        url: String,
        /// Its origin.
        origin: Origin,
    },
    /// The name leads to this host.
    #[error(
        "{origin} is not asked: it is {address}, this host; if that is meant, start {asker} {origin}"
    )]
    ThisHost {
        /// Who asks.
        asker: Asker,
        /// The origin.
        origin: Origin,
        /// What its name resolves to.
        address: IpAddr,
    },
    /// The name leads to where no key server is.
    #[error("{origin} is not asked: it is {address}, {what}")]
    Address {
        /// The origin.
        origin: Origin,
        /// What its name resolves to.
        address: IpAddr,
        /// What is there.
        what: &'static str,
    },
}

/// Scheme, host and port of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    is_https: bool,
    /// In lower case; an IPv6 address without brackets.
    host: String,
    port: u16,
}

/// A text that is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected https://host[:port] or http://host[:port], got `{0}`")]
pub struct OriginError(String);

impl Origin {
    fn of(uri: &Uri) -> Option<Origin> {
        let is_https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        // No user, and a port that is one, which `Authority::port` does not tell.
        let (host, port) = keepgate_policy::host::normal(uri.authority()?.as_str()).ok()?;
        let port = port.unwrap_or(if is_https { 443 } else { 80 });
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        (port > 0).then_some(Origin { is_https, host, port })
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Origin, OriginError> {
        let error = || OriginError(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| error())?;
        if !matches!(uri.path_and_query().map(PathAndQuery::as_str), None | Some("" | "/")) {
            return Err(error());
        }
        Origin::of(&uri).ok_or_else(error)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.is_https { ("https", 443) } else { ("http", 80) };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{}{close}", self.host)?;
        if self.port == usual { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// A URL that may be asked, if its host's addresses may.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Whose it is.
    pub origin: Origin,
    /// With its query; begins with a slash.
    pub path: String,
    /// It may be on this host.
    local: bool,
    asker: Asker,
}

impl KeyAccess {
    /// Whether a URL may be asked.
    pub fn url(&self, url: &str) -> Result<Asked, AccessError> {
        let asker = self.asker;
        let bad = || AccessError::Url { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let origin = Origin::of(&uri).ok_or_else(bad)?;
        let listed = self.allow.contains(&origin);
        if !self.allow.is_empty() && !listed {
            return Err(AccessError::NotListed { asker, url: url.to_owned(), origin });
        }
        let local = listed || self.local;
        if !origin.is_https && !local {
            return Err(AccessError::Plain { asker, url: url.to_owned(), origin });
        }
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Asked { origin, path, local, asker })
    }

    /// Reads a file that the operator gave a place for.
    pub fn file(&self, path: &str) -> Result<Vec<u8>, AccessError> {
        let Some(secrets) = &self.secrets else {
            return Err(AccessError::NoSecrets { path: path.to_owned() });
        };
        let failed = |path: String| move |source| AccessError::Open { path, source };
        let dir = secrets.canonicalize().map_err(failed(secrets.display().to_string()))?;
        let name = || path.to_owned();
        // Found first, without opening what is there: a pipe would block, a device may act. The
        // same file is opened once it is known what and where it is, whatever happens to its
        // name meanwhile.
        let found = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
            .open(dir.join(path))
            .map_err(failed(name()))?;
        let itself = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
        let place = itself.read_link().map_err(failed(name()))?;
        if !place.starts_with(&dir) {
            return Err(AccessError::Outside { path: name(), dir });
        }
        let about = found.metadata().map_err(failed(name()))?;
        if !about.is_file() {
            return Err(AccessError::NotRegular { path: name() });
        }
        if about.len() > MAX_FILE {
            return Err(AccessError::TooLarge { path: name() });
        }
        read_bounded(&itself, path)
    }
}

fn read_bounded(itself: &Path, path: &str) -> Result<Vec<u8>, AccessError> {
    let failed = |source| AccessError::Open { path: path.to_owned(), source };
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(itself)
        .map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(AccessError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

impl Asked {
    /// Whether TLS is spoken.
    pub fn is_https(&self) -> bool {
        self.origin.is_https
    }

    /// A name or an address; IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.origin.host
    }

    /// The port, also where the URL has none.
    pub fn port(&self) -> u16 {
        self.origin.port
    }

    /// Host and port for `Host` (RFC 9110, 7.2): without the scheme's own port.
    pub fn authority(&self) -> String {
        let origin = self.origin.to_string();
        origin.split_once("://").map_or(String::new(), |(_, authority)| authority.to_owned())
    }

    /// Whether an address that the host's name resolves to may be connected to.
    pub fn check(&self, address: IpAddr) -> Result<(), AccessError> {
        match special(address) {
            None => Ok(()),
            Some(Special::ThisHost) if self.local => Ok(()),
            Some(Special::ThisHost) => Err(AccessError::ThisHost {
                asker: self.asker,
                origin: self.origin.clone(),
                address,
            }),
            Some(Special::Never(what)) => {
                Err(AccessError::Address { origin: self.origin.clone(), address, what })
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Special {
    /// Loopback, and what the kernel takes for it.
    ThisHost,
    Never(&'static str),
}

const LINK_LOCAL: Special = Special::Never("a link-local address");
const METADATA: Special = Special::Never("an address of a cloud's metadata service");
const MULTICAST: Special = Special::Never("a multicast or reserved address");

fn special(address: IpAddr) -> Option<Special> {
    match address {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => special_v6(v6),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<Special> {
    match address.octets() {
        // "This network": Linux connects to itself.
        [0, ..] | [127, ..] => Some(Special::ThisHost),
        [169, 254, 169, 254] => Some(METADATA),
        [169, 254, ..] => Some(LINK_LOCAL),
        // Alibaba, Oracle, Azure.
        [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => Some(METADATA),
        [224..=255, ..] => Some(MULTICAST),
        _ => None,
    }
}

fn special_v6(address: Ipv6Addr) -> Option<Special> {
    if address.is_unspecified() || address.is_loopback() {
        return Some(Special::ThisHost);
    }
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        special_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b) {
        (0xfe80..=0xfebf, _) => Some(LINK_LOCAL),
        (0xff00.., _) => Some(MULTICAST),
        // Amazon's and Google's.
        (0xfd00, 0x0ec2) | (0xfd20, 0x00ce) if (c, d, e, f, g) == (0, 0, 0, 0, 0) && h == 0x254 => {
            Some(METADATA)
        }
        // IPv4 within: mapped, compatible, NAT64 (RFC 6052, 8215), 6to4.
        (0, 0) if (c, d, e) == (0, 0, 0) && matches!(f, 0 | 0xffff) => v4(g, h),
        (0x64, 0xff9b) => v4(g, h),
        (0x2002, _) => v4(b, c),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse().unwrap()
    }

    #[test]
    fn origins() {
        for (text, shown) in [
            ("https://id.example", "https://id.example"),
            ("https://ID.example:443/", "https://id.example"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(origin(text).to_string(), shown);
        }
        for bad in ["", "id.example", "ftp://a", "https://a/jwks", "https://u@a", "https://a:0"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn urls() {
        let said = |access: &KeyAccess, url: &str| match access.url(url) {
            Ok(asked) => format!("{} {}", asked.origin, asked.path),
            Err(error) => error.to_string(),
        };
        let usual = KeyAccess::default();
        assert_eq!(said(&usual, "https://a.example/k?x=1"), "https://a.example /k?x=1");
        assert_eq!(said(&usual, "https://a.example"), "https://a.example /");
        let plain = said(&usual, "http://a.example:81/k");
        assert!(plain.contains("--jwks-allow http://a.example:81"), "{plain}");
        for bad in ["file:///etc/shadow", "https://u:p@a.example/k", "gopher://a/", "/k", ""] {
            assert!(said(&usual, bad).contains("expected https"), "{bad}");
        }
        let listed = KeyAccess { allow: vec![origin("http://a.example:81")], ..usual };
        assert_eq!(said(&listed, "http://A.example:81/k"), "http://a.example:81 /k");
        for other in ["https://b.example/k", "https://a.example/k", "http://a.example/k"] {
            assert!(said(&listed, other).contains("not among those"), "{other}");
        }
        let up = KeyAccess { local: true, ..KeyAccess::default() };
        assert_eq!(said(&up, "http://a.example/k"), "http://a.example /k");
        let both = KeyAccess { local: true, ..listed };
        assert!(said(&both, "http://b.example/k").contains("not among those"));
    }

    #[test]
    fn addresses() {
        let usual = KeyAccess::default().url("https://a.example/").unwrap();
        let local = KeyAccess { local: true, ..KeyAccess::default() };
        let local = local.url("https://a.example/").unwrap();
        let said = |asked: &Asked, ip: &str| match asked.check(ip.parse().unwrap()) {
            Ok(()) => "fine",
            Err(AccessError::ThisHost { .. }) => "this host",
            Err(_) => "never",
        };
        for (ip, by_name, in_up) in [
            ("93.184.216.34", "fine", "fine"),
            ("10.0.0.1", "fine", "fine"),
            ("2606:4700::1", "fine", "fine"),
            ("fd12::1", "fine", "fine"),
            ("127.0.0.1", "this host", "fine"),
            ("127.8.9.1", "this host", "fine"),
            ("0.0.0.0", "this host", "fine"),
            ("::1", "this host", "fine"),
            ("::", "this host", "fine"),
            ("::ffff:127.0.0.1", "this host", "fine"),
            ("64:ff9b::7f00:1", "this host", "fine"),
            ("169.254.169.254", "never", "never"),
            ("169.254.1.1", "never", "never"),
            ("::ffff:169.254.169.254", "never", "never"),
            ("64:ff9b::a9fe:a9fe", "never", "never"),
            ("64:ff9b:1::a9fe:a9fe", "never", "never"),
            ("2002:a9fe:a9fe::1", "never", "never"),
            ("::169.254.169.254", "never", "never"),
            ("fe80::1", "never", "never"),
            ("fd00:ec2::254", "never", "never"),
            ("fd20:ce::254", "never", "never"),
            ("100.100.100.200", "never", "never"),
            ("168.63.129.16", "never", "never"),
            ("224.0.0.1", "never", "never"),
            ("255.255.255.255", "never", "never"),
            ("ff02::1", "never", "never"),
        ] {
            assert_eq!(said(&usual, ip), by_name, "{ip}");
            assert_eq!(said(&local, ip), in_up, "{ip}");
        }
    }

    #[test]
    fn files_are_regular_small_and_below_the_directory() {
        let base = std::env::temp_dir().join(format!("keepgate-access-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&base);
        let dir = base.join("secrets");
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        let write = |path: &Path, bytes: usize| std::fs::write(path, vec![b'x'; bytes]).unwrap();
        write(&dir.join("key"), 40);
        write(&dir.join("sub/most"), MAX_FILE as usize);
        write(&dir.join("large"), MAX_FILE as usize + 1);
        write(&base.join("outside"), 40);
        symlink("key", dir.join("near")).unwrap();
        symlink(dir.join("sub"), dir.join("whole")).unwrap();
        symlink("../outside", dir.join("far")).unwrap();
        symlink("/etc", dir.join("etc")).unwrap();
        symlink(&dir, base.join("link")).unwrap();
        let fifo = std::ffi::CString::new(dir.join("fifo").to_str().unwrap()).unwrap();
        // SAFETY: a path that ends with NUL.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
        let access = |dir: &Path| KeyAccess { secrets: Some(dir.into()), ..Default::default() };
        let read = |path: &str| access(&dir).file(path);
        for (path, bytes) in
            [("key", 40), ("near", 40), ("sub/most", 65_536), ("whole/most", 65_536)]
        {
            assert_eq!(read(path).unwrap().len(), bytes, "{path}");
            let whole = dir.join(path);
            assert_eq!(read(whole.to_str().unwrap()).unwrap().len(), bytes, "{path}");
        }
        let through = access(&base.join("link"));
        assert_eq!(through.file("key").unwrap().len(), 40, "the directory may be a link");
        for path in
            ["../outside", "far", "etc/passwd", "/etc/passwd", "/dev/zero", "/proc/self/mem"]
        {
            assert!(matches!(read(path), Err(AccessError::Outside { .. })), "{path}");
        }
        let beside = format!("{}-beside", dir.display());
        std::fs::write(&beside, "x").unwrap();
        assert!(matches!(read(&beside), Err(AccessError::Outside { .. })));
        for path in ["fifo", "sub", ""] {
            assert!(matches!(read(path), Err(AccessError::NotRegular { .. })), "{path}");
        }
        assert!(matches!(read("large"), Err(AccessError::TooLarge { .. })));
        assert!(matches!(read("missing"), Err(AccessError::Open { .. })));
        let without = KeyAccess::default().file("key").unwrap_err();
        assert!(without.to_string().contains("--secrets"), "{without}");
        std::fs::remove_dir_all(&base).unwrap();
    }
}
