//! A trace of demand through the real decision: the autoscaler alone beside the autoscaler with a floor.
//!
//! Second by second, with pods that take time to start. Both see the same demand; only the minimum differs, and only
//! `decide` moves it. Pure: forecasts are made before, each from the samples before its origin.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde::Serialize;

use crate::floor::decide::{Decision, Memory, Missing, Mode, Outlook, Policy, Reason, Seen, decide};
use crate::floor::hpa::{self, Hpa, Running};
use crate::floor::minimum::Minimum;
use crate::floor::units::{Capacity, Demand, Replicas, Seconds};
use crate::forecast::history::History;
use crate::forecast::protocol::Rolled;

/// A workload and its autoscaler.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// The demand at which a pod is full: beyond it, demand is not served.
    pub limit: Capacity,
    /// How long a pod takes to be ready.
    pub start_delay: Seconds,
    /// The autoscaler's minimum, which its owner chose.
    pub min: Replicas,
    /// The autoscaler's maximum.
    pub max: Replicas,
}

/// The forecast from one origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// The upper line, from the first step after the origin on.
    pub upper: Vec<f64>,
    /// Whether its models are better than plain references.
    pub skilled: bool,
}

/// Forecasts by origin: the number of samples before it.
pub type Forecasts = BTreeMap<usize, Made>;

/// What was rolled, by origin.
pub fn forecasts(rolled: Rolled) -> Forecasts {
    let made = rolled.upper.into_iter().zip(rolled.skilled).map(|(upper, skilled)| Made { upper, skilled });
    rolled.origins.into_iter().map(|origin| origin as usize).zip(made).collect()
}

/// What one of the two cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Seconds in which the ready pods could not serve the demand.
    pub under_provisioned_seconds: u64,
    /// The share of the demand that was not served.
    pub unserved: f64,
    /// Seconds of pods, ready or not.
    pub pod_seconds: u64,
    /// The most pods at a time.
    pub most_pods: Replicas,
    /// How often the number of pods changed.
    pub scalings: u64,
}

/// One step of the trace, for drawing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// When it begins.
    pub time: Timestamp,
    /// The pods that would just serve its highest demand; none where nothing is known.
    pub needed: Option<f64>,
    /// The fewest ready pods of the autoscaler alone.
    pub alone: Replicas,
    /// The fewest ready pods with the floor.
    pub with_floor: Replicas,
    /// The floor.
    pub floor: Replicas,
    /// Seconds without enough pods, alone and with the floor.
    pub short: (u64, u64),
    /// Pod-seconds, alone and with the floor.
    pub pods: (u64, u64),
}

/// How often decisions were what they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// All of them.
    pub decisions: u64,
    /// The floor was raised.
    pub raised: u64,
    /// The floor was lowered.
    pub lowered: u64,
    /// There was no forecast, so it was held.
    pub held: u64,
    /// There was no forecast for too long.
    pub stepped_back: u64,
    /// The forecast was no better than plain references.
    pub not_skilled: u64,
    /// The rise was limited.
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

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The autoscaler alone.
    pub alone: Cost,
    /// The autoscaler with the floor.
    pub with_floor: Cost,
    /// The decisions.
    pub tally: Tally,
    /// How many seconds were simulated.
    pub seconds: u64,
    /// Of these, those in which the demand is not known: no pod is called missing then.
    pub unknown_seconds: u64,
    /// Every step, for drawing.
    pub steps: Vec<Step>,
}

/// A decision with what was seen before it.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedDecision<'a> {
    /// When.
    pub now: Timestamp,
    /// What the owner wants.
    pub original: Replicas,
    /// The pods with the floor, ready or not.
    pub replicas: Replicas,
    /// The newest sample.
    pub demand: Option<f64>,
    /// The decision.
    pub decision: &'a Decision,
}

/// Simulates a trace from sample `first` on.
pub fn run(trace: &History, first: usize, workload: &Workload, policy: &Policy, forecasts: &Forecasts) -> Outcome {
    run_with_observer(trace, first, workload, policy, forecasts, |_| {})
}

/// Simulates a trace from sample `first` on, and tells of every decision.
pub fn run_with_observer(
    trace: &History,
    first: usize,
    workload: &Workload,
    policy: &Policy,
    forecasts: &Forecasts,
    mut observe: impl FnMut(&SimulatedDecision<'_>),
) -> Outcome {
    let step = u64::from(trace.step.seconds());
    let policy = Policy { mode: Mode::Enforce, ..policy.clone() };
    let unit = policy.capacity.unit();
    let demand_at = |index: usize, second: u64| -> Option<f64> {
        let (here, there) = (trace.samples.get(index)?, trace.samples.get(index + 1)?);
        let part = second as f64 / step as f64;
        // Between two samples it goes from one to the other; beside a gap nothing is known.
        Some((*here)? * (1.0 - part) + (*there)? * part)
    };

    let mut minimum = Minimum::of_owner(workload.min);
    let mut memory: Option<Memory> = None;
    let mut outlook: Option<Outlook> = None;
    let begin = trace.samples[..=first].iter().rev().flatten().next();
    let begun = begin.and_then(|value| policy.capacity.replicas_for(Demand::new(*value, unit)?));
    let begun = begun.unwrap_or(workload.min).clamp(workload.min, workload.max.max(workload.min));
    let mut alone = Side::new(workload, &policy, begun);
    let mut with_floor = Side::new(workload, &policy, begun);
    let mut outcome = Outcome {
        alone: Cost::default(),
        with_floor: Cost::default(),
        tally: Tally::default(),
        seconds: 0,
        unknown_seconds: 0,
        steps: Vec::new(),
    };
    let mut total_demand = 0.0;

    for index in first..trace.samples.len().saturating_sub(1) {
        let now = trace.time(index);
        if trace.samples[index].is_some() {
            if let Some(made) = forecasts.get(&(index + 1)) {
                let lately = trace.samples[index.saturating_sub(lately(step))..=index].iter().flatten();
                let recent = lately.copied().fold(f64::NAN, f64::max);
                outlook = Some(Outlook::new(now, trace.step, unit, &made.upper, made.skilled).with_recent(recent));
            }
        }
        let seen = Seen {
            now,
            minimum: &minimum,
            max_replicas: workload.max,
            desired: with_floor.hpa.desired(),
            paused: false,
            outlook: outlook.as_ref().ok_or_else(|| Missing::NoForecast { cause: "none was made".to_owned() }),
        };
        let decision = decide(&policy, memory.as_ref(), &seen);
        observe(&SimulatedDecision {
            now,
            original: minimum.original(),
            replicas: with_floor.running().all(),
            demand: trace.samples[index],
            decision: &decision,
        });
        if let Some(change) = decision.change {
            let patch = minimum.patch(change.to(), now);
            // What the cluster would give back at the next look. Our own annotation can be read.
            minimum = Minimum::read(patch.field.map(|field| field.0), patch.annotation.as_deref()).unwrap_or(minimum);
        }
        outcome.tally.add(&decision);
        memory = Some(decision.memory);

        alone.begin_step();
        with_floor.begin_step();
        let pods = (alone.cost.pod_seconds, with_floor.cost.pod_seconds);
        let mut needed: Option<f64> = None;
        for second in 0..step {
            let clock = (index - first) as u64 * step + second;
            let demand = demand_at(index, second).and_then(|value| Demand::new(value, unit));
            alone.second(clock, workload.min, demand, workload);
            with_floor.second(clock, minimum.floor(), demand, workload);
            match demand {
                Some(demand) => {
                    total_demand += demand.value();
                    let pods = demand.value() / workload.limit.of_one().value();
                    needed = Some(needed.map_or(pods, |most| most.max(pods)));
                }
                None => outcome.unknown_seconds += 1,
            }
        }
        outcome.seconds += step;
        outcome.steps.push(Step {
            time: now,
            needed,
            alone: alone.fewest,
            with_floor: with_floor.fewest,
            floor: minimum.floor(),
            short: (alone.short, with_floor.short),
            pods: (alone.cost.pod_seconds - pods.0, with_floor.cost.pod_seconds - pods.1),
        });
    }
    outcome.alone = alone.cost(total_demand);
    outcome.with_floor = with_floor.cost(total_demand);
    outcome
}

/// The steps over which the highest demand is what an autoscaler may still run pods for.
fn lately(step: u64) -> usize {
    3_600_u64.div_ceil(step) as usize
}

/// One autoscaler and its pods.
struct Side {
    hpa: Hpa,
    ready: Replicas,
    /// When they will be ready, and how many, the oldest first.
    starting: VecDeque<(u64, Replicas)>,
    cost: Cost,
    unserved: f64,
    fewest: Replicas,
    short: u64,
}

impl Side {
    fn new(workload: &Workload, policy: &Policy, begun: Replicas) -> Side {
        Side {
            hpa: Hpa::new(policy.capacity, workload.max),
            ready: begun,
            starting: VecDeque::new(),
            cost: Cost::default(),
            unserved: 0.0,
            fewest: begun,
            short: 0,
        }
    }

    fn begin_step(&mut self) {
        self.fewest = self.ready;
        self.short = 0;
    }

    fn running(&self) -> Running {
        let starting = self.starting.iter().fold(Replicas(0), |sum, (_, pods)| sum.plus(*pods));
        Running { ready: self.ready, starting }
    }

    fn second(&mut self, clock: u64, min: Replicas, demand: Option<Demand>, workload: &Workload) {
        while let Some((_, pods)) = self.starting.front().copied().filter(|(when, _)| *when <= clock) {
            self.ready = self.ready.plus(pods);
            self.starting.pop_front();
        }
        if clock.is_multiple_of(hpa::PERIOD) {
            let running = self.running();
            let wanted = self.hpa.sync(clock, min, demand, running);
            self.scale(wanted, clock + workload.start_delay.0);
            if wanted != running.all() {
                self.cost.scalings += 1;
            }
        }
        let all = self.running().all();
        self.cost.pod_seconds += u64::from(all.0);
        self.cost.most_pods = self.cost.most_pods.max(all);
        self.fewest = self.fewest.min(self.ready);
        if let Some(demand) = demand {
            let beyond = demand.value() - workload.limit.of_one().value() * f64::from(self.ready.0);
            if beyond > 0.0 {
                self.short += 1;
                self.cost.under_provisioned_seconds += 1;
                self.unserved += beyond;
            }
        }
    }

    /// New pods start; of too many, the youngest go first.
    fn scale(&mut self, wanted: Replicas, ready_at: u64) {
        let all = self.running().all();
        if wanted > all {
            self.starting.push_back((ready_at, wanted.less(all)));
        }
        let mut surplus = all.less(wanted);
        while surplus > Replicas(0) {
            match self.starting.pop_back() {
                Some((when, pods)) => {
                    let gone = pods.min(surplus);
                    surplus = surplus.less(gone);
                    if pods > gone {
                        self.starting.push_back((when, pods.less(gone)));
                    }
                }
                None => {
                    self.ready = self.ready.less(surplus);
                    surplus = Replicas(0);
                }
            }
        }
    }

    fn cost(self, total_demand: f64) -> Cost {
        let unserved = if total_demand > 0.0 { self.unserved / total_demand } else { 0.0 };
        Cost { unserved, ..self.cost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::load::{self, Load};
    use crate::forecast::naive;
    use crate::forecast::protocol::{Question, Rolling};
    use crate::forecast::span::Span;

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
        };
        forecasts(naive::roll(&Rolling { question, first: first as u32 + 1, every: 1 }).unwrap())
    }

    fn of(load: Load, seed: u64) -> Outcome {
        let trace = load::generate(load, seed, 7, STEP);
        let first = 5 * 288;
        run(&trace, first, &workload(), &policy(), &by_naive(&trace, first))
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
            let outcome = run(&trace, 288, &workload(), &policy(), &forecasts);
            let (alone, with_floor) = (outcome.alone, outcome.with_floor);
            assert!(with_floor.under_provisioned_seconds <= alone.under_provisioned_seconds, "{upper}");
            assert!(with_floor.pod_seconds >= alone.pod_seconds, "{upper}");
        }
    }

    #[test]
    fn without_forecasts_nothing_is_raised() {
        let trace = load::generate(Load::Daily, 2, 2, STEP);
        let outcome = run(&trace, 0, &workload(), &policy(), &Forecasts::new());
        assert_eq!(outcome.alone, outcome.with_floor);
        assert_eq!(outcome.tally.raised, 0);
        assert_eq!(outcome.tally.held + outcome.tally.stepped_back, outcome.tally.decisions);
    }

    #[test]
    fn an_outage_of_the_metrics_at_the_peak_is_no_rollback_under_load() {
        let mut trace = load::generate(Load::Daily, 3, 7, STEP);
        let first = 6 * 288;
        let forecasts = by_naive(&trace, first);
        // Half an hour without metrics, from nine on. The last forecast is fresh for ten minutes, then it is held.
        let nine = first + 9 * 12;
        trace.samples[nine..nine + 6].fill(None);
        let outcome = run(&trace, first, &workload(), &policy(), &forecasts);
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
        let outcome = run(&trace, 0, &workload, &policy(), &Forecasts::new());
        let ready: Vec<u32> = outcome.steps.iter().map(|step| step.alone.0).collect();
        assert_eq!(ready, [1, 2, 4]);
        assert_eq!(outcome.alone.most_pods, Replicas(4));
        assert!(outcome.alone.pod_seconds > 300 + 300 * 3 + 300 * 4 - 200, "{:?}", outcome.alone);
        assert!(outcome.alone.under_provisioned_seconds > 180, "{:?}", outcome.alone);
    }

    #[test]
    fn of_too_many_pods_the_youngest_go_first() {
        let mut side = Side::new(&workload(), &policy(), Replicas(4));
        side.scale(Replicas(9), 100);
        side.scale(Replicas(7), 0);
        assert_eq!(side.running(), Running { ready: Replicas(4), starting: Replicas(3) });
        side.scale(Replicas(3), 0);
        assert_eq!(side.running(), Running { ready: Replicas(3), starting: Replicas(0) });
    }
}
