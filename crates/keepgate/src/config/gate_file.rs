//! A file with sites: all that is wrong with it at once, in `[gate]` and in its other tables.

use std::path::Path;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, Command};
use keepgate_client::pool::PoolConfig;
use keepgate_gate::config::file::{self, Fault};

use super::{texts, too_many};

/// What is wrong, a line each; none: nothing that the file alone shows.
pub(super) fn faults(text: &str, path: &Path, command: &Command) -> Option<String> {
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut faults = match file::read(text, directory, &PoolConfig::default()) {
        Ok(_) => Vec::new(),
        Err(faults) => faults,
    };
    if let (Ok(table), Some(gate)) = (text.parse::<toml::Table>(), command.find_subcommand("gate"))
        && let Some(toml::Value::Table(table)) = table.get("gate")
    {
        faults.extend(table.iter().filter_map(|(key, value)| of_gate(text, gate, key, value)));
    }
    faults.sort_by_key(|fault| fault.line);
    let shown = path.display().to_string();
    let lines: Vec<String> = faults.iter().map(|fault| fault.shown(&shown)).collect();
    (!lines.is_empty()).then(|| lines.join("\nerror: "))
}

/// What is wrong with one key of `[gate]`.
fn of_gate(text: &str, gate: &Command, key: &str, value: &toml::Value) -> Option<Fault> {
    let flag = key.replace('_', "-");
    let fault = |wrong: String| {
        let line = line_of(text, key);
        Some(Fault { line, table: "[gate]".to_owned(), key: key.to_owned(), wrong })
    };
    let Some(arg) = gate.get_arguments().find(|arg| arg.get_long() == Some(flag.as_str())) else {
        let flags =
            gate.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|a| a.get_long());
        let mut flags: Vec<&str> = flags.collect();
        flags.sort_by_key(|known| strsim::damerau_levenshtein(known, &flag));
        return fault(match flags.first() {
            Some(near) if strsim::damerau_levenshtein(near, &flag) <= 3 => {
                format!("there is no such key; did you mean `{}`?", near.replace('-', "_"))
            }
            _ => "there is no such key; `keepgate gate --help` lists the flags, which are the keys"
                .to_owned(),
        });
    };
    if flag == "service" || flag == "upstream" {
        return fault("is for a gate with one site; the [[site]] tables name it here".to_owned());
    }
    if let Some(wrong) = too_many(gate, arg.get_id().as_str(), value) {
        return fault(wrong);
    }
    let Some(values) = texts(value) else {
        return fault("expected a text, number, true, false or a list of those".to_owned());
    };
    // Each value by itself, by the parser that the flag has.
    let takes_none = matches!(arg.get_action(), ArgAction::SetTrue);
    for value in values {
        if takes_none {
            if value != "true" && value != "false" {
                return fault(format!("expected true or false, got `{value}`"));
            }
            continue;
        }
        // What other flags it needs is told once all are read.
        let alone =
            gate.clone().no_binary_name(true).mut_args(|arg| arg.required(false).env(None::<&str>));
        let parsed = alone.try_get_matches_from([format!("--{flag}={value}")]);
        if let Err(error) = parsed
            && matches!(
                error.kind(),
                clap::error::ErrorKind::ValueValidation | clap::error::ErrorKind::InvalidValue
            )
        {
            return fault(told(&error, &value));
        }
    }
    None
}

/// The reason in an error of clap's.
fn told(error: &clap::Error, value: &str) -> String {
    use std::error::Error as _;
    if let Some(source) = error.source() {
        let text = source.to_string();
        return if text.contains(value) { text } else { format!("{text}, got `{value}`") };
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) => {
            format!("expected one of `{}`, got `{value}`", valid.join("`, `"))
        }
        _ => format!("`{value}` cannot be used"),
    }
}

/// The line of a key of `[gate]`, from 1; where it cannot be told, that of the table.
fn line_of(text: &str, key: &str) -> usize {
    let mut table = 1;
    let mut is_in = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            is_in = line.starts_with("[gate]");
            if is_in {
                table = number + 1;
            }
        } else if is_in
            && let Some(rest) = line.trim_start_matches(['"', '\'']).strip_prefix(key)
            && rest.trim_start_matches(['"', '\'']).trim_start().starts_with('=')
        {
            return number + 1;
        }
    }
    table
}

/// The gate's command for a file with sites: they take the place of `--service` and `--upstream`.
pub(super) fn with_sites(command: Command, path: &Path) -> Command {
    let path = path.as_os_str().to_owned();
    command.mut_subcommand("gate", |gate| {
        gate.mut_arg("service", |arg| arg.required(false))
            .mut_arg("upstream", |arg| arg.required(false))
            .mut_arg("sites", |arg| arg.default_value(path))
    })
}
