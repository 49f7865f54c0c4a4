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
//! files are written then has the time of the build, and its own time is not compared. So a folder that is copied as a whole gets a
//! place that is named by its contents, and the copy's path is a link to it ([`places`]): a changed folder is a new one, and BuildKit is
//! sent nothing else. Where that cannot be, the context itself is reached by a link that is named by its contents, and is sent whole.

mod places;
#[cfg(test)]
mod tests;

use super::{ContextEntry, ContextPath, FileKind, ObjectId};
use crate::file::cannot_read;
use places::{PlacedEntry, Places};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use xtask_model::fault::Fault;
use xtask_model::image::context::ObjectFormat;
use xtask_model::spec::dockerfile::Source;
use xtask_model::spec::reference::Digest;

/// 2026-01-01T00:00:00Z, which the native engine's layers have too.
const TIME: i64 = 1_767_225_600;

/// A staged context. Nobody else changes it while the value lasts.
#[derive(Debug)]
pub struct StagedContext {
    /// A link to the folder that docker gets.
    pub folder: PathBuf,
    _lock: File,
}

/// ContextContents of a staged context. Paths are from the top of the repository.
pub struct ContextContents<'a> {
    /// The top of the repository.
    pub root: &'a Path,
    /// The folder that docker gets.
    pub context: &'a ContextPath,
    pub entries: &'a [ContextEntry],
    /// Files that no key knows by their contents, each with the path that it has here, and its place. Those of them that are missing
    /// are left out.
    pub made: &'a BTreeMap<ContextPath, PathBuf>,
    /// The sources of the Dockerfile, by their paths in the context.
    pub sources: &'a [Source],
}

/// A known staged file: contents, permissions, and the nanoseconds that identify the contents.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StagedFile {
    sum: String,
    mode: u32,
    nanos: i64,
}

type StagedFiles = BTreeMap<ContextPath, StagedFile>;

/// Brings `folder` to hold these contents.
pub fn stage(contents: &ContextContents<'_>, folder: &Path) -> Result<StagedContext, Fault> {
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
    let Places { placed, whole } = places::places(contents);
    let spare = spare(&known, placed.iter().map(|placed| &placed.at).chain(contents.made.keys()));
    let (root, wanted) = (contents.root, BTreeSet::new());
    let mut stage = Stage { root, folder, list, known: &mut known, spare, wanted, changed: false };
    // Links come last, when nothing is below the folder that one takes the place of.
    let (links, others): (Vec<PlacedEntry<'_>>, Vec<PlacedEntry<'_>>) =
        placed.into_iter().partition(PlacedEntry::is_link);
    for PlacedEntry { at, entry, .. } in others {
        stage.parents(&at)?;
        match (entry.kind, entry.id) {
            (FileKind::Dir, _) => stage.folder(&at)?,
            (FileKind::File, Some(id)) => {
                stage.file(&at, &root.join(entry.path.to_path()), (id.to_string(), entry.mode), Some(id))?;
            }
            // The caller lists the files of every folder.
            (FileKind::File, None) | (FileKind::Special | FileKind::Tree | FileKind::Symlink, _) => {}
        }
    }
    for (path, source) in contents.made {
        let Ok(metadata) = fs::metadata(source) else { continue };
        stage.parents(path)?;
        let mode = if metadata.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
        let (modified, changed) =
            ((metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()));
        let stamp = format!("stamp:{}:{}:{modified:?}:{changed:?}", metadata.ino(), metadata.size());
        stage.file(path, source, (stamp.replace(' ', ""), mode), None)?;
    }
    for PlacedEntry { at, entry, leads_to } in links {
        stage.parents(&at)?;
        let source = root.join(entry.path.to_path());
        let target = leads_to.map_or_else(|| fs::read_link(&source), Ok);
        stage.link(&at, &target.map_err(|error| cannot_read(&source, error))?)?;
    }
    stage.finish()?;
    // Another repository's context is another one for BuildKit, too.
    let name = if whole { Digest::of(listed(&known).as_bytes()) } else { Digest::of(folder.as_os_str().as_bytes()) };
    let link = named(folder, contents.context, &name.hex()[..32]).map_err(cannot)?;
    Ok(StagedContext { folder: link, _lock: lock })
}

/// Known files whose paths are no longer wanted, by their contents: what has another path now need not be copied again.
fn spare<'p>(known: &StagedFiles, wanted: impl Iterator<Item = &'p ContextPath>) -> BTreeMap<String, Vec<ContextPath>> {
    let wanted: BTreeSet<&ContextPath> = wanted.collect();
    let mut spare: BTreeMap<String, Vec<ContextPath>> = BTreeMap::new();
    for (path, file) in known.iter().filter(|(path, file)| file.mode != 0 && !wanted.contains(path)) {
        spare.entry(file.sum.clone()).or_default().push(path.clone());
    }
    spare
}

/// Makes the link of this name to the context in a staged folder, and removes the one of another name.
fn named(folder: &Path, context: &ContextPath, name: &str) -> io::Result<PathBuf> {
    let links = folder.with_extension("links");
    let link = links.join(name);
    let target = Path::new("..").join(folder.file_name().unwrap_or_default()).join(context.to_path());
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
    /// Staged files that are not wanted where they are.
    spare: BTreeMap<String, Vec<ContextPath>>,
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
        self.note(path, "dir")?;
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

    fn link(&mut self, path: &ContextPath, target: &Path) -> Result<(), Fault> {
        self.wanted.insert(path.clone());
        let sum = Digest::of(target.as_os_str().as_bytes());
        self.note(path, &format!("link:{sum}"))?;
        let at = self.at(path);
        if fs::read_link(&at).is_ok_and(|there| there == *target) {
            return Ok(());
        }
        self.begin()?;
        let cannot = |error| cannot_write(&at, error);
        remove(&at).map_err(cannot)?;
        std::os::unix::fs::symlink(target, &at).map_err(cannot)?;
        set_time(&at, nanoseconds(&sum.hex())).map_err(cannot)
    }

    fn file(
        &mut self,
        path: &ContextPath,
        source: &Path,
        (sum, mode): (String, u32),
        id: Option<ObjectId>,
    ) -> Result<(), Fault> {
        self.wanted.insert(path.clone());
        let at = self.at(path);
        let mut nanos = nanoseconds(&Digest::of(sum.as_bytes()).hex());
        if let Some(known) = self.known.get(path) {
            if known.sum == sum && known.mode == mode && is_staged(&at, mode, known.nanos) {
                return Ok(());
            }
            if known.sum != sum && nanos == known.nanos {
                nanos = (nanos + 1) % 1_000_000_000;
            }
        }
        self.begin()?;
        if !self.move_spare(&at, (&sum, mode, nanos))? {
            let copied = copy(source, &at, (mode, nanos), id.map_or(ObjectFormat::Sha256, |id| id.format()))?;
            if id.is_some_and(|id| id != copied) {
                let source = source.strip_prefix(self.root).unwrap_or(source).display();
                return Err(Fault::build(format!("`{source}` changed while it was read")).hint("run this again"));
            }
        }
        self.known.insert(path.clone(), StagedFile { sum, mode, nanos });
        Ok(())
    }

    /// Moves a staged file with these contents, permissions and time to another path, if there is one that is not wanted where it is.
    fn move_spare(&mut self, to: &Path, (sum, mode, nanos): (&str, u32, i64)) -> Result<bool, Fault> {
        let Some(path) = self.spare.get_mut(sum).and_then(Vec::pop) else { return Ok(false) };
        let from = self.at(&path);
        if !is_staged(&from, mode, nanos) {
            return Ok(false);
        }
        let cannot = |error| cannot_write(to, error);
        remove(to).map_err(cannot)?;
        fs::rename(from, to).map_err(cannot)?;
        Ok(true)
    }

    fn is_link(&self, path: &ContextPath) -> bool {
        self.wanted.contains(path) && self.known.get(path).is_some_and(|known| known.sum.starts_with("link:"))
    }

    /// Notes a folder or a link.
    fn note(&mut self, path: &ContextPath, sum: &str) -> Result<(), Fault> {
        if self.known.get(path).is_none_or(|known| known.sum != sum) {
            self.begin()?;
            self.known.insert(path.clone(), StagedFile { sum: sum.to_owned(), mode: 0, nanos: 0 });
        }
        Ok(())
    }

    /// Removes what is no longer wanted, gives folders their time, and writes the list.
    fn finish(mut self) -> Result<(), Fault> {
        let gone: Vec<ContextPath> = self.known.keys().filter(|path| !self.wanted.contains(*path)).cloned().collect();
        for path in &gone {
            self.begin()?;
            let at = self.at(path);
            // Where a link took the place of a folder, it leads to what is wanted.
            if path.folders().any(|folder| self.is_link(&folder)) {
                self.known.remove(path);
                continue;
            }
            // Where a file took the place of a folder, what was in it is gone already.
            match remove(&at) {
                Err(error) if error.kind() != ErrorKind::NotADirectory => return Err(cannot_write(&at, error)),
                _ => drop(self.known.remove(path)),
            }
        }
        if !self.changed {
            return Ok(());
        }
        let folders = self.known.iter().filter(|(_, known)| known.sum == "dir").map(|(path, _)| self.at(path));
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
    let mut hash = xtask_scan::id::ObjectHash::new(crate::tree::files::scan_format(format), "blob", size);
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

/// The last line of a list that is whole.
const END: &str = "end 2\n";

/// A line for each path: contents, permissions, nanoseconds, path.
fn write_list(list: &Path, known: &StagedFiles) -> io::Result<()> {
    let partial = list.with_extension("partial");
    fs::write(&partial, listed(known) + END)?;
    fs::rename(&partial, list)
}

fn listed(known: &StagedFiles) -> String {
    let line = |(path, StagedFile { sum, mode, nanos }): (&ContextPath, &StagedFile)| {
        format!("{sum} {mode:o} {nanos} {path}\n")
    };
    known.iter().map(line).collect()
}

fn read_list(list: &Path) -> Option<StagedFiles> {
    let text = fs::read_to_string(list).ok()?;
    let mut known = StagedFiles::new();
    for line in text.strip_suffix(END)?.lines() {
        let mut words = line.splitn(4, ' ');
        let (sum, mode) = (words.next()?.to_owned(), u32::from_str_radix(words.next()?, 8).ok()?);
        let (nanos, path) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        known.insert(path, StagedFile { sum, mode, nanos });
    }
    Some(known)
}

fn cannot_write(path: &Path, error: io::Error) -> Fault {
    Fault::build(format!("cannot write `{}`", path.display())).cause(error)
}
