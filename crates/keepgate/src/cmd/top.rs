//! `keepgate top`: what is heavy right now. Without a subcommand the ports of this host; `clients`
//! says who makes the requests of a service, `upstreams` how a gate reuses its connections.

mod clients;
mod ports;
mod upstreams;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use hyper::Method;
use serde::de::DeserializeOwned;

use crate::exit::{Exit, usage};
use crate::origin::Origin;

/// Show used and free ports of each destination, live; `top clients`: who makes the requests;
/// `top upstreams`: how a gate reuses its connections, and the ports that it has left
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Keys: up/down choose, s sort, / filter, n namespace, enter the doctor's report, q quit.
Set NO_COLOR to turn colors off; no information is in color alone."
)]
pub(crate) struct Args {
    #[command(flatten)]
    ports: ports::PortsArgs,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    Clients(clients::Args),
    Upstreams(upstreams::Args),
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    match args.what {
        Some(What::Clients(args)) => clients::run(&args),
        Some(What::Upstreams(args)) => upstreams::run(&args),
        None => ports::run(args.ports),
    }
}

/// What a gate's admin listener says at a path, as JSON.
async fn ask_gate<T: DeserializeOwned>(gate: &str, path: &str) -> anyhow::Result<T> {
    let url = if gate.contains(':') && !gate.contains("//") && !gate.starts_with("unix:") {
        format!("http://{gate}")
    } else {
        gate.to_owned()
    };
    let mut origin = Origin::new(&url, None).map_err(|e| usage(format!("--gate: {e:#}")))?;
    let answer = origin.send(Method::GET, path, &[], None).await.with_context(|| {
        format!("the gate `{gate}` cannot be asked; --gate is its --admin-listen address")
    })?;
    let place = path.split('?').next().unwrap_or(path);
    if !answer.status.is_success() {
        let status = answer.status.as_u16();
        if matches!(status, 400 | 404) {
            let said = String::from_utf8_lossy(&answer.body);
            bail!("`{gate}` answered {place} with {status}: {}", said.trim());
        }
        bail!("`{gate}` answered {place} with {status}; --gate is a gate's --admin-listen address");
    }
    serde_json::from_slice(&answer.body).with_context(|| {
        format!("`{gate}` did not answer with JSON; --gate is a gate's --admin-listen address")
    })
}
