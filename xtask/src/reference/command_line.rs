//! Commands and flags in the reference, from the same types as `--help`.

use super::policy::cell;
use clap::{Arg, Command};

/// A section for each command, after the flags that all of them have.
pub(super) fn commands(all: &Command) -> String {
    let mut text = format!("### Flags of every command\n\n{}", flags(all, &|_| true));
    for command in all.get_subcommands() {
        text += &section(all, command, "cargo xtask", 3);
    }
    text
}

fn section(all: &Command, command: &Command, before: &str, level: usize) -> String {
    let name = format!("{before} {}", command.get_name());
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    let mut text = format!("\n{} `{}`\n\n{}\n", "#".repeat(level), name, sentence(&about));
    // The commands that build have the flags of `build`, which are listed once.
    let shared = all.find_subcommand("build").filter(|_| command.get_name().starts_with("build-"));
    if shared.is_some() {
        text += "\nThe flags of `cargo xtask build`.\n";
    }
    let is_shared =
        |arg: &Arg| shared.is_some_and(|build| build.get_arguments().any(|other| other.get_id() == arg.get_id()));
    let table = flags(command, &|arg| !is_shared(arg));
    if !table.is_empty() {
        text += &format!("\n{table}");
    }
    for sub in command.get_subcommands() {
        text += &section(all, sub, &name, level + 1);
    }
    text
}

/// The first paragraph as a sentence, and the others as they are.
fn sentence(about: &str) -> String {
    match about.split_once("\n\n") {
        Some((first, rest)) => format!("{}.\n\n{}", first.trim_end_matches('.'), rest.trim()),
        None => format!("{}.", about.trim_end_matches('.')),
    }
}

/// A row for each argument; empty where a command has none.
fn flags(command: &Command, listed: &dyn Fn(&Arg) -> bool) -> String {
    let rows: String = command.get_arguments().filter(|arg| !arg.is_hide_set() && listed(arg)).map(row).collect();
    if rows.is_empty() { rows } else { format!("| argument | default | meaning |\n|---|---|---|\n{rows}") }
}

fn row(arg: &Arg) -> String {
    let value = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    let value = value.filter(|_| arg.get_action().takes_values());
    let names = match (arg.get_short(), arg.get_long(), value) {
        (Some(short), Some(long), None) => format!("`-{short}`, `--{long}`"),
        (Some(short), Some(long), Some(value)) => format!("`-{short}`, `--{long} {value}`"),
        (None, Some(long), Some(value)) => format!("`--{long} {value}`"),
        (None, Some(long), None) => format!("`--{long}`"),
        (_, None, value) if arg.is_last_set() => format!("`-- {}`", value.unwrap_or_default()),
        (_, None, value) => format!("`{}`", value.unwrap_or_default()),
    };
    let default: Vec<String> =
        arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    let default = if arg.get_action().takes_values() { default.join(", ") } else { String::new() };
    let mut meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let choices: Vec<String> =
        arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if arg.get_action().takes_values() && !choices.is_empty() {
        meaning += &format!(": {}", choices.join(", "));
    }
    if let Some(variable) = arg.get_env() {
        meaning += &format!(" (environment: `{}`)", variable.to_string_lossy());
    }
    format!("| {names} | {default} | {} |\n", cell(&meaning))
}
