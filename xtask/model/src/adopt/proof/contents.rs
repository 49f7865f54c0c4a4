//! The files of one image, understood: distributions and the files that they own, environments, Debian packages, accounts.

use super::{Files, Node, NodeKind, Stated};
use crate::spec::debian::status::{self, DebianPackage};
use crate::spec::reference::{Digest, Platform};
use crate::spec::requirements::normalised;
use crate::supply::inventory;
use std::collections::{BTreeMap, BTreeSet};

/// Distributions that install others.
const INSTALLERS: [&str; 8] = ["pip", "setuptools", "wheel", "uv", "poetry", "pipenv", "pip-tools", "virtualenv"];

pub(super) fn is_installer(name: &str) -> bool {
    INSTALLERS.contains(&name)
}

/// A distribution by what its `RECORD` says, without byte code and the files of installers.
#[derive(Clone, Debug)]
pub(super) struct InstalledDistribution {
    /// In the normal form.
    pub name: String,
    pub version: String,
    /// The folder that its paths are relative to.
    pub site: String,
    /// Hashes by path.
    pub lines: BTreeMap<String, String>,
    /// Programs that an installer writes.
    scripts: BTreeSet<String>,
    requires: BTreeSet<String>,
    /// It is a link to a project's sources.
    editable: bool,
}

impl InstalledDistribution {
    fn read(files: &Files, metadata: &str, text: &str) -> Option<Self> {
        let info = metadata.strip_suffix("/METADATA")?;
        let (site, own) = info.rsplit_once('/').unwrap_or(("", info));
        let read = inventory::distribution(metadata, text, &Platform::host())?;
        let part = |name: &str| files.texts.get(&format!("{info}/{name}")).map(String::as_str).unwrap_or_default();
        let lines = part("RECORD").lines().filter_map(record_line);
        Some(Self {
            name: normalised(&read.name),
            version: read.version,
            site: site.to_owned(),
            lines: lines.filter(|(path, _)| is_installed(path, own)).collect(),
            scripts: scripts(part("entry_points.txt")),
            requires: read.requires.iter().map(|name| normalised(name)).collect(),
            editable: part("direct_url.json").contains("\"editable\": true")
                || part("direct_url.json").contains("\"editable\":true"),
        })
    }

    /// Digest of what its record says.
    pub(super) fn says(&self) -> Digest {
        let line = |(path, hash): (&String, &String)| match self.is_written_by_installer(path) {
            true => format!("{path}\n\n"),
            false if is_program(path) => format!("{path}\n\n"),
            false => format!("{path}\n{hash}\n"),
        };
        let text: String = self.lines.iter().map(line).collect();
        Digest::of(format!("{}\n{}\n{text}", self.name, self.version).as_bytes())
    }

    pub(super) fn shown(&self) -> String {
        format!("{} (record `{}`)", self.version, &self.says().hex()[..12])
    }

    /// True if it is a project whose code the app copies: its record is of a link, or there is none.
    pub(super) fn is_project(&self) -> bool {
        self.editable || self.lines.is_empty()
    }

    /// True if a file of it is a program that each installer writes in its own words.
    pub(super) fn is_written_by_installer(&self, line: &str) -> bool {
        is_program(line) && line.rsplit('/').next().is_some_and(|name| self.scripts.contains(name))
    }

    /// The path of a line in the image.
    pub(super) fn path(&self, line: &str) -> String {
        let mut parts: Vec<&str> = if line.starts_with('/') { Vec::new() } else { self.site.split('/').collect() };
        for part in line.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        parts.join("/")
    }
}

/// True for a program, which is installed with the path of the environment's Python in its first line.
fn is_program(line: &str) -> bool {
    line.starts_with("../") && line.contains("/bin/")
}

fn is_installed(path: &str, info: &str) -> bool {
    let own = path.strip_prefix(info).and_then(|rest| rest.strip_prefix('/'));
    let of_installer = matches!(
        own,
        Some("RECORD" | "INSTALLER" | "REQUESTED" | "direct_url.json" | "uv_cache.json" | "uv_build.json")
    );
    !of_installer && !is_bytecode(path)
}

pub(super) fn is_bytecode(path: &str) -> bool {
    path.ends_with(".pyc") || path.split('/').any(|part| part == "__pycache__")
}

/// Path and hash of a line of `RECORD`, which is CSV.
fn record_line(line: &str) -> Option<(String, String)> {
    let mut fields = line.rsplitn(3, ',');
    let (_size, hash, path) = (fields.next()?, fields.next()?, fields.next()?);
    let path = path
        .strip_prefix('"')
        .and_then(|path| path.strip_suffix('"'))
        .map_or_else(|| path.to_owned(), |quoted| quoted.replace("\"\"", "\""));
    Some((path, hash.to_owned()))
}

/// Names of programs in `entry_points.txt`.
fn scripts(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = matches!(line, "[console_scripts]" | "[gui_scripts]");
        } else if let (true, Some((name, _))) = (inside, line.split_once('=')) {
            found.insert(name.trim().to_owned());
        }
    }
    found
}

/// An account of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PasswdEntry {
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

pub(super) struct ImageContents<'a> {
    pub files: &'a Files,
    /// Folders of environments, each with a `pyvenv.cfg`.
    pub environments: Vec<&'a str>,
    pub distributions: Vec<InstalledDistribution>,
    owned: BTreeSet<String>,
    pub packages: BTreeMap<String, DebianPackage>,
    /// Debian packages by the paths of their files.
    pub package_of: BTreeMap<&'a str, &'a str>,
    pub accounts: BTreeMap<&'a str, PasswdEntry>,
    /// Numbers and members of groups.
    pub groups: BTreeMap<&'a str, (u32, BTreeSet<&'a str>)>,
}

impl<'a> ImageContents<'a> {
    pub(super) fn read(files: &'a Files) -> Self {
        let text = |path: &str| files.texts.get(path).map(String::as_str).unwrap_or_default();
        let environments = files.nodes.keys().filter_map(|path| path.strip_suffix("/pyvenv.cfg")).collect();
        let distributions: Vec<InstalledDistribution> =
            files.texts.iter().filter_map(|(path, text)| InstalledDistribution::read(files, path, text)).collect();
        let mut owned = BTreeSet::new();
        for one in &distributions {
            owned.extend(one.lines.keys().map(|line| one.path(line)));
        }
        let packages = status::installed(text("var/lib/dpkg/status"));
        let mut package_of = BTreeMap::new();
        for (path, list) in &files.texts {
            let name = path.strip_prefix("var/lib/dpkg/info/").and_then(|name| name.strip_suffix(".list"));
            if let Some(name) = name.map(|name| name.split(':').next().unwrap_or(name)) {
                package_of.extend(list.lines().map(|path| (path.trim_start_matches('/'), name)));
            }
        }
        Self {
            files,
            environments,
            distributions,
            owned,
            packages: packages.into_iter().map(|package| (package.name.clone(), package)).collect(),
            package_of,
            accounts: accounts(text("etc/passwd")),
            groups: groups(text("etc/group")),
        }
    }

    /// Contents that are stated of an image. Its accounts are taken to be those of the other image, to which the files belong.
    pub(super) fn stated(stated: &'a Stated<'_>, files: &'a Files) -> Self {
        let text = |path: &str| files.texts.get(path).map(String::as_str).unwrap_or_default();
        let environments: Vec<&str> = stated.environments.iter().map(|path| path.trim_matches('/')).collect();
        let site = environments.first().map_or_else(String::new, |folder| format!("{folder}/lib"));
        let distribution = |(name, version): (&String, &String)| InstalledDistribution {
            name: name.clone(),
            version: version.clone(),
            site: site.clone(),
            lines: BTreeMap::new(),
            scripts: BTreeSet::new(),
            requires: BTreeSet::new(),
            editable: false,
        };
        Self {
            files,
            environments,
            distributions: stated.versions.iter().map(distribution).collect(),
            owned: BTreeSet::new(),
            packages: BTreeMap::new(),
            package_of: BTreeMap::new(),
            accounts: accounts(text("etc/passwd")),
            groups: groups(text("etc/group")),
        }
    }

    /// Node at a path, if that is outside the environment and belongs to no distribution.
    pub(super) fn outside(&self, path: &str) -> Option<&'a Node> {
        let node = self.files.nodes.get(path)?;
        let below =
            |folder: &&str| path == *folder || path.strip_prefix(*folder).is_some_and(|rest| rest.starts_with('/'));
        let inside = self.owned.contains(path)
            || path.contains(".dist-info/")
            || path.ends_with(".dist-info")
            || self.environments.iter().any(below);
        (!inside).then_some(node)
    }

    /// The folder of the environment that the app runs in; `None` if its packages are those of the root's Python.
    pub(super) fn environment(&self) -> Option<&'a str> {
        let has = |folder: &&&str| {
            let begin = format!("{folder}/");
            self.distributions.iter().any(|one| one.site.starts_with(&begin) && !is_installer(&one.name))
        };
        self.environments.iter().find(has).copied()
    }

    /// Names of installers among these distributions, and of what only they require.
    pub(super) fn installers(&self, among: &[usize]) -> BTreeSet<&str> {
        let these: Vec<&InstalledDistribution> = among.iter().map(|at| &self.distributions[*at]).collect();
        let mut open: Vec<&InstalledDistribution> =
            these.iter().copied().filter(|one| is_installer(&one.name)).collect();
        let mut found: BTreeSet<&str> = open.iter().map(|one| one.name.as_str()).collect();
        while let Some(one) = open.pop() {
            for next in these.iter().filter(|next| one.requires.contains(&next.name)) {
                if found.insert(&next.name) {
                    open.push(next);
                }
            }
        }
        found
    }

    /// Names of these Debian packages, and of all that they depend on.
    pub(super) fn needed_by(&self, names: &BTreeSet<String>) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&str> = names.iter().map(String::as_str).collect();
        while let Some(name) = open.pop() {
            let provides = |package: &&DebianPackage| package.name == name || package.provides.contains(name);
            for package in self.packages.values().filter(provides) {
                if found.insert(package.name.as_str()) {
                    open.extend(package.depends.iter().map(String::as_str));
                }
            }
        }
        found
    }

    pub(super) fn digest(&self, path: &str) -> Option<Digest> {
        match &self.files.nodes.get(path)?.kind {
            NodeKind::File { digest, .. } => Some(*digest),
            NodeKind::Folder | NodeKind::Link(_) | NodeKind::Device => None,
        }
    }

    /// Numbers of a user as a configuration names it: `shop`, `1000`, `1000:1000`.
    pub(super) fn user(&self, text: &str) -> Option<(u32, u32)> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let user = if user.is_empty() { "0" } else { user };
        let uid = user.parse().ok().or_else(|| self.accounts.get(user).map(|account| account.uid))?;
        let own = || self.accounts.values().find(|account| account.uid == uid).map_or(0, |account| account.gid);
        let gid = match group {
            Some(group) => group.parse().ok().or_else(|| self.groups.get(group).map(|(gid, _)| *gid))?,
            None => own(),
        };
        Some((uid, gid))
    }
}

fn accounts(text: &str) -> BTreeMap<&str, PasswdEntry> {
    let account = |line| {
        let fields: Vec<&str> = str::split(line, ':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        Some((*name, PasswdEntry { uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: (*home).to_owned() }))
    };
    text.lines().filter_map(account).collect()
}

fn groups(text: &str) -> BTreeMap<&str, (u32, BTreeSet<&str>)> {
    let group = |line| {
        let fields: Vec<&str> = str::split(line, ':').collect();
        let [name, _, gid, members] = fields.as_slice() else { return None };
        let members = members.split(',').filter(|member| !member.is_empty()).collect();
        Some((*name, (gid.parse().ok()?, members)))
    };
    text.lines().filter_map(group).collect()
}
