//! Packages as files, for the compiler and the import check: in memory where this machine has room there.

use super::distribution::{Distribution, EnvironmentPlace, InstalledFile, is_test};
use super::installed::Installed;
use super::shared::Owners;
use crate::layer::item::Bytes;
use crate::layer::packed::Archives;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use xtask_host::linux;
use xtask_host::scratch::Scratch;
use xtask_model::fault::Fault;

/// Room in memory that packages of unknown size are unpacked in.
const AMPLE: u64 = 1 << 30;

/// A temporary folder with the installed packages.
pub(super) struct Folder(Scratch);

impl Folder {
    /// An empty one, with room for this many bytes.
    pub(super) fn new(work: &Path, prefix: &str, bytes: u64) -> Result<Self, Fault> {
        Scratch::in_memory(bytes).map_or_else(|| Self::on_disk(work, prefix), |made| Ok(Self(made)))
    }

    /// An empty one for packages that are not known yet, with the bytes that it has room for.
    pub(super) fn early(work: &Path, prefix: &str) -> Result<(Self, u64), Fault> {
        let room = linux::memory_room();
        match Scratch::in_memory(AMPLE).filter(|_| room > AMPLE) {
            Some(made) => Ok((Self(made), room)),
            None => Ok((Self::on_disk(work, prefix)?, u64::MAX)),
        }
    }

    fn on_disk(work: &Path, prefix: &str) -> Result<Self, Fault> {
        let made = fs::create_dir_all(work).and_then(|()| Scratch::new_in(work, prefix));
        made.map(Self).map_err(|error| Fault::build(format!("cannot write `{}`", work.display())).cause(error))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The environment's folder, where the root's Python finds the packages.
    pub(super) fn home(&self) -> PathBuf {
        self.path().join("environment")
    }

    /// Folder for byte code of a distribution's versions that are not used.
    pub(super) fn own(&self, name: &str) -> PathBuf {
        self.path().join("shared").join(name)
    }

    /// Writes what packages are imported from: without test suites, or these alone.
    pub(super) fn unpack(
        &self,
        installed: &[Installed],
        tests: bool,
        place: &EnvironmentPlace<'_>,
    ) -> Result<(), Fault> {
        // The last one in the lock's order is used.
        installed.iter().rev().try_for_each(|one| {
            let unpacked = self.unpack_one(&one.distribution(place)?, tests)?;
            // Paths were compared before.
            unpacked.map(drop).ok_or_else(|| cannot(&self.home())(ErrorKind::NotADirectory.into()))
        })
    }

    /// Writes a distribution without test suites, or these alone, and returns the paths that the folder has already, which it leaves alone.
    /// `None` if the folder has a file where a folder is needed, or a folder where a file is.
    pub(super) fn unpack_one(
        &self,
        distribution: &Distribution,
        tests: bool,
    ) -> Result<Option<BTreeSet<String>>, Fault> {
        let (home, mut archives, mut taken) = (self.home(), Archives::default(), BTreeSet::new());
        let files = || distribution.files.iter().filter(|(path, _)| is_test(path) == tests);
        if !make_parents(&home, files().map(|(path, _)| path.as_str()))? {
            return Ok(None);
        }
        for (path, file) in files() {
            let at = home.join(path);
            if !write_one(&at, file, &mut archives)? {
                if at.is_dir() {
                    return Ok(None);
                }
                taken.insert(path.clone());
            }
        }
        Ok(Some(taken))
    }

    /// Gives paths that several packages have the version that is used: that of the last one.
    pub(super) fn settle(
        &self,
        installed: &[Installed],
        owners: &Owners,
        place: &EnvironmentPlace<'_>,
    ) -> Result<(), Fault> {
        let (home, mut archives) = (self.home(), Archives::default());
        for one in installed {
            let is_used = |(path, owners): &(&String, &Vec<String>)| {
                !is_test(path) && owners.last().is_some_and(|last| *last == one.name)
            };
            let paths: Vec<&String> = owners.iter().filter(is_used).map(|(path, _)| path).collect();
            if paths.is_empty() {
                continue;
            }
            let distribution = one.distribution(place)?;
            for (path, file) in paths.into_iter().filter_map(|path| Some((path, distribution.files.get(path)?))) {
                let at = home.join(path);
                fs::remove_file(&at).map_err(|error| cannot(&at)(error))?;
                write_one(&at, file, &mut archives)?;
            }
        }
        Ok(())
    }
}

fn cannot(path: &Path) -> impl Fn(std::io::Error) -> Fault {
    move |error| Fault::build(format!("cannot write `{}`", path.display())).cause(error)
}

/// Makes the folders of these paths. False if one is a file.
fn make_parents<'p>(folder: &Path, files: impl Iterator<Item = &'p str>) -> Result<bool, Fault> {
    let parents: BTreeSet<&str> = files.map(|path| path.rsplit_once('/').map_or("", |(parent, _)| parent)).collect();
    match parents.into_iter().try_for_each(|parent| fs::create_dir_all(folder.join(parent))) {
        Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotADirectory) => Ok(false),
        made => made.map(|()| true).map_err(cannot(folder)),
    }
}

/// Writes a file. False if the path has one already.
fn write_one(path: &Path, file: &InstalledFile, archives: &mut Archives) -> Result<bool, Fault> {
    let mode = if file.executable { 0o755 } else { 0o644 };
    let mut out = match File::options().write(true).create_new(true).mode(mode).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        opened => opened.map_err(cannot(path))?,
    };
    match &file.bytes {
        Bytes::Here(bytes) => out.write_all(bytes).map_err(cannot(path))?,
        Bytes::Packed(packed) => {
            archives.read(packed, &mut |_| Ok(()), &mut |bytes| out.write_all(bytes).map_err(cannot(path)))?;
        }
        Bytes::At { file, .. } => drop(fs::copy(file, path).map_err(cannot(path))?),
    }
    Ok(true)
}
