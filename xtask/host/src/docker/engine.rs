//! A private Docker engine and registry for machines that have none, in one folder beneath `target`.
//!
//! Never changes the host outside that folder but for empty folders in `/run` that dockerd and its shims insist on, which go
//! again with the engine; sets no firewall rule and no bridge; ends no process that does not run from the folder.

mod settings;
mod start;

use crate::docker::debian::Package;
use crate::linux::{self, Process};
use crate::process::Command;
use crate::terminal;
use serde::{Deserialize, Serialize};
use settings::Places;
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

/// Folders that dockerd and the shims create wherever they are told to keep their state.
const IN_RUN: [&str; 4] = ["/run/docker/plugins", "/run/docker", "/run/containerd/s", "/run/containerd"];

/// What an engine is asked to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
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
    /// The engine's folder.
    pub folder: PathBuf,
    /// Where its sockets are: in the folder, or in a short one where the paths would be too long.
    pub run: PathBuf,
    /// The docker client that belongs to it.
    pub docker: PathBuf,
    /// The registry's host and port, the same from one `up` to the next.
    pub registry: String,
    /// The daemons by program; empty once stopped.
    pub processes: BTreeMap<String, Process>,
    /// The Debian packages and their versions.
    pub packages: BTreeMap<String, String>,
    /// Folders outside the engine's own that were not there before it.
    created: Vec<PathBuf>,
    /// There is no Docker to it.
    #[serde(default)]
    pub registry_only: bool,
}

impl State {
    /// The environment under which any docker client or plugin talks to this engine.
    pub fn docker_env(&self) -> BTreeMap<&'static str, OsString> {
        let mut path = OsString::from(self.places().folder.join("bin"));
        if let Some(host) = std::env::var_os("PATH") {
            path.push(":");
            path.push(host);
        }
        BTreeMap::from([
            ("DOCKER_HOST", format!("unix://{}", self.places().docker_socket().display()).into()),
            ("DOCKER_CONFIG", self.places().docker_config().into()),
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

    /// Whether builds and runs that need a network must ask for `--network=host`: there is no bridge.
    pub fn network_host(&self) -> bool {
        true
    }

    fn places(&self) -> Places {
        Places { folder: self.folder.clone(), run: self.run.clone() }
    }

    fn load(folder: &Path) -> Option<Self> {
        // A record that cannot be read is no record: what runs is found by the kernel's word, not by this file.
        serde_json::from_slice(&fs::read(folder.join("state.json")).ok()?).ok()
    }

    fn save(&self) -> Result<(), Fault> {
        let (new, path) = (self.folder.join("state.json.new"), self.folder.join("state.json"));
        let text = serde_json::to_string_pretty(self).map_err(|error| cannot_write(&path, error))?;
        fs::write(&new, text + "\n").and_then(|()| fs::rename(&new, &path)).map_err(|error| cannot_write(&path, error))
    }
}

/// How an engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// There is none.
    Absent,
    /// It is stopped, its data kept.
    Stopped(State),
    /// Something that should run does not, or something is left of what was: `up` heals it, `down` clears it.
    Broken(State, String),
    /// Daemon and registry answer.
    Running(State),
}

/// Brings the engine up, or says that it is; returns once daemon and registry answer.
pub fn up(root: &Path, options: &Options) -> Result<State, Fault> {
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
        start::Outcome::Already(state) => {
            terminal::step("engine", &format!("is up already; registry at {}", state.registry));
            Ok(state)
        }
        start::Outcome::Started(state) => {
            let took = quantity::seconds(began.elapsed());
            terminal::step("engine", &format!("is up in {took}; registry at {}", state.registry));
            Ok(state)
        }
    }
}

/// How the engine is now. Changes nothing and waits for no one.
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
        let why = format!("`{name}` (process {}) has ended without `down`", process.pid);
        return Ok(Status::Broken(state, why));
    }
    if !state.processes.is_empty() {
        return Ok(Status::Broken(state, "its processes run, but do not answer this user".to_owned()));
    }
    let left = leftovers(&state.places());
    Ok(if left.is_empty() {
        Status::Stopped(state)
    } else {
        Status::Broken(state, format!("{} still runs", left[0].0))
    })
}

/// What `down` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// The programs that were running.
    pub stopped: Vec<String>,
    /// Whether the folder, with images and logs, is gone too.
    pub purged: bool,
}

/// Stops the engine, and with `purge` removes its folder; the package cache beside it stays. Right for an engine in any state.
pub fn down(root: &Path, name: Option<&str>, purge: bool) -> Result<Down, Fault> {
    let folder = folder(root, name)?;
    let Ok(folder) = folder.canonicalize() else {
        terminal::step("engine", "there is none");
        return Ok(Down { stopped: Vec::new(), purged: false });
    };
    let mut state = State::load(&folder);
    if !state.as_ref().is_some_and(|state| state.registry_only) {
        require_root()?;
    }
    let lock = lock(&folder)?;
    let places = match &state {
        Some(state) => state.places(),
        None => Places { run: run_folder(&folder), folder: folder.clone() },
    };
    let stopped = stop(&places, &[&ENGINE[..], &REGISTRY[..]].concat())?;
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
        if stopped.is_empty() { "was down".to_owned() } else { format!("stopped {}", stopped.join(", ")) };
    terminal::step("engine", &format!("{stopped_text}{}", if purge { "; its folder is removed" } else { "" }));
    Ok(Down { stopped, purged: purge })
}

/// `target/engine` of a workspace.
fn folder(root: &Path, name: Option<&str>) -> Result<PathBuf, Fault> {
    let folder = settings::folder_name(name).ok_or_else(|| {
        Fault::usage(format!("`{}` is not a name for an engine", name.unwrap_or_default()))
            .hint("letters, digits, `-` and `_` make a name")
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
            terminal::step("waiting", "another `cargo xtask engine` is at work here");
            file.lock().map_err(|error| cannot_write(&path, error))?;
        }
        let held = file.metadata().map(|meta| meta.ino()).ok();
        if held.is_some() && fs::metadata(&path).map(|meta| meta.ino()).ok() == held {
            return Ok(file);
        }
    }
}

/// Beneath the folder where sockets fit, else a folder of its own, whose name follows from the engine's.
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
            return Err(cannot_write(run, error).cause("it is not a folder of this user alone"));
        }
    }
    Ok(())
}

fn leftovers(places: &Places) -> Vec<(String, Process)> {
    linux::running_from(&places.packages(), &[&ENGINE[..], &REGISTRY[..]].concat())
}

/// Stops these programs of the engine, their containers and mounts. The names of those that ran.
fn stop(places: &Places, programs: &[&str]) -> Result<Vec<String>, Fault> {
    let mut stopped = Vec::new();
    for program in programs {
        // A daemon ends its children; each is looked for only when its turn comes.
        for (name, process) in linux::running_from(&places.packages(), &[program]) {
            process.stop(Duration::from_secs(20))?;
            stopped.push(name);
        }
        if *program == "dockerd" {
            for container in linux::rooted_in(&places.data()) {
                container.stop(Duration::ZERO)?;
            }
        }
    }
    // containerd cleans up after a shim with another shim, which may have begun after its turn.
    for (_, process) in linux::running_from(&places.packages(), programs) {
        process.stop(Duration::from_secs(5))?;
    }
    if programs.contains(&"dockerd") {
        for folder in [&places.run, &places.data()] {
            linux::unmount_under(folder)?;
        }
        remove_folder(&places.run)?;
    }
    Ok(stopped)
}

/// Removes a folder, never through a mount.
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

fn versions(packages: &[Package]) -> BTreeMap<String, String> {
    packages.iter().map(|package| (package.name.clone(), package.version.clone())).collect()
}
