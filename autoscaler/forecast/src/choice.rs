//! Choice of the candidate behind a floor, and the trade-off behind it. Types only: `floor::choose` makes them.

use serde::{Deserialize, Serialize};

/// Result of a rule: shares of the shortage and of the cost of the autoscaler alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RulePoint {
    pub name: String,
    /// The share of the shortage that is left.
    pub short: f64,
    /// The extra pod-seconds, as a share.
    pub cost: f64,
}

/// Candidate that a floor is made of, and the reason for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Name of the candidate.
    pub candidate: String,
    /// Factor on the candidate's line.
    pub factor: f64,
    /// True if the floor is worth its cost; otherwise it is only recommended.
    pub open: bool,
    /// Reason as a sentence.
    pub reason: String,
    /// Number of days that were replayed.
    pub days: usize,
    /// Shortage against cost on this history: this choice, the plain rules and headroom.
    pub curve: Vec<RulePoint>,
}

impl Choice {
    /// The name of this choice's own point.
    pub const CHOSEN: &str = "chosen";

    /// Shortage and cost of this choice; none where nothing was replayed.
    pub fn chosen(&self) -> Option<&RulePoint> {
        self.curve.iter().find(|point| point.name == Choice::CHOSEN)
    }
}
