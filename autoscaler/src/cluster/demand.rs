//! A workload's demand up to now, and its forecast: what is remembered, what Prometheus adds to it, what the worker makes
//! of it.
//!
//! Asks for no more than what is new. What cannot be had is a `Unavailable` in words; nothing is made up in its place.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::Semaphore;

use crate::cluster::crd::ScalerSettings;
use crate::cluster::prometheus::{Prometheus, Trouble};
use crate::floor::choose::{self, Choice, Evaluation, Goal};
use crate::floor::decide::{Missing, Outlook, Policy};
use crate::floor::simulate::{Setup, Workload};
use crate::floor::units::{Replicas, Seconds};
use crate::forecast::history::History;
use crate::forecast::naive;
use crate::forecast::protocol::{Answer, Question, Refusal, Renewal};
use crate::forecast::span::Span;
use crate::forecast::supervisor::Supervisor;
use crate::forecast::{Forecast, ForecastOptions, Model};
use crate::show::metrics::{Metrics, Outcome};
use crate::show::state::{ScalerName, State};

/// How far histories go back where the season is short: two weeks, and a day to spare.
const PAST_SECONDS: u32 = 15 * 86_400;
/// A forecast grows dearer with every sample, and no better beyond this: three weeks of minutes.
const MOST_SAMPLES: u32 = 30_240;
/// Asked for again, for samples can come late.
const OVERLAP: i64 = 5;
/// The shortest season of which a replay says anything: 40 times the period of the autoscaler, which is 15 s.
const SHORTEST_REPLAYED: u32 = 600;
/// How far back candidates are replayed.
const REPLAY_SECONDS: u32 = 14 * 86_400;
/// As long as an autoscaler may take to follow demand down: the demand that it still runs pods for.
const LATELY_SECONDS: u32 = 3_600;

/// A fit is carried on for so long; then models and bands are judged anew.
const REFITTED_AFTER: i64 = 3_600;
/// Up to so many new scalers each waits for its first fit: a tenth of a second each.
const MANY_SCALERS: usize = 100;

/// How long a forecast may wait and take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// How long it may wait for the worker before the seasonal naive makes it.
    pub queue_timeout: Duration,
    /// How long the worker may take for it.
    pub timeout: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines { queue_timeout: Duration::from_secs(20), timeout: Duration::from_secs(30) }
    }
}

/// What makes forecasts.
#[derive(Debug)]
pub struct Demands {
    /// Where samples come from.
    pub prometheus: Prometheus,
    /// What is remembered of them.
    pub state: State,
    /// Who forecasts.
    pub supervisor: Arc<Supervisor>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How long that may take.
    pub deadlines: Deadlines,
    /// Permit of the one scaler that is fitted now.
    fitting: Semaphore,
    /// Permit of the one scaler whose candidates are replayed now.
    choosing: Arc<Semaphore>,
    choices: Arc<Mutex<HashMap<ScalerName, KeptChoice>>>,
    scaler_count: AtomicUsize,
}

/// A forecast before it has times.
struct Made {
    answer: Answer,
    fallback: Option<String>,
    outage: bool,
}

/// A fit as the state keeps it.
#[derive(Serialize, Deserialize)]
struct Kept {
    query: String,
    /// The time of the last sample that it has seen.
    end: i64,
    fit: Box<RawValue>,
}

impl Kept {
    /// It, to be carried on to the end of this history; none where that end is not after its own.
    fn renewal(&self, history: &History) -> Option<Renewal> {
        let since = (history.end().as_second() - self.end) / i64::from(history.step.seconds());
        let since = u32::try_from(since).ok().filter(|since| (*since as usize) < history.samples.len())?;
        Some(Renewal { fit: self.fit.clone(), since })
    }

    /// Whether it is time to fit anew: once in a while, for each scaler at a time of its own.
    fn is_due(&self, name: &ScalerName, history: &History) -> bool {
        let every = REFITTED_AFTER.max(12 * i64::from(history.step.seconds()));
        let turn = |second: i64| (second + (name.share() * every as f64) as i64).div_euclid(every);
        turn(history.end().as_second()) != turn(self.end)
    }
}

/// A forecast and what it was made from.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The forecast.
    pub forecast: Forecast,
    /// As a decision reads it.
    pub outlook: Outlook,
    /// Why the seasonal naive stood in for the worker, where it did.
    pub fallback: Option<String>,
    /// Whether that is because something is broken.
    pub outage: bool,
    /// The newest sample.
    pub demand: Option<f64>,
}

/// The autoscaler's own limits: its owner's minimum and its maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The owner's minimum.
    pub min: Replicas,
    /// The maximum.
    pub max: Replicas,
}

impl Limits {
    /// The workload as it is replayed. The API has neither a pod's limit nor its start: a pod is taken to be full at its
    /// capacity divided by 0.7, and to be ready two steps before the lead time is over, after one step at least.
    fn workload(self, policy: &Policy) -> Workload {
        let start = u64::from(policy.lead_time.seconds()).saturating_sub(2 * u64::from(policy.step.seconds()));
        Workload {
            limit: policy.capacity.scaled(1.0 / 0.7),
            start_delay: Seconds(start.max(policy.step.seconds().into()).min(900)),
            min: self.min,
            max: self.max.max(self.min),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct ChoiceKey {
    settings: ScalerSettings,
    limits: Limits,
    day: i64,
}

#[derive(Clone, Debug)]
struct KeptChoice {
    key: ChoiceKey,
    /// Whether the worker's models were among the candidates.
    models: bool,
    choice: Choice,
}

/// Everything that a choice follows from.
struct Replay {
    history: History,
    question: Question,
    peaks: BTreeMap<String, Vec<f64>>,
    policy: Policy,
    workload: Workload,
    goal: Goal,
}

impl Replay {
    fn choose(self) -> Choice {
        let Replay { history, question, peaks, policy, workload, goal } = self;
        let candidates = choose::candidates(&question, choose::aligned(peaks, history.samples.len()));
        let first = history.samples.len().saturating_sub(question.replay.unwrap_or(0) as usize);
        let first = first.max(question.season as usize).min(history.samples.len() - 1);
        let setup = Setup { trace: &history, first, workload: &workload, policy: &policy };
        let season = question.season.saturating_mul(question.step_seconds);
        let evaluation = Evaluation::new(&setup, season, &candidates);
        evaluation.choose(evaluation.blocks_before(history.end().as_second()), goal)
    }
}

/// Why there is no forecast.
#[derive(Clone, Debug)]
pub struct Unavailable {
    /// As a decision reads it.
    pub missing: Missing,
    /// In one word, for a condition.
    pub word: &'static str,
    /// Whether samples are fresh all the same.
    pub fresh: bool,
}

impl Demands {
    /// Demands that nothing is known of yet.
    pub fn new(
        prometheus: Prometheus,
        state: State,
        supervisor: Arc<Supervisor>,
        metrics: Arc<Metrics>,
        deadlines: Deadlines,
    ) -> Demands {
        Demands {
            prometheus,
            state,
            supervisor,
            metrics,
            deadlines,
            fitting: Semaphore::new(1),
            choosing: Arc::new(Semaphore::new(1)),
            choices: Arc::default(),
            scaler_count: AtomicUsize::new(0),
        }
    }

    /// Notes how many scalers there are.
    pub fn set_scaler_count(&self, scalers: usize) {
        self.scaler_count.store(scalers, Ordering::Relaxed);
    }

    /// The forecast at `now`, or what is missing for one.
    pub async fn expected(
        &self,
        name: &ScalerName,
        settings: &ScalerSettings,
        limits: Limits,
        now: Timestamp,
    ) -> Result<Expected, Unavailable> {
        let step = settings.policy.step;
        let history = self.history(name, settings, now).await.map_err(|trouble| Unavailable {
            missing: trouble.missing(),
            word: trouble.word(),
            fresh: false,
        })?;
        let Some(history) = history else {
            let cause = format!("the query gives no sample; query `{}`", settings.query);
            return Err(Unavailable { missing: Missing::NoForecast { cause }, word: "NoSamples", fresh: false });
        };
        let age = now.as_second() - history.end().as_second();
        if age > 2 * i64::from(step.seconds()) {
            let missing = Missing::Stale { age: Seconds(age.unsigned_abs()) };
            return Err(Unavailable { missing, word: "Stale", fresh: false });
        }
        let cannot = |cause: String, word| {
            let missing = Missing::NoForecast { cause: format!("{cause}; query `{}`", settings.query) };
            Unavailable { missing, word, fresh: true }
        };
        let steps = Outlook::horizon(settings.policy.lead_time, step);
        let horizon = Span::from_seconds(steps.saturating_mul(step.seconds())).unwrap_or(step);
        let options =
            ForecastOptions { horizon, season: settings.season, quantile: settings.quantile, model: Model::Auto };
        let question = options.question(&history).map_err(|failure| cannot(failure.message, "NotAskable"))?;
        let question = Question {
            lead: Some(settings.policy.lead_time.seconds().div_ceil(step.seconds())),
            replay: Some((REPLAY_SECONDS / step.seconds()).min(history.samples.len() as u32)),
            ..question
        };
        let made = self.forecast(name, settings, &history, &question).await;
        let Made { answer, fallback, outage } = made.map_err(|refusal| cannot(refusal.message, "NotEnoughHistory"))?;
        let choice = match settings.season.seconds() {
            // Faster than the autoscaler itself can follow: such a forecast is judged by its errors alone.
            short if short < SHORTEST_REPLAYED => None,
            _ => match self.choice(name, settings, limits, &history, (&question, &answer)).await {
                Some(choice) => Some(choice),
                // Not a reason to release a floor: it is held meanwhile.
                None => return Err(cannot("other workloads are replayed first".to_owned(), "NotReplayedYet")),
            },
        };
        let answer = choose::applied(answer, &question, choice.as_ref());
        let forecast = Forecast { choice, ..Forecast::new(&history, &options, answer) };
        let lately = history.samples.len().saturating_sub(LATELY_SECONDS.div_ceil(step.seconds()) as usize);
        let recent = history.samples[lately..].iter().flatten().copied().fold(f64::NAN, f64::max);
        let outlook = Outlook::of(&forecast, settings.unit).with_recent(recent);
        let demand = history.samples.last().copied().flatten();
        Ok(Expected { forecast, outlook, fallback, outage, demand })
    }

    /// What the floor is made of: chosen once a day, and again when the settings change or models come in.
    ///
    /// Replaying takes a part of a second, so it is done for one scaler at a time, beside the reconciles. With many scalers
    /// one whose turn has not come keeps its last choice; none where it has none yet.
    async fn choice(
        &self,
        name: &ScalerName,
        settings: &ScalerSettings,
        limits: Limits,
        history: &History,
        (question, answer): (&Question, &Answer),
    ) -> Option<Choice> {
        let key = ChoiceKey { settings: settings.clone(), limits, day: history.end().as_second().div_euclid(86_400) };
        let choices = || self.choices.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = choices().get(name).cloned();
        let models = !answer.peaks.is_empty();
        if let Some(kept) = kept.as_ref().filter(|kept| kept.key == key && (kept.models || !models)) {
            return Some(kept.choice.clone());
        }
        let many = self.scaler_count.load(Ordering::Relaxed) > MANY_SCALERS;
        let choosing = Arc::clone(&self.choosing);
        let turn = if many { choosing.try_acquire_owned().ok() } else { choosing.acquire_owned().await.ok() };
        let known = kept.map(|kept| kept.choice);
        let Some(turn) = turn else { return known };
        let replay = Replay {
            history: history.clone(),
            question: question.clone(),
            peaks: answer.peaks.clone(),
            policy: settings.policy.clone(),
            workload: limits.workload(&settings.policy),
            goal: settings.goal,
        };
        let (all, name) = (Arc::clone(&self.choices), name.clone());
        let work = tokio::task::spawn_blocking(move || {
            let choice = replay.choose();
            let kept = KeptChoice { key, models, choice: choice.clone() };
            all.lock().unwrap_or_else(PoisonError::into_inner).insert(name, kept);
            drop(turn);
            choice
        });
        // Of many, none waits: the choice counts from its next decision on.
        if many { known } else { work.await.ok().or(known) }
    }

    /// Forgets a scaler that is gone.
    pub fn forget(&self, name: &ScalerName) {
        self.choices.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.state.forget(name);
        self.metrics.forget(name);
    }

    /// Carries the last fit on where it is young enough, and fits anew where it is not, in turn. Where so many are new
    /// that their turn would come too late, the seasonal naive forecasts until it comes.
    async fn forecast(
        &self,
        name: &ScalerName,
        settings: &ScalerSettings,
        history: &History,
        question: &Question,
    ) -> Result<Made, Refusal> {
        let kept: Option<Kept> = self.state.fit(name).and_then(|text| serde_json::from_str(&text).ok());
        let kept = kept.filter(|kept| kept.query == settings.query);
        let renewal = kept.and_then(|kept| kept.renewal(history).map(|renewal| (renewal, kept.is_due(name, history))));
        // Held until this forecast is there.
        let turn = match &renewal {
            Some((_, false)) => None,
            Some((_, true)) => self.fitting.try_acquire().ok(),
            None if self.scaler_count.load(Ordering::Relaxed) > MANY_SCALERS => match self.fitting.try_acquire() {
                Ok(turn) => Some(turn),
                Err(_) => {
                    let answer = naive::answer(question)?;
                    let why = "others are fitted first".to_owned();
                    return Ok(Made { answer, fallback: Some(why), outage: false });
                }
            },
            None => self.fitting.acquire().await.ok(),
        };
        let renewal = renewal.filter(|_| turn.is_none()).map(|(renewal, _)| renewal);
        let Deadlines { queue_timeout, timeout } = self.deadlines;
        let asked = Instant::now();
        let made = self.supervisor.forecast(question, renewal.as_ref(), queue_timeout, timeout).await;
        match &made {
            Ok(made) if made.instead_of.is_some() => self.metrics.fallback(),
            other => self.metrics.forecast(Outcome::of(other), asked.elapsed()),
        }
        let made = made?;
        let mut answer = made.answer;
        if let Some(fit) = answer.fit.take().and_then(|fit| to_raw_value(&fit).ok()) {
            let kept = Kept { query: settings.query.clone(), end: history.end().as_second(), fit };
            if let Ok(text) = serde_json::to_string(&kept) {
                self.state.remember_fit(name, &text);
            }
        }
        Ok(Made { answer, outage: made.instead_of.is_some(), fallback: made.instead_of })
    }

    /// The demand until now: what is remembered, and what is new.
    async fn history(
        &self,
        name: &ScalerName,
        settings: &ScalerSettings,
        now: Timestamp,
    ) -> Result<Option<History>, Trouble> {
        let step = settings.policy.step;
        let each = i64::from(step.seconds());
        let window = window(settings.season, step);
        let last = now.as_second().div_euclid(each) * each;
        let earliest = last - (i64::from(window) - 1) * each;
        let known = self.state.samples(name, &settings.query, step);
        let first = known.as_ref().map_or(earliest, |known| {
            // A clock that went back asks for what it has seen already, once more.
            (known.end().as_second().min(last) - OVERLAP * each).max(earliest)
        });
        let at = |second| Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
        let asked = Instant::now();
        let samples = self.prometheus.range(&settings.query, at(first), at(last), step).await;
        self.metrics.queried(Outcome::of(&samples), asked.elapsed());
        let fresh = samples?.history();
        if let Some(fresh) = &fresh {
            self.state.remember_samples(name, &settings.query, fresh);
        }
        Ok(joined(known, fresh, window).map(|history| history.newest(window as usize)))
    }
}

/// How many samples a history has at most.
fn window(season: Span, step: Span) -> u32 {
    let seasons = season.seconds().saturating_mul(4) / step.seconds();
    (PAST_SECONDS / step.seconds()).max(seasons).min(MOST_SAMPLES)
}

/// Two parts of one history, the second one newer: where both have a sample, that one counts. A first part that is
/// farther back than a whole window is of no use.
fn joined(known: Option<History>, fresh: Option<History>, window: u32) -> Option<History> {
    let (Some(known), Some(fresh)) = (&known, &fresh) else { return fresh.or(known) };
    let each = i64::from(fresh.step.seconds());
    let offset = fresh.start.as_second() - known.start.as_second();
    let apart = fresh.start.as_second() - known.end().as_second();
    if known.step != fresh.step || offset % each != 0 || apart / each > i64::from(window) {
        return Some(fresh.clone());
    }
    let start = known.start.min(fresh.start);
    let end = known.end().max(fresh.end());
    let index = |time: Timestamp| ((time.as_second() - start.as_second()) / each) as usize;
    let mut samples = vec![None; index(end) + 1];
    for part in [known, fresh] {
        let at = index(part.start);
        for (place, sample) in samples[at..].iter_mut().zip(&part.samples) {
            *place = sample.or(*place);
        }
    }
    Some(History { start, step: fresh.step, samples })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Span = Span::from_seconds(60).unwrap();

    fn history(minute: i64, samples: &[Option<f64>]) -> Option<History> {
        let start = Timestamp::from_second(minute * 60).unwrap();
        Some(History { start, step: MINUTE, samples: samples.to_vec() })
    }

    #[test]
    fn what_is_new_is_laid_over_what_is_known() {
        let known = history(10, &[Some(1.0), Some(2.0), Some(3.0)]);
        let fresh = history(12, &[Some(3.5), None, Some(5.0)]);
        let both = history(10, &[Some(1.0), Some(2.0), Some(3.5), None, Some(5.0)]);
        assert_eq!(joined(known.clone(), fresh.clone(), 100), both);
        assert_eq!(joined(None, fresh.clone(), 100), fresh);
        assert_eq!(joined(known.clone(), None, 100), known);
    }

    #[test]
    fn between_two_parts_is_a_gap_and_a_part_too_far_back_is_none() {
        let known = history(10, &[Some(1.0)]);
        assert_eq!(joined(known.clone(), history(13, &[Some(4.0)]), 100).unwrap().samples.len(), 4);
        let far = history(1_000_000, &[Some(4.0)]);
        assert_eq!(joined(known, far.clone(), 100), far);
    }

    #[test]
    fn a_window_is_two_weeks_or_four_seasons() {
        let hour = Span::from_seconds(3_600).unwrap();
        let week = Span::from_seconds(604_800).unwrap();
        assert_eq!(window(Span::from_seconds(86_400).unwrap(), Span::from_seconds(300).unwrap()), 4_320);
        assert_eq!(window(week, hour), 672);
        assert_eq!(window(week, MINUTE), MOST_SAMPLES);
    }
}
