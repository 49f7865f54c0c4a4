//! Files that hold what a program says until someone asks. They have no name, and so nothing is left of them, whoever ends.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use xtask_model::fault::Fault;

/// What was written until now, and what is still to come.
#[derive(Debug)]
pub(super) struct Stream(File);

impl Stream {
    pub(super) fn new() -> Result<Self, Fault> {
        tempfile::tempfile().map(Self).map_err(|error| cannot(&error))
    }

    /// The name by which a process of this user finds it while we have it.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }

    /// All that is there. The place at which is written stays: writers share it with us.
    pub(super) fn read(&self) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        let mut piece = vec![0; 64 << 10];
        loop {
            match self.0.read_at(&mut piece, bytes.len() as u64) {
                Ok(0) => return Ok(bytes),
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cannot(&error)),
            }
        }
    }

    fn copy(&self) -> Result<File, Fault> {
        self.0.try_clone().map_err(|error| cannot(&error))
    }
}

/// Where a program's streams lead.
#[derive(Debug)]
pub(super) struct Streams {
    kept: Option<(Stream, Stream)>,
}

impl Streams {
    /// Nothing to read; both outputs are kept apart.
    pub(super) fn kept() -> Result<Self, Fault> {
        Ok(Self { kept: Some((Stream::new()?, Stream::new()?)) })
    }

    /// Nothing to read; both outputs go to one log, in the order in which they are written.
    pub(super) fn joined(log: &Stream) -> Result<Self, Fault> {
        Ok(Self { kept: Some((Stream(log.copy()?), Stream(log.copy()?))) })
    }

    /// Our own.
    pub(super) fn ours() -> Self {
        Self { kept: None }
    }

    pub(super) fn stdio(&self) -> Result<[Stdio; 3], Fault> {
        Ok(match &self.kept {
            Some((out, err)) => [Stdio::null(), out.copy()?.into(), err.copy()?.into()],
            None => [Stdio::inherit(), Stdio::inherit(), Stdio::inherit()],
        })
    }

    /// What came, with how it ended.
    pub(super) fn output(&self, status: ExitStatus) -> Result<Output, Fault> {
        let (stdout, stderr) = match &self.kept {
            Some((out, err)) => (out.read()?, err.read()?),
            None => Default::default(),
        };
        Ok(Output { status, stdout, stderr })
    }
}

fn cannot(error: &io::Error) -> Fault {
    Fault::missing("cannot keep what a program says").cause(error)
}
