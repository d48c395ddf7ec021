//! Where a value comes from: flag over environment over file over default.
//!
//! The file (`--config F` or `KEEPGATE_CONFIG`, TOML) has the flags' long names as keys, with `-` or
//! `_`. Its tables `[[site]]` and `[upstream.NAME]` are the gate's alone, which reads them itself. A key at
//! the top is meant for every command that has such a flag, a key in a table (`[up]`,
//! `[token.create]`) for that command, and the latter wins. It is read before the arguments are
//! parsed and takes the place of the built-in defaults, so each value passes the same parser as
//! the flag does, and a bad one is reported with its culprit: the flag, the variable or the key.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, CommandFactory as _, FromArgMatches as _};
use keepgate_gate::config::file;

use crate::cmd::{self, Cli};
use crate::exit::{self, Exit};

mod gate_file;

/// Largest configuration file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Deepest command path, `keepgate` itself included; bounds the recursion.
const MAX_DEPTH: usize = 5;

/// Why parsing ended without a command to run.
pub(crate) enum Stop {
    /// clap's own: an error, or `--help` and `--version`. With the culprit, where not the flag.
    Clap(Box<clap::Error>, Option<String>),
    /// The configuration file.
    File(String),
}

impl Stop {
    /// In words, without colors.
    pub(crate) fn text(&self) -> String {
        match self {
            Stop::Clap(error, None) => error.to_string(),
            Stop::Clap(error, Some(culprit)) => {
                format!("{error}\nThe value comes from {culprit}.")
            }
            Stop::File(text) => text.clone(),
        }
    }

    /// Prints it where it belongs; says which exit code it means.
    pub(crate) fn report(&self) -> Exit {
        match self {
            Stop::Clap(error, culprit) => {
                // Nothing can be done about a stream that is gone.
                let _ = error.print();
                if !error.use_stderr() {
                    return Exit::Ok;
                }
                if let Some(culprit) = culprit {
                    eprintln!("\nThe value comes from {culprit}.");
                }
                Exit::Usage
            }
            Stop::File(text) => exit::report(&exit::usage(text.clone())),
        }
    }
}

/// The whole command line. Help texts name environment variables, never their values.
pub(crate) fn command_line() -> Command {
    fn hide(command: Command, depth: usize) -> Command {
        let command = command.mut_args(|arg| arg.hide_env_values(true));
        if depth == MAX_DEPTH {
            command
        } else {
            command.mut_subcommands(|sub| hide(sub, depth + 1))
        }
    }
    hide(Cli::command(), 0)
}

/// The command to run.
pub(crate) fn parse(argv: Vec<OsString>) -> Result<Cli, Stop> {
    let mut command = command_line();
    let mut from_file = Vec::new();
    let mut with_sites = None;
    if let Some((path, culprit)) = config_path(&argv) {
        let (text, mut table) = read(&path, culprit).map_err(Stop::File)?;
        let name = path.display().to_string();
        if file::has_sites(&table) {
            let is_gate = argv.iter().any(|word| word == "gate");
            if is_gate && let Some(faults) = gate_file::faults(&text, &path, &command) {
                return Err(Stop::File(faults));
            }
            table.remove("site");
            table.remove("upstream");
            command = gate_file::with_sites(command, &path);
            with_sites = Some(path.display().to_string());
        }
        let table = hyphenated(table, &name).map_err(Stop::File)?;
        command = with_file(command, &table, &name, &mut from_file).map_err(Stop::File)?;
    }
    let with_culprit = |error: clap::Error| {
        let culprit = culprit(&error, &argv, &from_file, &command_line());
        Stop::Clap(Box::new(error), culprit)
    };
    let matches = command.clone().try_get_matches_from(&argv).map_err(with_culprit)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|e| with_culprit(e.format(&mut command)))?;
    match with_sites {
        Some(file) if matches!(cli.command, cmd::Command::Up(_)) => Err(Stop::File(format!(
            "{file}: `keepgate up` has one site, and the file has [[site]] or [upstream] tables; run \
             `keepgate center` and `keepgate gate --config {file}`"
        ))),
        _ => Ok(cli),
    }
}

/// The configuration file of this process, if it has one.
pub(crate) fn file() -> Option<PathBuf> {
    let argv: Vec<OsString> = std::env::args_os().collect();
    config_path(&argv).map(|(path, _)| path)
}

/// The configuration file's path and who named it. Looked for by hand, because what the file says
/// decides how the rest is parsed.
fn config_path(argv: &[OsString]) -> Option<(PathBuf, &'static str)> {
    let mut words = argv.iter().skip(1).take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        if word == "--config" {
            return words.next().map(|path| (path.into(), "--config"));
        }
        if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--config=")) {
            return Some((path.into(), "--config"));
        }
    }
    let path = std::env::var_os("KEEPGATE_CONFIG").filter(|path| !path.is_empty())?;
    Some((path.into(), "KEEPGATE_CONFIG"))
}

/// The file's text, and what it says.
fn read(path: &Path, culprit: &str) -> Result<(String, toml::Table), String> {
    let shown = path.display();
    let length = std::fs::metadata(path)
        .map_err(|e| format!("cannot read the configuration file `{shown}` ({culprit}): {e}"))?
        .len();
    if length > MAX_FILE_BYTES {
        return Err(format!(
            "the configuration file `{shown}` ({culprit}) has {length} bytes; {MAX_FILE_BYTES} are allowed"
        ));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|e| format!("cannot read the configuration file `{shown}` ({culprit}): {e}"))?;
    match text.parse() {
        Ok(table) => Ok((text, table)),
        Err(e) => {
            let e: toml::de::Error = e;
            let line = e.span().map_or(1, |span| {
                1 + text.bytes().take(span.start).filter(|b| *b == b'\n').count()
            });
            Err(format!("{shown}:{line}: {}", e.message()))
        }
    }
}

/// With keys as flags are written: `token_file` is `token-file`.
fn hyphenated(table: toml::Table, file: &str) -> Result<toml::Table, String> {
    let mut all = toml::Table::new();
    for (key, value) in table {
        let value = match value {
            toml::Value::Table(below) => {
                let mut flat = toml::Table::new();
                for (name, value) in below {
                    // A table of a command below this one.
                    let value = match value {
                        toml::Value::Table(below) => toml::Value::Table(hyphenated(below, file)?),
                        other => other,
                    };
                    put(&mut flat, &name, value, file)?;
                }
                toml::Value::Table(flat)
            }
            other => other,
        };
        put(&mut all, &key, value, file)?;
    }
    Ok(all)
}

fn put(table: &mut toml::Table, key: &str, value: toml::Value, file: &str) -> Result<(), String> {
    let flag = key.replace('_', "-");
    if table.insert(flag.clone(), value).is_some() {
        return Err(format!("{file}: `{flag}` is there twice, with `-` and with `_`; leave one"));
    }
    Ok(())
}

/// A value that the file gave to a flag.
struct FromFile {
    flag: String,
    value: String,
    /// `F, key `up.listen``
    place: String,
}

/// The command with the file's values in place of the defaults.
fn with_file(
    command: Command,
    table: &toml::Table,
    file: &str,
    taken: &mut Vec<FromFile>,
) -> Result<Command, String> {
    let mut known = BTreeSet::new();
    flags_below(&command, &mut known, 0);
    for (key, value) in table {
        if !value.is_table() && !known.contains(key) {
            return Err(format!("{file}: no command has a flag `{key}`"));
        }
    }
    let everywhere: toml::Table =
        table.iter().filter(|(_, v)| !v.is_table()).map(|(k, v)| (k.clone(), v.clone())).collect();
    let tables = table.iter().filter(|(_, v)| v.is_table()).map(|(k, v)| (k.clone(), v.clone()));
    fill(command, &everywhere, &tables.collect(), file, "", taken, 0)
}

fn flags_below(command: &Command, known: &mut BTreeSet<String>, depth: usize) {
    known.extend(command.get_arguments().filter_map(Arg::get_long).map(str::to_owned));
    if depth < MAX_DEPTH {
        command.get_subcommands().for_each(|sub| flags_below(sub, known, depth + 1));
    }
}

fn fill(
    mut command: Command,
    everywhere: &toml::Table,
    here: &toml::Table,
    file: &str,
    path: &str,
    taken: &mut Vec<FromFile>,
    depth: usize,
) -> Result<Command, String> {
    let subcommands: Vec<String> =
        command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let flags: Vec<(clap::Id, String)> = command
        .get_arguments()
        .filter_map(|arg| Some((arg.get_id().clone(), arg.get_long()?.to_owned())))
        .collect();
    for key in here.keys() {
        let known = subcommands.contains(key) || flags.iter().any(|(_, long)| long == key);
        if !known {
            let place = if path.is_empty() {
                "there is no command".into()
            } else {
                format!("`keepgate {path}` has no flag")
            };
            return Err(format!("{file}: {place} `{key}`"));
        }
    }
    for (id, long) in flags {
        let (value, key) = match (here.get(&long), everywhere.get(&long)) {
            (Some(value), _) => (value, format!("{}.{long}", path.replace(' ', "."))),
            (None, Some(value)) => (value, long.clone()),
            (None, None) => continue,
        };
        // A token in the environment is nearer than a token file named in the file.
        if long == "token-file" && std::env::var_os("KEEPGATE_TOKEN").is_some() {
            continue;
        }
        let mut values = texts(value).ok_or_else(|| {
            format!("{file}: expected a string, number, true, false or a list of those for `{key}`")
        })?;
        if let Some(wrong) = too_many(&command, id.as_str(), value) {
            if long != "center" || here.contains_key(&long) {
                return Err(format!("{file}: `{key}`: {wrong}"));
            }
            // URLs for gates and commands. `up` has another flag of this name, and refuses the first
            // of them when it is run.
            values.truncate(1);
        }
        let place = format!("{file}, key `{key}`");
        for value in &values {
            taken.push(FromFile { flag: long.clone(), value: value.clone(), place: place.clone() });
        }
        command = command.mut_arg(id, |arg| arg.required(false).default_values(values));
    }
    if depth == MAX_DEPTH {
        return Ok(command);
    }
    for name in subcommands {
        let empty = toml::Table::new();
        let below = match here.get(&name) {
            None => &empty,
            Some(toml::Value::Table(below)) => below,
            Some(_) => return Err(format!("{file}: expected a table for the command `{name}`")),
        };
        let path = if path.is_empty() { name.clone() } else { format!("{path} {name}") };
        let mut failed = None;
        command = command.mut_subcommand(&name, |sub| {
            fill(sub.clone(), everywhere, below, file, &path, taken, depth + 1).unwrap_or_else(
                |error| {
                    failed = Some(error);
                    sub
                },
            )
        });
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(command)
}

/// What is wrong with a list for a flag that has one value; none: nothing.
fn too_many(command: &Command, id: &str, value: &toml::Value) -> Option<String> {
    let toml::Value::Array(values) = value else { return None };
    let arg = command.get_arguments().find(|arg| arg.get_id() == id)?;
    let takes_several =
        matches!(arg.get_action(), ArgAction::Append) || arg.get_value_delimiter().is_some();
    if takes_several || values.len() == 1 {
        return None;
    }
    Some(format!("expected one value, got a list of {}", values.len()))
}

fn texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Float(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(truth) => Some(vec![truth.to_string()]),
        toml::Value::Array(values) => {
            let lists: Option<Vec<_>> = values.iter().map(texts).collect();
            lists.map(|lists| lists.into_iter().flatten().collect())
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// Who gave the value that clap refuses, where it was not the flag itself.
fn culprit(
    error: &clap::Error,
    argv: &[OsString],
    from_file: &[FromFile],
    command: &Command,
) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return None;
    }
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg)?;
    let flag = flag.trim_start_matches("--").split([' ', '=']).next()?.to_owned();
    let value = text(ContextKind::InvalidValue)?;
    let long = format!("--{flag}");
    let given = argv.iter().any(|word| {
        *word == *long || word.to_str().is_some_and(|word| word.starts_with(&format!("{long}=")))
    });
    if given {
        return None;
    }
    let mut variables = BTreeSet::new();
    variables_of(command, &flag, &mut variables, 0);
    let variable = variables
        .into_iter()
        .find(|variable| std::env::var_os(variable).is_some_and(|set| set == *OsStr::new(&value)));
    if let Some(variable) = variable {
        return Some(format!("the environment variable {variable}"));
    }
    let entry = from_file.iter().find(|entry| entry.flag == flag && entry.value == value)?;
    Some(format!("the configuration file {}", entry.place))
}

fn variables_of(command: &Command, flag: &str, found: &mut BTreeSet<String>, depth: usize) {
    let arguments = command.get_arguments().filter(|arg| arg.get_long() == Some(flag));
    found.extend(arguments.filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned())));
    if depth < MAX_DEPTH {
        command.get_subcommands().for_each(|sub| variables_of(sub, flag, found, depth + 1));
    }
}
