//! `keepgate entity`: entities of the directory and of services.

use clap::Subcommand;
use keepgate_api::{Changed, ItemList, Op};
use keepgate_policy::Uid;
use keepgate_policy::model::EntityBody;
use serde_json::json;

use crate::admin::{Admin, CenterArgs, Refusal, segment};
use crate::exit::Exit;
use crate::style::{self, Paint, Table};
use crate::uid;

/// List and delete entities
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate entity list
  keepgate entity list --service orders
  keepgate entity delete group::\"interns\" --cascade")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the entities of the directory, or of a service
    List {
        /// Those of this service; default: those of the directory
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        center: CenterArgs,
    },
    /// Delete an entity: refused, and what hangs on it is listed, unless --cascade takes that away, too
    Delete {
        /// The entity: a Cedar uid such as group::"interns", or group::interns
        #[arg(value_parser = uid::parse)]
        entity: Uid,
        /// Of this service alone; default: of the directory
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        #[command(flatten)]
        removal: Removal,
        #[command(flatten)]
        center: CenterArgs,
    },
}

/// How something is deleted that others hang on.
#[derive(Debug, clap::Args)]
pub(crate) struct Removal {
    /// Also delete what hangs on it, in the same revision
    #[arg(long)]
    cascade: bool,
    /// Print the center's answer as JSON
    #[arg(long)]
    json: bool,
}

impl Removal {
    /// Deletes what is at `path`, which people call `shown`.
    pub(crate) fn run(&self, mut admin: Admin, path: &str, shown: &str) -> anyhow::Result<Exit> {
        let answer = super::runtime()?.block_on(admin.remove(path, self.cascade));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                if let Some(refusal) = error.downcast_ref::<Refusal>() {
                    self.show_hanging(refusal);
                }
                return Err(error);
            }
        };
        if self.json {
            style::print_json(&answer)?;
        } else {
            style::print(&text(&answer, shown))?;
        }
        for item in &answer.still_named {
            eprintln!(
                "{} {} `{}` still names {shown}: it forbids, or applies to others too",
                Paint::stderr().warn("warning:"),
                item.kind,
                item.id
            );
        }
        Ok(Exit::Ok)
    }

    fn show_hanging(&self, refusal: &Refusal) {
        for problem in refusal.problems.iter().filter(|_| refusal.status == 409) {
            let (kind, id) = (problem.kind.as_deref(), problem.id.as_deref());
            let (kind, id) = (kind.unwrap_or_default(), id.unwrap_or_default());
            eprintln!("  {kind:<9} {id}: {}", problem.message);
        }
    }
}

fn text(answer: &Changed, shown: &str) -> String {
    let mut out = String::new();
    for change in &answer.changes {
        let mark = if change.op == Op::Delete { "-" } else { "~" };
        out.push_str(&format!("{mark} {:<9} {}\n", change.item.kind, change.item.id));
    }
    out.push_str(&format!("deleted {shown}, revision {}\n", answer.revision));
    out
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    match args.action {
        Action::List { service, json, center } => {
            let mut admin = center.connect()?;
            let path = path(service.as_deref());
            let entities = admin.load_all::<ItemList<EntityBody>>(&path);
            let entities = super::runtime()?.block_on(entities)?;
            if json {
                style::print_json(&json!({ "entities": entities }))?;
                return Ok(Exit::Ok);
            }
            let mut table = Table::new(&["entity", "parents", "brought by"]);
            for entity in &entities {
                let parents: Vec<String> = entity.body.parents.iter().map(Uid::to_string).collect();
                let brought = style::brought(entity.brought).to_owned();
                table.row([entity.id.clone(), parents.join(", "), brought]);
            }
            style::print(&table.render(Paint::stdout()))?;
            Ok(Exit::Ok)
        }
        Action::Delete { entity, service, removal, center } => {
            let entity = entity.to_string();
            let path = format!("{}/{}", path(service.as_deref()), segment(&entity));
            removal.run(center.connect()?, &path, &entity)
        }
    }
}

fn path(service: Option<&str>) -> String {
    match service {
        Some(name) => format!("/v1/services/{}/entities", segment(name)),
        None => "/v1/entities".to_owned(),
    }
}
