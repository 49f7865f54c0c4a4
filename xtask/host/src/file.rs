//! Generated files are written whole or not at all, and files are hashed.
//!
//! The only place of this module that writes: a temporary file in the same folder, then a rename.

use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::{fmt, fs};
use xtask_model::fault::Fault;
use xtask_model::spec::reference::Digest;

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// The sha256 of everything that is left to read, and its number of bytes.
pub fn hash(from: &mut impl Read) -> io::Result<(Digest, u64)> {
    let (mut state, mut size, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok((Digest::from_bytes(state.finalize().into()), size)),
            Ok(count) => {
                state.update(&piece[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes a text file (mode 0644), keeping it untouched where it already says the same. Returns whether it changed.
pub fn write(path: &Path, text: &str) -> Result<bool, Fault> {
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(false);
    }
    replace(path, text)
        .map(|()| true)
        .map_err(|error| Fault::usage(format!("cannot write `{}`", path.display())).cause(error))
}

/// The fault of a file that cannot be read.
pub fn cannot_read(path: &Path, cause: impl fmt::Display) -> Fault {
    Fault::usage(format!("cannot read `{}`", path.display())).cause(cause)
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(text.as_bytes())?;
    new.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    new.as_file().sync_all()?;
    new.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_hash_is_over_every_byte() {
        let bytes = vec![7; PIECE * 2 + 7];
        assert_eq!(hash(&mut &bytes[..]).unwrap(), (Digest::of(&bytes), bytes.len() as u64));
        assert_eq!(hash(&mut &b""[..]).unwrap(), (Digest::of(b""), 0));
    }

    #[test]
    fn a_file_is_replaced_only_when_it_says_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/a.lock");
        assert!(write(&path, "one").unwrap());
        let inode = fs::metadata(&path).unwrap().ino();
        assert!(!write(&path, "one").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert!(write(&path, "two").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file remains");
    }

    #[test]
    fn a_folder_that_cannot_be_written_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plain");
        fs::write(&file, "x").unwrap();
        let fault = write(&file.join("a.lock"), "one").unwrap_err();
        assert!(fault.what.starts_with("cannot write `"), "{fault}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "x");
    }
}
