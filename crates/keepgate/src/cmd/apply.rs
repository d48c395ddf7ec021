//! `keepgate apply`: pushes a directory to a center as one revision.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use keepgate_api as api;

use crate::admin::{Admin, CenterArgs, Refusal, segment};
use crate::exit::{Exit, usage};
use crate::progress::Progress;
use crate::style::{self, Paint};

/// Largest file, in bytes: above what a center takes unless it is told otherwise (`--apply-bytes`).
const MAX_FILE_BYTES: u64 = 1 << 30;
/// Most files.
const MAX_FILES: usize = 1_000;
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
/// The directory holds service.toml (at least a name) and, as needed, schema.cedarschema, any
/// *.cedar, entities.json, roles.toml, routes.toml or openapi.{json,yaml}, limits.toml. A missing
/// file means none: deleting a policy file deletes the policy. Nothing changes unless everything is
/// valid; errors are shown as FILE:LINE: message.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate apply ./policy --dry-run
  keepgate apply ./policy --center https://center.example.com:7480 --token-file editor.token")]
pub(crate) struct Args {
    /// The directory
    dir: PathBuf,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    /// Print the center's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let bundle = Bundle::read(&args.dir)?;
    let mut admin = args.center.connect()?;
    let answer = super::runtime()?.block_on(bundle.apply(&mut admin, args.dry_run));
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
    }
    Ok(Exit::Ok)
}

/// Shows what is allowed and perhaps not meant.
fn show_warnings(dir: &Path, answer: &api::Applied) {
    let paint = Paint::stderr();
    for warning in &answer.warnings {
        let place = match (&warning.file, warning.line) {
            (None, _) => dir.display().to_string(),
            (Some(file), Some(line)) => format!("{}:{line}", dir.join(file).display()),
            (Some(file), None) => dir.join(file).display().to_string(),
        };
        let api::Warning { id, message, .. } = warning;
        eprintln!("{} {place}: `{id}`: {message}", paint.warn("warning:"));
    }
}

/// Shows what is wrong in the files of `dir`; false: the refusal names none.
pub(crate) fn show_problems(dir: &Path, refusal: &Refusal) -> bool {
    if refusal.problems.is_empty() {
        return false;
    }
    let paint = Paint::stderr();
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
    /// Reads a directory. Files of a name that nobody knows are read too: the center refuses them,
    /// so that a misspelt name does not silently leave out what it holds.
    pub(crate) fn read(dir: &Path) -> anyhow::Result<Bundle> {
        let shown = dir.display();
        let entries =
            std::fs::read_dir(dir).with_context(|| format!("reading the directory `{shown}`"))?;
        let mut files = BTreeMap::new();
        for entry in entries {
            let path = entry.with_context(|| format!("reading the directory `{shown}`"))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if is_ignored(name) {
                continue;
            }
            if path.is_dir() {
                return Err(usage(format!(
                    "`{}` is a directory; only files directly in `{shown}` are read: move them up, or hide it by a dot",
                    path.display()
                )));
            }
            if files.len() == MAX_FILES {
                bail!("`{shown}` has more than {MAX_FILES} files");
            }
            let reading = || format!("reading `{}`", path.display());
            let length = std::fs::metadata(&path).with_context(reading)?.len();
            if length > MAX_FILE_BYTES {
                bail!("`{}` has {length} bytes; {MAX_FILE_BYTES} are allowed", path.display());
            }
            files.insert(name.to_owned(), std::fs::read_to_string(&path).with_context(reading)?);
        }
        Bundle::from_files(files, &shown.to_string())
    }

    /// From files in memory; `shown` is what to call where they come from.
    pub(crate) fn from_files(
        files: BTreeMap<String, String>,
        shown: &str,
    ) -> anyhow::Result<Bundle> {
        let Some(settings) = files.get("service.toml") else {
            return Err(usage(format!(
                "`{shown}` has no service.toml; it needs one with at least `name = \"..\"`"
            )));
        };
        let table: toml::Table = settings.parse().map_err(|e: toml::de::Error| {
            usage(format!("{shown}/service.toml: {}", e.message()))
        })?;
        let Some(service) = table.get("name").and_then(toml::Value::as_str) else {
            return Err(usage(format!("{shown}/service.toml: `name = \"..\"` is missing")));
        };
        Ok(Bundle { service: service.to_owned(), files })
    }

    /// Sends it; the center's answer.
    pub(crate) async fn apply(
        &self,
        admin: &mut Admin,
        dry_run: bool,
    ) -> anyhow::Result<api::Applied> {
        // As `api::Apply`, without a copy of the files.
        #[derive(serde::Serialize)]
        struct Body<'a> {
            files: &'a BTreeMap<String, String>,
        }
        let path = format!("/v1/services/{}/apply?dry_run={dry_run}", segment(&self.service));
        let body = serde_json::to_vec(&Body { files: &self.files }).context("writing the files")?;
        let mut progress = Progress::new();
        let told = |told: &api::Progress| {
            let total = Some(told.total).filter(|total| *total > 0);
            progress.bar(told.done, total, &told.stage);
        };
        admin.post_and_follow(&path, body, told).await
    }
}

/// Words for people and what is hidden.
fn is_ignored(name: &str) -> bool {
    name.starts_with('.')
        || name.starts_with("README")
        || Path::new(name).extension().is_some_and(|end| end == "md")
}

/// Whether `apply` takes a file of this name.
pub(crate) fn is_bundle_file(name: &str) -> bool {
    FIXED_NAMES.contains(&name)
        || name
            .strip_suffix(".cedar")
            .is_some_and(|stem| !stem.is_empty() && !stem.starts_with('.'))
}

/// One line a change, then how many.
fn changes(service: &str, answer: &api::Applied, paint: Paint) -> String {
    let api::Applied { changed, dry_run, .. } = answer;
    let revision = changed.revision;
    if changed.changes.is_empty() && changed.kept.is_empty() {
        return format!("{service}: nothing to change, revision {revision}\n");
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
