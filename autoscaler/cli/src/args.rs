//! Arguments that several commands share, each defined once.

use autoscaler_forecast::failure::Failure;
use autoscaler_forecast::home::{self, HOME_VARIABLE, Home, PYTHON_VARIABLE};
use autoscaler_forecast::span::Span;
use autoscaler_forecast::worker::Launch;
use autoscaler_forecast::{ForecastOptions, Model, Quantile};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpListener;

/// Address and templates of the page server.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// Address of the pages, /healthz, /readyz and /metrics
    #[arg(long, value_name = "ADDRESS:PORT", env = "AUTOSCALER_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// The folder of the pages' templates; read at every request [default: templates in the home]
    #[arg(long, value_name = "DIR", env = "AUTOSCALER_TEMPLATES")]
    templates: Option<PathBuf>,
}

impl ServerArgs {
    pub(super) fn templates(&self, home: &Home) -> PathBuf {
        self.templates.clone().unwrap_or_else(|| home.templates())
    }

    /// A bound listener and its address.
    pub(super) async fn bind(&self) -> Result<(TcpListener, SocketAddr), Failure> {
        let listener = TcpListener::bind(self.listen).await.map_err(|cause| {
            Failure::input(format!("cannot listen on `{}`", self.listen)).cause(cause).hint("choose another `--listen`")
        })?;
        let address = listener.local_addr().unwrap_or(self.listen);
        Ok((listener, address))
    }
}

/// Location of the operator in a cluster, for `run` and for `doctor`, which checks the same values.
#[derive(Debug, Args)]
pub(super) struct OperatorArgs {
    /// A file with a bearer token for Prometheus; read at every request
    #[arg(long, value_name = "FILE", env = "AUTOSCALER_PROMETHEUS_TOKEN_FILE")]
    pub(super) prometheus_token_file: Option<PathBuf>,

    /// State file: a cache of samples, forecasts and decisions; in memory if it is not given
    #[arg(long, value_name = "FILE", env = "AUTOSCALER_STATE")]
    pub(super) state: Option<PathBuf>,

    /// The namespace of the lease [default: the one of the kubeconfig or of the pod]
    #[arg(long, value_name = "NAME", env = "AUTOSCALER_NAMESPACE")]
    pub(super) namespace: Option<String>,

    /// Name of the lease
    #[arg(long, value_name = "NAME", default_value = "autoscaler", env = "AUTOSCALER_LEASE")]
    pub(super) lease: String,
}

/// The source's revision. Read at run time: compiled in, it would make every commit another binary, and another layer.
pub(super) fn revision() -> Option<String> {
    std::env::var("AUTOSCALER_REVISION").ok().filter(|revision| !revision.is_empty())
}

/// A length of time for timers.
pub(super) fn duration(span: Span) -> Duration {
    Duration::from_secs(span.seconds().into())
}

#[derive(Debug, Args)]
pub(super) struct AskedArgs {
    /// The distance of two samples [default: the most frequent one in the history]
    #[arg(long, value_name = "TIME")]
    pub(super) step: Option<Span>,

    /// Time after which demand repeats
    #[arg(long, value_name = "TIME", default_value = "1d")]
    season: Span,

    /// The share of samples that stay below the upper line; as many stay above the lower one
    #[arg(long, value_name = "SHARE", default_value = "0.9")]
    quantile: Quantile,

    /// Forecast model
    #[arg(long, value_name = "MODEL", default_value = "auto")]
    model: Model,

    /// Time limit of a forecast
    #[arg(long, value_name = "TIME", default_value = "1m")]
    deadline: Span,
}

impl AskedArgs {
    pub(super) fn options(&self, horizon: Span) -> ForecastOptions {
        ForecastOptions { horizon, season: self.season, quantile: self.quantile, model: self.model }
    }

    pub(super) fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline.seconds().into())
    }
}

#[derive(Debug, Args)]
pub(super) struct PlaceArgs {
    /// The folder with forecaster/, templates/ and samples/ [default: /app, else near the working folder]
    #[arg(long, value_name = "DIR", env = HOME_VARIABLE)]
    home: Option<PathBuf>,

    /// The worker's Python [default: /opt/venv/bin/python, else python3]
    #[arg(long, value_name = "PROGRAM", env = PYTHON_VARIABLE)]
    python: Option<PathBuf>,

    /// Time limit for starting the worker
    #[arg(long, value_name = "TIME", default_value = "1m")]
    start_deadline: Span,
}

impl PlaceArgs {
    pub(super) fn home(&self) -> Home {
        Home::find(self.home.clone())
    }

    pub(super) fn launch(&self, home: &Home) -> Launch {
        Launch {
            python: home::python(self.python.clone()),
            home: home.path().to_owned(),
            hello_within: Duration::from_secs(self.start_deadline.seconds().into()),
        }
    }
}
