//! What is counted, and how Prometheus reads it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::supervisor::{Status, Supervisor};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    path: String,
    status: u16,
}

/// How a forecast ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// With a forecast.
    #[allow(non_camel_case_types, reason = "the label's value is the variant's name")]
    done,
    /// Without one.
    #[allow(non_camel_case_types, reason = "the label's value is the variant's name")]
    failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    outcome: Outcome,
}

/// All metrics of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    forecasts: Family<Ended, Counter>,
    seconds: Histogram,
    ready: Gauge,
    starts: Counter,
    failures: Counter,
}

impl Metrics {
    /// Metrics that have seen nothing. `revision` is the source's, as the environment gave it at run time.
    pub fn new(revision: Option<&str>) -> Metrics {
        let mut registry = Registry::with_prefix("autoscaler");
        let build = Info::new(vec![
            ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("revision".to_owned(), revision.unwrap_or_default().to_owned()),
        ]);
        registry.register("build", "What is running", build);
        let requests = Family::default();
        registry.register("http_requests", "Requests answered, by path and status", requests.clone());
        let forecasts = Family::default();
        registry.register("forecasts", "Forecasts asked of the worker, by outcome", forecasts.clone());
        let seconds = Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]);
        registry.register_with_unit(
            "forecast",
            "Time from the question to the forecast",
            Unit::Seconds,
            seconds.clone(),
        );
        let ready = Gauge::default();
        let (starts, failures) = (Counter::default(), Counter::default());
        registry.register("worker_ready", "1 while a worker has said hello", ready.clone());
        registry.register("worker_starts", "Workers started since this process began", starts.clone());
        registry.register("worker_failures", "Workers lost since this process began", failures.clone());
        Metrics { registry, requests, forecasts, seconds, ready, starts, failures }
    }

    /// Counts an answered request. `path` is one of the known ones, never what a client made up.
    pub fn answered(&self, path: &'static str, status: u16) {
        self.requests.get_or_create(&Request { path: path.to_owned(), status }).inc();
    }

    /// Counts a forecast.
    pub fn forecast(&self, outcome: Outcome, took: Duration) {
        self.forecasts.get_or_create(&Ended { outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Everything as text.
    pub fn text(&self, supervisor: &Supervisor) -> Result<String, std::fmt::Error> {
        let counts = supervisor.counts();
        self.ready.set(i64::from(matches!(supervisor.status(), Status::Ready(_))));
        // The supervisor counts; these only carry it over.
        self.starts.inner().store(counts.starts, Ordering::Relaxed);
        self.failures.inner().store(counts.failures, Ordering::Relaxed);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
