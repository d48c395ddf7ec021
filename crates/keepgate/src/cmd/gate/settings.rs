//! The gate's bounds and switches as flags, each made from its one definition.

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Arg, ArgAction, ArgMatches, Command};
use keepgate_gate::GateConfig;
use keepgate_gate::config::setting::{GATE, Setting, UPSTREAM, Unit};

/// What was asked for, by the places of the definitions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    gate: Vec<(usize, u64)>,
    upstream: Vec<(usize, u64)>,
}

impl Settings {
    /// Puts them into a configuration.
    pub(crate) fn apply(&self, config: &mut GateConfig) {
        for (setting, value) in self.gate.iter().filter_map(|(at, v)| Some((GATE.get(*at)?, v))) {
            (setting.write)(config, *value);
        }
        let upstream = self.upstream.iter().filter_map(|(at, v)| Some((UPSTREAM.get(*at)?, v)));
        for (setting, value) in upstream {
            (setting.write)(&mut config.pool, *value);
        }
    }
}

/// The flag of a setting. `prefix` stands before its name.
fn arg<T: Default>(setting: &'static Setting<T>, prefix: &str) -> Arg {
    let id = format!("{prefix}{}", setting.name);
    let long = id.replace('_', "-");
    let variable = format!("KEEPGATE_{}", id.to_ascii_uppercase());
    let mut help = setting.help.to_owned();
    if let Some(default) = setting.default {
        help += &format!("; default: {default}");
    }
    let arg =
        Arg::new(id).long(long).env(variable).action(ArgAction::Set).hide_possible_values(true);
    let arg = match setting.unit {
        // `--switch` alone turns it on; a file or a variable may say `false`.
        Unit::Switch => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("BOOL")
            .value_parser(
                PossibleValuesParser::new(["true", "false"]).map(|text| u64::from(text == "true")),
            ),
        unit => arg
            .value_name(match unit {
                Unit::Time => "TIME",
                Unit::Bytes => "SIZE",
                Unit::Count | Unit::Switch => "N",
            })
            .value_parser(move |text: &str| setting.parse(text)),
    };
    let default = match setting.default {
        Some(_) => None,
        None => (setting.read)(&T::default()),
    };
    match default {
        Some(value) => arg.default_value(setting.shown(value)).help(help),
        None => arg.help(help),
    }
}

fn of<T>(settings: &[Setting<T>], prefix: &str, matches: &ArgMatches) -> Vec<(usize, u64)> {
    let value = |setting: &Setting<T>| {
        matches.get_one::<u64>(&format!("{prefix}{}", setting.name)).copied()
    };
    settings.iter().enumerate().filter_map(|(at, s)| Some((at, value(s)?))).collect()
}

impl clap::Args for Settings {
    fn augment_args(command: Command) -> Command {
        let command = command.next_help_heading("Bounds and switches");
        let command = command.args(GATE.iter().map(|setting| arg(setting, "")));
        let upstream = UPSTREAM.iter().map(|setting| arg(setting, "upstream_"));
        command.args(upstream).next_help_heading(None::<&str>)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Settings::augment_args(command)
    }
}

impl clap::FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Settings, clap::Error> {
        let (gate, upstream) = (of(GATE, "", matches), of(UPSTREAM, "upstream_", matches));
        Ok(Settings { gate, upstream })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Settings::from_arg_matches(matches)?;
        Ok(())
    }
}
