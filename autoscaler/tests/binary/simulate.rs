//! `autoscaler simulate` as a whole: with the real worker, without one, and with hostile ones.

use crate::support::{Ran, autoscaler, bare_python, crate_folder, hostile_home, real_python, run};

const DAILY: [&str; 7] = ["simulate", "--generate", "daily", "--days", "14", "--run", "2d"];

fn json(ran: &Ran) -> serde_json::Value {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

#[track_caller]
fn seconds(found: &serde_json::Value, side: &str) -> u64 {
    found["outcome"][side]["under_provisioned_seconds"].as_u64().unwrap()
}

#[test]
fn without_a_worker_the_naive_in_rust_forecasts_and_the_output_says_so() {
    let ran = run(autoscaler().args(DAILY).args(["--format", "json", "--python", "/nonexistent/python"]));
    assert_eq!(
        ran.stderr,
        "note: forecasting by plain rules in Rust: cannot run `/nonexistent/python`: \
         No such file or directory (os error 2)\n"
    );
    let found = json(&ran);
    let who = found["forecaster"].as_str().unwrap();
    assert!(who.starts_with("plain rules in Rust, because cannot run `/nonexistent/python`"), "{who}");
    assert!(seconds(&found, "alone") > 300, "{}", found["outcome"]["alone"]);
    assert!(seconds(&found, "with_floor") * 2 < seconds(&found, "alone"), "{}", found["outcome"]["with_floor"]);
}

#[test]
fn the_worker_forecasts_when_it_is_present() {
    let Some(python) = real_python("the_worker_forecasts_when_it_is_there") else {
        return;
    };
    let ran = run(autoscaler().args(DAILY).args(["--format", "json", "--python"]).arg(&python));
    assert_eq!(ran.stderr, "");
    let found = json(&ran);
    assert!(
        found["forecaster"].as_str().unwrap().starts_with("plain rules, and the worker's "),
        "{}",
        found["forecaster"]
    );
    assert!(found["gate_open"].as_f64().unwrap() > 0.9, "{}", found["gate_open"]);
    assert!(seconds(&found, "with_floor") * 2 < seconds(&found, "alone"), "{}", found["outcome"]["with_floor"]);
}

#[test]
fn both_forecasters_say_the_same_when_asked_for_the_naive() {
    let Some(python) = real_python("both_forecasters_say_the_same_when_asked_for_the_naive") else {
        return;
    };
    // The worker's seasonal naive by `forecast`, the naive in Rust as a library, on the same samples.
    let sample = crate_folder().join("samples/requests.csv");
    let ran = run(autoscaler()
        .args(["forecast", "--model", "seasonal-naive", "--format", "json", "--horizon", "1h", "--history"])
        .arg(&sample)
        .arg("--python")
        .arg(&python));
    let theirs = json(&ran);
    let bytes = std::fs::read(&sample).unwrap();
    let history = autoscaler::forecast::history::History::parse("requests.csv", &bytes, None).unwrap();
    let question = autoscaler::forecast::protocol::Question {
        samples: history.samples,
        step_seconds: 300,
        // Without a week on the grid both know of one naive only.
        season: 288,
        horizon: 12,
        quantile: 0.9,
        model: "auto".to_owned(),
        lead: None,
        replay: None,
    };
    let ours = autoscaler::forecast::naive::answer(&question).unwrap();
    let theirs_of = |model: &str| {
        let scores = theirs["scores"].as_array().unwrap();
        scores.iter().find(|score| score["model"] == model).unwrap()["mae"].as_f64().unwrap()
    };
    for score in &ours.scores {
        let (ours, theirs) = (score.mae, theirs_of(&score.model));
        // Filled gaps, and the first origin, are all that differs.
        assert!((ours / theirs - 1.0).abs() < 0.03, "{}: {ours} {theirs}", score.model);
    }
}

#[test]
fn a_missing_worker_that_is_wanted_is_an_exit_of_3() {
    let ran = run(autoscaler().args(DAILY).args(["--forecaster", "worker", "--python", "/nonexistent/python"]));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""), "{ran:?}");
    assert!(ran.stderr.starts_with("error: cannot start the forecasting worker\n"), "{ran:?}");
}

#[test]
fn the_same_seed_is_the_same_simulation() {
    let naive = |seed: &str| {
        let ran = run(autoscaler().args(DAILY).args(["--forecaster", "naive", "--seed", seed]));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
        ran.stdout
    };
    assert_eq!(naive("4"), naive("4"));
    assert_ne!(naive("4"), naive("5"));
    assert!(naive("4").starts_with("simulation of a daily load generated from seed 4, 2026-01-17T00:00:00Z to "));
}

#[test]
fn on_noise_the_gate_leaves_everything_as_it_is() {
    let noise = ["simulate", "--generate", "noise", "--days", "9", "--run", "2d", "--forecaster", "naive"];
    let found = json(&run(autoscaler().args(noise).args(["--format", "json"])));
    assert_eq!(found["gate_open"], 0.0);
    assert_eq!(found["outcome"]["alone"], found["outcome"]["with_floor"]);
}

#[test]
fn a_trace_with_gaps_is_simulated_and_its_gaps_do_not_count_as_zero() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("timestamp,value\n");
    for index in 0..10 * 288_u32 {
        // Half an hour of the last day was lost.
        if (2_700..2_706).contains(&index) {
            continue;
        }
        let hour = f64::from(index % 288) / 12.0;
        text += &format!("{},{}\n", 300 * index, if (8.0..20.0).contains(&hour) { 900.0 } else { 100.0 });
    }
    std::fs::write(folder.path().join("load.csv"), text).unwrap();
    let trace = ["simulate", "--trace", "load.csv", "--run", "1d", "--forecaster", "naive"];
    let found = json(&run(autoscaler().current_dir(folder.path()).args(trace).args([
        "--per-pod-capacity",
        "70/s",
        "--format",
        "json",
    ])));
    assert_eq!(found["outcome"]["unknown_seconds"], 7 * 300);
    let steps = found["outcome"]["steps"].as_array().unwrap();
    let lost = |step: &&serde_json::Value| step["needed"].is_null();
    assert_eq!(steps.iter().filter(lost).count(), 7);
    assert!(steps.iter().filter(lost).all(|step| step["floor"].as_u64().unwrap() > 10), "{steps:?}");
}

#[test]
fn the_page_is_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run(autoscaler().current_dir(folder.path()).args(DAILY).args([
        "--forecaster",
        "naive",
        "--html",
        "simulation.html",
    ]));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let html = std::fs::read_to_string(folder.path().join("simulation.html")).unwrap();
    assert_eq!(html.matches("<svg").count(), 6);
    assert!(html.contains("prefers-color-scheme: dark") && !html.contains("<script") && !html.contains("http"));
    let found: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(found.len(), 1);
}

#[track_caller]
fn refuse(more: &[&str], message: &str) {
    let ran = run(autoscaler().arg("simulate").args(["--forecaster", "naive"]).args(more));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
    assert!(ran.stderr.contains(message), "{ran:?}");
}

#[test]
fn what_cannot_be_simulated_says_why() {
    refuse(&[], "--trace <FILE.csv>");
    refuse(&["--generate", "daily", "--trace", "a.csv"], "cannot be used with");
    refuse(&["--trace", "nowhere.csv"], "cannot read the history `nowhere.csv`");
    refuse(
        &["--generate", "daily", "--days", "3", "--run", "3d"],
        "the run of 3d is 864 steps, and the trace has 865 samples",
    );
    refuse(&["--generate", "daily", "--run", "7m"], "the run of 7m is not a multiple of the step of 5m");
    refuse(&["--generate", "daily", "--run", "14d", "--lead-time", "7d"], "are more than 250000 values");
    refuse(&["--generate", "daily", "--min", "9", "--max", "3"], "a maximum of 3 pods is below the minimum of 9");
    refuse(
        &["--generate", "daily", "--html", "/nonexistent/a.html", "--days", "9", "--run", "1d"],
        "cannot write the page",
    );
}

#[test]
fn percent_compared_with_cores_is_refused() {
    refuse(&["--generate", "daily", "--per-pod-capacity", "70%"], "`70%` is a share");
    let cores = ["--generate", "daily", "--per-pod-capacity", "500m"];
    refuse(&[&cores[..], &["--unit", "%"]].concat(), "the capacity of 0.500 cores is in cores, and not in percent");
    refuse(
        &[&cores[..], &["--pod-limit", "2Gi"]].concat(),
        "the capacity of 0.500 cores is in cores, and not in bytes",
    );
}

#[test]
fn too_little_history_before_the_run_is_an_exit_of_4() {
    let short = ["simulate", "--forecaster", "naive", "--generate", "daily", "--days", "2", "--run", "1h"];
    let ran = run(autoscaler().args(short).args(["--season", "2d"]));
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.stderr.contains("cause: a forecast needs 1152 samples, has 576"), "{ran:?}");
    // Where it becomes enough within the run, the beginning is held, and said to be.
    let ran = run(autoscaler().args(short));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stderr, "note: there is no forecast from 11 of 12 origins: more history is needed before them\n");
    assert!(ran.stdout.contains("held without a forecast"), "{ran:?}");
}

#[track_caller]
fn hostile(worker: &str, cause: &str) {
    let Some(python) = bare_python(worker) else {
        return;
    };
    let home = hostile_home(worker);
    let asked = |forecaster: &str| {
        run(autoscaler()
            .env("AUTOSCALER_HOME", home.path())
            .args(DAILY)
            .args(["--deadline", "2s", "--start-deadline", "10s", "--forecaster", forecaster, "--python"])
            .arg(&python))
    };
    let wanted = asked("worker");
    assert_eq!((wanted.code, wanted.stdout.as_str()), (Some(4), ""), "{wanted:?}");
    assert!(wanted.stderr.contains(cause), "{wanted:?}");
    let fallen_back = asked("auto");
    assert_eq!(fallen_back.code, Some(0), "{fallen_back:?}");
    assert!(fallen_back.stderr.starts_with("note: forecasting by plain rules in Rust: "), "{fallen_back:?}");
    assert!(fallen_back.stderr.contains(cause), "{fallen_back:?}");
}

#[test]
fn a_worker_that_writes_garbage_is_replaced_by_the_naive() {
    hostile("garbage_answer", "the worker wrote an invalid line `}{ not json`");
}

#[test]
fn a_worker_that_rolls_too_short_is_replaced_by_the_naive() {
    hostile("short_rolls", "rolling forecasts that are not of 5 steps each");
}

#[test]
fn a_worker_that_hangs_is_replaced_by_the_naive() {
    hostile("hangs", "the worker did not answer within 2s");
}

#[test]
fn with_its_time_zone_a_clock_change_costs_no_whole_day() {
    let short = |args: &[&str]| {
        let call = ["simulate", "--generate", "daily", "--days", "14", "--run", "6d", "--forecaster", "naive"];
        let found =
            json(&run(autoscaler().args(call).args(["--event", "clock-change", "--format", "json"]).args(args)));
        let from = found["from"].as_str().unwrap().to_owned();
        (from, seconds(&found, "with_floor"), seconds(&found, "alone"))
    };
    let (from, with, alone) = short(&["--time-zone", "Europe/Berlin"]);
    // The day of the run on which the zone's clock is put forward.
    assert_eq!(from, "2026-03-29T00:00:00Z");
    let (_, without, _) = short(&[]);
    assert!(with * 20 < alone && without > with + 100, "{with} s with the zone, {without} s without, {alone} s alone");
}

#[test]
fn zones_and_days_that_do_not_exist_are_refused() {
    for (flag, value, problem) in [
        ("--time-zone", "Mars/Olympus", "`Mars/Olympus` is not a time zone such as `Europe/Berlin`"),
        ("--special-day", "2026-02-30", "`2026-02-30` is not a date such as `2026-12-25`"),
        ("--special-day", "2026-12-25=Feast", "`Feast` is not a weekday such as `Sunday`"),
    ] {
        let ran = run(autoscaler().args(DAILY).args([flag, value]));
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(problem), "{ran:?}");
    }
}
