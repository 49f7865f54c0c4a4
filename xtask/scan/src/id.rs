//! Ids as git makes them: the hash of a kind, a length and the bytes.
//!
//! Pure. SHA-1 is hashed with the detection of collisions that git has: git refuses a file that was made for one, and so does this, so two files with
//! one id do not exist in practice.

use sha1_checked::Sha1;
use sha2::{Digest as _, Sha256};
use std::io;

/// An id of the format's length; the rest is 0.
pub type Id = [u8; 32];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Sha1,
    Sha256,
}

impl Format {
    pub fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// The hash of one object while its bytes arrive.
pub struct ObjectHash(HashState);

enum HashState {
    // A state for the detection is much larger than one of sha256.
    Sha1(Box<Sha1>),
    Sha256(Sha256),
}

impl ObjectHash {
    /// Begins an object of a kind (`blob`, `tree`) with this many bytes.
    pub fn new(format: Format, kind: &str, size: u64) -> Self {
        let state = match format {
            Format::Sha1 => HashState::Sha1(Box::new(Sha1::new())),
            Format::Sha256 => HashState::Sha256(Sha256::new()),
        };
        let mut hash = Self(state);
        hash.update(format!("{kind} {size}\0").as_bytes());
        hash
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            HashState::Sha1(hash) => hash.update(bytes),
            HashState::Sha256(hash) => hash.update(bytes),
        }
    }

    /// The id.
    ///
    /// # Errors
    /// The bytes were made to collide with others.
    pub fn finish(self) -> io::Result<Id> {
        let mut id = [0; 32];
        match self.0 {
            HashState::Sha1(hash) => {
                let result = hash.try_finalize();
                if result.has_collision() {
                    return Err(io::Error::other(
                        "its contents are part of an attack on SHA-1: git refuses such a file too",
                    ));
                }
                id[..20].copy_from_slice(result.hash());
            }
            HashState::Sha256(hash) => id.copy_from_slice(&hash.finalize()),
        }
        Ok(id)
    }
}

/// The id of an object of a kind with these bytes.
///
/// # Errors
/// The bytes were made to collide with others.
pub fn object(format: Format, kind: &str, bytes: &[u8]) -> io::Result<Id> {
    let mut hash = ObjectHash::new(format, kind, bytes.len() as u64);
    hash.update(bytes);
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(id: &Id, format: Format) -> String {
        id[..format.size()].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn ids_are_those_of_git() {
        let blob = |format| hex(&object(format, "blob", b"hello\n").unwrap(), format);
        assert_eq!(blob(Format::Sha1), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(blob(Format::Sha256), "2cf8d83d9ee29543b34a87727421fdecb7e3f3a183d337639025de576db9ebb4");
        assert_eq!(
            hex(&object(Format::Sha1, "tree", b"").unwrap(), Format::Sha1),
            "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
        );
    }
}
