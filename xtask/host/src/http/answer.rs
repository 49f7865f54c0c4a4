//! Requests that may be sent again: redirects are followed and passing failures are retried until there is an answer.
//!
//! What an answer means is known to the callers, and which credentials go where.

use super::deadline::Deadline;
use super::retry::{Retry, is_retryable};
use super::transport::{ExchangeError, HttpResponse, redirected, status};
use super::url::Url;
use crate::process;
use std::ops::ControlFlow;
use xtask_model::fault::Fault;

/// Sends a request until `read` breaks with what an answer gives; what it continues with is retried, as are statuses that may pass.
/// `hint` is one for the status of the last answer, if that is why it ends.
///
/// # Errors
/// What `send` and `read` end with, an interruption, or the last failure when there is no try left.
pub(crate) fn until_answered<T, E: From<Fault>>(
    what: &str,
    mut retry: Retry,
    hint: impl Fn(u16) -> Option<&'static str>,
    mut send: impl FnMut(&Deadline) -> Result<Result<HttpResponse, ExchangeError>, E>,
    mut read: impl FnMut(HttpResponse, &mut Retry) -> Result<ControlFlow<T, ExchangeError>, E>,
) -> Result<T, E> {
    loop {
        process::interrupted()?;
        let (broken, after) = match send(&retry.deadline)? {
            Ok(reply) if is_retryable(reply.status) => {
                let broken = ExchangeError::passing(status(&reply));
                let broken = match hint(reply.status) {
                    Some(hint) => broken.hint(hint),
                    None => broken,
                };
                (broken, reply.retry_after())
            }
            Ok(reply) => match read(reply, &mut retry)? {
                ControlFlow::Break(done) => return Ok(done),
                ControlFlow::Continue(broken) => (broken, None),
            },
            Err(broken) => (broken, None),
        };
        retry.pause_or_fail(what, broken, after)?;
    }
}

/// Follows redirects from an address.
pub(crate) fn followed(
    mut url: Url,
    mut exchange: impl FnMut(&Url) -> Result<HttpResponse, ExchangeError>,
) -> Result<HttpResponse, ExchangeError> {
    let mut redirects = 0;
    loop {
        let reply = exchange(&url)?;
        if !reply.is_redirect() {
            return Ok(reply);
        }
        redirects += 1;
        url = redirected(&reply, redirects)?;
    }
}
