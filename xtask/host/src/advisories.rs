//! Servers of advisories: the archives of a mirror, and questions to a service. No credentials are sent.

use crate::http::Limits;
use crate::http::answer::{followed, until_answered};
use crate::http::deadline::Deadline;
use crate::http::download::{BodyEnd, Download};
use crate::http::proxy::Proxies;
use crate::http::retry::Retry;
use crate::http::transport::{ExchangeError, HttpRequest, HttpResponse, Payload, Reach, Transport, Trust, status};
use crate::http::url::Url;
use crate::scratch;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, SystemTime};
use ureq::http::Method;
use xtask_model::fault::Fault;

/// No archive is longer.
const LONGEST: u64 = 4 << 30;

/// No answer of a service is longer.
const ANSWER: u64 = 64 << 20;

/// Checks that an address is one of https or http, and has nothing in it that is a secret.
///
/// # Errors
/// It is not; the fault does not repeat it.
pub fn check_address(address: &str) -> Result<(), Fault> {
    if Url::parse(address.trim_end_matches('/')).is_none() || address.contains(['@', '?', '#']) {
        // What is wrong with it may be a password.
        return Err(Fault::usage("the address of the database is not a plain one of http or https")
            .hint("write `https://HOST/PATH`, without a user name, a password or a query"));
    }
    Ok(())
}

pub struct Server {
    base: String,
    limits: Limits,
    transport: Transport,
}

impl Server {
    /// A server at an address of https; http is for this machine alone.
    ///
    /// # Errors
    /// As [`check_address`].
    pub fn new(address: &str) -> Result<Self, Fault> {
        check_address(address)?;
        let base = address.trim_end_matches('/').to_owned();
        let limits = Limits::default();
        let transport = Transport::new(&limits, &Proxies::from_env(), Reach::Listed(BTreeSet::new()), Trust::Host);
        Ok(Self { base, limits, transport })
    }

    fn once(&self, method: &Method, url: Url, body: &[u8], deadline: &Deadline) -> Result<HttpResponse, ExchangeError> {
        followed(url, |url| {
            let payload = if *method == Method::GET { Payload::None } else { Payload::Bytes(body) };
            let headers = if body.is_empty() { vec![] } else { vec![("content-type", "application/json".to_owned())] };
            self.transport.exchange(&HttpRequest { method: method.clone(), url, headers, payload }, deadline)
        })
    }

    /// Sends a request until it is answered; `None` where the server has no such document.
    fn fetch(
        &self,
        (method, path, body): (&Method, &str, &[u8]),
        longest: u64,
        to: &mut dyn std::io::Write,
    ) -> Result<Option<()>, Fault> {
        let address = format!("{}/{path}", self.base);
        let what = format!("cannot read `{address}`");
        let url = Url::parse(&address).ok_or_else(|| Fault::usage(format!("`{address}` is not an address")))?;
        let mut download = Download::new(to, longest);
        let retry = Retry::until(&self.limits, Deadline::of_download(&self.limits, longest));
        let send = |deadline: &Deadline| Ok(self.once(method, url.clone(), body, deadline));
        until_answered(
            &what,
            retry,
            |_| None,
            send,
            |reply, retry| match reply.status {
                404 => Ok(ControlFlow::Break(None)),
                // A body that broke off is asked for again from its start; the part that came is passed over.
                200 => Ok(match download.take(&what, reply, &mut retry.deadline)? {
                    BodyEnd::Whole => ControlFlow::Break(Some(())),
                    BodyEnd::Cut(broken) => ControlFlow::Continue(broken),
                }),
                _ => Err(Fault::network(&what).cause(status(&reply))),
            },
        )
    }

    /// Brings a file, unless it is younger than `fresh`. Returns false if the server has no such file.
    pub fn download(&self, path: &str, to: &Path, fresh: Duration) -> Result<bool, Fault> {
        let cannot = |error: std::io::Error| Fault::build(format!("cannot write `{}`", to.display())).cause(error);
        let age = std::fs::metadata(to).and_then(|meta| meta.modified()).ok();
        let age = age.and_then(|made| SystemTime::now().duration_since(made).ok());
        if age.is_some_and(|age| age < fresh) {
            return Ok(true);
        }
        let folder = to.parent().unwrap_or(to);
        std::fs::create_dir_all(folder).map_err(cannot)?;
        let mut file = scratch::file_in(folder, ".partial-").map_err(cannot)?;
        if self.fetch((&Method::GET, path, b""), LONGEST, file.as_file_mut())?.is_none() {
            return Ok(false);
        }
        file.persist(to).map_err(|error| cannot(error.error))?;
        Ok(true)
    }

    /// Asks for a document.
    pub fn get(&self, path: &str) -> Result<Option<Vec<u8>>, Fault> {
        let mut bytes = Vec::new();
        Ok(self.fetch((&Method::GET, path, b""), ANSWER, &mut bytes)?.map(|()| bytes))
    }

    /// Asks a question in JSON.
    pub fn post(&self, path: &str, question: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let mut bytes = Vec::new();
        Ok(self.fetch((&Method::POST, path, question), ANSWER, &mut bytes)?.map(|()| bytes))
    }
}
