//! Captures a program's output in unnamed files, so nothing is left of them, whatever ends first.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use xtask_model::fault::Fault;

#[derive(Debug)]
pub(super) struct OutputFile(File);

impl OutputFile {
    pub(super) fn new() -> Result<Self, Fault> {
        tempfile::tempfile().map(Self).map_err(|error| cannot(&error))
    }

    /// A path by which other processes of this user can open it while this process runs.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }

    /// Reads everything so far. Does not move the write position, which the writers share.
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

#[derive(Debug)]
pub(super) struct StdStreams {
    kept: Option<(OutputFile, OutputFile)>,
}

impl StdStreams {
    /// No input; both outputs are captured separately.
    pub(super) fn captured() -> Result<Self, Fault> {
        Ok(Self { kept: Some((OutputFile::new()?, OutputFile::new()?)) })
    }

    /// No input; both outputs go to one log, in the order of writing.
    pub(super) fn joined(log: &OutputFile) -> Result<Self, Fault> {
        Ok(Self { kept: Some((OutputFile(log.copy()?), OutputFile(log.copy()?))) })
    }

    pub(super) fn inherited() -> Self {
        Self { kept: None }
    }

    pub(super) fn stdio(&self) -> Result<[Stdio; 3], Fault> {
        Ok(match &self.kept {
            Some((out, err)) => [Stdio::null(), out.copy()?.into(), err.copy()?.into()],
            None => [Stdio::inherit(), Stdio::inherit(), Stdio::inherit()],
        })
    }

    pub(super) fn output(&self, status: ExitStatus) -> Result<Output, Fault> {
        let (stdout, stderr) = match &self.kept {
            Some((out, err)) => (out.read()?, err.read()?),
            None => Default::default(),
        };
        Ok(Output { status, stdout, stderr })
    }
}

fn cannot(error: &io::Error) -> Fault {
    Fault::missing("cannot capture a program's output").cause(error)
}
