//! `pyproject.toml`: what a project requires (PEP 621), its dependency groups (PEP 735), its entry points, and settings of uv.
//! `setup.cfg` and `setup.py` say the same for older projects.
//!
//! Pure.

pub mod installed;
mod setup;

use crate::fault::Fault;
use crate::spec::requirements::{
    self, LocationKind, Requirement, RequirementSource, Requirements, Specifier, normalised,
};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Files that describe a project, the one that counts first.
pub const MANIFESTS: [&str; 3] = ["pyproject.toml", setup::SETTINGS, setup::PROGRAM];

/// True for the path of a file that describes a project.
pub fn is_manifest(path: &str) -> bool {
    MANIFESTS.contains(&path.rsplit('/').next().unwrap_or(path))
}

/// The file of a folder that describes its project; `read` has the texts of the folder's files. One that has settings of tools alone
/// does not count, where another one names the project.
pub fn manifest(read: &dyn Fn(&str) -> Option<String>) -> Option<&'static str> {
    let parsed =
        MANIFESTS.into_iter().filter_map(|name| Some((name, Project::parse(Path::new(name), &read(name)?).ok()?)));
    let all: Vec<(&'static str, Project)> = parsed.collect();
    let requires =
        |project: &Project| ["dependencies", "dynamic"].iter().any(|key| project.at(&["project", key]).is_some());
    let describes = |(name, project): &&(&str, Project)| match *name {
        "pyproject.toml" => project.name().is_some(),
        _ => requires(project),
    };
    let found = all.iter().find(describes).or_else(|| all.iter().find(|(_, project)| project.name().is_some()));
    found.or(all.first()).map(|(name, _)| *name)
}

/// Settings of uv that choose versions.
const CHOICES: [&str; 20] = [
    "build-constraint-dependencies",
    "conflicts",
    "constraint-dependencies",
    "dependency-metadata",
    "environments",
    "exclude-dependencies",
    "exclude-newer",
    "exclude-newer-package",
    "fork-strategy",
    "index",
    "no-binary",
    "no-binary-package",
    "no-build",
    "no-build-package",
    "override-dependencies",
    "pip",
    "prerelease",
    "required-environments",
    "resolution",
    "sources",
];

/// Groups that may include each other.
const DEPTH: usize = 32;

/// The packages of a project that are wanted besides its own dependencies. Names are normalised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Dependency groups of PEP 735 or poetry, or categories of a `Pipfile`.
    pub groups: BTreeSet<String>,
    pub extras: BTreeSet<String>,
    /// Members of a workspace; the project at its top, or all members, where there are none.
    pub members: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub struct Project {
    path: PathBuf,
    text: String,
    table: Table,
}

impl Project {
    /// Reads the file that describes a project, by its name.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Fault> {
        let own = |table| Ok(Self { path: path.to_owned(), text: text.to_owned(), table });
        match path.file_name().and_then(|name| name.to_str()) {
            Some(setup::SETTINGS) => return own(setup::of_settings(text)),
            Some(setup::PROGRAM) => return own(setup::of_program(text)),
            _ => {}
        }
        let table = toml::from_str(text).map_err(|error: toml::de::Error| {
            Fault::usage(format!("cannot read `{}`", path.display())).cause(error.to_string().trim())
        })?;
        own(table)
    }

    fn at(&self, way: &[&str]) -> Option<&Value> {
        let (last, folders) = way.split_last()?;
        folders.iter().try_fold(&self.table, |table, key| table.get(*key)?.as_table())?.get(*last)
    }

    fn fault(&self, what: impl std::fmt::Display) -> Fault {
        Fault::usage(format!("`{}`: {what}", self.path.display()))
    }

    fn texts(&self, name: &str, value: &Value) -> Result<Vec<String>, Fault> {
        let list = value.as_array().ok_or_else(|| self.fault(format!("`{name}` is not a list")))?;
        let text = |one: &Value| one.as_str().map(str::to_owned);
        let all: Option<Vec<String>> = list.iter().map(text).collect();
        all.ok_or_else(|| self.fault(format!("`{name}` holds something that is not a requirement")))
    }

    /// The name of the distribution.
    pub fn name(&self) -> Option<String> {
        let name = self.at(&["project", "name"]).or_else(|| self.at(&["tool", "poetry", "name"]));
        name?.as_str().map(normalised)
    }

    /// True if installers build and install the project itself.
    pub fn is_package(&self) -> bool {
        let off = |way: &[&str]| self.at(way).and_then(Value::as_bool) == Some(false);
        let on = self.at(&["tool", "uv", "package"]).and_then(Value::as_bool) == Some(true);
        let not = off(&["tool", "uv", "package"]) || off(&["tool", "poetry", "package-mode"]);
        !not && (on || self.at(&["build-system"]).is_some())
    }

    /// The folder that setuptools takes packages from, from the project's own.
    pub fn folder(&self) -> Option<String> {
        let found = self.at(&["tool", "setuptools", "packages", "find", "where"]).and_then(Value::as_array);
        let found = found.and_then(|all| all.first()).or_else(|| self.at(&["tool", "setuptools", "package-dir", ""]));
        found?.as_str().map(|path| path.trim_matches('/').to_owned()).filter(|path| !path.is_empty() && path != ".")
    }

    /// The requirement files that setuptools takes a project's dependencies from; none if they are somewhere else.
    pub fn dependency_files(&self) -> Vec<String> {
        let found = self.at(&["tool", "setuptools", "dynamic", "dependencies", "file"]);
        let found = found.map(|value| value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice));
        found.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    fn dependencies(&self) -> Result<Vec<String>, Fault> {
        if let Some(value) = self.at(&["project", "dependencies"]) {
            return self.texts("project.dependencies", value);
        }
        let dynamic = self.at(&["project", "dynamic"]).and_then(Value::as_array);
        if dynamic.is_some_and(|list| list.iter().any(|one| one.as_str() == Some("dependencies"))) {
            return Err(self
                .fault("the dependencies are dynamic: only a build of the project knows them")
                .hint("list them in `[project] dependencies`, or name the requirement files that they come from"));
        }
        Ok(Vec::new())
    }

    fn optional(&self) -> Result<BTreeMap<String, Vec<String>>, Fault> {
        let table = self.at(&["project", "optional-dependencies"]).and_then(Value::as_table);
        let entry = |(name, value): (&String, &Value)| {
            Ok((normalised(name), self.texts(&format!("project.optional-dependencies.{name}"), value)?))
        };
        table.into_iter().flatten().map(entry).collect()
    }

    /// The requirements of a group, with those of the groups that it includes.
    fn group(&self, name: &str, depth: usize) -> Result<Vec<String>, Fault> {
        let groups = self.at(&["dependency-groups"]).and_then(Value::as_table);
        let found = groups.and_then(|groups| groups.iter().find(|(key, _)| normalised(key) == normalised(name)));
        let Some((_, value)) = found else {
            let known: Vec<String> = groups.into_iter().flatten().map(|(name, _)| format!("`{name}`")).collect();
            let known =
                if known.is_empty() { "it has no groups".into() } else { format!("it has {}", known.join(", ")) };
            return Err(self.fault(format!("no dependency group `{name}`")).cause(known));
        };
        if depth == DEPTH {
            return Err(self.fault(format!("the dependency group `{name}` includes itself")));
        }
        let list = value.as_array().ok_or_else(|| self.fault(format!("the group `{name}` is not a list")))?;
        let mut texts = Vec::new();
        for one in list {
            match (one.as_str(), one.get("include-group").and_then(Value::as_str)) {
                (Some(text), _) => texts.push(text.to_owned()),
                (None, Some(other)) => texts.extend(self.group(other, depth + 1)?),
                (None, None) => return Err(self.fault(format!("the group `{name}` holds something unknown: {one}"))),
            }
        }
        Ok(texts)
    }

    /// The lines that are selected, those of extras by the project's own name (`shop[web]`) with what these bring.
    pub fn lines(&self, selection: &Selection) -> Result<Vec<String>, Fault> {
        let optional = self.optional()?;
        if let Some(extra) = selection.extras.iter().find(|extra| !optional.contains_key(*extra)) {
            let known: Vec<String> = optional.keys().map(|name| format!("`{name}`")).collect();
            let known =
                if known.is_empty() { "it has no extras".into() } else { format!("it has {}", known.join(", ")) };
            return Err(self.fault(format!("no extra `{extra}`")).cause(known));
        }
        let mut lines = self.dependencies()?;
        let mut open: Vec<String> = selection.extras.iter().cloned().collect();
        for group in &selection.groups {
            lines.extend(self.group(group, 0)?);
        }
        let (mut seen, own) = (BTreeSet::new(), self.name());
        let mut next = 0;
        loop {
            while let Some(line) = lines.get(next) {
                let name_end = line.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c));
                let (name, rest) = line.split_at(name_end.unwrap_or(line.len()));
                if own.as_deref() == Some(&normalised(name)) {
                    let list = rest.trim_start().strip_prefix('[').and_then(|rest| rest.split(']').next());
                    open.extend(list.unwrap_or_default().split(',').map(|extra| normalised(extra.trim())));
                }
                next += 1;
            }
            let Some(extra) = open.pop() else { break };
            if seen.insert(extra.clone()) {
                lines.extend(optional.get(&extra).cloned().unwrap_or_default());
            }
        }
        let is_own = |line: &String| {
            let end = line.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c)).unwrap_or(line.len());
            own.as_deref() == Some(&normalised(&line[..end]))
        };
        lines.retain(|line| !is_own(line));
        Ok(lines)
    }

    /// Lines as a requirement file, each on the line of the project where it is written, as far as that is possible.
    fn as_file(&self, lines: &[String]) -> String {
        let mut text = String::new();
        let mut at = 0;
        let mut placed: Vec<(usize, &String)> = lines
            .iter()
            .map(|line| (self.text.lines().position(|physical| physical.contains(line.as_str())).unwrap_or(0), line))
            .collect();
        placed.sort();
        for (line, requirement) in placed {
            while at < line {
                text.push('\n');
                at += 1;
            }
            text += &requirement.replace(['\n', '\r'], " ");
            text.push('\n');
            at += 1;
        }
        text
    }

    fn read(&self, lines: &[String]) -> Result<Requirements, Fault> {
        let text = self.as_file(lines);
        requirements::read(&self.path, &mut |_| Ok(text.clone()))
    }

    /// Everything that the selection asks for, with the constraints and other settings of uv that choose versions.
    ///
    /// # Errors
    /// An extra or group that the project does not have; lines that cannot be read as requirements.
    pub fn requirements(&self, selection: &Selection) -> Result<Requirements, Fault> {
        let own = self.at(&["tool", "uv"]).and_then(Value::as_table);
        let mut found = self.read(&self.lines(selection)?)?;
        let list = |key: &str| -> Result<Vec<Requirement>, Fault> {
            let Some(value) = own.and_then(|own| own.get(key)) else { return Ok(Vec::new()) };
            Ok(self.read(&self.texts(&format!("tool.uv.{key}"), value)?)?.requirements().to_vec())
        };
        let overridden: BTreeSet<String> = list("override-dependencies")?
            .into_iter()
            .chain(list("exclude-dependencies")?)
            .map(|one| one.name)
            .collect();
        let constraints = list("constraint-dependencies")?;
        let choices: serde_json::Map<String, Json> = own
            .into_iter()
            .flatten()
            .filter(|(key, _)| CHOICES.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), json(value)))
            .collect();
        found.add_project(constraints, overridden, choices);
        found.add_sources(&self.sources());
        Ok(found)
    }

    /// The indexes that `[tool.uv.sources]` takes packages from, explicit ones too.
    fn sources(&self) -> Vec<(LocationKind, &str)> {
        let named: BTreeSet<&str> = self
            .at(&["tool", "uv", "sources"])
            .and_then(Value::as_table)
            .into_iter()
            .flat_map(Table::values)
            .flat_map(tables)
            .filter_map(|source| source.get("index")?.as_str())
            .collect();
        let indexes = self.at(&["tool", "uv", "index"]).into_iter().flat_map(tables);
        indexes
            .filter(|index| index.get("name").and_then(Value::as_str).is_some_and(|name| named.contains(name)))
            .filter_map(|index| {
                let flat = index.get("format").and_then(Value::as_str) == Some("flat");
                let kind = if flat { LocationKind::Links } else { LocationKind::Locked };
                Some((kind, index.get("url")?.as_str()?))
            })
            .collect()
    }

    /// The names that the selection asks for, with their extras, of PEP 621 and of poetry.
    pub fn direct(&self, selection: &Selection) -> Result<BTreeMap<String, BTreeSet<String>>, Fault> {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        // A lock has checked the names: what the project does not have, poetry's tables have.
        let optional = self.optional()?;
        let groups = self.at(&["dependency-groups"]).and_then(Value::as_table);
        let here = |name: &&String| groups.into_iter().flatten().any(|(key, _)| normalised(key) == **name);
        let known = Selection {
            groups: selection.groups.iter().filter(here).cloned().collect(),
            extras: selection.extras.iter().filter(|extra| optional.contains_key(*extra)).cloned().collect(),
            members: BTreeSet::new(),
        };
        if let Ok(lines) = self.lines(&known)
            && let Ok(read) = self.read(&lines)
        {
            for one in read.requirements() {
                found.entry(one.name.clone()).or_default().extend(one.extras.iter().cloned());
            }
        }
        let section = |way: &[&str]| self.at(way).and_then(Value::as_table).into_iter().flatten();
        let mut add = |(name, value): (&String, &Value)| {
            let extras = value.get("extras").and_then(Value::as_array).into_iter().flatten();
            let extras = extras.filter_map(Value::as_str).map(normalised);
            if normalised(name) != "python" {
                found.entry(normalised(name)).or_default().extend(extras);
            }
        };
        section(&["tool", "poetry", "dependencies"]).for_each(&mut add);
        for group in &selection.groups {
            section(&["tool", "poetry", "group", group, "dependencies"]).for_each(&mut add);
        }
        Ok(found)
    }

    /// Names and specifiers by section: the project's own, `extra:NAME`, `group:NAME`.
    pub fn sections(&self) -> Result<BTreeMap<String, BTreeSet<(String, String)>>, Fault> {
        let mut sections = BTreeMap::new();
        let mut add = |section: String, lines: &[String]| -> Result<(), Fault> {
            let entry = |one: &Requirement| {
                let specifiers = match &one.source {
                    RequirementSource::Index(specifiers) => joined(specifiers),
                    RequirementSource::Url(_) => String::new(),
                };
                (one.name.clone(), specifiers)
            };
            // What uv takes and this reader does not is compared by nothing.
            let one = |line: &String| self.read(std::slice::from_ref(line)).ok();
            let read = lines.iter().filter_map(one);
            let entries: BTreeSet<_> =
                read.flat_map(|read| read.requirements().iter().map(entry).collect::<Vec<_>>()).collect();
            if !entries.is_empty() {
                sections.insert(section, entries);
            }
            Ok(())
        };
        add(String::new(), &self.dependencies()?)?;
        for (extra, lines) in self.optional()? {
            add(format!("extra:{extra}"), &lines)?;
        }
        let groups = self.at(&["dependency-groups"]).and_then(Value::as_table);
        for name in groups.into_iter().flatten().map(|(name, _)| name) {
            add(format!("group:{}", normalised(name)), &self.group(name, 0)?)?;
        }
        if let Some(value) = self.at(&["tool", "uv", "dev-dependencies"]) {
            add("group:dev".to_owned(), &self.texts("tool.uv.dev-dependencies", value)?)?;
        }
        Ok(sections)
    }
}

/// Specifiers in their one form: `<4,>=3`.
pub fn specifiers(text: &str) -> String {
    let text = format!("name{text}");
    let read = requirements::read(Path::new(""), &mut |_| Ok(text.clone()));
    let found = read.ok().and_then(|read| match &read.requirements().first()?.source {
        RequirementSource::Index(specifiers) => Some(joined(specifiers)),
        RequirementSource::Url(_) => None,
    });
    found.unwrap_or_default()
}

fn joined(specifiers: &BTreeSet<Specifier>) -> String {
    let list: BTreeSet<String> = specifiers.iter().map(ToString::to_string).collect();
    list.into_iter().collect::<Vec<_>>().join(",")
}

/// The tables of a list; a table alone counts as a list of one.
fn tables(value: &Value) -> impl Iterator<Item = &Table> {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice).iter().filter_map(Value::as_table)
}

fn json(value: &Value) -> Json {
    serde_json::to_value(value).unwrap_or_default()
}
