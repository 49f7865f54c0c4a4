//! Reads a layer of any origin, entry by entry, as if it were hostile.
//!
//! Nothing is believed: names lead nowhere but below the root, sizes are counted, what is too much is refused before it is held,
//! and a layer is whole only when its digest says so. It never panics, and writes nothing.

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

/// How a name starts that takes a file of a lower layer away.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that only a union file system of old knew.
const RESERVED: &[u8] = b".wh..wh.";

/// What a layer may ask of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the tar file.
    pub bytes: u64,
    /// Headers, those included that only tell more of the next.
    pub entries: u64,
    /// Bytes of a path, and of a link's target.
    pub path: usize,
    /// Bytes of an extended header.
    pub header: u64,
    /// Bytes that a zstd frame may look back.
    pub window: u64,
}

impl Default for Limits {
    /// More than any image has that is of use, and little enough to be no harm.
    fn default() -> Self {
        Self { bytes: 32 << 30, entries: 4_000_000, path: 4096, header: 1 << 20, window: 128 << 20 }
    }
}

/// An entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is; empty for the root itself, which is a folder.
    pub path: ContextPath,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    /// The numeric owner.
    pub uid: u32,
    /// The numeric group.
    pub gid: u32,
    /// Seconds since 1970, without fractions.
    pub time: i64,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder.
    Dir,
    /// A regular file of so many bytes, which [`Reader::contents`] gives.
    File(u64),
    /// A symbolic link with its target, as it is written.
    Symlink(Vec<u8>),
    /// Another name of a file.
    HardLink(ContextPath),
    /// A device or a pipe.
    Special,
}

/// What an entry takes away of the layers below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whiteout {
    /// This path, and all below it.
    Path(ContextPath),
    /// All below this folder.
    Below(ContextPath),
    /// Nothing: a name without a meaning.
    Nothing,
}

impl Entry {
    /// What it takes away, where it is no entry but a mark of that.
    pub fn whiteout(&self) -> Option<Whiteout> {
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

/// A layer that is being read.
pub struct Reader<'a> {
    input: BufReader<Tar<'a>>,
    limits: Limits,
    expected: Option<Digest>,
    entries: u64,
    /// Bytes of the current entry's contents that nobody has read yet, and the zeros behind them.
    left: u64,
    padding: usize,
    finished: bool,
}

impl<'a> Reader<'a> {
    /// Begins to read. With `expected`, the digest of the tar file, [`Reader::next`] comes to an end only where that is what
    /// was read; a caller believes nothing before.
    pub fn open(source: impl Read + 'a, expected: Option<&Digest>, limits: Limits) -> Result<Self, Fault> {
        let tar = decompress::open(source, limits.window);
        let tar = tar.map_err(|error| cannot(expected).cause(error))?;
        let state = expected.map(|_| Sha256::new());
        let tar = Tar { tar, state, bytes: 0, limit: limits.bytes };
        let input = BufReader::with_capacity(64 << 10, tar);
        let expected = expected.copied();
        Ok(Self { input, limits, expected, entries: 0, left: 0, padding: 0, finished: false })
    }

    /// The next entry; what is left of the one before is passed over. `None` at the end of a layer that is whole.
    #[allow(clippy::should_implement_trait)] // an entry's contents are read from the reader, between two of them
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

    /// What is left of the current entry's contents.
    pub fn contents(&mut self) -> Contents<'_, 'a> {
        Contents { reader: self }
    }

    /// The current entry's contents, where they are no more than so many bytes.
    pub fn bytes(&mut self, most: u64) -> Result<Option<Vec<u8>>, Fault> {
        if self.left > most {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let read = self.contents().read_to_end(&mut bytes);
        read.map(|_| Some(bytes)).map_err(|error| self.failed(error))
    }

    /// What an error in reading contents says of the layer.
    pub fn failed(&self, error: io::Error) -> Fault {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return self.broken("it ends in the middle");
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
        if passed < rest { Err(self.broken("it ends in the middle of a file")) } else { Ok(()) }
    }

    /// A header's block; `None` at the mark of the end.
    fn block(&mut self) -> Result<Option<[u8; RECORD]>, Fault> {
        let mut block = [0; RECORD];
        match self.fill(&mut block)? {
            RECORD if block != [0; RECORD] => return Ok(Some(block)),
            // The second block of the mark is of no use to anybody, and some leave it out.
            RECORD => return Ok(None),
            // Some leave out the mark as well: then only a digest can say that nothing is missing.
            0 if self.expected.is_some() && self.entries > 0 => return Ok(None),
            0 => {}
            _ => return Err(self.broken("it ends in the middle of a header")),
        }
        Err(self.broken(if self.entries == 0 { "it is empty" } else { "it has no end" }))
    }

    /// Reads as much as there is, up to the whole block.
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

    /// Reads what follows the end: all of it belongs to what the digest is of.
    fn finish(&mut self) -> Result<(), Fault> {
        let rest = io::copy(&mut self.input, &mut io::sink());
        rest.map_err(|error| self.failed(error))?;
        self.finished = true;
        let Some(expected) = self.expected else { return Ok(()) };
        let state = self.input.get_mut().state.take().unwrap_or_default();
        let digest = Digest::from_bytes(state.finalize().into());
        if digest == expected { Ok(()) } else { Err(self.broken(format!("it holds `{digest}`"))) }
    }
}

fn cannot(expected: Option<&Digest>) -> Fault {
    Fault::build(match expected {
        Some(digest) => format!("cannot read the layer of `{digest}`"),
        None => "cannot read a layer".to_owned(),
    })
}

/// The contents of one entry.
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

/// The tar file: counted, and hashed where there is something to compare with.
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
