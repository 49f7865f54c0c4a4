//! A folder of a repository as a build context of its own.

use crate::tree::files::{Files, Named, Whole};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextEntry, ContextPath, FileInfo, FileKind, ObjectFormat, ObjectId};
use xtask_model::image::policy::RelPath;
use xtask_model::spec::ignore::NameRule;

/// The files below a folder, by their paths in it.
pub struct Below {
    files: Arc<dyn Files>,
    /// The folder, from the top of the repository.
    folder: ContextPath,
    place: PathBuf,
}

impl Below {
    /// # Errors
    /// There is no such folder.
    pub fn new(files: Arc<dyn Files>, folder: &RelPath) -> Result<Self, Fault> {
        let path = ContextPath::new(folder.as_str());
        if files.found(&path)?.is_none_or(|found| found.kind != FileKind::Dir) {
            return Err(Fault::usage(format!("`{folder}` is not a folder of the repository"))
                .needed_by("`context` in `[app]` of `images.toml`")
                .hint("name a folder, or remove `context`: it is the repository then"));
        }
        Ok(Self { place: files.place().join(folder), files, folder: path })
    }

    fn at(&self, path: &ContextPath) -> ContextPath {
        from_top(&self.folder, path)
    }
}

/// The path from the top of the repository of what has this path below a folder of it.
pub fn from_top(folder: &ContextPath, path: &ContextPath) -> ContextPath {
    match (folder.as_bytes(), path.as_bytes()) {
        ([], _) => path.clone(),
        (_, []) => folder.clone(),
        (_, below) => folder.join(below),
    }
}

/// Entries of a context with their paths from the top of the repository.
pub fn entries_from_top(folder: &ContextPath, entries: Vec<ContextEntry>) -> Vec<ContextEntry> {
    let moved = |entry: ContextEntry| ContextEntry { path: from_top(folder, &entry.path), ..entry };
    entries.into_iter().map(moved).collect()
}

impl Files for Below {
    fn place(&self) -> &Path {
        &self.place
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Fault> {
        self.files.read(&self.folder.to_path().join(path))
    }

    fn has_file(&self, path: &Path) -> bool {
        self.files.has_file(&self.folder.to_path().join(path))
    }

    fn list(&self, folder: &ContextPath) -> Result<Vec<Named>, Fault> {
        self.files.list(&self.at(folder))
    }

    fn found(&self, path: &ContextPath) -> Result<Option<FileInfo>, Fault> {
        self.files.found(&self.at(path))
    }

    fn format(&self) -> ObjectFormat {
        self.files.format()
    }

    fn ids(&self, files: &[&ContextPath]) -> Result<Vec<ObjectId>, Fault> {
        let all: Vec<ContextPath> = files.iter().map(|path| self.at(path)).collect();
        self.files.ids(&all.iter().collect::<Vec<_>>())
    }

    fn whole(&self, folder: &ContextPath, rules: &[NameRule], most: u64) -> Result<Whole, Fault> {
        self.files.whole(&self.at(folder), rules, most)
    }

    fn regular(&self, path: &Path, most: usize) -> Result<Vec<u8>, Fault> {
        self.files.regular(&self.folder.to_path().join(path), most)
    }
}
