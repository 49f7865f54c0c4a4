//! Large folders as one entry: the id of git's tree of all that counts in it.
//!
//! Reads nothing. A folder that was not read file by file has such an entry already; this gives one to the others, so that the result does not
//! depend on how the files were read.

use crate::tree::files::scan_format;
use std::collections::{BTreeMap, BTreeSet};
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextEntry, ContextPath, FileKind, ObjectFormat, ObjectId};
use xtask_scan::tree::{self, TreeObject};

/// Folds each covered folder with more entries than this, outermost first. `entries` are sorted by path, and `known` has the numbers of entries of
/// whole folders.
pub(super) fn fold(
    mut entries: Vec<ContextEntry>,
    covered: &BTreeSet<ContextPath>,
    known: &BTreeMap<ContextPath, u64>,
    larger_than: u64,
    format: ObjectFormat,
) -> Result<Vec<ContextEntry>, Fault> {
    let mut folded: Option<ContextPath> = None;
    for folder in covered {
        if known.contains_key(folder) || folded.as_ref().is_some_and(|above| folder.below(above).is_some()) {
            continue;
        }
        let first = entries.partition_point(|entry| entry.path < folder.join(b""));
        let count = entries[first..].iter().take_while(|entry| entry.path.below(folder).is_some()).count();
        let below = &entries[first..first + count];
        let total: u64 = below.iter().map(|entry| 1 + known.get(&entry.path).copied().unwrap_or(0)).sum();
        if total <= larger_than {
            continue;
        }
        let id = id(below, folder, format)?;
        entries.drain(first..first + count);
        let whole = ContextEntry { path: folder.clone(), kind: FileKind::Tree, mode: 0o755, id: Some(id) };
        match entries.binary_search_by(|entry| entry.path.cmp(folder)) {
            Ok(at) => entries[at] = whole,
            Err(at) => entries.insert(at, whole),
        }
        folded = Some(folder.clone());
    }
    Ok(entries)
}

/// The id of git's tree of the folder that has these entries, whose paths are relative to it.
///
/// # Errors
/// The names were made for a collision.
pub fn folder_id(entries: &[ContextEntry], format: ObjectFormat) -> Result<ObjectId, Fault> {
    id(entries, &ContextPath::default(), format)
}

/// The id of git's tree of these entries, which are all below a folder.
fn id(entries: &[ContextEntry], folder: &ContextPath, format: ObjectFormat) -> Result<ObjectId, Fault> {
    // By name: the entry itself, and those below it.
    let mut children: BTreeMap<&[u8], (Option<&ContextEntry>, Vec<ContextEntry>)> = BTreeMap::new();
    for entry in entries {
        let rest = entry.path.below(folder).unwrap_or_default();
        match rest.iter().position(|byte| *byte == b'/') {
            None => children.entry(rest).or_default().0 = Some(entry),
            Some(end) => children.entry(&rest[..end]).or_default().1.push(entry.clone()),
        }
    }
    let is_folder =
        |own: Option<&ContextEntry>| own.is_none_or(|own| matches!(own.kind, FileKind::Dir | FileKind::Tree));
    let mut named: Vec<_> = children.into_iter().collect();
    named.sort_by(|(one, (a, _)), (other, (b, _))| tree::order(one, is_folder(*a), other, is_folder(*b)));
    let mut object = TreeObject::default();
    for (name, (own, below)) in named {
        let (mode, id) = match own {
            Some(ContextEntry { kind: FileKind::Tree, id: Some(id), .. }) => (tree::FOLDER, *id),
            Some(ContextEntry { kind: FileKind::File, mode, id: Some(id), .. }) if mode & 0o100 != 0 => {
                (tree::EXECUTABLE, *id)
            }
            Some(ContextEntry { kind: FileKind::File, id: Some(id), .. }) => (tree::FILE, *id),
            Some(ContextEntry { kind: FileKind::Symlink, id: Some(id), .. }) => (tree::LINK, *id),
            _ => (tree::FOLDER, self::id(&below, &folder.join(name), format)?),
        };
        object.push(mode, name, id.as_bytes());
    }
    let id = object.id(scan_format(format)).map_err(|error| Fault::usage("cannot hash a folder").cause(error))?;
    Ok(ObjectId::new(format, &id))
}
