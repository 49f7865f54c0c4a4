//! Paths that several distributions have with different bytes: which file is used, and which conflicts are errors.
//!
//! The rule is in the repository's `install.py`, which both engines run; here are the facts that it judges.
//! Paths of several distributions that differ only by case are different paths: an image has a file system that tells them apart, and the stage
//! under docker accepts them too. Within one wheel they are an error.

use super::distribution::{EnvironmentPlace, InstalledFile};
use super::installed::{self, Installed};
use super::interpreter::Interpreter;
use crate::layer::packed::contents;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;
use std::path::Path;
use xtask_host::terminal;
use xtask_model::fault::{Exit, Fault};
use xtask_model::spec::lock::checked::{CheckedPackage, Packages};

/// Owners of each path by normalised name, in the lock's order. The last one's file is used.
pub(super) type Owners = BTreeMap<String, Vec<String>>;

const REFUSED: i32 = 3;

/// Paths that several distributions have.
pub(super) struct Shared {
    /// Those with different bytes.
    pub(super) owners: Owners,
    /// All of them.
    pub(super) having: Owners,
    /// The bytes of each owner, by path as `RECORD` has it.
    versions: BTreeMap<String, BTreeMap<String, String>>,
}

/// Finds the paths, from the environment's folder.
pub(super) fn compare(installed: &[Installed], place: &EnvironmentPlace<'_>) -> Result<Shared, Fault> {
    check_folders(installed, place)?;
    let repeated = installed::repeated(installed);
    let mut having: BTreeMap<String, Vec<(&str, InstalledFile)>> = BTreeMap::new();
    let mut rows: BTreeMap<String, String> = BTreeMap::new();
    for one in installed.iter().filter(|one| one.may_have(&repeated)) {
        let distribution = one.distribution(place)?;
        for (path, file) in &distribution.files {
            if repeated.contains(&installed::number(path)) {
                rows.insert(path.clone(), distribution.row(path));
                having.entry(path.clone()).or_default().push((&one.name, file.clone()));
            }
        }
    }
    let mut shared = Shared { owners: Owners::new(), having: Owners::new(), versions: BTreeMap::new() };
    for (path, files) in having.into_iter().filter(|(_, files)| files.len() > 1) {
        let names: Vec<String> = files.iter().map(|(name, _)| (*name).to_owned()).collect();
        shared.having.insert(path.clone(), names.clone());
        let contents = files.iter().map(|(_, file)| contents(&file.bytes)).collect::<Result<Vec<_>, _>>()?;
        if contents.iter().all(|bytes| *bytes == contents[0]) {
            continue;
        }
        let row = rows.remove(&path).unwrap_or_default();
        let versions = names.iter().cloned().zip(contents.iter().map(|bytes| BASE64.encode(bytes)));
        shared.versions.insert(row, versions.collect());
        shared.owners.insert(path, names);
    }
    Ok(shared)
}

/// Rejects a file of a distribution where another one needs a folder.
fn check_folders(installed: &[Installed], place: &EnvironmentPlace<'_>) -> Result<(), Fault> {
    let divided = installed::divided(installed);
    let mut files: BTreeMap<String, &str> = BTreeMap::new();
    for one in installed.iter().filter(|one| one.may_have(&divided)) {
        let paths = one.distribution(place)?.files.into_keys();
        files.extend(paths.filter(|path| divided.contains(&installed::number(path))).map(|path| (path, &*one.name)));
    }
    for one in installed.iter().filter(|one| one.may_have_folder(&divided)) {
        let distribution = one.distribution(place)?;
        let both = distribution.all_folders().into_iter().find_map(|folder| files.get_key_value(folder));
        if let Some((path, other)) = both {
            let (name, path) = (&one.name, distribution.row(path));
            return Err(Fault::usage(format!("`{other}` and `{name}` cannot be installed together"))
                .cause(format!("`{other}` has the file `{path}`, which is a folder of `{name}`"))
                .hint("remove one of the distributions from the requirements, then `cargo xtask lock`"));
        }
    }
    Ok(())
}

/// Has the script judge the distributions. `others` are those that have no file in common with these.
///
/// # Errors
/// A conflict that breaks a distribution.
pub(super) fn judge(
    shared: &Shared,
    (fetched, others): (&Packages, &Packages),
    (python, script): (&Interpreter, &Path),
) -> Result<(), Fault> {
    #[derive(Serialize)]
    struct Facts<'a> {
        rows: BTreeMap<&'a str, Rows<'a>>,
        versions: &'a BTreeMap<String, BTreeMap<String, String>>,
    }
    let rows = fetched.iter().chain(others).map(|(name, package)| (name.as_str(), Rows(package)));
    let facts = Facts { rows: rows.collect(), versions: &shared.versions };
    run(serde_json::to_string(&facts).expect("the facts are valid JSON"), python, script)
}

/// The paths of a package with their hashes, which do not count: the contents of those that differ are compared.
struct Rows<'a>(&'a CheckedPackage);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.paths.iter().map(|path| (path, "")))
    }
}

fn run(facts: String, python: &Interpreter, script: &Path) -> Result<(), Fault> {
    #[derive(Deserialize)]
    struct Report {
        warnings: Vec<String>,
    }
    let call = python.command().arg("-S").arg(script).arg("--judge").stdin(facts);
    let hint = "use the `install.py` of this version of xtask, next to the Dockerfile";
    let output = call.output().map_err(|fault| fault.needed_by("`install.py --judge`").hint(hint))?;
    if output.status.code() == Some(REFUSED) {
        return Err(refused(&String::from_utf8_lossy(&output.stderr)));
    }
    if !output.status.success() {
        return Err(call
            .failed(Exit::Build, output.status)
            .cause(String::from_utf8_lossy(&output.stderr).trim())
            .hint(hint));
    }
    let report: Report = serde_json::from_slice(&output.stdout)
        .map_err(|error| Fault::build(format!("cannot read the output of `{}`", script.display())).cause(error))?;
    report.warnings.iter().for_each(|warning| terminal::warn(warning));
    Ok(())
}

/// Error from the script's lines about conflicting distributions.
fn refused(said: &str) -> Fault {
    let mut lines = said.trim().lines();
    let fault = Fault::usage(lines.next().unwrap_or("the packages cannot be installed together"));
    let fault = lines.fold(fault, |fault, line| fault.cause(line));
    fault
        .cause("only one of the files can be used, which breaks the other distribution")
        .hint("remove one of the distributions from the requirements")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wheel::test_data::{Made, made, wheel};
    use std::collections::BTreeSet;
    use xtask_model::spec::lock::LockedPackage;

    const PLACE: EnvironmentPlace<'static> = EnvironmentPlace { home: "/opt/venv", folder: "python3.13" };

    /// Unpacks and compares two packages.
    fn compared(one: &[Made], two: &[Made]) -> (Vec<bool>, Result<Shared, Fault>) {
        let scratch = tempfile::tempdir().unwrap();
        let folder = super::super::unpack::Folder::new(scratch.path(), "test-", 1 << 20).unwrap();
        let (mut unpacked, mut all) = (Vec::new(), Vec::new());
        for (name, files) in [("one", one), ("two", two)] {
            let locked = LockedPackage {
                name: name.to_owned(),
                version: "1".to_owned(),
                extras: BTreeSet::new(),
                marker: None,
                url: None,
                hashes: BTreeSet::new(),
            };
            let arrived = (wheel(scratch.path(), name, files), format!("{name}-1-py3-none-any.whl"));
            let distribution = Installed::read(&arrived, &locked, &PLACE).unwrap();
            unpacked.push(folder.unpack_one(&distribution, false).unwrap().is_some());
            all.push(Installed::new(&distribution, (arrived, &locked), &PLACE, BTreeSet::new()).0);
        }
        (unpacked, compare(&all, &PLACE))
    }

    #[test]
    fn a_file_of_one_package_is_not_a_folder_of_another() {
        let empty = |name: &str| Made { mode: 0o040_755, ..made(name, "") };
        for (one, two, file, folder, path, unpacked) in [
            (made("thing", "x"), made("thing/__init__.py", ""), "one", "two", "thing", [true, false]),
            (made("thing/__init__.py", ""), made("thing", "x"), "two", "one", "thing", [true, false]),
            (made("a/b", "x"), made("a/b/c/d.py", ""), "one", "two", "a/b", [true, false]),
            (made("a/b/tests/c/d.py", ""), made("a/b", "x"), "two", "one", "a/b", [true, true]),
            (made("thing", "x"), empty("thing/"), "one", "two", "thing", [true, true]),
            (
                made("one-1.data/data/share", "x"),
                made("two-1.data/data/share/doc/x", ""),
                "one",
                "two",
                "../../../share",
                [true, false],
            ),
        ] {
            let (done, found) = compared(&[one], &[two]);
            let fault = found.err().unwrap();
            assert_eq!(done, unpacked, "{path}");
            assert_eq!(fault.what, format!("`{file}` and `{folder}` cannot be installed together"));
            assert_eq!(fault.causes, [format!("`{file}` has the file `{path}`, which is a folder of `{folder}`")]);
        }
        for (one, two) in [("a/b.py", "a/c.py"), ("a/b", "a/bc/d.py"), ("Mod/__init__.py", "mod/__init__.py")] {
            let (done, found) = compared(&[made(one, "")], &[made(two, "")]);
            assert!(done == [true, true] && found.is_ok_and(|shared| shared.having.is_empty()), "{one} {two}");
        }
    }
}
