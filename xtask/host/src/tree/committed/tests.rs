//! The ways in which git calls a tree clean although an image would not be the commit's, and the reverse.

use super::*;
use crate::process::Command;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use xtask_model::fault::Exit;

/// A committed repository with an app that copies `templates`, and a base that copies `check.txt`.
struct Repo(tempfile::TempDir);

const POLICY: &str = "[project]\nname = \"app\"\nregistry = \"127.0.0.1:1\"\nplatforms = [\"linux/amd64\"]\n\
                      [root]\nimage = \"127.0.0.1:1/root:1\"\npython = \"3.12\"\n[base]\n[app]\n";

impl Repo {
    fn new() -> Self {
        let repo = Self(tempfile::tempdir().unwrap());
        repo.write("images.toml", POLICY);
        repo.write("dockerfiles/Dockerfile.base", "ARG ROOT_IMAGE\nFROM ${ROOT_IMAGE}\nCOPY check.txt /\n");
        repo.write("dockerfiles/Dockerfile.fast", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY templates /t\n");
        repo.write("dockerfiles/installer.lock", "");
        repo.write("requirements-enhanced.txt", "");
        repo.write("requirements-enhanced.lock", &format!("# requirements: {}\n# python: >=3.12\n", Digest::of(b"")));
        repo.write("check.txt", "check\n");
        repo.write("templates/page.html", "<p>one</p>\n");
        repo.write("templates/deep/two.html", "<p>two</p>\n");
        repo.write("README.md", "read\n");
        repo.write(".gitignore", "/target\n*.env\n__pycache__/\n");
        repo.git(&["init", "-q", "-b", "main"]);
        repo.commit();
        repo
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    fn git(&self, args: &[&str]) -> String {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
        let call =
            Command::new("git").arg("-C").arg(self.0.path()).args(identity).args(["-c", "protocol.file.allow=always"]);
        call.args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .read(Exit::Build)
            .unwrap_or_else(|fault| panic!("{fault}"))
    }

    fn commit(&self) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "x"]);
    }

    /// The differences of both images, as text.
    fn differences(&self) -> Vec<String> {
        let tree = Tree::with_registry(None, Box::new(self.0.path().to_owned()), &[]).unwrap();
        let commit = Git::at(self.0.path()).commit(&|_| None).unwrap().unwrap();
        let committed = Committed::open(&tree, &commit.id, true).unwrap();
        let mut found = Vec::new();
        for kind in [ImageKind::Base, ImageKind::App] {
            let parsed = facts::parse(&tree, kind, &BTreeMap::new()).unwrap_or_else(|fault| panic!("{fault}"));
            let compared = committed.compare(&tree, kind, &parsed).unwrap();
            let differences = compared.differences;
            let path = self.path(&format!("target/{kind}.commit.json"));
            let memory = Memory { path: &path, writes: true };
            let remembered = compare(&tree, kind, &parsed, &commit.id, &memory, &|| opened(&tree, &commit.id)).unwrap();
            assert_eq!(remembered.differences, differences, "what is remembered of the commit says the same");
            assert_eq!(remembered.pointers, compared.pointers);
            found.extend(
                differences
                    .into_iter()
                    .map(|found| format!("{}: {}{}", found.path, found.why, if found.ignored { " !" } else { "" })),
            );
        }
        found.dedup();
        found
    }
}

/// After `act` git says that the tree is clean, and the images differ from the commit in just these inputs.
#[track_caller]
fn clean_for_git(what: &str, act: impl FnOnce(&Repo), expected: &[&str]) {
    let repo = Repo::new();
    assert!(repo.differences().is_empty(), "{what}: {:?}", repo.differences());
    act(&repo);
    let status = repo.git(&["status", "--porcelain"]);
    assert_eq!(status, "", "{what}: git is to call this clean");
    assert_eq!(repo.differences(), expected, "{what}");
}

fn opened(tree: &Tree, id: &str) -> Result<&'static Committed, Fault> {
    Committed::open(tree, id, true).map(|committed| &*Box::leak(Box::new(committed)))
}

#[test]
fn what_git_does_not_look_at_keeps_the_commits_tags_away() {
    let edit = |repo: &Repo| repo.write("templates/page.html", "<p>other</p>\n");
    let edited = ["templates/page.html: differs from the commit"];
    clean_for_git(
        "ignored by .gitignore",
        |repo| repo.write("templates/prod.env", "SECRET=1\n"),
        &["templates/prod.env: ignored by git, .gitignore:2 `*.env` !"],
    );
    clean_for_git(
        "an ignored folder, with all in it",
        |repo| {
            repo.write("templates/__pycache__/a.pyc", "");
            repo.write("templates/__pycache__/deep/b.pyc", "");
        },
        &["templates/__pycache__: ignored by git, .gitignore:3 `__pycache__/` !"],
    );
    clean_for_git(
        "ignored by info/exclude",
        |repo| {
            repo.write(".git/info/exclude", "*.bak\n");
            repo.write("templates/page.bak", "");
        },
        &["templates/page.bak: ignored by git, .git/info/exclude:1 `*.bak` !"],
    );
    clean_for_git(
        "an empty folder",
        |repo| fs::create_dir_all(repo.path("templates/old/older")).unwrap(),
        &["templates/old/older: an empty folder, which git does not record"],
    );
    for flag in ["--skip-worktree", "--assume-unchanged"] {
        let act = |repo: &Repo| {
            repo.git(&["update-index", flag, "templates/page.html"]);
            edit(repo);
        };
        clean_for_git(flag, act, &edited);
    }
    clean_for_git(
        "a file of the base",
        |repo| {
            repo.git(&["update-index", "--assume-unchanged", "check.txt"]);
            repo.write("check.txt", "other\n");
        },
        &["check.txt: differs from the commit"],
    );
    clean_for_git(
        "a sparse checkout",
        |repo| drop(repo.git(&["sparse-checkout", "set", "--no-cone", "/*", "!/templates/deep/"])),
        &["templates/deep/two.html: in the commit, missing here (deleted, or not checked out)"],
    );
    clean_for_git(
        "core.fileMode",
        |repo| {
            repo.git(&["config", "core.fileMode", "false"]);
            fs::set_permissions(repo.path("templates/page.html"), fs::Permissions::from_mode(0o755)).unwrap();
        },
        &["templates/page.html: executable here, not in the commit"],
    );
    clean_for_git(
        "stat data that does not change",
        |repo| {
            repo.git(&["config", "core.trustctime", "false"]);
            repo.git(&["config", "core.checkStat", "minimal"]);
            let file = repo.path("templates/page.html");
            let old = filetime(&file, None);
            filetime(&file, Some(old - 1000));
            repo.git(&["update-index", "--refresh"]);
            repo.write("templates/page.html", "<p>two</p>\n");
            filetime(&file, Some(old - 1000));
        },
        &edited,
    );
    clean_for_git(
        "policy, Dockerfile and lock",
        |repo| {
            let files = ["images.toml", "dockerfiles/Dockerfile.fast", "requirements-enhanced.lock"];
            files.iter().for_each(|file| drop(repo.git(&["update-index", "--assume-unchanged", file])));
            repo.write("images.toml", &format!("{POLICY}args = {{ A = \"1\" }}\n"));
            repo.write("dockerfiles/Dockerfile.fast", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY templates /u\n");
            let lock = fs::read_to_string(repo.path("requirements-enhanced.lock")).unwrap();
            let pin = format!("{lock}a==1 --hash={}\n", Digest::of(b"a"));
            repo.write("requirements-enhanced.lock", &pin);
        },
        &[
            "requirements-enhanced.lock: differs from the commit",
            "dockerfiles/Dockerfile.fast: differs from the commit",
            "images.toml: differs from the commit",
        ],
    );
}

/// The time of a file's last change in seconds; sets it where one is given.
fn filetime(path: &Path, set: Option<u64>) -> u64 {
    let file = fs::File::options().write(true).open(path).unwrap();
    let since = std::time::SystemTime::UNIX_EPOCH;
    if let Some(seconds) = set {
        file.set_modified(since + std::time::Duration::from_secs(seconds)).unwrap();
    }
    file.metadata().unwrap().modified().unwrap().duration_since(since).unwrap().as_secs()
}

#[test]
fn what_git_converts_keeps_the_commits_tags_away() {
    clean_for_git(
        "a filter",
        |repo| {
            repo.git(&["config", "filter.fixed.clean", "git show HEAD:templates/page.html"]);
            repo.write(".git/info/attributes", "page.html filter=fixed\n");
            repo.write("templates/page.html", "<p>other</p>\n");
            repo.git(&["update-index", "templates/page.html"]);
        },
        &["templates/page.html: differs from the commit"],
    );
    clean_for_git(
        "core.autocrlf",
        |repo| {
            repo.git(&["config", "core.autocrlf", "true"]);
            repo.write("templates/page.html", "<p>one</p>\r\n");
            repo.git(&["add", "templates/page.html"]);
        },
        &["templates/page.html: line ends differ from the commit's (`core.autocrlf`, `core.eol` or an edit)"],
    );
    clean_for_git(
        "a commit that another one replaces",
        |repo| {
            let head = repo.git(&["rev-parse", "HEAD"]);
            repo.write("templates/page.html", "<p>other</p>\n");
            repo.commit();
            let other = repo.git(&["rev-parse", "HEAD"]);
            repo.git(&["replace", &head, &other]);
            repo.git(&["update-ref", "refs/heads/main", &head]);
        },
        &["templates/page.html: differs from the commit"],
    );
}

#[test]
fn files_of_a_submodule_cannot_be_compared() {
    let other = Repo::new();
    let repo = Repo::new();
    repo.git(&["submodule", "--quiet", "add", other.0.path().to_str().unwrap(), "templates/sub"]);
    repo.write("dockerfiles/Dockerfile.fast.dockerignore", "**/.git\n");
    repo.commit();
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
    let found = repo.differences();
    assert!(found.len() == 1 && found[0].contains("submodule"), "{found:?}");
}

#[test]
fn a_checkout_that_is_what_the_commit_says_is_the_commits() {
    let repo = Repo::new();
    // Line ends that the commit's own attributes ask for.
    repo.write(".gitattributes", "*.bat text eol=crlf\n");
    repo.write("templates/run.bat", "echo\r\n");
    // The contents of a Git LFS pointer, in place of the pointer.
    let large = "large\n".repeat(300);
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid {}\nsize 1800\n", Digest::of(large.as_bytes()));
    repo.write("templates/model.bin", &pointer);
    repo.commit();
    assert_eq!(repo.git(&["show", "HEAD:templates/run.bat"]), "echo");
    assert_eq!(repo.differences(), Vec::<String>::new());
    repo.write("templates/model.bin", &large);
    assert_eq!(repo.differences(), Vec::<String>::new());
    repo.write("templates/model.bin", &format!("{large}x"));
    assert_eq!(repo.differences(), ["templates/model.bin: differs from the commit"]);
}

#[test]
fn a_pointer_file_of_git_lfs_in_the_inputs_is_found() {
    let repo = Repo::new();
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid {}\nsize 5\n", Digest::of(b"large"));
    repo.write("templates/model.bin", &pointer);
    repo.commit();
    let tree = Tree::with_registry(None, Box::new(repo.0.path().to_owned()), &[]).unwrap();
    let parsed = facts::parse(&tree, ImageKind::App, &BTreeMap::new()).unwrap();
    let committed = Committed::open(&tree, "HEAD", true).unwrap();
    let compared = committed.compare(&tree, ImageKind::App, &parsed).unwrap();
    assert!(compared.differences.is_empty());
    assert_eq!(compared.pointers, [ContextPath::new("templates/model.bin")]);
}

#[test]
fn a_large_folder_of_small_ones_is_compared_file_by_file_and_opened_only_where_it_differs() {
    let repo = Repo::new();
    for (folder, file) in (0..20).flat_map(|folder| (0..15).map(move |file| (folder, file))) {
        repo.write(&format!("templates/many/d{folder}/f{file}"), &format!("{folder} {file}\n"));
    }
    repo.write("templates/many/d3/deep/er/g", "g\n");
    std::os::unix::fs::symlink("f1", repo.path("templates/many/d3/link")).unwrap();
    repo.commit();
    assert_eq!(repo.differences(), Vec::<String>::new());
    let after = |act: &dyn Fn(), expected: &[&str]| {
        act();
        let tree = Tree::with_registry(None, Box::new(repo.0.path().to_owned()), &[]).unwrap();
        let committed = Committed::open(&tree, "HEAD", true).unwrap();
        let theirs = committed.tree.as_ref().unwrap();
        let parsed = |tree: &Tree| facts::parse(tree, ImageKind::App, &BTreeMap::new()).unwrap();
        let (before, now) = super::opened((theirs, &parsed(theirs)), (&tree, &parsed(&tree)), ImageKind::App).unwrap();
        assert!(before.len() < 90 && now.len() < 90, "{} {}", before.len(), now.len());
        assert_eq!(repo.differences(), expected);
        repo.git(&["clean", "-q", "-d", "-f", "-x"]);
        repo.git(&["checkout", "-q", "--", "."]);
    };
    let path = |path: &str| repo.path(&format!("templates/many/{path}"));
    let write = |name: &str| fs::write(path(name), "other\n").unwrap();
    let there = "differs from the commit";
    after(&|| write("d7/f7"), &[&format!("templates/many/d7/f7: {there}")]);
    after(
        &|| ["d0/f0", "d19/f14", "d3/deep/er/g"].into_iter().for_each(write),
        &["d0/f0", "d19/f14", "d3/deep/er/g"]
            .map(|name| format!("templates/many/{name}: {there}"))
            .each_ref()
            .map(|s| &**s),
    );
    after(&|| write("d7/new"), &["templates/many/d7/new: not in the commit"]);
    after(&|| write("d7/prod.env"), &["templates/many/d7/prod.env: ignored by git, .gitignore:2 `*.env` !"]);
    after(
        &|| fs::create_dir(path("d3/deep/empty")).unwrap(),
        &["templates/many/d3/deep/empty: an empty folder, which git does not record"],
    );
    after(
        &|| fs::set_permissions(path("d7/f7"), fs::Permissions::from_mode(0o755)).unwrap(),
        &["templates/many/d7/f7: executable here, not in the commit"],
    );
    after(
        &|| fs::remove_file(path("d7/f7")).unwrap(),
        &["templates/many/d7/f7: in the commit, missing here (deleted, or not checked out)"],
    );
    after(
        &|| {
            fs::remove_file(path("d3/link")).unwrap();
            std::os::unix::fs::symlink("f2", path("d3/link")).unwrap();
        },
        &[&format!("templates/many/d3/link: {there}")],
    );
    after(
        &|| {
            fs::remove_dir_all(path("d3/deep")).unwrap();
            write("d3/deep");
        },
        &[
            "templates/many/d3/deep: another kind of file than in the commit",
            "templates/many/d3/deep/er/g: in the commit, missing here (deleted, or not checked out)",
        ],
    );
    after(
        &|| fs::write(path("d7/f7"), "7 7\r\n").unwrap(),
        &["templates/many/d7/f7: line ends differ from the commit's (`core.autocrlf`, `core.eol` or an edit)"],
    );
    assert_eq!(repo.differences(), Vec::<String>::new());
}

#[test]
fn what_no_image_reads_withholds_no_tag() {
    let repo = Repo::new();
    repo.write("untracked.txt", "x");
    repo.write("secret.env", "x");
    repo.write("README.md", "edited\n");
    fs::create_dir_all(repo.path("empty")).unwrap();
    repo.write("target/images/x", "x");
    repo.write("images.toml", &format!("# a comment\n{POLICY}[smoke]\nuser = 1\n"));
    repo.write("dockerfiles/Dockerfile.fast", "# a comment\nARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n\nCOPY templates /t\n");
    repo.git(&["add", "untracked.txt"]);
    assert_eq!(repo.differences(), Vec::<String>::new());
}

#[test]
fn a_repository_without_commits_still_refuses_what_it_ignores() {
    let repo = Repo::new();
    fs::remove_dir_all(repo.path(".git")).unwrap();
    let tree = Tree::with_registry(None, Box::new(repo.0.path().to_owned()), &[]).unwrap();
    repo.write("templates/prod.env", "SECRET=1\n");
    let parsed = facts::parse(&tree, ImageKind::App, &BTreeMap::new()).unwrap();
    assert!(
        ignored_without_commit(&tree, ImageKind::App, &parsed).unwrap().is_empty(),
        "outside a repository nothing is ignored"
    );
    repo.git(&["init", "-q"]);
    let found = ignored_without_commit(&tree, ImageKind::App, &parsed).unwrap();
    assert_eq!(found.iter().map(|found| found.path.as_str()).collect::<Vec<_>>(), ["templates/prod.env"]);
}

#[test]
fn an_edit_is_compared_with_what_is_remembered_and_line_ends_with_git() {
    let repo = Repo::new();
    let id = Git::at(repo.0.path()).commit(&|_| None).unwrap().unwrap().id;
    assert!(repo.differences().is_empty());
    let path = repo.path(&format!("target/{}.commit.json", ImageKind::App));
    let compared = |id: &str| {
        let tree = Tree::with_registry(None, Box::new(repo.0.path().to_owned()), &[]).unwrap();
        let parsed = facts::parse(&tree, ImageKind::App, &BTreeMap::new()).unwrap();
        let found =
            compare(&tree, ImageKind::App, &parsed, id, &Memory { path: &path, writes: false }, &|| opened(&tree, id));
        found.map(|found| found.differences.into_iter().map(|found| found.path.clone()).collect::<Vec<_>>())
    };
    // Without git's objects, only what is remembered can answer.
    fs::rename(repo.path(".git/objects"), repo.path("target/objects")).unwrap();
    assert_eq!(compared(&id).unwrap(), [] as [&str; 0]);
    repo.write("templates/page.html", "<p>edited</p>\n");
    fs::remove_file(repo.path("templates/deep/two.html")).unwrap();
    fs::remove_dir(repo.path("templates/deep")).unwrap();
    assert_eq!(compared(&id).unwrap(), ["templates/deep/two.html", "templates/page.html"]);
    let asks_git = |id: &str| compared(id).map_or(true, |found| found.contains(&policy::FILE.to_owned()));
    assert!(asks_git(&"0".repeat(40)), "nothing is remembered of another commit");
    repo.write("templates/page.html", "<p>one</p>\r\n");
    assert!(asks_git(&id), "line ends are compared with the commit's file");
    repo.write("templates/page.html", "<p>one</p>\n");
    repo.write("images.toml", &format!("{POLICY}# another comment\n"));
    assert!(asks_git(&id), "settings count by their meaning");
}

#[test]
fn inputs_of_the_program_are_marked() {
    let repo = Repo::new();
    repo.write("images.toml", &format!("{POLICY}[app.binary]\npackage = \"tool\"\n"));
    repo.write("Cargo.toml", "[workspace]\nmembers = [\"tool\"]\n");
    repo.write("Cargo.lock", "version = 4\n\n[[package]]\nname = \"tool\"\nversion = \"1.0.0\"\n");
    repo.write("rust-toolchain.toml", "[toolchain]\nchannel = \"1.95.0\"\n");
    repo.write("tool/Cargo.toml", "[package]\nname = \"tool\"\n");
    repo.write("tool/src/main.rs", "fn main() {}\n");
    repo.commit();
    let marked = |path: &str, text: &str| {
        repo.write(path, text);
        let tree = Tree::with_registry(None, Box::new(repo.0.path().to_owned()), &[]).unwrap();
        let commit = Git::at(repo.0.path()).commit(&|_| None).unwrap().unwrap();
        let parsed = facts::parse(&tree, ImageKind::App, &BTreeMap::new()).unwrap_or_else(|fault| panic!("{fault}"));
        let committed = Committed::open(&tree, &commit.id, true).unwrap();
        let found = committed.compare(&tree, ImageKind::App, &parsed).unwrap().differences;
        let found = found.into_iter().map(|found| (found.path, found.program)).collect::<Vec<_>>();
        repo.git(&["checkout", "-q", "--", "."]);
        found
    };
    assert_eq!(marked("templates/page.html", "<p>two</p>\n"), [("templates/page.html".to_owned(), false)]);
    for path in ["tool/src/main.rs", "Cargo.toml"] {
        let text = fs::read_to_string(repo.path(path)).unwrap();
        assert_eq!(marked(path, &format!("{text}\n")), [(path.to_owned(), true)]);
    }
    let lock = fs::read_to_string(repo.path("Cargo.lock")).unwrap().replace("1.0.0", "1.0.1");
    assert_eq!(marked("Cargo.lock", &lock), [("Cargo.lock".to_owned(), true)]);
}
