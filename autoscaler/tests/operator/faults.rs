//! What goes wrong, and what must not come of it. Named for the faults that have cost others an outage.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::prometheus::{Fault, Load};
use crate::rig::{DAY, MIDNIGHT, NAMESPACE, Rig, STEP, daily, no_worker, spec, with, worker};
use crate::support::{bare_python, crate_folder, hostile_home, real_python};

const HOUR: i64 = 3_600;

/// A world at nine in the morning with its floor raised.
async fn raised() -> Rig {
    let mut rig = Rig::new().await;
    rig.scaler(spec());
    rig.turn_to(MIDNIGHT + 8 * HOUR);
    rig.until(MIDNIGHT + 9 * HOUR).await;
    assert!(rig.floor() >= 8, "{}", rig.floor());
    rig
}

/// Under this fault the floor is held for half an hour, then steps back, is never raised, and comes back afterwards.
async fn held_and_stepped_back(fault: Fault, reason: &str) -> Rig {
    let mut rig = raised().await;
    let before = rig.floor();
    rig.prometheus.fault(fault);
    // The last forecast was five minutes before nine.
    let floors = rig.until(MIDNIGHT + 9 * HOUR + 5 * STEP).await;
    assert!(floors.iter().all(|(_, floor)| *floor == before), "no rollback under load: {floors:?}");
    let (fresh, found, message) = rig.condition("MetricsFresh");
    assert_eq!((fresh.as_str(), found.as_str()), ("False", reason), "{message}");
    assert!(rig.event_names().contains(&"FallbackActive".to_owned()));
    let floors = rig.until(MIDNIGHT + 11 * HOUR).await;
    assert!(floors.windows(2).all(|pair| pair[1].1 <= pair[0].1), "never raised: {floors:?}");
    assert_eq!(rig.floor(), 1, "stepped back to the original: {floors:?}");
    assert!(!rig.status()["missing"].as_str().unwrap().is_empty());
    rig.prometheus.fault(Fault::None);
    rig.until(MIDNIGHT + 12 * HOUR).await;
    assert!(rig.floor() >= 8, "it works again");
    rig.says("MetricsFresh", "True", "Fresh");
    rig
}

#[tokio::test]
async fn prometheus_down_under_load_is_no_rollback() {
    held_and_stepped_back(Fault::Down, "PrometheusUnreachable").await;
}

#[tokio::test]
async fn stale_metrics_under_load_are_no_rollback() {
    let mut rig = raised().await;
    let before = rig.floor();
    rig.prometheus.fault(Fault::StaleSince(rig.now()));
    let floors = rig.until(MIDNIGHT + 9 * HOUR + 8 * STEP).await;
    assert!(floors.iter().all(|(_, floor)| *floor == before), "{floors:?}");
    rig.says("MetricsFresh", "False", "Stale");
    rig.until(MIDNIGHT + 12 * HOUR).await;
    assert_eq!(rig.floor(), 1);
}

#[tokio::test]
async fn a_query_that_returns_a_million_points_is_refused_by_its_size() {
    let rig = held_and_stepped_back(Fault::Million, "AnswerTooLarge").await;
    assert!(rig.prometheus.requests() > 0);
}

#[tokio::test]
async fn text_for_numbers_is_no_demand() {
    held_and_stepped_back(Fault::Text, "AnswerGarbled").await;
}

#[tokio::test]
async fn wrong_sample_spacing_is_no_demand() {
    let rig = held_and_stepped_back(Fault::WrongSpacing, "WrongSpacing").await;
    drop(rig);
    let mut rig = Rig::new().await;
    rig.prometheus.fault(Fault::Sparse);
    rig.scaler(spec());
    rig.turn_to(MIDNIGHT + 8 * HOUR);
    rig.until(MIDNIGHT + 9 * HOUR).await;
    assert_eq!(rig.floor(), 1);
    rig.says("MetricsFresh", "False", "WrongSpacing");
    assert_eq!(rig.status()["missing"], "the samples are 10m apart, the policy says 5m");
}

#[tokio::test]
async fn many_series_are_not_added_up_by_guessing() {
    held_and_stepped_back(Fault::Series(3), "ManySeries").await;
}

#[tokio::test]
async fn a_login_page_is_no_answer() {
    held_and_stepped_back(Fault::Html, "AnswerGarbled").await;
}

#[tokio::test]
async fn a_query_that_does_not_parse_is_said() {
    let rig = raised().await;
    rig.prometheus.fault(Fault::BadQuery);
    let mut rig = rig;
    rig.step().await;
    rig.says("MetricsFresh", "False", "QueryRefused");
    assert!(rig.status()["missing"].as_str().unwrap().contains("parse error"), "{}", rig.status());
}

#[tokio::test]
async fn a_prometheus_that_hangs_costs_its_deadline_and_no_more() {
    let mut rig = raised().await;
    let before = rig.floor();
    rig.prometheus.fault(Fault::Hangs);
    let began = std::time::Instant::now();
    rig.step().await;
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(rig.floor(), before);
    rig.says("MetricsFresh", "False", "PrometheusUnreachable");
}

#[tokio::test]
async fn nan_and_gaps_are_missing_and_never_zero() {
    let mut rig = raised().await;
    let before = rig.floor();
    // Zeros would release the floor within ten minutes.
    rig.prometheus.fault(Fault::NanSince(rig.now()));
    let floors = rig.until(MIDNIGHT + 9 * HOUR + 8 * STEP).await;
    assert!(floors.iter().all(|(_, floor)| *floor == before), "{floors:?}");

    let mut rig = Rig::new().await;
    rig.prometheus.fault(Fault::Gaps);
    rig.scaler(spec());
    rig.turn_to(MIDNIGHT + 8 * HOUR);
    rig.until(MIDNIGHT + 9 * HOUR).await;
    assert_eq!(rig.floor(), 1);
    assert!(!rig.status()["missing"].is_null(), "{}", rig.status());
}

#[tokio::test]
async fn percent_compared_with_cores_is_refused_everywhere() {
    let mut rig = Rig::of(Arc::new(|_, _| Some(70.0)), no_worker()).await;
    let (status, answer) = rig.cluster.try_scaler(NAMESPACE, "web", with(json!({"perPodCapacity": "70%"})));
    assert_eq!(status, 422);
    assert!(answer["message"].as_str().unwrap().contains("a percentage is no capacity"), "{answer}");
    // Taken as numbers this would be 140 pods.
    rig.scaler(with(json!({"perPodCapacity": "500m", "unit": "Percent"})));
    rig.turn_to(MIDNIGHT + 8 * HOUR);
    rig.until(MIDNIGHT + 9 * HOUR).await;
    assert_eq!(rig.floor(), 1);
    assert_eq!(rig.status()["missing"], "demand is in percent, capacity in cores");
}

#[tokio::test]
async fn a_per_pod_mean_that_the_autoscaler_itself_regulates_is_not_taken_for_demand() {
    // Twenty pods at seventy of a hundred each, whatever the hour: what is left of a day after the autoscaler.
    let mut rig = Rig::of(
        Arc::new(|_, second| Some(60.0 + 20.0 * ((second % DAY) as f64 / DAY as f64 * std::f64::consts::TAU).sin())),
        no_worker(),
    )
    .await;
    rig.scaler(spec());
    rig.cluster.run_pods(NAMESPACE, "web", 20);
    rig.turn_to(MIDNIGHT + 8 * HOUR);
    rig.until(MIDNIGHT + 9 * HOUR).await;
    assert_eq!(rig.floor(), 1);
    let reasons = rig.status()["reasons"].to_string();
    assert!(reasons.contains("the query looks like a mean per pod"), "{reasons}");
}

#[tokio::test]
async fn too_short_a_history_says_what_is_missing() {
    let begins = MIDNIGHT + 8 * HOUR - 209 * STEP;
    let load: Load = Arc::new(move |query, second| if second < begins { None } else { daily()(query, second) });
    let mut rig = Rig::of(load, no_worker()).await;
    rig.scaler(spec());
    rig.turn_to(MIDNIGHT + 8 * HOUR);
    rig.step().await;
    let missing = rig.status()["missing"].as_str().unwrap().to_owned();
    assert!(missing.contains("needs 576 samples, has 210; query `sum(rate(http_requests_total[2m]))`"), "{missing}");
    // The metrics are there; they are young.
    rig.says("MetricsFresh", "True", "Fresh");
    rig.says("ForecastSkilled", "Unknown", "NotEnoughHistory");
    assert_eq!(rig.floor(), 1);
}

#[tokio::test]
async fn the_gate_stays_shut_on_white_noise() {
    let noise: Load = Arc::new(|_, second| {
        let bits = (second as u64 / 300).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let bits = (bits ^ (bits >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        Some(500.0 + ((bits >> 40) % 1_000) as f64)
    });
    let mut rig = Rig::of(noise, no_worker()).await;
    rig.scaler(spec());
    rig.until(MIDNIGHT + 3 * HOUR).await;
    assert_eq!(rig.floor(), 1);
    rig.says("ForecastSkilled", "False", "NoBetterThanReferences");
    assert!(rig.status()["recommended"].as_u64().unwrap() > 5, "it still recommends");
}

#[tokio::test]
async fn a_clock_that_jumps_neither_releases_nor_panics() {
    let mut rig = raised().await;
    let before = rig.floor();
    let now = rig.now();
    for jump in [400 * DAY, -400 * DAY, i64::from(u32::MAX), 0] {
        rig.turn_to(now + jump);
        rig.prometheus.fault(if jump == 0 { Fault::None } else { Fault::StaleSince(now) });
        let _ = rig.reconcile("web").await;
        assert_eq!(rig.floor(), before, "{jump}");
    }
    rig.turn_to(now + STEP);
    rig.step().await;
    assert_eq!(rig.status()["original"], 1);
    assert!(rig.floor() >= 8);
}

#[tokio::test]
async fn an_api_server_that_is_down_is_tried_again_and_the_floor_stays() {
    let mut rig = raised().await;
    let before = rig.floor();
    for status in [500, 503, 429] {
        rig.cluster.fail(status);
        let failed = rig.reconcile("web").await.unwrap_err();
        assert!(failed.contains("etcd is away"), "{failed}");
    }
    rig.cluster.fail(0);
    rig.step().await;
    assert_eq!(rig.floor(), before);
}

#[tokio::test]
async fn a_write_that_is_refused_is_told() {
    let mut rig = raised().await;
    // As with a role that was cut.
    rig.cluster.forbid(crate::cluster::HPAS);
    rig.turn_to(MIDNIGHT + 21 * HOUR);
    for _ in 0..4 {
        let _ = rig.reconcile("web").await;
        rig.turn_to(rig.now() + STEP);
    }
    rig.says("Ready", "False", "CannotWrite");
    let (_, _, message) = rig.condition("Ready");
    assert!(message.contains("forbidden"), "{message}");
}

/// A world whose worker is one of `tests/workers`, kept alive as the operator does.
async fn with_worker(home: &std::path::Path, python: std::path::PathBuf) -> Rig {
    let supervisor = worker(python, home.to_owned());
    let keeper = Arc::clone(&supervisor);
    tokio::spawn(async move { keeper.keep().await });
    for _ in 0..600 {
        if supervisor.status() != autoscaler::forecast::supervisor::Status::Starting {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut rig = Rig::of(daily(), supervisor).await;
    rig.scaler(spec());
    rig.turn_to(MIDNIGHT + 8 * HOUR);
    rig
}

#[tokio::test]
async fn a_worker_that_writes_garbage_or_dies_or_is_late_is_stood_in_for() {
    let test = "a_worker_that_writes_garbage_or_dies_or_is_late_is_stood_in_for";
    let Some(python) = bare_python(test) else { return };
    for hostile in
        ["garbage_answer", "garbage_hello", "exits_when_asked", "exits_at_once", "short_answer", "wrong_id", "hangs"]
    {
        let home = hostile_home(hostile);
        let mut rig = with_worker(home.path(), python.clone()).await;
        rig.step().await;
        assert!(rig.floor() >= 8, "{hostile}: {}", rig.status());
        assert_eq!(rig.status()["forecast"]["fallback"], true, "{hostile}");
        let (_, note) = rig.cluster.events("web").into_iter().find(|(reason, _)| reason == "FallbackActive").unwrap();
        assert!(note.starts_with("the seasonal naive forecasts: "), "{hostile}: {note}");
    }
}

#[tokio::test]
async fn the_worker_forecasts_where_it_can() {
    let Some(python) = real_python("the_worker_forecasts_where_it_can") else { return };
    let mut rig = with_worker(crate_folder(), python).await;
    rig.step().await;
    assert!(rig.floor() >= 8, "{}", rig.status());
    assert_eq!(rig.status()["forecast"]["fallback"], false, "{}", rig.status());
    assert!(!rig.event_names().contains(&"FallbackActive".to_owned()));
}
