//! `keepgate export`: a service's state as the directory that `apply` takes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use keepgate_api::Export;
use keepgate_policy::model::EntityBody;
use serde::Serialize;

use crate::admin::{CenterArgs, only_service, segment};
use crate::cmd::{apply::is_bundle_file, directory};
use crate::exit::Exit;
use crate::style;

/// Write a service as a directory that apply takes
///
/// Applying what was exported changes nothing. Memberships made by command, keys and tombstones are
/// not in these files; it says how many there are, and --all writes them to DIR/.extras.json, which
/// apply does not read. A backup (`keepgate center backup`) holds everything.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate export ./policy --service orders
  keepgate export ./policy --force && git diff ./policy")]
pub(crate) struct Args {
    /// The directory; created if missing
    dir: PathBuf,
    /// The service; needed only if the center has several
    #[arg(long, env = "KEEPGATE_SERVICE", value_name = "NAME")]
    service: Option<String>,
    /// Write into a directory that has policy files already: they are replaced, and those that
    /// the service does not have are removed
    #[arg(long)]
    force: bool,
    /// Also write what the files do not hold (memberships made by command, hashed keys,
    /// tombstones) to DIR/.extras.json, mode 0600; hashes need an admin token
    #[arg(long)]
    all: bool,
    /// Print the files as one JSON object in place of writing them
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut admin = args.center.connect()?;
    let (answer, extras) = super::runtime()?.block_on(async {
        let service = only_service(&mut admin, args.service.as_deref()).await?;
        let path = format!("/v1/services/{}", segment(&service));
        let files: Export = admin.load(&format!("{path}/export")).await?;
        anyhow::Ok((files, admin.load::<Extras>(&format!("{path}/extras")).await?))
    })?;
    if args.json {
        let extras = args.all.then_some(&extras);
        style::print_json(&Whole { export: &answer, extras })?;
        return Ok(Exit::Ok);
    }
    let count = write(&args.dir, &answer, args.force)?;
    let service = &answer.service;
    style::print(&format!("{service}: {count} files in {}\n", args.dir.display()))?;
    let beside = counted(&extras);
    if args.all {
        let path = args.dir.join(EXTRAS);
        write_extras(&path, &extras)?;
        style::print(&format!("{service}: {beside} in {}\n", path.display()))?;
    } else if !beside.is_empty() {
        eprintln!("not in these files: {beside}; `--all` writes them to {EXTRAS}");
    }
    Ok(Exit::Ok)
}

/// What the files of a service do not hold; the dot hides it from `apply`.
const EXTRAS: &str = ".extras.json";

type Extras = keepgate_api::Extras<EntityBody>;

/// All of it as one JSON object.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    export: &'a Export,
    #[serde(skip_serializing_if = "Option::is_none")]
    extras: Option<&'a Extras>,
}

/// How much of each sort there is; empty: nothing.
fn counted(extras: &Extras) -> String {
    let sorts = [
        (extras.members.len(), "memberships made by command or by other services"),
        (extras.roles.len(), "roles made by command or by other services"),
        (extras.entities.len(), "entities of the directory"),
        (extras.keys.len(), "API keys"),
        (extras.tombstones.len(), "tombstones"),
    ];
    let some = sorts.into_iter().filter(|(count, _)| *count > 0);
    some.map(|(count, words)| format!("{count} {words}")).collect::<Vec<_>>().join(", ")
}

fn write_extras(path: &Path, extras: &Extras) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let writing = || format!("writing `{}`", path.display());
    let draft = path.with_extension("json.new");
    let _ = std::fs::remove_file(&draft);
    let mut file = std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&draft)
        .with_context(writing)?;
    serde_json::to_writer_pretty(&mut file, extras).with_context(writing)?;
    file.write_all(b"\n").with_context(writing)?;
    file.sync_all().with_context(writing)?;
    std::fs::rename(&draft, path).with_context(writing)
}

fn write(dir: &Path, answer: &Export, force: bool) -> anyhow::Result<usize> {
    let files = &answer.files;
    // A center is trusted with policies, not with where files go on this host.
    if let Some(name) = files.keys().find(|name| !is_bundle_file(name)) {
        bail!("the center answered with a file `{name}`, which apply does not know");
    }
    let shown = dir.display();
    std::fs::create_dir_all(dir).with_context(|| format!("making the directory `{shown}`"))?;
    let mut stale = Vec::new();
    for name in directory::names(dir)?.into_iter().filter(|name| is_bundle_file(name)) {
        if !force {
            bail!(
                "`{shown}` has policy files already (`{name}`); choose another directory, or pass --force to replace them"
            );
        }
        if !files.contains_key(&name) {
            stale.push(dir.join(name));
        }
    }
    for (name, content) in files {
        let path = dir.join(name);
        if let Some(above) = path.parent() {
            let making = || format!("making the directory `{}`", above.display());
            std::fs::create_dir_all(above).with_context(making)?;
        }
        std::fs::write(&path, content).with_context(|| format!("writing `{}`", path.display()))?;
    }
    for path in stale {
        std::fs::remove_file(&path).with_context(|| format!("removing `{}`", path.display()))?;
    }
    Ok(files.len())
}
