//! Keeps a store within its size limit.
//!
//! Only while no other process has it open: an entry might be about to be used there.

use super::{CONTENTS, Note, OUTLINES, PLACES, RECIPES, Store};
use std::collections::BTreeMap;
use std::fs::{self, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use xtask_model::fault::Fault;

/// Name prefix of incomplete files.
pub(super) const PARTIAL: &str = ".partial-";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub removed: u64,
    pub left: u64,
    /// True if nothing was removed because another process uses the store.
    pub busy: bool,
}

struct FileGroup {
    used: SystemTime,
    bytes: u64,
    /// In order of removal: references before what they refer to.
    files: Vec<PathBuf>,
}

impl Store {
    /// Closes the store and removes the least recently used entries until it is within its limit, and leftovers of
    /// killed processes. Does nothing while another process has it open.
    pub fn prune(self) -> Result<Pruned, Fault> {
        let folder = self.layout.folder();
        let cannot = |error: io::Error| Fault::build(format!("cannot prune `{}`", folder.display())).cause(error);
        self.in_use.unlock().map_err(cannot)?;
        match self.in_use.try_lock() {
            Ok(()) => self.remove_old().map_err(cannot),
            Err(TryLockError::WouldBlock) => Ok(Pruned { busy: true, ..Pruned::default() }),
            Err(TryLockError::Error(error)) => Err(cannot(error)),
        }
    }

    /// Closes the store, and prunes it if it is larger than its limit or has incomplete files. Reads no file.
    pub fn prune_if_due(self) -> Result<(), Fault> {
        let mut bytes = 0;
        for part in ["blobs/sha256", OUTLINES, CONTENTS, PLACES, RECIPES] {
            for entry in fs::read_dir(self.layout.folder().join(part)).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
                    return self.prune().map(drop);
                }
                bytes += entry.metadata().map_or(0, |metadata| metadata.len());
            }
        }
        if bytes > self.limit { self.prune().map(drop) } else { Ok(()) }
    }

    fn remove_old(&self) -> io::Result<Pruned> {
        let mut pruned = Pruned::default();
        let mut groups = self.groups(&mut pruned)?;
        groups.sort_by_key(|group| group.used);
        pruned.left = groups.iter().map(|group| group.bytes).sum();
        for group in groups {
            if pruned.left <= self.limit {
                break;
            }
            for file in group.files {
                fs::remove_file(file)?;
            }
            pruned.left -= group.bytes;
            pruned.removed += group.bytes;
        }
        Ok(pruned)
    }

    fn groups(&self, pruned: &mut Pruned) -> io::Result<Vec<FileGroup>> {
        let folder = self.layout.folder();
        let mut remove = |file: &StoreFile| -> io::Result<()> {
            pruned.removed += file.bytes;
            fs::remove_file(&file.path)
        };
        let mut blobs: BTreeMap<String, StoreFile> = BTreeMap::new();
        for file in list(&folder.join("blobs/sha256"), &mut remove)? {
            blobs.insert(file.name.clone(), file);
        }
        let mut layers: BTreeMap<String, FileGroup> = BTreeMap::new();
        // Tables of contents, contents whose name ends with the platform, and places.
        let mut tocs: BTreeMap<String, Vec<StoreFile>> = BTreeMap::new();
        for part in [OUTLINES, CONTENTS, PLACES] {
            for file in list(&folder.join(part), &mut remove)? {
                let diff_id = file.name.split('.').next().unwrap_or_default().to_owned();
                tocs.entry(diff_id).or_default().push(file);
            }
        }
        for file in list(&folder.join(RECIPES), &mut remove)? {
            let note = fs::read(&file.path).ok().and_then(|bytes| Note::parse(&bytes));
            let blob = note.as_ref().map(|note| (note.descriptor.digest.hex(), note.diff_id.hex()));
            let Some((digest, diff_id)) = blob.filter(|(digest, _)| blobs.contains_key(digest)) else {
                remove(&file)?;
                continue;
            };
            let group = layers.entry(digest).or_insert_with(|| FileGroup::new(&file));
            group.add(&file);
            tocs.remove(&diff_id).into_iter().flatten().for_each(|file| group.add(&file));
        }
        for (digest, file) in &blobs {
            match layers.get_mut(digest) {
                Some(group) => group.take(file),
                None => remove(file)?,
            }
        }
        let mut groups: Vec<FileGroup> = layers.into_values().collect();
        for file in tocs.values().flatten() {
            let mut group = FileGroup::new(file);
            group.add(file);
            groups.push(group);
        }
        Ok(groups)
    }
}

impl FileGroup {
    fn new(first: &StoreFile) -> Self {
        Self { used: first.used, bytes: 0, files: Vec::new() }
    }

    /// Adds a file whose use counts as use of the group.
    fn add(&mut self, file: &StoreFile) {
        self.used = self.used.max(file.used);
        self.take(file);
    }

    fn take(&mut self, file: &StoreFile) {
        self.bytes += file.bytes;
        self.files.push(file.path.clone());
    }
}

struct StoreFile {
    name: String,
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// Complete files of a folder; incomplete ones are removed.
fn list(folder: &Path, remove: &mut impl FnMut(&StoreFile) -> io::Result<()>) -> io::Result<Vec<StoreFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if !metadata.is_file() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let file = StoreFile { name, path: entry.path(), bytes: metadata.len(), used: metadata.modified()? };
        if file.name.starts_with(PARTIAL) {
            remove(&file)?;
        } else {
            files.push(file);
        }
    }
    Ok(files)
}
