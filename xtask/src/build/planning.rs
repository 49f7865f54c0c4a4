//! Gathers the facts that a plan is made of, and has `plan` decide. Builds nothing and writes nothing, but for a root without
//! which nothing can be planned.

use super::foundation::{impatient, is_unbuilt};
use super::{Checks, Inquiry, Session, Target, pinned_base};
use crate::flags::{BuildFlags, Global};
use std::collections::BTreeMap;
use std::path::PathBuf;
use xtask_host::registry::publish;
use xtask_host::terminal;
use xtask_host::tree::facts::{self, Parsed, RootImage, RootPlace};
use xtask_host::tree::git::Git;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::key::{AppKey, BaseKey, BinaryKey, Fingerprint, app_changes, base_changes};
use xtask_model::image::plan::{self, Decision, ImagePlan, Latest, LatestFacts, Wish};
use xtask_model::image::policy::ImageKind;
use xtask_model::image::presence::{Local, Published, Standing};
use xtask_model::image::tags::Names;
use xtask_model::record::ledger::Change;
use xtask_model::spec::lock::Lock;
use xtask_model::spec::reference::{Digest, Tag};

/// The whole plan, with what execution needs beside it.
pub(super) struct Planned {
    pub root: RootImage,
    pub base: Option<Image>,
    pub app: Option<Image>,
}

impl Planned {
    /// Whether something is built on the root.
    pub(super) fn needs_root(&self) -> bool {
        let builds = |image: &Image| matches!(image.plan.decision, Decision::Build { .. });
        let from_root = |image: &&Image| image.plan.kind != ImageKind::App;
        self.base.iter().chain(&self.app).filter(from_root).any(builds)
    }

    /// Whether everything is there already.
    ///
    /// # Errors
    /// Something would have to be built: what is named then would not be what was tested.
    pub(super) fn refuse_building(&self) -> Result<(), Fault> {
        for Image { plan, .. } in self.base.iter().chain(&self.app) {
            if let Decision::Build { reasons, .. } = &plan.decision {
                let what = format!("{} `{}` would have to be built", plan.kind, plan.repository.tag(&plan.tag));
                return Err(Fault::drift(what)
                    .needed_by("`--reuse-only`")
                    .cause(reasons.join("; "))
                    .hint("build and test it first: `cargo xtask build --push` without `--reuse-only`"));
            }
        }
        Ok(())
    }
}

/// One image of the plan.
pub(super) struct Image {
    pub plan: ImagePlan,
    pub parsed: Parsed,
    pub key: String,
    /// What determines the program in it.
    pub binary: Option<BinaryKey>,
    /// The image that compiles the program in a stage of the Dockerfile, by digest.
    pub rust_image: Option<String>,
    pub local: Option<Local>,
    pub size: Option<u64>,
    /// The commit that the published image was built from.
    pub revision: Option<String>,
    /// What an edit of the app was an edit of, where that is known.
    pub change: Option<Change>,
    /// What `latest` named when this was planned.
    pub latest: Option<Published>,
}

impl Session<'_> {
    /// The whole plan.
    pub(super) fn plan(&self, target: Target) -> Result<Planned, Fault> {
        self.checks.beside(&self.client, || self.plan_once(target))
    }

    fn plan_once(&self, target: Target) -> Result<Planned, Fault> {
        if let (Some(digest), Target::Base | Target::App | Target::Fast) =
            (facts::images_lock(&self.tree)?.base, target)
        {
            return Ok(self.named_by_policy(self.plan_pinned(target, digest)?));
        }
        let lock = facts::lock(&self.tree)?;
        let on_root = if target == Target::Enhanced { ImageKind::Enhanced } else { ImageKind::Base };
        let planned = self.inquiry().on_a_root(
            &|wanted| {
                let made = self.make_root(wanted, on_root)?;
                Ok(made.or_else(|| self.flags.dry_run.then(|| wanted.unbuilt(&self.tree))))
            },
            |root| self.plan_on(target, root, &lock),
            Planned::needs_root,
        )?;
        Ok(self.named_by_policy(on_unbuilt_root(planned)))
    }

    /// The plan with the names that the policy allows: an image on the fallback root is not what the commit says, but what the
    /// network let through, and is known by its fingerprint alone unless `[root] fallback-publishes` says otherwise.
    fn named_by_policy(&self, mut planned: Planned) -> Planned {
        let publishes = self.tree.policy.root.fallback_publishes;
        if !self.wish.push || !planned.root.is_fallback() {
            return planned;
        }
        let root = planned.root.name.clone();
        let images = planned.base.iter_mut().chain(&mut planned.app);
        for Image { plan, .. } in images.filter(|image| !publishes.allows(&image.plan.repository)) {
            let named = plan.latest == Latest::Moves || !plan.tags.is_empty();
            plan.tags.clear();
            plan.branch = None;
            if plan.latest == Latest::Moves {
                plan.latest = Latest::Stays(format!("it is on the fallback root `{root}`"));
            }
            if named {
                let setting = publishes.as_str();
                let what = format!(
                    "`{}` is on the fallback root `{root}`: it gets no tag but its fingerprint's, and `latest` stays \
                     (`[root] fallback-publishes` is `{setting}`)",
                    plan.repository.tag(&plan.tag)
                );
                terminal::step("unnamed", &what);
            }
        }
        planned
    }

    fn plan_on(&self, target: Target, root: RootImage, lock: &Lock) -> Result<Planned, Fault> {
        let base_parsed = facts::parse(&self.tree, ImageKind::Base, &self.tree.policy.base.args)?;
        let base_key = facts::base_key(&self.tree, &root, lock, &base_parsed);
        let (fingerprint, tag, json) = facts::tagged(&self.tree, &base_key);
        let tag = if is_unbuilt(&root) { plan::unknown_tag() } else { tag };
        if target != Target::Enhanced {
            self.compare(ImageKind::Base, &base_parsed, &fingerprint)?;
        }
        if target == Target::Enhanced {
            let parsed = facts::parse(&self.tree, ImageKind::Enhanced, &self.tree.policy.app.args)?;
            let rust_image = self.rust_image(&root)?;
            let compiler = self.compiler(rust_image.as_deref());
            let key = facts::enhanced_key(&self.tree, base_key, &parsed, compiler)?;
            let (fingerprint, tag, json) = facts::tagged(&self.tree, &key);
            self.compare(ImageKind::Enhanced, &parsed, &fingerprint)?;
            let tag = match is_unbuilt(&root) {
                true => plan::unknown_tag(),
                false => Tag::from_name(&format!("enhanced-{tag}")).expect("a prefix keeps a tag a tag"),
            };
            let standing = self.standing(ImageKind::Enhanced, &fingerprint, &tag)?;
            let decision = plan::decide(&self.wish, &standing, &[]);
            let latest = Latest::Stays("an image from scratch is the fallback".to_owned());
            let mut image =
                self.image(ImageKind::Enhanced, fingerprint, tag, decision, &standing, latest, parsed, json);
            image.rust_image = rust_image;
            return Ok(Planned { root, base: None, app: Some(image) });
        }
        let standing = self.standing(ImageKind::Base, &fingerprint, &tag)?;
        let published = self.latest(ImageKind::Base)?;
        let old: Option<BaseKey> = self.last_key(ImageKind::Base, published.as_ref());
        let changes = old.map(|old| base_changes(&old, &base_key, &self.tree.names(&base_parsed))).unwrap_or_default();
        let since = since(published.as_ref());
        let wish = if target == Target::Fast { Wish { force: false, ..self.wish.clone() } } else { self.wish.clone() };
        let decision = plan::decide(&wish, &standing, &named(&changes, since));
        if let (Target::Fast, Decision::Build { reasons, .. }) = (target, &decision) {
            if is_unbuilt(&root) {
                return Err(Fault::usage("the base image of this tree has not been built")
                    .needed_by(format!("`{}`", self.tree.policy.app.dockerfile))
                    .cause(format!("its root `{}` is not on this machine", root.name))
                    .hint("build both: `cargo xtask build`"));
            }
            let reference = self.tree.repository(ImageKind::Base).tag(&tag);
            if let Standing::Registry(found) = &standing
                && !found.lost.is_empty()
            {
                return Err(Fault::usage(format!("base image `{reference}` is not whole in the registry"))
                    .needed_by(format!("`{}`", self.tree.policy.app.dockerfile))
                    .cause(&reasons[0])
                    .hint(
                        "build it again: `cargo xtask build-base --push`, or let `cargo xtask build --push` do both",
                    ));
            }
            return Err(plan::missing_base(
                &reference,
                self.wish.push,
                self.tree.policy.app.dockerfile.as_str(),
                &changes,
                since,
            ));
        }
        let latest = self.decide_latest(ImageKind::Base, &standing, &decision);
        let mut base = self.image(ImageKind::Base, fingerprint, tag, decision, &standing, latest, base_parsed, json);
        base.latest = published;
        let app = match target {
            Target::App | Target::Fast => Some(self.plan_app(fingerprint, &base)?),
            Target::Base | Target::Enhanced => None,
        };
        Ok(Planned { root, base: Some(base), app })
    }

    /// The plan where `images.lock` pins the base: it is what it is, and the app goes on it.
    fn plan_pinned(&self, target: Target, digest: Digest) -> Result<Planned, Fault> {
        if target == Target::Base {
            return Err(Fault::usage("the base is pinned, and another one would not be used")
                .cause(format!("`images.lock` pins `{digest}`"))
                .hint("let it go: `cargo xtask base pin --remove`"));
        }
        let found = match self.global.offline {
            false => pinned_base(&self.tree, &self.client, digest, &self.wish.platforms)?,
            true => {
                return Err(Fault::usage("a pinned base is the registry's, and `--offline` asks none")
                    .hint("let it go: `cargo xtask base pin --remove`"));
            }
        };
        terminal::step("pinned", &format!("the base is `{digest}`, whatever the requirements say (`images.lock`)"));
        let fingerprint = found.fingerprint().expect("a pinned base has been looked at");
        let tag = fingerprint.tag(self.tree.policy.base.tag_length);
        let parsed = facts::parse(&self.tree, ImageKind::Base, &self.tree.policy.base.args)?;
        let key = found.key().unwrap_or_default().to_owned();
        let standing = Standing::Registry(Box::new(found));
        // Not even `--force` builds what is pinned.
        let decision = plan::decide(&Wish { force: false, ..self.wish.clone() }, &standing, &[]);
        let latest = Latest::Stays("the base is pinned in `images.lock`".to_owned());
        let base = self.image(ImageKind::Base, fingerprint, tag, decision, &standing, latest, parsed, key);
        let app = self.plan_app(fingerprint, &base)?;
        // Nothing of this plan is built on a root.
        let place = RootPlace::Registry(base.plan.repository.clone());
        let name = serde_json::from_str::<BaseKey>(&base.key).map_or_else(|_| "none".to_owned(), |key| key.root.image);
        let root = RootImage { name, digests: BTreeMap::new(), place };
        Ok(Planned { root, base: Some(base), app: Some(app) })
    }

    fn plan_app(&self, base_fingerprint: Fingerprint, base: &Image) -> Result<Image, Fault> {
        let parsed = facts::parse(&self.tree, ImageKind::App, &self.tree.policy.app.args)?;
        let key = facts::app_key(&self.tree, base_fingerprint, &parsed)?;
        let (fingerprint, tag, json) = facts::tagged(&self.tree, &key);
        let tag = if base.plan.tag == plan::unknown_tag() { plan::unknown_tag() } else { tag };
        self.compare(ImageKind::App, &parsed, &fingerprint)?;
        let standing = self.standing(ImageKind::App, &fingerprint, &tag)?;
        let published = self.latest(ImageKind::App)?;
        let old: Option<AppKey> = self.last_key(ImageKind::App, published.as_ref());
        let change = old.as_ref().and_then(|old| Change::between(old, &key));
        let changes = old.map(|old| app_changes(&old, &key, &self.tree.names(&parsed))).unwrap_or_default();
        let changes = named(&changes, since(published.as_ref()));
        let (decision, stale) = self.inquiry().decide_app(&standing, &base.plan.decision, &changes)?;
        let latest = self.decide_latest(ImageKind::App, &standing, &decision);
        let mut image = self.image(ImageKind::App, fingerprint, tag, decision, &standing, latest, parsed, json);
        image.plan.replaces |= stale.is_some();
        image.binary = key.binary;
        image.change = change;
        image.latest = published;
        Ok(image)
    }

    /// Decides over `latest`, but for what it names: that is asked right before it is written, and not twice.
    fn decide_latest(&self, kind: ImageKind, standing: &Standing, decision: &Decision) -> Latest {
        let mut platforms = match standing {
            Standing::Registry(published) => published.platforms.keys().cloned().collect(),
            Standing::Local(_) | Standing::Absent => Vec::new(),
        };
        if let Decision::Build { platforms: built, .. } = decision {
            platforms.extend(built.iter().cloned());
        }
        let differences = self.differences(kind);
        let facts = LatestFacts {
            commit: self.tree.commit.as_ref().ok_or_else(|| Git::at(&self.tree.root).absence()),
            differences: &differences,
            platforms: &platforms,
        };
        plan::latest(&self.tree.policy, &self.wish, &facts)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one value, named by its fields")]
    fn image(
        &self,
        kind: ImageKind,
        fingerprint: Fingerprint,
        tag: Tag,
        decision: Decision,
        standing: &Standing,
        latest: Latest,
        parsed: Parsed,
        key: String,
    ) -> Image {
        let Names { all: tags, branch, notes } = match kind {
            ImageKind::App => {
                plan::app_tags(self.tree.commit.as_ref(), &self.differences(kind), &self.tree.policy, &self.wish)
            }
            ImageKind::Base | ImageKind::Enhanced => Names::default(),
        };
        let repository = self.tree.repository(kind);
        let replaces = self.wish.force;
        let plan = ImagePlan { kind, repository, fingerprint, tag, decision, replaces, tags, branch, notes, latest };
        let (local, revision) = match standing {
            Standing::Local(local) => (Some(local.clone()), None),
            Standing::Registry(published) => (None, published.revision().map(str::to_owned)),
            Standing::Absent => (None, None),
        };
        let size = local.as_ref().and_then(|local| local.size);
        Image { plan, parsed, key, binary: None, rust_image: None, local, size, revision, change: None, latest: None }
    }

    /// The key of the image that was there before: `latest`'s in the registry, the last one built here otherwise.
    fn last_key<K: serde::de::DeserializeOwned>(&self, kind: ImageKind, published: Option<&Published>) -> Option<K> {
        let json = match published {
            Some(published) => published.key()?.to_owned(),
            None if self.wish.push => return None,
            None => std::fs::read_to_string(self.key_file(kind)).ok()?,
        };
        // A key of another schema, or a broken file, explains nothing; it decides nothing either.
        serde_json::from_str(&json).ok()
    }

    /// Where the key of the image that was built last is remembered.
    pub(super) fn key_file(&self, kind: ImageKind) -> PathBuf {
        self.tree.images().join(format!("{kind}.key.json"))
    }

    /// What of an image is there already.
    fn standing(&self, kind: ImageKind, fingerprint: &Fingerprint, tag: &Tag) -> Result<Standing, Fault> {
        if *tag == plan::unknown_tag() {
            return Ok(Standing::Absent);
        }
        let repository = self.tree.repository(kind);
        let reference = repository.tag(tag);
        let mine = &self.wish.platforms[0];
        if !self.wish.push {
            let local = match (kind, self.local_docker()?) {
                (ImageKind::App | ImageKind::Enhanced, Some(docker)) => {
                    facts::local_store(docker, &reference, fingerprint, mine)?
                }
                (ImageKind::Base, _) | (_, None) => facts::in_layout(&self.tree, kind, fingerprint, tag, mine)?,
            };
            if let Some(local) = local {
                return Ok(Standing::Local(local));
            }
            // The app has to come into the local store; a base may be used where it is.
            if kind != ImageKind::Base || self.global.offline {
                return Ok(Standing::Absent);
            }
        }
        // What stays on this machine does not wait for a registry that does not answer.
        let hasty = if self.wish.push { None } else { Some(impatient(&self.tree)) };
        let at_once = Checks::default();
        let inquiry = match &hasty {
            Some(client) => Inquiry { client, checks: &at_once, ..self.inquiry() },
            None => self.inquiry(),
        };
        match inquiry.published(kind, fingerprint, tag) {
            Ok(standing) => Ok(standing),
            // Another image under our tag is no trouble of the registry's.
            Err(fault) if fault.exit == Exit::Drift => Err(fault),
            Err(fault) if self.wish.push || self.global.locked => Err(fault.hint("`--offline` asks no registry")),
            Err(fault) => {
                let cause = fault.causes.last().cloned().unwrap_or(fault.what);
                terminal::warn(&format!(
                    "cannot ask `{}` for the {kind} ({cause}): only this machine counts",
                    repository.registry()
                ));
                Ok(Standing::Absent)
            }
        }
    }

    /// What `latest` names, where it matters.
    fn latest(&self, kind: ImageKind) -> Result<Option<Published>, Fault> {
        if !self.wish.push {
            return Ok(None);
        }
        Ok(publish::read(&self.client, &self.tree.repository(kind), Tag::latest())?.present())
    }
}

/// The plan of a dry run whose root has to be built first, with that as the reason.
fn on_unbuilt_root(mut planned: Planned) -> Planned {
    if !is_unbuilt(&planned.root) {
        return planned;
    }
    let root = planned.root.name.clone();
    terminal::step("planned", &format!("root `{root}` from Debian packages: it is not on this machine"));
    for image in planned.base.iter_mut().chain(&mut planned.app) {
        if let Decision::Build { reasons, .. } = &mut image.plan.decision {
            let under = if image.plan.kind == ImageKind::App { "base" } else { "root" };
            *reasons = vec![format!("its {under} is built first, and its fingerprint is known after that")];
        }
    }
    planned
}

/// With what an image's key is compared, as part of a sentence; see [`Session::last_key`].
fn since(published: Option<&Published>) -> &'static str {
    if published.is_some() { "since `latest`" } else { "since the last build on this machine" }
}

/// Differences, each with the name of what they are differences to: people read them one by one.
fn named(changes: &[String], since: &str) -> Vec<String> {
    changes.iter().map(|change| format!("{change} {since}")).collect()
}

/// The fingerprint of this tree's base. Builds nothing, not even a root.
pub fn base_fingerprint(global: &Global) -> Result<Fingerprint, Fault> {
    let flags = BuildFlags { dry_run: true, push: !global.offline, ..BuildFlags::default() };
    let session = Session::open(global, &flags, Target::Base)?;
    let lock = facts::lock(&session.tree)?;
    let parsed = facts::parse(&session.tree, ImageKind::Base, &session.tree.policy.base.args)?;
    let inquiry = session.inquiry();
    let standing = |root: RootImage| {
        let (fingerprint, tag, _) =
            facts::tagged(&session.tree, &facts::base_key(&session.tree, &root, &lock, &parsed));
        Ok((fingerprint, inquiry.published(ImageKind::Base, &fingerprint, &tag)?))
    };
    let found = inquiry.on_a_root(&|wanted| session.make_root(wanted, ImageKind::Base), standing, |(_, found)| {
        *found == Standing::Absent
    });
    Ok(found?.0)
}
