//! Wheels that were built from source, kept in the base's repository: an artifact under a tag that says what it is made of.

use crate::registry::{Answer, Client};
use crate::{clock, terminal};
use std::collections::BTreeMap;
use xtask_model::fault::Fault;
use xtask_model::image::presence::CREATED;
use xtask_model::spec::lock::sources::TAG_PREFIX;
use xtask_model::spec::oci::{Descriptor, Manifest, media_type};
use xtask_model::spec::reference::{Digest, Repository, Tag};

/// Type of the artifact.
pub const TYPE: &str = "application/vnd.xtask.wheel.v1";

const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const TITLE: &str = "org.opencontainers.image.title";

/// Longest wheel that is read or kept, in bytes.
const LONGEST: u64 = 1 << 30;

/// A wheel and its file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptWheel {
    pub filename: String,
    pub bytes: Vec<u8>,
}

/// The tag of a wheel: `wheel-` and the digits of its id.
pub fn tag(id: &Digest) -> Tag {
    Tag::from_name(&format!("{TAG_PREFIX}{}", id.hex())).expect("letters and digits are a tag")
}

/// True if a tag is that of a wheel.
pub fn is(tag: &Tag) -> bool {
    tag.as_str().starts_with(TAG_PREFIX)
}

/// Reads a wheel; what is not such an artifact is passed over with a warning.
///
/// # Errors
/// A registry that does not answer or refuses; bytes that differ from their digest.
pub fn read(client: &Client, repository: &Repository, id: &Digest) -> Result<Option<KeptWheel>, Fault> {
    let tag = tag(id);
    let Answer::Present(found) = client.manifest(repository, tag.clone())? else { return Ok(None) };
    let Some(layer) = layer(&found.bytes) else {
        terminal::warn(&format!("`{}` is not a wheel of xtask: it is built again", repository.tag(&tag)));
        return Ok(None);
    };
    match client.blob_bytes(repository, &layer.digest, layer.size)? {
        Answer::Present(bytes) if bytes.len() as u64 == layer.size => {
            Ok(Some(KeptWheel { filename: layer.annotations[TITLE].clone(), bytes }))
        }
        _ => Ok(None),
    }
}

/// The one layer of a wheel's manifest.
fn layer(bytes: &[u8]) -> Option<Descriptor> {
    let manifest: Manifest = serde_json::from_slice(bytes).ok()?;
    let typed = manifest.other.get("artifactType").and_then(|kind| kind.as_str()) == Some(TYPE);
    let [layer] = manifest.layers.as_slice() else { return None };
    let filename = layer.annotations.get(TITLE)?;
    let safe = filename.ends_with(".whl") && !filename.contains(['/', '\\']) && layer.size <= LONGEST;
    (typed && safe).then(|| layer.clone())
}

/// Puts a wheel into a repository, unless it is present.
///
/// # Errors
/// A wheel that is too long; anything that the registry refuses.
pub fn keep(client: &Client, repository: &Repository, id: &Digest, wheel: &KeptWheel) -> Result<(), Fault> {
    let tag = tag(id);
    if let Answer::Present(found) = client.manifest(repository, tag.clone())?
        && layer(&found.bytes).is_some()
    {
        return Ok(());
    }
    let size = wheel.bytes.len() as u64;
    if size > LONGEST {
        return Err(Fault::build(format!("the wheel `{}` has {size} bytes, more than {LONGEST}", wheel.filename)));
    }
    let mut layer = Descriptor::new("application/zip", Digest::of(&wheel.bytes), size);
    layer.annotations = BTreeMap::from([(TITLE.to_owned(), wheel.filename.clone())]);
    let config = Descriptor::new(EMPTY, Digest::of(b"{}"), 2);
    client.upload(repository, &config.digest, config.size, &b"{}".to_vec())?;
    client.upload(repository, &layer.digest, size, &wheel.bytes)?;
    let mut manifest = Manifest::new(config, vec![layer]);
    manifest.other.insert("artifactType".to_owned(), TYPE.into());
    // Its age counts when it is pruned.
    manifest.annotations.insert(CREATED.to_owned(), clock::now().to_string());
    let bytes = serde_json::to_vec(&manifest).expect("a manifest is valid JSON");
    client.put_manifest(repository, tag, media_type::MANIFEST, &bytes).map(drop)
}
