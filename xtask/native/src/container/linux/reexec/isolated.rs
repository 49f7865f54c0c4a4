//! A host program behind this binary: it ends with its parent, and so do its mounts and processes.

use super::{Isolated, NOT_STARTED, THIS_BINARY, Task, cannot, code, die_with_parent, not_run, ours, parent, pid};
use crate::container::linux::ids::{Range, Ranges};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Gid, Uid};
use rustix::thread::{self, UnshareFlags};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::process::{ExitCode, Stdio};
use xtask_host::process::Command;
use xtask_model::fault::{Exit, Fault};

pub(super) fn bound(expected: u32, argv: &[OsString]) -> Result<ExitCode, Fault> {
    if !follows(expected)? {
        return Ok(ExitCode::from(NOT_STARTED));
    }
    let call = command(argv)?;
    Ok(not_run(&call.name(), &call.replace()))
}

/// Creates the namespaces, starts their process 1 and waits for its end.
pub(super) fn first(task: &Isolated, argv: &[OsString]) -> Result<ExitCode, Fault> {
    if !follows(task.parent)? {
        return Ok(ExitCode::from(NOT_STARTED));
    }
    // The mapping program must run outside the new namespace and after its creation: it waits for the end of its input.
    let mapper = task.ranges.map(|ranges| {
        let call = Command::new(THIS_BINARY).args(Task::Map(ranges).args()?);
        call.start([Stdio::piped(), Stdio::inherit(), Stdio::inherit()]).map_err(cannot("start xtask itself"))
    });
    let mapper = mapper.transpose()?;
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC;
    if mapper.is_some() {
        flags |= UnshareFlags::NEWUSER;
    }
    #[expect(deprecated, reason = "the other function is unsafe because of `CLONE_FILES`, which is not used")]
    thread::unshare(flags).map_err(cannot("make namespaces"))?;
    if let Some(mut mapper) = mapper {
        drop(mapper.stdin.take());
        let status = mapper.wait().map_err(cannot("wait for the id mapping"))?;
        if !status.success() {
            // The mapper has printed the reason.
            return Ok(ExitCode::from(NOT_STARTED));
        }
        become_root().map_err(cannot("become root of a user namespace"))?;
        // A change of privileges clears the signal.
        if !follows(task.parent)? {
            return Ok(ExitCode::from(NOT_STARTED));
        }
    }
    let init = Task::Init { parent: std::process::id() };
    let mut child =
        Command::new(THIS_BINARY).args(init.args()?).args(argv).start(ours()).map_err(cannot("start xtask itself"))?;
    Ok(code(child.wait().map_err(cannot("wait for a program"))?))
}

/// Process 1: makes mounts private, starts the program and waits. All other processes end with it.
pub(super) fn init(expected: u32, argv: &[OsString]) -> Result<ExitCode, Fault> {
    die_with_parent()?;
    let mut status = File::open("/proc/self/status").map_err(cannot("read `/proc`"))?;
    if parent(&mut status) != Some(expected) {
        return Ok(ExitCode::from(NOT_STARTED));
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(cannot("make mounts private"))?;
    // A signal to the program's process group reaches no process outside.
    rustix::process::setsid().map_err(cannot("begin a session"))?;
    let call = command(argv)?;
    match call.start(ours()) {
        Ok(mut child) => Ok(code(child.wait().map_err(cannot("wait for a program"))?)),
        Err(error) => Ok(not_run(&call.name(), &error)),
    }
}

/// Maps ids into the parent's user namespace with the setuid programs `newuidmap` and `newgidmap`.
pub(super) fn map(ranges: &Ranges) -> Result<ExitCode, Fault> {
    // Read first: the parent may end once its user namespace exists.
    let target = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get()).to_string();
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing).map_err(cannot("wait for a user namespace"))?;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    for (program, own, Range { first, count }) in [("newuidmap", uid, ranges.users), ("newgidmap", gid, ranges.groups)]
    {
        let numbers = [0, own, 1, 1, first, count].map(|number| number.to_string());
        Command::new(program).arg(&target).args(numbers).read(Exit::Missing)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn become_root() -> rustix::io::Result<()> {
    thread::set_thread_groups(&[])?;
    thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
}

/// Requests the parent-death signal, and checks the parent.
fn follows(expected: u32) -> Result<bool, Fault> {
    die_with_parent()?;
    Ok(rustix::process::getppid() == pid(expected))
}

fn command(argv: &[OsString]) -> Result<Command, Fault> {
    let (program, args) = argv.split_first().ok_or_else(|| Fault::usage("this call is internal to xtask"))?;
    Ok(Command::new(program).args(args))
}
