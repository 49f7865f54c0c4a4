//! Central directory of a zip archive (APPNOTE 6.3), with what makes an archive ambiguous or unsafe as an error.
//!
//! Reads records only, never a file's contents. The local header of a file must agree with the central directory, no two files
//! may share bytes, and no bytes may be of no file, so that every reader finds the same files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

/// Bytes with random access.
pub trait RandomAccess {
    /// Fills the buffer from an offset.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl RandomAccess for File {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, at)
    }
}

impl RandomAccess for [u8] {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(at).ok().filter(|start| *start <= self.len());
        let from = start.and_then(|start| self[start..].get(..buffer.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(from);
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZipEntry {
    /// Path with `/`; relative, without `.` and `..`. A folder's has no `/` at the end.
    pub name: String,
    pub folder: bool,
    /// True if any execute permission is set.
    pub executable: bool,
    pub deflated: bool,
    pub crc: u32,
    /// Offset and number of the packed bytes.
    pub at: u64,
    pub packed: u64,
    pub size: u64,
}

const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
const LOCATOR_BYTES: u64 = 20;
/// Begins the numbers that follow a file's bytes.
const DESCRIBED: u32 = 0x0807_4b50;
/// Extra field with sizes that do not fit into 32 bits.
const EXTRA_64: u16 = 1;
/// Extra field with a name in UTF-8, which some programs read in place of the name.
const EXTRA_NAME: u16 = 0x7075;

const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
const DESCRIPTOR: u16 = 1 << 3;
/// The name is UTF-8.
const UTF_8: u16 = 1 << 11;

/// Limits of what one wheel may state: more than any useful one has.
const MOST_ENTRIES: u64 = 1_000_000;
const MOST_BYTES: u64 = 64 << 30;
const MOST_DIRECTORY: u64 = 256 << 20;
/// Deflate packs at most this many bytes into one.
const RATIO: u64 = 1032;
/// A whole archive with a higher ratio is an attack if it has more than [`FREE`] bytes.
const WHOLE_RATIO: u64 = 100;
const FREE: u64 = 1 << 30;

/// Files and folders of an archive in the order of their names.
///
/// # Errors
/// The reason, in a few words.
pub(crate) fn entries<S: RandomAccess + ?Sized>(source: &S, size: u64) -> Result<Vec<ZipEntry>, String> {
    let end = end(source, size)?;
    let bytes = read(source, end.at, end.size)?;
    let mut rest = ZipFields(&bytes);
    let mut found: Vec<(ZipEntry, u64)> = Vec::new();
    for _ in 0..end.entries {
        found.push(central(&mut rest).ok_or("its directory ends early")??);
    }
    if !rest.0.is_empty() {
        return Err("its directory has more entries than it states".to_owned());
    }
    places(source, &mut found, end.at)?;
    let mut entries: Vec<ZipEntry> = found.into_iter().map(|(entry, _)| entry).collect();
    entries.sort_by(|one, two| one.name.cmp(&two.name));
    check_names(&entries)?;
    let (size, packed) = entries.iter().fold((0_u64, 0_u64), |(size, packed), entry| {
        (size.saturating_add(entry.size), packed.saturating_add(entry.packed))
    });
    if size > MOST_BYTES || (size > FREE && size / WHOLE_RATIO > packed) {
        return Err(format!("its {packed} bytes unpack to {size}"));
    }
    Ok(entries)
}

struct Directory {
    entries: u64,
    at: u64,
    size: u64,
}

fn end<S: RandomAccess + ?Sized>(source: &S, size: u64) -> Result<Directory, String> {
    // The record is followed by a comment of at most 65,535 bytes.
    let from = size.saturating_sub(22 + 65_535);
    let tail = read(source, from, size - from)?;
    let is_end = |at: &usize| {
        let mut fields = ZipFields(&tail[*at..]);
        fields.u32() == Some(END)
            && fields.skip(16).and_then(|()| fields.u16()).is_some_and(|comment| usize::from(comment) == fields.0.len())
    };
    let at = (0..tail.len().saturating_sub(21)).rev().find(is_end).ok_or("it is not a zip archive, or is cut off")?;
    let mut fields = ZipFields(&tail[at + 4..]);
    let mut field = || fields.u16().map(u64::from).ok_or("its end is cut off");
    let (disk, first, here, entries) = (field()?, field()?, field()?, field()?);
    let (length, start) = (fields.u32().unwrap_or(0), fields.u32().unwrap_or(0));
    let mut found = Directory { entries, at: start.into(), size: length.into() };
    let mut stop = from + at as u64;
    let is_short = entries == 0xffff || length == u32::MAX || start == u32::MAX;
    if is_short || has_locator(source, stop)? {
        // Some programs write the longer record always. What both state must be the same.
        let (long, at) = end_64(source, stop)?;
        let short = [
            (entries, 0xffff, long.entries),
            (here, 0xffff, long.entries),
            (disk, 0xffff, 0),
            (first, 0xffff, 0),
            (length.into(), u32::MAX.into(), long.size),
            (start.into(), u32::MAX.into(), long.at),
        ];
        if short.iter().any(|(short, none, long)| short != none && short != long) {
            return Err("its two end records differ".to_owned());
        }
        (found, stop) = (long, at);
    } else if disk != 0 || first != 0 || here != entries {
        return Err("it is a part of a divided archive".to_owned());
    }
    if found.entries > MOST_ENTRIES || found.size > MOST_DIRECTORY {
        return Err(format!("it states {} entries in {} bytes", found.entries, found.size));
    }
    // Bytes between or before them could hide another archive.
    if found.at.checked_add(found.size) != Some(stop) {
        return Err("its directory is not where it states".to_owned());
    }
    Ok(found)
}

/// True if the record for large archives precedes the end record, which begins here.
fn has_locator<S: RandomAccess + ?Sized>(source: &S, end: u64) -> Result<bool, String> {
    let Some(at) = end.checked_sub(LOCATOR_BYTES) else { return Ok(false) };
    Ok(ZipFields(&read(source, at, 4)?).u32() == Some(LOCATOR_64))
}

/// The record for large archives, and where it begins.
fn end_64<S: RandomAccess + ?Sized>(source: &S, end: u64) -> Result<(Directory, u64), String> {
    let invalid = "its ZIP64 records are invalid";
    let locator = read(source, end.checked_sub(LOCATOR_BYTES).ok_or(invalid)?, LOCATOR_BYTES)?;
    let mut fields = ZipFields(&locator);
    if fields.u32() != Some(LOCATOR_64) || fields.u32() != Some(0) {
        return Err(invalid.to_owned());
    }
    let at = fields.u64().ok_or(invalid)?;
    if at.checked_add(56).is_none_or(|stop| stop > end - LOCATOR_BYTES) {
        return Err(invalid.to_owned());
    }
    let record = read(source, at, 56)?;
    let mut fields = ZipFields(&record);
    let (signature, length) = (fields.u32(), fields.u64().ok_or(invalid)?);
    fields.skip(12);
    let (here, entries) = (fields.u64().ok_or(invalid)?, fields.u64().ok_or(invalid)?);
    let (size, start) = (fields.u64().ok_or(invalid)?, fields.u64().ok_or(invalid)?);
    // It has the 44 bytes of this version and nothing behind them.
    if signature != Some(END_64) || length != 44 || at + 56 != end - LOCATOR_BYTES || here != entries {
        return Err(invalid.to_owned());
    }
    Ok((Directory { entries, at: start, size }, at))
}

/// One entry, with the offset of its local header; `None` if the bytes end early.
fn central(fields: &mut ZipFields<'_>) -> Option<Result<(ZipEntry, u64), String>> {
    if fields.u32()? != CENTRAL {
        return Some(Err("its directory is damaged".to_owned()));
    }
    fields.skip(4)?;
    let (flags, method) = (fields.u16()?, fields.u16()?);
    fields.skip(4)?;
    let crc = fields.u32()?;
    let (packed, size) = (fields.u32()?, fields.u32()?);
    let (name, extra, comment) = (fields.u16()?, fields.u16()?, fields.u16()?);
    let disk = fields.u16()?;
    fields.skip(2)?;
    let attributes = fields.u32()?;
    let local = fields.u32()?;
    let (name, extra) = (fields.take(name.into())?, fields.take(extra.into())?);
    fields.skip(comment.into())?;
    let long = long(extra, [size, packed, local]);
    let described = || {
        let (raw, (name, folder)) = (name, safe(name)?);
        one_name(raw, flags, extra)?;
        let [size, packed, local] = long.ok_or_else(|| format!("the sizes of `{name}` are missing"))?;
        if disk != 0 {
            return Err(format!("`{name}` is in another part of a divided archive"));
        }
        if flags & ENCRYPTED != 0 {
            return Err(format!("`{name}` is encrypted"));
        }
        // The upper half is a Unix mode, 0 if unknown.
        let mode = attributes >> 16;
        match mode & 0o170_000 {
            0 | 0o100_000 => {}
            0o040_000 if folder => {}
            0o120_000 => return Err(format!("`{name}` is a symbolic link")),
            _ => return Err(format!("`{name}` is neither a file nor a folder")),
        }
        let deflated = match method {
            0 => false,
            8 => true,
            other => return Err(format!("`{name}` is compressed by method {other}, not by deflate")),
        };
        let possible = if deflated { packed > 0 && size / RATIO <= packed } else { packed == size };
        if !possible || (folder && size > 0) {
            return Err(format!("`{name}` states {size} bytes in {packed} packed ones"));
        }
        let executable = mode & 0o111 != 0;
        Ok((ZipEntry { name, folder, executable, deflated, crc, at: 0, packed, size }, local))
    };
    Some(described())
}

/// Replaces sizes that do not fit into 32 bits; `None` if one is missing.
fn long(extra: &[u8], short: [u32; 3]) -> Option<[u64; 3]> {
    let mut fields = ZipFields(extra);
    let mut large = ZipFields(&[]);
    while let (Some(id), Some(length)) = (fields.u16(), fields.u16()) {
        let value = fields.take(length.into())?;
        if id == EXTRA_64 {
            large = ZipFields(value);
        }
    }
    let mut out = [0; 3];
    for (long, short) in out.iter_mut().zip(short) {
        *long = if short == u32::MAX { large.u64()? } else { short.into() };
    }
    Some(out)
}

/// A safe name, and whether it is a folder's.
fn safe(name: &[u8]) -> Result<(String, bool), String> {
    let text = std::str::from_utf8(name).map_err(|_| format!("the name `{}` is not UTF-8", name.escape_ascii()))?;
    let (path, folder) = text.strip_suffix('/').map_or((text, false), |path| (path, true));
    let safe = |part: &str| !matches!(part, "" | "." | "..");
    if !path.split('/').all(safe) || path.contains('\\') || path.chars().any(char::is_control) {
        return Err(format!("the name `{}` is not a safe path", text.escape_default()));
    }
    Ok((path.to_owned(), folder))
}

/// Rejects a name that programs read differently: by a second one, or by the character set.
fn one_name(name: &[u8], flags: u16, extra: &[u8]) -> Result<(), String> {
    let (mut fields, mut is_utf_8) = (ZipFields(extra), flags & UTF_8 != 0);
    while let (Some(id), Some(length)) = (fields.u16(), fields.u16()) {
        let Some(value) = fields.take(length.into()) else { break };
        if id != EXTRA_NAME {
            continue;
        }
        // A version and a checksum precede it.
        let second = value.get(5..).unwrap_or_default();
        if second != name {
            return Err(format!("`{}` has the second name `{}`", name.escape_ascii(), second.escape_ascii()));
        }
        is_utf_8 = true;
    }
    if is_utf_8 || name.is_ascii() {
        return Ok(());
    }
    Err(format!("the name `{}` is not marked as UTF-8", String::from_utf8_lossy(name)))
}

/// Finds the bytes of each file, and compares the local headers with the directory.
fn places<S: RandomAccess + ?Sized>(source: &S, found: &mut [(ZipEntry, u64)], end: u64) -> Result<(), String> {
    found.sort_by_key(|(_, local)| *local);
    let (mut free, mut last) = (0, None);
    for (entry, local) in found {
        if *local < free {
            return Err(format!("`{}` shares bytes with another file", entry.name));
        }
        check_rest(source, last, free..*local)?;
        let head = read(source, *local, 30)?;
        let mut fields = ZipFields(&head);
        let differs = || format!("the two records of `{}` differ", entry.name);
        if fields.u32() != Some(LOCAL) {
            return Err(differs());
        }
        fields.skip(2);
        let (flags, method) = (fields.u16().unwrap_or(0), fields.u16());
        fields.skip(4);
        let (crc, packed, size) = (fields.u32(), fields.u32(), fields.u32());
        let (name, extra) = (fields.u16().unwrap_or(0), fields.u16().unwrap_or(0));
        let rest = read(source, local.saturating_add(30), u64::from(name) + u64::from(extra))?;
        let (name, extra) = rest.split_at(usize::from(name));
        one_name(name, flags, extra)?;
        let stated = name.strip_suffix(b"/").unwrap_or(name);
        if stated != entry.name.as_bytes() || method != Some(if entry.deflated { 8 } else { 0 }) {
            return Err(differs());
        }
        // With a data descriptor, these numbers follow the file.
        let later = flags & DESCRIPTOR != 0
            && packed.zip(size).is_some_and(|sizes| matches!(sizes, (0, 0) | (u32::MAX, u32::MAX)));
        let same = || {
            let [size, packed, _] = long(extra, [size?, packed?, 0])?;
            (crc == Some(entry.crc) && size == entry.size && packed == entry.packed).then_some(())
        };
        if !later && same().is_none() {
            return Err(differs());
        }
        entry.at = local.saturating_add(30 + rest.len() as u64);
        free = entry.at.saturating_add(entry.packed);
        if free > end {
            return Err(format!("the bytes of `{}` are outside the archive", entry.name));
        }
        last = Some((&*entry, flags & DESCRIPTOR != 0));
    }
    check_rest(source, last, free..end)
}

/// Rejects bytes behind a file that are not of it: readers that do not use the directory find a file there. Of a file with the flag,
/// its numbers follow, of 32 or 64 bits, with a signature or without.
fn check_rest<S: RandomAccess + ?Sized>(
    source: &S,
    last: Option<(&ZipEntry, bool)>,
    rest: Range<u64>,
) -> Result<(), String> {
    let length = rest.end - rest.start;
    let Some((entry, true)) = last else {
        return match (length, last) {
            (0, _) => Ok(()),
            (_, None) => Err(format!("it begins with {length} bytes of no file")),
            (_, Some((entry, _))) => Err(format!("{length} bytes of no file follow `{}`", entry.name)),
        };
    };
    let numbers = match length {
        12 | 16 => [entry.packed, entry.size]
            .iter()
            .map(|number| u32::try_from(*number).map(u32::to_le_bytes))
            .collect::<Result<Vec<_>, _>>()
            .map_or_else(|_| Vec::new(), |numbers| numbers.concat()),
        20 | 24 => [entry.packed.to_le_bytes(), entry.size.to_le_bytes()].concat(),
        _ => return Err(format!("{length} bytes follow `{}`, which are not its sizes", entry.name)),
    };
    let signature = if length.is_multiple_of(8) { DESCRIBED.to_le_bytes().to_vec() } else { Vec::new() };
    let expected = [signature, entry.crc.to_le_bytes().to_vec(), numbers].concat();
    if read(source, rest.start, length)? == expected {
        return Ok(());
    }
    Err(format!("the sizes behind `{}` differ from its record", entry.name))
}

/// Rejects names that are one path on some file system, and files with something below them. Names are sorted.
fn check_names(entries: &[ZipEntry]) -> Result<(), String> {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for entry in entries {
        if let Some(other) = seen.insert(entry.name.to_lowercase(), &entry.name) {
            return Err(match other == entry.name {
                true => format!("it has `{other}` twice"),
                false => format!("`{other}` and `{}` differ only by case", entry.name),
            });
        }
    }
    let files: BTreeSet<&str> = entries.iter().filter(|entry| !entry.folder).map(|entry| entry.name.as_str()).collect();
    for entry in entries {
        let parents = entry.name.match_indices('/').map(|(at, _)| &entry.name[..at]);
        if let Some(file) = parents.into_iter().find(|parent| files.contains(parent)) {
            return Err(format!("`{file}` is a file, and `{}` is below it", entry.name));
        }
    }
    Ok(())
}

fn read<S: RandomAccess + ?Sized>(source: &S, at: u64, length: u64) -> Result<Vec<u8>, String> {
    let length = usize::try_from(length).map_err(|_| "it is too large for this machine".to_owned())?;
    let mut bytes = vec![0; length];
    source.read_at(at, &mut bytes).map_err(|error| format!("cannot read {length} bytes at {at}: {error}"))?;
    Ok(bytes)
}

/// Numbers in little-endian order.
struct ZipFields<'b>(&'b [u8]);

impl<'b> ZipFields<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.take(count).map(drop)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }
}
