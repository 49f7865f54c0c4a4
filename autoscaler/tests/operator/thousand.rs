//! A thousand scalers: time until all are fitted and replayed, time of a round, and the processor time of both. Measured where it is asked for, with a
//! binary and a Python that has the packages.

use crate::cluster::{Cluster, Door, HPAS, SCALERS};
use crate::lead::{Process, busy_now, within, workload};
use crate::prometheus::Mock;
use crate::support::{crate_folder, real_python};
use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Number of scalers, unless `AUTOSCALER_MEASURE_SCALERS` says another: more than a hundred, which are fitted in turn.
const SCALE: usize = 1_000;

/// Interval between checks: the cluster in memory shares the machine with what is measured.
const LOOK: Duration = Duration::from_millis(500);
const RECONCILED: &str = "autoscaler_reconciles_total{outcome=\"done\"}";

fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    Some((status, text))
}

/// A counter as the operator itself counts it.
fn counted(address: SocketAddr, name: &str) -> f64 {
    let text = get(address, "/metrics").map(|(_, text)| text).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok()).unwrap_or(0.0)
}

fn start(binary: &Path, folder: &Path, door: &Door, prometheus: &Mock, python: &Path) -> (Process, SocketAddr) {
    let kubeconfig = folder.join("kubeconfig");
    std::fs::write(&kubeconfig, door.kubeconfig()).unwrap();
    let log = folder.join("operator.log");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let child = Command::new(binary)
        .args(["run", "--listen", &port.to_string(), "--lease-duration", "3s", "--prometheus", &prometheus.url()])
        .args(["--identity", &port.to_string()])
        .arg("--home")
        .arg(crate_folder())
        .arg("--python")
        .arg(python)
        .arg("--state")
        .arg(folder.join("state.sqlite"))
        .env("KUBECONFIG", kubeconfig)
        .stderr(std::fs::File::create(&log).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    (Process { child, log }, port)
}

fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Processor seconds of the operator and of its worker.
fn processor_seconds(process: &Process) -> (f64, f64) {
    let of = |id: u32| {
        let text = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let fields: Vec<f64> = text.rsplit(')').next().map_or(Vec::new(), |rest| {
            rest.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse().ok()).collect()
        });
        // The kernel counts in hundredths of a second for every program.
        fields.iter().sum::<f64>() / 100.0
    };
    let id = process.child.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    (of(id), children.split_whitespace().filter_map(|child| child.parse().ok()).map(of).sum())
}

/// Time and processor time by stage, as the README has it.
struct Table(String);

impl Table {
    fn new(scale: usize) -> Table {
        Table(format!("| {scale} workloads | after | operator | worker | memory |\n|---|---|---|---|---|\n"))
    }

    fn row(&mut self, stage: &str, began: Instant, process: &Process) {
        let (after, (operator, worker)) = (began.elapsed().as_secs_f64(), processor_seconds(process));
        let memory = resident(process);
        let row = format!("| {stage} | {after:.1} s | {operator:.1} s | {worker:.1} s | {memory} MiB |\n");
        // A stage takes minutes: each row is shown when it is over.
        let _ = write!(std::io::stderr(), "{row}");
        self.0.push_str(&row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the number of autoscalers whose minimum is raised.
fn raised(cluster: &Cluster) -> usize {
    cluster.count(HPAS, |hpa| hpa["spec"]["minReplicas"].as_u64().unwrap_or(1) > 1)
}

#[tokio::test]
async fn a_thousand_scalers_are_a_round_of_less_than_half_a_minute() {
    const TEST: &str = "a_thousand_scalers_are_a_round_of_less_than_half_a_minute";
    let Some(binary) = std::env::var_os("AUTOSCALER_MEASURE") else {
        // Not `eprintln!`, which the test harness swallows when a test passes.
        let _ = writeln!(std::io::stderr(), "\nskipped: {TEST}: set AUTOSCALER_MEASURE to a binary");
        return;
    };
    // As it is said in the workspace's folder; a test runs in the crate's.
    let binary = crate_folder().join("..").join(binary);
    let Some(python) = real_python(TEST) else { return };
    let scale = std::env::var("AUTOSCALER_MEASURE_SCALERS").ok().and_then(|count| count.parse().ok()).unwrap_or(SCALE);
    let cluster = Cluster::new();
    for index in 0..scale {
        workload(&cluster, &format!("web-{index}"));
    }
    let prometheus = Mock::start(busy_now()).await;
    let door = cluster.door().await;
    let folder = tempfile::tempdir().unwrap();
    let count = |fallback: bool| {
        let fits = |scaler: &serde_json::Value| {
            // In the first round most are not replayed yet: their status says so, and has no forecast.
            let forecast = &scaler["status"]["forecast"];
            if fallback { !scaler["status"]["conditions"].is_null() } else { forecast["fallback"] == false }
        };
        cluster.count(SCALERS, fits)
    };

    let mut table = Table::new(scale);
    let began = Instant::now();
    let (mut process, address) = start(&binary, folder.path(), &door, &prometheus, &python);
    within(60, "it is ready", || get(address, "/readyz").is_some_and(|(status, _)| status == 200)).await;
    table.row("ready", began, &process);
    while count(true) < scale {
        assert!(began.elapsed() < Duration::from_secs(300), "{} are looked at", count(true));
        tokio::time::sleep(LOOK).await;
    }
    let cold = began.elapsed();
    table.row("every workload looked at once, nothing known before", began, &process);
    while count(false) < scale {
        assert!(began.elapsed() < Duration::from_secs(900), "{} are fitted", count(false));
        tokio::time::sleep(LOOK).await;
    }
    let (fitted, used) = (began.elapsed(), processor_seconds(&process));
    table.row("every workload fitted and replayed", began, &process);
    let (reconciles, floors) = (counted(address, RECONCILED), raised(&cluster));
    crate::support::signal("TERM", process.child.id());
    within(15, "it has ended", || process.child.try_wait().unwrap().is_some()).await;

    let began = Instant::now();
    let (process, address) = start(&binary, folder.path(), &door, &prometheus, &python);
    within(60, "it is ready", || get(address, "/readyz").is_some_and(|(status, _)| status == 200)).await;
    table.row("ready after a restart", began, &process);
    let reconciled = || counted(address, RECONCILED);
    while reconciled() < scale as f64 {
        tokio::time::sleep(LOOK).await;
        assert!(began.elapsed() < Duration::from_secs(120), "{} after two minutes", reconciled());
    }
    let round = began.elapsed();
    table.row("every workload decided for again", began, &process);
    let by_worker = counted(address, "autoscaler_forecasts_total{outcome=\"done\"}");
    let kept = raised(&cluster);
    println!("{table}\n{reconciles} reconciles, {floors} floors before the restart, {kept} after it");
    assert!(cold < Duration::from_secs(30), "{cold:?}");
    assert!(round < Duration::from_secs(30), "{round:?}");
    assert!(fitted < Duration::from_secs(180), "{fitted:?}");
    // Two cores for three minutes.
    assert!(used.0 + used.1 < 0.36 * scale as f64, "{used:?}");
    assert!(kept >= floors, "{floors} floors, {kept} after a restart");
    assert!(by_worker >= scale as f64 * 0.95, "{by_worker}");
    assert!(resident(&process) < 150, "{} MiB", resident(&process));
}
