//! What a floor is made of, and the trade-off behind it. Types only: `floor::choose` makes them.

use serde::{Deserialize, Serialize};

/// What a rule does: shares of the shortage and of the cost of the autoscaler alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RulePoint {
    /// The rule's name.
    pub name: String,
    /// The share of the shortage that is left.
    pub short: f64,
    /// The extra pod-seconds, as a share.
    pub cost: f64,
}

/// What a floor is made of, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The candidate's name.
    pub candidate: String,
    /// The factor on its line.
    pub factor: f64,
    /// Whether its floor is worth its cost; otherwise it is only recommended.
    pub open: bool,
    /// Why, in words.
    pub reason: String,
    /// Days that were replayed.
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
