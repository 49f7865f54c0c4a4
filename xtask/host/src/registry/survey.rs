//! Reads what a registry has of bases and apps, many questions at a time. Changes nothing.

use crate::registry::parallel::some_at_once;
use crate::registry::publish::{self, records, wheels};
use crate::registry::{Answer, Client};
use std::collections::{BTreeMap, BTreeSet};
use xtask_model::fault::Fault;
use xtask_model::image::bases::{AppSurvey, PublishedApp, PublishedBase, Stored, Stray, Survey, staged};
use xtask_model::image::key::BaseKey;
use xtask_model::image::policy::BUILD_PACKAGES;
use xtask_model::image::presence::{CREATED, Published};
use xtask_model::record::ledger;
use xtask_model::spec::lock::sources::{SourceKey, build_packages};
use xtask_model::spec::oci::Manifest;
use xtask_model::spec::reference::{Digest, Platform, Repository, Tag};
use xtask_model::time::Timestamp;

/// Questions under way at once: enough to hide the way to a registry far away, few enough for its limits.
const AT_ONCE: usize = 12;

pub struct SurveyRequest<'a> {
    pub client: &'a Client,
    pub bases: &'a Repository,
    /// Repositories of the apps on these bases.
    pub apps: &'a [Repository],
    pub platforms: &'a [Platform],
    pub tag_length: usize,
    /// Also list referrers, such as signatures: a deletion takes them with it.
    pub referrers: bool,
}

/// Asks.
///
/// # Errors
/// Whatever the registry cannot answer: a survey is whole or it is none.
pub fn survey(ask: &SurveyRequest<'_>) -> Result<Survey, Fault> {
    let (bases, apps) = std::thread::scope(|scope| {
        let apps = scope.spawn(|| apps(ask));
        (bases(ask), apps.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let SurveyedRepository { bases, strays, wheels } = bases?;
    Ok(Survey { bases, apps: apps?, strays, wheels: built(ask, &wheels)? })
}

/// The artifacts of a repository whose tags count, once for each tag.
pub fn artifacts(
    client: &Client,
    repository: &Repository,
    counts: impl Fn(&Tag) -> bool,
) -> Result<Vec<Stored>, Fault> {
    let mut tags = client.tags(repository)?.present().unwrap_or_default();
    tags.retain(counts);
    let found = at_once(&tags, |tag| {
        let Answer::Present(head) = client.head(repository, tag.clone())? else { return Ok(None) };
        let manifest = publish::read_manifest(client, repository, head.digest)?;
        let created = manifest.annotations.get(CREATED).and_then(|text| text.parse().ok());
        let size = manifest.layers.iter().map(|layer| layer.size).sum();
        Ok(Some(Stored { tag: tag.clone(), digest: head.digest, created, size }))
    })?;
    Ok(found.into_iter().flatten().collect())
}

/// The roots of the images in a repository of bases, by digest, with a tag of a base on each.
pub fn roots(client: &Client, bases: &Repository) -> Result<BTreeMap<Digest, Tag>, Fault> {
    let tagged = tagged_digests(client, bases, |tag| !is_subject(tag) && !wheels::is(tag))?;
    // An image with several tags is read once.
    let images: BTreeSet<Digest> = tagged.iter().map(|(_, digest)| *digest).collect();
    let images: Vec<Digest> = images.into_iter().collect();
    let roots = at_once(&images, |digest| {
        let found = publish::read(client, bases, *digest)?.present();
        Ok(found.map(|found| root_digests(&found)).unwrap_or_default())
    })?;
    let roots: BTreeMap<Digest, Vec<Digest>> = images.into_iter().zip(roots).collect();
    Ok(tagged.iter().flat_map(|(tag, digest)| roots[digest].iter().map(|root| (*root, tag.clone()))).collect())
}

/// Surveys an app's repository in the place of a base's, for a clean-up.
pub fn apps_of(ask: &SurveyRequest<'_>) -> Result<AppSurvey, Fault> {
    let SurveyedRepository { bases: images, strays, .. } = bases(&SurveyRequest { referrers: true, ..*ask })?;
    let tags = ask.client.tags(ask.bases)?.present().unwrap_or_default();
    let heads = at_once(&tags, |tag| {
        // The tag of a signature or of referrers has the digest of its image.
        let subject = tag.as_str().strip_prefix("sha256-").and_then(|rest| rest.get(..64));
        let subject = subject.and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
        let is_orphan = match subject {
            Some(subject) => ask.client.head(ask.bases, subject)? == Answer::Absent,
            None if records::is(tag) => false,
            None => return Ok(None),
        };
        if subject.is_some() && !is_orphan {
            return Ok(None);
        }
        Ok(ask.client.head(ask.bases, tag.clone())?.present().map(|head| (tag.clone(), head.digest)))
    })?;
    let (records, orphans) = heads.into_iter().flatten().partition(|(tag, _)| records::is(tag));
    Ok(AppSurvey { images, strays, orphans, records })
}

/// The wheels that were built from source for bases.
fn built(ask: &SurveyRequest<'_>, found: &[(Tag, Digest)]) -> Result<Vec<Stray>, Fault> {
    at_once(found, |(tag, digest)| {
        let manifest = ask.client.manifest(ask.bases, *digest)?.present();
        let manifest = manifest.and_then(|found| serde_json::from_slice::<Manifest>(&found.bytes).ok());
        let created = manifest.and_then(|manifest| manifest.annotations.get(CREATED)?.parse().ok());
        Ok(Stray { tag: tag.clone(), digest: *digest, created })
    })
}

/// Manifests and tags of one repository of bases.
struct SurveyedRepository {
    bases: Vec<PublishedBase>,
    strays: Vec<Stray>,
    wheels: Vec<(Tag, Digest)>,
}

fn bases(ask: &SurveyRequest<'_>) -> Result<SurveyedRepository, Fault> {
    let (wheels, tagged): (Vec<_>, Vec<_>) =
        tagged_digests(ask.client, ask.bases, |_| true)?.into_iter().partition(|(tag, _)| wheels::is(tag));
    let mut tags: BTreeMap<Digest, Vec<Tag>> = BTreeMap::new();
    let (mut staging, mut subjects) = (Vec::new(), Vec::new());
    for (tag, digest) in tagged {
        match staged(&tag) {
            Some(_) => staging.push((tag, digest)),
            None if is_subject(&tag) => subjects.push((tag, digest)),
            None => tags.entry(digest).or_default().push(tag),
        }
    }
    let tags: Vec<(Digest, Vec<Tag>)> = tags.into_iter().collect();
    let found = at_once(&tags, |(digest, tags)| base(ask, *digest, tags))?;
    let mut bases: Vec<PublishedBase> = found.into_iter().flatten().collect();
    // Newest first; of one moment, by name.
    bases.sort_by_key(|base| (std::cmp::Reverse(base.since()), base.name()));
    for base in &mut bases {
        // Tags of signatures contain their subject's digest.
        let about = |tag: &Tag| base.reachable().any(|digest| tag.as_str()[7..].starts_with(&digest.hex()));
        let signatures: Vec<Digest> =
            subjects.iter().filter(|(tag, _)| about(tag)).map(|(_, digest)| *digest).collect();
        base.parts.extend(signatures);
    }
    let mut strays = Vec::new();
    for (tag, digest) in staging {
        let owner = staged(&tag).and_then(|own| bases.iter_mut().find(|base| base.tags.contains(&own)));
        match owner {
            Some(base) => drop(base.staging.insert(tag, digest)),
            None => strays.push((tag, digest)),
        }
    }
    let strays = at_once(&strays, |(tag, digest)| {
        let created = publish::read(ask.client, ask.bases, *digest)?.present().and_then(|found| created(&found));
        Ok(Stray { tag: tag.clone(), digest: *digest, created })
    })?;
    Ok(SurveyedRepository { bases, strays, wheels })
}

fn base(ask: &SurveyRequest<'_>, digest: Digest, tags: &[Tag]) -> Result<Option<PublishedBase>, Fault> {
    let Answer::Present(found) = publish::read(ask.client, ask.bases, digest)? else { return Ok(None) };
    let (mut sizes, mut lost) = (BTreeMap::new(), Vec::new());
    for descriptor in found.platforms.values() {
        match ask.client.manifest(ask.bases, descriptor.digest)? {
            Answer::Absent => lost.push(descriptor.digest),
            Answer::Present(manifest) => {
                // Other documents have no layers to count.
                let Ok(manifest) = serde_json::from_slice::<Manifest>(&manifest.bytes) else { continue };
                sizes.extend(manifest.layers.iter().chain([&manifest.config]).map(|blob| (blob.digest, blob.size)));
            }
        }
    }
    let mut parts: BTreeSet<Digest> = found.listed().into_iter().collect();
    if ask.referrers {
        for subject in parts.iter().copied().chain([digest]).collect::<Vec<_>>() {
            let referrers = ask.client.referrers(ask.bases, &subject, None)?;
            parts.extend(referrers.into_iter().map(|referrer| referrer.digest));
        }
    }
    let fingerprint = found.fingerprint();
    let own = fingerprint.map(|fingerprint| fingerprint.tag(ask.tag_length));
    Ok(Some(PublishedBase {
        digest,
        tags: tags.to_vec(),
        own_tag: own.filter(|own| tags.contains(own)),
        fingerprint,
        revision: found.revision().map(str::to_owned),
        created: created(&found),
        root: root(&found),
        built: ledger::built(&found),
        size: sizes.values().sum(),
        missing: found.missing(ask.platforms),
        platforms: found.platforms.iter().map(|(platform, found)| (platform.clone(), found.digest)).collect(),
        lost,
        parts,
        staging: BTreeMap::new(),
        wheels: wheels_of(&found),
    }))
}

fn apps(ask: &SurveyRequest<'_>) -> Result<Vec<PublishedApp>, Fault> {
    let mut found = Vec::new();
    for apps in ask.apps {
        found.extend(apps_in(ask, apps)?);
    }
    Ok(found)
}

fn apps_in(ask: &SurveyRequest<'_>, apps: &Repository) -> Result<Vec<PublishedApp>, Fault> {
    let mut tags: BTreeMap<Digest, Vec<Tag>> = BTreeMap::new();
    // An app from scratch has no base.
    let counts = |tag: &Tag| staged(tag).is_none() && !is_subject(tag) && !wheels::is(tag);
    for (tag, digest) in tagged_digests(ask.client, apps, counts)? {
        tags.entry(digest).or_default().push(tag);
    }
    let tags: Vec<(Digest, Vec<Tag>)> = tags.into_iter().collect();
    let found = at_once(&tags, |(digest, tags)| app(ask, apps, (*digest, tags)))?;
    Ok(found.into_iter().flatten().collect())
}

fn app(
    ask: &SurveyRequest<'_>,
    apps: &Repository,
    (digest, tags): (Digest, &[Tag]),
) -> Result<Option<PublishedApp>, Fault> {
    let Answer::Present(found) = publish::read(ask.client, apps, digest)? else { return Ok(None) };
    let mut built_on = BTreeSet::new();
    for descriptor in found.platforms.values() {
        built_on.extend(publish::base_digest(ask.client, apps, descriptor)?);
    }
    let revision = found.revision().unwrap_or_default();
    let fingerprint = found.fingerprint().map(|fingerprint| fingerprint.to_string()).unwrap_or_default();
    // A tag that only repeats what the image is keeps nothing alive.
    let marks = |tag: &Tag| {
        let text = tag.as_str().strip_prefix("enhanced-").unwrap_or(tag.as_str());
        text.len() >= 8 && (fingerprint.starts_with(text) || revision.starts_with(text))
    };
    let (marks, names) = tags.iter().cloned().partition(marks);
    Ok(Some(PublishedApp { digest, names, marks, created: created(&found), built: ledger::built(&found), built_on }))
}

/// True if a tag names a digest that something is attached to.
fn is_subject(tag: &Tag) -> bool {
    tag.as_str().starts_with("sha256-")
}

/// The root in a base's key of any version; null where there is none, as in an app's.
fn root_of(found: &Published) -> serde_json::Value {
    let key = found.key().and_then(|key| serde_json::from_str::<serde_json::Value>(key).ok());
    key.and_then(|mut key| Some(key.get_mut("root")?.take())).unwrap_or_default()
}

/// The root's name.
fn root(found: &Published) -> Option<String> {
    root_of(found)["image"].as_str().map(str::to_owned)
}

/// The root's digests.
fn root_digests(found: &Published) -> Vec<Digest> {
    let root = root_of(found);
    let digests = root["digests"].as_object().into_iter().flatten();
    digests.filter_map(|(_, digest)| digest.as_str()?.parse().ok()).collect()
}

/// Tags of the wheels that a base's key says were built from source for it.
fn wheels_of(found: &Published) -> BTreeSet<Tag> {
    let Some(key) = found.key().and_then(|key| serde_json::from_str::<BaseKey>(key).ok()) else {
        return BTreeSet::new();
    };
    let build_packages = build_packages(key.args.get(BUILD_PACKAGES).map_or("", String::as_str));
    let roots = key.root.digests.iter();
    let of_root = |(platform, root): (&Platform, &Digest)| {
        let tag = |source: &SourceKey| wheels::tag(&source.wheel(root, platform, &build_packages));
        key.sources.iter().map(tag).collect::<Vec<_>>()
    };
    roots.flat_map(of_root).collect()
}

fn created(found: &Published) -> Option<Timestamp> {
    found.notes.get(CREATED)?.parse().ok()
}

/// The digest of each tag of a repository. A tag that is deleted meanwhile is omitted.
fn tagged_digests(
    client: &Client,
    repository: &Repository,
    counts: impl Fn(&Tag) -> bool,
) -> Result<Vec<(Tag, Digest)>, Fault> {
    let tags = client.tags(repository)?.present().unwrap_or_default();
    let tags: Vec<Tag> = tags.into_iter().filter(|tag| counts(tag) && !records::is(tag)).collect();
    let found =
        at_once(&tags, |tag| Ok(client.head(repository, tag)?.present().map(|head| (tag.clone(), head.digest))))?;
    Ok(found.into_iter().flatten().collect())
}

/// [`some_at_once`] with [`AT_ONCE`] threads.
fn at_once<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R, Fault> + Sync) -> Result<Vec<R>, Fault> {
    some_at_once(AT_ONCE, items, work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_at_once_keeps_its_order_and_ends_at_a_fault() {
        let items: Vec<usize> = (0..100).collect();
        assert_eq!(
            at_once(&items, |item| Ok(item * 2)).unwrap(),
            items.iter().map(|item| item * 2).collect::<Vec<_>>()
        );
        let fault = at_once(&items, |item| if *item == 7 { Err(Fault::network("seven")) } else { Ok(()) });
        assert_eq!(fault.unwrap_err().what, "seven");
        assert!(at_once(&[] as &[u8], |_| Ok(())).unwrap().is_empty());
    }
}
