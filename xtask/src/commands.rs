//! The commands that are more than one call: each gathers facts, decides and tells.

pub mod analyze;
pub mod base;
pub mod bench;
pub mod ci;
pub mod doctor;
pub mod engine;
pub mod explain;
pub mod lock;
pub mod man;
pub mod plan;
pub mod quickstart;
pub mod smoke;
pub mod stats;
pub mod test;
pub mod tidy;

use crate::process::Command;
use std::io::Write as _;
use std::path::Path;

/// Writes data to stdout. A reader that has gone away is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A call of cargo in the repository. What `cargo run` told this program of its own package is kept from it: build scripts
/// that look at these variables would run again, and everything on them would be compiled again.
pub(crate) fn cargo(root: &Path) -> Command {
    let ours = ["CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PRIMARY_PACKAGE"];
    let told = std::env::vars_os().map(|(name, _)| name);
    let told = told.filter(|name| ours.iter().any(|ours| name.to_string_lossy().starts_with(ours)));
    told.fold(Command::new("cargo").current_dir(root), |cargo, name| cargo.env_remove(name))
}
