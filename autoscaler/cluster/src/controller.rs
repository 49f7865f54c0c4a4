//! Reconciles one PredictiveScaler: reads the facts, decides, writes the change through `act`, reports the result.
//!
//! Nothing is decided here and nothing is written here. A failure becomes a condition or a retry, never a panic, and a
//! raised floor stays as it is meanwhile.

pub mod facts;
mod report;
mod sweep;

use crate::act::{Actor, Refused, describe};
use crate::crd::status::{self, ConditionUpdate, Kind};
use crate::crd::{PredictiveScaler, PredictiveScalerStatus, ScalerSettings};
use crate::demand::{Demands, Limits};
use autoscaler_floor::decide::{Change, Decision, Memory, Mode, decide};
use autoscaler_floor::minimum::Minimum;
use autoscaler_floor::units::Replicas;
use autoscaler_forecast::span::Span;
use autoscaler_show::metrics::Outcome;
use autoscaler_show::state::{Decided, ScalerName};
use facts::{Blocked, Facts};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::Store;
use kube::{Api, Client, ResourceExt};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
pub use sweep::sweep;
use tracing::Instrument;

/// Number of times that a decision is made again because the object changed.
const TRIES: usize = 4;
/// Wait before the first retry of a failed reconcile; it doubles with each failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(120);

/// Interval between checks of a scaler that belongs to another installation.
const OTHER_OPERATOR: Duration = Duration::from_secs(300);

/// Time limit of one reconcile, whatever hangs.
const LONGEST: Duration = Duration::from_secs(180);

/// Source of the current time. The tests have clocks of their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Shared input of all reconciles.
pub struct Context {
    pub client: Client,
    pub actor: Actor,
    pub demands: Demands,
    /// All scalers, as the watch has them.
    pub scalers: Store<PredictiveScaler>,
    pub events: Recorder,
    pub clock: Clock,
    pub operator: Identity,
    tracks: Mutex<HashMap<ScalerName, Track>>,
}

/// An installation of the operator: its replicas share a lease, and other installations have another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Namespace and name of the lease.
    pub name: String,
    /// The class of the scalers that it handles; none for those without a class.
    pub class: Option<String>,
}

/// Memory of a scaler from one reconcile to the next, in addition to the state.
#[derive(Clone, Debug, Default)]
struct Track {
    uid: String,
    memory: Option<Memory>,
    /// The autoscaler's limits, as they were read last.
    limits: Option<Limits>,
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
        Failed(describe(&error))
    }
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Failed {
        Failed(refused.to_string())
    }
}

/// Result of writing a decision.
enum Applied {
    /// There was nothing to write.
    Nothing,
    /// The floor moved; where another had the field only by the API server's default, who that was.
    Moved(Change, Option<String>),
    /// The mode is Recommend, and the floor that was raised before went back to the original.
    Released(Change),
    /// Another manager owns the field, as the API server describes it.
    Owned(String),
}

impl Applied {
    /// Returns the change of the field in the cluster.
    fn change(&self) -> Option<Change> {
        match self {
            Applied::Moved(change, _) | Applied::Released(change) => Some(*change),
            Applied::Nothing | Applied::Owned(_) => None,
        }
    }
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
        let operator = Identity { name: "autoscaler/autoscaler".to_owned(), class: None };
        Context { client, actor, demands, scalers, events, clock, operator, tracks: Mutex::default() }
    }

    /// The same, for an installation with another name or class.
    pub fn of_operator(self, operator: Identity) -> Context {
        Context { operator, ..self }
    }

    fn hpas(&self, namespace: &str) -> Api<HorizontalPodAutoscaler> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Returns the memory of a scaler; after a start, the one that the state has of this very object.
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
        self.demands.forget(name);
    }

    /// Forgets what was decided while this process led: another has decided since.
    pub fn clear_decisions(&self) {
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// One reconcile of one scaler: everything that its steps read, and the track that they update.
struct Reconcile<'a> {
    scaler: &'a PredictiveScaler,
    context: &'a Context,
    name: &'a ScalerName,
    now: Timestamp,
    track: &'a mut Track,
    /// True if the scaler has its finalizer: `scaler` is older than the one that this reconcile sets.
    guarded: bool,
}

/// Reconciles one scaler once, and returns when to do it again.
pub async fn reconcile(scaler: Arc<PredictiveScaler>, context: Arc<Context>) -> Result<Action, Failed> {
    let (namespace, object) = scaler.place();
    // Not `name`: in JSON that is the name of the span.
    let span = tracing::info_span!("reconcile", namespace, scaler = object, id = %id());
    let name = ScalerName::new(namespace, object);
    async move {
        let mut track = context.track(&name, &scaler);
        let began = Instant::now();
        let now = (context.clock)();
        let guarded = scaler.guarded();
        let mut reconcile =
            Reconcile { scaler: &scaler, context: &context, name: &name, now, track: &mut track, guarded };
        let done = tokio::time::timeout(LONGEST, reconcile.run()).await;
        let done = done.unwrap_or_else(|_| Err(Failed(format!("the reconcile took longer than {LONGEST:?}"))));
        context.demands.metrics.reconciled(Outcome::of(&done), began.elapsed());
        match &done {
            Ok(_) => track.failures = 0,
            Err(cause) => {
                track.failures = track.failures.saturating_add(1);
                tracing::warn!(%cause, failures = track.failures, "cannot reconcile");
            }
        }
        if !(scaler.is_deleted() && done.is_ok()) {
            context.keep(&name, track);
        }
        done
    }
    .instrument(span)
    .await
}

impl Reconcile<'_> {
    async fn run(&mut self) -> Result<Action, Failed> {
        if self.scaler.spec.operator_class != self.context.operator.class {
            return Ok(Action::await_change());
        }
        if let Some(other) = facts::other_operator(self) {
            // Nothing is written, not even a status: two that complain to each other would never stop.
            tracing::warn!(
                operator = other,
                "another installation handles this scaler: remove one, or set `operatorClass`"
            );
            return Ok(Action::requeue(OTHER_OPERATOR));
        }
        if self.scaler.is_deleted() {
            return self.finalize().await;
        }
        let mut expected = None;
        for _ in 0..TRIES {
            let facts = match facts::gather(self, &mut expected).await? {
                Ok(facts) => facts,
                Err(blocked) => return self.report_blocked(&blocked).await,
            };
            self.track.limits = Some(facts.limits());
            let decision = decide(&facts.settings.policy, self.track.memory.as_ref(), &facts.seen(self.now));
            match self.apply(&facts, &decision).await {
                // The autoscaler's own status moves every few seconds: read again, decide again.
                Err(Refused::Changed) => continue,
                Err(refused) => {
                    let field = facts.minimum.floor();
                    self.context.demands.metrics.decided(self.name, facts.minimum.original(), field, &decision);
                    self.context.demands.state.remember_decision(
                        self.name,
                        &Decided {
                            failed: Some(refused.to_string()),
                            changed: None,
                            ..facts.decided(self.now, &decision)
                        },
                        self.track.memory.as_ref().unwrap_or(&decision.memory),
                    );
                    // Where the API server is unreachable, this cannot be written either.
                    let _ = self.report_not_ready("CannotWrite", refused.to_string()).await;
                    return Err(refused.into());
                }
                Ok(applied) => {
                    self.settle(&facts, &decision, &applied).await?;
                    let next = until_next(self.name, facts.settings.policy.step, self.now);
                    return Ok(Action::requeue(facts.again_in().map_or(next, |again| again.min(next))));
                }
            }
        }
        Err(Failed("the autoscaler changes faster than a decision can be written".to_owned()))
    }

    /// Writes what was decided, or confirms a floor before it expires.
    async fn apply(&mut self, facts: &Facts, decision: &Decision) -> Result<Applied, Refused> {
        if facts.settings.policy.mode == Mode::Recommend {
            return self.release(facts).await;
        }
        if !self.guarded {
            // Before the first floor, so that deleting the scaler releases it.
            self.context.actor.set_finalizer(self.scaler, true).await?;
            self.guarded = true;
        }
        let floor = match decision.change {
            Some(change) => change.to(),
            None if needs_confirming(&facts.minimum, &facts.settings, self.now) => facts.minimum.floor(),
            None => return Ok(Applied::Nothing),
        };
        let expires = self.now.checked_add(confirmed_for(&facts.settings)).unwrap_or(Timestamp::MAX);
        let patch = facts.minimum.patch(floor, expires);
        match self.context.actor.set_or_take_minimum(&facts.hpa, &patch, facts.settings.take_ownership).await {
            Ok(taken) => Ok(decision.change.map_or(Applied::Nothing, |change| Applied::Moved(change, taken))),
            Err(Refused::Owned(by)) => Ok(Applied::Owned(by)),
            Err(refused) => Err(refused),
        }
    }

    /// Gives a floor back that was raised while the mode was Enforce. A pause leaves it.
    async fn release(&self, facts: &Facts) -> Result<Applied, Refused> {
        let raised = facts.minimum.expires().is_some() && !facts.paused;
        if !raised || !self.context.actor.restore(&facts.hpa, facts.settings.take_ownership).await? {
            return Ok(Applied::Nothing);
        }
        Ok(Applied::Released(Change::between(facts.minimum.floor(), facts.minimum.original())))
    }

    /// Remembers a decision and reports its result.
    async fn settle(&mut self, facts: &Facts, decision: &Decision, applied: &Applied) -> Result<(), Failed> {
        let Demands { state, metrics, .. } = &self.context.demands;
        let mut decided = facts.decided(self.now, decision);
        match applied {
            // What was not written has not happened: the next decision begins where this one did.
            Applied::Owned(by) => {
                decided.changed = None;
                decided.failed = Some(format!("`spec.minReplicas` is owned by another field manager: {by}"));
            }
            Applied::Released(change) => {
                decided.changed = Some((change.from(), change.to()));
                self.track.memory = Some(decision.memory.clone());
            }
            Applied::Nothing | Applied::Moved(..) => self.track.memory = Some(decision.memory.clone()),
        }
        let field = applied.change().map_or(facts.minimum.floor(), Change::to);
        metrics.decided(self.name, facts.minimum.original(), field, decision);
        if let Some(change) = applied.change() {
            metrics.changed(change.from(), change.to());
        }
        state.remember_decision(self.name, &decided, self.track.memory.as_ref().unwrap_or(&decision.memory));
        if let Ok(expected) = &facts.expected {
            state.remember_forecast(self.name, &expected.forecast);
        }
        let result = report::Report { facts, decision, applied };
        let mut after = result.status(self.track.status.as_ref(), self.scaler, self.now);
        after.operator = Some(self.context.operator.name.clone());
        state.note(self.name, &report::profile(self.scaler, facts, &after));
        for event in result.events(self.track.status.as_ref(), self.track.fallback) {
            event.publish(self.context, self.scaler, &facts.hpa).await;
        }
        self.track.fallback = result.falls_back();
        self.write_status(after).await
    }

    /// Reports why no decision is possible, and tries again where that may pass by itself.
    async fn report_blocked(&mut self, blocked: &Blocked) -> Result<Action, Failed> {
        tracing::info!(reason = blocked.word(), %blocked, "no decision");
        self.report_not_ready(blocked.word(), blocked.to_string()).await?;
        let step: Option<Span> = self.scaler.spec.step.parse().ok().or(Span::from_seconds(300));
        let step = step.unwrap_or_else(|| unreachable!("5m"));
        Ok(match blocked {
            Blocked::Invalid(_) => Action::await_change(),
            Blocked::OlderScaler(_) | Blocked::NoAutoscaler(_) | Blocked::Unreadable(_) => {
                Action::requeue(until_next(self.name, step, self.now))
            }
        })
    }

    /// Reports that this scaler is not ready, and why; the other conditions stay.
    async fn report_not_ready(&mut self, reason: &'static str, message: String) -> Result<(), Failed> {
        let generation = self.scaler.metadata.generation;
        let mut after = self.track.status.clone().unwrap_or_default();
        let updates = [ConditionUpdate::no(Kind::Ready, reason, message)];
        after.observed_generation = generation;
        after.updated = Some(Time(status::whole(self.now)));
        after.operator = Some(self.context.operator.name.clone());
        after.conditions = status::conditions(&after.conditions, &updates, generation, self.now);
        after.reasons.clear();
        self.write_status(after).await
    }

    async fn write_status(&mut self, after: PredictiveScalerStatus) -> Result<(), Failed> {
        if !status::worth_writing(self.track.status.as_ref(), &after, self.now) {
            return Ok(());
        }
        match self.context.actor.write_status(self.scaler, &after).await {
            Ok(()) => self.track.status = Some(after),
            // The scaler was deleted meanwhile.
            Err(Refused::Changed) => {}
            Err(refused) => return Err(refused.into()),
        }
        Ok(())
    }

    async fn is_still_guarded(&self) -> Result<bool, Failed> {
        let scalers: Api<PredictiveScaler> = Api::namespaced(self.context.client.clone(), &self.name.namespace);
        Ok(scalers.get_opt(&self.name.name).await?.is_some_and(|live| live.guarded()))
    }

    /// Restores the original minimum, then removes the finalizer.
    async fn finalize(&self) -> Result<Action, Failed> {
        let Reconcile { scaler, context, name, .. } = self;
        if !scaler.guarded() {
            return Ok(Action::await_change());
        }
        for _ in 0..TRIES {
            let hpa = context.hpas(&name.namespace).get_opt(&scaler.spec.hpa_ref.name).await?;
            let restored = match &hpa {
                // Another scaler has it now, and with it the floor.
                Some(_) if facts::older_scaler(scaler, &context.scalers).is_some() => Ok(false),
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
                    match context.actor.set_finalizer(scaler, false).await {
                        Ok(()) => {}
                        // It may be gone; or our own status was written after this version, and no other event will come.
                        Err(Refused::Changed) if self.is_still_guarded().await? => {
                            return Err(Failed("the scaler changed while its floor was released".to_owned()));
                        }
                        Err(Refused::Changed) => {}
                        Err(refused) => return Err(refused.into()),
                    }
                    context.forget(name);
                    tracing::info!(restored, "scaler deleted");
                    return Ok(Action::await_change());
                }
            }
        }
        Err(Failed("the autoscaler changes faster than it can be restored".to_owned()))
    }
}

/// Time for which a floor is valid without a leader: the time that it is held without metrics, and some steps more.
fn confirmed_for(settings: &ScalerSettings) -> SignedDuration {
    let policy = &settings.policy;
    let longest = policy.stale_after.max(policy.scale_down_delay).0;
    let seconds = longest.saturating_add(4 * u64::from(policy.step.seconds())).max(600);
    SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX / 4))
}

fn needs_confirming(minimum: &Minimum, settings: &ScalerSettings, now: Timestamp) -> bool {
    minimum.expires().is_some_and(|expires| expires.duration_since(now) < confirmed_for(settings) / 2)
}

/// Returns the wait before the retry of a failed reconcile.
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
