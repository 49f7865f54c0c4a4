//! `bench`: builds the program that measures, a package of its own, and becomes it.

use crate::flags::Global;
use std::process::ExitCode;
use xtask_host::process::Command;
use xtask_model::fault::{Exit, Fault};

/// Runs `xtask-bench` with this command line.
pub fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let tree = global.tree()?;
    super::needs_xtask_sources(&tree.root, "bench", "`cargo xtask stats` prints what builds of this repository cost")?;
    let command = Command::new("cargo")
        .args(["run", "--quiet", "--locked", "--package", "xtask-bench", "--manifest-path"])
        .arg(tree.root.join("Cargo.toml"))
        .arg("--")
        .args(std::env::args_os().skip(1));
    let error = command.replace();
    Err(Fault::new(Exit::Missing, "cannot start `cargo run --package xtask-bench`").cause(error).into())
}
