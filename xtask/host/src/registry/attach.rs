//! Artifacts attached to an image: SBOMs, provenance, signatures (OCI 1.1 referrers).
//!
//! An artifact is a manifest that names the image as its subject. A registry without the referrers API finds it by the fallback tag of the
//! specification, `sha256-…`; what cosign writes has a tag of its own besides. Nothing here moves a tag of the image.

use super::parallel::some_at_once;
use super::publish;
use super::{Answer, Client, Referrer};
use crate::{process, terminal};
use std::collections::BTreeMap;
use xtask_model::fault::Fault;
use xtask_model::spec::oci::{Descriptor, Index, Manifest, media_type};
use xtask_model::spec::reference::{Digest, Repository, Tag};
use xtask_model::supply::{self, signature};

/// Media type of a configuration that says nothing, `{}`.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Uploads under way at once.
const AT_ONCE: usize = 4;

/// A document of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub media_type: String,
    pub bytes: Vec<u8>,
    pub annotations: BTreeMap<String, String>,
}

impl Blob {
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self { media_type: media_type.to_owned(), bytes, annotations: BTreeMap::new() }
    }

    fn descriptor(&self) -> Descriptor {
        let mut descriptor = Descriptor::new(&self.media_type, Digest::of(&self.bytes), self.bytes.len() as u64);
        descriptor.annotations = self.annotations.clone();
        descriptor
    }
}

/// An artifact to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    pub artifact_type: String,
    pub documents: Vec<Blob>,
    /// Configuration of the manifest, for what only this program reads.
    pub config: Option<Blob>,
    pub annotations: BTreeMap<String, String>,
    /// Suffix of cosign's tag, `sig` or `att`. Documents under it are added to the existing ones.
    pub suffix: Option<&'static str>,
}

impl Artifact {
    /// An artifact of one document, whose media type is its own.
    pub fn of(media_type: &str, bytes: Vec<u8>) -> Self {
        Self {
            artifact_type: media_type.to_owned(),
            documents: vec![Blob::new(media_type, bytes)],
            config: None,
            annotations: BTreeMap::new(),
            suffix: None,
        }
    }
}

/// The tag that belongs to a digest: the fallback of the specification without a suffix, cosign's with one.
pub fn tag_of(digest: &Digest, suffix: Option<&str>) -> Tag {
    let suffix = suffix.map(|suffix| format!(".{suffix}")).unwrap_or_default();
    Tag::from_name(&format!("{}{suffix}", digest.to_string().replace(':', "-"))).expect("a digest with a dash is a tag")
}

/// Attaches artifacts to a manifest, which need not exist yet. Returns their manifests.
///
/// # Errors
/// Anything that the registry refuses. What was written until then is repeated by the next call, and named by no tag of the image.
pub fn attach(
    client: &Client,
    repository: &Repository,
    subject: &Descriptor,
    artifacts: &[Artifact],
) -> Result<Vec<Descriptor>, Fault> {
    if artifacts.is_empty() {
        return Ok(Vec::new());
    }
    put(client, repository, subject, artifacts).map_err(|fault| {
        fault
            .needed_by(format!("what the steps attach to `{}`", repository.digest(subject.digest)))
            .hint("no tag of the image was moved; run this again")
    })
}

fn put(
    client: &Client,
    repository: &Repository,
    subject: &Descriptor,
    artifacts: &[Artifact],
) -> Result<Vec<Descriptor>, Fault> {
    let mut blobs: BTreeMap<Digest, Vec<u8>> = BTreeMap::new();
    for artifact in artifacts {
        for blob in artifact.documents.iter().chain(&artifact.config) {
            blobs.insert(Digest::of(&blob.bytes), blob.bytes.clone());
        }
        if artifact.config.is_none() {
            blobs.insert(Digest::of(b"{}"), b"{}".to_vec());
        }
    }
    let blobs: Vec<(Digest, Vec<u8>)> = blobs.into_iter().collect();
    some_at_once(AT_ONCE, &blobs, |(digest, bytes)| {
        // To ask for a short document that is nearly always new costs more than to send it.
        if client.just_saw_blob(repository, digest) {
            return Ok(());
        }
        client.upload(repository, digest, bytes.len() as u64, bytes)?;
        client.saw_blob(repository, digest);
        Ok(())
    })?;
    let subject = Descriptor::new(&subject.media_type, subject.digest, subject.size);
    // Those of one tag are added to each other.
    let mut groups: Vec<Vec<&Artifact>> = Vec::new();
    for artifact in artifacts {
        let same = |group: &&mut Vec<&Artifact>| artifact.suffix.is_some() && group[0].suffix == artifact.suffix;
        match groups.iter_mut().find(same) {
            Some(group) => group.push(artifact),
            None => groups.push(vec![artifact]),
        }
    }
    let write = |artifact: &&Artifact| write(client, repository, &subject, artifact);
    let written =
        some_at_once(AT_ONCE, &groups, |group| group.iter().map(write).collect::<Result<Vec<_>, Fault>>())?.concat();
    let (listed, unlisted): (Vec<_>, Vec<_>) = written.iter().cloned().partition(|(_, listed)| *listed);
    let descriptors = |some: Vec<(Descriptor, bool)>| some.into_iter().map(|(descriptor, _)| descriptor).collect();
    let (listed, unlisted): (Vec<Descriptor>, Vec<Descriptor>) = (descriptors(listed), descriptors(unlisted));
    list(client, repository, &subject.digest, &unlisted)?;
    replace(client, repository, &subject.digest, &listed)?;
    Ok(descriptors(written))
}

/// Writes the manifest of an artifact. True if the registry lists it by itself.
fn write(
    client: &Client,
    repository: &Repository,
    subject: &Descriptor,
    artifact: &Artifact,
) -> Result<(Descriptor, bool), Fault> {
    let manifest = manifest(client, repository, subject, artifact)?;
    let bytes = serde_json::to_vec(&manifest).expect("a manifest is valid JSON");
    let digest = Digest::of(&bytes);
    let listed = match artifact.suffix {
        None => client.put_with_subject(repository, digest, media_type::MANIFEST, &bytes)?.1,
        Some(suffix) => {
            let tag = tag_of(&subject.digest, Some(suffix));
            client.put_with_subject(repository, tag, media_type::MANIFEST, &bytes)?.1
        }
    };
    let mut descriptor = Descriptor::new(media_type::MANIFEST, digest, bytes.len() as u64);
    descriptor.annotations = artifact.annotations.clone();
    descriptor.other.insert("artifactType".to_owned(), artifact.artifact_type.clone().into());
    Ok((descriptor, listed))
}

fn manifest(
    client: &Client,
    repository: &Repository,
    subject: &Descriptor,
    artifact: &Artifact,
) -> Result<Manifest, Fault> {
    let config = match &artifact.config {
        Some(config) => config.descriptor(),
        None => Descriptor::new(EMPTY, Digest::of(b"{}"), 2),
    };
    let mut layers: Vec<Descriptor> = Vec::new();
    if let Some(suffix) = artifact.suffix
        && let Answer::Present(found) = client.manifest(repository, tag_of(&subject.digest, Some(suffix)))?
    {
        let before: Manifest = publish::document(&found.bytes, &repository.digest(found.digest))?;
        // A newer statement of a kind replaces the older one, as with `cosign attest --replace`.
        let kind = |layer: &Descriptor| layer.annotations.get(signature::PREDICATE_TYPE).cloned();
        let ours: Vec<Descriptor> = artifact.documents.iter().map(Blob::descriptor).collect();
        let stays = |layer: &Descriptor| {
            !ours.contains(layer)
                && kind(layer).is_none_or(|kind_of| ours.iter().all(|our| kind(our).as_ref() != Some(&kind_of)))
        };
        layers.extend(before.layers.into_iter().filter(stays));
    }
    layers.extend(artifact.documents.iter().map(Blob::descriptor));
    let mut manifest = Manifest::new(config, layers);
    manifest.annotations = artifact.annotations.clone();
    manifest.other.insert("artifactType".to_owned(), artifact.artifact_type.clone().into());
    manifest.other.insert("subject".to_owned(), serde_json::to_value(subject).expect("a descriptor is valid JSON"));
    Ok(manifest)
}

/// Deletes what these take the place of, in a registry that lists referrers itself. Where it refuses to delete, that is said: the image
/// then has two of a kind.
fn replace(client: &Client, repository: &Repository, subject: &Digest, listed: &[Descriptor]) -> Result<(), Fault> {
    if !listed.iter().any(is_single) {
        return Ok(());
    }
    for had in client.referrers(repository, subject, None)? {
        if !is_replaced(&had.digest, had.artifact_type.as_deref(), listed) {
            continue;
        }
        process::interrupted()?;
        if let Err(fault) = client.delete_manifest(repository, had.digest) {
            let what = repository.digest(had.digest);
            terminal::warn(&format!(
                "`{what}` was replaced and stays attached: `verify` refuses the image until it is deleted"
            ));
            fault.causes.iter().for_each(|cause| terminal::detail(cause));
        }
    }
    Ok(())
}

/// Adds manifests to the index of the fallback tag, where the registry does not list them itself.
pub(super) fn list(
    client: &Client,
    repository: &Repository,
    subject: &Digest,
    unlisted: &[Descriptor],
) -> Result<(), Fault> {
    if unlisted.is_empty() {
        return Ok(());
    }
    let tag = tag_of(subject, None);
    // A registry cannot compare and swap: each job reads back what it wrote, until its own manifests are listed.
    const ROUNDS: usize = 5;
    for _ in 0..ROUNDS {
        process::interrupted()?;
        let mut index = match client.manifest(repository, &tag)? {
            Answer::Present(found) => publish::document(&found.bytes, &repository.tag(&tag))?,
            Answer::Absent => Index::new(Vec::new()),
        };
        let missing: Vec<&Descriptor> =
            unlisted.iter().filter(|one| index.manifests.iter().all(|had| had.digest != one.digest)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        index.manifests.retain(|had| !is_replaced(&had.digest, artifact_type(had), unlisted));
        index.manifests.extend(missing.into_iter().cloned());
        let bytes = serde_json::to_vec(&index).expect("an index is valid JSON");
        client.put_manifest(repository, &tag, media_type::INDEX, &bytes)?;
    }
    match client.manifest(repository, &tag)? {
        Answer::Present(found) => {
            let index: Index = publish::document(&found.bytes, &repository.tag(&tag))?;
            let listed = |one: &Descriptor| index.manifests.iter().any(|had| had.digest == one.digest);
            if unlisted.iter().all(listed) {
                return Ok(());
            }
        }
        Answer::Absent => {}
    }
    Err(Fault::network(format!("cannot list referrers under `{}`", repository.tag(&tag)))
        .cause("other jobs kept moving the same tag"))
}

/// True for artifacts of which an image has one.
fn is_single(artifact: &Descriptor) -> bool {
    let kind = artifact_type(artifact).unwrap_or_default();
    [signature::SIGNATURES, signature::ATTESTATIONS].contains(&kind) || supply::SBOMS.contains(&kind)
}

/// Returns true if one of the new artifacts replaces an older one: a signature that was added to has lost its tag, or an SBOM was made
/// again.
fn is_replaced(had: &Digest, kind: Option<&str>, new: &[Descriptor]) -> bool {
    new.iter().all(|one| one.digest != *had) && new.iter().any(|one| is_single(one) && artifact_type(one) == kind)
}

fn artifact_type(artifact: &Descriptor) -> Option<&str> {
    artifact.other.get("artifactType")?.as_str()
}

/// An artifact as it was read: every document is the one that its digest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub artifact_type: String,
    pub documents: Vec<Blob>,
    pub config: Blob,
}

/// Longest document that is read, in bytes.
const LONGEST: u64 = 64 << 20;

/// The artifacts of a type that are attached to a manifest, the newest last.
pub fn find(
    client: &Client,
    repository: &Repository,
    subject: &Digest,
    artifact_type: &str,
) -> Result<Vec<Attached>, Fault> {
    let listed = client.referrers(repository, subject, Some(artifact_type))?;
    listed.iter().map(|referrer: &Referrer| read(client, repository, referrer.digest, artifact_type)).collect()
}

/// The artifact under cosign's tag of a digest.
pub fn find_tagged(
    client: &Client,
    repository: &Repository,
    subject: &Digest,
    suffix: &str,
) -> Result<Option<Attached>, Fault> {
    match client.head(repository, tag_of(subject, Some(suffix)))? {
        Answer::Present(found) => read(client, repository, found.digest, "").map(Some),
        Answer::Absent => Ok(None),
    }
}

fn read(client: &Client, repository: &Repository, digest: Digest, artifact_type: &str) -> Result<Attached, Fault> {
    let manifest = publish::read_manifest(client, repository, digest)?;
    let blob = |descriptor: &Descriptor| -> Result<Blob, Fault> {
        let size = descriptor.size.min(LONGEST);
        let bytes = client.blob_bytes(repository, &descriptor.digest, size)?.present().ok_or_else(|| {
            Fault::network(format!(
                "`{}` is attached to an image but missing from the registry",
                repository.digest(descriptor.digest)
            ))
        })?;
        Ok(Blob { media_type: descriptor.media_type.clone(), bytes, annotations: descriptor.annotations.clone() })
    };
    Ok(Attached {
        artifact_type: artifact_type.to_owned(),
        documents: manifest.layers.iter().map(blob).collect::<Result<_, _>>()?,
        config: blob(&manifest.config)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_tags() {
        let digest = Digest::of(b"x");
        assert_eq!(tag_of(&digest, None).as_str(), format!("sha256-{}", digest.hex()));
        assert_eq!(tag_of(&digest, Some("sig")).as_str(), format!("sha256-{}.sig", digest.hex()));
    }
}
