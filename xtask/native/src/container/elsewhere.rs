//! The names of `linux.rs` on a system that is not Linux: no image runs without an engine, and programs start without a guard.

use std::process::ExitCode;

/// Says that this is no call of the program by itself: none is made here.
pub fn inside() -> Option<ExitCode> {
    None
}

/// Containers without an engine. A value of these types never exists.
pub mod bare {
    use crate::container::Launch;
    use std::path::{Path, PathBuf};
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

        pub fn run(&self, _folder: &Path, _image: &Execution, _launch: &Launch) -> Result<Output, Fault> {
            match *self {}
        }

        pub fn start(&self, _folder: &Path, _image: &Execution, _launch: &Launch) -> Result<Contained, Fault> {
            match *self {}
        }

        pub fn serve(&self, _folder: &Path, _image: &Execution, _launch: &Launch) -> Result<Contained, Fault> {
            match *self {}
        }

        pub fn attach(&self, _folder: &Path, _image: &Execution, _launch: &Launch) -> Result<ExitStatus, Fault> {
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

        pub fn end_within(self, _patience: Duration) {
            match self {}
        }

        pub fn log(&self) -> Result<String, Fault> {
            match *self {}
        }
    }
}

/// Programs that end with this one: here they are started as they are.
pub mod guard {
    use std::path::{Path, PathBuf};
    use xtask_host::linux;
    use xtask_host::process::Command;
    use xtask_model::fault::Fault;

    /// The rights of a program in namespaces. A value never exists.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Rights {}

    pub fn through(_xtask: impl Into<PathBuf>) {}

    pub fn guarded(call: Command) -> Command {
        call
    }

    impl Rights {
        pub fn find() -> Result<Self, Fault> {
            Err(linux::missing("a Debian root"))
        }

        pub fn apart(self, _call: Command) -> Result<Command, Fault> {
            match self {}
        }

        pub fn remove(self, _folder: &Path) -> std::io::Result<()> {
            match self {}
        }
    }
}
