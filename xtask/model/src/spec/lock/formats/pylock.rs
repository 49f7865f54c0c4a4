//! `pylock.toml` (PEP 751): packages with markers, which may ask for extras and groups.
//!
//! Pure.

use super::condition::{Condition, known};
use super::{Draft, DraftPin, LockInput, checkout, environments, folder_of, invalid, marker, names, project, unknown};
use crate::fault::Fault;
use crate::spec::requirements::{Marker, Operand, normalised, secret};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Pylock {
    lock_version: String,
    created_by: Option<String>,
    requires_python: Option<String>,
    #[serde(default)]
    extras: Vec<String>,
    #[serde(default)]
    dependency_groups: Vec<String>,
    #[serde(default)]
    default_groups: Vec<String>,
    #[serde(default)]
    packages: Vec<PylockPackage>,
}

#[derive(Deserialize)]
struct PylockPackage {
    name: String,
    version: Option<String>,
    marker: Option<String>,
    index: Option<String>,
    vcs: Option<toml::Table>,
    directory: Option<toml::Table>,
    archive: Option<PylockFile>,
    sdist: Option<PylockFile>,
    #[serde(default)]
    wheels: Vec<PylockFile>,
}

#[derive(Deserialize)]
struct PylockFile {
    name: Option<String>,
    url: Option<String>,
    path: Option<String>,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

impl PylockFile {
    fn name(&self) -> Option<String> {
        let place = self.name.as_ref().or(self.path.as_ref()).or(self.url.as_ref())?;
        Some(place.split(['?', '#']).next()?.rsplit('/').next()?.replace("%2B", "+"))
    }
}

pub(super) fn read(input: &LockInput<'_>) -> Result<Draft, Fault> {
    let document: Pylock = toml::from_str(input.text).map_err(|error| invalid(input.path, error))?;
    if document.lock_version.split('.').next() != Some("1") {
        let why = format!("it has version {} of its format; version 1 is supported", document.lock_version);
        return Err(invalid(input.path, why));
    }
    let (extras, groups) = selected(input, &document)?;
    let answer = |comparison: &Marker| member_of(comparison, &extras, &groups);
    let targets: Vec<_> = environments(input.targets.platforms, input.targets.pythons).collect();
    let mut draft = Draft {
        resolver: document.created_by.clone().unwrap_or_else(|| "pylock".to_owned()),
        python: document.requires_python.clone().unwrap_or_default(),
        ..Draft::default()
    };
    for package in &document.packages {
        let name = normalised(&package.name);
        let condition = match &package.marker {
            None => Condition::always(),
            Some(text) => Condition::of(&marker(input.path, &package.name, text)?, &known(&targets, &answer)),
        };
        if condition.is_too_long() {
            return Err(invalid(input.path, format!("the marker of `{name}` is too long")));
        }
        if package.directory.is_some() {
            draft.local.insert(name);
            continue;
        }
        let files = || package.wheels.iter().chain(&package.sdist).chain(&package.archive);
        let hash = |file: &PylockFile| file.hashes.get("sha256").map(|hex| format!("sha256:{hex}"));
        let mut pin = DraftPin {
            name,
            condition,
            version: package.version.clone().unwrap_or_else(|| "unknown".to_owned()),
            hashes: files().filter_map(hash).collect(),
            files: files().filter_map(PylockFile::name).collect(),
            ..DraftPin::default()
        };
        pin.url = package.archive.as_ref().and_then(|file| file.url.as_deref()).map(secret::without_user);
        if let Some(vcs) = &package.vcs {
            let text = |key: &str| vcs.get(key).and_then(toml::Value::as_str);
            let kind = text("type").filter(|kind| *kind == "git").map_or("no-git+", |_| "");
            let url = format!("{kind}{}", text("url").unwrap_or_default());
            let commit = text("commit-id").unwrap_or_default();
            pin.check_out(checkout(&package.name, &url, commit, text("subdirectory")));
        }
        draft.indexes.extend(package.index.clone());
        let paths = files().filter(|file| file.url.is_none()).filter_map(|file| file.path.as_deref());
        draft.folders.extend(paths.map(|path| folder_of(input.path, path)));
        draft.pins.push(pin);
    }
    if let Some(project) = project(input)? {
        draft.asked = project.direct(input.selection)?;
    }
    Ok(draft)
}

fn selected(input: &LockInput<'_>, document: &Pylock) -> Result<(BTreeSet<String>, BTreeSet<String>), Fault> {
    let known = [
        ("extra", &input.selection.extras, names(&document.extras)),
        ("group", &input.selection.groups, names(&document.dependency_groups)),
    ];
    for (kind, wanted, known) in known {
        if let Some(name) = wanted.iter().find(|name| !known.contains(*name)) {
            return Err(unknown(input, kind, name, &known));
        }
    }
    let mut groups = input.selection.groups.clone();
    groups.extend(names(&document.default_groups));
    Ok((input.selection.extras.clone(), groups))
}

/// The answer to `'NAME' in extras` and `'NAME' in dependency_groups`.
fn member_of(comparison: &Marker, extras: &BTreeSet<String>, groups: &BTreeSet<String>) -> Option<bool> {
    let Marker::Compare(Operand::Text(text), operator, Operand::Variable(variable)) = comparison else { return None };
    let set = match *variable {
        "extras" => extras,
        "dependency_groups" => groups,
        _ => return None,
    };
    let has = set.contains(&normalised(text));
    match *operator {
        "in" => Some(has),
        "not in" => Some(!has),
        _ => None,
    }
}
