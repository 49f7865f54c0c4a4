//! Pruning of compiled dependencies, with a reason for each: a pure function of what the registry has.

use super::{Stored, Verdict, age};
use crate::spec::reference::Digest;
use crate::time::Timestamp;
use std::time::Duration;

/// Plans the deletion: the newest and the young stay. Which machines still pull one is unknown.
pub fn prune_dependencies(mut stored: Vec<Stored>, keep: usize, older_than: Duration, now: Timestamp) -> Vec<Verdict> {
    stored.sort_by_key(|one| (std::cmp::Reverse(one.created), one.tag.clone()));
    // A manifest may have two tags: deleting it takes both.
    let mut digests: Vec<Digest> = stored.iter().map(|one| one.digest).collect();
    digests.dedup();
    digests.truncate(keep);
    let verdict = |one: Stored| {
        let age = age(one.created, now);
        let is_newest = digests.contains(&one.digest);
        let is_young = one.created.is_none_or(|created| now.since(created) < older_than);
        let reason = match (is_newest, is_young) {
            (true, _) => format!("one of the newest {keep}"),
            (false, true) => format!("{age} old"),
            (false, false) => format!("{age} old, not one of the newest {keep}"),
        };
        let (name, keep) = (one.tag.to_string(), is_newest || is_young);
        Verdict { name, digest: one.digest, size: one.size, keep, reasons: vec![reason] }
    };
    stored.into_iter().map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_the_young_stay() {
        const DAY: i64 = 86_400;
        let at = |days: i64| Timestamp::from_second(days * DAY).unwrap();
        let one = |tag: &str, created: Option<i64>| Stored {
            tag: tag.parse().unwrap(),
            digest: Digest::of(tag.as_bytes()),
            created: created.map(at),
            size: 1,
        };
        let all = vec![one("old", Some(10)), one("young", Some(99)), one("newest", Some(100)), one("unknown", None)];
        let verdicts = prune_dependencies(all, 1, Duration::from_secs(7 * 86_400), at(101));
        let verdicts: Vec<(&str, bool)> = verdicts.iter().map(|one| (&*one.name, one.keep)).collect();
        assert_eq!(verdicts, [("newest", true), ("young", true), ("old", false), ("unknown", true)]);
    }
}
