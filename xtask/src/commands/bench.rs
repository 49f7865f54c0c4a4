//! `bench`: measures, and prints the numbers as a table, as JSON or as Markdown.

use crate::bench::{self, table};
use crate::facts::Tree;
use crate::flags::{Format, Global};
use crate::lock::file;
use crate::ui;
use std::path::Path;

/// Measures what the filter means, each warm scenario `runs` times; `write` gets the Markdown.
pub fn run(global: &Global, filter: Option<&str>, runs: u32, write: Option<&Path>) -> anyhow::Result<()> {
    let chosen = bench::select(filter)?;
    let tree = Tree::open(global)?;
    let results = bench::run(&tree, &chosen, runs)?;
    if let Some(path) = write
        && file::write(path, &table::markdown(&results))?
    {
        ui::step("wrote", &format!("`{}`", path.display()));
    }
    match global.format {
        Format::Json => super::print(&format!("{}\n", serde_json::to_string_pretty(&results)?)),
        Format::Text | Format::Github => super::print(&table::text(&results)),
    }
}
