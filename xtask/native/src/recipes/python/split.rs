//! Splits an installed folder into the parts that its distributions belong to.
//!
//! Reads the folder and writes nothing. `RECORD` says which distribution owns a file; byte code belongs to its source.
//! A part depends only on its own distributions: if several parts have a path with different bytes, each has its own
//! version, and the last layer has the version that is used.

use super::install::{Shared, renamed, version_folder};
use super::record::{self, Row};
use crate::layer::item::{Bytes, Content, Item};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::requirements::normalised;

pub(super) struct Installed<'a> {
    pub(super) prefix: &'a Path,
    /// Version of the target's Python, `3.13.5`.
    pub(super) python: &'a str,
    /// Folder name of uv's interpreter, `python3.11`: paths in `RECORD` contain it.
    pub(super) asked: &'a str,
    pub(super) interpreter: &'a str,
    pub(super) shared: &'a Shared,
}

struct Distribution {
    name: String,
    record: String,
    rows: Vec<Row>,
}

#[derive(Clone, Copy)]
struct FileMeta {
    size: u64,
    mode: u32,
}

pub(super) type Items = BTreeMap<ContextPath, Item>;

#[derive(Default)]
pub(super) struct Split {
    pub(super) parts: BTreeMap<usize, Items>,
    /// Used files of paths that several parts have with different bytes.
    pub(super) used: Items,
}

/// Items of the wanted parts; `part_of` maps normalised distribution names to parts. `home` is the environment's path
/// in the image, `/opt/venv`.
pub(super) fn split(
    installed: &Installed<'_>,
    home: &str,
    part_of: &BTreeMap<String, usize>,
    wanted: &BTreeSet<usize>,
) -> Result<Split, Fault> {
    let site = format!("lib/{}/site-packages", version_folder(installed.python));
    let mut files = BTreeMap::new();
    walk(installed.prefix, &mut PathBuf::new(), &mut files)?;
    // Created by uv, not part of a package.
    files.remove(".lock");
    let distributions = distributions(installed, &site)?;
    let mut owners: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    let mut out = Split { parts: wanted.iter().map(|part| (*part, Items::new())).collect(), used: Items::new() };
    let writer = Writer { installed, home, site: &site, files: &files };
    for distribution in &distributions {
        let part = *part_of
            .get(&distribution.name)
            .ok_or_else(|| Fault::build(format!("`{}` was installed but not requested", distribution.name)))?;
        let items = writer.distribution(distribution, &mut |path| {
            owners.entry(path.to_owned()).or_default().insert(part);
        })?;
        out.parts.entry(part).and_modify(|all| all.extend(items.clone()));
        out.used.extend(writer.used(distribution, &items, part_of));
    }
    for (path, found) in files.iter().filter(|(path, _)| !owners.contains_key(*path)) {
        let part = nearest(&owners, path).ok_or_else(|| {
            Fault::build(format!("cannot find the package of `{path}`: no `RECORD` lists it"))
                .hint("build this base with docker: `--engine docker`")
        })?;
        if let Some(items) = out.parts.get_mut(&part) {
            put(items, home, path, *found, Bytes::At { file: installed.prefix.join(path), size: found.size });
        }
    }
    Ok(out)
}

/// All regular files below a folder, by path with `/`.
fn walk(prefix: &Path, below: &mut PathBuf, files: &mut BTreeMap<String, FileMeta>) -> Result<(), Fault> {
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
            let path =
                path.map_err(|_| Fault::build(format!("the name of `{}` is not valid UTF-8", below.display())))?;
            files.insert(path.to_owned(), FileMeta { size: meta.len(), mode: meta.permissions().mode() });
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

struct Writer<'a> {
    installed: &'a Installed<'a>,
    home: &'a str,
    site: &'a str,
    files: &'a BTreeMap<String, FileMeta>,
}

impl Writer<'_> {
    /// Files of a distribution; its scripts and its `RECORD` as they must be in the image.
    fn distribution(&self, distribution: &Distribution, own: &mut dyn FnMut(&str)) -> Result<Items, Fault> {
        let Installed { prefix, python, asked, interpreter, shared } = *self.installed;
        let (home, folder, mut out) = (self.home, version_folder(python), Items::new());
        let script = format!("{home}/bin/python3");
        let mut rows = Vec::with_capacity(distribution.rows.len());
        for listed in &distribution.rows {
            let row = Row { path: renamed(&listed.path, asked, &folder), ..listed.clone() };
            let path = record::within(self.site, &row.path).ok_or_else(|| {
                let name = &distribution.name;
                Fault::build(format!("`{name}` lists `{}`, which is outside the environment", row.path))
            })?;
            own(&path);
            let kept = shared.own(&distribution.name, &listed.path);
            let from = kept.as_deref().unwrap_or(prefix);
            let found =
                |path: &str| if kept.is_some() { found(&from.join(path)) } else { self.files.get(path).copied() };
            // An installer skipped the file, or another distribution removed it.
            let Some(file) = found(&path).filter(|_| path != distribution.record) else {
                rows.push(row);
                continue;
            };
            if let Some(code) = self.byte_code(&path) {
                own(&code);
                if let Some(found) = found(&code) {
                    put(&mut out, home, &code, found, Bytes::At { file: from.join(&code), size: found.size });
                }
            }
            let rewritten = if path.starts_with("bin/") {
                let bytes = fs::read(from.join(&path));
                let bytes = bytes.map_err(|error| Fault::build(format!("cannot read `{path}`")).cause(error))?;
                record::of_interpreter(&bytes, interpreter, &script)
            } else {
                None
            };
            match rewritten {
                Some(bytes) => {
                    rows.push(Row { hash: record::hash(&bytes), size: bytes.len().to_string(), ..row });
                    put(&mut out, home, &path, file, Bytes::Here(bytes.into()));
                }
                None => {
                    rows.push(row);
                    put(&mut out, home, &path, file, Bytes::At { file: from.join(&path), size: file.size });
                }
            }
        }
        rows.sort();
        let text = record::print(&rows);
        let found = FileMeta { size: text.len() as u64, mode: 0o644 };
        put(&mut out, home, &distribution.record, found, Bytes::Here(text.into_bytes().into()));
        Ok(out)
    }

    /// Items of a distribution that are used instead of other parts' versions.
    fn used(&self, distribution: &Distribution, items: &Items, part_of: &BTreeMap<String, usize>) -> Items {
        let mut out = Items::new();
        for row in &distribution.rows {
            let Some(owners) = self.installed.shared.owners.get(&row.path) else { continue };
            let parts: BTreeSet<Option<&usize>> = owners.iter().map(|owner| part_of.get(owner)).collect();
            if parts.len() < 2 || owners.last() != Some(&distribution.name) {
                continue;
            }
            let renamed = renamed(&row.path, self.installed.asked, &version_folder(self.installed.python));
            let Some(path) = record::within(self.site, &renamed) else { continue };
            let at = |path: &str| ContextPath::new(format!("{}/{path}", self.home.trim_start_matches('/')));
            let code = self.byte_code(&path);
            for path in [Some(path), code.clone()].into_iter().flatten() {
                if let Some(item) = items.get(&at(&path)) {
                    folders(&mut out, self.home, &item.path);
                    out.insert(item.path.clone(), item.clone());
                } else if Some(&path) == code.as_ref()
                    && owners.iter().any(|owner| self.installed.shared.folder.join(owner).join(&path).is_file())
                {
                    // A lower layer has byte code of another version: empty byte code makes Python use the source.
                    put(&mut out, self.home, &path, FileMeta { size: 0, mode: 0o644 }, Bytes::Here(Vec::new().into()));
                }
            }
        }
        out
    }

    fn byte_code(&self, path: &str) -> Option<String> {
        let tag = format!("cpython-{}", self.installed.python.split('.').take(2).collect::<String>());
        record::byte_code(path, &tag)
    }
}

fn found(file: &Path) -> Option<FileMeta> {
    let meta = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
    Some(FileMeta { size: meta.len(), mode: meta.permissions().mode() })
}

/// The part of the nearest files, if they agree.
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

fn put(out: &mut Items, home: &str, path: &str, found: FileMeta, bytes: Bytes) {
    // As git records it: the umask of whoever filled uv's cache must not matter.
    let mode = if found.mode & 0o111 == 0 { 0o644 } else { 0o755 };
    let path = ContextPath::new(format!("{}/{path}", home.trim_start_matches('/')));
    folders(out, home, &path);
    out.insert(path.clone(), Item { path, mode, uid: 0, gid: 0, content: Content::File(bytes) });
}

/// Adds the folders of a path, from the environment's own down.
pub(super) fn folders(out: &mut Items, home: &str, path: &ContextPath) {
    let home = ContextPath::new(home.trim_start_matches('/'));
    for path in path.folders().take_while(|path| *path == home || path.below(&home).is_some()) {
        let item = Item { path: path.clone(), mode: 0o755, uid: 0, gid: 0, content: Content::Dir };
        if out.insert(path, item).is_some() {
            break;
        }
    }
}

#[cfg(test)]
mod tests;
