//! Builds a published image again from nothing: from its commit's files, and of the registry only from what it was built on.
//!
//! Names no tag, sends nothing, and leaves everything in the tree that it is given.

use super::dependencies::Program;
use super::engine::BuildEngine;
use super::facts::{Detail, Lookup};
use super::order::{self, BaseImage, Image};
use super::sources::Sources;
use super::{Context, Request, buildable, docker, layouts, native};
use std::collections::BTreeMap;
use xtask_host::registry::layout::Layout;
use xtask_host::tree::facts::{self, RootImage, RootPlace, Tree};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::key::{AppKey, BaseKey, FALLBACK, Fingerprint, app_changes, base_changes};
use xtask_model::image::plan::{self, Target};
use xtask_model::image::policy::{Engine, ImageKind};
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository};

/// The key that a published image carries.
pub enum PublishedKey {
    Base(Box<BaseKey>),
    App(Box<AppKey>),
}

/// An image to build again, by what it says about itself.
pub struct Again<'a> {
    pub key: &'a PublishedKey,
    pub fingerprint: Fingerprint,
    pub platform: &'a Platform,
    /// `docker` or `native`.
    pub engine: Engine,
    /// The manifest of the base that an app is on.
    pub base: Option<Digest>,
}

/// An image that was built again.
pub struct Rebuilt {
    pub layout: Layout,
    pub digest: Digest,
}

/// Builds an image again in a checkout of its commit.
///
/// # Errors
/// The commit gives another key (a difference), or the build fails.
pub fn from_nothing(tree: &Tree, again: &Again<'_>) -> Result<Rebuilt, Fault> {
    let engine = if again.engine == Engine::Docker { BuildEngine::Docker } else { BuildEngine::Native };
    let (kind, target) = match again.key {
        PublishedKey::Base(_) => (ImageKind::Base, Target::Base),
        PublishedKey::App(_) => (ImageKind::App, Target::Fast),
    };
    let client = tree.client();
    let context = Context::new(tree, Request::from_nothing(target, again.platform, engine), &client);
    let sources = Sources::read(tree, target)?;
    let lookup = Lookup::new(&context, &sources, context.client, Detail::Decisions);
    let planned = match (again.key, again.base) {
        (PublishedKey::App(_), Some(digest)) => lookup.plan_on_pinned_base(digest)?,
        (PublishedKey::App(_), None) => return Err(Fault::usage("the app names no base")),
        (PublishedKey::Base(key), _) => lookup.plan_on(&root_of(tree, key)?)?,
    };
    let image = planned.images(&sources).find(|image| image.plan.kind == kind).expect("the target is planned");
    same_key(tree, again, &image)?;
    if engine == BuildEngine::Docker {
        context.docker()?;
    }
    buildable::check(&context, kind)?;
    let differences = super::claims::compare(&context, kind, image.parsed, &image.plan.fingerprint)?;
    if !differences.is_empty() {
        return Err(Fault::usage("a checkout of the commit does not have the commit's files")
            .cause(plan::listed(&differences))
            .hint("filters of `.gitattributes`, such as Git LFS, have to be set up on this machine"));
    }
    if let (BuildEngine::Docker, Some(program)) = (engine, Program::of(&context, &image)) {
        program.compile(again.platform)?;
    }
    build(&context, &image, again, &planned.root)
}

fn build(context: &Context<'_>, image: &Image<'_>, again: &Again<'_>, root: &RootImage) -> Result<Rebuilt, Fault> {
    let (tree, kind) = (context.tree, image.plan.kind);
    let base = again.base.filter(|_| kind == ImageKind::App).map(|digest| BaseImage {
        repository: tree.repository(ImageKind::Base),
        digests: BTreeMap::from([(again.platform.clone(), Some(digest))]),
        layouts: BTreeMap::new(),
        checked: BTreeMap::new(),
    });
    let order = order::order(context, image, again.platform, root, base.as_ref())?;
    let partial = order.layout().expect("it goes into a folder");
    layouts::prepare(partial)?;
    match context.request.engine {
        BuildEngine::Docker => drop(docker::build(context, image, &order, root)?),
        BuildEngine::Native => drop(native::build(context, image, &order)?),
    }
    let folder = partial.with_extension("");
    layouts::keep(partial, &folder)?;
    let (fingerprint, tag) = (&image.plan.fingerprint, &image.plan.tag);
    let built = facts::in_layout(tree, kind, fingerprint, tag, again.platform)?
        .ok_or_else(|| Fault::build(format!("the image that was built is not in `{}`", folder.display())))?;
    Ok(Rebuilt { layout: Layout::open_or_create(&folder)?, digest: built.digest })
}

/// The root that a key names, by digest: whatever is pinned today.
fn root_of(tree: &Tree, key: &BaseKey) -> Result<RootImage, Fault> {
    let (name, digests) = (key.root.image.clone(), key.root.digests.clone());
    let repository: Repository = match name.starts_with(FALLBACK) {
        true => super::root::repository(tree),
        false => {
            let root: Result<Reference, _> = name.parse();
            root.map_err(|error| Fault::usage(format!("the key names the root `{name}`")).cause(error))?.repository
        }
    };
    Ok(RootImage { name, digests, place: RootPlace::Registry(repository) })
}

/// Refuses a commit whose key here is not the image's: what is built would be another image.
fn same_key(tree: &Tree, again: &Again<'_>, image: &Image<'_>) -> Result<(), Fault> {
    if image.plan.fingerprint == again.fingerprint {
        return Ok(());
    }
    let names = tree.names(image.parsed);
    let unreadable =
        |error: serde_json::Error| Fault::new(Exit::Bug, "cannot read a key that was just made").cause(error);
    let changes = match again.key {
        PublishedKey::Base(key) => {
            base_changes(key, &serde_json::from_str(&image.facts.key).map_err(unreadable)?, &names)
        }
        PublishedKey::App(key) => {
            app_changes(key, &serde_json::from_str(&image.facts.key).map_err(unreadable)?, &names)
        }
    };
    let fault = Fault::drift("the commit gives another key than the image has")
        .cause(format!("the image has {}, the commit gives {}", again.fingerprint, image.plan.fingerprint));
    let fault =
        changes.into_iter().take(10).fold(fault, |fault, change| fault.cause(format!("published -> commit: {change}")));
    Err(fault.hint("it was built from other files, by another version of xtask, or with another toolchain"))
}
