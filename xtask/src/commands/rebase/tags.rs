//! Tags: those of fingerprints first, then those that people use, each only from the image that it was seen at. Also the way back.

use super::images::{Id, NamedImage};
use super::make::Rebased;
use super::{AT_ONCE, RebaseContext, left_to_ci};
use crate::steps;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use xtask_host::registry::parallel::some_at_once;
use xtask_host::registry::publish::{self, Publication, completeness, records};
use xtask_host::registry::{Answer, Client};
use xtask_host::{clock, process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::key::FINGERPRINT_LABEL;
use xtask_model::image::policy::ImageKind;
use xtask_model::image::presence::Published;
use xtask_model::image::rebase;
use xtask_model::image::tags::TaggedCommit;
use xtask_model::spec::oci::{Descriptor, annotation};
use xtask_model::spec::reference::{Digest, Platform, Repository, Tag};

/// Begin of this program's own labels. An image from a rebase has its own.
const OWN: &str = "dev.xtask.";

/// Names of an image now.
pub(super) struct PutTags {
    pub digest: Digest,
    pub tags: Vec<Tag>,
}

/// A tag that moves.
struct Move<'a> {
    repository: &'a Repository,
    tag: &'a Tag,
    from: &'a Published,
    to: Published,
    /// Only a later commit moves the tag again.
    holds: bool,
}

/// Publishes the images under their fingerprints, and moves the tags.
///
/// # Errors
/// A tag moved meanwhile, or the registry refuses one: tags that were moved until then are moved back.
pub(super) fn publish(context: &RebaseContext<'_>, made: &[Rebased<'_>]) -> Result<BTreeMap<Id, PutTags>, Fault> {
    let (bases, apps): (Vec<&Rebased<'_>>, Vec<&Rebased<'_>>) =
        made.iter().partition(|one| one.image.kind() == ImageKind::Base);
    let mut published = Vec::new();
    // An app is named after the base that it is on.
    for kind in [bases, apps] {
        let put = some_at_once(AT_ONCE, &kind, |one| {
            by_fingerprint(context, one).map_err(|fault| super::about(one.image, fault))
        })?;
        published.extend(kind.into_iter().zip(put));
    }
    let mut moves = Vec::new();
    for (one, now) in &published {
        let to = |tag| Move {
            repository: &one.image.repository,
            tag,
            from: &one.image.published,
            to: now.clone(),
            holds: true,
        };
        moves.extend(one.image.tags.iter().map(to));
    }
    move_all(context.client, &moves)?;
    Ok(published
        .into_iter()
        .map(|(one, now)| (one.image.id(), PutTags { digest: now.digest, tags: one.image.tags.clone() }))
        .collect())
}

/// Puts an image under its fingerprint's tag.
fn by_fingerprint(context: &RebaseContext<'_>, one: &Rebased<'_>) -> Result<Published, Fault> {
    let RebaseContext { tree, client } = *context;
    let image = one.image;
    let before = image.repository.digest(image.published.digest);
    let from = &image.published.notes;
    let kept = from.iter().filter(|(name, _)| {
        !name.starts_with(OWN) && ![annotation::BASE_NAME, annotation::BASE_DIGEST].contains(&name.as_str())
    });
    let labels: BTreeMap<String, String> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut notes = publish::notes(&one.fingerprint, one.key.clone(), &labels);
    notes.insert(rebase::FROM.to_owned(), before.to_string());
    notes.insert(rebase::FROM_FINGERPRINT.to_owned(), from.get(FINGERPRINT_LABEL).cloned().unwrap_or_default());
    let now = clock::now().to_string();
    notes.extend(one.platforms.keys().map(|platform| (publish::built(platform), now.clone())));
    let publication = Publication {
        repository: &image.repository,
        fingerprint: one.fingerprint,
        tag: one.tag(tree.policy.base.tag_length),
        built: one.platforms.iter().map(|(platform, made)| (platform.clone(), made.descriptor.digest)).collect(),
        notes,
        replace: one.replaces,
    };
    let attach = |index: &Descriptor| steps::attach_to_index(tree, client, image.kind(), (&image.repository, index));
    Ok(publish::publish_with(client, &publication, &attach)?.published)
}

/// Moves tags, all or none: unless one of them names something else by now, and back after a fault. An interruption comes before or after.
fn move_all(client: &Client, moves: &[Move<'_>]) -> Result<(), Fault> {
    some_at_once(AT_ONCE, moves, |one| check(client, one))?;
    process::interrupted()?;
    process::uninterrupted(|| move_each(client, moves))
}

fn move_each(client: &Client, moves: &[Move<'_>]) -> Result<(), Fault> {
    let done: Mutex<Vec<(usize, Option<TaggedCommit>)>> = Mutex::default();
    let numbers: Vec<usize> = (0..moves.len()).collect();
    let moved = some_at_once(AT_ONCE, &numbers, |number| {
        let one = &moves[*number];
        check(client, one)?;
        let before = move_one(client, one)?;
        done.lock().unwrap_or_else(PoisonError::into_inner).push((*number, before));
        Ok(())
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let done: Vec<(&Move<'_>, Option<TaggedCommit>)> =
        done.into_iter().map(|(number, before)| (&moves[number], before)).collect();
    moved.map(drop).map_err(|fault| back(client, &done, fault))
}

/// Refuses a tag that moved since it was read.
fn check(client: &Client, one: &Move<'_>) -> Result<(), Fault> {
    let name = one.repository.tag(one.tag);
    let now = client.head(one.repository, one.tag.clone())?.present().map(|head| head.digest);
    if now == Some(one.from.digest) || now == Some(one.to.digest) {
        return Ok(());
    }
    let now = now.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string());
    Err(Fault::drift(format!("`{name}` moved meanwhile"))
        .cause(format!("it named {}, now {now}", one.from.digest))
        .hint("run this again"))
}

/// Moves a tag, with the record of its commit. Returns the commit that was recorded before.
fn move_one(client: &Client, one: &Move<'_>) -> Result<Option<TaggedCommit>, Fault> {
    let mark = records::read(client, one.repository, one.tag)?;
    let recorded = mark.and_then(|mark| mark.since_of(&one.from.digest).or(mark.since_of(&one.to.digest)).cloned());
    let commit = recorded.as_ref().map(|since| since.commit.clone());
    let commit = commit.or_else(|| Some(one.to.revision()?.trim_end_matches("-dirty").to_owned()));
    if let Some(commit) = commit {
        let since = TaggedCommit { commit, rolled_back: one.holds };
        records::write(client, one.repository, one.tag, &one.to, &since)?;
    }
    publish::move_tag(client, one.repository, one.to.digest, one.tag).map_err(|fault| {
        match publish::is_immutable(&fault) {
            true => fault.cause("this registry's tags are immutable").hint(
                "deploy the image by the tag of its fingerprint, or name other images: `cargo xtask rebase IMAGE`",
            ),
            false => fault,
        }
    })?;
    Ok(recorded)
}

/// Moves tags back after a fault.
fn back(client: &Client, done: &[(&Move<'_>, Option<TaggedCommit>)], mut fault: Fault) -> Fault {
    for (one, before) in done.iter().rev() {
        let name = one.repository.tag(one.tag);
        let still = client.head(one.repository, one.tag.clone());
        if still.is_ok_and(|head| head.present().is_none_or(|head| head.digest != one.to.digest)) {
            continue;
        }
        let mut moved = publish::tag(client, one.repository, one.from.digest, one.tag).map(drop);
        if let Some(since) = before {
            moved = moved.and(records::write(client, one.repository, one.tag, one.from, since));
        }
        fault = match moved {
            Ok(()) => fault,
            Err(why) => fault.cause(format!("`{name}` could not be moved back: {}", why.what)),
        };
    }
    if !done.is_empty() {
        fault = fault.hint("tags that had moved were moved back");
    }
    fault
}

/// A tag that was moved back.
pub(super) struct Undone {
    pub repository: Repository,
    pub tag: Tag,
    pub kind: ImageKind,
    pub from: Digest,
    pub to: Digest,
}

/// Moves tags back to the images before their last rebase.
///
/// # Errors
/// None of them names a rebased image, or the image before is not whole any more.
pub(super) fn undo(context: &RebaseContext<'_>, named: Vec<NamedImage>, dry_run: bool) -> Result<Vec<Undone>, Fault> {
    let RebaseContext { tree, client } = *context;
    let by_default = named.len() > 1;
    let (mut found, mut left) = (Vec::new(), false);
    for one in &named {
        let Some(tag) = &one.tag else {
            return Err(Fault::usage("`--undo` moves tags, and a digest is none")
                .hint("name the tag: `cargo xtask rebase --undo IMAGE:TAG`"));
        };
        let Some(before) = rebase::before(&one.published) else {
            if by_default {
                continue;
            }
            return Err(Fault::usage(format!("`{}` was not rebased", one.repository.tag(tag)))
                .hint("an earlier base: `cargo xtask base rollback`"));
        };
        if rebase::fixed(tag, &one.published).is_some() {
            continue;
        }
        if let Some(why) = left_to_ci(tree, &one.repository, tag) {
            terminal::step("kept", &format!("`{}` stays: {why}", one.repository.tag(tag)));
            left = true;
            continue;
        }
        found.push((one, tag, before));
    }
    if found.is_empty() && left {
        return Err(Fault::usage("no tag was moved back: a person's call leaves these tags to CI")
            .hint("run `cargo xtask rebase --undo` in a job of CI")
            .hint("in a repository without CI: `[project] shared-tags = \"anywhere\"` in `images.toml`"));
    }
    if found.is_empty() {
        return Err(
            Fault::usage("no tag names a rebased image").hint("name one: `cargo xtask rebase --undo IMAGE:TAG`")
        );
    }
    let platforms = |published: &Published| published.platforms.keys().cloned().collect::<Vec<Platform>>();
    let mut moves = Vec::new();
    for (one, tag, before) in &found {
        let digest = before.digest.expect("it is named by its digest");
        let lost = |why: String| {
            Fault::usage(format!("the image before `{}` is not whole", one.repository.tag(tag))).cause(why)
        };
        let Answer::Present(mut image) = publish::read(client, &one.repository, digest)? else {
            return Err(lost(format!("`{before}` is not in the registry any more")));
        };
        completeness::check(&mut image, client, &one.repository)?;
        if let Some(why) = image.lost_reason(&platforms(&one.published)) {
            return Err(lost(why));
        }
        moves.push(Move { repository: &one.repository, tag, from: &one.published, to: image, holds: false });
    }
    if !dry_run {
        move_all(client, &moves)?;
        terminal::step(
            "note",
            "the rebased images keep the tags of their fingerprints; a build whose root is the new one uses them",
        );
    }
    let kind = |repository: &Repository| match *repository == tree.repository(ImageKind::Base) {
        true => ImageKind::Base,
        false => ImageKind::App,
    };
    Ok(moves
        .into_iter()
        .map(|one| Undone {
            repository: one.repository.clone(),
            tag: one.tag.clone(),
            kind: kind(one.repository),
            from: one.from.digest,
            to: one.to.digest,
        })
        .collect())
}
