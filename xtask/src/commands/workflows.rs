//! `workflows`: writes the files of CI from the policy, or reports files that are out of date.

use crate::flags::Global;
use std::path::{Path, PathBuf};
use xtask_host::tree::facts::{self, Tree};
use xtask_host::tree::git::Git;
use xtask_host::{file, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::policy::{Policy, Provider};
use xtask_model::record::workflows::{self, File, PolicyLocation, RootDigests};

/// Writes the workflows; with `check` changes nothing, and fails where a file is missing or differs. A file that someone else
/// wrote is never replaced, and then none is.
pub fn run(global: &Global, check: bool) -> Result<(), Fault> {
    let WantedWorkflows { trees, top, place, gitlab, files } = generate(global)?;
    let policy = &trees[0].policy;
    let mut drift: Vec<String> = Vec::new();
    if policy.ci.provider == Provider::GitLab
        && let Some(file) = files.iter().find(|file| file.path != workflows::GITLAB_TOP && !gitlab.contains(&file.path))
    {
        let what = format!("`{}` does not include `{}`", workflows::GITLAB_TOP, file.path);
        if check {
            drift.push(what);
        } else {
            terminal::warn(&format!("{what}; add it: `include: [{{local: {}}}]`", file.path));
        }
    }
    for file in &files {
        let found = read(&top.join(&file.path), &file.path)?;
        match found {
            None => drift.push(format!("`{}` is missing", file.path)),
            Some(text) if !workflows::is_ours(&text, &place) && !check => {
                return Err(workflows::foreign_file(file, &text));
            }
            Some(text) => drift.extend(workflows::difference(file, &text)),
        }
    }
    for (path, why) in workflows::obsolete(policy, &place) {
        let found = read(&top.join(&path), &path)?;
        if found.is_none_or(|text| !workflows::is_ours(&text, &place)) {
            continue;
        }
        if check {
            drift.push(format!("`{path}` is obsolete: {why}"));
        } else {
            std::fs::remove_file(top.join(&path))
                .map_err(|error| Fault::usage(format!("cannot remove `{path}`")).cause(error))?;
            terminal::step("removed", &format!("`{path}`: {why}"));
        }
    }
    if !check {
        for file in &files {
            let wrote = file::write(&top.join(&file.path), &file.text)?;
            terminal::step(if wrote { "wrote" } else { "unchanged" }, &format!("`{}`", file.path));
        }
        return Ok(());
    }
    if drift.is_empty() {
        terminal::step("checked", &format!("{} workflows are up to date", files.len()));
        return Ok(());
    }
    let fault = drift
        .iter()
        .fold(Fault::drift("the workflows are out of date with `images.toml` and `images.lock`"), Fault::cause);
    Err(fault.hint("update them: `cargo xtask workflows`"))
}

/// The workflows of the policy as they should be, with what they were generated from.
struct WantedWorkflows {
    trees: Vec<Tree>,
    /// Top of the repository.
    top: PathBuf,
    place: PolicyLocation,
    /// Text of GitLab's file at the top; empty if it is missing.
    gitlab: String,
    files: Vec<File>,
}

/// Generates the files for every app, whichever is selected.
fn generate(global: &Global) -> Result<WantedWorkflows, Fault> {
    let trees = Global { app: Vec::new(), ..global.clone() }.trees()?;
    let policies: Vec<&Policy> = trees.iter().map(|tree| &tree.policy).collect();
    let (top, place) = place(&trees[0].root)?;
    let gitlab = read(&top.join(workflows::GITLAB_TOP), workflows::GITLAB_TOP)?.unwrap_or_default();
    let place = place.next_to(&gitlab);
    let root = RootDigests::of(&policies, &facts::images_lock(&trees[0])?);
    let files = workflows::generate(&policies, &place, root)?;
    Ok(WantedWorkflows { trees, top, place, gitlab, files })
}

/// Says how to write the workflows again if those that were written before differ from what the policy and the pins give now.
pub fn suggest(global: &Global) {
    // What cannot be read here is for `--check` to say.
    if let Ok(Some(path)) = outdated(global) {
        terminal::step("next", &format!("`cargo xtask workflows`: `{path}` is out of date with the pins"));
    }
}

/// The first file that was written before and would be another one now.
fn outdated(global: &Global) -> Result<Option<String>, Fault> {
    let WantedWorkflows { top, place, files, .. } = generate(global)?;
    for File { path, text } in files {
        let found = read(&top.join(&path), &path)?;
        if found.is_some_and(|found| workflows::is_ours(&found, &place) && found != text) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Text of a file, or `None` if it is missing. Invalid UTF-8 is replaced: a generated file has none.
fn read(path: &Path, name: &str) -> Result<Option<String>, Fault> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !path.is_symlink() => Ok(None),
        Err(error) => Err(Fault::usage(format!("cannot read `{name}`")).cause(error)),
    }
}

/// The top of the repository, and where the policy is from there.
fn place(root: &Path) -> Result<(PathBuf, PolicyLocation), Fault> {
    let below = Git::at(root).prefix()?;
    let depth = below.split('/').filter(|part| !part.is_empty()).count();
    let top = root.ancestors().nth(depth).unwrap_or(root);
    let workspace = root.ancestors().take(depth + 1).find(|folder| folder.join("Cargo.lock").is_file()).unwrap_or(root);
    let from_top = |folder: &Path| folder.strip_prefix(top).unwrap_or(folder).display().to_string();
    Ok((top.to_owned(), PolicyLocation::new(&from_top(root), &from_top(workspace))?))
}
