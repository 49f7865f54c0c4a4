//! Faults, and what must not follow from them. Named for the faults that have cost others an outage.

use crate::harness::{DAY, Harness, MIDNIGHT, NAMESPACE, STEP, UNHURRIED, daily, no_worker, spec, with, worker};
use crate::prometheus::{Fault, Load};
use crate::support::{bare_python, crate_folder, hostile_home, real_python};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const HOUR: i64 = 3_600;

/// A world at nine in the morning with its floor raised.
async fn raised() -> Harness {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    harness.turn_to(MIDNIGHT + 8 * HOUR);
    harness.until(MIDNIGHT + 9 * HOUR).await;
    assert!(harness.floor() >= 8, "{}", harness.floor());
    harness
}

/// Under this fault the floor is held for half an hour, then steps back, is never raised, and comes back afterwards.
async fn held_and_stepped_back(fault: Fault, reason: &str) -> Harness {
    let mut harness = raised().await;
    let before = harness.floor();
    harness.prometheus.fault(fault);
    // The last forecast was five minutes before nine.
    let floors = harness.until(MIDNIGHT + 9 * HOUR + 5 * STEP).await;
    assert!(floors.iter().all(|(_, floor)| *floor == before), "no rollback under load: {floors:?}");
    let (fresh, found, message) = harness.condition("MetricsFresh");
    assert_eq!((fresh.as_str(), found.as_str()), ("False", reason), "{message}");
    assert!(harness.event_names().contains(&"FallbackActive".to_owned()));
    let floors = harness.until(MIDNIGHT + 11 * HOUR).await;
    assert!(floors.windows(2).all(|pair| pair[1].1 <= pair[0].1), "never raised: {floors:?}");
    assert_eq!(harness.floor(), 1, "stepped back to the original: {floors:?}");
    assert!(!harness.status()["missing"].as_str().unwrap().is_empty());
    harness.prometheus.fault(Fault::None);
    harness.until(MIDNIGHT + 12 * HOUR).await;
    assert!(harness.floor() >= 8, "it works again");
    harness.says("MetricsFresh", "True", "Fresh");
    harness
}

#[tokio::test]
async fn prometheus_down_under_load_rolls_nothing_back() {
    held_and_stepped_back(Fault::Down, "PrometheusUnreachable").await;
}

#[tokio::test]
async fn stale_metrics_under_load_roll_nothing_back() {
    let mut harness = raised().await;
    let before = harness.floor();
    harness.prometheus.fault(Fault::StaleSince(harness.now()));
    let floors = harness.until(MIDNIGHT + 9 * HOUR + 8 * STEP).await;
    assert!(floors.iter().all(|(_, floor)| *floor == before), "{floors:?}");
    harness.says("MetricsFresh", "False", "Stale");
    harness.until(MIDNIGHT + 12 * HOUR).await;
    assert_eq!(harness.floor(), 1);
}

#[tokio::test]
async fn a_query_that_returns_a_million_points_is_refused_by_its_size() {
    let harness = held_and_stepped_back(Fault::Million, "AnswerTooLarge").await;
    assert!(harness.prometheus.requests() > 0);
}

#[tokio::test]
async fn text_for_numbers_gives_no_demand() {
    held_and_stepped_back(Fault::Text, "AnswerGarbled").await;
}

#[tokio::test]
async fn wrong_sample_spacing_gives_no_demand() {
    let harness = held_and_stepped_back(Fault::WrongSpacing, "WrongSpacing").await;
    drop(harness);
    let mut harness = Harness::new().await;
    harness.prometheus.fault(Fault::Sparse);
    harness.scaler(spec());
    harness.turn_to(MIDNIGHT + 8 * HOUR);
    harness.until(MIDNIGHT + 9 * HOUR).await;
    assert_eq!(harness.floor(), 1);
    harness.says("MetricsFresh", "False", "WrongSpacing");
    assert_eq!(harness.status()["missing"], "the samples are 10m apart, expected 5m");
}

#[tokio::test]
async fn many_series_are_not_added_up_by_guessing() {
    held_and_stepped_back(Fault::Series(3), "ManySeries").await;
}

#[tokio::test]
async fn a_login_page_is_not_an_answer() {
    held_and_stepped_back(Fault::Html, "AnswerGarbled").await;
}

#[tokio::test]
async fn a_query_that_does_not_parse_is_said() {
    let harness = raised().await;
    harness.prometheus.fault(Fault::BadQuery);
    let mut harness = harness;
    harness.step().await;
    harness.says("MetricsFresh", "False", "QueryRefused");
    assert!(harness.status()["missing"].as_str().unwrap().contains("parse error"), "{}", harness.status());
}

#[tokio::test]
async fn a_prometheus_that_hangs_costs_its_deadline_and_no_more() {
    let mut harness = raised().await;
    let before = harness.floor();
    harness.prometheus.fault(Fault::Hangs);
    let began = std::time::Instant::now();
    harness.step().await;
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(harness.floor(), before);
    harness.says("MetricsFresh", "False", "PrometheusUnreachable");
}

#[tokio::test]
async fn nan_and_gaps_are_missing_and_never_zero() {
    let mut harness = raised().await;
    let before = harness.floor();
    // Zeros would release the floor within ten minutes.
    harness.prometheus.fault(Fault::NanSince(harness.now()));
    let floors = harness.until(MIDNIGHT + 9 * HOUR + 8 * STEP).await;
    assert!(floors.iter().all(|(_, floor)| *floor == before), "{floors:?}");

    let mut harness = Harness::new().await;
    harness.prometheus.fault(Fault::Gaps);
    harness.scaler(spec());
    harness.turn_to(MIDNIGHT + 8 * HOUR);
    harness.until(MIDNIGHT + 9 * HOUR).await;
    assert_eq!(harness.floor(), 1);
    assert!(!harness.status()["missing"].is_null(), "{}", harness.status());
}

#[tokio::test]
async fn percent_compared_with_cores_is_refused_everywhere() {
    let mut harness = Harness::of(Arc::new(|_, _| Some(70.0)), no_worker()).await;
    let (status, answer) = harness.cluster.try_scaler(NAMESPACE, "web", with(json!({"perPodCapacity": "70%"})));
    assert_eq!(status, 422);
    assert!(answer["message"].as_str().unwrap().contains("a percentage is not a capacity"), "{answer}");
    // Taken as numbers this would be 140 pods.
    harness.scaler(with(json!({"perPodCapacity": "500m", "unit": "Percent"})));
    harness.turn_to(MIDNIGHT + 8 * HOUR);
    harness.until(MIDNIGHT + 9 * HOUR).await;
    assert_eq!(harness.floor(), 1);
    assert_eq!(harness.status()["missing"], "demand is in percent, capacity in cores");
}

#[tokio::test]
async fn a_per_pod_mean_that_the_autoscaler_itself_regulates_is_not_taken_for_demand() {
    // Twenty pods at seventy of a hundred each, whatever the hour: what is left of a day after the autoscaler.
    let mut harness = Harness::of(
        Arc::new(|_, second| Some(60.0 + 20.0 * ((second % DAY) as f64 / DAY as f64 * std::f64::consts::TAU).sin())),
        no_worker(),
    )
    .await;
    harness.scaler(spec());
    harness.cluster.run_pods(NAMESPACE, "web", 20);
    harness.turn_to(MIDNIGHT + 8 * HOUR);
    harness.until(MIDNIGHT + 9 * HOUR).await;
    assert_eq!(harness.floor(), 1);
    let reasons = harness.status()["reasons"].to_string();
    assert!(reasons.contains("the query looks like a mean per pod"), "{reasons}");
}

#[tokio::test]
async fn too_short_a_history_says_what_is_missing() {
    let begins = MIDNIGHT + 8 * HOUR - 209 * STEP;
    let load: Load = Arc::new(move |query, second| if second < begins { None } else { daily()(query, second) });
    let mut harness = Harness::of(load, no_worker()).await;
    harness.scaler(spec());
    harness.turn_to(MIDNIGHT + 8 * HOUR);
    harness.step().await;
    let missing = harness.status()["missing"].as_str().unwrap().to_owned();
    assert!(missing.contains("needs 576 samples, has 210; query `sum(rate(http_requests_total[2m]))`"), "{missing}");
    // The metrics are present, but only for a short time.
    harness.says("MetricsFresh", "True", "Fresh");
    harness.says("ForecastSkilled", "Unknown", "NotEnoughHistory");
    assert_eq!(harness.floor(), 1);
}

#[tokio::test]
async fn the_gate_stays_shut_on_white_noise() {
    let noise: Load = Arc::new(|_, second| {
        let bits = (second as u64 / 300).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let bits = (bits ^ (bits >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        Some(500.0 + ((bits >> 40) % 1_000) as f64)
    });
    let mut harness = Harness::of(noise, no_worker()).await;
    harness.scaler(spec());
    harness.until(MIDNIGHT + 3 * HOUR).await;
    assert_eq!(harness.floor(), 1);
    harness.says("ForecastSkilled", "False", "NotWorthItsCost");
    assert!(harness.status()["recommended"].as_u64().unwrap() > 5, "it still recommends");
}

#[tokio::test]
async fn a_clock_that_jumps_neither_releases_nor_panics() {
    let mut harness = raised().await;
    let before = harness.floor();
    let now = harness.now();
    for jump in [400 * DAY, -400 * DAY, i64::from(u32::MAX), 0] {
        harness.turn_to(now + jump);
        harness.prometheus.fault(if jump == 0 { Fault::None } else { Fault::StaleSince(now) });
        let _ = harness.reconcile("web").await;
        assert_eq!(harness.floor(), before, "{jump}");
    }
    harness.turn_to(now + STEP);
    harness.step().await;
    assert_eq!(harness.status()["original"], 1);
    assert!(harness.floor() >= 8);
}

#[tokio::test]
async fn an_api_server_that_is_down_is_tried_again_and_the_floor_stays() {
    let mut harness = raised().await;
    let before = harness.floor();
    for status in [500, 503, 429] {
        harness.cluster.fail(status);
        let failed = harness.reconcile("web").await.unwrap_err();
        assert!(failed.contains("etcd is away"), "{failed}");
    }
    harness.cluster.fail(0);
    harness.step().await;
    assert_eq!(harness.floor(), before);
}

#[tokio::test]
async fn a_write_that_is_refused_is_reported() {
    let mut harness = raised().await;
    // As with a role that was cut.
    harness.cluster.forbid(crate::cluster::HPAS);
    harness.turn_to(MIDNIGHT + 21 * HOUR);
    for _ in 0..4 {
        let _ = harness.reconcile("web").await;
        harness.turn_to(harness.now() + STEP);
    }
    harness.says("Ready", "False", "CannotWrite");
    let (_, _, message) = harness.condition("Ready");
    assert!(message.contains("forbidden"), "{message}");
}

/// A world whose worker is one of `tests/workers`, kept alive as the operator does, and has so long for an answer.
async fn with_worker(home: &std::path::Path, python: std::path::PathBuf, worker_within: Duration) -> Harness {
    let supervisor = worker(python, home.to_owned());
    let keeper = Arc::clone(&supervisor);
    tokio::spawn(async move { keeper.keep().await });
    // It ends by itself: a worker that does not say hello within a minute is down.
    while supervisor.status() == autoscaler::forecast::supervisor::Status::Starting {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut harness = Harness::hurried(daily(), supervisor, worker_within).await;
    harness.scaler(spec());
    harness.turn_to(MIDNIGHT + 8 * HOUR);
    harness
}

#[tokio::test]
async fn a_worker_that_writes_garbage_or_dies_or_is_late_is_replaced() {
    let test = "a_worker_that_writes_garbage_or_dies_or_is_late_is_replaced";
    let Some(python) = bare_python(test) else { return };
    for hostile in
        ["garbage_answer", "garbage_hello", "exits_when_asked", "exits_at_once", "short_answer", "wrong_id", "hangs"]
    {
        let home = hostile_home(hostile);
        let mut harness = with_worker(home.path(), python.clone(), Duration::from_secs(1)).await;
        harness.step().await;
        assert!(harness.floor() >= 8, "{hostile}: {}", harness.status());
        assert_eq!(harness.status()["forecast"]["fallback"], true, "{hostile}");
        let (_, note) =
            harness.cluster.events("web").into_iter().find(|(reason, _)| reason == "FallbackActive").unwrap();
        assert!(note.starts_with("the seasonal naive forecasts: "), "{hostile}: {note}");
    }
}

#[tokio::test]
async fn the_worker_forecasts_where_it_can() {
    let Some(python) = real_python("the_worker_forecasts_where_it_can") else { return };
    let mut harness = with_worker(crate_folder(), python, UNHURRIED).await;
    harness.step().await;
    assert!(harness.floor() >= 8, "{}", harness.status());
    assert_eq!(harness.status()["forecast"]["fallback"], false, "{}", harness.status());
    assert!(!harness.event_names().contains(&"FallbackActive".to_owned()));
}
