//! The packages of a build in a folder: those of which this build makes layers and those that a change can affect, from their wheels; what
//! these import, from the layers of an earlier image.

use super::closure::{self, ClosureCheck};
use super::compile::ChunkName;
use super::distribution::EnvironmentPlace;
use super::earlier::EarlierPackages;
use super::early::{Early, Unwinding};
use super::installed::{Arrived, Installed};
use super::interpreter::Interpreter;
use super::shared::{self, Shared};
use super::unpack::Folder;
use super::{SCRATCH, wheels};
use crate::recipes::source;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;
use xtask_host::index::{FetchedWheel, WheelRequest};
use xtask_host::scratch::Scratch;
use xtask_host::tree::uv;
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::quantity;
use xtask_model::spec::lock::LockedPackage;
use xtask_model::spec::lock::checked::{self, Packages};
use xtask_model::spec::reference::Platform;
use xtask_model::spec::requirements::Requirements;

pub(super) struct Gathering<'a> {
    pub(super) locked: &'a [LockedPackage],
    /// Packages of which this build makes layers.
    pub(super) wanted: BTreeSet<&'a str>,
    pub(super) known: Option<&'a EarlierPackages<'a>>,
    pub(super) wheels: WheelSource<'a>,
    pub(super) place: EnvironmentPlace<'a>,
    /// Working folder, for what does not fit into memory.
    pub(super) work: &'a Path,
    pub(super) whole: ClosureCheck<'a>,
    /// `compile.py`.
    pub(super) script: &'a Path,
}

pub(super) struct Gathered {
    pub(super) downloads: Scratch,
    /// From wheels, in the order of their names.
    pub(super) installed: Vec<Installed>,
    /// The same, as the record of an import check has them.
    pub(super) fetched: Packages,
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
    /// Chunks that were compiled while others were downloaded.
    pub(super) compiled: BTreeSet<ChunkName>,
}

impl Gathering<'_> {
    /// `python` brings the Python that compiles, if there is one, for an environment in this folder; it runs meanwhile. The answer is `None` if
    /// the earlier image does not have what it says.
    pub(super) fn run<P>(
        &self,
        python: impl FnOnce(&Path) -> (P, Option<Interpreter>),
    ) -> Result<(Option<Gathered>, P), Fault> {
        let Self { locked, ref wanted, known, ref place, work, script, .. } = *self;
        let downloads = Scratch::new().map_err(|error| Fault::build("cannot make a temporary folder").cause(error))?;
        let room = known.map_or(0, EarlierPackages::room);
        let early = Early::new(Folder::early(work, SCRATCH)?, room, (locked, wanted), (*place, script));
        let (fetched, own) = std::thread::scope(|scope| {
            let _guard = Unwinding(&early);
            // Layers are unpacked while wheels come and the root's Python is unpacked: none of these keeps all cores busy.
            let presuming = known.map(|known| scope.spawn(|| self.presumed(known, early.folder())));
            let fetching = scope.spawn(|| {
                let _guard = Unwinding(&early);
                let fetched = self.fetched(&early, downloads.path());
                if fetched.is_ok() {
                    early.close()
                } else {
                    early.give_up()
                }
                let presumed = presuming.map(|running| running.join());
                let presumed = presumed.map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
                fetched.and_then(|fetched| self.compared(fetched, presumed, &early))
            });
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            (0..cores).for_each(|_| drop(scope.spawn(|| early.work())));
            let (own, interpreter) = python(&early.folder().home());
            early.compile_with(interpreter);
            (fetching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), own)
        });
        process::interrupted()?;
        let Compared { installed, fetched, shared, restored } = fetched?;
        let (folder, compiled, restored) = match early.end() {
            Some((folder, compiled)) => {
                folder.settle(&installed, &shared.owners, place)?;
                (folder, compiled, restored)
            }
            None => {
                terminal::detail("packages are unpacked again");
                let size = installed.iter().map(|one| one.size).sum::<u64>();
                let folder = Folder::new(work, SCRATCH, size + room)?;
                folder.unpack(&installed, false, place)?;
                (folder, BTreeSet::new(), None)
            }
        };
        let restored = match (restored, known) {
            (Some(restored), _) => restored,
            (None, Some(known)) => {
                self.restored(&folder, &fetched, known, &Presumed::default())?.unwrap_or(Restored::Damaged)
            }
            (None, None) => Restored::Nothing,
        };
        let (restored, others, described) = match restored {
            Restored::Damaged => return Ok((None, own)),
            Restored::Packages { restored, others, described } => (restored, others, Some(described)),
            Restored::Nothing => Default::default(),
        };
        let from = known.map(EarlierPackages::name);
        let gathered =
            Gathered { downloads, installed, fetched, restored, folder, shared, others, from, described, compiled };
        Ok((Some(gathered), own))
    }

    /// Unpacks the packages of layers that a change affects whatever the new wheels have: those that use what is no longer as it was, and
    /// what these use.
    fn presumed(&self, known: &EarlierPackages<'_>, folder: &Folder) -> Presumed {
        let stays = |name: &str| known.has(name) && !self.wanted.contains(name);
        let stay = known.packages.iter().filter(|(name, _)| stays(name));
        let packages: Packages = stay.map(|(name, package)| (name.clone(), package.clone())).collect();
        let names = checked::closure(&packages, checked::affected(&known.packages, &packages));
        let is_restored = |package: &&LockedPackage| names.contains(&*package.name);
        let restored: Vec<LockedPackage> = self.locked.iter().filter(is_restored).cloned().collect();
        let is_whole = known.restore(&restored, &[], folder, &self.place);
        Presumed { restored, is_damaged: !is_whole }
    }

    /// Compares the packages that are installed from wheels, and unpacks those of layers, if the folder is of use.
    fn compared(
        &self,
        (installed, fetched): (Vec<Installed>, Packages),
        presumed: Option<Presumed>,
        early: &Early<'_>,
    ) -> Result<Compared, Fault> {
        closure::check_installed(&self.whole, &installed.iter().map(|one| (&*one.name, &one.metadata)).collect())?;
        let shared = shared::compare(&installed, &self.place)?;
        let known = self.known.zip(presumed).filter(|_| !early.is_given_up());
        let restored =
            known.map(|(known, presumed)| self.restored(early.folder(), &fetched, known, &presumed)).transpose()?;
        if let Some(None) = restored {
            early.give_up();
        }
        Ok(Compared { installed, fetched, shared, restored: restored.flatten() })
    }

    /// The packages that are installed from wheels.
    fn fetched(&self, early: &Early<'_>, downloads: &Path) -> Result<(Vec<Installed>, Packages), Fault> {
        let Self { locked, ref wanted, known, ref wheels, .. } = *self;
        let began = Instant::now();
        let some = |which: &dyn Fn(&str) -> bool| -> Vec<LockedPackage> {
            locked.iter().filter(|package| which(&package.name)).cloned().collect()
        };
        let get = |packages: &[LockedPackage]| {
            early.unpacked(&wheels.fetch(packages, downloads, &|package, wheel| early.add(package, wheel))?)
        };
        let (mut installed, mut fetched) =
            get(&some(&|name| wanted.contains(name) || !known.is_some_and(|known| known.has(name))))?;
        if let Some(known) = known {
            let meeting = known.meeting(&fetched);
            let (more, described) = get(&some(&|name| meeting.contains(name)))?;
            installed.extend(more);
            installed.sort_by(|one, two| one.name.cmp(&two.name));
            fetched.extend(described);
        }
        let took = quantity::seconds(began.elapsed());
        terminal::detail(&format!("{} wheels fetched and unpacked in {took}", installed.len()));
        Ok((installed, fetched))
    }

    /// Unpacks what the fetched packages can affect, and what these import, from the layers of the earlier image. `None` if the folder has
    /// packages that do not belong there.
    fn restored(
        &self,
        folder: &Folder,
        fetched: &Packages,
        known: &EarlierPackages<'_>,
        presumed: &Presumed,
    ) -> Result<Option<Restored>, Fault> {
        let Self { locked, ref place, .. } = *self;
        let mut packages = fetched.clone();
        let others: Packages = known.others(fetched).map(|(name, package)| (name.clone(), package.clone())).collect();
        packages.extend(others.clone());
        let affected = checked::affected(&known.packages, &packages);
        let names = affected.into_iter().chain(fetched.keys().map(String::as_str));
        let names = checked::closure(&packages, names);
        let is_restored =
            |package: &&LockedPackage| names.contains(&*package.name) && others.contains_key(&package.name);
        let restored: Vec<LockedPackage> = locked.iter().filter(is_restored).cloned().collect();
        let there = &presumed.restored;
        if !there.iter().all(|package| is_restored(&package)) {
            return Ok(None);
        }
        let said = format!("{} of {} packages; the others were, for `{}`", names.len(), packages.len(), known.name());
        terminal::step("importing", &said);
        let began = Instant::now();
        let rest: Vec<LockedPackage> = restored.iter().filter(|package| !there.contains(package)).cloned().collect();
        if presumed.is_damaged || !known.restore(&rest, there, folder, place) {
            terminal::detail("the earlier base does not have what it says: everything is imported");
            return Ok(Some(Restored::Damaged));
        }
        let (all, took) = (restored.len(), quantity::seconds(began.elapsed()));
        terminal::detail(&format!("{all} packages of layers, {} of them unpacked in {took}", rest.len()));
        Ok(Some(Restored::Packages { restored, others, described: packages }))
    }
}

/// Packages of layers that are unpacked before it is known what the new wheels have.
#[derive(Default)]
struct Presumed {
    restored: Vec<LockedPackage>,
    /// True if the layers do not have what they should.
    is_damaged: bool,
}

/// Packages that are installed from wheels.
struct Compared {
    installed: Vec<Installed>,
    fetched: Packages,
    shared: Shared,
    /// `None` without an earlier image, or without a folder.
    restored: Option<Restored>,
}

/// Result of restoring packages from an earlier image.
enum Restored {
    Nothing,
    Packages {
        restored: Vec<LockedPackage>,
        others: Packages,
        described: Packages,
    },
    /// It does not have what it says.
    Damaged,
}

/// Source of wheels: an index, or a build from source.
#[derive(Clone, Copy)]
pub(super) struct WheelSource<'a> {
    pub(super) root: &'a Path,
    pub(super) requirements: &'a Requirements,
    pub(super) python: &'a str,
    pub(super) platform: &'a Platform,
    pub(super) glibc: &'a str,
    /// Those that were built from source.
    pub(super) built: &'a source::Wheels,
}

impl WheelSource<'_> {
    /// The wheel of each package; `ready` gets each as soon as it is on this machine.
    pub(super) fn fetch(
        &self,
        packages: &[LockedPackage],
        downloads: &Path,
        ready: &(dyn Fn(&str, Arrived) + Sync),
    ) -> Result<BTreeMap<String, Arrived>, Fault> {
        let Self { root, requirements, python, platform, glibc, built } = *self;
        let (own, listed): (Vec<&LockedPackage>, _) = packages.iter().partition(|one| built.contains_key(&one.name));
        let own = own.into_iter().filter_map(|package| built.get_key_value(&package.name));
        let mut found: BTreeMap<String, Arrived> = own.map(|(name, wheel)| (name.clone(), wheel.clone())).collect();
        found.iter().for_each(|(name, wheel)| ready(name, wheel.clone()));
        let listed: Vec<LockedPackage> = listed.into_iter().cloned().collect();
        if !listed.is_empty() {
            let indexes = uv::indexes(root, requirements)?;
            let wanted = WheelRequest { packages: &listed, indexes: &indexes, python, platform, glibc };
            let ready = |wheel: &FetchedWheel| ready(&wheel.name, (wheel.path.clone(), wheel.filename.clone()));
            found.extend(wheels::fetch(&wanted, downloads, &ready)?);
        }
        match packages.iter().find(|package| !found.contains_key(&package.name)) {
            Some(package) => Err(Fault::build(format!("no wheel of {} {} was fetched", package.name, package.version))),
            None => Ok(found),
        }
    }
}
