//! Packages as files, for the compiler and the import check: in memory where this machine has room there.

use super::distribution::{Distribution, InstalledFile};
use crate::layer::item::Bytes;
use crate::layer::packed::Archives;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use xtask_host::linux;
use xtask_host::scratch::Scratch;
use xtask_model::fault::Fault;

/// Test suites are neither compiled nor imported, and are half of the files of a scientific set.
const TESTS: [&str; 2] = ["test", "tests"];

/// Files that a thread takes at once.
const CHUNK: usize = 64;

/// Room in memory that packages of unknown size are unpacked in.
const AMPLE: u64 = 1 << 30;

/// A temporary folder with the installed packages.
pub(super) struct Folder(Scratch);

impl Folder {
    /// An empty one, with room for these distributions and this many bytes.
    pub(super) fn new(work: &Path, prefix: &str, distributions: &[Distribution], more: u64) -> Result<Self, Fault> {
        let bytes = distributions.iter().map(size).sum::<u64>() + more;
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

    /// Writes what the packages are imported from: without test suites, or these alone.
    pub(super) fn unpack(&self, distributions: &[Distribution], tests: bool) -> Result<(), Fault> {
        let mut files: BTreeMap<&str, &InstalledFile> = BTreeMap::new();
        // The last one in the lock's order is used.
        for distribution in distributions {
            files.extend(distribution.files.iter().map(|(path, file)| (path.as_str(), file)));
        }
        files.retain(|path, _| is_test(path) == tests);
        write(&self.home(), &files.into_iter().collect::<Vec<_>>())
    }

    /// Writes a distribution without test suites, and returns the paths that the folder has already, which it leaves alone.
    pub(super) fn unpack_one(&self, distribution: &Distribution) -> Result<BTreeSet<String>, Fault> {
        let (home, mut archives, mut taken) = (self.home(), Archives::default(), BTreeSet::new());
        let files = distribution.files.iter().map(|(path, file)| (path.as_str(), file));
        let files: Vec<_> = files.filter(|(path, _)| !is_test(path)).collect();
        make_parents(&home, &files)?;
        for (path, file) in files {
            if !write_one(&home.join(path), file, &mut archives)? {
                taken.insert(path.to_owned());
            }
        }
        Ok(taken)
    }

    /// Gives these paths the version that is used: that of the last distribution that has it.
    pub(super) fn settle<'p>(
        &self,
        distributions: &[Distribution],
        paths: impl Iterator<Item = &'p String>,
    ) -> Result<(), Fault> {
        let (home, mut archives) = (self.home(), Archives::default());
        for path in paths.filter(|path| !is_test(path)) {
            let Some(file) = distributions.iter().rev().find_map(|one| one.files.get(path)) else { continue };
            let at = home.join(path);
            fs::remove_file(&at).map_err(|error| cannot(&at)(error))?;
            write_one(&at, file, &mut archives)?;
        }
        Ok(())
    }
}

/// Bytes of the files of a distribution.
pub(super) fn size(distribution: &Distribution) -> u64 {
    distribution.files.values().map(|file| file.bytes.size()).sum()
}

/// True for a file of a test suite.
pub(super) fn is_test(path: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(folders, _)| folders.split('/').any(|part| TESTS.contains(&part)))
}

fn cannot(path: &Path) -> impl Fn(std::io::Error) -> Fault {
    move |error| Fault::build(format!("cannot write `{}`", path.display())).cause(error)
}

fn make_parents(folder: &Path, files: &[(&str, &InstalledFile)]) -> Result<(), Fault> {
    let parents: BTreeSet<&str> =
        files.iter().map(|(path, _)| path.rsplit_once('/').map_or("", |(parent, _)| parent)).collect();
    parents.into_iter().try_for_each(|parent| fs::create_dir_all(folder.join(parent))).map_err(cannot(folder))
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

fn write(folder: &Path, files: &[(&str, &InstalledFile)]) -> Result<(), Fault> {
    make_parents(folder, files)?;
    let next = AtomicUsize::new(0);
    let run = || {
        let mut archives = Archives::default();
        loop {
            let at = next.fetch_add(CHUNK, Ordering::Relaxed);
            let Some(chunk) = files.get(at..).filter(|rest| !rest.is_empty()) else { return Ok(()) };
            for (path, file) in &chunk[..chunk.len().min(CHUNK)] {
                let path = folder.join(path);
                if !write_one(&path, file, &mut archives)? {
                    return Err(cannot(&path)(ErrorKind::AlreadyExists.into()));
                }
            }
        }
    };
    let threads =
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(files.len().div_ceil(CHUNK));
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let own = run();
        others
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .fold(own, Result::and)
    })
}
