//! Workflows that CI runs: the texts of `.github/workflows` or of `.gitlab-ci.yml`, from the policy.
//!
//! Pure: the policy comes in, files go out. The texts order jobs, give them rights and keep caches; whatever decides about
//! an image or builds one is a `cargo xtask` command, so that a laptop does the same. Nothing that a stranger can choose (a
//! branch, a title) is ever part of a script.

use crate::fault::Fault;
use crate::image::policy::{self, Policy, Provider};
use crate::spec::lock::ImagesLock;
use crate::spec::reference::Platform;

mod github;
mod gitlab;
mod graph;

pub use gitlab::{IMAGE as GITLAB_IMAGE, TOP as GITLAB_TOP};
pub use graph::CARGO_DENY;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub path: String,
    pub text: String,
}

/// Location of the policy in the repository. Services read only the files at the repository's top.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyLocation {
    /// The policy's folder from the top, `services/app`; empty at the top.
    folder: String,
    /// The folder of its Cargo workspace, which is the same or one above.
    workspace: String,
    /// True if GitLab's own file is somebody else's, and includes ours.
    included: bool,
}

impl PolicyLocation {
    /// A policy in `folder`, whose Cargo workspace is in `workspace`; both from the top of the repository.
    ///
    /// # Errors
    /// A name that could mean something else in YAML, in an expression or in a script.
    pub fn new(folder: &str, workspace: &str) -> Result<Self, Fault> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        match [folder, workspace].iter().find(|path| !path.chars().all(plain) || path.starts_with('-')) {
            None => Ok(Self { folder: folder.to_owned(), workspace: workspace.to_owned(), included: false }),
            Some(path) => {
                Err(Fault::usage(format!("cannot write workflows for the folder `{}`", path.escape_default()))
                    .cause("its name has characters other than letters, digits, `.`, `_` and `-`")
                    .hint("rename the folder, or put the policy at the top of the repository"))
            }
        }
    }

    /// The place next to this text of `.gitlab-ci.yml`, which is empty where there is none: somebody else's includes our file.
    pub fn next_to(self, gitlab: &str) -> Self {
        let included = !gitlab.is_empty() && !is_ours(gitlab, &self);
        self.included(included)
    }

    fn included(self, included: bool) -> Self {
        Self { included, ..self }
    }

    /// Begin of the names of this policy's files and groups: another policy in the same repository has another one.
    fn prefix(&self) -> String {
        if self.folder.is_empty() { String::new() } else { format!("{}-", self.folder.replace('/', "-")) }
    }

    fn policy(&self) -> String {
        format!("{}{}", slashed(&self.folder), policy::FILE)
    }
}

fn slashed(folder: &str) -> String {
    if folder.is_empty() { String::new() } else { format!("{folder}/") }
}

/// Source of the digests of the root. CI refuses what is not pinned only where something is: `--locked` refuses all else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootDigests {
    /// `images.lock` has them, or those of a base, below which no root is looked up.
    Pinned,
    /// The registry has them when a build asks.
    Current,
}

impl RootDigests {
    /// Those of apps, each of which is on a root or on a pinned base.
    pub fn of(policies: &[&Policy], pins: &ImagesLock) -> Self {
        let pinned = |policy: &&Policy| pins.root.is_some() || pins.pinned(policy.base.name.as_deref()).is_some();
        if policies.iter().all(pinned) { Self::Pinned } else { Self::Current }
    }

    /// The flag of commands, after a blank; or nothing.
    fn flag(self) -> &'static str {
        match self {
            Self::Pinned => " --locked",
            Self::Current => "",
        }
    }

    /// Comment of the plan's step where the digests are not pinned.
    fn note(self) -> Option<&'static str> {
        match self {
            Self::Pinned => None,
            Self::Current => Some(
                "The root is not pinned, so each run uses its current digests. `cargo xtask lock` pins them; then `cargo xtask workflows` writes `--locked`.",
            ),
        }
    }
}

/// The files of a policy, which is given for each of its apps: its jobs build all that are affected.
///
/// # Panics
/// Without a policy.
///
/// # Errors
/// A platform without a known runner; a key of the policy that the service has no counterpart for.
pub fn generate(policies: &[&Policy], place: &PolicyLocation, root: RootDigests) -> Result<Vec<File>, Fault> {
    let policy = policies[0];
    let graph = graph::graph(policies, place, root);
    match policy.ci.provider {
        Provider::GitHub => github::files(policy, place, root, &graph),
        Provider::GitLab => gitlab::files(policy, place, root, &graph),
    }
}

/// Files that earlier versions or another policy generated, each with the reason why it goes.
pub fn obsolete(policy: &Policy, place: &PolicyLocation) -> Vec<(String, &'static str)> {
    let mut files = vec![(github::path("images", place), "`ci.yml` does its work")];
    match policy.ci.provider {
        Provider::GitHub => {
            if policy.ci.updates.is_none() {
                files.push((github::path(github::UPDATE, place), "`[ci] updates` is not set"));
            }
            for included in [false, true] {
                files.push((gitlab::path(&place.clone().included(included)), "`[ci] provider` is `github`"));
            }
        }
        Provider::GitLab => {
            let names = ["ci", "release", github::UPDATE];
            files.extend(names.map(|name| (github::path(name, place), "`[ci] provider` is `gitlab`")));
            // One of the two is written.
            let other = gitlab::path(&place.clone().included(!place.included));
            if other != gitlab::path(place) {
                files.push((other, "another file has its jobs"));
            }
        }
    }
    files.dedup();
    files
}

/// True if an existing file was written for the policy at this place, and may be replaced.
pub fn is_ours(found: &str, place: &PolicyLocation) -> bool {
    found.starts_with(&format!("{HEADER} from `{}`", place.policy()))
}

/// The fault of a file that someone else wrote under the name of a generated one.
pub fn foreign_file(wanted: &File, found: &str) -> Fault {
    let folder = wanted.path.rsplit_once('/').map_or(".", |(folder, _)| folder);
    Fault::usage(format!(
        "`{}` was not written by `cargo xtask workflows` for this policy and is not replaced",
        wanted.path
    ))
    .cause(format!("it differs (`-` exists, `+` would be written):\n{}", lines_between(found, &wanted.text)))
    .hint(format!("keep it under another name: `mv {} {folder}/other.yml`; then run this again", wanted.path))
}

/// The lines in which two texts differ, without what both begin and end with.
fn lines_between(found: &str, wanted: &str) -> String {
    const SHOWN: usize = 8;
    let (old, new): (Vec<&str>, Vec<&str>) = (found.lines().collect(), wanted.lines().collect());
    let front = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let back = old[front..].iter().rev().zip(new[front..].iter().rev()).take_while(|(old, new)| old == new).count();
    let mut shown = Vec::new();
    for (sign, lines) in [('-', &old[front..old.len() - back]), ('+', &new[front..new.len() - back])] {
        let plain = |line: &&str| line.chars().filter(|c| !c.is_control()).collect::<String>();
        shown.extend(lines.iter().take(SHOWN).map(|line| format!("{sign}{}", plain(line))));
        if lines.len() > SHOWN {
            shown.push(format!("{sign} … {} more lines", lines.len() - SHOWN));
        }
    }
    shown.join("\n")
}

/// First line in which an existing file differs from the wanted text, as `path:line: why`.
pub fn difference(wanted: &File, found: &str) -> Option<String> {
    if wanted.text == found {
        return None;
    }
    let (mut wanted_lines, mut found_lines) = (wanted.text.lines(), found.lines());
    for line in 1.. {
        match (wanted_lines.next(), found_lines.next()) {
            (Some(w), Some(f)) if w == f => {}
            (None, None) => break,
            (Some(w), Some(f)) => {
                return Some(format!("{}:{line}: `{}` should be `{}`", wanted.path, f.trim(), w.trim()));
            }
            (Some(w), None) => return Some(format!("{}:{line}: `{}` is missing", wanted.path, w.trim())),
            (None, Some(f)) => return Some(format!("{}:{line}: `{}` should be removed", wanted.path, f.trim())),
        }
    }
    Some(format!("`{}` differs in how its lines end", wanted.path))
}

/// The fault of a platform for which nobody offers a runner.
fn no_runner(platform: &Platform, needed_by: &str) -> Fault {
    Fault::usage(format!("no runner is known for `{platform}`"))
        .needed_by(needed_by)
        .hint(format!("name one in `images.toml`: `[ci] runners = {{ \"{platform}\" = \"LABEL\" }}`"))
}

fn registry_host(policy: &Policy) -> String {
    policy.project.registry.repository("x").registry().to_owned()
}

/// The repository that publishes, by `[project] source`: any other one on the same server is a fork. None without a URL that a script can
/// quote.
fn own_repository(policy: &Policy) -> Option<&str> {
    let source = policy.project.source.as_deref()?.trim_end_matches('/');
    let source = source.strip_suffix(".git").unwrap_or(source);
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    (source.contains("://") && source.chars().all(plain)).then_some(source)
}

/// Sources of xtask in the folder of the workspace, as git's arguments.
const SOURCES: &str = "Cargo.toml Cargo.lock rust-toolchain.toml .cargo xtask 'dockerfiles/*.py'";

/// Gives all sources of xtask one old time.
fn trust_times() -> String {
    format!("git ls-files -z -- {SOURCES} | xargs -0 --no-run-if-empty touch --no-create --date=@0")
}

/// A text as YAML quotes it, which is how JSON does.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

const HEADER: &str = "# Written by `cargo xtask workflows`";

#[cfg(test)]
mod tests;
