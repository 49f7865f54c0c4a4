//! The HorizontalPodAutoscaler's own algorithm, as its documentation describes it, for a metric with a target per pod.
//!
//! Every 15 s: `ceil(pods × ratio)` beyond a tolerance of a tenth, pods that are not ready counted as idle when more are
//! wanted; down only to the most that was wanted in five minutes; up by the double or by four pods in 15 s, whichever is
//! more. The metric comes without delay, which no cluster's does. Pure.

use crate::units::{Capacity, Demand, Replicas};
use std::collections::VecDeque;

/// Interval between two evaluations, in seconds.
pub const PERIOD: u64 = 15;

pub(super) const TOLERANCE: f64 = 0.1;
pub(super) const STABILISATION: u64 = 300;
pub(super) const FAST_PODS: u32 = 4;

/// An autoscaler with the defaults of its API.
#[derive(Clone, Debug)]
pub struct Hpa {
    target: Capacity,
    max: Replicas,
    /// Desired pods by time, within the stabilisation: each later one is lower, and the first is the most.
    wanted: VecDeque<(u64, Replicas)>,
    /// Changes of the number of pods within the period, with their times.
    scaled: VecDeque<(u64, i64)>,
    desired: Option<Replicas>,
}

/// Pods that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Number of pods that serve.
    pub ready: Replicas,
    /// Number of pods that are starting.
    pub starting: Replicas,
}

impl Running {
    /// Number of all pods.
    pub fn all(self) -> Replicas {
        self.ready.plus(self.starting)
    }
}

impl Hpa {
    /// An autoscaler that keeps the demand per pod at `target`.
    pub fn new(target: Capacity, max: Replicas) -> Hpa {
        Hpa { target, max, wanted: VecDeque::new(), scaled: VecDeque::new(), desired: None }
    }

    /// Returns the number of pods that the metric alone asked for the last time.
    pub fn desired(&self) -> Option<Replicas> {
        self.desired
    }

    /// Looks at second `now`, and says how many pods there should be. Without a demand, or a pod to measure it on,
    /// nothing is known and only the limits count.
    pub fn sync(&mut self, now: u64, min: Replicas, demand: Option<Demand>, running: Running) -> Replicas {
        let current = running.all();
        while self.wanted.front().is_some_and(|(when, _)| now - when > STABILISATION) {
            self.wanted.pop_front();
        }
        while self.scaled.front().is_some_and(|(when, _)| now - when >= PERIOD) {
            self.scaled.pop_front();
        }
        // Outside its limits it moves at once, and looks at no metric.
        let next = if current > self.max {
            self.max
        } else if current < min {
            min
        } else {
            match demand.and_then(|demand| self.wants(demand, running)) {
                None => current,
                Some(wanted) => {
                    self.desired = Some(wanted);
                    while self.wanted.back().is_some_and(|(_, less)| *less <= wanted) {
                        self.wanted.pop_back();
                    }
                    self.wanted.push_back((now, wanted));
                    self.limited(self.stable(wanted, current), current, min)
                }
            }
        };
        if next != current {
            self.scaled.push_back((now, i64::from(next.0) - i64::from(current.0)));
        }
        next
    }

    /// Returns the number of pods that the metric asks for.
    fn wants(&self, demand: Demand, running: Running) -> Option<Replicas> {
        if demand.unit() != self.target.unit() || running.ready == Replicas(0) {
            return None;
        }
        let one = self.target.of_one().value();
        let ratio = |pods: Replicas| demand.value() / (one * f64::from(pods.0));
        let near = |ratio: f64| (ratio - 1.0).abs() <= TOLERANCE;
        let current = running.all();
        let measured = ratio(running.ready);
        if measured > 1.0 && running.starting > Replicas(0) {
            // Those that are starting count as if they served nothing yet.
            let with_all = ratio(current);
            if with_all <= 1.0 || near(with_all) {
                return Some(current);
            }
        } else if near(measured) {
            return Some(current);
        }
        // `ceil(pods × ratio)`, whichever pods the ratio is of.
        self.target.replicas_for(demand)
    }

    /// Up at once, down to the most that was wanted lately.
    fn stable(&self, wanted: Replicas, current: Replicas) -> Replicas {
        let most = self.wanted.front().map_or(wanted, |(_, most)| *most);
        if wanted > current { wanted } else { most.min(current) }
    }

    /// No faster than the API's default policies, and within the limits.
    fn limited(&self, wanted: Replicas, current: Replicas, min: Replicas) -> Replicas {
        let moved: i64 = self.scaled.iter().map(|(_, by)| by).sum();
        let begun = u32::try_from((i64::from(current.0) - moved).max(0)).unwrap_or(u32::MAX);
        let most = Replicas(begun.saturating_mul(2).max(begun.saturating_add(FAST_PODS))).max(current);
        wanted.min(most).min(self.max).max(min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Unit;

    fn hpa() -> Hpa {
        Hpa::new("10".parse().unwrap(), Replicas(100))
    }

    fn running(ready: u32, starting: u32) -> Running {
        Running { ready: Replicas(ready), starting: Replicas(starting) }
    }

    #[track_caller]
    fn check(hpa: &mut Hpa, now: u64, demand: f64, ready: u32, starting: u32, expected: u32) {
        let demand = Demand::new(demand, Unit::Count);
        let found = hpa.sync(now, Replicas(2), demand, running(ready, starting));
        assert_eq!(found, Replicas(expected));
    }

    #[test]
    fn the_documented_ratio_decides() {
        // The documentation's own example: a metric at double its target doubles the pods, at half it halves them.
        check(&mut hpa(), 0, 100.0, 5, 0, 10);
        check(&mut hpa(), 0, 50.0, 10, 0, 5);
        check(&mut hpa(), 0, 56.0, 5, 0, 6);
    }

    #[test]
    fn a_tenth_around_the_target_is_near_enough() {
        check(&mut hpa(), 0, 54.9, 5, 0, 5);
        check(&mut hpa(), 0, 45.1, 5, 0, 5);
        check(&mut hpa(), 0, 55.1, 5, 0, 6);
    }

    #[test]
    fn pods_that_start_are_not_asked_for_twice() {
        check(&mut hpa(), 0, 100.0, 5, 5, 10);
        check(&mut hpa(), 0, 150.0, 5, 5, 15);
        check(&mut hpa(), 0, 105.0, 5, 5, 10);
    }

    #[test]
    fn up_is_the_double_or_four_pods_in_a_period() {
        check(&mut hpa(), 0, 900.0, 3, 0, 7);
        check(&mut hpa(), 0, 900.0, 10, 0, 20);
        let mut twice = hpa();
        check(&mut twice, 0, 900.0, 10, 0, 20);
        // Within the same period nothing more, in the next the double again.
        check(&mut twice, 10, 900.0, 10, 10, 20);
        check(&mut twice, 15, 900.0, 10, 10, 40);
    }

    #[test]
    fn down_is_to_the_most_that_was_wanted_in_five_minutes() {
        let mut hpa = hpa();
        check(&mut hpa, 0, 100.0, 10, 0, 10);
        check(&mut hpa, 15, 30.0, 10, 0, 10);
        check(&mut hpa, 200, 60.0, 10, 0, 10);
        check(&mut hpa, 300, 30.0, 10, 0, 10);
        check(&mut hpa, 301, 30.0, 10, 0, 6);
        check(&mut hpa, 501, 30.0, 6, 0, 3);
    }

    #[test]
    fn limits_come_before_the_metric() {
        check(&mut hpa(), 0, 0.0, 1, 0, 2);
        check(&mut hpa(), 0, 0.0, 10, 0, 2);
        check(&mut hpa(), 0, 9e9, 90, 0, 100);
        let mut raised = hpa();
        assert_eq!(raised.sync(0, Replicas(50), Demand::new(20.0, Unit::Count), running(2, 0)), Replicas(50));
        assert_eq!(raised.sync(15, Replicas(50), Demand::new(20.0, Unit::Count), running(50, 0)), Replicas(50));
    }

    #[test]
    fn nothing_known_changes_nothing() {
        let mut hpa = hpa();
        assert_eq!(hpa.sync(0, Replicas(2), None, running(7, 0)), Replicas(7));
        let percent = Demand::new(900.0, Unit::Percent);
        assert_eq!(hpa.sync(15, Replicas(2), percent, running(7, 0)), Replicas(7));
        assert_eq!(hpa.sync(30, Replicas(2), Demand::new(900.0, Unit::Count), running(0, 7)), Replicas(7));
        assert_eq!(hpa.desired(), None);
    }
}
