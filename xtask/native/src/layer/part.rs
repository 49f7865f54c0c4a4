//! A part of a layer as a tar file of its own, from which the part can be unpacked again without the layer.
//!
//! Has the entries of a selection, all symbolic links, and what removes files of lower layers.

use super::{Entry, EntryKind, Reader};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use xtask_model::image::context::ContextPath;

pub(crate) struct PartWriter<W: Write> {
    tar: tar::Builder<W>,
    has: fn(&ContextPath) -> bool,
}

impl<W: Write> PartWriter<W> {
    pub(crate) fn new(has: fn(&ContextPath) -> bool, to: W) -> Self {
        Self { tar: tar::Builder::new(to), has }
    }

    /// Adds the reader's entry, if the part has it.
    pub(crate) fn add(&mut self, entry: &Entry, reader: &mut Reader<'_>) -> io::Result<()> {
        let removes = entry.whiteout().is_some();
        let is_link = matches!(entry.kind, EntryKind::Symlink(_));
        if entry.path.as_bytes().is_empty() || !(removes || is_link || (self.has)(&entry.path)) {
            return Ok(());
        }
        let path = |bytes| Path::new(OsStr::from_bytes(bytes));
        let name = path(entry.path.as_bytes());
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(entry.time).unwrap_or(0));
        header.set_size(0);
        match &entry.kind {
            EntryKind::Dir => {
                header.set_entry_type(tar::EntryType::Directory);
                self.tar.append_data(&mut header, name, io::empty())
            }
            EntryKind::File(size) => {
                header.set_size(*size);
                self.tar.append_data(&mut header, name, reader.contents())
            }
            EntryKind::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                self.tar.append_link(&mut header, name, path(target))
            }
            EntryKind::HardLink(target) => {
                header.set_entry_type(tar::EntryType::Link);
                self.tar.append_link(&mut header, name, path(target.as_bytes()))
            }
            EntryKind::Special => {
                header.set_entry_type(tar::EntryType::Char);
                self.tar.append_data(&mut header, name, io::empty())
            }
        }
    }

    pub(crate) fn finish(self) -> io::Result<()> {
        self.tar.into_inner()?.flush()
    }
}
