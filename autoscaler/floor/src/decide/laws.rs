//! The laws of a decision, over made-up workloads, memories and forecasts.

use super::tests::{MINUTE, at, nothing, policy};
use super::*;
use crate::units::Unit;
use proptest::collection::vec;
use proptest::prelude::*;

/// One step of a story.
#[derive(Clone, Debug)]
enum Happens {
    Forecast {
        upper: Vec<f64>,
        skilled: bool,
    },
    Nothing,
    /// Someone else sets the minimum.
    Set(u32),
    Restart,
    /// Time passes, or goes back.
    Jump(i64),
    Maximum(u32),
}

fn values() -> impl Strategy<Value = f64> {
    prop_oneof![
        12 => 0.0..400.0_f64,
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(1e90),
        1 => Just(-5.0),
    ]
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        8 => (vec(values(), 0..8), any::<bool>()).prop_map(|(upper, skilled)| Happens::Forecast { upper, skilled }),
        4 => (0.0..400.0_f64).prop_map(|demand| Happens::Forecast { upper: vec![demand; 6], skilled: true }),
        3 => Just(Happens::Nothing),
        1 => (0_u32..30).prop_map(Happens::Set),
        1 => Just(Happens::Restart),
        1 => (-100_000..100_000_i64).prop_map(Happens::Jump),
        1 => (1_u32..60).prop_map(Happens::Maximum),
    ]
}

fn policies() -> impl Strategy<Value = Policy> {
    (any::<bool>(), 1_u32..400, 0_u32..40, 0_u32..12, 0_u64..900, 0_u64..900).prop_map(
        |(enforce, lead, max_floor, max_step_up, delay, stale)| Policy {
            mode: if enforce { Mode::Enforce } else { Mode::Recommend },
            lead_time: Span::from_seconds(lead).unwrap(),
            max_floor: Replicas(max_floor),
            max_step_up: Replicas(max_step_up),
            scale_down_delay: Seconds(delay),
            stale_after: Seconds(stale),
            ..policy()
        },
    )
}

/// One decision of a story, with what it was made from.
struct SimulatedDecision {
    second: i64,
    before: Minimum,
    memory: Option<Memory>,
    cap: Replicas,
    forecast: Option<Outlook>,
    decision: Decision,
}

fn decisions_of(policy: &Policy, original: u32, story: &[(Happens, i64)]) -> Vec<SimulatedDecision> {
    let mut minimum = Minimum::of_owner(Replicas(original));
    let (mut memory, mut second, mut maximum) = (None, 0, Replicas(50));
    let mut step = Vec::new();
    for (happens, seconds) in story {
        let mut forecast = None;
        match happens {
            Happens::Forecast { upper, skilled } => {
                forecast = Some(Outlook::new(at(second), MINUTE, Unit::PerSecond, upper, *skilled));
            }
            Happens::Nothing => {}
            Happens::Set(floor) => minimum = Minimum::of_owner(Replicas(*floor)),
            Happens::Restart => memory = None,
            Happens::Jump(by) => second += by,
            Happens::Maximum(most) => maximum = Replicas(*most),
        }
        let seen = Seen {
            now: at(second),
            minimum: &minimum,
            max_replicas: maximum,
            desired: None,
            paused: false,
            outlook: forecast.as_ref().ok_or_else(nothing),
        };
        let decision = decide(policy, memory.as_ref(), &seen);
        step.push(SimulatedDecision {
            second,
            before: minimum.clone(),
            memory: memory.replace(decision.memory.clone()),
            cap: policy.max_floor.min(maximum),
            forecast,
            decision: decision.clone(),
        });
        if let Some(change) = decision.change {
            let patch = minimum.patch(change.to(), at(second));
            minimum = Minimum::read(patch.field.map(|field| field.0), patch.annotation.as_deref()).unwrap();
        }
        second += seconds;
    }
    step
}

fn stories() -> impl Strategy<Value = (Policy, u32, Vec<(Happens, i64)>)> {
    (policies(), 0_u32..25, vec((happens(), 0..150_i64), 1..60))
}

proptest! {
    #[test]
    fn the_floor_is_never_below_the_original_nor_above_the_cap((policy, original, story) in stories()) {
        for step in decisions_of(&policy, original, &story) {
            let original = step.before.original();
            prop_assert!(step.decision.floor >= original);
            prop_assert!(step.decision.floor <= step.cap.max(original));
            if let Some(recommended) = step.decision.recommended {
                prop_assert!(recommended >= original && recommended <= step.cap.max(original));
            }
        }
    }

    #[test]
    fn recommend_mode_never_writes_anything((policy, original, story) in stories()) {
        let policy = Policy { mode: Mode::Recommend, ..policy };
        for step in decisions_of(&policy, original, &story) {
            prop_assert_eq!(step.decision.change, None);
        }
    }

    #[test]
    fn a_missing_forecast_never_raises((policy, original, story) in stories()) {
        for step in decisions_of(&policy, original, &story) {
            if step.forecast.is_none() || step.decision.recommended.is_none() {
                let virtually = step.memory.as_ref().filter(|_| policy.mode == Mode::Recommend);
                let before = virtually.map_or(step.before.floor(), Memory::floor).max(step.before.original());
                prop_assert!(step.decision.floor <= before);
            }
        }
    }

    #[test]
    fn a_forecast_without_skill_never_raises((policy, original, story) in stories()) {
        let policy = Policy { mode: Mode::Enforce, ..policy };
        let unskilled = |(happens, seconds): &(Happens, i64)| match happens {
            Happens::Forecast { upper, .. } => (Happens::Forecast { upper: upper.clone(), skilled: false }, *seconds),
            other => (other.clone(), *seconds),
        };
        let story: Vec<_> = story.iter().map(unskilled).collect();
        for step in decisions_of(&policy, original, &story) {
            prop_assert!(step.decision.floor <= step.before.floor());
        }
    }

    #[test]
    fn the_floor_rises_by_no_more_than_the_limit_within_a_step((policy, original, story) in stories()) {
        // Without a jump, a restart or another hand, so that time and floor are what the decisions saw.
        let policy = Policy { mode: Mode::Enforce, ..policy };
        let steady = |(happens, _): &&(Happens, i64)| {
            !matches!(happens, Happens::Jump(_) | Happens::Restart | Happens::Set(_))
        };
        let story: Vec<_> = story.iter().filter(steady).cloned().collect();
        let step = decisions_of(&policy, original, &story);
        for (index, last) in step.iter().enumerate() {
            let within = step[..=index].iter().filter(|each| last.second - each.second < 60);
            let risen: u32 = within.map(|each| each.decision.floor.less(each.before.floor()).0).sum();
            prop_assert!(risen <= policy.max_step_up.0, "{} within a step", risen);
        }
    }

    #[test]
    fn more_demand_is_never_a_lower_floor(
        (policy, original, story) in stories(),
        upper in vec(0.0..400.0_f64, 10),
        more in vec(0.0..200.0_f64, 10),
        skilled: bool,
    ) {
        let last = decisions_of(&policy, original, &story);
        let Some(last) = last.last() else { return Ok(()) };
        let higher: Vec<f64> = upper.iter().zip(&more).map(|(upper, more)| upper + more).collect();
        let decide_with = |upper: &[f64]| {
            let outlook = Outlook::new(at(last.second), MINUTE, Unit::PerSecond, upper, skilled);
            let seen = Seen {
                now: at(last.second),
                minimum: &last.before,
                max_replicas: Replicas(50),
                desired: None,
                paused: false,
                outlook: Ok(&outlook),
            };
            decide(&policy, last.memory.as_ref(), &seen)
        };
        let (less, more) = (decide_with(&upper), decide_with(&higher));
        prop_assert!(less.floor <= more.floor);
        prop_assert!(less.recommended <= more.recommended);
    }

    #[test]
    fn a_constant_demand_never_makes_the_floor_flap(
        (policy, original, story) in stories(),
        demand in 0.0..400.0_f64,
        seconds in 1..150_i64,
    ) {
        let constant = vec![(Happens::Forecast { upper: vec![demand; 10], skilled: true }, seconds); 60];
        let whole: Vec<_> = story.iter().cloned().chain(constant).collect();
        let step = decisions_of(&policy, original, &whole);
        let floors: Vec<Replicas> = step[story.len()..].iter().map(|each| each.decision.floor).collect();
        let turns = |a: &Replicas, b: &Replicas| a.cmp(b);
        let moves: Vec<_> = floors.windows(2).map(|pair| turns(&pair[0], &pair[1])).filter(|way| way.is_ne()).collect();
        // Up to what was wanted before it, as fast as is allowed, then down once; never up after that.
        let downs = moves.iter().skip_while(|way| way.is_lt());
        prop_assert!(downs.clone().all(|way| way.is_gt()), "{:?}", floors);
    }

    #[test]
    fn a_floor_always_comes_back_to_the_original_without_forecasts((policy, original, story) in stories()) {
        let policy = Policy { mode: Mode::Enforce, ..policy };
        let silence = vec![(Happens::Nothing, 60); 60];
        let whole: Vec<_> = story.into_iter().chain(silence).collect();
        let step = decisions_of(&policy, original, &whole);
        let last = &step[step.len() - 1];
        prop_assert_eq!(last.decision.floor, last.before.original());
    }

    #[test]
    fn a_stored_memory_decides_the_same((policy, original, story) in stories()) {
        for step in decisions_of(&policy, original, &story) {
            let stored = serde_json::to_string(&step.decision.memory).unwrap();
            let read: Memory = serde_json::from_str(&stored).unwrap();
            prop_assert_eq!(read, step.decision.memory);
        }
    }
}
