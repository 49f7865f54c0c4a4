//! Grouping of packages into layers.
//!
//! Pure: depends on the pins and the directly requested names. Groups are independent, so a new, removed or changed
//! package affects only its own group.

use std::collections::{BTreeMap, BTreeSet};
use xtask_model::spec::lock::LockedPackage;
use xtask_model::spec::reference::Digest;

/// Groups of indirect packages: far fewer than the limit of 127 layers, and enough that each is a small part of the
/// whole.
const SHARED: u8 = 16;

/// Packages that get a layer of their own; if more are requested, they share this number of groups.
const OWN: u8 = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Name in reports: `scipy 1.17.0`.
    pub(super) name: String,
    /// Sorted by name, never empty.
    pub(super) packages: Vec<LockedPackage>,
}

/// Groups by name, those of direct packages first.
pub(super) fn groups(packages: &[LockedPackage], direct: &BTreeSet<String>) -> Vec<Group> {
    let named = packages.iter().filter(|package| direct.contains(&package.name)).count();
    let mut found: BTreeMap<(u8, String), Vec<LockedPackage>> = BTreeMap::new();
    for package in packages {
        let key = match (direct.contains(&package.name), named <= usize::from(OWN)) {
            (true, true) => (0, package.name.clone()),
            (true, false) => (1, bucket(&package.name, OWN)),
            (false, _) => (2, bucket(&package.name, SHARED)),
        };
        found.entry(key).or_default().push(package.clone());
    }
    found.into_values().map(group).collect()
}

fn bucket(name: &str, count: u8) -> String {
    let first =
        u8::from_str_radix(&Digest::of(name.as_bytes()).hex()[..2], 16).expect("a digest has hexadecimal digits");
    format!("{:03}", first % count)
}

fn group(mut packages: Vec<LockedPackage>) -> Group {
    packages.sort();
    let shown: Vec<String> =
        packages.iter().take(3).map(|package| format!("{} {}", package.name, package.version)).collect();
    let more = packages.len() - shown.len();
    let name = shown.join(", ");
    Group { name: if more == 0 { name } else { format!("{name} and {more} more") }, packages }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn package(name: &str) -> LockedPackage {
        LockedPackage {
            name: name.to_owned(),
            version: "1".to_owned(),
            extras: BTreeSet::new(),
            marker: None,
            url: None,
            hashes: BTreeSet::from(["sha256:00".to_owned()]),
        }
    }

    #[track_caller]
    fn check(packages: &[&str], direct: &[&str], expected: &[&str]) {
        let packages: Vec<_> = packages.iter().copied().map(package).collect();
        let direct = direct.iter().map(|name| (*name).to_owned()).collect();
        let found: Vec<_> = groups(&packages, &direct).into_iter().map(|group| group.name).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn direct_packages_have_their_own_group() {
        check(&["numpy", "scipy", "six"], &["scipy", "numpy", "gone"], &["numpy 1", "scipy 1", "six 1"]);
        check(&[], &["numpy"], &[]);
        check(&["patsy", "pytz"], &[], &["patsy 1", "pytz 1"]);
    }

    #[test]
    fn indirect_packages_of_a_bucket_share_a_group() {
        let names: Vec<String> = (0..200).map(|number| format!("p{number}")).collect();
        let packages: Vec<_> = names.iter().map(|name| package(name)).collect();
        let shared = groups(&packages, &BTreeSet::new());
        assert_eq!(shared.len(), usize::from(SHARED));
        assert!(shared.iter().any(|group| group.name.contains(" and ")));
        let all = groups(&packages, &names.iter().cloned().collect());
        assert!(all.len() <= usize::from(OWN), "{}", all.len());
    }

    proptest! {
        #[test]
        fn groups_are_complete_and_stable_when_a_package_is_added(
            names in proptest::collection::btree_set("[a-z]{1,6}", 1..80),
            direct in proptest::collection::btree_set("[a-z]{1,6}", 0..9),
        ) {
            let packages: Vec<_> = names.iter().map(|name| package(name)).collect();
            let whole = groups(&packages, &direct);
            let mut shown: Vec<_> = whole.iter().flat_map(|group| group.packages.clone()).collect();
            shown.sort();
            prop_assert_eq!(&shown, &packages);
            prop_assert!(whole.len() <= usize::from(OWN) + usize::from(SHARED));
            let before = groups(&packages[1..], &direct);
            let newcomer = &packages[0];
            for group in &whole {
                if !group.packages.contains(newcomer) {
                    prop_assert!(before.contains(group));
                }
            }
        }
    }
}
