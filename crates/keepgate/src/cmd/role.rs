//! `keepgate role`: roles of the directory and who is in them.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::Subcommand;
use keepgate_api::{Changed, ItemList, Listed, Members, Membership, MembershipName, UidInput};
use keepgate_policy::Uid;
use keepgate_policy::model::{GrantBody, RoleBody};
use serde::Serialize;
use serde_json::json;

use crate::admin::{Admin, CenterArgs, ServiceArgs, segment};
use crate::cmd::entity::Removal;
use crate::cmd::{Until, now_unix_s, shown_until};
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
  keepgate role assign user::bob orders-admin --until 8h
  keepgate role revoke user::bob 'role::\"orders-reader\"'
  keepgate role grant orders-reader --action GET,HEAD --resource route::/orders
  keepgate role grant orders-admin --action any --resource any
  keepgate role grants
  keepgate role ungrant 'orders-admin: any on any'
  keepgate role delete orders-temp --cascade

A gate enforces a change as soon as it has followed the center's revision, usually within
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
        /// When the membership ends by itself: a duration such as 8h, or a time such as
        /// 2030-01-31T18:00:00Z; default: when it is revoked
        #[arg(long, value_name = "TIME")]
        until: Option<Until>,
        /// Make the role if nothing names it yet; without this option it is refused, as a slip
        #[arg(long)]
        create: bool,
        #[command(flatten)]
        edge: Edge,
    },
    /// Take a principal, or a role, out of a role
    Revoke {
        #[command(flatten)]
        edge: Edge,
    },
    /// Delete a role: refused, and what hangs on it is listed, unless --cascade takes that away, too
    Delete {
        /// The role: its name, or a Cedar uid
        role: Role,
        #[command(flatten)]
        removal: Removal,
        #[command(flatten)]
        center: CenterArgs,
    },
    /// Allow a role actions on a resource of a service and all below it
    Grant {
        /// The role: its name, or a Cedar uid; a principal is allowed, too
        role: Role,
        /// The actions: names such as GET, or Cedar uids; `any` for all
        #[arg(long, value_name = "ACTION", value_delimiter = ',', required = true)]
        action: Vec<String>,
        /// The resource, such as route::/orders; `any` for all
        #[arg(long, value_name = "UID")]
        resource: String,
        /// When the grant ends by itself: a duration such as 8h, or a time such as
        /// 2030-01-31T18:00:00Z; default: when it is taken back
        #[arg(long, value_name = "TIME")]
        until: Option<Until>,
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
                let roles: Vec<RoleLine> = roles.into_values().collect();
                style::print_json(&json!({ "roles": roles }))?;
            } else {
                let now = now_unix_s()?;
                let mut table = Table::new(&["role", "members", "description"]);
                for role in roles.values() {
                    let members: Vec<String> = role.members.iter().map(|m| m.shown(now)).collect();
                    let (role, words) = (uid::told(&role.uid), role.description.clone());
                    table.row([role, members.join(", "), words]);
                }
                style::print(&table.render(Paint::stdout()))?;
            }
        }
        Action::Assign { edge, until, create } => {
            let mut admin = edge.center.connect()?;
            let (member, role) = edge.names();
            let body = Membership { member, role, until_unix_s: until.map(Until::unix_s) };
            let path = match create {
                true => "/v1/roles/assign",
                false => "/v1/roles/assign?must_exist=true",
            };
            let answer = runtime.block_on(admin.post(path, &body))?;
            done(&edge, "is in", &answer)?;
        }
        Action::Revoke { edge } => {
            let mut admin = edge.center.connect()?;
            let (member, role) = edge.names();
            let body = MembershipName { member, role };
            let answer = runtime.block_on(admin.post("/v1/roles/revoke", &body))?;
            done(&edge, "is no longer in", &answer)?;
        }
        Action::Delete { role, removal, center } => {
            let path = format!("/v1/roles/{}", segment(&role.0.to_string()));
            return removal.run(center.connect()?, &path, &role.0.to_string());
        }
        Action::Grant { role, action, resource, until, service, json } => {
            let mut grant = grant(role, &action, &resource)?;
            grant.until_unix_s = until.map(Until::unix_s);
            let answer = runtime.block_on(async {
                let (mut admin, path) = grants(&service).await?;
                admin.put(&format!("{path}/{}", segment(&grant.default_id())), &grant).await
            })?;
            if json {
                style::print_json(&answer)?;
            } else {
                style::print(&format!(
                    "granted {}, revision {}\n",
                    grant.default_id(),
                    answer.revision
                ))?;
            }
        }
        Action::Grants { json, service } => {
            let grants = runtime.block_on(async {
                let (mut admin, path) = grants(&service).await?;
                admin.load_all::<ItemList<GrantBody>>(&path).await
            })?;
            if json {
                style::print_json(&json!({ "grants": grants }))?;
            } else {
                style::print(&grants_table(&grants, now_unix_s()?).render(Paint::stdout()))?;
            }
        }
        Action::Ungrant { id, service } => {
            let answer = runtime.block_on(async {
                let (mut admin, path) = grants(&service).await?;
                admin.delete(&format!("{path}/{}", segment(&id))).await
            })?;
            style::print(&format!("took back {id}, revision {}\n", answer.revision))?;
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
        text => {
            Some(uid::parse(text).map_err(|e| usage(format!("--resource: {e}; or pass `any`")))?)
        }
    };
    Ok(GrantBody { principal: role.0, actions: granted, resource, until_unix_s: None })
}

fn grants_table(grants: &[Listed<GrantBody>], now: u64) -> Table {
    let mut table = Table::new(&["role", "actions", "resource", "ends", "id"]);
    for grant in grants {
        let GrantBody { principal, actions, resource, until_unix_s } = &grant.body;
        let ends = shown_until(*until_unix_s, now);
        let actions: Vec<String> = actions.iter().map(Uid::to_string).collect();
        let any = || ANY.to_owned();
        let actions = if actions.is_empty() { any() } else { actions.join(", ") };
        let resource = resource.as_ref().map_or_else(any, Uid::to_string);
        table.row([principal.to_string(), actions, resource, ends, grant.id.clone()]);
    }
    table
}

/// A role with what is known of it.
#[derive(Debug, Serialize)]
struct RoleLine {
    uid: keepgate_api::Uid,
    members: Vec<MemberLine>,
    description: String,
}

/// Who is in a role.
#[derive(Debug, Serialize)]
struct MemberLine {
    #[serde(flatten)]
    uid: keepgate_api::Uid,
    /// When it ends, where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    until_unix_s: Option<u64>,
}

impl MemberLine {
    fn shown(&self, now: u64) -> String {
        match shown_until(self.until_unix_s, now).as_str() {
            "" => uid::told(&self.uid),
            until => format!("{} ({until})", uid::told(&self.uid)),
        }
    }
}

/// Roles that were described or that have a member, by their uid in Cedar syntax.
async fn roles(admin: &mut Admin) -> anyhow::Result<BTreeMap<String, RoleLine>> {
    let mut roles: BTreeMap<String, RoleLine> = BTreeMap::new();
    for role in admin.load_all::<ItemList<RoleBody>>("/v1/roles").await? {
        let RoleBody { uid, description, .. } = role.body;
        let name = uid.to_string();
        let uid = keepgate_api::Uid { kind: uid.kind, id: uid.id };
        roles.insert(name, RoleLine { uid, members: Vec::new(), description });
    }
    for edge in admin.load_all::<Members>("/v1/members").await? {
        let line = roles.entry(uid::told(&edge.role)).or_insert_with(|| RoleLine {
            uid: edge.role,
            members: Vec::new(),
            description: String::new(),
        });
        line.members.push(MemberLine { uid: edge.member, until_unix_s: edge.until_unix_s });
    }
    Ok(roles)
}

impl Edge {
    /// Member and role, as requests have them.
    fn names(&self) -> (UidInput, UidInput) {
        let of = |uid: &Uid| UidInput::Text(uid.to_string());
        (of(&self.member), of(&self.role.0))
    }
}

fn done(edge: &Edge, words: &str, answer: &Changed) -> anyhow::Result<()> {
    if edge.json {
        return style::print_json(answer);
    }
    let (member, role, revision) = (&edge.member, &edge.role.0, answer.revision);
    style::print(&format!("{member} {words} {role}, revision {revision}\n"))
}

/// The center, and the path of the service's grants there.
async fn grants(service: &ServiceArgs) -> anyhow::Result<(Admin, String)> {
    let (admin, name) = service.connect().await?;
    Ok((admin, format!("/v1/services/{}/grants", segment(&name))))
}
