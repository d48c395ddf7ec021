//! `keepgate plan`: named sets of limits that API keys belong to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use keepgate_api as api;
use keepgate_limit::rules::{Key, NamedPlan, Plan, Rate, Rule};
use serde::Serialize;
use serde_json::json;

use crate::admin::{Admin, ServiceArgs, segment};
use crate::cmd::key;
use crate::exit::{Exit, usage};
use crate::style::{self, Paint, Table};

/// List, show, set and remove plans: named sets of limits for callers with API keys
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate plan list
  keepgate plan set bulk --rate 1000/min --concurrency 8 --description 'for crawlers that asked'
  keepgate plan set bulk --file bulk.toml
  keepgate key create --principal client::crawler --plan bulk --expires 90d
  keepgate plan show bulk

The next `keepgate apply` replaces the plans with those in limits.toml. It is refused if it would
remove a plan that keys use.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List plans, their limits and how many keys are in each
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Show one plan, its limits and its keys
    Show {
        /// The plan
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Make a plan, or replace it as a whole
    #[command(visible_alias = "create")]
    Set {
        /// The plan
        name: String,
        #[command(flatten)]
        limits: Limits,
        /// A description for people
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Print the center's answer as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Remove a plan that no key is in
    Remove {
        /// The plan
        name: String,
        #[command(flatten)]
        service: ServiceArgs,
    },
}

/// One rule from flags, or all from a file.
#[derive(Debug, clap::Args)]
struct Limits {
    /// Requests a period, such as 1000/min
    #[arg(long, value_name = "RATE", required_unless_present_any = ["file", "concurrency"])]
    rate: Option<Rate>,
    /// Requests at once on top of the rate; without it, the rate's count
    #[arg(long, value_name = "N", requires = "rate")]
    burst: Option<u32>,
    /// Requests under way at once
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Whose requests are counted together: api_key, principal, address or header:NAME
    #[arg(long, value_name = "KEY", default_value = "api_key")]
    key: Key,
    /// A TOML file with the content of [plan.NAME] in limits.toml, for more than one rule
    #[arg(long, value_name = "F", conflicts_with_all = ["rate", "burst", "concurrency", "key"])]
    file: Option<PathBuf>,
}

impl Limits {
    fn plan(self, name: &str) -> anyhow::Result<Plan> {
        if let Some(path) = &self.file {
            let shown = path.display();
            let text =
                std::fs::read_to_string(path).with_context(|| format!("reading `{shown}`"))?;
            return toml::from_str(&text).map_err(|e| usage(format!("`{shown}`: {e}")));
        }
        // Every field of a rule has a default but these.
        let rule = json!({
            "name": name,
            "key": self.key,
            "rate": self.rate,
            "burst": self.burst,
            "concurrency": self.concurrency,
        });
        let rule: Rule = serde_json::from_value(rule).context("the limits make no rule")?;
        Ok(Plan { description: String::new(), rules: vec![rule] })
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    super::runtime()?.block_on(act(args.action))?;
    Ok(Exit::Ok)
}

async fn act(action: Action) -> anyhow::Result<()> {
    match action {
        Action::List { json, service } => {
            let (mut admin, service) = service.connect().await?;
            let plans = admin.load_all::<api::ItemList<NamedPlan>>(&plans_path(&service)).await?;
            let keys = keys(&mut admin, &service).await?;
            let empty = Vec::new();
            let of = |name: &str| keys.get(name).unwrap_or(&empty).len();
            if json {
                let line =
                    |plan: api::Listed<NamedPlan>| PlanLine { keys: of(&plan.id), plan: plan.body };
                let plans: Vec<_> = plans.into_iter().map(line).collect();
                return style::print_json(&json!({ "plans": plans }));
            }
            let mut table = Table::new(&["plan", "keys", "limits", "description"]);
            for plan in &plans {
                let limits: Vec<String> = plan.body.rules.iter().map(sentence).collect();
                let (name, description) = (plan.id.clone(), plan.body.description.clone());
                table.row([name, of(&plan.id).to_string(), limits.join("; "), description]);
            }
            style::print(&table.render(Paint::stdout()))
        }
        Action::Show { name, json, service } => {
            let (mut admin, service) = service.connect().await?;
            let named: NamedPlan = admin.load(&plan_path(&service, &name)).await?;
            let keys = keys(&mut admin, &service).await?.remove(&name).unwrap_or_default();
            if json {
                return style::print_json(&PlanLine { keys, plan: named });
            }
            let paint = Paint::stdout();
            let mut screen = format!("{}  {}\n", paint.strong(&name), named.description);
            for rule in &named.rules {
                screen += &format!("  {:<16} {}\n", rule.name, sentence(rule));
            }
            if keys.is_empty() {
                screen += &format!(
                    "\nno key is in it; `keepgate key create --service {service} --principal client::NAME --plan {name}` makes one\n"
                );
            } else {
                screen += &format!("\n{}", key::table(&keys)?.render(paint));
            }
            style::print(&screen)
        }
        Action::Set { name, limits, description, json, service } => {
            let mut plan = limits.plan(&name)?;
            if let Some(description) = description {
                plan.description = description;
            }
            let (mut admin, service) = service.connect().await?;
            let answer = admin.put(&plan_path(&service, &name), &plan).await?;
            if json {
                return style::print_json(&answer);
            }
            let done = match answer.changes.first().map(|change| change.op) {
                Some(api::Op::Create) => "made",
                Some(_) => "replaced",
                None => "unchanged:",
            };
            let revision = answer.revision;
            style::print(&format!("{done} the plan {name}, revision {revision}\n"))
        }
        Action::Remove { name, service } => {
            let (mut admin, service) = service.connect().await?;
            admin.delete(&plan_path(&service, &name)).await?;
            style::print(&format!("removed the plan {name}\n"))
        }
    }
}

fn plans_path(service: &str) -> String {
    format!("/v1/services/{}/plans", segment(service))
}

fn plan_path(service: &str, name: &str) -> String {
    format!("{}/{}", plans_path(service), segment(name))
}

/// The service's keys by their plans.
async fn keys(admin: &mut Admin, service: &str) -> anyhow::Result<BTreeMap<String, Vec<api::Key>>> {
    let path = format!("/v1/services/{}/keys", segment(service));
    let mut by_plan: BTreeMap<String, Vec<api::Key>> = BTreeMap::new();
    for key in admin.load_all::<api::Keys>(&path).await? {
        by_plan.entry(key.plan.clone()).or_default().push(key);
    }
    Ok(by_plan)
}

/// A plan for programs: as it is stored, with its keys, or how many there are.
#[derive(Serialize)]
struct PlanLine<K> {
    keys: K,
    #[serde(flatten)]
    plan: NamedPlan,
}

/// What a rule limits: `1000/min each api_key, burst 50, 8 at once, GET on /orders/*`.
fn sentence(rule: &Rule) -> String {
    let each = format!("each {}", rule.key);
    let mut parts = vec![match rule.rate {
        Some(rate) => format!("{rate} {each}"),
        None => each,
    }];
    parts.extend(rule.burst.map(|burst| format!("burst {burst}")));
    parts.extend(rule.concurrency.map(|most| format!("{most} at once")));
    let methods = rule.methods.join(", ");
    let route = rule.route.as_ref().map(ToString::to_string).unwrap_or_default();
    let on: Vec<&str> = [&methods, &route].into_iter().map(String::as_str).collect();
    let on: Vec<&str> = on.into_iter().filter(|text| !text.is_empty()).collect();
    if !on.is_empty() {
        parts.push(format!("on {}", on.join(" ")));
    }
    if rule.shadow {
        parts.push("only counted".to_owned());
    }
    parts.join(", ")
}
