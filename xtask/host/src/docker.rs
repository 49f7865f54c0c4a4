//! The docker and buildx command lines: the only place that calls them. Podman's takes the place of docker's for everything but
//! builds: its command line is docker's, and where it is not, the difference is here.
//!
//! A [`Build`] is turned into an argument list by a pure function ([`Docker::build_command`]), so what `--dry-run` prints is
//! what runs. Failures are read from the tool's output and reported with their cause.

pub mod buildah;
pub mod debian;
pub mod engine;
mod plugin;
mod socket;

use crate::process::{self, Command};
use crate::registry::{Credentials, settings_text};
use crate::scratch::Scratch;
use crate::terminal;
use serde::Deserialize;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use xtask_model::fault::{Exit, Fault};
pub use xtask_model::image::order::Output;
use xtask_model::image::policy::{Compression, RelPath};
use xtask_model::spec::reference::{Digest, Platform, Reference};

/// Maximum number of calls of a build that loses a race for its name.
const TRIES: usize = 3;

/// A docker client and the engine that it reaches.
#[derive(Clone, Debug)]
pub struct Docker {
    call: Command,
    /// The buildx plugin: through docker, or by itself where docker would look for it elsewhere.
    buildx: Command,
    /// The variable that says which engine, where the caller's own environment does not.
    chosen: Option<(&'static str, String)>,
    /// True if it is known that the engine has no bridge; asked for where it is not known.
    without_bridge: OnceLock<bool>,
    /// True if it is the private engine of `cargo xtask engine up`.
    pub private: bool,
    /// True if it is podman, which keeps and runs images. It has no buildx.
    pub podman: bool,
}

/// Meaning of a name in a Dockerfile's `FROM` or `--from` for one build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// An image of an OCI layout.
    Layout {
        folder: PathBuf,
        digest: Digest,
    },
    Image(Reference),
    Folder(PathBuf),
}

impl NamedContext {
    /// The value for docker's `--build-context`.
    fn docker_value(&self) -> String {
        match self {
            Self::Layout { folder, digest } => format!("oci-layout://{}@{digest}", folder.display()),
            Self::Image(image) => format!("docker-image://{image}"),
            Self::Folder(folder) => folder.display().to_string(),
        }
    }
}

/// One call of `docker buildx build`, for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    pub context: PathBuf,
    /// Folder with the Dockerfile at its path.
    pub root: PathBuf,
    pub dockerfile: RelPath,
    /// Stage to build in place of the last.
    pub target: Option<String>,
    pub platform: Platform,
    pub args: BTreeMap<String, String>,
    /// Predefined arguments whose values docker takes from the environment (proxies): never shown.
    pub inherited_args: Vec<&'static str>,
    /// By the name in the Dockerfile.
    pub contexts: BTreeMap<String, NamedContext>,
    pub labels: BTreeMap<String, String>,
    pub secrets: BTreeMap<&'static str, PathBuf>,
    pub names: Vec<String>,
    pub outputs: Vec<Output>,
    pub compression: Compression,
    /// Creation time in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    pub builder: Option<String>,
    /// True if its steps use the host's network: they need one, and the engine has none of its own.
    pub host_network: bool,
    pub no_cache: bool,
    pub cache: Option<BuildCache>,
    /// Pushes as a person's command line does: with docker's builder, buildx has docker push once more what BuildKit pushed.
    pub by_hand: bool,
}

/// A build cache in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildCache {
    pub from: String,
    pub to: String,
}

#[derive(Clone, Debug)]
pub struct Built {
    /// Digest of its manifest, or of its index where there are attestations.
    pub digest: Digest,
    pub took: Duration,
    pub steps: Steps,
    /// Blobs that came over the network, with about as many bytes.
    pub pulled: BTreeMap<Digest, u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    pub all: usize,
    pub cached: usize,
}

#[derive(Clone, Debug, Deserialize)]
pub struct StoredImage {
    #[serde(rename = "Id")]
    id: String,
    /// The manifest's digest, as podman has it.
    #[serde(rename = "Digest")]
    manifest: Option<String>,
    #[serde(rename = "RepoTags", default)]
    pub tags: Vec<String>,
    #[serde(rename = "Config", default)]
    config: Option<StoredConfig>,
    #[serde(rename = "Architecture", default)]
    architecture: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct StoredConfig {
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "ExposedPorts", default)]
    ports: Option<BTreeMap<String, serde_json::Value>>,
}

impl StoredImage {
    /// The manifest's digest in podman's and in the containerd store, the config's in docker's classic one.
    pub fn digest(&self) -> Option<Digest> {
        self.manifest.as_ref().unwrap_or(&self.id).parse().ok()
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.config.as_ref()?.labels.as_ref()?.get(name).map(String::as_str)
    }

    pub fn labels(&self) -> BTreeMap<String, String> {
        self.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default()
    }

    /// The ports that it exposes: `8080/tcp`.
    pub fn ports(&self) -> Vec<String> {
        self.config.iter().filter_map(|config| config.ports.as_ref()).flat_map(BTreeMap::keys).cloned().collect()
    }

    pub fn is_for(&self, platform: &Platform) -> bool {
        self.architecture == platform.architecture
    }
}

impl Docker {
    /// The docker of this machine: the one that `DOCKER_HOST` or a context names; else the private engine, while it runs;
    /// else whatever `docker` reaches. Nothing is started, and nothing asked before it is needed.
    pub fn find(root: &Path) -> Result<Self, Fault> {
        if !is_chosen()
            && let engine::Status::Running(state) = engine::status(root, None)?
        {
            return Ok(Self::of_engine(&state));
        }
        let hint = "install Docker, or start a private engine here: `cargo xtask engine up`";
        let (program, podman) = match client().filter(|(_, podman)| !podman || !is_chosen()) {
            Some(found) => found,
            None => (process::find("docker", "building images", hint)?, false),
        };
        let call = Command::new(&program);
        let folder = Credentials::from_env().folder.filter(|_| !podman);
        let buildx = folder.and_then(|folder| plugin::buildx(&program, &folder));
        Ok(Self {
            buildx: buildx.map_or_else(|| call.clone().arg("buildx"), Command::new),
            call,
            chosen: None,
            // Podman makes a network for each container, also without root rights.
            without_bridge: if podman { OnceLock::from(false) } else { OnceLock::new() },
            private: false,
            podman,
        })
    }

    /// True if an engine seems to respond that can build: podman cannot.
    pub fn can_build(root: &Path) -> bool {
        Self::is_available(root) && !Self::find(root).is_ok_and(|docker| docker.podman)
    }

    /// True if an engine seems to respond that keeps and runs images. Checked quickly, without starting anything.
    pub fn is_available(root: &Path) -> bool {
        let chosen = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let listens = |socket: &str| std::os::unix::net::UnixStream::connect(socket).is_ok();
        match (chosen("DOCKER_HOST"), chosen("DOCKER_CONTEXT")) {
            (Some(host), _) if host.starts_with("unix://") => host.strip_prefix("unix://").is_some_and(listens),
            (None, None) if matches!(engine::status(root, None), Ok(engine::Status::Running(_))) => true,
            (None, None) if client().is_none_or(|(_, podman)| podman) => client().is_some(),
            (None, None) if listens("/var/run/docker.sock") => true,
            (None, None) if !has_context() => false,
            // A context or a host elsewhere: only docker itself can say.
            _ => Self::find(root).is_ok_and(|docker| docker.version().is_ok()),
        }
    }

    /// The private engine with its own programs, and with the credentials, contexts and builders of whoever calls: an
    /// engine is private, the registries that it pushes to are not.
    pub fn of_engine(state: &engine::State) -> Self {
        let own = state.folder.join("config");
        let mut call = state.command();
        let mut buildx = call.clone().program(own.join("cli-plugins/docker-buildx"));
        if let Some(folder) = Credentials::from_env().folder {
            // A machine that has no builders yet gets no folder for them outside the engine's.
            if !folder.join("buildx").is_dir() {
                buildx = buildx.env("BUILDX_CONFIG", own.join("buildx"));
            }
            call = call.env("DOCKER_CONFIG", &folder);
            buildx = buildx.env("DOCKER_CONFIG", folder);
        }
        let host = state.docker_env().remove("DOCKER_HOST").map(|host| host.to_string_lossy().into_owned());
        let chosen = host.map(|host| ("DOCKER_HOST", host));
        Self {
            call,
            buildx,
            chosen,
            without_bridge: OnceLock::from(state.network_host()),
            private: true,
            podman: false,
        }
    }

    /// The engine of the docker context of this name, if there is one: buildx takes a context for a builder only where it
    /// is the one in use. Without such a context the name is a builder's, and this docker stays.
    pub fn with_context(self, name: &str) -> Result<Self, Fault> {
        if !self.command().args(["context", "inspect", "--", name]).output()?.status.success() {
            return Ok(self);
        }
        let to = |call: Command| call.env_remove("DOCKER_HOST").env("DOCKER_CONTEXT", name);
        let chosen = Some(("DOCKER_CONTEXT", name.to_owned()));
        Ok(Self {
            call: to(self.call),
            buildx: to(self.buildx),
            chosen,
            without_bridge: OnceLock::new(),
            private: false,
            podman: false,
        })
    }

    /// The socket of the engine, where it is one of this machine.
    fn socket(&self) -> Option<PathBuf> {
        let of_caller = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let host = match &self.chosen {
            Some((variable, value)) => (*variable == "DOCKER_HOST").then(|| value.clone()),
            None if self.podman => None,
            None => match (of_caller("DOCKER_HOST"), of_caller("DOCKER_CONTEXT")) {
                (None, None) if !has_context() => Some("unix:///var/run/docker.sock".to_owned()),
                (host, _) => host,
            },
        };
        host?.strip_prefix("unix://").map(PathBuf::from)
    }

    /// True if a build by this builder is in docker's store, from where docker can push it.
    pub fn stores(&self, builder: Option<&str>) -> bool {
        builder.is_none_or(|builder| self.is_context(builder))
    }

    fn is_context(&self, name: &str) -> bool {
        self.chosen.as_ref().is_some_and(|(variable, value)| *variable == "DOCKER_CONTEXT" && value == name)
    }

    pub fn shown(&self, command: &Command) -> String {
        let Some((name, value)) = &self.chosen else { return command.to_string() };
        // The address beats the context, so a context needs it gone.
        let unset = if *name == "DOCKER_CONTEXT" { "-u DOCKER_HOST " } else { "" };
        format!("env {unset}{} {command}", process::quoted(&format!("{name}={value}")))
    }

    pub fn command(&self) -> Command {
        self.call.clone()
    }

    /// A call that may bring an image from its registry: podman takes no registry of this machine for one without TLS.
    pub fn bring(&self, call: &str, image: &str) -> Command {
        let local = || image.parse::<Reference>().is_ok_and(|image| image.repository.is_loopback());
        let command = self.command().arg(call);
        if self.podman && local() { command.arg("--tls-verify=false") } else { command }
    }

    /// A call of the buildx plugin. It does not look at git: for what it would report nobody asks, and the repository's own
    /// configuration could make it run any program (`core.fsmonitor`, filters).
    pub fn buildx(&self) -> Command {
        self.buildx.clone().env("BUILDX_GIT_INFO", "false").env("BUILDX_GIT_CHECK_DIRTY", "false")
    }

    /// True if the engine was started without a bridge: what needs a network there takes the host's.
    pub fn lacks_bridge(&self) -> Result<bool, Fault> {
        if let Some(known) = self.without_bridge.get() {
            return Ok(*known);
        }
        let found = self.command().args(["network", "inspect", "--format", "{{.Name}}", "bridge"]).output()?;
        // An engine that does not answer says so itself when it is asked to build.
        let lacks = !found.status.success() && String::from_utf8_lossy(&found.stderr).contains("not found");
        Ok(*self.without_bridge.get_or_init(|| lacks))
    }

    pub fn version(&self) -> Result<String, Fault> {
        if let Some(version) = self.socket().and_then(|socket| socket::version(&socket)) {
            return Ok(version);
        }
        let command = self.command().args(["version", "--format", "{{.Server.Version}}"]);
        let output = command.output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(unreachable_engine(&String::from_utf8_lossy(&output.stderr)))
    }

    pub fn buildx_version(&self) -> Result<String, Fault> {
        let output = self.buildx().arg("version").output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(Fault::missing("docker has no buildx plugin")
            .cause(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default())
            .hint("install docker-buildx, or start a private engine here: `cargo xtask engine up`"))
    }

    /// True if images are kept by containerd, and so known by their manifests' digests.
    pub fn has_containerd_store(&self) -> Result<bool, Fault> {
        let said = self.command().args(["info", "--format", "{{json .DriverStatus}}"]).read(Exit::Missing)?;
        Ok(said.contains("io.containerd.snapshotter"))
    }

    /// The call that realises `build`, its metadata going to `metadata`.
    pub fn build_command(&self, build: &Build, metadata: &Path) -> Command {
        let mut call = self.buildx().args(["build", "--progress=plain", "--provenance=false"]);
        if let Some(builder) = build.builder.as_ref().filter(|builder| !self.is_context(builder)) {
            call = call.arg(format!("--builder={builder}"));
        }
        call = call.arg(format!("--platform={}", build.platform));
        call = call.arg(joined("--file=", &build.root.join(&build.dockerfile)));
        if let Some(target) = &build.target {
            call = call.arg(format!("--target={target}"));
        }
        // Another builder has its own network, and may refuse the host's.
        if build.host_network && build.builder.is_none() {
            call = call.arg("--network=host");
        }
        if build.no_cache {
            call = call.arg("--no-cache");
        }
        if let Some(cache) = &build.cache {
            call = call.arg(format!("--cache-from=type=registry,ref={}", cache.from));
            call = call.arg(format!("--cache-to=type=registry,ref={},mode=max", cache.to));
        }
        for (name, value) in &build.args {
            call = call.arg("--build-arg").arg(format!("{name}={value}"));
        }
        for name in &build.inherited_args {
            call = call.arg("--build-arg").arg(name);
        }
        if let Some(epoch) = build.source_date_epoch {
            call = call.arg("--build-arg").arg(format!("SOURCE_DATE_EPOCH={epoch}"));
        }
        for (name, target) in &build.contexts {
            call = call.arg("--build-context").arg(format!("{name}={}", target.docker_value()));
        }
        for (name, value) in &build.labels {
            call = call.arg("--label").arg(format!("{name}={value}"));
        }
        for (id, path) in &build.secrets {
            let source = path.to_string_lossy();
            call = call.arg("--secret").arg(csv(&[format!("id={id}"), format!("src={source}")]));
        }
        for output in &build.outputs {
            let mut attributes = match output {
                Output::Store => vec!["type=image".to_owned()],
                Output::Push if build.by_hand => vec!["type=image".to_owned(), "push=true".to_owned()],
                // Without a value it is true for BuildKit, and nothing that buildx acts on.
                Output::Push => vec!["type=image".to_owned(), "push=".to_owned()],
                Output::Layout(folder) => {
                    vec!["type=oci".to_owned(), "tar=false".to_owned(), format!("dest={}", folder.to_string_lossy())]
                }
            };
            if !matches!(output, Output::Layout(_)) {
                attributes.push(format!("name={}", build.names.join(",")));
            }
            attributes.push("oci-mediatypes=true".to_owned());
            attributes.push(format!("compression={}", build.compression.as_str()));
            call = call.arg("--output").arg(csv(&attributes));
        }
        // A context that begins with a dash is still a folder.
        call.arg(joined("--metadata-file=", metadata)).arg("--").arg(&build.context)
    }

    /// Runs a build, telling its lines to `ui`, and returns the digest that BuildKit gives.
    pub fn build(&self, build: &Build, what: &str) -> Result<Built, Fault> {
        let folder = Scratch::new().map_err(|error| Fault::build("cannot make a temporary folder").cause(error))?;
        let metadata = folder.path().join("metadata.json");
        let command = self.build_command(build, &metadata);
        let began = std::time::Instant::now();
        let mut tries = 0;
        let (log, took) = loop {
            let mut progress = terminal::Progress::begin("building", what);
            let mut log = Log::default();
            let status = command.stream(|line| {
                progress.line(line);
                log.add(line);
            });
            progress.end();
            let status = status?;
            if status.success() {
                log.notices.iter().for_each(Notice::show);
                break (log, began.elapsed());
            }
            tries += 1;
            if tries == TRIES || !log.lost_name_race() {
                return Err(log.fault(what, &build.dockerfile, status));
            }
        };
        #[derive(Deserialize)]
        struct BuildxMetadata {
            #[serde(rename = "containerimage.digest")]
            digest: Digest,
        }
        let cannot = |cause: &dyn std::fmt::Display| {
            Fault::build(format!("cannot read the digest of {what} from `docker buildx build`")).cause(cause)
        };
        let text = std::fs::read(&metadata).map_err(|error| cannot(&error))?;
        let digest = serde_json::from_slice::<BuildxMetadata>(&text).map_err(|error| cannot(&error))?.digest;
        Ok(Built { digest, took, steps: log.steps, pulled: log.pulled })
    }

    /// An image of the store by name, `None` where there is none.
    pub fn stored(&self, name: &str) -> Result<Option<StoredImage>, Fault> {
        let output = self.command().args(["image", "inspect", "--format", "{{json .}}", "--", name]).output()?;
        /// Podman answers with a list, of one.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Inspected {
            One(StoredImage),
            All([StoredImage; 1]),
        }
        if output.status.success() {
            return serde_json::from_slice(&output.stdout)
                .map(|answer| match answer {
                    Inspected::One(image) | Inspected::All([image]) => Some(image),
                })
                .map_err(|error| Fault::build(format!("cannot read docker's answer about `{name}`")).cause(error));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let missing = if self.podman { "image not known" } else { "no such image" };
        if said.to_ascii_lowercase().contains(missing) { Ok(None) } else { Err(unreachable_engine(&said)) }
    }

    /// Pushes an image of the store.
    pub fn push(&self, name: &str) -> Result<(), Fault> {
        self.command().args(["image", "push", "--quiet", "--", name]).read(Exit::Network).map(drop)
    }

    pub fn tag(&self, image: &str, name: &str) -> Result<(), Fault> {
        self.command().args(["image", "tag", "--", image, name]).read(Exit::Build).map(drop)
    }
}

/// True if the caller's environment says which engine.
fn is_chosen() -> bool {
    ["DOCKER_HOST", "DOCKER_CONTEXT"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// The client of this machine, and whether it is podman: where docker is missing, or is podman by another name.
fn client() -> Option<(PathBuf, bool)> {
    let docker = process::found("docker").map(|docker| (is_podman(&docker), docker));
    match docker {
        Some((false, docker)) => Some((docker, false)),
        // What a distribution installs as `docker` warns on every call.
        Some((true, docker)) => Some((process::found("podman").unwrap_or(docker), true)),
        None => Some((process::found("podman")?, true)),
    }
}

/// True if a program of docker's name is a link to podman, or a script that calls it.
fn is_podman(docker: &Path) -> bool {
    const LONGEST: u64 = 10_000;
    let named = std::fs::canonicalize(docker).is_ok_and(|target| target.file_name() == Some("podman".as_ref()));
    let small = || std::fs::metadata(docker).is_ok_and(|meta| meta.len() < LONGEST);
    let calls = || {
        std::fs::read(docker)
            .is_ok_and(|text| text.starts_with(b"#!") && String::from_utf8_lossy(&text).contains("podman"))
    };
    named || small() && calls()
}

/// The fault of a build that only docker can do, where this machine has podman.
pub fn podman_cannot_build() -> Fault {
    Fault::missing("podman cannot build this: it has no buildx")
        .hint("build without an engine, and let podman keep and run the image: `--engine native`")
        .hint("install Docker with buildx, or start a private engine here: `cargo xtask engine up`")
}

/// True if docker's configuration names an engine other than this machine's.
fn has_context() -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Configuration {
        current_context: Option<String>,
    }
    let read = || {
        let text = std::fs::read(Credentials::from_env().folder?.join("config.json")).ok()?;
        serde_json::from_slice::<Configuration>(&settings_text(text)).ok()?.current_context
    };
    read().is_some_and(|context| !matches!(context.as_str(), "" | "default"))
}

/// `--flag=` and a path, whatever bytes the path has.
fn joined(flag: &str, path: &Path) -> OsString {
    let mut text = OsString::from(flag);
    text.push(path);
    text
}

/// A list as buildx reads it: comma-separated values, quoted as RFC 4180 says.
fn csv(fields: &[String]) -> String {
    let field = |text: &String| {
        if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.clone() }
    };
    fields.iter().map(field).collect::<Vec<_>>().join(",")
}

/// The fault where docker's client works and no engine answers.
fn unreachable_engine(said: &str) -> Fault {
    let fault = Fault::missing("no Docker engine responds").cause(said.trim());
    if said.contains("permission denied") {
        return fault.hint("join the group `docker`, or run as root");
    }
    fault.hint("start Docker, or a private engine here: `cargo xtask engine up`")
}

/// Output of a build: its last lines, and BuildKit's state of each step.
#[derive(Default)]
struct Log {
    tail: VecDeque<String>,
    steps: Steps,
    pulled: BTreeMap<Digest, u64>,
    notices: Vec<Notice>,
}

/// Message for the user from the scripts of the base's Dockerfile, on a line of a step.
#[derive(Debug, PartialEq, Eq)]
enum Notice {
    Shared(String),
    PassedOver(String),
}

impl Notice {
    /// Reads `1.577 warning: …`, the state of a step's line.
    fn read(state: &str) -> Option<Self> {
        let (_, line) = state.split_once(' ')?;
        let shared = || line.strip_prefix("warning: ").filter(|text| text.contains(" have different files at `"));
        match line.strip_prefix("passed over: ") {
            Some(text) => Some(Self::PassedOver(text.to_owned())),
            None => shared().map(|text| Self::Shared(text.to_owned())),
        }
    }

    fn show(&self) {
        match self {
            Self::Shared(text) => terminal::warn(text),
            Self::PassedOver(text) => terminal::step("passed over", &format!("the import of {text}")),
        }
    }
}

/// Downloaded bytes in a line: `sha256:… 13.63MB / 78.14MB 0.2s`.
fn arrived(state: &str) -> Option<(Digest, u64)> {
    let mut words = state.split(' ');
    let (digest, amount, of) = (words.next()?, words.next()?, words.next()?);
    let digest = digest.parse().ok().filter(|_| of == "/")?;
    let unit = amount.find(|c: char| c.is_ascii_alphabetic())?;
    let factor = match &amount[unit..] {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    Some((digest, (amount[..unit].parse::<f64>().ok()? * factor) as u64))
}

impl Log {
    fn add(&mut self, line: &str) {
        // `#12 CACHED` and `#12 DONE 0.4s`, after `#12 [packages 4/8] RUN …`; transfers and exports do not count.
        if let Some((number, state)) = line.strip_prefix('#').and_then(|rest| rest.split_once(' '))
            && number.bytes().all(|b| b.is_ascii_digit())
        {
            if state == "CACHED" {
                self.steps.cached += 1;
            } else if state.starts_with('[') && state.contains('/') && !state.starts_with("[internal]") {
                self.steps.all += 1;
            } else if let Some((digest, bytes)) = arrived(state) {
                self.pulled.insert(digest, bytes);
            } else {
                self.notices.extend(Notice::read(state));
            }
        }
        if self.tail.len() == 60 {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
    }

    /// True if another build gave its image the same name at the same moment. BuildKit looks whether the name exists, then
    /// creates it, and containerd lets only one of two do so; the loser has everything but the name in its cache.
    fn lost_name_race(&self) -> bool {
        let error = self.tail.iter().rev().find_map(|line| line.strip_prefix("ERROR: ")).unwrap_or_default();
        error.contains("image \"") && error.ends_with("already exists")
    }

    fn fault(&self, what: &str, dockerfile: &RelPath, status: std::process::ExitStatus) -> Fault {
        let lines: Vec<&str> = self.tail.iter().map(String::as_str).collect();
        let all = lines.join("\n");
        if all.contains("Cannot connect to the Docker daemon")
            || all.contains("permission denied while trying to connect")
        {
            return unreachable_engine(lines.last().unwrap_or(&""));
        }
        let error = lines.iter().rev().find_map(|line| line.strip_prefix("ERROR: ")).unwrap_or("no reason was given");
        // BuildKit repeats the failing step's output between two rules; without it, the end of the log.
        let rule = |line: &&&str| line.starts_with("------");
        let block: Vec<&str> = match lines.iter().position(|line| rule(&line)) {
            Some(begin) => lines[begin + 1..].iter().take_while(|line| !rule(line)).copied().collect(),
            None => lines[lines.len().saturating_sub(12)..].to_vec(),
        };
        if all.contains("buildx") && all.contains("is not a docker command") || all.contains("unknown flag: --progress")
        {
            return Fault::missing("docker has no buildx plugin")
                .cause(error)
                .hint("install docker-buildx, or start a private engine here: `cargo xtask engine up`");
        }
        let fault = if all.contains("failed to push")
            || all.contains("pushing") && !all.contains("executor failed") && is_network(&all)
        {
            Fault::network(format!("cannot push {what}"))
                .hint("check the registry and its credentials: `cargo xtask doctor`")
        } else if is_network(error) {
            Fault::network(format!("cannot build {what}: a registry or package index does not respond"))
                .hint("check the network: `cargo xtask doctor`")
        } else {
            Fault::build(format!("cannot build {what} ({status})"))
        };
        let fault = fault.needed_by(format!("`{dockerfile}`")).cause(shorten(error));
        let fault = if block.is_empty() { fault } else { fault.cause(block.join("\n")) };
        if all.contains("failed to push")
            && let Some((_, rest)) = all.split_once("The repository with name '")
            && let Some((name, _)) = rest.split_once('\'')
        {
            // ECR's words.
            return fault.hint(format!(
                "create it, and one for every other image: `aws ecr create-repository --repository-name {name}`"
            ));
        }
        if all.contains("server gave HTTP response to HTTPS client") {
            return fault.hint(
                "the registry speaks plain HTTP: list it in the engine's own `insecure-registries` (`/etc/docker/daemon.json`) \
                 and in `[project] insecure-registries` of `images.toml`, or build with `--engine native`, which needs the latter only",
            );
        }
        if all.contains("no space left on device") {
            return fault.hint("the engine's disk is full: free space with `docker builder prune`, and run this again");
        }
        if all.contains("unknown scheme oci-layout")
            || all.contains("exporter is not supported for the docker driver")
            || all.contains("exporter \"oci\" could not be found")
        {
            return fault.hint(
                "the engine uses its classic image store: enable `containerd-snapshotter` in its `features`, \
                 use another builder with `--builder NAME`, or start a private engine: `cargo xtask engine up`",
            );
        }
        if all.contains("exec format error") {
            return fault.hint(
                "this machine cannot run that platform's programs: build it there, or install QEMU's binfmt handlers",
            );
        }
        if volume_is_normal() { fault.hint("`-v` shows every line of the build") } else { fault }
    }
}

fn volume_is_normal() -> bool {
    terminal::volume() < terminal::Volume::Verbose
}

fn is_network(said: &str) -> bool {
    [
        "dial tcp",
        "no such host",
        "connection refused",
        "i/o timeout",
        "unexpected status from",
        "TLS handshake",
        "401 Unauthorized",
        "403 Forbidden",
        "EOF",
    ]
    .iter()
    .any(|sign| said.contains(sign))
}

/// An error of BuildKit repeats the whole command: its beginning and its end say enough.
fn shorten(error: &str) -> String {
    const LIMIT: usize = 400;
    if error.chars().count() <= LIMIT {
        return error.to_owned();
    }
    let begin: String = error.chars().take(LIMIT / 2).collect();
    let end: Vec<char> = error.chars().rev().take(LIMIT / 2).collect();
    format!("{begin} … {}", end.into_iter().rev().collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn docker() -> Docker {
        let call = Command::new("docker");
        Docker {
            buildx: call.clone().arg("buildx"),
            call,
            chosen: None,
            without_bridge: OnceLock::from(true),
            private: false,
            podman: false,
        }
    }

    fn build() -> Build {
        Build {
            context: "/re po/-ü".into(),
            root: "/re po/-ü".into(),
            dockerfile: "dockerfiles/Dockerfile.base".parse().unwrap(),
            target: None,
            platform: "linux/amd64".parse().unwrap(),
            args: BTreeMap::from([("ROOT_IMAGE".to_owned(), "a b".to_owned())]),
            inherited_args: vec!["HTTPS_PROXY"],
            contexts: BTreeMap::new(),
            labels: BTreeMap::from([("l".to_owned(), "{\"a\":1}".to_owned())]),
            secrets: BTreeMap::from([("ca", PathBuf::from("/etc/c,a"))]),
            names: vec!["r/a:1".to_owned(), "r/a:2".to_owned()],
            outputs: vec![Output::Push, Output::Layout("/out".into())],
            compression: Compression::Zstd,
            source_date_epoch: Some(7),
            builder: None,
            host_network: true,
            no_cache: false,
            cache: None,
            by_hand: false,
        }
    }

    #[test]
    fn the_argument_list_is_the_plan() {
        let argv = docker().build_command(&build(), Path::new("/m")).argv();
        expect![[r#"
            docker
            buildx
            build
            --progress=plain
            --provenance=false
            --platform=linux/amd64
            --file=/re po/-ü/dockerfiles/Dockerfile.base
            --network=host
            --build-arg
            ROOT_IMAGE=a b
            --build-arg
            HTTPS_PROXY
            --build-arg
            SOURCE_DATE_EPOCH=7
            --label
            l={"a":1}
            --secret
            id=ca,"src=/etc/c,a"
            --output
            type=image,push=,"name=r/a:1,r/a:2",oci-mediatypes=true,compression=zstd
            --output
            type=oci,tar=false,dest=/out,oci-mediatypes=true,compression=zstd
            --metadata-file=/m
            --
            /re po/-ü"#]]
        .assert_eq(&argv.join("\n"));
    }

    #[test]
    fn another_builder_has_its_own_network() {
        let argv =
            docker().build_command(&Build { builder: Some("far".to_owned()), ..build() }, Path::new("/m")).argv();
        assert!(argv.contains(&"--builder=far".to_owned()) && !argv.contains(&"--network=host".to_owned()), "{argv:?}");
    }

    #[test]
    fn a_cache_in_the_registry_is_read_and_written() {
        let cache = BuildCache { from: "r/cache:main".to_owned(), to: "r/cache:change".to_owned() };
        let cached = Build { cache: Some(cache), ..build() };
        let argv = docker().build_command(&cached, Path::new("/m")).argv();
        let flags: Vec<&str> = argv.iter().map(String::as_str).filter(|arg| arg.starts_with("--cache")).collect();
        assert_eq!(
            flags,
            ["--cache-from=type=registry,ref=r/cache:main", "--cache-to=type=registry,ref=r/cache:change,mode=max"]
        );
    }

    fn failed(lines: &[&str]) -> Fault {
        use std::os::unix::process::ExitStatusExt as _;
        let mut log = Log::default();
        lines.iter().for_each(|line| log.add(line));
        log.fault("base image", &"Dockerfile".parse().unwrap(), std::process::ExitStatus::from_raw(256))
    }

    #[test]
    fn failures_are_reported_with_their_cause() {
        let fault = failed(&[
            "#9 0.2 broken",
            "------",
            " > [2/2] RUN x:",
            "0.2 broken",
            "------",
            "ERROR: failed to solve: exit code: 2",
        ]);
        assert_eq!(fault.exit, Exit::Build);
        assert_eq!(fault.causes, ["failed to solve: exit code: 2", " > [2/2] RUN x:\n0.2 broken"]);
        let fault = failed(&["ERROR: failed to solve: write /x: no space left on device"]);
        assert!(fault.hints[0].contains("disk is full"), "{fault}");
        let fault = failed(&[
            "ERROR: failed to push h/x:1: name unknown: The repository with name 'acme/x' does not exist in the registry with id '1'",
        ]);
        assert!(fault.hints[1].contains("aws ecr create-repository --repository-name acme/x"), "{fault}");
        let fault = failed(&["ERROR: failed to push h/x:1: http: server gave HTTP response to HTTPS client"]);
        assert!(fault.hints[1].contains("insecure-registries"), "{fault}");
        let fault = failed(&["ERROR: Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?"]);
        assert_eq!(fault.exit, Exit::Missing);
        let fault = failed(&["ERROR: failed to solve: dial tcp: lookup r.example: no such host"]);
        assert_eq!(fault.exit, Exit::Network);
        let fault = failed(&["ERROR: failed to push 127.0.0.1:1/a:b: unexpected status: 500"]);
        assert_eq!((fault.exit, fault.what.as_str()), (Exit::Network, "cannot push base image"));
    }

    #[test]
    fn only_a_name_that_exists_already_is_a_lost_race() {
        let said = |line: &str| {
            let mut log = Log::default();
            log.add(line);
            log.lost_name_race()
        };
        assert!(said("ERROR: failed to solve: image \"r/a:b-linux-amd64\": already exists"));
        assert!(!said("ERROR: failed to solve: mkdir /x: already exists"));
        assert!(!said("#9 0.2 image \"a\": already exists"));
    }

    #[test]
    fn steps_are_counted() {
        let mut log = Log::default();
        for line in [
            "#1 [internal] load build definition",
            "#5 [packages 1/8] WORKDIR /build",
            "#5 CACHED",
            "#6 [2/2] COPY a b",
            "#6 DONE 0.1s",
            "#7 exporting to image",
        ] {
            log.add(line);
        }
        assert_eq!(log.steps, Steps { all: 2, cached: 1 });
    }

    #[test]
    fn what_the_packages_scripts_say_is_shown() {
        let mut log = Log::default();
        let shared = "`a` and `b` have different files at `LICENSE`; the image has those of `b`";
        for line in [
            &format!("#14 1.577 warning: {shared}"),
            "#15 0.312 passed over: tzdata 2026.1: it has no module to import",
            "#15 0.312 numpy 2.5: numpy 0.10 s",
            "#9 3.1 warning: unused variable: `x`",
        ] {
            log.add(line);
        }
        let passed = "tzdata 2026.1: it has no module to import";
        assert_eq!(log.notices, [Notice::Shared(shared.to_owned()), Notice::PassedOver(passed.to_owned())]);
    }

    #[test]
    fn what_is_pulled_is_counted() {
        let (big, small) = (Digest::of(b"big"), Digest::of(b"small"));
        let mut log = Log::default();
        for line in [
            format!("#5 resolve a@{big} 0.0s done"),
            format!("#5 {big} 13.63MB / 78.14MB 0.2s"),
            format!("#5 {small} 712B / 712B 0.1s done"),
            format!("#5 {big} 78.14MB / 78.14MB 1.0s done"),
            format!("#5 extracting {big} 1.5s done"),
            format!("#7 exporting manifest {big} 0.0s done"),
        ] {
            log.add(&line);
        }
        assert_eq!(log.pulled, BTreeMap::from([(big, 78_140_000), (small, 712)]));
    }
}
