//! The images to rebase: those that were named, the tags that name them, and the base of each app.

use super::{AT_ONCE, RebaseContext};
use crate::flags::RebaseFlags;
use std::collections::BTreeMap;
use xtask_host::registry::parallel::some_at_once;
use xtask_host::registry::{Answer, publish, publish::records};
use xtask_host::terminal;
use xtask_model::fault::Fault;
use xtask_model::image::bases::staged;
use xtask_model::image::key::{AppKey, BaseKey, FALLBACK, Fingerprint, Key as _};
use xtask_model::image::policy::ImageKind;
use xtask_model::image::presence::Published;
use xtask_model::image::rebase::{self, Documents};
use xtask_model::image::tags::{self, BranchTag};
use xtask_model::spec::oci::annotation;
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository, Tag};

/// An image as somebody named it.
pub(super) struct NamedImage {
    pub repository: Repository,
    /// None if it was named by its digest.
    pub tag: Option<Tag>,
    pub published: Published,
}

/// An image that can be rebased.
pub(super) struct Rebasable {
    pub repository: Repository,
    pub published: Published,
    pub what: What,
    pub fingerprint: Fingerprint,
    /// Tags that move.
    pub tags: Vec<Tag>,
    /// Tags that stay, with the reason.
    pub kept: Vec<(Tag, &'static str)>,
    named: Option<String>,
    pub documents: BTreeMap<Platform, Documents>,
}

pub(super) enum What {
    Base(Box<BaseKey>),
    /// With its base, an index into the images.
    App(Box<AppKey>, Id),
}

/// Identity of an image: its repository, and the digest of its index or manifest.
pub(super) type Id = (Repository, Digest);

impl Rebasable {
    pub(super) fn id(&self) -> Id {
        (self.repository.clone(), self.published.digest)
    }

    pub(super) fn kind(&self) -> ImageKind {
        match self.what {
            What::Base(_) => ImageKind::Base,
            What::App(..) => ImageKind::App,
        }
    }

    pub(super) fn is_named(&self) -> bool {
        self.named.is_some()
    }

    /// Its name as it was given.
    pub(super) fn shown(&self) -> String {
        self.named.clone().unwrap_or_else(|| self.repository.digest(self.published.digest).to_string())
    }
}

/// Every image, bases first.
pub(super) struct Images(BTreeMap<Id, Rebasable>);

impl Images {
    /// Reads the images that were named, and the bases of the apps among them.
    ///
    /// # Errors
    /// One is missing, or was not built by this program.
    pub(super) fn read(context: &RebaseContext<'_>, flags: &RebaseFlags) -> Result<Self, Fault> {
        let named = named(context, flags)?;
        let mut grouped: BTreeMap<Id, (Published, Vec<Tag>)> = BTreeMap::new();
        for one in named {
            let id = (one.repository, one.published.digest);
            grouped.entry(id).or_insert((one.published, Vec::new())).1.extend(one.tag);
        }
        let grouped: Vec<(Id, (Published, Vec<Tag>))> = grouped.into_iter().collect();
        let mut read = some_at_once(AT_ONCE, &grouped, |(id, (published, tags))| {
            let name = match tags.first() {
                Some(tag) => id.0.tag(tag),
                None => id.0.digest(id.1),
            };
            let read = one(context, &id.0, published.clone());
            match read {
                Ok(image) => Ok(Some(name_it(context, image, &name, tags))),
                // Whatever else is in the repository.
                Err(fault) if flags.all => {
                    terminal::warn(&format!("`{name}` is left out: {}", crate::pipeline::one_line(&fault)));
                    Ok(None)
                }
                Err(fault) => Err(fault.needed_by(format!("the rebase of `{name}`"))),
            }
        })?;
        let mut images: BTreeMap<Id, Rebasable> = BTreeMap::new();
        let mut apps = Vec::new();
        for (image, base) in read.drain(..).flatten() {
            match base {
                None => drop(images.insert(image.id(), image)),
                Some(base) => apps.push((image, base)),
            }
        }
        for (mut app, below) in apps {
            let base = match base_of(context, &mut images, &app, &below) {
                Err(fault) if flags.all => {
                    terminal::warn(&format!("`{}` is left out: {}", app.shown(), crate::pipeline::one_line(&fault)));
                    continue;
                }
                found => found?,
            };
            if let What::App(_, id) = &mut app.what {
                *id = base;
            }
            images.insert(app.id(), app);
        }
        let mut images = Self(images);
        if flags.all {
            images.leave_out_fallbacks();
        }
        Ok(images)
    }

    /// Leaves out what is on a root from Debian packages.
    fn leave_out_fallbacks(&mut self) {
        let is_on_one = |image: &&Rebasable| self.root_of(image).root.image.starts_with(FALLBACK);
        let out: Vec<Id> = self.all().filter(is_on_one).map(Rebasable::id).collect();
        for image in out.iter().filter_map(|id| self.0.remove(id)).filter(Rebasable::is_named) {
            terminal::warn(&format!("`{}` is left out: its root was built from Debian packages", image.shown()));
        }
    }

    /// Bases before the apps that are on them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Rebasable> {
        let kind = |wanted| self.0.values().filter(move |image| image.kind() == wanted);
        kind(ImageKind::Base).chain(kind(ImageKind::App))
    }

    pub(super) fn base_of<'i>(&'i self, image: &'i Rebasable) -> &'i Rebasable {
        match &image.what {
            What::Base(_) => image,
            What::App(_, id) => &self.0[id],
        }
    }

    /// The key that says on which root an image is.
    pub(super) fn root_of<'i>(&'i self, image: &'i Rebasable) -> &'i BaseKey {
        match &self.base_of(image).what {
            What::Base(key) => key,
            What::App(..) => unreachable!("a base is on no base"),
        }
    }
}

fn name_it(context: &RebaseContext<'_>, (mut image, base): Read, name: &Reference, tags: &[Tag]) -> Read {
    image.named = Some(name.to_string());
    for tag in tags {
        let left = || super::left_to_ci(context.tree, &image.repository, tag);
        match rebase::fixed(tag, &image.published).or_else(left) {
            None => image.tags.push(tag.clone()),
            Some(why) => image.kept.push((tag.clone(), why)),
        }
    }
    (image, base)
}

/// The images that a command line names; by default those that this repository's tags name.
pub(super) fn named(context: &RebaseContext<'_>, flags: &RebaseFlags) -> Result<Vec<NamedImage>, Fault> {
    let (tree, client) = (context.tree, context.client);
    let named = flags.images.iter().map(|name| crate::commands::image_named(name));
    let mut wanted = named.collect::<Result<Vec<Reference>, Fault>>()?;
    let by_default = wanted.is_empty();
    if by_default {
        let (bases, apps) = (tree.repository(ImageKind::Base), tree.repository(ImageKind::App));
        wanted.push(bases.tag(&Tag::latest()));
        if flags.all {
            let tags = client.tags(&apps)?.present().unwrap_or_default();
            let counts =
                |tag: &&Tag| !tag.as_str().starts_with("sha256-") && !records::is(tag) && staged(tag).is_none();
            wanted.extend(tags.iter().filter(counts).map(|tag| apps.tag(tag)));
        } else {
            let branch = &tree.policy.project.default_branch;
            wanted.push(apps.tag(&Tag::latest()));
            if let BranchTag::Same(tag) | BranchTag::Other(tag, _) = tags::branch_tag(branch, branch) {
                wanted.push(apps.tag(&tag));
            }
        }
    }
    let read = some_at_once(AT_ONCE, &wanted, |name| {
        let (repository, tag) = (&name.repository, name.tag.clone());
        let found = match (name.digest, &tag) {
            (Some(digest), _) => publish::read(client, repository, digest)?,
            (None, tag) => publish::read(client, repository, tag.clone().unwrap_or_else(Tag::latest))?,
        };
        let tag = if name.digest.is_some() { None } else { Some(tag.unwrap_or_else(Tag::latest)) };
        match found {
            Answer::Present(published) => Ok(Some(NamedImage { repository: repository.clone(), tag, published })),
            Answer::Absent if by_default => Ok(None),
            Answer::Absent => Err(crate::commands::not_published(name)),
        }
    })?;
    let mut found: Vec<NamedImage> = read.into_iter().flatten().collect();
    if flags.all {
        // Names of contents alone are no reason to rebase what nobody runs under another name.
        found.retain(|one| one.tag.as_ref().is_some_and(|tag| rebase::fixed(tag, &one.published).is_none()));
    }
    if found.is_empty() {
        return Err(Fault::usage("there is no image to rebase")
            .cause(format!("`{}` has no `latest` and no branch", tree.repository(ImageKind::App)))
            .hint("name one: `cargo xtask rebase IMAGE`"));
    }
    Ok(found)
}

/// An image, and the base of an app by platform.
type Read = (Rebasable, Option<Below>);

pub(super) struct Below {
    repository: Repository,
    digests: BTreeMap<Platform, Digest>,
}

fn not_ours(published: &Published, repository: &Repository, why: &str) -> Fault {
    Fault::usage(format!("`{}` cannot be rebased", repository.digest(published.digest)))
        .cause(why)
        .hint("rebase what `cargo xtask build --push` published, or build it again on the new root: `cargo xtask lock`")
}

fn one(context: &RebaseContext<'_>, repository: &Repository, published: Published) -> Result<Read, Fault> {
    let refuse = |why: &str| not_ours(&published, repository, why);
    let fingerprint =
        published.fingerprint().ok_or_else(|| refuse("it was not built by xtask: it has no fingerprint"))?;
    let json = published.key().ok_or_else(|| refuse("it carries no key: what it was built from is not known"))?;
    let (what, expected) = match rebase::read_base_key(json) {
        Ok(key) => (What::Base(Box::new(key)), BaseKey::fingerprint_of(json)),
        Err(of_base) => match rebase::read_app_key(json) {
            Ok(key) => {
                let nowhere = (repository.clone(), published.digest);
                (What::App(Box::new(key), nowhere), AppKey::fingerprint_of(json))
            }
            Err(of_app) => {
                let is_base = json.contains("\"root\":") && !json.contains("\"scratch\":");
                return Err(refuse(if is_base { &of_base } else { &of_app }));
            }
        },
    };
    if expected != fingerprint {
        return Err(Fault { exit: xtask_model::fault::Exit::Drift, ..refuse("its key and its fingerprint differ") });
    }
    let mut documents = BTreeMap::new();
    for (platform, descriptor) in &published.platforms {
        let manifest = publish::read_manifest(context.client, repository, descriptor.digest)?;
        let config = publish::read_config(context.client, repository, &manifest)?;
        documents.insert(platform.clone(), Documents { manifest, config });
    }
    if documents.is_empty() {
        return Err(refuse("it has no platform"));
    }
    let below = match &what {
        What::Base(_) => None,
        What::App(..) => Some(below(&documents).ok_or_else(|| refuse("it does not name its base"))?),
    };
    let image = Rebasable {
        repository: repository.clone(),
        published: published.clone(),
        what,
        fingerprint,
        tags: Vec::new(),
        kept: Vec::new(),
        named: None,
        documents,
    };
    Ok((image, below))
}

/// The base that an app's labels name.
fn below(documents: &BTreeMap<Platform, Documents>) -> Option<Below> {
    let mut digests = BTreeMap::new();
    let mut repository = None;
    for (platform, one) in documents {
        let labels = &one.config.config.labels;
        let name: Reference = labels.get(annotation::BASE_NAME)?.parse().ok()?;
        digests.insert(platform.clone(), labels.get(annotation::BASE_DIGEST)?.parse().ok()?);
        repository = Some(name.repository);
    }
    Some(Below { repository: repository?, digests })
}

/// Finds the base of an app among the images, or reads it.
fn base_of(
    context: &RebaseContext<'_>,
    images: &mut BTreeMap<Id, Rebasable>,
    app: &Rebasable,
    below: &Below,
) -> Result<Id, Fault> {
    let What::App(key, _) = &app.what else { unreachable!("only an app has a base") };
    let wanted = key.base.as_deref().unwrap_or_default();
    let is_it = |image: &Rebasable| {
        let digest = |platform| Some(image.published.platforms.get(platform)?.digest);
        image.repository == below.repository
            && image.fingerprint.to_string() == wanted
            && below.digests.iter().all(|(platform, wanted)| digest(platform) == Some(*wanted))
    };
    if let Some(found) = images.values().find(|image| is_it(image)) {
        return Ok(found.id());
    }
    let refuse = |why: &str| {
        not_ours(&app.published, &app.repository, why).needed_by(format!("the rebase of `{}`", app.shown()))
    };
    let fingerprint: Fingerprint =
        wanted.parse().map_err(|_| refuse("its key does not name its base by a fingerprint"))?;
    let own = fingerprint.tag(context.tree.policy.base.tag_length);
    let tagged = publish::read(context.client, &below.repository, own)?.present();
    let same = |found: &Published| {
        let digest = |platform| Some(found.platforms.get(platform)?.digest);
        below.digests.iter().all(|(platform, wanted)| digest(platform) == Some(*wanted))
    };
    let published = match tagged.filter(|found| same(found)) {
        Some(found) => found,
        // The tag names another build of that base, or was removed; the manifests are known by their digests.
        None => {
            let mut all: Option<Published> = None;
            for digest in below.digests.values() {
                let found = publish::read(context.client, &below.repository, *digest)?.present();
                let found = found.ok_or_else(|| {
                    refuse("its base is not in the registry any more")
                        .cause(format!("`{}` is missing", below.repository.digest(*digest)))
                })?;
                match &mut all {
                    Some(all) => all.platforms.extend(found.platforms),
                    None => all = Some(found),
                }
            }
            all.ok_or_else(|| refuse("it does not name its base"))?
        }
    };
    let (image, _) = one(context, &below.repository, published)?;
    if image.fingerprint != fingerprint || image.kind() != ImageKind::Base {
        return Err(refuse("its labels name another base than its key"));
    }
    if images.values().any(|other| other.kind() == ImageKind::Base && other.fingerprint == fingerprint) {
        return Err(refuse("it was built on another build of its base than the other images"));
    }
    let id = image.id();
    images.insert(id.clone(), image);
    Ok(id)
}
