//! Measures what an edit, a bump and a cold start cost, beside plain docker: picks scenarios, readies what each needs, times
//! both sides in turn. `compare` does it for the native engine beside other builders.
//!
//! Works on a copy of the repository ([`Workshop`]) and never publishes anywhere but to a registry on loopback.

pub mod compare;
pub mod machine;
mod plain;
pub mod scenarios;
pub mod statistics;
pub mod table;
mod workshop;

pub use workshop::Workshop;

use machine::Machine;
use scenarios::{Needs, Runs, SCENARIOS, Sample, Scenario};
use serde::Serialize;
use statistics::{Summary, by_phase};
use xtask_host::tree::facts::Tree;
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;

/// Runs of each warm scenario where nothing else is asked for.
pub const RUNS: u32 = 5;

/// What xtask may take beside the docker commands that it runs, in seconds.
pub const OVERHEAD_BUDGET: f64 = 0.3;

/// Load that is not ours, for each core, from which on numbers say little.
const BUSY: f64 = 0.25;

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// In the table's order.
    pub scenarios: Vec<Measured>,
    /// Where and with what.
    pub machine: Machine,
}

/// One scenario's numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Its name.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    /// Seconds by this system.
    pub ours: Summary,
    /// Seconds by plain docker, where there is such.
    pub plain: Option<Summary>,
    /// Seconds of ours beside docker, the compiler and steps, for warm builds.
    pub overhead: Option<Summary>,
    /// Where ours went.
    pub phases: Vec<(String, Summary)>,
}

/// The scenarios that a filter means; without one, all but those that must be named.
pub fn select(filter: Option<&str>) -> Result<Vec<&'static Scenario>, Fault> {
    static TABLE: [Scenario; SCENARIOS.len()] = SCENARIOS;
    pick(&TABLE, |scenario| (scenario.name, scenario.on_request), filter)
}

/// The entries of a table that a filter means, by name and whether it must be named: parts of names, with commas between.
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

/// The machine; what else runs on it is worth a warning.
fn look(tree: &Tree) -> Machine {
    let machine = Machine::look(tree);
    if machine.load.0 > BUSY * machine.cores as f64 {
        terminal::warn(&format!("the load average is {:.2}: what else runs here is measured too", machine.load.0));
    }
    if machine.file_system.1 {
        terminal::warn(
            "`target` is on an ext4 without a journal, where new files are slow for minutes after others were removed; measure on \
             another file system",
        );
    }
    machine
}

fn ask_docker(machine: &mut Machine, shop: &Workshop) {
    if let Ok(docker) = shop.docker() {
        machine.ask("docker", &docker.command().args(["version", "--format", "{{.Server.Version}}"]));
        machine.ask("buildx", &docker.command().args(["buildx", "version"]));
    }
    if let Ok(uv) = shop.uv() {
        machine.versions.insert("uv", uv.version().to_owned());
    }
}

/// Measures the scenarios, each warm one `runs` times.
pub fn run(tree: &Tree, chosen: &[&Scenario], runs: u32) -> Result<Results, Fault> {
    let mut machine = look(tree);
    let mut shop = Workshop::open(tree)?;
    let mut scenarios = Vec::new();
    for scenario in chosen {
        let runs = if scenario.runs == Runs::Once { 1 } else { runs };
        scenarios.push(measure(&mut shop, scenario, runs)?);
    }
    ask_docker(&mut machine, &shop);
    machine.load.1 = machine::load();
    Ok(Results { scenarios, machine })
}

fn measure(shop: &mut Workshop, scenario: &Scenario, runs: u32) -> Result<Measured, Fault> {
    shop.reset()?;
    ready(shop, scenario)?;
    let (mut ours, mut plain): (Vec<Sample>, Vec<f64>) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        process::interrupted()?;
        terminal::step("measuring", &format!("{}, run {run} of {runs}", scenario.name));
        (scenario.edit)(shop, run)?;
        let sample = (scenario.ours)(shop)?;
        if scenario.builds.is_some_and(|builds| builds != sample.built) {
            return Err(Fault::build(format!("cannot measure `{}`", scenario.name))
                .cause(format!("xtask built {} images, where another number have changed", sample.built)));
        }
        ours.push(sample);
        if let Some(side) = scenario.plain {
            if scenario.needs == Needs::FreshEngine {
                shop.fresh_engine()?;
            }
            plain.push(side(shop)?.seconds);
        }
        tell(&ours, &plain);
    }
    shop.reset()?;
    let seconds: Vec<f64> = ours.iter().map(|sample| sample.seconds).collect();
    let overheads: Vec<f64> = ours.iter().filter_map(|sample| sample.overhead).collect();
    let phases: Vec<_> = ours.into_iter().map(|sample| sample.phases).collect();
    let summary = Summary::of(&seconds).ok_or_else(|| Fault::usage("nothing was measured"))?;
    Ok(Measured {
        name: scenario.name,
        about: scenario.about,
        ours: summary,
        plain: Summary::of(&plain),
        // A cold start compiles xtask itself: that has a scenario of its own.
        overhead: Summary::of(&overheads).filter(|_| scenario.needs == Needs::WarmEngine),
        phases: by_phase(&phases),
    })
}

fn tell(ours: &[Sample], plain: &[f64]) {
    let Some(ours) = ours.last() else { return };
    let beside = plain.last().map_or_else(String::new, |seconds| format!(", plain docker {seconds:.3} s"));
    terminal::step("took", &format!("{:.3} s{beside}", ours.seconds));
}

/// Makes what a scenario needs, off the clock.
fn ready(shop: &mut Workshop, scenario: &Scenario) -> Result<(), Fault> {
    shop.compile()?;
    match scenario.needs {
        Needs::Xtask => Ok(()),
        Needs::WarmEngine => warm(shop, scenario),
        Needs::FreshEngine => {
            if !shop.has_root()? {
                // The first build makes the root, which is no part of the scenario.
                shop.engine_up()?;
                terminal::step("warming", "a first build makes the root");
                scenarios::build(shop)?;
            }
            shop.fresh_engine()
        }
    }
}

fn warm(shop: &mut Workshop, scenario: &Scenario) -> Result<(), Fault> {
    shop.engine_up()?;
    if !shop.warm {
        terminal::step("warming", "the engine: a first build of each kind");
    }
    // Repeated for each scenario: after an edit is undone, both sides have built what stands there.
    scenarios::build(shop)?;
    if scenario.plain.is_some() {
        scenarios::build_plain(shop)?;
    }
    shop.warm = true;
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

    #[test]
    fn what_is_measured_on_request_has_to_be_named() {
        assert!(!names(None).contains(&"release-compile-xtask"));
        assert_eq!(names(Some("compile")), ["compile-xtask"]);
        assert_eq!(names(Some("release-compile-xtask")), ["release-compile-xtask"]);
    }
}
