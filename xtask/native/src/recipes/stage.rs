//! Stages that run something, realised by a recipe instead: what such a recipe answers, and what it may ask.
//!
//! Which recipe realises which stage is said by the policy; its parameters are the stage's own arguments.

use crate::layer::item::Item;
use std::path::PathBuf;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::oci::Config;
use xtask_model::spec::reference::Digest;

/// One part of a realised stage, which becomes one layer of an image that copies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is, as reports call it: `scipy 1.17.0`.
    pub name: String,
    /// The digest of everything that determines its items.
    pub recipe: Digest,
    /// The folder or file below which all its items stand.
    pub under: ContextPath,
}

/// A stage whose files come from a recipe.
pub trait Realise {
    /// Its parts, known before anything is made, lowest first: where two have one path, the later is what is used.
    fn parts(&self) -> &[Part];

    /// Makes these parts, by their numbers: the items of each, sorted by path.
    fn produce(&self, wanted: &[usize]) -> Result<Vec<Vec<Item>>, Fault>;

    /// Checks what all parts come to together, made now or before. Called by every build, not by a dry run.
    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }
}

/// The files of the image that a realised stage stands on. Asking may cost a download: a recipe asks only while it produces.
pub trait Foundation {
    /// Its configuration.
    fn config(&self) -> &Config;

    /// Whether a file stands there, links followed.
    fn has(&self, path: &ContextPath) -> Result<bool, Fault>;

    /// A file's contents, links followed; `None` where there is none.
    fn file(&self, path: &ContextPath) -> Result<Option<Vec<u8>>, Fault>;

    /// Its files, all or a selection, unpacked into a folder of this machine that nobody else changes. Symbolic links are there
    /// in any case, folders where something stands in them.
    fn folder(&self, which: Option<&Selection>) -> Result<PathBuf, Fault>;
}

/// Files of an image that are enough for something.
#[derive(Debug)]
pub struct Selection {
    /// What for, in a word: a part of the folder's name.
    pub name: &'static str,
    /// Whether a file belongs to it.
    pub has: fn(&ContextPath) -> bool,
}
