//! From a configuration to its sites: services, upstreams and certificates, each made once.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use keepgate_client::dial::{Dialer, Endpoint, Identity, Roots, Target, TlsSettings};
use keepgate_client::pool::{GroupConfig, MAX_CONNECTIONS, PoolConfig, Protocol};
use keepgate_serve::{Certificates, Issued, Loaded, TlsFiles};

use super::failure::StartError;
use super::upstream;
use crate::config::setting::GATE;
use crate::config::sites::{
    SiteConfig, SiteMap, UpstreamConfig, UpstreamHost, UpstreamTls, wrong_help_page,
};
use crate::config::{Bounds, GateConfig, Listen};
use crate::phase::worker::{Backend, Live, Site};

/// The sites of a configuration; where it has none, the one that takes everything.
pub(crate) fn of(config: &GateConfig) -> Vec<SiteConfig> {
    if config.sites.is_empty() {
        return vec![SiteConfig::whole(&config.service, "")];
    }
    config.sites.clone()
}

/// The services of the sites, each once, in their order.
pub(crate) fn services(sites: &[SiteConfig]) -> Vec<String> {
    let mut seen = HashSet::new();
    let names = sites.iter().map(|site| &site.service);
    names.filter(|name| seen.insert(name.as_str())).cloned().collect()
}

/// How many connections the upstreams are to have at most, all together.
pub(crate) fn connections(config: &GateConfig) -> usize {
    if config.has_no_upstream() {
        return 0;
    }
    if config.sites.is_empty() {
        return most(&config.pool, config.upstream.split(',').count());
    }
    let upstreams = config.upstreams.iter();
    upstreams.map(|upstream| most(&upstream.pool, upstream.addresses.len())).sum()
}

/// How many connections an upstream with so many addresses has at most.
fn most(pool: &PoolConfig, addresses: usize) -> usize {
    let bound = MAX_CONNECTIONS.saturating_mul(addresses.max(1));
    pool.max_connections.unwrap_or(bound).min(bound)
}

/// An upstream before it is made.
pub(crate) struct Planned {
    /// As in `[upstream.NAME]`; empty: the only one.
    name: String,
    host: UpstreamHost,
    group: GroupConfig,
}

impl Planned {
    /// The only one.
    pub(crate) fn sole(config: &GateConfig) -> Result<Planned, StartError> {
        let group = GroupConfig {
            protocol: config.upstream_protocol,
            pool: config.pool.clone(),
            sticky: config.upstream_sticky.clone(),
            check: config.upstream_check.clone(),
            ..GroupConfig::new(upstream_targets(config)?)
        };
        Planned { name: String::new(), host: config.upstream_host, group }.checked()
    }

    /// One of several.
    pub(crate) fn named(
        upstream: &UpstreamConfig,
        sources: &[IpAddr],
    ) -> Result<Planned, StartError> {
        let group = GroupConfig {
            protocol: upstream.protocol,
            pool: upstream.pool.clone(),
            sticky: upstream.sticky.clone(),
            check: upstream.check.clone(),
            ..GroupConfig::new(targets(upstream, sources)?)
        };
        Planned { name: upstream.name.clone(), host: upstream.host, group }.checked()
    }

    fn checked(self) -> Result<Planned, StartError> {
        match self.group.validate() {
            Ok(()) => Ok(self),
            Err(source) => Err(StartError::Group { table: upstream::table(&self.name), source }),
        }
    }

    fn make(self, dialer: &Dialer) -> Result<Arc<Backend>, StartError> {
        let Planned { name, host, group } = self;
        let keeps_host = match host {
            UpstreamHost::Caller => true,
            UpstreamHost::Upstream => false,
            UpstreamHost::Auto => group.targets.iter().all(|target| target.tls.is_none()),
        };
        let (queue_timeout, max_total) = (group.pool.queue_timeout, group.pool.max_total);
        let upstream = upstream::group(&name, dialer.clone(), group)?;
        let uploads = Arc::default();
        Ok(Arc::new(Backend { name, upstream, uploads, queue_timeout, keeps_host, max_total }))
    }
}

/// The upstreams of a configuration. All together they open no more than `share` connections: where
/// more are asked for, each has its part. Those of `held` that stay as they are stay themselves, with
/// their connections.
pub(crate) fn backends(
    config: &GateConfig,
    dialer: &Dialer,
    share: usize,
    held: Option<&Live>,
) -> Result<Vec<Arc<Backend>>, StartError> {
    let asked = connections(config).max(1);
    let planned: Vec<Planned> = match config.sites.is_empty() {
        true if config.has_no_upstream() => Vec::new(),
        true => vec![Planned::sole(config)?],
        false => {
            let named = |one| Planned::named(one, &config.upstream_sources);
            config.upstreams.iter().map(named).collect::<Result<_, _>>()?
        }
    };
    let made = planned.into_iter().map(|mut one| {
        let own = most(&one.group.pool, one.group.targets.len());
        one.group.pool.max_total =
            if asked <= share { own } else { (own.saturating_mul(share) / asked).max(1) };
        let stays = held.and_then(|live| live.same(config, &one.name, one.group.pool.max_total));
        stays.map_or_else(|| one.make(dialer), |backend| Ok(Arc::clone(backend)))
    });
    made.collect()
}

impl Live {
    /// The upstream of this name, if the configuration says of it what was said before.
    fn same(&self, config: &GateConfig, name: &str, max_total: usize) -> Option<&Arc<Backend>> {
        let backend = self.backends.iter().find(|backend| backend.name == name)?;
        let is_same = self.config.upstream_named(name) == config.upstream_named(name)
            && backend.max_total == max_total;
        is_same.then_some(backend)
    }
}

fn alpn(protocol: Protocol) -> &'static [&'static str] {
    match protocol {
        Protocol::Auto => &["h2", "http/1.1"],
        Protocol::Http1 => &["http/1.1"],
        Protocol::Http2 => &["h2"],
    }
}

/// The addresses of the one upstream.
pub(crate) fn upstream_targets(config: &GateConfig) -> Result<Vec<Target>, StartError> {
    let tls = UpstreamTls {
        ca: config.upstream_ca.clone(),
        client: config.upstream_client.clone(),
        server_name: None,
    };
    let identity = identity("upstream", &tls)?;
    let roots = tls.ca.map_or(Roots::System, Roots::File);
    let alpn = alpn(config.upstream_protocol);
    let tls = || TlsSettings::new(&roots, identity.as_ref(), alpn).map(Arc::new);
    let urls = config.upstream.split(',').map(str::trim);
    urls.map(|url| {
        let target = Target::from_url(url, tls).map_err(StartError::Upstream)?;
        Ok(from(target, &config.upstream_sources))
    })
    .collect()
}

/// The target with the local addresses from which it is connected to. A Unix socket has none.
fn from(mut target: Target, sources: &[IpAddr]) -> Target {
    if let Endpoint::Tcp { .. } = target.place {
        target.sources = sources.to_vec();
    }
    target
}

/// The addresses of an upstream. `sources`: the gate's own, for an upstream that has none.
pub(crate) fn targets(
    upstream: &UpstreamConfig,
    sources: &[IpAddr],
) -> Result<Vec<Target>, StartError> {
    let of = |endpoint: &Endpoint| match endpoint {
        Endpoint::Tcp { host, port } => Target::tcp(host.clone(), *port),
        Endpoint::Unix(path) => Target::unix(path.clone()),
    };
    let sources = if upstream.sources.is_empty() { sources } else { &upstream.sources };
    let mut targets: Vec<Target> =
        upstream.addresses.iter().map(of).map(|target| from(target, sources)).collect();
    if targets.is_empty() {
        let reason = "has no address; name at least one HOST:PORT or unix:/path".to_owned();
        return Err(StartError::Named { table: format!("[upstream.{}]", upstream.name), reason });
    }
    if let Some(tls) = &upstream.tls {
        let table = format!("[upstream.{}], `tls`", upstream.name);
        let identity = identity(&table, tls)?;
        let roots = tls.ca.clone().map_or(Roots::System, Roots::File);
        let settings =
            TlsSettings::new(&roots, identity.as_ref(), alpn(upstream.protocol)).map_err(
                |error| StartError::Named { table, reason: keepgate_observe::chain(&error) },
            )?;
        let settings = Arc::new(settings);
        for target in &mut targets {
            target.tls = Some(Arc::clone(&settings));
            target.server_name.clone_from(&tls.server_name);
        }
    }
    Ok(targets)
}

/// As whom the gate speaks to an upstream.
fn identity(table: &str, tls: &UpstreamTls) -> Result<Option<Identity>, StartError> {
    client(table, tls.client.as_ref())
}

/// As whom the gate speaks to its center.
pub(crate) fn center_identity(config: &GateConfig) -> Result<Option<Identity>, StartError> {
    client("center_cert", config.center_client.as_ref())
}

fn client(table: &str, files: Option<&TlsFiles>) -> Result<Option<Identity>, StartError> {
    let Some(TlsFiles { cert, key }) = files else { return Ok(None) };
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| StartError::Named {
            table: table.to_owned(),
            reason: format!("cannot read `{}`: {error}", path.display()),
        })
    };
    Ok(Some(Identity { chain_pem: read(cert)?, key_pem: read(key)? }))
}

/// The sites themselves, and the map by which they are found.
pub(crate) fn made(
    config: &GateConfig,
    sites: Vec<SiteConfig>,
    services: &[String],
    backends: &[Arc<Backend>],
) -> Result<(Vec<Arc<Site>>, SiteMap), StartError> {
    let (map, twice) = SiteMap::new(sites.iter().map(|site| (&*site.hosts, &*site.path)));
    if let Some(twice) = twice.first() {
        let reason = format!("takes the same requests as [[site]] {}", twice.first + 1);
        return Err(StartError::Named { table: format!("[[site]] {}", twice.second + 1), reason });
    }
    let places: HashMap<&str, usize> =
        services.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
    let by_name: HashMap<&str, &Arc<Backend>> =
        backends.iter().map(|backend| (backend.name.as_str(), backend)).collect();
    let mut all = Vec::with_capacity(sites.len());
    for (number, site) in sites.into_iter().enumerate() {
        let place = places.get(site.service.as_str());
        let backend = by_name.get(site.upstream.as_str()).map(|backend| Arc::clone(backend));
        let is_answered = config.listen == Listen::Nowhere && site.upstream.is_empty();
        let (Some(service), true) = (place, backend.is_some() || is_answered) else {
            let reason = format!("there is no `[upstream.{}]`; add that table", site.upstream);
            return Err(StartError::Named { table: format!("[[site]] {}", number + 1), reason });
        };
        let (service, bounds) = (*service, bounds(config, &site));
        let client_ca = site.client_ca.clone().or_else(|| config.client_ca.clone());
        let page = page(config, &site)?;
        all.push(Arc::new(Site {
            config: site,
            number,
            bounds,
            page,
            client_ca,
            service,
            backend,
        }));
    }
    Ok((all, map))
}

/// The whole path of a site's page for callers.
fn page(config: &GateConfig, site: &SiteConfig) -> Result<Option<Box<str>>, StartError> {
    let below = site.help_page.as_ref().unwrap_or(&config.help_page);
    if let Some(reason) = wrong_help_page(below) {
        return Err(StartError::Setting { setting: "help_page", reason });
    }
    let prefix = if site.path == "/" { "" } else { &site.path };
    Ok((!below.is_empty()).then(|| format!("{prefix}{below}").into()))
}

/// The gate's bounds, with what the site sets for itself.
fn bounds(config: &GateConfig, site: &SiteConfig) -> Bounds {
    let mut own = GateConfig { bounds: config.bounds.clone(), ..GateConfig::default() };
    for (place, value) in &site.settings {
        if let Some(setting) = GATE.get(*place) {
            (setting.write)(&mut own, *value);
        }
    }
    own.bounds
}

/// Whether a caller that asks for a name of `host` is shown the certificate of `named`, or of a
/// longer one.
fn covers(named: &str, host: &str) -> bool {
    let below = host.strip_prefix("*.").unwrap_or(host);
    named == host
        || named
            .strip_prefix('*')
            .is_some_and(|end| below.len() > end.len() && below.ends_with(end))
}

/// TLS toward callers; none: plain. Blocks on the files of the certificates.
///
/// # Errors
/// Names the site of a host that has no certificate, or two; or the file that cannot be used.
pub(crate) fn tls(
    config: &GateConfig,
    issued: Option<Issued>,
) -> Result<Option<Arc<Loaded>>, StartError> {
    let certificates = certificates(config, issued)?;
    if certificates.is_empty() {
        return Ok(None);
    }
    Ok(Some(Arc::new(certificates.load()?)))
}

/// The certificates toward callers. Where there are any, each host has one.
///
/// # Errors
/// Names the site of a host that has none, or two.
pub(crate) fn certificates(
    config: &GateConfig,
    issued: Option<Issued>,
) -> Result<Certificates, StartError> {
    let obtained = config.acme.as_ref().map_or(&[][..], |acme| &acme.hosts);
    let mut certificates = Certificates {
        default: config.tls.clone(),
        named: Vec::new(),
        issued,
        client_cas: config.client_cas(),
    };
    let mut by_host: HashMap<String, (usize, &TlsFiles)> = HashMap::new();
    let named = |number: usize, reason: String| {
        Err(StartError::Named { table: format!("[[site]] {}", number + 1), reason })
    };
    for (number, site) in config.sites.iter().enumerate() {
        let Some(files) = &site.tls else { continue };
        if site.hosts.is_empty() {
            let reason = "has `tls` and no `hosts`; a certificate is chosen by the host: add \
                          `hosts`, or set `tls-cert` and `tls-key` in [gate] for all others";
            return named(number, reason.to_owned());
        }
        for host in site.hosts.iter().cloned().map(String::from) {
            match by_host.get(&host) {
                Some((_, known)) if *known == files => {}
                Some((first, _)) => {
                    let reason = format!(
                        "has another certificate for `{host}` than [[site]] {}; use one",
                        first + 1
                    );
                    return named(number, reason);
                }
                None => {
                    certificates.named.push((host.clone(), files.clone()));
                    by_host.insert(host, (number, files));
                }
            }
        }
    }
    let is_plain = certificates.named.is_empty() && obtained.is_empty();
    if is_plain || certificates.default.is_some() {
        return Ok(certificates);
    }
    for (number, site) in config.sites.iter().enumerate() {
        let lacking = match site.hosts.is_empty() {
            true => Some("any host".to_owned()),
            false => {
                let mut hosts = site.hosts.iter().cloned().map(String::from);
                let is_covered = |host: &str| {
                    by_host.keys().any(|named| covers(named, host))
                        || obtained.iter().any(|name| name == host)
                };
                hosts.find(|host| !is_covered(host)).map(|host| format!("`{host}`"))
            }
        };
        if let Some(lacking) = lacking {
            let reason = format!(
                "has no certificate for {lacking}, and other sites have one; add `tls`, or set \
                 `tls-cert` and `tls-key` in [gate] for all that have none"
            );
            return named(number, reason);
        }
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_all_below_it() {
        for (named, host, covered) in [
            ("a.x", "a.x", true),
            ("a.x", "b.x", false),
            ("*.x", "a.x", true),
            ("*.x", "*.x", true),
            ("*.x", "*.a.x", true),
            ("*.x", "x", false),
            ("*.a.x", "*.x", false),
            ("*.x", "ax", false),
            ("a.x", "*.a.x", false),
        ] {
            assert_eq!(covers(named, host), covered, "{named} {host}");
        }
    }

    /// Where there are fewer descriptors than all upstreams ask for, each has its part.
    #[test]
    fn upstreams_share_the_descriptors() {
        let text = "[upstream.a]\naddresses = \"a:1\"\nconnections = 900\n\
                    [upstream.b]\naddresses = \"b:1\"\nconnections = 90\n\
                    [upstream.c]\naddresses = \"c:1\"\nconnections = 10\n\
                    [[site]]\nservice = \"s\"\nupstream = \"a\"\n\
                    [[site]]\nservice = \"s\"\nupstream = \"b\"\npath = \"/b\"\n\
                    [[site]]\nservice = \"s\"\nupstream = \"c\"\npath = \"/c\"\n";
        let dir = std::path::Path::new("");
        let read = crate::config::file::read(text, dir, &PoolConfig::default()).unwrap();
        let config =
            GateConfig { sites: read.sites, upstreams: read.upstreams, ..GateConfig::default() };
        assert_eq!(connections(&config), 1_000);
        for (share, parts) in [(1_000, [900, 90, 10]), (100, [90, 9, 1]), (10, [9, 1, 1])] {
            let backends = backends(&config, &Dialer::default(), share, None).unwrap();
            let limits: Vec<usize> =
                backends.iter().map(|b| b.upstream.stats().all.limit).collect();
            assert_eq!(limits, parts, "{share}");
        }
    }
}
