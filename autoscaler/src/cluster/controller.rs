//! Reconciles one PredictiveScaler: reads the facts, lets `decide` decide, hands the change to `act`, tells what came of it.
//!
//! Nothing is decided here and nothing is written here. Whatever fails is a condition or a later try, never a panic, and a
//! floor that stands stays as it is meanwhile.

pub mod facts;
mod report;
mod sweep;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::Store;
use kube::{Api, Client, ResourceExt};
use tracing::Instrument;

use crate::cluster::act::{Actor, Refused, told};
use crate::cluster::crd::status::{self, Kind, Says};
use crate::cluster::crd::{PredictiveScaler, PredictiveScalerStatus, Wanted};
use crate::floor::decide::{Change, Decision, Memory, Mode, decide};
use crate::cluster::demand::Demands;
use crate::show::metrics::Outcome;
use crate::floor::minimum::Minimum;
use crate::forecast::span::Span;
use crate::show::state::{Decided, ScalerName};
use crate::floor::units::Replicas;

use facts::{Blocked, Facts};
pub use sweep::sweep;

/// How often a decision is made anew when the object has changed under it.
const TRIES: usize = 4;
/// How soon a failed reconcile is tried again; doubles with each failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(120);

/// How long one reconcile may take, whatever hangs.
const LONGEST: Duration = Duration::from_secs(180);

/// Tells the time. The tests have clocks of their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What every reconcile needs.
pub struct Context {
    /// Reads the cluster.
    pub client: Client,
    /// Writes to it.
    pub actor: Actor,
    /// Knows and forecasts demand.
    pub demands: Demands,
    /// All scalers, as the watch has them.
    pub scalers: Store<PredictiveScaler>,
    /// Publishes events.
    pub events: Recorder,
    /// The time.
    pub clock: Clock,
    tracks: Mutex<HashMap<ScalerName, Track>>,
}

/// What is remembered of a scaler from one reconcile to the next, beside the state.
#[derive(Clone, Debug, Default)]
struct Track {
    uid: String,
    memory: Option<Memory>,
    status: Option<PredictiveScalerStatus>,
    fallback: bool,
    failures: u32,
}

/// A reconcile that has to be tried again.
#[derive(Debug)]
pub struct Failed(String);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl From<kube::Error> for Failed {
    fn from(error: kube::Error) -> Failed {
        Failed(told(&error))
    }
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Failed {
        Failed(refused.to_string())
    }
}

/// How a decision was carried out.
enum Carried {
    /// There was nothing to write.
    Nothing,
    /// The floor moved.
    Moved(Change),
    /// Another owns the field.
    Owned(String),
}

impl Context {
    /// A context in which nothing has been decided yet.
    pub fn new(
        client: Client,
        actor: Actor,
        demands: Demands,
        scalers: Store<PredictiveScaler>,
        events: Recorder,
        clock: Clock,
    ) -> Context {
        Context { client, actor, demands, scalers, events, clock, tracks: Mutex::default() }
    }

    fn hpas(&self, namespace: &str) -> Api<HorizontalPodAutoscaler> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// What is remembered; after a start, what the state has of this very object.
    fn track(&self, name: &ScalerName, scaler: &PredictiveScaler) -> Track {
        let uid = scaler.uid().unwrap_or_default();
        let tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        match tracks.get(name).filter(|track| track.uid == uid) {
            Some(track) => track.clone(),
            None => Track {
                memory: self.demands.state.memory(name),
                status: scaler.status.clone(),
                uid,
                ..Track::default()
            },
        }
    }

    fn keep(&self, name: &ScalerName, track: Track) {
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), track);
    }

    /// Forgets a scaler that is gone.
    pub fn forget(&self, name: &ScalerName) {
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.demands.state.forget(name);
        self.demands.metrics.forget(name);
    }

    /// Forgets what was decided while this process led: another has decided since.
    pub fn begin_anew(&self) {
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Decides for one scaler, once, and says when to come again.
pub async fn reconcile(scaler: Arc<PredictiveScaler>, context: Arc<Context>) -> Result<Action, Failed> {
    let (namespace, object) = scaler.place();
    // Not `name`: in JSON that is the name of the span.
    let span = tracing::info_span!("reconcile", namespace, scaler = object, id = %id());
    let name = ScalerName::new(namespace, object);
    async move {
        let mut track = context.track(&name, &scaler);
        let began = Instant::now();
        let done = tokio::time::timeout(LONGEST, once(&scaler, &context, &name, &mut track)).await;
        let done = done.unwrap_or_else(|_| Err(Failed(format!("it took longer than {LONGEST:?}"))));
        context.demands.metrics.reconciled(Outcome::of(&done), began.elapsed());
        match &done {
            Ok(_) => track.failures = 0,
            Err(cause) => {
                track.failures = track.failures.saturating_add(1);
                tracing::warn!(%cause, failures = track.failures, "cannot reconcile");
            }
        }
        if !(scaler.going() && done.is_ok()) {
            context.keep(&name, track);
        }
        done
    }
    .instrument(span)
    .await
}

async fn once(
    scaler: &PredictiveScaler,
    context: &Context,
    name: &ScalerName,
    track: &mut Track,
) -> Result<Action, Failed> {
    if scaler.going() {
        return farewell(scaler, context, name).await;
    }
    let now = (context.clock)();
    let mut expected = None;
    for _ in 0..TRIES {
        let facts = match facts::gather(scaler, context, name, now, &mut expected).await? {
            Ok(facts) => facts,
            Err(blocked) => return stand_by(scaler, context, name, track, &blocked, now).await,
        };
        let decision = decide(&facts.wanted.policy, track.memory.as_ref(), &facts.seen(now));
        match carry_out(scaler, context, &facts, &decision, now).await {
            // The autoscaler's own status moves every few seconds: look again, decide again.
            Err(Refused::Changed) => continue,
            Err(refused) => {
                context.demands.state.remember_decision(
                    name,
                    &Decided { failed: Some(refused.to_string()), changed: None, ..facts.decided(now, &decision) },
                    track.memory.as_ref().unwrap_or(&decision.memory),
                );
                // What is to be said of this cannot be said where the API server is away.
                let _ = complain(scaler, context, track, "CannotWrite", refused.to_string(), now).await;
                return Err(refused.into());
            }
            Ok(carried) => {
                settle(scaler, context, name, track, &facts, &decision, &carried, now).await?;
                return Ok(Action::requeue(until_next(name, facts.wanted.policy.step, now)));
            }
        }
    }
    Err(Failed("the autoscaler changes faster than it can be decided for".to_owned()))
}

/// Writes what was decided, or confirms a floor before it expires.
async fn carry_out(
    scaler: &PredictiveScaler,
    context: &Context,
    facts: &Facts,
    decision: &Decision,
    now: Timestamp,
) -> Result<Carried, Refused> {
    if facts.wanted.policy.mode == Mode::Recommend {
        return Ok(Carried::Nothing);
    }
    if !scaler.guarded() {
        // Before the first floor: a scaler that goes takes its floor along.
        context.actor.guard(scaler, true).await?;
    }
    let floor = match decision.change {
        Some(change) => change.to(),
        None if needs_confirming(&facts.minimum, &facts.wanted, now) => facts.minimum.floor(),
        None => return Ok(Carried::Nothing),
    };
    let patch = facts.minimum.patch(floor, now.checked_add(confirmed_for(&facts.wanted)).unwrap_or(Timestamp::MAX));
    match context.actor.set_minimum(&facts.hpa, &patch, facts.wanted.take_ownership).await {
        Ok(_) => Ok(decision.change.map_or(Carried::Nothing, Carried::Moved)),
        Err(Refused::Owned(by)) => Ok(Carried::Owned(by)),
        Err(refused) => Err(refused),
    }
}

/// How long a floor holds without a leader: as long as it would be held without metrics, and some steps more.
fn confirmed_for(wanted: &Wanted) -> SignedDuration {
    let policy = &wanted.policy;
    let longest = policy.stale_after.max(policy.scale_down_delay).0;
    let seconds = longest.saturating_add(4 * u64::from(policy.step.seconds())).max(600);
    SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX / 4))
}

fn needs_confirming(minimum: &Minimum, wanted: &Wanted, now: Timestamp) -> bool {
    minimum.expires().is_some_and(|expires| expires.duration_since(now) < confirmed_for(wanted) / 2)
}

/// Remembers and tells what came of a decision.
#[expect(clippy::too_many_arguments, reason = "everything that a reconcile has found, in one place and once")]
async fn settle(
    scaler: &PredictiveScaler,
    context: &Context,
    name: &ScalerName,
    track: &mut Track,
    facts: &Facts,
    decision: &Decision,
    carried: &Carried,
    now: Timestamp,
) -> Result<(), Failed> {
    let state = &context.demands.state;
    let mut decided = facts.decided(now, decision);
    match carried {
        // What was not written has not happened: the next decision begins where this one did.
        Carried::Owned(by) => {
            decided.changed = None;
            decided.failed = Some(format!("`spec.minReplicas` is owned by another: {by}"));
        }
        Carried::Nothing | Carried::Moved(_) => track.memory = Some(decision.memory.clone()),
    }
    context.demands.metrics.decided(name, facts.minimum.original(), decision);
    if let Carried::Moved(change) = carried {
        context.demands.metrics.changed(change.from(), change.to());
    }
    state.remember_decision(name, &decided, track.memory.as_ref().unwrap_or(&decision.memory));
    if let Ok(expected) = &facts.expected {
        state.remember_forecast(name, &expected.forecast);
    }
    let before = track.status.clone();
    let after = report::status(before.as_ref(), scaler, facts, decision, carried, now);
    state.note(name, &report::profile(scaler, facts, &after));
    for event in report::events(before.as_ref(), track.fallback, facts, decision, carried) {
        event.publish(context, scaler, &facts.hpa).await;
    }
    track.fallback = report::falls_back(facts, decision);
    tell(scaler, context, track, after, now).await
}

/// Tells why nothing can be decided, and comes again where that may pass by itself.
async fn stand_by(
    scaler: &PredictiveScaler,
    context: &Context,
    name: &ScalerName,
    track: &mut Track,
    blocked: &Blocked,
    now: Timestamp,
) -> Result<Action, Failed> {
    tracing::info!(reason = blocked.word(), %blocked, "nothing is decided");
    complain(scaler, context, track, blocked.word(), blocked.to_string(), now).await?;
    let step: Span = scaler.spec.step.parse().ok().or(Span::from_seconds(300)).unwrap_or_else(|| unreachable!("5m"));
    Ok(match blocked {
        Blocked::Invalid(_) => Action::await_change(),
        Blocked::Rival(_) | Blocked::NoAutoscaler(_) | Blocked::Unreadable(_) => {
            Action::requeue(until_next(name, step, now))
        }
    })
}

/// Tells that this scaler is not ready, and why; what else was told of it stays.
async fn complain(
    scaler: &PredictiveScaler,
    context: &Context,
    track: &mut Track,
    word: &'static str,
    message: String,
    now: Timestamp,
) -> Result<(), Failed> {
    let mut after = track.status.clone().unwrap_or_default();
    let says = [Says::no(Kind::Ready, word, message)];
    after.observed_generation = scaler.metadata.generation;
    after.updated = Some(Time(status::whole(now)));
    after.conditions = status::conditions(&after.conditions, &says, scaler.metadata.generation, now);
    after.reasons.clear();
    tell(scaler, context, track, after, now).await
}

async fn tell(
    scaler: &PredictiveScaler,
    context: &Context,
    track: &mut Track,
    after: PredictiveScalerStatus,
    now: Timestamp,
) -> Result<(), Failed> {
    if !status::worth_writing(track.status.as_ref(), &after, now) {
        return Ok(());
    }
    match context.actor.tell(scaler, &after).await {
        Ok(()) => track.status = Some(after),
        // It went while we looked.
        Err(Refused::Changed) => {}
        Err(refused) => return Err(refused.into()),
    }
    Ok(())
}

/// Restores the original minimum, then lets the scaler go.
async fn farewell(scaler: &PredictiveScaler, context: &Context, name: &ScalerName) -> Result<Action, Failed> {
    if !scaler.guarded() {
        return Ok(Action::await_change());
    }
    for _ in 0..TRIES {
        let hpa = context.hpas(&name.namespace).get_opt(&scaler.spec.hpa_ref.name).await?;
        let restored = match &hpa {
            // Another one has it now: its floor is not ours to take.
            Some(_) if facts::rival(scaler, &context.scalers).is_some() => Ok(false),
            Some(hpa) => context.actor.restore(hpa, scaler.spec.take_ownership).await,
            None => Ok(false),
        };
        match restored {
            Err(Refused::Changed) => continue,
            Err(refused) => return Err(refused.into()),
            Ok(restored) => {
                if let (true, Some(hpa)) = (restored, &hpa) {
                    report::Event::restored(hpa).publish(context, scaler, hpa).await;
                }
                match context.actor.guard(scaler, false).await {
                    Ok(()) | Err(Refused::Changed) => {}
                    Err(refused) => return Err(refused.into()),
                }
                context.forget(name);
                tracing::info!(restored, "gone");
                return Ok(Action::await_change());
            }
        }
    }
    Err(Failed("the autoscaler changes faster than it can be restored".to_owned()))
}

/// When a failed reconcile is tried again.
pub fn after_failure(scaler: Arc<PredictiveScaler>, _: &Failed, context: Arc<Context>) -> Action {
    let (namespace, object) = scaler.place();
    let name = ScalerName::new(namespace, object);
    let failures = context.track(&name, &scaler).failures.saturating_sub(1).min(16);
    let wait = FIRST_RETRY.saturating_mul(1 << failures).min(LAST_RETRY);
    // A hundred scalers that failed together do not come back together.
    Action::requeue(wait.mul_f64(1.0 + name.share() / 2.0))
}

/// The time until this scaler's next turn: once a step, each at a moment of its own.
fn until_next(name: &ScalerName, step: Span, now: Timestamp) -> Duration {
    let step = f64::from(step.seconds());
    // In the first half of the step, when its newest sample is still new.
    let turn = name.share() * step / 2.0;
    let now = now.as_millisecond() as f64 / 1_000.0;
    let into = (now - turn).rem_euclid(step);
    Duration::from_secs_f64((step - into).max(0.05))
}

/// A number that ties the log lines of one reconcile together.
fn id() -> u64 {
    static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1
}

/// A number of pods as the API has it.
fn pods(count: Option<i32>) -> Option<Replicas> {
    count.and_then(|count| u32::try_from(count).ok()).map(Replicas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_once_a_step_and_not_all_at_once() {
        let step = Span::from_seconds(300).unwrap();
        let now = Timestamp::from_second(1_800_000_123).unwrap();
        let waits: Vec<f64> = (0..1_000)
            .map(|index| until_next(&ScalerName::new("shop", format!("web-{index}")), step, now).as_secs_f64())
            .collect();
        assert!(waits.iter().all(|wait| *wait > 0.0 && *wait <= 300.0));
        let name = ScalerName::new("shop", "web-7");
        let next = now + SignedDuration::from_secs_f64(until_next(&name, step, now).as_secs_f64());
        let after = until_next(&name, step, next).as_secs_f64();
        assert!(!(1.0..299.0).contains(&after), "{after}");
        // No second sees more than a few of a thousand.
        let mut seconds = vec![0; 301];
        waits.iter().for_each(|wait| seconds[*wait as usize] += 1);
        assert!(seconds.iter().all(|count| *count < 30), "{seconds:?}");
    }
}
