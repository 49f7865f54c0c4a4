//! `ci`: everything that CI runs, phase by phase, each with its seconds. `--only` runs the phases that a small change needs.
//!
//! Stops at the first phase that fails, with that phase's exit code. Stops the engine that it started. What only compiles (lints,
//! documentation, the build for other systems, the app's binary) runs during the tests, at the lowest priority.

mod background;
mod deny;
mod portable;

use super::test::needs::Engine;
use crate::flags::{BuildFlags, Global};
use crate::pipeline;
use background::Check;
use std::path::Path;
use std::time::{Duration, Instant};
use xtask_host::tree::binary;
use xtask_host::tree::facts::find_root;
use xtask_host::{process, terminal};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::verification;
use xtask_model::quantity;
use xtask_model::spec::reference::Platform;

/// Runs every phase, or those that `only` needs.
pub fn run(global: &Global, only: Option<&str>) -> anyhow::Result<()> {
    let root = find_root(global.root.as_deref())?;
    let mut phases = Phases::default();
    let own = super::has_xtask_sources(&root);
    if let Some(only) = only {
        let selected = selected(global, only)?;
        if own {
            phases.run("tidy", || super::tidy::run(global))?;
        }
        phases.run("workflows", || Ok(super::workflows::run(global, true)?))?;
        if let Some([program, args @ ..]) = selected.as_deref() {
            phases.run("tests", || tests(&root, program, args))?;
        }
        phases.print();
        return Ok(());
    }
    if !own {
        return adopted(global, &root, phases);
    }
    // Read first: the tests link this file again, and then the kernel calls it deleted.
    let program =
        std::env::current_exe().map_err(|error| Fault::build("cannot find this program's file").cause(error))?;
    phases.run("tidy", || super::tidy::run(global))?;
    phases.run("deny", || deny::check(&root, global.offline))?;
    phases.run("lock", || Ok(super::lock::check(global)?))?;
    let engine = phases.run("engine", || Ok(Engine::start(&root)?))?;
    let mut checks = lints(&root);
    checks.extend(portable::checks(&root, &program)?);
    checks.extend(app_binary(global)?);
    let mut checked = background::Checked::default();
    phases.run("test", || {
        let tested;
        (tested, checked) = background::run(&checks, |compiled| super::test::whole(global, None, compiled));
        tested
    })?;
    phases.background = checked.seconds;
    phases.run("checks", || checked.failure.map_or(Ok(()), Err))?;
    phases.run("images", || images(global, &engine))?;
    drop(engine);
    phases.print();
    Ok(())
}

/// Everything that CI runs in a repository that only uses xtask: the lock, its own tests, a build with smoke tests.
fn adopted(global: &Global, root: &Path, mut phases: Phases) -> anyhow::Result<()> {
    let ci = global.any_tree()?.policy.ci;
    if root.join(".github/workflows/ci.yml").is_file() {
        phases.run("workflows", || Ok(super::workflows::run(global, true)?))?;
    }
    phases.run("lock", || Ok(super::lock::check(global)?))?;
    for test in &ci.tests {
        if let [program, args @ ..] = test.run.as_slice() {
            phases.run("tests", || tests(root, program, args))?;
        }
    }
    phases.run("images", || {
        let flags = BuildFlags { engine: Some(ci.engine), ..BuildFlags::default() };
        let done = pipeline::run(global, &flags, pipeline::Target::App)?;
        done.wanted().try_for_each(|app| super::smoke::run(global, Some(&app.reference.to_string())))
    })?;
    phases.print();
    Ok(())
}

/// The command of a `[[ci.tests]]`, which has to succeed.
fn tests(root: &Path, program: &str, args: &[String]) -> anyhow::Result<()> {
    let command = process::Command::new(program).args(args).current_dir(root);
    let status = super::test::shown(&command, &mut |_| {})?;
    let hint = format!("run it alone: `{command}`");
    if status.success() { Ok(()) } else { Err(command.failed(Exit::Build, status).hint(hint).into()) }
}

/// The command of a `[[ci.tests]]`; none for documents, whose checks every selection begins with.
fn selected(global: &Global, only: &str) -> Result<Option<Vec<String>>, Fault> {
    let tests = global.any_tree()?.policy.ci.tests;
    match tests.iter().find(|tests| tests.name == only) {
        Some(tests) => Ok(Some(tests.run.clone())),
        None if only == verification::DOCUMENTS => Ok(None),
        None => {
            let names: Vec<String> = tests.iter().map(|tests| format!("`{}`", tests.name)).collect();
            let known = [vec![format!("`{}`", verification::DOCUMENTS)], names].concat().join(", ");
            Err(Fault::usage(format!("no `[[ci.tests]]` in `images.toml` is named `{only}`"))
                .hint(format!("choose one of {known}, or run every test: `cargo xtask ci`")))
        }
    }
}

/// Finished phases, and checks that ran during one of them.
#[derive(Default)]
struct Phases {
    finished: Vec<(&'static str, Duration)>,
    background: Vec<(&'static str, Duration)>,
}

impl Phases {
    fn run<T>(&mut self, name: &'static str, phase: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        process::interrupted()?;
        terminal::step("phase", name);
        let began = Instant::now();
        let done = phase();
        self.finished.push((name, began.elapsed()));
        if done.is_err() {
            self.print();
            terminal::warn(&format!("`{name}` failed; later phases were not run"));
        }
        done
    }

    fn print(&self) {
        for (name, took) in &self.finished {
            terminal::step(name, &quantity::seconds(*took));
        }
        for (name, took) in &self.background {
            terminal::step(name, &format!("{} during the tests", quantity::seconds(*took)));
        }
        terminal::step("total", &quantity::seconds(self.finished.iter().map(|(_, took)| *took).sum()));
    }
}

/// A cargo command whose findings are a failed check.
fn cargo(root: &Path, args: &[&str], hint: &str) -> anyhow::Result<()> {
    let command = binary::cargo(root).args(args);
    let status = super::test::shown(&command, &mut |_| {})?;
    if status.success() { Ok(()) } else { Err(command.failed(Exit::Drift, status).hint(hint).into()) }
}

/// What cargo itself finds in the whole workspace.
fn lints(root: &Path) -> Vec<Check> {
    const CLIPPY: &[&str] = &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    const DOC: &[&str] = &["doc", "--workspace", "--no-deps"];
    let doc = Check::lint("doc", root, DOC, "fix the warnings of `cargo doc --workspace --no-deps`");
    vec![
        Check::lint("clippy", root, CLIPPY, "fix the warnings of `cargo clippy --workspace --all-targets`"),
        doc.env("RUSTDOCFLAGS", "-D warnings"),
    ]
}

/// The app's binary as images hold it, which the build after the tests then finds compiled.
fn app_binary(global: &Global) -> Result<Option<Check>, Fault> {
    let tree = global.tree()?;
    let Some(app) = &tree.policy.app.binary else { return Ok(None) };
    let call = binary::building(&tree.root, app, &Platform::host(), false)?;
    let hint = format!("`cargo build --package {} --profile {}` says the same", app.package, app.profile);
    Ok(Some(Check { name: "binary", call, exit: Exit::Build, hint }))
}

/// A real build into the engine's registry, with smoke tests of the app.
fn images(global: &Global, engine: &Engine) -> anyhow::Result<()> {
    let registry = &engine.state().registry;
    let registry = registry.parse().map_err(|error| Fault::build(format!("cannot use `{registry}`: {error}")))?;
    super::quickstart::run(&Global { registry: Some(registry), ..global.clone() }, true, None)
}
