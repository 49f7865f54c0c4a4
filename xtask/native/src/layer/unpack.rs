//! Unpacks layers into a folder as an ordinary user. Devices are skipped, and owners unless root asks for them; the
//! owner can always read and write; set-id bits are dropped.
//!
//! Nothing outside the folder is written, read or linked: each name is opened from its parent folder, and links are not
//! followed. No other process may write to the folder meanwhile.

use crate::layer::{Entry, EntryKind, Reader, Whiteout};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;

pub struct Unpacker {
    root: OwnedFd,
    shown: PathBuf,
    owners: bool,
    only: fn(&ContextPath) -> bool,
    /// Folder of the last entry: neighbours mostly share it.
    last: Option<(ContextPath, OwnedFd)>,
}

impl Unpacker {
    pub fn open(folder: &Path) -> Result<Self, Fault> {
        let open = || -> io::Result<OwnedFd> {
            std::fs::create_dir_all(folder)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(CWD, folder, flags, Mode::empty())?)
        };
        let root = open().map_err(|error| Fault::build(format!("cannot write `{}`", folder.display())).cause(error))?;
        Ok(Self { root, shown: folder.to_owned(), owners: false, only: |_| true, last: None })
    }

    /// Sets owners, which only root can, to run the image as its own user. Only root may enter such a folder.
    #[must_use]
    pub(crate) fn with_owners(self) -> Self {
        Self { owners: true, ..self }
    }

    /// Skips all other files, and folders without files. Links are kept.
    #[must_use]
    pub fn only(self, these: fn(&ContextPath) -> bool) -> Self {
        Self { only: these, ..self }
    }

    /// Unpacks a layer over the previous ones. After an error the folder is incomplete and must be removed.
    pub fn apply(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let mut own = Own::default();
        while let Some(entry) = reader.next()? {
            match entry.whiteout() {
                Some(Whiteout::Path(path)) => self.take_away(&path, &own)?,
                Some(Whiteout::Below(folder)) => self.take_below(&folder, &own)?,
                Some(Whiteout::Nothing) => {}
                None if self.leaves_out(&entry) => {}
                None => self.put(&entry, reader, &mut own)?,
            }
        }
        Ok(())
    }

    /// Unpacks a layer alone into an empty folder, to be mounted over folders of the layers below it. Returns false if that could differ from
    /// unpacking it over them: it takes something away, or has a folder or a link that only they describe.
    pub(crate) fn apply_apart(&mut self, reader: &mut Reader<'_>) -> Result<bool, Fault> {
        let mut own = Own::default();
        while let Some(entry) = reader.next()? {
            match entry.whiteout() {
                Some(Whiteout::Path(_) | Whiteout::Below(_)) => return Ok(false),
                Some(Whiteout::Nothing) => {}
                None if !own.suffices_for(&entry) => return Ok(false),
                None => self.put(&entry, reader, &mut own)?,
            }
        }
        Ok(true)
    }

    fn leaves_out(&self, entry: &Entry) -> bool {
        !matches!(entry.kind, EntryKind::Symlink(_)) && !(self.only)(&entry.path)
    }

    fn put(&mut self, entry: &Entry, reader: &mut Reader<'_>, own: &mut Own) -> Result<(), Fault> {
        let Some((folder, name)) = split(&entry.path) else { return Ok(()) };
        let shown = self.shown.clone();
        let cannot = |error: Errno| cannot_write(&shown, &entry.path, error);
        let is_dir = entry.kind == EntryKind::Dir;
        let was_leaf = own.leaves.contains(&entry.path);
        if is_dir && was_leaf || !is_dir && !was_leaf && own.has(&entry.path) {
            return Err(
                self.contradiction(&format!("`{}` is both a folder and something else in one layer", entry.path))
            );
        }
        let target = match &entry.kind {
            EntryKind::HardLink(target) => Some(self.file(target).map_err(|error| {
                cannot(error).cause(format!("it is a hard link to `{target}`, which must exist before it"))
            })?),
            _ => None,
        };
        let parent = self.folder(&folder, own)?;
        let found = kind(parent, name).map_err(cannot)?;
        if found.is_some_and(|found| !(is_dir && found == FileType::Directory)) {
            self.take_away_all(&entry.path)?;
        }
        let parent = self.folder(&folder, own)?;
        match &entry.kind {
            EntryKind::Dir => make_dir(parent, name, entry.mode).map_err(cannot)?,
            EntryKind::Symlink(target) => {
                rustix::fs::symlinkat(target.as_slice(), parent, name).map_err(cannot)?;
            }
            EntryKind::File(_) => {
                let mut file = make_file(parent, name).map_err(cannot)?;
                write(reader, &mut file).map_err(|error| match error {
                    Broken::Layer(error) => reader.failed(error),
                    Broken::Folder(error) => cannot_write(&shown, &entry.path, error),
                })?;
                finish(&file, entry).map_err(cannot)?;
            }
            EntryKind::HardLink(_) => {
                let (from, name_there) = target.as_ref().expect("looked up above");
                rustix::fs::linkat(from, name_there, parent, name, AtFlags::empty()).map_err(cannot)?;
            }
            // A skipped device still replaces the existing entry.
            EntryKind::Special => {}
        }
        if self.owners && !matches!(entry.kind, EntryKind::Special | EntryKind::HardLink(_)) {
            let parent = self.folder(&folder, own)?;
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(cannot)?;
        }
        own.paths.insert(entry.path.clone());
        if !is_dir {
            own.leaves.insert(entry.path.clone());
        }
        Ok(())
    }

    fn contradiction(&self, why: &str) -> Fault {
        Fault::build(format!("cannot unpack a layer into `{}`", self.shown.display())).cause(why)
    }

    /// Opens or creates the folder at a path. A file of a lower layer is replaced.
    fn folder(&mut self, path: &ContextPath, own: &Own) -> Result<BorrowedFd<'_>, Fault> {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let mut at = ContextPath::default();
            let mut fd = self.root.try_clone().map_err(|error| cannot_write(&self.shown, path, error))?;
            for part in path.parts() {
                at = at.join(part);
                if own.leaves.contains(&at) {
                    let why = format!("`{path}` must be a folder, but `{at}` is not one in the same layer");
                    return Err(self.contradiction(&why));
                }
                fd = enter(&fd, part).map_err(|error| cannot_write(&self.shown, &at, error))?;
            }
            self.last = Some((path.clone(), fd));
        }
        Ok(self.last.as_ref().expect("just set").1.as_fd())
    }

    /// Folder and name of an existing regular file.
    fn file(&self, path: &ContextPath) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let (folder, name) = split(path).ok_or(Errno::ISDIR)?;
        let folder = self.existing(&folder)?;
        match kind(folder.as_fd(), name)? {
            Some(FileType::RegularFile) => Ok((folder, name.to_vec())),
            Some(FileType::Symlink) => Err(Errno::LOOP),
            Some(FileType::Directory) => Err(Errno::ISDIR),
            Some(_) => Err(Errno::INVAL),
            None => Err(Errno::NOENT),
        }
    }

    fn existing(&self, path: &ContextPath) -> Result<OwnedFd, Errno> {
        let mut fd = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?;
        for part in path.parts() {
            fd = open_dir(&fd, part)?;
        }
        Ok(fd)
    }

    /// Removes a path of lower layers; entries of this layer stay.
    fn take_away(&mut self, path: &ContextPath, own: &Own) -> Result<(), Fault> {
        if own.has(path) {
            return if own.leaves.contains(path) { Ok(()) } else { self.take_below(path, own) };
        }
        self.take_away_all(path)
    }

    fn take_away_all(&mut self, path: &ContextPath) -> Result<(), Fault> {
        let Some((folder, name)) = split(path) else { return Ok(()) };
        self.last = None;
        let removed = match self.existing(&folder) {
            Ok(folder) => remove(&folder, name),
            // Missing, or below a file: nothing to remove.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|error| cannot_write(&self.shown, path, error))
    }

    fn take_below(&mut self, path: &ContextPath, own: &Own) -> Result<(), Fault> {
        self.last = None;
        let cannot = |error: Errno| cannot_write(&self.shown, path, error);
        let folder = match self.existing(path) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(cannot(error)),
        };
        let names = names(&folder).map_err(cannot)?;
        drop(folder);
        for name in names {
            self.take_away(&path.join(&name), own)?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Own {
    paths: BTreeSet<ContextPath>,
    leaves: BTreeSet<ContextPath>,
}

impl Own {
    fn has(&self, path: &ContextPath) -> bool {
        let below = path.join(b"");
        let next = self.paths.range(&below..).next();
        self.paths.contains(path) || next.is_some_and(|next| next.as_bytes().starts_with(below.as_bytes()))
    }
}

impl Own {
    /// Returns true if lower layers make no difference to an entry. Its folder has its mode and owner from this layer.
    fn suffices_for(&self, entry: &Entry) -> bool {
        let parent = entry.path.parent().unwrap_or_default();
        let has_parent = parent.as_bytes().is_empty() || self.paths.contains(&parent) && !self.leaves.contains(&parent);
        has_parent
            && match &entry.kind {
                EntryKind::HardLink(target) => self.leaves.contains(target),
                // It is left out, with what it replaces.
                EntryKind::Special => false,
                EntryKind::Dir | EntryKind::File(_) | EntryKind::Symlink(_) => true,
            }
    }
}

fn split(path: &ContextPath) -> Option<(ContextPath, &[u8])> {
    Some((path.parent()?, path.parts().next_back()?))
}

fn kind(folder: BorrowedFd<'_>, name: &[u8]) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_dir(folder: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// Opens or creates a folder; replaces what is not a folder.
fn enter(folder: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    match open_dir(folder, name) {
        Err(Errno::NOENT) => {}
        Err(Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => {
            rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
        }
        done => return done,
    }
    rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755))?;
    open_dir(folder, name)
}

/// Permissions without set-id bits; the owner's bits are at least `at_least`.
fn permissions(mode: u32, at_least: u32) -> Mode {
    Mode::from_raw_mode((mode & 0o777 | at_least) as rustix::fs::RawMode)
}

fn make_dir(folder: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(), Errno> {
    match rustix::fs::mkdirat(folder, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    // Independent of the umask.
    rustix::fs::fchmod(made, permissions(mode, 0o700))
}

fn make_file(folder: BorrowedFd<'_>, name: &[u8]) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

enum Broken {
    Layer(io::Error),
    Folder(io::Error),
}

/// Copies the contents; the error says which side failed.
fn write(reader: &mut Reader<'_>, file: &mut File) -> Result<(), Broken> {
    use std::io::{Read as _, Write as _};
    let mut contents = reader.contents();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match contents.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => file.write_all(&buffer[..count]).map_err(Broken::Folder)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Broken::Layer(error)),
        }
    }
}

fn finish(file: &File, entry: &Entry) -> Result<(), Errno> {
    rustix::fs::fchmod(file, permissions(entry.mode, 0o600))?;
    // Python checks its byte code against the source's time.
    let time = Timespec { tv_sec: entry.time, tv_nsec: 0 };
    rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })
}

fn names(folder: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(&*name, b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes a name with everything below it. A missing name is not an error.
fn remove(folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    // Rejects names that would lead to the folder itself or out of it.
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        return Err(Errno::INVAL);
    }
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        done => return done,
    }
    // Without recursion: the depth is untrusted.
    let mut open = vec![(open_dir(folder, name)?, name.to_vec(), Vec::new())];
    if let Some(top) = open.last_mut() {
        top.2 = names(&top.0)?;
    }
    while let Some((current, _, left)) = open.last_mut() {
        if let Some(next) = left.pop() {
            match rustix::fs::unlinkat(&*current, &next, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => {
                    let inner = open_dir(current, &next)?;
                    let inside = names(&inner)?;
                    open.push((inner, next, inside));
                }
                done => done?,
            }
        } else {
            let name = open.pop().expect("the loop has an element").1;
            let parent = open.last().map_or(folder, |(parent, _, _)| parent);
            rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

fn cannot_write(folder: &Path, path: &ContextPath, error: impl Into<io::Error>) -> Fault {
    Fault::build(format!("cannot unpack `{path}` into `{}`", folder.display())).cause(error.into())
}

#[cfg(test)]
mod tests;
