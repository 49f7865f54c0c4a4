//! Packages that were imported together, and which of them a change of the packages can affect.
//!
//! Pure. A package uses another one if its metadata names it, for whatever marker or extra, if one of its sources may import a module
//! of it, or if it looks for plugins and the other one has some. A package of which neither itself nor anything that it
//! uses, directly or not, is new, changed or gone is imported as it was before.

use crate::spec::lock::Pin;
use crate::spec::reference::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Version of the check and of this record. Increase it with either: older records then count for nothing.
pub const VERSION: u32 = 1;

/// Packages that were imported, and the root and scripts of the check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// [`VERSION`].
    pub version: u32,
    /// Digest of everything that the imports depend on but for the packages: root, Python, platform and scripts.
    pub setting: Digest,
    pub packages: BTreeMap<String, CheckedPackage>,
    /// The packages that have different bytes at a path, for each such path; the last one's are used.
    pub shared: BTreeMap<String, Vec<String>>,
}

/// A package as it is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedPackage {
    pub pin: Pin,
    /// Digest of the installed `RECORD`.
    pub record: Digest,
    /// Normalised names that its metadata requires.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub requires: BTreeSet<String>,
    /// First parts of the names that its sources may import.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub imports: BTreeSet<String>,
    /// Entry points other than scripts: other packages may find and import it by them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_plugins: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finds_plugins: bool,
    /// Paths from site-packages, as `RECORD` has them.
    pub paths: Paths,
}

/// Paths in order, each once. A large base has a hundred thousand, of which most share their folders: a path is kept as the number of bytes
/// that it shares with the one before, and the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths(Vec<u8>);

impl Paths {
    pub fn iter(&self) -> impl Iterator<Item = String> {
        let (mut rest, mut last) = (self.0.as_slice(), Vec::new());
        std::iter::from_fn(move || {
            let (head, after) = rest.split_first_chunk::<4>()?;
            let [shared, own] = [[head[0], head[1]], [head[2], head[3]]].map(u16::from_le_bytes).map(usize::from);
            last.truncate(shared);
            last.extend_from_slice(&after[..own]);
            rest = &after[own..];
            Some(String::from_utf8(last.clone()).expect("it was a string"))
        })
    }
}

impl<S: AsRef<str>> FromIterator<S> for Paths {
    /// Leaves out paths that no system has: longer than 64 KiB.
    fn from_iter<I: IntoIterator<Item = S>>(paths: I) -> Self {
        let mut paths: Vec<S> = paths.into_iter().collect();
        paths.sort_unstable_by(|one, two| one.as_ref().cmp(two.as_ref()));
        paths.dedup_by(|one, two| one.as_ref() == two.as_ref());
        let (mut coded, mut last) = (Vec::new(), &b""[..]);
        for path in &paths {
            let path = path.as_ref().as_bytes();
            let shared = path.iter().zip(last).take_while(|(one, two)| one == two).count();
            let size = |length: usize| u16::try_from(length).map(u16::to_le_bytes);
            let (Ok(shared_size), Ok(own)) = (size(shared), size(path.len() - shared)) else { continue };
            coded.extend_from_slice(&[shared_size, own].concat());
            coded.extend_from_slice(&path[shared..]);
            last = path;
        }
        coded.shrink_to_fit();
        Self(coded)
    }
}

impl Serialize for Paths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<Cow<'de, str>>::deserialize(deserializer).map(Self::from_iter)
    }
}

impl CheckedPackage {
    /// Names by which Python imports it: of folders and modules at the top of site-packages.
    pub fn modules(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for path in self.paths.iter() {
            let top = path.split('/').next().unwrap_or(&path);
            let module = top.split('.').next().unwrap_or(top);
            if top != ".." && !top.ends_with(".dist-info") && !found.contains(module) {
                found.insert(module.to_owned());
            }
        }
        found
    }

    /// True if it changes how all others are imported.
    fn is_global(&self) -> bool {
        self.paths.iter().any(|path: String| {
            let top = path.split('/').next().unwrap_or(&path);
            path.ends_with(".pth") && !path.contains('/')
                || matches!(top.split('.').next(), Some("sitecustomize" | "usercustomize"))
        })
    }
}

/// Names of one package that other packages use.
struct Offer<'a> {
    name: &'a str,
    modules: BTreeSet<String>,
    has_plugins: bool,
}

impl<'a> Offer<'a> {
    fn of(package: &'a CheckedPackage) -> Self {
        Self { name: &package.pin.name, modules: package.modules(), has_plugins: package.has_plugins }
    }

    fn is_used_by(&self, user: &CheckedPackage) -> bool {
        user.requires.contains(self.name)
            || user.finds_plugins && self.has_plugins
            || self.modules.iter().any(|module| user.imports.contains(module))
    }
}

pub type Packages = BTreeMap<String, CheckedPackage>;

/// Packages that have to be imported again: new and changed ones, and those that use, directly or not, what is new, changed or gone.
pub fn affected<'a>(before: &Packages, now: &'a Packages) -> BTreeSet<&'a str> {
    let changed = |name: &str| before.get(name) != now.get(name);
    let versions = [before, now];
    let moved: Vec<&CheckedPackage> = versions
        .iter()
        .flat_map(|all| all.iter())
        .filter(|(name, _)| changed(name))
        .map(|(_, package)| package)
        .collect();
    if moved.iter().any(|package| package.is_global()) {
        return now.keys().map(String::as_str).collect();
    }
    let mut found: BTreeSet<&str> = now.keys().map(String::as_str).filter(|name| changed(name)).collect();
    let mut open: Vec<Offer<'_>> = moved.into_iter().map(Offer::of).collect();
    while let Some(offer) = open.pop() {
        for (name, user) in now {
            if !found.contains(name.as_str()) && offer.is_used_by(user) {
                found.insert(name);
                open.push(Offer::of(user));
            }
        }
    }
    found
}

/// These packages with all that they use, directly or not.
pub fn closure<'a>(packages: &'a Packages, of: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let offers: Vec<Offer<'a>> = packages.values().map(Offer::of).collect();
    let mut open: Vec<&str> = of.into_iter().collect();
    let mut found = BTreeSet::new();
    while let Some(name) = open.pop() {
        let Some(package) = packages.get(name).filter(|_| found.insert(name)) else { continue };
        open.extend(offers.iter().filter(|offer| offer.is_used_by(package)).map(|offer| offer.name));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn package(name: &str, version: &str, requires: &[&str], imports: &[&str]) -> CheckedPackage {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let pin = Pin {
            name: name.to_owned(),
            version: version.to_owned(),
            extras: BTreeSet::new(),
            marker: None,
            url: None,
            hashes: Digest::of(version.as_bytes()),
        };
        let paths = [format!("{name}/__init__.py"), format!("{name}-{version}.dist-info/RECORD")].into_iter().collect();
        let record = Digest::of(format!("{name} {version}").as_bytes());
        let (requires, imports) = (set(requires), set(imports));
        CheckedPackage { pin, record, requires, imports, has_plugins: false, finds_plugins: false, paths }
    }

    fn all(packages: &[CheckedPackage]) -> Packages {
        packages.iter().map(|package| (package.pin.name.clone(), package.clone())).collect()
    }

    #[track_caller]
    fn check(before: &[CheckedPackage], now: &[CheckedPackage], expected: &[&str]) {
        assert_eq!(affected(&all(before), &all(now)).into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_change_reaches_what_requires_or_imports_it() {
        let (pytz, newer) = (package("pytz", "1", &[], &[]), package("pytz", "2", &[], &[]));
        let pandas = package("pandas", "1", &["pytz", "numexpr"], &["bottleneck"]);
        let (user, other) = (package("user", "1", &[], &["pandas"]), package("other", "1", &["absent"], &["os"]));
        let base = [pandas.clone(), user.clone(), other.clone()];
        let with = |one: &CheckedPackage| [&base[..], std::slice::from_ref(one)].concat();
        check(&with(&pytz), &with(&pytz), &[]);
        check(&with(&pytz), &with(&newer), &["pandas", "pytz", "user"]);
        // An optional dependency that nothing names but an extra, or a source.
        for (optional, expected) in
            [("numexpr", ["numexpr", "pandas", "user"]), ("bottleneck", ["bottleneck", "pandas", "user"])]
        {
            let optional = package(optional, "1", &[], &[]);
            check(&base, &with(&optional), &expected);
            check(&with(&optional), &base, &["pandas", "user"]);
        }
        // A module that the distribution is not called like.
        let carrier = CheckedPackage {
            paths: ["bottleneck.cpython-313-x86_64-linux-gnu.so"].into_iter().collect(),
            ..package("carrier", "1", &[], &[])
        };
        check(&base, &with(&carrier), &["carrier", "pandas", "user"]);
        assert_eq!(closure(&all(&with(&pytz)), ["user"]), BTreeSet::from(["pandas", "pytz", "user"]));
    }

    #[test]
    fn plugins_and_start_files_reach_further() {
        let finder = CheckedPackage { finds_plugins: true, ..package("finder", "1", &[], &[]) };
        let plugin = CheckedPackage { has_plugins: true, ..package("plugin", "1", &["finder"], &[]) };
        let other = package("other", "1", &[], &[]);
        check(
            &[finder.clone(), other.clone()],
            &[finder.clone(), other.clone(), plugin.clone()],
            &["finder", "plugin"],
        );
        for path in ["x.pth", "sitecustomize.py", "usercustomize/__init__.py"] {
            let global = CheckedPackage { paths: [path].into_iter().collect(), ..package("global", "1", &[], &[]) };
            let alone = std::slice::from_ref(&other);
            check(&[other.clone(), global.clone()], alone, &["other"]);
            check(alone, &[other.clone(), global], &["global", "other"]);
        }
    }

    const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

    /// Packages with random uses of each other: of required ones and of imported ones.
    fn graph() -> impl Strategy<Value = BTreeMap<usize, (Vec<usize>, Vec<usize>)>> {
        let uses = || proptest::collection::vec(0..NAMES.len(), 0..3);
        proptest::collection::btree_map(0..NAMES.len(), (uses(), uses()), 0..NAMES.len())
    }

    fn packages(graph: &BTreeMap<usize, (Vec<usize>, Vec<usize>)>, version: &str) -> Packages {
        let names = |list: &[usize]| list.iter().map(|at| NAMES[*at]).collect::<Vec<_>>();
        all(&graph.iter().map(|(at, (r, i))| package(NAMES[*at], version, &names(r), &names(i))).collect::<Vec<_>>())
    }

    #[test]
    fn paths_with_the_same_folders_take_few_bytes() {
        let path = |number: u32| format!("torch/include/ATen/native/cuda/kernels/forward_{number:05}.h");
        let paths: Paths = (0..10_000).map(path).collect();
        let bytes = paths.0.capacity();
        assert!(bytes < 10_000 * 12, "{bytes} bytes");
    }

    proptest! {
        #[test]
        fn paths_are_a_set_in_order_and_written_as_a_list(paths in proptest::collection::vec("[abé/.]{0,9}", 0..30)) {
            let set: BTreeSet<String> = paths.iter().cloned().collect();
            let kept: Paths = paths.iter().collect();
            prop_assert_eq!(kept.iter().collect::<Vec<_>>(), set.iter().cloned().collect::<Vec<_>>());
            let json = serde_json::to_string(&kept).unwrap();
            prop_assert_eq!(&json, &serde_json::to_string(&set).unwrap());
            prop_assert_eq!(serde_json::from_str::<Paths>(&json).unwrap(), kept);
        }

        #[test]
        fn what_is_not_imported_has_an_unchanged_closure(
            first in graph(), other in graph(), taken in proptest::collection::btree_set(0..NAMES.len(), 0..4),
        ) {
            // Some packages are those of another graph, in another version, or missing.
            let (before, other) = (packages(&first, "1"), packages(&other, "2"));
            let mut now = before.clone();
            for name in taken.iter().map(|at| NAMES[*at]) {
                match other.get(name) {
                    Some(package) => drop(now.insert(name.to_owned(), package.clone())),
                    None => drop(now.remove(name)),
                }
            }
            let imported = affected(&before, &now);
            for name in now.keys().filter(|name| !imported.contains(name.as_str())) {
                let (old, new) = (closure(&before, [name.as_str()]), closure(&now, [name.as_str()]));
                prop_assert_eq!(&old, &new);
                prop_assert!(new.iter().all(|used| before[*used] == now[*used]), "{} of {}", name, imported.len());
            }
            // What stays is known before what is new, and so is a part of what will be imported and loaded.
            let stay: Packages = now.iter().filter(|(name, one)| before.get(*name) == Some(*one))
                .map(|(name, one)| (name.clone(), one.clone())).collect();
            let presumed = closure(&stay, affected(&before, &stay));
            let loaded = closure(&now, imported.iter().copied());
            prop_assert!(presumed.is_subset(&loaded), "{:?} {:?}", presumed, loaded);
            let again = closure(&now, loaded.iter().copied());
            prop_assert_eq!(loaded, again);
        }
    }
}
