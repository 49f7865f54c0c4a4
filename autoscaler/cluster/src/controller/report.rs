//! Reports a decision: the status, the profile on the pages, the events. Pure but for `publish`.

use super::facts::Facts;
use super::{Applied, Context};
use crate::act::describe;
use crate::crd;
use crate::crd::status::{self, ConditionUpdate, Kind, holds, whole};
use crate::crd::{LastForecast, PredictiveScaler, PredictiveScalerStatus};
use autoscaler_floor::decide::{Decision, Missing, Mode, Reason};
use autoscaler_floor::units::Replicas;
use autoscaler_show::state;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use kube::runtime::events::{Event as Published, EventType};

/// A decision with the facts before it and the result of writing it.
#[derive(Clone, Copy)]
pub(super) struct Report<'a> {
    pub(super) facts: &'a Facts,
    pub(super) decision: &'a Decision,
    pub(super) applied: &'a Applied,
}

impl Report<'_> {
    /// Returns the status after a decision.
    pub(super) fn status(
        self,
        before: Option<&PredictiveScalerStatus>,
        scaler: &PredictiveScaler,
        now: Timestamp,
    ) -> PredictiveScalerStatus {
        let Report { facts, decision, applied } = self;
        let conditions = before.map_or(&[][..], |before| &before.conditions);
        let floor = match (applied, facts.settings.policy.mode) {
            (Applied::Owned(_), _) => facts.minimum.floor(),
            (_, Mode::Enforce | Mode::Recommend) => decision.floor,
        };
        PredictiveScalerStatus {
            observed_generation: scaler.metadata.generation,
            updated: Some(Time(whole(now))),
            original: Some(facts.minimum.original().0),
            floor: Some(floor.0),
            recommended: decision.recommended.map(|recommended| recommended.0),
            forecast: forecast(facts, decision).or_else(|| before.and_then(|before| before.forecast.clone())),
            missing: decision.missing().map(Missing::to_string),
            reasons: decision.reasons.iter().map(Reason::to_string).collect(),
            operator: None,
            conditions: status::conditions(conditions, &self.conditions(before), scaler.metadata.generation, now),
        }
    }

    fn conditions(self, before: Option<&PredictiveScalerStatus>) -> Vec<ConditionUpdate> {
        let Report { facts, decision, applied } = self;
        let missing = decision.missing().map(Missing::to_string).unwrap_or_default();
        let mut updates = vec![if facts.paused {
            ConditionUpdate::yes(Kind::Ready, "Paused", "paused by its annotation: the floor does not change")
        } else if unusable(decision) {
            // Only a person can fix it.
            ConditionUpdate::no(Kind::Ready, "UnusableQuery", missing.clone())
        } else if let Some(reason) = wrong_query(facts) {
            ConditionUpdate::no(Kind::Ready, reason, format!("{missing}; correct spec.query"))
        } else {
            ConditionUpdate::yes(
                Kind::Ready,
                "Deciding",
                decision.reasons.last().map(Reason::to_string).unwrap_or_default(),
            )
        }];
        match &facts.expected {
            _ if facts.paused => {}
            Ok(expected) => {
                let forecast = &expected.forecast;
                let chosen = forecast.choice.as_ref().map(|choice| choice.reason.clone());
                let reason = chosen.unwrap_or_else(|| autoscaler_show::print::skill(forecast));
                updates.push(if forecast.skilled {
                    ConditionUpdate::yes(Kind::ForecastSkilled, "WorthItsCost", reason)
                } else {
                    let message = format!("the floor is only recommended: {reason}");
                    ConditionUpdate::no(Kind::ForecastSkilled, "NotWorthItsCost", message)
                });
                updates.push(match (missing.is_empty() || unusable(decision), &expected.fallback) {
                    (true, None) => ConditionUpdate::yes(Kind::MetricsFresh, "Fresh", ""),
                    (true, Some(why)) => ConditionUpdate::yes(
                        Kind::MetricsFresh,
                        "Fresh",
                        format!("forecast by the seasonal naive: {why}"),
                    ),
                    (false, _) => ConditionUpdate::no(Kind::MetricsFresh, "Stale", missing),
                });
            }
            Err(unavailable) => {
                updates.push(ConditionUpdate::unknown(Kind::ForecastSkilled, unavailable.word, missing.clone()));
                updates.push(if unavailable.fresh {
                    ConditionUpdate::yes(Kind::MetricsFresh, "Fresh", missing)
                } else {
                    ConditionUpdate::no(Kind::MetricsFresh, unavailable.word, missing)
                });
            }
        }
        match applied {
            Applied::Owned(by) => updates.push(ConditionUpdate::yes(
                Kind::Conflict,
                "FieldOwned",
                format!(
                    "`spec.minReplicas` is owned by another field manager: {by}; set `takeOwnership: true`, or leave the field out of a \
                     manifest that is applied server-side"
                ),
            )),
            Applied::Moved(_, Some(manager)) => updates.push(ConditionUpdate::no(Kind::Conflict, "DefaultTaken", taken(manager))),
            Applied::Moved(_, None) | Applied::Released(_) => {
                updates.push(ConditionUpdate::no(Kind::Conflict, "Written", ""));
            }
            Applied::Nothing if holds(before, Kind::Conflict).is_none() => {
                updates.push(ConditionUpdate::no(Kind::Conflict, "NothingWritten", ""));
            }
            // The next write shows if the field is still owned.
            Applied::Nothing => {}
        }
        updates
    }

    /// Returns true if the seasonal naive replaces the worker, or if metrics are missing. A history that is too short is not an
    /// outage, nor is a wrong query.
    pub(super) fn falls_back(self) -> bool {
        match &self.facts.expected {
            _ if self.facts.paused => false,
            Ok(expected) => expected.outage || self.decision.missing().is_some() && !unusable(self.decision),
            Err(unavailable) => !unavailable.fresh,
        }
    }

    /// Events of this reconcile that the one before did not have.
    pub(super) fn events(self, before: Option<&PredictiveScalerStatus>, fell_back: bool) -> Vec<Event> {
        let Report { facts, decision, applied } = self;
        let mut events = Vec::new();
        match applied {
            Applied::Moved(change, taken_from) => {
                let (from, to, original) = (change.from(), change.to(), facts.minimum.original());
                let because = because(decision);
                events.push(if to > from {
                    Event::new(
                        "FloorRaised",
                        format!("RaiseTo{to}"),
                        format!("minReplicas from {from} to {to}: {because}"),
                    )
                } else if to <= original {
                    Event::new("FloorReleased", "Release", format!("minReplicas from {from} back to {to}: {because}"))
                } else {
                    let note = format!("minReplicas from {from} to {to} of the original {original}: {because}");
                    Event::new("FloorReleased", format!("LowerTo{to}"), note)
                });
                events.extend(taken_from.as_ref().map(|manager| Event::new("DefaultTaken", "Take", taken(manager))));
            }
            Applied::Released(change) => events.push(Event::new(
                "FloorReleased",
                "Release",
                format!("minReplicas from {} back to {}: the mode is Recommend", change.from(), change.to()),
            )),
            Applied::Owned(by) if holds(before, Kind::Conflict) != Some(true) => events.push(Event {
                warning: true,
                ..Event::new("Conflict", "Apply", format!("`spec.minReplicas` is owned by another field manager: {by}"))
            }),
            Applied::Owned(_) | Applied::Nothing => {}
        }
        if !fell_back && self.falls_back() {
            let instead_of = facts.expected.as_ref().ok().and_then(|expected| expected.fallback.as_ref());
            let note = match (decision.missing(), instead_of) {
                (Some(missing), _) => format!("the floor is held: {missing}"),
                (None, Some(why)) => format!("the seasonal naive forecasts: {why}"),
                (None, None) => String::new(),
            };
            events.push(Event { warning: true, ..Event::new("FallbackActive", "FallBack", note) });
        }
        events
    }
}

/// Returns the reason that the query can never give a demand; none if waiting may help.
fn wrong_query(facts: &Facts) -> Option<&'static str> {
    let reason = facts.expected.as_ref().err()?.word;
    ["QueryRefused", "ManySeries", "WrongSpacing", "AnswerTooLarge"].into_iter().find(|wrong| *wrong == reason)
}

/// Returns the message for a field that was taken from its owner.
fn taken(manager: &str) -> String {
    format!(
        "took `spec.minReplicas` from `{manager}`, which had it only by the API server's default of 1; set minReplicas in the \
         manifest to keep your own minimum"
    )
}

/// Returns true if the demand is known but cannot be divided by a pod's capacity.
fn unusable(decision: &Decision) -> bool {
    matches!(decision.missing(), Some(Missing::Units { .. } | Missing::LooksPerPod { .. }))
}

fn forecast(facts: &Facts, decision: &Decision) -> Option<LastForecast> {
    let expected = facts.expected.as_ref().ok()?;
    let (peak, at) = decision.reasons.iter().find_map(|reason| match reason {
        Reason::Forecast { peak, at, .. } => Some((*peak, *at)),
        _ => None,
    })?;
    let made = &expected.forecast;
    Some(LastForecast {
        newest_sample: Time(made.history.to),
        model: made.model.clone(),
        skilled: made.skilled,
        skill: made.skill,
        samples: u32::try_from(made.history.samples).unwrap_or(u32::MAX),
        peak: peak.to_string(),
        peak_at: Time(at),
        fallback: expected.fallback.is_some(),
    })
}

/// Returns the profile that the pages show of a scaler.
pub(super) fn profile(scaler: &PredictiveScaler, facts: &Facts, status: &PredictiveScalerStatus) -> state::Profile {
    let target = facts.hpa.spec.as_ref().map(|spec| &spec.scale_target_ref);
    state::Profile {
        target: target.map(|target| format!("{}/{}", target.kind, target.name)),
        max_replicas: Some(facts.max_replicas()),
        ..crd::profile::of(scaler, Some(status))
    }
}

/// Event that `kubectl describe` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    reason: &'static str,
    /// Distinguishes repeated events.
    action: String,
    note: String,
    warning: bool,
}

/// The reasons that make up the number in an event: what is needed, then what limits or holds it.
fn because(decision: &Decision) -> String {
    let counted = decision.reasons.iter().filter(|reason| {
        matches!(
            reason,
            Reason::Forecast { .. }
                | Reason::SteppingBack { .. }
                | Reason::NotSkilled { .. }
                | Reason::Capped { .. }
                | Reason::AtOriginal { .. }
                | Reason::RateLimited { .. }
                | Reason::CoolingDown { .. }
        )
    });
    counted.map(Reason::to_string).collect::<Vec<_>>().join("; ")
}

impl Event {
    fn new(reason: &'static str, action: impl Into<String>, note: impl Into<String>) -> Event {
        Event { reason, action: action.into(), note: note.into(), warning: false }
    }

    /// Returns the event for a restored minimum of a deleted scaler.
    pub(super) fn restored(hpa: &HorizontalPodAutoscaler) -> Event {
        let original = crate::act::read_minimum(hpa).map_or(Replicas(1), |minimum| minimum.original());
        Event::new("FloorReleased", "Restore", format!("minReplicas back to {original}: the scaler is deleted"))
    }

    /// Publishes the event. A failure is only logged: no decision waits for it.
    pub(super) async fn publish(self, context: &Context, scaler: &PredictiveScaler, hpa: &HorizontalPodAutoscaler) {
        tracing::info!(event = self.reason, note = %self.note, "event");
        let event = Published {
            type_: if self.warning { EventType::Warning } else { EventType::Normal },
            reason: self.reason.to_owned(),
            // The API's own limit is 1 kB.
            note: Some(self.note.chars().take(500).collect()),
            action: self.action,
            secondary: Some(hpa.object_ref(&())),
        };
        if let Err(cause) = context.events.publish(&event, &scaler.object_ref(&())).await {
            tracing::warn!(cause = %describe(&cause), "cannot publish an event");
        }
    }
}
