//! The names of `linux.rs` for other systems: images run only with docker, and programs do not end with xtask.

use std::process::ExitCode;

/// Returns `None`: on this system the program never starts itself.
pub fn dispatch() -> Option<ExitCode> {
    None
}

/// Containers without an engine: these types have no values.
pub mod bare {
    use crate::container::{Files, Launch};
    use std::path::PathBuf;
    use std::process::{ExitStatus, Output};
    use std::time::Duration;
    use xtask_host::linux;
    use xtask_model::fault::Fault;
    use xtask_model::spec::oci::Execution;

    #[derive(Clone, Debug)]
    pub enum Bare {}

    #[derive(Debug)]
    pub enum Contained {}

    impl Bare {
        pub fn find() -> Result<Self, Fault> {
            Err(linux::missing("running an image without an engine"))
        }

        pub fn through(_program: impl Into<PathBuf>) -> Result<Self, Fault> {
            Self::find()
        }

        pub fn has_every_user(&self) -> bool {
            match *self {}
        }

        pub fn run(&self, _files: &Files, _image: &Execution, _launch: &Launch) -> Result<Output, Fault> {
            match *self {}
        }

        pub fn start(&self, _files: &Files, _image: &Execution, _launch: &Launch) -> Result<Contained, Fault> {
            match *self {}
        }

        pub fn serve(&self, _files: &Files, _image: &Execution, _launch: &Launch) -> Result<Contained, Fault> {
            match *self {}
        }

        pub fn attach(&self, _files: &Files, _image: &Execution, _launch: &Launch) -> Result<ExitStatus, Fault> {
            match *self {}
        }
    }

    impl Contained {
        pub fn runs(&mut self) -> Result<bool, Fault> {
            match *self {}
        }

        pub fn exec(&mut self, _argv: &[String]) -> Result<Output, Fault> {
            match *self {}
        }

        pub(crate) fn exec_offline(&mut self, _argv: &[String]) -> Result<Output, Fault> {
            match *self {}
        }

        pub fn end_within(self, _limit: Duration) {
            match self {}
        }

        pub fn log(&self) -> Result<String, Fault> {
            match *self {}
        }
    }
}

/// Starts programs unchanged: only Linux can end them with this one.
pub mod subprocess {
    use std::path::{Path, PathBuf};
    use xtask_host::linux;
    use xtask_host::process::Command;
    use xtask_model::fault::Fault;

    /// Never has a value.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Isolation {}

    pub fn through(_xtask: impl Into<PathBuf>) {}

    pub fn bound(call: Command) -> Command {
        call
    }

    pub fn supervised(call: Command) -> Command {
        call
    }

    impl Isolation {
        pub fn find() -> Result<Self, Fault> {
            Err(linux::missing("a Debian root"))
        }

        pub fn isolated(self, _call: Command) -> Result<Command, Fault> {
            match self {}
        }

        pub fn remove(self, _folder: &Path) -> std::io::Result<()> {
            match self {}
        }
    }
}
