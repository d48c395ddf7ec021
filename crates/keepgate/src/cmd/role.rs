//! `keepgate role`: roles of the directory and who is in them.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::Subcommand;
use keepgate_policy::Uid;
use keepgate_policy::model::GrantBody;
use serde_json::{Value, json};

use crate::admin::{Admin, CenterArgs, ServiceArgs, segment, shown, text};
use crate::exit::{Exit, usage};
use crate::style::{self, Paint, Table};
use crate::uid;

/// All actions, or all resources.
const ANY: &str = "any";

/// List roles, put principals into them or take them out, and say what a role may do
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate role list
  keepgate role assign user::bob orders-reader
  keepgate role revoke user::bob 'role::\"orders-reader\"'
  keepgate role grant orders-reader --action GET,HEAD --resource route::/orders
  keepgate role grant orders-admin --action any --resource any
  keepgate role grants
  keepgate role ungrant 'orders-admin: any on any'

A gate enforces a change as soon as it has followed the center's revision, by habit within
milliseconds.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List roles and their members
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        center: CenterArgs,
    },
    /// Put a principal, or a role, into a role
    Assign {
        #[command(flatten)]
        edge: Edge,
    },
    /// Take a principal, or a role, out of a role
    Revoke {
        #[command(flatten)]
        edge: Edge,
    },
    /// Allow a role actions on a resource of a service and all below it
    Grant {
        /// The role: its name, or a Cedar uid; a principal may stand here, too
        role: Role,
        /// The actions: names such as GET, or Cedar uids; `any` for all
        #[arg(long, value_name = "ACTION", value_delimiter = ',', required = true)]
        action: Vec<String>,
        /// The resource, such as route::/orders; `any` for all
        #[arg(long, value_name = "UID")]
        resource: String,
        #[command(flatten)]
        service: ServiceArgs,
        /// Print the center's answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// List what roles may do in a service
    Grants {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Take a grant back
    Ungrant {
        /// The grant, as `keepgate role grants` lists it
        id: String,
        #[command(flatten)]
        service: ServiceArgs,
    },
}

#[derive(Debug, clap::Args)]
struct Edge {
    /// Who: a Cedar uid such as user::"bob", or user::bob
    #[arg(value_parser = uid::parse)]
    member: Uid,
    /// The role: its name, or a Cedar uid
    role: Role,
    /// Print the center's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

/// A role by name (`orders-reader`) or by uid.
#[derive(Clone, Debug)]
struct Role(Uid);

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, Self::Err> {
        if text.contains("::") || text.is_empty() {
            uid::parse(text).map(Role)
        } else {
            Ok(Role(Uid::new("role", text)))
        }
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let runtime = super::runtime()?;
    match args.action {
        Action::List { json, center } => {
            let mut admin = center.connect()?;
            let roles = runtime.block_on(roles(&mut admin))?;
            if json {
                let roles: Vec<Value> = roles.into_values().collect();
                style::print_json(&json!({ "roles": roles }))?;
            } else {
                let mut table = Table::new(&["role", "members", "description"]);
                for role in roles.values() {
                    table.row(["uid", "members", "description"].map(|m| shown(role.get(m))));
                }
                style::print(&table.render(Paint::stdout()))?;
            }
        }
        Action::Assign { edge } => {
            let mut admin = edge.center.connect()?;
            let answer = runtime.block_on(change(&mut admin, "assign", &edge))?;
            done(&edge, "is in", &answer)?;
        }
        Action::Revoke { edge } => {
            let mut admin = edge.center.connect()?;
            let answer = runtime.block_on(change(&mut admin, "revoke", &edge))?;
            done(&edge, "is no longer in", &answer)?;
        }
        Action::Grant { role, action, resource, service, json } => {
            let grant = grant(role, &action, &resource)?;
            let answer = runtime.block_on(async {
                let (mut admin, path) = grants(&service).await?;
                admin.put(&format!("{path}/{}", segment(&grant.default_id())), &json!(grant)).await
            })?;
            if json {
                style::print_json(&answer)?;
            } else {
                style::print(&format!("granted {}, {}\n", grant.default_id(), revision(&answer)))?;
            }
        }
        Action::Grants { json, service } => {
            let grants = runtime.block_on(async {
                let (mut admin, path) = grants(&service).await?;
                admin.load_all(&path, "items").await
            })?;
            if json {
                style::print_json(&json!({ "grants": grants }))?;
            } else {
                style::print(&grants_table(&grants).render(Paint::stdout()))?;
            }
        }
        Action::Ungrant { id, service } => {
            let answer = runtime.block_on(async {
                let (mut admin, path) = grants(&service).await?;
                admin.delete(&format!("{path}/{}", segment(&id))).await
            })?;
            style::print(&format!("took back {id}, {}\n", revision(&answer)))?;
        }
    }
    Ok(Exit::Ok)
}

/// As in `roles.toml`: everything can be granted, but must be said.
fn grant(role: Role, actions: &[String], resource: &str) -> anyhow::Result<GrantBody> {
    let any = actions.iter().any(|action| action == ANY);
    if any && actions.len() > 1 {
        return Err(usage("--action any is all of them; name no other beside it"));
    }
    let of = |text: &String| match text.contains("::") {
        true => uid::parse(text).map_err(|e| usage(format!("--action: {e}"))),
        false => Ok(Uid::action(text)),
    };
    let mut granted = match any {
        true => Vec::new(),
        false => actions.iter().map(of).collect::<anyhow::Result<Vec<Uid>>>()?,
    };
    granted.sort();
    granted.dedup();
    let resource = match resource {
        ANY => None,
        text => Some(uid::parse(text).map_err(|e| usage(format!("--resource: {e}, or `any`")))?),
    };
    Ok(GrantBody { principal: role.0, actions: granted, resource })
}

fn grants_table(grants: &[Value]) -> Table {
    let mut table = Table::new(&["role", "actions", "resource", "id"]);
    for grant in grants {
        let body = grant.get("body");
        let of = |member: &str| {
            let text = shown(body.and_then(|body| body.get(member)));
            if text.is_empty() { ANY.to_owned() } else { text }
        };
        table.row([of("principal"), of("actions"), of("resource"), text(grant, "id").to_owned()]);
    }
    table
}

fn revision(answer: &Value) -> String {
    format!("revision {}", answer.get("revision").and_then(Value::as_u64).unwrap_or(0))
}

/// Roles that were described or that have a member, by their uid in Cedar syntax.
async fn roles(admin: &mut Admin) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut roles = BTreeMap::new();
    let mut entry = |role: Value, member: Option<Value>, description: &str| {
        let entry: &mut Value = roles
            .entry(shown(Some(&role)))
            .or_insert_with(|| json!({ "uid": role, "members": [], "description": "" }));
        if let Some(members) = entry.get_mut("members").and_then(Value::as_array_mut) {
            members.extend(member);
        }
        if let (false, Some(text)) = (description.is_empty(), entry.get_mut("description")) {
            *text = json!(description);
        }
    };
    for role in admin.load_all("/v1/roles", "items").await? {
        let body = role.get("body").unwrap_or(&role);
        let uid = body.get("uid").cloned().unwrap_or_default();
        entry(uid, None, text(body, "description"));
    }
    for edge in admin.load_all("/v1/members", "members").await? {
        let end = |name: &str| edge.get(name).cloned().unwrap_or_default();
        entry(end("role"), Some(end("member")), "");
    }
    Ok(roles)
}

async fn change(admin: &mut Admin, verb: &str, edge: &Edge) -> anyhow::Result<Value> {
    let body = json!({ "member": edge.member, "role": edge.role.0 });
    admin.post(&format!("/v1/roles/{verb}"), &body).await
}

fn done(edge: &Edge, words: &str, answer: &Value) -> anyhow::Result<()> {
    if edge.json {
        return style::print_json(answer);
    }
    style::print(&format!("{} {words} {}, {}\n", edge.member, edge.role.0, revision(answer)))
}

/// The center, and the path of the service's grants there.
async fn grants(service: &ServiceArgs) -> anyhow::Result<(Admin, String)> {
    let (admin, name) = service.connect().await?;
    Ok((admin, format!("/v1/services/{}/grants", segment(&name))))
}
