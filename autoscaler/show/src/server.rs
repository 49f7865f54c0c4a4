//! The server: the pages, the probes, the metrics; from a bound address to a quiet end. Read-only: it answers GET and
//! nothing else, and changes nothing anywhere.
//!
//! A request can fail, the server cannot: every failure becomes a page, a status and a line in the log. What is shown comes
//! from a history file (`file`) or from what the operator remembers (`board`).

mod board;
mod connections;
mod file;

use crate::metrics::Metrics;
use crate::page::{self, About, ErrorPage};
use crate::readiness::{Readiness, worker_lacks};
use crate::state;
use autoscaler_forecast::failure::Failure;
use autoscaler_forecast::supervisor::{Status, Supervisor};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
pub use file::Watched;
use serde::Serialize;
use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tracing::Instrument;

/// Time limit of open requests after a signal to stop; Kubernetes kills after 30 s.
const DRAIN: Duration = Duration::from_secs(10);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Values that every server has.
#[derive(Clone, Debug)]
pub struct ServerContext {
    /// Folder of the templates.
    pub templates: PathBuf,
    /// The source's revision, as the environment gave it.
    pub revision: Option<String>,
    /// The worker; none where pages of a state are looked at without one.
    pub supervisor: Arc<Supervisor>,
    pub metrics: Arc<Metrics>,
}

#[derive(Debug)]
pub struct Server {
    context: ServerContext,
    content: Content,
    requests: AtomicU64,
}

/// Content of a server.
#[derive(Debug)]
enum Content {
    /// A history file and its forecast.
    File(Box<Watched>),
    /// State and readiness of an operator; a state file that is only read has no operator.
    Operator(state::State, Option<Arc<Readiness>>),
}

impl Server {
    /// A server of one history file.
    pub fn of_file(context: ServerContext, watched: Watched) -> Server {
        Server { context, content: Content::File(Box::new(watched)), requests: AtomicU64::new(0) }
    }

    /// A server of what an operator remembers.
    pub fn of_operator(context: ServerContext, state: state::State, readiness: Arc<Readiness>) -> Server {
        Server { context, content: Content::Operator(state, Some(readiness)), requests: AtomicU64::new(0) }
    }

    /// A server of a state file without its operator.
    pub fn of_state(context: ServerContext, state: state::State) -> Server {
        Server { context, content: Content::Operator(state, None), requests: AtomicU64::new(0) }
    }

    /// Serves until `end` comes, then lets open requests finish. The worker is the caller's to keep and to end.
    pub async fn run(self, listener: TcpListener, end: impl Future<Output = ()>) {
        let server = Arc::new(self);
        let (ending, ended) = tokio::sync::oneshot::channel();
        let end = async move {
            end.await;
            tracing::info!("ending: no new requests");
            // The receiver is gone when serving has failed already.
            let _ = ending.send(());
        };
        let serving = connections::serve(listener, router(server), end);
        let drained = async {
            match ended.await {
                Ok(()) => tokio::time::sleep(DRAIN).await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = serving => {}
            () = drained => tracing::warn!("some requests did not finish in time"),
        }
    }

    fn about(&self) -> About {
        let status = self.context.supervisor.status();
        let hello = match &status {
            Status::Ready(hello) => Some(hello),
            Status::Starting | Status::Down(_) => None,
        };
        About::new(self.context.revision.as_deref(), hello)
    }

    /// A page, or what is wrong with its template.
    fn html(&self, status: StatusCode, template: &str, page: &impl Serialize) -> Response {
        match page::render(&self.context.templates, template, page) {
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

    fn error(&self, status: StatusCode, failure: Failure) -> Response {
        let page =
            ErrorPage { about: self.about(), message: failure.message, causes: failure.causes, hint: failure.hint };
        self.html(status, "error.html", &page)
    }

    /// Identifies an answer in a log: the client's own id where it is a plain one, or a generated one.
    fn request_id(&self, headers: &HeaderMap) -> String {
        let plain = |id: &&str| {
            (1..=64).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let theirs = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(plain);
        theirs.map(str::to_owned).unwrap_or_else(|| {
            let count = self.requests.fetch_add(1, Ordering::Relaxed);
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            format!("{:x}-{count:x}", since.as_micros())
        })
    }
}

fn router(server: Arc<Server>) -> Router {
    let pages = match &server.content {
        Content::File(_) => Router::new().route("/", get(file::index)),
        Content::Operator(..) => {
            Router::new().route("/", get(board::list)).route("/scalers/{namespace}/{name}", get(board::scaler))
        }
    };
    pages
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
        scaler if scaler.starts_with("/scalers/") => "/scalers",
        _ => "other",
    };
    let id = server.request_id(request.headers());
    let span = tracing::info_span!("request", id, path);
    let mut response = if matches!(*request.method(), Method::GET | Method::HEAD) {
        next.run(request).instrument(span.clone()).await
    } else {
        let only = [(header::ALLOW, HeaderValue::from_static("GET, HEAD"))];
        (StatusCode::METHOD_NOT_ALLOWED, only, "everything here is read-only\n").into_response()
    };
    let status = response.status().as_u16();
    server.context.metrics.answered(path, status);
    span.in_scope(|| tracing::debug!(status, seconds = started.elapsed().as_secs_f64(), "answered"));
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        ),
    );
    Ok(response)
}

/// Alive as long as it answers: a restart would not bring a worker back that the supervisor cannot.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(server): State<Arc<Server>>) -> Response {
    let worker = server.context.supervisor.status();
    let lacks = match &server.content {
        Content::File(_) => worker_lacks(&worker).into_iter().collect(),
        Content::Operator(_, Some(readiness)) => readiness.lacks(&worker),
        Content::Operator(_, None) => Vec::new(),
    };
    if lacks.is_empty() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, lacks.join("\n") + "\n").into_response()
    }
}

async fn metrics(State(server): State<Arc<Server>>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let state = match &server.content {
        Content::File(_) => None,
        Content::Operator(state, _) => Some(state),
    };
    match server.context.metrics.text(&server.context.supervisor, state) {
        Ok(text) => ([(header::CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS))], text).into_response(),
        Err(cause) => (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write metrics: {cause}\n")).into_response(),
    }
}
