//! Sites: which host and path lead to which service and upstream. Values, and how one is found.
//!
//! INVARIANT: the host decides first. Of the patterns that match a host the longest counts (a name
//! before a wildcard, a longer wildcard before a shorter one, any of them before a site without
//! hosts), and only the sites with that pattern are looked at. Of their path prefixes the longest
//! counts. So a site for one host never leaks its paths to a site that is meant for more hosts.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use http::{HeaderName, HeaderValue};
use keepgate_client::dial::Endpoint;
use keepgate_client::pool::{MAX_GROUP_ADDRESSES, PoolConfig, Protocol, Sticky};
use keepgate_policy::host::HostPattern;
use keepgate_serve::TlsFiles;

use crate::message::path::{self, PathRules};

/// Where the page for callers is, where nobody says otherwise.
pub const HELP_PAGE: &str = "/.keepgate/api";
/// Sites of one gate.
pub const SITES: usize = 1_000;
/// Services of one gate (a bound of the follow protocol).
pub const SERVICES: usize = 256;
/// Upstreams of one gate.
pub const UPSTREAMS: usize = 1_000;
/// Addresses of one upstream.
pub const ADDRESSES: usize = MAX_GROUP_ADDRESSES;
/// Host patterns of one site.
pub const HOSTS: usize = 200;
/// Bytes of a path prefix.
pub const PATH_BYTES: usize = 1_024;
/// Headers that a site sets, and those that it removes.
pub const HEADERS: usize = 64;
/// Addresses and sockets that a gate listens on.
pub const LISTENERS: usize = 64;

/// What the upstream sees as `Host`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamHost {
    /// The upstream's own where it is reached over TLS, so that it agrees with the name in TLS
    /// (SNI); else what the caller sent.
    #[default]
    Auto,
    /// What the caller sent; `X-Forwarded-Host` says the same.
    Caller,
    /// The upstream's own, as in its URL.
    Upstream,
}

/// An upstream of a gate with several sites.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    /// Its name in `[upstream.NAME]`.
    pub name: String,
    /// Where it is; at least one, at most [`ADDRESSES`].
    pub addresses: Vec<Endpoint>,
    /// How to speak to it.
    pub protocol: Protocol,
    /// What it sees as `Host`.
    pub host: UpstreamHost,
    /// TLS toward it; none: plain.
    pub tls: Option<UpstreamTls>,
    /// The bounds and deadlines of its connections.
    pub pool: PoolConfig,
    /// Local addresses from which its connections are opened; empty: those of the gate.
    pub sources: Vec<IpAddr>,
    /// What keeps a caller at one of several addresses.
    pub sticky: Option<Sticky>,
    /// The path that addresses are asked for to see whether they are healthy; none: they are not.
    pub check: Option<String>,
}

/// Local addresses from which an upstream's connections are opened, at most.
pub const SOURCES: usize = 64;

/// TLS toward an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// A PEM file with the certificates to trust; none: the host's store.
    pub ca: Option<PathBuf>,
    /// A PEM file with the gate's own certificate, and its key.
    pub client: Option<TlsFiles>,
    /// The name that is asked for (SNI) and verified; none: the address's host.
    pub server_name: Option<String>,
}

/// What a site changes in the headers of a request before it is forwarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Set in place of what the caller sent.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Removed.
    pub remove: Vec<HeaderName>,
}

/// One site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteConfig {
    /// The hosts; empty: any.
    pub hosts: Vec<HostPattern>,
    /// The path prefix, in normal form, without a slash at the end; `/`: every path.
    pub path: String,
    /// The upstream gets the path without the prefix, and routes are matched without it.
    pub strip_prefix: bool,
    /// The service that decides.
    pub service: String,
    /// The upstream's name.
    pub upstream: String,
    /// The certificate for its hosts; none: the gate's own.
    pub tls: Option<TlsFiles>,
    /// A PEM file with the authorities whose certificates identify callers here; none: the gate's.
    pub client_ca: Option<PathBuf>,
    /// What is changed in the headers of its requests.
    pub request_headers: HeaderChanges,
    /// Where its page for callers is, below its path; empty: nowhere; none: as the gate says.
    pub help_page: Option<String>,
    /// Settings of the gate that this site has for itself: places in
    /// [`GATE`](super::setting::GATE), and values.
    pub settings: Vec<(usize, u64)>,
}

impl SiteConfig {
    /// Its name for operators: the first host (`*`: any), and the path where that is not every path.
    pub fn label(&self) -> String {
        let host = self.hosts.first().cloned().map_or_else(|| "*".to_owned(), String::from);
        let path = if self.path == "/" { "" } else { &self.path };
        host + path
    }

    /// The site that takes everything.
    pub fn whole(service: &str, upstream: &str) -> SiteConfig {
        SiteConfig {
            hosts: Vec::new(),
            path: "/".to_owned(),
            strip_prefix: false,
            service: service.to_owned(),
            upstream: upstream.to_owned(),
            tls: None,
            client_ca: None,
            request_headers: HeaderChanges::default(),
            help_page: None,
            settings: Vec::new(),
        }
    }
}

/// Why there is no site for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSite {
    /// No site has the host: 421.
    Host,
    /// The host's sites do not have the path: 404.
    Path,
}

/// Finds a site.
#[derive(Clone, Debug, Default)]
pub struct SiteMap {
    exact: HashMap<String, Prefixes>,
    /// By the name below which all names are meant.
    wildcard: HashMap<String, Prefixes>,
    any: Prefixes,
    /// No site has a path: paths need not be looked at.
    is_by_host: bool,
}

/// The path prefixes of one host pattern and their sites, the longest first.
type Prefixes = Vec<(String, usize)>;

/// Two sites that take the same requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twice {
    /// The place of the first.
    pub first: usize,
    /// The place of the second.
    pub second: usize,
    /// The host pattern of both; none: any host.
    pub host: Option<String>,
    /// Their path.
    pub path: String,
}

impl SiteMap {
    /// A map of these sites, by their places. Where two take the same host and path, the first is
    /// kept and both are returned.
    pub fn new<'s>(
        sites: impl Iterator<Item = (&'s [HostPattern], &'s str)>,
    ) -> (Self, Vec<Twice>) {
        let (mut map, mut twice) = (SiteMap { is_by_host: true, ..SiteMap::default() }, Vec::new());
        for (site, (hosts, path)) in sites.enumerate() {
            map.is_by_host &= path == "/";
            let mut put = |prefixes: &mut Prefixes, host: Option<&str>| match prefixes
                .iter()
                .find(|(prefix, _)| prefix == path)
            {
                Some((_, first)) => twice.push(Twice {
                    first: *first,
                    second: site,
                    host: host.map(str::to_owned),
                    path: path.to_owned(),
                }),
                None => prefixes.push((path.to_owned(), site)),
            };
            if hosts.is_empty() {
                put(&mut map.any, None);
            }
            for pattern in hosts {
                let text = String::from(pattern.clone());
                let prefixes = match text.strip_prefix("*.") {
                    Some(below) => map.wildcard.entry(below.to_owned()).or_default(),
                    None => map.exact.entry(text.clone()).or_default(),
                };
                put(prefixes, Some(&text));
            }
        }
        let all = map.exact.values_mut().chain(map.wildcard.values_mut()).chain([&mut map.any]);
        for prefixes in all {
            prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        }
        (map, twice)
    }

    /// Whether hosts alone tell the site.
    pub fn is_by_host(&self) -> bool {
        self.is_by_host
    }

    /// The place of the site for a host (in the one form of [`keepgate_policy::host`]) and a path in
    /// normal form.
    pub fn find(&self, host: &str, path: &str) -> Result<usize, NoSite> {
        self.find_by(host, |prefix| is_below(path, prefix, str::eq))
    }

    /// As [`SiteMap::find`] for an upstream that ignores the case of paths.
    pub fn find_folded(&self, host: &str, path: &str) -> Result<usize, NoSite> {
        self.find_by(host, |prefix| is_below(path, prefix, str::eq_ignore_ascii_case))
    }

    fn find_by(&self, host: &str, matches: impl Fn(&str) -> bool) -> Result<usize, NoSite> {
        let prefixes = self.of_host(host).ok_or(NoSite::Host)?;
        let mut prefixes = prefixes.iter();
        prefixes.find(|(prefix, _)| matches(prefix)).map(|(_, site)| *site).ok_or(NoSite::Path)
    }

    fn of_host(&self, host: &str) -> Option<&Prefixes> {
        if let Some(found) = self.exact.get(host) {
            return Some(found);
        }
        if !self.wildcard.is_empty() {
            let mut rest = host;
            while let Some((label, below)) = rest.split_once('.') {
                if let Some(found) = self.wildcard.get(below)
                    && !label.is_empty()
                {
                    return Some(found);
                }
                rest = below;
            }
        }
        (!self.any.is_empty()).then_some(&self.any)
    }
}

/// Whether a path is a prefix or below it: whole segments alone count.
fn is_below(path: &str, prefix: &str, same: impl Fn(&str, &str) -> bool) -> bool {
    if prefix == "/" {
        return true;
    }
    path.split_at_checked(prefix.len()).is_some_and(|(start, rest)| {
        same(start, prefix) && (rest.is_empty() || rest.starts_with('/'))
    })
}

/// A path without a site's prefix, in normal form: what routes are matched with.
pub fn stripped<'p>(path: &'p str, prefix: &str) -> &'p str {
    match path.strip_prefix(prefix) {
        _ if prefix == "/" => path,
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

/// The path by which a site is found: the normal form in which nothing is refused that a service
/// may allow.
pub fn searched(raw: &str) -> Result<Cow<'_, str>, path::PathError> {
    let rules =
        PathRules { keep_parameters: true, keep_encoded_slash: true, ..PathRules::default() };
    path::normal(raw, rules)
}

/// What the most generous upstream reads in a path in normal form: parameters, and dots and spaces
/// at the end of a segment, are cut off, encoded slashes are slashes, and slashes in a row are one.
pub fn generous(form: &str) -> Cow<'_, str> {
    if !form.contains([';', '%', '.']) && !form.contains("//") {
        return Cow::Borrowed(form);
    }
    let plain = form.replace("%2F", "/");
    let mut out = String::with_capacity(plain.len());
    let mut segments = plain.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let end = [segment.find(';'), segment.find("%3B")].into_iter().flatten().min();
        let mut name = end.and_then(|end| segment.get(..end)).unwrap_or(segment);
        while let Some(shorter) = name.strip_suffix('.').or(name.strip_suffix("%20")) {
            name = shorter;
        }
        if !name.is_empty() || segments.peek().is_none() {
            out.push('/');
            out.push_str(name);
        }
    }
    Cow::Owned(out)
}

/// What is wrong with a path prefix; none: it can be one.
pub fn wrong_prefix(text: &str) -> Option<String> {
    let strict = PathRules { mode: path::Mode::Strict, ..PathRules::default() };
    if text.len() > PATH_BYTES {
        return Some(format!("expected at most {PATH_BYTES} bytes, got {}", text.len()));
    }
    if text != "/" && text.ends_with('/') {
        return Some(format!(
            "expected a path without `/` at its end, got `{text}`; a prefix means all below it"
        ));
    }
    match path::normal(text, strict) {
        Ok(_) => None,
        Err(error) => Some(format!("expected a path such as `/api/orders`, got `{text}`: {error}")),
    }
}

/// What is wrong with where a page for callers is to be; none: nothing. Empty: it is off.
pub fn wrong_help_page(text: &str) -> Option<String> {
    match text {
        "" => None,
        "/" => {
            Some("expected a path below `/`, such as `/.keepgate/api`, or none at all".to_owned())
        }
        text => wrong_prefix(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Drafted {
        hosts: Vec<HostPattern>,
        path: String,
    }

    fn drafted(hosts: &[&str], path: &str) -> Drafted {
        let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
        Drafted { hosts, path: path.to_owned() }
    }

    fn map(sites: &[Drafted]) -> (SiteMap, Vec<Twice>) {
        SiteMap::new(sites.iter().map(|site| (&*site.hosts, &*site.path)))
    }

    /// The other way: every site and host is looked at, and the best of what matches is taken.
    fn oracle(sites: &[Drafted], host: &str, path: &str) -> Result<usize, NoSite> {
        let weight = |pattern: &HostPattern| {
            let text = String::from(pattern.clone());
            (!text.starts_with('*'), text.len())
        };
        let mut matching: Vec<(Option<(bool, usize)>, usize)> = Vec::new();
        for (place, site) in sites.iter().enumerate() {
            if site.hosts.is_empty() {
                matching.push((None, place));
            }
            let hosts = site.hosts.iter().filter(|pattern| pattern.matches(host));
            matching.extend(hosts.map(|pattern| (Some(weight(pattern)), place)));
        }
        let best = matching.iter().map(|(weight, _)| *weight).max().ok_or(NoSite::Host)?;
        let segments = |path: &str| -> Vec<String> {
            path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        let asked = segments(path);
        let mut found: Option<(usize, usize)> = None;
        for (_, place) in matching.iter().filter(|(weight, _)| *weight == best) {
            let prefix = segments(&sites[*place].path);
            if asked.starts_with(&prefix) && found.is_none_or(|(length, _)| prefix.len() > length) {
                found = Some((prefix.len(), *place));
            }
        }
        found.map(|(_, place)| place).ok_or(NoSite::Path)
    }

    fn host() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..5)
            .prop_map(|labels| labels.join("."))
    }

    fn path() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["x", "y", "xy"]), 0..4)
            .prop_map(|segments| format!("/{}", segments.join("/")))
    }

    fn site() -> impl Strategy<Value = Drafted> {
        let pattern = (any::<bool>(), host())
            .prop_map(|(wild, host)| if wild { format!("*.{host}") } else { host });
        (prop::collection::vec(pattern, 0..3), path()).prop_map(|(hosts, path)| {
            let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
            Drafted { hosts, path }
        })
    }

    impl std::fmt::Debug for Drafted {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{:?} {}", self.hosts, self.path)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn a_site_is_found_as_by_looking_at_all(
            sites in prop::collection::vec(site(), 0..8), host in host(), path in path()
        ) {
            let (map, _) = map(&sites);
            prop_assert_eq!(map.find(&host, &path), oracle(&sites, &host, &path));
            let (upper, folded) = (path.to_uppercase(), map.find(&host, &path));
            prop_assert_eq!(map.find_folded(&host, &upper), folded);
        }

        /// Without its prefix a path leads to a path, and with it to the same site again.
        #[test]
        fn a_stripped_path_is_one(prefix in path(), path in path()) {
            let whole = if prefix == "/" { path.clone() } else {
                format!("{prefix}{}", if path == "/" { "" } else { &path })
            };
            prop_assert_eq!(stripped(&whole, &prefix), path.as_str());
        }
    }

    #[test]
    fn the_longest_host_then_the_longest_path_wins() {
        let sites = [
            drafted(&["shop.example", "*.shop.example"], "/"),
            drafted(&["shop.example"], "/api/orders"),
            drafted(&["*.example"], "/"),
            drafted(&["*.b.shop.example"], "/only"),
            drafted(&[], "/open"),
        ];
        let (map, twice) = map(&sites);
        assert!(twice.is_empty() && !map.is_by_host());
        for (host, path, found) in [
            ("shop.example", "/", Ok(0)),
            ("shop.example", "/api/orders", Ok(1)),
            ("shop.example", "/api/orders/", Ok(1)),
            ("shop.example", "/api/orders/7", Ok(1)),
            ("shop.example", "/api/ordersx", Ok(0)),
            ("shop.example", "/API/orders", Ok(0)),
            ("a.shop.example", "/api/orders", Ok(0)),
            ("other.example", "/x", Ok(2)),
            // The host's own pattern has no such path; a shorter one is not asked.
            ("a.b.shop.example", "/x", Err(NoSite::Path)),
            ("a.b.shop.example", "/only", Ok(3)),
            ("b.shop.example", "/only", Ok(0)),
            ("10.0.0.1", "/open/x", Ok(4)),
            ("10.0.0.1", "/x", Err(NoSite::Path)),
        ] {
            assert_eq!(map.find(host, path), found, "{host} {path}");
        }
        let (map, _) = {
            let hosts = sites[..4].iter().map(|site| (&*site.hosts, &*site.path));
            SiteMap::new(hosts)
        };
        assert_eq!(map.find("10.0.0.1", "/open"), Err(NoSite::Host));
        assert_eq!(map.find("example", "/"), Err(NoSite::Host));
    }

    #[test]
    fn two_sites_for_the_same_requests_are_named() {
        let sites = [
            drafted(&["a.example", "b.example"], "/x"),
            drafted(&["b.example"], "/x"),
            drafted(&[], "/"),
            drafted(&[], "/"),
        ];
        let (_, twice) = map(&sites);
        let host = |host: &str| Some(host.to_owned());
        assert_eq!(
            twice,
            [
                Twice { first: 0, second: 1, host: host("b.example"), path: "/x".to_owned() },
                Twice { first: 2, second: 3, host: None, path: "/".to_owned() },
            ]
        );
    }

    #[test]
    fn a_generous_reading() {
        for (form, read) in [
            ("/a/b", "/a/b"),
            ("/a;x/b;y=1", "/a/b"),
            ("/a%3Bx/b", "/a/b"),
            ("/a%2Fb", "/a/b"),
            ("/a//b", "/a/b"),
            ("/a/", "/a/"),
            ("/", "/"),
            ("/%41", "/%41"),
            ("/a%2F;x/b", "/a/b"),
            ("/a.b/c", "/a.b/c"),
            ("/a./b%20", "/a/b"),
            ("/a%20.%20;x/b", "/a/b"),
        ] {
            assert_eq!(generous(form), read, "{form}");
        }
    }

    #[test]
    fn prefixes() {
        for good in ["/", "/a", "/a/b.c", "/~a"] {
            assert_eq!(wrong_prefix(good), None, "{good}");
        }
        let long = format!("/{}", "a".repeat(PATH_BYTES));
        for bad in ["", "a", "/a/", "/a//b", "/a/../b", "/%41", "/a;b", "/a%2Fb", "/a b", &long] {
            assert!(wrong_prefix(bad).is_some(), "{bad}");
        }
        assert_eq!(wrong_prefix(&long[..PATH_BYTES]), None);
        for good in ["", HELP_PAGE, "/help", &long[..PATH_BYTES]] {
            assert_eq!(wrong_help_page(good), None, "{good}");
        }
        for bad in ["/", "help", "/help/", "/a/../b", "/a?b", &long] {
            assert!(wrong_help_page(bad).is_some(), "{bad}");
        }
    }
}
