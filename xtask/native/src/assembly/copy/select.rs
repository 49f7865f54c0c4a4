//! Selects files of a stage for `COPY --from`.
//!
//! Pure. Works on a stage's own files; the caller follows links.

use super::target::CopiedItem;
use super::{Selected, SelectedNode};
use crate::layer::item::Content;
use std::collections::BTreeMap;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::dockerfile::Reads;
use xtask_model::spec::ignore::{Ignore, glob};

pub(crate) type FileMap = BTreeMap<ContextPath, CopiedItem>;

/// Applies a layer: anything but a folder replaces what was at its path, with everything below.
pub(crate) fn apply_layer(files: &mut FileMap, layer: impl IntoIterator<Item = CopiedItem>) {
    for made in layer {
        let path = made.item.path.clone();
        let is_dir = |made: &CopiedItem| made.item.content == Content::Dir;
        if files.get(&path).is_some_and(|there| !(is_dir(there) && is_dir(&made))) {
            let inside: Vec<ContextPath> = below(files, &path).map(|(path, _)| path.clone()).collect();
            inside.iter().for_each(|path| drop(files.remove(path)));
        }
        files.insert(path, made);
    }
}

fn below<'f>(files: &'f FileMap, folder: &'f ContextPath) -> impl Iterator<Item = (&'f ContextPath, &'f CopiedItem)> {
    let first = if folder.as_bytes().is_empty() { folder.clone() } else { folder.join(b"") };
    files.range(first..).take_while(move |(path, _)| path.below(folder).is_some())
}

/// The tree at a path, under the name that the source uses; `None` if the path is missing.
fn entry(files: &FileMap, at: &ContextPath, name: &[u8]) -> Option<Selected> {
    let node = |made: &CopiedItem, rest: &[u8]| SelectedNode {
        rest: ContextPath::new(rest),
        mode: made.item.mode,
        uid: made.item.uid,
        gid: made.item.gid,
        content: made.item.content.clone(),
        sum: made.sum,
    };
    let mut nodes: Vec<SelectedNode> = files.get(at).map(|made| node(made, b"")).into_iter().collect();
    nodes.extend(below(files, at).filter_map(|(path, made)| Some(node(made, path.below(at)?))));
    if nodes.first()?.rest != ContextPath::default() {
        nodes.insert(0, folder());
    }
    Some(Selected { name: name.to_vec(), nodes })
}

/// A folder that exists only because something is in it.
pub(crate) fn folder() -> SelectedNode {
    SelectedNode { rest: ContextPath::default(), mode: 0o755, uid: 0, gid: 0, content: Content::Dir, sum: None }
}

/// Longest folder of a source without wildcards, and the pattern to match below it.
pub(crate) fn fixed_prefix(reads: &Reads) -> (ContextPath, Option<&str>) {
    match reads {
        Reads::Path(path) => (ContextPath::new(path.as_bytes()), None),
        Reads::Glob(text) => match glob::split(text) {
            None => (ContextPath::new(text.as_bytes()), None),
            Some((folder, pattern)) => (ContextPath::new(folder.as_bytes()), Some(pattern)),
        },
        Reads::Parents { pivot, pattern } => {
            let folder = glob::split(pivot).map_or(pivot.as_str(), |(folder, _)| folder);
            (ContextPath::new(folder.as_bytes()), Some(pattern))
        }
    }
}

/// Rules for reading sources: `resolved` follows links, `invalid` makes an error of one lowercase phrase.
pub(crate) struct Rules<'r> {
    pub(crate) resolved: &'r dyn Fn(&ContextPath) -> Result<ContextPath, Fault>,
    pub(crate) invalid: &'r dyn Fn(String) -> Fault,
}

/// Everything that a source names; the inner error is a missing path. `at` is the resolved [`fixed_prefix`].
pub(crate) fn select(
    files: &FileMap,
    reads: &Reads,
    at: &ContextPath,
    rules: &Rules<'_>,
) -> Result<Result<Vec<Selected>, String>, Fault> {
    let (folder, pattern) = fixed_prefix(reads);
    match (reads, pattern) {
        (Reads::Parents { pivot, pattern }, _) => {
            let named = if pivot.is_empty() { pattern.clone() } else { format!("{pivot}/./{pattern}") };
            Ok(parents(files, (pivot, pattern), rules)?.ok_or(named))
        }
        (_, Some(pattern)) => {
            let mut selected = Vec::new();
            for hit in hits(files, at, pattern).map_err(rules.invalid)? {
                let Some(found) = entry(files, &(rules.resolved)(&hit)?, name(&hit)) else {
                    return Ok(Err(hit.to_string()));
                };
                selected.push(found);
            }
            Ok(Ok(selected))
        }
        _ => Ok(entry(files, at, name(&folder)).map(|found| vec![found]).ok_or(folder.to_string())),
    }
}

fn name(path: &ContextPath) -> &[u8] {
    path.parts().next_back().unwrap_or_default()
}

/// Selects for `--parents`: matches the pattern in each folder that the pivot names. `None` if a path without wildcards
/// is missing.
fn parents(files: &FileMap, (pivot, pattern): (&str, &str), rules: &Rules<'_>) -> Result<Option<Vec<Selected>>, Fault> {
    let pivots = match glob::split(pivot) {
        None => vec![ContextPath::new(pivot.as_bytes())],
        Some((folder, pattern)) => {
            let folder = (rules.resolved)(&ContextPath::new(folder.as_bytes()))?;
            if entry(files, &folder, b"").is_none() && !folder.as_bytes().is_empty() {
                return Ok(None);
            }
            hits(files, &folder, pattern).map_err(rules.invalid)?
        }
    };
    let plain = glob::split(pivot).is_none() && glob::split(pattern).is_none();
    let mut selected = Vec::new();
    for pivot in pivots {
        let Some(all) = entry(files, &(rules.resolved)(&pivot)?, name(&pivot)) else { return Ok(None) };
        if all.nodes.first().is_some_and(|top| top.content != Content::Dir) && !plain {
            selected.push(all);
            continue;
        }
        let all = with_parents(all, pattern).map_err(rules.invalid)?;
        if plain && !pattern.is_empty() && all.nodes.len() < 2 {
            return Ok(None);
        }
        selected.push(all);
    }
    Ok(Some(selected))
}

/// Paths below a folder that match a glob, in BuildKit's order; the error is one lowercase phrase.
fn hits(files: &FileMap, folder: &ContextPath, pattern: &str) -> Result<Vec<ContextPath>, String> {
    let pattern = glob::parse(pattern)?;
    let named = |path: &&ContextPath| path.below(folder).is_some_and(|rest| pattern.matches(rest));
    let mut hits: Vec<ContextPath> = below(files, folder).map(|(path, _)| path).filter(named).cloned().collect();
    hits.sort_by(|one, other| one.parts().cmp(other.parts()));
    Ok(hits)
}

/// Contents of a folder that a `--parents` pattern matches, with their parent folders; the error is one lowercase
/// phrase.
fn with_parents(selected: Selected, pattern: &str) -> Result<Selected, String> {
    let wanted = Ignore::from_patterns([pattern])?;
    let is_wanted = |node: &SelectedNode| pattern.is_empty() || wanted.ignores(node.rest.as_bytes());
    let mut kept = std::collections::BTreeSet::from([ContextPath::default()]);
    for node in selected.nodes.iter().filter(|node| is_wanted(node)) {
        let _ = std::iter::once(node.rest.clone()).chain(node.rest.folders()).all(|path| kept.insert(path));
    }
    let nodes: Vec<SelectedNode> = selected.nodes.into_iter().filter(|node| kept.contains(&node.rest)).collect();
    Ok(Selected { name: Vec::new(), nodes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::item::{Bytes, Item};

    fn made(line: &str) -> CopiedItem {
        let (path, content) = match line.strip_suffix('/') {
            Some(path) => (path, Content::Dir),
            None => (line, Content::File(Bytes::Here(line.as_bytes().into()))),
        };
        let item = Item { path: ContextPath::new(path), mode: 0o755, uid: 0, gid: 0, content };
        CopiedItem { item, sum: None }
    }

    fn files(layers: &[&[&str]]) -> FileMap {
        let mut files = FileMap::new();
        for layer in layers {
            apply_layer(&mut files, layer.iter().map(|line| made(line)));
        }
        files
    }

    fn rests(selected: &Selected) -> Vec<String> {
        selected.nodes.iter().map(|node| node.rest.to_string()).collect()
    }

    #[test]
    fn upper_layers_replace_lower_ones() {
        let names = |layers: &[&[&str]]| files(layers).keys().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&[&["a/", "a/b"], &["a/", "a/c"]]), ["a", "a/b", "a/c"]);
        assert_eq!(names(&[&["a/", "a/b", "a-b"], &["a"]]), ["a", "a-b"]);
        assert_eq!(names(&[&["a"], &["a/", "a/b"]]), ["a", "a/b"]);
    }

    #[test]
    fn a_path_is_selected_with_its_contents() {
        let files = files(&[&["a/", "a/b", "a-b", "a/c/d"]]);
        assert_eq!(rests(&entry(&files, &ContextPath::new("a"), b"a").unwrap()), ["", "b", "c/d"]);
        assert_eq!(rests(&entry(&files, &ContextPath::new("a/c"), b"c").unwrap()), ["", "d"]);
        assert_eq!(rests(&entry(&files, &ContextPath::new("a-b"), b"x").unwrap()), [""]);
        assert_eq!(entry(&files, &ContextPath::new("x"), b"x"), None);
    }

    #[test]
    fn globs_and_parents() {
        let files = files(&[&["a/", "a/b.x", "a/c.y", "a/d/", "a/d/e.x"]]);
        let hits = hits(&files, &ContextPath::new("a"), "*.x").unwrap();
        assert_eq!(hits.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a/b.x"]);
        let all = entry(&files, &ContextPath::default(), b"").unwrap();
        assert_eq!(rests(&with_parents(all, "**/*.x").unwrap()), ["", "a", "a/b.x", "a/d", "a/d/e.x"]);
    }
}
