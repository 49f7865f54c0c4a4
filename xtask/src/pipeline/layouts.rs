//! The folders of images that stay on this machine: written by one build at a time, and put in place only when they are whole.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;

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

fn remove(folder: &Path) -> Result<(), Fault> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot_write(folder, error)),
        _ => Ok(()),
    }
}

fn cannot_write(path: &Path, error: impl std::fmt::Display) -> Fault {
    Fault::build(format!("cannot write `{}`", path.display())).cause(error)
}
