//! Downloads of blobs: streamed, checked against size and digest, resumed after a lost connection.
//!
//! A blob is never held whole unless the caller asks for its bytes.

use super::http::deadline::Deadline;
use super::http::error_response::ErrorResponse;
use super::http::exchange::{ApiRequest, pull};
use super::http::retry::{Retry, is_retryable};
use super::http::transport::{ExchangeError, HttpResponse, cut, late, too_slow};
use super::{Answer, Client, Endpoint};
use crate::process;
use sha2::{Digest as _, Sha256};
use std::io::{Read as _, Write};
use std::sync::atomic::Ordering;
use ureq::http::Method;
use xtask_model::fault::Fault;
use xtask_model::spec::reference::{Digest, Repository};

/// Bytes that are read at once.
const PIECE: usize = 128 << 10;

struct Download<'w> {
    to: &'w mut dyn Write,
    hash: Sha256,
    have: u64,
    max: u64,
}

enum BodyEnd {
    Whole,
    Cut(ExchangeError),
}

impl Client {
    pub fn has_blob(&self, repository: &Repository, digest: &Digest) -> Result<bool, Fault> {
        let what = format!("cannot ask for the blob `{}`", repository.digest(*digest));
        let (endpoint, url) = self.of(repository, &format!("blobs/{digest}"))?;
        let ask = ApiRequest::new(&what, Method::HEAD, url, pull(repository));
        match self.send_short(&endpoint, &ask, &[200])? {
            Ok(_) => {
                self.saw_blob(repository, digest);
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
        let mut download = Download { to, hash: Sha256::new(), have: 0, max };
        let mut retry = Retry::until(&self.options, Deadline::of_download(&self.options, max));
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
                        BodyEnd::Whole => return download.checked(&what, digest).map(Answer::Present),
                        BodyEnd::Cut(broken) => (broken, None),
                    }
                }
                Ok(reply) => return self.no_blob(&endpoint, &what, reply),
                Err(broken) => (broken, None),
            };
            if download.have > had && !broken.slow {
                retry.progress();
            }
            self.pause_or_fail(&what, broken, after, &mut retry)?;
        }
    }

    fn no_blob<T>(&self, endpoint: &Endpoint, what: &str, reply: HttpResponse) -> Result<Answer<T>, Fault> {
        // Blob storage behind a redirect is not a registry: its 404 does not mean that the blob is absent.
        let elsewhere = !reply.url.same_origin(&endpoint.base);
        let refusal = ErrorResponse::read(reply);
        if elsewhere { Err(refusal.fault(what)) } else { self.absent(endpoint, what, &refusal) }
    }
}

impl Download<'_> {
    /// Reads a body that begins at the first byte (200) or where the last one ended (206).
    fn take(&mut self, what: &str, reply: HttpResponse, deadline: &mut Deadline) -> Result<BodyEnd, Fault> {
        let url = reply.url.clone();
        let begins = match reply.status {
            206 => range_start(reply.header("content-range")),
            _ => Some(0),
        };
        let Some(mut skip) = begins.and_then(|begins| self.have.checked_sub(begins)) else {
            return Ok(BodyEnd::Cut(ExchangeError::lasting(format!(
                "`{url}` answered with a range that was not requested"
            ))));
        };
        let promised = reply.length();
        if promised.is_some_and(|promised| (self.have - skip).saturating_add(promised) > self.max) {
            return Ok(BodyEnd::Cut(self.too_long(&url.to_string())));
        }
        let mut reader = reply.reader();
        let mut piece = vec![0; PIECE];
        let (mut came, mut pace) = (0_u64, deadline.pace());
        loop {
            process::interrupted()?;
            let count = match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(BodyEnd::Cut(cut(&url, deadline, error))),
            };
            came += count as u64;
            // The part that is there already, when a registry knows no ranges.
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(count);
            skip -= known as u64;
            let fresh = &piece[known..count];
            if self.have + fresh.len() as u64 > self.max {
                return Ok(BodyEnd::Cut(self.too_long(&url.to_string())));
            }
            self.hash.update(fresh);
            self.to.write_all(fresh).map_err(|error| Fault::build(what).cause(format!("cannot write it: {error}")))?;
            self.have += fresh.len() as u64;
            deadline.grow(fresh.len() as u64);
            if deadline.is_over() {
                return Ok(BodyEnd::Cut(late(&url, deadline)));
            }
            if let Err(why) = pace.moved(count as u64) {
                return Ok(BodyEnd::Cut(too_slow(&url, deadline, &why)));
            }
        }
        if promised.is_some_and(|promised| came < promised) {
            let cause = format!("`{url}`: the answer broke off after {came} bytes");
            return Ok(BodyEnd::Cut(ExchangeError::passing(cause)));
        }
        Ok(BodyEnd::Whole)
    }

    fn too_long(&self, url: &str) -> ExchangeError {
        ExchangeError::lasting(format!("`{url}` has more than {} bytes", self.max))
    }

    fn checked(self, what: &str, digest: &Digest) -> Result<u64, Fault> {
        let came = Digest::from_bytes(self.hash.finalize().into());
        if came == *digest {
            return Ok(self.have);
        }
        Err(Fault::network(what).cause(format!("its {} bytes have the digest `{came}`", self.have)))
    }
}

/// The first byte of `Content-Range: bytes 5-9/10`.
fn range_start(value: Option<&str>) -> Option<u64> {
    value?.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
