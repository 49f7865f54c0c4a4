//! Running images without an engine: real namespaces, a real program in them, as root and as an ordinary user.
//!
//! Every container runs something with a number that nobody else has, by which the tests see that it is gone.

mod apart;

use crate::busybox;
use busybox::PROGRAMS;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xtask_host::registry::layout::Layout;
use xtask_host::registry::{Client, ClientOptions};
use xtask_model::spec::oci::{self, Descriptor, Execution, media_type};
use xtask_model::spec::reference::Platform;
use xtask_native::container::bare::Bare;
use xtask_native::container::subprocess;
use xtask_native::container::unpacked::ImageStore;
use xtask_native::container::{Launch, Manner};

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");
/// An ordinary user that every Debian has.
const NOBODY: u32 = 65534;

/// Namespaces, or `None`, said aloud, where this machine gives us none.
fn bare() -> Option<Bare> {
    match Bare::through(XTASK) {
        Ok(bare) => Some(bare),
        Err(fault) => {
            assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "{fault}");
            println!("skipped: {fault}");
            None
        }
    }
}

/// The program for all images, fetched once.
fn program() -> PathBuf {
    let root = std::env::var_os("XTASK_TEST_ENGINE_ROOT");
    let root = root.map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    fs::create_dir_all(root.join("target")).unwrap();
    busybox::busybox(&root)
}

/// An unpacked image: a shell and some programs, a user `app`, a `/tmp` for everyone, and no `/proc`, `/dev` or `/etc/hosts`.
fn image() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    folder
}

fn fill(root: &Path) {
    for (name, mode) in [("", 0o755), ("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("srv", 0o755)] {
        let path = root.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::copy(program(), root.join("bin/busybox")).unwrap();
    for name in PROGRAMS.iter().chain(&["nc", "ps", "rm", "touch"]) {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:10001:10002::/srv:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "app:x:10002:\nstaff:x:50:app\n").unwrap();
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn user(user: &str) -> Execution {
    Execution { user: user.to_owned(), env: words(&["PATH=/bin"]), ..Execution::default() }
}

fn shell(manner: Manner, script: &str) -> Launch {
    Launch { entrypoint: None, args: words(&["sh", "-c", script]), manner }
}

fn confined(script: &str) -> Launch {
    shell(Manner::Confined, script)
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}

/// Checks the stdout of a confined shell of user `app`.
#[track_caller]
fn says(script: &str, expected: &str) {
    let Some(bare) = bare() else { return };
    let folder = image();
    let output = bare.run(&folder.path().into(), &user("app"), &confined(script)).unwrap();
    assert_eq!(out(&output), expected, "{}", err(&output));
}

/// A number of seconds that no other sleeper has.
fn number() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}{}", 100_000 + std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
}

/// The processes with this argument, in any namespace below ours.
fn with_argument(argument: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.split(' ').any(|word| word == argument) && line.starts_with("sleep")).collect()
}

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_filesystem_is_read_only_but_for_shared_memory() {
    says(
        "touch /x /tmp/x /srv/x /etc/x /dev/x 2>/dev/null; ls / ; ls /tmp /srv",
        "bin\ndev\netc\nproc\nsrv\ntmp\n/srv:\n\n/tmp:",
    );
    says("for path in / /tmp /dev; do touch $path/x 2>&1; done | grep -c Read-only", "3");
    says("echo 1 2>/dev/null > /proc/sys/kernel/core_pattern || echo refused", "refused");
    says("echo kept > /dev/shm/x && cat /dev/shm/x", "kept");
}

#[test]
fn there_is_no_network_but_a_loopback() {
    says("cat /proc/net/dev | grep -c :", "1");
    says("cat /proc/net/route | wc -l", "1");
    // Who has nothing more to say hangs up, so it waits for the answer first.
    says(
        "(echo pong | nc -l -p 8081 &); for i in 1 2 3 4 5 6 7 8 9; do sleep 1 | nc 127.0.0.1 8081 && break; done",
        "pong",
    );
    says("cat /etc/hosts | grep -c localhost", "2");
}

#[test]
fn there_are_no_privileges_and_none_can_be_gained() {
    let none = "0000000000000000";
    says("grep Cap /proc/self/status | grep -vc 0000000000000000", "0");
    says("grep CapBnd /proc/self/status", &format!("CapBnd:\t{none}"));
    says("grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1");
}

#[test]
fn nothing_of_the_host_is_visible() {
    says("test $(ls -d /proc/[0-9]* | wc -l) -lt 8 && echo few", "few");
    says("cat /proc/1/cmdline | head -c 2", "sh");
    says("test -s /proc/kcore; echo $?; ls /proc/acpi /proc/scsi 2>/dev/null | grep -vc :", "1\n0");
    says("ls /dev | wc -l; cat /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c", "11\n3\n3");
    says("cat /proc/sys/kernel/hostname", "container");
    says("grep -c xtask-host /proc/mounts; ls -a / | grep -c xtask", "0\n0");
    says("env | busybox sort", "HOME=/srv\nPATH=/bin\nPWD=/\nSHLVL=1");
}

#[test]
fn the_user_is_the_images() {
    says("id -u; id -g", "10001\n10002");
    let Some(bare) = bare() else { return };
    let folder = image();
    let seen = |spec: &str| {
        let id = Launch { entrypoint: Some("id".to_owned()), ..Launch::confined(&[]) };
        let output = bare.run(&folder.path().into(), &user(spec), &id).unwrap();
        out(&output).split(' ').map(|part| part.split('(').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(seen("")[..2], ["uid=0", "gid=0"]);
    assert_eq!(seen("4242:4243")[..2], ["uid=4242", "gid=4243"]);
    if bare.has_every_user() {
        let groups = confined("grep Groups /proc/self/status");
        let output = bare.run(&folder.path().into(), &user("app"), &groups).unwrap();
        assert_eq!(out(&output), "Groups:\t50 10002");
    }
    let fault = bare.run(&folder.path().into(), &user("nobody"), &confined("id")).unwrap_err();
    assert_eq!(fault.what, "the image runs as user `nobody`, which does not exist in it");
}

#[test]
fn root_without_privileges_reads_only_its_own_files() {
    let Some(bare) = bare() else { return };
    if !bare.has_every_user() {
        return println!("skipped: an ordinary user owns all of an image");
    }
    let folder = image();
    let secret = folder.path().join("etc/secret");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let read = |spec: &str| bare.run(&folder.path().into(), &user(spec), &confined("cat /etc/secret")).unwrap();
    assert_eq!(out(&read("0")), "x");
    assert!(err(&read("app")).contains("Permission denied"));
    std::os::unix::fs::chown(&secret, Some(10001), Some(10002)).unwrap();
    assert!(err(&read("0")).contains("Permission denied"), "root without capabilities is a user like any other");
}

#[test]
fn an_open_image_writes_and_the_image_stays() {
    let Some(bare) = bare() else { return };
    let folder = image();
    let script = "echo new > /tmp/x && echo new > /etc/passwd && rm /bin/cp && mkdir -p /a/b && cat /etc/passwd";
    let launch = shell(Manner::Open, script);
    let output = bare.run(&folder.path().into(), &user(""), &launch).unwrap();
    assert_eq!((out(&output), output.status.code()), ("new".to_owned(), Some(0)), "{}", err(&output));
    assert!(fs::read_to_string(folder.path().join("etc/passwd")).unwrap().contains("app"));
    assert!(folder.path().join("bin/cp").symlink_metadata().is_ok() && !folder.path().join("a").exists());
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
}

#[test]
fn the_exit_code_is_the_programs() {
    let Some(bare) = bare() else { return };
    let folder = image();
    let code = |script: &str| bare.run(&folder.path().into(), &user("app"), &confined(script)).unwrap().status.code();
    assert_eq!(code("exit 0"), Some(0));
    assert_eq!(code("exit 7"), Some(7));
    assert_eq!(code("sh -c 'kill -9 $$'; exit $?"), Some(137));
    assert_eq!(code("no-such-program"), Some(127));
    let missing = Launch { entrypoint: Some("no-such-program".to_owned()), ..Launch::confined(&[]) };
    let output = bare.run(&folder.path().into(), &user("app"), &missing).unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(err(&output).starts_with("cannot run `no-such-program`: "), "{}", err(&output));
    let unreadable = Execution { working_dir: "/etc/passwd".to_owned(), ..user("app") };
    let output = bare.run(&folder.path().into(), &unreadable, &confined("true")).unwrap();
    assert_eq!(output.status.code(), Some(126), "{}", err(&output));
}

#[test]
fn streams_are_separate_and_complete() {
    let Some(bare) = bare() else { return };
    let folder = image();
    let script = "echo one; echo two >&2; head -c 3000000 /dev/zero; echo three >&2";
    let output = bare.run(&folder.path().into(), &user("app"), &confined(script)).unwrap();
    assert_eq!((output.stdout.len(), err(&output)), (3_000_004, "two\nthree".to_owned()));
}

#[test]
fn arguments_environment_and_folder_are_unchanged() {
    let Some(bare) = bare() else { return };
    let folder = image();
    let odd = ["a b", "$HOME", "`id`", "é'\"\n", "", "--privileged"];
    let image = Execution {
        entrypoint: Some(words(&["sh", "-c", "printf '%s|' \"$@\"; echo \"$ODD\"; pwd", "sh"])),
        env: words(&["PATH=/bin", "ODD=a=b c", "PATH=/bin"]),
        working_dir: "/srv/new/folder".to_owned(),
        ..user("app")
    };
    let output = bare.run(&folder.path().into(), &image, &Launch::confined(&words(&odd))).unwrap();
    assert_eq!(out(&output), format!("{}|a=b c\n/srv/new/folder", odd.join("|")), "{}", err(&output));
}

#[test]
fn a_container_in_the_background_runs_programs_and_ends() {
    let Some(bare) = bare() else { return };
    let (folder, number) = (image(), number());
    let script =
        format!("trap '' TERM INT HUP; echo begun; (echo pong | nc -l -p 8080) & sleep {number} & wait; wait; wait");
    let mut container = bare.start(&folder.path().into(), &user("app"), &confined(&script)).unwrap();
    wait_until("it does not begin", || container.log().unwrap() == "begun\n" && with_argument(&number).len() == 1);
    let mut ask = |script: &str| container.exec(&words(&["sh", "-c", script])).unwrap();
    assert_eq!(out(&ask("id -u; id -g; pwd")), "10001\n10002\n/");
    assert_eq!(out(&ask("nc 127.0.0.1 8080 < /dev/null")), "pong");
    assert_eq!(
        out(&ask("grep -e CapBnd -e CapEff -e NoNew /proc/self/status")),
        out(&ask("grep -e CapBnd -e CapEff -e NoNew /proc/1/status"))
    );
    assert!(err(&ask("touch /tmp/x")).contains("Read-only"));
    assert_eq!(ask("exit 9").status.code(), Some(9));
    assert_eq!(container.exec(&words(&["no-such"])).unwrap().status.code(), Some(127));
    // What is run in it goes with it, even what nobody waits for.
    let second = self::number();
    assert_eq!(
        out(&container.exec(&words(&["sh", "-c", &format!("sleep {second} >/dev/null 2>&1 & echo on")])).unwrap()),
        "on"
    );
    assert!(container.runs().unwrap());
    drop(container);
    assert_eq!(with_argument(&number), [""; 0]);
    assert_eq!(with_argument(&second), [""; 0]);
}

#[test]
fn a_container_that_has_ended_reports_it() {
    let Some(bare) = bare() else { return };
    let folder = image();
    let mut container = bare.start(&folder.path().into(), &user("app"), &confined("echo last words; exit 3")).unwrap();
    wait_until("it does not end", || !container.runs().unwrap());
    let asked = container.exec(&words(&["true"]));
    assert!(asked.is_err() || asked.unwrap().status.code() == Some(125));
    assert_eq!(container.log().unwrap(), "last words\n");
    assert_eq!(container.end().unwrap().code(), Some(3));
}

#[test]
fn many_containers_share_an_image() {
    let Some(bare) = bare() else { return };
    let folder = image();
    std::thread::scope(|scope| {
        let run = || out(&bare.run(&folder.path().into(), &user("app"), &confined("sleep 0.2; echo $$")).unwrap());
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(run)).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap() == "1"));
    });
}

#[test]
fn links_in_an_image_stay_inside() {
    let Some(bare) = bare() else { return };
    let (folder, outside) = (image(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("hosts"), "mine\n").unwrap();
    let root = folder.path();
    let host = Path::new("/.xtask-host").join(outside.path().strip_prefix("/").unwrap());
    for (link, target) in [
        ("proc", outside.path()),
        ("dev", &host),
        ("etc/hosts", &host.join("hosts")),
        ("etc/resolv.conf", &outside.path().join("hosts")),
        ("there", &host),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
    let image = Execution { working_dir: "/there/made".to_owned(), ..user("") };
    let output =
        bare.run(&root.into(), &image, &shell(Manner::Open, "cat /proc/1/comm; cat /etc/hosts | wc -l")).unwrap();
    assert!(output.status.code() != Some(125), "{}", err(&output));
    assert_eq!(fs::read_to_string(outside.path().join("hosts")).unwrap(), "mine\n");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    // Account files that are links are not read: they would be the host's.
    fs::remove_file(root.join("etc/passwd")).unwrap();
    symlink("/etc/passwd", root.join("etc/passwd")).unwrap();
    assert!(bare.run(&root.into(), &user("daemon"), &confined("true")).is_err());
}

#[test]
fn an_image_in_a_folder_with_any_name_runs() {
    let Some(bare) = bare() else { return };
    let holder = tempfile::tempdir().unwrap();
    let folder = holder.path().join("a, b:c=d\\e 'f' é");
    fs::create_dir(&folder).unwrap();
    fill(&folder);
    assert_eq!(out(&bare.run(&folder.as_path().into(), &user("app"), &confined("echo here")).unwrap()), "here");
}

/// A repository whose image is in a layout on this machine, and where no engine answers.
struct Repo {
    holder: TempDir,
    root: PathBuf,
    /// The user that calls xtask, and a copy of it that this user can read.
    user: Option<u32>,
    xtask: PathBuf,
}

impl Repo {
    /// For whoever runs this, or for another user, which root alone can become.
    fn new(user: Option<u32>) -> Self {
        let holder = tempfile::tempdir().unwrap();
        fs::set_permissions(holder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (root, xtask) = (holder.path().join("repository"), holder.path().join("xtask"));
        fs::create_dir_all(root.join("dockerfiles")).unwrap();
        fs::copy(XTASK, &xtask).unwrap();
        let repo = Self { holder, root, user, xtask };
        for path in ["dockerfiles/Dockerfile.base", "dockerfiles/Dockerfile.fast"] {
            fs::write(repo.root.join(path), "FROM scratch\n").unwrap();
        }
        fs::write(repo.root.join("requirements-enhanced.txt"), "").unwrap();
        fs::write(repo.root.join("requirements-enhanced.lock"), "").unwrap();
        fs::write(repo.root.join("dockerfiles/installer.lock"), "").unwrap();
        fs::write(
            repo.root.join("images.toml"),
            "[project]\nname = \"app\"\nregistry = \"127.0.0.1:1/none\"\nsource = \"https://example.com/app\"\n\
             platforms = [\"linux/amd64\"]\n\n[root]\nimage = \"example.com/root:1\"\npython = \"3.12\"\n\n[base]\n\n[app]\n\n\
             [smoke]\nuser = 10001\n\n[[smoke.run]]\nname = \"words\"\nargs = [\"echo\", \"a word\"]\ncontains = \"a word\"\n",
        )
        .unwrap();
        repo.write_layout();
        repo.give_away();
        repo
    }

    /// Two layers, of which the second takes something of the first away.
    fn write_layout(&self) {
        let layout = Layout::open_or_create(&self.root.join("target/images/app")).unwrap();
        let tree = tempfile::tempdir().unwrap();
        fill(tree.path());
        let mut first = tar::Builder::new(Vec::new());
        first.follow_symlinks(false);
        first.append_dir_all("", tree.path()).unwrap();
        let mut second = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind: tar::EntryType, uid: u64, mode: u32, data: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(data.len() as u64);
            header.set_mode(mode);
            header.set_uid(uid);
            header.set_gid(uid);
            second.append_data(&mut header, path, data).unwrap();
        };
        add("bin/.wh.cp", tar::EntryType::Regular, 0, 0o644, b"");
        add("srv/own", tar::EntryType::Directory, 10001, 0o500, b"");
        add("srv/own/file", tar::EntryType::Regular, 10001, 0o400, b"mine\n");
        let layers = [first.into_inner().unwrap(), second.into_inner().unwrap()];
        let blobs = layers.map(|layer| layout.put_bytes(&layer).unwrap());
        let config = serde_json::json!({
            "architecture": Platform::host().architecture, "os": "linux",
            "config": {"User": "10001:10001", "Env": ["PATH=/bin"], "Cmd": ["echo", "by itself"]},
            "rootfs": {"type": "layers", "diff_ids": blobs.map(|(digest, _)| digest)},
        });
        let config = layout.put_json(media_type::CONFIG, &config).unwrap();
        let layers = blobs.map(|(digest, size)| Descriptor::new(media_type::LAYER, digest, size));
        let manifest = layout.put_json(media_type::MANIFEST, &oci::Manifest::new(config, layers.into())).unwrap();
        layout.set("app", &manifest.with_platform(&Platform::host())).unwrap();
    }

    fn give_away(&self) {
        let Some(user) = self.user else { return };
        let status = Command::new("chown").args(["-R", &format!("{user}:{user}")]).arg(self.holder.path()).status();
        assert!(status.unwrap().success());
    }

    /// A call of xtask; `run` and `smoke` without an image are about the layout, for nothing was built here.
    fn xtask(&self, args: &[&str]) -> Command {
        let image = self.root.join("target/images/app");
        let mut args = args.to_vec();
        if let Some(at) = args.iter().position(|arg| ["run", "smoke"].contains(arg))
            && args.get(at + 1).is_none_or(|next| *next == "--")
        {
            args.insert(at + 1, image.to_str().unwrap());
        }
        self.plain(&args)
    }

    fn plain(&self, args: &[&str]) -> Command {
        let mut call = Command::new(&self.xtask);
        if let Some(user) = self.user {
            call.uid(user).gid(user);
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("XTASK_") {
                call.env_remove(name);
            }
        }
        call.arg("--root").arg(&self.root).args(args).current_dir("/").env("HOME", self.holder.path());
        call.env("DOCKER_HOST", "unix:///nonexistent/docker.sock").env_remove("DOCKER_CONTEXT").stdin(Stdio::null());
        call
    }

    #[track_caller]
    fn output(&self, args: &[&str]) -> Output {
        self.xtask(args).output().unwrap()
    }

    fn stored(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("target/native/images")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.ends_with(".lock")).collect();
        names.sort();
        names
    }
}

/// As whoever runs this, and as an ordinary user where we can become one.
fn repositories() -> Vec<Repo> {
    if bare().is_none() {
        return Vec::new();
    }
    let mut repositories = vec![Repo::new(None)];
    if rustix::process::geteuid().is_root() {
        repositories.push(Repo::new(Some(NOBODY)));
    } else {
        println!("not root: not tried as another user");
    }
    repositories
}

#[test]
fn run_starts_what_was_built_last_without_an_engine() {
    for repo in repositories() {
        let output = repo.output(&["run"]);
        assert_eq!((out(&output).as_str(), output.status.code()), ("by itself", Some(0)), "{}", err(&output));
        assert!(err(&output).contains("without an engine"), "{}", err(&output));
        assert_eq!(
            err(&output).contains("mapped to the current user"),
            repo.user.is_some() || !rustix::process::geteuid().is_root()
        );
        let again =
            repo.output(&["run", "--", "sh", "-c", "id -u; ls /bin/cp /bin/ls 2>/dev/null; cat /srv/own/file; exit 5"]);
        assert_eq!((out(&again).as_str(), again.status.code()), ("10001\n/bin/ls\nmine", Some(5)), "{}", err(&again));
        assert!(!err(&again).contains("unpacking"), "it was unpacked already");
        let folder = repo.root.join("target/images/app");
        let named = repo.output(&["-q", "run", folder.to_str().unwrap(), "--", "echo", "-n", "named"]);
        assert_eq!((out(&named).as_str(), err(&named).as_str()), ("named", ""));
        assert_eq!(repo.stored().len(), 1);
        let store = fs::metadata(repo.root.join("target/native/images")).unwrap();
        assert_eq!(store.permissions().mode() & 0o777, 0o700, "root's files are for nobody else");
    }
}

#[test]
fn smoke_tests_an_image_without_an_engine() {
    for repo in repositories() {
        let output = repo.output(&["smoke"]);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert!(err(&output).contains("runs as user 10001") && err(&output).contains("words"), "{}", err(&output));
        let policy = repo.root.join("images.toml");
        let text = fs::read_to_string(&policy).unwrap().replace("user = 10001", "user = 10002");
        fs::write(&policy, text).unwrap();
        let output = repo.output(&["smoke"]);
        assert_eq!(output.status.code(), Some(4));
        assert!(err(&output).contains("`id -u` did not print the expected text"), "{}", err(&output));
    }
}

/// A folder of the host, held open by a descriptor that programs inherit, and a path through it to a file.
fn leaked() -> (fs::File, String) {
    let folder = fs::File::open("/usr/bin").unwrap();
    rustix::io::fcntl_setfd(&folder, rustix::io::FdFlags::empty()).unwrap();
    let path = format!("/proc/self/fd/{}/env", folder.as_raw_fd());
    assert!(Path::new(&path).exists(), "the host has no `env`");
    (folder, path)
}

#[test]
fn a_descriptor_that_the_caller_left_open_is_closed_in_a_container() {
    let (_folder, path) = leaked();
    let script = format!("test -e {path} && echo open; ls /proc/self/fd | wc -l");
    // What `ls` has open itself is the folder that it lists.
    let expected = "4";
    if let Some(bare) = bare() {
        let folder = image();
        for manner in [Manner::Confined, Manner::Open] {
            let output = bare.run(&folder.path().into(), &user("app"), &shell(manner, &script)).unwrap();
            assert_eq!(out(&output), expected, "{}", err(&output));
            let mut container = bare.start(&folder.path().into(), &user("app"), &shell(manner, "sleep 100")).unwrap();
            let output = container.exec(&words(&["sh", "-c", &script])).unwrap();
            assert_eq!(out(&output), expected, "{}", err(&output));
        }
    }
    for repo in repositories() {
        let output = repo.output(&["-q", "run", "--", "sh", "-c", &script]);
        assert_eq!(out(&output), expected, "{}", err(&output));
        let policy = repo.root.join("images.toml");
        let asks = format!("\"sh\", \"-c\", \"test -e {path} || echo a word\"");
        let text = fs::read_to_string(&policy).unwrap().replace("\"echo\", \"a word\"", &asks);
        fs::write(&policy, text).unwrap();
        let output = repo.output(&["smoke"]);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    }
}

#[test]
fn a_program_behind_xtask_inherits_no_descriptor_and_keeps_its_arguments() {
    let (_folder, path) = leaked();
    subprocess::through(XTASK);
    let script = format!("test -e {path} && echo open; ls /proc/self/fd | wc -l; echo \"$1\"");
    let call = || xtask_host::process::Command::new("sh").args(["-c", &script, "sh", "an 'odd' word"]);
    let direct = call().read(xtask_model::fault::Exit::Build).unwrap();
    assert!(direct.starts_with("open\n"), "the test leaks nothing: {direct}");
    let mut ways = vec![subprocess::bound(call())];
    match subprocess::Isolation::find() {
        Ok(rights) => ways.push(rights.isolated(call()).unwrap()),
        Err(fault) => println!("skipped: {fault}"),
    }
    for way in ways {
        assert_eq!(way.read(xtask_model::fault::Exit::Build).unwrap(), "4\nan 'odd' word");
    }
    let missing = subprocess::bound(xtask_host::process::Command::new("no-such-program-here"));
    assert_eq!(missing.output().unwrap().status.code(), Some(127));
}

#[test]
fn leftovers_of_a_killed_run_are_removed_by_the_next_command() {
    for repo in repositories() {
        repo.output(&["run"]);
        let [name] = &repo.stored()[..] else { panic!("{:?}", repo.stored()) };
        let store = repo.root.join("target/native/images");
        let left = [
            repo.root.join("target/native/work/packages-dead/installed"),
            repo.root.join("target/root/root-dead/mmdebstrap.x"),
            repo.root.join("target/xtask-scratch-dead"),
            store.join("f00d.partial/root"),
        ];
        for folder in &left {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(store.join("f00d.lock"), "").unwrap();
        let kept = repo.root.join("target/root/mmdebstrap/usr");
        fs::create_dir_all(&kept).unwrap();
        let own = repo.root.join("target/output-of-a-person");
        fs::create_dir_all(&own).unwrap();
        repo.give_away();
        let output = repo.output(&["run"]);
        assert_eq!(out(&output), "by itself", "{}", err(&output));
        for folder in &left {
            assert!(!folder.exists(), "{}", folder.display());
        }
        assert!(kept.is_dir() && own.is_dir() && repo.stored() == std::slice::from_ref(name));
    }
}

#[test]
fn a_half_unpacked_image_is_unpacked_again() {
    for repo in repositories() {
        repo.output(&["run"]);
        let [name] = &repo.stored()[..] else { panic!("{:?}", repo.stored()) };
        let folder = repo.root.join("target/native/images").join(name);
        fs::rename(&folder, folder.with_extension("partial")).unwrap();
        fs::remove_file(folder.with_extension("partial").join("bin/busybox")).unwrap();
        let output = repo.output(&["run"]);
        assert_eq!(out(&output), "by itself", "{}", err(&output));
        assert_eq!(repo.stored(), std::slice::from_ref(name));
    }
}

#[test]
fn concurrent_runs_unpack_an_image_once() {
    for repo in repositories() {
        let children: Vec<_> = (0..4).map(|_| begin(&repo, &["run"])).collect();
        let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect::<Vec<_>>();
        let said: Vec<_> = outputs.iter().map(|output| (out(output), output.status.code())).collect();
        assert_eq!(said, vec![("by itself".to_owned(), Some(0)); 4]);
        assert_eq!(outputs.iter().filter(|output| err(output).contains("unpacking `")).count(), 1);
        assert_eq!(repo.stored().len(), 1);
    }
}

#[test]
fn old_images_are_removed_unless_they_are_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let images = |layout: &str| ImageStore::new(folder.path().join(layout), folder.path().join("store"), client());
    let unpack = |number: usize| {
        let layout = Layout::open_or_create(&folder.path().join(format!("layout{number}"))).unwrap();
        let name = layout.folder().to_str().unwrap().to_owned();
        write_image(&layout, &format!("image {number}"));
        images("none").unpack(&name, false).unwrap()
    };
    let texts = || {
        let entries = fs::read_dir(folder.path().join("store")).unwrap().flatten();
        let files = entries.filter_map(|entry| fs::read_to_string(entry.path().join("srv/text")).ok());
        let mut texts: Vec<_> = files.collect();
        texts.sort();
        texts
    };
    let used = unpack(0);
    for number in 1..5 {
        unpack(number);
        // Times of use are compared, and a file system's clock is coarse.
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(texts(), ["image 0", "image 2", "image 3", "image 4"]);
    assert_eq!(fs::read_to_string(used.files.folders()[0].join("srv/text")).unwrap(), "image 0");
    drop(used);
    unpack(3);
    unpack(5);
    assert_eq!(texts(), ["image 3", "image 4", "image 5"]);
}

/// An image of one file, under a name of its own.
fn write_image(layout: &Layout, text: &str) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "srv/text", text.as_bytes()).unwrap();
    let (digest, size) = layout.put_bytes(&tar.into_inner().unwrap()).unwrap();
    let platform = Platform::host();
    let config = serde_json::json!({
        "architecture": platform.architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest]},
    });
    let config = layout.put_json(media_type::CONFIG, &config).unwrap();
    let manifest = oci::Manifest::new(config, vec![Descriptor::new(media_type::LAYER, digest, size)]);
    let manifest = layout.put_json(media_type::MANIFEST, &manifest).unwrap();
    layout.set("image", &manifest.with_platform(&platform)).unwrap();
}

#[test]
fn an_image_for_another_machine_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(&folder.path().join("layout")).unwrap();
    write_image(&layout, "text");
    let (_, image) = layout.list().unwrap().remove(0);
    let mut manifest: oci::Manifest = layout.read_json(&image).unwrap();
    let mut config: oci::Config = layout.read_json(&manifest.config).unwrap();
    config.architecture = "s390x".to_owned();
    manifest.config = layout.put_json(media_type::CONFIG, &config).unwrap();
    layout.set("image", &layout.put_json(media_type::MANIFEST, &manifest).unwrap()).unwrap();
    let images = ImageStore::new(folder.path().join("none"), folder.path().join("store"), client());
    let fault = images.unpack(layout.folder().to_str().unwrap(), false).err().unwrap();
    assert!(fault.what.contains("is not for linux/"), "{fault}");
}

fn client() -> Client {
    Client::new(ClientOptions::default())
}

#[test]
fn an_image_with_a_wrong_digest_does_not_run() {
    for repo in repositories() {
        let layout = Layout::open_or_create(&repo.root.join("target/images/app")).unwrap();
        let (_, image) = layout.list().unwrap().remove(0);
        let manifest: oci::Manifest = layout.read_json(&image).unwrap();
        let blob = layout.blob_path(&manifest.layers[1].digest);
        let mut bytes = fs::read(&blob).unwrap();
        let at = bytes.windows(5).position(|bytes| bytes == b"mine\n").unwrap();
        bytes[at] = b'n';
        fs::write(&blob, bytes).unwrap();
        let output = repo.output(&["run"]);
        assert_eq!(output.status.code(), Some(4), "{}", err(&output));
        let whole = repo.stored().into_iter().filter(|name| !name.ends_with(".partial")).count();
        assert_eq!(whole, 0);
    }
}

#[test]
fn a_missing_image_is_reported() {
    for repo in repositories() {
        let output = repo.output(&["run", "no such image"]);
        assert_eq!(output.status.code(), Some(2), "{}", err(&output));
        let output = repo.plain(&["run"]).output().unwrap();
        assert!(err(&output).contains("`cargo xtask run IMAGE`"), "{}", err(&output));
        assert_eq!(output.status.code(), Some(2));
    }
}

fn begin(repo: &Repo, args: &[&str]) -> Child {
    repo.xtask(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn nothing_is_left_when_xtask_is_killed() {
    for repo in repositories() {
        let number = number();
        // Neither of them listens to anything, and one has left its parent.
        let script = format!("trap '' TERM INT HUP; sleep {number} & (sleep {number} &); wait; wait; sleep {number}");
        let mut child = begin(&repo, &["run", "--", "sh", "-c", &script]);
        wait_until("it does not begin", || with_argument(&number).len() == 2);
        signal(&child, "KILL");
        child.wait().unwrap();
        wait_until("it outlives xtask", || with_argument(&number).is_empty());
        // Those of other tests come and go.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let holder = repo.holder.path().to_str().unwrap();
        assert!(![holder, ".xtask-host"].iter().any(|part| mounts.contains(part)), "{mounts}");
        let output = repo.output(&["run"]);
        assert_eq!(out(&output), "by itself");
    }
}

#[test]
fn nothing_is_left_whenever_xtask_is_killed() {
    for repo in repositories() {
        repo.output(&["run"]);
        let began = Instant::now();
        repo.output(&["run"]);
        // From nothing to well into the program.
        let whole = began.elapsed() * 3 / 2;
        let number = number();
        for moment in 0..30 {
            let mut child = begin(&repo, &["-q", "run", "--", "sleep", &number]);
            std::thread::sleep(whole * moment / 30);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // Those too that are only on their way to it: they name it in their orders.
        let named = || {
            let entries = fs::read_dir("/proc").unwrap().flatten();
            let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
            lines.filter(|line| String::from_utf8_lossy(line).contains(&number)).count()
        };
        wait_until("something outlives xtask", || named() == 0);
        assert_eq!(out(&repo.output(&["run"])), "by itself");
    }
}

#[test]
fn ctrl_c_reaches_a_program_with_a_handler_and_ends_one_without() {
    for repo in repositories() {
        let number = number();
        let script = format!("trap 'echo bye; exit 42' INT; sleep {number} & wait");
        let child = begin(&repo, &["-q", "run", "--", "sh", "-c", &script]);
        wait_until("it does not begin", || with_argument(&number).len() == 1);
        signal(&child, "INT");
        let output = child.wait_with_output().unwrap();
        assert_eq!((out(&output).as_str(), output.status.code()), ("bye", Some(42)), "{}", err(&output));
        assert_eq!(with_argument(&number), [""; 0]);

        let began = Instant::now();
        let child = begin(&repo, &["-q", "run", "--", "sleep", &number]);
        wait_until("it does not begin", || with_argument(&number).len() == 1);
        signal(&child, "INT");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(137), "{}", err(&output));
        assert!(began.elapsed() < Duration::from_secs(8), "nobody waits for a program that cannot hear");
        assert_eq!(with_argument(&number), [""; 0]);
    }
}

#[test]
fn ctrl_c_ends_a_smoke_test_that_hangs() {
    for repo in repositories() {
        let number = number();
        let policy = repo.root.join("images.toml");
        let text =
            fs::read_to_string(&policy).unwrap().replace("\"echo\", \"a word\"", &format!("\"sleep\", \"{number}\""));
        fs::write(&policy, text).unwrap();
        let child = begin(&repo, &["smoke"]);
        wait_until("it does not begin", || with_argument(&number).len() == 1);
        signal(&child, "TERM");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", err(&output));
        assert_eq!(with_argument(&number), [""; 0]);
    }
}

#[test]
fn the_error_without_docker_and_namespaces_explains_both() {
    for repo in repositories() {
        // A user namespace in which no mount namespace may be made: what a locked-down host is to us.
        let script = "echo 0 > /proc/sys/user/max_mnt_namespaces && exec \"$@\"";
        let locked = repo.xtask(&["run"]);
        let mut call = Command::new("unshare");
        call.args(["--user", "--map-root-user", "sh", "-c", script, "sh"])
            .arg(locked.get_program())
            .args(locked.get_args());
        for (name, value) in locked.get_envs() {
            match value {
                Some(value) => call.env(name, value),
                None => call.env_remove(name),
            };
        }
        if let Some(user) = repo.user {
            call.uid(user).gid(user);
        }
        let output = call.current_dir("/").output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", err(&output));
        for text in
            ["cannot run an image on this machine", "no Docker engine responds", "cannot make namespaces", "engine up"]
        {
            assert!(err(&output).contains(text), "{text}: {}", err(&output));
        }
    }
}
