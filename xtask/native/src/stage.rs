//! Stages that a recipe makes instead of running them: the interface of a recipe.
//!
//! The policy assigns a recipe to a stage; its parameters are the stage's arguments.

use crate::layer::Reader;
use crate::layer::item::Item;
use std::path::PathBuf;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::record::report::Imports;
use xtask_model::spec::oci::Config;
use xtask_model::spec::reference::Digest;

/// One part of a realised stage: one layer of an image that copies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name in reports: `scipy 1.17.0`.
    pub name: String,
    /// Digest of everything that determines its items.
    pub recipe: Digest,
    /// Path that all its items are at or below.
    pub under: ContextPath,
}

pub trait Realise {
    /// Parts, known before they are made, lowest first: for a common path the later one is used.
    fn parts(&self) -> &[Part];

    /// Makes what the items of these parts have their bytes in; the repository may have parts of this stage from an earlier image.
    fn prepare(&self, _wanted: &[usize], _earlier: Option<&dyn Earlier>) -> Result<(), Fault> {
        Ok(())
    }

    /// Items of a prepared part, sorted by path. Each call lists them again: a large stage has more of them than should be in memory at once.
    fn items(&self, part: usize) -> Result<Vec<Item>, Fault>;

    /// Bytes of the files of a prepared part, about: the largest is written first.
    fn size(&self, _part: usize) -> u64 {
        0
    }

    /// Makes these parts, all at once.
    fn produce(&self, wanted: &[usize]) -> Result<Vec<Vec<Item>>, Fault> {
        self.prepare(wanted, None)?;
        wanted.iter().map(|part| self.items(*part)).collect()
    }

    /// Note in a made part's layer about the stage as a whole: a function of the stage's inputs, as its items are.
    fn note(&self, _part: usize) -> Option<Vec<u8>> {
        None
    }

    /// The version of the checks that have ended well for the note of a part; `None` if a check was skipped.
    fn checked(&self, _part: usize) -> Option<u32> {
        None
    }

    /// Modules that were imported for the parts that were made, when the checks have ended.
    fn imports(&self) -> Option<Imports> {
        None
    }

    /// Ends checks that [`Realise::prepare`] has started. A made part may be used again only after that.
    fn finish(&self) -> Result<(), Fault> {
        Ok(())
    }

    /// True if the parts are all that the stage changes, so that other stages can be built on it.
    fn is_base(&self) -> bool {
        false
    }

    /// False for a path that no part has, known before they are made.
    fn may_have(&self, _: &ContextPath) -> bool {
        true
    }

    /// Checks all parts together, new and known ones. Runs in every build, not in a dry run.
    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }
}

/// An image that the repository has from an earlier build.
pub trait Earlier: Sync {
    /// Its digest.
    fn name(&self) -> String;

    /// The note of one of its layers, which was published after checks of this version had ended well. `None` if there is none, or if it
    /// cannot be read: it only saves work.
    fn note(&self, checks: u32) -> Option<Vec<u8>>;

    /// Compressed size of the layer that it has for a part, by the part's recipe; `None` if it has none.
    fn size(&self, recipe: &Digest) -> Option<u64>;

    fn read(&self, recipe: &Digest, take: &mut TakeLayer<'_>) -> Result<(), Fault>;
}

pub type TakeLayer<'t> = dyn FnMut(&mut Reader<'_>) -> Result<(), Fault> + 't;

/// Files of the image that a realised stage is built on. A call may need a download, so a recipe calls it only while it
/// produces.
pub trait RootFiles {
    fn config(&self) -> &Config;

    /// Returns true if a file exists, links followed.
    fn has(&self, path: &ContextPath) -> Result<bool, Fault>;

    /// Contents of a file, links followed; `None` if missing.
    fn file(&self, path: &ContextPath) -> Result<Option<Vec<u8>>, Fault>;

    /// All files or a selection, unpacked to a folder that no other process changes. Symbolic links are always
    /// included, empty folders are not.
    fn folder(&self, which: Option<&Selection>) -> Result<PathBuf, Fault>;
}

#[derive(Debug)]
pub struct Selection {
    /// Purpose, in one word; part of the folder's name.
    pub name: &'static str,
    pub has: fn(&ContextPath) -> bool,
}
