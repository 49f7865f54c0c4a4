//! A `PredictiveScaler` as the pages show it, whether or not it can be understood: its spec, and what its status says.
//! Pure.

use super::{Mode, PredictiveScaler, PredictiveScalerStatus};
use autoscaler_floor::decide;
use autoscaler_floor::units::{Capacity, Replicas, Unit};
use autoscaler_forecast::Quantile;
use autoscaler_forecast::span::Span;
use autoscaler_show::state::{Condition, FloorStatus, Profile};
use kube::ResourceExt;

const STEP: Span = Span::from_seconds(300).unwrap();
const DAY: Span = Span::from_seconds(86_400).unwrap();

/// Returns the profile of a scaler with this status. It has no data from the autoscaler itself.
pub fn of(scaler: &PredictiveScaler, status: Option<&PredictiveScalerStatus>) -> Profile {
    let spec = &scaler.spec;
    let capacity = spec.per_pod_capacity.parse::<Capacity>();
    let quantile = spec.quantile.and_then(|share| Quantile::try_from(share).ok()).unwrap_or_default();
    let floor_status = status.and_then(|status| {
        let pods = |count: Option<u32>| count.map(Replicas);
        Some(FloorStatus {
            original: pods(status.original)?,
            floor: pods(status.floor)?,
            recommended: pods(status.recommended),
        })
    });
    let conditions = status.iter().flat_map(|status| &status.conditions).map(|condition| Condition {
        kind: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        since: condition.last_transition_time.0,
    });
    Profile {
        uid: scaler.uid().unwrap_or_default(),
        hpa: spec.hpa_ref.name.clone(),
        target: None,
        query: spec.query.clone(),
        unit: spec
            .unit
            .map(Unit::from)
            .or(capacity.as_ref().ok().map(|capacity| capacity.unit()))
            .unwrap_or(Unit::Count),
        capacity: capacity.map_or_else(|_| spec.per_pod_capacity.clone(), |capacity| capacity.to_string()),
        mode: match spec.mode {
            Mode::Recommend => decide::Mode::Recommend,
            Mode::Enforce => decide::Mode::Enforce,
        },
        paused: scaler.paused(),
        step: spec.step.parse().unwrap_or(STEP),
        season: spec.season.parse().unwrap_or(DAY),
        lead_time: spec.lead_time.parse().unwrap_or(STEP),
        quantile,
        max_floor: Replicas(spec.max_floor),
        max_replicas: None,
        floor_status,
        conditions: conditions.collect(),
        missing: status.and_then(|status| status.missing.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scaler(spec: serde_json::Value, status: serde_json::Value) -> PredictiveScaler {
        serde_json::from_value(json!({
            "apiVersion": "autoscaler.acme.dev/v1alpha1",
            "kind": "PredictiveScaler",
            "metadata": { "name": "web", "namespace": "shop", "uid": "u", "annotations": { "autoscaler.acme.dev/paused": "yes" } },
            "spec": spec,
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_scaler_is_shown_as_its_status_tells() {
        let condition = json!({
            "type": "Ready", "status": "True", "reason": "Deciding", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let scaler = scaler(
            json!({ "hpaRef": { "name": "web" }, "query": "sum(x)", "perPodCapacity": "500m", "maxFloor": 9, "mode": "Enforce" }),
            json!({ "original": 2, "floor": 5, "missing": "needs 576 samples", "conditions": [condition] }),
        );
        let profile = of(&scaler, scaler.status.as_ref());
        assert_eq!((profile.capacity.as_str(), profile.unit, profile.paused), ("0.500 cores", Unit::Cores, true));
        assert_eq!((profile.step, profile.season), (STEP, DAY));
        let floor_status = FloorStatus { original: Replicas(2), floor: Replicas(5), recommended: None };
        assert_eq!(profile.floor_status, Some(floor_status));
        assert_eq!(profile.conditions[0].good(), Some(true));
        assert_eq!(profile.missing.as_deref(), Some("needs 576 samples"));
    }

    #[test]
    fn a_spec_that_cannot_be_understood_is_shown_as_it_is() {
        let spec = json!({
            "hpaRef": { "name": "web" }, "query": "", "perPodCapacity": "many", "maxFloor": 0, "step": "never", "quantile": 7.0,
        });
        let profile = of(&scaler(spec, json!(null)), None);
        assert_eq!((profile.capacity.as_str(), profile.unit), ("many", Unit::Count));
        assert_eq!((profile.step, profile.quantile.share(), profile.floor_status), (STEP, 0.9, None));
    }
}
