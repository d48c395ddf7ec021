//! `keepgate export`: a service's state as the directory that `apply` takes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::admin::{CenterArgs, only_service, segment, text};
use crate::cmd::apply::is_bundle_file;
use crate::exit::Exit;
use crate::style;

/// Write a service as a directory that apply takes
///
/// Applying what was exported changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate export ./policy --service orders
  keepgate export ./policy --force && git diff ./policy")]
pub(crate) struct Args {
    /// The directory; made if it is not there
    dir: PathBuf,
    /// The service; needed only if the center has several
    #[arg(long, env = "KEEPGATE_SERVICE", value_name = "NAME")]
    service: Option<String>,
    /// Write into a directory that has policy files already: they are replaced, and those that
    /// the service does not have are removed
    #[arg(long)]
    force: bool,
    /// Print the files as one JSON object in place of writing them
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut admin = args.center.connect()?;
    let answer = super::runtime()?.block_on(async {
        let service = only_service(&mut admin, args.service.as_deref()).await?;
        admin.load(&format!("/v1/services/{}/export", segment(&service))).await
    })?;
    if args.json {
        style::print_json(&answer)?;
        return Ok(Exit::Ok);
    }
    let count = write(&args.dir, &answer, args.force)?;
    let service = text(&answer, "service");
    style::print(&format!("{service}: {count} files in {}\n", args.dir.display()))?;
    Ok(Exit::Ok)
}

fn write(dir: &Path, answer: &Value, force: bool) -> anyhow::Result<usize> {
    let files =
        answer.get("files").and_then(Value::as_object).context("the answer has no files")?;
    // A center is trusted with policies, not with where files go on this host.
    if let Some(name) =
        files.keys().find(|name| !is_bundle_file(name) || name.contains(['/', '\\']))
    {
        bail!("the center answered with a file `{name}`, which apply does not know");
    }
    let shown = dir.display();
    std::fs::create_dir_all(dir).with_context(|| format!("making the directory `{shown}`"))?;
    let mut stale = Vec::new();
    for entry in
        std::fs::read_dir(dir).with_context(|| format!("reading the directory `{shown}`"))?
    {
        let path = entry.with_context(|| format!("reading the directory `{shown}`"))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_bundle_file(name) {
            if !force {
                bail!(
                    "`{shown}` has policy files already (`{name}`); choose another directory, or pass --force to replace them"
                );
            }
            if !files.contains_key(name) {
                stale.push(path);
            }
        }
    }
    for (name, content) in files {
        let content = content.as_str().with_context(|| format!("the file `{name}` is no text"))?;
        let path = dir.join(name);
        std::fs::write(&path, content).with_context(|| format!("writing `{}`", path.display()))?;
    }
    for path in stale {
        std::fs::remove_file(&path).with_context(|| format!("removing `{}`", path.display()))?;
    }
    Ok(files.len())
}
