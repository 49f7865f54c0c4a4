//! Locks that were edited, packages that cannot be installed and files that are none: the real program with the real uv and an
//! index of the test's own. A line says what was skipped where there is no uv or no index for it.

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;
use xtask_host::clock;
use xtask_host::tree::uv;
use xtask_model::spec::lock::ImagesLock;
use xtask_model::spec::lock::images::RootPin;
use xtask_model::time::Timestamp;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Writes wheels and archives: `FOLDER NAME VERSION KIND REQUIREMENT...`.
const MAKE: &str = r#"
import io, sys, tarfile, zipfile
folder, name, version, kind, *requires = sys.argv[1:]
meta = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(f"Requires-Dist: {r}\n" for r in requires) + "\n"
if kind == "wheel":
    info = f"{name}-{version}.dist-info"
    files = {f"{name}.py": "", f"{info}/METADATA": meta, f"{info}/RECORD": "",
             f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in files)
    with zipfile.ZipFile(f"{folder}/{name}-{version}-py3-none-any.whl", "w") as made:
        for path, text in files.items():
            made.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
else:
    project = f"[project]\nname = '{name}'\nversion = '{version}'\n[build-system]\nrequires = ['plain<1.1']\nbuild-backend = 'none'\n"
    files = {"PKG-INFO": meta.replace("2.1", "2.2"), "pyproject.toml": project}
    if kind == "extension":
        files["setup.py"] = "setup(ext_modules=[Extension('a', ['a.c'])])\n"
    with tarfile.open(f"{folder}/{name}-{version}.tar.gz", "w:gz") as made:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{path}")
            entry.size = len(text)
            made.addfile(entry, io.BytesIO(text.encode()))
"#;

fn make(folder: &Path, name: &str, version: &str, kind: &str, requires: &[&str]) {
    let call =
        Command::new("python3").args(["-c", MAKE]).arg(folder).args([name, version, kind]).args(requires).status();
    assert!(call.unwrap().success());
}

/// An index on the loopback, for as long as the test runs. Below `/closed` it wants `me` and `word`.
fn index(files: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let files = Arc::new(files);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let files = Arc::clone(&files);
            std::thread::spawn(move || answer(&stream, &files));
        }
    });
    place
}

fn answer(mut stream: &TcpStream, files: &Path) -> Option<()> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let allowed = head
        .iter()
        .any(|line| line.to_ascii_lowercase().starts_with("authorization: basic") && line.ends_with("bWU6d29yZA=="));
    let body = match path.strip_prefix("/closed") {
        Some(_) if !allowed => Err("401 Unauthorized\r\nWWW-Authenticate: Basic"),
        rest => body(rest.unwrap_or(&path), files).ok_or("404 Not Found"),
    };
    let (status, body) = body.map_or_else(|status| (status, Vec::new()), |body| ("200 OK", body));
    let kind = match body.first() {
        _ if path.contains("/files/") => "application/octet-stream",
        Some(b'{') => "application/vnd.pypi.simple.v1+json",
        _ => "text/html",
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    if !first.starts_with("HEAD") {
        stream.write_all(&body).ok()?;
    }
    Some(())
}

fn body(path: &str, files: &Path) -> Option<Vec<u8>> {
    if let Some(name) = path.strip_prefix("/files/") {
        return fs::read(files.join(name)).ok();
    }
    let name = path.strip_prefix("/simple/")?.trim_end_matches('/');
    let mut links = String::new();
    let mut listed = Vec::new();
    for entry in fs::read_dir(files).ok()?.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.split('-').next() == Some(name) {
            let digest = xtask_model::spec::reference::Digest::of(&fs::read(entry.path()).ok()?);
            links += &format!("<a href=\"../../files/{file}#sha256={}\">{file}</a>\n", digest.hex());
            // A second file says when the first one was uploaded.
            if let Ok(time) = fs::read_to_string(files.join("times").join(&file)) {
                let (url, hashes) = (format!("../../files/{file}"), json!({"sha256": digest.hex()}));
                listed.push(json!({"filename": file, "url": url, "hashes": hashes, "upload-time": time}));
            }
        }
    }
    if !listed.is_empty() {
        let page = json!({"meta": {"api-version": "1.1"}, "name": name, "versions": [], "files": listed});
        return Some(page.to_string().into_bytes());
    }
    (!links.is_empty()).then(|| links.into_bytes())
}

/// A repository with this one's policy and Dockerfiles, and an index with a few packages.
struct World {
    folder: TempDir,
    index: String,
    uv: PathBuf,
}

impl World {
    /// None after saying so, where there is no uv, or no index that has it: `lock` pins the installer, too.
    fn new(test: &str) -> Option<Self> {
        let extra: Vec<PathBuf> = std::env::var_os("XTASK_TEST_UV").into_iter().map(PathBuf::from).collect();
        let found = uv::find(Path::new(ROOT), &extra).and_then(|uv| {
            uv.installer_lock(uv.version(), "3.12")?;
            Ok(uv)
        });
        let uv = match found {
            Ok(uv) => uv,
            Err(fault) if std::env::var_os("XTASK_REQUIRE_REAL").is_some() => panic!("{fault}"),
            Err(fault) => {
                println!("skipped: {test}: {}", fault.what);
                return None;
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("files");
        fs::create_dir_all(&files).unwrap();
        make(&files, "needw", "1.0", "wheel", &["plain<1.1"]);
        make(&files, "plain", "1.0", "wheel", &[]);
        make(&files, "plain", "1.1", "wheel", &[]);
        make(&files, "srconly", "1.0", "archive", &[]);
        let root = folder.path().join("repository");
        fs::create_dir_all(root.join("dockerfiles")).unwrap();
        let dockerfiles = ["base", "fast", "enhanced"].map(|name| format!("dockerfiles/Dockerfile.{name}"));
        let others = ["images.toml", "dockerfiles/installer.lock"].map(str::to_owned);
        for name in dockerfiles.iter().chain(&others) {
            fs::copy(Path::new(ROOT).join(name), root.join(name)).unwrap();
        }
        Some(Self { index: index(files), folder, uv: uv.program().to_owned() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("repository").join(name)
    }

    fn asks(&self, text: &str) {
        let text = text.replace("INDEX", &format!("--index-url http://{}/simple", self.index));
        fs::write(self.path("requirements-enhanced.txt"), text).unwrap();
    }

    fn lock_text(&self) -> String {
        fs::read_to_string(self.path("requirements-enhanced.lock")).unwrap()
    }

    /// The hash of a file of the index.
    fn hash(&self, file: &str) -> String {
        xtask_model::spec::reference::Digest::of(&fs::read(self.folder.path().join("files").join(file)).unwrap())
            .to_string()
    }

    #[track_caller]
    fn xtask(&self, args: &[&str], variables: &[(&str, &str)], exit: i32) -> String {
        let path = std::env::join_paths(
            [self.uv.parent().unwrap().to_owned()]
                .into_iter()
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(args).current_dir(self.path("")).stdin(Stdio::null()).env("PATH", path.unwrap());
        for (name, _) in std::env::vars_os() {
            if ["XTASK_", "DOCKER_", "GITHUB_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(exit), "{said}");
        said
    }
}

#[test]
fn a_lock_that_a_bot_edited_is_refused_everywhere() {
    let Some(world) = World::new("a lock that a bot edited") else { return };
    world.asks("INDEX\nneedw\n");
    world.xtask(&["lock", "--offline"], &[], 0);
    world.xtask(&["lock", "--check"], &[], 0);
    let good = world.lock_text();
    let [old, new] = ["1.0", "1.1"].map(|version| world.hash(&format!("plain-{version}-py3-none-any.whl")));
    let edited = good.replace("plain==1.0", "plain==1.1").replace(&old, &new);
    let begin = good.find("plain==1.0").unwrap();
    let end = begin + good[begin..].find("# via needw\n").unwrap() + "# via needw\n".len();
    let deleted = format!("{}{}", &good[..begin], good[end..].trim_start());
    for (text, cause) in [
        (edited, "needw 1.0 requires `plain<1.1`, but plain 1.1 is locked"),
        (deleted, "needw 1.0 requires `plain<1.1`, which is not locked"),
    ] {
        fs::write(world.path("requirements-enhanced.lock"), text).unwrap();
        for (args, exit) in [
            (&["lock", "--check"][..], 6),
            (&["doctor", "--offline"], 2),
            (&["build-base", "--offline", "--engine", "native"], 2),
            (&["build-base", "--offline", "--engine", "native", "--dry-run"], 2),
            (&["build", "--offline", "--engine", "native"], 2),
        ] {
            let said = world.xtask(args, &[], exit);
            assert!(said.contains(cause), "{args:?}: {said}");
        }
        world.xtask(&["lock", "--offline"], &[], 0);
        assert_eq!(world.lock_text(), good, "what fits is kept, what does not is resolved");
    }
    // A version whose requirements nobody knows: `lock --check` cannot say, so it does not say that it is good.
    fs::write(world.path("requirements-enhanced.lock"), good.replace(&old, &new)).unwrap();
    assert!(world.xtask(&["lock", "--check"], &[], 6).contains("is not recorded for: plain 1.0"));
    fs::write(world.path("requirements-enhanced.lock"), good).unwrap();
    let policy = fs::read_to_string(world.path("images.toml")).unwrap();
    fs::write(world.path("images.toml"), policy.replace("[\"linux/amd64\"]", "[\"linux/amd64\", \"linux/arm64\"]"))
        .unwrap();
    assert!(
        world
            .xtask(&["lock", "--check"], &[], 6)
            .contains("before the policy named linux/arm64 3.12, linux/arm64 3.13")
    );
    world.xtask(&["lock", "--offline"], &[], 0);
    world.xtask(&["lock", "--check"], &[], 0);
}

#[test]
fn a_package_without_a_wheel_is_pinned_with_what_it_is_built_with() {
    let Some(world) = World::new("a package without a wheel") else { return };
    let pins = || fs::read_to_string(world.path("images.lock")).unwrap_or_default();
    let policy = fs::read_to_string(world.path("images.toml")).unwrap();
    world.asks("INDEX\nsrconly\nneedw\n");
    let said = world.xtask(&["lock", "--offline"], &[], 0);
    let pure = "srconly 1.0 has no wheel for linux/amd64 3.12, linux/amd64 3.13: pure Python, needs no compiler";
    assert!(said.contains(pure), "{said}");
    let own = pins();
    let source = format!("name = \"srconly\"\nversion = \"1.0\"\nfrom = \"{}\"\n", world.hash("srconly-1.0.tar.gz"));
    assert!(own.contains(&source) && own.contains("\"plain==1.0 --hash=sha256:"), "{own}");
    world.xtask(&["lock", "--check"], &[], 0);
    // Pins stay, though the index has a newer version, until they are renewed.
    let now = |what: &[&str]| world.xtask(what, &[("PIP_INDEX_URL", &world.own_index())], 0);
    now(&["lock", "--offline"]);
    assert_eq!(pins(), own);
    make(&world.folder.path().join("files"), "plain", "1.0.1", "wheel", &[]);
    now(&["lock", "--offline", "--upgrade", "--cooldown", "0"]);
    assert!(pins().contains("\"plain==1.0.1 --hash=sha256:"), "{}", pins());
    // Without a pin nothing says how it is built.
    fs::remove_file(world.path("images.lock")).unwrap();
    let unknown = "`images.lock` does not say how they are built";
    assert!(world.xtask(&["lock", "--check"], &[], 6).contains(unknown));
    assert!(world.xtask(&["doctor", "--offline"], &[], 2).contains(unknown));
    // All packages are listed, and what compiles is an error where nothing compiles.
    make(&world.folder.path().join("files"), "compiled", "1.0", "extension", &[]);
    world.asks("INDEX\nsrconly\ncompiled\n");
    let said = world.xtask(&["lock", "--offline"], &[], 2);
    let needs = "compiled 1.0 has no wheel for linux/amd64 3.12, linux/amd64 3.13: probably needs `gcc libc6-dev python3-dev` (`ext_modules` in `setup.py`)";
    assert!(said.contains(needs) && said.contains(pure), "{said}");
    assert!(said.contains("`BUILD_PACKAGES = \"gcc libc6-dev python3-dev\"` in `[base.args]`"), "{said}");
    assert!(pins().is_empty() && !world.lock_text().contains("compiled"), "nothing is written");
    fs::write(world.path("images.toml"), format!("{policy}\n[base.args]\nBUILD_PACKAGES = \"gcc\"\n")).unwrap();
    world.xtask(&["lock", "--offline"], &[], 0);
    assert_eq!(pins().matches("[[source]]").count(), 2, "{}", pins());
    world.xtask(&["lock", "--check"], &[], 0);
    // Nothing is left of pins that nothing uses.
    fs::write(world.path("images.toml"), policy).unwrap();
    world.asks("INDEX\nneedw\n");
    world.xtask(&["lock", "--offline"], &[], 0);
    assert!(!world.path("images.lock").exists());
}

#[test]
fn the_pins_of_other_bases_stay() {
    let Some(world) = World::new("pins of several bases") else { return };
    make(&world.folder.path().join("files"), "another", "1.0", "archive", &[]);
    let policy = fs::read_to_string(world.path("images.toml")).unwrap();
    let (begin, rest) = policy.split_once("[base]").unwrap();
    let (_, end) = rest.split_once("[[step]]").unwrap();
    let mut text = begin.to_owned();
    for name in ["one", "two"] {
        text += &format!("[bases.{name}]\nrequirements = \"{name}.txt\"\nlock = \"{name}.lock\"\n");
        fs::copy(world.path("dockerfiles/Dockerfile.fast"), world.path(&format!("dockerfiles/Dockerfile.{name}")))
            .unwrap();
    }
    for name in ["one", "two"] {
        text +=
            &format!("[[app]]\nname = \"{name}\"\nbase = \"{name}\"\ndockerfile = \"dockerfiles/Dockerfile.{name}\"\n");
    }
    fs::write(world.path("images.toml"), format!("{text}[[step]]{end}")).unwrap();
    let asks = |name: &str, packages: &str| {
        let index = format!("--index-url http://{}/simple", world.index);
        fs::write(world.path(&format!("{name}.txt")), format!("{index}\n{packages}")).unwrap();
    };
    let pinned = || {
        let text = fs::read_to_string(world.path("images.lock")).unwrap_or_default();
        text.lines().filter_map(|line| line.strip_prefix("name = ")).map(str::to_owned).collect::<Vec<_>>()
    };
    asks("one", "srconly\n");
    asks("two", "srconly\nanother\n");
    world.xtask(&["lock", "--offline"], &[], 0);
    assert_eq!(pinned(), ["\"another\"", "\"srconly\""]);
    asks("one", "needw\n");
    world.xtask(&["lock", "--offline", "--app", "one"], &[], 0);
    assert_eq!(pinned(), ["\"another\"", "\"srconly\""]);
    asks("two", "srconly\n");
    world.xtask(&["lock", "--offline", "--app", "two"], &[], 0);
    assert_eq!(pinned(), ["\"srconly\""]);
    world.xtask(&["lock", "--check"], &[], 0);
}

#[test]
fn a_checkout_of_a_commit_is_locked_by_it() {
    let Some(world) = World::new("a checkout") else { return };
    let from = world.folder.path().join("checkout");
    fs::create_dir(&from).unwrap();
    let git = |args: &[&str]| {
        let front = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
        let done = Command::new("git").args(front).args(args).current_dir(&from).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q"]);
    let project = "[project]\nname = 'checked'\nversion = '1.0'\n[build-system]\nrequires = ['plain']\nbuild-backend = 'own'\n\
                   backend-path = ['.']\n";
    fs::write(from.join("pyproject.toml"), project).unwrap();
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "one"]);
    let url = format!("git+file://{}@{}", from.display(), git(&["rev-parse", "HEAD"]));
    world.asks(&format!("INDEX\nchecked @ {}\n", url.rsplit_once('@').unwrap().0));
    let said = world.xtask(&["lock", "--offline"], &[], 2);
    assert!(said.contains("a checkout without a commit") && said.contains("git ls-remote"), "{said}");
    world.asks(&format!("INDEX\nchecked @ {url}\n"));
    let said = world.xtask(&["lock", "--offline"], &[], 0);
    assert!(said.contains("has no wheel for linux/amd64 3.12") && said.contains("pure Python"), "{said}");
    assert!(world.lock_text().contains(&format!("\nchecked @ {url}\n")), "{}", world.lock_text());
    let pins = fs::read_to_string(world.path("images.lock")).unwrap();
    assert!(pins.contains(&format!("from = \"{url}\"")) && pins.contains("\"plain==1.1 --hash="), "{pins}");
    world.xtask(&["lock", "--check"], &[], 0);
    for name in ["install", "compile", "check-imports"].map(|name| format!("dockerfiles/{name}.py")) {
        fs::copy(Path::new(ROOT).join(&name), world.path(&name)).unwrap();
    }
    // A Dockerfile that takes no built wheels.
    let dockerfile = fs::read_to_string(world.path("dockerfiles/Dockerfile.base")).unwrap();
    let without = dockerfile.replace("FROM scratch AS built-wheels\n", "");
    let without = without.replace(" --mount=type=bind,from=built-wheels,target=/opt/wheels", "");
    assert!(!without.contains("from=built-wheels"), "{without}");
    fs::write(world.path("dockerfiles/Dockerfile.base"), without).unwrap();
    let said = world.xtask(&["build-base", "--offline", "--engine", "docker"], &[], 2);
    assert!(said.contains("docker cannot install checkouts of git") && said.contains("--engine native"), "{said}");
}

#[test]
fn a_hash_that_a_person_wrote_is_kept_or_an_error() {
    let Some(world) = World::new("a hash that a person wrote") else { return };
    let right = world.hash("plain-1.0-py3-none-any.whl");
    world.asks(&format!("INDEX\nplain==1.0 --hash={right}\n"));
    world.xtask(&["lock", "--offline"], &[], 0);
    let good = world.lock_text();
    world.asks(&format!("INDEX\nplain==1.0 --hash=sha256:{}\n", "0".repeat(64)));
    assert!(
        world
            .xtask(&["lock", "--offline"], &[], 2)
            .contains("no file of plain 1.0 has a hash that the requirements list")
    );
    assert_eq!(world.lock_text(), good, "nothing is written");
}

#[test]
fn an_index_behind_a_password_of_the_environment_serves_the_records_too() {
    let Some(world) = World::new("an index behind a password") else { return };
    world.asks(&format!("--index-url http://${{IDX_USER}}:${{IDX_TOKEN}}@{}/closed/simple\nneedw\n", world.index));
    let said = world.xtask(&["lock", "--offline"], &[("IDX_USER", "me"), ("IDX_TOKEN", "word")], 0);
    let lock = world.lock_text();
    assert!(lock.contains(") requires plain<1.1"), "{lock}");
    assert!(!said.contains("word") && !lock.contains("word@") && !lock.contains("http://"), "{said}{lock}");
    fs::remove_file(world.path("requirements-enhanced.lock")).unwrap();
    world.xtask(&["lock", "--offline"], &[("IDX_USER", "me"), ("IDX_TOKEN", "wrong")], 5);
}

/// Writes a wheel of uv whose program starts another one: `FOLDER VERSION PROGRAM`.
const UV_WHEEL: &str = r##"
import base64, hashlib, os, sys, zipfile
folder, version, program = sys.argv[1:]
path, info, data = os.environ["PATH"], f"uv-{version}.dist-info", f"uv-{version}.data"
files = {f"{data}/scripts/uv": f"#!/bin/sh\nPATH='{path}' exec '{program}' \"$@\"\n",
         f"{info}/METADATA": f"Metadata-Version: 2.1\nName: uv\nVersion: {version}\n\n",
         f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
hashed = lambda text: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
record = "".join(f"{path},sha256={hashed(text)},{len(text)}\n" for path, text in files.items())
files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
with zipfile.ZipFile(f"{folder}/uv-{version}-py3-none-any.whl", "w") as made:
    for path, text in files.items():
        entry = zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0))
        entry.external_attr = 0o100755 << 16
        made.writestr(entry, text)
"##;

impl World {
    /// A folder for the PATH with Python and git, and without uv; the index gets a wheel of uv in this version.
    fn without_uv(&self, version: &str) -> PathBuf {
        let files = self.folder.path().join("files");
        let call = Command::new("python3").args(["-c", UV_WHEEL]).arg(files).arg(version).arg(&self.uv).status();
        assert!(call.unwrap().success());
        let tools = self.folder.path().join("bin");
        fs::create_dir_all(&tools).unwrap();
        let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
        let python = String::from_utf8(asked.stdout).unwrap();
        fs::write(tools.join("python3"), format!("#!/bin/sh\nexec '{}' \"$@\"\n", python.trim())).unwrap();
        fs::set_permissions(tools.join("python3"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = std::env::var_os("PATH").unwrap();
        let git = std::env::split_paths(&path).map(|folder| folder.join("git")).find(|program| program.is_file());
        symlink(git.unwrap(), tools.join("git")).unwrap();
        tools
    }

    /// Runs a command with this PATH, with the world's index as the machine's.
    #[track_caller]
    fn xtask_on(&self, path: &Path, args: &[&str], exit: i32) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(args).current_dir(self.path("")).stdin(Stdio::null()).env_clear();
        command.env("PATH", path).env("HOME", self.folder.path()).env("PIP_CONFIG_FILE", "/dev/null");
        let output = command.env("PIP_INDEX_URL", format!("http://{}/simple", self.index)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(exit), "{said}");
        said
    }
}

#[test]
fn lock_installs_the_pinned_uv_where_there_is_none() {
    let Some(world) = World::new("a machine without uv") else { return };
    let version = uv::find(&world.path(""), std::slice::from_ref(&world.uv)).unwrap().version().to_owned();
    let path = world.without_uv(&version);
    world.asks("INDEX\nneedw\n");
    // Another file than the pinned one is not installed.
    let pin =
        |hash: &str| fs::write(world.path("dockerfiles/installer.lock"), format!("uv=={version} --hash={hash}\n"));
    pin(&format!("sha256:{}", "0".repeat(64))).unwrap();
    let said = world.xtask_on(&path, &["lock", "--offline"], 5);
    assert!(said.contains("installing uv") && said.contains("DO NOT MATCH"), "{said}");
    assert!(!world.path("target/tools/bin/uv").exists() && !world.path("requirements-enhanced.lock").exists());

    pin(&world.hash(&format!("uv-{version}-py3-none-any.whl"))).unwrap();
    let said = world.xtask_on(&path, &["lock", "--offline"], 0);
    assert!(said.contains("installing uv") && said.contains(&format!("with uv {version}")), "{said}");
    assert!(world.path("target/tools/bin/uv").exists());
    let lock = world.lock_text();
    assert!(lock.contains("plain==1.0") && lock.contains(") requires plain<1.1"), "{lock}");
    assert!(fs::read_to_string(world.path("dockerfiles/installer.lock")).unwrap().contains(&format!("uv=={version}")));
    // It is installed once.
    let said = world.xtask_on(&path, &["lock", "--offline"], 0);
    assert!(!said.contains("installing"), "{said}");
    assert_eq!(world.lock_text(), lock);
}

/// The repository's script over distributions of the test's own, with the pip of this machine as the reader of requirements.
fn imports(installed: &[(&str, &str, &[&str])], lock: &str) -> Option<Result<(), String>> {
    let pip = Command::new("python3")
        .args(["-c", "import os, pip; print(os.path.dirname(pip.__path__[0]))"])
        .output()
        .ok()?;
    if !pip.status.success() {
        assert!(std::env::var_os("XTASK_REQUIRE_REAL").is_none(), "python3 has no pip");
        println!("skipped: what distributions require: python3 has no pip");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = fs::read_to_string(Path::new(ROOT).join("dockerfiles/check-imports.py")).unwrap();
    let reader = String::from_utf8(pip.stdout).unwrap();
    let script = script.replace("/opt/installer/lib/python3*/site-packages", reader.trim());
    fs::write(folder.path().join("check-imports.py"), script).unwrap();
    fs::copy(Path::new(ROOT).join("dockerfiles/install.py"), folder.path().join("install.py")).unwrap();
    fs::write(folder.path().join("a.lock"), lock).unwrap();
    let site = folder.path().join("site");
    for (name, version, requires) in installed {
        let info = site.join(format!("{name}-{version}.dist-info"));
        fs::create_dir_all(&info).unwrap();
        let requires: String = requires.iter().map(|one| format!("Requires-Dist: {one}\n")).collect();
        let text = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}\n");
        fs::write(info.join("METADATA"), text).unwrap();
    }
    let call =
        "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_path(sys.argv.pop(1), run_name='__main__')";
    let script = folder.path().join("check-imports.py");
    let output = Command::new("python3").args(["-I", "-S", "-c", call]).arg(&site).arg(script).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(if output.status.success() { Ok(()) } else { Err(said) })
}

#[test]
fn the_check_in_the_image_finds_what_is_missing_or_does_not_fit() {
    let check = |installed: &[(&str, &str, &[&str])], lock: &str, wanted: &str| match imports(installed, lock) {
        None => {}
        Some(Ok(())) => assert_eq!("", wanted),
        Some(Err(said)) => assert!(!wanted.is_empty() && said.contains(wanted), "{said}"),
    };
    check(&[("needw", "1.0", &["plain<1.1"]), ("plain", "1.0", &[])], "", "");
    check(
        &[("needw", "1.0", &["plain<1.1"]), ("plain", "1.1", &[])],
        "",
        "needw 1.0 requires plain<1.1, but 1.1 is installed",
    );
    check(&[("needw", "1.0", &["Plain<1.1"])], "", "needw 1.0 requires Plain<1.1, which is not installed");
    check(&[("a", "1", &["b; sys_platform == 'win32'", "c; extra == 'x'"])], "a==1 \\\n", "");
    check(&[("a", "1", &["c; extra == 'x'"])], "a[x]==1 \\\n", "a 1 requires c, which is not installed");
    check(
        &[("a", "1", &["b[Fast]"]), ("b", "1", &["c; extra == 'fast'"])],
        "",
        "b 1 requires c, which is not installed",
    );
    check(&[("a", "1", &[])], "# python: >=3.99\n", "the lock is for Python >=3.99");
}

impl World {
    /// A wheel that was uploaded this many days ago.
    fn release(&self, name: &str, version: &str, days: i64) {
        let files = self.folder.path().join("files");
        make(&files, name, version, "wheel", &[]);
        let time = Timestamp::from_second(clock::now().as_second() - days * 86_400).unwrap();
        fs::create_dir_all(files.join("times")).unwrap();
        fs::write(files.join(format!("times/{name}-{version}-py3-none-any.whl")), time.to_string()).unwrap();
    }

    /// The index, with a wheel of uv in the version that is used: no other one is asked.
    fn own_index(&self) -> String {
        let version = uv::find(&self.path(""), std::slice::from_ref(&self.uv)).unwrap().version().to_owned();
        let files = self.folder.path().join("files");
        if !files.join(format!("uv-{version}-py3-none-any.whl")).exists() {
            make(&files, "uv", &version, "wheel", &[]);
        }
        format!("http://{}/simple", self.index)
    }

    #[track_caller]
    fn locks(&self, args: &[&str], exit: i32) -> String {
        self.xtask(args, &[("PIP_INDEX_URL", &self.own_index())], exit)
    }

    /// Fails unless the lock has these pins.
    #[track_caller]
    fn pins(&self, pins: &[&str]) {
        let lock = self.lock_text();
        for pin in pins {
            assert!(lock.lines().any(|line| line.split(' ').next() == Some(pin)), "{pin}: {lock}");
        }
    }

    fn git(&self, args: &[&str]) -> String {
        let front = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
        let done = Command::new("git").args(front).args(args).current_dir(self.path("")).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }
}

#[test]
fn an_upgrade_waits_for_the_cooldown_and_lowers_nothing() {
    let Some(world) = World::new("a cooldown") else { return };
    for (name, version, days) in
        [("aged", "1.0", 900), ("aged", "1.1", 300), ("aged", "1.2", 2), ("other", "1.0", 900), ("other", "1.1", 8)]
    {
        world.release(name, version, days);
    }
    world.asks("INDEX\naged<1.1\nother<1.1\n");
    world.locks(&["lock", "--offline"], 0);
    world.pins(&["aged==1.0", "other==1.0"]);
    world.asks("INDEX\naged\nother\n");
    // The policy's seven days.
    world.locks(&["lock", "--offline", "--upgrade"], 0);
    world.pins(&["aged==1.1", "other==1.1"]);
    world.locks(&["lock", "--offline", "--upgrade", "--cooldown", "1"], 0);
    world.pins(&["aged==1.2", "other==1.1"]);
    // A pin that is newer than the cooldown stays, and the others move.
    let newer = world.lock_text();
    world.asks("INDEX\naged\nother<1.1\n");
    world.locks(&["lock", "--offline"], 0);
    world.asks("INDEX\naged\nother\n");
    let said = world.locks(&["lock", "--offline", "--upgrade", "-v"], 0);
    assert!(said.contains("`aged` stays"), "{said}");
    assert_eq!(world.lock_text(), newer);
    // What is named is taken at once.
    world.release("other", "1.2", 0);
    world.locks(&["lock", "--offline", "-P", "other"], 0);
    world.pins(&["aged==1.2", "other==1.2"]);
    // An index without times has nothing that is known to be old enough.
    let newest = world.lock_text();
    world.asks("INDEX\naged\nother\nplain\n");
    let said = world.locks(&["lock", "--offline", "--upgrade"], 2);
    assert!(said.contains("--cooldown 0") && said.contains("PEP 700"), "{said}");
    assert_eq!(world.lock_text(), newest, "nothing is written");
    world.locks(&["lock", "--offline", "--upgrade", "--cooldown", "0"], 0);
    world.pins(&["plain==1.1"]);
}

/// Answers as GitHub does, and keeps what it is asked. `branch` exists after it was made; `refuses` has GitHub's words of a refusal.
const GH: &str = r##"#!/usr/bin/env python3
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
assert sys.argv[1:3] == ["api", "--method"], sys.argv
method, path = sys.argv[3], sys.argv[4].removeprefix("repos/{owner}/{repo}/")
body = json.load(sys.stdin) if "--input" in sys.argv else None
with open(f"{here}/calls", "a") as calls:
    calls.write(json.dumps([method, path, body]) + "\n")
at = lambda name: os.path.exists(f"{here}/{name}")
def fail(message, status):
    print(json.dumps({"message": message}))
    sys.exit(f"gh: {message} (HTTP {status})")
if path == "git/trees": print(json.dumps({"sha": "made-tree"}))
elif path == "git/commits": print(json.dumps({"sha": "made-commit"}))
elif method == "PATCH" and path.startswith("git/refs/"):
    print("{}") if at("branch") else fail("Reference does not exist", 422)
elif path == "git/refs":
    open(f"{here}/branch", "w").close()
    print("{}")
elif method == "GET": print(json.dumps([{"number": 7}] if at("pull") else []))
elif at("refuses"): fail(open(f"{here}/refuses").read(), 403)
else:
    open(f"{here}/pull", "w").close()
    print(json.dumps({"html_url": "https://github.com/acme/app/pull/7"}))
"##;

/// A repository whose `gh` is [`GH`].
struct Proposals<'w> {
    world: &'w World,
    bin: PathBuf,
    /// `PATH` with that program and uv.
    path: std::ffi::OsString,
}

impl<'w> Proposals<'w> {
    fn new(world: &'w World) -> Self {
        let bin = world.folder.path().join("gh");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("gh"), GH).unwrap();
        fs::set_permissions(bin.join("gh"), fs::Permissions::from_mode(0o755)).unwrap();
        let usual = std::env::var_os("PATH").unwrap();
        let own = [bin.clone(), world.uv.parent().unwrap().to_owned()];
        let path = std::env::join_paths(own.into_iter().chain(std::env::split_paths(&usual))).unwrap();
        Self { world, bin, path }
    }

    #[track_caller]
    fn propose(&self, exit: i32) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["lock", "--offline", "--upgrade", "--cooldown", "0", "--pull-request"])
            .current_dir(self.world.path(""))
            .env("PATH", &self.path)
            .env("PIP_INDEX_URL", self.world.own_index())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(exit), "{said}");
        said
    }

    /// Calls of `gh` since the last time.
    fn calls(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.bin.join("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.bin.join("calls"));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The metadata of installed projects belongs to a proposal: new files, and those that no project has any more.
    fn hold_metadata_of_projects(&self) {
        let world = self.world;
        let policy = fs::read_to_string(world.path("images.toml")).unwrap();
        let policy = policy.replacen("[project]\n", "[project]\ninstalled = [\"own/pyproject.toml\"]\n", 1);
        fs::write(world.path("images.toml"), policy).unwrap();
        fs::create_dir(world.path("own")).unwrap();
        let project = |version: &str| {
            let text = format!("[project]\nname = \"own\"\nversion = \"{version}\"\n");
            fs::write(world.path("own/pyproject.toml"), text).unwrap();
        };
        project("1");
        world.locks(&["lock", "--offline"], 0);
        world.git(&["add", "-A"]);
        project("2");
        world.git(&["commit", "-q", "-a", "-m", "a project"]);
        let said = self.propose(0);
        assert!(said.contains("proposed"), "{said}");
        let asked = self.calls();
        let files: Vec<(&str, bool)> = asked[0][2]["tree"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| (file["path"].as_str().unwrap(), file["content"].is_string()))
            .collect();
        for (path, is_written) in [("own-1", false), ("own-2", true)] {
            let path = format!("dockerfiles/projects/metadata/{path}.dist-info/METADATA");
            assert!(files.contains(&(path.as_str(), is_written)), "{path}: {files:?}");
        }
    }
}

#[test]
fn upgraded_locks_are_proposed_as_one_pull_request() {
    let Some(world) = World::new("a pull request") else { return };
    let proposals = Proposals::new(&world);
    let (bin, propose, calls) = (&proposals.bin, |exit| proposals.propose(exit), || proposals.calls());
    let names = |calls: &[Value]| {
        calls.iter().map(|call| format!("{} {}", call[0], call[1]).replace('"', "")).collect::<Vec<_>>()
    };
    world.asks("INDEX\nneedw\nplain\n");
    world.locks(&["lock", "--offline"], 0);
    world.pins(&["plain==1.0"]);
    make(&world.folder.path().join("files"), "needw", "1.1", "wheel", &["plain"]);
    fs::write(world.path(".gitignore"), "target\n").unwrap();
    world.git(&["init", "-q", "-b", "main"]);
    world.git(&["add", "-A"]);
    world.git(&["commit", "-q", "-m", "begin"]);

    world.git(&["switch", "-q", "-c", "topic"]);
    assert!(propose(2).contains("`topic` is checked out"));
    world.git(&["switch", "-q", "main"]);
    fs::write(world.path("edited.txt"), "x").unwrap();
    assert!(propose(2).contains("`edited.txt`"));
    fs::remove_file(world.path("edited.txt")).unwrap();
    assert_eq!(calls(), [Value::Null; 0], "nothing was asked");

    fs::write(bin.join("refuses"), "GitHub Actions is not permitted to create or approve pull requests.").unwrap();
    assert!(propose(5).contains("hint: allow it: Settings, Actions"));
    fs::remove_file(bin.join("refuses")).unwrap();
    fs::remove_file(bin.join("branch")).unwrap();
    calls();

    let said = propose(0);
    assert!(said.ends_with("https://github.com/acme/app/pull/7\n"), "{said}");
    let asked = calls();
    let begin = ["POST git/trees", "POST git/commits", "PATCH git/refs/heads/xtask/lock"];
    let pulls = "GET pulls?state=open&base=main&head={owner}:xtask/lock";
    assert_eq!(names(&asked), [&begin[..], &["POST git/refs", pulls, "POST pulls"]].concat());
    let (head, tree) = (world.git(&["rev-parse", "HEAD"]), world.git(&["rev-parse", "HEAD^{tree}"]));
    assert_eq!((&asked[0][2]["base_tree"], &asked[1][2]["parents"]), (&json!(tree), &json!([head])));
    let files = asked[0][2]["tree"].as_array().unwrap();
    let lock = files.iter().find(|file| file["path"] == "requirements-enhanced.lock").unwrap();
    assert_eq!(lock["content"], json!(world.lock_text()));
    assert!(files.iter().all(|file| file["path"] != "requirements-enhanced.txt"));
    assert!(asked[5][2]["body"].as_str().unwrap().contains("- plain 1.0 -> 1.1\n"), "{:#}", asked[5]);

    // A week later the same pull request is renewed.
    world.git(&["checkout", "-q", "--", "."]);
    propose(0);
    assert_eq!(names(&calls()), [&begin[..], &[pulls, "PATCH pulls/7"]].concat());
    // Where it was merged there is nothing to propose.
    world.git(&["commit", "-q", "-a", "-m", "merged"]);
    assert!(propose(0).contains("no pull request"));
    assert_eq!(calls(), [Value::Null; 0]);

    proposals.hold_metadata_of_projects();
}

/// Prints what Renovate's managers for custom formats find: `CONFIGURATION NAME=FILE...`.
const RENOVATE: &str = r##"
import json, re, sys
managers = json.load(open(sys.argv[1]))["customManagers"]
# Renovate's syntax of a named group is that of JavaScript.
own = lambda pattern: re.compile(pattern.replace("(?<", "(?P<"))
for argument in sys.argv[2:]:
    name, file = argument.split("=", 1)
    for manager in managers:
        assert manager["customType"] == "regex" and manager["datasourceTemplate"] == "docker"
        if any(own(pattern.strip("/")).search(name) for pattern in manager["managerFilePatterns"]):
            for found in (m for pattern in manager["matchStrings"] for m in own(pattern).finditer(open(file).read())):
                print(json.dumps([name, found.groupdict()]))
"##;

#[test]
fn the_documented_configuration_of_renovate_finds_every_pin() {
    let root = Path::new(ROOT);
    let guide = fs::read_to_string(root.join("docs/guide.md")).unwrap();
    let (_, block) = guide.split_once("<!-- renovate -->\n```json\n").unwrap();
    let block = block.split_once("\n```\n").unwrap().0;
    let configuration: Value = serde_json::from_str(block).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).display().to_string()
    };
    // The file as the program writes it.
    let digest = |byte: &str| format!("sha256:{}", byte.repeat(64));
    let platforms = [("linux/amd64", "a"), ("linux/arm64", "b")];
    let platforms = platforms.map(|(name, byte)| (name.parse().unwrap(), digest(byte).parse().unwrap()));
    let image = "registry.example:5000/library/python:3.12-slim";
    let pin = RootPin { image: image.parse().unwrap(), platforms: platforms.into() };
    let pins =
        ImagesLock { root: Some(pin), ..ImagesLock::default() }.with_pin(None, Some(digest("c").parse().unwrap()));
    let files = [
        format!("images.toml={}", root.join("images.toml").display()),
        format!("services/app/images.lock={}", place("images.lock", &pins.to_string())),
    ];
    let configured = place("renovate.json", block);
    let done = Command::new("python3").args(["-c", RENOVATE]).arg(configured).args(&files).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let found: Vec<Value> =
        String::from_utf8(done.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let locked = |byte: &str| json!({"depName": "registry.example:5000/library/python", "currentValue": "3.12-slim", "currentDigest": digest(byte)});
    assert_eq!(
        found,
        [
            json!(["images.toml", {"depName": "docker.io/library/python", "currentValue": "3.12-slim"}]),
            json!(["images.toml", {"depName": "docker.io/library/rust", "currentValue": "1.95-slim-trixie"}]),
            json!(["services/app/images.lock", locked("a")]),
            json!(["services/app/images.lock", locked("b")]),
        ]
    );
    // The installer's lock is a requirements file, which Renovate reads by itself once it knows the name.
    let pattern = configuration["pip_requirements"]["managerFilePatterns"][0].as_str().unwrap();
    assert_eq!(pattern, "/(^|/)installer\\.lock$/");
    let installer = fs::read_to_string(root.join("dockerfiles/installer.lock")).unwrap();
    assert!(installer.lines().nth(1).unwrap().starts_with("uv=="));
}
