//! A repository that builds its own images, made for one test: tiny, real, with repositories of its own in the registry.

#[path = "sources.rs"]
mod sources;

use crate::real_engine::{Engine, engine};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use xtask_host::process::Command;
use xtask_host::registry::publish;
use xtask_host::registry::{Answer, Client, ClientOptions};
use xtask_model::fault::Exit;
use xtask_model::image::presence::Published;
use xtask_model::spec::oci;
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository, Tag};

/// Part of `images.toml` that the tests change.
pub const BASE: &str = "\
# The base of the tests: a folder in place of what pip would have installed.
ARG ROOT_IMAGE
FROM ${ROOT_IMAGE} AS packages
ARG GREETING=none
COPY requirements-enhanced.lock dockerfiles/check.txt /build/
RUN mkdir -p /opt/venv && cp /build/check.txt /opt/venv/ && echo \"$GREETING\" > /opt/venv/greeting
FROM ${ROOT_IMAGE} AS base
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/bin
USER 10001:10001
";

/// A base that runs nothing, so that it can be built for any platform.
pub const COPYING_BASE: &str = "\
ARG ROOT_IMAGE
FROM ${ROOT_IMAGE} AS base
COPY requirements-enhanced.lock dockerfiles/check.txt /opt/venv/
USER 10001:10001
";

/// A step that waits until another job is done, if `GATE` is set.
pub const GATE: &str = "name = \"gate\"\nafter = \"build\"\nimages = [\"base\"]\nrun = [\"sh\", \"-c\", \"test -z \\\"$GATE\\\" || { \
                    echo waiting; while ! test -e \\\"$GATE\\\"; do sleep 0.05; done; }\"]";

/// Files that are copied into a native base.
const NATIVE_END: &str =
    "COPY --link requirements-enhanced.lock dockerfiles/check.txt /opt/venv/\nENV PATH=/opt/venv/bin:/bin\n";

/// This machine's platform, and one that it is not.
pub fn platforms() -> (String, String) {
    let host = Platform::host().to_string();
    let other = if host == "linux/amd64" { "linux/arm64" } else { "linux/amd64" };
    (host, other.to_owned())
}

/// The repository; its folder and git history vanish with it.
pub struct Repo {
    pub engine: &'static Engine,
    pub path: PathBuf,
    /// Host, port and prefix of its image repositories.
    pub registry: String,
    holder: Option<tempfile::TempDir>,
}

impl Repo {
    /// A committed repository whose images go to the engine's registry; `None`, said aloud, where there is no engine.
    pub fn new(name: &str) -> Option<Self> {
        let engine = engine()?;
        let registry = format!("{}/{}", engine.registry(), unique(name));
        Some(Self::at(name, &registry))
    }

    /// The same for another registry.
    pub fn with_registry(name: &str, host: &str) -> Option<Self> {
        engine()?;
        Some(Self::at(name, &format!("{host}/{}", unique(name))))
    }

    fn at(name: &str, registry: &str) -> Self {
        let holder = tempfile::Builder::new().prefix("xtask-e2e-").tempdir().unwrap();
        let path = holder.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(&path).unwrap();
        let repo = Self { engine: engine().unwrap(), path, registry: registry.to_owned(), holder: Some(holder) };
        repo.fill();
        repo.git(&["init", "-q", "-b", "main"]);
        repo.commit("begin");
        repo
    }

    fn fill(&self) {
        let host = platforms().0;
        let root = self.engine.root_repository();
        self.write(
            "images.toml",
            &format!(
                "[project]\nname = \"app\"\nregistry = \"{}\"\nsource = \"https://example.com/app\"\n\
                 platforms = [\"{host}\"]\n\n[root]\nimage = \"{root}:1\"\npython = \"3.12\"\n\n\
                 [base]\n# base settings\n\n[app]\n# app settings\n",
                self.registry
            ),
        );
        self.write("dockerfiles/Dockerfile.base", BASE);
        self.write("dockerfiles/Dockerfile.fast", sources::FAST);
        sources::begin(&self.path);
        self.lock("scipy==1.16.3\n", &[("scipy", "1.16.3")]);
        // The engine is found where the repository's own would be.
        std::fs::create_dir_all(self.path.join("target")).unwrap();
        std::os::unix::fs::symlink(self.engine.folder(), self.path.join("target/engine")).unwrap();
    }

    /// Writes the requirements and a lock that matches them.
    pub fn lock(&self, wanted: &str, pins: &[(&str, &str)]) -> &Self {
        sources::lock(&self.path, "3.12", wanted, pins);
        self
    }

    /// Writes a file.
    pub fn write(&self, path: &str, text: &str) -> &Self {
        sources::write(&self.path, path, text);
        self
    }

    /// Reads a file.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path.join(path)).unwrap()
    }

    /// Replaces a text of a file, which has to exist.
    #[track_caller]
    pub fn edit(&self, path: &str, from: &str, to: &str) -> &Self {
        let text = self.read(path);
        assert!(text.contains(from), "`{path}` has no `{from}`:\n{text}");
        self.write(path, &text.replacen(from, to, 1))
    }

    /// Adds to the policy's `[base]` or `[app]`.
    pub fn set(&self, section: &str, line: &str) -> &Self {
        self.edit("images.toml", &format!("# {section} settings"), &format!("{line}\n# {section} settings"))
    }

    /// Adds a step to the policy.
    pub fn step(&self, text: &str) -> &Self {
        self.write("images.toml", &format!("{}\n[[step]]\n{text}\n", self.read("images.toml")))
    }

    /// Makes the policy want both platforms, with Dockerfiles that run nothing.
    pub fn for_two_platforms(&self) -> &Self {
        let (host, other) = platforms();
        self.edit("images.toml", &format!("[\"{host}\"]"), &format!("[\"{host}\", \"{other}\"]"));
        self.write("dockerfiles/Dockerfile.base", COPYING_BASE)
    }

    /// Makes the native engine build it, on a root of this repository.
    pub fn for_native(&self, root: &Repository) -> &Self {
        let known = format!("{}:1", self.engine.root_repository());
        self.edit("images.toml", &known, &format!("{root}:1"));
        self.edit("images.toml", "[project]\n", "[project]\nengine = \"native\"\n");
        self.write("images.toml", &format!("{}\n[base.stages]\nuser = \"user\"\n", self.read("images.toml")));
        self.write("dockerfiles/Dockerfile.base", &sources::native_base(NATIVE_END));
        self.write("dockerfiles/Dockerfile.fast", sources::NATIVE_FAST);
        sources::code(&self.path, "#!/bin/sh\ncat /etc/passwd\n", "print(1)\n");
        self.write("code/deep/b.py", &sources::long());
        self.commit("native");
        self
    }

    /// Calls git; returns what it prints.
    #[track_caller]
    pub fn git(&self, args: &[&str]) -> String {
        let mut call = Command::new("git").arg("-C").arg(&self.path);
        for (name, value) in [("user.name", "a"), ("user.email", "a@example.com"), ("commit.gpgsign", "false")] {
            call = call.arg("-c").arg(format!("{name}={value}"));
        }
        // Ten seconds between commits: their order by time is their order.
        static TIME: AtomicUsize = AtomicUsize::new(1_700_000_000);
        let time = format!("{} +0000", TIME.fetch_add(10, Ordering::SeqCst));
        let call = call.args(args).env("GIT_COMMITTER_DATE", &time).env("GIT_AUTHOR_DATE", &time);
        call.read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"))
    }

    /// Commits everything; returns the commit.
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// A second working copy of the same project.
    pub fn clone(&self, name: &str) -> Self {
        let path = self.holder.as_ref().map_or(self.path.parent().unwrap(), tempfile::TempDir::path).join(name);
        let target = path.to_str().unwrap().to_owned();
        self.git(&["clone", "-q", ".", &target]);
        std::fs::create_dir_all(path.join("target")).unwrap();
        std::os::unix::fs::symlink(self.engine.folder(), path.join("target/engine")).unwrap();
        Self { engine: self.engine, path, registry: self.registry.clone(), holder: None }
    }

    /// A call of the real xtask in this repository.
    pub fn xtask(&self, args: &[&str]) -> Call {
        let args = args.iter().map(OsString::from).collect();
        Call { root: self.path.clone(), args, env: BTreeMap::new(), through: Vec::new() }
    }

    /// `build --push`, which has to go well; its report.
    #[track_caller]
    pub fn push(&self) -> Report {
        self.xtask(&["build", "--push", "--format", "json"]).run().ok().report()
    }

    /// The repository of the base or the app.
    pub fn repository(&self, name: &str) -> Repository {
        format!("{}/{name}", self.registry).parse().unwrap()
    }

    /// Image under a name (a tag or a digest) of the base (`app-base`) or the app (`app`).
    #[track_caller]
    pub fn published(&self, name: &str, tag: &str) -> Option<Published> {
        let repository = self.repository(name);
        let client = client();
        let found = match tag.parse::<Digest>() {
            Ok(digest) => publish::read(&client, &repository, digest),
            Err(_) => publish::read(&client, &repository, tag.parse::<Tag>().unwrap()),
        };
        found.unwrap_or_else(|fault| panic!("{fault}")).present()
    }

    /// The digest under a tag, as text; empty where there is none.
    #[track_caller]
    pub fn digest(&self, name: &str, tag: &str) -> String {
        self.published(name, tag).map(|found| found.digest.to_string()).unwrap_or_default()
    }

    /// All tags of a repository, sorted; those of single platforms and the records of tags that move are scaffolding and left out.
    #[track_caller]
    pub fn tags(&self, name: &str) -> Vec<String> {
        match client().tags(&self.repository(name)).unwrap_or_else(|fault| panic!("{fault}")) {
            Answer::Present(tags) => {
                let own = |tag: &String| {
                    !tag.contains("-linux-") && !tag.starts_with(xtask_model::image::tags::RECORD_PREFIX)
                };
                tags.iter().map(ToString::to_string).filter(own).collect()
            }
            Answer::Absent => Vec::new(),
        }
    }

    /// The configuration of this machine's image under a digest.
    #[track_caller]
    pub fn config(&self, name: &str, digest: &str) -> oci::Config {
        let (repository, client) = (self.repository(name), client());
        let found = self.published(name, digest).expect("the image exists");
        let manifest = publish::read_manifest(&client, &repository, found.platforms[&Platform::host()].digest).unwrap();
        publish::read_config(&client, &repository, &manifest).unwrap()
    }

    /// Runs what a reference names and returns what it prints.
    #[track_caller]
    pub fn run(&self, reference: &str, args: &[&str]) -> String {
        let front = ["run", "--rm", "--network=host", "--pull=missing"];
        self.engine.docker(&[&front[..], &[reference], args].concat())
    }
}

/// A client that nothing can lead astray.
pub fn client() -> Client {
    Client::new(ClientOptions::default())
}

fn unique(name: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    format!("e2e-{}-{}/{plain}x", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst))
}

/// One call of xtask, with an environment in which nothing of the host's leads elsewhere.
pub struct Call {
    root: PathBuf,
    args: Vec<OsString>,
    env: BTreeMap<String, OsString>,
    through: Vec<OsString>,
}

impl Call {
    /// Has another program start it, which is given the whole call as its last arguments.
    pub fn through(mut self, program: &[&str]) -> Self {
        self.through = program.iter().map(OsString::from).collect();
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// As on a machine whose docker cannot be reached.
    pub fn without_engine(self) -> Self {
        self.env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    }

    fn command(&self) -> std::process::Command {
        let xtask = OsString::from(env!("CARGO_BIN_EXE_xtask"));
        let words: Vec<&OsString> = self.through.iter().chain([&xtask]).collect();
        let mut command = std::process::Command::new(words[0]);
        command.args(&words[1..]).arg("--root").arg(&self.root).args(&self.args).env_clear();
        for name in ["PATH", "LANG", "TMPDIR", "CARGO_HOME", "RUSTUP_HOME", "UV_PYTHON_SEARCH_PATH"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        // No one's credentials, no one's pip configuration, and a store of its own.
        command.env("HOME", self.root.join("target")).env("XTASK_STORE", self.root.join("target/native/store"));
        command.envs(&self.env);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs to the end.
    #[track_caller]
    pub fn run(&self) -> Outcome {
        let output = self.command().output().unwrap();
        Outcome::of(output)
    }

    /// Starts it, with its stderr in a file that can be waited on.
    pub fn start(&self) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("stderr");
        let child = self.command().stderr(log(&said)).spawn().unwrap();
        Running { child, said, _folder: folder }
    }
}

/// A file that several processes write to at once. Opened for appending: `cat` copies between files inside the kernel, at an
/// offset read before, and would overwrite what another process wrote meanwhile.
fn log(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// A call that has not ended.
pub struct Running {
    child: Child,
    said: PathBuf,
    _folder: tempfile::TempDir,
}

impl Running {
    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Waits until stderr holds this text.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> &mut Self {
        let said = self.said.clone();
        until(
            || std::fs::read_to_string(&said).unwrap().contains(text),
            || format!("`{text}` was not said:\n{}", std::fs::read_to_string(&said).unwrap()),
        );
        self
    }

    pub fn signal(&mut self, signal: rustix::process::Signal) -> &mut Self {
        rustix::process::kill_process(self.pid(), signal).unwrap();
        self
    }

    /// Waits for the end.
    pub fn end(self) -> Outcome {
        let Self { child, said, _folder } = self;
        let mut output = child.wait_with_output().unwrap();
        output.stderr = std::fs::read(&said).unwrap();
        Outcome::of(output)
    }
}

/// Waits until something holds, half a minute at most.
#[track_caller]
pub fn until(mut holds: impl FnMut() -> bool, why: impl Fn() -> String) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{}", why());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Result of a call.
#[derive(Debug)]
pub struct Outcome {
    /// `None` where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    fn of(output: std::process::Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        self.ends(0)
    }

    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Has to say this on stderr.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "`{text}` is not in:\n{}", self.stderr);
        self
    }

    /// Must not say this anywhere.
    #[track_caller]
    pub fn keeps(self, text: &str) -> Self {
        assert!(!self.stderr.contains(text) && !self.stdout.contains(text), "`{text}` is in:\n{self:?}");
        self
    }

    #[track_caller]
    pub fn report(&self) -> Report {
        let value: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(xtask::documents::BUILD.unlisted(&value), [""; 0], "{value:#}");
        Report(value)
    }

    /// The one line of stdout, which is a reference by digest.
    #[track_caller]
    pub fn reference(&self) -> Reference {
        let lines: Vec<&str> = self.stdout.lines().collect();
        assert_eq!(lines.len(), 1, "{}", self.stdout);
        let reference: Reference = lines[0].parse().unwrap();
        assert!(reference.digest.is_some(), "{reference}");
        reference
    }
}

/// The JSON report.
#[derive(Debug)]
pub struct Report(pub Value);

impl Report {
    /// An image's part, by its kind.
    #[track_caller]
    pub fn image(&self, kind: &str) -> &Value {
        let images = self.0["images"].as_array().unwrap();
        images.iter().find(|image| image["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {self:?}"))
    }

    #[track_caller]
    pub fn text(&self, kind: &str, field: &str) -> String {
        self.image(kind)[field].as_str().unwrap_or_else(|| panic!("no {field}: {self:?}")).to_owned()
    }

    pub fn digest(&self, kind: &str) -> String {
        self.text(kind, "digest")
    }

    pub fn fingerprint(&self, kind: &str) -> String {
        self.text(kind, "fingerprint")
    }

    /// `built`, `reused` or `adopted`.
    pub fn action(&self, kind: &str) -> String {
        self.text(kind, "action")
    }

    /// Actions for the base and the app.
    pub fn actions(&self) -> (String, String) {
        (self.action("base"), self.action("app"))
    }

    pub fn tags(&self, kind: &str) -> Vec<String> {
        let tags = self.image(kind)["tags"].as_array().unwrap();
        tags.iter().map(|tag| tag.as_str().unwrap().to_owned()).collect()
    }
}

/// Expected value of [`Report::actions`].
pub fn actions(base: &str, app: &str) -> (String, String) {
    (base.to_owned(), app.to_owned())
}
