//! Layers that are in a repository already, by the recipe that made them: what earlier manifests say of themselves.
//!
//! A manifest names the recipe and the uncompressed digest of each layer that a recipe made, as annotations of its descriptor.
//! Such a layer is named again, and neither built nor moved.

use std::collections::{BTreeMap, BTreeSet};
use xtask_host::registry::{Client, publish};
use xtask_model::spec::oci::{Descriptor, Manifest};
use xtask_model::spec::reference::{Digest, Repository};

/// The annotation with the digest of the recipe that made a layer.
pub const RECIPE: &str = "dev.xtask.layer.recipe";

/// The annotation with a layer's uncompressed digest.
pub const DIFF_ID: &str = "dev.xtask.layer.diff-id";

/// What is known of a repository.
#[derive(Clone, Debug, Default)]
pub struct Known {
    by_recipe: BTreeMap<Digest, (Descriptor, Digest)>,
    blobs: BTreeSet<Digest>,
}

impl Known {
    /// What these manifests of a repository say. One that cannot be read says nothing: it is there to save work.
    pub fn read(client: &Client, repository: &Repository, manifests: &[Digest]) -> Self {
        let mut known = Self::default();
        for digest in manifests {
            if let Ok(manifest) = publish::read_manifest(client, repository, *digest) {
                known.add(&manifest);
            }
        }
        known
    }

    /// Adds what a manifest says.
    pub fn add(&mut self, manifest: &Manifest) {
        for layer in &manifest.layers {
            self.blobs.insert(layer.digest);
            let digest = |name| layer.annotations.get(name).and_then(|text| text.parse::<Digest>().ok());
            if let (Some(recipe), Some(diff_id)) = (digest(RECIPE), digest(DIFF_ID)) {
                self.by_recipe.insert(recipe, (layer.clone(), diff_id));
            }
        }
    }

    /// The layer that this recipe made, with its uncompressed digest.
    pub fn layer(&self, recipe: &Digest) -> Option<(&Descriptor, Digest)> {
        self.by_recipe.get(recipe).map(|(descriptor, diff_id)| (descriptor, *diff_id))
    }

    /// Whether a manifest of the repository names this blob. A registry keeps what its manifests name.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blobs.contains(digest)
    }
}

/// A descriptor that says which recipe made its layer.
pub fn noted(descriptor: Descriptor, recipe: &Digest, diff_id: &Digest) -> Descriptor {
    descriptor.with_annotation(RECIPE, recipe.to_string()).with_annotation(DIFF_ID, diff_id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask_model::spec::oci::media_type;

    #[test]
    fn a_manifest_says_which_recipe_made_a_layer() {
        let (recipe, diff_id) = (Digest::of(b"recipe"), Digest::of(b"tar"));
        let made = noted(Descriptor::new(media_type::LAYER_GZIP, Digest::of(b"gz"), 2), &recipe, &diff_id);
        let other = Descriptor::new(media_type::LAYER_GZIP, Digest::of(b"base"), 4);
        let config = Descriptor::new(media_type::CONFIG, Digest::of(b"config"), 6);
        let mut known = Known::default();
        known.add(&Manifest::new(config, vec![other.clone(), made.clone()]));
        assert_eq!(known.layer(&recipe), Some((&made, diff_id)));
        assert_eq!(known.layer(&diff_id), None);
        assert!(known.has_blob(&other.digest) && known.has_blob(&made.digest) && !known.has_blob(&recipe));
    }
}
