//! Packages without a wheel: says what each needs, and pins what they are built with.

use crate::flags::Global;
use std::collections::{BTreeMap, BTreeSet};
use xtask_host::scratch::Scratch;
use xtask_host::terminal;
use xtask_host::tree::facts::{self, Tree};
use xtask_host::tree::uv::{BuildRequest, Cooldown, Uv};
use xtask_model::fault::Fault;
use xtask_model::spec::lock::sources::{SourcePin, shown};
use xtask_model::spec::lock::{Lock, LockedPackage};
use xtask_native::recipes::source::{self, Inspected, inspect};

/// Pins the sources of a lock's packages. Pins of before stay, unless all are renewed.
///
/// # Errors
/// Packages that need a compiler, where the policy names none; sources that cannot be fetched or read.
pub(super) fn pin(
    tree: &Tree,
    uv: &Uv,
    lock: &Lock,
    (renewed, cooldown): (bool, Option<&Cooldown>),
) -> Result<Vec<SourcePin>, Fault> {
    let missing = facts::wheels::without_wheel(tree, lock)?;
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let before = facts::images_lock(tree)?.sources;
    let mut pins: Vec<SourcePin> = Vec::new();
    let mut open: Vec<LockedPackage> = Vec::new();
    for (package, shown) in &missing {
        match before.iter().find(|pin| pin.is_of(package)).filter(|_| !renewed) {
            Some(pin) => {
                terminal::detail(&format!("{shown}: it is built from source as `images.lock` says"));
                pins.push(pin.clone());
            }
            None => open.push((*package).clone()),
        }
    }
    let indexes = facts::indexes(tree)?;
    let folder = Scratch::new().map_err(|error| Fault::build("cannot make a temporary folder").cause(error))?;
    let sources = source::fetch(&open, &indexes, folder.path())?;
    let mut found = Vec::new();
    for (package, source) in open.iter().zip(&sources) {
        let name = shown(package);
        found.push(inspect(&source.path, &name, &source.subdirectory)?);
        if !source.submodules.is_empty() {
            let list = source.submodules.join(", ");
            terminal::warn(&format!(
                "{name} is built without its submodules, whose files are not in the commit: {list}"
            ));
        }
    }
    let lines = |package: &LockedPackage, one: &Inspected| {
        let shown = missing.iter().find(|(other, _)| *other == package).map_or("", |(_, shown)| shown);
        format!("{shown}: {}", one.compilers.shown())
    };
    let lines: Vec<String> = open.iter().zip(&found).map(|(package, one)| lines(package, one)).collect();
    if !facts::compiles(tree)? && found.iter().any(|one| !one.compilers.is_pure()) {
        return Err(compiled(&lines, &found));
    }
    lines.iter().for_each(|line| terminal::step("no wheel", line));
    if !lines.is_empty() {
        terminal::step("", "  the native engine builds these wheels once, and keeps them in the registry of the base");
    }
    let mut known: BTreeMap<Vec<String>, Vec<LockedPackage>> = BTreeMap::new();
    for ((package, source), Inspected { system, .. }) in open.iter().zip(sources).zip(found) {
        let old = before.iter().find(|pin| pin.name == package.name).map(|pin| pin.build.clone()).unwrap_or_default();
        let build = match known.get(&system.requires) {
            Some(build) => build.clone(),
            None => uv.build_requirements(&BuildRequest {
                requires: &system.requires,
                indexes: &indexes,
                python: &tree.policy.root.python,
                before: if renewed { &[] } else { &old },
                cooldown,
                needed_by: &format!("building {} from source", shown(package)),
            })?,
        };
        known.insert(system.requires, build.clone());
        let (name, version) = (package.name.clone(), package.version.clone());
        pins.push(SourcePin { name, version, from: source.from, build });
    }
    pins.sort();
    pins.dedup();
    Ok(pins)
}

/// Adds the pins of another base. Bases share the pin of a source that both have.
pub(super) fn add(pins: &mut Vec<SourcePin>, more: Vec<SourcePin>) {
    let source = |pin: &SourcePin| (pin.name.clone(), pin.version.clone(), pin.from.clone());
    let known: BTreeSet<_> = pins.iter().map(source).collect();
    pins.extend(more.into_iter().filter(|pin| !known.contains(&source(pin))));
    pins.sort();
}

/// The pins that the policy's other bases need: they stay.
pub(super) fn of_others(global: &Global, locked: &[&Tree]) -> Result<Vec<SourcePin>, Fault> {
    let mut kept = Vec::new();
    for tree in (Global { app: Vec::new(), ..global.clone() }).trees_of_bases()? {
        if locked.iter().any(|locked| locked.policy.base.name == tree.policy.base.name) {
            continue;
        }
        let pins = facts::images_lock(&tree)?.sources;
        // Which of them it needs is unknown without its lock.
        let lock = facts::lock(&tree).ok();
        let needs = |pin: &SourcePin| lock.as_ref().is_none_or(|lock| lock.packages.iter().any(|one| pin.is_of(one)));
        kept.extend(pins.into_iter().filter(needs));
    }
    Ok(kept)
}

/// Packages that need a compiler, where the policy names none, with the others that have no wheel.
fn compiled(lines: &[String], found: &[Inspected]) -> Fault {
    let fault = Fault::usage("packages have no wheel, and need compilers that the policy does not name");
    let fault = lines.iter().fold(fault, Fault::cause);
    let packages: BTreeSet<&str> = found.iter().flat_map(|one| one.compilers.packages.iter().copied()).collect();
    let packages: Vec<&str> = packages.into_iter().collect();
    fault
        .hint(format!("name them in `images.toml`: `BUILD_PACKAGES = \"{}\"` in `[base.args]`", packages.join(" ")))
        .hint("or pin versions that have wheels")
}
