//! `poetry.lock`, of every version of its format since 1.0.
//!
//! Pure. Since version 2.1 each package has its groups and markers. Before, they follow from what `pyproject.toml` asks for.

use super::condition::{Condition, known};
use super::graph::{Edge, GraphNode, reached};
use super::{Draft, DraftPin, LockInput, checkout, environments, folder_of, invalid, marker, names, project, unknown};
use crate::fault::Fault;
use crate::spec::requirements::{Environment, Marker, Operand, Specifier, Version, normalised, secret};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

#[derive(Deserialize)]
struct PoetryLock {
    #[serde(default)]
    package: Vec<PoetryPackage>,
    #[serde(default)]
    extras: BTreeMap<String, Vec<String>>,
    metadata: PoetryMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PoetryMetadata {
    lock_version: Option<String>,
    python_versions: Option<String>,
    content_hash: Option<String>,
    /// Of formats before 2.0, by the package's name.
    #[serde(default)]
    files: BTreeMap<String, Vec<PoetryFile>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PoetryPackage {
    name: String,
    version: String,
    groups: Option<Vec<String>>,
    markers: Option<toml::Value>,
    #[serde(default)]
    files: Vec<PoetryFile>,
    #[serde(default)]
    dependencies: BTreeMap<String, toml::Value>,
    #[serde(default)]
    extras: BTreeMap<String, Vec<String>>,
    source: Option<PoetrySource>,
}

#[derive(Clone, Deserialize)]
struct PoetryFile {
    file: String,
    hash: String,
}

#[derive(Deserialize)]
struct PoetrySource {
    r#type: String,
    url: String,
    resolved_reference: Option<String>,
    subdirectory: Option<String>,
}

pub(super) fn read(input: &LockInput<'_>) -> Result<Draft, Fault> {
    let document: PoetryLock = toml::from_str(input.text).map_err(|error| invalid(input.path, error))?;
    let version = document.metadata.lock_version.clone().unwrap_or_else(|| "1.0".to_owned());
    if !matches!(version.split('.').next(), Some("1" | "2")) {
        let why = format!("it has version {version} of its format; versions 1 and 2 are supported");
        return Err(invalid(input.path, why));
    }
    let targets: Vec<_> = environments(input.targets.platforms, input.targets.pythons).collect();
    let known_extras = names(document.extras.keys());
    if let Some(name) = input.selection.extras.iter().find(|name| !known_extras.contains(*name)) {
        return Err(unknown(input, "extra", name, &known_extras));
    }
    let whole = document.package.iter().all(|package| package.groups.is_some());
    let wanted = if whole { by_groups(input, &document, &targets)? } else { by_graph(input, &document, &targets)? };
    let mut draft = Draft {
        resolver: "poetry".to_owned(),
        python: python_bounds(document.metadata.python_versions.as_deref().unwrap_or_default()),
        ..Draft::default()
    };
    for (index, condition, extras) in wanted {
        let package = &document.package[index];
        if let Some(pin) = pin(input, package, &document.metadata, &mut draft) {
            draft.pins.push(DraftPin { condition, extras, ..pin });
        }
    }
    draft.asked = match project(input)? {
        Some(project) => project.direct(input.selection)?,
        None => BTreeMap::new(),
    };
    Ok(draft)
}

type PoetryWanted = Vec<(usize, Condition, BTreeSet<String>)>;

/// The packages of the selected groups, each with its own markers.
fn by_groups(input: &LockInput<'_>, document: &PoetryLock, targets: &[Environment]) -> Result<PoetryWanted, Fault> {
    let extras = &input.selection.extras;
    let answer = |comparison: &Marker| extra(comparison, extras);
    let mut known_groups: BTreeSet<String> = BTreeSet::new();
    let mut wanted = Vec::new();
    let is_selected = |group: &str| group == "main" || input.selection.groups.contains(group);
    for (index, package) in document.package.iter().enumerate() {
        let mut condition = Condition::default();
        for group in package.groups.iter().flatten() {
            let group = normalised(group);
            known_groups.insert(group.clone());
            if !is_selected(&group) {
                continue;
            }
            let text = match &package.markers {
                Some(toml::Value::Table(table)) => {
                    table.iter().find(|(name, _)| normalised(name) == group).and_then(|(_, value)| value.as_str())
                }
                Some(toml::Value::String(text)) => Some(text.as_str()),
                _ => None,
            };
            condition = condition.or(&match text {
                Some(text) => Condition::of(&marker(input.path, &package.name, text)?, &known(targets, &answer)),
                None => Condition::always(),
            });
        }
        wanted.push((index, condition, BTreeSet::new()));
    }
    known_groups.extend(source_groups(input));
    if let Some(name) = input.selection.groups.iter().find(|name| !known_groups.contains(*name)) {
        known_groups.remove("main");
        return Err(unknown(input, "group", name, &known_groups));
    }
    Ok(wanted)
}

/// The groups of `pyproject.toml`: one without packages of its own is in no lock.
fn source_groups(input: &LockInput<'_>) -> BTreeSet<String> {
    let table = input.source.and_then(|text| toml::from_str::<toml::Table>(text).ok()).unwrap_or_default();
    let of = |value: Option<&toml::Value>| {
        value.and_then(toml::Value::as_table).map(|table| names(table.keys())).unwrap_or_default()
    };
    let mut found = of(table.get("dependency-groups"));
    found.extend(of(poetry(&table).and_then(|poetry| poetry.get("group"))));
    found.extend(poetry(&table).and_then(|poetry| poetry.get("dev-dependencies")).map(|_| "dev".to_owned()));
    found
}

fn poetry(table: &toml::Table) -> Option<&toml::Table> {
    table.get("tool")?.as_table()?.get("poetry")?.as_table()
}

fn extra(comparison: &Marker, selected: &BTreeSet<String>) -> Option<bool> {
    let Marker::Compare(Operand::Variable("extra"), operator, Operand::Text(text)) = comparison else { return None };
    let has = selected.contains(&normalised(text));
    match *operator {
        "==" => Some(has),
        "!=" => Some(!has),
        _ => None,
    }
}

/// The packages that are reached from what `pyproject.toml` asks for.
fn by_graph(input: &LockInput<'_>, document: &PoetryLock, targets: &[Environment]) -> Result<PoetryWanted, Fault> {
    let Some(source) = input.source else {
        return Err(invalid(
            input.path,
            "it has a format in which groups are in `pyproject.toml` alone, which is missing",
        )
        .hint("or write it with poetry 2"));
    };
    let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, package) in document.package.iter().enumerate() {
        by_name.entry(normalised(&package.name)).or_default().push(index);
    }
    let edges = |name: &str, value: &toml::Value| -> Result<Vec<Edge>, Fault> {
        let list = match value {
            toml::Value::Array(list) => list.iter().collect(),
            one => vec![one],
        };
        let mut edges = Vec::new();
        for one in list {
            let marker = wanted_marker(input, name, one)?;
            let extras = one.get("extras").and_then(toml::Value::as_array).into_iter().flatten();
            let extras: BTreeSet<String> = extras.filter_map(toml::Value::as_str).map(normalised).collect();
            let versions = one.as_str().or_else(|| one.get("version")?.as_str()).unwrap_or("*");
            for to in by_name.get(&normalised(name)).into_iter().flatten().copied() {
                if satisfies(&document.package[to].version, versions) {
                    edges.push(Edge { to, extras: extras.clone(), marker: marker.clone() });
                }
            }
        }
        Ok(edges)
    };
    let mut nodes = Vec::new();
    for package in &document.package {
        let mut node = GraphNode::default();
        for (name, value) in &package.dependencies {
            let optional = |value: &toml::Value| value.get("optional").and_then(toml::Value::as_bool) == Some(true);
            let of_extra = |list: &Vec<String>| list.iter().any(|text| first_name(text) == normalised(name));
            let extras: Vec<&String> =
                package.extras.iter().filter(|(_, list)| of_extra(list)).map(|(extra, _)| extra).collect();
            let list = match value {
                toml::Value::Array(list) => list.clone(),
                one => vec![one.clone()],
            };
            for one in list {
                let found = edges(name, &one)?;
                if optional(&one) {
                    for extra in &extras {
                        node.extras.entry(normalised(extra)).or_default().extend(found.clone());
                    }
                } else {
                    node.edges.extend(found);
                }
            }
        }
        nodes.push(node);
    }
    let table: toml::Table = toml::from_str(source).map_err(|error| invalid(input.path, error))?;
    let mut roots = Vec::new();
    for (name, value) in root_dependencies(input, document, &table)? {
        roots.extend(edges(&name, &value)?);
    }
    let answer = |comparison: &Marker| extra_of_edge(comparison);
    let found = reached(&nodes, &roots, &known(targets, &answer)).map_err(|node| {
        invalid(input.path, format!("the markers of `{}` are too long", document.package[node].name))
    })?;
    Ok(found.into_iter().map(|(index, (condition, extras))| (index, condition, extras)).collect())
}

/// An edge of an extra is followed where the extra is asked for: its own comparison holds there.
fn extra_of_edge(comparison: &Marker) -> Option<bool> {
    matches!(comparison, Marker::Compare(Operand::Variable("extra"), "==", Operand::Text(_))).then_some(true)
}

/// The dependencies of the project that the selection asks for.
fn root_dependencies(
    input: &LockInput<'_>,
    document: &PoetryLock,
    table: &toml::Table,
) -> Result<Vec<(String, toml::Value)>, Fault> {
    let mut found: Vec<(String, toml::Value)> = Vec::new();
    let section = |of: Option<&toml::Value>| of.and_then(toml::Value::as_table).cloned().unwrap_or_default();
    let own = poetry(table).cloned().unwrap_or_default();
    let selected: BTreeSet<String> = document
        .extras
        .iter()
        .filter(|(name, _)| input.selection.extras.contains(&normalised(name)))
        .flat_map(|(_, list)| list.iter().map(|text| first_name(text)))
        .collect();
    for (name, value) in section(own.get("dependencies")) {
        let optional = value.get("optional").and_then(toml::Value::as_bool) == Some(true);
        if normalised(&name) != "python" && (!optional || selected.contains(&normalised(&name))) {
            found.push((name, value));
        }
    }
    let mut groups: BTreeMap<String, toml::Table> = section(own.get("group"))
        .iter()
        .map(|(name, group)| (normalised(name), section(group.get("dependencies"))))
        .collect();
    if own.contains_key("dev-dependencies") {
        groups.entry("dev".to_owned()).or_default().extend(section(own.get("dev-dependencies")));
    }
    for name in &input.selection.groups {
        let Some(group) = groups.get(name) else {
            return Err(unknown(input, "group", name, &groups.keys().cloned().collect()));
        };
        found.extend(group.clone());
    }
    if let Some(project) = project(input)?.filter(|_| table.contains_key("project")) {
        for requirement in project.requirements(input.selection)?.requirements() {
            let mut value = toml::Table::new();
            let extras = requirement.extras.iter().cloned().map(toml::Value::String).collect();
            value.insert("extras".to_owned(), toml::Value::Array(extras));
            let marker = requirement.marker.as_ref().map(|marker| toml::Value::String(marker.to_string()));
            value.extend(marker.map(|marker| ("markers".to_owned(), marker)));
            found.push((requirement.name.clone(), toml::Value::Table(value)));
        }
    }
    Ok(found)
}

/// The name at the start of `name (>=1.0) ; marker`.
fn first_name(text: &str) -> String {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c)).unwrap_or(text.len());
    normalised(&text[..end])
}

/// The condition of a dependency: its markers, its Python and its platform.
fn wanted_marker(input: &LockInput<'_>, name: &str, value: &toml::Value) -> Result<Option<Marker>, Fault> {
    let text = |key: &str| value.get(key).and_then(toml::Value::as_str);
    let mut parts: Vec<String> = text("markers").map(|text| format!("({text})")).into_iter().collect();
    parts.extend(text("platform").map(|platform| format!("sys_platform == '{platform}'")));
    let python = python_bounds(text("python").unwrap_or_default());
    for bound in python.split(',').filter(|bound| !bound.is_empty()) {
        let at = bound.find(|c: char| c.is_ascii_digit()).unwrap_or(0);
        parts.push(format!("python_full_version {} '{}'", &bound[..at], &bound[at..]));
    }
    if parts.is_empty() {
        return Ok(None);
    }
    marker(input.path, name, &parts.join(" and ")).map(Some)
}

/// True if a version is among those that poetry's constraint accepts; one that is not understood accepts all.
fn satisfies(version: &str, constraint: &str) -> bool {
    let Ok(version) = version.parse::<Version>() else { return true };
    constraint.split("||").any(|part| {
        python_bounds(part).split(',').filter(|bound| !bound.is_empty()).all(|bound| {
            let at = bound.find(|c: char| c.is_ascii_digit()).unwrap_or(0);
            let operator = ["===", "~=", "==", "!=", "<=", ">=", "<", ">"].into_iter().find(|one| *one == &bound[..at]);
            let specifier = operator.and_then(|operator| Specifier::new(operator, &bound[at..]).ok());
            specifier.is_none_or(|specifier| specifier.contains(&version))
        })
    })
}

/// Poetry's constraint as bounds of PEP 440; nothing for alternatives, which these cannot express.
pub(super) fn python_bounds(text: &str) -> String {
    if text.contains("||") {
        return String::new();
    }
    let next = |version: &str, at: usize| {
        let mut parts: Vec<u64> = version.split('.').take(at + 1).map(|part| part.parse().unwrap_or(0)).collect();
        parts.resize(at + 1, 0);
        parts[at] += 1;
        parts.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
    };
    let words = text.split(',').flat_map(str::split_whitespace);
    let mut bounds: Vec<String> = Vec::new();
    for word in words {
        if let Some(version) = word.strip_prefix('^') {
            let first = version.split('.').position(|part| part != "0").unwrap_or(0);
            bounds.extend([format!(">={version}"), format!("<{}", next(version, first))]);
        } else if let Some(version) = word.strip_prefix('~').filter(|rest| !rest.starts_with('=')) {
            let at = usize::from(version.contains('.'));
            bounds.extend([format!(">={version}"), format!("<{}", next(version, at))]);
        } else if word.starts_with(|c: char| c.is_ascii_digit()) {
            bounds.push(format!("=={word}"));
        } else if word != "*" {
            bounds.push(word.to_owned());
        }
    }
    bounds.join(",")
}

/// A package as a pin; nothing for a folder of the repository.
fn pin(
    input: &LockInput<'_>,
    package: &PoetryPackage,
    metadata: &PoetryMetadata,
    draft: &mut Draft,
) -> Option<DraftPin> {
    let name = normalised(&package.name);
    let files = if package.files.is_empty() { metadata.files.get(&package.name) } else { Some(&package.files) };
    let files = files.map(Vec::as_slice).unwrap_or_default();
    let mut pin = DraftPin {
        name: name.clone(),
        version: package.version.clone(),
        hashes: files.iter().map(|file| file.hash.clone()).filter(|hash| hash.starts_with("sha256:")).collect(),
        files: files.iter().map(|file| file.file.clone()).collect(),
        ..DraftPin::default()
    };
    let Some(source) = &package.source else { return Some(pin) };
    match source.r#type.as_str() {
        "directory" => {
            draft.local.insert(name);
            return None;
        }
        "git" => {
            let commit = source.resolved_reference.as_deref().unwrap_or_default();
            pin.check_out(checkout(&package.name, &source.url, commit, source.subdirectory.as_deref()));
        }
        "url" => pin.url = Some(secret::without_user(&source.url)),
        "file" => drop(draft.folders.insert(folder_of(input.path, &source.url))),
        _ => draft.indexes.push(source.url.clone()),
    }
    Some(pin)
}

/// Compares the hash of the relevant parts of `pyproject.toml` that poetry writes into its lock.
pub(super) fn stale(input: &LockInput<'_>, source: &str) -> Result<Vec<String>, Fault> {
    let document: PoetryLock = toml::from_str(input.text).map_err(|error| invalid(input.path, error))?;
    let Some(locked) = &document.metadata.content_hash else { return Ok(Vec::new()) };
    let table: toml::Table =
        toml::from_str(source).map_err(|error| invalid(input.path, format!("`pyproject.toml`: {error}")))?;
    let fresh = [true, false].iter().any(|groups| content_hash(&table, *groups) == *locked);
    let why = "the dependencies in `pyproject.toml` changed after it was written".to_owned();
    Ok(if fresh { Vec::new() } else { vec![why] })
}

/// As `Locker._get_content_hash` of poetry; `groups` since poetry 2.3.
fn content_hash(table: &toml::Table, groups: bool) -> String {
    const LEGACY: [&str; 4] = ["dependencies", "source", "extras", "dev-dependencies"];
    let project = table.get("project").and_then(toml::Value::as_table);
    let project: Map<String, Value> = ["requires-python", "dependencies", "optional-dependencies"]
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), json(project?.get(*key)?))))
        .collect();
    let groups = table.get("dependency-groups").filter(|_| groups).map(json);
    let groups = groups.filter(|groups| groups.as_object().is_some_and(|groups| !groups.is_empty()));
    let own = poetry(table);
    let mut relevant = Map::new();
    for key in LEGACY.into_iter().chain(["group"]) {
        let value = own.and_then(|own| own.get(key));
        let kept = LEGACY.contains(&key) && project.is_empty() && groups.is_none();
        if value.is_some() || kept {
            relevant.insert(key.to_owned(), value.map_or(Value::Null, json));
        }
    }
    let mut whole = Map::new();
    if !project.is_empty() {
        whole.insert("project".to_owned(), Value::Object(project));
    }
    whole.extend(groups.map(|groups| ("dependency-groups".to_owned(), groups)));
    if whole.is_empty() {
        whole = relevant;
    } else {
        whole.insert("tool".to_owned(), serde_json::json!({ "poetry": relevant }));
    }
    crate::spec::reference::Digest::of(python_json(&Value::Object(whole), (", ", ": ")).as_bytes()).hex()
}

pub(super) fn json(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.clone().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(yes) => (*yes).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(list) => list.iter().map(json).collect(),
        toml::Value::Table(table) => table.iter().map(|(name, value)| (name.clone(), json(value))).collect(),
    }
}

/// A value as Python's `json.dumps(…, sort_keys=True)` writes it with these separators.
pub(super) fn python_json(value: &Value, (comma, colon): (&str, &str)) -> String {
    let inner = |value: &Value| python_json(value, (comma, colon));
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let pair = |(name, value): (&String, &Value)| format!("{}{colon}{}", quoted(name), inner(value));
            format!("{{{}}}", sorted.into_iter().map(pair).collect::<Vec<_>>().join(comma))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(inner).collect::<Vec<_>>().join(comma)),
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

fn quoted(text: &str) -> String {
    let plain = Value::String(text.to_owned()).to_string();
    let mut out = String::new();
    for c in plain.chars() {
        if c.is_ascii() && c != '\u{7f}' {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_of_poetry_are_bounds() {
        for (text, bounds) in [
            ("^3.11", ">=3.11,<4"),
            ("^0.3.1", ">=0.3.1,<0.4"),
            ("~3.12", ">=3.12,<3.13"),
            ("~3", ">=3,<4"),
            (">=3.11,<3.14", ">=3.11,<3.14"),
            (">=3.11 <3.14", ">=3.11,<3.14"),
            ("3.12.*", "==3.12.*"),
            ("*", ""),
            ("^2.7 || ^3.6", ""),
            ("~=3.12.1", "~=3.12.1"),
        ] {
            assert_eq!(python_bounds(text), bounds, "{text}");
        }
    }

    #[test]
    fn json_is_as_python_writes_it() {
        let value = serde_json::json!({"b": ["é", "\u{7f}", "😀\n"], "a": {"x": null, "y": true}});
        let text = python_json(&value, (", ", ": "));
        assert_eq!(text, r#"{"a": {"x": null, "y": true}, "b": ["\u00e9", "\u007f", "\ud83d\ude00\n"]}"#);
    }
}
