//! Files that instructions copy from the build context.
//!
//! Reads the context's folder. Modes are normalised as git records them, so a different umask gives the same image.

use super::copy::select::folder;
use super::copy::target::Sum;
use super::copy::{Selected, SelectedNode};
use crate::layer::item::{Bytes, Content};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;
use xtask_host::linux;
use xtask_host::tree::context::{self, Open, Picked};
use xtask_host::tree::files::Files;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextEntry, ContextPath, FileKind, Match};
use xtask_model::spec::dockerfile::Source;
use xtask_model::spec::ignore::Ignore;
use xtask_model::spec::reference::Digest;

#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) ignore: &'a Ignore,
    pub(super) deferred: &'a BTreeMap<ContextPath, Digest>,
}

impl Context<'_> {
    /// Paths that sources name. A large folder that is taken with everything in it is one node.
    pub(super) fn select(&self, sources: &[Source]) -> Result<Vec<Vec<Selected>>, Fault> {
        self.select_open(sources, context::no_folder())
    }

    /// The same with all files, which have to be those of the nodes of `whole` folders that were selected before.
    pub(super) fn list(&self, sources: &[Source], whole: &[Vec<Selected>]) -> Result<Vec<Selected>, Fault> {
        let listed = self.select_open(sources, context::every_folder())?;
        for (before, now) in whole.iter().flatten().zip(listed.iter().flatten()) {
            for node in &before.nodes {
                let Some(Sum::Whole(id)) = node.sum else { continue };
                let below = |other: &&SelectedNode| other.rest.below(&node.rest).is_some();
                if context::folder_id(
                    &now.nodes.iter().filter(below).map(|n| entry(n, &node.rest)).collect::<Vec<_>>(),
                    id.format(),
                )? != id
                {
                    let what = format!("files in `{}` of the build context changed while it was read", node.rest);
                    return Err(Fault::build(what).hint("run this again"));
                }
            }
        }
        Ok(listed.into_iter().flatten().collect())
    }

    fn select_open(&self, sources: &[Source], open: Open<'_>) -> Result<Vec<Vec<Selected>>, Fault> {
        let mut selected = vec![Vec::new(); sources.len()];
        if sources.is_empty() {
            return Ok(selected);
        }
        let absent: BTreeSet<ContextPath> = self.deferred.keys().cloned().collect();
        let picked = context::pick(self.files, sources, self.ignore, &absent, open)?;
        for found in &picked.matches {
            selected[found.source].push(self.selected(found, &picked, &sources[found.source])?);
        }
        Ok(selected)
    }

    fn selected(&self, found: &Match, picked: &Picked, source: &Source) -> Result<Selected, Fault> {
        let mut nodes = vec![match picked.tree.get(&found.at) {
            Some(_) => self.node(&found.at, ContextPath::default(), picked, source)?,
            None => folder(),
        }];
        for path in &found.below {
            let rest = ContextPath::new(path.below(&found.at).unwrap_or_default());
            nodes.push(self.node(path, rest, picked, source)?);
        }
        Ok(Selected { name: found.name.clone(), nodes })
    }

    fn node(
        &self,
        path: &ContextPath,
        rest: ContextPath,
        picked: &Picked,
        source: &Source,
    ) -> Result<SelectedNode, Fault> {
        let Some(found) = picked.tree.get(path) else { return Ok(SelectedNode { rest, ..folder() }) };
        let file = self.files.place().join(path.to_path());
        let (content, mode) = match found.kind {
            FileKind::Dir | FileKind::Tree => (Content::Dir, 0o755),
            FileKind::Symlink => (Content::Symlink(found.link.clone().unwrap_or_default()), 0o777),
            FileKind::File | FileKind::Special => {
                let executable = found.mode & 0o100 != 0;
                if executable && !self.deferred.contains_key(path) {
                    without_capabilities(&file, path, source)?;
                }
                let content = Content::File(Bytes::At { file, size: found.size });
                (content, if executable { 0o755 } else { 0o644 })
            }
        };
        let sum = match (self.deferred.get(path), picked.ids.get(path)) {
            (Some(recipe), _) => Some(Sum::Recipe(*recipe)),
            (None, Some(id)) if found.kind == FileKind::Tree => Some(Sum::Whole(*id)),
            (None, id) => id.copied().map(Sum::Contents),
        };
        Ok(SelectedNode { rest, mode, uid: 0, gid: 0, content, sum })
    }

    /// Rejects archives and compressed files, which `ADD` would unpack.
    pub(super) fn refuse_archives(&self, selected: &[Selected], source: &Source) -> Result<(), Fault> {
        let files = selected.iter().filter_map(|selected| selected.nodes.first());
        for node in files {
            let Content::File(Bytes::At { file, .. }) = &node.content else { continue };
            if matches!(node.sum, Some(Sum::Recipe(_))) {
                continue;
            }
            let cannot = |error| Fault::usage(format!("cannot read `{}`", file.display())).cause(error);
            let mut head = Vec::new();
            std::fs::File::open(file).and_then(|file| file.take(512).read_to_end(&mut head)).map_err(cannot)?;
            if is_packed(&head) {
                let what = format!(
                    "{}: `ADD` would unpack `{}`, which the native engine does not support",
                    source.place,
                    file.display()
                );
                return Err(Fault::usage(what)
                    .hint("copy the archive unchanged with `COPY`, or commit its contents")
                    .hint("or build with `--engine docker`"));
            }
        }
        Ok(())
    }
}

fn entry(node: &SelectedNode, folder: &ContextPath) -> ContextEntry {
    let (kind, id) = match (&node.content, node.sum) {
        (Content::Dir, _) => (FileKind::Dir, None),
        (Content::Symlink(_), Some(Sum::Contents(id))) => (FileKind::Symlink, Some(id)),
        (_, Some(Sum::Contents(id))) => (FileKind::File, Some(id)),
        (_, _) => (FileKind::File, None),
    };
    let path = ContextPath::new(node.rest.below(folder).unwrap_or_default());
    ContextEntry { path, kind, mode: node.mode, id }
}

/// Returns true if BuildKit might unpack a file that starts with these bytes: gzip, bzip2, xz, zstd, tar.
fn is_packed(head: &[u8]) -> bool {
    let magics: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"];
    magics.iter().any(|magic| head.starts_with(magic)) || head.get(257..262) == Some(b"ustar")
}

/// BuildKit does not copy extended attributes. A program that would lose its capabilities is an error, not a surprise.
fn without_capabilities(file: &Path, path: &ContextPath, source: &Source) -> Result<(), Fault> {
    if !linux::has_capabilities(file) {
        return Ok(());
    }
    Err(Fault::usage(format!("`{path}` in the build context has file capabilities, which a copy would drop"))
        .needed_by(format!("`{}`", source.place))
        .hint(format!("remove them with `setcap -r {path}`, and grant them at run time")))
}

/// Size of a file that did not exist when it was selected.
pub(super) fn size_now(file: &Path) -> Result<u64, Fault> {
    let cannot = || Fault::build(format!("cannot read `{}`", file.display()));
    match std::fs::symlink_metadata(file) {
        Ok(metadata) if metadata.is_file() => Ok(metadata.len()),
        Ok(_) => Err(cannot().cause("it is not a file")),
        Err(error) => Err(cannot().cause(error)),
    }
}
