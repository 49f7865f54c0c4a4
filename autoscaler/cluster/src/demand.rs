//! A workload's demand up to now, and its forecast: what is remembered, what Prometheus adds to it, what the worker makes
//! of it.
//!
//! Asks for no more than what is new. What cannot be had is a `Unavailable` in words; nothing is made up in its place.

use crate::crd::ScalerSettings;
use crate::prometheus::{Prometheus, Trouble};
use autoscaler_floor::choose::{self, Choice, Evaluation, Goal};
use autoscaler_floor::decide::{Missing, Outlook, Policy};
use autoscaler_floor::simulate::{Setup, Workload};
use autoscaler_floor::units::{Replicas, Seconds};
use autoscaler_forecast::calendar::{Calendar, Reading};
use autoscaler_forecast::history::History;
use autoscaler_forecast::naive;
use autoscaler_forecast::protocol::{Answer, Question, Refusal, Renewal};
use autoscaler_forecast::span::Span;
use autoscaler_forecast::supervisor::Supervisor;
use autoscaler_forecast::{Forecast, ForecastOptions, Model};
use autoscaler_show::metrics::{Metrics, Outcome};
use autoscaler_show::state::{ScalerName, State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Length of a history with a short season: two weeks, and a day to spare.
const PAST_SECONDS: u32 = 15 * 86_400;
/// A forecast grows dearer with every sample, and no better beyond this: three weeks of minutes.
const MOST_SAMPLES: u32 = 30_240;
/// Asked for again, for samples can come late.
const OVERLAP: i64 = 5;
/// The shortest season of which a replay says anything: 40 times the period of the autoscaler, which is 15 s.
const SHORTEST_REPLAYED: u32 = 600;
/// Length of the past over which candidates are replayed.
const REPLAY_SECONDS: u32 = 14 * 86_400;
/// As long as an autoscaler may take to follow demand down: the demand that it still runs pods for.
const LATELY_SECONDS: u32 = 3_600;

/// A fit is carried on for so long; then models and bands are judged again. Choices of one day are spread over as long.
const REFITTED_AFTER: i64 = 3_600;
/// Up to this number of scalers each new one waits for its first fit: a tenth of a second each.
const MANY_SCALERS: usize = 100;
/// Number of scalers that are called from the queue ahead of their turn, so that the worker never waits for one.
const NEXT: usize = 4;
/// Of many scalers, one that was called waits for the fits before it at most for this long.
const TURN: Duration = Duration::from_secs(20);
/// A scaler that does not come so long after it was called, such as a paused one, loses its place in the queue.
const LATE: Duration = Duration::from_secs(30);
/// The time until a fit is tried again that the worker could not make.
const AGAIN: Duration = Duration::from_secs(15);
/// Number of scalers that are tried again in a second: a thousand without a worker do not all come back at once.
const AGAIN_IN_A_SECOND: u32 = 7;

/// Time limits of a forecast.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Time that it may wait for the worker before the seasonal naive makes it.
    pub queue_timeout: Duration,
    /// Time that the worker may take for it.
    pub timeout: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines { queue_timeout: Duration::from_secs(20), timeout: Duration::from_secs(30) }
    }
}

/// Source of all forecasts.
#[derive(Debug)]
pub struct Demands {
    pub prometheus: Prometheus,
    pub state: State,
    pub supervisor: Arc<Supervisor>,
    pub metrics: Arc<Metrics>,
    pub deadlines: Deadlines,
    /// Permit of the one scaler that is fitted now.
    fitting: Semaphore,
    /// Scalers that wait for a fit, the first one first.
    waiting: Mutex<Waiting>,
    /// Permit of the one scaler whose candidates are replayed now.
    choosing: Semaphore,
    choices: Mutex<HashMap<ScalerName, KeptChoice>>,
    scaler_count: AtomicUsize,
}

/// The scalers whose fit is due while another one is fitted, the first one first.
#[derive(Debug, Default)]
struct Waiting {
    /// Each with the time at which it was called.
    names: VecDeque<(ScalerName, Option<Instant>)>,
    /// Sender of the scalers to reconcile ahead of their turn.
    called: Option<UnboundedSender<ScalerName>>,
}

impl Waiting {
    /// Adds a scaler that is not in the queue yet. One that was called and is back too late is called again.
    fn join(&mut self, name: &ScalerName) {
        match self.names.iter_mut().find(|(other, _)| other == name) {
            Some((_, called)) => *called = None,
            None => self.names.push_back((name.clone(), None)),
        }
        self.call();
    }

    /// Returns true if a scaler is one of the next.
    fn is_next(&self, name: &ScalerName) -> bool {
        self.names.iter().take(NEXT).any(|(other, _)| other == name)
    }

    /// Removes a scaler whose turn has come, or that is gone, and calls the next ones.
    fn leave(&mut self, name: &ScalerName) {
        self.withdraw(name);
        self.call();
    }

    /// Removes a scaler and calls nobody.
    fn withdraw(&mut self, name: &ScalerName) {
        self.names.retain(|(other, _)| other != name);
    }

    /// Calls those of the next that were not called yet.
    fn call(&mut self) {
        let Some(sender) = &self.called else { return };
        self.names.retain(|(_, called)| called.is_none_or(|called| called.elapsed() < LATE));
        for (name, called) in self.names.iter_mut().take(NEXT).filter(|(_, called)| called.is_none()) {
            // The receiver is gone when another process leads: nobody is fitted here then.
            let _ = sender.send(name.clone());
            *called = Some(Instant::now());
        }
    }
}

/// A forecast before it has times.
struct Made {
    answer: Answer,
    fallback: Option<String>,
    outage: bool,
    /// True if the models were fitted to this very history.
    fitted: bool,
    /// The time until a fit is tried again that the worker could not make.
    again_in: Option<Duration>,
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
    fn renewal(&self, history: &History, reading: &Reading) -> Option<Renewal> {
        let index = (self.end - history.start.as_second()) / i64::from(history.step.seconds());
        let since = reading.since(usize::try_from(index).ok()?)?;
        Some(Renewal { fit: self.fit.clone(), since: u32::try_from(since).ok()? })
    }

    /// Returns true if it is time to fit again: once in a while, for each scaler at a time of its own.
    fn is_due(&self, name: &ScalerName, history: &History) -> bool {
        let every = REFITTED_AFTER.max(12 * i64::from(history.step.seconds()));
        let turn = |second: i64| (second + (name.share() * every as f64) as i64).div_euclid(every);
        turn(history.end().as_second()) != turn(self.end)
    }
}

/// A forecast and what it was made from.
#[derive(Clone, Debug)]
pub struct Expected {
    pub forecast: Forecast,
    /// Outlook for the decision.
    pub outlook: Outlook,
    /// Reason that the seasonal naive replaced the worker, if it did.
    pub fallback: Option<String>,
    /// True if the reason is an outage.
    pub outage: bool,
    /// Value of the newest sample.
    pub demand: Option<f64>,
    /// The time until a fit is tried again that the worker could not make.
    pub again_in: Option<Duration>,
}

/// The autoscaler's own limits: its owner's minimum and its maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Minimum of the owner.
    pub min: Replicas,
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

/// Key of a choice: it is made again when one of these changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ChoiceKey {
    /// Hash of the settings and the limits: a choice for others does not count.
    wanted: u64,
    day: i64,
}

impl ChoiceKey {
    /// Days begin at another moment of an hour for each scaler: a thousand are not replayed at the same midnight.
    fn new(name: &ScalerName, settings: &ScalerSettings, limits: Limits, history: &History) -> ChoiceKey {
        let mut hasher = DefaultHasher::new();
        let ScalerSettings { policy, query, unit, season, goal, calendar, .. } = settings;
        format!("{VERSION} {policy:?} {query} {unit:?} {season} {goal:?} {limits:?} {calendar:?}").hash(&mut hasher);
        let later = (name.share() * REFITTED_AFTER as f64) as i64;
        ChoiceKey { wanted: hasher.finish(), day: (history.end().as_second() - later).div_euclid(86_400) }
    }
}

/// Version of the candidates and of the rules by which one is chosen: a choice by others is made again.
const VERSION: u32 = 3;

/// A choice as the state keeps it, so that a restart loses no floor.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct KeptChoice {
    key: ChoiceKey,
    /// True if the worker's models could be among the candidates.
    models: bool,
    choice: Choice,
}

/// Everything that a choice follows from.
struct Replay {
    history: History,
    reading: Reading,
    question: Question,
    calendar: Calendar,
    peaks: BTreeMap<String, Vec<f64>>,
    policy: Policy,
    workload: Workload,
    goal: Goal,
}

impl Replay {
    fn choose(self) -> Choice {
        let Replay { history, reading, question, calendar, peaks, policy, workload, goal } = self;
        let peaks = choose::aligned(peaks, question.samples.len());
        let candidates = choose::candidates(&question, &history, &reading, peaks);
        let first = history.samples.len().saturating_sub(question.replay.unwrap_or(0) as usize);
        let first = first.max(question.season as usize).min(history.samples.len() - 1);
        let setup = Setup { trace: &history, first, workload: &workload, policy: &policy, calendar: &calendar };
        let season = question.season.saturating_mul(question.step_seconds);
        let evaluation = Evaluation::new(&setup, season, &candidates, goal);
        evaluation.choose(evaluation.blocks_before(history.end().as_second()), goal)
    }
}

/// Reason that there is no forecast.
#[derive(Clone, Debug)]
pub struct Unavailable {
    /// Reason for the decision.
    pub missing: Missing,
    /// In one word, for a condition.
    pub word: &'static str,
    /// True if the samples are fresh nevertheless.
    pub fresh: bool,
    /// The time until a fit is tried again that the worker could not make.
    pub again_in: Option<Duration>,
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
            waiting: Mutex::default(),
            choosing: Semaphore::new(1),
            choices: Mutex::default(),
            scaler_count: AtomicUsize::new(0),
        }
    }

    /// Notes how many scalers there are.
    pub fn set_scaler_count(&self, scalers: usize) {
        self.scaler_count.store(scalers, Ordering::Relaxed);
    }

    /// Names of scalers to be reconciled now, for their turn to be fitted has come. Ends with the next call.
    pub fn calls(&self) -> UnboundedReceiver<ScalerName> {
        let (sender, receiver) = unbounded_channel();
        let mut waiting = self.waiting();
        // What was called before was for somebody else to reconcile.
        *waiting = Waiting { names: VecDeque::new(), called: Some(sender) };
        receiver
    }

    /// Calls another in place of a scaler that is gone.
    pub fn skip(&self, name: &ScalerName) {
        self.waiting().leave(name);
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
            again_in: None,
        })?;
        let Some(history) = history else {
            let cause = format!("the query returns no samples; query `{}`", settings.query);
            return Err(Unavailable {
                missing: Missing::NoForecast { cause },
                word: "NoSamples",
                fresh: false,
                again_in: None,
            });
        };
        let age = now.as_second() - history.end().as_second();
        if age > 2 * i64::from(step.seconds()) {
            let missing = Missing::Stale { age: Seconds(age.unsigned_abs()) };
            return Err(Unavailable { missing, word: "Stale", fresh: false, again_in: None });
        }
        let cannot = |cause: String, word| {
            let missing = Missing::NoForecast { cause: format!("{cause}; query `{}`", settings.query) };
            Unavailable { missing, word, fresh: true, again_in: None }
        };
        let steps = Outlook::horizon(settings.policy.lead_time, step);
        let horizon = Span::from_seconds(steps.saturating_mul(step.seconds())).unwrap_or(step);
        let options =
            ForecastOptions { horizon, season: settings.season, quantile: settings.quantile, model: Model::Auto };
        let question = options.question(&history).map_err(|failure| cannot(failure.message, "NotAskable"))?;
        let reading = settings.calendar.read(&history, steps as usize);
        // Faster than the autoscaler itself can follow: such a forecast is judged by its errors alone.
        let replayed = settings.season.seconds() >= SHORTEST_REPLAYED;
        let key = ChoiceKey::new(name, settings, limits, &history);
        let kept = if replayed { self.kept_choice(name) } else { None };
        let due = replayed && kept.as_ref().is_none_or(|kept| kept.key != key || !kept.models);
        let question = Question {
            samples: reading.samples.clone(),
            horizon: reading.horizon(steps),
            lead: Some(settings.policy.lead_time.seconds().div_ceil(step.seconds())),
            // The models' past lines are only asked for where they are replayed.
            replay: due.then_some((REPLAY_SECONDS / step.seconds()).min(history.samples.len() as u32)),
            ..question
        };
        let mut turn = None;
        let made = self.forecast(name, settings, (&history, &reading), &question, (due, &mut turn)).await;
        let made = made.map_err(|refusal| cannot(refusal.message, "NotEnoughHistory"))?;
        let Made { answer, fallback, outage, fitted, again_in } = made;
        // Without a worker the plain rules are chosen from; until it is back, one choice of a day is enough.
        let again = due && (fitted || outage && kept.as_ref().is_none_or(|kept| kept.key != key));
        let choice = if again {
            let known = KeptChoice { key, models: fitted, choice: Choice::default() };
            let replay = Replay {
                history: history.clone(),
                reading: reading.clone(),
                question: question.clone(),
                calendar: settings.calendar.clone(),
                peaks: answer.peaks.clone(),
                policy: settings.policy.clone(),
                workload: limits.workload(&settings.policy),
                goal: settings.goal,
            };
            self.choose(name, known, replay, turn).await
        } else {
            kept.map(|kept| kept.choice)
        };
        if replayed && choice.is_none() {
            // Not a reason to release a floor: it is held meanwhile.
            let unavailable = cannot("other workloads are replayed first".to_owned(), "NotReplayedYet");
            return Err(Unavailable { again_in, ..unavailable });
        }
        let answer = choose::applied(reading.timed(answer, steps), &question, (&history, &reading), choice.as_ref());
        let forecast = Forecast { choice, ..Forecast::new(&history, &options, answer) };
        let lately = history.samples.len().saturating_sub(LATELY_SECONDS.div_ceil(step.seconds()) as usize);
        let recent = history.samples[lately..].iter().flatten().copied().fold(f64::NAN, f64::max);
        let outlook = Outlook::of(&forecast, settings.unit).with_recent(recent);
        let demand = history.samples.last().copied().flatten();
        Ok(Expected { forecast, outlook, fallback, outage, demand, again_in })
    }

    /// The last choice of a scaler; after a start, what the state has.
    fn kept_choice(&self, name: &ScalerName) -> Option<KeptChoice> {
        let known = self.choices.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        known.or_else(|| {
            let kept: KeptChoice = serde_json::from_str(&self.state.choice(name)?).ok()?;
            self.choices.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), kept.clone());
            Some(kept)
        })
    }

    /// Chooses what the floor is made of by a replay: once a day, and again when the settings change or models come in.
    ///
    /// A replay takes a tenth of a second of processor time, so there is one at a time, in a thread of its own. While it runs
    /// the next scaler is fitted, and no other: those that wait for a replay would take the place of all that need none.
    async fn choose(
        &self,
        name: &ScalerName,
        known: KeptChoice,
        replay: Replay,
        fitting: Option<SemaphorePermit<'_>>,
    ) -> Option<Choice> {
        let turn = self.choosing.acquire().await.ok()?;
        drop(fitting);
        let choice = tokio::task::spawn_blocking(move || replay.choose()).await.ok()?;
        drop(turn);
        let kept = KeptChoice { choice: choice.clone(), ..known };
        if let Ok(text) = serde_json::to_string(&kept) {
            self.state.remember_choice(name, &text);
        }
        self.choices.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), kept);
        Some(choice)
    }

    /// Forgets a scaler that is gone.
    pub fn forget(&self, name: &ScalerName) {
        self.choices.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.waiting().leave(name);
        self.state.forget(name);
        self.metrics.forget(name);
    }

    /// Carries the last fit on where it is young enough, and fits again where it is not or where a choice is `due`, one
    /// scaler at a time, as long as `turn` is held. Of many scalers each waits for its turn in a queue; until then its last fit
    /// is carried on, or the seasonal naive forecasts.
    async fn forecast<'a>(
        &'a self,
        name: &ScalerName,
        settings: &ScalerSettings,
        (history, reading): (&History, &Reading),
        question: &Question,
        (due, turn): (bool, &mut Option<SemaphorePermit<'a>>),
    ) -> Result<Made, Refusal> {
        let kept: Option<Kept> = self.state.fit(name).and_then(|text| serde_json::from_str(&text).ok());
        let kept = kept.filter(|kept| kept.query == settings.query);
        let renewal =
            kept.and_then(|kept| kept.renewal(history, reading).map(|renewal| (renewal, kept.is_due(name, history))));
        let fit_is_due = due || renewal.as_ref().is_none_or(|(_, due)| *due);
        let scalers = self.scaler_count.load(Ordering::Relaxed);
        let many = scalers > MANY_SCALERS;
        *turn = match (fit_is_due, many, &renewal) {
            (false, ..) => None,
            (true, true, _) => self.turn(name).await,
            (true, false, Some(_)) if !due => self.fitting.try_acquire().ok(),
            (true, false, _) => self.fitting.acquire().await.ok(),
        };
        let fitted = turn.is_some();
        if fit_is_due && many && !fitted {
            self.waiting().join(name);
        }
        let renewal = renewal.filter(|_| !fitted).map(|(renewal, _)| renewal);
        if renewal.is_none() && !fitted {
            let answer = naive::answer(question)?;
            let why = "others are fitted first".to_owned();
            return Ok(Made { answer, fallback: Some(why), outage: false, fitted, again_in: None });
        }
        let Deadlines { queue_timeout, timeout } = self.deadlines;
        let asked = Instant::now();
        let made = self.supervisor.forecast(question, renewal.as_ref(), queue_timeout, timeout).await;
        match &made {
            Ok(made) if made.instead_of.is_some() => self.metrics.fallback(),
            other => self.metrics.forecast(Outcome::of(other), asked.elapsed()),
        }
        if fitted {
            // Without a worker nobody is fitted: the next ones are called when it is back.
            let outage = matches!(&made, Ok(made) if made.instead_of.is_some());
            let mut waiting = self.waiting();
            if outage { waiting.withdraw(name) } else { waiting.leave(name) }
        }
        let made = made?;
        let mut answer = made.answer;
        if let Some(fit) = answer.fit.take().and_then(|fit| to_raw_value(&fit).ok()) {
            let kept = Kept { query: settings.query.clone(), end: history.end().as_second(), fit };
            if let Ok(text) = serde_json::to_string(&kept) {
                self.state.remember_fit(name, &text);
            }
        }
        let outage = made.instead_of.is_some();
        // A worker that is only starting should not cost every scaler a step.
        let spread = Duration::from_secs(scalers as u64) / AGAIN_IN_A_SECOND;
        let again_in = (outage && fit_is_due).then_some(AGAIN.max(spread));
        Ok(Made { answer, outage, fallback: made.instead_of, fitted: fitted && !outage, again_in })
    }

    /// The permit to be fitted: waits for it where this scaler is one of the next in the queue, and takes nobody's place.
    async fn turn(&self, name: &ScalerName) -> Option<SemaphorePermit<'_>> {
        let (is_next, nobody) = {
            let waiting = self.waiting();
            (waiting.is_next(name), waiting.names.is_empty())
        };
        match (is_next, nobody) {
            (true, _) => tokio::time::timeout(TURN, self.fitting.acquire()).await.ok()?.ok(),
            (false, true) => self.fitting.try_acquire().ok(),
            (false, false) => None,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Returns the maximum number of samples in a history.
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
    fn of_many_scalers_each_is_called_in_its_turn() {
        let name = |index: usize| ScalerName::new("shop", format!("web-{index}"));
        let (sender, mut receiver) = unbounded_channel();
        let mut called = || std::iter::from_fn(|| receiver.try_recv().ok()).collect::<Vec<_>>();
        let mut waiting = Waiting { names: VecDeque::new(), called: Some(sender) };
        assert!(!waiting.is_next(&name(0)));
        (0..10).for_each(|index| waiting.join(&name(index)));
        assert_eq!(called(), [name(0), name(1), name(2), name(3)]);
        assert!(waiting.is_next(&name(3)) && !waiting.is_next(&name(4)));
        waiting.leave(&name(1));
        assert_eq!(called(), [name(4)]);
        // While there is no worker nobody is called.
        waiting.withdraw(&name(9));
        assert!(called().is_empty());
        // One that gave up keeps its place, and is called at once.
        waiting.join(&name(0));
        assert_eq!(called(), [name(0)]);
        // One that is paused does not come.
        waiting.names[1].1 = Instant::now().checked_sub(LATE);
        waiting.leave(&name(0));
        assert_eq!(called(), [name(5), name(6)]);
        assert!(!waiting.names.iter().any(|(other, _)| *other == name(2)));
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
