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

/// All names that [`things`] has at the top.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

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

fn source(reads: Reads) -> Source {
    Source { place: "Dockerfile:1".to_owned(), line: 1, reads, excludes: Vec::new() }
}

fn everything() -> Vec<Source> {
    vec![source(Reads::Path(String::new()))]
}

fn copied(paths: &[&str]) -> Vec<Source> {
    paths.iter().map(|path| source(Reads::Glob((*path).to_owned()))).collect()
}

fn entries(root: &Path) -> Vec<ContextEntry> {
    entries_of(root, &everything())
}

fn entries_of(root: &Path, sources: &[Source]) -> Vec<ContextEntry> {
    as_in_git(&read_sources(root, sources, &Ignore::none(), no_folder()).unwrap())
}

/// Stages what sources of the repository's folder name.
fn staged(root: &Path, sources: &[Source], entries: &[ContextEntry], folder: &Path) -> Result<PathBuf, Fault> {
    let (context, made) = (ContextPath::default(), BTreeMap::new());
    Ok(stage(&ContextContents { root, context: &context, entries, made: &made, sources }, folder)?.folder)
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
    fn checkouts_with_one_key_give_one_context(things in things(), one in habit(), other in habit(), together in any::<bool>()) {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        lay_out(first.path(), &things, one);
        lay_out(second.path(), &things, other);
        let (a, b) = (entries(first.path()), entries(second.path()));
        prop_assert_eq!(&a, &b);
        let places = tempfile::tempdir().unwrap();
        let (one, two) = (places.path().join("one"), places.path().join("two"));
        let sources = if together { everything() } else { copied(&NAMES) };
        staged(first.path(), &sources, &a, &one).unwrap();
        staged(second.path(), &sources, &b, &two).unwrap();
        prop_assert_eq!(seen(&one), seen(&two));
    }

    #[test]
    fn a_context_that_is_brought_up_to_date_is_the_new_one(
        before in things(), after in things(), habit in habit(), together in any::<bool>()
    ) {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        lay_out(old.path(), &before, habit);
        lay_out(new.path(), &after, habit);
        let places = tempfile::tempdir().unwrap();
        let (reused, fresh) = (places.path().join("reused"), places.path().join("fresh"));
        let sources = if together { everything() } else { copied(&NAMES) };
        staged(old.path(), &sources, &entries(old.path()), &reused).unwrap();
        let first = seen(&reused);
        staged(new.path(), &sources, &entries(new.path()), &reused).unwrap();
        staged(new.path(), &sources, &entries(new.path()), &fresh).unwrap();
        prop_assert_eq!(seen(&reused), seen(&fresh));
        // What BuildKit compares changes with the contents.
        let seen = seen(&reused);
        for (path, thing) in &after {
            let (Thing::File { text, .. }, Some(Thing::File { text: was, .. })) = (thing, before.get(path)) else { continue };
            let path = Path::new(path);
            let (Some(first), Some(second)) = (first.get(path), seen.get(path)) else { continue };
            prop_assert_eq!(text == was, first.split(')').nth(1) == second.split(')').nth(1), "{:?}", path);
        }
    }
}

#[test]
fn a_context_that_was_not_finished_is_made_again() {
    let (root, places) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(root.path().join("a"), "a").unwrap();
    let folder = places.path().join("context");
    staged(root.path(), &everything(), &entries(root.path()), &folder).unwrap();
    fs::write(folder.join("left over"), "x").unwrap();
    fs::remove_file(folder.with_extension("list")).unwrap();
    staged(root.path(), &everything(), &entries(root.path()), &folder).unwrap();
    assert_eq!(seen(&folder).keys().collect::<Vec<_>>(), [Path::new("a")]);
}

#[test]
fn a_file_that_changes_while_it_is_staged_is_an_error() {
    let (root, places) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(root.path().join("a"), "a").unwrap();
    let entries = entries(root.path());
    fs::write(root.path().join("a"), "b").unwrap();
    let fault = staged(root.path(), &everything(), &entries, &places.path().join("context")).unwrap_err();
    assert_eq!(fault.what, "`a` changed while it was read");
}

#[test]
fn a_file_that_is_made_by_a_build_is_copied_again_when_it_is_made_again() {
    let (root, places) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (program, folder) = (ContextPath::new("target/program"), places.path().join("context"));
    let made = BTreeMap::from([(program, root.path().join("target/program"))]);
    let context = ContextPath::default();
    let contents = ContextContents { root: root.path(), context: &context, entries: &[], made: &made, sources: &[] };
    drop(stage(&contents, &folder).unwrap());
    assert!(!folder.join("target").exists(), "it need not exist yet");
    fs::create_dir(root.path().join("target")).unwrap();
    for text in ["one", "two"] {
        let file = root.path().join("target/program");
        fs::write(root.path().join("new"), text).unwrap();
        fs::rename(root.path().join("new"), &file).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o700)).unwrap();
        drop(stage(&contents, &folder).unwrap());
        assert_eq!(fs::read_to_string(folder.join("target/program")).unwrap(), text);
        assert_eq!(fs::metadata(folder.join("target/program")).unwrap().mode() & 0o7777, 0o755);
    }
}

/// A checkout with a folder, a folder next to it, and a file.
fn checkout() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in [("code/in/one", "1"), ("code/two", "2"), ("other/three", "3"), ("file", "4")] {
        fs::create_dir_all(root.path().join(path).parent().unwrap()).unwrap();
        fs::write(root.path().join(path), text).unwrap();
    }
    root
}

#[test]
fn a_changed_folder_gets_another_place_and_nothing_else_does() {
    let (root, places) = (checkout(), tempfile::tempdir().unwrap());
    let (folder, sources) = (places.path().join("context"), copied(&["code/two", "code", "code/in", "other", "file"]));
    let again = || staged(root.path(), &sources, &entries_of(root.path(), &sources), &folder).unwrap();
    let (first, code) = (again(), fs::canonicalize(folder.join("code")).unwrap());
    let (other, untouched) = (fs::read_link(folder.join("other")).unwrap(), code.join("in/one"));
    let inode = fs::metadata(&untouched).unwrap().ino();
    for edit in ["contents", "permissions", "a new file", "a file that is gone"] {
        let (place, two) = (fs::canonicalize(folder.join("code")).unwrap(), root.path().join("code/two"));
        match edit {
            "contents" => fs::write(&two, "edited").unwrap(),
            "permissions" => fs::set_permissions(&two, Permissions::from_mode(0o755)).unwrap(),
            "a new file" => fs::write(root.path().join("code/in/new"), "").unwrap(),
            _ => fs::remove_file(root.path().join("code/in/new")).unwrap(),
        }
        assert_eq!(again(), first, "BuildKit compares with what it was sent before");
        let now = fs::canonicalize(folder.join("code")).unwrap();
        assert!(now != place && !place.exists(), "{edit}");
        assert_eq!(fs::read_link(folder.join("other")).unwrap(), other);
        assert_eq!(fs::metadata(now.join("in/one")).unwrap().ino(), inode, "a file that did not change is not copied");
    }
    let other_repository =
        staged(root.path(), &sources, &entries_of(root.path(), &sources), &places.path().join("other"));
    assert_ne!(other_repository.unwrap().file_name(), first.file_name());
}

/// A copy that would see the links, or what they lead to, gets the files where they are, in a context of their contents.
#[test]
fn a_context_that_is_seen_otherwise_is_named_by_its_contents() {
    let excluding = |path: &str| Source { excludes: vec!["two".to_owned()], ..copied(&[path]).remove(0) };
    let parents = Reads::Parents { pivot: String::new(), pattern: "code/in".to_owned() };
    for sources in [
        copied(&["", "file"]),
        copied(&["code", "fil*"]),
        copied(&["code", "link"]),
        copied(&["code", "other", "code/in/link/three"]),
        vec![excluding("code")],
        vec![source(Reads::Path("code".to_owned()))],
        vec![source(parents)],
    ] {
        let (root, places) = (checkout(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink("other", root.path().join("link")).unwrap();
        std::os::unix::fs::symlink("../../other", root.path().join("code/in/link")).unwrap();
        let folder = places.path().join("context");
        let again = || staged(root.path(), &sources, &entries_of(root.path(), &sources), &folder).unwrap();
        let first = again();
        assert!(folder.join("code").symlink_metadata().unwrap().is_dir(), "{sources:?}");
        fs::set_permissions(root.path().join("code/in/one"), Permissions::from_mode(0o755)).unwrap();
        assert_ne!(again(), first, "{sources:?}");
    }
}

#[test]
fn a_folder_of_the_repository_is_a_context_with_places_of_its_own() {
    let (root, places) = (checkout(), tempfile::tempdir().unwrap());
    let (context, made, sources) = (ContextPath::new("code"), BTreeMap::new(), copied(&["in"]));
    let entries = entries_of(root.path(), &copied(&["code/in"]));
    let contents =
        ContextContents { root: root.path(), context: &context, entries: &entries, made: &made, sources: &sources };
    let staged = stage(&contents, &places.path().join("context")).unwrap();
    assert_eq!(fs::read_to_string(staged.folder.join("in/one")).unwrap(), "1");
    assert!(staged.folder.join("in").symlink_metadata().unwrap().is_symlink());
}
