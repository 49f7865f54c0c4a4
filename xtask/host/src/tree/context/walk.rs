//! The walk over a tree of files: only where a source or a link could lead, and never into what is ignored for good.
//!
//! Reads folders and links' targets, no file's contents. Lists files; selects nothing.

use crate::tree::files::{Files, Whole};
use std::collections::BTreeSet;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, FileInfo, Tree};
use xtask_model::spec::dockerfile::{Reads, Source};
use xtask_model::spec::ignore::{Ignore, MatchState, glob};

/// Folders within each other that are read. Each level makes every path below it longer and slower to compare.
const DEEPEST: usize = 256;

/// Entries of a folder beyond which it counts as one entry in a key.
pub(super) const LARGE: u64 = 256;

/// Result of a walk.
pub(super) struct Walked {
    pub(super) tree: Tree,
    /// Folders that all sources take with everything in them. These may count as one entry, where they are large.
    pub(super) covered: BTreeSet<ContextPath>,
}

pub(super) fn walk<F: Files + ?Sized>(
    files: &F,
    sources: &[Source],
    linked: &BTreeSet<ContextPath>,
    ignore: &Ignore,
    open: Open<'_>,
) -> Result<Walked, Fault> {
    let mut reaches: Vec<SourceReach> = Vec::new();
    for source in sources {
        let reach = SourceReach::of(source).map_err(|why| Fault::usage(format!("{}: {why}", source.place)))?;
        reaches.push(reach);
    }
    reaches.extend(linked.iter().map(|path| SourceReach {
        leads: Target::Path(path.clone()),
        into_state: path.is_state(),
        all: true,
    }));
    let walked = Walked { tree: Tree::new(), covered: BTreeSet::new() };
    let mut walk = Walk { files, reaches, ignore, open, walked };
    if !walk.reaches.is_empty() {
        walk.folder(&ContextPath::default(), None, 0, false)?;
    }
    Ok(walk.walked)
}

/// Rules for folders that count as one entry, among those that sources take with everything in them.
#[derive(Clone, Copy)]
pub struct Open<'a> {
    /// Folders that never do.
    pub folders: &'a dyn Fn(&ContextPath) -> bool,
    /// Entries of a folder beyond which it does.
    pub larger_than: u64,
}

struct SourceReach {
    leads: Target,
    into_state: bool,
    /// True if the source takes all that is below a folder which it names.
    all: bool,
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
        let checked =
            !matches!((&source.reads, &leads), (Reads::Glob(text), Target::Path(_)) if glob::split(text).is_some());
        let all = checked && source.excludes.is_empty() && !matches!(leads, Target::Pattern(..));
        Ok(Self { leads, into_state: named.is_state(), all })
    }

    /// True if everything below a folder is taken.
    fn covers(&self, folder: &ContextPath) -> bool {
        let below = match &self.leads {
            Target::Path(wanted) => folder == wanted || folder.below(wanted).is_some(),
            Target::Glob(above, parts) => {
                folder.below(above).is_some_and(|rest| rest.split(|b| *b == b'/').count() >= parts.len())
            }
            Target::Pattern(..) => false,
        };
        self.all && below
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
    open: Open<'a>,
    walked: Walked,
}

impl<F: Files + ?Sized> Walk<'_, F> {
    /// `small` says that no folder below is large.
    fn folder(
        &mut self,
        folder: &ContextPath,
        verdict: Option<&MatchState>,
        depth: usize,
        small: bool,
    ) -> Result<(), Fault> {
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
            let mut touching = self.reaches.iter().filter(|reach| reach.touches(&path)).peekable();
            if touching.peek().is_none() {
                continue;
            }
            let covered = entry.is_dir && !path.is_state() && touching.all(|reach| reach.covers(&path));
            let judged = self.ignore.evaluate(path.as_bytes(), verdict);
            if judged.matched && !(entry.is_dir && self.ignore.may_reinclude_below(path.as_bytes())) {
                continue;
            }
            let mut within = small;
            if covered && !(self.open.folders)(&path) {
                self.walked.covered.insert(path.clone());
                let rules = if small { None } else { self.ignore.names_below(path.as_bytes()) };
                match rules
                    .map_or(Ok(Whole::Unknown), |rules| self.files.whole(&path, &rules, self.open.larger_than))?
                {
                    Whole::Is(id, entries) => {
                        self.walked.tree.insert(path, FileInfo::whole(id, entries));
                        continue;
                    }
                    Whole::Small => within = true,
                    Whole::Unknown => {}
                }
            }
            let Some(found) = self.files.found(&path)? else { continue };
            self.walked.tree.insert(path.clone(), found);
            if entry.is_dir {
                self.folder(&path, Some(&judged), depth + 1, within)?;
            }
        }
        Ok(())
    }
}
