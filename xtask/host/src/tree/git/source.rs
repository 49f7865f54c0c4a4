//! The files of a commit of another repository, as an archive to build a package from.
//!
//! Git fetches with the credentials of this machine. What git's own settings and attributes of a person would change in the
//! archive is switched off.

use super::remote::with_token;
use crate::process::Command;
use std::path::{Path, PathBuf};
use xtask_model::fault::{Exit, Fault};
use xtask_model::spec::requirements::{Checkout, secret};

/// An archive with all files in one folder.
#[derive(Debug)]
pub struct SourceArchive {
    pub path: PathBuf,
    /// Paths of submodules, whose files it does not have.
    pub submodules: Vec<String>,
}

/// Settings of a person or machine that would change the bytes of an archive, or run a program of the repository.
const SETTINGS: [&str; 7] = [
    "core.attributesFile=/dev/null",
    "core.autocrlf=false",
    "core.eol=lf",
    "core.hooksPath=/dev/null",
    "gc.auto=0",
    "protocol.ext.allow=never",
    "tar.umask=0022",
];

/// Fetches a commit into an empty folder and archives it. `url` is the checkout's, with a user and password where it wants them.
///
/// # Errors
/// A missing git; a repository that cannot be reached or refuses access; a commit that it does not have.
pub fn archive(checkout: &Checkout<'_>, url: &str, folder: &Path) -> Result<SourceArchive, Fault> {
    let Checkout { url: plain, commit, .. } = *checkout;
    let git = || {
        let call = Command::new("git").arg("--git-dir").arg(folder.join("git"));
        let call = SETTINGS.iter().fold(call, |call, setting| call.args(["-c", setting]));
        let call = call.current_dir(folder).env("GIT_TERMINAL_PROMPT", "0").env_remove("GIT_WORK_TREE");
        call.env_remove("GIT_INDEX_FILE").env_remove("GIT_OBJECT_DIRECTORY")
    };
    let shown = secret::redacted(plain);
    let failed = |said: &[u8]| {
        let said = String::from_utf8_lossy(said).replace(url, &shown);
        Fault::network(format!("cannot fetch commit `{}` of `{shown}`", &commit[..12]))
            .cause(secret::redacted(said.trim()))
            .hint(format!("check the address, and that git may read it: `git ls-remote {shown}`"))
    };
    git().args(["init", "--quiet", "--bare", "--template="]).read(Exit::Missing)?;
    // A password is not an argument: git replaces the address by its environment.
    let fetch = |what: &[&str]| {
        let call = if url == plain { with_token(git(), plain) } else { instead(git(), url, plain) };
        call.args(["fetch", "--quiet", "--no-tags", "--no-recurse-submodules"]).args(what).output()
    };
    let mut fetched = fetch(&["--depth=1", "--", plain, commit])?;
    if !fetched.status.success() {
        // A server need not serve a commit that no branch names.
        let whole = fetch(&["--", plain, "+refs/*:refs/*"])?;
        let there = git().args(["cat-file", "-e", &format!("{commit}^{{commit}}")]).output()?.status.success();
        if !there {
            return Err(failed(if whole.status.success() { &fetched.stderr } else { &whole.stderr }));
        }
        fetched = whole;
    }
    debug_assert!(fetched.status.success());
    let path = folder.join("source.tar");
    let archived = git().args(["archive", "--format=tar", "--prefix=source/", "-o"]).arg(&path).arg(commit).output()?;
    if !archived.status.success() {
        return Err(failed(&archived.stderr));
    }
    let listed = git().args(["ls-tree", "-r", "-z", "--full-tree", commit]).read(Exit::Build)?;
    let submodule = |line: &str| line.strip_prefix("160000 ")?.split_once('\t').map(|(_, path)| path.to_owned());
    Ok(SourceArchive { path, submodules: listed.split('\0').filter_map(submodule).collect() })
}

/// A call that asks an address by another one, which may have a user and password.
fn instead(call: Command, url: &str, plain: &str) -> Command {
    let count: usize = std::env::var("GIT_CONFIG_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    call.env("GIT_CONFIG_COUNT", (count + 1).to_string())
        .env(format!("GIT_CONFIG_KEY_{count}"), format!("url.{url}.insteadOf"))
        .env(format!("GIT_CONFIG_VALUE_{count}"), plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_archived_and_submodules_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        let git = |args: &[&str]| {
            let names = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
            Command::new("git").args(names).args(args).current_dir(&from).read(Exit::Usage).unwrap()
        };
        std::fs::create_dir(&from).unwrap();
        git(&["init", "--quiet"]);
        std::fs::write(from.join("a.py"), "x = 1\n").unwrap();
        git(&["add", "a.py"]);
        git(&["commit", "--quiet", "-m", "one"]);
        let commit = git(&["rev-parse", "HEAD"]);
        git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},libs/sub")]);
        git(&["commit", "--quiet", "-m", "two"]);
        let second = git(&["rev-parse", "HEAD"]);
        let url = format!("git+file://{}@{}", from.display(), second.trim());
        let found = Checkout::parse(&url).unwrap();
        let place = |name: &str| {
            let place = folder.path().join(name);
            std::fs::create_dir(&place).unwrap();
            place
        };
        let made = archive(&found, found.url, &place("one")).unwrap();
        assert_eq!(made.submodules, ["libs/sub"]);
        let again = archive(&found, found.url, &place("two")).unwrap();
        assert_eq!(std::fs::read(&made.path).unwrap(), std::fs::read(again.path).unwrap());
        let gone = format!("git+file://{}@{}", from.display(), "0a".repeat(20));
        let fault = archive(&Checkout::parse(&gone).unwrap(), found.url, &place("three")).unwrap_err();
        assert_eq!(fault.exit, Exit::Network);
    }
}
