//! `stats` over the real binary, and its page in a real browser.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use xtask_host::clock;
use xtask_model::record::ledger::{self, BuildKind, Bytes, Record};
use xtask_model::time::Timestamp;

fn record(kind: BuildKind, hours_ago: u64, seconds: f64) -> Record {
    Record {
        schema: ledger::SCHEMA,
        when: clock::now() - Duration::from_secs(3600 * hours_ago),
        app: None,
        commit: None,
        branch: None,
        decision: kind,
        reasons: vec!["app: `autoscaler/templates/layout.html` was edited".to_owned()],
        change: None,
        seconds,
        phases: vec![("plan".to_owned(), 0.1), ("app build".to_owned(), seconds / 2.0)],
        bytes: Bytes { built: Some(1_000_000), pushed: Some(900_000), ..Bytes::default() },
        steps: None,
        engine: None,
        platform: Some("linux/amd64".parse().unwrap()),
        cores: 2,
        ci: false,
        failed: None,
    }
}

/// A folder with a policy and a ledger.
fn repository(records: &[Record]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for name in ["images.toml", "dockerfiles", "requirements-enhanced.txt", "requirements-enhanced.lock"] {
        assert!(Command::new("cp").arg("-r").arg(source.join(name)).arg(folder.path()).status().unwrap().success());
    }
    for record in records {
        xtask_host::tree::ledger::append(folder.path(), record).unwrap();
    }
    folder
}

fn stats(folder: &Path, args: &[&str]) -> Output {
    let root = folder.to_str().unwrap();
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(["--root", root, "stats"]).args(args).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Ten fast builds, of which the last five took `last` seconds.
fn fast(last: f64) -> Vec<Record> {
    (0..10).map(|n| record(BuildKind::Fast, 20 - n, if n < 5 { 2.0 } else { last })).collect()
}

#[test]
fn without_a_ledger_there_is_nothing_and_no_failure() {
    let folder = repository(&[]);
    let output = stats(folder.path(), &["--gate-factor", "1.5"]);
    assert_eq!((output.status.code(), &*out(&output)), (Some(0), "no build was recorded in this period\n"));
    assert!(err(&output).contains("passed: no fast build is recorded in this time"), "{}", err(&output));
    let few = stats(repository(&fast(2.0)[..3]).path(), &["--gate-factor", "1.5"]);
    let said = "passed: local, linux/amd64, 2 cores: 3 fast builds are recorded, 10 are needed to compare";
    assert!(few.status.success() && err(&few).contains(said), "{}", err(&few));
}

#[test]
fn what_is_not_measured_is_not_claimed() {
    let folder = repository(&fast(2.0));
    let said = out(&stats(folder.path(), &[]));
    assert!(
        said.contains("time saved: not known") && said.contains("measure one: `cargo xtask build-enhanced`"),
        "{said}"
    );
    xtask_host::tree::ledger::append(folder.path(), &record(BuildKind::Enhanced, 24 * 40, 102.0)).unwrap();
    let said = out(&stats(folder.path(), &[]));
    let sum = "time saved: 16 min 40 s = 10 fast builds x 1 min 42 s from scratch - 20.0 s for the fast builds\n";
    assert!(said.contains(sum), "{said}");
    // A cold build among them counts with its own time, not as one of its kind.
    xtask_host::tree::ledger::append(folder.path(), &record(BuildKind::Fast, 1, 80.0)).unwrap();
    let said = out(&stats(folder.path(), &[]));
    assert!(
        said.contains(
            "time saved: 17 min 02 s = 11 fast builds x 1 min 42 s from scratch - 1 min 40 s for the fast builds"
        ),
        "{said}"
    );
    assert!(said.is_ascii(), "plain signs where there is no terminal:\n{said}");
}

#[test]
fn a_half_written_line_is_reported_and_skipped() {
    let folder = repository(&fast(2.0));
    let path = folder.path().join(ledger::PATH);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 30]).unwrap();
    let output = stats(folder.path(), &["--format", "json"]);
    assert!(err(&output).contains("target/ledger/builds.jsonl:10: skipped"), "{}", err(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(xtask::documents::STATS.unlisted(&json), [""; 0]);
    assert_eq!((&json["builds"], &json["machines"][0]["kinds"]["fast"]["median"]), (&9.into(), &2.0.into()));
    assert_eq!(json["records"].as_array().unwrap().len(), 9);
}

#[test]
fn the_gate_fails_with_the_code_of_drift() {
    let open = stats(repository(&fast(2.9)).path(), &["--gate-factor", "1.5"]);
    assert_eq!(open.status.code(), Some(0), "{}", err(&open));
    let closed = stats(repository(&fast(3.1)).path(), &["--gate-factor", "1.5"]);
    assert_eq!(closed.status.code(), Some(6));
    let said = "error: fast builds have become slower, by more than 1.5 times\n  \
                cause: local, linux/amd64, 2 cores: 3.10 s instead of 2.00 s (medians of 5)\n";
    assert!(err(&closed).contains(said), "{}", err(&closed));
    // Slow runners next to a fast laptop do not count as slower builds, and hide none.
    let with_ci = |last: f64| {
        let in_ci = fast(90.0).into_iter().enumerate().map(|(n, record)| Record {
            ci: true,
            seconds: 90.0,
            when: Timestamp::from_second(record.when.as_second() + 60 * n as i64).unwrap(),
            ..record
        });
        repository(&fast(last).into_iter().chain(in_ci).collect::<Vec<_>>())
    };
    assert_eq!(stats(with_ci(2.9).path(), &["--gate-factor", "1.5"]).status.code(), Some(0));
    assert_eq!(stats(with_ci(3.1).path(), &["--gate-factor", "1.5"]).status.code(), Some(6));
    let usage = stats(repository(&[]).path(), &["--gate-factor", "0.5"]);
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn a_time_that_is_asked_for_is_the_time_that_counts() {
    let folder = repository(&[record(BuildKind::Fast, 24 * 40, 2.0), record(BuildKind::Base, 1, 20.0)]);
    let count = |since: &str| {
        let json = out(&stats(folder.path(), &["--since", since, "--format", "json"]));
        serde_json::from_str::<serde_json::Value>(&json).unwrap()["builds"].clone()
    };
    assert_eq!([count("30d"), count("8w"), count("10m")], [1, 2, 0]);
}

fn chromium() -> Option<std::path::PathBuf> {
    let found = ["chromium", "chromium-browser", "google-chrome"].iter().find_map(|name| which::which(name).ok());
    if found.is_none() {
        let why = "no `chromium` on the PATH";
        assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "{why}");
        println!("skipped: {why}");
    }
    found
}

/// Runs the browser on a page, in a profile of its own.
fn browse(program: &Path, folder: &Path, args: &[&str], page: &Path) -> Output {
    let output = Command::new(program)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .args(args)
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", err(&output));
    output
}

/// Returns `fits` if the page fits into a window of this width, else the width that it needs.
fn fits(program: &Path, folder: &Path, page: &Path, width: u32) -> String {
    let text = std::fs::read_to_string(page).unwrap().replace('&', "&amp;").replace('"', "&quot;");
    let measure = "document.title = (d => d.scrollWidth > d.clientWidth ? d.scrollWidth + ' wide' : 'fits')\
                   (this.contentDocument.documentElement)";
    let frame = folder.join("frame.html");
    let html = format!(
        "<title>unmeasured</title><iframe width={width} height=900 onload=\"{measure}\" srcdoc=\"{text}\"></iframe>"
    );
    std::fs::write(&frame, html).unwrap();
    let dom = out(&browse(program, folder, &["--dump-dom"], &frame));
    let title = dom.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>")).map(|(title, _)| title);
    title.unwrap_or("no title").to_owned()
}

#[test]
fn the_page_is_drawn_by_a_real_browser() {
    let Some(program) = chromium() else { return };
    let mut records = fast(3.0);
    records.extend([
        record(BuildKind::Enhanced, 30, 300.0),
        record(BuildKind::BaseFast, 25, 45.0),
        record(BuildKind::Reused, 2, 0.2),
    ]);
    records[3].failed = Some("step `smoke` failed: <b>".to_owned());
    let folder = repository(&records);
    let page = folder.path().join("stats.html");
    let written = stats(folder.path(), &["--html", page.to_str().unwrap()]);
    assert_eq!(written.status.code(), Some(0), "{}", err(&written));
    // What the browser makes of it: nothing is lost to a tag that was not closed, and texts stay texts.
    let dom = out(&browse(&program, folder.path(), &["--dump-dom"], &page));
    assert_eq!(dom.matches("<circle").count(), 12);
    assert!(dom.contains("failed: step `smoke` failed: &lt;b&gt;") && dom.contains("</footer>"), "{dom}");
    // It fits a phone and a desk: nothing but the drawings, which scroll by themselves, is wider than the window.
    for width in [360, 1100] {
        assert_eq!(fits(&program, folder.path(), &page, width), "fits", "at {width} pixels");
    }
    for (name, size) in [("desktop", "--window-size=1100,1500"), ("phone", "--window-size=500,2400")] {
        let picture = folder.path().join(format!("{name}.png"));
        let shot = format!("--screenshot={}", picture.display());
        browse(&program, folder.path(), &[&shot, size], &page);
        let bytes = std::fs::read(&picture).unwrap();
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 20_000, "{name} is {} bytes", bytes.len());
    }
}
