//! Checks that each distribution has its requirements in a suitable version.
//!
//! Uses the lock's records. For pins without records the metadata is fetched, so that an edited lock is checked before
//! anything is published, even if all layers are known.

use super::environment::Environment;
use super::wheels;
use std::collections::BTreeMap;
use std::path::Path;
use xtask_host::terminal;
use xtask_host::tree::uv::WheelTarget;
use xtask_model::fault::{Exit, Fault};
use xtask_model::spec::lock::closure::{self, PackageMetadata};
use xtask_model::spec::lock::{Indexes, Lock, LockedPackage};
use xtask_model::spec::reference::Platform;
use xtask_model::spec::requirements::{Requirement, Version};

pub(super) struct ClosureCheck<'a> {
    pub(super) root: &'a Path,
    pub(super) asked: &'a [Requirement],
    pub(super) lock: &'a Lock,
    pub(super) environment: &'a Environment,
    pub(super) platform: &'a Platform,
    pub(super) glibc: &'a str,
    pub(super) uv: &'a str,
}

/// Checks the lock for the Python and the platform of this image.
pub(super) fn check(wanted: &ClosureCheck<'_>, indexes: &dyn Fn() -> Result<Indexes, Fault>) -> Result<(), Fault> {
    let ClosureCheck { lock, environment, .. } = wanted;
    let python = environment.markers().python();
    if python.parse::<Version>().is_ok_and(|version| !lock.serves(&version)) {
        return Err(Fault::usage(format!("the root has Python {python}, but the lock is for Python {}", lock.python))
            .hint("correct `[root] python` in `images.toml`, then `cargo xtask lock`"));
    }
    let here = closure::pins_of(&lock.packages, environment.markers()).0;
    // What is built from source is checked by its own metadata, when it is installed.
    let known = |package: &&&LockedPackage| {
        lock.records.of(package).is_some() || lock.records.without_wheel(package).next().is_some()
    };
    let records = if here.values().all(|package| known(&package)) {
        lock.records.clone()
    } else {
        terminal::detail("some packages have no dependency record in the lock; reading their metadata");
        let targets: Vec<WheelTarget> =
            WheelTarget::new(wanted.platform, &environment.minor(), wanted.glibc).into_iter().collect();
        wheels::uv(wanted.root, wanted.uv)?.describe(lock, &indexes()?, &targets)?
    };
    judged(closure::unmet(
        wanted.asked,
        &lock.packages,
        &|package| records.of(package),
        environment.markers(),
        &lock.overridden,
    ))
}

/// Checks the metadata of the distributions against all pins.
pub(super) fn check_installed(
    wanted: &ClosureCheck<'_>,
    found: &BTreeMap<&str, &PackageMetadata>,
) -> Result<(), Fault> {
    let needs = |package: &LockedPackage| found.get(&*package.name).copied();
    judged(closure::unmet(
        wanted.asked,
        &wanted.lock.packages,
        &needs,
        wanted.environment.markers(),
        &wanted.lock.overridden,
    ))
}

fn judged(causes: std::collections::BTreeSet<String>) -> Result<(), Fault> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(Fault { exit: Exit::Usage, ..closure::fault(causes) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# requirements: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\
                        # python: >=3.12\n# resolver: uv 1\n";

    /// Errors for these pins, of which `needw` requires `plain<1.1`: by the lock's records, and by what was installed.
    fn found(python: &str, pins: &[&str]) -> [Option<Fault>; 2] {
        let hash = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let text: String = pins.iter().map(|pin| format!("{pin} --hash={hash}\n")).collect();
        let mut lock = Lock::parse(Path::new("r.lock"), &format!("{HEAD}{text}")).unwrap();
        let mut installed = BTreeMap::new();
        for package in lock.packages.clone() {
            let metadata = if package.name == "needw" { "Requires-Dist: plain<1.1\n" } else { "" };
            lock.records.set_metadata(&package, PackageMetadata::of_metadata(metadata));
            installed.insert(package.name, PackageMetadata::of_metadata(metadata));
        }
        let platform = "linux/amd64".parse().unwrap();
        let environment = Environment::new(python, &platform).unwrap();
        let wanted = ClosureCheck {
            root: Path::new("/"),
            asked: &[],
            lock: &lock,
            environment: &environment,
            platform: &platform,
            glibc: "2_36",
            uv: "1",
        };
        let installed = installed.iter().map(|(name, metadata)| (name.as_str(), metadata)).collect();
        let none = || -> Result<Indexes, Fault> { panic!("nothing is asked of an index") };
        [check(&wanted, &none).err(), check_installed(&wanted, &installed).err()]
    }

    #[test]
    fn a_lock_without_a_required_package_is_rejected_even_if_all_layers_are_known() {
        assert_eq!(found("3.13.5", &["needw==1.0", "plain==1.0"]), [None, None]);
        for (pins, cause) in [
            (&["needw==1.0", "plain==1.1"][..], "needw 1.0 requires `plain<1.1`, but plain 1.1 is locked"),
            (&["needw==1.0"], "needw 1.0 requires `plain<1.1`, which is not locked"),
        ] {
            for fault in found("3.13.5", pins) {
                assert_eq!(fault.unwrap().causes, [cause]);
            }
        }
    }

    #[test]
    fn a_root_with_an_older_python_than_the_lock_is_rejected() {
        let [fault, _] = found("3.11.2", &["plain==1.0"]);
        assert_eq!(fault.unwrap().what, "the root has Python 3.11.2, but the lock is for Python >=3.12");
    }
}
