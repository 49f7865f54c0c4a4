//! Inventory of an image's layers, read from a few files of each.
//!
//! Contents belong to a layer's uncompressed digest and are kept in the store, for layers that are made here from the items that they are made
//! of. A layer is read from this machine if it is here, and downloaded only if nobody has described it.

pub mod root;

use crate::files::ImageFiles;
use crate::image::Image;
use crate::layer::item::{Content, Item};
use crate::layer::{EntryKind, Limits, Reader, Whiteout, packed};
use crate::push::published::RECIPE;
use crate::store::Store;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io::{BufReader, Read as _};
use std::path::Path;
use xtask_host::registry::Client;
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::spec::debian;
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::reference::{Digest, Platform};
use xtask_model::supply::inventory::{self, LayerContents, SCHEMA};
use xtask_model::supply::licence;

/// Longest file that is looked at, in bytes.
const LONGEST: u64 = 16 << 20;

const ELF: &[u8] = b"\x7fELF";

/// Contents of layers that somebody else has described, by uncompressed digest.
pub type Described = BTreeMap<Digest, LayerContents>;

pub struct Search<'a> {
    pub client: &'a Client,
    pub store: &'a Store,
    /// The repository's folder.
    pub root: &'a Path,
    pub platform: &'a Platform,
    /// Asked once, for a layer that is not on this machine.
    pub described: &'a dyn Fn() -> Described,
}

/// The contents of each layer of an image, lowest first.
pub fn layers(image: &Image, search: &Search<'_>) -> Result<Vec<(Digest, LayerContents)>, Fault> {
    let described = OnceCell::new();
    let files = ImageFiles::new(search.client, search.store, image, &image.digest.to_string(), search.root);
    let mut found = Vec::new();
    for (descriptor, diff_id) in image.layers() {
        process::interrupted()?;
        if let Some(known) = search.store.contents(&diff_id, search.platform)? {
            found.push((diff_id, known));
            continue;
        }
        let contents = match here(search, descriptor, diff_id)? {
            Some(contents) => contents,
            None => match described.get_or_init(|| (search.described)()).get(&diff_id) {
                Some(known) if known.schema == SCHEMA => known.clone(),
                _ => {
                    terminal::detail(&format!("reading layer `{}` for the SBOM", descriptor.digest));
                    files.read_layer(descriptor, diff_id, |reader| of_reader(reader, search.platform))?
                }
            },
        };
        search.store.put_contents(&diff_id, search.platform, &contents)?;
        found.push((diff_id, contents));
    }
    Ok(found)
}

/// A layer that this machine made.
fn here(search: &Search<'_>, descriptor: &Descriptor, diff_id: Digest) -> Result<Option<LayerContents>, Fault> {
    let recipe = descriptor.annotations.get(RECIPE).and_then(|text| text.parse::<Digest>().ok());
    let Some(stored) = recipe.map(|recipe| search.store.get(&recipe)).transpose()?.flatten() else { return Ok(None) };
    if stored.diff_id != diff_id {
        return Ok(None);
    }
    let Some(file) = search.store.open_layer(&stored)? else { return Ok(None) };
    let mut reader = Reader::open(BufReader::with_capacity(256 << 10, file), Some(&diff_id), Limits::default())?;
    of_reader(&mut reader, search.platform).map(Some)
}

/// The contents of a layer of these items.
pub(crate) fn of_items(items: &[Item], platform: &Platform) -> Result<LayerContents, Fault> {
    let mut collector = Collector::new(platform);
    for item in items {
        let Content::File(bytes) = &item.content else { continue };
        let path = item.path.to_string();
        match Kind::of(&path, item.mode, bytes.size()) {
            Some(Kind::Program) => {
                if packed::starts_with(bytes, ELF)? {
                    collector.contents.programs.insert(path);
                }
            }
            Some(kind) if bytes.size() <= LONGEST => collector.take(kind, path, &packed::contents(bytes)?),
            Some(_) | None => {}
        }
    }
    Ok(collector.finish())
}

fn of_reader(reader: &mut Reader<'_>, platform: &Platform) -> Result<LayerContents, Fault> {
    let mut collector = Collector::new(platform);
    while let Some(entry) = reader.next()? {
        match entry.whiteout() {
            Some(Whiteout::Path(path) | Whiteout::Below(path)) => {
                collector.contents.removed.insert(path.to_string());
                continue;
            }
            Some(Whiteout::Nothing) => continue,
            None => {}
        }
        let EntryKind::File(size) = entry.kind else { continue };
        let path = entry.path.to_string();
        match Kind::of(&path, entry.mode, size) {
            Some(Kind::Program) => {
                let mut magic = [0; 4];
                let read = reader.contents().read_exact(&mut magic);
                read.map_err(|error| reader.failed(error))?;
                if magic == ELF {
                    collector.contents.programs.insert(path);
                }
            }
            Some(kind) => {
                if let Some(bytes) = reader.bytes(LONGEST)? {
                    collector.take(kind, path, &bytes);
                }
            }
            None => {}
        }
    }
    Ok(collector.finish())
}

/// Reason to look at a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Distribution,
    Debian,
    Copyright,
    Release,
    Program,
}

impl Kind {
    fn of(path: &str, mode: u32, size: u64) -> Option<Self> {
        let packages = path.contains("/site-packages/") || path.contains("/dist-packages/");
        if packages && path.ends_with(".dist-info/METADATA") {
            return Some(Self::Distribution);
        }
        if path == "var/lib/dpkg/status" {
            return Some(Self::Debian);
        }
        // Images without a package manager have a file for each package.
        if let Some(name) = path.strip_prefix("var/lib/dpkg/status.d/") {
            return (!name.ends_with(".md5sums") && !name.contains('/')).then_some(Self::Debian);
        }
        if matches!(path, "etc/os-release" | "usr/lib/os-release") {
            return Some(Self::Release);
        }
        if path.strip_prefix("usr/share/doc/").and_then(|rest| rest.strip_suffix("/copyright")).is_some() {
            return Some(Self::Copyright);
        }
        (mode & 0o111 != 0 && !packages && size > 4096).then_some(Self::Program)
    }
}

struct Collector<'a> {
    contents: LayerContents,
    platform: &'a Platform,
}

impl<'a> Collector<'a> {
    fn new(platform: &'a Platform) -> Self {
        Self { contents: LayerContents { schema: SCHEMA, ..LayerContents::default() }, platform }
    }

    fn take(&mut self, kind: Kind, path: String, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        match kind {
            Kind::Distribution => {
                let found = inventory::distribution(&path, &text, self.platform);
                self.contents.python.extend(found.map(|found| (path, found)));
            }
            Kind::Debian => drop(self.contents.debian.insert(path, debian::status::installed(&text))),
            Kind::Copyright => {
                let name = path.split('/').nth(3).unwrap_or_default().to_owned();
                self.contents.copyright.extend(licence::of_copyright(&text).map(|licence| (name, licence)));
            }
            Kind::Release => self.contents.distro = inventory::distro(&text).or(self.contents.distro.take()),
            Kind::Program => {}
        }
    }

    fn finish(mut self) -> LayerContents {
        // Programs of packages belong to their package.
        if !self.contents.debian.is_empty() {
            self.contents.programs.clear();
        }
        self.contents
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::item::Bytes;
    use crate::layer::{self, Codec};
    use xtask_model::image::context::ContextPath;
    use xtask_model::image::policy::Compression;

    fn file(path: &str, mode: u32, bytes: &[u8]) -> Item {
        let content = Content::File(Bytes::Here(bytes.into()));
        Item { path: ContextPath::new(path), mode, uid: 0, gid: 0, content }
    }

    #[test]
    fn a_layer_gives_the_same_contents_by_its_items_and_by_its_bytes() {
        let program = [ELF, &[0; 8192]].concat();
        let script = [b"#!/bin/sh\n".as_slice(), &[b'#'; 8192]].concat();
        let site = "opt/venv/lib/python3.13/site-packages";
        let mut items = vec![
            file(
                &format!("{site}/six-1.17.0.dist-info/METADATA"),
                0o644,
                b"Name: six\nVersion: 1.17.0\nLicense: MIT\n\nName: other\n",
            ),
            file(&format!("{site}/six-1.17.0.dist-info/RECORD"), 0o644, b"six.py,,\n"),
            file(&format!("{site}/native.so"), 0o755, &program),
            file("usr/local/bin/app", 0o755, &program),
            file("usr/local/bin/script", 0o755, &script),
            file("usr/share/doc/zlib1g/copyright", 0o644, b"Format: x\n\nFiles: *\nLicense: Zlib\n"),
            file("etc/os-release", 0o644, b"ID=debian\nVERSION_ID=\"13\"\n"),
        ];
        items.sort_by(|one, other| one.path.cmp(&other.path));
        let platform = Platform::host();
        let by_items = of_items(&items, &platform).unwrap();
        let mut bytes = Vec::new();
        layer::write(&items, Codec::new(Compression::Gzip), 1, &mut bytes).unwrap();
        let mut reader = Reader::open(&bytes[..], None, Limits::default()).unwrap();
        assert_eq!(of_reader(&mut reader, &platform).unwrap(), by_items);
        assert_eq!(by_items.python.len(), 1);
        assert_eq!(by_items.programs, ["usr/local/bin/app".to_owned()].into());
        assert_eq!(by_items.copyright["zlib1g"], "Zlib");
        assert_eq!(by_items.distro.as_deref(), Some("debian-13"));
    }

    #[test]
    fn contents_are_kept_for_each_platform_and_removed_with_their_layer() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 1_000_000).unwrap();
        let (diff_id, platform) = (Digest::of(b"layer"), Platform::host());
        let items = [file("usr/share/doc/zlib1g/copyright", 0o644, b"Format: x\n\nLicense: Zlib\n")];
        store.put_contents(&diff_id, &platform, &of_items(&items, &platform).unwrap()).unwrap();
        assert_eq!(store.contents(&diff_id, &platform).unwrap(), Some(of_items(&items, &platform).unwrap()));
        assert_eq!(store.contents(&diff_id, &"linux/s390x".parse().unwrap()).unwrap(), None);
        store.prune().unwrap();
        let store = Store::open(folder.path(), 0).unwrap();
        assert!(store.contents(&diff_id, &platform).unwrap().is_some(), "within its limit nothing is removed");
        store.prune().unwrap();
        assert_eq!(Store::open(folder.path(), 0).unwrap().contents(&diff_id, &platform).unwrap(), None);
    }
}
