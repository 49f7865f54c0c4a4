//! The tables of policy keys in the reference.

use xtask_model::image::policy::keys::{Default, PolicyKey, TABLES, Table, ValueKind};
use xtask_model::image::policy::plugin::{BUILT_IN, Description};

/// One section for each table of the policy; the plugins follow the steps.
pub(super) fn tables() -> String {
    let more = |table: &Table| if table.name == "step" { plugins() } else { String::new() };
    TABLES.iter().filter(|table| !table.name.is_empty()).map(|table| section(table) + &more(table)).collect()
}

/// The settings of each built-in plugin.
fn plugins() -> String {
    let section = |plugin: &Description| {
        let rows: String = plugin.settings.iter().map(row).collect();
        let table = match rows.is_empty() {
            true => "It has no settings.\n".to_owned(),
            false => format!("| key | type | default | engine | meaning |\n|---|---|---|---|---|\n{rows}"),
        };
        format!("### `uses = \"{}\"`\n\nThis plugin {}.\n\n{table}\n", plugin.name, cell(plugin.about))
    };
    BUILT_IN.into_iter().map(section).collect()
}

fn section(table: &Table) -> String {
    let header = table.header();
    let rows: String = table.keys.iter().map(row).collect();
    format!(
        "### `{header}`\n\n{}\n\n| key | type | default | engine | meaning |\n|---|---|---|---|---|\n{rows}\n",
        table.meaning
    )
}

fn row(key: &PolicyKey) -> String {
    let default = match key.default {
        Default::Required => "required".to_owned(),
        Default::None => "none".to_owned(),
        Default::Text(text) => format!("`\"{text}\"`"),
        Default::Number(number) => format!("`{number}`"),
        Default::Toml(value) => format!("`{value}`"),
        Default::Derived(text) => text.to_owned(),
    };
    format!("| `{}` | {} | {default} | {} | {} |\n", key.name, kind(key.kind), key.engine, cell(key.meaning))
}

fn kind(kind: ValueKind) -> String {
    let words = |words: &[&str]| words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ");
    match kind {
        ValueKind::Text => "string".to_owned(),
        ValueKind::Path => "path of a file".to_owned(),
        ValueKind::Paths => "path of a file, or a list of them".to_owned(),
        ValueKind::Version => "version as a string".to_owned(),
        ValueKind::Choice(choices) => words(choices),
        ValueKind::Whole(least, most) if most > 1_000_000 => format!("whole number from {least}"),
        ValueKind::Whole(least, most) => format!("whole number from {least} to {most}"),
        ValueKind::AtLeast(least) => format!("number from {least}"),
        ValueKind::Share => "number from 0 to 1".to_owned(),
        ValueKind::Boolean => "`true` or `false`".to_owned(),
        ValueKind::Texts => "list of strings".to_owned(),
        ValueKind::Choices(choices) => format!("list of {}", words(choices)),
        ValueKind::Platforms => "list of `OS/ARCH`".to_owned(),
        ValueKind::Map => "table of strings".to_owned(),
        ValueKind::MapOf(choices) => format!("table of {}", words(choices)),
        ValueKind::Table => "table".to_owned(),
        ValueKind::Tables => "list of tables".to_owned(),
        ValueKind::TableOrTables => "table, or list of tables".to_owned(),
        ValueKind::Named(of) => format!("tables by name, each as `[{of}]`"),
        ValueKind::ForEach(choices) => format!("{}, or a table with one for each engine", words(choices)),
    }
}

/// Text for a cell of a Markdown table.
pub(super) fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
