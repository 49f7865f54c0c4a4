//! `uv.lock`: a graph of packages with markers on its edges.
//!
//! Pure. Members of the workspace and other folders are followed for what they require, and left out themselves.

use super::condition::known;
use super::graph::{Edge, GraphNode, reached};
use super::{Draft, DraftPin, LockInput, checkout, environments, folder_of, invalid, marker, names, unknown};
use crate::fault::Fault;
use crate::spec::project::Project;
use crate::spec::requirements::{Marker, Operand, normalised, secret};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The version of the format that is read. uv raises it when older readers would be wrong.
const VERSION: u64 = 1;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UvLock {
    version: u64,
    requires_python: Option<String>,
    #[serde(default)]
    manifest: UvManifest,
    #[serde(default)]
    package: Vec<UvPackage>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UvManifest {
    members: Vec<String>,
    overrides: Vec<Named>,
    excludes: Vec<String>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UvPackage {
    name: String,
    version: Option<String>,
    source: UvSource,
    #[serde(default)]
    dependencies: Vec<Dependency>,
    #[serde(default)]
    optional_dependencies: BTreeMap<String, Vec<Dependency>>,
    #[serde(default)]
    dev_dependencies: BTreeMap<String, Vec<Dependency>>,
    sdist: Option<UvFile>,
    #[serde(default)]
    wheels: Vec<UvFile>,
    #[serde(default)]
    metadata: UvMetadata,
}

/// Source of a package; one of the keys is set.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct UvSource {
    registry: Option<String>,
    url: Option<String>,
    git: Option<String>,
    path: Option<String>,
    directory: Option<String>,
    editable: Option<String>,
    r#virtual: Option<String>,
}

impl UvSource {
    fn folder(&self) -> Option<&str> {
        self.editable.as_deref().or(self.r#virtual.as_deref()).or(self.directory.as_deref())
    }
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    version: Option<String>,
    source: Option<UvSource>,
    #[serde(default)]
    extra: Vec<String>,
    marker: Option<String>,
}

#[derive(Deserialize)]
struct UvFile {
    url: Option<String>,
    path: Option<String>,
    filename: Option<String>,
    hash: Option<String>,
}

impl UvFile {
    fn name(&self) -> Option<String> {
        let place = self.filename.as_ref().or(self.path.as_ref()).or(self.url.as_ref())?;
        Some(place.split(['?', '#']).next()?.rsplit('/').next()?.replace("%2B", "+"))
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct UvMetadata {
    requires_dist: Vec<Required>,
    requires_dev: BTreeMap<String, Vec<Required>>,
}

#[derive(Deserialize)]
struct Required {
    name: String,
    #[serde(default)]
    specifier: String,
    marker: Option<String>,
}

fn document(input: &LockInput<'_>) -> Result<UvLock, Fault> {
    let document: UvLock = toml::from_str(input.text).map_err(|error| invalid(input.path, error))?;
    if document.version != VERSION {
        let why = format!("it has version {} of its format; version {VERSION} is supported", document.version);
        return Err(invalid(input.path, why).hint("write it with a uv that has this version, or update xtask"));
    }
    Ok(document)
}

pub(super) fn read(input: &LockInput<'_>) -> Result<Draft, Fault> {
    let document = document(input)?;
    let by_name = by_name(&document);
    let find = |dependency: &Dependency| -> Option<usize> {
        let fits = |index: &&usize| {
            let package = &document.package[**index];
            dependency.version.as_ref().is_none_or(|version| package.version.as_ref() == Some(version))
                && dependency.source.as_ref().is_none_or(|source| *source == package.source)
        };
        by_name.get(dependency.name.as_str())?.iter().find(fits).copied()
    };
    let edges = |list: &[Dependency]| -> Result<Vec<Edge>, Fault> {
        let mut edges = Vec::new();
        for dependency in list {
            let marker = dependency.marker.as_deref().map(|text| marker(input.path, &dependency.name, text));
            // What is excluded is named and not locked.
            let Some(to) = find(dependency) else {
                if document.manifest.excludes.contains(&dependency.name) {
                    continue;
                }
                return Err(invalid(
                    input.path,
                    format!("`{}` is required, and it has no such package", dependency.name),
                ));
            };
            edges.push(Edge { to, extras: names(&dependency.extra), marker: marker.transpose()? });
        }
        Ok(edges)
    };
    let mut nodes = Vec::new();
    for package in &document.package {
        let extras = package.optional_dependencies.iter().map(|(name, list)| Ok((normalised(name), edges(list)?)));
        nodes.push(GraphNode { edges: edges(&package.dependencies)?, extras: extras.collect::<Result<_, Fault>>()? });
    }
    let (roots, active) = roots(input, &document, &by_name, &edges)?;
    let targets: Vec<_> = environments(input.targets.platforms, input.targets.pythons).collect();
    let conflict = |comparison: &Marker| conflict(comparison, &active);
    let found = reached(&nodes, &roots, &known(&targets, &conflict)).map_err(|node| {
        invalid(input.path, format!("the markers of `{}` are too long", document.package[node].name))
    })?;
    let mut draft = Draft {
        resolver: "uv".to_owned(),
        python: document.requires_python.clone().unwrap_or_default(),
        overridden: document.manifest.overrides.iter().map(|one| normalised(&one.name)).collect(),
        ..Draft::default()
    };
    draft.overridden.extend(names(&document.manifest.excludes));
    for (node, (condition, extras)) in found {
        let package = &document.package[node];
        let name = normalised(&package.name);
        if package.source.folder().is_some() {
            draft.local.insert(name);
            continue;
        }
        let pin = pin(input, package, &mut draft);
        draft.pins.push(DraftPin { name, condition, extras, ..pin });
    }
    for edge in &roots {
        let package = &document.package[edge.to];
        let asked: Vec<&Edge> = match package.source.folder() {
            None => vec![edge],
            // What a member requires is asked for as directly as what the project requires.
            Some(_) => nodes[edge.to].edges.iter().collect(),
        };
        for edge in asked {
            let name = normalised(&document.package[edge.to].name);
            draft.asked.entry(name).or_default().extend(edge.extras.iter().cloned());
        }
    }
    Ok(draft)
}

fn by_name(document: &UvLock) -> BTreeMap<&str, Vec<usize>> {
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, package) in document.package.iter().enumerate() {
        by_name.entry(&package.name).or_default().push(index);
    }
    by_name
}

/// The members of the workspace whose dependencies are wanted.
fn members<'d>(input: &LockInput<'_>, document: &'d UvLock) -> Result<Vec<&'d UvPackage>, Fault> {
    let local = || document.package.iter().filter(|package| package.source.folder().is_some());
    let wanted = &input.selection.members;
    if wanted.is_empty() {
        if let Some(top) = local().find(|package| package.source.folder() == Some(".")) {
            return Ok(vec![top]);
        }
        let all = names(&document.manifest.members);
        return Ok(local().filter(|package| all.contains(&normalised(&package.name))).collect());
    }
    let known: BTreeSet<String> = local().map(|package| normalised(&package.name)).collect();
    if let Some(name) = wanted.iter().find(|name| !known.contains(*name)) {
        return Err(unknown(input, "member", name, &known));
    }
    Ok(local().filter(|package| wanted.contains(&normalised(&package.name))).collect())
}

/// The edges of a list of dependencies.
type Edges<'a> = &'a dyn Fn(&[Dependency]) -> Result<Vec<Edge>, Fault>;

/// Edges to what is asked for, and the names by which markers of conflicts know the selected extras and groups.
fn roots(
    input: &LockInput<'_>,
    document: &UvLock,
    by_name: &BTreeMap<&str, Vec<usize>>,
    edges: Edges<'_>,
) -> Result<(Vec<Edge>, BTreeSet<String>), Fault> {
    let (mut roots, mut active) = (Vec::new(), BTreeSet::new());
    let (mut extras, mut groups) = (BTreeSet::new(), BTreeSet::new());
    for member in members(input, document)? {
        let encoded = |kind: &str, name: &str| format!("{kind}-{}-{}-{name}", member.name.len(), member.name);
        active.insert(format!("project-{}-{}", member.name.len(), member.name));
        roots.extend(edges(&member.dependencies)?);
        // Locks of an older uv have a member's requirements by reference.
        debug_assert!(by_name.contains_key(member.name.as_str()));
        for (name, list) in &member.optional_dependencies {
            extras.insert(normalised(name));
            if input.selection.extras.contains(&normalised(name)) {
                active.insert(encoded("extra", name));
                roots.extend(edges(list)?);
            }
        }
        for (name, list) in &member.dev_dependencies {
            groups.insert(normalised(name));
            if input.selection.groups.contains(&normalised(name)) {
                active.insert(encoded("group", name));
                roots.extend(edges(list)?);
            }
        }
        // A group without dependencies is listed with the metadata alone.
        groups.extend(names(member.metadata.requires_dev.keys()));
    }
    for (kind, wanted, known) in
        [("extra", &input.selection.extras, &extras), ("group", &input.selection.groups, &groups)]
    {
        if let Some(name) = wanted.iter().find(|name| !known.contains(*name)) {
            return Err(unknown(input, kind, name, known));
        }
    }
    Ok((roots, active))
}

/// The answer to a comparison by which uv tells packages of conflicting extras and groups apart.
fn conflict(comparison: &Marker, active: &BTreeSet<String>) -> Option<bool> {
    let Marker::Compare(Operand::Variable("extra"), operator, Operand::Text(text)) = comparison else { return None };
    ["extra-", "group-", "project-"].iter().find(|kind| text.starts_with(**kind))?;
    match *operator {
        "==" => Some(active.contains(text)),
        "!=" => Some(!active.contains(text)),
        _ => None,
    }
}

fn pin(input: &LockInput<'_>, package: &UvPackage, draft: &mut Draft) -> DraftPin {
    let files = || package.wheels.iter().chain(&package.sdist);
    let mut pin = DraftPin {
        version: package.version.clone().unwrap_or_else(|| "unknown".to_owned()),
        hashes: files().filter_map(|file| file.hash.clone()).filter(|hash| hash.starts_with("sha256:")).collect(),
        files: files().filter_map(UvFile::name).collect(),
        ..DraftPin::default()
    };
    let source = &package.source;
    if let Some(url) = &source.git {
        // `https://h/a.git?subdirectory=python&rev=main#COMMIT`
        let (address, commit) = url.split_once('#').unwrap_or((url, ""));
        let (address, query) = address.split_once('?').unwrap_or((address, ""));
        let subdirectory = query.split('&').find_map(|part| part.strip_prefix("subdirectory="));
        pin.check_out(checkout(&package.name, address, commit, subdirectory));
    } else if let Some(url) = &source.url {
        pin.url = Some(secret::without_user(url));
    } else if let Some(path) = &source.path {
        draft.folders.insert(folder_of(input.path, path));
    } else if let Some(place) = &source.registry {
        if place.contains("://") {
            draft.indexes.push(place.clone());
        } else {
            draft.folders.insert(folder_of(input.path, &format!("{place}/x")));
        }
    }
    pin
}

/// Compares what the lock says of its members with their `pyproject.toml`: names and versions, section by section. Markers are
/// left out, which uv writes in a form of its own.
pub(super) fn stale(
    input: &LockInput<'_>,
    load: &mut dyn FnMut(&Path) -> Option<String>,
) -> Result<Vec<String>, Fault> {
    let document = document(input)?;
    let mut causes = Vec::new();
    for member in members(input, &document)? {
        let Some(folder) = member.source.folder() else { continue };
        let path = input.path.parent().unwrap_or(Path::new("")).join(folder).join("pyproject.toml");
        let path: std::path::PathBuf =
            path.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect();
        let Some(text) = load(&path) else {
            causes.push(format!("`{}` is missing, and `{}` is one of its members", path.display(), member.name));
            continue;
        };
        let project = Project::parse(&path, &text)?;
        let sections = project.sections()?;
        let locked = locked_sections(member);
        for name in sections.keys().chain(locked.keys()).collect::<BTreeSet<_>>() {
            let none = BTreeSet::new();
            let (here, there) = (sections.get(name).unwrap_or(&none), locked.get(name).unwrap_or(&none));
            let place = if name.is_empty() { String::new() } else { format!(" in `{name}`") };
            let shown = |one: &(String, String)| format!("`{}{}`{place} of `{}`", one.0, one.1, path.display());
            causes.extend(here.difference(there).map(|one| format!("{} is not in it", shown(one))));
            if here.is_superset(there) {
                continue;
            }
            let gone = there.difference(here).filter(|one| !here.iter().any(|other| other.0 == one.0));
            causes.extend(gone.map(|one| format!("it has {}, where it is gone", shown(one))));
        }
    }
    Ok(causes)
}

/// Requirements of a member by section, `extra:NAME` and `group:NAME`: name and specifiers.
fn locked_sections(member: &UvPackage) -> BTreeMap<String, BTreeSet<(String, String)>> {
    let mut found: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    let entry = |one: &Required| (normalised(&one.name), crate::spec::project::specifiers(&one.specifier));
    for one in &member.metadata.requires_dist {
        let extra = one.marker.as_deref().and_then(|text| text.split("extra == '").nth(1)?.split('\'').next());
        let section = extra.map(|extra| format!("extra:{}", normalised(extra))).unwrap_or_default();
        found.entry(section).or_default().insert(entry(one));
    }
    for (group, list) in &member.metadata.requires_dev {
        found.entry(format!("group:{}", normalised(group))).or_default().extend(list.iter().map(entry));
    }
    found
}
