//! Units that cargo compiled and no build has used for long: those of versions, features and flags that were left behind. Cargo itself
//! never deletes them.
//!
//! Cargo reads the fingerprint of each unit of a build, also of one that it does not compile again, so the time of the last access to
//! its files is that of the last use. File systems that record it at most once a day are precise enough.

use super::children;
use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use xtask_model::image::dependencies::unit_hash;

/// Depth of the deepest folder of a profile: `target/compiled/<triple>/<profile>`.
const DEPTH: usize = 3;

/// Unused units of one profile.
pub(super) struct Unused {
    pub profile: PathBuf,
    pub number: usize,
    /// Their files and folders, in the order in which to delete them: without its fingerprint cargo compiles a unit, so whatever ends a
    /// deletion leaves nothing that cargo would take for complete.
    pub paths: Vec<PathBuf>,
    /// Cargo's own lock of the profile: nothing is compiled there while this value lasts.
    _lock: File,
}

/// Units found under `target`.
#[derive(Default)]
pub(super) struct CompiledUnits {
    pub unused: Vec<Unused>,
    /// Folders of profiles that are left alone, each with the reason.
    pub skipped: Vec<(PathBuf, &'static str)>,
}

/// Finds the units under `target` that were not used for this long.
pub(super) fn find(target: &Path, age: Duration, now: SystemTime) -> CompiledUnits {
    let mut found = CompiledUnits::default();
    let mut records = None;
    for profile in profiles(target, DEPTH) {
        // Opened for writing, as cargo does, and never created: cargo makes it before it compiles anything.
        let Ok(lock) = File::options().write(true).open(profile.join(".cargo-lock")) else { continue };
        if lock.try_lock().is_err() {
            found.skipped.push((profile, "cargo works there"));
        } else if !*records.get_or_insert_with(|| records_access(target)) {
            found.skipped.push((profile, "its file system does not record when a file was read"));
        } else {
            let (number, paths) = unused(&profile, age, now);
            if number > 0 {
                found.unused.push(Unused { profile, number, paths, _lock: lock });
            }
        }
    }
    found
}

/// Folders with fingerprints.
fn profiles(folder: &Path, depth: usize) -> Vec<PathBuf> {
    if folder.join(".fingerprint").is_dir() {
        return vec![folder.to_owned()];
    }
    if depth == 0 {
        return Vec::new();
    }
    children(folder).filter(|path| is_folder(path)).flat_map(|path| profiles(&path, depth - 1)).collect()
}

/// Number of unused units of a profile, and their paths.
fn unused(profile: &Path, age: Duration, now: SystemTime) -> (usize, Vec<PathBuf>) {
    let is_old = |folder: &PathBuf| {
        last_use(folder).is_some_and(|used| now.duration_since(used).is_ok_and(|passed| passed > age))
    };
    let old: Vec<PathBuf> =
        children(&profile.join(".fingerprint")).filter(|path| is_folder(path) && is_old(path)).collect();
    if old.is_empty() {
        return (0, Vec::new());
    }
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in ["deps", "examples", "build"].iter().flat_map(|folder| children(&profile.join(folder))) {
        if let Some(hash) = hash(&path) {
            files.entry(hash).or_default().push(path);
        }
    }
    let mut paths = Vec::new();
    let mut number = 0;
    for folder in old {
        let Some(hash) = hash(&folder) else { continue };
        number += 1;
        paths.push(folder);
        paths.extend(files.remove(&hash).unwrap_or_default());
    }
    (number, paths)
}

/// Time of the last use of a unit, by the files of its fingerprint.
fn last_use(fingerprint: &Path) -> Option<SystemTime> {
    let times = |path: PathBuf| {
        let meta = fs::symlink_metadata(path).ok()?;
        Some([meta.accessed().ok()?, meta.modified().ok()?])
    };
    children(fingerprint).filter_map(times).flatten().max()
}

/// Hash of a unit in the name of one of its files: `libserde-0123456789abcdef.rlib`.
fn hash(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy();
    unit_hash(name.split('.').next()?).map(str::to_owned)
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// Returns true if the file system records that a file was read; with `noatime` it does not.
fn records_access(folder: &Path) -> bool {
    let tried = || -> std::io::Result<bool> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        fs::write(file.path(), "x")?;
        let before = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        file.as_file().set_times(FileTimes::new().set_accessed(before).set_modified(before))?;
        file.as_file_mut().read_to_end(&mut Vec::new())?;
        Ok(fs::metadata(file.path())?.accessed()? > before)
    };
    tried().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn a_unit_is_known_by_its_hash() {
        for name in ["libserde-0123456789abcdef.rlib", "serde-0123456789abcdef", "serde-json-0123456789abcdef.d"] {
            assert_eq!(hash(Path::new(name)).as_deref(), Some("0123456789abcdef"), "{name}");
        }
        for name in ["libserde.rlib", "serde-0123456789abcde", "serde-0123456789abcdeg.d", "serde"] {
            assert_eq!(hash(Path::new(name)), None, "{name}");
        }
    }

    #[test]
    fn units_are_unused_by_the_last_access_to_their_fingerprints() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let write = |path: &str, made: u32, read: u32| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            let times = FileTimes::new().set_modified(now - made * DAY).set_accessed(now - read * DAY);
            File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        };
        let (old, used, new) = ("0000000000000000", "1111111111111111", "2222222222222222");
        for profile in ["debug", "x86_64-unknown-linux-gnu/release"] {
            write(&format!("{profile}/.cargo-lock"), 0, 0);
            for (hash, made, read) in [(old, 30, 8), (used, 30, 1), (new, 6, 6)] {
                write(&format!("{profile}/.fingerprint/itoa-{hash}/lib-itoa"), made, read);
                write(&format!("{profile}/.fingerprint/itoa-{hash}/lib-itoa.json"), made, made);
                write(&format!("{profile}/deps/libitoa-{hash}.rlib"), made, made);
                write(&format!("{profile}/deps/itoa-{hash}.d"), made, made);
                write(&format!("{profile}/build/itoa-{hash}/output"), made, made);
            }
            write(&format!("{profile}/deps/unknown"), 30, 30);
        }
        let found = find(folder.path(), 7 * DAY, now);
        assert_eq!(found.skipped, []);
        assert_eq!(found.unused.iter().map(|unused| unused.number).collect::<Vec<_>>(), [1, 1]);
        let parts = [".fingerprint/itoa-H", "deps/itoa-H.d", "deps/libitoa-H.rlib", "build/itoa-H"];
        let expected: Vec<PathBuf> =
            parts.iter().map(|part| folder.path().join("debug").join(part.replace('H', old))).collect();
        assert_eq!(found.unused[0].paths, expected);
        // Cargo's lock is held until they are deleted.
        let lock = File::options().write(true).open(folder.path().join("debug/.cargo-lock")).unwrap();
        assert!(lock.try_lock().is_err());
        drop(found);
        // Nothing is touched where cargo works.
        lock.lock().unwrap();
        let found = find(folder.path(), 7 * DAY, now);
        assert_eq!(found.skipped, [(folder.path().join("debug"), "cargo works there")]);
        assert_eq!(found.unused.len(), 1);
    }
}
