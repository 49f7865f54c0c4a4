//! Why a decision is what it is: data for events, conditions and the page, with a sentence for each.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use crate::units::{Demand, Replicas, Seconds, Unit};
use autoscaler_forecast::span::Span;

/// What a shut gate says of a forecast.
pub const UNSKILLED: &str = "no floor was worth its cost on the last weeks of this workload";

/// Which limit a floor has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Limit {
    /// The policy's.
    MaxFloor,
    /// The autoscaler's own.
    MaxReplicas,
}

/// Why there is no forecast that a decision can use.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "missing", rename_all = "kebab-case")]
pub enum Missing {
    /// None was made.
    NoForecast {
        /// Why not, in the words of whoever did not make it.
        cause: String,
    },
    /// The newest sample is too old.
    Stale {
        /// Its age.
        age: Seconds,
    },
    /// The newest sample is newer than now: two clocks differ.
    FromTheFuture {
        /// By how much.
        by: Seconds,
    },
    /// Steps between now and the lead time are missing.
    Incomplete {
        /// How many are.
        has: usize,
        /// How many there should be.
        needs: usize,
    },
    /// The samples are not as far apart as the policy says.
    Spacing {
        /// How far they are.
        samples: Span,
        /// How far they should be.
        policy: Span,
    },
    /// Demand and capacity do not count the same thing.
    Units {
        /// What the demand counts.
        demand: Unit,
        /// What the capacity counts.
        capacity: Unit,
    },
    /// The demand is so far below what the autoscaler runs pods for that it must be a mean per pod.
    LooksPerPod {
        /// The highest demand seen lately.
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
            Missing::NoForecast { cause } => write!(f, "there is no forecast: {cause}"),
            Missing::Stale { age } => write!(f, "the newest sample is {age} old"),
            Missing::FromTheFuture { by } => write!(f, "the newest sample is {by} ahead of the clock"),
            Missing::Incomplete { has, needs } => write!(f, "the forecast has {has} of {needs} steps"),
            Missing::Spacing { samples, policy } => {
                write!(f, "the samples are {samples} apart, the policy says {policy}")
            }
            Missing::Units { demand, capacity } => write!(f, "demand is in {demand}, capacity in {capacity}"),
            Missing::LooksPerPod { recent, served, desired } => write!(
                f,
                "demand was {recent} at most, enough for {}, where the autoscaler wants {desired}: \
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
    Began {
        /// That floor.
        floor: Replicas,
    },
    /// The floor is not the one decided last.
    FloorMoved {
        /// What was decided.
        decided: Replicas,
        /// The number that exists.
        found: Replicas,
    },
    /// The clock shows an earlier time than at the last decision.
    ClockWentBack {
        /// By how much.
        by: Seconds,
    },
    /// A person asked for a pause.
    Paused,
    /// What the forecast asks for.
    Forecast {
        /// The highest demand until the lead time.
        peak: Demand,
        /// When it comes.
        at: Timestamp,
        /// The pods that serve it.
        needs: Replicas,
    },
    /// It asks for more than is allowed.
    Capped {
        /// What it asks for.
        needs: Replicas,
        /// What is allowed.
        cap: Replicas,
        /// By what.
        by: Limit,
    },
    /// It asks for less than the owner.
    AtOriginal {
        /// What it asks for.
        needs: Replicas,
        /// What the owner wants.
        original: Replicas,
    },
    /// The forecast is no better than plain references, so it only recommends.
    NotSkilled {
        /// What it would have been.
        would: Replicas,
    },
    /// The floor rises no faster than the policy says.
    RateLimited {
        /// What is wanted.
        wanted: Replicas,
        /// What is allowed now.
        allowed: Replicas,
    },
    /// Less is wanted, not long enough yet.
    CoolingDown {
        /// What is wanted.
        wanted: Replicas,
        /// What stays.
        held: Replicas,
        /// How long less has to be wanted.
        delay: Seconds,
    },
    /// Nothing is known, so nothing changes.
    Held {
        /// Why.
        missing: Missing,
        /// For how long already.
        so_far: Seconds,
        /// For how long at most.
        until: Seconds,
    },
    /// Nothing has been known for too long: back to the original, step by step.
    SteppingBack {
        /// Why.
        missing: Missing,
        /// For how long already.
        so_far: Seconds,
        /// Where to.
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
            Reason::Began { floor } => write!(f, "began with the current floor of {floor}"),
            Reason::FloorMoved { decided, found } => {
                write!(f, "the floor is {found}, not the {decided} decided last: began from there")
            }
            Reason::ClockWentBack { by } => write!(f, "the clock went back by {by}: no time has passed"),
            Reason::Paused => f.write_str("paused: nothing changes"),
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
            Reason::RateLimited { wanted, allowed } => write!(f, "{wanted} is wanted, {allowed} allowed by maxStepUp"),
            Reason::CoolingDown { wanted, held, delay } => {
                write!(f, "{wanted} would do, {held} stays until less was wanted for {delay}")
            }
            Reason::Held { missing, so_far, until } => write!(f, "{missing}: held for {so_far} of {until}"),
            Reason::SteppingBack { missing, so_far, original } => {
                write!(f, "{missing}, for {so_far}: stepping back to the original {original}")
            }
            Reason::RecommendOnly => f.write_str("recommended only: nothing is written"),
        }
    }
}
