//! The environment of the packages, and which packages of a lock apply to it.
//!
//! Pure. [`requirements::Environment`] evaluates markers.

use std::collections::BTreeMap;
use xtask_model::fault::Fault;
use xtask_model::spec::lock::{Lock, LockedPackage};
use xtask_model::spec::reference::Platform;
use xtask_model::spec::requirements::{self, Marker};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Environment(requirements::Environment);

impl Environment {
    /// Environment of a CPython version on Linux; `None` for architectures without wheels.
    pub(super) fn new(python: &str, platform: &Platform) -> Option<Self> {
        let known = platform.os == "linux" && matches!(platform.architecture.as_str(), "amd64" | "arm64");
        known.then(|| Self(requirements::Environment::new(python, platform)))
    }

    /// `x86_64`.
    pub(super) fn machine(&self) -> &str {
        self.0.machine()
    }

    /// `3.13`.
    pub(super) fn minor(&self) -> String {
        self.0.minor()
    }

    pub(super) fn markers(&self) -> &requirements::Environment {
        &self.0
    }

    /// Packages of a lock for this environment, sorted; each name once.
    pub(super) fn packages(&self, lock: &Lock) -> Result<Vec<LockedPackage>, Fault> {
        let mut found: BTreeMap<&str, &LockedPackage> = BTreeMap::new();
        for package in &lock.packages {
            let marker = package.marker.as_deref().map(str::parse::<Marker>).transpose();
            let marker = marker.map_err(|why| Fault::usage(format!("invalid marker of {}: {why}", package.name)))?;
            if !marker.is_none_or(|marker| self.holds(&marker, "")) {
                continue;
            }
            if let Some(other) = found.insert(&package.name, package) {
                let what = format!("{} is locked twice, as {} and {}", package.name, other.version, package.version);
                let here = format!("both apply to Python {} on {}", self.0.python(), self.machine());
                return Err(Fault::usage(what).cause(here).hint("update the lock: `cargo xtask lock`"));
            }
        }
        Ok(found.into_values().cloned().collect())
    }

    /// Evaluates a marker for an extra (or none).
    pub(super) fn holds(&self, marker: &Marker, extra: &str) -> bool {
        self.0.holds(marker, extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_architecture_without_wheels_has_no_environment() {
        assert_eq!(Environment::new("3.13.5", &"linux/s390x".parse().unwrap()), None);
        let environment = Environment::new("3.13.5", &"linux/arm64".parse().unwrap()).unwrap();
        assert_eq!(environment.minor(), "3.13");
        assert_eq!(environment.machine(), "aarch64");
    }
}
