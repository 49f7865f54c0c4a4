//! Records beside a tag that moves: for which commit it was put where it is.
//!
//! An image names the commit that it was built from first. A later commit of the same contents has the same image, so `latest`
//! may be of a later commit than its image says, and whoever moves it has to know of which one. The record is a manifest without
//! contents under a tag of its own, and counts only while the tag names the digest in it.

use crate::fault::Fault;
use crate::oci::{Descriptor, Manifest, media_type};
use crate::reference::{Digest, Repository, Tag};
use crate::registry::{Answer, Client};
use crate::tags::{self, Since};
use crate::ui;

/// Media type of such a record.
const TYPE: &str = "application/vnd.xtask.tag.v1";

/// Media type of a blob without contents, and the blob (image specification, "Guidance for an Empty Descriptor").
const EMPTY: (&str, &[u8]) = ("application/vnd.oci.empty.v1+json", b"{}");

const DIGEST: &str = "dev.xtask.tag.digest";
const COMMIT: &str = "dev.xtask.tag.commit";
const ROLLED_BACK: &str = "dev.xtask.tag.rolled-back";

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What the tag names while this counts.
    pub digest: Digest,
    /// The commit that it is of.
    pub since: Since,
}

/// Whether a tag is that of a record.
pub fn is(tag: &Tag) -> bool {
    tag.as_str().starts_with(tags::MARK)
}

/// Reads the record of a tag.
pub fn read(client: &Client, repository: &Repository, tag: &Tag) -> Result<Option<Mark>, Fault> {
    let Answer::Present(found) = client.manifest(repository, tags::mark(tag))? else { return Ok(None) };
    let mark = serde_json::from_slice::<Manifest>(&found.bytes).ok().and_then(|manifest| parse(&manifest));
    if mark.is_none() {
        ui::warn(&format!("`{}` is not a record that this version can read", repository.tag(&tags::mark(tag))));
    }
    Ok(mark)
}

fn parse(manifest: &Manifest) -> Option<Mark> {
    let text = |name: &str| manifest.annotations.get(name);
    let since = Since { commit: text(COMMIT)?.clone(), rolled_back: text(ROLLED_BACK).is_some() };
    Some(Mark { digest: text(DIGEST)?.parse().ok()?, since })
}

/// Writes the record of a tag, before the tag is moved: until then it counts for nothing.
pub fn write(client: &Client, repository: &Repository, tag: &Tag, mark: &Mark) -> Result<(), Fault> {
    let empty = Digest::of(EMPTY.1);
    if !client.has_blob(repository, &empty)? {
        client.upload(repository, &empty, EMPTY.1.len() as u64, &EMPTY.1.to_vec())?;
    }
    let descriptor = Descriptor::new(EMPTY.0, empty, EMPTY.1.len() as u64);
    let mut manifest = Manifest::new(descriptor.clone(), vec![descriptor]);
    manifest.other.insert("artifactType".to_owned(), TYPE.into());
    let mut note = |name: &str, value: String| drop(manifest.annotations.insert(name.to_owned(), value));
    note(DIGEST, mark.digest.to_string());
    note(COMMIT, mark.since.commit.clone());
    if mark.since.rolled_back {
        note(ROLLED_BACK, "true".to_owned());
    }
    let bytes = serde_json::to_vec(&manifest).expect("a manifest is JSON");
    client.put_manifest(repository, tags::mark(tag), media_type::MANIFEST, &bytes).map(drop)
}
