//! A request to a registry with all that belongs to it: authentication, redirects, and another try where one may help.
//!
//! `Authorization` is sent to the registry's own origin only, however a redirect or a `Location` is spelled.

use super::auth::{Attempt, AuthContext, Scopes};
use super::error_response::{ErrorResponse, create_hint, login_hint};
use crate::http::deadline::Deadline;
use crate::http::retry::{Retry, is_retryable};
use crate::http::transport::{ExchangeError, HttpRequest, HttpResponse, Payload, insecure, redirected};
use crate::http::url::Url;
use crate::process;
use crate::registry::{Answer, Client, Credential, Endpoint};
use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};
use ureq::http::Method;
use xtask_model::fault::Fault;
use xtask_model::spec::reference::Repository;

pub(in crate::registry) struct ApiRequest<'a> {
    /// The sentence for a fault: "cannot read `…`".
    pub(in crate::registry) what: &'a str,
    pub(in crate::registry) method: Method,
    pub(in crate::registry) url: Url,
    pub(in crate::registry) headers: Vec<(&'static str, String)>,
    pub(in crate::registry) payload: Payload<'a>,
    pub(in crate::registry) scopes: Scopes,
}

impl<'a> ApiRequest<'a> {
    pub(in crate::registry) fn new(what: &'a str, method: Method, url: Url, scopes: Scopes) -> Self {
        Self { what, method, url, headers: Vec::new(), payload: Payload::None, scopes }
    }

    #[must_use]
    pub(in crate::registry) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    #[must_use]
    pub(in crate::registry) fn payload(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }
}

pub(in crate::registry) fn pull(repository: &Repository) -> Scopes {
    Scopes::from([format!("repository:{}:pull", repository.path())])
}

pub(in crate::registry) fn push(repository: &Repository) -> Scopes {
    Scopes::from([format!("repository:{}:pull,push", repository.path())])
}

/// Adds what helps where nobody answers, or not in TLS.
fn with_hint(broken: ExchangeError, url: &Url, endpoint: &Endpoint) -> ExchangeError {
    if broken.plain {
        return broken.hint(format!("if the registry is meant to use plain HTTP, {}", insecure(url.authority())));
    }
    if !broken.unreachable || !url.same_origin(&endpoint.base) {
        return broken;
    }
    match url.is_loopback() {
        true => broken.hint("start a registry on this machine: `cargo xtask engine up --registry-only`"),
        false => broken.hint("check the name of the registry, the network, and `HTTPS_PROXY`"),
    }
}

impl Client {
    /// Sends a request once, answering challenges and following redirects: an answer of any status, or a broken exchange.
    pub(in crate::registry) fn send_once(
        &self,
        endpoint: &Endpoint,
        ask: &ApiRequest<'_>,
        deadline: &Deadline,
    ) -> Result<Result<HttpResponse, ExchangeError>, Fault> {
        let context =
            AuthContext { transport: &self.transport, credentials: &self.options.credentials, limits: &self.limits };
        let mut scopes = ask.scopes.clone();
        let mut url = ask.url.clone();
        let (mut challenges, mut redirects) = (0_u32, 0);
        loop {
            process::interrupted()?;
            let ours = url.same_origin(&endpoint.base);
            let authorization = if ours { self.auth.header(&context, endpoint, &scopes)? } else { None };
            let mut headers = ask.headers.clone();
            headers.extend(authorization.clone().map(|value| ("authorization", value)));
            let outgoing = HttpRequest { method: ask.method.clone(), url: &url, headers, payload: ask.payload };
            let reply = match self.transport.exchange(&outgoing, deadline) {
                Ok(reply) => reply,
                Err(broken) => {
                    process::interrupted()?;
                    return Ok(Err(with_hint(broken, &url, endpoint)));
                }
            };
            // One answer to learn the challenge, one because a token was spent; a third would change nothing.
            if reply.status == 401 && ours && challenges < 2 {
                challenges += 1;
                let attempt = Attempt { sent: authorization.as_deref(), count: challenges };
                if self.auth.challenged(&context, endpoint, &mut scopes, &reply, attempt)? {
                    continue;
                }
            }
            let reading = matches!(ask.method, Method::GET | Method::HEAD);
            if reading && reply.is_redirect() {
                redirects += 1;
                match redirected(&reply, redirects) {
                    Ok(target) => url = target,
                    Err(broken) => return Ok(Err(broken)),
                }
                continue;
            }
            return Ok(Ok(reply));
        }
    }

    /// Sends a request until there is an answer worth reading and `finish` has read it whole.
    pub(in crate::registry) fn send<T>(
        &self,
        endpoint: &Endpoint,
        ask: &ApiRequest<'_>,
        finish: impl Fn(HttpResponse) -> Result<T, ExchangeError>,
    ) -> Result<T, Fault> {
        self.send_within(endpoint, ask, &mut Retry::new(&self.limits), finish)
    }

    /// As [`Self::send`], as a part of a longer operation.
    pub(in crate::registry) fn send_within<T>(
        &self,
        endpoint: &Endpoint,
        ask: &ApiRequest<'_>,
        retry: &mut Retry,
        finish: impl Fn(HttpResponse) -> Result<T, ExchangeError>,
    ) -> Result<T, Fault> {
        loop {
            let (broken, after) = match self.send_once(endpoint, ask, &retry.deadline)? {
                Ok(reply) if is_retryable(reply.status) => {
                    let after = reply.retry_after();
                    (ExchangeError::passing(ErrorResponse::read(reply).cause), after)
                }
                Ok(reply) => match finish(reply) {
                    Ok(done) => return Ok(done),
                    Err(broken) => (broken, None),
                },
                Err(broken) => (broken, None),
            };
            retry.pause_or_fail(ask.what, broken, after)?;
        }
    }

    /// Sends a request whose answer has a short body or none: the answer's status, or its refusal.
    pub(in crate::registry) fn send_short(
        &self,
        endpoint: &Endpoint,
        ask: &ApiRequest<'_>,
        good: &[u16],
    ) -> Result<Result<HttpResponse, ErrorResponse>, Fault> {
        self.send(endpoint, ask, |reply| {
            Ok(if good.contains(&reply.status) { Ok(reply) } else { Err(ErrorResponse::read(reply)) })
        })
    }

    /// Interprets an error response: absent, or a fault.
    pub(in crate::registry) fn absent<T>(
        &self,
        endpoint: &Endpoint,
        what: &str,
        refusal: &ErrorResponse,
    ) -> Result<Answer<T>, Fault> {
        match refusal.absent() {
            Some(true) => Ok(Answer::Absent),
            Some(false) => Err(self.refused(endpoint, what, refusal)),
            // A bare 404 may be a registry's, or that of something which is none.
            None => {
                self.prove(endpoint).map_err(|fault| {
                    let fault = fault.causes.iter().fold(refusal.fault(what), |all, cause| all.cause(cause));
                    fault.hint(format!("is there a registry at `{}`?", endpoint.base))
                })?;
                Ok(Answer::Absent)
            }
        }
    }

    /// The fault of a refusal, with a hint where logging in may help.
    pub(in crate::registry) fn refused(&self, endpoint: &Endpoint, what: &str, refusal: &ErrorResponse) -> Fault {
        let fault = refusal.fault(what);
        if refusal.status == 429 {
            return fault.hint("the registry limits requests: log in, or run this again later");
        }
        if !matches!(refusal.status, 401 | 403) {
            return fault;
        }
        let anonymous =
            self.options.credentials.lookup(&endpoint.name).is_ok_and(|known| known == Credential::Anonymous);
        login_hint(fault, &endpoint.name, anonymous)
    }

    /// The fault of a refusal to take something, with what to create where the registry has no such repository.
    pub(in crate::registry) fn not_pushed(
        &self,
        endpoint: &Endpoint,
        to: &Repository,
        what: &str,
        refusal: &ErrorResponse,
    ) -> Fault {
        let fault = self.refused(endpoint, what, refusal);
        if refusal.has("NAME_UNKNOWN") { create_hint(fault, to) } else { fault }
    }

    fn prove(&self, endpoint: &Endpoint) -> Result<(), Fault> {
        if self.proven().contains(&endpoint.name) {
            return Ok(());
        }
        let what = format!("cannot reach the registry `{}`", endpoint.name);
        let ask = ApiRequest::new(&what, Method::GET, endpoint.base.at("/v2/"), Scopes::new());
        self.send_short(endpoint, &ask, &[200])?.map_err(|refusal| self.refused(endpoint, &what, &refusal))?;
        self.proven().insert(endpoint.name.clone());
        Ok(())
    }

    /// Registries that have answered as only a registry does: at the API's root, or with a manifest.
    pub(in crate::registry) fn proven(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the API's root: the registry answers, speaks the protocol and takes our credentials.
    pub fn ping(&self, registry: &str) -> Result<(), Fault> {
        let endpoint = self.endpoint(registry)?;
        self.proven().remove(&endpoint.name);
        self.prove(&endpoint)
    }
}
