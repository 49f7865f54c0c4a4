//! Reads files that are packed in an archive, and checks each against the size and the checksum that the archive states.
//!
//! Memory does not depend on what an archive states: a file is read in pieces, and ends where it is longer than stated.

use super::item::{Bytes, Packed};
use flate2::{Crc, Decompress, FlushDecompress, Status};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use xtask_model::fault::Fault;

/// Bytes read at once.
const PIECE: usize = 64 << 10;

/// Receives pieces in order.
pub(crate) type Sink<'s> = dyn FnMut(&[u8]) -> Result<(), Fault> + 's;

/// Opens archives, and keeps the last one open.
pub(crate) struct Archives {
    open: Option<(Arc<Path>, File)>,
    inflate: Decompress,
    packed: Vec<u8>,
    plain: Vec<u8>,
}

impl Default for Archives {
    fn default() -> Self {
        Self { open: None, inflate: Decompress::new(false), packed: vec![0; PIECE], plain: vec![0; 4 * PIECE] }
    }
}

impl Archives {
    /// Reads a file: its bytes as they are in the archive, and as they are unpacked.
    ///
    /// # Errors
    /// An archive that cannot be read, or that does not have what it states.
    pub(crate) fn read(&mut self, file: &Packed, raw: &mut Sink<'_>, plain: &mut Sink<'_>) -> Result<(), Fault> {
        let damaged = |why: String| {
            Fault::build(format!("the archive `{}` is damaged at byte {}", file.archive.display(), file.at)).cause(why)
        };
        let cannot = |error: io::Error| Fault::build(format!("cannot read `{}`", file.archive.display())).cause(error);
        if self.open.as_ref().is_none_or(|(path, _)| *path != file.archive) {
            self.open = Some((file.archive.clone(), File::open(&*file.archive).map_err(cannot)?));
        }
        let Some((_, archive)) = &self.open else { return Ok(()) };
        self.inflate.reset(false);
        let (mut crc, mut size, mut at, mut ended) = (Crc::new(), 0_u64, 0_u64, !file.deflated);
        let mut take = |bytes: &[u8]| {
            size += bytes.len() as u64;
            if size > file.size {
                return Err(damaged(format!("a file is longer than the {} bytes that the archive states", file.size)));
            }
            crc.update(bytes);
            plain(bytes)
        };
        while at < file.packed {
            let most = usize::try_from(file.packed - at).unwrap_or(PIECE).min(PIECE);
            let piece = &mut self.packed[..most];
            archive.read_exact_at(piece, file.at + at).map_err(cannot)?;
            at += most as u64;
            raw(piece)?;
            if !file.deflated {
                take(piece)?;
                continue;
            }
            let mut used = 0;
            loop {
                if ended {
                    return Err(damaged("a compressed file has more bytes than it needs".to_owned()));
                }
                let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
                let status = self.inflate.decompress(&piece[used..], &mut self.plain, FlushDecompress::None);
                let status = status.map_err(|error| damaged(error.to_string()))?;
                used += usize::try_from(self.inflate.total_in() - before_in).expect("at most a piece");
                let made = usize::try_from(self.inflate.total_out() - before_out).expect("at most the buffer");
                take(&self.plain[..made])?;
                ended = status == Status::StreamEnd;
                if used == most && (ended || made < self.plain.len()) {
                    break;
                }
                if !ended && made == 0 && status == Status::BufError {
                    return Err(damaged("a compressed file cannot be unpacked".to_owned()));
                }
            }
        }
        if !ended || size != file.size {
            return Err(damaged(format!("a file has {size} bytes, and the archive states {}", file.size)));
        }
        if crc.sum() != file.crc {
            return Err(damaged("the checksum of a file differs from the one that the archive states".to_owned()));
        }
        Ok(())
    }

    /// The first bytes of a file, unpacked; nothing is checked. `most` is less than a piece.
    pub(crate) fn start(&mut self, file: &Packed, most: usize) -> Result<Vec<u8>, Fault> {
        let packed = usize::try_from(file.packed).unwrap_or(PIECE).min(if file.deflated { PIECE } else { most });
        let cannot = |error: io::Error| Fault::build(format!("cannot read `{}`", file.archive.display())).cause(error);
        let archive = File::open(&*file.archive).map_err(cannot)?;
        let piece = &mut self.packed[..packed];
        archive.read_exact_at(piece, file.at).map_err(cannot)?;
        if !file.deflated {
            return Ok(piece.to_vec());
        }
        self.inflate.reset(false);
        let plain = &mut self.plain[..most];
        let status = self.inflate.decompress(piece, plain, FlushDecompress::None);
        let made = status.map(|_| usize::try_from(self.inflate.total_out()).expect("at most the buffer"));
        // Whoever reads the whole file reports what is damaged.
        Ok(plain[..made.unwrap_or(0)].to_vec())
    }

    /// The whole file, unpacked.
    pub(crate) fn bytes(&mut self, file: &Packed) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        self.read(file, &mut |_| Ok(()), &mut |bytes| {
            out.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(out)
    }
}

/// True if a file begins with these few bytes, wherever it is. Reads no more of it than a piece.
///
/// # Errors
/// A file or an archive that cannot be read.
pub(crate) fn starts_with(bytes: &Bytes, start: &[u8]) -> Result<bool, Fault> {
    match bytes {
        Bytes::Here(bytes) => Ok(bytes.starts_with(start)),
        Bytes::Packed(file) => Ok(Archives::default().start(file, start.len())? == start),
        Bytes::At { file, .. } => {
            let mut found = vec![0; start.len()];
            // A file that changed meanwhile is an error of the layer itself.
            Ok(File::open(file).and_then(|file| file.read_exact_at(&mut found, 0)).is_ok() && found == start)
        }
    }
}

/// Contents of a file, wherever its bytes are.
///
/// # Errors
/// A file or an archive that cannot be read, or is damaged.
pub fn contents(bytes: &Bytes) -> Result<Vec<u8>, Fault> {
    match bytes {
        Bytes::Here(bytes) => Ok(bytes.to_vec()),
        Bytes::Packed(file) => Archives::default().bytes(file),
        Bytes::At { file, .. } => {
            std::fs::read(file).map_err(|error| Fault::usage(format!("cannot read `{}`", file.display())).cause(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_start_of_a_file_is_read_and_no_more() {
        let mut noise = vec![0_u8; 2 * PIECE];
        let mut state = 1_u32;
        for byte in &mut noise[8..] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        noise[..8].copy_from_slice(b"#!python");
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(1));
        deflate.write_all(&noise).unwrap();
        for (deflated, bytes) in [(false, noise), (true, deflate.finish().unwrap())] {
            let folder = tempfile::tempdir().unwrap();
            let archive: Arc<Path> = folder.path().join("archive").into();
            // The rest is missing.
            std::fs::write(&archive, &bytes[..PIECE]).unwrap();
            let (packed, size) = (bytes.len() as u64, 2 * PIECE as u64);
            let file = Bytes::Packed(Packed { archive, at: 0, packed, deflated, size, crc: 0 });
            assert!(contents(&file).is_err());
            assert!(starts_with(&file, b"#!python").unwrap());
            assert!(!starts_with(&file, b"#!pythoN").unwrap());
        }
        let short = Bytes::Here(b"#!".as_slice().into());
        assert!(!starts_with(&short, b"#!python").unwrap());
    }
}
