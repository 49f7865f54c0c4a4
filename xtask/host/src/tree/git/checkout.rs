//! A commit's files in a folder of their own, for a build that nothing of the working tree can reach.
//!
//! The folder is a repository that borrows the objects of this one. Nothing is copied from its configuration, no hook runs, and
//! nothing is fetched.

use super::Git;
use std::path::{Path, PathBuf};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::tags::is_version;

impl Git {
    /// True if this clone has a commit; `id` is its full name.
    pub fn has_commit(&self, id: &str) -> Result<bool, Fault> {
        if !is_full_name(id) {
            return Ok(false);
        }
        Ok(self.command().args(["cat-file", "-e", &format!("{id}^{{commit}}")]).output()?.status.success())
    }

    /// True if a tag `vVERSION` of this clone names a commit.
    pub fn has_version(&self, id: &str, version: &str) -> Result<bool, Fault> {
        if !is_version(version) {
            return Ok(false);
        }
        let tag = format!("refs/tags/v{version}^{{commit}}");
        let output = self.command().args(["rev-parse", "--verify", "--quiet", "--end-of-options", &tag]).output()?;
        Ok(output.status.success() && String::from_utf8_lossy(&output.stdout).trim() == id)
    }

    /// The tree of a commit.
    pub fn tree_of(&self, id: &str) -> Result<String, Fault> {
        let tree = format!("{id}^{{tree}}");
        let output = self.command().args(["rev-parse", "--verify", "--quiet", "--end-of-options", &tree]).output()?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(no_such_commit(id)),
        }
    }

    /// Checks a commit out into an empty folder, with the tag of a version if one is given, and returns the folder in it that
    /// corresponds to this one.
    ///
    /// # Errors
    /// The commit is not in this clone, or objects of it are missing, as in a partial clone.
    pub fn check_out(&self, id: &str, version: Option<&str>, to: &Path) -> Result<PathBuf, Fault> {
        if !self.has_commit(id)? {
            return Err(no_such_commit(id));
        }
        let what = || format!("cannot check out commit `{id}`");
        let cannot = |error: std::io::Error| Fault::build(what()).cause(error);
        let format = if id.len() == 64 { "sha256" } else { "sha1" };
        let new = Self::at(to);
        new.done(&["init", "--quiet", "--template=", &format!("--object-format={format}")], &what())?;
        let (objects, shallow) = (self.path_of("objects")?, self.path_of("shallow")?);
        let mut borrowed = objects.into_os_string();
        borrowed.push("\n");
        std::fs::create_dir_all(to.join(".git/objects/info")).map_err(cannot)?;
        std::fs::write(to.join(".git/objects/info/alternates"), borrowed.as_encoded_bytes()).map_err(cannot)?;
        if shallow.is_file() {
            std::fs::copy(&shallow, to.join(".git/shallow")).map_err(cannot)?;
        }
        let checkout = ["-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", id];
        new.done(&checkout, &what()).map_err(|fault| {
            fault.hint("complete the clone: `git fetch --unshallow`, or `git fetch --refetch` in a partial one")
        })?;
        if let Some(version) = version {
            new.done(&["update-ref", &format!("refs/tags/v{version}"), id], &what())?;
        }
        let prefix = self.prefix()?;
        let folder = to.join(prefix);
        if !folder.is_dir() {
            return Err(Fault::usage(format!("this folder is not in commit `{}`", &id[..12])));
        }
        Ok(folder)
    }

    /// Absolute path of a file or folder of git's own.
    fn path_of(&self, name: &str) -> Result<PathBuf, Fault> {
        let path = self.command().args(["rev-parse", "--git-path", name]).read(Exit::Usage)?;
        let path = self.root.join(path.trim_end_matches('\n'));
        std::path::absolute(&path)
            .map_err(|error| Fault::usage(format!("cannot read `{}`", path.display())).cause(error))
    }

    fn done(&self, args: &[&str], what: &str) -> Result<(), Fault> {
        let output = self.command().args(args).output()?;
        if output.status.success() { Ok(()) } else { Err(self.fault(&output.stderr, what)) }
    }
}

/// True for 40 or 64 hexadecimal digits: what an image claims is the word of whoever pushed it.
fn is_full_name(id: &str) -> bool {
    matches!(id.len(), 40 | 64) && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn no_such_commit(id: &str) -> Fault {
    Fault::usage(format!("commit `{}` is not in this clone", id.escape_default()))
        .cause("it is on a branch that was not fetched, or beyond a shallow clone")
        .hint(format!("fetch it: `git fetch origin {}`, or `git fetch --unshallow`", id.escape_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Command;

    fn git(root: &Path, args: &[&str]) -> String {
        let call = Command::new("git").arg("-C").arg(root).args(["-c", "user.name=a", "-c", "user.email=a@b"]);
        call.args(args).read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}")).trim().to_owned()
    }

    fn repository() -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("one");
        std::fs::create_dir_all(root.join("deep")).unwrap();
        std::fs::write(root.join("deep/file"), "committed").unwrap();
        git(&root, &["init", "-q"]);
        git(&root, &["add", "-A"]);
        git(&root, &["commit", "-q", "-m", "one"]);
        let id = git(&root, &["rev-parse", "HEAD"]);
        std::fs::write(root.join("deep/file"), "edited").unwrap();
        (folder, id)
    }

    #[test]
    fn a_commit_is_checked_out_whatever_the_working_tree_has() {
        let (folder, id) = repository();
        let (root, to) = (folder.path().join("one"), folder.path().join("two"));
        std::fs::create_dir(&to).unwrap();
        // A hook of the repository is not one of the checkout.
        git(&root, &["config", "core.hooksPath", root.join("deep").to_str().unwrap()]);
        git(&root, &["tag", "v1.2.3"]);
        let deep = Git::at(&root.join("deep"));
        assert!(deep.has_version(&id, "1.2.3").unwrap() && !deep.has_version(&id, "1.2.4").unwrap());
        let made = deep.check_out(&id, Some("1.2.3"), &to).unwrap();
        assert_eq!(made, to.join("deep"));
        assert_eq!(std::fs::read_to_string(made.join("file")).unwrap(), "committed");
        let commit = Git::at(&made).commit(&|_| None).unwrap().unwrap();
        assert_eq!((commit.id, commit.versions), (id, vec!["1.2.3".to_owned()]));
        assert_eq!(git(&to, &["status", "--porcelain"]), "");
    }

    #[test]
    fn a_commit_of_a_shallow_clone_is_checked_out() {
        let (folder, _) = repository();
        let (root, to) = (folder.path().join("one"), folder.path().join("two"));
        git(&root, &["commit", "-q", "-a", "-m", "two"]);
        let url = format!("file://{}", root.display());
        git(folder.path(), &["clone", "-q", "--depth=1", &url, "shallow"]);
        let id = git(&root, &["rev-parse", "HEAD"]);
        std::fs::create_dir(&to).unwrap();
        let shallow = Git::at(&folder.path().join("shallow"));
        shallow.check_out(&id, None, &to).unwrap();
        let first = git(&root, &["rev-parse", "HEAD^"]);
        let fault = shallow.check_out(&first, None, &to).unwrap_err();
        assert!(fault.what.contains(&first) && fault.hints[0].contains("git fetch"), "{fault}");
    }

    #[test]
    fn an_invalid_name_of_a_commit_does_not_reach_git() {
        let (folder, _) = repository();
        let git = Git::at(&folder.path().join("one"));
        for name in ["HEAD", "--help", "", "0123456789012345678901234567890123456789", "v1\n"] {
            assert!(!git.has_commit(name).unwrap(), "{name}");
            let fault = git.check_out(name, None, folder.path()).unwrap_err();
            assert!(fault.what.ends_with("is not in this clone"), "{fault}");
        }
        assert!(!git.has_version("x", "../../heads/main").unwrap());
    }
}
