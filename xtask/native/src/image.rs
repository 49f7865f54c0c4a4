//! An image to build on: its documents, and the location of its layers.
//!
//! Reads from a registry or a layout; layers only on demand.

use std::io::{self, Write};
use xtask_host::registry::layout::Layout;
use xtask_host::registry::{Answer, Client, publish};
use xtask_model::fault::Fault;
use xtask_model::spec::oci::{Config, Descriptor, Manifest, media_type};
use xtask_model::spec::reference::{Digest, Platform, Repository};

#[derive(Clone, Debug)]
pub enum Place {
    Registry(Repository),
    Layout(Layout),
}

#[derive(Clone, Debug)]
pub struct Image {
    pub digest: Digest,
    pub manifest: Manifest,
    pub config: Config,
    pub place: Place,
}

impl Image {
    /// Reads the documents of an image; `digest` may be that of an index.
    pub fn open(client: &Client, place: Place, digest: Digest, platform: &Platform) -> Result<Self, Fault> {
        let image = match &place {
            Place::Registry(repository) => {
                let digest = manifest_of(client, repository, digest, platform)?;
                let manifest = publish::read_manifest(client, repository, digest)?;
                let config = publish::read_config(client, repository, &manifest)?;
                Self { digest, manifest, config, place }
            }
            Place::Layout(layout) => {
                let named = Descriptor::new(media_type::MANIFEST, digest, layout.blob_size(&digest).unwrap_or(0));
                let manifest: Manifest = layout.read_json(&named)?;
                let config = layout.read_json(&manifest.config)?;
                Self { digest, manifest, config, place }
            }
        };
        let (layers, diff_ids) = (image.manifest.layers.len(), image.config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(Fault::network(format!("cannot build on image `{digest}`"))
                .cause(format!("its manifest has {layers} layers, its configuration has {diff_ids}")));
        }
        Ok(image)
    }

    /// Layers with their uncompressed digests, lowest first.
    pub fn layers(&self) -> impl Iterator<Item = (&Descriptor, Digest)> {
        self.manifest.layers.iter().zip(self.config.rootfs.diff_ids.iter().copied())
    }

    /// Bytes of the manifest or the configuration.
    pub fn document(&self, client: &Client, document: &Descriptor) -> Result<Vec<u8>, Fault> {
        match &self.place {
            Place::Registry(repository) if document.digest == self.digest => {
                let manifest = client.manifest(repository, document.digest)?.present();
                Ok(manifest.ok_or_else(|| lost(repository, document))?.bytes)
            }
            place => place.blob(client, document),
        }
    }
}

impl Place {
    pub(crate) fn blob(&self, client: &Client, blob: &Descriptor) -> Result<Vec<u8>, Fault> {
        match self {
            Self::Layout(layout) => layout.read_bytes(blob),
            Self::Registry(repository) => {
                let read = client.blob_bytes(repository, &blob.digest, blob.size)?;
                read.present().ok_or_else(|| lost(repository, blob))
            }
        }
    }

    /// Streams the compressed bytes of a layer. The digest is checked at the end, after the bytes were used.
    pub(crate) fn copy_layer(&self, client: &Client, layer: &Descriptor, to: &mut dyn Write) -> Result<(), Fault> {
        match self {
            Self::Registry(repository) => {
                let read = client.blob(repository, &layer.digest, layer.size, to)?;
                read.present().ok_or_else(|| lost(repository, layer))
            }
            Self::Layout(layout) => {
                let cannot =
                    |error: io::Error| Fault::build(format!("cannot copy layer `{}`", layer.digest)).cause(error);
                io::copy(&mut layout.open_blob(&layer.digest)?, to).map(drop).map_err(cannot)
            }
        }
    }
}

fn lost(repository: &Repository, blob: &Descriptor) -> Fault {
    Fault::network(format!("`{}` is missing in `{repository}`", blob.digest))
        .hint("the registry lost it; build again with `--force`")
}

/// Manifest of a platform; `digest` may be that of an index.
fn manifest_of(client: &Client, repository: &Repository, digest: Digest, platform: &Platform) -> Result<Digest, Fault> {
    let Answer::Present(found) = client.manifest_as_known(repository, digest)? else {
        return Err(Fault::network(format!("image `{}` is missing in the registry", repository.digest(digest)))
            .hint("the registry lost it; build again with `--force`"));
    };
    if !media_type::is_index(&found.media_type) {
        return Ok(digest);
    }
    let published = publish::read(client, repository, digest)?.present();
    let manifest = published.as_ref().and_then(|published| published.platforms.get(platform));
    manifest
        .map(|descriptor| descriptor.digest)
        .ok_or_else(|| Fault::usage(format!("image `{}` has no manifest for {platform}", repository.digest(digest))))
}

/// A layer with the OCI media type: images with Docker's own types are accepted as a base.
pub(crate) fn oci_layer(descriptor: &Descriptor) -> Descriptor {
    let media_type = match descriptor.media_type.as_str() {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => media_type::LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar" => media_type::LAYER,
        other => other,
    };
    Descriptor { media_type: media_type.to_owned(), ..descriptor.clone() }
}
