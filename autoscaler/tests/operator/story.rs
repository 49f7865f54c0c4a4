//! One story in real time, played on a cluster in memory and on a real one where KUBECONFIG names it: the definition is
//! applied, an autoscaler and a scaler too; the floor rises before the load and is released after it, the leader is killed
//! in between, and the deletion gives everything back.

use crate::cluster::Cluster;
use crate::harness::{UNHURRIED, demands, no_worker};
use crate::prometheus::{Load, Mock};
use autoscaler::cluster::crd::PredictiveScaler;
use autoscaler::cluster::lease::Times;
use autoscaler::cluster::operator::{Operator, Settings};
use autoscaler::show::readiness::Readiness;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config, CustomResourceExt};
use serde_json::json;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// The length of everything in it.
#[derive(Clone, Copy)]
struct Pace {
    step: i64,
    /// The second at which a busy time begins.
    busy_from: i64,
}

impl Pace {
    /// A season whose night begins now.
    fn new(step: i64) -> Pace {
        Pace { step, busy_from: Timestamp::now().as_second() + 10 * step }
    }

    fn season(self) -> i64 {
        20 * self.step
    }

    /// Ten steps of twenty are busy; the season begins when they do.
    fn busy(self, second: i64) -> bool {
        (second - self.busy_from).rem_euclid(self.season()) < 10 * self.step
    }

    /// Returns the time until the next busy time begins.
    fn until_busy(self) -> Duration {
        let into = (Timestamp::now().as_millisecond() - self.busy_from * 1_000).rem_euclid(self.season() * 1_000);
        Duration::from_millis((self.season() * 1_000 - into) as u64)
    }

    fn load(self) -> Load {
        Arc::new(move |_, second| {
            let noise = ((second / self.step) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
            let level = if self.busy(second) { 800.0 } else { 100.0 };
            Some(level * (1.0 + ((noise % 1_000) as f64 / 1_000.0 - 0.5) / 20.0))
        })
    }
}

async fn replica(client: &Client, namespace: &str, name: &str, prometheus: &Mock) -> JoinHandle<()> {
    let times = Times {
        holds: Duration::from_secs(4),
        renew_within: Duration::from_millis(2_700),
        every: Duration::from_millis(500),
    };
    let settings = Settings { times, ..Settings::of(namespace, name) };
    let demands = demands(prometheus, no_worker(), Duration::from_secs(10), UNHURRIED);
    let readiness = Arc::new(Readiness::default());
    let operator = Operator::new(client.clone(), settings, demands, readiness, Arc::new(Timestamp::now));
    tokio::spawn(operator.run(std::future::pending()))
}

async fn run_story(client: Client, namespace: &str, pace: Pace) {
    let delivery = PatchParams::apply("delivery").force();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crd = PredictiveScaler::crd();
    let name = crd.metadata.name.clone().unwrap();
    crds.patch(&name, &delivery, &Patch::Apply(&crd)).await.unwrap();
    let hpas: Api<HorizontalPodAutoscaler> = Api::namespaced(client.clone(), namespace);
    let hpa = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"maxReplicas": 50, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}},
    });
    hpas.patch("web", &delivery, &Patch::Apply(hpa)).await.unwrap();
    let scalers: Api<PredictiveScaler> = Api::namespaced(client.clone(), namespace);
    let span = |steps: i64| format!("{}s", steps * pace.step);
    let scaler: PredictiveScaler = serde_json::from_value(json!({
        "apiVersion": "autoscaler.acme.dev/v1alpha1", "kind": "PredictiveScaler", "metadata": {"name": "web"},
        "spec": {
            "hpaRef": {"name": "web"}, "query": "sum(rate(http_requests_total[2m]))", "perPodCapacity": "100/s",
            "step": span(1), "season": span(20), "leadTime": span(3), "mode": "Enforce", "maxFloor": 40, "maxStepUp": 10,
            "scaleDownDelay": span(1), "staleAfter": span(6),
        },
    }))
    .unwrap();
    // A definition takes a moment to be served.
    let began = Instant::now();
    while let Err(cause) = scalers.create(&PostParams::default(), &scaler).await {
        assert!(began.elapsed() < Duration::from_secs(60), "{cause}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let min = || async {
        let hpa = hpas.get("web").await.unwrap();
        hpa.spec.unwrap().min_replicas.unwrap_or(1)
    };
    let season = Duration::from_secs(pace.season() as u64);
    let reaches = |what: &'static str, wanted: fn(i32) -> bool| async move {
        let began = Instant::now();
        while !wanted(min().await) {
            assert!(began.elapsed() < 3 * season, "{what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };

    let prometheus = Mock::start(pace.load()).await;
    let first = replica(&client, namespace, "first", &prometheus).await;
    assert_eq!(min().await, 1, "it begins at night");
    reaches("raised", |min| min >= 8).await;
    let ahead = pace.until_busy();
    assert!(
        ahead < 5 * Duration::from_secs(pace.step as u64) && !pace.busy(Timestamp::now().as_second()),
        "raised {ahead:?} before the load, not in it"
    );
    // Killed with its floor raised; the next begins with what is in the cluster.
    first.abort();
    let _ = first.await;
    let second = replica(&client, namespace, "second", &prometheus).await;
    reaches("released after the load", |min| min <= 2).await;
    reaches("raised again", |min| min >= 8).await;
    let status = scalers.get("web").await.unwrap().status.unwrap();
    assert_eq!(status.original, Some(1), "{status:?}");

    scalers.delete("web", &DeleteParams::default()).await.unwrap();
    let began = Instant::now();
    while scalers.get_opt("web").await.unwrap().is_some() {
        assert!(began.elapsed() < 2 * season, "the finalizer is never taken off");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let hpa = hpas.get("web").await.unwrap();
    assert_eq!(hpa.spec.unwrap().min_replicas.unwrap_or(1), 1);
    assert!(!hpa.metadata.annotations.unwrap_or_default().contains_key(autoscaler::floor::minimum::ANNOTATION));
    let managers = hpa.metadata.managed_fields.unwrap_or_default();
    assert!(managers.iter().all(|entry| entry.manager.as_deref() != Some("autoscaler")), "{managers:?}");
    second.abort();
}

#[tokio::test]
async fn the_story_holds_for_a_cluster_in_memory() {
    let cluster = Cluster::new();
    cluster.lenient();
    run_story(cluster.door().await.client(), "shop", Pace::new(1)).await;
}

#[tokio::test]
async fn the_story_holds_for_the_cluster_of_kubeconfig() {
    const TEST: &str = "the_story_holds_for_the_cluster_of_kubeconfig";
    if std::env::var_os("KUBECONFIG").is_none_or(|path| path.is_empty()) {
        // Not `eprintln!`, which the test harness swallows when a test passes.
        let _ = writeln!(
            std::io::stderr(),
            "\nskipped: {TEST}: set KUBECONFIG to a cluster that may be changed, such as that of `cargo xtask cluster up`"
        );
        return;
    }
    autoscaler::cluster::tls::provide();
    let config = Config::infer().await.expect("KUBECONFIG names a kubeconfig");
    let client = Client::try_from(config).expect("the kubeconfig is whole");
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let name = format!("autoscaler-test-{}", std::process::id());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.expect("a namespace of our own");
    let story = tokio::spawn({
        let name = name.clone();
        async move { run_story(client, &name, Pace::new(10)).await }
    });
    let story = story.await;
    // The definition stays: others may have come to use it.
    namespaces.delete(&name, &DeleteParams::default()).await.expect("the namespace can go");
    story.expect("the story failed");
}
