//! Packages as the record of an import check has them.

use super::distribution::{Distribution, EnvironmentPlace};
use super::{HOME, Unpacked, bytecode};
use crate::layer::packed::contents;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use xtask_model::fault::Fault;
use xtask_model::spec::lock::closure::PackageMetadata;
use xtask_model::spec::lock::{LockedPackage, Pin};
use xtask_model::spec::reference::Digest;
use xtask_model::spec::wheel::checked::{CheckedPackage, Packages};
use xtask_scan::imports as sources;

/// Describes distributions, for `python3.13`. What is said of each follows from its own wheel.
pub(super) fn all(unpacked: &Unpacked<'_>, locked: &[LockedPackage], python: &str) -> Result<Packages, Fault> {
    let distributions = unpacked.distributions;
    let place = EnvironmentPlace { home: HOME, folder: python };
    let locked: BTreeMap<&str, &LockedPackage> = locked.iter().map(|package| (&*package.name, package)).collect();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Ok(Packages::new())));
    let run = || {
        while let Some(one) = distributions.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(locked) = locked.get(&*one.name) else { continue };
            let described = imports(one, unpacked, &place).map(|imports| package(one, locked, imports));
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            match (described, &mut *found) {
                (Ok(package), Ok(found)) => drop(found.insert(one.name.clone(), package)),
                (Err(fault), found) => *found = Err(fault),
                (Ok(_), Err(_)) => {}
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(distributions.len());
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(run))));
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn package(one: &Distribution, locked: &LockedPackage, mut imports: BTreeSet<String>) -> CheckedPackage {
    let finds_plugins = imports.remove(sources::ENTRY_POINTS);
    CheckedPackage {
        pin: Pin::from(locked),
        record: Digest::of(one.record()),
        requires: PackageMetadata::of_metadata(&one.metadata).named(),
        imports,
        has_plugins: one.has_plugins,
        finds_plugins,
        paths: one.rows.iter().map(|row| row.path.clone()).collect(),
    }
}

/// What the sources of a distribution may import. Those of test suites do not count: the check does not import them.
fn imports(
    one: &Distribution,
    unpacked: &Unpacked<'_>,
    place: &EnvironmentPlace<'_>,
) -> Result<BTreeSet<String>, Fault> {
    let (site, home) = (format!("{}/", place.site()), unpacked.folder.home());
    let mut found = BTreeSet::new();
    for (path, file) in &one.files {
        if !path.strip_prefix(&site).is_some_and(bytecode::is_source) {
            continue;
        }
        // The folder has the version of another distribution.
        let text = if unpacked.owners.contains_key(path) {
            contents(&file.bytes)?
        } else {
            let file = home.join(path);
            std::fs::read(&file)
                .map_err(|error| Fault::build(format!("cannot read `{}`", file.display())).cause(error))?
        };
        sources::add(&text, &mut found);
    }
    Ok(found)
}

/// Path of an installed file from the environment's folder, from its path in `RECORD`; `None` for one that leads out.
pub(super) fn installed(site: &str, row: &str) -> Option<String> {
    let mut parts: Vec<&str> = site.split('/').collect();
    for part in row.split('/') {
        match part {
            ".." => drop(parts.pop()?),
            "" | "." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The files of a package that are imported from, with their byte code, by path from the environment's folder.
pub(super) fn imported_from(package: &CheckedPackage, place: &EnvironmentPlace<'_>) -> BTreeSet<String> {
    let site = place.site();
    let rows =
        package.paths.iter().filter_map(|row| installed(&site, row)).filter(|path| !super::unpack::is_test(path));
    let mut found = BTreeSet::new();
    for path in rows {
        found.extend(place.byte_code(&path));
        found.insert(path);
    }
    found
}

/// Path of a package's `RECORD`, from the environment's folder.
pub(super) fn record_of(package: &CheckedPackage, place: &EnvironmentPlace<'_>) -> Option<String> {
    let row = package.paths.iter().find(|path| path.ends_with(".dist-info/RECORD") && path.matches('/').count() == 1);
    row.and_then(|row| installed(&place.site(), row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_path_below_the_environment_or_nothing() {
        let site = "lib/python3.13/site-packages";
        for (row, expected) in [
            ("a/b.py", Some("lib/python3.13/site-packages/a/b.py")),
            ("../../../bin/x", Some("bin/x")),
            ("../../../../x", None),
            ("/etc/passwd", None),
            ("a//b", None),
            ("./a", None),
        ] {
            assert_eq!(installed(site, row).as_deref(), expected, "{row}");
        }
    }
}
