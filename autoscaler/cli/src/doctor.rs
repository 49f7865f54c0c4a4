//! `autoscaler doctor`: what is missing for `run`.

use super::args::{OperatorArgs, PlaceArgs};
use super::{Output, json, write_out};
use autoscaler_cluster::doctor::{Asked, Is, examine};
use autoscaler_cluster::prometheus::{self, Address};
use autoscaler_forecast::failure::{Failure, Kind};
use clap::Args;
use std::time::Duration;

pub(super) const HELP: &str = "\
Starts the worker and stops it, reads the templates, asks the cluster for its version, for the resource and for your \
rights, and queries Prometheus. Changes nothing. Exit code 3 means that something is missing; each finding shows the next \
step.

Examples:
  autoscaler doctor --prometheus http://127.0.0.1:9090
  kubectl -n autoscaler exec deploy/autoscaler -- autoscaler doctor --prometheus http://prometheus-server.monitoring";

/// Check the requirements of `run`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// URL of the Prometheus with the demand, including the path before /api/v1 if there is one
    #[arg(long, value_name = "URL", env = "AUTOSCALER_PROMETHEUS")]
    prometheus: Option<Address>,

    #[command(flatten)]
    operator: OperatorArgs,

    /// Output format
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Output,

    #[command(flatten)]
    places: PlaceArgs,
}

pub(super) async fn run(args: DoctorArgs) -> Result<(), Failure> {
    let home = args.places.home();
    let prometheus = args.prometheus.clone().map(|url| prometheus::PrometheusSettings {
        url,
        token_file: args.operator.prometheus_token_file.clone(),
        at_a_time: 1,
        within: Duration::from_secs(10),
    });
    let asked = Asked {
        launch: args.places.launch(&home),
        home,
        prometheus,
        state: args.operator.state.clone(),
        namespace: args.operator.namespace.clone(),
        lease: args.operator.lease.clone(),
    };
    let findings = examine(&asked).await;
    write_out(&match args.format {
        Output::Text => findings.iter().map(|finding| format!("{finding}\n")).collect(),
        Output::Json => json(&findings)?,
    })?;
    match findings.iter().filter(|finding| finding.is == Is::Missing).count() {
        0 => Ok(()),
        1 => Err(Failure::new(Kind::Worker, "one thing is missing for `run`")),
        several => Err(Failure::new(Kind::Worker, format!("{several} things are missing for `run`"))),
    }
}
