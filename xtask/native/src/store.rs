//! Layers on this machine by recipe, with their metadata.
//!
//! Several processes may use the folder and may end at any time: an entry is complete or treated as missing. Blobs are
//! stored as in an OCI layout; there are also one record for each recipe and tables of contents.
//! The least recently used entries are removed first, and none while any process has the store open.

mod prune;
#[cfg(test)]
mod tests;

pub use prune::Pruned;

use crate::layer::Written;
use crate::layer::toc::LayerToc;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use xtask_host::registry::layout::{Layout, PartialBlob};
use xtask_host::terminal;
use xtask_model::fault::Fault;
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::reference::{Digest, Platform, Repository};
use xtask_model::supply::inventory::{LayerContents, SCHEMA};

const RECIPES: &str = "recipes";
const OUTLINES: &str = "outlines";
const CONTENTS: &str = "contents";
/// The repository that each layer was sent to.
const PLACES: &str = "places";
/// Processes hold a shared lock on this file while they use the store.
const IN_USE: &str = ".in-use";

#[derive(Debug)]
pub struct Store {
    layout: Layout,
    limit: u64,
    in_use: File,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoredLayer {
    pub descriptor: Descriptor,
    pub diff_id: Digest,
    /// The bytes are verified only by [`Store::open_layer`].
    pub path: PathBuf,
    /// Version of the checks that the layer's note was made after, and the note's bytes.
    pub checks: Option<(u32, u64)>,
}

#[derive(Serialize, Deserialize)]
struct Note {
    recipe: Digest,
    descriptor: Descriptor,
    diff_id: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checks: Option<(u32, u64)>,
}

impl Store {
    /// Opens or creates a store. [`Store::prune`] keeps it within `limit` bytes.
    pub fn open(folder: &Path, limit: u64) -> Result<Self, Fault> {
        let layout = Layout::open_or_create(folder)?;
        let prepare = || {
            for part in [RECIPES, OUTLINES, CONTENTS, PLACES] {
                fs::create_dir_all(folder.join(part))?;
            }
            let in_use = File::create(folder.join(IN_USE))?;
            in_use.lock_shared()?;
            Ok(in_use)
        };
        let in_use = prepare().map_err(|error| cannot_write(folder, &error))?;
        Ok(Self { layout, limit, in_use })
    }

    /// The layer of a recipe. Does not read the layer.
    pub fn get(&self, recipe: &Digest) -> Result<Option<StoredLayer>, Fault> {
        let path = self.note(RECIPES, recipe);
        let Some(bytes) = self.read(&path)? else { return Ok(None) };
        let Some(note) = Note::parse(&bytes).filter(|note| note.recipe == *recipe) else {
            self.damaged(&path);
            return Ok(None);
        };
        let layer = self.stored(note);
        if self.layout.blob_size(&layer.descriptor.digest) != Some(layer.descriptor.size) {
            self.damaged(&path);
            return Ok(None);
        }
        used(&path);
        Ok(Some(layer))
    }

    /// Path of a written layer.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.layout.blob_path(digest)
    }

    /// Writes a layer. It is found again when [`Store::remember`] has named it.
    pub fn write_layer(
        &self,
        make: impl FnOnce(&mut PartialBlob<'_>) -> Result<Written, Fault>,
    ) -> Result<Written, Fault> {
        let mut blob = self.layout.partial()?;
        let written = make(&mut blob)?;
        blob.finish(&written.descriptor.digest)?;
        Ok(written)
    }

    #[cfg(test)]
    pub(crate) fn put(
        &self,
        recipe: &Digest,
        make: impl FnOnce(&mut PartialBlob<'_>) -> Result<Written, Fault>,
    ) -> Result<StoredLayer, Fault> {
        let written = self.write_layer(make)?;
        self.remember(recipe, (written.descriptor, written.diff_id), None)
    }

    /// Opens a layer after verifying its digest. A damaged one is removed with a warning, and counts as missing.
    pub fn open_layer(&self, layer: &StoredLayer) -> Result<Option<File>, Fault> {
        let cannot = |error: io::Error| Fault::build(format!("cannot read `{}`", layer.path.display())).cause(error);
        let mut file = match File::open(&layer.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot(error)),
        };
        let mut state = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer).map_err(cannot)? {
                0 => break,
                count => state.update(&buffer[..count]),
            }
        }
        if Digest::from_bytes(state.finalize().into()) != layer.descriptor.digest {
            self.damaged(&layer.path);
            return Ok(None);
        }
        file.rewind().map_err(cannot)?;
        Ok(Some(file))
    }

    /// Table of contents of a layer, by uncompressed digest.
    pub(crate) fn get_toc(&self, diff_id: &Digest) -> Result<Option<LayerToc>, Fault> {
        let path = self.note(OUTLINES, diff_id);
        let Some(bytes) = self.read(&path)? else { return Ok(None) };
        let toc = LayerToc::from_bytes(bytes);
        match &toc {
            Some(_) => used(&path),
            // Damaged, or of an older format; the caller makes it again.
            None => drop(fs::remove_file(&path)),
        }
        Ok(toc)
    }

    pub fn put_toc(&self, diff_id: &Digest, toc: &LayerToc) -> Result<(), Fault> {
        self.write(&self.note(OUTLINES, diff_id), toc.as_bytes())
    }

    /// Contents of a layer, by uncompressed digest and platform.
    pub(crate) fn contents(&self, diff_id: &Digest, platform: &Platform) -> Result<Option<LayerContents>, Fault> {
        let path = self.contents_path(diff_id, platform);
        let Some(bytes) = self.read(&path)? else { return Ok(None) };
        let contents = serde_json::from_slice(&bytes).ok().filter(|found: &LayerContents| found.schema == SCHEMA);
        match &contents {
            Some(_) => used(&path),
            None => drop(fs::remove_file(&path)),
        }
        Ok(contents)
    }

    pub(crate) fn put_contents(
        &self,
        diff_id: &Digest,
        platform: &Platform,
        contents: &LayerContents,
    ) -> Result<(), Fault> {
        let bytes = serde_json::to_vec(contents).expect("contents are valid JSON");
        self.write(&self.contents_path(diff_id, platform), &bytes)
    }

    /// A repository that a layer was sent to, by uncompressed digest. It may have lost the layer since.
    pub(crate) fn place(&self, diff_id: &Digest) -> Option<Repository> {
        fs::read_to_string(self.note(PLACES, diff_id)).ok()?.parse().ok()
    }

    /// Remembers a repository that a layer was sent to. On failure, the layer is sent to the next repository too.
    pub(crate) fn put_place(&self, diff_id: &Digest, repository: &Repository) {
        let _ = self.write(&self.note(PLACES, diff_id), repository.to_string().as_bytes());
    }

    fn contents_path(&self, diff_id: &Digest, platform: &Platform) -> PathBuf {
        self.layout.folder().join(CONTENTS).join(format!("{}.{}", diff_id.hex(), platform.dashed()))
    }

    /// Names a written layer by its recipe.
    pub fn remember(
        &self,
        recipe: &Digest,
        (descriptor, diff_id): (Descriptor, Digest),
        checks: Option<(u32, u64)>,
    ) -> Result<StoredLayer, Fault> {
        let note = Note { recipe: *recipe, descriptor, diff_id, checks };
        self.write(&self.note(RECIPES, recipe), &note.text())?;
        Ok(self.stored(note))
    }

    fn stored(&self, note: Note) -> StoredLayer {
        let path = self.layout.blob_path(&note.descriptor.digest);
        StoredLayer { descriptor: note.descriptor, diff_id: note.diff_id, path, checks: note.checks }
    }

    fn note(&self, part: &str, digest: &Digest) -> PathBuf {
        self.layout.folder().join(part).join(digest.hex())
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Fault> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Fault::build(format!("cannot read `{}`", path.display())).cause(error)),
        }
    }

    /// Writes under a temporary name first: a concurrent reader sees the old file, the new file, or none.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
        let write = || {
            let folder = path.parent().unwrap_or(self.layout.folder());
            let mut file = tempfile::Builder::new().prefix(prune::PARTIAL).tempfile_in(folder)?;
            file.write_all(bytes)?;
            file.persist(path).map_err(|error| error.error)
        };
        write().map(drop).map_err(|error| cannot_write(path, &error))
    }

    fn damaged(&self, path: &Path) {
        terminal::warn(&format!("`{}` is damaged; it is created again", path.display()));
        let _ = fs::remove_file(path);
    }
}

impl Note {
    /// The record, and its digest in a second line, because it is trusted without reading the layer.
    fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_string(self).expect("a record is valid JSON");
        let digest = Digest::of(text.as_bytes());
        text.push_str(&format!("\n{digest}\n"));
        text.into_bytes()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (json, digest) = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.split_once('\n')?;
        (digest.parse() == Ok(Digest::of(json.as_bytes()))).then(|| serde_json::from_str(json).ok())?
    }
}

/// Sets the time of last use. On failure the entry is only removed earlier.
fn used(path: &Path) {
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

fn cannot_write(path: &Path, error: &io::Error) -> Fault {
    Fault::build(format!("cannot write `{}`", path.display())).cause(error)
}
