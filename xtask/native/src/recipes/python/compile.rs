//! What byte code is made of, and the import check, with the image's Python or one like it.

use super::Unpacked;
use super::bytecode::{self, Source};
use super::distribution::{Distribution, Place};
use super::interpreter::Interpreter;
use crate::layer::item::Bytes;
use crate::layer::packed::contents;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use xtask_model::fault::Fault;

/// A source, and where its byte code goes.
pub(super) struct SourceFile<'a> {
    /// Path below site-packages.
    path: &'a str,
    bytes: &'a Bytes,
    /// The same bytes as a file, for the version that is used.
    unpacked: Option<PathBuf>,
    /// `None` if another distribution's version is used; it is compiled all the same, because it shares a process.
    to: Option<PathBuf>,
}

impl SourceFile<'_> {
    pub(super) fn read(&self) -> Result<Source<'_>, Fault> {
        let Some(file) = &self.unpacked else { return Ok((self.path, contents(self.bytes)?)) };
        let text = std::fs::read(file);
        let text = text.map_err(|error| Fault::build(format!("cannot read `{}`", file.display())).cause(error))?;
        Ok((self.path, text))
    }

    /// Writes byte code into the unpacked packages, where the import check uses it.
    pub(super) fn write(&self, code: Option<Vec<u8>>) -> Result<(), Fault> {
        let (Some(file), Some(code)) = (&self.to, code) else { return Ok(()) };
        let folder = file.parent().unwrap_or(file);
        // A wheel's own byte code may be there.
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(file, code));
        written.map_err(|error| Fault::build(format!("cannot write `{}`", file.display())).cause(error))
    }
}

/// The sources of these distributions as they share processes, the largest first. A version of a shared path that is not used
/// is on its own.
pub(super) fn sources<'a>(
    unpacked: &Unpacked<'a>,
    names: &BTreeSet<&str>,
    place: &Place<'_>,
) -> Vec<Vec<SourceFile<'a>>> {
    let (site, home) = (format!("{}/", place.site()), unpacked.folder.home());
    let files_of: BTreeMap<&str, &Distribution> =
        unpacked.distributions.iter().map(|one| (one.name.as_str(), one)).collect();
    let source = |path: &'a str, owner: &str, is_used: bool, to: Option<PathBuf>| {
        let below = path.strip_prefix(&site).filter(|below| bytecode::is_source(below))?;
        let bytes = &files_of.get(owner)?.files.get(path)?.bytes;
        Some(SourceFile { path: below, bytes, unpacked: is_used.then(|| home.join(path)), to })
    };
    let mut chunks = Vec::new();
    for distribution in unpacked.distributions.iter().filter(|one| names.contains(&*one.name)) {
        let sources = distribution.files.keys().filter_map(|path| {
            let used = unpacked.owners.get(path).and_then(|owners| owners.last()).unwrap_or(&distribution.name);
            let to = place.byte_code(path).filter(|_| *used == distribution.name).map(|code| home.join(code));
            source(path, used, true, to)
        });
        chunks.extend(bytecode::together(sources.collect()));
    }
    for (path, owners) in unpacked.owners {
        let own = |name: &String| place.byte_code(path).map(|code| unpacked.folder.own(name).join(code));
        chunks.extend(owners.iter().filter_map(|name| source(path, name, false, own(name))).map(|source| vec![source]));
    }
    let size = |chunk: &[SourceFile<'_>]| chunk.iter().map(|source| source.bytes.size()).sum::<u64>();
    chunks.sort_by_key(|chunk| std::cmp::Reverse(size(chunk)));
    chunks
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
