//! HTTP requests to one address: directly or through the proxy of the environment, by TLS that trusts what the host trusts.
//!
//! Built from the parts that the API server's client is built from. Follows no redirects, which would take a token somewhere else.

use hyper::body::{Body, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Response, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::ConfigExt;
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::{Service, ServiceExt};

/// Time in which a system that has gone without a word is noticed on an open connection.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Time after which a connection is not used again.
const IDLE: Duration = Duration::from_secs(90);

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Time limits of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestLimits {
    /// A new connection, with its proxy and TLS.
    pub(super) connection: Duration,
    /// A request, from its connection to the end of its answer.
    pub(super) request: Duration,
}

/// Connections to one address.
#[derive(Debug)]
pub(super) struct Client {
    // A request without a body: its type is a text.
    inner: legacy::Client<Connector, String>,
    headers: HeaderMap,
    limits: RequestLimits,
}

impl Client {
    /// A client without connections. The proxy is the one that `proxies` has for `to`, whose path does not matter.
    pub(super) fn new(to: &Uri, proxies: &Matcher, limits: RequestLimits) -> Result<Client, String> {
        let proxy = proxies.intercept(to);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("autoscaler/", env!("CARGO_PKG_VERSION"))));
        if let Some(proxy) = &proxy {
            if !is_http(proxy.uri()) {
                let cause = "is not one by HTTP, and no other is supported: leave the host out with NO_PROXY";
                return Err(format!("the proxy `{}` {cause}", proxy.uri()));
            }
            // One that tunnels reads it when the tunnel is made.
            if !is_tls(to)
                && let Some(login) = proxy.basic_auth()
            {
                headers.insert(PROXY_AUTHORIZATION, login.clone());
            }
        }
        let mut http = HttpConnector::new();
        // The scheme is for what is around it.
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(KEEPALIVE));
        http.set_keepalive_interval(Some(KEEPALIVE));
        http.set_keepalive_retries(Some(3));
        #[cfg(target_os = "linux")]
        http.set_tcp_user_timeout(Some(2 * KEEPALIVE));
        let by_tls = is_tls(to) || proxy.as_ref().is_some_and(|proxy| is_tls(proxy.uri()));
        let tls = Arc::new(if by_tls { trusted_by_the_host()? } else { trusted_by_nobody() });
        let https = HttpsConnector::from((http, Arc::clone(&tls)));
        let connector = Connector { https, tls, proxy, within: limits.connection };
        let inner = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Client { inner, headers, limits })
    }

    /// The answer to a GET, without its body if that has more than `most` bytes.
    ///
    /// # Errors
    ///
    /// In words: no answer, or not all of it in time.
    pub(super) async fn get(
        &self,
        uri: Uri,
        authorization: Option<HeaderValue>,
        most: usize,
    ) -> Result<Answer, String> {
        let mut request = Request::new(String::new());
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().extend(authorization.map(|value| (AUTHORIZATION, value)));
        let exchange = async {
            let response = self.inner.request(request).await.map_err(|error| describe_connection(&error))?;
            read(response, most).await
        };
        let within = self.limits.request;
        tokio::time::timeout(within, exchange)
            .await
            .unwrap_or_else(|_| Err(format!("it does not answer in time: no complete answer within {within:?}")))
    }
}

/// Status and body of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: hyper::StatusCode,
    /// None if it is larger than asked for.
    pub(super) body: Option<Vec<u8>>,
}

async fn read(response: Response<Incoming>, most: usize) -> Result<Answer, String> {
    let (head, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut incoming).poll_frame(context)).await {
        let frame = frame.map_err(|error| describe("the connection broke", &error))?;
        let Ok(data) = frame.into_data() else { continue };
        if body.len() + data.len() > most {
            // Dropping the response closes the connection: the rest is never read.
            return Ok(Answer { status: head.status, body: None });
        }
        body.extend_from_slice(&data);
    }
    Ok(Answer { status: head.status, body: Some(body) })
}

fn describe_connection(error: &legacy::Error) -> String {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(late) = inner.downcast_ref::<Late>() {
            return format!("it does not answer in time: {late}");
        }
        cause = inner.source();
    }
    describe(if error.is_connect() { "cannot connect" } else { "the connection broke" }, error)
}

/// The error's last causes, and without the address: a query can be long.
fn describe(what: &str, error: &dyn std::error::Error) -> String {
    let mut text = what.to_owned();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if inner.source().is_none() {
            text.push_str(&format!(": {inner}"));
        }
        cause = inner.source();
    }
    text
}

fn is_tls(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

fn is_http(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("http" | "https"))
}

fn trusted_by_the_host() -> Result<ClientConfig, String> {
    crate::tls::provide();
    // The address is the API server's in a configuration, and not used here.
    let config = kube::Config::new(Uri::from_static("https://localhost"));
    config
        .rustls_client_config()
        .map_err(|error| describe("cannot read the certificates that this host trusts", &error))
}

/// For connections without TLS: the certificates of the host are not read.
fn trusted_by_nobody() -> ClientConfig {
    crate::tls::provide();
    ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}

#[derive(Clone, Debug)]
struct Connector {
    https: HttpsConnector<HttpConnector>,
    tls: Arc<ClientConfig>,
    proxy: Option<Intercept>,
    within: Duration,
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = AnyError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, AnyError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AnyError>> {
        // What it calls is waited for in the call.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let within = connector.within;
            tokio::time::timeout(within, connector.connect(to)).await.unwrap_or_else(|_| Err(Late(within).into()))
        })
    }
}

impl Connector {
    async fn connect(self, to: Uri) -> Result<Stream, AnyError> {
        let Connector { https, tls, proxy, .. } = self;
        let Some(proxy) = proxy else {
            return Ok(Stream { inner: Box::new(https.oneshot(to).await?), forwards: false });
        };
        if !is_tls(&to) {
            return Ok(Stream { inner: Box::new(https.oneshot(proxy.uri().clone()).await?), forwards: true });
        }
        let tunnel = Tunnel::new(proxy.uri().clone(), https);
        let tunnel = match proxy.basic_auth() {
            Some(login) => tunnel.with_auth(login.clone()),
            None => tunnel,
        };
        Ok(Stream { inner: Box::new(HttpsConnector::from((tunnel, tls)).oneshot(to).await?), forwards: false })
    }
}

/// No connection within this time.
#[derive(Debug)]
struct Late(Duration);

impl std::fmt::Display for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no connection within {:?}", self.0)
    }
}

impl std::error::Error for Late {}

trait ReadWrite: Read + Write + Send + Unpin {}

impl<T: Read + Write + Send + Unpin> ReadWrite for T {}

/// A TCP or TLS connection.
struct Stream {
    inner: Box<dyn ReadWrite>,
    /// A proxy without a tunnel: a request has to name the whole address.
    forwards: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.forwards)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
