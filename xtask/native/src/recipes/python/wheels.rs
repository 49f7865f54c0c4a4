//! The wheels of a lock, as files of this machine.
//!
//! Every file is checked against the lock's hashes.

use crate::recipes::source::Wheels;
use std::path::Path;
use xtask_host::index::{self, Fetched, Ready, WheelRequest};
use xtask_host::process::Command;
use xtask_host::terminal;
use xtask_host::tree::uv;
use xtask_model::fault::{Exit, Fault};
use xtask_model::spec::lock::{Indexes, LockedPackage};
use xtask_model::spec::requirements::{self, Environment, RequirementSource, secret};

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

/// Fetches the wheels; `ready` gets each as soon as it is on this machine. Where an index needs a program for its passwords, pip downloads them to
/// `folder`, maybe others than `ready` got.
pub(super) fn fetch(wanted: &WheelRequest<'_>, folder: &Path, ready: &Ready<'_>) -> Result<Wheels, Fault> {
    match index::fetch_each(wanted, ready)? {
        Fetched::Wheels(found) => {
            Ok(found.into_iter().map(|wheel| (wheel.name, (wheel.path, wheel.filename))).collect())
        }
        Fetched::Unsupported(why) => {
            terminal::step("pip", &format!("downloading wheels, because {why}"));
            by_pip(Command::new("python3").args(["-m", "pip"]), wanted, folder)
        }
    }
}

fn by_pip(pip: Command, wanted: &WheelRequest<'_>, folder: &Path) -> Result<Wheels, Fault> {
    let cannot = |error: std::io::Error| Fault::build(format!("cannot write `{}`", folder.display())).cause(error);
    let (list, folder) = (folder.join("list.txt"), folder.join("wheels"));
    std::fs::create_dir_all(&folder).map_err(cannot)?;
    std::fs::write(&list, list_of(wanted.packages, wanted.indexes)).map_err(cannot)?;
    let environment = Environment::new(wanted.python, wanted.platform);
    let call = pip.args(["download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]);
    let call = call.args(["--only-binary", ":all:", "--require-hashes", "--implementation", "cp"]);
    let call = call.args(["--python-version", &environment.minor()]);
    let platforms = platforms(environment.machine(), wanted.glibc);
    let call = platforms.fold(call, |call, platform| call.args(["--platform", &platform]));
    let call = if wanted.indexes.no_index() { call.arg("--no-index") } else { call };
    // Folders may have blanks in their names, which separate the words of a variable; URLs may have passwords.
    let call = wanted.indexes.folders().fold(call, |call, folder| call.args(["--find-links", folder]));
    let set = wanted.indexes.for_uv();
    let get = |name: &str| set.get(name).cloned().unwrap_or_default();
    let pages: Vec<String> =
        get("UV_FIND_LINKS").split(',').filter(|page| page.contains("://")).map(str::to_owned).collect();
    let variables = [
        ("PIP_INDEX_URL", get("UV_DEFAULT_INDEX")),
        ("PIP_EXTRA_INDEX_URL", get("UV_INDEX")),
        ("PIP_FIND_LINKS", pages.join(" ")),
        ("PIP_TRUSTED_HOST", get("UV_INSECURE_HOST")),
    ];
    let set = variables.into_iter().filter(|(_, value)| !value.is_empty());
    let call = set.fold(call, |call, (name, value)| call.env(name, value));
    let output = call.arg("--dest").arg(&folder).arg("-r").arg(&list).output()?;
    if !output.status.success() {
        return Err(judged(&secret::redacted(String::from_utf8_lossy(&output.stderr).trim()), wanted));
    }
    let mut found = Wheels::new();
    for entry in std::fs::read_dir(&folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = file.split('-').next().map(requirements::normalised).unwrap_or_default();
        found.insert(name, (path, file));
    }
    Ok(found)
}

/// Tags of platforms whose wheels run with this glibc, as pip is given them.
fn platforms(machine: &str, glibc: &str) -> impl Iterator<Item = String> {
    let newest: u32 = glibc.rsplit('_').next().and_then(|minor| minor.parse().ok()).unwrap_or(17);
    let numbered = (5..=newest).rev().map(|minor| format!("manylinux_2_{minor}"));
    let named = ["manylinux2014", "manylinux2010", "manylinux1", "linux"].map(str::to_owned);
    numbered.chain(named).map(move |tag| format!("{tag}_{machine}"))
}

/// Error from pip's words.
fn judged(said: &str, wanted: &WheelRequest<'_>) -> Fault {
    let without = |package: &&LockedPackage| {
        said.contains(&format!("No matching distribution found for {}=={}", package.name, package.version))
    };
    if let Some(package) = wanted.packages.iter().find(without) {
        let LockedPackage { name, version, .. } = package;
        let what = format!("{name} {version} has no wheel for {} and Python {}", wanted.platform, wanted.python);
        return Fault::usage(what)
            .needed_by("the recipe `python-packages`, which compiles nothing")
            .cause(said)
            .hint("build it with compilers: `--engine docker`, with `BUILD_PACKAGES` in `[base] args`");
    }
    let hashes = said.contains("DO NOT MATCH THE HASHES");
    let what = if hashes { "the hash of a package differs from the lock" } else { "pip cannot download the packages" };
    let fault = Fault::new(Exit::Network, what).cause(said).needed_by("the recipe `python-packages`");
    if hashes {
        fault.hint("check what the index serves before you update the lock: `cargo xtask lock`")
    } else {
        fault
    }
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

    fn package(name: &str, version: &str) -> LockedPackage {
        LockedPackage {
            name: name.to_owned(),
            version: version.to_owned(),
            extras: BTreeSet::from(["x".to_owned()]),
            marker: Some("os_name == 'posix'".to_owned()),
            url: None,
            hashes: BTreeSet::from(["sha256:01".to_owned(), "sha256:02".to_owned()]),
        }
    }

    #[test]
    fn packages_are_listed_with_their_hashes() {
        let mut package = package("a", "1");
        let list = list_of(std::slice::from_ref(&package), &Indexes::default());
        assert_eq!(list, "a==1 --hash=sha256:01 --hash=sha256:02\n");
        package.url = Some("https://h/a.whl".to_owned());
        assert_eq!(list_of(&[package], &Indexes::default()), "a @ https://h/a.whl --hash=sha256:01 --hash=sha256:02\n");
    }

    #[test]
    fn words_of_pip_become_errors() {
        let platform = "linux/arm64".parse().unwrap();
        let (packages, indexes) = ([package("docopt", "0.6.2")], Indexes::default());
        let wanted = WheelRequest {
            packages: &packages,
            indexes: &indexes,
            python: "3.13.5",
            platform: &platform,
            glibc: "2_36",
        };
        for (said, what) in [
            (
                "ERROR: No matching distribution found for docopt==0.6.2",
                "docopt 0.6.2 has no wheel for linux/arm64 and Python 3.13.5",
            ),
            (
                "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
                "the hash of a package differs from the lock",
            ),
            ("ERROR: 401", "pip cannot download the packages"),
        ] {
            assert_eq!(judged(said, &wanted).what, what);
        }
    }

    #[test]
    fn older_platforms_are_accepted_too() {
        let found: Vec<String> = platforms("x86_64", "2_36").collect();
        assert_eq!((found[0].as_str(), found.len()), ("manylinux_2_36_x86_64", 36));
        assert!(found.contains(&"manylinux2014_x86_64".to_owned()));
    }
}
