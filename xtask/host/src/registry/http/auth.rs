//! The `Authorization` header: none, a password, or a token per set of scopes (distribution's token specification).
//!
//! A credential goes only to the registry itself and to the realm that its own challenge names, over HTTPS or to
//! loopback ([`Transport::permit`] holds this). Nothing here is logged.

use super::challenge::{Challenge, choose};
use super::credentials::{Credential, Credentials};
use super::error_response::{login_hint, refused};
use crate::http::Limits;
use crate::http::deadline::Deadline;
use crate::http::retry::{Retry, is_retryable};
use crate::http::transport::{ExchangeError, HttpRequest, HttpResponse, Payload, SHORT, Transport};
use crate::http::url::{Url, encode};
use crate::process;
use crate::registry::Endpoint;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use ureq::http::Method;
use xtask_model::fault::Fault;

/// Scopes of a request: `repository:acme/app:pull,push`.
pub(in crate::registry) type Scopes = BTreeSet<String>;

#[derive(Default)]
pub(in crate::registry) struct Auth {
    registries: Mutex<BTreeMap<String, Arc<Mutex<RegistryAuth>>>>,
}

/// One registry's challenge, our credential there, and the tokens it gave. Locked while a token is fetched, so that
/// many threads fetch one.
#[derive(Default)]
struct RegistryAuth {
    challenge: Option<Challenge>,
    credential: Option<Credential>,
    tokens: BTreeMap<Scopes, Token>,
}

struct Token {
    header: String,
    until: Instant,
}

/// The token server's answer; the registries disagree on the name.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

pub(in crate::registry) struct AuthContext<'a> {
    pub(in crate::registry) transport: &'a Transport,
    pub(in crate::registry) credentials: &'a Credentials,
    pub(in crate::registry) limits: &'a Limits,
}

impl Auth {
    fn known(&self, endpoint: &Endpoint) -> Arc<Mutex<RegistryAuth>> {
        Arc::clone(lock(&self.registries).entry(endpoint.name.clone()).or_default())
    }

    /// The header for these scopes, as far as the registry has said how it wants to be asked.
    pub(in crate::registry) fn header(
        &self,
        context: &AuthContext<'_>,
        endpoint: &Endpoint,
        scopes: &Scopes,
    ) -> Result<Option<String>, Fault> {
        let known = self.known(endpoint);
        let mut known = lock(&known);
        match known.challenge.clone() {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(known.credential(context, endpoint)?.basic()),
            // The API's root needs no scope: a registry that has asked for a token will ask again there.
            Some(Challenge::Bearer { realm, service, .. }) => {
                known.token(context, endpoint, scopes, &TokenServer { realm, service }).map(Some)
            }
        }
    }

    /// Takes in a 401 that answered a request with the header `sent`, the `count`th in a row. The scopes that the
    /// registry names itself are added when a fresh token with ours alone was refused. False when another try would
    /// change nothing.
    pub(in crate::registry) fn challenged(
        &self,
        context: &AuthContext<'_>,
        endpoint: &Endpoint,
        scopes: &mut Scopes,
        reply: &HttpResponse,
        Attempt { sent, count }: Attempt<'_>,
    ) -> Result<bool, Fault> {
        let values = reply.headers.get_all("www-authenticate").iter().filter_map(|value| value.to_str().ok());
        let Some(challenge) = choose(values) else { return Ok(false) };
        let known = self.known(endpoint);
        let mut known = lock(&known);
        known.challenge = Some(challenge.clone());
        match challenge {
            Challenge::Basic => {
                let header = known.credential(context, endpoint)?.basic();
                Ok(header.is_some() && header.as_deref() != sent)
            }
            Challenge::Bearer { scopes: wanted, .. } => {
                // Another thread may have fetched a new one already.
                known.tokens.retain(|_, token| Some(token.header.as_str()) != sent);
                if count > 1 {
                    scopes.extend(wanted);
                    known.tokens.remove(scopes);
                }
                Ok(true)
            }
        }
    }
}

/// A request that was answered with 401: its header, and the number of such answers in a row.
pub(in crate::registry) struct Attempt<'a> {
    pub(in crate::registry) sent: Option<&'a str>,
    pub(in crate::registry) count: u32,
}

/// Token server and the service for which it issues tokens.
struct TokenServer {
    realm: String,
    service: Option<String>,
}

impl RegistryAuth {
    fn credential(&mut self, context: &AuthContext<'_>, endpoint: &Endpoint) -> Result<Credential, Fault> {
        if self.credential.is_none() {
            self.credential = Some(context.credentials.lookup(&endpoint.name)?);
        }
        Ok(self.credential.clone().unwrap_or(Credential::Anonymous))
    }

    fn token(
        &mut self,
        context: &AuthContext<'_>,
        endpoint: &Endpoint,
        scopes: &Scopes,
        server: &TokenServer,
    ) -> Result<String, Fault> {
        if let Some(token) = self.tokens.get(scopes).filter(|token| Instant::now() < token.until) {
            return Ok(token.header.clone());
        }
        let credential = self.credential(context, endpoint)?;
        let token = fetch(context, endpoint, scopes, server, &credential)?;
        let header = token.header.clone();
        self.tokens.insert(scopes.clone(), token);
        Ok(header)
    }
}

fn fetch(
    context: &AuthContext<'_>,
    endpoint: &Endpoint,
    scopes: &Scopes,
    server: &TokenServer,
    credential: &Credential,
) -> Result<Token, Fault> {
    let what = format!("cannot get a token for `{}`", endpoint.name);
    let realm = endpoint
        .base
        .join(&server.realm)
        .ok_or_else(|| Fault::network(&what).cause("its challenge has a realm that is not an http or https URL"))?;
    let mut retry = Retry::new(context.limits);
    loop {
        process::interrupted()?;
        let asked = Instant::now();
        let (broken, after) = match ask(context.transport, &realm, scopes, server, credential, &retry.deadline) {
            Ok(reply) if is_retryable(reply.status) => {
                (ExchangeError::passing(format!("`{realm}` answered {}", reply.status)), reply.retry_after())
            }
            Ok(reply) if reply.status == 200 => match reply.bytes(SHORT) {
                Ok(body) => return read(&body, asked).map_err(|cause| Fault::network(&what).cause(cause)),
                Err(broken) if broken.again => (broken, None),
                Err(broken) => return Err(broken.fault(&what)),
            },
            Ok(reply) => {
                let anonymous = *credential == Credential::Anonymous;
                return Err(login_hint(refused(&what, reply), &endpoint.name, anonymous));
            }
            Err(broken) if broken.again => (broken, None),
            Err(broken) => return Err(broken.fault(&what)),
        };
        if !retry.pause(after)? {
            return Err(broken.fault(&what).cause(format!("gave up after {} tries", retry.failed())));
        }
    }
}

fn ask(
    transport: &Transport,
    realm: &Url,
    scopes: &Scopes,
    server: &TokenServer,
    credential: &Credential,
    deadline: &Deadline,
) -> Result<HttpResponse, ExchangeError> {
    if let Credential::IdentityToken(token) = credential {
        let scope = scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let mut form = vec![("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "xtask")];
        form.extend(server.service.as_deref().map(|service| ("service", service)));
        form.extend((!scope.is_empty()).then_some(("scope", scope.as_str())));
        let form: Vec<String> = form.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let headers = vec![("content-type", "application/x-www-form-urlencoded".to_owned())];
        let body = form.join("&");
        let payload = Payload::Bytes(body.as_bytes());
        return transport.exchange(&HttpRequest { method: Method::POST, url: realm, headers, payload }, deadline);
    }
    let service = server.service.iter().map(|service| ("service", service.as_str()));
    let url = realm.query(service.chain(scopes.iter().map(|scope| ("scope", scope.as_str()))));
    let headers = credential.basic().map(|basic| ("authorization", basic)).into_iter().collect();
    transport.exchange(&HttpRequest { method: Method::GET, url: &url, headers, payload: Payload::None }, deadline)
}

/// Reads a token; it counts as spent a sixth of its life before its end, so that none expires on the way.
fn read(body: &[u8], asked: Instant) -> Result<Token, &'static str> {
    let answer: TokenAnswer = serde_json::from_slice(body).map_err(|_| "the token server did not answer in JSON")?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
    let token = token.ok_or("the token server's answer has no token")?;
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the token has characters that a header cannot have");
    }
    // The specification's default is 60 s; a day is long enough for any build.
    let life = Duration::from_secs(answer.expires_in.filter(|seconds| *seconds > 0).unwrap_or(60).min(86_400));
    Ok(Token { header: format!("Bearer {token}"), until: asked + life * 5 / 6 })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_spent_before_they_expire() {
        let now = Instant::now();
        let token = read(br#"{"token": "t", "expires_in": 600}"#, now).unwrap();
        assert_eq!((token.header.as_str(), token.until - now), ("Bearer t", Duration::from_secs(500)));
        let token = read(br#"{"access_token": "a"}"#, now).unwrap();
        assert_eq!((token.header.as_str(), token.until - now), ("Bearer a", Duration::from_secs(50)));
    }

    #[test]
    fn an_answer_without_a_usable_token_is_refused() {
        for body in ["{}", "{\"token\": \"\"}", "<html>", "{\"token\": \"a\\r\\nb\"}"] {
            assert!(read(body.as_bytes(), Instant::now()).is_err(), "{body}");
        }
    }
}
