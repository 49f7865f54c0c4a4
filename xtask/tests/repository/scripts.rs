//! The scripts next to the base's Dockerfile, by this machine's Python: what they let pass, what they refuse and what they skip.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Copies the environments of one distribution each into another: all, or after `--reinstall-package` the named one.
const INSTALLER: &str = r#"
import pathlib, shutil, sys
source, home = map(pathlib.Path, sys.argv[1:3])
for wheel in sorted(source.iterdir(), reverse=True):
    if len(sys.argv) < 4 or sys.argv[4] == wheel.name:
        shutil.copytree(wheel, home, dirs_exist_ok=True)
"#;

const SITE: &str = "lib/python3.9/site-packages";

const NAMESPACE: &str = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n";
const OTHER_NAMESPACE: &str = "'''Mine.'''\ntry:\n    import pkg_resources\n    pkg_resources.declare_namespace(__name__)\n\
    except ImportError:\n    import pkgutil\n    __path__ = pkgutil.extend_path(__path__, __name__)\n";

/// The Python of this machine itself, not a program that chooses one each time.
fn interpreter() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
        PathBuf::from(text(&asked.stdout).trim())
    })
}

type Files<'a> = &'a [(&'a str, &'a str)];

/// A folder with wheels to install.
struct World(tempfile::TempDir);

impl World {
    fn new(distributions: &[(&str, Files<'_>)]) -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        std::fs::write(world.path("installer.py"), INSTALLER).unwrap();
        std::fs::create_dir_all(world.site()).unwrap();
        for (name, files) in distributions {
            let info = format!("{}-1.dist-info", name.replace('-', "_"));
            let mut record = format!("{info}/RECORD,,\n{info}/METADATA,,\n");
            let write = |path: &str, text: &str| {
                let site = world.path("wheels").join(name).join(SITE);
                std::fs::create_dir_all(&site).unwrap();
                let path = site.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            };
            let mut metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1\n");
            for (path, text) in *files {
                match *path {
                    "METADATA" => metadata += text,
                    path => {
                        // uv gives no hash for a file that the wheel's own RECORD does not list.
                        let listed = !path.starts_with('!');
                        let path = path.trim_start_matches('!');
                        write(path, text);
                        // Hashes need only differ where the bytes do.
                        let hash = if listed { format!("sha256={}", text.len()) } else { String::new() };
                        record += &format!("{path},{hash},{}\n", text.len());
                    }
                }
            }
            write(&format!("{info}/METADATA"), &metadata);
            write(&format!("{info}/RECORD"), &record);
        }
        world
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn site(&self) -> PathBuf {
        self.path("venv").join(SITE)
    }

    fn python(&self, script: &str) -> Command {
        let mut call = Command::new(interpreter());
        // Nothing that is installed on this machine.
        call.current_dir(self.0.path()).env("PYTHONDONTWRITEBYTECODE", "1").arg("-S");
        call.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../dockerfiles").join(script));
        call
    }

    fn install(&self) -> Output {
        let mut call = self.python("install.py");
        call.arg(self.site());
        let installer = [self.path("installer.py"), self.path("wheels"), self.path("venv")];
        call.arg(interpreter()).arg("-S").args(installer).output().unwrap()
    }

    fn check(&self) -> Output {
        assert_eq!(self.install().status.code(), Some(0));
        // What distributions require of each other has tests of its own, in `lock`.
        self.python("check-imports.py").arg("--no-requirements").env("PYTHONPATH", self.site()).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Checks the output of `install.py` for distributions `a` and `b` with these files; `code` is its exit code.
#[track_caller]
fn installs(a: Files<'_>, b: Files<'_>, code: i32, said: &str) {
    let world = World::new(&[("a", a), ("b", b)]);
    let output = world.install();
    assert_eq!((output.status.code(), text(&output.stderr).trim()), (Some(code), said));
    if code == 0 {
        // The installer lays down `a` last.
        for (path, bytes) in b {
            assert_eq!(std::fs::read_to_string(world.site().join(path)).unwrap(), *bytes, "{path}");
        }
    }
}

#[test]
fn wheels_that_share_a_path_have_the_last_ones_file_and_a_warning() {
    let paths = [
        "LICENSE",
        "README.md",
        "tests/__init__.py",
        "tests/conftest.py",
        "test/support.py",
        "docs/conf.py",
        "examples/one.py",
        "conftest.py",
        "setup.py",
        "test_it.py",
        "a/tests/data.py",
        "a/py.typed",
        "a/_c.pyi",
        "licenses/MIT.txt",
        "../../../bin/tool",
        "../../../share/man/man1/tool.1",
    ];
    let of_a: Vec<(&str, &str)> =
        [("a/__init__.py", "x = 1\n")].into_iter().chain(paths.map(|path| (path, "of a"))).collect();
    let shown = "`../../../bin/tool`, `../../../share/man/man1/tool.1`, `LICENSE`, `README.md`, `a/_c.pyi` and 11 more";
    let said = format!("warning: `a` and `b` have different files at {shown}; the image has those of `b`");
    installs(&of_a, &paths.map(|path| (path, "b")), 0, &said);
    let warning =
        |path: &str| format!("warning: `a` and `b` have different files at `{path}`; the image has those of `b`");
    let path = "space/__init__.py";
    for (one, two) in [(NAMESPACE, OTHER_NAMESPACE), (OTHER_NAMESPACE, ""), ("# nothing\n", NAMESPACE)] {
        installs(&[(path, one), ("space/a.py", "")], &[(path, two), ("space/b.py", "")], 0, &warning(path));
    }
    installs(&[("tests/a.py", "1")], &[("tests/a.py", "1")], 0, "");
}

#[test]
fn a_wheel_that_carries_another_package_s_file_is_refused() {
    let differ = |path: &str| format!("error: `a` and `b` have different files at `{path}`");
    let package = ("numpy/__init__.py", "real = True\n");
    for path in ["numpy/__init__.py", "numpy/core.py", "numpy/data.bin", "numpy/_c.abi3.so", "six.py", "x.pth"] {
        installs(&[package, (path, "of a")], &[(path, "b")], 3, &differ(path));
    }
    // One that only declares a namespace, in place of a package.
    installs(&[package], &[("numpy/__init__.py", NAMESPACE)], 3, &differ("numpy/__init__.py"));
    // A file that the wheel's own RECORD does not list, whoever is installed last.
    let core = ("numpy/core.py", "real = True\n");
    installs(&[core], &[("!numpy/core.py", "b")], 3, &differ("numpy/core.py"));
    installs(&[("!numpy/core.py", "a")], &[core], 3, &differ("numpy/core.py"));
    installs(&[("!numpy/core.py", "a")], &[("!numpy/core.py", "b2")], 3, &differ("numpy/core.py"));
    // A test folder's name that is the distribution's own.
    installs(&[("a/x.py", "1"), ("b/x.py", "12")], &[("b/x.py", "2")], 3, &differ("b/x.py"));
}

#[test]
fn a_wheel_that_hides_another_one_s_module_is_refused() {
    let hides = "error: `six/__init__.py` of `b` hides `six.py` of `a`";
    installs(&[("six.py", "x = 1\n")], &[("six/__init__.py", "")], 3, hides);
    let library = "error: `one/__init__.abi3.so` of `b` hides `one/__init__.py` of `a`";
    installs(&[("one/__init__.py", "")], &[("one/__init__.abi3.so", "")], 3, library);
    let code = "one/__pycache__/__init__.cpython-313.pyc";
    let said = format!("error: `b` has byte code at `{code}` for the source of `a`");
    installs(&[("one/__init__.py", "")], &[(code, "")], 3, &said);
    let python = "error: `b` has a file in place of the environment's own: `../../../bin/python3`";
    installs(&[], &[("../../../bin/python3", "")], 3, python);
    // argcomplete has such a name.
    installs(&[], &[("../../../bin/activate-global-python-argcomplete", "")], 0, "");
    // pytest's `py.py` is for whoever does not have `py`.
    installs(&[("b.py", "")], &[("b/__init__.py", "")], 0, "");
}

#[test]
fn an_environment_shows_no_time_of_its_installation() {
    let files: Files<'_> = &[("a/__init__.py", "x = 1\n"), ("../../../bin/tool", "#!/bin/sh\n")];
    let world = World::new(&[("a", files)]);
    std::fs::write(world.path("venv/pyvenv.cfg"), "home = /usr/bin\n").unwrap();
    std::os::unix::fs::symlink("tool", world.path("venv/other")).unwrap();
    assert_eq!(world.install().status.code(), Some(0));
    let compiled = world.python("compile.py").arg(world.site()).output().unwrap();
    assert!(compiled.status.success(), "{}", text(&compiled.stderr));
    let times = |folder: &Path| {
        let listed = Command::new("find").arg(folder).args(["-printf", "%p %T@\n"]).output().unwrap();
        text(&listed.stdout)
    };
    let found = times(&world.path("venv"));
    assert!(found.contains("__pycache__/__init__.cpython-") && found.contains("venv/other "), "{found}");
    for line in found.lines() {
        assert!(line.ends_with(" 1767225600.0000000000"), "{line}");
    }
    // A folder outside an environment keeps its times: anything may be above it.
    let other = World::new(&[("a", files)]);
    assert_eq!(other.install().status.code(), Some(0));
    let before = times(&other.path("venv"));
    assert!(other.python("compile.py").arg(other.site().join("a")).output().unwrap().status.success());
    assert!(!times(&other.path("venv")).contains("venv 1767225600") && !before.contains(" 1767225600."), "{before}");
}

#[test]
fn wheels_are_judged_without_being_installed() {
    let world = World::new(&[]);
    let judge = |path: &str| {
        let rows = serde_json::json!({ path: "sha256=x", "a/__init__.py": "sha256=y" });
        let facts = serde_json::json!({
            "rows": { "a": rows, "b": { path: "sha256=z" } },
            "versions": { path: { "b": "Yg==", "a": "YQ==" } },
        });
        std::fs::write(world.path("facts.json"), facts.to_string()).unwrap();
        let facts = std::fs::File::open(world.path("facts.json")).unwrap();
        let output = world.python("install.py").arg("--judge").stdin(facts).output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr).trim().to_owned())
    };
    let warning =
        "{\"warnings\": [\"`a` and `b` have different files at `tests/x.py`; the image has those of `b`\"]}\n";
    assert_eq!(judge("tests/x.py"), (Some(0), warning.to_owned(), String::new()));
    let (code, _, error) = judge("a/x.py");
    assert_eq!((code, error.as_str()), (Some(3), "`a` and `b` have different files at `a/x.py`"));
}

#[test]
fn a_failed_installer_keeps_its_exit_code() {
    let world = World::new(&[]);
    let call = world.python("install.py").arg(world.site()).args(["python3", "-c", "raise SystemExit(7)"]).status();
    assert_eq!(call.unwrap().code(), Some(7));
}

/// Checks the result of the import check for distributions: its exit code, the lines that it passes over, and its last words.
#[track_caller]
fn imports(distributions: &[(&str, Files<'_>)], code: i32, passed: &[&str], failed: &[&str]) {
    let output = World::new(distributions).check();
    let (said, wrong) = (text(&output.stdout), text(&output.stderr));
    let ours = |line: &&str| distributions.iter().any(|(name, _)| line.starts_with(&format!("{name} 1: ")));
    let found: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("passed over: ")).filter(ours).collect();
    assert_eq!(found, passed, "{said}{wrong}");
    assert_eq!(wrong.lines().filter(ours).collect::<Vec<_>>(), failed, "{said}{wrong}");
    assert!(output.status.code().is_some_and(|found| (found == 0) == (code == 0)), "{said}{wrong}");
}

#[test]
fn data_and_a_project_s_own_files_are_never_imported() {
    let beside = |module: &str| format!("odd 1: {module}: it is next to the package in its project");
    let wrong = "raise ValueError\n";
    let files: Files<'_> = &[
        ("odd/__init__.py", ""),
        ("LICENSE", ""),
        ("CHANGELOG.md", ""),
        ("data/table.csv", ""),
        ("tests/__init__.py", wrong),
        ("conftest.py", wrong),
        ("setup.py", "import sys; sys.exit(1)\n"),
        ("odd.libs/libx.so", ""),
        ("libodd.so", "no module"),
    ];
    imports(&[("odd", files)], 0, &[&beside("conftest"), &beside("setup"), &beside("tests")], &[]);
    imports(&[("tests", &[("tests/__init__.py", wrong)])], 1, &[], &["tests 1: cannot import tests: ValueError"]);
    imports(&[("stubs", &[("x-stubs/a.pyi", "")])], 0, &["stubs 1: it has no module to import"], &[]);
    imports(&[("odd", &[("odd.py", ""), ("_odd.py", wrong)])], 0, &["odd 1: _odd: it is private"], &[]);
    imports(&[("odd", &[("odd.py", "import _odd\n"), ("_odd.py", "")])], 0, &[], &[]);
    imports(&[("odd", &[("_odd.py", wrong)])], 1, &[], &["odd 1: cannot import _odd: ValueError"]);
}

#[test]
fn modules_of_a_namespace_are_imported() {
    let failed = ["space-one 1: cannot import space.one: no such thing"];
    let wrong = ("space/one/__init__.py", "raise ImportError('no such thing')\n");
    for init in [NAMESPACE, OTHER_NAMESPACE, ""] {
        imports(&[("space-one", &[("space/__init__.py", init), wrong])], 1, &[], &failed);
    }
    imports(&[("space-one", &[wrong])], 1, &[], &failed);
    // A script that a project has left there is listed.
    let script = ("space/script.py", "raise ImportError('no such thing')\n");
    let one = ("space/one/__init__.py", "");
    imports(&[("space-one", &[one, script])], 0, &["space-one 1: space.script: no such thing"], &[]);
    imports(&[("space-one", &[script])], 1, &[], &["space-one 1: cannot import space.script: no such thing"]);
}

#[test]
fn libraries_start_no_threads_of_their_own() {
    let asks = ("asking.py", "import os\nassert os.environ['OMP_NUM_THREADS'] == '1', 'threads'\n");
    imports(&[("asking", &[asks])], 0, &[], &[]);
}

#[test]
fn what_an_extra_is_for_is_listed() {
    let extra = ("METADATA", "Requires-Dist: absent-thing; extra == 'd'\n");
    let daemon = ("blackd.py", "import absent_thing\n");
    let passed = ["black 1: blackd: it needs `absent_thing`, and an extra is not installed"];
    imports(&[("black", &[extra, ("black.py", ""), daemon])], 0, &passed, &[]);
    let failed = |module: &str| format!("black 1: cannot import {module}: No module named 'absent_thing'");
    imports(&[("black", &[("black.py", ""), daemon])], 1, &[], &[&failed("blackd")]);
    let passed = ["black 1: black: it needs `absent_thing`, and an extra is not installed"];
    imports(&[("black", &[extra, ("black.py", "import absent_thing\n")])], 0, &passed, &[]);
    let other = ("METADATA", "Requires-Dist: other; extra == 'd'\nRequires-Dist: absent-thing\n");
    imports(&[("black", &[other, ("black.py", "import absent_thing\n")])], 1, &[], &[&failed("black")]);
}

#[test]
fn what_works_inside_a_program_of_its_own_is_listed() {
    let module = ("owndecorators.py", "import own\n");
    let program = ("../../../bin/own", "a program");
    let passed = ["own 1: owndecorators: it works only inside the program `own`"];
    imports(&[("own", &[module, program])], 0, &passed, &[]);
    let failed = ["own 1: cannot import owndecorators: No module named 'own'"];
    imports(&[("own", &[module])], 1, &[], &failed);
    // A program that begins in a module.
    let points = ("own-1.dist-info/entry_points.txt", "[console_scripts]\nown = own:main\n");
    imports(&[("own", &[module, program, points])], 1, &[], &failed);
    let other = ("owndecorators.py", "import others\n");
    imports(&[("own", &[other, program])], 1, &[], &["own 1: cannot import owndecorators: No module named 'others'"]);
}

#[test]
fn an_import_that_ends_python_is_named() {
    let ends = |how: &str| format!("import os, signal\n{how}\n");
    let table = BTreeMap::from([
        ("raise SystemExit(0)", "odd 1: cannot import odd: it ends Python"),
        ("os._exit(0)", "odd 1: cannot import odd: it ended Python with exit code 0"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "odd 1: cannot import odd: signal 11 ended Python"),
    ]);
    for (how, said) in table {
        imports(&[("odd", &[("odd.py", &ends(how))])], 1, &[], &[said]);
    }
}

/// The enhanced image compiles the program in a workspace whose other members are manifests and empty sources: cargo has to read it.
#[test]
fn cargo_reads_the_workspace_of_the_enhanced_image() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("dockerfiles/Dockerfile.enhanced")).unwrap();
    let (_, stage) = text.split_once(" AS rust\n").unwrap();
    let (stage, _) = stage.split_once("\nFROM ").unwrap();
    assert!(
        stage.contains("\nCOPY .cargo/config.toml .cargo/config.toml\n"),
        "it leaves out the unused parts of SQLite"
    );
    let folder = tempfile::tempdir().unwrap();
    for copied in stage.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let words: Vec<&str> = copied.split_whitespace().collect();
        for path in words[..words.len() - 1].iter().filter(|path| path.contains("Cargo.")) {
            let to = folder.path().join(path);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(root.join(path), to).unwrap();
        }
    }
    for member in ["", "forecast", "floor", "show", "cluster", "cli"] {
        let sources = folder.path().join("autoscaler").join(member).join("src");
        std::fs::create_dir_all(&sources).unwrap();
        std::fs::write(sources.join("lib.rs"), "").unwrap();
    }
    std::fs::write(folder.path().join("autoscaler/src/main.rs"), "").unwrap();
    let begin = stage.find("for member in ").unwrap();
    let end = begin + stage[begin..].find("done").unwrap() + "done".len();
    let made = Command::new("sh").arg("-ec").arg(&stage[begin..end]).current_dir(folder.path()).status().unwrap();
    assert!(made.success());
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version=1", "--locked", "--offline", "--no-deps"]);
    let read = cargo.current_dir(folder.path()).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}
