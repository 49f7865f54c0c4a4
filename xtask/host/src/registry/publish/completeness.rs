//! True if an image is whole: each manifest that its index lists, and the configuration and layers of each.
//!
//! Clean-ups delete manifests without tags, and storage loses blobs; an index stays where it is in both cases. Asks only.

use super::Published;
use crate::registry::parallel::some_at_once;
use crate::registry::{Answer, Client};
use std::collections::{BTreeMap, BTreeSet};
use xtask_model::fault::Fault;
use xtask_model::spec::oci::{Descriptor, Manifest, media_type};
use xtask_model::spec::reference::{Digest, Platform, Repository};

/// Questions under way at once: enough to hide the way to a registry far away. On this machine a connection costs more than a few
/// questions do.
fn at_once(repository: &Repository) -> usize {
    if repository.is_loopback() { 2 } else { 8 }
}

/// The annotation by which an attestation names the manifest that it is about.
pub(super) const ABOUT: &str = "vnd.docker.reference.digest";

/// Asks the repository for every part of the image. A platform of which a part is missing is no longer one of its platforms:
/// [`Published::lost`] says what is missing.
pub fn check(published: &mut Published, client: &Client, repository: &Repository) -> Result<(), Fault> {
    let manifests: Vec<Descriptor> = match &published.index {
        // An index within an index has no parts that anybody runs.
        Some(index) => {
            index.manifests.iter().filter(|listed| !media_type::is_index(&listed.media_type)).cloned().collect()
        }
        None => published.platforms.values().cloned().collect(),
    };
    // Few: on this machine a second connection takes longer than they do.
    let readers = if repository.is_loopback() { 1 } else { at_once(repository) };
    let read = some_at_once(readers, &manifests, |manifest| read(client, repository, manifest))?;
    let blobs: BTreeSet<Digest> = read.iter().flatten().flat_map(parts).collect();
    let blobs: Vec<Digest> = blobs.into_iter().collect();
    let found = client.has_blobs(repository, &blobs, at_once(repository))?;
    let absent: BTreeSet<Digest> =
        blobs.into_iter().zip(found).filter(|(_, found)| !found).map(|(digest, _)| digest).collect();
    let mut lost: BTreeMap<Digest, String> = BTreeMap::new();
    for (descriptor, manifest) in manifests.iter().zip(read) {
        let missing = match manifest {
            None => Some(format!("the manifest `{}`", descriptor.digest)),
            Some(manifest) => {
                let config = manifest.config.digest;
                let missing = parts(&manifest).find(|part| absent.contains(part)).map(|part| {
                    let what = if part == config { "configuration" } else { "layer" };
                    format!("the {what} `{part}`")
                });
                let layers = manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
                published.layers.insert(descriptor.digest, layers);
                missing
            }
        };
        let Some(missing) = missing else { continue };
        // What an attestation lacks, the image that it is about lacks.
        lost.extend(about(descriptor).map(|subject| (subject, missing.clone())));
        lost.insert(descriptor.digest, missing);
    }
    let (platforms, broken) = std::mem::take(&mut published.platforms)
        .into_iter()
        .partition(|(_, descriptor)| !lost.contains_key(&descriptor.digest));
    published.platforms = platforms;
    let broken: BTreeMap<Platform, Descriptor> = broken;
    published.lost.extend(broken.into_iter().map(|(platform, found)| (platform, lost[&found.digest].clone())));
    published.broken = lost.into_keys().collect();
    Ok(())
}

pub(super) fn about(descriptor: &Descriptor) -> Option<Digest> {
    descriptor.annotations.get(ABOUT)?.parse().ok()
}

/// A listed manifest; none where the registry has lost it.
fn read(client: &Client, repository: &Repository, descriptor: &Descriptor) -> Result<Option<Manifest>, Fault> {
    let Answer::Present(found) = client.manifest(repository, descriptor.digest)? else { return Ok(None) };
    super::document(&found.bytes, &repository.digest(found.digest)).map(Some)
}

/// The blobs that the registry has to have: layers that may not be distributed are somewhere else by their nature.
fn parts(manifest: &Manifest) -> impl Iterator<Item = Digest> {
    let elsewhere =
        |layer: &&Descriptor| ["foreign", "nondistributable"].iter().any(|odd| layer.media_type.contains(odd));
    let layers = manifest.layers.iter().filter(move |layer| !elsewhere(layer));
    layers.chain([&manifest.config]).map(|blob| blob.digest)
}
