//! Everything that determines an image's contents, as one value that can be printed, hashed and compared.
//!
//! Pure. A key serialises to JSON, travels with the image (label and annotation) and so explains itself later. The
//! encoding is versioned: changing what a key holds means raising [`SCHEMA`], and a golden test watches the bytes.

use crate::image::context::{ContextEntry, ContextPath, FileKind};
use crate::spec::lock;
use crate::spec::lock::sources::SourceKey;
use crate::spec::reference::{Digest, Malformed, Platform, Tag};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Prefix of the name of a root from Debian's packages. No reference has it.
pub const FALLBACK: &str = "debian:";

/// The version of the encoding. A key of another version never equals ours.
pub const SCHEMA: u32 = 3;

/// The label and annotation that hold an image's full fingerprint.
pub const FINGERPRINT_LABEL: &str = "dev.xtask.image.fingerprint";

/// The label and annotation that hold the whole key as JSON.
pub const KEY_LABEL: &str = "dev.xtask.image.key";

/// The sha256 of a key's encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint(Digest);

impl Fingerprint {
    /// The tag made of the first `length` hex digits.
    pub fn tag(&self, length: usize) -> Tag {
        self.0.hex()[..length].parse().expect("hex digits are a tag")
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

impl FromStr for Fingerprint {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        format!("sha256:{text}").parse().map(Self).map_err(|_| Malformed(format!("`{text}` is not a fingerprint")))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootKey {
    /// The image's name, or `debian:trixie` for one built from Debian's packages.
    pub image: String,
    pub digests: BTreeMap<Platform, Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseKey {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `base.epoch` of the policy.
    pub epoch: u32,
    pub root: RootKey,
    pub python: String,
    pub lock: lock::LockMeaning,
    /// Packages without a wheel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceKey>,
    pub dockerfile: Vec<String>,
    pub args: BTreeMap<String, String>,
    /// Labels of the policy: those that say the same of every build of this key.
    pub labels: BTreeMap<String, String>,
    /// Files that the Dockerfile reads, but for the lock, which counts by its meaning. Sorted.
    pub files: Vec<ContextEntry>,
    pub compression: String,
    /// Debian packages on the root by name, each with version and digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub system: BTreeMap<Platform, BTreeMap<String, String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinaryKey {
    /// Package and binary: `autoscaler/autoscaler`.
    pub name: String,
    pub profile: String,
    /// The toolchain, as `rust-toolchain.toml` pins it or `rustc -V` prints it.
    pub toolchain: String,
    /// Digest over the locked crates that the package reaches: names, versions, checksums.
    pub crates: Digest,
    /// Digest over the package's files and the workspace's manifests.
    pub sources: Digest,
    /// The crates that are compiled incrementally: those whose sources are not the commit's, and those above them. None for a
    /// published image.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub incremental: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppKey {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The base's fingerprint, as hex; none for one built from scratch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Box<BaseKey>>,
    pub dockerfile: Vec<String>,
    pub args: BTreeMap<String, String>,
    /// Labels of the policy: those that say the same of every build of this key.
    pub labels: BTreeMap<String, String>,
    /// Files that the Dockerfile reads, but for the binary, which counts by its recipe. Sorted.
    pub files: Vec<ContextEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<BinaryKey>,
    /// The image or toolchain that compiles the binary in a stage of the Dockerfile, for an app from scratch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiler: Option<String>,
    /// Compression of the app's own layers. The base's key has it too, but a pinned base keeps the one it was built with.
    pub compression: String,
}

/// Part of the app that was edited. Compiling a program takes longer than copying files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EditKind {
    Program,
    Files,
}

impl EditKind {
    /// Kind of edit between an earlier app and a new one; `None` if only their bases differ.
    pub fn between(old: &AppKey, new: &AppKey) -> Option<Self> {
        let rest = |key: &AppKey| AppKey { base: None, scratch: None, binary: None, ..key.clone() };
        match old.binary == new.binary {
            false => Some(Self::Program),
            true => (rest(old) != rest(new)).then_some(Self::Files),
        }
    }
}

impl fmt::Display for EditKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Program => "edits of the program",
            Self::Files => "edits of copied files",
        })
    }
}

pub trait Key: Serialize {
    /// The kind's name, which separates equal encodings of different kinds.
    const KIND: &'static str;

    /// The key as compact JSON with fixed field order and sorted maps.
    fn json(&self) -> String {
        serde_json::to_string(self).expect("keys hold only texts, numbers and lists")
    }

    /// [`Self::fingerprint_of`] its JSON.
    fn fingerprint(&self) -> Fingerprint {
        Self::fingerprint_of(&self.json())
    }

    /// sha256 over kind, length and JSON.
    fn fingerprint_of(json: &str) -> Fingerprint {
        Fingerprint(Digest::of(format!("{} {}\n{json}", Self::KIND, json.len()).as_bytes()))
    }
}

impl Key for BaseKey {
    const KIND: &'static str = "base";
}

impl Key for AppKey {
    const KIND: &'static str = "app";
}

/// One difference between a published key and ours, ready to be read: `scipy 1.16.3 -> 1.17.0`.
pub fn base_changes(old: &BaseKey, new: &BaseKey, names: &FileNames<'_>) -> Vec<String> {
    let mut changes = Vec::new();
    if old.schema != new.schema {
        changes.push(format!("the key's schema {} -> {}", old.schema, new.schema));
    }
    if old.epoch != new.epoch {
        changes.push(format!("epoch {} -> {} ({})", old.epoch, new.epoch, names.policy));
    }
    if old.root.image != new.root.image {
        changes.push(format!("root {} -> {}", old.root.image, new.root.image));
    } else {
        for (platform, digest) in &new.root.digests {
            match old.root.digests.get(platform) {
                Some(before) if before != digest => {
                    changes.push(format!("root {} {platform}: {} -> {}", new.root.image, short(before), short(digest)));
                }
                None => changes.push(format!("root {}: platform {platform} is new", new.root.image)),
                Some(_) => {}
            }
        }
        for platform in old.root.digests.keys().filter(|platform| !new.root.digests.contains_key(*platform)) {
            changes.push(format!("root {}: platform {platform} is gone", new.root.image));
        }
    }
    if old.python != new.python {
        changes.push(format!("python {} -> {}", old.python, new.python));
    }
    changes.extend(lock::diff(&old.lock, &new.lock).iter().map(|change| format!("{change} ({})", names.lock)));
    source_changes(&old.sources, &new.sources, &mut changes);
    line_changes(&old.dockerfile, &new.dockerfile, names, &mut changes);
    map_changes("build argument", &old.args, &new.args, &mut changes);
    map_changes("label", &old.labels, &new.labels, &mut changes);
    if old.schema == new.schema {
        file_changes(&old.files, &new.files, &mut changes);
    }
    text_change("compression", &old.compression, &new.compression, &mut changes);
    changes.extend(system_changes(old, new));
    changes
}

/// Changed Debian packages, each once where it is the same for all platforms.
fn system_changes(old: &BaseKey, new: &BaseKey) -> BTreeSet<String> {
    let mut changes = BTreeSet::new();
    let none = BTreeMap::new();
    let version = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
    for platform in old.system.keys().chain(new.system.keys()) {
        let (before, after) = [old, new].map(|key| key.system.get(platform).unwrap_or(&none)).into();
        for name in before.keys().chain(after.keys()) {
            let change = match (before.get(name), after.get(name)) {
                (Some(one), Some(other)) if one == other => continue,
                (Some(one), Some(other)) if version(one) == version(other) => {
                    format!("{name} {}: hash changed", version(one))
                }
                (Some(one), Some(other)) => format!("{name} {} -> {}", version(one), version(other)),
                (Some(one), None) => format!("removed {name} {}", version(one)),
                (None, other) => format!("added {name} {}", other.map_or_else(String::new, |other| version(other))),
            };
            changes.insert(format!("{change} ({})", lock::images::PATH));
        }
    }
    changes
}

/// Changes of build requirements. A new, removed or other source is a change of the lock too.
fn source_changes(old: &[SourceKey], new: &[SourceKey], changes: &mut Vec<String>) {
    let shown = |key: &SourceKey| {
        let list: Vec<String> = key.build.iter().map(|pin| format!("{} {}", pin.name, pin.version)).collect();
        if list.is_empty() { "nothing".to_owned() } else { list.join(", ") }
    };
    for after in new {
        match old.iter().find(|before| before.name == after.name) {
            None => changes.push(format!("{} is built from source, with {}", after.name, shown(after))),
            Some(before) if before.build != after.build => {
                let (before, now) = (shown(before), shown(after));
                let what = if before == now {
                    "other files of the same versions".to_owned()
                } else {
                    format!("{before} -> {now}")
                };
                changes.push(format!("build requirements of {}: {what} (images.lock)", after.name));
            }
            Some(_) => {}
        }
    }
    let gone = old.iter().filter(|before| new.iter().all(|after| after.name != before.name));
    changes.extend(gone.map(|before| format!("{} is no longer built from source", before.name)));
}

pub fn app_changes(old: &AppKey, new: &AppKey, names: &FileNames<'_>) -> Vec<String> {
    let mut changes = Vec::new();
    if old.schema != new.schema {
        changes.push(format!("the key's schema {} -> {}", old.schema, new.schema));
    }
    match (&old.base, &new.base) {
        (Some(before), Some(after)) if before != after => {
            changes.push(format!("base {} -> {}", &before[..before.len().min(12)], &after[..after.len().min(12)]));
        }
        _ => {}
    }
    if let (Some(before), Some(after)) = (&old.scratch, &new.scratch) {
        changes.extend(base_changes(before, after, names));
    }
    line_changes(&old.dockerfile, &new.dockerfile, names, &mut changes);
    map_changes("build argument", &old.args, &new.args, &mut changes);
    map_changes("label", &old.labels, &new.labels, &mut changes);
    if old.schema == new.schema {
        file_changes(&old.files, &new.files, &mut changes);
    }
    if let (Some(before), Some(after)) = (&old.binary, &new.binary) {
        text_change("binary", &before.name, &after.name, &mut changes);
        text_change("cargo profile", &before.profile, &after.profile, &mut changes);
        text_change("toolchain", &before.toolchain, &after.toolchain, &mut changes);
        if before.crates != after.crates {
            changes.push(format!("locked crates of {} (Cargo.lock)", after.name));
        }
        if before.incremental.is_empty() != after.incremental.is_empty() {
            let compiled = |binary: &BinaryKey| match binary.incremental.is_empty() {
                true => "full",
                false => "incremental",
            };
            changes.push(format!("compilation of {} {} -> {}", after.name, compiled(before), compiled(after)));
        }
        if before.sources != after.sources {
            let which = if names.sources.is_empty() { String::new() } else { format!(" {}", names.sources) };
            changes.push(format!("sources of {}{which}", after.name));
        }
    }
    if let (Some(before), Some(after)) = (&old.compiler, &new.compiler) {
        text_change("compiler", before, after, &mut changes);
    }
    text_change("compression", &old.compression, &new.compression, &mut changes);
    changes
}

fn text_change(what: &str, old: &str, new: &str, changes: &mut Vec<String>) {
    if old != new {
        changes.push(format!("{what} {old} -> {new}"));
    }
}

/// The first differences of many, and the number of the others: a moved folder has a thousand, and they are printed on a page,
/// in a record, in an error. `explain` names all.
pub fn foremost(changes: &[String]) -> Vec<String> {
    const SHOWN: usize = 20;
    let mut shown = changes.to_vec();
    if changes.len() > SHOWN + 1 {
        shown.truncate(SHOWN);
        shown.push(format!("{} more", changes.len() - SHOWN));
    }
    shown
}

pub struct FileNames<'a> {
    pub policy: &'a str,
    pub lock: &'a str,
    pub dockerfile: &'a str,
    /// The line of each instruction of the newer Dockerfile.
    pub lines: &'a [usize],
    /// Changed sources of the program, as far as they are known: `changed since 0123456789ab: src/main.rs`. A key holds one digest over all
    /// of them.
    pub sources: &'a str,
}

fn short(digest: &Digest) -> String {
    digest.hex()[..12].to_owned()
}

fn line_changes(old: &[String], new: &[String], names: &FileNames<'_>, changes: &mut Vec<String>) {
    if old == new {
        return;
    }
    let same = old.iter().zip(new).take_while(|(before, after)| before == after).count();
    let shown = new.get(same).or_else(|| old.get(same)).map_or("", String::as_str);
    let shown: String = shown.chars().take(60).collect();
    let place = match names.lines.get(same) {
        Some(line) => format!("{} line {line}", names.dockerfile),
        None => format!("{} instruction {}", names.dockerfile, same + 1),
    };
    changes.push(format!("{place} (`{shown}`)"));
}

fn map_changes(what: &str, old: &BTreeMap<String, String>, new: &BTreeMap<String, String>, changes: &mut Vec<String>) {
    for (name, after) in new {
        match old.get(name) {
            None => changes.push(format!("{what} {name} is new")),
            Some(before) if before != after => changes.push(format!("{what} {name} {before} -> {after}")),
            Some(_) => {}
        }
    }
    changes.extend(old.keys().filter(|name| !new.contains_key(*name)).map(|name| format!("{what} {name} is gone")));
}

/// True if a folder is listed in one key and whole in the other.
fn is_folder(before: FileKind, after: FileKind) -> bool {
    [before, after].iter().all(|kind| matches!(kind, FileKind::Dir | FileKind::Tree))
}

fn file_changes(old: &[ContextEntry], new: &[ContextEntry], changes: &mut Vec<String>) {
    let index =
        |files: &[ContextEntry]| files.iter().map(|file| (file.path.clone(), file.clone())).collect::<BTreeMap<_, _>>();
    // A large folder is one entry, whose files are not in the key: nothing is known of each.
    let folders = |files: &[ContextEntry]| {
        let whole = files.iter().filter(|file| file.kind == FileKind::Tree);
        whole.map(|file| file.path.clone()).collect::<Vec<_>>()
    };
    let (old_folders, new_folders) = (folders(old), folders(new));
    let is_below =
        |path: &ContextPath, folders: &[ContextPath]| folders.iter().any(|folder| path.below(folder).is_some());
    let (old, new) = (index(old), index(new));
    for (path, after) in &new {
        match old.get(path) {
            None if is_below(path, &old_folders) => {}
            None => changes.push(format!("{path} is new")),
            Some(before) if before.kind != after.kind && !is_folder(before.kind, after.kind) => {
                changes.push(format!("{path} became another kind of file"))
            }
            Some(before) if before.id != after.id => changes.push(format!("{path} was edited")),
            Some(before) if before.mode != after.mode => {
                changes.push(format!("{path}: mode {:o} -> {:o}", before.mode, after.mode));
            }
            Some(_) => {}
        }
    }
    let gone = old.keys().filter(|path| !new.contains_key(*path) && !is_below(path, &new_folders));
    changes.extend(gone.map(|path| format!("{path} is gone")));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::image::context::{ContextPath, ObjectFormat, ObjectId};
    use crate::spec::lock::sources::SourcePin;
    use expect_test::expect;

    const NAMES: FileNames<'_> = FileNames {
        policy: "images.toml",
        lock: "requirements-enhanced.lock",
        dockerfile: "dockerfiles/Dockerfile.base",
        lines: &[3, 4, 9],
        sources: "",
    };

    pub(crate) fn base_key() -> BaseKey {
        BaseKey {
            schema: SCHEMA,
            epoch: 0,
            root: RootKey {
                image: "docker.io/library/python:3.12-slim".to_owned(),
                digests: BTreeMap::from([("linux/amd64".parse().unwrap(), Digest::of(b"root"))]),
            },
            python: "3.12".to_owned(),
            lock: lock::LockMeaning {
                schema: lock::SCHEMA,
                packages: vec![lock::Pin {
                    name: "scipy".to_owned(),
                    version: "1.16.3".to_owned(),
                    extras: BTreeSet::new(),
                    marker: None,
                    url: None,
                    hashes: Digest::of(b"hashes"),
                }],
                no_binary: BTreeSet::new(),
                only_binary: BTreeSet::new(),
            },
            sources: Vec::new(),
            dockerfile: vec!["ARG ROOT_IMAGE".to_owned(), "FROM ${ROOT_IMAGE}".to_owned()],
            args: BTreeMap::new(),
            labels: BTreeMap::from([("org.opencontainers.image.title".to_owned(), "app-base".to_owned())]),
            files: vec![ContextEntry {
                path: ContextPath::new("dockerfiles/check-imports.py"),
                kind: FileKind::File,
                mode: 0o644,
                id: Some(ObjectId::new(ObjectFormat::Sha256, Digest::of(b"file").as_bytes())),
            }],
            compression: "gzip".to_owned(),
            system: BTreeMap::new(),
        }
    }

    const SOURCE: &str = "org.opencontainers.image.source";

    fn app_key() -> AppKey {
        let BaseKey { dockerfile, args, files, .. } = base_key();
        AppKey {
            schema: SCHEMA,
            base: Some("ab".repeat(32)),
            scratch: None,
            dockerfile,
            args,
            labels: BTreeMap::from([(SOURCE.to_owned(), "https://example.com/a".to_owned())]),
            files,
            binary: Some(BinaryKey {
                name: "app/app".to_owned(),
                profile: "release".to_owned(),
                toolchain: "1.95".to_owned(),
                crates: Digest::of(b"crates"),
                sources: Digest::of(b"sources"),
                incremental: BTreeSet::new(),
            }),
            compiler: Some("rust@sha256:1".to_owned()),
            compression: "gzip".to_owned(),
        }
    }

    #[test]
    fn only_the_first_of_many_differences_are_shown() {
        let changes = |count: usize| (0..count).map(|n| format!("{n} is new")).collect::<Vec<_>>();
        assert_eq!(foremost(&changes(21)), changes(21));
        let told = foremost(&changes(1000));
        assert_eq!((&told[..20], &told[20..]), (&changes(20)[..], &["980 more".to_owned()][..]));
    }

    #[test]
    fn the_encoding_is_pinned() {
        // A change here rebuilds every image of every repository: raise `SCHEMA` and say so in the changelog.
        expect![[r#"{"schema":3,"epoch":0,"root":{"image":"docker.io/library/python:3.12-slim","digests":{"linux/amd64":"sha256:4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2"}},"python":"3.12","lock":{"schema":1,"packages":[{"name":"scipy","version":"1.16.3","hashes":"sha256:3a4278f83ecea3815f068ff7e014dd671bc7d790661f139315b2952888356a72"}],"no_binary":[],"only_binary":[]},"dockerfile":["ARG ROOT_IMAGE","FROM ${ROOT_IMAGE}"],"args":{},"labels":{"org.opencontainers.image.title":"app-base"},"files":[{"path":"dockerfiles/check-imports.py","kind":"file","mode":420,"id":"sha256:3b9c358f36f0a31b6ad3e14f309c7cf198ac9246e8316f9ce543d5b19ac02b80"}],"compression":"gzip"}"#]]
        .assert_eq(&base_key().json());
        expect!["5dac28280035855efd8dedc2a534b201ff7bb111ede334d2d895696f6696eacd"]
            .assert_eq(&base_key().fingerprint().to_string());
    }

    #[test]
    fn build_requirements_of_sources_count() {
        let pin = |version: &str| {
            let build = vec![format!("setuptools=={version} --hash=sha256:{}", "0".repeat(64))];
            let build = SourcePin::parse_build(&build).unwrap();
            SourcePin { name: "docopt".to_owned(), version: "1".to_owned(), from: "sha256:1".to_owned(), build }.key()
        };
        let plain = base_key();
        let [old, new] = ["80.9.0", "81.0"].map(|version| BaseKey { sources: vec![pin(version)], ..base_key() });
        assert_ne!(old.fingerprint(), plain.fingerprint());
        assert_ne!(old.fingerprint(), new.fingerprint());
        let back: BaseKey = serde_json::from_str(&new.json()).unwrap();
        assert_eq!(back, new);
        let changes = |old: &BaseKey, new: &BaseKey| base_changes(old, new, &NAMES);
        assert_eq!(
            changes(&old, &new),
            ["build requirements of docopt: setuptools 80.9.0 -> setuptools 81.0 (images.lock)"]
        );
        assert_eq!(changes(&plain, &new), ["docopt is built from source, with setuptools 81.0"]);
        assert_eq!(changes(&new, &plain), ["docopt is no longer built from source"]);
    }

    #[test]
    fn the_encoding_of_an_app_is_pinned() {
        expect![[r#"{"schema":3,"base":"abababababababababababababababababababababababababababababababab","dockerfile":["ARG ROOT_IMAGE","FROM ${ROOT_IMAGE}"],"args":{},"labels":{"org.opencontainers.image.source":"https://example.com/a"},"files":[{"path":"dockerfiles/check-imports.py","kind":"file","mode":420,"id":"sha256:3b9c358f36f0a31b6ad3e14f309c7cf198ac9246e8316f9ce543d5b19ac02b80"}],"binary":{"name":"app/app","profile":"release","toolchain":"1.95","crates":"sha256:7282bed9a11a4f95f953e27010c75140f638f55893b6532d73533f4321ddec0b","sources":"sha256:878a52fc5ff6a57d50b7b870aa51637a3dfd38fc22352a39f95a3c292eb976d5"},"compiler":"rust@sha256:1","compression":"gzip"}"#]].assert_eq(&app_key().json());
        expect!["fd24937c30f0dc2632e3075cfe0a678c2bd7b44a5728dbbdaa635a32580bd042"]
            .assert_eq(&app_key().fingerprint().to_string());
    }

    #[test]
    fn a_folder_that_becomes_one_entry_was_edited() {
        let entry = |path: &str, kind: FileKind, id: &str| {
            let id = ObjectId::new(ObjectFormat::Sha256, Digest::of(id.as_bytes()).as_bytes());
            ContextEntry { path: ContextPath::new(path), kind, mode: 0o644, id: (kind != FileKind::Dir).then_some(id) }
        };
        let listed =
            [entry("a", FileKind::Dir, ""), entry("a/b", FileKind::File, "1"), entry("ab", FileKind::File, "1")];
        let whole = [entry("a", FileKind::Tree, "2")];
        let changes = |old: &[ContextEntry], new: &[ContextEntry]| {
            let mut changes = Vec::new();
            file_changes(old, new, &mut changes);
            changes
        };
        assert_eq!(changes(&listed, &whole), ["a was edited", "ab is gone"]);
        assert_eq!(changes(&whole, &listed), ["a was edited", "ab is new"]);
    }

    #[test]
    fn an_incremental_program_has_a_key_of_its_own() {
        let (full, mut edited) = (app_key(), app_key());
        edited.binary.as_mut().unwrap().incremental.insert("app".to_owned());
        assert!(!full.json().contains("incremental"), "{}", full.json());
        assert_ne!(full.fingerprint(), edited.fingerprint());
        assert_eq!(app_changes(&full, &edited, &NAMES), ["compilation of app/app full -> incremental"]);
        assert_eq!(serde_json::from_str::<AppKey>(&edited.json()).unwrap(), edited);
    }

    #[test]
    fn a_key_survives_its_label() {
        let key = base_key();
        assert_eq!(serde_json::from_str::<BaseKey>(&key.json()).unwrap(), key);
        let key = app_key();
        assert_eq!(serde_json::from_str::<AppKey>(&key.json()).unwrap(), key);
    }

    #[track_caller]
    fn change(edit: impl FnOnce(&mut BaseKey), said: &str) {
        let (old, mut new) = (base_key(), base_key());
        edit(&mut new);
        assert_ne!(old.fingerprint(), new.fingerprint());
        assert_eq!(base_changes(&old, &new, &NAMES), [said]);
    }

    #[test]
    fn every_part_counts_and_is_named() {
        change(|key| key.epoch = 1, "epoch 0 -> 1 (images.toml)");
        change(|key| key.python = "3.13".to_owned(), "python 3.12 -> 3.13");
        change(
            |key| key.lock.packages[0].version = "1.17.0".to_owned(),
            "scipy 1.16.3 -> 1.17.0 (requirements-enhanced.lock)",
        );
        change(
            |key| key.lock.packages[0].hashes = Digest::of(b"x"),
            "scipy 1.16.3: hashes changed (requirements-enhanced.lock)",
        );
        change(
            |key| key.lock.packages[0].marker = Some("x".to_owned()),
            "scipy 1.16.3: marker changed (requirements-enhanced.lock)",
        );
        change(|key| key.lock.packages.clear(), "removed scipy 1.16.3 (requirements-enhanced.lock)");
        change(|key| key.dockerfile.push("USER 1".to_owned()), "dockerfiles/Dockerfile.base line 9 (`USER 1`)");
        let other = ObjectId::new(ObjectFormat::Sha256, &[1; 32]);
        change(|key| key.files[0].id = Some(other), "dockerfiles/check-imports.py was edited");
        change(|key| key.files[0].mode = 0o755, "dockerfiles/check-imports.py: mode 644 -> 755");
        change(|key| key.files.clear(), "dockerfiles/check-imports.py is gone");
        change(|key| drop(key.args.insert("A".to_owned(), "1".to_owned())), "build argument A is new");
        change(|key| key.compression = "zstd".to_owned(), "compression gzip -> zstd");
        change(
            |key| drop(key.labels.insert(SOURCE.to_owned(), "https://example.com/a".to_owned())),
            "label org.opencontainers.image.source is new",
        );
        change(
            |key| key.root.image = "debian:trixie".to_owned(),
            "root docker.io/library/python:3.12-slim -> debian:trixie",
        );
        change(
            |key| {
                key.root.digests.insert("linux/arm64".parse().unwrap(), Digest::of(b"x"));
            },
            "root docker.io/library/python:3.12-slim: platform linux/arm64 is new",
        );
    }

    #[test]
    fn debian_packages_count_by_version_and_digest() {
        let with = |packages: &[(&str, &str)]| {
            let packages: BTreeMap<String, String> =
                packages.iter().map(|(name, pin)| ((*name).to_owned(), (*pin).to_owned())).collect();
            let platforms = ["linux/amd64", "linux/arm64"].map(|name| (name.parse().unwrap(), packages.clone()));
            BaseKey { system: platforms.into(), ..base_key() }
        };
        let old = with(&[("a", "1 sha256:1"), ("b", "1 sha256:1"), ("c", "1 sha256:1"), ("d", "1 sha256:1")]);
        let new = with(&[("a", "1 sha256:1"), ("b", "2 sha256:2"), ("c", "1 sha256:2"), ("e", "1 sha256:1")]);
        assert_ne!(old.fingerprint(), new.fingerprint());
        let changes =
            ["added e 1", "b 1 -> 2", "c 1: hash changed", "removed d 1"].map(|text| format!("{text} (images.lock)"));
        assert_eq!(base_changes(&old, &new, &NAMES), changes);
        assert_eq!(serde_json::from_str::<BaseKey>(&new.json()).unwrap(), new);
        assert!(!base_key().json().contains("system"));
    }

    #[track_caller]
    fn app_change(edit: impl FnOnce(&mut AppKey), said: &str) {
        let (old, mut new) = (app_key(), app_key());
        edit(&mut new);
        assert_ne!(old.fingerprint(), new.fingerprint());
        assert_eq!(app_changes(&old, &new, &NAMES), [said]);
    }

    #[test]
    fn every_part_of_an_app_counts_and_is_named() {
        app_change(|key| key.base = Some("cd".repeat(32)), "base abababababab -> cdcdcdcdcdcd");
        app_change(|key| key.compression = "zstd".to_owned(), "compression gzip -> zstd");
        app_change(|key| key.compiler = Some("rust@sha256:2".to_owned()), "compiler rust@sha256:1 -> rust@sha256:2");
        app_change(
            |key| drop(key.labels.insert(SOURCE.to_owned(), "https://example.com/b".to_owned())),
            "label org.opencontainers.image.source https://example.com/a -> https://example.com/b",
        );
        app_change(|key| key.binary.as_mut().unwrap().toolchain = "1.96".to_owned(), "toolchain 1.95 -> 1.96");
        app_change(|key| key.files.clear(), "dockerfiles/check-imports.py is gone");
        app_change(|key| drop(key.args.insert("A".to_owned(), "1".to_owned())), "build argument A is new");
        app_change(|key| key.dockerfile.push("USER 1".to_owned()), "dockerfiles/Dockerfile.base line 9 (`USER 1`)");
    }

    #[test]
    fn tags_are_hex_digits_of_the_fingerprint() {
        let fingerprint = base_key().fingerprint();
        assert_eq!(fingerprint.tag(12).as_str(), &fingerprint.to_string()[..12]);
        assert_eq!(fingerprint.to_string().parse::<Fingerprint>().unwrap(), fingerprint);
    }
}
