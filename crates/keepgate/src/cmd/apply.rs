//! `keepgate apply`: pushes a directory to a center as one revision.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use keepgate_api as api;
use keepgate_policy::bundle::{is_ignored, is_path};

use super::directory;
use crate::admin::{Admin, CenterArgs, Refusal, segment};
use crate::exit::{Exit, usage};
use crate::progress::Progress;
use crate::style::{self, Paint};

/// The files with a fixed name; every `*.cedar` file counts too.
const FIXED_NAMES: [&str; 10] = [
    "service.toml",
    "schema.cedarschema",
    "entities.json",
    "roles.toml",
    "links.toml",
    "routes.toml",
    "openapi.json",
    "openapi.yaml",
    "openapi.yml",
    "limits.toml",
];

/// Push a directory of policies to a center, as one revision
///
/// It replaces what an apply brought. What somebody changed or took away since by command is a
/// conflict: it stays, it is named, and the exit code is 1; --overwrite makes it what the files say.
/// What others brought stays and is listed; --prune removes it. Where the schema, all entities or all
/// roles would go because a file is missing, --prune is wanted, too.
///
/// The directory holds service.toml (at least a name, or pass --service) and, as needed, a *.cedarschema,
/// any *.cedar, *entities.json, roles.toml, routes.toml or openapi.{json,yaml}, limits.toml, also in
/// directories below; and Cedar's JSON forms of schema, policies and linked templates. A missing file
/// means none: deleting a policy file deletes the policy. Nothing changes unless everything is
/// valid; errors are shown as FILE:LINE: message.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate apply ./policy --dry-run --strict
  keepgate apply ./policy --if-revision 12      only if nothing has changed since revision 12
  keepgate apply ./cedar-policies --service orders
  keepgate apply ./policy --center https://center.example.com:7480 --token-file editor.token")]
pub(crate) struct Args {
    /// The directory
    dir: PathBuf,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    /// Land only over this revision (the first line of an exported service.toml has it): refused, with
    /// who changed what, where something of the service or the directory has changed since
    #[arg(long, value_name = "N")]
    if_revision: Option<u64>,
    /// Also remove what others brought and the files do not have, and what a missing file had
    #[arg(long)]
    prune: bool,
    /// Make what somebody changed or took away since the last apply what the files say
    #[arg(long)]
    overwrite: bool,
    /// Refuse what is valid and likely not meant: warnings of Cedar's validator and schema, and others
    #[arg(long)]
    strict: bool,
    /// The service's name, for a directory without service.toml
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Print the center's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let bundle = Bundle::read(&args.dir, args.service.as_deref())?;
    let mut admin = args.center.connect()?;
    let how = How {
        dry_run: args.dry_run,
        strict: args.strict,
        if_revision: args.if_revision,
        prune: args.prune,
        overwrite: args.overwrite,
    };
    let answer = super::runtime()?.block_on(bundle.apply(&mut admin, how));
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let shown =
                error.downcast_ref().is_some_and(|refusal| show_problems(&args.dir, refusal));
            return if shown { Ok(Exit::Failure) } else { Err(error) };
        }
    };
    if args.json {
        style::print_json(&answer)?;
    } else {
        style::print(&changes(&bundle.service, &answer, Paint::stdout()))?;
        show_warnings(&args.dir, &answer);
        show_ignored(&answer);
    }
    show_left(&args.dir, &answer);
    // Not all that the files say is in force.
    let is_partial = !answer.dry_run && !answer.conflicts.is_empty();
    Ok(if is_partial { Exit::Failure } else { Exit::Ok })
}

/// How an apply goes about what others did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How {
    /// Nothing is changed.
    pub(crate) dry_run: bool,
    /// Warnings are refused.
    pub(crate) strict: bool,
    /// It lands only over this revision.
    pub(crate) if_revision: Option<u64>,
    /// What others brought goes.
    pub(crate) prune: bool,
    /// What others changed becomes what the files say.
    pub(crate) overwrite: bool,
}

/// Items that are listed where others brought them.
const STAYS_SHOWN: usize = 20;

/// Shows what an apply has left alone, and what to do about it.
pub(crate) fn show_left(dir: &Path, answer: &api::Applied) {
    let paint = Paint::stderr();
    for conflict in &answer.conflicts {
        let api::Conflict { item, message, file, line, .. } = conflict;
        let place = placed(dir, file.as_deref(), *line);
        let mark = paint.bad("conflict:");
        eprintln!("{mark} {place}: {} `{}`: {message}", item.kind, item.id);
    }
    let count = answer.conflicts_total.unwrap_or(answer.conflicts.len() as u64);
    if count > 0 {
        eprintln!(
            "{} {count} of the files' items were left as somebody made them; put that into the files \
             (`keepgate export`), or pass --overwrite to have what the files say",
            paint.bad("conflict:")
        );
    }
    for stay in answer.stays.iter().take(STAYS_SHOWN) {
        let by = match (stay.brought, stay.source.as_str()) {
            (api::Brought::Command, _) => "a command".to_owned(),
            (api::Brought::Import, _) => "an import".to_owned(),
            (api::Brought::Files, service) => format!("the files of service `{service}`"),
        };
        eprintln!(
            "{} {} {} was brought by {by}",
            paint.faint("stays:"),
            stay.item.kind,
            stay.item.id
        );
    }
    let count = answer.stays_total.unwrap_or(answer.stays.len() as u64);
    let more = count.saturating_sub(STAYS_SHOWN as u64);
    if more > 0 {
        eprintln!("{} {more} more", paint.faint("stays:"));
    }
    if answer.stays.iter().any(|stay| stay.brought != api::Brought::Files) {
        eprintln!("{} --prune removes what no files brought", paint.faint("stays:"));
    }
}

/// `DIR/FILE:LINE`, as far as it is known.
fn placed(dir: &Path, file: Option<&str>, line: Option<u64>) -> String {
    match (file, line) {
        (None, _) => dir.display().to_string(),
        (Some(file), Some(line)) => format!("{}:{line}", dir.join(file).display()),
        (Some(file), None) => dir.join(file).display().to_string(),
    }
}

/// Shows what is allowed and perhaps not meant.
pub(crate) fn show_warnings(dir: &Path, answer: &api::Applied) {
    let paint = Paint::stderr();
    for warning in &answer.changed.warnings {
        let place = placed(dir, warning.file.as_deref(), warning.line);
        let api::Warning { id, message, .. } = warning;
        eprintln!("{} {place}: `{id}`: {message}", paint.warn("warning:"));
    }
}

/// Says which files are nothing to apply.
fn show_ignored(answer: &api::Applied) {
    let Some(first) = answer.ignored.first() else { return };
    let more = match answer.ignored.len() {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    eprintln!("not applied: `{first}`{more}: a request; `keepgate check --request FILE` asks it");
}

/// Shows what is wrong in the files of `dir`; false: the refusal names none.
pub(crate) fn show_problems(dir: &Path, refusal: &Refusal) -> bool {
    if refusal.problems.is_empty() {
        return false;
    }
    let paint = Paint::stderr();
    // What others did, or what would go: not of a line of the files.
    if matches!(refusal.status, 409 | 412) {
        eprintln!("{} {refusal}", paint.bad("error:"));
        for problem in &refusal.problems {
            let item = match (&problem.kind, &problem.id) {
                (Some(kind), Some(id)) => format!("{kind} `{id}`: "),
                _ => String::new(),
            };
            eprintln!("  {item}{}", problem.message);
        }
        eprintln!("{} nothing was changed", paint.bad("error:"));
        return true;
    }
    for problem in &refusal.problems {
        let place = problem.file.as_ref().map_or_else(|| dir.to_owned(), |file| dir.join(file));
        let place = match problem.line {
            Some(line) if line > 0 => format!("{}:{line}:", place.display()),
            _ => format!("{}:", place.display()),
        };
        eprintln!("{} {}", paint.strong(&place), problem.message);
    }
    let count = refusal.problems.len();
    let things = if count == 1 { "problem" } else { "problems" };
    eprintln!("{} {count} {things}; nothing was changed", paint.bad("error:"));
    true
}

/// The files of a directory, as `apply` takes them.
pub(crate) struct Bundle {
    /// The name in `service.toml`.
    pub(crate) service: String,
    /// Name to content.
    pub(crate) files: BTreeMap<String, String>,
}

impl Bundle {
    /// Reads a directory; `service` is the name of a service whose directory has no `service.toml`.
    pub(crate) fn read(dir: &Path, service: Option<&str>) -> anyhow::Result<Bundle> {
        let mut files = directory::read(dir)?;
        if let (Some(name), false) = (service, files.contains_key("service.toml")) {
            files.insert("service.toml".to_owned(), settings_of(name));
        }
        let bundle = Bundle::from_files(files, &dir.display().to_string())?;
        match service {
            Some(name) if name != bundle.service => Err(usage(format!(
                "--service {name}: the directory's service.toml says `{}`",
                bundle.service
            ))),
            _ => Ok(bundle),
        }
    }

    /// From files in memory; `shown` is what to call where they come from.
    pub(crate) fn from_files(
        files: BTreeMap<String, String>,
        shown: &str,
    ) -> anyhow::Result<Bundle> {
        let Some(settings) = files.get("service.toml") else {
            return Err(usage(format!(
                "`{shown}` has no service.toml; it needs one with at least `name = \"..\"`, or pass \
                 --service NAME"
            )));
        };
        let table = settings.trim_start_matches('\u{feff}').parse::<toml::Table>();
        let name = table.ok().and_then(|table| Some(table.get("name")?.as_str()?.to_owned()));
        // Without a name no center can be asked; what is wrong with the other files is said all the same.
        let service = name.ok_or_else(|| {
            let errors = keepgate_policy::bundle::parse(&files).err().unwrap_or_default();
            let lines: Vec<String> = errors.iter().map(|e| format!("{shown}/{e}")).collect();
            usage(lines.join("\n"))
        })?;
        Ok(Bundle { service, files })
    }

    /// Sends it; the center's answer.
    pub(crate) async fn apply(&self, admin: &mut Admin, how: How) -> anyhow::Result<api::Applied> {
        // As `api::Apply`, without a copy of the files.
        #[derive(serde::Serialize)]
        struct Body<'a> {
            files: &'a BTreeMap<String, String>,
        }
        let How { dry_run, strict, if_revision, prune, overwrite } = how;
        let mut path = format!("/v1/services/{}/apply?dry_run={dry_run}", segment(&self.service));
        if let Some(revision) = if_revision {
            path.push_str(&format!("&if_revision={revision}"));
        }
        // A center of an earlier release does not know them.
        for (name, is_set) in [("strict", strict), ("prune", prune), ("overwrite", overwrite)] {
            path.push_str(&if is_set { format!("&{name}=true") } else { String::new() });
        }
        let body = serde_json::to_vec(&Body { files: &self.files }).context("writing the files")?;
        let mut progress = Progress::new();
        let told = |told: &api::Progress| {
            let total = Some(told.total).filter(|total| *total > 0);
            progress.bar(told.done, total, &told.stage);
        };
        admin.post_and_follow(&path, body, told).await
    }
}

/// The `service.toml` of a service that says nothing but its name.
pub(crate) fn settings_of(name: &str) -> String {
    format!("name = {}\n", toml::Value::from(name))
}

/// Whether `export` writes a file of this name, and replaces one.
pub(crate) fn is_bundle_file(name: &str) -> bool {
    const ENDS: [&str; 6] = [
        ".cedar",
        ".cedar.json",
        ".cedarschema",
        ".cedarschema.json",
        ".cedartemplatelinks.json",
        "entities.json",
    ];
    let is_named = ENDS.iter().any(|end| name.ends_with(end));
    FIXED_NAMES.contains(&name) || (is_path(name) && !is_ignored(name) && is_named)
}

/// Requests that the routes serve, and what they mean.
fn samples(answer: &api::Applied, paint: Paint) -> String {
    let mut out = String::new();
    for api::Sample { request, action, resource, .. } in &answer.samples {
        let meaning = paint.faint(&format!("-> {action} on {resource}"));
        out.push_str(&format!("request {request:<44} {meaning}\n"));
    }
    if let Some(total) = answer.routes_total {
        let more = total.saturating_sub(answer.samples.len() as u64);
        out.push_str(&format!("request .. and those of {more} more routes\n"));
    }
    out
}

/// One line a change, then how many.
fn changes(service: &str, answer: &api::Applied, paint: Paint) -> String {
    let api::Applied { changed, dry_run, .. } = answer;
    let revision = changed.revision;
    if changed.changes.is_empty() && changed.kept.is_empty() {
        let samples = samples(answer, paint);
        return format!("{samples}{service}: nothing to change, revision {revision}\n");
    }
    let mut out = String::new();
    let (mut created, mut updated, mut deleted) = (0_u64, 0_u64, 0_u64);
    for change in &changed.changes {
        let mark = match change.op {
            api::Op::Create => {
                created += 1;
                paint.good("+")
            }
            api::Op::Delete => {
                deleted += 1;
                paint.bad("-")
            }
            api::Op::Update => {
                updated += 1;
                paint.warn("~")
            }
        };
        let line = format!("{mark} {:<9} {}", change.item.kind, change.item.id);
        out.push_str(line.trim_end());
        out.push('\n');
        for line in change.diff.iter().flat_map(|diff| diff.lines()) {
            out.push_str(&format!("    {}\n", paint.diff_line(line)));
        }
    }
    for change in &answer.access {
        let api::AccessChange { gained, principal, message } = change;
        let (mark, verb) = match gained {
            true => (paint.good("+"), "gains"),
            false => (paint.bad("-"), "loses"),
        };
        let who = if principal == "any" { "whom it applies to" } else { principal };
        out.push_str(&format!("{mark} access    {who} {verb} {message}\n"));
    }
    // Of many changes the first are listed; the counts are of all.
    let listed = created + updated + deleted;
    created = changed.created.unwrap_or(created);
    updated = changed.updated.unwrap_or(updated);
    deleted = changed.deleted.unwrap_or(deleted);
    let all = created + updated + deleted;
    if all > listed {
        out.push_str(&format!(".. and {} more\n", all - listed));
    }
    for kept in &changed.kept {
        let line = format!(
            "{} {:<9} {} was changed by another meanwhile and stays as it is; apply again to replace it",
            paint.warn("!"),
            kept.kind,
            kept.id
        );
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out.push_str(&samples(answer, paint));
    let count = format!("{created} to create, {updated} to update, {deleted} to delete");
    out.push_str(&if *dry_run {
        format!("{service}: {count}; a dry run, nothing was changed\n")
    } else {
        let count = count.replace(" to create", " created").replace(" to update", " updated");
        let count = count.replace(" to delete", " deleted");
        format!("{service}: {count}, revision {revision}\n")
    });
    out
}
