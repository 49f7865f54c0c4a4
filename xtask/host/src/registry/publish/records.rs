//! Records of the tags that move: for which commit each was put where it is.
//!
//! An image names the commit that it was built from first. A later commit of the same contents has the same image, so `latest`
//! may be of a later commit than its image says, and whoever moves it has to know of which one. The record is the image's index
//! once more, with annotations and under a tag of its own: no registry refuses that, and nothing has to be sent for it. It counts
//! only while the tag names a digest in it. A job announces its move in the same form, under another tag, so that jobs of other
//! commits see it.

use super::Published;
use crate::registry::{Answer, Client};
use crate::terminal;
use xtask_model::fault::Fault;
use xtask_model::image::tags::moving::Move;
use xtask_model::image::tags::{self, TagRecord, TaggedCommit};
use xtask_model::spec::oci::{Index, media_type};
use xtask_model::spec::reference::{Digest, Repository, Tag};

const DIGEST: &str = "dev.xtask.tag.digest";
const COMMIT: &str = "dev.xtask.tag.commit";
const ROLLED_BACK: &str = "dev.xtask.tag.rolled-back";
/// The same three, of what the tag named before.
const BEFORE: [&str; 3] =
    ["dev.xtask.tag.before.digest", "dev.xtask.tag.before.commit", "dev.xtask.tag.before.rolled-back"];

/// True if a tag is that of a record or an announcement.
pub fn is(tag: &Tag) -> bool {
    tag.as_str().starts_with(tags::RECORD_PREFIX)
}

pub fn read(client: &Client, repository: &Repository, tag: &Tag) -> Result<Option<TagRecord>, Fault> {
    read_at(client, repository, &tags::record_tag(tag))
}

/// The last announcement of a move.
pub fn announced(client: &Client, repository: &Repository, tag: &Tag) -> Result<Option<Move>, Fault> {
    let found = read_at(client, repository, &tags::announcement_tag(tag))?;
    Ok(found.map(|found| Move { digest: found.digest, commit: found.since.commit }))
}

fn read_at(client: &Client, repository: &Repository, place: &Tag) -> Result<Option<TagRecord>, Fault> {
    let Answer::Present(found) = client.manifest(repository, place.clone())? else { return Ok(None) };
    let mark = serde_json::from_slice::<Index>(&found.bytes).ok().and_then(|index| parse(&index));
    if mark.is_none() {
        terminal::warn(&format!("`{}` is not a record that this version can read", repository.tag(place)));
    }
    Ok(mark)
}

fn parse(index: &Index) -> Option<TagRecord> {
    let (digest, since) = entry(index, [DIGEST, COMMIT, ROLLED_BACK])?;
    Some(TagRecord { digest, since, before: entry(index, BEFORE) })
}

fn entry(index: &Index, [digest, commit, rolled_back]: [&str; 3]) -> Option<(Digest, TaggedCommit)> {
    let text = |name: &str| index.annotations.get(name);
    let since = TaggedCommit { commit: text(commit)?.clone(), rolled_back: text(rolled_back).is_some() };
    Some((text(digest)?.parse().ok()?, since))
}

/// Writes the record of a tag that names this image, before the tag is moved there: until then it counts for nothing.
pub fn write(
    client: &Client,
    repository: &Repository,
    tag: &Tag,
    image: &Published,
    since: &TaggedCommit,
) -> Result<(), Fault> {
    let record = TagRecord { digest: image.digest, since: since.clone(), before: None };
    note(client, repository, &tags::record_tag(tag), image, &record)
}

/// Writes a record under `place`, which is [`tags::record_tag`] of a tag, or [`tags::announcement_tag`] for its announcement.
pub fn note(
    client: &Client,
    repository: &Repository,
    place: &Tag,
    image: &Published,
    record: &TagRecord,
) -> Result<(), Fault> {
    let mut index = Index::new(match &image.index {
        Some(index) => index.manifests.clone(),
        None => image.platforms.values().cloned().collect(),
    });
    let mut note = |[digest, commit, rolled_back]: [&str; 3], of: &Digest, since: &TaggedCommit| {
        index.annotations.insert(digest.to_owned(), of.to_string());
        index.annotations.insert(commit.to_owned(), since.commit.clone());
        if since.rolled_back {
            index.annotations.insert(rolled_back.to_owned(), "true".to_owned());
        }
    };
    note([DIGEST, COMMIT, ROLLED_BACK], &record.digest, &record.since);
    if let Some((digest, since)) = &record.before {
        note(BEFORE, digest, since);
    }
    let bytes = serde_json::to_vec(&index).expect("an index is JSON");
    client.put_manifest(repository, place.clone(), media_type::INDEX, &bytes).map(drop)
}
