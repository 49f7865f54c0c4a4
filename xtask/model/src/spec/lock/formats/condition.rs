//! The condition under which a package is installed: alternatives, each of which is a set of comparisons that all hold.
//!
//! Pure. Comparisons that have one answer on every target are replaced by it, so what stays is about differences between the
//! targets: another processor, another Python.

use crate::spec::requirements::{Environment, Marker};
use std::collections::BTreeSet;

/// Alternatives that a condition may have: enough for what differs between the targets of one policy.
const MOST: usize = 200;

/// Never true without an alternative, always with an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Condition(BTreeSet<BTreeSet<Marker>>);

/// The answer to a comparison that has only one.
pub(super) type KnownAnswer<'a> = &'a dyn Fn(&Marker) -> Option<bool>;

impl Condition {
    pub(super) fn always() -> Self {
        Self(BTreeSet::from([BTreeSet::new()]))
    }

    pub(super) fn of(marker: &Marker, known: KnownAnswer<'_>) -> Self {
        match marker {
            Marker::All(parts) => parts.iter().fold(Self::always(), |all, part| all.and(&Self::of(part, known))),
            Marker::Any(parts) => parts.iter().fold(Self::default(), |any, part| any.or(&Self::of(part, known))),
            Marker::Compare(..) => match known(marker) {
                Some(true) => Self::always(),
                Some(false) => Self::default(),
                None => Self(BTreeSet::from([BTreeSet::from([marker.clone()])])),
            },
        }
    }

    pub(super) fn or(&self, other: &Self) -> Self {
        let all: BTreeSet<BTreeSet<Marker>> = self.0.union(&other.0).cloned().collect();
        // An alternative that demands more than another one adds nothing.
        let needed = all.iter().filter(|one| !all.iter().any(|less| less != *one && less.is_subset(one)));
        Self(needed.cloned().collect())
    }

    pub(super) fn and(&self, other: &Self) -> Self {
        let pairs = self.0.iter().flat_map(|one| other.0.iter().map(move |two| one.union(two).cloned().collect()));
        Self(pairs.collect()).or(&Self::default())
    }

    pub(super) fn is_too_long(&self) -> bool {
        self.0.len() > MOST
    }

    /// The marker for a lock; the inner `None` where it holds on all targets, the outer one where it holds on none.
    #[allow(clippy::option_option, reason = "a package that is nowhere is not a package that is everywhere")]
    pub(super) fn marker(&self, targets: &[Environment]) -> Option<Option<String>> {
        let joined = |mut parts: Vec<Marker>, join: fn(Vec<Marker>) -> Marker| match parts.len() {
            1 => parts.pop(),
            _ => Some(join(parts)),
        };
        let alternatives = || self.0.iter().filter_map(|all| joined(all.iter().cloned().collect(), Marker::All));
        let holds = |target: &Environment| alternatives().any(|one| target.holds(&one, ""));
        if self.0.contains(&BTreeSet::new()) || targets.iter().all(holds) {
            return Some(None);
        }
        if !targets.iter().any(holds) {
            return None;
        }
        let text = joined(alternatives().collect(), Marker::Any)?.to_string();
        let normal = text.parse::<Marker>().map_or(text, |marker| marker.to_string());
        Some(Some(normal))
    }
}

/// Answers for all comparisons that do not differ between the targets. `extra` answers for names of extras and groups.
pub(super) fn known<'a>(
    targets: &'a [Environment],
    extra: &'a dyn Fn(&Marker) -> Option<bool>,
) -> impl Fn(&Marker) -> Option<bool> + 'a {
    move |comparison| {
        extra(comparison).or_else(|| {
            let held = targets.iter().filter(|target| target.holds(comparison, "")).count();
            match held {
                0 => Some(false),
                all if all == targets.len() => Some(true),
                _ => None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::lock::closure::environments;
    use crate::spec::reference::Platform;
    use proptest::prelude::*;

    fn targets(platforms: &[&str], pythons: &[&str]) -> Vec<Environment> {
        let platforms: Vec<Platform> = platforms.iter().map(|name| name.parse().unwrap()).collect();
        environments(&platforms, &pythons.iter().map(|python| (*python).to_owned()).collect()).collect()
    }

    fn shown(text: &str, targets: &[Environment]) -> Option<Option<String>> {
        Condition::of(&text.parse().unwrap(), &known(targets, &|_| None)).marker(targets)
    }

    #[test]
    fn only_what_differs_between_targets_stays() {
        let one = targets(&["linux/amd64"], &["3.11"]);
        assert_eq!(shown("sys_platform == 'win32'", &one), None);
        assert_eq!(shown("platform_machine == 'x86_64' and sys_platform != 'win32'", &one), Some(None));
        let patch = "python_full_version < '3.11.3'";
        assert_eq!(shown(patch, &one), Some(Some(patch.to_owned())));
        let two = targets(&["linux/amd64", "linux/arm64"], &["3.12"]);
        let text = "(platform_machine == 'x86_64' and sys_platform == 'linux') or sys_platform == 'darwin'";
        assert_eq!(shown(text, &two), Some(Some("platform_machine == 'x86_64'".to_owned())));
        assert_eq!(shown("platform_machine == 'x86_64' or platform_machine == 'aarch64'", &two), Some(None));
    }

    proptest! {
        /// A condition and the marker that is made of it hold in the same places.
        #[test]
        fn a_condition_keeps_the_meaning_of_its_marker(picks in proptest::collection::vec((0..6usize, 0..2usize), 1..6)) {
            const ATOMS: [&str; 6] = [
                "platform_machine == 'x86_64'", "platform_machine != 'x86_64'", "python_version < '3.13'",
                "python_full_version >= '3.12.4'", "sys_platform == 'win32'", "os_name == 'posix'",
            ];
            let targets = targets(&["linux/amd64", "linux/arm64"], &["3.12", "3.13"]);
            let text = picks.iter().skip(1).fold(ATOMS[picks[0].0].to_owned(), |text, (atom, join)| {
                format!("({text}) {} {}", ["and", "or"][*join], ATOMS[*atom])
            });
            let marker: Marker = text.parse().unwrap();
            let made = shown(&text, &targets);
            for target in &targets {
                let holds = match &made {
                    None => false,
                    Some(None) => true,
                    Some(Some(text)) => target.holds(&text.parse().unwrap(), ""),
                };
                prop_assert_eq!(holds, target.holds(&marker, ""), "{}: {:?}", text, made);
            }
        }
    }
}
