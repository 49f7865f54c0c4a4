//! One run of a scenario, measured.

use std::time::Instant;
use xtask_host::process::Command;
use xtask_host::{linux, terminal};
use xtask_model::fault::Fault;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// In order. Phases may overlap.
    pub phases: Vec<(String, f64)>,
    /// xtask's own seconds, without docker, the compiler and steps.
    pub overhead: Option<f64>,
    /// Peak memory of xtask, in bytes.
    pub memory: Option<u64>,
    /// Processor time of xtask and of what it runs, in seconds.
    pub cpu: Option<f64>,
    /// Bytes that xtask wrote to a disk.
    pub written: Option<u64>,
    /// Number of images that xtask built, without reused ones.
    pub built: usize,
}

/// Runs a command, and measures its seconds.
pub fn call(command: &Command) -> Result<Sample, Fault> {
    let before = linux::children_seconds();
    let (seconds, _) = timed(command)?;
    let cpu = linux::children_seconds().zip(before).map(|(after, before)| after - before);
    Ok(Sample { seconds, cpu, ..Sample::default() })
}

/// Runs a command, and returns its seconds and the lines that it printed.
pub(super) fn timed(command: &Command) -> Result<(f64, Vec<String>), Fault> {
    let mut lines = Vec::new();
    let began = Instant::now();
    let status = command.stream(|line| {
        terminal::detail(line);
        lines.push(line.to_owned());
    })?;
    let seconds = began.elapsed().as_secs_f64();
    if status.success() {
        return Ok((seconds, lines));
    }
    let tail = lines[lines.len().saturating_sub(20)..].join("\n");
    Err(Fault::build(format!("cannot measure `{command}`")).cause(format!("it failed ({status})")).cause(tail))
}
