//! Releases floors that no scaler confirms: their scaler was deleted without its finalizer, or no longer enforces.

use super::{Context, Failed};
use crate::act::{Refused, read_minimum};
use crate::crd::Mode;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use std::collections::BTreeSet;

/// Number of autoscalers read at a time.
const PAGE: u32 = 500;

/// Checks every autoscaler, and restores those whose floor has expired and that no scaler enforces any more. Returns their
/// number.
pub async fn sweep(context: &Context) -> Result<usize, Failed> {
    let now = (context.clock)();
    let api: Api<HorizontalPodAutoscaler> = Api::all(context.client.clone());
    let mut page = ListParams::default().limit(PAGE);
    let mut released = 0;
    loop {
        let found = api.list(&page).await?;
        // What enforces: one whose spec cannot be read confirms nothing.
        let enforced: BTreeSet<(Option<String>, String)> = context
            .scalers
            .state()
            .iter()
            .filter(|scaler| {
                scaler.spec.mode == Mode::Enforce && !scaler.is_deleted() && scaler.spec.settings().is_ok()
            })
            .map(|scaler| (scaler.namespace(), scaler.spec.hpa_ref.name.clone()))
            .collect();
        for hpa in &found.items {
            let expired = read_minimum(hpa).is_ok_and(|minimum| minimum.expired(now));
            if !expired || enforced.contains(&(hpa.namespace(), hpa.name_any())) {
                continue;
            }
            let (namespace, name) = (hpa.namespace().unwrap_or_default(), hpa.name_any());
            match context.actor.restore(hpa, true).await {
                Ok(_) => {
                    released += 1;
                    tracing::warn!(namespace, name, "released an expired floor that no scaler enforces");
                }
                // Seen again at the next round.
                Err(Refused::Changed) => {}
                Err(refused @ Refused::NotLeading) => return Err(refused.into()),
                Err(refused) => tracing::warn!(namespace, name, cause = %refused, "cannot release an expired floor"),
            }
        }
        match found.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page.continue_token = Some(token),
            None => return Ok(released),
        }
    }
}
