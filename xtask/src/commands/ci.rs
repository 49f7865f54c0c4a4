//! `ci`: everything that CI runs, phase by phase, each with its seconds. `--only` runs the phases that a small change needs.
//!
//! Stops at the first phase that fails, with that phase's exit code. Stops the engine that it started. What only compiles (the
//! build for other systems, the app's binary) runs during the tests, at the lowest priority, and so do the images with that binary.

mod background;
mod deny;
mod portable;

use super::test::Packages;
use super::test::needs::{TestEngine, Tools};
use crate::flags::{BuildFlags, Global, Part};
use crate::pipeline;
use background::Check;
use std::collections::BTreeSet;
use std::path::Path;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};
use xtask_host::tree::binary;
use xtask_host::tree::facts::find_root;
use xtask_host::{process, terminal};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::change::verification::Needed;
use xtask_model::image::policy::{DOCUMENTS, Selected};
use xtask_model::quantity;
use xtask_model::spec::reference::Platform;

/// Runs every phase, or those that `only` needs. With `part`, only these packages are compiled for tests and tested.
pub fn run(global: &Global, only: Option<&str>, part: Option<Part>) -> anyhow::Result<()> {
    let root = find_root(global.root.as_deref())?;
    let mut phases = Phases::default();
    let own = super::has_xtask_sources(&root);
    if let Some(only) = only.filter(|only| *only != Needed::All.to_string()) {
        let policy = global.any_tree()?.policy.ci;
        let selected = selected(&policy.tests, only)?;
        if own {
            // Other files are those of a commit that passed every test.
            let may_differ = |path: &str| {
                let paths = selected.iter().map(|tests| &tests.paths).chain([&policy.documents]);
                paths.into_iter().any(|paths| paths.ignores(path.as_bytes()))
            };
            phases.run("tidy", || super::tidy::run(global, &may_differ))?;
        }
        phases.run("workflows", || Ok(super::workflows::run(global, true)?))?;
        if let Some([program, args @ ..]) = selected.map(|tests| tests.run.as_slice()) {
            phases.run("tests", || tests(&root, program, args))?;
        }
        phases.print();
        return Ok(());
    }
    if !own {
        if part.is_some() {
            super::needs_xtask_sources(&root, "ci --part", "`cargo xtask ci` without `--part` runs everything")?;
        }
        return adopted(global, &root, phases);
    }
    let tree = global.tree()?;
    let packages = part.map_or_else(|| Ok(Packages::all()), |part| Packages::of(&tree, part))?;
    // Read first: the tests link this file again, and then the kernel calls it deleted.
    let program =
        std::env::current_exe().map_err(|error| Fault::build("cannot find this program's file").cause(error))?;
    phases.run("tidy", || super::tidy::run(global, &|_| true))?;
    // Downloads, unpacks and waits, while the others compute.
    let engine = std::thread::scope(|scope| {
        let engine = scope.spawn(|| TestEngine::start(&root));
        let tools = scope.spawn(|| Tools::install(&tree));
        phases.run("deny", || deny::check(&root, global.offline))?;
        phases.run("lock", || Ok(super::lock::check(global)?))?;
        phases.run("compile", || compile(&root, &packages))?;
        phases.run("tools", || Ok(joined(tools)?))?;
        phases.run("engine", || Ok(joined(engine)?))
    })?;
    let mut checks =
        if part == Some(Part::Payload) { Vec::new() } else { Vec::from(portable::checks(&root, &program)?) };
    checks.extend(app_binary(global)?);
    checks.push(images(global, &root, &program, &engine));
    let mut checked = background::Checked::default();
    phases.run("test", || {
        let tested;
        (tested, checked) =
            background::run(&checks, |compiled| super::test::whole(global, None, &packages, &COMPILER, compiled));
        tested
    })?;
    phases.background = checked.seconds;
    phases.run("checks", || checked.failure.map_or(Ok(()), Err))?;
    drop(engine);
    phases.print();
    Ok(())
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
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

/// A `[[ci.tests]]` by its name; none for documents, whose checks every selection begins with.
fn selected<'a>(tests: &'a [Selected], only: &str) -> Result<Option<&'a Selected>, Fault> {
    match tests.iter().find(|tests| tests.name == only) {
        Some(tests) => Ok(Some(tests)),
        None if only == DOCUMENTS => Ok(None),
        None => {
            let names: Vec<String> = tests.iter().map(|tests| format!("`{}`", tests.name)).collect();
            let known = [vec![format!("`{}`", DOCUMENTS)], names].concat().join(", ");
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

/// Compiles packages as the tests need them, with lints and documentation.
fn compile(root: &Path, packages: &Packages) -> anyhow::Result<()> {
    let command = binary::cargo(root).args(["test", "--locked", "--no-run"]).args(&packages.selection).args(COMPILER);
    let status = super::test::shown(&command, &mut |_| {})?;
    let hint = "`cargo clippy --workspace --all-targets` and `cargo doc --workspace --no-deps` show the same warnings";
    if status.success() { Ok(()) } else { Err(command.failed(Exit::Drift, status).hint(hint).into()) }
}

/// A compiler that lints and documents each crate of the workspace as it compiles it: neither `cargo clippy` nor `cargo doc` shares
/// libraries with the tests. `.ci/run` names it too. It is not in the environment, which tests of cargo see.
const COMPILER: [&str; 2] = ["--config", "build.rustc-workspace-wrapper='.ci/rustc'"];

/// The same, from the root.
const WRAPPER: &str = ".ci/rustc";

/// The app's binary as these images hold it, which their build then finds compiled.
fn app_binary(global: &Global) -> Result<Option<Check>, Fault> {
    let tree = global.tree()?;
    let Some(app) = &tree.policy.app.binary else { return Ok(None) };
    let call = compiled_alike(binary::building(&tree.root, app, &Platform::host(), &BTreeSet::new())?, &tree.root);
    let hint = format!("`cargo build --package {} --profile {}` says the same", app.package, app.profile);
    Ok(Some(Check { name: "binary", call, exit: Exit::Build, hint }))
}

/// A real build into the engine's registry, with smoke tests of the app, by this program.
fn images(global: &Global, root: &Path, program: &Path, engine: &TestEngine) -> Check {
    let call = process::Command::new(program).args(["quickstart", "--yes"]);
    let call = call.arg("--root").arg(root).args(["--registry", &engine.state().registry]);
    let call = global.app.iter().fold(call, |call, app| call.args(["--app", app]));
    let flags = [("--locked", global.locked), ("--offline", global.offline), ("--verbose", global.verbose)];
    let call = flags.into_iter().filter(|(_, given)| *given).fold(call, |call, (flag, _)| call.arg(flag));
    let hint = "run it alone: `cargo xtask quickstart`".to_owned();
    Check { name: "images", call: compiled_alike(call, root), exit: Exit::Build, hint }
}

/// A call that finds what the tests compiled, crates of the workspace too: of cargo, or of a program that calls it.
fn compiled_alike(call: process::Command, root: &Path) -> process::Command {
    portable::apart(call, root).env("RUSTC_WORKSPACE_WRAPPER", root.join(WRAPPER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Output of `.ci/rustc` for a library with this text, compiled as a library and as its tests; `None` if it compiles.
    fn said(library: &str) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| std::fs::write(folder.path().join(path), text).unwrap();
        std::fs::create_dir(folder.path().join("src")).unwrap();
        write("Cargo.toml", "[package]\nname = \"probe\"\nedition = \"2024\"\n[workspace]\n");
        write("src/lib.rs", library);
        let compiler = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/rustc").canonicalize().unwrap();
        let call = binary::cargo(folder.path()).args(["test", "--no-run", "--offline", "--config"]);
        let call = call.arg(format!("build.rustc-workspace-wrapper='{}'", compiler.display()));
        // An integration test makes cargo compile the library itself.
        std::fs::create_dir(folder.path().join("tests")).unwrap();
        write("tests/other.rs", "");
        let output = call.env("CARGO_TARGET_DIR", folder.path().join("target")).output().unwrap();
        let page = folder.path().join("target/doc/lib/probe/index.html");
        assert!(!output.status.success() || page.is_file(), "the documentation is not written");
        (!output.status.success()).then(|| String::from_utf8(output.stderr).unwrap())
    }

    #[test]
    fn one_compiler_finds_what_rustc_and_clippy_and_rustdoc_find() {
        assert_eq!(said("//! See [`one`].\npub fn one(value: u8) -> bool {\n    value == 1\n}\n"), None);
        for (library, expected) in [
            ("fn unused() {}\n", "function `unused` is never used"),
            ("pub fn one(value: u8) -> bool {\n    return value == 1;\n}\n", "unneeded `return` statement"),
            ("#[test]\nfn one() {\n    assert_eq!(true, 1 == 1);\n}\n", "clippy::bool_assert_comparison"),
            ("//! See [`two`].\n", "unresolved link to `two`"),
        ] {
            let said = said(library).unwrap_or_default();
            assert!(said.contains(expected), "{library}{said}");
        }
    }

    #[test]
    fn the_images_take_the_crates_that_the_tests_compiled() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            std::fs::create_dir_all(folder.path().join(path).parent().unwrap()).unwrap();
            std::fs::write(folder.path().join(path), text).unwrap();
        };
        write("Cargo.toml", "[package]\nname = \"probe\"\nedition = \"2024\"\n[workspace]\n");
        write("src/main.rs", "//! Probe.\nfn main() {}\n");
        write("tests/other.rs", "//! Other.\n");
        write(WRAPPER, "");
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(WRAPPER), folder.path().join(WRAPPER))
            .unwrap();
        let target = folder.path().join("target");
        let tests = binary::cargo(folder.path()).args(["test", "--no-run", "--offline"]).args(COMPILER);
        tests.env("CARGO_TARGET_DIR", &target).read(Exit::Build).unwrap();
        let images = compiled_alike(binary::cargo(folder.path()).args(["build", "--offline", "-v"]), folder.path());
        let images = images.env("CARGO_TARGET_DIR", target.join("portable")).env("CARGO_BUILD_BUILD_DIR", &target);
        let said = String::from_utf8(images.output().unwrap().stderr).unwrap();
        assert!(said.contains("Fresh probe") && !said.contains("Compiling"), "{said}");
    }

    /// Libraries with their features, of this selection.
    fn features(selection: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let call = binary::cargo(&root).args(["tree", "--offline", "--locked", "--prefix=none", "--no-dedupe"]);
        let tree = call.arg("--format={p}|{f}").args(selection).read(Exit::Build).unwrap();
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (package, features) in tree.lines().filter_map(|line| line.split_once('|')) {
            let package: Vec<&str> = package.split(' ').take(2).collect();
            found.entry(package.join(" ")).or_default().insert(features.to_owned());
        }
        found
    }

    #[test]
    fn libraries_of_xtask_are_those_of_the_program() {
        let xtask = features(&["--package=xtask", "--edges=normal,build"]);
        let program = features(&["--package=autoscaler", "--edges=normal,build"]);
        let differ = xtask.iter().filter(|(package, own)| program.get(*package).is_some_and(|of| of.is_disjoint(own)));
        let differ: Vec<&str> = differ.filter_map(|(package, _)| package.split(' ').next()).collect();
        // Macros of the program alone ask for more of `syn`, and for xtask that would be 2 s.
        assert_eq!(differ, ["syn"], "name the features in the workspace's `Cargo.toml`");
    }

    #[test]
    fn libraries_of_the_program_are_those_that_the_tests_compiled() {
        let tests = features(&["--workspace", "--edges=normal,build,dev"]);
        let program = features(&["--package=autoscaler", "--edges=normal,build"]);
        assert!(program.len() > 200 && tests.len() > program.len(), "{program:?}");
        let differ = program.iter().filter(|(package, own)| tests.get(*package) != Some(own));
        let differ: Vec<&str> = differ.filter_map(|(package, _)| package.split(' ').next()).collect();
        assert!(differ.is_empty(), "name the features of {differ:?} in the workspace's `Cargo.toml`");
    }
}
