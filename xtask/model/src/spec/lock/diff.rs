//! Differences between two locks, by distribution.
//!
//! Pure.

use super::{LockMeaning, Pin};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum LockChange {
    Added {
        name: String,
        version: String,
    },
    Removed {
        name: String,
        version: String,
    },
    Version {
        name: String,
        from: String,
        to: String,
    },
    /// The same version, from other files, with other extras or under another marker.
    Detail {
        name: String,
        version: String,
        /// `hashes`, `extras`, `marker` or `url`, sorted.
        what: BTreeSet<&'static str>,
    },
    Option {
        /// `--no-binary` or `--only-binary`.
        name: &'static str,
    },
}

impl fmt::Display for LockChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { name, version } => write!(f, "added {name} {version}"),
            Self::Removed { name, version } => write!(f, "removed {name} {version}"),
            Self::Version { name, from, to } => write!(f, "{name} {from} -> {to}"),
            Self::Detail { name, version, what } => {
                let what: Vec<&str> = what.iter().copied().collect();
                write!(f, "{name} {version}: {} changed", what.join(" and "))
            }
            Self::Option { name } => write!(f, "`{name}` changed"),
        }
    }
}

/// The differences, in the order of names; empty exactly when the meanings are equal (schemas aside).
pub fn diff(old: &LockMeaning, new: &LockMeaning) -> Vec<LockChange> {
    let (before, after) = (by_name(old), by_name(new));
    let names: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    let mut changes = Vec::new();
    for name in names {
        let (old, new) = (before.get(name).cloned(), after.get(name).cloned());
        one(old.unwrap_or_default(), new.unwrap_or_default(), &mut changes);
    }
    for (name, same) in
        [("--no-binary", old.no_binary == new.no_binary), ("--only-binary", old.only_binary == new.only_binary)]
    {
        if !same {
            changes.push(LockChange::Option { name });
        }
    }
    changes
}

fn by_name(meaning: &LockMeaning) -> BTreeMap<&str, Vec<&Pin>> {
    let mut names: BTreeMap<&str, Vec<&Pin>> = BTreeMap::new();
    for pin in &meaning.packages {
        names.entry(&pin.name).or_default().push(pin);
    }
    names
}

/// Pairs the pins of one name: equal ones first, then those under one marker, then those of one version, then as they come.
fn one<'a>(mut old: Vec<&'a Pin>, mut new: Vec<&'a Pin>, changes: &mut Vec<LockChange>) {
    pair(&mut old, &mut new, |a, b| a == b, &mut |_, _| {});
    let mut changed = |a: &Pin, b: &Pin| changes.push(change(a, b));
    pair(&mut old, &mut new, |a, b| a.marker == b.marker, &mut changed);
    pair(&mut old, &mut new, |a, b| a.version == b.version, &mut changed);
    pair(&mut old, &mut new, |_, _| true, &mut changed);
    changes.extend(
        old.into_iter().map(|pin| LockChange::Removed { name: pin.name.clone(), version: pin.version.clone() }),
    );
    changes
        .extend(new.into_iter().map(|pin| LockChange::Added { name: pin.name.clone(), version: pin.version.clone() }));
}

fn pair<'a>(
    old: &mut Vec<&'a Pin>,
    new: &mut Vec<&'a Pin>,
    alike: fn(&Pin, &Pin) -> bool,
    found: &mut dyn FnMut(&Pin, &Pin),
) {
    old.retain(|before| match new.iter().position(|after| alike(before, after)) {
        Some(index) => {
            found(before, new.remove(index));
            false
        }
        None => true,
    });
}

fn change(old: &Pin, new: &Pin) -> LockChange {
    let name = new.name.clone();
    if old.version != new.version {
        return LockChange::Version { name, from: old.version.clone(), to: new.version.clone() };
    }
    let parts = [
        ("extras", old.extras != new.extras),
        ("hashes", old.hashes != new.hashes),
        ("marker", old.marker != new.marker),
        ("url", old.url != new.url),
    ];
    let what = parts.into_iter().filter(|(_, differs)| *differs).map(|(part, _)| part).collect();
    LockChange::Detail { name, version: new.version.clone(), what }
}
