//! Memory that one decision leaves for the next: the recently desired floors, recent rises, and the time without a forecast.
//!
//! Ages, never times: they grow by the time between two decisions, at most two steps of it, and never shrink. So a clock
//! that jumps forward releases nothing, and one that jumps back locks nothing.

use crate::decide::reason::Reason;
use crate::units::{Replicas, Seconds};
use autoscaler_forecast::span::Span;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

// Longer than this nobody looked: what happened in between is not known to have been low.
const WATCHED_STEPS: u32 = 2;

/// Memory of past decisions. It can be lost: the next decision then begins at the current floor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    decided: Timestamp,
    floor: Replicas,
    /// Desired floors that no later one exceeded, the oldest and highest first.
    wanted: Vec<Aged>,
    /// Rises of the floor within the last step.
    rises: Vec<Aged>,
    /// None while there is a forecast.
    missing_for: Option<Seconds>,
}

/// A number of pods and how long ago it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Aged {
    age: Seconds,
    replicas: Replicas,
}

impl Memory {
    /// The floor after the last decision.
    pub fn floor(&self) -> Replicas {
        self.floor
    }

    /// Returns the time without a forecast.
    pub fn missing_for(&self) -> Seconds {
        self.missing_for.unwrap_or_default()
    }

    /// Carries a memory on to `now`, and says how much time was watched since. A floor that is not the one decided is
    /// where everything begins again, as if it had just been wanted.
    pub(super) fn resume(
        before: Option<&Memory>,
        current: Replicas,
        now: Timestamp,
        step: Span,
        reasons: &mut Vec<Reason>,
    ) -> (Memory, Seconds) {
        let fresh = Memory {
            decided: now,
            floor: current,
            wanted: vec![Aged { age: Seconds(0), replicas: current }],
            rises: Vec::new(),
            missing_for: None,
        };
        let Some(before) = before else {
            reasons.push(Reason::Began { floor: current });
            return (fresh, Seconds(0));
        };
        let passed = now.as_second().saturating_sub(before.decided.as_second());
        if passed < 0 {
            reasons.push(Reason::ClockWentBack { by: Seconds(passed.unsigned_abs()) });
        }
        let most = u64::from(step.seconds()) * u64::from(WATCHED_STEPS);
        let watched = Seconds(u64::try_from(passed).unwrap_or(0).min(most));
        if before.floor != current {
            reasons.push(Reason::FloorMoved { decided: before.floor, found: current });
            return (Memory { missing_for: before.missing_for, ..fresh }, watched);
        }
        let mut memory = Memory { decided: now, ..before.clone() };
        for rise in &mut memory.rises {
            rise.age = rise.age.plus(watched);
        }
        memory.rises.retain(|rise| rise.age < Seconds::from(step));
        (memory, watched)
    }

    /// Takes in what is wanted now, and says what was wanted at most within the delay.
    pub(super) fn hear(&mut self, wanted: Replicas, watched: Seconds, delay: Seconds) -> Replicas {
        self.missing_for = None;
        for heard in &mut self.wanted {
            heard.age = heard.age.plus(watched);
        }
        // What is lower than a newer one cannot become the highest any more.
        self.wanted.retain(|heard| heard.age < delay && heard.replicas > wanted);
        self.wanted.push(Aged { age: Seconds(0), replicas: wanted });
        self.wanted.first().map_or(wanted, |heard| heard.replicas)
    }

    /// Returns the number of pods by which the floor may still rise.
    pub(super) fn allowance(&self, most: Replicas) -> Replicas {
        self.rises.iter().fold(most, |left, rise| left.less(rise.replicas))
    }

    /// Counts time without a forecast, and says how many steps back are due now: the first once `stale_after` is over,
    /// another with every `step` after that; none while the floor is still held. What was wanted does not age
    /// meanwhile: unknown is not low.
    pub(super) fn miss(&mut self, watched: Seconds, stale_after: Seconds, step: Span) -> Option<u32> {
        let due = |missing: Seconds| {
            let beyond = missing.0.checked_sub(stale_after.0)?;
            Some(beyond / u64::from(step.seconds()) + 1)
        };
        let done = self.missing_for.and_then(due).unwrap_or(0);
        let missing = self.missing_for().plus(watched);
        self.missing_for = Some(missing);
        due(missing).map(|due| u32::try_from(due - done).unwrap_or(u32::MAX))
    }

    /// Begins again at a floor that was stepped back to.
    pub(super) fn step_back(&mut self, floor: Replicas) {
        self.wanted = vec![Aged { age: Seconds(0), replicas: floor }];
    }

    /// Notes the floor that was decided.
    pub(super) fn settle(&mut self, from: Replicas, to: Replicas) {
        self.floor = to;
        if to > from {
            self.rises.push(Aged { age: Seconds(0), replicas: to.less(from) });
        }
    }
}
