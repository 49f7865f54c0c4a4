//! Another repository's Dockerfile as a policy and Dockerfiles of this build system.
//!
//! Pure: a parsed Dockerfile and the names of the repository's files come in; the files to write, and every line that is translated
//! to something else, with its reason and replacement, go out. What is not recognised is never dropped: it stays a `RUN`, which only
//! docker executes, or it is [`NoteKind::Missing`].

mod accounts;
pub mod compose;
pub mod diff;
mod effect;
mod paths;
pub mod proof;
mod roots;
mod run;
mod shell;
mod stages;
mod system;
#[cfg(test)]
mod tests;
mod write;

pub use stages::is_input;
pub use write::{MARK, is_written};

use crate::fault::Fault;
use crate::image::policy::{Provider, Registry};
use crate::spec::dockerfile::Dockerfile;
use crate::spec::reference::Platform;
use std::collections::BTreeSet;
use std::fmt;

/// The repository, and what a person decides where it leaves something open.
pub struct Request<'a> {
    pub name: &'a str,
    /// Name of the app, where several Dockerfiles are adopted.
    pub app: Option<&'a str>,
    pub registry: &'a Registry,
    /// URL of the source.
    pub source: Option<&'a str>,
    pub branch: &'a str,
    pub platforms: &'a [Platform],
    pub dockerfile: &'a Dockerfile,
    /// The Dockerfile's build context, from the root; empty at the top.
    pub context: &'a str,
    /// Files of the repository, from its root.
    pub files: &'a BTreeSet<String>,
    /// The ignore file that the Dockerfile's builds used.
    pub ignore: Option<&'a str>,
    /// Text of a file.
    pub read: &'a dyn Fn(&str) -> Option<String>,
    /// The root image, in place of the Dockerfile's.
    pub root_image: Option<&'a str>,
    /// The root's Python, in place of the one that the image's tag names.
    pub python: Option<&'a str>,
    /// The file with the required packages, in place of the Dockerfile's.
    pub requirements: &'a [String],
    /// Debian packages of the root, besides the Dockerfile's.
    pub system_packages: &'a [String],
    /// Packages without a wheel are compiled, with the compilers that the Dockerfile installs.
    pub compiles: bool,
    /// The service that runs workflows, if any are written.
    pub workflows: Option<Provider>,
    /// Location of this program's source, for the repository's own `xtask`.
    pub program: &'a Program,
}

/// The source of the build system that the repository's `xtask` depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub git: String,
    pub revision: String,
    /// Channel for `rust-toolchain.toml`.
    pub toolchain: String,
}

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    pub path: String,
    pub text: String,
}

/// The result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoption {
    pub files: Vec<NewFile>,
    pub notes: Vec<Note>,
    /// Files of the context that the app image leaves out.
    pub left_out: Vec<String>,
    /// Debian packages of the Dockerfile that the images do without.
    pub dropped: Vec<String>,
    /// Folders that the Dockerfile installs packages into.
    pub environments: Vec<String>,
}

impl Adoption {
    /// True if only docker can build the images.
    pub fn needs_docker(&self) -> bool {
        self.notes.iter().any(|note| note.kind == NoteKind::Docker)
    }

    /// Parts that a person has to decide.
    pub fn missing(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter().filter(|note| note.kind == NoteKind::Missing)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteKind {
    /// It cannot be translated; without an answer the images differ.
    Missing,
    /// Only docker can run it.
    Docker,
    /// It is translated to something else, or dropped because it has no effect.
    Changed,
}

/// A line that is not copied as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    pub kind: NoteKind,
    /// 1-based line of the Dockerfile; 0 is the file as a whole.
    pub line: usize,
    /// The instruction or command.
    pub what: String,
    pub reason: String,
    pub replacement: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.what, self.reason)?;
        if self.replacement.is_empty() { Ok(()) } else { write!(f, "; {}", self.replacement) }
    }
}

/// The lock of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LockFile {
    Uv,
    Poetry,
    Pipenv,
}

impl LockFile {
    fn name(self) -> &'static str {
        match self {
            Self::Uv => "uv.lock",
            Self::Poetry => "poetry.lock",
            Self::Pipenv => "Pipfile.lock",
        }
    }
}

/// Python packages, as one or more commands install them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Input {
    pub requirements: Vec<String>,
    pub constraints: Vec<String>,
    /// Requirements on the command line; `.` is the project.
    pub names: Vec<String>,
    /// Lines of a requirements file: `--index-url …`.
    pub options: Vec<String>,
    pub lock: Option<LockFile>,
    pub extras: Vec<String>,
    pub groups: Vec<String>,
    /// Members of a workspace.
    pub packages: Vec<String>,
    /// The project itself is installed too, and those of the repository that it requires.
    pub projects: bool,
    /// Folder that they are installed into, if it is not an environment.
    pub place: Option<String>,
    /// Folder that their wheels are written to.
    pub wheels: Option<String>,
    /// Archives and wheels that an earlier command made.
    pub made: bool,
}

impl Input {
    fn is_empty(&self) -> bool {
        self.requirements.is_empty() && self.names.is_empty() && self.lock.is_none()
    }

    fn add(&mut self, other: Input) {
        let append = |mine: &mut Vec<String>, theirs: Vec<String>| {
            for one in theirs {
                if !mine.contains(&one) {
                    mine.push(one);
                }
            }
        };
        append(&mut self.requirements, other.requirements);
        append(&mut self.constraints, other.constraints);
        append(&mut self.names, other.names);
        append(&mut self.options, other.options);
        append(&mut self.extras, other.extras);
        append(&mut self.groups, other.groups);
        append(&mut self.packages, other.packages);
        self.lock = self.lock.or(other.lock);
        self.projects |= other.projects;
    }
}

/// Translates a Dockerfile, and writes the files of its repository.
///
/// # Errors
/// A Dockerfile whose variables cannot be replaced.
pub fn adopt(request: &Request<'_>) -> Result<Adoption, Fault> {
    Ok(adopt_all(std::slice::from_ref(request))?.swap_remove(0))
}

/// Translates the Dockerfiles of one repository into one policy: its requests differ in what is of one app. The files that are of all apps
/// are with the first.
///
/// # Errors
/// A Dockerfile whose variables cannot be replaced.
///
/// # Panics
/// Without a request.
pub fn adopt_all(requests: &[Request<'_>]) -> Result<Vec<Adoption>, Fault> {
    let translations = requests.iter().map(stages::translate).collect::<Result<Vec<_>, _>>()?;
    Ok(write::files(requests, translations))
}

/// True if a Dockerfile installs Python packages, or is on an image of Python.
///
/// # Errors
/// A Dockerfile whose variables cannot be replaced.
pub fn is_python(request: &Request<'_>) -> Result<bool, Fault> {
    let done = stages::translate(request)?;
    Ok(done.is_python || !done.input.is_empty())
}

/// Names of apps by the paths of their Dockerfiles: `web/Dockerfile`, `docker/Dockerfile.web` and `web.Dockerfile` are `web`.
pub fn app_names(paths: &[String]) -> Vec<String> {
    const FOLDERS: [&str; 8] =
        ["docker", "dockerfiles", "build", "deploy", "container", "containers", "images", ".docker"];
    let plain = |text: &str| {
        let text: String =
            text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
        text.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
    };
    let parts = |path: &str| {
        let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
        let file = parts.pop().unwrap_or_default();
        parts.retain(|part| !FOLDERS.contains(&part.to_ascii_lowercase().as_str()));
        let lower = file.to_ascii_lowercase();
        let own = ["dockerfile.", "containerfile."].into_iter().find_map(|begin| lower.strip_prefix(begin));
        parts.extend(own.or(lower.strip_suffix(".dockerfile")).map(str::to_owned));
        parts
    };
    let mut names: Vec<String> = Vec::new();
    for path in paths {
        let parts = parts(path);
        let mut name = parts.last().map(|part| plain(part)).filter(|name| !name.is_empty());
        if name.as_ref().is_some_and(|name| names.contains(name)) {
            name = Some(plain(&parts.join("-")));
        }
        // `Dockerfile.base` and `Dockerfile.base-NAME` are those of bases.
        let name = name.filter(|name| name.split('-').next() != Some("base")).unwrap_or_else(|| "app".to_owned());
        let free = |number: &usize| *number == 1 || !names.contains(&format!("{name}-{number}"));
        let taken = names.contains(&name);
        let number = (if taken { 2 } else { 1 }..).find(free).unwrap_or(1);
        names.push(if number == 1 { name } else { format!("{name}-{number}") });
    }
    names
}

/// True if a file is, by its path, for development, tests or examples.
pub fn is_for_development(path: &str) -> bool {
    const WORDS: [&str; 17] = [
        "dev",
        "development",
        "devcontainer",
        "test",
        "tests",
        "testing",
        "ci",
        "local",
        "debug",
        "lint",
        "doc",
        "docs",
        "example",
        "examples",
        "sample",
        "samples",
        "benchmarks",
    ];
    path.to_ascii_lowercase().split(['/', '.']).any(|part| WORDS.contains(&part))
}
