//! `setup.cfg` and `setup.py` as the tables that `pyproject.toml` has for the same.
//!
//! Pure: no Python runs. What a `setup.py` writes out, or names by a constant of its own, is read. A value that it computes is left out,
//! and requirements that it computes are dynamic, as those of a `pyproject.toml` that says so.

mod python;

use python::{Arguments, Value as Python, arguments};
use std::collections::BTreeMap;
use toml::{Table, Value};

pub(super) const SETTINGS: &str = "setup.cfg";
pub(super) const PROGRAM: &str = "setup.py";

/// Values that setuptools reads, whichever file they are in. `None` in a field is a value that only a build knows.
#[derive(Default)]
struct Setup {
    texts: BTreeMap<&'static str, String>,
    requirements: Option<Option<Vec<String>>>,
    extras: BTreeMap<String, Vec<String>>,
    entry_points: BTreeMap<String, Vec<String>>,
    /// The folder that has the packages.
    folder: Option<String>,
}

/// The tables of a `setup.cfg`.
pub(super) fn of_settings(text: &str) -> Table {
    let sections = sections(text);
    let at = |section: &str, key: &str| sections.get(section).and_then(|keys| keys.get(key));
    let elsewhere = |value: &str| value.starts_with("file:") || value.starts_with("attr:");
    let mut setup = Setup::default();
    for (key, section, name) in [
        ("name", "metadata", "name"),
        ("version", "metadata", "version"),
        ("description", "metadata", "description"),
        ("requires-python", "options", "python_requires"),
    ] {
        let value = at(section, name).map(|lines| lines.join(" ").trim().to_owned());
        setup.texts.extend(value.filter(|value| !elsewhere(value)).map(|value| (key, value)));
    }
    setup.requirements =
        at("options", "install_requires").map(|lines| (!elsewhere(&lines[0])).then(|| requirements(lines)));
    let section = |name: &str| sections.get(name).into_iter().flatten();
    setup.extras = section("options.extras_require").map(|(name, lines)| (name.clone(), requirements(lines))).collect();
    setup.entry_points =
        section("options.entry_points").map(|(group, lines)| (group.clone(), requirements(lines))).collect();
    let folders = at("options", "package_dir").into_iter().flatten();
    setup.folder = folders.filter_map(|line| line.strip_prefix('=')).map(|path| path.trim().to_owned()).next_back();
    setup.table()
}

/// The entries of a list: its lines, or the parts of its only line. A marker has a semicolon too.
fn requirements(lines: &[String]) -> Vec<String> {
    let all: Vec<&str> = match lines {
        [one] => one.split(';').collect(),
        all => all.iter().map(String::as_str).collect(),
    };
    all.into_iter().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The tables of a `setup.py`: the arguments of its call of `setup`.
pub(super) fn of_program(text: &str) -> Table {
    let Arguments { named: found, others } = arguments(text, "setup");
    let mut setup = Setup::default();
    for (key, name) in [
        ("name", "name"),
        ("version", "version"),
        ("description", "description"),
        ("requires-python", "python_requires"),
    ] {
        setup.texts.extend(found.get(name).and_then(Python::text).map(|value| (key, value.to_owned())));
    }
    setup.requirements = found.get("install_requires").map(Python::texts).or_else(|| others.then_some(None));
    let lists = |name: &str| {
        let entries = found.get(name).and_then(Python::entries).unwrap_or_default();
        entries.into_iter().filter_map(|(name, value)| Some((name, value.texts()?))).collect()
    };
    setup.extras = lists("extras_require");
    setup.entry_points = lists("entry_points");
    let folders = found.get("package_dir").and_then(Python::entries).unwrap_or_default();
    setup.folder =
        folders.into_iter().find(|(name, _)| name.is_empty()).and_then(|(_, value)| value.text().map(str::to_owned));
    setup.table()
}

impl Setup {
    fn table(self) -> Table {
        let texts = |all: Vec<String>| Value::Array(all.into_iter().map(Value::String).collect());
        let mut project: Table =
            self.texts.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))).collect();
        match self.requirements {
            Some(Some(all)) => drop(project.insert("dependencies".to_owned(), texts(all))),
            Some(None) => drop(project.insert("dynamic".to_owned(), texts(vec!["dependencies".to_owned()]))),
            None => {}
        }
        let extras = self.extras.into_iter().map(|(name, all)| (name, texts(all)));
        project.insert("optional-dependencies".to_owned(), Value::Table(extras.collect()));
        let mut points = Table::new();
        for (group, all) in self.entry_points {
            let entries = all.iter().filter_map(|line| line.split_once('='));
            let entries =
                entries.map(|(name, target)| (name.trim().to_owned(), Value::String(target.trim().to_owned())));
            let entries = Value::Table(entries.collect());
            match group.as_str() {
                "console_scripts" => drop(project.insert("scripts".to_owned(), entries)),
                "gui_scripts" => drop(project.insert("gui-scripts".to_owned(), entries)),
                _ => drop(points.insert(group, entries)),
            }
        }
        project.insert("entry-points".to_owned(), Value::Table(points));
        let mut table = Table::from_iter([
            ("project".to_owned(), Value::Table(project)),
            ("build-system".to_owned(), Value::Table(Table::new())),
        ]);
        if let Some(folder) = self.folder {
            let folders = Table::from_iter([(String::new(), Value::String(folder))]);
            let setuptools = Table::from_iter([("package-dir".to_owned(), Value::Table(folders))]);
            let tool = Table::from_iter([("setuptools".to_owned(), Value::Table(setuptools))]);
            table.insert("tool".to_owned(), Value::Table(tool));
        }
        table
    }
}

/// Sections of a configuration file as Python's `configparser` reads them. A value has its lines: the one of its key, then those below.
fn sections(text: &str) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let mut found: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    let (mut section, mut key) = (String::new(), String::new());
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.trim().starts_with(['#', ';'])) {
        let plain = line.trim();
        let keys = found.entry(section.clone()).or_default();
        if line.starts_with([' ', '\t']) {
            if let Some(lines) = keys.get_mut(&key) {
                lines.push(plain.to_owned());
            }
        } else if let Some(name) = plain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            (section, key) = (name.trim().to_owned(), String::new());
        } else if let Some(at) = plain.find(['=', ':']) {
            key = plain[..at].trim().to_ascii_lowercase().replace('-', "_");
            keys.insert(key.clone(), vec![plain[at + 1..].trim().to_owned()]);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Project;
    use super::super::installed::ENVIRONMENT;
    use crate::spec::project::Selection;
    use std::path::Path;

    fn project(name: &str, text: &str) -> Project {
        Project::parse(Path::new(name), text).unwrap()
    }

    fn all(extra: &str) -> Selection {
        Selection { extras: [extra.to_owned()].into(), ..Selection::default() }
    }

    #[test]
    fn settings_are_a_project() {
        let text = "[metadata]\nname = My-Shop\nversion = 1.2\n# a comment\n[options]\npackage_dir =\n    =src\npackages = find:\npython_requires = >=3.9\n\
             install_requires =\n    flask>=3\n    # why\n    tomli; python_version < '3.11'\n[options.extras_require]\ndb = psycopg; redis\n\
             [options.entry_points]\nconsole_scripts =\n    shop = shop.cli:main\n";
        let found = project("setup.cfg", text);
        assert_eq!(found.name().as_deref(), Some("my-shop"));
        assert!(found.is_package());
        assert_eq!(
            found.lines(&all("db")).unwrap(),
            ["flask>=3", "tomli; python_version < '3.11'", "psycopg", "redis"]
        );
        assert_eq!(found.folder().as_deref(), Some("src"));
        let files = found.installed(ENVIRONMENT).unwrap();
        assert!(files["bin/shop"].contains("from shop.cli import main"), "{files:?}");
        assert!(files["metadata/my_shop-1.2.dist-info/METADATA"].contains("Requires-Python: >=3.9"), "{files:?}");
    }

    #[test]
    fn a_program_is_a_project_as_far_as_it_writes_its_values_out() {
        let text = "from setuptools import setup, find_packages\nimport os\nhere = os.path.dirname(__file__)\nREQUIRES = [\n    'flask>=3',  # why\n    \"jinja2\"\n]\n\
             version = '1.' '2'\n\nif __name__ == '__main__':\n    setup(\n        name='my-shop', version=version,\n        long_description=open(os.path.join(here, 'README')).read(),\n\
        packages=find_packages(exclude=['tests']), package_dir={'': 'lib'},\n        install_requires=REQUIRES + ['redis'],\n        extras_require={'db': ['psycopg'], 'all': compute()},\n\
        entry_points={'console_scripts': ['shop=shop.cli:main'], 'shop.plugins': ('mail = shop.mail',)},\n    )\n";
        let found = project("setup.py", text);
        assert_eq!(found.name().as_deref(), Some("my-shop"));
        assert_eq!(found.lines(&all("db")).unwrap(), ["flask>=3", "jinja2", "redis", "psycopg"]);
        assert_eq!(found.folder().as_deref(), Some("lib"));
        let files = found.installed(ENVIRONMENT).unwrap();
        assert!(files.contains_key("metadata/my_shop-1.2.dist-info/entry_points.txt"), "{files:?}");
        assert!(files.contains_key("bin/shop"), "{files:?}");
    }

    #[test]
    fn requirements_that_are_computed_are_dynamic() {
        for (name, text) in [
            ("setup.py", "setup(name='a', install_requires=read('requirements.txt'))"),
            ("setup.py", "setup(name='a', install_requires=[line for line in open('x')])"),
            ("setup.py", "r = ['a']\nif windows:\n    r.append('b')\nsetup(name='a', install_requires=r)"),
            ("setup.py", "r = ['a']\nr += other()\nsetup(install_requires=r)"),
            ("setup.py", "setup(install_requires=[f'a=={version}'])"),
            ("setup.py", "setup(install_requires=['a', *more])"),
            ("setup.py", "setup(install_requires=['a'] if x else ['b'])"),
            ("setup.py", ""),
            ("setup.py", "'''"),
            ("setup.py", "setup(**arguments)"),
            ("setup.py", "setup(name='a'"),
            ("setup.cfg", "[options]\ninstall_requires = file: requirements.txt\n"),
        ] {
            let fault = project(name, text).lines(&Selection::default()).unwrap_err();
            assert!(fault.what.contains("dynamic"), "{text}: {fault}");
        }
        assert!(project("setup.py", "setup(name='a')").lines(&Selection::default()).unwrap().is_empty());
        assert!(project("setup.py", "import setuptools\nsetuptools.setup()\n").name().is_none());
    }
}
