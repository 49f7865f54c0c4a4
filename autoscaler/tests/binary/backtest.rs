//! `autoscaler backtest` as a whole: the real binary with the real worker, with hostile ones, and with hostile files.

use crate::support::{Ran, autoscaler, bare_python, crate_folder, hostile_home, real_python, run};
use std::fmt::Write;
use std::time::{Duration, Instant};

const SAMPLE: &str = "samples/requests.csv";

#[test]
fn the_sample_is_backtested_at_each_lead() {
    let Some(python) = real_python("the_sample_is_backtested_at_each_lead") else {
        return;
    };
    let ran = run(autoscaler()
        .current_dir(crate_folder())
        .args(["backtest", "--history", SAMPLE, "--lead", "1h,15m", "--format", "json", "--python"])
        .arg(&python));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let leads = found["leads"].as_array().unwrap();
    assert_eq!((&leads[0]["lead"], &leads[1]["lead"]), (&"15m".into(), &"1h".into()));
    for lead in leads {
        let row = |model: &str| {
            let rows = lead["rows"].as_array().unwrap();
            rows.iter().find(|row| row["model"] == model).unwrap_or_else(|| panic!("{model}: {lead}")).clone()
        };
        let number = |model: &str, column: &str| row(model)[column].as_f64().unwrap();
        assert!(number("forecast", "mase") < number("seasonal-naive", "mase"), "{lead}");
        assert!(number("forecast", "pinball") < number("seasonal-naive", "pinball"), "{lead}");
        assert!((0.85..=0.95).contains(&number("forecast", "coverage")), "{lead}");
        assert_eq!(lead["gate_open_now"], true);
    }
    // How it is printed depends neither on its length nor on the number of leads.
    let folder = tempfile::tempdir().unwrap();
    let sample = std::fs::read_to_string(crate_folder().join(SAMPLE)).unwrap();
    let part: String = sample.lines().take(2_001).map(|line| format!("{line}\n")).collect();
    std::fs::write(folder.path().join("part.csv"), part).unwrap();
    let text = run(autoscaler()
        .current_dir(folder.path())
        .args(["backtest", "--history", "part.csv", "--lead", "15m", "--python"])
        .arg(&python));
    assert_eq!(text.code, Some(0), "{text:?}");
    assert!(text.stdout.starts_with("backtest of `part.csv`\nhistory  2000 samples every 5m, "), "{text:?}");
    assert!(text.stdout.contains("\n15m ahead: ") && text.stdout.contains(" forecasts; gate open at "), "{text:?}");
    let model = |line: &&str| line.starts_with("seasonal-naive ");
    assert_eq!(text.stdout.lines().filter(model).count(), 1, "{text:?}");
}

#[track_caller]
fn of_file(text: &str, more: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("load.csv"), text).unwrap();
    run(autoscaler()
        .current_dir(folder.path())
        .env("AUTOSCALER_PYTHON", "/nonexistent/python")
        .args(["backtest", "--history", "load.csv"])
        .args(more))
}

#[track_caller]
fn refuse(text: &str, cause: &str) {
    let ran = of_file(text, &[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
    assert!(ran.stderr.starts_with("error: cannot read the history `load.csv`\n"), "{ran:?}");
    assert!(ran.stderr.contains(cause), "{ran:?}");
}

#[test]
fn hostile_files_are_refused_at_their_line() {
    refuse("", "load.csv:1:1: the file is empty");
    refuse("timestamp,value\n", "load.csv:1:1: no sample after the header");
    refuse("timestamp,value\n0,1\n300,twelve\n", "load.csv:3:5: value `twelve` is not a number");
    refuse("timestamp,value\n0,1\n300,2\n300,3\n", "load.csv:4:1: the timestamp of line 3 again");
    refuse("timestamp,value\n0,1\n300,2\n60,3\n", "load.csv:4:1: earlier than line 3");
    refuse("timestamp,value\n0,1\n300,2\n600,2\n90000000000,3\n", "more than the 527040 that are read");
    refuse("timestamp,value\n0,1\n300,2\n600,3\n917,4\n", "load.csv:5:1: 17s off the 5m grid");
}

#[test]
fn a_million_points_are_refused_in_seconds() {
    let mut text = String::from("timestamp,value\n");
    for minute in 0..1_000_000_u64 {
        writeln!(text, "{},{}", 60 * minute, minute % 1_440).unwrap();
    }
    let started = Instant::now();
    refuse(&text, "1000000 steps of 1m after line 2, more than the 527040 that are read");
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn options_that_do_not_fit_the_file_are_refused_without_a_worker() {
    let good = "timestamp,value\n0,1\n300,2\n600,3\n";
    for (more, message) in [
        (&["--lead", "7m"][..], "the lead of 7m is not a multiple of the step of 5m"),
        (&["--season", "7m"], "the season of 7m is not a multiple of the step of 5m"),
        (&["--lead", "15d"], "the lead of 15d is 4320 steps, more than 4032"),
        (&["--step", "1m"], "the samples are 5m or more apart, the step is 1m"),
    ] {
        let ran = of_file(good, more);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(message), "{ran:?}");
    }
    assert_eq!(of_file(good, &["--lead", "soon"]).code, Some(2));
    assert_eq!(of_file(good, &[]).code, Some(3), "no worker");
}

#[test]
fn a_history_with_too_many_gaps_or_too_short_says_so() {
    let Some(python) = real_python("a_history_with_too_many_gaps_or_too_short_says_so") else {
        return;
    };
    let python = python.to_str().unwrap();
    let row = |index: u64| format!("{},{}\n", 300 * index, index % 288);
    let holes: String = (0..3_000).filter(|index| index % 4 != 1).map(row).collect();
    let ran = of_file(&format!("timestamp,value\n{holes}"), &["--step", "5m", "--python", python]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.stderr.contains("750 of 3000 samples are missing, more than 20%"), "{ran:?}");

    let short: String = (0..40).map(row).collect();
    let ran = of_file(&format!("timestamp,value\n{short}"), &["--python", python]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.stderr.contains("samples before its first origin, has 20"), "{ran:?}");
    assert!(ran.stderr.contains("hint: "), "{ran:?}");
}

#[track_caller]
fn hostile(worker: &str, cause: &str) {
    let Some(python) = bare_python(worker) else {
        return;
    };
    let home = hostile_home(worker);
    let ran = run(autoscaler()
        .env("AUTOSCALER_HOME", home.path())
        .args(["backtest", "--deadline", "2s", "--start-deadline", "10s", "--history"])
        .arg(crate_folder().join(SAMPLE))
        .arg("--python")
        .arg(&python));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(4), ""), "{ran:?}");
    assert!(ran.stderr.contains(cause), "{}", ran.stderr);
}

#[test]
fn a_worker_that_writes_garbage() {
    hostile("garbage_answer", "the worker wrote an invalid line `}{ not json`");
}

#[test]
fn a_worker_that_answers_for_another_lead() {
    hostile("short_rolls", "`: a backtest of 1 leads for 1");
}

#[test]
fn a_worker_that_hangs() {
    hostile("hangs", "the worker did not answer within 2s");
}
