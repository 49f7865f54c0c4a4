//! Packages as the record of an import check has them.

use super::bytecode;
use super::distribution::{Distribution, EnvironmentPlace, is_test};
use crate::layer::item::Bytes;
use crate::layer::packed::{Archives, contents};
use std::collections::BTreeSet;
use std::path::Path;
use xtask_model::fault::Fault;
use xtask_model::spec::lock::checked::CheckedPackage;
use xtask_model::spec::lock::closure::PackageMetadata;
use xtask_model::spec::lock::{LockedPackage, Pin};
use xtask_model::spec::reference::Digest;
use xtask_scan::imports as sources;

pub(super) fn package(
    one: &Distribution,
    locked: &LockedPackage,
    metadata: &PackageMetadata,
    mut imports: BTreeSet<String>,
) -> CheckedPackage {
    let finds_plugins = imports.remove(sources::ENTRY_POINTS);
    CheckedPackage {
        pin: Pin::from(locked),
        record: Digest::of(one.record()),
        requires: metadata.named(),
        imports,
        has_plugins: one.has_plugins,
        finds_plugins,
        paths: one.rows.iter().map(|row| row.path.as_str()).collect(),
    }
}

/// Modules that the sources of a distribution may import. Those of test suites do not count: the check does not import them. `home` has its
/// files, except for the paths that are `taken` by another distribution.
pub(super) fn imports(
    one: &Distribution,
    (home, taken): (Option<&Path>, &BTreeSet<String>),
    place: &EnvironmentPlace<'_>,
) -> Result<BTreeSet<String>, Fault> {
    let (site, mut archives) = (format!("{}/", place.site()), Archives::default());
    let mut found = BTreeSet::new();
    for (path, file) in &one.files {
        if !path.strip_prefix(&site).is_some_and(bytecode::is_source) {
            continue;
        }
        let text = match (home.filter(|_| !taken.contains(path)), &file.bytes) {
            (Some(home), _) => {
                let file = home.join(path);
                std::fs::read(&file)
                    .map_err(|error| Fault::build(format!("cannot read `{}`", file.display())).cause(error))?
            }
            (None, Bytes::Packed(packed)) => archives.bytes(packed)?,
            (None, bytes) => contents(bytes)?,
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
    let rows = package.paths.iter().filter_map(|row| installed(&site, &row)).filter(|path| !is_test(path));
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
    row.and_then(|row| installed(&place.site(), &row))
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
