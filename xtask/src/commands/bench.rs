//! `bench`: measures, and prints the numbers as a table, as JSON or as Markdown.

use crate::bench::{self, compare, table};
use crate::facts::Tree;
use crate::flags::{Format, Global};
use crate::lock::file;
use crate::ui;
use serde::Serialize;
use std::path::Path;

/// Measures what the filter means, each warm scenario `runs` times; with `beside`, the native engine beside other builders. `write`
/// gets the Markdown.
pub fn run(
    global: &Global,
    filter: Option<&str>,
    runs: Option<u32>,
    beside: bool,
    write: Option<&Path>,
) -> anyhow::Result<()> {
    if beside {
        let chosen = compare::select(filter)?;
        let results = compare::run(&Tree::open(global)?, &chosen, runs.unwrap_or(compare::RUNS))?;
        return tell(global, write, &results, compare::table::text, compare::table::markdown);
    }
    let chosen = bench::select(filter)?;
    let results = bench::run(&Tree::open(global)?, &chosen, runs.unwrap_or(bench::RUNS))?;
    tell(global, write, &results, table::text, table::markdown)
}

fn tell<R: Serialize>(
    global: &Global,
    write: Option<&Path>,
    results: &R,
    text: fn(&R) -> String,
    markdown: fn(&R) -> String,
) -> anyhow::Result<()> {
    if let Some(path) = write
        && file::write(path, &markdown(results))?
    {
        ui::step("wrote", &format!("`{}`", path.display()));
    }
    match global.format {
        Format::Json => super::print(&format!("{}\n", serde_json::to_string_pretty(results)?)),
        Format::Text | Format::Github => super::print(&text(results)),
    }
}
