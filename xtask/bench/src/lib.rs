//! Measures the cost of an edit, a dependency update and a cold start, compared with plain docker. `compare` compares
//! the native engine with other builders.
//!
//! Works on a copy of the repository ([`Workspace`]) and publishes only to a registry on loopback.

pub mod compare;
pub mod machine;
mod plain;
pub mod sample;
mod scenarios;
pub mod statistics;
pub mod table;
mod workspace;

pub use workspace::Workspace;

use machine::Machine;
use sample::Sample;
use scenarios::{Needs, Runs, SCENARIOS, Scenario};
use serde::Serialize;
use statistics::{Summary, by_phase};
use xtask_host::tree::facts::Tree;
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;

pub const RUNS: u32 = 5;

/// Time that xtask may add to the docker commands that it runs, in seconds.
pub const OVERHEAD_BUDGET: f64 = 0.3;

/// Background load for each core above which measurements are unreliable.
const BUSY: f64 = 0.25;

#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// In table order.
    pub scenarios: Vec<Measured>,
    pub machine: Machine,
}

#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub name: &'static str,
    pub about: &'static str,
    pub ours: Summary,
    pub plain: Option<Summary>,
    /// xtask's own seconds, without docker, the compiler and steps, for warm builds.
    pub overhead: Option<Summary>,
    pub phases: Vec<(String, Summary)>,
}

/// Scenarios that match a filter; without one, all except those that must be named.
pub fn select(filter: Option<&str>) -> Result<Vec<&'static Scenario>, Fault> {
    static TABLE: [Scenario; SCENARIOS.len()] = SCENARIOS;
    pick(&TABLE, |scenario| (scenario.name, false), filter)
}

/// Entries of a table that match a comma-separated list of name parts; `known` returns the name, and whether the entry
/// must be named in full.
fn pick<T>(
    table: &'static [T],
    known: fn(&T) -> (&'static str, bool),
    filter: Option<&str>,
) -> Result<Vec<&'static T>, Fault> {
    let meant = |entry: &&T| match (known(entry), filter) {
        ((name, on_request), Some(filter)) => {
            filter.split(',').any(|part| name.contains(part) && (!on_request || name == part))
        }
        ((_, on_request), None) => !on_request,
    };
    let chosen: Vec<&T> = table.iter().filter(meant).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = table.iter().map(|entry| known(entry).0).collect();
        return Err(Fault::usage(format!("no scenario is named `{}`", filter.unwrap_or_default()))
            .hint(format!("there are {}", names.join(", "))));
    }
    Ok(chosen)
}

fn read_machine(tree: &Tree) -> Machine {
    let machine = Machine::read(tree);
    if machine.load.0 > BUSY * machine.cores as f64 {
        terminal::warn(&format!("the load average is {:.2}: other programs affect the measurements", machine.load.0));
    }
    if machine.file_system.1 {
        terminal::warn(
            "`target` is on an ext4 without a journal, where new files are slow for minutes after others were removed; measure on \
             another file system",
        );
    }
    machine
}

fn ask_docker(machine: &mut Machine, workspace: &Workspace) {
    if let Ok(docker) = workspace.docker() {
        machine.ask("docker", &docker.command().args(["version", "--format", "{{.Server.Version}}"]));
        machine.ask("buildx", &docker.command().args(["buildx", "version"]));
    }
    if let Ok(uv) = workspace.uv() {
        machine.versions.insert("uv", uv.version().to_owned());
    }
}

pub fn run(tree: &Tree, chosen: &[&Scenario], runs: u32) -> Result<Results, Fault> {
    let mut machine = read_machine(tree);
    let mut workspace = Workspace::open(tree)?;
    let mut scenarios = Vec::new();
    for scenario in chosen {
        let runs = if scenario.runs == Runs::Once { 1 } else { runs };
        scenarios.push(measure(&mut workspace, scenario, runs)?);
    }
    ask_docker(&mut machine, &workspace);
    machine.load.1 = machine::load();
    Ok(Results { scenarios, machine })
}

fn measure(workspace: &mut Workspace, scenario: &Scenario, runs: u32) -> Result<Measured, Fault> {
    workspace.reset()?;
    prepare(workspace, scenario)?;
    let (mut ours, mut plain): (Vec<Sample>, Vec<f64>) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        process::interrupted()?;
        terminal::step("measuring", &format!("{}, run {run} of {runs}", scenario.name));
        (scenario.edit)(workspace, run)?;
        let sample = (scenario.ours)(workspace)?;
        if scenario.builds.is_some_and(|builds| builds != sample.built) {
            return Err(Fault::build(format!("cannot measure `{}`", scenario.name))
                .cause(format!("xtask built {} images, but a different number have changed", sample.built)));
        }
        ours.push(sample);
        if let Some(side) = scenario.plain {
            if scenario.needs == Needs::FreshEngine {
                workspace.fresh_engine()?;
            }
            plain.push(side(workspace)?.seconds);
        }
        print_sample(&ours, &plain);
    }
    workspace.reset()?;
    let seconds: Vec<f64> = ours.iter().map(|sample| sample.seconds).collect();
    let overheads: Vec<f64> = ours.iter().filter_map(|sample| sample.overhead).collect();
    let phases: Vec<_> = ours.into_iter().map(|sample| sample.phases).collect();
    let summary = Summary::of(&seconds).ok_or_else(|| Fault::usage("no measurements"))?;
    Ok(Measured {
        name: scenario.name,
        about: scenario.about,
        ours: summary,
        plain: Summary::of(&plain),
        // A cold start compiles xtask itself, which has its own scenario.
        overhead: Summary::of(&overheads).filter(|_| scenario.needs == Needs::WarmEngine),
        phases: by_phase(&phases),
    })
}

fn print_sample(ours: &[Sample], plain: &[f64]) {
    let Some(ours) = ours.last() else { return };
    let plain = plain.last().map_or_else(String::new, |seconds| format!(", plain docker {seconds:.3} s"));
    terminal::step("took", &format!("{:.3} s{plain}", ours.seconds));
}

fn prepare(workspace: &mut Workspace, scenario: &Scenario) -> Result<(), Fault> {
    workspace.compile()?;
    match scenario.needs {
        Needs::Xtask => Ok(()),
        Needs::WarmEngine => warm(workspace, scenario),
        Needs::FreshEngine => {
            if !workspace.has_root()? {
                // The first build makes the root, which is not part of the scenario.
                workspace.engine_up()?;
                terminal::step("warming", "a first build makes the root");
                scenarios::build(workspace)?;
            }
            workspace.fresh_engine()
        }
    }
}

fn warm(workspace: &mut Workspace, scenario: &Scenario) -> Result<(), Fault> {
    workspace.engine_up()?;
    if !workspace.warm {
        terminal::step("warming", "the engine: a first build of each kind");
    }
    // For each scenario: after an edit is undone, both sides have built the current state.
    scenarios::build(workspace)?;
    if scenario.plain.is_some() {
        scenarios::build_plain(workspace)?;
    }
    workspace.warm = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(filter: Option<&str>) -> Vec<&'static str> {
        select(filter).unwrap().iter().map(|scenario| scenario.name).collect()
    }

    #[test]
    fn a_filter_selects_by_a_part_of_the_name() {
        assert_eq!(names(Some("start")), ["start-binary", "start-alias"]);
        assert_eq!(names(Some("no-op")), ["no-op"]);
        assert_eq!(select(Some("nonsense")).err().unwrap().exit, xtask_model::fault::Exit::Usage);
    }
}
