//! `clean`: lists what builds left under `target` and no build needs, each with its reason; `--yes` deletes it.

mod units;

use crate::commands;
use crate::flags::Global;
use crate::pipeline;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use xtask_host::tree::facts::Tree;
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::policy::ImageKind;
use xtask_model::quantity;
use xtask_native::container::unpacked;

/// Number of bases on this machine to keep.
const BASES: usize = 2;

/// Age from which a compiled unit, a crate's incremental compilation and an unpacked image are deleted.
const UNUSED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A file or folder to delete.
struct Item {
    path: PathBuf,
    why: String,
    /// The parts of the folder to delete, where it stays itself.
    parts: Option<Vec<PathBuf>>,
    /// Bytes that its deletion frees: those of files that have no other link.
    bytes: u64,
}

/// Prints the list, and deletes what is on it if asked to.
pub fn run(global: &Global, yes: bool) -> anyhow::Result<()> {
    let trees = global.trees()?;
    let tree = &trees[0];
    // A running build may use a layout that is to be deleted.
    let lock = if yes { Some(pipeline::lock_images(&tree.images())?) } else { None };
    let now = SystemTime::now();
    let units::CompiledUnits { unused, skipped } = units::find(&tree.root.join("target"), UNUSED, now);
    let mut items = find(&trees, now);
    // They hold cargo's locks until all is deleted.
    items.extend(unused.iter().map(|units| Item {
        path: units.profile.clone(),
        why: format!("{} compiled units, unused for 7 days", units.number),
        parts: Some(units.paths.clone()),
        bytes: units.paths.iter().map(|path| size(path)).sum(),
    }));
    for item in &items {
        let path = item.path.strip_prefix(&tree.root).unwrap_or(&item.path).display();
        commands::print(&format!("{:>10}  {path}: {}\n", quantity::bytes(item.bytes), item.why))?;
    }
    for (path, why) in &skipped {
        let path = path.strip_prefix(&tree.root).unwrap_or(path).display();
        terminal::step("left out", &format!("compiled units of `{path}`: {why}"));
    }
    let bytes = quantity::bytes(items.iter().map(|item| item.bytes).sum());
    match (items.is_empty(), yes) {
        (true, _) => terminal::step("nothing", "to delete under `target`"),
        (false, false) => terminal::step("nothing", &format!("was deleted; to delete {bytes}, add `--yes`")),
        (false, true) => {
            items.iter().try_for_each(delete)?;
            terminal::step("deleted", &bytes);
        }
    }
    drop(lock);
    Ok(())
}

/// Everything that may be deleted, without the files of a build with `--push`, which takes no lock.
fn find(trees: &[Tree], now: SystemTime) -> Vec<Item> {
    let tree = &trees[0];
    let target = tree.root.join("target");
    let item = |path: PathBuf, why: String| Item { bytes: size(&path), path, why, parts: None };
    let mut found = Vec::new();
    let kinds = [(ImageKind::App, pipeline::KEPT), (ImageKind::Enhanced, pipeline::KEPT), (ImageKind::Base, BASES)];
    let mut prefixes = BTreeMap::new();
    for tree in trees {
        prefixes.extend(kinds.map(|(kind, kept)| (tree.layout_prefix(kind), kept)));
    }
    for (prefix, kept) in prefixes {
        let old = pipeline::local_layouts(&tree.images(), &prefix).into_iter().skip(kept);
        found.extend(old.map(|path| item(path, format!("not one of the {kept} newest images of this kind"))));
    }
    let unused = unpacked::unused(tree, UNUSED, now);
    found.extend(unused.into_iter().map(|path| item(path, "unpacked for a container, unused for 7 days".to_owned())));
    let unfinished = children(&tree.images()).filter(|path| path.extension().is_some_and(|end| end == "partial"));
    found.extend(unfinished.map(|path| item(path, "left by a build that did not finish".to_owned())));
    for profile in children(&target) {
        let is_old = |path: &PathBuf| {
            let modified = fs::metadata(path).and_then(|meta| meta.modified());
            modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > UNUSED))
        };
        let old = children(&profile.join("incremental")).filter(is_old);
        found.extend(old.map(|path| item(path, "incremental compilation, unused for 7 days".to_owned())));
    }
    found
}

fn children(folder: &Path) -> std::vec::IntoIter<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found.into_iter()
}

fn size(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => children(path).map(|child| size(&child)).sum(),
        Ok(meta) if meta.nlink() == 1 => meta.len(),
        _ => 0,
    }
}

fn delete(item: &Item) -> Result<(), Fault> {
    process::interrupted()?;
    let Item { path, parts, .. } = item;
    if let Some(parts) = parts {
        return parts.iter().try_for_each(|path| remove(path));
    }
    if path.parent().is_some_and(|parent| parent.ends_with("native/images")) {
        // A container may have begun to use it.
        unpacked::remove(path);
        return Ok(());
    }
    if path.join("index.json").is_file() && path.extension().is_none() {
        return pipeline::remove_layout(path);
    }
    remove(path)
}

fn remove(path: &Path) -> Result<(), Fault> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::build(format!("cannot remove `{}`", path.display())).cause(error))
        }
        _ => Ok(()),
    }
}
