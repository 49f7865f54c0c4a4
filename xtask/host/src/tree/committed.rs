//! Compares what an image is made of with the commit that is checked out, whatever git's index believes.
//!
//! Tags that claim a commit need equal inputs: the same files with the same modes, the same Dockerfile, lock and policy.
//! `git status` cannot say that: it skips ignored files, empty folders, sparse and assumed entries, modes where `core.fileMode` is
//! off, and it looks at files that no image reads. Here the commit's own files are selected by the same rules
//! ([`facts::parse`]) and compared by contents. Reads files and git's objects; runs no filter.

mod known;

use crate::tree::binary;
use crate::tree::facts::{self, Parsed, Tree};
use crate::tree::git::{Git, Objects, Revision, revision};
use known::Known;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextEntry, ContextPath, FileKind};
use xtask_model::image::plan::{self, Difference};
use xtask_model::image::policy::{self, ImageKind};
use xtask_model::spec::lock;
use xtask_model::spec::reference::Digest;

pub struct Compared {
    /// What differs, sorted by path. What cannot be compared is part of it.
    pub differences: Vec<Difference>,
    /// Paths of pointer files of Git LFS: the image gets these instead of the contents.
    pub pointers: Vec<ContextPath>,
}

impl Compared {
    fn new(mut differences: Vec<Difference>, pointers: Vec<ContextPath>) -> Self {
        plan::sort(&mut differences);
        Self { differences, pointers }
    }
}

/// Where the inputs that a commit gives an image are remembered.
pub struct Memory<'a> {
    pub path: &'a Path,
    pub writes: bool,
}

/// Compares what an image reads with a commit: by what is remembered of it where that is enough, else with git's objects, which
/// `committed` opens.
pub fn compare<'c>(
    tree: &Tree,
    kind: ImageKind,
    parsed: &Parsed,
    id: &str,
    memory: &Memory<'_>,
    committed: &dyn Fn() -> Result<&'c Committed, Fault>,
) -> Result<Compared, Fault> {
    if let Some(known) = Known::read(memory.path, id)
        && let Some(compared) = known.compare(tree, kind, parsed)?
    {
        return Ok(compared);
    }
    let committed = committed()?;
    let (differences, known) = committed.examine(tree, kind, parsed)?;
    if let Some(known) = known.filter(|_| memory.writes) {
        known.write(memory.path)?;
    }
    Ok(Compared::new(differences, committed.pointers(parsed)))
}

/// The commit that is checked out, as a tree to compare with.
pub struct Committed {
    id: String,
    git: Git,
    objects: Arc<Objects>,
    /// Its files and policy, or why it has none.
    tree: Result<Tree, Fault>,
}

impl Committed {
    /// Opens a commit of the repository at `root`. `offline` keeps a partial clone from fetching what it lacks.
    pub fn open(root: &Path, id: &str, offline: bool) -> Result<Self, Fault> {
        let git = Git::at(root);
        let objects = Arc::new(Objects::open(&git, offline)?);
        let tree = Revision::find(root, &objects, id)
            .and_then(|found| found.ok_or_else(|| revision::missing(id)))
            .and_then(|revision| Tree::with_registry(None, Box::new(revision)));
        Ok(Self { id: id.to_owned(), git, objects, tree })
    }

    /// Differences of what an image reads, sorted by path. What cannot be compared is one of them.
    pub fn differences(&self, tree: &Tree, kind: ImageKind, parsed: &Parsed) -> Result<Vec<Difference>, Fault> {
        let (differences, _) = self.examine(tree, kind, parsed)?;
        Ok(Compared::new(differences, Vec::new()).differences)
    }

    /// The differences in any order, with what there is to remember of a commit that can be read.
    fn examine(
        &self,
        tree: &Tree,
        kind: ImageKind,
        parsed: &Parsed,
    ) -> Result<(Vec<Difference>, Option<Known>), Fault> {
        let theirs = match &self.tree {
            Ok(theirs) => theirs,
            Err(fault) => {
                let why = format!("the commit's cannot be read: {}", reason(fault));
                return Ok((vec![Difference::new(policy::FILE, why)], None));
            }
        };
        let args = match kind {
            ImageKind::Base => &theirs.policy.base.args,
            ImageKind::App | ImageKind::Enhanced => &theirs.policy.app.args,
        };
        let mut found = self.settings(tree, theirs, kind)?;
        let mut known = None;
        match facts::parse(theirs, kind, args) {
            Ok(committed) => {
                if committed.path != parsed.path || committed.meaning != parsed.meaning {
                    found.push(Difference::new(&parsed.path, EDITED));
                }
                self.files(tree, theirs, &committed.files, &parsed.files, &mut found)?;
                known = Known::of(&self.id, theirs, kind, &committed, &|digest| self.objects.lfs_contents(digest)).ok();
                if kind != ImageKind::Base {
                    let others = found.len();
                    self.program(tree, theirs, &committed, parsed, &mut found)?;
                    found[others..].iter_mut().for_each(|difference| difference.program = true);
                }
            }
            Err(fault) => {
                // What is here and not there may be the very reason: it is named all the same.
                let why = format!("the commit's cannot be read: {}", reason(&fault));
                found.push(Difference::new(&parsed.path, why));
                let ignored = ignored(&self.git, &parsed.files)?;
                found.extend(parsed.files.iter().filter_map(|entry| ignored.get(&entry.path)).cloned());
            }
        }
        Ok((found, known))
    }

    /// Paths of an image's files that are pointer files of Git LFS: the image gets these instead of the contents.
    pub fn pointers(&self, parsed: &Parsed) -> Vec<ContextPath> {
        let is_pointer =
            |entry: &&ContextEntry| entry.digest.is_some_and(|digest| self.objects.lfs_contents(&digest).is_some());
        parsed.files.iter().filter(is_pointer).map(|entry| entry.path.clone()).collect()
    }

    fn settings(&self, tree: &Tree, theirs: &Tree, kind: ImageKind) -> Result<Vec<Difference>, Fault> {
        let mut found = Vec::new();
        let same = |path: &Path| Ok::<_, Fault>(tree.files.read(path)? == theirs.files.read(path)?);
        if !same(Path::new(policy::FILE))? {
            let (mine, other) = (&tree.policy, &theirs.policy);
            // What only checks or describes the work around a build changes no image.
            let base = format!("{:?}", (&mine.project, &mine.root, &mine.base))
                != format!("{:?}", (&other.project, &other.root, &other.base));
            let app = kind != ImageKind::Base && format!("{:?}", mine.app) != format!("{:?}", other.app);
            if base || app {
                found.push(Difference::new(policy::FILE, EDITED));
            }
        }
        let pins = Path::new(lock::images::PATH);
        if !same(pins)? && facts::images_lock(tree)?.to_string() != facts::images_lock(theirs)?.to_string() {
            found.push(Difference::new(pins.display(), EDITED));
        }
        let lock = &tree.policy.base.lock;
        if kind != ImageKind::App && !same(lock.as_ref())? {
            let meaning = |tree: &Tree| facts::unchecked_lock(tree).map(|lock| lock.meaning());
            match (meaning(tree), meaning(theirs)) {
                (Ok(mine), Ok(other)) if mine == other => {}
                _ => found.push(Difference::new(lock, EDITED)),
            }
        }
        Ok(found)
    }

    fn files(
        &self,
        tree: &Tree,
        theirs: &Tree,
        committed: &[ContextEntry],
        here: &[ContextEntry],
        found: &mut Vec<Difference>,
    ) -> Result<(), Fault> {
        files(&self.git, committed, here, found, &|path, digests| self.contents(tree, theirs, path, digests))
    }

    /// Why the contents of a file are not the commit's; nothing where a checkout of the commit gives them.
    fn contents(
        &self,
        tree: &Tree,
        theirs: &Tree,
        path: &ContextPath,
        (committed, here): Digests,
    ) -> Result<Option<&'static str>, Fault> {
        // The commit has a pointer, and the work tree its contents.
        if committed
            .and_then(|digest| self.objects.lfs_contents(&digest))
            .is_some_and(|contents| Some(contents) == here)
        {
            return Ok(None);
        }
        let read = |tree: &Tree| Ok::<_, Fault>(tree.files.read(path.to_path())?.unwrap_or_default());
        let (blob, file) = (read(theirs)?, read(tree)?);
        if file.contains(&b'\r') && without_carriage_returns(&file) == without_carriage_returns(&blob) {
            if with_carriage_returns(&blob) == file && self.git.ends_lines_with_crlf(&self.id, path.to_path())? {
                return Ok(None);
            }
            return Ok(Some("line ends differ from the commit's (`core.autocrlf`, `core.eol` or an edit)"));
        }
        Ok(Some(EDITED))
    }

    fn program(
        &self,
        tree: &Tree,
        theirs: &Tree,
        committed: &Parsed,
        parsed: &Parsed,
        found: &mut Vec<Difference>,
    ) -> Result<(), Fault> {
        let key = |tree: &Tree, parsed: &Parsed| facts::binary_key(tree, parsed);
        let Some(mine) = key(tree, parsed)? else { return Ok(()) };
        let other = match key(theirs, committed) {
            Ok(Some(other)) => other,
            Ok(None) => return Ok(()),
            Err(fault) => {
                found.push(Difference::new("Cargo.toml", format!("the commit's cannot be read: {}", reason(&fault))));
                return Ok(());
            }
        };
        if mine.crates != other.crates {
            found.push(Difference::new("Cargo.lock", EDITED));
        }
        if mine.toolchain != other.toolchain {
            found.push(Difference::new("rust-toolchain.toml", EDITED));
        }
        if mine.sources == other.sources {
            return Ok(());
        }
        let sources =
            |tree: &Tree, parsed: &Parsed| Ok::<_, Fault>(facts::binary_sources(tree, parsed)?.unwrap_or_default());
        let as_entries = |sources: binary::Sources| -> Vec<ContextEntry> {
            let entry = |(path, digest): (PathBuf, Digest)| {
                let path = ContextPath::new(OsString::from(path).into_vec());
                ContextEntry { path, kind: FileKind::File, mode: 0o644, digest: Some(digest) }
            };
            sources.into_iter().map(entry).collect()
        };
        let (before, now) = (as_entries(sources(theirs, committed)?), as_entries(sources(tree, parsed)?));
        self.files(tree, theirs, &before, &now, found)
    }
}

type Digests = (Option<Digest>, Option<Digest>);

/// Says why two files of one path differ; nothing where they do not count as different.
type Contents<'a> = dyn Fn(&ContextPath, Digests) -> Result<Option<&'static str>, Fault> + 'a;

fn files(
    git: &Git,
    committed: &[ContextEntry],
    here: &[ContextEntry],
    found: &mut Vec<Difference>,
    contents: &Contents<'_>,
) -> Result<(), Fault> {
    let index = |entries: &'_ [ContextEntry]| -> BTreeMap<ContextPath, ContextEntry> {
        entries.iter().map(|entry| (entry.path.clone(), entry.clone())).collect()
    };
    let (before, now) = (index(committed), index(here));
    let mut new: Vec<ContextEntry> = Vec::new();
    for (path, entry) in &now {
        let Some(old) = before.get(path) else {
            new.push(entry.clone());
            continue;
        };
        if old.kind != entry.kind {
            found.push(Difference::new(path, "another kind of file than in the commit"));
        } else if old.digest != entry.digest {
            let digests = (old.digest, entry.digest);
            found.extend(contents(path, digests)?.map(|why| Difference::new(path, why)));
        } else if old.mode != entry.mode {
            let why = if entry.mode & 0o100 == 0 {
                "executable in the commit, not here"
            } else {
                "executable here, not in the commit"
            };
            found.push(Difference::new(path, why));
        }
    }
    let gone: BTreeSet<&ContextPath> = before.keys().filter(|path| !now.contains_key(*path)).collect();
    let holds = |paths: &BTreeSet<&ContextPath>, folder: &ContextPath| {
        paths.range(folder.join(b"")..).next().is_some_and(|path| path.below(folder).is_some())
    };
    for path in gone.iter().filter(|path| before[*path].kind != FileKind::Dir || !holds(&gone, path)) {
        found.push(Difference::new(path, "in the commit, missing here (deleted, or not checked out)"));
    }
    let ignored = ignored(git, &new)?;
    found.extend(ignored.values().cloned());
    let paths: BTreeSet<&ContextPath> = new.iter().map(|entry| &entry.path).collect();
    for entry in &new {
        let path = &entry.path;
        if ignored.contains_key(path) || ignored.keys().any(|folder| path.below(folder).is_some()) {
            continue;
        }
        if entry.kind != FileKind::Dir {
            found.push(Difference::new(path, "not in the commit"));
        } else if !holds(&paths, path) {
            found.push(Difference::new(path, "an empty folder, which git does not record"));
        }
    }
    Ok(())
}

/// The files that git ignores among an image's, where there is no commit to compare with.
pub fn ignored_without_commit(git: &Git, parsed: &Parsed) -> Result<Vec<Difference>, Fault> {
    if !git.is_repository() {
        return Ok(Vec::new());
    }
    Ok(ignored(git, &parsed.files)?.into_values().collect())
}

/// Files and folders that git ignores; of a folder with all in it, the folder alone.
fn ignored(git: &Git, entries: &[ContextEntry]) -> Result<BTreeMap<ContextPath, Difference>, Fault> {
    let paths: Vec<&Path> = entries.iter().map(|entry| entry.path.to_path()).collect();
    let rules = git.ignored(&paths)?;
    let mut found: BTreeMap<ContextPath, Difference> = BTreeMap::new();
    for entry in entries {
        let Some(rule) = rules.get(entry.path.to_path()) else { continue };
        let above = std::iter::successors(entry.path.parent(), ContextPath::parent);
        if !above.into_iter().any(|folder| found.contains_key(&folder)) {
            let difference =
                Difference { ignored: true, ..Difference::new(&entry.path, format!("ignored by git, {rule}")) };
            found.insert(entry.path.clone(), difference);
        }
    }
    Ok(found)
}

const EDITED: &str = "differs from the commit";

fn reason(fault: &Fault) -> String {
    let text = fault.causes.last().map_or_else(|| fault.what.clone(), |cause| format!("{} ({cause})", fault.what));
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn without_carriage_returns(bytes: &[u8]) -> Vec<u8> {
    let pairs = bytes.iter().zip(bytes.iter().skip(1).map(Some).chain([None]));
    pairs.filter(|(byte, next)| !(**byte == b'\r' && *next == Some(&b'\n'))).map(|(byte, _)| *byte).collect()
}

fn with_carriage_returns(bytes: &[u8]) -> Vec<u8> {
    let plain = without_carriage_returns(bytes);
    plain.iter().flat_map(|byte| if *byte == b'\n' { vec![b'\r', b'\n'] } else { vec![*byte] }).collect()
}

#[cfg(test)]
mod tests;
