//! The root under the base: the pinned one, the tag's current one, or one built from Debian packages.

use super::facts::{Detail, Lookup, Planned};
use super::root_registry::{is_unbuilt, root_client};
use super::sources::pinned_root;
use super::{Context, Request};
use std::collections::BTreeMap;
use std::sync::Once;
use xtask_host::registry::Answer;
use xtask_host::registry::layout::Layout;
use xtask_host::registry::publish::{self, completeness};
use xtask_host::terminal;
use xtask_host::tree::facts::{RootImage, RootPlace, Tree};
use xtask_model::fault::Fault;
use xtask_model::image::key::FALLBACK;
use xtask_model::image::order::unknown_digest;
use xtask_model::image::policy::DebianRoot;
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository, Tag};
use xtask_native::root::{self, Root};

/// A root from Debian packages.
pub(super) struct DebianImage {
    /// Its name in keys and labels.
    name: String,
    recipe: root::Recipe,
    platform: Platform,
    /// Its repository once it is published.
    repository: Repository,
    tag: Tag,
}

impl Lookup<'_> {
    /// The root, as far as it is known before anything is built on it.
    pub(super) fn root(&self) -> Result<RootImage, Fault> {
        let tree = self.tree();
        let wanted = &tree.policy.root.image;
        let named = |digests| {
            let place = RootPlace::Registry(wanted.repository.clone());
            RootImage { name: wanted.to_string(), digests, place }
        };
        if let Some(pin) = pinned_root(tree, &self.sources.pins)? {
            return Ok(named(pin.platforms.clone()));
        }
        if self.request().locked {
            return Err(Fault::usage(format!("the root `{wanted}` is not pinned"))
                .needed_by("`--locked`")
                .hint("pin its digests: `cargo xtask lock`"));
        }
        let not_built = || {
            Fault::usage("the root of this tree's images has not been built on this machine")
                .cause("it is built from Debian packages, and the keys of its images are known only once it exists")
                .hint("build it: `cargo xtask build-base`")
        };
        if self.request().offline {
            return self.debian_root()?.ok_or_else(not_built);
        }
        match resolve_root(tree, &tree.policy.project.platforms) {
            Ok(digests) => {
                terminal::warn(&format!(
                    "the root `{wanted}` is not pinned: using its current digests (`cargo xtask lock` pins them)"
                ));
                Ok(named(digests))
            }
            Err(fault) if fault.unreachable && tree.policy.root.fallback.is_some() => {
                announce_fallback(&wanted.to_string(), &fault);
                self.debian_root()?.ok_or_else(not_built)
            }
            Err(fault) => Err(not_a_fallback(tree, fault)),
        }
    }

    /// Returns true if the registry of a root that is known by digest is unreachable, and the policy has a fallback.
    pub(super) fn root_is_unreachable(&self, image: &RootImage) -> Result<bool, Fault> {
        let RootPlace::Registry(repository) = &image.place else { return Ok(false) };
        if self.tree().policy.root.fallback.is_none() || self.request().locked || image.is_fallback() {
            return Ok(false);
        }
        let Some(digest) = image.digests.values().next().filter(|_| !self.request().offline) else { return Ok(true) };
        match root_client(self.tree()).head(repository, *digest) {
            Ok(_) => Ok(false),
            Err(fault) if fault.unreachable => {
                announce_fallback(&image.name, &fault);
                Ok(true)
            }
            Err(fault) => Err(not_a_fallback(self.tree(), fault)),
        }
    }

    /// The root from Debian packages: the registry's where it is published, else this machine's, else the placeholder of one that is
    /// built before the plan is executed.
    pub(super) fn debian_root(&self) -> Result<Option<RootImage>, Fault> {
        let (tree, request) = (self.tree(), self.request());
        let root = &tree.policy.root;
        let Some(debian) = root.fallback.as_ref().filter(|_| !request.locked) else {
            return Err(Fault::usage(format!("root image `{}` is not available locally", root.image))
                .hint("`[root] fallback = \"debian\"` in `images.toml` builds one from Debian packages"));
        };
        let [platform] = request.wanted.platforms.as_slice() else {
            return Err(
                Fault::usage("a root from Debian packages is for one platform").hint("name it with `--platform`")
            );
        };
        let wanted = DebianImage::new(tree, debian, platform);
        let unbuilt = || (self.detail == Detail::All).then(|| wanted.unbuilt(tree));
        if request.refreshes_root() {
            return Ok(unbuilt());
        }
        if request.wanted.push
            && let Answer::Present(found) = self.client.head(&wanted.repository, wanted.tag.clone())?
        {
            return Ok(Some(wanted.published(found.digest)));
        }
        Ok(wanted.on_this_machine(tree)?.or_else(unbuilt))
    }

    /// The root in place of a published one that has lost a part. Asked only where something is built on it.
    pub(super) fn republished_root(&self, root: &RootImage) -> Result<Option<RootImage>, Fault> {
        let tree = self.tree();
        let (RootPlace::Registry(repository), Some(debian)) = (&root.place, &tree.policy.root.fallback) else {
            return Ok(None);
        };
        let Some((platform, digest)) = root.digests.iter().next().filter(|_| root.is_fallback()) else {
            return Ok(None);
        };
        let Answer::Present(mut found) = publish::read(self.client, repository, *digest)? else { return Ok(None) };
        completeness::check(&mut found, self.client, repository)?;
        let Some(lost) = found.lost_reason(std::slice::from_ref(platform)) else { return Ok(None) };
        if self.detail == Detail::Decisions {
            return Ok(None);
        }
        terminal::step("lost", &format!("{lost}: the root is published again"));
        let wanted = DebianImage::new(tree, debian, platform);
        Ok(Some(wanted.on_this_machine(tree)?.unwrap_or_else(|| wanted.unbuilt(tree))))
    }
}

/// The fault of a registry that was reached and does not give the root: no reason for another operating system.
fn not_a_fallback(tree: &Tree, fault: Fault) -> Fault {
    let mut fault = fault.needed_by("the root of the base image");
    if tree.policy.root.fallback.is_some() && !fault.unreachable {
        let why = "`[root] fallback` is for a registry that is unreachable, and this one was reached";
        fault.causes.insert(0, why.to_owned());
    }
    fault
}

fn announce_fallback(root: &str, fault: &Fault) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        terminal::step("fallback", &format!("`{root}` is unreachable: using a root from Debian packages"));
        fault.causes.iter().for_each(|cause| terminal::detail(cause));
    });
}

/// The repository of roots made of Debian packages.
pub fn repository(tree: &Tree) -> Repository {
    tree.registry.repository(&format!("{}-root", tree.policy.project.name))
}

impl DebianImage {
    fn new(tree: &Tree, debian: &DebianRoot, platform: &Platform) -> Self {
        let recipe = debian_recipe(debian);
        let tag = Tag::from_name(&format!("{}-{}", &recipe.fingerprint().hex()[..12], platform.dashed()))
            .expect("hex digits and a platform are a tag");
        let name = format!("{FALLBACK}{}", debian.suite);
        Self { name, recipe, platform: platform.clone(), repository: repository(tree), tag }
    }

    /// Its name in the registry, which says what it is made of.
    pub(super) fn reference(&self) -> Reference {
        self.repository.tag(&self.tag)
    }

    fn image(&self, digest: Digest, place: RootPlace) -> RootImage {
        RootImage { name: self.name.clone(), digests: BTreeMap::from([(self.platform.clone(), digest)]), place }
    }

    fn published(&self, digest: Digest) -> RootImage {
        self.image(digest, RootPlace::Registry(self.repository.clone()))
    }

    /// The root that a plan needs and that its images cannot be built on yet: it is not built, or not published.
    pub(super) fn due(tree: &Tree, request: &Request, planned: &Planned) -> Option<Self> {
        let root = &planned.root;
        let debian = tree.policy.root.fallback.as_ref().filter(|_| root.is_fallback() && !request.dry_run)?;
        let is_unpublished = request.wanted.push && matches!(root.place, RootPlace::Layout(_));
        let is_due = planned.plan.builds_on_root() && (is_unbuilt(root) || is_unpublished);
        root.digests.keys().next().filter(|_| is_due).map(|platform| Self::new(tree, debian, platform))
    }

    /// The placeholder of one that has to be built.
    fn unbuilt(&self, tree: &Tree) -> RootImage {
        self.image(unknown_digest(), RootPlace::Layout(tree.images().join("root")))
    }

    fn on_this_machine(&self, tree: &Tree) -> Result<Option<RootImage>, Fault> {
        let folder = tree.images().join("root");
        if !folder.join("index.json").is_file() {
            return Ok(None);
        }
        let found = root::find(&self.recipe, &Layout::open_or_create(&folder)?, &self.platform)?;
        Ok(found.map(|root| self.image(root.digest, RootPlace::Layout(folder))))
    }

    /// Builds it, unless it is on this machine, and publishes it where the base will be.
    pub(super) fn build(&self, context: &Context<'_>) -> Result<RootImage, Fault> {
        let tree = &context.tree;
        let folder = tree.images().join("root");
        let layout = Layout::open_or_create(&folder)?;
        let Self { recipe, platform, .. } = self;
        let found = if context.request.refreshes_root() { None } else { root::find(recipe, &layout, platform)? };
        let digest = match found {
            Some(root) => root.digest,
            None => root::build(recipe, &tree.root.join("target"), &layout, platform)?.digest,
        };
        if !context.request.wanted.push {
            return Ok(self.image(digest, RootPlace::Layout(folder)));
        }
        let Some(descriptor) = layout.get(&recipe.ref_name(platform))? else {
            return Err(Fault::build(format!("the root is not in `{}`", folder.display())));
        };
        publish::send(context.client, &layout, &descriptor, &self.repository, &self.tag)?;
        Ok(self.published(digest))
    }
}

/// The root from Debian packages on this machine, with its packages.
pub fn local_root(tree: &Tree) -> Option<Root> {
    let folder = tree.images().join("root");
    let debian = tree.policy.root.fallback.as_ref().filter(|_| folder.join("index.json").is_file())?;
    let platform = match tree.policy.project.platforms.as_slice() {
        [one] => one.clone(),
        _ => Platform::host(),
    };
    root::find(&debian_recipe(debian), &Layout::open_or_create(&folder).ok()?, &platform).ok()?
}

/// The recipe of the policy's Debian root.
pub fn debian_recipe(debian: &DebianRoot) -> root::Recipe {
    let mut recipe =
        root::Recipe { suite: debian.suite.clone(), python: debian.python.clone(), ..root::Recipe::default() };
    recipe.packages.extend(debian.packages.iter().cloned());
    recipe.packages.sort();
    recipe.packages.dedup();
    recipe
}

/// The digests of the root's tag now, for each platform.
///
/// # Errors
/// A root that the registry does not have is wrong usage.
pub fn resolve_root(tree: &Tree, platforms: &[Platform]) -> Result<BTreeMap<Platform, Digest>, Fault> {
    let image = &tree.policy.root.image;
    let tag = image.tag.clone().unwrap_or_else(Tag::latest);
    let Answer::Present(found) = publish::read(&root_client(tree), &image.repository, tag)? else {
        return Err(
            Fault::usage(format!("the root `{image}` does not exist")).hint("correct `[root] image` in `images.toml`")
        );
    };
    let missing = found.missing(platforms);
    if let Some(platform) = missing.first() {
        return Err(Fault::usage(format!("the root `{image}` has no image for {platform}")).hint(
            "name another root in `[root] image` of `images.toml`, or remove the platform from `[project] platforms`",
        ));
    }
    Ok(platforms.iter().map(|platform| (platform.clone(), found.platforms[platform].digest)).collect())
}
