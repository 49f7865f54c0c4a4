//! The inputs of a tree's images: its files, its lock and its pins, read once. Reads files and git objects; contacts no registry.

use crate::flags::Global;
use std::collections::BTreeMap;
use std::path::Path;
use xtask_host::tree::binary;
use xtask_host::tree::facts::{self, Parsed, RootImage, RootPlace, Tree};
use xtask_host::tree::git::Revision;
use xtask_host::tree::inputs::projects;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::change::{FALLBACK_ROOT, Inputs, PINNED_BASE};
use xtask_model::image::context::FileKind;
use xtask_model::image::key::{AppKey, BaseKey, BinaryKey, Fingerprint};
use xtask_model::image::plan::Target;
use xtask_model::image::policy::{DebianRoot, ImageKind};
use xtask_model::spec::lock::images::{RootPin, SystemPin};
use xtask_model::spec::lock::{self, ImagesLock, Lock};
use xtask_model::spec::reference::Digest;

/// One tree with all inputs of its images.
pub struct Sources<'t> {
    pub tree: &'t Tree,
    /// The pins of this tree's root and base.
    pub pins: ImagesLock,
    /// Not read for a build on a pinned base.
    lock: Option<Lock>,
    /// Pins of Debian packages on the root, where the lock is read.
    system: Option<SystemPin>,
    /// The base's Dockerfile with the files that it reads. Not read for an image from scratch, which is on no base and is built where
    /// this Dockerfile is broken.
    base: Option<Parsed>,
    /// Not read where the base alone is built.
    pub app: Option<AppSources>,
}

/// The inputs of the app.
pub struct AppSources {
    pub kind: ImageKind,
    /// Its Dockerfile with the files that it reads.
    pub parsed: Parsed,
    /// Its key without a base.
    own: AppKey,
}

/// The reason why the inputs of a tree cannot be read.
pub enum Unreadable {
    /// The tree is invalid.
    Tree(Fault),
    /// The base's Dockerfile is invalid; the one that builds from scratch is valid.
    Base(Fault),
}

impl Unreadable {
    /// The fault, for callers that treat both alike.
    pub fn fault(self) -> Fault {
        match self {
            Self::Tree(fault) | Self::Base(fault) => fault,
        }
    }
}

impl From<Fault> for Unreadable {
    fn from(fault: Fault) -> Self {
        Self::Tree(fault)
    }
}

impl AppSources {
    fn read(tree: &Tree, kind: ImageKind) -> Result<Self, Fault> {
        projects::check(&*tree.files, &tree.policy).map_err(|fault| Fault { exit: Exit::Usage, ..fault })?;
        let parsed = facts::parse(tree, kind, &tree.policy.app.args)?;
        let own = AppKey { base: None, ..facts::app_key(tree, any_fingerprint(), &parsed)? };
        Ok(Self { kind, parsed, own })
    }

    /// Recipe of the program in the app.
    pub fn binary(&self) -> Option<&BinaryKey> {
        self.own.binary.as_ref()
    }
}

impl<'t> Sources<'t> {
    /// Reads what a build needs.
    pub fn read(tree: &'t Tree, target: Target) -> Result<Self, Fault> {
        let pins = pins(tree)?;
        let lock = match (pins.base, target) {
            (Some(_), Target::Base | Target::App | Target::Fast) => None,
            (Some(_), Target::Enhanced) | (None, _) => Some(facts::lock(tree)?),
        };
        let system = match &lock {
            Some(_) => facts::system_pin(tree, &pins)?.cloned(),
            None => None,
        };
        let base = match target {
            Target::Enhanced => None,
            Target::Base | Target::App | Target::Fast => {
                Some(facts::parse(tree, ImageKind::Base, &tree.policy.base.args)?)
            }
        };
        let app = match target {
            Target::Base => None,
            Target::App | Target::Fast => Some(AppSources::read(tree, ImageKind::App)?),
            Target::Enhanced => Some(AppSources::read(tree, ImageKind::Enhanced)?),
        };
        Ok(Self { tree, pins, lock, system, base, app })
    }

    /// Reads what a comparison needs: everything but the image from scratch.
    pub fn read_all(tree: &'t Tree) -> Result<Self, Unreadable> {
        let pins = pins(tree)?;
        let lock = match pins.base {
            None => facts::lock(tree)?,
            // Builds use a pinned base whatever the requirements say, and so does a plan.
            Some(_) => facts::lock(tree).or_else(|_| facts::unchecked_lock(tree))?,
        };
        pinned_root(tree, &pins)?;
        let system = match pins.base {
            None => facts::system_pin(tree, &pins)?.cloned(),
            Some(_) => facts::system_pin(tree, &pins).ok().flatten().cloned(),
        };
        let base = match facts::parse(tree, ImageKind::Base, &tree.policy.base.args) {
            Ok(base) => base,
            Err(fault) if tree.policy.app.enhanced.is_some() => {
                facts::parse(tree, ImageKind::Enhanced, &tree.policy.app.args)?;
                return Err(Unreadable::Base(fault));
            }
            Err(fault) => return Err(fault.into()),
        };
        let app = Some(AppSources::read(tree, ImageKind::App)?);
        Ok(Self { tree, pins, lock: Some(lock), system, base: Some(base), app })
    }

    /// The inputs of an image's Dockerfile.
    pub(super) fn parsed(&self, kind: ImageKind) -> &Parsed {
        match kind {
            ImageKind::Base => self.base(),
            ImageKind::App | ImageKind::Enhanced => &self.app().parsed,
        }
    }

    /// The base's inputs, in a tree that was read with them.
    pub fn base(&self) -> &Parsed {
        self.base.as_ref().expect("the base was read")
    }

    /// The app's inputs, in a tree that was read with them.
    pub fn app(&self) -> &AppSources {
        self.app.as_ref().expect("the app was read")
    }

    /// The inputs as `change` compares them. A root that is not pinned is the same for both trees at one time, and counts by the
    /// policy's text.
    pub fn inputs(&self) -> Inputs {
        let policy = &self.tree.policy;
        let digests = match &self.pins.root {
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
        // Where the pinned root cannot be reached, the fallback is built on.
        if let Some(DebianRoot { suite, python, packages }) = &policy.root.fallback {
            settings.insert(FALLBACK_ROOT, format!("{suite} with Python {python} [{}]", packages.join(" ")));
        }
        if let Some(base) = self.pins.base {
            settings.insert(PINNED_BASE, base.to_string());
        }
        let app = self.app().own.clone();
        Inputs { base: self.base_key(&root), app, pinned: self.pins.root.is_some(), settings }
    }

    /// True for a file that an image is made of: one that a Dockerfile copies, or a source of the program.
    ///
    /// # Errors
    /// The program's sources cannot be listed.
    pub fn are_made_of(&self, paths: &[&str]) -> Result<Vec<bool>, Fault> {
        let app = &self.app().parsed;
        let program = facts::binary_sources(self.tree, app)?.unwrap_or_default();
        let copies = |parsed: &Parsed, path: &str| {
            parsed.files.iter().chain(&parsed.meant).any(|entry| {
                let entry_path = entry.path.to_string();
                let below = || path.strip_prefix(&*entry_path).is_some_and(|rest| rest.starts_with('/'));
                entry_path == path || (entry.kind == FileKind::Tree && (entry_path.is_empty() || below()))
            })
        };
        let is_made_of =
            |path: &&str| [self.base(), app].iter().any(|of| copies(of, path)) || program.contains_key(Path::new(path));
        Ok(paths.iter().map(is_made_of).collect())
    }

    /// The base's key on a root.
    ///
    /// # Panics
    /// In a tree that was read for a build on a pinned base.
    pub fn base_key(&self, root: &RootImage) -> BaseKey {
        let lock = self.lock.as_ref().expect("the lock was read");
        facts::base_key(self.tree, root, (lock, &self.pins, self.system.as_ref()), self.base.as_ref())
    }

    /// The app's key on a base.
    pub fn app_key(&self, base: &Fingerprint) -> AppKey {
        AppKey { base: Some(base.to_string()), ..self.app().own.clone() }
    }

    /// Sources of the program that changed since an older tree of this revision, for [`xtask_model::image::key::FileNames`]. Empty where
    /// the program is the same.
    pub fn sources_since(&self, old: &Sources<'_>, revision: &str) -> String {
        let digest = |sources: &Sources<'_>| sources.app().own.binary.as_ref().map(|binary| binary.sources);
        if digest(self) == digest(old) {
            return String::new();
        }
        let read = |of: &Sources<'_>| facts::binary_sources(of.tree, &of.app().parsed).ok().flatten();
        let (Some(before), Some(now)) = (read(old), read(self)) else { return String::new() };
        format!("changed since {}: {}", &revision[..12.min(revision.len())], binary::changed(&before, &now))
    }

    /// The same since a published app was built, where its revision is in this clone and is what it was built from.
    pub fn sources_since_published(&self, global: &Global, published: &AppKey, revision: &str) -> String {
        let (Some(before), Some(now)) = (&published.binary, &self.app().own.binary) else { return String::new() };
        if before.sources == now.sources {
            return String::new();
        }
        let short = &revision[..12.min(revision.len())];
        let revision = revision.trim_end_matches("-dirty");
        let tree = Revision::open(&self.tree.root, revision, global.offline)
            .and_then(|revision| global.tree_of(Box::new(revision)));
        let old =
            tree.as_ref().map_err(Fault::clone).and_then(|tree| Sources::read_all(tree).map_err(Unreadable::fault));
        match old {
            Ok(old) if old.app().own.binary.as_ref().is_some_and(|binary| binary.sources == before.sources) => {
                self.sources_since(&old, revision)
            }
            Ok(_) => format!("(which ones is unknown: it was built from more than commit {short})"),
            Err(fault) => format!("(which ones is unknown: {})", one_line(&fault)),
        }
    }
}

/// Pins of `images.lock`, with this tree's base as the base.
fn pins(tree: &Tree) -> Result<ImagesLock, Fault> {
    let lock = facts::images_lock(tree)?;
    Ok(ImagesLock { base: lock.pinned(tree.policy.base.name.as_deref()), ..lock })
}

/// The root that `images.lock` pins, which has to be the policy's.
pub(super) fn pinned_root<'p>(tree: &Tree, pins: &'p ImagesLock) -> Result<Option<&'p RootPin>, Fault> {
    let wanted = &tree.policy.root.image;
    match &pins.root {
        Some(pin) if pin.image != *wanted => {
            let what = format!("`{}` pins `{}`, the policy wants `{wanted}`", lock::images::PATH, pin.image);
            Err(Fault::usage(what).hint("pin it again: `cargo xtask lock`"))
        }
        pin => Ok(pin.as_ref()),
    }
}

/// A fault in one line, as part of a reason.
pub fn one_line(fault: &Fault) -> String {
    let text = fault.causes.last().map_or_else(|| fault.what.clone(), |cause| format!("{} ({cause})", fault.what));
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn any_fingerprint() -> Fingerprint {
    "0".repeat(64).parse().expect("64 hex digits")
}
