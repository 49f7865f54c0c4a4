//! The program in the app image: what determines it, read from files alone, so that a build which needs no new one starts no
//! compiler. `compile` makes it.

mod compile;
pub mod dependencies;

pub use compile::{Compiled, building, compile, is_staged, keep};

use crate::file::cannot_read;
use crate::process::{self, Command};
use crate::tree::files::Files;
use crate::tree::{files, toolchain};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::context::{ContextPath, FileKind, ObjectId};
use xtask_model::image::key::BinaryKey;
use xtask_model::image::policy::{Binary, RelPath};
use xtask_model::spec::reference::{Digest, Platform};
use xtask_model::supply::inventory::Crate;
use xtask_model::supply::licence::{self, CrateLicences};

/// Path of a staged binary, within the repository and so within the build context.
pub fn staged(platform: &Platform, binary: &Binary) -> RelPath {
    format!("target/image/{}/{}", platform.dashed(), binary.name).parse().expect("a platform and a checked name")
}

/// Returns true if the image has a file as it is, or a folder with everything below it (`Tree`). The image's key covers these files
/// already, and editing them does not change the program.
pub type Copied<'c> = &'c dyn Fn(&Path, FileKind) -> bool;

/// The key of the binary's recipe, from the repository's files.
pub fn key<F: Files + ?Sized>(repository: &F, binary: &Binary, copied: Copied<'_>) -> Result<BinaryKey, Fault> {
    let locked = locked(repository, &binary.package)?;
    if locked.crates.is_empty() {
        return Err(Fault::usage(format!("`Cargo.lock` has no package `{}`", binary.package)).hint(LOCK_HINT));
    }
    let own = own_files(repository, &locked.own, copied)?;
    Ok(BinaryKey {
        name: format!("{}/{}", binary.package, binary.name),
        profile: binary.profile.clone(),
        toolchain: toolchain::version(repository)?,
        crates: Digest::of(locked.crates.as_bytes()),
        sources: digest(&own),
        incremental: BTreeSet::new(),
    })
}

/// The files over which a key's `sources` is the digest, each with its own: for telling which of them changed.
pub fn sources<F: Files + ?Sized>(repository: &F, binary: &Binary, copied: Copied<'_>) -> Result<Sources, Fault> {
    own_files(repository, &locked(repository, &binary.package)?.own, copied)
}

/// Files of the repository that can reach a binary, with the ids that git gives their contents.
pub type Sources = BTreeMap<PathBuf, ObjectId>;

/// The packages of the repository that a change of these files compiles again for a binary: those that have the files, and those that
/// depend on them. All that the binary has, for a file of none.
pub fn compiled_again<'p, F: Files + ?Sized>(
    repository: &F,
    binary: &Binary,
    changed: impl Iterator<Item = &'p Path>,
) -> Result<BTreeSet<String>, Fault> {
    let lock = parse_lock(&lock_text(repository)?)?;
    let reached = reach(&lock, &binary.package).unwrap_or_default();
    let own: Vec<&Locked> = reached.into_iter().filter(|package| package.source.is_none()).collect();
    let members = members(repository)?;
    let mut found = BTreeSet::new();
    for path in changed {
        // A package may be in the folder of another one.
        let around = members.iter().filter(|(_, folder)| path.starts_with(folder));
        let package = around.max_by_key(|(_, folder)| folder.as_os_str().len()).map(|(name, _)| name);
        match package.filter(|name| own.iter().any(|one| one.name == **name)) {
            Some(package) => found.insert(package.clone()),
            None => return Ok(own.iter().map(|package| package.name.clone()).collect()),
        };
    }
    // `name`, or `name version` where there are several.
    let name = |dependency: &str| dependency.split(' ').next().unwrap_or_default().to_owned();
    loop {
        let above = own.iter().filter(|package| !found.contains(&package.name));
        let above = above.filter(|package| package.dependencies.iter().any(|one| found.contains(&name(one))));
        let above: Vec<String> = above.map(|package| package.name.clone()).collect();
        if above.is_empty() {
            return Ok(found);
        }
        found.extend(above);
    }
}

/// The digest of all of them, as a key holds it.
pub fn digest(sources: &Sources) -> Digest {
    let mut text = String::new();
    for (file, id) in sources {
        let name = file.to_string_lossy();
        text += &format!("{} {name} {id}\n", name.len());
    }
    Digest::of(text.as_bytes())
}

/// The files in which two differ: `src/a.rs, src/b.rs (new), src/c.rs (gone)`.
pub fn changed(old: &Sources, new: &Sources) -> String {
    const SHOWN: usize = 8;
    let mut files: Vec<String> = new
        .iter()
        .filter(|(path, id)| old.get(*path) != Some(id))
        .map(|(path, _)| format!("{}{}", path.display(), if old.contains_key(path) { "" } else { " (new)" }))
        .collect();
    files.extend(old.keys().filter(|path| !new.contains_key(*path)).map(|path| format!("{} (gone)", path.display())));
    let more = files.len().saturating_sub(SHOWN);
    files.truncate(SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    files.join(", ") + &rest
}

fn own_files<F: Files + ?Sized>(repository: &F, own: &BTreeSet<String>, copied: Copied<'_>) -> Result<Sources, Fault> {
    let (mut files, mut folders) = (BTreeSet::new(), BTreeSet::new());
    for (name, folder) in members(repository)? {
        if own.contains(&name) {
            collect(repository, &folder, copied, (&mut files, &mut folders))?;
        }
    }
    for name in ["Cargo.toml", ".cargo/config.toml"] {
        if repository.has_file(Path::new(name)) {
            files.insert(PathBuf::from(name));
        }
    }
    files.retain(|file| !copied(file, FileKind::File));
    let paths: Vec<ContextPath> = files.iter().map(|file| ContextPath::new(file.as_os_str().as_bytes())).collect();
    let (mut plain, mut sources) = (Vec::new(), Sources::new());
    for (file, path) in files.iter().zip(&paths) {
        // The compiler reads what a link leads to.
        if repository.found(path)?.is_some_and(|found| found.kind == FileKind::Symlink) {
            let bytes = repository.read(file)?.ok_or_else(|| cannot_read(file, "no such file"))?;
            sources.insert(file.clone(), files::blob(repository.format(), &bytes)?);
        } else {
            plain.push(path);
        }
    }
    let ids = repository.ids(&plain)?;
    sources.extend(plain.iter().zip(ids).map(|(path, id)| (path.to_path().to_owned(), id)));
    Ok(sources)
}

const LOCK_HINT: &str = "write it: `cargo generate-lockfile`";

#[derive(Deserialize)]
struct CargoLock {
    #[serde(default)]
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

/// The part of `Cargo.lock` that a package reaches.
struct Reached {
    package: String,
    /// The file.
    text: String,
    /// A line for each crate, as a key holds them; empty where the package is not locked.
    crates: String,
    /// Packages of the workspace: they have no source, and their files count instead of a checksum.
    own: BTreeSet<String>,
    /// Source and checksum of every other one, by name and version.
    foreign: BTreeMap<(String, String), String>,
}

/// Reads `Cargo.lock`. The text that was read last is not read again: a work tree and its commit mostly have the same.
fn locked<F: Files + ?Sized>(repository: &F, package: &str) -> Result<Arc<Reached>, Fault> {
    static LAST: Mutex<Option<Arc<Reached>>> = Mutex::new(None);
    let text = lock_text(repository)?;
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = last.as_ref().filter(|known| known.package == package && known.text == text) {
        return Ok(known.clone());
    }
    let lock = parse_lock(&text)?;
    let reached = reach(&lock, package).unwrap_or_default();
    let line = |p: &&Locked| format!("{} {} {}", p.name, p.version, p.checksum.as_deref().unwrap_or("-"));
    let crates = reached.iter().map(line).collect::<Vec<_>>().join("\n");
    let own = reached.iter().filter(|p| p.source.is_none()).map(|p| p.name.clone()).collect();
    let from = |p: &&Locked| {
        let source = format!("{} {}", p.source.as_ref()?, p.checksum.as_deref().unwrap_or("-"));
        Some(((p.name.clone(), p.version.clone()), source))
    };
    let foreign = reached.iter().filter_map(from).collect();
    Ok(last.insert(Arc::new(Reached { package: package.to_owned(), text, crates, own, foreign })).clone())
}

/// The crates that a package is made of, as `Cargo.lock` has them: those of every platform, of build scripts and of tests too.
pub fn crates<F: Files + ?Sized>(repository: &F, package: &str) -> Result<Vec<Crate>, Fault> {
    let lock = parse_lock(&lock_text(repository)?)?;
    let reached = reach(&lock, package).unwrap_or_default();
    let of = |dependency: &String| {
        let mut words = dependency.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        let found = reached.iter().find(|one| one.name == name && version.is_none_or(|version| version == one.version));
        found.map(|one| (one.name.clone(), one.version.clone()))
    };
    let one = |one: &&Locked| Crate {
        name: one.name.clone(),
        version: one.version.clone(),
        checksum: one.checksum.clone(),
        licence: None,
        dependencies: one.dependencies.iter().filter_map(of).collect(),
    };
    Ok(reached.iter().map(one).collect())
}

/// The licences that the manifests of these crates state. Cargo reads the manifests, and downloads those that this machine lacks.
pub fn licences(root: &Path, crates: &[Crate]) -> Result<CrateLicences, Fault> {
    #[derive(Deserialize)]
    struct StatedLicences {
        packages: Vec<LicensedPackage>,
    }
    #[derive(Deserialize)]
    struct LicensedPackage {
        name: String,
        version: String,
        license: Option<String>,
    }
    process::find("cargo", "reading the licences of crates", "install Rust: https://rustup.rs")?;
    let call = cargo(root).args(["metadata", "--locked", "--format-version", "1"]);
    let text = call.read(Exit::Network)?;
    let metadata: StatedLicences = serde_json::from_str(&text)
        .map_err(|error| Fault::build("cannot read the answer of `cargo metadata`").cause(error))?;
    let wanted: BTreeSet<(&str, &str)> = crates.iter().map(|one| (&*one.name, &*one.version)).collect();
    let mut found = CrateLicences::default();
    for package in metadata.packages.iter().filter(|one| wanted.contains(&(&*one.name, &*one.version))) {
        if let Some(licence) = package.license.as_deref().and_then(licence::of_crate) {
            found.insert(&package.name, &package.version, licence);
        }
    }
    Ok(found)
}

const LOCK: &str = "Cargo.lock";

fn lock_text<F: Files + ?Sized>(repository: &F) -> Result<String, Fault> {
    repository.text(Path::new(LOCK)).map_err(|fault| fault.hint(LOCK_HINT))
}

fn parse_lock(text: &str) -> Result<CargoLock, Fault> {
    toml::from_str(text).map_err(|error| cannot_read(Path::new(LOCK), error.message()).hint(LOCK_HINT))
}

/// Every locked package that `name` reaches, itself included, sorted. Other members' crates do not count.
fn reach<'l>(lock: &'l CargoLock, name: &str) -> Option<Vec<&'l Locked>> {
    let mut by_name: BTreeMap<&str, Vec<&Locked>> = BTreeMap::new();
    for package in &lock.package {
        by_name.entry(&package.name).or_default().push(package);
    }
    let start = by_name.get(name)?.iter().find(|package| package.source.is_none())?;
    let mut queue = VecDeque::from([*start]);
    let mut reached = BTreeMap::new();
    while let Some(package) = queue.pop_front() {
        if reached.insert((&package.name, &package.version, &package.source), package).is_some() {
            continue;
        }
        for dependency in &package.dependencies {
            // `name`, `name version` where there are several, `name version (source)` where that is not enough.
            let mut words = dependency.split(' ');
            let (name, version) = (words.next().unwrap_or_default(), words.next());
            for candidate in by_name.get(name).into_iter().flatten() {
                if version.is_none_or(|version| version == candidate.version) {
                    queue.push_back(candidate);
                }
            }
        }
    }
    Some(reached.into_values().collect())
}

/// The packages of the workspace by their names, and their folders.
pub fn members<F: Files + ?Sized>(repository: &F) -> Result<Vec<(String, PathBuf)>, Fault> {
    #[derive(Deserialize)]
    struct CargoManifest {
        workspace: Option<WorkspaceMembers>,
        package: Option<NamedPackage>,
    }
    #[derive(Deserialize)]
    struct WorkspaceMembers {
        #[serde(default)]
        members: Vec<String>,
    }
    #[derive(Deserialize)]
    struct NamedPackage {
        name: String,
    }
    let manifest = |folder: &Path| -> Result<CargoManifest, Fault> {
        let path = folder.join("Cargo.toml");
        let text = repository.text(&path)?;
        toml::from_str(&text).map_err(|error| cannot_read(&path, error.message()))
    };
    let top = manifest(Path::new(""))?;
    let mut found: Vec<_> = top.package.map(|package| (package.name, PathBuf::new())).into_iter().collect();
    let mut folders = Vec::new();
    for member in top.workspace.map(|workspace| workspace.members).unwrap_or_default() {
        match member.strip_suffix("/*") {
            // The one form of glob that workspaces are written with.
            Some(parent) => {
                for entry in repository.list(&ContextPath::new(parent.trim_end_matches('/')))? {
                    let folder = Path::new(parent).join(OsStr::from_bytes(&entry.name));
                    if repository.has_file(&folder.join("Cargo.toml")) {
                        folders.push(folder);
                    }
                }
            }
            None => folders.push(PathBuf::from(member)),
        }
    }
    for folder in folders {
        if let Some(package) = manifest(&folder)?.package {
            found.push((package.name, folder));
        }
    }
    Ok(found)
}

/// The files of a package that can reach its binary: all but tests, documents, what other languages leave behind, and folders that the image
/// has as a whole. A package may be in the folder of another one: `seen` has the folders that were read.
fn collect<F: Files + ?Sized>(
    repository: &F,
    folder: &Path,
    copied: Copied<'_>,
    (files, seen): (&mut BTreeSet<PathBuf>, &mut BTreeSet<PathBuf>),
) -> Result<(), Fault> {
    const NOT_COMPILED: [&str; 7] =
        ["tests", "benches", "examples", "target", "__pycache__", ".pytest_cache", "node_modules"];
    if !seen.insert(folder.to_owned()) || copied(folder, FileKind::Tree) {
        return Ok(());
    }
    for entry in repository.list(&ContextPath::new(folder.as_os_str().as_bytes()))? {
        let text = String::from_utf8_lossy(&entry.name);
        let path = folder.join(OsStr::from_bytes(&entry.name));
        if entry.is_dir {
            if !NOT_COMPILED.contains(&text.as_ref()) && !text.starts_with('.') {
                collect(repository, &path, copied, (files, seen))?;
            }
        } else if !text.ends_with(".md") && !text.ends_with(".pyc") && (entry.is_file || repository.has_file(&path)) {
            files.insert(path);
        }
    }
    Ok(())
}

/// A call of cargo in the repository.
pub fn cargo(root: &Path) -> Command {
    Command::new("cargo").current_dir(root)
}

/// True if this machine's programs do not run there. On a system other than Linux every program of an image is for another one.
fn is_foreign(platform: &Platform) -> bool {
    !cfg!(target_os = "linux") || *platform != Platform::host()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::files::Named;
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use xtask_model::image::context::{FileInfo, ObjectFormat};

    fn workspace(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    /// A folder that counts the files that are hashed.
    struct Counting(PathBuf, AtomicUsize);

    impl Files for Counting {
        fn place(&self) -> &Path {
            &self.0
        }

        fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Fault> {
            self.0.read(path)
        }

        fn has_file(&self, path: &Path) -> bool {
            self.0.has_file(path)
        }

        fn list(&self, folder: &ContextPath) -> Result<Vec<Named>, Fault> {
            self.0.list(folder)
        }

        fn found(&self, path: &ContextPath) -> Result<Option<FileInfo>, Fault> {
            self.0.found(path)
        }

        fn format(&self) -> ObjectFormat {
            self.0.format()
        }

        fn ids(&self, files: &[&ContextPath]) -> Result<Vec<ObjectId>, Fault> {
            self.1.fetch_add(files.len(), Ordering::Relaxed);
            self.0.ids(files)
        }
    }

    #[test]
    fn a_package_in_the_folder_of_another_one_is_read_once() {
        let lock = "version = 4\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\ndependencies = [\"part\"]\n\
                    [[package]]\nname = \"part\"\nversion = \"0.1.0\"\n";
        let root = workspace(&[
            ("Cargo.toml", "[workspace]\nmembers = [\"app\", \"app/part\"]\n"),
            ("Cargo.lock", lock),
            ("app/Cargo.toml", "[package]\nname = \"app\"\nversion = \"0.1.0\"\n"),
            ("app/src/main.rs", "fn main() {}\n"),
            ("app/part/Cargo.toml", "[package]\nname = \"part\"\nversion = \"0.1.0\"\n"),
            ("app/part/src/lib.rs", ""),
        ]);
        let files = Counting(root.path().to_owned(), AtomicUsize::new(0));
        let own = BTreeSet::from(["app", "part"].map(str::to_owned));
        let sources = own_files(&files, &own, &|_, _| false).unwrap();
        let names: Vec<&str> = sources.keys().filter_map(|path| path.to_str()).collect();
        let all = ["Cargo.toml", "app/Cargo.toml", "app/part/Cargo.toml", "app/part/src/lib.rs", "app/src/main.rs"];
        assert_eq!(names, all);
        assert_eq!(files.1.into_inner(), all.len());
    }

    #[test]
    fn licences_are_those_of_the_manifests() {
        let lock = "version = 4\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\ndependencies = [\"own\"]\n\
                    [[package]]\nname = \"other\"\nversion = \"0.1.0\"\n[[package]]\nname = \"own\"\nversion = \"2.0.0\"\n";
        let package = |name: &str, version: &str, more: &str| {
            format!("[package]\nname = \"{name}\"\nversion = \"{version}\"\nedition = \"2021\"\n{more}")
        };
        let app =
            package("app", "0.1.0", "license = \"MIT/Apache-2.0\"\n[dependencies]\nown = { path = \"../own\" }\n");
        let (own, other) = (package("own", "2.0.0", ""), package("other", "0.1.0", "license = \"MIT\"\n"));
        let root = workspace(&[
            ("Cargo.toml", "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"own\", \"other\"]\n"),
            ("Cargo.lock", lock),
            ("app/Cargo.toml", &app),
            ("own/Cargo.toml", &own),
            ("other/Cargo.toml", &other),
            ("app/src/main.rs", "fn main() {}"),
            ("own/src/lib.rs", ""),
            ("other/src/lib.rs", ""),
        ]);
        let reached = super::crates(root.path(), "app").unwrap();
        let found = licences(root.path(), &reached).unwrap();
        assert_eq!(found.get("app", "0.1.0"), Some("MIT OR Apache-2.0"));
        assert_eq!(
            (found.get("own", "2.0.0"), found.get("other", "0.1.0")),
            (None, None),
            "unstated, and not in the program"
        );
    }

    const FILES: [(&str, &str); 8] = [
        ("Cargo.toml", "[workspace]\nmembers = [\"app\", \"tool\"]\n"),
        ("rust-toolchain.toml", "[toolchain]\nchannel = \"1.95.0\"\n"),
        ("app/Cargo.toml", "[package]\nname = \"app\"\n"),
        ("app/src/main.rs", "fn main() {}"),
        ("app/tests/a.rs", ""),
        ("app/README.md", ""),
        ("tool/Cargo.toml", "[package]\nname = \"tool\"\n"),
        (
            "Cargo.lock",
            "version = 4\n\
             [[package]]\nname = \"app\"\nversion = \"0.1.0\"\ndependencies = [\"a\", \"b 2.0.0\"]\n\
             [[package]]\nname = \"tool\"\nversion = \"0.1.0\"\ndependencies = [\"b 1.0.0\"]\n\
             [[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"r\"\nchecksum = \"aa\"\n\
             [[package]]\nname = \"b\"\nversion = \"1.0.0\"\nsource = \"r\"\nchecksum = \"b1\"\n\
             [[package]]\nname = \"b\"\nversion = \"2.0.0\"\nsource = \"r\"\nchecksum = \"b2\"\n",
        ),
    ];

    fn binary() -> Binary {
        Binary {
            package: "app".to_owned(),
            name: "app".to_owned(),
            profile: "release".to_owned(),
            glibc: Some("2.36".parse().unwrap()),
            rust_image: None,
            embeds: false,
            dependencies: xtask_model::image::policy::Dependencies::Off,
        }
    }

    #[track_caller]
    fn edit(path: &str, from: &str, to: &str, counts: bool) {
        let root = workspace(&FILES);
        let before = key(root.path(), &binary(), &|path, _| path == Path::new("app/copied.html")).unwrap();
        let file = root.path().join(path);
        let text = fs::read_to_string(&file).unwrap_or_default();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, if from.is_empty() { to.to_owned() } else { text.replace(from, to) }).unwrap();
        assert_eq!(
            key(root.path(), &binary(), &|path, _| path == Path::new("app/copied.html")).unwrap() != before,
            counts,
            "{path}"
        );
    }

    #[test]
    fn what_reaches_the_binary_counts() {
        edit("app/src/main.rs", "{}", "{ }", true);
        edit("app/src/new.rs", "", "x", true);
        edit("app/build.rs", "", "x", true);
        edit("Cargo.toml", "", "[workspace]\nmembers = [\"app\", \"tool\"]\n[profile.release]\n", true);
        edit("Cargo.lock", "b2", "b3", true);
        edit("Cargo.lock", "aa", "ab", true);
        edit("rust-toolchain.toml", "1.95.0", "1.96.0", true);
        edit("app/copied.html", "", "x", false);
        edit("app/tests/a.rs", "", "x", false);
        edit("app/README.md", "", "x", false);
        edit("tool/Cargo.toml", "tool", "tools", false);
        edit("Cargo.lock", "b1", "b3", false);
    }

    #[test]
    fn a_change_compiles_the_packages_above_it_again() {
        let package = |name: &str, needs: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"0.1.0\"\n{needs}");
        let lock = [
            package("app", "dependencies = [\"part\", \"side 0.1.0\", \"other\"]\n"),
            package("part", "dependencies = [\"low\"]\n"),
            package("low", ""),
            package("side", ""),
            package("other", "source = \"registry+x\"\nchecksum = \"b1\"\n"),
            package("tool", "dependencies = [\"low\"]\n"),
        ];
        let manifest = |name: &str| format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\n");
        let root = workspace(&[
            ("Cargo.toml", "[workspace]\nmembers = [\"app\", \"app/part\", \"low\", \"side\", \"tool\"]\n"),
            ("Cargo.lock", &format!("version = 4\n{}", lock.concat())),
            ("app/Cargo.toml", &manifest("app")),
            ("app/part/Cargo.toml", &manifest("part")),
            ("low/Cargo.toml", &manifest("low")),
            ("side/Cargo.toml", &manifest("side")),
            ("tool/Cargo.toml", &manifest("tool")),
        ]);
        let again = |changed: &[&str]| {
            let found = compiled_again(root.path(), &binary(), changed.iter().map(Path::new)).unwrap();
            found.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(again(&["app/src/main.rs"]), "app");
        assert_eq!(again(&["app/part/src/lib.rs"]), "app part");
        assert_eq!(again(&["low/src/gone.rs"]), "app low part");
        assert_eq!(again(&["side/new"]), "app side");
        assert_eq!(again(&["side/src/lib.rs", "app/part/Cargo.toml"]), "app part side");
        for everything in ["Cargo.toml", "Cargo.lock", ".cargo/config.toml", "rust-toolchain.toml", "tool/src/lib.rs"] {
            assert_eq!(again(&[everything]), "app low part side", "{everything}");
        }
        assert_eq!(again(&["side/src/lib.rs", "Cargo.toml"]), "app low part side");
    }

    #[test]
    fn changed_sources_are_named() {
        let sources = |files: &[(&str, &str)]| -> Sources {
            let id = |text: &str| files::blob(ObjectFormat::Sha1, text.as_bytes()).unwrap();
            files.iter().map(|(path, text)| (PathBuf::from(path), id(text))).collect()
        };
        let before = sources(&[("a.rs", "1"), ("b.rs", "1"), ("z.rs", "1")]);
        let now = sources(&[("a.rs", "2"), ("b.rs", "1"), ("c.rs", "1")]);
        assert_eq!(changed(&before, &now), "a.rs, c.rs (new), z.rs (gone)");
        let many: Vec<String> = (0..11).map(|number| format!("{number:02}.rs")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "x")).collect();
        assert!(changed(&sources(&[]), &sources(&many)).ends_with("07.rs (new) and 3 more"));
        assert_ne!(digest(&before), digest(&now));
    }

    #[test]
    fn a_package_that_is_not_locked_is_named() {
        let root = workspace(&FILES);
        let fault = key(root.path(), &Binary { package: "x".to_owned(), ..binary() }, &|_, _| false).unwrap_err();
        assert_eq!(fault.what, "`Cargo.lock` has no package `x`");
    }
}
