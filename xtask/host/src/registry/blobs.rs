//! Downloads of blobs: streamed, checked against size and digest, resumed after a lost connection.
//!
//! A blob is never held whole unless the caller asks for its bytes.

use super::http::error_response::ErrorResponse;
use super::http::exchange::{ApiRequest, pull};
use super::{Answer, Client, Endpoint};
use crate::http::deadline::Deadline;
use crate::http::download::{BodyEnd, Download};
use crate::http::retry::{Retry, is_retryable};
use crate::http::transport::{ExchangeError, HttpResponse};
use std::io::Write;
use std::sync::atomic::Ordering;
use ureq::http::Method;
use xtask_model::fault::Fault;
use xtask_model::spec::reference::{Digest, Repository};

impl Client {
    pub fn has_blob(&self, repository: &Repository, digest: &Digest) -> Result<bool, Fault> {
        let what = format!("cannot ask for the blob `{}`", repository.digest(*digest));
        let (endpoint, url) = self.of(repository, &format!("blobs/{digest}"))?;
        let ask = ApiRequest::new(&what, Method::HEAD, url, pull(repository));
        match self.send_short(&endpoint, &ask, &[200])? {
            Ok(_) => {
                self.found_blob(repository, digest);
                Ok(true)
            }
            Err(refusal) => Ok(self.absent::<()>(&endpoint, &what, &refusal)?.present().is_some()),
        }
    }

    /// Streams a blob of `size` bytes to a writer. After a fault the writer holds a part of it that must not be used.
    pub fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
        to: &mut dyn Write,
    ) -> Result<Answer<()>, Fault> {
        let arrived = self.download(repository, digest, size, to)?;
        if let Answer::Present(have) = arrived {
            self.streamed.fetch_add(have, Ordering::Relaxed);
        }
        if let Answer::Present(have) = arrived
            && have != size
        {
            return Err(Fault::network(format!("cannot read the blob `{}`", repository.digest(*digest)))
                .cause(format!("it has {have} bytes, its descriptor says {size}")));
        }
        Ok(arrived.map(|_| ()))
    }

    /// The bytes of all blobs that were streamed so far.
    pub fn streamed(&self) -> u64 {
        self.streamed.load(Ordering::Relaxed)
    }

    /// Reads a blob of at most `max` bytes: a config.
    pub fn blob_bytes(&self, repository: &Repository, digest: &Digest, max: u64) -> Result<Answer<Vec<u8>>, Fault> {
        let mut bytes = Vec::new();
        Ok(self.download(repository, digest, max, &mut bytes)?.map(|_| bytes))
    }

    fn download(
        &self,
        repository: &Repository,
        digest: &Digest,
        max: u64,
        to: &mut dyn Write,
    ) -> Result<Answer<u64>, Fault> {
        let what = format!("cannot read the blob `{}`", repository.digest(*digest));
        let (endpoint, url) = self.of(repository, &format!("blobs/{digest}"))?;
        let mut ask = ApiRequest::new(&what, Method::GET, url, pull(repository));
        let mut download = Download::new(to, max);
        let mut retry = Retry::until(&self.limits, Deadline::of_download(&self.limits, max));
        loop {
            ask.headers.clear();
            if download.have > 0 {
                ask.headers.push(("range", format!("bytes={}-", download.have)));
            }
            let had = download.have;
            let (broken, after) = match self.send_once(&endpoint, &ask, &retry.deadline)? {
                Ok(reply) if is_retryable(reply.status) => {
                    let after = reply.retry_after();
                    (ExchangeError::passing(ErrorResponse::read(reply).cause), after)
                }
                Ok(reply) if matches!(reply.status, 200 | 206) => {
                    match download.take(&what, reply, &mut retry.deadline)? {
                        BodyEnd::Whole => return checked(download, &what, digest).map(Answer::Present),
                        BodyEnd::Cut(broken) => (broken, None),
                    }
                }
                Ok(reply) => return self.no_blob(&endpoint, &what, reply),
                Err(broken) => (broken, None),
            };
            if download.have > had && !broken.slow {
                retry.progress();
            }
            retry.pause_or_fail(&what, broken, after)?;
        }
    }

    fn no_blob<T>(&self, endpoint: &Endpoint, what: &str, reply: HttpResponse) -> Result<Answer<T>, Fault> {
        // Blob storage behind a redirect is not a registry: its 404 does not mean that the blob is absent.
        let elsewhere = !reply.url.same_origin(&endpoint.base);
        let refusal = ErrorResponse::read(reply);
        if elsewhere { Err(refusal.fault(what)) } else { self.absent(endpoint, what, &refusal) }
    }
}

fn checked(download: Download<'_>, what: &str, digest: &Digest) -> Result<u64, Fault> {
    let (have, came) = download.digest();
    if came == *digest {
        return Ok(have);
    }
    Err(Fault::network(what).cause(format!("its {have} bytes have the digest `{came}`")))
}
