//! One HTTP exchange: agents, proxies, certificates, time limits, and which addresses may be spoken to at all.
//!
//! It follows no redirect, tries nothing again and knows nothing of credentials; it sends the headers it is given.

use super::Options;
use super::patience::retry_after;
use super::proxy::Proxies;
use super::url::Url;
use crate::fault::Fault;
use crate::time::Timestamp;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use ureq::http::{HeaderMap, Method, Request};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, SendBody};

/// Error bodies, tokens and other short answers are read no further than this.
pub(super) const SHORT: u64 = 1 << 20;

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
    pub(super) hint: Option<&'static str>,
}

impl Broken {
    pub(super) fn lasting(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), again: false, hint: None }
    }

    /// The fault of an operation that ends with this.
    pub(super) fn fault(self, what: &str) -> Fault {
        let fault = Fault::network(what).cause(self.cause);
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
    body: ureq::Body,
}

impl Reply {
    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().map(str::trim)
    }

    /// The pause that the registry asks for.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        retry_after(self.header("retry-after")?, Timestamp::now())
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
        let url = self.url.clone();
        let read = self.reader().take(max.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|error| cut(&url, error))?;
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
pub(super) fn cut(url: &Url, error: io::Error) -> Broken {
    let broken = explain(url, ureq::Error::from(error));
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
        Err(Broken {
            cause: format!(
                "`{url}` is plain HTTP, and `{}` is neither loopback nor listed as insecure",
                url.authority()
            ),
            again: false,
            hint: Some("serve it over HTTPS, or list the registry as insecure"),
        })
    }

    /// Sends one request and returns the answer, whatever its status.
    pub(super) fn exchange(&self, outgoing: &Outgoing<'_>) -> Result<Reply, Broken> {
        let url = outgoing.url;
        self.permit(url)?;
        let agent = match self.proxies.for_url(url) {
            Some(_) if url.is_https() => self.https.as_ref(),
            Some(_) => self.http.as_ref(),
            None => Some(&self.direct),
        };
        let agent = agent.ok_or_else(|| Broken {
            // The address may carry a password.
            cause: format!("`{url}` is reached through a proxy whose address cannot be read"),
            again: false,
            hint: Some(
                "write `HTTPS_PROXY`, `HTTP_PROXY` or `ALL_PROXY` as `http://host:port` or `socks5://host:port`",
            ),
        })?;
        let response = send(agent, outgoing)?;
        let (parts, body) = response.into_parts();
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, url: url.clone(), body })
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
        .max_idle_connections(32)
        .max_idle_connections_per_host(8)
        .build()
        .into()
}

fn send(agent: &Agent, outgoing: &Outgoing<'_>) -> Result<Response, Broken> {
    let url = outgoing.url;
    let mut request = Request::builder().method(&outgoing.method).uri(url.wire());
    for (name, value) in &outgoing.headers {
        request = request.header(*name, value);
    }
    let malformed =
        |_| Broken::lasting(format!("`{url}` cannot be asked: its address or a header has a forbidden character"));
    match outgoing.payload {
        Payload::None => {
            let (agent, request) = (agent.clone(), request.body(()).map_err(malformed)?);
            unless_interrupted(url, move || agent.run(request))
        }
        Payload::Bytes(bytes) => {
            // Said outright, or the body goes out in chunks, which some registries refuse.
            let request = request.header("content-length", bytes.len()).body(bytes.to_vec()).map_err(malformed)?;
            let agent = agent.clone();
            unless_interrupted(url, move || agent.run(request))
        }
        Payload::Part { source, from, length } => {
            let failure = Arc::new(Mutex::new(None));
            let reader = source.open(from).map_err(|error| unreadable(&error))?;
            let mut exact = Exact { reader, left: length, failure: Arc::clone(&failure) };
            let body = SendBody::from_reader(&mut exact);
            let request = request.header("content-length", length).body(body).map_err(malformed)?;
            agent.run(request).map_err(|error| match failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(local) => unreadable(&local),
                None => explain(url, error),
            })
        }
    }
}

type Response = ureq::http::Response<ureq::Body>;

/// Waits for an answer, or for Ctrl-C: a registry may be silent for minutes, and a blocked read cannot be called off. The
/// thread that waits for such a registry is left to end with the process.
fn unless_interrupted(
    url: &Url,
    ask: impl FnOnce() -> Result<Response, ureq::Error> + Send + 'static,
) -> Result<Response, Broken> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || drop(sender.send(ask())));
    loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(answer) => return answer.map_err(|error| explain(url, error)),
            Err(RecvTimeoutError::Timeout) if crate::process::interrupted().is_ok() => {}
            Err(RecvTimeoutError::Timeout) => return Err(Broken { again: true, ..Broken::lasting("interrupted") }),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Broken::lasting(format!("`{url}`: the request panicked")));
            }
        }
    }
}

fn unreadable(error: &io::Error) -> Broken {
    Broken::lasting(format!("the blob to upload cannot be read: {error}"))
}

/// Exactly so many bytes of a reader. One that ends early is an error: ureq would ask it for more for ever.
struct Exact<'a> {
    reader: Box<dyn Read + 'a>,
    left: u64,
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Exact<'_> {
    fn fail(&self, error: io::Error) -> io::Error {
        let copy = io::Error::new(error.kind(), error.to_string());
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
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
fn explain(url: &Url, error: ureq::Error) -> Broken {
    use ureq::Error;
    let broken = |again, why: String| Broken { cause: format!("`{url}`: {why}"), again, hint: None };
    match error {
        Error::HostNotFound => broken(true, format!("`{}` cannot be found by DNS", url.host())),
        Error::Timeout(phase) => broken(true, format!("timed out ({phase})")),
        Error::ConnectionFailed => broken(true, "cannot connect".to_owned()),
        Error::Rustls(error) => certificate(broken(false, format!("TLS failed: {error}"))),
        Error::Tls(error) => certificate(broken(false, format!("TLS failed: {error}"))),
        // rustls hands its own errors through as invalid data.
        Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            certificate(broken(false, format!("TLS failed: {error}")))
        }
        Error::Io(error) => broken(true, error.to_string()),
        Error::Protocol(error) => broken(true, format!("not a whole HTTP answer ({error})")),
        other => broken(false, other.to_string()),
    }
}

fn certificate(broken: Broken) -> Broken {
    Broken { hint: Some("a certificate authority of your own is read from `SSL_CERT_FILE`"), ..broken }
}
