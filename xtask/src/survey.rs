//! Gathers what a comparison of trees is made of: each tree's inputs, the root under them, what the registry has.
//!
//! Reads files, git objects and the registry; builds and writes nothing. `change` decides from what is found here.

use crate::build::{self, Checks, Inquiry};
use crate::flags::Global;
use std::collections::BTreeMap;
use xtask_host::registry::layout::Layout;
use xtask_host::tree::binary;
use xtask_host::tree::facts::{self, Parsed, RootImage, RootPlace, Tree};
use xtask_host::tree::git::Revision;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::change::{FALLBACK_ROOT, Inputs, PINNED_BASE, Presence};
use xtask_model::image::key::{AppKey, BaseKey, Fingerprint, Key};
use xtask_model::image::plan::{self, Decision, Wish};
use xtask_model::image::policy::{DebianRoot, ImageKind};
use xtask_model::image::presence::Standing;
use xtask_model::spec::lock::{self, ImagesLock, Lock};
use xtask_model::spec::reference::{Digest, Platform, Reference};
use xtask_native::root::{self, Root};

/// One tree with everything of it that an image is made of.
pub struct Snapshot {
    /// The tree.
    pub tree: Tree,
    /// The base's Dockerfile with the files that it reads.
    pub base: Parsed,
    /// The app's.
    pub app: Parsed,
    lock: Lock,
    own: AppKey,
    pinned: ImagesLock,
}

/// Why there is no snapshot.
pub enum Untaken {
    /// The tree does not hold.
    Wrong(Fault),
    /// The base's Dockerfile does not hold; the one that builds from scratch does.
    NoBase(Fault),
}

impl Untaken {
    /// The fault, for those to whom both are one.
    pub fn fault(self) -> Fault {
        match self {
            Self::Wrong(fault) | Self::NoBase(fault) => fault,
        }
    }
}

impl From<Fault> for Untaken {
    fn from(fault: Fault) -> Self {
        Self::Wrong(fault)
    }
}

impl Snapshot {
    /// Reads all that counts of a tree.
    pub fn take(tree: Tree) -> Result<Self, Untaken> {
        let pinned = facts::images_lock(&tree)?;
        let lock = match pinned.base {
            None => facts::lock(&tree)?,
            // Builds use a pinned base whatever the requirements say, and so a plan has to.
            Some(_) => facts::lock(&tree).or_else(|_| facts::lock_as_it_is(&tree))?,
        };
        let wanted = &tree.policy.root.image;
        if let Some(pin) = pinned.root.as_ref().filter(|pin| pin.image != *wanted) {
            let what = format!("`{}` pins `{}`, the policy wants `{wanted}`", lock::images::PATH, pin.image);
            return Err(Fault::usage(what).hint("pin it anew: `cargo xtask lock`").into());
        }
        let base = match facts::parse(&tree, ImageKind::Base, &tree.policy.base.args) {
            Ok(base) => base,
            Err(fault) if tree.policy.app.enhanced.is_some() => {
                facts::parse(&tree, ImageKind::Enhanced, &tree.policy.app.args)?;
                return Err(Untaken::NoBase(fault));
            }
            Err(fault) => return Err(fault.into()),
        };
        let app = facts::parse(&tree, ImageKind::App, &tree.policy.app.args)?;
        let own = AppKey { base: None, ..facts::app_key(&tree, any_fingerprint(), &app)? };
        Ok(Self { tree, base, app, lock, own, pinned })
    }

    /// What is compared. A root that is not pinned is the same for both trees at one time, and counts by the policy's text.
    pub fn inputs(&self) -> Inputs {
        let policy = &self.tree.policy;
        let digests = match &self.pinned.root {
            Some(pin) => pin.platforms.clone(),
            None => policy.project.platforms.iter().map(|p| (p.clone(), Digest::of(b"not pinned"))).collect(),
        };
        let place = RootPlace::Registry(policy.root.image.repository.clone());
        let root = RootImage { name: policy.root.image.to_string(), digests, place };
        let platforms: Vec<String> = policy.project.platforms.iter().map(ToString::to_string).collect();
        let mut settings = BTreeMap::from([
            ("platforms", platforms.join(", ")),
            ("base repository", self.tree.repository(ImageKind::Base).to_string()),
            ("app repository", self.tree.repository(ImageKind::App).to_string()),
            ("tag length", policy.base.tag_length.to_string()),
        ]);
        // Where the pinned root cannot be reached, the fallback is built on all the same.
        if let Some(DebianRoot { suite, python, packages }) = &policy.root.fallback {
            settings.insert(FALLBACK_ROOT, format!("{suite} with Python {python} [{}]", packages.join(" ")));
        }
        if let Some(base) = self.pinned.base {
            settings.insert(PINNED_BASE, base.to_string());
        }
        let base = facts::base_key(&self.tree, &root, &self.lock, &self.base);
        Inputs { base, app: self.own.clone(), pinned: self.pinned.root.is_some(), settings }
    }

    /// The keys on a root, as they are where no base is pinned.
    pub fn keys(&self, root: &RootImage) -> (BaseKey, AppKey) {
        let base = facts::base_key(&self.tree, root, &self.lock, &self.base);
        let app = self.app_key(&base.fingerprint());
        (base, app)
    }

    fn app_key(&self, base: &Fingerprint) -> AppKey {
        AppKey { base: Some(base.to_string()), ..self.own.clone() }
    }

    /// Which of the program's sources changed since an older tree of this revision: for [`xtask_model::image::key::Names`]. Empty where the
    /// program is the same, or is told in another way.
    pub fn sources_since(&self, old: &Self, revision: &str) -> String {
        let digest = |snapshot: &Self| snapshot.own.binary.as_ref().map(|binary| binary.sources);
        if digest(self) == digest(old) {
            return String::new();
        }
        let sources = |snapshot: &Self| facts::binary_sources(&snapshot.tree, &snapshot.app).ok().flatten();
        let (Some(before), Some(now)) = (sources(old), sources(self)) else { return String::new() };
        format!("changed since {}: {}", &revision[..12.min(revision.len())], binary::changed(&before, &now))
    }

    /// The same since a published app was built, where its revision is in this clone and is what it was built from.
    pub fn sources_since_published(&self, global: &Global, published: &AppKey, revision: &str) -> String {
        let (Some(before), Some(now)) = (&published.binary, &self.own.binary) else { return String::new() };
        if before.sources == now.sources {
            return String::new();
        }
        let short = &revision[..12.min(revision.len())];
        let revision = revision.trim_end_matches("-dirty");
        let old = Revision::open(&self.tree.root, revision, global.offline)
            .and_then(|revision| global.tree_of(Box::new(revision)))
            .and_then(|tree| Self::take(tree).map_err(Untaken::fault));
        match old {
            Ok(old) if old.own.binary.as_ref().is_some_and(|binary| binary.sources == before.sources) => {
                self.sources_since(&old, revision)
            }
            Ok(_) => format!("(which ones cannot be told: it was built from more than commit {short})"),
            Err(fault) => format!("(which ones cannot be told: {})", said(&fault)),
        }
    }

    /// Whether a build compiles the program: its sources changed, or the older tree's image, whose program would be taken, is missing.
    pub fn compiles_since(&self, old: &Self, global: &Global) -> bool {
        if self.own.binary.is_none() || old.own.binary != self.own.binary {
            return self.own.binary.is_some();
        }
        // Where one machine compiles for the only platform, a wrong guess costs time alone.
        let several = self.tree.policy.project.platforms.len() > 1;
        several && !old.footing(global).is_ok_and(|old| old.app.presence == Presence::Present)
    }

    /// The base that `images.lock` pins.
    pub fn pinned_base(&self) -> Option<Digest> {
        self.pinned.base
    }

    /// On what this tree's images stand, found as `build --push` finds it. Registries that do not answer leave it unknown.
    ///
    /// # Errors
    /// What a build would refuse, too: another image under our tag, a pinned base that cannot be built on.
    pub fn footing(&self, global: &Global) -> Result<Footing, Fault> {
        let client = build::impatient(&self.tree);
        let platforms = self.tree.policy.project.platforms.clone();
        let wish = Wish {
            push: !global.offline,
            platforms,
            force: false,
            no_latest: true,
            no_branch_tag: true,
            untested: true,
            left_to_ci: false,
        };
        let (offline, locked) = (global.offline, global.locked);
        let checks = Checks::default();
        let (tree, client, wish) = (&self.tree, &client, &wish);
        let inquiry = Inquiry { tree, client, wish, offline, locked, fresh_root: false, checks: &checks };
        let found = match self.pinned.base {
            Some(digest) => self.on_pinned_base(&inquiry, digest),
            None if offline => inquiry.root(&|wanted| wanted.at_hand(&self.tree)).map(|root| self.unasked(root)),
            None => inquiry.on_a_root(
                &|wanted| wanted.at_hand(&self.tree),
                |root| self.on_root(&inquiry, root),
                |footing| matches!(footing.base.presence, Presence::Absent(_)),
            ),
        };
        match found {
            // What `--locked` refuses, a build would refuse.
            Err(fault) if global.locked && fault.exit == Exit::Usage => Err(fault),
            Err(fault) if self.pinned.base.is_none() && !matches!(fault.exit, Exit::Drift | Exit::Interrupted) => {
                let why = said(&fault);
                Ok(Footing::unknown(&why, if offline { Presence::NotAsked } else { Presence::Unknown(why.clone()) }))
            }
            found => found,
        }
    }

    /// The names alone.
    fn unasked(&self, root: RootImage) -> Footing {
        let (base, app) = self.keys(&root);
        let named = |kind, fingerprint: Fingerprint| Found {
            reference: Some(self.reference(kind, &fingerprint)),
            presence: Presence::NotAsked,
        };
        Footing {
            base: named(ImageKind::Base, base.fingerprint()),
            app: named(ImageKind::App, app.fingerprint()),
            root: Ok(root),
            app_key: Some(app),
        }
    }

    fn on_root(&self, inquiry: &Inquiry<'_>, root: RootImage) -> Result<Footing, Fault> {
        let (base, app) = self.keys(&root);
        let fingerprint = base.fingerprint();
        let decided = self
            .standing(inquiry, ImageKind::Base, &fingerprint)
            .map(|standing| (plan::decide(inquiry.wish, &standing, &[]), standing));
        let reference = self.reference(ImageKind::Base, &fingerprint);
        let found = match &decided {
            Ok((decision, standing)) => Found::decided(reference, decision, standing, None),
            Err(fault) => Found::failed(reference, fault)?,
        };
        let app_found = self.app_on(inquiry, &app, decided.as_ref().map(|(decision, _)| decision))?;
        Ok(Footing { root: Ok(root), base: found, app: app_found, app_key: Some(app) })
    }

    fn on_pinned_base(&self, inquiry: &Inquiry<'_>, digest: Digest) -> Result<Footing, Fault> {
        let reference = self.tree.repository(ImageKind::Base).digest(digest);
        let unknown = |presence: Presence| {
            let base = Found { reference: Some(reference.clone()), presence: presence.clone() };
            Footing { base, ..Footing::unknown("the base is pinned", presence) }
        };
        if inquiry.offline {
            return Ok(unknown(Presence::NotAsked));
        }
        let found = match build::pinned_base(&self.tree, inquiry.client, digest, &inquiry.wish.platforms) {
            Ok(found) => found,
            Err(fault) if fault.exit == Exit::Network => return Ok(unknown(Presence::Unknown(said(&fault)))),
            Err(fault) => return Err(fault),
        };
        let app = self.app_key(&found.fingerprint().expect("a pinned base has been looked at"));
        let decision = plan::decide(inquiry.wish, &Standing::Registry(Box::new(found)), &[]);
        let app_found = self.app_on(inquiry, &app, Ok(&decision))?;
        let base = Found { reference: Some(reference), presence: Presence::Present };
        let root = Err("the base is pinned".to_owned());
        Ok(Footing { root, base, app: app_found, app_key: Some(app) })
    }

    /// The app, where the decision about its base is known.
    fn app_on(&self, inquiry: &Inquiry<'_>, key: &AppKey, base: Result<&Decision, &Fault>) -> Result<Found, Fault> {
        let fingerprint = key.fingerprint();
        let reference = self.reference(ImageKind::App, &fingerprint);
        let base = match base {
            Ok(base) => base,
            Err(fault) => return Found::failed(reference, fault),
        };
        let decided = self
            .standing(inquiry, ImageKind::App, &fingerprint)
            .and_then(|standing| Ok((inquiry.decide_app(&standing, base, &[])?, standing)));
        match decided {
            Ok(((decision, stale), standing)) => Ok(Found::decided(reference, &decision, &standing, stale)),
            Err(fault) => Found::failed(reference, &fault),
        }
    }

    fn standing(&self, inquiry: &Inquiry<'_>, kind: ImageKind, fingerprint: &Fingerprint) -> Result<Standing, Fault> {
        inquiry.published(kind, fingerprint, &fingerprint.tag(self.tree.policy.base.tag_length))
    }

    fn reference(&self, kind: ImageKind, fingerprint: &Fingerprint) -> Reference {
        self.tree.repository(kind).tag(&fingerprint.tag(self.tree.policy.base.tag_length))
    }

    /// The root from Debian's packages that is on this machine.
    pub fn local_root(&self) -> Option<Root> {
        let folder = self.tree.images().join("root");
        let debian = self.tree.policy.root.fallback.as_ref().filter(|_| folder.join("index.json").is_file())?;
        let layout = Layout::open_or_create(&folder).ok()?;
        root::find(&build::debian_recipe(debian), &layout, &self.platform()).ok()?
    }

    /// The platform of a root that is made here.
    fn platform(&self) -> Platform {
        match self.tree.policy.project.platforms.as_slice() {
            [one] => one.clone(),
            _ => Platform::host(),
        }
    }
}

/// On what a tree's images stand.
pub struct Footing {
    /// The root, or why it is not known.
    pub root: Result<RootImage, String>,
    /// The base.
    pub base: Found,
    /// The app.
    pub app: Found,
    /// The app's key, where its base is known.
    pub app_key: Option<AppKey>,
}

/// One image in the registry.
pub struct Found {
    /// Its name, where its key is known.
    pub reference: Option<Reference>,
    /// Whether it is there.
    pub presence: Presence,
}

impl Footing {
    fn unknown(why: &str, presence: Presence) -> Self {
        let found = || Found { reference: None, presence: presence.clone() };
        Self { root: Err(why.to_owned()), base: found(), app: found(), app_key: None }
    }
}

impl Found {
    /// What a build would do, as an answer to whether the image is there.
    fn decided(reference: Reference, decision: &Decision, standing: &Standing, stale: Option<String>) -> Self {
        let presence = match (decision, standing, stale) {
            (Decision::Reuse { .. }, ..) => Presence::Present,
            (Decision::Build { .. }, _, Some(why)) => Presence::Stale(why),
            (Decision::Build { .. }, Standing::Absent, _) => {
                Presence::Absent(format!("`{reference}` is not in the registry"))
            }
            (Decision::Build { reasons, .. }, ..) => Presence::Absent(reasons.join("; ")),
        };
        Self { reference: Some(reference), presence }
    }

    fn failed(reference: Reference, fault: &Fault) -> Result<Self, Fault> {
        match fault.exit {
            Exit::Drift | Exit::Interrupted => Err(fault.clone()),
            _ => Ok(Self { reference: Some(reference), presence: Presence::Unknown(said(fault)) }),
        }
    }
}

/// A fault in one line, as part of a reason.
pub fn said(fault: &Fault) -> String {
    let text = fault.causes.last().map_or_else(|| fault.what.clone(), |cause| format!("{} ({cause})", fault.what));
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn any_fingerprint() -> Fingerprint {
    "0".repeat(64).parse().expect("64 hex digits")
}
