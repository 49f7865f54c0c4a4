//! The lock: every distribution of the base, pinned with its hashes, and the requirements it satisfies.
//!
//! The text is what `uv pip compile --universal --generate-hashes` prints, below a header of xtask's, so pip and uv install from it as it is.
//! `xtask_host::tree::uv` resolves and writes it.

pub mod checked;
pub mod choice;
pub mod closure;
mod diff;
pub mod formats;
pub mod hashes;
pub mod images;
pub mod indexes;
pub mod pip;
pub mod sources;

pub use diff::{LockChange, diff};
pub use images::ImagesLock;
pub use indexes::Indexes;

use crate::fault::Fault;
use crate::spec::reference::Digest;
use crate::spec::requirements::{
    self, Environment, NormalRequirement, Options, Requirement, RequirementSource, Requirements, Specifier, Version,
    lines,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The version of [`LockMeaning`]'s encoding.
pub const SCHEMA: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    pub requirements: Digest,
    /// The Python versions it was resolved for, a specifier: `>=3.12`.
    pub python: String,
    /// The resolver: `uv 0.13.9`.
    pub resolver: String,
    /// Sorted by name, version and marker.
    pub packages: Vec<LockedPackage>,
    /// Distributions, or `:all:`, that may not be installed from wheels.
    pub no_binary: BTreeSet<String>,
    /// Distributions, or `:all:`, that may only be installed from wheels.
    pub only_binary: BTreeSet<String>,
    pub records: closure::Records,
    /// Names of which other packages do not accept the version, or that they require and do not get, because the project says so.
    pub overridden: BTreeSet<String>,
}

/// One pinned distribution. A name may be listed twice, with markers that exclude each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LockedPackage {
    /// Normalised by PEP 503.
    pub name: String,
    /// Normalised by PEP 440.
    pub version: String,
    /// Normalised by PEP 503.
    pub extras: BTreeSet<String>,
    /// The normalised marker of PEP 508.
    pub marker: Option<String>,
    pub url: Option<String>,
    /// `sha256:…` of every file that may be installed, `git:…` of a checkout's commit; never empty.
    pub hashes: BTreeSet<String>,
}

/// Canonical form of a lock. Small enough for a label: hashes are replaced by their digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockMeaning {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Sorted as in [`Lock::packages`].
    pub packages: Vec<Pin>,
    /// See [`Lock::no_binary`].
    pub no_binary: BTreeSet<String>,
    /// See [`Lock::only_binary`].
    pub only_binary: BTreeSet<String>,
}

/// A [`LockedPackage`] in few bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pin {
    /// See [`LockedPackage::name`].
    pub name: String,
    /// See [`LockedPackage::version`].
    pub version: String,
    /// See [`LockedPackage::extras`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub extras: BTreeSet<String>,
    /// See [`LockedPackage::marker`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
    /// See [`LockedPackage::url`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The sha256 of the sorted hashes, each with a line feed.
    pub hashes: Digest,
}

impl From<&LockedPackage> for Pin {
    fn from(package: &LockedPackage) -> Self {
        let lines: String = package.hashes.iter().map(|hash| format!("{hash}\n")).collect();
        Self {
            name: package.name.clone(),
            version: package.version.clone(),
            extras: package.extras.clone(),
            marker: package.marker.clone(),
            url: package.url.clone(),
            hashes: Digest::of(lines.as_bytes()),
        }
    }
}

impl Lock {
    /// Reads a lock; `path` is only for messages.
    ///
    /// # Errors
    /// Text without the header, a line that is not an exact pin, a pin without a hash.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Fault> {
        let header = Header::parse(path, text)?;
        let mut first = Some(text.to_owned());
        let found = requirements::read(path, &mut |asked| first.take().ok_or_else(|| nested(path, asked)))
            .map_err(|fault| fault.hint("update it: `cargo xtask lock`"))?;
        let mut packages = Vec::new();
        for requirement in found.requirements() {
            packages.push(pinned(requirement).map_err(|why| bad_line(path, text, requirement.line, &why))?);
        }
        packages.sort();
        let options = found.options();
        no_places(path, options)?;
        let (no_binary, only_binary) = (options.no_binary.clone(), options.only_binary.clone());
        let Header { requirements, python, resolver } = header;
        let records = closure::Records::parse(text);
        let overridden = BTreeSet::new();
        Ok(Self { requirements, python, resolver, packages, no_binary, only_binary, records, overridden })
    }

    pub fn serves(&self, python: &Version) -> bool {
        closure::specifiers(&self.python).iter().all(|bound| bound.contains(python))
    }

    pub fn meaning(&self) -> LockMeaning {
        LockMeaning {
            schema: SCHEMA,
            packages: self.packages.iter().map(Pin::from).collect(),
            no_binary: self.no_binary.clone(),
            only_binary: self.only_binary.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub requirements: Digest,
    pub python: String,
    pub resolver: String,
}

impl Header {
    fn parse(path: &Path, text: &str) -> Result<Self, Fault> {
        let head: Vec<&str> = lines::physical(text).into_iter().take_while(|line| line.starts_with('#')).collect();
        let field = |name: &str| {
            let prefix = format!("# {name}: ");
            let line = head.iter().position(|line| line.starts_with(&prefix));
            let missing = || {
                Fault::usage(format!(
                    "`{}` is not a lock of `cargo xtask lock`: it has no line `{prefix}…` at its head",
                    path.display()
                ))
                .hint("update it: `cargo xtask lock`")
            };
            line.map(|index| (index + 1, head[index][prefix.len()..].trim().to_owned())).ok_or_else(missing)
        };
        let (line, requirements) = field("requirements")?;
        let requirements = requirements.parse().map_err(|why| bad_line(path, text, line, &format!("{why}")))?;
        let (line, python) = field("python")?;
        python_bound(&python).map_err(|why| bad_line(path, text, line, &why))?;
        Ok(Self { requirements, python, resolver: field("resolver")?.1 })
    }

    /// The lines at the head of a lock that was made from these files.
    pub fn print(&self, source: &str) -> String {
        let Self { requirements, python, resolver } = self;
        format!(
            "# Written by `cargo xtask lock` from {source}; do not edit.\n\
             # requirements: {requirements}\n# python: {python}\n# resolver: {resolver}\n"
        )
    }
}

fn nested(path: &Path, asked: &Path) -> Fault {
    Fault::usage(format!(
        "`{}` is not a lock of `cargo xtask lock`: it names the file `{}`",
        path.display(),
        asked.display()
    ))
}

/// A lock says what to install, not where this machine gets it.
fn no_places(path: &Path, options: &Options) -> Result<(), Fault> {
    let others =
        Options { no_binary: BTreeSet::new(), only_binary: BTreeSet::new(), require_hashes: false, ..options.clone() };
    if others == Options::default() {
        return Ok(());
    }
    Err(Fault::usage(format!("`{}` is not a lock of `cargo xtask lock`: it has options about indexes", path.display()))
        .cause("only `--no-binary`, `--only-binary` and `--require-hashes` are allowed in a lock")
        .hint("update it: `cargo xtask lock`"))
}

fn bad_line(path: &Path, text: &str, line: usize, why: &str) -> Fault {
    let shown = requirements::secret::redacted(lines::physical(text).get(line - 1).copied().unwrap_or_default());
    Fault::usage(format!("{}:{line}:1: {why}\n    {shown}\n    ^", path.display()))
        .hint("update it: `cargo xtask lock`")
}

fn pinned(requirement: &Requirement) -> Result<LockedPackage, String> {
    let NormalRequirement { name, extras, url, marker, hashes, .. } = requirement.meaning();
    let version = match &requirement.source {
        RequirementSource::Index(specifiers) => exact(specifiers).ok_or("expected one exact version, `name==1.2.3`")?,
        RequirementSource::Url(url) => match requirements::distribution(url) {
            Some((_, version)) => version,
            None => "unknown".to_owned(),
        },
    };
    // A commit is a digest of the files.
    if let Some(found) = url.as_deref().and_then(requirements::Checkout::parse) {
        let hashes = BTreeSet::from([format!("git:{}", found.commit)]);
        return Ok(LockedPackage { name, version, extras, marker, url, hashes });
    }
    if hashes.is_empty() {
        return Err("expected `--hash=sha256:…`: a lock knows every file by its hash".to_owned());
    }
    Ok(LockedPackage { name, version, extras, marker, url, hashes })
}

fn exact(specifiers: &BTreeSet<Specifier>) -> Option<String> {
    let mut all = specifiers.iter();
    let only = all.next().filter(|specifier| specifier.is_pin())?;
    all.next().is_none().then(|| only.version().to_owned())
}

fn python_bound(text: &str) -> Result<Specifier, String> {
    let wrong = || format!("expected the oldest Python version, like `>=3.12`, found `{text}`");
    text.strip_prefix(">=").and_then(|version| Specifier::new(">=", version.trim()).ok()).ok_or_else(wrong)
}

/// Checks that the lock satisfies these requirements for this Python version (`3.12`).
///
/// # Errors
/// Drift, naming what changed as far as the lock can tell.
pub fn check(requirements: &Requirements, python: &str, lock: &Lock) -> Result<(), Fault> {
    let mut causes = python_cause(python, lock);
    let mut locked: BTreeMap<&str, Vec<&LockedPackage>> = BTreeMap::new();
    for package in &lock.packages {
        locked.entry(&package.name).or_default().push(package);
    }
    let of = |wanted: &Requirement| locked.get(wanted.name.as_str()).map_or(&[][..], Vec::as_slice);
    causes.extend(requirements.requirements().iter().filter_map(|wanted| unsatisfied(wanted, of(wanted), true)));
    causes.extend(requirements.constraints().iter().filter_map(|wanted| unsatisfied(wanted, of(wanted), false)));
    causes.extend(hashes::unlisted(requirements, lock));
    if causes.is_empty() && requirements.fingerprint() != lock.requirements {
        causes.push("a requirement, constraint or option changed after it was written".to_owned());
    }
    causes.dedup();
    outdated(requirements, causes)
}

/// Checks that a lock of another tool is for this Python version (`3.12`).
///
/// # Errors
/// Another Python.
pub fn check_python(python: &str, lock: &Lock) -> Result<(), Fault> {
    match python_cause(python, lock).pop() {
        Some(cause) => Err(Fault::drift("the lock is for another Python")
            .cause(cause)
            .hint("correct `[root] python` in `images.toml`, or `requires-python` of the project")),
        None => Ok(()),
    }
}

/// True if the lock is whole for these Pythons (`3.12`) on these platforms: each has all that the requirements and the locked
/// packages require, in versions that fit, as far as the lock records it.
///
/// # Errors
/// Drift, naming who requires what.
pub fn check_closure(requirements: &Requirements, environments: &[Environment], lock: &Lock) -> Result<(), Fault> {
    let causes = closure::verify(requirements.requirements(), lock, environments);
    if causes.is_empty() { Ok(()) } else { Err(closure::fault(causes)) }
}

fn outdated(requirements: &Requirements, causes: Vec<String>) -> Result<(), Fault> {
    if causes.is_empty() {
        return Ok(());
    }
    let source = requirements.files().first().map_or_else(String::new, |file| format!(" with `{}`", file.display()));
    let fault = Fault::drift(format!("the lock is out of date{source}")).hint("update it: `cargo xtask lock`");
    Err(causes.into_iter().fold(fault, Fault::cause))
}

/// True if a specifier (`>=3.12`) allows some release of a Python (`3.12`).
fn allowed(specifier: &str, python: &str) -> bool {
    let bounds = closure::specifiers(specifier);
    let releases = [python.to_owned(), format!("{python}.99")];
    let mut versions = releases.iter().filter_map(|release| release.parse::<Version>().ok());
    versions.any(|version| bounds.iter().all(|bound| bound.contains(&version)))
}

fn python_cause(python: &str, lock: &Lock) -> Vec<String> {
    if allowed(&lock.python, python) {
        return Vec::new();
    }
    vec![format!("it was resolved for Python {}, not for {python}", lock.python)]
}

/// Reason why no locked package satisfies a requirement. With a marker one fitting version is enough, or none where it is for an
/// environment that this lock does not serve.
fn unsatisfied(wanted: &Requirement, locked: &[&LockedPackage], required: bool) -> Option<String> {
    let asks = wanted.meaning();
    if locked.is_empty() {
        return (required && wanted.marker.is_none()).then(|| format!("`{asks}` is missing from it"));
    }
    let bad: Vec<&&LockedPackage> = locked.iter().filter(|package| !satisfies(&wanted.source, package)).collect();
    let wrong = if wanted.marker.is_some() { bad.len() == locked.len() } else { !bad.is_empty() };
    wrong.then(|| format!("{} {} is locked, but `{asks}` is required", wanted.name, bad[0].version))
}

fn satisfies(source: &RequirementSource, package: &LockedPackage) -> bool {
    match source {
        RequirementSource::Url(url) => package.url.as_ref() == Some(url),
        RequirementSource::Index(specifiers) => package
            .version
            .parse::<Version>()
            .map_or(package.url.is_some(), |version| specifiers.iter().all(|specifier| specifier.contains(&version))),
    }
}

#[cfg(test)]
mod tests;
