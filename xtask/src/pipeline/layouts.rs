//! The folders of images that stay on this machine: written by one build at a time, and put in place only when they are whole.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::policy::ImageKind;

/// Number of layouts of each kind of app to keep on this machine.
pub const KEPT: usize = 5;

/// Waits until no other build works in this folder: two would write one layout. The later finds what the earlier built.
///
/// # Errors
/// The folder cannot be written, or the wait was interrupted.
pub fn lock(folder: &Path) -> Result<File, Fault> {
    let path = folder.join("lock");
    std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, error))?;
    let file = File::create(&path).map_err(|error| cannot_write(&path, error))?;
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(cannot_write(&path, error)),
            Err(TryLockError::WouldBlock) => {}
        }
        if !said {
            terminal::step("waiting", "for another build of this repository");
            said = true;
        }
        process::interrupted()?;
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Makes an empty folder for a layout.
pub(super) fn prepare(partial: &Path) -> Result<(), Fault> {
    remove(partial)?;
    std::fs::create_dir_all(partial).map_err(|error| cannot_write(partial, error))
}

/// Puts a finished layout in its place. What a killed build leaves behind has another name, and is removed by the next.
pub(super) fn keep(partial: &Path, folder: &Path) -> Result<(), Fault> {
    remove(folder)?;
    std::fs::rename(partial, folder).map_err(|error| cannot_write(folder, error))
}

/// Layouts whose names begin with a prefix, newest first.
pub fn layouts(images: &Path, prefix: &str) -> Vec<PathBuf> {
    let made = |path: &Path| std::fs::metadata(path.join("index.json")).and_then(|meta| meta.modified()).ok();
    let mut found: Vec<(SystemTime, PathBuf)> = std::fs::read_dir(images)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_none())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .filter_map(|path| Some((made(&path)?, path)))
        .collect();
    found.sort_by(|one, two| two.cmp(one));
    found.into_iter().map(|(_, path)| path).collect()
}

/// Removes all but the newest layouts of an app. Bases stay: one is worth minutes.
pub(super) fn prune(images: &Path, kind: ImageKind, prefix: &str) -> Result<(), Fault> {
    if kind == ImageKind::Base {
        return Ok(());
    }
    layouts(images, prefix).iter().skip(KEPT).try_for_each(|old| remove_layout(old))
}

/// Removes a layout. Renamed first, so that half of one is never used.
pub fn remove_layout(folder: &Path) -> Result<(), Fault> {
    let partial = folder.with_extension("partial");
    remove(&partial)?;
    std::fs::rename(folder, &partial).map_err(|error| cannot_write(folder, error))?;
    remove(&partial)
}

fn remove(folder: &Path) -> Result<(), Fault> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot_write(folder, error)),
        _ => Ok(()),
    }
}

fn cannot_write(path: &Path, error: impl std::fmt::Display) -> Fault {
    Fault::build(format!("cannot write `{}`", path.display())).cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_apps_stay_and_every_base() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: String, age: u64| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("index.json"), "{}").unwrap();
            let made = SystemTime::now() - Duration::from_secs(age);
            File::options().write(true).open(path.join("index.json")).unwrap().set_modified(made).unwrap();
        };
        for age in 0..8 {
            write(format!("app-{age}-linux-amd64"), age);
            write(format!("base-{age}-linux-amd64"), age);
        }
        prune(folder.path(), ImageKind::Base, "base-").unwrap();
        prune(folder.path(), ImageKind::App, "app-").unwrap();
        let names = |prefix| {
            let found = layouts(folder.path(), prefix);
            found.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names("base-").len(), 8);
        let newest: Vec<String> = (0..KEPT).map(|age| format!("app-{age}-linux-amd64")).collect();
        assert_eq!(names("app-"), newest);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 8 + KEPT);
    }
}
