//! The places of entries in a staged context, so that BuildKit is sent only what changed. Reads nothing.

use super::{ContextEntry, ContextPath, FileKind};
use crate::tree::context::from_top;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use xtask_model::spec::dockerfile::{Reads, Source};
use xtask_model::spec::reference::Digest;

/// Folder of a context with the folders that are copied as a whole, by their contents.
const WHOLE: &str = ".xtask";

pub(super) struct Places<'a> {
    pub placed: Vec<PlacedEntry<'a>>,
    /// True if BuildKit has to be sent the whole context after every change.
    pub whole: bool,
}

/// An entry with its place.
pub(super) struct PlacedEntry<'a> {
    pub at: ContextPath,
    pub entry: &'a ContextEntry,
    /// For a folder that is elsewhere: target of the link in its place.
    pub leads_to: Option<PathBuf>,
}

impl<'a> PlacedEntry<'a> {
    fn as_it_is(entry: &'a ContextEntry) -> Self {
        Self { at: entry.path.clone(), entry, leads_to: None }
    }

    pub(super) fn is_link(&self) -> bool {
        self.leads_to.is_some() || self.entry.kind == FileKind::Symlink
    }
}

/// Places the entries of a context.
pub(super) fn places<'a>(contents: &super::ContextContents<'a>) -> Places<'a> {
    let Some(folders) = folders(contents) else {
        return Places { placed: contents.entries.iter().map(PlacedEntry::as_it_is).collect(), whole: true };
    };
    let mut placed = Vec::new();
    let mut sums: BTreeMap<&ContextPath, String> = BTreeMap::new();
    let folder_of = |entry: &ContextEntry| folders.iter().find(|folder| within(&entry.path, folder));
    for entry in contents.entries {
        if let Some(folder) = folder_of(entry) {
            let id = entry.id.map(|id| id.to_string()).unwrap_or_default();
            let line = format!("{:?} {:o} {id} {}\n", entry.kind, entry.mode, entry.path);
            sums.entry(folder).or_default().push_str(&line);
        }
    }
    let own = from_top(contents.context, &ContextPath::new(WHOLE));
    for entry in contents.entries {
        let Some(folder) = folder_of(entry) else {
            placed.push(PlacedEntry::as_it_is(entry));
            continue;
        };
        let name = &Digest::of(sums[folder].as_bytes()).hex()[..32];
        let below = entry.path.below(folder).unwrap_or_default();
        let at = from_top(&own.join(name.as_bytes()), &ContextPath::new(below));
        if entry.path == *folder {
            let up = folder.parts().count() - contents.context.parts().count() - 1;
            let target = Path::new(&"../".repeat(up)).join(WHOLE).join(name);
            placed.push(PlacedEntry { leads_to: Some(target), ..PlacedEntry::as_it_is(entry) });
        }
        placed.push(PlacedEntry { at, entry, leads_to: None });
    }
    Places { placed, whole: false }
}

/// The folders that are copied as a whole, if every source is the path of a file or a folder. A pattern, a mount or a copy of the
/// context itself would see the links.
fn folders(contents: &super::ContextContents<'_>) -> Option<BTreeSet<ContextPath>> {
    let path = |source: &Source| match &source.reads {
        Reads::Glob(path)
            if source.excludes.is_empty() && !path.is_empty() && !path.contains(['*', '?', '[', '\\']) =>
        {
            Some(from_top(contents.context, &ContextPath::new(path.as_bytes())))
        }
        Reads::Glob(_) | Reads::Parents { .. } | Reads::Path(_) => None,
    };
    let paths: BTreeSet<ContextPath> = contents.sources.iter().map(path).collect::<Option<_>>()?;
    let folders = contents.entries.iter().filter(|entry| entry.kind == FileKind::Dir && paths.contains(&entry.path));
    let mut folders: BTreeSet<ContextPath> = folders.map(|entry| entry.path.clone()).collect();
    // What is copied from a folder that is copied too is reached by that folder's link.
    let all = folders.clone();
    folders.retain(|folder| !folder.folders().any(|above| all.contains(&above)));
    let in_one = |path: &ContextPath| folders.iter().any(|folder| within(path, folder));
    // What a link leads to is at the path of no source.
    let is_known = |entry: &ContextEntry| {
        let leads = |path: &ContextPath| path.below(&entry.path).is_some();
        match entry.kind {
            _ if in_one(&entry.path) => true,
            FileKind::File => paths.contains(&entry.path),
            FileKind::Dir => entry.path == *contents.context || paths.iter().any(leads),
            FileKind::Symlink | FileKind::Special | FileKind::Tree => false,
        }
    };
    let own = from_top(contents.context, &ContextPath::new(WHOLE));
    // A link in a folder leads elsewhere from the folder's place.
    let links = || contents.entries.iter().filter(|entry| entry.kind == FileKind::Symlink);
    let is_free = !contents.made.keys().any(in_one)
        && !paths.iter().any(|path| within(path, &own) || links().any(|link| within(path, &link.path)));
    (is_free && contents.entries.iter().all(is_known)).then_some(folders)
}

fn within(path: &ContextPath, folder: &ContextPath) -> bool {
    path == folder || path.below(folder).is_some()
}
