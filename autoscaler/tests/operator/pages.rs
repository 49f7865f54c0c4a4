//! The pages, probes and metrics of running operators, and their state on a disk that is full or a file that is broken.

use crate::cluster::{Cluster, Door};
use crate::harness::with;
use crate::lead::{within, workload, world};
use crate::prometheus::Mock;
use crate::support::autoscaler;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The binary with a log that can be read.
struct Replica {
    child: Child,
    log: std::path::PathBuf,
    address: String,
}

impl Replica {
    async fn start(folder: &Path, door: &Door, prometheus: &Mock, identity: &str, state: &Path) -> Replica {
        Replica::spawn(autoscaler(), folder, door, prometheus, identity, state).await
    }

    /// `program` is the binary, or something that becomes it.
    async fn spawn(
        mut program: Command,
        folder: &Path,
        door: &Door,
        prometheus: &Mock,
        identity: &str,
        state: &Path,
    ) -> Replica {
        let kubeconfig = folder.join("kubeconfig");
        std::fs::write(&kubeconfig, door.kubeconfig()).unwrap();
        let log = folder.join(format!("{identity}.log"));
        let child = program
            .args(["run", "--listen", "127.0.0.1:0", "--lease-duration", "3s", "--identity", identity])
            .args(["--prometheus", &prometheus.url(), "--python", "/nonexistent/python", "--log-format", "json"])
            .arg("--state")
            .arg(state)
            .env("KUBECONFIG", kubeconfig)
            .stderr(std::fs::File::create(&log).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut replica = Replica { child, log, address: String::new() };
        within(30, "it listens", || !replica.logged("listening").is_empty()).await;
        replica.address = replica.logged("listening")[0]["fields"]["address"].as_str().unwrap().to_owned();
        replica
    }

    /// The log's lines whose message begins so.
    fn logged(&self, message: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        // The last line may not be whole yet.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["fields"]["message"].as_str().is_some_and(|text| text.starts_with(message))).collect()
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
        (status, answer)
    }

    async fn eventually(&self, path: &str, part: &str) -> String {
        let began = Instant::now();
        loop {
            let (_, answer) = self.get(path).await;
            if answer.contains(part) {
                return answer;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "`{part}` is not in {answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in {}", text.split("<body>").last().unwrap_or_default());
    }
}

#[tokio::test]
async fn every_replica_lists_all_scalers_and_the_leader_has_their_decisions() {
    let (cluster, prometheus) = world().await;
    let door = cluster.door().await;
    let folder = tempfile::tempdir().unwrap();
    let state = |name: &str| folder.path().join(format!("{name}.db"));
    let first = Replica::start(folder.path(), &door, &prometheus, "first", &state("first")).await;
    within(30, "the floor is raised", || cluster.min("shop", "web") >= 8).await;
    let second = Replica::start(folder.path(), &door, &prometheus, "second", &state("second")).await;
    // One that nothing can be decided for is on the list too.
    cluster.create_scaler("shop", "lost", with(json!({"hpaRef": {"name": "nothing"}})));

    let list = first.eventually("/", "NoAutoscaler").await;
    has(&list, &["2 workloads", "&#x2f;scalers&#x2f;shop&#x2f;web", "1 → <b>", "need attention"]);
    let page = first.eventually("/scalers/shop/web", "Decisions and their reasons").await;
    has(&page, &["<h1>shop&#x2f;web</h1>", "<svg", "Forecast", "Enforce: the floor is written", "MetricsFresh"]);
    let metrics = first.get("/metrics").await.1;
    has(
        &metrics,
        &[
            "autoscaler_leader 1",
            "autoscaler_original_replicas{namespace=\"shop\",name=\"web\"} 1",
            "autoscaler_floor_replicas{namespace=\"shop\",name=\"web\"} ",
            "autoscaler_decision_reasons_total{reason=\"Forecast\"}",
            "autoscaler_floor_changes_total{direction=\"up\"} ",
            "autoscaler_prometheus_queries_total{outcome=\"done\"}",
            "autoscaler_fallback_forecasts_total ",
            "autoscaler_reconciles_total{outcome=\"done\"}",
            "autoscaler_state_kept 1",
        ],
    );

    let list = second.eventually("/", "This replica is on standby; `first` decides").await;
    has(&list, &["2 workloads", "&#x2f;scalers&#x2f;shop&#x2f;web"]);
    // The floor comes from the status.
    second.eventually("/", "1 → <b>").await;
    has(&second.get("/metrics").await.1, &["autoscaler_leader 0"]);
    let page = second.get("/scalers/shop/web").await;
    assert_eq!(page.0, 200);
    has(&page.1, &["on standby", "original 1, at most 40"]);

    // Lines of one reconcile have its span, with the scaler and an id.
    let event = first.logged("event").into_iter().find(|line| line["fields"]["event"] == "FloorRaised").unwrap();
    assert_eq!((event["span"]["scaler"].as_str(), event["span"]["namespace"].as_str()), (Some("web"), Some("shop")));
    assert!(event["span"]["id"].is_string() || event["span"]["id"].is_u64(), "{event}");

    cluster.delete_scaler("shop", "web");
    let gone = Instant::now();
    while first.get("/scalers/shop/web").await.0 != 404 {
        assert!(gone.elapsed() < Duration::from_secs(20), "it stays on the page");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!first.get("/metrics").await.1.contains("name=\"web\""));
}

#[tokio::test]
async fn ready_is_the_resource_seen_the_cache_synced_and_a_worker_that_said_hello() {
    let (cluster, prometheus) = world().await;
    cluster.fail(404);
    let door = cluster.door().await;
    let folder = tempfile::tempdir().unwrap();
    let replica = Replica::start(folder.path(), &door, &prometheus, "only", &folder.path().join("state.db")).await;
    let lacks = replica.eventually("/readyz", "autoscaler crd | kubectl apply").await;
    has(&lacks, &["503", "the cache is not synced", "no worker: "]);
    assert_eq!(replica.get("/healthz").await.0, 200);
    cluster.fail(0);
    let began = Instant::now();
    loop {
        let (status, lacks) = replica.get("/readyz").await;
        // There is no Python, so that stays.
        if !lacks.contains("PredictiveScalers") && !lacks.contains("synced") {
            assert_eq!(status, 503);
            has(&lacks, &["no worker: "]);
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{lacks}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn raises_eight(cluster: &Cluster) {
    let names: Vec<String> = (0..8).map(|index| format!("web-{index}")).collect();
    for name in &names {
        workload(cluster, name);
    }
    within(40, "all floors are raised", || names.iter().all(|name| cluster.min("shop", name) >= 8)).await;
}

#[tokio::test]
async fn on_a_full_disk_the_operator_warns_and_continues() {
    let (cluster, prometheus) = world().await;
    let door = cluster.door().await;
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    // A disk of its own, too small for the samples of eight workloads, that is gone with the process.
    let own = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(&disk);
        command
    };
    let mount = "mount -t tmpfs -o size=256k none \"$1\"";
    if !own(mount).stderr(Stdio::null()).status().unwrap().success() {
        assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "no disk of our own can be mounted");
        println!("skipped: no disk of our own can be mounted");
        return;
    }
    let mut program = own(&format!("{mount} && shift && exec \"$@\""));
    program.arg(env!("CARGO_BIN_EXE_autoscaler")).env("AUTOSCALER_HOME", env!("CARGO_MANIFEST_DIR"));
    let replica = Replica::spawn(program, folder.path(), &door, &prometheus, "only", &disk.join("state.db")).await;
    raises_eight(&cluster).await;
    let warnings = replica.logged("cannot write");
    assert!(!warnings.is_empty() && warnings[0]["level"] == "WARN", "the disk never filled");
    has(&replica.get("/").await.1, &["The state cannot be written"]);
    let metrics = replica.get("/metrics").await.1;
    has(&metrics, &["autoscaler_state_kept 0"]);
    assert!(!metrics.contains("autoscaler_state_write_failures_total 0"), "{metrics}");
}

#[tokio::test]
async fn a_broken_state_is_set_aside_and_the_operator_continues() {
    let (cluster, prometheus) = world().await;
    let door = cluster.door().await;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.db");
    std::fs::write(
        &state,
        "this is not a database, and long enough to be looked at as if it were the header of one, or more",
    )
    .unwrap();
    let replica = Replica::start(folder.path(), &door, &prometheus, "only", &state).await;
    raises_eight(&cluster).await;
    assert_eq!(replica.logged("the state is set aside").len(), 1);
    assert!(folder.path().join("state.db.set-aside").exists());
    has(&replica.eventually("/", "9 workloads").await, &["web-7"]);
}
