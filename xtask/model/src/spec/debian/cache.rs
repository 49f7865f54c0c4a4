//! The cache of the dynamic linker, `/etc/ld.so.cache`: which library has which name, as `ldconfig -p` prints it.
//!
//! Pure. The layout is glibc's `sysdeps/generic/dl-cache.h`, version 1.1. Libraries are added to the cache of the root; what it
//! says of others is kept, with its sections of extensions.

use std::cmp::Ordering;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
const EXTENSIONS: u32 = 0xEAA4_2174;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Library {
    flags: u32,
    name: Vec<u8>,
    path: Vec<u8>,
    osversion: u32,
    hwcap: u64,
}

/// A cache, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkerCache {
    libraries: Vec<Library>,
    /// Byte order flag of the header.
    order: u8,
    /// Tag, flags and contents.
    extensions: Vec<(u32, u32, Vec<u8>)>,
}

impl LinkerCache {
    /// `None` for another format, or a damaged file.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = &bytes[bytes.windows(MAGIC.len()).position(|window| window == MAGIC)?..];
        let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let text = |at: u32| {
            let rest = bytes.get(at as usize..)?;
            Some(rest[..rest.iter().position(|byte| *byte == 0)?].to_vec())
        };
        let (count, order) = (number(20)? as usize, *bytes.get(28)?);
        if count > bytes.len() / ENTRY {
            return None;
        }
        let mut libraries = Vec::new();
        for entry in 0..count {
            let at = HEADER + entry * ENTRY;
            libraries.push(Library {
                flags: number(at)?,
                name: text(number(at + 4)?)?,
                path: text(number(at + 8)?)?,
                osversion: number(at + 12)?,
                hwcap: u64::from_le_bytes(bytes.get(at + 16..at + 24)?.try_into().ok()?),
            });
        }
        let mut extensions = Vec::new();
        let offset = number(32)? as usize;
        if offset != 0 && number(offset)? == EXTENSIONS {
            for section in 0..number(offset + 4)? as usize {
                let at = offset + 8 + section * 16;
                let (begin, size) = (number(at + 8)? as usize, number(at + 12)? as usize);
                extensions.push((number(at)?, number(at + 4)?, bytes.get(begin..begin + size)?.to_vec()));
            }
        }
        Some(Self { libraries, order, extensions })
    }

    /// The folders of the libraries that it has, as it spells them.
    pub fn folders(&self) -> Vec<String> {
        let folder = |library: &Library| {
            let path = String::from_utf8_lossy(&library.path).into_owned();
            path.rsplit_once('/').map(|(folder, _)| folder.to_owned())
        };
        let mut folders: Vec<String> = self.libraries.iter().filter_map(folder).collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// Adds libraries, name and path, of the kind of the C library. A name in the same folder is known already.
    pub fn add(&mut self, found: &[(String, String)]) {
        let Some(flags) = self.libraries.iter().find(|library| library.name == b"libc.so.6").map(|c| c.flags) else {
            return;
        };
        for (name, path) in found {
            let new = Library {
                flags,
                name: name.clone().into_bytes(),
                path: path.clone().into_bytes(),
                osversion: 0,
                hwcap: 0,
            };
            if !self.libraries.iter().any(|old| old.name == new.name && old.path == new.path) {
                self.libraries.push(new);
            }
        }
    }

    /// The file. The linker searches it in halves: the order is that of `_dl_cache_libcmp`, the highest first.
    pub fn bytes(&self) -> Vec<u8> {
        let mut libraries: Vec<&Library> = self.libraries.iter().collect();
        libraries.sort_by(|one, other| {
            let order = compare(&other.name, &one.name).then(other.flags.cmp(&one.flags));
            order.then(other.hwcap.cmp(&one.hwcap))
        });
        let mut strings: Vec<u8> = Vec::new();
        let begin = HEADER + libraries.len() * ENTRY;
        let mut entries: Vec<u8> = Vec::new();
        for library in &libraries {
            let path = begin + strings.len();
            strings.extend_from_slice(&library.path);
            strings.push(0);
            // The name is the end of most paths.
            let name = match library.path.ends_with(&library.name) {
                true => path + library.path.len() - library.name.len(),
                false => {
                    let at = begin + strings.len();
                    strings.extend_from_slice(&library.name);
                    strings.push(0);
                    at
                }
            };
            for number in [library.flags, offset(name), offset(path), library.osversion] {
                entries.extend_from_slice(&number.to_le_bytes());
            }
            entries.extend_from_slice(&library.hwcap.to_le_bytes());
        }
        let extensions = (begin + strings.len()).next_multiple_of(4);
        let at = if self.extensions.is_empty() { 0 } else { offset(extensions) };
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&offset(libraries.len()).to_le_bytes());
        file.extend_from_slice(&offset(strings.len()).to_le_bytes());
        file.extend_from_slice(&[self.order, 0, 0, 0]);
        file.extend_from_slice(&at.to_le_bytes());
        file.resize(HEADER, 0);
        file.extend_from_slice(&entries);
        file.extend_from_slice(&strings);
        if !self.extensions.is_empty() {
            file.resize(extensions, 0);
            file.extend_from_slice(&EXTENSIONS.to_le_bytes());
            file.extend_from_slice(&offset(self.extensions.len()).to_le_bytes());
            let mut place = extensions + 8 + 16 * self.extensions.len();
            for (tag, flags, contents) in &self.extensions {
                for number in [*tag, *flags, offset(place), offset(contents.len())] {
                    file.extend_from_slice(&number.to_le_bytes());
                }
                place += contents.len().next_multiple_of(4);
            }
            for (_, _, contents) in &self.extensions {
                file.extend_from_slice(contents);
                file.resize(file.len().next_multiple_of(4), 0);
            }
        }
        file
    }
}

fn offset(number: usize) -> u32 {
    u32::try_from(number).expect("a cache is smaller than 4 GB")
}

/// `_dl_cache_libcmp`: runs of digits by their number, a digit above any other character.
fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let (mut left, mut right) = (one, other);
    let number = |text: &[u8]| {
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (text[..digits].iter().fold(0_u64, |sum, byte| sum.wrapping_mul(10) + u64::from(byte - b'0')), digits)
    };
    while let Some(first) = left.first() {
        let second = right.first().copied().unwrap_or(0);
        match (first.is_ascii_digit(), second.is_ascii_digit()) {
            (true, true) => {
                let ((one, length), (other, other_length)) = (number(left), number(right));
                if one != other {
                    return one.cmp(&other);
                }
                left = &left[length..];
                right = &right[other_length..];
            }
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) if *first != second => return first.cmp(&second),
            (false, false) => {
                left = &left[1..];
                right = &right[1..];
            }
        }
    }
    if right.is_empty() { Ordering::Equal } else { Ordering::Less }
}

/// The name that a shared library states for itself, `DT_SONAME`; `None` for another file, and for one without a name. 64-bit
/// little-endian ELF, as on every platform of the policy.
pub fn soname(bytes: &[u8]) -> Option<String> {
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?));
    let place = |at: usize| usize::try_from(word(at)?).ok();
    let short = |at: usize| Some(usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    if bytes.get(..6)? != b"\x7fELF\x02\x01" || short(16)? != 3 {
        return None;
    }
    let (table, size, count) = (place(32)?, short(54)?, short(56)?);
    let header = |number: usize| table.checked_add(number * size);
    let kind = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let mut dynamic = None;
    for at in (0..count).filter_map(header) {
        if kind(at)? == 2 {
            dynamic = Some((place(at + 8)?, place(at + 32)?));
        }
    }
    let (begin, length) = dynamic?;
    let (mut strings, mut name) = (None, None);
    for at in (begin..begin.checked_add(length)?).step_by(16) {
        match word(at)? {
            0 => break,
            5 => strings = Some(word(at + 8)?),
            14 => name = Some(place(at + 8)?),
            _ => {}
        }
    }
    let (strings, name) = (strings?, name?);
    // An address of the program, in the segment that holds it.
    for at in (0..count).filter_map(header) {
        let (address, filed) = (word(at + 16)?, word(at + 32)?);
        if kind(at)? == 1 && (address..address.checked_add(filed)?).contains(&strings) {
            let from = place(at + 8)?.checked_add(usize::try_from(strings - address).ok()?)?.checked_add(name)?;
            let rest = bytes.get(from..)?;
            let end = rest.iter().position(|byte| *byte == 0)?;
            return Some(String::from_utf8_lossy(&rest[..end]).into_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(name: &str, path: &str) -> Library {
        Library {
            flags: 0x0303,
            name: name.as_bytes().to_vec(),
            path: path.as_bytes().to_vec(),
            osversion: 0,
            hwcap: 0,
        }
    }

    fn cache() -> LinkerCache {
        let libraries = vec![
            library("libz.so.1", "/lib/x/libz.so.1"),
            library("libc.so.6", "/lib/x/libc.so.6"),
            library("a", "/b/c"),
        ];
        LinkerCache { libraries, order: 2, extensions: vec![(0, 0, b"ldconfig".to_vec())] }
    }

    #[test]
    fn a_cache_survives_and_grows() {
        let bytes = cache().bytes();
        let read = LinkerCache::parse(&bytes).unwrap();
        assert_eq!(read, LinkerCache::parse(&read.bytes()).unwrap());
        assert_eq!((read.libraries.len(), &read.extensions), (3, &cache().extensions));
        assert_eq!(read.folders(), ["/b", "/lib/x"]);
        let mut more = read;
        let new = |name: &str| (name.to_owned(), format!("/lib/x/{name}"));
        more.add(&[new("libpq.so.5"), new("libpq.so.10"), new("libz.so.1")]);
        let names: Vec<String> = LinkerCache::parse(&more.bytes())
            .unwrap()
            .libraries
            .iter()
            .map(|library| String::from_utf8(library.name.clone()).unwrap())
            .collect();
        assert_eq!(names, ["libz.so.1", "libpq.so.10", "libpq.so.5", "libc.so.6", "a"]);
    }

    #[test]
    fn damaged_files_are_refused() {
        let bytes = cache().bytes();
        assert_eq!(LinkerCache::parse(b"ld.so-1.7.0"), None);
        for end in [24, 50, HEADER + 2 * ENTRY, bytes.len() - 1] {
            assert_eq!(LinkerCache::parse(&bytes[..end]), None, "{end}");
        }
    }

    #[test]
    fn damaged_libraries_have_no_name() {
        assert_eq!(soname(b""), None);
        assert_eq!(soname(b"\x7fELF\x02\x01"), None);
        let mut bytes = vec![0xff; 4096];
        bytes[..18].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0");
        assert_eq!(soname(&bytes), None);
    }
}
