//! Lists: the tags of a repository and the referrers of a manifest, page by page (distribution specification, "Content discovery").
//!
//! A list is whole or a fault; the number of pages is bounded.

use super::http::error_response::ErrorResponse;
use super::http::exchange::{ApiRequest, pull};
use super::{Answer, Client, Endpoint};
use crate::http::retry::Retry;
use crate::http::transport::{ExchangeError, HttpResponse};
use crate::http::url::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use ureq::http::Method;
use xtask_model::fault::Fault;
use xtask_model::spec::reference::{Digest, Repository, Tag};

/// Pages of one list: a registry that has more goes in circles.
const PAGES: usize = 1000;

/// Bytes of one page.
const LONGEST: u64 = 8 << 20;

/// Bytes that one page counts for at least in the time that a list may take: 2 s at the minimum speed.
const PAGE: u64 = 20_000;

/// A manifest that names another one as its subject: a signature, an SBOM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    pub media_type: String,
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    pub artifact_type: Option<String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Tags {
    // Registries write `null` where there is none.
    tags: Option<Vec<Tag>>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Option<Vec<Referrer>>,
}

impl Client {
    /// Every tag of the repository, sorted; absent where there is no such repository.
    pub fn tags(&self, repository: &Repository) -> Result<Answer<Vec<Tag>>, Fault> {
        let what = format!("cannot list the tags of `{repository}`");
        let (endpoint, url) = self.of(repository, "tags/list")?;
        let mut all = Vec::new();
        let ask = ApiRequest::new(&what, Method::GET, url.query([("n", "1000")]), pull(repository));
        let read = self.pages(&endpoint, ask, |page: Tags| {
            all.extend(page.tags.unwrap_or_default());
        })?;
        all.sort();
        all.dedup();
        match read {
            Ok(()) => Ok(Answer::Present(all)),
            Err(refusal) => self.absent(&endpoint, &what, &refusal),
        }
    }

    /// The manifests whose subject this one is, of one artifact type or of all; asked of the referrers API, and where a
    /// registry lacks it, the fallback tag is read. A missing manifest has no referrers.
    pub fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>, Fault> {
        let what = format!("cannot list the referrers of `{}`", repository.digest(*digest));
        let (endpoint, url) = self.of(repository, &format!("referrers/{digest}"))?;
        let url = url.query(artifact_type.map(|wanted| ("artifactType", wanted)));
        let mut all = Vec::new();
        let ask = ApiRequest::new(&what, Method::GET, url, pull(repository))
            .header("accept", "application/vnd.oci.image.index.v1+json");
        let read = self.pages(&endpoint, ask, |page: Index| {
            all.extend(page.manifests.unwrap_or_default());
        })?;
        match read {
            Ok(()) => {}
            Err(refusal) if refusal.has("UNSUPPORTED") || matches!(refusal.status, 405 | 501) => {
                all = self.referrers_by_tag(repository, digest, &what)?;
            }
            Err(refusal) => match self.absent::<()>(&endpoint, &what, &refusal)? {
                Answer::Present(()) | Answer::Absent => all = self.referrers_by_tag(repository, digest, &what)?,
            },
        }
        // Whether or not the registry has chosen, which it says in a header of its own, choosing twice does no harm.
        all.retain(|one| artifact_type.is_none_or(|wanted| one.artifact_type.as_deref() == Some(wanted)));
        Ok(all)
    }

    fn referrers_by_tag(&self, repository: &Repository, digest: &Digest, what: &str) -> Result<Vec<Referrer>, Fault> {
        let wrong = |error: &dyn std::fmt::Display| Fault::network(what).cause(error);
        let tag: Tag = digest.to_string().replace(':', "-").parse().map_err(|error| wrong(&error))?;
        let Answer::Present(manifest) = self.manifest(repository, &tag)? else { return Ok(Vec::new()) };
        let index: Index = serde_json::from_slice(&manifest.bytes)
            .map_err(|error| wrong(&format!("the tag `{tag}` is not an index of referrers: {error}")))?;
        Ok(index.manifests.unwrap_or_default())
    }

    fn pages<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        mut ask: ApiRequest<'_>,
        mut take: impl FnMut(T),
    ) -> Result<Result<(), ErrorResponse>, Fault> {
        let mut retry = Retry::new(&self.limits);
        for _ in 0..PAGES {
            let read = self.send_within(endpoint, &ask, &mut retry, |reply| match reply.status {
                200 => page(reply).map(Ok),
                _ => Ok(Err(ErrorResponse::read(reply))),
            })?;
            let (content, link, bytes) = match read {
                Ok(page) => page,
                Err(refusal) => return Ok(Err(refusal)),
            };
            retry.progress();
            // A list is as long as it is: each page adds the time of a short document.
            retry.deadline.grow(bytes.max(PAGE));
            take(content);
            match link {
                Some(next) => ask.url = next,
                None => return Ok(Ok(())),
            }
        }
        Err(Fault::network(ask.what).cause(format!("the list has more than {PAGES} pages")))
    }
}

/// A page and the address of the next one, which must be the same registry's.
fn page<T: DeserializeOwned>(reply: HttpResponse) -> Result<(T, Option<Url>, u64), ExchangeError> {
    let url = reply.url.clone();
    let wrong = |why: String| ExchangeError::lasting(format!("`{url}`: {why}"));
    let next = match reply.header("link").and_then(next_link) {
        None => None,
        Some(link) => match url.join(link).filter(|next| next.same_origin(&url) && *next != url) {
            None => return Err(wrong("the link to the next page of the list is invalid".to_owned())),
            next => next,
        },
    };
    let body = reply.bytes(LONGEST)?;
    let content = serde_json::from_slice(&body).map_err(|error| wrong(format!("not a list: {error}")))?;
    Ok((content, next, body.len() as u64))
}

/// The target of `rel="next"` (RFC 8288).
fn next_link(value: &str) -> Option<&str> {
    let mut rest = value;
    loop {
        let (target, after) = rest.split_once('<')?.1.split_once('>')?;
        let end = after.find('<').unwrap_or(after.len());
        let params = after[..end].to_ascii_lowercase().replace([' ', '"'], "");
        if params.split([';', ',']).any(|param| param == "rel=next") {
            return Some(target);
        }
        rest = &after[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn link(value: &str, target: Option<&str>) {
        assert_eq!(next_link(value), target, "{value}");
    }

    #[test]
    fn the_next_page_is_found() {
        link(r#"</v2/a/tags/list?last=b&n=2>; rel="next""#, Some("/v2/a/tags/list?last=b&n=2"));
        link(r#"<x>; rel="prev", <y>; rel=next"#, Some("y"));
        link(r#"<x>; rel="prev""#, None);
        link("nonsense", None);
        link("<x", None);
    }
}
