//! What an assembly asks of the images that it builds on.
//!
//! Pure: types and questions. An answer may cost a download, so nothing is asked that the Dockerfile's own layers answer.

use crate::layer::item::{Content, Item};
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, Kind};
use xtask_model::spec::oci::Config;
use xtask_model::spec::reference::Platform;

/// What stands at a path of an image, without contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    /// The numeric owner.
    pub uid: u32,
    /// The numeric group.
    pub gid: u32,
    /// A symbolic link's target.
    pub link: Option<Vec<u8>>,
}

impl Stat {
    /// A folder as copying makes it, unless a mode is said.
    pub(super) fn folder(owner: (u32, u32)) -> Self {
        Self::folder_with(0o755, owner)
    }

    /// A folder with these bits.
    pub(super) fn folder_with(mode: u32, (uid, gid): (u32, u32)) -> Self {
        Self { kind: Kind::Dir, mode, uid, gid, link: None }
    }

    /// Whether it is a folder itself; a link to one is none.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }
}

impl From<&Item> for Stat {
    fn from(item: &Item) -> Self {
        let (kind, link) = match &item.content {
            Content::Dir => (Kind::Dir, None),
            Content::File(_) => (Kind::File, None),
            Content::Symlink(target) => (Kind::Symlink, Some(target.clone())),
        };
        Self { kind, mode: item.mode, uid: item.uid, gid: item.gid, link }
    }
}

/// The files of an image.
pub trait BaseFiles {
    /// What stands at a path, itself not followed. A path that leads through a link has nothing.
    fn lookup(&self, path: &ContextPath) -> Result<Option<Stat>, Fault>;

    /// The contents of a regular file; `None` where there is none. No link is followed.
    fn file(&self, path: &ContextPath) -> Result<Option<Vec<u8>>, Fault>;

    /// Whether there is anything below a folder.
    fn any_below(&self, folder: &ContextPath) -> Result<bool, Fault>;
}

/// An image that a `FROM` names.
#[derive(Clone)]
pub struct FromImage<'a> {
    /// Its configuration, with the digests of its layers.
    pub config: Config,
    /// Its files.
    pub files: &'a dyn BaseFiles,
}

/// The images that `FROM` can name.
pub trait FromImages {
    /// The image of a name, as it stands in the Dockerfile with its arguments in place.
    fn image(&self, name: &str, platform: &Platform) -> Result<FromImage<'_>, Fault>;
}
