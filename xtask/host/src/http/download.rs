//! The body of a download: streamed, counted, hashed, and taken up again where it broke off.

use super::deadline::Deadline;
use super::transport::{ExchangeError, HttpResponse, cut, late, too_slow};
use crate::process;
use sha2::{Digest as _, Sha256};
use std::io::{Read as _, Write};
use xtask_model::fault::Fault;
use xtask_model::spec::reference::Digest;

/// Bytes that are read at once.
const PIECE: usize = 128 << 10;

pub(crate) struct Download<'w> {
    to: &'w mut dyn Write,
    hash: Sha256,
    pub(crate) have: u64,
    max: u64,
}

pub(crate) enum BodyEnd {
    Whole,
    Cut(ExchangeError),
}

impl<'w> Download<'w> {
    /// A download of at most `max` bytes.
    pub(crate) fn new(to: &'w mut dyn Write, max: u64) -> Self {
        Self { to, hash: Sha256::new(), have: 0, max }
    }

    /// Counts bytes that an earlier download brought.
    pub(crate) fn had(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.have += bytes.len() as u64;
    }

    /// Number and digest of the bytes that came.
    pub(crate) fn digest(self) -> (u64, Digest) {
        (self.have, Digest::from_bytes(self.hash.finalize().into()))
    }

    /// Reads a body that begins at the first byte (200) or where the last one ended (206).
    pub(crate) fn take(&mut self, what: &str, reply: HttpResponse, deadline: &mut Deadline) -> Result<BodyEnd, Fault> {
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
            // The part that was downloaded already, when a registry knows no ranges.
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
}

/// The first byte of `Content-Range: bytes 5-9/10`.
fn range_start(value: Option<&str>) -> Option<u64> {
    value?.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
