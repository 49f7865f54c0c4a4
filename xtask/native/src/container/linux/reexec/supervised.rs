//! A host program with all that it starts: when xtask ends, so do they.
//!
//! The kernel's signal at the end of a parent reaches one process, and nothing that it started. So this process stays between xtask and
//! the program: it gets the signal, and as the subreaper of all processes below it the kernel gives it every one whose parent ends.

use super::{NOT_STARTED, THIS_BINARY, Task, cannot, code, not_run, ours, parent, pid};
use rustix::process::{Pid, Signal, WaitOptions};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use xtask_host::process::Command;
use xtask_model::fault::Fault;

pub(super) fn run(expected: u32, argv: &[OsString]) -> Result<ExitCode, Fault> {
    // Before the request: a signal without a handler would end this process alone. Ctrl-C is the program's to answer.
    let mut signals =
        signal_hook::iterator::Signals::new([SIGCHLD, SIGINT, SIGTERM]).map_err(cannot("wait for signals"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(cannot("become a subreaper"))?;
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(cannot("request the parent-death signal"))?;
    if rustix::process::getppid() != pid(expected) {
        return Ok(ExitCode::from(NOT_STARTED));
    }
    // The program ends with this process, too, which may be killed.
    let bound = Task::Bound { parent: std::process::id() };
    let started = Command::new(THIS_BINARY).args(bound.args()?).args(argv).start(ours());
    let program = match started {
        Ok(child) => pid(child.id()),
        Err(error) => return Ok(not_run("xtask", &error)),
    };
    for signal in signals.forever() {
        if signal == SIGTERM {
            end_all();
            return Ok(ExitCode::from(NOT_STARTED));
        }
        while let Ok(Some((ended, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if Some(ended) == program {
                return Ok(code(ExitStatus::from_raw(status.as_raw())));
            }
        }
    }
    unreachable!("signals come for as long as the process lasts")
}

/// Kills every process below this one. Those of a process that ends become children of this one.
fn end_all() {
    loop {
        for child in children() {
            // It may have ended.
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
        // An error: no child is left.
        if rustix::process::wait(WaitOptions::empty()).is_err() {
            return;
        }
    }
}

fn children() -> impl Iterator<Item = Pid> {
    let own = std::process::id();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(move |entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        let mut status = File::open(entry.path().join("status")).ok()?;
        (parent(&mut status) == Some(own)).then(|| pid(number)).flatten()
    })
}
