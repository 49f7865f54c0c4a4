//! Decides which parts of roots to delete and which to keep, with reasons: a pure function of a survey.
//!
//! A part saves time for builds on its root. It stays for a root that a base of the registry is on, whichever branch that base is of.

use super::{Stored, Verdict, age};
use crate::spec::reference::{Digest, Tag};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The parts in a registry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartSurvey {
    pub stored: Vec<Stored>,
    /// Tags of the parts of roots in use, with the use.
    pub needed: BTreeMap<Tag, String>,
}

/// Plans the deletion: the needed and the young stay. A build that reads one meanwhile reads its root instead.
pub fn prune_parts(survey: &PartSurvey, older_than: Duration, now: Timestamp) -> Vec<Verdict> {
    let judge = |one: &Stored| {
        let needed = survey.needed.get(&one.tag);
        let is_young = one.created.is_none_or(|created| now.since(created) < older_than);
        let age = age(one.created, now);
        let reason = match (needed, is_young) {
            (Some(reason), _) => reason.clone(),
            (None, true) => format!("{age} old"),
            (None, false) => format!("{age} old, and no base is on its root"),
        };
        (needed.is_some() || is_young, reason)
    };
    let judged: Vec<(&Stored, (bool, String))> = survey.stored.iter().map(|one| (one, judge(one))).collect();
    // A manifest may have two tags: deleting it takes both.
    let kept: BTreeSet<Digest> = judged.iter().filter(|(_, (keep, _))| *keep).map(|(one, _)| one.digest).collect();
    let verdict = |(one, (keep, reason)): (&Stored, (bool, String))| {
        let shared = !keep && kept.contains(&one.digest);
        let reasons = vec![if shared { "it has another tag, which stays".to_owned() } else { reason }];
        Verdict { name: one.tag.to_string(), digest: one.digest, size: one.size, keep: keep || shared, reasons }
    };
    judged.into_iter().map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn part(name: &str, days: Option<i64>) -> Stored {
        Stored {
            tag: format!("part-{name}").parse().unwrap(),
            digest: Digest::of(name.as_bytes()),
            created: days.and_then(|days| Timestamp::from_second((1000 - days) * DAY)),
            size: 1,
        }
    }

    #[track_caller]
    fn judged(survey: &PartSurvey, expected: &[(bool, &str)]) {
        let now = Timestamp::from_second(1000 * DAY).unwrap();
        let verdicts = prune_parts(survey, Duration::from_secs(30 * DAY as u64), now);
        let verdicts: Vec<(bool, &str)> = verdicts.iter().map(|one| (one.keep, &*one.reasons[0])).collect();
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn a_part_stays_while_its_root_is_in_use_or_it_is_young() {
        let all = [("used", Some(90)), ("old", Some(90)), ("young", Some(3)), ("unknown", None)];
        let stored = all.map(|(name, days)| part(name, days)).to_vec();
        let needed = BTreeMap::from([(stored[0].tag.clone(), "a base".to_owned())]);
        judged(
            &PartSurvey { stored, needed },
            &[
                (true, "a base"),
                (false, "90 days old, and no base is on its root"),
                (true, "3 days old"),
                (true, "unknown old"),
            ],
        );
    }

    #[test]
    fn a_manifest_stays_with_any_of_its_tags() {
        let (used, old) = (part("used", Some(90)), part("old", Some(90)));
        let stored = vec![Stored { digest: used.digest, ..old }, used.clone()];
        let needed = BTreeMap::from([(used.tag, "a base".to_owned())]);
        judged(&PartSurvey { stored, needed }, &[(true, "it has another tag, which stays"), (true, "a base")]);
    }
}
