//! A trace of demand through the real decision: the autoscaler alone and the autoscaler with a floor.
//!
//! Second by second, with pods that take time to start. Both see the same demand; only the minimum differs, and only
//! `decide` moves it. Pure: forecasts are made before, each from the samples before its origin.

use crate::decide::{Decision, Memory, Missing, Mode, Outlook, Policy, Reason, Seen, decide};
use crate::minimum::Minimum;
use crate::pods::Pods;
pub use crate::pods::{Cost, Workload};
use crate::units::{Demand, Replicas};
use autoscaler_forecast::calendar::Calendar;
use autoscaler_forecast::history::History;
use autoscaler_forecast::protocol::Rolled;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;

/// The forecast from one origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// The upper line, from the first step after the origin on.
    pub upper: Vec<f64>,
    /// True if its models are better than plain references.
    pub skilled: bool,
}

/// Forecasts by origin: the number of samples before it.
pub type Forecasts = BTreeMap<usize, Made>;

/// Returns the rolled forecasts by origin.
pub fn forecasts(rolled: Rolled) -> Forecasts {
    let made = rolled.upper.into_iter().zip(rolled.skilled).map(|(upper, skilled)| Made { upper, skilled });
    rolled.origins.into_iter().map(|origin| origin as usize).zip(made).collect()
}

/// One step of the trace, for drawing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Start of the step.
    pub time: Timestamp,
    /// The pods that would just serve its highest demand; none where nothing is known.
    pub needed: Option<f64>,
    /// The fewest ready pods of the autoscaler alone.
    pub alone: Replicas,
    /// The fewest ready pods with the floor.
    pub with_floor: Replicas,
    pub floor: Replicas,
    /// Seconds without enough pods, alone and with the floor.
    pub short: (u64, u64),
    /// Pod-seconds, alone and with the floor.
    pub pods: (u64, u64),
}

/// Counts of decisions by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub decisions: u64,
    pub raised: u64,
    pub lowered: u64,
    /// There was no forecast, so it was held.
    pub held: u64,
    /// There was no forecast for too long.
    pub stepped_back: u64,
    /// The forecast was no better than plain references.
    pub not_skilled: u64,
    /// Decisions whose rise was limited.
    pub rate_limited: u64,
    /// It asked for more than the cap.
    pub capped: u64,
}

impl Tally {
    fn add(&mut self, decision: &Decision) {
        self.decisions += 1;
        if let Some(change) = decision.change {
            *(if change.to() > change.from() { &mut self.raised } else { &mut self.lowered }) += 1;
        }
        for reason in &decision.reasons {
            match reason {
                Reason::Held { .. } => self.held += 1,
                Reason::SteppingBack { .. } => self.stepped_back += 1,
                Reason::NotSkilled { .. } => self.not_skilled += 1,
                Reason::RateLimited { .. } => self.rate_limited += 1,
                Reason::Capped { .. } => self.capped += 1,
                _ => {}
            }
        }
    }
}

/// Result of a simulation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Cost of the autoscaler alone.
    pub alone: Cost,
    /// Cost of the autoscaler with the floor.
    pub with_floor: Cost,
    pub tally: Tally,
    /// Number of simulated seconds.
    pub seconds: u64,
    /// Of these, those in which the demand is not known: no pod is called missing then.
    pub unknown_seconds: u64,
    /// All steps, for charts.
    pub steps: Vec<Step>,
}

/// A decision with what was seen before it.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedDecision<'a> {
    pub now: Timestamp,
    /// Minimum of the owner.
    pub original: Replicas,
    /// The pods with the floor, ready or not.
    pub replicas: Replicas,
    /// Value of the newest sample.
    pub demand: Option<f64>,
    pub decision: &'a Decision,
}

/// A trace with the workload and the policy that are simulated over it, from sample `first` on.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Demand to simulate.
    pub trace: &'a History,
    /// Index of the first simulated sample.
    pub first: usize,
    pub workload: &'a Workload,
    pub policy: &'a Policy,
    pub calendar: &'a Calendar,
}

impl<'a> Setup<'a> {
    /// Simulates the autoscaler alone and with the floor of these forecasts; `observe` sees every decision.
    pub fn run(&self, forecasts: &Forecasts, mut observe: impl FnMut(&SimulatedDecision<'_>)) -> Outcome {
        let step = self.step();
        let mut floor = FloorState::new(*self);
        let (mut alone, mut with_floor) = (self.pods(1.0), self.pods(1.0));
        let mut outcome = Outcome {
            alone: Cost::default(),
            with_floor: Cost::default(),
            tally: Tally::default(),
            seconds: 0,
            unknown_seconds: 0,
            steps: Vec::new(),
        };
        for index in self.indices() {
            let original = floor.minimum.original();
            let decision = floor.decide(index, forecasts.get(&(index + 1)), with_floor.desired());
            observe(&SimulatedDecision {
                now: self.trace.time(index),
                original,
                replicas: with_floor.running().all(),
                demand: self.trace.samples[index],
                decision: &decision,
            });
            outcome.tally.add(&decision);

            alone.begin_step();
            with_floor.begin_step();
            let pods = (alone.cost().pod_seconds, with_floor.cost().pod_seconds);
            let mut needed: Option<f64> = None;
            for second in 0..step {
                let clock = (index - self.first) as u64 * step + second;
                let demand = self.demand(index, second);
                alone.pass(clock, 1, self.workload.min, demand);
                with_floor.pass(clock, 1, floor.minimum.floor(), demand);
                match demand {
                    Some(demand) => {
                        let pods = demand.value() / self.workload.limit.of_one().value();
                        needed = Some(needed.map_or(pods, |most| most.max(pods)));
                    }
                    None => outcome.unknown_seconds += 1,
                }
            }
            outcome.seconds += step;
            outcome.steps.push(Step {
                time: self.trace.time(index),
                needed,
                alone: alone.fewest,
                with_floor: with_floor.fewest,
                floor: floor.minimum.floor(),
                short: (alone.short, with_floor.short),
                pods: (alone.cost().pod_seconds - pods.0, with_floor.cost().pod_seconds - pods.1),
            });
        }
        outcome.alone = alone.cost();
        outcome.with_floor = with_floor.cost();
        outcome
    }

    /// The autoscaler alone, with a target that leaves `headroom`: 1.1 aims at a tenth more pods.
    pub fn with_headroom(&self, headroom: f64) -> Cost {
        let mut pods = self.pods(headroom);
        self.each(1, |index, second| pods.pass(second, 1, self.workload.min, self.demand(index, second % self.step())));
        pods.cost()
    }

    /// The autoscaler with the floor of these forecasts.
    pub fn with_floor(&self, forecasts: &Forecasts) -> Cost {
        let mut floor = FloorState::new(*self);
        let mut pods = self.pods(1.0);
        self.each(1, |index, second| {
            if second.is_multiple_of(self.step()) {
                floor.decide(index, forecasts.get(&(index + 1)), pods.desired());
            }
            pods.pass(second, 1, floor.minimum.floor(), self.demand(index, second % self.step()));
        });
        pods.cost()
    }

    fn step(&self) -> u64 {
        self.trace.step.seconds().into()
    }

    pub(super) fn indices(&self) -> std::ops::Range<usize> {
        self.first..self.trace.samples.len().saturating_sub(1)
    }

    /// Calls `each` with the sample's index and the seconds since the first one, every `tick` seconds of each step.
    fn each(&self, tick: u64, mut each: impl FnMut(usize, u64)) {
        for index in self.indices() {
            for second in (0..self.step()).step_by(tick as usize) {
                each(index, (index - self.first) as u64 * self.step() + second);
            }
        }
    }

    /// Between two samples the demand goes from one to the other; next to a gap nothing is known.
    pub(super) fn demand(&self, index: usize, second: u64) -> Option<Demand> {
        let (here, there) = ((*self.trace.samples.get(index)?)?, (*self.trace.samples.get(index + 1)?)?);
        let part = second as f64 / self.step() as f64;
        Demand::new(here * (1.0 - part) + there * part, self.policy.capacity.unit())
    }

    /// As many pods as the first demand needs.
    pub(super) fn ready(&self) -> Replicas {
        let Setup { trace, first, workload, policy, .. } = *self;
        let capacity = policy.capacity;
        let known = trace.samples[..=first].iter().rev().flatten().next();
        let needed = known.and_then(|value| capacity.replicas_for(Demand::new(*value, capacity.unit())?));
        needed.unwrap_or(workload.min).clamp(workload.min, workload.max.max(workload.min))
    }

    /// Those pods under an autoscaler with a target that leaves `headroom`.
    pub(super) fn pods(&self, headroom: f64) -> Pods<'a> {
        Pods::new(self.workload, self.policy.capacity.scaled(1.0 / headroom), self.ready())
    }

    /// The floors of these forecasts, by step.
    #[cfg(test)]
    pub(super) fn decided(&self, forecasts: &Forecasts) -> Vec<Replicas> {
        let mut floor = FloorState::new(*self);
        self.indices().map(|index| floor.decide(index, forecasts.get(&(index + 1)), None).floor).collect()
    }
}

/// A floor that decisions move, and what they remember.
struct FloorState<'a> {
    setup: Setup<'a>,
    policy: Policy,
    minimum: Minimum,
    memory: Option<Memory>,
    outlook: Option<Outlook>,
}

impl<'a> FloorState<'a> {
    fn new(setup: Setup<'a>) -> FloorState<'a> {
        FloorState {
            setup,
            policy: Policy { mode: Mode::Enforce, ..setup.policy.clone() },
            minimum: Minimum::of_owner(setup.workload.min),
            memory: None,
            outlook: None,
        }
    }

    /// Decides at a sample, and moves the floor.
    fn decide(&mut self, index: usize, made: Option<&Made>, desired: Option<Replicas>) -> Decision {
        let Setup { trace, workload, .. } = self.setup;
        let now = trace.time(index);
        if let (Some(_), Some(made)) = (trace.samples[index], made) {
            let lately = &trace.samples[index.saturating_sub(lately(self.setup.step()))..=index];
            let recent = lately.iter().flatten().copied().fold(f64::NAN, f64::max);
            let unit = self.policy.capacity.unit();
            let outlook = Outlook::new(now, trace.step, unit, &made.upper, made.skilled);
            self.outlook = Some(outlook.with_recent(recent));
        }
        let outlook = self.outlook.as_ref();
        let seen = Seen {
            now,
            minimum: &self.minimum,
            max_replicas: workload.max,
            desired,
            paused: false,
            outlook: outlook.ok_or_else(|| Missing::NoForecast { cause: "none was made".to_owned() }),
        };
        let decision = decide(&self.policy, self.memory.as_ref(), &seen);
        if let Some(change) = decision.change {
            let patch = self.minimum.patch(change.to(), now);
            // The cluster returns this at the next read; our own annotation can be read.
            let read = Minimum::read(patch.field.map(|field| field.0), patch.annotation.as_deref());
            self.minimum = read.unwrap_or_else(|_| self.minimum.clone());
        }
        self.memory = Some(decision.memory.clone());
        decision
    }
}

/// The steps over which the highest demand is what an autoscaler may still run pods for.
fn lately(step: u64) -> usize {
    3_600_u64.div_ceil(step) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Seconds;
    use autoscaler_forecast::load::{self, Load};
    use autoscaler_forecast::naive;
    use autoscaler_forecast::protocol::{Question, Rolling};
    use autoscaler_forecast::span::Span;

    const STEP: Span = Span::from_seconds(300).unwrap();

    fn policy() -> Policy {
        Policy {
            mode: Mode::Enforce,
            capacity: "70".parse().unwrap(),
            step: STEP,
            lead_time: Span::from_seconds(900).unwrap(),
            max_floor: Replicas(100),
            max_step_up: Replicas(10),
            scale_down_delay: Seconds(600),
            stale_after: Seconds(1_800),
        }
    }

    fn workload() -> Workload {
        Workload { limit: "100".parse().unwrap(), start_delay: Seconds(180), min: Replicas(2), max: Replicas(100) }
    }

    fn by_naive(trace: &History, first: usize) -> Forecasts {
        let question = Question {
            samples: trace.samples.clone(),
            step_seconds: 300,
            season: 288,
            horizon: Outlook::horizon(policy().lead_time, STEP),
            quantile: 0.9,
            model: "auto".to_owned(),
            lead: None,
            replay: None,
        };
        forecasts(naive::roll(&Rolling { question, first: first as u32 + 1, every: 1 }).unwrap())
    }

    fn simulated(trace: &History, first: usize, workload: &Workload, forecasts: &Forecasts) -> Outcome {
        Setup { trace, first, workload, policy: &policy(), calendar: &Calendar::default() }.run(forecasts, |_| {})
    }

    fn of(load: Load, seed: u64) -> Outcome {
        let trace = load::generate(load, seed, 7, STEP);
        let first = 5 * 288;
        simulated(&trace, first, &workload(), &by_naive(&trace, first))
    }

    #[test]
    fn the_floor_rises_before_a_steep_morning_and_is_released_after_it() {
        let outcome = of(Load::Daily, 1);
        let (alone, with_floor) = (outcome.alone, outcome.with_floor);
        assert!(alone.under_provisioned_seconds > 300, "{alone:?}");
        assert!(with_floor.under_provisioned_seconds * 3 < alone.under_provisioned_seconds, "{with_floor:?} {alone:?}");
        assert!(with_floor.pod_seconds > alone.pod_seconds);
        let floor_at = |hour: i64| {
            let at = outcome.steps.iter().find(|step| step.time.as_second() % 86_400 == hour * 3_600);
            at.unwrap().floor
        };
        assert_eq!(floor_at(3), floor_at(2));
        assert!(floor_at(8).0 > 2 * floor_at(6).0, "{:?} {:?}", floor_at(8), floor_at(6));
        assert!(floor_at(23) < floor_at(8));
        assert!(outcome.tally.raised > 0 && outcome.tally.lowered > 0, "{:?}", outcome.tally);
    }

    #[test]
    fn on_noise_the_gate_leaves_both_alike() {
        let outcome = of(Load::Noise, 1);
        assert_eq!(outcome.alone, outcome.with_floor);
        assert_eq!((outcome.tally.raised, outcome.tally.not_skilled), (0, outcome.tally.decisions));
    }

    #[test]
    fn a_bad_forecast_costs_money_and_never_availability() {
        let trace = load::generate(Load::Spiky, 5, 3, STEP);
        for upper in [0.0, 400.0, 1e9, f64::NAN] {
            let made = Made { upper: vec![upper; 8], skilled: true };
            let forecasts = (1..trace.samples.len()).map(|origin| (origin, made.clone())).collect();
            let outcome = simulated(&trace, 288, &workload(), &forecasts);
            let (alone, with_floor) = (outcome.alone, outcome.with_floor);
            assert!(with_floor.under_provisioned_seconds <= alone.under_provisioned_seconds, "{upper}");
            assert!(with_floor.pod_seconds >= alone.pod_seconds, "{upper}");
        }
    }

    #[test]
    fn without_forecasts_nothing_is_raised() {
        let trace = load::generate(Load::Daily, 2, 2, STEP);
        let outcome = simulated(&trace, 0, &workload(), &Forecasts::new());
        assert_eq!(outcome.alone, outcome.with_floor);
        assert_eq!(outcome.tally.raised, 0);
        assert_eq!(outcome.tally.held + outcome.tally.stepped_back, outcome.tally.decisions);
    }

    #[test]
    fn an_outage_of_the_metrics_at_the_peak_rolls_nothing_back_under_load() {
        let mut trace = load::generate(Load::Daily, 3, 7, STEP);
        let first = 6 * 288;
        let forecasts = by_naive(&trace, first);
        // Half an hour without metrics, from nine on. The last forecast is fresh for ten minutes, then it is held.
        let nine = first + 9 * 12;
        trace.samples[nine..nine + 6].fill(None);
        let outcome = simulated(&trace, first, &workload(), &forecasts);
        let dark = &outcome.steps[9 * 12..9 * 12 + 6];
        assert!(dark.iter().all(|step| step.needed.is_none() && step.floor > Replicas(12)), "{dark:?}");
        assert!(dark[1..].iter().all(|step| step.floor == dark[1].floor), "{dark:?}");
        assert!(outcome.tally.held >= 4, "{:?}", outcome.tally);
        assert_eq!(outcome.unknown_seconds, 7 * 300);
    }

    #[test]
    fn a_pod_serves_after_its_start_delay_and_costs_from_the_beginning() {
        // From 70 to 280 within a step: the pods for it come three minutes after they are asked for.
        let samples = vec![Some(70.0), Some(280.0), Some(280.0), Some(280.0)];
        let trace = History { start: Timestamp::UNIX_EPOCH, step: STEP, samples };
        let workload = Workload { min: Replicas(1), ..workload() };
        let outcome = simulated(&trace, 0, &workload, &Forecasts::new());
        let ready: Vec<u32> = outcome.steps.iter().map(|step| step.alone.0).collect();
        assert_eq!(ready, [1, 2, 4]);
        assert_eq!(outcome.alone.most_pods, Replicas(4));
        assert!(outcome.alone.pod_seconds > 300 + 300 * 3 + 300 * 4 - 200, "{:?}", outcome.alone);
        assert!(outcome.alone.under_provisioned_seconds > 180, "{:?}", outcome.alone);
    }
}
