//! Unpacked images for containers without an engine: from an OCI layout on this machine, else from the registry.
//!
//! Layers of an image on this machine are unpacked to folders of their own, which a container mounts over each other: an image that
//! differs in one layer costs the unpacking of that layer. A layer that takes something away from those below it, or needs something
//! of theirs, is unpacked over them, to one folder. Each folder is made once, in `target/native/images`, and read by any number of
//! containers, which cannot write to it; the least recently used ones are removed when new ones come.

mod kept;

use super::Files;
use crate::image::Place;
use crate::layer::{Limits, Reader, unpack};
use kept::{KeptFolders, Used};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use xtask_host::registry::layout::Layout;
use xtask_host::registry::{Answer, Client, publish};
use xtask_host::tree::facts::Tree;
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::quantity;
use xtask_model::spec::oci::{Config, Descriptor, Manifest};
use xtask_model::spec::reference::{Digest, Platform, Reference, Tag};

/// Number of unpacked images to keep: two of an app in development, and one of another.
const KEPT: usize = 3;

/// Number of layers of an image with a folder of their own: mounts of more are slow, and the kernel limits them.
const APART: usize = 30;

pub struct ImageStore {
    layouts: PathBuf,
    store: PathBuf,
    client: Client,
}

/// Files and configuration of an image; kept while this value lives.
pub struct UnpackedImage {
    pub files: Files,
    pub config: Config,
    _used: Vec<Used>,
}

/// An image for this machine's platform in a layout.
#[derive(Clone, Debug)]
pub struct LayoutImage {
    layout: Layout,
    manifest: Descriptor,
}

impl LayoutImage {
    /// The layout, and the manifest in it.
    pub fn parts(self) -> (Layout, Descriptor) {
        (self.layout, self.manifest)
    }
}

impl ImageStore {
    pub fn of(tree: &Tree) -> Self {
        Self::new(tree.images(), store(tree), tree.client())
    }

    /// Images in `layouts` and the folders directly below it, unpacked to `store`.
    pub fn new(layouts: impl Into<PathBuf>, store: impl Into<PathBuf>, client: Client) -> Self {
        Self { layouts: layouts.into(), store: store.into(), client }
    }

    /// The layout that has an image: a named folder, or a layout of this repository that has the reference.
    pub fn find(&self, name: &str) -> Result<Option<LayoutImage>, Fault> {
        if is_layout(Path::new(name)) {
            let layout = Layout::open_or_create(Path::new(name))?;
            let Some((_, descriptor)) = layout.list()?.into_iter().next() else {
                return Err(Fault::usage(format!("the image layout `{name}` has no named image")));
            };
            return match layout.manifest_for(&descriptor, &Platform::host())? {
                Some(manifest) => Ok(Some(LayoutImage { layout, manifest })),
                None => Err(not_for_us(name)),
            };
        }
        let reference = parse(name)?;
        let mut folders = vec![self.layouts.clone()];
        let entries = fs::read_dir(&self.layouts).into_iter().flatten().flatten();
        folders.extend(entries.map(|entry| entry.path()));
        // Independent of the file system's order.
        folders.sort();
        for folder in folders.iter().filter(|folder| is_layout(folder)) {
            // Unreadable layouts are skipped; a build reports them.
            let Ok(layout) = Layout::open_or_create(folder) else { continue };
            for (tag, descriptor) in layout.list().unwrap_or_default() {
                let Ok(Some(manifest)) = layout.manifest_for(&descriptor, &Platform::host()) else { continue };
                let named = match &reference.digest {
                    Some(digest) => [descriptor.digest, manifest.digest].contains(digest),
                    None => tag == name,
                };
                if named {
                    return Ok(Some(LayoutImage { layout, manifest }));
                }
            }
        }
        Ok(None)
    }

    /// Unpacks what is not unpacked of an image. Only root can set file `owners`.
    pub fn unpack(&self, name: &str, owners: bool) -> Result<UnpackedImage, Fault> {
        let (manifest, place) = match self.find(name)? {
            Some(LayoutImage { layout, manifest }) => (layout.read_json::<Manifest>(&manifest)?, Place::Layout(layout)),
            None => self.published(name)?,
        };
        let config = place.blob(&self.client, &manifest.config)?;
        let config: Config = serde_json::from_slice(&config)
            .map_err(|error| Fault::build(format!("cannot read the configuration of `{name}`")).cause(error))?;
        if config.architecture != Platform::host().architecture {
            return Err(not_for_us(name));
        }
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(Fault::build(format!("cannot unpack `{name}`"))
                .cause("its configuration and its manifest have different numbers of layers"));
        }
        let kept = KeptFolders::open(&self.store)?;
        let image = ImageLayers {
            name,
            layers: &manifest.layers,
            diff_ids: &config.rootfs.diff_ids,
            place: &place,
            client: &self.client,
            owners,
            progress: RefCell::default(),
        };
        let used = image.folders(&kept)?;
        if let Some(progress) = image.progress.take() {
            progress.end();
        }
        let now = SystemTime::now();
        used.iter().for_each(|folder| folder.touch(now));
        let files = used.iter().map(|folder| folder.path.as_path()).collect();
        Ok(UnpackedImage { files, config, _used: used })
    }

    fn published(&self, name: &str) -> Result<(Manifest, Place), Fault> {
        let Reference { repository, tag, digest } = parse(name)?;
        let published = match (digest, tag) {
            (Some(digest), _) => publish::read(&self.client, &repository, digest)?,
            (None, Some(tag)) => publish::read(&self.client, &repository, tag)?,
            (None, None) => publish::read(&self.client, &repository, Tag::latest())?,
        };
        let Answer::Present(published) = published else {
            return Err(Fault::usage(format!("image `{name}` not found on this machine or in its registry"))
                .hint("build it: `cargo xtask build`"));
        };
        let platform = published.platforms.get(&Platform::host()).ok_or_else(|| not_for_us(name))?;
        let manifest = publish::read_manifest(&self.client, &repository, platform.digest)?;
        Ok((manifest, Place::Registry(repository)))
    }
}

/// Layers to unpack.
struct ImageLayers<'a> {
    name: &'a str,
    /// Lowest first.
    layers: &'a [Descriptor],
    diff_ids: &'a [Digest],
    place: &'a Place,
    client: &'a Client,
    owners: bool,
    /// From the first folder that has to be made.
    progress: RefCell<Option<terminal::Progress>>,
}

impl ImageLayers<'_> {
    /// Folders to be mounted over each other, the uppermost first; made where they are missing.
    fn folders(&self, kept: &KeptFolders) -> Result<Vec<Used>, Fault> {
        let (found, missing) = self.stacked(kept, &|layer| kept.find(&self.apart(layer)))?;
        if missing.is_none() {
            return Ok(found);
        }
        // Two processes with the same image would both find out which layers can be apart.
        let _held = kept.hold(&format!("{}-making", self.together(self.layers.len())))?;
        let apart = |layer: usize| kept.get(&self.apart(layer), |folder| self.unpack_apart(layer, kept, folder));
        let (mut folders, missing) = self.stacked(kept, &apart)?;
        if let Some(below) = missing {
            let make = |folder: &Path| self.unpack_together(below, kept, folder).map(|()| true);
            folders.extend(kept.get(&self.together(below), make)?);
        }
        Ok(folders)
    }

    /// Folders from the uppermost layer on, and the number of lowest layers that have none.
    fn stacked(
        &self,
        kept: &KeptFolders,
        apart: &dyn Fn(usize) -> Result<Option<Used>, Fault>,
    ) -> Result<(Vec<Used>, Option<usize>), Fault> {
        let (mut folders, mut below) = (Vec::new(), self.layers.len());
        loop {
            // Of several layers because one of them cannot be apart, or because there are too many.
            if let Some(together) = kept.find(&self.together(below))? {
                folders.push(together);
                return Ok((folders, None));
            }
            // An image that is edited is on this machine. Others are unpacked while they are downloaded.
            let may_be_apart = matches!(self.place, Place::Layout(_)) && below > 1 && folders.len() < APART;
            match if may_be_apart { apart(below - 1)? } else { None } {
                Some(folder) => folders.push(folder),
                None => return Ok((folders, Some(below))),
            }
            below -= 1;
        }
    }

    /// Name of the folder of one layer.
    fn apart(&self, layer: usize) -> String {
        format!("{}{}", self.diff_ids[layer].hex(), self.suffix())
    }

    /// Name of the folder of the lowest layers.
    fn together(&self, layers: usize) -> String {
        let ids: Vec<String> = self.diff_ids[..layers].iter().map(Digest::to_string).collect();
        format!("{}{}", Digest::of(ids.join("\n").as_bytes()).hex(), self.suffix())
    }

    fn suffix(&self) -> &'static str {
        if self.owners { "-owned" } else { "" }
    }

    /// Says that something has to be unpacked, and makes room for it.
    fn begin(&self, kept: &KeptFolders) {
        if self.progress.borrow().is_some() {
            return;
        }
        let bytes = quantity::bytes(self.layers.iter().map(|layer| layer.size).sum());
        let what = format!("`{}` ({bytes} of layers)", self.name);
        self.progress.replace(Some(terminal::Progress::begin("unpacking", &what)));
        let layers = 0..self.layers.len();
        let coming = layers.flat_map(|layer| [self.apart(layer), self.together(layer + 1)]).collect::<BTreeSet<_>>();
        kept.make_room(KEPT - 1, &coming);
    }

    fn unpacker(&self, folder: &Path) -> Result<unpack::Unpacker, Fault> {
        let unpacker = unpack::Unpacker::open(folder)?;
        Ok(if self.owners { unpacker.with_owners() } else { unpacker })
    }

    /// Unpacks one layer; false if it needs those below it.
    fn unpack_apart(&self, layer: usize, kept: &KeptFolders, folder: &Path) -> Result<bool, Fault> {
        self.begin(kept);
        self.say(layer)?;
        let file = fetch(self.place, self.client, &self.layers[layer], folder)?;
        let mut reader = Reader::open(file, Some(&self.diff_ids[layer]), Limits::default())?;
        self.unpacker(folder)?.apply_apart(&mut reader)
    }

    /// Unpacks the lowest layers over each other.
    fn unpack_together(&self, layers: usize, kept: &KeptFolders, folder: &Path) -> Result<(), Fault> {
        self.begin(kept);
        let mut unpacked = self.unpacker(folder)?;
        let (place, client) = (self.place, self.client);
        std::thread::scope(|scope| {
            // One layer is fetched while the previous one is unpacked.
            let (sender, fetched) = std::sync::mpsc::sync_channel(0);
            let descriptors = &self.layers[..layers];
            scope.spawn(move || {
                // The receiver is gone if unpacking failed.
                let files = descriptors.iter().map(|layer| fetch(place, client, layer, folder));
                files.map(|file| sender.send(file)).all(|sent| sent.is_ok())
            });
            for (layer, (diff_id, file)) in self.diff_ids.iter().zip(fetched).enumerate() {
                self.say(layer)?;
                unpacked.apply(&mut Reader::open(file?, Some(diff_id), Limits::default())?)?;
            }
            Ok(())
        })
    }

    fn say(&self, layer: usize) -> Result<(), Fault> {
        process::interrupted()?;
        if let Some(progress) = self.progress.borrow_mut().as_mut() {
            progress.line(&format!("layer {} of {}", layer + 1, self.layers.len()));
        }
        Ok(())
    }
}

/// Compressed bytes of a layer; the reader checks the digest.
fn fetch(place: &Place, client: &Client, layer: &Descriptor, near: &Path) -> Result<File, Fault> {
    if let Place::Layout(layout) = place {
        return layout.open_blob(&layer.digest);
    }
    let cannot = |error: std::io::Error| cannot_write(near, &error);
    let mut file = tempfile::tempfile_in(near).map_err(cannot)?;
    place.copy_layer(client, layer, &mut file)?;
    file.flush().and_then(|()| file.rewind()).map_err(cannot)?;
    Ok(file)
}

/// Removes incomplete images of this repository, unless a process is unpacking them.
pub fn sweep(tree: &Tree) {
    // Creates nothing.
    if let Some(kept) = KeptFolders::existing(&store(tree)) {
        kept.sweep();
    }
}

/// Folders of unpacked images that were not used for this time.
pub fn unused(tree: &Tree, age: Duration, now: SystemTime) -> Vec<PathBuf> {
    let store = store(tree);
    let names = KeptFolders::existing(&store).map(|kept| kept.unused(age, now)).unwrap_or_default();
    names.iter().map(|name| store.join(name)).collect()
}

/// Removes one of them, unless it is in use.
pub fn remove(folder: &Path) {
    let (Some(store), Some(name)) = (folder.parent().and_then(KeptFolders::existing), folder.file_name()) else {
        return;
    };
    store.remove(&name.to_string_lossy(), true);
}

fn store(tree: &Tree) -> PathBuf {
    tree.root.join("target/native/images")
}

fn parse(name: &str) -> Result<Reference, Fault> {
    name.parse().map_err(|error| {
        Fault::usage(format!("`{name}` is not the name of an image"))
            .cause(error)
            .hint("valid names are a reference, `127.0.0.1:5000/app:latest`, and the folder of an OCI layout")
    })
}

fn is_layout(folder: &Path) -> bool {
    folder.join("oci-layout").is_file()
}

fn not_for_us(name: &str) -> Fault {
    Fault::usage(format!("image `{name}` is not for {}", Platform::host()))
        .hint(format!("build it for this machine: `cargo xtask build --platform {}`", Platform::host()))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Fault {
    let fault = Fault::build(format!("cannot write `{}`", path.display())).cause(error);
    if error.kind() == ErrorKind::PermissionDenied {
        return fault.hint("another user may have created it; it can be removed, and is created again when needed");
    }
    fault
}
