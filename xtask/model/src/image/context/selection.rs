//! Paths of a tree that the sources of a Dockerfile name, with the ignore file in force.
//!
//! Pure: the tree may come from a working folder or from a git revision. Follows BuildKit's rules: a link that a source names
//! is followed within the context, links below a folder are copied as links, a glob may match nothing, a plain path may not.

use crate::fault::Fault;
use crate::image::context::{ContextPath, FileKind, ObjectId};
use crate::spec::dockerfile::{Reads, Source};
use crate::spec::ignore::{Ignore, MatchState, glob};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    pub kind: FileKind,
    pub mode: u32,
    /// Bytes of a file; 0 for others.
    pub size: u64,
    pub link: Option<Vec<u8>>,
    /// Of a whole folder: its id and the number of entries in it.
    pub whole: Option<(ObjectId, u64)>,
}

impl FileInfo {
    /// A folder with everything in it, of which the tree has no more.
    pub fn whole(id: ObjectId, entries: u64) -> Self {
        Self { kind: FileKind::Tree, mode: 0o755, size: 0, link: None, whole: Some((id, entries)) }
    }
}

/// Paths with their files. Folders that are not empty may be omitted.
pub type Tree = BTreeMap<ContextPath, FileInfo>;

/// The paths that were selected, and those that a source names and the tree lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectedPaths {
    paths: BTreeSet<ContextPath>,
    missing: Vec<Missing>,
    matches: Vec<Match>,
}

/// One thing that a source names: a copy brings it under its name, and what is below it by its path from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    pub source: usize,
    /// The name by which the source has it; a link's own, whatever it leads to.
    pub name: Vec<u8>,
    pub at: ContextPath,
    pub below: Vec<ContextPath>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Missing {
    source: usize,
    path: ContextPath,
    through_link: bool,
}

impl SelectedPaths {
    /// Paths that links lead to and the tree lacks: perhaps only because nobody looked there yet.
    pub fn linked(&self) -> impl Iterator<Item = ContextPath> {
        self.missing.iter().filter(|missing| missing.through_link).map(|missing| missing.path.clone())
    }

    /// The paths, or the fault of the first source that names nothing.
    pub fn complete(self, sources: &[Source], ignore: &Ignore) -> Result<BTreeSet<ContextPath>, Fault> {
        self.check(sources, ignore)?;
        Ok(self.paths)
    }

    /// The paths and what each source names, in the order in which a copy takes them; or the same fault.
    pub fn matches(self, sources: &[Source], ignore: &Ignore) -> Result<(BTreeSet<ContextPath>, Vec<Match>), Fault> {
        self.check(sources, ignore)?;
        Ok((self.paths, self.matches))
    }

    fn check(&self, sources: &[Source], ignore: &Ignore) -> Result<(), Fault> {
        let Some(missing) = self.missing.first() else { return Ok(()) };
        let source = &sources[missing.source];
        let fault = Fault::usage(format!("{}: `{}` is not in the build context", source.place, named(source)));
        let fault =
            if missing.through_link { fault.cause(format!("a link leads to `{}`", missing.path)) } else { fault };
        Err(if ignore.ignores(missing.path.as_bytes()) {
            fault.cause("the ignore file leaves it out").hint(format!("take it back with a line `!{}`", missing.path))
        } else {
            fault.hint("paths are relative to the context's root, not to the Dockerfile")
        })
    }
}

fn named(source: &Source) -> String {
    match &source.reads {
        Reads::Glob(path) | Reads::Path(path) => path.clone(),
        Reads::Parents { pivot, pattern } if pivot.is_empty() => pattern.clone(),
        Reads::Parents { pivot, pattern } => format!("{pivot}/./{pattern}"),
    }
}

/// Selects what the sources name among the paths of a tree that the ignore file leaves in.
pub fn select(tree: &Tree, sources: &[Source], ignore: &Ignore) -> Result<SelectedPaths, Fault> {
    let view = View { tree: visible(tree, ignore) };
    let mut selection = SelectedPaths::default();
    for (index, source) in sources.iter().enumerate() {
        let wrong = |why: String| Fault::usage(format!("{}: {why}", source.place));
        let excludes = Ignore::from_patterns(source.excludes.iter().map(String::as_str)).map_err(wrong)?;
        let mut pick = Pick { view: &view, selection: &mut selection, source: index, excludes };
        match &source.reads {
            Reads::Path(path) => pick.path(&ContextPath::new(path.as_bytes())),
            Reads::Glob(text) => pick.glob(text).map_err(wrong)?,
            Reads::Parents { pivot, pattern } => pick.parents(pivot, pattern).map_err(wrong)?,
        }
    }
    Ok(selection)
}

/// The paths that the ignore file leaves in, with the folders they are in.
fn visible<'t>(tree: &'t Tree, ignore: &Ignore) -> BTreeMap<&'t ContextPath, &'t FileInfo> {
    let mut verdicts: BTreeMap<ContextPath, MatchState> = BTreeMap::new();
    let mut kept: BTreeMap<&ContextPath, &FileInfo> = BTreeMap::new();
    for (path, found) in tree {
        let folder = path.parent().filter(|folder| !folder.as_bytes().is_empty());
        let verdict = match folder {
            None => ignore.evaluate(path.as_bytes(), None),
            Some(folder) => {
                let known = verdicts.entry(folder).or_insert_with_key(|folder| ignore.verdict(folder.as_bytes()));
                ignore.evaluate(path.as_bytes(), Some(known))
            }
        };
        if !verdict.matched {
            kept.insert(path, found);
        }
        if found.kind == FileKind::Dir {
            verdicts.insert(path.clone(), verdict);
        }
    }
    // An ignored folder comes along for what was taken back in it.
    let leaves: Vec<&ContextPath> = kept.keys().copied().collect();
    let mut known = None;
    for leaf in leaves {
        let mut folder = leaf.parent();
        // What is in one folder comes together, and that folder exists after the first.
        if folder == known {
            continue;
        }
        known.clone_from(&folder);
        while let Some(path) = folder.filter(|path| !path.as_bytes().is_empty()) {
            match tree.get_key_value(&path) {
                Some((key, found)) if kept.insert(key, found).is_none() => folder = path.parent(),
                Some(_) => break,
                None => folder = path.parent(),
            }
        }
    }
    kept
}

struct View<'t> {
    tree: BTreeMap<&'t ContextPath, &'t FileInfo>,
}

struct Resolved {
    path: ContextPath,
    links: Vec<ContextPath>,
    circle: bool,
}

impl View<'_> {
    fn exists(&self, path: &ContextPath) -> bool {
        path.as_bytes().is_empty() || self.tree.contains_key(path) || self.below(path).next().is_some()
    }

    fn below<'s>(&'s self, folder: &'s ContextPath) -> impl Iterator<Item = (&'s ContextPath, &'s [u8])> {
        let first = if folder.as_bytes().is_empty() { folder.clone() } else { folder.join(b"") };
        let range = self.tree.range(first..).map(|(path, _)| *path);
        range.map_while(move |path| Some((path, path.below(folder)?)))
    }

    fn resolve(&self, path: &ContextPath) -> Resolved {
        const MOST: usize = 255;
        let mut links = Vec::new();
        let mut todo: Vec<Vec<u8>> = path.parts().map(<[u8]>::to_vec).rev().collect();
        let mut at = ContextPath::default();
        while let Some(part) = todo.pop() {
            if part == b"." {
                continue;
            }
            if part == b".." {
                at = at.parent().unwrap_or_default();
                continue;
            }
            let next = at.join(&part);
            match self.tree.get(&next).and_then(|found| found.link.as_ref()) {
                Some(_) if links.len() == MOST => return Resolved { path: next, links, circle: true },
                Some(target) => {
                    if target.starts_with(b"/") {
                        at = ContextPath::default();
                    }
                    todo.extend(ContextPath::new(target.clone()).parts().map(<[u8]>::to_vec).rev());
                    links.push(next);
                }
                None => at = next,
            }
        }
        Resolved { path: at, links, circle: false }
    }
}

struct Pick<'v, 't> {
    view: &'v View<'t>,
    selection: &'v mut SelectedPaths,
    source: usize,
    excludes: Ignore,
}

impl Pick<'_, '_> {
    fn find(&mut self, path: &ContextPath) -> Option<ContextPath> {
        let resolved = self.view.resolve(path);
        let through_link = !resolved.links.is_empty();
        self.selection.paths.extend(resolved.links);
        if !resolved.circle && self.view.exists(&resolved.path) {
            return Some(resolved.path);
        }
        self.selection.missing.push(Missing { source: self.source, path: resolved.path, through_link });
        None
    }

    /// A plain path and, where it is a folder, all that is below.
    fn path(&mut self, path: &ContextPath) {
        let Some(found) = self.find(path) else { return };
        let everything = Ignore::none();
        let apart = !found.is_state();
        let (_, below) = self.all_below(&found, apart, |path, folder| !everything.evaluate(path, folder).matched);
        if !found.as_bytes().is_empty() {
            self.selection.paths.insert(found.clone());
        }
        let name = path.parts().next_back().unwrap_or_default().to_vec();
        self.selection.matches.push(Match { source: self.source, name, at: found, below });
    }

    fn glob(&mut self, text: &str) -> Result<(), String> {
        self.hits(text)?.iter().for_each(|path| self.path(path));
        Ok(())
    }

    /// The paths that a glob names; a text without wildcards names itself, even if it is missing.
    fn hits(&mut self, text: &str) -> Result<Vec<ContextPath>, String> {
        let Some((folder, pattern)) = glob::split(text) else {
            return Ok(vec![ContextPath::new(text.as_bytes())]);
        };
        let pattern = glob::parse(pattern)?;
        // A glob may match nothing, but the folder in front of its first wildcard has to exist.
        let Some(folder) = self.find(&ContextPath::new(folder.as_bytes())) else { return Ok(Vec::new()) };
        let apart = !folder.is_state();
        let hits = self.view.below(&folder).filter(|(path, rest)| !(apart && path.is_state()) && pattern.matches(rest));
        let mut hits: Vec<ContextPath> = hits.map(|(path, _)| path.clone()).collect();
        // Folder by folder, as BuildKit walks: the last of two that have one destination wins.
        hits.sort_by(|one, other| one.parts().cmp(other.parts()));
        Ok(hits)
    }

    fn parents(&mut self, pivot: &str, pattern: &str) -> Result<(), String> {
        let includes = Ignore::from_patterns([pattern])?;
        let plain = glob::split(pivot).is_none() && glob::split(pattern).is_none();
        for pivot in self.hits(pivot)? {
            let Some(at) = self.find(&pivot) else { continue };
            // A file in place of the pivot's folder is copied as it is.
            if self.view.tree.get(&at).is_some_and(|found| !matches!(found.kind, FileKind::Dir | FileKind::Tree))
                && !plain
            {
                self.path(&pivot);
                continue;
            }
            // An empty pattern is the pivot itself with all that is below.
            let apart = !at.is_state() && !ContextPath::new(pattern.as_bytes()).is_state();
            let (any, below) = self.all_below(&at, apart, |path, _| pattern.is_empty() || includes.ignores(path));
            if any || pattern.is_empty() || !plain {
                // Where a wildcard matches nothing, the destination is made all the same.
                self.selection.matches.push(Match { source: self.source, name: Vec::new(), at, below });
            } else {
                let path = at.join(pattern.as_bytes());
                self.selection.missing.push(Missing { source: self.source, path, through_link: false });
            }
        }
        Ok(())
    }

    /// Selects what is below a folder, is wanted and not excluded, with the folders between; whether anything was wanted,
    /// and what was selected. `apart` leaves out the state of this program.
    fn all_below(
        &mut self,
        folder: &ContextPath,
        apart: bool,
        wanted: impl Fn(&[u8], Option<&MatchState>) -> bool,
    ) -> (bool, Vec<ContextPath>) {
        let mut any = false;
        let mut selected = BTreeSet::new();
        let mut known = None;
        for (path, rest) in self.view.below(folder) {
            if (apart && path.is_state()) || !wanted(rest, None) {
                continue;
            }
            any = true;
            if self.excludes.ignores(rest) {
                continue;
            }
            selected.insert(path.clone());
            let mut parent = path.parent();
            // What is in one folder comes together, and that folder is known after the first.
            if parent == known {
                continue;
            }
            known.clone_from(&parent);
            while let Some(between) = parent.filter(|between| between.below(folder).is_some()) {
                parent = if selected.insert(between.clone()) { between.parent() } else { None };
            }
        }
        self.selection.paths.extend(selected.iter().cloned());
        (any, selected.into_iter().collect())
    }
}
