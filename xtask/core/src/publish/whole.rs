//! Whether an image is whole: each manifest that its index lists, and the configuration and layers of each.
//!
//! Clean-ups delete manifests without tags, and storage loses blobs; an index stays where it is in both cases. Asks only.

use super::Published;
use crate::bases::at_once;
use crate::fault::Fault;
use crate::oci::{Config, Descriptor, Manifest, media_type};
use crate::reference::{Digest, Platform, Repository};
use crate::registry::{Answer, Client};
use std::collections::{BTreeMap, BTreeSet};

/// The annotation by which an attestation names the manifest that it is about.
pub(super) const ABOUT: &str = "vnd.docker.reference.digest";

impl Published {
    /// Asks the repository for every part of the image. A platform of which a part is missing is no longer one of its platforms:
    /// [`Published::lost`] says what is missing.
    pub fn check_whole(&mut self, client: &Client, repository: &Repository) -> Result<(), Fault> {
        let manifests: Vec<Descriptor> = match &self.index {
            Some(index) => index.manifests.clone(),
            None => self.platforms.values().cloned().collect(),
        };
        let read = at_once(&manifests, |manifest| Part::read(client, repository, manifest))?;
        let layers: BTreeSet<Digest> = read.iter().flat_map(|part| part.layers.iter().copied()).collect();
        let layers: Vec<Digest> = layers.into_iter().collect();
        let found = at_once(&layers, |digest| client.has_blob(repository, digest))?;
        let absent: BTreeSet<Digest> =
            layers.into_iter().zip(found).filter(|(_, found)| !found).map(|(digest, _)| digest).collect();
        let mut lost: BTreeMap<Digest, String> = BTreeMap::new();
        for (manifest, part) in manifests.iter().zip(read) {
            self.bases.insert(manifest.digest, part.base);
            let layer = || part.layers.iter().find(|layer| absent.contains(*layer));
            let missing = part.missing.or_else(|| Some(format!("the layer `{}`", layer()?)));
            let Some(missing) = missing else { continue };
            // What an attestation lacks, the image that it is about lacks.
            lost.extend(about(manifest).map(|subject| (subject, missing.clone())));
            lost.insert(manifest.digest, missing);
        }
        let (platforms, broken) = std::mem::take(&mut self.platforms)
            .into_iter()
            .partition(|(_, descriptor)| !lost.contains_key(&descriptor.digest));
        self.platforms = platforms;
        let broken: BTreeMap<Platform, Descriptor> = broken;
        self.lost.extend(broken.into_iter().map(|(platform, found)| (platform, lost[&found.digest].clone())));
        self.broken = lost.into_keys().collect();
        Ok(())
    }

    /// Why platforms that are wanted are missing although the index lists them, as a reason of a build.
    pub fn lost_reason(&self, wanted: &[Platform]) -> Option<String> {
        let lost = wanted.iter().filter_map(|platform| Some((platform, self.lost.get(platform)?)));
        let lost: Vec<String> = lost.map(|(platform, what)| format!("{what} of {platform}")).collect();
        (!lost.is_empty()).then(|| format!("the registry lost {}", lost.join(", ")))
    }
}

/// The manifest that an attestation is about.
pub(super) fn about(descriptor: &Descriptor) -> Option<Digest> {
    descriptor.annotations.get(ABOUT)?.parse().ok()
}

/// One listed manifest, with what has to be asked for next.
#[derive(Default)]
struct Part {
    /// The manifest itself, or its configuration, where the registry has lost it.
    missing: Option<String>,
    layers: Vec<Digest>,
    base: Option<Digest>,
}

impl Part {
    fn read(client: &Client, repository: &Repository, descriptor: &Descriptor) -> Result<Self, Fault> {
        let missing = |what: String| Self { missing: Some(what), ..Self::default() };
        let Answer::Present(found) = client.manifest(repository, descriptor.digest)? else {
            return Ok(missing(format!("the manifest `{}`", descriptor.digest)));
        };
        if media_type::is_index(&found.media_type) {
            return Ok(Self::default());
        }
        let manifest: Manifest = super::document(&found.bytes, &repository.digest(found.digest))?;
        let config = manifest.config.digest;
        let Answer::Present(bytes) = client.blob_bytes(repository, &config, super::CONFIG_LIMIT)? else {
            return Ok(missing(format!("the configuration `{config}`")));
        };
        // What is no image's configuration, an attestation's for one, names no base.
        let mut notes = serde_json::from_slice::<Config>(&bytes).map(|config| config.config.labels).unwrap_or_default();
        notes.extend(manifest.annotations);
        // Layers that a registry may not distribute are somewhere else by their nature.
        let elsewhere =
            |layer: &Descriptor| ["foreign", "nondistributable"].iter().any(|odd| layer.media_type.contains(odd));
        let layers = manifest.layers.iter().filter(|layer| !elsewhere(layer)).map(|layer| layer.digest).collect();
        Ok(Self { missing: None, layers, base: super::noted_base(&notes) })
    }
}
