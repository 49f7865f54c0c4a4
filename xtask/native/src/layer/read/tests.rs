//! Layers that somebody made to do harm, or made badly, and layers that others make well.

use super::*;
use crate::layer::test_data::{END, entry};
use std::io::Write as _;

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(plain, ruzstd::encoding::CompressionLevel::Fastest)
}

fn all(bytes: &[u8], expected: Option<&Digest>, limits: Limits) -> Result<Vec<String>, Fault> {
    let mut reader = Reader::open(bytes, expected, limits)?;
    let mut names = Vec::new();
    while let Some(entry) = reader.next()? {
        names.push(entry.path.to_string());
    }
    assert_eq!(reader.next(), Ok(None));
    Ok(names)
}

#[track_caller]
fn reads(bytes: &[u8], names: &[&str]) {
    assert_eq!(all(bytes, None, Limits::default()).unwrap(), names);
}

#[track_caller]
fn fails(bytes: &[u8], why: &str) {
    fails_within(bytes, None, Limits::default(), why);
}

#[track_caller]
fn fails_within(bytes: &[u8], expected: Option<&Digest>, limits: Limits, why: &str) {
    let fault = all(bytes, expected, limits).unwrap_err().to_string();
    assert!(fault.starts_with("cannot read ") && fault.contains(why), "{fault}");
}

#[test]
fn the_first_bytes_identify_the_compression() {
    let tar = [entry(b"a", b'0', b"", b"1"), entry(b"b", b'0', b"", &[7; 3000]), END.to_vec()].concat();
    let (one, two) = tar.split_at(700);
    let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
    for bytes in [
        tar.clone(),
        gzip(&tar),
        [gzip(one), gzip(two)].concat(),
        [gzip(&[]), gzip(one), gzip(&[]), gzip(two)].concat(),
        zstd(&tar),
        [zstd(one), zstd(two)].concat(),
        [skippable.clone(), zstd(one), skippable.clone(), zstd(two), skippable].concat(),
    ] {
        reads(&bytes, &["a", "b"]);
    }
}

#[test]
fn the_digest_shows_whether_a_layer_is_complete() {
    let tar = [entry(b"a", b'0', b"", b"1"), END.to_vec(), vec![0; 9000]].concat();
    let digest = Digest::of(&tar);
    let limits = Limits::default();
    for bytes in [tar.clone(), gzip(&tar), zstd(&tar)] {
        assert_eq!(all(&bytes, Some(&digest), limits).unwrap(), ["a"]);
        fails_within(&bytes, Some(&Digest::of(b"")), limits, &format!("its digest is `{digest}`"));
    }
    let more = [&tar[..], b"x"].concat();
    fails_within(&more, Some(&digest), limits, "its digest is");
    let without_end = entry(b"a", b'0', b"", b"1");
    fails(&without_end, "it has no end mark");
    assert_eq!(all(&without_end, Some(&Digest::of(&without_end)), limits).unwrap(), ["a"]);
}

#[test]
fn a_layer_truncated_anywhere_is_an_error() {
    let tar = [entry(b"a", b'0', b"", &[1; 700]), entry(&[b'x'; 200], b'0', b"", b"1"), END.to_vec()].concat();
    let shortest = tar.len() - END.len();
    for at in 0..tar.len() {
        assert_eq!(all(&tar[..at], None, Limits::default()).is_ok(), at >= shortest + RECORD, "{at}");
    }
    for packed in [gzip(&tar), zstd(&tar)] {
        for at in 0..packed.len() {
            assert!(all(&packed[..at], None, Limits::default()).is_err(), "{at}");
        }
    }
}

#[test]
fn paths_that_leave_the_root_are_rejected() {
    let with = |path: &[u8], flag: u8, link: &[u8]| [entry(path, flag, link, b""), END.to_vec()].concat();
    fails(&with(b"../a", b'0', b""), "path `../a` leads out of the folder");
    fails(&with(b"a/../../b", b'0', b""), "leads out");
    fails(&with(b"/etc/passwd", b'0', b""), "is absolute");
    fails(&with(&[b"/", &[b'x'; 200][..]].concat(), b'0', b""), "is absolute");
    fails(&with(b"a", b'1', b"/etc/passwd"), "hard link `a`: path `/etc/passwd` is absolute");
    fails(&with(b"a", b'1', b"../b"), "hard link `a`: path `../b` leads out");
    fails(&with(b"a", b'1', b"a"), "refers to itself");
    fails(&with(b"a", b'1', b"./"), "refers to itself or to the root");
    fails(&with(b"./", b'2', b"x"), "the root is not a folder");
    fails(&with(b"a", b'2', b""), "has no target");
    reads(&with(b"a", b'2', b"/etc/passwd"), &["a"]);
}

#[test]
fn unsupported_entries_are_rejected() {
    fails(&[entry(b"a", b'S', b"", b""), END.to_vec()].concat(), "sparse");
    fails(&[entry(b"a", b'M', b"", b""), END.to_vec()].concat(), "the type `M`, which layers do not support");
    fails(&[entry(b"h", b'x', b"", b"22 GNU.sparse.major=1\n"), END.to_vec()].concat(), "sparse");
    fails(&[entry(b"h", b'g', b"", b"9 path=a\n"), END.to_vec()].concat(), "a global header sets `path`");
    fails(&[entry(b"h", b'x', b"", b"9 path=a\n"), END.to_vec()].concat(), "ends after an extended header");
    fails(&[entry(b"h", b'x', b"", b"19 path=a\n"), END.to_vec()].concat(), "malformed");
    fails(b"<html>this is not a layer</html>", "is truncated in the middle of a header");
    fails(&[b'x'; 600], "not an octal number");
    fails(b"", "it is empty");
    reads(&END, &[]);
}

#[test]
fn oversized_data_is_rejected_before_it_is_stored() {
    let small = Limits { bytes: 1 << 20, entries: 10, path: 100, header: 1000, window: 1 << 20 };
    let bomb = [entry(b"a", b'0', b"", &vec![0; 2 << 20]), END.to_vec()].concat();
    for bytes in [bomb.clone(), gzip(&bomb), zstd(&bomb)] {
        fails_within(&bytes, None, small, "it unpacks to more than 1.0 MB");
    }
    let many = [entry(b"a", b'0', b"", b"").repeat(11), END.to_vec()].concat();
    fails_within(&many, None, small, "more than 10 entries");
    let headers = [entry(b"a", b'x', b"", b"6 x=y\n").repeat(11), END.to_vec()].concat();
    fails_within(&headers, None, small, "more than 10 entries");
    fails_within(&[entry(&[b'x'; 101], b'0', b"", b""), END.to_vec()].concat(), None, small, "longer than 100 bytes");
    fails_within(&[entry(b"h", b'x', b"", &[b' '; 1001]), END.to_vec()].concat(), None, small, "has 1001 bytes");
    let mut lying = entry(b"h", b'L', b"", b"");
    lying[124..136].copy_from_slice(b"77777777777\0");
    resum(&mut lying);
    fails_within(&lying, None, small, "an extended header has 8589934591 bytes");
    let mut lying = entry(b"h", b'0', b"", b"");
    lying[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    resum(&mut lying);
    fails(&[lying, END.to_vec()].concat(), "is truncated in the middle of a file");
    // A frame that asks to look back 2 GiB.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0, 0xa8, 1, 0, 0];
    fails(&window, "cannot read a layer");
}

fn resum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header[..RECORD].iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[test]
fn gnu_names_and_old_headers_are_read() {
    let long = vec![b'n'; 300];
    let mut old = entry(b"folder/", b'\0', b"", b"");
    old[257..512].fill(0);
    resum(&mut old);
    let bytes = [
        entry(b"././@LongLink", b'L', b"", &[&long[..], b"\0"].concat()),
        entry(&long[..100], b'0', b"", b"x"),
        entry(b"././@LongLink", b'K', b"", &[&long[..], b"\0"].concat()),
        entry(b"link", b'2', &long[..100], b""),
        old,
        END.to_vec(),
    ]
    .concat();
    let mut reader = Reader::open(&*bytes, None, Limits::default()).unwrap();
    let file = reader.next().unwrap().unwrap();
    assert_eq!((file.path.as_bytes(), file.uid, file.gid), (&long[..], 1, 2));
    assert_eq!(reader.bytes(10).unwrap().unwrap(), b"x");
    assert_eq!(reader.next().unwrap().unwrap().kind, EntryKind::Symlink(long));
    let folder = reader.next().unwrap().unwrap();
    assert_eq!((folder.path.to_string(), folder.kind), ("folder".to_owned(), EntryKind::Dir));
    assert_eq!(reader.next().unwrap(), None);
}

/// A mark that would take away something else than a name of its own folder breaks the layer, however its path is written.
#[test]
fn a_whiteout_never_leaves_its_folder() {
    let long = vec!["long"; 40].join("/");
    let pax = |path: &str| {
        let text = format!(" path={path}\n");
        let length = (0..).find(|length: &usize| length.to_string().len() + text.len() == *length).unwrap();
        format!("{length}{text}").into_bytes()
    };
    let spellings = |path: &str| {
        [
            entry(path.as_bytes(), b'0', b"", b""),
            entry(path.as_bytes(), b'5', b"", b""),
            entry(path.as_bytes(), b'2', b"x", b""),
            [entry(b"h", b'x', b"", &pax(path)), entry(b"harmless", b'0', b"", b"")].concat(),
            [entry(b"h", b'L', b"", path.as_bytes()), entry(b"harmless", b'0', b"", b"")].concat(),
        ]
    };
    for folder in ["", "a/", "./", "a//b/", &format!("{long}/")] {
        for name in [".wh.", ".wh..", ".wh..."] {
            for bytes in spellings(&format!("{folder}{name}")) {
                fails(&[bytes, END.to_vec()].concat(), "is a whiteout of the invalid name");
            }
        }
        for name in [".wh.a/b", ".wh.../b", ".wh./b", ".wh.a/.wh.b"] {
            for bytes in spellings(&format!("{folder}{name}")) {
                fails(&[bytes, END.to_vec()].concat(), "is below a whiteout");
            }
        }
        for name in [".wh....", ".wh..a", ".wh...a", ".wh.a..", ".wh..wh..opq", ".wh..wh.plnk", ".wh..wh.plnk/1.2"] {
            for bytes in spellings(&format!("{folder}{name}")) {
                all(&[bytes, END.to_vec()].concat(), None, Limits::default()).unwrap();
            }
        }
    }
}

#[test]
fn whiteouts_are_distinguished_from_files() {
    let whiteout = |path: &str| {
        let bytes = [entry(path.as_bytes(), b'0', b"", b""), END.to_vec()].concat();
        Reader::open(&*bytes, None, Limits::default()).unwrap().next().unwrap().unwrap().whiteout()
    };
    assert_eq!(whiteout("a/b"), None);
    assert_eq!(whiteout("a/.whx"), None);
    assert_eq!(whiteout("a/.wh.b"), Some(Whiteout::Path(ContextPath::new("a/b"))));
    assert_eq!(whiteout(".wh.b"), Some(Whiteout::Path(ContextPath::new("b"))));
    assert_eq!(whiteout("a/.wh..wh..opq"), Some(Whiteout::Below(ContextPath::new("a"))));
    assert_eq!(whiteout(".wh..wh..opq"), Some(Whiteout::Below(ContextPath::default())));
    assert_eq!(whiteout("a/.wh..wh.plnk"), Some(Whiteout::Nothing));
    assert_eq!(whiteout("a/.wh..wh.plnk/1.2"), Some(Whiteout::Nothing));
    assert_eq!(whiteout("a/.wh..a"), Some(Whiteout::Path(ContextPath::new("a/.a"))));
}
