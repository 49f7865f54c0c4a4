//! Git's view of the tree: the only module that calls git.
//!
//! A folder outside every repository, or a repository without commits, is a fact like any other: [`Git::commit`] is then
//! `None`. Every other failure of git is a fault with git's own words (`fault`). No call runs a program that the
//! repository's configuration names: see `Git::command`. `objects` asks for git's objects, `revision` reads a commit's files
//! from them.

mod checkout;
mod errors;
mod lfs;
mod objects;
mod places;
pub mod remote;
pub mod revision;
pub mod source;
#[cfg(test)]
mod tests;

pub use lfs::pointer;
use xtask_model::image::commit::{Ancestry, Commit};

pub use objects::Objects;
pub use places::format;
pub use revision::Revision;

use crate::process::Command;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::change::event;
use xtask_model::image::tags::is_version;

#[derive(Clone, Debug)]
pub struct Git {
    root: PathBuf,
}

/// A commit, and what it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its full name.
    pub commit: String,
    /// First line of its message.
    pub subject: String,
    /// Files that differ from its first parent.
    pub changed: Vec<String>,
}

impl Git {
    /// Git in `root`.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// A call of git that depends on no person's configuration, takes no lock that an editor waits for, and runs no program but
    /// git: not the repository's `core.fsmonitor`, hooks, pagers or transports. Filters, text conversions and external diffs run
    /// only in commands that compare the working tree, and none of these is ever called. Replaced objects are not replaced: a
    /// commit's name means the commit.
    pub(crate) fn command(&self) -> Command {
        const SETTINGS: [&str; 9] = [
            "core.quotePath=false",
            "core.fsmonitor=false",
            "core.hooksPath=/dev/null",
            "core.alternateRefsCommand=",
            "core.sshCommand=false",
            "core.askPass=",
            "credential.helper=",
            "gc.auto=0",
            "maintenance.auto=false",
        ];
        let front = ["--no-pager", "--no-optional-locks", "--no-replace-objects"];
        let settings = SETTINGS.iter().flat_map(|setting| ["-c", setting]);
        // A missing object of a partial clone is not fetched: older versions know only the second variable.
        self.plain().args(front).args(settings).env("GIT_NO_LAZY_FETCH", "1").env("GIT_ALLOW_PROTOCOL", "none")
    }

    /// True if a file of attributes in a commit speaks of Git LFS, or that cannot be found out.
    pub fn may_have_pointers(&self, commit: &str) -> bool {
        let call =
            self.command().args(["grep", "-q", "-I", "-F", "-e", "lfs", commit, "--", ":(top,glob)**/.gitattributes"]);
        call.output().is_ok_and(|output| output.status.code() != Some(1))
    }

    /// The same for a partial clone whose own configuration names nothing but where to fetch from, see
    /// [`Git::fetches_safely`]: programs are then those of the person who calls.
    fn fetching_command(&self) -> Command {
        let settings =
            ["core.quotePath=false", "core.fsmonitor=false", "core.hooksPath=/dev/null", "maintenance.auto=false"];
        let front = ["--no-pager", "--no-optional-locks", "--no-replace-objects"];
        self.plain().args(front).args(settings.iter().flat_map(|setting| ["-c", setting]))
    }

    pub(crate) fn plain(&self) -> Command {
        // Messages are compared, and so asked for in one language.
        Command::new("git").arg("-C").arg(&self.root).env("LC_ALL", "C").env("GIT_TERMINAL_PROMPT", "0")
    }

    /// True if git may fetch what a partial clone lacks: the repository's own configuration holds only keys that are known to
    /// run nothing. A list of what is harmless, so that a key of a later version is not.
    fn fetches_safely(&self) -> Result<bool, Fault> {
        let output = self.command().args(["config", "--list", "--includes", "--show-scope", "-z"]).output()?;
        if !output.status.success() {
            return Ok(false);
        }
        // Scope, key with value, scope, key with value.
        let words: Vec<&[u8]> = output.stdout.split(|byte| *byte == 0).collect();
        let harmless = |pair: &[&[u8]]| match pair {
            [b"local" | b"worktree", setting] => is_harmless(&String::from_utf8_lossy(setting)),
            _ => true,
        };
        Ok(words.chunks(2).all(harmless))
    }

    /// True if this is a partial clone, whose missing objects are elsewhere.
    fn is_partial(&self) -> bool {
        let call =
            self.command().args(["config", "--get-regexp", r"^(extensions\.partialclone|remote\..*\.promisor)$"]);
        call.output().is_ok_and(|output| output.status.success())
    }

    /// True if the commit's own `.gitattributes` give a file CRLF at the end of its lines. Attributes that only this clone has do
    /// not count, and older versions of git cannot say.
    pub fn ends_lines_with_crlf(&self, commit: &str, path: &Path) -> Result<bool, Fault> {
        let own = self.command().args(["rev-parse", "--git-path", "info/attributes"]).output()?;
        if self.root.join(String::from_utf8_lossy(&own.stdout).trim_end()).exists() {
            return Ok(false);
        }
        let call = self.command().args(["-c", "core.attributesFile=/dev/null", "check-attr", "-z"]);
        let call = call.arg(format!("--source={commit}")).args(["eol", "--"]).arg(path).env("GIT_ATTR_NOSYSTEM", "1");
        let output = call.output()?;
        Ok(output.status.success() && output.stdout.split(|byte| *byte == 0).nth(2) == Some(b"crlf"))
    }

    /// The rules by which git ignores these paths below the root (`.gitignore:3 *.env`), for those that it ignores and does not
    /// track. A folder need not end with a slash.
    pub fn ignored(&self, paths: &[&Path]) -> Result<BTreeMap<PathBuf, String>, Fault> {
        use std::os::unix::ffi::OsStrExt as _;
        let mut paths = paths.to_vec();
        let output = loop {
            if paths.is_empty() {
                return Ok(BTreeMap::new());
            }
            let mut question = Vec::new();
            for path in &paths {
                question.extend_from_slice(b"./");
                question.extend_from_slice(path.as_os_str().as_bytes());
                question.push(0);
            }
            let output =
                self.command().args(["check-ignore", "--stdin", "-z", "--verbose"]).stdin(question).output()?;
            if matches!(output.status.code(), Some(0 | 1)) {
                break output;
            }
            // Files of a submodule are another repository's business.
            let said = String::from_utf8_lossy(&output.stderr);
            let mut quoted = said.split('\'').skip(1).step_by(2);
            let (path, submodule) = (quoted.next().unwrap_or_default(), quoted.next().unwrap_or_default());
            // Git names the submodule from the repository's top, the path from here.
            let above = Path::new(path.trim_start_matches("./")).ancestors().skip(1);
            let folder =
                above.into_iter().find(|folder| *folder != Path::new("") && Path::new(submodule).ends_with(folder));
            let before = paths.len();
            paths.retain(|path| !folder.is_some_and(|folder| path.starts_with(folder)));
            if paths.len() == before {
                return Err(self.fault(&output.stderr, "cannot ask git which files it ignores"));
            }
        };
        // Four words for each: the file of the rule, its line, the pattern, the path.
        let words: Vec<&[u8]> = output.stdout.split(|byte| *byte == 0).collect();
        let mut found = BTreeMap::new();
        for rule in words.chunks_exact(4) {
            let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
            let path = rule[3].strip_prefix(b"./").unwrap_or(rule[3]);
            // A pattern with `!` takes a path back.
            if !rule[2].starts_with(b"!") {
                let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
                found.insert(path, format!("{}:{} `{}`", text(rule[0]), text(rule[1]), text(rule[2])));
            }
        }
        Ok(found)
    }

    /// The commit that is checked out, with what CI's environment knows better than a detached head.
    pub fn commit(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<Option<Commit>, Fault> {
        if crate::process::found("git").is_none() {
            return Ok(None);
        }
        // One call for id, time, parents and names: starting git is what costs. The refs are named so that no configuration hides one.
        let refs = ["--decorate-refs=HEAD", "--decorate-refs=refs/heads/*", "--decorate-refs=refs/tags/*"];
        let call =
            self.command().args(["log", "-1", "--no-show-signature", "--decorate=full", "--format=%H%n%ct%n%P%n%D"]);
        let output = call.args(refs).arg("HEAD").output()?;
        if !output.status.success() {
            return self.no_commit(&output.stderr).map(|()| None);
        }
        let shown = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        let mut lines = shown.lines();
        let (id, time) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let Ok(time) = time.parse() else {
            return Err(Fault::new(Exit::Bug, format!("cannot read git's answer `{shown}`")));
        };
        let parents = lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        let names: Vec<&str> = lines.next().unwrap_or_default().split(", ").collect();
        let branch = names.iter().find_map(|name| name.strip_prefix("HEAD -> refs/heads/"));
        let ci_branch =
            event::reference(environment).and_then(|name| name.strip_prefix("refs/heads/").map(str::to_owned));
        let mut versions: Vec<String> = names
            .iter()
            .filter_map(|name| name.strip_prefix("tag: refs/tags/v"))
            .filter(|version| is_version(version))
            .map(str::to_owned)
            .collect();
        versions.sort();
        let branch = ci_branch.or_else(|| branch.map(str::to_owned));
        Ok(Some(Commit { id: id.to_owned(), time, parents, branch, versions }))
    }

    /// Every branch of `origin`, as this clone knows them; `None` if it does not know all of them.
    pub fn branches(&self) -> Result<Option<BTreeSet<String>>, Fault> {
        let ask = |args: &[&str]| -> Result<String, Fault> {
            let output = self.command().args(args).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let fetches = ask(&["config", "--get-all", "remote.origin.fetch"])?;
        let shallow = ask(&["rev-parse", "--is-shallow-repository"])?;
        if !fetches.contains("refs/heads/*:refs/remotes/origin/*") || shallow.trim() != "false" {
            return Ok(None);
        }
        let listed = ask(&["for-each-ref", "--format=%(refname)", "refs/remotes/origin/", "refs/heads/"])?;
        let name = |line: &str| {
            let name = line.strip_prefix("refs/remotes/origin/").or_else(|| line.strip_prefix("refs/heads/"))?;
            (name != "HEAD").then(|| name.to_owned())
        };
        Ok(Some(listed.lines().filter_map(name).collect()))
    }

    /// The newest commit that both have in their history; `None` where this clone knows of none.
    pub fn merge_base(&self, one: &str, other: &str) -> Result<Option<String>, Fault> {
        let output = self.command().args(["merge-base", "--end-of-options", one, other]).output()?;
        match output.status.code() {
            Some(0) => Ok(Some(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())),
            Some(1) => Ok(None),
            _ if errors::is_unknown(&output.stderr) => Ok(None),
            _ => Err(self.fault(&output.stderr, format!("cannot compare commit `{one}` with `{other}`"))),
        }
    }

    /// The files that differ between a commit and another one, or the working tree with its untracked files. Their paths are from this
    /// folder, with `..` where they are outside of it. No filter runs: a file that a filter or line endings change counts as changed
    /// once its times differ from the index's.
    pub fn changed(&self, from: &str, to: Option<&str>) -> Result<Vec<String>, Fault> {
        let plain =
            ["--name-only", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=none", "--end-of-options"];
        let call = match to {
            Some(to) => self.command().args(["diff-tree", "-r"]).args(plain).args([from, to]),
            None => self.command().args(["diff-index", "--cached"]).args(plain).arg(from),
        };
        let mut found = self.relative_to_root(self.paths(&call, &format!("cannot compare with commit `{from}`"))?)?;
        if to.is_none() {
            found.extend(self.edited()?);
            let call = self.command().args(["ls-files", "--others", "--exclude-standard", "-z"]);
            found.extend(self.paths(&call, "cannot list untracked files")?);
            found.sort();
            found.dedup();
        }
        Ok(found)
    }

    /// The commits that `to` has and `from` does not, by first parents, the oldest first, each with the files in which it differs from
    /// its first parent. Paths as in [`Self::changed`].
    pub fn first_parents(&self, from: &str, to: &str) -> Result<Vec<Step>, Fault> {
        let log = ["log", "--first-parent", "--diff-merges=first-parent", "--reverse", "--name-only", "-z"];
        let plain =
            ["--no-renames", "--no-ext-diff", "--no-textconv", "--ignore-submodules=none", "--no-show-signature"];
        let range = [format!("^{from}"), to.to_owned()];
        let call = self.command().args(log).args(plain).args(["--root", "--no-relative", "--format=%x01%H %s"]);
        let call = call.arg("--end-of-options").args(range);
        let printed = self.paths(&call, &format!("cannot list the commits from `{from}` to `{to}`"))?;
        let printed: Vec<String> = printed.iter().map(|text| text.trim_start_matches('\n').to_owned()).collect();
        // One process finds the folder for the paths of all commits.
        let (headers, paths): (Vec<_>, Vec<_>) =
            printed.into_iter().enumerate().partition(|(_, text)| text.starts_with('\u{1}'));
        let (places, paths): (Vec<usize>, Vec<String>) = paths.into_iter().unzip();
        let mut paths = places.into_iter().zip(self.relative_to_root(paths)?).peekable();
        let mut steps = Vec::with_capacity(headers.len());
        let ends: Vec<usize> = headers.iter().skip(1).map(|(place, _)| *place).chain([usize::MAX]).collect();
        for ((_, header), end) in headers.into_iter().zip(ends) {
            let header = header.trim_start_matches('\u{1}');
            let (commit, subject) = header.split_once(' ').unwrap_or((header, ""));
            let mut changed = Vec::new();
            while let Some((_, path)) = paths.next_if(|(place, _)| *place < end) {
                changed.push(path);
            }
            steps.push(Step { commit: commit.to_owned(), subject: subject.to_owned(), changed });
        }
        Ok(steps)
    }

    /// The files of the index whose contents, as they are on disk, differ from it. Their times are compared as git does it; where these
    /// differ the contents are hashed as they are, because git would run the repository's filters.
    fn edited(&self) -> Result<Vec<String>, Fault> {
        let what = "cannot compare the working tree with the index";
        let index = self.command().args(["rev-parse", "--git-path", "index"]).read(Exit::Usage)?;
        let written = std::fs::metadata(self.root.join(index.trim_end())).and_then(|data| data.modified()).ok();
        let call = self.command().args(["ls-files", "--stage", "--debug", "-z", ":/"]);
        let output = call.output()?;
        if !output.status.success() {
            return Err(self.fault(&output.stderr, what));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let (mut edited, mut suspects, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        // `MODE ID STAGE`, a tab, the path, a NUL, and five lines of what the file was like; then the next entry.
        let mut rest = &*text;
        while let Some((entry, after)) = rest.split_once('\0') {
            let end = after.match_indices('\n').nth(4).map_or(after.len(), |(at, _)| at + 1);
            let (seen, next) = after.split_at(end);
            rest = next;
            let Some((object, path)) = entry.split_once('\t') else { continue };
            match self.compare_times(path, seen, written) {
                Some(true) => {}
                Some(false) if !path.contains('\n') => {
                    ids.push(object.split(' ').nth(1).unwrap_or_default().to_owned());
                    suspects.push(path.to_owned());
                }
                _ => edited.push(path.to_owned()),
            }
        }
        if suspects.is_empty() {
            return Ok(edited);
        }
        let call = self.command().args(["hash-object", "--no-filters", "--stdin-paths"]);
        // Absolute, for git takes these from the top of the repository.
        let root = std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
        let files: String = suspects.iter().map(|path| format!("{}\n", root.join(path).display())).collect();
        let output = call.stdin(files).output()?;
        let hashed = String::from_utf8_lossy(&output.stdout);
        // Where git could not read a file, what follows counts as edited.
        let mut now = hashed.lines();
        edited.extend(suspects.into_iter().zip(ids).filter(|(_, id)| now.next() != Some(id)).map(|(path, _)| path));
        Ok(edited)
    }

    /// True if a file is as the index saw it, by size and time; `None` where it is gone or of another kind.
    fn compare_times(&self, path: &str, seen: &str, index: Option<std::time::SystemTime>) -> Option<bool> {
        let data = std::fs::symlink_metadata(self.root.join(path)).ok().filter(|data| !data.is_dir())?;
        if data.is_symlink() {
            return Some(true).filter(|_| field(seen, "size: ").parse() == Ok(data.len()));
        }
        let (seconds, nanos) = field(seen, "mtime: ").split_once(':').unwrap_or_default();
        let same = field(seen, "size: ").parse() == Ok(data.len())
            && seconds.parse() == Ok(data.mtime())
            && nanos.parse() == Ok(data.mtime_nsec());
        // A file written in the same moment as the index may have changed since without another time.
        let before = data.modified().ok().zip(index).is_some_and(|(file, index)| file < index);
        Some(same && before)
    }

    /// Paths from the top of the repository, as they are from this folder.
    fn relative_to_root(&self, mut paths: Vec<String>) -> Result<Vec<String>, Fault> {
        let below = if paths.is_empty() { String::new() } else { self.prefix()? };
        if !below.is_empty() {
            let (inside, outside) = (format!("{below}/"), "../".repeat(below.split('/').count()));
            for path in &mut paths {
                *path = path.strip_prefix(&inside).map_or_else(|| format!("{outside}{path}"), str::to_owned);
            }
        }
        Ok(paths)
    }

    /// The paths that a command prints with a NUL after each.
    fn paths(&self, call: &Command, what: &str) -> Result<Vec<String>, Fault> {
        let output = call.output()?;
        if !output.status.success() {
            return Err(self.fault(&output.stderr, what.to_owned()));
        }
        let paths = output.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        Ok(paths.map(|path| String::from_utf8_lossy(path).into_owned()).collect())
    }

    /// True if `ancestor` is an ancestor of `descendant`, or the same commit.
    pub fn ancestry(&self, ancestor: &str, descendant: &str) -> Result<Ancestry, Fault> {
        let output =
            self.command().args(["merge-base", "--is-ancestor", "--end-of-options", ancestor, descendant]).output()?;
        match output.status.code() {
            Some(0) => Ok(Ancestry::Ancestor),
            Some(1) => Ok(Ancestry::NotAncestor),
            _ if errors::is_unknown(&output.stderr) => Ok(Ancestry::Unknown),
            _ => Err(self.fault(&output.stderr, format!("cannot compare commit `{ancestor}` with `{descendant}`"))),
        }
    }
}

/// The word after a name in what `ls-files --debug` prints.
fn field<'t>(text: &'t str, name: &str) -> &'t str {
    let rest = text.split_once(name).map_or("", |(_, rest)| rest);
    rest.split(['\t', '\n']).next().unwrap_or_default()
}

/// True if a setting of a repository's own configuration (`key\nvalue`) can make a fetch run no program. Keys are lowercase but
/// for the part in their middle.
fn is_harmless(setting: &str) -> bool {
    const CORE: [&str; 9] = [
        "repositoryformatversion",
        "filemode",
        "bare",
        "logallrefupdates",
        "ignorecase",
        "precomposeunicode",
        "symlinks",
        "autocrlf",
        "quotepath",
    ];
    const REMOTE: [&str; 6] = ["url", "fetch", "promisor", "partialclonefilter", "tagopt", "pushurl"];
    let (key, value) = setting.split_once('\n').unwrap_or((setting, ""));
    let section = key.split('.').next().unwrap_or_default();
    let name = key.rsplit('.').next().unwrap_or_default();
    match section {
        "core" => CORE.contains(&name),
        // `ext::PROGRAM` and other helpers are named by the address.
        "remote" => REMOTE.contains(&name) && !(name.ends_with("url") && value.contains("::")),
        "http" => name == "extraheader",
        "branch" | "extensions" | "user" | "advice" | "init" | "includeif" | "safe" => true,
        _ => false,
    }
}
