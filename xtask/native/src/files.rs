//! Files of the base image, for instructions without `--link` and for recipes that run the image's Python.
//!
//! Layers are read once, on demand: the table of contents of each is kept in the store, a part of the image as tar files under
//! `target`, from which it is unpacked into memory for each build. The whole image is unpacked under `target`. The registry may have the
//! part from an earlier build; then no layer is read.

mod shared;

use crate::assembly::{self, BaseFiles, Stat};
use crate::image::{Image, Place};
use crate::layer::part::PartWriter;
use crate::layer::toc::{self, ImageToc, LayerToc};
use crate::layer::unpack::Unpacker;
use crate::layer::{EntryKind, Limits, Reader};
use crate::stage::{RootFiles, Selection};
use crate::store::Store;
pub use shared::{Parts, part_id};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use xtask_host::registry::Client;
use xtask_host::scratch::Scratch;
use xtask_host::terminal;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, FileKind};
use xtask_model::quantity;
use xtask_model::spec::oci::{Config, Descriptor};
use xtask_model::spec::reference::{Digest, Platform};

/// Largest file of [`ImageFiles::files`], in bytes.
const LARGEST: u64 = 64 << 20;

/// Ends of the names of files with a part of a layer: a tar file, the same in gzip, and the layer's table of contents.
const PLAIN: &str = ".tar";
const PACKED: &str = ".tar.gz";
const TABLE: &str = ".toc";

/// Bytes of a part whose file in gzip has this many, at most: programs and sources are a third of their size there, headers a tenth.
fn expanded(packed: u64) -> u64 {
    packed.saturating_mul(8).saturating_add(16 << 20)
}

/// A layer that is put on an image.
#[derive(Clone)]
struct Above<'a> {
    /// Digest of everything that determines it.
    recipe: Digest,
    config: Config,
    /// Makes it, and returns the file.
    make: &'a dyn Fn() -> Result<PathBuf, Fault>,
}

pub struct ImageFiles<'a> {
    client: &'a Client,
    store: &'a Store,
    image: &'a Image,
    above: Option<Above<'a>>,
    name: String,
    folder: PathBuf,
    toc: OnceCell<ImageToc>,
    /// A part, as long as this value lives.
    part: OnceCell<Scratch>,
    parts: Option<Parts>,
}

impl<'a> ImageFiles<'a> {
    /// Files of an image, for a build in the repository at `root`. Reads nothing yet.
    pub fn new(client: &'a Client, store: &'a Store, image: &'a Image, name: &str, root: &Path) -> Self {
        let folder = root.join("target/native/roots");
        let (toc, part) = (OnceCell::new(), OnceCell::new());
        Self { client, store, image, above: None, name: name.to_owned(), folder, toc, part, parts: None }
    }

    /// The same, with parts that the registry may have.
    #[must_use]
    pub fn with_parts(self, parts: Parts) -> Self {
        Self { parts: Some(parts), ..self }
    }

    /// The files of this image with one more layer, which is made when a file is asked for.
    #[must_use]
    pub fn under(&self, recipe: Digest, make: &'a dyn Fn() -> Result<PathBuf, Fault>) -> Self {
        let mut config = self.image.config.clone();
        // Identifies the files, as the others do.
        config.rootfs.diff_ids.push(recipe);
        let (toc, part) = (OnceCell::new(), OnceCell::new());
        Self {
            above: Some(Above { recipe, config, make }),
            name: self.name.clone(),
            folder: self.folder.clone(),
            toc,
            part,
            parts: self.parts.clone(),
            ..*self
        }
    }

    /// Reads the layer that is put on the image, if there is one.
    fn read_above<T>(&self, read: impl FnOnce(&mut Reader<'_>) -> Result<T, Fault>) -> Result<Option<T>, Fault> {
        let Some(above) = &self.above else { return Ok(None) };
        let path = (above.make)()?;
        let cannot = |error: io::Error| Fault::build(format!("cannot read `{}`", path.display())).cause(error);
        let file = BufReader::with_capacity(256 << 10, File::open(&path).map_err(cannot)?);
        read(&mut Reader::open(file, None, Limits::default())?).map(Some)
    }

    /// Digest of the files.
    fn identity(&self) -> Digest {
        let image = self.image.digest;
        self.above.as_ref().map_or(image, |above| Digest::of(format!("{image} {}", above.recipe).as_bytes()))
    }

    /// Contents of these files, from one pass over each layer.
    pub fn files(&self, wanted: &dyn Fn(&ContextPath) -> bool) -> Result<BTreeMap<ContextPath, Vec<u8>>, Fault> {
        let toc = self.toc()?;
        let mut found = BTreeMap::new();
        for (number, (descriptor, diff_id)) in self.image.layers().enumerate() {
            let is_last = |path: &ContextPath| toc.get(path).is_some_and(|found| found.layer == Some(number));
            self.read_layer(descriptor, diff_id, |reader| {
                while let Some(entry) = reader.next()? {
                    let EntryKind::File(_) = entry.kind else { continue };
                    if !wanted(&entry.path) || !is_last(&entry.path) {
                        continue;
                    }
                    if let Some(bytes) = reader.bytes(LARGEST)? {
                        found.insert(entry.path, bytes);
                    }
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    fn toc(&self) -> Result<&ImageToc, Fault> {
        if let Some(toc) = self.toc.get() {
            return Ok(toc);
        }
        let mut layers = Vec::new();
        for (number, (descriptor, diff_id)) in self.image.layers().enumerate() {
            let found = self.store.get_toc(&diff_id)?;
            let toc = match found.or_else(|| LayerToc::from_bytes(fs::read(self.table(number)).ok()?)) {
                Some(toc) => toc,
                None => {
                    terminal::detail(&format!("reading the table of contents of layer `{}`", descriptor.digest));
                    let toc = self.read_layer(descriptor, diff_id, toc::of)?;
                    self.store.put_toc(&diff_id, &toc)?;
                    toc
                }
            };
            layers.push(Arc::new(toc));
        }
        layers.extend(self.read_above(toc::of)?.map(Arc::new));
        Ok(self.toc.get_or_init(|| ImageToc::new(layers)))
    }

    /// Reads a layer as a stream of entries. It is complete only if its digest matches at the end.
    pub(crate) fn read_layer<T>(
        &self,
        layer: &Descriptor,
        diff_id: Digest,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        read_layer(self.client, &self.image.place, (layer, Some(&diff_id)), read)
    }

    /// Folder of the whole image.
    fn whole(&self) -> PathBuf {
        self.folder.join(self.identity().hex())
    }

    /// Waits until no other process writes files of images here.
    fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(&self.folder)?;
        let lock = File::create(self.folder.join(".lock"))?;
        lock.lock()?;
        Ok(lock)
    }

    /// Makes a folder with this image's files, of which each process finds the result; one process makes it.
    fn kept(&self, folder: &Path, make: impl FnOnce(&Path) -> Result<(), Fault>) -> Result<(), Fault> {
        let cannot = |error: io::Error| Fault::build(format!("cannot write `{}`", folder.display())).cause(error);
        let _lock = self.lock().map_err(cannot)?;
        if folder.is_dir() {
            return Ok(());
        }
        let of_this = |path: &Path| path == self.whole() || path == self.tars();
        let entries = fs::read_dir(&self.folder).map_err(cannot)?.flatten().map(|entry| entry.path());
        for other in entries.filter(|path| path.is_dir() && !of_this(path)) {
            // Removes what killed builds left, and images that are no longer used. Parts of this image may be in use.
            let _ = fs::remove_dir_all(other);
        }
        let partial = self.folder.join(".partial");
        make(&partial)?;
        fs::rename(&partial, folder).map_err(cannot)
    }

    fn unpack_whole(&self) -> Result<PathBuf, Fault> {
        let (whole, began) = (self.whole(), Instant::now());
        self.kept(&whole, |folder| {
            let mut unpacked = Unpacker::open(folder)?;
            let mut layers = self.image.layers();
            layers.try_for_each(|(layer, diff_id)| self.read_layer(layer, diff_id, |reader| unpacked.apply(reader)))?;
            self.read_above(|reader| unpacked.apply(reader))?;
            terminal::detail(&format!("`{}`: its files unpacked in {}", self.name, quantity::seconds(began.elapsed())));
            Ok(())
        })?;
        Ok(whole)
    }

    /// Folder of the tar files with a part of the image, one for each layer.
    fn tars(&self) -> PathBuf {
        self.folder.join(format!("part-{}", self.identity().hex()))
    }

    /// The table of contents of a layer that the registry's part has. Not for the store, which serves other repositories.
    fn table(&self, number: usize) -> PathBuf {
        self.tars().join(format!("{number}{TABLE}"))
    }

    /// Writes the tar files of a part, from the registry's part if it has one.
    fn write_tars(&self, folder: &Path, part: &Selection) -> Result<(), Fault> {
        let cannot = |error: io::Error| Fault::build(format!("cannot write `{}`", folder.display())).cause(error);
        fs::create_dir_all(folder).map_err(cannot)?;
        if !self.parts.as_ref().is_some_and(|parts| parts.fetch(self, folder, part)) {
            self.write_layers(folder, part)?;
        }
        let number = self.image.manifest.layers.len();
        self.read_above(|reader| write_tar((folder, number), part, reader).map(drop)).map(drop)
    }

    /// The same from the layers, whose tables of contents go to the store: they are read only once for both.
    fn write_layers(&self, folder: &Path, part: &Selection) -> Result<(), Fault> {
        for (number, (layer, diff_id)) in self.image.layers().enumerate() {
            let toc = self.read_layer(layer, diff_id, |reader| write_tar((folder, number), part, reader))?;
            self.store.put_toc(&diff_id, &toc)?;
        }
        Ok(())
    }

    /// Unpacks the tar files of a part.
    fn unpack_tars(&self) -> Result<Scratch, Fault> {
        let tars = self.tars();
        let cannot = |error: io::Error| Fault::build(format!("cannot read `{}`", tars.display())).cause(error);
        let numbers = 0..self.image.manifest.layers.len() + usize::from(self.above.is_some());
        let open = |number: usize| match File::open(tars.join(format!("{number}{PACKED}"))) {
            Ok(file) => Ok((expanded(file.metadata()?.len()), file)),
            Err(_) => {
                let file = File::open(tars.join(format!("{number}{PLAIN}")))?;
                Ok((file.metadata()?.len(), file))
            }
        };
        let files = numbers.map(open).collect::<io::Result<Vec<(u64, File)>>>().map_err(cannot)?;
        let scratch = Scratch::in_memory(files.iter().map(|(size, _)| size).sum()).map_or_else(Scratch::new, Ok);
        let scratch = scratch.map_err(|error| Fault::build("cannot make a temporary folder").cause(error))?;
        let mut unpacked = Unpacker::open(scratch.path())?;
        for (bytes, file) in files {
            let file = BufReader::with_capacity(256 << 10, file);
            unpacked.apply(&mut Reader::open(file, None, Limits { bytes, ..Limits::default() })?)?;
        }
        Ok(scratch)
    }

    fn unpack_part(&self, part: &Selection) -> Result<PathBuf, Fault> {
        let (whole, tars) = (self.whole(), self.tars());
        if let Some(there) = self.part.get() {
            return Ok(there.path().to_owned());
        }
        if whole.is_dir() {
            return Ok(whole);
        }
        let began = Instant::now();
        self.kept(&tars, |folder| self.write_tars(folder, part))?;
        let scratch = match self.unpack_tars() {
            Err(fault) if self.is_fetched() => {
                terminal::detail(&format!("the layers of `{}` are read: {}", self.name, fault.what));
                self.replace_fetched(part)?;
                self.unpack_tars()?
            }
            unpacked => unpacked?,
        };
        let took = quantity::seconds(began.elapsed());
        terminal::detail(&format!("`{}`: its {} unpacked in {took}", self.name, part.name));
        Ok(self.part.get_or_init(|| scratch).path().to_owned())
    }
}

/// Writes the part of a layer that has this number, and returns the layer's table of contents.
fn write_tar((folder, number): (&Path, usize), part: &Selection, reader: &mut Reader<'_>) -> Result<LayerToc, Fault> {
    let cannot = |error: io::Error| Fault::build(format!("cannot write `{}`", folder.display())).cause(error);
    let file = File::create(folder.join(format!("{number}{PLAIN}"))).map_err(cannot)?;
    let mut tar = PartWriter::new(part.has, BufWriter::with_capacity(256 << 10, file));
    let toc = toc::of_each(reader, &mut |entry, reader| tar.add(entry, reader).map_err(cannot))?;
    tar.finish().map_err(cannot)?;
    Ok(toc)
}

/// Reads a layer as a stream of entries. It is complete only if its digest matches at the end. Without a `diff_id`, only the download
/// of a registry's blob is checked: both digests are of the same image, and hashing what is unpacked costs more than that.
pub(crate) fn read_layer<T>(
    client: &Client,
    place: &Place,
    (layer, diff_id): (&Descriptor, Option<&Digest>),
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let from = |source: &mut dyn Read| {
        let mut reader = Reader::open(BufReader::with_capacity(256 << 10, source), diff_id, Limits::default())?;
        read(&mut reader)
    };
    match place {
        Place::Layout(layout) => from(&mut layout.open_blob(&layer.digest)?),
        Place::Registry(_) => {
            let cannot = |error: io::Error| Fault::build("cannot make a pipe").cause(error);
            let (mut reader, mut writer) = io::pipe().map_err(cannot)?;
            std::thread::scope(|scope| {
                let download = scope.spawn(move || place.copy_layer(client, layer, &mut writer));
                let done = from(&mut reader);
                if done.is_err() {
                    // An error of the download is the real cause; it is known when the stream has ended.
                    let _ = io::copy(&mut reader, &mut io::sink());
                }
                drop(reader);
                let downloaded = download.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                downloaded.and(done)
            })
        }
    }
}

impl RootFiles for ImageFiles<'_> {
    fn config(&self) -> &Config {
        self.above.as_ref().map_or(&self.image.config, |above| &above.config)
    }

    fn has(&self, path: &ContextPath) -> Result<bool, Fault> {
        Ok(self.toc()?.resolve(path)?.found.is_some_and(|found| found.node.kind == FileKind::File))
    }

    fn file(&self, path: &ContextPath) -> Result<Option<Vec<u8>>, Fault> {
        let resolved = self.toc()?.resolve(path)?;
        match resolved.found {
            Some(found) if found.node.kind == FileKind::File => BaseFiles::file(self, &resolved.path),
            _ => Ok(None),
        }
    }

    fn folder(&self, which: Option<&Selection>) -> Result<PathBuf, Fault> {
        which.map_or_else(|| self.unpack_whole(), |part| self.unpack_part(part))
    }
}

impl BaseFiles for ImageFiles<'_> {
    fn lookup(&self, path: &ContextPath) -> Result<Option<Stat>, Fault> {
        Ok(self.toc()?.get(path).map(|found| {
            let node = found.node;
            let link = (node.kind == FileKind::Symlink).then_some(node.link);
            Stat { kind: node.kind, mode: node.mode, uid: node.uid, gid: node.gid, link }
        }))
    }

    fn file(&self, path: &ContextPath) -> Result<Option<Vec<u8>>, Fault> {
        let toc = self.toc()?;
        if toc.get(path).is_none_or(|found| found.node.kind != FileKind::File) {
            return Ok(None);
        }
        toc.read(path, |number, contents| match self.image.layers().nth(number) {
            Some((descriptor, diff_id)) => self.read_layer(descriptor, diff_id, |reader| contents(reader)),
            None => self.read_above(|reader| contents(reader)).map(Option::flatten),
        })
    }

    fn any_below(&self, folder: &ContextPath) -> Result<bool, Fault> {
        Ok(self.toc()?.merged().keys().any(|path| path.below(folder).is_some()))
    }
}

impl assembly::FromImages for ImageFiles<'_> {
    fn image(&self, name: &str, _platform: &Platform) -> Result<assembly::FromImage<'_>, Fault> {
        if name != self.name {
            return Err(assembly::unsupported::wrong_base(name, &self.name));
        }
        Ok(assembly::FromImage { config: self.image.config.clone(), files: self })
    }
}
