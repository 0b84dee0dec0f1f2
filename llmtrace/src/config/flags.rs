//! Keys of the file as arguments of the command line: what the command line and the environment
//! do not say, the file does.

use std::{ffi::OsString, path::Path};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use toml::{Table, Value};

use super::{ConfigError, Sections, read};
use crate::cli;

/// Flags that only make sense on a command line.
const NEVER: [&str; 3] = ["config", "help", "version"];

/// The arguments of `argv` and, behind them, those of the file that its `--config` names.
///
/// `matches` is what clap made of `argv`. A flag that `argv` or the environment has replaces that
/// of the file.
pub fn arguments(
    argv: Vec<OsString>,
    command: &Command,
    matches: &ArgMatches,
) -> Result<Vec<OsString>, ConfigError> {
    let Some((name, given)) = matches.subcommand() else { return Ok(argv) };
    let Ok(Some(path)) = given.try_get_one::<std::path::PathBuf>("config") else { return Ok(argv) };
    let Some(subcommand) = command.find_subcommand(name) else { return Ok(argv) };
    let (flags, _) = split(path, &read(path)?)?;
    let mut argv = argv;
    for (key, value) in flags {
        // One file serves several commands: what another one takes is no mistake.
        let Some(arg) = find(subcommand, &key) else { continue };
        let said = given.value_source(arg.get_id().as_str());
        if matches!(said, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        push(&mut argv, arg, &value)
            .map_err(|reason| ConfigError::new(path, &format!("`{key}` {reason}")))?;
    }
    Ok(argv)
}

/// The keys of a file that are flags of some command, and its tables.
pub(super) fn split(
    path: &Path,
    text: &str,
) -> Result<(Vec<(String, Value)>, Sections), ConfigError> {
    let table: Table = text.parse().map_err(|e| ConfigError::new(path, &e))?;
    let command = cli::command();
    let known = |key: &str| command.get_subcommands().any(|sub| find(sub, key).is_some());
    let mut flags = Vec::new();
    let mut rest = Table::new();
    for (key, value) in table {
        // A table is never a flag, even if it has the name of one.
        if !is_table(&value) && known(&key) {
            flags.push((key, value));
        } else {
            rest.insert(key, value);
        }
    }
    let sections = Sections::deserialize_from(rest).map_err(|e| ConfigError::new(path, &e))?;
    Ok((flags, sections))
}

fn is_table(value: &Value) -> bool {
    match value {
        Value::Table(_) => true,
        Value::Array(values) => values.first().is_some_and(Value::is_table),
        _ => false,
    }
}

fn find<'c>(command: &'c Command, key: &str) -> Option<&'c Arg> {
    let key = key.replace('_', "-");
    let named = |arg: &&Arg| {
        arg.get_long() == Some(&key)
            || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&&*key))
    };
    let found = command.get_arguments().find(named)?;
    (!NEVER.contains(&&*key) && !found.is_hide_set()).then_some(found)
}

fn push(argv: &mut Vec<OsString>, arg: &Arg, value: &Value) -> Result<(), String> {
    let long = arg.get_long().unwrap_or_default();
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(n) => Ok(n.to_string()),
        Value::Float(n) => Ok(n.to_string()),
        other => Err(format!("cannot be a {}", other.type_str())),
    };
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(true)) => argv.push(format!("--{long}").into()),
        (ArgAction::SetTrue, Value::Boolean(false)) => {}
        (ArgAction::SetTrue, _) => return Err("is true or false".into()),
        (ArgAction::Append, Value::Array(values)) => {
            for value in values {
                argv.push(format!("--{long}={}", one(value)?).into());
            }
        }
        (_, value) => argv.push(format!("--{long}={}", one(value)?).into()),
    }
    Ok(())
}
