//! Wheels (PEP 427), read in place: nothing is unpacked to disk.
//!
//! A wheel is untrusted input, even with the right hash: an archive with unsafe names or contradictory records is an error.

mod zip;

pub use zip::{RandomAccess, ZipEntry};

use crate::layer::item::{Bytes, Packed};
use crate::layer::packed::{self, Archives};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use xtask_model::fault::Fault;

/// Metadata files are read into memory.
const MOST: u64 = 64 << 20;

/// Takes a file of an archive.
pub type Take<'t> = dyn FnMut(&ZipEntry, &[u8]) -> Result<(), Fault> + 't;

#[derive(Debug)]
pub struct Wheel {
    path: Arc<Path>,
    name: String,
    entries: Vec<ZipEntry>,
}

impl Wheel {
    /// Reads the names and places of a wheel's files. `name` is the wheel's own; a cache may have another one for the file.
    ///
    /// # Errors
    /// A file that cannot be read, or an archive that is damaged or unsafe.
    pub fn open(path: &Path, name: &str) -> Result<Self, Fault> {
        let cannot = |error| Fault::build(format!("cannot read `{}`", path.display())).cause(error);
        let file = File::open(path).map_err(cannot)?;
        let size = file.metadata().map_err(cannot)?.len();
        let entries = zip::entries(&file, size).map_err(|why| invalid(name, &why))?;
        Ok(Self { path: path.into(), name: name.to_owned(), entries })
    }

    /// Its own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Files and folders in the order of their names.
    pub fn entries(&self) -> &[ZipEntry] {
        &self.entries
    }

    pub fn get(&self, name: &str) -> Option<&ZipEntry> {
        let at = self.entries.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok()?;
        Some(&self.entries[at])
    }

    /// Bytes of a file, for a layer.
    pub fn packed(&self, entry: &ZipEntry) -> Packed {
        let ZipEntry { at, packed, deflated, size, crc, .. } = *entry;
        Packed { archive: self.path.clone(), at, packed, deflated, size, crc }
    }

    /// True if a file begins with these few bytes.
    pub fn starts_with(&self, entry: &ZipEntry, start: &[u8]) -> Result<bool, Fault> {
        packed::starts_with(&Bytes::Packed(self.packed(entry)), start)
    }

    /// Contents of a metadata file.
    pub fn read(&self, entry: &ZipEntry) -> Result<Vec<u8>, Fault> {
        if entry.size > MOST {
            return Err(self.invalid(&format!("`{}` has {} bytes, which is too long", entry.name, entry.size)));
        }
        Archives::default().bytes(&self.packed(entry)).map_err(|fault| fault.needed_by(format!("`{}`", entry.name)))
    }

    /// Unpacks some files, one after the other.
    pub fn read_each(&self, wanted: &dyn Fn(&ZipEntry) -> bool, take: &mut Take<'_>) -> Result<(), Fault> {
        let (mut archives, mut bytes) = (Archives::default(), Vec::new());
        for entry in self.entries.iter().filter(|entry| !entry.folder && wanted(entry)) {
            if entry.size > MOST {
                return Err(self.invalid(&format!("`{}` has {} bytes, which is too long", entry.name, entry.size)));
            }
            bytes.clear();
            archives.read(&self.packed(entry), &mut |_| Ok(()), &mut |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })?;
            take(entry, &bytes)?;
        }
        Ok(())
    }

    pub fn invalid(&self, why: &str) -> Fault {
        invalid(&self.name, why)
    }
}

/// Files and folders of an archive in memory, with the checks of [`Wheel::open`].
///
/// # Errors
/// The reason, in a few words.
pub fn entries(archive: &[u8]) -> Result<Vec<ZipEntry>, String> {
    zip::entries(archive, archive.len() as u64)
}

fn invalid(name: &str, why: &str) -> Fault {
    Fault::build(format!("the wheel `{name}` is invalid"))
        .cause(why)
        .hint("choose another version of the package in the requirements, then `cargo xtask lock`")
}

#[cfg(test)]
pub(crate) mod test_data;
#[cfg(test)]
mod tests;
