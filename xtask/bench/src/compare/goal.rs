//! What is wanted of a side, and whether it holds. Pure.

use crate::statistics::{Summary, ratio};
use std::fmt;
use std::time::Duration;
use xtask_model::quantity;

/// What the native engine may hold in memory at most, in bytes.
pub(super) const MEMORY: u64 = 150_000_000;

/// What has to hold for medians.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// It takes so many seconds at most.
    Within(f64),
    /// The native engine is so many times faster than it.
    Faster(f64),
    /// It takes so many times as long as the first side at most.
    Steady(f64),
}

impl Goal {
    /// Whether it holds for a side, beside the first.
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
    fn goals_hold_to_the_last_digit() {
        check(Goal::Within(0.25), 0.25, 9.0, true);
        check(Goal::Within(0.25), 0.251, 0.1, false);
        check(Goal::Faster(40.0), 8.0, 0.2, true);
        check(Goal::Faster(40.0), 7.9, 0.2, false);
        check(Goal::Faster(40.0), 8.0, 0.0, false);
        check(Goal::Steady(1.25), 0.25, 0.2, true);
        check(Goal::Steady(1.25), 0.26, 0.2, false);
    }

    #[test]
    fn goals_are_told_in_short() {
        let told = [Goal::Within(0.25), Goal::Faster(40.0), Goal::Steady(1.25)].map(|goal| goal.to_string());
        assert_eq!(told, ["≤ 0.25 s", "≥ 40×", "≤ 1.25×"]);
    }
}
