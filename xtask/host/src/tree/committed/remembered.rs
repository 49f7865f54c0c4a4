//! Inputs that a commit gives an image, remembered between commands. An edit then costs a comparison of digests, and no git.
//!
//! A commit does not change, so what it selects does not either. Anything that digests alone cannot decide is left to the
//! comparison with git's objects.

use super::{Compared, EDITED, files};
use crate::tree::facts::{self, Parsed, Tree};
use crate::tree::git::Git;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextEntry, ObjectId};
use xtask_model::image::key::BinaryKey;
use xtask_model::image::policy::{self, ImageKind};
use xtask_model::spec::lock;
use xtask_model::spec::reference::Digest;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RememberedInputs {
    commit: String,
    /// The program that selected them: another build of it may select others.
    program: String,
    settings: SettingsDigests,
    dockerfile: String,
    meaning: Vec<String>,
    files: Vec<ContextEntry>,
    /// Pointer files of Git LFS among them.
    pub(super) pointers: BTreeSet<ObjectId>,
    /// The ids of such pointers, each with that of the contents which were here.
    pub(super) contents: BTreeMap<ObjectId, ObjectId>,
    binary: Option<BinaryKey>,
}

/// Digests of the files that count by their meaning; none where there is no such file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SettingsDigests {
    policy: Option<Digest>,
    pins: Option<Digest>,
    /// Not of an app, to which it does not matter.
    lock: Option<Digest>,
}

impl SettingsDigests {
    fn of(tree: &Tree, kind: ImageKind) -> Result<Self, Fault> {
        let digest = |path: &Path| Ok::<_, Fault>(tree.files.read(path)?.map(|bytes| Digest::of(&bytes)));
        Ok(Self {
            policy: digest(Path::new(policy::FILE))?,
            pins: digest(Path::new(lock::images::PATH))?,
            lock: if kind == ImageKind::App { None } else { digest(tree.policy.base.lock.as_ref())? },
        })
    }
}

impl RememberedInputs {
    /// The inputs of an image in the commit whose tree and Dockerfile these are.
    pub(super) fn of(commit: &str, theirs: &Tree, kind: ImageKind, committed: &Parsed) -> Result<Self, Fault> {
        let binary = if kind == ImageKind::Base { None } else { facts::binary_key(theirs, committed)? };
        Ok(Self {
            commit: commit.to_owned(),
            program: program(),
            settings: SettingsDigests::of(theirs, kind)?,
            dockerfile: committed.path.to_string(),
            meaning: committed.meaning.clone(),
            files: committed.files.clone(),
            pointers: BTreeSet::new(),
            contents: BTreeMap::new(),
            binary,
        })
    }

    /// Reads what was written of this commit by this program.
    pub(super) fn read(path: &Path, commit: &str) -> Option<Self> {
        let known: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (known.commit == commit && known.program == program()).then_some(known)
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), Fault> {
        let text = serde_json::to_string(self).expect("texts, numbers and lists");
        crate::file::write(path, &text).map(drop)
    }

    /// Compares an image with the commit. Returns nothing where that takes git's objects.
    pub(super) fn compare(&self, tree: &Tree, kind: ImageKind, parsed: &Parsed) -> Result<Option<Compared>, Fault> {
        if self.settings != SettingsDigests::of(tree, kind)?
            || (kind != ImageKind::Base && self.binary != facts::binary_key(tree, parsed)?)
        {
            return Ok(None);
        }
        if !super::unequal_folders(&self.files, &parsed.files).is_empty() {
            return Ok(None);
        }
        let mut found = Vec::new();
        if self.dockerfile != parsed.path.as_str() || self.meaning != parsed.meaning {
            found.push(super::InputDifference::new(&parsed.path, EDITED));
        }
        let unsure = Cell::new(false);
        files(&Git::at(&tree.root), &self.files, &parsed.files, &mut found, &|path, (committed, here)| {
            let contents = committed.and_then(|id| self.contents.get(&id));
            if contents.is_some() && contents == here.as_ref() {
                return Ok(None);
            }
            unsure.set(unsure.get() || committed.is_some_and(|id| self.pointers.contains(&id)));
            // Ends of lines are compared with the commit's contents.
            let file = tree.files.read(path.to_path())?.unwrap_or_default();
            unsure.set(unsure.get() || file.contains(&b'\r'));
            Ok(Some(EDITED))
        })?;
        let is_pointer = |entry: &&ContextEntry| entry.id.is_some_and(|id| self.pointers.contains(&id));
        let pointers = parsed.files.iter().filter(is_pointer).map(|entry| entry.path.clone()).collect();
        Ok((!unsure.get()).then(|| Compared::new(found, pointers)))
    }
}

fn program() -> String {
    let own = std::env::current_exe().and_then(std::fs::metadata);
    let own = own.map(|own| format!("{} {}.{:09}", own.size(), own.mtime(), own.mtime_nsec())).unwrap_or_default();
    format!("{} {own}", env!("CARGO_PKG_VERSION"))
}
