//! The files of a build context that a Dockerfile reads: which ones, and how they count.

mod path;
mod selection;

pub use path::ContextPath;
pub use selection::{FileInfo, Match, Selection, Tree, select};

use crate::spec::reference::Digest;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    Dir,
    File,
    Symlink,
    /// A pipe, socket or device. Seen in a tree, never in an [`ContextEntry`]: BuildKit would copy it, a socket as an empty file.
    Special,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContextEntry {
    pub path: ContextPath,
    pub kind: FileKind,
    /// Permission bits with set-id and sticky, as `COPY` keeps them; 0o777 for links.
    pub mode: u32,
    /// Digest of a file's contents or of a link's target; none for folders.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<Digest>,
}

/// The entries as a git checkout records them: a file is executable or not, a folder has no mode of its own. For keys that
/// machines with different umasks are to share.
pub fn as_in_git(entries: &[ContextEntry]) -> Vec<ContextEntry> {
    let mode = |entry: &ContextEntry| match entry.kind {
        FileKind::File if entry.mode & 0o100 == 0 => 0o644,
        FileKind::File | FileKind::Dir => 0o755,
        FileKind::Symlink | FileKind::Special => 0o777,
    };
    entries.iter().map(|entry| ContextEntry { mode: mode(entry), ..entry.clone() }).collect()
}
