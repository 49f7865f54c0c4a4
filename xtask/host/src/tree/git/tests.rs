//! Tests of what is asked of git.

use super::*;

struct Repo(tempfile::TempDir);

impl Repo {
    fn new() -> Self {
        let repo = Self(tempfile::tempdir().unwrap());
        repo.git(&["init", "-q", "-b", "main"]);
        repo
    }

    fn git(&self, args: &[&str]) {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
        Command::new("git").arg("-C").arg(self.0.path()).args(identity).args(args).read(Exit::Build).unwrap();
    }

    fn commit(&self, file: &str) {
        std::fs::write(self.0.path().join(file), file).unwrap();
        self.git(&["add", "-A"]);
        self.git(&["commit", "-qm", file]);
    }

    fn facts(&self) -> Option<Commit> {
        Git::at(self.0.path()).commit(&|_| None).unwrap()
    }
}

#[test]
fn no_repository_and_no_commits_are_facts() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Git::at(folder.path()).commit(&|_| None).unwrap(), None);
    assert_eq!(Repo::new().facts(), None);
}

#[test]
fn a_commit_knows_its_branch_and_tags() {
    let repo = Repo::new();
    repo.commit("é \"b\"");
    repo.git(&["tag", "v1.2.3"]);
    repo.git(&["tag", "-a", "-m", "x", "v1.3.0-rc.1"]);
    repo.git(&["tag", "vendor"]);
    let commit = repo.facts().unwrap();
    assert_eq!(commit.branch.as_deref(), Some("main"));
    assert_eq!(commit.versions, ["1.2.3", "1.3.0-rc.1"]);
    assert_eq!(commit.short().len(), 12);
    repo.git(&["checkout", "-q", "--detach"]);
    assert_eq!(repo.facts().unwrap().branch, None);
    let ci = |name: &str| (name == "GITHUB_REF").then(|| "refs/heads/feature/x".to_owned());
    assert_eq!(Git::at(repo.0.path()).commit(&ci).unwrap().unwrap().branch.as_deref(), Some("feature/x"));
}

#[test]
fn changed_files_are_those_whose_contents_differ() {
    let repo = Repo::new();
    for file in ["a", "b", "c", "gone"] {
        repo.commit(file);
    }
    let folder = repo.0.path().join("below/here");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("d"), "d").unwrap();
    repo.commit("e");
    let write = |file: &str, text: &str| std::fs::write(repo.0.path().join(file), text).unwrap();
    // A filter would make the clean file differ and start a program.
    write(".git/info/attributes", "* filter=trap\n");
    repo.git(&["config", "filter.trap.clean", "touch ran; tr a-z A-Z"]);
    let at = |folder: &std::path::Path, from: &str, to: Option<&str>| Git::at(folder).changed(from, to).unwrap();
    assert_eq!(at(repo.0.path(), "HEAD", None), [""; 0]);
    // Other times, the same contents, as after a restored cache.
    let old = std::time::SystemTime::UNIX_EPOCH;
    std::fs::File::options().write(true).open(repo.0.path().join("a")).unwrap().set_modified(old).unwrap();
    write("b", "x");
    write("new", "new");
    std::fs::remove_file(repo.0.path().join("gone")).unwrap();
    assert_eq!(at(repo.0.path(), "HEAD", None), ["b", "gone", "new"]);
    assert_eq!(at(repo.0.path(), "HEAD~1", Some("HEAD")), ["below/here/d", "e"]);
    assert_eq!(at(&folder, "HEAD~1", None), ["../../b", "../../e", "../../gone", "d"]);
    assert!(!repo.0.path().join("ran").exists(), "no filter runs");
}

#[test]
fn ancestry() {
    let repo = Repo::new();
    repo.commit("a");
    let first = repo.facts().unwrap().id;
    repo.commit("b");
    let second = repo.facts().unwrap().id;
    let git = Git::at(repo.0.path());
    assert_eq!(git.ancestry(&first, &second).unwrap(), Ancestry::Ancestor);
    assert_eq!(git.ancestry(&second, &first).unwrap(), Ancestry::NotAncestor);
    assert_eq!(git.ancestry(&"1".repeat(40), &first).unwrap(), Ancestry::Unknown);
    assert_eq!(git.ancestry("--help", &first).unwrap(), Ancestry::Unknown);
}

#[test]
fn versions() {
    for (text, yes) in [("1.2.3", true), ("1.2", false), ("1.2.3-", false), ("1.2.3-rc.1", true), ("1.2.x", false)] {
        assert_eq!(is_version(text), yes, "{text}");
    }
}

#[test]
fn a_setting_that_could_run_a_program_is_not_harmless() {
    let harmless = [
        "core.bare\nfalse",
        "core.filemode\ntrue",
        "remote.origin.url\nhttps://example.com/x.git",
        "remote.origin.url\ngit@example.com:x.git",
        "remote.origin.fetch\n+refs/heads/*:refs/remotes/origin/*",
        "remote.origin.promisor\ntrue",
        "branch.main.remote\norigin",
        "extensions.partialclone\norigin",
        "http.https://example.com/.extraheader\nAUTHORIZATION: basic x",
        "user.name\na",
    ];
    let others = [
        "core.sshcommand\nx",
        "core.gitproxy\nx",
        "core.askpass\nx",
        "core.fsmonitor\nx",
        "core.hookspath\nx",
        "credential.helper\n!x",
        "credential.https://example.com.helper\n!x",
        "remote.origin.url\next::x",
        "remote.origin.vcs\nx",
        "remote.origin.uploadpack\nx",
        "protocol.ext.allow\nalways",
        "url.ext::x.insteadof\nhttps://example.com",
        "gc.recentobjectshook\nx",
        "hook.x.command\nx",
        "filter.x.smudge\nx",
        "new.key\nx",
    ];
    for setting in harmless {
        assert!(is_harmless(setting), "{setting}");
    }
    for setting in others {
        assert!(!is_harmless(setting), "{setting}");
    }
}

#[test]
fn every_reason_of_git_comes_with_a_command() {
    let git = Git::at(std::path::Path::new("/r"));
    for (said, hint) in [
        ("fatal: detected dubious ownership in repository at '/up'\n", "safe.directory /up"),
        ("fatal: not a git repository: /moved/worktrees/x", "git worktree repair"),
        ("fatal: bad config line 1 in file .git/config", "correct `/r/.git/config`"),
        ("fatal: could not fetch 1234 from promisor remote", "git fetch --refetch"),
        ("fatal: transport 'file' not allowed", "git fetch --refetch"),
        ("error: object file .git/objects/ab/cd is empty", "git fsck"),
        ("fatal: loose object 1234 is corrupt", "git fsck"),
        ("error: cannot open .git/HEAD: Permission denied", "readable"),
        ("fatal: something else", "git -C /r log -1"),
    ] {
        let fault = git.fault(said.as_bytes(), "cannot");
        assert_eq!(fault.causes[0], said.trim(), "git's own words");
        assert!(fault.hints.iter().any(|line| line.contains(hint)), "{said}: {fault}");
    }
}

#[test]
fn what_is_broken_is_not_taken_for_a_tree_without_commits() {
    let broken = |act: &dyn Fn(&std::path::Path), words: &str| {
        let repo = Repo::new();
        repo.commit("a");
        act(repo.0.path());
        let fault = Git::at(repo.0.path()).commit(&|_| None).unwrap_err();
        assert!(fault.to_string().contains(words) && !fault.hints.is_empty(), "{words}: {fault}");
    };
    broken(&|root| std::fs::write(root.join(".git/HEAD"), "x").unwrap(), "not a git repository");
    broken(&|root| std::fs::write(root.join(".git/config"), "[core").unwrap(), "bad config line");
    broken(&|root| std::fs::write(root.join(".git/refs/heads/main"), "x").unwrap(), "names no commit");
    broken(&|root| std::fs::write(root.join(".git/refs/heads/main"), "1".repeat(40)).unwrap(), "bad object HEAD");
    let gone = |root: &std::path::Path| {
        std::fs::remove_dir_all(root.join(".git")).unwrap();
        std::fs::write(root.join(".git"), "gitdir: /nowhere").unwrap();
    };
    broken(&gone, "/nowhere");
    // A branch without commits and a folder called `.git` without contents are not errors.
    let repo = Repo::new();
    repo.commit("a");
    repo.git(&["checkout", "-q", "--orphan", "new"]);
    assert_eq!(repo.facts(), None);
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(".git")).unwrap();
    assert_eq!(Git::at(folder.path()).commit(&|_| None).unwrap(), None);
}

#[test]
fn no_configuration_hides_a_version() {
    let repo = Repo::new();
    repo.commit("a");
    repo.git(&["tag", "v1.2.3"]);
    repo.git(&["config", "log.excludeDecoration", "refs/tags/*"]);
    assert_eq!(repo.facts().unwrap().versions, ["1.2.3"]);
}
