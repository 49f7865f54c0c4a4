//! Which image the base stands on: the pinned one, the tag's of now, or one made of Debian's packages.

use super::call::unknown_digest;
use super::{Inquiry, Session};
use std::collections::BTreeMap;
use std::time::Duration;
use xtask_host::registry::layout::Layout;
use xtask_host::registry::publish::{self, whole};
use xtask_host::registry::{Answer, Client, Options};
use xtask_host::terminal;
use xtask_host::tree::facts::{self, RootImage, RootPlace, Tree};
use xtask_model::fault::Fault;
use xtask_model::image::key::FALLBACK;
use xtask_model::image::policy::{DebianRoot, ImageKind};
use xtask_model::spec::reference::{Digest, Platform, Repository, Tag};
use xtask_native::root;

/// A root from Debian's packages, as it is looked for.
pub struct Wanted {
    /// What it is called in keys and labels.
    name: String,
    recipe: root::Recipe,
    platform: Platform,
    /// Where it stands once it is published.
    repository: Repository,
    tag: Tag,
}

/// Comes by a root from Debian's packages that is not published; nothing where it would have to be made and is not to be.
pub(super) type Make<'a> = &'a dyn Fn(&Wanted) -> Result<Option<RootImage>, Fault>;

impl Inquiry<'_> {
    /// Has `decide` decide on the root that is wanted; where something would have to be built on one that cannot be reached, on
    /// the fallback. Where the fallback has yet to be made the first decision stays: something is built on either.
    pub fn on_a_root<T>(
        &self,
        make: Make<'_>,
        decide: impl Fn(RootImage) -> Result<T, Fault>,
        builds_on_it: impl Fn(&T) -> bool,
    ) -> Result<T, Fault> {
        let root = self.root(make)?;
        let decided = decide(root.clone())?;
        if builds_on_it(&decided)
            && self.is_out_of_reach(&root)?
            && let Some(fallback) = self.debian(make)?
        {
            return decide(fallback);
        }
        Ok(decided)
    }

    /// The root, as far as it can be known before anything is built on it.
    pub fn root(&self, make: Make<'_>) -> Result<RootImage, Fault> {
        let wanted = &self.tree.policy.root.image;
        let named = |digests| {
            let place = RootPlace::Registry(wanted.repository.clone());
            RootImage { name: wanted.to_string(), digests, place }
        };
        if let Some(pin) = facts::images_lock(self.tree)?.root {
            if pin.image != *wanted {
                return Err(Fault::usage(format!("`images.lock` pins `{}`, the policy wants `{wanted}`", pin.image))
                    .hint("pin it anew: `cargo xtask lock`"));
            }
            return Ok(named(pin.platforms));
        }
        if self.locked {
            return Err(Fault::usage(format!("the root `{wanted}` is not pinned"))
                .needed_by("`--locked`")
                .hint("pin its digests: `cargo xtask lock`"));
        }
        let not_made = || {
            Fault::usage("the root of this tree's images has not been built on this machine")
                .cause("it is made of Debian's packages, and what is built on it is known only once it exists")
                .hint("build it: `cargo xtask build-base`")
        };
        if self.offline {
            return self.debian(make)?.ok_or_else(not_made);
        }
        match resolve_root(self.tree, &self.tree.policy.project.platforms) {
            Ok(digests) => {
                terminal::warn(&format!(
                    "the root `{wanted}` is not pinned: taking its digests of now (`cargo xtask lock` pins them)"
                ));
                Ok(named(digests))
            }
            Err(fault) if fault.unreachable && self.tree.policy.root.fallback.is_some() => {
                let cause = fault.causes.last().map(|cause| format!(" ({cause})")).unwrap_or_default();
                terminal::step(
                    "fallback",
                    &format!("`{wanted}` cannot be reached{cause}: the root is built from Debian's packages"),
                );
                self.debian(make)?.ok_or_else(not_made)
            }
            Err(fault) => Err(self.not_a_fallback(fault)),
        }
    }

    /// The fault of a registry that was reached and does not give the root: no reason for another operating system.
    fn not_a_fallback(&self, fault: Fault) -> Fault {
        let mut fault = fault.needed_by("the root of the base image");
        if self.tree.policy.root.fallback.is_some() && !fault.unreachable {
            let why = "`[root] fallback` is for a registry that the network does not lead to, and this one was reached";
            fault.causes.insert(0, why.to_owned());
        }
        fault
    }

    /// Whether a root of a registry, known by digest, cannot be had, and there is a fallback.
    fn is_out_of_reach(&self, image: &RootImage) -> Result<bool, Fault> {
        let RootPlace::Registry(repository) = &image.place else { return Ok(false) };
        if self.tree.policy.root.fallback.is_none() || self.locked || image.is_fallback() {
            return Ok(false);
        }
        let Some(digest) = image.digests.values().next().filter(|_| !self.offline) else { return Ok(true) };
        match root_client(self.tree).head(repository, *digest) {
            Ok(_) => Ok(false),
            Err(fault) if fault.unreachable => {
                let cause = fault.causes.last().map(|cause| format!(" ({cause})")).unwrap_or_default();
                terminal::step(
                    "fallback",
                    &format!("`{}` cannot be reached{cause}: the root is built from Debian's packages", image.name),
                );
                Ok(true)
            }
            Err(fault) => Err(self.not_a_fallback(fault)),
        }
    }

    /// The root from Debian's packages: the registry's where it is published, else what `make` comes by.
    fn debian(&self, make: Make<'_>) -> Result<Option<RootImage>, Fault> {
        let root = &self.tree.policy.root;
        let Some(debian) = root.fallback.as_ref().filter(|_| !self.locked) else {
            return Err(Fault::usage(format!("the root `{}` is not at hand", root.image))
                .hint("`[root] fallback = \"debian\"` in `images.toml` builds one from Debian's packages"));
        };
        let recipe = debian_recipe(debian);
        let platform = match self.wish.platforms.as_slice() {
            [one] => one.clone(),
            _ => {
                return Err(
                    Fault::usage("a root from Debian's packages is for one platform").hint("name it with `--platform`")
                );
            }
        };
        let repository = self.tree.registry.repository(&format!("{}-root", self.tree.policy.project.name));
        let tag = Tag::from_name(&format!("{}-{}", &recipe.fingerprint().hex()[..12], platform.dashed()))
            .expect("hex digits and a platform are a tag");
        let wanted = Wanted { name: format!("{FALLBACK}{}", debian.suite), recipe, platform, repository, tag };
        if self.wish.push
            && !self.fresh_root
            && let Answer::Present(mut found) = publish::read(self.client, &wanted.repository, wanted.tag.clone())?
        {
            whole::check(&mut found, self.client, &wanted.repository)?;
            match found.lost_reason(std::slice::from_ref(&wanted.platform)) {
                None => return Ok(Some(wanted.published(found.digest))),
                Some(lost) => terminal::step("lost", &format!("{lost}: the root is published again")),
            }
        }
        make(&wanted)
    }
}

impl Wanted {
    fn published(&self, digest: Digest) -> RootImage {
        let digests = BTreeMap::from([(self.platform.clone(), digest)]);
        RootImage { name: self.name.clone(), digests, place: RootPlace::Registry(self.repository.clone()) }
    }

    /// Placeholder for one that a dry run does not build.
    pub(super) fn unbuilt(&self, tree: &Tree) -> RootImage {
        let digests = BTreeMap::from([(self.platform.clone(), unknown_digest())]);
        RootImage { name: self.name.clone(), digests, place: RootPlace::Layout(tree.images().join("root")) }
    }

    /// The one that is on this machine already.
    pub fn at_hand(&self, tree: &Tree) -> Result<Option<RootImage>, Fault> {
        let folder = tree.images().join("root");
        if !folder.join("index.json").is_file() {
            return Ok(None);
        }
        let found = root::find(&self.recipe, &Layout::open_or_create(&folder)?, &self.platform)?;
        let digests = |root: root::Root| BTreeMap::from([(self.platform.clone(), root.digest)]);
        let place = RootPlace::Layout(folder);
        Ok(found.map(|root| RootImage { name: self.name.clone(), digests: digests(root), place }))
    }
}

impl Session<'_> {
    /// Makes the root from Debian packages, unless it is on this machine, and publishes it where the base will be. Nothing is made
    /// for an image that cannot be built on it.
    pub(super) fn make_root(&self, wanted: &Wanted, image: ImageKind) -> Result<Option<RootImage>, Fault> {
        if self.flags.dry_run || self.flags.reuse_only {
            return wanted.at_hand(&self.tree);
        }
        let folder = self.tree.images().join("root");
        let layout = Layout::open_or_create(&folder)?;
        let Wanted { name, recipe, platform, repository, tag } = wanted;
        let found = if self.fresh_root { None } else { root::find(recipe, &layout, platform)? };
        let digest = match found {
            Some(root) => root.digest,
            None => {
                self.check_buildable(image)?;
                root::build(recipe, &self.tree.root.join("target/root"), &layout, platform)?.digest
            }
        };
        if self.wish.push {
            let Some(descriptor) = layout.get(&recipe.ref_name(platform))? else {
                return Err(Fault::build(format!("the root is not in `{}`", folder.display())));
            };
            publish::send(&self.client, &layout, &descriptor, repository, tag)?;
            return Ok(Some(wanted.published(digest)));
        }
        let digests = BTreeMap::from([(platform.clone(), digest)]);
        Ok(Some(RootImage { name: name.clone(), digests, place: RootPlace::Layout(folder) }))
    }
}

/// Whether a root is the placeholder of a dry run, see [`Wanted::unbuilt`].
pub(super) fn is_unbuilt(root: &RootImage) -> bool {
    root.digests.values().any(|digest| *digest == unknown_digest())
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

/// A client that asks once and does not wait: for registries without which there is another way.
pub fn impatient(tree: &Tree) -> Client {
    let (connect_timeout, deadline) = (Duration::from_secs(3), Duration::from_secs(20));
    Client::new(Options { tries: 1, connect_timeout, deadline, ..tree.client_options() })
}

/// A client for the root's registry: where the network does not lead there it does not wait, and what passes is tried again.
pub fn root_client(tree: &Tree) -> Client {
    let connect_timeout = Duration::from_secs(3);
    Client::new(Options { tries: 3, connect_tries: 1, connect_timeout, ..tree.client_options() })
}

/// The digests of the root's tag now, for each platform. A root that the registry does not have is wrong use, not an absence.
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
        return Err(Fault::usage(format!("the root `{image}` is not there for {platform}")));
    }
    Ok(platforms.iter().map(|platform| (platform.clone(), found.platforms[platform].digest)).collect())
}
