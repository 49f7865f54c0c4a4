//! Compiles byte code and runs the import check, with the image's Python or one like it.

use super::Unpacked;
use super::bytecode::{self, PythonSource};
use super::distribution::{Distribution, EnvironmentPlace};
use super::interpreter::Interpreter;
use super::shared::Shared;
use crate::layer::item::Bytes;
use crate::layer::packed::contents;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use xtask_model::fault::Fault;

/// A source. It is in the folder of the packages, and its byte code goes next to it, unless its version says otherwise.
pub(super) struct SourceFile {
    /// Path below site-packages.
    path: Box<str>,
    version: Option<Box<Version>>,
}

/// One of several files at a path.
struct Version {
    /// `None` if the folder has it.
    bytes: Option<Bytes>,
    /// `None` if another distribution's version is used; it is compiled all the same, because it shares a process.
    to: Option<PathBuf>,
}

/// Sources that share a process.
pub(super) struct Chunk {
    pub(super) name: ChunkName,
    /// Bytes of the sources.
    pub(super) size: u64,
    pub(super) sources: Vec<SourceFile>,
}

/// The distribution and the first source of a chunk, by path below site-packages: what names it.
pub(super) type ChunkName = (String, String);

impl Chunk {
    fn new(distribution: &str, sources: Vec<(SourceFile, u64)>) -> Self {
        let first = sources.first().map(|(source, _)| source.path.to_string()).unwrap_or_default();
        let size = sources.iter().map(|(_, size)| size).sum();
        let sources = sources.into_iter().map(|(source, _)| source).collect();
        Self { name: (distribution.to_owned(), first), size, sources }
    }
}

/// Folders of sources and of their byte code.
pub(super) struct BytecodeFiles<'a> {
    pub(super) home: PathBuf,
    pub(super) place: &'a EnvironmentPlace<'a>,
}

impl BytecodeFiles<'_> {
    pub(super) fn read<'s>(&self, source: &'s SourceFile) -> Result<PythonSource<'s>, Fault> {
        if let Some(bytes) = source.version.as_ref().and_then(|version| version.bytes.as_ref()) {
            return Ok((&source.path, contents(bytes)?));
        }
        let file = self.home.join(self.path(source));
        let text = std::fs::read(&file);
        let text = text.map_err(|error| Fault::build(format!("cannot read `{}`", file.display())).cause(error))?;
        Ok((&source.path, text))
    }

    /// Writes byte code into the unpacked packages, where the import check uses it.
    pub(super) fn write(&self, source: &SourceFile, code: Option<Vec<u8>>) -> Result<(), Fault> {
        let to = match &source.version {
            Some(version) => version.to.clone(),
            None => self.place.byte_code(&self.path(source)).map(|code| self.home.join(code)),
        };
        let (Some(file), Some(code)) = (to, code) else { return Ok(()) };
        let folder = file.parent().unwrap_or(&file);
        // A wheel may bring byte code of its own.
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, code));
        written.map_err(|error| Fault::build(format!("cannot write `{}`", file.display())).cause(error))
    }

    fn path(&self, source: &SourceFile) -> String {
        format!("{}/{}", self.place.site(), source.path)
    }
}

/// The sources of a distribution by path from the environment's folder, with their paths below site-packages.
fn sources_of<'d>(
    distribution: &'d Distribution,
    site: &'d str,
) -> impl Iterator<Item = (&'d String, &'d str, &'d Bytes)> {
    distribution.files.iter().filter_map(move |(path, file)| {
        let below = path.strip_prefix(site).filter(|below| bytecode::is_source(below))?;
        Some((path, below, &file.bytes))
    })
}

/// The chunks of a distribution that have none of these paths.
pub(super) fn untouched(
    distribution: &Distribution,
    touched: &BTreeSet<String>,
    place: &EnvironmentPlace<'_>,
) -> Vec<Chunk> {
    let site = format!("{}/", place.site());
    let sources = sources_of(distribution, &site)
        .map(|(_, below, bytes)| (SourceFile { path: below.into(), version: None }, bytes.size()));
    let is_touched = |(source, _): &(SourceFile, u64)| touched.contains(&format!("{site}{}", source.path));
    let chunks = bytecode::together(sources.collect()).into_iter();
    let chunks = chunks.filter(|chunk| touched.is_empty() || !chunk.iter().any(is_touched));
    chunks.map(|chunk| Chunk::new(&distribution.name, chunk)).collect()
}

/// The sources of these packages as they share processes, the largest first, without the chunks that were compiled before. A version of
/// a shared path that is not used is on its own.
pub(super) fn sources(
    unpacked: &Unpacked<'_>,
    (names, compiled): (&BTreeSet<&str>, &BTreeSet<ChunkName>),
    place: &EnvironmentPlace<'_>,
) -> Result<Vec<Vec<SourceFile>>, Fault> {
    let Unpacked { folder, installed, shared: Shared { owners, having, .. } } = *unpacked;
    let site = format!("{}/", place.site());
    let sharing: BTreeSet<&str> = owners.values().flatten().map(String::as_str).collect();
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    compiled.iter().for_each(|(name, _)| *known.entry(name).or_default() += 1);
    let mut chunks = Vec::new();
    for one in installed {
        let name = one.name.as_str();
        let (wanted, shares) = (names.contains(name), sharing.contains(name));
        if !shares && (!wanted || known.get(name).copied().unwrap_or(0) == one.chunks) {
            continue;
        }
        let distribution = one.distribution(place)?;
        // Of equal files at one path the last distribution's byte code is kept, in whatever order they are compiled.
        let is_last = |path: &String| {
            let last = having.get(path).and_then(|all| all.iter().rev().find(|name| names.contains(name.as_str())));
            last.is_none_or(|last| last == name)
        };
        let source = |(path, below, bytes): (&String, &str, &Bytes)| {
            let used = owners.get(path).and_then(|owners| owners.last()).map_or(name, String::as_str);
            let is_own = used == name && (owners.contains_key(path) || is_last(path));
            let version = (!is_own).then(|| Box::new(Version { bytes: None, to: None }));
            (SourceFile { path: below.into(), version }, bytes.size())
        };
        let is_shared = |(source, _): &(SourceFile, u64)| owners.contains_key(&format!("{site}{}", source.path));
        if wanted {
            let together = bytecode::together(sources_of(&distribution, &site).map(source).collect());
            let left = together.into_iter().filter_map(|sources| {
                let is_shared = shares && sources.iter().any(is_shared);
                let chunk = Chunk::new(name, sources);
                (is_shared || !compiled.contains(&chunk.name)).then_some(chunk)
            });
            chunks.extend(left);
        }
        let versions = sources_of(&distribution, &site)
            .filter(|(path, ..)| owners.get(*path).is_some_and(|owners| owners.iter().any(|owner| owner == name)));
        chunks.extend(versions.map(|(path, below, bytes)| {
            let to = place.byte_code(path).map(|code| folder.own(name).join(code));
            let version = Version { bytes: Some(bytes.clone()), to };
            let source = SourceFile { path: below.into(), version: Some(Box::new(version)) };
            Chunk::new(name, vec![(source, bytes.size())])
        }));
    }
    chunks.sort_by_key(|chunk| std::cmp::Reverse(chunk.size));
    Ok(chunks.into_iter().map(|chunk| chunk.sources).collect())
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
