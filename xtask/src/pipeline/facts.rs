//! Gathers the facts of a plan, and has the one planner decide: for `build`, `--dry-run`, `plan`, `explain`, `smoke` and `run` alike.
//!
//! Reads files, git, the registry and this machine's images. Builds nothing: without the root that they are on, images have no keys yet.

use super::order::Image;
use super::root_registry::{is_unbuilt, single_try_client};
use super::sources::{Sources, one_line};
use super::{Checks, Context, Request, claims, order};
use crate::flags::Global;
use crate::steps;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use xtask_host::registry::{Answer, Client, attach, publish};
use xtask_host::terminal;
use xtask_host::tree::binary;
use xtask_host::tree::facts::{self, RootImage, RootPlace, Tree};
use xtask_host::tree::git::Git;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::change::PlannedImage;
use xtask_model::image::key::{AppKey, BaseKey, EditKind, FileNames, Fingerprint, Key, app_changes, base_changes};
use xtask_model::image::plan::{self, Facts, ImageFacts, ImagePlan, InputDifference, Plan, Target};
use xtask_model::image::policy::ImageKind;
use xtask_model::image::presence::{Presence, Published, UNSIGNED};
use xtask_model::spec::oci::{Descriptor, annotation};
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository, Tag};
use xtask_native::push::published::EarlierImage;

/// A plan with the facts that it was made of.
pub(super) struct Planned {
    pub plan: Plan,
    pub facts: Facts,
    /// The root that images are built on.
    pub root: RootImage,
}

/// Differences from an earlier key, and the part of the app that was edited.
type Differs = (Vec<String>, Option<EditKind>);

impl Planned {
    /// The base in the registry: of this key, else the one that `latest` names.
    pub(super) fn published_base(&self) -> Option<super::PublishedBase> {
        let base = self.facts.base.as_ref()?;
        let published = match &base.presence {
            Presence::Registry(published) => published,
            _ => base.latest.as_ref()?,
        };
        let image = |(platform, found): (&Platform, &Descriptor)| {
            (platform.clone(), EarlierImage { manifest: found.digest, record: published.checked(platform) })
        };
        Some((base.repository.clone(), published.platforms.iter().map(image).collect()))
    }

    /// The images in the order in which they are built.
    pub(super) fn images<'a>(&'a self, sources: &'a Sources<'_>) -> impl Iterator<Item = Image<'a>> {
        let facts = self.facts.base.iter().chain(&self.facts.app);
        self.plan.images().zip(facts).map(|(plan, facts)| Image { plan, facts, parsed: sources.parsed(plan.kind) })
    }
}

/// The facts that a caller needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Those that decide. A registry that does not answer is a fact.
    Decisions,
    /// Those of reasons and tags, too. A registry that has to answer and does not is a fault.
    All,
}

/// Asks for facts.
pub(super) struct Lookup<'a> {
    pub context: &'a Context<'a>,
    pub sources: &'a Sources<'a>,
    pub client: &'a Client,
    pub(super) detail: Detail,
    /// Differences from the commit, compared once for each image: they do not depend on the root.
    differences: RefCell<BTreeMap<ImageKind, Vec<InputDifference>>>,
    /// The root of this round is the placeholder of one that has to be built.
    unbuilt_root: Cell<bool>,
}

pub(super) fn plan_build(context: &Context<'_>, sources: &Sources<'_>) -> Result<Planned, Fault> {
    let lookup = Lookup::new(context, sources, context.client, Detail::All);
    context.checks.in_parallel(context.client, || lookup.plan())
}

/// The plan of a build on a root that was built for it.
pub(super) fn plan_build_on(context: &Context<'_>, sources: &Sources<'_>, root: &RootImage) -> Result<Planned, Fault> {
    let lookup = Lookup::new(context, sources, context.client, Detail::All);
    context.checks.in_parallel(context.client, || lookup.plan_on(root))
}

/// The images of a tree as `build --push` would treat them.
pub struct TreePlan {
    /// The root, or why it is unknown.
    pub root: Result<RootImage, String>,
    pub base: PlannedImage,
    pub app: PlannedImage,
    /// The app's key, where its base is known.
    pub app_key: Option<AppKey>,
}

/// Plans a tree without building it. Registries that do not answer leave its images unknown.
///
/// # Errors
/// Everything that a build would refuse, too: another image under our tag, an invalid pinned base.
pub fn plan_tree(global: &Global, sources: &Sources<'_>) -> Result<TreePlan, Fault> {
    let tree = sources.tree;
    let client = single_try_client(tree);
    let context = Context::new(tree, Request::question(global, tree, Target::App), &client);
    let lookup = Lookup::new(&context, sources, &client, Detail::Decisions);
    let pinned = sources.pins.base.map(|digest| tree.repository(ImageKind::Base).digest(digest));
    let unknown = |base: Option<Reference>, why: String, presence: Presence| {
        let image = |reference| PlannedImage { reference, presence: presence.clone(), decision: None };
        TreePlan { root: Err(why), base: image(base), app: image(None), app_key: None }
    };
    if let (Some(base), true) = (&pinned, global.offline) {
        return Ok(unknown(Some(base.clone()), "the base is pinned".to_owned(), Presence::NotAsked));
    }
    let Planned { plan, facts, root } = match lookup.plan() {
        Ok(planned) => planned,
        Err(fault) if matches!(fault.exit, Exit::Drift | Exit::Interrupted) => return Err(fault),
        // A build would refuse what `--locked` refuses.
        Err(fault) if global.locked && fault.exit == Exit::Usage => return Err(fault),
        Err(fault) if pinned.is_some() => match fault.exit {
            Exit::Network => {
                return Ok(unknown(pinned, "the base is pinned".to_owned(), Presence::Unknown(one_line(&fault))));
            }
            _ => return Err(fault),
        },
        Err(fault) => {
            let why = one_line(&fault);
            let presence = if global.offline { Presence::NotAsked } else { Presence::Unknown(why.clone()) };
            return Ok(unknown(None, why, presence));
        }
    };
    let root = if pinned.is_some() { Err("the base is pinned".to_owned()) } else { Ok(root) };
    let app_key = facts.base.as_ref().map(|base| sources.app_key(&base.fingerprint));
    let image = |name: Option<Reference>, facts: Option<ImageFacts>, plan: Option<ImagePlan>| {
        let facts = facts.expect("both images are planned");
        let known = !matches!(facts.presence, Presence::NotAsked | Presence::Unknown(_));
        let decision = plan.map(|plan| plan.decision).filter(|_| known);
        PlannedImage { reference: Some(name.unwrap_or_else(|| facts.reference())), presence: facts.presence, decision }
    };
    let base = image(pinned, facts.base, plan.base);
    Ok(TreePlan { root, base, app: image(None, facts.app, plan.app), app_key })
}

/// The fingerprint of the base that this tree's requirements ask for, whether another one is pinned or not.
pub fn base_fingerprint(global: &Global, tree: &Tree, client: &Client) -> Result<Fingerprint, Fault> {
    let sources = Sources::read_all(tree).map_err(super::Unreadable::fault)?;
    let context = Context::new(tree, Request::question(global, tree, Target::Base), client);
    let lookup = Lookup::new(&context, &sources, client, Detail::Decisions);
    let planned = lookup.plan_on_a_root()?;
    Ok(planned.facts.base.expect("a base is planned").fingerprint)
}

impl<'a> Lookup<'a> {
    pub(super) fn new(context: &'a Context<'a>, sources: &'a Sources<'a>, client: &'a Client, detail: Detail) -> Self {
        Self { context, sources, client, detail, differences: RefCell::default(), unbuilt_root: Cell::new(false) }
    }

    pub(super) fn tree(&self) -> &Tree {
        self.sources.tree
    }

    pub(super) fn request(&self) -> &Request {
        &self.context.request
    }

    fn target(&self) -> Target {
        self.request().wanted.target
    }

    fn plan(&self) -> Result<Planned, Fault> {
        match (self.sources.pins.base, self.target()) {
            (Some(digest), Target::Base | Target::App | Target::Fast) => self.plan_on_pinned_base(digest),
            (Some(_), Target::Enhanced) | (None, _) => self.plan_on_a_root(),
        }
    }

    /// Plans on the root that is wanted; where something would be built on one that cannot be reached, on the fallback. Where the
    /// fallback does not exist the first plan stays: something is built on either.
    fn plan_on_a_root(&self) -> Result<Planned, Fault> {
        let root = self.root()?;
        let planned = self.plan_on_whole(&root)?;
        let base = planned.facts.base.as_ref();
        let unknown = self.detail == Detail::Decisions
            && base.is_some_and(|base| matches!(base.presence, Presence::NotAsked | Presence::Unknown(_)));
        if planned.plan.builds_on_root()
            && self.target() != Target::Fast
            && !unknown
            && self.root_is_unreachable(&root)?
            && let Some(fallback) = self.debian_root()?
        {
            return self.plan_on_whole(&fallback);
        }
        Ok(planned)
    }

    /// Plans on a root, of which every part is in the registry if something is built on it.
    fn plan_on_whole(&self, root: &RootImage) -> Result<Planned, Fault> {
        let planned = self.plan_on(root)?;
        if planned.plan.builds_on_root()
            && let Some(whole) = self.republished_root(root)?
        {
            return self.plan_on(&whole);
        }
        Ok(planned)
    }

    pub(super) fn plan_on(&self, root: &RootImage) -> Result<Planned, Fault> {
        self.unbuilt_root.set(is_unbuilt(root));
        let base_key = self.sources.base_key(root);
        let (base, app) = match self.target() {
            Target::Enhanced => (None, Some(self.enhanced(base_key, root)?)),
            Target::Base => (Some(self.base(&base_key)?), None),
            Target::App | Target::Fast => {
                let base = self.base(&base_key)?;
                let app = self.app(&base)?;
                (Some(base), Some(app))
            }
        };
        let (name, unbuilt_root) = (root.name.clone(), is_unbuilt(root));
        self.decide(Facts { commit: self.commit(), root: name, unbuilt_root, pinned: false, base, app }, root.clone())
    }

    /// Plans where `images.lock` pins the base: the app is built on it, whatever the requirements say.
    pub(super) fn plan_on_pinned_base(&self, digest: Digest) -> Result<Planned, Fault> {
        let request = self.request();
        let unpin = "build from the requirements again: `cargo xtask base pin --remove`";
        if self.target() == Target::Base {
            return Err(Fault::usage("the base is pinned, and another one would not be used")
                .cause(format!("`images.lock` pins `{digest}`"))
                .hint(unpin));
        }
        if request.offline {
            return Err(
                Fault::usage("a pinned base cannot be used with `--offline`: it is in the registry").hint(unpin)
            );
        }
        let found = pinned_base(self.tree(), self.client, digest, &request.wanted.platforms)?;
        if self.detail == Detail::All {
            terminal::step("pinned", &format!("the base is `{digest}`, whatever the requirements say (`images.lock`)"));
        }
        let fingerprint = found.fingerprint().expect("a pinned base has one");
        let key = found.key().unwrap_or_default().to_owned();
        let repository = self.tree().repository(ImageKind::Base);
        // Nothing is built on a root.
        let place = RootPlace::Registry(repository.clone());
        let name = serde_json::from_str::<BaseKey>(&key).map_or_else(|_| "none".to_owned(), |key| key.root.image);
        let tag = fingerprint.tag(self.tree().policy.base.tag_length);
        let base = ImageFacts::new(ImageKind::Base, repository, fingerprint, tag, key);
        let base = ImageFacts { presence: Presence::Registry(Box::new(found)), ..base };
        let app = self.app(&base)?;
        let facts = Facts {
            commit: self.commit(),
            root: name.clone(),
            unbuilt_root: false,
            pinned: true,
            base: Some(base),
            app: Some(app),
        };
        self.decide(facts, RootImage { name, digests: BTreeMap::new(), place })
    }

    fn decide(&self, facts: Facts, root: RootImage) -> Result<Planned, Fault> {
        let (policy, wanted) = (&self.tree().policy, &self.request().wanted);
        let plan = plan::plan(policy, wanted, &facts);
        plan.check_base(policy, wanted, &facts)?;
        Ok(Planned { plan, facts, root })
    }

    fn commit(&self) -> Result<xtask_model::image::commit::Commit, &'static str> {
        self.tree().commit.clone().ok_or_else(|| Git::at(&self.tree().root).absence())
    }

    fn base(&self, key: &BaseKey) -> Result<ImageFacts, Fault> {
        self.image(ImageKind::Base, key, &|old, names| (base_changes(old, key, names), None))
    }

    fn app(&self, base: &ImageFacts) -> Result<ImageFacts, Fault> {
        let mut key = self.sources.app_key(&base.fingerprint);
        if let (Detail::Decisions, Presence::NotAsked | Presence::Unknown(_)) = (self.detail, &base.presence) {
            // The registry would not answer for the app either.
            return self.image_with(ImageKind::App, &key, base.presence.clone());
        }
        let (fingerprint, ..) = facts::tagged(self.tree(), &key);
        if let Some(program) = &mut key.binary {
            program.incremental = self.incremental(&fingerprint)?;
        }
        let mut app = self.image(ImageKind::App, &key, &|old: &AppKey, names| {
            (app_changes(old, &key, names), EditKind::between(old, &key))
        })?;
        app.differences.extend(base.differences.iter().cloned());
        plan::sort(&mut app.differences);
        app.binary = key.binary;
        if matches!(base.presence, Presence::Registry(_) | Presence::Local(_)) {
            match self.built_on(&app) {
                Ok(built_on) => app.built_on = built_on,
                Err(fault) => app.presence = self.unsatisfied(ImageKind::App, fault)?,
            }
        }
        Ok(app)
    }

    /// Crates of the program that are compiled incrementally: for an image that stays on this machine, from sources that no commit has.
    /// `--push` compiles such sources like those of a commit.
    fn incremental(&self, app: &Fingerprint) -> Result<BTreeSet<String>, Fault> {
        let tree = self.tree();
        let Some(binary) =
            tree.policy.app.binary.as_ref().filter(|_| !self.request().wanted.push && tree.commit.is_some())
        else {
            return Ok(BTreeSet::new());
        };
        let differences = self.differences(ImageKind::App, app)?;
        let changed: Vec<&Path> =
            differences.iter().filter(|found| found.program).map(|found| Path::new(&found.path)).collect();
        if changed.is_empty() {
            return Ok(BTreeSet::new());
        }
        binary::compiled_again(&*tree.files, binary, changed.into_iter())
    }

    fn enhanced(&self, base: BaseKey, root: &RootImage) -> Result<ImageFacts, Fault> {
        let rust_image = order::rust_image(self.context, root)?;
        let compiler = order::compiler_name(self.context, rust_image.as_ref());
        let key = facts::enhanced_key(self.tree(), base, self.sources.parsed(ImageKind::Enhanced), compiler)?;
        let mut image = self.image_with(ImageKind::Enhanced, &key, Presence::NotAsked)?;
        if image.tag != plan::unknown_tag() {
            image.tag = Tag::from_name(&format!("enhanced-{}", image.tag)).expect("a prefix keeps a tag a tag");
        }
        image.presence = self.presence(ImageKind::Enhanced, &image.fingerprint, &image.tag)?;
        Ok(ImageFacts { rust_image, ..image })
    }

    /// An image of the base's or the app's repository; `changes` compares an earlier key.
    fn image<K: Key + serde::de::DeserializeOwned>(
        &self,
        kind: ImageKind,
        key: &K,
        changes: &dyn Fn(&K, &FileNames<'_>) -> Differs,
    ) -> Result<ImageFacts, Fault> {
        let mut image = self.image_with(kind, key, Presence::NotAsked)?;
        image.presence = self.presence(kind, &image.fingerprint, &image.tag)?;
        if self.detail == Detail::All {
            if self.request().wanted.push {
                let repository = self.tree().repository(kind);
                image.latest = publish::read(self.client, &repository, Tag::latest())?.present();
            }
            if image.latest.is_some() {
                image.since = "since `latest`";
            }
            if let Some(old) = self.earlier_key(kind, image.latest.as_ref()) {
                let names = self.tree().names(self.sources.parsed(kind));
                (image.changes, image.edited) = changes(&old, &names);
            }
        }
        Ok(image)
    }

    /// An image of this presence, compared with the commit.
    fn image_with<K: Key>(&self, kind: ImageKind, key: &K, presence: Presence) -> Result<ImageFacts, Fault> {
        let (fingerprint, tag, json) = facts::tagged(self.tree(), key);
        let tag = if self.unbuilt_root.get() { plan::unknown_tag() } else { tag };
        let differences = self.differences(kind, &fingerprint)?;
        let since = "since the last build on this machine";
        let facts = ImageFacts::new(kind, self.tree().repository(kind), fingerprint, tag, json);
        Ok(ImageFacts { presence, since, differences, ..facts })
    }

    fn differences(&self, kind: ImageKind, fingerprint: &Fingerprint) -> Result<Vec<InputDifference>, Fault> {
        if self.detail == Detail::Decisions {
            return Ok(Vec::new());
        }
        if let Some(known) = self.differences.borrow().get(&kind) {
            return Ok(known.clone());
        }
        let found = claims::compare(self.context, kind, self.sources.parsed(kind), fingerprint)?;
        Ok(self.differences.borrow_mut().entry(kind).or_insert(found).clone())
    }

    /// The key of an earlier image: `latest`'s in the registry, otherwise the last one that was built here.
    fn earlier_key<K: serde::de::DeserializeOwned>(&self, kind: ImageKind, latest: Option<&Published>) -> Option<K> {
        let json = match latest {
            Some(published) => published.key()?.to_owned(),
            None if self.request().wanted.push => return None,
            None => std::fs::read_to_string(key_file(self.tree(), kind)).ok()?,
        };
        // A key of another schema, or a broken file, explains nothing; it decides nothing either.
        serde_json::from_str(&json).ok()
    }

    /// Presence of an image: on this machine for a build that stays here, in the registry otherwise.
    fn presence(&self, kind: ImageKind, fingerprint: &Fingerprint, tag: &Tag) -> Result<Presence, Fault> {
        let Request { wanted, offline, .. } = self.request();
        if self.unbuilt_root.get() || self.detail == Detail::Decisions && *offline {
            return Ok(Presence::NotAsked);
        }
        if !wanted.push {
            let mine = &wanted.platforms[0];
            let local = match (kind, self.context.local_docker()?) {
                (ImageKind::App | ImageKind::Enhanced, Some(docker)) => {
                    facts::local_store(docker, &self.tree().repository(kind).tag(tag), fingerprint, mine)?
                }
                (ImageKind::Base, _) | (_, None) => facts::in_layout(self.tree(), kind, fingerprint, tag, mine)?,
            };
            if let Some(local) = local {
                return Ok(Presence::Local(local));
            }
            // The app has to be in the local store; a base may be used where it is.
            if kind != ImageKind::Base || *offline {
                return Ok(Presence::Absent);
            }
        }
        // A build that stays on this machine does not wait for a registry that does not answer.
        let (single_try, unshared) = (single_try_client(self.tree()), Checks::default());
        let (client, checks) = if wanted.push { (self.client, &self.context.checks) } else { (&single_try, &unshared) };
        self.in_registry(client, checks, kind, fingerprint, tag).or_else(|fault| self.unsatisfied(kind, fault))
    }

    /// Presence of an image in the registry, under its own tag.
    fn in_registry(
        &self,
        client: &Client,
        checks: &Checks,
        kind: ImageKind,
        fingerprint: &Fingerprint,
        tag: &Tag,
    ) -> Result<Presence, Fault> {
        let repository = self.tree().repository(kind);
        let Answer::Present(mut found) = publish::read(client, &repository, tag.clone())? else {
            return Ok(Presence::Absent);
        };
        publish::check_owner(&found, fingerprint, &repository.tag(tag))?;
        checks.check(client, &repository, &mut found)?;
        if self.request().wanted.push && steps::signs(&self.tree().policy, kind) {
            unsigned(client, &repository, &mut found)?;
        }
        Ok(Presence::Registry(Box::new(found)))
    }

    /// Presence of an image for which the registry did not answer, where that is not an error.
    fn unsatisfied(&self, kind: ImageKind, fault: Fault) -> Result<Presence, Fault> {
        // Another image under our tag is not a failure of the registry.
        if matches!(fault.exit, Exit::Drift | Exit::Interrupted) {
            return Err(fault);
        }
        if self.detail == Detail::Decisions {
            return Ok(Presence::Unknown(one_line(&fault)));
        }
        if self.request().wanted.push || self.request().locked {
            return Err(fault.hint("registries are not contacted with `--offline`"));
        }
        let cause = fault.causes.last().cloned().unwrap_or(fault.what);
        let registry = self.tree().repository(kind).registry().to_owned();
        terminal::warn(&format!(
            "cannot ask `{registry}` for the {} ({cause}): only images on this machine are used",
            self.tree().policy.shown(kind)
        ));
        Ok(Presence::Unknown(cause))
    }

    /// The bases that an app was built on, by platform.
    fn built_on(&self, app: &ImageFacts) -> Result<BTreeMap<Platform, Digest>, Fault> {
        let mut found = BTreeMap::new();
        match &app.presence {
            Presence::Registry(published) => {
                for (platform, manifest) in &published.platforms {
                    let base = publish::base_digest(self.client, &app.repository, manifest)?;
                    found.extend(base.map(|base| (platform.clone(), base)));
                }
            }
            Presence::Local(local) => {
                let base: Option<Digest> = local.labels.get(annotation::BASE_DIGEST).and_then(|d| d.parse().ok());
                let platforms = self.request().wanted.platforms.iter();
                found.extend(base.into_iter().flat_map(|base| platforms.clone().map(move |p| (p.clone(), base))));
            }
            Presence::NotAsked | Presence::Unknown(_) | Presence::Absent => {}
        }
        Ok(found)
    }
}

/// The file that remembers the key of the image that was built last on this machine.
pub fn key_file(tree: &Tree, kind: ImageKind) -> PathBuf {
    tree.about(kind, "key.json")
}

/// The base that `images.lock` pins: present, whole, built by this program, and complete for the platforms.
pub fn pinned_base(tree: &Tree, client: &Client, digest: Digest, platforms: &[Platform]) -> Result<Published, Fault> {
    let reference = tree.repository(ImageKind::Base).digest(digest);
    let again = "pin another, or none: `cargo xtask base pin`, `cargo xtask base pin --remove`";
    let needed = |fault: Fault| fault.needed_by("`[base]` of `images.lock`").hint(again);
    let Answer::Present(mut found) = publish::read(client, &reference.repository, digest)? else {
        return Err(needed(Fault::usage(format!("the pinned base `{reference}` is not in the registry"))));
    };
    if found.fingerprint().is_none() {
        let what = format!("the pinned base `{reference}` was not built by xtask: it has no fingerprint");
        return Err(needed(Fault::usage(what)));
    }
    publish::completeness::check(&mut found, client, &reference.repository)?;
    if let Some(lost) = found.lost_reason(platforms) {
        return Err(needed(Fault::usage(format!("the pinned base `{reference}` is not whole")).cause(lost)));
    }
    match found.missing(platforms).as_slice() {
        [] => Ok(found),
        missing => {
            let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
            Err(needed(Fault::usage(format!("the pinned base `{reference}` lacks {}", names.join(", ")))))
        }
    }
}

/// Takes platforms without a signature out of an image. A build without the key may have published it, and a build that signs vouches only for
/// what it built.
fn unsigned(client: &Client, repository: &Repository, found: &mut Published) -> Result<(), Fault> {
    for (platform, manifest) in std::mem::take(&mut found.platforms) {
        match client.head(repository, attach::tag_of(&manifest.digest, Some("sig")))? {
            Answer::Present(_) => drop(found.platforms.insert(platform, manifest)),
            Answer::Absent => drop(found.lost.insert(platform, UNSIGNED.to_owned())),
        }
    }
    Ok(())
}
