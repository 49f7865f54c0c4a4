//! A path of the build context: bytes, since a file's name need not be UTF-8.
//!
//! Pure. Printed and serialised without loss: what is not printable UTF-8, and `%` itself, becomes `%` and two hex digits.

use crate::spec::reference::{Malformed, text_type};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::str::FromStr;

/// The folder below the root that holds what this program and cargo leave behind. A copy of a folder around it (`COPY . .`)
/// leaves it out in both engines; only a source that names something in it takes that.
const STATE: &str = "target";

/// A path below the context's root: `/` between its parts, none at its ends; the root itself is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextPath(Vec<u8>);

impl ContextPath {
    /// A path from its bytes, which are taken as they are.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn to_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut bytes = self.0.clone();
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    pub fn parent(&self) -> Option<Self> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }

    /// Folders that contain it, innermost first, without the root.
    pub fn folders(&self) -> impl Iterator<Item = Self> {
        std::iter::successors(self.parent(), Self::parent).filter(|folder| !folder.0.is_empty())
    }

    /// The rest after `folder/`; `None` if the path is not below it.
    pub fn below(&self, folder: &Self) -> Option<&[u8]> {
        if folder.0.is_empty() {
            return (!self.0.is_empty()).then_some(&self.0);
        }
        self.0.strip_prefix(folder.0.as_slice())?.strip_prefix(b"/")
    }

    /// True if it is the folder of this program's and cargo's state, or in it.
    pub fn is_state(&self) -> bool {
        self.parts().next() == Some(STATE.as_bytes())
    }

    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|part| !part.is_empty())
    }
}

impl fmt::Display for ContextPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            let mut rest = chunk.valid();
            while let Some(at) = rest.find(|c: char| c == '%' || c.is_control()) {
                let (plain, after) = rest.split_at(at);
                let escaped = after.chars().next().map_or(0, char::len_utf8);
                f.write_str(plain)?;
                after.bytes().take(escaped).try_for_each(|byte| write!(f, "%{byte:02X}"))?;
                rest = &after[escaped..];
            }
            f.write_str(rest)?;
            chunk.invalid().iter().try_for_each(|byte| write!(f, "%{byte:02X}"))?;
        }
        Ok(())
    }
}

impl FromStr for ContextPath {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if byte != b'%' {
                bytes.push(byte);
                continue;
            }
            let hex = rest.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
            let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
            bytes.push(byte.ok_or_else(|| Malformed(format!("`{text}` has a `%` without two hex digits")))?);
            rest = &rest[2..];
        }
        Ok(Self(bytes))
    }
}

text_type!(ContextPath);
