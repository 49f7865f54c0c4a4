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

#[derive(Clone, Debug, Default)]
pub struct PublishedLayers {
    by_recipe: BTreeMap<Digest, (Descriptor, Digest)>,
    blobs: BTreeSet<Digest>,
}

impl PublishedLayers {
    /// Reads manifests of a repository. Unreadable ones are skipped: they only save work.
    pub fn read(client: &Client, repository: &Repository, manifests: &[Digest]) -> Self {
        let mut published = Self::default();
        for digest in manifests {
            if let Ok(manifest) = publish::read_manifest(client, repository, *digest) {
                published.add(&manifest);
            }
        }
        published
    }

    pub fn add(&mut self, manifest: &Manifest) {
        for layer in &manifest.layers {
            self.blobs.insert(layer.digest);
            let digest = |name| layer.annotations.get(name).and_then(|text| text.parse::<Digest>().ok());
            if let (Some(recipe), Some(diff_id)) = (digest(RECIPE), digest(DIFF_ID)) {
                self.by_recipe.insert(recipe, (layer.clone(), diff_id));
            }
        }
    }

    pub fn layer(&self, recipe: &Digest) -> Option<(&Descriptor, Digest)> {
        self.by_recipe.get(recipe).map(|(descriptor, diff_id)| (descriptor, *diff_id))
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
        published.add(&Manifest::new(config, vec![other.clone(), made.clone()]));
        assert_eq!(published.layer(&recipe), Some((&made, diff_id)));
        assert_eq!(published.layer(&diff_id), None);
        assert!(published.has_blob(&other.digest) && published.has_blob(&made.digest) && !published.has_blob(&recipe));
    }
}
