//! Reads the sites and upstreams of a `gate.toml`: text in, values or all faults out. Pure.
//!
//! The table `[gate]` of the same file has the keys of the command's flags and is read with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use http::{HeaderName, HeaderValue};
use keepgate_client::dial::Endpoint;
use keepgate_client::pool::PoolConfig;
use keepgate_policy::host::HostPattern;
use keepgate_policy::service::is_service_name;
use keepgate_serve::TlsFiles;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::setting::{GATE, Setting, Unit};
use super::sites::{
    HEADERS, HOSTS, HeaderChanges, SERVICES, SITES, SiteConfig, SiteMap, UPSTREAMS, UpstreamConfig,
    wrong_help_page, wrong_prefix,
};

mod upstream;

/// The largest file, in bytes.
pub const FILE_BYTES: usize = 1 << 20;
/// Faults that are told at once.
pub const FAULTS: usize = 100;
/// Bytes of an upstream's name.
const NAME_BYTES: usize = 64;

/// Something that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its line, from 1.
    pub line: usize,
    /// The table, as it is written in the file; empty: none.
    pub table: String,
    /// The key; empty: the table itself.
    pub key: String,
    /// What was expected, what was found, and what to do.
    pub wrong: String,
}

impl Fault {
    /// With the file's name.
    pub fn shown(&self, file: &str) -> String {
        let Fault { line, table, key, wrong } = self;
        let place = match (table.is_empty(), key.is_empty()) {
            (true, true) => String::new(),
            (true, false) => format!("`{key}`: "),
            (false, true) => format!("{table}: "),
            (false, false) => format!("{table}, `{key}`: "),
        };
        format!("{file}:{line}: {place}{wrong}")
    }
}

/// What a file says of sites.
#[derive(Clone, Debug, Default)]
pub struct SitesFile {
    /// The upstreams, by name.
    pub upstreams: Vec<UpstreamConfig>,
    /// The sites, in the file's order.
    pub sites: Vec<SiteConfig>,
}

impl SitesFile {
    /// The services of the sites, each once, in their order.
    pub fn services(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let names = self.sites.iter().map(|site| site.service.as_str());
        names.filter(|name| seen.insert(*name)).collect()
    }
}

/// Whether a file has sites: then it is a gate's with several, and else it only has flags.
pub fn has_sites(table: &toml::Table) -> bool {
    table.contains_key("site") || table.contains_key("upstream")
}

/// Reads `[upstream.NAME]` and `[[site]]`, and nothing else. Relative paths are below `dir`;
/// `pool` has what upstreams do not say for themselves.
///
/// # Errors
/// All faults, in the order of their lines; at most [`FAULTS`].
pub fn read(text: &str, dir: &Path, pool: &PoolConfig) -> Result<SitesFile, Vec<Fault>> {
    let mut reader = Reader { text, dir, only_checks: false, faults: Vec::new() };
    if text.len() > FILE_BYTES {
        reader.fault(0, "", "", format!("expected at most {FILE_BYTES} bytes, got {}", text.len()));
        return Err(reader.faults);
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        reader.fault(at, "", "", error.message().to_owned());
    }
    if !reader.faults.is_empty() {
        // What could be read of the rest would only be guessed.
        return Err(reader.told());
    }
    reader.only_checks = only_checks(table.get_ref());
    let (mut upstreams, mut sites) = (BTreeMap::new(), Vec::new());
    let mut ends = Vec::new();
    for (key, value) in table.get_ref() {
        let at = value.span().start;
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("upstream", DeValue::Table(table)) => {
                if table.len() > UPSTREAMS {
                    let wrong = format!("expected at most {UPSTREAMS}, got {}", table.len());
                    reader.fault(at, "[upstream]", "", wrong);
                }
                for (name, value) in table.iter().take(UPSTREAMS) {
                    let name = name.get_ref().as_ref();
                    if let Some(upstream) = reader.upstream(name, value, pool) {
                        upstreams.insert(name.to_owned(), upstream);
                    }
                }
            }
            ("upstream", _) => {
                let wrong = "expected tables such as `[upstream.orders]`";
                reader.fault(at, "", "upstream", wrong.to_owned());
            }
            ("site", DeValue::Array(array)) => {
                if array.len() > SITES {
                    let wrong = format!("expected at most {SITES} sites, got {}", array.len());
                    reader.fault(at, "[[site]]", "", wrong);
                }
                for (place, value) in array.iter().take(SITES).enumerate() {
                    if let Some((site, at)) = reader.site(place, value) {
                        ends.push((place, at));
                        sites.push(site);
                    }
                }
            }
            ("site", _) => {
                let wrong = "expected tables, each under `[[site]]`";
                reader.fault(at, "", "site", wrong.to_owned());
            }
            _ => {}
        }
    }
    let was_read = reader.faults.is_empty();
    let upstreams_named: BTreeMap<String, usize> = match table.get_ref().get("upstream") {
        Some(value) => match value.get_ref() {
            DeValue::Table(table) => table
                .iter()
                .map(|(name, value)| (name.get_ref().to_string(), value.span().start))
                .collect(),
            _ => BTreeMap::new(),
        },
        None => BTreeMap::new(),
    };
    reader.whole(&sites, &ends, &upstreams_named, was_read);
    if !reader.faults.is_empty() {
        return Err(reader.told());
    }
    Ok(SitesFile { upstreams: upstreams.into_values().collect(), sites })
}

/// Whether the gate has no upstream, and other proxies ask it.
fn only_checks(table: &DeTable<'_>) -> bool {
    let gate = table.get("gate").map(Spanned::get_ref);
    let asked = |key: &str| matches!(gate, Some(DeValue::Table(gate)) if gate.contains_key(key));
    !table.contains_key("upstream") && (asked("check_listen") || asked("check-listen"))
}

/// A table's members that were not asked for yet.
struct Members<'t, 'i> {
    shown: String,
    at: usize,
    left: BTreeMap<String, &'t Spanned<DeValue<'i>>>,
}

struct Reader<'f> {
    text: &'f str,
    dir: &'f Path,
    /// Sites need no upstream.
    only_checks: bool,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, at: usize, table: &str, key: &str, wrong: String) {
        if self.faults.len() < FAULTS {
            let before = self.text.bytes().take(at);
            let line = 1 + before.filter(|b| *b == b'\n').count();
            let (table, key) = (table.to_owned(), key.to_owned());
            self.faults.push(Fault { line, table, key, wrong });
        }
    }

    fn told(mut self) -> Vec<Fault> {
        self.faults.sort_by_key(|fault| fault.line);
        self.faults
    }

    fn members<'t, 'i>(
        &mut self,
        shown: String,
        value: &'t Spanned<DeValue<'i>>,
    ) -> Option<Members<'t, 'i>> {
        let at = value.span().start;
        let DeValue::Table(table) = value.get_ref() else {
            let found = value.get_ref().type_str();
            self.fault(at, &shown, "", format!("expected a table, got {found}"));
            return None;
        };
        let left = table.iter().map(|(key, value)| (key.get_ref().to_string(), value)).collect();
        Some(Members { shown, at, left })
    }

    /// Names what was not asked for.
    fn end(&mut self, members: Members<'_, '_>, known: &[&str]) {
        for (key, value) in &members.left {
            let near = known
                .iter()
                .map(|name| (strsim::damerau_levenshtein(name, &key.replace('-', "_")), *name))
                .filter(|(slips, _)| *slips <= 2)
                .min();
            let wrong = match near {
                Some((_, name)) => format!("there is no such key; did you mean `{name}`?"),
                None => format!("there is no such key; there are {}", listed(known)),
            };
            self.fault(value.span().start, &members.shown, key, wrong);
        }
    }

    fn site(&mut self, place: usize, value: &Spanned<DeValue<'_>>) -> Option<(SiteConfig, usize)> {
        let mut members = self.members(site_shown(place), value)?;
        let at = members.at;
        let hosts = self.hosts(&mut members);
        let path = match self.text(&mut members, "path") {
            None => "/".to_owned(),
            Some((path, at)) => {
                if let Some(wrong) = wrong_prefix(&path) {
                    self.fault(at, &members.shown, "path", wrong);
                }
                path
            }
        };
        let strip_prefix = match members.left.remove("strip_prefix") {
            None => false,
            Some(value) => match value.get_ref() {
                DeValue::Boolean(strips) => {
                    if *strips && path == "/" {
                        let wrong = "there is no prefix to strip; set `path`, or leave it out";
                        let at = value.span().start;
                        self.fault(at, &members.shown, "strip_prefix", wrong.to_owned());
                    }
                    *strips
                }
                other => {
                    let wrong = format!("expected true or false, got {}", other.type_str());
                    self.fault(value.span().start, &members.shown, "strip_prefix", wrong);
                    false
                }
            },
        };
        let service = match self.text(&mut members, "service") {
            Some((name, at)) => {
                if !is_service_name(&name) {
                    let wrong = format!("expected the name of a service, got `{name}`");
                    self.fault(at, &members.shown, "service", wrong);
                }
                name
            }
            None => {
                self.missing(&members, "service", "name the service whose policies decide");
                String::new()
            }
        };
        let upstream = match self.text(&mut members, "upstream") {
            Some((name, _)) => name,
            None if self.only_checks => String::new(),
            None => {
                self.missing(&members, "upstream", "name one of the `[upstream.NAME]` tables");
                String::new()
            }
        };
        let tls = members.left.remove("tls").and_then(|value| {
            let mut inner = self.members(format!("{}, `tls`", members.shown), value)?;
            if !inner.left.contains_key("cert") && !inner.left.contains_key("key") {
                self.fault(inner.at, &inner.shown, "", "expected `cert` and `key`".to_owned());
            }
            let pair = self.pair(&mut inner);
            self.end(inner, &["cert", "key"]);
            pair
        });
        let client_ca = self.path(&mut members, "client_ca");
        let request_headers = self.headers(&mut members);
        let help_page = self.text(&mut members, "help_page").map(|(path, at)| {
            if let Some(wrong) = wrong_help_page(&path) {
                self.fault(at, &members.shown, "help_page", wrong);
            }
            path
        });
        let mut settings = Vec::new();
        for (place, setting) in GATE.iter().enumerate().filter(|(_, s)| s.is_per_site) {
            settings.extend(self.setting(&mut members, setting).map(|value| (place, value)));
        }
        let mut known = vec![
            "hosts",
            "path",
            "strip_prefix",
            "service",
            "upstream",
            "tls",
            "client_ca",
            "request_headers",
            "help_page",
        ];
        known.extend(GATE.iter().filter(|s| s.is_per_site).map(|setting| setting.name));
        self.end(members, &known);
        let site = SiteConfig {
            hosts,
            path,
            strip_prefix,
            service,
            upstream,
            tls,
            client_ca,
            request_headers,
            help_page,
            settings,
        };
        Some((site, at))
    }

    fn hosts(&mut self, members: &mut Members<'_, '_>) -> Vec<HostPattern> {
        let Some((texts, at)) = self.texts(members, "hosts") else { return Vec::new() };
        let shown = members.shown.clone();
        if texts.is_empty() || texts.len() > HOSTS {
            let wrong = format!(
                "expected 1 to {HOSTS} hosts, got {}; leave `hosts` out to take every host",
                texts.len()
            );
            self.fault(at, &shown, "hosts", wrong);
        }
        let mut hosts = Vec::new();
        for (text, at) in texts.iter().take(HOSTS) {
            match text.parse::<HostPattern>() {
                Ok(host) if hosts.contains(&host) => {
                    self.fault(*at, &shown, "hosts", format!("`{text}` is there twice; leave one"));
                }
                Ok(host) => hosts.push(host),
                Err(error) => self.fault(*at, &shown, "hosts", error.to_string()),
            }
        }
        hosts
    }

    fn headers(&mut self, members: &mut Members<'_, '_>) -> HeaderChanges {
        let mut changes = HeaderChanges::default();
        let Some(value) = members.left.remove("request_headers") else { return changes };
        let shown = format!("{}, `request_headers`", members.shown);
        let Some(mut inner) = self.members(shown.clone(), value) else { return changes };
        if let Some(value) = inner.left.remove("set")
            && let Some(set) = self.members(format!("{shown}, `set`"), value)
        {
            if set.left.len() > HEADERS {
                let wrong = format!("expected at most {HEADERS} headers, got {}", set.left.len());
                self.fault(set.at, &set.shown, "", wrong);
            }
            for (key, value) in set.left.iter().take(HEADERS) {
                let at = value.span().start;
                let name = self.header(key, at, &set.shown);
                let text = value.get_ref().as_str();
                let text = text.and_then(|text| HeaderValue::from_str(text).ok());
                match (name, text) {
                    (Some(name), Some(value)) => changes.set.push((name, value)),
                    (_, None) => {
                        let wrong = "expected a text of visible characters in quotes".to_owned();
                        self.fault(at, &set.shown, key, wrong);
                    }
                    (None, _) => {}
                }
            }
        }
        if let Some((names, at)) = self.texts(&mut inner, "remove") {
            if names.len() > HEADERS {
                let wrong = format!("expected at most {HEADERS} headers, got {}", names.len());
                self.fault(at, &inner.shown, "remove", wrong);
            }
            for (name, at) in names.iter().take(HEADERS) {
                changes.remove.extend(self.header(name, *at, &format!("{shown}, `remove`")));
            }
        }
        self.end(inner, &["set", "remove"]);
        changes
    }

    /// A header that a site may change.
    fn header(&mut self, name: &str, at: usize, shown: &str) -> Option<HeaderName> {
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            self.fault(at, shown, name, format!("expected the name of a header, got `{name}`"));
            return None;
        };
        if let Some(why) = untouchable(&header) {
            self.fault(at, shown, name, format!("`{header}` cannot be changed here: {why}"));
            return None;
        }
        Some(header)
    }

    /// What the sites and upstreams say together. Without faults before, all of it is there.
    fn whole(
        &mut self,
        sites: &[SiteConfig],
        ends: &[(usize, usize)],
        upstreams: &BTreeMap<String, usize>,
        was_read: bool,
    ) {
        if sites.is_empty() && was_read {
            let wrong = "expected at least one `[[site]]`, with `service` and `upstream`";
            self.fault(0, "", "site", wrong.to_owned());
        }
        let place = |index: usize| ends.get(index).copied().unwrap_or_default();
        let mut used = BTreeSet::new();
        let mut services = BTreeSet::new();
        for (index, site) in sites.iter().enumerate() {
            let (number, at) = place(index);
            if services.insert(&site.service) && services.len() == SERVICES + 1 {
                let wrong =
                    format!("expected at most {SERVICES} services; divide the sites among gates");
                self.fault(at, &site_shown(number), "service", wrong);
            }
            used.insert(&site.upstream);
            if !site.upstream.is_empty() && !upstreams.contains_key(&site.upstream) {
                let near = upstreams
                    .keys()
                    .map(|name| (strsim::damerau_levenshtein(name, &site.upstream), name))
                    .filter(|(slips, _)| *slips <= 2)
                    .min();
                let wrong = match near {
                    Some((_, name)) => format!(
                        "there is no `[upstream.{}]`; did you mean `{name}`?",
                        site.upstream
                    ),
                    None => {
                        format!("there is no `[upstream.{0}]`; add that table", site.upstream)
                    }
                };
                self.fault(at, &site_shown(number), "upstream", wrong);
            }
        }
        if was_read {
            for (name, at) in upstreams.iter().filter(|(name, _)| !used.contains(name)) {
                let wrong = "no site uses it; name it in a `[[site]]`, or remove it".to_owned();
                self.fault(*at, &format!("[upstream.{name}]"), "", wrong);
            }
        }
        let (_, twice) = SiteMap::new(sites.iter().map(|site| (&*site.hosts, &*site.path)));
        for twice in twice {
            let ((first, _), (second, at)) = (place(twice.first), place(twice.second));
            let host = twice.host.unwrap_or_else(|| "any host".to_owned());
            let wrong = format!(
                "takes {host} with path `{}`, as {} does; change one of them",
                twice.path,
                site_shown(first)
            );
            self.fault(at, &site_shown(second), "", wrong);
        }
    }

    fn missing(&mut self, members: &Members<'_, '_>, key: &str, what: &str) {
        // A value of another type was told already.
        let (at, shown) = (members.at, members.shown.clone());
        if !self.faults.iter().any(|fault| fault.table == shown && fault.key == key) {
            self.fault(at, &shown, key, format!("is missing; {what}"));
        }
    }

    fn text(&mut self, members: &mut Members<'_, '_>, key: &str) -> Option<(String, usize)> {
        let value = members.left.remove(key)?;
        let at = value.span().start;
        match value.get_ref().as_str() {
            Some(text) => Some((text.to_owned(), at)),
            None => {
                let found = value.get_ref().type_str();
                self.fault(at, &members.shown, key, format!("expected a text, got {found}"));
                None
            }
        }
    }

    /// A list of texts and where each is, and where the list is; one text is a list of one.
    fn texts(
        &mut self,
        members: &mut Members<'_, '_>,
        key: &str,
    ) -> Option<(Vec<(String, usize)>, usize)> {
        let Some(value) = members.left.remove(key) else {
            if key == "addresses" {
                self.missing(members, key, "name at least one HOST:PORT or unix:/path");
            }
            return None;
        };
        let at = value.span().start;
        if let DeValue::String(text) = value.get_ref() {
            return Some((vec![(text.to_string(), at)], at));
        }
        let DeValue::Array(array) = value.get_ref() else {
            let found = value.get_ref().type_str();
            self.fault(at, &members.shown, key, format!("expected a list of texts, got {found}"));
            return None;
        };
        let mut texts = Vec::new();
        for value in array.iter() {
            let at = value.span().start;
            match value.get_ref().as_str() {
                Some(text) => texts.push((text.to_owned(), at)),
                None => {
                    let found = value.get_ref().type_str();
                    let wrong = format!("expected texts in the list, got {found}");
                    self.fault(at, &members.shown, key, wrong);
                }
            }
        }
        Some((texts, at))
    }

    fn one_of<V: Copy>(
        &mut self,
        members: &mut Members<'_, '_>,
        key: &str,
        values: &[(&str, V)],
    ) -> Option<V> {
        let (text, at) = self.text(members, key)?;
        let found = values.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
            let wrong = format!("expected one of {}, got `{text}`", listed(&names));
            self.fault(at, &members.shown, key, wrong);
        }
        found
    }

    fn setting<T>(&mut self, members: &mut Members<'_, '_>, setting: &Setting<T>) -> Option<u64> {
        let value = members.left.remove(setting.name)?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if setting.unit != Unit::Time => number.as_str().to_owned(),
            DeValue::Boolean(on) => on.to_string(),
            other => other.type_str().to_owned(),
        };
        match setting.parse(&text) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.fault(value.span().start, &members.shown, setting.name, wrong);
                None
            }
        }
    }

    fn path(&mut self, members: &mut Members<'_, '_>, key: &str) -> Option<PathBuf> {
        let (text, at) = self.text(members, key)?;
        if text.is_empty() || text.contains('\0') {
            self.fault(at, &members.shown, key, "expected the path of a file".to_owned());
        }
        Some(self.dir.join(text))
    }

    /// `cert` and `key`, which go together.
    fn pair(&mut self, members: &mut Members<'_, '_>) -> Option<TlsFiles> {
        for (has, lacks) in [("cert", "key"), ("key", "cert")] {
            if members.left.contains_key(has) && !members.left.contains_key(lacks) {
                let wrong = format!("is missing; `{has}` is set, and they go together");
                self.fault(members.at, &members.shown, lacks, wrong);
            }
        }
        let (cert, key) = (self.path(members, "cert"), self.path(members, "key"));
        Some(TlsFiles { cert: cert?, key: key? })
    }
}

/// A token of RFC 9110, as RFC 6265 has the names of cookies.
pub fn is_cookie_name(name: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.len() <= NAME_BYTES && name.bytes().all(is_token)
}

/// An upstream's address, and the scheme that it names.
fn address(text: &str) -> Result<(Endpoint, Option<&'static str>), String> {
    let wrong = |why: &str| {
        format!(
            "expected HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:/path, got `{text}`{why}"
        )
    };
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') || path.contains('\0') {
            return Err(wrong(""));
        }
        return Ok((Endpoint::Unix(path.into()), None));
    }
    let (rest, scheme) = match text.split_once("://") {
        Some(("http", rest)) => (rest.strip_suffix('/').unwrap_or(rest), Some("http")),
        Some(("https", rest)) => (rest.strip_suffix('/').unwrap_or(rest), Some("https")),
        Some(_) => return Err(wrong("")),
        None => (text, None),
    };
    let (host, port) = keepgate_policy::host::normal(rest).map_err(|_| wrong(""))?;
    let port = match (port, scheme) {
        (Some(0), _) => return Err(wrong(": port 0 is none")),
        (Some(port), _) => port,
        (None, Some("http")) => 80,
        (None, Some(_)) => 443,
        (None, None) => return Err(wrong(": the port is missing")),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((Endpoint::Tcp { host, port }, scheme))
}

/// Why a site may not change a header; none: it may.
fn untouchable(header: &HeaderName) -> Option<&'static str> {
    let name = header.as_str();
    match name {
        "host" => Some("set the upstream's `host`"),
        "connection" | "content-length" | "transfer-encoding" | "te" | "trailer" | "upgrade"
        | "keep-alive" | "proxy-connection" | "expect" | "http2-settings" => {
            Some("the gate sets how requests are framed")
        }
        "x-request-id" => Some("the gate sets it"),
        _ if name.starts_with("keepgate-") => Some("the gate sets it"),
        _ if name.starts_with("x-forwarded-") => Some("the gate sets it"),
        _ => None,
    }
}

fn site_shown(place: usize) -> String {
    format!("[[site]] {}", place + 1)
}

fn listed(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
