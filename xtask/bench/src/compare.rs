//! `bench --compare`: compares the native engine with docker buildx and buildah, in one run on one machine, until the
//! image is in the registry. Each row is a change; each side builds it from its own starting state, and may have a
//! target.
//!
//! A builder that fails or is not installed gets a dash and the reason; the native engine must succeed.

mod buildah;
mod goal;
mod growth;
mod harness;
mod large;
mod native;
mod peers;
mod pull;
mod rewrite;
mod rows;
mod subject;
pub mod table;
mod watch;

pub use goal::Goal;

use super::machine::{self, Machine};
use super::sample::Sample;
use super::statistics::{Summary, by_phase, ratio};
use harness::Harness;
use native::Caller;
use rows::{ROWS, Row, Side, Work};
use serde::Serialize;
use subject::Start;
use xtask_host::process::{self, Command};
use xtask_host::terminal;
use xtask_host::tree::facts::Tree;
use xtask_model::fault::Fault;

pub const RUNS: u32 = 7;

#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// In table order.
    pub rows: Vec<Compared>,
    pub machine: Machine,
}

#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    pub name: &'static str,
    pub about: &'static str,
    pub sides: Vec<Sided>,
    /// Load average over one minute, before the row and after it.
    pub load: (f64, f64),
}

#[derive(Clone, Debug, Serialize)]
pub struct Sided {
    pub by: &'static str,
    /// `None` if it failed.
    pub seconds: Option<Summary>,
    pub why: Option<String>,
    /// Time relative to the first side.
    pub times: Option<f64>,
    pub phases: Vec<(String, Summary)>,
    /// Peak memory of the native engine in any run, in bytes.
    pub memory: Option<u64>,
    pub memory_met: Option<bool>,
    /// Processor seconds of the native engine with what it runs; a daemon's are not known.
    pub cpu: Option<Summary>,
    /// Bytes that the native engine wrote to a disk.
    pub written: Option<Summary>,
    /// Files that the native engine and what it runs opened; `None` if they were not counted.
    pub opened: Option<u64>,
    pub goal: Option<String>,
    pub met: Option<bool>,
}

/// Rows that match a filter; without one, all except those that must be named.
pub fn select(filter: Option<&str>) -> Result<Vec<&'static Row>, Fault> {
    super::pick(&ROWS, |row| (row.name, row.on_request), filter)
}

/// Measures the rows, each side `runs` times, or fewer for slow sides.
pub fn run(tree: &Tree, chosen: &[&Row], runs: u32) -> Result<Comparison, Fault> {
    let mut machine = super::read_machine(tree);
    let mut harness = Harness::open(tree)?;
    let rows = chosen.iter().map(|row| measure(&mut harness, row, runs)).collect::<Result<_, _>>()?;
    super::ask_docker(&mut machine, &harness.workspace);
    if process::found("buildah").is_some() {
        machine.ask("buildah", &Command::new("buildah").arg("--version"));
    }
    machine.load.1 = machine::load();
    Ok(Comparison { rows, machine })
}

#[derive(Default)]
struct Tally {
    samples: Vec<Sample>,
    why: Option<String>,
    opened: Option<u64>,
}

fn measure(harness: &mut Harness, row: &Row, runs: u32) -> Result<Compared, Fault> {
    let before = machine::load();
    harness.begin(row.edit)?;
    let mut tallies: Vec<Tally> = row.sides.iter().map(|_| Tally::default()).collect();
    if row.start == Start::Warm {
        for (side, tally) in row.sides.iter().zip(&mut tallies) {
            terminal::step("warming", &format!("{}: {}", row.name, side.by));
            once(harness, row, side, tally)?;
            tally.samples.clear();
        }
    }
    for (run, index) in order(row, runs) {
        let (side, tally) = (&row.sides[index], &mut tallies[index]);
        if tally.why.is_some() {
            continue;
        }
        terminal::step("measuring", &format!("{}: {}, run {run}", row.name, side.by));
        once(harness, row, side, tally)?;
        if let Some(sample) = tally.samples.last() {
            terminal::step("took", &format!("{:.3} s", sample.seconds));
        }
    }
    let after = machine::load();
    if let Some(first) = tallies.first_mut() {
        first.opened = opened(harness, row)?;
    }
    Ok(compared(row, tallies, (before, after)))
}

/// Counts the files that the first side opens, by one more run, which strace makes slower.
fn opened(harness: &mut Harness, row: &Row) -> Result<Option<u64>, Fault> {
    let counts = matches!(row.sides[0].work, Work::Native(Caller::Binary)) && !row.compiles;
    if !counts || process::found("strace").is_none() {
        return Ok(None);
    }
    let summary = harness.scratch().join("opened");
    terminal::step("counting", &format!("{}: files that {} opens", row.name, row.sides[0].by));
    harness.trace = Some(summary.clone());
    let mut tally = Tally::default();
    let done = once(harness, row, &row.sides[0], &mut tally);
    harness.trace = None;
    done?;
    Ok(std::fs::read_to_string(&summary).ok().map(|text| succeeded(&text)))
}

/// Number of calls in a summary of strace that succeeded. Pure.
fn succeeded(summary: &str) -> u64 {
    let calls = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, calls, rest @ ..] = words.as_slice() else { return None };
        let failed = match rest {
            [name] if name.starts_with("open") => 0,
            [failed, name] if name.starts_with("open") => failed.parse().ok()?,
            _ => return None,
        };
        Some(calls.parse::<u64>().ok()?.saturating_sub(failed))
    };
    summary.lines().filter_map(calls).sum()
}

/// Order of all runs: the sides take turns, so that background load affects all of them; or one side after the other.
fn order(row: &Row, runs: u32) -> Vec<(u32, usize)> {
    let of = |index: usize| row.sides[index].at_most.map_or(runs, |most| most.min(runs));
    let all = (0..row.sides.len()).flat_map(|index| (1..=of(index)).map(move |run| (run, index)));
    let mut all: Vec<(u32, usize)> = all.collect();
    if !row.one_by_one() {
        all.sort_unstable();
    }
    all
}

/// One build of a side after a new edit. A failure of another builder is recorded.
fn once(harness: &mut Harness, row: &Row, side: &Side, tally: &mut Tally) -> Result<(), Fault> {
    process::interrupted()?;
    harness.edit_again()?;
    match side.work.once(harness, row) {
        Ok(sample) => tally.samples.push(sample),
        Err(fault) if side.work.is_native() => return Err(fault),
        Err(fault) => {
            process::interrupted()?;
            terminal::warn(&format!("{}: {} cannot: {fault}", row.name, side.by));
            let last = fault.causes.last().and_then(|cause| cause.lines().last());
            tally.why = Some(last.map_or_else(|| fault.what.clone(), |cause| format!("{}: {cause}", fault.what)));
        }
    }
    Ok(())
}

/// Compares the sides. Pure.
fn compared(row: &Row, tallies: Vec<Tally>, load: (f64, f64)) -> Compared {
    let of = |tally: &Tally, value: fn(&Sample) -> Option<f64>| {
        Summary::of(&tally.samples.iter().filter_map(value).collect::<Vec<_>>())
    };
    let seconds = |tally: &Tally| Summary::of(&tally.samples.iter().map(|sample| sample.seconds).collect::<Vec<_>>());
    let first = tallies.first().and_then(seconds);
    let sided = |(index, (side, tally)): (usize, (&Side, Tally))| {
        let summary = seconds(&tally).filter(|_| tally.why.is_none());
        let both = summary.as_ref().zip(first.as_ref());
        let memory = tally.samples.iter().filter_map(|sample| sample.memory).max();
        let (cpu, written) = (of(&tally, |sample| sample.cpu), of(&tally, |sample| Some(sample.written? as f64)));
        let phases: Vec<_> = tally.samples.into_iter().map(|sample| sample.phases).collect();
        Sided {
            by: side.by,
            phases: by_phase(&phases),
            seconds: summary,
            why: tally.why,
            times: both.filter(|_| index > 0).and_then(|(side, first)| ratio(side, first)),
            memory,
            memory_met: memory.map(|bytes| bytes <= goal::MEMORY),
            cpu,
            written,
            opened: tally.opened,
            goal: side.goal.map(|goal| goal.to_string()),
            met: side.goal.zip(both).map(|(goal, (side, first))| goal.holds(side, first)),
        }
    };
    let sides = row.sides.iter().zip(tallies).enumerate().map(sided).collect();
    Compared { name: row.name, about: row.about, sides, load }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn row(name: &str) -> &'static Row {
        ROWS.iter().find(|row| row.name == name).unwrap()
    }

    fn tally(seconds: &[f64], memory: Option<u64>) -> Tally {
        let sample = |seconds: &f64| Sample { seconds: *seconds, memory, ..Sample::default() };
        Tally { samples: seconds.iter().map(sample).collect(), ..Tally::default() }
    }

    #[test]
    fn names_of_rows_and_sides_are_unique() {
        let names: BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
        for row in &ROWS {
            let sides: BTreeSet<_> = row.sides.iter().map(|side| side.by).collect();
            assert_eq!(sides.len(), row.sides.len(), "{}", row.name);
            assert!(row.sides[0].work.is_native(), "{}", row.name);
        }
    }

    #[test]
    fn sides_take_turns_and_slow_ones_stop_earlier() {
        let of = |name, runs| order(row(name), runs);
        assert_eq!(of("binary-cold", 2), [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]);
        let slow = of("scipy-cold", 7);
        assert_eq!(slow.iter().filter(|(_, side)| *side == 3).count(), 3);
        assert_eq!(slow.iter().filter(|(_, side)| *side == 1).count(), 7);
        assert_eq!(of("growth-base", 2)[..4], [(1, 0), (2, 0), (1, 1), (2, 1)]);
    }

    #[test]
    fn goals_are_checked_against_medians() {
        let tallies = vec![
            tally(&[0.2, 0.3, 0.1], Some(64_000_001)),
            tally(&[0.4], Some(64_000_000)),
            tally(&[10.0, 11.0, 9.0], None),
            Tally { why: Some("it is not installed".to_owned()), ..Tally::default() },
        ];
        let compared = compared(row("template-cold"), tallies, (0.0, 0.0));
        let judged: Vec<_> =
            compared.sides.iter().map(|side| (side.times.map(f64::round), side.met, side.memory_met)).collect();
        assert_eq!(
            judged,
            [
                (None, Some(true), Some(false)),
                (Some(2.0), None, Some(true)),
                (Some(50.0), Some(true), None),
                (None, None, None)
            ]
        );
        assert_eq!(compared.sides[3].why.as_deref(), Some("it is not installed"));
    }

    #[test]
    fn goals_are_those_that_the_documents_name() {
        let goals = |name| {
            let sides = row(name).sides.iter();
            sides.filter_map(|side| Some((side.by, side.goal?.to_string()))).collect::<Vec<_>>()
        };
        let of = |by: &'static str, goal: &str| (by, goal.to_owned());
        let docker = |goal| of("docker buildx", goal);
        assert_eq!(goals("template-cold"), [of("native", "≤ 0.25 s"), docker("≥ 50×")]);
        assert_eq!(goals("small-package-cold"), [of("native", "≤ 0.50 s"), docker("≥ 30×")]);
        assert_eq!(goals("scipy-cold"), [docker("≥ 15×")]);
        let base = [of("docker buildx, with pip", "≥ 6×"), of("docker buildx, with uv", "≥ 6×")];
        assert_eq!(goals("base-from-nothing"), base);
        assert_eq!(goals("no-op"), [of("native", "≤ 0.10 s"), of("native, through cargo's alias", "≤ 0.12 s")]);
    }

    #[test]
    fn files_that_were_opened_are_counted() {
        let summary = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 99.00    0.004100          11       345       123 openat
  1.00    0.000041           4        10           open
------ ----------- ----------- --------- --------- ----------------
100.00    0.004141          11       355       123 total
";
        assert_eq!(succeeded(summary), 232);
        assert_eq!(succeeded(""), 0);
    }

    #[test]
    fn growth_rows_are_measured_on_request() {
        let names = |filter| select(filter).unwrap().iter().map(|row| row.name).collect::<Vec<_>>();
        assert_eq!(names(None).len(), 11);
        assert_eq!(names(Some("template")), ["template-cold", "template-warm", "template-watch"]);
        assert_eq!(names(Some("rust")), ["rust-warm", "rust-cold"]);
        assert_eq!(names(Some("growth-files")), ["growth-files"]);
        assert!(select(Some("growth")).is_err());
    }
}
