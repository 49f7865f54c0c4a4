//! Stored form of a layer's table: records sorted by path after a list of their offsets, so that a lookup is a binary
//! search and loading costs no parsing.
//!
//! Pure. Stored bytes start with their digest, which is checked.

use super::Node;
use crate::layer::Whiteout;
use std::collections::BTreeMap;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, FileKind};

/// Increase it with every change of the format.
const MAGIC: &[u8; 8] = b"outline1";
const HEAD: usize = MAGIC.len() + 32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Node(Node),
    /// The path of lower layers is removed.
    Gone,
    /// Everything below the path in lower layers is removed.
    Emptied,
}

/// A path can be emptied, removed and present in one layer.
type MarkKey = (Vec<u8>, u8);

const NODE: u8 = 0;
const GONE: u8 = 1;
const EMPTIED: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerToc {
    bytes: Vec<u8>,
}

#[derive(Default)]
pub(super) struct Builder {
    marks: BTreeMap<MarkKey, Mark>,
    /// A path that is both a folder and something else.
    double: Option<Vec<u8>>,
}

impl Builder {
    /// Adds an entry; the last one of a path counts.
    pub(super) fn put(&mut self, path: ContextPath, node: Node) {
        let is_dir = node.kind == FileKind::Dir;
        let before = self.marks.insert((path.as_bytes().to_vec(), NODE), Mark::Node(node));
        if matches!(before, Some(Mark::Node(before)) if (before.kind == FileKind::Dir) != is_dir) {
            self.double = Some(path.as_bytes().to_vec());
        }
    }

    pub(super) fn take_away(&mut self, whiteout: Whiteout) {
        let place = match whiteout {
            Whiteout::Path(path) => ((path.as_bytes().to_vec(), GONE), Mark::Gone),
            Whiteout::Below(folder) => ((folder.as_bytes().to_vec(), EMPTIED), Mark::Emptied),
            Whiteout::Nothing => return,
        };
        self.marks.insert(place.0, place.1);
    }

    /// Fails if a path is both a folder and something else: unpackers disagree about it.
    pub(super) fn finish(mut self) -> Result<LayerToc, Fault> {
        if let Some(path) = &self.double {
            let path = ContextPath::new(path.as_slice());
            return Err(contradiction(format!("`{path}` is both a folder and something else in one layer")));
        }
        self.link_up();
        let mut parent: Option<&[u8]> = None;
        for (path, _) in self.marks.keys() {
            let folder = parent_of(path);
            if folder == parent {
                continue;
            }
            parent = folder;
            for folder in folders(path) {
                if let Some(Mark::Node(node)) = self.marks.get(&(folder.to_vec(), NODE)) {
                    if node.kind != FileKind::Dir {
                        let (path, folder) = (ContextPath::new(path.as_slice()), ContextPath::new(folder));
                        let why = format!("`{path}` is below `{folder}`, which is not a folder in the same layer");
                        return Err(contradiction(why));
                    }
                }
            }
        }
        Ok(LayerToc { bytes: encode(&self.marks) })
    }

    /// A hard link has the size of its target.
    fn link_up(&mut self) {
        let is_link =
            |mark: &Mark| matches!(mark, Mark::Node(node) if node.kind == FileKind::File && !node.link.is_empty());
        let links: Vec<MarkKey> =
            self.marks.iter().filter(|(_, mark)| is_link(mark)).map(|(at, _)| at.clone()).collect();
        for place in links {
            let mut size = None;
            let mut next = place.clone();
            for _ in 0..super::LINKS {
                let Some(Mark::Node(node)) = self.marks.get(&next) else { break };
                if node.link.is_empty() {
                    size = Some((node.size, node.contents.clone()));
                    break;
                }
                next = (node.link.clone(), NODE);
            }
            if let (Some(Mark::Node(node)), Some((size, contents))) = (self.marks.get_mut(&place), size) {
                node.size = size;
                node.contents = contents;
            }
        }
    }
}

fn contradiction(why: String) -> Fault {
    Fault::build("cannot read a layer").cause(why)
}

fn parent_of(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|byte| *byte == b'/').map(|at| &path[..at])
}

/// Parent folders of a path, innermost first, without the root.
fn folders(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(parent_of(path), |folder| parent_of(folder))
}

fn encode(marks: &BTreeMap<MarkKey, Mark>) -> Vec<u8> {
    let mut bytes = vec![0; HEAD];
    bytes[..MAGIC.len()].copy_from_slice(MAGIC);
    bytes.extend_from_slice(&(marks.len() as u32).to_le_bytes());
    let places = bytes.len();
    bytes.resize(places + 4 * marks.len(), 0);
    for (number, ((path, kind), mark)) in marks.iter().enumerate() {
        let at = bytes.len() as u32;
        bytes[places + 4 * number..][..4].copy_from_slice(&at.to_le_bytes());
        put(&mut bytes, path);
        bytes.push(*kind);
        if let Mark::Node(node) = mark {
            bytes.push(node.kind as u8);
            for number in [node.mode, node.uid, node.gid] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.extend_from_slice(&node.size.to_le_bytes());
            put(&mut bytes, &node.link);
            bytes.push(node.contents.is_some().into());
            put(&mut bytes, node.contents.as_deref().unwrap_or_default());
        }
    }
    let digest = digest(&bytes[HEAD..]);
    bytes[MAGIC.len()..HEAD].copy_from_slice(&digest);
    bytes
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}

fn put(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
    bytes.extend_from_slice(text);
}

impl LayerToc {
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Parses stored bytes; `None` if they are damaged or of an older format.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let whole = bytes.get(..MAGIC.len())? == MAGIC && bytes.get(MAGIC.len()..HEAD)? == digest(bytes.get(HEAD..)?);
        whole.then_some(Self { bytes })
    }

    /// The same for bytes of others, whose digest says nothing: `None` also if they are not a list of records in order.
    pub fn checked(bytes: Vec<u8>) -> Option<Self> {
        let toc = Self::from_bytes(bytes)?;
        let mut rest = toc.bytes.get(HEAD..)?;
        let places = usize::try_from(number(&mut rest)?).ok()?.checked_mul(4)?;
        let mut places = take(&mut rest, places)?;
        let mut before = None;
        while !places.is_empty() {
            let at = toc.bytes.len() - rest.len();
            let key = record(&mut rest)?;
            if number(&mut places)? as usize != at || before.is_some_and(|before| before >= key) {
                return None;
            }
            before = Some(key);
        }
        rest.is_empty().then_some(toc)
    }

    pub(super) fn len(&self) -> usize {
        Cursor { bytes: &self.bytes, at: HEAD }.number() as usize
    }

    pub(super) fn get(&self, path: &[u8]) -> Option<Node> {
        match self.mark(self.find(path, NODE).ok()?).1 {
            Mark::Node(node) => Some(node),
            Mark::Gone | Mark::Emptied => None,
        }
    }

    pub(super) fn has_below(&self, path: &[u8]) -> bool {
        let below = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let mut at = self.find(&below, 0).unwrap_or_else(|at| at);
        while at < self.len() && self.place(at).0.starts_with(&below) {
            // A removal does not imply a folder.
            if self.place(at).1 == NODE {
                return true;
            }
            at += 1;
        }
        false
    }

    /// Returns true if the layer hides a path of lower layers.
    pub(super) fn hides(&self, path: &[u8]) -> bool {
        let says = |path: &[u8], what: u8| self.find(path, what).is_ok();
        let replaced = |path: &[u8]| self.get(path).is_some_and(|node| node.kind != FileKind::Dir);
        let above = |folder: &[u8]| says(folder, GONE) || says(folder, EMPTIED) || replaced(folder);
        says(path, GONE) || (!path.is_empty() && says(b"", EMPTIED)) || folders(path).any(above)
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = (&[u8], Mark)> {
        (0..self.len()).map(|number| self.mark(number))
    }

    fn find(&self, path: &[u8], what: u8) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.place(middle).cmp(&(path, what)) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    fn cursor(&self, number: usize) -> Cursor<'_> {
        let at = Cursor { bytes: &self.bytes, at: HEAD + 4 + 4 * number }.number();
        Cursor { bytes: &self.bytes, at: at as usize }
    }

    fn place(&self, number: usize) -> (&[u8], u8) {
        let mut cursor = self.cursor(number);
        (cursor.text(), cursor.byte())
    }

    fn mark(&self, number: usize) -> (&[u8], Mark) {
        let mut cursor = self.cursor(number);
        let path = cursor.text();
        let mark = match cursor.byte() {
            GONE => Mark::Gone,
            EMPTIED => Mark::Emptied,
            _ => Mark::Node(Node {
                kind: match cursor.byte() {
                    kind if kind == FileKind::Dir as u8 => FileKind::Dir,
                    kind if kind == FileKind::File as u8 => FileKind::File,
                    kind if kind == FileKind::Symlink as u8 => FileKind::Symlink,
                    _ => FileKind::Special,
                },
                mode: cursor.number(),
                uid: cursor.number(),
                gid: cursor.number(),
                size: u64::from(cursor.number()) | u64::from(cursor.number()) << 32,
                link: cursor.text().to_vec(),
                contents: {
                    let kept = cursor.byte() != 0;
                    let contents = cursor.text();
                    kept.then(|| contents.to_vec())
                },
            }),
        };
        (path, mark)
    }
}

/// Takes a record from the beginning of any bytes, and returns its key.
fn record<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], u8)> {
    let (path, kind) = (text(rest)?, take(rest, 1)?[0]);
    if kind == NODE {
        // Kind, mode, owner, group and size.
        take(rest, 1 + 3 * 4 + 8)?;
        text(rest)?;
        take(rest, 1)?;
        text(rest)?;
    }
    (kind <= EMPTIED).then_some((path, kind))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    take(rest, 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = number(rest)? as usize;
    take(rest, length)
}

/// Reads the output of [`encode`], whose digest was checked.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> u8 {
        self.at += 1;
        self.bytes[self.at - 1]
    }

    fn number(&mut self) -> u32 {
        let number = <[u8; 4]>::try_from(&self.bytes[self.at..self.at + 4]).expect("four bytes");
        self.at += 4;
        u32::from_le_bytes(number)
    }

    fn text(&mut self) -> &'a [u8] {
        let length = self.number() as usize;
        self.at += length;
        &self.bytes[self.at - length..self.at]
    }
}
