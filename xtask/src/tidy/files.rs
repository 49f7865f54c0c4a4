//! The repository's own files, read into memory once: what git tracks, and what it would track.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use xtask_host::process::{self, Command};
use xtask_model::fault::{Exit, Fault};
use xtask_scan::rust;

/// Paths from the root, with `/`, and their text; none for what is not text.
#[derive(Clone, Debug, Default)]
pub struct Files {
    root: PathBuf,
    texts: BTreeMap<String, Option<String>>,
    /// Rust sources without comments and tests, which several rules read.
    code: OnceLock<BTreeMap<String, String>>,
}

impl Files {
    /// Reads them.
    pub fn read(root: &Path) -> Result<Self, Fault> {
        let git = process::find("git", "`tidy`, to know which files are the repository's", "install git")?;
        let list = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
        let listed = Command::new(git).args(list).current_dir(root).read(Exit::Usage)?;
        let mut texts = BTreeMap::new();
        for path in listed.split('\0').filter(|path| !path.is_empty()) {
            // What is deleted and not yet committed is gone all the same; a link has no text of its own.
            let file = root.join(path);
            if file.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                let bytes =
                    std::fs::read(&file).map_err(|error| Fault::usage(format!("cannot read `{path}`")).cause(error))?;
                texts.insert(path.to_owned(), String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')));
            }
        }
        Ok(Self { root: root.to_owned(), texts, code: OnceLock::new() })
    }

    /// Files for a test.
    #[cfg(test)]
    pub(crate) fn made_up(files: &[(&str, &str)]) -> Self {
        let texts = files.iter().map(|(path, text)| ((*path).to_owned(), Some((*text).to_owned()))).collect();
        Self { root: PathBuf::from("/made/up"), texts, code: OnceLock::new() }
    }

    /// Folder that contains the files.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path)?.as_deref()
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Returns true if there are no files.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Those that are text.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)))
    }

    /// Rust sources, without comments and test modules; lines keep their numbers.
    pub(super) fn code(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.code.get_or_init(|| {
            let sources = self.texts().filter(|(path, _)| path.ends_with(".rs"));
            sources.map(|(path, text)| (path.to_owned(), rust::without_tests(text))).collect()
        });
        all.iter().map(|(path, code)| (path.as_str(), code.as_str()))
    }

    /// All paths.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.texts.keys().map(String::as_str)
    }

    /// Returns true for a file, and for a folder with files in it.
    pub(super) fn exists(&self, path: &str) -> bool {
        let folder = format!("{path}/");
        path.is_empty()
            || self.texts.contains_key(path)
            || self.texts.range(folder.clone()..).next().is_some_and(|(next, _)| next.starts_with(&folder))
    }
}
