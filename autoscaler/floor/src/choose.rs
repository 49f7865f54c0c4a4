//! Chooses what a floor is made of, by replaying the real decision over the past with every candidate.
//!
//! A candidate is a line of expected demand and a factor on it. What counts is what a candidate would have done: how much
//! shortage of pods its floor prevents, and how many pod-seconds it costs. Both are summed by blocks of a day, with recent days
//! weighing more and the oddest day left out, so that one unusual day decides nothing. A candidate is good enough when it
//! prevents more than headroom, a lower target of the autoscaler, does at the same cost; of those within the budget the one
//! that prevents most is taken. Pure.

use crate::replay::{Block, Floors, Replay};
use crate::rules::{Past, RULES, Rule};
use crate::simulate::Setup;
use crate::units::plain_number;
use autoscaler_forecast::Quantile;
use autoscaler_forecast::calendar::{Calendar, Reading};
pub use autoscaler_forecast::choice::{Choice, RulePoint};
use autoscaler_forecast::history::History;
use autoscaler_forecast::protocol::{Answer, Question};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Factors on a candidate's line that are tried.
const FACTORS: [f64; 10] = [0.6, 0.7, 0.8, 0.88, 0.95, 1.0, 1.1, 1.25, 1.5, 2.0];
/// Headroom that candidates are compared with.
const HEADROOM: [f64; 6] = [1.0, 1.05, 1.1, 1.3, 1.6, 2.2];

/// A block a day older counts for this much of the next one.
const FADING: f64 = 0.92;
/// Maximum number of blocks that count.
const MOST_BLOCKS: usize = 14;
/// Fewer days with shortage cannot tell a rule from luck.
const MIN_BLOCKS: usize = 2;
/// From this number of blocks on the oddest one is left out.
const TRIMMED_FROM: usize = 5;
/// Factor by which a candidate has to prevent more than equal-cost headroom.
const BETTER: f64 = 1.25;
/// The least share of the shortage that is worth a floor.
const LEAST_PREVENTED: f64 = 0.3;
/// Shortages within this share of the whole are alike: the cheaper one is taken.
const ALIKE: f64 = 0.01;
/// The share of the days with shortage on which a candidate has to beat equal-cost headroom.
const WON: f64 = 0.75;
/// Standard errors by which a candidate has to be better than equal-cost headroom: bursts on a few days are luck.
const SURE: f64 = 2.5;
/// As many where no choices of earlier days confirm it.
const VERY_SURE: f64 = 5.0;
/// Number of days whose choices confirm one.
const CONFIRMING: usize = 7;
/// Number of them that is enough.
const CONFIRMED_BY: usize = 3;
/// Extra cost that is allowed for a margin above the cheapest choice: the days to come are not those that it was chosen by.
const MARGIN: f64 = 0.02;

/// The extra pod-seconds that a floor may cost, as a share of what the autoscaler alone costs.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Budget(f64);

impl Budget {
    /// Ten percent.
    pub const DEFAULT: Budget = Budget(0.1);

    pub fn share(self) -> f64 {
        self.0
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Budget, String> {
        let number =
            text.strip_suffix('%').filter(|number| plain_number(number)).and_then(|number| number.parse().ok());
        match number.filter(|percent: &f64| *percent > 0.0 && *percent < 1_000.0) {
            Some(percent) => Ok(Budget(percent / 100.0)),
            None => Err(format!("`{text}` is not a share such as `10%`, below 1000%")),
        }
    }
}

impl TryFrom<String> for Budget {
    type Error = String;

    fn try_from(text: String) -> Result<Budget, String> {
        text.parse()
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> String {
        budget.to_string()
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", (self.0 * 1e6).round() / 1e4)
    }
}

/// Criterion for the width of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// Prevent as much shortage as this pays for.
    Budget(Budget),
    /// Keep this share of demand below the line.
    Quantile(Quantile),
}

impl Default for Goal {
    fn default() -> Goal {
        Goal::Budget(Budget::DEFAULT)
    }
}

/// A line that a floor can follow: by origin, the highest demand that it expects until the lead time.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// A rule's name, or a model's.
    pub name: String,
    /// By origin; NaN where it has no line.
    pub peaks: Vec<f64>,
}

/// The worker's peaks, which end with the last origin, by origin: NaN before the first one.
pub fn aligned(peaks: BTreeMap<String, Vec<f64>>, samples: usize) -> BTreeMap<String, Vec<f64>> {
    let align = |peaks: Vec<f64>| {
        let before = (samples + 1).saturating_sub(peaks.len());
        let mut all = vec![f64::NAN; before];
        all.extend(peaks.into_iter().take(samples + 1));
        all
    };
    peaks.into_iter().map(|(name, peaks)| (name, align(peaks))).collect()
}

/// Peaks of the rules and of the models, by origin in the history. `models` has those of the worker for the samples of the
/// question, which are by the clock; NaN where there are none.
pub fn candidates(
    question: &Question,
    history: &History,
    reading: &Reading,
    models: BTreeMap<String, Vec<f64>>,
) -> Vec<Candidate> {
    let past = Past::new(question, &history.samples, reading);
    let lead = question.lead.unwrap_or(question.horizon) as usize;
    let origins = reading.count() + 1;
    let peak = |line: Vec<f64>| line.into_iter().fold(f64::NAN, f64::max);
    let mut found: Vec<Candidate> = RULES
        .iter()
        .map(|rule| Candidate {
            name: rule.name().to_owned(),
            peaks: (0..origins).map(|at| past.line(*rule, at, lead).map_or(f64::NAN, peak)).collect(),
        })
        .filter(|candidate| candidate.peaks.iter().any(|peak| peak.is_finite()))
        .collect();
    let day_ago = found.iter().find(|candidate| candidate.name == Rule::DayAgo.name()).cloned();
    for (name, peaks) in models {
        let known = |origin: usize| peaks.get(reading.origin(origin)).copied().unwrap_or(f64::NAN);
        let peaks: Vec<f64> = (0..origins).map(|origin| past.special_peak(origin, lead, known(origin))).collect();
        if let Some(day_ago) = day_ago.as_ref().filter(|_| name == MEAN) {
            let both =
                peaks.iter().zip(&day_ago.peaks).map(|(one, other)| if one.is_nan() { *one } else { one.max(*other) });
            found.push(Candidate { name: format!("{name}{OR_DAY_AGO}"), peaks: both.collect() });
        }
        found.push(Candidate { name, peaks });
    }
    found
}

/// An answer whose upper line is that of the choice: what the floor follows. Without a choice the answer stays.
pub fn applied(
    mut answer: Answer,
    question: &Question,
    (history, reading): (&History, &Reading),
    choice: Option<&Choice>,
) -> Answer {
    let Some(choice) = choice else { return answer };
    answer.skilled = choice.open;
    let past = Past::new(question, &history.samples, reading);
    if let Some(line) = line(&answer, &past, history.samples.len(), &choice.candidate) {
        answer.upper = line.iter().map(|value| value * choice.factor).collect();
        answer.lower = answer.lower.iter().zip(&answer.upper).map(|(lower, upper)| lower.min(*upper)).collect();
        answer.mean = line;
        answer.model = choice.candidate.clone();
        answer.members = vec![choice.candidate.clone()];
    }
    answer.notes = vec![choice.reason.clone()];
    answer
}

/// The line of a candidate from the end of the samples on.
fn line(answer: &Answer, past: &Past<'_>, origin: usize, candidate: &str) -> Option<Vec<f64>> {
    let horizon = answer.mean.len();
    if let Some(rule) = RULES.iter().find(|rule| rule.name() == candidate) {
        return past.line(*rule, origin, horizon);
    }
    let special = |line: Vec<f64>| past.special(origin, line);
    let Some(model) = candidate.strip_suffix(OR_DAY_AGO) else {
        return answer.lines.get(candidate).cloned().map(special);
    };
    let day_ago = past.line(Rule::DayAgo, origin, horizon)?;
    Some(special(answer.lines.get(model)?.iter().zip(day_ago).map(|(one, other)| one.max(other)).collect()))
}

/// The name of the mean of all models.
const MEAN: &str = "mean";

/// Suffix of a candidate that is the higher of a model and of the same time a day ago.
pub const OR_DAY_AGO: &str = "-or-day-ago";

/// One candidate with one factor, replayed.
struct Replayed {
    name: String,
    factor: f64,
    blocks: Vec<Block>,
}

/// Number of samples of a block for which a candidate has a line, and for which the demand stayed below it.
#[derive(Clone, Copy, Debug, Default)]
struct Coverage {
    samples: u32,
    known: u32,
    below: [u32; FACTORS.len()],
}

/// All candidates, replayed over a past.
pub struct Evaluation {
    calendar: Calendar,
    /// The first block's number: days since 1970 where blocks are days.
    first: i64,
    block: i64,
    /// Blocks with a special day in them, which are not judged.
    special: BTreeSet<usize>,
    headroom: Vec<(f64, Vec<Block>)>,
    replayed: Vec<Replayed>,
    coverage: BTreeMap<String, Vec<Coverage>>,
    moments: Vec<Moments>,
}

/// Sums over the samples of a block that are known together with the one before and the one a season before.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: f64,
    value: f64,
    square: f64,
    next: f64,
    season: f64,
}

/// Result of a candidate over the blocks that count.
#[derive(Clone, Copy, Debug)]
struct Record {
    days: usize,
    /// The share of the shortage that it prevents.
    prevented: f64,
    /// The extra pod-seconds, as a share.
    cost: f64,
    /// The share of the shortage that headroom prevents at the same cost.
    headroom: f64,
    /// The share of the days with shortage on which it prevents more than that headroom.
    won: f64,
    /// The mean of what it prevents more than that headroom on a day, in standard errors.
    sure: f64,
}

impl Record {
    fn nothing(days: usize) -> Record {
        Record { days, prevented: 0.0, cost: 0.0, headroom: 0.0, won: 0.0, sure: 0.0 }
    }

    fn good(&self, sure: f64) -> bool {
        // Where headroom prevents nearly all, what is left counts.
        let much = self.prevented >= BETTER * self.headroom || BETTER * (1.0 - self.prevented) <= 1.0 - self.headroom;
        let better = much && self.prevented >= LEAST_PREVENTED;
        self.days >= MIN_BLOCKS && better && self.won >= WON && self.sure >= sure
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "prevents {:.0}% of the shortage for {:.1}% more pod-seconds over {} days; headroom at that cost prevents {:.0}%",
            self.prevented * 100.0,
            self.cost * 100.0,
            self.days,
            self.headroom * 100.0
        )
    }
}

impl Evaluation {
    /// Replays all candidates. Blocks are of a season, but at most of a day.
    pub fn new(setup: &Setup<'_>, season_seconds: u32, candidates: &[Candidate], goal: Goal) -> Evaluation {
        let block = u64::from(season_seconds.clamp(setup.trace.step.seconds(), 86_400));
        let first = setup.calendar.block(setup.trace.time(setup.first).as_second(), block as i64);
        let replay = Replay::new(*setup, block);
        let headroom = HEADROOM.map(|headroom| (headroom, replay.with_headroom(headroom))).to_vec();
        let mut evaluation = Evaluation {
            calendar: setup.calendar.clone(),
            first,
            block: block as i64,
            special: BTreeSet::new(),
            headroom,
            replayed: Vec::new(),
            coverage: BTreeMap::new(),
            moments: Vec::new(),
        };
        let times = setup.indices().map(|index| setup.trace.time(index).as_second());
        let special = times.filter(|second| setup.calendar.is_special(*second));
        evaluation.special = special.map(|second| evaluation.blocks_before(second)).collect();
        evaluation.moments = evaluation.moments(setup, (season_seconds / setup.trace.step.seconds()) as usize);
        // Without shortage no floor is chosen: only the curve needs the rules.
        let short: f64 = evaluation.alone().iter().map(|block| block.short).sum();
        let factors = if short < LEAST_SHORT { &[1.0][..] } else { &FACTORS };
        for candidate in candidates {
            let mut before: Option<(Floors, Vec<Block>)> = None;
            for factor in factors {
                // A larger factor is dearer still; the curve shows the plain rules nevertheless.
                let too_dear = before.as_ref().is_some_and(|(_, blocks)| evaluation.is_beyond(goal, blocks));
                if too_dear && *factor != 1.0 {
                    continue;
                }
                let floors = replay.floors(|origin| factor * candidate.peaks.get(origin).copied().unwrap_or(f64::NAN));
                // Small workloads have the same floors with most factors.
                let blocks = match before.take().filter(|(same, _)| *same == floors) {
                    Some((_, blocks)) => blocks,
                    None => replay.with_floors(&floors),
                };
                evaluation.replayed.push(Replayed {
                    name: candidate.name.clone(),
                    factor: *factor,
                    blocks: blocks.clone(),
                });
                before = Some((floors, blocks));
            }
            let coverage = evaluation.coverage(setup, candidate);
            evaluation.coverage.insert(candidate.name.clone(), coverage);
        }
        evaluation
    }

    /// Returns true if a floor costs more than the budget in every block.
    fn is_beyond(&self, goal: Goal, blocks: &[Block]) -> bool {
        let Goal::Budget(budget) = goal else { return false };
        self.alone().iter().zip(blocks).all(|(alone, ours)| ours.pods > alone.pods * (1.0 + budget.share()))
    }

    fn moments(&self, setup: &Setup<'_>, season: usize) -> Vec<Moments> {
        let samples = &setup.trace.samples;
        let mut moments: Vec<Moments> = Vec::new();
        for index in setup.first.max(season).max(1)..samples.len() {
            let number = self.blocks_before(setup.trace.time(index).as_second());
            moments.resize(moments.len().max(number + 1), Moments::default());
            let (Some(value), Some(before), Some(ago)) = (samples[index], samples[index - 1], samples[index - season])
            else {
                continue;
            };
            let here = &mut moments[number];
            here.count += 1.0;
            here.value += value;
            here.square += value * value;
            here.next += value * before;
            here.season += value * ago;
        }
        moments
    }

    /// Returns true if the demand before block `until` is white noise: a sample says nothing about the next one, nor about the
    /// one a season later. Whatever a floor prevents then, it prevents by luck.
    fn is_noise(&self, until: usize) -> bool {
        let known = &self.moments[..until.min(self.moments.len())];
        let sum = |of: fn(&Moments) -> f64| known.iter().map(of).sum::<f64>();
        let count = sum(|block| block.count);
        if count < 24.0 {
            return false;
        }
        let mean = sum(|block| block.value) / count;
        let variance = sum(|block| block.square) / count - mean * mean;
        let correlated = |product: f64| (product / count - mean * mean) > NOISE * variance;
        !correlated(sum(|block| block.next)) && !correlated(sum(|block| block.season))
    }

    fn coverage(&self, setup: &Setup<'_>, candidate: &Candidate) -> Vec<Coverage> {
        let lead = setup.policy.lead_time.seconds().div_ceil(setup.trace.step.seconds()) as usize;
        let mut coverage: Vec<Coverage> = Vec::new();
        for index in setup.first..setup.trace.samples.len() {
            let number = self.blocks_before(setup.trace.time(index).as_second());
            coverage.resize(coverage.len().max(number + 1), Coverage::default());
            let here = &mut coverage[number];
            here.samples += 1;
            let peak = candidate.peaks.get(index + 1).copied().unwrap_or(f64::NAN);
            if peak.is_nan() {
                continue;
            }
            here.known += 1;
            let actual = setup.trace.samples[index + 1..].iter().take(lead).flatten().copied().fold(0.0, f64::max);
            for (below, factor) in here.below.iter_mut().zip(FACTORS) {
                *below += u32::from(actual <= factor * peak);
            }
        }
        coverage
    }

    /// The number of blocks that begin before a time in Unix seconds and end by it.
    pub fn blocks_before(&self, second: i64) -> usize {
        usize::try_from(self.calendar.block(second, self.block) - self.first).unwrap_or(0)
    }

    /// Every replay that a goal admits, with its record over the blocks before number `until`.
    fn judged(&self, until: usize, goal: Goal) -> Vec<(&Replayed, Record)> {
        let plain = |name: &str| RULES.iter().any(|rule| rule.name() == name && !rule.is_candidate());
        let judged =
            self.replayed.iter().filter(|replayed| self.meets(replayed, until, goal) && !plain(&replayed.name));
        judged.filter_map(|replayed| Some((replayed, self.record(replayed, until)?))).collect()
    }

    /// Chooses by the blocks before number `until`.
    pub fn choose(&self, until: usize, goal: Goal) -> Choice {
        let judged = self.judged(until, goal);
        let affordable: Vec<&(&Replayed, Record)> =
            judged.iter().filter(|(_, record)| is_affordable(goal, record)).collect();
        let noise = self.is_noise(until);
        let best = if noise { None } else { self.confirmed(until, goal).and_then(|sure| best(&judged, goal, sure)) };
        // What is recommended while the gate is shut.
        let likeliest = || affordable.iter().max_by(|(_, a), (_, b)| a.prevented.total_cmp(&b.prevented));
        let open = best.is_some();
        let days = judged.iter().map(|(_, record)| record.days).max().unwrap_or(0);
        let reason = match (best, likeliest()) {
            (Some((replayed, record)), _) => format!("`{}` {record}", replayed.name),
            _ if days < MIN_BLOCKS => format!("{days} whole days of history are too few: {MIN_BLOCKS} are needed"),
            _ if noise => "the demand is noise: no sample says anything about a later one".to_owned(),
            _ if !self.is_short(until) => {
                "the autoscaler alone is hardly ever short of pods: a floor has nothing to prevent".to_owned()
            }
            (None, Some((replayed, record))) => {
                let hint = self.headroom_hint(until);
                format!("no floor is worth its cost: the best, `{}`, {record}{hint}", replayed.name)
            }
            (None, None) => "no floor is within the budget".to_owned(),
        };
        let chosen = best.map(|(replayed, _)| replayed).or_else(|| likeliest().map(|(replayed, _)| *replayed));
        Choice {
            candidate: chosen.map_or_else(|| Rule::DayAgo.name().to_owned(), |chosen| chosen.name.clone()),
            factor: chosen.map_or(1.0, |chosen| chosen.factor),
            open,
            reason,
            days,
            curve: self.curve(until, chosen),
        }
    }

    /// The standard errors that a candidate needs: fewer where the choices of the last days were worth their cost on the days
    /// after them, by which they were not chosen, and none are enough where they were not. Of many candidates the best one of
    /// a past is always partly lucky.
    fn confirmed(&self, until: usize, goal: Goal) -> Option<f64> {
        let days = until.saturating_sub(CONFIRMING)..until.min(self.alone().len());
        let needy = days.filter(|day| self.alone()[*day].short > 0.0 && !self.special.contains(day));
        let chosen = needy.filter_map(|day| Some((day, best(&self.judged(day, goal), goal, SURE)?.0)));
        let chosen: Vec<(usize, &Replayed)> = chosen.collect();
        if chosen.len() < CONFIRMED_BY {
            return Some(VERY_SURE);
        }
        let sum = |of: &dyn Fn(&(usize, &Replayed)) -> f64| chosen.iter().map(of).sum::<f64>();
        let (short, pods) = (sum(&|(day, _)| self.alone()[*day].short), sum(&|(day, _)| self.alone()[*day].pods));
        let headroom = self.headroom.iter().map(|(_, blocks)| {
            (1.0 - sum(&|(day, _)| blocks[*day].short) / short, sum(&|(day, _)| blocks[*day].pods) / pods - 1.0)
        });
        let headroom: Vec<(f64, f64)> = headroom.collect();
        let prevented = 1.0 - sum(&|(day, ours)| ours.blocks[*day].short) / short;
        let cost = sum(&|(day, ours)| ours.blocks[*day].pods) / pods - 1.0;
        let (index, part) = at_cost(&headroom, cost);
        let next = headroom[(index + 1).min(headroom.len() - 1)].0;
        (prevented > (1.0 - part) * headroom[index].0 + part * next).then_some(SURE)
    }

    /// Returns advice on an alternative, if there is one: lower the autoscaler's own target.
    fn headroom_hint(&self, until: usize) -> String {
        let headroom = self.curve(until, None).into_iter().find(|point| point.name == "headroom 1.1");
        match headroom.filter(|point| point.short < 0.7) {
            Some(point) => format!(
                "; the autoscaler's own target divided by 1.1 prevents {:.0}% for {:.1}%",
                100.0 - 100.0 * point.short,
                100.0 * point.cost
            ),
            None => String::new(),
        }
    }

    /// Returns true if a candidate's factor is the one that a quantile asks for; with a budget every factor passes.
    fn meets(&self, replayed: &Replayed, until: usize, goal: Goal) -> bool {
        let Goal::Quantile(quantile) = goal else { return true };
        let blocks = self.coverage.get(&replayed.name).map_or(&[][..], |blocks| &blocks[..until.min(blocks.len())]);
        let covers = |index: usize| {
            let (mut below, mut known) = (0.0, 0.0);
            for (age, block) in blocks.iter().rev().take(MOST_BLOCKS).enumerate() {
                let weight = FADING.powi(age as i32);
                below += weight * f64::from(block.below[index]);
                known += weight * f64::from(block.known);
            }
            known > 0.0 && below / known >= quantile.share()
        };
        let least = (0..FACTORS.len()).find(|index| covers(*index)).unwrap_or(FACTORS.len() - 1);
        FACTORS[least] == replayed.factor
    }

    /// The blocks in which a candidate had a line nearly always, with their weights.
    fn known(&self, name: &str, until: usize) -> Vec<(usize, f64)> {
        let Some(blocks) = self.coverage.get(name) else { return Vec::new() };
        let until = until.min(blocks.len());
        let recent = (until.saturating_sub(MOST_BLOCKS)..until).filter(|index| {
            let block = &blocks[*index];
            let whole = block.samples > 0 && f64::from(block.known) >= 0.95 * f64::from(block.samples);
            whole && !self.special.contains(index)
        });
        recent.map(|index| (index, FADING.powi((until - 1 - index) as i32))).collect()
    }

    fn alone(&self) -> &[Block] {
        &self.headroom[0].1
    }

    fn is_short(&self, until: usize) -> bool {
        let alone = &self.alone()[..until.min(self.alone().len())];
        alone.iter().rev().take(MOST_BLOCKS).map(|block| block.short).sum::<f64>() >= LEAST_SHORT
    }

    fn record(&self, replayed: &Replayed, until: usize) -> Option<Record> {
        let known = self.known(&replayed.name, until);
        let days = known.len();
        let (alone, ours) = (self.alone(), &replayed.blocks);
        let needy: Vec<(usize, f64)> = known.iter().copied().filter(|(index, _)| alone[*index].short > 0.0).collect();
        if needy.len() < MIN_BLOCKS || needy.iter().map(|(index, _)| alone[*index].short).sum::<f64>() < LEAST_SHORT {
            return Some(Record::nothing(days));
        }
        let counted = self.trimmed(known, &needy, ours);
        let sum = |of: &dyn Fn(usize) -> f64| counted.iter().map(|(index, weight)| weight * of(*index)).sum::<f64>();
        let (short, pods) = (sum(&|index| alone[index].short), sum(&|index| alone[index].pods));
        if short <= 0.0 || pods <= 0.0 {
            return None;
        }
        let share = |blocks: &[Block]| {
            (1.0 - sum(&|index| blocks[index].short) / short, sum(&|index| blocks[index].pods) / pods - 1.0)
        };
        let (prevented, cost) = share(ours);
        let headroom: Vec<(f64, f64)> = self.headroom.iter().map(|(_, blocks)| share(blocks)).collect();
        let (index, part) = at_cost(&headroom, cost);
        let between =
            |of: &dyn Fn(usize) -> f64| (1.0 - part) * of(index) + part * of((index + 1).min(headroom.len() - 1));
        let more = |day: usize| between(&|index| self.headroom[index].1[day].short) - ours[day].short;
        let won = |day: usize| more(day) > 0.0;
        let weight = |days: &mut dyn Iterator<Item = &(usize, f64)>| days.map(|(_, weight)| weight).sum::<f64>();
        let won = weight(&mut needy.iter().filter(|(day, _)| won(*day))) / weight(&mut needy.iter());
        let gains: Vec<(f64, f64)> = needy
            .iter()
            .filter(|(day, _)| counted.iter().any(|(counted, _)| counted == day))
            .map(|(day, weight)| (more(*day), *weight))
            .collect();
        let headroom = between(&|index| headroom[index].0);
        Some(Record { days, prevented, cost, headroom, won, sure: standard_errors(&gains) })
    }

    /// The days that count: without the costliest one, and without those on which the floor helped least and most.
    fn trimmed(&self, mut known: Vec<(usize, f64)>, needy: &[(usize, f64)], ours: &[Block]) -> Vec<(usize, f64)> {
        if known.len() < TRIMMED_FROM {
            return known;
        }
        let alone = self.alone();
        let gain = |index: usize| alone[index].short - ours[index].short;
        let extra = |index: usize| ours[index].pods - alone[index].pods;
        let mut odd: Vec<usize> = Vec::new();
        odd.extend(known.iter().map(|(index, _)| *index).max_by(|a, b| extra(*a).total_cmp(&extra(*b))));
        if needy.len() >= TRIMMED_FROM {
            let days = || needy.iter().map(|(index, _)| *index);
            odd.extend(days().min_by(|a, b| gain(*a).total_cmp(&gain(*b))));
            odd.extend(days().max_by(|a, b| gain(*a).total_cmp(&gain(*b))));
        }
        known.retain(|(index, _)| !odd.contains(index));
        known
    }

    /// The plain rules, headroom and the chosen candidate over the same blocks.
    fn curve(&self, until: usize, chosen: Option<&Replayed>) -> Vec<RulePoint> {
        let last = until.min(self.alone().len());
        let range = last.saturating_sub(MOST_BLOCKS)..last;
        let sum = |blocks: &[Block]| {
            blocks[range.clone()]
                .iter()
                .fold((0.0, 0.0), |(short, pods), block| (short + block.short, pods + block.pods))
        };
        let (short, pods) = sum(self.alone());
        let point = |name: String, blocks: &[Block]| {
            let (left, paid) = sum(blocks);
            RulePoint {
                name,
                short: if short > 0.0 { left / short } else { 0.0 },
                cost: if pods > 0.0 { paid / pods - 1.0 } else { 0.0 },
            }
        };
        let mut points = vec![point("HPA alone".to_owned(), self.alone())];
        for (headroom, blocks) in &self.headroom {
            if [1.1, 1.3].contains(headroom) {
                points.push(point(format!("headroom {headroom}"), blocks));
            }
        }
        for rule in [Rule::DayAgo, Rule::WeekAgo, Rule::DayOrWeekAgo] {
            let found = self.replayed.iter().find(|replayed| replayed.name == rule.name() && replayed.factor == 1.0);
            points.extend(found.map(|found| point(rule.name().to_owned(), &found.blocks)));
        }
        points.extend(chosen.map(|chosen| point(Choice::CHOSEN.to_owned(), &chosen.blocks)));
        points
    }
}

fn is_affordable(goal: Goal, record: &Record) -> bool {
    match goal {
        Goal::Budget(budget) => record.cost <= budget.share(),
        Goal::Quantile(_) => true,
    }
}

/// The candidate to be taken of those that are good enough: the cheapest that prevents nearly as much as any, with a margin.
fn best<'a>(judged: &[(&'a Replayed, Record)], goal: Goal, sure: f64) -> Option<(&'a Replayed, Record)> {
    let good = || judged.iter().filter(|(_, record)| is_affordable(goal, record) && record.good(sure));
    let most = good().map(|(_, record)| record.prevented).fold(0.0, f64::max);
    let alike = good().filter(|(_, record)| record.prevented >= most - ALIKE);
    let (least, paid) = alike.min_by(|(_, a), (_, b)| a.cost.total_cmp(&b.cost))?;
    let same = good().filter(|(other, _)| other.name == least.name && other.factor >= least.factor);
    let wider = same.filter(|(_, record)| record.cost <= paid.cost + MARGIN && record.prevented >= paid.prevented);
    wider.max_by(|(a, _), (b, _)| a.factor.total_cmp(&b.factor)).copied()
}

/// The weighted mean of some gains in standard errors; beyond every limit where all are alike.
fn standard_errors(gains: &[(f64, f64)]) -> f64 {
    let weight: f64 = gains.iter().map(|(_, weight)| weight).sum();
    let squares: f64 = gains.iter().map(|(_, weight)| weight * weight).sum();
    if weight <= 0.0 {
        return 0.0;
    }
    let mean = gains.iter().map(|(gain, weight)| gain * weight).sum::<f64>() / weight;
    let variance = gains.iter().map(|(gain, weight)| weight * (gain - mean).powi(2)).sum::<f64>() / weight;
    // As many days as would count this much with equal weights.
    let days = weight * weight / squares;
    mean / (variance / (days - 1.0).max(1.0)).sqrt().max(1e-9)
}

/// Samples that are correlated less than this are noise.
const NOISE: f64 = 0.15;

// Half a minute in two weeks.
const LEAST_SHORT: f64 = 30.0;

/// Returns the point of the curve before this cost, and the share of the way to the next point.
fn at_cost(curve: &[(f64, f64)], cost: f64) -> (usize, f64) {
    let after = curve.iter().position(|(_, paid)| *paid >= cost).unwrap_or(curve.len());
    let Some(before) = after.checked_sub(1) else { return (0, 0.0) };
    match curve.get(after) {
        Some((_, next)) if *next > curve[before].1 => (before, (cost - curve[before].1) / (next - curve[before].1)),
        _ => (before, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare;
    use crate::decide::{Mode, Policy};
    use crate::simulate::{Outcome, Workload};
    use crate::units::{Capacity, Replicas, Seconds};
    use autoscaler_forecast::load::{self, Event, Load};
    use autoscaler_forecast::span::Span;

    const STEP: Span = Span::from_seconds(300).unwrap();
    const DAY: usize = 288;
    /// Two weeks that teach, and six days that are run.
    const FIRST: usize = 14 * DAY;

    struct Run {
        outcome: Outcome,
        chosen: compare::Chosen,
        rules: Vec<compare::RuleCost>,
    }

    impl Run {
        fn ours(&self) -> f64 {
            self.outcome.with_floor.under_provisioned_seconds as f64
        }

        fn alone(&self) -> f64 {
            self.outcome.alone.under_provisioned_seconds as f64
        }
    }

    fn run(trace: &History, capacity: &str, goal: Goal) -> Run {
        run_by(&Calendar::default(), trace, capacity, goal)
    }

    fn run_by(calendar: &Calendar, trace: &History, capacity: &str, goal: Goal) -> Run {
        let capacity = capacity.parse().unwrap();
        let workload = Workload {
            limit: Capacity::scaled(capacity, 1.0 / 0.7),
            start_delay: Seconds(180),
            min: Replicas(2),
            max: Replicas(100),
        };
        let policy = Policy {
            mode: Mode::Enforce,
            capacity,
            step: STEP,
            lead_time: Span::from_seconds(900).unwrap(),
            max_floor: Replicas(100),
            max_step_up: Replicas(10),
            scale_down_delay: Seconds(600),
            stale_after: Seconds(1_800),
        };
        let setup = Setup { trace, first: FIRST, workload: &workload, policy: &policy, calendar };
        let reading = calendar.read(trace, 5);
        let question = Question {
            samples: reading.samples.clone(),
            step_seconds: 300,
            season: DAY as u32,
            horizon: 5,
            quantile: 0.9,
            model: "auto".to_owned(),
            lead: Some(3),
            replay: None,
        };
        let candidates = candidates(&question, trace, &reading, BTreeMap::new());
        let chosen = compare::choose(&setup, 86_400, &candidates, goal);
        let outcome = setup.run(&chosen.forecasts, |_| {});
        let rules = compare::rules(&setup, &candidates, outcome.with_floor);
        Run { outcome, chosen, rules }
    }

    fn generated(load: Load) -> History {
        seeded(load, 1)
    }

    fn seeded(load: Load, seed: u64) -> History {
        load::generate(load, seed, 20, STEP)
    }

    const LOADS: [(Load, &str); 10] = [
        (Load::Daily, "87/s"),
        (Load::Weekly, "87/s"),
        (Load::Spiky, "80/s"),
        (Load::Noise, "56/s"),
        (Load::Plateau, "87/s"),
        (Load::Growing, "110/s"),
        (Load::Cron, "87/s"),
        (Load::Requests, "4/s"),
        (Load::Mentions, "3/s"),
        (Load::GroupCpu, "2/s"),
    ];

    fn brief(choice: &Choice) -> String {
        format!("{} x {}: {}", choice.candidate, choice.factor, choice.reason)
    }

    /// Returns the errors of one seed of every load, and the number of loads on which the default is far better than equal-cost
    /// headroom.
    fn defaults(seed: u64) -> (Vec<String>, usize) {
        let mut far_better = 0;
        let mut wrong = Vec::new();
        for (load, capacity) in LOADS {
            let run = run(&seeded(load, seed), capacity, Goal::default());
            let ours = run.outcome.with_floor;
            for rule in &run.rules {
                let shorter = ours.under_provisioned_seconds > rule.cost.under_provisioned_seconds;
                if shorter && ours.pod_seconds > rule.cost.pod_seconds {
                    let open: Vec<String> = run.chosen.choices.iter().filter(|choice| choice.open).map(brief).collect();
                    wrong.push(format!("{load:?} {seed}: {} has {:?}, ours {ours:?} {open:?}", rule.name, rule.cost));
                }
            }
            let headroom = run.rules.last().map_or(0, |rule| rule.cost.under_provisioned_seconds) as f64;
            let (prevented, by_headroom) = (run.alone() - run.ours(), run.alone() - headroom);
            far_better += usize::from(prevented > 0.0 && prevented >= 1.5 * by_headroom);
        }
        (wrong, far_better)
    }

    /// Seeds of choice: `AUTOSCALER_MEASURE_SEEDS=4-13`, with `--nocapture`. The README has those that are always tested.
    #[test]
    fn the_default_is_not_dominated_with_seeds_of_choice() {
        let Ok(seeds) = std::env::var("AUTOSCALER_MEASURE_SEEDS") else { return };
        let (first, last) = seeds.split_once('-').expect("as in 4-13");
        let (mut wrong, mut little) = (Vec::new(), Vec::new());
        for seed in first.parse::<u64>().unwrap()..=last.parse().unwrap() {
            let (more, far_better) = defaults(seed);
            println!("seed {seed}: far better on {far_better} loads, dominated {} times", more.len());
            wrong.extend(more);
            little.extend((far_better * 2 < LOADS.len()).then_some(seed));
        }
        assert!(wrong.is_empty() && little.is_empty(), "{}\nlittle better: {little:?}", wrong.join("\n"));
    }

    /// The same load whose days begin on other dates, so that the event on day 15 is on this one.
    fn with_event_on(history: &History, date: &str, event: Event) -> History {
        let day: jiff::Timestamp = format!("{date}T00:00:00Z").parse().unwrap();
        let start = jiff::Timestamp::from_second(day.as_second() - 15 * 86_400).unwrap();
        load::with_event(&History { start, ..history.clone() }, event, 15)
    }

    #[test]
    fn with_a_time_zone_a_clock_change_costs_no_more_than_an_ordinary_day() {
        let calendar = Calendar::new(autoscaler_forecast::calendar::zone("Europe/Berlin").unwrap(), &[]);
        for load in [Load::Plateau, Load::Weekly] {
            let load = generated(load);
            let ordinary = run(&load, "87/s", Goal::default()).ours();
            let changed = with_event_on(&load, "2026-03-29", Event::ClockChange);
            let without = run(&changed, "87/s", Goal::default()).ours();
            let with = run_by(&calendar, &changed, "87/s", Goal::default());
            assert!(with.ours() <= ordinary + 15.0, "{} s with the zone, {ordinary} s without a change", with.ours());
            assert!(without > 100.0 + with.ours(), "{without} s without the zone, {} s with it", with.ours());
            assert!(with.chosen.choices.iter().all(|choice| choice.open));
        }
    }

    #[test]
    fn a_listed_holiday_is_not_the_norm_of_next_week() {
        let load = generated(Load::Daily);
        let changed = with_event_on(&load, "2026-04-08", Event::Holiday);
        let calendar = Calendar::new(jiff::tz::TimeZone::UTC, &["2026-04-08".parse().unwrap()]);
        let (unlisted, listed) =
            (run(&changed, "87/s", Goal::default()), run_by(&calendar, &changed, "87/s", Goal::default()));
        let ordinary = run(&load, "87/s", Goal::default()).outcome.with_floor.pod_seconds;
        let (alone, with_floor) = (listed.outcome.alone, listed.outcome.with_floor);
        // The holiday itself is expected to be an ordinary day: pods then cost, and nothing is short after it.
        assert!(listed.ours() <= unlisted.ours(), "{} {}", listed.ours(), unlisted.ours());
        assert!(with_floor.pod_seconds < ordinary && with_floor.pod_seconds > alone.pod_seconds);
        assert!(listed.chosen.choices.iter().all(|choice| choice.open));
    }

    #[test]
    fn a_holiday_like_a_sunday_costs_no_floor_of_a_working_day() {
        let load = generated(Load::Weekly);
        // The Wednesday of the third week, which has the demand of a Sunday.
        let mut changed = History { start: "2026-03-30T00:00:00Z".parse().unwrap(), ..load.clone() };
        let sunday = load.samples[13 * DAY..14 * DAY].to_vec();
        changed.samples[16 * DAY..17 * DAY].copy_from_slice(&sunday);
        let calendar = Calendar::new(jiff::tz::TimeZone::UTC, &["2026-04-15=Sunday".parse().unwrap()]);
        let unlisted = run(&changed, "87/s", Goal::default());
        let listed = run_by(&calendar, &changed, "87/s", Goal::default());
        assert!(listed.ours() <= unlisted.ours(), "{} {}", listed.ours(), unlisted.ours());
        let saved = unlisted.outcome.with_floor.pod_seconds as i64 - listed.outcome.with_floor.pod_seconds as i64;
        assert!(saved > 30_000, "{saved} pod-seconds saved");
    }

    #[test]
    fn a_larger_budget_never_buys_less_than_headroom_does() {
        for (load, capacity, budget) in [(Load::Requests, "4/s", "55%"), (Load::Cron, "87/s", "31%")] {
            for seed in [1, 2] {
                let run = run(&seeded(load, seed), capacity, Goal::Budget(budget.parse().unwrap()));
                let (ours, alone) = (run.ours(), run.alone());
                let headroom = run.rules.last().unwrap().cost.under_provisioned_seconds as f64;
                assert!(ours <= headroom, "{load:?} {seed}: {ours} of {alone} s, headroom at that cost {headroom} s");
                // What repeats exactly is prevented nearly whole where the budget allows it.
                assert!(load != Load::Cron || ours < 0.05 * alone, "{load:?} {seed}: {ours} of {alone} s");
            }
        }
    }

    #[test]
    fn noise_is_refused_even_where_a_floor_would_prevent_shortage() {
        let run = run(&generated(Load::Noise), "120/s", Goal::default());
        assert!(run.chosen.choices.iter().all(|choice| !choice.open), "{:?}", run.chosen.choices);
        assert_eq!(run.outcome.alone, run.outcome.with_floor);
    }

    #[test]
    fn a_larger_budget_prevents_more() {
        let trace = generated(Load::Cron);
        let by = |budget: &str| run(&trace, "87/s", Goal::Budget(budget.parse().unwrap()));
        let (small, large) = (by("5%"), by("31%"));
        assert!(large.ours() < small.ours(), "{} {}", small.ours(), large.ours());
        assert!(small.outcome.with_floor.pod_seconds < large.outcome.with_floor.pod_seconds);
    }

    #[test]
    fn a_quantile_is_a_share_of_covered_demand() {
        let trace = generated(Load::Daily);
        let quantile = run(&trace, "87/s", Goal::Quantile(0.9_f64.try_into().unwrap()));
        let budget = run(&trace, "87/s", Goal::default());
        assert!(quantile.ours() <= 60.0 && budget.ours() <= 60.0);
        assert!(quantile.outcome.with_floor.pod_seconds >= budget.outcome.with_floor.pod_seconds);
    }

    #[test]
    fn budgets_are_read_as_people_write_them() {
        assert_eq!("10%".parse::<Budget>().unwrap().to_string(), "10%");
        assert_eq!("7.5%".parse::<Budget>().unwrap().share(), 0.075);
        for text in ["", "10", "0%", "-1%", "1000%", "1.%", "+5%", "NaN%", "ten%"] {
            assert!(text.parse::<Budget>().is_err(), "{text}");
        }
    }
}
