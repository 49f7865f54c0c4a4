//! Status and conditions of a scaler, from what was seen and decided. Pure.

use super::{GROUP, LastForecast, PredictiveScalerStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};

/// Seconds after which an unchanged status is written again.
pub const REFRESHED_AFTER: i64 = 600;

/// Types of conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Decisions are made for this scaler.
    Ready,
    /// Its forecast beats plain references, so that its floor may be enforced.
    ForecastSkilled,
    /// Its demand is known up to now.
    MetricsFresh,
    /// Another manager owns the minimum.
    Conflict,
}

impl Kind {
    /// Returns the name in the status.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ready => "Ready",
            Kind::ForecastSkilled => "ForecastSkilled",
            Kind::MetricsFresh => "MetricsFresh",
            Kind::Conflict => "Conflict",
        }
    }
}

/// New value of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionUpdate {
    pub kind: Kind,
    /// True, false, or none if unknown.
    pub is: Option<bool>,
    /// Reason in one word.
    pub reason: &'static str,
    /// Reason as a sentence; may be empty.
    pub message: String,
}

impl ConditionUpdate {
    /// A condition that is true.
    pub fn yes(kind: Kind, reason: &'static str, message: impl Into<String>) -> ConditionUpdate {
        ConditionUpdate { kind, is: Some(true), reason, message: message.into() }
    }

    /// A condition that is false.
    pub fn no(kind: Kind, reason: &'static str, message: impl Into<String>) -> ConditionUpdate {
        ConditionUpdate { kind, is: Some(false), reason, message: message.into() }
    }

    /// A condition of which nothing is known.
    pub fn unknown(kind: Kind, reason: &'static str, message: impl Into<String>) -> ConditionUpdate {
        ConditionUpdate { kind, is: None, reason, message: message.into() }
    }
}

/// The conditions now: each keeps its time as long as it says the same, and those that were not said stay.
pub fn conditions(
    before: &[Condition],
    says: &[ConditionUpdate],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions: Vec<Condition> = before.to_vec();
    for said in says {
        let status = match said.is {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let known = conditions.iter_mut().find(|condition| condition.type_ == said.kind.name());
        // The API's own limit.
        let message: String = said.message.chars().take(4_096).collect();
        match known {
            Some(known) => {
                if known.status != status {
                    known.last_transition_time = Time(whole(now));
                }
                known.status = status.to_owned();
                known.reason = said.reason.to_owned();
                known.message = message;
                known.observed_generation = generation;
            }
            None => conditions.push(Condition {
                type_: said.kind.name().to_owned(),
                status: status.to_owned(),
                reason: said.reason.to_owned(),
                message,
                last_transition_time: Time(whole(now)),
                observed_generation: generation,
            }),
        }
    }
    conditions
}

/// Returns true if a condition is true; none if the status does not have it.
pub fn holds(status: Option<&PredictiveScalerStatus>, kind: Kind) -> Option<bool> {
    let found = status?.conditions.iter().find(|condition| condition.type_ == kind.name())?;
    match found.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

/// Returns true if a status has to be written: it differs from the one before, or that one is old.
pub fn worth_writing(before: Option<&PredictiveScalerStatus>, after: &PredictiveScalerStatus, now: Timestamp) -> bool {
    let Some(before) = before else { return true };
    let old = before.updated.as_ref().is_none_or(|at| now.as_second() - at.0.as_second() >= REFRESHED_AFTER);
    old || lasting(before) != lasting(after)
}

/// A status without what changes at every decision though nothing has happened.
fn lasting(status: &PredictiveScalerStatus) -> PredictiveScalerStatus {
    let forecast = status.forecast.as_ref().map(|forecast| LastForecast {
        newest_sample: Time(Timestamp::UNIX_EPOCH),
        peak: String::new(),
        peak_at: Time(Timestamp::UNIX_EPOCH),
        samples: 0,
        skill: None,
        ..forecast.clone()
    });
    let mut conditions = status.conditions.clone();
    for condition in &mut conditions {
        condition.message.clear();
    }
    PredictiveScalerStatus { updated: None, reasons: Vec::new(), missing: None, forecast, conditions, ..status.clone() }
}

/// The status as a server-side apply of its subresource: what it does not say is taken away.
pub fn patch(status: &PredictiveScalerStatus) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1alpha1"),
        "kind": "PredictiveScaler",
        "status": status,
    })
}

/// A time in whole seconds, as the API keeps it.
pub fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_turns() {
        let first = conditions(&[], &[ConditionUpdate::no(Kind::MetricsFresh, "NoSeries", "none")], Some(1), at(0));
        let again = conditions(&first, &[ConditionUpdate::no(Kind::MetricsFresh, "Stale", "old")], Some(1), at(60));
        assert_eq!((again[0].reason.as_str(), again[0].last_transition_time.0), ("Stale", at(0)));
        let turned = conditions(&again, &[ConditionUpdate::yes(Kind::MetricsFresh, "Fresh", "")], Some(2), at(120));
        assert_eq!((turned.len(), turned[0].last_transition_time.0), (1, at(120)));
    }

    #[test]
    fn what_is_not_said_stays() {
        let both = [ConditionUpdate::yes(Kind::Ready, "Deciding", ""), ConditionUpdate::no(Kind::Conflict, "None", "")];
        let first = conditions(&[], &both, Some(1), at(0));
        let then = conditions(&first, &[ConditionUpdate::no(Kind::Ready, "InvalidSpec", "")], Some(2), at(60));
        assert_eq!(then.len(), 2);
        assert_eq!(then[1], first[1]);
    }

    #[test]
    fn a_status_is_written_when_it_says_something_new_or_is_old() {
        let status = PredictiveScalerStatus {
            updated: Some(Time(at(0))),
            floor: Some(3),
            reasons: vec!["a".to_owned()],
            ..PredictiveScalerStatus::default()
        };
        assert!(worth_writing(None, &status, at(0)));
        let chatter = PredictiveScalerStatus { reasons: vec!["b".to_owned()], ..status.clone() };
        assert!(!worth_writing(Some(&status), &chatter, at(60)));
        assert!(worth_writing(Some(&status), &chatter, at(600)));
        let news = PredictiveScalerStatus { floor: Some(4), ..status.clone() };
        assert!(worth_writing(Some(&status), &news, at(60)));
    }
}
