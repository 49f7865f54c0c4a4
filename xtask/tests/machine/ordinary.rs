//! A Debian root on a machine without an engine, by root and by an ordinary user: from `quickstart` to `run` and `smoke`, and what is
//! left when the installation is killed.
//!
//! The user is made up: its name and its ranges of numbers are in files that are mounted over those of `/etc`, in a mount namespace
//! that ends with the call.

use crate::sources;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xtask_model::spec::reference::Platform;

/// A user that no Debian has.
const USER: &str = "54321";

/// Returns true if this machine can run the test. If not, says why.
fn possible() -> bool {
    let why = if !rustix::process::geteuid().is_root() {
        "not root"
    } else if xtask_host::docker::debian::Host::read().is_err() {
        "not a Debian host"
    } else if xtask_host::process::found("newuidmap").is_none() {
        "`newuidmap` is not installed"
    } else if !mounts_for_itself() {
        "no mount namespaces"
    } else {
        return true;
    };
    assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "cannot run: {why}");
    println!("skipped: {why}");
    false
}

fn mounts_for_itself() -> bool {
    Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success())
}

/// A repository whose root image is in a registry that cannot be reached, and a copy of xtask for its user.
struct Repo {
    holder: TempDir,
    root: PathBuf,
    ordinary: bool,
}

impl Repo {
    fn new(ordinary: bool) -> Self {
        let holder = tempfile::Builder::new().prefix("ordinary user ").tempdir().unwrap();
        let root = holder.path().canonicalize().unwrap().join("repository");
        fs::set_permissions(holder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        sources::begin(&root);
        sources::write(
            &root,
            "images.toml",
            &format!(
                "[project]\nname = \"app\"\nengine = \"native\"\nregistry = \"127.0.0.1:1/none\"\n\
                 source = \"https://example.com/app\"\nplatforms = [\"{}\"]\n\n\
                 [root]\nimage = \"127.0.0.1:1/none:1\"\npython = \"3.13\"\nfallback = \"debian\"\n\n\
                 [root.debian]\nsuite = \"trixie\"\npython = \"3.13\"\n\n[base]\n\n[base.stages]\nuser = \"user\"\n\n[app]\n\n\
                 [smoke]\nuser = 10001\n\n[[smoke.run]]\nname = \"page\"\nargs = []\ncontains = \"one\"\n",
                Platform::host()
            ),
        );
        let base = sources::native_base("COPY --link requirements-enhanced.lock /opt/venv/\n");
        sources::write(&root, "dockerfiles/Dockerfile.base", &base);
        sources::write(&root, "dockerfiles/Dockerfile.fast", sources::FAST);
        sources::lock(&root, "3.13", "", &[]);
        fs::copy(env!("CARGO_BIN_EXE_xtask"), holder.path().join("xtask")).unwrap();
        fs::create_dir(holder.path().join("home")).unwrap();
        if ordinary {
            let owner = format!("{USER}:{USER}");
            let given = Command::new("chown").args(["-R", &owner]).arg(holder.path()).status().unwrap();
            assert!(given.success());
        }
        let repo = Self { holder, root, ordinary };
        repo.write_accounts("made-up:3000000:65536\n");
        repo
    }

    /// The files that are mounted over those of `/etc`.
    fn write_accounts(&self, ranges: &str) {
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let home = self.holder.path().join("home");
        let own = format!("made-up:x:{USER}:{USER}::{}:/bin/sh\n", home.display());
        fs::write(self.holder.path().join("passwd"), format!("{}\n{own}", passwd.trim_end())).unwrap();
        fs::write(self.holder.path().join("ranges"), ranges).unwrap();
    }

    fn xtask(&self, args: &[&str]) -> Command {
        let mounts = "mount --bind \"$0/passwd\" /etc/passwd && mount --bind \"$0/ranges\" /etc/subuid && \
                      mount --bind \"$0/ranges\" /etc/subgid && exec setpriv --reuid \"$1\" --regid \"$1\" --clear-groups \"${@:2}\"";
        let xtask = self.holder.path().join("xtask");
        let mut call = if self.ordinary {
            let mut call = Command::new("unshare");
            call.args(["-m", "bash", "-c", mounts]).arg(self.holder.path()).arg(USER).arg(xtask);
            call
        } else {
            Command::new(xtask)
        };
        call.arg("--root").arg(&self.root).args(args).current_dir("/").env_clear();
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        call.env("PATH", path).env("HOME", self.holder.path().join("home")).env("LANG", "C.UTF-8");
        call.env("DOCKER_HOST", "unix:///nonexistent/docker.sock").stdin(Stdio::null());
        call
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> (String, String) {
        let output = self.xtask(args).output().unwrap();
        let (said, text) = (text(&output.stderr), text(&output.stdout));
        assert!(output.status.success(), "{args:?}: {said}");
        (text, said)
    }

    /// Entries that an installation has left in the folder of roots.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("target/root")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("root-") || name.starts_with("mmdebstrap.")).collect()
    }

    /// Starts a build and kills it in the middle of the root's installation; nothing runs and nothing is mounted then.
    fn kill_an_installation(&self) {
        let log = self.holder.path().join("log");
        let stderr = fs::File::create(&log).unwrap();
        let child = self.xtask(&["-v", "build-base"]).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let said = || fs::read_to_string(&log).unwrap();
        let limit = Instant::now() + Duration::from_secs(300);
        while !said().contains("installing essential packages") {
            assert!(Instant::now() < limit, "{}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        kill(child);
        let here = self.root.to_str().unwrap();
        let limit = Instant::now() + Duration::from_secs(20);
        while !processes(here).is_empty() {
            assert!(Instant::now() < limit, "{:?}", processes(here));
            std::thread::sleep(Duration::from_millis(20));
        }
        // Blanks are escaped in it.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap().replace("\\040", " ");
        assert!(!mounts.contains(here), "{mounts}");
        assert_eq!(self.left().len(), 1, "{:?}", self.left());
    }
}

/// The registry that a repository's `quickstart` starts; ended with the value.
struct Registry<'r>(&'r Repo);

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        let ended = self.0.xtask(&["engine", "down"]).output();
        if !ended.is_ok_and(|output| output.status.success()) {
            println!("the registry of `{}` still runs", self.0.root.display());
        }
    }
}

/// Kills xtask: it is the child itself, for the program in front of it has become it.
fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The calls that name this folder, but for our own.
fn processes(folder: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| text(&line).replace('\0', " "));
    lines.filter(|line| line.contains(folder)).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_ordinary_user_comes_from_a_killed_installation_to_a_running_app() {
    if !possible() {
        return;
    }
    let repo = Repo::new(true);
    repo.kill_an_installation();
    let _registry = Registry(&repo);
    let (reference, said) = repo.ok(&["quickstart", "--yes"]);
    assert!(said.contains("Debian trixie with Python 3.13"), "{said}");
    assert!(said.contains("runs as user 10001") && reference.contains("/app@sha256:"), "{reference}{said}");
    assert_eq!(repo.left(), [""; 0]);
    // One folder of package lists for all that is fetched, which apt parses once.
    let suite = xtask_host::docker::debian::Host::read().unwrap().suite;
    assert!(repo.root.join(format!("target/debian/{suite}/packages.bin")).is_file());
    assert!(!repo.root.join("target/root/debian").exists());
    assert_eq!(repo.ok(&["-q", "run"]).0, "<p>one</p>\n");
    assert!(repo.ok(&["smoke"]).1.contains("page"));
}

#[test]
fn a_root_that_was_killed_while_it_was_installed_leaves_no_mount_and_no_process_and_is_swept() {
    if !possible() {
        return;
    }
    let repo = Repo::new(false);
    repo.kill_an_installation();
    // There is no app yet: what it needs of this machine is cleaned up all the same.
    let output = repo.xtask(&["run"]).output().unwrap();
    assert!(text(&output.stderr).contains("has not been built"), "{}", text(&output.stderr));
    assert_eq!(repo.left(), [""; 0]);
}

#[test]
fn an_ordinary_user_sees_what_a_root_needs() {
    if !possible() {
        return;
    }
    let repo = Repo::new(true);
    let says = |ranges: &str, path: Option<&Path>, expected: &str| {
        repo.write_accounts(ranges);
        let mut call = repo.xtask(&["build-base"]);
        if let Some(path) = path {
            call.env("PATH", path);
        }
        let output = call.output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(expected), "{expected}: {}", text(&output.stderr));
    };
    says("", None, "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 made-up");
    says("made-up:3000000:1000\n", None, "has no range of 65535 numbers for user `made-up`");
    says("other:3000000:65536\n", None, "has no range of 65535 numbers for user `made-up`");
    // The programs that everything else needs, without the two that name users.
    let bare = repo.holder.path().join("bin");
    fs::create_dir(&bare).unwrap();
    for program in
        ["apt-config", "apt-get", "bash", "dpkg", "getconf", "git", "id", "mount", "perl", "setpriv", "sh", "unshare"]
    {
        let found = xtask_host::process::found(program).unwrap();
        std::os::unix::fs::symlink(found, bare.join(program)).unwrap();
    }
    says("made-up:3000000:65536\n", Some(&bare), "install it: `apt-get install uidmap`");
    assert_eq!(repo.left(), [""; 0]);
}
