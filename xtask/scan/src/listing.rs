//! A folder with all that is below it: names, kinds and stamps, in git's order.

use crate::Failure;
use crate::id::{Format, Id};
use crate::index::Index;
use crate::memory::{Memory, PARALLEL_FROM, Stamp};
use crate::tree::{self, NameRule, TreeObject};
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

/// Folders within each other that are read.
const DEEPEST: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// With its place in [`Listing::folders`].
    Folder(u32),
    File {
        executable: bool,
    },
    Link,
}

struct Node {
    /// Position of its name in [`Folder::names`].
    name: (u32, u32),
    kind: Kind,
    /// Of a file.
    stamp: Stamp,
    id: Option<Id>,
}

/// One folder, without those in it.
#[derive(Default)]
struct Folder {
    /// From the root; with a slash at its end, if it is not empty.
    path: Vec<u8>,
    names: Vec<u8>,
    nodes: Vec<Node>,
}

impl Folder {
    fn name(&self, node: &Node) -> &[u8] {
        &self.names[node.name.0 as usize..node.name.1 as usize]
    }
}

/// The contents of one folder. The first of `folders` is the folder itself.
pub struct Listing {
    root: PathBuf,
    folders: Vec<Folder>,
    format: Format,
    /// Files below that set git's attributes.
    pub attributes: Vec<PathBuf>,
}

impl Listing {
    /// Reads the folder at `path` below `root`, on two threads where it is large. `None` where something in it is a device, belongs to another
    /// repository, meets one of these rules, or is too deep.
    ///
    /// # Errors
    /// A folder or a link cannot be read.
    pub fn read(root: &Path, path: &[u8], rules: &[NameRule], format: Format) -> Result<Option<Self>, Failure> {
        let path = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let reading = Reading { root, rules, format, state: Mutex::default(), changed: Condvar::new() };
        reading.lock().add(path, 0);
        reading.work(PARALLEL_FROM);
        if !reading.lock().waiting.is_empty() {
            std::thread::scope(|scope| {
                let other = scope.spawn(|| reading.work(usize::MAX));
                reading.work(usize::MAX);
                other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            });
        }
        let state = reading.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.stopped {
            Some(Stop::Failed(failure)) => Err(failure),
            Some(Stop::Unfit) => Ok(None),
            None => {
                Ok(Some(Self { root: root.to_owned(), folders: state.folders, format, attributes: state.attributes }))
            }
        }
    }

    /// Number of files, links and folders.
    pub fn len(&self) -> usize {
        self.folders.iter().map(|folder| folder.nodes.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.folders.iter().all(|folder| folder.nodes.is_empty())
    }

    /// Takes the ids of files that were not touched since they were remembered. Returns the number of files whose id is still unknown.
    pub fn recall(&mut self, memory: &Memory) -> usize {
        let mut unknown = 0;
        for node in self.folders.iter_mut().flat_map(|folder| &mut folder.nodes).filter(|node| node.is_unknown()) {
            node.id = memory.get(&node.stamp);
            unknown += usize::from(node.id.is_none());
        }
        unknown
    }

    /// Takes the ids of files that git's index knows as they are on disk; `prefix` is where the root is in the repository. Calls `learn` for
    /// each, and returns their number.
    pub fn find(&mut self, index: &Index, prefix: &[u8], mut learn: impl FnMut(&Stamp, &Id)) -> usize {
        let mut count = 0;
        for folder in &mut self.folders {
            let mut cursor = 0;
            let mut wanted = [prefix, &folder.path].concat();
            let above = wanted.len();
            for node in folder.nodes.iter_mut().filter(|node| node.is_unknown()) {
                wanted.truncate(above);
                wanted.extend_from_slice(&folder.names[node.name.0 as usize..node.name.1 as usize]);
                cursor = index.seek(cursor, &wanted);
                node.id = index.clean(cursor, &wanted, &node.stamp);
                if let Some(id) = &node.id {
                    learn(&node.stamp, id);
                    count += 1;
                }
            }
        }
        count
    }

    /// Hashes the files whose id is unknown. Returns what was learned.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn hash(&mut self) -> Result<Vec<(Stamp, Id)>, Failure> {
        let mut unknown = Vec::new();
        for (place, folder) in self.folders.iter().enumerate() {
            let nodes = folder.nodes.iter().enumerate().filter(|(_, node)| node.is_unknown());
            unknown.extend(nodes.map(|(at, _)| (place, at)));
        }
        let path = |index: usize| {
            let (place, at) = unknown[index];
            let folder = &self.folders[place];
            let path = [&folder.path, folder.name(&folder.nodes[at])].concat();
            self.root.join(OsStr::from_bytes(&path))
        };
        let ids = crate::memory::hash_all(unknown.len(), self.format, &path)?;
        for ((place, at), (_, id)) in unknown.into_iter().zip(&ids) {
            self.folders[place].nodes[at].id = Some(*id);
        }
        Ok(ids)
    }

    /// The id of git's tree of the folder.
    ///
    /// # Errors
    /// Its names were made for a collision.
    ///
    /// # Panics
    /// A file's id is unknown.
    pub fn id(&self) -> std::io::Result<Id> {
        self.tree(0)
    }

    fn tree(&self, place: usize) -> std::io::Result<Id> {
        let mut object = TreeObject::default();
        let folder = &self.folders[place];
        for node in &folder.nodes {
            let known = || node.id.expect("every file was hashed");
            let (mode, id) = match node.kind {
                Kind::Folder(place) => (tree::FOLDER, self.tree(place as usize)?),
                Kind::Link => (tree::LINK, known()),
                Kind::File { executable: true } => (tree::EXECUTABLE, known()),
                Kind::File { executable: false } => (tree::FILE, known()),
            };
            object.push(mode, folder.name(node), &id[..self.format.size()]);
        }
        object.id(self.format)
    }
}

impl Node {
    fn is_unknown(&self) -> bool {
        self.id.is_none() && matches!(self.kind, Kind::File { .. })
    }
}

/// Folders that are being read.
struct Reading<'r> {
    root: &'r Path,
    rules: &'r [NameRule],
    format: Format,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Those that are not read yet have their path alone.
    folders: Vec<Folder>,
    /// Folders to read, with their depths.
    waiting: Vec<(usize, usize)>,
    /// Number of folders that are being read at the moment.
    busy: usize,
    /// Number of entries that were found.
    found: usize,
    attributes: Vec<PathBuf>,
    stopped: Option<Stop>,
}

enum Stop {
    Failed(Failure),
    /// Something in it cannot be part of a tree.
    Unfit,
}

impl State {
    fn add(&mut self, path: Vec<u8>, depth: usize) -> usize {
        let place = self.folders.len();
        self.folders.push(Folder { path, ..Folder::default() });
        self.waiting.push((place, depth));
        place
    }

    fn keep(&mut self, place: usize, depth: usize, mut found: Found) {
        self.found += found.folder.nodes.len();
        self.attributes.extend(found.attributes);
        let Folder { path, names, nodes } = &mut found.folder;
        for node in nodes {
            if let Kind::Folder(place) = &mut node.kind {
                let below = [path.as_slice(), &names[node.name.0 as usize..node.name.1 as usize], b"/"].concat();
                *place = u32::try_from(self.add(below, depth + 1)).expect("fewer folders than a disk has");
            }
        }
        self.folders[place] = found.folder;
    }
}

/// Contents of one folder, before its subfolders have places.
struct Found {
    folder: Folder,
    attributes: Option<PathBuf>,
}

impl Reading<'_> {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads folders until there are no more, or this many entries were found.
    fn work(&self, most: usize) {
        let mut state = self.lock();
        loop {
            if state.stopped.is_some() || state.found > most {
                return;
            }
            let Some((place, depth)) = state.waiting.pop() else {
                if state.busy == 0 {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy += 1;
            let path = state.folders[place].path.clone();
            drop(state);
            let read = if depth > DEEPEST { Err(Stop::Unfit) } else { self.folder(path) };
            state = self.lock();
            state.busy -= 1;
            match read {
                Ok(found) => state.keep(place, depth, found),
                Err(stop) => drop(state.stopped.get_or_insert(stop)),
            }
            self.changed.notify_all();
        }
    }

    fn folder(&self, path: Vec<u8>) -> Result<Found, Stop> {
        let place = self.root.join(OsStr::from_bytes(&path));
        let failed = |path: &Path, error| Stop::Failed(Failure::new(path, error));
        let mut found = Found { folder: Folder { path, ..Folder::default() }, attributes: None };
        let Folder { names, nodes, .. } = &mut found.folder;
        for entry in fs::read_dir(&place).map_err(|error| failed(&place, error))? {
            let entry = entry.map_err(|error| failed(&place, error))?;
            let name = entry.file_name().into_vec();
            if name == b".git" || self.rules.iter().any(|rule| rule.is_met(&name)) {
                return Err(Stop::Unfit);
            }
            if name == b".gitattributes" {
                found.attributes = Some(entry.path());
            }
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Gone since the folder was read: as if it had never existed.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&entry.path(), error)),
            };
            let mut id = None;
            let kind = if metadata.is_dir() {
                Kind::Folder(0)
            } else if metadata.is_file() {
                Kind::File { executable: metadata.mode() & 0o100 != 0 }
            } else if metadata.is_symlink() {
                let target = fs::read_link(entry.path()).map_err(|error| failed(&entry.path(), error))?;
                let hashed = crate::id::object(self.format, "blob", &target.into_os_string().into_vec());
                id = Some(hashed.map_err(|error| failed(&entry.path(), error))?);
                Kind::Link
            } else {
                return Err(Stop::Unfit);
            };
            let at = |length: usize| u32::try_from(length).map_err(|_| Stop::Unfit);
            let start = at(names.len())?;
            names.extend_from_slice(&name);
            nodes.push(Node { name: (start, at(names.len())?), kind, stamp: Stamp::of(&metadata), id });
        }
        let is_folder = |node: &Node| matches!(node.kind, Kind::Folder(_));
        let name = |node: &Node| &names[node.name.0 as usize..node.name.1 as usize];
        nodes.sort_unstable_by(|a, b| tree::order(name(a), is_folder(a), name(b), is_folder(b)));
        nodes.shrink_to_fit();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id;

    /// Writes a tree, and returns its id as git computes it: from the bytes, folder by folder.
    fn grow(folder: &Path, width: usize, depth: usize) -> Id {
        fs::create_dir_all(folder).unwrap();
        let mut entries = Vec::new();
        for number in 0..width {
            let name = format!("{number}.txt");
            let text = format!("{} {name}", folder.file_name().unwrap().to_str().unwrap());
            fs::write(folder.join(&name), &text).unwrap();
            entries.push((name, false, id::object(Format::Sha1, "blob", text.as_bytes()).unwrap()));
            if depth > 0 && number % 2 == 0 {
                // Sorts before or after the file of that name, depending on whether it is a folder.
                let name = format!("{number}");
                entries.push((name.clone(), true, grow(&folder.join(name), width, depth - 1)));
            }
        }
        entries.sort_by(|(one, a, _), (other, b, _)| tree::order(one.as_bytes(), *a, other.as_bytes(), *b));
        let mut object = TreeObject::default();
        for (name, is_folder, id) in entries {
            object.push(if is_folder { tree::FOLDER } else { tree::FILE }, name.as_bytes(), &id[..20]);
        }
        object.id(Format::Sha1).unwrap()
    }

    fn read(root: &Path, rules: &[NameRule]) -> Option<Listing> {
        Listing::read(root, b"top", rules, Format::Sha1).unwrap()
    }

    #[test]
    fn a_tree_of_any_shape_has_gits_id() {
        // A few files, more than one thread reads, and folders in folders.
        for (width, depth) in [(0, 0), (3, 1), (300, 0), (8, 3), (40, 1)] {
            let root = tempfile::tempdir().unwrap();
            let expected = grow(&root.path().join("top"), width, depth);
            for _ in 0..5 {
                let mut listing = read(root.path(), &[]).unwrap();
                let files = listing.recall(&Memory::load(root.path().join("none"), Format::Sha1));
                assert_eq!(listing.hash().unwrap().len(), files);
                assert_eq!(listing.id().unwrap(), expected, "{width} {depth}");
                assert!(listing.len() >= files && listing.is_empty() == (width == 0));
            }
        }
    }

    #[test]
    fn one_name_anywhere_that_meets_a_rule_is_enough() {
        let root = tempfile::tempdir().unwrap();
        grow(&root.path().join("top"), 40, 1);
        let rules = |name: &str| [NameRule::Equals(name.as_bytes().to_vec()), NameRule::EndsWith(b".pyc".to_vec())];
        assert!(read(root.path(), &rules("x")).is_some());
        fs::write(root.path().join("top/38/x"), "").unwrap();
        assert!(read(root.path(), &rules("x")).is_none());
        assert!(read(root.path(), &rules("y")).is_some());
        fs::write(root.path().join("top/38/x.pyc"), "").unwrap();
        assert!(read(root.path(), &rules("y")).is_none());
    }

    #[test]
    fn another_repository_and_a_missing_folder_are_not_listed() {
        let root = tempfile::tempdir().unwrap();
        grow(&root.path().join("top"), 40, 1);
        fs::create_dir(root.path().join("top/2/.git")).unwrap();
        assert!(read(root.path(), &[]).is_none());
        let failure = Listing::read(root.path(), b"missing", &[], Format::Sha1).err().unwrap();
        assert!(failure.path.ends_with("missing"), "{failure}");
    }

    #[test]
    fn folders_too_deep_are_not_listed() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("top").join(vec!["x"; DEEPEST + 2].join("/"));
        fs::create_dir_all(&deep).unwrap();
        assert!(read(root.path(), &[]).is_none());
        fs::remove_dir(&deep).unwrap();
        fs::remove_dir(deep.parent().unwrap()).unwrap();
        assert!(read(root.path(), &[]).is_some());
    }

    #[test]
    fn files_of_attributes_are_found() {
        let root = tempfile::tempdir().unwrap();
        grow(&root.path().join("top"), 3, 1);
        fs::write(root.path().join("top/2/.gitattributes"), "").unwrap();
        let found = read(root.path(), &[]).unwrap().attributes;
        assert_eq!(found, [root.path().join("top/2/.gitattributes")]);
    }
}
