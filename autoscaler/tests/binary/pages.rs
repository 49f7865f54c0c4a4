//! The pages of a state: `simulate --state` writes it, `serve --state` shows it, in a real browser too.

use crate::browser::{Browser, body, gallery, scheme};
use crate::serve::{Server, copy_templates};
use crate::support::{autoscaler, eventually, run};
use autoscaler::floor::decide::Mode;
use autoscaler::floor::units::{Replicas, Unit};
use autoscaler::forecast::history::History;
use autoscaler::show::state::{Condition, Profile, Retention, ScalerName, State};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

/// A week of a made-up load, by the seasonal naive in Rust.
fn simulated(file: &Path, load: &str) {
    let ran = run(autoscaler().args(["simulate", "--generate", load, "--forecaster", "naive", "--state"]).arg(file));
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

fn served(file: &Path, more: &[&dyn AsRef<std::ffi::OsStr>]) -> Server {
    let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"--state", &file];
    args.extend(more);
    // No page of a state asks the worker.
    Server::start(Path::new("/nowhere/python"), &args)
}

/// A scaler with everything that is awkward on a page: markup, no place to break a line, huge numbers.
fn awkward(file: &Path) {
    let state = State::open(file, Retention::default());
    let name = ScalerName::new(
        "a-namespace-whose-name-is-as-long-as-a-cluster-takes-it-63-chars",
        "<img src=x onerror=alert(1)>",
    );
    let condition = |kind: &str, status: &str| Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: "ReasonThatIsOneVeryLongWordWithoutAnyPlaceToBreakIt".to_owned(),
        message: "<script>alert(1)</script> ".repeat(9) + &"unbreakable".repeat(30),
        since: "2026-11-02T03:04:05Z".parse().unwrap(),
    };
    let profile = Profile {
        uid: "1".to_owned(),
        hpa: "h".repeat(253),
        target: Some(format!("Deployment/{}", "d".repeat(63))),
        query: format!("sum(rate(http_requests_total{{app=\"{}\"}}[2m]))", "x".repeat(300)),
        unit: Unit::Bytes,
        capacity: "1048576 bytes".to_owned(),
        mode: Mode::Recommend,
        paused: true,
        step: "1m".parse().unwrap(),
        season: "1d".parse().unwrap(),
        lead_time: "15m".parse().unwrap(),
        quantile: "0.9".parse().unwrap(),
        max_floor: Replicas(u32::MAX),
        max_replicas: Some(Replicas(u32::MAX)),
        floor_status: None,
        conditions: vec![
            condition("Conflict", "True"),
            condition("Ready", "False"),
            condition("MetricsFresh", "Unknown"),
        ],
        missing: Some("needs 576 samples, has 210; the query `".to_owned() + &"q".repeat(200) + "`"),
    };
    state.note(&name, &profile);
    // A million samples, a second apart, up to numbers that no axis is made for.
    let samples = (0..1_000_000).map(|index| (index % 977 != 0).then(|| 1e60 + f64::from(index) * 1e56)).collect();
    let history = History { start: "2026-10-20T00:00:00Z".parse().unwrap(), step: "1s".parse().unwrap(), samples };
    state.remember_samples(&name, "q", &history);
}

const AWKWARD: &str = "/scalers/a-namespace-whose-name-is-as-long-as-a-cluster-takes-it-63-chars/%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E";

#[test]
fn a_simulation_is_looked_at_without_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("demo.db");
    simulated(&file, "daily");
    simulated(&file, "noise");
    let server = served(&file, &[]);
    // There is no worker, and none is needed.
    assert_eq!(server.get("/readyz").0, 200);
    let (status, list) = server.get("/?q=sim");
    assert_eq!(status, 200);
    for part in ["2 workloads with", "&#x2f;scalers&#x2f;simulated&#x2f;daily", "no skill", "enforced"] {
        assert!(list.contains(part), "`{part}` is not in {}", body(&list));
    }
    let (status, page) = server.get("/scalers/simulated/daily");
    assert_eq!(status, 200);
    for part in
        ["<h1>simulated&#x2f;daily</h1>", "Decisions and their reasons", "CoolingDown", "seasonal-naive", "<circle"]
    {
        assert!(page.contains(part), "`{part}` is not in {}", body(&page));
    }
    assert!(server.get("/metrics").1.contains("autoscaler_http_requests_total{path=\"/scalers\",status=\"200\"} 1"));
    assert_eq!(server.end(), Some(0));
}

#[test]
fn what_is_not_known_is_a_page_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("demo.db");
    simulated(&file, "noise");
    let server = served(&file, &[]);
    for path in ["/scalers/shop/nothing", "/scalers/%2e%2e/%3Cb%3E"] {
        let (status, page) = server.get(path);
        assert_eq!(status, 404);
        assert!(page.contains("not found on this replica") && !page.contains("<b>"), "{page}");
    }
    assert_eq!(server.get("/scalers/only-one").0, 404);
}

#[test]
fn the_pages_are_read_only_and_requests_have_ids() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("demo.db");
    simulated(&file, "noise");
    let server = served(&file, &[&"--log", &"debug"]);
    let ask = |method: &str, header: &str| {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        write!(stream, "{method} / HTTP/1.1\r\nhost: test\r\n{header}connection: close\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let answer = ask(method, "");
        assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET, HEAD"), "{method}: {answer}");
    }
    assert!(ask("HEAD", "").starts_with("HTTP/1.1 200"));
    assert!(ask("GET", "x-request-id: trace-7.a\r\n").contains("x-request-id: trace-7.a\r\n"));
    // One that would break a log line is not taken over.
    let own = ask("GET", "x-request-id: a b\"c\r\n");
    assert!(own.contains("x-request-id: ") && !own.contains("a b\"c"), "{own}");
    eventually("the log knows the id", || server.logged_in("answered", "trace-7.a"));
}

#[test]
fn a_template_that_does_not_parse_breaks_its_page_and_no_probe() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("demo.db");
    simulated(&file, "noise");
    let templates = tempfile::tempdir().unwrap();
    copy_templates(templates.path());
    let server = served(&file, &[&"--templates", &templates.path()]);
    std::fs::write(templates.path().join("list.html"), "<h1>\n{% for row in %}").unwrap();
    let (status, broken) = server.get("/");
    assert_eq!(status, 500);
    assert!(broken.contains("list.html:2`\n  cause: syntax error") && broken.contains("hint: correct it"), "{broken}");
    assert_eq!(server.get("/scalers/simulated/noise").0, 200);
    std::fs::write(templates.path().join("layout.html"), "{{ nothing.of.this }}").unwrap();
    assert_eq!(server.get("/scalers/simulated/noise").0, 500);
    // The page of an error needs it too.
    assert_eq!(server.get("/scalers/simulated/nothing").0, 500);
    for probe in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.get(probe).0, 200, "{probe}");
    }
}

#[test]
fn a_state_that_cannot_be_looked_at_is_said_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("demo.db");
    let refused = |hint: &str| {
        let ran = run(autoscaler().args(["serve", "--listen", "127.0.0.1:0", "--state"]).arg(&file));
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.starts_with("error: cannot read the state `") && ran.stderr.contains(hint), "{ran:?}");
    };
    refused("cause: no such file");
    std::fs::write(
        &file,
        "a text that is not a database at all, and long enough to look like the header of one, or so",
    )
    .unwrap();
    refused("cause: file is not a database");
    assert!(!folder.path().join("demo.db.set-aside").exists());
    std::fs::remove_file(&file).unwrap();
    simulated(&file, "noise");
    let _held = State::open(&file, Retention::default());
    refused("cause: another process has the file open");
}

#[test]
fn the_pages_fit_a_phone_and_a_desk_and_can_be_read_by_day_and_night() {
    let Some(browser) = Browser::find("the_pages_fit_a_phone_and_a_desk_and_can_be_read_by_day_and_night") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("demo.db");
    for load in ["daily", "noise"] {
        simulated(&file, load);
    }
    awkward(&file);
    let server = served(&file, &[]);
    let paths = ["/", "/?q=nothing-has-this", "/scalers/simulated/daily", AWKWARD, "/scalers/shop/nothing"];
    let mut pages = Vec::new();
    for path in paths {
        let url = format!("http://{}{path}", server.address);
        let (document, complaints) = browser.open(&url);
        assert!(
            complaints.iter().all(|line| path.ends_with("nothing") && line.contains("404")),
            "{path}: {complaints:?}"
        );
        assert!(
            document.contains("</footer>") && !document.contains("<img") && !document.contains("<script"),
            "{document}"
        );
        let answer = server.get(path).1;
        // The page has no script and none would run: it works without JavaScript.
        assert!(answer.contains("default-src 'none'") && !answer.contains("script-src"), "{answer}");
        pages.push(body(&answer).to_owned());
    }
    let tables = |page: usize| pages[page].matches("<table").count();
    assert_eq!([tables(0), tables(2), tables(3)], [1, 5, 1]);

    for dark in [false, true] {
        let seen = browser.measure(&pages, &[390, 1280], dark);
        assert_eq!(seen.len(), pages.len() * 2);
        for seen in seen {
            let what = format!("{} at {} pixels, dark: {dark}: {seen:?}", paths[seen.page], seen.width);
            assert!(seen.content <= seen.width, "{what}");
            assert!(seen.contrast >= 4.5, "{what}");
            assert_eq!(seen.background == "rgb(14, 20, 27)", dark, "{what}");
            let (rows, charts) = match seen.page {
                0 => (3, 0),
                2 => (40, 3),
                3 => (3, 1),
                _ => (0, 0),
            };
            assert!(seen.rows >= rows, "{what}");
            assert_eq!(seen.charts, charts, "{what}");
        }
    }
    if let Some(folder) = gallery() {
        std::fs::create_dir_all(&folder).unwrap();
        for (name, path, height) in
            [("list", "/", 900), ("scaler", "/scalers/simulated/daily", 1900), ("awkward", AWKWARD, 1900)]
        {
            for (width, dark) in [(1280, false), (1280, true), (500, false), (500, true)] {
                let picture = browser.picture(&format!("http://{}{path}", server.address), width, height, scheme(dark));
                std::fs::write(
                    folder.join(format!("{name}-{width}-{}.png", if dark { "dark" } else { "light" })),
                    picture,
                )
                .unwrap();
            }
        }
    }
}

#[test]
fn a_thousand_workloads_are_listed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("demo.db");
    simulated(&file, "noise");
    {
        let state = State::open(&file, Retention::default());
        let one = state.workload(&ScalerName::new("simulated", "noise"), "1d".parse().unwrap(), 1).unwrap();
        for index in 0..1_000 {
            let name = ScalerName::new("shop", format!("web-{index:04}"));
            state.note(&name, &one.profile);
            state.remember_forecast(&name, one.forecast.as_ref().unwrap());
        }
    }
    let server = served(&file, &[]);
    let started = std::time::Instant::now();
    let (status, page) = server.get("/?page=3");
    assert_eq!(status, 200);
    assert!(page.contains("1001 workloads") && page.contains("page 3 of 11") && page.contains("web-0200"));
    // Probes wait while it is made: an unoptimised build has to do with far less than a probe's patience.
    assert!(started.elapsed().as_secs_f64() < 2.0, "{:?}", started.elapsed());
}
