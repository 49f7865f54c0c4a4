//! What git knows of the tree: the only place that calls git.
//!
//! A folder that is no repository, or one without commits, is a fact like any other: [`Git::commit`] is then `None`.
//! `objects` asks for git's objects, `revision` reads a commit's files from them.

mod objects;
pub mod remote;
pub mod revision;

pub use objects::Objects;
pub use revision::Revision;

use crate::fault::{Exit, Fault};
use crate::process::Command;
use crate::tags::is_version;
use crate::time::Timestamp;
use std::path::{Path, PathBuf};

/// The commit that is checked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Full object name.
    pub id: String,
    /// Committer time in seconds since 1970.
    pub time: i64,
    /// The branch, if one is checked out, or if CI names it.
    pub branch: Option<String>,
    /// Versions of `vX.Y.Z` tags on this commit, without the `v`.
    pub versions: Vec<String>,
    /// Whether the tree differs from the commit.
    pub dirty: bool,
}

impl Commit {
    /// Twelve hex digits: enough to stay unique, and stable however large the repository grows.
    pub fn short(&self) -> &str {
        &self.id[..12.min(self.id.len())]
    }

    /// The commit's time as RFC 3339 in UTC.
    pub fn created(&self) -> String {
        Timestamp::from_second(self.time).map(|time| time.to_string()).unwrap_or_default()
    }
}

/// What git says of one commit's relation to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ancestry {
    /// The first is an ancestor of the second, or the same.
    Ancestor,
    /// It is not.
    NotAncestor,
    /// One of the two is not in this clone.
    Unknown,
}

/// The git program in one folder.
#[derive(Clone, Debug)]
pub struct Git {
    root: PathBuf,
}

impl Git {
    /// Git in `root`.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn command(&self) -> Command {
        // Facts must not depend on a person's configuration, nor take a lock that an editor is waiting for.
        Command::new("git").arg("-C").arg(&self.root).args(["--no-optional-locks", "-c", "core.quotePath=false"])
    }

    fn ask(&self, args: &[&str]) -> Result<Option<String>, Fault> {
        let output = self.command().args(args).output()?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned()))
    }

    /// The commit that is checked out, with what CI's environment (`GITHUB_REF`) knows better than a detached head.
    pub fn commit(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<Option<Commit>, Fault> {
        if crate::process::found("git").is_none() {
            return Ok(None);
        }
        // One call for id, time and names: starting git is what costs.
        let format = "--format=%H%n%ct%n%D";
        let Some(shown) = self.ask(&["log", "-1", "--no-show-signature", "--decorate=full", format, "HEAD"])? else {
            return Ok(None);
        };
        let mut lines = shown.lines();
        let (id, time) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let Ok(time) = time.parse() else {
            return Err(Fault::new(Exit::Bug, format!("cannot read git's answer `{shown}`")));
        };
        let names: Vec<&str> = lines.next().unwrap_or_default().split(", ").collect();
        let branch = names.iter().find_map(|name| name.strip_prefix("HEAD -> refs/heads/"));
        let ci_branch = environment("GITHUB_REF").and_then(|name| name.strip_prefix("refs/heads/").map(str::to_owned));
        let mut versions: Vec<String> = names
            .iter()
            .filter_map(|name| name.strip_prefix("tag: refs/tags/v"))
            .filter(|version| is_version(version))
            .map(str::to_owned)
            .collect();
        versions.sort();
        let status = self.command().args(["status", "--porcelain=v1", "--untracked-files=normal"]).read(Exit::Usage)?;
        Ok(Some(Commit {
            id: id.to_owned(),
            time,
            branch: ci_branch.or_else(|| branch.map(str::to_owned)),
            versions,
            dirty: !status.is_empty(),
        }))
    }

    /// The newest commit that both have in their history; `None` where this clone knows of none.
    pub fn merge_base(&self, one: &str, other: &str) -> Result<Option<String>, Fault> {
        self.ask(&["merge-base", "--end-of-options", one, other])
    }

    /// Whether `ancestor` is an ancestor of `descendant`, or the same commit.
    pub fn ancestry(&self, ancestor: &str, descendant: &str) -> Result<Ancestry, Fault> {
        let output =
            self.command().args(["merge-base", "--is-ancestor", "--end-of-options", ancestor, descendant]).output()?;
        Ok(match output.status.code() {
            Some(0) => Ancestry::Ancestor,
            Some(1) => Ancestry::NotAncestor,
            _ => Ancestry::Unknown,
        })
    }
}

#[cfg(test)]
mod tests {
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
    fn a_commit_knows_its_branch_tags_and_state() {
        let repo = Repo::new();
        repo.commit("é \"b\"");
        repo.git(&["tag", "v1.2.3"]);
        repo.git(&["tag", "-a", "-m", "x", "v1.3.0-rc.1"]);
        repo.git(&["tag", "vendor"]);
        let commit = repo.facts().unwrap();
        assert_eq!((commit.branch.as_deref(), commit.dirty), (Some("main"), false));
        assert_eq!(commit.versions, ["1.2.3", "1.3.0-rc.1"]);
        assert_eq!(commit.short().len(), 12);
        std::fs::write(repo.0.path().join("new"), "").unwrap();
        assert!(repo.facts().unwrap().dirty);
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
        for (text, yes) in [("1.2.3", true), ("1.2", false), ("1.2.3-", false), ("1.2.3-rc.1", true), ("1.2.x", false)]
        {
            assert_eq!(is_version(text), yes, "{text}");
        }
    }
}
