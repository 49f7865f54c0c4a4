//! Access to the images that a Dockerfile builds on.
//!
//! Pure. An answer may cost a download, so callers ask only what the Dockerfile's own layers do not answer.

use crate::layer::item::{Content, Item};
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, FileKind};
use xtask_model::spec::oci::Config;
use xtask_model::spec::reference::Platform;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub kind: FileKind,
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub link: Option<Vec<u8>>,
}

impl Stat {
    /// Folder with the mode that a copy uses by default.
    pub(super) fn folder(owner: (u32, u32)) -> Self {
        Self::folder_with(0o755, owner)
    }

    pub(super) fn folder_with(mode: u32, (uid, gid): (u32, u32)) -> Self {
        Self { kind: FileKind::Dir, mode, uid, gid, link: None }
    }

    /// False for a link to a folder.
    pub fn is_folder(&self) -> bool {
        self.kind == FileKind::Dir
    }
}

impl From<&Item> for Stat {
    fn from(item: &Item) -> Self {
        let (kind, link) = match &item.content {
            Content::Dir => (FileKind::Dir, None),
            Content::File(_) => (FileKind::File, None),
            Content::Symlink(target) => (FileKind::Symlink, Some(target.clone())),
        };
        Self { kind, mode: item.mode, uid: item.uid, gid: item.gid, link }
    }
}

pub trait BaseFiles {
    /// Metadata of a path; links are not followed. `None` for a path that leads through a link.
    fn lookup(&self, path: &ContextPath) -> Result<Option<Stat>, Fault>;

    /// Contents of a regular file, else `None`; links are not followed.
    fn file(&self, path: &ContextPath) -> Result<Option<Vec<u8>>, Fault>;

    fn any_below(&self, folder: &ContextPath) -> Result<bool, Fault>;
}

#[derive(Clone)]
pub struct FromImage<'a> {
    pub config: Config,
    pub files: &'a dyn BaseFiles,
}

pub trait FromImages {
    /// The image of a name, as the Dockerfile gives it after its arguments are expanded.
    fn image(&self, name: &str, platform: &Platform) -> Result<FromImage<'_>, Fault>;
}
