//! The roots: those under the images, and those that take their place.

use super::images::{Images, Rebasable};
use super::{AT_ONCE, RebaseContext, about, folder};
use crate::pipeline;
use crate::plugins::scan::Search as Advisories;
use std::collections::{BTreeMap, BTreeSet};
use xtask_host::registry::parallel::some_at_once;
use xtask_host::registry::{Answer, publish};
use xtask_host::tree::facts;
use xtask_host::{file, terminal};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::key::{BaseKey, FALLBACK};
use xtask_model::image::policy::ImageKind;
use xtask_model::image::policy::plugin::SCAN;
use xtask_model::image::rebase::root::{self, Fix, RootFacts, Upper};
use xtask_model::image::rebase::{self, Documents};
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository, Tag};
use xtask_model::supply::inventory::{self, LayerContents};
use xtask_model::supply::scan::Subject;
use xtask_native::image::{Image, Place};
use xtask_native::inventory::{Search, root as reading};
use xtask_native::store::Store;

/// Verdict about an image on these roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is on the newest root.
    Current,
    /// The newer root has no package in a newer version.
    Unfixed,
    Fixed,
}

/// A root that takes the place of another one, for a platform.
pub(super) struct Swap {
    pub old: Image,
    pub new: Image,
    facts: (RootFacts, RootFacts),
    fixes: Vec<Fix>,
}

/// By the root's name and the platform, of an old digest.
type Key = (String, Platform, Digest);

pub(super) struct Roots {
    /// Digests of the new root by its name.
    new: BTreeMap<String, BTreeMap<Platform, Digest>>,
    swaps: BTreeMap<Key, Swap>,
}

impl Roots {
    /// Finds the new roots, and reads what differs. `wanted` is another image than the one that a root's tag names, and whether
    /// `images.lock` decides.
    pub(super) fn read(
        context: &RebaseContext<'_>,
        images: &Images,
        (wanted, locked): (Option<&Reference>, bool),
    ) -> Result<Self, Fault> {
        let mut new: BTreeMap<String, BTreeMap<Platform, Digest>> = BTreeMap::new();
        let mut needed: BTreeMap<Key, Digest> = BTreeMap::new();
        for image in images.all().filter(|image| image.kind() == ImageKind::Base) {
            let key = images.root_of(image);
            let name = &key.root.image;
            if !new.contains_key(name) {
                new.insert(name.clone(), find(context, name, (wanted, locked))?);
            }
            for platform in image.published.platforms.keys() {
                let old = key
                    .root
                    .digests
                    .get(platform)
                    .ok_or_else(|| about(image, Fault::usage(format!("its key names no root for {platform}"))))?;
                let digest = new[name].get(platform).ok_or_else(|| {
                    about(image, Fault::drift(format!("the new root `{name}` has no image for {platform}")))
                })?;
                if digest != old {
                    needed.insert((name.clone(), platform.clone(), *old), *digest);
                }
            }
            // A key has the digests of all platforms.
            rebase::base_key(key, &new[name]).map_err(|why| about(image, Fault::drift(why)))?;
        }
        let needed: Vec<(Key, Digest)> = needed.into_iter().collect();
        let swaps = some_at_once(AT_ONCE, &needed, |(key, new)| Ok((key.clone(), swap(context, key, *new)?)))?;
        Ok(Self { new, swaps: swaps.into_iter().collect() })
    }

    pub(super) fn new_digests(&self, name: &str) -> Option<&BTreeMap<Platform, Digest>> {
        self.new.get(name)
    }

    /// The swap under an image for a platform, unless its root stays.
    pub(super) fn swap(&self, key: &BaseKey, platform: &Platform) -> Option<&Swap> {
        let old = key.root.digests.get(platform)?;
        self.swaps.get(&(key.root.image.clone(), platform.clone(), *old))
    }

    fn swaps<'s>(&'s self, key: &'s BaseKey) -> impl Iterator<Item = &'s Swap> {
        key.root.digests.keys().filter_map(|platform| self.swap(key, platform))
    }

    pub(super) fn verdict(&self, key: &BaseKey) -> Verdict {
        match self.swaps(key).map(|swap| swap.fixes.len()).max() {
            None => Verdict::Current,
            Some(0) => Verdict::Unfixed,
            Some(_) => Verdict::Fixed,
        }
    }

    /// Fixes, by root and platform.
    pub(super) fn fixes(&self) -> BTreeMap<String, Vec<Fix>> {
        let named = |((name, platform, _), swap): (&Key, &Swap)| (format!("{name} {platform}"), swap.fixes.clone());
        self.swaps.iter().filter(|(_, swap)| !swap.fixes.is_empty()).map(named).collect()
    }

    /// Prints the roots and what they fix.
    pub(super) fn announce(&self) {
        for ((name, platform, old), swap) in &self.swaps {
            terminal::step("root", &format!("`{name}` for {platform}: {old} -> {}", swap.new.digest));
            for fix in &swap.fixes {
                let advisories: Vec<&str> = fix.advisories.iter().map(String::as_str).collect();
                let advisories =
                    if advisories.is_empty() { String::new() } else { format!(" ({})", advisories.join(", ")) };
                terminal::step("fixes", &format!("{} {} -> {}{advisories}", fix.package, fix.old, fix.new));
            }
        }
    }

    /// Refuses roots that are not alike, and layers that would hide what the new root brings. Reports every problem.
    pub(super) fn check(
        &self,
        context: &RebaseContext<'_>,
        images: &Images,
        wanted: &[&Rebasable],
    ) -> Result<(), Fault> {
        let mut causes = BTreeSet::new();
        for image in wanted {
            for swap in self.swaps(images.root_of(image)) {
                causes.extend(root::problems(&swap.facts.0, &swap.facts.1));
            }
        }
        let hidden = some_at_once(AT_ONCE, wanted, |image| {
            self.hidden(context, images, image).map_err(|fault| about(image, fault))
        })?;
        causes.extend(hidden.into_iter().flatten());
        if causes.is_empty() {
            return Ok(());
        }
        let fault = Fault::drift("the images cannot be put on the new root");
        Err(causes
            .into_iter()
            .fold(fault, Fault::cause)
            .hint("build them on it: `cargo xtask lock`, then `cargo xtask build --push`"))
    }

    /// Layers of an image that do not fit on its new root.
    fn hidden(&self, context: &RebaseContext<'_>, images: &Images, image: &Rebasable) -> Result<Vec<String>, Fault> {
        let store = crate::store::open(&context.tree.root)?;
        let mut found = Vec::new();
        for (platform, own) in &image.documents {
            let Some(swap) = self.swap(images.root_of(image), platform) else { continue };
            let changed = root::changed(&swap.facts.0, &swap.facts.1);
            let below = match image.kind() {
                ImageKind::Base => swap.old.config.rootfs.diff_ids.len(),
                ImageKind::App | ImageKind::Enhanced => {
                    images.base_of(image).documents.get(platform).map_or(0, |base| base.config.rootfs.diff_ids.len())
                }
            };
            let opened = opened(own, image.repository.clone(), image.published.platforms[platform].digest);
            let search = search(context, &store, platform);
            for (layer, by) in opened.layers().skip(below).zip(rebase::made_by(&own.config, below)) {
                let download = Upper { by, paths: None }.is_opaque();
                let paths = reading::paths(&opened, layer, &search, download)?;
                let upper = Upper { by, paths: paths.as_ref() };
                found.extend(
                    root::hides(&upper, &changed, &swap.facts.1).map(|why| format!("`{}`: {why}", image.shown())),
                );
            }
        }
        Ok(found)
    }
}

/// An image of a registry from its documents.
pub(super) fn opened(documents: &Documents, repository: Repository, digest: Digest) -> Image {
    Image {
        digest,
        manifest: documents.manifest.clone(),
        config: documents.config.clone(),
        place: Place::Registry(repository),
    }
}

/// The digests of a new root.
fn find(
    context: &RebaseContext<'_>,
    name: &str,
    (wanted, locked): (Option<&Reference>, bool),
) -> Result<BTreeMap<Platform, Digest>, Fault> {
    if name.starts_with(FALLBACK) {
        return Err(Fault::usage(format!("the root `{name}` was built from Debian packages"))
            .cause("a rebase takes its root from a registry")
            .hint("build the images again: `cargo xtask build-base --push --force`"));
    }
    let image: Reference = name
        .parse()
        .map_err(|error| Fault::usage(format!("the root `{name}` is not the name of an image")).cause(error))?;
    if let Some(wanted) = wanted.filter(|wanted| wanted.repository != image.repository) {
        return Err(Fault::usage(format!("`{wanted}` is another image than the root `{image}`"))
            .cause("keys name the root, so that images on another one are other images")
            .hint("name it in `[root] image` of `images.toml`, then build: `cargo xtask build --push`"));
    }
    if locked && wanted.is_none() {
        let pinned = facts::images_lock(context.tree)?.root.filter(|pin| pin.image == image);
        return pinned.map(|pin| pin.platforms).ok_or_else(|| {
            Fault::usage(format!("the root `{image}` is not pinned"))
                .needed_by("`--locked`")
                .hint("pin its digests: `cargo xtask lock`")
        });
    }
    let wanted = wanted.unwrap_or(&image);
    let found = match (wanted.digest, &wanted.tag) {
        (Some(digest), _) => publish::read(context.client, &wanted.repository, digest),
        (None, tag) => publish::read(context.client, &wanted.repository, tag.clone().unwrap_or_else(Tag::latest)),
    };
    match found.map_err(|fault| fault.needed_by("the new root"))? {
        Answer::Present(found) => {
            Ok(found.platforms.into_iter().map(|(platform, found)| (platform, found.digest)).collect())
        }
        Answer::Absent => Err(Fault::network(format!("the root `{wanted}` is not in its registry"))
            .needed_by("the new root")
            .hint("name another one with `--root-image`, or correct `[root] image` in `images.toml`")),
    }
}

/// Reads two roots and compares them.
fn swap(context: &RebaseContext<'_>, (name, platform, old): &Key, new: Digest) -> Result<Swap, Fault> {
    let image: Reference =
        name.parse().map_err(|error| Fault::usage(format!("`{name}` is not an image")).cause(error))?;
    let read = |digest: Digest, which: &str| {
        let reference = image.repository.digest(digest);
        if let Answer::Absent = context.client.manifest_as_known(&image.repository, digest)? {
            return Err(Fault::network(format!("the {which} root `{reference}` is not in its registry"))
                .hint("build the images again on the new root: `cargo xtask lock`, then `cargo xtask build --push`"));
        }
        let opened = Image::open(context.client, Place::Registry(image.repository.clone()), digest, platform)?;
        let (facts, contents) = known(context, &opened, platform)
            .map_err(|fault| fault.needed_by(format!("the {which} root `{reference}`")))?;
        Ok((opened, facts, contents))
    };
    let ((old, old_facts, old_contents), (new, new_facts, new_contents)) = (read(*old, "old")?, read(new, "new")?);
    let mut fixes = root::fixes(&old_facts, &new_facts);
    if !fixes.is_empty() {
        advise(context, &mut fixes, (name, platform), [(&old, &old_contents), (&new, &new_contents)])?;
    }
    Ok(Swap { old, new, facts: (old_facts, new_facts), fixes })
}

/// Reads layers themselves, and asks for no description of them.
fn search<'a>(context: &'a RebaseContext<'_>, store: &'a Store, platform: &'a Platform) -> Search<'a> {
    Search { client: context.client, store, root: &context.tree.root, platform, described: &Default::default }
}

type LayerInventories = Vec<(Digest, LayerContents)>;

/// Facts about a root: as they were found before, or from its layers.
fn known(
    context: &RebaseContext<'_>,
    image: &Image,
    platform: &Platform,
) -> Result<(RootFacts, LayerInventories), Fault> {
    let path = folder(context.tree).join(format!("{}.json", image.digest.hex()));
    let store = crate::store::open(&context.tree.root)?;
    let search = search(context, &store, platform);
    let before = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<RootFacts>(&text).ok());
    if let Some(facts) = before.filter(|facts| facts.schema == root::SCHEMA) {
        let contents = xtask_native::inventory::layers(image, &search)?;
        return Ok((facts, contents));
    }
    let read = reading::read(image, &search)?;
    // A file that cannot be written costs the next call time alone.
    if std::fs::create_dir_all(folder(context.tree)).is_ok() {
        let text = serde_json::to_string(&read.facts).expect("facts are valid JSON");
        let _ = file::write(&path, &text);
    }
    Ok((read.facts, read.contents))
}

/// Names the vulnerabilities that each fix removes, where the policy has a database.
fn advise(
    context: &RebaseContext<'_>,
    fixes: &mut [Fix],
    (name, platform): (&str, &Platform),
    roots: [(&Image, &LayerInventories); 2],
) -> Result<(), Fault> {
    let Some(settings) = crate::plugins::settings_of(&context.tree.policy, SCAN.name) else { return Ok(()) };
    let search = Advisories::new(&context.tree.root, settings)?;
    let mut found = Vec::new();
    for (image, contents) in roots {
        let components = inventory::components(contents, None, None);
        let reference = format!("{name}@{}", image.digest);
        let scanned = search.scan(
            Subject { reference: &reference, purl: "", platform: &platform.to_string(), components: &components },
            context.tree,
        );
        match scanned {
            Ok(scan) => found.push(scan),
            // The versions say enough to rebase.
            Err(fault) if fault.exit == Exit::Network => {
                terminal::warn(&format!("advisories are not named: {}", pipeline::one_line(&fault)));
                return Ok(());
            }
            Err(fault) => return Err(fault),
        }
    }
    let of = |scan: &xtask_model::supply::scan::Scan, package: &str| -> BTreeSet<String> {
        scan.vulnerabilities.iter().filter(|one| one.name == package).map(|one| one.id.clone()).collect()
    };
    for fix in fixes {
        fix.advisories = of(&found[0], &fix.package).difference(&of(&found[1], &fix.package)).cloned().collect();
    }
    Ok(())
}
