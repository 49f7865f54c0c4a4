//! One HTTP exchange: agents, proxies, certificates, time limits, and which addresses may be spoken to at all.
//!
//! It follows no redirect, tries nothing again and knows nothing of credentials; it sends the headers it is given.

use super::Options;
use super::deadline::{Deadline, Pace};
use super::patience::retry_after;
use super::proxy::Proxies;
use super::url::Url;
use crate::clock;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use ureq::http::{HeaderMap, Method, Request};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, SendBody, Timeout};
use xtask_model::fault::Fault;
use xtask_model::quantity;

/// Error bodies, tokens and other short answers are read no further than this.
pub(super) const SHORT: u64 = 1 << 20;

/// Bytes of each connection's two buffers, also the longest head of an answer. An unoptimised ureq clears its default of 128 KiB byte by
/// byte, which takes longer than a request on this machine.
const BUFFER: usize = 32 << 10;

/// Bytes that can be read more than once, from any offset: a blob to upload.
pub trait Source: Sync {
    /// A reader that begins at `offset`.
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>>;
}

impl Source for std::path::PathBuf {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        use std::io::Seek as _;
        let mut file = std::fs::File::open(self)?;
        file.seek(io::SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }
}

impl Source for Vec<u8> {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let from = usize::try_from(offset).map_or(self.len(), |offset| offset.min(self.len()));
        Ok(Box::new(&self[from..]))
    }
}

/// What is sent with a request; its length is always said.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    /// Nothing: GET, HEAD, DELETE.
    None,
    /// These bytes, which may be none: POST, PUT, PATCH.
    Bytes(&'a [u8]),
    /// A part of a blob.
    Part { source: &'a dyn Source, from: u64, length: u64 },
}

/// A request as it goes on the wire.
pub(super) struct Outgoing<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Payload<'a>,
}

/// Why there is no answer, or no whole one.
#[derive(Debug)]
pub(super) struct Broken {
    /// In words, with the address.
    pub(super) cause: String,
    /// Whether another try may do better.
    pub(super) again: bool,
    /// What a person can do.
    pub(super) hint: Option<String>,
    /// The network does not lead there.
    pub(super) unreachable: bool,
    /// It came too slowly: no progress to speak of.
    pub(super) slow: bool,
}

impl Broken {
    /// What another try would not mend.
    pub(super) fn lasting(cause: impl Into<String>) -> Self {
        Self { again: false, ..Self::passing(cause) }
    }

    /// What another try may mend.
    pub(super) fn passing(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), again: true, hint: None, unreachable: false, slow: false }
    }

    #[must_use]
    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The fault of an operation that ends with this.
    pub(super) fn fault(self, what: &str) -> Fault {
        let fault = Fault { unreachable: self.unreachable, ..Fault::network(what) }.cause(self.cause);
        match self.hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }
}

/// An answer whose body has not been read.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) url: Url,
    /// Until when its body has to be read.
    pub(super) deadline: Deadline,
    body: ureq::Body,
}

impl Reply {
    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().map(str::trim)
    }

    /// The pause that the registry asks for.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        retry_after(self.header("retry-after")?, clock::now())
    }

    /// The media type without its parameters.
    pub(super) fn media_type(&self) -> Option<String> {
        let value = self.header("content-type")?.split(';').next()?.trim();
        (!value.is_empty()).then(|| value.to_ascii_lowercase())
    }

    /// The address that `Location` names.
    pub(super) fn location(&self) -> Option<Url> {
        self.url.join(self.header("location")?)
    }

    /// The length that `Content-Length` promises.
    pub(super) fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// The whole body, when it is no longer than `max` bytes.
    pub(super) fn bytes(self, max: u64) -> Result<Vec<u8>, Broken> {
        let mut bytes = Vec::new();
        let (url, deadline) = (self.url.clone(), self.deadline);
        let read = self.reader().take(max.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|error| cut(&url, &deadline, error))?;
        if bytes.len() as u64 > max {
            return Err(Broken::lasting(format!("the answer of `{url}` is longer than {max} bytes")));
        }
        Ok(bytes)
    }

    /// The body as it comes.
    pub(super) fn reader(self) -> impl Read {
        self.body.into_reader()
    }
}

/// The fault of a body that ended too soon.
pub(super) fn cut(url: &Url, deadline: &Deadline, error: io::Error) -> Broken {
    let broken = Broken { unreachable: false, ..explain(url, deadline, ureq::Error::from(error)) };
    Broken { cause: format!("the answer broke off: {}", broken.cause), ..broken }
}

/// The connections to every registry: direct, and through each scheme's proxy.
pub(super) struct Transport {
    direct: Agent,
    /// `None` where the proxy's address cannot be read, which matters only once it is needed.
    http: Option<Agent>,
    https: Option<Agent>,
    proxies: Proxies,
    plain_http: BTreeSet<String>,
}

impl Transport {
    pub(super) fn new(options: &Options) -> Self {
        let proxied = |address: &Option<String>| {
            let proxy = ureq::Proxy::new(address.as_deref()?).ok()?;
            Some(agent(options, Some(proxy)))
        };
        Self {
            direct: agent(options, None),
            http: proxied(&options.proxies.http),
            https: proxied(&options.proxies.https),
            proxies: options.proxies.clone(),
            plain_http: options.plain_http.clone(),
        }
    }

    /// Refuses plain HTTP but to loopback and to the registries that the options name.
    pub(super) fn permit(&self, url: &Url) -> Result<(), Broken> {
        if url.is_https() || url.is_loopback() || self.plain_http.contains(url.authority()) {
            return Ok(());
        }
        let host = url.authority();
        let cause = format!("`{url}` is plain HTTP, and `{host}` is neither loopback nor listed as insecure");
        let list = insecure(host);
        Err(Broken::lasting(cause).hint(format!("serve it over HTTPS, or {list}")))
    }

    /// Sends one request and returns the answer, whatever its status.
    pub(super) fn exchange(&self, outgoing: &Outgoing<'_>, deadline: &Deadline) -> Result<Reply, Broken> {
        let url = outgoing.url;
        self.permit(url)?;
        let agent = match self.proxies.for_url(url) {
            Some(_) if url.is_https() => self.https.as_ref(),
            Some(_) => self.http.as_ref(),
            None => Some(&self.direct),
        };
        let agent = agent.ok_or_else(|| {
            // The address may carry a password.
            Broken::lasting(format!("`{url}` is reached through a proxy whose address cannot be read"))
                .hint("write `HTTPS_PROXY`, `HTTP_PROXY` or `ALL_PROXY` as `http://host:port` or `socks5://host:port`")
        })?;
        let response = send(agent, outgoing, deadline)?;
        let (parts, body) = response.into_parts();
        let (status, url, deadline) = (parts.status.as_u16(), url.clone(), *deadline);
        Ok(Reply { status, headers: parts.headers, url, deadline, body })
    }
}

fn agent(options: &Options, proxy: Option<ureq::Proxy>) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(proxy)
        // On Linux the platform's verifier reads the host's bundle, or what SSL_CERT_FILE and SSL_CERT_DIR name instead.
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
        .user_agent(concat!("xtask/", env!("CARGO_PKG_VERSION")))
        // A compressed answer would have another digest.
        .accept_encoding("identity")
        .timeout_resolve(Some(options.connect_timeout))
        .timeout_connect(Some(options.connect_timeout))
        .timeout_per_read(Some(options.idle_timeout))
        .timeout_per_write(Some(options.idle_timeout))
        .input_buffer_size(BUFFER)
        .output_buffer_size(BUFFER)
        .max_idle_connections(32)
        .max_idle_connections_per_host(8)
        .build()
        .into()
}

fn send(agent: &Agent, outgoing: &Outgoing<'_>, deadline: &Deadline) -> Result<Response, Broken> {
    let url = outgoing.url;
    if deadline.is_over() {
        return Err(late(url, deadline));
    }
    let mut request = Request::builder().method(&outgoing.method).uri(url.wire());
    for (name, value) in &outgoing.headers {
        request = request.header(*name, value);
    }
    let malformed =
        |_| Broken::lasting(format!("`{url}` cannot be asked: its address or a header has a forbidden character"));
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
            let mut exact = Exact { reader, left: length, failure: Arc::clone(&failure), pace: deadline.pace() };
            let body = SendBody::from_reader(&mut exact);
            let request = request.header("content-length", length).body(body).map_err(malformed)?;
            let sent = agent.run(limited(agent, request, deadline));
            sent.map_err(|error| match failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(Failure::Source(local)) => unreadable(&local),
                Some(Failure::Slow(why)) => too_slow(url, deadline, &why),
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
) -> Result<Response, Broken> {
    let (sender, receiver) = mpsc::channel();
    beside(Box::new(move || drop(sender.send(ask()))));
    loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(answer) => return answer.map_err(|error| explain(url, deadline, error)),
            Err(RecvTimeoutError::Timeout) if crate::process::interrupted().is_ok() => {}
            Err(RecvTimeoutError::Timeout) => return Err(Broken::passing("interrupted")),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Broken::lasting(format!("`{url}`: the request panicked")));
            }
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that wait for work: to begin one for each request costs as much as a request on this machine.
static IDLE: Mutex<Vec<mpsc::Sender<Job>>> = Mutex::new(Vec::new());

/// Has a thread do it.
fn beside(job: Job) {
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

fn unreadable(error: &io::Error) -> Broken {
    Broken::lasting(format!("the blob to upload cannot be read: {error}"))
}

/// The part of a deadline that is left, as ureq's limit of everything that belongs to one request.
fn limited<S: ureq::AsSendBody>(agent: &Agent, request: Request<S>, deadline: &Deadline) -> Request<S> {
    let configured = agent.configure_request(request).timeout_global(Some(deadline.left()));
    configured.timeout_per_read(Some(deadline.idle())).timeout_per_write(Some(deadline.idle())).build()
}

/// Exactly so many bytes of a reader. One that ends early is an error: ureq would ask it for more for ever.
struct Exact<'a> {
    reader: Box<dyn Read + 'a>,
    left: u64,
    failure: Arc<Mutex<Option<Failure>>>,
    pace: Pace,
}

/// Why an upload was ended from this side.
enum Failure {
    Source(io::Error),
    Slow(String),
}

impl Exact<'_> {
    fn fail(&self, error: io::Error) -> io::Error {
        let copy = io::Error::new(error.kind(), error.to_string());
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(Failure::Source(error));
        copy
    }
}

impl Read for Exact<'_> {
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
                        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(Failure::Slow(why));
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
fn explain(url: &Url, deadline: &Deadline, error: ureq::Error) -> Broken {
    use ureq::Error;
    let passing = |why: String| Broken::passing(format!("`{url}`: {why}"));
    let unreachable = |why: String| Broken { unreachable: true, ..passing(why) };
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
        // The proxy is there, and the network beyond it is not; whatever else it answers is a refusal.
        Error::ConnectProxyFailed(why) if [" 502", " 503", " 504"].iter().any(|status| why.contains(status)) => {
            unreachable(format!("the proxy cannot reach it ({why})"))
        }
        Error::ConnectProxyFailed(why) => Broken::lasting(format!("`{url}`: the proxy refuses ({why})"))
            .hint("`NO_PROXY` names the hosts that are reached without the proxy"),
        Error::Rustls(error) => certificate(url, &error.to_string()),
        Error::Tls(error) => certificate(url, error),
        // rustls hands its own errors through as invalid data.
        Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => certificate(url, &error.to_string()),
        Error::Io(error) if leads_nowhere(&error) => unreachable(error.to_string()),
        Error::Io(error) => passing(error.to_string()),
        Error::Protocol(error) => passing(format!("not a whole HTTP answer ({error})")),
        other => Broken::lasting(format!("`{url}`: {other}")),
    }
}

/// Whether a connection did not come to be. A name that is not found has no kind of its own in std.
fn leads_nowhere(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionRefused | Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::TimedOut
    ) || error.to_string().starts_with("failed to lookup address information")
}

/// The end of an operation that has used up its time.
pub(super) fn late(url: &Url, deadline: &Deadline) -> Broken {
    Broken::lasting(format!("`{url}`: timed out, for the operation is not done in time: {}", deadline.limits()))
}

/// The end of a transfer that does not get on.
pub(super) fn too_slow(url: &Url, deadline: &Deadline, why: &str) -> Broken {
    Broken { slow: true, ..Broken::passing(format!("`{url}`: {why} ({})", deadline.limits())) }
}

/// How a registry that speaks plain HTTP is allowed.
fn insecure(host: &str) -> String {
    format!("list it in `images.toml`: `[project] insecure-registries = [\"{host}\"]`")
}

/// A TLS handshake that failed, for the certificate's sake or because the other side does not speak TLS.
fn certificate(url: &Url, why: &str) -> Broken {
    let broken = Broken::lasting(format!("`{url}`: TLS failed: {why}"));
    if !why.contains("InvalidContentType") {
        return broken.hint("a certificate authority of your own is read from `SSL_CERT_FILE`");
    }
    let cause = format!("`{url}`: the other side does not speak TLS; it may speak plain HTTP ({why})");
    Broken { cause, ..broken }
        .hint(format!("if it is a registry that is meant to be asked in plain HTTP, {}", insecure(url.authority())))
}
