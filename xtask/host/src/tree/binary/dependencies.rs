//! Compiled dependencies of the program: under which key another machine's can be used, which files of cargo they are, and their
//! place among cargo's files.
//!
//! Cargo decides by itself whether it uses them: its fingerprints have the compiler, the flags, the features and the paths. What is
//! missing or does not fit it compiles. Here nothing is downloaded.

use super::{cargo, is_foreign, locked, members};
use crate::file::{self, cannot_read};
use crate::tree::toolchain;
use crate::{process, scratch};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::dependencies::{Belongs, CompileInputs, Contents, FilePart, unit_hash};
use xtask_model::image::policy::Binary;
use xtask_model::spec::reference::{Digest, Platform};

/// Version of what an artifact contains.
const SCHEMA: &str = "1";

/// A program to compile, and the folders and platform to compile it for.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub root: &'a Path,
    /// Folder for what cargo compiles, where it is not the usual one.
    pub compiled: Option<&'a Path>,
    pub binary: &'a Binary,
    pub platform: &'a Platform,
}

/// Crates that cargo downloads, as far as the program reaches them; their names are those that an artifact may have.
pub fn crates(place: &Place<'_>) -> Result<BTreeSet<String>, Fault> {
    Ok(locked(place.root, &place.binary.package)?.foreign.keys().map(|(name, _)| name.clone()).collect())
}

/// The inputs that files and the environment say, and no program has to be asked for.
pub fn quick_inputs(place: &Place<'_>) -> Result<CompileInputs, Fault> {
    let Place { root, binary, platform, .. } = *place;
    let locked = locked(root, &binary.package)?;
    let crates =
        locked.foreign.iter().map(|((name, version), source)| format!("{name} {version} {source}\n")).collect();
    let (configuration, environment) = (configuration(root), environment());
    let is_native = [&configuration, &environment].iter().any(|text| text.contains("target-cpu=native"));
    Ok(CompileInputs::from([
        ("schema", SCHEMA.to_owned()),
        ("crates", crates),
        ("manifests", manifests(root, &locked.own)?),
        // Settings may be secret.
        ("configuration", Digest::of(configuration.as_bytes()).to_string()),
        ("environment", environment),
        ("processor", if is_native { "native" } else { "" }.to_owned()),
        ("profile", binary.profile.clone()),
        ("target", toolchain::triple(platform)?.to_owned()),
        ("toolchain", toolchain::version(root)?),
        ("linker", format!("{:?}", (is_foreign(platform), process::found("cargo-zigbuild").is_some()))),
        ("cargo home", cargo_home().display().to_string()),
    ]))
}

/// The inputs that take a program to know: the compilers, the system that macros and build scripts run on, and the folder of cargo's
/// builds, whose name is in what build scripts write.
pub fn slow_inputs(place: &Place<'_>, build: &Path) -> Result<CompileInputs, Fault> {
    let rustc = std::env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from);
    let rustc = process::Command::new(rustc).arg("-vV").current_dir(place.root).read(Exit::Missing)?;
    let compiler = std::env::var_os("CC").map_or_else(|| "cc".into(), PathBuf::from);
    let compiler = process::Command::new(compiler).arg("--version").current_dir(place.root).read(Exit::Missing);
    let compiler = compiler.unwrap_or_default().lines().next().unwrap_or_default().to_owned();
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system.lines().filter(|line| line.starts_with("ID=") || line.starts_with("VERSION_ID=")).collect();
    Ok(CompileInputs::from([
        ("rustc", rustc),
        ("cc", compiler),
        ("system", system),
        ("folder", build.display().to_string()),
    ]))
}

/// False for a program without dependencies, and for what is compiled for this machine's processor alone.
pub fn are_portable(inputs: &CompileInputs) -> bool {
    !inputs["crates"].is_empty() && inputs["processor"].is_empty()
}

/// The tables of manifests that select crates, their features and how they are compiled.
fn manifests(root: &Path, own: &BTreeSet<String>) -> Result<String, Fault> {
    const TABLES: [&str; 8] =
        ["dependencies", "build-dependencies", "target", "features", "profile", "patch", "replace", "lints"];
    let table = |path: &Path| -> Result<Map<String, Value>, Fault> {
        let text = fs::read_to_string(root.join(path)).map_err(|error| cannot_read(path, error))?;
        toml::from_str(&text).map_err(|error| cannot_read(path, error.message()))
    };
    let mut found = BTreeMap::new();
    let members = members(root)?.into_iter().filter(|(name, _)| own.contains(name)).map(|(_, folder)| folder);
    for folder in members.chain([PathBuf::new()]) {
        let path = folder.join("Cargo.toml");
        let manifest = table(&path)?;
        let mut kept: Map<String, Value> =
            TABLES.iter().filter_map(|name| Some(((*name).to_owned(), manifest.get(*name)?.clone()))).collect();
        for (table, key) in
            [("workspace", "dependencies"), ("workspace", "resolver"), ("package", "resolver"), ("package", "edition")]
        {
            if let Some(value) = manifest.get(table).and_then(|table| table.get(key)) {
                kept.insert(format!("{table}.{key}"), value.clone());
            }
        }
        found.insert(path.display().to_string(), kept);
    }
    Ok(serde_json::to_string(&found).expect("tables are JSON"))
}

/// Every configuration of cargo that applies, in the order in which it does.
fn configuration(root: &Path) -> String {
    let folders = root.ancestors().map(|folder| folder.join(".cargo")).chain([cargo_home()]);
    let read = |folder: PathBuf| {
        fs::read_to_string(folder.join("config.toml")).or_else(|_| fs::read_to_string(folder.join("config")))
    };
    folders.filter_map(|folder| Some(read(folder).ok()? + "\n")).collect()
}

/// Variables that change how crates are compiled.
fn environment() -> String {
    const BEGIN: [&str; 6] = ["CARGO_BUILD_", "CARGO_TARGET_", "RUSTC", "CFLAGS", "CXXFLAGS", "LDFLAGS"];
    const WHOLE: [&str; 4] = ["CARGO_ENCODED_RUSTFLAGS", "CC", "CXX", "AR"];
    const NOT: [&str; 4] = ["CARGO_BUILD_TARGET", "CARGO_BUILD_TARGET_DIR", "CARGO_BUILD_JOBS", "CARGO_TARGET_DIR"];
    let counts =
        |name: &str| WHOLE.contains(&name) || BEGIN.iter().any(|begin| name.starts_with(begin)) && !NOT.contains(&name);
    let mut found: Vec<(String, String)> = std::env::vars().filter(|(name, _)| counts(name)).collect();
    found.sort();
    found.into_iter().map(|(name, value)| format!("{name}={value}\n")).collect()
}

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo");
    std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()).map_or_else(home, PathBuf::from)
}

/// Folder below which cargo keeps what it compiles.
pub fn build_folder(place: &Place<'_>) -> Result<PathBuf, Fault> {
    #[derive(Deserialize)]
    struct BuildFolders {
        target_directory: PathBuf,
        build_directory: Option<PathBuf>,
    }
    let call = cargo(place.root).args(["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"]);
    let call = place.compiled.into_iter().fold(call, |call, folder| call.env("CARGO_TARGET_DIR", folder));
    let metadata: BuildFolders = serde_json::from_str(&call.read(Exit::Build)?)
        .map_err(|error| Fault::build("cannot read the answer of `cargo metadata`").cause(error))?;
    Ok(metadata.build_directory.unwrap_or(metadata.target_directory))
}

/// Record of the dependencies that are compiled on this machine: the inputs, and a folder that exists as long as they do.
#[derive(serde::Serialize, Deserialize)]
struct Note {
    inputs: Digest,
    folder: PathBuf,
}

fn note(place: &Place<'_>) -> PathBuf {
    let name = format!("{}-{}.dependencies.json", place.binary.name, place.platform.dashed());
    place.compiled.map_or_else(|| place.root.join("target/images"), Path::to_owned).join(name)
}

fn digest(inputs: &CompileInputs) -> Digest {
    // Another folder has other files.
    let folder = std::env::var("CARGO_TARGET_DIR").unwrap_or_default();
    Digest::of(serde_json::to_string(&(inputs, folder)).expect("texts are JSON").as_bytes())
}

/// True if dependencies of these quick inputs were compiled or pulled here, and are still there.
pub fn are_here(place: &Place<'_>, inputs: &CompileInputs) -> bool {
    let note = fs::read(note(place)).ok().and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok());
    note.is_some_and(|note| note.inputs == digest(inputs) && note.folder.is_dir())
}

/// Remembers that they are.
pub fn remember(place: &Place<'_>, inputs: &CompileInputs, units: &Units) -> Result<(), Fault> {
    let libraries = units.files().filter_map(|file| file.parent()).find(|folder| folder.ends_with("deps"));
    let Some(folder) = libraries.map(|deps| deps.with_file_name(".fingerprint")) else { return Ok(()) };
    let known = Note { inputs: digest(inputs), folder };
    file::write(&note(place), &serde_json::to_string(&known).expect("a note is JSON")).map(drop)
}

/// True if a good part of these units is missing. The others cargo compiles as quickly as they are pulled.
pub fn is_worth(place: &Place<'_>, build: &Path, contents: &Contents) -> bool {
    let profile = place.binary.folder();
    let triple = toolchain::triple(place.platform).unwrap_or_default();
    let folders = [build.join(profile), build.join(triple).join(profile)].map(|folder| folder.join(".fingerprint"));
    let missing = contents.units.iter().filter(|unit| !folders.iter().any(|folder| folder.join(unit).is_dir()));
    missing.count() * 4 >= contents.units.len()
}

/// Units of a build that cargo reports, by package.
#[derive(Default)]
pub struct Units(BTreeMap<String, CompiledPackage>);

#[derive(Default)]
struct CompiledPackage {
    manifest: PathBuf,
    /// Libraries, macros and build scripts.
    files: Vec<PathBuf>,
    /// Folders that build scripts have written to.
    folders: Vec<PathBuf>,
}

impl Units {
    /// Reads a line of cargo's report.
    pub(super) fn read(&mut self, line: &str) {
        #[derive(Deserialize)]
        struct UnitMessage {
            package_id: String,
            manifest_path: Option<PathBuf>,
            #[serde(default)]
            filenames: Vec<PathBuf>,
            out_dir: Option<PathBuf>,
        }
        let Ok(message) = serde_json::from_str::<UnitMessage>(line) else { return };
        let package = self.0.entry(message.package_id).or_default();
        package.manifest = message.manifest_path.unwrap_or_else(|| std::mem::take(&mut package.manifest));
        package.files.extend(message.filenames);
        package.folders.extend(message.out_dir);
    }

    /// Those whose sources cargo takes for unchangeable, because it has downloaded them itself.
    fn downloaded(&self) -> impl Iterator<Item = &CompiledPackage> {
        let home = cargo_home();
        self.0.values().filter(move |package| package.manifest.starts_with(&home))
    }

    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.downloaded().flat_map(|package| &package.files)
    }
}

/// Files of an artifact: each with its path below the folder of cargo's builds.
pub struct Packed {
    pub contents: Contents,
    pub files: BTreeMap<String, PathBuf>,
}

/// Lists what another machine needs of the units of a build.
///
/// # Errors
/// A file that cannot be read.
pub fn pack(build: &Path, units: &Units) -> Result<Packed, Fault> {
    let mut packed = Packed { contents: Contents::default(), files: BTreeMap::new() };
    let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
    for package in units.downloaded() {
        packed.contents.crates += 1;
        for file in &package.files {
            let (Some(folder), Some(name)) = (file.parent(), file.file_stem().and_then(|name| name.to_str())) else {
                continue;
            };
            match folder.file_name() {
                Some(kind) if kind == "deps" => {
                    let Some((_, hash)) = name.rsplit_once('-') else { continue };
                    folders.extend(folder.parent().and_then(|profile| fingerprint(profile, hash)));
                    packed.files.insert(relative(build, file)?, file.clone());
                }
                // A build script: what it is compiled to is next to it.
                _ => folders.extend(unit_folders(folder)),
            }
        }
        for out in &package.folders {
            folders.extend(out.parent().into_iter().flat_map(unit_folders));
        }
    }
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        packed.contents.units.insert(name);
        for path in regular_files(&folder)? {
            packed.files.insert(relative(build, &path)?, path);
        }
    }
    packed.files.retain(|path, _| packed.contents.belongs(path).is_some());
    let metadata: Vec<String> = packed.files.keys().filter(|path| path.ends_with(".rmeta")).cloned().collect();
    for path in metadata {
        let library = path.replace(".rmeta", ".rlib");
        let Some(whole) = packed.files.get(&library) else { continue };
        let part = part(&packed.files[&path], whole).map_err(|error| cannot_read(whole, error))?;
        if let Some((at, size)) = part {
            packed.files.remove(&path);
            packed.contents.parts.insert(path, FilePart { of: library, at, size });
        }
    }
    Ok(packed)
}

fn relative(build: &Path, path: &Path) -> Result<String, Fault> {
    let below = path.strip_prefix(build).ok().and_then(Path::to_str);
    below.map(str::to_owned).ok_or_else(|| cannot_read(path, format!("it is not below `{}`", build.display())))
}

/// Folder of the fingerprint of the unit with this hash.
fn fingerprint(profile: &Path, hash: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(profile.join(".fingerprint")).ok()?.flatten();
    let mut folders = entries.map(|entry| entry.path());
    folders.find(|path| path.file_name().and_then(|name| unit_hash(name.to_str()?)) == Some(hash))
}

/// Folders of a unit that compiles or runs a build script, by the first: `build/UNIT`.
fn unit_folders(folder: &Path) -> Vec<PathBuf> {
    let fingerprint =
        folder.file_name().and_then(|unit| Some(folder.parent()?.parent()?.join(".fingerprint").join(unit)));
    [folder.to_owned()].into_iter().chain(fingerprint).collect()
}

/// Every file below a folder. A link, which could lead anywhere, is an error.
fn regular_files(folder: &Path) -> Result<Vec<PathBuf>, Fault> {
    let cannot = |error: io::Error| cannot_read(folder, error);
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let kind = entry.file_type().map_err(cannot)?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            } else {
                return Err(cannot_read(&entry.path(), "it is not a regular file"));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Position of a crate's metadata in its library, an archive of `ar`, if its bytes are the same there.
fn part(metadata: &Path, library: &Path) -> io::Result<Option<(u64, u64)>> {
    const HEAD: usize = 60;
    /// An object file around the metadata begins with this many bytes at most.
    const AROUND: usize = 4096;
    let (wanted, library) = (fs::read(metadata)?, fs::read(library)?);
    let mut at = b"!<arch>\n".len();
    while let Some(head) = library.get(at..at + HEAD) {
        let size = std::str::from_utf8(&head[48..58]).ok().and_then(|text| text.trim().parse::<usize>().ok());
        let Some(size) = size else { break };
        at += HEAD;
        if head.starts_with(b"lib.rmeta") {
            let ends = library.len().min(at + size);
            let found = (at..ends.min(at + AROUND)).find(|from| library[*from..].starts_with(&wanted));
            return Ok(found.map(|from| (from as u64, wanted.len() as u64)));
        }
        at += size + size % 2;
    }
    Ok(None)
}

/// Prefix of the folders that artifacts are unpacked into.
pub const SCRATCH: &str = ".dependencies-";

/// A folder to unpack an artifact into: on the file system of the folder where cargo builds.
pub fn scratch(build: &Path) -> Result<scratch::Scratch, Fault> {
    let make = || {
        fs::create_dir_all(build)?;
        scratch::sweep(build, &[SCRATCH], scratch::remove);
        scratch::Scratch::new_in(build, SCRATCH)
    };
    make().map_err(|error| Fault::build(format!("cannot write below `{}`", build.display())).cause(error))
}

/// Moves unpacked files to cargo's. A unit's fingerprint goes last: without it cargo compiles the unit, so whatever ends this
/// leaves nothing that looks whole.
///
/// # Errors
/// A file that does not belong into an artifact, or that cargo is at work in the folder. Nothing was moved then.
pub fn put(unpacked: &Path, build: &Path, contents: &Contents) -> Result<(), Fault> {
    let refused = |what: &str| Fault::build(format!("the artifact has `{what}`, which is no compiled dependency"));
    let files: BTreeSet<String> =
        regular_files(unpacked)?.iter().map(|file| relative(unpacked, file)).collect::<Result<_, _>>()?;
    for (path, part) in &contents.parts {
        // In the same folder, which is therefore no link.
        if !files.contains(&part.of) || path.rsplit_once('/').map(|at| at.0) != part.of.rsplit_once('/').map(|at| at.0)
        {
            return Err(refused(path));
        }
        cut(unpacked, path, part).map_err(|error| Fault::build(format!("cannot make `{path}`")).cause(error))?;
    }
    let mut moves = BTreeSet::new();
    let mut profiles = BTreeSet::new();
    for path in files.iter().chain(contents.parts.keys()) {
        let file = unpacked.join(path);
        let belongs = contents.belongs(path).ok_or_else(|| refused(path))?;
        // Equal times: nothing is newer than what was made of it. Old ones: a build script that reads a file of the system runs again.
        let opened =
            File::open(&file).and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)));
        opened.map_err(|error| Fault::build(format!("cannot set the time of `{path}`")).cause(error))?;
        profiles
            .extend(path.split_once("/deps/").or(path.split_once("/build/")).map(|(profile, _)| profile.to_owned()));
        moves.insert(belongs);
    }
    let cannot = |error: io::Error| Fault::build(format!("cannot write below `{}`", build.display())).cause(error);
    let mut locks = Vec::new();
    for profile in &profiles {
        fs::create_dir_all(build.join(profile)).map_err(cannot)?;
        let lock =
            File::options().create(true).append(true).open(build.join(profile).join(".cargo-lock")).map_err(cannot)?;
        match lock.try_lock() {
            Ok(()) => locks.push(lock),
            Err(TryLockError::WouldBlock) => return Err(Fault::build("cargo is compiling in the same folder")),
            // A file system without locks, on which cargo takes none.
            Err(TryLockError::Error(_)) => {}
        }
    }
    let take = |path: &str| -> io::Result<()> {
        let to = build.join(path);
        fs::create_dir_all(to.parent().expect("it is below a folder"))?;
        match fs::remove_dir_all(&to) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(error);
            }
            _ => {}
        }
        fs::rename(unpacked.join(path), to)
    };
    let fingerprints =
        || moves.iter().filter_map(|one| if let Belongs::Fingerprint(path) = one { Some(path) } else { None });
    for path in fingerprints() {
        match fs::remove_dir_all(build.join(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
            _ => {}
        }
    }
    for one in &moves {
        if let Belongs::File(path) | Belongs::Built(path) = one {
            process::interrupted()?;
            take(path).map_err(cannot)?;
        }
    }
    fingerprints().try_for_each(|path| take(path)).map_err(cannot)
}

/// Makes a file that is a part of another one.
fn cut(unpacked: &Path, path: &str, part: &FilePart) -> io::Result<()> {
    let mut whole = File::open(unpacked.join(&part.of))?;
    whole.seek(SeekFrom::Start(part.at))?;
    let mut file = File::create_new(unpacked.join(path))?;
    match io::copy(&mut whole.take(part.size), &mut file)? {
        size if size == part.size => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = "serde-0123456789abcdef";

    fn write(root: &Path, path: &str, bytes: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn contents() -> Contents {
        let of = "release/deps/libserde-0123456789abcdef.rlib".to_owned();
        let part = FilePart { of, at: 2, size: 3 };
        let parts = BTreeMap::from([("release/deps/libserde-0123456789abcdef.rmeta".to_owned(), part)]);
        Contents { crates: 1, units: [UNIT.to_owned()].into(), parts, ..Contents::default() }
    }

    fn unpacked() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "release/deps/libserde-0123456789abcdef.rlib", b"abcdef");
        write(folder.path(), &format!("release/build/{UNIT}/out/made.rs"), b"new");
        write(folder.path(), &format!("release/.fingerprint/{UNIT}/lib-serde"), b"new");
        folder
    }

    #[test]
    fn files_take_the_place_of_existing_ones() {
        let (from, build) = (unpacked(), tempfile::tempdir().unwrap());
        write(build.path(), &format!("release/build/{UNIT}/out/old.rs"), b"old");
        write(build.path(), "release/.fingerprint/app-ffffffffffffffff/bin-app", b"own");
        put(from.path(), build.path(), &contents()).unwrap();
        let read = |path: &str| fs::read(build.path().join(path)).ok();
        assert_eq!(read("release/deps/libserde-0123456789abcdef.rmeta").unwrap(), b"cde");
        assert_eq!(read(&format!("release/build/{UNIT}/out/made.rs")).unwrap(), b"new");
        assert_eq!(read(&format!("release/build/{UNIT}/out/old.rs")), None);
        assert_eq!(read("release/.fingerprint/app-ffffffffffffffff/bin-app").unwrap(), b"own");
        let times =
            regular_files(build.path()).unwrap().into_iter().filter(|path| path.to_str().unwrap().contains(&UNIT[6..]));
        let times: BTreeSet<SystemTime> = times.map(|path| fs::metadata(path).unwrap().modified().unwrap()).collect();
        assert_eq!(times.len(), 1, "cargo compares times");
    }

    #[test]
    fn a_file_that_does_not_belong_moves_nothing() {
        #[track_caller]
        fn refused(spoil: impl FnOnce(&Path, &mut Contents), why: &str) {
            let (from, build) = (unpacked(), tempfile::tempdir().unwrap());
            let mut contents = contents();
            spoil(from.path(), &mut contents);
            let fault = put(from.path(), build.path(), &contents).unwrap_err();
            assert!(fault.to_string().contains(why), "{fault}");
            assert_eq!(
                fs::read_dir(build.path()).unwrap().flatten().filter(|entry| entry.file_name() != "outside").count(),
                0
            );
        }
        refused(|from, _| write(from, "release/deps/libapp-ffffffffffffffff.rlib", b"x"), "no compiled dependency");
        refused(|from, _| write(from, "release/app", b"x"), "no compiled dependency");
        let link = |from: &Path, _: &mut Contents| {
            std::os::unix::fs::symlink("/etc/passwd", from.join("release/deps/libx-0123456789abcdef.rlib")).unwrap();
        };
        refused(link, "not a regular file");
        let elsewhere = |_: &Path, contents: &mut Contents| {
            let part = FilePart { of: "release/deps/libserde-0123456789abcdef.rlib".to_owned(), at: 0, size: 1 };
            contents.parts.insert("../outside.rmeta".to_owned(), part);
        };
        refused(elsewhere, "no compiled dependency");
        refused(|_, contents| contents.parts.values_mut().for_each(|part| part.size = 100), "cannot make");
        // While cargo is at work, its files stay as they are.
        let (from, build) = (unpacked(), tempfile::tempdir().unwrap());
        write(build.path(), "release/.cargo-lock", b"");
        let held = File::open(build.path().join("release/.cargo-lock")).unwrap();
        held.lock().unwrap();
        assert!(put(from.path(), build.path(), &contents()).unwrap_err().what.contains("cargo is compiling"));
        assert!(!build.path().join("release/deps").exists());
    }
}
