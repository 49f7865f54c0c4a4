//! All writes to the cluster: the minimum of a HorizontalPodAutoscaler, and a scaler's finalizer and status.
//!
//! One server-side apply sets the minimum and the annotation with the original. It names the version that the decision was
//! made on: a newer version refuses the write and is never overwritten, so two replicas that both believe to lead cannot undo
//! each other. Nothing is written without a leader's `Fence`. Deployments are never touched.

use crate::crd::{FINALIZER, PredictiveScaler, PredictiveScalerStatus, status};
use autoscaler_floor::minimum::{self, Minimum};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Name of our field manager.
pub const MANAGER: &str = "autoscaler";

/// Time until which this process may write.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<Mutex<Option<Instant>>>);

impl Fence {
    /// Allows writes until `until`.
    pub fn open(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Stops all writes.
    pub fn shut(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns true if writes are allowed now.
    pub fn is_open(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }
}

/// Reason that nothing was written.
#[derive(Debug)]
pub enum Refused {
    /// This process is no longer the leader.
    NotLeading,
    /// Other managers own the field, as the API server describes them.
    Owned(String),
    /// The object has changed since it was read, or is gone.
    Changed,
    /// The API server refuses the write, or does not answer.
    Failed(kube::Error),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::NotLeading => f.write_str("this replica is no longer the leader"),
            Refused::Owned(by) => write!(f, "`spec.minReplicas` is owned by another field manager: {by}"),
            Refused::Changed => f.write_str("the object has changed since it was read"),
            Refused::Failed(cause) => write!(f, "the API server: {}", describe(cause)),
        }
    }
}

impl std::error::Error for Refused {}

/// An API error in one line.
pub fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(inner) = cause {
                let inner_text = inner.to_string();
                if !text.contains(&inner_text) {
                    text.push_str(": ");
                    text.push_str(&inner_text);
                }
                cause = inner.source();
            }
            text
        }
    }
}

impl From<kube::Error> for Refused {
    fn from(error: kube::Error) -> Refused {
        let kube::Error::Api(status) = &error else { return Refused::Failed(error) };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        let owners: Vec<&str> =
            causes.filter(|cause| cause.reason == "FieldManagerConflict").map(|cause| cause.message.as_str()).collect();
        match status.code {
            409 if !owners.is_empty() => Refused::Owned(owners.join(", ")),
            404 | 409 => Refused::Changed,
            _ => Refused::Failed(error),
        }
    }
}

/// Writer of all changes to the cluster.
#[derive(Clone)]
pub struct Actor {
    client: Client,
    fence: Fence,
}

impl Actor {
    /// Writes through `client` as long as the fence is open.
    pub fn new(client: Client, fence: Fence) -> Actor {
        Actor { client, fence }
    }

    fn leading(&self) -> Result<(), Refused> {
        if self.fence.is_open() { Ok(()) } else { Err(Refused::NotLeading) }
    }

    /// Sets the minimum and its annotation, as they were decided on what `hpa` says.
    pub async fn set_minimum(
        &self,
        hpa: &HorizontalPodAutoscaler,
        patch: &minimum::Patch,
        take_ownership: bool,
    ) -> Result<HorizontalPodAutoscaler, Refused> {
        self.leading()?;
        let params = PatchParams::apply(MANAGER);
        let params = if take_ownership { params.force() } else { params };
        let api: Api<HorizontalPodAutoscaler> =
            Api::namespaced(self.client.clone(), &hpa.namespace().unwrap_or_default());
        Ok(api.patch(&hpa.name_any(), &params, &Patch::Apply(minimum_body(hpa, patch))).await?)
    }

    /// Gives an autoscaler back to its owner: restores the original minimum, and removes the annotation and our field ownership.
    /// Returns true if there was something to restore.
    pub async fn restore(&self, hpa: &HorizontalPodAutoscaler, take_ownership: bool) -> Result<bool, Refused> {
        let Ok(minimum) = read_minimum(hpa) else {
            // The original is unknown: keeping the floor is safer than guessing a number.
            tracing::warn!(hpa = %hpa.name_any(), "cannot read the original minimum: the floor is kept");
            return Ok(false);
        };
        let noted = hpa.annotations().contains_key(minimum::ANNOTATION);
        if !noted && !owns_something(hpa) {
            return Ok(false);
        }
        let back = minimum.patch(minimum.original(), Timestamp::UNIX_EPOCH);
        let restored = match self.set_minimum(hpa, &back, take_ownership).await {
            // Another manager has set the same number that we had raised to: it owns the field now, and only the annotation is removed.
            Err(Refused::Owned(by)) => {
                tracing::info!(hpa = %hpa.name_any(), by, "the minimum has another owner: only the annotation is removed");
                self.set_minimum(hpa, &minimum::Patch { field: None, annotation: None }, false).await?
            }
            other => other?,
        };
        self.disown(&restored).await?;
        Ok(noted)
    }

    /// Removes our ownership of the fields that now have the owner's values, so that the owner's next apply has no conflict.
    async fn disown(&self, hpa: &HorizontalPodAutoscaler) -> Result<(), Refused> {
        if !owns_something(hpa) {
            return Ok(());
        }
        self.leading()?;
        let others = hpa.managed_fields().iter().filter(|entry| entry.manager.as_deref() != Some(MANAGER));
        let mut others: Vec<Value> = others.filter_map(|entry| serde_json::to_value(entry).ok()).collect();
        if others.is_empty() {
            // An empty list would mean "leave it as it is".
            others.push(json!({}));
        }
        let body = json!({"metadata": {"resourceVersion": hpa.resource_version(), "managedFields": others}});
        let api: Api<HorizontalPodAutoscaler> =
            Api::namespaced(self.client.clone(), &hpa.namespace().unwrap_or_default());
        match api.patch(&hpa.name_any(), &PatchParams::default(), &Patch::Merge(body)).await.map_err(Refused::from) {
            // The number is back, which is what matters; an owner who forces has it anyway.
            Ok(_) | Err(Refused::Changed) => Ok(()),
            Err(refused) => Err(refused),
        }
    }

    /// Sets the minimum like `set_minimum`, and takes the field from a manager that has it only by the API server's default.
    /// Returns that manager, where there was one.
    pub async fn set_or_take_minimum(
        &self,
        hpa: &HorizontalPodAutoscaler,
        patch: &minimum::Patch,
        take_ownership: bool,
    ) -> Result<Option<String>, Refused> {
        match self.set_minimum(hpa, patch, take_ownership).await {
            Err(Refused::Owned(by)) => match default_owner(hpa) {
                Some(manager) => self.set_minimum(hpa, patch, true).await.map(|_| Some(manager)),
                None => Err(Refused::Owned(by)),
            },
            other => other.map(|_| None),
        }
    }

    /// Adds the finalizer to a scaler, or removes it.
    pub async fn set_finalizer(&self, scaler: &PredictiveScaler, guarded: bool) -> Result<(), Refused> {
        self.leading()?;
        let mut finalizers: Vec<&str> =
            scaler.finalizers().iter().map(String::as_str).filter(|finalizer| *finalizer != FINALIZER).collect();
        if guarded {
            finalizers.push(FINALIZER);
        }
        let body = json!({"metadata": {"resourceVersion": scaler.resource_version(), "finalizers": finalizers}});
        self.scalers(scaler).patch(&scaler.name_any(), &PatchParams::default(), &Patch::Merge(body)).await?;
        Ok(())
    }

    /// Replaces the whole status.
    pub async fn write_status(
        &self,
        scaler: &PredictiveScaler,
        status: &PredictiveScalerStatus,
    ) -> Result<(), Refused> {
        self.leading()?;
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(status::patch(status));
        self.scalers(scaler).patch_status(&scaler.name_any(), &params, &patch).await?;
        Ok(())
    }

    fn scalers(&self, scaler: &PredictiveScaler) -> Api<PredictiveScaler> {
        Api::namespaced(self.client.clone(), &scaler.namespace().unwrap_or_default())
    }
}

/// The minimum of an autoscaler with its owner's.
pub fn read_minimum(hpa: &HorizontalPodAutoscaler) -> Result<Minimum, minimum::Unreadable> {
    let field = hpa.spec.as_ref().and_then(|spec| spec.min_replicas).and_then(|field| u32::try_from(field).ok());
    Minimum::read(field, hpa.annotations().get(minimum::ANNOTATION).map(String::as_str))
}

/// The manager that got `spec.minReplicas` without asking for it: the field holds the API server's default, the manager wrote
/// the object without server-side apply, and what it applied last does not name the field.
pub fn default_owner(hpa: &HorizontalPodAutoscaler) -> Option<String> {
    const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
    if hpa.spec.as_ref().and_then(|spec| spec.min_replicas) != Some(1) {
        return None;
    }
    let mut owners = hpa.managed_fields().iter().filter(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        fields.is_some_and(|fields| !fields["f:spec"]["f:minReplicas"].is_null())
    });
    let owner = owners.next()?;
    let only = owners.next().is_none() && owner.operation.as_deref() == Some("Update");
    // Without the annotation nothing says that the number was asked for; with it the manifest itself does.
    let applied = hpa.annotations().get(LAST_APPLIED)?;
    let applied: Value = serde_json::from_str(applied).ok()?;
    (only && applied["spec"]["minReplicas"].is_null()).then(|| owner.manager.clone().unwrap_or_default())
}

fn owns_something(hpa: &HorizontalPodAutoscaler) -> bool {
    hpa.managed_fields().iter().any(|entry| entry.manager.as_deref() == Some(MANAGER))
}

/// Returns all fields of an autoscaler that we own: a field that is left out is given up.
fn minimum_body(hpa: &HorizontalPodAutoscaler, patch: &minimum::Patch) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(hpa.name_any()));
    metadata.insert("namespace".to_owned(), json!(hpa.namespace()));
    // With it an object that was deleted meanwhile is not created again.
    metadata.insert("resourceVersion".to_owned(), json!(hpa.resource_version()));
    if let Some(annotation) = &patch.annotation {
        metadata.insert("annotations".to_owned(), json!({ minimum::ANNOTATION: annotation }));
    }
    let mut body = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata});
    if let Some(field) = patch.field {
        body["spec"] = json!({"minReplicas": field});
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use autoscaler_floor::units::Replicas;

    #[test]
    fn the_field_and_its_memory_go_in_one_patch() {
        let hpa: HorizontalPodAutoscaler = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "resourceVersion": "7"},
            "spec": {"minReplicas": 2, "maxReplicas": 9, "scaleTargetRef": {"kind": "Deployment", "name": "web"}},
        }))
        .unwrap();
        let minimum = read_minimum(&hpa).unwrap();
        let body = minimum_body(&hpa, &minimum.patch(Replicas(5), Timestamp::UNIX_EPOCH));
        assert_eq!(body["spec"], json!({"minReplicas": 5}));
        assert_eq!(body["metadata"]["resourceVersion"], "7");
        let note = body["metadata"]["annotations"][minimum::ANNOTATION].as_str().unwrap();
        assert!(note.contains(r#""original":2"#) && note.contains(r#""floor":5"#), "{note}");
        let back = minimum_body(&hpa, &minimum.patch(Replicas(2), Timestamp::UNIX_EPOCH));
        assert_eq!((&back["spec"], back["metadata"].get("annotations")), (&json!({"minReplicas": 2}), None));
    }

    #[test]
    fn a_fence_expires_by_itself() {
        let fence = Fence::default();
        assert!(!fence.is_open());
        fence.open(Instant::now() + std::time::Duration::from_secs(60));
        assert!(fence.is_open());
        fence.open(Instant::now());
        assert!(!fence.is_open());
    }
}
