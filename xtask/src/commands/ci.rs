//! `ci`: everything that CI runs, phase by phase, each with its seconds. `--only` runs the phases that a small change needs.
//!
//! Stops at the first phase that fails, with that phase's exit code. Stops the engine that it started.

mod deny;

use super::test::needs::Engine;
use crate::flags::{BuildFlags, Global};
use crate::pipeline;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xtask_host::tree::binary;
use xtask_host::tree::facts::find_root;
use xtask_host::{process, terminal};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::verification;
use xtask_model::quantity;

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
    phases
        .run("clippy", || cargo(&root, CLIPPY, "", "fix the warnings of `cargo clippy --workspace --all-targets`"))?;
    phases.run("doc", || cargo(&root, DOC, "-D warnings", "fix the warnings of `cargo doc --workspace --no-deps`"))?;
    phases.run("deny", || deny::check(&root, global.offline))?;
    phases.run("lock", || Ok(super::lock::check(global)?))?;
    let engine = phases.run("engine", || Ok(Engine::start(&root)?))?;
    phases.run("test", || super::test::run(global, None, false))?;
    phases.run("portable", || portable(&root, &program))?;
    phases.run("images", || images(global, &engine))?;
    drop(engine);
    phases.print();
    Ok(())
}

/// Everything that CI runs in a repository that only uses xtask: the lock, its own tests, a build with smoke tests.
fn adopted(global: &Global, root: &Path, mut phases: Phases) -> anyhow::Result<()> {
    let ci = global.tree()?.policy.ci;
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
        let app = done.images.last().map(|image| image.reference.to_string());
        super::smoke::run(global, app.as_deref())
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
    let tests = global.tree()?.policy.ci.tests;
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

const CLIPPY: &[&str] = &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
const DOC: &[&str] = &["doc", "--workspace", "--no-deps"];

/// Finished phases.
#[derive(Default)]
struct Phases(Vec<(&'static str, Duration)>);

impl Phases {
    fn run<T>(&mut self, name: &'static str, phase: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        process::interrupted()?;
        terminal::step("phase", name);
        let began = Instant::now();
        let done = phase();
        self.0.push((name, began.elapsed()));
        if done.is_err() {
            self.print();
            terminal::warn(&format!("`{name}` failed; later phases were not run"));
        }
        done
    }

    fn print(&self) {
        for (name, took) in &self.0 {
            terminal::step(name, &quantity::seconds(*took));
        }
        terminal::step("total", &quantity::seconds(self.0.iter().map(|(_, took)| *took).sum()));
    }
}

/// A cargo command whose findings are a failed check.
fn cargo(root: &Path, args: &[&str], rustdoc_flags: &str, hint: &str) -> anyhow::Result<()> {
    let mut command = binary::cargo(root).args(args);
    if !rustdoc_flags.is_empty() {
        command = command.env("RUSTDOCFLAGS", rustdoc_flags);
    }
    let status = super::test::shown(&command, &mut |_| {})?;
    if status.success() { Ok(()) } else { Err(command.failed(Exit::Drift, status).hint(hint).into()) }
}

/// The build for systems other than Linux: it compiles, and gives the digests of this one.
///
/// Only the crates of the workspace are compiled with the `cfg`: the libraries are those of the phases before.
fn portable(root: &Path, full: &Path) -> anyhow::Result<()> {
    let hint = "what needs Linux belongs in `xtask/host/src/linux.rs` or `xtask/native/src/container/linux`";
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |own| root.join(own));
    let own = target.join("portable");
    let compiler = compiler_with_cfg(&own)?;
    let clippy = binary::cargo(root).args(PORTABLE_CLIPPY).env("CARGO_TARGET_DIR", &target);
    let test = binary::cargo(root).args(PORTABLE_TEST).env("RUSTC_WORKSPACE_WRAPPER", compiler);
    // Programs get a folder of their own, and everything compiled on the way is shared.
    let test = test.env("CARGO_TARGET_DIR", own).env("CARGO_BUILD_BUILD_DIR", &target);
    let test = test.env("XTASK_TEST_FULL", full).env("XTASK_TEST_UV", root.join("target/tools/bin/uv"));
    // The tests that need Docker have run in the full build.
    let test = test.env_remove("XTASK_REGISTRY").env_remove("XTASK_REQUIRE_REAL");
    for (call, exit) in [(clippy, Exit::Drift), (test, Exit::Build)] {
        let status = super::test::shown(&call, &mut |_| {})?;
        if !status.success() {
            return Err(call.failed(exit, status).hint(hint).into());
        }
    }
    Ok(())
}

/// A compiler for `RUSTC_WORKSPACE_WRAPPER` that leaves out what needs Linux.
fn compiler_with_cfg(folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join("rustc");
    let script = "#!/bin/sh\nexec \"$@\" --cfg xtask_portable\n";
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, script))
        .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)));
    written.map_err(|error| Fault::build(format!("cannot write `{}`", path.display())).cause(error))?;
    Ok(path)
}

const PORTABLE_CLIPPY: &[&str] = &[
    "clippy",
    "--package",
    "xtask",
    "--package",
    "xtask-bench",
    "--package",
    "xtask-fuzz",
    "--",
    "-D",
    "warnings",
    "--cfg",
    "xtask_portable",
];
const PORTABLE_TEST: &[&str] = &[
    "test",
    "--package",
    "xtask",
    "--package",
    "xtask-host",
    "--package",
    "xtask-native",
    "--lib",
    "--test",
    "portable",
];

/// A real build into the engine's registry, with smoke tests of the app.
fn images(global: &Global, engine: &Engine) -> anyhow::Result<()> {
    let registry = &engine.state().registry;
    let registry = registry.parse().map_err(|error| Fault::build(format!("cannot use `{registry}`: {error}")))?;
    super::quickstart::run(&Global { registry: Some(registry), ..global.clone() }, true, None)
}
