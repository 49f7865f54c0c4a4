//! The files of an image while a layer of it grows: what the layer holds, and what stands beneath.
//!
//! Pure, but for what the answers of [`Lookup`] cost. Follows the system calls that BuildKit's copying makes.

use crate::assembly::base::Stat;
use crate::layer::item::{Content, Item};
use std::collections::BTreeMap;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::reference::Digest;

/// What stands beneath a layer.
pub(crate) trait Lookup {
    /// What stands at a path, itself not followed.
    fn lookup(&self, path: &ContextPath) -> Result<Option<Stat>, Fault>;
}

/// Nothing: a layer that does not depend on what it comes to stand on.
pub(crate) struct Nothing;

impl Lookup for Nothing {
    fn lookup(&self, _: &ContextPath) -> Result<Option<Stat>, Fault> {
        Ok(None)
    }
}

/// By what a file's contents are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    /// By their digest.
    Contents(Digest),
    /// By the recipe that makes them.
    Recipe(Digest),
}

/// An item with what is known of its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) item: Item,
    pub(crate) sum: Option<Sum>,
}

/// A layer as it grows.
pub(crate) struct Target<'l> {
    below: &'l dyn Lookup,
    made: BTreeMap<ContextPath, Made>,
}

/// Links followed at most, as in the kernel's and BuildKit's resolving.
const LINKS: usize = 255;

impl<'l> Target<'l> {
    pub(crate) fn new(below: &'l dyn Lookup) -> Self {
        Self { below, made: BTreeMap::new() }
    }

    /// What stands at a path, itself not followed.
    pub(crate) fn stat(&self, path: &ContextPath) -> Result<Option<Stat>, Fault> {
        if path.as_bytes().is_empty() {
            return Ok(Some(Stat::folder((0, 0))));
        }
        if let Some(made) = self.made.get(path) {
            return Ok(Some(Stat::from(&made.item)));
        }
        let mut parent = path.parent();
        while let Some(folder) = parent {
            match self.made.get(&folder) {
                Some(made) if made.item.content != Content::Dir => return Ok(None),
                // What is in front of a folder is a folder.
                Some(_) => break,
                None => parent = folder.parent(),
            }
        }
        self.below.lookup(path)
    }

    /// Where a path leads, every link on the way and at its end followed, never above the root.
    pub(crate) fn resolve(&self, path: &[u8]) -> Result<ContextPath, Fault> {
        resolve(path, &|path| self.stat(path))
    }

    /// Makes a folder and those in front of it, all like this one; those that are there stay as they are.
    pub(crate) fn make_folders(&mut self, path: &ContextPath, like: &Stat) -> Result<(), Fault> {
        match self.stat(path)? {
            Some(stat) if stat.is_dir() => return Ok(()),
            Some(_) => return Err(Fault::usage(format!("`/{path}` in the image is not a folder"))),
            None => {}
        }
        if let Some(parent) = path.parent() {
            self.make_folders(&parent, like)?;
        }
        self.put(path.clone(), like, Content::Dir, None);
        Ok(())
    }

    /// Puts something at a path, whatever stood there.
    pub(crate) fn put(&mut self, path: ContextPath, stat: &Stat, content: Content, sum: Option<Sum>) {
        let item = Item { path: path.clone(), mode: stat.mode, uid: stat.uid, gid: stat.gid, content };
        self.made.insert(path, Made { item, sum });
    }

    /// Everything that the layer holds, by path, with the folders in front as they are.
    pub(crate) fn finish(mut self) -> Result<Vec<Made>, Fault> {
        let mut folders: BTreeMap<ContextPath, Stat> = BTreeMap::new();
        for path in self.made.keys() {
            let mut parent = path.parent();
            while let Some(folder) = parent.filter(|folder| !folder.as_bytes().is_empty()) {
                if self.made.contains_key(&folder) || folders.contains_key(&folder) {
                    break;
                }
                let stat = self.below.lookup(&folder)?.unwrap_or_else(|| Stat::folder((0, 0)));
                parent = folder.parent();
                folders.insert(folder, stat);
            }
        }
        for (path, stat) in folders {
            self.put(path, &stat, Content::Dir, None);
        }
        Ok(self.made.into_values().collect())
    }
}

/// Where a path leads among what `stat` answers.
pub(crate) fn resolve(
    path: &[u8],
    stat: &dyn Fn(&ContextPath) -> Result<Option<Stat>, Fault>,
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
        match stat(&next)?.and_then(|stat| stat.link) {
            Some(_) if links == LINKS => {
                return Err(Fault::usage(format!("the links at `/{next}` in the image prefix in a circle")));
            }
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
