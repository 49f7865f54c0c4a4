//! `Pipfile.lock`: categories of pins, written by pipenv from a `Pipfile`.
//!
//! Pure.

use super::condition::{Condition, known};
use super::{Draft, DraftPin, LockInput, checkout, environments, folder_of, invalid, marker, names, unknown};
use crate::fault::Fault;
use crate::spec::reference::Digest;
use crate::spec::requirements::{normalised, secret};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
struct PipfileLock {
    _meta: PipfileMeta,
    #[serde(flatten)]
    categories: BTreeMap<String, BTreeMap<String, PipfilePackage>>,
}

#[derive(Deserialize)]
struct PipfileMeta {
    #[serde(default)]
    hash: BTreeMap<String, String>,
    #[serde(default)]
    requires: BTreeMap<String, String>,
    #[serde(default)]
    sources: Vec<PipfileSource>,
}

#[derive(Deserialize)]
struct PipfileSource {
    url: String,
}

#[derive(Deserialize)]
struct PipfilePackage {
    version: Option<String>,
    #[serde(default)]
    hashes: Vec<String>,
    markers: Option<String>,
    #[serde(default)]
    extras: Vec<String>,
    /// Pipenv names the index of what the `Pipfile` asks for.
    index: Option<String>,
    git: Option<String>,
    r#ref: Option<String>,
    subdirectory: Option<String>,
    hg: Option<String>,
    svn: Option<String>,
    file: Option<String>,
    path: Option<String>,
}

fn document(input: &LockInput<'_>) -> Result<PipfileLock, Fault> {
    serde_json::from_str(input.text).map_err(|error| invalid(input.path, error))
}

pub(super) fn read(input: &LockInput<'_>) -> Result<Draft, Fault> {
    let document = document(input)?;
    let requires = &document._meta.requires;
    let python = requires.get("python_full_version").or_else(|| requires.get("python_version"));
    let mut draft = Draft {
        resolver: "pipenv".to_owned(),
        python: python.filter(|version| *version != "*").map(|version| format!("=={version}.*")).unwrap_or_default(),
        indexes: document._meta.sources.iter().map(|source| source.url.clone()).collect(),
        ..Draft::default()
    };
    if requires.contains_key("python_full_version") {
        draft.python = draft.python.trim_end_matches(".*").to_owned();
    }
    let known_groups: BTreeSet<String> = names(document.categories.keys().filter(|name| *name != "default"));
    // The categories `default` and `develop` are `packages` and `dev-packages` in the Pipfile.
    let group = |name: &String| if name == "dev-packages" { "develop".to_owned() } else { name.clone() };
    let wanted: BTreeSet<String> = input.selection.groups.iter().map(group).collect();
    if let Some(name) = wanted.iter().find(|name| !known_groups.contains(*name)) {
        return Err(unknown(input, "group", name, &known_groups));
    }
    let targets: Vec<_> = environments(input.targets.platforms, input.targets.pythons).collect();
    let direct = direct(input);
    let mut pins: BTreeMap<(String, String), DraftPin> = BTreeMap::new();
    for (category, packages) in &document.categories {
        if category != "default" && !wanted.contains(&normalised(category)) {
            continue;
        }
        for (name, package) in packages {
            let condition = match &package.markers {
                None => Condition::always(),
                Some(text) => Condition::of(&marker(input.path, name, text)?, &known(&targets, &|_| None)),
            };
            let (name, extras) = (normalised(name), names(&package.extras));
            if package.path.is_some() && package.hashes.is_empty() {
                draft.local.insert(name);
                continue;
            }
            if package.index.is_some() || direct.contains(&name) {
                draft.asked.entry(name.clone()).or_default().extend(extras.iter().cloned());
            }
            let pin = pin(input, &name, package, &mut draft);
            let entry = pins.entry((name.clone(), pin.version.clone())).or_insert(DraftPin { name, ..pin });
            entry.condition = entry.condition.or(&condition);
            entry.extras.extend(extras);
        }
    }
    draft.pins = pins.into_values().collect();
    Ok(draft)
}

fn pin(input: &LockInput<'_>, name: &str, package: &PipfilePackage, draft: &mut Draft) -> DraftPin {
    let version = package.version.as_deref().map(|version| version.trim_start_matches('=').to_owned());
    let url = package.file.as_deref().filter(|file| file.contains("://"));
    let mut pin = DraftPin {
        version: version.unwrap_or_else(|| "unknown".to_owned()),
        hashes: package.hashes.iter().filter(|hash| hash.starts_with("sha256:")).cloned().collect(),
        url: url.map(secret::without_user),
        ..DraftPin::default()
    };
    if let Some(url) = &package.git {
        let commit = package.r#ref.as_deref().unwrap_or_default();
        pin.check_out(checkout(name, url, commit, package.subdirectory.as_deref()));
    } else if let Some(url) = package.hg.as_ref().or(package.svn.as_ref()) {
        pin.check_out(checkout(name, &format!("no-git+{url}"), "", None));
    }
    let local = package.path.as_deref().or(package.file.as_deref().filter(|file| !file.contains("://")));
    draft.folders.extend(local.map(|path| folder_of(input.path, path)));
    pin
}

/// Names that the `Pipfile` asks for, in any of its categories.
fn direct(input: &LockInput<'_>) -> BTreeSet<String> {
    let table = input.source.and_then(|text| toml::from_str::<toml::Table>(text).ok()).unwrap_or_default();
    let sections =
        table.into_iter().filter(|(name, _)| !matches!(name.as_str(), "source" | "requires" | "scripts" | "pipenv"));
    let packages = sections.filter_map(|(_, value)| value.try_into::<toml::Table>().ok());
    packages.flat_map(|table| table.into_iter().map(|(name, _)| normalised(&name))).collect()
}

/// Compares the hash of the `Pipfile` that pipenv writes into its lock.
pub(super) fn stale(input: &LockInput<'_>, source: &str) -> Result<Vec<String>, Fault> {
    let document = document(input)?;
    let Some(locked) = document._meta.hash.get("sha256") else { return Ok(Vec::new()) };
    let table: toml::Table =
        toml::from_str(source).map_err(|error| invalid(input.path, format!("`Pipfile`: {error}")))?;
    let get = |name: &str, or: Value| table.get(name).map_or(or, super::poetry::json);
    let empty = || Value::Object(Map::new());
    let default_source =
        || serde_json::json!([{"url": concat!("https://pypi", ".org/simple"), "verify_ssl": true, "name": "pypi"}]);
    let mut data = Map::new();
    data.insert(
        "_meta".into(),
        serde_json::json!({"sources": get("source", default_source()), "requires": get("requires", empty())}),
    );
    data.insert("default".into(), get("packages", empty()));
    data.insert("develop".into(), get("dev-packages", empty()));
    let known =
        ["source", "packages", "dev-packages", "requires", "scripts", "pipfile", "pipenv", "default", "develop"];
    data.extend(
        table
            .iter()
            .filter(|(name, _)| !known.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), super::poetry::json(value))),
    );
    let own = Digest::of(super::poetry::python_json(&Value::Object(data), (",", ":")).as_bytes());
    let why = "the `Pipfile` changed after it was written".to_owned();
    Ok(if own.hex() == *locked { Vec::new() } else { vec![why] })
}
