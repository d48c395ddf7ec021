//! The sites of a gate's file: read, checked, and shown.

use std::collections::BTreeSet;
use std::path::Path;

use keepgate_gate::GateConfig;
use keepgate_gate::config::file;

use crate::exit::usage;

/// Reads `[[site]]` and `[upstream.NAME]` into a configuration. Paths in them are below the file's
/// own directory.
pub(crate) fn read(path: &Path, config: &mut GateConfig) -> anyhow::Result<()> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| usage(format!("cannot read the configuration file `{shown}`: {error}")))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let read = file::read(&text, directory, &config.pool).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(|fault| fault.shown(&shown)).collect();
        usage(lines.join("\nerror: "))
    })?;
    (config.sites, config.upstreams) = (read.sites, read.upstreams);
    Ok(())
}

/// All that is wrong with a configuration and needs no connection to be seen.
pub(crate) fn faults(config: &GateConfig) -> Vec<String> {
    keepgate_gate::faults(config).iter().map(|error| keepgate_observe::chain(error)).collect()
}

/// What `--check-config` prints where nothing is wrong.
pub(crate) fn summary(config: &GateConfig) -> String {
    let (services, upstreams) = (services(config).len(), upstreams(config).len());
    let count = |n: usize, noun: &str| format!("{n} {noun}{}", if n == 1 { "" } else { "s" });
    let mut parts = vec![
        count(config.sites.len().max(1), "site"),
        count(services, "service"),
        count(upstreams, "upstream"),
    ];
    if !config.check_listen.is_empty() {
        let places: Vec<String> = config.check_listen.iter().map(ToString::to_string).collect();
        parts.push(format!("checks on {}", places.join(" and ")));
    }
    format!("the configuration is valid: {}\n", parts.join(", "))
}

/// The services, each once, in their order.
pub(crate) fn services(config: &GateConfig) -> Vec<String> {
    if config.sites.is_empty() {
        return vec![config.service.clone()];
    }
    let mut seen = BTreeSet::new();
    let names = config.sites.iter().map(|site| &site.service);
    names.filter(|name| seen.insert(*name)).cloned().collect()
}

/// The upstream's URL, or the upstreams' names.
pub(crate) fn upstreams(config: &GateConfig) -> Vec<String> {
    if config.sites.is_empty() {
        let only = Some(&config.upstream).filter(|only| !only.is_empty());
        return only.into_iter().cloned().collect();
    }
    config.upstreams.iter().map(|upstream| upstream.name.clone()).collect()
}

/// `https` where the gate has a certificate.
pub(crate) fn scheme(config: &GateConfig) -> &'static str {
    let is_named = config.sites.iter().any(|site| site.tls.is_some());
    if config.tls.is_some() || is_named || config.acme.is_some() { "https" } else { "http" }
}
