//! Equal keys give equal contexts, whatever a checkout's files look like.

use super::*;
use crate::tree::context::{no_folder, read_sources};
use proptest::prelude::*;
use xtask_model::image::context::as_in_git;
use xtask_model::spec::dockerfile::{Reads, Source};
use xtask_model::spec::ignore::Ignore;

/// File of a checkout.
#[derive(Clone, Debug, PartialEq)]
enum Thing {
    File { text: String, executable: bool },
    Link(String),
    Empty,
}

type Things = BTreeMap<String, Thing>;

/// Properties of a checkout that the key does not cover.
#[derive(Clone, Copy, Debug)]
struct Habit {
    /// Permission bits that it takes away, as a umask does.
    umask: u32,
    /// Seconds since 1970.
    time: i64,
    /// Set-id and sticky bits.
    special: u32,
    /// Files with equal contents are one file with several names.
    hard_links: bool,
}

fn things() -> impl Strategy<Value = Things> {
    let thing = prop_oneof![
        6 => ("[ab]{0,3}", any::<bool>()).prop_map(|(text, executable)| Thing::File { text, executable }),
        1 => "(a|b/c|/etc/passwd|\\.\\./x)".prop_map(Thing::Link),
        1 => Just(Thing::Empty),
    ];
    proptest::collection::btree_map("(d|e)/[a-c]|[a-c]", thing, 0..8)
}

fn habit() -> impl Strategy<Value = Habit> {
    let umask = prop::sample::select(vec![0o000, 0o002, 0o022, 0o027, 0o077]);
    let special = prop::sample::select(vec![0, 0o4000, 0o2000, 0o1000]);
    (umask, 0..2_000_000_000i64, special, any::<bool>()).prop_map(|(umask, time, special, hard_links)| Habit {
        umask,
        time,
        special,
        hard_links,
    })
}

fn lay_out(root: &Path, things: &Things, habit: Habit) {
    let mut first: BTreeMap<&str, PathBuf> = BTreeMap::new();
    for (path, thing) in things {
        let at = root.join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        match thing {
            Thing::File { text, executable } => {
                let known = first.get(text.as_str()).filter(|_| habit.hard_links && !executable);
                if let Some(known) = known {
                    fs::hard_link(known, &at).unwrap();
                } else {
                    fs::write(&at, text).unwrap();
                    let mode = if *executable { 0o777 } else { 0o666 };
                    fs::set_permissions(&at, Permissions::from_mode((mode & !habit.umask) | habit.special)).unwrap();
                    if !executable {
                        first.insert(text, at.clone());
                    }
                }
            }
            Thing::Link(target) => std::os::unix::fs::symlink(target, &at).unwrap(),
            Thing::Empty => fs::create_dir_all(&at).unwrap(),
        }
    }
    for path in things.keys() {
        let time = Timespec { tv_sec: habit.time, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, root.join(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    for folder in ["d", "e"] {
        let folder = root.join(folder);
        if folder.is_dir() {
            fs::set_permissions(&folder, Permissions::from_mode(0o777 & !habit.umask)).unwrap();
        }
    }
}

fn entries(root: &Path) -> Vec<ContextEntry> {
    let everything =
        Source { place: "Dockerfile:1".to_owned(), line: 1, reads: Reads::Path(String::new()), excludes: Vec::new() };
    as_in_git(&read_sources(root, &[everything], &Ignore::none(), &no_folder).unwrap())
}

/// All that BuildKit could see of a folder: path, type with mode, owner, links, size, time, contents.
fn seen(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap().flatten() {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            let contents = match metadata.file_type() {
                kind if kind.is_dir() => {
                    open.push(path.clone());
                    "folder".to_owned()
                }
                kind if kind.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
                _ => format!("{} {}", metadata.nlink(), fs::read_to_string(&path).unwrap()),
            };
            let owner = (metadata.uid(), metadata.gid());
            let times = (metadata.mtime(), metadata.mtime_nsec());
            let rest = path.strip_prefix(folder).unwrap().to_owned();
            found.insert(rest, format!("{:o} {owner:?} {times:?} {contents}", metadata.mode()));
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn checkouts_with_one_key_give_one_context(things in things(), one in habit(), other in habit()) {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        lay_out(first.path(), &things, one);
        lay_out(second.path(), &things, other);
        let (a, b) = (entries(first.path()), entries(second.path()));
        prop_assert_eq!(&a, &b);
        let places = tempfile::tempdir().unwrap();
        let (one, two) = (places.path().join("one"), places.path().join("two"));
        drop(stage(first.path(), &a, &BTreeMap::new(), &one).unwrap());
        drop(stage(second.path(), &b, &BTreeMap::new(), &two).unwrap());
        prop_assert_eq!(seen(&one), seen(&two));
    }

    #[test]
    fn a_context_that_is_brought_up_to_date_is_the_new_one(before in things(), after in things(), habit in habit()) {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        lay_out(old.path(), &before, habit);
        lay_out(new.path(), &after, habit);
        let places = tempfile::tempdir().unwrap();
        let (reused, fresh) = (places.path().join("reused"), places.path().join("fresh"));
        drop(stage(old.path(), &entries(old.path()), &BTreeMap::new(), &reused).unwrap());
        let first = seen(&reused);
        drop(stage(new.path(), &entries(new.path()), &BTreeMap::new(), &reused).unwrap());
        drop(stage(new.path(), &entries(new.path()), &BTreeMap::new(), &fresh).unwrap());
        prop_assert_eq!(seen(&reused), seen(&fresh));
        // What BuildKit compares changes with the contents.
        for (path, thing) in &after {
            let (Thing::File { text, .. }, Some(Thing::File { text: was, .. })) = (thing, before.get(path)) else { continue };
            let path = Path::new(path);
            prop_assert_eq!(text == was, first[path].split(')').nth(1) == seen(&reused)[path].split(')').nth(1), "{:?}", path);
        }
    }
}

#[test]
fn a_context_that_was_not_finished_is_made_again() {
    let (root, places) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(root.path().join("a"), "a").unwrap();
    let folder = places.path().join("context");
    drop(stage(root.path(), &entries(root.path()), &BTreeMap::new(), &folder).unwrap());
    fs::write(folder.join("left over"), "x").unwrap();
    fs::remove_file(folder.with_extension("list")).unwrap();
    drop(stage(root.path(), &entries(root.path()), &BTreeMap::new(), &folder).unwrap());
    assert_eq!(seen(&folder).keys().collect::<Vec<_>>(), [Path::new("a")]);
}

#[test]
fn a_file_that_changes_while_it_is_staged_is_an_error() {
    let (root, places) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(root.path().join("a"), "a").unwrap();
    let entries = entries(root.path());
    fs::write(root.path().join("a"), "b").unwrap();
    let fault = stage(root.path(), &entries, &BTreeMap::new(), &places.path().join("context")).unwrap_err();
    assert_eq!(fault.what, "`a` changed while it was read");
}

#[test]
fn a_file_that_is_made_by_a_build_is_copied_again_when_it_is_made_again() {
    let (root, places) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (program, folder) = (ContextPath::new("target/program"), places.path().join("context"));
    let made = BTreeMap::from([(program, root.path().join("target/program"))]);
    drop(stage(root.path(), &[], &made, &folder).unwrap());
    assert!(!folder.join("target").exists(), "it need not be there yet");
    fs::create_dir(root.path().join("target")).unwrap();
    for text in ["one", "two"] {
        let file = root.path().join("target/program");
        fs::write(root.path().join("new"), text).unwrap();
        fs::rename(root.path().join("new"), &file).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o700)).unwrap();
        drop(stage(root.path(), &[], &made, &folder).unwrap());
        assert_eq!(fs::read_to_string(folder.join("target/program")).unwrap(), text);
        assert_eq!(fs::metadata(folder.join("target/program")).unwrap().mode() & 0o7777, 0o755);
    }
}
