//! Ids from the index and from the memory are those of the files' bytes, whatever was done to the files and to git.

use super::*;
use crate::process::Command;
use crate::tree::context::{no_folder, read_sources};
use crate::tree::git::{Objects, Revision};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;
use xtask_model::fault::Exit;
use xtask_model::image::context::{ContextEntry, FileKind, as_in_git};
use xtask_model::spec::dockerfile::Dockerfile;
use xtask_model::spec::ignore::Ignore;
use xtask_model::spec::reference::Platform;

/// A repository in a folder of its own, with more files in `big` than a key lists.
struct Repo(tempfile::TempDir);

const FILES: usize = 300;

impl Repo {
    fn new(arguments: &[&str]) -> Self {
        let repo = Self(tempfile::tempdir().unwrap());
        for number in 0..FILES {
            repo.write(&format!("big/{}/{number}.txt", number % 7), &format!("file {number}\n"));
        }
        repo.write("small/a", "a");
        repo.git(&[&["init", "-q", "-b", "main"], arguments].concat());
        // A filter that keeps lengths.
        repo.git(&["config", "filter.turn.smudge", "tr a-z n-za-m"]);
        repo.git(&["config", "filter.turn.clean", "tr a-z n-za-m"]);
        repo.settle();
        repo.commit();
        repo.settle();
        repo
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    /// Waits until the clock of the file system has gone on.
    fn settle(&self) {
        std::thread::sleep(Duration::from_millis(20));
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        let _ = fs::create_dir_all(path.parent().unwrap());
        let _ = fs::write(path, text);
    }

    fn try_git(&self, arguments: &[&str]) -> Result<String, Fault> {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
        let call = Command::new("git").arg("-C").arg(self.root()).args(identity).args(arguments);
        call.env("GIT_CONFIG_GLOBAL", "/dev/null").read(Exit::Build)
    }

    #[track_caller]
    fn git(&self, arguments: &[&str]) -> String {
        self.try_git(arguments).unwrap_or_else(|fault| panic!("{fault}"))
    }

    fn commit(&self) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "x"]);
    }

    /// Entries of a key for `COPY . /`, by the index and the memory.
    fn by_stamps(&self) -> Vec<ContextEntry> {
        read(&WorkTree::new(self.root()))
    }

    /// The same by reading every file.
    fn by_bytes(&self) -> Vec<ContextEntry> {
        read(self.root())
    }

    /// Number of files whose id the index gives.
    fn indexed(&self) -> usize {
        indexed(self.root(), "big")
    }

    /// Writes the files of `big` as git checks them out, and then the index again, so that they are older.
    fn check_out(&self) {
        fs::remove_dir_all(self.root().join("big")).unwrap();
        self.git(&["checkout", "-q", "--", "big"]);
        self.settle();
        self.git(&["update-index", "-q", "--refresh", "--force-write-index"]);
    }

    /// Number of files whose id the index gives, once git has looked at all of them again.
    fn checked_out(&self) -> usize {
        let mut counts = (0..100).map(|_| {
            self.check_out();
            self.settle();
            self.indexed()
        });
        counts.find(|count| *count == FILES).unwrap_or_default()
    }
}

/// Number of files in a folder of a root whose id the index gives.
fn indexed(root: &Path, folder: &str) -> usize {
    let tree = WorkTree::new(root);
    let format = files::scan_format(tree.format());
    let mut listing = Listing::read(root, folder.as_bytes(), &[], format).unwrap().unwrap();
    let mut session = tree.session.lock().unwrap();
    tree.indexed(&mut session, &mut listing, &ContextPath::new(folder), SystemTime::now()).unwrap()
}

fn read<F: Files + ?Sized>(files: &F) -> Vec<ContextEntry> {
    let file = Dockerfile::parse("Dockerfile", "FROM scratch\nCOPY . /x\n").unwrap();
    let sources = file.sources(&BTreeMap::new(), &Platform::host()).unwrap();
    let ignore = Ignore::parse("x", b".git\n**/*.pyc\n**/left\n.gitattributes\n").unwrap();
    as_in_git(&read_sources(files, &sources, &ignore, no_folder()).unwrap())
}

#[test]
fn a_clean_checkout_is_the_commit_and_no_file_is_opened() {
    for arguments in [&[][..], &["--object-format=sha256"]] {
        let repo = Repo::new(arguments);
        assert_eq!(repo.indexed(), FILES);
        let entries = repo.by_stamps();
        let big = entries.iter().find(|entry| entry.path.as_bytes() == b"big").unwrap();
        assert_eq!(big.kind, FileKind::Tree);
        assert_eq!(big.id.unwrap().hex(), repo.git(&["rev-parse", "HEAD:big"]).trim());
        assert_eq!(entries, repo.by_bytes());
        let objects = Arc::new(Objects::open(&Git::at(repo.root()), true).unwrap());
        let revision = Revision::find(repo.root(), &objects, "HEAD").unwrap().unwrap();
        assert_eq!(entries, read(&revision));
        // What is ignored in a large folder does not change its id.
        repo.write("big/3/x.pyc", "x");
        repo.write("big/left/x", "x");
        assert_eq!(repo.by_stamps(), entries);
        fs::create_dir(repo.root().join("big/4/empty")).unwrap();
        assert_ne!(repo.by_stamps(), entries);
        assert_eq!(repo.by_stamps(), repo.by_bytes());
    }
}

#[test]
fn a_large_folder_is_read_once_by_one_value() {
    let repo = Repo::new(&[]);
    let tree = WorkTree::new(repo.root());
    let before = read(&tree);
    repo.write("big/3/new", "x");
    assert_eq!(read(&tree), before);
    assert_ne!(repo.by_stamps(), before);
    // Other rules are another question.
    let most = tree.whole(&ContextPath::new("big"), &[], u64::MAX).unwrap();
    assert_eq!(most, Whole::Small);
}

#[test]
fn an_index_of_any_version_is_read_and_a_split_one_is_not() {
    let repo = Repo::new(&[]);
    for version in ["2", "3", "4"] {
        repo.git(&["update-index", "--index-version", version]);
        repo.settle();
        assert_eq!(repo.indexed(), FILES, "version {version}");
    }
    repo.git(&["update-index", "--split-index"]);
    assert_eq!(repo.indexed(), 0);
    assert_eq!(repo.by_stamps(), repo.by_bytes());
}

#[test]
fn line_ends_that_git_converted_under_earlier_settings_are_seen() {
    let repo = Repo::new(&[]);
    let clean = repo.by_stamps();
    fs::remove_dir_all(repo.root().join("big")).unwrap();
    repo.git(&["-c", "core.autocrlf=true", "checkout", "-q", "--", "."]);
    repo.settle();
    repo.git(&["update-index", "-q", "--refresh"]);
    // Git calls these clean, but for those that were written in the same moment as the index.
    assert_eq!(repo.indexed(), 0);
    assert_ne!(repo.by_stamps(), clean);
    assert_eq!(repo.by_stamps(), repo.by_bytes());
}

#[test]
fn a_filter_that_keeps_lengths_is_seen() {
    let repo = Repo::new(&[]);
    for (path, attributes) in [(".gitattributes", "*.txt filter=turn\n"), ("big/3/.gitattributes", "5* ident\n")] {
        repo.write(path, attributes);
        assert_eq!(repo.indexed(), 0, "not tracked");
        repo.git(&["add", path]);
        assert_eq!(repo.indexed(), 0, "tracked");
        fs::remove_file(repo.root().join(path)).unwrap();
        assert_eq!(repo.indexed(), 0, "deleted, and git still applies it");
        repo.git(&["rm", "-q", "--cached", path]);
        // Git may have met the filter while it refreshed entries; these are believed again after its next look.
        let believed = (0..100).any(|_| {
            repo.settle();
            let _ = repo.try_git(&["update-index", "-q", "--really-refresh"]);
            repo.settle();
            repo.indexed() == FILES
        });
        assert!(believed);
    }
    repo.write(".git/info/attributes", "*.txt filter=turn");
    assert_eq!(repo.indexed(), 0);
}

#[test]
fn attributes_above_the_root_are_seen() {
    let repo = Repo::new(&[]);
    let root = repo.root().join("big");
    let files = fs::read_dir(root.join("3")).unwrap().count();
    assert_eq!(indexed(&root, "3"), files);
    repo.write(".gitattributes", "*.txt filter=turn\n");
    assert_eq!(indexed(&root, "3"), 0, "not tracked");
}

#[test]
fn attributes_of_a_tree_that_a_setting_names_are_seen() {
    let repo = Repo::new(&[]);
    repo.write(".gitattributes", "*.txt filter=turn\n");
    repo.git(&["add", ".gitattributes"]);
    let tree = repo.git(&["write-tree"]);
    repo.git(&["rm", "-q", "-f", ".gitattributes"]);
    assert_eq!(repo.checked_out(), FILES);
    repo.git(&["config", "attr.tree", tree.trim()]);
    repo.check_out();
    assert_eq!(repo.indexed(), 0);
    assert_eq!(repo.by_stamps(), repo.by_bytes());
    repo.git(&["config", "--unset", "attr.tree"]);
    repo.git(&["config", "core.attributesFile", "/none"]);
    assert_eq!(repo.checked_out(), FILES);
    repo.write("attributes", "*.txt filter=turn\n");
    repo.git(&["config", "core.attributesFile", &repo.root().join("attributes").display().to_string()]);
    assert_eq!(repo.indexed(), 0, "the file is read");
}

#[test]
fn objects_that_are_replaced_are_seen() {
    let here = tempfile::tempdir().unwrap();
    let call = Command::new("git").args(["init", "-q", "--ref-format=reftable"]).arg(here.path());
    // Versions of git before 2.45 have no reftable.
    let has_tables = call.output().unwrap().status.success();
    for arguments in [&[][..], &["--ref-format=reftable"]].into_iter().take(1 + usize::from(has_tables)) {
        let repo = Repo::new(arguments);
        assert_eq!(repo.checked_out(), FILES);
        let elsewhere = tempfile::tempdir().unwrap();
        let linked = elsewhere.path().join("linked");
        repo.git(&["worktree", "add", "-q", "--detach", linked.to_str().unwrap()]);
        repo.write("other", "FILE 0\n");
        let other = repo.git(&["hash-object", "-w", "other"]);
        repo.git(&["replace", "HEAD:big/0/0.txt", other.trim()]);
        repo.check_out();
        assert_eq!(fs::read(repo.root().join("big/0/0.txt")).unwrap(), b"FILE 0\n");
        assert_eq!(repo.indexed(), 0, "{arguments:?}");
        assert_eq!(repo.by_stamps(), repo.by_bytes());
        assert_eq!(indexed(&linked, "big"), 0, "a work tree of its own has them too");
        repo.git(&["pack-refs", "--all"]);
        assert_eq!(repo.indexed(), 0, "packed");
        assert_eq!(indexed(&linked, "big"), 0);
        repo.git(&["replace", "-d", "HEAD:big/0/0.txt"]);
        assert_eq!(repo.checked_out(), FILES);
    }
}

#[test]
fn a_remembered_file_that_changes_is_read_again() {
    let repo = Repo::new(&[]);
    fs::rename(repo.root().join(".git"), repo.root().join("small/git")).unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    let before = repo.by_stamps();
    assert!(repo.root().join(PLACE).is_file());
    assert_eq!(repo.by_stamps(), before);
    let file = repo.root().join("big/0/0.txt");
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, "FILE 0\n").unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    assert_ne!(repo.by_stamps(), before);
    assert_eq!(repo.by_stamps(), repo.by_bytes());
}

/// Does one thing to the files or to git.
fn act(repo: &Repo, what: usize, which: usize) {
    let path = format!("big/{}/{}.txt", which % 7, which);
    let at = repo.root().join(&path);
    let same_length = || {
        let text = fs::read(&at).unwrap_or_default();
        let turned: Vec<u8> =
            text.iter().map(|byte| if byte.is_ascii_digit() { b'0' + (byte - b'0' + 1) % 10 } else { *byte }).collect();
        let _ = fs::write(&at, turned);
    };
    let git = |arguments: &[&str]| drop(repo.try_git(arguments));
    match what {
        0 => repo.write(&path, "longer contents\r\nof two lines\n"),
        1 => same_length(),
        2 => {
            let modified = fs::symlink_metadata(&at).and_then(|data| data.modified());
            same_length();
            if let (Ok(modified), Ok(file)) = (modified, fs::File::options().write(true).open(&at)) {
                let _ = file.set_modified(modified);
            }
        }
        3 => drop(fs::set_permissions(&at, fs::Permissions::from_mode(0o755))),
        4 => drop(fs::rename(&at, repo.root().join("big/0/0.txt"))),
        5 => drop(fs::remove_file(&at)),
        6 => git(&["add", "-A"]),
        7 => git(&["commit", "-q", "-a", "-m", "x"]),
        8 => git(&["checkout", "-q", "--", "."]),
        9 => git(&["config", "core.autocrlf", ["true", "input", "false"][which % 3]]),
        10 => repo.write(".gitattributes", ["* text=auto\n", "*.txt text eol=crlf\n", "*.txt -text\n", ""][which % 4]),
        11 => git(&["update-index", "--assume-unchanged", &path]),
        12 => git(&["update-index", "--skip-worktree", &path]),
        13 => {
            repo.write("big/new.txt", "");
            git(&["add", "-N", "big/new.txt"]);
        }
        14 => {
            let _ = fs::remove_file(&at);
            let _ = std::os::unix::fs::symlink("0.txt", &at);
        }
        15 => repo.write(&format!("big/{}/x.pyc", which % 7), "x"),
        16 => drop(fs::create_dir_all(repo.root().join("big/empty"))),
        17 => git(&["reset", "-q", "--hard", ["HEAD", "HEAD~1"][which % 2]]),
        18 => git(&["stash", "-q"]),
        19 => git(&["update-index", ["--split-index", "--no-split-index"][which % 2]]),
        20 => drop(fs::copy(&at, repo.root().join("big/copied.txt"))),
        _ => repo.settle(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    /// The law: an id is that of the bytes.
    #[test]
    fn ids_are_those_of_the_bytes(acts in prop::collection::vec((0_usize..23, 0_usize..14), 12..30)) {
        let repo = Repo::new(&[]);
        for (what, which) in acts {
            act(&repo, what, which);
            prop_assert_eq!(repo.by_stamps(), repo.by_bytes(), "after {} on {}", what, which);
        }
    }
}
