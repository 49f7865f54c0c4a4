//! The files that facts are made of, and which of them have changed since.
//!
//! [`Recorder`] notes every path that gathering facts reads, lists or looks for, so that `watch` waits for exactly the files that decide
//! about an image. [`Stamps`] compares what the system says of them; file contents are not read.

use crate::tree::files::{Files, Named};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, FileInfo, ObjectFormat, ObjectId};

/// Paths, from the repository's folder.
pub type Paths = BTreeSet<PathBuf>;

/// Files, with a record of the paths that were asked for. Missing ones are recorded too: their creation is a change.
#[derive(Debug)]
pub struct Recorder<F> {
    files: F,
    seen: Record,
}

/// The paths that were asked for, until now.
#[derive(Clone, Debug, Default)]
pub struct Record(Arc<Mutex<Paths>>);

impl Record {
    /// A copy of them.
    pub fn paths(&self) -> Paths {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<F: Files> Recorder<F> {
    /// The same files, and the record that fills up while they are read.
    pub fn new(files: F) -> (Self, Record) {
        let seen = Record::default();
        (Self { files, seen: seen.clone() }, seen)
    }

    fn note(&self, path: &Path) {
        self.seen.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
    }
}

impl<F: Files> Files for Recorder<F> {
    fn place(&self) -> &Path {
        self.files.place()
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Fault> {
        self.note(path);
        self.files.read(path)
    }

    fn has_file(&self, path: &Path) -> bool {
        self.note(path);
        self.files.has_file(path)
    }

    fn list(&self, folder: &ContextPath) -> Result<Vec<Named>, Fault> {
        self.note(folder.to_path());
        self.files.list(folder)
    }

    fn found(&self, path: &ContextPath) -> Result<Option<FileInfo>, Fault> {
        self.note(path.to_path());
        self.files.found(path)
    }

    fn format(&self) -> ObjectFormat {
        self.files.format()
    }

    fn ids(&self, files: &[&ContextPath]) -> Result<Vec<ObjectId>, Fault> {
        files.iter().for_each(|file| self.note(file.to_path()));
        self.files.ids(files)
    }

    fn regular(&self, path: &Path, most: usize) -> Result<Vec<u8>, Fault> {
        self.note(path);
        self.files.regular(path, most)
    }
}

/// State of a path, as the system reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stamp {
    Absent,
    /// Names in a folder. Its time is not compared: a file that is created and deleted again is not a change.
    Folder(BTreeSet<OsString>),
    /// Device, inode, mode, bytes and both times in nanoseconds. Of a link and of what it leads to.
    Other(Vec<[i64; 8]>),
}

impl Stamp {
    fn of(path: &Path) -> Self {
        let Ok(own) = fs::symlink_metadata(path) else { return Self::Absent };
        if own.is_dir() {
            return Self::Folder(
                fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect(),
            );
        }
        let target = own.is_symlink().then(|| fs::metadata(path).ok()).flatten();
        Self::Other([Some(own), target].into_iter().flatten().map(|metadata| numbers(&metadata)).collect())
    }
}

fn numbers(of: &Metadata) -> [i64; 8] {
    let unsigned = [of.dev(), of.ino(), u64::from(of.mode()), of.size()].map(u64::cast_signed);
    let [device, inode, mode, size] = unsigned;
    [device, inode, mode, size, of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()]
}

/// The state of files at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps(BTreeMap<PathBuf, Stamp>);

impl Stamps {
    /// Looks at these paths of a folder.
    pub fn take(root: &Path, paths: &Paths) -> Self {
        Self(paths.iter().map(|path| (path.clone(), Stamp::of(&root.join(path)))).collect())
    }

    pub fn paths(&self) -> Paths {
        self.0.keys().cloned().collect()
    }

    /// The same state, with that of other paths, where they are not known yet.
    pub fn join(&mut self, other: Self) {
        for (path, stamp) in other.0 {
            self.0.entry(path).or_insert(stamp);
        }
    }

    /// Paths whose state differs; files before the folders that list them.
    pub fn changed(&self, now: &Self) -> Vec<PathBuf> {
        let differing = self.0.iter().filter(|(path, stamp)| now.0.get(*path) != Some(stamp));
        let mut changed: Vec<(bool, &PathBuf)> =
            differing.map(|(path, stamp)| (matches!(stamp, Stamp::Folder(_)), path)).collect();
        changed.sort();
        changed.into_iter().map(|(_, path)| path.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_recorded_and_its_changes_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("templates")).unwrap();
        for (path, text) in [("images.toml", "a"), ("templates/page.html", "b"), ("README.md", "c")] {
            fs::write(root.join(path), text).unwrap();
        }
        let (files, seen) = Recorder::new(root.to_owned());
        files.text(Path::new("images.toml")).unwrap();
        assert!(files.read(Path::new("absent.lock")).unwrap().is_none());
        for entry in files.list(&ContextPath::new("templates")).unwrap() {
            files.ids(&[&ContextPath::new("templates").join(&entry.name)]).unwrap();
        }
        let seen = seen.paths();
        let expected = ["absent.lock", "images.toml", "templates", "templates/page.html"];
        assert_eq!(seen, expected.iter().map(PathBuf::from).collect());

        let before = Stamps::take(root, &seen);
        let check = |change: &dyn Fn(), expected: &[&str]| {
            let before = Stamps::take(root, &seen);
            change();
            let changed = before.changed(&Stamps::take(root, &seen));
            assert_eq!(changed, expected.iter().map(PathBuf::from).collect::<Vec<_>>());
        };
        check(&|| fs::write(root.join("README.md"), "changed").unwrap(), &[]);
        check(&|| fs::write(root.join("templates/page.html"), "longer").unwrap(), &["templates/page.html"]);
        check(&|| fs::write(root.join("absent.lock"), "").unwrap(), &["absent.lock"]);
        check(&|| fs::write(root.join("templates/new.html"), "").unwrap(), &["templates"]);
        check(&|| fs::remove_file(root.join("templates/new.html")).unwrap(), &["templates"]);
        // Renamed over the old one, as editors save.
        check(
            &|| {
                fs::write(root.join("templates/.page"), "xonger").unwrap();
                fs::rename(root.join("templates/.page"), root.join("templates/page.html")).unwrap();
            },
            &["templates/page.html"],
        );
        assert_eq!(before.paths(), seen);
    }
}
