//! Folders that are made once and read by any number of processes.
//!
//! A folder is made as `NAME.partial`, gets its final name when it is complete, and is never written to after that. Who reads it holds
//! `NAME.lock` shared; who makes or removes it holds the lock alone. The lock's time is that of the last use.

use super::cannot_write;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;

/// The folder of these folders.
pub(super) struct KeptFolders(PathBuf);

/// A complete folder, which stays while this value lives.
pub(super) struct Used {
    pub(super) path: PathBuf,
    lock: File,
}

impl Used {
    /// Sets the time of last use. If it cannot be set, the folder is removed a little earlier.
    pub(super) fn touch(&self, now: SystemTime) {
        let _ = self.lock.set_modified(now);
    }
}

impl KeptFolders {
    /// Creates the folder if it is missing. It may hold files of any owner: no one else may read it.
    pub(super) fn open(folder: &Path) -> Result<Self, Fault> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| cannot_write(folder, &error))?;
        Ok(Self(folder.to_owned()))
    }

    /// The same, if the folder exists.
    pub(super) fn existing(folder: &Path) -> Option<Self> {
        folder.is_dir().then(|| Self(folder.to_owned()))
    }

    /// The folder of this name, if it is complete.
    pub(super) fn find(&self, name: &str) -> Result<Option<Used>, Fault> {
        while self.is_whole(name) {
            let lock = self.lock(name)?;
            lock.lock_shared().map_err(|error| cannot_write(&self.path(name, "lock"), &error))?;
            if is_current(&lock) {
                return Ok(self.used(name, lock));
            }
        }
        Ok(None)
    }

    /// Waits until no other process holds this name, and holds it for as long as the value lives.
    pub(super) fn hold(&self, name: &str) -> Result<File, Fault> {
        loop {
            let lock = self.lock(name)?;
            wait_for(&lock, &self.path(name, "lock"))?;
            if is_current(&lock) {
                return Ok(lock);
            }
        }
    }

    /// The folder of this name, which is made unless it is complete. `None` if `make` finds that it cannot be made.
    pub(super) fn get(&self, name: &str, make: impl Fn(&Path) -> Result<bool, Fault>) -> Result<Option<Used>, Fault> {
        loop {
            if let Some(used) = self.find(name)? {
                return Ok(Some(used));
            }
            let (lock, lock_path) = (self.hold(name)?, self.path(name, "lock"));
            if !self.is_whole(name) && !self.make(name, &make)? {
                let _ = fs::remove_file(&lock_path);
                return Ok(None);
            }
            // Changing a lock's mode releases it in between: another process may have removed the folder.
            lock.lock_shared().map_err(|error| cannot_write(&lock_path, &error))?;
            if is_current(&lock)
                && let Some(used) = self.used(name, lock)
            {
                return Ok(Some(used));
            }
        }
    }

    /// Removes all but the folders of the last `uses`, those that are in use, and those that are `coming`. Folders that were used together
    /// have the same time.
    pub(super) fn make_room(&self, uses: usize, coming: &BTreeSet<String>) {
        let times: BTreeMap<String, SystemTime> =
            self.names().into_iter().map(|name| (name.clone(), self.last_use(&name))).collect();
        let others = times.iter().filter(|(name, _)| !coming.contains(*name) && self.is_whole(name));
        let newest: BTreeSet<SystemTime> = others.map(|(_, time)| *time).collect();
        let oldest = newest.into_iter().rev().take(uses).next_back();
        for (name, time) in &times {
            let kept = coming.contains(name) || oldest.is_some_and(|oldest| *time >= oldest);
            self.remove(name, !kept);
        }
    }

    /// Removes incomplete folders, unless a process is making them.
    pub(super) fn sweep(&self) {
        self.names().iter().for_each(|name| self.remove(name, false));
    }

    /// Names of complete folders that were not used for this time.
    pub(super) fn unused(&self, age: Duration, now: SystemTime) -> Vec<String> {
        let is_old = |name: &String| {
            self.is_whole(name) && now.duration_since(self.last_use(name)).is_ok_and(|passed| passed > age)
        };
        self.names().into_iter().filter(is_old).collect()
    }

    /// Names of all folders, complete or not.
    fn names(&self) -> BTreeSet<String> {
        let paths = fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path());
        paths.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
    }

    fn last_use(&self, name: &str) -> SystemTime {
        let modified = fs::metadata(self.path(name, "lock")).and_then(|metadata| metadata.modified());
        modified.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Removes what is incomplete of a name, or all of it, unless it is in use. An error only costs disk space.
    pub(super) fn remove(&self, name: &str, all: bool) {
        let partial = self.path(name, "partial");
        if !all && self.is_whole(name) && !partial.exists() {
            return;
        }
        let Ok(lock) = self.lock(name) else { return };
        if lock.try_lock().is_err() || !is_current(&lock) {
            return;
        }
        if !all && self.is_whole(name) {
            let _ = remove(&partial);
            return;
        }
        let _ = remove(&partial);
        // A removal that is interrupted leaves nothing that looks complete.
        let gone = !self.is_whole(name) || fs::rename(self.0.join(name), &partial).is_ok();
        if gone && remove(&partial).is_ok() {
            let _ = fs::remove_file(self.path(name, "lock"));
        }
    }

    fn make(&self, name: &str, make: &impl Fn(&Path) -> Result<bool, Fault>) -> Result<bool, Fault> {
        let (partial, folder) = (self.path(name, "partial"), self.0.join(name));
        let cannot = |error| cannot_write(&partial, &error);
        remove(&partial).map_err(cannot)?;
        fs::create_dir(&partial).map_err(cannot)?;
        if !make(&partial)? {
            return remove(&partial).map(|()| false).map_err(cannot);
        }
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&partial, mode).and_then(|()| fs::rename(&partial, folder)).map_err(cannot)?;
        Ok(true)
    }

    fn is_whole(&self, name: &str) -> bool {
        self.0.join(name).is_dir()
    }

    fn used(&self, name: &str, lock: File) -> Option<Used> {
        let path = self.0.join(name);
        path.is_dir().then(|| Used { path, lock })
    }

    fn lock(&self, name: &str) -> Result<File, Fault> {
        let path = self.path(name, "lock");
        File::options().create(true).append(true).open(&path).map_err(|error| cannot_write(&path, &error))
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.0.join(format!("{name}.{extension}"))
    }
}

/// Returns true if a lock was not removed with its folder while this process waited for it.
fn is_current(lock: &File) -> bool {
    lock.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

fn wait_for(lock: &File, path: &Path) -> Result<(), Fault> {
    let mut said = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(cannot_write(path, &error)),
            Err(TryLockError::WouldBlock) => {}
        }
        if !said {
            terminal::step("waiting", "another xtask is unpacking this image");
            said = true;
        }
        process::interrupted()?;
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Removes a folder, with folders that their owner may not change.
fn remove(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            open_up(folder)?;
            fs::remove_dir_all(folder)
        }
        other => other,
    }
}

fn open_up(folder: &Path) -> std::io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}
