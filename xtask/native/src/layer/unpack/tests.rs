//! Unpacked files match the table of contents, and nothing outside the folder is touched.

use super::*;
use crate::layer::Limits;
use crate::layer::part::PartWriter;
use crate::layer::test_data::{END, entry, tar};
use crate::layer::toc::{self, ImageToc};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;
use xtask_model::image::context::FileKind;

/// A folder with a neighbour that nothing may touch.
struct Place {
    all: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let all = tempfile::tempdir().unwrap();
        std::fs::create_dir(all.path().join("outside")).unwrap();
        std::fs::write(all.path().join("outside/secret"), "untouched").unwrap();
        Self { all }
    }

    fn root(&self) -> PathBuf {
        self.all.path().join("root")
    }

    fn outside(&self) -> String {
        self.all.path().join("outside").display().to_string()
    }

    fn apply(&self, layers: &[Vec<u8>]) -> Result<(), Fault> {
        let mut unpacked = Unpacker::open(&self.root())?;
        for layer in layers {
            unpacked.apply(&mut Reader::open(&**layer, None, Limits::default())?)?;
        }
        Ok(())
    }

    #[track_caller]
    fn unharmed(&self) {
        let names: Vec<_> = std::fs::read_dir(self.outside()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        let secret = self.all.path().join("outside/secret");
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "untouched");
        assert_eq!(std::fs::metadata(&secret).unwrap().nlink(), 1);
    }

    /// Every path with what it is.
    fn tree(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.root()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let metadata = path.symlink_metadata().unwrap();
                let what = if metadata.is_dir() {
                    folders.push(path.clone());
                    "d".to_owned()
                } else if metadata.is_symlink() {
                    format!("l {}", std::fs::read_link(&path).unwrap().display())
                } else {
                    format!("f {}", std::fs::read_to_string(&path).unwrap())
                };
                found.insert(path.strip_prefix(self.root()).unwrap().display().to_string(), what);
            }
        }
        found
    }
}

/// The part of each layer as a tar file of its own, and the layer's table of contents.
fn parts(layers: &[Vec<u8>], has: fn(&ContextPath) -> bool) -> Vec<(Vec<u8>, toc::LayerToc)> {
    let part = |layer: &Vec<u8>| {
        let mut tar = Vec::new();
        let mut part = PartWriter::new(has, &mut tar);
        let mut reader = Reader::open(&**layer, None, Limits::default()).unwrap();
        let toc = toc::of_each(&mut reader, &mut |entry, reader| {
            part.add(entry, reader).map_err(|error| Fault::build("cannot write").cause(error))
        });
        part.finish().unwrap();
        (tar, toc.unwrap())
    };
    layers.iter().map(part).collect()
}

#[test]
fn a_part_of_a_layer_unpacks_as_if_from_the_layer() {
    let long = format!("lib/{}/x.so", "n".repeat(180));
    let has = |path: &ContextPath| path.as_bytes().ends_with(b".so") || path.as_bytes().starts_with(b"gone");
    let first = [
        "d lib",
        "f lib/a.so 1",
        "f lib/a.txt 2",
        "l lib/b.so a.so",
        "h lib/c.so lib/a.so",
        "f gone/x.so 3",
        "f old.so 4",
    ];
    let second =
        ["f lib/d.so 5", "f .wh.old.so", "f gone/.wh..wh..opq", "f etc/passwd root:x", "c lib/c.so", "d lib/f.so"];
    let second = tar(&second);
    let names = [entry(long.as_bytes(), b'0', b"", b"6"), entry(b"lib/link.so", b'2', long.as_bytes(), b"")].concat();
    let second = [&second[..second.len() - END.len()], &names, &END].concat();
    let layers = [tar(&first), second];
    let (whole, part) = (Place::new(), Place::new());
    let mut unpacked = Unpacker::open(&whole.root()).unwrap().only(has);
    for layer in &layers {
        unpacked.apply(&mut Reader::open(&**layer, None, Limits::default()).unwrap()).unwrap();
    }
    let made = parts(&layers, has);
    part.apply(&made.iter().map(|(tar, _)| tar.clone()).collect::<Vec<_>>()).unwrap();
    assert_eq!(part.tree(), whole.tree());
    let names: Vec<String> = part.tree().into_keys().filter(|name| !name.contains("nn")).collect();
    assert_eq!(names, ["gone", "lib", "lib/a.so", "lib/b.so", "lib/d.so", "lib/f.so", "lib/link.so"]);
    assert!(part.tree().contains_key(&long));
    for (layer, (tar, toc)) in layers.iter().zip(&made) {
        assert_eq!(*toc, toc::of(&mut Reader::open(&**layer, None, Limits::default()).unwrap()).unwrap());
        assert!(!tar.windows(6).any(|bytes| bytes == b"root:x"));
    }
}

#[track_caller]
fn refuses(layers: &[Vec<u8>], why: &str) {
    let place = Place::new();
    let fault = place.apply(layers).unwrap_err().to_string();
    assert!(fault.contains(why), "{fault}");
    place.unharmed();
}

#[test]
fn a_part_is_the_chosen_files_and_every_link() {
    let place = Place::new();
    let lower = tar(&["d lib", "f lib/a.so lower", "d share", "f share/a left", "l link share/a"]);
    let upper = tar(&["f lib/a.so upper", "h b.so lib/a.so"]);
    let mut part = Unpacker::open(&place.root()).unwrap().only(|path| path.as_bytes().ends_with(b".so"));
    for layer in [&lower, &upper] {
        part.apply(&mut Reader::open(&**layer, None, Limits::default()).unwrap()).unwrap();
    }
    let tree: Vec<String> = place.tree().into_keys().collect();
    assert_eq!(tree, ["b.so", "lib", "lib/a.so", "link"]);
    assert_eq!(std::fs::read_to_string(place.root().join("b.so")).unwrap(), "upper");
    let alone = tar(&["f share/b", "h c.so share/b"]);
    let fault = part.apply(&mut Reader::open(&*alone, None, Limits::default()).unwrap()).unwrap_err();
    assert!(fault.to_string().contains("hard link to `share/b`"), "{fault}");
    place.unharmed();
}

#[test]
fn layers_are_unpacked_over_each_other() {
    let place = Place::new();
    let below = tar(&["d a", "f a/x 1", "f a/y 2", "d d", "f d/e 3", "l l a", "f s 4", "h t s"]);
    let above = tar(&["f a/.wh.x", "f d/n 5", "f d/.wh..wh..opq", "f l 6", "f s 7", "c a/y"]);
    place.apply(&[below, above]).unwrap();
    let tree: Vec<String> = place.tree().into_iter().map(|(path, what)| format!("{path} {what}")).collect();
    assert_eq!(tree, ["a d", "d d", "d/n f 5", "l f 6", "s f 7", "t f 4"]);
}

/// A folder for each layer where that is possible; `None` where a layer has to be unpacked over those below it.
fn apart(layers: &[Vec<u8>]) -> Option<Vec<Place>> {
    let unpack = |layer: &Vec<u8>| {
        let place = Place::new();
        let mut unpacked = Unpacker::open(&place.root()).unwrap();
        let mut reader = Reader::open(&**layer, None, Limits::default()).unwrap();
        unpacked.apply_apart(&mut reader).unwrap().then_some(place)
    };
    layers.iter().map(unpack).collect()
}

/// The paths of folders that are mounted over each other, as overlayfs shows them: what is not a folder hides all below its path.
fn mounted(folders: &[Place]) -> BTreeMap<String, String> {
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    for folder in folders {
        let upper = folder.tree();
        let hides = |path: &str| {
            let above = path.match_indices('/').map(|(at, _)| &path[..at]).chain([path]);
            above.filter_map(|above| upper.get(above)).any(|what| what != "d")
        };
        shown.retain(|path, _| !hides(path));
        shown.extend(upper.clone());
    }
    shown
}

#[test]
fn a_layer_that_needs_lower_ones_is_not_unpacked_apart() {
    let check = |lines: &[&str], expected: bool| assert_eq!(apart(&[tar(lines)]).is_some(), expected, "{lines:?}");
    check(&[], true);
    check(&["f a 1", "l b a", "h c a", "d d", "f d/e 2", "d d/f", "h d/f/g d/e"], true);
    check(&["f .wh..wh.plnk 1"], true);
    // It takes something away.
    check(&["f a 1", "f .wh.b"], false);
    check(&["d a", "f a/.wh..wh..opq"], false);
    check(&["c a"], false);
    // Lower layers may have the folder's mode and owner, and the file.
    check(&["f a/b 1"], false);
    check(&["d a", "d a/b/c"], false);
    check(&["f a/b 1", "d a"], false);
    check(&["h a b"], false);
    check(&["h a b", "f b 1"], false);
}

#[test]
fn modes_are_kept_but_the_owner_keeps_access() {
    let place = Place::new();
    let with = |path: &[u8], flag: u8, mode: &[u8]| {
        let mut bytes = entry(path, flag, b"", b"");
        bytes[100..107].copy_from_slice(mode);
        bytes[148..156].fill(b' ');
        let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
        bytes[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        bytes
    };
    let layer = [
        with(b"none", b'0', b"0000000"),
        with(b"program", b'0', b"0006755"),
        with(b"closed/", b'5', b"0000000"),
        with(b"closed/file", b'0', b"0000444"),
        with(b"sticky/", b'5', b"0001777"),
        END.to_vec(),
    ]
    .concat();
    place.apply(&[layer]).unwrap();
    let mode = |name: &str| std::fs::metadata(place.root().join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("none"), 0o600);
    assert_eq!(mode("program"), 0o755);
    assert_eq!(mode("closed"), 0o700);
    assert_eq!(mode("closed/file"), 0o644);
    assert_eq!(mode("sticky"), 0o777);
    let time = std::fs::metadata(place.root().join("none")).unwrap().mtime();
    assert_eq!(time, i64::try_from(crate::layer::TIME).unwrap());
}

#[test]
fn no_symbolic_link_leads_out_of_the_folder() {
    let outside = Place::new().outside();
    for target in [&*outside, "../outside", "/", "."] {
        refuses(&[tar(&[&format!("l x {target}"), "f x/secret harm"])], "must be a folder, but `x` is not one");
        refuses(&[tar(&[&format!("l x {target}"), "f x/a/b/c harm"])], "must be a folder, but `x` is not one");
    }
    let place = Place::new();
    let link = format!("l x {}", place.outside());
    // In a layer above, the link gives way to a folder; what it led to is not asked.
    place.apply(&[tar(&[&link]), tar(&["f x/secret harm"])]).unwrap();
    place.unharmed();
    assert_eq!(place.tree()["x/secret"], "f harm");

    let place = Place::new();
    let file = format!("l x {}/secret", place.outside());
    refuses(&[tar(&["f x 1", "d x"])], "is both a folder and something else");
    refuses(&[tar(&["f x/y 1", "f x 1"])], "is both a folder and something else");
    place.apply(&[tar(&[&file, "f x harm"]), tar(&["f x more"])]).unwrap();
    place.unharmed();
    assert_eq!(place.tree()["x"], "f more");

    let place = Place::new();
    let link = format!("l x {}", place.outside());
    place.apply(&[tar(&[&link]), tar(&["f x/.wh.secret", "f x/.wh..wh..opq"]), tar(&["d x"])]).unwrap();
    place.unharmed();
}

#[test]
fn no_whiteout_deletes_outside_its_folder() {
    for line in ["f .wh...", "f .wh..", "f .wh.", "f a/.wh...", "f a/b/.wh...", "d .wh...", "l .wh... x", "f ./.wh..."]
    {
        refuses(&[tar(&["f a/b/c 1"]), tar(&[line])], "is a whiteout of the invalid name");
        let place = Place::new();
        place.apply(&[tar(&["f a/b/c 1"])]).unwrap();
        place.apply(&[tar(&[line])]).unwrap_err();
        place.unharmed();
        assert_eq!(place.tree().len(), 3, "{line}");
        let toc = toc::of(&mut Reader::open(&*tar(&[line]), None, Limits::default()).unwrap());
        assert!(toc.is_err(), "{line}");
    }
    // Nor where a caller has a name from elsewhere.
    let place = Place::new();
    std::fs::create_dir_all(place.root()).unwrap();
    let root: OwnedFd = File::open(place.root()).unwrap().into();
    for name in [&b".."[..], b".", b"", b"../outside", b"a/b"] {
        assert_eq!(remove(&root, name), Err(Errno::INVAL));
    }
    place.unharmed();
}

#[test]
fn no_hard_link_leads_out_of_the_folder() {
    for (line, why) in [
        ("h x ../outside/secret", "leads out"),
        ("h x /etc/passwd", "is absolute"),
        ("h x nothing", "hard link to `nothing`"),
        ("h x d", "hard link to `d`"),
    ] {
        refuses(&[tar(&["d d", line])], why);
    }
    let place = Place::new();
    let link = format!("l l {}", place.outside());
    let fault = place.apply(&[tar(&[&link, "h x l/secret"])]).unwrap_err().to_string();
    assert!(fault.contains("hard link to `l/secret`"), "{fault}");
    let file = format!("l m {}/secret", place.outside());
    let fault = place.apply(&[tar(&[&file, "h x m"])]).unwrap_err().to_string();
    assert!(fault.contains("hard link to `m`"), "{fault}");
    place.unharmed();
}

#[test]
fn oversized_layers_are_rejected() {
    let place = Place::new();
    let big = [entry(b"big", b'0', b"", &vec![0; 3 << 20]), END.to_vec()].concat();
    let mut unpacked = Unpacker::open(&place.root()).unwrap();
    let limits = Limits { bytes: 1 << 20, ..Limits::default() };
    let fault = unpacked.apply(&mut Reader::open(&*big, None, limits).unwrap()).unwrap_err().to_string();
    assert!(fault.contains("unpacks to more than"), "{fault}");
    let cut = &big[..1 << 20];
    let fault = unpacked.apply(&mut Reader::open(cut, None, Limits::default()).unwrap()).unwrap_err().to_string();
    assert!(fault.contains("is truncated"), "{fault}");
}

#[test]
fn deep_trees_are_created_and_removed() {
    let place = Place::new();
    let deep = vec!["d"; 300].join("/");
    place.apply(&[tar(&[&format!("f {deep}/f x")]), tar(&["f .wh.d"])]).unwrap();
    assert_eq!(place.tree(), BTreeMap::new());
}

/// Paths with every folder above them as entries of their own, as builders write layers.
fn with_folders(lines: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for line in lines {
        let path = line.split(' ').nth(1).unwrap_or_default();
        for (at, _) in path.match_indices('/') {
            let folder = format!("d {}", &path[..at]);
            if !all.contains(&folder) {
                all.push(folder);
            }
        }
        all.push(line.clone());
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn folders_of_layers_over_each_other_equal_one_folder(
        layers in prop::collection::vec(toc::tests::random_layer(), 1..4)
    ) {
        let removes = |line: &String| line.contains("/.wh.") || line.contains(" .wh.");
        let tars: Vec<Vec<u8>> = layers
            .iter()
            .map(|lines| with_folders(&lines.iter().filter(|line| !removes(line)).cloned().collect::<Vec<_>>()))
            .map(|lines| tar(&lines.iter().map(String::as_str).collect::<Vec<_>>()))
            .collect();
        let folders = apart(&tars).expect("no layer removes anything, and each lists its folders");
        let place = Place::new();
        place.apply(&tars).unwrap();
        prop_assert_eq!(mounted(&folders), place.tree(), "{:?}", layers);
    }

    #[test]
    fn unpacked_files_match_the_table_of_contents(
        layers in prop::collection::vec(toc::tests::random_layer(), 1..4)
    ) {
        let tars: Vec<Vec<u8>> = layers
            .iter()
            .map(|lines| tar(&lines.iter().map(String::as_str).collect::<Vec<_>>()))
            .collect();
        let tocs = tars.iter().map(|tar| {
            Arc::new(toc::of(&mut Reader::open(&**tar, None, Limits::default()).unwrap()).unwrap())
        });
        let expected: BTreeMap<String, &str> = ImageToc::new(tocs)
            .merged()
            .into_iter()
            .filter(|(path, _)| !path.as_bytes().is_empty())
            .map(|(path, node)| (path.to_string(), match node.kind {
                FileKind::Dir | FileKind::Tree => "d",
                FileKind::File => "f",
                FileKind::Symlink => "l",
                FileKind::Special => "c",
            }))
            .collect();
        let place = Place::new();
        place.apply(&tars).unwrap();
        let found = place.tree();
        let found: BTreeMap<String, &str> = found.iter().map(|(path, what)| (path.clone(), &what[..1])).collect();
        prop_assert_eq!(found, expected, "{:?}", layers);
    }
}
