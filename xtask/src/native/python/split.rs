//! What an installed folder holds, as the items of the parts that its distributions belong to.
//!
//! Reads the folder and writes nothing. Whose a file is says its distribution's `RECORD`; byte code belongs to its source.

use super::install::{renamed, version_folder};
use super::record::{self, Row};
use crate::context::ContextPath;
use crate::fault::Fault;
use crate::native::item::{Bytes, Content, Item};
use crate::requirements::normalised;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A folder that uv filled.
pub(super) struct Installed<'a> {
    /// The folder.
    pub(super) prefix: &'a Path,
    /// The target's Python, `3.13.5`.
    pub(super) python: &'a str,
    /// The folder's name of the Python that uv asked, `python3.11`: paths in `RECORD` have it.
    pub(super) asked: &'a str,
    /// How scripts name the Python that uv asked.
    pub(super) interpreter: &'a str,
}

/// A distribution that was found.
struct Distribution {
    name: String,
    /// From the prefix.
    record: String,
    rows: Vec<Row>,
}

/// A file on the disk: bytes and permission bits.
#[derive(Clone, Copy)]
struct Found {
    size: u64,
    mode: u32,
}

/// Items by path.
pub(super) type Items = BTreeMap<ContextPath, Item>;

/// The items of each part; `part_of` knows every distribution by its normalised name. `home` is where the environment will
/// stand, `/opt/venv`.
pub(super) fn split(
    installed: &Installed<'_>,
    home: &str,
    part_of: &BTreeMap<String, usize>,
    parts: usize,
) -> Result<Vec<Items>, Fault> {
    let site = format!("lib/{}/site-packages", version_folder(installed.python));
    let mut files = BTreeMap::new();
    walk(installed.prefix, &mut PathBuf::new(), &mut files)?;
    // Ours and uv's own, between whose files those of the packages stand.
    files.remove(".lock");
    let distributions = distributions(installed, &site)?;
    agreed(&distributions)?;
    let mut owners: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    let mut out = vec![Items::new(); parts];
    for distribution in &distributions {
        let part = *part_of
            .get(&distribution.name)
            .ok_or_else(|| Fault::build(format!("`{}` was installed, and nobody asked for it", distribution.name)))?;
        write(installed, home, &site, distribution, &files, &mut out[part], &mut |path| {
            owners.entry(path.to_owned()).or_default().insert(part);
        })?;
    }
    let tag = format!("cpython-{}", installed.python.split('.').take(2).collect::<String>());
    for (path, parts) in owners.clone() {
        let Some(code) = record::byte_code(&path, &tag) else { continue };
        if let Some(found) = files.get(&code) {
            for part in &parts {
                put(
                    &mut out[*part],
                    home,
                    &code,
                    *found,
                    Bytes::At { file: installed.prefix.join(&code), size: found.size },
                );
            }
            owners.entry(code).or_default().extend(parts);
        }
    }
    for (path, found) in files.iter().filter(|(path, _)| !owners.contains_key(*path)) {
        let part = nearest(&owners, path).ok_or_else(|| {
            Fault::build(format!("cannot tell which package `{path}` belongs to: no `RECORD` lists it"))
                .hint("build this base with docker: `--engine docker`")
        })?;
        put(&mut out[part], home, path, *found, Bytes::At { file: installed.prefix.join(path), size: found.size });
    }
    Ok(out)
}

/// Every regular file below a folder, by its path with `/`.
fn walk(prefix: &Path, below: &mut PathBuf, files: &mut BTreeMap<String, Found>) -> Result<(), Fault> {
    let folder = prefix.join(&*below);
    let cannot = |error: std::io::Error| Fault::build(format!("cannot read `{}`", folder.display())).cause(error);
    for entry in fs::read_dir(&folder).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let meta = entry.metadata().map_err(cannot)?;
        below.push(entry.file_name());
        if meta.is_dir() {
            walk(prefix, below, files)?;
        } else if meta.is_file() {
            let path = std::str::from_utf8(below.as_os_str().as_bytes());
            let path = path.map_err(|_| Fault::build(format!("the name of `{}` is no UTF-8", below.display())))?;
            files.insert(path.to_owned(), Found { size: meta.len(), mode: meta.permissions().mode() });
        } else {
            return Err(Fault::build(format!("`{}` is neither a file nor a folder", below.display())));
        }
        below.pop();
    }
    Ok(())
}

fn distributions(installed: &Installed<'_>, site: &str) -> Result<Vec<Distribution>, Fault> {
    let folder = installed.prefix.join(site);
    let cannot = |error: std::io::Error| Fault::build(format!("cannot read `{}`", folder.display())).cause(error);
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".dist-info") else { continue };
        let record = format!("{name}/RECORD");
        let text = fs::read_to_string(folder.join(&record)).map_err(cannot)?;
        let rows = record::parse(&text).map_err(|why| Fault::build(format!("cannot read `{record}`")).cause(why))?;
        let name = stem.split_once('-').map_or(stem, |(name, _)| name);
        found.push(Distribution { name: normalised(name), record: format!("{site}/{record}"), rows });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// A file of two distributions is one file: which of two would stand there is not decided by anyone.
fn agreed(distributions: &[Distribution]) -> Result<(), Fault> {
    let mut seen: BTreeMap<&str, (&Distribution, &Row)> = BTreeMap::new();
    for distribution in distributions {
        for row in &distribution.rows {
            if let Some((other, before)) = seen.insert(&row.path, (distribution, row))
                && before.hash != row.hash
            {
                let (one, two) = (&other.name, &distribution.name);
                return Err(Fault::usage(format!("`{one}` and `{two}` have different files at `{}`", row.path))
                    .cause("whichever is installed last would win, and that is chance")
                    .hint("leave one of them out of the requirements"));
            }
        }
    }
    Ok(())
}

/// The files that a distribution lists; its scripts and its `RECORD` as they are where the environment will stand.
fn write(
    installed: &Installed<'_>,
    home: &str,
    site: &str,
    distribution: &Distribution,
    files: &BTreeMap<String, Found>,
    out: &mut Items,
    own: &mut dyn FnMut(&str),
) -> Result<(), Fault> {
    let folder = version_folder(installed.python);
    let python = format!("{home}/bin/python3");
    let mut rows = Vec::with_capacity(distribution.rows.len());
    for row in &distribution.rows {
        let row = Row { path: renamed(&row.path, installed.asked, &folder), ..row.clone() };
        let path = record::within(site, &row.path).ok_or_else(|| {
            Fault::build(format!("`{}` lists `{}`, which is outside of the environment", distribution.name, row.path))
        })?;
        own(&path);
        if path == distribution.record {
            rows.push(row);
            continue;
        }
        // A file that an installer leaves out, or that another distribution removed.
        let Some(found) = files.get(&path) else {
            rows.push(row);
            continue;
        };
        let file = installed.prefix.join(&path);
        let script = if path.starts_with("bin/") {
            let bytes = fs::read(&file).map_err(|error| Fault::build(format!("cannot read `{path}`")).cause(error))?;
            record::of_interpreter(&bytes, installed.interpreter, &python)
        } else {
            None
        };
        match script {
            Some(bytes) => {
                rows.push(Row { hash: record::hash(&bytes), size: bytes.len().to_string(), ..row });
                put(out, home, &path, *found, Bytes::Here(bytes.into()));
            }
            None => {
                rows.push(row);
                put(out, home, &path, *found, Bytes::At { file, size: found.size });
            }
        }
    }
    rows.sort();
    let text = record::print(&rows);
    let found = Found { size: text.len() as u64, mode: 0o644 };
    put(out, home, &distribution.record, found, Bytes::Here(text.into_bytes().into()));
    Ok(())
}

/// The part of what stands nearest around a file, where that is one.
fn nearest(owners: &BTreeMap<String, BTreeSet<usize>>, path: &str) -> Option<usize> {
    let mut folder = path;
    while let Some((parent, _)) = folder.rsplit_once('/') {
        let prefix = format!("{parent}/");
        let around = owners.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix));
        let parts: BTreeSet<usize> = around.flat_map(|(_, parts)| parts.iter().copied()).collect();
        match parts.len() {
            0 => folder = parent,
            1 => return parts.into_iter().next(),
            _ => return None,
        }
    }
    None
}

/// One file, and the folders that it is in.
fn put(out: &mut Items, home: &str, path: &str, found: Found, bytes: Bytes) {
    // As git would record it: the umask of whoever filled uv's cache is none of the image's.
    let mode = if found.mode & 0o111 == 0 { 0o644 } else { 0o755 };
    let path = ContextPath::new(format!("{}/{path}", home.trim_start_matches('/')));
    folders(out, home, &path);
    out.insert(path.clone(), Item { path, mode, uid: 0, gid: 0, content: Content::File(bytes) });
}

/// The folders of a path from the environment's own down.
pub(super) fn folders(out: &mut Items, home: &str, path: &ContextPath) {
    let home = ContextPath::new(home.trim_start_matches('/'));
    let mut folder = path.parent();
    while let Some(path) = folder.filter(|path| *path == home || path.below(&home).is_some()) {
        folder = path.parent();
        let item = Item { path: path.clone(), mode: 0o755, uid: 0, gid: 0, content: Content::Dir };
        if out.insert(path, item).is_some() {
            break;
        }
    }
}

#[cfg(test)]
mod tests;
