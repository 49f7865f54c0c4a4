//! Known causes of differences, and which path has which.

use super::contents::{ImageContents, is_bytecode, is_installer};
use super::{Node, NodeKind, Sides};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// A known reason for two images to differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    Bytecode,
    Environment,
    Installer,
    Project,
    Dropped,
    PackageState,
    Cache,
    Log,
    MachineId,
    Container,
    Accounts,
    Skeleton,
    Home,
    LeftOut,
    Base,
    Runner,
    HealthCheck,
    Label,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytecode => "byte code, which each Python writes again",
            Self::Environment => "the environment is at another place, and has files of its own",
            Self::Installer => "an installer, its settings, or what only it requires: not part of the new image",
            Self::Project => "a project of the repository: its code is copied, and `PYTHONPATH` names it",
            Self::Dropped => "a Debian package that compiles or downloads, or that only such a package needs",
            Self::PackageState => "state of the package manager; packages are compared by version",
            Self::Cache => "caches and temporary files",
            Self::Log => "logs",
            Self::MachineId => "the machine's id, which is generated",
            Self::Container => "written by the engine for a container",
            Self::Accounts => "the same accounts: another order, description, shell or membership of `users`",
            Self::Skeleton => "files of `/etc/skel` in the home of the user",
            Self::Home => "the home of the user: the base makes it with mode 0755, and its folder for the user too",
            Self::LeftOut => "files that only an installation reads, or that the app's ignore file leaves out",
            Self::Base => "set by the base image",
            Self::Runner => "the program without its runner",
            Self::HealthCheck => "the same question, asked with Python",
            Self::Label => "labels of the new image",
        })
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The cause of a difference of two nodes of a path, if it is known.
pub(super) fn of(
    path: &str,
    [old, new]: [Option<&Node>; 2],
    sides: &Sides<'_>,
    packages: &BTreeMap<&str, Option<Cause>>,
) -> Option<Cause> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let only_old = new.is_none();
    if is_bytecode(path) {
        return Some(Cause::Bytecode);
    }
    // The contents of these are compared as distributions and packages.
    if matches!(path, "etc/hostname" | "etc/hosts" | "etc/resolv.conf" | "etc/mtab" | ".dockerenv") {
        return Some(Cause::Container);
    }
    if matches!(path, "etc/machine-id" | "var/lib/dbus/machine-id") {
        return Some(Cause::MachineId);
    }
    if is_below(path, "var/log") {
        return Some(Cause::Log);
    }
    if ["var/lib/dpkg", "var/lib/apt", "var/lib/systemd"].iter().any(|folder| is_below(path, folder))
        || path == "etc/ld.so.cache"
    {
        return Some(Cause::PackageState);
    }
    if is_account_file(path) {
        return same_accounts(sides).then_some(Cause::Accounts);
    }
    let of_package =
        |side: &ImageContents<'_>| side.package_of.get(path).and_then(|package| packages.get(package)).copied();
    if let Some(cause) = of_package(&sides.old).or_else(|| of_package(&sides.new)) {
        return cause;
    }
    if only_old && old.is_some_and(|node| leads_to_dropped(path, node, sides, packages)) {
        return Some(Cause::Dropped);
    }
    if let (Some(old), Some(new)) = (old, new)
        && is_home(path, [old, new], &sides.new)
    {
        return Some(Cause::Home);
    }
    if only_old && is_skeleton(path, name, &sides.old) {
        return Some(Cause::Skeleton);
    }
    let left_out = |digest| sides.known.left_out.get(&digest).is_some_and(|names| names.contains(name));
    if only_old && sides.old.digest(path).is_some_and(left_out) {
        return Some(Cause::LeftOut);
    }
    let in_cache = ["var/cache", "tmp", "var/tmp", "run"].iter().any(|folder| is_below(path, folder))
        || path.split('/').any(|part| part == ".cache" || part == ".npm");
    if in_cache && (only_old || is_below(path, "var/cache")) {
        return Some(Cause::Cache);
    }
    // `COPY --from` of an installer's image.
    let in_bin = path.rsplit('/').nth(1) == Some("bin");
    if only_old && in_bin && (is_installer(name) || name == "uvx") {
        return Some(Cause::Installer);
    }
    None
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn is_account_file(path: &str) -> bool {
    const NAMES: [&str; 6] = ["passwd", "group", "shadow", "gshadow", "subuid", "subgid"];
    let name = path.strip_prefix("etc/").unwrap_or_default();
    NAMES.contains(&name.trim_end_matches('-')) || name == ".pwd.lock"
}

/// True if both images have the same accounts with the same numbers and homes, and groups with the same numbers and members.
fn same_accounts(sides: &Sides<'_>) -> bool {
    let (old, new) = (&sides.old, &sides.new);
    // `adduser` makes everybody a member of `users`.
    let groups = |side: &ImageContents<'_>| {
        let group = |(name, (gid, members)): (&&str, &(u32, std::collections::BTreeSet<&str>))| {
            let members = if *name == "users" { Vec::new() } else { members.iter().map(|m| (*m).to_owned()).collect() };
            ((*name).to_owned(), (*gid, members))
        };
        side.groups.iter().map(group).collect::<BTreeMap<String, (u32, Vec<String>)>>()
    };
    old.accounts == new.accounts && groups(old) == groups(new)
}

/// A link to a file of a package that the new image does without: one of `/etc/alternatives`, or one that leads there.
fn leads_to_dropped(path: &str, node: &Node, sides: &Sides<'_>, packages: &BTreeMap<&str, Option<Cause>>) -> bool {
    let mut node = node.clone();
    let mut folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
    for _ in 0..4 {
        let NodeKind::Link(target) = &node.kind else { return false };
        let target = resolved(&folder, target);
        let package = sides.old.package_of.get(target.as_str());
        if package.and_then(|package| packages.get(package)).is_some_and(|cause| *cause == Some(Cause::Dropped)) {
            return true;
        }
        let Some(next) = sides.old.files.nodes.get(&target) else { return false };
        node = next.clone();
        folder = target.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
    }
    false
}

/// The path that a link in a folder leads to.
fn resolved(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = if target.starts_with('/') { Vec::new() } else { folder.split('/').collect() };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// True for the home of the user that the new image makes, with another mode, and for the folder that it is in, which `COPY --chown`
/// makes for the user.
fn is_home(path: &str, [old, new]: [&Node; 2], contents: &ImageContents<'_>) -> bool {
    let is_user = |uid| contents.accounts.values().find(|account| account.uid == uid && uid != 0);
    let Some(account) = is_user(new.uid).filter(|_| old.kind == NodeKind::Folder && new.kind == NodeKind::Folder)
    else {
        return false;
    };
    let home = account.home.trim_matches('/');
    let owner = |node: &Node| (node.uid, node.gid);
    let own = path == home && owner(old) == owner(new) && new.mode == 0o755;
    own || home.rsplit_once('/').map(|(above, _)| above) == Some(path) && old.mode == new.mode && owner(old) == (0, 0)
}

/// True if a file of a home is the one of `/etc/skel`.
fn is_skeleton(path: &str, name: &str, old: &ImageContents<'_>) -> bool {
    let in_home = old.accounts.values().any(|account| {
        path.strip_suffix(name).and_then(|folder| folder.strip_suffix('/')) == Some(account.home.trim_matches('/'))
    });
    let digest = old.digest(path);
    in_home && digest.is_some() && digest == old.digest(&format!("etc/skel/{name}"))
}
