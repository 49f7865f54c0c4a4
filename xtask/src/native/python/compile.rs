//! Byte code, and the proof that packages can be imported, by a Python that is the image's or like it.
//!
//! Runs programs; what is written stands beside the sources, in new files.

use super::interpreter::Interpreter;
use crate::fault::{Exit, Fault};
use std::collections::BTreeSet;
use std::path::Path;

/// Compiles the sources of these distributions in a site-packages folder by the repository's script, as what stands at `path` in
/// the image.
pub(super) fn compile(
    interpreter: &Interpreter,
    script: &Path,
    (site, path): (&Path, &str),
    names: &BTreeSet<&str>,
) -> Result<(), Fault> {
    let call = interpreter.command().arg("-S").arg(script).arg(site).arg(path).args(names);
    call.read(Exit::Build).map(drop).map_err(|fault| fault.needed_by("the packages' byte code"))
}

/// Imports every installed distribution by the repository's script, and returns what was passed over, with the reasons. `home` is for
/// what packages write about themselves.
pub(super) fn import(interpreter: &Interpreter, script: &Path, home: &Path) -> Result<Vec<String>, Fault> {
    let call = interpreter.command().args(["-B"]).arg(script);
    let call = call.env("HOME", home).env("XDG_CACHE_HOME", home).env("TMPDIR", home).current_dir(home);
    let said = call.read(Exit::Build).map_err(|fault| {
        fault.needed_by("the check that every package can be imported").hint(
            "a library that a package loads may be missing in the root: `[root.debian] packages`, or another root image",
        )
    })?;
    Ok(said.lines().filter_map(|line| line.strip_prefix("passed over: ")).map(str::to_owned).collect())
}
