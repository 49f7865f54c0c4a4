//! Tar headers as in POSIX.1-2001: ustar, with a preceding extended header where ustar has no space.
//!
//! Pure. The header depends on the entry alone, so each entry has one form.

use super::TIME;

/// Block size of a tar file, in bytes.
pub(super) const RECORD: usize = 512;

pub(super) mod flag {
    pub(in super::super) const FILE: u8 = b'0';
    pub(in super::super) const SYMLINK: u8 = b'2';
    pub(in super::super) const DIR: u8 = b'5';
    pub(in super::super) const EXTENDED: u8 = b'x';
}

pub(super) struct Header<'a> {
    /// A folder's path ends with `/`.
    pub(super) path: &'a [u8],
    pub(super) flag: u8,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) link: &'a [u8],
}

/// Appends the header, with an extended header if it needs one.
pub(super) fn encode(header: &Header<'_>, out: &mut Vec<u8>) {
    let split = split(header.path);
    let mut extended = Vec::new();
    // Sorted by key.
    if header.gid > OWNER_LIMIT {
        record(&mut extended, "gid", header.gid.to_string().as_bytes());
    }
    if header.link.len() > 100 {
        record(&mut extended, "linkpath", header.link);
    }
    if split.is_none() {
        record(&mut extended, "path", header.path);
    }
    if header.size > SIZE_LIMIT {
        record(&mut extended, "size", header.size.to_string().as_bytes());
    }
    if header.uid > OWNER_LIMIT {
        record(&mut extended, "uid", header.uid.to_string().as_bytes());
    }
    if !extended.is_empty() {
        let size = extended.len() as u64;
        // A reader without extended headers extracts it as a file of this name.
        let name = (&b""[..], &b"PaxHeaders/extended"[..]);
        let of = Header { path: b"", flag: flag::EXTENDED, mode: 0o644, uid: 0, gid: 0, size, link: b"" };
        ustar(&of, name, out);
        out.append(&mut extended);
        out.resize(out.len() + padding(size), 0);
    }
    ustar(header, split.unwrap_or((b"", cut(header.path, 100))), out);
}

pub(super) fn padding(size: u64) -> usize {
    (RECORD - (size % RECORD as u64) as usize) % RECORD
}

/// Seven octal digits.
const OWNER_LIMIT: u32 = 0o777_7777;
/// Eleven octal digits.
const SIZE_LIMIT: u64 = 0o777_7777_7777;

/// Splits a path into prefix and name, if it fits.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // The last `/` that leaves a prefix of at most 155 bytes and a name; a folder's own `/` ends the name.
    let searched = &path[..path.len().saturating_sub(1).min(156)];
    let at = searched.iter().rposition(|byte| *byte == b'/').filter(|at| *at > 0)?;
    (path.len() - at - 1 <= 100).then(|| (&path[..at], &path[at + 1..]))
}

/// Truncates, without a trailing `/`, which old readers would take for a folder.
fn cut(text: &[u8], most: usize) -> &[u8] {
    let text = &text[..text.len().min(most)];
    text.strip_suffix(b"/").unwrap_or(text)
}

/// `length key=value\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Runs for each file of a layer, in code that is not optimised: numbers are not formatted, and only bytes that are set are summed.
fn ustar(header: &Header<'_>, (prefix, name): (&[u8], &[u8]), out: &mut Vec<u8>) {
    let begin = out.len();
    out.resize(begin + RECORD, 0);
    let block = &mut out[begin..];
    let mut sum = 0;
    let mut put = |at: usize, bytes: &[u8]| {
        block[at..at + bytes.len()].copy_from_slice(bytes);
        for byte in bytes {
            sum += u64::from(*byte);
        }
    };
    // A value that does not fit is in the extended header.
    let owner = |id: u32| if id > OWNER_LIMIT { 0 } else { u64::from(id) };
    let size = if header.size > SIZE_LIMIT { 0 } else { header.size };
    put(0, name);
    put(100, &octal::<7>(u64::from(header.mode & 0o7777)));
    put(108, &octal::<7>(owner(header.uid)));
    put(116, &octal::<7>(owner(header.gid)));
    put(124, &octal::<11>(size));
    put(136, &octal::<11>(TIME));
    // The checksum's own place counts as spaces.
    put(148, b"        ");
    put(156, &[header.flag]);
    put(157, &header.link[..header.link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, b"0000000");
    put(337, b"0000000");
    put(345, prefix);
    block[148..154].copy_from_slice(&octal::<6>(sum));
    block[154] = 0;
}

/// The last octal digits of a number.
fn octal<const DIGITS: usize>(mut number: u64) -> [u8; DIGITS] {
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit += (number & 7) as u8;
        number >>= 3;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn splits(path: &str, expected: Option<(&str, &str)>) {
        assert_eq!(split(path.as_bytes()), expected.map(|(a, b)| (a.as_bytes(), b.as_bytes())), "{path}");
    }

    #[test]
    fn a_path_is_split_if_it_fits_into_ustar() {
        let (x99, x100, x101, x155, x156) =
            ("x".repeat(99), "x".repeat(100), "x".repeat(101), "x".repeat(155), "x".repeat(156));
        splits(&x100, Some(("", &x100)));
        splits(&x101, None);
        splits(&format!("a/{x100}"), Some(("a", &x100)));
        splits(&format!("a/{x101}"), None);
        splits(&format!("a/{x99}/"), Some(("a", &format!("{x99}/"))));
        splits(&format!("{x155}/{x100}"), Some((&x155, &x100)));
        splits(&format!("{x156}/y"), None);
        splits(&format!("{x155}/"), None);
        splits(&format!("a/b/{x99}"), Some(("a/b", &x99)));
    }

    #[track_caller]
    fn records(key: &str, value: usize, expected: usize) {
        let mut out = Vec::new();
        record(&mut out, key, "v".repeat(value).as_bytes());
        assert_eq!(out.len(), expected);
        assert!(out.starts_with(format!("{expected} {key}=").as_bytes()));
    }

    #[test]
    fn the_length_of_a_record_counts_itself() {
        records("path", 1, 9);
        records("path", 2, 11);
        records("path", 90, 99);
        records("path", 91, 100 + 1);
        records("path", 5000, 5011);
    }

    #[test]
    fn other_readers_accept_every_header() {
        let long = "x/".repeat(80);
        let numbers = [(0, 0, 0), (0o7777, OWNER_LIMIT, SIZE_LIMIT), (0o644, 65532, 1), (0o4755, 8, 0o1234567)];
        for (mode, owner, size) in numbers {
            for (path, link) in [("a", ""), ("a/b", "to"), (&long, ""), ("\u{fc}/\u{20ac}", "\u{e9}")] {
                let (path, link) = (path.as_bytes(), link.as_bytes());
                let flag = if link.is_empty() { flag::FILE } else { flag::SYMLINK };
                let mut out = Vec::new();
                encode(&Header { path, flag, mode, uid: owner, gid: owner / 2, size, link }, &mut out);
                assert_eq!(out.len(), RECORD);
                out.extend([0; 2 * RECORD]);
                let mut archive = tar::Archive::new(&*out);
                let entry = archive.entries().unwrap().next().unwrap().unwrap();
                let read = entry.header();
                assert_eq!(&*entry.path_bytes(), path);
                assert_eq!(entry.link_name_bytes().unwrap_or_default(), link);
                assert_eq!((read.mode().unwrap(), read.size().unwrap()), (mode, size));
                assert_eq!((read.uid().unwrap(), read.gid().unwrap()), (owner.into(), (owner / 2).into()));
                assert_eq!((read.mtime().unwrap(), read.entry_type().as_byte()), (TIME, flag));
            }
        }
    }

    #[test]
    fn a_header_has_one_form() {
        let mut out = Vec::new();
        let header = Header { path: b"a/b", flag: flag::FILE, mode: 0o4755, uid: 0, gid: 65532, size: 3, link: b"" };
        encode(&header, &mut out);
        assert_eq!(out.len(), RECORD);
        let digest = xtask_model::spec::reference::Digest::of(&out).to_string();
        expect_test::expect!["sha256:1bcc75e08e394ffb7877e1b8850b36af7d029d7ded2176e7c3f21c058dd549a0"]
            .assert_eq(&digest);
    }
}
