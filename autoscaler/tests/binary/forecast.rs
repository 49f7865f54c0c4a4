//! `autoscaler forecast` as a whole: the real binary with the real worker, with hostile ones, and with none.

use crate::support::{
    Ran, alive, autoscaler, bare_python, crate_folder, eventually, hostile_home, real_python, run, signal,
};
use std::process::Stdio;
use std::time::{Duration, Instant};

const SAMPLE: &str = "samples/requests.csv";

fn of_sample(python: &std::path::Path, more: &[&str]) -> Ran {
    run(autoscaler()
        .current_dir(crate_folder())
        .args(["forecast", "--history", SAMPLE])
        .args(more)
        .arg("--python")
        .arg(python))
}

#[test]
fn the_sample_is_forecast_with_skill() {
    let Some(python) = real_python("the_sample_is_forecast_with_skill") else {
        return;
    };
    let ran = of_sample(&python, &["--horizon", "1h", "--format", "json"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(found["skilled"], true);
    assert!(found["skill"].as_f64().unwrap() > 0.3, "{found}");
    assert_eq!(found["history"]["samples"], 5844);
    assert_eq!(found["history"]["interpolated"], 4);
    let points = found["points"].as_array().unwrap();
    assert_eq!(points.len(), 12);
    assert_eq!(points[0]["time"], "2026-03-23T07:00:00Z");
    assert_eq!(points[11]["time"], "2026-03-23T07:55:00Z");
    for point in points {
        let value = |name: &str| point[name].as_f64().unwrap();
        assert!(value("lower") < value("mean") && value("mean") < value("upper"), "{point}");
    }
    // Monday's rise has begun: a forecast that only repeats Sunday would not see it.
    assert!(points[11]["mean"].as_f64().unwrap() > 1.3 * points[0]["mean"].as_f64().unwrap(), "{found}");
}

#[test]
fn text_and_csv_show_the_same_forecast() {
    let Some(python) = real_python("text_and_csv_show_the_same_forecast") else {
        return;
    };
    let text = of_sample(&python, &[]);
    assert_eq!(text.code, Some(0), "{text:?}");
    let csv = of_sample(&python, &["--format", "csv"]);
    assert!(text.stdout.starts_with("forecast of `samples/requests.csv`\nhistory  5844 samples every 5m"), "{text:?}");
    assert!(csv.stdout.starts_with("timestamp,mean,lower,upper\n2026-03-23T07:00:00Z,"), "{csv:?}");
    let first: f64 = csv.stdout.lines().nth(1).unwrap().split(',').nth(1).unwrap().parse().unwrap();
    assert!(text.stdout.contains(&format!("2026-03-23T07:00:00Z  {first:>5.1}")), "{text:?} {csv:?}");
}

#[test]
fn a_short_history_says_what_is_missing() {
    let Some(python) = real_python("a_short_history_says_what_is_missing") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let sample = std::fs::read_to_string(crate_folder().join(SAMPLE)).unwrap();
    let short: String = sample.lines().take(211).map(|line| format!("{line}\r\n")).collect();
    std::fs::write(folder.path().join("short.csv"), format!("\u{feff}{short}")).unwrap();
    let of_short = |more: &[&str]| {
        run(autoscaler()
            .current_dir(folder.path())
            .args(["forecast", "--history", "short.csv"])
            .args(more)
            .arg("--python")
            .arg(&python))
    };
    let ran = of_short(&[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("seasonal-naive needs 576 samples, has 210"), "{ran:?}");
    assert!(ran.stdout.contains("skill    none"), "{ran:?}");

    let wanted = of_short(&["--model", "holt-winters"]);
    assert_eq!(wanted.code, Some(4), "{wanted:?}");
    assert_eq!(
        wanted.stderr,
        "error: cannot forecast\n  cause: model `holt-winters` needs 864 samples, has 210\n\n\
         hint: give a longer history, or `auto` as the model\n"
    );
}

#[test]
fn nothing_is_written() {
    let Some(python) = real_python("nothing_is_written") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("home/forecaster");
    std::fs::create_dir_all(&package).unwrap();
    for entry in std::fs::read_dir(crate_folder().join("forecaster")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), package.join(entry.file_name())).unwrap();
        }
    }
    let list = || {
        let mut found = Vec::new();
        let mut open = vec![folder.path().to_owned()];
        while let Some(next) = open.pop() {
            for entry in std::fs::read_dir(next).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    open.push(entry.path());
                }
                found.push(entry.path());
            }
        }
        found.sort();
        found
    };
    let before = list();
    let ran = run(autoscaler()
        .current_dir(folder.path())
        .env("AUTOSCALER_HOME", "home")
        .env("HOME", folder.path())
        .env("TMPDIR", folder.path())
        .env_remove("PYTHONDONTWRITEBYTECODE")
        .arg("forecast")
        .arg("--history")
        .arg(crate_folder().join(SAMPLE))
        .arg("--python")
        .arg(&python));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(list(), before);
}

#[test]
fn a_closed_pipe_is_a_quiet_end() {
    let Some(python) = real_python("a_closed_pipe_is_a_quiet_end") else {
        return;
    };
    let mut child = autoscaler()
        .arg("forecast")
        .arg("--history")
        .arg(crate_folder().join(SAMPLE))
        .arg("--python")
        .arg(&python)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn bad_input_needs_no_worker_to_be_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("load.csv"), "timestamp,value\n0,1\n300,lots\n300,2\n").unwrap();
    let of_load = |more: &[&str]| {
        run(autoscaler()
            .current_dir(folder.path())
            .args(["forecast", "--python", "/nonexistent/python", "--history"])
            .args(more))
    };
    let ran = of_load(&["load.csv"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    assert_eq!(
        ran.stderr,
        "error: cannot read the history `load.csv`\n  cause: load.csv:3:5: value `lots` is not a number\n\n\
         hint: one sample a row, in order of time, evenly spaced; a missing value is empty, never 0\n"
    );
    let missing = of_load(&["nowhere.csv"]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.stderr.starts_with("error: cannot read the history `nowhere.csv`\n  cause: No such file"));
    let sample = crate_folder().join(SAMPLE);
    let sample = sample.to_str().unwrap();
    let uneven = of_load(&[sample, "--horizon", "7m"]);
    assert_eq!(uneven.code, Some(2));
    assert!(uneven.stderr.contains("the horizon of 7m is not a multiple of the step of 5m"), "{uneven:?}");
    for usage in
        [&["load.csv", "--horizon", "soon"][..], &["load.csv", "--quantile", "2"], &["load.csv", "--model", "oracle"]]
    {
        assert_eq!(of_load(usage).code, Some(2), "{usage:?}");
    }
}

#[test]
fn a_missing_python_is_an_exit_of_3() {
    let ran = run(autoscaler()
        .args(["forecast", "--python", "/nonexistent/python", "--history"])
        .arg(crate_folder().join(SAMPLE)));
    assert_eq!(ran.code, Some(3));
    assert_eq!(
        ran.stderr,
        "error: cannot start the forecasting worker\n  \
         cause: cannot run `/nonexistent/python`: No such file or directory (os error 2)\n\n\
         hint: name a Python with `--python` or AUTOSCALER_PYTHON\n"
    );
}

#[test]
fn the_version_is_one_line() {
    let ran = run(autoscaler().arg("--version"));
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("autoscaler {}\n", env!("CARGO_PKG_VERSION"))));
}

/// A hostile worker ends in a certain exit code and a cause, and never in a hang.
#[track_caller]
fn hostile(worker: &str, code: i32, cause: &str) {
    let Some(python) = bare_python(worker) else {
        return;
    };
    let home = hostile_home(worker);
    let started = Instant::now();
    let ran = run(autoscaler()
        .env("AUTOSCALER_HOME", home.path())
        .args(["forecast", "--deadline", "2s", "--start-deadline", "2s", "--history"])
        .arg(crate_folder().join(SAMPLE))
        .arg("--python")
        .arg(&python));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{ran:?}");
    assert!(ran.stderr.contains(cause), "{}", ran.stderr);
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn garbage_before_hello() {
    hostile("garbage_hello", 3, "the worker wrote an invalid line `Welcome to Python!\\u{1b}[31m`");
}

#[test]
fn garbage_for_an_answer() {
    hostile("garbage_answer", 4, "the worker wrote an invalid line `}{ not json`");
}

#[test]
fn an_answer_to_another_question() {
    hostile("wrong_id", 4, "the worker wrote an invalid line `forecast 2`: no answer to this request");
}

#[test]
fn a_forecast_of_another_length() {
    hostile("short_answer", 4, "a forecast of [11, 11, 11] values for 12 steps");
}

#[test]
fn silence_after_hello() {
    hostile("hangs", 4, "the worker did not answer within 2s");
}

#[test]
fn silence_instead_of_hello() {
    hostile("never_says_hello", 3, "the worker did not answer within 2s");
}

#[test]
fn an_end_at_once() {
    hostile(
        "exits_at_once",
        3,
        "the worker ended with exit status: 1; last line on stderr: cannot import what the worker needs: No module named 'numpy'",
    );
}

#[test]
fn an_end_when_asked() {
    hostile("exits_when_asked", 4, "the worker ended with exit status: 9");
}

#[test]
fn another_protocol() {
    hostile("old_protocol", 3, "the worker has protocol version 0, this binary has version 1");
}

#[test]
fn a_signal_ends_the_worker_too() {
    let Some(python) = bare_python("a_signal_ends_the_worker_too") else {
        return;
    };
    let home = hostile_home("hangs");
    let mut child = autoscaler()
        .env("AUTOSCALER_HOME", home.path())
        .args(["forecast", "--history"])
        .arg(crate_folder().join(SAMPLE))
        .arg("--python")
        .arg(&python)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mark = home.path().join("forecaster/process");
    let mut worker = None;
    eventually("the worker notes its process", || {
        worker = std::fs::read_to_string(&mark).ok().and_then(|text| text.parse().ok());
        worker.is_some()
    });
    signal("TERM", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(4));
    eventually("the worker is gone", || !alive(worker.unwrap()));
}
