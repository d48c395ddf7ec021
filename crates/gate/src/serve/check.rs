//! What is wrong with a configuration, as far as that shows before anything is bound.

use std::time::Duration;

use keepgate_policy::identify::is_everybody;
use keepgate_serve::{Certificates, TlsFiles};

use super::failure::StartError;
use super::follow;
use super::ports::Ports;
use super::sites::{Planned, certificates};
use crate::config::acme::AcmeConfig;
use crate::config::sites::{LISTENERS, SOURCES, wrong_prefix};
use crate::config::{GateConfig, Listen};
use crate::wire::head::MAX_HEADER_COUNT;

/// All that is wrong with a configuration and needs neither a listener nor a connection to be seen.
pub fn faults(config: &GateConfig) -> Vec<StartError> {
    let mut faults: Vec<StartError> = check(config).err().into_iter().collect();
    let followed = follow::config(config, &Ports::new());
    let followed = followed.and_then(|follow| follow.check().map_err(follow::not_followed));
    faults.extend(followed.err());
    faults.extend(certificates(config, None).err());
    let cas = Certificates { client_cas: config.client_cas(), ..Certificates::default() };
    faults.extend(cas.load().err().map(StartError::Tls));
    let mut seen: Vec<&TlsFiles> = Vec::new();
    for files in config.tls.iter().chain(config.sites.iter().filter_map(|site| site.tls.as_ref())) {
        if !seen.contains(&files) {
            seen.push(files);
            faults.extend(files.load().err().map(StartError::Tls));
        }
    }
    if config.sites.is_empty() && !config.has_no_upstream() {
        faults.extend(Planned::sole(config).err());
    }
    let sources = &config.upstream_sources;
    let planned = config.upstreams.iter().map(|upstream| Planned::named(upstream, sources));
    faults.extend(planned.filter_map(Result::err));
    faults
}

/// The first setting that makes no sense.
pub(crate) fn check(config: &GateConfig) -> Result<(), StartError> {
    let bad =
        |setting, reason: &str| Err(StartError::Setting { setting, reason: reason.to_owned() });
    let bounds = &config.bounds;
    if config.sites.is_empty() && config.service.is_empty() {
        return bad("service", "is empty; name the service this gate protects");
    }
    if let Some(reason) = config.acme.as_ref().and_then(AcmeConfig::wrong) {
        return Err(StartError::Setting { setting: "acme_host", reason });
    }
    if config.check_listen.len() > LISTENERS {
        return bad("check_listen", "names more than 64 places; leave some out");
    }
    if config.listen == Listen::Nowhere && config.check_listen.is_empty() {
        return bad(
            "listen",
            "is nowhere, and no other proxy can ask either; name one place to listen",
        );
    }
    let listens = config.more_listen.iter().chain([&config.listen]);
    let check_listens = || config.check_listen.iter().filter(|listen| !listen.is_any_port());
    if let Some(twice) =
        listens.into_iter().find(|listen| check_listens().any(|own| own == *listen))
    {
        let reason = format!("`{twice}` is also a place for callers; name another one");
        return Err(StartError::Setting { setting: "check_listen", reason });
    }
    if config.upstream_sources.len() > SOURCES {
        return bad("source", "names more than 64 addresses; leave some out");
    }
    if config.more_listen.len() >= LISTENERS {
        return bad("listen", "names more than 64 places; leave some out");
    }
    for (number, site) in config.sites.iter().enumerate() {
        let wrong = wrong_prefix(&site.path).or_else(|| {
            let none = site.strip_prefix && site.path == "/";
            none.then(|| "there is no prefix to strip".to_owned())
        });
        if let Some(reason) = wrong {
            let table = format!("[[site]] {}, `path`", number + 1);
            return Err(StartError::Named { table, reason });
        }
    }
    if let (Some(ca), true) = (config.client_cas().first(), config.speaks_plain()) {
        let reason = format!(
            "`{}`: callers show certificates in TLS, and the gate listens in clear text; give it a \
             certificate (tls_cert and tls_key, `tls` of a site, or acme_host), or leave client_ca out",
            ca.display()
        );
        return Err(StartError::Setting { setting: "client_ca", reason });
    }
    if let (Some(_), Some(center)) = (
        &config.center_client,
        config.centers.iter().find(|center| !center.starts_with("https://")),
    ) {
        let reason = format!(
            "is shown in TLS, and `{center}` is not https; give the center's https URL, or use a token"
        );
        return Err(StartError::Setting { setting: "center_cert", reason });
    }
    if bounds.header_count > MAX_HEADER_COUNT || bounds.header_count == 0 {
        return bad("header_count", "must be between 1 and 100");
    }
    if bounds.max_connections == 0 || bounds.max_connections_per_address == Some(0) {
        return bad("max_connections", "must be at least 1, also for one address");
    }
    for (setting, least) in [
        ("body_idle", bounds.body_idle),
        ("body_window", bounds.body_window),
        ("answer_timeout", bounds.answer_timeout),
        ("answer_idle", bounds.answer_idle),
    ] {
        if least < Duration::from_millis(1) {
            return bad(setting, "must be at least 1 ms");
        }
    }
    for (setting, peers) in [
        ("trusted_proxies", &config.trusted_proxies),
        ("proxy_senders", &config.proxy_senders),
        ("check_peer", &config.check_peers),
    ] {
        if !config.trust_everybody && is_everybody(&peers.ranges) {
            let reason = "covers every address, so any caller could claim any address; name the \
                          proxies in front, or pass --trust-everybody if nobody else can connect";
            return bad(setting, reason);
        }
    }
    Ok(())
}
