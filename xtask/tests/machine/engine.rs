//! A private engine from packages to nothing left: on the real machine, in a folder of its own.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;
use xtask_host::docker::engine::{self, EngineOptions, State, Status};
use xtask_model::fault::Exit;

/// Returns true if this machine can run the test. If not, says so, or fails where it must run.
fn possible() -> bool {
    let why = if !rustix::process::geteuid().is_root() {
        "not root"
    } else if xtask_host::docker::debian::Host::read().is_err() {
        "not a Debian host"
    } else {
        return true;
    };
    assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "cannot run: {why}");
    println!("skipped: {why}");
    false
}

/// A free port outside the range that the kernel gives to clients: it must stay free while a registry is stopped.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + u16::try_from(std::process::id() % 1000).unwrap() * 10;
    let ports = std::iter::repeat_with(|| start + NEXT.fetch_add(1, Ordering::Relaxed));
    ports.take(100).find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

#[track_caller]
fn docker(state: &State, args: &[&str]) -> String {
    state.command().args(args).read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"))
}

/// Builds, pushes, drops, pulls and runs an image of one static program that every Debian host has.
fn works(state: &State, folder: &Path) {
    let context = folder.join("context");
    fs::create_dir_all(&context).unwrap();
    fs::copy("/sbin/ldconfig", context.join("ldconfig")).unwrap();
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY ldconfig /\nENTRYPOINT [\"/ldconfig\"]\n").unwrap();
    let image = format!("{}/test/one:1", state.registry);
    docker(
        state,
        &["buildx", "build", "--network=host", "--provenance=true", "-t", &image, "--push", context.to_str().unwrap()],
    );
    let said = docker(state, &["run", "--rm", "--init", "--network=host", "--pull=always", &image, "--version"]);
    assert!(said.contains("ldconfig"), "{said}");
}

fn kill(state: &State, program: &str) {
    let pid = i32::try_from(state.processes[program].pid).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    while state.processes[program].runs() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Ends the engine of a test that failed halfway.
struct Ended<'a>(&'a Path, Option<&'a str>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let _ = engine::down(self.0, self.1, true);
    }
}

fn nothing_is_left(folder: &Path, states: &[&State]) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let name = folder.file_name().unwrap().to_str().unwrap();
    assert!(!mounts.contains(name), "{mounts}");
    for state in states {
        for (program, process) in &state.processes {
            assert!(!process.runs(), "{program} still runs");
        }
        assert!(!state.run.exists());
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        assert!(!exe.to_string_lossy().contains(name), "{} is still running", exe.display());
    }
}

#[test]
fn an_engine_comes_up_heals_and_goes() {
    if !possible() {
        return;
    }
    let began = Instant::now();
    let lap = |what: &str| eprintln!("{:>6.2} s  {what}", began.elapsed().as_secs_f64());
    // Blanks and letters beyond ASCII; long enough that the sockets must lie elsewhere.
    let folder = tempfile::Builder::new().prefix("éngine of a test ").tempdir().unwrap();
    let root = folder.path().join("a rather long folder name ".repeat(3).trim_end());
    fs::create_dir_all(&root).unwrap();
    let _ended = Ended(&root, None);
    let options = EngineOptions { name: None, registry_port: Some(free_port()), ..EngineOptions::default() };

    assert_eq!(engine::status(&root, None).unwrap(), Status::Absent);
    let first = engine::up(&root, &options).unwrap_or_else(|fault| panic!("{fault}"));
    lap("up from nothing");
    assert!(!first.run.starts_with(&root), "{}", first.run.display());
    assert_eq!(engine::status(&root, None).unwrap(), Status::Running(first.clone()));
    works(&first, folder.path());
    lap("build, push, pull, run");

    let kept = EngineOptions::default();
    assert_eq!(engine::up(&root, &kept).unwrap(), first, "a second `up` changes nothing");
    lap("up again");

    kill(&first, "dockerd");
    assert!(matches!(engine::status(&root, None).unwrap(), Status::Broken(..)));
    let healed = engine::up(&root, &kept).unwrap_or_else(|fault| panic!("{fault}"));
    lap("healed after SIGKILL of dockerd");
    assert_eq!(healed.registry, first.registry);
    assert_eq!(healed.processes["docker-registry"], first.processes["docker-registry"], "what works is left alone");
    works(&healed, folder.path());

    kill(&healed, "docker-registry");
    let again = engine::up(&root, &kept).unwrap();
    lap("healed after SIGKILL of the registry");
    assert_eq!(again.processes["dockerd"], healed.processes["dockerd"]);

    // A container outlives a daemon that is killed; it must not outlive `down`.
    let image = format!("{}/test/one:1", again.registry);
    let host = ["/usr:/usr:ro", "/usr/lib:/lib:ro", "/usr/lib64:/lib64:ro"].map(|volume| format!("--volume={volume}"));
    let run =
        ["run", "--detach", "--network=host", &host[0], &host[1], &host[2], "--entrypoint=/usr/bin/sleep", &image];
    let container = docker(&again, &[&run[..], &["600"]].concat());
    let sleeper = docker(&again, &["inspect", "--format={{.State.Pid}}", &container]);
    kill(&again, "dockerd");
    assert!(Path::new("/proc").join(&sleeper).exists());
    engine::down(&root, None, false).unwrap();
    lap("down after a crash");
    assert!(!Path::new("/proc").join(&sleeper).exists());
    nothing_is_left(folder.path(), &[&first, &healed, &again]);
    assert!(matches!(engine::status(&root, None).unwrap(), Status::Stopped(_)));

    let back = engine::up(&root, &kept).unwrap();
    lap("up from a stopped engine");
    assert_eq!(back.registry, first.registry, "references stay valid");
    docker(&back, &["buildx", "imagetools", "inspect", &image]);
    engine::down(&root, None, true).unwrap();
    lap("down --purge");
    assert!(!root.join("target/engine").exists());
    nothing_is_left(folder.path(), &[&back]);
}

#[test]
fn two_engines_run_at_the_same_time() {
    if !possible() {
        return;
    }
    let folder = tempfile::Builder::new().prefix("engines-").tempdir().unwrap();
    let root = folder.path();
    let _ended = (Ended(root, Some("one")), Ended(root, Some("two")));
    let options = |name: &str| EngineOptions {
        name: Some(name.to_owned()),
        registry_port: Some(free_port()),
        ..EngineOptions::default()
    };
    let (one, two) = std::thread::scope(|scope| {
        let twice = options("one");
        let first = scope.spawn({
            let twice = twice.clone();
            move || engine::up(root, &twice)
        });
        let second = scope.spawn(move || engine::up(root, &twice));
        let other = engine::up(root, &options("two")).unwrap();
        let one = first.join().unwrap().unwrap();
        assert_eq!(one, second.join().unwrap().unwrap(), "two `up`s at once make one engine");
        (one, other)
    });
    assert_ne!((&one.registry, &one.run), (&two.registry, &two.run));
    engine::down(root, Some("one"), true).unwrap();
    docker(&two, &["info"]);
    engine::down(root, Some("two"), true).unwrap();
    nothing_is_left(root, &[&one, &two]);
}

#[test]
fn another_registry_at_the_old_address_is_not_ours() {
    if !possible() {
        return;
    }
    let folder = tempfile::Builder::new().prefix("registries-").tempdir().unwrap();
    let root = folder.path();
    let _ended = (Ended(root, Some("one")), Ended(root, Some("two")));
    let options =
        |name: &str, registry_port| EngineOptions { name: Some(name.to_owned()), registry_port, registry_only: true };
    let before = engine::up(root, &options("one", Some(free_port()))).unwrap();
    engine::down(root, Some("one"), false).unwrap();
    let port = before.registry.rsplit(':').next().unwrap().parse().unwrap();
    let other = engine::up(root, &options("two", Some(port))).unwrap();
    let after = engine::up(root, &options("one", None)).unwrap();
    assert_eq!(other.registry, before.registry);
    assert_ne!(after.registry, before.registry);
    assert!(after.processes["docker-registry"].runs());
    engine::down(root, Some("one"), true).unwrap();
    engine::down(root, Some("two"), true).unwrap();
    nothing_is_left(root, &[&after, &other]);
}
