//! Fields of a tar header as v7, POSIX and GNU tar write them, combined with a preceding extended header.
//!
//! Pure. An error is one lowercase phrase.

use super::extended::Extended;
use super::{Entry, EntryKind, RESERVED, WHITEOUT};
use crate::layer::header::RECORD;
use xtask_model::image::context::ContextPath;

pub(super) struct Fields<'a> {
    block: &'a [u8; RECORD],
    pub(super) flag: u8,
    /// Size of the contents, for entry types that have any.
    pub(super) size: u64,
}

impl<'a> Fields<'a> {
    pub(super) fn parse(block: &'a [u8; RECORD]) -> Result<Self, String> {
        let sum = number(&block[148..156])?;
        // The field counts as blanks.
        let field: i64 = block[148..156].iter().map(|byte| i64::from(*byte)).sum();
        let unsigned = sum_of(block) - field + 8 * 32;
        let negative = |from: &[u8]| 256 * from.iter().filter(|byte| **byte >= 128).count() as i64;
        // Old programs summed signed bytes.
        if unsigned != sum && unsigned - negative(&block[..148]) - negative(&block[156..]) != sum {
            return Err("a header has a wrong checksum: it is not a tar file, or is damaged".to_owned());
        }
        let size = number(&block[124..136])?;
        let size = u64::try_from(size).map_err(|_| "an entry has a negative size".to_owned())?;
        Ok(Self { block, flag: block[156], size })
    }

    pub(super) fn complete(self, extended: Extended, longest: usize) -> Result<(Entry, u64), String> {
        let block = self.block;
        let name = extended.path.unwrap_or_else(|| {
            let name = text(&block[..100]);
            // GNU tar stores times there.
            let prefix = if &block[257..263] == b"ustar\0" { text(&block[345..500]) } else { b"" };
            if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
        });
        let link = extended.link.unwrap_or_else(|| text(&block[157..257]).to_vec());
        if name.len() > longest || link.len() > longest {
            return Err(format!("a path is longer than {longest} bytes"));
        }
        let path = path(&name)?;
        marks(&path)?;
        let size = extended.size.unwrap_or(self.size);
        let is_folder = self.flag == b'5' || (matches!(self.flag, b'0' | 0) && name.ends_with(b"/"));
        let (kind, size) = match self.flag {
            _ if is_folder => (EntryKind::Dir, 0),
            b'0' | b'7' | 0 => (EntryKind::File(size), size),
            b'1' => (EntryKind::HardLink(hard_link(&path, &link)?), 0),
            b'2' if link.is_empty() || link.contains(&0) => return Err(format!("link `{path}` has no target")),
            b'2' => (EntryKind::Symlink(link), 0),
            b'3' | b'4' | b'6' => (EntryKind::Special, 0),
            b'S' => return Err(format!("`{path}` is a sparse file, which layers do not support")),
            flag => {
                return Err(format!("`{path}` has the type `{}`, which layers do not support", flag.escape_ascii()));
            }
        };
        if path.as_bytes().is_empty() && kind != EntryKind::Dir {
            return Err("the root is not a folder".to_owned());
        }
        let owner = |said: Option<u32>, at: usize| match said {
            Some(id) => Ok(id),
            None => u32::try_from(number(&block[at..at + 8])?)
                .map_err(|_| format!("the owner of `{path}` is not a valid id")),
        };
        let entry = Entry {
            kind,
            mode: (number(&block[100..108])? & 0o7777) as u32,
            uid: owner(extended.uid, 108)?,
            gid: owner(extended.gid, 116)?,
            time: match extended.time {
                Some(time) => time,
                None => number(&block[136..148])?,
            },
            path,
        };
        Ok((entry, size))
    }
}

/// Sum of all bytes, as four sums of 16 bits: layers are read by unoptimised builds too, where each byte by itself is a tenth of the time.
fn sum_of(block: &[u8; RECORD]) -> i64 {
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    let mut sums = 0;
    for word in block.as_chunks::<8>().0 {
        let word = u64::from_le_bytes(*word);
        sums += (word & EVEN) + (word >> 8 & EVEN);
    }
    [0, 16, 32, 48].map(|at| (sums >> at & 0xffff) as i64).iter().sum()
}

fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
}

/// Octal digits between blanks and zero bytes, or GNU's two's complement.
fn number(field: &[u8]) -> Result<i64, String> {
    if field[0] & 0x80 != 0 {
        // The first bit marks the format, the second is the sign.
        let negative = field[0] & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at > 0 || negative { *byte } else { byte & 0x7f };
            value = value.checked_mul(256).map(|value| value | i64::from(byte)).ok_or("a number is too large")?;
        }
        return Ok(value);
    }
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return Err("a number is followed by other data".to_owned());
    }
    digits
        .iter()
        .try_fold(0_i64, |value, digit| match digit {
            b'0'..=b'7' => value.checked_mul(8).and_then(|value| value.checked_add(i64::from(digit - b'0'))),
            _ => None,
        })
        .ok_or_else(|| format!("`{}` is not an octal number", digits.escape_ascii()))
}

/// A name as a path below the root.
pub(super) fn path(name: &[u8]) -> Result<ContextPath, String> {
    let shown = || ContextPath::new(name);
    if name.is_empty() || name.contains(&0) {
        return Err(format!("`{}` is not a valid path", shown()));
    }
    if name[0] == b'/' {
        return Err(format!("path `{}` is absolute", shown()));
    }
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(format!("path `{}` leads out of the folder", shown())),
            part => parts.push(part),
        }
    }
    Ok(ContextPath::new(parts.join(&b'/')))
}

/// Rejects whiteouts that do not remove a single name of their own folder: `.wh..` and `.wh...` would be the folder and
/// its parent. Nothing may be below a whiteout.
fn marks(path: &ContextPath) -> Result<(), String> {
    let mut parts = path.parts().rev();
    let hidden = |part: &[u8]| part.strip_prefix(WHITEOUT).filter(|_| !part.starts_with(RESERVED)).map(<[u8]>::to_vec);
    if let Some(name) = parts.next().and_then(hidden)
        && matches!(&*name, b"" | b"." | b"..")
    {
        return Err(format!("`{path}` is a whiteout of the invalid name `{}`", name.escape_ascii()));
    }
    if parts.any(|part| hidden(part).is_some()) {
        return Err(format!("`{path}` is below a whiteout"));
    }
    Ok(())
}

fn hard_link(path: &ContextPath, link: &[u8]) -> Result<ContextPath, String> {
    let target = self::path(link).map_err(|why| format!("hard link `{path}`: {why}"))?;
    if target.as_bytes().is_empty() || target == *path {
        return Err(format!("hard link `{path}` refers to itself or to the root"));
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn numbers(field: &[u8], expected: Option<i64>) {
        assert_eq!(number(field).ok(), expected, "{}", field.escape_ascii());
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        numbers(b"0000644\0", Some(0o644));
        numbers(b"   644 \0", Some(0o644));
        numbers(b"\0\0\0\0\0\0\0\0", Some(0));
        numbers(b"        ", Some(0));
        numbers(b"77777777", Some(0o7777_7777));
        numbers(b"0000648\0", None);
        numbers(b"644\0 7\0\0", None);
        numbers(b"-1\0\0\0\0\0\0", None);
        numbers(b"\x80\0\0\0\0\0\0\x01", Some(1));
        numbers(b"\x80\0\0\0\x01\0\0\0\0\0\0\0", Some(1 << 56));
        numbers(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1));
        numbers(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None);
        numbers(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX));
        numbers(b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None);
    }

    #[test]
    fn a_block_of_large_bytes_has_its_sum() {
        assert_eq!(sum_of(&[0xff; RECORD]), 255 * RECORD as i64);
        let mut block = [0; RECORD];
        block.iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
        assert_eq!(sum_of(&block), 2 * (0..256).sum::<i64>());
    }

    #[track_caller]
    fn paths(name: &str, expected: Option<&str>) {
        assert_eq!(path(name.as_bytes()).ok().map(|path| path.to_string()).as_deref(), expected, "{name}");
    }

    #[test]
    fn paths_stay_below_the_root() {
        paths("a/b", Some("a/b"));
        paths("./a//b/./", Some("a/b"));
        paths("./", Some(""));
        paths("/a", None);
        paths("a/../b", None);
        paths("..", None);
        paths("a/..", None);
        paths("..a/b..", Some("..a/b.."));
        paths("", None);
        paths("a\0b", None);
    }
}
