//! Floors: raised, released, restored; and what they must never be.

use crate::cluster::{HPAS, SCALERS, hpa_path};
use crate::harness::{DAY, Harness, MIDNIGHT, NAMESPACE, STEP, spec, with};
use axum::http::Method;
use serde_json::json;

const HOUR: i64 = 3_600;

#[tokio::test]
async fn the_floor_rises_before_the_load_and_is_released_after_it() {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    let floors = harness.until(MIDNIGHT + DAY).await;
    let at = |hour: i64, minute: i64| {
        let second = MIDNIGHT + hour * HOUR + minute * 60;
        floors.iter().find(|(at, _)| *at == second).unwrap().1
    };
    // Demand comes at eight; the lead time is fifteen minutes.
    assert!(at(6, 0) <= 2, "{floors:?}");
    assert!(at(7, 50) >= 8, "{floors:?}");
    assert!(at(15, 0) >= 8, "{floors:?}");
    assert!(at(21, 0) <= 2, "{floors:?}");
    let events = harness.event_names();
    assert!(events.contains(&"FloorRaised".to_owned()) && events.contains(&"FloorReleased".to_owned()), "{events:?}");
    harness.says("Ready", "True", "Deciding");
    harness.says("ForecastSkilled", "True", "WorthItsCost");
    harness.says("MetricsFresh", "True", "Fresh");
    harness.says("Conflict", "False", "Written");
    let status = harness.status();
    assert_eq!(status["original"], 1);
    assert!(status["forecast"]["peak"].as_str().unwrap().ends_with("/s"), "{status}");
}

#[tokio::test]
async fn a_raised_floor_is_not_taken_for_the_original_after_a_restart() {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    harness.morning().await;
    let raised = harness.floor();
    assert!(raised >= 8);
    let mut harness = harness.restarted().await;
    harness.until(MIDNIGHT + 10 * HOUR).await;
    assert_eq!(harness.status()["original"], 1);
    assert!(harness.floor() >= 8, "nothing is lost by a restart");
    harness.turn_to(MIDNIGHT + 19 * HOUR);
    harness.until(MIDNIGHT + 22 * HOUR).await;
    assert!(harness.floor() <= 2, "{}", harness.floor());
    assert_eq!(harness.status()["original"], 1);
}

#[tokio::test]
async fn recommend_mode_writes_nothing_to_an_autoscaler() {
    let mut harness = Harness::new().await;
    harness.scaler(with(json!({"mode": "Recommend"})));
    let before = harness.hpa_writes();
    harness.morning().await;
    assert_eq!(harness.hpa_writes(), before);
    assert_eq!(harness.floor(), 1);
    harness.turn_to(MIDNIGHT + DAY + 9 * HOUR);
    harness.until(MIDNIGHT + DAY + 10 * HOUR).await;
    assert!(harness.status()["recommended"].as_u64().unwrap() >= 8, "it still says what it would do");
    assert_eq!(harness.hpa_writes(), before);
    // Nor is anything promised that a deletion would have to wait for.
    harness.cluster.delete_scaler(NAMESPACE, "web");
    assert_eq!(harness.cluster.get(SCALERS, NAMESPACE, "web"), None);
}

#[tokio::test]
async fn a_field_with_another_owner_is_a_conflict_and_nothing_is_written() {
    let mut harness = Harness::new().await;
    harness.cluster.create_hpa(NAMESPACE, "shop", Some(2), 50);
    harness.cluster.create_scaler(NAMESPACE, "web", with(json!({"hpaRef": {"name": "shop"}})));
    let before = harness.hpa_writes();
    harness.morning().await;
    assert_eq!((harness.cluster.min(NAMESPACE, "shop"), harness.hpa_writes()), (2, before));
    harness.says("Conflict", "True", "FieldOwned");
    let (_, _, message) = harness.condition("Conflict");
    assert!(message.contains("kubectl-create") && message.contains("takeOwnership"), "{message}");
    let conflicts = harness.event_names().iter().filter(|reason| *reason == "Conflict").count();
    assert_eq!(conflicts, 1, "said once, not at every step");

    harness.cluster.patch_scaler(NAMESPACE, "web", json!({"spec": {"takeOwnership": true}}));
    harness.until(MIDNIGHT + 10 * HOUR).await;
    assert!(harness.cluster.min(NAMESPACE, "shop") >= 8);
    assert_eq!(harness.status()["original"], 2);
    harness.says("Conflict", "False", "Written");
}

#[tokio::test]
async fn deletion_restores_the_original_and_leaves_no_field_owned() {
    let mut harness = Harness::new().await;
    harness.cluster.create_hpa(NAMESPACE, "shop", Some(3), 50);
    harness.cluster.create_scaler(NAMESPACE, "web", with(json!({"hpaRef": {"name": "shop"}, "takeOwnership": true})));
    harness.morning().await;
    assert!(harness.cluster.min(NAMESPACE, "shop") >= 8);
    harness.cluster.delete_scaler(NAMESPACE, "web");
    assert!(harness.cluster.get(SCALERS, NAMESPACE, "web").is_some(), "the finalizer holds it");
    harness.reconcile("web").await.unwrap();
    assert_eq!(harness.cluster.get(SCALERS, NAMESPACE, "web"), None);
    let hpa = harness.cluster.get(HPAS, NAMESPACE, "shop").unwrap();
    assert_eq!(hpa["spec"]["minReplicas"], 3);
    assert!(hpa["metadata"]["annotations"].is_null(), "{hpa}");
    assert!(!hpa["metadata"]["managedFields"].to_string().contains(r#""autoscaler""#), "{hpa}");
    // The owner's next apply meets nobody.
    let apply = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "shop", "namespace": NAMESPACE}, "spec": {"minReplicas": 4},
    });
    let (status, answer) = harness.cluster.hand(Method::PATCH, &hpa_path(NAMESPACE, "shop"), "kubectl", true, apply);
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn deletion_gives_an_absent_field_back_as_absent() {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    harness.morning().await;
    assert!(harness.floor() >= 8);
    harness.cluster.delete_scaler(NAMESPACE, "web");
    harness.reconcile("web").await.unwrap();
    assert_eq!(harness.floor(), 1);
    assert!(!harness.hpa()["metadata"]["managedFields"].to_string().contains(r#""autoscaler""#), "{}", harness.hpa());
}

#[tokio::test]
async fn deletion_without_the_autoscaler_waits_for_nothing() {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    harness.morning().await;
    harness.cluster.hand(Method::DELETE, &hpa_path(NAMESPACE, "web"), "kubectl", false, json!({}));
    harness.cluster.delete_scaler(NAMESPACE, "web");
    harness.reconcile("web").await.unwrap();
    assert_eq!(harness.cluster.get(SCALERS, NAMESPACE, "web"), None);
    assert_eq!(harness.cluster.get(HPAS, NAMESPACE, "web"), None, "it is not created again");
}

#[tokio::test]
async fn an_expired_floor_is_swept_and_an_enforced_one_is_not() {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    harness.morning().await;
    let raised = harness.floor();
    harness.turn_to(MIDNIGHT + 9 * HOUR + DAY);
    harness.look();
    assert_eq!(autoscaler::cluster::controller::sweep(&harness.context).await.unwrap(), 0, "its scaler enforces it");
    assert_eq!(harness.floor(), raised);
    // The finalizer taken off by force: nobody says farewell.
    harness.cluster.patch_scaler(NAMESPACE, "web", json!({"metadata": {"finalizers": null}}));
    harness.cluster.delete_scaler(NAMESPACE, "web");
    harness.look();
    harness.turn_to(MIDNIGHT + 9 * HOUR);
    assert_eq!(autoscaler::cluster::controller::sweep(&harness.context).await.unwrap(), 0, "it has not expired");
    harness.turn_to(MIDNIGHT + 11 * HOUR);
    assert_eq!(autoscaler::cluster::controller::sweep(&harness.context).await.unwrap(), 1);
    assert_eq!((harness.floor(), harness.hpa()["metadata"]["annotations"].is_null()), (1, true));
}

#[tokio::test]
async fn a_floor_in_force_is_confirmed_before_it_expires() {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    harness.morning().await;
    let writes = harness.hpa_writes();
    let expires = |harness: &Harness| {
        let note = harness.hpa()["metadata"]["annotations"]["autoscaler.acme.dev/original-minimum"].clone();
        let note: serde_json::Value = serde_json::from_str(note.as_str().unwrap()).unwrap();
        note["expires"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second()
    };
    for _ in 0..48 {
        harness.step().await;
        assert!(expires(&harness) > harness.now(), "a floor expires while it is enforced");
    }
    let writes = harness.hpa_writes() - writes;
    assert!((3..24).contains(&writes), "{writes} writes in four hours of the same floor");
}

#[tokio::test]
async fn what_a_person_sets_is_the_new_original() {
    let mut harness = Harness::new().await;
    harness.scaler(with(json!({"takeOwnership": true})));
    harness.morning().await;
    assert!(harness.floor() >= 8);
    harness.cluster.hand(
        Method::PATCH,
        &hpa_path(NAMESPACE, "web"),
        "kubectl-edit",
        false,
        json!({"spec": {"minReplicas": 4}}),
    );
    harness.until(MIDNIGHT + 10 * HOUR).await;
    assert_eq!(harness.status()["original"], 4);
    harness.turn_to(MIDNIGHT + 19 * HOUR);
    harness.until(MIDNIGHT + 22 * HOUR).await;
    assert_eq!(harness.floor(), 4);
}

#[tokio::test]
async fn an_autoscaler_that_changes_meanwhile_is_decided_for_again() {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    harness.turn_to(MIDNIGHT + 8 * HOUR);
    // More often than one reconcile tries: it says so, and writes nothing.
    harness.cluster.disturb(6);
    let failed = harness.reconcile("web").await.unwrap_err();
    assert!(failed.contains("changes faster"), "{failed}");
    assert_eq!((harness.floor(), harness.hpa_writes()), (1, 0));
    // The next reconcile meets the two changes that are left, and decides a third time.
    harness.reconcile("web").await.unwrap();
    assert!(harness.cluster.undisturbed());
    assert!(harness.floor() >= 8, "{}", harness.status());
}

#[tokio::test]
async fn a_pause_changes_nothing_until_it_ends() {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    harness.morning().await;
    let raised = harness.floor();
    harness.cluster.patch_scaler(
        NAMESPACE,
        "web",
        json!({"metadata": {"annotations": {"autoscaler.acme.dev/paused": "true"}}}),
    );
    harness.until(MIDNIGHT + 10 * HOUR).await;
    harness.turn_to(MIDNIGHT + DAY + 7 * HOUR);
    harness.until(MIDNIGHT + DAY + 9 * HOUR).await;
    assert_eq!(harness.floor(), raised);
    harness.says("Ready", "True", "Paused");
    harness.look();
    assert_eq!(autoscaler::cluster::controller::sweep(&harness.context).await.unwrap(), 0, "a pause is not an end");
    harness.cluster.patch_scaler(
        NAMESPACE,
        "web",
        json!({"metadata": {"annotations": {"autoscaler.acme.dev/paused": null}}}),
    );
    harness.turn_to(MIDNIGHT + DAY + 22 * HOUR);
    harness.until(MIDNIGHT + DAY + 23 * HOUR).await;
    assert!(harness.floor() <= 2);
}

#[tokio::test]
async fn the_older_of_two_scalers_has_the_autoscaler() {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    harness.cluster.create_scaler(NAMESPACE, "later", with(json!({"maxFloor": 3})));
    harness.turn_to(MIDNIGHT + 8 * HOUR);
    for _ in 0..3 {
        harness.reconcile("later").await.unwrap();
        harness.step().await;
    }
    assert!(harness.floor() >= 8);
    let later = harness.status_of("later");
    assert_eq!(later["conditions"][0]["reason"], "AnotherScaler", "{later}");
    // When the older one goes, its floor is the other's to decide about.
    harness.cluster.delete_scaler(NAMESPACE, "web");
    harness.reconcile("web").await.unwrap();
    harness.reconcile("later").await.unwrap();
    assert_eq!(harness.floor(), 3);
    assert_eq!(harness.status_of("later")["original"], 1);
}

#[tokio::test]
async fn an_autoscaler_that_does_not_exist_yet_is_waited_for() {
    let mut harness = Harness::new().await;
    harness.cluster.create_scaler(NAMESPACE, "web", with(json!({"hpaRef": {"name": "late"}})));
    harness.step().await;
    harness.says("Ready", "False", "NoAutoscaler");
    harness.cluster.create_hpa(NAMESPACE, "late", None, 50);
    harness.morning().await;
    harness.says("Ready", "True", "Deciding");
    assert!(harness.cluster.min(NAMESPACE, "late") >= 8);
}

#[tokio::test]
async fn an_annotation_that_cannot_be_read_is_never_written_over() {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    harness.morning().await;
    let raised = harness.floor();
    let broken = json!({"metadata": {"annotations": {"autoscaler.acme.dev/original-minimum": "two"}}});
    harness.cluster.hand(Method::PATCH, &hpa_path(NAMESPACE, "web"), "kubectl-edit", false, broken);
    let writes = harness.hpa_writes();
    harness.turn_to(MIDNIGHT + 19 * HOUR);
    harness.until(MIDNIGHT + 22 * HOUR).await;
    assert_eq!((harness.floor(), harness.hpa_writes()), (raised, writes));
    harness.says("Ready", "False", "UnreadableAnnotation");
}

#[tokio::test]
async fn deployments_are_never_touched() {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    harness.morning().await;
    harness.turn_to(MIDNIGHT + 19 * HOUR);
    harness.until(MIDNIGHT + 22 * HOUR).await;
    harness.cluster.delete_scaler(NAMESPACE, "web");
    harness.reconcile("web").await.unwrap();
    for asked in harness.cluster.asked() {
        let known = [HPAS, SCALERS, "leases", "events"].iter().any(|plural| asked.path.contains(plural));
        assert!(known && !asked.path.ends_with("/scale"), "{asked:?}");
        if asked.path.contains(HPAS) {
            assert!(["GET", "PATCH"].contains(&asked.method.as_str()), "{asked:?}");
        }
    }
}

#[tokio::test]
async fn nothing_is_written_behind_a_shut_fence() {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    harness.turn_to(MIDNIGHT + 6 * HOUR);
    harness.until(MIDNIGHT + 7 * HOUR).await;
    harness.fence.shut();
    let writes = (harness.hpa_writes(), harness.cluster.writes(SCALERS));
    harness.turn_to(MIDNIGHT + 8 * HOUR);
    for _ in 0..4 {
        assert!(harness.reconcile("web").await.unwrap_err().contains("no longer the leader"));
        harness.turn_to(harness.now() + STEP);
    }
    assert_eq!((harness.hpa_writes(), harness.cluster.writes(SCALERS)), writes);
}

#[tokio::test]
async fn a_history_is_asked_for_once_and_then_only_what_is_new() {
    let mut harness = Harness::new().await;
    harness.scaler(spec());
    harness.step().await;
    let first = harness.prometheus.points();
    assert!(first > 4_000, "{first}");
    harness.until(MIDNIGHT + HOUR).await;
    assert!(harness.prometheus.points() - first < 11 * 12, "{}", harness.prometheus.points() - first);
}
