//! A folder with all that is below it: names, kinds and stamps, in git's order.

use crate::Failure;
use crate::id::{Format, Id};
use crate::index::Index;
use crate::memory::{Memory, Stamp};
use crate::tree::{self, TreeObject};
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A condition on a file's or folder's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameRule {
    Equals(Vec<u8>),
    EndsWith(Vec<u8>),
}

impl NameRule {
    pub(crate) fn is_met(&self, name: &[u8]) -> bool {
        match self {
            Self::Equals(text) => name == text.as_slice(),
            Self::EndsWith(text) => name.ends_with(text),
        }
    }
}

/// Folders within each other that are read.
const DEEPEST: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    File { executable: bool },
    Link,
}

struct Node {
    /// Where its path from the root is in [`Listing::paths`], and where its name begins.
    path: (usize, usize),
    name: usize,
    kind: Kind,
    stamp: Stamp,
    id: Option<Id>,
    /// First node that is not below it.
    end: usize,
}

/// The contents of one folder. A folder's node is followed by those below it.
pub struct Listing {
    root: PathBuf,
    paths: Vec<u8>,
    nodes: Vec<Node>,
    format: Format,
    /// Files below that set git's attributes.
    pub attributes: Vec<PathBuf>,
}

impl Listing {
    /// Reads the folder at `path` below `root`. `None` where something in it is a device, belongs to another repository, meets one of
    /// these rules, or is too deep.
    ///
    /// # Errors
    /// A folder or a link cannot be read.
    pub fn read(root: &Path, path: &[u8], rules: &[NameRule], format: Format) -> Result<Option<Self>, Failure> {
        let mut listing =
            Self { root: root.to_owned(), paths: Vec::new(), nodes: Vec::new(), format, attributes: Vec::new() };
        let place = root.join(std::ffi::OsStr::from_bytes(path));
        let whole = listing.folder(&place, path, rules, 0)?;
        Ok(whole.then_some(listing))
    }

    fn folder(&mut self, place: &Path, path: &[u8], rules: &[NameRule], depth: usize) -> Result<bool, Failure> {
        if depth > DEEPEST {
            return Ok(false);
        }
        let failed = |error| Failure::new(place, error);
        let mut found: Vec<(Vec<u8>, Metadata)> = Vec::new();
        for entry in fs::read_dir(place).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_vec();
            if name == b".git" || rules.iter().any(|rule| rule.is_met(&name)) {
                return Ok(false);
            }
            if name == b".gitattributes" {
                self.attributes.push(entry.path());
            }
            match entry.metadata() {
                Ok(metadata) => found.push((name, metadata)),
                // Gone since the folder was read: as if it had never been there.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::new(&entry.path(), error)),
            }
        }
        found.sort_unstable_by(|(one, a), (other, b)| tree::order(one, a.is_dir(), other, b.is_dir()));
        for (name, metadata) in found {
            let start = self.paths.len();
            self.paths.extend_from_slice(path);
            if !path.is_empty() {
                self.paths.push(b'/');
            }
            let name_at = self.paths.len();
            self.paths.extend_from_slice(&name);
            let end = self.paths.len();
            let file_type = metadata.file_type();
            let mut id = None;
            let kind = if file_type.is_dir() {
                Kind::Folder
            } else if file_type.is_file() {
                Kind::File { executable: metadata.mode() & 0o100 != 0 }
            } else if file_type.is_symlink() {
                let at = place.join(std::ffi::OsStr::from_bytes(&name));
                let target = fs::read_link(&at).map_err(|error| Failure::new(&at, error))?;
                let target = target.into_os_string().into_vec();
                id = Some(crate::id::object(self.format, "blob", &target).map_err(|error| Failure::new(&at, error))?);
                Kind::Link
            } else {
                return Ok(false);
            };
            let node = self.nodes.len();
            let stamp = Stamp::of(&metadata);
            self.nodes.push(Node { path: (start, end), name: name_at, kind, stamp, id, end: node + 1 });
            if kind == Kind::Folder {
                let path = self.paths[start..end].to_vec();
                let place = place.join(std::ffi::OsStr::from_bytes(&name));
                if !self.folder(&place, &path, rules, depth + 1)? {
                    return Ok(false);
                }
                self.nodes[node].end = self.nodes.len();
            }
        }
        Ok(true)
    }

    /// Number of files, links and folders.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    fn unknown(&self) -> impl Iterator<Item = usize> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter(|(_, node)| node.id.is_none() && node.kind != Kind::Folder).map(|(at, _)| at)
    }

    /// Takes the ids of files that were not touched since they were remembered. Returns the number of files whose id is still unknown.
    pub fn recall(&mut self, memory: &Memory) -> usize {
        let mut unknown = 0;
        for node in self.nodes.iter_mut().filter(|node| node.id.is_none() && node.kind != Kind::Folder) {
            node.id = memory.get(&node.stamp);
            unknown += usize::from(node.id.is_none());
        }
        unknown
    }

    /// Takes the ids of files that git's index knows as they are on disk; `prefix` is where the root is in the repository. Returns what
    /// was learned.
    pub fn find(&mut self, index: &Index, prefix: &[u8]) -> Vec<(Stamp, Id)> {
        let mut found = Vec::new();
        let mut cursor = None;
        let mut wanted = prefix.to_vec();
        for node in &mut self.nodes {
            if node.id.is_some() || node.kind == Kind::Folder {
                continue;
            }
            wanted.truncate(prefix.len());
            wanted.extend_from_slice(&self.paths[node.path.0..node.path.1]);
            let at = index.seek(cursor, &wanted);
            cursor = Some(at);
            node.id = index.clean(at, &wanted, &node.stamp);
            found.extend(node.id.map(|id| (node.stamp, id)));
        }
        found
    }

    /// Hashes the files whose id is unknown. Returns what was learned.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn hash(&mut self) -> Result<Vec<(Stamp, Id)>, Failure> {
        let unknown: Vec<usize> = self.unknown().collect();
        let path = |at: usize| {
            let (start, end) = self.nodes[at].path;
            self.root.join(std::ffi::OsStr::from_bytes(&self.paths[start..end]))
        };
        let ids = crate::memory::hash_all(unknown.len(), self.format, &|index| path(unknown[index]))?;
        for (at, (_, id)) in unknown.iter().zip(&ids) {
            self.nodes[*at].id = Some(*id);
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
        self.tree(0, self.nodes.len())
    }

    fn tree(&self, mut at: usize, end: usize) -> std::io::Result<Id> {
        let mut object = TreeObject::default();
        while at < end {
            let node = &self.nodes[at];
            let (mode, id) = match node.kind {
                Kind::Folder => (tree::FOLDER, self.tree(at + 1, node.end)?),
                kind => {
                    let id = node.id.expect("every file was hashed");
                    let mode = match kind {
                        Kind::Link => tree::LINK,
                        Kind::File { executable: true } => tree::EXECUTABLE,
                        _ => tree::FILE,
                    };
                    (mode, id)
                }
            };
            object.push(mode, &self.paths[node.name..node.path.1], &id[..self.format.size()]);
            at = node.end;
        }
        object.id(self.format)
    }
}
