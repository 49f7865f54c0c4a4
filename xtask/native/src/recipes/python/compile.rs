//! Byte code and import checks, with the image's Python or one like it.
//!
//! Runs programs; new files are written next to the sources.

use super::interpreter::Interpreter;
use std::collections::BTreeSet;
use std::path::Path;
use xtask_model::fault::{Exit, Fault};

/// Compiles the sources of these distributions in `site` with the repository's script, as if they were at `path` in the
/// image.
pub(super) fn compile(
    interpreter: &Interpreter,
    script: &Path,
    (site, path): (&Path, &str),
    names: &BTreeSet<&str>,
) -> Result<(), Fault> {
    let call = interpreter.command().arg("-S").arg(script).arg(site).arg(path).args(names);
    call.read(Exit::Build).map(drop).map_err(|fault| fault.needed_by("the packages' byte code"))
}

/// Imports every installed distribution with the repository's script, and returns the skipped ones with reasons.
/// Packages may write to `home`.
pub(super) fn import(interpreter: &Interpreter, script: &Path, home: &Path) -> Result<Vec<String>, Fault> {
    // Requirements between distributions were checked before.
    let call = interpreter.command().args(["-B"]).arg(script).arg("--no-requirements");
    let call = call.env("HOME", home).env("XDG_CACHE_HOME", home).env("TMPDIR", home).current_dir(home);
    let output = call.output()?;
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stderr)));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.lines().filter_map(|line| line.strip_prefix("passed over: ")).map(str::to_owned).collect())
}

/// Error with the failed imports, without the warnings of packages.
fn failed(said: &str) -> Fault {
    let found: Vec<&str> = said.lines().filter(|line| line.contains(": cannot import ")).collect();
    let fault =
        Fault::build("the packages of the lock cannot be imported").needed_by("the import check of all packages");
    let fault =
        if found.is_empty() { fault.cause(said.trim()) } else { found.iter().fold(fault, |f, line| f.cause(line)) };
    let library = found.iter().any(|line| line.contains("shared object") || line.contains(".so"));
    fault.hint(if library || found.is_empty() {
        "the root may lack a library that a package loads: add it to `[root.debian] packages`, or use another root image"
    } else {
        "change the requirements so that the packages are compatible, then: `cargo xtask lock`"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(said: &str, causes: &[&str], hint: &str) {
        let fault = failed(said);
        assert_eq!(fault.causes, causes);
        assert!(fault.hints[0].contains(hint), "{fault}");
    }

    #[test]
    fn the_hint_matches_the_failure() {
        let name = "pandas 2: cannot import pandas: cannot import name 'utc' from 'pytz'";
        check(&format!("x.py:1: FutureWarning: y\n{name}\n"), &[name], "cargo xtask lock");
        let library = "scipy 1: cannot import scipy: libstdc++.so.6: cannot open shared object file";
        check(library, &[library], "[root.debian] packages");
        check("Traceback\n", &["Traceback"], "[root.debian] packages");
    }
}
