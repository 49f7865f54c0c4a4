//! The autoscaler's binary: parses the command line, runs it, and turns a failure into text and an exit code.

use autoscaler::cli::Cli;
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A panic is a bug, and 1 is the code of bugs; Rust's own would be 101.
    match std::panic::catch_unwind(|| cli.run()) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.kind.exit_code())
        }
        Err(_) => ExitCode::from(1),
    }
}
