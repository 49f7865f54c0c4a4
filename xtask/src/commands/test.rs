//! `test`: every test of the workspace and of the Python worker, with the real tools that they need, and one closing line.
//!
//! Installs under `target` only. A test that would be skipped for want of a tool fails: `XTASK_REQUIRE_REAL=1`. The quick mode
//! installs nothing, needs no engine, and runs the tests that need none.

pub mod needs;
mod tally;

use crate::flags::{Global, Part};
use needs::Needs;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tally::Tally;
use xtask_host::process::{self, Command};
use xtask_host::terminal;
use xtask_host::tree::binary;
use xtask_host::tree::facts::{Tree, find_root};
use xtask_model::fault::{Exit, Fault};
use xtask_model::quantity;

/// Runs every test, or those whose name contains `filter`; with `quick` unit tests and tests of the command line alone.
pub fn run(global: &Global, filter: Option<&str>, quick: bool) -> anyhow::Result<()> {
    if quick {
        let root = find_root(global.root.as_deref())?;
        let runner = quick_runner(&root, filter, process::found("cargo-nextest").is_some());
        return all_pass(&[runner], filter, false, &mut || {});
    }
    whole(global, filter, &Packages::all(), &[], &mut || {})
}

/// The packages of the workspace that are tested.
pub struct Packages {
    part: Option<Part>,
    /// Cargo's arguments.
    pub selection: Vec<String>,
}

impl Packages {
    /// Every package, and the Python worker.
    pub fn all() -> Self {
        Self { part: None, selection: vec!["--workspace".to_owned()] }
    }

    /// Those of a part.
    pub fn of(tree: &Tree, part: Part) -> Result<Self, Fault> {
        let payload = tree.policy.app.binary.as_ref().map(|binary| binary.package.as_str());
        let members = binary::members(&*tree.files)?.into_iter().map(|(name, _)| name).collect();
        Ok(Self { part: Some(part), selection: selection(part, payload, members)? })
    }

    /// True if the Python worker is tested.
    fn has_python(&self) -> bool {
        self.part != Some(Part::Xtask)
    }
}

/// Cargo's arguments for the members of a part. The payload is the package of the app's program, and those whose names begin with its.
fn selection(part: Part, payload: Option<&str>, members: Vec<String>) -> Result<Vec<String>, Fault> {
    let is_payload = |name: &&String| {
        payload
            .and_then(|payload| name.strip_prefix(payload))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let found: Vec<&String> = members.iter().filter(is_payload).collect();
    match part {
        Part::Payload if found.is_empty() => Err(match payload {
            Some(payload) => Fault::usage(format!("package `{payload}` of `[app.binary]` is not in this workspace")),
            None => Fault::usage("this repository has no payload to test: `images.toml` has no `[app.binary]`"),
        }
        .hint("`cargo xtask ci` without `--part` runs everything")),
        Part::Payload => Ok(found.into_iter().map(|name| format!("--package={name}")).collect()),
        Part::Xtask => {
            let excluded = found.into_iter().map(|name| format!("--exclude={name}"));
            Ok(std::iter::once("--workspace".to_owned()).chain(excluded).collect())
        }
    }
}

/// Runs every test of these packages, or those whose name contains `filter`, with these options of cargo. Calls `compiled` once the
/// compiler has ended and tests begin.
pub fn whole(
    global: &Global,
    filter: Option<&str>,
    packages: &Packages,
    options: &[&str],
    compiled: &mut (dyn FnMut() + Send),
) -> anyhow::Result<()> {
    let tree = global.tree()?;
    super::needs_xtask_sources(
        &tree.root,
        "test",
        "`cargo xtask ci` runs the `[[ci.tests]]` of `images.toml`, and builds and smoke-tests the app",
    )?;
    let needs = Needs::gather(&tree)?;
    all_pass(&runners(&tree.root, &needs, filter, packages, options), filter, true, compiled)
}

/// Runs these at the same time, and reports all failures together. A skipped test is a failure where `whole` is asked for.
fn all_pass(
    runners: &[Command],
    filter: Option<&str>,
    whole: bool,
    compiled: &mut (dyn FnMut() + Send),
) -> anyhow::Result<()> {
    let began = Instant::now();
    let seen = Mutex::new((Tally::default(), compiled));
    let on_line = |line: &str| {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        if begins(line) {
            (seen.1)();
        }
        seen.0.read(line);
    };
    let ended = std::thread::scope(|scope| {
        let runs: Vec<_> = runners.iter().map(|runner| scope.spawn(|| shown(runner, &mut { on_line }))).collect();
        runs.into_iter()
            .map(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    let mut failed = Vec::new();
    for (command, status) in runners.iter().zip(ended) {
        let status = status?;
        // pytest's code for "no test has such a name".
        let none_named = filter.is_some() && status.code() == Some(5);
        if !status.success() && !none_named {
            failed.push(command.to_string());
        }
    }
    let (tally, _) = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    terminal::step("took", &quantity::seconds(began.elapsed()));
    anstream::eprintln!("{} passed, {} failed", tally.passed, tally.failed);
    if whole && tally.skipped > 0 {
        let skipped = format!("{} tests were skipped", tally.skipped);
        return Err(Fault::build(skipped).hint("the lines that begin with `skipped:` say what was missing").into());
    }
    if failed.is_empty() {
        return Ok(());
    }
    let hint = if whole {
        "one test alone: `cargo xtask test NAME`"
    } else {
        "one test alone: `cargo xtask test --quick NAME`"
    };
    let fault = Fault::build(format!("tests failed: {} of {}", tally.failed, tally.passed + tally.failed)).hint(hint);
    Err(failed.into_iter().fold(fault, Fault::cause).into())
}

/// True for the line that a runner prints between compiling and its first test: nextest's, then that of `cargo test`.
fn begins(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("Starting ") && line.contains(" tests across ") || line.starts_with("Running unittests ")
}

/// The integration tests that need neither an engine nor a network.
const QUICK: [&str; 2] = ["cli", "portable"];

/// The call that runs unit tests, and the tests of the command line.
fn quick_runner(root: &Path, filter: Option<&str>, has_nextest: bool) -> Command {
    let call = if has_nextest { NEXTEST } else { &["test", "--no-fail-fast"] };
    let call = binary::cargo(root).args(call).args(["--workspace", "--lib", "--bins"]);
    let call = QUICK.iter().fold(call, |call, test| call.args(["--test", test]));
    // What a person has set for xtask itself is not for the tests, and no tool is required.
    let foreign = ["XTASK_REGISTRY", "XTASK_REQUIRE_REAL", "RUST_BACKTRACE"];
    filter.into_iter().fold(foreign.into_iter().fold(call, Command::env_remove), Command::arg)
}

const NEXTEST: &[&str] = &["nextest", "run", "--no-fail-fast", "--no-tests=pass", "--status-level=slow"];

/// The calls that run all tests: Rust's, and Python's.
fn runners(root: &Path, needs: &Needs, filter: Option<&str>, packages: &Packages, options: &[&str]) -> Vec<Command> {
    let cargo = |args: &[&str]| needs.apply(binary::cargo(root).args(args).args(options));
    let mut runners = if process::found("cargo-nextest").is_some() {
        // Tests wait for programs half of the time.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        vec![cargo(NEXTEST).args(&packages.selection).arg(format!("--test-threads={}", 2 * cores))]
    } else {
        vec![cargo(&["test", "--no-fail-fast"]).args(&packages.selection)]
    };
    if let Some(filter) = filter {
        runners = runners.into_iter().map(|runner| runner.arg(filter)).collect();
    }
    if !packages.has_python() {
        return runners;
    }
    let pytest = Command::new(needs.python()).args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "forecaster"]);
    let pytest = needs.apply(pytest).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(root.join("autoscaler"));
    // It computes while the others wait.
    let pytest = if process::found("nice").is_some() { pytest.wrapped_by("nice", ["-n", "19"]) } else { pytest };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn quick(filter: Option<&str>, has_nextest: bool, expected: &str) {
        assert_eq!(quick_runner(Path::new("/"), filter, has_nextest).to_string(), expected);
    }

    #[test]
    fn a_runner_says_when_its_compiler_has_ended() {
        assert!(begins("    Starting 1804 tests across 51 binaries (2 tests skipped)"));
        assert!(begins("     Running unittests src/lib.rs (target/debug/deps/xtask-c44de2efb4f31054)"));
        assert!(!begins("   Compiling xtask v0.1.0"));
        assert!(!begins("    Finished `test` profile [unoptimized] target(s) in 0.35s"));
    }

    #[track_caller]
    fn selected(part: Part, payload: Option<&str>, members: &[&str]) -> Result<String, String> {
        let members = members.iter().map(|name| (*name).to_owned()).collect();
        selection(part, payload, members).map(|all| all.join(" ")).map_err(|fault| fault.what)
    }

    #[test]
    fn a_part_is_members_of_the_workspace_and_never_an_empty_name() {
        let members = ["xtask", "app", "app-core", "application"];
        let payload = selected(Part::Payload, Some("app"), &members);
        assert_eq!(payload.unwrap(), "--package=app --package=app-core");
        let xtask = selected(Part::Xtask, Some("app"), &members);
        assert_eq!(xtask.unwrap(), "--workspace --exclude=app --exclude=app-core");
        // One package alone, for which cargo would find nothing named `app-*`.
        assert_eq!(selected(Part::Payload, Some("app"), &["xtask", "app"]).unwrap(), "--package=app");
        // No program of Rust: all packages are xtask's.
        assert_eq!(selected(Part::Xtask, None, &members).unwrap(), "--workspace");
        assert!(selected(Part::Payload, None, &members).unwrap_err().contains("has no `[app.binary]`"));
        assert!(selected(Part::Payload, Some("other"), &members).unwrap_err().contains("`other`"));
    }

    #[test]
    fn the_quick_mode_leaves_out_tests_that_need_an_engine() {
        let tests = "--workspace --lib --bins --test cli --test portable";
        let nextest = "cargo nextest run --no-fail-fast --no-tests=pass --status-level=slow";
        quick(None, true, &format!("{nextest} {tests}"));
        quick(Some("policy"), true, &format!("{nextest} {tests} policy"));
        quick(None, false, &format!("cargo test --no-fail-fast {tests}"));
    }
}
