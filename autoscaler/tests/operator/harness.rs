//! One operator's world in a test: a cluster, a Prometheus, a clock that is turned by hand, and the real reconcile between.

use crate::cluster::{Cluster, HPAS, SCALERS};
use crate::prometheus::{Load, Mock};
use autoscaler::cluster::act::{Actor, Fence};
use autoscaler::cluster::controller::{self, Clock, Context, Identity};
use autoscaler::cluster::crd::PredictiveScaler;
use autoscaler::cluster::demand::{Deadlines, Demands};
use autoscaler::cluster::prometheus::{Prometheus, PrometheusSettings};
use autoscaler::forecast::supervisor::{Restarts, Supervisor};
use autoscaler::forecast::worker::Launch;
use autoscaler::show::metrics::Metrics;
use autoscaler::show::state::{Retention, State};
use jiff::Timestamp;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, store::Writer};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

pub(crate) const NAMESPACE: &str = "shop";
pub(crate) const STEP: i64 = 300;
pub(crate) const DAY: i64 = 86_400;
/// Midnight of a Tuesday.
pub(crate) const MIDNIGHT: i64 = 1_769_472_000;

/// A day's demand per second: a night of 100, from eight to eight 800, with a little noise that is always the same.
pub(crate) fn daily() -> Load {
    Arc::new(|_, second| {
        let noise = (second / STEP).wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64) as u64 % 1_000;
        let hour = second.rem_euclid(DAY) / 3_600;
        let level = if (8..20).contains(&hour) { 800.0 } else { 100.0 };
        Some(level * (1.0 + (noise as f64 / 1_000.0 - 0.5) / 20.0))
    })
}

/// Returns a spec: ten pods a thousand per second, fifteen minutes ahead.
pub(crate) fn spec() -> Value {
    json!({
        "hpaRef": {"name": "web"}, "query": "sum(rate(http_requests_total[2m]))", "perPodCapacity": "100/s",
        "step": "5m", "season": "24h", "leadTime": "15m", "mode": "Enforce", "maxFloor": 40, "maxStepUp": 10,
        "scaleDownDelay": "10m", "staleAfter": "30m", "quantile": 0.9,
    })
}

pub(crate) fn with(changes: Value) -> Value {
    let mut spec = spec();
    for (name, value) in changes.as_object().unwrap() {
        spec[name] = value.clone();
    }
    spec
}

/// A supervisor without a Python, and so without a worker.
pub(crate) fn no_worker() -> Arc<Supervisor> {
    worker(PathBuf::from("/nonexistent/python"), PathBuf::from("/nonexistent"))
}

pub(crate) fn worker(python: PathBuf, home: PathBuf) -> Arc<Supervisor> {
    let launch = Launch { python, home, hello_within: Duration::from_secs(60) };
    Arc::new(Supervisor::new(launch, Restarts::default()))
}

/// Longer than a worker takes on any machine: what a test says of its forecast is not about time.
pub(crate) const UNHURRIED: Duration = Duration::from_secs(120);

/// Returns the demands of an operator, with the time limits of an answer of Prometheus and of the worker.
pub(crate) fn demands(
    prometheus: &Mock,
    supervisor: Arc<Supervisor>,
    within: Duration,
    worker_within: Duration,
) -> Demands {
    let settings =
        PrometheusSettings { url: prometheus.url().parse().unwrap(), token_file: None, at_a_time: 4, within };
    Demands::new(
        Prometheus::new(settings).unwrap(),
        State::in_memory(Retention::default()),
        supervisor,
        Arc::new(Metrics::of_operator(None)),
        Deadlines { queue_timeout: worker_within, timeout: worker_within },
    )
}

/// An operator without its loop: every reconcile is called by the test.
pub(crate) struct Harness {
    pub(crate) cluster: Cluster,
    pub(crate) prometheus: Mock,
    pub(crate) context: Arc<Context>,
    pub(crate) fence: Fence,
    second: Arc<AtomicI64>,
    writer: Writer<PredictiveScaler>,
}

impl Harness {
    /// The usual world at a midnight, with an autoscaler `web` of two to fifty pods whose minimum nobody owns.
    pub(crate) async fn new() -> Harness {
        Harness::of(daily(), no_worker()).await
    }

    pub(crate) async fn of(load: Load, supervisor: Arc<Supervisor>) -> Harness {
        Harness::hurried(load, supervisor, UNHURRIED).await
    }

    /// The usual world, in which the worker has so long for a forecast.
    pub(crate) async fn hurried(load: Load, supervisor: Arc<Supervisor>, worker_within: Duration) -> Harness {
        let cluster = Cluster::new();
        cluster.create_hpa(NAMESPACE, "web", None, 50);
        let prometheus = Mock::start(load).await;
        let demands = demands(&prometheus, supervisor, Duration::from_secs(2), worker_within);
        Harness::again(cluster, prometheus, demands, MIDNIGHT).await
    }

    /// Starts a new process in the existing world: the memory of the previous one is gone.
    pub(crate) async fn restarted(self) -> Harness {
        let second = self.second.load(Ordering::SeqCst);
        let demands = demands(&self.prometheus, no_worker(), Duration::from_secs(2), UNHURRIED);
        Harness::again(self.cluster, self.prometheus, demands, second).await
    }

    /// A process of another installation in the same world.
    pub(crate) async fn of_installation(self, identity: Identity) -> Harness {
        let harness = self.restarted().await;
        let context = Arc::into_inner(harness.context).expect("nothing is reconciled now");
        Harness { context: Arc::new(context.of_operator(identity)), ..harness }
    }

    async fn again(cluster: Cluster, prometheus: Mock, demands: Demands, second: i64) -> Harness {
        let door = cluster.door().await;
        let client = door.client();
        let fence = Fence::default();
        fence.open(Instant::now() + Duration::from_secs(3_600));
        let (scalers, writer) = reflector::store();
        let second = Arc::new(AtomicI64::new(second));
        let hands = Arc::clone(&second);
        let clock: Clock =
            Arc::new(move || Timestamp::from_second(hands.load(Ordering::SeqCst)).unwrap_or(Timestamp::MAX));
        let context = Context::new(
            client.clone(),
            Actor::new(client.clone(), fence.clone()),
            demands,
            scalers,
            Recorder::new(client, Reporter { controller: "autoscaler.acme.dev".to_owned(), instance: None }),
            clock,
        );
        Harness { cluster, prometheus, context: Arc::new(context), fence, second, writer }
    }

    /// A scaler `web` with this spec.
    pub(crate) fn scaler(&mut self, spec: Value) {
        self.cluster.create_scaler(NAMESPACE, "web", spec);
    }

    pub(crate) fn now(&self) -> i64 {
        self.second.load(Ordering::SeqCst)
    }

    pub(crate) fn turn_to(&self, second: i64) {
        self.second.store(second, Ordering::SeqCst);
    }

    pub(crate) fn floor(&self) -> u64 {
        self.cluster.min(NAMESPACE, "web")
    }

    pub(crate) fn hpa(&self) -> Value {
        self.cluster.get(HPAS, NAMESPACE, "web").unwrap()
    }

    pub(crate) fn status(&self) -> Value {
        self.status_of("web")
    }

    pub(crate) fn status_of(&self, name: &str) -> Value {
        self.cluster.get(SCALERS, NAMESPACE, name).unwrap()["status"].clone()
    }

    /// A condition: its status, reason and message.
    pub(crate) fn condition(&self, kind: &str) -> (String, String, String) {
        let status = self.status();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default();
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    #[track_caller]
    pub(crate) fn says(&self, kind: &str, status: &str, reason: &str) {
        let (found, why, message) = self.condition(kind);
        assert_eq!((found.as_str(), why.as_str()), (status, reason), "{kind}: {message}");
    }

    /// Shows the scalers to the operator as its watch would.
    pub(crate) fn look(&mut self) {
        self.writer.apply_watcher_event(&Event::Init);
        for scaler in self.cluster.all(SCALERS) {
            let scaler: PredictiveScaler = serde_json::from_value(scaler).unwrap();
            self.writer.apply_watcher_event(&Event::InitApply(scaler));
        }
        self.writer.apply_watcher_event(&Event::InitDone);
    }

    /// Reconciles one scaler once, now.
    pub(crate) async fn reconcile(&mut self, name: &str) -> Result<(), String> {
        self.look();
        let Some(scaler) = self.cluster.get(SCALERS, NAMESPACE, name) else { return Ok(()) };
        let scaler: PredictiveScaler = serde_json::from_value(scaler).unwrap();
        let done = controller::reconcile(Arc::new(scaler), Arc::clone(&self.context)).await;
        done.map(|_| ()).map_err(|failed| failed.to_string())
    }

    /// Reconciles `web` now, and lets a step pass.
    pub(crate) async fn step(&mut self) {
        self.reconcile("web").await.unwrap();
        self.second.fetch_add(STEP, Ordering::SeqCst);
    }

    /// Steps until this second, and gives the floor after each.
    pub(crate) async fn until(&mut self, second: i64) -> Vec<(i64, u64)> {
        let mut floors = Vec::new();
        while self.now() < second {
            let now = self.now();
            self.step().await;
            floors.push((now, self.floor()));
        }
        floors
    }

    /// Steps from seven to nine: demand comes at eight, and no hour before says more.
    pub(crate) async fn morning(&mut self) {
        self.turn_to(MIDNIGHT + 7 * 3_600);
        self.until(MIDNIGHT + 9 * 3_600).await;
    }

    /// Writes to autoscalers so far, by whoever.
    pub(crate) fn hpa_writes(&self) -> usize {
        self.cluster.writes(HPAS)
    }

    pub(crate) fn event_names(&self) -> Vec<String> {
        self.cluster.events("web").into_iter().map(|(reason, _)| reason).collect()
    }
}
