//! Facts about a root for a rebase, read from every byte of its layers, once.

use super::{Collector, Kind, LONGEST, Search};
use crate::files::ImageFiles;
use crate::image::Image;
use crate::layer::toc::{self, LayerToc};
use crate::layer::{Entry, EntryKind, Reader, Whiteout};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::context::FileKind;
use xtask_model::image::rebase::root::{self, RootFacts, RootPython, SCHEMA};
use xtask_model::spec::debian;
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::reference::Digest;
use xtask_model::supply::inventory::LayerContents;

/// A root, with the contents of its layers for an inventory.
pub struct Read {
    pub facts: RootFacts,
    pub contents: Vec<(Digest, LayerContents)>,
}

/// Files of which the text counts.
#[derive(Default)]
struct Texts {
    release: BTreeMap<String, String>,
    status: BTreeMap<String, String>,
    sysconfig: BTreeMap<String, String>,
}

/// Reads the layers of a root.
///
/// # Errors
/// A layer is missing or damaged.
pub fn read(image: &Image, search: &Search<'_>) -> Result<Read, Fault> {
    let files = ImageFiles::new(search.client, search.store, image, &image.digest.to_string(), search.root);
    let mut facts = RootFacts { schema: SCHEMA, ..RootFacts::default() };
    let mut texts = Texts::default();
    let mut contents = Vec::new();
    for (descriptor, diff_id) in image.layers() {
        process::interrupted()?;
        terminal::detail(&format!("reading layer `{}` of the root", descriptor.digest));
        let found = files.read_layer(descriptor, diff_id, |reader| layer(reader, search, &mut facts, &mut texts))?;
        search.store.put_contents(&diff_id, search.platform, &found)?;
        contents.push((diff_id, found));
    }
    // The link `etc/os-release` leads to the other one.
    let release = ["etc/os-release", "usr/lib/os-release"].iter().find_map(|path| texts.release.get(*path));
    facts.release = release.map(|text| root::release(text)).unwrap_or_default();
    for status in texts.status.values() {
        facts.packages.extend(debian::status::installed(status).iter().map(root::package));
        facts.conffiles.extend(root::conffiles(status));
    }
    facts.python = python(&facts, &texts, image);
    Ok(Read { facts, contents })
}

/// The Python on which packages are installed: the newest of the root.
fn python(facts: &RootFacts, texts: &Texts, image: &Image) -> Option<RootPython> {
    let number = |minor: &&str| minor.split('.').filter_map(|part| part.parse::<u32>().ok()).collect::<Vec<_>>();
    let minor = facts.files.keys().filter_map(|path| root::minor(path)).max_by_key(number)?;
    let abi = texts.sysconfig.iter().find(|(path, _)| path.contains(&format!("/python{minor}/")));
    // Docker's own images say it so.
    let version = image.config.config.env.iter().find_map(|entry| entry.strip_prefix("PYTHON_VERSION="));
    Some(RootPython {
        minor: minor.to_owned(),
        version: version.filter(|version| version.starts_with(minor)).map(str::to_owned),
        abi: abi.and_then(|(_, text)| root::abi(text)),
    })
}

fn layer(
    reader: &mut Reader<'_>,
    search: &Search<'_>,
    facts: &mut RootFacts,
    texts: &mut Texts,
) -> Result<LayerContents, Fault> {
    let mut collector = Collector::new(search.platform);
    let mut own = BTreeMap::new();
    let mut removed = Vec::new();
    while let Some(entry) = reader.next()? {
        let path = entry.path.to_string();
        match entry.whiteout() {
            Some(Whiteout::Path(path)) => {
                collector.contents.removed.insert(path.to_string());
                removed.push((path.to_string(), true));
                continue;
            }
            Some(Whiteout::Below(path)) => {
                collector.contents.removed.insert(path.to_string());
                removed.push((path.to_string(), false));
                continue;
            }
            Some(Whiteout::Nothing) => continue,
            None => {}
        }
        if let Some(digest) = file(reader, &entry, &path, (&mut collector, texts))? {
            own.insert(path, format!("{} {:o} {}:{}", digest, entry.mode, entry.uid, entry.gid));
        }
    }
    // Whiteouts are about the layers below, wherever in the layer they are.
    for (gone, itself) in removed {
        facts.files.retain(|path, _| match path.strip_prefix(gone.as_str()) {
            Some("") => !itself,
            Some(rest) => !(rest.starts_with('/') || gone.is_empty()),
            None => true,
        });
    }
    facts.files.extend(own);
    Ok(collector.finish())
}

/// The digest of what is at a path; `None` for a folder, whose files count.
fn file(
    reader: &mut Reader<'_>,
    entry: &Entry,
    path: &str,
    (collector, texts): (&mut Collector<'_>, &mut Texts),
) -> Result<Option<Digest>, Fault> {
    let size = match &entry.kind {
        EntryKind::Dir => return Ok(None),
        EntryKind::Symlink(target) => return Ok(Some(Digest::of(&[b"link ", target.as_slice()].concat()))),
        EntryKind::HardLink(target) => return Ok(Some(Digest::of(format!("same as {target}").as_bytes()))),
        EntryKind::Special => return Ok(Some(Digest::of(b"special"))),
        EntryKind::File(size) => *size,
    };
    let kind = Kind::of(path, entry.mode, size);
    let is_config =
        path.rsplit('/').next().is_some_and(|name| name.starts_with("_sysconfigdata") && name.ends_with(".py"));
    if (matches!(kind, Some(Kind::Program) | None) && !is_config) || size > LONGEST {
        let mut hash = Hash::default();
        let read = io::copy(&mut reader.contents(), &mut hash);
        read.map_err(|error| reader.failed(error))?;
        if kind == Some(Kind::Program) && hash.begin == super::ELF {
            collector.contents.programs.insert(path.to_owned());
        }
        return Ok(Some(hash.digest()));
    }
    let Some(bytes) = reader.bytes(LONGEST)? else { return Ok(None) };
    let text = || String::from_utf8_lossy(&bytes).into_owned();
    match kind {
        Some(Kind::Release) => drop(texts.release.insert(path.to_owned(), text())),
        Some(Kind::Debian) => drop(texts.status.insert(path.to_owned(), text())),
        _ if is_config => drop(texts.sysconfig.insert(path.to_owned(), text())),
        _ => {}
    }
    let digest = Digest::of(&bytes);
    if let Some(kind) = kind.filter(|kind| *kind != Kind::Program) {
        collector.take(kind, path.to_owned(), &bytes);
    }
    Ok(Some(digest))
}

/// Hashes what is written, and keeps its first bytes.
#[derive(Default)]
struct Hash {
    state: sha2::Sha256,
    begin: Vec<u8>,
}

impl Hash {
    fn digest(self) -> Digest {
        use sha2::Digest as _;
        Digest::from_bytes(self.state.finalize().into())
    }
}

impl io::Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use sha2::Digest as _;
        let missing = 4_usize.saturating_sub(self.begin.len()).min(bytes.len());
        self.begin.extend_from_slice(&bytes[..missing]);
        self.state.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The paths of a layer, but for its folders: from this machine, and with `download` from the registry.
///
/// # Errors
/// The layer is missing or damaged.
pub fn paths(
    image: &Image,
    (descriptor, diff_id): (&Descriptor, Digest),
    search: &Search<'_>,
    download: bool,
) -> Result<Option<BTreeSet<String>>, Fault> {
    let toc: Option<LayerToc> = match search.store.get_toc(&diff_id)? {
        Some(toc) => Some(toc),
        None if !download => None,
        None => {
            terminal::detail(&format!("reading layer `{}`: nothing says which files it has", descriptor.digest));
            let files = ImageFiles::new(search.client, search.store, image, &image.digest.to_string(), search.root);
            let toc = files.read_layer(descriptor, diff_id, toc::of)?;
            search.store.put_toc(&diff_id, &toc)?;
            Some(toc)
        }
    };
    let Some(toc) = toc else { return Ok(None) };
    let merged = toc::ImageToc::new([Arc::new(toc)]).merged();
    let files = merged.into_iter().filter(|(_, node)| node.kind != FileKind::Dir);
    Ok(Some(files.map(|(path, _)| path.to_string()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Place;
    use crate::layer::test_data::{END, entry};
    use crate::store::Store;
    use xtask_host::registry::layout::Layout;
    use xtask_host::registry::{Client, ClientOptions};
    use xtask_model::spec::oci::{Config, Manifest, media_type};
    use xtask_model::spec::reference::Platform;

    /// A root of these layers, each of paths with their texts.
    fn image(layout: &Layout, layers: &[&[(&str, &str)]]) -> Image {
        let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
        for files in layers {
            let files = files.iter().map(|(path, text)| entry(path.as_bytes(), b'0', b"", text.as_bytes()));
            let tar: Vec<u8> = files.chain([END.to_vec()]).flatten().collect();
            let (digest, size) = layout.put_bytes(&tar).unwrap();
            descriptors.push(Descriptor::new(media_type::LAYER, digest, size));
            diff_ids.push(digest);
        }
        let config: Config = serde_json::from_value(serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {"Env": ["PYTHON_VERSION=3.13.5"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))
        .unwrap();
        let manifest = Manifest::new(Descriptor::new(media_type::CONFIG, Digest::of(b"config"), 1), descriptors);
        Image { digest: Digest::of(b"root"), manifest, config, place: Place::Layout(layout.clone()) }
    }

    #[test]
    fn a_root_is_read_through_all_its_layers() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(&folder.path().join("layout")).unwrap();
        let store = Store::open(&folder.path().join("store"), 1_000_000).unwrap();
        let status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.41-12\nConffiles:\n /etc/ld.so.conf 01\n";
        let root = image(
            &layout,
            &[
                &[
                    ("usr/lib/os-release", "ID=debian\nVERSION_ID=\"13\"\n"),
                    ("var/lib/dpkg/status", status),
                    ("usr/lib/python3.9/os.py", ""),
                    ("usr/lib/python3.13/os.py", ""),
                    ("usr/lib/python3.13/_sysconfigdata__x.py", "x = {'SOABI': 'cpython-313-x',}"),
                    ("etc/gone", "1"),
                    ("etc/kept", "1"),
                ],
                &[("etc/.wh.gone", ""), ("etc/kept", "2")],
            ],
        );
        let client = Client::new(ClientOptions::default());
        let platform = Platform::host();
        let search = Search {
            client: &client,
            store: &store,
            root: folder.path(),
            platform: &platform,
            described: &Default::default,
        };
        let Read { facts, contents } = read(&root, &search).unwrap();
        assert_eq!(facts.release["VERSION_ID"], "13");
        assert_eq!(facts.packages, [("libc6:amd64".to_owned(), "2.41-12".to_owned())].into());
        assert_eq!(facts.conffiles, ["etc/ld.so.conf".to_owned()].into());
        let python = facts.python.clone().unwrap();
        assert_eq!((python.minor.as_str(), python.version.as_deref()), ("3.13", Some("3.13.5")));
        assert_eq!(python.abi.as_deref(), Some("cpython-313-x"));
        assert!(facts.files.contains_key("etc/kept") && !facts.files.contains_key("etc/gone"), "{:?}", facts.files);
        assert_eq!(contents.len(), 2);
        let again = super::super::layers(&root, &search).unwrap();
        assert_eq!(again, contents, "an inventory reads nothing again");
        let (top, diff_id) = root.layers().nth(1).unwrap();
        assert_eq!(paths(&root, (top, diff_id), &search, false).unwrap(), None);
        let paths = paths(&root, (top, diff_id), &search, true).unwrap().unwrap();
        assert_eq!(paths.into_iter().collect::<Vec<_>>(), ["etc/kept"]);
    }
}
