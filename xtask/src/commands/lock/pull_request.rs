//! The locks that changed, as one pull request.

use std::collections::BTreeMap;
use std::path::Path;
use xtask_host::github::{self, Proposal};
use xtask_host::gitlab;
use xtask_host::tree::facts::Tree;
use xtask_host::tree::files::Files as _;
use xtask_host::tree::git::{Git, Revision};
use xtask_host::tree::inputs::projects;
use xtask_host::{file, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::policy::Provider;
use xtask_model::spec::lock::{self, ImagesLock, Lock};

const TITLE: &str = "Update locked dependencies";

/// Lines of a pull request that name changes.
const SHOWN: usize = 100;

/// A pull request that can be opened.
pub(super) struct PullRequest {
    commit: String,
    /// The policy's folder, from the top of the repository.
    prefix: String,
}

impl PullRequest {
    /// # Errors
    /// Anything but the locks differs from the commit: the locks would not be those of a commit with nothing else.
    pub(super) fn prepare(trees: &[Tree]) -> Result<Self, Fault> {
        let tree = &trees[0];
        let git = Git::at(&tree.root);
        let commit = tree.commit.as_ref().ok_or_else(|| Fault::usage(git.absence()).needed_by("`--pull-request`"))?;
        let default = &tree.policy.project.default_branch;
        if let Some(branch) = commit.branch.as_ref().filter(|branch| *branch != default) {
            return Err(Fault::usage(format!("`{branch}` is checked out"))
                .needed_by("`--pull-request`")
                .cause(format!("the pull request is for `{default}`, and would bring the commits of `{branch}` too"))
                .hint(format!("check it out: `git switch {default}`")));
        }
        let others: Vec<String> =
            git.changed(&commit.id, None)?.into_iter().filter(|path| !is_written(trees, path)).collect();
        if let Some(first) = others.first() {
            let what = format!("{} files differ from the commit, `{first}` first", others.len());
            return Err(Fault::usage(what)
                .needed_by("`--pull-request`")
                .cause("a pull request with the locks alone would not fit to them")
                .hint("commit or stash them: `git stash --include-untracked`"));
        }
        Ok(Self { commit: commit.id.clone(), prefix: git.prefix()? })
    }

    /// Proposes the locks that differ from the commit, if any does.
    pub(super) fn open(&self, trees: &[Tree]) -> anyhow::Result<()> {
        let tree = &trees[0];
        let git = Git::at(&tree.root);
        let changed: Vec<String> =
            git.changed(&self.commit, None)?.into_iter().filter(|path| is_written(trees, path)).collect();
        if changed.is_empty() {
            terminal::step("unchanged", "every lock is as the commit has it: no pull request");
            return Ok(());
        }
        let below = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let committed = Revision::open(&tree.root, &self.commit, tree.offline)?;
        let (mut files, mut changes) = (BTreeMap::new(), Vec::new());
        for path in &changed {
            let file = tree.root.join(path);
            let text = match std::fs::read_to_string(&file) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                read => Some(read.map_err(|error| file::cannot_read(&file, error))?),
            };
            let before = committed.read(Path::new(path))?.unwrap_or_default();
            changes.extend(described(
                trees,
                Path::new(path),
                [&String::from_utf8_lossy(&before), text.as_deref().unwrap_or_default()],
            ));
            files.insert(format!("{below}{path}"), text);
        }
        let branch = match self.prefix.as_str() {
            "" => "xtask/lock".to_owned(),
            folder => format!("xtask/lock-{}", folder.replace('/', "-")),
        };
        let proposal = Proposal {
            root: &tree.root,
            base: &tree.policy.project.default_branch,
            branch: &branch,
            parent: [&self.commit, &git.tree_of(&self.commit)?],
            title: TITLE,
            body: &body(&changes),
            files: &files,
        };
        let address = match tree.policy.ci.provider {
            Provider::GitHub => github::propose(&proposal)?,
            Provider::GitLab => gitlab::propose(&proposal, &|name| std::env::var(name).ok())?,
        };
        terminal::step("proposed", &format!("{} files on `{branch}`", files.len()));
        crate::commands::print(&format!("{address}\n"))
    }
}

/// True if `lock` writes the file with this path.
fn is_written(trees: &[Tree], path: &str) -> bool {
    trees.iter().any(|Tree { policy, .. }| {
        let locks = [policy.base.lock.as_str(), policy.base.installer.as_str(), lock::images::PATH];
        locks.contains(&path) || projects::is_written(policy, path)
    })
}

/// Changes in a lock, a line each.
fn described(trees: &[Tree], path: &Path, [before, after]: [&str; 2]) -> Vec<String> {
    if path == Path::new(lock::images::PATH) {
        let root = |text| ImagesLock::parse(path, text).ok().and_then(|lock| lock.root);
        let (before, Some(after)) = (root(before), root(after)) else { return Vec::new() };
        let before = before.map(|root| root.platforms).unwrap_or_default();
        let moved = after.platforms.iter().filter(|(platform, digest)| before.get(*platform) != Some(*digest));
        return moved.map(|(platform, digest)| format!("root `{}` for {platform}: `{digest}`", after.image)).collect();
    }
    if trees.iter().any(|tree| path.to_str().is_some_and(|path| projects::is_written(&tree.policy, path))) {
        return vec![format!("metadata of an installed project: `{}`", path.display())];
    }
    if trees.iter().any(|tree| path == Path::new(tree.policy.base.installer.as_str())) {
        let pin = after.lines().find(|line| line.starts_with("uv==")).unwrap_or(TITLE);
        return vec![format!("installer: {}", pin.trim_end_matches([' ', '\\']))];
    }
    let lock = |text| Lock::parse(path, text).map(|lock| lock.meaning());
    match (lock(before), lock(after)) {
        (Ok(before), Ok(after)) => lock::diff(&before, &after).iter().map(ToString::to_string).collect(),
        _ => vec![format!("`{}` has another form", path.display())],
    }
}

fn body(changes: &[String]) -> String {
    let mut body = String::from("`cargo xtask lock` changed:\n\n");
    changes.iter().take(SHOWN).for_each(|change| body += &format!("- {change}\n"));
    if changes.len() > SHOWN {
        body += &format!("- {} more\n", changes.len() - SHOWN);
    }
    if changes.is_empty() {
        body += "- records and hashes of the same versions\n";
    }
    body
}
