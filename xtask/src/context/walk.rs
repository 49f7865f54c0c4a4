//! The walk over a working folder: only where a source or a link could lead, and never into what is ignored for good.
//!
//! Reads folders and links' targets, no file's contents. Says what is there; selects nothing.

use super::{ContextPath, Found, Kind, Tree};
use crate::dockerfile::{Reads, Source};
use crate::fault::Fault;
use crate::ignore::{Ignore, Verdict, glob};
use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Walks the folder at `root`.
pub(super) fn walk(
    root: &Path,
    sources: &[Source],
    linked: &BTreeSet<ContextPath>,
    ignore: &Ignore,
) -> Result<Tree, Fault> {
    let mut reaches: Vec<Reach> = Vec::new();
    for source in sources {
        let reach = Reach::of(source).map_err(|why| Fault::usage(format!("{}: {why}", source.place)))?;
        reaches.push(reach);
    }
    reaches.extend(linked.iter().cloned().map(Reach::Path));
    let mut walk = Walk { root, reaches, ignore, tree: Tree::new() };
    if !walk.reaches.is_empty() {
        walk.folder(&ContextPath::default(), None)?;
    }
    Ok(walk.tree)
}

/// Where a source could lead.
enum Reach {
    Path(ContextPath),
    /// A folder, and the parts of a glob below it.
    Glob(ContextPath, Vec<glob::Glob>),
    /// A folder, and a pattern of an ignore file below it.
    Pattern(ContextPath, Ignore),
}

impl Reach {
    fn of(source: &Source) -> Result<Self, String> {
        Ok(match &source.reads {
            Reads::Path(path) => Self::Path(ContextPath::new(path.as_bytes())),
            Reads::Glob(text) => match glob::split(text) {
                None => Self::Path(ContextPath::new(text.as_bytes())),
                // A negated class may stand for a slash: its parts say nothing.
                Some((folder, pattern)) if pattern.contains("[^") => Self::Path(ContextPath::new(folder.as_bytes())),
                Some((folder, pattern)) => Self::Glob(ContextPath::new(folder.as_bytes()), glob::parts(pattern)?),
            },
            Reads::Parents { pivot, pattern } if pattern.is_empty() => Self::Path(ContextPath::new(pivot.as_bytes())),
            Reads::Parents { pivot, pattern } => {
                Self::Pattern(ContextPath::new(pivot.as_bytes()), Ignore::from_patterns([pattern.as_str()])?)
            }
        })
    }

    /// Whether the path leads there, is it, or is below it.
    fn touches(&self, path: &ContextPath) -> bool {
        match self {
            Self::Path(wanted) => leads_to(path, wanted) || path.below(wanted).is_some(),
            Self::Glob(folder, parts) => {
                let mut parts = parts.iter();
                leads_to(path, folder)
                    || path.below(folder).is_some_and(|rest| {
                        // Beyond the pattern's last part all is below a match.
                        rest.split(|b| *b == b'/').all(|name| parts.next().is_none_or(|part| part.matches(name)))
                    })
            }
            Self::Pattern(folder, pattern) => {
                leads_to(path, folder)
                    || path.below(folder).is_some_and(|rest| pattern.may_match_below(rest) || pattern.ignores(rest))
            }
        }
    }
}

/// Whether `path` is `wanted` or a folder on the way to it.
fn leads_to(path: &ContextPath, wanted: &ContextPath) -> bool {
    path == wanted || wanted.below(path).is_some()
}

struct Walk<'a> {
    root: &'a Path,
    reaches: Vec<Reach>,
    ignore: &'a Ignore,
    tree: Tree,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &ContextPath, verdict: Option<&Verdict>) -> Result<(), Fault> {
        let location = self.root.join(folder.to_path());
        let cannot = |error| Fault::usage(format!("cannot read folder `{}`", location.display())).cause(error);
        for entry in std::fs::read_dir(&location).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let path = folder.join(entry.file_name().as_bytes());
            if !self.reaches.iter().any(|reach| reach.touches(&path)) {
                continue;
            }
            let judged = self.ignore.judge(path.as_bytes(), verdict);
            let is_dir = entry.file_type().map_err(cannot)?.is_dir();
            if judged.matched && !(is_dir && self.ignore.may_take_back_below(path.as_bytes())) {
                continue;
            }
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Gone since the folder was read: as if it had never been there.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(cannot(error)),
            };
            let found = self.found(&path, &metadata)?;
            self.tree.insert(path.clone(), found);
            if is_dir {
                self.folder(&path, Some(&judged))?;
            }
        }
        Ok(())
    }

    fn found(&self, path: &ContextPath, metadata: &Metadata) -> Result<Found, Fault> {
        let mode = metadata.permissions().mode() & 0o7777;
        let file_type = metadata.file_type();
        if file_type.is_symlink() {
            let location = self.root.join(path.to_path());
            let target = std::fs::read_link(&location)
                .map_err(|error| Fault::usage(format!("cannot read link `{}`", location.display())).cause(error))?;
            let link = Some(target.into_os_string().into_vec());
            return Ok(Found { kind: Kind::Symlink, mode: 0o777, size: 0, link });
        }
        let (kind, size) = match (file_type.is_dir(), file_type.is_file()) {
            (true, _) => (Kind::Dir, 0),
            (_, true) => (Kind::File, metadata.len()),
            _ => (Kind::Special, 0),
        };
        Ok(Found { kind, mode, size, link: None })
    }
}
