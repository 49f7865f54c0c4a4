//! Wanted images: `images.toml`, parsed once into a type that holds only valid values.
//!
//! Pure: the text and a question ("is there such a file?") come in, a [`Policy`] or every problem at once goes out.

pub mod keys;
pub mod plugin;
mod several;
mod steps;
mod toml_reader;

use crate::fault::Fault;
use crate::spec::ignore::Ignore;
use crate::spec::lock::formats::Format;
use crate::spec::project::{Selection, is_manifest};
use crate::spec::reference::{Platform, Reference, Repository, Tag};
use crate::spec::requirements::normalised;
use plugin::{Description, Settings, Waits};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use toml::de::DeTable;
use toml_reader::{Problems, Section};

pub(crate) use toml_reader::nearest;

/// The policy's file name, at the top of the repository.
pub const FILE: &str = "images.toml";

/// Path of the translation of another tool's lock, for engines that install from a file. Written by each build that needs it.
pub const TRANSLATED: &str = "target/lock/packages.lock";

/// Everything that is wanted of a repository's base and app. A file with several apps gives one for each: they share the project, the root,
/// the steps and CI.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The project as a whole.
    pub project: ProjectPolicy,
    /// The OS and Python under everything.
    pub root: Root,
    /// The base image.
    pub base: Base,
    /// The app image.
    pub app: App,
    /// Checks that a built image has to pass.
    pub smoke: Smoke,
    /// Steps that run around builds, in file order.
    pub steps: Vec<Step>,
    /// Days that a release has to be old before an upgrade of the lock takes it.
    pub cooldown: u32,
    /// Settings of CI.
    pub ci: Ci,
}

/// `[project]`
#[derive(Clone, Debug)]
pub struct ProjectPolicy {
    /// Its name, and the app repository's by default.
    pub name: String,
    /// Registry host with the path that all repositories share: `ghcr.io/acme`.
    pub registry: Registry,
    /// Hosts that are spoken to by plain HTTP although they are not loopback.
    pub insecure_registries: Vec<String>,
    /// Web address of the source, for `org.opencontainers.image.source`.
    pub source: Option<String>,
    /// The branch that moves `latest`.
    pub default_branch: String,
    /// The platforms of a complete image.
    pub platforms: Vec<Platform>,
    /// Engine that builds by default, unless the command line names one.
    pub engine: Engine,
    /// The tags that move and are written to a registry.
    pub moving_tags: MovingTags,
    /// Builds that put `latest` and the tags of commits and versions.
    pub shared_tags: SharedTags,
    /// Files that images may have although git ignores them: patterns as in an ignore file.
    pub allow_ignored: Vec<String>,
    /// Each the `pyproject.toml` of a project whose metadata and programs the apps copy.
    pub installed: Vec<RelPath>,
}

/// Builds that put the tags that other people rely on. On a registry of this machine every build does: nobody else uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SharedTags {
    /// CI alone, after the tests.
    #[default]
    Ci,
    /// Every `--push`.
    Anywhere,
}

/// Tags that name one image now and another one later. A registry whose tags are immutable takes none of them twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovingTags {
    /// The app's tag of the branch.
    pub branch: bool,
    /// `latest` of base and app.
    pub latest: bool,
}

/// Engine that realises a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// Docker where one answers, native otherwise.
    #[default]
    Auto,
    /// The docker and buildx command lines.
    Docker,
    /// No daemon: layers are put together here, and only what changed is moved.
    Native,
}

impl Engine {
    /// Each engine with its name in the policy and on the command line.
    pub const NAMES: [(&'static str, Engine); 3] =
        [("auto", Engine::Auto), ("docker", Engine::Docker), ("native", Engine::Native)];
}

/// `[root]`
#[derive(Clone, Debug)]
pub struct Root {
    /// The image under everything, by tag; its digests are in `images.lock`.
    pub image: Reference,
    /// The Python of the root, for which requirements are resolved: `3.12`.
    pub python: String,
    /// Root to use where the image's registry cannot be reached.
    pub fallback: Option<DebianRoot>,
    /// Registries in which images on the fallback root may have names of commits, branches and versions, and `latest`.
    pub fallback_publishes: FallbackPublishes,
}

/// `[root] fallback-publishes`: which registries get names for images on a root that the network chose, not the commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FallbackPublishes {
    /// None: such an image is known by its fingerprint alone.
    #[default]
    Never,
    /// Those of this machine, from which nobody deploys.
    Loopback,
    /// Every one.
    Always,
}

impl FallbackPublishes {
    /// True if names may be put on an image on the fallback root in this repository.
    pub fn allows(self, repository: &Repository) -> bool {
        match self {
            Self::Never => false,
            Self::Loopback => repository.is_loopback(),
            Self::Always => true,
        }
    }

    /// The setting as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Loopback => "loopback",
            Self::Always => "always",
        }
    }
}

impl Policy {
    /// Folder for the files of `[project] installed`, next to the base's Dockerfile.
    pub fn installed_folder(&self) -> String {
        let folder = self.base.dockerfile.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        if folder.is_empty() { "projects".to_owned() } else { format!("{folder}/projects") }
    }
}

impl Root {
    /// The Pythons that a base can have, `3.12`: the root image's and the fallback's.
    pub fn pythons(&self) -> BTreeSet<String> {
        let minor = |version: &str| version.split('.').take(2).collect::<Vec<_>>().join(".");
        let all = [Some(self.python.as_str()), self.fallback.as_ref().map(|debian| debian.python.as_str())];
        all.into_iter().flatten().map(minor).collect()
    }
}

/// `[root] fallback = "debian"` and `[root.debian]`
#[derive(Clone, Debug)]
pub struct DebianRoot {
    /// Debian's release by name: `trixie`.
    pub suite: String,
    /// The Python of that release: `3.13`. Not older than the root's, for which the lock was resolved.
    pub python: String,
    /// Packages beyond the Python set.
    pub packages: Vec<String>,
}

/// `[base]`
#[derive(Clone, Debug)]
pub struct Base {
    /// Its name, where the policy has `[bases.NAME]`.
    pub name: Option<String>,
    /// Name of its repository under the registry.
    pub repository: String,
    pub dockerfile: RelPath,
    /// Wanted Python packages: requirement files or a `pyproject.toml`.
    pub requirements: RequirementFiles,
    /// Resolved packages, written by `cargo xtask lock` or by another tool.
    pub lock: RelPath,
    /// Packages of a project that belong into the image.
    pub selection: Selection,
    /// The installer, with its version and hashes.
    pub installer: RelPath,
    /// Build arguments; they count in the fingerprint.
    pub args: BTreeMap<String, String>,
    /// Hex digits of the fingerprint in the tag.
    pub tag_length: usize,
    /// Raised by hand to rebuild everything once.
    pub epoch: u32,
    /// Compression of layers, for each engine.
    pub compression: Compressions,
    /// Stages of the Dockerfile that run something, and the recipe that realises each without running it.
    pub stages: BTreeMap<String, Recipe>,
    /// Bases of other projects whose layers are taken where they are made of the same.
    pub layers_from: Vec<Repository>,
}

impl Base {
    /// Tool that wrote the lock, which decides how it is read.
    pub fn format(&self) -> Format {
        Format::of(self.lock.as_str())
    }

    /// The file that engines install from: the lock itself, or what another tool's lock is translated into.
    pub fn installed_lock(&self) -> RelPath {
        match self.format() {
            Format::Pip => self.lock.clone(),
            _ => TRANSLATED.parse().expect("a constant path is valid"),
        }
    }

    /// The Debian packages that a stage with the recipe `system-packages` adds to the root; none without such a stage.
    pub fn system_packages(&self) -> Option<Vec<String>> {
        self.stages.values().find(|recipe| **recipe == Recipe::SystemPackages)?;
        let names = self.args.get(SYSTEM_PACKAGES).map_or("", String::as_str);
        Some(names.split_whitespace().map(str::to_owned).collect())
    }
}

/// The build argument that names Debian packages.
pub const SYSTEM_PACKAGES: &str = "SYSTEM_PACKAGES";

/// The build argument that names Debian packages of compilers and headers.
pub const BUILD_PACKAGES: &str = "BUILD_PACKAGES";

/// The files that say what is wanted, in order; none where another tool's lock has no such file next to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequirementFiles(Vec<RelPath>);

impl RequirementFiles {
    pub fn paths(&self) -> &[RelPath] {
        &self.0
    }
}

impl From<Vec<RelPath>> for RequirementFiles {
    fn from(paths: Vec<RelPath>) -> Self {
        Self(paths)
    }
}

impl fmt::Display for RequirementFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(|path| format!("`{path}`")).collect();
        f.write_str(&names.join(", "))
    }
}

/// Recipe for a stage, for an engine that runs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// The environment with the lock's packages: `native::python`.
    PythonPackages,
    /// Debian packages on the root: `native::system`.
    SystemPackages,
    /// The user's entries and folders: `native::user`.
    User,
}

impl Recipe {
    const ALL: [(&str, Self); 3] =
        [("python-packages", Self::PythonPackages), ("system-packages", Self::SystemPackages), ("user", Self::User)];

    /// Its name in the policy.
    pub fn name(self) -> &'static str {
        let known = Self::ALL.iter().find(|(_, recipe)| *recipe == self);
        known.map_or("", |(name, _)| name)
    }
}

/// `[app]`
#[derive(Clone, Debug)]
pub struct App {
    /// Its name, where the policy has `[[app]]`.
    pub name: Option<String>,
    /// Name of its repository under the registry.
    pub repository: String,
    /// The Dockerfile that copies onto the base.
    pub dockerfile: RelPath,
    /// The Dockerfile that builds everything from scratch.
    pub enhanced: Option<RelPath>,
    /// The folder that `COPY` of both reads from; the repository where it is not set.
    pub context: Option<RelPath>,
    /// Build arguments of both; they count in the fingerprint.
    pub args: BTreeMap<String, String>,
    /// The program that cargo compiles on the host, if there is one.
    pub binary: Option<Binary>,
}

/// `[app.binary]`
#[derive(Clone, Debug)]
pub struct Binary {
    /// The cargo package.
    pub package: String,
    /// The binary in it.
    pub name: String,
    /// The cargo profile.
    pub profile: String,
    /// The newest glibc version that the root has; a binary that needs a newer one is refused.
    pub glibc: Option<DottedVersion>,
    /// The image that has cargo, for the enhanced Dockerfile; without it the Dockerfile installs Debian's.
    pub rust_image: Option<Reference>,
    /// It is compiled from files that the image copies too: these count for both.
    pub embeds: bool,
    /// Sources of compiled dependencies.
    pub dependencies: Dependencies,
}

impl Binary {
    /// Folder of its profile below cargo's `target`.
    pub fn folder(&self) -> &str {
        match self.profile.as_str() {
            "dev" | "test" => "debug",
            "bench" => "release",
            own => own,
        }
    }
}

/// Sources of the program's compiled dependencies, on a machine that lacks them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dependencies {
    /// From the project's own repository in the registry, as far as the default branch's CI has put them there.
    #[default]
    Registry,
    /// Cargo compiles them on every machine.
    Off,
}

/// `[smoke]`
#[derive(Clone, Debug, Default)]
pub struct Smoke {
    /// The user, as `id -u` prints it.
    pub user: Option<u32>,
    /// Programs that are run in the image, with its own entry point.
    pub runs: Vec<SmokeRun>,
    /// A server that is started and asked for pages.
    pub serve: Option<SmokeServe>,
}

/// `[[smoke.run]]`
#[derive(Clone, Debug)]
pub struct SmokeRun {
    /// Description of the check, in a few words.
    pub name: String,
    /// Arguments to the image's entry point.
    pub args: Vec<String>,
    /// Text that its output has to contain. `{version}` is the package's version.
    pub contains: String,
}

/// `[smoke.serve]`
#[derive(Clone, Debug)]
pub struct SmokeServe {
    /// Arguments to the image's entry point.
    pub args: Vec<String>,
    /// Path or address to request, within the container.
    pub url: String,
    /// Text that the answer has to contain. Without it, every answer below 500 is good.
    pub contains: Option<String>,
    /// Time limit for the server to answer, in seconds.
    pub seconds: u64,
}

/// `[[step]]`
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name in reports.
    pub name: String,
    /// Event after which it runs.
    pub after: After,
    /// True if it runs only where `CI` is set: what is worth its time there and not at every edit.
    pub only_in_ci: bool,
    /// The images that it runs for.
    pub images: Vec<ImageKind>,
    /// The steps that it waits for, where the policy names them.
    pub needs: Option<Vec<String>>,
    pub action: Action,
}

impl Step {
    /// True if it uses the plugin of this name.
    pub fn uses(&self, plugin: &str) -> bool {
        matches!(&self.action, Action::Uses(description, _) if description.name == plugin)
    }

    /// The steps among `due` for which it waits.
    pub fn waits_for<'s>(&self, due: &'s [&'s Step]) -> Vec<&'s str> {
        let position = due.iter().position(|step| step.name == self.name).unwrap_or(due.len());
        let waits = |index: usize, step: &Step| match (&self.needs, &self.action) {
            (Some(needs), _) => needs.contains(&step.name),
            (None, Action::Run(_) | Action::Package(..)) => index < position,
            (None, Action::Uses(plugin, _)) => match plugin.waits {
                Waits::Nothing => false,
                Waits::For(name) => step.uses(name),
                Waits::Before => index < position,
            },
        };
        let all = due.iter().enumerate().filter(|(index, step)| step.name != self.name && waits(*index, step));
        all.map(|(_, step)| step.name.as_str()).collect()
    }
}

/// The name of the tests that documents need, in CI's outputs and in `cargo xtask ci --only`.
pub const DOCUMENTS: &str = "documents";

/// The documents of a repository whose policy has no `[ci] documents`. Docker's ignore patterns.
pub const DEFAULT_DOCUMENTS: [&str; 8] = [
    "**/*.md",
    "**/*.rst",
    "docs",
    "LICENSE*",
    "CODEOWNERS",
    ".github/CODEOWNERS",
    ".github/ISSUE_TEMPLATE",
    ".github/PULL_REQUEST_TEMPLATE",
];

/// `[[ci.tests]]`: tests that are enough for a change of certain paths.
#[derive(Clone, Debug)]
pub struct Selected {
    /// Name in CI's outputs and in `cargo xtask ci --only`.
    pub name: String,
    pub paths: Ignore,
    pub run: Vec<String>,
    /// True if the job of all tests runs them.
    pub long: bool,
}

/// `[ci]`: what `cargo xtask workflows` writes beyond what the rest of the policy says.
#[derive(Clone, Debug)]
pub struct Ci {
    /// The service that runs the jobs.
    pub provider: Provider,
    /// Image of GitLab's jobs, in place of a default.
    pub image: Option<String>,
    /// The runner of each platform, by label; those that are not named have the service's own.
    pub runners: BTreeMap<Platform, String>,
    /// Schedule of the rebuild for security updates, in cron syntax, UTC.
    pub schedule: String,
    /// Schedule of the pull request with upgraded locks, where there is one.
    pub updates: Option<String>,
    /// Minutes after which a job that builds is ended.
    pub timeout_minutes: u32,
    /// True if the tests get a Kubernetes cluster, which `KUBECONFIG` names.
    pub cluster: bool,
    /// The systems of laptops for which CI compiles and tests xtask.
    pub laptops: BTreeSet<Laptop>,
    /// Limit for the time of fast builds, as a factor of the time of earlier ones. `None` without a limit.
    pub gate_factor: Option<f64>,
    /// Share of reused images that a job builds again, from 0 to 1.
    pub shadow: Option<f64>,
    /// The engine of CI's builds, `docker` or `native`; the desk has `[project] engine`.
    pub engine: Engine,
    /// Files whose change needs the checks of documents alone.
    pub documents: Ignore,
    /// Tests that are enough for a change of certain paths, in the order in which they are tried.
    pub tests: Vec<Selected>,
}

impl Default for Ci {
    /// Monday before work, away from the full hour at which everybody's jobs begin.
    fn default() -> Self {
        Self {
            provider: Provider::GitHub,
            image: None,
            runners: BTreeMap::new(),
            schedule: "17 4 * * 1".to_owned(),
            updates: None,
            timeout_minutes: 60,
            cluster: false,
            laptops: BTreeSet::new(),
            gate_factor: None,
            shadow: None,
            engine: Engine::Docker,
            documents: Ignore::from_patterns(DEFAULT_DOCUMENTS).expect("constant patterns are valid"),
            tests: Vec::new(),
        }
    }
}

/// A service that runs jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    GitHub,
    GitLab,
}

impl Provider {
    pub const NAMES: [(&str, Self); 2] = [("github", Self::GitHub), ("gitlab", Self::GitLab)];
}

/// A system other than Linux on which xtask runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Laptop {
    MacOs,
}

impl FromStr for Laptop {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "macos" => Ok(Self::MacOs),
            "linux" => Err("`linux` is what the job `ci` runs on; write `macos` or nothing".to_owned()),
            _ => Err(format!("`{text}` is not `macos`")),
        }
    }
}

/// Action of a step.
#[derive(Clone, Debug)]
pub enum Action {
    /// A plugin that is compiled in, with its settings.
    Uses(&'static Description, Settings),
    /// A program of the workspace, by the name of its package, that speaks the protocol of plugins.
    Package(String, Settings),
    /// A command as a list, run in the repository.
    Run(Vec<String>),
}

/// Event after which a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Once the image exists, before anything is published.
    Build,
    /// Once its tags are in the registry.
    Push,
}

/// Kind of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageKind {
    /// Python and every dependency.
    Base,
    /// The app on the base.
    App,
    /// The app from scratch.
    Enhanced,
}

impl fmt::Display for ImageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base => "base",
            Self::App => "app",
            Self::Enhanced => "enhanced",
        })
    }
}

/// Layer compression as BuildKit names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Read by every runtime.
    Gzip,
    /// Several times faster; read by containerd 1.5, Docker 23, Podman 4 and later.
    Zstd,
}

impl Compression {
    /// The exporter attribute's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// `[base] compression`: one for both engines, or one for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compressions {
    /// Of layers that docker builds.
    pub docker: Compression,
    /// Of layers that the native engine builds.
    pub native: Compression,
}

impl fmt::Display for Compressions {
    /// As keys have it: what both engines share is one word.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.docker == self.native {
            true => f.write_str(self.docker.as_str()),
            false => write!(f, "{} by docker, {} by native", self.docker.as_str(), self.native.as_str()),
        }
    }
}

/// A path within the repository: relative, `/`-separated, never above it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelPath(String);

impl RelPath {
    /// The path's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<std::path::Path> for RelPath {
    fn as_ref(&self) -> &std::path::Path {
        std::path::Path::new(&self.0)
    }
}

impl FromStr for RelPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Err(format!("path `{text}` is outside the repository (it is absolute)"));
        }
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            return Err(format!("path `{text}` is outside the repository (it holds `..`)"));
        }
        if parts.is_empty() {
            return Err(format!("path `{text}` names no file"));
        }
        Ok(Self(parts.join("/")))
    }
}

/// A dotted version that compares number by number: `2.36`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DottedVersion(Vec<u64>);

impl fmt::Display for DottedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(u64::to_string).collect::<Vec<_>>().join("."))
    }
}

impl FromStr for DottedVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<u64>, _> = text.split('.').map(str::parse).collect();
        numbers.map(Self).map_err(|_| format!("`{text}` is not a version like `2.36`"))
    }
}

/// A registry host with a path prefix, both of which all repositories share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry(String);

impl Registry {
    /// The repository of this name under the prefix.
    pub fn repository(&self, name: &str) -> Repository {
        format!("{}/{name}", self.0).parse().expect("prefix and name were both checked when they were read")
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Registry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim_end_matches('/');
        let probe: Repository = format!("{text}/x").parse().map_err(|error| format!("{error}"))?;
        // Docker Hub's host may be left out of a reference, and has two spellings; here one of them is named.
        let first = text.split('/').next().unwrap_or_default();
        if first != probe.registry() && first != "index.docker.io" {
            return Err(format!(
                "`{text}` does not begin with a registry's host, like `ghcr.io/acme` or `127.0.0.1:5000`"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Reads a size: `900 MB`, `1.5 GB`, decimal units.
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let factor = match unit {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    let number: f64 = number.trim().parse().ok()?;
    (number.is_finite() && number > 0.0).then_some((number * factor) as u64)
}

impl Policy {
    /// The name of an image, where the policy names several.
    pub fn name(&self, kind: ImageKind) -> Option<&str> {
        match kind {
            ImageKind::Base => self.base.name.as_deref(),
            ImageKind::App | ImageKind::Enhanced => self.app.name.as_deref(),
        }
    }

    /// An image for people: `app`, or `app web` where there are several.
    pub fn shown(&self, kind: ImageKind) -> String {
        self.name(kind).map_or_else(|| kind.to_string(), |name| format!("{kind} {name}"))
    }
}

/// Reads `text`, which has one app; `is_file` says whether a path within the repository is a file.
pub fn parse(text: &str, is_file: &dyn Fn(&RelPath) -> bool) -> Result<Policy, Fault> {
    one(parse_all(text, is_file, &[])?, &[])
}

/// The policies of these apps, or of all if none is named.
///
/// # Errors
/// There is no such app.
pub fn select(policies: Vec<Policy>, apps: &[String]) -> Result<Vec<Policy>, Fault> {
    let known: Vec<String> = policies.iter().filter_map(|policy| policy.app.name.clone()).collect();
    if let Some(unknown) = apps.iter().find(|app| !known.contains(app)) {
        let fault = Fault::usage(format!("`{FILE}` has no app `{unknown}`"));
        return Err(match known.as_slice() {
            [] => fault.cause("it has one app, which has no name").hint("leave out `--app`"),
            _ => fault.hint(format!("choose one of {}", listed(&known))),
        });
    }
    let chosen = |policy: &Policy| apps.is_empty() || policy.app.name.as_ref().is_some_and(|name| apps.contains(name));
    Ok(policies.into_iter().filter(chosen).collect())
}

/// The policy of the one app that is meant.
///
/// # Errors
/// There is no such app, or several could be meant.
pub fn one(policies: Vec<Policy>, apps: &[String]) -> Result<Policy, Fault> {
    let mut found = select(policies, apps)?;
    match found.len() {
        1 => Ok(found.remove(0)),
        _ => {
            let names: Vec<String> = found.into_iter().filter_map(|policy| policy.app.name).collect();
            Err(Fault::usage(format!("this is for one app, and `{FILE}` has several: {}", listed(&names)))
                .hint(format!("name one: `--app {}`", names.first().map_or("NAME", String::as_str))))
        }
    }
}

fn listed(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Reads `text`, whose steps may use these plugins besides the built-in ones: a policy for each app, in the order of the file.
pub fn parse_all(
    text: &str,
    is_file: &dyn Fn(&RelPath) -> bool,
    plugins: &[&'static Description],
) -> Result<Vec<Policy>, Fault> {
    let mut problems = Problems::new(FILE, text);
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            problems.add(&error.span().unwrap_or(0..0), error.message().to_owned(), None);
            return Err(refused(problems));
        }
    };
    let policy = read(Section::document(document.get_ref()), &mut problems, is_file, plugins);
    match policy {
        Some(policy) if problems.is_empty() => Ok(policy),
        _ => Err(refused(problems)),
    }
}

fn refused(problems: Problems<'_>) -> Fault {
    let listed = problems.listed();
    let what = match listed.len() {
        1 => format!("`{FILE}` is invalid\n{}", listed[0]),
        count => format!("`{FILE}` is invalid: {count} problems\n{}", listed.join("\n")),
    };
    Fault::usage(what).hint(format!("edit `{FILE}`; `docs/reference.md` lists every key"))
}

fn read(
    mut top: Section<'_>,
    problems: &mut Problems<'_>,
    is_file: &dyn Fn(&RelPath) -> bool,
    plugins: &[&'static Description],
) -> Option<Vec<Policy>> {
    let missing = |name: &str, problems: &mut Problems<'_>| {
        problems.add(&(0..0), format!("`[{name}]` is missing"), None);
    };
    let project = match top.section("project", problems) {
        Some(section) => read_project(section, problems),
        None => {
            missing("project", problems);
            None
        }
    };
    let name = project.as_ref().map(|project| project.name.clone()).unwrap_or_default();
    let root = match top.section("root", problems) {
        Some(section) => read_root(section, problems),
        None => {
            missing("root", problems);
            None
        }
    };
    let images = several::read(&mut top, &name, problems, is_file);
    let smoke = top.section("smoke", problems);
    let each_has_its_own = images.as_ref().is_some_and(|images| images.iter().all(|(_, _, own)| own.is_some()));
    if let Some(smoke) = smoke.as_ref().filter(|_| each_has_its_own) {
        let what = "`[smoke]` has no effect: every app has smoke tests of its own";
        problems.add(smoke.at(), what, Some("remove it, or those of an app".into()));
    }
    let smoke = smoke.map_or_else(Smoke::default, |section| read_smoke(section, problems));
    let steps = steps::read(&mut top, problems, is_file, plugins);
    let platforms = project.as_ref().map(|project| project.platforms.as_slice()).unwrap_or_default();
    let cooldown = top.section("lock", problems).map_or(0, |mut section| {
        let days = section.number("cooldown", problems).unwrap_or(0);
        section.finish(problems);
        u32::try_from(days).expect("the range was checked")
    });
    let ci = top.section("ci", problems).map_or_else(Ci::default, |section| read_ci(section, platforms, problems));
    top.finish(problems);
    let (project, root) = (project?, root?);
    let policy = |(base, app, own): (Base, App, Option<Smoke>)| Policy {
        project: project.clone(),
        root: root.clone(),
        base,
        app,
        smoke: own.unwrap_or_else(|| smoke.clone()),
        steps: steps.clone(),
        cooldown,
        ci: ci.clone(),
    };
    Some(images?.into_iter().map(policy).collect())
}

fn read_project(mut section: Section<'_>, problems: &mut Problems<'_>) -> Option<ProjectPolicy> {
    let name = section.required("name", problems);
    if let Some(name) = &name {
        repository_name("project.name", name, problems);
    }
    let registry = section.required("registry", problems).and_then(|text| match text.value.parse() {
        Ok(registry) => Some(registry),
        Err(error) => {
            problems.add(&text.at, format!("`project.registry`: {error}"), None);
            None
        }
    });
    let insecure = section.texts("insecure-registries", problems).unwrap_or_default();
    let source = section.text("source", problems);
    let default_branch = section.text("default-branch", problems);
    let engine = section.choice("engine", &Engine::NAMES, problems);
    if let Some(branch) = default_branch.as_ref().filter(|branch| !is_branch_name(&branch.value)) {
        problems.add(&branch.at, format!("`project.default-branch`: `{}` is not a branch name", branch.value), None);
    }
    let moving_tags = read_moving_tags(&mut section, problems);
    let whose = [("ci", SharedTags::Ci), ("anywhere", SharedTags::Anywhere)];
    let shared_tags = section.choice("shared-tags", &whose, problems).unwrap_or_default();
    let allow_ignored = section.texts("allow-ignored", problems).unwrap_or_default();
    for pattern in &allow_ignored {
        if let Err(why) = Ignore::from_patterns([pattern.value.as_str()]) {
            problems.add(&pattern.at, format!("`project.allow-ignored`: {why}"), None);
        }
    }
    let named = section.text_or_texts("installed", problems).unwrap_or_default();
    let installed =
        named.into_iter().filter_map(|text| Some(section.parse("installed", text, problems)?.value)).collect();
    let at = section.at().clone();
    let listed = section.texts("platforms", problems);
    if listed.as_ref().is_some_and(Vec::is_empty) {
        problems.add(&at, "`project.platforms` is empty", Some("write `platforms = [\"linux/amd64\"]`".into()));
    }
    let platforms = listed.map(|texts| {
        texts.into_iter().filter_map(|text| Some(section.parse("platforms", text, problems)?.value)).collect()
    });
    section.finish(problems);
    Some(ProjectPolicy {
        name: name?.value,
        registry: registry?,
        insecure_registries: insecure.into_iter().map(|host| host.value).collect(),
        source: source.map(|text| text.value),
        default_branch: default_branch.map_or_else(|| "main".to_owned(), |text| text.value),
        engine: engine.unwrap_or_default(),
        moving_tags,
        shared_tags,
        allow_ignored: allow_ignored.into_iter().map(|pattern| pattern.value).collect(),
        installed,
        platforms: platforms.unwrap_or_else(|| vec![Platform::host()]),
    })
}

fn read_moving_tags(section: &mut Section<'_>, problems: &mut Problems<'_>) -> MovingTags {
    const KNOWN: [&str; 2] = ["branch", "latest"];
    let Some(named) = section.texts("moving-tags", problems) else {
        return MovingTags { branch: true, latest: true };
    };
    for other in named.iter().filter(|named| !KNOWN.contains(&named.value.as_str())) {
        let what = format!("`project.moving-tags` holds `{}`, not `branch` or `latest`", other.value);
        problems.add(&other.at, what, toml_reader::nearest(&other.value, KNOWN.into_iter()));
    }
    let has = |name: &str| named.iter().any(|named| named.value == name);
    MovingTags { branch: has("branch"), latest: has("latest") }
}

/// True if git takes a branch of this name (git-check-ref-format), and a workflow too, in which `${{` begins an expression.
fn is_branch_name(text: &str) -> bool {
    let part =
        |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.') && !part.ends_with(".lock");
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "~^:?*[\\'\"{}".contains(c);
    !text.starts_with('-') && !text.contains("..") && !text.contains(forbidden) && text.split('/').all(part)
}

fn read_ci(mut section: Section<'_>, platforms: &[Platform], problems: &mut Problems<'_>) -> Ci {
    let mut ci = Ci::default();
    let at = section.at().clone();
    ci.provider = section.choice("provider", &Provider::NAMES, problems).unwrap_or(ci.provider);
    ci.image = read_job_image(&mut section, ci.provider, problems);
    for (name, runner) in section.map("runners", problems) {
        match name.parse::<Platform>() {
            Ok(platform) if platforms.contains(&platform) => drop(ci.runners.insert(platform, runner.clone())),
            Ok(_) => {
                let hint = "add it to `[project] platforms`, or remove the runner";
                problems.add(&at, format!("`ci.runners`: `{name}` is not among the platforms"), Some(hint.into()));
            }
            Err(error) => problems.add(&at, format!("`ci.runners`: {error}"), None),
        }
        let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if runner.is_empty() || !runner.chars().all(good) {
            problems.add(&at, format!("`ci.runners`: `{runner}` is not a runner label"), None);
        }
    }
    ci.schedule = read_schedule(&mut section, "schedule", problems).unwrap_or(ci.schedule);
    ci.updates = read_schedule(&mut section, "updates", problems);
    if let Some(minutes) = section.number("timeout-minutes", problems) {
        ci.timeout_minutes = u32::try_from(minutes).expect("the range was checked");
    }
    ci.cluster = section.choice("cluster", &[("k3d", true)], problems).unwrap_or_default();
    ci.laptops = section.list::<Laptop>("laptops", problems).unwrap_or_default().into_iter().collect();
    ci.gate_factor = section.at_least("gate-factor", problems);
    ci.shadow = section.share("shadow", problems).filter(|share| *share > 0.0);
    let engines = [("docker", Engine::Docker), ("native", Engine::Native)];
    ci.engine = section.choice("engine", &engines, problems).unwrap_or(ci.engine);
    ci.documents = read_patterns(&mut section, "documents", problems).unwrap_or(ci.documents);
    for section in section.sections("tests", problems) {
        let at = section.at().clone();
        if let Some(tests) = read_selected_tests(section, problems) {
            if ci.tests.iter().any(|other| other.name == tests.name) {
                problems.add(&at, format!("there are two `[[ci.tests]]` named `{}`", tests.name), None);
            }
            ci.tests.push(tests);
        }
    }
    section.finish(problems);
    ci
}

/// The image of jobs, for the service that runs them in one.
fn read_job_image(section: &mut Section<'_>, provider: Provider, problems: &mut Problems<'_>) -> Option<String> {
    let image = section.text("image", problems)?;
    if provider == Provider::GitHub {
        let hint = "remove it, or set `provider = \"gitlab\"`: jobs of GitHub run on the runner itself";
        problems.add(&image.at, "`ci.image` cannot be used with `provider = \"github\"`", Some(hint.into()));
    }
    section.parse::<Reference>("image", image, problems).map(|image| image.value.to_string())
}

/// The five fields of cron.
fn read_schedule(section: &mut Section<'_>, key: &'static str, problems: &mut Problems<'_>) -> Option<String> {
    let schedule = section.text(key, problems)?;
    let fields: Vec<&str> = schedule.value.split(' ').collect();
    let field =
        |field: &&str| !field.is_empty() && field.chars().all(|c| c.is_ascii_alphanumeric() || "*/,-".contains(c));
    if fields.len() != 5 || !fields.iter().all(field) {
        let hint = "minute, hour, day, month, weekday, in UTC: `17 4 * * 1`";
        let what = format!("`ci.{key}` is `{}`, not the five fields of cron", schedule.value);
        problems.add(&schedule.at, what, Some(hint.into()));
    }
    Some(schedule.value)
}

/// A list of patterns, in the syntax of `.dockerignore`.
fn read_patterns(section: &mut Section<'_>, key: &'static str, problems: &mut Problems<'_>) -> Option<Ignore> {
    let texts = section.texts(key, problems)?;
    let mut patterns = Ignore::none();
    for text in &texts {
        if let Err(why) = Ignore::from_patterns([text.value.as_str()]) {
            problems.add(&text.at, format!("`{key}` of `[ci]`: `{}`: {why}", text.value), None);
            return Some(patterns);
        }
    }
    if let Ok(all) = Ignore::from_patterns(texts.iter().map(|text| text.value.as_str())) {
        patterns = all;
    }
    Some(patterns)
}

fn read_selected_tests(mut section: Section<'_>, problems: &mut Problems<'_>) -> Option<Selected> {
    let at = section.at().clone();
    let name = section.required("name", problems);
    let paths = read_patterns(&mut section, "paths", problems);
    let run = section.texts("run", problems);
    let long = section.boolean("long", problems).unwrap_or_default();
    section.finish(problems);
    let reserved = ["all", "none", DOCUMENTS];
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if let Some(name) = name.as_ref().filter(|name| !name.value.chars().all(good) || reserved.contains(&&*name.value)) {
        let hint = "lowercase letters, digits and `-`, and not `all`, `none` or `documents`";
        problems.add(&name.at, format!("`ci.tests.name` is `{}`", name.value), Some(hint.into()));
    }
    if paths.is_none() {
        problems.add(&at, "`ci.tests.paths` is missing", Some("list what these tests are enough for".into()));
    }
    match run.as_deref() {
        Some([program, ..]) if !program.value.is_empty() => {}
        _ => problems.add(&at, "`ci.tests.run` names no program", Some("`run = [\"cargo\", \"test\"]`".into())),
    }
    let run = run.unwrap_or_default().into_iter().map(|text| text.value).collect();
    Some(Selected { name: name?.value, paths: paths?, run, long })
}

fn read_root(mut section: Section<'_>, problems: &mut Problems<'_>) -> Option<Root> {
    let image = section.required("image", problems);
    let image = image.and_then(|text| section.parse::<Reference>("image", text, problems));
    if let Some(image) = image.as_ref().filter(|image| image.value.digest.is_some()) {
        let hint = "name the tag here; `cargo xtask lock` writes its digest of each platform to `images.lock`";
        problems.add(&image.at, "`root.image` names a digest", Some(hint.into()));
    }
    let python = section.required("python", problems);
    if let Some(python) = &python
        && (python.value.parse::<DottedVersion>().is_err() || python.value.matches('.').count() != 1)
    {
        problems.add(&python.at, format!("`root.python` is `{}`, not a version like `3.12`", python.value), None);
    }
    let fallback = section.choice("fallback", &[("debian", ())], problems);
    use FallbackPublishes::{Always, Loopback, Never};
    let publishes = [("never", Never), ("loopback", Loopback), ("always", Always)];
    let fallback_publishes = section.choice("fallback-publishes", &publishes, problems).unwrap_or_default();
    let locked_for = python.as_ref().and_then(|python| python.value.parse::<DottedVersion>().ok());
    let debian = section.section("debian", problems);
    if let Some(debian) = debian.as_ref().filter(|_| fallback.is_none()) {
        let what = "`[root.debian]` has no effect without `root.fallback`";
        problems.add(debian.at(), what, Some("write `fallback = \"debian\"` in `[root]`, or remove the table".into()));
    }
    let debian = debian.map(|mut debian| {
        let suite = debian.text("suite", problems).map(|suite| suite.value);
        let debian_python = debian.parsed::<DottedVersion>("python", problems);
        if let (Some(debian), Some(locked)) = (&debian_python, &locked_for)
            && debian.value < *locked
        {
            let what = format!("`root.debian.python` {} is older than `root.python` {locked}", debian.value);
            problems.add(&debian.at, what, Some("the lock is resolved for the older of both".into()));
        }
        let packages = debian.texts("packages", problems).unwrap_or_default();
        for package in &packages {
            let good =
                package.value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.:".contains(&b));
            if !good || package.value.is_empty() || package.value.starts_with('-') {
                problems.add(&package.at, format!("`{}` is not the name of a Debian package", package.value), None);
            }
        }
        debian.finish(problems);
        (suite, debian_python, packages.into_iter().map(|package| package.value).collect::<Vec<_>>())
    });
    section.finish(problems);
    let root_python = &python;
    let fallback = fallback.map(|()| {
        let (suite, python, packages) = debian.unwrap_or_default();
        let suite = suite.unwrap_or_else(|| "trixie".to_owned());
        let written = python.map(|version| version.value.to_string());
        let debian = written.clone().unwrap_or_else(|| debian_python(&suite).to_owned());
        if let (Some(locked), Some(python)) = (&locked_for, root_python)
            && written.is_none()
            && debian.parse::<DottedVersion>().is_ok_and(|debian| debian < *locked)
        {
            let what = format!("Debian {suite}, the fallback, has Python {debian}: older than `root.python` {locked}");
            let hint = "the lock is resolved for the older of both: name that here, or a newer `root.debian.suite`";
            problems.add(&python.at, what, Some(hint.into()));
        }
        DebianRoot { suite, python: debian, packages }
    });
    Some(Root { image: image?.value, python: python?.value, fallback, fallback_publishes })
}

/// The Python of a Debian release.
fn debian_python(suite: &str) -> &'static str {
    match suite {
        "bullseye" | "oldoldstable" => "3.9",
        "bookworm" | "oldstable" => "3.11",
        _ => "3.13",
    }
}

/// A path, or the described default, that has to be a file of the repository.
fn file(
    section: &mut Section<'_>,
    key: &'static str,
    problems: &mut Problems<'_>,
    is_file: &dyn Fn(&RelPath) -> bool,
) -> Option<RelPath> {
    let at = section.at().clone();
    let path = match section.parsed::<RelPath>(key, problems) {
        Some(path) => path,
        None => toml_reader::Spanned { value: section.default_text(key)?.parse().expect("defaults are paths"), at },
    };
    if !is_file(&path.value) {
        let hint = format!("create it, or name another file with `{key}`");
        problems.add(&path.at, format!("`{}` is not a file of the repository", path.value), Some(hint));
        return None;
    }
    Some(path.value)
}

fn repository_name(key: &str, name: &toml_reader::Spanned<String>, problems: &mut Problems<'_>) {
    if let Err(error) = format!("registry.example/{}", name.value).parse::<Repository>() {
        problems.add(&name.at, format!("`{key}`: {error}"), None);
    }
}

fn read_args(section: &mut Section<'_>, problems: &mut Problems<'_>) -> BTreeMap<String, String> {
    let args: BTreeMap<_, _> = section.map("args", problems).into_iter().collect();
    for name in args.keys() {
        let upper = name.to_ascii_uppercase();
        if ["TOKEN", "PASSWORD", "SECRET", "CREDENTIAL"].iter().any(|word| upper.contains(word)) {
            let hint = "a build argument can be read from the image's history; mount it: RUN --mount=type=secret";
            problems.add(
                &section.at().clone(),
                format!("build argument `{name}` looks like a secret"),
                Some(hint.into()),
            );
        }
    }
    args
}

fn read_base(
    mut section: Section<'_>,
    default_repository: String,
    problems: &mut Problems<'_>,
    is_file: &dyn Fn(&RelPath) -> bool,
) -> Option<Base> {
    let repository = section.text("repository", problems);
    if let Some(name) = &repository {
        repository_name("base.repository", name, problems);
    }
    let dockerfile = file(&mut section, "dockerfile", problems, is_file);
    // The lock and the installer's lock are written by `cargo xtask lock`: they need not exist yet.
    let anything = |_: &RelPath| true;
    let lock = file(&mut section, "lock", problems, &anything);
    let requirements = read_requirements(&mut section, lock.as_ref(), problems, is_file);
    let selection = read_selection(&mut section, lock.as_ref(), requirements.as_ref(), problems);
    let installer = file(&mut section, "installer", problems, &anything);
    let args = read_args(&mut section, problems);
    let tag_length = section.number_or_default("tag-length", problems);
    let epoch = section.number_or_default("epoch", problems);
    let compression = read_compression(&mut section, problems);
    let stages = read_stages(&mut section, problems);
    check_system(&args, &stages, section.at(), problems);
    let layers_from = read_layers_from(&mut section, problems);
    section.finish(problems);
    Some(Base {
        name: None,
        repository: repository.map_or(default_repository, |name| name.value),
        dockerfile: dockerfile?,
        requirements: requirements?,
        lock: lock?,
        selection,
        installer: installer?,
        args,
        tag_length: usize::try_from(tag_length).expect("the range was checked"),
        epoch: u32::try_from(epoch).expect("the range was checked"),
        compression,
        stages,
        layers_from,
    })
}

fn read_layers_from(section: &mut Section<'_>, problems: &mut Problems<'_>) -> Vec<Repository> {
    let mut found = Vec::new();
    for name in section.texts("layers-from", problems).unwrap_or_default() {
        match name.value.parse::<Repository>() {
            Ok(repository) => found.push(repository),
            Err(error) => problems.add(&name.at, format!("`base.layers-from`: {error}"), None),
        }
    }
    found
}

/// The files that say what is wanted. Another tool's lock is made from the file next to it, which no key names.
fn read_requirements(
    section: &mut Section<'_>,
    lock: Option<&RelPath>,
    problems: &mut Problems<'_>,
    is_file: &dyn Fn(&RelPath) -> bool,
) -> Option<RequirementFiles> {
    let at = section.at().clone();
    let written = section.text_or_texts("requirements", problems);
    let format = lock.map_or(Format::Pip, |lock| Format::of(lock.as_str()));
    if format != Format::Pip {
        let source = lock.and_then(|lock| format.source(lock.as_str())?.parse::<RelPath>().ok());
        if let Some(first) = written.as_ref().and_then(|texts| texts.first()) {
            let what =
                "`base.requirements` has no effect: `base.lock` is written by another tool, from files of its own";
            problems.add(&first.at, what, Some("remove `requirements`, or `lock`".into()));
        }
        return Some(source.into_iter().filter(|path| is_file(path)).collect::<Vec<_>>().into());
    }
    let default = || {
        let value = section.default_text("requirements").expect("it has a default").to_owned();
        vec![toml_reader::Spanned { value, at: at.clone() }]
    };
    let texts = written.unwrap_or_else(default);
    if texts.is_empty() {
        problems.add(&at, "`base.requirements` is an empty list", Some("name a file in it".into()));
        return None;
    }
    let mut paths: Vec<RelPath> = Vec::new();
    for text in &texts {
        let path = match text.value.parse::<RelPath>() {
            Ok(path) => path,
            Err(why) => {
                problems.add(&text.at, format!("`base.requirements`: {why}"), None);
                continue;
            }
        };
        if !is_file(&path) {
            let hint = "create it, or name another file with `requirements`";
            problems.add(&text.at, format!("`{path}` is not a file of the repository"), Some(hint.into()));
        } else if Format::of(path.as_str()) != Format::Pip {
            let hint = format!("name it with `lock = \"{path}\"`, and remove `requirements`");
            problems.add(&text.at, format!("`base.requirements`: `{path}` is a lock"), Some(hint));
        } else if paths.contains(&path) {
            problems.add(&text.at, format!("`base.requirements` has `{path}` twice"), None);
        } else {
            paths.push(path);
        }
    }
    (paths.len() == texts.len()).then(|| paths.into())
}

/// Packages of a project that belong into the image: of a `pyproject.toml`, or of another tool's lock.
fn read_selection(
    section: &mut Section<'_>,
    lock: Option<&RelPath>,
    requirements: Option<&RequirementFiles>,
    problems: &mut Problems<'_>,
) -> Selection {
    let format = lock.map_or(Format::Pip, |lock| Format::of(lock.as_str()));
    let paths = requirements.map(RequirementFiles::paths).unwrap_or_default();
    let project = format == Format::Pip && paths.iter().any(|path| is_manifest(path.as_str()));
    let mut read = |key: &'static str, used: bool, why: &str| -> BTreeSet<String> {
        let texts = section.texts(key, problems).unwrap_or_default();
        if let Some(first) = texts.first().filter(|_| !used) {
            problems.add(&first.at, format!("`base.{key}` has no effect: {why}"), Some("remove it".into()));
        }
        texts.into_iter().map(|text| normalised(&text.value)).collect()
    };
    Selection {
        groups: read("groups", project || format != Format::Pip, "requirement files have no groups"),
        extras: read("extras", project || format.has_extras(), "these files have no extras"),
        members: read("members", format == Format::Uv, "only the `uv.lock` of a workspace has members"),
    }
}

/// A word for both engines, or a table with one for each.
fn read_compression(section: &mut Section<'_>, problems: &mut Problems<'_>) -> Compressions {
    const WORDS: [(&str, Compression); 2] = [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];
    let gzip = Compression::Gzip;
    if !section.holds_table("compression") {
        let both = section.choice("compression", &WORDS, problems).unwrap_or(gzip);
        return Compressions { docker: both, native: both };
    }
    let Some(mut each) = section.section("compression", problems) else {
        return Compressions { docker: gzip, native: gzip };
    };
    let docker = each.choice("docker", &WORDS, problems).unwrap_or(gzip);
    let native = each.choice("native", &WORDS, problems).unwrap_or(gzip);
    each.finish(problems);
    Compressions { docker, native }
}

fn read_stages(section: &mut Section<'_>, problems: &mut Problems<'_>) -> BTreeMap<String, Recipe> {
    let at = section.at().clone();
    let mut stages = BTreeMap::new();
    for (stage, recipe) in section.map("stages", problems) {
        if stage != stage.to_ascii_lowercase() {
            let what = format!("`base.stages`: `{stage}` is the name of no stage: BuildKit reads them in lower case");
            problems.add(&at, what, Some(format!("write `{}`", stage.to_ascii_lowercase())));
        }
        match Recipe::ALL.iter().find(|(name, _)| *name == recipe) {
            Some((_, known)) => drop(stages.insert(stage, *known)),
            None => {
                let names = Recipe::ALL.map(|(name, _)| format!("`{name}`")).join(", ");
                let what = format!("`base.stages.{stage}` is `{recipe}`, not one of {names}");
                problems.add(&at, what, toml_reader::nearest(&recipe, Recipe::ALL.iter().map(|(name, _)| *name)));
            }
        }
    }
    stages
}

/// The names of Debian packages, which apt would otherwise read as options or removals.
fn check_system(
    args: &BTreeMap<String, String>,
    stages: &BTreeMap<String, Recipe>,
    at: &std::ops::Range<usize>,
    problems: &mut Problems<'_>,
) {
    let system: Vec<&String> =
        stages.iter().filter(|(_, recipe)| **recipe == Recipe::SystemPackages).map(|(stage, _)| stage).collect();
    let Some(first) = system.first() else { return };
    if let Some(other) = system.get(1) {
        let what = format!("`base.stages`: `{first}` and `{other}` both have the recipe `system-packages`");
        problems.add(at, what, Some("install all packages in one stage".into()));
    }
    let names: Vec<&str> = args.get(SYSTEM_PACKAGES).into_iter().flat_map(|text| text.split_whitespace()).collect();
    if names.is_empty() {
        let what = format!("`base.stages.{first}`: `{SYSTEM_PACKAGES}` in `[base.args]` names no Debian package");
        problems.add(at, what, Some(format!("add `{SYSTEM_PACKAGES} = \"…\"`, or remove the stage")));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.:~=*".contains(c);
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain) && !name.ends_with('-')
    };
    if let Some(wrong) = names.into_iter().find(|name| !is_name(name)) {
        problems.add(at, format!("`base.args.{SYSTEM_PACKAGES}`: `{wrong}` is not the name of a Debian package"), None);
    }
}

fn read_app(
    section: &mut Section<'_>,
    default_repository: String,
    problems: &mut Problems<'_>,
    is_file: &dyn Fn(&RelPath) -> bool,
) -> Option<App> {
    let repository = section.text("repository", problems);
    if let Some(name) = &repository {
        repository_name("app.repository", name, problems);
    }
    let dockerfile = file(section, "dockerfile", problems, is_file);
    let enhanced = file(section, "enhanced", problems, is_file);
    let context = read_context(section, problems);
    let args = read_args(section, problems);
    let binary = section.section("binary", problems).and_then(|mut section| {
        let package = section.required("package", problems);
        let name = section.text("name", problems);
        let profile = section.text("profile", problems);
        let glibc = section.parsed::<DottedVersion>("glibc", problems);
        let rust_image = section.parsed::<Reference>("rust-image", problems);
        let embeds = section.boolean("embeds", problems);
        let places = [("registry", Dependencies::Registry), ("off", Dependencies::Off)];
        let dependencies = section.choice("dependencies", &places, problems).unwrap_or_default();
        section.finish(problems);
        if let Some(image) = rust_image.as_ref().filter(|_| enhanced.is_none()) {
            let what = "`app.binary.rust-image` has no effect without `app.enhanced`, whose Dockerfile it is for";
            problems.add(&image.at, what, Some("remove it, or name that Dockerfile: `enhanced = \"…\"`".into()));
        }
        let package = package?.value;
        Some(Binary {
            name: name.map_or_else(|| package.clone(), |name| name.value),
            package,
            profile: profile.map_or_else(|| "release".to_owned(), |profile| profile.value),
            glibc: glibc.map(|version| version.value),
            rust_image: rust_image.map(|image| image.value),
            embeds: embeds.unwrap_or(false),
            dependencies,
        })
    });
    Some(App {
        name: None,
        repository: repository.map_or(default_repository, |name| name.value),
        dockerfile: dockerfile?,
        enhanced,
        context,
        args,
        binary,
    })
}

/// The folder of an app's build context; none for the repository itself.
fn read_context(section: &mut Section<'_>, problems: &mut Problems<'_>) -> Option<RelPath> {
    let text = section.text("context", problems)?;
    if text.value.split('/').all(|part| part.is_empty() || part == ".") && !text.value.starts_with('/') {
        return None;
    }
    let path = match text.value.parse::<RelPath>() {
        Ok(path) => path,
        Err(why) => {
            problems.add(&text.at, format!("`app.context`: {why}"), None);
            return None;
        }
    };
    if path.as_str().split('/').next() == Some("target") {
        let what = format!("`app.context`: `{path}` is in `target`, which builds change");
        problems.add(&text.at, what, Some("name a folder with sources".into()));
    }
    if let Some(binary) = section.place_of("binary") {
        let what = "`app.binary` is outside of `app.context`: cargo compiles it into `target` of the repository";
        let hint = "remove `context`, and name files from the top of the repository in the Dockerfile";
        problems.add(&binary, what, Some(hint.into()));
    }
    Some(path)
}

fn read_smoke(mut section: Section<'_>, problems: &mut Problems<'_>) -> Smoke {
    let user = section.number("user", problems);
    let texts = |values: Option<Vec<toml_reader::Spanned<String>>>| -> Vec<String> {
        values.unwrap_or_default().into_iter().map(|text| text.value).collect()
    };
    let mut runs = Vec::new();
    for mut run in section.sections("run", problems) {
        let (name, contains) = (run.required("name", problems), run.required("contains", problems));
        let args = texts(run.texts("args", problems));
        run.finish(problems);
        if let (Some(name), Some(contains)) = (name, contains) {
            runs.push(SmokeRun { name: name.value, args, contains: contains.value });
        }
    }
    let serve = section.section("serve", problems).and_then(|mut serve| {
        let args = texts(serve.texts("args", problems));
        let (url, contains) = (serve.required("url", problems), serve.text("contains", problems));
        let seconds = serve.number_or_default("seconds", problems);
        serve.finish(problems);
        Some(SmokeServe {
            args,
            url: url?.value,
            contains: contains.map(|text| text.value),
            seconds: seconds.unsigned_abs(),
        })
    });
    section.finish(problems);
    Smoke { user: user.and_then(|user| u32::try_from(user).ok()), runs, serve }
}

#[cfg(test)]
mod tests;
