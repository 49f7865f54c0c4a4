//! HTTP for registries and package indexes: one exchange, its retries and time limits, proxies and addresses.
//!
//! What an answer means, and which credentials go with a request, is known to the callers.

pub(crate) mod answer;
pub(crate) mod deadline;
pub(crate) mod download;
pub(crate) mod proxy;
pub(crate) mod retry;
mod retry_after;
pub(crate) mod transport;
pub(crate) mod url;

use std::time::Duration;

/// Time limits and tries; the fields are described at `ClientOptions`, which has the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) tries: u32,
    pub(crate) backoff: Duration,
    pub(crate) retry_budget: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) connect_tries: u32,
    pub(crate) idle_timeout: Duration,
    pub(crate) deadline: Duration,
    pub(crate) min_speed: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tries: 5,
            backoff: Duration::from_secs(1),
            retry_budget: Duration::from_secs(120),
            connect_timeout: Duration::from_secs(10),
            connect_tries: 5,
            idle_timeout: Duration::from_secs(30),
            deadline: Duration::from_secs(60),
            min_speed: 10_000,
        }
    }
}
