//! Reasons for a decision: data for events, conditions and the page, with a sentence for each.

use crate::units::{Demand, Replicas, Seconds, Unit};
use autoscaler_forecast::span::Span;
use jiff::Timestamp;
use serde::Serialize;
use std::fmt;

/// Message for a forecast whose gate is closed.
pub const UNSKILLED: &str = "no floor was worth its cost on the last weeks of this workload";

/// Limit that a floor has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Limit {
    /// `maxFloor` of the policy.
    MaxFloor,
    /// `maxReplicas` of the autoscaler.
    MaxReplicas,
}

/// Reason that a decision has no forecast to use.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "missing", rename_all = "kebab-case")]
pub enum Missing {
    /// No forecast was made.
    NoForecast {
        /// Cause, in the words of whoever could not make it.
        cause: String,
    },
    /// The newest sample is too old.
    Stale {
        /// Age of the newest sample.
        age: Seconds,
    },
    /// The newest sample is newer than now: two clocks differ.
    FromTheFuture {
        /// Difference of the clocks.
        by: Seconds,
    },
    /// Steps between now and the lead time are missing.
    Incomplete {
        /// Number of steps in the forecast.
        has: usize,
        /// Number of steps that are needed.
        needs: usize,
    },
    /// The samples are not as far apart as the policy says.
    Spacing {
        /// Distance of the samples.
        samples: Span,
        /// Distance in the policy.
        policy: Span,
    },
    /// Demand and capacity do not count the same thing.
    Units {
        /// Unit of the demand.
        demand: Unit,
        /// Unit of the capacity.
        capacity: Unit,
    },
    /// The demand is so far below what the autoscaler runs pods for that it must be a mean per pod.
    LooksPerPod {
        /// Highest recent demand.
        recent: Demand,
        /// The pods that would serve it.
        served: Replicas,
        /// The pods that the autoscaler wants.
        desired: Replicas,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::NoForecast { cause } => write!(f, "no forecast: {cause}"),
            Missing::Stale { age } => write!(f, "the newest sample is {age} old"),
            Missing::FromTheFuture { by } => write!(f, "the newest sample is {by} ahead of the clock"),
            Missing::Incomplete { has, needs } => write!(f, "the forecast has {has} of {needs} steps"),
            Missing::Spacing { samples, policy } => {
                write!(f, "the samples are {samples} apart, expected {policy}")
            }
            Missing::Units { demand, capacity } => write!(f, "demand is in {demand}, capacity in {capacity}"),
            Missing::LooksPerPod { recent, served, desired } => write!(
                f,
                "demand was at most {recent}, enough for {}, but the autoscaler wants {desired}: \
                 the query looks like a mean per pod",
                pods(*served)
            ),
        }
    }
}

/// One step on the way to a decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// Nothing is remembered: the current floor counts as just wanted.
    Began { floor: Replicas },
    /// The floor is not the one decided last.
    FloorMoved {
        /// Floor that was decided last.
        decided: Replicas,
        /// Floor in the cluster.
        found: Replicas,
    },
    /// The clock shows an earlier time than at the last decision.
    ClockWentBack {
        /// Difference of the times.
        by: Seconds,
    },
    /// A person asked for a pause.
    Paused,
    /// Peak of the forecast, and the pods that it needs.
    Forecast {
        /// The highest demand until the lead time.
        peak: Demand,
        /// Time of the peak.
        at: Timestamp,
        /// Number of pods that serve the peak.
        needs: Replicas,
    },
    /// It asks for more than is allowed.
    Capped {
        /// Number of pods that the forecast asks for.
        needs: Replicas,
        /// Highest floor allowed.
        cap: Replicas,
        /// Limit that sets the cap.
        by: Limit,
    },
    /// It asks for less than the owner.
    AtOriginal {
        /// Number of pods that the forecast asks for.
        needs: Replicas,
        /// Minimum of the owner.
        original: Replicas,
    },
    /// The forecast is no better than plain references, so it only recommends.
    NotSkilled {
        /// Floor with a skilled forecast.
        would: Replicas,
    },
    /// The floor rises no faster than the policy says.
    RateLimited {
        /// Desired floor.
        wanted: Replicas,
        /// Highest floor allowed now.
        allowed: Replicas,
    },
    /// Less is wanted, not long enough yet.
    CoolingDown {
        /// Desired floor.
        wanted: Replicas,
        /// Floor that is kept.
        held: Replicas,
        /// Time for which less has to be enough.
        delay: Seconds,
    },
    /// Nothing is known, so nothing changes.
    Held {
        missing: Missing,
        /// Time without a forecast.
        so_far: Seconds,
        /// Time after which the floor steps back.
        until: Seconds,
    },
    /// Nothing has been known for too long: back to the original, step by step.
    SteppingBack {
        missing: Missing,
        /// Time without a forecast.
        so_far: Seconds,
        /// Minimum of the owner, to which the floor returns.
        original: Replicas,
    },
    /// The mode is to recommend: nothing is written.
    RecommendOnly,
}

impl Reason {
    /// Its name, as events and conditions write theirs.
    pub fn name(&self) -> &'static str {
        match self {
            Reason::Began { .. } => "Began",
            Reason::FloorMoved { .. } => "FloorMoved",
            Reason::ClockWentBack { .. } => "ClockWentBack",
            Reason::Paused => "Paused",
            Reason::Forecast { .. } => "Forecast",
            Reason::Capped { .. } => "Capped",
            Reason::AtOriginal { .. } => "AtOriginal",
            Reason::NotSkilled { .. } => "NotSkilled",
            Reason::RateLimited { .. } => "RateLimited",
            Reason::CoolingDown { .. } => "CoolingDown",
            Reason::Held { .. } => "Held",
            Reason::SteppingBack { .. } => "SteppingBack",
            Reason::RecommendOnly => "RecommendOnly",
        }
    }
}

/// A number of pods with its noun.
fn pods(count: Replicas) -> String {
    if count == Replicas(1) { "1 pod".to_owned() } else { format!("{count} pods") }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Began { floor } => write!(f, "started with the current floor of {floor}"),
            Reason::FloorMoved { decided, found } => {
                write!(f, "the floor is {found} instead of {decided}, the last decision: started from {found}")
            }
            Reason::ClockWentBack { by } => write!(f, "the clock went back by {by}: counted as no time"),
            Reason::Paused => f.write_str("paused: the floor does not change"),
            Reason::Forecast { peak, at, needs } => write!(f, "demand of {peak} at {at} needs {}", pods(*needs)),
            Reason::Capped { needs, cap, by } => {
                let limit = match by {
                    Limit::MaxFloor => "maxFloor",
                    Limit::MaxReplicas => "maxReplicas",
                };
                write!(f, "{needs} is more than {cap}, the {limit}")
            }
            Reason::AtOriginal { needs, original } => {
                write!(f, "{needs} is less than {original}, the original minimum")
            }
            Reason::NotSkilled { would } => {
                write!(f, "{would} is only recommended: {UNSKILLED}")
            }
            Reason::RateLimited { wanted, allowed } => write!(f, "{wanted} is needed, maxStepUp allows {allowed}"),
            Reason::CoolingDown { wanted, held, delay } => {
                write!(f, "{wanted} is enough, {held} is kept until less is enough for {delay}")
            }
            Reason::Held { missing, so_far, until } => write!(f, "{missing}: floor held for {so_far} of {until}"),
            Reason::SteppingBack { missing, so_far, original } => {
                write!(f, "{missing}, for {so_far}: the floor steps back to the original {original}")
            }
            Reason::RecommendOnly => f.write_str("recommended only: nothing is written"),
        }
    }
}
