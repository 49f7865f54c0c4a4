//! `lock`: resolves the requirements, the installer and the root's digests, each into its file.

mod pull_request;
mod sources;
mod system;

use crate::flags::Global;
use crate::pipeline;
use pull_request::PullRequest;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use xtask_host::tree::facts::{self, Tree};
use xtask_host::tree::inputs;
use xtask_host::tree::uv::{self, Cooldown, Request, Upgrade};
use xtask_host::{clock, file, terminal};
use xtask_model::fault::{Exit, Fault};
use xtask_model::spec::lock::formats::Format;
use xtask_model::spec::lock::images::RootPin;
use xtask_model::spec::lock::sources::SourcePin;
use xtask_model::spec::lock::{self, ImagesLock, Lock, closure};
use xtask_model::spec::requirements::Version;

/// Pins that may move.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Everything.
    pub upgrade: bool,
    pub packages: &'a [String],
    /// Days that a release has to be old, instead of the policy's.
    pub cooldown: Option<u32>,
}

/// Resolves and pins; then proposes what changed, if wanted.
pub fn run(global: &Global, wanted: &Wanted<'_>, pull_request: bool) -> anyhow::Result<()> {
    let trees = global.trees_of_bases()?;
    let proposal = if pull_request { Some(PullRequest::prepare(&trees)?) } else { None };
    let upgrades = |tree: &&Tree| tree.policy.base.format() == Format::Pip;
    let upgrade = wanted.upgrade || !wanted.packages.is_empty();
    let mut locked: Vec<&Tree> = trees.iter().collect();
    if upgrade && trees.iter().any(|tree| upgrades(&tree)) {
        for tree in trees.iter().filter(|tree| !upgrades(tree)) {
            terminal::step("left out", &format!("`{}`: another tool writes and upgrades it", tree.policy.base.lock));
        }
        locked.retain(upgrades);
    }
    let mut sources: Vec<SourcePin> = Vec::new();
    for tree in &locked {
        sources::add(&mut sources, lock(tree, wanted)?);
    }
    sources::add(&mut sources, sources::of_others(global, &locked)?);
    let reached = pin(&trees[0], global, sources)?;
    system::pin(&locked, global, reached)?;
    super::workflows::suggest(global);
    match proposal {
        Some(proposal) => proposal.open(&trees),
        None => Ok(()),
    }
}

/// Writes the locks of a base. Returns the pins of its packages without a wheel.
fn lock(tree: &Tree, wanted: &Wanted<'_>) -> Result<Vec<SourcePin>, Fault> {
    let base = &tree.policy.base;
    let uv = match uv::find(&tree.root, &[]) {
        Ok(uv) => uv,
        Err(_) => {
            terminal::step("installing", "uv, which is not on `PATH`, under `target/tools`");
            uv::install(&tree.root)?
        }
    };
    let days = wanted.cooldown.unwrap_or(tree.policy.cooldown);
    let cooldown = (wanted.upgrade && days > 0).then(|| Cooldown::of_days(clock::now(), days));
    let pinning = (wanted.upgrade, cooldown.as_ref());
    let sources = match base.format() {
        Format::Pip => {
            let text = resolve(tree, &uv, wanted, cooldown.as_ref())?;
            let sources = sources::pin(tree, &uv, &Lock::parse(base.lock.as_ref(), &text)?, pinning)?;
            write(&tree.root, base.lock.as_ref(), &text)?;
            sources
        }
        format if wanted.upgrade || !wanted.packages.is_empty() => {
            let what = format!("`{}` is written by another tool, which upgrades it", base.lock);
            return Err(Fault::usage(what).hint(format!("`{}`, with that tool's own options", format.command())));
        }
        _ => {
            let lock = check_foreign(tree)?;
            sources::pin(tree, &uv, &lock, pinning)?
        }
    };
    let python = &tree.policy.root.python;
    let newer = if wanted.upgrade { uv.newer_installer_lock(python, cooldown.as_ref())? } else { None };
    let installer = match newer {
        Some(newer) => newer,
        None => uv.installer_lock(uv.version(), python)?,
    };
    write(&tree.root, base.installer.as_ref(), &installer)?;
    for path in inputs::projects::write(&tree.root, &tree.policy)? {
        terminal::step("wrote", &format!("`{path}`"));
    }
    Ok(sources)
}

/// Checks the lock of another tool, of which nothing is written here.
fn check_foreign(tree: &Tree) -> Result<Lock, Fault> {
    let lock = facts::lock(tree).map_err(|fault| Fault { exit: Exit::Drift, ..fault })?;
    terminal::step("checked", &format!("{} packages of `{}`", lock.packages.len(), tree.policy.base.lock));
    let local = inputs::local(&*tree.files, &tree.policy)?;
    if !local.is_empty() {
        terminal::step(
            "left out",
            &format!("projects of this repository, whose code an app copies: {}", local.join(", ")),
        );
    }
    Ok(lock)
}

/// Resolves the requirements into the text of the lock.
fn resolve(tree: &Tree, uv: &uv::Uv, wanted: &Wanted<'_>, cooldown: Option<&Cooldown>) -> Result<String, Fault> {
    let base = &tree.policy.base;
    let upgrade = match (wanted.upgrade, wanted.packages) {
        (true, _) => Upgrade::All,
        (false, []) => Upgrade::Keep,
        (false, names) => Upgrade::Only(names.to_vec()),
    };
    let before = std::fs::read_to_string(tree.root.join(&base.lock)).ok();
    let before = before.and_then(|text| Lock::parse(base.lock.as_ref(), &text).ok());
    let request = Request {
        root: &tree.root,
        requirements: &base.requirements,
        selection: &base.selection,
        lock: base.lock.as_ref(),
        python: &tree.policy.root.python,
        upgrade: &upgrade,
    };
    inputs::asked(&*tree.files, &tree.policy)?.notes().iter().for_each(|note| terminal::warn(note));
    terminal::step("resolving", &format!("{} with uv {}", base.requirements, uv.version()));
    let text = match (cooldown, &before) {
        (Some(cooldown), Some(before)) => without_downgrades(uv, &request, before, cooldown)?,
        (cooldown, _) => uv.resolve_within(&request, cooldown)?,
    };
    let text = recorded(tree, uv, &text)?;
    let after = Lock::parse(base.lock.as_ref(), &text)?;
    let changes = before.map(|before| lock::diff(&before.meaning(), &after.meaning()));
    for change in changes.iter().flatten() {
        terminal::step("changed", &change.to_string());
    }
    if changes.is_some_and(|changes| changes.is_empty()) {
        terminal::step("unchanged", &format!("{} packages", after.packages.len()));
    }
    Ok(text)
}

/// An upgrade within a cooldown, which lowers no pin: what is newer than the cooldown was taken on purpose, and stays.
fn without_downgrades(uv: &uv::Uv, request: &Request<'_>, before: &Lock, cooldown: &Cooldown) -> Result<String, Fault> {
    let pinned = |lock: &Lock| -> BTreeMap<String, BTreeSet<Version>> {
        let mut pinned: BTreeMap<String, BTreeSet<Version>> = BTreeMap::new();
        for package in &lock.packages {
            pinned.entry(package.name.clone()).or_default().extend(package.version.parse::<Version>());
        }
        pinned
    };
    let old = pinned(before);
    let mut cooldown = cooldown.clone();
    // Each round keeps at least one more of the packages that are locked.
    loop {
        let others: Vec<String> = old.keys().filter(|name| !cooldown.exempt.contains(*name)).cloned().collect();
        let upgrade = if cooldown.exempt.is_empty() { Upgrade::All } else { Upgrade::Only(others) };
        let request = Request { upgrade: &upgrade, ..*request };
        let resolved = uv.resolve_within(&request, Some(&cooldown));
        // A requirement that only something newer satisfies: keep every pin, and upgrade what is old enough.
        let lowered: BTreeSet<String> = match &resolved {
            Err(fault) if fault.exit == Exit::Usage && cooldown.exempt.is_empty() => old.keys().cloned().collect(),
            Err(_) => return resolved,
            Ok(text) => {
                let new = pinned(&Lock::parse(request.lock, text)?);
                let is_lower = |(name, old): (&String, &BTreeSet<Version>)| {
                    (new.get(name)?.last() < old.last()).then(|| name.clone())
                };
                old.iter().filter_map(is_lower).collect()
            }
        };
        if lowered.is_subset(&cooldown.exempt) {
            return resolved;
        }
        for name in lowered.difference(&cooldown.exempt) {
            terminal::detail(&format!("`{name}` stays: its pin was uploaded after {}", cooldown.before));
        }
        cooldown.exempt.extend(lowered);
    }
}

/// The lock with what its packages require.
fn recorded(tree: &Tree, uv: &uv::Uv, text: &str) -> Result<String, Fault> {
    let lock = Lock::parse(tree.policy.base.lock.as_ref(), text)?;
    let records = uv.describe(&lock, &facts::indexes(tree)?, &facts::targets(tree)?)?;
    let text = records.written(text, &lock.packages);
    let lock = Lock { records, ..lock };
    let requirements = inputs::asked(&*tree.files, &tree.policy)?;
    let lock = Lock { overridden: requirements.overridden().clone(), ..lock };
    lock::check_closure(&requirements, &facts::environments(tree), &lock)?;
    Ok(text)
}

fn write(root: &Path, path: &Path, text: &str) -> Result<(), Fault> {
    if file::write(&root.join(path), text)? {
        terminal::step("wrote", &format!("`{}`", path.display()));
    }
    Ok(())
}

/// Gets the root's digests and writes them, with the sources. If the root is unavailable and the policy has a fallback, its pin does not
/// change. Returns false if the root's registry was not reached.
fn pin(tree: &Tree, global: &Global, sources: Vec<SourcePin>) -> Result<bool, Fault> {
    let image = &tree.policy.root.image;
    let before = facts::images_lock(tree)?;
    let mut reached = !global.offline;
    let root = match global.offline {
        true => before.root.clone(),
        false => match pipeline::resolve_root(tree, &tree.policy.project.platforms) {
            Ok(platforms) => Some(RootPin { image: image.clone(), platforms }),
            Err(fault) if fault.unreachable && tree.policy.root.fallback.is_some() => {
                let cause = fault.causes.last().cloned().unwrap_or(fault.what);
                terminal::warn(&format!(
                    "the root `{image}` is not pinned: {cause}; builds fall back to Debian packages"
                ));
                reached = false;
                before.root.clone()
            }
            Err(fault) => return Err(fault.needed_by("the root's digests in `images.lock`")),
        },
    };
    save(&tree.root, &before, &ImagesLock { root, sources, ..before.clone() })?;
    Ok(reached)
}

/// Writes `images.lock` if it changed; removes it if it pins nothing.
fn save(root: &Path, before: &ImagesLock, lock: &ImagesLock) -> Result<(), Fault> {
    let path = Path::new(lock::images::PATH);
    if lock == before {
        return Ok(());
    }
    if *lock != ImagesLock::default() {
        return write(root, path, &lock.to_string());
    }
    std::fs::remove_file(root.join(path)).map_err(|error| {
        Fault::usage(format!("cannot remove `{}`, which pins nothing any more", path.display())).cause(error)
    })
}

/// Fails if a lock is out of date, incomplete or inconsistent.
pub fn check(global: &Global) -> Result<(), Fault> {
    global.trees_of_bases()?.iter().try_for_each(|tree| check_base(global, tree))
}

fn check_base(global: &Global, tree: &Tree) -> Result<(), Fault> {
    let lock = facts::lock(tree).map_err(|fault| Fault { exit: Exit::Drift, ..fault })?;
    known(tree, &lock)?;
    inputs::projects::check(&*tree.files, &tree.policy)?;
    let pins = facts::images_lock(tree)?;
    facts::system_pin(tree, &pins).map_err(|fault| Fault { exit: Exit::Drift, ..fault })?;
    let pinned = pins.root;
    if let Some(pinned) = &pinned
        && pinned.image != tree.policy.root.image
    {
        return Err(Fault::drift(format!("`images.lock` pins `{}`", pinned.image))
            .cause(format!("the policy wants `{}`", tree.policy.root.image))
            .hint("update it: `cargo xtask lock`"));
    }
    if pinned.is_none() && global.locked {
        return Err(Fault::drift("the root's digests are not pinned").hint("pin them: `cargo xtask lock`"));
    }
    if !tree.root.join(&tree.policy.base.installer).is_file() {
        return Err(
            Fault::drift(format!("`{}` is missing", tree.policy.base.installer)).hint("write it: `cargo xtask lock`")
        );
    }
    terminal::step("checked", &format!("{} packages match {}", lock.packages.len(), tree.policy.base.requirements));
    Ok(())
}

/// Fails if the lock does not record the requirements of its packages, and so cannot be checked without them.
fn known(tree: &Tree, lock: &Lock) -> Result<(), Fault> {
    let missing = facts::wheels::unbuildable(tree, lock)?;
    if !missing.is_empty() {
        return Err(Fault { exit: Exit::Drift, ..facts::wheels::no_wheel(&missing) });
    }
    if tree.policy.base.format() != Format::Pip {
        return Ok(());
    }
    if lock.records.is_empty() {
        terminal::warn(&format!(
            "`{}` does not record what its packages require: builds check it",
            tree.policy.base.lock
        ));
        terminal::step("", "  record it: `cargo xtask lock`");
        return Ok(());
    }
    let unchecked_targets = facts::unchecked_targets(tree, lock)?;
    if !unchecked_targets.is_empty() {
        let what =
            format!("`{}` was written before the policy named {}", tree.policy.base.lock, unchecked_targets.join(", "));
        return Err(Fault::drift(what)
            .cause("wheels were not checked there")
            .hint("check them, and keep the pins: `cargo xtask lock`"));
    }
    let unknown = closure::unrecorded(lock, &facts::environments(tree));
    if unknown.is_empty() {
        return Ok(());
    }
    let fault = Fault::drift(format!("`{}` was edited since `cargo xtask lock` wrote it", tree.policy.base.lock));
    let fault = fault.cause(format!("what it requires is not recorded for: {}", unknown.join(", ")));
    Err(fault.hint("check and record it, and keep the pins that fit: `cargo xtask lock`"))
}
