//! Unpacked images for containers without an engine: from an OCI layout on this machine, else from the registry.
//!
//! Each image is unpacked once, to `target/native/images`, and read by any number of containers; the least recently
//! used ones are removed when new ones come. A folder gets its final name when it is complete, and is read-only after
//! that.

use crate::image::Place;
use crate::layer::{Limits, Reader, unpack};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{ErrorKind, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
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

pub struct ImageStore {
    layouts: PathBuf,
    store: PathBuf,
    client: Client,
}

/// Files and configuration of an image; kept while this value lives.
pub struct Unpacked {
    pub folder: PathBuf,
    pub config: Config,
    _used: File,
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

    /// Unpacks an image unless it is unpacked. Only root can set file `owners`.
    pub fn unpack(&self, name: &str, owners: bool) -> Result<Unpacked, Fault> {
        let (digest, manifest, source) = match self.find(name)? {
            Some(LayoutImage { layout, manifest }) => {
                (manifest.digest, layout.read_json(&manifest)?, Place::Layout(layout))
            }
            None => self.published(name)?,
        };
        let folder = self.store.join(format!("{}{}", digest.hex(), if owners { "-owned" } else { "" }));
        self.folder_of(&folder, || self.make(name, &folder, (&manifest, &source), owners))
    }

    fn published(&self, name: &str) -> Result<(Digest, Manifest, Place), Fault> {
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
        Ok((platform.digest, manifest, Place::Registry(repository)))
    }

    fn folder_of(&self, folder: &Path, make: impl Fn() -> Result<(), Fault>) -> Result<Unpacked, Fault> {
        // Root's folder may hold files of any owner: no one else may read it.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.store);
        made.map_err(|error| cannot_write(&self.store, &error))?;
        let lock_path = folder.with_extension("lock");
        let lock = File::options().create(true).append(true).open(&lock_path);
        let lock = lock.map_err(|error| cannot_write(&lock_path, &error))?;
        loop {
            lock.lock_shared().map_err(|error| cannot_write(&lock_path, &error))?;
            if let Some(config) = read_config(folder) {
                // Time of last use. If it cannot be set, the image is removed a little earlier.
                let _ = lock.set_modified(SystemTime::now());
                return Ok(Unpacked { folder: folder.join("root"), config, _used: lock });
            }
            // Changing a lock's mode releases it in between: another process may have done the work.
            wait_for(&lock, &lock_path)?;
            if read_config(folder).is_none() {
                self.make_room(folder);
                make()?;
            }
        }
    }

    /// Unpacks an image under a temporary name, and renames it when it is complete. The caller holds its lock.
    fn make(
        &self,
        name: &str,
        folder: &Path,
        (manifest, place): (&Manifest, &Place),
        owners: bool,
    ) -> Result<(), Fault> {
        let partial = folder.with_extension("partial");
        remove(&partial).map_err(|error| cannot_write(&partial, &error))?;
        let config = place.blob(&self.client, &manifest.config)?;
        let parsed: Config = serde_json::from_slice(&config)
            .map_err(|error| Fault::build(format!("cannot read the configuration of `{name}`")).cause(error))?;
        if parsed.architecture != Platform::host().architecture {
            return Err(not_for_us(name));
        }
        if parsed.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(Fault::build(format!("cannot unpack `{name}`"))
                .cause("its configuration and its manifest have different numbers of layers"));
        }
        let began = Instant::now();
        let bytes = quantity::bytes(manifest.layers.iter().map(|layer| layer.size).sum());
        let mut progress = terminal::Progress::begin("unpacking", &format!("`{name}` ({bytes} of layers)"));
        let root = partial.join("root");
        let mut unpacked = unpack::Unpacker::open(&root)?;
        if owners {
            unpacked = unpacked.with_owners();
        }
        std::thread::scope(|scope| {
            // One layer is fetched while the previous one is unpacked.
            let (sender, fetched) = std::sync::mpsc::sync_channel(0);
            let partial = &partial;
            scope.spawn(move || {
                // The receiver is gone if unpacking failed.
                manifest
                    .layers
                    .iter()
                    .map(|layer| self.layer(place, layer, partial))
                    .try_for_each(|file| sender.send(file))
            });
            for (number, (diff_id, file)) in parsed.rootfs.diff_ids.iter().zip(fetched).enumerate() {
                process::interrupted()?;
                progress.line(&format!("layer {} of {}", number + 1, manifest.layers.len()));
                unpacked.apply(&mut Reader::open(file?, Some(diff_id), Limits::default())?)?;
            }
            Ok(())
        })?;
        progress.end();
        drop(unpacked);
        terminal::detail(&format!("unpacked in {}", quantity::seconds(began.elapsed())));
        let settle = || {
            fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
            fs::write(partial.join("config.json"), &config)?;
            fs::rename(&partial, folder)
        };
        settle().map_err(|error| cannot_write(folder, &error))
    }

    /// Compressed bytes of a layer; the reader checks the digest.
    fn layer(&self, place: &Place, descriptor: &Descriptor, near: &Path) -> Result<File, Fault> {
        if let Place::Layout(layout) = place {
            return layout.open_blob(&descriptor.digest);
        }
        let cannot = |error: std::io::Error| cannot_write(near, &error);
        let mut file = tempfile::tempfile_in(near).map_err(cannot)?;
        place.copy_layer(&self.client, descriptor, &mut file)?;
        file.flush().and_then(|()| file.rewind()).map_err(cannot)?;
        Ok(file)
    }

    /// Removes the least recently used images and incomplete ones, unless they are in use.
    fn make_room(&self, coming: &Path) {
        let entries = fs::read_dir(&self.store).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut locks: Vec<(SystemTime, PathBuf)> = entries
            .filter(|path| path.extension().is_some_and(|extension| extension == "lock"))
            .filter(|path| path.with_extension("") != coming)
            .filter_map(|path| Some((fs::metadata(&path).and_then(|meta| meta.modified()).ok()?, path)))
            .filter(|(_, path)| path.with_extension("").exists() || path.with_extension("partial").exists())
            .collect();
        locks.sort();
        let whole = |path: &Path| read_config(&path.with_extension("")).is_some();
        let mut too_many = (locks.iter().filter(|(_, path)| whole(path)).count() + 1).saturating_sub(KEPT);
        for (_, path) in locks {
            let is_whole = whole(&path);
            if is_whole && too_many == 0 {
                continue;
            }
            let Ok(lock) = File::open(&path) else { continue };
            if lock.try_lock().is_err() {
                continue;
            }
            let (folder, partial) = (path.with_extension(""), path.with_extension("partial"));
            // An error here only costs disk space.
            let _ = remove(&partial);
            if is_whole && fs::rename(&folder, &partial).is_ok() {
                let _ = remove(&partial);
                too_many -= 1;
            }
        }
    }
}

/// Removes incomplete images of this repository, unless a process is unpacking them.
pub fn sweep(tree: &Tree) {
    let entries = fs::read_dir(store(tree)).into_iter().flatten().flatten().map(|entry| entry.path());
    let partial = entries.filter(|path| path.extension().is_some_and(|extension| extension == "partial"));
    for path in partial {
        let Ok(lock) = File::open(path.with_extension("lock")) else { continue };
        if lock.try_lock().is_ok() {
            // An error here only costs disk space.
            let _ = remove(&path);
        }
    }
}

fn store(tree: &Tree) -> PathBuf {
    tree.root.join("target/native/images")
}

fn parse(name: &str) -> Result<Reference, Fault> {
    name.parse().map_err(|error| {
        Fault::usage(format!("cannot run `{name}`"))
            .cause(error)
            .hint("valid names are a reference, `127.0.0.1:5000/app:latest`, and the folder of an OCI layout")
    })
}

fn is_layout(folder: &Path) -> bool {
    folder.join("oci-layout").is_file()
}

fn read_config(folder: &Path) -> Option<Config> {
    serde_json::from_slice(&fs::read(folder.join("config.json")).ok()?).ok()
}

fn wait_for(lock: &File, path: &Path) -> Result<(), Fault> {
    let mut said = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(cannot_write(path, &error)),
            Err(TryLockError::WouldBlock) => {}
        }
        if !said {
            terminal::step("waiting", "another xtask is unpacking this image");
            said = true;
        }
        process::interrupted()?;
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Removes a folder, with folders that their owner may not change.
fn remove(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            open_up(folder)?;
            fs::remove_dir_all(folder)
        }
        other => other,
    }
}

fn open_up(folder: &Path) -> std::io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
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
