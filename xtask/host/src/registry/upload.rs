//! Uploads of blobs: in one request, or in pieces that resume after a lost connection; and mounts.
//!
//! A blob counts as there only when the registry has said so for its digest. A session that the registry has forgotten
//! is begun again, a bounded number of times. (distribution 2.8 forgets every session that was cut within a piece:
//! <https://github.com/distribution/distribution/blob/v2.8.3/registry/handlers/blobupload.go>, its `_state` names the old
//! offset.)

use super::http::error_response::{ErrorResponse, create_hint};
use super::http::exchange::{ApiRequest, pull, push};
use super::manifests::said_digest;
use super::{Answer, Client, Endpoint};
use crate::http::deadline::Deadline;
use crate::http::retry::{Retry, is_retryable};
use crate::http::transport::{BlobSource, ExchangeError, HttpResponse, Payload};
use crate::http::url::Url;
use std::time::Duration;
use ureq::http::Method;
use xtask_model::fault::{Exit, Fault};
use xtask_model::spec::reference::{Digest, Repository};

const SESSIONS: u32 = 5;

pub enum Mount {
    /// The blob exists; nothing has to be sent.
    Mounted,
    /// The registry would rather have the bytes: [`Client::upload_into`] this, or [`Client::cancel`] it.
    Session(UploadSession),
}

pub struct UploadSession {
    endpoint: Endpoint,
    repository: Repository,
    url: Url,
    /// The smallest piece that the registry takes, but for the last (`OCI-Chunk-Min-Length`).
    least: u64,
}

struct BlobUpload<'a> {
    digest: &'a Digest,
    size: u64,
    source: &'a dyn BlobSource,
    what: &'a str,
}

enum End {
    Done,
    /// It is gone, or holds something wrong; why, for the fault if no other one does better.
    Lost(ExchangeError),
}

/// The answer to one piece or to the question how much there is.
enum UploadStep {
    /// Number of bytes that the registry has.
    At(u64),
    Done,
    Lost(ExchangeError),
    /// Ask the session how many bytes it has, after a pause.
    Unsure(ExchangeError, Option<Duration>),
}

impl Client {
    /// Sends a blob of `size` bytes. Wrap the source to see it go; it may be opened more than once.
    pub fn upload(
        &self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
        source: &dyn BlobSource,
    ) -> Result<(), Fault> {
        let session = self.begin(repository, &upload_what(repository, digest))?;
        self.upload_into(session, digest, size, source)
    }

    /// Sends a blob into a session that a mount has left.
    pub fn upload_into(
        &self,
        session: UploadSession,
        digest: &Digest,
        size: u64,
        source: &dyn BlobSource,
    ) -> Result<(), Fault> {
        let repository = session.repository.clone();
        let what = upload_what(&repository, digest);
        let blob = BlobUpload { digest, size, source, what: &what };
        let mut retry = Retry::until(&self.limits, Deadline::of_upload(&self.limits, size));
        let mut session = session;
        for begun in 1.. {
            let broken = match self.run(session, &blob, &mut retry)? {
                End::Done => return Ok(()),
                End::Lost(broken) => broken,
            };
            // The last answer may have been lost on its way, not the blob.
            if self.has_blob(&repository, digest)? {
                return Ok(());
            }
            if begun >= SESSIONS {
                return Err(broken.fault(&what).cause(format!("the upload was begun {begun} times")));
            }
            session = self.begin(&repository, &what)?;
        }
        unreachable!("the loop returns")
    }

    /// Asks for a blob of another repository of the same registry to be known here too.
    pub fn mount(&self, repository: &Repository, digest: &Digest, from: &Repository) -> Result<Mount, Fault> {
        let what = format!("cannot mount the blob `{}` into `{repository}`", from.digest(*digest));
        if repository.registry() != from.registry() {
            return Err(Fault::usage(what).cause("blobs can only be mounted within one registry"));
        }
        let (endpoint, url) = self.of(repository, "blobs/uploads/")?;
        let text = digest.to_string();
        let url = url.query([("mount", text.as_str()), ("from", from.path())]);
        let mut scopes = push(repository);
        scopes.extend(pull(from));
        let ask = ApiRequest::new(&what, Method::POST, url, scopes).payload(Payload::Bytes(b""));
        match self.send_short(&endpoint, &ask, &[201, 202])? {
            Ok(reply) if reply.status == 201 => Ok(Mount::Mounted),
            Ok(reply) => Ok(Mount::Session(session(endpoint, repository, &what, &reply)?)),
            // Not being allowed to read the other repository is no reason not to write to this one.
            Err(refusal) if matches!(refusal.status, 401 | 403 | 404 | 405) => {
                self.begin(repository, &what).map(Mount::Session)
            }
            Err(refusal) => Err(refusal.fault(&what)),
        }
    }

    /// Gives up a session. The registry would forget it by itself, so that one it does not know is none to speak of.
    pub fn cancel(&self, session: UploadSession) -> Result<(), Fault> {
        let what = format!("cannot cancel an upload to `{}`", session.repository);
        let ask = ApiRequest::new(&what, Method::DELETE, session.url.clone(), push(&session.repository));
        match self.send_short(&session.endpoint, &ask, &[200, 202, 204, 404, 405])? {
            Ok(_) => Ok(()),
            Err(refusal) => Err(self.refused(&session.endpoint, &what, &refusal)),
        }
    }

    fn begin(&self, repository: &Repository, what: &str) -> Result<UploadSession, Fault> {
        let (endpoint, url) = self.of(repository, "blobs/uploads/")?;
        let ask = ApiRequest::new(what, Method::POST, url, push(repository)).payload(Payload::Bytes(b""));
        let reply = match self.send_short(&endpoint, &ask, &[202]) {
            Ok(Ok(reply)) => reply,
            Ok(Err(refusal)) => return Err(self.not_pushed(&endpoint, repository, what, &refusal)),
            Err(fault) => return Err(self.hung_up(repository, fault)),
        };
        session(endpoint, repository, what, &reply)
    }

    /// The fault of a registry that closes the connection instead of an answer. ECR does so for a repository that it does not
    /// have: <https://github.com/aws/containers-roadmap/issues/1970>.
    fn hung_up(&self, repository: &Repository, fault: Fault) -> Fault {
        let asks = fault.exit == Exit::Network && !fault.unreachable;
        match asks.then(|| self.tags(repository)) {
            Some(Ok(Answer::Absent)) => {
                let cause = format!("the registry has no repository `{}`", repository.path());
                create_hint(fault.cause(cause), repository)
            }
            _ => fault,
        }
    }

    /// Sends the missing bytes until the session is closed or lost.
    fn run(&self, mut session: UploadSession, blob: &BlobUpload<'_>, retry: &mut Retry) -> Result<End, Fault> {
        let mut at = 0;
        loop {
            let step = if at == 0 && blob.size <= self.options.whole {
                // A short blob that does not arrive is sent again from its beginning.
                match self.close(&mut session, blob, 0, retry)? {
                    UploadStep::Unsure(broken, after) => {
                        retry.pause_or_fail(blob.what, broken, after)?;
                        UploadStep::Lost(ExchangeError::passing("the answer was lost".to_owned()))
                    }
                    step => step,
                }
            } else if at < blob.size {
                self.piece(&mut session, blob, at, retry)?
            } else {
                self.close(&mut session, blob, blob.size, retry)?
            };
            match step {
                UploadStep::Done => return Ok(End::Done),
                UploadStep::Lost(broken) => return Ok(End::Lost(broken)),
                UploadStep::At(now) => at = self.moved(at, now, blob, retry)?,
                UploadStep::Unsure(broken, after) => {
                    let slow = broken.slow;
                    retry.pause_or_fail(blob.what, broken, after)?;
                    match self.arrived(&mut session, blob)? {
                        UploadStep::At(now) if now > blob.size => return Ok(End::Lost(too_much(now))),
                        UploadStep::At(now) => {
                            if now > at && !slow {
                                retry.progress();
                            }
                            at = now;
                        }
                        UploadStep::Done => return Ok(End::Done),
                        UploadStep::Lost(broken) | UploadStep::Unsure(broken, _) => return Ok(End::Lost(broken)),
                    }
                }
            }
        }
    }

    /// A registry that keeps less than it was sent gets the rest, with limited retries.
    fn moved(&self, before: u64, now: u64, blob: &BlobUpload<'_>, retry: &mut Retry) -> Result<u64, Fault> {
        if now > before {
            retry.progress();
        } else {
            let cause = format!("the registry accepted {now} of {} bytes and accepts no more", blob.size);
            retry.pause_or_fail(blob.what, ExchangeError::passing(cause), None)?;
        }
        Ok(now)
    }

    fn piece(
        &self,
        session: &mut UploadSession,
        blob: &BlobUpload<'_>,
        at: u64,
        retry: &Retry,
    ) -> Result<UploadStep, Fault> {
        let left = blob.size - at;
        let length = self.options.chunk.map_or(left, |chunk| chunk.max(session.least).max(1).min(left));
        let ask = ApiRequest::new(blob.what, Method::PATCH, session.url.clone(), push(&session.repository))
            .header("content-type", "application/octet-stream")
            .header("content-range", format!("{at}-{}", at + length - 1))
            .payload(Payload::Part { source: blob.source, from: at, length });
        let reply = match self.send_once(&session.endpoint, &ask, &retry.deadline)? {
            Ok(reply) => reply,
            Err(broken) => return unsure(blob, broken),
        };
        match reply.status {
            202 | 201 | 204 => {
                session.follow(&reply);
                let end = at + length;
                // `0-0` spells one byte as well as none.
                Ok(UploadStep::At(range_end(&reply).filter(|_| end > 1).unwrap_or(end)))
            }
            _ => self.judge(session, blob, reply),
        }
    }

    /// Closes the session with the digest and whatever follows `at`.
    fn close(
        &self,
        session: &mut UploadSession,
        blob: &BlobUpload<'_>,
        at: u64,
        retry: &Retry,
    ) -> Result<UploadStep, Fault> {
        let digest = blob.digest.to_string();
        let url = session.url.query([("digest", digest.as_str())]);
        let payload = match blob.size - at {
            0 => Payload::Bytes(b""),
            length => Payload::Part { source: blob.source, from: at, length },
        };
        let ask = ApiRequest::new(blob.what, Method::PUT, url, push(&session.repository))
            .header("content-type", "application/octet-stream")
            .payload(payload);
        let reply = match self.send_once(&session.endpoint, &ask, &retry.deadline)? {
            Ok(reply) => reply,
            Err(broken) => return unsure(blob, broken),
        };
        if !matches!(reply.status, 201 | 204) {
            return self.judge(session, blob, reply);
        }
        match said_digest(&reply).map_err(|broken| broken.fault(blob.what))? {
            Some(said) if said != *blob.digest => {
                Err(Fault::network(blob.what).cause(format!("the registry stored it as `{said}`")))
            }
            _ => Ok(UploadStep::Done),
        }
    }

    /// Next step after an error response in a session.
    fn judge(&self, session: &UploadSession, blob: &BlobUpload<'_>, reply: HttpResponse) -> Result<UploadStep, Fault> {
        let (status, after) = (reply.status, reply.retry_after());
        let refusal = ErrorResponse::read(reply);
        let broken = ExchangeError::passing(refusal.cause.clone());
        // A wrong range says that the registry and its own last word disagree.
        if matches!(status, 404 | 416) || refusal.has("BLOB_UPLOAD_UNKNOWN") || refusal.has("BLOB_UPLOAD_INVALID") {
            return Ok(UploadStep::Lost(broken));
        }
        if refusal.has("DIGEST_INVALID") {
            // Pieces that were put together wrongly are correct when sent again; a wrong source fails again.
            return Ok(UploadStep::Lost(ExchangeError {
                hint: Some("check whether the file changed during the upload".to_owned()),
                ..broken
            }));
        }
        if is_retryable(status) {
            return Ok(UploadStep::Unsure(broken, after));
        }
        Err(self.refused(&session.endpoint, blob.what, &refusal))
    }

    fn arrived(&self, session: &mut UploadSession, blob: &BlobUpload<'_>) -> Result<UploadStep, Fault> {
        let ask = ApiRequest::new(blob.what, Method::GET, session.url.clone(), push(&session.repository));
        match self.send_short(&session.endpoint, &ask, &[204, 200, 202])? {
            Ok(reply) => {
                session.follow(&reply);
                Ok(UploadStep::At(range_end(&reply).unwrap_or(0)))
            }
            Err(refusal) if matches!(refusal.status, 401 | 403) => {
                Err(self.refused(&session.endpoint, blob.what, &refusal))
            }
            Err(refusal) => Ok(UploadStep::Lost(ExchangeError::passing(refusal.cause))),
        }
    }
}

impl UploadSession {
    /// Each answer may move the session to another address.
    fn follow(&mut self, reply: &HttpResponse) {
        if let Some(url) = reply.location().filter(|url| url.is_https() || !self.url.is_https()) {
            self.url = url;
        }
    }
}

fn upload_what(repository: &Repository, digest: &Digest) -> String {
    format!("cannot upload the blob `{}`", repository.digest(*digest))
}

fn session(
    endpoint: Endpoint,
    repository: &Repository,
    what: &str,
    reply: &HttpResponse,
) -> Result<UploadSession, Fault> {
    let url = reply.location().filter(|url| url.is_https() || !endpoint.base.is_https());
    let url = url.ok_or_else(|| {
        Fault::network(what).cause(format!("`{}` started an upload without an upload address", reply.url))
    })?;
    let least = reply.header("oci-chunk-min-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    Ok(UploadSession { endpoint, repository: repository.clone(), url, least })
}

/// A failed exchange leaves the number of received bytes unknown, unless the error is local.
fn unsure(blob: &BlobUpload<'_>, broken: ExchangeError) -> Result<UploadStep, Fault> {
    if broken.again { Ok(UploadStep::Unsure(broken, None)) } else { Err(broken.fault(blob.what)) }
}

fn too_much(now: u64) -> ExchangeError {
    ExchangeError::passing(format!("the registry claims to have {now} bytes, more than there are"))
}

/// The number of bytes that have arrived, of `Range: 0-9` (or `bytes=0-9`); `0-0` is how none is spelled.
fn range_end(reply: &HttpResponse) -> Option<u64> {
    read_range(reply.header("range")?)
}

fn read_range(value: &str) -> Option<u64> {
    let (first, last) = value.trim_start_matches("bytes=").split_once('-')?;
    match (first.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?) {
        (0, 0) => Some(0),
        (0, last) => last.checked_add(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_count_what_has_arrived() {
        for (text, count) in
            [("0-9", Some(10)), ("bytes=0-9", Some(10)), ("0-0", Some(0)), ("5-9", None), ("x", None), ("0--1", None)]
        {
            assert_eq!(read_range(text), count, "{text}");
        }
        assert_eq!(read_range(&format!("0-{}", u64::MAX)), None);
    }
}
