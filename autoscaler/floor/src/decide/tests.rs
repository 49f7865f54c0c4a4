//! Single decisions and short stories of them: what is decided, and the reason that is given.

use super::*;
use crate::units::Unit;

pub(super) const MINUTE: Span = Span::from_seconds(60).unwrap();

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// Ten per second and pod, three minutes ahead, two to twenty pods, four of them a minute.
pub(super) fn policy() -> Policy {
    Policy {
        mode: Mode::Enforce,
        capacity: "10/s".parse().unwrap(),
        step: MINUTE,
        lead_time: Span::from_seconds(180).unwrap(),
        max_floor: Replicas(20),
        max_step_up: Replicas(4),
        scale_down_delay: Seconds(300),
        stale_after: Seconds(600),
    }
}

pub(super) fn outlook(second: i64, demand: f64) -> Outlook {
    let steps = Outlook::horizon(policy().lead_time, MINUTE) as usize;
    Outlook::new(at(second), MINUTE, Unit::PerSecond, &vec![demand; steps], true)
}

/// A workload whose floor follows the decisions, as a cluster's would.
pub(super) struct Workload {
    pub(super) policy: Policy,
    pub(super) minimum: Minimum,
    pub(super) memory: Option<Memory>,
    pub(super) second: i64,
}

impl Workload {
    pub(super) fn new(policy: Policy) -> Workload {
        Workload { policy, minimum: Minimum::of_owner(Replicas(2)), memory: None, second: 0 }
    }

    /// Decides with a forecast, or without, and lets `seconds` pass after it.
    pub(super) fn decide(&mut self, outlook: Result<&Outlook, Missing>, seconds: i64) -> Decision {
        let seen = Seen {
            now: at(self.second),
            minimum: &self.minimum,
            max_replicas: Replicas(50),
            desired: None,
            paused: false,
            outlook,
        };
        let decision = decide(&self.policy, self.memory.as_ref(), &seen);
        self.memory = Some(decision.memory.clone());
        if let Some(change) = decision.change {
            self.write(change.to());
        }
        self.second += seconds;
        decision
    }

    pub(super) fn demand(&mut self, demand: f64) -> Decision {
        let outlook = outlook(self.second, demand);
        self.decide(Ok(&outlook), 60)
    }

    pub(super) fn nothing(&mut self) -> Decision {
        self.decide(Err(nothing()), 60)
    }

    /// Applies the patch of a floor, as the cluster does.
    pub(super) fn write(&mut self, floor: Replicas) {
        let patch = self.minimum.patch(floor, at(self.second + 3_600));
        self.minimum = Minimum::read(patch.field.map(|field| field.0), patch.annotation.as_deref()).unwrap();
    }

    fn floors(&mut self, demand: f64, decisions: usize) -> Vec<u32> {
        (0..decisions).map(|_| self.demand(demand).floor.0).collect()
    }
}

pub(super) fn nothing() -> Missing {
    Missing::NoForecast { cause: "the query is empty".to_owned() }
}

#[track_caller]
fn said(decision: &Decision, expected: &[&str]) {
    let reasons: Vec<String> = decision.reasons.iter().map(Reason::to_string).collect();
    assert_eq!(reasons, expected);
}

#[test]
fn a_forecast_raises_the_floor_at_the_allowed_rate() {
    let mut workload = Workload::new(policy());
    let first = workload.demand(95.0);
    assert_eq!((first.recommended, first.floor), (Some(Replicas(10)), Replicas(6)));
    assert_eq!(first.change, Some(Change { from: Replicas(2), to: Replicas(6) }));
    said(
        &first,
        &[
            "started with the current floor of 2",
            "demand of 95.0/s at 2027-01-15T08:03:00Z needs 10 pods",
            "10 is needed, maxStepUp allows 6",
        ],
    );
    assert_eq!(workload.floors(95.0, 2), [10, 10]);
}

#[test]
fn the_floor_comes_down_after_less_was_enough_all_the_delay() {
    let mut workload = Workload::new(policy());
    workload.floors(60.0, 2);
    // Five minutes after the last time that six were wanted.
    assert_eq!(workload.floors(25.0, 5), [6, 6, 6, 6, 3]);
    let story = workload.demand(10.0);
    said(
        &story,
        &[
            "demand of 10.0/s at 2027-01-15T08:10:00Z needs 1 pod",
            "1 is less than 2, the original minimum",
            "2 is enough, 3 is kept until less is enough for 5m",
        ],
    );
}

#[test]
fn one_high_minute_begins_the_delay_again() {
    let mut workload = Workload::new(policy());
    workload.floors(60.0, 1);
    workload.floors(25.0, 4);
    assert_eq!(workload.demand(60.0).floor, Replicas(6));
    assert_eq!(workload.floors(25.0, 5), [6, 6, 6, 6, 3]);
}

#[test]
fn the_lesser_of_both_limits_is_the_cap() {
    let mut workload = Workload::new(Policy { max_step_up: Replicas(100), ..policy() });
    let capped = workload.demand(900.0);
    assert_eq!(capped.floor, Replicas(20));
    assert_eq!(capped.reasons[2], Reason::Capped { needs: Replicas(90), cap: Replicas(20), by: Limit::MaxFloor });
    workload.policy.max_floor = Replicas(70);
    let capped = workload.demand(900.0);
    assert_eq!(capped.floor, Replicas(50));
    assert_eq!(capped.reasons[1], Reason::Capped { needs: Replicas(90), cap: Replicas(50), by: Limit::MaxReplicas });
}

#[test]
fn a_cap_below_the_original_leaves_the_original() {
    let mut workload = Workload::new(Policy { max_floor: Replicas(1), ..policy() });
    let decision = workload.demand(900.0);
    assert_eq!((decision.floor, decision.change), (Replicas(2), None));
}

#[test]
fn recommend_mode_writes_nothing() {
    let mut workload = Workload::new(Policy { mode: Mode::Recommend, ..policy() });
    for expected in [6, 10, 10] {
        let decision = workload.demand(95.0);
        assert_eq!((decision.floor, decision.change), (Replicas(expected), None));
        assert_eq!(decision.reasons.last(), Some(&Reason::RecommendOnly));
    }
    assert_eq!(workload.minimum, Minimum::of_owner(Replicas(2)));
    // What was only recommended is not where enforcing begins.
    workload.policy.mode = Mode::Enforce;
    let enforced = workload.demand(95.0);
    assert_eq!(enforced.change, Some(Change { from: Replicas(2), to: Replicas(6) }));
    assert_eq!(enforced.reasons[0], Reason::FloorMoved { decided: Replicas(10), found: Replicas(2) });
}

#[test]
fn a_pause_leaves_the_floor() {
    let mut workload = Workload::new(policy());
    workload.demand(95.0);
    let outlook = outlook(60, 0.0);
    let seen = Seen {
        now: at(60),
        minimum: &workload.minimum,
        max_replicas: Replicas(3),
        desired: None,
        paused: true,
        outlook: Ok(&outlook),
    };
    let decision = decide(&workload.policy, workload.memory.as_ref(), &seen);
    assert_eq!((decision.floor, decision.change), (Replicas(6), None));
    said(&decision, &["paused: the floor does not change"]);
}

#[test]
fn without_skill_nothing_is_raised_and_what_was_raised_is_released() {
    let mut workload = Workload::new(policy());
    workload.floors(60.0, 1);
    let mut floors = Vec::new();
    for _ in 0..6 {
        let lucky = Outlook::new(at(workload.second), MINUTE, Unit::PerSecond, &[150.0; 5], false);
        let decision = workload.decide(Ok(&lucky), 60);
        assert_eq!(decision.recommended, Some(Replicas(15)));
        assert!(decision.reasons.contains(&Reason::NotSkilled { would: Replicas(15) }));
        floors.push(decision.floor.0);
    }
    assert_eq!(floors, [6, 6, 6, 6, 2, 2]);
}

#[test]
fn an_outage_holds_and_then_steps_back_instead_of_a_rollback_under_load() {
    let mut workload = Workload::new(policy());
    workload.floors(155.0, 4);
    let held: Vec<u32> = (0..9).map(|_| workload.nothing().floor.0).collect();
    assert_eq!(held, [16; 9]);
    let back: Vec<u32> = (0..5).map(|_| workload.nothing().floor.0).collect();
    assert_eq!(back, [12, 8, 4, 2, 2]);
    said(&workload.nothing(), &["no forecast: the query is empty, for 15m: the floor steps back to the original 2"]);
    // What was wanted before the outage is no reason to raise after it.
    assert_eq!(workload.demand(25.0).floor, Replicas(3));
}

#[test]
fn an_outage_that_ends_in_time_changes_nothing() {
    let mut workload = Workload::new(policy());
    workload.floors(155.0, 4);
    for _ in 0..9 {
        workload.nothing();
    }
    assert_eq!(workload.demand(155.0).floor, Replicas(16));
    said(&workload.nothing(), &["no forecast: the query is empty: floor held for 1m of 10m"]);
}

#[test]
fn unknown_is_not_low() {
    let mut workload = Workload::new(policy());
    workload.floors(60.0, 1);
    workload.floors(25.0, 3);
    for _ in 0..6 {
        workload.nothing();
    }
    // Three minutes of less before the outage, and two after it.
    assert_eq!(workload.floors(25.0, 2), [6, 3]);
}

#[test]
fn a_restart_holds_the_floor_for_the_whole_delay() {
    let mut workload = Workload::new(policy());
    workload.floors(60.0, 1);
    workload.floors(25.0, 4);
    workload.memory = None;
    assert_eq!(workload.floors(25.0, 6), [6, 6, 6, 6, 6, 3]);
    assert_eq!(workload.minimum.original(), Replicas(2));
}

#[test]
fn a_memory_survives_being_stored() {
    let mut workload = Workload::new(policy());
    workload.floors(60.0, 1);
    workload.floors(25.0, 2);
    let stored = serde_json::to_string(workload.memory.as_ref().unwrap()).unwrap();
    workload.memory = Some(serde_json::from_str(&stored).unwrap());
    assert_eq!(workload.floors(25.0, 3), [6, 6, 3]);
}

#[test]
fn a_clock_that_jumps_releases_nothing_and_locks_nothing() {
    let mut workload = Workload::new(policy());
    workload.floors(60.0, 1);
    workload.second += 86_400;
    // A day that nobody watched counts as two minutes.
    assert_eq!(workload.floors(25.0, 4), [6, 6, 6, 3]);
    workload.floors(60.0, 1);
    workload.second -= 86_400;
    let back = workload.demand(25.0);
    assert_eq!(back.reasons[0], Reason::ClockWentBack { by: Seconds(86_340) });
    assert_eq!(workload.floors(25.0, 5), [6, 6, 6, 6, 3]);
}

#[test]
fn wrong_sample_spacing_gives_no_forecast() {
    let mut workload = Workload::new(policy());
    let five = Span::from_seconds(300).unwrap();
    let sparse = Outlook::new(at(0), five, Unit::PerSecond, &[150.0; 5], true);
    let decision = workload.decide(Ok(&sparse), 60);
    assert_eq!((decision.floor, decision.recommended), (Replicas(2), None));
    said(
        &decision,
        &["started with the current floor of 2", "the samples are 5m apart, expected 1m: floor held for 0s of 10m"],
    );
}

#[test]
fn percent_compared_with_cores_gives_no_forecast() {
    let mut workload = Workload::new(Policy { capacity: "500m".parse().unwrap(), ..policy() });
    let utilisation = Outlook::new(at(0), MINUTE, Unit::Percent, &[70.0; 5], true);
    let decision = workload.decide(Ok(&utilisation), 60);
    assert_eq!((decision.floor, decision.change), (Replicas(2), None));
    assert_eq!(
        decision.reasons[1],
        Reason::Held {
            missing: Missing::Units { demand: Unit::Percent, capacity: Unit::Cores },
            so_far: Seconds(0),
            until: Seconds(600),
        }
    );
}

#[test]
fn a_per_pod_mean_is_not_taken_for_the_total() {
    // Seventeen pods at seven of ten each: the mean per pod is what the autoscaler keeps level.
    let decide_with = |recent: f64, desired: u32| {
        let workload = Workload::new(policy());
        let outlook = outlook(0, recent).with_recent(recent);
        let seen = Seen {
            now: at(0),
            minimum: &workload.minimum,
            max_replicas: Replicas(50),
            desired: Some(Replicas(desired)),
            paused: false,
            outlook: Ok(&outlook),
        };
        decide(&workload.policy, None, &seen)
    };
    let per_pod = decide_with(7.0, 17);
    assert_eq!((per_pod.floor, per_pod.recommended), (Replicas(2), None));
    assert!(
        per_pod.reasons[1].to_string().starts_with(
            "demand was at most 7.00/s, enough for 1 pod, but the autoscaler wants 17: \
             the query looks like a mean per pod: floor held"
        ),
        "{}",
        per_pod.reasons[1]
    );
    assert_eq!(decide_with(119.0, 17).recommended, Some(Replicas(12)));
    // A quiet workload at its minimum proves nothing.
    assert_eq!(decide_with(7.0, 2).recommended, Some(Replicas(2)));
}

#[test]
fn reasons_are_data() {
    let decision = Workload::new(policy()).demand(95.0);
    let found = serde_json::to_value(&decision.reasons).unwrap();
    assert_eq!(found[1]["reason"], "forecast");
    assert_eq!(found[1]["needs"], 10);
    assert_eq!(found[2], serde_json::json!({"reason": "rate-limited", "wanted": 10, "allowed": 6}));
}
