//! Tar files for tests, with entries that no tool writes.

use super::header::{self, Header};

pub const END: [u8; 2 * header::RECORD] = [0; 2 * header::RECORD];

pub fn entry(path: &[u8], flag: u8, link: &[u8], contents: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let size = contents.len() as u64;
    header::encode(&Header { path, flag, mode: 0o644, uid: 1, gid: 2, size, link }, &mut out);
    out.extend_from_slice(contents);
    out.resize(out.len().next_multiple_of(header::RECORD), 0);
    out
}

/// A tar file from short lines: `d path`, `f path contents`, `l path target`, `h path target`, `c path` (a device).
pub fn tar(lines: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        let mut words = line.split(' ');
        let (kind, path) = (words.next().unwrap(), words.next().unwrap());
        let rest = words.next().unwrap_or_default().as_bytes();
        out.extend(match kind {
            "d" => entry(format!("{path}/").as_bytes(), b'5', b"", b""),
            "f" => entry(path.as_bytes(), b'0', b"", rest),
            "l" => entry(path.as_bytes(), b'2', rest, b""),
            "h" => entry(path.as_bytes(), b'1', rest, b""),
            "c" => entry(path.as_bytes(), b'3', b"", b""),
            other => panic!("unknown kind `{other}`"),
        });
    }
    out.extend_from_slice(&END);
    out
}
