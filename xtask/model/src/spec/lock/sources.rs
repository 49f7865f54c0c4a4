//! Packages that are built from source: what each is built from, and with which pinned build requirements.
//!
//! Pure. `cargo xtask lock` writes them into `images.lock`, whichever tool wrote the lock of the packages.

use super::{Lock, LockedPackage, Pin, pinned};
use crate::spec::reference::{Digest, Platform};
use crate::spec::requirements::{self, Version};
use crate::spec::wheel::WheelName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

/// Increase it when the same inputs give another wheel.
const SCHEMA: u32 = 1;

/// Prefix of the tags of built wheels in the base's repository.
pub const TAG_PREFIX: &str = "wheel-";

/// Name of the build context with built wheels, for docker: of the empty stage of a Dockerfile that it takes the place of.
pub const CONTEXT: &str = "built-wheels";

/// Path at which the step that installs packages mounts it.
pub const PLACE: &str = "/opt/wheels";

/// One package in `images.lock`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourcePin {
    /// Normalised by PEP 503.
    pub name: String,
    pub version: String,
    /// `sha256:…` of the archive, or `git+https://…@COMMIT`.
    pub from: String,
    /// Build requirements, sorted.
    pub build: Vec<LockedPackage>,
}

/// A source in a base's key: everything of it that can change the wheel, besides the root and the build packages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceKey {
    pub name: String,
    pub from: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub build: Vec<Pin>,
}

impl SourcePin {
    /// True if it says how this package is built.
    pub fn is_of(&self, package: &LockedPackage) -> bool {
        let same = match checkout(package) {
            Some(url) => self.from == url,
            None => package.hashes.contains(&self.from),
        };
        self.name == package.name && self.version == package.version && same
    }

    pub fn key(&self) -> SourceKey {
        SourceKey {
            name: self.name.clone(),
            from: self.from.clone(),
            build: self.build.iter().map(Pin::from).collect(),
        }
    }

    /// Reads build requirements, a line each.
    pub fn parse_build(lines: &[String]) -> Result<Vec<LockedPackage>, String> {
        let mut text = Some(lines.iter().map(|line| format!("{line}\n")).collect::<String>());
        let found = requirements::read(Path::new("images.lock"), &mut |_| {
            text.take().ok_or_else(|| crate::fault::Fault::usage("it names another file"))
        });
        let found = found.map_err(|fault| fault.what)?;
        let mut build = found.requirements().iter().map(pinned).collect::<Result<Vec<_>, _>>()?;
        build.sort();
        Ok(build)
    }

    /// Build requirements as lines that [`Self::parse_build`] reads back.
    pub fn build_lines(&self) -> Vec<String> {
        let line = |package: &LockedPackage| {
            let mut text = package.name.clone();
            if !package.extras.is_empty() {
                let _ = write!(text, "[{}]", package.extras.iter().cloned().collect::<Vec<_>>().join(","));
            }
            let _ = write!(text, "=={}", package.version);
            if let Some(marker) = &package.marker {
                let _ = write!(text, " ; {marker}");
            }
            for hash in &package.hashes {
                let _ = write!(text, " --hash={hash}");
            }
            text
        };
        self.build.iter().map(line).collect()
    }
}

impl SourceKey {
    /// Name of the wheel that is built from this source on a root, for a platform, with these Debian packages installed.
    pub fn wheel(&self, root: &Digest, platform: &Platform, build_packages: &BTreeSet<String>) -> Digest {
        let inputs = serde_json::json!({
            "schema": SCHEMA, "source": self, "root": root, "platform": platform.to_string(),
            "build_packages": build_packages,
        });
        Digest::of(inputs.to_string().as_bytes())
    }
}

/// The lock with built wheels in the place of the packages that they were built from: file name and digest, by package.
pub fn with_wheels(lock: &Lock, wheels: &BTreeMap<String, (WheelName, Digest)>) -> Lock {
    let replaced = |package: &LockedPackage| match wheels.get(&package.name) {
        // A lock may have several versions, each for its markers.
        Some((wheel, digest)) if is_version(package, wheel) => LockedPackage {
            version: wheel.version.to_string(),
            url: None,
            hashes: BTreeSet::from([digest.to_string()]),
            ..package.clone()
        },
        _ => package.clone(),
    };
    Lock { packages: lock.packages.iter().map(replaced).collect(), ..lock.clone() }
}

/// True if a wheel may be that of a package; the version of a checkout is its commit's own.
fn is_version(package: &LockedPackage, wheel: &WheelName) -> bool {
    package.version.parse::<Version>().map_or(true, |version| version == wheel.version)
}

/// The words of `BUILD_PACKAGES`.
pub fn build_packages(argument: &str) -> BTreeSet<String> {
    argument.split_whitespace().map(str::to_owned).collect()
}

/// The URL of a package that is a checkout of git.
pub fn checkout(package: &LockedPackage) -> Option<&str> {
    package.url.as_deref().filter(|url| url.starts_with("git+"))
}

/// A package as reports name it: with its version, or the commit of a checkout.
pub fn shown(package: &LockedPackage) -> String {
    match checkout(package).and_then(requirements::Checkout::parse) {
        Some(found) => format!("{} of commit {}", package.name, &found.commit[..12]),
        None => format!("{} {}", package.name, package.version),
    }
}

/// The pins of `images.lock` that packages of a lock use, in the order of the lock.
pub fn used<'p>(pins: &'p [SourcePin], lock: &Lock) -> Vec<&'p SourcePin> {
    let without = |package: &&LockedPackage| lock.records.without_wheel(package).next().is_some();
    lock.packages.iter().filter(without).filter_map(|package| pins.iter().find(|pin| pin.is_of(package))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_has_another_name_where_anything_differs() {
        let hash = format!("sha256:{}", "0".repeat(64));
        let build = SourcePin::parse_build(&[format!("setuptools==80.9.0 --hash={hash}")]).unwrap();
        let pin = SourcePin { name: "a".to_owned(), version: "1".to_owned(), from: hash, build };
        let (root, platform) = (Digest::of(b"root"), "linux/amd64".parse().unwrap());
        let own = pin.key().wheel(&root, &platform, &BTreeSet::new());
        let other = SourcePin { build: Vec::new(), ..pin.clone() };
        for different in [
            other.key().wheel(&root, &platform, &BTreeSet::new()),
            pin.key().wheel(&Digest::of(b"x"), &platform, &BTreeSet::new()),
            pin.key().wheel(&root, &"linux/arm64".parse().unwrap(), &BTreeSet::new()),
            pin.key().wheel(&root, &platform, &build_packages(" gcc ")),
        ] {
            assert_ne!(different, own);
        }
        assert_eq!(SourcePin::parse_build(&pin.build_lines()).unwrap(), pin.build);
    }

    #[test]
    fn a_built_wheel_takes_the_place_of_its_source() {
        let hash = |byte: &str| format!("sha256:{}", byte.repeat(64));
        let text = format!(
            "# requirements: {}\n# python: >=3.12\n# resolver: uv 0.1.0\na==1.0 ; python_version >= '3' \\\n    --hash={}\nb==2.0 \\\n    --hash={}\n",
            Digest::of(b"requirements"),
            hash("1"),
            hash("2")
        );
        let lock = Lock::parse(Path::new("a.lock"), &text).unwrap();
        let wheel = |version: &str| (format!("a-{version}-py3-none-any.whl").parse().unwrap(), Digest::of(b"wheel"));
        let replaced = with_wheels(&lock, &BTreeMap::from([("a".to_owned(), wheel("1.0"))]));
        assert_eq!(replaced.packages[0].hashes, BTreeSet::from([Digest::of(b"wheel").to_string()]));
        assert_eq!(
            (&replaced.packages[0].marker, &replaced.packages[1]),
            (&lock.packages[0].marker, &lock.packages[1])
        );
        let other = with_wheels(&lock, &BTreeMap::from([("a".to_owned(), wheel("1.1"))]));
        assert_eq!(other.packages, lock.packages, "another version is another package");
    }
}
