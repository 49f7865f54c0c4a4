//! Gathers what a comparison of trees is made of: each tree's inputs, the root under them, what the registry has.
//!
//! Reads files, git objects and the registry; builds and writes nothing. `change` decides from what is found here.

use crate::build;
use crate::change::{Inputs, Presence};
use crate::facts::{self, Parsed, RootImage, RootPlace, Tree};
use crate::fault::{Exit, Fault};
use crate::flags::Global;
use crate::key::{AppKey, BaseKey, Fingerprint, Key};
use crate::layout::Layout;
use crate::lock::{self, ImagesLock, Lock};
use crate::policy::{DebianRoot, ImageKind};
use crate::publish;
use crate::reference::{Digest, Platform, Reference, Tag};
use crate::registry::{Answer, Client};
use crate::root::{self, Root};
use std::collections::BTreeMap;

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
        let lock = facts::lock(&tree)?;
        let pinned = facts::images_lock(&tree)?;
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
            settings.insert("fallback root", format!("{suite} with Python {python} [{}]", packages.join(" ")));
        }
        if let Some(base) = self.pinned.base {
            settings.insert("pinned base", base.to_string());
        }
        let base = facts::base_key(&self.tree, &root, &self.lock, &self.base);
        Inputs { base, app: self.own.clone(), pinned: self.pinned.root.is_some(), settings }
    }

    /// The keys on a root.
    pub fn keys(&self, root: &RootImage) -> (BaseKey, AppKey) {
        let base = facts::base_key(&self.tree, root, &self.lock, &self.base);
        let app = AppKey { base: Some(base.fingerprint().to_string()), ..self.own.clone() };
        (base, app)
    }

    /// The root, as far as it can be known without building it; the reason otherwise.
    pub fn root(&self, global: &Global, client: &Client) -> Result<RootImage, String> {
        let wanted = &self.tree.policy.root;
        let registry = |digests| {
            let place = RootPlace::Registry(wanted.image.repository.clone());
            RootImage { name: wanted.image.to_string(), digests, place }
        };
        if let Some(pin) = &self.pinned.root {
            return Ok(registry(pin.platforms.clone()));
        }
        if !global.offline {
            match build::resolve_root(&self.tree, &self.tree.policy.project.platforms) {
                Ok(digests) => return Ok(registry(digests)),
                Err(fault) if fault.exit == Exit::Network && wanted.fallback.is_some() => {}
                Err(fault) => return Err(said(&fault)),
            }
        }
        let why = || format!("the root `{}` is neither pinned nor at hand", wanted.image);
        let debian = wanted.fallback.as_ref().ok_or_else(why)?;
        let platform = self.platform();
        let name = format!("debian:{}", debian.suite);
        if !global.offline {
            let recipe = build::debian_recipe(debian);
            let repository = self.tree.registry.repository(&format!("{}-root", self.tree.policy.project.name));
            let tag = Tag::from_name(&format!("{}-{}", &recipe.fingerprint().hex()[..12], platform.dashed()));
            let found = tag.map(|tag| client.head(&repository, tag)).transpose();
            if let Ok(Some(Answer::Present(found))) = found {
                let digests = BTreeMap::from([(platform, found.digest)]);
                return Ok(RootImage { name, digests, place: RootPlace::Registry(repository) });
            }
        }
        let root = self.local_root().ok_or_else(why)?;
        let place = RootPlace::Layout(self.tree.images().join("root"));
        Ok(RootImage { name, digests: BTreeMap::from([(platform, root.digest)]), place })
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

    /// The image's name and whether the registry has it, for every platform of the policy.
    pub fn standing(
        &self,
        client: Option<&Client>,
        kind: ImageKind,
        fingerprint: &Fingerprint,
    ) -> Result<(Reference, Presence), Fault> {
        let repository = self.tree.repository(kind);
        let tag = fingerprint.tag(self.tree.policy.base.tag_length);
        let reference = repository.tag(&tag);
        let Some(client) = client else { return Ok((reference, Presence::NotAsked)) };
        let presence = match publish::read(client, &repository, tag) {
            Ok(Answer::Present(found)) => {
                publish::check_owner(&found, fingerprint, &reference)?;
                let missing = found.missing(&self.tree.policy.project.platforms);
                let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
                match names.as_slice() {
                    [] => Presence::Present,
                    names => Presence::Absent(format!("{} is not in the registry's index", names.join(", "))),
                }
            }
            Ok(Answer::Absent) => Presence::Absent(format!("`{reference}` is not in the registry")),
            Err(fault) if fault.exit == Exit::Interrupted => return Err(fault),
            Err(fault) => Presence::Unknown(said(&fault)),
        };
        Ok((reference, presence))
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
