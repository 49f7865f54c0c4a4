//! Git's tree objects: `MODE NAME\0ID`, over and over.
//!
//! Pure.

use crate::id::{self, Format, Id};
use std::io;

/// A condition on a file's or folder's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameRule {
    Equals(Vec<u8>),
    EndsWith(Vec<u8>),
}

impl NameRule {
    pub(crate) fn is_met(&self, name: &[u8]) -> bool {
        match self {
            Self::Equals(text) => name == text.as_slice(),
            Self::EndsWith(text) => name.ends_with(text),
        }
    }
}

/// A tree object that is being written. Entries arrive in git's order.
#[derive(Default)]
pub struct TreeObject(Vec<u8>);

/// A folder's entry in it.
pub const FOLDER: &str = "40000";
pub const LINK: &str = "120000";
pub const FILE: &str = "100644";
pub const EXECUTABLE: &str = "100755";

impl TreeObject {
    pub fn push(&mut self, mode: &str, name: &[u8], id: &[u8]) {
        for part in [mode.as_bytes(), b" ", name, b"\0", id] {
            self.0.extend_from_slice(part);
        }
    }

    /// Its id.
    ///
    /// # Errors
    /// The bytes were made to collide with others.
    pub fn id(&self, format: Format) -> io::Result<Id> {
        id::object(format, "tree", &self.0)
    }
}

/// Name by which git sorts: that of a folder ends in a slash.
pub fn order(one: &[u8], one_is_folder: bool, other: &[u8], other_is_folder: bool) -> std::cmp::Ordering {
    let common = one.len().min(other.len());
    one[..common].cmp(&other[..common]).then_with(|| {
        let next = |name: &[u8], folder: bool| name.get(common).copied().or(folder.then_some(b'/'));
        next(one, one_is_folder).cmp(&next(other, other_is_folder))
    })
}

/// Reads a tree object; adds the folders in it to `folders`, and returns the number of its entries. `None` where an entry meets a rule, is a
/// submodule, or cannot be read.
pub fn read(mut bytes: &[u8], format: Format, rules: &[NameRule], folders: &mut Vec<Id>) -> Option<u64> {
    let mut count = 0;
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let end = space + bytes[space..].iter().position(|byte| *byte == 0)?;
        let (mode, name) = (&bytes[..space], &bytes[space + 1..end]);
        let found = bytes.get(end + 1..end + 1 + format.size())?;
        if mode == b"160000" || name == b".git" || rules.iter().any(|rule| rule.is_met(name)) {
            return None;
        }
        if matches!(mode, b"40000" | b"040000") {
            let mut id = [0; 32];
            id[..found.len()].copy_from_slice(found);
            folders.push(id);
        }
        count += 1;
        bytes = &bytes[end + 1 + format.size()..];
    }
    Some(count)
}
