//! Whether an image is whole: each manifest that its index lists, and the configuration and layers of each.
//!
//! Clean-ups delete manifests without tags, and storage loses blobs; an index stays where it is in both cases. Asks only.

use super::Published;
use crate::bases::at_once;
use crate::fault::Fault;
use crate::oci::{Descriptor, Manifest, media_type};
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
        let read = at_once(&manifests, |manifest| parts(client, repository, manifest))?;
        let blobs: BTreeSet<Digest> = read.iter().flatten().flatten().copied().collect();
        let blobs: Vec<Digest> = blobs.into_iter().collect();
        let found = at_once(&blobs, |digest| client.has_blob(repository, digest))?;
        let absent: BTreeSet<Digest> =
            blobs.into_iter().zip(found).filter(|(_, found)| !found).map(|(digest, _)| digest).collect();
        let mut lost: BTreeMap<Digest, String> = BTreeMap::new();
        for (manifest, parts) in manifests.iter().zip(&read) {
            let missing = match parts {
                None => Some(format!("the manifest `{}`", manifest.digest)),
                Some(parts) => {
                    let blob = parts.iter().find(|part| absent.contains(*part));
                    blob.map(|blob| format!("the blob `{blob}`"))
                }
            };
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

/// The blobs of a manifest; none where it is missing itself.
fn parts(client: &Client, repository: &Repository, descriptor: &Descriptor) -> Result<Option<Vec<Digest>>, Fault> {
    let Answer::Present(found) = client.manifest(repository, descriptor.digest)? else { return Ok(None) };
    if media_type::is_index(&found.media_type) {
        return Ok(Some(Vec::new()));
    }
    let manifest: Manifest = super::document(&found.bytes, &repository.digest(found.digest))?;
    // Layers that a registry may not distribute are somewhere else by their nature.
    let here = |layer: &&Descriptor| !["foreign", "nondistributable"].iter().any(|odd| layer.media_type.contains(odd));
    let layers = manifest.layers.iter().filter(here);
    Ok(Some(layers.chain([&manifest.config]).map(|blob| blob.digest).collect()))
}
