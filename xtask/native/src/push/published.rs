//! Layers of a repository by the recipe that made them, from its earlier manifests.
//!
//! A manifest records the recipe and the uncompressed digest of each layer as annotations. Such a layer is referenced
//! again instead of being built or sent.

use std::collections::{BTreeMap, BTreeSet};
use xtask_host::registry::{Client, publish};
use xtask_model::spec::oci::{Descriptor, Manifest};
use xtask_model::spec::reference::{Digest, Repository};

/// Annotation: digest of the recipe that made a layer.
pub const RECIPE: &str = "dev.xtask.layer.recipe";

/// Annotation: uncompressed digest of a layer.
pub const DIFF_ID: &str = "dev.xtask.layer.diff-id";

/// Annotation: the version of the checks that a layer's note was published after, and the note's bytes in the layer. A build that skips
/// a check leaves it out.
pub const CHECKED: &str = "dev.xtask.layer.checked";

/// A layer with a note of what was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedLayer {
    /// Digest of the manifest that names it.
    pub image: Digest,
    pub layer: Descriptor,
    pub version: u32,
    /// Bytes of the note in the layer.
    pub note: u64,
}

#[derive(Clone, Debug, Default)]
pub struct PublishedLayers {
    by_recipe: BTreeMap<Digest, (Descriptor, Digest)>,
    blobs: BTreeSet<Digest>,
    checked: Vec<CheckedLayer>,
}

impl PublishedLayers {
    /// Reads manifests of a repository. Unreadable ones are skipped: they only save work.
    pub fn read(client: &Client, repository: &Repository, manifests: &[Digest]) -> Self {
        let mut published = Self::default();
        for digest in manifests {
            if let Ok(manifest) = publish::read_manifest(client, repository, *digest) {
                published.add(*digest, &manifest);
            }
        }
        published
    }

    pub fn add(&mut self, image: Digest, manifest: &Manifest) {
        for layer in &manifest.layers {
            self.blobs.insert(layer.digest);
            let digest = |name| layer.annotations.get(name).and_then(|text| text.parse::<Digest>().ok());
            if let (Some(recipe), Some(diff_id)) = (digest(RECIPE), digest(DIFF_ID)) {
                self.by_recipe.insert(recipe, (layer.clone(), diff_id));
            }
            let numbers = layer.annotations.get(CHECKED).and_then(|text| text.split_once(' '));
            if let Some((version, note)) = numbers.and_then(|(one, two)| Some((one.parse().ok()?, two.parse().ok()?))) {
                self.checked.push(CheckedLayer { image, layer: layer.clone(), version, note });
            }
        }
    }

    pub fn layer(&self, recipe: &Digest) -> Option<(&Descriptor, Digest)> {
        self.by_recipe.get(recipe).map(|(descriptor, diff_id)| (descriptor, *diff_id))
    }

    /// Layers with notes, those of the first image first.
    pub fn checked(&self) -> &[CheckedLayer] {
        &self.checked
    }

    /// Whether a manifest of the repository names this blob. A registry keeps what its manifests name.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blobs.contains(digest)
    }
}

/// Records the recipe of a layer in its descriptor.
pub(crate) fn with_recipe(descriptor: Descriptor, recipe: &Digest, diff_id: &Digest) -> Descriptor {
    descriptor.with_annotation(RECIPE, recipe.to_string()).with_annotation(DIFF_ID, diff_id.to_string())
}

/// Says that the note of a layer was published after checks of this version.
pub(crate) fn with_checks(descriptor: Descriptor, version: u32, note: u64) -> Descriptor {
    descriptor.with_annotation(CHECKED, format!("{version} {note}"))
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
        let noted = with_checks(Descriptor::new(media_type::LAYER_GZIP, Digest::of(b"noted"), 9), 3, 7);
        let image = Digest::of(b"manifest");
        published.add(image, &Manifest::new(config, vec![other.clone(), made.clone(), noted.clone()]));
        assert_eq!(published.checked(), [CheckedLayer { image, layer: noted, version: 3, note: 7 }]);
        assert_eq!(published.layer(&recipe), Some((&made, diff_id)));
        assert_eq!(published.layer(&diff_id), None);
        assert!(published.has_blob(&other.digest) && published.has_blob(&made.digest) && !published.has_blob(&recipe));
    }
}
