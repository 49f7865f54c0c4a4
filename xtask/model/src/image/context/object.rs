//! Name of a file's contents as git gives it: the hash of a blob, or of a tree for a folder with everything in it.
//!
//! Pure. A repository has one format, SHA-1 or SHA-256, and outside of a repository it is SHA-256. Hashing is elsewhere.

use crate::spec::reference::{Malformed, text_type};
use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectFormat {
    Sha1,
    Sha256,
}

impl ObjectFormat {
    /// Bytes of an id.
    pub fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// An object's id: `sha1:` and 40 hex digits, or `sha256:` and 64. Unused bytes are 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    format: ObjectFormat,
    bytes: [u8; 32],
}

impl ObjectId {
    /// The id with these bytes; the format's size counts.
    pub fn new(format: ObjectFormat, id: &[u8; 32]) -> Self {
        let mut bytes = [0; 32];
        bytes[..format.size()].copy_from_slice(&id[..format.size()]);
        Self { format, bytes }
    }

    /// The id that git prints as hex digits.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let format = match hex.len() {
            40 => ObjectFormat::Sha1,
            64 => ObjectFormat::Sha256,
            _ => return None,
        };
        if !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().take(format.size()).enumerate() {
            *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Self { format, bytes })
    }

    /// The hex digits that git prints.
    pub fn hex(&self) -> String {
        self.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn format(&self) -> ObjectFormat {
        self.format
    }

    /// Its bytes, as many as the format has.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.format.size()]
    }

    /// Its bytes, filled up with zeros.
    pub fn padded(&self) -> &[u8; 32] {
        &self.bytes
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.format {
            ObjectFormat::Sha1 => "sha1:",
            ObjectFormat::Sha256 => "sha256:",
        })?;
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ObjectId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let found = text.split_once(':').and_then(|(format, hex)| Some((format, Self::from_hex(hex)?)));
        match found {
            Some(("sha1", id)) if id.format == ObjectFormat::Sha1 => Ok(id),
            Some(("sha256", id)) if id.format == ObjectFormat::Sha256 => Ok(id),
            _ => Err(Malformed(format!("`{text}` is not an object id"))),
        }
    }
}

text_type!(ObjectId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        for text in [format!("sha1:{}", "0a".repeat(20)), format!("sha256:{}", "f1".repeat(32))] {
            assert_eq!(text.parse::<ObjectId>().unwrap().to_string(), text);
        }
        let hex = ["0a".repeat(20), "0a".repeat(32), "0A".repeat(20)];
        for text in
            [format!("sha256:{}", hex[0]), format!("sha1:{}", hex[1]), format!("sha1:{}", hex[2]), "sha1:".into()]
        {
            text.parse::<ObjectId>().unwrap_err();
        }
    }
}
