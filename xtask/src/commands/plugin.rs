//! `plugin`: lists, describes and creates build plugins.

use crate::documents;
use crate::flags::{Format, Global, PluginCommand};
use crate::plugins::{self, Description, program};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use xtask_host::terminal;
use xtask_host::tree::facts::{self, Tree};
use xtask_model::fault::Fault;
use xtask_model::image::policy::{Action, Step};

const PACKAGE: &str = "package:";

#[derive(Serialize)]
struct Shown {
    name: String,
    about: String,
    tools: Vec<String>,
    settings: BTreeMap<String, String>,
    steps: Vec<String>,
}

pub fn run(global: &Global, command: &PluginCommand) -> anyhow::Result<()> {
    match command {
        PluginCommand::List => list(global),
        PluginCommand::Describe { name } => describe(global, name),
        PluginCommand::New { name } => {
            let root = facts::find_root(global.root.as_deref())?;
            Ok(new(&root, name)?)
        }
    }
}

fn shown(description: &Description, tree: &Tree) -> Shown {
    let uses = tree.policy.steps.iter().filter(|step| step.uses(description.name));
    Shown {
        name: description.name.to_owned(),
        about: description.about.to_owned(),
        tools: description.tools.iter().map(|tool| (*tool).to_owned()).collect(),
        settings: description.settings.iter().map(|key| (key.name.to_owned(), key.meaning.to_owned())).collect(),
        steps: uses.map(|step| step.name.clone()).collect(),
    }
}

fn packages(tree: &Tree) -> BTreeMap<&str, Vec<&Step>> {
    let mut found: BTreeMap<&str, Vec<&Step>> = BTreeMap::new();
    for step in &tree.policy.steps {
        if let Action::Package(name, _) = &step.action {
            found.entry(name).or_default().push(step);
        }
    }
    found
}

fn list(global: &Global) -> anyhow::Result<()> {
    let tree = global.any_tree()?;
    let mut all: Vec<Shown> = plugins::all().map(|plugin| shown(plugin.description(), &tree)).collect();
    all.extend(packages(&tree).into_iter().map(|(name, steps)| Shown {
        name: format!("{PACKAGE}{name}"),
        about: "a program of the workspace".to_owned(),
        tools: vec!["cargo".to_owned()],
        settings: BTreeMap::new(),
        steps: steps.into_iter().map(|step| step.name.clone()).collect(),
    }));
    if global.format == Format::Json {
        return documents::PLUGINS.print_list("plugins", &all);
    }
    let width = all.iter().map(|one| one.name.len()).max().unwrap_or_default();
    let line = |one: &Shown| {
        let steps = if one.steps.is_empty() { String::new() } else { format!(" (step {})", one.steps.join(", ")) };
        format!("{:width$}  {}{steps}\n", one.name, one.about)
    };
    super::print(&all.iter().map(line).collect::<String>())
}

fn describe(global: &Global, name: &str) -> anyhow::Result<()> {
    let tree = global.any_tree()?;
    let found = match name.strip_prefix(PACKAGE) {
        Some(package) => {
            let said = program::describe(&tree.root, package)?;
            let steps = packages(&tree).remove(package).unwrap_or_default();
            Shown {
                name: name.to_owned(),
                about: said.about.unwrap_or_else(|| "a program of the workspace".to_owned()),
                tools: vec!["cargo".to_owned()],
                settings: said.settings,
                steps: steps.into_iter().map(|step| step.name.clone()).collect(),
            }
        }
        None => {
            let plugin = plugins::all().find(|plugin| plugin.description().name == name);
            let plugin = plugin.ok_or_else(|| {
                Fault::usage(format!("there is no plugin `{name}`")).hint("list them: `cargo xtask plugin list`")
            })?;
            shown(plugin.description(), &tree)
        }
    };
    if global.format == Format::Json {
        return documents::PLUGINS.print_list("plugins", &[found]);
    }
    let mut text = format!("{}: {}\n", found.name, found.about);
    for (setting, meaning) in &found.settings {
        text += &format!("  {setting}: {meaning}\n");
    }
    for step in &found.steps {
        text += &format!("used by step {step}\n");
    }
    super::print(&text)
}

/// Writes a package with a plugin.
fn new(root: &Path, name: &str) -> Result<(), Fault> {
    let good = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !good {
        return Err(Fault::usage(format!("`{name}` is not a package's name"))
            .cause("it has lowercase letters, digits and `-`, and begins with a letter"));
    }
    let folder = root.join("plugins").join(name);
    if folder.exists() {
        return Err(Fault::usage(format!("`{}` exists already", folder.display())));
    }
    let cannot = |error: std::io::Error| Fault::build(format!("cannot write `{}`", folder.display())).cause(error);
    std::fs::create_dir_all(folder.join("src")).map_err(cannot)?;
    std::fs::write(folder.join("Cargo.toml"), MANIFEST.replace("NAME", name)).map_err(cannot)?;
    std::fs::write(folder.join("src/main.rs"), PROGRAM.replace("NAME", name)).map_err(cannot)?;
    terminal::step("created", &format!("`plugins/{name}`"));
    terminal::step("next", &format!("add `plugins/{name}` to `members` in `Cargo.toml`"));
    terminal::step(
        "next",
        &format!("add to `images.toml`: [[step]] name = \"{name}\", uses = \"package:{name}\", largest = 100"),
    );
    terminal::step("test", &format!("`cargo test --package {name}`"));
    Ok(())
}

const MANIFEST: &str = include_str!("plugin/Cargo.toml.txt");
const PROGRAM: &str = include_str!("plugin/main.rs.txt");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_plugin_is_a_package_and_replaces_nothing() {
        let root = tempfile::tempdir().unwrap();
        new(root.path(), "licences").unwrap();
        let read = |path: &str| std::fs::read_to_string(root.path().join("plugins/licences").join(path)).unwrap();
        assert!(read("Cargo.toml").contains("name = \"licences\""));
        assert!(read("src/main.rs").contains("#[test]"));
        assert!(new(root.path(), "licences").unwrap_err().what.contains("exists already"));
        for bad in ["", "A", "a/b", "..", "1a", "a b"] {
            assert!(new(root.path(), bad).is_err(), "{bad}");
        }
    }
}
