//! The page of one history file, forecast again when the file changes. While the first worker starts, which takes seconds of imports, the
//! page shows the seasonal naive and says so.

use super::{Content, Server, ServerContext};
use crate::metrics::Outcome;
use crate::page::workload::{TEMPLATE, WorkloadPage};
use autoscaler_forecast::failure::{Failure, Kind};
use autoscaler_forecast::history::History;
use autoscaler_forecast::span::Span;
use autoscaler_forecast::supervisor::Status;
use autoscaler_forecast::{Forecast, ForecastOptions, naive, source};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Mutex;
use tracing::Instrument;

/// A history file that is shown with its forecast.
#[derive(Debug)]
pub struct Watched {
    history: PathBuf,
    step: Option<Span>,
    options: ForecastOptions,
    deadline: Duration,
    // Held while forecasting, so that many readers cost one forecast.
    latest: Mutex<Option<Latest>>,
}

#[derive(Debug)]
struct Latest {
    version: FileVersion,
    shown: Arc<(History, Forecast)>,
}

/// Size and time of a file, to detect a change: a forecast is valid until its history changes.
type FileVersion = (u64, Option<SystemTime>);

impl Watched {
    /// A file whose samples are `step` apart, where that is not to be found out, what is asked of it, and how long a
    /// forecast may take.
    pub fn new(history: PathBuf, step: Option<Span>, options: ForecastOptions, deadline: Duration) -> Watched {
        Watched { history, step, options, deadline, latest: Mutex::new(None) }
    }

    /// The history and its forecast, made again when the file has changed.
    async fn latest(&self, context: &ServerContext) -> Result<Arc<(History, Forecast)>, Failure> {
        let mut latest = self.latest.lock().await;
        let version = file_version(&self.history);
        if let Some(known) = latest.as_ref().filter(|known| known.version == version) {
            return Ok(Arc::clone(&known.shown));
        }
        if let Some(meanwhile) = self.meanwhile(context)? {
            return Ok(Arc::new(meanwhile));
        }
        let started = Instant::now();
        let made = self.forecast(context).await;
        context.metrics.forecast(Outcome::of(&made), started.elapsed());
        let shown = Arc::new(made?);
        tracing::info!(
            history = %self.history.display(),
            model = %shown.1.model,
            skilled = shown.1.skilled,
            seconds = started.elapsed().as_secs_f64(),
            "forecast made"
        );
        *latest = Some(Latest { version, shown: Arc::clone(&shown) });
        Ok(shown)
    }

    /// The history with a forecast that needs no worker, while the first one starts. It is not kept: the next reader may get the worker's.
    fn meanwhile(&self, context: &ServerContext) -> Result<Option<(History, Forecast)>, Failure> {
        if context.supervisor.status() != Status::Starting {
            return Ok(None);
        }
        let history = source::read(&self.history, self.step)?;
        let question = self.options.question(&history)?;
        // A model that was asked for by name, and a history that is too short for the naive, are left to the worker.
        let answer = (question.model == "auto").then(|| naive::answer(&question).ok()).flatten();
        Ok(answer.map(|mut answer| {
            answer.notes.push("the forecaster is starting: reload the page for its forecast".to_owned());
            let forecast = Forecast::new(&history, &self.options, answer);
            (history, forecast)
        }))
    }

    async fn forecast(&self, context: &ServerContext) -> Result<(History, Forecast), Failure> {
        let history = source::read(&self.history, self.step)?;
        let question = self.options.question(&history)?;
        let answer = context.supervisor.ask(&question, self.deadline).await?;
        let forecast = Forecast::new(&history, &self.options, answer);
        Ok((history, forecast))
    }
}

fn file_version(path: &Path) -> FileVersion {
    match std::fs::metadata(path) {
        Ok(facts) => (facts.len(), facts.modified().ok()),
        // Reading it will say what is wrong.
        Err(_) => (0, None),
    }
}

pub(super) async fn index(State(server): State<Arc<Server>>) -> Response {
    // A task of its own: a reader who leaves takes neither the forecast nor the worker along.
    let work = {
        let server = Arc::clone(&server);
        async move {
            match &server.content {
                Content::File(watched) => {
                    let name = watched.history.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    watched.latest(&server.context).await.map(|latest| (name, latest))
                }
                Content::Operator(..) => Err(Failure::new(Kind::Bug, "there is no history file")),
            }
        }
    };
    let made = tokio::spawn(work.in_current_span()).await;
    match made.unwrap_or_else(|cause| Err(Failure::new(Kind::Bug, "cannot forecast").cause(cause))) {
        Ok((name, shown)) => {
            let (history, forecast) = &*shown;
            let page = WorkloadPage::of_file(&name, history, forecast, server.about());
            server.html(StatusCode::OK, TEMPLATE, &page)
        }
        Err(failure) => {
            tracing::error!(error = %failure, "cannot show a forecast");
            // The next request may find another worker or another file.
            let status = match failure.kind {
                Kind::Bug | Kind::Input => StatusCode::INTERNAL_SERVER_ERROR,
                Kind::Worker | Kind::Forecast => StatusCode::SERVICE_UNAVAILABLE,
            };
            server.error(status, failure)
        }
    }
}
