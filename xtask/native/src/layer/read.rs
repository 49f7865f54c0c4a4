//! Reads an untrusted layer entry by entry.
//!
//! Paths cannot leave the root, sizes are counted, oversized data is rejected before it is stored, and a layer is
//! complete only if its digest matches. Never panics, and writes nothing.

mod extended;
mod fields;
#[cfg(test)]
mod tests;

use super::decompress;
use super::header::{RECORD, padding};
use extended::Extended;
use fields::Fields;
use sha2::{Digest as _, Sha256};
use std::io::{self, BufReader, Read};
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::quantity;
use xtask_model::spec::reference::Digest;

/// Name prefix that removes a file of a lower layer.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names used by an obsolete union file system.
const RESERVED: &[u8] = b".wh..wh.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the tar file.
    pub bytes: u64,
    /// Number of headers, with extended ones.
    pub entries: u64,
    /// Length of a path or a link target.
    pub path: usize,
    pub header: u64,
    pub window: u64,
}

impl Default for Limits {
    /// More than any useful image needs, and safe to process.
    fn default() -> Self {
        Self { bytes: 32 << 30, entries: 4_000_000, path: 4096, header: 1 << 20, window: 128 << 20 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Empty for the root folder.
    pub path: ContextPath,
    pub kind: EntryKind,
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub time: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Dir,
    /// A regular file with its size; [`Reader::contents`] reads it.
    File(u64),
    /// Target as written.
    Symlink(Vec<u8>),
    HardLink(ContextPath),
    Special,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whiteout {
    /// This path, with everything below it.
    Path(ContextPath),
    /// Everything below this folder.
    Below(ContextPath),
    /// A reserved name without effect.
    Nothing,
}

impl Entry {
    /// The removal that this entry means, if it is a whiteout.
    pub(crate) fn whiteout(&self) -> Option<Whiteout> {
        let name = self.path.parts().next_back()?;
        let folder = || self.path.parent().unwrap_or_default();
        let mut folders = self.path.parts().rev().skip(1);
        if folders.any(|folder| folder.starts_with(RESERVED)) {
            Some(Whiteout::Nothing)
        } else if name == OPAQUE {
            Some(Whiteout::Below(folder()))
        } else if name.starts_with(RESERVED) {
            Some(Whiteout::Nothing)
        } else {
            Some(Whiteout::Path(folder().join(name.strip_prefix(WHITEOUT)?)))
        }
    }
}

pub struct Reader<'a> {
    input: BufReader<Tar<'a>>,
    limits: Limits,
    expected: Option<Digest>,
    entries: u64,
    /// Unread bytes of the current entry, and the zero bytes after them.
    left: u64,
    padding: usize,
    finished: bool,
}

impl<'a> Reader<'a> {
    /// Starts reading. With `expected`, the digest of the tar file, [`Reader::next`] reaches the end only if the digest
    /// matches; until then the data is unverified.
    pub fn open(source: impl Read + 'a, expected: Option<&Digest>, limits: Limits) -> Result<Self, Fault> {
        let tar = decompress::open(source, limits.window);
        let tar = tar.map_err(|error| cannot(expected).cause(error))?;
        let state = expected.map(|_| Sha256::new());
        let tar = Tar { tar, state, bytes: 0, limit: limits.bytes };
        let input = BufReader::with_capacity(64 << 10, tar);
        let expected = expected.copied();
        Ok(Self { input, limits, expected, entries: 0, left: 0, padding: 0, finished: false })
    }

    /// The next entry; skips unread contents of the previous one. `None` at the end of a complete layer.
    #[allow(
        clippy::should_implement_trait,
        reason = "an entry's contents are read from the reader, between two entries"
    )]
    pub fn next(&mut self) -> Result<Option<Entry>, Fault> {
        if self.finished {
            return Ok(None);
        }
        self.pass_over()?;
        let mut extended = Extended::default();
        loop {
            let Some(block) = self.block()? else {
                if extended != Extended::default() {
                    return Err(self.broken("it ends after an extended header"));
                }
                self.finish()?;
                return Ok(None);
            };
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(self.broken(format!("it has more than {} entries", self.limits.entries)));
            }
            let fields = Fields::parse(&block).map_err(|why| self.broken(why))?;
            match fields.flag {
                b'x' | b'X' | b'g' | b'L' | b'K' => {
                    let text = self.extension(fields.size)?;
                    extended.take(fields.flag, text).map_err(|why| self.broken(why))?;
                }
                _ => {
                    let (entry, size) = fields.complete(extended, self.limits.path).map_err(|why| self.broken(why))?;
                    self.left = size;
                    self.padding = padding(size);
                    return Ok(Some(entry));
                }
            }
        }
    }

    pub fn contents(&mut self) -> Contents<'_, 'a> {
        Contents { reader: self }
    }

    /// Number of bytes of the current entry that were not read.
    pub(crate) fn unread(&self) -> u64 {
        self.left
    }

    /// Contents of the current entry, if they are not longer than `most` bytes.
    pub fn bytes(&mut self, most: u64) -> Result<Option<Vec<u8>>, Fault> {
        if self.left > most {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let read = self.contents().read_to_end(&mut bytes);
        read.map(|_| Some(bytes)).map_err(|error| self.failed(error))
    }

    pub fn failed(&self, error: io::Error) -> Fault {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return self.broken("it is truncated");
        }
        self.broken(error)
    }

    fn broken(&self, why: impl std::fmt::Display) -> Fault {
        cannot(self.expected.as_ref()).cause(why)
    }

    fn pass_over(&mut self) -> Result<(), Fault> {
        let rest = self.left + self.padding as u64;
        let passed = io::copy(&mut self.input.by_ref().take(rest), &mut io::sink());
        let passed = passed.map_err(|error| self.failed(error))?;
        (self.left, self.padding) = (0, 0);
        if passed < rest { Err(self.broken("it is truncated in the middle of a file")) } else { Ok(()) }
    }

    /// A header block; `None` at the end mark.
    fn block(&mut self) -> Result<Option<[u8; RECORD]>, Fault> {
        let mut block = [0; RECORD];
        match self.fill(&mut block)? {
            RECORD if block != [0; RECORD] => return Ok(Some(block)),
            // The second block of the end mark is optional.
            RECORD => return Ok(None),
            // Some writers omit the end mark too: then only the digest shows that nothing is missing.
            0 if self.expected.is_some() && self.entries > 0 => return Ok(None),
            0 => {}
            _ => return Err(self.broken("it is truncated in the middle of a header")),
        }
        Err(self.broken(if self.entries == 0 { "it is empty" } else { "it has no end mark" }))
    }

    fn fill(&mut self, block: &mut [u8]) -> Result<usize, Fault> {
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(filled)
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Fault> {
        if size > self.limits.header {
            return Err(self.broken(format!("an extended header has {size} bytes")));
        }
        (self.left, self.padding) = (size, padding(size));
        let mut text = Vec::new();
        let read = self.contents().read_to_end(&mut text);
        read.map_err(|error| self.failed(error))?;
        self.pass_over()?;
        Ok(text)
    }

    /// Reads what follows the end mark, which the digest covers.
    fn finish(&mut self) -> Result<(), Fault> {
        let rest = io::copy(&mut self.input, &mut io::sink());
        rest.map_err(|error| self.failed(error))?;
        self.finished = true;
        let Some(expected) = self.expected else { return Ok(()) };
        let state = self.input.get_mut().state.take().unwrap_or_default();
        let digest = Digest::from_bytes(state.finalize().into());
        if digest == expected { Ok(()) } else { Err(self.broken(format!("its digest is `{digest}`"))) }
    }
}

fn cannot(expected: Option<&Digest>) -> Fault {
    Fault::build(match expected {
        Some(digest) => format!("cannot read layer `{digest}`"),
        None => "cannot read a layer".to_owned(),
    })
}

pub struct Contents<'r, 'a> {
    reader: &'r mut Reader<'a>,
}

impl Read for Contents<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.reader.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.reader.input.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.reader.left -= count as u64;
        Ok(count)
    }
}

/// The tar file, counted, and hashed if a digest is expected.
struct Tar<'a> {
    tar: Box<dyn Read + 'a>,
    state: Option<Sha256>,
    bytes: u64,
    limit: u64,
}

impl Read for Tar<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.tar.read(buffer)?;
        self.bytes += count as u64;
        if self.bytes > self.limit {
            return Err(io::Error::other(format!("it unpacks to more than {}", quantity::bytes(self.limit))));
        }
        if let Some(state) = &mut self.state {
            state.update(&buffer[..count]);
        }
        Ok(count)
    }
}
