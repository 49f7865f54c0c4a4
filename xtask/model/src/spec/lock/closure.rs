//! True if a lock is whole: every distribution that a locked one requires is locked too, in a version that fits.
//!
//! Pure. What a distribution requires is in its wheel's metadata; [`Records`] keep that in the lock, as comments behind the
//! pins, so that a check needs neither network nor wheels. A record belongs to a name, a version and hashes: a pin that was
//! edited has none.

use super::{Lock, LockedPackage, Pin};
use crate::fault::Fault;
use crate::spec::reference::Platform;
use crate::spec::requirements::{
    self, Environment, Marker, Requirement, RequirementSource, Specifier, Version, lines, normalised,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

const TITLE: &str =
    "# What the packages require, by their own metadata; the digits in parentheses are of their hashes.";

/// Start of the line with the platforms and Pythons whose wheels were checked. Part of the file format.
const TARGETS: &str = "# wheels were looked for on: ";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackageMetadata {
    requires: Vec<Requirement>,
    python: BTreeSet<Specifier>,
}

impl PackageMetadata {
    /// Reads the `METADATA` of a distribution. Lines that no version of the specifications allows count by their name alone.
    pub fn of_metadata(text: &str) -> Self {
        let head = text.lines().take_while(|line| !line.is_empty());
        let mut found = Self::default();
        for line in head {
            if let Some(text) = line.strip_prefix("Requires-Dist:") {
                found.requires.extend(requirement(text.trim()));
            } else if let Some(text) = line.strip_prefix("Requires-Python:") {
                found.python = specifiers(text);
            }
        }
        found
    }

    /// Names of the distributions that it requires in an environment, without those of its extras.
    pub fn required_in(&self, environment: &Environment) -> BTreeSet<String> {
        let counts = |one: &&Requirement| one.marker.as_ref().is_none_or(|marker| environment.holds(marker, ""));
        self.requires.iter().filter(counts).map(|one| one.name.clone()).collect()
    }

    /// Names of all distributions that it names, for whatever environment and extra.
    pub fn named(&self) -> BTreeSet<String> {
        self.requires.iter().map(|one| one.name.clone()).collect()
    }

    fn only(mut self, extras: &BTreeSet<String>) -> Self {
        self.requires.retain(|one| one.marker.as_ref().is_none_or(|marker| concerns(marker, extras)));
        self
    }
}

/// True if a condition can hold where these extras are asked for.
fn concerns(marker: &Marker, extras: &BTreeSet<String>) -> bool {
    use requirements::Operand::{Text, Variable};
    match marker {
        Marker::All(parts) => parts.iter().all(|part| concerns(part, extras)),
        Marker::Any(parts) => parts.iter().any(|part| concerns(part, extras)),
        Marker::Compare(Variable("extra"), "==", Text(text)) | Marker::Compare(Text(text), "==", Variable("extra")) => {
            extras.contains(&normalised(text))
        }
        Marker::Compare(..) => true,
    }
}

fn requirement(text: &str) -> Option<Requirement> {
    let read = |text: &str| {
        let mut one = Some(format!("{text}\n"));
        let load = &mut |_: &std::path::Path| Ok(one.take().unwrap_or_default());
        requirements::read("METADATA".as_ref(), load).ok()?.requirements().first().cloned()
    };
    read(text).or_else(|| {
        // A checkout, or a version in a form of long ago: the name and the condition.
        let (before, marker) = text.split_once(';').map_or((text, None), |(before, marker)| (before, Some(marker)));
        let end = before.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c)).unwrap_or(before.len());
        let name = &before[..end];
        read(&marker.map_or_else(|| name.to_owned(), |marker| format!("{name} ; {marker}")))
    })
}

pub(super) fn specifiers(text: &str) -> BTreeSet<Specifier> {
    let list = text.split(',').map(str::trim).filter(|one| !one.is_empty());
    list.filter_map(|one| requirement(&format!("python{one}")))
        .flat_map(|one| match one.source {
            RequirementSource::Index(specifiers) => specifiers,
            RequirementSource::Url(_) => BTreeSet::new(),
        })
        .collect()
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PinId {
    name: String,
    version: String,
    hashes: String,
}

impl From<&LockedPackage> for PinId {
    fn from(package: &LockedPackage) -> Self {
        let Pin { name, version, hashes, .. } = Pin::from(package);
        Self { name, version, hashes: hashes.hex()[..16].to_owned() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    known: BTreeMap<PinId, PackageMetadata>,
    missing_wheels: BTreeMap<PinId, BTreeSet<String>>,
    targets: BTreeSet<String>,
}

impl Records {
    pub(super) fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in lines::physical(text).into_iter().filter(|line| line.starts_with("# ")) {
            match line.strip_prefix(TARGETS) {
                Some(list) => found.targets = list.split(", ").map(|one| one.trim().to_owned()).collect(),
                None => drop(found.line(line)),
            }
        }
        found
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (head, said) = line.strip_prefix("# ")?.split_once(") ")?;
        let (pin, hashes) = head.split_once(" (")?;
        let (name, version) = pin.split_once(' ')?;
        let good = hashes.len() == 16 && hashes.bytes().all(|b| b.is_ascii_hexdigit()) && !version.contains(' ');
        let key =
            good.then(|| PinId { name: name.to_owned(), version: version.to_owned(), hashes: hashes.to_owned() })?;
        if let Some(target) = said.strip_prefix("has no wheel for ") {
            self.missing_wheels.entry(key).or_default().insert(target.trim().to_owned());
        } else if let Some(text) = said.strip_prefix("requires-python ") {
            self.known.entry(key).or_default().python = specifiers(text);
        } else if let Some(text) = said.strip_prefix("requires ") {
            let metadata = self.known.entry(key).or_default();
            metadata.requires.extend(requirement(text.trim()).filter(|_| text.trim() != "nothing"));
        }
        Some(())
    }

    pub fn of(&self, package: &LockedPackage) -> Option<&PackageMetadata> {
        self.known.get(&PinId::from(package))
    }

    /// True if nothing is known of any pin: a lock from before there were records.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && self.missing_wheels.is_empty()
    }

    pub fn set_metadata(&mut self, package: &LockedPackage, metadata: PackageMetadata) {
        self.known.insert(package.into(), metadata);
    }

    pub fn add_missing_wheel(&mut self, package: &LockedPackage, target: &str) {
        self.missing_wheels.entry(package.into()).or_default().insert(target.to_owned());
    }

    pub fn set_targets(&mut self, targets: BTreeSet<String>) {
        self.targets = targets;
    }

    pub fn targets(&self) -> &BTreeSet<String> {
        &self.targets
    }

    pub fn without_wheel(&self, package: &LockedPackage) -> impl Iterator<Item = &str> {
        self.missing_wheels.get(&package.into()).into_iter().flatten().map(String::as_str)
    }

    /// The text of a lock with these records in place of its own, as far as they are about its pins.
    pub fn written(&self, text: &str, packages: &[LockedPackage]) -> String {
        let is_record = |line: &&str| {
            let mut probe = Self::default();
            *line == TITLE || line.starts_with(TARGETS) || probe.line(line).is_some() && !probe.is_empty()
        };
        let body: Vec<&str> = text.lines().filter(|line| !is_record(line)).collect();
        let mut out = format!("{}\n", body.join("\n").trim_end());
        let extras = asked_extras(packages, self);
        let mut printed = String::new();
        for package in packages {
            let key = PinId::from(package);
            let PinId { name, version, hashes } = &key;
            let head = format!("# {name} {version} ({hashes})");
            if let Some(metadata) = self.known.get(&key) {
                let none = BTreeSet::new();
                printed += &lines_of(&head, &metadata.clone().only(extras.get(name.as_str()).unwrap_or(&none)));
            }
            for target in self.missing_wheels.get(&key).into_iter().flatten() {
                let _ = writeln!(printed, "{head} has no wheel for {target}");
            }
        }
        if !printed.is_empty() || !self.targets.is_empty() {
            let targets: Vec<&str> = self.targets.iter().map(String::as_str).collect();
            let _ = write!(out, "{TITLE}\n{TARGETS}{}\n{printed}", targets.join(", "));
        }
        out
    }
}

fn lines_of(head: &str, metadata: &PackageMetadata) -> String {
    let mut text = String::new();
    if !metadata.python.is_empty() {
        let list: Vec<String> = metadata.python.iter().map(Specifier::to_string).collect();
        let _ = writeln!(text, "{head} requires-python {}", list.join(","));
    }
    let lines: BTreeSet<String> = metadata.requires.iter().map(|one| one.meaning().to_string()).collect();
    for line in &lines {
        let _ = writeln!(text, "{head} requires {line}");
    }
    if lines.is_empty() {
        let _ = writeln!(text, "{head} requires nothing");
    }
    text
}

/// The extras of each distribution that a pin or a requirement asks for, wherever it counts.
fn asked_extras<'a>(packages: &'a [LockedPackage], records: &'a Records) -> BTreeMap<&'a str, BTreeSet<String>> {
    let mut found: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for package in packages {
        found.entry(&package.name).or_default().extend(package.extras.iter().cloned());
    }
    for one in packages.iter().filter_map(|package| records.of(package)).flat_map(|metadata| &metadata.requires) {
        found.entry(&one.name).or_default().extend(one.extras.iter().cloned());
    }
    found
}

/// The environments of images: each platform with each Python, `3.12`, in its first and in a late release.
pub fn environments<'a>(
    platforms: &'a [Platform],
    pythons: &'a BTreeSet<String>,
) -> impl Iterator<Item = Environment> + 'a {
    platforms.iter().flat_map(move |platform| {
        pythons.iter().flat_map(move |python| {
            let releases: &[&str] = if python.matches('.').count() == 1 { &[".0", ".99"] } else { &[""] };
            releases.iter().map(move |release| Environment::new(&format!("{python}{release}"), platform))
        })
    })
}

/// The pins that belong into an environment, by name, and what is wrong with them.
pub fn pins_of<'a>(
    packages: &'a [LockedPackage],
    environment: &Environment,
) -> (BTreeMap<&'a str, &'a LockedPackage>, BTreeSet<String>) {
    let (mut here, mut causes) = (BTreeMap::new(), BTreeSet::new());
    for package in packages {
        let holds = match package.marker.as_deref().map(str::parse::<Marker>) {
            None => true,
            Some(Ok(marker)) => environment.holds(&marker, ""),
            Some(Err(why)) => {
                causes.insert(format!("cannot read the marker of {}: {why}", package.name));
                false
            }
        };
        if holds && let Some(other) = here.insert(package.name.as_str(), package) {
            causes.insert(format!("{} is locked twice, as {} and {}", package.name, other.version, package.version));
        }
    }
    (here, causes)
}

/// Unmet dependencies of pins in an environment: a missing distribution, or a version that does not fit. `asked` is what the
/// requirement files ask for, `metadata` what is known of a pin.
pub fn unmet<'a>(
    asked: &'a [Requirement],
    packages: &'a [LockedPackage],
    metadata: &dyn Fn(&LockedPackage) -> Option<&'a PackageMetadata>,
    environment: &Environment,
    overridden: &BTreeSet<String>,
) -> BTreeSet<String> {
    let (here, mut causes) = pins_of(packages, environment);
    let mut open: Vec<(&str, String)> = Vec::new();
    for package in here.values() {
        open.push((&package.name, String::new()));
        open.extend(package.extras.iter().map(|extra| (package.name.as_str(), extra.clone())));
    }
    let asks =
        |one: &Requirement, extra: &str| one.marker.as_ref().is_none_or(|marker| environment.holds(marker, extra));
    for one in asked.iter().filter(|one| asks(one, "")) {
        causes.extend(wrong("the requirements ask for", one, &here));
        open.extend(one.extras.iter().map(|extra| (one.name.as_str(), extra.clone())));
    }
    let mut seen = BTreeSet::new();
    while let Some((name, extra)) = open.pop() {
        let Some(package) = here.get(name).copied() else { continue };
        let Some(metadata) = metadata(package).filter(|_| seen.insert((name, extra.clone()))) else { continue };
        if let Some(bad) = metadata.python.iter().find(|one| !fits_python(one, environment)) {
            causes.insert(format!("{name} {} requires Python {bad}, not {}", package.version, environment.minor()));
        }
        let shown = if extra.is_empty() { name.to_owned() } else { format!("{name}[{extra}]") };
        for one in metadata.requires.iter().filter(|one| asks(one, &extra) && !overridden.contains(&one.name)) {
            causes.extend(wrong(&format!("{shown} {} requires", package.version), one, &here));
            open.push((&one.name, String::new()));
            open.extend(one.extras.iter().map(|extra| (one.name.as_str(), extra.clone())));
        }
    }
    causes
}

fn wrong(who: &str, one: &Requirement, here: &BTreeMap<&str, &LockedPackage>) -> Option<String> {
    let entry = requirements::NormalRequirement { marker: None, ..one.meaning() };
    let Some(package) = here.get(one.name.as_str()) else {
        return Some(format!("{who} `{entry}`, which is not locked"));
    };
    let RequirementSource::Index(specifiers) = &one.source else { return None };
    // A file at a URL may not say its version.
    let version = package.version.parse::<Version>().ok()?;
    let fits = specifiers.iter().all(|specifier| specifier.contains(&version));
    (!fits).then(|| format!("{who} `{entry}`, but {} {} is locked", package.name, package.version))
}

/// True if a bound of Python holds for the minor version: patch releases are not distinguished.
fn fits_python(bound: &Specifier, environment: &Environment) -> bool {
    let minor = environment.minor();
    let releases = [environment.python().to_owned(), format!("{minor}.0"), format!("{minor}.99")];
    releases.iter().any(|release| release.parse::<Version>().is_ok_and(|version| bound.contains(&version)))
}

/// Problems of a lock, each once, with its environments unless all have it.
pub fn verify(asked: &[Requirement], lock: &Lock, environments: &[Environment]) -> Vec<String> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut all = BTreeSet::new();
    for environment in environments {
        let place = format!("Python {} on {}", environment.minor(), environment.machine());
        all.insert(place.clone());
        for cause in unmet(asked, &lock.packages, &|package| lock.records.of(package), environment, &lock.overridden) {
            found.entry(cause).or_default().insert(place.clone());
        }
    }
    let shown = |(cause, places): (String, BTreeSet<String>)| {
        let list: Vec<&str> = places.iter().map(String::as_str).collect();
        if places == all { cause } else { format!("{cause} (with {})", list.join(", ")) }
    };
    found.into_iter().map(shown).collect()
}

pub fn fault(causes: impl IntoIterator<Item = String>) -> Fault {
    let fault = Fault::drift("the lock lacks dependencies of its packages");
    causes.into_iter().fold(fault, Fault::cause).hint("update it: `cargo xtask lock`")
}

/// The pins of these environments of which nothing is recorded: edited since the lock was written, or from source.
pub fn unrecorded(lock: &Lock, environments: &[Environment]) -> Vec<String> {
    let mut found = BTreeSet::new();
    for environment in environments {
        let here = pins_of(&lock.packages, environment).0.into_values();
        found.extend(here.filter(|package| {
            lock.records.of(package).is_none() && lock.records.without_wheel(package).next().is_none()
        }));
    }
    found.into_iter().map(|package| format!("{} {}", package.name, package.version)).collect()
}

#[cfg(test)]
mod tests;
