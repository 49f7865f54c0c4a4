//! The native engine's translation of an order.

use super::Context;
use super::dependencies::Program;
use super::order::Image;
use super::root;
use super::tagging::branch_tag;
use crate::store;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use xtask_host::index::Cache;
use xtask_host::registry::layout::Layout;
use xtask_host::registry::publish;
use xtask_host::terminal;
use xtask_host::tree::{binary, context, facts, inputs};
use xtask_model::fault::Fault;
use xtask_model::image::commit::Commit;
use xtask_model::image::context::ContextPath;
use xtask_model::image::key::{AppKey, BaseKey, BinaryKey};
use xtask_model::image::order::{FromPlace, ImageOrder};
use xtask_model::image::policy::{Compression, ImageKind};
use xtask_model::image::presence::Published;
use xtask_model::spec::dockerfile::{Dockerfile, Kind};
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::oci::media_type::MANIFEST;
use xtask_model::spec::reference::{Digest, Platform, Repository, Tag};
use xtask_native::builder::{self, Built, Destination, Order};
use xtask_native::files::{ImageFiles, Parts};
use xtask_native::image::{self, Place};
use xtask_native::layer::Codec;
use xtask_native::push::published::{EarlierImage, PublishedLayers};
use xtask_native::recipes::source::{Kept, Sources};
use xtask_native::stage::Realise;
use xtask_native::{assembly, recipes};

/// Builds an order and brings the image to the registry or into its layout.
pub(super) fn build(context: &Context<'_>, image: &Image<'_>, order: &ImageOrder) -> Result<Built, Fault> {
    if order.kind == ImageKind::Base && order.compression.native == Compression::Zstd {
        terminal::warn(
            "`[base] compression` is zstd, which the native engine writes several times as slowly as gzip, and no smaller; \
             `compression = { docker = \"zstd\", native = \"gzip\" }` sets one for each engine",
        );
    }
    if order.kind == ImageKind::Base {
        inputs::write_translated(&context.tree.root, &context.tree.policy)?;
    }
    with_inputs(context, image, order, |inputs| {
        inputs.inputs.realised.values().try_for_each(|stage| stage.check())?;
        let Some(folder) = order.layout() else {
            return builder::build(context.client, inputs, Destination::Repository(&order.repository));
        };
        let layout = Layout::open_or_create(folder)?.sharing(&context.tree.images());
        let built = builder::build(context.client, inputs, Destination::Layout(&layout))?;
        let size = layout.blob_size(&built.digest).unwrap_or(0);
        let manifest = Descriptor::new(MANIFEST, built.digest, size);
        layout.set(image.plan.tag.as_str(), &manifest.with_platform(&order.platform))?;
        Ok(built)
    })
}

/// The plan of the layers, a line for each.
///
/// Where the image in `FROM` cannot be read, because it is built first or because no registry is asked, the layers are those of the
/// Dockerfile, and whether they are known is unknown.
pub(super) fn shown(context: &Context<'_>, image: &Image<'_>, order: &ImageOrder) -> Result<String, Fault> {
    let unknown = match &order.from.place {
        FromPlace::NotBuilt => Some("the image that it is built on is built first".to_owned()),
        FromPlace::Registry if context.request.offline => {
            Some(format!("`{}` is in a registry, which `--offline` does not contact", order.from.name()))
        }
        FromPlace::Registry | FromPlace::Layout(_) => None,
    };
    if let Some(why) = unknown {
        let what = format!("{} for {}: every layer is shown as made, because {why}", order.kind, order.platform);
        terminal::step("unknown", &what);
        return shown_by_text(context, order);
    }
    with_inputs(context, image, order, |inputs| {
        let line = |(plan, known): (assembly::LayerPlan, bool)| {
            format!("{} {} {}\n", &plan.recipe.hex()[..12], if known { "named" } else { "made " }, plan.name)
        };
        Ok(builder::plan(inputs)?.into_iter().map(line).collect())
    })
}

/// The instructions of the target that make layers.
fn shown_by_text(context: &Context<'_>, order: &ImageOrder) -> Result<String, Fault> {
    let text = context.tree.files.text(order.dockerfile.as_ref())?;
    let dockerfile = Dockerfile::parse(order.dockerfile.as_str(), &text)?;
    let makes = |kind: &Kind| matches!(kind, Kind::Copy(_) | Kind::Add(_) | Kind::Run(_) | Kind::Workdir(_));
    let made = dockerfile.target().instructions.iter().filter(|instruction| makes(&instruction.kind));
    let text = |line| dockerfile.instruction_text(line).unwrap_or_default();
    let unknown = "-".repeat(12);
    Ok(made.map(|instruction| format!("{unknown} made  {}\n", text(instruction.line))).collect())
}

fn with_inputs<T>(
    context: &Context<'_>,
    image: &Image<'_>,
    order: &ImageOrder,
    work: impl FnOnce(&Order<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let tree = context.tree;
    let text = tree.files.text(order.dockerfile.as_ref())?;
    let dockerfile = Dockerfile::parse(order.dockerfile.as_str(), &text)?;
    let context_files = tree.context(order.kind)?;
    let (_, ignore) = context::ignore_file(&*tree.files, order.dockerfile.as_str(), &order.context)?;
    let store = match context.request.from_nothing {
        true => store::own(&tree.root)?,
        false => store::open(&tree.root)?,
    };
    let from = open_from(context, order)?;
    let files = ImageFiles::new(context.client, &store, &from, &order.from.name().to_string(), &tree.root);
    let files = match order.kind {
        ImageKind::Base if !(context.request.offline || order.rebuild || context.request.from_nothing) => {
            files.with_parts(Parts { repository: root::repository(tree), push: context.request.wanted.push })
        }
        _ => files,
    };
    let args = order.build_args();
    let work_folder = tree.root.join("target/native/work");
    let system = match order.kind {
        ImageKind::Base => recipes::system(tree, &order.platform, &files, &work_folder)?,
        ImageKind::App | ImageKind::Enhanced => None,
    };
    let system_layer =
        || system.as_ref().map_or_else(|| Err(Fault::build("no Debian packages")), |(_, own)| own.layer());
    let above = system.as_ref().and_then(|(_, own)| own.recipe()).map(|recipe| files.under(recipe, &system_layer));
    let stages = match order.kind {
        ImageKind::Base => {
            let root_files = above.as_ref().unwrap_or(&files);
            let sources = sources(context, image, order)?;
            let surroundings = recipes::Surroundings { root_files, work: &work_folder, sources };
            recipes::stages(tree, &dockerfile, &args, &order.platform, surroundings)?
        }
        ImageKind::App | ImageKind::Enhanced => BTreeMap::new(),
    };
    let mut realised: BTreeMap<String, &dyn Realise> =
        stages.iter().map(|(name, stage)| (name.clone(), stage.as_ref())).collect();
    realised.extend(system.as_ref().map(|(name, own)| (name.clone(), own as &dyn Realise)));
    let codec = Codec::new(order.compression.native);
    let program = Program::of(context, image);
    let known_files = program.iter().map(|program| deferred(program, &order.platform)).collect();
    let make = |_: &BTreeSet<ContextPath>| {
        let Some(program) = &program else { return Ok(()) };
        let done = program.compile(&order.platform)?;
        if done.dependencies.is_some() {
            context.dependencies.replace(done.dependencies);
        }
        Ok(())
    };
    let published = match context.request.wanted.push {
        true => known_layers(context, image, order),
        false => PublishedLayers::default(),
    };
    let codec_id = codec.id();
    let inputs = Order {
        inputs: assembly::Inputs {
            dockerfile: &dockerfile,
            args: &args,
            platform: &order.platform,
            files: &*context_files,
            ignore: &ignore,
            labels: &order.labels,
            images: &files,
            realised: &realised,
            deferred: &known_files,
            codec: &codec_id,
        },
        base: Some(&from),
        codec,
        make: &make,
        created: tree.commit.as_ref().map(Commit::created),
        store: &store,
        published: &published,
        force: order.rebuild,
    };
    let done = work(&inputs)?;
    drop(stages);
    above.as_ref().unwrap_or(&files).share(&recipes::python::PYTHON);
    store.prune_if_due()?;
    Ok(done)
}

/// The wheels of a base's packages without one: those of earlier builds, and others, which are built. For an engine that would
/// otherwise build them each time.
pub(super) fn built_wheels(
    context: &Context<'_>,
    image: &Image<'_>,
    order: &ImageOrder,
) -> Result<BTreeMap<String, (PathBuf, String)>, Fault> {
    let tree = context.tree;
    let dockerfile = Dockerfile::parse(order.dockerfile.as_str(), &tree.files.text(order.dockerfile.as_ref())?)?;
    let (store, from) = (store::open(&tree.root)?, open_from(context, order)?);
    let files = ImageFiles::new(context.client, &store, &from, &order.from.name().to_string(), &tree.root);
    let work = tree.root.join("target/native/work");
    let system = recipes::system(tree, &order.platform, &files, &work)?;
    let system_layer =
        || system.as_ref().map_or_else(|| Err(Fault::build("no Debian packages")), |(_, own)| own.layer());
    let above = system.as_ref().and_then(|(_, own)| own.recipe()).map(|recipe| files.under(recipe, &system_layer));
    let root_files = above.as_ref().unwrap_or(&files);
    let surroundings = recipes::Surroundings { root_files, work: &work, sources: sources(context, image, order)? };
    recipes::built_wheels(tree, &dockerfile, &order.build_args(), &order.platform, surroundings)
}

/// Inputs for building packages without a wheel for a base, and the storage for their wheels.
fn sources<'c>(context: &'c Context<'_>, image: &Image<'_>, order: &'c ImageOrder) -> Result<Sources<'c>, Fault> {
    let (tree, request) = (context.tree, &context.request);
    let roots = serde_json::from_str::<BaseKey>(&image.facts.key).map(|key| key.root.digests).unwrap_or_default();
    let fallback = tree.policy.root.fallback.as_ref().map(|debian| debian.suite.clone());
    Ok(Sources {
        pins: facts::images_lock(tree)?.sources,
        root: Some(order.from.digest),
        others: roots.into_iter().filter(|(platform, _)| *platform != order.platform).collect(),
        // The fallback is in a layout, or in the repository of its own.
        suite: fallback.filter(|_| order.from.repository != tree.policy.root.image.repository),
        kept: (!request.offline).then_some(Kept {
            client: context.client,
            repository: &order.repository,
            push: request.wanted.push,
        }),
        cache: Cache::of_user(),
    })
}

/// The image that the Dockerfile's `FROM` names.
fn open_from(context: &Context<'_>, order: &ImageOrder) -> Result<image::Image, Fault> {
    let place = match &order.from.place {
        FromPlace::Registry | FromPlace::NotBuilt => Place::Registry(order.from.repository.clone()),
        FromPlace::Layout(folder) => Place::Layout(Layout::open_or_create(folder)?),
    };
    image::Image::open(context.client, place, order.from.digest, &order.platform)
}

/// The compiled program: a file that counts by its recipe, and is compiled when a layer needs it.
fn deferred(program: &Program<'_>, platform: &Platform) -> (ContextPath, Digest) {
    let path = ContextPath::new(binary::staged(platform, program.binary).as_str().as_bytes());
    (path, Digest::of(&serde_json::to_vec(&program.recipe).expect("a key is JSON")))
}

/// Returns true if a published app has the program of this recipe: its layer is named then, and nothing is compiled. Where that
/// layer turns out to be lost, the program is compiled after all.
pub(super) fn has_binary(context: &Context<'_>, image: &Image<'_>, recipe: &BinaryKey) -> bool {
    let of = |published: &Published| serde_json::from_str::<AppKey>(published.key()?).ok()?.binary;
    context.request.wanted.push
        && published(context, image).iter().any(|published| of(published).as_ref() == Some(recipe))
}

/// Layers that the registry has: of this image's earlier builds, and for a base of the other bases, with which it may share packages.
fn known_layers(context: &Context<'_>, image: &Image<'_>, order: &ImageOrder) -> PublishedLayers {
    let previous = previous(context, image, &order.platform);
    let mut known = PublishedLayers::read(context.client, &order.repository, &previous);
    if order.kind == ImageKind::Base {
        for (repository, images) in context.bases.borrow().iter().filter(|(other, _)| *other != order.repository) {
            if let Some(image) = images.get(&order.platform) {
                known.add_other(context.client, repository, image);
            }
        }
        for repository in &context.tree.policy.base.layers_from {
            if let Some(image) = base_of_another(context, repository, order) {
                known.add_other(context.client, repository, &image);
            }
        }
    }
    known
}

/// `latest` of another project's base. One that cannot be read saves no work; the build continues.
fn base_of_another(context: &Context<'_>, repository: &Repository, order: &ImageOrder) -> Option<EarlierImage> {
    let found = if repository.registry() == order.repository.registry() {
        match publish::read(context.client, repository, Tag::latest()) {
            Ok(answer) => answer.present().ok_or_else(|| "it has no `latest`".to_owned()),
            Err(fault) => Err(fault.what),
        }
    } else {
        Err(format!(
            "layers are mounted only within one registry, and the base is in `{}`",
            order.repository.registry()
        ))
    };
    let image = found.and_then(|published| {
        let platform =
            published.platforms.get(&order.platform).ok_or_else(|| format!("it lacks {}", order.platform))?;
        Ok(EarlierImage { manifest: platform.digest, record: published.checked(&order.platform) })
    });
    image.map_err(|why| terminal::warn(&format!("no layers from `{repository}`: {why}"))).ok()
}

/// Images of the repository whose layers may be named again.
fn previous(context: &Context<'_>, image: &Image<'_>, platform: &Platform) -> Vec<EarlierImage> {
    let mut found: Vec<EarlierImage> = Vec::new();
    for published in published(context, image) {
        let Some(Descriptor { digest, .. }) = published.platforms.get(platform) else { continue };
        if found.iter().all(|known| known.manifest != *digest) {
            found.push(EarlierImage { manifest: *digest, record: published.checked(platform) });
        }
    }
    found
}

/// The images of this branch's tag and of `latest`.
fn published(context: &Context<'_>, image: &Image<'_>) -> Vec<Published> {
    let mut found = Vec::new();
    if let Some(tag) = branch_tag(context.tree).filter(|_| image.plan.kind == ImageKind::App) {
        // An image that cannot be read saves no work; the build continues.
        match publish::read(context.client, &image.plan.repository, tag) {
            Ok(answer) => found.extend(answer.present()),
            Err(fault) => terminal::detail(&fault.what),
        }
    }
    found.extend(image.facts.latest.clone());
    found
}
