//! An entry of a layer: a path with its attributes and the location of its bytes.
//!
//! Pure. Times are omitted: every entry of a layer has the same one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
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
    /// A file in an archive, such as a wheel.
    Packed(Packed),
}

/// A file in an archive on this machine. What the archive states is checked when the file is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    pub archive: Arc<Path>,
    /// Offset and number of its bytes in the archive.
    pub at: u64,
    pub packed: u64,
    /// A raw deflate stream; otherwise the bytes themselves.
    pub deflated: bool,
    pub size: u64,
    pub crc: u32,
}

impl Bytes {
    pub fn size(&self) -> u64 {
        match self {
            Self::At { size, .. } => *size,
            Self::Here(bytes) => bytes.len() as u64,
            Self::Packed(file) => file.size,
        }
    }
}

/// Returns the target of a link; `None` for anything else.
pub(crate) type LinkOf<'l> = dyn Fn(&ContextPath) -> Result<Option<Vec<u8>>, Fault> + 'l;

/// Follows every link of a path, at its end too, and never leaves the root. More than `most` links are the error
/// `looped`.
pub(crate) fn resolve(
    path: &[u8],
    most: usize,
    link: &LinkOf<'_>,
    looped: &dyn Fn(&ContextPath) -> Fault,
) -> Result<ContextPath, Fault> {
    let mut links = 0;
    let mut todo: Vec<Vec<u8>> = ContextPath::new(path).parts().map(<[u8]>::to_vec).rev().collect();
    let mut at = ContextPath::default();
    while let Some(part) = todo.pop() {
        match part.as_slice() {
            b"." => continue,
            b".." => {
                at = at.parent().unwrap_or_default();
                continue;
            }
            _ => {}
        }
        let next = at.join(&part);
        match link(&next)? {
            Some(_) if links == most => return Err(looped(&next)),
            Some(target) => {
                links += 1;
                if target.starts_with(b"/") {
                    at = ContextPath::default();
                }
                todo.extend(ContextPath::new(target).parts().map(<[u8]>::to_vec).rev());
            }
            None => at = next,
        }
    }
    Ok(at)
}
