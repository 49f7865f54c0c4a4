//! Parts of an image in the registry: what one build has read from all layers is kept for machines that have none of them.
//!
//! It only saves work: without a part, or with a damaged one, the layers are read. The next build that publishes replaces a damaged one.

use super::{ImageFiles, PACKED, PLAIN, TABLE};
use crate::image::Place;
use crate::layer::toc::LayerToc;
use crate::stage::Selection;
use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};
use std::fs::{self, File};
use std::io::{self, BufReader, Read as _};
use std::path::{Path, PathBuf};
use xtask_host::registry::publish::parts::{self, LayerPart};
use xtask_host::{clock, terminal};
use xtask_model::fault::Fault;
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::reference::{Digest, Repository};

/// Increase it when a part gets other files, or in another form.
const FORM: u32 = 2;

/// Longest table of contents, in bytes.
const LONGEST_TABLE: u64 = 64 << 20;

/// Questions for blobs under way at once.
const AT_ONCE: usize = 2;

/// Name of the file that says that this machine has refused the registry's part.
const REFUSED: &str = "refused";

/// A part is compressed once, and a tenth larger than with the level that takes twice as long.
const LEVEL: Compression = Compression::new(4);

/// Storage for parts of images.
#[derive(Clone, Debug)]
pub struct Parts {
    pub repository: Repository,
    /// True if this build publishes.
    pub push: bool,
}

/// Id of an image's part. Tags are made of it.
pub fn part_id(image: &Digest, part: &Selection) -> Digest {
    Digest::of(serde_json::json!([FORM, image, part.name]).to_string().as_bytes())
}

impl Parts {
    /// Brings a part to a folder. False if the registry does not have it, or if it cannot be read.
    pub(super) fn fetch(&self, files: &ImageFiles<'_>, folder: &Path, part: &Selection) -> bool {
        // An image on this machine is read as quickly.
        if let Place::Layout(_) = files.image.place {
            return false;
        }
        let (id, layers) = (part_id(&files.image.digest, part), files.image.manifest.layers.len());
        let found = parts::find(files.client, &self.repository, &id, layers);
        let fetched = found.and_then(|found| match found {
            Some(found) => self.fetched(files, folder, &found).map(|()| true),
            None => Ok(false),
        });
        fetched.unwrap_or_else(|fault| {
            if !fault.unreachable {
                refuse(folder);
            }
            terminal::detail(&format!("the layers of `{}` are read: {}", files.name, fault.what));
            false
        })
    }

    fn fetched(
        &self,
        files: &ImageFiles<'_>,
        folder: &Path,
        found: &[LayerPart<Descriptor, Descriptor>],
    ) -> Result<(), Fault> {
        let place = Place::Registry(self.repository.clone());
        let cannot = |error: io::Error| Fault::build(format!("cannot write `{}`", folder.display())).cause(error);
        let mut written: Vec<PathBuf> = Vec::new();
        let mut get = |number: usize, LayerPart { tar, table }: &LayerPart<Descriptor, Descriptor>| {
            let [table_file, tar_file] = [TABLE, PACKED].map(|end| folder.join(format!("{number}{end}")));
            written.extend([table_file.clone(), tar_file.clone()]);
            if table.size > LONGEST_TABLE {
                return Err(Fault::network(format!("a table of contents of {} bytes", table.size)));
            }
            let toc = unpacked(&place.blob(files.client, table)?).and_then(LayerToc::checked);
            let toc = toc.ok_or_else(|| Fault::network("its table of contents is damaged"))?;
            fs::write(table_file, toc.as_bytes()).map_err(cannot)?;
            place.copy_layer(files.client, tar, &mut File::create(tar_file).map_err(cannot)?)
        };
        let done = found.iter().enumerate().try_for_each(|(number, layer)| get(number, layer));
        if done.is_err() {
            written.iter().for_each(|path| drop(fs::remove_file(path)));
        }
        done
    }
}

/// The bytes of a table, unless there are too many.
fn unpacked(gzip: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    GzDecoder::new(gzip).take(LONGEST_TABLE + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= LONGEST_TABLE).then_some(bytes)
}

/// Records that the registry's part is damaged.
fn refuse(folder: &Path) {
    // Without the record, the part stays as it is, which costs time only.
    let _ = fs::write(folder.join(REFUSED), "");
}

impl ImageFiles<'_> {
    /// Keeps a part for other machines, if this build publishes and has read the layers for it. A registry that refuses does not fail the
    /// build.
    pub fn share(&self, part: &Selection) {
        let Some(parts) = self.parts.as_ref().filter(|parts| parts.push && self.part.get().is_some()) else { return };
        let is_shared = !(0..self.image.manifest.layers.len()).all(|number| self.tar(number).is_file());
        if is_shared || matches!(self.image.place, Place::Layout(_)) {
            return;
        }
        if let Err(fault) = self.send(parts, part) {
            let what = format!("the {} of `{}` is not kept for other machines", part.name, self.name);
            terminal::detail(&format!("{what}: {}", fault.what));
        }
    }

    fn tar(&self, number: usize) -> PathBuf {
        self.tars().join(format!("{number}{PLAIN}"))
    }

    /// True if the registry's part came to this machine in place of the layers.
    pub(super) fn is_fetched(&self) -> bool {
        (0..self.image.manifest.layers.len()).any(|number| self.tars().join(format!("{number}{PACKED}")).is_file())
    }

    /// Puts the layers' own files in the place of the registry's part, which cannot be read. Files that another process reads stay open to it.
    pub(super) fn replace_fetched(&self, part: &Selection) -> Result<(), Fault> {
        let (tars, partial) = (self.tars(), self.folder.join(".partial"));
        let cannot = |error: io::Error| Fault::build(format!("cannot write `{}`", tars.display())).cause(error);
        let _lock = self.lock().map_err(cannot)?;
        if !self.is_fetched() {
            return Ok(());
        }
        fs::create_dir_all(&partial).map_err(cannot)?;
        self.write_layers(&partial, part)?;
        refuse(&tars);
        for number in 0..self.image.manifest.layers.len() {
            fs::rename(partial.join(format!("{number}{PLAIN}")), self.tar(number)).map_err(cannot)?;
            for end in [PACKED, TABLE] {
                let _ = fs::remove_file(tars.join(format!("{number}{end}")));
            }
        }
        fs::remove_dir_all(&partial).map_err(cannot)
    }

    /// True if the registry has this part whole, as far as it can be asked, and no build on this machine has refused it.
    fn is_kept(&self, parts: &Parts, id: &Digest) -> Result<bool, Fault> {
        let found = parts::find(self.client, &parts.repository, id, self.image.manifest.layers.len())?;
        let Some(found) = found.filter(|_| !self.tars().join(REFUSED).is_file()) else { return Ok(false) };
        let blobs: Vec<Digest> = found.iter().flat_map(|layer| [layer.tar.digest, layer.table.digest]).collect();
        Ok(self.client.has_blobs(&parts.repository, &blobs, AT_ONCE)?.into_iter().all(|has| has))
    }

    fn send(&self, parts: &Parts, part: &Selection) -> Result<(), Fault> {
        let (id, refused) = (part_id(&self.image.digest, part), self.tars().join(REFUSED));
        if self.is_kept(parts, &id)? {
            return Ok(());
        }
        // A registry does not store bytes again of which it has the digest, even if it has damaged them: those of a new part differ.
        let note = if refused.is_file() { clock::now().to_string() } else { String::new() };
        let gzip = || GzBuilder::new().extra(note.as_str());
        let layer = |(number, (_, diff_id)): (usize, (&Descriptor, Digest))| {
            let (path, table) = (self.tar(number), self.store.get_toc(&diff_id)?);
            let cannot = |error: io::Error| Fault::build(format!("cannot read `{}`", path.display())).cause(error);
            let table = table.ok_or_else(|| Fault::build(format!("no table of contents of layer `{diff_id}`")))?;
            let tar = BufReader::with_capacity(256 << 10, File::open(&path).map_err(cannot)?);
            let mut packed = Vec::new();
            gzip().buf_read(table.as_bytes(), LEVEL).read_to_end(&mut packed).map_err(cannot)?;
            Ok(LayerPart { tar: gzip().buf_read(tar, LEVEL), table: packed })
        };
        parts::keep(self.client, &parts.repository, &id, self.image.layers().enumerate().map(layer))?;
        let _ = fs::remove_file(refused);
        Ok(())
    }
}
