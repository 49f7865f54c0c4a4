//! A synchronous client of registries: the OCI distribution specification 1.1 over HTTP.
//!
//! Every request has three outcomes: [`Answer::Present`], [`Answer::Absent`], or a [`Fault`] with its cause. A failure of
//! the network, of authentication or of a digest is never taken for absence. Bytes are checked against their digest on
//! their way; blobs stream in both directions. What manifests mean is not known here: they are bytes and a media type.
//!
//! One [`Client`] serves every registry and every thread. It prints nothing and logs nothing.

pub mod attach;
mod blobs;
pub mod bundle;
mod early;
mod http;
pub mod layout;
mod listing;
mod loopback;
mod manifests;
pub mod parallel;
pub mod publish;
pub mod survey;
mod upload;

pub use crate::http::proxy::Proxies;
pub use crate::http::transport::BlobSource;
pub use early::Questions;
pub use http::credentials::{Credential, Credentials, settings_text};
pub use listing::Referrer;
pub use manifests::{Head, Name, RawManifest};
pub use upload::{Mount, UploadSession};

use crate::http::Limits;
use crate::http::transport::{Reach, Transport, Trust};
use crate::http::url::Url;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use xtask_model::fault::Fault;
use xtask_model::spec::reference::{Digest, Repository};

/// Answer of a registry that responds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// The thing exists.
    Present(T),
    /// The registry itself says that it is missing.
    Absent,
}

impl<T> Answer<T> {
    /// The thing, if present.
    pub fn present(self) -> Option<T> {
        match self {
            Self::Present(thing) => Some(thing),
            Self::Absent => None,
        }
    }

    /// Maps the present thing.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Present(thing) => Answer::Present(change(thing)),
            Self::Absent => Answer::Absent,
        }
    }
}

/// Settings of the client.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Registries (`host:port`) allowed to use plain HTTP although they are not on loopback.
    pub plain_http: BTreeSet<String>,
    /// Registries (`host:port`) that use TLS although they are on loopback.
    pub tls: BTreeSet<String>,
    pub credentials: Credentials,
    pub proxies: Proxies,
    /// Maximum number of tries of one request.
    pub tries: u32,
    /// The longest first pause; each next one may be twice as long.
    pub backoff: Duration,
    /// Limit of all pauses of one operation together.
    pub retry_budget: Duration,
    /// The time to resolve a name, and the time to connect.
    pub connect_timeout: Duration,
    /// Maximum number of tries of an unreachable address.
    pub connect_tries: u32,
    /// Limit of silence on a connection, longer for an upload: registries are silent while they assemble a large
    /// blob.
    pub idle_timeout: Duration,
    /// The longest that one operation may wait for the network, all its tries together and without the pauses between them;
    /// the time for its bytes at the minimum speed is added.
    pub deadline: Duration,
    /// Bytes a second below which a transfer counts as stalled, measured over the longest silence.
    pub min_speed: u64,
    /// No network is used: every request is a fault.
    pub offline: bool,
    /// Blobs up to this many bytes are sent in one request, larger ones in pieces that can be resumed.
    pub whole: u64,
    /// The bytes of one piece; `None` sends all that is left as one, as docker does.
    pub chunk: Option<u64>,
}

impl Default for ClientOptions {
    /// No credentials, no proxy, default limits: nothing is read from the environment.
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            plain_http: BTreeSet::new(),
            tls: BTreeSet::new(),
            credentials: Credentials::default(),
            proxies: Proxies::default(),
            tries: limits.tries,
            backoff: limits.backoff,
            retry_budget: limits.retry_budget,
            connect_timeout: limits.connect_timeout,
            connect_tries: limits.connect_tries,
            idle_timeout: limits.idle_timeout,
            deadline: limits.deadline,
            min_speed: limits.min_speed,
            offline: false,
            whole: 4 << 20,
            chunk: None,
        }
    }
}

impl ClientOptions {
    /// Options with docker's credentials and the proxies of the environment.
    pub fn from_env() -> Self {
        Self { credentials: Credentials::from_env(), proxies: Proxies::from_env(), ..Self::default() }
    }

    fn limits(&self) -> Limits {
        let Self {
            tries,
            backoff,
            retry_budget,
            connect_timeout,
            connect_tries,
            idle_timeout,
            deadline,
            min_speed,
            ..
        } = *self;
        Limits { tries, backoff, retry_budget, connect_timeout, connect_tries, idle_timeout, deadline, min_speed }
    }
}

/// The client. Connections, challenges and tokens are shared by all that use it.
pub struct Client {
    options: ClientOptions,
    limits: Limits,
    transport: Transport,
    auth: http::auth::Auth,
    /// Registries that have answered as registries.
    proven: Mutex<BTreeSet<String>>,
    /// Bytes of the layers that were read.
    streamed: AtomicU64,
    /// Documents that this client has read from a repository or written to it. Their digests name their contents, so that they never
    /// change; whether the registry still has them is another question.
    documents: Mutex<KnownDocuments>,
    early: early::Early,
}

/// Bytes of manifests, indexes and configurations, by digest.
type KnownDocuments = BTreeMap<(Repository, Digest), Arc<[u8]>>;

/// A registry and where its API is.
struct Endpoint {
    name: String,
    base: Url,
}

impl Client {
    /// A client with these options. Nothing is asked until it is needed.
    pub fn new(options: ClientOptions) -> Self {
        let transport =
            Transport::new(&options.limits(), &options.proxies, Reach::Listed(options.plain_http.clone()), Trust::Host);
        Self {
            limits: options.limits(),
            options,
            transport,
            auth: http::auth::Auth::default(),
            proven: Mutex::default(),
            streamed: AtomicU64::default(),
            documents: Mutex::default(),
            early: early::Early::default(),
        }
    }

    fn documents(&self) -> MutexGuard<'_, KnownDocuments> {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of a document that was read or written before.
    fn document(&self, repository: &Repository, digest: Digest) -> Option<Arc<[u8]>> {
        self.documents().get(&(repository.clone(), digest)).cloned()
    }

    fn remember_document(&self, repository: &Repository, digest: Digest, bytes: &[u8]) {
        self.documents().insert((repository.clone(), digest), bytes.into());
    }

    fn endpoint(&self, registry: &str) -> Result<Endpoint, Fault> {
        if self.options.offline {
            return Err(Fault::usage(format!("`{registry}` must be queried, and `--offline` uses no network"))
                .hint("run this again without `--offline`"));
        }
        let (name, authority) = match registry {
            "docker.io" | "index.docker.io" | "registry-1.docker.io" => ("docker.io", "registry-1.docker.io"),
            other => (other, other),
        };
        let plain = self.options.plain_http.contains(registry)
            || crate::http::url::is_loopback(crate::http::url::split_port(authority).0);
        let https = self.options.tls.contains(registry) || !plain;
        let base = Url::root(https, authority)
            .ok_or_else(|| Fault::usage(format!("`{registry}` is not a registry's host")))?;
        Ok(Endpoint { name: name.to_owned(), base })
    }

    /// Endpoint of a repository's API, and the URL of `rest` in it.
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
    fn endpoint(options: &ClientOptions, registry: &str, base: &str) {
        let client = Client::new(options.clone());
        assert_eq!(client.endpoint(registry).unwrap().base.wire(), base);
    }

    #[test]
    fn plain_http_is_for_loopback_and_for_what_is_listed() {
        let mut options = ClientOptions::default();
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
