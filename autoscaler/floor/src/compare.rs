//! A floor by the chosen candidates over a trace, and the plain rules over the same trace. Pure.

use crate::choose::{Candidate, Choice, Evaluation, Goal};
use crate::decide::Outlook;
use crate::rules::Rule;
use crate::simulate::{Cost, Forecasts, Made, Setup};
use serde::Serialize;

/// Shortage and cost of a rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleCost {
    pub name: String,
    pub cost: Cost,
}

/// Forecasts of a run, by the choices that were made during it.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Forecasts by origin.
    pub forecasts: Forecasts,
    /// One choice a day, the oldest first.
    pub choices: Vec<Choice>,
}

impl Chosen {
    /// The share of the forecasts at which the gate was open.
    pub fn open(&self) -> f64 {
        let open = self.forecasts.values().filter(|made| made.skilled).count() as f64;
        open / self.forecasts.len().max(1) as f64
    }
}

/// Chooses at the beginning of every block of a run, by what was known there, and makes the forecasts of that choice.
pub fn choose(setup: &Setup<'_>, season_seconds: u32, candidates: &[Candidate], goal: Goal) -> Chosen {
    let before = Setup { first: setup.first.min(first_origin(candidates)), ..*setup };
    let evaluation = Evaluation::new(&before, season_seconds, candidates, goal);
    let horizon = Outlook::horizon(setup.policy.lead_time, setup.policy.step) as usize;
    let mut chosen = Chosen { forecasts: Forecasts::new(), choices: Vec::new() };
    let mut block = None;
    let last = candidates.iter().map(|candidate| candidate.peaks.len()).min().unwrap_or(0);
    // Two seasons are the least that anything can be said by.
    let least = 2 * (season_seconds / setup.trace.step.seconds()) as usize;
    for origin in (setup.first + 1).max(least)..last {
        let here = evaluation.blocks_before(setup.trace.time(origin - 1).as_second());
        if block != Some(here) {
            block = Some(here);
            chosen.choices.push(evaluation.choose(here, goal));
        }
        let Some(choice) = chosen.choices.last() else { continue };
        let Some(candidate) = candidates.iter().find(|candidate| candidate.name == choice.candidate) else { continue };
        let peak = candidate.peaks[origin] * choice.factor;
        if peak.is_finite() {
            chosen.forecasts.insert(origin, Made { upper: vec![peak; horizon], skilled: choice.open });
        }
    }
    chosen
}

/// A floor over a trace, compared with the autoscaler alone and the plain rules.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub alone: Cost,
    pub with_floor: Cost,
    /// The share of the forecasts at which the gate was open.
    pub gate_open: f64,
    pub rules: Vec<RuleCost>,
}

/// Compares a floor by the default budget with the plain rules.
pub fn compare(setup: &Setup<'_>, season_seconds: u32, candidates: &[Candidate]) -> Comparison {
    let chosen = choose(setup, season_seconds, candidates, Goal::default());
    let with_floor = setup.with_floor(&chosen.forecasts);
    Comparison {
        alone: setup.with_headroom(1.0),
        with_floor,
        gate_open: chosen.open(),
        rules: rules(setup, candidates, with_floor),
    }
}

/// The sample from which on there is a rule.
fn first_origin(candidates: &[Candidate]) -> usize {
    let first = candidates.iter().filter_map(|candidate| candidate.peaks[1..].iter().position(|peak| peak.is_finite()));
    first.min().unwrap_or(0)
}

/// The plain rules over a run: headroom, the same time a day or a week ago, and the headroom that costs as much as `ours`.
pub fn rules(setup: &Setup<'_>, candidates: &[Candidate], ours: Cost) -> Vec<RuleCost> {
    let horizon = Outlook::horizon(setup.policy.lead_time, setup.policy.step) as usize;
    let mut found = Vec::new();
    for rule in [Rule::DayAgo, Rule::WeekAgo, Rule::DayOrWeekAgo] {
        let Some(candidate) = candidates.iter().find(|candidate| candidate.name == rule.name()) else { continue };
        let origins = setup.first + 1..candidate.peaks.len();
        let made = origins.filter(|origin| candidate.peaks[*origin].is_finite());
        let made = made.map(|origin| (origin, Made { upper: vec![candidate.peaks[origin]; horizon], skilled: true }));
        let cost = setup.with_floor(&made.collect());
        found.push(RuleCost { name: rule.words().to_owned(), cost });
    }
    for headroom in [1.1, 1.3] {
        found.push(RuleCost { name: format!("headroom {headroom}"), cost: setup.with_headroom(headroom) });
    }
    let (headroom, cost) = equal_cost(setup, ours.pod_seconds);
    found.push(RuleCost { name: format!("headroom {headroom:.3}, equal cost"), cost });
    found
}

/// The headroom that costs this number of pod-seconds, to a thousandth.
fn equal_cost(setup: &Setup<'_>, pod_seconds: u64) -> (f64, Cost) {
    let (mut low, mut high) = (1.0, 4.0);
    let mut cost = setup.with_headroom(low);
    if cost.pod_seconds >= pod_seconds {
        return (low, cost);
    }
    while high - low > 0.001 {
        let middle = (low + high) / 2.0;
        let found = setup.with_headroom(middle);
        if found.pod_seconds <= pod_seconds {
            (low, cost) = (middle, found);
        } else {
            high = middle;
        }
    }
    (low, cost)
}
