//! The names of `linux.rs` on a system that is not Linux: nothing is found, and what cannot do without is a fault.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use xtask_model::fault::Fault;

/// True in a program that has the parts for Linux.
pub const PRESENT: bool = false;

pub const MEMORY: &str = "/dev/shm";

pub fn memory_folder(_bytes: u64) -> Option<&'static Path> {
    None
}

pub fn memory_room() -> u64 {
    0
}

/// A process in the record of an engine that another system runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub started: u64,
}

impl Process {
    pub fn now(_pid: u32) -> Option<Self> {
        None
    }

    pub fn runs(&self) -> bool {
        false
    }

    pub fn stop(&self, _grace: Duration) -> Result<(), Fault> {
        Ok(())
    }
}

pub fn running_from(_folder: &Path, _programs: &[&str]) -> Vec<(String, Process)> {
    Vec::new()
}

pub fn rooted_in(_data: &Path) -> Vec<Process> {
    Vec::new()
}

pub fn mounts_under(_folder: &Path) -> Vec<PathBuf> {
    Vec::new()
}

pub fn unmount_under(_folder: &Path) -> Result<(), Fault> {
    Ok(())
}

pub fn peak_memory() -> Option<u64> {
    None
}

pub fn disk_written() -> Option<u64> {
    None
}

pub fn children_seconds() -> Option<f64> {
    None
}

pub fn is_overlay(_folder: &Path) -> bool {
    false
}

pub fn has_capabilities(_file: &Path) -> bool {
    false
}

pub fn require(what: &str) -> Result<(), Fault> {
    Err(missing(what))
}

pub fn missing(what: &str) -> Fault {
    let here = if cfg!(target_os = "linux") { "systems other than Linux" } else { std::env::consts::OS };
    Fault::missing(format!("{what} needs Linux"))
        .cause(format!("this xtask is compiled for {here}"))
        .hint("use Docker Desktop, or a root image from a registry: `image` in `[root]` of `images.toml`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_linux_is_a_missing_tool_with_a_way_out() {
        let fault = require("a Debian root").unwrap_err();
        assert_eq!(fault.what, "a Debian root needs Linux");
        assert_eq!(fault.exit, xtask_model::fault::Exit::Missing);
        assert!(fault.hints[0].contains("Docker Desktop"), "{fault}");
    }
}
