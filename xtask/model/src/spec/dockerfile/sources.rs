//! Files that a Dockerfile reads from the build context.
//!
//! Pure. Which of the context's files a source matches is decided in `context`.

use super::ParseError;
use super::instruction::{Kind, Transfer};
use super::{Dockerfile, Instruction};
use crate::fault::Fault;
use crate::spec::reference::Platform;
use std::collections::{BTreeMap, BTreeSet};

/// One thing that an instruction of a reached stage reads from the context.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The file and line of the instruction, as messages show them: `dockerfiles/Dockerfile.base:12`.
    pub place: String,
    /// 1-based line of the instruction.
    pub line: usize,
    /// Paths are clean, relative to the context and without a leading slash (the context is empty).
    pub reads: Reads,
    /// `--exclude` patterns, as they are written.
    pub excludes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reads {
    /// `COPY`/`ADD`: a path, or a glob where `*` stays within a folder; a folder brings everything below it.
    Glob(String),
    /// `COPY --parents`: a pattern as in `.dockerignore`, below the pivot (`pivot/./pattern`).
    Parents {
        /// The folder in front of `/./`.
        pivot: String,
        pattern: String,
    },
    /// `RUN --mount=type=bind`: one path, never a glob.
    Path(String),
}

impl Dockerfile {
    /// Everything that the target reads from the context, by line, without repetition.
    pub fn sources(&self, args: &BTreeMap<String, String>, platform: &Platform) -> Result<Vec<Source>, Fault> {
        let expanded = self.expand(args, platform)?;
        let mut sources = Vec::new();
        for stage in &expanded.stages {
            for instruction in &stage.instructions {
                let found = match &instruction.kind {
                    Kind::Copy(transfer) => copied(transfer, false),
                    Kind::Add(transfer) => copied(transfer, true),
                    Kind::Run(run) => {
                        run.mounts.iter().filter(|m| m.kind == "bind" && m.from.is_none()).map(bound).collect()
                    }
                    _ => continue,
                };
                self.known(instruction, !found.is_empty())?;
                sources.extend(found.into_iter().map(|(reads, excludes)| Source {
                    place: format!("{}:{}", self.path(), instruction.line),
                    line: instruction.line,
                    reads,
                    excludes,
                }));
            }
        }
        sources.sort_by(|a, b| (a.line, a).cmp(&(b.line, b)));
        sources.dedup();
        Ok(sources)
    }

    /// The names of the secrets that steps of the reached stages mount.
    pub fn secrets(&self, args: &BTreeMap<String, String>, platform: &Platform) -> Result<BTreeSet<String>, Fault> {
        let expanded = self.expand(args, platform)?;
        let mut names = BTreeSet::new();
        for instruction in expanded.stages.iter().flat_map(|stage| &stage.instructions) {
            let Kind::Run(run) = &instruction.kind else { continue };
            for mount in run.mounts.iter().filter(|mount| mount.kind == "secret") {
                // Without a name, a secret is called by the last part of where it appears.
                let target = || mount.target.as_deref().and_then(|target| target.rsplit('/').next());
                names.extend(mount.id.as_deref().or_else(target).map(str::to_owned));
            }
        }
        Ok(names)
    }

    /// A source named by a variable that only a base image could set cannot be known from here.
    fn known(&self, instruction: &Instruction, reads: bool) -> Result<(), Fault> {
        match instruction.unset.first().filter(|_| reads) {
            None => Ok(()),
            Some(name) => Err(self.fault(
                &ParseError::new(
                    instruction.line,
                    1,
                    format!(
                        "cannot determine what `{}` reads: nothing in this file sets `{name}`",
                        instruction.kind.keyword()
                    ),
                )
                .hint(format!("declare it in the stage: `ARG {name}`, or write its value")),
            )),
        }
    }
}

fn bound(mount: &super::Mount) -> (Reads, Vec<String>) {
    (Reads::Path(clean(mount.source.as_deref().unwrap_or("/"))), Vec::new())
}

fn copied(transfer: &Transfer, add: bool) -> Vec<(Reads, Vec<String>)> {
    if transfer.from.is_some() {
        return Vec::new();
    }
    let local = |source: &&String| !(add && remote(source));
    transfer.sources.iter().filter(local).map(|source| (transfer.reads(source), transfer.excludes.clone())).collect()
}

impl Transfer {
    /// Way in which one of its sources names files, wherever they come from.
    pub fn reads(&self, source: &str) -> Reads {
        if !self.parents {
            return Reads::Glob(clean(source));
        }
        let (pivot, pattern) = source.split_once("/./").unwrap_or(("/", source));
        Reads::Parents { pivot: clean(pivot), pattern: clean(pattern) }
    }
}

/// True for a source that `ADD` downloads.
pub fn remote(source: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"].iter().any(|scheme| source.starts_with(scheme))
}

/// A path below the context's root: `.` and `..` resolved (never above the root), no slash at either end.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
