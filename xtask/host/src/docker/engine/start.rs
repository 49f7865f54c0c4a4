//! From packages to daemons that answer. Starts only what does not answer yet; a failed start leaves nothing running.

use super::settings::EnginePaths;
use super::{
    ENGINE, EngineOptions, IN_RUN, REGISTRY, State, cannot_write, make_run_folder, run_folder, stop, versions,
};
use crate::docker::debian::{self, Archive, DebPackage, Host};
use crate::linux::{self, Process};
use crate::process::{self, Command};
use crate::terminal;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xtask_model::fault::{Exit, Fault};

/// The release whose Docker is used where the host's own is older.
const SUITE: &str = "trixie";
/// The C library of that release; on an older one its `runc`, alone among these packages, does not run.
const SUITE_GLIBC: (u32, u32) = (2, 41);
const PACKAGES: [&str; 6] = ["containerd", "docker-buildx", "docker-cli", "docker-registry", "docker.io", "tini"];
const READY_WITHIN: Duration = Duration::from_secs(60);
const PREFERRED_PORTS: std::ops::Range<u16> = 5000..5100;

pub(super) enum StartOutcome {
    Already(State),
    Started(State),
}

pub(super) fn up(root: &Path, folder: &Path, options: &EngineOptions) -> Result<StartOutcome, Fault> {
    let known = State::load(folder);
    let paths = EnginePaths {
        folder: folder.to_owned(),
        run: known.as_ref().map_or_else(|| run_folder(folder), |state| state.run.clone()),
    };
    // A daemon that is not wanted is as good as one that is up.
    let daemon = options.registry_only || known.as_ref().is_some_and(daemon_is_whole);
    let registry = registry_port(known.as_ref(), options)?;
    let ours = known.as_ref().is_some_and(|state| state.registry == registry && registry_runs(state));
    let registry_up = ours && registry_answers(&registry);
    if let Some(state) = known.as_ref().filter(|_| daemon && registry_up) {
        return Ok(StartOutcome::Already(state.clone()));
    }
    if known.as_ref().is_some_and(|state| !state.processes.is_empty()) {
        terminal::step("repairing", "the engine was not stopped; removing its leftovers");
    }
    let stale = [if daemon { &[][..] } else { &ENGINE[..] }, if registry_up { &[] } else { &REGISTRY[..] }].concat();
    stop(&paths, &stale)?;
    let packages = install(root, &paths, options.registry_only)?;
    let mut state = State {
        folder: folder.to_owned(),
        run: paths.run.clone(),
        docker: folder.join("bin/docker"),
        registry,
        processes: known.as_ref().map_or_else(BTreeMap::new, |state| state.processes.clone()),
        packages: versions(&packages),
        created: known.map_or_else(Vec::new, |state| state.created),
        registry_only: options.registry_only,
    };
    state.processes.retain(|_, process| process.runs());
    match start(&paths, &mut state, daemon, registry_up) {
        Ok(()) => Ok(StartOutcome::Started(state)),
        Err(fault) => {
            // The first failure is the one to tell.
            let _ = stop(&paths, &stale);
            state.processes.retain(|_, process| process.runs());
            let _ = state.save();
            Err(fault)
        }
    }
}

fn start(paths: &EnginePaths, state: &mut State, daemon: bool, registry: bool) -> Result<(), Fault> {
    configure(paths, &state.registry, state.registry_only)?;
    let absent = IN_RUN.iter().map(PathBuf::from).filter(|folder| !folder.exists() && !state.created.contains(folder));
    let absent: Vec<PathBuf> = absent.collect();
    state.created.extend(absent.into_iter().filter(|_| !daemon));
    state.save()?;
    if !registry {
        spawn(paths, state, "docker-registry", &["serve".into(), paths.folder.join("registry.yml")])?;
    }
    if !daemon {
        spawn(paths, state, "containerd", &["--config".into(), paths.folder.join("containerd.toml")])?;
        wait(paths, state, "containerd", || UnixStream::connect(paths.containerd_socket()).is_ok())?;
        spawn(paths, state, "dockerd", &["--config-file".into(), paths.folder.join("daemon.json")])?;
        wait(paths, state, "dockerd", || daemon_answers(paths))?;
    }
    let address = state.registry.clone();
    wait(paths, state, "docker-registry", || registry_answers(&address))?;
    if state.registry_only {
        return Ok(());
    }
    let version = state.command().args(["info", "--format", "{{.ServerVersion}}"]).read(Exit::Missing)?;
    terminal::detail(&format!("docker {version} in {}", paths.folder.display()));
    Ok(())
}

/// The packages of Docker, and of `runc`, by what the host can run.
fn suites(host: &Host) -> Result<(&str, &str), Fault> {
    if host.glibc >= SUITE_GLIBC {
        return Ok((&host.suite, &host.suite));
    }
    if host.version.is_none_or(|version| version >= 12) {
        return Ok((SUITE, &host.suite));
    }
    Err(Fault::missing(format!("the packages of Debian {SUITE} do not run on Debian {}", host.suite))
        .hint("use Debian 12 or newer, install Docker, or build with `--engine native`"))
}

/// Downloads and unpacks the packages once; later calls read the record, and need neither apt nor network.
fn install(root: &Path, paths: &EnginePaths, registry_only: bool) -> Result<Vec<DebPackage>, Fault> {
    let record = paths.folder.join("packages.json");
    let known = fs::read(&record).ok().and_then(|text| serde_json::from_slice::<Vec<DebPackage>>(&text).ok());
    if let Some(packages) =
        known.filter(|_| paths.program(if registry_only { "docker-registry" } else { "dockerd" }).is_file())
    {
        return Ok(packages);
    }
    let host = Host::read()?;
    let (suite, runc_suite) = suites(&host)?;
    let cache = debian::cache(&root.join("target"));
    let mut names = if registry_only { REGISTRY.to_vec() } else { PACKAGES.to_vec() };
    if registry_only {
        terminal::step("registry", &format!("using Debian {suite}"));
    } else {
        if suite == runc_suite {
            names.push("runc");
        }
        terminal::step("engine", &format!("using Docker from Debian {suite} and runc from {runc_suite}"));
    }
    let mut packages = Archive::open(&cache, suite)?.fetch(&names)?;
    if suite != runc_suite && !registry_only {
        packages.extend(Archive::open(&cache, runc_suite)?.fetch(&["runc"])?);
    }
    let new = paths.folder.join("packages.new");
    super::remove_folder(&new)?;
    super::remove_folder(&paths.packages())?;
    terminal::step("unpacking", &format!("{} packages", packages.len()));
    debian::unpack(&packages, &new)?;
    fs::rename(&new, paths.packages()).map_err(|error| cannot_write(&paths.packages(), error))?;
    let text = serde_json::to_vec_pretty(&packages).map_err(|error| cannot_write(&record, error))?;
    fs::write(&record, text).map_err(|error| cannot_write(&record, error))?;
    Ok(packages)
}

fn configure(paths: &EnginePaths, registry: &str, registry_only: bool) -> Result<(), Fault> {
    make_run_folder(&paths.run)?;
    let plugins = paths.docker_config().join("cli-plugins");
    let (data, logs) = (paths.data(), paths.folder.join("logs"));
    for folder in [data.join("docker"), data.join("registry"), paths.run.join("tmp"), logs, plugins.clone()] {
        fs::create_dir_all(&folder).map_err(|error| cannot_write(&folder, error))?;
    }
    let registry_config = paths.folder.join("registry.yml");
    fs::write(&registry_config, paths.registry(registry)).map_err(|error| cannot_write(&registry_config, error))?;
    if registry_only {
        return Ok(());
    }
    let bin = paths.folder.join("bin");
    fs::create_dir_all(&bin).map_err(|error| cannot_write(&bin, error))?;
    link(&paths.program("docker"), &bin.join("docker"))?;
    link(&paths.packages().join("usr/libexec/docker/cli-plugins/docker-buildx"), &plugins.join("docker-buildx"))?;
    let snapshotter = snapshotter(&paths.data());
    for (name, text) in [("containerd.toml", paths.containerd()), ("daemon.json", paths.dockerd(snapshotter))] {
        let path = paths.folder.join(name);
        fs::write(&path, text).map_err(|error| cannot_write(&path, error))?;
    }
    Ok(())
}

fn link(to: &Path, at: &Path) -> Result<(), Fault> {
    let _ = fs::remove_file(at);
    std::os::unix::fs::symlink(to, at).map_err(|error| cannot_write(at, error))
}

/// An overlay cannot lie on an overlay: within a container's own file system plain copies must do.
fn snapshotter(data: &Path) -> Option<&'static str> {
    linux::is_overlay(data).then(|| {
        terminal::warn("the engine's folder is on an overlay file system; layers are copied, which is slow");
        "native"
    })
}

/// The requested port, else the one the registry had, else a free one. A port from the range that the kernel gives to clients is the
/// last choice: while the registry is stopped, any connection could take it, and references to the registry would become invalid.
fn registry_port(known: Option<&State>, options: &EngineOptions) -> Result<String, Fault> {
    let address = |port: u16| format!("127.0.0.1:{port}");
    let free = |address: &str| TcpListener::bind(address).and_then(|listener| listener.local_addr());
    // A killed registry is gone for the process table before its last thread closes the port.
    let freed = |address: &str| {
        (0..50).any(|tried| {
            std::thread::sleep(Duration::from_millis(if tried == 0 { 0 } else { 20 }));
            free(address).is_ok()
        })
    };
    let kept = known.filter(|state| registry_runs(state) || freed(&state.registry));
    if let Some(address) = options.registry_port.map(address).or(kept.map(|state| state.registry.clone())) {
        return Ok(address);
    }
    let listener = PREFERRED_PORTS.into_iter().find_map(|port| free(&address(port)).ok());
    listener
        .map_or_else(|| free(&address(0)), Ok)
        .map(|bound| bound.to_string())
        .map_err(|error| Fault::missing("no free port on 127.0.0.1 for a registry").cause(error))
}

/// True if the registry's process runs: what answers at its address may be another's.
pub(super) fn registry_runs(state: &State) -> bool {
    state.processes.get("docker-registry").is_some_and(Process::runs)
}

fn spawn(paths: &EnginePaths, state: &mut State, program: &str, args: &[PathBuf]) -> Result<(), Fault> {
    let log = paths.log(program);
    // The log of the run before stays readable; a missing one is none.
    let _ = fs::rename(&log, log.with_extension("log.old"));
    let path = paths.path(&std::env::var("PATH").unwrap_or_default());
    let call = Command::new(paths.program(program)).args(args).env("PATH", path).current_dir(&paths.folder);
    // containerd mounts what it unpacks below it: after a crash the mounts must be in the engine's folder.
    let call = call.env("TMPDIR", paths.run.join("tmp"));
    // These would make the daemons of another engine's configuration ours.
    let call =
        ["DOCKER_HOST", "DOCKER_CONFIG", "CONTAINERD_ADDRESS"].iter().fold(call, |call, name| call.env_remove(name));
    // The registry's heap is a few megabytes: collected that often, half of a request's time is collecting it.
    let call =
        if program == "docker-registry" && std::env::var_os("GOGC").is_none() { call.env("GOGC", "400") } else { call };
    let pid = call.spawn(&log)?;
    if let Some(process) = Process::now(pid) {
        state.processes.insert(program.to_owned(), process);
        state.save()?;
    }
    Ok(())
}

fn wait(paths: &EnginePaths, state: &State, program: &str, ready: impl Fn() -> bool) -> Result<(), Fault> {
    let limit = Instant::now() + READY_WITHIN;
    loop {
        process::interrupted()?;
        let runs = state.processes.get(program).is_some_and(Process::runs);
        if runs && ready() {
            return Ok(());
        }
        let why = if !runs {
            "it exited"
        } else if Instant::now() > limit {
            "it does not respond"
        } else {
            std::thread::sleep(Duration::from_millis(30));
            continue;
        };
        return Err(not_ready(&paths.log(program), program, why));
    }
}

fn not_ready(log: &Path, program: &str, why: &str) -> Fault {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(8)..].join("\n");
    let fault = Fault::missing(format!("cannot start `{program}`: {why}"));
    let fault = if tail.is_empty() { fault } else { fault.cause(&tail) };
    let fault = if tail.contains("address already in use") {
        fault.hint("choose another port: `cargo xtask engine up --registry-port PORT`")
    } else {
        fault
    };
    fault.hint(format!("read the log: `{}`", log.display()))
}

/// True if dockerd answers and its containerd runs: without it dockerd still answers, and can do nothing.
pub(super) fn daemon_is_whole(state: &State) -> bool {
    state.processes.get("containerd").is_some_and(Process::runs) && daemon_answers(&state.paths())
}

fn daemon_answers(paths: &EnginePaths) -> bool {
    UnixStream::connect(paths.docker_socket()).is_ok_and(|stream| {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        answers(stream, "/_ping")
    })
}

pub(super) fn registry_answers(address: &str) -> bool {
    let Ok(address) = address.parse::<SocketAddr>() else { return false };
    TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok_and(|stream| {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        answers(stream, "/v2/")
    })
}

fn answers(mut stream: impl Write + std::io::Read, path: &str) -> bool {
    let mut head = [0; 12];
    let asked = write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    asked.and_then(|()| stream.read_exact(&mut head)).is_ok() && &head[8..] == b" 200"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn taken_from(suite: &str, version: Option<u32>, glibc: (u32, u32), expected: Option<(&str, &str)>) {
        let host = Host { suite: suite.to_owned(), version, glibc };
        assert_eq!(suites(&host).ok(), expected);
    }

    #[test]
    fn packages_come_from_a_release_that_runs_here() {
        taken_from("bookworm", Some(12), (2, 36), Some(("trixie", "bookworm")));
        taken_from("trixie", Some(13), (2, 41), Some(("trixie", "trixie")));
        taken_from("forky", None, (2, 42), Some(("forky", "forky")));
        taken_from("bullseye", Some(11), (2, 31), None);
    }

    #[test]
    fn a_port_stays_once_it_is_chosen() {
        let options = EngineOptions { registry_port: Some(5999), ..EngineOptions::default() };
        assert_eq!(registry_port(None, &options).unwrap(), "127.0.0.1:5999");
        let taken = TcpListener::bind(("127.0.0.1", PREFERRED_PORTS.start));
        assert_ne!(registry_port(None, &EngineOptions::default()).unwrap(), "127.0.0.1:5000");
        drop(taken);
    }

    #[test]
    fn a_failed_start_shows_the_end_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("x.log");
        let text: String = (0..20).map(|n| format!("line {n}\n")).collect();
        fs::write(&log, text + "listen tcp 127.0.0.1:5000: bind: address already in use\n").unwrap();
        let fault = not_ready(&log, "docker-registry", "it exited");
        assert!(fault.causes[0].starts_with("line 13\n"), "{fault}");
        assert!(fault.hints[0].contains("--registry-port"), "{fault}");
    }
}
