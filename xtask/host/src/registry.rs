//! A synchronous client of registries: the OCI distribution specification 1.1 over HTTP.
//!
//! Every question has three answers: [`Answer::Present`], [`Answer::Absent`], or a [`Fault`] with its cause. A failure of
//! the network, of authentication or of a digest is never taken for absence. Bytes are checked against their digest on
//! their way; blobs stream in both directions. What manifests mean is not known here: they are bytes and a media type.
//!
//! One [`Client`] serves every registry and every thread. It prints nothing and logs nothing.

mod auth;
mod blobs;
mod challenge;
mod credentials;
mod deadline;
mod exchange;
pub mod layout;
mod listing;
mod loopback;
mod manifests;
mod patience;
mod proxy;
pub mod publish;
mod refusal;
pub mod survey;
mod transport;
mod upload;
mod url;

pub use credentials::{Credential, Credentials, settings_text};
pub use listing::Referrer;
pub use manifests::{Head, Manifest, Name};
pub use proxy::Proxies;
pub use transport::Source;
pub use upload::{Mount, Session};

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use url::Url;
use xtask_model::fault::Fault;
use xtask_model::spec::reference::Repository;

/// What a registry says of a thing when it can be asked at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// It is there.
    Present(T),
    /// The registry itself says that it is not there.
    Absent,
}

impl<T> Answer<T> {
    /// The thing, where it is there.
    pub fn present(self) -> Option<T> {
        match self {
            Self::Present(thing) => Some(thing),
            Self::Absent => None,
        }
    }

    /// Changes what is there.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Present(thing) => Answer::Present(change(thing)),
            Self::Absent => Answer::Absent,
        }
    }
}

/// How registries are spoken to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Registries (`host:port`) that may be spoken to over plain HTTP although they are not on loopback.
    pub plain_http: BTreeSet<String>,
    /// Registries (`host:port`) that speak TLS although they are on loopback.
    pub tls: BTreeSet<String>,
    /// Who we are.
    pub credentials: Credentials,
    /// Which way out.
    pub proxies: Proxies,
    /// How often one request is sent at most.
    pub tries: u32,
    /// The longest first pause; each next one may be twice as long.
    pub backoff: Duration,
    /// All pauses of one operation together.
    pub patience: Duration,
    /// The time to resolve a name, and the time to connect.
    pub connect_timeout: Duration,
    /// How often an address that the network does not lead to is tried at most.
    pub connect_tries: u32,
    /// The longest silence on a connection, four times as long for an upload: registries are silent while they put a large
    /// blob together.
    pub idle_timeout: Duration,
    /// The longest that one operation may wait for the network, all its tries together and without the pauses between them;
    /// the time for its bytes at the minimum speed is added.
    pub deadline: Duration,
    /// Bytes a second below which a transfer counts as stalled, measured over the longest silence.
    pub min_speed: u64,
    /// No network is used: every question is a fault.
    pub offline: bool,
    /// Blobs up to this many bytes are sent in one request, larger ones in pieces that can be resumed.
    pub whole: u64,
    /// The bytes of one piece; `None` sends all that is left as one, as docker does.
    pub chunk: Option<u64>,
}

impl Default for Options {
    /// Nobody's credentials, no proxy, the usual patience: nothing is read from the environment.
    fn default() -> Self {
        Self {
            plain_http: BTreeSet::new(),
            tls: BTreeSet::new(),
            credentials: Credentials::default(),
            proxies: Proxies::default(),
            tries: 5,
            backoff: Duration::from_secs(1),
            patience: Duration::from_secs(120),
            connect_timeout: Duration::from_secs(10),
            connect_tries: 5,
            idle_timeout: Duration::from_secs(30),
            deadline: Duration::from_secs(60),
            min_speed: 10_000,
            offline: false,
            whole: 4 << 20,
            chunk: None,
        }
    }
}

impl Options {
    /// With docker's credentials and the proxies of the environment.
    pub fn from_env() -> Self {
        Self { credentials: Credentials::from_env(), proxies: Proxies::from_env(), ..Self::default() }
    }
}

/// The client. Connections, challenges and tokens are shared by all that use it.
pub struct Client {
    options: Options,
    transport: transport::Transport,
    auth: auth::Auth,
    /// Registries whose API root has answered as a registry's.
    proven: Mutex<BTreeSet<String>>,
    /// Bytes of the layers that were read.
    streamed: AtomicU64,
}

/// A registry and where its API is.
struct Endpoint {
    name: String,
    base: Url,
}

impl Client {
    /// A client with these options. Nothing is asked until it is needed.
    pub fn new(options: Options) -> Self {
        let transport = transport::Transport::new(&options);
        Self {
            options,
            transport,
            auth: auth::Auth::default(),
            proven: Mutex::default(),
            streamed: AtomicU64::default(),
        }
    }

    fn endpoint(&self, registry: &str) -> Result<Endpoint, Fault> {
        if self.options.offline {
            return Err(Fault::usage(format!("`{registry}` has to be asked, and `--offline` uses no network"))
                .hint("run this again without `--offline`"));
        }
        let (name, authority) = match registry {
            "docker.io" | "index.docker.io" | "registry-1.docker.io" => ("docker.io", "registry-1.docker.io"),
            other => (other, other),
        };
        let plain = self.options.plain_http.contains(registry) || url::is_loopback(url::split_port(authority).0);
        let https = self.options.tls.contains(registry) || !plain;
        let base = Url::root(https, authority)
            .ok_or_else(|| Fault::usage(format!("`{registry}` is not a registry's host")))?;
        Ok(Endpoint { name: name.to_owned(), base })
    }

    /// Where a repository's API is, and the address of `rest` beneath it.
    fn of(&self, repository: &Repository, rest: &str) -> Result<(Endpoint, Url), Fault> {
        let endpoint = self.endpoint(repository.registry())?;
        let url = endpoint.base.at(&format!("/v2/{}/{rest}", repository.path()));
        Ok((endpoint, url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn endpoint(options: &Options, registry: &str, base: &str) {
        let client = Client::new(options.clone());
        assert_eq!(client.endpoint(registry).unwrap().base.wire(), base);
    }

    #[test]
    fn plain_http_is_for_loopback_and_for_what_is_listed() {
        let mut options = Options::default();
        endpoint(&options, "ghcr.io", "https://ghcr.io/");
        endpoint(&options, "docker.io", "https://registry-1.docker.io/");
        endpoint(&options, "127.0.0.1:5000", "http://127.0.0.1:5000/");
        endpoint(&options, "[::1]:5000", "http://[::1]:5000/");
        endpoint(&options, "registry.lan:5000", "https://registry.lan:5000/");
        options.plain_http.insert("registry.lan:5000".to_owned());
        options.tls.insert("localhost:5443".to_owned());
        endpoint(&options, "registry.lan:5000", "http://registry.lan:5000/");
        endpoint(&options, "localhost:5443", "https://localhost:5443/");
    }

    #[test]
    fn many_threads_may_use_one_client() {
        fn shared<T: Send + Sync>() {}
        shared::<Client>();
    }
}
