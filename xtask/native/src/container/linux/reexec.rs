//! The internal call of xtask: the same binary, started again, creates namespaces and becomes the program of an image.
//!
//! It has three parts, each a process. *first* leaves the host's namespaces and waits; *second*, process 1 of the new
//! namespaces, builds the root file system, drops privileges and becomes the image's program; *join* enters existing
//! namespaces. The caller reads the progress from a file. Each process dies with its parent, so nothing outlives xtask.
//! This code must not start threads: they cannot change their namespaces.

mod isolated;
mod loopback;
mod privileges;
mod rootfs;
mod supervised;

pub(super) use privileges::may_mount;

use super::binary::{self, THIS_BINARY};
use super::ids::Ranges;
use crate::container::Manner;
use crate::container::program::Program;
use rustix::fs::Mode;
use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use xtask_host::process::Command;
use xtask_model::fault::Fault;

const WORD: &str = "container-inside";
/// Exit code if no program was started, as in docker.
const NOT_STARTED: u8 = 125;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Privileges {
    /// Root: the program's user is a user of this machine.
    Root,
    /// An ordinary user: the program's user is mapped to the current user.
    Ordinary,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Start {
    /// Folders of the unpacked image, the uppermost first; at least one.
    pub folders: Vec<PathBuf>,
    pub report: PathBuf,
    /// The processes end with this one.
    pub parent: u32,
    pub rights: Privileges,
    pub manner: Manner,
    /// `None` prepares everything and runs nothing.
    pub program: Option<Program>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Join {
    /// Process 1 of the namespaces.
    pub init: u32,
    /// Its parent, which identifies it.
    pub first: u32,
    /// This process ends with that one.
    pub parent: u32,
    pub rights: Privileges,
    pub manner: Manner,
    /// True if the program gets an empty network of its own instead of the container's.
    pub apart: bool,
    pub program: Program,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Isolated {
    pub parent: u32,
    pub ranges: Option<Ranges>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Task {
    First(Start),
    Second(Start),
    Join(Join),
    /// A host program, given by the remaining arguments, as for the next three.
    Bound {
        parent: u32,
    },
    Supervised {
        parent: u32,
    },
    Isolated(Isolated),
    Init {
        parent: u32,
    },
    Map(Ranges),
}

/// Progress of a start, one line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Progress {
    /// Process id of the second process on the host.
    Init(u32),
    /// Everything is prepared; the program is next.
    Ready,
    Failed {
        what: String,
        cause: String,
    },
}

impl Task {
    pub(super) fn args(&self) -> Result<[String; 2], Fault> {
        let text = serde_json::to_string(self);
        let text = text.map_err(|error| Fault::usage("cannot run a container in this folder").cause(error))?;
        Ok([WORD.to_owned(), text])
    }
}

/// Runs the task if this process is an internal call, else returns `None`. Must run before any thread is started.
pub fn dispatch() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|word| word != WORD) {
        binary::use_this_binary();
        return None;
    }
    // Other inherited files belong to the host: an open folder would lead a program out of its image.
    close_fds::set_fds_cloexec(3, &[]);
    let text = args.next().unwrap_or_default();
    let argv: Vec<OsString> = args.collect();
    let task = serde_json::from_str(&text.to_string_lossy());
    if !matches!(task, Ok(Task::Bound { .. } | Task::Supervised { .. } | Task::Map(_))) {
        // Files for an image must be readable for all its users, whatever the caller's umask.
        rustix::process::umask(Mode::from_raw_mode(0o022));
    }
    let done = match task {
        Ok(Task::First(start)) => reported(&start, first),
        Ok(Task::Second(start)) => reported(&start, second),
        Ok(Task::Join(task)) => join(&task),
        Ok(Task::Bound { parent }) => isolated::bound(parent, &argv),
        Ok(Task::Supervised { parent }) => supervised::run(parent, &argv),
        Ok(Task::Isolated(task)) => isolated::first(&task, &argv),
        Ok(Task::Init { parent }) => isolated::init(parent, &argv),
        Ok(Task::Map(ranges)) => isolated::map(&ranges),
        Err(error) => Err(Fault::usage("this call is internal to xtask").cause(error)),
    };
    Some(done.unwrap_or_else(|fault| {
        // If a caller reads the report, it has the error already.
        eprintln!("{fault}");
        ExitCode::from(NOT_STARTED)
    }))
}

struct Reporter(File);

impl Reporter {
    fn report(&mut self, progress: &Progress) {
        let mut line = serde_json::to_vec(progress).expect("progress reports are valid JSON");
        line.push(b'\n');
        // If the reader has ended, this process ends too.
        let _ = self.0.write_all(&line);
    }
}

fn reported(start: &Start, part: fn(&Start, &mut Reporter) -> Result<ExitCode, Fault>) -> Result<ExitCode, Fault> {
    let opened = File::options().append(true).open(&start.report);
    let mut reporter = Reporter(opened.map_err(cannot("open the progress report of a container"))?);
    part(start, &mut reporter).or_else(|fault| {
        reporter.report(&Progress::Failed { what: fault.what, cause: fault.causes.join(": ") });
        Ok(ExitCode::from(NOT_STARTED))
    })
}

/// Leaves the host's namespaces, starts process 1 of the new ones and waits for its end.
fn first(start: &Start, reporter: &mut Reporter) -> Result<ExitCode, Fault> {
    die_with_parent()?;
    if rustix::process::getppid() != pid(start.parent) {
        return Ok(ExitCode::from(NOT_STARTED));
    }
    // No controlling terminal: Ctrl-C goes to the caller, and the program cannot inject input.
    rustix::process::setsid().map_err(cannot("begin a session"))?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    leave(start)?;
    if start.rights == Privileges::Ordinary {
        let user = start.program.as_ref().map(|program| &program.user);
        let (inner_uid, inner_gid) = user.map_or((0, 0), |user| (user.uid, user.gid));
        let map = |file: &str, text: &str| {
            std::fs::write(format!("/proc/self/{file}"), text).map_err(cannot("map the ids of a user namespace"))
        };
        map("setgroups", "deny")?;
        map("uid_map", &format!("{inner_uid} {uid} 1"))?;
        map("gid_map", &format!("{inner_gid} {gid} 1"))?;
        privileges::keep_through_exec().map_err(cannot("keep the capabilities of a user namespace"))?;
    }
    // A change of privileges clears the signal.
    die_with_parent()?;
    let own = std::process::id();
    let report = PathBuf::from(format!("/proc/{own}/fd/{}", reporter.0.as_raw_fd()));
    let second = Task::Second(Start { parent: own, report, ..start.clone() });
    let call = Command::new(THIS_BINARY).args(second.args()?);
    let mut child = call.start(ours()).map_err(cannot("start xtask itself"))?;
    reporter.report(&Progress::Init(child.id()));
    Ok(code(child.wait().map_err(cannot("wait for a container"))?))
}

fn leave(start: &Start) -> Result<(), Fault> {
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC;
    if start.manner != Manner::Open {
        flags |= UnshareFlags::NEWNET | UnshareFlags::NEWUTS;
    }
    if start.rights == Privileges::Ordinary {
        flags |= UnshareFlags::NEWUSER;
    }
    #[expect(deprecated, reason = "the other function is unsafe because of `CLONE_FILES`, which is not used")]
    rustix::thread::unshare(flags).map_err(cannot("make namespaces"))
}

/// Makes the image's folder the root file system and becomes the image's program.
fn second(start: &Start, reporter: &mut Reporter) -> Result<ExitCode, Fault> {
    die_with_parent()?;
    let mut status = File::open("/proc/self/status").map_err(cannot("read `/proc`"))?;
    if parent(&mut status) != Some(start.parent) {
        return Ok(ExitCode::from(NOT_STARTED));
    }
    rootfs::enter(start)?;
    if start.manner != Manner::Open {
        loopback::up().map_err(cannot("bring up the loopback interface"))?;
        rustix::system::sethostname(b"container").map_err(cannot("name the container"))?;
    }
    let Some(program) = &start.program else {
        reporter.report(&Progress::Ready);
        return Ok(ExitCode::SUCCESS);
    };
    privileges::drop(&program.user, start.rights, start.manner).map_err(cannot("drop privileges"))?;
    // Cleared again. If the parent has ended meanwhile, the check below ends this process.
    die_with_parent()?;
    if parent(&mut status) != Some(start.parent) {
        return Ok(ExitCode::from(NOT_STARTED));
    }
    reporter.report(&Progress::Ready);
    let call = command(program);
    Ok(std::env::set_current_dir(&program.folder)
        .map_or_else(|error| not_run(&program.folder, &error), |()| not_run(&program.argv[0], &call.replace())))
}

/// Enters the namespaces of a container and runs a program there.
fn join(task: &Join) -> Result<ExitCode, Fault> {
    die_with_parent()?;
    let proc = PathBuf::from(format!("/proc/{}", task.init));
    let open = |name: &str| File::open(proc.join("ns").join(name));
    let mut kinds = vec![
        ("ipc", LinkNameSpaceType::InterProcessCommunication),
        ("pid", LinkNameSpaceType::ProcessID),
        // Last: it changes `/proc`.
        ("mnt", LinkNameSpaceType::Mount),
    ];
    if task.manner != Manner::Open && !task.apart {
        kinds.insert(0, ("net", LinkNameSpaceType::Network));
        kinds.insert(0, ("uts", LinkNameSpaceType::HostNameAndNISDomainName));
    }
    if task.rights == Privileges::Ordinary {
        // First: it gives the rights to enter the others.
        kinds.insert(0, ("user", LinkNameSpaceType::User));
    }
    let opened: Result<Vec<_>, _> = kinds.into_iter().map(|(name, kind)| Ok((open(name)?, kind))).collect();
    let opened = opened.map_err(|error: std::io::Error| ended(&error))?;
    // The opened files belong to the process that had this id; check that it is still the container's.
    let parent_is = File::open(proc.join("status")).ok().and_then(|mut status| parent(&mut status));
    if parent_is != Some(task.first) || rustix::process::getppid() != pid(task.parent) {
        return Err(ended(&"its program has ended"));
    }
    for (file, kind) in opened {
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind)).map_err(cannot("enter a container"))?;
    }
    if task.apart {
        #[expect(deprecated, reason = "the other function is unsafe because of `CLONE_FILES`, which is not used")]
        rustix::thread::unshare(UnshareFlags::NEWNET).map_err(cannot("make namespaces"))?;
        loopback::up().map_err(cannot("bring up the loopback interface"))?;
    }
    privileges::drop(&task.program.user, task.rights, task.manner).map_err(cannot("drop privileges"))?;
    if let Err(error) = std::env::set_current_dir(&task.program.folder) {
        return Ok(not_run(&task.program.folder, &error));
    }
    // Only a child is in the new process namespace.
    let child = command(&task.program).start(ours());
    Ok(match child.and_then(|mut child| child.wait()) {
        Ok(status) => code(status),
        Err(error) => not_run(&task.program.argv[0], &error),
    })
}

fn ours() -> [Stdio; 3] {
    [Stdio::inherit(), Stdio::inherit(), Stdio::inherit()]
}

fn command(program: &Program) -> Command {
    let call = Command::new(&program.argv[0]).args(&program.argv[1..]).clear_env();
    program.env.iter().fold(call, |call, (name, value)| call.env(name, value))
}

/// Reports why no program runs, with the shell's exit code for it.
fn not_run(what: &str, error: &std::io::Error) -> ExitCode {
    eprintln!("cannot run `{what}`: {error}");
    ExitCode::from(if error.kind() == ErrorKind::NotFound { 127 } else { 126 })
}

fn code(status: ExitStatus) -> ExitCode {
    let signal = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(signal).and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(NOT_STARTED))
}

fn die_with_parent() -> Result<(), Fault> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(cannot("request the parent-death signal"))
}

fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

/// Current parent of a process, from proc(5).
pub(super) fn parent(status: &mut File) -> Option<u32> {
    let mut text = String::new();
    status.rewind().ok()?;
    status.read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn ended(cause: &dyn std::fmt::Display) -> Fault {
    Fault::build("cannot run a program in a container that has ended").cause(cause)
}

fn cannot<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> Fault + use<E> {
    let what = format!("cannot {what}");
    move |error| Fault::missing(what.clone()).cause(error)
}

fn cannot_at<E: std::fmt::Display, P: AsRef<Path>>(what: &str, path: P) -> impl Fn(E) -> Fault + use<E, P> {
    cannot(&format!("{what} `{}`", path.as_ref().display()))
}
