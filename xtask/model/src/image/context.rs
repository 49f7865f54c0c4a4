//! The files of a build context that a Dockerfile reads: which ones, and how they count.

mod path;
mod selection;

pub use path::ContextPath;
pub use selection::{Found, Match, Selection, Tree, select};

use crate::spec::reference::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A folder.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A pipe, socket or device. Seen in a tree, never in an [`Entry`]: BuildKit would copy it, a socket as an empty file.
    Special,
}

/// One path of the context that a Dockerfile reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// Where it is, below the context's root.
    pub path: ContextPath,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky, as `COPY` keeps them; 0o777 for links.
    pub mode: u32,
    /// Digest of a file's contents or of a link's target; none for folders.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<Digest>,
}

/// One digest over all entries. Typed, versioned and length-delimited: no two lists have one encoding.
pub fn fingerprint(entries: &[Entry]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(b"context 1\0");
    for entry in entries {
        let path = entry.path.as_bytes();
        hash.update([entry.kind as u8]);
        hash.update(entry.mode.to_be_bytes());
        hash.update((path.len() as u64).to_be_bytes());
        hash.update(path);
        let digest = entry.digest.map_or(String::new(), |digest| digest.hex());
        hash.update((digest.len() as u64).to_be_bytes());
        hash.update(digest);
    }
    Digest::from_bytes(hash.finalize().into())
}

/// The entries as a git checkout records them: a file is executable or not, a folder has no mode of its own. For keys that
/// machines with different umasks are to share.
pub fn as_in_git(entries: &[Entry]) -> Vec<Entry> {
    let mode = |entry: &Entry| match entry.kind {
        Kind::File if entry.mode & 0o100 == 0 => 0o644,
        Kind::File | Kind::Dir => 0o755,
        Kind::Symlink | Kind::Special => 0o777,
    };
    entries.iter().map(|entry| Entry { mode: mode(entry), ..entry.clone() }).collect()
}
