//! Builds images: facts, then the plan, then its execution, step by step as the plan says.
//!
//! The only place that turns decisions into effects. Tags are written last, and only by `publish`.

use crate::docker::{Build, Docker, Output};
use crate::facts::{self, Local, Parsed, RootImage, RootPlace, Standing, Tree};
use crate::fault::{Exit, Fault};
use crate::flags::{BuildFlags, Global};
use crate::git::{Ancestry, Git};
use crate::key::{FINGERPRINT_LABEL, Fingerprint, KEY_LABEL, Key};
use crate::layout::Layout;
use crate::plan::{self, Decision, ImagePlan, Latest, LatestFacts, Place, Wish};
use crate::policy::{After, ImageKind};
use crate::publish::{self, CREATED, Publication, REVISION};
use crate::reference::{Digest, Platform, Reference, Repository, Tag};
use crate::registry::{Answer, Client, Options};
use crate::report::{self, ImageReport, Report};
use crate::secrets::Secrets;
use crate::{binary, debian, process, root, steps, ui};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The base.
    Base,
    /// The base where it has to be, then the app.
    App,
    /// The app on a base that has to exist.
    Fast,
    /// The app from scratch.
    Enhanced,
}

/// A key as JSON longer than this goes into the index's annotation only: one argument of a program has a limit.
const LABEL_LIMIT: usize = 64 << 10;

/// Builds, publishes if asked to, and reports. With `dry_run` says what would be done instead, and returns no images.
pub fn run(global: &Global, flags: &BuildFlags, target: Target) -> Result<Report, Fault> {
    let session = Session::open(global, flags)?;
    let images = match session.plan(target, None) {
        // A root that was pinned or named cannot be reached now that something has to be built on it.
        Ok(planned) if planned.needs_root() && session.root_is_out_of_reach(&planned.root)? => {
            session.execute(session.plan(target, Some(session.debian_root()?))?)?
        }
        Ok(planned) => session.execute(planned)?,
        Err(fault) => return Err(fault),
    };
    Ok(Report { images, seconds: session.began.elapsed().as_secs_f64() })
}

struct Session<'a> {
    tree: Tree,
    global: &'a Global,
    flags: &'a BuildFlags,
    wish: Wish,
    client: Client,
    docker: OnceCell<Docker>,
    began: Instant,
    /// Held while images of this machine are looked at and built.
    _lock: Option<File>,
}

/// The whole plan, with what execution needs beside it.
struct Planned {
    root: RootImage,
    base: Option<Image>,
    app: Option<Image>,
}

impl Planned {
    fn needs_root(&self) -> bool {
        let builds = |image: &Image| matches!(image.plan.decision, Decision::Build { .. });
        let from_root = |image: &&Image| image.plan.kind != ImageKind::App;
        self.base.iter().chain(&self.app).filter(from_root).any(builds)
    }
}

/// One image of the plan.
struct Image {
    plan: ImagePlan,
    parsed: Parsed,
    key: String,
    local: Option<Local>,
    size: Option<u64>,
}

/// A base as `FROM` names it.
struct BaseImage {
    repository: Repository,
    digests: BTreeMap<Platform, Digest>,
    layouts: BTreeMap<Platform, PathBuf>,
}

impl<'a> Session<'a> {
    fn open(global: &'a Global, flags: &'a BuildFlags) -> Result<Self, Fault> {
        let began = Instant::now();
        if flags.push && global.offline {
            return Err(Fault::usage("`--push` publishes to a registry, and `--offline` asks none"));
        }
        let tree = Tree::open(global)?;
        let platforms = match (flags.platform.as_slice(), flags.push) {
            ([], true) => tree.policy.project.platforms.clone(),
            ([], false) => vec![Platform::host()],
            (named, _) => named.to_vec(),
        };
        if let Some(foreign) = platforms.iter().find(|platform| !tree.policy.project.platforms.contains(platform)) {
            return Err(Fault::usage(format!("`{foreign}` is not among the policy's platforms"))
                .hint("add it to `[project] platforms` in `images.toml`"));
        }
        if !flags.push && platforms.len() > 1 {
            return Err(Fault::usage("the local store holds one platform of an image")
                .hint("name one with `--platform`, or publish them together with `--push`"));
        }
        let wish = Wish { push: flags.push, platforms, force: flags.force, no_latest: flags.no_latest };
        let client = tree.client();
        let lock = if flags.push || flags.dry_run { None } else { Some(lock_folder(&tree.images())?) };
        Ok(Self { tree, global, flags, wish, client, docker: OnceCell::new(), began, _lock: lock })
    }

    fn docker(&self) -> Result<&Docker, Fault> {
        if let Some(docker) = self.docker.get() {
            return Ok(docker);
        }
        let docker = Docker::find(&self.tree.root)?;
        let docker = match &self.flags.builder {
            Some(name) => docker.reaching(name)?,
            None => docker,
        };
        Ok(self.docker.get_or_init(|| docker))
    }

    // --- facts ---

    fn root_image(&self) -> Result<RootImage, Fault> {
        let wanted = &self.tree.policy.root.image;
        let pinned = facts::images_lock(&self.tree)?;
        if let Some(lock) = pinned {
            if lock.root != *wanted {
                return Err(Fault::usage(format!("`images.lock` pins `{}`, the policy wants `{wanted}`", lock.root))
                    .hint("pin it anew: `cargo xtask lock`"));
            }
            let place = RootPlace::Registry(wanted.repository.clone());
            return Ok(RootImage { name: wanted.to_string(), digests: lock.platforms, place });
        }
        if self.global.locked {
            return Err(Fault::usage(format!("the root `{wanted}` is not pinned"))
                .needed_by("`--locked`")
                .hint("pin its digests: `cargo xtask lock`"));
        }
        let found =
            if self.global.offline { Ok(None) } else { resolve_root(&self.tree, &self.tree.policy.project.platforms) };
        match found {
            Ok(Some(digests)) => {
                ui::warn(&format!(
                    "the root `{wanted}` is not pinned: taking its digests of now (`cargo xtask lock` pins them)"
                ));
                let place = RootPlace::Registry(wanted.repository.clone());
                Ok(RootImage { name: wanted.to_string(), digests, place })
            }
            Ok(None) => self.debian_root(),
            Err(fault) if fault.exit == Exit::Network && self.tree.policy.root.fallback.is_some() => {
                let cause = fault.causes.last().map(|cause| format!(" ({cause})")).unwrap_or_default();
                ui::step(
                    "fallback",
                    &format!("`{wanted}` cannot be reached{cause}: the root is built from Debian's packages"),
                );
                self.debian_root()
            }
            Err(fault) => Err(fault.needed_by("the root of the base image")),
        }
    }

    /// Whether a root of a registry, known by digest, cannot be had, and there is a fallback.
    fn root_is_out_of_reach(&self, image: &RootImage) -> Result<bool, Fault> {
        let RootPlace::Registry(repository) = &image.place else { return Ok(false) };
        if self.tree.policy.root.fallback.is_none() || self.global.locked || image.name.starts_with("debian:") {
            return Ok(false);
        }
        let Some(digest) = image.digests.values().next() else { return Ok(true) };
        match impatient(&self.tree).head(repository, *digest) {
            Ok(_) => Ok(false),
            Err(fault) if fault.exit == Exit::Network => {
                ui::step(
                    "fallback",
                    &format!("`{}` cannot be reached: the root is built from Debian's packages", image.name),
                );
                Ok(true)
            }
            Err(fault) => Err(fault),
        }
    }

    /// The root from Debian's packages: the registry's where it is published, else this machine's, else a new one.
    fn debian_root(&self) -> Result<RootImage, Fault> {
        let wanted = &self.tree.policy.root;
        let Some(debian) = wanted.fallback.as_ref().filter(|_| !self.global.locked) else {
            return Err(Fault::usage(format!("the root `{}` is not at hand", wanted.image))
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
        let name = format!("debian:{}", debian.suite);
        let repository = self.tree.registry.repository(&format!("{}-root", self.tree.policy.project.name));
        let tag = Tag::from_name(&format!("{}-{}", &recipe.fingerprint().hex()[..12], platform.dashed()))
            .expect("hex digits and a platform are a tag");
        if self.wish.push && !self.wish.force {
            if let Answer::Present(found) = self.client.head(&repository, tag.clone())? {
                let digests = BTreeMap::from([(platform, found.digest)]);
                return Ok(RootImage { name, digests, place: RootPlace::Registry(repository) });
            }
        }
        let folder = self.tree.images().join("root");
        let layout = Layout::open_or_create(&folder)?;
        let found = if self.wish.force { None } else { root::find(&recipe, &layout, &platform)? };
        let digest = match found {
            Some(root) => root.digest,
            None if self.flags.dry_run => {
                return Err(Fault::usage("the root has to be built before anything can be planned on it")
                    .cause(format!("`{name}` is not on this machine yet"))
                    .hint("run this once without `--dry-run`"));
            }
            None => root::build(&recipe, &self.tree.root.join("target/root"), &layout, &platform)?.digest,
        };
        let digests = BTreeMap::from([(platform.clone(), digest)]);
        if self.wish.push && !self.flags.dry_run {
            let Some(descriptor) = layout.get(&recipe.ref_name(&platform))? else {
                return Err(Fault::build(format!("the root is not in `{}`", folder.display())));
            };
            publish::send(&self.client, &layout, &descriptor, &repository, &tag)?;
            return Ok(RootImage { name, digests, place: RootPlace::Registry(repository) });
        }
        Ok(RootImage { name, digests, place: RootPlace::Layout(folder) })
    }

    /// What of an image is there already.
    fn standing(&self, kind: ImageKind, fingerprint: &Fingerprint, tag: &Tag) -> Result<Standing, Fault> {
        let repository = self.tree.repository(kind);
        let reference = repository.tag(tag);
        let mine = &self.wish.platforms[0];
        if !self.wish.push {
            let local = match kind {
                ImageKind::Base => facts::local_base(&self.tree, fingerprint, tag, mine)?,
                ImageKind::App | ImageKind::Enhanced => {
                    facts::local_store(self.docker()?, &reference, fingerprint, mine)?
                }
            };
            if let Some(local) = local {
                return Ok(Standing::Local(local));
            }
            // The app has to come into the local store; a base may be used where it is.
            if kind != ImageKind::Base || self.global.offline {
                return Ok(Standing::Absent);
            }
        }
        match publish::read(&self.client, &repository, tag.clone()) {
            Ok(Answer::Present(found)) => {
                publish::check_owner(&found, fingerprint, &reference)?;
                Ok(Standing::Registry(Box::new(found)))
            }
            Ok(Answer::Absent) => Ok(Standing::Absent),
            Err(fault) if self.wish.push || self.global.locked => Err(fault.hint("`--offline` asks no registry")),
            Err(fault) => {
                let cause = fault.causes.last().cloned().unwrap_or(fault.what);
                ui::warn(&format!(
                    "cannot ask `{}` for the {kind} ({cause}): only this machine counts",
                    repository.registry()
                ));
                Ok(Standing::Absent)
            }
        }
    }

    /// What `latest` names, where it matters.
    fn latest(&self, kind: ImageKind) -> Result<Option<publish::Published>, Fault> {
        if !self.wish.push {
            return Ok(None);
        }
        Ok(publish::read(&self.client, &self.tree.repository(kind), Tag::latest())?.present())
    }

    fn is_newer(&self, published: &publish::Published) -> Result<bool, Fault> {
        let (Some(commit), Some(revision)) = (&self.tree.commit, published.revision()) else { return Ok(false) };
        if revision == commit.id {
            return Ok(false);
        }
        match Git::at(&self.tree.root).ancestry(&commit.id, revision)? {
            Ancestry::Ancestor => Ok(true),
            Ancestry::NotAncestor => Ok(false),
            // A shallow clone does not know the other commit: the later of both is the newer.
            Ancestry::Unknown => Ok(published.notes.get(CREATED).is_some_and(|created| *created > commit.created())),
        }
    }

    // --- plan ---

    fn plan(&self, target: Target, root: Option<RootImage>) -> Result<Planned, Fault> {
        let lock = facts::lock(&self.tree)?;
        let root = match root {
            Some(root) => root,
            None => self.root_image()?,
        };
        let base_parsed = facts::parse(&self.tree, ImageKind::Base, &self.tree.policy.base.args)?;
        let base_key = facts::base_key(&self.tree, &root, &lock, &base_parsed);
        let (fingerprint, tag) = facts::tagged(&self.tree, &base_key);
        if target == Target::Enhanced {
            let parsed = facts::parse(&self.tree, ImageKind::Enhanced, &self.tree.policy.app.args)?;
            let key = facts::enhanced_key(&self.tree, base_key, &parsed)?;
            let (fingerprint, tag) = facts::tagged(&self.tree, &key);
            let tag = Tag::from_name(&format!("enhanced-{tag}")).expect("a prefix keeps a tag a tag");
            let standing = self.standing(ImageKind::Enhanced, &fingerprint, &tag)?;
            let decision = plan::decide(&self.wish, &standing, &[]);
            let latest = Latest::Stays("an image from scratch is the fallback".to_owned());
            let image =
                self.image(ImageKind::Enhanced, fingerprint, tag, decision, &standing, latest, parsed, key.json());
            return Ok(Planned { root, base: None, app: Some(image) });
        }
        let standing = self.standing(ImageKind::Base, &fingerprint, &tag)?;
        let published = self.latest(ImageKind::Base)?;
        let old: Option<crate::key::BaseKey> = self.last_key(ImageKind::Base, published.as_ref());
        let changes = old
            .map(|old| crate::key::base_changes(&old, &base_key, &self.tree.names(&base_parsed)))
            .unwrap_or_default();
        let wish = if target == Target::Fast { Wish { force: false, ..self.wish.clone() } } else { self.wish.clone() };
        let decision = plan::decide(&wish, &standing, &changes);
        if let (Target::Fast, Decision::Build { .. }) = (target, &decision) {
            let reference = self.tree.repository(ImageKind::Base).tag(&tag);
            return Err(plan::missing_base(
                &reference,
                self.wish.push,
                self.tree.policy.app.dockerfile.as_str(),
                &changes,
            ));
        }
        let latest = self.decide_latest(&standing, &decision, published.as_ref())?;
        let base =
            self.image(ImageKind::Base, fingerprint, tag, decision, &standing, latest, base_parsed, base_key.json());
        let app = match target {
            Target::App | Target::Fast => Some(self.plan_app(fingerprint, &base)?),
            Target::Base | Target::Enhanced => None,
        };
        Ok(Planned { root, base: Some(base), app })
    }

    fn plan_app(&self, base_fingerprint: Fingerprint, base: &Image) -> Result<Image, Fault> {
        let parsed = facts::parse(&self.tree, ImageKind::App, &self.tree.policy.app.args)?;
        let key = facts::app_key(&self.tree, base_fingerprint, &parsed)?;
        let (fingerprint, tag) = facts::tagged(&self.tree, &key);
        let standing = self.standing(ImageKind::App, &fingerprint, &tag)?;
        let published = self.latest(ImageKind::App)?;
        let old: Option<crate::key::AppKey> = self.last_key(ImageKind::App, published.as_ref());
        let changes = old.map(|old| crate::key::app_changes(&old, &key, &self.tree.names(&parsed))).unwrap_or_default();
        let mut decision = plan::decide(&self.wish, &standing, &changes);
        if let Decision::Reuse { platforms, .. } = &decision {
            // Equal keys name equal bases by fingerprint; the base itself may have been built anew since.
            let stale = match &base.plan.decision {
                Decision::Build { .. } => Some("its base is built".to_owned()),
                Decision::Reuse { platforms: bases, .. } => self.stale(&standing, platforms, bases)?,
            };
            if let Some(reason) = stale {
                decision = Decision::Build { platforms: self.wish.platforms.clone(), reasons: vec![reason] };
            }
        }
        let latest = self.decide_latest(&standing, &decision, published.as_ref())?;
        Ok(self.image(ImageKind::App, fingerprint, tag, decision, &standing, latest, parsed, key.json()))
    }

    /// Why an app of the right key is not on the base that is there now.
    fn stale(
        &self,
        standing: &Standing,
        platforms: &BTreeMap<Platform, Digest>,
        bases: &BTreeMap<Platform, Digest>,
    ) -> Result<Option<String>, Fault> {
        for platform in platforms.keys() {
            let stands_on = match standing {
                Standing::Registry(published) => publish::base_digest(
                    &self.client,
                    &self.tree.repository(ImageKind::App),
                    &published.platforms[platform],
                )?,
                Standing::Local(local) => {
                    local.labels.get(crate::oci::annotation::BASE_DIGEST).and_then(|d| d.parse().ok())
                }
                Standing::Absent => None,
            };
            if let Some(base) = bases.get(platform).filter(|base| stands_on != Some(**base)) {
                return Ok(Some(format!("it stands on another build of its base than {base}")));
            }
        }
        Ok(None)
    }

    fn decide_latest(
        &self,
        standing: &Standing,
        decision: &Decision,
        published: Option<&publish::Published>,
    ) -> Result<Latest, Fault> {
        let mut platforms = match standing {
            Standing::Registry(published) => published.platforms.keys().cloned().collect(),
            Standing::Local(_) | Standing::Absent => Vec::new(),
        };
        if let Decision::Build { platforms: built, .. } = decision {
            platforms.extend(built.iter().cloned());
        }
        let published_is_newer = match published {
            Some(published) => self.is_newer(published)?,
            None => false,
        };
        let facts = LatestFacts { commit: self.tree.commit.as_ref(), published_is_newer, platforms: &platforms };
        Ok(plan::latest(&self.tree.policy, &self.wish, &facts))
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
        let tags = match kind {
            ImageKind::App => plan::app_tags(self.tree.commit.as_ref()),
            ImageKind::Base | ImageKind::Enhanced => Vec::new(),
        };
        let plan = ImagePlan { kind, repository: self.tree.repository(kind), fingerprint, tag, decision, tags, latest };
        let local = match standing {
            Standing::Local(local) => Some(local.clone()),
            Standing::Registry(_) | Standing::Absent => None,
        };
        let size = local.as_ref().and_then(|local| local.size);
        Image { plan, parsed, key, local, size }
    }

    /// The key of the image that was there before: `latest`'s in the registry, the last one built here otherwise.
    fn last_key<K: serde::de::DeserializeOwned>(
        &self,
        kind: ImageKind,
        published: Option<&publish::Published>,
    ) -> Option<K> {
        let json = match published {
            Some(published) => published.key()?.to_owned(),
            None if self.wish.push => return None,
            None => std::fs::read_to_string(self.key_file(kind)).ok()?,
        };
        // A key of another schema, or a broken file, explains nothing; it decides nothing either.
        serde_json::from_str(&json).ok()
    }

    fn key_file(&self, kind: ImageKind) -> PathBuf {
        self.tree.images().join(format!("{kind}.key.json"))
    }

    // --- execution ---

    fn execute(&self, planned: Planned) -> Result<Vec<ImageReport>, Fault> {
        for image in planned.base.iter().chain(&planned.app) {
            report::announce(&image.plan);
        }
        let planning = self.began.elapsed();
        let mut reports = Vec::new();
        let mut base_image = None;
        for image in planned.base.into_iter().chain(planned.app) {
            let mut done = self.realise(image, &planned.root, base_image.as_ref())?;
            if reports.is_empty() {
                done.report.seconds.insert(0, ("plan".to_owned(), planning.as_secs_f64()));
            }
            base_image = Some(done.base);
            reports.push(done.report);
        }
        if self.flags.dry_run {
            reports.clear();
        }
        Ok(reports)
    }

    fn realise(&self, image: Image, root: &RootImage, base: Option<&BaseImage>) -> Result<Done, Fault> {
        match image.plan.decision.clone() {
            Decision::Reuse { digest, platforms, place } => self.reuse(&image, digest, platforms, place),
            Decision::Build { platforms, reasons } => self.build(image, &platforms, reasons, root, base),
        }
    }

    fn reuse(
        &self,
        image: &Image,
        digest: Digest,
        platforms: BTreeMap<Platform, Digest>,
        place: Place,
    ) -> Result<Done, Fault> {
        let plan = &image.plan;
        let mut tags = vec![plan.tag.clone()];
        if !self.flags.dry_run {
            let began = Instant::now();
            match place {
                Place::Registry if self.wish.push => tags.extend(self.put_tags(plan, digest)?),
                Place::Registry => {}
                Place::Local => tags.extend(self.tag_local(plan, image.local.as_ref())?),
            }
            if began.elapsed() > Duration::from_millis(500) {
                ui::step("tagged", &format!("in {}", ui::seconds(began.elapsed())));
            }
        }
        let layouts = match (&image.local, self.wish.platforms.as_slice()) {
            (Some(Local { layout: Some(layout), .. }), [platform]) => {
                BTreeMap::from([(platform.clone(), layout.clone())])
            }
            _ => BTreeMap::new(),
        };
        let base = BaseImage { repository: plan.repository.clone(), digests: platforms.clone(), layouts };
        let report = ImageReport {
            kind: plan.kind,
            reference: plan.repository.digest(digest),
            digest,
            platforms,
            fingerprint: plan.fingerprint.to_string(),
            tags,
            latest_stays: report::stays(&plan.latest),
            action: "reused",
            reasons: Vec::new(),
            size: image.size,
            steps: None,
            seconds: Vec::new(),
        };
        Ok(Done { base, report })
    }

    fn build(
        &self,
        image: Image,
        platforms: &[Platform],
        reasons: Vec<String>,
        root: &RootImage,
        base: Option<&BaseImage>,
    ) -> Result<Done, Fault> {
        let plan = &image.plan;
        let docker = self.docker()?;
        let mut secrets = Secrets::collect()?;
        if let Some(suite) = root.name.strip_prefix("debian:") {
            // Asking the host's apt takes a moment: only for a Dockerfile that wants to know.
            if image.parsed.meaning.iter().any(|instruction| instruction.contains("id=apt-sources")) {
                secrets.add("apt-sources", &debian::Source::of_host()?.deb822(suite))?;
            }
        }
        let mut report = ImageReport {
            kind: plan.kind,
            reference: plan.repository.digest(Digest::of(b"")),
            digest: Digest::of(b""),
            platforms: BTreeMap::new(),
            fingerprint: plan.fingerprint.to_string(),
            tags: vec![plan.tag.clone()],
            latest_stays: report::stays(&plan.latest),
            action: "built",
            reasons,
            size: None,
            steps: None,
            seconds: Vec::new(),
        };
        let mut layouts = BTreeMap::new();
        for platform in platforms {
            let call = self.call(&image, platform, root, base, &secrets)?;
            if self.flags.dry_run {
                // On stdout: it is what was asked for.
                anstream::println!("{}", docker.shown(&docker.build_command(&call, Path::new("metadata.json"))));
                report.platforms.insert(platform.clone(), unknown_digest());
                continue;
            }
            if let (ImageKind::App, Some(binary)) = (plan.kind, &self.tree.policy.app.binary) {
                report.took("compile", binary::compile(&self.tree.root, binary, platform)?);
            }
            let layout = self.prepare_layout(&call)?;
            let built = docker.build(&call, &format!("{} for {platform}", plan.kind))?;
            report.took("build", built.took);
            report.steps = Some([built.steps.all, built.steps.cached]);
            report.platforms.insert(platform.clone(), built.digest);
            if let Some((partial, folder)) = layout {
                keep_layout(&partial, &folder)?;
                report.size =
                    facts::local_base(&self.tree, &plan.fingerprint, &plan.tag, platform)?.and_then(|l| l.size);
                layouts.insert(platform.clone(), folder);
            }
            if self.wish.push {
                report.size = Some(self.pushed_size(plan, built.digest)?);
            }
            self.run_steps(After::Build, plan, platform, built.digest, &mut report)?;
        }
        if !self.flags.dry_run {
            self.finish(&image, platforms, &mut report)?;
        }
        let base = BaseImage { repository: plan.repository.clone(), digests: report.platforms.clone(), layouts };
        Ok(Done { base, report })
    }

    /// Publishes what was built, or names it in the local store, and remembers its key.
    fn finish(&self, image: &Image, platforms: &[Platform], report: &mut ImageReport) -> Result<(), Fault> {
        let plan = &image.plan;
        process::interrupted()?;
        if self.wish.push {
            let began = Instant::now();
            let publication = Publication {
                repository: &plan.repository,
                fingerprint: plan.fingerprint,
                tag: plan.tag.clone(),
                built: report.platforms.clone(),
                notes: publish::notes(&plan.fingerprint, image.key.clone(), &self.labels(plan.kind)),
                replace: self.wish.force,
            };
            let outcome = publish::publish(&self.client, &publication)?;
            if outcome.adopted.len() == platforms.len() {
                ui::step(
                    "adopted",
                    &format!("another job published `{}` first: its image is taken", plan.repository.tag(&plan.tag)),
                );
                report.action = "adopted";
            }
            report.digest = outcome.published.digest;
            report.platforms = outcome.published.platforms.iter().map(|(p, found)| (p.clone(), found.digest)).collect();
            report.tags.extend(self.put_tags(plan, report.digest)?);
            report.took("publish", began.elapsed());
            for platform in platforms {
                self.run_steps(After::Push, plan, platform, report.platforms[platform], report)?;
            }
        } else {
            report.digest = report.platforms[&platforms[0]];
            report.tags.extend(self.local_tags(plan));
        }
        report.reference = plan.repository.digest(report.digest);
        let file = self.key_file(plan.kind);
        crate::lock::file::write(&file, &image.key).map(drop)
    }

    fn run_steps(
        &self,
        when: After,
        plan: &ImagePlan,
        platform: &Platform,
        digest: Digest,
        report: &mut ImageReport,
    ) -> Result<(), Fault> {
        let reference = plan.repository.digest(digest);
        let version = self.tree.version();
        let subject = steps::Subject {
            kind: plan.kind,
            reference: &reference,
            digest,
            platform,
            size: report.size,
            version: version.as_deref(),
        };
        let times = steps::run(&self.tree.policy, &self.tree.root, when, self.docker()?, &subject)?;
        times.into_iter().for_each(|(name, took)| report.took(name, took));
        Ok(())
    }

    fn pushed_size(&self, plan: &ImagePlan, digest: Digest) -> Result<u64, Fault> {
        match publish::read(&self.client, &plan.repository, digest)? {
            Answer::Present(found) => {
                let first = found.platforms.values().next();
                first.map_or(Ok(0), |descriptor| publish::size(&self.client, &plan.repository, descriptor))
            }
            Answer::Absent => {
                Err(Fault::network(format!("`{}` was pushed and is not there", plan.repository.digest(digest))))
            }
        }
    }

    /// The tags beside the fingerprint's in the registry, `latest` last; those that stand already are left alone.
    fn put_tags(&self, plan: &ImagePlan, digest: Digest) -> Result<Vec<Tag>, Fault> {
        let mut tags = plan.tags.clone();
        if plan.latest == Latest::Moves {
            tags.push(Tag::latest());
        }
        for tag in &tags {
            process::interrupted()?;
            publish::tag(&self.client, &plan.repository, digest, tag)?;
        }
        Ok(tags)
    }

    fn local_tags(&self, plan: &ImagePlan) -> Vec<Tag> {
        let latest = (plan.latest == Latest::Moves).then(Tag::latest);
        plan.tags.iter().cloned().chain(latest).collect()
    }

    /// Gives an app of the local store the names of this commit, as a new build would have.
    fn tag_local(&self, plan: &ImagePlan, local: Option<&Local>) -> Result<Vec<Tag>, Fault> {
        let tags = self.local_tags(plan);
        if local.is_some_and(|local| local.layout.is_some()) {
            return Ok(tags);
        }
        let docker = self.docker()?;
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

    /// The folder into which a base's layout is written, and the one where it belongs once it is whole.
    fn prepare_layout(&self, call: &Build) -> Result<Option<(PathBuf, PathBuf)>, Fault> {
        for output in &call.outputs {
            if let Output::Layout(partial) = output {
                let final_folder = partial.with_extension("");
                remove_folder(partial)?;
                std::fs::create_dir_all(partial).map_err(|error| cannot_write(partial, error))?;
                return Ok(Some((partial.clone(), final_folder)));
            }
        }
        Ok(None)
    }

    /// The call that builds an image for a platform.
    fn call(
        &self,
        image: &Image,
        platform: &Platform,
        root: &RootImage,
        base: Option<&BaseImage>,
        secrets: &Secrets,
    ) -> Result<Build, Fault> {
        let plan = &image.plan;
        let policy = &self.tree.policy;
        let mut labels = self.labels(plan.kind);
        labels.insert(FINGERPRINT_LABEL.to_owned(), plan.fingerprint.to_string());
        if image.key.len() <= LABEL_LIMIT {
            labels.insert(KEY_LABEL.to_owned(), image.key.clone());
        }
        let mut args = match plan.kind {
            ImageKind::Base => policy.base.args.clone(),
            ImageKind::App | ImageKind::Enhanced => policy.app.args.clone(),
        };
        let mut contexts = BTreeMap::new();
        match (plan.kind, base) {
            (ImageKind::App, Some(base)) => {
                let digest = *base.digests.get(platform).ok_or_else(|| {
                    Fault::usage(format!("the base is not built for {platform}"))
                        .hint(format!("build it: `cargo xtask build-base --push --platform {platform}`"))
                })?;
                let from = base.repository.digest(digest);
                if let Some(layout) = base.layouts.get(platform) {
                    contexts.insert(from.to_string(), in_layout(layout, digest));
                }
                publish::base_labels(&mut labels, &base.repository.to_string(), &digest);
                args.insert("BASE_IMAGE".to_owned(), from.to_string());
                if let Some(binary) = &policy.app.binary {
                    args.insert("BINARY".to_owned(), binary::staged(platform, binary).to_string());
                }
            }
            _ => {
                let from = self.from_root(root, platform, &mut contexts)?;
                publish::base_labels(&mut labels, &root.name, &root.digests[platform]);
                args.insert("ROOT_IMAGE".to_owned(), from.to_string());
                if plan.kind == ImageKind::Enhanced {
                    args.insert("RUST_IMAGE".to_owned(), self.rust_image(root, &from)?);
                }
            }
        }
        let name = |tag: &Tag| plan.repository.tag(tag).to_string();
        let (names, outputs) = if self.wish.push {
            (vec![name(&publish::platform_tag(&plan.tag, platform))], vec![Output::Push])
        } else {
            let names = std::iter::once(name(&plan.tag)).chain(self.local_tags(plan).iter().map(name)).collect();
            let mut outputs = vec![Output::Store];
            if plan.kind == ImageKind::Base {
                let folder = facts::local_layout(&self.tree, plan.kind, &plan.tag, platform);
                outputs.push(Output::Layout(folder.with_extension("partial")));
            }
            (names, outputs)
        };
        let is_base = plan.kind != ImageKind::App;
        Ok(Build {
            context: self.tree.root.clone(),
            dockerfile: image.parsed.path.clone(),
            platform: platform.clone(),
            args,
            inherited_args: if is_base { Secrets::proxies() } else { Vec::new() },
            contexts,
            labels,
            secrets: if is_base { secrets.files().clone() } else { BTreeMap::new() },
            names,
            outputs,
            compression: policy.base.compression,
            source_date_epoch: self.tree.commit.as_ref().map(|commit| commit.time),
            builder: self.flags.builder.clone(),
            network: is_base,
            no_cache: self.wish.force,
        })
    }

    fn from_root(
        &self,
        root: &RootImage,
        platform: &Platform,
        contexts: &mut BTreeMap<String, String>,
    ) -> Result<Reference, Fault> {
        let digest = *root.digests.get(platform).ok_or_else(|| {
            Fault::usage(format!("the root `{}` is not pinned for {platform}", root.name))
                .hint("pin it: `cargo xtask lock`")
        })?;
        match &root.place {
            RootPlace::Registry(repository) => Ok(repository.digest(digest)),
            RootPlace::Layout(folder) => {
                let from =
                    self.tree.registry.repository(&format!("{}-root", self.tree.policy.project.name)).digest(digest);
                contexts.insert(from.to_string(), in_layout(folder, digest));
                Ok(from)
            }
        }
    }

    /// The image that has cargo: the policy's, or the root itself, on which the Dockerfile installs Debian's.
    fn rust_image(&self, root: &RootImage, from: &Reference) -> Result<String, Fault> {
        let wanted = self.tree.policy.app.binary.as_ref().and_then(|binary| binary.rust_image.as_ref());
        match wanted {
            Some(image) if !root.name.starts_with("debian:") => {
                let tag = image.tag.clone().unwrap_or_else(Tag::latest);
                match impatient(&self.tree).head(&image.repository, tag) {
                    Ok(Answer::Present(found)) => Ok(image.repository.digest(found.digest).to_string()),
                    Ok(Answer::Absent) => {
                        Err(Fault::usage(format!("`{image}` does not exist"))
                            .hint("correct `rust-image` in `images.toml`"))
                    }
                    Err(fault) => Err(fault.needed_by("the enhanced image's compiler")),
                }
            }
            _ => Ok(from.to_string()),
        }
    }

    /// The labels that the image specification names.
    fn labels(&self, kind: ImageKind) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        let mut add = |name: &str, value: String| drop(labels.insert(name.to_owned(), value));
        let name = self.tree.repository(kind).path().rsplit('/').next().unwrap_or_default().to_owned();
        add("org.opencontainers.image.title", name);
        if let Some(source) = &self.tree.policy.project.source {
            add("org.opencontainers.image.source", source.clone());
        }
        if let Some(commit) = &self.tree.commit {
            let dirty = if commit.dirty { "-dirty" } else { "" };
            add(REVISION, format!("{}{dirty}", commit.id));
            add(CREATED, commit.created());
        }
        if kind != ImageKind::Base {
            let tagged = self
                .tree
                .commit
                .as_ref()
                .filter(|commit| !commit.dirty)
                .and_then(|commit| commit.versions.last().cloned());
            if let Some(version) = tagged.or_else(|| self.tree.version()) {
                add("org.opencontainers.image.version", version);
            }
        }
        labels
    }
}

struct Done {
    base: BaseImage,
    report: ImageReport,
}

/// The recipe of the policy's Debian root.
pub fn debian_recipe(debian: &crate::policy::DebianRoot) -> root::Recipe {
    let mut recipe =
        root::Recipe { suite: debian.suite.clone(), python: debian.python.clone(), ..root::Recipe::default() };
    recipe.packages.extend(debian.packages.iter().cloned());
    recipe.packages.sort();
    recipe.packages.dedup();
    recipe
}

/// A client that asks once and does not wait: for registries without which there is another way.
fn impatient(tree: &Tree) -> Client {
    let plain_http = tree.policy.project.insecure_registries.iter().cloned().collect();
    Client::new(Options { plain_http, tries: 1, connect_timeout: Duration::from_secs(3), ..Options::from_env() })
}

/// The digests of the root's tag now, for each platform; `None` where the registry has no such image.
pub fn resolve_root(tree: &Tree, platforms: &[Platform]) -> Result<Option<BTreeMap<Platform, Digest>>, Fault> {
    let image = &tree.policy.root.image;
    let tag = image.tag.clone().unwrap_or_else(Tag::latest);
    let Answer::Present(found) = publish::read(&impatient(tree), &image.repository, tag)? else {
        return Err(
            Fault::usage(format!("the root `{image}` does not exist")).hint("correct `[root] image` in `images.toml`")
        );
    };
    let missing = found.missing(platforms);
    if let Some(platform) = missing.first() {
        return Err(Fault::usage(format!("the root `{image}` is not there for {platform}")));
    }
    let digests = platforms.iter().map(|platform| (platform.clone(), found.platforms[platform].digest)).collect();
    Ok(Some(digests))
}

/// Stands for the digest of an image that a dry run does not build.
fn unknown_digest() -> Digest {
    Digest::from_bytes([0; 32])
}

fn in_layout(folder: &Path, digest: Digest) -> String {
    format!("oci-layout://{}@{digest}", folder.display())
}

/// A name as docker prints it: without the registry that it takes for granted.
fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

fn cannot_write(path: &Path, error: impl std::fmt::Display) -> Fault {
    Fault::build(format!("cannot write `{}`", path.display())).cause(error)
}

/// Waits until no other build works in this folder: two would write one layout. The later finds what the earlier built.
fn lock_folder(folder: &Path) -> Result<File, Fault> {
    let path = folder.join("lock");
    std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, error))?;
    let file = File::create(&path).map_err(|error| cannot_write(&path, error))?;
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(cannot_write(&path, error)),
            Err(TryLockError::WouldBlock) => {}
        }
        if !said {
            ui::step("waiting", "another build of this repository is at work");
            said = true;
        }
        process::interrupted()?;
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn remove_folder(folder: &Path) -> Result<(), Fault> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot_write(folder, error)),
        _ => Ok(()),
    }
}

/// Puts a finished layout in its place. What a killed build leaves behind has another name, and is removed by the next.
fn keep_layout(partial: &Path, folder: &Path) -> Result<(), Fault> {
    remove_folder(folder)?;
    std::fs::rename(partial, folder).map_err(|error| cannot_write(folder, error))
}
