//! The files of an image, its layers laid over each other as a runtime does.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use xtask_model::image::context::{ContextPath, FileKind};
use xtask_native::assembly::Stat;
use xtask_native::layer::item::{Bytes, Content, Item};

/// Entry at a path.
#[derive(Clone, Debug, PartialEq)]
struct Node {
    stat: Stat,
    contents: Vec<u8>,
}

/// Paths and their entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tree(BTreeMap<ContextPath, Node>);

impl Tree {
    /// Of layers as they are stored: tar, perhaps with gzip around it.
    pub(crate) fn of_layers<'l>(layers: impl IntoIterator<Item = &'l [u8]>) -> Self {
        let mut tree = Self::default();
        for layer in layers {
            let mut plain = Vec::new();
            if layer.starts_with(b"\x1f\x8b") {
                flate2::read::MultiGzDecoder::new(layer).read_to_end(&mut plain).unwrap();
            } else {
                plain.extend_from_slice(layer);
            }
            tree.unpack(&plain);
        }
        tree
    }

    fn unpack(&mut self, tar: &[u8]) {
        for entry in tar::Archive::new(tar).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            let path = clean(path.as_os_str().as_bytes());
            let name = path.parts().next_back().unwrap_or_default().to_vec();
            if let Some(gone) = name.strip_prefix(b".wh.") {
                let gone = path.parent().unwrap_or_default().join(gone);
                self.remove(&gone);
                continue;
            }
            let header = entry.header();
            let number = |number: u64| u32::try_from(number).unwrap();
            let mut stat = Stat {
                kind: FileKind::File,
                mode: header.mode().unwrap() & 0o7777,
                uid: number(header.uid().unwrap()),
                gid: number(header.gid().unwrap()),
                link: None,
            };
            let target = entry.link_name_bytes().map(|target| target.into_owned());
            let mut contents = Vec::new();
            match header.entry_type() {
                tar::EntryType::Directory => stat.kind = FileKind::Dir,
                tar::EntryType::Symlink => {
                    stat = Stat { kind: FileKind::Symlink, mode: 0o777, link: target, ..stat };
                }
                tar::EntryType::Link => {
                    let node = self.0[&clean(&target.unwrap())].clone();
                    self.put(path, node);
                    continue;
                }
                tar::EntryType::Regular => drop(entry.read_to_end(&mut contents).unwrap()),
                _ => stat.kind = FileKind::Special,
            }
            self.put(path, Node { stat, contents });
        }
    }

    /// Lays the items of a layer over it.
    pub(crate) fn lay(&mut self, items: &[Item]) {
        for item in items {
            let contents = match &item.content {
                Content::File(Bytes::Here(bytes)) => bytes.to_vec(),
                Content::File(Bytes::At { file, size }) => {
                    let contents = std::fs::read(file).unwrap();
                    assert_eq!(contents.len() as u64, *size, "{}", file.display());
                    contents
                }
                _ => Vec::new(),
            };
            let link = match &item.content {
                Content::Symlink(target) => Some(target.clone()),
                _ => None,
            };
            let (kind, mode) = match &item.content {
                Content::Dir => (FileKind::Dir, item.mode),
                Content::File(_) => (FileKind::File, item.mode),
                Content::Symlink(_) => (FileKind::Symlink, 0o777),
            };
            let stat = Stat { kind, mode, uid: item.uid, gid: item.gid, link };
            self.put(item.path.clone(), Node { stat, contents });
        }
    }

    fn put(&mut self, path: ContextPath, node: Node) {
        if path.as_bytes().is_empty() {
            return;
        }
        let parent = path.parent().unwrap_or_default();
        assert!(
            parent.as_bytes().is_empty() || self.0.get(&parent).is_some_and(|node| node.stat.is_folder()),
            "`{path}` has no folder to be in"
        );
        if !(node.stat.is_folder() && self.0.get(&path).is_some_and(|there| there.stat.is_folder())) {
            self.remove(&path);
        }
        self.0.insert(path, node);
    }

    fn remove(&mut self, path: &ContextPath) {
        self.0.retain(|other, _| other != path && other.below(path).is_none());
    }

    pub(crate) fn stat(&self, path: &ContextPath) -> Option<Stat> {
        self.0.get(path).map(|node| node.stat.clone())
    }

    pub(crate) fn contents(&self, path: &ContextPath) -> Option<Vec<u8>> {
        self.0.get(path).filter(|node| node.stat.kind == FileKind::File).map(|node| node.contents.clone())
    }

    pub(crate) fn any_below(&self, folder: &ContextPath) -> bool {
        self.0.keys().any(|path| path.below(folder).is_some())
    }

    /// Every difference, the other's after this one's.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let paths: std::collections::BTreeSet<&ContextPath> = self.0.keys().chain(other.0.keys()).collect();
        let differ = |path: &&ContextPath| self.0.get(*path) != other.0.get(*path);
        let line = |path: &ContextPath| format!("{path}: {} -> {}", shown(self.0.get(path)), shown(other.0.get(path)));
        paths.into_iter().filter(differ).map(line).collect()
    }
}

fn shown(node: Option<&Node>) -> String {
    let Some(Node { stat, contents }) = node else { return "nothing".to_owned() };
    let what = match stat.kind {
        FileKind::Dir | FileKind::Tree => "folder".to_owned(),
        FileKind::File => format!("file {:?}", String::from_utf8_lossy(&contents[..contents.len().min(40)])),
        FileKind::Symlink => format!("link to {:?}", String::from_utf8_lossy(stat.link.as_deref().unwrap_or_default())),
        FileKind::Special => "special".to_owned(),
    };
    format!("{what} {:o} {}:{}", stat.mode, stat.uid, stat.gid)
}

fn clean(path: &[u8]) -> ContextPath {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    ContextPath::new(parts.join(&b'/'))
}
