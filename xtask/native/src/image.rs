//! An image that is built upon: its documents, and where its layers are.
//!
//! Reads a registry or a layout, and no layer unless it is asked for one.

use std::io::{self, Write};
use xtask_host::registry::layout::Layout;
use xtask_host::registry::{Answer, Client, publish};
use xtask_model::fault::Fault;
use xtask_model::spec::oci::{Config, Descriptor, Manifest, media_type};
use xtask_model::spec::reference::{Digest, Platform, Repository};

/// Where an image is.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a repository of a registry.
    Registry(Repository),
    /// In a layout on this machine.
    Layout(Layout),
}

/// An image for one platform.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its configuration.
    pub config: Config,
    /// Where its layers are.
    pub place: Place,
}

impl Image {
    /// Reads the documents of the image with this digest, which may be that of an index.
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
            return Err(Fault::network(format!("the image `{digest}` cannot be built upon"))
                .cause(format!("its manifest has {layers} layers, its configuration {diff_ids}")));
        }
        Ok(image)
    }

    /// Its layers, lowest first: what points at each, and its uncompressed digest.
    pub fn layers(&self) -> impl Iterator<Item = (&Descriptor, Digest)> {
        self.manifest.layers.iter().zip(self.config.rootfs.diff_ids.iter().copied())
    }

    /// The bytes of a document: its manifest or its configuration.
    pub fn document(&self, client: &Client, document: &Descriptor) -> Result<Vec<u8>, Fault> {
        let lost = || Fault::network(format!("`{}` is not there any more", document.digest));
        match &self.place {
            Place::Layout(layout) => layout.read_bytes(document),
            Place::Registry(repository) if document.digest == self.digest => {
                Ok(client.manifest(repository, document.digest)?.present().ok_or_else(lost)?.bytes)
            }
            Place::Registry(repository) => {
                client.blob_bytes(repository, &document.digest, document.size)?.present().ok_or_else(lost)
            }
        }
    }

    /// Streams the bytes of a layer as they are stored; checked against their digest at the end, when it may be too late for
    /// what was done with them.
    pub fn copy_layer(&self, client: &Client, layer: &Descriptor, to: &mut dyn Write) -> Result<(), Fault> {
        match &self.place {
            Place::Registry(repository) => match client.blob(repository, &layer.digest, layer.size, to)? {
                Answer::Present(()) => Ok(()),
                Answer::Absent => {
                    Err(Fault::network(format!("layer `{}` of `{repository}` is not there", layer.digest))
                        .hint("rebuild it: `--force`"))
                }
            },
            Place::Layout(layout) => {
                let cannot =
                    |error: io::Error| Fault::build(format!("cannot copy layer `{}`", layer.digest)).cause(error);
                io::copy(&mut layout.open_blob(&layer.digest)?, to).map(drop).map_err(cannot)
            }
        }
    }
}

/// The platform's manifest behind a digest that may be an index's.
fn manifest_of(client: &Client, repository: &Repository, digest: Digest, platform: &Platform) -> Result<Digest, Fault> {
    let Answer::Present(found) = client.head(repository, digest)? else {
        return Err(Fault::network(format!("`{}` is missing from the registry", repository.digest(digest)))
            .hint("rebuild it: `--force`"));
    };
    if !media_type::is_index(&found.media_type) {
        return Ok(digest);
    }
    let published = publish::read(client, repository, digest)?.present();
    let manifest = published.as_ref().and_then(|published| published.platforms.get(platform));
    manifest
        .map(|descriptor| descriptor.digest)
        .ok_or_else(|| Fault::usage(format!("`{}` is not there for {platform}", repository.digest(digest))))
}

/// A layer's media type as OCI spells it: an image of Docker's own types may be built upon, and becomes one of OCI's.
pub fn oci_layer(descriptor: &Descriptor) -> Descriptor {
    let media_type = match descriptor.media_type.as_str() {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => media_type::LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar" => media_type::LAYER,
        other => other,
    };
    Descriptor { media_type: media_type.to_owned(), ..descriptor.clone() }
}
