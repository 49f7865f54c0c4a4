//! Decides a workload's floor: from a forecast, the current minimum, and what was decided before.
//!
//! One pure function without a clock: `decide`. `Memory` keeps the state between two decisions, and `reason` explains each
//! decision; both are data. Only time during which decisions are made counts: a clock that jumps, or hours without a decision,
//! bring no floor down.

pub mod memory;
pub mod outlook;
pub mod reason;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

use crate::minimum::Minimum;
use crate::units::{Capacity, Demand, Replicas, Seconds};
use autoscaler_forecast::span::Span;
use jiff::Timestamp;
pub use memory::Memory;
pub use outlook::Outlook;
pub use reason::{Limit, Missing, Reason};
use serde::{Deserialize, Serialize};

/// Mode of a workload: report the floor, or write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Say what the floor should be, and change nothing
    #[default]
    Recommend,
    /// Raise the floor, and release it
    Enforce,
}

/// Settings of one workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Policy {
    pub mode: Mode,
    /// The demand that one pod serves.
    pub capacity: Capacity,
    /// The distance of two samples of the demand, and of two decisions.
    pub step: Span,
    /// Time between a decision for pods and the demand that they serve.
    pub lead_time: Span,
    /// The floor's limit, in addition to the autoscaler's own maximum.
    pub max_floor: Replicas,
    /// The most pods by which the floor moves within a step, up, or down without a forecast.
    pub max_step_up: Replicas,
    /// Time of lower demand after which the floor comes down.
    pub scale_down_delay: Seconds,
    /// Time for which a floor is held without a forecast.
    pub stale_after: Seconds,
}

/// Observations before a decision.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    pub now: Timestamp,
    /// Minimum in the cluster, and the owner's.
    pub minimum: &'a Minimum,
    /// `maxReplicas` of the autoscaler.
    pub max_replicas: Replicas,
    /// Number of pods that the autoscaler itself wants, above its minimum or not; none if it has not said.
    pub desired: Option<Replicas>,
    /// True if a person asked for a pause.
    pub paused: bool,
    /// The forecast, or why there is none.
    pub outlook: Result<&'a Outlook, Missing>,
}

/// A write to the cluster: made by `decide`, or by a release in `Mode::Recommend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    from: Replicas,
    to: Replicas,
}

impl Change {
    /// A change that gives a floor back to its owner.
    pub fn between(from: Replicas, to: Replicas) -> Change {
        Change { from, to }
    }

    /// Minimum before the change.
    pub fn from(self) -> Replicas {
        self.from
    }

    /// Minimum after the change.
    pub fn to(self) -> Replicas {
        self.to
    }
}

/// Decision about one floor, with its reasons.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// Floor that the forecast alone asks for, between the original and the cap; none without a forecast.
    pub recommended: Option<Replicas>,
    /// The floor after this decision; in `Mode::Recommend`, what it would be.
    pub floor: Replicas,
    /// Change to write. Always none in `Mode::Recommend` and in a pause.
    pub change: Option<Change>,
    /// Reasons, in the order in which they were applied.
    pub reasons: Vec<Reason>,
    /// Memory for the next decision.
    pub memory: Memory,
}

impl Decision {
    /// Returns the reason that no forecast could be used; none if there was one, or if none was needed.
    pub fn missing(&self) -> Option<&Missing> {
        self.reasons.iter().find_map(|reason| match reason {
            Reason::Held { missing, .. } | Reason::SteppingBack { missing, .. } => Some(missing),
            _ => None,
        })
    }
}

/// Decides the floor. Total: for any observation the floor is between the original and the cap.
pub fn decide(policy: &Policy, before: Option<&Memory>, seen: &Seen<'_>) -> Decision {
    let original = seen.minimum.original();
    let in_cluster = seen.minimum.floor();
    let current = match (policy.mode, before) {
        (Mode::Enforce, _) | (Mode::Recommend, None) => in_cluster,
        // Nobody writes: the floor that would have been lives in the memory alone.
        (Mode::Recommend, Some(before)) => before.floor().max(original),
    };
    let mut reasons = Vec::new();
    let (mut memory, watched) = Memory::resume(before, current, seen.now, policy.step, &mut reasons);

    if seen.paused {
        reasons.push(Reason::Paused);
        return Decision { recommended: None, floor: current, change: None, reasons, memory };
    }

    let by = if policy.max_floor <= seen.max_replicas { Limit::MaxFloor } else { Limit::MaxReplicas };
    let cap = policy.max_floor.min(seen.max_replicas).max(original);
    let mut recommended = None;
    let next = match need(policy, seen) {
        Ok(need) => {
            reasons.push(Reason::Forecast { peak: need.peak, at: need.at, needs: need.replicas });
            let clamped = need.replicas.clamp(original, cap);
            if need.replicas > cap {
                reasons.push(Reason::Capped { needs: need.replicas, cap, by });
            } else if need.replicas < original {
                reasons.push(Reason::AtOriginal { needs: need.replicas, original });
            }
            recommended = Some(clamped);
            let wanted = if need.skilled {
                clamped
            } else {
                reasons.push(Reason::NotSkilled { would: clamped });
                original
            };
            let held = memory.hear(wanted, watched, policy.scale_down_delay).min(cap);
            if held > current {
                let allowed = current.plus(memory.allowance(policy.max_step_up));
                if allowed < held {
                    reasons.push(Reason::RateLimited { wanted: held, allowed });
                }
                held.min(allowed)
            } else {
                if held > wanted {
                    reasons.push(Reason::CoolingDown { wanted, held, delay: policy.scale_down_delay });
                }
                held
            }
        }
        Err(missing) => {
            let due = memory.miss(watched, policy.stale_after, policy.step);
            let so_far = memory.missing_for();
            match due {
                None => {
                    reasons.push(Reason::Held { missing, so_far, until: policy.stale_after });
                    current
                }
                Some(steps) => {
                    reasons.push(Reason::SteppingBack { missing, so_far, original });
                    // At least one pod a step, or a limit of none would hold a floor for ever.
                    let down = policy.max_step_up.max(Replicas(1)).0.saturating_mul(steps);
                    let next = current.less(Replicas(down)).max(original);
                    if next < current {
                        memory.step_back(next);
                    }
                    next
                }
            }
        }
    };
    let floor = next.clamp(original, cap);
    memory.settle(current, floor);
    let change = match policy.mode {
        Mode::Enforce if floor != in_cluster => Some(Change { from: in_cluster, to: floor }),
        Mode::Enforce => None,
        Mode::Recommend => {
            reasons.push(Reason::RecommendOnly);
            None
        }
    };
    Decision { recommended, floor, change, reasons, memory }
}

/// Number of pods that the forecast asks for.
struct Need {
    peak: Demand,
    at: Timestamp,
    replicas: Replicas,
    skilled: bool,
}

// A query of a mean per pod asks for about one pod, whatever runs. Pods at a quarter of what one serves are not that.
const PER_POD: u32 = 4;

fn need(policy: &Policy, seen: &Seen<'_>) -> Result<Need, Missing> {
    let outlook = match &seen.outlook {
        Ok(outlook) => *outlook,
        Err(missing) => return Err(missing.clone()),
    };
    if outlook.step() != policy.step {
        return Err(Missing::Spacing { samples: outlook.step(), policy: policy.step });
    }
    let units = Missing::Units { demand: outlook.unit(), capacity: policy.capacity.unit() };
    let (peak, at) = outlook.peak(seen.now, policy.lead_time)?;
    let replicas = policy.capacity.replicas_for(peak).ok_or(units.clone())?;
    if let (Some(desired), Some(recent)) = (seen.desired, outlook.recent()) {
        let served = policy.capacity.replicas_for(recent).ok_or(units)?;
        let above = desired > seen.minimum.floor() && desired >= Replicas(PER_POD);
        if above && Replicas(served.0.saturating_mul(PER_POD)) <= desired {
            return Err(Missing::LooksPerPod { recent, served, desired });
        }
    }
    Ok(Need { peak, at, replicas, skilled: outlook.skilled() })
}
