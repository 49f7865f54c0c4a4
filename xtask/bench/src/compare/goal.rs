//! Targets for measurements, and whether they are met. Pure.

use crate::statistics::{Summary, ratio};
use std::fmt;
use std::time::Duration;
use xtask_model::quantity;

/// Memory that the native engine may need for any row, in bytes.
pub(super) const MEMORY: u64 = 64_000_000;

/// A target for medians.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    Within(f64),
    /// The native engine is at least this many times faster.
    Faster(f64),
    /// At most this many times the first side.
    Steady(f64),
}

impl Goal {
    pub fn holds(&self, side: &Summary, first: &Summary) -> bool {
        match self {
            Self::Within(seconds) => side.median <= *seconds,
            Self::Faster(times) => ratio(side, first).is_some_and(|ratio| ratio >= *times),
            Self::Steady(times) => ratio(side, first).is_some_and(|ratio| ratio <= *times),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within(seconds) => write!(f, "≤ {}", quantity::seconds(Duration::from_secs_f64(*seconds))),
            Self::Faster(times) => write!(f, "≥ {times}×"),
            Self::Steady(times) => write!(f, "≤ {times}×"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(goal: Goal, side: f64, first: f64, holds: bool) {
        let of = |seconds| Summary::of(&[seconds]).unwrap();
        assert_eq!(goal.holds(&of(side), &of(first)), holds);
    }

    #[test]
    fn goals_compare_unrounded_values() {
        check(Goal::Within(0.25), 0.25, 9.0, true);
        check(Goal::Within(0.25), 0.251, 0.1, false);
        check(Goal::Faster(40.0), 8.0, 0.2, true);
        check(Goal::Faster(40.0), 7.9, 0.2, false);
        check(Goal::Faster(40.0), 8.0, 0.0, false);
        check(Goal::Steady(1.25), 0.25, 0.2, true);
        check(Goal::Steady(1.25), 0.26, 0.2, false);
    }

    #[test]
    fn goals_are_shown_in_short() {
        let shown = [Goal::Within(0.25), Goal::Faster(40.0), Goal::Steady(1.25)].map(|goal| goal.to_string());
        assert_eq!(shown, ["≤ 0.25 s", "≥ 40×", "≤ 1.25×"]);
    }
}
