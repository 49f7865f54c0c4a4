//! Runs the operator: watches the scalers, waits for the lease, reconciles and sweeps while it leads, ends in order.
//!
//! Every replica watches, for its pages and to be ready; one at a time reconciles. What fails is tried again with back-off,
//! for as long as the process runs: no fault of the cluster ends it.

use crate::act::{Actor, Fence};
use crate::controller::{self, Clock, Context, Identity, reconcile, sweep};
use crate::crd::{PredictiveScaler, profile};
use crate::demand::Demands;
use crate::lease::{Candidate, Times};
use autoscaler_show::readiness::{Leadership, Readiness};
use autoscaler_show::state::ScalerName;
use futures::{StreamExt, stream};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{Config, Controller, WatchStreamExt};
use kube::{Api, Client, ResourceExt};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Settings of an operator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the lease.
    pub namespace: String,
    pub lease: String,
    /// This replica's name: no other has it.
    pub identity: String,
    /// The class of the scalers that it handles; none for those without a class.
    pub class: Option<String>,
    pub times: Times,
    /// Number of scalers reconciled at a time.
    pub at_a_time: u16,
    /// Interval between searches for expired floors.
    pub sweep_every: Duration,
}

impl Settings {
    /// Returns the default settings for a replica of this name.
    pub fn of(namespace: &str, identity: &str) -> Settings {
        Settings {
            namespace: namespace.to_owned(),
            lease: "autoscaler".to_owned(),
            identity: identity.to_owned(),
            class: None,
            times: Times::default(),
            at_a_time: 16,
            sweep_every: Duration::from_secs(60),
        }
    }
}

pub struct Operator {
    client: Client,
    settings: Settings,
    context: Arc<Context>,
    candidate: Candidate,
    writer: reflector::store::Writer<PredictiveScaler>,
    readiness: Arc<Readiness>,
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Operator {
    /// An operator that has done nothing yet.
    pub fn new(
        client: Client,
        settings: Settings,
        demands: Demands,
        readiness: Arc<Readiness>,
        clock: Clock,
    ) -> Operator {
        let fence = Fence::default();
        let (scalers, writer) = reflector::store();
        let reporter =
            Reporter { controller: "autoscaler.acme.dev".to_owned(), instance: Some(settings.identity.clone()) };
        let context = Context::new(
            client.clone(),
            Actor::new(client.clone(), fence.clone()),
            demands,
            scalers,
            Recorder::new(client.clone(), reporter),
            clock,
        );
        let (namespace, lease) = (&settings.namespace, &settings.lease);
        let context =
            context.of_operator(Identity { name: format!("{namespace}/{lease}"), class: settings.class.clone() });
        let candidate = Candidate::new(client.clone(), namespace, lease, &settings.identity, settings.times, fence);
        Operator { client, settings, context: Arc::new(context), candidate, writer, readiness }
    }

    /// Runs until `end` comes; then releases the lease and leaves the floors.
    pub async fn run(self, end: impl Future<Output = ()>) {
        let Operator { client, settings, context, candidate, writer, readiness } = self;
        let feed = Feed::default();
        let watching = watch(Api::all(client), writer, &context, &feed, &readiness);
        let leading = async {
            loop {
                let lease =
                    candidate.acquire(|holder| readiness.leadership(Leadership::Follows(holder.to_owned()))).await;
                readiness.leadership(Leadership::Leads);
                context.demands.metrics.leads(true);
                // Another has decided since we did, if we ever did.
                context.clear_decisions();
                tokio::select! {
                    () = candidate.keep(lease) => {}
                    () = term(&context, &feed, settings.at_a_time) => {}
                    () = sweeping(&context, settings.sweep_every) => {}
                    () = calling(&context, &feed) => {}
                }
                feed.cut();
                context.demands.metrics.leads(false);
                readiness.leadership(Leadership::Unknown);
            }
        };
        let mut end = pin!(end);
        tokio::select! {
            () = &mut end => {}
            () = watching => {}
            () = leading => {}
        }
        // What was under way is dropped by now; what was sent already names the version that it was decided on.
        tracing::info!("stopping: the floors are kept");
        candidate.release().await;
        readiness.leadership(Leadership::Unknown);
    }
}

/// One time of leading: reconciles all scalers, and those that change, until dropped.
async fn term(context: &Arc<Context>, feed: &Feed, at_a_time: u16) {
    let (sender, mut changed) = unbounded_channel();
    for scaler in context.scalers.state() {
        // The receiver is right here.
        let _ = sender.send(PredictiveScaler::clone(&scaler));
    }
    feed.open(sender);
    let changed = stream::poll_fn(move |task| changed.poll_recv(task)).map(Ok);
    Controller::for_stream(changed, context.scalers.clone())
        .with_config(Config::default().concurrency(at_a_time))
        .run(reconcile, controller::after_failure, Arc::clone(context))
        // Each has said in the log what there is to say.
        .for_each(async |_| {})
        .await;
}

/// Has those reconciled whose turn to be fitted has come.
async fn calling(context: &Context, feed: &Feed) {
    let mut called = context.demands.calls();
    while let Some(name) = called.recv().await {
        let reference = ObjectRef::new(&name.name).within(&name.namespace);
        match context.scalers.get(&reference) {
            Some(scaler) => feed.give(&scaler),
            None => context.demands.skip(&name),
        }
    }
    std::future::pending().await
}

async fn sweeping(context: &Context, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        match sweep(context).await {
            Ok(0) => {}
            Ok(released) => tracing::info!(released, "released expired floors"),
            Err(cause) => tracing::warn!(%cause, "cannot release expired floors"),
        }
    }
}

/// Keeps the store as the cluster is, and feeds what changed to whoever leads.
async fn watch(
    api: Api<PredictiveScaler>,
    writer: reflector::store::Writer<PredictiveScaler>,
    context: &Context,
    feed: &Feed,
    readiness: &Readiness,
) {
    let config = watcher::Config::default().page_size(500);
    // Who owns which field of a scaler nobody here asks; of a thousand it is megabytes.
    let bare = |scaler: &mut PredictiveScaler| scaler.managed_fields_mut().clear();
    let mut events = pin!(watcher(api, config).default_backoff().modify(bare).reflect(writer));
    let mut seen = Seen::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(scaler)) => {
                show(context, &scaler);
                if seen.is_new(&scaler) {
                    context.demands.set_scaler_count(context.scalers.state().len());
                    feed.give(&scaler);
                }
            }
            Ok(Event::Delete(scaler)) => {
                let (namespace, name) = scaler.place();
                seen.forget(&scaler);
                context.forget(&ScalerName::new(namespace, name));
            }
            Ok(Event::Init | Event::InitApply(_)) => {}
            // Only now are they in the store, where the controller looks them up.
            Ok(Event::InitDone) => {
                readiness.resource(Ok(()));
                readiness.synced(true);
                synced(&context.scalers, context, feed, &mut seen);
            }
            Err(cause) => {
                let cause = match cause {
                    watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404 => {
                        "the cluster does not know them: `autoscaler crd | kubectl apply -f -`".to_owned()
                    }
                    other => format!("{other}"),
                };
                tracing::warn!(cause, "cannot watch the scalers");
                readiness.resource(Err(cause));
            }
        }
    }
}

fn synced(scalers: &Store<PredictiveScaler>, context: &Context, feed: &Feed, seen: &mut Seen) {
    let all = scalers.state();
    for scaler in &all {
        show(context, scaler);
        if seen.is_new(scaler) {
            feed.give(scaler);
        }
    }
    let names: Vec<ScalerName> = all
        .iter()
        .map(|scaler| {
            let (namespace, name) = scaler.place();
            ScalerName::new(namespace, name)
        })
        .collect();
    context.demands.state.keep_only(&names);
    context.demands.set_scaler_count(names.len());
    tracing::info!(scalers = names.len(), "cache synced");
}

/// Puts a scaler on the pages of this replica, even if this replica does not decide for it, or none can.
fn show(context: &Context, scaler: &PredictiveScaler) {
    let (namespace, name) = scaler.place();
    let profile = profile::of(scaler, scaler.status.as_ref());
    context.demands.state.note(&ScalerName::new(namespace, name), &profile);
}

/// Versions of the scalers that were seen, without their status: our own writes of the status trigger no reconcile.
#[derive(Default)]
struct Seen(HashMap<String, u64>);

impl Seen {
    fn is_new(&mut self, scaler: &PredictiveScaler) -> bool {
        let mut hasher = DefaultHasher::new();
        scaler.metadata.generation.hash(&mut hasher);
        scaler.annotations().hash(&mut hasher);
        scaler.finalizers().hash(&mut hasher);
        scaler.is_deleted().hash(&mut hasher);
        let hash = hasher.finish();
        self.0.insert(scaler.uid().unwrap_or_default(), hash) != Some(hash)
    }

    fn forget(&mut self, scaler: &PredictiveScaler) {
        self.0.remove(&scaler.uid().unwrap_or_default());
    }
}

/// Channel from the watch to the reconciles, while this process leads.
#[derive(Default)]
struct Feed(Mutex<Option<UnboundedSender<PredictiveScaler>>>);

impl Feed {
    fn open(&self, sender: UnboundedSender<PredictiveScaler>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    }

    fn cut(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn give(&self, scaler: &PredictiveScaler) {
        if let Some(sender) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // The receiver is gone: the next term begins with all scalers.
            let _ = sender.send(scaler.clone());
        }
    }
}
