//! Records of the tags that move: for which commit each was put where it is.
//!
//! An image names the commit that it was built from first. A later commit of the same contents has the same image, so `latest`
//! may be of a later commit than its image says, and whoever moves it has to know of which one. The record is the image's index
//! once more, with annotations and under a tag of its own: no registry refuses that, and nothing has to be sent for it. It counts
//! only while the tag names the digest in it.

use super::Published;
use crate::registry::{Answer, Client};
use crate::terminal;
use xtask_model::fault::Fault;
use xtask_model::image::tags::{self, TagRecord, TaggedCommit};
use xtask_model::spec::oci::{Index, media_type};
use xtask_model::spec::reference::{Repository, Tag};

const DIGEST: &str = "dev.xtask.tag.digest";
const COMMIT: &str = "dev.xtask.tag.commit";
const ROLLED_BACK: &str = "dev.xtask.tag.rolled-back";

/// True if a tag is that of a record.
pub fn is(tag: &Tag) -> bool {
    tag.as_str().starts_with(tags::RECORD_PREFIX)
}

pub fn read(client: &Client, repository: &Repository, tag: &Tag) -> Result<Option<TagRecord>, Fault> {
    let Answer::Present(found) = client.manifest(repository, tags::record_tag(tag))? else { return Ok(None) };
    let mark = serde_json::from_slice::<Index>(&found.bytes).ok().and_then(|index| parse(&index));
    if mark.is_none() {
        terminal::warn(&format!(
            "`{}` is not a record that this version can read",
            repository.tag(&tags::record_tag(tag))
        ));
    }
    Ok(mark)
}

fn parse(index: &Index) -> Option<TagRecord> {
    let text = |name: &str| index.annotations.get(name);
    let since = TaggedCommit { commit: text(COMMIT)?.clone(), rolled_back: text(ROLLED_BACK).is_some() };
    Some(TagRecord { digest: text(DIGEST)?.parse().ok()?, since })
}

/// Writes the record of a tag that names this image, before the tag is moved there: until then it counts for nothing.
pub fn write(
    client: &Client,
    repository: &Repository,
    tag: &Tag,
    image: &Published,
    since: &TaggedCommit,
) -> Result<(), Fault> {
    let mut index = Index::new(match &image.index {
        Some(index) => index.manifests.clone(),
        None => image.platforms.values().cloned().collect(),
    });
    let mut note = |name: &str, value: String| drop(index.annotations.insert(name.to_owned(), value));
    note(DIGEST, image.digest.to_string());
    note(COMMIT, since.commit.clone());
    if since.rolled_back {
        note(ROLLED_BACK, "true".to_owned());
    }
    let bytes = serde_json::to_vec(&index).expect("an index is JSON");
    client.put_manifest(repository, tags::record_tag(tag), media_type::INDEX, &bytes).map(drop)
}
