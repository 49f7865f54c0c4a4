//! Contents of an image: Python packages, Debian packages and crates, each with the layer that holds it.
//!
//! A layer's contents are read once and belong to its uncompressed digest. An image's inventory is put together from those of its layers, as
//! an unpacker would: an upper layer replaces and removes what is below.

use super::licence;
use super::osv::WantedPackage;
use crate::spec::debian::status::DebianPackage;
use crate::spec::lock::closure::PackageMetadata;
use crate::spec::lock::{Lock, LockedPackage};
use crate::spec::reference::{Digest, Platform};
use crate::spec::requirements::{Environment, normalised};
use crate::spec::versions::Ecosystem;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of [`LayerContents`] as it is stored. Raise it when the same layer gives other contents.
pub const SCHEMA: u32 = 2;

/// The files of a layer that say what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerContents {
    pub schema: u32,
    /// Installed distributions, by the path of their `METADATA`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub python: BTreeMap<String, Distribution>,
    /// Debian packages by the path of the file that lists them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub debian: BTreeMap<String, Vec<DebianPackage>>,
    /// Licences of Debian packages, from their copyright files.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub copyright: BTreeMap<String, String>,
    /// `debian-13`, from `os-release`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distro: Option<String>,
    /// Paths of programs, in a layer without a package database.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub programs: BTreeSet<String>,
    /// Paths that the layer removes from those below, each with everything in it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub removed: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    pub name: String,
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Names of the distributions that it requires here.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub requires: BTreeSet<String>,
}

/// Reads a distribution's `METADATA`. `path` says the Python: `…/lib/python3.13/site-packages/…`.
pub fn distribution(path: &str, text: &str, platform: &Platform) -> Option<Distribution> {
    let field = |name: &str| {
        let head = text.lines().take_while(|line| !line.is_empty());
        head.filter_map(|line| line.strip_prefix(name)?.strip_prefix(':')).next().map(|value| value.trim().to_owned())
    };
    let python = path.split('/').find_map(|part| part.strip_prefix("python")).filter(|minor| minor.contains('.'));
    let environment = Environment::new(&format!("{}.0", python.unwrap_or("3.12")), platform);
    Some(Distribution {
        name: normalised(&field("Name")?),
        version: field("Version")?,
        licence: licence::of_metadata(text),
        requires: PackageMetadata::of_metadata(text).required_in(&environment),
    })
}

/// `debian-13` of an `os-release`.
pub fn distro(text: &str) -> Option<String> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
    };
    let id = value("ID")?;
    Some(value("VERSION_ID").map_or_else(|| id.clone(), |version| format!("{id}-{version}")))
}

/// A crate of `Cargo.lock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crate {
    pub name: String,
    pub version: String,
    /// SHA-256 in hex, of crates from a registry.
    pub checksum: Option<String>,
    /// SPDX expression.
    pub licence: Option<String>,
    /// Names and versions of its dependencies.
    pub dependencies: BTreeSet<(String, String)>,
}

/// One thing in an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Component {
    /// Package URL; also its name within documents.
    pub purl: String,
    pub name: String,
    pub version: String,
    /// SPDX expression.
    pub licence: Option<String>,
    /// `sha256:…` of the files that it may have been installed from.
    pub hashes: BTreeSet<String>,
    /// Uncompressed digest of the layer that holds it.
    pub layer: Option<Digest>,
    /// Package URLs of what it requires.
    pub requires: BTreeSet<String>,
}

/// A layer, lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub digest: Digest,
    pub diff_id: Digest,
    pub size: u64,
}

/// An image with everything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Repository without a tag.
    pub repository: String,
    /// Digest of the manifest.
    pub digest: Digest,
    pub platform: Platform,
    /// RFC 3339; the commit's time.
    pub created: String,
    pub layers: Vec<Layer>,
    /// Sorted.
    pub components: Vec<Component>,
}

impl Inventory {
    /// Package URL of the image itself.
    pub fn purl(&self) -> String {
        image_purl(&self.repository, &self.digest, &self.platform)
    }

    /// `created` in UTC and in whole seconds, as SPDX requires it; 1970 if it cannot be read.
    pub fn second(&self) -> String {
        let moment: Option<Timestamp> = self.created.parse().ok();
        let second = moment.and_then(|moment| Timestamp::from_second(moment.as_second()));
        second.map_or_else(|| "1970-01-01T00:00:00Z".to_owned(), |second| second.to_string())
    }
}

/// Package URL of an image.
pub fn image_purl(repository: &str, digest: &Digest, platform: &Platform) -> String {
    let name = repository.rsplit('/').next().unwrap_or(repository);
    format!(
        "pkg:oci/{}@{}?arch={}&repository_url={}",
        encoded(name),
        encoded(&digest.to_string()),
        encoded(&platform.architecture),
        encoded(repository)
    )
}

/// The components of an image, from its layers, lowest first. `lock` knows the hashes, `program` is the file that was compiled from `crates`.
pub fn components(
    layers: &[(Digest, LayerContents)],
    lock: Option<&Lock>,
    program: Option<(&str, &[Crate])>,
) -> Vec<Component> {
    let mut python: BTreeMap<&str, (&Distribution, Digest)> = BTreeMap::new();
    let mut debian: BTreeMap<&str, &Vec<DebianPackage>> = BTreeMap::new();
    let mut since: BTreeMap<(&str, &str, &str), Digest> = BTreeMap::new();
    let mut copyright: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut distro, mut compiled) = (None, None);
    for (layer, contents) in layers {
        let stays = |path: &str| {
            let gone = |removed: &String| {
                path.strip_prefix(removed.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || removed.is_empty())
            };
            !contents.removed.iter().any(gone)
        };
        python.retain(|path, _| stays(path));
        debian.retain(|path, _| stays(path));
        python.extend(contents.python.iter().map(|(path, found)| (path.as_str(), (found, *layer))));
        for (path, packages) in &contents.debian {
            debian.insert(path, packages);
            for package in packages {
                since.entry((&package.name, &package.version, &package.architecture)).or_insert(*layer);
            }
        }
        copyright.extend(contents.copyright.iter().map(|(name, licence)| (name.as_str(), licence.as_str())));
        distro = contents.distro.as_deref().or(distro);
        let named = |path: &String| program.is_some_and(|(name, _)| path.rsplit('/').next() == Some(name));
        compiled = contents.programs.iter().any(named).then_some(*layer).or(compiled);
    }
    let mut found = python_components(&python, lock);
    let debian: Vec<&DebianPackage> = debian.values().copied().flatten().collect();
    found.extend(debian_components(&debian, distro, &copyright, &since));
    if let (Some((_, crates)), Some(layer)) = (program, compiled) {
        found.extend(crates.iter().map(|one| crate_component(one, layer)));
    }
    found.sort();
    found.dedup_by(|one, other| one.purl == other.purl);
    found
}

fn python_components(found: &BTreeMap<&str, (&Distribution, Digest)>, lock: Option<&Lock>) -> Vec<Component> {
    let purl = |one: &Distribution| format!("pkg:pypi/{}@{}", encoded(&one.name), encoded(&one.version));
    let purls: BTreeMap<&str, String> = found.values().map(|(one, _)| (one.name.as_str(), purl(one))).collect();
    let locked = |one: &Distribution| {
        let same = |package: &&LockedPackage| package.name == one.name && package.version == one.version;
        lock.and_then(|lock| lock.packages.iter().find(same)).map(|package| package.hashes.clone()).unwrap_or_default()
    };
    let component = |(one, layer): &(&Distribution, Digest)| Component {
        purl: purl(one),
        name: one.name.clone(),
        version: one.version.clone(),
        licence: one.licence.clone(),
        hashes: locked(one),
        layer: Some(*layer),
        requires: one.requires.iter().filter_map(|name| purls.get(name.as_str()).cloned()).collect(),
    };
    found.values().map(component).collect()
}

fn debian_components(
    packages: &[&DebianPackage],
    distro: Option<&str>,
    copyright: &BTreeMap<&str, &str>,
    since: &BTreeMap<(&str, &str, &str), Digest>,
) -> Vec<Component> {
    // Derivatives have a namespace of their own.
    let vendor = distro.and_then(|distro| distro.split('-').next()).unwrap_or("debian");
    let purl = |one: &DebianPackage| {
        let distro = distro.map(|distro| format!("&distro={}", encoded(distro))).unwrap_or_default();
        // Advisories name source packages.
        let source = one.source.as_deref().unwrap_or(&one.name);
        let upstream = match &one.source_version {
            Some(version) => format!("&upstream={}", encoded(&format!("{source}@{version}"))),
            None if source != one.name => format!("&upstream={}", encoded(source)),
            None => String::new(),
        };
        format!(
            "pkg:deb/{}/{}@{}?arch={}{distro}{upstream}",
            encoded(vendor),
            encoded(&one.name),
            encoded(&one.version),
            encoded(&one.architecture)
        )
    };
    let mut purls: BTreeMap<&str, String> = BTreeMap::new();
    for one in packages {
        for name in &one.provides {
            purls.entry(name).or_insert_with(|| purl(one));
        }
    }
    purls.extend(packages.iter().map(|one| (one.name.as_str(), purl(one))));
    let component = |one: &&DebianPackage| {
        let source = one.source.as_deref().unwrap_or(&one.name);
        Component {
            purl: purl(one),
            name: one.name.clone(),
            version: one.version.clone(),
            licence: copyright.get(one.name.as_str()).or_else(|| copyright.get(source)).map(|&text| text.to_owned()),
            hashes: BTreeSet::new(),
            layer: since.get(&(&*one.name, &*one.version, &*one.architecture)).copied(),
            requires: one.depends.iter().filter_map(|name| purls.get(name.as_str()).cloned()).collect(),
        }
    };
    packages.iter().map(component).collect()
}

fn crate_component(one: &Crate, layer: Digest) -> Component {
    let purl = |name: &str, version: &str| format!("pkg:cargo/{}@{}", encoded(name), encoded(version));
    Component {
        purl: purl(&one.name, &one.version),
        name: one.name.clone(),
        version: one.version.clone(),
        licence: one.licence.clone(),
        hashes: one.checksum.iter().map(|hex| format!("sha256:{hex}")).collect(),
        layer: Some(layer),
        requires: one.dependencies.iter().map(|(name, version)| purl(name, version)).collect(),
    }
}

/// Undoes [`encoded`]; what is not encoded stays as it is.
fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &after[2..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Component {
    /// Package to ask databases of vulnerabilities for; `None` where none of them knows its kind.
    pub fn wanted(&self) -> Option<WantedPackage> {
        let (kind, rest) = self.purl.strip_prefix("pkg:")?.split_once('/')?;
        let (version, name) = (self.version.clone(), self.name.clone());
        match kind {
            "pypi" => Some(WantedPackage { ecosystem: Ecosystem::Pypi, name, version }),
            "cargo" => Some(WantedPackage { ecosystem: Ecosystem::Crates, name, version }),
            "deb" => {
                let (_, qualifiers) = rest.split_once('?')?;
                let qualifier = |name: &str| {
                    qualifiers.split('&').find_map(|one| one.strip_prefix(name)?.strip_prefix('=')).map(decoded)
                };
                let release = qualifier("distro")?.strip_prefix("debian-")?.to_owned();
                let source = qualifier("upstream").unwrap_or(name);
                let (name, version) = match source.split_once('@') {
                    Some((name, version)) => (name.to_owned(), version.to_owned()),
                    None => (source, version),
                };
                Some(WantedPackage { ecosystem: Ecosystem::Debian(release), name, version })
            }
            _ => None,
        }
    }
}

/// Percent-encoding as package URLs have it; a colon stays.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => out.push(char::from(byte)),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

/// Versions and licences of the components of one name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Variants {
    versions: BTreeSet<String>,
    licences: BTreeSet<String>,
}

/// Components by kind and name: a package URL without its version says what a thing is.
type ByName = BTreeMap<(String, String), Variants>;

/// The differences of two lists of components, a line for each, in the order of their names.
pub fn diff(old: &[Component], new: &[Component]) -> Vec<String> {
    let index = |components: &[Component]| {
        let mut found = ByName::new();
        for component in components {
            let kind = component.purl.strip_prefix("pkg:").and_then(|rest| rest.split('/').next()).unwrap_or_default();
            let variants = found.entry((kind.to_owned(), component.name.clone())).or_default();
            variants.versions.insert(component.version.clone());
            variants.licences.insert(component.licence.clone().unwrap_or_else(|| "none".to_owned()));
        }
        found
    };
    let listed = |texts: &BTreeSet<String>| texts.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let (old, new) = (index(old), index(new));
    let keys: BTreeSet<&(String, String)> = old.keys().chain(new.keys()).collect();
    let mut lines = Vec::new();
    for key in keys {
        let (kind, name) = key;
        match (old.get(key), new.get(key)) {
            (Some(before), Some(after)) if before.versions != after.versions => {
                lines.push(format!("{kind:<6} {name} {} -> {}", listed(&before.versions), listed(&after.versions)));
            }
            (Some(before), Some(after)) if before != after => {
                let (before, after) = (listed(&before.licences), listed(&after.licences));
                lines.push(format!("{kind:<6} {name}: licence {before} -> {after}"));
            }
            (None, Some(after)) => lines.push(format!("{kind:<6} {name} {} is new", listed(&after.versions))),
            (Some(before), None) => lines.push(format!("{kind:<6} {name} {} is gone", listed(&before.versions))),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    lines
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const STATUS: &str = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\nVersion: 2.41-12\nDepends: libgcc-s1, libcrypt1 (>= 1)\n\n\
                          Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
                          Package: libgcc-s1\nStatus: install ok installed\nArchitecture: amd64\nSource: gcc-14 (14.2)\nVersion: 14.2.0-19\nPre-Depends: gcc-14-base | other\n";

    fn platform() -> Platform {
        "linux/amd64".parse().unwrap()
    }

    /// A root, a layer of packages, a program.
    pub(crate) fn layers() -> Vec<(Digest, LayerContents)> {
        let site = "opt/venv/lib/python3.13/site-packages";
        let metadata = |name: &str, text: &str| {
            let path = format!("{site}/{name}.dist-info/METADATA");
            (path.clone(), distribution(&path, text, &platform()).unwrap())
        };
        let root = LayerContents {
            debian: [("var/lib/dpkg/status".to_owned(), crate::spec::debian::status::installed(STATUS))].into(),
            copyright: [("glibc".to_owned(), "LGPL-2.1-or-later".to_owned())].into(),
            distro: distro("PRETTY_NAME=\"Debian\"\nID=debian\nVERSION_ID=\"13\"\n"),
            ..LayerContents::default()
        };
        let packages = LayerContents {
            python: [
                metadata("scipy", "Name: SciPy\nVersion: 1.16.3\nLicense-Expression: BSD-3-Clause\nRequires-Dist: numpy<3\nRequires-Dist: pytest; extra == 'test'\nRequires-Dist: pywin; sys_platform == 'win32'\n"),
                metadata("numpy", "Name: numpy\nVersion: 2.3.4\nLicense: Own Licence\n"),
            ]
            .into(),
            ..LayerContents::default()
        };
        let program = LayerContents { programs: ["usr/local/bin/app".to_owned()].into(), ..LayerContents::default() };
        vec![(Digest::of(b"root"), root), (Digest::of(b"packages"), packages), (Digest::of(b"program"), program)]
    }

    pub(crate) fn crates() -> Vec<Crate> {
        let one = |name: &str, checksum: Option<&str>, dependencies: &[(&str, &str)]| Crate {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            checksum: checksum.map(str::to_owned),
            licence: checksum.map(|_| "MIT OR Apache-2.0".to_owned()),
            dependencies: dependencies.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        };
        vec![one("app", None, &[("serde", "1.0.0")]), one("serde", Some(&"ab".repeat(32)), &[])]
    }

    pub(crate) fn inventory() -> Inventory {
        let layers = layers();
        Inventory {
            repository: "127.0.0.1:5000/team/app".to_owned(),
            digest: Digest::of(b"manifest"),
            platform: platform(),
            created: "2026-01-02T03:04:05Z".to_owned(),
            layers: layers
                .iter()
                .map(|(diff_id, _)| Layer { digest: Digest::of(diff_id.as_bytes()), diff_id: *diff_id, size: 7 })
                .collect(),
            components: components(&layers, None, Some(("app", &crates()))),
        }
    }

    #[test]
    fn an_image_has_what_its_layers_have() {
        let found = inventory().components;
        let one = |purl: &str| {
            found.iter().find(|component| component.purl == purl).unwrap_or_else(|| panic!("{purl}: {found:#?}"))
        };
        let purls: Vec<&str> = found.iter().map(|component| component.purl.as_str()).collect();
        assert_eq!(
            purls,
            [
                "pkg:cargo/app@1.0.0",
                "pkg:cargo/serde@1.0.0",
                "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13&upstream=glibc",
                "pkg:deb/debian/libgcc-s1@14.2.0-19?arch=amd64&distro=debian-13&upstream=gcc-14%4014.2",
                "pkg:pypi/numpy@2.3.4",
                "pkg:pypi/scipy@1.16.3",
            ]
        );
        let scipy = one("pkg:pypi/scipy@1.16.3");
        assert_eq!(scipy.requires, ["pkg:pypi/numpy@2.3.4".to_owned()].into(), "no extra, no other system");
        assert_eq!(scipy.layer, Some(Digest::of(b"packages")));
        let libc = one("pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13&upstream=glibc");
        assert_eq!(libc.licence.as_deref(), Some("LGPL-2.1-or-later"), "by its source package");
        assert_eq!(libc.requires.len(), 1, "{libc:?}");
        assert_eq!(one("pkg:cargo/app@1.0.0").layer, Some(Digest::of(b"program")));
        assert_eq!(one("pkg:cargo/serde@1.0.0").licence.as_deref(), Some("MIT OR Apache-2.0"));
    }

    #[test]
    fn an_upper_layer_replaces_and_removes() {
        let mut layers = layers();
        let old = layers[1].1.python.keys().next().unwrap().clone();
        let folder = old.rsplit_once('/').unwrap().0.to_owned();
        let top = LayerContents { removed: [folder].into(), ..LayerContents::default() };
        layers.push((Digest::of(b"top"), top));
        let names: Vec<String> = components(&layers, None, None).into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["libc6", "libgcc-s1", "scipy"]);
        layers[3].1.removed = [String::new()].into();
        assert!(components(&layers, None, None).is_empty(), "an opaque root removes everything");
    }

    #[test]
    fn differences_are_named_once() {
        let old = inventory().components;
        let mut new = old.clone();
        new.retain(|one| one.name != "serde");
        for one in &mut new {
            match one.name.as_str() {
                "scipy" => one.version = "1.17.0".to_owned(),
                "numpy" => one.licence = Some("MIT".to_owned()),
                _ => {}
            }
        }
        assert_eq!(
            diff(&old, &new),
            [
                "cargo  serde 1.0.0 is gone",
                "pypi   numpy: licence LicenseRef-Own-Licence -> MIT",
                "pypi   scipy 1.16.3 -> 1.17.0",
            ]
        );
        assert!(diff(&old, &old).is_empty());
    }

    #[test]
    fn a_document_has_whole_seconds() {
        let second = |created: &str| Inventory { created: created.to_owned(), ..inventory() }.second();
        assert_eq!(second("2026-01-02T03:04:05Z"), "2026-01-02T03:04:05Z");
        assert_eq!(second("2026-01-02T03:04:05.678Z"), "2026-01-02T03:04:05Z");
        assert_eq!(second("yesterday"), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn layer_contents_survive_their_file() {
        for (_, contents) in layers() {
            let text = serde_json::to_string(&contents).unwrap();
            assert_eq!(serde_json::from_str::<LayerContents>(&text).unwrap(), contents);
        }
    }
}
