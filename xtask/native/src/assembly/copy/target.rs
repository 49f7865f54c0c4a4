//! A layer while it is built: its own entries over the files of lower layers.
//!
//! Pure, except for what [`Lookup`] costs. Follows the system calls of BuildKit's copy.

use crate::assembly::base::Stat;
use crate::layer::item::{self, Content, Item};
use std::collections::BTreeMap;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, ObjectId};
use xtask_model::spec::reference::Digest;

pub(crate) trait Lookup {
    /// Metadata of a path; links are not followed.
    fn lookup(&self, path: &ContextPath) -> Result<Option<Stat>, Fault>;
}

/// For a layer that does not depend on lower layers.
pub(crate) struct Nothing;

impl Lookup for Nothing {
    fn lookup(&self, _: &ContextPath) -> Result<Option<Stat>, Fault> {
        Ok(None)
    }
}

/// Identity of a file's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    Contents(ObjectId),
    /// Of a folder with everything in it.
    Whole(ObjectId),
    Recipe(Digest),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CopiedItem {
    pub(crate) item: Item,
    pub(crate) sum: Option<Sum>,
}

pub(crate) struct Target<'l> {
    below: &'l dyn Lookup,
    made: BTreeMap<ContextPath, CopiedItem>,
}

/// Limit on followed links, as in the kernel and BuildKit.
const LINKS: usize = 255;

impl<'l> Target<'l> {
    pub(crate) fn new(below: &'l dyn Lookup) -> Self {
        Self { below, made: BTreeMap::new() }
    }

    /// Metadata of a path; links are not followed.
    pub(crate) fn stat(&self, path: &ContextPath) -> Result<Option<Stat>, Fault> {
        if path.as_bytes().is_empty() {
            return Ok(Some(Stat::folder((0, 0))));
        }
        if let Some(made) = self.made.get(path) {
            return Ok(Some(Stat::from(&made.item)));
        }
        // The parents of a folder are folders.
        match path.folders().find_map(|folder| self.made.get(&folder)) {
            Some(made) if made.item.content != Content::Dir => Ok(None),
            _ => self.below.lookup(path),
        }
    }

    /// Follows every link of a path, at its end too, and never leaves the root.
    pub(crate) fn resolve(&self, path: &[u8]) -> Result<ContextPath, Fault> {
        resolve(path, &|path| self.stat(path))
    }

    /// Creates a folder and its missing parents, all with the same attributes. Existing ones are unchanged.
    pub(crate) fn make_folders(&mut self, path: &ContextPath, like: &Stat) -> Result<(), Fault> {
        match self.stat(path)? {
            Some(stat) if stat.is_folder() => return Ok(()),
            Some(_) => return Err(Fault::usage(format!("`/{path}` in the image is not a folder"))),
            None => {}
        }
        if let Some(parent) = path.parent() {
            self.make_folders(&parent, like)?;
        }
        self.put(path.clone(), like, Content::Dir, None);
        Ok(())
    }

    pub(crate) fn put(&mut self, path: ContextPath, stat: &Stat, content: Content, sum: Option<Sum>) {
        let item = Item { path: path.clone(), mode: stat.mode, uid: stat.uid, gid: stat.gid, content };
        self.made.insert(path, CopiedItem { item, sum });
    }

    /// All entries of the layer by path, with their parent folders unchanged.
    pub(crate) fn finish(mut self) -> Result<Vec<CopiedItem>, Fault> {
        let mut folders: BTreeMap<ContextPath, Stat> = BTreeMap::new();
        for path in self.made.keys() {
            for folder in path.folders() {
                if self.made.contains_key(&folder) || folders.contains_key(&folder) {
                    break;
                }
                let stat = self.below.lookup(&folder)?.unwrap_or_else(|| Stat::folder((0, 0)));
                folders.insert(folder, stat);
            }
        }
        for (path, stat) in folders {
            self.put(path, &stat, Content::Dir, None);
        }
        Ok(self.made.into_values().collect())
    }
}

pub(crate) fn resolve(
    path: &[u8],
    stat: &dyn Fn(&ContextPath) -> Result<Option<Stat>, Fault>,
) -> Result<ContextPath, Fault> {
    let link = |path: &ContextPath| Ok(stat(path)?.and_then(|stat| stat.link));
    let looped = |path: &ContextPath| Fault::usage(format!("the links at `/{path}` in the image form a loop"));
    item::resolve(path, LINKS, &link, &looped)
}
