//! Computes where `COPY` puts files, with the same steps as BuildKit.
//!
//! Pure, except for what lookups in lower layers cost.

pub(crate) mod mode;
pub(crate) mod owner;
pub(crate) mod select;
pub(crate) mod target;

use super::base::Stat;
use crate::layer::item::{Content, Item};
use mode::Mode;
use target::{CopiedItem, Sum, Target};
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, FileKind};
use xtask_model::spec::ignore::Ignore;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SelectedNode {
    /// Path relative to the copied root; empty for the root itself.
    pub(crate) rest: ContextPath,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) content: Content,
    pub(crate) sum: Option<Sum>,
}

impl SelectedNode {
    /// As an entry of a layer, at its relative path.
    pub(crate) fn as_made(&self) -> CopiedItem {
        let Self { rest, mode, uid, gid, content, sum } = self.clone();
        CopiedItem { item: Item { path: rest, mode, uid, gid, content }, sum }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) name: Vec<u8>,
    /// The root first, then its contents by path.
    pub(crate) nodes: Vec<SelectedNode>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mode: Option<Mode>,
    pub(crate) excludes: Ignore,
}

impl Flags {
    /// Attributes of a parent folder that has to be created.
    fn folder(&self) -> Stat {
        let mode = self.mode.as_ref().and_then(Mode::of_parents).unwrap_or(0o755);
        Stat::folder_with(mode, self.owner.unwrap_or((0, 0)))
    }
}

/// Absolute destination: a relative one is below the working folder. A trailing slash, or `.`, means a folder.
pub(crate) fn destination(working_dir: &str, written: &str) -> String {
    if written.starts_with('/') {
        return written.to_owned();
    }
    let joined = joined(working_dir, written);
    match written {
        "" | "." => joined + "/",
        _ if written.ends_with('/') && joined != "/" => joined + "/",
        _ => joined,
    }
}

pub(crate) fn joined(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

pub(crate) fn copy(target: &mut Target<'_>, selected: Selected, to: &str, flags: &Flags) -> Result<(), Fault> {
    let Some(top) = selected.nodes.first() else { return Ok(()) };
    let like = flags.folder();
    // The folder part of the destination is created, whatever is copied.
    let (folder, name) = to.rsplit_once('/').unwrap_or(("", to));
    let ensured = if name.is_empty() || name == "." { to } else { folder };
    let ensured = target.resolve(ensured.as_bytes())?;
    target.make_folders(&ensured, &like)?;

    let mut place = target.resolve(to.as_bytes())?;
    let there = target.stat(&place)?;
    let is_folder = top.content == Content::Dir;
    if !is_folder && there.as_ref().is_some_and(Stat::is_folder) {
        place = place.join(&selected.name);
    }
    if is_folder && there.is_none() {
        target.make_folders(&place, &like)?;
    } else {
        target.make_folders(&place.parent().unwrap_or_default(), &like)?;
    }
    // `--exclude` applies to the contents, not to the copied root.
    let wanted = |node: &SelectedNode| node.rest.as_bytes().is_empty() || !flags.excludes.ignores(node.rest.as_bytes());
    selected.nodes.into_iter().filter(wanted).try_for_each(|node| put(target, node, &place, flags))
}

fn put(target: &mut Target<'_>, node: SelectedNode, place: &ContextPath, flags: &Flags) -> Result<(), Fault> {
    let at = match node.rest.as_bytes() {
        b"" => place.clone(),
        rest => place.join(rest),
    };
    let there = target.stat(&at)?;
    let is_folder = node.content == Content::Dir;
    match &there {
        Some(stat) if is_folder && !stat.is_folder() => {
            return Err(Fault::usage(format!("cannot copy a folder to `/{at}`: it is not a folder in the image")));
        }
        Some(stat) if !is_folder && stat.is_folder() => {
            return Err(Fault::usage(format!("cannot copy a file to `/{at}`: it is a folder in the image")));
        }
        // An existing destination folder keeps its attributes; folders below it get the copied ones.
        Some(_) if is_folder && node.rest.as_bytes().is_empty() => return Ok(()),
        Some(_) => {}
        None => target.make_folders(&at.parent().unwrap_or_default(), &flags.folder())?,
    }
    let (uid, gid) = flags.owner.unwrap_or((node.uid, node.gid));
    let (kind, mode) = match node.content {
        Content::Symlink(_) => (FileKind::Symlink, 0o777),
        _ => {
            let mode = flags.mode.as_ref().map_or(node.mode, |mode| mode.apply(node.mode, is_folder));
            (if is_folder { FileKind::Dir } else { FileKind::File }, mode)
        }
    };
    let stat = Stat { kind, mode, uid, gid, link: None };
    target.put(at, &stat, node.content, node.sum);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assembly::copy::target::{Lookup, Nothing};
    use crate::layer::item::Bytes;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[track_caller]
    fn leads(working_dir: &str, written: &str, expected: &str) {
        assert_eq!(destination(working_dir, written), expected, "{written} in {working_dir}");
    }

    #[test]
    fn destinations_are_below_the_working_folder() {
        leads("", "x", "/x");
        leads("/w", "x", "/w/x");
        leads("/w", "x/", "/w/x/");
        leads("/w", "x/.", "/w/x");
        leads("/w", ".", "/w/");
        leads("/w", "./", "/w/");
        leads("/w", "..", "/");
        leads("/w", "../../x", "/x");
        leads("/w/", "/x", "/x");
        leads("/w", "/x/../y/", "/x/../y/");
    }

    /// An image in a few words: `path` is a file, `path/` a folder, `path->target` a link.
    struct FromImage(BTreeMap<ContextPath, Stat>);

    fn image(lines: &[&str]) -> FromImage {
        let mut files = BTreeMap::new();
        for line in lines {
            let (path, kind, link) = match (line.split_once("->"), line.strip_suffix('/')) {
                (Some((path, to)), _) => (path, FileKind::Symlink, Some(to.as_bytes().to_vec())),
                (None, Some(path)) => (path, FileKind::Dir, None),
                (None, None) => (*line, FileKind::File, None),
            };
            files.insert(ContextPath::new(path), Stat { kind, mode: 0o700, uid: 1, gid: 1, link });
        }
        FromImage(files)
    }

    impl Lookup for FromImage {
        fn lookup(&self, path: &ContextPath) -> Result<Option<Stat>, Fault> {
            Ok(self.0.get(path).cloned())
        }
    }

    fn node(rest: &str, content: Content) -> SelectedNode {
        let mode = if content == Content::Dir { 0o755 } else { 0o644 };
        SelectedNode { rest: ContextPath::new(rest), mode, uid: 0, gid: 0, content, sum: None }
    }

    fn file() -> Content {
        Content::File(Bytes::Here(b"x".as_slice().into()))
    }

    fn a_file(name: &str) -> Selected {
        Selected { name: name.into(), nodes: vec![node("", file())] }
    }

    fn a_folder() -> Selected {
        let nodes = vec![node("", Content::Dir), node("e", Content::Dir), node("e/c", file()), node("f", file())];
        Selected { name: b"d".to_vec(), nodes }
    }

    fn shown(made: &[CopiedItem]) -> Vec<String> {
        let show = |made: &CopiedItem| {
            let item = &made.item;
            let slash = if item.content == Content::Dir { "/" } else { "" };
            format!("{}{slash} {:o} {}:{}", item.path, item.mode, item.uid, item.gid)
        };
        made.iter().map(show).collect()
    }

    fn copied(below: &dyn Lookup, selected: &Selected, to: &str, flags: &Flags) -> Result<Vec<String>, String> {
        let mut target = Target::new(below);
        copy(&mut target, selected.clone(), to, flags)
            .and_then(|()| target.finish())
            .map(|made| shown(&made))
            .map_err(|f| f.what)
    }

    #[track_caller]
    fn gives(below: &[&str], selected: &Selected, to: &str, expected: &[&str]) {
        assert_eq!(copied(&image(below), selected, to, &Flags::default()).unwrap(), expected, "{to} on {below:?}");
    }

    #[track_caller]
    fn refuses(below: &[&str], selected: &Selected, to: &str, expected: &str) {
        assert_eq!(copied(&image(below), selected, to, &Flags::default()).unwrap_err(), expected, "{to} on {below:?}");
    }

    #[test]
    fn a_file_goes_to_a_name_or_into_a_folder() {
        gives(&[], &a_file("a"), "/x", &["x 644 0:0"]);
        gives(&[], &a_file("a"), "/x/", &["x/ 755 0:0", "x/a 644 0:0"]);
        gives(&["x/"], &a_file("a"), "/x", &["x/ 700 1:1", "x/a 644 0:0"]);
        gives(&["x"], &a_file("a"), "/x", &["x 644 0:0"]);
        gives(&["x/", "x/a->y"], &a_file("a"), "/x", &["x/ 700 1:1", "x/a 644 0:0"]);
        gives(&[], &a_file("a"), "/", &["a 644 0:0"]);
        gives(&[], &a_file("a"), "/p/q/r", &["p/ 755 0:0", "p/q/ 755 0:0", "p/q/r 644 0:0"]);
    }

    #[test]
    fn a_folder_is_merged_into_one() {
        let all = ["x/ 755 0:0", "x/e/ 755 0:0", "x/e/c 644 0:0", "x/f 644 0:0"];
        gives(&[], &a_folder(), "/x", &all);
        gives(&[], &a_folder(), "/x/", &all);
        let merged = ["x/ 700 1:1", "x/e/ 755 0:0", "x/e/c 644 0:0", "x/f 644 0:0"];
        gives(&["x/", "x/e/", "x/g"], &a_folder(), "/x", &merged);
    }

    #[test]
    fn links_in_the_destination_are_followed() {
        gives(&["y/", "x->y"], &a_file("a"), "/x/", &["y/ 700 1:1", "y/a 644 0:0"]);
        gives(&["x->/p/q"], &a_file("a"), "/x/b", &["p/ 755 0:0", "p/q/ 755 0:0", "p/q/b 644 0:0"]);
        gives(&["p/", "p/l->../y"], &a_file("a"), "/p/l", &["y 644 0:0"]);
        gives(&["x->../../../y"], &a_file("a"), "/x", &["y 644 0:0"]);
        refuses(&["x->x"], &a_file("a"), "/x", "the links at `/x` in the image form a loop");
    }

    #[test]
    fn a_file_and_a_folder_do_not_replace_each_other() {
        refuses(&["x"], &a_folder(), "/x", "cannot copy a folder to `/x`: it is not a folder in the image");
        refuses(&["x"], &a_folder(), "/x/", "`/x` in the image is not a folder");
        refuses(&["x/", "x/e"], &a_folder(), "/x", "cannot copy a folder to `/x/e`: it is not a folder in the image");
        refuses(&["x/", "x/a/"], &a_file("a"), "/x/", "cannot copy a file to `/x/a`: it is a folder in the image");
        refuses(&["x"], &a_file("a"), "/x/y", "`/x` in the image is not a folder");
    }

    #[test]
    fn flags_apply_to_everything_that_is_created() {
        let flags = Flags {
            owner: Some((5, 6)),
            mode: Some(Mode::parse("u=rwx,go=").unwrap()),
            excludes: Ignore::from_patterns(["e/c"]).unwrap(),
        };
        let made = copied(&Nothing, &a_folder(), "/p/x", &flags).unwrap();
        assert_eq!(made, ["p/ 755 5:6", "p/x/ 755 5:6", "p/x/e/ 700 5:6", "p/x/f 700 5:6"]);
    }

    /// BuildKit's own case since 0.21: `COPY --chmod=770 foo /parent/sub/foo`.
    #[test]
    fn created_parents_get_an_octal_mode() {
        let made = |mode: &str, selected: &Selected, to: &str| {
            let flags = Flags { mode: Some(Mode::parse(mode).unwrap()), ..Flags::default() };
            copied(&image(&["parent/"]), selected, to, &flags).unwrap()
        };
        let file = a_file("foo");
        assert_eq!(
            made("770", &file, "/parent/sub/foo"),
            ["parent/ 700 1:1", "parent/sub/ 770 0:0", "parent/sub/foo 770 0:0"]
        );
        assert_eq!(
            made("6755", &file, "/new/"),
            ["new/ 755 0:0", "new/foo 6755 0:0"],
            "set-id bits are the file's alone"
        );
        assert_eq!(made("a+x", &file, "/new/"), ["new/ 755 0:0", "new/foo 755 0:0"], "letters say nothing of them");
        let folder = ["new/ 750 0:0", "new/e/ 750 0:0", "new/e/c 750 0:0", "new/f 750 0:0"];
        assert_eq!(made("750", &a_folder(), "/new"), folder);
    }

    proptest! {
        /// Every item of a layer is below the root, has its parent folders in front, and is sorted.
        #[test]
        fn layers_include_parent_folders(
            to in "(/?(a|b|\\.\\.|\\.|x){1,2}){1,4}/?", folder in any::<bool>(), links in "[abx]", leads in "(\\.\\./|/|a/|b/){0,3}x?",
        ) {
            let below = image(&[&format!("{links}->{leads}")]);
            let selected = if folder { a_folder() } else { a_file("n") };
            let mut target = Target::new(&below);
            if copy(&mut target, selected, &destination("/", &to), &Flags::default()).is_ok() {
                let made = target.finish().unwrap();
                let paths: Vec<_> = made.iter().map(|made| made.item.path.clone()).collect();
                prop_assert!(paths.is_sorted() && !paths.is_empty());
                for path in &paths {
                    prop_assert!(path.parts().all(|part| part != b".." && part != b"."));
                    let parent = path.parent().unwrap();
                    prop_assert!(parent.as_bytes().is_empty() || paths.contains(&parent), "{path}");
                }
            }
        }
    }
}
