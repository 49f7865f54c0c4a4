//! Installs packages into a folder with one call of uv, for any platform and Python.
//!
//! Every file is checked against the lock's hashes. uv creates hard links into its cache, so nothing may write to
//! installed files. Index, certificates, proxies and credentials come from the host, through uv's environment only.

use super::environment::Environment;
use super::interpreter::Interpreter;
use crate::container::subprocess;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use xtask_host::process::Command;
use xtask_host::terminal;
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

/// uv of this version: from the repository's tools, the PATH, or a new installation with this machine's Python or the
/// pip command of `pip`.
pub(super) fn uv(
    root: &Path,
    version: &str,
    pip: Option<&dyn Fn() -> Result<Command, Fault>>,
) -> Result<uv::Uv, Fault> {
    let own = root.join("target/tools/bin/uv");
    for extra in [&[own][..], &[]] {
        if let Ok(found) = uv::find(root, extra)
            && found.version() == version
        {
            return Ok(found);
        }
    }
    let installed = match pip {
        None => uv::install(root)?,
        Some(pip) => uv::install_by(root, &pip()?.args(["install", "--upgrade"]))?,
    };
    if installed.version() == version {
        return Ok(installed);
    }
    let what = format!("uv {} was installed, but {version} is pinned", installed.version());
    Err(Fault::build(what).hint("remove `target/tools` and try again"))
}

pub(super) struct InstallRequest<'a> {
    /// Each has hashes.
    pub(super) packages: &'a [LockedPackage],
    pub(super) environment: &'a Environment,
    pub(super) python: &'a str,
    /// Newest glibc that a wheel may need: `2_36`.
    pub(super) glibc: &'a str,
    pub(super) platform: &'a str,
    pub(super) indexes: &'a Indexes,
    /// The repository's `install.py`, which runs uv and decides which of several files is used at one path.
    pub(super) script: &'a Path,
}

const REFUSED: i32 = 3;

/// Paths that several distributions have with different bytes.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Distributions by path in `RECORD`, by normalised name in the lock's order. The last one's file is used.
    pub(super) owners: BTreeMap<String, Vec<String>>,
    /// Holds a folder for each distribution, with its own versions in the layout of the environment.
    pub(super) folder: PathBuf,
}

impl Shared {
    /// Folder of a distribution's own version of a shared path.
    pub(super) fn own(&self, name: &str, row: &str) -> Option<PathBuf> {
        let owners = self.owners.get(row)?;
        owners.iter().any(|owner| owner == name).then(|| self.folder.join(name))
    }

    /// Distributions with shared paths, and the folders of their versions.
    pub(super) fn folders(&self) -> BTreeMap<&str, PathBuf> {
        self.owners.values().flatten().map(|name| (name.as_str(), self.folder.join(name))).collect()
    }
}

/// Installs into a folder in the layout of the target's Python. uv reads the layout from `interpreter`, which may have
/// another version.
pub(super) fn install(
    uv: &uv::Uv,
    interpreter: &Interpreter,
    wanted: &InstallRequest<'_>,
    prefix: &Path,
) -> Result<Shared, Fault> {
    let cannot = |error: std::io::Error| Fault::build(format!("cannot write `{}`", prefix.display())).cause(error);
    let list = prefix.with_extension("lock");
    fs::write(&list, list_of(wanted.packages, wanted.indexes)).map_err(cannot)?;
    // Some systems install compiled modules into `lib64`; here it is a link to `lib`.
    let lib64 = prefix.join("lib64");
    std::os::unix::fs::symlink("lib", &lib64).map_err(cannot)?;
    let kept = prefix.with_extension("shared");
    let mut call = call(uv, interpreter, wanted, prefix, (&list, &kept));
    if wanted.indexes.no_index() {
        call = call.arg("--no-index");
    }
    // It writes into a temporary folder, so it must end with xtask.
    let call = subprocess::bound(call);
    let output = call.output()?;
    if !output.status.success() {
        let said = secret::redacted(String::from_utf8_lossy(&output.stderr).trim());
        return Err(if output.status.code() == Some(REFUSED) { refused(&said) } else { judged(&said, wanted) });
    }
    fs::remove_file(lib64).map_err(cannot)?;
    let shared = shared(kept)?;
    for folder in shared.folders().values().map(PathBuf::as_path).chain([prefix]) {
        rename(folder, &version_folder(&interpreter.version), &version_folder(wanted.python)).map_err(cannot)?;
    }
    Ok(shared)
}

fn shared(folder: PathBuf) -> Result<Shared, Fault> {
    #[derive(Deserialize)]
    struct Report {
        owners: BTreeMap<String, Vec<String>>,
        warnings: Vec<String>,
    }
    let file = folder.join("shared.json");
    let cannot = |error: String| Fault::build(format!("cannot read `{}`", file.display())).cause(error);
    let text = fs::read(&file).map_err(|error| cannot(error.to_string()))?;
    let found: Report = serde_json::from_slice(&text).map_err(|error| cannot(error.to_string()))?;
    found.warnings.iter().for_each(|warning| terminal::warn(warning));
    Ok(Shared { owners: found.owners, folder })
}

/// Error from the lines of `install.py` about conflicting distributions.
fn refused(said: &str) -> Fault {
    let mut lines = said.lines();
    let fault = Fault::usage(lines.next().unwrap_or("the packages cannot be installed together"));
    let fault = lines.fold(fault, |fault, line| fault.cause(line));
    fault
        .cause("only one of the files can be used, which breaks the other distribution")
        .hint("remove one of the distributions from the requirements")
}

/// `python3.13` of `3.13.5`.
pub(super) fn version_folder(version: &str) -> String {
    format!("python{}", version.split('.').take(2).collect::<Vec<_>>().join("."))
}

fn call(
    uv: &uv::Uv,
    interpreter: &Interpreter,
    wanted: &InstallRequest<'_>,
    prefix: &Path,
    (list, kept): (&Path, &Path),
) -> Command {
    let platform = format!("{}-manylinux_{}", wanted.environment.machine(), wanted.glibc);
    uv.installing(wanted.indexes)
        .program(&interpreter.program)
        .args(["-I", "-S"])
        .arg(wanted.script)
        .arg(site(prefix, &interpreter.version))
        .arg("--keep")
        .arg(kept)
        .arg(uv.program())
        .args(["pip", "install", "--quiet", "--no-deps", "--no-build", "--require-hashes", "--link-mode", "hardlink"])
        .args(["--python-platform", &platform, "--python-version", wanted.python])
        .arg("--python")
        .arg(&interpreter.program)
        .arg("--prefix")
        .arg(prefix)
        .arg("-r")
        .arg(list)
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

/// uv uses the layout of its interpreter; only the version differs.
fn rename(prefix: &Path, from: &str, to: &str) -> std::io::Result<()> {
    for parent in ["lib", "include/site"] {
        let folder = prefix.join(parent);
        if from != to && folder.join(from).exists() {
            fs::rename(folder.join(from), folder.join(to))?;
        }
    }
    Ok(())
}

/// An installed path after [`rename`].
pub(super) fn renamed(path: &str, from: &str, to: &str) -> String {
    match path.strip_prefix("../../../include/site/").and_then(|rest| rest.strip_prefix(from)) {
        Some(rest) if rest.starts_with('/') => format!("../../../include/site/{to}{rest}"),
        _ => path.to_owned(),
    }
}

fn judged(said: &str, wanted: &InstallRequest<'_>) -> Fault {
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

pub(super) fn site(prefix: &Path, python: &str) -> PathBuf {
    prefix.join("lib").join(version_folder(python)).join("site-packages")
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
        let wanted = InstallRequest {
            packages: &packages,
            environment: &environment,
            python: "3.13.5",
            glibc: "2_36",
            platform: "linux/arm64",
            indexes: &Indexes::default(),
            script: Path::new("install.py"),
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
