//! Two layers, path by path: added, removed, metadata, and contents with the first byte that differs.

use super::{Difference, Promise};
use crate::layer::{Entry, EntryKind, Reader};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use xtask_host::file;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::quantity;
use xtask_model::spec::reference::Digest;

/// Files whose bytes are compared; of further ones the digests are shown.
const MOST_FILES: usize = 20;

/// Bytes of the longest file that is compared byte by byte.
const LONGEST: u64 = 64 << 20;

/// Bytes that are shown of a difference.
const SHOWN: usize = 16;

/// A layer's entries; of several for one path, the last.
pub(super) type Listing = BTreeMap<ContextPath, (Entry, Option<Digest>)>;

/// Contents by path, of files that are not too long.
pub(super) type FileContents = BTreeMap<ContextPath, Vec<u8>>;

pub(super) fn listing(reader: &mut Reader<'_>) -> Result<Listing, Fault> {
    let mut found = Listing::new();
    while let Some(entry) = reader.next()? {
        let digest = match entry.kind {
            EntryKind::File(_) => {
                let hashed = file::hash(&mut reader.contents());
                Some(hashed.map_err(|error| reader.failed(error))?.0)
            }
            _ => None,
        };
        found.insert(entry.path.clone(), (entry, digest));
    }
    Ok(found)
}

/// Reads these files, and everything else to the end, which only then is verified.
pub(super) fn contents(reader: &mut Reader<'_>, wanted: &BTreeSet<ContextPath>) -> Result<FileContents, Fault> {
    let mut found = FileContents::new();
    while let Some(entry) = reader.next()? {
        if wanted.contains(&entry.path)
            && let Some(bytes) = reader.bytes(LONGEST)?
        {
            found.insert(entry.path, bytes);
        }
    }
    Ok(found)
}

/// The paths in which two layers differ.
#[derive(Debug, Default)]
pub(super) struct Paths {
    found: Vec<(ContextPath, Vec<String>, Option<[Digest; 2]>)>,
}

pub(super) fn compare(old: &Listing, new: &Listing, promise: Promise) -> Paths {
    let mut paths = Paths::default();
    let names: BTreeSet<&ContextPath> = old.keys().chain(new.keys()).collect();
    for path in names {
        let (what, edited) = match (old.get(path), new.get(path)) {
            (Some((entry, _)), None) => (vec![format!("only in the published image: {}", described(entry))], None),
            (None, Some((entry, _))) => {
                (vec![format!("only in the image that was built again: {}", described(entry))], None)
            }
            (Some((one, old)), Some((two, new))) => {
                let edited = old.zip(*new).filter(|(old, new)| old != new).map(|(old, new)| [old, new]);
                (metadata(one, two, promise), edited)
            }
            (None, None) => continue,
        };
        if !what.is_empty() || edited.is_some() {
            paths.found.push((path.clone(), what, edited));
        }
    }
    paths
}

impl Paths {
    /// Files whose bytes are worth reading.
    pub(super) fn edited(&self) -> BTreeSet<ContextPath> {
        let edited = self.found.iter().filter(|(_, _, edited)| edited.is_some()).take(MOST_FILES);
        edited.map(|(path, ..)| path.clone()).collect()
    }

    pub(super) fn described(&self, part: &str, old: &FileContents, new: &FileContents) -> Vec<Difference> {
        let described = self.found.iter().map(|(path, what, edited)| {
            let mut what = what.clone();
            if let Some([before, after]) = edited {
                what.push(match old.get(path).zip(new.get(path)) {
                    Some((old, new)) => bytes(old, new),
                    None => format!("contents `{before}`, built again `{after}`"),
                });
            }
            Difference { part: part.to_owned(), path: format!("/{path}"), what: what.join("; ") }
        });
        described.collect()
    }
}

fn described(entry: &Entry) -> String {
    let Entry { mode, uid, gid, .. } = entry;
    format!("{}, mode {mode:04o}, owner {uid}:{gid}", kind(&entry.kind))
}

fn kind(kind: &EntryKind) -> String {
    match kind {
        EntryKind::Dir => "a folder".to_owned(),
        EntryKind::File(size) => format!("a file of {}", quantity::bytes(*size)),
        EntryKind::Symlink(target) => format!("a link to `{}`", String::from_utf8_lossy(target).escape_default()),
        EntryKind::HardLink(target) => format!("a hard link to `/{target}`"),
        EntryKind::Special => "a device".to_owned(),
    }
}

/// The differences of two entries but for their contents.
fn metadata(old: &Entry, new: &Entry, promise: Promise) -> Vec<String> {
    let mut found = Vec::new();
    let same_kind = match (&old.kind, &new.kind) {
        (EntryKind::File(_), EntryKind::File(_)) => true,
        (one, two) => one == two,
    };
    if !same_kind {
        found.push(format!("{}, built again {}", kind(&old.kind), kind(&new.kind)));
    }
    if old.mode != new.mode {
        found.push(format!("mode {:04o}, built again {:04o}", old.mode, new.mode));
    }
    if (old.uid, old.gid) != (new.uid, new.gid) {
        found.push(format!("owner {}:{}, built again {}:{}", old.uid, old.gid, new.uid, new.gid));
    }
    if old.time != new.time && promise == Promise::Digest {
        found.push(format!("time {}, built again {}", old.time, new.time));
    }
    found
}

/// The first byte in which two contents differ.
fn bytes(old: &[u8], new: &[u8]) -> String {
    let at = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let from = |bytes: &[u8]| {
        let part = &bytes[at..bytes.len().min(at + SHOWN)];
        let mut hex = String::new();
        part.iter().for_each(|byte| write!(hex, "{byte:02x}").expect("a string takes everything"));
        let text = part.escape_ascii();
        if hex.is_empty() { "ends there".to_owned() } else { format!("has `{hex}` (\"{text}\")") }
    };
    let sizes = if old.len() == new.len() {
        format!("{} bytes", old.len())
    } else {
        format!("{} bytes, built again {} bytes", old.len(), new.len())
    };
    format!("contents differ at offset {at} of {sizes}: it {}, built again it {}", from(old), from(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Limits;
    use crate::layer::test_data::tar;

    fn read<T>(lines: &[&str], work: impl FnOnce(&mut Reader<'_>) -> Result<T, Fault>) -> T {
        let bytes = tar(lines);
        work(&mut Reader::open(&bytes[..], None, Limits::default()).unwrap()).unwrap()
    }

    #[track_caller]
    fn check(old: &[&str], new: &[&str], expected: &[&str]) {
        let paths = compare(&read(old, listing), &read(new, listing), Promise::Digest);
        let wanted = paths.edited();
        let bytes = |lines| read(lines, |reader| contents(reader, &wanted));
        let found = paths.described("layer 1 of 1", &bytes(old), &bytes(new));
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_differs_is_named_by_path() {
        check(&["d a", "f a/x same"], &["d a", "f a/x same"], &[]);
        check(
            &["f a one", "f gone x", "l link here"],
            &["f a one", "f new xyz", "l link there"],
            &[
                "layer 1 of 1: `/gone`: only in the published image: a file of 1 B, mode 0644, owner 1:2",
                "layer 1 of 1: `/link`: a link to `here`, built again a link to `there`",
                "layer 1 of 1: `/new`: only in the image that was built again: a file of 3 B, mode 0644, owner 1:2",
            ],
        );
        check(&["f a x"], &["d a"], &["layer 1 of 1: `/a`: a file of 1 B, built again a folder"]);
    }

    #[test]
    fn contents_differ_from_a_byte_on() {
        check(
            &["f a import-os"],
            &["f a import-sys"],
            &["layer 1 of 1: `/a`: contents differ at offset 7 of 9 bytes, built again 10 bytes: \
               it has `6f73` (\"os\"), built again it has `737973` (\"sys\")"],
        );
        check(
            &["f a abc"],
            &["f a ab"],
            &["layer 1 of 1: `/a`: contents differ at offset 2 of 3 bytes, built again 2 bytes: \
               it has `63` (\"c\"), built again it ends there"],
        );
    }

    #[test]
    fn metadata_differs_field_by_field_and_time_only_where_it_is_promised() {
        let entry =
            |mode, uid, time| Entry { path: ContextPath::new("a"), kind: EntryKind::File(1), mode, uid, gid: 0, time };
        let found = metadata(&entry(0o644, 0, 1), &entry(0o755, 10001, 2), Promise::Digest);
        assert_eq!(found, ["mode 0644, built again 0755", "owner 0:0, built again 10001:0", "time 1, built again 2"]);
        assert_eq!(metadata(&entry(0o644, 0, 1), &entry(0o644, 0, 2), Promise::Tree), [""; 0]);
    }

    #[test]
    fn of_many_edited_files_some_are_read() {
        let lines = |text: &str| (0..30).map(|n| format!("f {n} {text}")).collect::<Vec<_>>();
        let (old, new) = (lines("a"), lines("b"));
        let listed = |lines: &[String]| read(&lines.iter().map(String::as_str).collect::<Vec<_>>(), listing);
        let paths = compare(&listed(&old), &listed(&new), Promise::Digest);
        assert_eq!((paths.edited().len(), paths.found.len()), (MOST_FILES, 30));
    }
}
