//! Prerequisites of the tests: an engine, uv, a Python with the worker's packages, and the variables that name them.
//!
//! Writes under the repository's `target` and in memory only, and ends the engine that it started.

use super::prepared;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use xtask_host::docker::debian;
use xtask_host::docker::engine::{self, EngineOptions, State, Status};
use xtask_host::process::{self, Command};
use xtask_host::scratch::Scratch;
use xtask_host::terminal;
use xtask_host::tree::facts::{self, Tree};
use xtask_host::tree::uv::{self, Uv};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::policy::RelPath;
use xtask_model::spec::requirements;

/// pytest, pinned, for any Python that can run the worker.
const PYTEST_LOCK: &str = "autoscaler/forecaster/tests/requirements.lock";

/// The repository's private engine; ended on drop, unless it was up before.
pub struct TestEngine {
    root: PathBuf,
    state: State,
    ours: bool,
}

impl TestEngine {
    /// Takes the engine that is up, or starts it.
    pub fn start(root: &Path) -> Result<Self, Fault> {
        let ours = !matches!(engine::status(root, None)?, Status::Running(_));
        if ours {
            terminal::step("engine", "starts under `target/engine`, and ends when this is done");
        }
        Ok(Self { root: root.to_owned(), state: engine::up(root, &EngineOptions::default())?, ours })
    }

    pub fn state(&self) -> &State {
        &self.state
    }
}

impl Drop for TestEngine {
    fn drop(&mut self) {
        if self.ours {
            if let Err(fault) = engine::down(&self.root, None, false) {
                terminal::warn(&format!("the engine still runs: {fault}"));
            }
        }
    }
}

/// Programs that the tests call.
pub struct Tools {
    uv: Uv,
    python: PathBuf,
    cosign: PathBuf,
    /// Folders in which uv looks for a Python.
    pythons: OsString,
}

impl Tools {
    /// Finds what is installed, and installs the rest.
    pub fn install(tree: &Tree) -> Result<Self, Fault> {
        let root = &tree.root;
        let uv = match uv::find(root, &[]) {
            Ok(uv) => uv,
            Err(_) => {
                terminal::step("installing", "uv from the package index under `target/tools`");
                uv::install(root)?
            }
        };
        let python = python(tree, &uv)?;
        packages()?;
        let pythons = pythons(&[Path::new("python3"), &python])?;
        Ok(Self { uv, python, cosign: cosign(root)?, pythons })
    }

    /// The variables that name them.
    fn variables(&self) -> [(&'static str, OsString); 4] {
        [
            ("XTASK_TEST_UV", self.uv.program().into()),
            ("XTASK_TEST_COSIGN", self.cosign.clone().into()),
            ("AUTOSCALER_PYTHON", self.python.clone().into()),
            ("UV_PYTHON_SEARCH_PATH", self.pythons.clone()),
        ]
    }
}

/// Everything that is needed, there.
pub(super) struct Needs {
    python: PathBuf,
    env: BTreeMap<&'static str, OsString>,
    _temporary: Option<Scratch>,
    _engine: TestEngine,
}

/// Bytes that temporary files of tests may need at once: they are removed with each test.
const TEMPORARY: u64 = 3 << 30;

/// Folder for the temporary files of the tests, in memory if there is room: tests make and remove hundreds of thousands of small files,
/// which keeps a disk busy for longer than the tests compute. Open to every user, as some tests are run by another one.
fn temporary() -> Option<Scratch> {
    let folder = Scratch::in_memory(TEMPORARY)?;
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).ok()?;
    Some(folder)
}

impl Needs {
    /// Finds installed tools, and installs the rest.
    pub(super) fn gather(tree: &Tree) -> Result<Self, Fault> {
        let root = &tree.root;
        let tools = Tools::install(tree)?;
        let engine = TestEngine::start(root)?;
        let state = engine.state();
        let mut env = state.docker_env();
        env.extend([
            ("XTASK_REQUIRE_REAL", OsString::from("1")),
            ("XTASK_TEST_DOCKER", state.docker.clone().into()),
            ("XTASK_TEST_REGISTRY_BIN", state.folder.join("packages/usr/bin/docker-registry").into()),
            ("XTASK_TEST_ENGINE_ROOT", root.into()),
            ("XTASK_DEBIAN_CACHE", debian::cache(&root.join("target")).into()),
        ]);
        env.extend(tools.variables());
        let temporary = temporary();
        env.extend(temporary.iter().map(|folder| ("TMPDIR", folder.path().into())));
        // The clients are named by their places: a PATH of its own would make cargo run build scripts again.
        env.remove("PATH");
        Ok(Self { python: tools.python, env, _temporary: temporary, _engine: engine })
    }

    /// The Python with the worker's packages and pytest.
    pub(super) fn python(&self) -> &Path {
        &self.python
    }

    /// The call, in the world that the tests expect.
    pub(super) fn apply(&self, command: Command) -> Command {
        // What a person has set for xtask itself is not for the tests.
        let foreign = State::FOREIGN_ENV.into_iter().chain(["XTASK_REGISTRY", "RUST_BACKTRACE"]);
        let command = foreign.fold(command, Command::env_remove);
        self.env.iter().fold(command, |command, (name, value)| command.env(name, value))
    }
}

/// Installs packages of the system's own package manager: Chromium, in which pages are looked at, and the programs of others that read our
/// images and scripts.
fn packages() -> Result<(), Fault> {
    const WANTED: [(&str, &[&str], &str); 5] = [
        ("chromium", &["chromium", "chromium-browser", "google-chrome"], "pages are tested in it"),
        ("skopeo", &["skopeo"], "it reads images back"),
        ("umoci", &["umoci"], "it unpacks images"),
        ("shellcheck", &["shellcheck"], "it reads the scripts of workflows"),
        ("uidmap", &["newuidmap"], "an ordinary user builds a root with it"),
    ];
    for (package, programs, why) in WANTED {
        if programs.iter().any(|name| process::found(name).is_some()) {
            continue;
        }
        terminal::step("installing", &format!("{package} with apt-get: {why}"));
        let hint = format!("install {package}: {why}");
        let apt = process::find("apt-get", "the tests", &hint)?;
        let install = Command::new(apt).args(["install", "-y", "-qq", "--no-install-recommends", package]);
        install.env("DEBIAN_FRONTEND", "noninteractive").read(Exit::Missing).map_err(|fault| fault.hint(hint))?;
    }
    Ok(())
}

/// The cosign that signs and verifies in the tests: this machine's, or that of Debian's package (15 MB) under `target/tools`. No
/// engine of an adopter has it.
fn cosign(root: &Path) -> Result<PathBuf, Fault> {
    if let Some(found) = process::found("cosign") {
        return Ok(found);
    }
    let target = root.join("target");
    let found = debian::program(&debian::cache(&target), &target.join("tools"), "cosign");
    found.map_err(|fault| fault.needed_by("the tests of signatures").hint("install cosign 2.2 or later on `PATH`"))
}

/// A virtual environment with the worker's packages and pytest under `target/tools`, made again when a lock has changed.
fn python(tree: &Tree, uv: &Uv) -> Result<PathBuf, Fault> {
    let root = &tree.root;
    let lock = facts::lock(tree)?;
    let home = root.join("target/tools/python");
    let python = home.join("bin/python3");
    let host = host_python(lock.python.trim_start_matches(">="))?;
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    // Where the host's Python is older than those that the lock serves, the same requirements are resolved for it.
    let requirements = tree.policy.base.requirements.paths().first().map_or("", RelPath::as_str);
    let packages = if host.served { tree.policy.base.lock.as_str() } else { requirements };
    let stamp = format!("compiled\n{}\n{}\n{}", host.program.display(), read(packages), read(PYTEST_LOCK));
    if python.exists() && std::fs::read_to_string(home.join("stamp")).is_ok_and(|found| found == stamp) {
        return Ok(python);
    }
    let version = &host.version;
    terminal::step("installing", &format!("the worker's packages for Python {version} under `target/tools/python`"));
    if !host.served {
        terminal::warn(&format!(
            "no Python {} here: tests of the worker run on {version}, not on the lock",
            lock.python
        ));
    }
    let call = || uv.command(&requirements::Options::default()).current_dir(root);
    let needed_by = "the tests of the Python worker";
    prepared(
        &call().args(["venv", "--quiet", "--clear", "--seed", "--python"]).args([&host.program, &home]),
        needed_by,
    )?;
    // Compiled once: neither the worker nor pytest keeps byte code, and each start would compile every module again.
    let install = || call().args(["pip", "install", "--quiet", "--compile-bytecode", "--python"]).arg(&python);
    let hashes: &[&str] = if host.served { &["--require-hashes"] } else { &[] };
    prepared(&install().args(hashes).args(["-r", packages]), needed_by)?;
    prepared(&install().args(["--require-hashes", "-r", PYTEST_LOCK]), needed_by)?;
    std::fs::write(home.join("stamp"), stamp)
        .map_err(|error| Fault::missing(format!("cannot write in `{}`", home.display())).cause(error))?;
    Ok(python)
}

/// The folders of the interpreters behind these programs. uv remembers an interpreter, but asks the stand-ins of a version manager
/// on `PATH` again in each of its calls: 0.4 s of processor time. `python3` comes first, because tests run what uv installs with it.
fn pythons(programs: &[&Path]) -> Result<OsString, Fault> {
    const PLACE: &str = "import sys; print(getattr(sys, '_base_executable', None) or sys.executable)";
    let mut folders: Vec<PathBuf> = Vec::new();
    for program in programs {
        let place = Command::new(program).args(["-c", PLACE]).read(Exit::Missing)?;
        let folder = Path::new(&place).parent().map(Path::to_owned).unwrap_or_default();
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    let cannot =
        |error| Fault::missing(format!("a Python is in a folder with a `:` in its name: {folders:?}")).cause(error);
    std::env::join_paths(&folders).map_err(cannot)
}

/// A Python of this machine.
struct HostPython {
    program: PathBuf,
    version: String,
    /// True if the lock was resolved for it too.
    served: bool,
}

/// The first Python that the lock serves, else `python3`. Asked by running each: a version manager's stand-ins may be on the
/// PATH with nothing behind them.
fn host_python(oldest: &str) -> Result<HostPython, Fault> {
    let named = ["python3", "python3.13", "python3.12", "python3.14"].map(PathBuf::from).into_iter();
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let managed = [".pyenv/versions", ".local/share/uv/python"].into_iter().flat_map(|folder| {
        let mut found: Vec<PathBuf> =
            std::fs::read_dir(home.join(folder)).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        found.sort();
        found.into_iter().map(|version| version.join("bin/python3"))
    });
    let mut first = None;
    for program in named.chain(managed) {
        let Some(program) = process::found(&program) else { continue };
        let ask = Command::new(&program).args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]);
        let Ok(version) = ask.read(Exit::Missing) else { continue };
        let served = number(&version) >= number(oldest);
        let found = HostPython { program, version, served };
        if served {
            return Ok(found);
        }
        first.get_or_insert(found);
    }
    first.ok_or_else(|| {
        Fault::missing("`python3` is not on `PATH`")
            .needed_by("the tests of the Python worker")
            .hint("install it: `apt-get install python3 python3-venv`")
    })
}

/// `3.12` as numbers, for comparing.
fn number(version: &str) -> Vec<u32> {
    version.trim().split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(number("3.9") < number("3.12"));
        assert!(number("3.13") >= number("3.12"));
    }

    #[test]
    fn temporary_files_are_in_memory_for_every_user_while_tests_run() {
        let Some(folder) = temporary() else {
            println!("skipped: no room in memory for temporary files");
            return;
        };
        let path = folder.path().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o1777);
        let program = path.join("program");
        std::fs::copy("/bin/true", &program).unwrap();
        Command::new(&program).read(Exit::Build).unwrap();
        // Tests call the program, and each call removes what killed ones have left.
        xtask_host::scratch::sweep_temporary();
        assert!(program.exists());
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn some_python_of_this_machine_is_found_and_answers() {
        let Ok(found) = host_python("3.0") else {
            assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "no python3 on the PATH");
            println!("skipped: no python3 on the PATH");
            return;
        };
        assert!(found.served);
        // None is served by a lock for a Python of the far future, and the first one is still named.
        assert_eq!(host_python("99.0").map(|found| found.served).ok(), Some(false));
    }

    #[test]
    fn uv_starts_no_python_of_the_path() {
        let named = std::env::var_os("XTASK_TEST_UV").map(PathBuf::from).or_else(|| process::found("uv"));
        let (Some(uv), Some(real)) = (named, process::found("python3")) else {
            assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "no uv or no python3");
            println!("skipped: no uv or no python3");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let (stand_in, started) = (folder.path().join("python3"), folder.path().join("started"));
        let script = format!("#!/bin/sh\necho >> {}\nexec {} \"$@\"\n", started.display(), real.display());
        std::fs::write(&stand_in, script).unwrap();
        std::fs::set_permissions(&stand_in, Permissions::from_mode(0o755)).unwrap();
        let found = pythons(&[&stand_in, &stand_in, &real]).unwrap();
        let tools = Tools { uv: Uv::at(uv).unwrap(), python: real, cosign: PathBuf::new(), pythons: found };
        let starts = std::fs::read_to_string(&started).unwrap();
        let call = Command::new(tools.uv.program()).args(["python", "find", "--system", "--no-config"]);
        let call = tools
            .variables()
            .into_iter()
            .fold(call.current_dir(folder.path()), |call, (name, value)| call.env(name, value));
        let all = std::env::var_os("PATH").unwrap_or_default();
        let all =
            std::env::join_paths(std::iter::once(folder.path().to_owned()).chain(std::env::split_paths(&all))).unwrap();
        let found = call.env("PATH", all).env_remove("VIRTUAL_ENV").read(Exit::Missing);
        found.unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(std::fs::read_to_string(&started).unwrap(), starts);
    }
}
