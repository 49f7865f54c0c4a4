//! What is told of a decision: the status, the profile on the pages, the events. Pure but for `publish`.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use kube::runtime::events::{Event as Published, EventType};

use super::facts::Facts;
use super::{Carried, Context};
use crate::cluster::act::told;
use crate::cluster::crd;
use crate::cluster::crd::status::{self, Kind, Says, holds, whole};
use crate::cluster::crd::{LastForecast, PredictiveScaler, PredictiveScalerStatus};
use crate::floor::decide::reason::UNSKILLED;
use crate::floor::decide::{Decision, Missing, Mode, Reason};
use crate::show::state;
use crate::floor::units::Replicas;

/// The status after a decision.
pub(super) fn status(
    before: Option<&PredictiveScalerStatus>,
    scaler: &PredictiveScaler,
    facts: &Facts,
    decision: &Decision,
    carried: &Carried,
    now: Timestamp,
) -> PredictiveScalerStatus {
    let conditions = before.map_or(&[][..], |before| &before.conditions);
    let says = says(before, facts, decision, carried);
    let stands = match (carried, facts.wanted.policy.mode) {
        (Carried::Owned(_), _) => facts.minimum.floor(),
        (_, Mode::Enforce | Mode::Recommend) => decision.floor,
    };
    PredictiveScalerStatus {
        observed_generation: scaler.metadata.generation,
        updated: Some(Time(whole(now))),
        original: Some(facts.minimum.original().0),
        floor: Some(stands.0),
        recommended: decision.recommended.map(|recommended| recommended.0),
        forecast: forecast(facts, decision).or_else(|| before.and_then(|before| before.forecast.clone())),
        missing: decision.missing().map(Missing::to_string),
        reasons: decision.reasons.iter().map(Reason::to_string).collect(),
        conditions: status::conditions(conditions, &says, scaler.metadata.generation, now),
    }
}

fn says(before: Option<&PredictiveScalerStatus>, facts: &Facts, decision: &Decision, carried: &Carried) -> Vec<Says> {
    let missing = decision.missing().map(Missing::to_string).unwrap_or_default();
    let mut says = vec![if facts.paused {
        Says::yes(Kind::Ready, "Paused", "paused by its annotation: nothing changes")
    } else if unusable(decision) {
        // Only a person can mend it.
        Says::no(Kind::Ready, "UnusableQuery", missing.clone())
    } else {
        Says::yes(Kind::Ready, "Deciding", decision.reasons.last().map(Reason::to_string).unwrap_or_default())
    }];
    match &facts.expected {
        _ if facts.paused => {}
        Ok(expected) => {
            let forecast = &expected.forecast;
            says.push(if forecast.skilled {
                Says::yes(Kind::ForecastSkilled, "BeatsReferences", skill(forecast.skill, &forecast.model))
            } else {
                Says::no(
                    Kind::ForecastSkilled,
                    "NoBetterThanReferences",
                    format!("{UNSKILLED}: the floor is only recommended"),
                )
            });
            says.push(match (missing.is_empty() || unusable(decision), &expected.fallback) {
                (true, None) => Says::yes(Kind::MetricsFresh, "Fresh", ""),
                (true, Some(why)) => {
                    Says::yes(Kind::MetricsFresh, "Fresh", format!("forecast by the seasonal naive: {why}"))
                }
                (false, _) => Says::no(Kind::MetricsFresh, "Stale", missing),
            });
        }
        Err(lack) => {
            says.push(Says::unknown(Kind::ForecastSkilled, lack.word, missing.clone()));
            says.push(if lack.fresh {
                Says::yes(Kind::MetricsFresh, "Fresh", missing)
            } else {
                Says::no(Kind::MetricsFresh, lack.word, missing)
            });
        }
    }
    match carried {
        Carried::Owned(by) => says.push(Says::yes(
            Kind::Conflict,
            "FieldOwned",
            format!(
                "`spec.minReplicas` is owned by another: {by}; set `takeOwnership: true`, or leave the field out of a \
                 manifest that is applied server-side"
            ),
        )),
        Carried::Moved(_) => says.push(Says::no(Kind::Conflict, "Written", "")),
        Carried::Nothing if holds(before, Kind::Conflict).is_none() => {
            says.push(Says::no(Kind::Conflict, "NothingWritten", ""));
        }
        // Whether it is still owned shows at the next write.
        Carried::Nothing => {}
    }
    says
}

/// Whether the demand is known, and is not what can be divided by a pod's capacity.
fn unusable(decision: &Decision) -> bool {
    matches!(decision.missing(), Some(Missing::Units { .. } | Missing::LooksPerPod { .. }))
}

/// Whether something stands in for the worker or for metrics. Too short a history is no outage, nor is a wrong query.
pub(super) fn falls_back(facts: &Facts, decision: &Decision) -> bool {
    match &facts.expected {
        _ if facts.paused => false,
        Ok(expected) => expected.outage || decision.missing().is_some() && !unusable(decision),
        Err(lack) => !lack.fresh,
    }
}

fn skill(skill: Option<f64>, model: &str) -> String {
    match skill {
        Some(share) => format!("`{model}` has {:.0}% less error than the seasonal naive", share * 100.0),
        None => format!("`{model}` beats the plain references"),
    }
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

/// What the pages say of a scaler.
pub(super) fn profile(scaler: &PredictiveScaler, facts: &Facts, status: &PredictiveScalerStatus) -> state::Profile {
    let target = facts.hpa.spec.as_ref().map(|spec| &spec.scale_target_ref);
    state::Profile {
        target: target.map(|target| format!("{}/{}", target.kind, target.name)),
        max_replicas: Some(facts.max_replicas()),
        ..crd::profile::of(scaler, Some(status))
    }
}

/// Something that a person looks for with `kubectl describe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    reason: &'static str,
    /// Repeated events are told apart by it.
    action: String,
    note: String,
    warning: bool,
}

/// What has happened in this reconcile that had not before.
pub(super) fn events(
    before: Option<&PredictiveScalerStatus>,
    fell_back: bool,
    facts: &Facts,
    decision: &Decision,
    carried: &Carried,
) -> Vec<Event> {
    let mut events = Vec::new();
    match carried {
        Carried::Moved(change) => {
            let (from, to, original) = (change.from(), change.to(), facts.minimum.original());
            let because = because(decision);
            events.push(if to > from {
                Event::new("FloorRaised", format!("RaiseTo{to}"), format!("minReplicas from {from} to {to}: {because}"))
            } else if to <= original {
                Event::new("FloorReleased", "Release", format!("minReplicas from {from} back to {to}: {because}"))
            } else {
                let note = format!("minReplicas from {from} to {to} of the original {original}: {because}");
                Event::new("FloorReleased", format!("LowerTo{to}"), note)
            });
        }
        Carried::Owned(by) if holds(before, Kind::Conflict) != Some(true) => events.push(Event {
            warning: true,
            ..Event::new("Conflict", "Apply", format!("`spec.minReplicas` is owned by another: {by}"))
        }),
        Carried::Owned(_) | Carried::Nothing => {}
    }
    if !fell_back && falls_back(facts, decision) {
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

fn because(decision: &Decision) -> String {
    let telling = decision.reasons.iter().rev().find(|reason| {
        matches!(
            reason,
            Reason::Forecast { .. } | Reason::SteppingBack { .. } | Reason::NotSkilled { .. } | Reason::Capped { .. }
        )
    });
    telling.map(Reason::to_string).unwrap_or_default()
}

impl Event {
    fn new(reason: &'static str, action: impl Into<String>, note: impl Into<String>) -> Event {
        Event { reason, action: action.into(), note: note.into(), warning: false }
    }

    /// The original minimum stands again, for the scaler goes.
    pub(super) fn restored(hpa: &HorizontalPodAutoscaler) -> Event {
        let original = crate::cluster::act::read_minimum(hpa).map_or(Replicas(1), |minimum| minimum.original());
        Event::new("FloorReleased", "Restore", format!("minReplicas back to {original}: the scaler is deleted"))
    }

    /// Publishes it. One that cannot be published is a line in the log: no decision waits for it.
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
            tracing::warn!(cause = %told(&cause), "cannot publish an event");
        }
    }
}
