//! `keepgate center backup`, `restore`, `adopt`, `recover`, `accept-loss`, `move`; `token` is next door.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use keepgate_center::store::{Address, PostgresStore};
use keepgate_center::upkeep::{self, Difference, Effect, Kept, Place, Prepared, Succeeded};
use serde_json::json;

use crate::admin::DATA_DEFAULT;
use crate::exit::{Exit, usage};
use crate::style::{self, Paint};

/// Differences shown without --all.
const SHOWN: usize = 50;

/// Where the store is.
#[derive(Debug, clap::Args)]
pub(crate) struct DataArgs {
    /// Where the store is, unless it is in a database
    #[arg(long, env = "KEEPGATE_DATA", value_name = "DIR", default_value = DATA_DEFAULT)]
    pub(super) data: PathBuf,
    #[command(flatten)]
    pub(super) database: DatabaseArgs,
    /// Print the result as one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// A store in PostgreSQL.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct DatabaseArgs {
    /// The PostgreSQL database with the store: postgres://USER@HOST[,HOST..]/DATABASE?password_file=FILE
    #[arg(long, env = "KEEPGATE_DATABASE", value_name = "URL", hide_env_values = true)]
    database: Option<String>,
}

impl DatabaseArgs {
    /// Where it is; none: in the data directory.
    pub(super) fn address(&self) -> anyhow::Result<Option<Box<Address>>> {
        self.database.as_deref().map(address).transpose()
    }
}

fn address(url: &str) -> anyhow::Result<Box<Address>> {
    Address::parse(url).map(Box::new).map_err(|error| usage(keepgate_observe::chain(&error)))
}

impl DataArgs {
    pub(super) fn place(&self) -> anyhow::Result<Place> {
        Ok(match self.database.address()? {
            Some(address) => Place::Database { address, data: self.data.clone() },
            None => Place::Dir(self.data.clone()),
        })
    }
}

/// What can be done to a store.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Upkeep {
    /// Write the whole store to one new file; the center may be running
    ///
    /// The file has a checksum and a format of its own: any later release, and any engine, can
    /// restore it. It holds hashes of tokens and keys, and is made with mode 0600.
    Backup {
        /// The file; it must not exist
        file: PathBuf,
        #[command(flatten)]
        place: DataArgs,
    },
    /// Replace the store with a backup
    ///
    /// What becomes permitted again is listed first. The restored store is a new history that
    /// continues above every revision ever told, so gates follow it. The center must be stopped.
    Restore {
        /// The backup
        file: PathBuf,
        /// Restore even if the present store is readable and differs
        #[arg(long)]
        accept_older: bool,
        /// List every difference
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        place: DataArgs,
    },
    /// Make a copied data directory a center of its own
    ///
    /// The copy gets a new history, with the one it was copied from as its ancestor.
    Adopt {
        /// Where the copy is
        #[arg(long, env = "KEEPGATE_DATA", value_name = "DIR", default_value = DATA_DEFAULT)]
        data: PathBuf,
        /// Print the result as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Bring back what a gate's replica still holds
    ///
    /// Copies the services that the gate followed, and the directory, from a replica's file; never
    /// tokens. Without --yes it only shows what would change.
    Recover {
        /// The replica's file, taken from the gate's data directory
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Make the change
        #[arg(long)]
        yes: bool,
        /// List every difference
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        place: DataArgs,
    },
    /// Continue without acknowledged state that is lost
    ///
    /// The store gets a new history, with the old one as its ancestor. What was lost stays lost:
    /// what was revoked in it is permitted again. Where the database itself is gone, the store is empty
    /// and permits nothing, and `admin.token` is new.
    AcceptLoss {
        #[command(flatten)]
        place: DataArgs,
    },
    /// Make an admin token and print it, alone, on stdout: for a lost one
    ///
    /// Everybody who may read and write the data directory may make one. A center that runs on the directory
    /// is asked through its socket there, DIR/center.sock. If none runs, the command holds the store
    /// while it writes the token. Both are audited, as `host`.
    Token(super::token::Args),
    /// Move the store to another directory or database; the old one can no longer be served
    ///
    /// From SQLite to PostgreSQL, and back. No center may run on either place. Gates follow the successor.
    Move {
        /// Where the store is: a data directory, or postgres://..; default: --data or --database
        #[arg(long, value_name = "DIR|URL")]
        from: Option<String>,
        /// Where it goes: a data directory without a store, or postgres://..
        #[arg(long, value_name = "DIR|URL")]
        to: String,
        #[command(flatten)]
        place: DataArgs,
    },
    /// Bring the tables of a database to this release's layout
    ///
    /// A center does so when it starts. Layouts go forward only. Several at once take turns.
    Migrate {
        /// Only list the steps
        #[arg(long)]
        dry_run: bool,
        /// Print the result as one JSON object
        #[arg(long)]
        json: bool,
        /// The PostgreSQL database with the store
        #[arg(long, env = "KEEPGATE_DATABASE", value_name = "URL", hide_env_values = true)]
        database: String,
    },
}

pub(crate) fn run(upkeep: Upkeep) -> anyhow::Result<Exit> {
    let now = unix_ms()?;
    match upkeep {
        Upkeep::Token(args) => super::token::run(args),
        Upkeep::Backup { file, place } => backup(&file, &place, now),
        Upkeep::Restore { file, accept_older, all, place } => {
            let at = place.place()?;
            let prepared = upkeep::restore(at.clone(), &file)?;
            if !place.json {
                let from = format!("the backup `{}`", file.display());
                style::print(&told(&prepared, &from, all, Paint::stdout()))?;
            }
            if prepared.is_older() && !accept_older {
                anyhow::bail!(
                    "the store in `{at}` can be read and differs from the backup: see above what would be permitted again, \
                     then pass --accept-older to replace it; nothing was changed"
                );
            }
            done(&prepared.commit(now)?, "restored", &at, place.json)
        }
        Upkeep::Adopt { data, json } => {
            let made = upkeep::adopt(&data, now)?;
            done(&made, "adopted", &Place::Dir(data), json)
        }
        Upkeep::Recover { from, yes, all, place } => {
            let at = place.place()?;
            let prepared = upkeep::recover(at.clone(), kept(&from)?)?;
            if !place.json {
                let from = format!("the replica `{}`", from.display());
                style::print(&told(&prepared, &from, all, Paint::stdout()))?;
            }
            if !yes {
                style::print("nothing was changed; pass --yes to do it\n")?;
                return Ok(Exit::Failure);
            }
            done(&prepared.commit(now)?, "recovered", &at, place.json)
        }
        Upkeep::AcceptLoss { place } => {
            let at = place.place()?;
            let made = upkeep::accept_loss(at.clone(), now)?;
            if made.before.is_none() && !place.json {
                style::print(
                    "no database was left: the store is empty, and `admin.token` is new\n",
                )?;
            }
            done(&made, "accepted", &at, place.json)
        }
        Upkeep::Move { from, to, place } => {
            let named = |text: &str| -> anyhow::Result<Place> {
                if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
                    return Ok(Place::Dir(PathBuf::from(text)));
                }
                Ok(Place::Database { address: address(text)?, data: place.data.clone() })
            };
            let from = from.as_deref().map_or_else(|| place.place(), named)?;
            let to = named(&to)?;
            let moved = upkeep::move_to(from, to.clone(), now)?;
            done(&moved, "moved", &to, place.json)
        }
        Upkeep::Migrate { dry_run, json, database } => {
            migrate(&*address(&database)?, dry_run, json)
        }
    }
}

fn migrate(address: &Address, dry_run: bool, json: bool) -> anyhow::Result<Exit> {
    let using = || format!("using {address}");
    let steps = PostgresStore::pending(address).with_context(using)?;
    if !dry_run && !steps.is_empty() {
        PostgresStore::open(address).with_context(using)?;
    }
    if json {
        style::print_json(&json!({ "steps": steps, "done": !dry_run }))?;
        return Ok(Exit::Ok);
    }
    let mut out = String::new();
    for step in &steps {
        out += &format!("{}{step}\n", if dry_run { "would do: " } else { "done: " });
    }
    if steps.is_empty() {
        out += "nothing is to be done: the tables have this release's layout\n";
    }
    style::print(&out)?;
    Ok(Exit::Ok)
}

fn unix_ms() -> anyhow::Result<u64> {
    let since =
        SystemTime::now().duration_since(UNIX_EPOCH).context("this host's clock is before 1970")?;
    Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn backup(file: &Path, place: &DataArgs, now: u64) -> anyhow::Result<Exit> {
    let made = upkeep::backup(place.place()?, file, now)?;
    let (contents, history) = (made.contents, made.history);
    if place.json {
        style::print_json(&json!({
            "file": made.file.display().to_string(),
            "history": history.to_string(),
            "revision": made.revision,
            "items": contents.items,
            "tokens": contents.tokens,
            "tombstones": contents.tombstones,
            "audit": contents.audit,
        }))?;
    } else {
        style::print(&format!(
            "backed up revision {}@{} to {}: {} items, {} tokens, {} tombstones, {} audit rows\n",
            made.revision,
            history.short(),
            made.file.display(),
            contents.items,
            contents.tokens,
            contents.tombstones,
            contents.audit
        ))?;
    }
    Ok(Exit::Ok)
}

/// The replica's own reader checks its checksums; what it holds is then judged by the center.
fn kept(file: &Path) -> anyhow::Result<Kept> {
    let read = keepgate_client::replica::read_kept(file)
        .with_context(|| format!("reading the replica `{}`", file.display()))?;
    Ok(Kept {
        mark: read.mark,
        services: read.services,
        revision: read.snapshot.revision,
        items: read.snapshot.items,
    })
}

fn told(prepared: &Prepared, from: &str, all: bool, paint: Paint) -> String {
    let (history, revision) = prepared.source;
    let mut out = format!("{from} holds revision {revision}@{}\n", history.short());
    match prepared.before {
        Some((history, revision)) => {
            out += &format!("the store holds revision {revision}@{}\n", history.short());
        }
        None => out += "there is no readable store\n",
    }
    if let Some(said) = &prepared.said {
        out += &format!("the store is not served: {said}\n");
    }
    let again: Vec<&Difference> = of(prepared, |effect| effect == Effect::PermitsAgain);
    let rest: Vec<&Difference> = of(prepared, |effect| effect != Effect::PermitsAgain);
    if prepared.before.is_some() {
        out += &format!("{} items are permitted again or no longer limited:\n", again.len());
        out += &lines(&again, all, |line| paint.bad(line));
        out += &format!("{} other differences:\n", rest.len());
        out += &lines(&rest, all, |line| paint.warn(line));
    }
    out
}

fn of(prepared: &Prepared, wanted: impl Fn(Effect) -> bool) -> Vec<&Difference> {
    prepared.differences.iter().filter(|difference| wanted(difference.effect)).collect()
}

fn lines(differences: &[&Difference], all: bool, paint: impl Fn(&str) -> String) -> String {
    let shown = if all { differences.len() } else { SHOWN };
    let mut out = String::new();
    for difference in differences.iter().take(shown) {
        out += &format!("  {}\n", paint(&difference.to_string()));
    }
    if differences.len() > shown {
        out += &format!("  .. and {} more; --all lists them\n", differences.len() - shown);
    }
    out
}

fn done(made: &Succeeded, what: &str, place: &Place, json: bool) -> anyhow::Result<Exit> {
    if json {
        style::print_json(&json!({
            "done": what,
            "history": made.history.to_string(),
            "revision": made.revision,
            "before": made.before.map(|(history, revision)| json!({
                "history": history.to_string(),
                "revision": revision,
            })),
        }))?;
        return Ok(Exit::Ok);
    }
    style::print(&format!(
        "{what}: history {}, revision {}; start it with `{}`\n",
        made.history.short(),
        made.revision,
        place.start_command()
    ))?;
    Ok(Exit::Ok)
}
