//! Locks of other tools, read as they are: `uv.lock`, `pylock.toml`, `poetry.lock`, `Pipfile.lock`.
//!
//! Pure. Each reader translates the packages that a [`Selection`] asks for into the [`Lock`] that engines install, for the
//! platforms and Pythons of the policy. The lock that people edit stays the only one: nothing that is translated is committed.

mod condition;
mod graph;
mod pipfile;
mod poetry;
mod pylock;
mod uv;
mod wheels;

use super::closure::{PackageMetadata, Records, environments};
use super::{Lock, LockedPackage, SCHEMA};
use crate::fault::Fault;
use crate::spec::project::{Project, Selection};
use crate::spec::reference::Platform;
use crate::spec::requirements::{
    Checkout, Environment, Marker, Requirement, RequirementSource, Requirements, normalised, secret,
};
use condition::Condition;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Format of a lock, by the tool that writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `cargo xtask lock`: lines that pip and uv install from.
    Pip,
    Uv,
    /// PEP 751.
    Pylock,
    Poetry,
    Pipfile,
}

impl Format {
    /// The format of a lock, by the name that its tool gives it.
    pub fn of(path: &str) -> Self {
        match path.rsplit('/').next().unwrap_or(path) {
            "uv.lock" => Self::Uv,
            "poetry.lock" => Self::Poetry,
            "Pipfile.lock" => Self::Pipfile,
            "pylock.toml" => Self::Pylock,
            name if name.starts_with("pylock.") && name.ends_with(".toml") => Self::Pylock,
            _ => Self::Pip,
        }
    }

    /// The file that a lock of this format is made from, which is next to it.
    pub fn source(self, lock: &str) -> Option<String> {
        let name = match self {
            Self::Pip => return None,
            Self::Pipfile => "Pipfile",
            Self::Uv | Self::Pylock | Self::Poetry => "pyproject.toml",
        };
        let folder = lock.rfind('/').map_or("", |at| &lock[..=at]);
        Some(format!("{folder}{name}"))
    }

    /// False if a file of this format, a lock or a `pyproject.toml`, says that it is not for a Python (`3.12`).
    pub(crate) fn allows(self, text: &str, python: &str) -> bool {
        let Ok(document) = text.parse::<toml::Table>() else { return true };
        let at = |keys: &[&str]| {
            let (first, rest) = keys.split_first()?;
            rest.iter().try_fold(document.get(*first)?, |value, key| value.get(key))?.as_str()
        };
        let poetry = at(&["metadata", "python-versions"]).or(at(&["tool", "poetry", "dependencies", "python"]));
        let bound = at(&["requires-python"]).or(at(&["project", "requires-python"])).map(str::to_owned);
        let bound = bound.or_else(|| poetry.map(poetry::python_bounds)).unwrap_or_default();
        super::allowed(&bound, python)
    }

    pub fn has_extras(self) -> bool {
        matches!(self, Self::Uv | Self::Pylock | Self::Poetry)
    }

    /// The command that brings a lock up to date.
    pub fn command(self) -> &'static str {
        match self {
            Self::Pip => "cargo xtask lock",
            Self::Uv => "uv lock",
            Self::Pylock => "uv export --format pylock.toml --output-file pylock.toml",
            Self::Poetry => "poetry lock",
            Self::Pipfile => "pipenv lock",
        }
    }
}

/// Targets that a lock is translated for.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    pub platforms: &'a [Platform],
    /// `3.12`
    pub pythons: &'a BTreeSet<String>,
}

/// A lock of another tool with everything that its translation depends on.
#[derive(Clone, Copy, Debug)]
pub struct LockInput<'a> {
    pub path: &'a Path,
    pub text: &'a str,
    pub selection: &'a Selection,
    /// The file that the lock is made from, if present.
    pub source: Option<&'a str>,
    pub targets: Targets<'a>,
}

#[derive(Clone, Debug)]
pub struct TranslatedLock {
    pub lock: Lock,
    /// The packages that are directly asked for, and where they come from.
    pub asked: Requirements,
    /// Projects of the repository itself, which are no packages of the base: an app copies their code.
    pub local: BTreeSet<String>,
}

/// Reads a lock in the format of its name.
///
/// # Errors
/// A text that is not such a lock; a group, extra or member that it does not have; packages that cannot be installed by hash,
/// all of them together.
pub fn translate(input: &LockInput<'_>) -> Result<TranslatedLock, Fault> {
    let format = Format::of(&input.path.to_string_lossy());
    let mut draft = match format {
        Format::Uv => uv::read(input),
        Format::Pylock => pylock::read(input),
        Format::Poetry => poetry::read(input),
        Format::Pipfile => pipfile::read(input),
        Format::Pip => Err(Fault::usage("it is a lock of `cargo xtask lock`")),
    }?;
    draft.format = Some(format);
    draft.finish(input)
}

/// Reasons why a lock is out of date with the file that it is made from, as far as both say; empty where they agree. `load` reads files
/// next to the lock: those of a workspace's members.
pub fn stale(input: &LockInput<'_>, load: &mut dyn FnMut(&Path) -> Option<String>) -> Result<Vec<String>, Fault> {
    let Some(source) = input.source else { return Ok(Vec::new()) };
    match Format::of(&input.path.to_string_lossy()) {
        Format::Uv => uv::stale(input, load),
        Format::Poetry => poetry::stale(input, source),
        Format::Pipfile => pipfile::stale(input, source),
        Format::Pylock | Format::Pip => Ok(Vec::new()),
    }
}

/// A lock as pip and uv install from it: what [`Lock::parse`] reads back as the same packages.
pub fn printed(lock: &Lock, source: &Path) -> String {
    let mut text = format!(
        "# Translated by `cargo xtask` from {}; do not edit.\n# requirements: {}\n# python: {}\n# resolver: {}\n",
        source.display(),
        lock.requirements,
        lock.python,
        lock.resolver
    );
    for package in &lock.packages {
        text += &package.name;
        if !package.extras.is_empty() {
            let _ = write!(text, "[{}]", package.extras.iter().cloned().collect::<Vec<_>>().join(","));
        }
        let _ = match &package.url {
            Some(url) => write!(text, " @ {url}"),
            None => write!(text, "=={}", package.version),
        };
        if let Some(marker) = &package.marker {
            let _ = write!(text, " ; {marker}");
        }
        for hash in package.hashes.iter().filter(|hash| !hash.starts_with("git:")) {
            let _ = write!(text, " \\\n    --hash={hash}");
        }
        text.push('\n');
    }
    text
}

/// The packages of a lock as its reader finds them.
#[derive(Default)]
struct Draft {
    format: Option<Format>,
    resolver: String,
    /// Bounds of the Python version: `>=3.11,<4`.
    python: String,
    pins: Vec<DraftPin>,
    /// Directly asked for, with extras.
    asked: BTreeMap<String, BTreeSet<String>>,
    indexes: Vec<String>,
    /// Folders of the repository that have locked files.
    folders: BTreeSet<String>,
    local: BTreeSet<String>,
    /// Requirements of packages that the project overrides: versions that others do not accept are wanted.
    overridden: BTreeSet<String>,
    no_binary: BTreeSet<String>,
}

#[derive(Clone, Debug, Default)]
struct DraftPin {
    name: String,
    version: String,
    extras: BTreeSet<String>,
    condition: Condition,
    url: Option<String>,
    hashes: BTreeSet<String>,
    /// Names of its files; none where they are unknown.
    files: Vec<String>,
    /// Reason why it cannot be installed by hash.
    problem: Option<String>,
}

impl DraftPin {
    /// Makes it a checkout, or keeps the reason why it cannot be one.
    fn check_out(&mut self, checkout: Result<String, String>) {
        match checkout {
            Ok(url) => {
                self.hashes = Checkout::parse(&url).map(|found| format!("git:{}", found.commit)).into_iter().collect();
                self.url = Some(url);
                self.files = vec!["checkout".to_owned()];
            }
            Err(why) => self.problem = Some(why),
        }
    }

    /// Reason why it cannot be a line of a lock: everything in it is printed into one.
    fn wrong(&self) -> Option<String> {
        let is_name = |name: &String| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let is_hash = |hash: &String| {
            let known =
                hash.strip_prefix("sha256:").map(|hex| (hex, 64)).or(hash.strip_prefix("git:").map(|hex| (hex, 40)));
            known.is_some_and(|(hex, length)| {
                hex.len() == length && hex.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
            })
        };
        let shown = self.name.escape_debug();
        if !is_name(&self.name) || !self.extras.iter().all(is_name) {
            return Some(format!("`{shown}` is not the name of a distribution, or has an extra that is none"));
        }
        let has_version = self.version.parse::<crate::spec::requirements::Version>().is_ok();
        if self.url.is_none() && !has_version {
            return Some(format!("`{shown}` has no valid version: `{}`", self.version.escape_debug()));
        }
        let is_url = |url: &String| url.contains("://") && !url.contains(|c: char| c.is_whitespace() || c.is_control());
        if !self.url.as_ref().is_none_or(is_url) {
            return Some(format!("`{shown}` has no valid URL"));
        }
        if self.hashes.is_empty() {
            return Some(format!("`{shown}` has no `sha256` hash, and a build installs by hash"));
        }
        self.hashes
            .iter()
            .find(|hash| !is_hash(hash))
            .map(|hash| format!("`{shown}` has an invalid hash: `{}`", hash.escape_debug()))
    }
}

impl Draft {
    fn finish(self, input: &LockInput<'_>) -> Result<TranslatedLock, Fault> {
        let path = input.path;
        let environments: Vec<Environment> = environments(input.targets.platforms, input.targets.pythons).collect();
        let mut problems: Vec<String> = Vec::new();
        let (mut packages, mut records) = (Vec::new(), Records::default());
        for pin in self.pins {
            let Some(marker) = pin.condition.marker(&environments) else { continue };
            let wheels_only = !self.no_binary.contains(&pin.name);
            problems.extend(pin.problem.clone().or_else(|| pin.wrong()));
            let DraftPin { name, version, extras, url, hashes, files, .. } = pin;
            let version = version.parse::<crate::spec::requirements::Version>().map_or(version, |v| v.to_string());
            let package = LockedPackage { name, version, extras, marker, url, hashes };
            records.set_metadata(&package, PackageMetadata::default());
            for platform in input.targets.platforms.iter().filter(|_| wheels_only && !files.is_empty()) {
                for python in input.targets.pythons {
                    let environment = Environment::new(&format!("{python}.99"), platform);
                    let here = super::closure::pins_of(std::slice::from_ref(&package), &environment).0;
                    if !here.is_empty() && !files.iter().any(|file| wheels::fits(file, &environment)) {
                        records.add_missing_wheel(&package, &format!("{platform} {python}"));
                    }
                }
            }
            packages.push(package);
        }
        if !problems.is_empty() {
            let fault = Fault::usage(format!("packages of `{}` cannot be installed by hash", path.display()));
            return Err(problems.into_iter().fold(fault, Fault::cause));
        }
        packages.sort();
        packages.dedup();
        let names = input
            .targets
            .platforms
            .iter()
            .flat_map(|platform| input.targets.pythons.iter().map(move |python| format!("{platform} {python}")));
        records.set_targets(names.collect());
        let asked = Requirements::of_lock(asked(path, self.asked, &packages), &self.indexes, &self.folders);
        let lock = Lock {
            requirements: asked.fingerprint(),
            python: self.python,
            resolver: self.resolver,
            packages,
            no_binary: self.no_binary,
            only_binary: BTreeSet::new(),
            records,
            overridden: self.overridden,
        };
        debug_assert_eq!(lock.meaning().schema, SCHEMA);
        Ok(TranslatedLock { lock, asked, local: self.local })
    }
}

/// Requirements that are asked for directly, where the lock has them.
fn asked(path: &Path, names: BTreeMap<String, BTreeSet<String>>, packages: &[LockedPackage]) -> Vec<Requirement> {
    let mut found = Vec::new();
    for (name, extras) in names {
        let mut markers: Vec<Option<&str>> = Vec::new();
        markers.extend(packages.iter().filter(|one| one.name == name).map(|one| one.marker.as_deref()));
        if markers.is_empty() {
            continue;
        }
        let all: Option<Vec<String>> = markers.iter().map(|marker| Some(format!("({})", (*marker)?))).collect();
        let marker = all.and_then(|all| all.join(" or ").parse::<Marker>().ok());
        let (file, source) = (path.to_owned(), RequirementSource::Index(BTreeSet::new()));
        found.push(Requirement { name, extras, source, marker, hashes: BTreeSet::new(), file, line: 0 });
    }
    found
}

fn invalid(path: &Path, why: impl std::fmt::Display) -> Fault {
    let command = Format::of(&path.to_string_lossy()).command();
    Fault::usage(format!("cannot read the lock `{}`", path.display()))
        .cause(why)
        .hint(format!("write it again: `{command}`"))
}

/// A name of the policy that a lock does not have, with those that it has.
fn unknown(input: &LockInput<'_>, kind: &str, name: &str, known: &BTreeSet<String>) -> Fault {
    let list: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    let list = if list.is_empty() { format!("it has no {kind}s") } else { format!("it has {}", list.join(", ")) };
    let fault = Fault::usage(format!("`{}` has no {kind} `{name}`", input.path.display())).cause(list);
    fault.hint(format!("correct `{kind}s` in `[base]` of `images.toml`"))
}

/// A checkout of git as the URL of its pin, or the reason why it cannot be built.
fn checkout(name: &str, url: &str, commit: &str, subdirectory: Option<&str>) -> Result<String, String> {
    let url = secret::without_user(url.trim_start_matches("git+"));
    let fragment = subdirectory.map(|folder| format!("#subdirectory={folder}")).unwrap_or_default();
    let pinned = format!("git+{url}@{commit}{fragment}");
    match Checkout::parse(&pinned) {
        Some(_) => Ok(pinned),
        None => Err(format!(
            "`{name}` is a checkout (`{}`) that does not name a commit of git by `https`, `ssh`, `http` or `file`: use a release, or build its \
             wheel (`pip wheel`), commit it, and name the file",
            secret::redacted(&url)
        )),
    }
}

/// The folder of a file that a lock names relative to its own.
fn folder_of(lock: &Path, file: &str) -> String {
    let folder = lock.parent().unwrap_or(Path::new("")).join(file);
    folder.parent().map_or_else(PathBuf::new, Path::to_owned).to_string_lossy().into_owned()
}

fn marker(path: &Path, name: &str, text: &str) -> Result<Marker, Fault> {
    text.parse().map_err(|why| invalid(path, format!("marker of `{name}`: {why}")))
}

/// The project next to a lock.
fn project(input: &LockInput<'_>) -> Result<Option<Project>, Fault> {
    let path = Format::of(&input.path.to_string_lossy()).source(&input.path.to_string_lossy()).unwrap_or_default();
    input.source.map(|text| Project::parse(Path::new(&path), text)).transpose()
}

fn names<'a>(list: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    list.into_iter().map(|name| normalised(name)).collect()
}

#[cfg(test)]
mod tests;
