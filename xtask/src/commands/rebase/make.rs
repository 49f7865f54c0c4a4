//! Makes the images: new documents over existing layers, with what the policy's steps attach. Names nothing by a tag.

use super::images::{Id, Images, Rebasable, What};
use super::roots::{Roots, opened};
use super::{AT_ONCE, RebaseContext, about};
use crate::plugins::{BuildFacts, RebaseOrigin, Subject};
use crate::{smoke, steps};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use xtask_host::registry::parallel::some_at_once;
use xtask_host::registry::publish::{self, completeness};
use xtask_host::registry::{Answer, attach};
use xtask_host::{clock, process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::key::{BaseKey, Fingerprint, Key as _};
use xtask_model::image::policy::{After, ImageKind};
use xtask_model::image::presence::Published;
use xtask_model::image::rebase::{self, Documents, Origin};
use xtask_model::spec::oci::{Descriptor, annotation, media_type};
use xtask_model::spec::reference::{Digest, Platform, Repository, Tag};
use xtask_native::container::Runner;
use xtask_native::image::Image;
use xtask_native::push::deliver;

/// A label with more is left out, as a build does.
const LABEL_LIMIT: usize = 64 << 10;

/// The label with the version of the program.
const VERSION: &str = "org.opencontainers.image.version";

/// An image on its new root, which no tag names.
pub(super) struct Rebased<'a> {
    pub image: &'a Rebasable,
    pub fingerprint: Fingerprint,
    /// Its key as JSON.
    pub key: String,
    /// The manifest of each platform.
    pub platforms: BTreeMap<Platform, Made>,
    /// An image of this key exists, on something else.
    pub replaces: bool,
}

pub(super) struct Made {
    pub descriptor: Descriptor,
    pub documents: Documents,
    /// It was published before.
    pub was_there: bool,
    origin: Option<Origin>,
}

impl Rebased<'_> {
    /// True if something of it was made now.
    pub(super) fn is_new(&self) -> bool {
        self.platforms.values().any(|made| !made.was_there)
    }

    pub(super) fn tag(&self, length: usize) -> Tag {
        self.fingerprint.tag(length)
    }
}

pub(super) struct Maker<'a> {
    context: &'a RebaseContext<'a>,
    images: &'a Images,
    roots: &'a Roots,
    started: String,
    /// Layers that repositories have by now.
    brought: Mutex<BTreeSet<(Repository, Digest)>>,
}

impl<'a> Maker<'a> {
    pub(super) fn new(context: &'a RebaseContext<'a>, images: &'a Images, roots: &'a Roots) -> Self {
        Self { context, images, roots, started: clock::now().to_string(), brought: Mutex::default() }
    }

    /// Makes all of them, bases first, and runs the steps on each.
    ///
    /// # Errors
    /// The first that fails; nothing is named by a tag then.
    pub(super) fn make(&self, wanted: &[&'a Rebasable]) -> Result<Vec<Rebased<'a>>, Fault> {
        let (bases, apps): (Vec<&Rebasable>, Vec<&Rebasable>) =
            wanted.iter().copied().partition(|image| image.kind() == ImageKind::Base);
        let bases = some_at_once(AT_ONCE, &bases, |image| self.base(image).map_err(|fault| about(image, fault)))?;
        let by_id: BTreeMap<Id, &Rebased<'_>> = bases.iter().map(|base| (base.image.id(), base)).collect();
        let apps = some_at_once(AT_ONCE, &apps, |image| self.app(image, &by_id).map_err(|fault| about(image, fault)))?;
        Ok(bases.into_iter().chain(apps).collect())
    }

    fn base(&self, image: &'a Rebasable) -> Result<Rebased<'a>, Fault> {
        let key = self.images.root_of(image);
        let digests = self.roots.new_digests(&key.root.image).expect("every root was found");
        let rebased = rebase::base_key(key, digests).map_err(Fault::drift)?;
        let (json, fingerprint) = (rebased.json(), rebased.fingerprint());
        let there = self.there(image, &fingerprint)?;
        let mut platforms = BTreeMap::new();
        for (platform, documents) in &image.documents {
            if let Some(made) = self.published(image, there.as_ref(), platform, None)? {
                platforms.insert(platform.clone(), made);
                continue;
            }
            let Some(swap) = self.roots.swap(key, platform) else {
                // The key has new digests for other platforms; this one's root stays.
                platforms
                    .insert(platform.clone(), self.renamed(image, (platform, documents), (&fingerprint, &json), key)?);
                continue;
            };
            let (old, new) = (of(&swap.old), of(&swap.new));
            let origin = origin(image, platform, swap.old.digest, swap.new.digest);
            let labels = labels(&origin, &fingerprint, &json, (&key.root.image, &swap.new.digest));
            let made = rebase::graft(documents, &old, &new, &labels).map_err(wrong)?;
            platforms.insert(
                platform.clone(),
                self.finish(image, (platform, made), (&fingerprint, &json), (origin, &swap.new))?,
            );
        }
        let replaces = replaces(there.as_ref(), &platforms);
        Ok(Rebased { image, fingerprint, key: json, platforms, replaces })
    }

    /// A platform whose root is the same: its documents with the new key.
    fn renamed(
        &self,
        image: &Rebasable,
        (platform, documents): (&Platform, &Documents),
        (fingerprint, json): (&Fingerprint, &str),
        key: &BaseKey,
    ) -> Result<Made, Fault> {
        let root = key.root.digests[platform];
        let origin = origin(image, platform, root, root);
        let labels = labels(&origin, fingerprint, json, (&key.root.image, &root));
        let nothing = Documents {
            manifest: xtask_model::spec::oci::Manifest::new(documents.manifest.config.clone(), Vec::new()),
            config: xtask_model::spec::oci::Config {
                rootfs: xtask_model::spec::oci::RootFs::new(Vec::new()),
                config: Default::default(),
                history: Vec::new(),
                ..documents.config.clone()
            },
        };
        let made = rebase::graft(documents, &nothing, &nothing, &labels).map_err(wrong)?;
        let own = opened(documents, image.repository.clone(), image.published.platforms[platform].digest);
        self.finish(image, (platform, made), (fingerprint, json), (origin, &own))
    }

    fn app(&self, image: &'a Rebasable, bases: &BTreeMap<Id, &Rebased<'_>>) -> Result<Rebased<'a>, Fault> {
        let What::App(key, base) = &image.what else { unreachable!("only apps are made here") };
        let (before, base) = (self.images.base_of(image), bases[base]);
        let rebased = rebase::app_key(key, &base.fingerprint);
        let (json, fingerprint) = (rebased.json(), rebased.fingerprint());
        let there = self.there(image, &fingerprint)?;
        let root = self.images.root_of(image);
        let mut platforms = BTreeMap::new();
        for (platform, documents) in &image.documents {
            let (Some(old), Some(new)) = (before.documents.get(platform), base.platforms.get(platform)) else {
                return Err(Fault::drift(format!("its base has no image for {platform}")));
            };
            if let Some(made) = self.published(image, there.as_ref(), platform, Some(&new.descriptor.digest))? {
                platforms.insert(platform.clone(), made);
                continue;
            }
            let digests = self.roots.new_digests(&root.root.image).expect("every root was found");
            let origin = origin(image, platform, root.root.digests[platform], digests[platform]);
            let below = opened(&new.documents, before.repository.clone(), new.descriptor.digest);
            let named = (before.repository.to_string(), new.descriptor.digest);
            let labels = labels(&origin, &fingerprint, &json, (&named.0, &named.1));
            let made = rebase::graft(documents, old, &new.documents, &labels).map_err(wrong)?;
            platforms.insert(
                platform.clone(),
                self.finish(image, (platform, made), (&fingerprint, &json), (origin, &below))?,
            );
        }
        let replaces = replaces(there.as_ref(), &platforms);
        Ok(Rebased { image, fingerprint, key: json, platforms, replaces })
    }

    /// Image that the fingerprint's tag names already, as far as it is whole.
    fn there(&self, image: &Rebasable, fingerprint: &Fingerprint) -> Result<Option<Published>, Fault> {
        let (client, repository) = (self.context.client, &image.repository);
        let tag = fingerprint.tag(self.context.tree.policy.base.tag_length);
        let Answer::Present(mut found) = publish::read(client, repository, tag.clone())? else { return Ok(None) };
        publish::check_owner(&found, fingerprint, &repository.tag(&tag))?;
        completeness::check(&mut found, client, repository)?;
        Ok(Some(found))
    }

    /// A platform that is published already, if it is signed where builds sign; an app only if it is on this base.
    fn published(
        &self,
        image: &Rebasable,
        there: Option<&Published>,
        platform: &Platform,
        base: Option<&Digest>,
    ) -> Result<Option<Made>, Fault> {
        let Some(descriptor) = there.and_then(|found| found.platforms.get(platform)) else { return Ok(None) };
        let manifest = publish::read_manifest(self.context.client, &image.repository, descriptor.digest)?;
        let config = publish::read_config(self.context.client, &image.repository, &manifest)?;
        let on = config.config.labels.get(annotation::BASE_DIGEST).and_then(|text| text.parse::<Digest>().ok());
        if base.is_some_and(|base| on != Some(*base)) {
            return Ok(None);
        }
        let sign = attach::tag_of(&descriptor.digest, Some("sig"));
        if steps::signs(&self.context.tree.policy, image.kind())
            && self.context.client.head(&image.repository, sign)? == Answer::Absent
        {
            return Ok(None);
        }
        let documents = Documents { manifest, config };
        let made = Made { descriptor: descriptor.clone(), documents, was_there: true, origin: None };
        // Whoever published it may have tested less.
        self.smoke(image, platform, &made)?;
        Ok(Some(made))
    }

    /// Sends what is new, and runs the steps on it.
    fn finish(
        &self,
        image: &Rebasable,
        (platform, mut documents): (&Platform, Documents),
        (fingerprint, key): (&Fingerprint, &str),
        (origin, below): (Origin, &Image),
    ) -> Result<Made, Fault> {
        process::interrupted()?;
        let (client, repository) = (self.context.client, &image.repository);
        self.bring(image, platform, below)?;
        let config = serde_json::to_vec(&documents.config).expect("a configuration is JSON");
        let digest = Digest::of(&config);
        client.upload(repository, &digest, config.len() as u64, &config)?;
        let kind = documents.manifest.config.media_type.clone();
        documents.manifest.config = Descriptor::new(kind, digest, config.len() as u64);
        let bytes = serde_json::to_vec(&documents.manifest).expect("a manifest is JSON");
        let kind = documents.manifest.media_type.clone().unwrap_or_else(|| media_type::MANIFEST.to_owned());
        let descriptor = Descriptor::new(kind, Digest::of(&bytes), bytes.len() as u64).with_platform(platform);
        client.put_manifest(repository, descriptor.digest, &descriptor.media_type, &bytes)?;
        let made = Made { descriptor, documents, was_there: false, origin: Some(origin) };
        let ran = self.steps(After::Build, image, (platform, &made), (fingerprint, key))?;
        let subject = Descriptor { platform: None, ..made.descriptor.clone() };
        attach::attach(client, repository, &subject, &ran)?;
        Ok(made)
    }

    /// Brings the layers of the image below that the repository lacks: not those of the image itself, and each once.
    fn bring(&self, image: &Rebasable, platform: &Platform, below: &Image) -> Result<(), Fault> {
        let own = &image.documents[platform].manifest.layers;
        let brought = || self.brought.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |digest: &Digest| {
            own.iter().any(|layer| layer.digest == *digest) || brought().contains(&(image.repository.clone(), *digest))
        };
        deliver::bring(self.context.client, &image.repository, below, &has)?;
        brought().extend(below.manifest.layers.iter().map(|layer| (image.repository.clone(), layer.digest)));
        Ok(())
    }

    /// Runs the steps of the policy, and the smoke test of an app where no step does.
    fn steps(
        &self,
        when: After,
        image: &Rebasable,
        (platform, made): (&Platform, &Made),
        (fingerprint, key): (&Fingerprint, &str),
    ) -> Result<Vec<attach::Artifact>, Fault> {
        let RebaseContext { tree, client } = *self.context;
        let Some(origin) = &made.origin else { return Ok(Vec::new()) };
        let due = steps::due(&tree.policy, when, image.kind());
        if when == After::Build && !due.iter().any(|step| step.uses("smoke")) {
            self.smoke(image, platform, made)?;
        }
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let reference = image.repository.digest(made.descriptor.digest);
        let version = self.version(made);
        let subject = Subject {
            kind: image.kind(),
            reference: &reference,
            digest: made.descriptor.digest,
            place: Some(xtask_native::image::Place::Registry(image.repository.clone())),
            platform,
            size: Some(made.documents.manifest.layers.iter().map(|layer| layer.size).sum()),
            version: version.as_deref(),
        };
        let revision = image.published.revision();
        let build = BuildFacts {
            fingerprint: fingerprint.to_string(),
            key: key.to_owned(),
            engine: "rebase".to_owned(),
            differs: revision.is_some_and(|revision| revision.ends_with("-dirty")),
            root: (self.images.root_of(image).root.image.clone(), Some(origin.now)),
            started: self.started.clone(),
            rebased: Some(RebaseOrigin {
                origin: origin.clone(),
                commit: revision.map(|revision| revision.trim_end_matches("-dirty").to_owned()),
            }),
        };
        let run = steps::Run { tree, client, subject: &subject, build: &build };
        Ok(run.run(when, &|| Runner::available(tree))?.attach)
    }

    /// The version of the program in an image.
    fn version(&self, made: &Made) -> Option<String> {
        made.documents.config.config.labels.get(VERSION).cloned().or_else(|| self.context.tree.version())
    }

    /// Runs the smoke test of the policy on an app.
    fn smoke(&self, image: &Rebasable, platform: &Platform, made: &Made) -> Result<(), Fault> {
        let tree = self.context.tree;
        let smoke = &tree.policy.smoke;
        let asks = smoke.user.is_some() || !smoke.runs.is_empty() || smoke.serve.is_some();
        if image.kind() != ImageKind::App || !asks {
            return Ok(());
        }
        let reference = image.repository.digest(made.descriptor.digest);
        if platform.architecture != Platform::host().architecture {
            terminal::warn(&format!("`{reference}` for {platform} cannot be run here: no smoke test of it"));
            return Ok(());
        }
        smoke::run(&Runner::available(tree)?.image(&reference.to_string())?, smoke, self.version(made).as_deref())
            .map(drop)
    }

    /// Runs the steps that follow on a published image.
    pub(super) fn after_push(&self, made: &[Rebased<'_>]) -> Result<(), Fault> {
        for one in made {
            for (platform, manifest) in &one.platforms {
                self.steps(After::Push, one.image, (platform, manifest), (&one.fingerprint, &one.key))
                    .map_err(|fault| about(one.image, fault))?;
            }
        }
        Ok(())
    }
}

/// True if something takes the place of a published platform.
fn replaces(there: Option<&Published>, platforms: &BTreeMap<Platform, Made>) -> bool {
    let is_there = |platform| there.is_some_and(|found| found.platforms.contains_key(platform));
    platforms.iter().any(|(platform, made)| !made.was_there && is_there(platform))
}

fn of(image: &Image) -> Documents {
    Documents { manifest: image.manifest.clone(), config: image.config.clone() }
}

fn wrong(why: String) -> Fault {
    Fault::drift("its documents do not fit on the new root")
        .cause(why)
        .hint("build it again: `cargo xtask build --push`")
}

fn origin(image: &Rebasable, platform: &Platform, root: Digest, now: Digest) -> Origin {
    let digest = image.published.platforms[platform].digest;
    Origin { image: image.repository.digest(digest), fingerprint: image.fingerprint, root, now }
}

fn labels(origin: &Origin, fingerprint: &Fingerprint, key: &str, base: (&str, &Digest)) -> BTreeMap<String, String> {
    let mut labels = origin.labels(fingerprint, key, base);
    if key.len() > LABEL_LIMIT {
        labels.remove(xtask_model::image::key::KEY_LABEL);
    }
    labels
}
