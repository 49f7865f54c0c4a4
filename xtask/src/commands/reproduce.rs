//! `reproduce`: builds a published image again from its commit, from nothing, and compares every byte.

use super::sbom::published;
use crate::flags::{Format, Global, ReproduceFlags};
use crate::pipeline::{self, Again, PublishedKey, Sources, Unreadable, one_line};
use crate::{documents, leftovers};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use xtask_host::registry::{Answer, Client, publish};
use xtask_host::scratch::Scratch;
use xtask_host::tree::facts::Tree;
use xtask_host::tree::git::Git;
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::key::{self, AppKey, BaseKey, FINGERPRINT_LABEL, Fingerprint, KEY_LABEL};
use xtask_model::image::policy::{Engine, ImageKind, Registry};
use xtask_model::image::presence::{Presence, Published, REVISION};
use xtask_model::image::rebase;
use xtask_model::image::shadow;
use xtask_model::spec::oci::{Descriptor, annotation};
use xtask_model::spec::reference::{Digest, Platform, Reference};
use xtask_native::difference::{Comparison, Difference, Promise};
use xtask_native::image::{Image, Place};
use xtask_native::push::published::RECIPE;

/// Differences that an error lists.
const SHOWN: usize = 50;

/// The label with the version of an app.
const VERSION: &str = "org.opencontainers.image.version";

/// One platform of an image, compared.
#[derive(Serialize)]
struct ComparedPlatform {
    platform: Platform,
    commit: String,
    engine: &'static str,
    published: Digest,
    rebuilt: Digest,
    result: &'static str,
    differences: Vec<Difference>,
}

#[derive(Serialize)]
struct Reproduced {
    image: String,
    platforms: Vec<ComparedPlatform>,
}

/// Reason for a missing answer.
enum Unanswered {
    /// No build can answer: of this image it is not known what it was built from.
    Impossible(Fault),
    Failed(Fault),
}

impl From<Fault> for Unanswered {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

impl Unanswered {
    fn fault(self) -> Fault {
        match self {
            Self::Impossible(fault) | Self::Failed(fault) => fault,
        }
    }
}

/// Builds and compares; ends with exit code 6 if anything differs.
pub fn run(global: &Global, flags: &ReproduceFlags) -> anyhow::Result<()> {
    let trees = if flags.shadow { global.trees()? } else { vec![global.tree_for(flags.image.as_deref())?] };
    let tree = &trees[0];
    global.check_online("reproduce")?;
    leftovers::sweep(tree);
    if flags.shadow {
        let mut done = Vec::new();
        for tree in &trees {
            shadow(global, tree, &mut done)?;
        }
        return conclude(global, &done);
    }
    let name = match &flags.image {
        Some(image) => image.clone(),
        None => super::smoke::this_trees(global, "reproduce")?,
    };
    let reference = super::image_named(&name)?;
    let done = Attempt::new(global, tree)?.image(&reference, &flags.platform).map_err(Unanswered::fault)?;
    conclude(global, &[done])
}

/// Checks the sampled share of the images that a build of this tree reuses, but for those that are done.
fn shadow(global: &Global, tree: &Tree, done: &mut Vec<Reproduced>) -> anyhow::Result<()> {
    let Some(share) = tree.policy.ci.shadow else {
        return Err(Fault::usage("`[ci] shadow` is not set in `images.toml`: nothing is sampled")
            .hint("name the share of reused images to build again: `shadow = 0.05`")
            .hint("or name one image: `cargo xtask reproduce IMAGE`")
            .into());
    };
    let commit = tree.commit.as_ref().ok_or_else(|| Git::at(&tree.root).absence()).map_err(Fault::usage)?;
    let sources = Sources::read_all(tree).map_err(Unreadable::fault)?;
    let planned = pipeline::plan_tree(global, &sources)?;
    // One machine is enough for a sample, and it may compile for itself alone.
    let here: Vec<Platform> =
        tree.policy.project.platforms.iter().filter(|one| **one == Platform::host()).cloned().collect();
    for (kind, image) in [(ImageKind::Base, &planned.base), (ImageKind::App, &planned.app)] {
        if let Presence::Unknown(why) = &image.presence {
            return Err(Fault::network(format!("the registry did not answer for the {kind}")).cause(why).into());
        }
        let Some((digest, fingerprint)) = image.reused() else { continue };
        let reference = tree.repository(kind).digest(digest);
        if done.iter().any(|one| one.image == reference.to_string()) {
            continue;
        }
        if !shadow::is_sampled(share, &commit.id, &fingerprint) {
            terminal::step("left out", &format!("`{reference}`: not in the sample of {share}"));
            continue;
        }
        match Attempt::new(global, tree)?.image(&reference, &here) {
            Ok(one) => done.push(one),
            Err(Unanswered::Impossible(fault)) => terminal::warn(&one_line(&fault)),
            Err(Unanswered::Failed(fault)) => return Err(fault.into()),
        }
    }
    Ok(())
}

fn conclude(global: &Global, done: &[Reproduced]) -> anyhow::Result<()> {
    match global.format {
        Format::Json => documents::REPRODUCE.print_list("images", done)?,
        Format::Text | Format::Github | Format::Gitlab => {
            super::print(&done.iter().map(ToString::to_string).collect::<String>())?;
        }
    }
    let compared = || done.iter().flat_map(|one| one.platforms.iter().map(move |platform| (one, platform)));
    let Some((first, _)) = compared().find(|(_, platform)| !platform.differences.is_empty()) else { return Ok(()) };
    let found: Vec<String> = compared()
        .flat_map(|(_, compared)| compared.differences.iter().map(move |one| format!("{}: {one}", compared.platform)))
        .collect();
    let mut fault = Fault::drift(format!("`{}` is not what its commit gives", first.image));
    fault = found.iter().take(SHOWN).fold(fault, |fault, one| fault.cause(one));
    if found.len() > SHOWN {
        fault = fault.cause(format!("{} more differences (`--format json` lists all)", found.len() - SHOWN));
    }
    Err(fault.hint("the same key has to give the same image: see `docs/guide.md`, \"Reproduce an image\"").into())
}

impl fmt::Display for Reproduced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.image)?;
        for ComparedPlatform { platform, commit, engine, rebuilt, result, .. } in &self.platforms {
            let commit = &commit[..12];
            writeln!(f, "  {platform}: {result}: commit `{commit}` gives `{rebuilt}` with the {engine} engine")?;
        }
        Ok(())
    }
}

/// One attempt to build an image again.
struct Attempt<'a> {
    global: &'a Global,
    tree: &'a Tree,
    client: Client,
    /// Holds a checkout for each platform.
    scratch: Scratch,
}

impl<'a> Attempt<'a> {
    fn new(global: &'a Global, tree: &'a Tree) -> Result<Self, Fault> {
        let scratch = Scratch::new().map_err(|error| {
            Fault::build("cannot make a temporary folder").cause(error).hint("`TMPDIR` names another place")
        })?;
        Ok(Self { global, tree, client: tree.client(), scratch })
    }

    /// Builds these platforms of an image again; without any, all of the image's.
    fn image(&self, reference: &Reference, wanted: &[Platform]) -> Result<Reproduced, Unanswered> {
        let found = published(&self.client, reference)?;
        if let Some(missing) = found.missing(wanted).first() {
            return Err(Fault::usage(format!("`{reference}` has no image for {missing}")).into());
        }
        let mut platforms = Vec::new();
        for (platform, manifest) in &found.platforms {
            if !wanted.is_empty() && !wanted.contains(platform) {
                continue;
            }
            process::interrupted()?;
            platforms.push(self.platform(reference, &found, (platform, manifest))?);
        }
        Ok(Reproduced { image: reference.repository.digest(found.digest).to_string(), platforms })
    }

    fn platform(
        &self,
        reference: &Reference,
        found: &Published,
        (platform, manifest): (&Platform, &Descriptor),
    ) -> Result<ComparedPlatform, Unanswered> {
        let repository = &reference.repository;
        let image = Image::open(&self.client, Place::Registry(repository.clone()), manifest.digest, platform)?;
        let origin = Origin::of(&repository.digest(manifest.digest), &image, found)?;
        let git = Git::at(&self.tree.root);
        let version = image.config.config.labels.get(VERSION).filter(|_| matches!(origin.key, PublishedKey::App(_)));
        let version = match version {
            Some(version) if git.has_version(&origin.commit, version)? => Some(version.as_str()),
            _ => None,
        };
        if !git.has_commit(&origin.commit)? {
            // The fault of the checkout, as a reason that no build can remove.
            let fault = git.check_out(&origin.commit, None, self.scratch.path()).expect_err("the commit is missing");
            return Err(Unanswered::Impossible(fault.needed_by(format!("`{}`", repository.digest(manifest.digest)))));
        }
        terminal::step(
            "rebuilding",
            &format!("`{}` for {platform}, from commit `{}`", repository.digest(manifest.digest), &origin.commit[..12]),
        );
        let folder = self.scratch.path().join(platform.dashed());
        std::fs::create_dir_all(&folder)
            .map_err(|error| Fault::build(format!("cannot write `{}`", folder.display())).cause(error))?;
        let root = git.check_out(&origin.commit, version, &folder)?;
        borrow_tools(&self.tree.root, &root)?;
        let at_commit = self.tree_at(&root, reference, &origin)?;
        let base = match &origin.key {
            PublishedKey::Base(_) => None,
            PublishedKey::App(_) => Some(self.base(&at_commit, &image)?),
        };
        let PublishedImage { fingerprint, engine, .. } = origin.image;
        let again = Again { key: &origin.key, fingerprint, platform, engine, base };
        let needed = |fault: Fault| fault.needed_by(format!("`{}`", repository.digest(manifest.digest)));
        let rebuilt = pipeline::from_nothing(&at_commit, &again).map_err(needed)?;
        let promise = if engine == Engine::Native { Promise::Digest } else { Promise::Tree };
        let store = crate::store::open(&self.tree.root)?;
        let comparison = Comparison { client: &self.client, store: &store, root: &root, promise };
        let built = Image::open(&self.client, Place::Layout(rebuilt.layout), rebuilt.digest, platform)?;
        let differences = comparison.images(&image, &built)?;
        let result = match (differences.is_empty(), rebuilt.digest == manifest.digest) {
            (true, true) => "the same digest",
            (true, false) => "the same files and configuration",
            (false, _) => "different",
        };
        let engine = if engine == Engine::Native { "native" } else { "docker" };
        let (published, rebuilt) = (manifest.digest, rebuilt.digest);
        Ok(ComparedPlatform {
            platform: platform.clone(),
            commit: origin.commit,
            engine,
            published,
            rebuilt,
            result,
            differences,
        })
    }

    /// The tree at the commit, with the registry that the image is in.
    fn tree_at(&self, root: &Path, reference: &Reference, origin: &Origin) -> Result<Tree, Fault> {
        // The commit's policy may name other apps than today's.
        let global = Global { root: Some(root.to_owned()), registry: None, app: Vec::new(), ..self.global.clone() };
        let kind = match origin.key {
            PublishedKey::Base(_) => ImageKind::Base,
            PublishedKey::App(_) => ImageKind::App,
        };
        let full = reference.repository.to_string();
        let mut known = Vec::new();
        for tree in global.trees()? {
            let name = match kind {
                ImageKind::Base => &tree.policy.base.repository,
                ImageKind::App | ImageKind::Enhanced => &tree.policy.app.repository,
            };
            if let Some(Ok(registry)) = full.strip_suffix(&format!("/{name}")).map(str::parse::<Registry>) {
                return Global { registry: Some(registry), ..global.of(&tree) }.tree();
            }
            known.push(format!("`{name}`"));
        }
        known.dedup();
        Err(Fault::usage(format!("`{full}` is not a repository of this project"))
            .cause(format!("at its commit the policy names the {kind} {}", known.join(", ")))
            .hint("run this in the repository that the image was built from"))
    }

    /// The base that an app is on, which has to be in the registry.
    fn base(&self, tree: &Tree, image: &Image) -> Result<Digest, Fault> {
        let label = image.config.config.labels.get(annotation::BASE_DIGEST).and_then(|text| text.parse().ok());
        let base: Digest = label.ok_or_else(|| Fault::usage("the image does not say which base it is on"))?;
        let bases = tree.repository(ImageKind::Base);
        match publish::read(&self.client, &bases, base)? {
            Answer::Present(_) => Ok(base),
            Answer::Absent => Err(Fault::network(format!("its base `{}` is not in the registry", bases.digest(base)))
                .cause("it was pruned, or the image was copied without it")),
        }
    }
}

/// Statement of a published image about its build.
struct Origin {
    commit: String,
    key: PublishedKey,
    image: PublishedImage,
}

struct PublishedImage {
    fingerprint: Fingerprint,
    /// The engine that built it: the native one records the recipe of each layer.
    engine: Engine,
}

impl Origin {
    /// Reads labels of the platform's image, and of its index what does not fit into labels.
    fn of(name: &Reference, image: &Image, found: &Published) -> Result<Self, Unanswered> {
        let impossible = |why: &str| Fault::usage(format!("`{name}` cannot be reproduced")).cause(why);
        let labels = &image.config.config.labels;
        let label = |name: &str| labels.get(name).or_else(|| found.notes.get(name));
        let no = |fault: Fault| Err(Unanswered::Impossible(fault));
        let Some(fingerprint) = labels.get(FINGERPRINT_LABEL).and_then(|text| text.parse().ok()) else {
            return no(impossible("it was not built by xtask: it has no fingerprint"));
        };
        if let Some(before) = found.notes.get(rebase::FROM).or_else(|| labels.get(rebase::FROM)) {
            return no(impossible("`rebase` put it on a newer root, which no build did")
                .hint(format!("reproduce the image before: `cargo xtask reproduce {before}`")));
        }
        let Some(commit) = label(REVISION) else { return no(impossible("it names no commit")) };
        if let Some(commit) = commit.strip_suffix("-dirty") {
            return no(impossible(&format!("it was built from changes on top of commit `{commit}`, which nobody has"))
                .hint("commit the changes, and build again"));
        }
        let Some(json) = label(KEY_LABEL) else { return no(impossible("it carries no key")) };
        let key = match read_key(json) {
            Ok(key) => key,
            Err(why) => {
                return no(impossible(&why).hint(format!(
                    "use the xtask of its commit: `git worktree add ../then {commit}`, and there `cargo xtask build`"
                )));
            }
        };
        if matches!(&key, PublishedKey::App(key) if key.scratch.is_some()) {
            return no(impossible("it was built from scratch, with programs that install what is current"));
        }
        let native = image.manifest.layers.last().is_some_and(|layer| layer.annotations.contains_key(RECIPE));
        let engine = if native { Engine::Native } else { Engine::Docker };
        Ok(Self { commit: commit.clone(), key, image: PublishedImage { fingerprint, engine } })
    }
}

fn read_key(json: &str) -> Result<PublishedKey, String> {
    #[derive(serde::Deserialize)]
    struct KeySchema {
        schema: u32,
    }
    let version: KeySchema = serde_json::from_str(json).map_err(|error| format!("its key cannot be read: {error}"))?;
    if version.schema != key::SCHEMA {
        return Err(format!("its key has schema {}, this xtask makes keys of schema {}", version.schema, key::SCHEMA));
    }
    // A base's key has all fields that an app's needs.
    if let Ok(base) = serde_json::from_str::<BaseKey>(json) {
        return Ok(PublishedKey::Base(Box::new(base)));
    }
    let app = serde_json::from_str::<AppKey>(json).map_err(|error| format!("its key cannot be read: {error}"))?;
    Ok(PublishedKey::App(Box::new(app)))
}

/// Lets a checkout use this repository's private engine and installed tools, which do not belong to any commit.
fn borrow_tools(from: &Path, to: &Path) -> Result<(), Fault> {
    let target = to.join("target");
    let cannot = |error: std::io::Error| Fault::build(format!("cannot write `{}`", target.display())).cause(error);
    std::fs::create_dir_all(&target).map_err(cannot)?;
    for name in ["engine", "tools"] {
        let own = from.join("target").join(name);
        if own.is_dir() {
            std::os::unix::fs::symlink(&own, target.join(name)).map_err(cannot)?;
        }
    }
    Ok(())
}
