//! Files that give an app the metadata and programs of this repository's projects: `lock` writes them, builds compare them.

use crate::file;
use crate::tree::files::Files;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, FileKind};
use xtask_model::image::policy::Policy;
use xtask_model::spec::project::{Project, installed};

/// The files by path, as the projects are now.
fn wanted<F: Files + ?Sized>(files: &F, policy: &Policy) -> Result<BTreeMap<String, String>, Fault> {
    let folder = policy.installed_folder();
    let mut all = BTreeMap::new();
    for path in &policy.project.installed {
        let project = Project::parse(path.as_ref(), &files.text(path.as_ref())?)?;
        for (name, text) in project.installed(installed::ENVIRONMENT)? {
            if all.insert(format!("{folder}/{name}"), text).is_some() {
                let what = format!("`{path}`: another project of `[project] installed` has `{name}` too");
                return Err(Fault::usage(what).hint("rename one of them, or name only one of the projects"));
            }
        }
    }
    Ok(all)
}

/// Paths in the folder that no project has.
fn others<F: Files + ?Sized>(
    files: &F,
    policy: &Policy,
    wanted: &BTreeMap<String, String>,
) -> Result<BTreeSet<String>, Fault> {
    let mut found = BTreeSet::new();
    for part in [installed::METADATA, installed::PROGRAMS] {
        let folder = format!("{}/{part}", policy.installed_folder());
        let place: ContextPath = folder.parse().expect("a path of the policy is one of the context");
        if files.found(&place)?.is_none_or(|info| info.kind != FileKind::Dir) {
            continue;
        }
        for named in files.list(&place)? {
            let path = format!("{folder}/{}", String::from_utf8_lossy(&named.name));
            if !wanted.keys().any(|known| *known == path || known.starts_with(&format!("{path}/"))) {
                found.insert(path);
            }
        }
    }
    Ok(found)
}

/// True if [`write()`] may write or remove the file with this path.
pub fn is_written(policy: &Policy, path: &str) -> bool {
    let below = |part| path.starts_with(&format!("{}/{part}/", policy.installed_folder()));
    !policy.project.installed.is_empty() && [installed::METADATA, installed::PROGRAMS].into_iter().any(below)
}

/// Checks that the files are what the projects give.
///
/// # Errors
/// Drift, with the files that differ; a project whose name or version only a build knows.
pub fn check<F: Files + ?Sized>(files: &F, policy: &Policy) -> Result<(), Fault> {
    if policy.project.installed.is_empty() {
        return Ok(());
    }
    let wanted = wanted(files, policy)?;
    let mut causes = Vec::new();
    for (path, text) in &wanted {
        match files.read_text(path.as_ref())? {
            Some(found) if found == *text => {}
            Some(_) => causes.push(format!("`{path}` differs")),
            None => causes.push(format!("`{path}` is missing")),
        }
    }
    causes.extend(others(files, policy, &wanted)?.iter().map(|path| format!("no project has `{path}`")));
    if causes.is_empty() {
        return Ok(());
    }
    let fault = Fault::drift("the metadata of installed projects is out of date").hint("write it: `cargo xtask lock`");
    Err(causes.into_iter().fold(fault, Fault::cause))
}

/// Writes the files, and removes those that no project has; returns what changed.
pub fn write(root: &Path, policy: &Policy) -> Result<Vec<String>, Fault> {
    if policy.project.installed.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = wanted(root, policy)?;
    let mut changed = Vec::new();
    for (path, text) in &wanted {
        if file::write(&root.join(path), text)? {
            changed.push(path.clone());
        }
    }
    for path in others(root, policy, &wanted)? {
        let place = root.join(&path);
        let removed = if place.is_dir() { std::fs::remove_dir_all(&place) } else { std::fs::remove_file(&place) };
        removed.map_err(|error| Fault::build(format!("cannot remove `{path}`")).cause(error))?;
        changed.push(path);
    }
    Ok(changed)
}
