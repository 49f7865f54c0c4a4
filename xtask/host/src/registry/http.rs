//! HTTP below the API: one exchange, its retries and time limits, authentication, and what an error response means.

pub(super) mod auth;
pub(super) mod challenge;
pub(super) mod credentials;
pub(super) mod deadline;
pub(super) mod error_response;
pub(super) mod exchange;
pub(super) mod proxy;
pub(super) mod retry;
pub(super) mod transport;
pub(super) mod url;
