//! The build context as docker gets it: a folder with the files that the image reads, and nothing of them but what its key
//! covers.
//!
//! BuildKit copies mode and time of a context's file into the image, and compares neither owner nor contents before it takes a
//! file that it was sent before: path, size, mode and time are enough for it. A checkout's modes and times depend on the umask
//! and the day. Here a file is 0644 or 0755, a folder 0755, and everything has one second of time. The nanoseconds, which no
//! layer keeps, come from the contents, so that changed contents are always sent again. Files that did not change are not
//! copied again.
//!
//! BuildKit keeps the context of the last build under the base name of its folder, and writes changed files into it. A folder whose
//! files are written then has the time of the build, and its own time is not compared. The folder is therefore reached by a link
//! that is named by its contents: a changed context is another one for BuildKit.

#[cfg(test)]
mod tests;

use super::{ContextEntry, ContextPath, FileKind, ObjectId};
use crate::file::cannot_read;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use xtask_model::fault::Fault;
use xtask_model::image::context::ObjectFormat;
use xtask_model::spec::reference::Digest;

/// 2026-01-01T00:00:00Z, which the native engine's layers have too.
const TIME: i64 = 1_767_225_600;

/// A staged context. Nobody else changes it while the value lasts.
#[derive(Debug)]
pub struct StagedContext {
    /// A link to the folder, named by the contents.
    pub folder: PathBuf,
    _lock: File,
}

/// Known staged files: contents, and the nanoseconds that identify them.
type StagedFiles = BTreeMap<ContextPath, (String, i64)>;

/// Brings `folder` to hold these entries of the context at `root`, and the files `made`, which no key knows by their contents: each
/// with the path that it has here, and its place. Those of them that are missing are left out.
pub fn stage(
    root: &Path,
    entries: &[ContextEntry],
    made: &BTreeMap<ContextPath, PathBuf>,
    folder: &Path,
) -> Result<StagedContext, Fault> {
    let cannot = |error: io::Error| cannot_write(folder, error);
    let parent = folder.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(cannot)?;
    let lock = File::create(folder.with_extension("lock")).map_err(cannot)?;
    lock.lock().map_err(cannot)?;
    let list = folder.with_extension("list");
    let mut known = read_list(&list).filter(|_| folder.is_dir()).unwrap_or_default();
    if known.is_empty() {
        // The state of existing files is unknown.
        remove(folder).map_err(cannot)?;
    }
    make_folder(folder).map_err(cannot)?;
    let mut stage = Stage { root, folder, list, known: &mut known, wanted: BTreeSet::new(), changed: false };
    for entry in entries {
        stage.parents(&entry.path)?;
        match (entry.kind, entry.id) {
            (FileKind::Dir, _) => stage.folder(&entry.path)?,
            (FileKind::Symlink, _) => stage.link(&entry.path)?,
            (FileKind::File, Some(id)) => {
                let source = root.join(entry.path.to_path());
                stage.file(entry, &source, &id.to_string(), Some(id))?;
            }
            // The caller lists the files of every folder.
            (FileKind::File, None) | (FileKind::Special | FileKind::Tree, _) => {}
        }
    }
    for (path, source) in made {
        let Ok(metadata) = fs::metadata(source) else { continue };
        stage.parents(path)?;
        let mode = if metadata.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
        let entry = ContextEntry { path: path.clone(), kind: FileKind::File, mode, id: None };
        let (modified, changed) =
            ((metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()));
        let stamp = format!("stamp:{}:{}:{modified:?}:{changed:?}", metadata.ino(), metadata.size());
        stage.file(&entry, source, &stamp.replace(' ', ""), None)?;
    }
    stage.finish()?;
    let link = named_by_contents(folder, &known).map_err(cannot)?;
    Ok(StagedContext { folder: link, _lock: lock })
}

/// Makes the link to a staged folder that is named by its contents, and removes the one of other contents.
fn named_by_contents(folder: &Path, known: &StagedFiles) -> io::Result<PathBuf> {
    let links = folder.with_extension("links");
    let name = Digest::of(listed(known).as_bytes()).hex();
    let link = links.join(&name[..32]);
    let target = Path::new("..").join(folder.file_name().unwrap_or_default());
    if fs::read_link(&link).is_ok_and(|found| found == target) {
        return Ok(link);
    }
    remove(&links)?;
    fs::create_dir_all(&links)?;
    std::os::unix::fs::symlink(target, &link)?;
    Ok(link)
}

struct Stage<'a> {
    root: &'a Path,
    folder: &'a Path,
    list: PathBuf,
    known: &'a mut StagedFiles,
    wanted: BTreeSet<ContextPath>,
    changed: bool,
}

impl Stage<'_> {
    /// From here on the folder differs from its list, which is written last.
    fn begin(&mut self) -> Result<(), Fault> {
        if !self.changed {
            self.changed = true;
            match fs::remove_file(&self.list) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(cannot_write(&self.list, error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn at(&self, path: &ContextPath) -> PathBuf {
        self.folder.join(path.to_path())
    }

    fn parents(&mut self, path: &ContextPath) -> Result<(), Fault> {
        let mut missing = Vec::new();
        let mut parent = path.parent();
        while let Some(folder) = parent.filter(|folder| !folder.as_bytes().is_empty() && !self.wanted.contains(folder))
        {
            parent = folder.parent();
            missing.push(folder);
        }
        missing.iter().rev().try_for_each(|folder| self.folder(folder))
    }

    fn folder(&mut self, path: &ContextPath) -> Result<(), Fault> {
        self.wanted.insert(path.clone());
        self.note(path, "dir", 0)?;
        let at = self.at(path);
        if fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir() && found.permissions().mode() & 0o7777 == 0o755) {
            return Ok(());
        }
        self.begin()?;
        if !fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir()) {
            remove(&at).map_err(|error| cannot_write(&at, error))?;
        }
        make_folder(&at).map_err(|error| cannot_write(&at, error))
    }

    fn link(&mut self, path: &ContextPath) -> Result<(), Fault> {
        self.wanted.insert(path.clone());
        let source = self.root.join(path.to_path());
        let target = fs::read_link(&source).map_err(|error| cannot_read(&source, error))?;
        self.note(path, &format!("link:{}", Digest::of(target.as_os_str().as_bytes())), 0)?;
        let at = self.at(path);
        if fs::read_link(&at).is_ok_and(|there| there == target) {
            return Ok(());
        }
        self.begin()?;
        let cannot = |error| cannot_write(&at, error);
        remove(&at).map_err(cannot)?;
        std::os::unix::fs::symlink(&target, &at).map_err(cannot)?;
        set_time(&at, nanoseconds(&Digest::of(target.as_os_str().as_bytes()).hex())).map_err(cannot)
    }

    fn file(&mut self, entry: &ContextEntry, source: &Path, sum: &str, id: Option<ObjectId>) -> Result<(), Fault> {
        let path = &entry.path;
        self.wanted.insert(path.clone());
        let at = self.at(path);
        let before = self.known.get(path).cloned();
        let mut nanos = nanoseconds(&Digest::of(sum.as_bytes()).hex());
        if let Some((known, known_nanos)) = &before {
            if known == sum && is_staged(&at, entry.mode, *known_nanos) {
                return Ok(());
            }
            if known != sum && nanos == *known_nanos {
                nanos = (nanos + 1) % 1_000_000_000;
            }
        }
        self.begin()?;
        let format = id.map_or(ObjectFormat::Sha256, |id| id.format());
        let copied = copy(source, &at, (entry.mode, nanos), format)?;
        if id.is_some_and(|id| id != copied) {
            return Err(Fault::build(format!("`{path}` changed while it was read")).hint("run this again"));
        }
        self.known.insert(path.clone(), (sum.to_owned(), nanos));
        Ok(())
    }

    fn note(&mut self, path: &ContextPath, sum: &str, nanos: i64) -> Result<(), Fault> {
        if self.known.get(path).is_none_or(|(known, _)| known != sum) {
            self.begin()?;
            self.known.insert(path.clone(), (sum.to_owned(), nanos));
        }
        Ok(())
    }

    /// Removes what is no longer wanted, gives folders their time, and writes the list.
    fn finish(mut self) -> Result<(), Fault> {
        let gone: Vec<ContextPath> = self.known.keys().filter(|path| !self.wanted.contains(*path)).cloned().collect();
        for path in &gone {
            self.begin()?;
            let at = self.at(path);
            // Where a file took the place of a folder, what was in it is gone already.
            match remove(&at) {
                Err(error) if error.kind() != ErrorKind::NotADirectory => return Err(cannot_write(&at, error)),
                _ => drop(self.known.remove(path)),
            }
        }
        if !self.changed {
            return Ok(());
        }
        let folders = self.known.iter().filter(|(_, (sum, _))| sum == "dir").map(|(path, _)| self.at(path));
        for folder in folders.chain([self.folder.to_owned()]) {
            set_time(&folder, 0).map_err(|error| cannot_write(&folder, error))?;
        }
        write_list(&self.list, self.known).map_err(|error| cannot_write(&self.list, error))
    }
}

/// Copies a file; returns the id of what was copied.
fn copy(source: &Path, to: &Path, (mode, nanos): (u32, i64), format: ObjectFormat) -> Result<ObjectId, Fault> {
    let mut input = File::open(source).map_err(|error| cannot_read(source, error))?;
    let cannot = |error| cannot_write(to, error);
    remove(to).map_err(cannot)?;
    let mut output = File::create_new(to).map_err(cannot)?;
    let size = input.metadata().map_err(|error| cannot_read(source, error))?.len();
    let mut hash = xtask_scan::id::ObjectHash::new(super::scan_format(format), "blob", size);
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = input.read(&mut buffer).map_err(|error| cannot_read(source, error))?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        output.write_all(&buffer[..count]).map_err(cannot)?;
    }
    output.set_permissions(Permissions::from_mode(mode)).map_err(cannot)?;
    drop(output);
    set_time(to, nanos).map_err(cannot)?;
    let id = hash.finish().map_err(|error| cannot_read(source, error))?;
    Ok(ObjectId::new(format, &id))
}

fn is_staged(at: &Path, mode: u32, nanos: i64) -> bool {
    fs::symlink_metadata(at).is_ok_and(|found| {
        found.is_file()
            && found.permissions().mode() & 0o7777 == mode
            && (found.mtime(), found.mtime_nsec()) == (TIME, nanos)
    })
}

/// Nanoseconds below one second, from hex digits.
fn nanoseconds(hex: &str) -> i64 {
    i64::from_str_radix(&hex[..12], 16).unwrap_or(0) % 1_000_000_000
}

fn set_time(path: &Path, nanos: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: TIME, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A folder of mode 0755, whatever the umask.
fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// Removes a file, a link or a folder with all in it, if it exists.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A line for each path: contents, nanoseconds, path. The last line says that it is whole.
fn write_list(list: &Path, known: &StagedFiles) -> io::Result<()> {
    let partial = list.with_extension("partial");
    fs::write(&partial, listed(known) + "end\n")?;
    fs::rename(&partial, list)
}

fn listed(known: &StagedFiles) -> String {
    known.iter().map(|(path, (sum, nanos))| format!("{sum} {nanos} {path}\n")).collect()
}

fn read_list(list: &Path) -> Option<StagedFiles> {
    let text = fs::read_to_string(list).ok()?;
    let mut known = StagedFiles::new();
    for line in text.strip_suffix("end\n")?.lines() {
        let mut words = line.splitn(3, ' ');
        let (sum, nanos, path) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        known.insert(path, (sum.to_owned(), nanos));
    }
    Some(known)
}

fn cannot_write(path: &Path, error: io::Error) -> Fault {
    Fault::build(format!("cannot write `{}`", path.display())).cause(error)
}
