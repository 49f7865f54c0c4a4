//! An autoscaler and its pods in a simulated cluster, and what they cost. Pure.

use crate::hpa::{self, Hpa, Running};
use crate::units::{Capacity, Demand, Replicas, Seconds};
use serde::Serialize;
use std::collections::VecDeque;

/// A workload and its autoscaler.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// The demand at which a pod is full: beyond it, demand is not served.
    pub limit: Capacity,
    /// Seconds until a new pod is ready.
    pub start_delay: Seconds,
    /// The autoscaler's minimum, which its owner chose.
    pub min: Replicas,
    /// Maximum of the autoscaler.
    pub max: Replicas,
}

/// Shortage and cost of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Seconds in which the ready pods could not serve the demand.
    pub under_provisioned_seconds: u64,
    /// Pods that were missing, times the seconds for which they were.
    pub short_pod_seconds: f64,
    /// The share of the demand that was not served.
    pub unserved: f64,
    /// Seconds of pods, ready or not.
    pub pod_seconds: u64,
    /// The most pods at a time.
    pub most_pods: Replicas,
    /// Number of changes of the number of pods.
    pub scalings: u64,
}

/// One autoscaler and its pods.
pub(super) struct Pods<'a> {
    workload: &'a Workload,
    hpa: Hpa,
    ready: Replicas,
    /// Starting pods: the time at which they are ready, and their number, the oldest first.
    starting: VecDeque<(u64, Replicas)>,
    cost: Cost,
    unserved: f64,
    total_demand: f64,
    /// The fewest ready pods in this step.
    pub(super) fewest: Replicas,
    /// Seconds short of pods in this step.
    pub(super) short: u64,
}

impl<'a> Pods<'a> {
    /// Number of ready pods under an autoscaler that keeps the demand per pod at `target`.
    pub(super) fn new(workload: &'a Workload, target: Capacity, ready: Replicas) -> Pods<'a> {
        Pods {
            workload,
            hpa: Hpa::new(target, workload.max),
            ready,
            starting: VecDeque::new(),
            cost: Cost::default(),
            unserved: 0.0,
            total_demand: 0.0,
            fewest: ready,
            short: 0,
        }
    }

    pub(super) fn begin_step(&mut self) {
        self.fewest = self.ready;
        self.short = 0;
    }

    pub(super) fn running(&self) -> Running {
        let starting = self.starting.iter().fold(Replicas(0), |sum, (_, pods)| sum.plus(*pods));
        Running { ready: self.ready, starting }
    }

    /// Returns the number of pods that the metric alone asked for the last time.
    pub(super) fn desired(&self) -> Option<Replicas> {
        self.hpa.desired()
    }

    /// Lets `seconds` pass from `clock` on, during which the minimum and the demand stay as they are.
    pub(super) fn pass(&mut self, clock: u64, seconds: u64, min: Replicas, demand: Option<Demand>) {
        while let Some((_, pods)) = self.starting.front().copied().filter(|(when, _)| *when <= clock) {
            self.ready = self.ready.plus(pods);
            self.starting.pop_front();
        }
        if clock.is_multiple_of(hpa::PERIOD) {
            let running = self.running();
            let wanted = self.hpa.sync(clock, min, demand, running);
            self.scale(wanted, clock + self.workload.start_delay.0);
            if wanted != running.all() {
                self.cost.scalings += 1;
            }
        }
        let all = self.running().all();
        self.cost.pod_seconds += u64::from(all.0) * seconds;
        self.cost.most_pods = self.cost.most_pods.max(all);
        self.fewest = self.fewest.min(self.ready);
        if let Some(demand) = demand {
            let one = self.workload.limit.of_one().value();
            let beyond = demand.value() - one * f64::from(self.ready.0);
            self.total_demand += demand.value() * seconds as f64;
            if beyond > 0.0 {
                self.short += seconds;
                self.cost.under_provisioned_seconds += seconds;
                self.cost.short_pod_seconds += beyond / one * seconds as f64;
                self.unserved += beyond * seconds as f64;
            }
        }
    }

    /// New pods start; of too many, the youngest go first.
    fn scale(&mut self, wanted: Replicas, ready_at: u64) {
        let all = self.running().all();
        if wanted > all {
            self.starting.push_back((ready_at, wanted.less(all)));
        }
        let mut surplus = all.less(wanted);
        while surplus > Replicas(0) {
            match self.starting.pop_back() {
                Some((when, pods)) => {
                    let gone = pods.min(surplus);
                    surplus = surplus.less(gone);
                    if pods > gone {
                        self.starting.push_back((when, pods.less(gone)));
                    }
                }
                None => {
                    self.ready = self.ready.less(surplus);
                    surplus = Replicas(0);
                }
            }
        }
    }

    /// Returns the shortage and cost so far.
    pub(super) fn cost(&self) -> Cost {
        let unserved = if self.total_demand > 0.0 { self.unserved / self.total_demand } else { 0.0 };
        Cost { unserved, ..self.cost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_pods_the_youngest_go_first() {
        let workload =
            Workload { limit: "100".parse().unwrap(), start_delay: Seconds(180), min: Replicas(2), max: Replicas(100) };
        let mut pods = Pods::new(&workload, "70".parse().unwrap(), Replicas(4));
        pods.scale(Replicas(9), 100);
        pods.scale(Replicas(7), 0);
        assert_eq!(pods.running(), Running { ready: Replicas(4), starting: Replicas(3) });
        pods.scale(Replicas(3), 0);
        assert_eq!(pods.running(), Running { ready: Replicas(3), starting: Replicas(0) });
    }
}
