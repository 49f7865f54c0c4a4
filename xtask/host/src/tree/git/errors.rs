//! Faults for calls of git that fail: git's own words, their cause, and the command that helps.

use super::Git;
use std::path::PathBuf;
use xtask_model::fault::{Exit, Fault};

impl Git {
    /// Judges a failed call for the commit that is checked out: a folder outside every repository and a repository without
    /// commits have none. Every other reason is a fault.
    pub(super) fn no_commit(&self, stderr: &[u8]) -> Result<(), Fault> {
        let said = String::from_utf8_lossy(stderr);
        let cannot = "cannot read the commit that is checked out";
        // With a path behind the colon the repository is named by a `.git` file and missing.
        if said.contains("not a git repository (or any") {
            return match self.damaged() {
                None => Ok(()),
                Some(folder) => Err(Fault::usage(cannot)
                    .cause(said.trim())
                    .cause(format!("`{}` exists, and git does not accept it as a repository", folder.display()))
                    .hint(format!(
                        "repair it (`HEAD`, `objects` and `refs` belong in it), or remove `{}`",
                        folder.display()
                    ))),
            };
        }
        if said.contains("unknown revision or path") {
            let head = self.command().args(["symbolic-ref", "--quiet", "HEAD"]).output()?;
            let branch = String::from_utf8_lossy(&head.stdout).trim_end().to_owned();
            let file = self.command().args(["rev-parse", "--git-path", &branch]).output()?;
            let file = self.root.join(String::from_utf8_lossy(&file.stdout).trim_end());
            if head.status.success() && !file.is_file() {
                return Ok(());
            }
            return Err(Fault::usage(cannot)
                .cause(format!("the branch's file `{}` names no commit", file.display()))
                .hint("`git fsck` finds what is broken; `git reflog` lists earlier commits"));
        }
        Err(self.fault(stderr, cannot))
    }

    /// Nearest `.git` folder above that looks like a repository and was not accepted as one.
    fn damaged(&self) -> Option<PathBuf> {
        let folders = self.root.ancestors().map(|folder| folder.join(".git"));
        folders.into_iter().find(|git| ["HEAD", "objects", "config"].iter().any(|name| git.join(name).exists()))
    }

    fn has_repository(&self) -> bool {
        self.root.ancestors().any(|folder| folder.join(".git").exists())
    }

    /// True if git can be asked about this folder.
    pub fn is_repository(&self) -> bool {
        self.has_repository()
            && crate::process::found("git").is_some()
            && self.command().args(["rev-parse", "--git-dir"]).output().is_ok_and(|output| output.status.success())
    }

    /// Reason why there is no commit, in a few words for a report.
    pub fn absence(&self) -> &'static str {
        match (crate::process::found("git").is_some(), self.has_repository()) {
            (false, true) => "`git` is not installed, so the commit is unknown",
            (_, false) => "this folder is not in a git repository",
            (true, true) => "the repository has no commits",
        }
    }

    pub(super) fn fault(&self, stderr: &[u8], what: impl Into<String>) -> Fault {
        let said = String::from_utf8_lossy(stderr);
        let said = said.trim();
        let fault = Fault::new(Exit::Usage, what).cause(if said.is_empty() { "git gave no reason" } else { said });
        let root = self.root.display();
        let has = |text: &str| said.contains(text);
        if has("dubious ownership") {
            // Git names the folder that it checked, which may be one above.
            let folder = said.split('\'').nth(1).map_or_else(|| root.to_string(), str::to_owned);
            return fault
                .hint(format!("allow it: `git config --global --add safe.directory {folder}`"))
                .hint(format!("or make the folder yours: `chown -R \"$(id -u)\" {folder}`"));
        }
        if has("not a git repository (or any") {
            return fault.hint(format!("`{root}` is in no git repository that git accepts: `git init`, or clone it"));
        }
        if has("not a git repository: ") {
            return fault
                .cause("the `.git` file names a repository that is missing (a moved work tree or submodule)")
                .hint("in the main repository: `git worktree repair`; or clone again");
        }
        if has("bad config") || has("unknown repository extension") || has("repo version is") {
            return fault.hint(format!("correct `{root}/.git/config`; a newer git may know the extension"));
        }
        if has("promisor") || has("lazy fetching disabled") || has("transport 'none'") || has("not allowed") {
            return fault
                .cause("this is a partial clone, and the object was not fetched yet")
                .hint("complete the clone while its remote is reachable: `git fetch --refetch --no-filter`");
        }
        if has("Permission denied") {
            return fault.hint(format!("make `{root}/.git` readable for this user"));
        }
        if [
            "corrupt",
            "inflate",
            "is empty",
            "unable to unpack",
            "bad object",
            "missing blob",
            "missing tree",
            "loose object",
        ]
        .iter()
        .any(|word| has(word))
        {
            return fault
                .hint("`git fsck --full` lists what is broken")
                .hint("`git fetch --refetch` brings lost objects again; else clone again");
        }
        fault.hint(format!("`git -C {root} log -1` shows the same"))
    }
}

/// True if git failed because a name means nothing in this clone.
pub(super) fn is_unknown(stderr: &[u8]) -> bool {
    let said = String::from_utf8_lossy(stderr);
    ["Not a valid commit name", "Not a valid object name", "not a valid object name", "Needed a single revision"]
        .iter()
        .any(|text| said.contains(text))
}
