//! The walk over a tree of files: only where a source or a link could lead, and never into what is ignored for good.
//!
//! Reads folders and links' targets, no file's contents. Lists files; selects nothing.

use super::Files;
use std::collections::BTreeSet;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, Tree};
use xtask_model::spec::dockerfile::{Reads, Source};
use xtask_model::spec::ignore::{Ignore, MatchState, glob};

/// Folders within each other that are read. Each level makes every path below it longer and slower to compare.
const DEEPEST: usize = 256;

pub(super) fn walk<F: Files + ?Sized>(
    files: &F,
    sources: &[Source],
    linked: &BTreeSet<ContextPath>,
    ignore: &Ignore,
) -> Result<Tree, Fault> {
    let mut reaches: Vec<SourceReach> = Vec::new();
    for source in sources {
        let reach = SourceReach::of(source).map_err(|why| Fault::usage(format!("{}: {why}", source.place)))?;
        reaches.push(reach);
    }
    reaches.extend(
        linked.iter().map(|path| SourceReach { leads: Target::Path(path.clone()), into_state: path.is_state() }),
    );
    let mut walk = Walk { files, reaches, ignore, tree: Tree::new() };
    if !walk.reaches.is_empty() {
        walk.folder(&ContextPath::default(), None, 0)?;
    }
    Ok(walk.tree)
}

struct SourceReach {
    leads: Target,
    into_state: bool,
}

enum Target {
    Path(ContextPath),
    Glob(ContextPath, Vec<glob::Glob>),
    /// A folder, and a pattern of an ignore file below it.
    Pattern(ContextPath, Ignore),
}

impl SourceReach {
    fn of(source: &Source) -> Result<Self, String> {
        let path = |text: &str| ContextPath::new(text.as_bytes());
        let (leads, named) = match &source.reads {
            Reads::Path(text) => (Target::Path(path(text)), path(text)),
            Reads::Glob(text) => match glob::split(text) {
                None => (Target::Path(path(text)), path(text)),
                // A negated class may match a slash, so its parts are not checked.
                Some((folder, pattern)) if pattern.contains("[^") => (Target::Path(path(folder)), path(folder)),
                Some((folder, pattern)) => (Target::Glob(path(folder), glob::parts(pattern)?), path(folder)),
            },
            Reads::Parents { pivot, .. } if glob::split(pivot).is_some() => {
                return Self::of(&Source { reads: Reads::Glob(pivot.clone()), ..source.clone() });
            }
            Reads::Parents { pivot, pattern } if pattern.is_empty() => (Target::Path(path(pivot)), path(pivot)),
            Reads::Parents { pivot, pattern } => {
                let leads = Target::Pattern(path(pivot), Ignore::from_patterns([pattern.as_str()])?);
                (leads, path(&format!("{pivot}/{pattern}")))
            }
        };
        Ok(Self { leads, into_state: named.is_state() })
    }

    /// True if the path leads there, is it, or is below it.
    fn touches(&self, path: &ContextPath) -> bool {
        if !self.into_state && path.is_state() {
            return false;
        }
        match &self.leads {
            Target::Path(wanted) => leads_to(path, wanted) || path.below(wanted).is_some(),
            Target::Glob(folder, parts) => {
                let mut parts = parts.iter();
                leads_to(path, folder)
                    || path.below(folder).is_some_and(|rest| {
                        // Beyond the pattern's last part all is below a match.
                        rest.split(|b| *b == b'/').all(|name| parts.next().is_none_or(|part| part.matches(name)))
                    })
            }
            Target::Pattern(folder, pattern) => {
                leads_to(path, folder)
                    || path.below(folder).is_some_and(|rest| pattern.may_match_below(rest) || pattern.ignores(rest))
            }
        }
    }
}

/// True if `path` is `wanted` or a folder on the way to it.
fn leads_to(path: &ContextPath, wanted: &ContextPath) -> bool {
    path == wanted || wanted.below(path).is_some()
}

struct Walk<'a, F: ?Sized> {
    files: &'a F,
    reaches: Vec<SourceReach>,
    ignore: &'a Ignore,
    tree: Tree,
}

impl<F: Files + ?Sized> Walk<'_, F> {
    fn folder(&mut self, folder: &ContextPath, verdict: Option<&MatchState>, depth: usize) -> Result<(), Fault> {
        if depth > DEEPEST {
            let top = folder.parts().next().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            return Err(Fault::usage(format!("folders below `{top}` are nested more than {DEEPEST} deep"))
                .cause(format!("the limit of a build context is {DEEPEST}"))
                .hint(format!(
                    "remove them, or exclude them with a line in `{}`",
                    self.ignore.name().unwrap_or(".dockerignore")
                )));
        }
        for entry in self.files.list(folder)? {
            let path = folder.join(&entry.name);
            if !self.reaches.iter().any(|reach| reach.touches(&path)) {
                continue;
            }
            let judged = self.ignore.evaluate(path.as_bytes(), verdict);
            if judged.matched && !(entry.is_dir && self.ignore.may_reinclude_below(path.as_bytes())) {
                continue;
            }
            let Some(found) = self.files.found(&path)? else { continue };
            self.tree.insert(path.clone(), found);
            if entry.is_dir {
                self.folder(&path, Some(&judged), depth + 1)?;
            }
        }
        Ok(())
    }
}
