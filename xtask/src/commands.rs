//! One module for each command that is more than one call: it gathers facts, decides and reports.

pub mod analyze;
pub mod base;
pub mod bench;
pub mod ci;
pub mod clean;
pub mod cluster;
pub mod doctor;
pub mod engine;
pub mod explain;
pub mod lock;
pub mod man;
pub mod plan;
pub mod quickstart;
pub mod reference;
pub mod run;
pub mod smoke;
pub mod stats;
pub mod test;
pub mod tidy;
pub mod watch;
pub mod workflows;

use std::io::Write as _;

/// Writes data to stdout. A reader that closed the pipe is not an error.
pub fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
