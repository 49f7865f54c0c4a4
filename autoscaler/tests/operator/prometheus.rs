//! A Prometheus on loopback: range queries over made-up loads, and everything that can go wrong with one.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::{StreamExt, stream};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A load: demand at a second, none where nothing was measured.
pub(crate) type Load = Arc<dyn Fn(&str, i64) -> Option<f64> + Send + Sync>;

/// Fault of the mock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    /// No answer in time.
    Hangs,
    /// As behind a proxy whose Prometheus is away.
    Down,
    /// No sample after this second.
    StaleSince(i64),
    /// A million points, whatever was asked.
    Million,
    /// Words in place of numbers.
    Text,
    /// Not a number, from this second on.
    NanSince(i64),
    /// Three of four samples are missing.
    Gaps,
    /// Half the step that was asked for.
    WrongSpacing,
    /// Twice the step that was asked for.
    Sparse,
    /// This number of series instead of one.
    Series(usize),
    /// A page instead of an answer.
    Html,
    /// The query does not parse.
    BadQuery,
}

struct Inner {
    load: Load,
    fault: Mutex<Fault>,
    delay: Mutex<Duration>,
    now: AtomicUsize,
    most: AtomicUsize,
    points: AtomicUsize,
    requests: AtomicUsize,
}

/// Mock of Prometheus.
#[derive(Clone)]
pub(crate) struct Mock {
    inner: Arc<Inner>,
    pub(crate) address: SocketAddr,
}

struct Range {
    query: String,
    start: i64,
    end: i64,
    step: i64,
}

impl Mock {
    pub(crate) async fn start(load: Load) -> Mock {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            load,
            fault: Mutex::new(Fault::None),
            delay: Mutex::default(),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            points: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        });
        let router = Router::new().route("/api/v1/query_range", get(range)).with_state(Arc::clone(&inner));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Mock { inner, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn fault(&self, fault: Fault) {
        *self.inner.fault.lock().unwrap() = fault;
    }

    /// Every answer takes so long from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        *self.inner.delay.lock().unwrap() = delay;
    }

    /// The most requests at a time so far.
    pub(crate) fn most_at_a_time(&self) -> usize {
        self.inner.most.load(Ordering::SeqCst)
    }

    /// Returns the number of points requested so far.
    pub(crate) fn points(&self) -> usize {
        self.inner.points.load(Ordering::SeqCst)
    }

    /// Returns the number of requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.inner.requests.load(Ordering::SeqCst)
    }
}

impl Range {
    fn read(uri: &Uri) -> Range {
        let pairs = || form_urlencoded::parse(uri.query().unwrap().as_bytes());
        let value = |wanted: &str| pairs().find(|(name, _)| name == wanted).unwrap().1.into_owned();
        let number = |wanted: &str| value(wanted).parse().unwrap();
        Range { query: value("query"), start: number("start"), end: number("end"), step: number("step") }
    }
}

async fn range(State(inner): State<Arc<Inner>>, uri: Uri) -> Response {
    let range = Range::read(&uri);
    let now = inner.now.fetch_add(1, Ordering::SeqCst) + 1;
    inner.most.fetch_max(now, Ordering::SeqCst);
    inner.requests.fetch_add(1, Ordering::SeqCst);
    let delay = *inner.delay.lock().unwrap();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    inner.now.fetch_sub(1, Ordering::SeqCst);
    inner.points.fetch_add(((range.end - range.start) / range.step + 1) as usize, Ordering::SeqCst);
    let fault = *inner.fault.lock().unwrap();
    let step = match fault {
        Fault::WrongSpacing => (range.step / 2).max(1),
        Fault::Sparse => range.step * 2,
        _ => range.step,
    };
    match fault {
        Fault::Hangs => return std::future::pending().await,
        Fault::Down => return (StatusCode::SERVICE_UNAVAILABLE, "upstream connect error").into_response(),
        Fault::Html => return (StatusCode::OK, "<html>please log in</html>").into_response(),
        Fault::BadQuery => {
            let body =
                r#"{"status":"error","errorType":"bad_data","error":"1:5: parse error: unexpected end of input"}"#;
            return (StatusCode::BAD_REQUEST, body).into_response();
        }
        Fault::Million => {
            let head = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[0,"1"]"#;
            let points = stream::iter(0..1_000).map(|part| {
                let points: String = (0..1_000).map(|point| format!(",[{},\"1\"]", part * 1_000 + point)).collect();
                Ok::<_, std::convert::Infallible>(points)
            });
            let body = stream::iter([Ok(head.to_owned())]).chain(points);
            return ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response();
        }
        _ => {}
    }
    let mut values = Vec::new();
    let mut second = range.start;
    while second <= range.end {
        let value = match fault {
            Fault::StaleSince(since) if second > since => None,
            Fault::NanSince(since) if second > since => Some(f64::NAN),
            Fault::Gaps if (second / step) % 4 != 0 => None,
            _ => (inner.load)(&range.query, second),
        };
        match value {
            Some(_) if fault == Fault::Text => values.push(format!("[{second},\"many\"]")),
            Some(value) if value.is_nan() => values.push(format!("[{second},\"NaN\"]")),
            Some(value) => values.push(format!("[{second},\"{value}\"]")),
            None => {}
        }
        second += step;
    }
    let series = format!(r#"{{"metric":{{}},"values":[{}]}}"#, values.join(","));
    let count = if let Fault::Series(count) = fault { count } else { usize::from(!values.is_empty()) };
    let result = vec![series; count].join(",");
    let body = format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":[{result}]}}}}"#);
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
