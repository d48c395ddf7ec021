//! `keepgate access`: who may do what, for a review.

use keepgate_api::{
    AccessEntry, AsOf, GivenBy, Holding, PathStep, PolicyEffect, PrincipalAccess, ResourceAccess,
    RoleAccess, RoleEntry, Since,
};
use keepgate_policy::Uid;
use serde::Serialize;
use serde_json::json;

use super::audit::quoted;
use super::check::{action, as_of, way};
use crate::admin::{Admin, CenterArgs, segment};
use crate::exit::{Exit, usage};
use crate::style::{self, Paint, Table};
use crate::uid;

/// Pages of one answer at most.
const MAX_PAGES: usize = 100_000;

/// Show who may do what: on a resource, somebody's policies, or who is in a role
///
/// Forbids are taken into account. What depends on the request is listed as a condition, not guessed.
/// Of each grant and membership it is said since when it is so and by whom, as far as the history reaches
/// back.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("of").required(true), after_help = "\
Examples:
  keepgate access --resource record::r1
  keepgate access --resource 'route::\"/orders/{id}\"' --action DELETE --service orders
  keepgate access --principal user::alice
  keepgate access --role admin --csv > review.csv
  keepgate access --resource record::r1 --as-of 2026-07-25T09:30:00Z")]
pub(crate) struct Args {
    /// Who may do something on this: a Cedar uid such as record::r1
    #[arg(long, value_name = "UID", value_parser = uid::parse, group = "of")]
    resource: Option<Uid>,
    /// Which policies apply to this principal: a Cedar uid such as user::alice
    #[arg(long, value_name = "UID", value_parser = uid::parse, group = "of")]
    principal: Option<Uid>,
    /// Who is in this role: its name, or a Cedar uid
    #[arg(long, value_name = "ROLE", group = "of")]
    role: Option<String>,
    /// Only this action: a name such as read, or a Cedar uid
    #[arg(long, conflicts_with = "role")]
    action: Option<String>,
    /// Only principals of this type; without it, all but roles
    #[arg(long, value_name = "TYPE", requires = "resource")]
    r#type: Option<String>,
    /// The service whose policies decide; without it, the one that answers AuthZEN
    #[arg(long, env = "KEEPGATE_SERVICE", value_name = "NAME")]
    service: Option<String>,
    /// In a past state: that of a revision, or the one in force at a time
    #[arg(long, value_name = "REV|TIME", value_parser = as_of)]
    as_of: Option<AsOf>,
    /// At most this many entries; without it, all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values (RFC 4180)
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    center: CenterArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut query = String::new();
    let mut add =
        |name: &str, value: String| query.push_str(&format!("&{name}={}", segment(&value)));
    if let Some(name) = &args.action {
        add("action", action(name));
    }
    if let Some(kind) = &args.r#type {
        add("type", kind.clone());
    }
    if let Some(service) = &args.service {
        add("service", service.clone());
    }
    match &args.as_of {
        Some(AsOf::Revision(revision)) => add("as_of", revision.to_string()),
        Some(AsOf::Time(time)) => add("as_of", time.clone()),
        None => {}
    }
    let mut admin = args.center.connect()?;
    let runtime = super::runtime()?;
    let most = args.limit.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let found = runtime.block_on(async {
        match (&args.resource, &args.principal, &args.role) {
            (Some(resource), ..) => {
                let path =
                    format!("/v1/access/resource?resource={}", segment(&resource.to_string()));
                Found::resource(&mut admin, &format!("{path}{query}"), most).await
            }
            (_, Some(principal), _) => {
                let path =
                    format!("/v1/access/principal?principal={}", segment(&principal.to_string()));
                Found::principal(&mut admin, &format!("{path}{query}"), most).await
            }
            (_, _, Some(role)) => {
                let role = match role.contains("::") {
                    true => uid::parse(role).map_err(usage)?.to_string(),
                    false => Uid::role(role).to_string(),
                };
                let path = format!("/v1/access/role?role={}", segment(&role));
                Found::role(&mut admin, &format!("{path}{query}"), most).await
            }
            _ => Err(usage("pass --resource, --principal or --role")),
        }
    })?;
    if args.json {
        return found.json().map(|()| Exit::Ok);
    }
    let rows = found.rows();
    let text = match args.csv {
        true => csv(&rows),
        false => table(&rows).render(Paint::stdout()),
    };
    style::print(&text)?;
    Ok(Exit::Ok)
}

/// What was found, all pages of it.
enum Found {
    Resource(ResourceAccess),
    Principal(PrincipalAccess),
    Role(RoleAccess),
}

/// A row of the table: the names of the columns and their values.
type Row = Vec<(&'static str, String)>;

impl Found {
    async fn resource(admin: &mut Admin, path: &str, most: usize) -> anyhow::Result<Found> {
        let mut all: ResourceAccess = admin.load(path).await?;
        for _ in 0..MAX_PAGES {
            let Some(next) = all.next.take().filter(|_| all.entries.len() < most) else { break };
            let more: ResourceAccess = admin.load(&after(path, &next)).await?;
            all.entries.extend(more.entries);
            all.next = more.next;
        }
        all.entries.truncate(most);
        Ok(Found::Resource(all))
    }

    async fn principal(admin: &mut Admin, path: &str, most: usize) -> anyhow::Result<Found> {
        let mut all: PrincipalAccess = admin.load(path).await?;
        for _ in 0..MAX_PAGES {
            let Some(next) = all.next.take().filter(|_| all.entries.len() < most) else { break };
            let more: PrincipalAccess = admin.load(&after(path, &next)).await?;
            all.entries.extend(more.entries);
            all.next = more.next;
        }
        all.entries.truncate(most);
        Ok(Found::Principal(all))
    }

    async fn role(admin: &mut Admin, path: &str, most: usize) -> anyhow::Result<Found> {
        let mut all: RoleAccess = admin.load(path).await?;
        for _ in 0..MAX_PAGES {
            let Some(next) = all.next.take().filter(|_| all.entries.len() < most) else { break };
            let more: RoleAccess = admin.load(&after(path, &next)).await?;
            all.entries.extend(more.entries);
            all.next = more.next;
        }
        all.entries.truncate(most);
        Ok(Found::Role(all))
    }

    fn json(&self) -> anyhow::Result<()> {
        fn told(revision: u64, entries: &impl Serialize) -> anyhow::Result<()> {
            style::print_json(&json!({ "revision": revision, "entries": entries }))
        }
        match self {
            Found::Resource(all) => told(all.revision, &all.entries),
            Found::Principal(all) => told(all.revision, &all.entries),
            Found::Role(all) => told(all.revision, &all.entries),
        }
    }

    fn rows(&self) -> Vec<Row> {
        match self {
            Found::Resource(all) => all.entries.iter().flat_map(of_resource).collect(),
            Found::Principal(all) => all.entries.iter().map(of_principal).collect(),
            Found::Role(all) => all.entries.iter().map(of_role).collect(),
        }
    }
}

fn after(path: &str, next: &str) -> String {
    format!("{path}&after={}", segment(next))
}

/// A row for each policy that gives it.
fn of_resource(entry: &AccessEntry) -> Vec<Row> {
    let unless: Vec<String> = entry.unless.iter().map(condition).collect();
    let given = entry.by.iter().chain(&entry.when);
    given
        .map(|by| {
            let mut conditions: Vec<String> = Vec::new();
            if by.condition.is_some() {
                conditions.push(format!("when {}", condition(by)));
            }
            conditions.extend(unless.iter().map(|unless| format!("unless {unless}")));
            let [since, actor] = since(&by.since, &by.path);
            vec![
                ("principal", entry.principal.clone()),
                ("may", entry.actions.join(", ")),
                ("by", format!("{} {}", by.item.kind, by.item.id)),
                ("through", way(&by.path)),
                ("since", since),
                ("by token", actor),
                ("condition", conditions.join("; ")),
            ]
        })
        .collect()
}

fn of_principal(entry: &Holding) -> Row {
    let effect = match entry.effect {
        PolicyEffect::Permit => "permit",
        PolicyEffect::Forbid => "forbid",
    };
    let until = entry.until_unix_s.map_or(String::new(), style::date);
    let [since, actor] = since(&entry.given.since, &entry.given.path);
    vec![
        ("effect", effect.to_owned()),
        ("policy", format!("{} {}", entry.given.item.kind, entry.given.item.id)),
        ("action", entry.action.clone()),
        ("resource", entry.resource.clone()),
        ("through", way(&entry.given.path)),
        ("since", since),
        ("by token", actor),
        ("until", until),
        ("condition", entry.given.condition.clone().unwrap_or_default()),
    ]
}

fn of_role(entry: &RoleEntry) -> Row {
    let nothing = Since { revision: Some(0), unix_ms: Some(0), actor: None, action: None };
    let [since, actor] = since(&nothing, &entry.path);
    let ends = entry.path.iter().filter_map(|step| step.until_unix_s).min();
    vec![
        ("member", entry.member.clone()),
        ("through", way(&entry.path)),
        ("since", since),
        ("by token", actor),
        ("until", ends.map_or(String::new(), style::date)),
    ]
}

/// A policy's condition, or its name where it has none.
fn condition(by: &GivenBy) -> String {
    match &by.condition {
        Some(condition) => format!("{} ({})", one_line(condition), by.item.id),
        None => by.item.id.clone(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Since when all of it is so, and by whom the last part of it was made so.
fn since(of: &Since, path: &[PathStep]) -> [String; 2] {
    let mut last = of;
    for step in path.iter().filter(|step| step.by.is_some()) {
        match &step.since {
            Some(since) if last.unix_ms.is_some() && since.unix_ms > last.unix_ms => last = since,
            // Of one part it is not known, so of the whole it is not.
            Some(since) if since.unix_ms.is_none() => last = since,
            _ => {}
        }
    }
    let unknown = || "not known".to_owned();
    match last.unix_ms {
        None => [unknown(), unknown()],
        Some(unix_ms) => [style::date(unix_ms / 1_000), last.actor.clone().unwrap_or_else(unknown)],
    }
}

fn table(rows: &[Row]) -> Table {
    let names: Vec<&str> =
        rows.first().map(|row| row.iter().map(|(name, _)| *name).collect()).unwrap_or_default();
    let mut table = Table::new(if names.is_empty() { &["nobody"] } else { &names });
    for row in rows {
        table.row(row.iter().map(|(_, value)| one_line(value)));
    }
    table
}

/// RFC 4180, with a line of names.
fn csv(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut line = |cells: Vec<String>| {
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    };
    if let Some(row) = rows.first() {
        line(row.iter().map(|(name, _)| quoted(&name.replace(' ', "_"))).collect());
    }
    for row in rows {
        line(row.iter().map(|(_, value)| quoted(value)).collect());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix_ms: Option<u64>, actor: &str) -> Since {
        let actor = (!actor.is_empty()).then(|| actor.to_owned());
        Since { revision: None, unix_ms, actor, action: None }
    }

    #[test]
    fn a_right_is_as_old_as_its_youngest_part() {
        let step = |since: Since| PathStep {
            to: "role::\"x\"".to_owned(),
            by: Some(keepgate_api::ItemName { kind: "member".to_owned(), id: "m".to_owned() }),
            until_unix_s: None,
            since: Some(since),
        };
        let grant = at(Some(60_000), "a");
        assert_eq!(since(&grant, &[]), ["1970-01-01 00:01 UTC", "a"]);
        let path = [step(at(Some(120_000), "b")), step(at(Some(1), "c"))];
        assert_eq!(since(&grant, &path), ["1970-01-01 00:02 UTC", "b"]);
        let path = [step(at(None, "")), step(at(Some(120_000), "b"))];
        assert_eq!(since(&grant, &path), ["not known", "not known"]);
        assert_eq!(since(&at(None, ""), &path[1..]), ["not known", "not known"]);
        assert_eq!(since(&at(Some(0), ""), &[]), ["1970-01-01 00:00 UTC", "not known"]);
    }
}
