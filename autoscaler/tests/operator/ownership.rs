//! Ownership of `spec.minReplicas`, and the effects of a change of owner, mode or installation.

use crate::cluster::{HPAS, SCALERS, hpa_path};
use crate::harness::{Harness, MIDNIGHT, NAMESPACE, STEP, spec, with};
use crate::prometheus::Fault;
use autoscaler::cluster::controller::Identity;
use axum::http::Method;
use serde_json::{Value, json};

const HOUR: i64 = 3_600;
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An autoscaler `shop` as client-side `kubectl apply` makes it of a manifest with this spec, and a scaler for it.
async fn client_side(manifest: Value) -> Harness {
    let harness = Harness::new().await;
    let mut spec = json!({
        "maxReplicas": 50, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"},
    });
    for (name, value) in manifest.as_object().unwrap() {
        spec[name] = value.clone();
    }
    let applied = json!({"spec": spec}).to_string();
    let body = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "spec": spec,
        "metadata": {"name": "shop", "namespace": NAMESPACE, "annotations": {LAST_APPLIED: applied}},
    });
    let path = format!("/apis/autoscaling/v2/namespaces/{NAMESPACE}/{HPAS}");
    let (status, answer) = harness.cluster.hand(Method::POST, &path, "kubectl-client-side-apply", false, body);
    assert_eq!(status, 201, "{answer}");
    assert_eq!(answer["spec"]["minReplicas"].as_u64(), manifest["minReplicas"].as_u64().or(Some(1)));
    harness.cluster.create_scaler(NAMESPACE, "web", with(json!({"hpaRef": {"name": "shop"}})));
    harness
}

#[tokio::test]
async fn client_side_apply_without_min_replicas_is_not_a_permanent_conflict() {
    let mut harness = client_side(json!({})).await;
    harness.turn_to(MIDNIGHT + 7 * HOUR);
    harness.until(MIDNIGHT + 8 * HOUR + 2 * STEP).await;
    assert!(harness.cluster.min(NAMESPACE, "shop") >= 6, "{}", harness.status());
    assert_eq!(harness.condition("Conflict").0, "False");
    let events = harness.cluster.events("web");
    let taken = events.iter().find(|(reason, _)| reason == "DefaultTaken");
    let (_, note) = taken.expect("an event says that the default was taken");
    assert!(note.contains("default of 1") && note.contains("kubectl-client-side-apply"), "{note}");
}

#[tokio::test]
async fn client_side_apply_with_min_replicas_stays_a_conflict() {
    let mut harness = client_side(json!({"minReplicas": 1})).await;
    harness.turn_to(MIDNIGHT + 7 * HOUR);
    harness.until(MIDNIGHT + 8 * HOUR).await;
    assert_eq!(harness.cluster.min(NAMESPACE, "shop"), 1);
    harness.says("Conflict", "True", "FieldOwned");
}

#[tokio::test]
async fn lowering_max_floor_makes_room_for_a_lower_max_replicas_at_once() {
    let mut harness = raised().await;
    let lower = || json!({"spec": {"maxReplicas": 4}});
    let (status, answer) = harness.cluster.hand(Method::PATCH, &hpa_path(NAMESPACE, "web"), "owner", false, lower());
    assert_eq!(status, 422, "{answer}");
    harness.cluster.patch_scaler(NAMESPACE, "web", json!({"spec": {"maxFloor": 4}}));
    harness.reconcile("web").await.unwrap();
    assert!(harness.floor() <= 4, "{}", harness.floor());
    let (status, answer) = harness.cluster.hand(Method::PATCH, &hpa_path(NAMESPACE, "web"), "owner", false, lower());
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn leaving_enforce_releases_the_floor_within_scale_down_delay() {
    let mut harness = raised().await;
    harness.cluster.patch_scaler(NAMESPACE, "web", json!({"spec": {"mode": "Recommend"}}));
    harness.until(harness.now() + 600).await;
    assert_eq!(harness.floor(), 1);
    assert!(harness.hpa()["metadata"]["annotations"].as_object().is_none_or(|all| all.is_empty()), "{}", harness.hpa());
    let events = harness.cluster.events("web");
    assert!(events.iter().any(|(_, note)| note.ends_with("the mode is Recommend")), "{events:?}");
    let before = harness.hpa_writes();
    harness.until(harness.now() + HOUR).await;
    assert_eq!(harness.hpa_writes(), before);
}

#[tokio::test]
async fn the_floor_metric_is_the_field_in_the_cluster_under_conflict_too() {
    let mut harness = client_side(json!({"minReplicas": 2})).await;
    harness.turn_to(MIDNIGHT + 7 * HOUR);
    harness.until(MIDNIGHT + 8 * HOUR).await;
    harness.says("Conflict", "True", "FieldOwned");
    assert_eq!(floor_metric(&harness), 2);
    let mut harness = raised().await;
    assert_eq!(floor_metric(&harness), harness.floor());
    harness.cluster.patch_scaler(NAMESPACE, "web", json!({"spec": {"mode": "Recommend"}}));
    harness.step().await;
    assert_eq!((floor_metric(&harness), harness.floor()), (1, 1));
}

#[tokio::test]
async fn ready_is_false_when_the_query_is_refused() {
    let mut harness = raised().await;
    harness.prometheus.fault(Fault::BadQuery);
    harness.step().await;
    harness.says("Ready", "False", "QueryRefused");
    let (_, _, message) = harness.condition("Ready");
    assert!(message.contains("parse error") && message.contains("correct spec.query"), "{message}");
}

#[tokio::test]
async fn two_installations_do_not_both_write() {
    let mut first = raised().await;
    first.step().await;
    let (floor, status) = (first.floor(), first.status());
    assert_eq!(status["operator"], "autoscaler/autoscaler");
    let mut second = first.of_installation(Identity { name: "other/autoscaler".to_owned(), class: None }).await;
    let before = (second.hpa_writes(), second.cluster.writes(SCALERS));
    second.step().await;
    assert_eq!((second.hpa_writes(), second.cluster.writes(SCALERS)), before);
    assert_eq!((second.floor(), second.status()), (floor, status));
    // The first one is gone for good.
    second.turn_to(second.now() + HOUR);
    second.step().await;
    assert_eq!(second.status()["operator"], "other/autoscaler");
}

#[tokio::test]
async fn a_scaler_of_another_class_is_left_alone() {
    let mut harness = Harness::new().await;
    harness.scaler(with(json!({"operatorClass": "blue"})));
    let before = (harness.hpa_writes(), harness.cluster.writes(SCALERS));
    harness.turn_to(MIDNIGHT + 8 * HOUR);
    harness.step().await;
    assert_eq!((harness.hpa_writes(), harness.cluster.writes(SCALERS)), before);
    let identity = Identity { name: "blue/autoscaler".to_owned(), class: Some("blue".to_owned()) };
    let mut harness = harness.of_installation(identity).await;
    harness.step().await;
    assert_eq!(harness.status()["operator"], "blue/autoscaler");
}

#[tokio::test]
async fn the_text_of_an_event_counts_what_it_says() {
    let mut harness = Harness::new().await;
    harness.scaler(with(json!({"maxStepUp": 3})));
    harness.turn_to(MIDNIGHT + 8 * HOUR);
    harness.step().await;
    let events = harness.cluster.events("web");
    let (_, note) = events.iter().find(|(reason, _)| reason == "FloorRaised").expect("a floor was raised");
    // One pod and three more, of which the text says why it is not as many as are needed.
    assert!(note.starts_with("minReplicas from 1 to 4: demand of "), "{note}");
    assert!(note.contains(" needs ") && note.ends_with(" is needed, maxStepUp allows 4"), "{note}");
}

/// The usual world at nine, with a raised floor.
async fn raised() -> Harness {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    harness.turn_to(MIDNIGHT + 8 * HOUR);
    harness.until(MIDNIGHT + 9 * HOUR).await;
    assert!(harness.floor() >= 6, "{}", harness.status());
    harness
}

fn floor_metric(harness: &Harness) -> u64 {
    let demands = &harness.context.demands;
    let text = demands.metrics.text(&demands.supervisor, Some(&demands.state)).unwrap();
    let line = text.lines().find(|line| line.starts_with("autoscaler_floor_replicas{")).expect("the metric is shown");
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}
