//! The files of the build context that a Dockerfile reads, as BuildKit's cache sees them.
//!
//! Reads folders and files; runs no process. Which paths count is decided by [`select`], which is pure, so that a git
//! revision can be read by the same rules. Owners and times do not count: BuildKit gives files of a local context
//! to root, and looks at no time.

mod below;
mod fold;
mod folder;
mod staged;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod tests;
mod walk;
mod worktree;

use crate::tree::files::{self, Files};
pub use below::{Below, entries_from_top, from_top};
pub use fold::folder_id;
pub use staged::{ContextContents, StagedContext, stage};
pub use walk::Open;
pub use worktree::WorkTree;
use xtask_model::image::context::{
    ContextEntry, ContextPath, FileInfo, FileKind, Match, ObjectId, SelectedPaths, Tree, select,
};

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use walk::{Walked, walk};
use xtask_model::fault::Fault;
use xtask_model::spec::dockerfile::Source;
use xtask_model::spec::ignore::Ignore;

/// The ignore file that BuildKit takes for a Dockerfile (a path below the root): `DOCKERFILE.dockerignore`, else `.dockerignore` of the
/// context, which is a folder below the root, or the root itself. Returns its path too, where there is one.
pub fn ignore_file<F: Files + ?Sized>(
    files: &F,
    dockerfile: &str,
    context: &ContextPath,
) -> Result<(Option<String>, Ignore), Fault> {
    let of_context = from_top(context, &ContextPath::new(".dockerignore"));
    for candidate in [format!("{dockerfile}.dockerignore"), of_context.to_string()] {
        if let Some(text) = files.read(Path::new(&candidate))? {
            return Ok((Some(candidate.clone()), Ignore::parse(&candidate, &text)?));
        }
    }
    Ok((None, Ignore::none()))
}

/// The files and folders that sources name. A large folder that they take with everything in it is one entry, but for those that are
/// `open`.
pub fn read_sources<F: Files + ?Sized>(
    files: &F,
    sources: &[Source],
    ignore: &Ignore,
    open: Open<'_>,
) -> Result<Vec<ContextEntry>, Fault> {
    let (Walked { tree, covered }, selection) = seen(files, sources, ignore, &BTreeSet::new(), open)?;
    let paths = selection.complete(sources, ignore)?;
    without_repository(&paths, ignore)?;
    without_state(&paths)?;
    let whole = tree.iter().filter_map(|(path, found)| Some((path.clone(), found.whole?.1))).collect();
    fold::fold(entries(files, &tree, paths)?, &covered, &whole, open.larger_than, files.format())
}

/// Every folder is open: all files are listed.
pub fn every_folder() -> Open<'static> {
    Open { folders: &|_| true, larger_than: walk::LARGE }
}

/// No folder is open: large ones are one entry, as in keys.
pub fn no_folder() -> Open<'static> {
    Open { folders: &|_| false, larger_than: walk::LARGE }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picked {
    pub matches: Vec<Match>,
    /// Files at the selected paths, and perhaps at others.
    pub tree: Tree,
    /// Ids of the selected files' contents, links' targets and whole folders, but for the absent files.
    pub ids: BTreeMap<ContextPath, ObjectId>,
}

/// Matches of each source. The `absent` files count as empty executables and are not read.
pub fn pick<F: Files + ?Sized>(
    files: &F,
    sources: &[Source],
    ignore: &Ignore,
    absent: &BTreeSet<ContextPath>,
    open: Open<'_>,
) -> Result<Picked, Fault> {
    let (Walked { tree, .. }, selection) = seen(files, sources, ignore, absent, open)?;
    let (mut paths, matches) = selection.matches(sources, ignore)?;
    paths.retain(|path| !absent.contains(path));
    without_repository(&paths, ignore)?;
    without_state(&paths)?;
    let entries = entries(files, &tree, paths)?;
    let ids = entries.into_iter().filter_map(|entry| Some((entry.path, entry.id?))).collect();
    Ok(Picked { matches, tree, ids })
}

fn seen<F: Files + ?Sized>(
    files: &F,
    sources: &[Source],
    ignore: &Ignore,
    absent: &BTreeSet<ContextPath>,
    open: Open<'_>,
) -> Result<(Walked, SelectedPaths), Fault> {
    // A link leads to paths that no source names; each round learns of more, and the last learns of none.
    let mut linked = BTreeSet::new();
    loop {
        let mut walked = walk(files, sources, &linked, ignore, open)?;
        let program = || FileInfo { kind: FileKind::File, mode: 0o755, size: 0, link: None, whole: None };
        walked.tree.extend(absent.iter().map(|path| (path.clone(), program())));
        let selection = select(&walked.tree, sources, ignore)?;
        let before = linked.len();
        linked.extend(selection.linked());
        if linked.len() == before {
            return Ok((walked, selection));
        }
    }
}

/// Refuses git's own folder: every git command changes it, and no two checkouts have the same.
fn without_repository(paths: &BTreeSet<ContextPath>, ignore: &Ignore) -> Result<(), Fault> {
    let Some(path) = paths.iter().find(|path| path.parts().any(|part| part == b".git")) else { return Ok(()) };
    let parts: Vec<&[u8]> = path.parts().take_while(|part| *part != b".git").chain([b".git".as_slice()]).collect();
    let top = ContextPath::new(parts.join(&b'/'));
    Err(Fault::usage(format!("`{top}` would be copied into the image"))
        .cause("every git command changes it, and it differs between two checkouts of one commit")
        .hint(format!("exclude it: add a line `{top}` to `{}`", ignore.name().unwrap_or(".dockerignore"))))
}

/// Folders of `target` that only this program writes.
const OWN: [&str; 11] =
    ["bench", "docker", "engine", "engine-registry", "images", "ledger", "native", "root", "run", "steps", "tools"];

/// Refuses this program's own state, which every build changes: a source that names `target` as a whole, or a folder of it in [`OWN`].
fn without_state(paths: &BTreeSet<ContextPath>) -> Result<(), Fault> {
    let own = |path: &&ContextPath| {
        let second = path.parts().nth(1);
        path.is_state() && second.is_some_and(|name| OWN.iter().any(|own| own.as_bytes() == name))
    };
    let Some(path) = paths.iter().find(own) else { return Ok(()) };
    Err(Fault::usage(format!("`{path}` would be copied into the image"))
        .cause("it is the state of `cargo xtask`: every build changes it, and it differs between machines")
        .hint("name the files that the image needs, as in `COPY target/release/app /app/`"))
}

fn entries<F: Files + ?Sized>(root: &F, tree: &Tree, paths: BTreeSet<ContextPath>) -> Result<Vec<ContextEntry>, Fault> {
    let mut entries: Vec<ContextEntry> = Vec::with_capacity(paths.len());
    let mut files = Vec::new();
    for path in paths {
        let Some(found) = tree.get(&path) else { continue };
        if found.kind == FileKind::Special {
            let what = format!("`{path}` in the build context is not a file, folder or link");
            return Err(
                Fault::usage(what).hint(format!("remove it, or exclude it with a line `{path}` in the ignore file"))
            );
        }
        if found.kind == FileKind::File {
            files.push(entries.len());
        }
        let target = found.link.as_deref().map(|target| files::blob(root.format(), target)).transpose()?;
        let id = target.or(found.whole.map(|(id, _)| id));
        entries.push(ContextEntry { path, kind: found.kind, mode: found.mode, id });
    }
    let named: Vec<&ContextPath> = files.iter().map(|&index: &usize| &entries[index].path).collect();
    for (index, id) in files.iter().zip(root.ids(&named)?) {
        entries[*index].id = Some(id);
    }
    Ok(entries)
}
