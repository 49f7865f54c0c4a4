//! Files of an installed project in addition to its code: its metadata and its programs.
//!
//! Core metadata 2.4, entry points and `.dist-info` by the specifications of PyPA. The code is copied by an app; with these files
//! next to it `importlib.metadata` and the programs of `[project.scripts]` work as if the project were installed.

use super::Project;
use crate::fault::Fault;
use crate::spec::requirements::normalised;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use toml::{Table, Value};

/// The environment of base images.
pub const ENVIRONMENT: &str = "/opt/venv";

/// The folders of a tree of these files: one for Python's path, one for programs.
pub const METADATA: &str = "metadata";
pub const PROGRAMS: &str = "bin";

impl Project {
    /// The files, by path; programs start with the environment's Python.
    ///
    /// # Errors
    /// A name or version that only a build of the project knows; an entry point that is none.
    pub fn installed(&self, environment: &str) -> Result<BTreeMap<String, String>, Fault> {
        let field = |name: &str| {
            let value = self.at(&["project", name]).or_else(|| self.at(&["tool", "poetry", name]));
            let hint = format!(
                "give `{name}` in `[project]`, or leave the project out of `[project] installed` in `images.toml`"
            );
            value.and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
                self.fault(format!("the project has no fixed `{name}`, so its metadata cannot be written")).hint(hint)
            })
        };
        let (name, version) = (field("name")?, field("version")?);
        let folder = format!("{METADATA}/{}-{version}.dist-info", normalised(&name).replace('-', "_"));
        let mut files = BTreeMap::from([
            (format!("{folder}/METADATA"), self.metadata(&name, &version)?),
            (format!("{folder}/INSTALLER"), "image-xtask\n".to_owned()),
        ]);
        let points = self.entry_points()?;
        let mut text = String::new();
        for (group, entries) in points.iter().filter(|(_, entries)| !entries.is_empty()) {
            let _ = writeln!(text, "{}[{group}]", if text.is_empty() { "" } else { "\n" });
            entries.iter().for_each(|(name, target)| text += &format!("{name} = {target}\n"));
        }
        if !text.is_empty() {
            files.insert(format!("{folder}/entry_points.txt"), text);
        }
        for (name, target) in ["console_scripts", "gui_scripts"].iter().filter_map(|group| points.get(*group)).flatten()
        {
            files.insert(format!("{PROGRAMS}/{name}"), self.program(environment, name, target)?);
        }
        Ok(files)
    }

    fn metadata(&self, name: &str, version: &str) -> Result<String, Fault> {
        let mut text = format!("Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n");
        let mut line = |field: &str, value: &str| {
            let _ = writeln!(text, "{field}: {}", value.replace(['\n', '\r'], " "));
        };
        for (field, key) in [("Summary", "description"), ("Requires-Python", "requires-python")] {
            if let Some(value) = self.at(&["project", key]).and_then(Value::as_str) {
                line(field, value);
            }
        }
        match self.dependencies() {
            Ok(all) => all.iter().for_each(|one| line("Requires-Dist", one)),
            Err(_) if self.at(&["project", "dependencies"]).is_none() => line("Dynamic", "Requires-Dist"),
            Err(fault) => return Err(fault),
        }
        for (extra, requirements) in self.optional()? {
            line("Provides-Extra", &extra);
            for one in requirements {
                // A marker of its own holds only together with the extra.
                let one = match one.split_once(';') {
                    Some((what, marker)) => format!("{}; ({}) and extra == '{extra}'", what.trim(), marker.trim()),
                    None => format!("{one}; extra == '{extra}'"),
                };
                line("Requires-Dist", &one);
            }
        }
        Ok(text)
    }

    /// Names of the programs that an installation makes.
    pub fn programs(&self) -> Vec<String> {
        let points = self.entry_points().unwrap_or_default();
        let programs = ["console_scripts", "gui_scripts"].iter().filter_map(|group| points.get(*group));
        programs.flat_map(|entries| entries.keys().cloned()).collect()
    }

    /// Entry points by group, each with its name and target.
    fn entry_points(&self) -> Result<BTreeMap<String, BTreeMap<String, String>>, Fault> {
        let table = |way: &[&str]| self.at(way).and_then(Value::as_table).cloned().unwrap_or_default();
        let entries = |group: &str, table: &Table| -> Result<BTreeMap<String, String>, Fault> {
            let entry = |(name, value): (&String, &Value)| match value.as_str() {
                Some(target) if !name.contains(['/', '\n']) => Ok((name.clone(), target.to_owned())),
                _ => Err(self.fault(format!("the entry point `{name}` of `{group}` is not `module:name`"))),
            };
            table.iter().map(entry).collect()
        };
        let mut found = BTreeMap::new();
        let mut add = |group: &str, table: &Table| -> Result<(), Fault> {
            let more = entries(group, table)?;
            found.entry(group.to_owned()).or_insert_with(BTreeMap::new).extend(more);
            Ok(())
        };
        add("console_scripts", &table(&["tool", "poetry", "scripts"]))?;
        add("console_scripts", &table(&["project", "scripts"]))?;
        add("gui_scripts", &table(&["project", "gui-scripts"]))?;
        for way in [["tool", "poetry", "plugins"].as_slice(), &["project", "entry-points"]] {
            for (group, value) in &table(way) {
                add(group, value.as_table().unwrap_or(&Table::new()))?;
            }
        }
        Ok(found)
    }

    /// A program that calls `module:object`.
    fn program(&self, environment: &str, name: &str, target: &str) -> Result<String, Fault> {
        let target = target.split('[').next().unwrap_or(target).trim();
        let is_path = |path: &str| {
            !path.is_empty()
                && path.split('.').all(|part| {
                    part.starts_with(|c: char| c.is_alphabetic() || c == '_')
                        && part.chars().all(|c| c.is_alphanumeric() || c == '_')
                })
        };
        let parts = target.split_once(':').map(|(module, object)| (module.trim(), object.trim()));
        let Some((module, object)) = parts.filter(|(module, object)| is_path(module) && is_path(object)) else {
            return Err(self.fault(format!("the entry point `{name}` is `{target}`, not `module:name`")));
        };
        let first = object.split('.').next().unwrap_or(object);
        Ok(format!("#!{environment}/bin/python\nimport sys\n\nfrom {module} import {first}\n\nsys.exit({object}())\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn project(text: &str) -> Project {
        Project::parse(Path::new("pyproject.toml"), text).unwrap()
    }

    #[test]
    fn a_project_has_metadata_entry_points_and_programs() {
        let text = "[project]\nname = \"My.Shop\"\nversion = \"1.2\"\ndescription = \"Sells\"\nrequires-python = \">=3.12\"\n\
             dependencies = [\"flask>=3\"]\n[project.optional-dependencies]\ndb = [\"psycopg; sys_platform == 'linux'\", \"redis\"]\n\
             [project.scripts]\nshop = \"shop.cli:App.run\"\n[project.entry-points.\"shop.plugins\"]\nmail = \"shop.mail\"\n";
        let files = project(text).installed("/opt/venv").unwrap();
        let paths: Vec<&str> = files.keys().map(String::as_str).collect();
        let folder = "metadata/my_shop-1.2.dist-info";
        assert_eq!(
            paths,
            [
                "bin/shop",
                &format!("{folder}/INSTALLER"),
                &format!("{folder}/METADATA"),
                &format!("{folder}/entry_points.txt")
            ]
        );
        assert_eq!(
            files[&format!("{folder}/METADATA")],
            "Metadata-Version: 2.4\nName: My.Shop\nVersion: 1.2\nSummary: Sells\nRequires-Python: >=3.12\nRequires-Dist: flask>=3\n\
             Provides-Extra: db\nRequires-Dist: psycopg; (sys_platform == 'linux') and extra == 'db'\nRequires-Dist: redis; extra == 'db'\n"
        );
        assert_eq!(
            files[&format!("{folder}/entry_points.txt")],
            "[console_scripts]\nshop = shop.cli:App.run\n\n[shop.plugins]\nmail = shop.mail\n"
        );
        assert_eq!(
            files["bin/shop"],
            "#!/opt/venv/bin/python\nimport sys\n\nfrom shop.cli import App\n\nsys.exit(App.run())\n"
        );
    }

    #[test]
    fn a_project_of_poetry_has_programs() {
        let text = "[tool.poetry]\nname = \"a\"\nversion = \"2\"\n[tool.poetry.scripts]\na = \"a:main\"\n";
        let files = project(text).installed("/v").unwrap();
        assert!(files["metadata/a-2.dist-info/METADATA"].ends_with("Name: a\nVersion: 2\n"));
        assert!(files.contains_key("bin/a"));
    }

    #[test]
    fn what_only_a_build_knows_is_refused() {
        for (text, why) in [
            ("[project]\nname = \"a\"\ndynamic = [\"version\"]", "no fixed `version`"),
            ("[project]\nversion = \"1\"", "no fixed `name`"),
            ("[project]\nname = \"a\"\nversion = \"1\"\n[project.scripts]\nx = \"a.b\"", "not `module:name`"),
            ("[project]\nname = \"a\"\nversion = \"1\"\n[project.scripts]\nx = \"a:b();c\"", "not `module:name`"),
            ("[project]\nname = \"a\"\nversion = \"1\"\n[project.scripts]\n\"../x\" = \"a:b\"", "not `module:name`"),
        ] {
            let fault = project(text).installed("/v").unwrap_err();
            assert!(fault.what.contains(why), "{text}: {fault}");
        }
    }
}
