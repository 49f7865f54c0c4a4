//! Table of contents of an image: all paths with their metadata, without file contents.
//!
//! A layer's table is used in its stored form, so an image of many layers costs nothing until a path is looked up.
//! Lookups go through the layers from the top, by the rules of OCI whiteouts; nothing is merged. Reads no file.

mod table;
#[cfg(test)]
pub(crate) mod tests;

pub use table::LayerToc;
use xtask_model::quantity;

use crate::layer::{Entry, EntryKind, Reader, item};
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use table::Mark;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, FileKind};

/// Files whose contents are kept: copying needs the names of users and groups.
const KEPT: [&[u8]; 2] = [b"etc/passwd", b"etc/group"];
/// Contents above this size are not kept.
const KEPT_LIMIT: u64 = 256 << 10;
/// Limit on links in a row, as in Linux.
const LINKS: usize = 40;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// A hard link is a file.
    pub kind: FileKind,
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Target of a symbolic link as written, or the path that a hard link refers to.
    pub link: Vec<u8>,
    pub contents: Option<Vec<u8>>,
}

impl Node {
    /// A folder that no layer lists, with an unpacker's defaults.
    fn implied() -> Self {
        Self { kind: FileKind::Dir, mode: 0o755, uid: 0, gid: 0, size: 0, link: Vec::new(), contents: None }
    }
}

pub type ReadLayer<'a> = dyn Fn(&mut Reader<'_>) -> Result<Option<Vec<u8>>, Fault> + 'a;

/// A node with its layer; `None` for an implied folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TocEntry {
    pub node: Node,
    /// Number of the layer, from 0 for the lowest.
    pub layer: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The path without links; a missing path stays as given.
    pub path: ContextPath,
    /// Never a link.
    pub found: Option<TocEntry>,
}

/// Table of contents of an image: one table for each layer.
#[derive(Clone, Debug, Default)]
pub struct ImageToc {
    layers: Vec<Arc<LayerToc>>,
}

impl ImageToc {
    /// An image of these layers, lowest first.
    pub fn new(layers: impl IntoIterator<Item = Arc<LayerToc>>) -> Self {
        Self { layers: layers.into_iter().collect() }
    }

    /// Entry at a path; links are not followed, and parent folders are taken literally.
    pub fn get(&self, path: &ContextPath) -> Option<TocEntry> {
        let mut implied = path.as_bytes().is_empty();
        for (number, layer) in self.layers.iter().enumerate().rev() {
            match layer.get(path.as_bytes()) {
                Some(node) if !implied || node.kind == FileKind::Dir => {
                    return Some(TocEntry { node, layer: Some(number) });
                }
                // A layer above makes it a new folder.
                Some(_) => break,
                None => {}
            }
            implied |= layer.has_below(path.as_bytes());
            if layer.hides(path.as_bytes()) {
                break;
            }
        }
        implied.then(|| TocEntry { node: Node::implied(), layer: None })
    }

    /// Follows the links of a path within the image, where `/` is the root. A loop is an error.
    pub fn resolve(&self, path: &ContextPath) -> Result<Resolved, Fault> {
        let link = |path: &ContextPath| {
            Ok(self.get(path).and_then(|found| (found.node.kind == FileKind::Symlink).then_some(found.node.link)))
        };
        let looped = |_: &ContextPath| {
            Fault::build(format!("cannot follow `{path}` in the image"))
                .cause(format!("more than {LINKS} links: they form a loop"))
        };
        let path = item::resolve(path.as_bytes(), LINKS, &link, &looped)?;
        let found = self.get(&path);
        Ok(Resolved { path, found })
    }

    pub fn merged(&self) -> BTreeMap<ContextPath, Node> {
        let mut all: BTreeMap<ContextPath, Node> = BTreeMap::new();
        for layer in &self.layers {
            all.retain(|path, _| !layer.hides(path.as_bytes()));
            for (path, mark) in layer.marks() {
                let Mark::Node(node) = mark else { continue };
                let path = ContextPath::new(path);
                for folder in path.folders() {
                    let implied = all.entry(folder).or_insert_with(Node::implied);
                    if implied.kind != FileKind::Dir {
                        *implied = Node::implied();
                    }
                }
                all.insert(path, node);
            }
        }
        all
    }

    /// Contents of a file, links followed; `None` if it is missing. `open` reads the layer of a number.
    pub fn read(
        &self,
        path: &ContextPath,
        mut open: impl FnMut(usize, &ReadLayer<'_>) -> Result<Option<Vec<u8>>, Fault>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let Resolved { path, found: Some(TocEntry { node, layer: Some(layer) }) } = self.resolve(path)? else {
            return Ok(None);
        };
        if node.kind != FileKind::File {
            return Ok(None);
        }
        if let Some(contents) = node.contents {
            return Ok(Some(contents));
        }
        // The entry that has the bytes: a hard link refers to an earlier one, in the same layer or, rarely, in a lower
        // one.
        let mut holder = (path.clone(), layer);
        let mut node = node;
        for _ in 0..LINKS {
            if node.link.is_empty() {
                let bytes = open(holder.1, &|reader| contents(reader, &holder.0))?;
                return bytes.map(Some).ok_or_else(|| no_bytes(&path, "the layer does not contain it"));
            }
            let target = ContextPath::new(node.link);
            let own = self.layers[holder.1].get(target.as_bytes());
            (node, holder) = match own {
                Some(own) => (own, (target, holder.1)),
                None => match self.get(&target) {
                    Some(TocEntry { node, layer: Some(layer) }) if layer < holder.1 => (node, (target, layer)),
                    _ => return Err(no_bytes(&path, "it is a hard link to a missing file")),
                },
            };
        }
        Err(no_bytes(&path, "its hard links form a loop"))
    }
}

fn no_bytes(path: &ContextPath, why: &str) -> Fault {
    Fault::build(format!("cannot read `{path}` in the image")).cause(why)
}

/// Bytes of the last entry of a path. Reads the whole layer, because only its end shows whether it is complete.
fn contents(reader: &mut Reader<'_>, path: &ContextPath) -> Result<Option<Vec<u8>>, Fault> {
    let mut last = None;
    while let Some(entry) = reader.next()? {
        if entry.path == *path {
            last = match entry.kind {
                EntryKind::File(size) if size > FILE_LIMIT => {
                    return Err(no_bytes(path, &format!("it is larger than {}", quantity::bytes(FILE_LIMIT))));
                }
                EntryKind::File(size) => {
                    let mut bytes = Vec::with_capacity(usize::try_from(size).expect("at most the limit"));
                    let read = reader.contents().read_to_end(&mut bytes);
                    read.map_err(|error| no_bytes(path, &error.to_string()))?;
                    Some(bytes)
                }
                _ => None,
            };
        }
    }
    Ok(last)
}

/// Largest file that is read into memory, in bytes.
const FILE_LIMIT: u64 = 64 << 20;

pub fn of(reader: &mut Reader<'_>) -> Result<LayerToc, Fault> {
    of_each(reader, &mut |_, _| Ok(()))
}

/// The same, with something else done for each entry, which may read its contents.
pub(crate) fn of_each(
    reader: &mut Reader<'_>,
    also: &mut dyn FnMut(&Entry, &mut Reader<'_>) -> Result<(), Fault>,
) -> Result<LayerToc, Fault> {
    let mut builder = table::Builder::default();
    while let Some(entry) = reader.next()? {
        also(&entry, reader)?;
        if let Some(whiteout) = entry.whiteout() {
            builder.take_away(whiteout);
            continue;
        }
        let contents = match entry.kind {
            EntryKind::File(size) if KEPT.contains(&entry.path.as_bytes()) && reader.unread() == size => {
                reader.bytes(KEPT_LIMIT)?
            }
            _ => None,
        };
        let (path, node) = node(entry, contents);
        builder.put(path, node);
    }
    builder.finish()
}

fn node(entry: Entry, contents: Option<Vec<u8>>) -> (ContextPath, Node) {
    let (kind, size, link) = match entry.kind {
        EntryKind::Dir => (FileKind::Dir, 0, Vec::new()),
        EntryKind::File(size) => (FileKind::File, size, Vec::new()),
        EntryKind::Symlink(target) => (FileKind::Symlink, 0, target),
        EntryKind::HardLink(target) => (FileKind::File, 0, target.as_bytes().to_vec()),
        EntryKind::Special => (FileKind::Special, 0, Vec::new()),
    };
    let mode = if kind == FileKind::Symlink { 0o777 } else { entry.mode };
    (entry.path, Node { kind, mode, uid: entry.uid, gid: entry.gid, size, link, contents })
}
