//! Written layers are read back unchanged and have one form; invalid items are rejected.

use super::*;
use crate::layer::{Codec, Entry, EntryKind, Limits, Reader};
use proptest::prelude::*;
use std::io::Seek as _;
use std::sync::Arc;
use xtask_model::image::policy::Compression;
use xtask_model::spec::reference::Digest;

fn item(path: impl AsRef<[u8]>, content: Content) -> Item {
    Item { path: ContextPath::new(path.as_ref()), mode: 0o644, uid: 0, gid: 0, content }
}

fn file(path: impl AsRef<[u8]>, bytes: &[u8]) -> Item {
    item(path, Content::File(Bytes::Here(Arc::from(bytes))))
}

fn layer(items: &[Item], codec: Codec, threads: usize) -> (Written, Vec<u8>) {
    let mut bytes = Vec::new();
    let written = write(items, codec, threads, &mut bytes).unwrap();
    (written, bytes)
}

fn read_back(written: &Written, bytes: &[u8]) -> Vec<(Entry, Vec<u8>)> {
    let mut reader = Reader::open(bytes, Some(&written.diff_id), Limits::default()).unwrap();
    let mut all = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        let contents = reader.bytes(u64::MAX).unwrap().unwrap();
        all.push((entry, contents));
    }
    all
}

fn codecs() -> [Codec; 2] {
    [Codec::new(Compression::Gzip), Codec::new(Compression::Zstd)]
}

/// Letters that compress, and noise that does not; a quarter of a block of both, again and again.
fn contents(size: usize, seed: u32) -> Vec<u8> {
    let once = noise(size.min(compress::BLOCK / 4 + 11), seed);
    once.iter().copied().cycle().take(size).collect()
}

fn noise(size: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..size).map(|at| if at / 5000 % 2 == 0 { b'a' + (next() % 7) as u8 } else { next() as u8 }).collect()
}

#[track_caller]
fn survives(items: &[Item]) {
    for codec in codecs() {
        let (written, bytes) = layer(items, codec, 2);
        assert_eq!((written.descriptor.size, written.descriptor.digest), (bytes.len() as u64, Digest::of(&bytes)));
        let read = read_back(&written, &bytes);
        assert_eq!(read.len(), items.len());
        for (item, (entry, contents)) in items.iter().zip(read) {
            assert_eq!((&entry.path, entry.uid, entry.gid), (&item.path, item.uid, item.gid));
            assert_eq!(entry.time, i64::try_from(super::super::TIME).unwrap());
            let kind = match &item.content {
                Content::Dir => EntryKind::Dir,
                Content::Symlink(target) => EntryKind::Symlink(target.clone()),
                Content::File(bytes) => EntryKind::File(bytes.size()),
            };
            assert_eq!(entry.kind, kind);
            if !matches!(kind, EntryKind::Symlink(_)) {
                assert_eq!(entry.mode, item.mode);
            }
            if let Content::File(Bytes::Here(bytes)) = &item.content {
                assert!(contents == **bytes, "{}", item.path);
            }
        }
    }
}

#[test]
fn written_layers_are_read_back_unchanged() {
    survives(&[]);
    survives(&[file("a", b""), file("b", b"x"), file("c", &[0; 512]), file("d", &[1; 513])]);
    survives(&[item("a", Content::Dir), item("a/l", Content::Symlink(b"../x".to_vec())), file("a/z", b"1")]);
    let big = contents(3 * compress::BLOCK + 77, 5);
    survives(&[file("big", &big), file("small", b"after")]);
    survives(&[file("noise", &contents(compress::BLOCK - 1536, 9))]);
    survives(&[file("noise", &contents(compress::BLOCK - 1535, 9))]);
}

#[test]
fn odd_names_owners_and_modes_are_kept() {
    let long = |byte: &str, count: usize| byte.repeat(count);
    for name in [
        b"new\nline".to_vec(),
        b"not \xff utf-8".to_vec(),
        long("x", 100).into_bytes(),
        long("x", 300).into_bytes(),
        format!("{}/{}", long("d", 150), long("f", 100)).into_bytes(),
        format!("{}/{}", long("d", 200), long("f", 200)).into_bytes(),
        [b"\xfe".repeat(120), b"/\n".to_vec()].concat(),
        "ünï/cödé".into(),
    ] {
        let folder = Item { mode: 0o1777, ..item(&name, Content::Dir) };
        let below = [&name[..], b"/", &name].concat();
        let owned = Item { uid: u32::MAX, gid: 3_000_000, mode: 0o6755, ..file(&below, b"contents") };
        let link = item([&name[..], b"\xff"].concat(), Content::Symlink(name.repeat(3)));
        survives(&[folder, owned, link]);
    }
}

#[test]
fn the_bytes_never_change() {
    // Another digest here means that every layer of every image is built and pushed again.
    let items = [item("a", Content::Dir), file("a/b", &contents(70_000, 3)), file("x".repeat(120), b"long")];
    let (gzip, _) = layer(&items, Codec::new(Compression::Gzip), 1);
    let (zstd, _) = layer(&items, Codec::new(Compression::Zstd), 1);
    assert_eq!(gzip.diff_id, zstd.diff_id);
    let shown = format!("{}\n{}\n{}\n", gzip.diff_id, gzip.descriptor.digest, zstd.descriptor.digest);
    expect_test::expect![[r#"
        sha256:b15912d1b97179b13a107681ec7cf04cee09959ae5ae77fd7bc2e557a95ad04a
        sha256:0408b56555802b2985da511fdb64932f620cd6f979b4d8f1ed76d976f63ccb97
        sha256:604263dfbc25f61d14eccf0c810fc73ee01706b873b056efb5b369ca2ee967a7
    "#]]
    .assert_eq(&shown);
}

#[track_caller]
fn refused(items: &[Item], why: &str) {
    let mut bytes = Vec::new();
    let fault = write(items, Codec::new(Compression::Gzip), 2, &mut bytes).unwrap_err().to_string();
    assert!(fault.contains(why), "{fault}");
    assert_eq!(bytes.len(), 0);
}

#[test]
fn invalid_items_are_rejected() {
    refused(&[file("b", b""), file("a", b"")], "must be sorted");
    refused(&[file("a", b""), file("a", b"")], "twice");
    for path in ["", "/a", "a/", "a//b", "../a", "a/..", "a/./b", "a\0b"] {
        refused(&[file(path, b"")], "not a valid path below the image's root");
    }
    refused(&[file("a/.wh.b", b"")], "is a whiteout");
    refused(&[item("a/.wh..wh..opq/b", Content::Dir)], "is a whiteout");
    refused(&[file("a", b""), file("a-b", b""), file("a/b", b"")], "`a` is not a folder");
    refused(&[item("a", Content::Symlink(b"/".to_vec())), file("a/b/c", b"")], "`a` is not a folder");
    refused(&[item("a", Content::Symlink(Vec::new()))], "target is empty");
}

#[track_caller]
fn on_disk(change: impl FnOnce(&std::path::Path), size: u64, why: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, b"12345").unwrap();
    change(&path);
    let item = item("a", Content::File(Bytes::At { file: path.clone(), size }));
    let fault = write(&[item], Codec::new(Compression::Gzip), 1, std::io::sink()).unwrap_err().to_string();
    assert!(fault.contains(why) && fault.contains(&path.display().to_string()), "{fault}");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    on_disk(|_| {}, 4, "changed while it was read\n  cause: it had 4 bytes, but is longer now");
    on_disk(|_| {}, 6, "changed while it was read\n  cause: it had 6 bytes, but ended after 5");
    on_disk(|path| std::fs::remove_file(path).unwrap(), 5, "cannot read");
    let link = |path: &std::path::Path| {
        std::fs::rename(path, path.with_extension("away")).unwrap();
        std::os::unix::fs::symlink(path.with_extension("away"), path).unwrap();
    };
    on_disk(link, 5, "changed while it was read\n  cause: it was replaced by a link");
    let pipe = |path: &std::path::Path| {
        std::fs::remove_file(path).unwrap();
        xtask_host::process::Command::new("mkfifo").arg(path).read(xtask_model::fault::Exit::Build).unwrap();
    };
    on_disk(pipe, 5, "changed while it was read\n  cause: it was replaced by something that is not a file");
}

#[test]
fn files_of_more_than_eight_gibibytes_have_an_extended_header() {
    let mut out = Vec::new();
    let header = Header { path: b"big", flag: flag::FILE, mode: 0o644, uid: 0, gid: 0, size: 9 << 30, link: b"" };
    header::encode(&header, &mut out);
    // As far as the header goes: what follows is missing.
    let mut reader = Reader::open(&*out, None, Limits::default()).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().kind, EntryKind::File(9 << 30));
    assert!(reader.next().unwrap_err().to_string().contains("is truncated in the middle of a file"));
}

#[test]
fn a_sink_that_fails_is_a_fault() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let items = [file("a", &contents(6 * compress::BLOCK, 1))];
    for (room, threads) in [(5, 1), (1000, 2), (2 << 20, 2), (2 << 20, 1)] {
        let fault = write(&items, Codec::new(Compression::Gzip), threads, Full(room)).unwrap_err().to_string();
        assert!(fault.starts_with("cannot write a layer\n  cause: "), "{fault}");
    }
}

#[test]
fn a_file_of_this_machine_is_streamed() {
    let mut on_disk = tempfile::NamedTempFile::new().unwrap();
    let bytes = contents(5 * compress::BLOCK / 2, 7);
    on_disk.write_all(&bytes).unwrap();
    on_disk.rewind().unwrap();
    let at = Bytes::At { file: on_disk.path().to_owned(), size: bytes.len() as u64 };
    let (there, _) = layer(&[item("a", Content::File(at))], Codec::new(Compression::Gzip), 3);
    let (here, _) = layer(&[file("a", &bytes)], Codec::new(Compression::Gzip), 1);
    assert_eq!(there, here);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn the_number_of_threads_does_not_affect_the_bytes(sizes in prop::collection::vec(0_usize..1_500_000, 1..4), seed: u32) {
        let mut items = vec![item("d", Content::Dir)];
        for (number, size) in sizes.iter().enumerate() {
            items.push(file(format!("d/{number}"), &contents(*size, seed ^ number as u32)));
        }
        for codec in [Codec::new(Compression::Gzip), Codec::new(Compression::Zstd)] {
            let one = layer(&items, codec, 1);
            for threads in [0, 2, 5] {
                prop_assert!(one == layer(&items, codec, threads), "{threads} threads, {codec:?}");
            }
        }
    }
}
