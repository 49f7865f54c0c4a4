//! The scenarios. To add one, add an entry to the table.
//!
//! Both sides start from the same edit, one after the other on the same engine; xtask is first, so shared downloads
//! count against it.

use super::plain;
use super::sample::{Sample, call, timed};
use super::workspace::Workspace;
use serde::Deserialize;
use xtask_host::process::Command;
use xtask_host::tree::uv::{Request, Upgrade};
use xtask_host::{clock, file, linux, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::policy::Registry;
use xtask_model::spec::lock::{self, Lock};

pub(crate) type Measure = fn(&Workspace) -> Result<Sample, Fault>;

pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    pub needs: Needs,
    pub runs: Runs,
    /// Number of changed images, for scenarios that build: a run that builds fewer is invalid.
    pub builds: Option<usize>,
    /// Changes the copy before each run, with the run's number.
    pub edit: fn(&Workspace, u32) -> Result<(), Fault>,
    pub ours: Measure,
    pub plain: Option<Measure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Xtask,
    /// An engine on which both sides have built the unchanged tree.
    WarmEngine,
    FreshEngine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// Once, because a cold start takes minutes.
    Once,
    Many,
}

const SCENARIO: Scenario = Scenario {
    name: "",
    about: "",
    needs: Needs::WarmEngine,
    runs: Runs::Many,
    builds: None,
    edit: |_, _| Ok(()),
    ours: build,
    plain: None,
};

pub(crate) const SCENARIOS: [Scenario; 9] = [
    Scenario {
        name: "compile-xtask",
        about: "xtask compiled from nothing, crates downloaded before",
        needs: Needs::Xtask,
        runs: Runs::Once,
        ours: compile_xtask,
        ..SCENARIO
    },
    Scenario {
        name: "start-binary",
        about: "`xtask --version`",
        needs: Needs::Xtask,
        ours: |workspace| call(&Command::new(workspace.cargo_folder("warm").join("debug/xtask")).arg("--version")),
        ..SCENARIO
    },
    Scenario {
        name: "start-alias",
        about: "`cargo xtask --version`",
        needs: Needs::Xtask,
        ours: |workspace| call(&workspace.cargo("warm")?.args(["xtask", "--version"])),
        ..SCENARIO
    },
    Scenario {
        name: "cold",
        about: "only sources and the root: xtask compiled, base and app built and pushed",
        needs: Needs::FreshEngine,
        runs: Runs::Once,
        builds: Some(2),
        ours: build_cold,
        plain: Some(build_plain),
        ..SCENARIO
    },
    Scenario {
        name: "cold-base",
        about: "nothing on the engine: the base built and pushed",
        needs: Needs::FreshEngine,
        runs: Runs::Once,
        builds: Some(1),
        ours: |workspace| xtask(workspace, workspace.cargo("warm")?, "build-base"),
        ..SCENARIO
    },
    Scenario { name: "no-op", about: "nothing changed", builds: Some(0), plain: Some(build_plain), ..SCENARIO },
    Scenario {
        name: "template",
        about: "a template edited: the app pushed",
        builds: Some(1),
        edit: edit_template,
        plain: Some(build_plain),
        ..SCENARIO
    },
    Scenario {
        name: "template-empty-cache",
        about: "the same on an empty engine, the base in the registry: a CI runner with cargo's cache",
        runs: Runs::Once,
        builds: Some(1),
        edit: edit_template,
        ours: |workspace| workspace.forget_builds().and_then(|()| build(workspace)),
        plain: Some(|workspace| workspace.forget_builds().and_then(|()| build_plain(workspace))),
        ..SCENARIO
    },
    Scenario {
        name: "requirement",
        about: "another version of a requirement: base and app pushed",
        builds: Some(2),
        edit: |workspace, _| bump(workspace, 1, &BUMPED),
        plain: Some(build_plain),
        ..SCENARIO
    },
];

const TEMPLATE: &str = "autoscaler/templates/forecast.html";

/// Small packages with many releases; the first one in the lock is updated.
pub(super) const BUMPED: [&str; 3] = ["packaging", "tzdata", "six"];

/// Those with enough releases for each run of a row to have its own.
pub(super) const BUMPED_OFTEN: [&str; 1] = ["tzdata"];

const PROGRAM: &str = "autoscaler/cli/src/lib.rs";

/// Adds a statement that no compiler has seen to the program's library.
pub(super) fn edit_program(workspace: &Workspace, run: u32) -> Result<(), Fault> {
    const AT: &str = "    pub fn run(self) -> Result<(), Failure> {\n";
    let mut found = false;
    workspace.edit(PROGRAM, |text| {
        found = text.contains(AT);
        let number = clock::now();
        text.replace(AT, &format!("{AT}        std::hint::black_box(\"run {run} at {number}\");\n"))
    })?;
    let missing = || Fault::usage(format!("`{PROGRAM}` has no line `{}`", AT.trim()));
    if found { Ok(()) } else { Err(missing().hint("change `PROGRAM` in `xtask/bench/src/scenarios.rs`")) }
}

/// Adds a comment that no build has seen.
pub(super) fn edit_template(workspace: &Workspace, run: u32) -> Result<(), Fault> {
    workspace.edit(TEMPLATE, |text| format!("{text}{{# run {run} at {} #}}\n", clock::now()))
}

/// Pins an earlier release of the first candidate in the lock, by a number of releases before the locked one.
pub(super) fn bump(workspace: &Workspace, releases: u32, candidates: &[&str]) -> Result<(), Fault> {
    (0..releases).try_for_each(|_| to_the_release_before(workspace, candidates))
}

fn to_the_release_before(workspace: &Workspace, candidates: &[&str]) -> Result<(), Fault> {
    let base = &workspace.tree.policy.base;
    let read = |path: &str| {
        std::fs::read_to_string(workspace.tree.root.join(path))
            .map_err(|error| Fault::usage(format!("cannot read `{path}`")).cause(error))
    };
    let locked = Lock::parse(base.lock.as_ref(), &read(base.lock.as_str())?)?;
    let found = candidates.iter().find_map(|name| locked.packages.iter().find(|package| package.name == *name));
    let package = found.ok_or_else(|| {
        Fault::usage(format!("`{}` has none of the packages {}", base.lock, candidates.join(", ")))
            .hint("change `BUMPED` in `xtask/bench/src/scenarios.rs`")
    })?;
    let name = package.name.clone();
    let [requirements] = base.requirements.paths() else {
        return Err(Fault::usage("the policy names several requirement files, and this scenario edits one"));
    };
    workspace.edit(requirements, |text| format!("{text}{name}<{}\n", package.version))?;
    let text = resolved(workspace, &Upgrade::Only(vec![name.clone()]))?;
    let after = Lock::parse(base.lock.as_ref(), &text)?;
    for change in lock::diff(&locked.meaning(), &after.meaning()) {
        terminal::detail(&change.to_string());
    }
    file::write(&workspace.tree.root.join(&base.lock), &text).map(drop)
}

/// The lock of the requirements as they are.
pub(super) fn resolved(workspace: &Workspace, upgrade: &Upgrade) -> Result<String, Fault> {
    let base = &workspace.tree.policy.base;
    let request = Request {
        root: &workspace.tree.root,
        requirements: &base.requirements,
        selection: &base.selection,
        lock: base.lock.as_ref(),
        python: &workspace.tree.policy.root.python,
        upgrade,
    };
    workspace.uv()?.resolve(&request)
}

fn compile_xtask(workspace: &Workspace) -> Result<Sample, Fault> {
    workspace.remove_cargo_folder("cold")?;
    // As in CI, where each runner compiles once.
    let call_cargo =
        workspace.cargo("cold")?.env("CARGO_INCREMENTAL", "0").args(["build", "--locked", "--package", "xtask"]);
    let sample = call(&call_cargo);
    workspace.remove_cargo_folder("cold")?;
    sample
}

pub(crate) fn build(workspace: &Workspace) -> Result<Sample, Fault> {
    xtask(workspace, workspace.cargo("warm")?, "build")
}

pub(crate) fn build_plain(workspace: &Workspace) -> Result<Sample, Fault> {
    let built = plain::build(workspace)?;
    Ok(Sample { seconds: built.took.as_secs_f64(), ..Sample::default() })
}

/// As on a new machine; docker's side downloads its crates too.
fn build_cold(workspace: &Workspace) -> Result<Sample, Fault> {
    workspace.remove_cargo_folder("cold")?;
    let cargo = workspace.cargo("cold")?.env("CARGO_HOME", workspace.empty_cargo_home()?);
    let sample = xtask(workspace, cargo, "build");
    workspace.remove_cargo_folder("cold")?;
    workspace.remove_cargo_folder("home")?;
    sample
}

fn xtask(workspace: &Workspace, cargo: Command, command: &str) -> Result<Sample, Fault> {
    push(cargo.args(["xtask", command]), &workspace.registry()?)
}

/// Runs an xtask build with the flags to push, and reads its report.
pub(super) fn push(call: Command, registry: &Registry) -> Result<Sample, Fault> {
    reported(&call.args(["--push", "--registry", &registry.to_string()]))
}

/// Runs an xtask build, and reads its report.
pub(super) fn reported(call: &Command) -> Result<Sample, Fault> {
    let call = call.clone().args(["--format", "json"]);
    let before = linux::children_seconds();
    let (seconds, lines) = timed(&call)?;
    let cpu = linux::children_seconds().zip(before).map(|(after, before)| after - before);
    // The report is at the end: it starts at the last line that is a single opening brace.
    let begin = lines.iter().rposition(|line| line == "{").unwrap_or(lines.len());
    let done: Done = serde_json::from_str(&lines[begin..].join("\n"))
        .map_err(|error| Fault::build(format!("cannot read the report of `{call}`")).cause(error))?;
    Ok(Sample { cpu, ..sample(seconds, &done) })
}

#[derive(Debug, Deserialize)]
struct Done {
    images: Vec<DoneImage>,
    seconds: f64,
    peak_memory: Option<u64>,
    disk_written: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct DoneImage {
    kind: String,
    action: String,
    seconds: Vec<(String, f64)>,
}

/// A sample from the measured time and the build's report. Pure.
fn sample(seconds: f64, done: &Done) -> Sample {
    let mut phases = vec![("start".to_owned(), (seconds - done.seconds).max(0.0))];
    let mut elsewhere = 0.0;
    let builds_base = done.images.iter().any(|image| image.kind == "base" && image.action != "reused");
    for image in &done.images {
        for (phase, took) in &image.seconds {
            let name = if phase == "plan" { phase.clone() } else { format!("{} {phase}", image.kind) };
            phases.push((name, *took));
            // The compiler runs in parallel with the base's build, which is counted; without one, its time counts.
            let counts = phase == "build" || phase.starts_with("step ") || phase == "compile" && !builds_base;
            elsewhere += if counts { *took } else { 0.0 };
        }
    }
    let built = done.images.iter().filter(|image| image.action == "built").count();
    let overhead = Some((seconds - elsewhere).max(0.0));
    Sample { seconds, phases, overhead, memory: done.peak_memory, cpu: None, written: done.disk_written, built }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn overhead(json: &str, seconds: f64, expected: f64) {
        let done: Done = serde_json::from_str(json).unwrap();
        let overhead = sample(seconds, &done).overhead.unwrap();
        assert!((overhead - expected).abs() < 1e-9, "{overhead}");
    }

    #[test]
    fn docker_compiler_and_steps_do_not_count_as_overhead() {
        let json = r#"{"seconds": 0.9, "images": [
            {"kind": "base", "action": "reused", "seconds": [["plan", 0.05]]},
            {"kind": "app", "action": "built",
             "seconds": [["compile", 0.1], ["build", 0.5], ["step smoke", 0.1], ["publish", 0.1]]}]}"#;
        overhead(json, 1.0, 0.3);
    }

    #[test]
    fn a_compiler_in_parallel_with_the_base_is_not_counted_twice() {
        let json = r#"{"seconds": 20.0, "images": [
            {"kind": "base", "action": "built", "seconds": [["plan", 0.1], ["build", 18.0], ["publish", 0.1]]},
            {"kind": "app", "action": "built", "seconds": [["compile", 9.0], ["build", 1.5], ["publish", 0.1]]}]}"#;
        overhead(json, 20.0, 0.5);
    }

    #[test]
    fn a_no_op_is_all_overhead() {
        overhead(r#"{"seconds": 0.1, "images": [{"kind": "app", "action": "reused", "seconds": []}]}"#, 0.25, 0.25);
    }

    #[test]
    fn scenario_names_are_unique() {
        let names: std::collections::BTreeSet<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
    }
}
