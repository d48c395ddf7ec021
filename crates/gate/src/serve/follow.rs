//! Which centers a gate follows, and how, from its configuration.

use keepgate_client::dial::Roots;
use keepgate_client::replica::{self, FollowConfig};
use keepgate_observe::chain;

use super::failure::StartError;
use super::ports::{Ports, Purpose};
use super::sites;
use crate::config::GateConfig;

/// What the gate follows.
pub(super) fn config(config: &GateConfig, ports: &Ports) -> Result<FollowConfig, StartError> {
    let mut follow = FollowConfig::new("", &config.token);
    follow.dialer = ports.dialer(Purpose::Center).clone();
    follow.centers.clone_from(&config.centers);
    follow.services = sites::services(&sites::of(config));
    follow.data_dir.clone_from(&config.data_dir);
    follow.restart_age = config.restart_age;
    follow.allow_plain = config.insecure_center;
    follow.tracing.clone_from(&config.tracing);
    if let Some(ca) = &config.center_ca {
        follow.roots = Roots::File(ca.clone());
    }
    follow.identity = sites::center_identity(config)?;
    Ok(follow)
}

/// With the name of the setting that is wrong, where it is one.
pub(super) fn not_followed(error: replica::StartError) -> StartError {
    use replica::StartError::{Center, NoCenter, Plain, TooManyCenters, Twice};
    let reason = match &error {
        Plain { url } => format!(
            "`{url}` is neither https nor on this host: the token and the permissions would travel \
             in the clear; use https, or, for tests, --insecure-center"
        ),
        NoCenter | TooManyCenters(_) | Twice { .. } | Center(_) => chain(&error),
        _ => return StartError::Follow(error),
    };
    StartError::Setting { setting: "center", reason }
}
