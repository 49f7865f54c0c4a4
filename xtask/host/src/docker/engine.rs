//! A private Docker engine and registry for machines that have none, in one folder below `target`.
//!
//! Never changes the host outside that folder but for empty folders in `/run` that dockerd and its shims insist on, which go
//! again with the engine; sets no firewall rule and no bridge; ends no process that does not run from the folder.

mod settings;
mod start;

use crate::docker::debian::DebPackage;
use crate::linux::{self, Process};
use crate::process::Command;
use crate::terminal;
use serde::{Deserialize, Serialize};
use settings::EnginePaths;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xtask_model::fault::Fault;
use xtask_model::quantity;
use xtask_model::spec::reference::Digest;

/// The daemons, in the order in which they are stopped, with what they leave running.
const ENGINE: [&str; 5] = ["dockerd", "docker-proxy", "runc", "containerd-shim-runc-v2", "containerd"];
const REGISTRY: [&str; 1] = ["docker-registry"];

/// Folders that dockerd and the shims create whatever state folder is configured.
const IN_RUN: [&str; 4] = ["/run/docker/plugins", "/run/docker", "/run/containerd/s", "/run/containerd"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineOptions {
    /// `None` is `target/engine`, a name is `target/engine-NAME`.
    pub name: Option<String>,
    /// The registry's port on 127.0.0.1; `None` keeps the one it had, else takes 5000 or a free one.
    pub registry_port: Option<u16>,
    /// The registry without Docker, for the native engine; needs no root rights.
    pub registry_only: bool,
}

/// The name under which a registry without Docker runs.
pub const REGISTRY_ALONE: &str = "registry";

/// An engine's record, `state.json` in its folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub folder: PathBuf,
    /// Folder of its sockets: inside `folder`, or a short path where those paths would be too long.
    pub run: PathBuf,
    /// The docker client that belongs to it.
    pub docker: PathBuf,
    /// The registry's host and port, the same from one `up` to the next.
    pub registry: String,
    pub processes: BTreeMap<String, Process>,
    pub packages: BTreeMap<String, String>,
    /// Folders outside the engine's own that were not there before it.
    created: Vec<PathBuf>,
    #[serde(default)]
    pub registry_only: bool,
}

impl State {
    /// The environment under which any docker client or plugin talks to this engine.
    pub fn docker_env(&self) -> BTreeMap<&'static str, OsString> {
        let mut path = OsString::from(self.paths().folder.join("bin"));
        if let Some(host) = std::env::var_os("PATH") {
            path.push(":");
            path.push(host);
        }
        BTreeMap::from([
            ("DOCKER_HOST", format!("unix://{}", self.paths().docker_socket().display()).into()),
            ("DOCKER_CONFIG", self.paths().docker_config().into()),
            ("PATH", path),
        ])
    }

    /// Variables of the host that would lead a client elsewhere.
    pub const FOREIGN_ENV: [&str; 6] =
        ["DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "BUILDX_BUILDER", "BUILDX_CONFIG"];

    /// A call of the engine's own docker client.
    pub fn command(&self) -> Command {
        let call = Self::FOREIGN_ENV.iter().fold(Command::new(&self.docker), |call, name| call.env_remove(name));
        self.docker_env().iter().fold(call, |call, (name, value)| call.env(name, value))
    }

    /// True if builds and runs that need a network must ask for `--network=host`: there is no bridge.
    pub fn network_host(&self) -> bool {
        true
    }

    fn paths(&self) -> EnginePaths {
        EnginePaths { folder: self.folder.clone(), run: self.run.clone() }
    }

    fn load(folder: &Path) -> Option<Self> {
        // An unreadable record is ignored: running processes are found in `/proc`, not by this file.
        serde_json::from_slice(&fs::read(folder.join("state.json")).ok()?).ok()
    }

    fn save(&self) -> Result<(), Fault> {
        let (new, path) = (self.folder.join("state.json.new"), self.folder.join("state.json"));
        let text = serde_json::to_string_pretty(self).map_err(|error| cannot_write(&path, error))?;
        fs::write(&new, text + "\n").and_then(|()| fs::rename(&new, &path)).map_err(|error| cannot_write(&path, error))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Absent,
    Stopped(State),
    /// Something that should run does not, or something is left of what was: `up` heals it, `down` clears it.
    Broken(State, String),
    Running(State),
}

/// Brings the engine up, or says that it is; returns once daemon and registry answer.
pub fn up(root: &Path, options: &EngineOptions) -> Result<State, Fault> {
    linux::require(if options.registry_only { "a private registry" } else { "a private Docker engine" })?;
    if !options.registry_only {
        require_root()?;
    }
    let folder = folder(root, options.name.as_deref())?;
    let began = Instant::now();
    fs::create_dir_all(&folder).map_err(|error| cannot_write(&folder, error))?;
    let folder = folder.canonicalize().map_err(|error| cannot_write(&folder, error))?;
    let _lock = lock(&folder)?;
    if folder.to_string_lossy().contains([':', ',']) {
        return Err(Fault::usage(format!("cannot run an engine in `{}`", folder.display()))
            .cause("overlay mounts cannot be given a path with a colon or a comma")
            .hint("move the repository, or point `--root` elsewhere"));
    }
    let state = start::up(root, &folder, options)?;
    match state {
        start::StartOutcome::Already(state) => {
            terminal::step("engine", &format!("is already running; registry at {}", state.registry));
            Ok(state)
        }
        start::StartOutcome::Started(state) => {
            let took = quantity::seconds(began.elapsed());
            terminal::step("engine", &format!("started in {took}; registry at {}", state.registry));
            Ok(state)
        }
    }
}

pub fn status(root: &Path, name: Option<&str>) -> Result<Status, Fault> {
    let folder = folder(root, name)?;
    let Some(state) = folder.canonicalize().ok().and_then(|folder| State::load(&folder)) else {
        return Ok(Status::Absent);
    };
    let daemon = state.registry_only || start::daemon_is_whole(&state);
    if daemon && start::registry_runs(&state) && start::registry_answers(&state.registry) {
        return Ok(Status::Running(state));
    }
    let dead = state.processes.iter().find(|(_, process)| !process.runs());
    if let Some((name, process)) = dead {
        let why = format!("`{name}` (process {}) ended without `cargo xtask engine down`", process.pid);
        return Ok(Status::Broken(state, why));
    }
    if !state.processes.is_empty() {
        return Ok(Status::Broken(state, "its processes run but do not respond to this user".to_owned()));
    }
    let left = leftovers(&state.paths());
    Ok(if left.is_empty() {
        Status::Stopped(state)
    } else {
        Status::Broken(state, format!("{} is still running", left[0].0))
    })
}

/// Stops the engine, and with `purge` removes its folder; the package cache stays. Works for an engine in any state.
pub fn down(root: &Path, name: Option<&str>, purge: bool) -> Result<(), Fault> {
    let folder = folder(root, name)?;
    let Ok(folder) = folder.canonicalize() else {
        terminal::step("engine", "not found");
        return Ok(());
    };
    let mut state = State::load(&folder);
    if !state.as_ref().is_some_and(|state| state.registry_only) {
        require_root()?;
    }
    let lock = lock(&folder)?;
    let paths = match &state {
        Some(state) => state.paths(),
        None => EnginePaths { run: run_folder(&folder), folder: folder.clone() },
    };
    let stopped = stop(&paths, &[&ENGINE[..], &REGISTRY[..]].concat())?;
    if let Some(state) = &mut state {
        for created in state.created.drain(..) {
            // Not empty means that another engine uses it by now.
            let _ = fs::remove_dir(created);
        }
        state.processes.clear();
        state.save()?;
    }
    if purge {
        remove_folder(&folder)?;
    }
    drop(lock);
    let stopped_text =
        if stopped.is_empty() { "was not running".to_owned() } else { format!("stopped {}", stopped.join(", ")) };
    terminal::step("engine", &format!("{stopped_text}{}", if purge { "; its folder is removed" } else { "" }));
    Ok(())
}

/// `target/engine` of a workspace.
fn folder(root: &Path, name: Option<&str>) -> Result<PathBuf, Fault> {
    let folder = settings::folder_name(name).ok_or_else(|| {
        Fault::usage(format!("`{}` is not a name for an engine", name.unwrap_or_default()))
            .hint("use letters, digits, `-` and `_`")
    })?;
    Ok(root.join("target").join(folder))
}

fn require_root() -> Result<(), Fault> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Fault::missing("a private engine needs root")
        .cause("it mounts file systems and makes namespaces; a rootless engine is not provided")
        .hint("run it again as root, install Docker, or build with `--engine native`, which needs neither"))
}

/// Waits until no one else starts or stops this engine. The lock file may have been removed by the one waited for.
fn lock(folder: &Path) -> Result<File, Fault> {
    let path = folder.join("lock");
    loop {
        fs::create_dir_all(folder).map_err(|error| cannot_write(folder, error))?;
        let file = File::create(&path).map_err(|error| cannot_write(&path, error))?;
        if file.try_lock().is_err() {
            terminal::step("waiting", "another `cargo xtask engine` command is running");
            file.lock().map_err(|error| cannot_write(&path, error))?;
        }
        let held = file.metadata().map(|meta| meta.ino()).ok();
        if held.is_some() && fs::metadata(&path).map(|meta| meta.ino()).ok() == held {
            return Ok(file);
        }
    }
}

/// In the engine's folder if the socket paths fit, else a folder whose name is derived from it.
fn run_folder(folder: &Path) -> PathBuf {
    let run = folder.join("run");
    if settings::sockets_fit(&run) {
        return run;
    }
    use std::os::unix::ffi::OsStrExt as _;
    let key = &Digest::of(folder.as_os_str().as_bytes()).hex()[..12];
    let short = |base: PathBuf| base.join(format!("xtask-engine-{key}"));
    std::env::var_os("XDG_RUNTIME_DIR")
        // The kernel names mounts by their real paths.
        .and_then(|base| fs::canonicalize(base).ok())
        .map(short)
        .filter(|run| run.is_absolute() && settings::sockets_fit(run))
        .unwrap_or_else(|| short(PathBuf::from("/tmp")))
}

/// Makes the run folder, ours alone: in a shared `/tmp` another user may have been first.
fn make_run_folder(run: &Path) -> Result<(), Fault> {
    if let Err(error) = fs::DirBuilder::new().mode(0o700).create(run) {
        let ours = fs::symlink_metadata(run).is_ok_and(|meta| {
            meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 == 0
        });
        if !ours {
            return Err(cannot_write(run, error).cause("other users can access it, or it belongs to another user"));
        }
    }
    Ok(())
}

fn leftovers(paths: &EnginePaths) -> Vec<(String, Process)> {
    linux::running_from(&paths.packages(), &[&ENGINE[..], &REGISTRY[..]].concat())
}

/// Stops these programs of the engine, their containers and mounts. The names of those that ran.
fn stop(paths: &EnginePaths, programs: &[&str]) -> Result<Vec<String>, Fault> {
    let mut stopped = Vec::new();
    for program in programs {
        // A daemon ends its children; each is looked for only when its turn comes.
        for (name, process) in linux::running_from(&paths.packages(), &[program]) {
            process.stop(Duration::from_secs(20))?;
            stopped.push(name);
        }
        if *program == "dockerd" {
            for container in linux::rooted_in(&paths.data()) {
                container.stop(Duration::ZERO)?;
            }
        }
    }
    // containerd cleans up after a shim with another shim, which may have begun after its turn.
    for (_, process) in linux::running_from(&paths.packages(), programs) {
        process.stop(Duration::from_secs(5))?;
    }
    if programs.contains(&"dockerd") {
        for folder in [&paths.run, &paths.data()] {
            linux::unmount_under(folder)?;
        }
        remove_folder(&paths.run)?;
    }
    Ok(stopped)
}

fn remove_folder(folder: &Path) -> Result<(), Fault> {
    if let Some(point) = linux::mounts_under(folder).first() {
        return Err(Fault::build(format!("cannot remove `{}`", folder.display()))
            .cause(format!("`{}` is still mounted", point.display())));
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::build(format!("cannot remove `{}`", folder.display())).cause(error))
        }
        _ => Ok(()),
    }
}

fn cannot_write(path: &Path, error: impl std::fmt::Display) -> Fault {
    Fault::missing(format!("cannot write `{}`", path.display())).cause(error)
}

fn versions(packages: &[DebPackage]) -> BTreeMap<String, String> {
    packages.iter().map(|package| (package.name.clone(), package.version.clone())).collect()
}
