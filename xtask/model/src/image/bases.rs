//! The bases of a registry: the list, the apps built on each, the target of a rollback, and which may be deleted.
//!
//! Decides from what `xtask_host::registry::survey` found in a registry.

mod apps;
mod dependencies;
mod parts;
mod pruning;

pub use apps::{AppRules, AppSurvey, prune_apps};
pub use dependencies::prune_dependencies;
pub use parts::{PartSurvey, prune_parts};
pub use pruning::{Pruning, Rules, Verdict, prune};

use crate::fault::Fault;
use crate::image::commit::Ancestry;
use crate::image::key::{FALLBACK, Fingerprint};
use crate::image::tags::{TagRecord, TaggedCommit};
use crate::spec::reference::{Digest, Platform, Tag};
use crate::time::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// An artifact in the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub tag: Tag,
    pub digest: Digest,
    pub created: Option<Timestamp>,
    pub size: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Survey {
    /// The bases, newest first.
    pub bases: Vec<PublishedBase>,
    pub apps: Vec<PublishedApp>,
    /// Manifests that an engine pushed and no base lists: a job was killed between the two, or is at it now.
    pub strays: Vec<Stray>,
    /// Wheels that were built from source.
    pub wheels: Vec<Stray>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PublishedBase {
    /// Of the index, or of the manifest where there is none.
    pub digest: Digest,
    /// Its tags, but for those of single platforms.
    pub tags: Vec<Tag>,
    /// Its key's hash; what has none is not ours.
    pub fingerprint: Option<Fingerprint>,
    /// The tag made of the fingerprint, as far as it carries it.
    pub own_tag: Option<Tag>,
    pub revision: Option<String>,
    pub created: Option<Timestamp>,
    pub root: Option<String>,
    pub built: Option<Timestamp>,
    /// Compressed bytes of all platforms, each layer once.
    pub size: u64,
    pub platforms: BTreeMap<Platform, Digest>,
    pub missing: Vec<Platform>,
    pub lost: Vec<Digest>,
    /// Manifests that belong to it: listed ones, their attestations and referrers.
    pub parts: BTreeSet<Digest>,
    /// The tags under which an engine pushed single platforms of it.
    pub staging: BTreeMap<Tag, Digest>,
    /// Tags of the wheels that were built from source for it.
    #[serde(skip)]
    pub wheels: BTreeSet<Tag>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PublishedApp {
    pub digest: Digest,
    /// Tags that say what it is for: branches, versions, `latest`, whatever a person gave it.
    pub names: Vec<Tag>,
    /// Tags that only say what it is: of its fingerprint and its commit.
    pub marks: Vec<Tag>,
    pub created: Option<Timestamp>,
    pub built: Option<Timestamp>,
    pub built_on: BTreeSet<Digest>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stray {
    pub tag: Tag,
    pub digest: Digest,
    pub created: Option<Timestamp>,
}

impl PublishedBase {
    /// True if it has every platform of the policy.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.lost.is_empty()
    }

    /// The moment from which its age counts: when it was built; where that was not recorded, its commit's time.
    pub fn since(&self) -> Option<Timestamp> {
        self.built.or(self.created)
    }

    /// True if a digest names it or its image for a platform.
    pub fn is(&self, digest: &Digest) -> bool {
        self.digest == *digest || self.platforms.values().any(|platform| platform == digest)
    }

    /// True if it is on the root from Debian's packages, which the network has chosen and not its commit.
    pub fn is_on_fallback(&self) -> bool {
        self.root.as_ref().is_some_and(|root| root.starts_with(FALLBACK))
    }

    /// True if `latest` names it.
    pub fn is_latest(&self) -> bool {
        self.tags.contains(&Tag::latest())
    }

    pub fn name(&self) -> String {
        let tag = self.own_tag.as_ref().or_else(|| self.tags.iter().find(|tag| **tag != Tag::latest()));
        tag.or(self.tags.first()).map_or_else(|| short(&self.digest), ToString::to_string)
    }

    /// Every manifest that has to stay for it to be whole.
    pub fn reachable(&self) -> impl Iterator<Item = Digest> {
        [self.digest].into_iter().chain(self.parts.iter().copied()).chain(self.platforms.values().copied())
    }

    /// Fails if nothing can be built on the base, with the reason.
    fn refuse_incomplete(&self) -> Result<(), Fault> {
        let mut causes: Vec<String> = self.missing.iter().map(|platform| format!("it lacks {platform}")).collect();
        causes
            .extend(self.lost.iter().map(|digest| format!("it lists `{digest}`, which is missing from the registry")));
        if self.fingerprint.is_none() {
            causes.push("it has no fingerprint: `cargo xtask` did not build it".to_owned());
        }
        if causes.is_empty() {
            return Ok(());
        }
        let fault = Fault::usage(format!("base `{}` is not complete", self.name()));
        Err(causes.into_iter().fold(fault, Fault::cause).hint("list complete bases: `cargo xtask base list`"))
    }
}

impl PublishedApp {
    /// The moment from which its age counts, as a base's does.
    pub fn since(&self) -> Option<Timestamp> {
        self.built.or(self.created)
    }
}

impl Survey {
    pub fn users<'a>(&'a self, base: &'a PublishedBase) -> impl Iterator<Item = &'a PublishedApp> {
        self.apps.iter().filter(|app| app.built_on.iter().any(|digest| base.is(digest)))
    }

    /// The base that `latest` names.
    pub fn latest(&self) -> Option<&PublishedBase> {
        self.bases.iter().find(|base| base.is_latest())
    }

    /// The base with this tag or digest.
    ///
    /// # Errors
    /// There is none.
    pub fn named(&self, name: &str) -> Result<&PublishedBase, Fault> {
        let digest: Option<Digest> = name.parse().ok();
        let found = |base: &&PublishedBase| match &digest {
            Some(digest) => base.is(digest),
            None => base.tags.iter().any(|tag| tag.as_str() == name),
        };
        self.bases.iter().find(found).ok_or_else(|| {
            Fault::usage(format!("base `{name}` is not in the registry")).hint("list them: `cargo xtask base list`")
        })
    }
}

/// Base to pin: the named one, or `latest`'s.
///
/// # Errors
/// There is no such base, or it is not complete.
pub fn pin<'a>(survey: &'a Survey, name: Option<&str>) -> Result<&'a PublishedBase, Fault> {
    let base = survey.named(name.unwrap_or("latest"))?;
    base.refuse_incomplete()?;
    Ok(base)
}

/// Base that `latest` returns to: the named one, or the newest complete one of an earlier commit of the same line. `ancestry` says how a
/// first commit is related to a second one.
///
/// # Errors
/// There is no such base, it is not complete, or `latest` names it already.
pub fn rollback<'a>(
    survey: &'a Survey,
    name: Option<&str>,
    ancestry: &dyn Fn(&str, &str) -> Result<Ancestry, Fault>,
) -> Result<&'a PublishedBase, Fault> {
    let latest = survey.latest();
    if let Some(name) = name {
        let base = survey.named(name)?;
        base.refuse_incomplete()?;
        if base.is_latest() {
            return Err(Fault::usage(format!("`latest` already names `{name}`")));
        }
        return Ok(base);
    }
    let Some(latest) = latest else {
        return Err(
            Fault::usage("the registry has no `latest` to roll back").hint("name a base: `cargo xtask base list`")
        );
    };
    let mut earlier: Vec<&PublishedBase> =
        survey.bases.iter().filter(|base| !base.is_latest() && base.refuse_incomplete().is_ok()).collect();
    // By the time of their commits, not by that of their builds: an old commit may have been built again.
    earlier.sort_by_key(|base| std::cmp::Reverse(base.created));
    for base in earlier {
        let (Some(revision), Some(from)) = (&base.revision, &latest.revision) else { continue };
        // What was built from uncommitted changes was never `latest`.
        if base.created > latest.created || revision.ends_with("-dirty") {
            continue;
        }
        if revision == from || ancestry(revision, from)? != Ancestry::NotAncestor {
            return Ok(base);
        }
    }
    Err(Fault::usage("no complete base of an earlier commit is in the registry")
        .hint("name one: `cargo xtask base rollback TAG`; list them: `cargo xtask base list`"))
}

/// The commit of `latest` after it was moved by hand from one base to another: builds of the commit it came from, and of those before,
/// must not move it again. `mark` is the record of `latest` as it was; nothing comes back where no commit is known.
pub fn after_rollback(
    from: Option<&PublishedBase>,
    mark: Option<TagRecord>,
    to: &PublishedBase,
    ancestry: &dyn Fn(&str, &str) -> Result<Ancestry, Fault>,
) -> Result<Option<TaggedCommit>, Fault> {
    let plain = |revision: &String| revision.trim_end_matches("-dirty").to_owned();
    let recorded = mark.zip(from).and_then(|(mark, from)| Some(mark.since_of(&from.digest)?.commit.clone()));
    let before = recorded.or_else(|| from.and_then(|from| from.revision.as_ref()).map(plain));
    let own = to.revision.as_ref().map(plain);
    Ok(match (before, own) {
        // Back to the base of that commit or of a later one: the move is undone.
        (Some(before), Some(own)) if before == own || ancestry(&before, &own)? == Ancestry::Ancestor => {
            Some(TaggedCommit { commit: own, rolled_back: false })
        }
        (Some(commit), _) => Some(TaggedCommit { commit, rolled_back: true }),
        (None, own) => own.map(|commit| TaggedCommit { commit, rolled_back: false }),
    })
}

/// The fingerprint's tag within the tag of a single platform: `3f9c02d1a7b4` of `3f9c02d1a7b4-linux-amd64`.
pub fn staged(tag: &Tag) -> Option<Tag> {
    let (fingerprint, platform) = tag.as_str().split_once('-')?;
    let hex = fingerprint.len() >= 8 && fingerprint.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let platform: Option<Platform> = platform.replace('-', "/").parse().ok();
    platform.filter(|_| hex).and_then(|_| fingerprint.parse().ok())
}

pub fn short(digest: &Digest) -> String {
    format!("sha256:{}", &digest.hex()[..12])
}

/// An age as a person reads it: `40 min`, `5 h`, `12 days`.
pub fn age(created: Option<Timestamp>, now: Timestamp) -> String {
    let Some(created) = created else { return "unknown".to_owned() };
    match now.as_second().saturating_sub(created.as_second()) {
        ..3_600 => format!("{} min", now.as_second().saturating_sub(created.as_second()).max(0) / 60),
        seconds @ 3_600..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn base(name: &str, second: i64) -> PublishedBase {
        let digest = Digest::of(name.as_bytes());
        let manifest = Digest::of(format!("{name} linux/amd64").as_bytes());
        let fingerprint: Fingerprint = digest.hex().parse().unwrap();
        PublishedBase {
            digest,
            tags: vec![fingerprint.tag(12)],
            fingerprint: Some(fingerprint),
            own_tag: Some(fingerprint.tag(12)),
            revision: Some(name.to_owned()),
            created: Timestamp::from_second(second),
            root: None,
            built: None,
            size: 1,
            platforms: BTreeMap::from([("linux/amd64".parse().unwrap(), manifest)]),
            missing: Vec::new(),
            lost: Vec::new(),
            parts: BTreeSet::from([manifest]),
            wheels: BTreeSet::new(),
            staging: BTreeMap::from([(format!("{}-linux-amd64", fingerprint.tag(12)).parse().unwrap(), manifest)]),
        }
    }

    fn survey() -> Survey {
        let mut newest = base("c", 300);
        newest.tags.push(Tag::latest());
        let mut side = base("side", 250);
        side.revision = Some("side".to_owned());
        let mut partial = base("b", 200);
        partial.missing = vec!["linux/arm64".parse().unwrap()];
        let mut dirty = base("d", 150);
        dirty.revision = Some("a-dirty".to_owned());
        Survey { bases: vec![newest, side, partial, dirty, base("a", 100)], ..Survey::default() }
    }

    fn ancestry(first: &str, _: &str) -> Result<Ancestry, Fault> {
        Ok(if first == "side" { Ancestry::NotAncestor } else { Ancestry::Ancestor })
    }

    #[test]
    fn a_rollback_passes_by_other_branches_and_what_is_not_whole() {
        let survey = survey();
        assert_eq!(rollback(&survey, None, &ancestry).unwrap().revision.as_deref(), Some("a"));
        let side = survey.bases[1].name();
        assert_eq!(rollback(&survey, Some(&side), &ancestry).unwrap().name(), side);
        let alone = Survey { bases: survey.bases[..3].to_vec(), ..Survey::default() };
        let fault = rollback(&alone, None, &ancestry).unwrap_err();
        assert_eq!(fault.what, "no complete base of an earlier commit is in the registry");
    }

    #[test]
    fn what_was_rolled_back_waits_for_a_commit_after_the_one_it_came_from() {
        let order =
            |first: &str, second: &str| Ok(if first <= second { Ancestry::Ancestor } else { Ancestry::NotAncestor });
        let (old, new) = (base("a", 100), base("c", 300));
        let after = |from: &PublishedBase, mark: Option<TagRecord>, to: &PublishedBase| {
            after_rollback(Some(from), mark, to, &order).unwrap()
        };
        let since = |commit: &str, rolled_back| Some(TaggedCommit { commit: commit.to_owned(), rolled_back });
        assert_eq!(after(&new, None, &old), since("c", true));
        // A later commit had the same base, and so had `latest`.
        let mark = |base: &PublishedBase, commit: &str| {
            Some(TagRecord {
                digest: base.digest,
                since: TaggedCommit { commit: commit.to_owned(), rolled_back: false },
                before: None,
            })
        };
        assert_eq!(after(&new, mark(&new, "d"), &old), since("d", true));
        assert_eq!(after(&new, mark(&old, "d"), &old), since("c", true), "the record is of another image");
        // Undone by hand.
        assert_eq!(after(&old, mark(&old, "c"), &new), since("c", false));
        assert_eq!(after_rollback(None, None, &old, &order).unwrap(), since("a", false));
    }

    #[track_caller]
    fn refused(name: &str, what: &str) {
        let fault = rollback(&survey(), Some(name), &ancestry).unwrap_err();
        assert!(fault.to_string().contains(what), "{fault}");
    }

    #[test]
    fn a_rollback_refuses_incomplete_bases() {
        refused(&survey().bases[2].name(), "it lacks linux/arm64");
        refused("nosuch", "base `nosuch` is not in the registry");
        refused("latest", "`latest` already names `latest`");
    }

    #[test]
    fn a_base_is_pinned_by_any_of_its_names() {
        let survey = survey();
        let newest = &survey.bases[0];
        assert_eq!(pin(&survey, None).unwrap(), newest);
        assert_eq!(pin(&survey, Some(&newest.digest.to_string())).unwrap(), newest);
        let manifest = newest.platforms.values().next().unwrap();
        assert_eq!(pin(&survey, Some(&manifest.to_string())).unwrap(), newest);
    }

    #[track_caller]
    fn is_staged(tag: &str, expected: Option<&str>) {
        assert_eq!(staged(&tag.parse().unwrap()).map(|tag| tag.to_string()).as_deref(), expected);
    }

    #[test]
    fn tags_of_single_platforms_are_known() {
        is_staged("3f9c02d1a7b4-linux-amd64", Some("3f9c02d1a7b4"));
        is_staged("3f9c02d1a7b4-linux-arm-v7", Some("3f9c02d1a7b4"));
        is_staged("3f9c02d1a7b4", None);
        is_staged("feature-linux-amd64", None);
        is_staged("3f9c02d1a7b4-try", None);
        is_staged("abc-linux-amd64", None);
    }

    #[test]
    fn ages_read_well() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let at = |second: i64| age(Timestamp::from_second(1_000_000 - second), now);
        assert_eq!([at(-5), at(130), at(7300), at(900_000)], ["0 min", "2 min", "2 h", "10 days"]);
        assert_eq!(age(None, now), "unknown");
    }
}
