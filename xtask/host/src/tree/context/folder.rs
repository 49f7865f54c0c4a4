//! A folder on disk as a tree of files.
//!
//! Reads; writes nothing and runs nothing.

use crate::tree::files::{Files, Named, cannot_read, failed, scan_format, too_large};
use crate::tree::git;
use std::fs::Metadata;
use std::io::{ErrorKind, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, FileInfo, FileKind, ObjectFormat, ObjectId};

fn regular(root: &Path, path: &Path, most: usize) -> Result<Vec<u8>, Fault> {
    let cannot = |error: std::io::Error| {
        let missing = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        cannot_read(path).cause(if missing { "no such file".to_owned() } else { error.to_string() })
    };
    let place = root.join(path).canonicalize().map_err(cannot)?;
    if !place.starts_with(root.canonicalize().map_err(cannot)?) {
        return Err(cannot_read(path).cause("it is outside of the repository"));
    }
    // Before it is opened: to open a pipe waits for whoever writes.
    if !place.metadata().map_err(cannot)?.is_file() {
        return Err(cannot_read(path).cause("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&place).map_err(cannot)?;
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > most { Err(too_large(path, most)) } else { Ok(bytes) }
}

impl<P: AsRef<Path> + Send + Sync + ?Sized> Files for P {
    fn regular(&self, path: &Path, most: usize) -> Result<Vec<u8>, Fault> {
        regular(self.as_ref(), path, most)
    }

    fn place(&self) -> &Path {
        self.as_ref()
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Fault> {
        match std::fs::read(self.as_ref().join(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(cannot_read(path).cause(error)),
        }
    }

    fn has_file(&self, path: &Path) -> bool {
        self.as_ref().join(path).is_file()
    }

    fn list(&self, folder: &ContextPath) -> Result<Vec<Named>, Fault> {
        let location = self.as_ref().join(folder.to_path());
        let cannot = |error| Fault::usage(format!("cannot read folder `{}`", location.display())).cause(error);
        let mut listed = Vec::new();
        for entry in std::fs::read_dir(&location).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let kind = entry.file_type().map_err(cannot)?;
            let name = entry.file_name().as_bytes().to_vec();
            listed.push(Named { name, is_dir: kind.is_dir(), is_file: kind.is_file() });
        }
        Ok(listed)
    }

    fn found(&self, path: &ContextPath) -> Result<Option<FileInfo>, Fault> {
        let location = self.as_ref().join(path.to_path());
        match std::fs::symlink_metadata(&location) {
            Ok(metadata) => found(&location, &metadata).map(Some),
            // Gone since the folder was read: as if it had never existed.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(cannot_read(&location).cause(error)),
        }
    }

    fn format(&self) -> ObjectFormat {
        git::format(self.as_ref())
    }

    fn ids(&self, paths: &[&ContextPath]) -> Result<Vec<ObjectId>, Fault> {
        let format = self.format();
        let at = |index: usize| self.as_ref().join(paths[index].to_path());
        let found = xtask_scan::memory::hash_all(paths.len(), scan_format(format), &at).map_err(failed)?;
        Ok(found.iter().map(|(_, id)| ObjectId::new(format, id)).collect())
    }
}

fn found(location: &Path, metadata: &Metadata) -> Result<FileInfo, Fault> {
    let mode = metadata.permissions().mode() & 0o7777;
    let file_type = metadata.file_type();
    if file_type.is_symlink() {
        let target = std::fs::read_link(location)
            .map_err(|error| Fault::usage(format!("cannot read link `{}`", location.display())).cause(error))?;
        let link = Some(target.into_os_string().into_vec());
        return Ok(FileInfo { kind: FileKind::Symlink, mode: 0o777, size: 0, link, whole: None });
    }
    let (kind, size) = match (file_type.is_dir(), file_type.is_file()) {
        (true, _) => (FileKind::Dir, 0),
        (_, true) => (FileKind::File, metadata.len()),
        _ => (FileKind::Special, 0),
    };
    Ok(FileInfo { kind, mode, size, link: None, whole: None })
}
