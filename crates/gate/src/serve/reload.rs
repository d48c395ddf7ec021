//! Reads certificates, keys, credentials, and the sites of the gate's file anew while the gate runs.
//!
//! What is read takes the place of what was used before only if it can be used; else the old stays.
//! Connections that are up stay as they are, and requests that are under way keep the site and the
//! upstream that they began with. Upstreams of which the file says what it said before keep their
//! connections.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use keepgate_client::dial::{Dialer, Roots};
use keepgate_client::replica::{FollowConfig, Replica};
use keepgate_observe::chain;
use keepgate_serve::Issued;

use super::acme::Acme;
use super::failure::StartError;
use super::front::Front;
use super::{sites, upstream};
use crate::config::GateConfig;
use crate::config::setting::{GATE, Setting};
use crate::phase::worker::Live;

/// A replica and what it was made from, for other credentials.
#[derive(Clone)]
pub(crate) struct Following {
    pub(crate) replica: Replica,
    pub(crate) config: FollowConfig,
}

/// See the module. A clone reloads the same gate.
#[derive(Clone)]
pub struct Reloader {
    front: Arc<Front>,
    follows: Option<Following>,
    dialer: Dialer,
    /// How many connections all upstreams may have.
    share: usize,
}

/// What became of one of the things that were read anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// What it is.
    pub what: String,
    /// Why it cannot be used; none: it is used from now on.
    pub error: Option<String>,
}

impl Reloader {
    pub(crate) fn new(
        front: Arc<Front>,
        follows: Option<Following>,
        dialer: Dialer,
        share: usize,
    ) -> Reloader {
        Reloader { front, follows, dialer, share }
    }

    /// The files that are read.
    pub fn files(&self) -> Vec<PathBuf> {
        let live = self.front.common.live.load();
        let config = &live.config;
        let pair = |files: &keepgate_serve::TlsFiles| [files.cert.clone(), files.key.clone()];
        let mut files: Vec<PathBuf> = config.tls.iter().flat_map(pair).collect();
        files.extend(config.sites.iter().filter_map(|site| site.tls.as_ref()).flat_map(pair));
        files.extend(config.client_cas());
        files.extend(config.upstream_ca.clone());
        files.extend(config.upstream_client.iter().flat_map(pair));
        for tls in config.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref()) {
            files.extend(tls.ca.clone());
            files.extend(tls.client.iter().flat_map(pair));
        }
        files.extend(config.center_ca.clone());
        files.extend(config.center_client.iter().flat_map(pair));
        files.sort();
        files.dedup();
        files
    }

    /// Reads all of them; and takes another token for the center, if there is one. Blocks on files.
    pub fn reload(&self, token: Option<&str>) -> Vec<Reloaded> {
        let live = self.front.common.live.load_full();
        let config = &live.config;
        let mut all = Vec::new();
        let mut note = |what: String, result: Result<(), String>| {
            all.push(Reloaded { what, error: result.err() });
        };
        if let Some(tls) = &self.front.tls {
            let read = sites::tls(config, self.issued())
                .map(|read| read.into_iter().for_each(|read| tls.store(read)));
            note("the certificates toward callers".to_owned(), read.map_err(|error| chain(&error)));
        }
        reload_upstreams(&live, &mut note);
        if let Some(Following { replica, config: follow }) = &self.follows {
            let mut follow = follow.clone();
            if let Some(token) = token {
                token.clone_into(&mut follow.token);
            }
            if let Some(ca) = &config.center_ca {
                follow.roots = Roots::File(ca.clone());
            }
            let identity = sites::center_identity(config).map_err(|error| chain(&error));
            let renewed = identity.and_then(|identity| {
                follow.identity = identity;
                replica.renew(&follow).map_err(|error| chain(&error))
            });
            let what = match config.center_client {
                None => "the token and the CA of the center",
                Some(_) => "the certificate toward the center, the token and the CA of the center",
            };
            note(what.to_owned(), renewed);
        }
        all
    }

    /// Takes the sites and upstreams of another configuration, all of them or none. Whatever else is
    /// new in it is named, and left as it is. Must be called on a tokio runtime, where it may block on
    /// files.
    pub async fn reconfigure(&self, config: GateConfig) -> Vec<Reloaded> {
        let before = self.front.common.live.load_full();
        let reason = "cannot change while the gate runs: it takes effect at the next start; a gate \
                      with --takeover can be started beside this one, and no request is dropped";
        let left = |what: String| Reloaded { what, error: Some(reason.to_owned()) };
        let mut all: Vec<Reloaded> =
            unchangeable(&before.config, &config).into_iter().map(left).collect();
        let is_same = before.config.sites == config.sites
            && before.config.upstreams == config.upstreams
            && before.config.tls == config.tls
            && before.config.client_ca == config.client_ca
            && values(&before.config).eq(values(&config));
        if is_same {
            return all;
        }
        let mut next = GateConfig {
            sites: config.sites.clone(),
            upstreams: config.upstreams.clone(),
            tls: config.tls.clone(),
            client_ca: config.client_ca.clone(),
            ..before.config.clone()
        };
        for (setting, value) in site_settings(&config) {
            (setting.write)(&mut next, value);
        }
        let error = self.relive(&before, next).await.err().map(|error| chain(&error));
        all.push(Reloaded { what: "sites and upstreams".to_owned(), error });
        all
    }

    fn issued(&self) -> Option<Issued> {
        self.front.acme.as_ref().map(Acme::issued)
    }

    async fn relive(&self, before: &Arc<Live>, config: GateConfig) -> Result<(), StartError> {
        let common = &self.front.common;
        if config.sites.is_empty() != before.config.sites.is_empty() {
            let reason = "a gate with [[site]] tables and one with --service are started anew";
            return Err(StartError::Setting { setting: "site", reason: reason.to_owned() });
        }
        let drafts = sites::of(&config);
        let services: Vec<String> =
            common.services.iter().map(|tables| tables.service.clone()).collect();
        if let Some((number, site)) =
            drafts.iter().enumerate().find(|(_, site)| !services.contains(&site.service))
        {
            let reason = format!(
                "the gate does not follow the service `{}`: start it anew, or another one beside it \
                 with --takeover",
                site.service
            );
            return Err(StartError::Named { table: format!("[[site]] {}", number + 1), reason });
        }
        let tls = sites::tls(&config, self.issued())?;
        if tls.is_none() != self.front.tls.is_none() {
            let reason = "TLS toward callers cannot come or go while the gate runs; start it anew";
            return Err(StartError::Setting { setting: "tls", reason: reason.to_owned() });
        }
        let backends = sites::backends(&config, &self.dialer, self.share, Some(before))?;
        let is_kept = |backend| before.backends.iter().any(|held| Arc::ptr_eq(held, backend));
        let new: Vec<_> = backends.iter().filter(|backend| !is_kept(backend)).cloned().collect();
        upstream::look_up(&new).await;
        let (made, map) = sites::made(&config, drafts, &services, &backends)?;
        let live = Live { config, backends: backends.into(), sites: made.into(), map };
        let live = Arc::new(live);
        for tables in &common.services {
            let asks = live.config.asks_for_certificates(&tables.service);
            tables.asks_for_certificates.store(asks, Ordering::Relaxed);
        }
        common.live.store(Arc::clone(&live));
        common.relived.notify_one();
        if let Some((held, read)) = self.front.tls.as_ref().zip(tls) {
            held.store(read);
        }
        let gone = |held: &&Arc<_>| !live.backends.iter().any(|backend| Arc::ptr_eq(held, backend));
        for backend in before.backends.iter().filter(gone) {
            backend.upstream.retire();
        }
        Ok(())
    }
}

fn reload_upstreams(live: &Live, note: &mut impl FnMut(String, Result<(), String>)) {
    let config = &live.config;
    for backend in &live.backends {
        let targets = match config.upstream_named(&backend.name) {
            Some(upstream) => sites::targets(upstream, &config.upstream_sources),
            None => sites::upstream_targets(config),
        };
        let has_tls = |targets: &Vec<keepgate_client::dial::Target>| {
            targets.iter().any(|target| target.tls.is_some())
        };
        let result = match targets {
            Ok(targets) if !has_tls(&targets) => continue,
            Ok(targets) => {
                backend.upstream.retarget(targets);
                Ok(())
            }
            Err(error) => Err(chain(&error)),
        };
        let name = &backend.name;
        note(format!("the certificates toward the upstream {name}").trim_end().to_owned(), result);
    }
}

/// The gate's own values of what a site may set for itself.
fn site_settings(
    config: &GateConfig,
) -> impl Iterator<Item = (&'static Setting<GateConfig>, u64)> + '_ {
    let of_sites = GATE.iter().filter(|setting| setting.is_per_site);
    of_sites.filter_map(|setting| Some((setting, (setting.read)(config)?)))
}

fn values(config: &GateConfig) -> impl Iterator<Item = u64> + '_ {
    site_settings(config).map(|(_, value)| value)
}

/// What differs and cannot change while the gate runs.
fn unchangeable(before: &GateConfig, now: &GateConfig) -> Vec<String> {
    let own = GATE.iter().filter(|setting| !setting.is_per_site);
    let mut changed: Vec<String> = own
        .filter(|setting| (setting.read)(before) != (setting.read)(now))
        .map(|setting| format!("`{}`", setting.name))
        .collect();
    for (name, is_same) in [
        ("center", before.centers == now.centers),
        ("ca_file", before.center_ca == now.center_ca),
        ("center_cert", before.center_client == now.center_client),
        ("insecure_center", before.insecure_center == now.insecure_center),
        ("service", before.service == now.service),
        ("upstream", before.upstream == now.upstream),
        ("upstream_protocol", before.upstream_protocol == now.upstream_protocol),
        ("upstream_host", before.upstream_host == now.upstream_host),
        ("upstream_sticky", before.upstream_sticky == now.upstream_sticky),
        ("source", before.upstream_sources == now.upstream_sources),
        ("upstream_check_path", before.upstream_check == now.upstream_check),
        ("upstream_ca_file", before.upstream_ca == now.upstream_ca),
        ("upstream_cert", before.upstream_client == now.upstream_client),
        ("upstream_..", before.pool == now.pool || !now.sites.is_empty()),
        ("listen", before.listen == now.listen && before.more_listen == now.more_listen),
        ("check_listen", before.check_listen == now.check_listen),
        ("check_peer", before.check_peers == now.check_peers),
        ("unix_mode and unix_group", before.unix_access == now.unix_access),
        ("admin_listen", before.admin_listen == now.admin_listen),
        ("admin_host", before.admin_hosts == now.admin_hosts),
        ("data", before.data_dir == now.data_dir),
        ("restart_age", before.restart_age == now.restart_age),
        ("takeover", before.takeover == now.takeover),
        ("acme_..", before.acme == now.acme),
        ("access_log_..", before.records == now.records),
        ("workers", before.workers == now.workers),
        ("trusted_proxy", before.trusted_proxies == now.trusted_proxies),
        ("forwarded_header", before.forwarding_header == now.forwarding_header),
        ("proxy_protocol", before.proxy_senders == now.proxy_senders),
        ("help_page", before.help_page == now.help_page),
        ("trust_everybody", before.trust_everybody == now.trust_everybody),
        ("secrets and jwks_allow", before.key_access == now.key_access),
    ] {
        if !is_same {
            changed.push(format!("`{name}`"));
        }
    }
    changed
}
