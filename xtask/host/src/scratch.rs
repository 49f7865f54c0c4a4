//! Temporary folders that a later run removes where this one is killed.
//!
//! A folder is locked for as long as its value lives, and the kernel releases the lock with the process, however it ends. What
//! is not locked belongs to nobody and may go. No program inherits the lock: what writes into such a folder has to end with the
//! process that made it.

use crate::linux;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, TempDir};

/// Prefix of folders in a shared folder, such as the system's folder for temporary files. Nothing else may
/// have such a name: what is not locked is removed.
pub const SHARED: &str = "xtask-scratch-";

/// A temporary folder. It is removed with the value.
#[derive(Debug)]
pub struct Scratch {
    // Dropped first: it is removed while it is locked.
    folder: TempDir,
    _lock: Option<File>,
}

impl Scratch {
    /// A folder in `parent`, for its owner alone, whose name starts with `prefix`.
    pub fn new_in(parent: &Path, prefix: &str) -> io::Result<Self> {
        loop {
            let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?;
            match lock(folder.path()) {
                Ok(lock) => return Ok(Self { folder, _lock: lock }),
                // A sweep came between making and locking it, and takes it for nobody's.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A folder in memory, for this many bytes; none where [`linux::memory_folder`] has none.
    pub fn in_memory(bytes: u64) -> Option<Self> {
        Self::new_in(linux::memory_folder(bytes)?, SHARED).ok()
    }

    pub fn new() -> io::Result<Self> {
        Self::new_in(&std::env::temp_dir(), SHARED)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A temporary file in `parent` whose name starts with `prefix`, locked like a folder. It is removed with the value, unless it is
/// given another name.
pub fn file_in(parent: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    loop {
        let file = tempfile::Builder::new().prefix(prefix).tempfile_in(parent)?;
        // Where the file system has no locks a sweep leaves it alone.
        let is_free = !matches!(file.as_file().try_lock(), Err(fs::TryLockError::WouldBlock));
        if is_free && is_at(file.as_file(), file.path()) {
            return Ok(file);
        }
    }
}

/// Locks a new folder. An error of the kind `NotFound` where another process has it or has removed it; none where its file
/// system has no locks, whose folders a sweep leaves alone.
fn lock(folder: &Path) -> io::Result<Option<File>> {
    let file = File::open(folder)?;
    match file.try_lock() {
        Ok(()) if is_at(&file, folder) => Ok(Some(file)),
        Ok(()) | Err(fs::TryLockError::WouldBlock) => Err(ErrorKind::NotFound.into()),
        Err(fs::TryLockError::Error(_)) => Ok(None),
    }
}

/// True if an open folder is still the one of this name.
fn is_at(file: &File, path: &Path) -> bool {
    let place = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let (open, named) = (file.metadata().map(place).ok(), fs::symlink_metadata(path).map(place).ok());
    open.is_some() && open == named
}

pub fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Gives `remove` what in `parent` starts with one of these names and belongs to no process. What cannot be removed costs room,
/// and a later sweep tries again.
pub fn sweep(parent: &Path, prefixes: &[&str], remove: impl Fn(&Path) -> io::Result<()>) {
    for path in unowned(parent, prefixes) {
        // Locked while it goes: nobody takes it for theirs.
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock().is_ok() && is_at(&file, &path) {
            let _ = remove(&path);
        }
    }
}

fn unowned(parent: &Path, prefixes: &[&str]) -> Vec<PathBuf> {
    let mine = rustix::process::geteuid().as_raw();
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let named = entries.filter(|entry| {
        let name = entry.file_name();
        prefixes.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
    });
    // In a shared folder others have theirs; a link leads to what is not ours.
    let own = named
        .filter(|entry| entry.metadata().is_ok_and(|meta| meta.uid() == mine && (meta.is_dir() || meta.is_file())));
    own.map(|entry| entry.path()).collect()
}

/// Removes what killed processes of this user have left in the system's folders for temporary files.
pub fn sweep_temporary() {
    sweep(Path::new(linux::MEMORY), &[SHARED], remove);
    sweep(&std::env::temp_dir(), &[SHARED], |path| if path.is_dir() { remove(path) } else { Ok(()) });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        entries.collect()
    }

    #[test]
    fn a_folder_of_a_live_process_stays_and_one_of_a_dead_process_goes() {
        let parent = tempfile::tempdir().unwrap();
        let live = Scratch::new_in(parent.path(), "work-").unwrap();
        fs::write(live.path().join("file"), "x").unwrap();
        let dead = parent.path().join("work-dead");
        fs::create_dir_all(dead.join("deep")).unwrap();
        fs::write(parent.path().join("work-file"), "x").unwrap();
        fs::create_dir(parent.path().join("other")).unwrap();
        std::os::unix::fs::symlink("other", parent.path().join("work-link")).unwrap();
        let written = file_in(parent.path(), "work-").unwrap();
        sweep(parent.path(), &["work-"], remove);
        assert!(written.path().is_file());
        drop(written);
        let mut left = names(parent.path());
        left.sort();
        let own = live.path().file_name().unwrap().to_str().unwrap().to_owned();
        let mut expected = ["other", "work-link", own.as_str()];
        expected.sort_unstable();
        assert_eq!(left, expected);
        drop(live);
        assert_eq!(names(parent.path()).len(), 2);
    }

    #[test]
    fn what_others_have_under_a_similar_name_stays() {
        let temporary = std::env::temp_dir();
        let others = ["xtask-engine-", "xtask-e2e-"];
        let kept = others.map(|prefix| tempfile::Builder::new().prefix(prefix).tempdir().unwrap());
        let dead = tempfile::Builder::new().prefix(SHARED).tempdir_in(&temporary).unwrap();
        sweep_temporary();
        assert!(kept.iter().all(|folder| folder.path().is_dir()));
        assert!(!dead.path().exists());
    }

    #[test]
    fn folders_are_made_while_others_sweep() {
        let parent = tempfile::tempdir().unwrap();
        let (path, done) = (parent.path(), std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    sweep(path, &["work-"], remove);
                }
            });
            for _ in 0..200 {
                let folder = Scratch::new_in(path, "work-").unwrap();
                fs::write(folder.path().join("file"), "x").unwrap();
                assert!(folder.path().join("file").is_file());
                file_in(path, "work-").unwrap().persist(path.join("kept")).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        assert_eq!(names(path), ["kept"]);
    }
}
