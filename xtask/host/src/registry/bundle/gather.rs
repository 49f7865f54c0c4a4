//! Finds everything that belongs to images in a registry.

use super::{Document, Part, short, tags_of};
use crate::process;
use crate::registry::parallel::some_at_once;
use crate::registry::{Answer, Client};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use xtask_model::fault::Fault;
use xtask_model::spec::reference::{Digest, Reference, Repository, Tag};

/// Manifests asked for at once.
const AT_ONCE: usize = 8;

/// Images and where they are.
#[derive(Debug, Default)]
pub struct Selected {
    /// By the last part of the repository's name.
    pub(super) parts: BTreeMap<String, (Repository, Part)>,
}

impl Selected {
    /// Reads every manifest of the images.
    ///
    /// # Errors
    /// An image is missing, or two repositories have the same last part.
    pub fn read(client: &Client, images: &[Reference]) -> Result<Self, Fault> {
        let mut selected = Self::default();
        for image in images {
            let name = short(image);
            let (repository, part) =
                selected.parts.entry(name.clone()).or_insert_with(|| (image.repository.clone(), Part::default()));
            if *repository != image.repository {
                return Err(Fault::usage(format!(
                    "`{repository}` and `{}` are both called `{name}`",
                    image.repository
                ))
                .hint("make a bundle of each"));
            }
            let tag = image.tag.clone().unwrap_or_else(Tag::latest);
            let digest = match image.digest {
                Some(digest) => digest,
                None => client.head(&image.repository, tag.clone())?.present().ok_or_else(|| absent(image))?.digest,
            };
            if image.digest.is_none() || image.tag.is_some() {
                part.tags.insert(tag.to_string(), digest);
            }
            follow(client, repository, part, vec![digest])?;
        }
        Ok(selected)
    }
}

fn absent(image: &Reference) -> Fault {
    Fault::network(format!("`{image}` is not in the registry"))
}

/// Reads manifests, and whatever is listed by them or attached to them.
fn follow(client: &Client, repository: &Repository, part: &mut Part, from: Vec<Digest>) -> Result<(), Fault> {
    let mut open = from;
    while !open.is_empty() {
        process::interrupted()?;
        open.sort();
        open.dedup();
        open.retain(|digest| !part.documents.contains_key(digest));
        let read = some_at_once(AT_ONCE, &open, |digest| one(client, repository, *digest))?;
        let mut next = Vec::new();
        for (digest, (document, tags, attached)) in open.iter().zip(read) {
            next.extend(document.lists.iter().copied());
            next.extend(attached);
            next.extend(tags.values().copied());
            part.tags.extend(tags);
            part.documents.insert(*digest, document);
        }
        open = next;
    }
    Ok(())
}

/// A manifest, cosign's tags of it, and its referrers.
type Read = (Document, BTreeMap<String, Digest>, Vec<Digest>);

fn one(client: &Client, repository: &Repository, digest: Digest) -> Result<Read, Fault> {
    let Answer::Present(found) = client.manifest(repository, digest)? else {
        return Err(absent(&repository.digest(digest)));
    };
    let document = Document::read(found.bytes, &found.media_type).map_err(|why| {
        Fault::network(format!("cannot read the manifest `{}`", repository.digest(digest))).cause(why)
    })?;
    let mut tags = BTreeMap::new();
    for tag in tags_of(&digest) {
        if let Answer::Present(head) = client.head(repository, tag.clone())? {
            tags.insert(tag.to_string(), head.digest);
        }
    }
    let attached = client.referrers(repository, &digest, None)?;
    Ok((document, tags, attached.into_iter().map(|one| one.digest).collect()))
}

/// Blobs that a registry has, by the last part of the repository's name: the file that `create --since` reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Have {
    version: u32,
    pub(super) blobs: BTreeMap<String, BTreeSet<Digest>>,
}

impl Have {
    /// Reads the file.
    ///
    /// # Errors
    /// Its text is of another kind.
    pub fn parse(text: &str) -> Result<Self, String> {
        let have: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match have.version {
            1 => Ok(have),
            other => Err(format!("its version is {other}, not 1")),
        }
    }

    /// Number of blobs.
    pub fn len(&self) -> usize {
        self.blobs.values().map(BTreeSet::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Lists the blobs of every image in some repositories.
pub fn have(client: &Client, repositories: &[Repository]) -> Result<Have, Fault> {
    let mut have = Have { version: 1, blobs: BTreeMap::new() };
    for repository in repositories {
        let tags = client.tags(repository)?.present().unwrap_or_default();
        let heads = some_at_once(AT_ONCE, &tags, |tag| Ok(client.head(repository, tag.clone())?.present()))?;
        let mut part = Part::default();
        let (mut open, mut seen) =
            (heads.into_iter().flatten().map(|head| head.digest).collect::<Vec<_>>(), BTreeSet::new());
        while !open.is_empty() {
            open.retain(|digest| seen.insert(*digest));
            let read = some_at_once(AT_ONCE, &open, |digest| {
                let Answer::Present(found) = client.manifest(repository, *digest)? else { return Ok(None) };
                // Another kind of document names no blob that a bundle could leave out.
                Ok(Document::read(found.bytes, &found.media_type).ok().map(|document| (*digest, document)))
            })?;
            open = read.iter().flatten().flat_map(|(_, document)| document.lists.clone()).collect();
            part.documents.extend(read.into_iter().flatten());
        }
        let name = short(&Reference { repository: repository.clone(), tag: None, digest: None });
        have.blobs.entry(name).or_default().extend(part.blobs().into_keys());
    }
    Ok(have)
}
