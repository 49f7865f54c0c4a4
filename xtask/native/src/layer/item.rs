//! An entry of a layer: a path with its attributes and the location of its bytes.
//!
//! Pure. Times are omitted: every entry of a layer has the same one.

use std::path::PathBuf;
use std::sync::Arc;
use xtask_model::image::context::ContextPath;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Relative to the image's root.
    pub path: ContextPath,
    /// Permission bits with set-id and sticky; ignored for links.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Dir,
    File(Bytes),
    /// Target as written.
    Symlink(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// A file on this machine. A size that differs when it is read is an error.
    At {
        file: PathBuf,
        size: u64,
    },
    Here(Arc<[u8]>),
}

impl Bytes {
    pub fn size(&self) -> u64 {
        match self {
            Self::At { size, .. } => *size,
            Self::Here(bytes) => bytes.len() as u64,
        }
    }
}
