//! `autoscaler serve` and `healthcheck` as a whole, over real sockets.

use crate::support::{
    alive, autoscaler, bare_python, crate_folder, eventually, hostile_home, real_python, run, signal,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A running server; ends with the test.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    log: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl Server {
    pub(crate) fn start(python: &Path, more: &[&dyn AsRef<std::ffi::OsStr>]) -> Server {
        Server::begin(autoscaler(), python, more)
    }

    /// The same with this number of descriptors at most.
    fn start_with_descriptors(most: usize, python: &Path) -> Server {
        let call = autoscaler();
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n {most} && exec \"$0\" \"$@\"")).arg(call.get_program());
        for (name, value) in call.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Server::begin(command, python, &[])
    }

    fn begin(mut command: Command, python: &Path, more: &[&dyn AsRef<std::ffi::OsStr>]) -> Server {
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--deadline", "20s", "--python"]);
        command.arg(python).env("AUTOSCALER_REVISION", "abc1234").stderr(Stdio::piped());
        for argument in more {
            command.arg(argument);
        }
        let mut child = command.spawn().expect("the server starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().expect("a log"));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let entry = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a log line: {line}"));
                kept.lock().unwrap().push(entry);
            }
        });
        let mut server = Server { child, address: String::new(), log };
        eventually("the server listens", || server.logged("listening").is_some());
        server.address = server.logged("listening").unwrap()["address"].as_str().unwrap().to_owned();
        server
    }

    /// The fields of the last log line with this message.
    pub(crate) fn logged(&self, message: &str) -> Option<serde_json::Value> {
        let log = self.log.lock().unwrap();
        log.iter().rev().map(|entry| &entry["fields"]).find(|fields| fields["message"] == message).cloned()
    }

    /// Returns true if a line with this message is in a span with this request id.
    pub(crate) fn logged_in(&self, message: &str, id: &str) -> bool {
        let log = self.log.lock().unwrap();
        log.iter().any(|entry| entry["fields"]["message"] == message && entry["span"]["id"] == id)
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("the server accepts");
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, answer)
    }

    fn health(&self) -> Option<i32> {
        let url = format!("http://{}/readyz", self.address);
        run(autoscaler().args(["healthcheck", "--url", &url])).code
    }

    fn ready(&self) {
        eventually("the worker is ready", || self.get("/readyz").0 == 200);
    }

    /// The process of the last worker. Its line in the log may be read later than the server is ready.
    fn worker(&self) -> u32 {
        eventually("the log names the worker", || self.logged("worker ready").is_some());
        u32::try_from(self.logged("worker ready").unwrap()["process"].as_u64().unwrap()).unwrap()
    }

    pub(crate) fn end(mut self) -> Option<i32> {
        signal("TERM", self.child.id());
        self.child.wait().expect("the server ends").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn copy_templates(to: &Path) {
    for entry in std::fs::read_dir(crate_folder().join("templates")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn half_open_connections_end_and_keep_nobody_out() {
    let Some(python) = bare_python("half_open_connections_end_and_keep_nobody_out") else {
        return;
    };
    // Fewer descriptors than connections that are held open.
    let server = Server::start_with_descriptors(100, &python);
    let began = Instant::now();
    let held: Vec<TcpStream> = (0..300)
        .map(|number| {
            let mut stream = TcpStream::connect(&server.address).expect("the server accepts");
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            // Some say nothing at all, some half of a head. One that was closed already may refuse it.
            if number % 2 == 0 {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n");
            }
            stream
        })
        .collect();
    assert_eq!(server.get("/healthz").0, 200);
    assert!(began.elapsed() < Duration::from_secs(8), "the probe waited for {:?}", began.elapsed());
    for mut stream in held {
        let ended = stream.read_to_end(&mut Vec::new());
        let reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(ended.as_ref().map_or_else(reset, |_| true), "{ended:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(40), "they were held for {:?}", began.elapsed());
    assert_eq!(server.get("/healthz").0, 200);
    assert_eq!(server.end(), Some(0));
}

#[test]
fn the_page_shows_the_forecast_of_the_sample() {
    let Some(python) = real_python("the_page_shows_the_forecast_of_the_sample") else {
        return;
    };
    let server = Server::start(&python, &[]);
    assert_eq!(server.get("/healthz").0, 200);
    server.ready();
    assert_eq!(server.health(), Some(0));

    let (status, page) = server.get("/");
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("content-security-policy: default-src 'none'"), "{page}");
    for part in [
        "<svg",
        "requests.csv",
        "5844 samples every 5m",
        "2026-03-23T12:55:00Z",
        "skilled",
        "(abc1234)",
        "statsmodels 0.",
    ] {
        assert!(page.contains(part), "`{part}` is not on the page");
    }
    assert_eq!(server.get("/nowhere").0, 404);

    // The second reader costs no second forecast.
    assert_eq!(server.get("/").0, 200);
    let (_, metrics) = server.get("/metrics");
    for line in [
        "autoscaler_build_info{version=\"0.1.0\",revision=\"abc1234\"} 1",
        "autoscaler_forecasts_total{outcome=\"done\"} 1",
        "autoscaler_http_requests_total{path=\"/\",status=\"200\"} 2",
        "autoscaler_http_requests_total{path=\"other\",status=\"404\"} 1",
        "autoscaler_worker_ready 1",
        "autoscaler_worker_starts_total 1",
    ] {
        assert!(metrics.contains(line), "`{line}` is not in {metrics}");
    }

    let worker = server.worker();
    assert!(alive(worker));
    assert_eq!(server.end(), Some(0));
    assert!(!alive(worker));
}

#[test]
fn the_page_does_not_wait_for_the_first_worker() {
    let Some(python) = bare_python("the_page_does_not_wait_for_the_first_worker") else {
        return;
    };
    let home = hostile_home("hello_later");
    let templates = crate_folder().join("templates");
    let sample = crate_folder().join("samples/requests.csv");
    let server = Server::start(&python, &[&"--home", &home.path(), &"--templates", &templates, &"--history", &sample]);
    let (status, page) = server.get("/");
    assert_eq!(status, 200, "{page}");
    for part in ["<svg", "weekly-naive", "5844 samples every 5m", "the forecaster is starting"] {
        assert!(page.contains(part), "`{part}` is not on the page: {page}");
    }
    assert_eq!(server.get("/readyz").0, 503);
    std::fs::write(home.path().join("forecaster/go"), "").unwrap();
    server.ready();
    let (status, page) = server.get("/");
    assert_eq!(status, 200, "{page}");
    assert!(!page.contains("the forecaster is starting"), "{page}");
    assert!(server.get("/metrics").1.contains("autoscaler_forecasts_total{outcome=\"done\"} 1"));
}

#[test]
fn a_killed_worker_comes_back() {
    let Some(python) = real_python("a_killed_worker_comes_back") else {
        return;
    };
    let server = Server::start(&python, &[]);
    server.ready();
    let worker = server.worker();
    signal("KILL", worker);
    eventually("another worker", || server.worker() != worker);
    assert_eq!(server.get("/").0, 200);
}

#[test]
fn templates_are_read_at_every_request() {
    let Some(python) = bare_python("templates_are_read_at_every_request") else {
        return;
    };
    let home = hostile_home("dies_once");
    // Not the first worker: this one works.
    std::fs::write(home.path().join("forecaster/seen"), "").unwrap();
    let templates = tempfile::tempdir().unwrap();
    copy_templates(templates.path());
    let sample = crate_folder().join("samples/requests.csv");
    let server =
        Server::start(&python, &[&"--home", &home.path(), &"--templates", &templates.path(), &"--history", &sample]);
    server.ready();
    assert_eq!(server.get("/").0, 200);

    let page = templates.path().join("forecast.html");
    let ours = std::fs::read_to_string(&page).unwrap();
    std::fs::write(&page, ours.replace("Demand, next", "Edited, next")).unwrap();
    assert!(server.get("/").1.contains("Edited, next 6h"));

    std::fs::write(&page, "<p>\n{% if %}").unwrap();
    let (status, broken) = server.get("/");
    assert_eq!(status, 500);
    assert!(broken.contains("forecast.html:2`\n  cause: syntax error"), "{broken}");
    eventually("the log says so", || server.logged("cannot render the template").is_some());
    assert_eq!(server.get("/readyz").0, 200);

    std::fs::write(&page, &ours).unwrap();
    assert_eq!(server.get("/").0, 200);
}

#[test]
fn another_history_is_another_forecast() {
    let Some(python) = bare_python("another_history_is_another_forecast") else {
        return;
    };
    let home = hostile_home("dies_once");
    std::fs::write(home.path().join("forecaster/seen"), "").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let history = folder.path().join("load.csv");
    let templates = crate_folder().join("templates");
    std::fs::write(&history, "timestamp,value\n0,1\n300,2\n").unwrap();
    let server = Server::start(&python, &[&"--home", &home.path(), &"--templates", &templates, &"--history", &history]);
    assert!(server.get("/").1.contains("2 samples every 5m"));
    std::fs::write(&history, "timestamp,value\n0,1\n300,2\n600,3\n").unwrap();
    assert!(server.get("/").1.contains("3 samples every 5m"));
    std::fs::write(&history, "timestamp,value\n0,x\n").unwrap();
    let (status, page) = server.get("/");
    assert_eq!(status, 500);
    assert!(page.contains("load.csv:2:3: value `x` is not a number"), "{page}");
}

#[test]
fn a_worker_that_dies_costs_one_page() {
    let Some(python) = bare_python("a_worker_that_dies_costs_one_page") else {
        return;
    };
    let home = hostile_home("dies_once");
    let templates = crate_folder().join("templates");
    let sample = crate_folder().join("samples/requests.csv");
    let server = Server::start(&python, &[&"--home", &home.path(), &"--templates", &templates, &"--history", &sample]);
    server.ready();
    let (status, page) = server.get("/");
    assert_eq!(status, 503);
    assert!(page.contains("the worker ended with exit status: 9"), "{page}");
    // This one waits for the restart.
    assert_eq!(server.get("/").0, 200);
    assert!(server.get("/metrics").1.contains("autoscaler_worker_failures_total 1"));
}

#[test]
fn a_reader_who_leaves_takes_nothing_along() {
    let Some(python) = bare_python("a_reader_who_leaves_takes_nothing_along") else {
        return;
    };
    let home = hostile_home("slow");
    let templates = crate_folder().join("templates");
    let sample = crate_folder().join("samples/requests.csv");
    let server = Server::start(&python, &[&"--home", &home.path(), &"--templates", &templates, &"--history", &sample]);
    server.ready();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let asked = home.path().join("forecaster/seen");
    eventually("the worker is asked", || asked.exists());
    drop(stream);
    assert_eq!(server.get("/").0, 200);
    let (_, metrics) = server.get("/metrics");
    for line in [
        "autoscaler_worker_starts_total 1",
        "autoscaler_worker_failures_total 0",
        "autoscaler_forecasts_total{outcome=\"done\"} 1",
    ] {
        assert!(metrics.contains(line), "`{line}` is not in {metrics}");
    }
}

#[test]
fn a_worker_that_cannot_live_rests() {
    let Some(python) = bare_python("a_worker_that_cannot_live_rests") else {
        return;
    };
    let home = hostile_home("exits_at_once");
    let templates = crate_folder().join("templates");
    let sample = crate_folder().join("samples/requests.csv");
    let server = Server::start(&python, &[&"--home", &home.path(), &"--templates", &templates, &"--history", &sample]);
    eventually("the budget is spent", || server.get("/metrics").1.contains("autoscaler_worker_starts_total 5"));
    std::thread::sleep(Duration::from_secs(2));
    assert!(server.get("/metrics").1.contains("autoscaler_worker_starts_total 5"));

    let (status, body) = server.get("/readyz");
    assert_eq!(status, 503);
    assert!(body.contains("No module named 'numpy'"), "{body}");
    assert_eq!(server.health(), Some(1));
    assert_eq!(server.get("/healthz").0, 200);
    let (status, page) = server.get("/");
    assert_eq!(status, 503);
    assert!(page.contains("at the earliest; last error"), "{page}");
    assert_eq!(server.end(), Some(0));
}

#[test]
fn a_taken_address_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = run(autoscaler().args(["serve", "--listen", &address]));
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.starts_with(&format!("error: cannot listen on `{address}`\n  cause: Address")), "{ran:?}");
}
