//! Requests to a registry: authentication, credentials, redirects, and what an error response means.

pub(super) mod auth;
pub(super) mod challenge;
pub(super) mod credentials;
pub(super) mod error_response;
pub(super) mod exchange;
