//! The wheel of a locked package that an installer would take.

use super::LockedPackage;
use crate::spec::requirements::{Specifier, Version};
use crate::spec::wheel::page::IndexFile;
use crate::spec::wheel::{Tags, WheelName};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// The Python that installs.
#[derive(Clone, Debug)]
pub struct Python {
    pub version: Version,
    pub tags: Tags,
}

/// Reason why none of the files can be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoWheel {
    /// There are no files of this version.
    NoVersion,
    /// The wheels, if any, are for other Pythons or platforms: their names.
    NotForThis(Vec<String>),
    /// The wheels that fit have other hashes than the lock: their names.
    OtherHashes(Vec<String>),
}

/// Place of a wheel among those that fit, the smallest first: without a stated hash, rank of the tag, build tag.
type WheelRank = (bool, usize, Reverse<Option<(u64, String)>>);

/// The sha256 digests that a lock allows for a package, in lower case.
pub fn allowed(package: &LockedPackage) -> BTreeSet<String> {
    package.hashes.iter().filter_map(|hash| hash.strip_prefix("sha256:")).map(str::to_ascii_lowercase).collect()
}

/// The file to install: of those whose hash the lock has, or that state none, the one with the preferred tag, then with the highest
/// build tag, then the first. Yanked files count, as for every pinned version.
///
/// # Errors
/// The reason why there is none.
pub fn choose<'f>(
    files: impl IntoIterator<Item = &'f IndexFile>,
    package: &LockedPackage,
    python: &Python,
) -> Result<(&'f IndexFile, WheelName), NoWheel> {
    let pin = Specifier::new("==", &package.version);
    let allowed = allowed(package);
    let (mut best, mut found): (Option<(WheelRank, &IndexFile, WheelName)>, bool) = (None, false);
    let (mut unfit, mut other) = (Vec::new(), Vec::new());
    for file in files {
        let Ok(wheel) = file.name.parse::<WheelName>() else {
            found |= is_archive_of(&file.name, package);
            continue;
        };
        if wheel.name != package.name || !pin.as_ref().is_ok_and(|pin| pin.contains(&wheel.version)) {
            continue;
        }
        found = true;
        let rank = python.tags.rank(&wheel).filter(|_| takes(file.requires_python.as_deref(), &python.version));
        let Some(rank) = rank else {
            unfit.push(file.name.clone());
            continue;
        };
        let stated = file.sha256.as_ref();
        if stated.is_some_and(|stated| !allowed.contains(stated)) {
            other.push(file.name.clone());
            continue;
        }
        // The first of equals stays.
        let place = (stated.is_none(), rank, Reverse(wheel.build.clone()));
        if best.as_ref().is_none_or(|(known, ..)| place < *known) {
            best = Some((place, file, wheel));
        }
    }
    match best {
        Some((_, file, wheel)) => Ok((file, wheel)),
        None if !other.is_empty() => Err(NoWheel::OtherHashes(other)),
        None if found => Err(NoWheel::NotForThis(unfit)),
        None => Err(NoWheel::NoVersion),
    }
}

/// The source archive to build: of those whose hash the lock has, or that state none, the first, a `.tar.gz` before others.
///
/// # Errors
/// The reason why there is none.
pub fn archive<'f>(
    files: impl IntoIterator<Item = &'f IndexFile>,
    package: &LockedPackage,
) -> Result<&'f IndexFile, NoWheel> {
    let allowed = allowed(package);
    let all = files.into_iter().filter(|file| !file.name.ends_with(".whl") && is_archive_of(&file.name, package));
    let (known, other): (Vec<_>, Vec<_>) =
        all.partition(|file| file.sha256.as_ref().is_none_or(|stated| allowed.contains(stated)));
    match known.into_iter().min_by_key(|file| (file.sha256.is_none(), !file.name.ends_with(".tar.gz"))) {
        Some(file) => Ok(file),
        None if other.is_empty() => Err(NoWheel::NoVersion),
        None => Err(NoWheel::OtherHashes(other.into_iter().map(|file| file.name.clone()).collect())),
    }
}

/// True if a file of this name is of the package in its version: what [`choose`] and [`archive`] look at.
pub fn is_of(file: &str, package: &LockedPackage) -> bool {
    let Ok(wheel) = file.parse::<WheelName>() else { return is_archive_of(file, package) };
    let pin = Specifier::new("==", &package.version);
    wheel.name == package.name && pin.is_ok_and(|pin| pin.contains(&wheel.version))
}

fn is_archive_of(file: &str, package: &LockedPackage) -> bool {
    crate::spec::requirements::distribution(file).is_some_and(|(name, version)| {
        let same = version.parse::<Version>().is_ok_and(|version| version.to_string() == package.version);
        name == package.name && same
    })
}

/// True if a Python is among those that a file is for. What cannot be read excludes nothing.
fn takes(wanted: Option<&str>, python: &Version) -> bool {
    const OPERATORS: [&str; 8] = ["===", "~=", "==", "!=", "<=", ">=", "<", ">"];
    let all = wanted.unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty());
    all.into_iter().all(|part| {
        let Some(operator) = OPERATORS.into_iter().find(|operator| part.starts_with(operator)) else { return true };
        let version = part[operator.len()..].trim();
        // `>=3.6.*` is common, though PEP 440 does not allow it.
        let version = if matches!(operator, "==" | "!=") { version } else { version.trim_end_matches(".*") };
        Specifier::new(operator, version).is_ok_and(|one| one.contains(python))
            || Specifier::new(operator, version).is_err()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn package(hashes: &[&str]) -> LockedPackage {
        LockedPackage {
            name: "a-b".to_owned(),
            version: "1.0".to_owned(),
            extras: BTreeSet::new(),
            marker: None,
            url: None,
            hashes: hashes.iter().map(|hash| format!("sha256:{hash}")).collect(),
        }
    }

    fn python() -> Python {
        Python { version: "3.13.5".parse().unwrap(), tags: Tags::cpython("3.13.5", "x86_64", "2_36").unwrap() }
    }

    fn file(name: &str, sha256: &str) -> IndexFile {
        let sha256 = (!sha256.is_empty()).then(|| sha256.to_owned());
        IndexFile { name: name.to_owned(), sha256, ..IndexFile::default() }
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: Result<&str, NoWheel>) {
        let files: Vec<IndexFile> = files.iter().map(|(name, hash)| file(name, hash)).collect();
        let found = choose(&files, &package(&["1", "2", "3"]), &python());
        assert_eq!(found.map(|(file, _)| file.name.as_str()), expected);
    }

    #[test]
    fn the_preferred_wheel_with_a_locked_hash_is_chosen() {
        let any = ("A_b-1.0-py3-none-any.whl", "1");
        let own = ("a_b-1.0-cp313-cp313-manylinux_2_17_x86_64.whl", "2");
        check(&[any, own], Ok(own.0));
        check(&[own, any], Ok(own.0));
        check(&[(own.0, "9"), any], Ok(any.0));
        check(&[(own.0, ""), any], Ok(any.0));
        check(&[(own.0, ""), (any.0, "9")], Ok(own.0));
        check(
            &[any, ("a_b-1.0-2-py3-none-any.whl", "2"), ("a_b-1.0-10-py3-none-any.whl", "3")],
            Ok("a_b-1.0-10-py3-none-any.whl"),
        );
        check(&[any, ("a.b-1.0.0-py3-none-any.whl", "2")], Ok(any.0));
    }

    #[test]
    fn the_reason_for_none_is_reported() {
        let musl = "a_b-1.0-cp313-cp313-musllinux_1_2_x86_64.whl";
        check(&[], Err(NoWheel::NoVersion));
        check(&[("a_b-1.1-py3-none-any.whl", "1"), ("b-1.0-py3-none-any.whl", "1")], Err(NoWheel::NoVersion));
        check(&[("a_b-1.0.tar.gz", "1")], Err(NoWheel::NotForThis(Vec::new())));
        check(&[(musl, "1"), ("a_b-1.0.tar.gz", "2")], Err(NoWheel::NotForThis(vec![musl.to_owned()])));
        let any = "a_b-1.0-py3-none-any.whl";
        check(&[(any, "9"), (musl, "1")], Err(NoWheel::OtherHashes(vec![any.to_owned()])));
    }

    #[test]
    fn the_files_python_counts() {
        for (wanted, fits) in [
            (">=3.8", true),
            (">=3.14", false),
            ("~=3.13.0", true),
            (">=3.6.*, !=3.13.*", false),
            (">=3.6.*", true),
            ("<4,>=3", true),
            ("==3.12.*", false),
            ("whatever", true),
            (">=x", true),
            (",", true),
        ] {
            let any = IndexFile { requires_python: Some(wanted.to_owned()), ..file("a_b-1.0-py3-none-any.whl", "1") };
            assert_eq!(choose([&any], &package(&["1"]), &python()).is_ok(), fits, "{wanted}");
        }
    }

    proptest! {
        #[test]
        fn the_order_of_files_does_not_matter(order in Just((0..6usize).collect::<Vec<_>>()).prop_shuffle()) {
            let names = ["py3-none-any", "cp313-cp313-manylinux2014_x86_64", "cp311-abi3-manylinux2014_x86_64", "1-py3-none-any",
                "cp313-cp313-manylinux_2_28_x86_64", "cp312-cp312-manylinux2014_x86_64"];
            let files: Vec<IndexFile> = order.iter().map(|index| file(&format!("a_b-1.0-{}.whl", names[*index]), "1")).collect();
            let (chosen, _) = choose(&files, &package(&["1"]), &python()).unwrap();
            prop_assert_eq!(&chosen.name, "a_b-1.0-cp313-cp313-manylinux_2_28_x86_64.whl");
        }
    }
}
