//! Every shape of archive is read; what is ambiguous, unsafe or false is rejected.

use super::test_data::{Made, archive, made};
use super::*;
use crate::layer::Codec;
use crate::layer::item::{Bytes, Content, Item};
use crate::layer::{Limits, Reader, write};
use proptest::prelude::*;
use std::path::PathBuf;
use xtask_model::image::context::ContextPath;
use xtask_model::image::policy::Compression;
use xtask_model::spec::reference::Digest;

fn written(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a-1-py3-none-any.whl");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// Reads all files of an archive.
fn contents(bytes: &[u8]) -> Result<Vec<File>, Fault> {
    let (_folder, path) = written(bytes);
    let wheel = Wheel::open(&path, "a")?;
    let files = wheel.entries().iter().filter(|entry| !entry.folder);
    files.map(|entry| Ok((entry.name.clone(), wheel.read(entry)?))).collect()
}

#[track_caller]
fn rejects(files: &[Made], why: &str) {
    let fault = contents(&archive(files)).unwrap_err();
    assert!(fault.causes.iter().any(|cause| cause.contains(why)), "{fault}");
}

#[test]
fn every_shape_of_file_is_read() {
    let long = b"0123456789".repeat(100_000);
    let files = [
        Made { stored: true, ..made("stored.txt", "stored") },
        Made { descriptor: true, ..made("described.txt", &long) },
        Made { zip64: true, ..made("long.txt", &long) },
        Made { mode: 0o100_755, ..made("bin/run", "#!/bin/sh\n") },
        Made { mode: 0, ..made("no-mode", "") },
        Made { stored: true, mode: 0o040_755, ..made("folder/", "") },
        made("ünïcode/é.txt", "x"),
    ];
    let found = contents(&archive(&files)).unwrap();
    for file in files.iter().filter(|file| !file.name.ends_with('/')) {
        assert!(found.contains(&(file.name.clone(), file.bytes.clone())), "{}", file.name);
    }
    let (_folder, path) = written(&archive(&files));
    let wheel = Wheel::open(&path, "a").unwrap();
    assert!(wheel.get("bin/run").unwrap().executable && !wheel.get("no-mode").unwrap().executable);
    assert!(wheel.get("folder").unwrap().folder);
    assert_eq!(wheel.get("gone"), None);
    // A comment of the archive is allowed.
    let mut commented = archive(&files);
    let at = commented.len() - 2;
    commented.splice(at.., [3, 0, b'a', b'b', b'c']);
    assert!(contents(&commented).is_ok());
}

#[test]
fn unsafe_names_are_rejected() {
    for name in ["../a", "/etc/passwd", "a/../../b", "a//b", "./a", "a\\b", "C:\\a", "a\0b", "a\nb", "", ".."] {
        rejects(&[made(name, "x")], "is not a safe path");
    }
    rejects(&[made("a", "1"), made("a", "2")], "it has `a` twice");
    rejects(&[made("a/b.py", "1"), made("a/B.py", "2")], "`a/B.py` and `a/b.py` differ only by case");
    rejects(&[made("a", "1"), made("a/b", "2")], "`a` is a file, and `a/b` is below it");
    rejects(&[Made { mode: 0o120_777, ..made("link", "/etc") }], "`link` is a symbolic link");
    rejects(&[Made { mode: 0o020_644, ..made("device", "") }], "`device` is neither a file nor a folder");
}

#[test]
fn records_that_differ_from_the_files_are_rejected() {
    let long = b"a".repeat(2000);
    rejects(&[Made { size: Some(1999), ..made("a", &long) }], "longer than the 1999 bytes");
    rejects(&[Made { size: Some(2001), ..made("a", &long) }], "has 2000 bytes, and the archive states 2001");
    rejects(&[Made { crc: Some(1), ..made("a", &long) }], "the checksum of a file differs");
    rejects(&[Made { crc: Some(1), stored: true, ..made("a", &long) }], "the checksum of a file differs");
    rejects(&[Made { size: Some(3), stored: true, ..made("a", "1234") }], "states 3 bytes in 4 packed ones");
    rejects(&[Made { size: Some(1 << 30), ..made("a", &long) }], "states 1073741824 bytes in");
    rejects(&[Made { local_name: Some("b".to_owned()), ..made("a", "") }], "the two records of `a` differ");
    rejects(&[Made { flags: 1, ..made("a", "") }], "`a` is encrypted");
    let same = Made { bytes_of: Some(0), ..made("a", "1") };
    rejects(&[made("a", "1"), Made { name: "b".to_owned(), ..same }], "shares bytes with another file");
}

#[test]
fn bytes_of_no_file_are_rejected() {
    rejects(
        &[made("a", "1"), Made { hidden: true, ..made("evil.py", "2") }, made("b", "3")],
        "bytes of no file follow `a`",
    );
    rejects(&[Made { hidden: true, ..made("evil.py", "2") }, made("a", "1")], "it begins with 40 bytes of no file");
    rejects(&[made("a", "1"), Made { hidden: true, ..made("evil.py", "2") }], "bytes of no file follow `a`");
    rejects(&[Made { behind: vec![0], ..made("a", "1") }], "1 bytes of no file follow `a`");
    // The numbers behind a file are its own, in each of the four forms.
    let described = |behind: &[u8]| {
        let file = Made { flags: 8, stored: true, behind: behind.to_vec(), ..made("a", "1") };
        contents(&archive(&[file, made("b", "2")])).map(|files| files.len())
    };
    let crc = 0x83dc_efb7_u32.to_le_bytes();
    let (short, long) = ([1, 0, 0, 0].repeat(2), [1, 0, 0, 0, 0, 0, 0, 0].repeat(2));
    for signature in [&b""[..], b"PK\x07\x08"] {
        for numbers in [&short, &long] {
            assert_eq!(described(&[signature, &crc, numbers].concat()), Ok(2));
            assert!(described(&[signature, b"1234", numbers].concat()).is_err());
        }
    }
    for other in [&b""[..], b"12345678", &[&crc[..], &short, b"more"].concat()] {
        assert!(described(other).is_err(), "{other:?}");
    }
}

#[test]
fn a_name_is_the_same_for_every_reader() {
    let second = |name: &[u8]| [b"up", &(name.len() as u16 + 5).to_le_bytes()[..], b"\x01\0\0\0\0", name].concat();
    rejects(&[Made { extra: second(b"b.py"), ..made("a.py", "1") }], "`a.py` has the second name `b.py`");
    rejects(&[Made { extra: second(b""), ..made("a.py", "1") }], "`a.py` has the second name ``");
    rejects(&[Made { unmarked: true, ..made("é.py", "1") }], "the name `é.py` is not marked as UTF-8");
    for file in [
        made("é.py", "1"),
        Made { extra: second(b"a.py"), ..made("a.py", "1") },
        Made { extra: second("é.py".as_bytes()), unmarked: true, ..made("é.py", "1") },
    ] {
        assert!(contents(&archive(&[file])).is_ok());
    }
}

#[test]
fn a_long_end_record_without_need_is_read() {
    let short = archive(&[made("a", "1"), made("b", "2")]);
    let at = short.len() - 22;
    let (directory, size, count) = (&short[at + 16..at + 20], &short[at + 12..at + 16], &short[at + 8..at + 10]);
    let wide = |bytes: &[u8]| [bytes, &vec![0; 8 - bytes.len()]].concat();
    let long = |count: &[u8], directory: &[u8], length: u8, behind: &[u8]| {
        let (count, numbers) = (wide(count), [wide(size), wide(directory)].concat());
        let record = [b"PK\x06\x06", &*wide(&[length]), &[0; 12], &count, &count, &numbers, behind].concat();
        let locator = [b"PK\x06\x07\0\0\0\0", &*wide(&(at as u32).to_le_bytes()), b"\x01\0\0\0"].concat();
        contents(&[&short[..at], &record, &locator, &short[at..]].concat()).map_err(|fault| fault.causes[0].clone())
    };
    assert_eq!(long(count, directory, 44, b"").unwrap().len(), 2);
    assert_eq!(long(&[1], directory, 44, b"").unwrap_err(), "its two end records differ");
    assert_eq!(long(count, &[9], 44, b"").unwrap_err(), "its two end records differ");
    assert_eq!(long(count, directory, 48, b"more").unwrap_err(), "its ZIP64 records are invalid");
}

#[test]
fn an_archive_that_unpacks_to_far_too_much_is_rejected() {
    let zeros = vec![0; 4 << 20];
    let files: Vec<Made> = (0..300).map(|number| made(&format!("{number}"), &zeros)).collect();
    rejects(&files, "unpack to 1258291200");
}

#[test]
fn a_damaged_archive_is_rejected() {
    let good = archive(&[made("a.py", "x = 1\n"), made("b.py", "y = 2\n".repeat(100))]);
    assert!(contents(&good).is_ok());
    for length in 0..good.len() {
        assert!(contents(&good[..length]).is_err(), "cut off after {length} bytes");
    }
    let prefixed = [b"#!/bin/sh\n", &*good].concat();
    assert!(contents(&prefixed).unwrap_err().causes[0].contains("its directory is not where it states"));
    assert!(contents(b"not a zip archive at all").is_err());
}

/// Path and contents.
type File = (String, Vec<u8>);

/// A layer of these files, and what it has in the end.
fn layer(wheel: &Wheel, compression: Compression, threads: usize) -> (Vec<u8>, Digest, Vec<File>) {
    let files = wheel.entries().iter().filter(|entry| !entry.folder);
    let mut items: Vec<Item> = files
        .map(|entry| {
            let content = Content::File(Bytes::Packed(wheel.packed(entry)));
            Item { path: ContextPath::new(entry.name.as_bytes()), mode: 0o644, uid: 0, gid: 0, content }
        })
        .collect();
    items.sort_by(|one, two| one.path.cmp(&two.path));
    let mut bytes = Vec::new();
    let written = write(&items, Codec::new(compression), threads, &mut bytes).unwrap();
    assert_eq!(written.descriptor.digest, Digest::of(&bytes));
    let mut reader = Reader::open(&*bytes, Some(&written.diff_id), Limits::default()).unwrap();
    let mut found = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        found.push((entry.path.to_string(), reader.bytes(u64::MAX).unwrap().unwrap()));
    }
    drop(reader);
    (bytes, written.diff_id, found)
}

fn noise(size: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..size).map(|at| if at / 700 % 3 == 0 { next() } else { b'a' + next() % 9 }).collect()
}

#[test]
fn a_layer_has_the_wheels_own_compressed_bytes() {
    // Small files, one of several pieces, and one that is too long to be held in memory.
    let sizes = [0, 1, 511, 5_000, 70_000, 2 << 20, (5 << 20) + 3, 0, 200_000];
    let files: Vec<Made> = (0_u32..)
        .zip(sizes)
        .map(|(number, size)| Made { stored: number == 8, ..made(&format!("f{number}"), noise(size, number)) })
        .collect();
    let (_folder, path) = written(&archive(&files));
    let wheel = Wheel::open(&path, "a").unwrap();
    let expected: Vec<_> = files.iter().map(|file| (file.name.clone(), file.bytes.clone())).collect();
    let (bytes, diff_id, found) = layer(&wheel, Compression::Gzip, 1);
    assert_eq!(found, expected);
    let own = wheel.get("f6").unwrap();
    let packed = &std::fs::read(&path).unwrap()[own.at as usize..][..own.packed as usize];
    assert!(bytes.windows(packed.len()).any(|window| window == packed));
    for threads in [2, 3, 8] {
        assert!(layer(&wheel, Compression::Gzip, threads).0 == bytes, "the same bytes with {threads} threads");
    }
    let (_, of_zstd, found) = layer(&wheel, Compression::Zstd, 2);
    assert_eq!((of_zstd, found), (diff_id, expected));
}

#[test]
fn a_wheel_that_changes_while_it_is_read_fails_the_layer() {
    let text = noise(10_000, 1);
    for size in [10_000, 3 << 20] {
        let (_folder, path) = written(&archive(&[made("a", noise(size, 1)), made("b", &text)]));
        let wheel = Wheel::open(&path, "a").unwrap();
        let items = [Item {
            path: ContextPath::new("a"),
            mode: 0o644,
            uid: 0,
            gid: 0,
            content: Content::File(Bytes::Packed(wheel.packed(wheel.get("a").unwrap()))),
        }];
        let mut bytes = std::fs::read(&path).unwrap();
        let at = wheel.get("a").unwrap().at as usize + 3000;
        bytes[at] ^= 0x55;
        std::fs::write(&path, bytes).unwrap();
        for threads in [1, 2] {
            let fault = write(&items, Codec::new(Compression::Gzip), threads, Vec::new()).unwrap_err();
            assert!(fault.what.contains("is damaged at byte"), "{fault}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_end_in_entries_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..400, value: u8) {
        let _ = zip::entries(&bytes[..], bytes.len() as u64);
        let mut near = archive(&[made("a", "1"), Made { zip64: true, ..made("b/c", "22") }]);
        if let Some(byte) = near.get_mut(at) {
            *byte = value;
        }
        if let Ok(entries) = zip::entries(&near[..], near.len() as u64) {
            prop_assert!(entries.iter().all(|entry| entry.at + entry.packed <= near.len() as u64));
        }
    }
}
