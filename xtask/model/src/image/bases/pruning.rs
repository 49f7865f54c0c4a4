//! Decides which bases to delete and which to keep, with reasons: a pure function of a survey.
//!
//! Deleted manifests are never reachable from kept ones: an index keeps its manifests, attestations and referrers.

use super::{PublishedApp, PublishedBase, Stray, Survey, age};
use crate::image::key::Fingerprint;
use crate::spec::reference::{Digest, Tag};
use crate::time::Timestamp;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Rules {
    /// Number of the newest complete bases that stay.
    pub keep: usize,
    pub older_than: Duration,
    pub now: Timestamp,
    pub this_tree: Option<Fingerprint>,
    /// The base that `images.lock` pins.
    pub pinned: Option<Digest>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    pub name: String,
    pub digest: Digest,
    /// Its bytes, where they are known.
    pub size: u64,
    pub keep: bool,
    pub reasons: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pruning {
    /// One for each base, for each stray, and for each manifest of a base that stays which its index no longer lists.
    pub verdicts: Vec<Verdict>,
    /// Digests to delete, in this order: an index before its manifests, so that a plan carried out in part leaves
    /// nothing that looks whole.
    pub digests: Vec<Digest>,
    /// Tags to delete whose manifests stay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
}

impl Pruning {
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty() && self.tags.is_empty()
    }
}

pub fn prune(survey: &Survey, rules: &Rules) -> Pruning {
    let newest: BTreeSet<Digest> =
        survey.bases.iter().filter(|base| base.is_complete()).take(rules.keep).map(|base| base.digest).collect();
    let mut plan = Pruning::default();
    let (mut kept, mut gone) = (Vec::new(), Vec::new());
    for base in &survey.bases {
        let mut reasons = keeps(survey, base, &newest, rules);
        let keep = !reasons.is_empty();
        if keep {
            kept.push(base);
        } else {
            reasons = goes(survey, base, rules);
            gone.push(base);
        }
        plan.verdicts.push(Verdict { name: base.name(), digest: base.digest, size: base.size, keep, reasons });
    }
    let mut reachable: BTreeSet<Digest> = kept.iter().flat_map(|base| base.reachable()).collect();
    let strays: Vec<(&Stray, bool)> = survey.strays.iter().map(|stray| (stray, young(stray.created, rules))).collect();
    for (stray, keep) in &strays {
        let reasons = match keep {
            true => vec!["a running build may be about to list it".to_owned()],
            false => vec!["no base lists it: the build that pushed it was interrupted".to_owned()],
        };
        if *keep {
            reachable.insert(stray.digest);
        }
        plan.verdicts.push(Verdict {
            name: stray.tag.to_string(),
            digest: stray.digest,
            size: 0,
            keep: *keep,
            reasons,
        });
    }
    let mut superseded = BTreeSet::new();
    for (tag, digest) in kept.iter().flat_map(|base| &base.staging) {
        if !reachable.contains(digest) && superseded.insert(*digest) {
            let reasons = vec!["another build replaced it: no index that stays lists it".to_owned()];
            plan.verdicts.push(Verdict { name: tag.to_string(), digest: *digest, size: 0, keep: false, reasons });
        }
    }
    for wheel in &survey.wheels {
        let user = kept.iter().find(|base| base.wheels.contains(&wheel.tag));
        let keep = user.is_some() || young(wheel.created, rules);
        let reason = match user {
            Some(base) => format!("the base `{}` has a package that was built as this wheel", base.name()),
            None if keep => format!("{} old", age(wheel.created, rules.now)),
            None => format!("{} old, and no base that stays has it", age(wheel.created, rules.now)),
        };
        if keep {
            reachable.insert(wheel.digest);
        }
        let (name, reasons) = (wheel.tag.to_string(), vec![reason]);
        plan.verdicts.push(Verdict { name, digest: wheel.digest, size: 0, keep, reasons });
    }
    let unused: Vec<Digest> =
        survey.wheels.iter().map(|wheel| wheel.digest).filter(|digest| !reachable.contains(digest)).collect();
    let parts = gone.iter().flat_map(|base| base.parts.iter().chain(base.staging.values()).copied());
    let lost = strays.iter().filter(|(_, keep)| !keep).map(|(stray, _)| stray.digest);
    let mut planned = BTreeSet::new();
    for digest in gone.iter().map(|base| base.digest).chain(parts).chain(superseded).chain(lost).chain(unused) {
        if !reachable.contains(&digest) && planned.insert(digest) {
            plan.digests.push(digest);
        }
    }
    plan
}

/// Reasons to keep a base. Empty if there are none.
fn keeps(survey: &Survey, base: &PublishedBase, newest: &BTreeSet<Digest>, rules: &Rules) -> Vec<String> {
    let mut reasons = Vec::new();
    if base.fingerprint.is_none() {
        reasons.push("it has no fingerprint: `cargo xtask` did not build it".to_owned());
    }
    let names = base.tags.iter().filter(|tag| base.own_tag.as_ref() != Some(*tag));
    reasons.extend(names.map(|tag| format!("the tag `{tag}` names it")));
    if base.fingerprint.is_some() && base.fingerprint == rules.this_tree {
        reasons.push("it is this tree's base".to_owned());
    }
    if rules.pinned.is_some_and(|digest| base.is(&digest)) {
        reasons.push("`images.lock` pins it".to_owned());
    }
    for app in survey.users(base) {
        reasons.extend(why_app_stays(app, rules).map(|why| format!("the app {why} is built on it")));
    }
    if newest.contains(&base.digest) {
        reasons.push(format!("one of the newest {}", rules.keep));
    }
    if young(base.since(), rules) {
        reasons.push(match base.since() {
            Some(_) => format!("{} old", age(base.since(), rules.now)),
            None => "its age is unknown".to_owned(),
        });
    }
    reasons
}

/// Reason to keep an app, if there is one. An old app that nothing names keeps its own layers, and no longer needs a base.
fn why_app_stays(app: &PublishedApp, rules: &Rules) -> Option<String> {
    match app.names.first() {
        Some(name) => Some(format!("`{name}`")),
        None if young(app.since(), rules) => {
            let mark = app.marks.first().map(|tag| format!("`{tag}`, ")).unwrap_or_default();
            Some(format!("{mark}{} old,", age(app.since(), rules.now)))
        }
        None => None,
    }
}

fn goes(survey: &Survey, base: &PublishedBase, rules: &Rules) -> Vec<String> {
    let mut reasons = vec![format!("{} old, not one of the newest {}", age(base.since(), rules.now), rules.keep)];
    reasons.push(match survey.users(base).count() {
        0 => "no app is built on it".to_owned(),
        1 => "the only app on it is old and has no branch, version or other tag; that app keeps its own layers"
            .to_owned(),
        many => {
            format!(
                "the {many} apps on it are old and have no branch, version or other tag; they keep their own layers"
            )
        }
    });
    if !base.is_complete() {
        reasons.push("it is not complete".to_owned());
    }
    reasons
}

pub(super) fn young(created: Option<Timestamp>, rules: &Rules) -> bool {
    created.is_none_or(|created| created > rules.now - rules.older_than)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::bases::tests::base;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const DAY: i64 = 86_400;

    fn days(number: u64) -> Duration {
        Duration::from_secs(86_400 * number)
    }

    fn rules(keep: usize) -> Rules {
        let now = Timestamp::from_second(1000 * DAY).unwrap();
        Rules { keep, older_than: days(30), now, this_tree: None, pinned: None }
    }

    fn old(name: &str, days: i64) -> PublishedBase {
        base(name, (1000 - days) * DAY)
    }

    fn app(on: &PublishedBase, days: i64, names: &[&str]) -> PublishedApp {
        PublishedApp {
            digest: Digest::of(b"app"),
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            marks: vec!["aaaaaaaaaaaa".parse().unwrap()],
            created: Timestamp::from_second((1000 - days) * DAY),
            built: None,
            built_on: on.platforms.values().copied().collect(),
        }
    }

    #[test]
    fn a_wheel_stays_while_a_base_that_stays_has_it_or_it_is_young() {
        let wheel = |name: &str, days: i64| Stray {
            tag: format!("wheel-{name}").parse().unwrap(),
            digest: Digest::of(name.as_bytes()),
            created: Timestamp::from_second((1000 - days) * DAY),
        };
        let with = |name: &str, days: i64, wheel: &Stray| PublishedBase {
            wheels: [wheel.tag.clone()].into(),
            ..old(name, days)
        };
        let [used, unused, fresh, of_gone] =
            [("a", 90), ("b", 90), ("c", 1), ("d", 90)].map(|(name, days)| wheel(name, days));
        let survey = Survey {
            bases: vec![with("new", 1, &used), with("x", 90, &of_gone)],
            wheels: vec![used, unused.clone(), fresh, of_gone.clone()],
            ..Survey::default()
        };
        let plan = prune(&survey, &rules(1));
        assert!(plan.digests.ends_with(&[unused.digest, of_gone.digest]), "{plan:?}");
        assert_eq!(plan.verdicts.iter().filter(|verdict| verdict.keep).count(), 3, "{plan:?}");
    }

    #[track_caller]
    fn stays(edit: impl FnOnce(&mut Survey, &mut Rules), why: &str) {
        let mut survey = Survey { bases: vec![old("x", 90)], ..Survey::default() };
        let mut rules = rules(0);
        assert!(!prune(&survey, &rules).verdicts[0].keep, "without anything that keeps it, it goes");
        edit(&mut survey, &mut rules);
        let plan = prune(&survey, &rules);
        assert_eq!(plan.verdicts[0].reasons, [why]);
        assert!(plan.verdicts[0].keep && plan.digests.is_empty());
    }

    #[test]
    fn each_reason_alone_keeps_a_base() {
        stays(|survey, _| survey.bases[0].tags.push(Tag::latest()), "the tag `latest` names it");
        stays(|survey, _| survey.bases[0].tags.push("main".parse().unwrap()), "the tag `main` names it");
        stays(|survey, rules| rules.this_tree = survey.bases[0].fingerprint, "it is this tree's base");
        stays(|survey, rules| rules.pinned = Some(survey.bases[0].digest), "`images.lock` pins it");
        stays(|survey, rules| rules.pinned = survey.bases[0].parts.first().copied(), "`images.lock` pins it");
        stays(|survey, _| survey.apps.push(app(&survey.bases[0], 80, &["1.2.3"])), "the app `1.2.3` is built on it");
        stays(
            |survey, _| survey.apps.push(app(&survey.bases[0], 3, &[])),
            "the app `aaaaaaaaaaaa`, 3 days old, is built on it",
        );
        stays(|_, rules| rules.keep = 1, "one of the newest 1");
        stays(|_, rules| rules.older_than = days(91), "90 days old");
        // A clock that was ahead: not yet as old as nothing.
        stays(
            |survey, rules| {
                survey.bases[0].created = Timestamp::from_second(1001 * DAY);
                rules.older_than = Duration::ZERO;
            },
            "0 min old",
        );
        stays(|survey, _| survey.bases[0].created = None, "its age is unknown");
        stays(
            |survey, _| {
                survey.bases[0].fingerprint = None;
                survey.bases[0].own_tag = survey.bases[0].tags.first().cloned();
            },
            "it has no fingerprint: `cargo xtask` did not build it",
        );
    }

    #[test]
    fn an_old_app_without_a_name_keeps_no_base() {
        let bases = vec![old("x", 90)];
        let survey = Survey { apps: vec![app(&bases[0], 80, &[])], bases, ..Survey::default() };
        assert!(!prune(&survey, &rules(0)).verdicts[0].keep);
    }

    #[test]
    fn a_base_goes_with_its_parts_and_before_them() {
        let survey = Survey { bases: vec![old("new", 1), old("x", 90)], ..Survey::default() };
        let plan = prune(&survey, &rules(0));
        let gone = &survey.bases[1];
        assert_eq!(plan.digests, [gone.digest, *gone.parts.first().unwrap()]);
    }

    #[test]
    fn a_replaced_manifest_is_reported() {
        let mut kept = old("x", 90);
        kept.tags.push(Tag::latest());
        let tag: Tag = "aaaaaaaaaaaa-linux-amd64".parse().unwrap();
        kept.staging = [(tag, Digest::of(b"the one before"))].into_iter().collect();
        let plan = prune(&Survey { bases: vec![kept], ..Survey::default() }, &rules(0));
        assert_eq!(plan.digests, [Digest::of(b"the one before")]);
        let [_, before] = &plan.verdicts[..] else { panic!("{:?}", plan.verdicts) };
        assert_eq!((before.name.as_str(), before.keep), ("aaaaaaaaaaaa-linux-amd64", false));
        assert_eq!(before.reasons, ["another build replaced it: no index that stays lists it"]);
    }

    #[test]
    fn the_age_of_an_image_counts_from_its_build_not_from_its_commit() {
        let now = rules(0).now;
        // Of an old commit, built a minute ago; and the reverse, where the commit's clock was wrong.
        let minute = Timestamp::from_second(now.as_second() - 60);
        let fresh = PublishedBase { built: minute, ..old("fresh", 90) };
        let stale = PublishedBase { built: Timestamp::from_second(900 * DAY), ..old("stale", 0) };
        let survey = Survey { bases: vec![fresh.clone(), stale.clone()], ..Survey::default() };
        let plan = prune(&survey, &rules(0));
        assert_eq!(plan.verdicts[0].reasons, ["1 min old"]);
        assert!(plan.verdicts[1].reasons[0].starts_with("100 days old"), "{:?}", plan.verdicts[1]);
        assert_eq!(plan.digests[0], stale.digest);
        // An app that was built just now keeps its base.
        let app = PublishedApp { built: minute, ..app(&stale, 90, &[]) };
        let plan = prune(&Survey { bases: vec![stale], apps: vec![app], ..Survey::default() }, &rules(0));
        assert_eq!(plan.verdicts[0].reasons, ["the app `aaaaaaaaaaaa`, 1 min old, is built on it"]);
    }

    #[test]
    fn a_stray_stays_while_a_build_may_be_at_it() {
        let stray = |days: i64| Stray {
            tag: "aaaaaaaaaaaa-linux-amd64".parse().unwrap(),
            digest: Digest::of(b"stray"),
            created: Timestamp::from_second((1000 - days) * DAY),
        };
        let plan = |days| prune(&Survey { strays: vec![stray(days)], ..Survey::default() }, &rules(0)).digests;
        assert_eq!(plan(1), []);
        assert_eq!(plan(90), [Digest::of(b"stray")]);
    }

    /// Bases that share manifests, as indexes do to which a platform was added, and apps on some of them.
    fn surveys() -> impl Strategy<Value = (Survey, Rules)> {
        let one = (0_i64..90, vec(0_u8..6, 1..4), vec(0_u8..6, 0..3), 0_u8..8);
        (vec(one, 0..8), vec((0_usize..8, 0_i64..90, any::<bool>()), 0..5), 0_usize..4, vec((0_u8..6, 0_i64..90), 0..3))
            .prop_map(|(made, apps, keep, strays)| {
                let part = |number: u8| Digest::of(&[number]);
                let mut bases = Vec::new();
                for (index, (days, parts, staging, odd)) in made.into_iter().enumerate() {
                    let mut base = old(&format!("base {index}"), days);
                    base.parts = parts.iter().map(|number| part(*number)).collect();
                    base.platforms.values_mut().for_each(|digest| *digest = part(parts[0]));
                    let tags = staging.iter().map(|number| format!("aaaaaaaaaaa{number}-linux-amd64").parse().unwrap());
                    base.staging = tags.zip(staging.iter().map(|number| part(*number))).collect();
                    if odd == 0 {
                        base.tags.push("main".parse().unwrap());
                    }
                    if odd == 1 {
                        base.fingerprint = None;
                    }
                    bases.push(base);
                }
                bases.sort_by_key(|base| std::cmp::Reverse(base.created));
                let on = |(index, days, named): (usize, i64, bool)| {
                    let names: &[&str] = if named { &["v"] } else { &[] };
                    bases.get(index).map(|base| app(base, days, names))
                };
                let apps = apps.into_iter().filter_map(on).collect();
                let strays = strays.into_iter().map(|(number, days)| Stray {
                    tag: "bbbbbbbbbbbb-linux-amd64".parse().unwrap(),
                    digest: part(number),
                    created: Timestamp::from_second((1000 - days) * DAY),
                });
                let strays = strays.collect();
                (Survey { bases, apps, strays, wheels: Vec::new() }, rules(keep))
            })
    }

    proptest! {
        #[test]
        fn nothing_that_is_kept_refers_to_something_that_is_deleted((survey, rules) in surveys()) {
            let plan = prune(&survey, &rules);
            for (base, verdict) in survey.bases.iter().zip(&plan.verdicts) {
                if verdict.keep {
                    prop_assert!(base.reachable().all(|digest| !plan.digests.contains(&digest)));
                } else {
                    prop_assert!(plan.digests.contains(&base.digest));
                }
                prop_assert!(!verdict.reasons.is_empty());
            }
            // No app that is named loses its base.
            for app in survey.apps.iter().filter(|app| !app.names.is_empty()) {
                prop_assert!(app.built_on.iter().all(|digest| !plan.digests.contains(digest)));
            }
        }

        #[test]
        fn whatever_is_deleted_is_reported_or_belongs_to_a_reported_base((survey, rules) in surveys()) {
            let plan = prune(&survey, &rules);
            let told: BTreeSet<Digest> =
                plan.verdicts.iter().filter(|verdict| !verdict.keep).map(|verdict| verdict.digest).collect();
            let gone = survey.bases.iter().filter(|base| told.contains(&base.digest));
            let parts: BTreeSet<Digest> =
                gone.flat_map(|base| base.parts.iter().chain(base.staging.values())).copied().collect();
            prop_assert!(plan.digests.iter().all(|digest| told.contains(digest) || parts.contains(digest)));
        }

        #[test]
        fn each_is_deleted_once_and_indexes_first((survey, rules) in surveys()) {
            let plan = prune(&survey, &rules);
            let unique: BTreeSet<&Digest> = plan.digests.iter().collect();
            prop_assert_eq!(unique.len(), plan.digests.len());
            let gone = plan.verdicts.iter().zip(&survey.bases).filter(|(verdict, _)| !verdict.keep).count();
            let indexes: BTreeSet<Digest> = survey.bases.iter().map(|base| base.digest).collect();
            prop_assert!(plan.digests[..gone].iter().all(|digest| indexes.contains(digest)));
        }

        #[test]
        fn pruning_again_finds_nothing_more((survey, rules) in surveys()) {
            let plan = prune(&survey, &rules);
            let gone = |digest: &Digest| plan.digests.contains(digest);
            let mut after = survey.clone();
            after.bases.retain(|base| !gone(&base.digest));
            after.strays.retain(|stray| !gone(&stray.digest));
            after.bases.iter_mut().for_each(|base| base.staging.retain(|_, digest| !gone(digest)));
            prop_assert!(prune(&after, &rules).digests.is_empty());
        }

        #[test]
        fn keeping_more_deletes_no_more((survey, rules) in surveys()) {
            let more = Rules { keep: rules.keep + 1, ..rules.clone() };
            let (few, many) = (prune(&survey, &more).digests, prune(&survey, &rules).digests);
            prop_assert!(few.iter().all(|digest| many.contains(digest)));
        }
    }
}
