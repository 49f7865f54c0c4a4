//! Statistics of builds: sums, medians and the time saved, from records alone. Pure.
//!
//! Only what was measured is said: the time saved is measured against a `build-enhanced` that really ran, or not at all. Nothing is
//! computed from times of unlike machines: what a runner of CI takes says nothing of a desk.

pub mod chart;
pub mod page;

use crate::image::key::EditKind;
use crate::record::ledger::{BuildKind, Machine, Record};
use crate::time::{Date, Timestamp};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    #[serde(serialize_with = "text")]
    pub since: Timestamp,
    #[serde(serialize_with = "text")]
    pub until: Timestamp,
    pub builds: usize,
    pub failed: usize,
    /// Builds by day in UTC, from the first day with one to today.
    pub days: Vec<Day>,
    /// By machine, those that occur: local ones first.
    pub machines: Vec<MachineStats>,
    /// Seconds saved on all machines with a yardstick of their own, and by how many fast builds; nothing where none has one.
    pub saved: Option<(f64, usize)>,
    /// The records themselves, oldest first.
    #[serde(skip)]
    pub records: Vec<Record>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MachineStats {
    #[serde(serialize_with = "text")]
    pub machine: Machine,
    pub kinds: BTreeMap<BuildKind, Summary>,
    pub saved: Saved,
    /// Median seconds by phase of the fast builds, the longest first.
    pub fast_phases: Vec<(String, f64)>,
    /// Seconds of the fast builds that came to their end, oldest first.
    pub fast: Vec<f64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Day {
    /// The day in UTC.
    #[serde(serialize_with = "text")]
    pub date: Date,
    pub kinds: BTreeMap<BuildKind, usize>,
}

/// Builds of one kind. Times are seconds of those that succeeded.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub builds: usize,
    pub failed: usize,
    pub median: Option<f64>,
    pub slowest: Option<f64>,
    /// Compressed bytes sent by all of them, where they are known.
    pub pushed: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Saved {
    /// The sum over the fast builds of the time that one from scratch took last, less each one's own.
    Measured {
        /// Seconds saved; negative where fast builds are the slower ones.
        seconds: f64,
        /// Seconds of the last `build-enhanced`.
        enhanced: f64,
        #[serde(serialize_with = "text")]
        measured: Timestamp,
        /// Its steps that came from the build cache, of all: with many, the yardstick is a kind one.
        cached: Option<[usize; 2]>,
        spent: f64,
        /// Median seconds of the fast builds, for comparing at a glance; nothing is computed from it.
        fast: f64,
        builds: usize,
    },
    /// No `build-enhanced` was ever measured.
    NoYardstick,
    NoFastBuild,
}

fn text<S: serde::Serializer>(value: &impl std::fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

/// The middle value; between two, their mean.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[half]),
        // The mean without a sum that could overflow.
        _ => Some(sorted[half - 1] + (sorted[half] - sorted[half - 1]) / 2.0),
    }
}

/// Sums up. `records` are all there are: the yardstick may be older than `since`.
pub fn sum(records: &[Record], since: Timestamp, until: Timestamp) -> Stats {
    let mut recent: Vec<Record> =
        records.iter().filter(|record| (since..=until).contains(&record.when)).cloned().collect();
    recent.sort_by_key(|record| record.when);
    let known: BTreeSet<Machine> = recent.iter().map(Record::machine).collect();
    let of = |records: &[Record], machine: &Machine| {
        records.iter().filter(|record| record.machine() == *machine).cloned().collect::<Vec<_>>()
    };
    let on_machine = |machine: Machine| {
        let (all, recent) = (of(records, &machine), of(&recent, &machine));
        let fast = recent.iter().filter(|record| record.decision == BuildKind::Fast && record.counts());
        MachineStats {
            kinds: kinds(&recent),
            saved: saved(&all, &recent, until),
            fast_phases: fast_phases(&recent),
            fast: fast.map(|record| record.seconds).collect(),
            machine,
        }
    };
    let machines: Vec<MachineStats> = known.into_iter().map(on_machine).collect();
    let measured = machines.iter().filter_map(|on| match on.saved {
        Saved::Measured { seconds, builds, .. } => Some((seconds, builds)),
        _ => None,
    });
    Stats {
        since,
        until,
        builds: recent.len(),
        failed: recent.iter().filter(|record| !record.counts()).count(),
        days: days(&recent, until),
        saved: measured.reduce(|(seconds, builds), (more, others)| (seconds + more, builds + others)),
        machines,
        records: recent,
    }
}

fn kinds(records: &[Record]) -> BTreeMap<BuildKind, Summary> {
    let mut kinds = BTreeMap::new();
    for kind in BuildKind::ALL {
        let of_kind = || records.iter().filter(move |record| record.decision == kind);
        if of_kind().next().is_some() {
            let times = || of_kind().filter(|record| record.counts()).map(|record| record.seconds);
            let summary = Summary {
                builds: of_kind().count(),
                failed: of_kind().filter(|record| !record.counts()).count(),
                median: median(times()),
                slowest: times().max_by(f64::total_cmp),
                pushed: of_kind().filter_map(|record| record.bytes.pushed).sum(),
            };
            kinds.insert(kind, summary);
        }
    }
    kinds
}

/// Every day from the first build on: days without builds are part of the picture.
fn days(records: &[Record], until: Timestamp) -> Vec<Day> {
    let mut counts: BTreeMap<Date, BTreeMap<BuildKind, usize>> = BTreeMap::new();
    for record in records {
        *counts.entry(record.when.date()).or_default().entry(record.decision).or_default() += 1;
    }
    let Some(first) = counts.keys().next().copied() else { return Vec::new() };
    first.to(until.date()).map(|date| Day { date, kinds: counts.remove(&date).unwrap_or_default() }).collect()
}

fn saved(records: &[Record], recent: &[Record], until: Timestamp) -> Saved {
    let of_kind = |record: &&Record, kind: BuildKind| record.decision == kind && record.counts();
    let fast_builds = || recent.iter().filter(|record| of_kind(record, BuildKind::Fast)).map(|record| record.seconds);
    let Some(fast) = median(fast_builds()) else { return Saved::NoFastBuild };
    let measured = |record: &&Record| of_kind(record, BuildKind::Enhanced) && record.when <= until;
    match records.iter().filter(measured).max_by_key(|record| record.when) {
        None => Saved::NoYardstick,
        Some(record) => {
            let (enhanced, measured, cached) = (record.seconds, record.when, record.steps);
            let (builds, spent) = (fast_builds().count(), fast_builds().sum());
            let seconds = enhanced * builds as f64 - spent;
            Saved::Measured { seconds, enhanced, measured, cached, spent, fast, builds }
        }
    }
}

fn fast_phases(records: &[Record]) -> Vec<(String, f64)> {
    let mut phases: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let fast: Vec<&Record> =
        records.iter().filter(|record| record.decision == BuildKind::Fast && record.counts()).collect();
    for (name, seconds) in fast.iter().flat_map(|record| &record.phases) {
        phases.entry(name).or_default().push(*seconds);
    }
    // A phase that a build did not have took no time in it.
    let full = |mut times: Vec<f64>| {
        times.resize(fast.len().max(times.len()), 0.0);
        median(times).unwrap_or(0.0)
    };
    let mut medians: Vec<(String, f64)> = phases
        .into_iter()
        .map(|(name, times)| (name.to_owned(), full(times)))
        .filter(|(_, time)| *time > 0.0)
        .collect();
    medians.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
    medians
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimeGate {
    /// The machines, and the native engine where that built; where others differ, whether it was pushed and what was edited.
    pub of: String,
    #[serde(flatten)]
    pub found: GateResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum GateResult {
    TooFew {
        builds: usize,
        needed: usize,
    },
    Compared {
        before: f64,
        now: f64,
        /// True if the last ones exceed the allowed factor.
        slower: bool,
    },
}

/// Properties that must be equal for two times to be comparable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Comparable {
    machine: Machine,
    native: bool,
    pushed: bool,
    change: Option<EditKind>,
}

impl Comparable {
    fn of(record: &Record) -> Self {
        let (native, pushed) = (record.is_native(), record.is_pushed());
        Self { machine: record.machine(), native, pushed, change: record.change() }
    }
}

impl Comparable {
    /// Its name among `all`: what no other one differs in is left out.
    fn among(&self, all: &[Self]) -> String {
        let mut name = self.machine.to_string();
        let here: Vec<&Self> = all.iter().filter(|other| other.machine == self.machine).collect();
        if self.native {
            name += ", native";
        }
        if self.pushed && here.iter().any(|other| !other.pushed) {
            name += ", pushed";
        }
        if let Some(change) = self.change.filter(|change| here.iter().any(|other| other.change != Some(*change))) {
            name += &format!(", {change}");
        }
        name
    }
}

/// Compares the last `count` fast builds with as many before, like with like: machine, engine, whether it was pushed, and kind
/// of edit. What has built nothing since `since` is past: what it once took holds nobody up.
pub fn gate(records: &[Record], since: Timestamp, count: usize, factor: f64) -> Vec<TimeGate> {
    let mut fast: Vec<&Record> =
        records.iter().filter(|record| record.decision == BuildKind::Fast && record.counts()).collect();
    fast.sort_by_key(|record| record.when);
    let mut alike: BTreeMap<Comparable, Vec<&Record>> = BTreeMap::new();
    for record in fast.into_iter().rev() {
        alike.entry(Comparable::of(record)).or_default().push(record);
    }
    let current: Vec<_> = alike.into_iter().filter(|(_, builds)| builds[0].when >= since).collect();
    let all: Vec<Comparable> = current.iter().map(|(alike, _)| alike.clone()).collect();
    let gate = |(alike, builds): (Comparable, Vec<&Record>)| {
        let times: Vec<f64> = builds.iter().take(2 * count).map(|record| record.seconds).collect();
        let found = if times.len() < 2 * count {
            GateResult::TooFew { builds: times.len(), needed: 2 * count }
        } else {
            let now = median(times[..count].iter().copied()).unwrap_or(0.0);
            let before = median(times[count..].iter().copied()).unwrap_or(0.0);
            GateResult::Compared { before, now, slower: now > factor * before }
        };
        TimeGate { of: alike.among(&all), found }
    };
    current.into_iter().map(gate).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::ledger::test_data::record;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const HOUR: i64 = 3_600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Two days of a team: a base, fast builds, one that failed, one from scratch.
    pub(crate) fn team() -> Stats {
        let mut failed = record(BuildKind::Fast, 30 * HOUR, 60.0);
        failed.failed = Some("the app does <not> start".to_owned());
        let records = [
            record(BuildKind::Enhanced, 1, 90.0),
            record(BuildKind::BaseFast, 10 * HOUR, 40.0),
            record(BuildKind::Fast, 11 * HOUR, 2.0),
            record(BuildKind::Fast, 12 * HOUR, 4.0),
            record(BuildKind::Fast, 60 * HOUR, 3.0),
            failed,
            record(BuildKind::Reused, 61 * HOUR, 0.2),
        ];
        sum(&records, at(5 * HOUR), at(72 * HOUR - 1))
    }

    #[test]
    fn the_time_saved_is_measured_against_an_older_build_from_scratch() {
        let stats = team();
        assert_eq!((stats.builds, stats.failed, stats.days.len()), (6, 1, 3));
        let [on] = &stats.machines[..] else { panic!("{:?}", stats.machines) };
        let Saved::Measured { seconds, enhanced, fast, builds, .. } = on.saved else { panic!("{:?}", on.saved) };
        assert_eq!((seconds, enhanced, fast, builds), (261.0, 90.0, 3.0, 3));
        assert_eq!(stats.saved, Some((261.0, 3)));
        assert_eq!(on.kinds[&BuildKind::Fast].slowest, Some(4.0));
    }

    pub(crate) fn two_machines() -> Stats {
        let in_ci = |kind, second, seconds| Record { ci: true, cores: 4, ..record(kind, second, seconds) };
        let records = [
            record(BuildKind::Enhanced, 1, 90.0),
            record(BuildKind::Fast, 2, 2.0),
            record(BuildKind::Fast, 3, 4.0),
            in_ci(BuildKind::Fast, 4, 30.0),
            in_ci(BuildKind::Fast, 5, 50.0),
            in_ci(BuildKind::Fast, 6, 40.0),
        ];
        sum(&records, at(0), at(HOUR))
    }

    #[test]
    fn nothing_is_computed_from_times_of_unlike_machines() {
        let stats = two_machines();
        let [desk, runner] = &stats.machines[..] else { panic!("{:?}", stats.machines) };
        assert_eq!([&desk.machine, &runner.machine].map(|machine| machine.ci), [false, true]);
        assert_eq!([desk, runner].map(|on| on.kinds[&BuildKind::Fast].median), [Some(3.0), Some(40.0)]);
        // The desk's yardstick is none for the runner, of which nothing is claimed.
        assert_eq!(runner.saved, Saved::NoYardstick);
        assert_eq!(stats.saved, Some((174.0, 2)));
        assert_eq!(two_machines().builds, 6);
    }

    #[test]
    fn the_gate_compares_like_with_like() {
        let turns = |first: fn(&mut Record), now: f64| {
            let one = |n: i64| {
                let mut record = record(BuildKind::Fast, n, if n < 4 { 1.0 } else { now });
                if n % 2 == 0 {
                    first(&mut record);
                    record.seconds *= 40.0;
                }
                record
            };
            (0..8).map(one).collect::<Vec<_>>()
        };
        for unlike in [
            (|record| record.ci = true) as fn(&mut Record),
            |record| record.cores = 64,
            |record| record.platform = None,
            |record| record.engine = Some("builder far".to_owned()),
            |record| record.engine = Some("native".to_owned()),
            |record| record.bytes.pushed = Some(1),
            |record| record.change = Some(EditKind::Program),
        ] {
            let slower = |now: f64, since: i64| {
                let gates = gate(&turns(unlike, now), at(since), 2, 1.5);
                gates
                    .iter()
                    .map(|gate| matches!(gate.found, GateResult::Compared { slower: true, .. }))
                    .collect::<Vec<_>>()
            };
            assert_eq!(slower(1.0, 0), [false, false]);
            assert_eq!(slower(1.6, 0), [true, true]);
            assert_eq!(slower(1.6, 7), [true], "the other built nothing since");
        }
        // Another Docker is none: that it is slower is what one wants to know.
        let docker = turns(|record| (record.engine, record.seconds) = (Some("29.1.3".to_owned()), 0.04), 1.0);
        assert_eq!(gate(&docker, at(0), 2, 1.5).len(), 1);
    }

    #[test]
    fn five_edits_of_the_program_are_not_compared_with_five_of_templates() {
        let edit = |second: i64, change: EditKind| {
            let seconds = if change == EditKind::Program { 40.0 } else { 0.2 };
            Record { change: Some(change), ..record(BuildKind::Fast, second, seconds) }
        };
        let mut records: Vec<Record> = (0..5).map(|second| edit(second, EditKind::Files)).collect();
        records.extend((5..10).map(|second| edit(second, EditKind::Program)));
        let found =
            |records: &[Record]| gate(records, at(0), 5, 2.0).into_iter().map(|gate| gate.found).collect::<Vec<_>>();
        let few = GateResult::TooFew { builds: 5, needed: 10 };
        assert_eq!(found(&records), [few, few]);
        // Records of before the kind was written down say it in other words.
        for record in &mut records {
            let reason = match record.change.take() {
                Some(EditKind::Program) => "app: sources of autoscaler",
                _ => "app: templates/list.html was edited",
            };
            record.reasons = vec!["app: nothing of this fingerprint is in the registry".to_owned(), reason.to_owned()];
        }
        assert_eq!(found(&records), [few, few]);
        let names: Vec<String> = gate(&records, at(0), 5, 2.0).into_iter().map(|gate| gate.of).collect();
        assert!(
            names[0].ends_with(", edits of the program") && names[1].ends_with(", edits of copied files"),
            "{names:?}"
        );
    }

    fn alone(records: &[Record]) -> MachineStats {
        let mut machines = sum(records, at(0), at(2 * HOUR)).machines;
        assert_eq!(machines.len(), 1);
        machines.remove(0)
    }

    #[test]
    fn an_outlier_counts_with_its_own_time_and_no_more() {
        let mut records: Vec<Record> = (1..=9).map(|second| record(BuildKind::Fast, second, 2.0)).collect();
        records.push(record(BuildKind::Fast, 10, 82.0));
        records.push(record(BuildKind::Enhanced, 11, 102.0));
        let Saved::Measured { seconds, spent, fast, .. } = alone(&records).saved else { panic!() };
        assert_eq!((seconds, spent, fast), (920.0, 100.0, 2.0));
        // One that took longer than a build from scratch has lost what it took more.
        records[0].seconds = 202.0;
        let Saved::Measured { seconds, .. } = alone(&records).saved else { panic!() };
        assert_eq!(seconds, 720.0);
    }

    #[test]
    fn without_a_yardstick_nothing_is_claimed() {
        let fast = [record(BuildKind::Fast, HOUR, 2.0)];
        assert_eq!(alone(&fast).saved, Saved::NoYardstick);
        let mut failed = record(BuildKind::Enhanced, 1, 90.0);
        failed.failed = Some("no".to_owned());
        assert_eq!(alone(&[fast[0].clone(), failed.clone()]).saved, Saved::NoYardstick);
        assert_eq!(alone(&[failed]).saved, Saved::NoFastBuild);
        assert_eq!(sum(&fast, at(0), at(2 * HOUR)).saved, None);
    }

    #[test]
    fn a_phase_that_most_builds_lack_takes_no_time() {
        let mut records: Vec<Record> = (1..=3).map(|second| record(BuildKind::Fast, second, 2.0)).collect();
        records[0].phases.push(("app compile".to_owned(), 9.0));
        assert_eq!(alone(&records).fast_phases, [("app build".to_owned(), 1.0)]);
    }

    #[track_caller]
    fn compares(times: &[f64], factor: f64, expected: Option<bool>) {
        let records: Vec<Record> =
            times.iter().enumerate().map(|(index, time)| record(BuildKind::Fast, index as i64, *time)).collect();
        let found = match gate(&records, at(0), 2, factor)[0].found {
            GateResult::TooFew { .. } => None,
            GateResult::Compared { slower, .. } => Some(slower),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn the_gate_compares_the_last_with_those_before() {
        compares(&[1.0, 1.0, 1.0], 1.5, None);
        compares(&[1.0, 1.0, 1.4, 1.5], 1.5, Some(false));
        compares(&[1.0, 1.0, 1.6, 1.6], 1.5, Some(true));
        compares(&[9.0, 1.0, 1.0, 1.6, 1.6], 1.5, Some(true));
        compares(&[2.0, 2.0, 1.0, 1.0], 1.0, Some(false));
    }

    fn records() -> impl Strategy<Value = Vec<Record>> {
        vec((0_usize..6, 0_i64..1_000_000, 0.0..1e4_f64, any::<bool>(), any::<bool>()), 0..40).prop_map(|made| {
            let one = |(kind, second, seconds, failed, ci): (usize, i64, f64, bool, bool)| {
                let mut record = record(BuildKind::ALL[kind], second, seconds);
                record.failed = failed.then(|| "no".to_owned());
                record.ci = ci;
                record
            };
            made.into_iter().map(one).collect()
        })
    }

    proptest! {
        #[test]
        fn every_build_is_counted_once(records in records(), since in 0_i64..1_000_000) {
            let stats = sum(&records, at(since), at(1_000_000));
            prop_assert_eq!(stats.builds, records.iter().filter(|record| record.when >= at(since)).count());
            prop_assert_eq!(stats.builds, stats.machines.iter().flat_map(|on| on.kinds.values()).map(|kind| kind.builds).sum::<usize>());
            prop_assert_eq!(stats.builds, stats.days.iter().flat_map(|day| day.kinds.values()).sum::<usize>());
            prop_assert_eq!(stats.failed, stats.machines.iter().flat_map(|on| on.kinds.values()).map(|kind| kind.failed).sum::<usize>());
        }

        #[test]
        fn the_order_of_records_says_nothing(records in records()) {
            let mut turned = records.clone();
            turned.reverse();
            let (one, other) = (sum(&records, at(0), at(1_000_000)), sum(&turned, at(0), at(1_000_000)));
            let kinds = |stats: &Stats| stats.machines.iter().map(|on| (on.kinds.clone(), on.fast_phases.clone())).collect::<Vec<_>>();
            prop_assert_eq!((kinds(&one), one.days), (kinds(&other), other.days));
        }

        #[test]
        fn what_is_saved_is_the_sum_of_what_each_build_saved(times in vec(0.0..1e4_f64, 1..40), enhanced in 0.0..1e4_f64) {
            let mut records: Vec<Record> = times.iter().map(|time| record(BuildKind::Fast, 5, *time)).collect();
            records.push(record(BuildKind::Enhanced, 4, enhanced));
            let Saved::Measured { seconds, builds, .. } = alone(&records).saved else { panic!() };
            let each: f64 = times.iter().map(|time| enhanced - time).sum();
            prop_assert!((seconds - each).abs() < 1e-6 && builds == times.len());
        }

        #[test]
        fn a_median_lies_between_and_grows_with_its_values(values in vec(0.0..1e6_f64, 1..30), factor in 1.0..10.0_f64) {
            let middle = median(values.iter().copied()).unwrap();
            let below = values.iter().filter(|value| **value <= middle).count();
            let above = values.iter().filter(|value| **value >= middle).count();
            prop_assert!(2 * below >= values.len() && 2 * above >= values.len());
            let grown = median(values.iter().map(|value| value * factor)).unwrap();
            prop_assert!((grown - middle * factor).abs() <= 1e-6 * (1.0 + grown));
        }

        #[test]
        fn the_gate_opens_for_builds_that_stay_as_they_are(time in 0.001..1e4_f64, factor in 1.0..5.0_f64, count in 1_usize..6) {
            let same: Vec<Record> = (0..2 * count).map(|index| record(BuildKind::Fast, index as i64, time)).collect();
            prop_assert_eq!(gate(&same, at(0), count, factor)[0].found, GateResult::Compared { before: time, now: time, slower: false });
            let mut slower = same;
            slower[count..].iter_mut().for_each(|record| record.seconds *= factor * 1.01);
            let closed = matches!(gate(&slower, at(0), count, factor)[0].found, GateResult::Compared { slower: true, .. });
            prop_assert!(closed);
        }
    }
}
