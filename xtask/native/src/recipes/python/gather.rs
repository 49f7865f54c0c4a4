//! The packages of a build in a folder: those of which this build makes layers and those that a change can affect, from their wheels; what
//! these import, from the layers of an earlier image.

use super::closure::{self, ClosureCheck};
use super::distribution::{Distribution, Place};
use super::known::Known;
use super::shared::{self, Shared};
use super::unpack::Folder;
use super::wheels::{self, version_folder};
use super::{HOME, SCRATCH, Unpacked, describe};
use crate::wheel::Wheel;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;
use xtask_host::index::WheelRequest;
use xtask_host::scratch::Scratch;
use xtask_host::terminal;
use xtask_host::tree::uv;
use xtask_model::fault::Fault;
use xtask_model::quantity;
use xtask_model::spec::lock::LockedPackage;
use xtask_model::spec::reference::Platform;
use xtask_model::spec::requirements::Requirements;
use xtask_model::spec::wheel::checked::{self, Packages};

pub(super) struct Gathering<'a> {
    pub(super) locked: &'a [LockedPackage],
    /// Packages of which this build makes layers.
    pub(super) wanted: BTreeSet<&'a str>,
    pub(super) known: Option<&'a Known<'a>>,
    pub(super) wheels: WheelSource<'a>,
    pub(super) place: Place<'a>,
    /// Working folder, for what does not fit into memory.
    pub(super) work: &'a Path,
    pub(super) whole: ClosureCheck<'a>,
}

pub(super) struct Gathered {
    pub(super) downloads: Scratch,
    /// From wheels, in the order of their names.
    pub(super) distributions: Vec<Distribution>,
    /// From layers.
    pub(super) restored: Vec<LockedPackage>,
    pub(super) folder: Folder,
    pub(super) shared: Shared,
    /// Packages of which no wheel was fetched.
    pub(super) others: Packages,
    /// The earlier image.
    pub(super) from: Option<String>,
    /// All packages of the lock, where a choice needed it.
    pub(super) described: Option<Packages>,
}

impl Gathering<'_> {
    /// `None` if the earlier image does not have what it says.
    pub(super) fn run(&self) -> Result<Option<Gathered>, Fault> {
        let Self { locked, ref wanted, known, wheels, ref place, work, ref whole } = *self;
        let downloads = Scratch::new().map_err(|error| Fault::build("cannot make a temporary folder").cause(error))?;
        let some = |which: &dyn Fn(&str) -> bool| -> Vec<LockedPackage> {
            locked.iter().filter(|package| which(&package.name)).cloned().collect()
        };
        let first = some(&|name| wanted.contains(name) || !known.is_some_and(|known| known.has(name)));
        let mut distributions = wheels.fetch(&first, downloads.path())?;
        if let Some(known) = known {
            let meeting = known.meeting(&distributions);
            distributions.extend(wheels.fetch(&some(&|name| meeting.contains(name)), downloads.path())?);
            distributions.sort_by(|one, two| one.name.cmp(&two.name));
        }
        closure::check_installed(whole, &distributions)?;
        let folder = Folder::new(work, SCRATCH, &distributions, known.map_or(0, Known::room))?;
        let began = Instant::now();
        let shared = shared::compare(&distributions)?;
        folder.unpack(&distributions, false)?;
        terminal::detail(&format!("packages unpacked in {}", quantity::seconds(began.elapsed())));
        let (mut others, mut restored, mut described) = (Packages::new(), Vec::new(), None);
        if let Some(known) = known {
            let unpacked = Unpacked { folder: &folder, distributions: &distributions, owners: &shared.owners };
            let mut packages = describe::all(&unpacked, locked, place.folder)?;
            others = known.others(&distributions).map(|(name, package)| (name.clone(), package.clone())).collect();
            packages.extend(others.clone());
            let affected = checked::affected(&known.packages, &packages);
            let names = affected.into_iter().chain(distributions.iter().map(|one| &*one.name));
            let names = checked::closure(&packages, names);
            let said =
                format!("{} of {} packages; the others were, for `{}`", names.len(), packages.len(), known.name());
            terminal::step("importing", &said);
            restored = some(&|name| names.contains(name) && others.contains_key(name));
            if !known.restore(&restored, &folder, place) {
                terminal::detail("the earlier base does not have what it says: everything is imported");
                return Ok(None);
            }
            described = Some(packages);
        }
        Ok(Some(Gathered {
            downloads,
            distributions,
            restored,
            folder,
            shared,
            others,
            from: known.map(Known::name),
            described,
        }))
    }
}

/// Where wheels come from: an index, or a build from source.
#[derive(Clone, Copy)]
pub(super) struct WheelSource<'a> {
    pub(super) root: &'a Path,
    pub(super) requirements: &'a Requirements,
    pub(super) python: &'a str,
    pub(super) platform: &'a Platform,
    pub(super) glibc: &'a str,
    /// Those that were built from source.
    pub(super) built: &'a wheels::Wheels,
}

impl WheelSource<'_> {
    /// The packages as they are installed, in the order of their names.
    pub(super) fn fetch(&self, packages: &[LockedPackage], downloads: &Path) -> Result<Vec<Distribution>, Fault> {
        if packages.is_empty() {
            return Ok(Vec::new());
        }
        let began = Instant::now();
        let Self { root, requirements, python, platform, glibc, built } = *self;
        let listed: Vec<LockedPackage> =
            packages.iter().filter(|one| !built.contains_key(&one.name)).cloned().collect();
        let mut found = built.clone();
        if !listed.is_empty() {
            let indexes = uv::indexes(root, requirements)?;
            let wanted = WheelRequest { packages: &listed, indexes: &indexes, python, platform, glibc };
            found.extend(wheels::fetch(&wanted, downloads)?);
        }
        let folder = version_folder(python);
        let install = |package: &LockedPackage| {
            let (path, name) = found
                .get(&package.name)
                .ok_or_else(|| Fault::build(format!("no wheel of {} {} was fetched", package.name, package.version)))?;
            // What was built is installed from where it is kept, by either engine: the address of its source is not its own.
            let url = package.url.clone().filter(|_| !built.contains_key(&package.name));
            let package = LockedPackage { url, ..package.clone() };
            Distribution::new(&Wheel::open(path, name)?, &package, &Place { home: HOME, folder: &folder })
        };
        let mut out = packages.iter().map(install).collect::<Result<Vec<_>, _>>()?;
        out.sort_by(|one, two| one.name.cmp(&two.name));
        terminal::detail(&format!("{} wheels read in {}", packages.len(), quantity::seconds(began.elapsed())));
        Ok(out)
    }
}
