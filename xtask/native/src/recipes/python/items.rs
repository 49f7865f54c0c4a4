//! Items of distributions, with their byte code.
//!
//! A part depends only on its own distributions: if several parts have a path with different bytes, each has its own version,
//! and the last layer has the version that is used.

use super::distribution::{Distribution, EnvironmentPlace};
use super::shared::Owners;
use crate::layer::item::{Bytes, Content, Item};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use xtask_model::image::context::ContextPath;

pub(super) type Items = BTreeMap<ContextPath, Item>;

/// Finds the byte code of a distribution at a path: only a version that is not used, if the flag is set.
pub(super) type FindCode<'c> = dyn Fn(&str, &str, bool) -> Option<(PathBuf, u64)> + 'c;

pub(super) struct LayerItems<'a> {
    pub(super) place: &'a EnvironmentPlace<'a>,
    pub(super) owners: &'a Owners,
    pub(super) code: &'a FindCode<'a>,
}

impl LayerItems<'_> {
    pub(super) fn distribution(&self, distribution: &Distribution) -> Items {
        let mut out = Items::new();
        for folder in &distribution.folders {
            let path = self.path(folder);
            folders(&mut out, self.place.home, &path.join(b"x"));
        }
        for (path, file) in &distribution.files {
            self.put(&mut out, path, file.executable, file.bytes.clone());
        }
        for path in distribution.files.keys() {
            let unused = self.owners.get(path).is_some_and(|owners| owners.last() != Some(&distribution.name));
            let Some(code) = self.place.byte_code(path) else { continue };
            if let Some((file, size)) = (self.code)(&distribution.name, &code, unused) {
                self.put(&mut out, &code, false, Bytes::At { file, size });
            }
        }
        out
    }

    /// Items of a distribution that are used instead of other parts' versions.
    pub(super) fn used(&self, distribution: &Distribution, items: &Items, part_of: &BTreeMap<String, usize>) -> Items {
        let mut out = Items::new();
        for path in distribution.files.keys() {
            let Some(owners) = self.owners.get(path) else { continue };
            let parts: BTreeSet<Option<&usize>> = owners.iter().map(|owner| part_of.get(owner)).collect();
            if parts.len() < 2 || owners.last() != Some(&distribution.name) {
                continue;
            }
            let code = self.place.byte_code(path);
            for path in [Some(path), code.as_ref()].into_iter().flatten() {
                if let Some(item) = items.get(&self.path(path)) {
                    folders(&mut out, self.place.home, &item.path);
                    out.insert(item.path.clone(), item.clone());
                } else if Some(path) == code.as_ref()
                    && owners.iter().any(|owner| (self.code)(owner, path, true).is_some())
                {
                    // A lower layer has byte code of another version: empty byte code makes Python use the source.
                    self.put(&mut out, path, false, Bytes::Here(Vec::new().into()));
                }
            }
        }
        out
    }

    fn path(&self, path: &str) -> ContextPath {
        ContextPath::new(format!("{}/{path}", self.place.home.trim_start_matches('/')))
    }

    fn put(&self, out: &mut Items, path: &str, executable: bool, bytes: Bytes) {
        // As git records it.
        let mode = if executable { 0o755 } else { 0o644 };
        let path = self.path(path);
        folders(out, self.place.home, &path);
        out.insert(path.clone(), Item { path, mode, uid: 0, gid: 0, content: Content::File(bytes) });
    }
}

/// Adds the folders of a path, from the environment's own down.
pub(super) fn folders(out: &mut Items, home: &str, path: &ContextPath) {
    let home = ContextPath::new(home.trim_start_matches('/'));
    for path in path.folders().take_while(|path| *path == home || path.below(&home).is_some()) {
        let item = Item { path: path.clone(), mode: 0o755, uid: 0, gid: 0, content: Content::Dir };
        if out.insert(path, item).is_some() {
            break;
        }
    }
}
