//! Bundles: images with everything that is attached to them, as one archive of an OCI layout, for registries that no network leads to.
//!
//! An archive that broke off is continued: what is in it is hashed again, and the rest is appended. Loading checks every byte before the
//! first request that changes something, and writes tags last.

mod gather;
mod load;
mod write;

pub use gather::{Have, Selected, have};
pub use load::{Bundle, Loaded};
pub use write::{Made, create};

use super::attach;
use std::collections::BTreeMap;
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::reference::{Digest, Reference};

/// Annotation of a manifest in the archive's index: the last part of its repository's name.
pub const REPOSITORY: &str = "dev.xtask.bundle.repository";

/// Annotation of the index: the bundle leaves out blobs that the other side has.
const SINCE: &str = "dev.xtask.bundle.since";

/// Suffixes of the tags that cosign gives to what it attaches.
const SUFFIXES: [&str; 3] = ["sig", "att", "sbom"];

/// The largest manifest.
const DOCUMENT: u64 = 4 << 20;

/// A manifest with what it names.
#[derive(Clone, Debug)]
struct Document {
    bytes: Vec<u8>,
    media_type: String,
    /// Manifests that it lists.
    lists: Vec<Digest>,
    /// Its configuration and layers.
    blobs: Vec<Descriptor>,
    /// The manifest that it is attached to.
    subject: Option<Digest>,
    artifact_type: Option<String>,
}

impl Document {
    /// Reads what a manifest or an index names.
    fn read(bytes: Vec<u8>, media_type: &str) -> Result<Self, String> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Any {
            #[serde(default)]
            manifests: Vec<Descriptor>,
            config: Option<Descriptor>,
            #[serde(default)]
            layers: Vec<Descriptor>,
            subject: Option<Descriptor>,
            artifact_type: Option<String>,
        }
        let any: Any = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let kind = any.artifact_type.or_else(|| any.config.as_ref().map(|config| config.media_type.clone()));
        Ok(Self {
            media_type: media_type.to_owned(),
            lists: any.manifests.iter().map(|one| one.digest).collect(),
            blobs: any.config.into_iter().chain(any.layers).collect(),
            artifact_type: kind.filter(|_| any.subject.is_some()),
            subject: any.subject.map(|subject| subject.digest),
            bytes,
        })
    }

    fn descriptor(&self, digest: Digest) -> Descriptor {
        let mut descriptor = Descriptor::new(&self.media_type, digest, self.bytes.len() as u64);
        if let Some(kind) = &self.artifact_type {
            descriptor.other.insert("artifactType".to_owned(), kind.clone().into());
        }
        descriptor
    }
}

/// The manifests of one repository, and the tags that name some of them.
#[derive(Clone, Debug, Default)]
struct Part {
    documents: BTreeMap<Digest, Document>,
    tags: BTreeMap<String, Digest>,
}

impl Part {
    /// Every blob with its size.
    fn blobs(&self) -> BTreeMap<Digest, u64> {
        self.documents.values().flat_map(|one| &one.blobs).map(|blob| (blob.digest, blob.size)).collect()
    }

    /// Tags that people use; the others belong to what is attached.
    fn names(&self) -> impl Iterator<Item = (&String, &Digest)> {
        self.tags.iter().filter(|(tag, _)| !is_attached(tag))
    }
}

/// True for tags that name what is attached to a digest.
fn is_attached(tag: &str) -> bool {
    let rest = tag.strip_prefix("sha256-");
    rest.is_some_and(|rest| rest.len() >= 64 && rest.as_bytes()[..64].iter().all(u8::is_ascii_hexdigit))
}

/// Cosign's tags of a digest.
fn tags_of(digest: &Digest) -> impl Iterator<Item = xtask_model::spec::reference::Tag> {
    SUFFIXES.into_iter().map(|suffix| attach::tag_of(digest, Some(suffix)))
}

/// The last part of a repository's name, by which the other side knows it.
fn short(reference: &Reference) -> String {
    reference.repository.path().rsplit('/').next().unwrap_or_default().to_owned()
}
