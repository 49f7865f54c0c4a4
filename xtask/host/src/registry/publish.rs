//! Images in a registry: reading what a tag names, and publishing.
//!
//! The order is always blobs, manifest, index, fingerprint tag, other tags, `latest`: whatever ends a build early, no tag
//! names something that is not whole. A tag is read again right before it is written, so the loser of a race adopts the
//! winner's digest.

pub mod completeness;
pub mod parts;
pub mod records;
pub mod wheels;

use crate::registry::{self, Answer, Client, Name, RawManifest};
use crate::{process, terminal};
use std::collections::BTreeMap;
use xtask_model::fault::Fault;
use xtask_model::image::key::{FINGERPRINT_LABEL, Fingerprint, KEY_LABEL};
use xtask_model::image::presence::{BUILT, CHECKED, Published};
use xtask_model::record::ledger;
use xtask_model::spec::oci::{self, Config, Descriptor, DescriptorPlatform, Index, Manifest, annotation, media_type};
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository, Tag};

/// The annotation with the time at which this platform's image was built.
pub fn built(platform: &Platform) -> String {
    format!("{BUILT}{}", platform.dashed())
}

/// The annotation that says where this platform's image has the record of its import check.
pub fn checked(platform: &Platform) -> String {
    format!("{CHECKED}{}", platform.dashed())
}

/// Reads the image of a name. An image that exists and cannot be read is an error, not absent.
pub fn read(client: &Client, repository: &Repository, name: impl Into<Name>) -> Result<Answer<Published>, Fault> {
    match client.manifest(repository, name)? {
        Answer::Present(found) => understood(client, repository, found).map(Answer::Present),
        Answer::Absent => Ok(Answer::Absent),
    }
}

/// The same for an image that has to exist: as this client has read or written it before, or else as the registry has it.
pub fn read_as_known(client: &Client, repository: &Repository, digest: Digest) -> Result<Published, Fault> {
    match client.manifest_as_known(repository, digest)? {
        Answer::Present(found) => understood(client, repository, found),
        Answer::Absent => Err(Fault::network(format!("`{}` is missing from the registry", repository.digest(digest)))),
    }
}

fn understood(client: &Client, repository: &Repository, found: RawManifest) -> Result<Published, Fault> {
    if media_type::is_index(&found.media_type) {
        let index: Index = document(&found.bytes, &repository.digest(found.digest))?;
        let mut platforms = BTreeMap::new();
        for descriptor in &index.manifests {
            if let Some(platform) = descriptor.platform.as_ref().and_then(DescriptorPlatform::platform) {
                platforms.entry(platform).or_insert_with(|| descriptor.clone());
            }
        }
        let mut notes = index.annotations.clone();
        if !notes.contains_key(FINGERPRINT_LABEL) {
            // Not ours, or pushed by a plain docker: the image itself may still say what it is.
            if let Some(descriptor) = platforms.values().next() {
                for (name, value) in manifest_notes(client, repository, descriptor)? {
                    notes.entry(name).or_insert(value);
                }
            }
        }
        return Ok(Published::new(found.digest, platforms, notes, Some(index)));
    }
    let manifest: Manifest = document(&found.bytes, &repository.digest(found.digest))?;
    let config = read_config(client, repository, &manifest)?;
    let mut descriptor = Descriptor::new(found.media_type, found.digest, found.bytes.len() as u64);
    let platform = config_platform(&config, &repository.digest(found.digest))?;
    descriptor = descriptor.with_platform(&platform);
    let mut notes = config.config.labels;
    notes.extend(manifest.annotations);
    let platforms = BTreeMap::from([(platform, descriptor)]);
    Ok(Published::new(found.digest, platforms, notes, None))
}

pub(super) fn document<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &Reference) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(|error| Fault::network(format!("cannot read `{what}`")).cause(error))
}

/// Reads a manifest's contents: those that this client has seen before, without asking whether the registry still has them.
pub fn read_manifest(client: &Client, repository: &Repository, digest: Digest) -> Result<Manifest, Fault> {
    client.early.note_document(repository, digest);
    if let Some(bytes) = client.document(repository, digest) {
        return document(&bytes, &repository.digest(digest));
    }
    match client.manifest(repository, digest)? {
        Answer::Present(found) => document(&found.bytes, &repository.digest(digest)),
        Answer::Absent => Err(Fault::network(format!(
            "`{}` is in the index but missing from the registry",
            repository.digest(digest)
        ))
        .hint("rebuild it: `--force`")),
    }
}

/// The manifest of an image, or of the first image of an index.
pub fn first_manifest(client: &Client, repository: &Repository, found: &RawManifest) -> Result<Manifest, Fault> {
    let name = repository.digest(found.digest);
    if !media_type::is_index(&found.media_type) {
        return document(&found.bytes, &name);
    }
    let index: Index = document(&found.bytes, &name)?;
    match index.manifests.first() {
        Some(first) => read_manifest(client, repository, first.digest),
        None => Err(Fault::network(format!("`{name}` lists no image"))),
    }
}

/// Keys make configurations large; what is larger than this, in bytes, is none.
const CONFIG_LIMIT: u64 = 8 << 20;

pub fn read_config(client: &Client, repository: &Repository, manifest: &Manifest) -> Result<Config, Fault> {
    let digest = manifest.config.digest;
    client.early.note_config(repository, digest);
    if let Some(bytes) = client.document(repository, digest) {
        return document(&bytes, &repository.digest(digest));
    }
    match client.blob_bytes(repository, &digest, CONFIG_LIMIT)? {
        Answer::Present(bytes) => {
            client.remember_document(repository, digest, &bytes);
            document(&bytes, &repository.digest(digest))
        }
        Answer::Absent => {
            Err(Fault::network(format!("config `{digest}` is not in `{repository}`")).hint("rebuild it: `--force`"))
        }
    }
}

fn manifest_notes(
    client: &Client,
    repository: &Repository,
    descriptor: &Descriptor,
) -> Result<BTreeMap<String, String>, Fault> {
    let manifest = read_manifest(client, repository, descriptor.digest)?;
    let mut notes = read_config(client, repository, &manifest)?.config.labels;
    notes.extend(manifest.annotations);
    Ok(notes)
}

fn config_platform(config: &Config, what: &Reference) -> Result<Platform, Fault> {
    let variant = config.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
    format!("{}/{}{variant}", config.os, config.architecture)
        .parse()
        .map_err(|error| Fault::network(format!("cannot read the platform of `{what}`")).cause(error))
}

/// The tag under which an engine pushes one platform's manifest, before it is part of an index.
pub fn platform_tag(fingerprint: &Tag, platform: &Platform) -> Tag {
    Tag::from_name(&format!("{fingerprint}-{}", platform.dashed())).expect("a tag with a suffix is a tag")
}

/// Refuses an image whose tag is this fingerprint's and whose label is another's.
pub fn check_owner(found: &Published, fingerprint: &Fingerprint, reference: &Reference) -> Result<(), Fault> {
    match found.fingerprint() {
        Some(theirs) if theirs == *fingerprint => Ok(()),
        theirs => {
            let cause = match theirs {
                Some(theirs) => format!("its fingerprint is {theirs}, this tree's is {fingerprint}"),
                None => format!("it carries no label `{FINGERPRINT_LABEL}`: another tool pushed it"),
            };
            Err(Fault::drift(format!("`{reference}` names another image"))
                .cause(cause)
                .hint("remove that tag from the registry, or raise `[base] tag-length` in `images.toml`"))
        }
    }
}

pub struct Publication<'a> {
    pub repository: &'a Repository,
    pub fingerprint: Fingerprint,
    pub tag: Tag,
    /// Manifests (or indexes with attestations) that are in the repository already, by platform.
    pub built: BTreeMap<Platform, Digest>,
    pub notes: BTreeMap<String, String>,
    /// Replaces an existing image (`--force`).
    pub replace: bool,
}

pub struct PublishOutcome {
    pub published: Published,
    /// Platforms for which another job's image came first and was taken.
    pub adopted: Vec<Platform>,
}

/// Adds manifests to the index of the fingerprint's tag.
pub fn publish(client: &Client, publication: &Publication<'_>) -> Result<PublishOutcome, Fault> {
    publish_with(client, publication, &|_| Ok(()))
}

/// The same; `before` is called with each index right before the tag names it, and attaches to it what belongs there.
pub fn publish_with(
    client: &Client,
    publication: &Publication<'_>,
    before: &dyn Fn(&Descriptor) -> Result<(), Fault>,
) -> Result<PublishOutcome, Fault> {
    let Publication { repository, fingerprint, tag, built, .. } = publication;
    let reference = repository.tag(tag);
    let (mut ours, mut pushed) = (BTreeMap::new(), BTreeMap::new());
    for (platform, digest) in built {
        let (listed, manifest) = descriptors(client, repository, platform, *digest)?;
        ours.insert(platform.clone(), listed);
        pushed.insert(*digest, manifest);
    }
    // A registry cannot compare and swap. Two jobs that add different platforms at one moment may each write an index
    // without the other's: so each reads back what it wrote, and adds itself again until it is listed.
    const ROUNDS: usize = 5;
    for _ in 0..ROUNDS {
        process::interrupted()?;
        let mut existing = read(client, repository, tag.clone())?.present();
        if let Some(found) = &mut existing {
            check_owner(found, fingerprint, &reference)?;
            crate::registry::publish::completeness::check(found, client, repository)?;
        }
        let (index, adopted) = merge(existing.as_ref(), &ours, publication);
        if let Some(found) = &existing
            && adopted.len() == ours.len()
            && found.broken.is_empty()
        {
            keep_children(client, publication, found, &pushed)?;
            // What was built once more to the same bytes is nobody else's.
            let others = |platform: &Platform| found.platforms[platform].digest != built[platform];
            let adopted = adopted.into_iter().filter(others).collect();
            return Ok(PublishOutcome { published: found.clone(), adopted });
        }
        let bytes = serde_json::to_vec(&index).expect("an index is JSON");
        before(&Descriptor::new(media_type::INDEX, Digest::of(&bytes), bytes.len() as u64))?;
        client.put_manifest(repository, tag.clone(), media_type::INDEX, &bytes).map_err(|fault| {
            match existing.is_some() && is_immutable(&fault) {
                true => fault.hint(WHOLE),
                false => fault,
            }
        })?;
        let Answer::Present(written) = read(client, repository, tag.clone())? else { continue };
        let whole = ours.keys().all(|platform| written.platforms.contains_key(platform));
        if whole {
            keep_children(client, publication, &written, &pushed)?;
            return Ok(PublishOutcome { published: written, adopted });
        }
    }
    Err(Fault::network(format!("cannot publish `{reference}`"))
        .cause("other jobs kept moving the same tag")
        .hint("run this again"))
}

/// Gives the manifests of our platforms tags of their own. Many registries are cleaned by deleting what has none, and the index
/// would stay behind without its images.
fn keep_children(
    client: &Client,
    publication: &Publication<'_>,
    published: &Published,
    pushed: &BTreeMap<Digest, registry::RawManifest>,
) -> Result<(), Fault> {
    let ours = published.platforms.iter().filter(|(platform, _)| publication.built.contains_key(*platform));
    for (platform, descriptor) in ours {
        process::interrupted()?;
        let own = platform_tag(&publication.tag, platform);
        // The image is whole without it, and a registry whose tags never move may have another under it.
        let repository = publication.repository;
        let tagged = match pushed.get(&descriptor.digest) {
            Some(found) => client.put_manifest(repository, &own, &found.media_type, &found.bytes).map(drop),
            None => tag(client, repository, descriptor.digest, &own).map(drop),
        };
        if let Err(fault) = tagged {
            terminal::detail(&format!("{}: the tag only protects the manifest from clean-ups", fault.what));
        }
    }
    Ok(())
}

/// The descriptors that one platform's result brings: its manifest, and its attestations if there are any.
fn descriptors(
    client: &Client,
    repository: &Repository,
    platform: &Platform,
    digest: Digest,
) -> Result<(Vec<Descriptor>, registry::RawManifest), Fault> {
    let Answer::Present(found) = client.manifest_as_known(repository, digest)? else {
        return Err(Fault::network(format!(
            "`{}` was pushed but is missing from the registry",
            repository.digest(digest)
        ))
        .hint("run this again; if it persists, the registry loses manifests"));
    };
    if media_type::is_index(&found.media_type) {
        return Ok((document::<Index>(&found.bytes, &repository.digest(digest))?.manifests, found));
    }
    let descriptor = Descriptor::new(found.media_type.as_str(), found.digest, found.bytes.len() as u64);
    Ok((vec![descriptor.with_platform(platform)], found))
}

/// The merged index, and the built platforms that it already had.
fn merge(
    existing: Option<&Published>,
    ours: &BTreeMap<Platform, Vec<Descriptor>>,
    publication: &Publication<'_>,
) -> (Index, Vec<Platform>) {
    let mut manifests = Vec::new();
    let mut adopted = Vec::new();
    let mut notes = publication.notes.clone();
    if let Some(found) = existing {
        let listed = match &found.index {
            Some(index) => index.manifests.clone(),
            None => found.platforms.values().cloned().collect(),
        };
        // What has lost a part goes from the index, whether it is built now or by its own platform's job.
        let mut replaced = found.broken.clone();
        if publication.replace {
            replaced.extend(ours.keys().filter_map(|platform| Some(found.platforms.get(platform)?.digest)));
        }
        // An attestation goes with the manifest it is about.
        manifests.extend(listed.into_iter().filter(|d| {
            !replaced.contains(&d.digest) && completeness::about(d).is_none_or(|subject| !replaced.contains(&subject))
        }));
        if publication.replace {
            // The builds of the platforms that stay are not undone by this one.
            let stay = found.platforms.keys().filter(|platform| !ours.contains_key(*platform));
            let stay = stay.flat_map(|platform| [ledger::annotation(platform), built(platform), checked(platform)]);
            notes.extend(stay.filter_map(|name| found.notes.get_key_value(&name)).map(|(k, v)| (k.clone(), v.clone())));
        } else {
            // The first to publish says what it was built from.
            notes.extend(found.index.as_ref().map(|index| index.annotations.clone()).unwrap_or_default());
            adopted = ours.keys().filter(|platform| found.platforms.contains_key(*platform)).cloned().collect();
        }
    }
    for (platform, descriptors) in ours {
        if !adopted.contains(platform) {
            manifests.extend(descriptors.iter().cloned());
        }
    }
    let mut index = Index::new(manifests);
    index.annotations = notes;
    (index, adopted)
}

/// Tags an existing manifest, unless the tag already names it. Returns whether the tag moved.
pub fn tag(client: &Client, repository: &Repository, digest: Digest, tag: &Tag) -> Result<bool, Fault> {
    if let Answer::Present(head) = client.head(repository, tag.clone())?
        && head.digest == digest
    {
        return Ok(false);
    }
    move_tag(client, repository, digest, tag).map(|()| true)
}

/// Tags an existing manifest, whatever the tag names now.
pub fn move_tag(client: &Client, repository: &Repository, digest: Digest, tag: &Tag) -> Result<(), Fault> {
    let Answer::Present(found) = client.manifest_as_known(repository, digest)? else {
        return Err(Fault::network(format!("`{}` is missing from the registry", repository.digest(digest))));
    };
    client.put_manifest(repository, tag.clone(), &found.media_type, &found.bytes).map(drop)
}

const WHOLE: &str = "this registry's tags are immutable: publish all platforms by one command, `cargo xtask build --push`; \
     a build with `--force` needs another `[base] epoch` in `images.toml`";

/// True if a registry refuses to write a tag because it exists, and its tags never move: Amazon ECR, Google Artifact Registry,
/// Harbor and others can be set so. The specification has no code for it, so their words are looked at.
pub fn is_immutable(fault: &Fault) -> bool {
    let said = |cause: &String| {
        let cause = cause.to_ascii_lowercase();
        ["immutab", "cannot be overwritten", "imagetagalreadyexists"].iter().any(|words| cause.contains(words))
    };
    fault.causes.iter().any(said)
}

/// A key longer than this is left out of an index: registries take no more than 4 MiB of one, and a text within JSON grows by its
/// quotes. Images are found by fingerprint; only `explain` has nothing to compare then.
const KEY_LIMIT: usize = 1 << 20;

/// The annotations of an index, as the image specification names them.
pub fn notes(fingerprint: &Fingerprint, key: String, labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut notes = labels.clone();
    notes.insert(FINGERPRINT_LABEL.to_owned(), fingerprint.to_string());
    if key.len() <= KEY_LIMIT {
        notes.insert(KEY_LABEL.to_owned(), key);
    }
    notes
}

/// Sends an image of a layout to a repository under a tag: blobs first, then the manifest. Blobs that the repository has are not sent.
pub fn send(
    client: &Client,
    layout: &crate::registry::layout::Layout,
    image: &Descriptor,
    repository: &Repository,
    tag: &Tag,
) -> Result<(), Fault> {
    let manifest: oci::Manifest = layout.read_json(image)?;
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        process::interrupted()?;
        if !client.has_blob(repository, &blob.digest)? {
            client.upload(repository, &blob.digest, blob.size, &layout.blob_path(&blob.digest))?;
        }
    }
    client.put_manifest(repository, tag.clone(), &image.media_type, &layout.read_bytes(image)?)?;
    Ok(())
}

/// The base digest in the labels of a manifest's image.
pub fn base_digest(client: &Client, repository: &Repository, descriptor: &Descriptor) -> Result<Option<Digest>, Fault> {
    let notes = manifest_notes(client, repository, descriptor)?;
    Ok(notes.get(annotation::BASE_DIGEST).and_then(|text| text.parse().ok()))
}

/// The labels that name an image's base, as the image specification spells them.
pub fn base_labels(labels: &mut BTreeMap<String, String>, name: &str, digest: &Digest) {
    labels.insert(annotation::BASE_NAME.to_owned(), name.to_owned());
    labels.insert(annotation::BASE_DIGEST.to_owned(), digest.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_with_immutable_tags_is_known_by_its_words() {
        let says = |cause: &str| is_immutable(&Fault::network("cannot write the manifest").cause(cause));
        for cause in [
            "answered 400 Bad Request (TAG_INVALID: The image tag 'main' already exists in the 'app' repository and cannot be \
             overwritten because the tag is immutable.)",
            "answered 400 (ImageTagAlreadyExistsException)",
            "answered 412 (PRECONDITION: Failed to process request due to 'app:main' configured as immutable.)",
            "answered 400 (DENIED: cannot update tag main. The repository has enabled tag immutability)",
        ] {
            assert!(says(cause), "{cause}");
        }
        assert!(!says("answered 403 Forbidden (DENIED: requested access to the resource is denied)"));
    }

    #[test]
    fn a_key_that_no_registry_would_take_is_left_out() {
        let fingerprint: Fingerprint = "0".repeat(64).parse().unwrap();
        let of = |length: usize| notes(&fingerprint, "k".repeat(length), &BTreeMap::new());
        assert_eq!(of(KEY_LIMIT)[KEY_LABEL].len(), KEY_LIMIT);
        let without = of(KEY_LIMIT + 1);
        assert_eq!(without.keys().collect::<Vec<_>>(), [FINGERPRINT_LABEL]);
    }
}
