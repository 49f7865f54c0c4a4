//! Parts of an image in the registry: what one build has read from all layers is kept for machines that have none of them.
//!
//! It only saves work: without a part, or with a damaged one, the layers are read.

use super::{ImageFiles, PACKED, PLAIN, TABLE};
use crate::image::Place;
use crate::layer::toc::LayerToc;
use crate::recipes::stage::Selection;
use flate2::Compression;
use flate2::bufread::GzEncoder;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use xtask_host::registry::publish::parts::{self, LayerPart};
use xtask_host::terminal;
use xtask_model::fault::Fault;
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::reference::{Digest, Repository};

/// Increase it when a part gets other files, or in another form.
const FORM: u32 = 1;

/// Longest table of contents, in bytes.
const LONGEST_TABLE: u64 = 64 << 20;

/// A part is compressed once, and a tenth larger than with the level that takes twice as long.
const LEVEL: Compression = Compression::new(4);

/// Where parts of images are kept.
#[derive(Clone, Debug)]
pub struct Parts {
    pub repository: Repository,
    /// True if this build publishes.
    pub push: bool,
}

impl Parts {
    fn id(&self, files: &ImageFiles<'_>, part: &Selection) -> Digest {
        Digest::of(serde_json::json!([FORM, files.image.digest, part.name]).to_string().as_bytes())
    }

    /// Brings a part to a folder. False if the registry does not have it, or if it cannot be read.
    pub(super) fn fetch(&self, files: &ImageFiles<'_>, folder: &Path, part: &Selection) -> bool {
        // An image on this machine is read as quickly.
        if let Place::Layout(_) = files.image.place {
            return false;
        }
        self.fetched(files, folder, part).unwrap_or_else(|fault| {
            terminal::detail(&format!("the layers of `{}` are read: {}", files.name, fault.what));
            false
        })
    }

    fn fetched(&self, files: &ImageFiles<'_>, folder: &Path, part: &Selection) -> Result<bool, Fault> {
        let (client, layers) = (files.client, files.image.manifest.layers.len());
        let Some(found) = parts::find(client, &self.repository, &self.id(files, part), layers)? else {
            return Ok(false);
        };
        let place = Place::Registry(self.repository.clone());
        let mut written = Vec::new();
        let get = |number: usize,
                   LayerPart { tar, table }: &LayerPart<Descriptor, Descriptor>,
                   written: &mut Vec<PathBuf>| {
            let at = |end: &str| folder.join(format!("{number}{end}"));
            let cannot = |error: io::Error| Fault::build(format!("cannot write `{}`", folder.display())).cause(error);
            if table.size > LONGEST_TABLE {
                return Err(Fault::network(format!("a table of contents of {} bytes", table.size)));
            }
            let bytes = place.blob(client, table)?;
            LayerToc::from_bytes(bytes.clone()).ok_or_else(|| Fault::network("its table of contents is damaged"))?;
            written.extend([at(TABLE), at(PACKED)]);
            fs::write(at(TABLE), bytes).map_err(cannot)?;
            place.copy_layer(client, tar, &mut File::create(at(PACKED)).map_err(cannot)?)
        };
        let done = found.iter().enumerate().try_for_each(|(number, layer)| get(number, layer, &mut written));
        if done.is_err() {
            written.iter().for_each(|path| drop(fs::remove_file(path)));
        }
        done.map(|()| true)
    }
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

    fn send(&self, parts: &Parts, part: &Selection) -> Result<(), Fault> {
        let (id, layers) = (parts.id(self, part), self.image.layers().enumerate());
        if parts::find(self.client, &parts.repository, &id, self.image.manifest.layers.len())?.is_some() {
            return Ok(());
        }
        let layer = |(number, (_, diff_id)): (usize, (&Descriptor, Digest))| {
            let (path, table) = (self.tar(number), self.store.get_toc(&diff_id)?);
            let cannot = |error: io::Error| Fault::build(format!("cannot read `{}`", path.display())).cause(error);
            let table = table.ok_or_else(|| Fault::build(format!("no table of contents of layer `{diff_id}`")))?;
            let tar = BufReader::with_capacity(256 << 10, File::open(&path).map_err(cannot)?);
            Ok(LayerPart { tar: GzEncoder::new(tar, LEVEL), table: table.as_bytes().to_vec() })
        };
        parts::keep(self.client, &parts.repository, &id, layers.map(layer))
    }
}
