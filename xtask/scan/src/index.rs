//! Git's index: the id of each file with what its stamp was when git hashed it or wrote it.
//!
//! An id is taken only where the whole stamp is the same, where the file cannot have changed after the index was written without another
//! stamp, and where the blob is as long as the file. The last excludes files whose line ends git converted, now or under settings that
//! have changed since; filters, which may keep a length, are the caller's matter. Bits by which a person asks git to overlook a file do not
//! count. Format: <https://git-scm.com/docs/index-format>, versions 2, 3 and 4.

use crate::id::{Format, Id};
use crate::memory::Stamp;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Length of an entry's numbers in front of its id: times, device, inode, mode, owner, group, size.
const NUMBERS: usize = 40;

#[derive(Debug)]
struct Entry {
    /// Position of the entry in the bytes of the index.
    at: u32,
    /// Position of its path: in those bytes, or in [`Index::paths`].
    path: (u32, u32),
    /// True if the entry is of a file with contents.
    is_sure: bool,
    /// Length of the blob, once it is known.
    blob: Option<u64>,
}

/// The entries of an index, sorted by path.
#[derive(Debug)]
pub struct Index {
    bytes: Vec<u8>,
    /// Paths, where the index has them shortened.
    paths: Vec<u8>,
    entries: Vec<Entry>,
    written: (i64, u32),
    format: Format,
}

impl Index {
    /// Reads an index. `None` where there is none, or where it is of a kind that is not read here (split, damaged, a later version).
    pub fn read(path: &Path, format: Format) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let stamp = Stamp::of(&file.metadata().ok()?);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        Self::parse(bytes, format, stamp.modified)
    }

    fn parse(mut bytes: Vec<u8>, format: Format, written: (i64, u32)) -> Option<Self> {
        let size = format.size();
        let (content, sum) = bytes.split_at_checked(bytes.len().checked_sub(size)?)?;
        // `index.skipHash` leaves zeros.
        if sum.iter().any(|byte| *byte != 0) && !is_sum(content, sum, format).ok()? {
            return None;
        }
        let end = content.len();
        bytes.truncate(end);
        u32::try_from(end).ok()?;
        let mut index = Self { bytes, paths: Vec::new(), entries: Vec::new(), written, format };
        let version = index.number(4)?;
        if index.bytes.get(..4)? != b"DIRC" || !(2..=4).contains(&version) {
            return None;
        }
        let count = index.number(8)? as usize;
        index.entries.reserve_exact(count.min(end / (NUMBERS + size + 2)));
        let mut at = 12;
        for _ in 0..count {
            at = index.entry(at, version)?;
        }
        extensions(index.bytes.get(at..)?)?;
        Some(index)
    }

    /// Reads the entry at a place, and returns where the next one is.
    #[allow(clippy::cast_possible_truncation, reason = "checked for all bytes; paths are at most as many")]
    fn entry(&mut self, begin: usize, version: u32) -> Option<usize> {
        let mut at = begin + NUMBERS + self.format.size() + 2;
        let flags = self.number(at - 4)? & 0xffff;
        let mut extended = 0;
        if flags & 0x4000 != 0 {
            extended = self.number(at - 2)? & 0xffff;
            at += 2;
        }
        let previous = self.entries.last().map(|entry| entry.path);
        let mut start = self.paths.len();
        if version == 4 {
            let (strip, length) = offset(self.bytes.get(at..)?)?;
            at += length;
            let previous = previous.map_or(start..start, |(start, end)| start as usize..end as usize);
            let kept = previous.len().checked_sub(strip)?;
            self.paths.extend_from_within(previous.start..previous.start + kept);
        }
        let mut end = at + self.bytes.get(at..)?.iter().position(|byte| *byte == 0)?;
        let next = if version == 4 {
            self.paths.extend_from_slice(&self.bytes[at..end]);
            let next = end + 1;
            end = self.paths.len();
            u32::try_from(end).ok()?;
            next
        } else {
            start = at;
            // Filled up with zeros to a multiple of eight.
            begin + (end - begin + 8) / 8 * 8
        };
        // A conflict has several entries of one path, and what is only intended to be added has no contents.
        let unsure = flags & 0x3000 != 0 || extended & 0x2000 != 0;
        let is_file = self.number(begin + 24)? & 0o170_000 == 0o100_000;
        let path = (start as u32, end as u32);
        self.entries.push(Entry { at: begin as u32, path, is_sure: is_file && !unsure, blob: None });
        let last = self.entries.len() - 1;
        (last == 0 || self.path(last - 1) <= self.path(last)).then_some(next)
    }

    /// The number at a place in the bytes.
    fn number(&self, at: usize) -> Option<u32> {
        Some(u32::from_be_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }

    fn path(&self, at: usize) -> &[u8] {
        let (start, end) = self.entries[at].path;
        let buffer = if self.paths.is_empty() { &self.bytes } else { &self.paths };
        &buffer[start as usize..end as usize]
    }

    fn id(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.at as usize + NUMBERS..][..self.format.size()]
    }

    /// The first entry at or after a path, from an earlier answer on.
    pub(crate) fn seek(&self, from: usize, path: &[u8]) -> usize {
        // Mostly it is the next one.
        if let Some(near) = (from..self.entries.len()).take(2).find(|at| self.path(*at) >= path) {
            return near;
        }
        let (mut low, mut high) = (from, self.entries.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.path(middle) < path { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The id of the contents of a file with this path and stamp, if the entry there is about both.
    pub(crate) fn clean(&self, at: usize, path: &[u8], stamp: &Stamp) -> Option<Id> {
        let entry = self.entries.get(at).filter(|entry| entry.is_sure && self.path(at) == path)?;
        if entry.blob != Some(stamp.size) || !self.is_stamp(entry, stamp)? || self.is_racy(stamp) {
            return None;
        }
        let mut id = [0; 32];
        id[..self.format.size()].copy_from_slice(self.id(entry));
        Some(id)
    }

    fn is_stamp(&self, entry: &Entry, stamp: &Stamp) -> Option<bool> {
        // Git keeps the lower 32 bits of each number.
        #[allow(clippy::cast_possible_truncation, reason = "as git does it")]
        let [changed, modified] = [stamp.changed, stamp.modified].map(|(seconds, nanos)| [seconds as u32, nanos]);
        #[allow(clippy::cast_possible_truncation, reason = "as git does it")]
        let (inode, size) = (stamp.inode as u32, stamp.size as u32);
        let of_stamp = [(0, changed[0]), (1, changed[1]), (2, modified[0]), (3, modified[1]), (5, inode), (9, size)];
        for (position, number) in of_stamp {
            if self.number(entry.at as usize + 4 * position)? != number {
                return Some(false);
            }
        }
        Some(true)
    }

    /// True if the file may have changed since the index was written without another stamp.
    fn is_racy(&self, stamp: &Stamp) -> bool {
        let (seconds, nanos) = stamp.modified.max(stamp.changed);
        // A file system that keeps no parts of a second may keep every other second only.
        let margin = if nanos == 0 { 2 } else { 0 };
        (seconds.saturating_add(margin), nanos) >= self.written
    }

    /// The files below a folder (which ends in a slash, or is empty) with blobs of unknown length.
    fn unmeasured(&self, folder: &[u8]) -> impl Iterator<Item = usize> {
        let first = self.seek(0, folder);
        let below = (first..self.entries.len()).take_while(move |at| self.path(*at).starts_with(folder));
        below.filter(|at| self.entries[*at].blob.is_none() && self.entries[*at].is_sure)
    }

    /// Ids of the blobs below a folder whose length is unknown, in hexadecimal, one a line.
    pub fn question(&self, folder: &[u8]) -> Vec<u8> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut question = Vec::with_capacity(self.unmeasured(folder).count() * (2 * self.format.size() + 1));
        for at in self.unmeasured(folder) {
            for byte in self.id(&self.entries[at]) {
                question.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
            }
            question.push(b'\n');
        }
        question
    }

    /// Takes the lengths of the blobs of [`Self::question`], in decimal, one a line; a line with anything else is a length that stays unknown.
    pub fn answer(&mut self, folder: &[u8], lengths: &[u8]) {
        let asked: Vec<usize> = self.unmeasured(folder).collect();
        let lines = lengths.split(|byte| *byte == b'\n');
        // An answer of another length is to another question; it ends in a newline.
        if lines.clone().count() != asked.len() + 1 {
            return;
        }
        for (at, line) in asked.into_iter().zip(lines) {
            self.entries[at].blob = std::str::from_utf8(line).ok().and_then(|line| line.parse().ok());
        }
    }

    /// Paths of the entries with this name, anywhere in the repository.
    pub fn named(&self, name: &[u8]) -> impl Iterator<Item = &[u8]> {
        let paths = (0..self.entries.len()).map(|at| self.path(at));
        paths.filter(move |path| {
            path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with(b"/"))
        })
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
