//! Statements of an earlier image of the repository about the packages of its base: which of them were imported together, on the same root
//! and by the same scripts. Their files are in its layers, with byte code.
//!
//! Anything doubtful makes a package one that is fetched from the index and imported.

use super::describe;
use super::distribution::{EnvironmentPlace, parents};
use super::unpack::Folder;
use crate::layer::{EntryKind, Reader};
use crate::stage::Earlier;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use xtask_host::terminal;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::lock::checked::{Checked, CheckedPackage, Packages, VERSION};
use xtask_model::spec::lock::{LockedPackage, Pin};
use xtask_model::spec::reference::Digest;

pub(super) struct EarlierPackages<'e> {
    earlier: &'e dyn Earlier,
    /// All packages that were imported for the earlier image.
    pub(super) packages: Packages,
    /// Those that have the same pin in this build, and whose layer the earlier image has.
    usable: BTreeSet<String>,
    /// The recipe of the layer of each.
    layers: BTreeMap<String, Digest>,
}

impl<'e> EarlierPackages<'e> {
    /// `None` if the earlier image says nothing that counts in this setting. `layers` has the recipe of each package's layer in this build.
    pub(super) fn read(
        earlier: &'e dyn Earlier,
        setting: &Digest,
        locked: &[LockedPackage],
        layers: BTreeMap<String, Digest>,
    ) -> Option<Self> {
        let note = earlier.note(VERSION)?;
        let Checked { packages, shared, .. } = serde_json::from_slice::<Checked>(&note)
            .ok()
            .filter(|checked| checked.version == VERSION && checked.setting == *setting)?;
        // Contents of shared paths are compared, and the last part of the image has them.
        let shares = |name: &str| shared.values().flatten().any(|owner| owner == name);
        let has_layer = |name: &str| layers.get(name).is_some_and(|recipe| earlier.size(recipe).is_some());
        let same = |package: &&LockedPackage| {
            packages.get(&package.name).is_some_and(|known| known.pin == Pin::from(*package))
        };
        let usable = locked.iter().filter(same).map(|package| package.name.clone());
        let usable = usable.filter(|name| !shares(name) && has_layer(name)).collect();
        Some(Self { earlier, packages, usable, layers })
    }

    pub(super) fn name(&self) -> String {
        self.earlier.name()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.usable.contains(name)
    }

    /// The usable packages but for those that are fetched.
    pub(super) fn others(&self, fetched: &Packages) -> impl Iterator<Item = (&String, &CheckedPackage)> {
        let fetched: BTreeSet<&str> = fetched.keys().map(String::as_str).collect();
        self.packages.iter().filter(move |(name, _)| self.has(name) && !fetched.contains(name.as_str()))
    }

    /// Packages that have a path in common with a fetched one, be it a file or a folder: their files have to be compared.
    pub(super) fn meeting(&self, fetched: &Packages) -> BTreeSet<&str> {
        let paths: BTreeSet<String> = fetched.values().flat_map(|package| package.paths.iter()).collect();
        let folders: BTreeSet<&str> = paths.iter().flat_map(|path| parents(path)).collect();
        let meets = |package: &CheckedPackage| {
            let mut last = String::new();
            package.paths.iter().any(|path| {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                // Those of the path before were looked up.
                let is_new = folder != last;
                if is_new {
                    folder.clone_into(&mut last);
                }
                let is_below = || is_new && parents(&path).any(|parent| paths.contains(parent));
                paths.contains(&path) || folders.contains(&*path) || is_below()
            })
        };
        self.others(fetched).filter(|(_, package)| meets(package)).map(|(name, _)| name.as_str()).collect()
    }

    /// Bytes that the files of all layers may need.
    pub(super) fn room(&self) -> u64 {
        let recipes: BTreeSet<&Digest> = self.usable.iter().filter_map(|name| self.layers.get(name)).collect();
        recipes.into_iter().filter_map(|recipe| self.earlier.size(recipe)).map(|size| size.saturating_mul(5)).sum()
    }

    /// Unpacks packages from their layers, without test suites, into a folder that has some already. False if a layer cannot be read, or
    /// does not have the files that were imported: the folder is of no use then.
    pub(super) fn restore(
        &self,
        packages: &[LockedPackage],
        there: &[LockedPackage],
        folder: &Folder,
        place: &EnvironmentPlace<'_>,
    ) -> bool {
        let mut of_layer: BTreeMap<&Digest, BTreeSet<String>> = BTreeMap::new();
        let there = there.iter().filter_map(|package| self.packages.get(&package.name));
        let mut taken: BTreeSet<String> = there.flat_map(|package| describe::imported_from(package, place)).collect();
        let names: Vec<&str> = packages.iter().map(|package| &*package.name).collect();
        for (package, recipe) in
            names.iter().filter_map(|name| Some((self.packages.get(*name)?, self.layers.get(*name)?)))
        {
            let files = describe::imported_from(package, place).into_iter();
            // A path that two packages have with the same bytes is written once.
            of_layer.entry(recipe).or_default().extend(files.filter(|path| taken.insert(path.clone())));
        }
        let mut layers: Vec<_> = of_layer.into_iter().collect();
        layers.sort_by_key(|(recipe, _)| std::cmp::Reverse(self.earlier.size(recipe)));
        let (next, home) = (AtomicUsize::new(0), folder.home());
        let failed = AtomicBool::new(false);
        let run = || {
            while let Some((recipe, files)) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut take = |reader: &mut Reader<'_>| unpack(reader, files, &home, place);
                if let Err(fault) = self.earlier.read(recipe, &mut take) {
                    terminal::detail(&fault.what);
                    failed.store(true, Ordering::Relaxed);
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(layers.len());
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(run))));
        let is_whole = |name: &str| {
            let Some(package) = self.packages.get(name) else { return false };
            let record = describe::record_of(package, place).and_then(|path| fs::read(home.join(path)).ok());
            record.is_some_and(|bytes| Digest::of(&bytes) == package.record)
        };
        !failed.into_inner() && names.iter().all(|name| is_whole(name))
    }
}

/// Unpacks these files of a layer, by path from the environment's folder.
fn unpack(
    reader: &mut Reader<'_>,
    files: &BTreeSet<String>,
    home: &Path,
    place: &EnvironmentPlace<'_>,
) -> Result<(), Fault> {
    let below = ContextPath::new(place.home.trim_start_matches('/'));
    let mut buffer = vec![0; 64 << 10];
    let mut last = None;
    while let Some(entry) = reader.next()? {
        let Some(path) = entry.path.below(&below).and_then(|path| std::str::from_utf8(path).ok()) else { continue };
        if !matches!(entry.kind, EntryKind::File(_)) || !files.contains(path) {
            continue;
        }
        let cannot = |error: io::Error| Fault::build(format!("cannot write `{}`", home.display())).cause(error);
        let file = home.join(path);
        let folder = file.parent().map(Path::to_owned);
        if last != folder {
            folder.iter().try_for_each(fs::create_dir_all).map_err(cannot)?;
            last = folder;
        }
        let mode = if entry.mode & 0o111 == 0 { 0o644 } else { 0o755 };
        let mut file = File::options().write(true).create_new(true).mode(mode).open(file).map_err(cannot)?;
        loop {
            let count = reader.contents().read(&mut buffer);
            match count.map_err(|error| reader.failed(error))? {
                0 => break,
                count => file.write_all(&buffer[..count]).map_err(cannot)?,
            }
        }
    }
    Ok(())
}
