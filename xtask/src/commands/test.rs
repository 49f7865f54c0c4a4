//! `test`: every test of the workspace and of the Python worker, with the real tools that they need, and one closing line.
//!
//! Installs under `target` only. A test that would be skipped for want of a tool fails: `XTASK_REQUIRE_REAL=1`.

pub mod needs;
mod tally;

use crate::flags::Global;
use needs::Needs;
use std::path::Path;
use std::process::ExitStatus;
use tally::Tally;
use xtask_host::process::{self, Command};
use xtask_host::terminal;
use xtask_host::tree::binary;
use xtask_model::fault::{Exit, Fault};

/// Runs every test, or those whose name contains `filter`.
pub fn run(global: &Global, filter: Option<&str>) -> anyhow::Result<()> {
    let tree = global.tree()?;
    let needs = Needs::gather(&tree)?;
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    // All runners run, and failures are reported together.
    for command in runners(&tree.root, &needs, filter) {
        let status = shown(&command, &mut |line| tally.read(line))?;
        // pytest's code for "no test has such a name".
        let none_named = filter.is_some() && status.code() == Some(5);
        if !status.success() && !none_named {
            failed.push(command.to_string());
        }
    }
    drop(needs);
    anstream::eprintln!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.skipped > 0 {
        let skipped = format!("{} tests were skipped", tally.skipped);
        return Err(Fault::build(skipped).hint("the lines that begin with `skipped:` say what was missing").into());
    }
    if failed.is_empty() {
        return Ok(());
    }
    let hint = "one test alone: `cargo xtask test NAME`";
    let fault = Fault::build(format!("tests failed: {} of {}", tally.failed, tally.passed + tally.failed)).hint(hint);
    Err(failed.into_iter().fold(fault, Fault::cause).into())
}

/// The calls that run all tests: Rust's, those in its documentation, Python's.
fn runners(root: &Path, needs: &Needs, filter: Option<&str>) -> Vec<Command> {
    let cargo = |args: &[&str]| needs.apply(binary::cargo(root).args(args));
    let mut runners = if process::found("cargo-nextest").is_some() {
        let nextest = ["nextest", "run", "--workspace", "--no-fail-fast", "--no-tests=pass", "--status-level=slow"];
        vec![cargo(&nextest), cargo(&["test", "--workspace", "--doc"])]
    } else {
        vec![cargo(&["test", "--workspace", "--no-fail-fast"])]
    };
    if let Some(filter) = filter {
        runners = runners.into_iter().map(|runner| runner.arg(filter)).collect();
    }
    let pytest = Command::new(needs.python()).args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "forecaster"]);
    let pytest = needs.apply(pytest).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(root.join("autoscaler"));
    runners.push(match filter {
        Some(filter) => pytest.arg(format!("-k={filter}")),
        None => pytest,
    });
    runners
}

/// Runs a command with every line on stderr, and gives each to `on_line` too.
pub fn shown(command: &Command, on_line: &mut dyn FnMut(&str)) -> Result<ExitStatus, Fault> {
    use std::io::IsTerminal as _;
    terminal::step("running", &command.to_string());
    let color = if std::io::stderr().is_terminal() { "always" } else { "never" };
    command.clone().env("CARGO_TERM_COLOR", color).stream(|line| {
        anstream::eprintln!("{line}");
        on_line(&anstream::adapter::strip_str(line).to_string());
    })
}

/// The fault of a call that prepares something.
fn prepared(command: &Command, what: &str) -> Result<(), Fault> {
    command.read(Exit::Network).map(drop).map_err(|fault| fault.needed_by(what.to_owned()))
}
