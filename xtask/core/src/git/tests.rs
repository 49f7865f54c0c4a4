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
