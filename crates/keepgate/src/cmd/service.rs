//! `keepgate service`: the services of a center.

use clap::Subcommand;
use keepgate_api::{Revision, Service, Services};
use keepgate_policy::service::ServiceSettings;
use serde_json::Value;

use crate::admin::{CenterArgs, segment, shown};
use crate::exit::{Exit, usage};
use crate::style::{self, Paint, Table};

/// List, show and delete the services of a center
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate service list
  keepgate service show orders
  keepgate service delete orders --yes")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List services
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        center: CenterArgs,
    },
    /// Show one service: its settings and how many items it has
    Show {
        /// The service
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        center: CenterArgs,
    },
    /// Delete a service with all its policies, routes, limits and keys
    Delete {
        /// The service
        name: String,
        /// Confirm the deletion
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        center: CenterArgs,
    },
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let runtime = super::runtime()?;
    match args.action {
        Action::List { json, center } => {
            let mut admin = center.connect()?;
            let services = runtime.block_on(admin.load_all::<Services>("/v1/services"))?;
            if json {
                let newest: Revision = runtime.block_on(admin.load("/v1/revision"))?;
                let revision = newest.revision;
                style::print_json(&Services { revision, services, next: None })?;
            } else {
                let heads = ["name", "policies", "grants", "routes", "next grant to end"];
                let mut table = Table::new(&heads);
                for service in &services {
                    let counts = [service.policies, service.grants, service.routes];
                    let counts = counts.map(|count| count.to_string());
                    let ends = service.next_end_unix_s.map(style::date).unwrap_or_default();
                    table.row([service.name.clone()].into_iter().chain(counts).chain([ends]));
                }
                style::print(&table.render(Paint::stdout()))?;
            }
        }
        Action::Show { name, json, center } => {
            let mut admin = center.connect()?;
            let path = format!("/v1/services/{}", segment(&name));
            let answer: Service<ServiceSettings> = runtime.block_on(admin.load(&path))?;
            if json {
                style::print_json(&answer)?;
            } else {
                style::print(&lines(&serde_json::to_value(&answer)?, ""))?;
            }
        }
        Action::Delete { name, yes, center } => {
            if !yes {
                return Err(usage(format!(
                    "this deletes `{name}` with all its policies, routes, limits and keys; pass --yes to do it (`keepgate export` keeps a copy)"
                )));
            }
            let mut admin = center.connect()?;
            runtime.block_on(admin.delete(&format!("/v1/services/{}", segment(&name))))?;
            style::print(&format!("deleted {name}\n"))?;
        }
    }
    Ok(Exit::Ok)
}

/// `path value` lines, one for each leaf.
fn lines(value: &Value, path: &str) -> String {
    match value {
        Value::Object(map) if !map.is_empty() => {
            let below =
                |key: &String| if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            map.iter().map(|(key, value)| lines(value, &below(key))).collect()
        }
        other => format!("{path:<28} {}\n", shown(Some(other))),
    }
}
