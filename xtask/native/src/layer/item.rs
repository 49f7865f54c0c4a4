//! What stands in a layer: one path with its attributes and where its bytes are.
//!
//! Pure. Times are no part of it: every entry of a layer gets the same one.

use std::path::PathBuf;
use std::sync::Arc;
use xtask_model::image::context::ContextPath;

/// One path of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it is, below the image's root.
    pub path: ContextPath,
    /// Permission bits with set-id and sticky; not looked at for links.
    pub mode: u32,
    /// The numeric owner.
    pub uid: u32,
    /// The numeric group.
    pub gid: u32,
    /// What it is.
    pub content: Content,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A folder.
    Dir,
    /// A regular file.
    File(Bytes),
    /// A symbolic link with its target, as it is written.
    Symlink(Vec<u8>),
}

/// A file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// In a file of this machine, which has this many bytes; one that has another number when it is read is an error.
    At {
        /// The file.
        file: PathBuf,
        /// Bytes.
        size: u64,
    },
    /// At hand.
    Here(Arc<[u8]>),
}

impl Bytes {
    /// The number of bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::At { size, .. } => *size,
            Self::Here(bytes) => bytes.len() as u64,
        }
    }
}
