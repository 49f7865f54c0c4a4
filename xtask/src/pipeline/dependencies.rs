//! Compiled dependencies of the app's program, between cargo's folder and the registry.
//!
//! A machine that lacks them pulls them, from the project's own repository alone; CI of the default branch puts them there. Neither is
//! needed: what is absent, refused or invalid is compiled, and a line says so.

use super::order::Image;
use super::{Context, Request};
use crate::steps::in_ci;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use xtask_host::registry::{Answer, Client, publish};
use xtask_host::tree::binary::dependencies::{self as cargo, Packed, Place, Units};
use xtask_host::tree::binary::{self, Compiled};
use xtask_host::tree::facts::Tree;
use xtask_host::{clock, process, scratch, terminal};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::context::ContextPath;
use xtask_model::image::dependencies::{self as artifact, ARTIFACT, CONTENTS, CompileInputs, Contents};
use xtask_model::image::key::{BinaryKey, Fingerprint};
use xtask_model::image::policy::{Binary, Compression, Dependencies, SharedTags};
use xtask_model::image::presence::{CREATED, REVISION};
use xtask_model::quantity;
use xtask_model::record::report;
use xtask_model::spec::oci::{Descriptor, Manifest, media_type};
use xtask_model::spec::reference::{Digest, Platform, Repository, Tag};
use xtask_native::layer::item::{Bytes, Content, Item};
use xtask_native::layer::unpack::Unpacker;
use xtask_native::layer::{self, Codec, Limits, Reader};

/// Files that an artifact may have.
const FILES: u64 = 200_000;

/// Inputs for compiling the program of an image.
pub(super) struct Program<'a> {
    pub root: &'a Path,
    pub binary: &'a Binary,
    pub recipe: BinaryKey,
    /// Folder for what cargo compiles, where it is not the usual one.
    compiled: Option<PathBuf>,
    /// Files that are in the image as they are.
    copied: BTreeSet<PathBuf>,
    shared: Option<Shared<'a>>,
}

/// A finished compilation.
#[derive(Default)]
pub(super) struct CompiledProgram {
    pub took: Duration,
    pub dependencies: Option<report::DependencyTransfer>,
}

impl CompiledProgram {
    /// Adds another platform's.
    pub(super) fn add(&mut self, other: Self) {
        self.took += other.took;
        self.dependencies = other.dependencies.or(self.dependencies.take());
    }
}

impl<'a> Program<'a> {
    /// The image's program; none if it has none.
    pub(super) fn of(context: &Context<'a>, image: &Image<'_>) -> Option<Self> {
        let (binary, recipe) = context.tree.policy.app.binary.as_ref().zip(image.facts.binary.clone())?;
        let copied = image.parsed.files.iter().map(|file| file.path.to_path().to_owned()).collect();
        let mut shared = Shared::of(context.tree, context.client).filter(|_| !context.request.from_nothing);
        if let Some(shared) = &mut shared
            && image.facts.differences.is_empty()
        {
            shared.puts = puts(context.tree, &context.request);
        }
        Some(Self { root: &context.tree.root, binary, recipe, compiled: context.compiled(), copied, shared })
    }

    /// Compiles it for a platform, unless it is staged; with pulled dependencies, where this machine lacks them.
    pub(super) fn compile(&self, platform: &Platform) -> Result<CompiledProgram, Fault> {
        let place = Place { root: self.root, compiled: self.compiled.as_deref(), binary: self.binary, platform };
        if binary::is_staged(&place, &self.recipe) {
            return Ok(CompiledProgram::default());
        }
        let mut pulled = None;
        if let Some(shared) = &self.shared {
            pulled = optional("compiled dependencies", || shared.pull(&place))?.flatten();
        }
        let Compiled { took, units } = binary::compile(&place, &self.recipe, &self.copied)?;
        let mut dependencies = pulled;
        if let Some(shared) = &self.shared {
            let kept = optional("compiled dependencies are not kept", || shared.put(&place, &units))?;
            dependencies = dependencies.or(kept.flatten());
        }
        Ok(CompiledProgram { took, dependencies })
    }
}

/// Does what only saves time. A fault is a line, unless the command was interrupted.
fn optional<T>(what: &str, work: impl FnOnce() -> Result<T, Fault>) -> Result<Option<T>, Fault> {
    match work() {
        Ok(done) => Ok(Some(done)),
        Err(fault) if fault.exit == Exit::Interrupted => Err(fault),
        Err(fault) => {
            terminal::step("note", &format!("{what}: {}; cargo compiles what is missing", super::one_line(&fault)));
            Ok(None)
        }
    }
}

/// The repository of compiled dependencies.
struct Shared<'a> {
    client: &'a Client,
    repository: Repository,
    puts: Option<Puts>,
}

/// Facts that are written with an artifact.
struct Puts {
    /// The commit that it was compiled for.
    revision: String,
    /// Its tests have not passed yet.
    untested: bool,
}

/// Returns `Some` if this build may put compiled dependencies: from commits of the default branch, where it may put tags that everybody
/// reads. A desk without CI may not: only its own folder would read them.
fn puts(tree: &Tree, request: &Request) -> Option<Puts> {
    let everywhere = tree.policy.project.shared_tags == SharedTags::Anywhere;
    let may = request.wanted.push && !request.dry_run && (in_ci() || everywhere);
    let commit = tree.commit.as_ref().filter(|_| may)?;
    let is_default = commit.branch.as_ref() == Some(&tree.policy.project.default_branch);
    is_default.then(|| Puts { revision: commit.id.clone(), untested: request.wanted.untested })
}

/// Repository of a tree's compiled dependencies.
pub fn repository(tree: &Tree) -> Repository {
    tree.registry.repository(&artifact::repository(&tree.policy.app.repository))
}

impl<'a> Shared<'a> {
    fn of(tree: &Tree, client: &'a Client) -> Option<Self> {
        let binary = tree.policy.app.binary.as_ref()?;
        if binary.dependencies == Dependencies::Off || tree.offline {
            return None;
        }
        let repository = repository(tree);
        // What is compiled into programs has to come from who it claims to.
        let insecure = tree.policy.project.insecure_registries.iter().any(|host| host == repository.registry());
        (!insecure).then_some(Self { client, repository, puts: None })
    }

    /// Folder and key of the dependencies of this machine; none if there are none, or if they are here.
    fn lacking(&self, place: &Place<'_>) -> Result<Option<(PathBuf, Fingerprint)>, Fault> {
        let quick = cargo::quick_inputs(place)?;
        if !cargo::are_portable(&quick) || cargo::are_here(place, &quick) {
            return Ok(None);
        }
        let build = cargo::build_folder(place)?;
        let key = key(place, &quick, &build)?;
        Ok(Some((build, key)))
    }

    /// Pulls what this machine lacks.
    fn pull(&self, place: &Place<'_>) -> Result<Option<report::DependencyTransfer>, Fault> {
        let Some((build, key)) = self.lacking(place)? else { return Ok(None) };
        let began = Instant::now();
        let Some(found) = self.find(&key)? else {
            let tag = self.repository.tag(&artifact::tag(&key));
            terminal::step(
                "note",
                &format!("`{tag}` has no compiled dependencies for this machine: cargo compiles them"),
            );
            return Ok(None);
        };
        if !cargo::is_worth(place, &build, &found.contents) {
            return Ok(None);
        }
        let strangers = found.contents.strangers(&cargo::crates(place)?).join(", ");
        if !strangers.is_empty() {
            return Err(found.refused(&self.repository, &format!("`Cargo.lock` has no crates for {strangers}")));
        }
        let scratch = cargo::scratch(&build)?;
        let unpacked = scratch.path().join("files");
        thread::scope(|scope| {
            let (found, to) = (&found, &*unpacked);
            let unpack = |layer| scope.spawn(move || self.unpack(found, layer, to));
            let threads: Vec<_> = found.layers.iter().zip(&found.contents.diff_ids).map(unpack).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })?;
        cargo::put(&unpacked, &build, &found.contents)?;
        let pulled = found.report("pulled");
        terminal::step("pulled", &format!("dependencies: {} in {}", pulled.size(), quantity::seconds(began.elapsed())));
        Ok(Some(pulled))
    }

    /// Unpacks a layer while it is downloaded. After a fault the folder has to be removed.
    fn unpack(
        &self,
        found: &PublishedDependencies,
        (layer, diff_id): (&Descriptor, &Digest),
        folder: &Path,
    ) -> Result<(), Fault> {
        let cannot = |error: io::Error| Fault::build("cannot read compiled dependencies").cause(error);
        let limits = Limits { bytes: artifact::LONGEST_UNPACKED, entries: FILES, ..Limits::default() };
        let (source, sink) = io::pipe().map_err(cannot)?;
        let mut sink = Pipe { sink, is_closed: false };
        thread::scope(|scope| {
            let unpacked = scope.spawn(|| {
                let mut reader = Reader::open(source, Some(diff_id), limits)?;
                Unpacker::open(folder)?.apply(&mut reader)
            });
            let answer = self.client.blob(&self.repository, &layer.digest, layer.size, &mut sink);
            let is_closed = sink.is_closed;
            drop(sink);
            let unpacked = unpacked.join().unwrap_or_else(|panic| resume_unwind(panic));
            match answer {
                // Who reads has ended early, and says why.
                Err(fault) if !is_closed || unpacked.is_ok() => Err(fault),
                Ok(Answer::Absent) => Err(found.refused(&self.repository, "its layer is missing from the registry")),
                _ => unpacked,
            }
        })
    }

    fn find(&self, key: &Fingerprint) -> Result<Option<PublishedDependencies>, Fault> {
        let Answer::Present(raw) = self.client.manifest(&self.repository, artifact::tag(key))? else { return Ok(None) };
        PublishedDependencies::read(self.client, &self.repository, raw.digest).map(Some)
    }

    /// Puts what was compiled where other machines find it, unless the registry has it.
    fn put(&self, place: &Place<'_>, units: &Units) -> Result<Option<report::DependencyTransfer>, Fault> {
        let quick = cargo::quick_inputs(place)?;
        cargo::remember(place, &quick, units)?;
        let Some(puts) = &self.puts else { return Ok(None) };
        if !cargo::are_portable(&quick) {
            return Ok(None);
        }
        let build = cargo::build_folder(place)?;
        let key = key(place, &quick, &build)?;
        if self.client.head(&self.repository, artifact::tag(&key))? != Answer::Absent {
            return Ok(None);
        }
        let began = Instant::now();
        let Packed { mut contents, files } = cargo::pack(&build, units)?;
        if files.is_empty() {
            return Ok(None);
        }
        let cannot = |error: io::Error| Fault::build("cannot pack compiled dependencies").cause(error);
        let sizes = files.iter().map(|(path, file)| Ok((path.clone(), file.metadata()?.len())));
        let sizes = sizes.collect::<io::Result<_>>().map_err(cannot)?;
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let mut layers = Vec::new();
        for paths in contents.layers(&sizes) {
            let packed = scratch::file_in(&build, cargo::SCRATCH).map_err(cannot)?;
            let items = items(paths.iter().map(|path| (path, &files[path]))).map_err(cannot)?;
            let mut to = BufWriter::new(packed.as_file());
            let written = layer::write(&items, Codec::new(Compression::Gzip), threads, &mut to)?;
            to.flush().map_err(cannot)?;
            drop(to);
            let Descriptor { digest, size, .. } = written.descriptor;
            self.client.upload(&self.repository, &digest, size, &packed.path().to_owned())?;
            contents.diff_ids.push(written.diff_id);
            layers.push(written.descriptor);
        }
        let size = layers.iter().map(|layer| layer.size).sum();
        let document = serde_json::to_vec(&contents).expect("a document is JSON");
        let config = Descriptor::new(CONTENTS, Digest::of(&document), document.len() as u64);
        let mut manifest = Manifest::new(config, layers);
        manifest.other.insert("artifactType".to_owned(), ARTIFACT.into());
        manifest.annotations.insert(CREATED.to_owned(), clock::now().to_string());
        manifest.annotations.insert(REVISION.to_owned(), puts.revision.clone());
        let (client, repository) = (self.client, &self.repository);
        client.upload(repository, &manifest.config.digest, manifest.config.size, &document)?;
        let bytes = serde_json::to_vec(&manifest).expect("a manifest is JSON");
        let tag = if puts.untested { artifact::untested(&key) } else { artifact::tag(&key) };
        client.put_manifest(repository, tag, media_type::MANIFEST, &bytes)?;
        let pushed = report::DependencyTransfer { action: "pushed", crates: contents.crates, bytes: size };
        terminal::step("pushed", &format!("dependencies: {} in {}", pushed.size(), quantity::seconds(began.elapsed())));
        Ok(Some(pushed))
    }
}

fn key(place: &Place<'_>, quick: &CompileInputs, build: &Path) -> Result<Fingerprint, Fault> {
    let slow = cargo::slow_inputs(place, build)?;
    Ok(artifact::key(&quick.iter().chain(&slow).map(|(name, value)| (*name, value.clone())).collect()))
}

/// Files as entries of a layer, with the folders that they are in.
fn items<'f>(files: impl Iterator<Item = (&'f String, &'f PathBuf)>) -> io::Result<Vec<Item>> {
    let item = |path: &str, mode: u32, content: Content| (ContextPath::new(path.as_bytes()), mode, content);
    let mut found = BTreeMap::new();
    for (path, file) in files {
        for (at, _) in path.match_indices('/') {
            found.entry(path[..at].to_owned()).or_insert_with(|| item(&path[..at], 0o755, Content::Dir));
        }
        let metadata = file.metadata()?;
        let content = Content::File(Bytes::At { file: file.clone(), size: metadata.len() });
        found.insert(path.clone(), item(path, metadata.permissions().mode() & 0o777, content));
    }
    let item = |(path, mode, content)| Item { path, mode, uid: 0, gid: 0, content };
    let mut items: Vec<Item> = found.into_values().map(item).collect();
    items.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(items)
}

/// An artifact in the registry.
struct PublishedDependencies {
    digest: Digest,
    contents: Contents,
    layers: Vec<Descriptor>,
}

/// The end of a pipe that is written to.
struct Pipe {
    sink: io::PipeWriter,
    /// Nobody reads any more.
    is_closed: bool,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes);
        self.is_closed |= written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PublishedDependencies {
    /// # Errors
    /// It is of another kind, is larger than one may be, or cannot be read.
    fn read(client: &Client, repository: &Repository, digest: Digest) -> Result<Self, Fault> {
        let manifest = publish::read_manifest(client, repository, digest)?;
        let mut found = Self { digest, contents: Contents::default(), layers: manifest.layers };
        let is_artifact = manifest.config.media_type == CONTENTS;
        let has_layers = (1..=artifact::LAYERS).contains(&found.layers.len());
        let is_short = manifest.config.size <= artifact::LONGEST_CONTENTS && found.bytes() <= artifact::LONGEST;
        if !is_artifact || !has_layers || !is_short {
            return Err(found.refused(repository, "it is of another kind, or too large"));
        }
        let document = client.blob_bytes(repository, &manifest.config.digest, manifest.config.size)?;
        let document = document.present().ok_or_else(|| found.refused(repository, "its document is missing"))?;
        let contents = serde_json::from_slice(&document);
        found.contents = contents.map_err(|error| found.refused(repository, &error.to_string()))?;
        if found.contents.diff_ids.len() == found.layers.len() {
            Ok(found)
        } else {
            Err(found.refused(repository, "it does not say the digests of its files"))
        }
    }

    fn bytes(&self) -> u64 {
        self.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size))
    }

    fn refused(&self, repository: &Repository, why: &str) -> Fault {
        Fault::network(format!("`{}` is not used", repository.digest(self.digest))).cause(why)
    }

    fn report(&self, action: &'static str) -> report::DependencyTransfer {
        report::DependencyTransfer { action, crates: self.contents.crates, bytes: self.bytes() }
    }
}

/// Gives compiled dependencies of this commit the tag that builds read: its tests have passed.
pub(super) fn name_tested(context: &Context<'_>) -> Result<(), Fault> {
    let Some(shared) = Shared::of(context.tree, context.client) else { return Ok(()) };
    let Some(Puts { revision, untested: false }) = puts(context.tree, &context.request) else { return Ok(()) };
    let named = optional("compiled dependencies are not named", || {
        let (client, repository) = (shared.client, &shared.repository);
        let tags: BTreeSet<Tag> = client.tags(repository)?.present().unwrap_or_default().into_iter().collect();
        for tag in &tags {
            let Some(tested) = artifact::tested(tag).filter(|tested| !tags.contains(tested)) else { continue };
            process::interrupted()?;
            let Answer::Present(head) = client.head(repository, tag.clone())? else { continue };
            let manifest = publish::read_manifest(client, repository, head.digest)?;
            if manifest.annotations.get(REVISION) == Some(&revision) {
                publish::move_tag(client, repository, head.digest, &tested)?;
                terminal::step("named", &format!("compiled dependencies `{}`", repository.tag(&tested)));
            }
        }
        Ok(())
    });
    named.map(drop)
}

/// Artifact that a build pulls before it compiles the program for this machine, for people; `None` where it would not, or where that is
/// unknown.
pub fn to_pull(tree: &Tree) -> Option<String> {
    let binary = tree.policy.app.binary.as_ref()?;
    let client = super::single_try_client(tree);
    let shared = Shared::of(tree, &client)?;
    let platform = Platform::host();
    let place = Place { root: &tree.root, compiled: None, binary, platform: &platform };
    let (build, key) = shared.lacking(&place).ok()??;
    match shared.find(&key) {
        Ok(Some(found)) if cargo::is_worth(&place, &build, &found.contents) => {
            Some(format!("{} to pull from `{}`", found.report("pulled").size(), shared.repository))
        }
        Ok(Some(_)) => None,
        Ok(None) => Some(format!("all to compile: `{}` has none for this machine", shared.repository)),
        Err(fault) => Some(format!("all to compile: {}", super::one_line(&fault))),
    }
}
