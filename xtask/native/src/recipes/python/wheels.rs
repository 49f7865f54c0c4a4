//! The wheels of a lock, as files of this machine.
//!
//! Every file is checked against the lock's hashes.

use super::environment::Environment;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use xtask_host::process::Command;
use xtask_host::tree::uv;
use xtask_model::fault::{Exit, Fault};
use xtask_model::spec::lock::{Indexes, LockedPackage};
use xtask_model::spec::requirements::{self, RequirementSource, secret};

pub(super) fn pinned(path: &Path, text: &str) -> Result<String, Fault> {
    let mut first = Some(text.to_owned());
    let nested = |asked: &Path| Fault::usage(format!("`{}` includes the file `{}`", path.display(), asked.display()));
    let read = requirements::read(path, &mut |asked| first.take().ok_or_else(|| nested(asked)))?;
    let uv = read.requirements().iter().find(|requirement| requirement.name == "uv");
    let version = uv.and_then(|uv| match &uv.source {
        RequirementSource::Index(specifiers) => {
            specifiers.iter().find(|one| one.is_pin()).map(|pin| pin.version().to_owned())
        }
        RequirementSource::Url(url) => requirements::distribution(url).map(|(_, version)| version),
    });
    version.ok_or_else(|| {
        Fault::usage(format!("`{}` does not pin a version of uv", path.display())).hint("update it: `cargo xtask lock`")
    })
}

/// uv of this version: from the repository's tools, the PATH, or a new installation with this machine's Python.
pub(super) fn uv(root: &Path, version: &str) -> Result<uv::Uv, Fault> {
    let own = root.join("target/tools/bin/uv");
    for extra in [&[own][..], &[]] {
        if let Ok(found) = uv::find(root, extra)
            && found.version() == version
        {
            return Ok(found);
        }
    }
    let installed = uv::install(root)?;
    if installed.version() == version {
        return Ok(installed);
    }
    let what = format!("uv {} was installed, but {version} is pinned", installed.version());
    Err(Fault::build(what).hint("remove `target/tools` and try again"))
}

pub(super) struct WheelsRequest<'a> {
    /// Each has hashes.
    pub(super) packages: &'a [LockedPackage],
    pub(super) environment: &'a Environment,
    pub(super) python: &'a str,
    /// Newest glibc that a wheel may need: `2_36`.
    pub(super) glibc: &'a str,
    pub(super) platform: &'a str,
    pub(super) indexes: &'a Indexes,
    /// Folder for downloads.
    pub(super) folder: &'a Path,
}

/// Wheels by name of the package.
pub(super) type Wheels = BTreeMap<String, PathBuf>;

/// Has pip download the wheels: it asks keyring programs for passwords.
pub(super) fn by_pip(pip: Command, wanted: &WheelsRequest<'_>) -> Result<Wheels, Fault> {
    let cannot =
        |error: std::io::Error| Fault::build(format!("cannot write `{}`", wanted.folder.display())).cause(error);
    let (list, folder) = (wanted.folder.join("list.txt"), wanted.folder.join("wheels"));
    std::fs::create_dir_all(&folder).map_err(cannot)?;
    std::fs::write(&list, list_of(wanted.packages, wanted.indexes)).map_err(cannot)?;
    let call = pip.args(["download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]);
    let call = call.args(["--only-binary", ":all:", "--require-hashes", "--implementation", "cp"]);
    let call = call.args(["--python-version", &wanted.environment.minor()]);
    let call = platforms(wanted).fold(call, |call, platform| call.args(["--platform", &platform]));
    let call = if wanted.indexes.no_index() { call.arg("--no-index") } else { call };
    let variables = [
        ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"),
        ("UV_INDEX", "PIP_EXTRA_INDEX_URL"),
        ("UV_FIND_LINKS", "PIP_FIND_LINKS"),
        ("UV_INSECURE_HOST", "PIP_TRUSTED_HOST"),
    ];
    let set = wanted.indexes.for_uv();
    let call = variables.into_iter().fold(call, |call, (uv, name)| match set.get(uv) {
        Some(value) => call.env(name, value.replace(',', " ")),
        None => call,
    });
    let output = call.arg("--dest").arg(&folder).arg("-r").arg(&list).output()?;
    if !output.status.success() {
        return Err(judged(&secret::redacted(String::from_utf8_lossy(&output.stderr).trim()), wanted));
    }
    let mut found = Wheels::new();
    for entry in std::fs::read_dir(&folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = file.split('-').next().map(requirements::normalised).unwrap_or_default();
        found.insert(name, path);
    }
    Ok(found)
}

/// Tags of platforms whose wheels run with this glibc, as pip is given them.
fn platforms(wanted: &WheelsRequest<'_>) -> impl Iterator<Item = String> {
    let machine = wanted.environment.machine().to_owned();
    let newest: u32 = wanted.glibc.rsplit('_').next().and_then(|minor| minor.parse().ok()).unwrap_or(17);
    let numbered = (5..=newest).rev().map(|minor| format!("manylinux_2_{minor}"));
    let named = ["manylinux2014", "manylinux2010", "manylinux1", "linux"].map(str::to_owned);
    numbered.chain(named).map(move |tag| format!("{tag}_{machine}"))
}

/// `python3.13` of `3.13.5`.
pub(super) fn version_folder(version: &str) -> String {
    format!("python{}", version.split('.').take(2).collect::<Vec<_>>().join("."))
}

/// The packages as a requirement file. Markers are already evaluated.
fn list_of(packages: &[LockedPackage], indexes: &Indexes) -> String {
    let mut text = String::new();
    for package in packages {
        text += &match &package.url {
            Some(url) => format!("{} @ {}", package.name, indexes.url(url)),
            None => format!("{}=={}", package.name, package.version),
        };
        for hash in &package.hashes {
            text += &format!(" --hash={hash}");
        }
        text.push('\n');
    }
    text
}

fn judged(said: &str, wanted: &WheelsRequest<'_>) -> Fault {
    let without: Vec<String> = wanted
        .packages
        .iter()
        .filter(|package| said.contains(&format!("{}=={} has no ", package.name, package.version)))
        .map(|package| format!("{} {}", package.name, package.version))
        .collect();
    if !without.is_empty() || said.contains("has no usable wheels") {
        let which = if without.is_empty() { "a package".to_owned() } else { without.join(", ") };
        let what = format!("{which} has no wheel for {} and Python {}", wanted.platform, wanted.python);
        return Fault::usage(what)
            .needed_by("the recipe `python-packages`, which compiles nothing")
            .cause(said)
            .hint("build it with compilers: `--engine docker`, with `BUILD_PACKAGES` in `[base] args`");
    }
    if said.contains("Hash mismatch") {
        return Fault::new(Exit::Network, "the hash of a package differs from the lock")
            .cause(said)
            .hint("check what the index serves before you update the lock: `cargo xtask lock`");
    }
    uv::install_fault(said).needed_by("the recipe `python-packages`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[track_caller]
    fn pin(text: &str, expected: Option<&str>) {
        assert_eq!(pinned(Path::new("installer.lock"), text).ok().as_deref(), expected);
    }

    #[test]
    fn the_installers_lock_pins_uv() {
        let hash = "0".repeat(64);
        pin(&format!("# ours\nuv==0.13.9 \\\n    --hash=sha256:{hash}\n"), Some("0.13.9"));
        pin("pip==1\nuv==1.2.3\n", Some("1.2.3"));
        pin("uv>=1\n", None);
        pin("", None);
    }

    #[test]
    fn packages_are_listed_with_their_hashes() {
        let mut package = LockedPackage {
            name: "a".to_owned(),
            version: "1".to_owned(),
            extras: BTreeSet::from(["x".to_owned()]),
            marker: Some("os_name == 'posix'".to_owned()),
            url: None,
            hashes: BTreeSet::from(["sha256:01".to_owned(), "sha256:02".to_owned()]),
        };
        assert_eq!(
            list_of(std::slice::from_ref(&package), &Indexes::default()),
            "a==1 --hash=sha256:01 --hash=sha256:02\n"
        );
        package.url = Some("https://h/a.whl".to_owned());
        assert_eq!(list_of(&[package], &Indexes::default()), "a @ https://h/a.whl --hash=sha256:01 --hash=sha256:02\n");
    }

    #[track_caller]
    fn judge(said: &str, what: &str) {
        let packages = [LockedPackage {
            name: "docopt".to_owned(),
            version: "0.6.2".to_owned(),
            extras: BTreeSet::new(),
            marker: None,
            url: None,
            hashes: BTreeSet::new(),
        }];
        let environment = Environment::new("3.13.5", &"linux/arm64".parse().unwrap()).unwrap();
        let wanted = WheelsRequest {
            packages: &packages,
            environment: &environment,
            python: "3.13.5",
            glibc: "2_36",
            platform: "linux/arm64",
            indexes: &Indexes::default(),
            folder: Path::new("wheels"),
        };
        assert_eq!(judged(said, &wanted).what, what);
    }

    #[test]
    fn a_package_without_a_wheel_is_named() {
        let what = "docopt 0.6.2 has no wheel for linux/arm64 and Python 3.13.5";
        judge("Because docopt==0.6.2 has no usable wheels and you require docopt==0.6.2", what);
        judge("Because docopt==0.6.2 has no wheels with a matching platform tag (e.g., `manylinux_2_36_x86_64`)", what);
        judge("Because docopt-ng==0.6.2 was not found", "uv cannot install the packages");
        let unknown = "uv cannot find a locked package on the package index";
        judge("Because there is no version of docopt==0.6.2 and you require docopt==0.6.2", unknown);
        judge("Because docopt was not found in the package registry", unknown);
        judge("Hash mismatch for `docopt==0.6.2`", "the hash of a package differs from the lock");
    }

    #[test]
    fn headers_are_in_the_folder_of_the_targets_python() {
        let header = "../../../include/site/python3.11/greenlet/greenlet.h";
        assert_eq!(renamed(header, "python3.11", "python3.13"), "../../../include/site/python3.13/greenlet/greenlet.h");
        assert_eq!(renamed("a/python3.11/b", "python3.11", "python3.13"), "a/python3.11/b");
    }
}
