//! Floors: raised, released, restored; and what they must never be.

use axum::http::Method;
use serde_json::json;

use crate::cluster::{HPAS, SCALERS, hpa_path};
use crate::rig::{DAY, MIDNIGHT, NAMESPACE, Rig, STEP, spec, with};

const HOUR: i64 = 3_600;

#[tokio::test]
async fn the_floor_rises_before_the_load_and_is_released_after_it() {
    let mut rig = Rig::new().await;
    rig.scaler(spec());
    let floors = rig.until(MIDNIGHT + DAY).await;
    let at = |hour: i64, minute: i64| {
        let second = MIDNIGHT + hour * HOUR + minute * 60;
        floors.iter().find(|(at, _)| *at == second).unwrap().1
    };
    // Demand comes at eight; the lead time is fifteen minutes.
    assert!(at(6, 0) <= 2, "{floors:?}");
    assert!(at(7, 50) >= 8, "{floors:?}");
    assert!(at(15, 0) >= 8, "{floors:?}");
    assert!(at(21, 0) <= 2, "{floors:?}");
    let events = rig.event_names();
    assert!(events.contains(&"FloorRaised".to_owned()) && events.contains(&"FloorReleased".to_owned()), "{events:?}");
    rig.says("Ready", "True", "Deciding");
    rig.says("ForecastSkilled", "True", "BeatsReferences");
    rig.says("MetricsFresh", "True", "Fresh");
    rig.says("Conflict", "False", "Written");
    let status = rig.status();
    assert_eq!(status["original"], 1);
    assert!(status["forecast"]["peak"].as_str().unwrap().ends_with("/s"), "{status}");
}

#[tokio::test]
async fn a_raised_floor_is_not_taken_for_the_original_after_a_restart() {
    let mut rig = Rig::new().await;
    rig.scaler(spec());
    rig.until(MIDNIGHT + 9 * HOUR).await;
    let raised = rig.floor();
    assert!(raised >= 8);
    let mut rig = rig.restarted().await;
    rig.until(MIDNIGHT + 10 * HOUR).await;
    assert_eq!(rig.status()["original"], 1);
    assert!(rig.floor() >= 8, "nothing is lost by a restart");
    rig.until(MIDNIGHT + 22 * HOUR).await;
    assert!(rig.floor() <= 2, "{}", rig.floor());
    assert_eq!(rig.status()["original"], 1);
}

#[tokio::test]
async fn recommend_mode_writes_nothing_to_an_autoscaler() {
    let mut rig = Rig::new().await;
    rig.scaler(with(json!({"mode": "Recommend"})));
    let before = rig.hpa_writes();
    rig.until(MIDNIGHT + DAY).await;
    assert_eq!(rig.hpa_writes(), before);
    assert_eq!(rig.floor(), 1);
    rig.turn_to(MIDNIGHT + DAY + 9 * HOUR);
    rig.until(MIDNIGHT + DAY + 10 * HOUR).await;
    assert!(rig.status()["recommended"].as_u64().unwrap() >= 8, "it still says what it would do");
    assert_eq!(rig.hpa_writes(), before);
    // Nor is anything promised that a deletion would have to wait for.
    rig.cluster.delete_scaler(NAMESPACE, "web");
    assert_eq!(rig.cluster.get(SCALERS, NAMESPACE, "web"), None);
}

#[tokio::test]
async fn a_field_with_another_owner_is_a_conflict_and_nothing_is_written() {
    let mut rig = Rig::new().await;
    rig.cluster.create_hpa(NAMESPACE, "shop", Some(2), 50);
    rig.cluster.create_scaler(NAMESPACE, "web", with(json!({"hpaRef": {"name": "shop"}})));
    let before = rig.hpa_writes();
    rig.until(MIDNIGHT + 9 * HOUR).await;
    assert_eq!((rig.cluster.min(NAMESPACE, "shop"), rig.hpa_writes()), (2, before));
    rig.says("Conflict", "True", "FieldOwned");
    let (_, _, message) = rig.condition("Conflict");
    assert!(message.contains("kubectl-create") && message.contains("takeOwnership"), "{message}");
    let conflicts = rig.event_names().iter().filter(|reason| *reason == "Conflict").count();
    assert_eq!(conflicts, 1, "said once, not at every step");

    rig.cluster.patch_scaler(NAMESPACE, "web", json!({"spec": {"takeOwnership": true}}));
    rig.until(MIDNIGHT + 10 * HOUR).await;
    assert!(rig.cluster.min(NAMESPACE, "shop") >= 8);
    assert_eq!(rig.status()["original"], 2);
    rig.says("Conflict", "False", "Written");
}

#[tokio::test]
async fn deletion_restores_the_original_and_leaves_no_field_owned() {
    let mut rig = Rig::new().await;
    rig.cluster.create_hpa(NAMESPACE, "shop", Some(3), 50);
    rig.cluster.create_scaler(NAMESPACE, "web", with(json!({"hpaRef": {"name": "shop"}, "takeOwnership": true})));
    rig.until(MIDNIGHT + 9 * HOUR).await;
    assert!(rig.cluster.min(NAMESPACE, "shop") >= 8);
    rig.cluster.delete_scaler(NAMESPACE, "web");
    assert!(rig.cluster.get(SCALERS, NAMESPACE, "web").is_some(), "the finalizer holds it");
    rig.reconcile("web").await.unwrap();
    assert_eq!(rig.cluster.get(SCALERS, NAMESPACE, "web"), None);
    let hpa = rig.cluster.get(HPAS, NAMESPACE, "shop").unwrap();
    assert_eq!(hpa["spec"]["minReplicas"], 3);
    assert!(hpa["metadata"]["annotations"].is_null(), "{hpa}");
    assert!(!hpa["metadata"]["managedFields"].to_string().contains(r#""autoscaler""#), "{hpa}");
    // The owner's next apply meets nobody.
    let apply = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "shop", "namespace": NAMESPACE}, "spec": {"minReplicas": 4},
    });
    let (status, answer) = rig.cluster.hand(Method::PATCH, &hpa_path(NAMESPACE, "shop"), "kubectl", true, apply);
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn deletion_gives_an_absent_field_back_as_absent() {
    let mut rig = Rig::new().await;
    rig.scaler(spec());
    rig.until(MIDNIGHT + 9 * HOUR).await;
    assert!(rig.floor() >= 8);
    rig.cluster.delete_scaler(NAMESPACE, "web");
    rig.reconcile("web").await.unwrap();
    assert_eq!(rig.floor(), 1);
    assert!(!rig.hpa()["metadata"]["managedFields"].to_string().contains(r#""autoscaler""#), "{}", rig.hpa());
}

#[tokio::test]
async fn deletion_without_the_autoscaler_waits_for_nothing() {
    let mut rig = Rig::new().await;
    rig.scaler(spec());
    rig.until(MIDNIGHT + 9 * HOUR).await;
    rig.cluster.hand(Method::DELETE, &hpa_path(NAMESPACE, "web"), "kubectl", false, json!({}));
    rig.cluster.delete_scaler(NAMESPACE, "web");
    rig.reconcile("web").await.unwrap();
    assert_eq!(rig.cluster.get(SCALERS, NAMESPACE, "web"), None);
    assert_eq!(rig.cluster.get(HPAS, NAMESPACE, "web"), None, "it is not made anew");
}

#[tokio::test]
async fn an_expired_floor_is_swept_and_an_enforced_one_is_not() {
    let mut rig = Rig::new().await;
    rig.scaler(spec());
    rig.until(MIDNIGHT + 9 * HOUR).await;
    let raised = rig.floor();
    rig.turn_to(MIDNIGHT + 9 * HOUR + DAY);
    rig.look();
    assert_eq!(autoscaler::cluster::controller::sweep(&rig.context).await.unwrap(), 0, "its scaler enforces it");
    assert_eq!(rig.floor(), raised);
    // The finalizer taken off by force: nobody says farewell.
    rig.cluster.patch_scaler(NAMESPACE, "web", json!({"metadata": {"finalizers": null}}));
    rig.cluster.delete_scaler(NAMESPACE, "web");
    rig.look();
    rig.turn_to(MIDNIGHT + 9 * HOUR);
    assert_eq!(autoscaler::cluster::controller::sweep(&rig.context).await.unwrap(), 0, "it has not expired");
    rig.turn_to(MIDNIGHT + 11 * HOUR);
    assert_eq!(autoscaler::cluster::controller::sweep(&rig.context).await.unwrap(), 1);
    assert_eq!((rig.floor(), rig.hpa()["metadata"]["annotations"].is_null()), (1, true));
}

#[tokio::test]
async fn a_floor_that_stands_is_confirmed_before_it_expires() {
    let mut rig = Rig::new().await;
    rig.scaler(spec());
    rig.until(MIDNIGHT + 9 * HOUR).await;
    let writes = rig.hpa_writes();
    let expires = |rig: &Rig| {
        let note = rig.hpa()["metadata"]["annotations"]["autoscaler.acme.dev/original-minimum"].clone();
        let note: serde_json::Value = serde_json::from_str(note.as_str().unwrap()).unwrap();
        note["expires"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second()
    };
    for _ in 0..48 {
        rig.step().await;
        assert!(expires(&rig) > rig.now(), "a floor expires while it is enforced");
    }
    let writes = rig.hpa_writes() - writes;
    assert!((3..24).contains(&writes), "{writes} writes in four hours of the same floor");
}

#[tokio::test]
async fn what_a_person_sets_is_the_new_original() {
    let mut rig = Rig::new().await;
    rig.scaler(with(json!({"takeOwnership": true})));
    rig.until(MIDNIGHT + 9 * HOUR).await;
    assert!(rig.floor() >= 8);
    rig.cluster.hand(
        Method::PATCH,
        &hpa_path(NAMESPACE, "web"),
        "kubectl-edit",
        false,
        json!({"spec": {"minReplicas": 4}}),
    );
    rig.until(MIDNIGHT + 10 * HOUR).await;
    assert_eq!(rig.status()["original"], 4);
    rig.until(MIDNIGHT + 22 * HOUR).await;
    assert_eq!(rig.floor(), 4);
}

#[tokio::test]
async fn an_autoscaler_that_changes_meanwhile_is_decided_for_again() {
    let mut rig = Rig::new().await;
    rig.scaler(spec());
    let cluster = rig.cluster.clone();
    // As the cluster's own controller, many times a second instead of every fifteen.
    let busy = tokio::spawn(async move {
        for pods in (1..50).cycle() {
            cluster.run_pods(NAMESPACE, "web", pods);
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
    });
    rig.turn_to(MIDNIGHT + 8 * HOUR);
    for _ in 0..6 {
        // At worst it says that it could not, and comes again.
        let _ = rig.reconcile("web").await;
        rig.turn_to(rig.now() + STEP);
    }
    busy.abort();
    rig.step().await;
    assert!(rig.floor() >= 8);
}

#[tokio::test]
async fn a_pause_changes_nothing_until_it_ends() {
    let mut rig = Rig::new().await;
    rig.scaler(spec());
    rig.until(MIDNIGHT + 9 * HOUR).await;
    let raised = rig.floor();
    rig.cluster.patch_scaler(
        NAMESPACE,
        "web",
        json!({"metadata": {"annotations": {"autoscaler.acme.dev/paused": "true"}}}),
    );
    rig.until(MIDNIGHT + DAY + 9 * HOUR).await;
    assert_eq!(rig.floor(), raised);
    rig.says("Ready", "True", "Paused");
    rig.look();
    assert_eq!(autoscaler::cluster::controller::sweep(&rig.context).await.unwrap(), 0, "a pause is no end");
    rig.cluster.patch_scaler(
        NAMESPACE,
        "web",
        json!({"metadata": {"annotations": {"autoscaler.acme.dev/paused": null}}}),
    );
    rig.turn_to(MIDNIGHT + DAY + 22 * HOUR);
    rig.until(MIDNIGHT + DAY + 23 * HOUR).await;
    assert!(rig.floor() <= 2);
}

#[tokio::test]
async fn the_older_of_two_scalers_has_the_autoscaler() {
    let mut rig = Rig::new().await;
    rig.scaler(spec());
    rig.cluster.create_scaler(NAMESPACE, "later", with(json!({"maxFloor": 3})));
    rig.turn_to(MIDNIGHT + 8 * HOUR);
    for _ in 0..3 {
        rig.reconcile("later").await.unwrap();
        rig.step().await;
    }
    assert!(rig.floor() >= 8);
    let later = rig.status_of("later");
    assert_eq!(later["conditions"][0]["reason"], "AnotherScaler", "{later}");
    // When the older one goes, its floor is the other's to decide about.
    rig.cluster.delete_scaler(NAMESPACE, "web");
    rig.reconcile("web").await.unwrap();
    rig.reconcile("later").await.unwrap();
    assert_eq!(rig.floor(), 3);
    assert_eq!(rig.status_of("later")["original"], 1);
}

#[tokio::test]
async fn an_autoscaler_that_is_not_there_yet_is_waited_for() {
    let mut rig = Rig::new().await;
    rig.cluster.create_scaler(NAMESPACE, "web", with(json!({"hpaRef": {"name": "late"}})));
    rig.step().await;
    rig.says("Ready", "False", "NoAutoscaler");
    rig.cluster.create_hpa(NAMESPACE, "late", None, 50);
    rig.until(MIDNIGHT + 9 * HOUR).await;
    rig.says("Ready", "True", "Deciding");
    assert!(rig.cluster.min(NAMESPACE, "late") >= 8);
}

#[tokio::test]
async fn an_annotation_that_cannot_be_read_is_never_written_over() {
    let mut rig = Rig::new().await;
    rig.scaler(spec());
    rig.until(MIDNIGHT + 9 * HOUR).await;
    let raised = rig.floor();
    let broken = json!({"metadata": {"annotations": {"autoscaler.acme.dev/original-minimum": "two"}}});
    rig.cluster.hand(Method::PATCH, &hpa_path(NAMESPACE, "web"), "kubectl-edit", false, broken);
    let writes = rig.hpa_writes();
    rig.until(MIDNIGHT + 22 * HOUR).await;
    assert_eq!((rig.floor(), rig.hpa_writes()), (raised, writes));
    rig.says("Ready", "False", "UnreadableAnnotation");
}

#[tokio::test]
async fn deployments_are_never_touched() {
    let mut rig = Rig::new().await;
    rig.scaler(spec());
    rig.until(MIDNIGHT + DAY).await;
    rig.cluster.delete_scaler(NAMESPACE, "web");
    rig.reconcile("web").await.unwrap();
    for asked in rig.cluster.asked() {
        let known = [HPAS, SCALERS, "leases", "events"].iter().any(|plural| asked.path.contains(plural));
        assert!(known && !asked.path.ends_with("/scale"), "{asked:?}");
        if asked.path.contains(HPAS) {
            assert!(["GET", "PATCH"].contains(&asked.method.as_str()), "{asked:?}");
        }
    }
}

#[tokio::test]
async fn nothing_is_written_behind_a_shut_fence() {
    let mut rig = Rig::new().await;
    rig.scaler(spec());
    rig.until(MIDNIGHT + 7 * HOUR).await;
    rig.fence.shut();
    let writes = (rig.hpa_writes(), rig.cluster.writes(SCALERS));
    rig.turn_to(MIDNIGHT + 8 * HOUR);
    for _ in 0..4 {
        assert!(rig.reconcile("web").await.unwrap_err().contains("does not lead"));
        rig.turn_to(rig.now() + STEP);
    }
    assert_eq!((rig.hpa_writes(), rig.cluster.writes(SCALERS)), writes);
}

#[tokio::test]
async fn a_history_is_asked_for_once_and_then_only_what_is_new() {
    let mut rig = Rig::new().await;
    rig.scaler(spec());
    rig.step().await;
    let first = rig.prometheus.points();
    assert!(first > 4_000, "{first}");
    rig.until(MIDNIGHT + HOUR).await;
    assert!(rig.prometheus.points() - first < 11 * 12, "{}", rig.prometheus.points() - first);
}
