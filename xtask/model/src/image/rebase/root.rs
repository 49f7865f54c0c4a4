//! Two roots: what the newer one fixes, and why images of the older one cannot be put on it.

use crate::spec::debian::status::DebianPackage;
use crate::spec::versions::Ecosystem;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Version of [`RootFacts`] as they are stored.
pub const SCHEMA: u32 = 1;

/// Accounts: layers above the root copy them and add their own.
const ACCOUNTS: [&str; 2] = ["etc/passwd", "etc/group"];

/// Everything of a root that counts for what is above it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootFacts {
    pub schema: u32,
    /// Fields of `os-release`.
    pub release: BTreeMap<String, String>,
    /// Debian packages: version by `name:architecture`.
    pub packages: BTreeMap<String, String>,
    /// Configuration files of packages, without the first `/`.
    pub conffiles: BTreeSet<String>,
    pub python: Option<RootPython>,
    /// Digest over kind, mode and contents of everything but folders, by path without the first `/`.
    pub files: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootPython {
    /// `3.12`.
    pub minor: String,
    /// `3.12.8`, where the root says it.
    pub version: Option<String>,
    /// `cpython-312-x86_64-linux-gnu`.
    pub abi: Option<String>,
}

/// Fields of an `os-release`.
pub fn release(text: &str) -> BTreeMap<String, String> {
    let field = |line: &str| {
        let (name, value) = line.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().trim_matches(['"', '\'']).to_owned()))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(field).collect()
}

/// Configuration files in dpkg's list of packages.
pub fn conffiles(status: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut within = false;
    for line in status.lines() {
        within = match line.strip_prefix(' ') {
            Some(entry) if within => {
                let path = entry.split(' ').next().unwrap_or_default();
                found.insert(path.trim_start_matches('/').to_owned());
                true
            }
            _ => line == "Conffiles:",
        };
    }
    found
}

/// `SOABI` in the text of Python's `_sysconfigdata` module.
pub fn abi(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("'SOABI':")?;
    let value = rest.trim_start().strip_prefix('\'')?;
    Some(value.split('\'').next()?.to_owned())
}

/// The folder of a Python's standard library in a path: `3.12` of `usr/lib/python3.12/os.py`.
pub fn minor(path: &str) -> Option<&str> {
    let folder = path.strip_suffix("/os.py")?.rsplit('/').next()?;
    let minor = folder.strip_prefix("python")?;
    minor.split_once('.').filter(|(_, rest)| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))?;
    Some(minor)
}

/// A package by its key in [`RootFacts::packages`].
pub fn package(one: &DebianPackage) -> (String, String) {
    (format!("{}:{}", one.name, one.architecture), one.version.clone())
}

/// A package that the newer root has in a newer version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fix {
    pub package: String,
    pub old: String,
    pub new: String,
    /// Vulnerabilities of the old version that the new one does not have, where a database is configured.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub advisories: BTreeSet<String>,
}

/// The packages that `new` has in a newer version; Python itself, where it is not a package.
pub fn fixes(old: &RootFacts, new: &RootFacts) -> Vec<Fix> {
    let mut found: Vec<Fix> = Vec::new();
    for (key, before) in &old.packages {
        let Some(after) = new.packages.get(key) else { continue };
        if order(before, after) == Some(Ordering::Less) {
            let package = key.split(':').next().unwrap_or(key).to_owned();
            found.push(Fix { package, old: before.clone(), new: after.clone(), advisories: BTreeSet::new() });
        }
    }
    let version = |facts: &RootFacts| facts.python.as_ref().and_then(|python| python.version.clone());
    if let (Some(before), Some(after)) = (version(old), version(new))
        && Ecosystem::Pypi.compare(&before, &after) == Some(Ordering::Less)
    {
        found.push(Fix { package: "python".to_owned(), old: before, new: after, advisories: BTreeSet::new() });
    }
    found
}

fn order(one: &str, other: &str) -> Option<Ordering> {
    Ecosystem::Debian(String::new()).compare(one, other)
}

/// Reasons why images on `old` cannot be put on `new`; empty where they can.
pub fn problems(old: &RootFacts, new: &RootFacts) -> Vec<String> {
    let mut found = Vec::new();
    let field = |facts: &RootFacts, name: &str| facts.release.get(name).cloned().unwrap_or_default();
    let system = |facts: &RootFacts| [field(facts, "ID"), field(facts, "VERSION_ID")].join(" ").trim().to_owned();
    let shown = |text: String| if text.is_empty() { "no `os-release`".to_owned() } else { format!("`{text}`") };
    let suite = |facts: &RootFacts| field(facts, "VERSION_CODENAME");
    if system(old) != system(new) {
        found.push(format!("the old root is {}, the new one {}", shown(system(old)), shown(system(new))));
    } else if suite(old) != suite(new) {
        found.push(format!("the old root's suite is {}, the new one's {}", shown(suite(old)), shown(suite(new))));
    }
    found.extend(python(old.python.as_ref(), new.python.as_ref()));
    for (key, before) in &old.packages {
        let name = key.split(':').next().unwrap_or(key);
        match new.packages.get(key) {
            // Programs above the root are linked with libraries.
            None if name.starts_with("lib") => found.push(format!("the new root has no package `{name}`")),
            None => {}
            Some(after) if name == "libc6" && order(before, after) == Some(Ordering::Greater) => {
                found.push(format!("`libc6` of the new root is older: {before} -> {after}"));
            }
            Some(_) => {}
        }
    }
    if !old.packages.is_empty() && new.packages.is_empty() {
        found = vec!["the new root has no list of Debian packages".to_owned()];
    }
    for path in ACCOUNTS {
        if old.files.get(path) != new.files.get(path) {
            found.push(format!(
                "`/{path}` differs, and layers above the root have copies of it with accounts of their own"
            ));
        }
    }
    found
}

fn python(old: Option<&RootPython>, new: Option<&RootPython>) -> Option<String> {
    let old = old?;
    let Some(new) = new else { return Some(format!("the new root has no Python; the old one has {}", old.minor)) };
    if old.minor != new.minor {
        return Some(format!("the old root has Python {}, the new one {}", old.minor, new.minor));
    }
    let text = |abi: &Option<String>| abi.clone().unwrap_or_else(|| "unknown".to_owned());
    (old.abi != new.abi).then(|| {
        format!("the ABI of Python is `{}` in the old root, `{}` in the new one", text(&old.abi), text(&new.abi))
    })
}

/// Paths that are not the same in both roots.
pub fn changed(old: &RootFacts, new: &RootFacts) -> BTreeSet<String> {
    let paths = old.files.keys().chain(new.files.keys());
    paths.filter(|path| old.files.get(*path) != new.files.get(*path)).cloned().collect()
}

/// A layer above the root, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Upper<'a> {
    /// The instruction that made it, where the history says.
    pub by: Option<&'a str>,
    /// Its paths, where they were read.
    pub paths: Option<&'a BTreeSet<String>>,
}

impl Upper<'_> {
    /// True if what it has does not follow from the build's own files alone, so that it has to be read.
    pub fn is_opaque(&self) -> bool {
        !self.by.is_some_and(|by| {
            let by = by.trim_start_matches("/bin/sh -c #(nop) ");
            ["COPY ", "ADD ", "WORKDIR "].iter().any(|word| by.starts_with(word))
        })
    }
}

/// Reason why a layer does not fit on the new root, whose `changed` paths differ from the old one's.
pub fn hides(layer: &Upper<'_>, changed: &BTreeSet<String>, new: &RootFacts) -> Option<String> {
    let by = layer.by.unwrap_or("an unknown instruction");
    let by = by.strip_suffix(" # buildkit").unwrap_or(by);
    if let Some(paths) = layer.paths {
        if paths.iter().any(|path| path == "var/lib/dpkg/status") && layer.is_opaque() {
            return Some(format!("`{by}` installed Debian packages on top of the old root"));
        }
        let counts = |path: &&String| layer.is_opaque() || new.conffiles.contains(*path);
        let hidden: Vec<&String> = paths.intersection(changed).filter(counts).collect();
        return hidden.first().map(|first| match hidden.len() {
            1 => format!("`{by}` hides `/{first}`, which the new root changes"),
            count => format!("`{by}` hides `/{first}` and {} more files that the new root changes", count - 1),
        });
    }
    // A file that is copied to the place of a configuration file.
    let target = by.rsplit(' ').next().unwrap_or_default().trim_start_matches('/');
    (new.conffiles.contains(target) && changed.contains(target))
        .then(|| format!("`{by}` replaces the configuration file `/{target}`, which the new root changes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(packages: &[(&str, &str)]) -> RootFacts {
        RootFacts {
            release: release("ID=debian\nVERSION_ID=\"13\"\nVERSION_CODENAME=trixie\n"),
            packages: packages.iter().map(|(name, version)| (format!("{name}:amd64"), (*version).to_owned())).collect(),
            python: Some(RootPython { minor: "3.13".to_owned(), version: None, abi: Some("cpython-313".to_owned()) }),
            files: BTreeMap::from([("etc/passwd".to_owned(), "1".to_owned())]),
            ..RootFacts::default()
        }
    }

    #[test]
    fn newer_versions_are_fixes() {
        let old = facts(&[("libc6", "2.41-12"), ("libssl3", "3.5.1-1"), ("zlib1g", "1:1.3"), ("old", "1")]);
        let mut new = facts(&[("libc6", "2.41-12"), ("libssl3", "3.5.1-1+deb13u1"), ("zlib1g", "1:1.2"), ("new", "1")]);
        let found = fixes(&old, &new);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].package.as_str(), found[0].new.as_str()), ("libssl3", "3.5.1-1+deb13u1"));
        assert_eq!(problems(&old, &new), [""; 0]);
        let (mut old, version) = (old, |text: &str| Some(text.to_owned()));
        old.python.as_mut().unwrap().version = version("3.13.9");
        new.python.as_mut().unwrap().version = version("3.13.10");
        assert_eq!(fixes(&old, &new)[1].package, "python");
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut RootFacts), why: &str) {
        let old = facts(&[("libc6", "2.41-12"), ("libssl3", "3")]);
        let mut new = old.clone();
        change(&mut new);
        assert_eq!(problems(&old, &new), [why]);
    }

    #[test]
    fn roots_that_are_not_alike_are_refused() {
        refused(
            |new| new.release = release("ID=debian\nVERSION_ID=14\nVERSION_CODENAME=forky"),
            "the old root is `debian 13`, the new one `debian 14`",
        );
        refused(
            |new| drop(new.release.insert("VERSION_CODENAME".to_owned(), "sid".to_owned())),
            "the old root's suite is `trixie`, the new one's `sid`",
        );
        refused(
            |new| drop(new.packages.insert("libc6:amd64".to_owned(), "2.40-1".to_owned())),
            "`libc6` of the new root is older: 2.41-12 -> 2.40-1",
        );
        refused(|new| drop(new.packages.remove("libssl3:amd64")), "the new root has no package `libssl3`");
        refused(|new| new.packages.clear(), "the new root has no list of Debian packages");
        refused(|new| new.python = None, "the new root has no Python; the old one has 3.13");
        refused(
            |new| new.python.as_mut().unwrap().minor = "3.14".to_owned(),
            "the old root has Python 3.13, the new one 3.14",
        );
        refused(
            |new| new.python.as_mut().unwrap().abi = Some("cpython-313t".to_owned()),
            "the ABI of Python is `cpython-313` in the old root, `cpython-313t` in the new one",
        );
        refused(
            |new| drop(new.files.insert("etc/passwd".to_owned(), "2".to_owned())),
            "`/etc/passwd` differs, and layers above the root have copies of it with accounts of their own",
        );
    }

    #[test]
    fn a_layer_must_not_hide_what_the_new_root_changes() {
        let set = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<BTreeSet<_>>();
        let changed = set(&["etc/ssl/openssl.cnf", "usr/lib/libssl.so.3", "etc/motd"]);
        let new = RootFacts { conffiles: set(&["etc/ssl/openssl.cnf"]), ..RootFacts::default() };
        let check = |by: Option<&str>, paths: Option<&[&str]>| {
            let paths = paths.map(set);
            hides(&Upper { by, paths: paths.as_ref() }, &changed, &new)
        };
        let run = Some("RUN /bin/sh -c make # buildkit");
        assert_eq!(check(run, Some(&["opt/x"])), None);
        assert!(check(run, Some(&["usr/lib/libssl.so.3"])).unwrap().contains("hides `/usr/lib/libssl.so.3`"));
        assert!(check(run, Some(&["var/lib/dpkg/status"])).unwrap().contains("installed Debian packages"));
        assert!(check(None, Some(&["etc/motd"])).is_some());
        // What is copied hides the same after a build, but for configuration files of packages.
        assert_eq!(check(Some("COPY motd /etc/motd"), Some(&["etc/motd"])), None);
        assert_eq!(check(Some("COPY motd /etc/motd"), None), None);
        assert!(check(Some("COPY own.cnf /etc/ssl/openssl.cnf # buildkit"), None).is_some());
        assert!(check(Some("COPY own.cnf /etc/ssl/"), Some(&["etc/ssl/openssl.cnf"])).is_some());
        assert!(!Upper { by: Some("COPY a b"), paths: None }.is_opaque() && Upper { by: run, paths: None }.is_opaque());
    }

    #[test]
    fn texts_of_a_root_are_read() {
        let status =
            "Package: a\nConffiles:\n /etc/a 0123\n /etc/b 4567 obsolete\nDescription: x\n /no\n\nPackage: b\n";
        assert_eq!(conffiles(status).into_iter().collect::<Vec<_>>(), ["etc/a", "etc/b"]);
        assert_eq!(
            abi("{'A': 'b',\n 'SOABI': 'cpython-312-x86_64-linux-gnu',\n}").unwrap(),
            "cpython-312-x86_64-linux-gnu"
        );
        assert_eq!(abi("nothing"), None);
        assert_eq!(minor("usr/local/lib/python3.12/os.py"), Some("3.12"));
        assert_eq!(minor("usr/lib/python3/os.py"), None);
        assert_eq!(minor("usr/lib/python3.12/site.py"), None);
    }
}
