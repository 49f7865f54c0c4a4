//! A request to a registry with all that belongs to it: authentication, redirects, and another try where one may help.
//!
//! `Authorization` is sent to the registry's own origin only, however a redirect or a `Location` is spelled.

use super::auth::{Means, Scopes};
use super::deadline::Deadline;
use super::patience::{Patience, worth_another_try};
use super::refusal::{Refusal, create_hint, login_hint};
use super::transport::{Broken, Outgoing, Payload, Reply};
use super::url::Url;
use super::{Answer, Client, Credential, Endpoint};
use crate::process;
use std::sync::PoisonError;
use ureq::http::Method;
use xtask_model::fault::Fault;
use xtask_model::spec::reference::Repository;

/// Redirects of one request.
const REDIRECTS: usize = 5;

/// A request before it is authenticated.
pub(super) struct Ask<'a> {
    /// The sentence for a fault: "cannot read `…`".
    pub(super) what: &'a str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Payload<'a>,
    pub(super) scopes: Scopes,
}

impl<'a> Ask<'a> {
    /// A request without headers and body.
    pub(super) fn new(what: &'a str, method: Method, url: Url, scopes: Scopes) -> Self {
        Self { what, method, url, headers: Vec::new(), payload: Payload::None, scopes }
    }

    #[must_use]
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    #[must_use]
    pub(super) fn payload(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }
}

/// The scopes to read a repository.
pub(super) fn pull(repository: &Repository) -> Scopes {
    Scopes::from([format!("repository:{}:pull", repository.path())])
}

/// The scopes to write a repository.
pub(super) fn push(repository: &Repository) -> Scopes {
    Scopes::from([format!("repository:{}:pull,push", repository.path())])
}

impl Client {
    /// Sends a request once, answering challenges and following redirects: an answer of any status, or a broken exchange.
    pub(super) fn once(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        deadline: &Deadline,
    ) -> Result<Result<Reply, Broken>, Fault> {
        let means =
            Means { transport: &self.transport, credentials: &self.options.credentials, options: &self.options };
        let mut scopes = ask.scopes.clone();
        let mut url = ask.url.clone();
        let (mut challenges, mut redirects) = (0_u32, 0);
        loop {
            process::interrupted()?;
            let ours = url.same_origin(&endpoint.base);
            let authorization = if ours { self.auth.header(&means, endpoint, &scopes)? } else { None };
            let mut headers = ask.headers.clone();
            headers.extend(authorization.clone().map(|value| ("authorization", value)));
            let outgoing = Outgoing { method: ask.method.clone(), url: &url, headers, payload: ask.payload };
            let reply = match self.transport.exchange(&outgoing, deadline) {
                Ok(reply) => reply,
                Err(broken) => {
                    process::interrupted()?;
                    return Ok(Err(broken));
                }
            };
            // One answer to learn the challenge, one because a token was spent; a third would change nothing.
            if reply.status == 401 && ours && challenges < 2 {
                challenges += 1;
                let sent = (authorization.as_deref(), challenges);
                if self.auth.challenged(&means, endpoint, &mut scopes, &reply, sent)? {
                    continue;
                }
            }
            let reading = matches!(ask.method, Method::GET | Method::HEAD);
            if reading && matches!(reply.status, 301 | 302 | 303 | 307 | 308) {
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

    /// Sends a request until there is an answer worth reading and `finish` has read it whole, within `patience`.
    pub(super) fn send<T>(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        finish: impl Fn(Reply) -> Result<T, Broken>,
    ) -> Result<T, Fault> {
        self.send_within(endpoint, ask, &mut Patience::new(&self.options), finish)
    }

    /// The same as a part of a longer operation.
    pub(super) fn send_within<T>(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        patience: &mut Patience,
        finish: impl Fn(Reply) -> Result<T, Broken>,
    ) -> Result<T, Fault> {
        loop {
            let (broken, after) = match self.once(endpoint, ask, &patience.deadline)? {
                Ok(reply) if worth_another_try(reply.status) => {
                    let after = reply.retry_after();
                    (Broken::passing(Refusal::read(reply).cause), after)
                }
                Ok(reply) => match finish(reply) {
                    Ok(done) => return Ok(done),
                    Err(broken) => (broken, None),
                },
                Err(broken) => (broken, None),
            };
            self.again(ask.what, broken, after, patience)?;
        }
    }

    /// Pauses before the next try, or ends with the fault of the last one.
    pub(super) fn again(
        &self,
        what: &str,
        broken: Broken,
        after: Option<std::time::Duration>,
        patience: &mut Patience,
    ) -> Result<(), Fault> {
        process::interrupted()?;
        let given_up = broken.unreachable && patience.failed() + 1 >= self.options.connect_tries;
        if !broken.again || (given_up && self.options.connect_tries < self.options.tries) {
            return Err(broken.fault(what));
        }
        if patience.pause(after)? {
            return Ok(());
        }
        let fault = broken.fault(what);
        let tries = patience.failed();
        Err(match after {
            Some(asked) if tries < self.options.tries => {
                fault.cause(format!("it asks for {} s of patience, which is more than is left", asked.as_secs()))
            }
            _ if tries > 1 => fault.cause(format!("gave up after {tries} tries")),
            _ => fault,
        })
    }

    /// Sends a request whose answer has a short body or none: the answer's status, or its refusal.
    pub(super) fn settle(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        good: &[u16],
    ) -> Result<Result<Reply, Refusal>, Fault> {
        self.send(endpoint, ask, |reply| {
            Ok(if good.contains(&reply.status) { Ok(reply) } else { Err(Refusal::read(reply)) })
        })
    }

    /// What a refusal means: absent, or a fault.
    pub(super) fn absent<T>(&self, endpoint: &Endpoint, what: &str, refusal: &Refusal) -> Result<Answer<T>, Fault> {
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
    pub(super) fn refused(&self, endpoint: &Endpoint, what: &str, refusal: &Refusal) -> Fault {
        let fault = refusal.fault(what);
        if refusal.status == 429 {
            return fault.hint("the registry limits how often it is asked: log in there, or run this again later");
        }
        if !matches!(refusal.status, 401 | 403) {
            return fault;
        }
        let anonymous =
            self.options.credentials.lookup(&endpoint.name).is_ok_and(|known| known == Credential::Anonymous);
        login_hint(fault, &endpoint.name, anonymous)
    }

    /// The fault of a refusal to take something, with what to create where the registry has no such repository.
    pub(super) fn not_pushed(&self, endpoint: &Endpoint, to: &Repository, what: &str, refusal: &Refusal) -> Fault {
        let fault = self.refused(endpoint, what, refusal);
        if refusal.has("NAME_UNKNOWN") { create_hint(fault, to) } else { fault }
    }

    /// Makes sure, once, that a registry answers there.
    fn prove(&self, endpoint: &Endpoint) -> Result<(), Fault> {
        let proven = || self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        if proven().contains(&endpoint.name) {
            return Ok(());
        }
        let what = format!("cannot reach the registry `{}`", endpoint.name);
        let ask = Ask::new(&what, Method::GET, endpoint.base.at("/v2/"), Scopes::new());
        self.settle(endpoint, &ask, &[200])?.map_err(|refusal| self.refused(endpoint, &what, &refusal))?;
        proven().insert(endpoint.name.clone());
        Ok(())
    }

    /// Asks the API's root: the registry is there, speaks the protocol and takes our credentials.
    pub fn ping(&self, registry: &str) -> Result<(), Fault> {
        let endpoint = self.endpoint(registry)?;
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).remove(&endpoint.name);
        self.prove(&endpoint)
    }
}

/// Where a redirect leads; from HTTPS never back to plain HTTP.
fn redirected(reply: &Reply, count: usize) -> Result<Url, Broken> {
    let from = &reply.url;
    if count > REDIRECTS {
        return Err(Broken::lasting(format!("`{from}` redirects more than {REDIRECTS} times")));
    }
    let target = reply.location().ok_or_else(|| Broken::lasting(format!("`{from}` redirects to no address")))?;
    if from.is_https() && !target.is_https() {
        return Err(Broken::lasting(format!("`{from}` redirects to `{target}`, which is not encrypted")));
    }
    Ok(target)
}
