//! Paths that several distributions have with different bytes: which file is used, and which conflicts are errors.
//!
//! The rule is in the repository's `install.py`, which both engines run; here are the facts that it judges.

use super::distribution::{Distribution, InstalledFile};
use super::interpreter::Interpreter;
use crate::layer::packed::contents;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use xtask_host::terminal;
use xtask_model::fault::{Exit, Fault};

/// Owners of each path by normalised name, in the lock's order. The last one's file is used.
pub(super) type Owners = BTreeMap<String, Vec<String>>;

/// Paths by distribution.
pub(super) type Rows<'a> = BTreeMap<&'a str, &'a BTreeSet<String>>;

const REFUSED: i32 = 3;

/// Paths that several distributions have with different bytes.
pub(super) struct Shared {
    pub(super) owners: Owners,
    /// The bytes of each owner, by path as `RECORD` has it.
    versions: BTreeMap<String, BTreeMap<String, String>>,
}

/// Finds the paths, from the environment's folder.
pub(super) fn compare(distributions: &[Distribution]) -> Result<Shared, Fault> {
    let mut having: BTreeMap<&str, Vec<(&Distribution, &InstalledFile)>> = BTreeMap::new();
    for distribution in distributions {
        for (path, file) in &distribution.files {
            having.entry(path).or_default().push((distribution, file));
        }
    }
    let mut shared = Shared { owners: Owners::new(), versions: BTreeMap::new() };
    for (path, files) in having.into_iter().filter(|(_, files)| files.len() > 1) {
        let contents = files.iter().map(|(_, file)| contents(&file.bytes)).collect::<Result<Vec<_>, _>>()?;
        if contents.iter().all(|bytes| *bytes == contents[0]) {
            continue;
        }
        let names = files.iter().map(|(distribution, _)| distribution.name.clone());
        let row = files[0].0.row(path);
        let versions = names.clone().zip(contents.iter().map(|bytes| BASE64.encode(bytes)));
        shared.versions.insert(row, versions.collect());
        shared.owners.insert(path.to_owned(), names.collect());
    }
    Ok(shared)
}

/// Has the script judge the distributions. `others` are the paths, as `RECORD` has them, of distributions that have no file in
/// common with these.
///
/// # Errors
/// A conflict that breaks a distribution.
pub(super) fn judge(
    shared: &Shared,
    distributions: &[Distribution],
    others: &Rows<'_>,
    (python, script): (&Interpreter, &Path),
) -> Result<(), Fault> {
    #[derive(Serialize)]
    struct Facts<'a> {
        rows: BTreeMap<&'a str, BTreeMap<&'a str, &'a str>>,
        versions: &'a BTreeMap<String, BTreeMap<String, String>>,
    }
    let of_wheels =
        distributions.iter().map(|one| (&*one.name, one.rows.iter().map(|row| (&*row.path, &*row.hash)).collect()));
    let of_others = others.iter().map(|(name, paths)| (*name, paths.iter().map(|path| (&**path, "")).collect()));
    let facts = Facts { rows: of_wheels.chain(of_others).collect(), versions: &shared.versions };
    run(serde_json::to_string(&facts).expect("the facts are valid JSON"), python, script)
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
