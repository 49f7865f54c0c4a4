//! Layers of a repository by the recipe that made them, from its earlier manifests.
//!
//! A manifest records the recipe and the uncompressed digest of each layer as annotations. Such a layer is referenced
//! again instead of being built or sent.

use std::collections::{BTreeMap, BTreeSet};
use xtask_host::registry::{Client, publish};
use xtask_model::image::presence::CheckRecord;
use xtask_model::spec::oci::{Descriptor, Manifest};
use xtask_model::spec::reference::{Digest, Repository};

/// Annotation: digest of the recipe that made a layer.
pub const RECIPE: &str = "dev.xtask.layer.recipe";

/// Annotation: uncompressed digest of a layer.
pub const DIFF_ID: &str = "dev.xtask.layer.diff-id";

/// An image whose layers may be named again.
#[derive(Clone, Copy, Debug)]
pub struct EarlierImage {
    pub manifest: Digest,
    /// The record of its import check.
    pub record: Option<CheckRecord>,
}

#[derive(Clone, Debug, Default)]
pub struct PublishedLayers {
    by_recipe: BTreeMap<Digest, (Descriptor, Digest)>,
    blobs: BTreeSet<Digest>,
    records: Vec<(CheckRecord, Descriptor)>,
    /// Layers of other repositories of the registry, from which they can be mounted.
    others: BTreeMap<Digest, Repository>,
    others_by_recipe: BTreeMap<Digest, (Descriptor, Digest)>,
    others_records: Vec<CheckRecord>,
}

impl PublishedLayers {
    /// Reads manifests of a repository. Unreadable ones are skipped: they only save work.
    pub fn read(client: &Client, repository: &Repository, images: &[EarlierImage]) -> Self {
        let mut published = Self::default();
        for image in images {
            if let Ok(manifest) = publish::read_manifest(client, repository, image.manifest) {
                published.add(image, &manifest);
            }
        }
        published
    }

    pub fn add(&mut self, image: &EarlierImage, manifest: &Manifest) {
        self.blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
        self.by_recipe.extend(recipes(manifest));
        for layer in &manifest.layers {
            if let Some(record) = image.record.filter(|record| record.layer == layer.digest) {
                self.records.push((record, layer.clone()));
            }
        }
    }

    /// Reads a manifest of another repository of the same registry, whose layers can be mounted. An unreadable one is skipped.
    pub fn add_other(&mut self, client: &Client, repository: &Repository, image: &EarlierImage) {
        if let Ok(manifest) = publish::read_manifest(client, repository, image.manifest) {
            self.others_records.extend(image.record);
            self.others.extend(manifest.layers.iter().map(|layer| (layer.digest, repository.clone())));
            self.others_by_recipe.extend(recipes(&manifest));
        }
    }

    /// A layer of another repository, by the recipe that made it.
    pub fn other_layer(&self, recipe: &Digest) -> Option<(&Descriptor, Digest)> {
        self.others_by_recipe.get(recipe).map(|(descriptor, diff_id)| (descriptor, *diff_id))
    }

    /// Record of the import check that a layer has, in this repository or another one.
    pub fn record_in(&self, layer: &Digest) -> Option<&CheckRecord> {
        let own = self.records.iter().map(|(record, _)| record);
        own.chain(&self.others_records).find(|record| record.layer == *layer)
    }

    /// Other repositories by the layers that they have.
    pub(crate) fn others(&self) -> &BTreeMap<Digest, Repository> {
        &self.others
    }

    pub fn layer(&self, recipe: &Digest) -> Option<(&Descriptor, Digest)> {
        self.by_recipe.get(recipe).map(|(descriptor, diff_id)| (descriptor, *diff_id))
    }

    /// Records of import checks with their layers, that of the first image first.
    pub fn records(&self) -> &[(CheckRecord, Descriptor)] {
        &self.records
    }

    /// Returns true if a manifest of the repository names this blob. A registry keeps what its manifests name.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blobs.contains(digest)
    }
}

/// The layers of a manifest that say by which recipe they were made.
fn recipes(manifest: &Manifest) -> impl Iterator<Item = (Digest, (Descriptor, Digest))> {
    manifest.layers.iter().filter_map(|layer| {
        let digest = |name| layer.annotations.get(name).and_then(|text| text.parse::<Digest>().ok());
        Some((digest(RECIPE)?, (layer.clone(), digest(DIFF_ID)?)))
    })
}

/// Records the recipe of a layer in its descriptor.
pub(crate) fn with_recipe(descriptor: Descriptor, recipe: &Digest, diff_id: &Digest) -> Descriptor {
    descriptor.with_annotation(RECIPE, recipe.to_string()).with_annotation(DIFF_ID, diff_id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask_model::spec::oci::media_type;

    #[test]
    fn manifests_record_the_recipe_of_a_layer() {
        let (recipe, diff_id) = (Digest::of(b"recipe"), Digest::of(b"tar"));
        let made = with_recipe(Descriptor::new(media_type::LAYER_GZIP, Digest::of(b"gz"), 2), &recipe, &diff_id);
        let other = Descriptor::new(media_type::LAYER_GZIP, Digest::of(b"base"), 4);
        let config = Descriptor::new(media_type::CONFIG, Digest::of(b"config"), 6);
        let mut published = PublishedLayers::default();
        let noted = Descriptor::new(media_type::LAYER_GZIP, Digest::of(b"noted"), 9);
        let record = CheckRecord { image: Digest::of(b"manifest"), layer: noted.digest, version: 3, size: 7 };
        assert_eq!(record.to_string().parse(), Ok(record));
        let image = EarlierImage { manifest: record.image, record: Some(record) };
        published.add(&image, &Manifest::new(config, vec![other.clone(), made.clone(), noted.clone()]));
        assert_eq!(published.records(), [(record, noted)]);
        assert_eq!(published.layer(&recipe), Some((&made, diff_id)));
        assert_eq!(published.layer(&diff_id), None);
        assert!(published.has_blob(&other.digest) && published.has_blob(&made.digest) && !published.has_blob(&recipe));
    }
}
