//! Metrics, and their text for Prometheus.
//!
//! Every label is one of a known set, or a scaler that exists: what clients make up never becomes one.

use crate::state::{Health, ScalerName, State};
use autoscaler_floor::decide::{Decision, Reason};
use autoscaler_floor::units::Replicas;
use autoscaler_forecast::supervisor::{Status, Supervisor};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::Ordering;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    path: String,
    status: u16,
}

/// Result of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    #[allow(non_camel_case_types, reason = "the label's value is the variant's name")]
    done,
    #[allow(non_camel_case_types, reason = "the label's value is the variant's name")]
    failed,
}

impl Outcome {
    pub fn of<T, E>(result: &Result<T, E>) -> Outcome {
        if result.is_ok() { Outcome::done } else { Outcome::failed }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Scaler {
    namespace: String,
    name: String,
}

impl From<&ScalerName> for Scaler {
    fn from(name: &ScalerName) -> Scaler {
        Scaler { namespace: name.namespace.clone(), name: name.name.clone() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Way {
    #[allow(non_camel_case_types, reason = "the label's value is the variant's name")]
    up,
    #[allow(non_camel_case_types, reason = "the label's value is the variant's name")]
    down,
}

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    forecasts: Family<Ended, Counter>,
    seconds: Histogram,
    ready: Gauge,
    starts: Counter,
    failures: Counter,
    operator: Option<Operator>,
}

/// Metrics of an operator.
#[derive(Debug)]
struct Operator {
    reconciles: Family<Ended, Counter>,
    reconcile_seconds: Histogram,
    queries: Family<Ended, Counter>,
    query_seconds: Histogram,
    fallbacks: Counter,
    reasons: Family<Why, Counter>,
    changes: Family<Direction, Counter>,
    floor: Family<Scaler, Gauge>,
    original: Family<Scaler, Gauge>,
    recommended: Family<Scaler, Gauge>,
    leader: Gauge,
    state_kept: Gauge,
    state_failures: Counter,
}

const BUCKETS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

impl Metrics {
    /// Metrics that have seen nothing. `revision` is the source's, as the environment gave it at run time.
    pub fn new(revision: Option<&str>) -> Metrics {
        let mut registry = Registry::with_prefix("autoscaler");
        let build = Info::new(vec![
            ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("revision".to_owned(), revision.unwrap_or_default().to_owned()),
        ]);
        registry.register("build", "Version of the running program", build);
        let requests = Family::default();
        registry.register("http_requests", "Requests answered, by path and status", requests.clone());
        let forecasts = Family::default();
        registry.register("forecasts", "Forecasts requested from the worker, by outcome", forecasts.clone());
        let seconds = Histogram::new(BUCKETS);
        registry.register_with_unit(
            "forecast",
            "Time from the request to the forecast",
            Unit::Seconds,
            seconds.clone(),
        );
        let ready = Gauge::default();
        let (starts, failures) = (Counter::default(), Counter::default());
        registry.register("worker_ready", "1 while a worker is ready", ready.clone());
        registry.register("worker_starts", "Workers started since this process began", starts.clone());
        registry.register("worker_failures", "Workers lost since this process began", failures.clone());
        Metrics { registry, requests, forecasts, seconds, ready, starts, failures, operator: None }
    }

    /// Those, and what an operator counts.
    pub fn of_operator(revision: Option<&str>) -> Metrics {
        let mut metrics = Metrics::new(revision);
        let operator = Operator {
            reconciles: Family::default(),
            reconcile_seconds: Histogram::new(BUCKETS),
            queries: Family::default(),
            query_seconds: Histogram::new(BUCKETS),
            fallbacks: Counter::default(),
            reasons: Family::default(),
            changes: Family::default(),
            floor: Family::default(),
            original: Family::default(),
            recommended: Family::default(),
            leader: Gauge::default(),
            state_kept: Gauge::default(),
            state_failures: Counter::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("reconciles", "Reconciled scalers, by outcome", operator.reconciles.clone());
        registry.register_with_unit(
            "reconcile",
            "Time to reconcile one scaler",
            Unit::Seconds,
            operator.reconcile_seconds.clone(),
        );
        registry.register("prometheus_queries", "Queries to Prometheus, by outcome", operator.queries.clone());
        registry.register_with_unit(
            "prometheus_query",
            "Time from the query to its samples",
            Unit::Seconds,
            operator.query_seconds.clone(),
        );
        registry.register(
            "fallback_forecasts",
            "Forecasts by the seasonal naive in Rust in place of the worker",
            operator.fallbacks.clone(),
        );
        registry.register(
            "decision_reasons",
            "Decisions by reason; a decision counts once for each of its reasons",
            operator.reasons.clone(),
        );
        registry.register("floor_changes", "Minimums that were written, by direction", operator.changes.clone());
        registry.register("floor_replicas", "The floor after the last decision", operator.floor.clone());
        registry.register("original_replicas", "The minimum that the owner wants", operator.original.clone());
        registry.register(
            "recommended_replicas",
            "Pods that the last forecast asks for; absent without a forecast",
            operator.recommended.clone(),
        );
        registry.register("leader", "1 while this process decides", operator.leader.clone());
        registry.register("state_kept", "1 while writes to the state succeed", operator.state_kept.clone());
        registry.register("state_write_failures", "Writes to the state that failed", operator.state_failures.clone());
        metrics.operator = Some(operator);
        metrics
    }

    /// Counts an answered request. `path` is one of the known ones, never one from a client.
    pub fn answered(&self, path: &'static str, status: u16) {
        self.requests.get_or_create(&Request { path: path.to_owned(), status }).inc();
    }

    /// Counts a forecast that the worker was asked for.
    pub fn forecast(&self, outcome: Outcome, took: Duration) {
        self.forecasts.get_or_create(&Ended { outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts a forecast that was made without the worker.
    pub fn fallback(&self) {
        if let Some(operator) = &self.operator {
            operator.fallbacks.inc();
        }
    }

    /// Counts a reconcile of one scaler.
    pub fn reconciled(&self, outcome: Outcome, took: Duration) {
        if let Some(operator) = &self.operator {
            operator.reconciles.get_or_create(&Ended { outcome }).inc();
            operator.reconcile_seconds.observe(took.as_secs_f64());
        }
    }

    /// Counts a query to Prometheus.
    pub fn queried(&self, outcome: Outcome, took: Duration) {
        if let Some(operator) = &self.operator {
            operator.queries.get_or_create(&Ended { outcome }).inc();
            operator.query_seconds.observe(took.as_secs_f64());
        }
    }

    /// Counts a decision, and shows the minimum as it is in the cluster now.
    pub fn decided(&self, name: &ScalerName, original: Replicas, field: Replicas, decision: &Decision) {
        let Some(operator) = &self.operator else { return };
        for reason in decision.reasons.iter().map(Reason::name) {
            operator.reasons.get_or_create(&Why { reason }).inc();
        }
        let scaler = Scaler::from(name);
        operator.floor.get_or_create(&scaler).set(field.0.into());
        operator.original.get_or_create(&scaler).set(original.0.into());
        match decision.recommended {
            Some(pods) => _ = operator.recommended.get_or_create(&scaler).set(pods.0.into()),
            None => _ = operator.recommended.remove(&scaler),
        }
    }

    /// Counts a minimum that was written.
    pub fn changed(&self, from: Replicas, to: Replicas) {
        if let Some(operator) = &self.operator {
            let direction = if to > from { Way::up } else { Way::down };
            operator.changes.get_or_create(&Direction { direction }).inc();
        }
    }

    /// Forgets a scaler that is gone.
    pub fn forget(&self, name: &ScalerName) {
        if let Some(operator) = &self.operator {
            let scaler = Scaler::from(name);
            for family in [&operator.floor, &operator.original, &operator.recommended] {
                family.remove(&scaler);
            }
        }
    }

    /// Records whether this process leads.
    pub fn leads(&self, leads: bool) {
        if let Some(operator) = &self.operator {
            operator.leader.set(leads.into());
        }
    }

    /// Returns all metrics as text.
    pub fn text(&self, supervisor: &Supervisor, state: Option<&State>) -> Result<String, std::fmt::Error> {
        let counts = supervisor.counts();
        self.ready.set(i64::from(matches!(supervisor.status(), Status::Ready(_))));
        // The supervisor counts; these only carry it over.
        self.starts.inner().store(counts.starts, Ordering::Relaxed);
        self.failures.inner().store(counts.failures, Ordering::Relaxed);
        if let (Some(operator), Some(state)) = (&self.operator, state) {
            operator.state_kept.set(i64::from(!matches!(state.health(), Health::Unwritten(_))));
            operator.state_failures.inner().store(state.failures(), Ordering::Relaxed);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
