//! `run`: the operator in a cluster, with its pages, until a signal comes.

use super::Signals;
use super::args::{self, OperatorArgs, PlaceArgs, ServerArgs, duration};
use autoscaler_cluster::demand::{Deadlines, Demands};
use autoscaler_cluster::lease::Times;
use autoscaler_cluster::operator::{Operator, Settings};
use autoscaler_cluster::prometheus::{self, Address, Prometheus};
use autoscaler_cluster::tls;
use autoscaler_forecast::failure::{Failure, Kind};
use autoscaler_forecast::span::Span;
use autoscaler_forecast::supervisor::{Restarts, Supervisor};
use autoscaler_show::metrics::Metrics;
use autoscaler_show::readiness::Readiness;
use autoscaler_show::server::{Server, ServerContext};
use autoscaler_show::state::{Retention, State};
use clap::Args;
use jiff::Timestamp;
use kube::{Client, Config};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub(super) const HELP: &str = "\
Watches PredictiveScalers (`autoscaler crd`), forecasts the demand of each, and raises the minimum of its \
HorizontalPodAutoscaler before the demand comes. The default mode is Recommend, which writes nothing; Enforce writes the \
floor. Of several replicas one decides; the others serve pages and wait for the lease. The cluster is the one of \
KUBECONFIG, or the one that this runs in.";

/// Run the operator in a cluster, and serve its pages.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// URL of the Prometheus with the demand, including the path before /api/v1 if there is one
    #[arg(long, value_name = "URL", env = "AUTOSCALER_PROMETHEUS")]
    prometheus: Address,

    /// Number of concurrent requests to Prometheus
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=256))]
    prometheus_requests: u16,

    /// Time limit of one request to Prometheus
    #[arg(long, value_name = "TIME", default_value = "20s")]
    prometheus_deadline: Span,

    /// Number of workloads reconciled at a time
    #[arg(long, value_name = "COUNT", default_value = "16", value_parser = clap::value_parser!(u16).range(1..=1024))]
    at_a_time: u16,

    /// Time limit of a forecast; after it the seasonal naive replaces the worker
    #[arg(long, value_name = "TIME", default_value = "30s")]
    forecast_deadline: Span,

    /// Time that a forecast may wait for the worker; after it the seasonal naive replaces the worker
    #[arg(long, value_name = "TIME", default_value = "20s", alias = "forecast-patience")]
    forecast_queue_timeout: Span,

    /// Time after which a lease that is not renewed expires
    #[arg(long, value_name = "TIME", default_value = "15s")]
    lease_duration: Span,

    /// This replica's name; no other may have it [default: the host's name and a number]
    #[arg(long, value_name = "NAME", env = "AUTOSCALER_IDENTITY")]
    identity: Option<String>,

    /// The operator class: handles only PredictiveScalers with this `operatorClass` [default: those without one]
    #[arg(long, value_name = "NAME", env = "AUTOSCALER_CLASS")]
    class: Option<String>,

    #[command(flatten)]
    operator: OperatorArgs,

    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    places: PlaceArgs,
}

pub(super) async fn run(args: RunArgs) -> Result<(), Failure> {
    tls::provide();
    let (client, namespace) = connect(args.operator.namespace.clone()).await?;
    let prometheus = Prometheus::new(prometheus::PrometheusSettings {
        url: args.prometheus.clone(),
        token_file: args.operator.prometheus_token_file.clone(),
        at_a_time: args.prometheus_requests.into(),
        within: duration(args.prometheus_deadline),
    });
    let prometheus = prometheus
        .map_err(|cause| Failure::input(format!("cannot ask Prometheus at `{}`", args.prometheus)).cause(cause))?;
    let (listener, address) = args.server.bind().await?;
    // Before the first line that says "listening": a signal after it must end us quietly.
    let signals = Signals::new()?;

    let home = args.places.home();
    let revision = args::revision();
    let supervisor = Arc::new(Supervisor::new(args.places.launch(&home), Restarts::default()));
    let metrics = Arc::new(Metrics::of_operator(revision.as_deref()));
    let readiness = Arc::new(Readiness::default());
    let state = match &args.operator.state {
        Some(path) => State::open(path, Retention::default()),
        None => State::in_memory(Retention::default()),
    };
    let context = ServerContext {
        templates: args.server.templates(&home),
        revision,
        supervisor: Arc::clone(&supervisor),
        metrics: Arc::clone(&metrics),
    };
    let settings = Settings {
        lease: args.operator.lease.clone(),
        times: times(duration(args.lease_duration)),
        at_a_time: args.at_a_time,
        class: args.class.clone(),
        ..Settings::of(&namespace, &args.identity.clone().unwrap_or_else(identity))
    };
    tracing::info!(%address, prometheus = %args.prometheus, identity = settings.identity, namespace, "listening");

    let keeper = tokio::spawn({
        let supervisor = Arc::clone(&supervisor);
        async move { supervisor.keep().await }
    });
    let (ending, mut ended) = watch::channel(false);
    let server = Server::of_operator(context, state.clone(), Arc::clone(&readiness));
    let mut serving = tokio::spawn(server.run(listener, async move {
        // An error means that the sender has ended.
        let _ = ended.wait_for(|ended| *ended).await;
    }));
    let deadlines =
        Deadlines { queue_timeout: duration(args.forecast_queue_timeout), timeout: duration(args.forecast_deadline) };
    let demands = Demands::new(prometheus, state, Arc::clone(&supervisor), metrics, deadlines);
    let operator = Operator::new(client, settings, demands, readiness, Arc::new(Timestamp::now));
    let served = tokio::select! {
        () = operator.run(signals.first()) => {
            // Nobody waits for it when serving has failed already.
            let _ = ending.send(true);
            serving.await
        }
        served = &mut serving => served,
    };
    keeper.abort();
    // What the keeper held is free only once it has ended.
    let _ = keeper.await;
    supervisor.stop().await;
    tracing::info!("ended");
    served.map_err(|cause| Failure::new(Kind::Bug, "cannot serve").cause(cause))
}

/// A client of the cluster, and the namespace that is ours in it.
async fn connect(namespace: Option<String>) -> Result<(Client, String), Failure> {
    let cannot = |cause: &dyn std::fmt::Display| {
        Failure::input("cannot determine the cluster")
            .cause(cause)
            .hint("name a kubeconfig with KUBECONFIG, or run this in a pod with a service account")
    };
    let mut config = Config::infer().await.map_err(|cause| cannot(&cause))?;
    config.connect_timeout = Some(Duration::from_secs(5));
    // A watch is ended by the API server before this; a connection that died without a word is noticed by it.
    config.read_timeout = Some(Duration::from_secs(295));
    let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
    Ok((Client::try_from(config).map_err(|cause| cannot(&cause))?, namespace))
}

/// A lease's times, in the proportions that the cluster's own components have.
fn times(holds: Duration) -> Times {
    Times { holds, renew_within: holds.mul_f64(2.0 / 3.0), every: holds.mul_f64(2.0 / 15.0) }
}

/// The host's name, which in a cluster is the pod's, and what no other process on it has.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty());
    let host = host.or_else(|| std::fs::read_to_string("/etc/hostname").ok().map(|host| host.trim().to_owned()));
    format!(
        "{}-{}-{:x}",
        host.unwrap_or_else(|| "autoscaler".to_owned()),
        std::process::id(),
        Timestamp::now().as_millisecond()
    )
}
