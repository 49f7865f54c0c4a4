//! A commit's files, read from git's objects without a checkout: what a clean checkout of it would hold.
//!
//! Only folders that a question leads to are read, so the size of the repository does not matter. Filters of
//! `.gitattributes` (line ends, large-file pointers) are not applied: such files differ from their checkout, which can make a
//! plan build too much and never too little.

use super::Git;
use super::objects::{Folder, Node, NodeKind, Objects};
use crate::tree::files::{Files, Named, Whole, scan_format, scan_rules};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, FileInfo, FileKind, ObjectFormat, ObjectId};
use xtask_model::spec::ignore::NameRule;

#[derive(Clone, Debug)]
pub struct Revision {
    place: PathBuf,
    objects: Arc<Objects>,
    pub id: String,
    root: Arc<Folder>,
}

impl Revision {
    /// The revision that `name` means in the repository at `place`; `None` where this clone has no such commit.
    pub fn find(place: &Path, objects: &Arc<Objects>, name: &str) -> Result<Option<Self>, Fault> {
        let Some(id) = commit(objects, name)? else { return Ok(None) };
        // Relative to the folder in which git runs: the policy need not be at the repository's top.
        let tree = objects
            .get_or_fetch(&format!("{id}:./"))?
            .ok_or_else(|| Fault::usage(format!("this folder is not in commit `{}`", &id[..12])))?;
        let root = objects.folder(&tree.id)?;
        Ok(Some(Self { place: place.to_owned(), objects: objects.clone(), id, root }))
    }

    /// The same with processes of its own; a revision that does not exist is a fault.
    pub fn open(place: &Path, name: &str, offline: bool) -> Result<Self, Fault> {
        let objects = Arc::new(Objects::open(&Git::at(place), offline)?);
        Self::find(place, &objects, name)?.ok_or_else(|| missing(name))
    }

    fn node(&self, path: &ContextPath) -> Result<Option<Node>, Fault> {
        let mut folder = self.root.clone();
        let mut parts = path.parts().peekable();
        while let Some(part) = parts.next() {
            let Some(node) = folder.get(part).cloned() else { return Ok(None) };
            if parts.peek().is_none() {
                return Ok(Some(node));
            }
            folder = match node.kind {
                NodeKind::Folder => self.objects.folder(&node.id)?,
                NodeKind::Submodule => return Err(submodule(path)),
                NodeKind::File { .. } | NodeKind::Link => return Ok(None),
            };
        }
        Ok(None)
    }

    /// The file that a path leads to, links followed within the tree; a link that leaves it leads nowhere.
    fn file(&self, path: &Path) -> Result<Option<Node>, Fault> {
        const MOST: usize = 40;
        let mut links = 0;
        let parts = |bytes: &[u8]| ContextPath::new(bytes).parts().rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
        let mut todo = parts(path.as_os_str().as_bytes());
        let mut at = ContextPath::default();
        let mut last = None;
        while let Some(part) = todo.pop() {
            match part.as_slice() {
                b"." => continue,
                b".." => {
                    let Some(parent) = at.parent() else { return Ok(None) };
                    (at, last) = (parent, None);
                    continue;
                }
                _ => {}
            }
            let next = at.join(&part);
            match self.node(&next)? {
                Some(Node { kind: NodeKind::Link, id }) => {
                    let target = self.objects.named(&id)?.bytes;
                    links += 1;
                    if links > MOST || target.starts_with(b"/") {
                        return Ok(None);
                    }
                    todo.extend(parts(&target));
                }
                node => (at, last) = (next, node),
            }
        }
        Ok(last.filter(|node| matches!(node.kind, NodeKind::File { .. })))
    }
}

pub fn commit(objects: &Objects, name: &str) -> Result<Option<String>, Fault> {
    // What would be an option or an object of another kind elsewhere is only a name here: it is passed on stdin.
    Ok(objects.get(&format!("{name}^{{commit}}"))?.filter(|object| object.kind == "commit").map(|object| object.id))
}

/// The fault of a revision that is named and not there.
pub fn missing(name: &str) -> Fault {
    Fault::usage(format!("revision `{}` does not exist", name.escape_default()))
        .cause("this clone has no such commit, branch or tag")
        .hint("`git log --oneline` lists commits; `git fetch --unshallow` completes a shallow clone")
}

fn submodule(path: &ContextPath) -> Fault {
    Fault::usage(format!("cannot read `{path}` at a revision"))
        .cause("it is in a submodule, and this repository does not contain its files")
        .hint("exclude it with the ignore file, or keep the files in this repository")
}

impl Files for Revision {
    fn place(&self) -> &Path {
        &self.place
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Fault> {
        let Some(node) = self.file(path)? else { return Ok(None) };
        Ok(Some(self.objects.named(&node.id)?.bytes))
    }

    fn has_file(&self, path: &Path) -> bool {
        // An unreadable tree is reported when the file is read.
        matches!(self.file(path), Ok(Some(_)) | Err(_))
    }

    fn list(&self, folder: &ContextPath) -> Result<Vec<Named>, Fault> {
        let names = if folder.as_bytes().is_empty() {
            self.root.clone()
        } else {
            match self.node(folder)? {
                Some(Node { kind: NodeKind::Folder, id }) => self.objects.folder(&id)?,
                Some(Node { kind: NodeKind::Submodule, .. }) => return Err(submodule(folder)),
                _ => return Err(Fault::usage(format!("cannot read folder `{folder}`")).cause("no such folder")),
            }
        };
        let named = |(name, node): (&Vec<u8>, &Node)| Named {
            name: name.clone(),
            is_dir: matches!(node.kind, NodeKind::Folder | NodeKind::Submodule),
            is_file: matches!(node.kind, NodeKind::File { .. }),
        };
        Ok(names.iter().map(named).collect())
    }

    fn found(&self, path: &ContextPath) -> Result<Option<FileInfo>, Fault> {
        let Some(node) = self.node(path)? else { return Ok(None) };
        let (kind, mode, link) = match node.kind {
            NodeKind::Folder | NodeKind::Submodule => (FileKind::Dir, 0o755, None),
            NodeKind::File { executable } => (FileKind::File, if executable { 0o755 } else { 0o644 }, None),
            NodeKind::Link => (FileKind::Symlink, 0o777, Some(self.objects.named(&node.id)?.bytes)),
        };
        Ok(Some(FileInfo { kind, mode, size: 0, link, whole: None }))
    }

    fn format(&self) -> ObjectFormat {
        if self.id.len() == 64 { ObjectFormat::Sha256 } else { ObjectFormat::Sha1 }
    }

    fn ids(&self, files: &[&ContextPath]) -> Result<Vec<ObjectId>, Fault> {
        let id = |file: &&ContextPath| {
            let node = self.node(file)?;
            node.and_then(|node| ObjectId::from_hex(&node.id)).ok_or_else(|| {
                Fault::usage(format!("cannot read `{}`", Path::new(OsStr::from_bytes(file.as_bytes())).display()))
            })
        };
        files.iter().map(id).collect()
    }

    fn whole(&self, folder: &ContextPath, rules: &[NameRule], most: u64) -> Result<Whole, Fault> {
        let Some(Node { kind: NodeKind::Folder, id }) = self.node(folder)? else { return Ok(Whole::Unknown) };
        let Some(whole) = ObjectId::from_hex(&id) else { return Ok(Whole::Unknown) };
        let (format, rules) = (scan_format(self.format()), scan_rules(rules));
        let (mut count, mut todo) = (0, vec![*whole.padded()]);
        while let Some(tree) = todo.pop() {
            let object = self.objects.named(&ObjectId::new(self.format(), &tree).hex())?;
            let Some(own) = xtask_scan::tree::read(&object.bytes, format, &rules, &mut todo) else {
                return Ok(Whole::Unknown);
            };
            count += own;
            // Names are looked at only for the rules.
            if count > most && rules.is_empty() {
                break;
            }
        }
        Ok(if count > most { Whole::Is(whole, count) } else { Whole::Small })
    }
}
