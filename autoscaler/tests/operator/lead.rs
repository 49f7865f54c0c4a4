//! Whole operators in a world: one of them writes, whatever becomes of it.

use crate::cluster::{Cluster, Door, HPAS, LEASES, SCALERS, hpa_path};
use crate::harness::{DAY, UNHURRIED, demands, no_worker, with};
use crate::prometheus::{Load, Mock};
use crate::support::{alive, autoscaler, signal};
use autoscaler::cluster::lease::Times;
use autoscaler::cluster::operator::{Operator, Settings};
use autoscaler::show::readiness::Readiness;
use axum::http::Method;
use jiff::Timestamp;
use serde_json::json;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const TIMES: Times = Times {
    holds: Duration::from_millis(3_000),
    renew_within: Duration::from_millis(2_000),
    every: Duration::from_millis(300),
};

/// A day in which it has just become busy, in real time.
pub(crate) fn busy_now() -> Load {
    let now = Timestamp::now().as_second();
    Arc::new(move |_, second| {
        let noise = ((second / 300) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 1_000;
        let level = if (second - now + DAY / 4).rem_euclid(DAY) < DAY / 2 { 800.0 } else { 100.0 };
        Some(level * (1.0 + (noise as f64 / 1_000.0 - 0.5) / 20.0))
    })
}

pub(crate) async fn world() -> (Cluster, Mock) {
    let cluster = Cluster::new();
    workload(&cluster, "web");
    (cluster, Mock::start(busy_now()).await)
}

pub(crate) fn workload(cluster: &Cluster, name: &str) {
    cluster.create_hpa("shop", name, None, 50);
    cluster.create_scaler("shop", name, with(json!({"hpaRef": {"name": name}})));
}

/// A replica in this process, at its own door.
async fn replica(cluster: &Cluster, prometheus: &Mock, name: &str) -> (Door, JoinHandle<()>, Arc<Readiness>) {
    let door = cluster.door().await;
    let readiness = Arc::new(Readiness::default());
    let settings =
        Settings { times: TIMES, sweep_every: Duration::from_millis(500), ..Settings::of("autoscaler", name) };
    let demands = demands(prometheus, no_worker(), Duration::from_secs(5), UNHURRIED);
    let operator = Operator::new(door.client(), settings, demands, Arc::clone(&readiness), Arc::new(Timestamp::now));
    (door, tokio::spawn(operator.run(std::future::pending())), readiness)
}

pub(crate) async fn within(seconds: u64, what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within {seconds} s: {what}");
}

fn holder(cluster: &Cluster) -> String {
    let lease = cluster.get(LEASES, "autoscaler", "autoscaler").unwrap_or_default();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

/// The doors by which autoscalers were written, in order.
fn writers(cluster: &Cluster) -> Vec<u16> {
    let writes = cluster.asked().into_iter().filter(|asked| {
        asked.method == "PATCH" && asked.status < 300 && asked.path.contains(HPAS) && !asked.path.ends_with("/status")
    });
    writes.map(|asked| asked.door).collect()
}

#[tokio::test]
async fn of_two_replicas_one_writes_and_after_its_end_the_other() {
    let (cluster, prometheus) = world().await;
    let (first, _, _) = replica(&cluster, &prometheus, "first").await;
    within(20, "the first leads", || holder(&cluster) == "first").await;
    let (second, _, ready) = replica(&cluster, &prometheus, "second").await;
    within(60, "the floor is raised", || cluster.min("shop", "web") >= 8).await;
    for name in ["b", "c", "d"] {
        workload(&cluster, name);
    }
    within(20, "three more are raised", || ["b", "c", "d"].iter().all(|name| cluster.min("shop", name) >= 8)).await;
    assert!(writers(&cluster).iter().all(|door| *door == first.address.port()), "one writer");
    assert_eq!(ready.leader(), autoscaler::show::readiness::Leadership::Follows("first".to_owned()));

    // It hears nobody and nobody hears it, and it does not know why.
    first.shut();
    within(30, "the second leads", || holder(&cluster) == "second").await;
    let before = writers(&cluster).len();
    workload(&cluster, "e");
    within(20, "the second writes", || cluster.min("shop", "e") >= 8).await;
    assert!(writers(&cluster)[before..].iter().all(|door| *door == second.address.port()), "one writer");
    let status = cluster.get(SCALERS, "shop", "web").unwrap()["status"].clone();
    assert_eq!(status["original"], 1, "the second knows the original: {status}");
    let lease = cluster.get(LEASES, "autoscaler", "autoscaler").unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
}

#[tokio::test]
async fn a_leader_that_cannot_renew_stops_before_another_may_begin() {
    let (cluster, prometheus) = world().await;
    let (_, _, readiness) = replica(&cluster, &prometheus, "only").await;
    within(20, "it leads", || readiness.leader() == autoscaler::show::readiness::Leadership::Leads).await;
    let away = Instant::now();
    cluster.fail(503);
    within(20, "it stops", || readiness.leader() != autoscaler::show::readiness::Leadership::Leads).await;
    assert!(away.elapsed() < TIMES.holds, "{:?}", away.elapsed());
    cluster.fail(0);
    within(20, "it leads again", || readiness.leader() == autoscaler::show::readiness::Leadership::Leads).await;
    workload(&cluster, "later");
    within(20, "it watches again", || cluster.min("shop", "later") >= 8).await;
}

#[tokio::test]
async fn a_scaler_is_seen_when_it_comes_and_when_it_goes() {
    let (cluster, prometheus) = world().await;
    let (_, _, readiness) = replica(&cluster, &prometheus, "only").await;
    within(60, "the floor is raised", || cluster.min("shop", "web") >= 8).await;
    let hello =
        autoscaler::forecast::protocol::Hello { protocol: 1, python: String::new(), packages: Default::default() };
    assert!(readiness.lacks(&autoscaler::forecast::supervisor::Status::Ready(hello)).is_empty());
    cluster.delete_scaler("shop", "web");
    within(60, "it is gone", || cluster.get(SCALERS, "shop", "web").is_none()).await;
    assert_eq!(cluster.min("shop", "web"), 1);
}

#[tokio::test]
async fn our_own_status_wakes_nobody() {
    let (cluster, prometheus) = world().await;
    let _replica = replica(&cluster, &prometheus, "only").await;
    within(60, "the floor is raised", || cluster.min("shop", "web") >= 8).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // The first look, the one that the finalizer causes, and no third before the step is over.
    assert!(prometheus.requests() <= 3, "{}", prometheus.requests());
}

#[tokio::test]
async fn requests_to_prometheus_are_bounded() {
    let (cluster, prometheus) = world().await;
    prometheus.delay(Duration::from_millis(50));
    for index in 0..12 {
        workload(&cluster, &format!("web-{index}"));
    }
    let _replica = replica(&cluster, &prometheus, "only").await;
    // Their candidates are replayed one after another, on a machine that may be busy.
    within(240, "all are raised", || (0..12).all(|index| cluster.min("shop", &format!("web-{index}")) >= 8)).await;
    assert!((2..=4).contains(&prometheus.most_at_a_time()), "{}", prometheus.most_at_a_time());
}

#[tokio::test]
async fn an_expired_floor_is_swept_by_the_leader() {
    let (cluster, prometheus) = world().await;
    cluster.create_hpa("shop", "orphan", None, 50);
    let note = json!({"version": 1, "original": 2, "floor": 9, "expires": "2026-01-01T00:00:00Z"}).to_string();
    let body = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "orphan", "namespace": "shop", "annotations": {"autoscaler.acme.dev/original-minimum": note}},
        "spec": {"minReplicas": 9},
    });
    cluster.hand(Method::PATCH, &hpa_path("shop", "orphan"), "autoscaler", true, body);
    assert_eq!(cluster.min("shop", "orphan"), 9);
    let _replica = replica(&cluster, &prometheus, "only").await;
    within(20, "it is swept", || cluster.min("shop", "orphan") == 2).await;
}

/// The binary, in a folder of its own.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) log: std::path::PathBuf,
}

impl Process {
    fn start(folder: &Path, door: &Door, prometheus: &Mock, identity: &str) -> Process {
        let kubeconfig = folder.join("kubeconfig");
        std::fs::write(&kubeconfig, door.kubeconfig()).unwrap();
        let log = folder.join(format!("{identity}.log"));
        let child = autoscaler()
            .args(["run", "--listen", "127.0.0.1:0", "--lease-duration", "3s", "--identity", identity])
            .args(["--prometheus", &prometheus.url(), "--python", "/nonexistent/python"])
            .arg("--state")
            .arg(folder.join(format!("{identity}.sqlite")))
            .env("KUBECONFIG", kubeconfig)
            .stderr(std::fs::File::create(&log).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Process { child, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_and_a_terminated_one_releases_the_lease_and_leaves_the_floors() {
    let (cluster, prometheus) = world().await;
    let door = cluster.door().await;
    let folder = tempfile::tempdir().unwrap();
    let mut first = Process::start(folder.path(), &door, &prometheus, "first");
    within(30, "the floor is raised", || cluster.min("shop", "web") >= 8).await;
    let floor = cluster.min("shop", "web");
    signal("KILL", first.child.id());
    first.child.wait().unwrap();
    assert_eq!(holder(&cluster), "first", "it could not say farewell");

    let mut second = Process::start(folder.path(), &door, &prometheus, "second");
    within(30, "the second leads", || holder(&cluster) == "second").await;
    workload(&cluster, "later");
    within(30, "the second works", || cluster.min("shop", "later") >= 8).await;
    assert_eq!(cluster.min("shop", "web"), floor);
    assert_eq!(cluster.get(SCALERS, "shop", "web").unwrap()["status"]["original"], 1, "{}", second.log());

    signal("TERM", second.child.id());
    within(15, "it has ended", || second.child.try_wait().unwrap().is_some()).await;
    assert!(second.child.wait().unwrap().success(), "{}", second.log());
    assert!(!alive(second.child.id()));
    assert_eq!(holder(&cluster), "", "{}", second.log());
    assert_eq!(cluster.min("shop", "web"), floor, "the floors stay");
    assert_eq!(cluster.min("shop", "later"), floor);
}
