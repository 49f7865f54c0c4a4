//! Containers without an engine: an unpacked image in namespaces, as an ordinary user where the host allows it.
//!
//! A container is as confined as Docker's with the same wishes, but for this. There is no seccomp filter, no AppArmor profile
//! and no limit of a control group. `/sys` is empty. An ordinary user has one identity to give away: the image's user is
//! another name for it, owns every file of the image, and no second user can be one inside. Root gives every user its own.
//! Nothing is listened to on the host, nothing kept on disk, and nothing outlives the thread that started it.

use super::inside::{self, Join, News, OURSELVES, Rights, Start, Task};
use super::stream::{Stream, Streams};
use crate::container::program::{Accounts, Program};
use crate::container::{Launch, Manner};
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

/// How long a program that was asked to end may take, as `docker stop` waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// Namespaces as this machine gives them to us.
#[derive(Clone, Debug)]
pub struct Bare {
    program: PathBuf,
    rights: Rights,
}

impl Bare {
    /// Namespaces, if this machine has them for us: tried, not guessed.
    pub fn find() -> Result<Self, Fault> {
        Self::through(OURSELVES)
    }

    /// The same with another xtask to do the work inside.
    pub fn through(program: impl Into<PathBuf>) -> Result<Self, Fault> {
        let rights = if inside::has_roots() { Rights::Root } else { Rights::Ordinary };
        let bare = Self { program: program.into(), rights };
        let empty = Scratch::new().map_err(cannot("make a temporary folder"))?;
        bare.begin(empty.path(), Manner::Confined, None, &Streams::kept()?)?.wait()?;
        Ok(bare)
    }

    /// Whether images' users are users of this machine, and not other names for whoever runs us.
    pub fn has_every_user(&self) -> bool {
        self.rights == Rights::Root
    }

    /// Runs a program of the image in `folder` to its end.
    pub fn run(&self, folder: &Path, image: &Execution, launch: &Launch) -> Result<Output, Fault> {
        let streams = Streams::kept()?;
        let program = Image { folder, execution: image }.program(launch)?;
        let status = self.begin(folder, launch.manner, Some(program), &streams)?.wait()?;
        streams.output(status)
    }

    /// Starts a program of the image in `folder` in the background, both its streams going to its log.
    pub fn start(&self, folder: &Path, image: &Execution, launch: &Launch) -> Result<Contained, Fault> {
        let log = Stream::new()?;
        let program = Image { folder, execution: image }.program(launch)?;
        let processes = self.begin(folder, launch.manner, Some(program), &Streams::joined(&log)?)?;
        let (folder, image) = (folder.to_owned(), image.clone());
        Ok(Contained { processes, bare: self.clone(), folder, image, manner: launch.manner, log })
    }

    /// Starts a program of the image in `folder` in the background, with our own streams.
    pub fn serve(&self, folder: &Path, image: &Execution, launch: &Launch) -> Result<Contained, Fault> {
        let program = Image { folder, execution: image }.program(launch)?;
        let processes = self.begin(folder, launch.manner, Some(program), &Streams::ours())?;
        let (folder, image, log) = (folder.to_owned(), image.clone(), Stream::new()?);
        Ok(Contained { processes, bare: self.clone(), folder, image, manner: launch.manner, log })
    }

    /// Runs a program with our own streams. Ctrl-C is passed on; the exit is the program's.
    pub fn attach(&self, folder: &Path, image: &Execution, launch: &Launch) -> Result<ExitStatus, Fault> {
        let program = Image { folder, execution: image }.program(launch)?;
        let mut processes = self.begin(folder, launch.manner, Some(program), &Streams::ours())?;
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
                Some(since) if since.elapsed() > PATIENCE => processes.kill(),
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts a container and waits until its program runs.
    fn begin(
        &self,
        folder: &Path,
        manner: Manner,
        program: Option<Program>,
        streams: &Streams,
    ) -> Result<Processes, Fault> {
        process::interrupted()?;
        let folder = fs::canonicalize(folder).map_err(cannot("run a container"))?;
        let (report, parent) = (Stream::new()?, std::process::id());
        let task = Task::First(Start { folder, report: report.path(), parent, rights: self.rights, manner, program });
        let call = Command::new(&self.program).args(task.args()?);
        let first = call.start(streams.stdio()?).map_err(cannot("start xtask itself"))?;
        let mut processes = Processes { first, init: None, init_id: None };
        // Where it fails, what has begun ends with the value.
        self.await_ready(&mut processes, &report, streams)?;
        Ok(processes)
    }

    fn await_ready(&self, processes: &mut Processes, report: &Stream, streams: &Streams) -> Result<(), Fault> {
        loop {
            // Asked before the news are read: what it said last is written when it has ended.
            let ended = processes.ended()?;
            let text = report.read()?;
            let mut ready = false;
            for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
                match serde_json::from_slice(line) {
                    Ok(News::Init(id)) => processes.know(id),
                    Ok(News::Ready) => ready = true,
                    Ok(News::Failed { what, cause }) => return Err(self.impossible(&what, &cause)),
                    Err(error) => return Err(cannot("learn how a container began")(error)),
                }
            }
            // Two processes tell the news: the one that knows who is ready may come second.
            if ready && processes.init_id.is_some() {
                return Ok(());
            }
            if let Some(status) = ended {
                let said = streams.output(status).map(|output| output.stderr).unwrap_or_default();
                let said = String::from_utf8_lossy(&said).trim().to_owned();
                return Err(self.impossible(&format!("it ended before it began ({status})"), &said));
            }
            process::interrupted()?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn impossible(&self, what: &str, cause: &str) -> Fault {
        let fault = Fault::missing("cannot run an image in namespaces").cause(what);
        let fault = if cause.is_empty() { fault } else { fault.cause(cause) };
        if self.rights == Rights::Root {
            return fault.hint("within a container, that one has to be privileged");
        }
        // Each distribution has a lock of its own.
        let locks = [
            ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
            ("kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
            ("user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
        ];
        let is = |(file, value, _): &&(&str, &str, &str)| {
            fs::read_to_string(Path::new("/proc/sys").join(file)).is_ok_and(|text| text.trim() == *value)
        };
        match locks.iter().find(is) {
            Some((_, _, setting)) => fault.hint(format!("let ordinary users make them: `sudo sysctl -w {setting}`")),
            None => fault.hint("run it as root"),
        }
    }
}

/// What is run, before it is.
struct Image<'a> {
    folder: &'a Path,
    execution: &'a Execution,
}

impl Image<'_> {
    fn program(&self, launch: &Launch) -> Result<Program, Fault> {
        self.with_accounts(|accounts| Program::of(self.execution, launch.entrypoint.as_deref(), &launch.args, accounts))
    }

    fn another(&self, argv: &[String]) -> Result<Program, Fault> {
        self.with_accounts(|accounts| Program::new(argv.to_vec(), self.execution, accounts))
    }

    fn with_accounts<T>(&self, read: impl FnOnce(Accounts<'_>) -> T) -> T {
        let [passwd, group] = ["passwd", "group"].map(|name| account_file(self.folder, name));
        read(Accounts { passwd: &passwd, group: &group })
    }
}

/// An account file of an image; empty where there is none, and where it is a link, which could lead out of the image.
fn account_file(folder: &Path, name: &str) -> String {
    let etc = folder.join("etc");
    let path = etc.join(name);
    let is = |path: &Path, test: fn(&fs::FileType) -> bool| {
        fs::symlink_metadata(path).is_ok_and(|meta| test(&meta.file_type()))
    };
    if !is(&etc, fs::FileType::is_dir) || !is(&path, fs::FileType::is_file) {
        return String::new();
    }
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// A running container. It ends with the value, and with the thread that started it.
#[derive(Debug)]
pub struct Contained {
    processes: Processes,
    bare: Bare,
    folder: PathBuf,
    image: Execution,
    manner: Manner,
    log: Stream,
}

impl Contained {
    /// Whether its program still runs.
    pub fn runs(&mut self) -> Result<bool, Fault> {
        Ok(self.processes.ended()?.is_none())
    }

    /// Runs another program in it to its end, as the image's user.
    pub fn exec(&mut self, argv: &[String]) -> Result<Output, Fault> {
        process::interrupted()?;
        let program = Image { folder: &self.folder, execution: &self.image }.another(argv)?;
        let (Some(init), first) = (self.processes.init_id, self.processes.first.id()) else {
            return Err(Fault::build("cannot run a program in a container that has ended"));
        };
        let (rights, manner, parent) = (self.bare.rights, self.manner, std::process::id());
        let task = Task::Join(Join { init, first, parent, rights, manner, program });
        let streams = Streams::kept()?;
        let call = Command::new(&self.bare.program).args(task.args()?);
        let child = call.start(streams.stdio()?).map_err(cannot("start xtask itself"))?;
        // It has no process 1 of its own: where it is killed, what it runs ends with the container.
        let status = Processes { first: child, init: None, init_id: None }.wait()?;
        streams.output(status)
    }

    /// What it has said until now.
    pub fn log(&self) -> Result<String, Fault> {
        Ok(String::from_utf8_lossy(&self.log.read()?).into_owned())
    }

    /// Asks its program to end, and ends it when this time has passed, or at once where it does not listen.
    pub fn end_within(mut self, patience: Duration) {
        let began = Instant::now();
        if !self.processes.ask_to_end() {
            return;
        }
        while matches!(self.processes.ended(), Ok(None)) && began.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it, and says how it ended. What it runs gets no time to end by itself: nothing of it is kept.
    pub fn end(mut self) -> Result<ExitStatus, Fault> {
        self.processes.kill();
        self.processes.first.wait().map_err(cannot("wait for a container"))
    }
}

/// The processes of a container on this side.
#[derive(Debug)]
struct Processes {
    /// Ours: it waits for the container's process 1.
    first: Child,
    /// The container's process 1, with which all others end; `None` where it had ended before it could be known.
    init: Option<OwnedFd>,
    init_id: Option<u32>,
}

impl Processes {
    /// Learns who is process 1. Its id may be another's by now: only a child of ours is the one.
    fn know(&mut self, id: u32) {
        if self.init_id.replace(id).is_some() {
            return;
        }
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
        let opened = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let parent = File::open(format!("/proc/{id}/status")).ok().and_then(|mut status| inside::parent(&mut status));
        self.init = opened.filter(|_| parent == Some(self.first.id()));
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, Fault> {
        self.first.try_wait().map_err(cannot("wait for a container"))
    }

    /// Waits for the end; Ctrl-C is an error, with which the value goes.
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

    /// Passes Ctrl-C on; whether the program listens to it. The kernel keeps from a process 1 what it does not listen to.
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
        // What has ended already cannot be ended. The first ends after process 1, and that one after all others.
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
