//! The files of a build context that a Dockerfile reads: which ones, and how they count.

mod object;
mod path;
mod selection;

pub use object::{ObjectFormat, ObjectId};
pub use path::ContextPath;
pub use selection::{FileInfo, Match, SelectedPaths, Tree, select};

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    Dir,
    /// A folder with everything in it, known by the id of git's tree of it.
    Tree,
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
    /// Id of a file's contents, of a link's target or of a whole folder; none for a folder whose files are listed. Keys before
    /// schema 3 had a digest.
    #[serde(alias = "digest", skip_serializing_if = "Option::is_none", default)]
    pub id: Option<ObjectId>,
}

/// The entries as a git checkout records them: a file is executable or not, a folder has no mode of its own. For keys that
/// machines with different umasks are to share.
pub fn as_in_git(entries: &[ContextEntry]) -> Vec<ContextEntry> {
    let mode = |entry: &ContextEntry| match entry.kind {
        FileKind::File if entry.mode & 0o100 == 0 => 0o644,
        FileKind::File | FileKind::Dir | FileKind::Tree => 0o755,
        FileKind::Symlink | FileKind::Special => 0o777,
    };
    entries.iter().map(|entry| ContextEntry { mode: mode(entry), ..entry.clone() }).collect()
}
