//! Packages as files, for the compiler and the import check: in memory where this machine has room there.

use super::distribution::{Distribution, InstalledFile};
use crate::layer::item::Bytes;
use crate::layer::packed::Archives;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use xtask_host::scratch::Scratch;
use xtask_model::fault::Fault;

/// Test suites are neither compiled nor imported, and are half of the files of a scientific set.
const TESTS: [&str; 2] = ["test", "tests"];

/// Files that a thread takes at once.
const CHUNK: usize = 64;

/// A temporary folder with the installed packages.
pub(super) struct Folder(Scratch);

impl Folder {
    /// An empty one, with room for these distributions and this many bytes.
    pub(super) fn new(work: &Path, prefix: &str, distributions: &[Distribution], more: u64) -> Result<Self, Fault> {
        let sizes = distributions.iter().flat_map(|one| one.files.values()).map(|file| file.bytes.size());
        let bytes = sizes.sum::<u64>() + more;
        let made = Scratch::in_memory(bytes).map_or_else(
            || {
                fs::create_dir_all(work)?;
                Scratch::new_in(work, prefix)
            },
            Ok,
        );
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
        let home = self.home();
        write(&home, &files.into_iter().collect::<Vec<_>>())
    }
}

/// True for a file of a test suite.
pub(super) fn is_test(path: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(folders, _)| folders.split('/').any(|part| TESTS.contains(&part)))
}

fn write(folder: &Path, files: &[(&str, &InstalledFile)]) -> Result<(), Fault> {
    let cannot = |error: std::io::Error| Fault::build(format!("cannot write `{}`", folder.display())).cause(error);
    let parents: BTreeSet<&str> =
        files.iter().map(|(path, _)| path.rsplit_once('/').map_or("", |(parent, _)| parent)).collect();
    parents.into_iter().try_for_each(|parent| fs::create_dir_all(folder.join(parent))).map_err(cannot)?;
    let next = AtomicUsize::new(0);
    let run = || {
        let mut archives = Archives::default();
        loop {
            let at = next.fetch_add(CHUNK, Ordering::Relaxed);
            let Some(chunk) = files.get(at..).filter(|rest| !rest.is_empty()) else { return Ok(()) };
            for (path, file) in &chunk[..chunk.len().min(CHUNK)] {
                let mode = if file.executable { 0o755 } else { 0o644 };
                let out = File::options().write(true).create_new(true).mode(mode).open(folder.join(path));
                let mut out = out.map_err(cannot)?;
                match &file.bytes {
                    Bytes::Here(bytes) => out.write_all(bytes).map_err(cannot)?,
                    Bytes::Packed(packed) => {
                        archives.read(packed, &mut |_| Ok(()), &mut |bytes| out.write_all(bytes).map_err(cannot))?;
                    }
                    Bytes::At { file, .. } => drop(fs::copy(file, folder.join(path)).map_err(cannot)?),
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
