//! What byte code is made of, and the import check, with the image's Python or one like it.

use super::Unpacked;
use super::bytecode::{self, PythonSource};
use super::distribution::{Distribution, EnvironmentPlace};
use super::interpreter::Interpreter;
use super::unpack::Folder;
use crate::layer::item::Bytes;
use crate::layer::packed::contents;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use xtask_model::fault::Fault;

/// A source, and where its byte code goes.
pub(super) struct SourceFile {
    /// Path below site-packages.
    path: String,
    bytes: Bytes,
    /// The same bytes as a file, for the version that is used.
    unpacked: Option<PathBuf>,
    /// `None` if another distribution's version is used; it is compiled all the same, because it shares a process.
    to: Option<PathBuf>,
}

/// Sources that share a process.
pub(super) type Chunk = Vec<SourceFile>;

/// The distribution and the first source of a chunk, by path below site-packages: what names it.
pub(super) type ChunkName = (String, String);

impl SourceFile {
    pub(super) fn read(&self) -> Result<PythonSource<'_>, Fault> {
        let Some(file) = &self.unpacked else { return Ok((&self.path, contents(&self.bytes)?)) };
        let text = std::fs::read(file);
        let text = text.map_err(|error| Fault::build(format!("cannot read `{}`", file.display())).cause(error))?;
        Ok((&self.path, text))
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

pub(super) fn name_of(distribution: &str, chunk: &Chunk) -> ChunkName {
    (distribution.to_owned(), chunk.first().map(|source| source.path.clone()).unwrap_or_default())
}

/// Bytes of the sources of a chunk.
pub(super) fn size_of(chunk: &Chunk) -> u64 {
    chunk.iter().map(|source| source.bytes.size()).sum()
}

/// The chunks of a distribution that have none of these paths.
pub(super) fn untouched(
    distribution: &Distribution,
    touched: &BTreeSet<String>,
    (folder, place): (&Folder, &EnvironmentPlace<'_>),
) -> Vec<Chunk> {
    let (site, home) = (format!("{}/", place.site()), folder.home());
    let sources = distribution.files.iter().filter_map(|(path, file)| {
        let below = path.strip_prefix(&site).filter(|below| bytecode::is_source(below))?;
        let to = place.byte_code(path).map(|code| home.join(code));
        Some(SourceFile { path: below.to_owned(), bytes: file.bytes.clone(), unpacked: Some(home.join(path)), to })
    });
    let is_touched = |source: &SourceFile| touched.contains(&format!("{site}{}", source.path));
    let chunks = bytecode::together(sources.collect()).into_iter();
    chunks.filter(|chunk| touched.is_empty() || !chunk.iter().any(is_touched)).collect()
}

/// The sources of these distributions as they share processes, the largest first, without the chunks that were compiled before. A version of
/// a shared path that is not used is on its own.
pub(super) fn sources(
    unpacked: &Unpacked<'_>,
    (names, compiled): (&BTreeSet<&str>, &BTreeSet<ChunkName>),
    place: &EnvironmentPlace<'_>,
) -> Vec<Chunk> {
    let (site, home) = (format!("{}/", place.site()), unpacked.folder.home());
    let distributions = || unpacked.distributions.iter().filter(|one| names.contains(&*one.name));
    let files_of: BTreeMap<&str, &Distribution> =
        unpacked.distributions.iter().map(|one| (one.name.as_str(), one)).collect();
    // Of equal files at one path the last distribution's byte code is kept, in whatever order they are compiled.
    let last: BTreeMap<&str, &str> =
        distributions().flat_map(|one| one.files.keys().map(|path| (path.as_str(), one.name.as_str()))).collect();
    let source = |path: &str, owner: &str, is_used: bool, to: Option<PathBuf>| {
        let below = path.strip_prefix(&site).filter(|below| bytecode::is_source(below))?;
        let bytes = files_of.get(owner)?.files.get(path)?.bytes.clone();
        Some(SourceFile { path: below.to_owned(), bytes, unpacked: is_used.then(|| home.join(path)), to })
    };
    let mut chunks = Vec::new();
    for distribution in distributions() {
        let sources = distribution.files.keys().filter_map(|path| {
            let used = unpacked.owners.get(path).and_then(|owners| owners.last()).unwrap_or(&distribution.name);
            let is_last = last.get(path.as_str()).is_none_or(|name| *name == distribution.name);
            let is_own = *used == distribution.name && (is_last || unpacked.owners.contains_key(path));
            let to = place.byte_code(path).filter(|_| is_own).map(|code| home.join(code));
            source(path, used, true, to)
        });
        let is_shared = |source: &SourceFile| unpacked.owners.contains_key(&format!("{site}{}", source.path));
        let is_left = |chunk: &Chunk| {
            !compiled.contains(&name_of(&distribution.name, chunk))
                || (!unpacked.owners.is_empty() && chunk.iter().any(is_shared))
        };
        chunks.extend(bytecode::together(sources.collect()).into_iter().filter(is_left));
    }
    for (path, owners) in unpacked.owners {
        let own = |name: &String| place.byte_code(path).map(|code| unpacked.folder.own(name).join(code));
        chunks.extend(owners.iter().filter_map(|name| source(path, name, false, own(name))).map(|source| vec![source]));
    }
    chunks.sort_by_key(|chunk| std::cmp::Reverse(size_of(chunk)));
    chunks
}

/// An import check that runs in the background.
pub(super) struct ImportCheck(Option<JoinHandle<Result<Vec<String>, Fault>>>);

impl ImportCheck {
    /// Starts [`import`].
    pub(super) fn start(interpreter: Interpreter, script: &Path, home: &Path) -> Self {
        let (script, home) = (script.to_owned(), home.to_owned());
        Self(Some(std::thread::spawn(move || import(&interpreter, &script, &home))))
    }

    /// Waits for its result.
    pub(super) fn end(mut self) -> Result<Vec<String>, Fault> {
        let running = self.0.take().expect("it is taken here alone");
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for ImportCheck {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            let _ = running.join();
        }
    }
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
