//! Containers without an engine: an unpacked image in namespaces, as an ordinary user where the host allows it.
//!
//! A container is confined like Docker's with the same options, with these differences. There is no seccomp filter, no
//! AppArmor profile and no control group limit. `/sys` is empty. An ordinary user maps only its own id: the image's
//! user is mapped to it and owns every file of the image, and there is no second user. Root keeps all users. No port is
//! opened on the host, nothing is kept on disk, and a container ends with the thread that started it.

use super::output::{OutputFile, StdStreams};
use super::reexec::{self, Join, Privileges, Progress, Start, Task};
use super::subprocess;
use crate::container::program::{Accounts, Program};
use crate::container::{Files, Launch, Manner};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output};
use std::time::{Duration, Instant};
use xtask_host::process::{self, Command};
use xtask_host::scratch::Scratch;
use xtask_model::fault::Fault;
use xtask_model::spec::oci::Execution;

/// Time that a program gets to end after Ctrl-C, as with `docker stop`.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Bare {
    program: PathBuf,
    rights: Privileges,
}

impl Bare {
    pub fn find() -> Result<Self, Fault> {
        Self::through(super::binary::program())
    }

    /// With another xtask binary for the work inside the namespaces.
    pub fn through(program: impl Into<PathBuf>) -> Result<Self, Fault> {
        let rights = if reexec::may_mount() { Privileges::Root } else { Privileges::Ordinary };
        let bare = Self { program: program.into(), rights };
        let empty = Scratch::new().map_err(cannot("create a temporary folder"))?;
        bare.begin(&empty.path().into(), Manner::Confined, None, &StdStreams::captured()?)?.wait()?;
        Ok(bare)
    }

    /// Returns true if the image's users are users of this machine. If not, they are mapped to the current user.
    pub fn has_every_user(&self) -> bool {
        self.rights == Privileges::Root
    }

    /// Runs a program of the image with these files to its end.
    pub fn run(&self, files: &Files, image: &Execution, launch: &Launch) -> Result<Output, Fault> {
        let streams = StdStreams::captured()?;
        let program = program(files, image, launch)?;
        let status = self.begin(files, launch.manner, Some(program), &streams)?.wait()?;
        streams.output(status)
    }

    /// Starts a program of the image in the background; both output streams go to its log.
    pub fn start(&self, files: &Files, image: &Execution, launch: &Launch) -> Result<Contained, Fault> {
        let log = OutputFile::new()?;
        let streams = StdStreams::joined(&log)?;
        self.start_with(files, image, launch, (log, &streams))
    }

    /// Starts a program of the image in the background, with this process's streams.
    pub fn serve(&self, files: &Files, image: &Execution, launch: &Launch) -> Result<Contained, Fault> {
        self.start_with(files, image, launch, (OutputFile::new()?, &StdStreams::inherited()))
    }

    fn start_with(
        &self,
        files: &Files,
        image: &Execution,
        launch: &Launch,
        (log, streams): (OutputFile, &StdStreams),
    ) -> Result<Contained, Fault> {
        let program = program(files, image, launch)?;
        let processes = self.begin(files, launch.manner, Some(program), streams)?;
        let (files, image) = (files.clone(), image.clone());
        Ok(Contained { processes, bare: self.clone(), files, image, manner: launch.manner, log })
    }

    /// Runs a program on this terminal and returns its exit status. Ctrl-C is passed on.
    pub fn attach(&self, files: &Files, image: &Execution, launch: &Launch) -> Result<ExitStatus, Fault> {
        let program = program(files, image, launch)?;
        let mut processes = self.begin(files, launch.manner, Some(program), &StdStreams::inherited())?;
        let mut asked = None;
        loop {
            if let Some(status) = processes.ended()? {
                return Ok(status);
            }
            match asked {
                None if process::interrupted().is_err() => {
                    if !processes.ask_to_end() {
                        processes.kill();
                    }
                    asked = Some(Instant::now());
                }
                Some(since) if since.elapsed() > STOP_TIMEOUT => processes.kill(),
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn begin(
        &self,
        files: &Files,
        manner: Manner,
        program: Option<Program>,
        streams: &StdStreams,
    ) -> Result<Processes, Fault> {
        process::interrupted()?;
        let folders = files.folders().iter().map(fs::canonicalize).collect::<Result<Vec<_>, _>>();
        let folders = folders.map_err(cannot("run a container"))?;
        let (report, parent) = (OutputFile::new()?, std::process::id());
        let task = Task::First(Start { folders, report: report.path(), parent, rights: self.rights, manner, program });
        let call = Command::new(&self.program).args(task.args()?);
        let first = call.start(streams.stdio()?).map_err(cannot("start xtask itself"))?;
        let mut processes = Processes { first, init: None, init_id: None };
        // On an error, the drop ends what was started.
        self.await_ready(&mut processes, &report, streams)?;
        Ok(processes)
    }

    fn await_ready(&self, processes: &mut Processes, report: &OutputFile, streams: &StdStreams) -> Result<(), Fault> {
        loop {
            // Checked before the report is read: an ended process has written its last line.
            let ended = processes.ended()?;
            let text = report.read()?;
            let mut ready = false;
            for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
                match serde_json::from_slice(line) {
                    Ok(Progress::Init(id)) => processes.know(id),
                    Ok(Progress::Ready) => ready = true,
                    Ok(Progress::Failed { what, cause }) => return Err(self.impossible(&what, &cause)),
                    Err(error) => return Err(cannot("read the progress of a container")(error)),
                }
            }
            // Two processes write the report: the process id may come after `Ready`.
            if ready && processes.init_id.is_some() {
                return Ok(());
            }
            if let Some(status) = ended {
                let said = streams.output(status).map(|output| output.stderr).unwrap_or_default();
                let said = String::from_utf8_lossy(&said).trim().to_owned();
                return Err(self.impossible(&format!("it ended before its program started ({status})"), &said));
            }
            process::interrupted()?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn impossible(&self, what: &str, cause: &str) -> Fault {
        let fault = Fault::missing("cannot run an image in namespaces").cause(what);
        let fault = if cause.is_empty() { fault } else { fault.cause(cause) };
        if self.rights == Privileges::Root {
            return fault.hint("in a container, use a privileged one");
        }
        match subprocess::denying_setting() {
            Some(setting) => fault.hint(format!("allow unprivileged user namespaces: `sudo sysctl -w {setting}`")),
            None => fault.hint("run it as root"),
        }
    }
}

fn program(files: &Files, image: &Execution, launch: &Launch) -> Result<Program, Fault> {
    let [passwd, group] = account_files(files);
    let accounts = Accounts { passwd: &passwd, group: &group };
    Program::of(image, launch.entrypoint.as_deref(), &launch.args, accounts)
}

fn account_files(files: &Files) -> [String; 2] {
    ["passwd", "group"].map(|name| account_file(files, name))
}

/// An account file of an image; empty if it is missing, or if it is a link, which could lead out of the image.
fn account_file(files: &Files, name: &str) -> String {
    let kind = |path: &Path| fs::symlink_metadata(path).ok().map(|metadata| metadata.file_type());
    for folder in files.folders() {
        let etc = folder.join("etc");
        let path = etc.join(name);
        match kind(&etc) {
            None => continue,
            Some(kind) if !kind.is_dir() => return String::new(),
            Some(_) => {}
        }
        match kind(&path) {
            None => {}
            Some(kind) if kind.is_file() => {
                return fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            }
            Some(_) => return String::new(),
        }
    }
    String::new()
}

/// A running container. It ends when it is dropped, and with the thread that started it.
#[derive(Debug)]
pub struct Contained {
    processes: Processes,
    bare: Bare,
    files: Files,
    image: Execution,
    manner: Manner,
    log: OutputFile,
}

impl Contained {
    pub fn runs(&mut self) -> Result<bool, Fault> {
        Ok(self.processes.ended()?.is_none())
    }

    /// Runs another program in it to its end, as the image's user.
    pub fn exec(&mut self, argv: &[String]) -> Result<Output, Fault> {
        self.exec_in(argv, self.manner)
    }

    /// The same without the container's network.
    pub(crate) fn exec_offline(&mut self, argv: &[String]) -> Result<Output, Fault> {
        self.exec_in(argv, Manner::Offline)
    }

    fn exec_in(&mut self, argv: &[String], manner: Manner) -> Result<Output, Fault> {
        process::interrupted()?;
        let [passwd, group] = account_files(&self.files);
        let accounts = Accounts { passwd: &passwd, group: &group };
        let program = Program::new(argv.to_vec(), &self.image, accounts)?;
        let (Some(init), first) = (self.processes.init_id, self.processes.first.id()) else {
            return Err(Fault::build("cannot run a program in a container that has ended"));
        };
        let (rights, parent) = (self.bare.rights, std::process::id());
        // The container has a network of its own, or the program gets one.
        let apart = manner != self.manner;
        let task = Task::Join(Join { init, first, parent, rights, manner, apart, program });
        let streams = StdStreams::captured()?;
        let call = Command::new(&self.bare.program).args(task.args()?);
        let child = call.start(streams.stdio()?).map_err(cannot("start xtask itself"))?;
        // It has no process 1 of its own: if it is killed, what it runs ends with the container.
        let status = Processes { first: child, init: None, init_id: None }.wait()?;
        streams.output(status)
    }

    /// Asks its program to end, and kills it after this time, or at once if it does not handle the signal.
    pub fn end_within(mut self, grace: Duration) {
        let began = Instant::now();
        if !self.processes.ask_to_end() {
            return;
        }
        while matches!(self.processes.ended(), Ok(None)) && began.elapsed() < grace {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn log(&self) -> Result<String, Fault> {
        Ok(String::from_utf8_lossy(&self.log.read()?).into_owned())
    }

    /// Kills it and returns its exit status.
    pub fn end(mut self) -> Result<ExitStatus, Fault> {
        self.processes.kill();
        self.processes.first.wait().map_err(cannot("wait for a container"))
    }
}

#[derive(Debug)]
struct Processes {
    /// Child of this process; it waits for the container's process 1.
    first: Child,
    /// Process 1 of the container, whose end ends all others; `None` if it ended too early to be opened.
    init: Option<OwnedFd>,
    init_id: Option<u32>,
}

impl Processes {
    /// Opens process 1. The id may have been reused, so it must be a grandchild of this process.
    fn know(&mut self, id: u32) {
        if self.init_id.replace(id).is_some() {
            return;
        }
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
        let opened = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let parent = File::open(format!("/proc/{id}/status")).ok().and_then(|mut status| reexec::parent(&mut status));
        self.init = opened.filter(|_| parent == Some(self.first.id()));
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, Fault> {
        self.first.try_wait().map_err(cannot("wait for a container"))
    }

    /// Waits for the end. Ctrl-C is an error, and the drop then ends the container.
    fn wait(mut self) -> Result<ExitStatus, Fault> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            process::interrupted()?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Sends Ctrl-C if the program handles it. The kernel ignores signals to process 1 that have no handler.
    fn ask_to_end(&self) -> bool {
        let Some(init) = &self.init else { return false };
        let text = fs::read_to_string(format!("/proc/{}/status", self.init_id.unwrap_or_default())).unwrap_or_default();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
        let interrupt = Signal::INT;
        let listens = caught & (1 << (interrupt.as_raw() - 1)) != 0;
        listens && pidfd_send_signal(init, interrupt).is_ok()
    }

    fn kill(&mut self) {
        // A process that has ended needs no signal. The first process ends after process 1, and process 1 after all
        // others.
        match &self.init {
            Some(init) => drop(pidfd_send_signal(init, Signal::KILL)),
            None => drop(self.first.kill()),
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.first.try_wait() {
            return;
        }
        self.kill();
        let _ = self.first.wait();
    }
}

fn cannot<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Fault {
    move |error| Fault::missing(format!("cannot {what}")).cause(error)
}
