//! Trees of files: a folder on disk, a git revision, or anything else that answers the same few questions.
//!
//! Facts are gathered through [`Files`] alone, so that a git revision and a working folder give the same facts. Reads; writes
//! nothing and runs nothing.

use std::path::Path;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, FileInfo, ObjectFormat, ObjectId};
use xtask_model::spec::ignore::NameRule;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: Vec<u8>,
    /// True if it is a folder itself; a link to one is none.
    pub is_dir: bool,
    /// True if it is a regular file itself; a link to one is none.
    pub is_file: bool,
}

/// Answer of [`Files::whole`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// Its id, and the number of entries below, or a lower number that is still more than was asked for.
    Is(ObjectId, u64),
    /// It has fewer entries, in whatever folder.
    Small,
    Unknown,
}

/// A tree of files. Paths are relative to its root.
pub trait Files: Send + Sync {
    fn place(&self) -> &Path;

    /// A file's bytes, links followed; `None` where there is no such file.
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Fault>;

    fn has_file(&self, path: &Path) -> bool;

    /// Entries of a folder, unordered; links on the way are not followed.
    fn list(&self, folder: &ContextPath) -> Result<Vec<Named>, Fault>;

    /// The file at a path, without following it; `None` if missing.
    fn found(&self, path: &ContextPath) -> Result<Option<FileInfo>, Fault>;

    /// The format of the ids below.
    fn format(&self) -> ObjectFormat;

    /// Ids of files' contents, in order.
    fn ids(&self, files: &[&ContextPath]) -> Result<Vec<ObjectId>, Fault>;

    /// The id of a folder with all that is below it, if that is more than `most` files, links and folders, and no name there meets one of
    /// the rules. May be unknown for any other reason: then the files are asked for one by one, and the result is the same.
    fn whole(&self, _folder: &ContextPath, _rules: &[NameRule], _most: u64) -> Result<Whole, Fault> {
        Ok(Whole::Unknown)
    }

    fn read_text(&self, path: &Path) -> Result<Option<String>, Fault> {
        let Some(bytes) = self.read(path)? else { return Ok(None) };
        String::from_utf8(bytes).map(Some).map_err(|error| cannot_read(path).cause(error.utf8_error()))
    }

    /// The bytes of a regular file of the tree, links followed: nothing outside of it, no device, at most `most` bytes.
    fn regular(&self, path: &Path, most: usize) -> Result<Vec<u8>, Fault> {
        let bytes = self.read(path)?.ok_or_else(|| cannot_read(path).cause("no such file"))?;
        if bytes.len() > most { Err(too_large(path, most)) } else { Ok(bytes) }
    }

    fn text(&self, path: &Path) -> Result<String, Fault> {
        self.read_text(path)?.ok_or_else(|| cannot_read(path).cause("no such file"))
    }
}

pub(crate) fn cannot_read(path: &Path) -> Fault {
    Fault::usage(format!("cannot read `{}`", path.display()))
}

pub(crate) fn too_large(path: &Path, most: usize) -> Fault {
    cannot_read(path).cause(format!("it has more than {most} bytes"))
}

pub(crate) fn scan_format(format: ObjectFormat) -> xtask_scan::Format {
    match format {
        ObjectFormat::Sha1 => xtask_scan::Format::Sha1,
        ObjectFormat::Sha256 => xtask_scan::Format::Sha256,
    }
}

pub(crate) fn scan_rules(rules: &[NameRule]) -> Vec<xtask_scan::NameRule> {
    let rule = |rule: &NameRule| match rule {
        NameRule::Equals(name) => xtask_scan::NameRule::Equals(name.clone()),
        NameRule::EndsWith(end) => xtask_scan::NameRule::EndsWith(end.clone()),
    };
    rules.iter().map(rule).collect()
}

pub(crate) fn failed(failure: xtask_scan::Failure) -> Fault {
    cannot_read(&failure.path).cause(failure.error)
}

pub(crate) fn blob(format: ObjectFormat, bytes: &[u8]) -> Result<ObjectId, Fault> {
    let id = xtask_scan::id::object(scan_format(format), "blob", bytes);
    id.map(|id| ObjectId::new(format, &id)).map_err(|error| Fault::usage("cannot hash a file").cause(error))
}
