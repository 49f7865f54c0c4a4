//! Records of a package that a build keeps between the steps that need its files.
//!
//! A large base has tens of thousands of files. Their places are read again from the wheel when they are needed, of one package after the
//! other, so that memory does not grow with the base.

use super::bytecode;
use super::distribution::{Distribution, EnvironmentPlace};
use super::{bytecode::TOGETHER, describe};
use crate::wheel::Wheel;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use xtask_model::fault::Fault;
use xtask_model::spec::lock::LockedPackage;
use xtask_model::spec::lock::checked::CheckedPackage;
use xtask_model::spec::lock::closure::PackageMetadata;

/// A wheel on this machine: its path and its own name.
pub(super) type Arrived = (PathBuf, String);

pub(super) struct Installed {
    pub(super) name: String,
    pub(super) metadata: PackageMetadata,
    /// Bytes of its files.
    pub(super) size: u64,
    /// Number of the chunks of its sources.
    pub(super) chunks: usize,
    locked: LockedPackage,
    wheel: Arrived,
    /// A number for each path from the environment's folder. Equal paths have equal numbers, and a few others may too.
    paths: Vec<u64>,
    /// The same for its folders.
    folders: Vec<u64>,
}

impl Installed {
    /// Reads where the files of a wheel are installed.
    pub(super) fn read(
        (path, name): &Arrived,
        locked: &LockedPackage,
        place: &EnvironmentPlace<'_>,
    ) -> Result<Distribution, Fault> {
        Distribution::new(&Wheel::open(path, name)?, locked, place)
    }

    /// `imports` are the names that its sources may import.
    pub(super) fn new(
        distribution: &Distribution,
        (wheel, locked): (Arrived, &LockedPackage),
        place: &EnvironmentPlace<'_>,
        imports: BTreeSet<String>,
    ) -> (Self, CheckedPackage) {
        let metadata = PackageMetadata::of_metadata(&distribution.metadata);
        let site = format!("{}/", place.site());
        let is_source = |path: &&String| path.strip_prefix(&site).is_some_and(bytecode::is_source);
        let package = describe::package(distribution, locked, &metadata, imports);
        let installed = Self {
            name: distribution.name.clone(),
            metadata,
            size: distribution.size(),
            chunks: distribution.files.keys().filter(is_source).count().div_ceil(TOGETHER),
            locked: locked.clone(),
            wheel,
            paths: distribution.files.keys().map(|path| number(path)).collect(),
            folders: distribution.all_folders().into_iter().map(number).collect(),
        };
        (installed, package)
    }

    /// Its files, as they are installed.
    pub(super) fn distribution(&self, place: &EnvironmentPlace<'_>) -> Result<Distribution, Fault> {
        Self::read(&self.wheel, &self.locked, place)
    }

    /// False if none of its folders is one of these.
    pub(super) fn may_have_folder(&self, numbers: &BTreeSet<u64>) -> bool {
        self.folders.iter().any(|folder| numbers.contains(folder))
    }

    /// False if none of its paths is one of these.
    pub(super) fn may_have(&self, numbers: &BTreeSet<u64>) -> bool {
        self.paths.iter().any(|path| numbers.contains(path))
    }
}

/// Numbers of paths that are a package's file and a package's folder.
pub(super) fn divided(all: &[Installed]) -> BTreeSet<u64> {
    let folders: BTreeSet<u64> = all.iter().flat_map(|one| &one.folders).copied().collect();
    all.iter().flat_map(|one| &one.paths).filter(|path| folders.contains(path)).copied().collect()
}

/// Numbers of paths that several packages have.
pub(super) fn repeated(all: &[Installed]) -> BTreeSet<u64> {
    let mut numbers: Vec<u64> = all.iter().flat_map(|one| &one.paths).copied().collect();
    numbers.sort_unstable();
    numbers.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect()
}

pub(super) fn number(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}
