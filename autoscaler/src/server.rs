//! The server: the page, the probes, the metrics; from binding the address to a quiet end.
//!
//! A request can fail, the server cannot: every failure becomes a page, a status and a line in the log.

use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::failure::{Failure, Kind};
use crate::forecast::{Forecast, Wish};
use crate::history::History;
use crate::metrics::{Metrics, Outcome};
use crate::page::{self, About, BrokenTemplate, ErrorPage, ForecastPage};
use crate::source;
use crate::span::Span;
use crate::supervisor::{Status, Supervisor};

/// How long open requests may take once the end has begun; Kubernetes kills after 30 s.
const DRAIN: Duration = Duration::from_secs(10);

/// What a server shows.
#[derive(Clone, Debug)]
pub struct Show {
    /// The history file.
    pub history: PathBuf,
    /// The step of the history, when it is not to be found out.
    pub step: Option<Span>,
    /// The folder of the templates.
    pub templates: PathBuf,
    /// What is asked of the history.
    pub wish: Wish,
    /// How long a forecast may take.
    pub deadline: Duration,
    /// The source's revision, as the environment gave it.
    pub revision: Option<String>,
}

/// A server's state.
#[derive(Debug)]
pub struct Server {
    show: Show,
    supervisor: Supervisor,
    metrics: Metrics,
    // Held while forecasting, so that many readers cost one forecast.
    latest: Mutex<Option<Latest>>,
}

#[derive(Debug)]
struct Latest {
    version: FileVersion,
    shown: Arc<(History, Forecast)>,
}

/// What tells that a file was written: a forecast stays good until its history changes.
type FileVersion = (u64, Option<SystemTime>);

impl Server {
    /// A server that has done nothing yet.
    pub fn new(show: Show, supervisor: Supervisor) -> Server {
        let metrics = Metrics::new(show.revision.as_deref());
        Server { show, supervisor, metrics, latest: Mutex::new(None) }
    }

    /// Serves until `end` comes, then lets open requests finish and ends the worker.
    pub async fn run(
        self,
        listener: TcpListener,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Failure> {
        let server = Arc::new(self);
        let keeper = tokio::spawn({
            let server = Arc::clone(&server);
            async move { server.supervisor.keep().await }
        });
        let (ending, ended) = tokio::sync::oneshot::channel();
        let end = async move {
            end.await;
            tracing::info!("ending: no new requests");
            // The receiver is gone when serving has failed already.
            let _ = ending.send(());
        };
        let serving = axum::serve(listener, router(Arc::clone(&server))).with_graceful_shutdown(end);
        let drained = async {
            match ended.await {
                Ok(()) => tokio::time::sleep(DRAIN).await,
                Err(_) => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            served = serving.into_future() => served,
            () = drained => {
                tracing::warn!("some requests did not end in time");
                Ok(())
            }
        };
        keeper.abort();
        // What the keeper held is free only once it has ended.
        let _ = keeper.await;
        server.supervisor.stop().await;
        tracing::info!("ended");
        result.map_err(|cause| Failure::new(Kind::Bug, "cannot serve").cause(cause))
    }

    /// The history and its forecast, made anew when the file has changed.
    async fn latest(&self) -> Result<Arc<(History, Forecast)>, Failure> {
        let mut latest = self.latest.lock().await;
        let version = file_version(&self.show.history);
        if let Some(known) = latest.as_ref().filter(|known| known.version == version) {
            return Ok(Arc::clone(&known.shown));
        }
        let started = Instant::now();
        let made = self.forecast().await;
        let outcome = if made.is_ok() { Outcome::done } else { Outcome::failed };
        self.metrics.forecast(outcome, started.elapsed());
        let shown = Arc::new(made?);
        tracing::info!(
            history = %self.show.history.display(),
            model = %shown.1.model,
            skilled = shown.1.skilled,
            seconds = started.elapsed().as_secs_f64(),
            "forecast made"
        );
        *latest = Some(Latest { version, shown: Arc::clone(&shown) });
        Ok(shown)
    }

    async fn forecast(&self) -> Result<(History, Forecast), Failure> {
        let history = source::read(&self.show.history, self.show.step)?;
        let question = self.show.wish.question(&history)?;
        let answer = self.supervisor.ask(&question, self.show.deadline).await?;
        let forecast = Forecast::new(&history, &self.show.wish, answer);
        Ok((history, forecast))
    }

    fn about(&self) -> About {
        let status = self.supervisor.status();
        let hello = match &status {
            Status::Ready(hello) => Some(hello),
            Status::Starting | Status::Down(_) => None,
        };
        About::new(self.show.revision.as_deref(), hello)
    }

    fn html(&self, status: StatusCode, rendered: Result<String, BrokenTemplate>) -> Response {
        match rendered {
            Ok(html) => (status, [(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))], html)
                .into_response(),
            Err(broken) => {
                tracing::error!(place = %broken.place, cause = %broken.cause, "cannot render the template");
                // Text, so that it needs no template and no escaping.
                let text = format!(
                    "cannot render the template `{}`\n  cause: {}\n\nhint: correct it and load this page again\n",
                    broken.place, broken.cause
                );
                (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
            }
        }
    }
}

fn file_version(path: &Path) -> FileVersion {
    match std::fs::metadata(path) {
        Ok(facts) => (facts.len(), facts.modified().ok()),
        // Reading it will say what is wrong.
        Err(_) => (0, None),
    }
}

fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(async || (StatusCode::NOT_FOUND, "there is nothing here\n"))
        .layer(from_fn_with_state(Arc::clone(&server), observe))
        .with_state(server)
}

/// Counts and logs every answer, and gives it the headers that all have.
async fn observe(State(server): State<Arc<Server>>, request: Request, next: Next) -> Result<Response, Infallible> {
    let started = Instant::now();
    // A label per made-up path would be memory without a limit.
    let path = match request.uri().path() {
        "/" => "/",
        "/healthz" => "/healthz",
        "/readyz" => "/readyz",
        "/metrics" => "/metrics",
        _ => "other",
    };
    let mut response = next.run(request).await;
    let status = response.status().as_u16();
    server.metrics.answered(path, status);
    tracing::debug!(path, status, seconds = started.elapsed().as_secs_f64(), "answered");
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    );
    Ok(response)
}

async fn index(State(server): State<Arc<Server>>) -> Response {
    let templates = &server.show.templates;
    // A task of its own: a reader who leaves takes neither the forecast nor the worker along.
    let made = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.latest().await }
    });
    let latest = made.await.unwrap_or_else(|cause| Err(Failure::new(Kind::Bug, "cannot forecast").cause(cause)));
    match latest {
        Ok(shown) => {
            let (history, forecast) = &*shown;
            let name = server.show.history.file_name().map_or_else(Default::default, |name| name.to_string_lossy());
            let page = ForecastPage::new(&name, history, forecast, server.about());
            server.html(StatusCode::OK, page::render(templates, "forecast.html", &page))
        }
        Err(failure) => {
            tracing::error!(error = %failure, "cannot show a forecast");
            // The next request may find another worker or another file.
            let status = match failure.kind {
                Kind::Bug | Kind::Input => StatusCode::INTERNAL_SERVER_ERROR,
                Kind::Worker | Kind::Forecast => StatusCode::SERVICE_UNAVAILABLE,
            };
            let page = ErrorPage {
                about: server.about(),
                message: failure.message,
                causes: failure.causes,
                hint: failure.hint,
            };
            server.html(status, page::render(templates, "error.html", &page))
        }
    }
}

/// Alive as long as it answers: a restart would not bring a worker back that the supervisor cannot.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(server): State<Arc<Server>>) -> Response {
    match server.supervisor.status() {
        Status::Ready(_) => "ready\n".into_response(),
        Status::Starting => (StatusCode::SERVICE_UNAVAILABLE, "the worker is starting\n").into_response(),
        Status::Down(cause) => (StatusCode::SERVICE_UNAVAILABLE, format!("no worker: {cause}\n")).into_response(),
    }
}

async fn metrics(State(server): State<Arc<Server>>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match server.metrics.text(&server.supervisor) {
        Ok(text) => ([(header::CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS))], text).into_response(),
        Err(cause) => (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write metrics: {cause}\n")).into_response(),
    }
}
