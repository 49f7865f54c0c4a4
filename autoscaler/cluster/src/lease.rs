//! Leader election by a Lease: one replica decides and writes, the others wait.
//!
//! A lease of another replica has expired if we have seen no change of it for long enough; the time written in it does not
//! count, because clocks differ. A leader that cannot renew in time shuts the fence before another replica may take the lease.

use crate::act::{Fence, describe};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use std::fmt;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Time after which a lease that is not renewed expires.
    pub holds: Duration,
    /// Time for which the holder tries to renew before it gives up: shorter, or two would write.
    pub renew_within: Duration,
    /// Interval between renewals, and between checks by the other replicas.
    pub every: Duration,
}

impl Default for Times {
    fn default() -> Times {
        // As the cluster's own components have it.
        Times { holds: Duration::from_secs(15), renew_within: Duration::from_secs(10), every: Duration::from_secs(2) }
    }
}

/// A candidate for leadership.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    times: Times,
    fence: Fence,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").field("name", &self.name).field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Someone else's lease, as it was when it last changed.
struct Watched {
    holder: String,
    version: Option<String>,
    since: Instant,
}

impl Candidate {
    /// Returns a candidate for the lease `name` in `namespace`. No two may have the same `identity`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, times: Times, fence: Fence) -> Candidate {
        let api = Api::namespaced(client, namespace);
        Candidate { api, name: name.to_owned(), identity: identity.to_owned(), times, fence }
    }

    /// Waits until the lease is ours, and opens the fence. Calls `follows` with the holder meanwhile.
    pub async fn acquire(&self, mut follows: impl FnMut(&str)) -> Lease {
        let mut watched: Option<Watched> = None;
        loop {
            let asked = Instant::now();
            match timeout(self.times.renew_within, self.take(&mut watched)).await {
                Ok(Ok(Some(lease))) => {
                    self.fence.open(asked + self.times.renew_within);
                    tracing::info!(lease = %self.name, identity = %self.identity, "leading");
                    return lease;
                }
                Ok(Ok(None)) => {
                    if let Some(watched) = &watched {
                        follows(&watched.holder);
                    }
                }
                Ok(Err(cause)) => tracing::warn!(cause = %describe(&cause), "cannot acquire the lease"),
                Err(_) => tracing::warn!("cannot acquire the lease: no answer in time"),
            }
            sleep(jittered(self.times.every)).await;
        }
    }

    /// Renews the lease until that cannot be done in time, or another has it. The fence is shut when this returns.
    pub async fn keep(&self, mut lease: Lease) {
        let mut renewed = Instant::now();
        loop {
            sleep(self.times.every).await;
            let asked = Instant::now();
            let left = self.times.renew_within.saturating_sub(renewed.elapsed());
            match timeout(left, self.renew(&lease)).await {
                Ok(Ok(new)) => {
                    lease = new;
                    renewed = asked;
                    self.fence.open(asked + self.times.renew_within);
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => match self.api.get_opt(&self.name).await {
                    // Our own renewal of which the answer was lost.
                    Ok(Some(current)) if self.is_ours(&current) => lease = current,
                    Ok(_) => {
                        self.fence.shut();
                        tracing::warn!("another replica has taken the lease");
                        return;
                    }
                    Err(cause) => tracing::warn!(cause = %describe(&cause), "cannot read the lease"),
                },
                Ok(Err(cause)) => tracing::warn!(cause = %describe(&cause), "cannot renew the lease"),
                Err(_) => {}
            }
            if renewed.elapsed() >= self.times.renew_within {
                self.fence.shut();
                tracing::warn!("cannot renew the lease in time: no longer the leader");
                return;
            }
        }
    }

    /// Shuts the fence and gives the lease up, so that another need not wait for its end.
    pub async fn release(&self) {
        self.fence.shut();
        let given_up = async {
            let Some(mut lease) = self.api.get_opt(&self.name).await?.filter(|lease| self.is_ours(lease)) else {
                return Ok(false);
            };
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = None;
                spec.renew_time = Some(MicroTime(Timestamp::now()));
            }
            self.api.replace(&self.name, &PostParams::default(), &lease).await.map(|_| true)
        };
        match timeout(self.times.every, given_up).await {
            Ok(Ok(true)) => tracing::info!(lease = %self.name, "lease released"),
            Ok(Ok(false)) => {}
            Ok(Err(cause)) => {
                let cause: kube::Error = cause;
                tracing::warn!(cause = %describe(&cause), "cannot release the lease: it expires by itself");
            }
            Err(_) => tracing::warn!("cannot release the lease: it expires by itself"),
        }
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(&self.identity)
    }

    /// Takes the lease if it is free; none if another replica has it.
    async fn take(&self, watched: &mut Option<Watched>) -> kube::Result<Option<Lease>> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            return self.won(self.api.create(&PostParams::default(), &lease).await);
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if !holder.is_empty() && holder != self.identity {
            let version = lease.metadata.resource_version.clone();
            let since = match watched {
                Some(watched) if watched.version == version => watched.since,
                _ => watched.insert(Watched { holder: holder.to_owned(), version, since: Instant::now() }).since,
            };
            // The duration that the holder itself has set.
            let holds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
            let holds =
                holds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(self.times.holds, Duration::from_secs);
            if since.elapsed() < holds.max(self.times.holds) {
                return Ok(None);
            }
        }
        self.won(self.put(&lease).await)
    }

    fn won(&self, answer: kube::Result<Lease>) -> kube::Result<Option<Lease>> {
        match answer {
            // Another was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            other => other.map(Some),
        }
    }

    async fn renew(&self, lease: &Lease) -> kube::Result<Lease> {
        self.put(lease).await
    }

    /// Writes our identity over the version that was read: the API server refuses it if that version is not the newest.
    async fn put(&self, lease: &Lease) -> kube::Result<Lease> {
        let ours = Lease { metadata: lease.metadata.clone(), spec: Some(self.spec(lease.spec.as_ref())) };
        self.api.replace(&self.name, &PostParams::default(), &ours).await
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = before.filter(|before| before.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.map_or(0, |before| before.lease_transitions.unwrap_or(0) + i32::from(ours.is_none()));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.times.holds.as_secs().max(1)).ok(),
            acquire_time: ours.and_then(|ours| ours.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

/// Returns a wait that is up to a fifth longer, so that replicas that started together do not always ask together.
fn jittered(wait: Duration) -> Duration {
    let nanos = Timestamp::now().subsec_nanosecond().unsigned_abs();
    wait.mul_f64(1.0 + f64::from(nanos % 1_000) / 5_000.0)
}
