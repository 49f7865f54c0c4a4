//! Stored values are found again whole, or not at all; the oldest are removed first.

use super::*;
use crate::layer::item::{Bytes, Content, Item};
use crate::layer::{Codec, Limits, Reader, toc, write};
use std::sync::Arc;
use std::time::Duration;
use xtask_model::image::context::ContextPath;
use xtask_model::image::policy::Compression;

const LIMIT: u64 = 1 << 30;

fn store(limit: u64) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("a/störe"), limit).unwrap();
    (folder, store)
}

fn again(store: &Store, limit: u64) -> Store {
    Store::open(store.layout.folder(), limit).unwrap()
}

fn recipe(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn put(store: &Store, name: &str, contents: &[u8]) -> StoredLayer {
    let content = Content::File(Bytes::Here(Arc::from(contents)));
    let item = Item { path: ContextPath::new("file"), mode: 0o644, uid: 0, gid: 0, content };
    store.put(&recipe(name), |sink| write(&[item], Codec::new(Compression::Gzip), 1, sink)).unwrap()
}

/// Bytes that do not compress.
fn noise(size: usize, seed: u8) -> Vec<u8> {
    let blocks = (0..size.div_ceil(32)).map(|number| Digest::of(&[&number.to_le_bytes()[..], &[seed]].concat()).hex());
    let bytes: Vec<u8> = blocks.flat_map(|hex| hex.into_bytes()).collect();
    bytes.chunks(2).take(size).map(|pair| pair[0] ^ pair[1].rotate_left(4)).collect()
}

#[test]
fn a_layer_is_found_by_its_recipe() {
    let (_folder, store) = store(LIMIT);
    assert_eq!(store.get(&recipe("a")).unwrap(), None);
    let layer = put(&store, "a", b"contents");
    assert_eq!(store.get(&recipe("a")).unwrap().as_ref(), Some(&layer));
    assert_eq!(again(&store, LIMIT).get(&recipe("a")).unwrap().as_ref(), Some(&layer));
    let file = store.open_layer(&layer).unwrap().unwrap();
    let mut reader = Reader::open(file, Some(&layer.diff_id), Limits::default()).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().path.to_string(), "file");
    assert_eq!(reader.bytes(100).unwrap().unwrap(), b"contents");
    assert_eq!(reader.next().unwrap(), None);
}

#[test]
fn a_failed_layer_leaves_nothing() {
    let (_folder, store) = store(LIMIT);
    let fail = |sink: &mut PartialBlob<'_>| {
        sink.write_all(b"half").unwrap();
        Err(Fault::build("cannot make it"))
    };
    assert_eq!(store.put(&recipe("a"), fail).unwrap_err().what, "cannot make it");
    assert_eq!(store.get(&recipe("a")).unwrap(), None);
    let left = fs::read_dir(store.layout.folder().join("blobs/sha256")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn damaged_entries_count_as_missing() {
    let (_folder, store) = store(LIMIT);
    let layer = put(&store, "a", b"contents");
    let mut bytes = fs::read(&layer.path).unwrap();
    bytes[20] ^= 1;
    fs::write(&layer.path, &bytes).unwrap();
    assert!(store.open_layer(&layer).unwrap().is_none());
    assert!(!layer.path.exists());
    assert_eq!(store.get(&recipe("a")).unwrap(), None);
    let layer = put(&store, "a", b"contents");
    fs::write(&layer.path, b"cut").unwrap();
    assert_eq!(store.get(&recipe("a")).unwrap(), None);

    put(&store, "a", b"contents");
    let note = store.note(RECIPES, &recipe("a"));
    let bytes = fs::read(&note).unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&note, &damaged).unwrap();
        assert_eq!(store.get(&recipe("a")).unwrap(), None, "{at}");
        assert!(!note.exists());
    }
    // A note under another's name is not believed.
    fs::write(store.note(RECIPES, &recipe("b")), &bytes).unwrap();
    assert_eq!(store.get(&recipe("b")).unwrap(), None);
}

#[test]
fn tables_of_contents_are_kept() {
    let (_folder, store) = store(LIMIT);
    let layer = put(&store, "a", b"contents");
    let file = store.open_layer(&layer).unwrap().unwrap();
    let toc = toc::of(&mut Reader::open(file, Some(&layer.diff_id), Limits::default()).unwrap()).unwrap();
    assert_eq!(store.get_toc(&layer.diff_id).unwrap(), None);
    store.put_toc(&layer.diff_id, &toc).unwrap();
    assert_eq!(store.get_toc(&layer.diff_id).unwrap(), Some(toc));
    fs::write(store.note(OUTLINES, &layer.diff_id), b"outline1").unwrap();
    assert_eq!(store.get_toc(&layer.diff_id).unwrap(), None);
}

#[test]
fn a_place_stays_as_long_as_its_layer() {
    let (folder, store) = store(LIMIT);
    let layer = put(&store, "a", b"contents");
    assert_eq!(store.place(&layer.diff_id), None);
    let repository: Repository = "127.0.0.1:5000/acme/app".parse().unwrap();
    store.put_place(&layer.diff_id, &repository);
    assert_eq!(store.place(&layer.diff_id), Some(repository));
    fs::write(store.note(PLACES, &layer.diff_id), b"a b").unwrap();
    assert_eq!(store.place(&layer.diff_id), None);
    let small = again(&store, 0);
    drop(store);
    assert_eq!(small.prune().unwrap().left, 0);
    assert!(fs::read_dir(folder.path().join("a/störe").join(PLACES)).unwrap().next().is_none());
}

fn age(store: &Store, part: &str, digest: &Digest, seconds: u64) {
    let file = File::open(store.note(part, digest)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

#[test]
fn the_least_recently_used_entries_are_removed_first() {
    let (folder, store) = store(25_000);
    for (name, seed) in [("old", 1), ("older", 2), ("new", 3)] {
        put(&store, name, &noise(10_000, seed));
    }
    age(&store, RECIPES, &recipe("old"), 100);
    age(&store, RECIPES, &recipe("older"), 200);
    age(&store, RECIPES, &recipe("new"), 50);
    // Used again, it is the newest.
    store.get(&recipe("older")).unwrap().unwrap();
    let other = again(&store, 25_000);
    assert!(again(&store, 0).prune().unwrap().busy);
    let pruned = store.prune().unwrap();
    assert!(pruned.busy && other.note(RECIPES, &recipe("old")).is_file());
    let pruned = other.prune().unwrap();
    assert!(!pruned.busy && pruned.left <= 25_000 && pruned.removed > 9_000, "{pruned:?}");
    let store = Store::open(&folder.path().join("a/störe"), LIMIT).unwrap();
    assert_eq!(store.get(&recipe("old")).unwrap(), None);
    assert!(store.get(&recipe("older")).unwrap().is_some());
    assert!(store.get(&recipe("new")).unwrap().is_some());
}

#[test]
fn a_blob_of_two_recipes_stays_as_long_as_one_of_them() {
    let (_folder, store) = store(15_000);
    let one = put(&store, "one", &noise(10_000, 1));
    assert_eq!(put(&store, "two", &noise(10_000, 1)), one);
    put(&store, "three", &noise(10_000, 2));
    age(&store, RECIPES, &recipe("one"), 300);
    age(&store, RECIPES, &recipe("three"), 200);
    let folder = store.layout.folder().to_owned();
    store.prune().unwrap();
    let store = Store::open(&folder, LIMIT).unwrap();
    assert_eq!(store.get(&recipe("one")).unwrap().as_ref(), Some(&one));
    assert_eq!(store.get(&recipe("two")).unwrap(), Some(one));
    assert_eq!(store.get(&recipe("three")).unwrap(), None);
}

#[test]
fn a_store_is_pruned_when_it_is_too_large_or_has_leftovers() {
    let (_folder, store) = store(25_000);
    let folder = store.layout.folder().to_owned();
    let blobs = || fs::read_dir(folder.join("blobs/sha256")).unwrap().count();
    put(&store, "one", &noise(10_000, 1));
    put(&store, "two", &noise(10_000, 2));
    again(&store, 25_000).prune_if_due().unwrap();
    store.prune_if_due().unwrap();
    assert_eq!(blobs(), 2);
    let store = Store::open(&folder, 25_000).unwrap();
    put(&store, "three", &noise(10_000, 3));
    store.prune_if_due().unwrap();
    assert_eq!(blobs(), 2, "the oldest is removed");
    fs::write(folder.join("blobs/sha256/.partial-x"), b"half").unwrap();
    Store::open(&folder, 25_000).unwrap().prune_if_due().unwrap();
    assert_eq!(blobs(), 2, "what a killed process left");
}

#[test]
fn leftovers_of_ended_processes_are_removed() {
    let (_folder, store) = store(LIMIT);
    let layer = put(&store, "a", b"contents");
    let folder = store.layout.folder().to_owned();
    let blobs = folder.join("blobs/sha256");
    fs::write(blobs.join(".partial-x"), b"half").unwrap();
    fs::write(blobs.join(recipe("orphan").hex()), b"named by nobody").unwrap();
    fs::write(folder.join(RECIPES).join(".partial-y"), b"half").unwrap();
    fs::write(folder.join(RECIPES).join(recipe("z").hex()), b"no note").unwrap();
    let pruned = store.prune().unwrap();
    assert_eq!(pruned.removed, 4 + 15 + 4 + 7);
    let store = Store::open(&folder, LIMIT).unwrap();
    assert_eq!(store.get(&recipe("a")).unwrap().as_ref(), Some(&layer));
    assert_eq!(fs::read_dir(&blobs).unwrap().count(), 1);
    assert_eq!(fs::read_dir(folder.join(RECIPES)).unwrap().count(), 1);
}
