//! Requests to a package index: credentials, redirects, retries, and what a refusal means.
//!
//! A credential goes to the scheme, host and port that the user gave it for, and to hosts of the netrc file; nowhere else, however
//! a page or a redirect is spelled.

use super::Failure;
use super::netrc::Netrc;
use super::settings::Settings;
use crate::http::Limits;
use crate::http::answer::{followed, until_answered};
use crate::http::deadline::Deadline;
use crate::http::download::{BodyEnd, Download};
use crate::http::retry::Retry;
use crate::http::transport::{ExchangeError, HttpRequest, HttpResponse, Payload, Reach, Transport, Trust, status};
use crate::http::url::Url;
use base64::Engine as _;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use ureq::http::Method;
use xtask_model::fault::Fault;
use xtask_model::spec::lock::Indexes;
use xtask_model::spec::wheel::page::decoded;
use xtask_scan::elements::Elements;

/// No page is longer: the longest on PyPI have some ten million bytes.
const LONGEST_PAGE: u64 = 128 << 20;

/// No wheel is longer.
pub(super) const LONGEST_WHEEL: u64 = 64 << 30;

/// An address and the credential that is written in it.
#[derive(Clone)]
pub(super) struct Location {
    pub(super) url: Url,
    authorization: Option<String>,
}

impl Location {
    /// Reads an address of http or https that may have a user and a password.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.split('#').next()?;
        let (scheme, rest) = text.split_once("://")?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (user, host) = rest[..end].rsplit_once('@').map_or((None, &rest[..end]), |(user, host)| (Some(user), host));
        let authorization = user.map(|user| {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            basic(&decoded(user), &decoded(password))
        });
        Some(Self { url: Url::parse(&format!("{scheme}://{host}{}", &rest[end..]))?, authorization })
    }

    /// The page of a project on the index at this address.
    pub(super) fn page(&self, project: &str) -> Option<Self> {
        let root = self.url.wire();
        let root = root.split('?').next().unwrap_or_default().trim_end_matches('/');
        Some(Self { url: Url::parse(&format!("{root}/{project}/"))?, authorization: self.authorization.clone() })
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

/// A page as it came.
pub(super) struct RawPage {
    pub(super) bytes: Vec<u8>,
    pub(super) media_type: String,
    /// Final address, after redirects.
    pub(super) url: Url,
}

pub(super) struct IndexClient {
    limits: Limits,
    transport: Transport,
    unchecked: Option<Transport>,
    trusted: Vec<String>,
    /// Credentials by scheme, host and port.
    known: BTreeMap<String, String>,
    netrc: Netrc,
    elsewhere: Option<String>,
    stored: bool,
    offline: bool,
}

impl IndexClient {
    pub(super) fn new(settings: &Settings, indexes: &Indexes) -> Self {
        let Settings { limits, proxies, trusted, netrc, .. } = settings;
        let trust = settings.bundle.clone().map_or(Trust::Host, Trust::Bundle);
        let unchecked = (!trusted.is_empty()).then(|| Transport::new(limits, proxies, Reach::Any, Trust::Unchecked));
        let named = indexes.in_order().into_iter().chain(indexes.links().iter().map(String::as_str));
        let mut known = BTreeMap::new();
        for location in named.filter_map(Location::parse) {
            if let Some(authorization) = location.authorization {
                known.entry(origin(&location.url)).or_insert(authorization);
            }
        }
        Self {
            limits: *limits,
            transport: Transport::new(limits, proxies, Reach::Any, trust),
            unchecked,
            trusted: trusted.clone(),
            known,
            netrc: netrc.clone(),
            elsewhere: settings.elsewhere.clone(),
            stored: settings.stored,
            offline: settings.offline,
        }
    }

    fn authorization(&self, url: &Url, of: &Location) -> Option<String> {
        let own = of.authorization.clone().filter(|_| url.same_origin(&of.url));
        own.or_else(|| self.known.get(&origin(url)).cloned())
            .or_else(|| self.netrc.of(url.host()).map(|(user, password)| basic(user, password)))
    }

    fn transport(&self, url: &Url) -> &Transport {
        let named = |entry: &String| {
            let entry = entry.rsplit("://").next().unwrap_or_default().trim_end_matches('/').to_ascii_lowercase();
            entry == "*" || entry == url.host() || entry == url.authority()
        };
        let unchecked = self.unchecked.as_ref().filter(|_| self.trusted.iter().any(named));
        unchecked.unwrap_or(&self.transport)
    }

    fn once(
        &self,
        of: &Location,
        headers: &[(&'static str, String)],
        deadline: &Deadline,
    ) -> Result<Result<HttpResponse, ExchangeError>, Failure> {
        if self.offline {
            return Err(Fault::network(format!("`{}` must be asked, and `UV_OFFLINE` is set", of.url))
                .hint("run this again without `UV_OFFLINE`")
                .into());
        }
        Ok(followed(of.url.clone(), |url| {
            let mut headers = headers.to_vec();
            headers.extend(self.authorization(url, of).map(|value| ("authorization", value)));
            let outgoing = HttpRequest { method: Method::GET, url, headers, payload: Payload::None };
            self.transport(url).exchange(&outgoing, deadline).map_err(|broken| match broken.plain {
                true => broken.hint("write the index's URL with `http://`"),
                false => broken,
            })
        }))
    }

    /// Reads a page; `None` where the index says that there is none. Of a page in JSON only the files whose object `keep` wants are kept.
    pub(super) fn page(&self, of: &Location, keep: &dyn Fn(&[u8]) -> bool) -> Result<Option<RawPage>, Failure> {
        const ACCEPT: &str =
            "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01";
        let what = format!("cannot read the package index `{}`", of.url);
        let deadline = Deadline::of_download(&self.limits, LONGEST_PAGE);
        let send = |deadline: &Deadline| self.once(of, &[("accept", ACCEPT.to_owned())], deadline);
        until_answered(&what, Retry::until(&self.limits, deadline), busy, send, |reply, retry| match reply.status {
            404 | 410 => Ok(ControlFlow::Break(None)),
            200 => {
                let media_type = reply.media_type().unwrap_or_default();
                let (url, mut text, mut files) = (reply.url.clone(), Vec::new(), Elements::new(keep));
                let is_json = media_type.ends_with("json");
                let to: &mut dyn Write = if is_json { &mut files } else { &mut text };
                let end = Download::new(to, LONGEST_PAGE).take(&what, reply, &mut retry.deadline)?;
                let bytes = if is_json { files.kept() } else { text };
                Ok(match end {
                    BodyEnd::Whole => ControlFlow::Break(Some(RawPage { bytes, media_type, url })),
                    BodyEnd::Cut(broken) => ControlFlow::Continue(broken),
                })
            }
            _ => Err(self.refused(&what, &reply)),
        })
    }

    /// Brings the bytes that a download lacks. True if some were asked for that follow earlier ones: these may be of another file.
    pub(super) fn download(&self, what: &str, of: &Location, download: &mut Download<'_>) -> Result<bool, Failure> {
        let retry = Retry::until(&self.limits, Deadline::of_download(&self.limits, LONGEST_WHEEL));
        let (have, continued) = (Cell::new(download.have), Cell::new(false));
        let send = |deadline: &Deadline| {
            let range = (have.get() > 0).then(|| ("range", format!("bytes={}-", have.get())));
            continued.set(continued.get() || range.is_some());
            self.once(of, &range.into_iter().collect::<Vec<_>>(), deadline)
        };
        until_answered(what, retry, busy, send, |reply, retry| {
            match reply.status {
            200 | 206 => {
                let end = download.take(what, reply, &mut retry.deadline)?;
                let had = have.replace(download.have);
                Ok(match end {
                    BodyEnd::Whole => ControlFlow::Break(()),
                    BodyEnd::Cut(broken) => {
                        if download.have > had && !broken.slow {
                            retry.progress();
                        }
                        ControlFlow::Continue(broken)
                    }
                })
            }
            // Nothing follows the bytes that came before; their digest says whether they are the whole file.
            416 if have.get() > 0 => Ok(ControlFlow::Break(())),
            404 | 410 => Err(Fault::network(what)
                .cause(format!("it is on the index's page, but {}", status(&reply)))
                .hint("try again later or with another index; a deleted release needs another version: `cargo xtask lock --upgrade`")
                .into()),
            _ => Err(self.refused(what, &reply)),
        }
        })?;
        Ok(continued.get())
    }

    fn refused(&self, what: &str, reply: &HttpResponse) -> Failure {
        if !matches!(reply.status, 401 | 403) {
            return Fault::network(what).cause(status(reply)).into();
        }
        if let Some(elsewhere) = &self.elsewhere {
            return Failure::Unsupported(format!("{}, and {elsewhere}", status(reply)));
        }
        let fault = Fault::network("the package index refuses access").cause(status(reply));
        let stored = "credentials of `uv auth` are read by uv alone";
        let fault = if self.stored { fault.cause(stored) } else { fault };
        fault.hint("give a user and password in `UV_DEFAULT_INDEX`, pip's configuration or `~/.netrc`").into()
    }
}

/// The hint for an answer that may pass.
fn busy(status: u16) -> Option<&'static str> {
    Some(match status {
        429 => "the index limits requests: try again later",
        _ => "the index fails: try again later",
    })
}

fn origin(url: &Url) -> String {
    format!("{}://{}", if url.is_https() { "https" } else { "http" }, url.authority())
}
