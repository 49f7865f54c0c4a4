//! `cargo xtask bench`: measures and prints a table, JSON or Markdown.

use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;
use xtask::commands;
use xtask::flags::{Command, Flags, Format, Global};
use xtask_bench::{self as bench, compare, table};
use xtask_host::{file, terminal};
use xtask_model::fault::Fault;

fn main() -> ExitCode {
    xtask::cli::dispatch(run)
}

fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let Command::Bench { filter, runs, compare, write } = &flags.command else {
        return Err(Fault::usage("this program only measures; use `cargo xtask` for other commands").into());
    };
    measure(&flags.global, filter.as_deref(), *runs, *compare, write.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

/// Measures the scenarios of a filter, each warm one `runs` times; `with_others` compares the native engine with other
/// builders. The Markdown goes to `write`.
fn measure(
    global: &Global,
    filter: Option<&str>,
    runs: Option<u32>,
    beside: bool,
    write: Option<&Path>,
) -> anyhow::Result<()> {
    if beside {
        let chosen = compare::select(filter)?;
        let results = compare::run(&global.tree()?, &chosen, runs.unwrap_or(compare::RUNS))?;
        return print_results(global, write, &results, compare::table::text, compare::table::markdown);
    }
    let chosen = bench::select(filter)?;
    let results = bench::run(&global.tree()?, &chosen, runs.unwrap_or(bench::RUNS))?;
    print_results(global, write, &results, table::text, table::markdown)
}

fn print_results<R: Serialize>(
    global: &Global,
    write: Option<&Path>,
    results: &R,
    text: fn(&R) -> String,
    markdown: fn(&R) -> String,
) -> anyhow::Result<()> {
    if let Some(path) = write
        && file::write(path, &markdown(results))?
    {
        terminal::step("wrote", &format!("`{}`", path.display()));
    }
    match global.format {
        Format::Json => commands::print(&format!("{}\n", serde_json::to_string_pretty(results)?)),
        Format::Text | Format::Github | Format::Gitlab => commands::print(&text(results)),
    }
}
