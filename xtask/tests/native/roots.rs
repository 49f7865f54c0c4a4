//! A root that has to be built: its images are planned again on it, and their program is compiled meanwhile.
//!
//! `mmdebstrap` is a stand-in here, which waits for the program's build script; a real one is in `machine/root.rs`.

use crate::fixture::{Call, Outcome, actions, until};
use crate::world::World;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use xtask_host::process::{self, Command};
use xtask_model::fault::Exit;

/// Gives the root once the program is being compiled; fails where it is not, and fails or never ends where it is asked to.
const MMDEBSTRAP: &str = "#!/bin/sh\n\
    echo called >> \"$NOTES/mmdebstrap\"\n\
    for arg; do case \"$arg\" in */root.tar) to=$arg ;; esac; done\n\
    case \"$DPKG_FORCE\" in *unsafe-io) ;; *) echo 'E: dpkg waits for the disk'; exit 1 ;; esac\n\
    tries=0\n\
    until [ -e \"$NOTES/compiling\" ]; do\n\
    tries=$((tries + 1))\n\
    [ \"$tries\" -lt 1200 ] || { echo 'E: nothing is compiled'; exit 1; }\n\
    sleep 0.05\n\
    done\n\
    [ ! -e \"$NOTES/hangs\" ] || sleep 600\n\
    [ ! -e \"$NOTES/fails\" ] || { echo 'E: as asked'; exit 1; }\n\
    cp \"$NOTES/root.tar\" \"$to\"\n";

/// The build script of the program: says that it runs, and does not end by itself where the root fails or never ends.
const SCRIPT: &str = "fn main() {\n    let notes = std::path::PathBuf::from(std::env::var(\"NOTES\").unwrap());\n    \
    std::fs::write(notes.join(\"compiling\"), \"\").unwrap();\n    \
    while notes.join(\"fails\").exists() || notes.join(\"hangs\").exists() {\n        std::thread::sleep(std::time::Duration::from_millis(50));\n    }\n    \
    println!(\"cargo::rerun-if-changed=build.rs\");\n}\n";

/// A repository with a program, whose root nobody serves.
struct Unbuilt {
    world: World,
    /// The stand-ins, and what they write down.
    notes: PathBuf,
    _folder: tempfile::TempDir,
}

impl Unbuilt {
    fn new(name: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || xtask_host::docker::debian::Host::read().is_err() {
            assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "not root on a Debian host");
            println!("skipped: not root on a Debian host");
            return None;
        }
        let world = World::new(name)?;
        let folder = tempfile::tempdir().unwrap();
        let notes = folder.path().canonicalize().unwrap();
        let cargo = process::found("cargo").unwrap();
        let counted = format!("#!/bin/sh\necho \"$1\" >> \"$NOTES/cargo\"\nexec '{}' \"$@\"\n", cargo.display());
        program(&notes.join("bin/mmdebstrap"), MMDEBSTRAP);
        program(&notes.join("bin/cargo"), &counted);
        root(&notes);
        let repo = &world.repo;
        let policy = repo.read("images.toml").replace(&format!("{}:1", world.root()), "127.0.0.1:1/none:1");
        let policy = policy.replace("python = \"3.12\"\n", "python = \"3.12\"\nfallback = \"debian\"\n");
        let policy = policy.replace("[base.stages]\nuser = \"user\"\n", "[app.binary]\npackage = \"tool\"\n");
        repo.write("images.toml", &policy);
        repo.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"tool\"]\n");
        repo.write("tool/Cargo.toml", "[package]\nname = \"tool\"\nversion = \"4.5.6\"\nedition = \"2024\"\n");
        repo.write("tool/build.rs", SCRIPT).write("tool/src/main.rs", "fn main() {}\n");
        repo.write("rust-toolchain.toml", include_str!("../../../rust-toolchain.toml"));
        repo.write(".dockerignore", "target\n!target/image\n.git\n");
        let base = "ARG ROOT_IMAGE\nFROM ${ROOT_IMAGE}\nCOPY --link requirements-enhanced.lock /opt/venv/\n";
        repo.write("dockerfiles/Dockerfile.base", base);
        let app =
            "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nARG BINARY=target/release/tool\nCOPY --link ${BINARY} /app/tool\n";
        repo.write("dockerfiles/Dockerfile.fast", app);
        let locked = Command::new("cargo").current_dir(&repo.path).args(["generate-lockfile", "--offline"]);
        locked.read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"));
        repo.commit("a program on a root of Debian packages");
        Some(Self { world, notes, _folder: folder })
    }

    fn xtask(&self, args: &[&str]) -> Call {
        let path = std::env::var_os("PATH").unwrap();
        let path = [self.notes.join("bin")].into_iter().chain(std::env::split_paths(&path));
        let path = std::env::join_paths(path).unwrap();
        self.world.repo.xtask(args).env("PATH", path).env("NOTES", &self.notes)
    }

    fn native(&self, args: &[&str]) -> Outcome {
        self.xtask(args).without_engine().run()
    }

    /// Waits until no program runs that the stand-ins or cargo started here.
    #[track_caller]
    fn everything_ends(&self) {
        let here = [&self.notes, &self.world.repo.path].map(|path| path.to_str().unwrap());
        let lines = || -> Vec<String> {
            let all = fs::read_dir("/proc").unwrap().flatten();
            let lines = all.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
            lines.filter(|line| here.iter().any(|path| line.contains(path))).collect()
        };
        until(|| lines().is_empty(), || lines().join("\n"));
    }

    /// Lines that a stand-in wrote: one for each time that it was started.
    fn calls(&self, of: &str) -> Vec<String> {
        let text = fs::read_to_string(self.notes.join(of)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Checks how often a root was installed and the program compiled.
    #[track_caller]
    fn did(&self, roots: usize, compilations: usize) {
        let builds = self.calls("cargo").into_iter().filter(|command| command == "build").count();
        assert_eq!((self.calls("mmdebstrap").len(), builds), (roots, compilations));
    }
}

fn program(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Root as `mmdebstrap` would make it, as far as anything asks.
fn root(notes: &Path) {
    let status = "Package: python3.13-minimal\nStatus: install ok installed\nVersion: 3.13.5-2\n";
    for (path, text) in [("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("var/lib/dpkg/status", status)] {
        let path = notes.join("root").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let packed = Command::new("tar").args(["cf", "root.tar", "-C", "root", "etc", "var"]).current_dir(notes);
    packed.read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn the_program_is_compiled_while_the_root_is_built_and_only_once() {
    for engine in ["native", "docker"] {
        let Some(unbuilt) = Unbuilt::new("unbuilt") else { return };
        let build = ["build", "--push", "--engine", engine, "--format", "json"];
        let call = || match engine {
            "native" => unbuilt.native(&build).ok(),
            _ => unbuilt.xtask(&build).run().ok(),
        };
        let report = call().report();
        assert_eq!(report.actions(), actions("built", "built"));
        let phases = |kind: &str| -> Vec<String> {
            let seconds = report.image(kind)["seconds"].as_array().unwrap();
            seconds.iter().map(|phase| phase[0].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(phases("base")[..2], ["plan", "root"], "{report:?}");
        assert_eq!(phases("app")[0], "compile", "{report:?}");
        unbuilt.did(1, 1);
        assert_eq!(unbuilt.world.repo.tags("app-root").len(), 0, "the root's tag is of a platform");
        assert!(unbuilt.world.repo.published("app-base", "latest").is_none(), "the network has chosen the root");
        assert_eq!(call().report().actions(), actions("reused", "reused"));
        unbuilt.did(1, 1);
    }
}

#[test]
fn a_root_that_fails_ends_the_compilation_and_is_what_is_reported() {
    let Some(unbuilt) = Unbuilt::new("unbuiltfails") else { return };
    fs::write(unbuilt.notes.join("fails"), "").unwrap();
    let said = unbuilt.native(&["build", "--push"]).ends(4).says("`mmdebstrap trixie` failed").says("E: as asked");
    assert!(!said.stderr.contains("cannot compile"), "{}", said.stderr);
    unbuilt.did(1, 1);
    unbuilt.everything_ends();
    assert_eq!((unbuilt.world.repo.tags("app-base"), unbuilt.world.repo.tags("app")), (vec![], vec![]));
    // The next command is not disturbed by what the first one left.
    fs::remove_file(unbuilt.notes.join("fails")).unwrap();
    unbuilt.native(&["build", "--push"]).ok();
    unbuilt.did(2, 2);
}

#[test]
fn an_interruption_ends_the_root_and_the_compilation() {
    let Some(unbuilt) = Unbuilt::new("unbuiltends") else { return };
    fs::write(unbuilt.notes.join("hangs"), "").unwrap();
    let mut running = unbuilt.xtask(&["build", "--push"]).without_engine().start();
    let both = || unbuilt.notes.join("compiling").exists() && unbuilt.calls("mmdebstrap").len() == 1;
    until(both, || "they are not started".to_owned());
    running.signal(rustix::process::Signal::INT);
    running.end().ends(130);
    unbuilt.everything_ends();
}

#[test]
fn a_program_of_uncommitted_sources_is_compiled_once_and_incrementally() {
    let Some(unbuilt) = Unbuilt::new("unbuiltlocal") else { return };
    unbuilt.world.repo.write("tool/src/main.rs", "fn main() { println!(\"two\") }\n");
    unbuilt.native(&["build"]).ok().says("incrementally: its sources differ from the commit's");
    unbuilt.did(1, 1);
    assert!(unbuilt.world.repo.path.join("target/release/incremental").is_dir());
}

#[test]
fn a_root_is_built_once_for_several_apps() {
    let Some(unbuilt) = Unbuilt::new("unbuiltseveral") else { return };
    let repo = &unbuilt.world.repo;
    let apps = "[[app]]\nname = \"plain\"\ndockerfile = \"plain/Dockerfile\"\n\n[[app]]\nname = \"web\"\n";
    repo.edit("images.toml", "[app]\n# app settings\n", apps);
    repo.write("plain/Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY --link templates /app/templates\n");
    repo.commit("several");
    for roots in 1..=2 {
        let report = unbuilt.native(&["build", "--push", "--force", "--format", "json"]).ok().report();
        let images = report.0["images"].as_array().unwrap();
        let names = images.iter().map(|image| (image["kind"].as_str().unwrap(), image["name"].as_str()));
        let expected = [("base", None), ("app", Some("plain")), ("app", Some("web"))];
        assert_eq!(names.collect::<Vec<_>>(), expected, "{report:?}");
        unbuilt.did(roots, 1);
    }
}

#[test]
fn nothing_is_built_for_a_plan_that_may_build_nothing() {
    let Some(unbuilt) = Unbuilt::new("unbuiltreuse") else { return };
    unbuilt.native(&["build", "--push", "--reuse-only"]).ends(6).says("`--reuse-only`").says("its root is built first");
    unbuilt.native(&["build-fast", "--push"]).ends(2).says("build both: `cargo xtask build`");
    unbuilt.native(&["build", "--push", "--dry-run"]).ok().says("it is not on this machine");
    unbuilt.did(0, 0);
}
