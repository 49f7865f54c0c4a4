//! Readiness of the operator: the answer of `/readyz`, and the leader.
//!
//! Set by whoever finds out, read by the probes; a probe never waits and never asks the cluster.

use autoscaler_forecast::supervisor::Status;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Leadership, as this replica sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Leadership {
    /// Not known yet.
    #[default]
    Unknown,
    /// This process leads.
    Leads,
    /// Another replica of this name leads.
    Follows(String),
}

/// Observed state of the cluster.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    resource: Option<Result<(), String>>,
    synced: bool,
    leadership: Leadership,
}

impl Readiness {
    /// Notes whether the cluster knows PredictiveScalers of our version, or why not.
    pub fn resource(&self, seen: Result<(), String>) {
        self.seen().resource = Some(seen);
    }

    /// Notes whether the cache holds what the cluster has.
    pub fn synced(&self, synced: bool) {
        self.seen().synced = synced;
    }

    /// Sets the leadership.
    pub fn leadership(&self, leadership: Leadership) {
        self.seen().leadership = leadership;
    }

    /// Returns the leadership.
    pub fn leader(&self) -> Leadership {
        self.seen().leadership.clone()
    }

    /// Missing parts, a line each. Nothing means ready; a process that follows is as ready as the one that leads.
    pub fn lacks(&self, worker: &Status) -> Vec<String> {
        let seen = self.seen();
        let mut lacks = Vec::new();
        match &seen.resource {
            Some(Ok(())) => {}
            Some(Err(cause)) => lacks.push(format!("no PredictiveScalers: {cause}")),
            None => lacks.push("the PredictiveScaler definition has not been checked yet".to_owned()),
        }
        if !seen.synced {
            lacks.push("the cache is not synced".to_owned());
        }
        lacks.extend(worker_lacks(worker));
        lacks
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the reason that the worker is not ready; none if it is.
pub fn worker_lacks(worker: &Status) -> Option<String> {
    match worker {
        Status::Ready(_) => None,
        Status::Starting => Some("the worker is starting".to_owned()),
        Status::Down(cause) => Some(format!("no worker: {cause}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use autoscaler_forecast::protocol::Hello;

    #[test]
    fn ready_is_the_resource_seen_the_cache_synced_and_the_hello_said() {
        let hello = Hello { protocol: 1, python: "3.12".to_owned(), packages: Default::default() };
        let readiness = Readiness::default();
        assert_eq!(readiness.lacks(&Status::Starting).len(), 3);
        readiness.resource(Err("the API server has no such resource".to_owned()));
        readiness.synced(true);
        assert_eq!(
            readiness.lacks(&Status::Down("it hangs".to_owned())),
            ["no PredictiveScalers: the API server has no such resource", "no worker: it hangs"]
        );
        readiness.resource(Ok(()));
        assert!(readiness.lacks(&Status::Ready(hello)).is_empty());
        readiness.leadership(Leadership::Follows("other".to_owned()));
        assert_eq!(readiness.leader(), Leadership::Follows("other".to_owned()));
    }
}
