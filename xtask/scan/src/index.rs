//! Git's index: the id of each file with what its stamp was when git hashed it or wrote it.
//!
//! An id is taken only where the whole stamp is the same, where the file cannot have changed after the index was written without another
//! stamp, and where the blob is as long as the file. The last excludes files whose line ends git converted, now or under settings that
//! have changed since; filters, which may keep a length, are the caller's matter. Bits by which a person asks git to overlook a file do not
//! count. Format: <https://git-scm.com/docs/index-format>, versions 2, 3 and 4.

use crate::id::{Format, Id};
use crate::memory::Stamp;
use sha2::{Digest as _, Sha256};
use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Length of an entry's numbers in front of its id: times, device, inode, mode, owner, group, size.
const NUMBERS: usize = 40;

#[derive(Debug)]
struct Entry {
    path: (usize, usize),
    numbers: [u32; 10],
    id: Id,
    /// Length of the blob, once it is known.
    blob: Option<u64>,
}

/// The entries of an index, sorted by path.
#[derive(Debug)]
pub struct Index {
    paths: Vec<u8>,
    entries: Vec<Entry>,
    written: (i64, u32),
}

impl Index {
    /// Reads an index. `None` where there is none, or where it is of a kind that is not read here (split, damaged, a later version).
    pub fn read(path: &Path, format: Format) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let stamp = Stamp::of(&file.metadata().ok()?);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        Self::parse(&bytes, format, stamp.modified)
    }

    fn parse(bytes: &[u8], format: Format, written: (i64, u32)) -> Option<Self> {
        let size = format.size();
        let (content, sum) = bytes.split_at_checked(bytes.len().checked_sub(size)?)?;
        // `index.skipHash` leaves zeros.
        if sum.iter().any(|byte| *byte != 0) && !is_sum(content, sum, format).ok()? {
            return None;
        }
        let number = |at: usize| Some(u32::from_be_bytes(*content.get(at..)?.first_chunk()?));
        let version = number(4)?;
        if content.get(..4)? != b"DIRC" || !(2..=4).contains(&version) {
            return None;
        }
        let count = number(8)? as usize;
        let mut index = Self { paths: Vec::new(), entries: Vec::with_capacity(count.min(content.len() / 62)), written };
        let mut at = 12;
        for _ in 0..count {
            let begin = at;
            let mut numbers = [0; 10];
            for (position, value) in numbers.iter_mut().enumerate() {
                *value = number(begin + 4 * position)?;
            }
            let mut id = [0; 32];
            at += NUMBERS;
            id[..size].copy_from_slice(content.get(at..at + size)?);
            at += size;
            let flags = number(at.checked_sub(2)?)? & 0xffff;
            at += 2;
            let mut extended = 0;
            if flags & 0x4000 != 0 {
                extended = number(at - 2)? & 0xffff;
                at += 2;
            }
            let start = index.paths.len();
            if version == 4 {
                let (strip, length) = offset(content.get(at..)?)?;
                at += length;
                let previous = index.entries.last().map_or((start, start), |entry: &Entry| entry.path);
                let kept = (previous.1 - previous.0).checked_sub(strip)?;
                index.paths.extend_from_within(previous.0..previous.0 + kept);
            }
            let end = at + content.get(at..)?.iter().position(|byte| *byte == 0)?;
            index.paths.extend_from_slice(&content[at..end]);
            at = end + 1;
            if version < 4 {
                // Filled up with zeros to a multiple of eight.
                at = begin + (end - begin + 8) / 8 * 8;
            }
            let path = (start, index.paths.len());
            let sorted = index
                .entries
                .last()
                .is_none_or(|before| index.paths[before.path.0..before.path.1] <= index.paths[path.0..path.1]);
            if !sorted {
                return None;
            }
            // A conflict has several entries of one path, and what is only intended to be added has no contents.
            let unsure = flags & 0x3000 != 0 || extended & 0x2000 != 0;
            let is_file = numbers[6] & 0o170_000 == 0o100_000;
            index.entries.push(Entry {
                path,
                numbers: if unsure || !is_file { [0; 10] } else { numbers },
                id,
                blob: None,
            });
        }
        extensions(content.get(at..)?)?;
        Some(index)
    }

    fn path(&self, at: usize) -> &[u8] {
        let (start, end) = self.entries[at].path;
        &self.paths[start..end]
    }

    /// The first entry at or after a path, from an earlier answer on.
    pub(crate) fn seek(&self, from: Option<usize>, path: &[u8]) -> usize {
        let Some(mut at) = from else {
            return self.entries.partition_point(|entry| self.paths[entry.path.0..entry.path.1] < *path);
        };
        while at < self.entries.len() && self.path(at) < path {
            at += 1;
        }
        at
    }

    /// The id of the contents of a file with this path and stamp, if the entry there is about both.
    pub(crate) fn clean(&self, at: usize, path: &[u8], stamp: &Stamp) -> Option<Id> {
        let entry = self.entries.get(at).filter(|_| self.path(at).cmp(path) == Ordering::Equal)?;
        (entry.blob == Some(stamp.size) && entry.is_stamp(stamp) && !self.is_racy(stamp)).then_some(entry.id)
    }

    /// True if the file may have changed since the index was written without another stamp.
    fn is_racy(&self, stamp: &Stamp) -> bool {
        let (seconds, nanos) = stamp.modified.max(stamp.changed);
        // A file system that keeps no parts of a second may keep every other second only.
        let margin = if nanos == 0 { 2 } else { 0 };
        (seconds.saturating_add(margin), nanos) >= self.written
    }

    /// Ids of the blobs whose length is unknown, of the entries below a folder (which ends in a slash, or is empty).
    pub fn unmeasured(&self, folder: &[u8]) -> Vec<(usize, Id)> {
        let first = self.entries.partition_point(|entry| self.paths[entry.path.0..entry.path.1] < *folder);
        let below = (first..self.entries.len()).take_while(|at| self.path(*at).starts_with(folder));
        let unknown = below.filter(|at| self.entries[*at].blob.is_none() && self.entries[*at].numbers[6] != 0);
        unknown.map(|at| (at, self.entries[at].id)).collect()
    }

    /// Takes the length of a blob of [`Self::unmeasured`].
    pub fn measure(&mut self, at: usize, length: u64) {
        self.entries[at].blob = Some(length);
    }

    /// Paths of the entries with this name, anywhere in the repository.
    pub fn named(&self, name: &[u8]) -> impl Iterator<Item = &[u8]> {
        let paths = (0..self.entries.len()).map(|at| self.path(at));
        paths.filter(move |path| {
            path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with(b"/"))
        })
    }
}

impl Entry {
    fn is_stamp(&self, stamp: &Stamp) -> bool {
        // Git keeps the lower 32 bits of each number.
        #[allow(clippy::cast_possible_truncation, reason = "as git does it")]
        let [changed, modified] = [stamp.changed, stamp.modified].map(|(seconds, nanos)| [seconds as u32, nanos]);
        #[allow(clippy::cast_possible_truncation, reason = "as git does it")]
        let (inode, size) = (stamp.inode as u32, stamp.size as u32);
        self.numbers[..2] == changed
            && self.numbers[2..4] == modified
            && self.numbers[5] == inode
            && self.numbers[9] == size
            && self.numbers[6] != 0
    }
}

fn is_sum(content: &[u8], sum: &[u8], format: Format) -> io::Result<bool> {
    Ok(match format {
        Format::Sha1 => sha1_checked::Sha1::digest(content).as_slice() == sum,
        Format::Sha256 => Sha256::digest(content).as_slice() == sum,
    })
}

/// A number of variable length, as git's packs have it, and its length.
fn offset(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for (position, byte) in bytes.iter().enumerate().take(5) {
        value = (value << 7) | usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, position + 1));
        }
        value += 1;
    }
    None
}

/// Accepts extensions that may be passed over, which begin with a capital letter. One that may not, as that of a split index, is `None`.
fn extensions(mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        let size = u32::from_be_bytes(*bytes.get(4..)?.first_chunk()?) as usize;
        // A sparse index has folders among its entries, which are no files and are passed over.
        if !bytes[0].is_ascii_uppercase() && bytes.get(..4)? != b"sdir" {
            return None;
        }
        bytes = bytes.get(8 + size..)?;
    }
    Some(())
}
