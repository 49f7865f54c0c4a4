//! Docker's translation of an order, and what becomes of the result in docker's image store.

use super::order::{Image, local_tags};
use super::{Context, native};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use xtask_host::docker::{Build, Built, NamedContext};
use xtask_host::tree::facts::wheels::ByDocker;
use xtask_host::tree::facts::{self, RootImage};
use xtask_host::tree::secrets::Secrets;
use xtask_host::tree::{context, inputs, toolchain};
use xtask_host::{file, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextEntry, ContextPath, FileKind};
use xtask_model::image::order::{Compiler, FromPlace, ImageOrder};
use xtask_model::image::plan::ImagePlan;
use xtask_model::image::policy::{BUILD_PACKAGES, ImageKind, RelPath, TRANSLATED};
use xtask_model::image::presence::Local;
use xtask_model::spec::dockerfile::Dockerfile;
use xtask_model::spec::lock::Lock;
use xtask_model::spec::lock::formats::{self, Format};
use xtask_model::spec::lock::sources;
use xtask_model::spec::reference::{Digest, Tag};
use xtask_model::spec::wheel::WheelName;
use xtask_native::recipes::source;

/// Builds an order.
pub(super) fn build(
    context: &Context<'_>,
    image: &Image<'_>,
    order: &ImageOrder,
    root: &RootImage,
) -> Result<Built, Fault> {
    let wheels = match Wheels::of(context, order)? {
        Some(wheels) => wheels.fill(context, image, order)?,
        None => None,
    };
    let secrets = secrets(context, order, root, wheels.as_ref())?;
    let staged = stage(context, order, wheels.as_ref())?;
    let call = call(context, order, &secrets, (&staged, wheels.as_ref()))?;
    context.docker()?.build(&call, &format!("{} for {}", order.kind, order.platform))
}

/// The command line for an order.
pub(super) fn shown(context: &Context<'_>, order: &ImageOrder, root: &RootImage) -> Result<String, Fault> {
    let wheels = Wheels::of(context, order)?;
    let secrets = secrets(context, order, root, wheels.as_ref())?;
    let staged = stage(context, order, None)?;
    let docker = context.docker()?;
    let call = call(context, order, &secrets, (&staged, wheels.as_ref()))?;
    Ok(format!("{}\n", docker.shown(&docker.build_command(&call, Path::new("metadata.json")))))
}

/// Wheels of packages that have none on the index, which docker gets so that it builds none itself.
struct Wheels<'c> {
    folder: PathBuf,
    /// The lock with them in the place of the packages' sources.
    lock: PathBuf,
    /// The lock of the tree.
    locked: &'c Lock,
    /// Docker can compile the packages too.
    compiles: bool,
    /// No other build changes them while the value lives.
    _held: Option<File>,
}

impl<'c> Wheels<'c> {
    /// Wheels for an order, in their folder; `None` for an image that takes none.
    fn of(context: &'c Context<'_>, order: &ImageOrder) -> Result<Option<Self>, Fault> {
        if order.kind != ImageKind::Base {
            return Ok(None);
        }
        let ByDocker::Wheels { compiles, lock: locked } = context.by_docker()? else { return Ok(None) };
        let place = context.tree.root.join("target/docker");
        let name = |end: &str| place.join(format!("{}-{}.{end}", order.kind, order.platform.dashed()));
        Ok(Some(Self { folder: name("wheels"), lock: name("packages"), locked, compiles: *compiles, _held: None }))
    }

    /// Puts them there: those of earlier builds, and others, which are built. `None` where they cannot be built on this machine, and
    /// docker can.
    fn fill(self, context: &Context<'_>, image: &Image<'_>, order: &ImageOrder) -> Result<Option<Self>, Fault> {
        let built = match native::built_wheels(context, image, order) {
            Ok(built) => built,
            Err(fault) => {
                if source::builder(&order.platform).is_ok() || !self.compiles {
                    return Err(fault);
                }
                terminal::warn(&format!(
                    "{}: docker compiles, with the newest build requirements of the index instead of those in `images.lock`",
                    fault.what
                ));
                return Ok(None);
            }
        };
        let cannot =
            |error: std::io::Error| Fault::build(format!("cannot write `{}`", self.folder.display())).cause(error);
        std::fs::create_dir_all(self.folder.parent().unwrap_or(Path::new("."))).map_err(cannot)?;
        let held = File::create(self.folder.with_extension("wheels.lock")).map_err(cannot)?;
        held.lock().map_err(cannot)?;
        // No wheel of another build stays.
        let removed = std::fs::remove_dir_all(&self.folder);
        removed
            .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
            .map_err(cannot)?;
        std::fs::create_dir_all(&self.folder).map_err(cannot)?;
        let mut wheels = BTreeMap::new();
        for (package, (path, name)) in built {
            let bytes = std::fs::read(&path).map_err(|error| file::cannot_read(&path, error))?;
            std::fs::write(self.folder.join(&name), &bytes).map_err(cannot)?;
            let wheel = name.parse::<WheelName>().map_err(|why| Fault::build(format!("`{name}`: {why}")))?;
            wheels.insert(package, (wheel, Digest::of(&bytes)));
        }
        let lock = sources::with_wheels(self.locked, &wheels);
        file::write(&self.lock, &formats::printed(&lock, context.tree.policy.base.lock.as_ref()))?;
        Ok(Some(Self { _held: Some(held), ..self }))
    }
}

fn secrets(
    context: &Context<'_>,
    order: &ImageOrder,
    root: &RootImage,
    wheels: Option<&Wheels<'_>>,
) -> Result<Secrets, Fault> {
    let suite = root.name.strip_prefix("debian:");
    let place = wheels.map(|_| sources::PLACE);
    Secrets::of(&order.secrets, suite, &|| Ok(facts::indexes(context.tree)?.with_folder_in_step(place)))
}

/// Files that docker reads for an image.
struct DockerInput {
    /// The build context. It stays locked while the value lives.
    context: context::StagedContext,
    /// Folder with the Dockerfile at its path.
    dockerfiles: PathBuf,
}

/// Puts the files that an image reads into a folder of their own, where docker finds nothing that the image's key does not cover.
fn stage(context: &Context<'_>, order: &ImageOrder, wheels: Option<&Wheels<'_>>) -> Result<DockerInput, Fault> {
    let folder = context.tree.root.join("target/docker").join(format!("{}-{}", order.kind, order.platform.dashed()));
    let policy = &context.tree.policy;
    let translated = (order.kind != ImageKind::App && policy.base.format() != Format::Pip).then_some(TRANSLATED);
    if translated.is_some() {
        inputs::write_translated(&context.tree.root, policy)?;
    }
    let root = &context.tree.root;
    let made = order.binary.iter().map(RelPath::as_str).chain(translated);
    let made = made.map(|path| (context::from_top(&order.context, &ContextPath::new(path)), root.join(path)));
    let mut made: BTreeMap<ContextPath, PathBuf> = made.collect();
    let mut files = facts::list(context.tree, order.kind, &order.files)?;
    if let Some(wheels) = wheels {
        let lock = ContextPath::new(policy.base.installed_lock().as_str());
        files.retain(|entry| entry.path != lock);
        made.insert(lock, wheels.lock.clone());
    }
    if !order.context.as_bytes().is_empty() {
        // The folder that docker gets exists, even where nothing is copied from it.
        files.push(ContextEntry { path: order.context.clone(), kind: FileKind::Dir, mode: 0o755, id: None });
    }
    let text = context.tree.files.text(order.dockerfile.as_ref())?;
    let dockerfile = Dockerfile::parse(order.dockerfile.as_str(), &text)?;
    let sources = dockerfile.sources(&order.build_args(), &order.platform)?;
    let contents =
        context::ContextContents { root, context: &order.context, entries: &files, made: &made, sources: &sources };
    let staged = context::stage(&contents, &folder)?;
    let dockerfiles = folder.with_extension("dockerfiles");
    file::write(&dockerfiles.join(&order.dockerfile), &text)?;
    file::write(&dockerfiles.join(format!("{}.dockerignore", order.dockerfile)), NOTHING_IGNORED)?;
    Ok(DockerInput { context: staged, dockerfiles })
}

/// The ignore file of a staged context: BuildKit would look for one in the context, and paths there are not the repository's.
const NOTHING_IGNORED: &str = "# What the repository's own ignore file excludes is not in this context.\n";

fn call(
    context: &Context<'_>,
    order: &ImageOrder,
    secrets: &Secrets,
    (staged, wheels): (&DockerInput, Option<&Wheels<'_>>),
) -> Result<Build, Fault> {
    let (mut contexts, mut args) = (BTreeMap::new(), order.build_args());
    if let Some(wheels) = wheels {
        contexts.insert(sources::CONTEXT.to_owned(), NamedContext::Folder(wheels.folder.clone()));
        // Nothing is compiled, so no compiler is installed.
        args.insert(BUILD_PACKAGES.to_owned(), String::new());
    }
    let from = &order.from;
    if let FromPlace::Layout(folder) = &from.place {
        let layout = NamedContext::Layout { folder: folder.clone(), digest: from.digest };
        contexts.insert(from.name().to_string(), layout);
    }
    if let Some(Compiler::Toolchain(folder)) = &order.compiler {
        contexts.insert(toolchain::CONTEXT.to_owned(), NamedContext::Folder(folder.clone()));
    }
    let builder = context.request.builder.clone();
    Ok(Build {
        context: staged.context.folder.clone(),
        root: staged.dockerfiles.clone(),
        dockerfile: order.dockerfile.clone(),
        target: None,
        platform: order.platform.clone(),
        args,
        inherited_args: if order.runs { Secrets::proxies() } else { Vec::new() },
        contexts,
        labels: order.labels.clone(),
        secrets: secrets.files().clone(),
        names: order.names().map(|name| name.to_string()).collect(),
        outputs: order.outputs.clone(),
        compression: order.compression.docker,
        source_date_epoch: order.created,
        // Another builder has its own network.
        host_network: order.runs && builder.is_none() && context.docker()?.lacks_bridge()?,
        builder,
        no_cache: order.rebuild,
        cache: None,
        by_hand: false,
    })
}

/// Gives an app of the local store the names of this commit, as a new build would have them.
pub(super) fn tag_local(context: &Context<'_>, plan: &ImagePlan, local: Option<&Local>) -> Result<Vec<Tag>, Fault> {
    let tags = local_tags(plan);
    if local.is_some_and(|local| local.layout.is_some()) {
        return Ok(tags);
    }
    let docker = context.docker()?;
    let name = plan.repository.tag(&plan.tag).to_string();
    let stored = docker.stored(&name)?.map(|stored| stored.tags).unwrap_or_default();
    for tag in &tags {
        let wanted = plan.repository.tag(tag).to_string();
        if !stored.iter().any(|name| familiar(name) == familiar(&wanted)) {
            docker.tag(&name, &wanted)?;
        }
    }
    Ok(tags)
}

/// A name as docker prints it: without the registry that it takes for granted.
fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}
