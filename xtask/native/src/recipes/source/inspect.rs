//! Looks into a source archive: its build system, and what compiles it.

use crate::layer::{EntryKind, Limits, Reader};
use crate::wheel::Wheel;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;
use xtask_model::fault::Fault;
use xtask_model::spec::sdist::{BuildSystem, Compilers, is_telling};

/// Bytes of a text that are looked at: a longer `pyproject.toml` or `setup.py` is not a person's.
const MOST: u64 = 1 << 20;

/// Number of files of C whose headers are looked at.
const MOST_TEXTS: usize = 2000;

/// Build settings of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    pub system: BuildSystem,
    pub compilers: Compilers,
}

/// Reads an archive; `shown` names it in errors, `subdirectory` is the project's folder in it.
///
/// # Errors
/// An archive that is damaged or has no folder at its top; an invalid `pyproject.toml`.
pub fn inspect(path: &Path, shown: &str, subdirectory: &str) -> Result<Inspected, Fault> {
    let invalid = |why: String| Fault::usage(format!("cannot read how {shown} is built")).cause(why);
    let mut found = Found { files: BTreeSet::new(), texts: BTreeMap::new(), below: subdirectory.trim_matches('/') };
    let mut magic = [0; 2];
    let cannot = |error: std::io::Error| invalid(format!("cannot read `{}`: {error}", path.display()));
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).map_err(cannot)?;
    if magic == *b"PK" {
        let archive = Wheel::open(path, shown)?;
        let names: Vec<String> =
            archive.entries().iter().filter(|one| !one.folder).map(|one| one.name.clone()).collect();
        let telling: BTreeSet<String> = names.iter().filter(|name| found.file(name)).cloned().collect();
        archive.read_each(&|entry| telling.contains(&entry.name) && entry.size <= MOST, &mut |entry, bytes| {
            found.text(&entry.name, bytes);
            Ok(())
        })?;
    } else {
        let file = BufReader::new(File::open(path).map_err(cannot)?);
        let limits = Limits { bytes: 4 << 30, entries: 500_000, ..Limits::default() };
        let mut reader = Reader::open(file, None, limits)?;
        while let Some(entry) = reader.next()? {
            let name = entry.path.to_string();
            if matches!(entry.kind, EntryKind::File(size) if size <= MOST)
                && found.file(&name)
                && let Some(bytes) = reader.bytes(MOST)?
            {
                found.text(&name, &bytes);
            }
        }
    }
    if found.files.is_empty() {
        return Err(invalid(format!("the archive has no project in `{}`", found.below)));
    }
    let system = BuildSystem::of(found.texts.get("pyproject.toml").map(String::as_str)).map_err(invalid)?;
    let compilers = Compilers::of(&system, &found.files, &found.texts);
    Ok(Inspected { system, compilers })
}

struct Found<'a> {
    files: BTreeSet<String>,
    texts: BTreeMap<String, String>,
    below: &'a str,
}

impl Found<'_> {
    /// The path in the project: without the archive's folder.
    fn own<'n>(&self, name: &'n str) -> Option<&'n str> {
        let rest = name.split_once('/')?.1;
        if self.below.is_empty() { Some(rest) } else { rest.strip_prefix(self.below)?.strip_prefix('/') }
    }

    /// Notes a file; true if its text is wanted.
    fn file(&mut self, name: &str) -> bool {
        let Some(own) = self.own(name) else { return false };
        self.files.insert(own.to_owned());
        is_telling(own) && self.texts.len() < MOST_TEXTS
    }

    fn text(&mut self, name: &str, bytes: &[u8]) {
        if let Some(own) = self.own(name) {
            self.texts.insert(own.to_owned(), String::from_utf8_lossy(bytes).into_owned());
        }
    }
}
