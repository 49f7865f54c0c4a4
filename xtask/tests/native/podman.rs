//! Podman where docker is missing, or is podman by another name: it keeps and runs what the native engine builds.

use crate::fixture::{Call, Repo, actions};
use crate::world::World;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A real podman with a store of its own; each call is written down.
struct Podman {
    folder: TempDir,
}

impl Podman {
    /// `None`, said aloud, where podman is not installed.
    fn new(repo: &Repo) -> Option<Self> {
        let Ok(podman) = which::which("podman") else {
            assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "cannot run: `podman` is not installed");
            println!("skipped: `podman` is not installed");
            return None;
        };
        // The repository's private engine would be found first.
        std::fs::remove_file(repo.path.join("target/engine")).unwrap();
        let folder = tempfile::Builder::new().prefix("podman").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (root, run) = (at("root"), at("run"));
        std::fs::write(
            at("storage.conf"),
            format!("[storage]\ndriver = \"vfs\"\ngraphroot = {root:?}\nrunroot = {run:?}\n"),
        )
        .unwrap();
        // As much as every machine allows: neither systemd, nor a network of its own, nor more than the limits of this process.
        let runc = repo.engine.folder().join("packages/usr/bin/runc");
        let settings = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\nnetns = \"host\"\nlog_driver = \"k8s-file\"\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n[engine.runtimes]\nrunc = [{runc:?}]\n"
        );
        std::fs::write(at("containers.conf"), settings).unwrap();
        std::fs::create_dir(at("bin")).unwrap();
        script(&at("bin/podman"), &format!("echo \"$*\" >> {:?}\nexec {podman:?} \"$@\"", at("calls")));
        for name in ["git", "sh"] {
            symlink(which::which(name).unwrap(), at("bin").join(name)).unwrap();
        }
        Some(Self { folder })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("PATH", self.at("bin")),
            ("CONTAINERS_STORAGE_CONF", self.at("storage.conf")),
            ("CONTAINERS_CONF", self.at("containers.conf")),
        ]
    }

    fn xtask(&self, repo: &Repo, args: &[&str]) -> Call {
        self.settings().into_iter().fold(repo.xtask(args), |call, (name, value)| call.env(name, value))
    }

    /// Output of podman itself.
    #[track_caller]
    fn ask(&self, args: &[&str]) -> String {
        let done = Command::new(self.at("bin/podman")).args(args).envs(self.settings()).output().unwrap();
        assert!(done.status.success(), "podman {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// The calls since the last time.
    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.at("calls")).unwrap_or_default();
        let _ = std::fs::remove_file(self.at("calls"));
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Its mounts end with its containers.
        let _ = Command::new(self.at("bin/podman")).args(["rm", "--all", "--force"]).envs(self.settings()).output();
    }
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn podman_keeps_and_runs_what_the_native_engine_builds() {
    let Some(world) = World::new("podman") else { return };
    let repo = &world.repo;
    let smoke = "[smoke]\nuser = 10001\n\n[[smoke.run]]\nname = \"page\"\nargs = []\ncontains = \"one\"\n";
    let policy = repo.read("images.toml").replace("engine = \"native\"", "engine = \"auto\"");
    repo.write("images.toml", &format!("{policy}\n{smoke}")).commit("smoke");
    let Some(podman) = Podman::new(repo) else { return };

    let report = podman.xtask(repo, &["build", "--format", "json"]).run().ok().report();
    assert_eq!(report.actions(), actions("built", "built"));
    for tag in report.tags("app") {
        let name = format!("{}/app:{tag}", repo.registry);
        assert_eq!(podman.ask(&["image", "inspect", "--format", "{{.Digest}}", &name]), report.digest("app"));
    }
    let again = podman.xtask(repo, &["build", "--format", "json"]).run().ok().report();
    assert_eq!((again.actions(), again.digest("app")), (actions("reused", "reused"), report.digest("app")));

    podman.calls();
    podman.xtask(repo, &["smoke"]).run().ok().says("runs as user 10001").says("page");
    let confined = "--network=none --read-only --cap-drop=ALL --security-opt=no-new-privileges --init=false --read-only-tmpfs=false";
    let calls = podman.calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("run ") && call.contains(confined)).count(), 2, "{calls:?}");
    assert_eq!(podman.xtask(repo, &["run"]).run().ok().stdout, "<p>one</p>\n");
    assert_eq!(podman.calls().iter().filter(|call| call.starts_with("run ")).count(), 1);
    podman.xtask(repo, &["run", "--", "/no/such/file"]).run().ends(1);

    // An image that only the registry has, which speaks no TLS.
    let pushed = podman.xtask(repo, &["build", "--push", "--format", "json"]).run().ok().report();
    let name = pushed.text("app", "reference");
    podman.ask(&["image", "rm", "--all", "--force"]);
    assert_eq!(podman.xtask(repo, &["run", &name]).run().ok().stdout, "<p>one</p>\n");

    podman
        .xtask(repo, &["doctor", "--offline"])
        .run()
        .says("podman")
        .says("it keeps and runs what the native engine builds");
    script(&podman.at("bin/docker"), "exec podman \"$@\"");
    for extra in [&["--engine", "docker"][..], &["--builder", "other", "--push"]] {
        let call = podman.xtask(repo, &[&["build"], extra].concat());
        call.run().ends(3).says("error: podman cannot build this: it has no buildx").says("`--engine native`");
    }
    assert_eq!(podman.xtask(repo, &["run", &name]).run().ok().stdout, "<p>one</p>\n");
}
