//! An adopted image compared with the one of the repository's own Dockerfile: Python distributions, Debian packages, every path outside
//! the environment, and the configuration. Each difference has a cause, or is unexplained.
//!
//! Pure: the listed files of both images come in. Times are not compared. A cause is given only where the two images show it: a
//! difference that merely looks like a known one stays unexplained.

mod cause;
mod contents;
mod settings;
#[cfg(test)]
mod tests;

pub use cause::Cause;

use crate::spec::oci::Execution;
use crate::spec::reference::Digest;
use contents::{ImageContents, InstalledDistribution};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Something at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: NodeKind,
    /// Permission bits with set-id and sticky; 0 of a link.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    Folder,
    File {
        digest: Digest,
        /// Digest of what follows the first line, if that names an interpreter (`#!`).
        script: Option<Digest>,
    },
    /// The target as it is written.
    Link(String),
    Device,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, mode, uid, gid } = self;
        match kind {
            NodeKind::Folder => write!(f, "folder, mode {mode:04o}, owner {uid}:{gid}"),
            NodeKind::File { digest, .. } => {
                write!(f, "file `{}`, mode {mode:04o}, owner {uid}:{gid}", &digest.hex()[..12])
            }
            NodeKind::Link(target) => write!(f, "link to `{target}`, owner {uid}:{gid}"),
            NodeKind::Device => write!(f, "device, mode {mode:04o}, owner {uid}:{gid}"),
        }
    }
}

/// The files of an image, all layers laid over each other. Paths have no `/` at their begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    pub nodes: BTreeMap<String, Node>,
    /// Contents of the files of which [`is_read`] is true.
    pub texts: BTreeMap<String, String>,
}

/// True if the comparison needs the text of a file.
pub fn is_read(path: &str) -> bool {
    let metadata = || {
        let Some((folder, name)) = path.rsplit_once('/') else { return false };
        folder.ends_with(".dist-info") && matches!(name, "METADATA" | "RECORD" | "entry_points.txt" | "direct_url.json")
    };
    matches!(path, "etc/passwd" | "etc/group" | "var/lib/dpkg/status")
        || path.starts_with("var/lib/dpkg/info/") && path.ends_with(".list")
        || metadata()
}

/// An image to compare.
#[derive(Clone, Copy, Debug)]
pub struct ComparedImage<'a> {
    pub files: &'a Files,
    pub config: &'a Execution,
}

/// Differences that the translation expects.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Debian packages that the new images do without.
    pub dropped: BTreeSet<String>,
    /// Files of the repository that the app's ignore file leaves out, and those that only an installation reads: names by digest.
    pub left_out: BTreeMap<Digest, BTreeSet<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImagePart {
    Distribution,
    Package,
    Path,
    Setting,
}

impl ImagePart {
    const ALL: [Self; 4] = [Self::Distribution, Self::Package, Self::Path, Self::Setting];

    fn plural(self) -> &'static str {
        match self {
            Self::Distribution => "Python distributions",
            Self::Package => "Debian packages",
            Self::Path => "paths",
            Self::Setting => "configuration",
        }
    }
}

/// A difference of the two images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub part: ImagePart,
    /// A distribution, a package, a path, or a field of the configuration.
    pub name: String,
    /// The old image's value; `None` where it has none.
    pub old: Option<String>,
    pub new: Option<String>,
    /// Cause of the difference. `None` is unexplained.
    pub cause: Option<Cause>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(f, "`{}`: old {}, new {}", self.name, shown(&self.old), shown(&self.new))
    }
}

/// The result of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// Number of things that are equal.
    pub equal: BTreeMap<ImagePart, usize>,
    pub differences: Vec<Difference>,
}

impl Proof {
    pub fn unexplained(&self) -> impl Iterator<Item = &Difference> {
        self.differences.iter().filter(|difference| difference.cause.is_none())
    }

    fn same(&mut self, part: ImagePart, count: usize) {
        *self.equal.entry(part).or_default() += count;
    }

    fn add(&mut self, part: ImagePart, name: &str, values: [Option<String>; 2], cause: Option<Cause>) {
        let [old, new] = values;
        self.differences.push(Difference { part, name: name.to_owned(), old, new, cause });
    }
}

/// Names that a line of the report gives of one cause.
const EXAMPLES: usize = 3;

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:<22}{:>8}{:>11}{:>13}", "", "equal", "explained", "unexplained")?;
        for part in ImagePart::ALL {
            let of = |explained: bool| {
                let these = self.differences.iter().filter(|one| one.part == part);
                these.filter(|one| one.cause.is_some() == explained).count()
            };
            let equal = self.equal.get(&part).copied().unwrap_or_default();
            if equal + of(true) + of(false) == 0 {
                continue;
            }
            writeln!(f, "  {:<22}{equal:>8}{:>11}{:>13}", part.plural(), of(true), of(false))?;
        }
        let mut causes: BTreeMap<Cause, Vec<&Difference>> = BTreeMap::new();
        for difference in &self.differences {
            if let Some(cause) = difference.cause {
                causes.entry(cause).or_default().push(difference);
            }
        }
        if !causes.is_empty() {
            writeln!(f, "  explained:")?;
        }
        for (cause, these) in causes {
            let names: Vec<String> = these.iter().take(EXAMPLES).map(|one| format!("`{}`", one.name)).collect();
            let more = if these.len() > EXAMPLES { ", …" } else { "" };
            writeln!(f, "  {:>6}  {cause}: {}{more}", these.len(), names.join(", "))?;
        }
        Ok(())
    }
}

/// Compares the old image with the new one.
pub fn compare(old: ComparedImage<'_>, new: ComparedImage<'_>, known: &Known) -> Proof {
    let sides = Sides { old: ImageContents::read(old.files), new: ImageContents::read(new.files), known };
    let mut proof = Proof::default();
    sides.distributions(&mut proof);
    let packages = sides.packages(&mut proof);
    sides.paths(&packages, &mut proof);
    settings::compare(old.config, new.config, &sides, &mut proof);
    proof.differences.sort_by(|one, other| (one.part, &one.name).cmp(&(other.part, &other.name)));
    proof
}

/// Facts about the old image where nothing can build it.
pub struct Stated<'a> {
    /// Versions that the repository's own files pin, by normal name.
    pub versions: &'a BTreeMap<String, String>,
    /// The configuration by its Dockerfile.
    pub config: &'a Execution,
    /// Folders that its packages are installed into.
    pub environments: &'a [String],
}

/// Compares what is stated of the old image with the new one: versions of distributions, and the configuration.
pub fn compare_stated(old: &Stated<'_>, new: ComparedImage<'_>, known: &Known) -> Proof {
    let sides = Sides { old: ImageContents::stated(old, new.files), new: ImageContents::read(new.files), known };
    let mut proof = Proof::default();
    for (name, version) in old.versions {
        let found = sides.new.distributions.iter().filter(|one| one.name == *name);
        let found: Vec<&str> = found.map(|one| one.version.as_str()).collect();
        match found.contains(&version.as_str()) {
            true => proof.same(ImagePart::Distribution, 1),
            false => {
                let found = (!found.is_empty()).then(|| found.join(", "));
                proof.add(ImagePart::Distribution, name, [Some(version.clone()), found], None);
            }
        }
    }
    settings::compare(old.config, new.config, &sides, &mut proof);
    proof
}

/// Both images, read.
struct Sides<'a> {
    old: ImageContents<'a>,
    new: ImageContents<'a>,
    known: &'a Known,
}

impl Sides<'_> {
    fn distributions(&self, proof: &mut Proof) {
        let same = |one: &InstalledDistribution, other: &InstalledDistribution| {
            one.site == other.site && one.says() == other.says()
        };
        let alone = |mine: &ImageContents<'_>, theirs: &ImageContents<'_>| -> Vec<usize> {
            let is_shared = |one: &InstalledDistribution| theirs.distributions.iter().any(|other| same(one, other));
            (0..mine.distributions.len()).filter(|at| !is_shared(&mine.distributions[*at])).collect()
        };
        let (old, new) = (alone(&self.old, &self.new), alone(&self.new, &self.old));
        proof.same(ImagePart::Distribution, self.old.distributions.len() - old.len());
        let installers = self.old.installers(&old);
        let mut met = BTreeSet::new();
        for one in old.iter().map(|at| &self.old.distributions[*at]) {
            let other = new.iter().find(|at| self.new.distributions[**at].name == one.name);
            match other {
                Some(at) => {
                    met.insert(*at);
                    self.distribution(one, &self.new.distributions[*at], proof);
                }
                None => {
                    let cause = installers.contains(one.name.as_str()).then_some(Cause::Installer);
                    proof.add(ImagePart::Distribution, &one.name, [Some(one.shown()), None], cause);
                }
            }
        }
        for one in new.iter().filter(|at| !met.contains(*at)).map(|at| &self.new.distributions[*at]) {
            proof.add(ImagePart::Distribution, &one.name, [None, Some(one.shown())], None);
        }
    }

    /// Compares a distribution by its record, and the files of both by their contents.
    fn distribution(&self, old: &InstalledDistribution, new: &InstalledDistribution, proof: &mut Proof) {
        let shown = [Some(old.shown()), Some(new.shown())];
        if old.version != new.version {
            // The root's own installer, of which the old image has another release.
            let of_root = !self.new.environments.iter().any(|folder| new.site.starts_with(folder));
            let cause = (of_root && contents::is_installer(&old.name)).then_some(Cause::Installer);
            return proof.add(ImagePart::Distribution, &old.name, shown, cause);
        }
        if old.is_project() || new.is_project() {
            return proof.add(ImagePart::Distribution, &old.name, shown, Some(Cause::Project));
        }
        if old.says() != new.says() {
            return proof.add(ImagePart::Distribution, &old.name, shown, None);
        }
        let before = proof.differences.len();
        for line in old.lines.keys() {
            let (one, other) = (old.path(line), new.path(line));
            let node = |side: &ImageContents<'_>, path: &str| side.files.nodes.get(path).map(|node| node.kind.clone());
            let (one, other) = (node(&self.old, &one), node(&self.new, &other));
            if one == other || old.is_written_by_installer(line) {
                continue;
            }
            let rest = |kind: &Option<NodeKind>| match kind {
                Some(NodeKind::File { script, .. }) => *script,
                _ => None,
            };
            // The first line names the environment's Python.
            if rest(&one).is_some() && rest(&one) == rest(&other) {
                continue;
            }
            let shown = |kind: &Option<NodeKind>| match kind {
                Some(NodeKind::File { digest, .. }) => Some(format!("file `{}`", &digest.hex()[..12])),
                Some(_) => Some("no file".to_owned()),
                None => None,
            };
            proof.add(ImagePart::Distribution, &format!("{}: {line}", old.name), [shown(&one), shown(&other)], None);
        }
        if proof.differences.len() == before {
            proof.same(ImagePart::Distribution, 1);
        }
    }

    /// Compares Debian packages. Returns the causes of those that differ.
    fn packages(&self, proof: &mut Proof) -> BTreeMap<&str, Option<Cause>> {
        let (old, new) = (&self.old.packages, &self.new.packages);
        let needed = self.old.needed_by(&self.known.dropped);
        let mut causes = BTreeMap::new();
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names {
            let (one, other) = (old.get(name), new.get(name));
            let version =
                |package: Option<&crate::spec::debian::status::DebianPackage>| package.map(|p| p.version.clone());
            if version(one) == version(other) {
                proof.same(ImagePart::Package, 1);
                continue;
            }
            let dropped = other.is_none() && needed.contains(name.as_str());
            let cause = dropped.then_some(Cause::Dropped);
            causes.insert(name.as_str(), cause);
            proof.add(ImagePart::Package, name, [version(one), version(other)], cause);
        }
        causes
    }

    fn paths(&self, packages: &BTreeMap<&str, Option<Cause>>, proof: &mut Proof) {
        let names: BTreeSet<&String> = self.old.files.nodes.keys().chain(self.new.files.nodes.keys()).collect();
        let mut found: BTreeMap<&str, Option<Cause>> = BTreeMap::new();
        // From the deepest: a folder that only one image has is explained by what is in it.
        for path in names.into_iter().rev() {
            let (old, new) = (self.old.outside(path), self.new.outside(path));
            match (old, new) {
                (None, None) => {}
                (old, new) if old == new => proof.same(ImagePart::Path, 1),
                (old, new) => {
                    let cause = cause::of(path, [old, new], self, packages);
                    let cause = cause.or_else(|| self.by_contents(path, [old, new], &found));
                    found.insert(path, cause);
                    let shown = |node: Option<&Node>| node.map(ToString::to_string);
                    proof.add(ImagePart::Path, &format!("/{path}"), [shown(old), shown(new)], cause);
                }
            }
        }
    }

    /// The cause of a folder of one image that has only what is explained, or installed.
    fn by_contents(
        &self,
        path: &str,
        nodes: [Option<&Node>; 2],
        found: &BTreeMap<&str, Option<Cause>>,
    ) -> Option<Cause> {
        let side = match nodes {
            [Some(Node { kind: NodeKind::Folder, .. }), None] => &self.old,
            [None, Some(Node { kind: NodeKind::Folder, .. })] => &self.new,
            _ => return None,
        };
        let begin = format!("{path}/");
        let below =
            side.files.nodes.range::<str, _>((std::ops::Bound::Excluded(begin.as_str()), std::ops::Bound::Unbounded));
        let mut cause = None;
        for (name, _) in below.take_while(|(name, _)| name.starts_with(&begin)) {
            let own = if side.outside(name).is_some() { (*found.get(name.as_str())?)? } else { Cause::Environment };
            cause = cause.or(Some(own));
        }
        cause
    }
}
