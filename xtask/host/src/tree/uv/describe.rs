//! Dependencies and wheels of locked packages, found by installing them with uv into a temporary folder.
//!
//! Runs uv. Nothing is compiled, every file is checked by its hash, and what is downloaded stays in uv's cache for the build.

use super::{Indexes, Uv, install_fault, is_unknown_to_the_index};
use crate::process::Command;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use xtask_model::fault::Fault;
use xtask_model::spec::lock::closure::{self, PackageMetadata, Records};
use xtask_model::spec::lock::{Lock, LockedPackage};
use xtask_model::spec::reference::Platform;
use xtask_model::spec::requirements::{Environment, normalised, secret};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WheelTarget {
    /// `linux/amd64 3.12`.
    pub name: String,
    environment: Environment,
    tag: String,
    python: String,
}

impl WheelTarget {
    /// A platform with a Python, `3.12`, whose wheels may ask for a glibc as new as `2_36`; none for an architecture that
    /// uv knows no wheels for.
    pub fn new(platform: &Platform, python: &str, glibc: &str) -> Option<Self> {
        let known = platform.os == "linux" && matches!(platform.architecture.as_str(), "amd64" | "arm64");
        let environment = Environment::new(&format!("{python}.0"), platform);
        let tag = format!("{}-manylinux_{glibc}", environment.machine());
        known.then(|| Self { name: format!("{platform} {python}"), environment, tag, python: python.to_owned() })
    }
}

impl Uv {
    /// The records of a lock's packages. What the lock knows itself is not asked again.
    ///
    /// # Errors
    /// An index that cannot be reached or does not have what is locked; uv's own words.
    pub fn describe(&self, lock: &Lock, indexes: &Indexes, targets: &[WheelTarget]) -> Result<Records, Fault> {
        let mut records = lock.records.clone();
        let names: BTreeSet<String> = targets.iter().map(|target| target.name.clone()).collect();
        let everywhere = *records.targets() == names;
        let folder =
            tempfile::tempdir().map_err(|error| Fault::build("cannot make a temporary folder").cause(error))?;
        for target in targets {
            let here = closure::pins_of(&lock.packages, &target.environment).0.into_values();
            let mut open: Vec<&LockedPackage> =
                here.filter(|package| !everywhere || records.of(package).is_none()).collect();
            // A file of a direct reference is a wheel by its name.
            let archive = |package: &LockedPackage| {
                let file = package.url.as_deref().map(|url| url.split(['#', '?']).next().unwrap_or_default());
                file.is_some_and(|file| !file.ends_with(".whl"))
            };
            let forbidden = |package: &&LockedPackage| {
                archive(package) || lock.no_binary.contains(":all:") || lock.no_binary.contains(&package.name)
            };
            let place = folder.path().join(target.name.replace(['/', ' '], "-"));
            let mut lacking: Vec<&LockedPackage> = open.extract_if(.., |package| forbidden(package)).collect();
            while !open.is_empty() {
                let Err(said) = self.install(&open, indexes, target, &place, true)? else { break };
                let without =
                    |package: &&LockedPackage| said.contains(&format!("{}=={} has no ", package.name, package.version));
                let found: Vec<&LockedPackage> = open.extract_if(.., |package| without(package)).collect();
                if found.is_empty() {
                    return Err(refused(&said));
                }
                lacking.extend(found);
            }
            lacking.iter().for_each(|package| records.add_missing_wheel(package, &target.name));
            open.retain(|package| records.of(package).is_none());
            if open.is_empty() {
                continue;
            }
            if let Err(said) = self.install(&open, indexes, target, &place, false)? {
                return Err(refused(&said));
            }
            let mut found = read(&place)?;
            for package in open {
                let metadata = found.remove(&package.name).ok_or_else(|| {
                    Fault::build(format!("{} {} was installed without metadata", package.name, package.version))
                })?;
                records.set_metadata(package, metadata);
            }
        }
        records.set_targets(names);
        Ok(records)
    }

    /// One call of uv; the inner error is uv's words.
    fn install(
        &self,
        packages: &[&LockedPackage],
        indexes: &Indexes,
        target: &WheelTarget,
        place: &Path,
        dry: bool,
    ) -> Result<Result<(), String>, Fault> {
        let list = place.with_extension("list");
        super::save(&list, &packages.iter().map(|package| line(package, indexes)).collect::<String>())?;
        let command = self.installing(indexes).args(["pip", "install", "--quiet", "--no-deps", "--no-build"]);
        let command = command.args(["--require-hashes", "--link-mode", "symlink"]).arg("--target").arg(place);
        let command = command.args(["--python-platform", &target.tag, "--python-version", &target.python]);
        let with = |command: Command, yes: bool, word: &str| if yes { command.arg(word) } else { command };
        let command = with(with(command, dry, "--dry-run"), indexes.no_index(), "--no-index");
        let output = command.arg("-r").arg(&list).output()?;
        let said = secret::redacted(String::from_utf8_lossy(&output.stderr).trim());
        Ok(if output.status.success() { Ok(()) } else { Err(said) })
    }
}

fn line(package: &LockedPackage, indexes: &Indexes) -> String {
    let hashes: String = package.hashes.iter().map(|hash| format!(" --hash={hash}")).collect();
    match &package.url {
        Some(url) => format!("{} @ {}{hashes}\n", package.name, indexes.url(url)),
        None => format!("{}=={}{hashes}\n", package.name, package.version),
    }
}

fn refused(said: &str) -> Fault {
    let fault = install_fault(said).needed_by("the check of what the locked packages require");
    if is_unknown_to_the_index(said) || !fault.hints.is_empty() { fault } else { fault.hint("read uv's message above") }
}

fn read(folder: &Path) -> Result<BTreeMap<String, PackageMetadata>, Fault> {
    let cannot = |error: std::io::Error| Fault::build("cannot read what uv installed").cause(error);
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.extension().is_some_and(|end| end == "dist-info") {
            let bytes = std::fs::read(path.join("METADATA")).map_err(cannot)?;
            let text = String::from_utf8_lossy(&bytes);
            let name = text.lines().find_map(|line| line.strip_prefix("Name:")).unwrap_or_default();
            found.insert(normalised(name.trim()), PackageMetadata::of_metadata(&text));
        }
    }
    Ok(found)
}
