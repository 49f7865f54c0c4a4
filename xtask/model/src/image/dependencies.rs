//! Compiled dependencies of the app's program, as an artifact in the registry: its names, its document, and what may be in it.
//!
//! The artifact has the files of cargo that belong to crates of registries and git, and none of the workspace's own.

use crate::image::key::Fingerprint;
use crate::spec::reference::{Digest, Tag};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Type of the artifact.
pub const ARTIFACT: &str = "application/vnd.dev.xtask.dependencies.v2";

/// Media type of its [`Contents`].
pub const CONTENTS: &str = "application/vnd.dev.xtask.dependencies.contents.v2+json";

/// Longest artifact that is pulled, in bytes as it is sent.
pub const LONGEST: u64 = 2 << 30;

/// Longest artifact that is unpacked, in bytes.
pub const LONGEST_UNPACKED: u64 = 8 << 30;

/// Most layers of an artifact. Each is pulled and unpacked by a thread of its own.
pub const LAYERS: usize = 4;

/// Longest document, in bytes.
pub const LONGEST_CONTENTS: u64 = 4 << 20;

/// Name of its repository, by the app's.
pub fn repository(app: &str) -> String {
    format!("{app}-target")
}

/// Everything that decides whether cargo uses what another machine has compiled, by name.
pub type CompileInputs = BTreeMap<&'static str, String>;

/// Hash of the inputs and of the artifact's form.
pub fn key(inputs: &CompileInputs) -> Fingerprint {
    let digest = Digest::of(serde_json::to_string(&(ARTIFACT, inputs)).expect("texts are JSON").as_bytes());
    digest.hex().parse().expect("a digest is a fingerprint")
}

/// Tag that builds read.
pub fn tag(key: &Fingerprint) -> Tag {
    key.tag(32)
}

const UNTESTED: &str = "-untested";

/// Tag until the tests of the commit have passed. No build reads it.
pub fn untested(key: &Fingerprint) -> Tag {
    format!("{}{UNTESTED}", tag(key)).parse().expect("hex digits and a word are a tag")
}

/// Tag that an untested one becomes.
pub fn tested(tag: &Tag) -> Option<Tag> {
    tag.as_str().strip_suffix(UNTESTED)?.parse().ok()
}

/// Document of the artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Number of crates.
    pub crates: usize,
    /// Names of cargo's units: `serde-0123456789abcdef`.
    pub units: BTreeSet<String>,
    /// Uncompressed digests of the layers.
    pub diff_ids: Vec<Digest>,
    /// Files that are a part of another one, and are made of it after unpacking.
    pub parts: BTreeMap<String, FilePart>,
}

/// Bytes of a file: the metadata of a crate is in its library once more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePart {
    pub of: String,
    pub at: u64,
    pub size: u64,
}

/// Destination of a file of cargo.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Belongs {
    /// A file of its own, at this path: a library or a macro.
    File(String),
    /// To the folder of a unit, at this path: what its build script made.
    Built(String),
    /// To the folder of a unit, at this path, that makes cargo trust all other files of the unit.
    Fingerprint(String),
}

impl Contents {
    /// Destination of a file, by its path below cargo's folder for build output. `None` if it does not belong into an artifact.
    pub fn belongs(&self, path: &str) -> Option<Belongs> {
        let parts: Vec<&str> = path.split('/').collect();
        if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return None;
        }
        let kind = parts.iter().position(|part| KINDS.contains(part)).filter(|at| (1..=2).contains(at))?;
        let name = *parts.get(kind + 1)?;
        let is_last = parts.len() == kind + 2;
        let upto = || parts[..=kind + 1].join("/");
        match parts[kind] {
            "deps" if is_last => {
                let (stem, end) = name.rsplit_once('.')?;
                let (_, hash) = stem.rsplit_once('-')?;
                let known = LIBRARIES.contains(&end) && self.units.iter().any(|unit| unit_hash(unit) == Some(hash));
                known.then(|| Belongs::File(upto()))
            }
            "build" if !is_last && self.units.contains(name) => Some(Belongs::Built(upto())),
            ".fingerprint" if !is_last && self.units.contains(name) => Some(Belongs::Fingerprint(upto())),
            _ => None,
        }
    }

    /// Spreads files over layers of about the same size. What belongs together stays together.
    pub fn layers(&self, sizes: &BTreeMap<String, u64>) -> Vec<Vec<String>> {
        let mut groups: BTreeMap<Option<Belongs>, (u64, Vec<String>)> = BTreeMap::new();
        for (path, size) in sizes {
            let (total, paths) = groups.entry(self.belongs(path)).or_default();
            *total += size;
            paths.push(path.clone());
        }
        let mut groups: Vec<(u64, Vec<String>)> = groups.into_values().collect();
        // The largest first: the small ones then even out what is left.
        groups.sort_by(|one, other| other.cmp(one));
        let mut layers = vec![(0, Vec::new()); LAYERS.min(groups.len())];
        for (size, paths) in groups {
            let layer = layers.iter_mut().min_by_key(|(total, _)| *total).expect("a layer for each of few groups");
            layer.0 += size;
            layer.1.extend(paths);
        }
        layers.into_iter().map(|(_, paths)| paths).collect()
    }

    /// Units that are of none of these crates.
    pub fn strangers(&self, crates: &BTreeSet<String>) -> Vec<&str> {
        let known = |unit: &String| unit_crate(unit).is_some_and(|name| crates.contains(name));
        self.units.iter().filter(|unit| !known(unit)).map(String::as_str).collect()
    }
}

const KINDS: [&str; 3] = ["deps", "build", ".fingerprint"];
const LIBRARIES: [&str; 4] = ["rlib", "rmeta", "so", "dylib"];

/// Hash in the name of a unit.
pub fn unit_hash(unit: &str) -> Option<&str> {
    let (_, hash) = unit.rsplit_once('-')?;
    (hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit())).then_some(hash)
}

/// Crate in the name of a unit.
fn unit_crate(unit: &str) -> Option<&str> {
    unit_hash(unit).and_then(|hash| unit.strip_suffix(hash)?.strip_suffix('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        let units = ["serde-0123456789abcdef", "my-sys-00000000000000aa"].map(str::to_owned);
        Contents { crates: 2, units: units.into(), ..Contents::default() }
    }

    #[test]
    fn only_files_of_its_units_belong_to_an_artifact() {
        let belongs = |path: &str| contents().belongs(path);
        let file = |path: &str| Some(Belongs::File(path.to_owned()));
        for path in
            ["release/deps/libserde-0123456789abcdef.rlib", "x86_64-linux/release/deps/libx-00000000000000aa.so"]
        {
            assert_eq!(belongs(path), file(path), "{path}");
        }
        assert_eq!(
            belongs("release/build/my-sys-00000000000000aa/out/a/b.o"),
            Some(Belongs::Built("release/build/my-sys-00000000000000aa".to_owned()))
        );
        assert_eq!(
            belongs("dev/.fingerprint/serde-0123456789abcdef/lib-serde"),
            Some(Belongs::Fingerprint("dev/.fingerprint/serde-0123456789abcdef".to_owned()))
        );
        for path in [
            "release/app",
            "deps/libserde-0123456789abcdef.rlib",
            "release/deps/app-ffffffffffffffff",
            "release/deps/libapp-ffffffffffffffff.rlib",
            "release/deps/serde-0123456789abcdef.d",
            "release/deps/serde-0123456789abcdef",
            "release/.fingerprint/app-ffffffffffffffff/bin-app",
            "release/.fingerprint/serde-0123456789abcdef",
            "release/build/../deps/libserde-0123456789abcdef.rlib",
            "a/b/release/deps/libserde-0123456789abcdef.rlib",
            "/release/deps/libserde-0123456789abcdef.rlib",
            "",
        ] {
            assert_eq!(belongs(path), None, "{path}");
        }
    }

    #[test]
    fn layers_are_of_about_the_same_size_and_have_each_file_once() {
        let folder = |number: u64| format!("release/build/my-sys-00000000000000aa/out/{number}");
        let library = |number: u64| format!("release/deps/libx{number}-00000000000000aa.rlib");
        let mut sizes: BTreeMap<String, u64> = (1..40).map(|number| (library(number), number * 10)).collect();
        sizes.extend((0..9).map(|number| (folder(number), 20)));
        let layers = contents().layers(&sizes);
        let totals: Vec<u64> = layers.iter().map(|paths| paths.iter().map(|path| sizes[path]).sum()).collect();
        assert!(layers.len() == LAYERS && totals.iter().max() < totals.iter().min().map(|least| least + 20).as_ref());
        let mut all = layers.concat();
        all.sort();
        assert_eq!(all, sizes.keys().cloned().collect::<Vec<_>>());
        assert_eq!(layers.iter().filter(|paths| paths.iter().any(|path| path.contains("/out/"))).count(), 1);
        assert_eq!(contents().layers(&BTreeMap::from([(library(1), 1)])).len(), 1);
        assert!(contents().layers(&BTreeMap::new()).is_empty());
    }

    #[test]
    fn units_of_other_crates_are_strangers() {
        let known = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(contents().strangers(&known(&["serde", "my-sys"])), Vec::<&str>::new());
        assert_eq!(contents().strangers(&known(&["serde", "my"])), ["my-sys-00000000000000aa"]);
    }

    #[test]
    fn untested_artifacts_have_a_tag_that_no_build_reads() {
        let key = key(&CompileInputs::from([("crates", "serde 1".to_owned())]));
        assert_eq!(tested(&untested(&key)), Some(tag(&key)));
        assert_eq!(tested(&tag(&key)), None);
    }
}
