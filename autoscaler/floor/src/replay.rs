//! Replays of one past with many floors, for choosing between them: coarser than a simulation, and much faster.
//!
//! The autoscaler and `decide` are the same as in a simulation, without what a choice does not read: reasons, annotations and
//! the trace of each second. Tests compare both. What does not depend on the floor is computed once and shared by all replays.
//! Pure.

use crate::decide::Policy;
use crate::hpa;
use crate::simulate::Setup;
use crate::units::{Demand, Replicas};
use std::collections::VecDeque;

// A ramp of a quarter of an hour is still seen.
const COARSE: u64 = 60;

/// Shortage and cost over one block of time, such as a day.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Block {
    /// Seconds short of pods plus pod-seconds short.
    pub(super) short: f64,
    pub(super) pods: f64,
}

/// A past that floors are replayed over.
#[derive(Debug)]
pub(super) struct Replay<'a> {
    setup: Setup<'a>,
    /// Seconds of a tick; the last one of a step may be shorter.
    tick: u64,
    /// Demand by tick; NaN where it is unknown.
    demand: Vec<f64>,
    /// Pods that the autoscaler's metric asks for, by tick.
    asks: Vec<u32>,
    /// The steps at which a block begins, without the first one.
    cuts: Vec<usize>,
}

pub(super) type Floors = Vec<u32>;

impl<'a> Replay<'a> {
    /// A past in blocks of `block` seconds.
    pub(super) fn new(setup: Setup<'a>, block: u64) -> Replay<'a> {
        let step = u64::from(setup.trace.step.seconds());
        let tick = (step / 5).max(COARSE).min(step);
        let number = |index: usize| setup.calendar.block(setup.trace.time(index).as_second(), block as i64);
        let steps = setup.indices();
        let mut demand = Vec::new();
        for index in steps.clone() {
            for second in (0..step).step_by(tick as usize) {
                demand.push(setup.demand(index, second).map_or(f64::NAN, Demand::value));
            }
        }
        // A clock that goes back over midnight ends no day twice, and one that skips a day leaves an empty one.
        let (mut cuts, mut last) = (Vec::new(), number(steps.start));
        for index in steps.clone().skip(1) {
            let ended = usize::try_from(number(index) - last).unwrap_or(0);
            cuts.extend(std::iter::repeat_n(index - steps.start, ended));
            last = last.max(number(index));
        }
        let mut replay = Replay { setup, tick, demand, asks: Vec::new(), cuts };
        replay.asks = replay.asks(1.0);
        replay
    }

    fn asks(&self, headroom: f64) -> Vec<u32> {
        let target = self.setup.policy.capacity.scaled(1.0 / headroom);
        let pods = |value: &f64| Demand::new(*value, target.unit()).and_then(|demand| target.replicas_for(demand));
        self.demand.iter().map(|value| pods(value).unwrap_or_default().0).collect()
    }

    /// The autoscaler alone, with a target that leaves `headroom`.
    pub(super) fn with_headroom(&self, headroom: f64) -> Vec<Block> {
        let floors = vec![self.setup.workload.min.0; self.setup.indices().len()];
        if headroom == 1.0 {
            self.run(1.0, &self.asks, &floors)
        } else {
            self.run(headroom, &self.asks(headroom), &floors)
        }
    }

    /// Replays the autoscaler with these floors.
    pub(super) fn with_floors(&self, floors: &Floors) -> Vec<Block> {
        self.run(1.0, &self.asks, floors)
    }

    /// The floors that `decide` makes of the highest demand until the lead time, by origin.
    pub(super) fn floors(&self, peak: impl Fn(usize) -> f64) -> Floors {
        let Setup { trace, workload, policy, .. } = self.setup;
        let mut floor = Floor::new(policy, workload.min, workload.max);
        let mut heard: Option<(usize, f64)> = None;
        let decide = |index: usize| {
            if trace.samples[index].is_some() {
                heard = Some((index, peak(index + 1)));
            }
            let fresh = heard.filter(|(at, _)| index - at <= FRESH_STEPS).map(|(_, peak)| peak);
            floor.decide(fresh.and_then(|peak| Demand::new(peak, policy.capacity.unit())))
        };
        self.setup.indices().map(decide).collect()
    }

    fn run(&self, headroom: f64, asks: &[u32], floors: &[u32]) -> Vec<Block> {
        let Setup { workload, policy, .. } = self.setup;
        let step = u64::from(self.setup.trace.step.seconds());
        let limit = workload.limit.of_one().value();
        let mut pods = ReplayedPods {
            ready: self.setup.ready().0,
            starting: VecDeque::new(),
            all: 0,
            wanted: VecDeque::new(),
            target: policy.capacity.scaled(1.0 / headroom).of_one().value(),
            max: workload.max.0,
            start_delay: workload.start_delay.0,
        };
        pods.all = pods.ready;
        let (mut blocks, mut block, mut at) = (Vec::with_capacity(self.cuts.len() + 1), Block::default(), 0);
        let mut cuts = self.cuts.iter().copied().peekable();
        for (index, floor) in floors.iter().enumerate() {
            while cuts.next_if_eq(&index).is_some() {
                blocks.push(std::mem::take(&mut block));
            }
            let begin = index as u64 * step;
            let mut second = 0;
            while second < step {
                let length = (step - second).min(self.tick);
                let clock = begin + second;
                let (demand, ask) = (self.demand[at], asks[at]);
                pods.pass(clock, clock % hpa::PERIOD < self.tick, *floor, demand, ask);
                block.pods += f64::from(pods.all) * length as f64;
                let beyond = demand - limit * f64::from(pods.ready);
                // False where the demand is NaN.
                if beyond > 0.0 {
                    block.short += (1.0 + beyond / limit) * length as f64;
                }
                at += 1;
                second += length;
            }
        }
        blocks.push(block);
        blocks
    }
}

/// The pods of a replay and their autoscaler.
struct ReplayedPods {
    ready: u32,
    starting: VecDeque<(u64, u32)>,
    all: u32,
    /// Pods that the metric asked for within the stabilisation: each later one is lower.
    wanted: VecDeque<(u64, u32)>,
    target: f64,
    max: u32,
    start_delay: u64,
}

impl ReplayedPods {
    fn pass(&mut self, clock: u64, syncs: bool, min: u32, demand: f64, ask: u32) {
        while let Some((_, pods)) = self.starting.front().filter(|(when, _)| *when <= clock) {
            self.ready += pods;
            self.starting.pop_front();
        }
        if !syncs {
            return;
        }
        while self.wanted.front().is_some_and(|(when, _)| clock - when > hpa::STABILISATION) {
            self.wanted.pop_front();
        }
        let all = self.all;
        let next = if all > self.max {
            self.max
        } else if all < min {
            min
        } else if demand.is_nan() || self.ready == 0 {
            all
        } else {
            let wanted = self.wants(demand, ask);
            while self.wanted.back().is_some_and(|(_, less)| *less <= wanted) {
                self.wanted.pop_back();
            }
            self.wanted.push_back((clock, wanted));
            let most = self.wanted.front().map_or(wanted, |(_, most)| *most);
            let stable = if wanted > all { wanted } else { most.min(all) };
            let fastest = all.saturating_mul(2).max(all.saturating_add(hpa::FAST_PODS));
            stable.min(fastest).min(self.max).max(min)
        };
        if next > all {
            self.starting.push_back((clock + self.start_delay, next - all));
        }
        let mut surplus = all.saturating_sub(next);
        while surplus > 0 {
            match self.starting.back_mut() {
                Some((_, pods)) if *pods > surplus => {
                    *pods -= surplus;
                    surplus = 0;
                }
                Some((_, pods)) => {
                    surplus -= *pods;
                    self.starting.pop_back();
                }
                None => {
                    self.ready = self.ready.saturating_sub(surplus);
                    surplus = 0;
                }
            }
        }
        self.all = next;
    }

    fn wants(&self, demand: f64, ask: u32) -> u32 {
        let ratio = |pods: u32| demand / (self.target * f64::from(pods));
        let near = |ratio: f64| (ratio - 1.0).abs() <= hpa::TOLERANCE;
        let measured = ratio(self.ready);
        if measured > 1.0 && self.all > self.ready {
            let with_all = ratio(self.all);
            if with_all <= 1.0 || near(with_all) {
                return self.all;
            }
        } else if near(measured) {
            return self.all;
        }
        ask
    }
}

// As an outlook: the newest sample may be so old.
const FRESH_STEPS: usize = 2;

/// The floor of an enforced policy that is decided once a step and that nobody else moves.
struct Floor<'a> {
    policy: &'a Policy,
    original: Replicas,
    cap: Replicas,
    current: Replicas,
    /// Steps with a forecast, and what was wanted at most since each; what is low in between does not count.
    heard: VecDeque<(u64, Replicas)>,
    watched: u64,
    missing: Option<u64>,
    begun: bool,
}

impl<'a> Floor<'a> {
    fn new(policy: &'a Policy, original: Replicas, max: Replicas) -> Floor<'a> {
        Floor {
            policy,
            original,
            cap: policy.max_floor.min(max).max(original),
            current: original,
            heard: VecDeque::from([(0, original)]),
            watched: 0,
            missing: None,
            begun: false,
        }
    }

    fn decide(&mut self, peak: Option<Demand>) -> u32 {
        let passed = if std::mem::replace(&mut self.begun, true) { u64::from(self.policy.step.seconds()) } else { 0 };
        let needs = peak.and_then(|peak| self.policy.capacity.replicas_for(peak));
        let next = match needs {
            Some(needs) => self.held(needs.clamp(self.original, self.cap), passed),
            None => self.stepped_back(passed),
        };
        self.current = next.clamp(self.original, self.cap);
        self.current.0
    }

    fn held(&mut self, wanted: Replicas, passed: u64) -> Replicas {
        self.missing = None;
        self.watched += passed;
        let delay = self.policy.scale_down_delay.0;
        while self.heard.front().is_some_and(|(at, _)| self.watched - at >= delay) {
            self.heard.pop_front();
        }
        while self.heard.back().is_some_and(|(_, less)| *less <= wanted) {
            self.heard.pop_back();
        }
        self.heard.push_back((self.watched, wanted));
        let held = self.heard.front().map_or(wanted, |(_, most)| *most);
        if held > self.current { held.min(self.current.plus(self.policy.max_step_up)) } else { held }
    }

    fn stepped_back(&mut self, passed: u64) -> Replicas {
        let step = u64::from(self.policy.step.seconds());
        let due = |missing: u64| missing.checked_sub(self.policy.stale_after.0).map(|beyond| beyond / step + 1);
        let done = self.missing.and_then(due).unwrap_or(0);
        let missing = self.missing.unwrap_or(0) + passed;
        self.missing = Some(missing);
        let Some(due) = due(missing) else { return self.current };
        let steps = u32::try_from(due - done).unwrap_or(u32::MAX);
        let down = self.policy.max_step_up.max(Replicas(1)).0.saturating_mul(steps);
        let next = self.current.less(Replicas(down)).max(self.original);
        if next < self.current {
            self.heard = VecDeque::from([(self.watched, next)]);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Mode;
    use crate::simulate::{Made, Workload};
    use crate::units::{Capacity, Seconds};
    use autoscaler_forecast::calendar::Calendar;
    use autoscaler_forecast::history::History;
    use autoscaler_forecast::load::{self, Load};
    use autoscaler_forecast::span::Span;
    use proptest::prelude::*;

    const STEP: Span = Span::from_seconds(300).unwrap();

    fn policy() -> Policy {
        Policy {
            mode: Mode::Enforce,
            capacity: "70".parse().unwrap(),
            step: STEP,
            lead_time: Span::from_seconds(900).unwrap(),
            max_floor: Replicas(60),
            max_step_up: Replicas(6),
            scale_down_delay: Seconds(1_200),
            stale_after: Seconds(900),
        }
    }

    fn workload() -> Workload {
        Workload { limit: "100".parse().unwrap(), start_delay: Seconds(180), min: Replicas(2), max: Replicas(50) }
    }

    fn trace(samples: Vec<Option<f64>>) -> History {
        History { start: jiff::Timestamp::from_second(1_767_571_200).unwrap(), step: STEP, samples }
    }

    proptest! {
        #[test]
        fn floors_are_those_of_the_decision(
            samples in prop::collection::vec(prop::option::weighted(0.8, 0.0..6_000.0), 3..80),
            peaks in prop::collection::vec(prop_oneof![4 => 0.0..6_000.0, 1 => Just(f64::NAN)], 80),
        ) {
            let (trace, policy, workload) = (trace(samples), policy(), workload());
            let setup = Setup {
                trace: &trace,
                first: 0,
                workload: &workload,
                policy: &policy,
                calendar: &Calendar::default(),
            };
            let made = |origin: usize| Made { upper: vec![peaks[origin % 80]; 5], skilled: true };
            let forecasts = (1..=trace.samples.len()).map(|origin| (origin, made(origin))).collect();
            let simulated: Vec<u32> = setup.decided(&forecasts).iter().map(|floor| floor.0).collect();
            let replayed = Replay::new(setup, 86_400).floors(|origin| peaks[origin % 80]);
            prop_assert_eq!(simulated, replayed);
        }
    }

    #[test]
    fn a_replay_is_a_simulation_by_minutes() {
        for load in [Load::Daily, Load::Cron, Load::Requests] {
            let trace = load::generate(load, 4, 3, STEP);
            let capacity: Capacity = if load == Load::Requests { "4/s" } else { "87/s" }.parse().unwrap();
            let policy = Policy { capacity, ..policy() };
            let workload = Workload { limit: capacity.scaled(1.0 / 0.7), max: Replicas(100), ..workload() };
            let setup = Setup {
                trace: &trace,
                first: 288,
                workload: &workload,
                policy: &policy,
                calendar: &Calendar::default(),
            };
            let replay = Replay::new(setup, 86_400);
            let floors = replay.floors(|origin| trace.samples.get(origin).copied().flatten().unwrap_or(f64::NAN));
            let minima = vec![workload.min.0; floors.len()];
            for (headroom, floors) in [(1.0, &minima), (1.3, &minima), (1.0, &floors)] {
                let mut pods = setup.pods(headroom);
                for (step, floor) in floors.iter().enumerate() {
                    for second in (0..300).step_by(60) {
                        let demand = setup.demand(288 + step, second);
                        pods.pass(step as u64 * 300 + second, 60, Replicas(*floor), demand);
                    }
                }
                let cost = pods.cost();
                let blocks = if headroom == 1.0 { replay.with_floors(floors) } else { replay.with_headroom(headroom) };
                let sum = |of: fn(&Block) -> f64| blocks.iter().map(of).sum::<f64>();
                let short = cost.under_provisioned_seconds as f64 + cost.short_pod_seconds;
                assert_eq!(sum(|block| block.pods), cost.pod_seconds as f64, "{load:?} {headroom}");
                assert!((sum(|block| block.short) - short).abs() < 1e-6 * short + 1e-6, "{load:?} {headroom}");
                assert!(short > 0.0 && blocks.len() == 2);
            }
        }
    }
}
