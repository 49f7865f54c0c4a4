//! Shared parts of the tests of the binary: running it, finding Pythons, making homes for hostile workers.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The crate's folder, which is a home.
pub(crate) fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The binary, without what the environment of the tests would change.
pub(crate) fn autoscaler() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoscaler"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AUTOSCALER_") {
            command.env_remove(name);
        }
    }
    command.env("AUTOSCALER_HOME", crate_folder()).stdin(Stdio::null());
    command
}

/// Result of a finished run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Ran {
    let output = command.output().expect("the binary runs");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("stdout is text"),
        stderr: String::from_utf8(output.stderr).expect("stderr is text"),
    }
}

fn works(python: impl AsRef<OsStr>, program: &str) -> bool {
    Command::new(python)
        .args(["-c", program])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn asked_python() -> PathBuf {
    std::env::var_os("AUTOSCALER_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from)
}

/// A Python with the forecasting packages. Without one the test is skipped, loudly, unless skipping is forbidden.
pub(crate) fn real_python(test: &str) -> Option<PathBuf> {
    // Found and not imported, which takes a second for each test.
    let found = "import sys; from importlib.util import find_spec; \
                 sys.exit(not all(map(find_spec, ('numpy', 'pandas', 'scipy', 'statsmodels'))))";
    needed(test, found, "the packages of requirements-enhanced.txt")
}

/// Any Python 3.11 or later: the hostile workers use its standard library only.
pub(crate) fn bare_python(test: &str) -> Option<PathBuf> {
    needed(test, "import sys; sys.exit(sys.version_info < (3, 11))", "version 3.11 or later")
}

fn needed(test: &str, program: &str, what: &str) -> Option<PathBuf> {
    let python = asked_python();
    if works(&python, program) {
        return Some(python);
    }
    let why = format!("`{}` is not a Python with {what}: set AUTOSCALER_PYTHON", python.display());
    assert!(std::env::var_os("XTASK_REQUIRE_REAL").is_none_or(|value| value != "1"), "{test}: {why}");
    // Not `eprintln!`, which the test harness swallows when a test passes.
    let _ = writeln!(std::io::stderr(), "\nskipped: {test}: {why}");
    None
}

/// A home whose worker is one of `tests/workers/`.
pub(crate) fn hostile_home(worker: &str) -> TempDir {
    let home = tempfile::tempdir().expect("a folder");
    let package = home.path().join("forecaster");
    std::fs::create_dir(&package).expect("a package");
    let workers = crate_folder().join("tests/workers");
    std::fs::write(package.join("__init__.py"), "").expect("a package");
    std::fs::copy(workers.join("hello.py"), package.join("hello.py")).expect("what workers share");
    std::fs::copy(workers.join(worker).with_extension("py"), package.join("__main__.py")).expect("a worker");
    home
}

/// Returns true if a process exists and has not ended.
pub(crate) fn alive(process: u32) -> bool {
    // A zombie has ended too; its parent is the one to say so.
    std::fs::read_to_string(format!("/proc/{process}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// Sends a signal to one process.
pub(crate) fn signal(name: &str, process: u32) {
    let sent = Command::new("kill").args(["-s", name, &process.to_string()]).status().expect("kill runs");
    assert!(sent.success());
}

/// Waits until something holds, for as long as a loaded machine may take.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("not within 30 s: {what}");
}
