//! One HTTP exchange: agents, proxies, certificates, time limits, and which addresses may be spoken to at all.
//!
//! It follows no redirect, tries nothing again and knows nothing of credentials; it sends the headers it is given.

use super::Limits;
use super::deadline::{Deadline, Pace};
use super::proxy::Proxies;
use super::retry_after::retry_after;
use super::url::Url;
use crate::clock;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use ureq::http::{HeaderMap, Method, Request};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, SendBody, Timeout};
use xtask_model::fault::Fault;
use xtask_model::quantity;

/// Error bodies, tokens and other short answers are read no further than this.
pub(crate) const SHORT: u64 = 1 << 20;

/// Redirects that one request follows.
const REDIRECTS: usize = 5;

/// Bytes of each connection's two buffers, also the longest head of an answer. An unoptimised ureq clears its default of 128 KiB byte by
/// byte, which takes longer than a request on this machine.
const BUFFER: usize = 32 << 10;

/// Bytes that can be read more than once, from any offset: a blob to upload.
pub trait BlobSource: Sync {
    /// A reader that begins at `offset`.
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>>;
}

impl BlobSource for std::path::PathBuf {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        use std::io::Seek as _;
        let mut file = std::fs::File::open(self)?;
        file.seek(io::SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }
}

impl BlobSource for Vec<u8> {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let from = usize::try_from(offset).map_or(self.len(), |offset| offset.min(self.len()));
        Ok(Box::new(&self[from..]))
    }
}

/// Body of a request; its length is always sent.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    None,
    /// These bytes, which may be none: POST, PUT, PATCH.
    Bytes(&'a [u8]),
    Part {
        source: &'a dyn BlobSource,
        from: u64,
        length: u64,
    },
}

pub(crate) struct HttpRequest<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a Url,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) payload: Payload<'a>,
}

/// Reason for a missing or incomplete answer.
#[derive(Debug)]
pub(crate) struct ExchangeError {
    /// In words, with the address.
    pub(crate) cause: String,
    pub(crate) again: bool,
    pub(crate) hint: Option<String>,
    pub(crate) unreachable: bool,
    /// It came too slowly: no progress to speak of.
    pub(crate) slow: bool,
    /// The server does not speak TLS.
    pub(crate) plain: bool,
}

impl ExchangeError {
    /// An error that a retry cannot fix.
    pub(crate) fn lasting(cause: impl Into<String>) -> Self {
        Self { again: false, ..Self::passing(cause) }
    }

    /// An error that a retry may fix.
    pub(crate) fn passing(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), again: true, hint: None, unreachable: false, slow: false, plain: false }
    }

    #[must_use]
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The fault of an operation that ends with this.
    pub(crate) fn fault(self, what: &str) -> Fault {
        let fault = Fault { unreachable: self.unreachable, ..Fault::network(what) }.cause(self.cause);
        match self.hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }
}

/// An answer whose body has not been read.
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) url: Url,
    pub(crate) deadline: Deadline,
    body: ureq::Body,
}

impl HttpResponse {
    /// True if the answer is at the address that `Location` names.
    pub(crate) fn is_redirect(&self) -> bool {
        matches!(self.status, 301 | 302 | 303 | 307 | 308)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().map(str::trim)
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        retry_after(self.header("retry-after")?, clock::now())
    }

    pub(crate) fn media_type(&self) -> Option<String> {
        let value = self.header("content-type")?.split(';').next()?.trim();
        (!value.is_empty()).then(|| value.to_ascii_lowercase())
    }

    /// The address that `Location` names.
    pub(crate) fn location(&self) -> Option<Url> {
        self.url.join(self.header("location")?)
    }

    /// The length that `Content-Length` promises.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// The whole body, when it is no longer than `max` bytes.
    pub(crate) fn bytes(self, max: u64) -> Result<Vec<u8>, ExchangeError> {
        let mut bytes = Vec::new();
        let (url, deadline) = (self.url.clone(), self.deadline);
        let read = self.reader().take(max.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|error| cut(&url, &deadline, error))?;
        if bytes.len() as u64 > max {
            return Err(ExchangeError::lasting(format!("the answer of `{url}` is longer than {max} bytes")));
        }
        Ok(bytes)
    }

    pub(crate) fn reader(self) -> impl Read {
        self.body.into_reader()
    }
}

/// The fault of a body that ended too soon.
pub(crate) fn cut(url: &Url, deadline: &Deadline, error: io::Error) -> ExchangeError {
    let broken = ExchangeError { unreachable: false, ..explain(url, deadline, ureq::Error::from(error)) };
    ExchangeError { cause: format!("the answer broke off: {}", broken.cause), ..broken }
}

/// The connections to every registry: direct, and through each scheme's proxy.
pub(crate) struct Transport {
    direct: Agent,
    /// `None` where the proxy's address cannot be read, which matters only once it is needed.
    http: Option<Agent>,
    https: Option<Agent>,
    proxies: Proxies,
    reach: Reach,
}

/// The hosts that may be spoken to over plain HTTP; loopback always may.
pub(crate) enum Reach {
    /// Those listed, `host:port`.
    Listed(BTreeSet<String>),
    Any,
}

/// The certificates that a server is checked against.
pub(crate) enum Trust {
    /// On Linux the host's bundle, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name instead.
    Host,
    Bundle(Vec<Certificate<'static>>),
    /// Any certificate, for servers that the user has said to trust.
    Unchecked,
}

impl Transport {
    pub(crate) fn new(limits: &Limits, proxies: &Proxies, reach: Reach, trust: Trust) -> Self {
        let tls = TlsConfig::builder();
        let tls = match trust {
            Trust::Host => tls.root_certs(RootCerts::PlatformVerifier),
            Trust::Bundle(certificates) => tls.root_certs(certificates.into()),
            Trust::Unchecked => tls.disable_verification(true),
        };
        let tls = tls.build();
        let proxied = |address: &Option<String>| {
            let proxy = ureq::Proxy::new(address.as_deref()?).ok()?;
            Some(agent(limits, &tls, Some(proxy)))
        };
        Self {
            direct: agent(limits, &tls, None),
            http: proxied(&proxies.http),
            https: proxied(&proxies.https),
            proxies: proxies.clone(),
            reach,
        }
    }

    /// Refuses plain HTTP but to loopback and to the hosts within reach.
    pub(crate) fn permit(&self, url: &Url) -> Result<(), ExchangeError> {
        let listed = match &self.reach {
            Reach::Listed(hosts) => hosts.contains(url.authority()),
            Reach::Any => true,
        };
        if url.is_https() || url.is_loopback() || listed {
            return Ok(());
        }
        let host = url.authority();
        let cause = format!("`{url}` is plain HTTP, and `{host}` is neither loopback nor listed as insecure");
        let list = insecure(host);
        Err(ExchangeError::lasting(cause).hint(format!("serve it over HTTPS, or {list}")))
    }

    /// Sends one request and returns the answer, whatever its status.
    pub(crate) fn exchange(
        &self,
        outgoing: &HttpRequest<'_>,
        deadline: &Deadline,
    ) -> Result<HttpResponse, ExchangeError> {
        let url = outgoing.url;
        self.permit(url)?;
        let agent = match self.proxies.for_url(url) {
            Some(_) if url.is_https() => self.https.as_ref(),
            Some(_) => self.http.as_ref(),
            None => Some(&self.direct),
        };
        let agent = agent.ok_or_else(|| {
            // The address may carry a password.
            ExchangeError::lasting(format!("`{url}` is reached through a proxy whose address cannot be read"))
                .hint("write `HTTPS_PROXY`, `HTTP_PROXY` or `ALL_PROXY` as `http://host:port` or `socks5://host:port`")
        })?;
        let response = send(agent, outgoing, deadline)?;
        let (parts, body) = response.into_parts();
        let (status, url, deadline) = (parts.status.as_u16(), url.clone(), *deadline);
        Ok(HttpResponse { status, headers: parts.headers, url, deadline, body })
    }
}

/// Target of a redirect; never from HTTPS to plain HTTP.
pub(crate) fn redirected(reply: &HttpResponse, count: usize) -> Result<Url, ExchangeError> {
    let from = &reply.url;
    if count > REDIRECTS {
        return Err(ExchangeError::lasting(format!("`{from}` redirects more than {REDIRECTS} times")));
    }
    let target = reply.location().ok_or_else(|| ExchangeError::lasting(format!("`{from}` redirects to no address")))?;
    if from.is_https() && !target.is_https() {
        return Err(ExchangeError::lasting(format!("`{from}` redirects to `{target}`, which is unencrypted")));
    }
    Ok(target)
}

/// A response's status in words.
pub(crate) fn status(reply: &HttpResponse) -> String {
    let code = ureq::http::StatusCode::from_u16(reply.status).ok();
    let reason = code.and_then(|code| code.canonical_reason()).map_or_else(String::new, |reason| format!(" {reason}"));
    format!("`{}` answered {}{reason}", reply.url, reply.status)
}

fn agent(limits: &Limits, tls: &TlsConfig, proxy: Option<ureq::Proxy>) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(proxy)
        .tls_config(tls.clone())
        .user_agent(concat!("xtask/", env!("CARGO_PKG_VERSION")))
        // A compressed answer would have another digest.
        .accept_encoding("identity")
        .timeout_resolve(Some(limits.connect_timeout))
        .timeout_connect(Some(limits.connect_timeout))
        .timeout_per_read(Some(limits.idle_timeout))
        .timeout_per_write(Some(limits.idle_timeout))
        .input_buffer_size(BUFFER)
        .output_buffer_size(BUFFER)
        .max_idle_connections(32)
        .max_idle_connections_per_host(8)
        .build()
        .into()
}

fn send(agent: &Agent, outgoing: &HttpRequest<'_>, deadline: &Deadline) -> Result<Response, ExchangeError> {
    let url = outgoing.url;
    if deadline.is_over() {
        return Err(late(url, deadline));
    }
    let mut request = Request::builder().method(&outgoing.method).uri(url.wire());
    for (name, value) in &outgoing.headers {
        request = request.header(*name, value);
    }
    let malformed = |_| {
        ExchangeError::lasting(format!(
            "`{url}` cannot be requested: its address or a header has a forbidden character"
        ))
    };
    match outgoing.payload {
        Payload::None => {
            let (agent, request) = (agent.clone(), request.body(()).map_err(malformed)?);
            let request = limited(&agent, request, deadline);
            unless_interrupted(url, deadline, move || agent.run(request))
        }
        Payload::Bytes(bytes) => {
            // Said outright, or the body goes out in chunks, which some registries refuse.
            let request = request.header("content-length", bytes.len()).body(bytes.to_vec()).map_err(malformed)?;
            let agent = agent.clone();
            let request = limited(&agent, request, deadline);
            unless_interrupted(url, deadline, move || agent.run(request))
        }
        Payload::Part { source, from, length } => {
            let failure = Arc::new(Mutex::new(None));
            let reader = source.open(from).map_err(|error| unreadable(&error))?;
            let mut exact = ExactReader { reader, left: length, failure: Arc::clone(&failure), pace: deadline.pace() };
            let body = SendBody::from_reader(&mut exact);
            let request = request.header("content-length", length).body(body).map_err(malformed)?;
            let sent = agent.run(limited(agent, request, deadline));
            sent.map_err(|error| match failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(TransferFailure::Source(local)) => unreadable(&local),
                Some(TransferFailure::Slow(why)) => too_slow(url, deadline, &why),
                None => explain(url, deadline, error),
            })
        }
    }
}

type Response = ureq::http::Response<ureq::Body>;

/// Waits for an answer, or for Ctrl-C: a registry may be silent for minutes, and a blocked read cannot be called off. The
/// thread that waits for such a registry is left to end with the process.
fn unless_interrupted(
    url: &Url,
    deadline: &Deadline,
    ask: impl FnOnce() -> Result<Response, ureq::Error> + Send + 'static,
) -> Result<Response, ExchangeError> {
    let (sender, receiver) = mpsc::channel();
    on_idle_thread(Box::new(move || drop(sender.send(ask()))));
    loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(answer) => return answer.map_err(|error| explain(url, deadline, error)),
            Err(RecvTimeoutError::Timeout) if crate::process::interrupted().is_ok() => {}
            Err(RecvTimeoutError::Timeout) => return Err(ExchangeError::passing("interrupted")),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(ExchangeError::lasting(format!("`{url}`: the request panicked")));
            }
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that wait for work: to begin one for each request costs as much as a request on this machine.
static IDLE: Mutex<Vec<mpsc::Sender<Job>>> = Mutex::new(Vec::new());

fn on_idle_thread(job: Job) {
    let idle = || IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let waiting = idle().pop();
    let thread = waiting.unwrap_or_else(|| {
        let (sender, receiver) = mpsc::channel::<Job>();
        let own = sender.clone();
        std::thread::spawn(move || {
            for job in receiver {
                job();
                idle().push(own.clone());
            }
        });
        sender
    });
    // A thread that ended by a panic takes nothing: the request then counts as one that panicked.
    drop(thread.send(job));
}

fn unreadable(error: &io::Error) -> ExchangeError {
    ExchangeError::lasting(format!("the blob to upload cannot be read: {error}"))
}

/// The part of a deadline that is left, as ureq's limit of everything that belongs to one request.
fn limited<S: ureq::AsSendBody>(agent: &Agent, request: Request<S>, deadline: &Deadline) -> Request<S> {
    let configured = agent.configure_request(request).timeout_global(Some(deadline.left()));
    configured.timeout_per_read(Some(deadline.idle())).timeout_per_write(Some(deadline.idle())).build()
}

/// Reads exactly `left` bytes. An early end is an error: ureq would otherwise read forever.
struct ExactReader<'a> {
    reader: Box<dyn Read + 'a>,
    left: u64,
    failure: Arc<Mutex<Option<TransferFailure>>>,
    pace: Pace,
}

enum TransferFailure {
    Source(io::Error),
    Slow(String),
}

impl ExactReader<'_> {
    fn fail(&self, error: io::Error) -> io::Error {
        let copy = io::Error::new(error.kind(), error.to_string());
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(TransferFailure::Source(error));
        copy
    }
}

impl Read for ExactReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if crate::process::interrupted().is_err() {
            return Err(self.fail(io::Error::other("interrupted")));
        }
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        loop {
            match self.reader.read(&mut buffer[..wanted]) {
                Ok(0) => {
                    return Err(self.fail(io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than was said")));
                }
                Ok(count) => {
                    if let Err(why) = self.pace.moved(count as u64) {
                        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(TransferFailure::Slow(why));
                        return Err(io::Error::other("the upload is too slow"));
                    }
                    self.left -= count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fail(error)),
            }
        }
    }
}

/// ureq's error in a person's words, without any query of the address.
fn explain(url: &Url, deadline: &Deadline, error: ureq::Error) -> ExchangeError {
    use ureq::Error;
    let passing = |why: String| ExchangeError::passing(format!("`{url}`: {why}"));
    let unreachable = |why: String| ExchangeError { unreachable: true, ..passing(why) };
    match error {
        Error::HostNotFound => unreachable(format!("`{}` cannot be found by DNS", url.host())),
        Error::Timeout(Timeout::Resolve | Timeout::Connect) => unreachable("timed out while connecting".to_owned()),
        Error::Timeout(Timeout::Global) => late(url, deadline),
        Error::Timeout(Timeout::PerRead | Timeout::PerWrite) => {
            let silent = quantity::seconds(deadline.idle());
            passing(format!("timed out: silent for {silent} ({})", deadline.limits()))
        }
        Error::Timeout(phase) => passing(format!("timed out ({phase})")),
        Error::ConnectionFailed => unreachable("cannot connect".to_owned()),
        // The proxy can be reached, and the network beyond it cannot; whatever else it answers is a refusal.
        Error::ConnectProxyFailed(why) if [" 502", " 503", " 504"].iter().any(|status| why.contains(status)) => {
            unreachable(format!("the proxy cannot reach it ({why})"))
        }
        Error::ConnectProxyFailed(why) => ExchangeError::lasting(format!("`{url}`: the proxy refuses ({why})"))
            .hint("list hosts to reach without the proxy in `NO_PROXY`"),
        Error::Rustls(error) => certificate(url, &error.to_string()),
        Error::Tls(error) => certificate(url, error),
        // rustls hands its own errors through as invalid data.
        Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => certificate(url, &error.to_string()),
        Error::Io(error) if is_unreachable(&error) => unreachable(error.to_string()),
        Error::Io(error) => passing(error.to_string()),
        Error::Protocol(error) => passing(format!("not a whole HTTP answer ({error})")),
        other => ExchangeError::lasting(format!("`{url}`: {other}")),
    }
}

/// True if a connection did not come to be. A name that is not found has no kind of its own in std.
fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionRefused | Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::TimedOut
    ) || error.to_string().starts_with("failed to lookup address information")
}

/// The end of an operation that has used up its time.
pub(crate) fn late(url: &Url, deadline: &Deadline) -> ExchangeError {
    ExchangeError::lasting(format!("`{url}`: timed out: the operation takes too long: {}", deadline.limits()))
}

pub(crate) fn too_slow(url: &Url, deadline: &Deadline, why: &str) -> ExchangeError {
    ExchangeError { slow: true, ..ExchangeError::passing(format!("`{url}`: {why} ({})", deadline.limits())) }
}

pub(crate) fn insecure(host: &str) -> String {
    format!("list it in `images.toml`: `[project] insecure-registries = [\"{host}\"]`")
}

/// A TLS handshake that failed, for the certificate's sake or because the other side does not speak TLS.
fn certificate(url: &Url, why: &str) -> ExchangeError {
    let broken = ExchangeError::lasting(format!("`{url}`: TLS failed: {why}"));
    if !why.contains("InvalidContentType") {
        return broken.hint("name your own certificate authority in `SSL_CERT_FILE`");
    }
    let cause = format!("`{url}`: the server does not speak TLS; it may speak plain HTTP ({why})");
    ExchangeError { cause, plain: true, ..broken }
}
