//! Compares what an image is made of with the commit that is checked out, whatever git's index believes.
//!
//! Tags that claim a commit need equal inputs: the same files with the same modes, the same Dockerfile, lock and policy.
//! `git status` cannot say that: it skips ignored files, empty folders, sparse and assumed entries, modes where `core.fileMode` is
//! off, and it looks at files that no image reads. Here the commit's own files are selected by the same rules
//! ([`facts::parse`]) and compared by contents. Reads files and git's objects; runs no filter.

mod remembered;

use crate::tree::binary;
use crate::tree::context::Open;
use crate::tree::facts::{self, Parsed, Tree};
use crate::tree::git::{Git, Objects, Revision, pointer, revision};
use remembered::RememberedInputs;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextEntry, ContextPath, FileKind, ObjectId};
use xtask_model::image::plan::{self, InputDifference};
use xtask_model::image::policy::{self, ImageKind};
use xtask_model::spec::lock;
use xtask_model::spec::reference::Digest;

pub struct Compared {
    /// Differences, sorted by path. Includes everything that cannot be compared.
    pub differences: Vec<InputDifference>,
    /// Paths of pointer files of Git LFS: the image gets these instead of the contents.
    pub pointers: Vec<ContextPath>,
}

impl Compared {
    fn new(mut differences: Vec<InputDifference>, pointers: Vec<ContextPath>) -> Self {
        plan::sort(&mut differences);
        Self { differences, pointers }
    }
}

/// Storage for the inputs that a commit gives an image.
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
    if let Some(known) = RememberedInputs::read(memory.path, id)
        && let Some(compared) = known.compare(tree, kind, parsed)?
    {
        return Ok(compared);
    }
    let committed = committed()?;
    let (compared, known) = committed.examine(tree, kind, parsed)?;
    if let Some(known) = known.filter(|_| memory.writes) {
        known.write(memory.path)?;
    }
    Ok(compared)
}

/// The commit that is checked out, as a tree to compare with.
pub struct Committed {
    id: String,
    git: Git,
    objects: Arc<Objects>,
    /// Its files and policy, or why it has none.
    tree: Result<Tree, Fault>,
    /// Pointer files of Git LFS whose contents are here: the id of the pointer, and that of the contents.
    contents: RefCell<BTreeMap<ObjectId, ObjectId>>,
}

impl Committed {
    /// Opens a commit of a tree's repository, for the same app. `offline` keeps a partial clone from fetching what it lacks.
    pub fn open(of: &Tree, id: &str, offline: bool) -> Result<Self, Fault> {
        let (root, app) = (&of.root, of.policy.app.name.as_slice());
        let git = Git::at(root);
        let objects = Arc::new(Objects::open(&git, offline)?);
        let tree = Revision::find(root, &objects, id)
            .and_then(|found| found.ok_or_else(|| revision::missing(id)))
            .and_then(|revision| Tree::with_registry(None, Box::new(revision), app));
        Ok(Self { id: id.to_owned(), git, objects, tree, contents: RefCell::default() })
    }

    /// Compares what an image reads. What cannot be compared is a difference.
    pub fn compare(&self, tree: &Tree, kind: ImageKind, parsed: &Parsed) -> Result<Compared, Fault> {
        self.examine(tree, kind, parsed).map(|(compared, _)| compared)
    }

    /// The same, with what there is to remember of a commit that can be read.
    fn examine(
        &self,
        tree: &Tree,
        kind: ImageKind,
        parsed: &Parsed,
    ) -> Result<(Compared, Option<RememberedInputs>), Fault> {
        let theirs = match &self.tree {
            Ok(theirs) => theirs,
            Err(fault) => {
                let why = format!("the commit's cannot be read: {}", reason(fault));
                return Ok((Compared::new(vec![InputDifference::new(policy::FILE, why)], Vec::new()), None));
            }
        };
        let args = facts::args(theirs, kind);
        let mut found = self.settings(tree, theirs, kind)?;
        let (mut known, mut pointers) = (None, Vec::new());
        match facts::parse(theirs, kind, args) {
            Ok(committed) => {
                if committed.path != parsed.path || committed.meaning != parsed.meaning {
                    found.push(InputDifference::new(&parsed.path, EDITED));
                }
                let has_folders = committed.files.iter().chain(&parsed.files).any(|one| one.kind == FileKind::Tree);
                let lists_all = has_folders && self.git.may_have_pointers(&self.id);
                let listed = match lists_all {
                    true => listed((theirs, &committed), (tree, parsed), kind),
                    false => opened((theirs, &committed), (tree, parsed), kind),
                };
                let (before, now) = match listed {
                    Ok(files) => files,
                    Err(fault) => {
                        found.push(InputDifference::new(
                            &parsed.path,
                            format!("the commit's cannot be read: {}", reason(&fault)),
                        ));
                        return Ok((Compared::new(found, pointers), None));
                    }
                };
                // A large folder has pointers only where the commit's attributes speak of them.
                let (theirs_may, ours_may) =
                    if lists_all { (&before, &now) } else { (&committed.files, &parsed.files) };
                for entry in theirs_may.iter().filter(|entry| entry.kind == FileKind::File) {
                    entry.id.map(|id| self.objects.pointer(&id)).transpose()?;
                }
                self.files(tree, theirs, &before, &now, &mut found)?;
                let is_pointer = |entry: &&ContextEntry| self.is_pointer(entry);
                pointers = ours_may.iter().filter(is_pointer).map(|entry| entry.path.clone()).collect();
                known = RememberedInputs::of(&self.id, theirs, kind, &committed).ok();
                if let Some(known) = &mut known {
                    known.pointers = theirs_may.iter().filter(is_pointer).filter_map(|entry| entry.id).collect();
                    known.contents.clone_from(&self.contents.borrow());
                }
                if kind != ImageKind::Base {
                    let others = found.len();
                    self.program(tree, theirs, &committed, parsed, &mut found)?;
                    found[others..].iter_mut().for_each(|difference| difference.program = true);
                }
            }
            Err(fault) => {
                // What is here and not there may be the very reason: it is named all the same.
                let why = format!("the commit's cannot be read: {}", reason(&fault));
                found.push(InputDifference::new(&parsed.path, why));
                let listed = facts::list(tree, kind, &parsed.files)?;
                found.extend(ignored(&self.git, &listed)?.into_values());
            }
        }
        Ok((Compared::new(found, pointers), known))
    }

    fn is_pointer(&self, entry: &ContextEntry) -> bool {
        let read = entry.id.filter(|_| entry.kind == FileKind::File && self.objects.is_read(&entry.id));
        read.is_some_and(|id| self.objects.pointer(&id).is_ok_and(|contents| contents.is_some()))
    }

    fn settings(&self, tree: &Tree, theirs: &Tree, kind: ImageKind) -> Result<Vec<InputDifference>, Fault> {
        let mut found = Vec::new();
        let same = |path: &Path| Ok::<_, Fault>(tree.files.read(path)? == theirs.files.read(path)?);
        if !same(Path::new(policy::FILE))? {
            let (mine, other) = (&tree.policy, &theirs.policy);
            // What only checks or describes the work around a build changes no image.
            let base = format!("{:?}", (&mine.project, &mine.root, &mine.base))
                != format!("{:?}", (&other.project, &other.root, &other.base));
            let app = kind != ImageKind::Base && format!("{:?}", mine.app) != format!("{:?}", other.app);
            if base || app {
                found.push(InputDifference::new(policy::FILE, EDITED));
            }
        }
        let pins = Path::new(lock::images::PATH);
        if !same(pins)? && facts::images_lock(tree)?.to_string() != facts::images_lock(theirs)?.to_string() {
            found.push(InputDifference::new(pins.display(), EDITED));
        }
        let lock = &tree.policy.base.lock;
        if kind != ImageKind::App && !same(lock.as_ref())? {
            let meaning = |tree: &Tree| facts::unchecked_lock(tree).map(|lock| lock.meaning());
            match (meaning(tree), meaning(theirs)) {
                (Ok(mine), Ok(other)) if mine == other => {}
                _ => found.push(InputDifference::new(lock, EDITED)),
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
        found: &mut Vec<InputDifference>,
    ) -> Result<(), Fault> {
        files(&self.git, committed, here, found, &|path, ids| self.contents(tree, theirs, path, ids))
    }

    /// Reason why the contents of a file are not the commit's. `None` where a checkout of the commit gives them.
    fn contents(
        &self,
        tree: &Tree,
        theirs: &Tree,
        path: &ContextPath,
        (committed, here): Ids,
    ) -> Result<Option<&'static str>, Fault> {
        let read = |tree: &Tree| Ok::<_, Fault>(tree.files.read(path.to_path())?.unwrap_or_default());
        let (blob, file) = (read(theirs)?, read(tree)?);
        // The commit has a pointer, and the work tree its contents.
        if pointer(&blob).is_some_and(|contents| contents == Digest::of(&file)) {
            self.contents.borrow_mut().extend(committed.zip(here));
            return Ok(None);
        }
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
        found: &mut Vec<InputDifference>,
    ) -> Result<(), Fault> {
        let key = |tree: &Tree, parsed: &Parsed| facts::binary_key(tree, parsed);
        let Some(mine) = key(tree, parsed)? else { return Ok(()) };
        let other = match key(theirs, committed) {
            Ok(Some(other)) => other,
            Ok(None) => return Ok(()),
            Err(fault) => {
                found.push(InputDifference::new(
                    "Cargo.toml",
                    format!("the commit's cannot be read: {}", reason(&fault)),
                ));
                return Ok(());
            }
        };
        if mine.crates != other.crates {
            found.push(InputDifference::new("Cargo.lock", EDITED));
        }
        if mine.toolchain != other.toolchain {
            found.push(InputDifference::new("rust-toolchain.toml", EDITED));
        }
        if mine.sources == other.sources {
            return Ok(());
        }
        let sources =
            |tree: &Tree, parsed: &Parsed| Ok::<_, Fault>(facts::binary_sources(tree, parsed)?.unwrap_or_default());
        let as_entries = |sources: binary::Sources| -> Vec<ContextEntry> {
            let entry = |(path, id): (PathBuf, ObjectId)| {
                let path = ContextPath::new(OsString::from(path).into_vec());
                ContextEntry { path, kind: FileKind::File, mode: 0o644, id: Some(id) }
            };
            sources.into_iter().map(entry).collect()
        };
        let (before, now) = (as_entries(sources(theirs, committed)?), as_entries(sources(tree, parsed)?));
        self.files(tree, theirs, &before, &now, found)
    }
}

type Ids = (Option<ObjectId>, Option<ObjectId>);

/// Says why two files of one path differ; nothing where they do not count as different.
type Contents<'a> = dyn Fn(&ContextPath, Ids) -> Result<Option<&'static str>, Fault> + 'a;

fn files(
    git: &Git,
    committed: &[ContextEntry],
    here: &[ContextEntry],
    found: &mut Vec<InputDifference>,
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
            found.push(InputDifference::new(path, "another kind of file than in the commit"));
        } else if old.id != entry.id {
            let ids = (old.id, entry.id);
            found.extend(contents(path, ids)?.map(|why| InputDifference::new(path, why)));
        } else if old.mode != entry.mode {
            let why = if entry.mode & 0o100 == 0 {
                "executable in the commit, not here"
            } else {
                "executable here, not in the commit"
            };
            found.push(InputDifference::new(path, why));
        }
    }
    let gone: BTreeSet<&ContextPath> = before.keys().filter(|path| !now.contains_key(*path)).collect();
    let holds = |paths: &BTreeSet<&ContextPath>, folder: &ContextPath| {
        paths.range(folder.join(b"")..).next().is_some_and(|path| path.below(folder).is_some())
    };
    for path in gone.iter().filter(|path| before[*path].kind != FileKind::Dir || !holds(&gone, path)) {
        found.push(InputDifference::new(path, "in the commit, missing here (deleted, or not checked out)"));
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
            found.push(InputDifference::new(path, "not in the commit"));
        } else if !holds(&paths, path) {
            found.push(InputDifference::new(path, "an empty folder, which git does not record"));
        }
    }
    Ok(())
}

/// The files that git ignores among an image's, where there is no commit to compare with.
pub fn ignored_without_commit(tree: &Tree, kind: ImageKind, parsed: &Parsed) -> Result<Vec<InputDifference>, Fault> {
    let git = Git::at(&tree.root);
    if !git.is_repository() {
        return Ok(Vec::new());
    }
    Ok(ignored(&git, &facts::list(tree, kind, &parsed.files)?)?.into_values().collect())
}

/// The files of both, with those in large folders.
fn listed(
    (theirs, committed): (&Tree, &Parsed),
    (tree, parsed): (&Tree, &Parsed),
    kind: ImageKind,
) -> Result<(Vec<ContextEntry>, Vec<ContextEntry>), Fault> {
    Ok((facts::list(theirs, kind, &committed.files)?, facts::list(tree, kind, &parsed.files)?))
}

/// The files of both, listed in each folder that is not equal. A folder below an unequal one is one entry again, however small: what is
/// equal costs nothing.
fn opened(
    (theirs, committed): (&Tree, &Parsed),
    (tree, parsed): (&Tree, &Parsed),
    kind: ImageKind,
) -> Result<(Vec<ContextEntry>, Vec<ContextEntry>), Fault> {
    let (mut before, mut now) = (committed.files.clone(), parsed.files.clone());
    let mut open = BTreeSet::new();
    loop {
        let unequal = unequal_folders(&before, &now);
        if unequal.is_empty() {
            return Ok((before, now));
        }
        open.extend(unequal);
        let reread = |tree: &Tree| {
            let open = Open { folders: &|folder| open.contains(folder), larger_than: 0 };
            facts::parse_open(tree, kind, facts::args(tree, kind), open).map(|parsed| parsed.files)
        };
        (before, now) = (reread(theirs)?, reread(tree)?);
    }
}

/// Folders that are one entry on one side and not the same on the other.
fn unequal_folders(one: &[ContextEntry], other: &[ContextEntry]) -> BTreeSet<ContextPath> {
    let folders = |entries: &[ContextEntry]| -> BTreeSet<(ContextPath, Option<ObjectId>)> {
        let whole = entries.iter().filter(|entry| entry.kind == FileKind::Tree);
        whole.map(|entry| (entry.path.clone(), entry.id)).collect()
    };
    folders(one).symmetric_difference(&folders(other)).map(|(path, _)| path.clone()).collect()
}

/// Files and folders that git ignores; of a folder with all in it, the folder alone.
fn ignored(git: &Git, entries: &[ContextEntry]) -> Result<BTreeMap<ContextPath, InputDifference>, Fault> {
    let paths: Vec<&Path> = entries.iter().map(|entry| entry.path.to_path()).collect();
    let rules = git.ignored(&paths)?;
    let mut found: BTreeMap<ContextPath, InputDifference> = BTreeMap::new();
    for entry in entries {
        let Some(rule) = rules.get(entry.path.to_path()) else { continue };
        let above = std::iter::successors(entry.path.parent(), ContextPath::parent);
        if !above.into_iter().any(|folder| found.contains_key(&folder)) {
            let difference = InputDifference {
                ignored: true,
                ..InputDifference::new(&entry.path, format!("ignored by git, {rule}"))
            };
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
