//! Facts: the working tree, its commit, the root image, and images in the registry and on this machine.
//!
//! Reads files, git, the registry and docker's store, and changes nothing.

pub mod wheels;

use crate::docker::Docker;
use crate::registry::layout::Layout;
use crate::registry::{Client, ClientOptions};
use crate::tree::context::{self, Below, Open};
use crate::tree::files::{Files, Whole};
use crate::tree::{binary, inputs, uv};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::commit::Commit;
use xtask_model::image::context::{ContextEntry, ContextPath, FileKind, as_in_git};
use xtask_model::image::key::{
    AppKey, BaseKey, BinaryKey, FALLBACK, FINGERPRINT_LABEL, FileNames, Fingerprint, Key, RootKey, SCHEMA,
};
use xtask_model::image::policy::plugin::Description;
use xtask_model::image::policy::{self, BUILD_PACKAGES, ImageKind, Policy, Registry, RelPath, SYSTEM_PACKAGES};
use xtask_model::image::presence::Local;
use xtask_model::spec::dockerfile::{Dockerfile, Reads};
use xtask_model::spec::ignore::Ignore;
use xtask_model::spec::lock::formats::Format;
use xtask_model::spec::lock::images::{DebianPin, SystemPackages, SystemPin};
use xtask_model::spec::lock::sources::{self, SourcePin};
use xtask_model::spec::lock::{self, ImagesLock, Lock};
use xtask_model::spec::oci::{Config, Descriptor, Manifest};
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository, Tag};
use xtask_model::spec::requirements::Environment;

static PLUGINS: OnceLock<Vec<&'static Description>> = OnceLock::new();

/// Registers the plugins that this program has besides the built-in ones; once, before a policy is read.
pub fn register_plugins(plugins: Vec<&'static Description>) {
    // A second call would change what a policy means while it is used.
    let _ = PLUGINS.set(plugins);
}

/// The registered plugins.
pub fn plugins() -> &'static [&'static Description] {
    PLUGINS.get().map_or(&[], Vec::as_slice)
}

pub struct Tree {
    /// Its folder, absolute.
    pub root: PathBuf,
    /// Its files: the working folder's, or those of a revision.
    pub files: Arc<dyn Files>,
    pub policy: Policy,
    pub registry: Registry,
    pub commit: Option<Commit>,
    pub offline: bool,
}

impl Tree {
    /// Reads the policy of the repository in these files, for the one app that is meant; `registry` replaces the policy's. Knows no commit.
    pub fn with_registry(registry: Option<Registry>, files: Box<dyn Files>, apps: &[String]) -> Result<Self, Fault> {
        let policy = policy::one(policies(&*files)?, apps)?;
        Ok(Self::new(registry, Arc::from(files), policy))
    }

    /// The same for each app that is meant: those that are named, or all.
    pub fn all(registry: Option<&Registry>, files: Box<dyn Files>, apps: &[String]) -> Result<Vec<Self>, Fault> {
        let policies = policy::select(policies(&*files)?, apps)?;
        let files: Arc<dyn Files> = Arc::from(files);
        Ok(policies.into_iter().map(|policy| Self::new(registry.cloned(), files.clone(), policy)).collect())
    }

    fn new(registry: Option<Registry>, files: Arc<dyn Files>, policy: Policy) -> Self {
        let registry = registry.unwrap_or_else(|| policy.project.registry.clone());
        Self { root: files.place().to_owned(), files, policy, registry, commit: None, offline: false }
    }

    pub fn repository(&self, kind: ImageKind) -> Repository {
        self.registry.repository(match kind {
            ImageKind::Base => &self.policy.base.repository,
            ImageKind::App | ImageKind::Enhanced => &self.policy.app.repository,
        })
    }

    pub fn dockerfile(&self, kind: ImageKind) -> Result<RelPath, Fault> {
        match kind {
            ImageKind::Base => Ok(self.policy.base.dockerfile.clone()),
            ImageKind::App => Ok(self.policy.app.dockerfile.clone()),
            ImageKind::Enhanced => self.policy.app.enhanced.clone().ok_or_else(|| {
                Fault::usage("`images.toml` has no Dockerfile that builds from scratch")
                    .hint("`enhanced = \"dockerfiles/Dockerfile.enhanced\"` in `[app]` of `images.toml`")
            }),
        }
    }

    /// The folder that an image's `COPY` reads from, from the top of the repository; empty for the repository itself.
    pub fn context_path(&self, kind: ImageKind) -> ContextPath {
        let context = self.policy.app.context.as_ref().filter(|_| kind != ImageKind::Base);
        context.map_or_else(ContextPath::default, |folder| ContextPath::new(folder.as_str()))
    }

    /// Its files.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn context(&self, kind: ImageKind) -> Result<Arc<dyn Files>, Fault> {
        Ok(match self.policy.app.context.as_ref().filter(|_| kind != ImageKind::Base) {
            None => self.files.clone(),
            Some(folder) => Arc::new(Below::new(self.files.clone(), folder)?),
        })
    }

    /// The package's version, from its manifest or the workspace's.
    pub fn version(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct VersionedManifest {
            package: Option<VersionedPackage>,
            workspace: Option<VersionedWorkspace>,
        }
        #[derive(Deserialize)]
        struct VersionedWorkspace {
            package: Option<VersionedPackage>,
        }
        #[derive(Deserialize)]
        struct VersionedPackage {
            version: Option<toml::Value>,
        }
        let read = |path: &Path| toml::from_str::<VersionedManifest>(&std::fs::read_to_string(path).ok()?).ok();
        let text = |package: Option<VersionedPackage>| package?.version?.as_str().map(str::to_owned);
        let package = &self.policy.app.binary.as_ref()?.package;
        let member = read(&self.root.join(package).join("Cargo.toml")).and_then(|manifest| text(manifest.package));
        member.or_else(|| {
            let manifest = read(&self.root.join("Cargo.toml"))?;
            text(manifest.package).or_else(|| text(manifest.workspace?.package))
        })
    }

    pub fn client(&self) -> Client {
        Client::new(self.client_options())
    }

    /// Options for asking registries, from the policy and the command line.
    pub fn client_options(&self) -> ClientOptions {
        let plain_http = self.policy.project.insecure_registries.iter().cloned().collect::<BTreeSet<_>>();
        ClientOptions { plain_http, offline: self.offline, ..ClientOptions::from_env() }
    }

    pub fn images(&self) -> PathBuf {
        self.root.join("target/images")
    }

    /// Path of a file about an image: `app.key.json`, or `app+web.key.json` where there are several apps.
    pub fn about(&self, kind: ImageKind, end: &str) -> PathBuf {
        let name = self.policy.name(kind).map(|name| format!("+{name}")).unwrap_or_default();
        self.images().join(format!("{kind}{name}.{end}"))
    }

    /// Begin of the names of an image's layouts in [`Self::images`]: `app-`, or `app+web+` where there are several apps.
    pub fn layout_prefix(&self, kind: ImageKind) -> String {
        self.policy.name(kind).map_or_else(|| format!("{kind}-"), |name| format!("{kind}+{name}+"))
    }

    pub fn names<'a>(&'a self, parsed: &'a Parsed) -> FileNames<'a> {
        FileNames {
            policy: policy::FILE,
            lock: self.policy.base.lock.as_str(),
            dockerfile: parsed.path.as_str(),
            lines: &parsed.lines,
            sources: "",
        }
    }
}

/// The policy of the repository in these files, for each of its apps.
fn policies(files: &dyn Files) -> Result<Vec<Policy>, Fault> {
    let text = files.text(Path::new(policy::FILE))?;
    policy::parse_all(&text, &|path: &RelPath| files.has_file(path.as_ref()), plugins())
}

/// The repository's folder: the one that is named, else the nearest above with a policy.
pub fn find_root(named: Option<&Path>) -> Result<PathBuf, Fault> {
    let cannot = |path: &Path, error: std::io::Error| {
        Fault::usage(format!("cannot open the repository `{}`", path.display()))
            .cause(error)
            .hint("name an existing folder: `--root DIR`")
    };
    if let Some(named) = named {
        let root = named.canonicalize().map_err(|error| cannot(named, error))?;
        if !root.join(policy::FILE).is_file() {
            return Err(Fault::usage(format!("`{}` has no `{}`", named.display(), policy::FILE))
                .hint("name the folder that contains it: `--root DIR`"));
        }
        return Ok(root);
    }
    let here = std::env::current_dir().map_err(|error| cannot(Path::new("."), error))?;
    here.ancestors().find(|folder| folder.join(policy::FILE).is_file()).map(Path::to_owned).ok_or_else(|| {
        Fault::usage(format!("neither this folder nor a parent folder has an `{}`", policy::FILE))
            .hint("go to the repository, or name it: `--root DIR`")
    })
}

/// Placeholder for an image that a Dockerfile names by an argument.
const ANY_IMAGE: &str = "image.invalid/any";

pub struct Parsed {
    pub path: RelPath,
    /// Its instructions, normalised.
    pub meaning: Vec<String>,
    pub lines: Vec<usize>,
    /// The files that it reads, but for those that count by their meaning.
    pub files: Vec<ContextEntry>,
    /// Those that it reads and that count by their meaning.
    pub meant: Vec<ContextEntry>,
    /// The ignore file in force, or the one that would be.
    pub ignore_file: String,
    ignore: Ignore,
    /// The folder that it reads from, from the top of the repository; the ignore file's patterns are below it.
    pub context: ContextPath,
    /// The names of the secrets that its steps mount.
    pub secrets: BTreeSet<String>,
    /// The key of the program in the image, once it was read.
    program: OnceLock<Option<BinaryKey>>,
}

/// Reads a Dockerfile and the files that it copies, for every platform of the policy. A large folder that is copied as a whole is one
/// entry.
pub fn parse(tree: &Tree, kind: ImageKind, args: &BTreeMap<String, String>) -> Result<Parsed, Fault> {
    parse_open(tree, kind, args, context::no_folder())
}

/// The same, with other folders as one entry.
pub fn parse_open(
    tree: &Tree,
    kind: ImageKind,
    args: &BTreeMap<String, String>,
    open: Open<'_>,
) -> Result<Parsed, Fault> {
    let path = tree.dockerfile(kind)?;
    let text = tree.files.text(path.as_ref())?;
    let dockerfile = Dockerfile::parse(path.as_str(), &text)?;
    declared(tree, kind, &dockerfile, args)?;
    let (context, context_files) = (tree.context_path(kind), tree.context(kind)?);
    let (ignore_file, ignore) = context::ignore_file(&*tree.files, path.as_str(), &context)?;
    let staged = |platform: &Platform| Some(binary::staged(platform, tree.policy.app.binary.as_ref()?));
    let mut files = BTreeSet::new();
    let mut secrets = BTreeSet::new();
    // The lock counts by its meaning: its comments and order change no image.
    let lock = ContextPath::new(tree.policy.base.lock.as_str());
    let is_open = |folder: &ContextPath| {
        let folder = context::from_top(&context, folder);
        lock.below(&folder).is_some() || (open.folders)(&folder)
    };
    let open = Open { folders: &is_open, ..open };
    for platform in &tree.policy.project.platforms {
        // Base images count by their digests; their names do not affect which files are read.
        let mut args = args.clone();
        args.extend(["ROOT_IMAGE", "BASE_IMAGE", "RUST_IMAGE"].map(|name| (name.to_owned(), ANY_IMAGE.to_owned())));
        if kind == ImageKind::App {
            args.extend(staged(platform).map(|path| ("BINARY".to_owned(), path.to_string())));
        }
        let mut sources = dockerfile.sources(&args, platform)?;
        // The binary counts by its recipe, and need not have been compiled.
        if let Some(staged) = staged(platform) {
            sources.retain(|source| source.reads != Reads::Glob(staged.to_string()));
        }
        // What another tool's lock is translated into counts by its meaning too.
        if tree.policy.base.format() != Format::Pip {
            sources.retain(|source| source.reads != Reads::Glob(policy::TRANSLATED.to_owned()));
        }
        secrets.extend(dockerfile.secrets(&args, platform)?);
        let read = context::read_sources(&*context_files, &sources, &ignore, open);
        let read = read.map_err(|fault| match fault.needed_by {
            Some(_) => fault,
            None => fault.needed_by(format!("`{path}`")),
        })?;
        files.extend(as_in_git(&context::entries_from_top(&context, read)));
    }
    let is_lock = |entry: &ContextEntry| entry.path == lock;
    let (meant, files): (Vec<ContextEntry>, Vec<ContextEntry>) = files.into_iter().partition(is_lock);
    Ok(Parsed {
        meaning: dockerfile.meaning(),
        lines: dockerfile.meaning_lines(),
        files,
        meant,
        ignore_file: ignore_file.unwrap_or_else(|| format!("{path}.dockerignore")),
        ignore,
        context,
        secrets,
        program: OnceLock::new(),
        path,
    })
}

/// Arguments of an image's Dockerfile that the policy gives.
pub fn args(tree: &Tree, kind: ImageKind) -> &BTreeMap<String, String> {
    match kind {
        ImageKind::Base => &tree.policy.base.args,
        ImageKind::App | ImageKind::Enhanced => &tree.policy.app.args,
    }
}

/// The files that a Dockerfile reads, with those in large folders. `files` is what [`parse`] found, which still has to exist.
pub fn list(tree: &Tree, kind: ImageKind, files: &[ContextEntry]) -> Result<Vec<ContextEntry>, Fault> {
    let whole: Vec<&ContextEntry> = files.iter().filter(|entry| entry.kind == FileKind::Tree).collect();
    if whole.is_empty() {
        return Ok(files.to_vec());
    }
    let mut listed = parse_open(tree, kind, args(tree, kind), context::every_folder())?.files;
    let mut all: Vec<ContextEntry> = files.iter().filter(|entry| entry.kind != FileKind::Tree).cloned().collect();
    for ContextEntry { path: folder, id, .. } in whole {
        let below = |entry: &ContextEntry| {
            Some(ContextEntry { path: ContextPath::new(entry.path.below(folder)?), ..entry.clone() })
        };
        let below: Vec<ContextEntry> = listed.iter().filter_map(below).collect();
        if Some(context::folder_id(&below, tree.files.format())?) != *id {
            return Err(
                Fault::build(format!("files in `{folder}` changed while they were read")).hint("run this again")
            );
        }
    }
    listed.retain(|entry| {
        files.binary_search_by(|known| known.path.cmp(&entry.path)).map_or(true, |at| files[at].kind == FileKind::Tree)
    });
    all.extend(listed);
    all.sort();
    Ok(all)
}

/// FileNames of the secrets that the steps of a Dockerfile mount, on any platform of the policy. Reads nothing but the Dockerfile.
pub fn secrets(tree: &Tree, kind: ImageKind) -> Result<BTreeSet<String>, Fault> {
    let path = tree.dockerfile(kind)?;
    let dockerfile = Dockerfile::parse(path.as_str(), &tree.files.text(path.as_ref())?)?;
    let own = if kind == ImageKind::Base { &tree.policy.base.args } else { &tree.policy.app.args };
    let images = ["ROOT_IMAGE", "BASE_IMAGE", "RUST_IMAGE"].map(|name| (name.to_owned(), ANY_IMAGE.to_owned()));
    let args: BTreeMap<String, String> = own.clone().into_iter().chain(images).collect();
    let mut secrets = BTreeSet::new();
    for platform in &tree.policy.project.platforms {
        secrets.extend(dockerfile.secrets(&args, platform)?);
    }
    Ok(secrets)
}

/// Refuses an argument of the policy that no `ARG` declares: both engines would pass over it in silence.
fn declared(
    tree: &Tree,
    kind: ImageKind,
    dockerfile: &Dockerfile,
    args: &BTreeMap<String, String>,
) -> Result<(), Fault> {
    let own = dockerfile.declared();
    let unknown = |name: &&String| !own.contains(name.as_str()) && !Dockerfile::is_predefined(name);
    let Some(name) = args.keys().find(unknown) else { return Ok(()) };
    // Those of the app are for both of its Dockerfiles.
    let other = match kind {
        ImageKind::Base => None,
        ImageKind::App => Some(ImageKind::Enhanced),
        ImageKind::Enhanced => Some(ImageKind::App),
    };
    if let Some(path) = other.and_then(|other| tree.dockerfile(other).ok()) {
        let other = Dockerfile::parse(path.as_str(), &tree.files.text(path.as_ref())?)?;
        let known = other.declared();
        if args.keys().filter(unknown).all(|name| known.contains(name.as_str())) {
            return Ok(());
        }
    }
    let table = if kind == ImageKind::Base { "base" } else { "app" };
    Err(Fault::usage(format!(
        "`{name}` in `[{table}] args` has no effect: `{}` has no `ARG {name}`",
        dockerfile.path()
    ))
    .hint(format!("declare it: `ARG {name}`, or remove it from `images.toml`")))
}

/// Reads the lock and checks it against the requirements.
pub fn lock(tree: &Tree) -> Result<Lock, Fault> {
    let found = inputs::read(&*tree.files, &tree.policy)?;
    // Drift is what a check finds; a build on a stale lock is wrong use.
    let usage = |fault| Fault { exit: Exit::Usage, ..fault };
    inputs::check(&*tree.files, &tree.policy, &found).map_err(usage)?;
    lock::check_closure(&found.requirements, &environments(tree), &found.lock).map_err(usage)?;
    Ok(found.lock)
}

/// Environments that use the packages of the lock: each platform with each Python.
pub fn environments(tree: &Tree) -> Vec<Environment> {
    lock::closure::environments(&tree.policy.project.platforms, &tree.policy.root.pythons()).collect()
}

/// True if the base's Dockerfile can compile packages that have no wheel.
pub fn compiles(tree: &Tree) -> Result<bool, Fault> {
    let text = tree.files.text(tree.policy.base.dockerfile.as_ref())?;
    let given = argument(tree, &text, BUILD_PACKAGES);
    Ok(given.is_some_and(|packages| !packages.trim().is_empty()) || !text.contains("--no-build"))
}

/// The newest glibc that a wheel may ask for in the base, `2_36`.
pub fn glibc(tree: &Tree) -> Result<String, Fault> {
    let text = tree.files.text(tree.policy.base.dockerfile.as_ref())?;
    Ok(argument(tree, &text, "MANYLINUX").unwrap_or_else(|| "2_36".to_owned()))
}

/// An argument of the base's Dockerfile: the policy's value, else the default.
fn argument(tree: &Tree, text: &str, name: &str) -> Option<String> {
    let default = || {
        let prefix = format!("ARG {name}=");
        text.lines().find_map(|line| line.trim().strip_prefix(&prefix)).map(|value| value.trim_matches('"').to_owned())
    };
    tree.policy.base.args.get(name).cloned().or_else(default)
}

/// Targets of packages for which uv knows wheels.
pub fn targets(tree: &Tree) -> Result<Vec<uv::WheelTarget>, Fault> {
    let glibc = glibc(tree)?;
    let mut targets = Vec::new();
    for platform in &tree.policy.project.platforms {
        for python in tree.policy.root.pythons() {
            targets.extend(uv::WheelTarget::new(platform, &python, &glibc));
        }
    }
    Ok(targets)
}

/// Targets for which the policy installs packages, but wheels were not looked for when the lock was written.
pub fn unchecked_targets(tree: &Tree, lock: &Lock) -> Result<Vec<String>, Fault> {
    let looked = lock.records.targets();
    let names = targets(tree)?.into_iter().map(|target| target.name);
    Ok(names.filter(|name| !lock.records.is_empty() && !looked.contains(name)).collect())
}

pub fn indexes(tree: &Tree) -> Result<lock::Indexes, Fault> {
    uv::indexes(&tree.root, &inputs::asked(&*tree.files, &tree.policy)?)
}

/// Reads the lock without checking it against the requirements, where nothing is built from it.
pub fn unchecked_lock(tree: &Tree) -> Result<Lock, Fault> {
    inputs::lock(&*tree.files, &tree.policy)
}

/// Pins of `images.lock`; none without the file.
pub fn images_lock(tree: &Tree) -> Result<ImagesLock, Fault> {
    let path = Path::new(lock::images::PATH);
    let text = tree.files.read_text(path)?;
    let lock = text.map_or_else(|| Ok(ImagesLock::default()), |text| ImagesLock::parse(path, &text))?;
    let pin = if tree.policy.base.name.is_some() { lock.base.is_some() } else { !lock.bases.is_empty() };
    if pin {
        let (pins, wants) = if lock.base.is_some() { ("[base]", "[bases.NAME]") } else { ("[bases]", "[base]") };
        return Err(Fault::usage(format!(
            "`{}` pins a base in `{pins}`, and the policy has `{wants}`",
            path.display()
        ))
        .hint(format!("remove `{pins}` from `{}`; then pin again: `cargo xtask base pin`", path.display())));
    }
    Ok(lock)
}

/// The pins of the Debian packages on the root; none where the policy has no such stage.
///
/// # Errors
/// Pins that are missing, or are of other packages than the policy names.
pub fn system_pin<'p>(tree: &Tree, pins: &'p ImagesLock) -> Result<Option<&'p SystemPin>, Fault> {
    let Some(names) = tree.policy.base.system_packages() else { return Ok(None) };
    let hint = "pin them: `cargo xtask lock`";
    let Some(pin) = pins.system.iter().find(|pin| pin.packages == names) else {
        let fault = Fault::usage(format!("the Debian packages `{}` are not pinned", names.join(" "))).hint(hint);
        let said = |pin: &SystemPin| format!("`{}` pins `{}`", lock::images::PATH, pin.packages.join(" "));
        return Err(pins.system.iter().map(said).fold(fault, Fault::cause));
    };
    match tree.policy.project.platforms.iter().find(|platform| !pin.platforms.contains_key(*platform)) {
        // A root from Debian packages exists for the machine that builds it.
        Some(platform) if !pin.root.starts_with(FALLBACK) => {
            Err(Fault::usage(format!("the Debian packages are not pinned for {platform}")).hint(hint))
        }
        _ => Ok(Some(pin)),
    }
}

/// The pinned packages for a platform.
pub fn system_packages<'p>(pin: &'p SystemPin, platform: &Platform) -> Result<&'p SystemPackages, Fault> {
    pin.platforms.get(platform).ok_or_else(|| {
        Fault::usage(format!("the Debian packages are not pinned for {platform}"))
            .cause(format!("`{}` has them for {}", lock::images::PATH, pin.root))
            .hint("pin them on such a machine: `cargo xtask lock`")
    })
}

/// The build arguments of the base: Debian packages with their pinned versions.
pub fn base_args(tree: &Tree, platform: &Platform) -> Result<BTreeMap<String, String>, Fault> {
    let mut args = tree.policy.base.args.clone();
    if tree.policy.base.system_packages().is_some() {
        let pins = images_lock(tree)?;
        if let Some(pin) = system_pin(tree, &pins)? {
            let packages = &system_packages(pin, platform)?.packages;
            let names: Vec<String> = packages.iter().map(|pin| format!("{}={}", pin.name, pin.version)).collect();
            args.insert(SYSTEM_PACKAGES.to_owned(), names.join(" "));
        }
    }
    Ok(args)
}

/// The image under the base, with its digest for each platform.
#[derive(Clone, Debug)]
pub struct RootImage {
    pub name: String,
    pub digests: BTreeMap<Platform, Digest>,
    /// Location where `FROM` finds it.
    pub place: RootPlace,
}

impl RootImage {
    /// True if it is the one from Debian's packages, which the network has chosen and not the commit.
    pub fn is_fallback(&self) -> bool {
        self.name.starts_with(FALLBACK)
    }
}

#[derive(Clone, Debug)]
pub enum RootPlace {
    Registry(Repository),
    /// In an OCI layout on this machine: built from Debian's packages.
    Layout(PathBuf),
}

pub fn base_key(
    tree: &Tree,
    root: &RootImage,
    (lock, pins, system): (&Lock, &ImagesLock, Option<&SystemPin>),
    parsed: Option<&Parsed>,
) -> BaseKey {
    let pin = |pin: &DebianPin| (pin.name.clone(), format!("{} {}", pin.version, pin.digest));
    let of = |(platform, packages): (&Platform, &SystemPackages)| {
        (platform.clone(), packages.packages.iter().map(pin).collect())
    };
    BaseKey {
        schema: SCHEMA,
        epoch: tree.policy.base.epoch,
        root: RootKey { image: root.name.clone(), digests: root.digests.clone() },
        python: tree.policy.root.python.clone(),
        lock: lock.meaning(),
        sources: sources::used(&pins.sources, lock).into_iter().map(SourcePin::key).collect(),
        dockerfile: parsed.map(|parsed| parsed.meaning.clone()).unwrap_or_default(),
        args: tree.policy.base.args.clone(),
        labels: labels(tree, ImageKind::Base),
        files: parsed.map(|parsed| parsed.files.clone()).unwrap_or_default(),
        compression: tree.policy.base.compression.to_string(),
        system: system.into_iter().flat_map(|system| system.platforms.iter().map(of)).collect(),
    }
}

/// The labels that follow from the policy alone, and so are part of an image's key. Labels that describe one build (revision, time,
/// version, name of the base) are not: a build that reuses the image does not change them.
pub fn labels(tree: &Tree, kind: ImageKind) -> BTreeMap<String, String> {
    let title = tree.repository(kind).path().rsplit('/').next().unwrap_or_default().to_owned();
    let source = tree.policy.project.source.clone().map(|source| ("org.opencontainers.image.source", source));
    let labels = [("org.opencontainers.image.title", title)].into_iter().chain(source);
    labels.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Returns true if a file, or a folder with everything below it (`Tree`), is in the image as it is. It then does not count for the program,
/// unless it is declared as a source of the program.
fn is_copied<'p>(tree: &'p Tree, parsed: &'p Parsed) -> impl Fn(&Path, FileKind) -> bool + 'p {
    let embeds = tree.policy.app.binary.as_ref().is_some_and(|binary| binary.embeds);
    let paths = |of: fn(FileKind) -> bool| {
        let these = parsed.files.iter().filter(move |entry| of(entry.kind));
        these.map(|entry| entry.path.to_path()).collect::<BTreeSet<&Path>>()
    };
    let (files, folders) = (paths(|kind| kind != FileKind::Tree), paths(|kind| kind == FileKind::Tree));
    // An app with a program has the repository as its context, which the ignore file's patterns are relative to.
    let is_whole = move |folder: &Path| {
        let folder = ContextPath::new(folder.as_os_str().as_bytes());
        let Some(rules) = parsed.ignore.names_below(folder.as_bytes()) else { return false };
        // The question that was asked for the entry of this folder, with the same answer.
        matches!(tree.files.whole(&folder, &rules, 0), Ok(Whole::Is(..)))
    };
    move |path, kind| match kind {
        _ if embeds => false,
        FileKind::Tree => folders.contains(path) && is_whole(path),
        _ => {
            files.contains(path)
                || path.ancestors().any(|folder| folders.contains(folder))
                    && !parsed.ignore.ignores(path.as_os_str().as_bytes())
        }
    }
}

/// The sources of the program in the app, where there is one.
pub fn binary_sources(tree: &Tree, parsed: &Parsed) -> Result<Option<binary::Sources>, Fault> {
    let binary = tree.policy.app.binary.as_ref();
    binary.map(|binary| binary::sources(&*tree.files, binary, &is_copied(tree, parsed))).transpose()
}

/// The key of the program in the app, where there is one. Read once for a [`Parsed`], which belongs to one tree.
pub fn binary_key(tree: &Tree, parsed: &Parsed) -> Result<Option<BinaryKey>, Fault> {
    if let Some(known) = parsed.program.get() {
        return Ok(known.clone());
    }
    let binary = tree.policy.app.binary.as_ref();
    let key = binary.map(|binary| binary::key(&*tree.files, binary, &is_copied(tree, parsed))).transpose()?;
    Ok(parsed.program.get_or_init(|| key).clone())
}

pub fn app_key(tree: &Tree, base: Fingerprint, parsed: &Parsed) -> Result<AppKey, Fault> {
    Ok(AppKey {
        schema: SCHEMA,
        base: Some(base.to_string()),
        scratch: None,
        dockerfile: parsed.meaning.clone(),
        args: tree.policy.app.args.clone(),
        labels: labels(tree, ImageKind::App),
        files: parsed.files.clone(),
        binary: binary_key(tree, parsed)?,
        compiler: None,
        compression: tree.policy.base.compression.to_string(),
    })
}

/// The key of the app from scratch: what the base's holds, but for the base's own Dockerfile and files.
///
/// `compiler` names what compiles the binary in a stage of the Dockerfile.
pub fn enhanced_key(tree: &Tree, base: BaseKey, parsed: &Parsed, compiler: Option<String>) -> Result<AppKey, Fault> {
    let scratch =
        BaseKey { dockerfile: Vec::new(), files: Vec::new(), labels: BTreeMap::new(), system: BTreeMap::new(), ..base };
    let key = app_key(tree, scratch_base(), parsed)?;
    Ok(AppKey { base: None, scratch: Some(Box::new(scratch)), compiler, ..key })
}

fn scratch_base() -> Fingerprint {
    "0".repeat(64).parse().expect("64 hex digits")
}

/// The layout of a local image. One folder an image, so that removing one removes nothing else.
pub fn local_layout(tree: &Tree, kind: ImageKind, tag: &Tag, platform: &Platform) -> PathBuf {
    tree.images().join(format!("{}{tag}-{}", tree.layout_prefix(kind), platform.dashed()))
}

/// An image in its layout, when it is whole and its label says that it is the one.
pub fn in_layout(
    tree: &Tree,
    kind: ImageKind,
    fingerprint: &Fingerprint,
    tag: &Tag,
    platform: &Platform,
) -> Result<Option<Local>, Fault> {
    let folder = local_layout(tree, kind, tag, platform);
    if !folder.join("index.json").is_file() {
        return Ok(None);
    }
    let layout = Layout::open_or_create(&folder)?;
    let Some((_, descriptor)) = layout.list()?.into_iter().next() else { return Ok(None) };
    let Some(local) = read_local(&layout, &descriptor) else { return Ok(None) };
    let ours = local.labels.get(FINGERPRINT_LABEL).is_some_and(|theirs| *theirs == fingerprint.to_string());
    Ok(ours.then_some(local))
}

/// A layout's image whose blobs are all there in full length; an incomplete one is ignored.
fn read_local(layout: &Layout, descriptor: &Descriptor) -> Option<Local> {
    let manifest: Manifest = layout.read_json(descriptor).ok()?;
    let config: Config = layout.read_json(&manifest.config).ok()?;
    let blobs = || manifest.layers.iter().chain([&manifest.config]);
    let whole = blobs().all(|blob| layout.blob_size(&blob.digest) == Some(blob.size));
    whole.then(|| Local {
        digest: descriptor.digest,
        layout: Some(layout.folder().to_owned()),
        size: Some(blobs().map(|blob| blob.size).sum()),
        labels: config.config.labels,
    })
}

/// An image in docker's store under this name, when its label says that it is the one.
pub fn local_store(
    docker: &Docker,
    name: &Reference,
    fingerprint: &Fingerprint,
    platform: &Platform,
) -> Result<Option<Local>, Fault> {
    let Some(stored) = docker.stored(&name.to_string())? else { return Ok(None) };
    let ours = stored.label(FINGERPRINT_LABEL).is_some_and(|theirs| theirs == fingerprint.to_string());
    if !ours || !stored.is_for(platform) {
        return Ok(None);
    }
    let labels = stored.labels();
    Ok(stored.digest().map(|digest| Local { digest, layout: None, size: None, labels }))
}

/// A key's fingerprint and tag, and its JSON, which takes a while to write where it names many files.
pub fn tagged<K: Key>(tree: &Tree, key: &K) -> (Fingerprint, Tag, String) {
    let json = key.json();
    let fingerprint = K::fingerprint_of(&json);
    (fingerprint, fingerprint.tag(tree.policy.base.tag_length), json)
}
