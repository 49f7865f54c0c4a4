//! Decides which apps to delete and which to keep, with reasons: a pure function of a survey of the app's repository.
//!
//! An app stays for a name that somebody may use. The tag of a branch is such a name while the branch exists. Deleted manifests are never
//! reachable from kept ones.

use super::pruning::{Pruning, Rules, Verdict, young};
use super::{PublishedBase, Stray, age};
use crate::image::tags::{ends_in_hash, is_about, is_version};
use crate::spec::reference::{Digest, Tag};
use std::collections::BTreeSet;

/// The app's repository.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppSurvey {
    /// The images, newest first. A base and an app are the same to a registry.
    pub images: Vec<PublishedBase>,
    /// Manifests of single platforms that no image lists.
    pub strays: Vec<Stray>,
    /// Tags of signatures and referrers whose image is missing.
    pub orphans: Vec<(Tag, Digest)>,
    /// Records of tags that move.
    pub records: Vec<(Tag, Digest)>,
}

/// Rules for keeping an app.
#[derive(Clone, Debug)]
pub struct AppRules {
    pub rules: Rules,
    /// Tags of the branches that exist; `None` if this clone does not know every branch.
    pub branches: Option<BTreeSet<Tag>>,
    /// Take every tag for a branch's, except versions and `latest`. Otherwise only those that must be: the tag of a renamed branch,
    /// and one with a record.
    pub every_name: bool,
    /// Digests that run somewhere.
    pub digests: BTreeSet<Digest>,
    /// Tags that run somewhere.
    pub tags: BTreeSet<Tag>,
}

/// Reasons to keep an app, and its tags that name a deleted branch.
struct Reasons {
    keep: Vec<String>,
    gone: Vec<Tag>,
}

/// Plans the deletion.
pub fn prune_apps(survey: &AppSurvey, rules: &AppRules) -> Pruning {
    let newest: BTreeSet<Digest> = survey.images.iter().take(rules.rules.keep).map(|image| image.digest).collect();
    let mut plan = Pruning::default();
    let (mut reachable, mut gone) = (BTreeSet::new(), Vec::new());
    let mut tags: BTreeSet<&Tag> = BTreeSet::new();
    for image in &survey.images {
        let Reasons { keep, gone: branches } = reasons(survey, image, &newest, rules);
        let stays = !keep.is_empty();
        let reasons = if stays { keep } else { goes(image, &branches, rules) };
        if stays {
            reachable.extend(image.reachable().chain(image.staging.values().copied()));
            tags.extend(image.tags.iter().filter(|tag| !branches.contains(tag)));
            for tag in branches {
                let reasons = vec!["its branch is deleted; the image stays".to_owned()];
                plan.verdicts.push(Verdict {
                    name: tag.to_string(),
                    digest: image.digest,
                    size: 0,
                    keep: false,
                    reasons,
                });
                plan.tags.push(tag);
            }
        } else {
            gone.push(image);
        }
        plan.verdicts.push(Verdict {
            name: image.name(),
            digest: image.digest,
            size: image.size,
            keep: stays,
            reasons,
        });
    }
    let mut others: Vec<Digest> = Vec::new();
    let mut judge = |name: &Tag, digest: Digest, why_not: &str, why: Option<&str>| {
        let (keep, reasons) = (why.is_some(), vec![why.unwrap_or(why_not).to_owned()]);
        plan.verdicts.push(Verdict { name: name.to_string(), digest, size: 0, keep, reasons });
        if !keep {
            others.push(digest);
        }
    };
    for stray in &survey.strays {
        if reachable.contains(&stray.digest) {
            continue;
        }
        let waits = young(stray.created, &rules.rules).then_some("a running build may be about to list it");
        judge(&stray.tag, stray.digest, "no image lists it: the build that pushed it was interrupted", waits);
        if waits.is_some() {
            reachable.insert(stray.digest);
        }
    }
    for (tag, digest) in &survey.orphans {
        judge(tag, *digest, "the image that it is attached to is gone", None);
    }
    // Records of the same commit may be one manifest.
    let is_needed = |record: &Tag| tags.iter().any(|tag| is_about(record, tag));
    reachable.extend(survey.records.iter().filter(|(record, _)| is_needed(record)).map(|(_, digest)| *digest));
    let records = survey.records.iter().filter(|(record, digest)| !is_needed(record) && !reachable.contains(digest));
    others.extend(records.map(|(_, digest)| *digest));
    let parts = gone.iter().flat_map(|image| image.parts.iter().chain(image.staging.values()).copied());
    let mut planned = BTreeSet::new();
    for digest in gone.iter().map(|image| image.digest).chain(parts).chain(others) {
        if !reachable.contains(&digest) && planned.insert(digest) {
            plan.digests.push(digest);
        }
    }
    plan
}

fn reasons(survey: &AppSurvey, image: &PublishedBase, newest: &BTreeSet<Digest>, rules: &AppRules) -> Reasons {
    let (mut keep, mut gone) = (Vec::new(), Vec::new());
    if image.fingerprint.is_none() {
        keep.push("it has no fingerprint: `cargo xtask` did not build it".to_owned());
    }
    // A tag that only repeats what the image is keeps nothing alive.
    let fingerprint = image.fingerprint.map(|fingerprint| fingerprint.to_string()).unwrap_or_default();
    let revision = image.revision.as_deref().unwrap_or_default();
    let is_mark = |tag: &&Tag| {
        let text = tag.as_str().strip_prefix("enhanced-").unwrap_or(tag.as_str());
        text.len() >= 7 && (fingerprint.starts_with(text) || revision.starts_with(text))
    };
    for tag in image.tags.iter().filter(|tag| !is_mark(tag)) {
        let has_record = || survey.records.iter().any(|(record, _)| is_about(record, tag));
        let is_fixed = *tag == Tag::latest() || is_version(tag.as_str());
        let is_branch = !is_fixed && (rules.every_name || ends_in_hash(tag.as_str()) || has_record());
        match &rules.branches {
            Some(branches) if is_branch && !branches.contains(tag) => gone.push(tag.clone()),
            _ => keep.push(format!("the tag `{tag}` names it")),
        }
    }
    let runs = image.reachable().any(|digest| rules.digests.contains(&digest));
    if runs || image.tags.iter().any(|tag| rules.tags.contains(tag)) {
        keep.push("it is in use".to_owned());
    }
    if newest.contains(&image.digest) {
        keep.push(format!("one of the newest {}", rules.rules.keep));
    }
    if young(image.since(), &rules.rules) {
        keep.push(match image.since() {
            Some(_) => format!("{} old", age(image.since(), rules.rules.now)),
            None => "its age is unknown".to_owned(),
        });
    }
    Reasons { keep, gone }
}

fn goes(image: &PublishedBase, branches: &[Tag], rules: &AppRules) -> Vec<String> {
    let age = age(image.since(), rules.rules.now);
    let mut reasons = vec![format!("{age} old, not one of the newest {}", rules.rules.keep)];
    reasons.extend(branches.iter().map(|tag| format!("the branch of its tag `{tag}` is deleted")));
    if branches.is_empty() {
        reasons.push("it has no branch, version or other tag".to_owned());
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::bases::tests::base;
    use crate::image::tags::{announcement_tag, record_tag};
    use crate::time::Timestamp;
    use std::time::Duration;

    const DAY: i64 = 86_400;

    fn image(name: &str, days: i64, tags: &[&str]) -> PublishedBase {
        let mut image = base(name, (1000 - days) * DAY);
        image.tags.extend(tags.iter().map(|tag| tag.parse::<Tag>().unwrap()));
        image
    }

    fn rules() -> AppRules {
        let now = Timestamp::from_second(1000 * DAY).unwrap();
        let older_than = Duration::from_secs(30 * 86_400);
        AppRules {
            rules: Rules { keep: 0, older_than, now, this_tree: None, pinned: None },
            branches: Some(["main".parse().unwrap()].into()),
            every_name: false,
            digests: BTreeSet::new(),
            tags: BTreeSet::new(),
        }
    }

    fn record(tag: &str, text: &str) -> (Tag, Digest) {
        (record_tag(&tag.parse().unwrap()), Digest::of(text.as_bytes()))
    }

    fn survey(images: Vec<PublishedBase>) -> AppSurvey {
        let records = [("main", "same"), ("topic", "topic"), ("latest", "same")];
        let records = records.map(|(tag, text)| record(tag, text)).to_vec();
        AppSurvey { images, records, ..AppSurvey::default() }
    }

    #[test]
    fn each_reason_alone_keeps_an_app() {
        #[track_caller]
        fn stays(tags: &[&str], days: i64, edit: impl FnOnce(&mut AppRules, &PublishedBase), expected: Option<&str>) {
            let (survey, mut rules) = (survey(vec![image("x", days, tags)]), rules());
            edit(&mut rules, &survey.images[0]);
            let plan = prune_apps(&survey, &rules);
            let verdict = plan.verdicts.last().unwrap();
            let kept = verdict.keep.then(|| verdict.reasons.join("; "));
            assert_eq!(kept.as_deref(), expected);
            assert_eq!(plan.digests.contains(&survey.images[0].digest), expected.is_none());
        }
        stays(&[], 90, |_, _| {}, None);
        stays(&["main"], 90, |_, _| {}, Some("the tag `main` names it"));
        stays(&["topic"], 90, |_, _| {}, None);
        stays(&["topic"], 90, |rules, _| rules.branches = None, Some("the tag `topic` names it"));
        let runs = |rules: &mut AppRules, _: &PublishedBase| rules.tags.extend(["topic".parse::<Tag>().unwrap()]);
        stays(&["topic"], 90, runs, Some("it is in use"));
        stays(&["1.2.3"], 90, |_, _| {}, Some("the tag `1.2.3` names it"));
        stays(&["by-hand"], 90, |_, _| {}, Some("the tag `by-hand` names it"));
        stays(&["fix-951d42dc02dc"], 90, |_, _| {}, None);
        stays(&["by-hand"], 90, |rules, _| rules.every_name = true, None);
        stays(&["1.2.3"], 90, |rules, _| rules.every_name = true, Some("the tag `1.2.3` names it"));
        let platform = |rules: &mut AppRules, image: &PublishedBase| rules.digests.extend(image.platforms.values());
        stays(&[], 90, platform, Some("it is in use"));
        stays(&[], 3, |_, _| {}, Some("3 days old"));
        stays(&[], 90, |rules, _| rules.rules.keep = 1, Some("one of the newest 1"));
    }

    #[test]
    fn the_tag_of_a_deleted_branch_goes_where_the_image_stays() {
        let survey = survey(vec![image("x", 90, &["main", "topic"])]);
        let plan = prune_apps(&survey, &rules());
        assert_eq!(plan.tags, ["topic".parse().unwrap()]);
        assert_eq!(
            plan.digests,
            [Digest::of(b"topic")],
            "and its record, but not the one that `main` shares with `latest`"
        );
    }

    #[test]
    fn a_tag_whose_moves_were_only_announced_goes_with_the_announcement() {
        let named = |tag: &str| (announcement_tag(&tag.parse().unwrap()), Digest::of(tag.as_bytes()));
        let images = vec![image("x", 90, &["main", "topic", "by-hand"])];
        let records = vec![named("main"), named("topic")];
        let plan = prune_apps(&AppSurvey { images, records, ..AppSurvey::default() }, &rules());
        assert_eq!(plan.tags, ["topic".parse().unwrap()]);
        assert_eq!(plan.digests, [Digest::of(b"topic")]);
    }

    #[test]
    fn what_belongs_to_no_image_goes() {
        let mut survey = survey(vec![image("x", 1, &["main"])]);
        let kept = survey.images[0].parts.first().copied().unwrap();
        let tag = |text: &str| text.parse::<Tag>().unwrap();
        let orphan = Digest::of(b"orphan");
        survey.orphans = vec![(tag("sha256-aa.sig"), orphan), (tag("sha256-bb.sig"), kept)];
        let created = |days: i64| Timestamp::from_second((1000 - days) * DAY);
        let stray = |name: &str, days: i64| Stray {
            tag: tag("aaaaaaaaaaaa-linux-amd64"),
            digest: Digest::of(name.as_bytes()),
            created: created(days),
        };
        survey.strays = vec![stray("old", 90), stray("young", 1)];
        let plan = prune_apps(&survey, &rules());
        assert_eq!(plan.digests, [Digest::of(b"old"), orphan, Digest::of(b"topic")]);
    }
}
