//! Turns an image of the plan into an order for either engine: labels, names, outputs, the image that it is built on.

use super::engine::BuildEngine;
use super::root_registry::{is_unbuilt, root_client};
use super::{Context, PublishedBase};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use xtask_host::registry::{Answer, publish};
use xtask_host::terminal;
use xtask_host::tree::binary;
use xtask_host::tree::facts::{self, Parsed, RootImage, RootPlace};
use xtask_host::tree::toolchain::Portable;
use xtask_model::fault::Fault;
use xtask_model::image::key::{FINGERPRINT_LABEL, KEY_LABEL};
use xtask_model::image::order::{Compiler, FromImage, FromPlace, ImageOrder, Output};
use xtask_model::image::plan::{ImageFacts, ImagePlan, Latest};
use xtask_model::image::policy::ImageKind;
use xtask_model::image::presence::{CREATED, CheckRecord, REVISION};
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository, Tag};
use xtask_native::push::published::EarlierImage;

/// A key as JSON longer than this goes into the index's annotation only: one argument of a program has a limit.
const LABEL_LIMIT: usize = 64 << 10;

/// One image of a plan, with its facts and its inputs.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    pub plan: &'a ImagePlan,
    pub facts: &'a ImageFacts,
    pub parsed: &'a Parsed,
}

/// A base to build an app on.
#[derive(Clone)]
pub(super) struct BaseImage {
    pub repository: Repository,
    /// By platform; none in a dry run that builds it.
    pub digests: BTreeMap<Platform, Option<Digest>>,
    /// Layouts on this machine.
    pub layouts: BTreeMap<Platform, PathBuf>,
    /// Records of import checks.
    pub checked: BTreeMap<Platform, CheckRecord>,
}

impl BaseImage {
    pub(super) fn known(&self) -> PublishedBase {
        let known = |(platform, digest): (&Platform, &Option<Digest>)| {
            let image = EarlierImage { manifest: (*digest)?, record: self.checked.get(platform).copied() };
            Some((platform.clone(), image))
        };
        (self.repository.clone(), self.digests.iter().filter_map(known).collect())
    }

    fn for_platform(&self, platform: &Platform) -> Result<FromImage, Fault> {
        let repository = self.repository.clone();
        match self.digests.get(platform) {
            Some(Some(digest)) => {
                let layout = self.layouts.get(platform).cloned();
                let place = layout.map_or(FromPlace::Registry, FromPlace::Layout);
                Ok(FromImage { repository, digest: *digest, place })
            }
            Some(None) => Ok(FromImage::not_built(repository)),
            None => Err(Fault::usage(format!("the base is not built for {platform}"))
                .hint(format!("build it: `cargo xtask build-base --push --platform {platform}`"))),
        }
    }
}

/// The order for one platform of an image.
pub(super) fn order(
    context: &Context<'_>,
    image: &Image<'_>,
    platform: &Platform,
    root: &RootImage,
    base: Option<&BaseImage>,
) -> Result<ImageOrder, Fault> {
    let (plan, policy) = (image.plan, &context.tree.policy);
    let (args, from) = match (plan.kind, base) {
        (ImageKind::App, Some(base)) => (policy.app.args.clone(), base.for_platform(platform)?),
        (ImageKind::Base, _) => (facts::base_args(context.tree, platform)?, from_root(context, root, platform)?),
        (ImageKind::App | ImageKind::Enhanced, _) => (policy.app.args.clone(), from_root(context, root, platform)?),
    };
    let mut labels = labels(context, image.facts);
    labels.insert(FINGERPRINT_LABEL.to_owned(), plan.fingerprint.to_string());
    if image.facts.key.len() <= LABEL_LIMIT {
        labels.insert(KEY_LABEL.to_owned(), image.facts.key.clone());
    }
    let (named, binary) = match plan.kind {
        ImageKind::App => (from.repository.to_string(), policy.app.binary.as_ref()),
        ImageKind::Base | ImageKind::Enhanced => (root.name.clone(), None),
    };
    publish::base_labels(&mut labels, &named, &from.digest);
    let (tags, outputs) = if context.request.wanted.push {
        (vec![publish::platform_tag(&plan.tag, platform)], vec![Output::Push])
    } else {
        let mut outputs = Vec::new();
        if context.local_docker()?.is_some() {
            outputs.push(Output::Store);
        }
        let request = &context.request;
        if plan.kind == ImageKind::Base || request.engine == BuildEngine::Native || request.contained {
            let folder = facts::local_layout(context.tree, plan.kind, &plan.tag, platform);
            outputs.push(Output::Layout(folder.with_extension("partial")));
        }
        (std::iter::once(plan.tag.clone()).chain(local_tags(plan)).collect(), outputs)
    };
    let compiler = (plan.kind == ImageKind::Enhanced).then(|| compiler(context, image.facts, platform)).transpose()?;
    Ok(ImageOrder {
        kind: plan.kind,
        platform: platform.clone(),
        dockerfile: image.parsed.path.clone(),
        from,
        files: image
            .parsed
            .files
            .iter()
            .chain(&image.parsed.meant)
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        context: image.parsed.context.clone(),
        binary: binary.map(|binary| binary::staged(platform, binary)),
        compiler,
        args,
        labels,
        secrets: image.parsed.secrets.clone(),
        repository: plan.repository.clone(),
        tags,
        outputs,
        compression: policy.base.compression,
        created: context.tree.commit.as_ref().map(|commit| commit.time),
        rebuild: context.request.wanted.force,
        runs: image.parsed.meaning.iter().any(|text| text.starts_with("RUN ")),
    })
}

pub(super) fn from_root(context: &Context<'_>, root: &RootImage, platform: &Platform) -> Result<FromImage, Fault> {
    let digest = *root.digests.get(platform).ok_or_else(|| {
        Fault::usage(format!("the root `{}` is not pinned for {platform}", root.name))
            .hint("pin it: `cargo xtask lock`")
    })?;
    Ok(match &root.place {
        RootPlace::Registry(repository) => {
            FromImage { repository: repository.clone(), digest, place: FromPlace::Registry }
        }
        RootPlace::Layout(folder) => {
            let name = format!("{}-root", context.tree.policy.project.name);
            let repository = context.tree.registry.repository(&name);
            match is_unbuilt(root) {
                true => FromImage::not_built(repository),
                false => FromImage { repository, digest, place: FromPlace::Layout(folder.clone()) },
            }
        }
    })
}

/// Without an image with cargo the root compiles, with the host's toolchain or with Debian's, which the Dockerfile installs on it.
fn compiler(context: &Context<'_>, facts: &ImageFacts, platform: &Platform) -> Result<Compiler, Fault> {
    let root = &context.tree.root;
    match (&facts.rust_image, Portable::find(root, platform)) {
        (Some(image), _) => Ok(Compiler::Image(image.clone())),
        (None, None) => Ok(Compiler::Root),
        (None, Some(_)) if context.request.dry_run => Ok(Compiler::Toolchain(Portable::place(root))),
        (None, Some(own)) => own.stage(root).map(Compiler::Toolchain),
    }
}

/// Name of the compiler of an image from scratch, for its key: the image by digest, or a toolchain, whose version is in the program's
/// own key.
pub(super) fn compiler_name(context: &Context<'_>, rust_image: Option<&Reference>) -> Option<String> {
    context.tree.policy.app.binary.as_ref()?;
    let portable = |platform| Portable::find(&context.tree.root, platform).is_some();
    Some(match rust_image {
        Some(image) => image.to_string(),
        None if context.request.wanted.platforms.iter().all(portable) => "toolchain of the host".to_owned(),
        None => "cargo of the root's packages".to_owned(),
    })
}

/// The policy's image with cargo, by digest; none where it is unavailable.
pub(super) fn rust_image(context: &Context<'_>, root: &RootImage) -> Result<Option<Reference>, Fault> {
    let wanted = context.tree.policy.app.binary.as_ref().and_then(|binary| binary.rust_image.as_ref());
    // A network that does not reach the root's registry does not reach this one either.
    let Some(image) = wanted.filter(|_| !root.is_fallback() && !context.request.offline) else {
        return Ok(None);
    };
    let tag = image.tag.clone().unwrap_or_else(Tag::latest);
    match root_client(context.tree).head(&image.repository, tag) {
        Ok(Answer::Present(found)) => Ok(Some(image.repository.digest(found.digest))),
        Ok(Answer::Absent) => {
            Err(Fault::usage(format!("`{image}` does not exist")).hint("correct `rust-image` in `images.toml`"))
        }
        Err(fault) if fault.unreachable => {
            terminal::warn(&format!("{}; the host's own toolchain compiles", fault.what));
            Ok(None)
        }
        Err(fault) => Err(fault.needed_by("`[app.binary] rust-image` of `images.toml`")),
    }
}

/// The labels that the image specification names.
pub(super) fn labels(context: &Context<'_>, image: &ImageFacts) -> BTreeMap<String, String> {
    let tree = context.tree;
    let mut labels = facts::labels(tree, image.kind);
    let mut add = |name: &str, value: String| drop(labels.insert(name.to_owned(), value));
    let is_committed = image.differences.is_empty();
    if let Some(commit) = &tree.commit {
        add(REVISION, format!("{}{}", commit.id, if is_committed { "" } else { "-dirty" }));
        add(CREATED, commit.created());
    }
    if image.kind != ImageKind::Base {
        let commit = tree.commit.as_ref().filter(|_| is_committed);
        let tagged = commit.and_then(|commit| commit.versions.last().cloned());
        if let Some(version) = tagged.or_else(|| tree.version()) {
            add("org.opencontainers.image.version", version);
        }
    }
    labels
}

/// The names in the local store in addition to the fingerprint's.
pub(super) fn local_tags(plan: &ImagePlan) -> Vec<Tag> {
    let latest = (plan.latest == Latest::Moves).then(Tag::latest);
    plan.tags.iter().cloned().chain(latest).collect()
}
