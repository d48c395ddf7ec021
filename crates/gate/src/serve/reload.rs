//! Reads certificates, keys and credentials anew while the gate runs.
//!
//! What is read takes the place of what was used before only if it can be used; else the old stays.
//! Connections that are up stay as they are.

use std::path::PathBuf;
use std::sync::Arc;

use keepgate_client::dial::Roots;
use keepgate_client::replica::{FollowConfig, Replica};
use keepgate_observe::chain;

use super::front::Front;
use super::sites;
use crate::config::GateConfig;

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
    pub(crate) fn new(front: Arc<Front>, follows: Option<Following>) -> Reloader {
        Reloader { front, follows }
    }

    /// The files that are read.
    pub fn files(&self) -> Vec<PathBuf> {
        let config = &self.front.common.settings;
        let pair = |files: &keepgate_serve::TlsFiles| [files.cert.clone(), files.key.clone()];
        let mut files: Vec<PathBuf> = config.tls.iter().flat_map(pair).collect();
        files.extend(config.sites.iter().filter_map(|site| site.tls.as_ref()).flat_map(pair));
        files.extend(config.upstream_ca.clone());
        files.extend(config.upstream_client.iter().flat_map(pair));
        for tls in config.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref()) {
            files.extend(tls.ca.clone());
            files.extend(tls.client.iter().flat_map(pair));
        }
        files.extend(config.center_ca.clone());
        files.sort();
        files.dedup();
        files
    }

    /// Reads all of them; and takes another token for the center, if there is one. Blocks on files.
    pub fn reload(&self, token: Option<&str>) -> Vec<Reloaded> {
        let config = &self.front.common.settings;
        let mut all = Vec::new();
        let mut note = |what: String, result: Result<(), String>| {
            all.push(Reloaded { what, error: result.err() });
        };
        if let Some(tls) = &self.front.tls {
            let read = sites::certificates(config)
                .map_err(|error| chain(&error))
                .and_then(|certificates| certificates.load().map_err(|error| chain(&error)));
            note("the certificates toward callers".to_owned(), read.map(|read| tls.store(read)));
        }
        self.reload_upstreams(config, &mut note);
        if let Some(Following { replica, config: follow }) = &self.follows {
            let mut follow = follow.clone();
            if let Some(token) = token {
                token.clone_into(&mut follow.token);
            }
            if let Some(ca) = &config.center_ca {
                follow.roots = Roots::File(ca.clone());
            }
            let renewed = replica.renew(&follow).map_err(|error| chain(&error));
            note("the token and the CA of the center".to_owned(), renewed);
        }
        all
    }

    fn reload_upstreams(
        &self,
        config: &GateConfig,
        note: &mut impl FnMut(String, Result<(), String>),
    ) {
        for backend in self.front.common.backends.iter() {
            let upstream = config.upstreams.iter().find(|upstream| upstream.name == backend.name);
            let targets = match upstream {
                Some(upstream) => sites::targets(upstream),
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
            note(
                format!("the certificates toward the upstream {name}").trim_end().to_owned(),
                result,
            );
        }
    }
}
