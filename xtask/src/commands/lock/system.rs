//! Pins the Debian packages on the root, for each platform: resolved against the root's own database.

use super::save;
use crate::flags::Global;
use crate::pipeline;
use std::collections::BTreeMap;
use xtask_host::docker::debian::{self, AptRoot, OwnSources, packages};
use xtask_host::registry::layout::Layout;
use xtask_host::terminal;
use xtask_host::tree::facts::{self, Tree};
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::image::key::FALLBACK;
use xtask_model::image::policy::Engine;
use xtask_model::image::rebase::root::release;
use xtask_model::spec::debian::architecture;
use xtask_model::spec::lock::ImagesLock;
use xtask_model::spec::lock::images::{SystemPackages, SystemPin, installed};
use xtask_model::spec::reference::Platform;
use xtask_native::files::ImageFiles;
use xtask_native::image::{Image, Place};
use xtask_native::recipes;
use xtask_native::root;
use xtask_native::stage::Realise as _;

/// Resolves and writes the pins of these bases; takes away those that no base of the policy names. `reached` says whether the root's
/// registry is reachable: without it the packages are for the root that is built in its place.
pub(super) fn pin(trees: &[&Tree], global: &Global, reached: bool) -> Result<(), Fault> {
    let Some(first) = trees.first() else { return Ok(()) };
    let before = facts::images_lock(first)?;
    let all = (Global { app: Vec::new(), ..global.clone() }).trees_of_bases()?;
    let named: Vec<Vec<String>> = all.iter().filter_map(|tree| tree.policy.base.system_packages()).collect();
    let mut system: Vec<SystemPin> =
        before.system.iter().filter(|pin| named.contains(&pin.packages)).cloned().collect();
    for tree in trees {
        let Some(names) = tree.policy.base.system_packages() else { continue };
        if global.offline {
            facts::system_pin(tree, &before)?;
            continue;
        }
        let pin = resolved(tree, &before, names, reached)?;
        if let Some(old) = before.system.iter().find(|old| old.packages == pin.packages) {
            changes(old, &pin);
        }
        system.retain(|known| known.packages != pin.packages);
        system.push(pin);
    }
    system.sort_by(|one, other| one.packages.cmp(&other.packages));
    let lock = ImagesLock { system, ..before.clone() };
    save(&first.root, &before, &lock)
}

fn resolved(tree: &Tree, before: &ImagesLock, names: Vec<String>, reached: bool) -> Result<SystemPin, Fault> {
    terminal::step("resolving", &format!("the Debian packages `{}`", names.join(" ")));
    let roots = if reached { registry_roots(tree, before)? } else { vec![fallback(tree)?] };
    let (mut platforms, mut suites) = (BTreeMap::new(), Vec::new());
    for (platform, image) in roots {
        let (suite, packages) = resolve(tree, &platform, &image, &names)?;
        let added = packages.packages.iter().map(|pin| pin.name.as_str()).collect::<Vec<_>>().join(", ");
        terminal::detail(&format!("{platform}: {} packages: {added}", packages.packages.len()));
        platforms.insert(platform, packages);
        suites.push(suite);
    }
    suites.dedup();
    let [suite] = suites.as_slice() else {
        return Err(Fault::usage("the root has several releases of Debian").cause(suites.join(", ")));
    };
    let root = if reached { tree.policy.root.image.to_string() } else { format!("{FALLBACK}{suite}") };
    Ok(SystemPin { root, suite: suite.clone(), packages: names, platforms })
}

/// Says which versions changed.
fn changes(old: &SystemPin, new: &SystemPin) {
    for (platform, packages) in &new.platforms {
        let Some(before) = old.platforms.get(platform) else { continue };
        for pin in &packages.packages {
            let known = before.packages.iter().find(|known| known.name == pin.name);
            if let Some(known) = known.filter(|known| known.version != pin.version) {
                terminal::step("changed", &format!("{} {} -> {} ({platform})", pin.name, known.version, pin.version));
            }
        }
    }
}

fn registry_roots(tree: &Tree, lock: &ImagesLock) -> Result<Vec<(Platform, Image)>, Fault> {
    let client = tree.client();
    let Some(pin) = &lock.root else { return Ok(Vec::new()) };
    let open = |platform: &Platform| {
        let digest = pin
            .platforms
            .get(platform)
            .copied()
            .ok_or_else(|| Fault::usage(format!("the root `{}` is not pinned for {platform}", pin.image)))?;
        let place = Place::Registry(pin.image.repository.clone());
        Ok((platform.clone(), Image::open(&client, place, digest, platform)?))
    };
    tree.policy.project.platforms.iter().map(open).collect()
}

/// The root from Debian packages, built if it is not on this machine yet.
fn fallback(tree: &Tree) -> Result<(Platform, Image), Fault> {
    let Some(debian) = &tree.policy.root.fallback else {
        return Err(Fault::network(format!("the root `{}` is unreachable", tree.policy.root.image)));
    };
    let (recipe, platform) = (pipeline::debian_recipe(debian), Platform::host());
    let layout = Layout::open_or_create(&tree.images().join("root"))?;
    let found = match root::find(&recipe, &layout, &platform)? {
        Some(found) => found,
        None => root::build(&recipe, &tree.root.join("target"), &layout, &platform)?,
    };
    let image = Image::open(&tree.client(), Place::Layout(layout), found.digest, &platform)?;
    Ok((platform, image))
}

fn resolve(
    tree: &Tree,
    platform: &Platform,
    image: &Image,
    names: &[String],
) -> Result<(String, SystemPackages), Fault> {
    let (client, store) = (tree.client(), crate::store::open(&tree.root)?);
    let files = ImageFiles::new(&client, &store, image, &image.digest.to_string(), &tree.root);
    let wanted = ["var/lib/dpkg/status", "etc/os-release", "usr/lib/os-release"];
    let read = files.files(&|path| {
        let path = path.to_string();
        wanted.contains(&path.as_str()) || OwnSources::has(&path)
    })?;
    let mut own = OwnSources::default();
    for (path, bytes) in read.iter().map(|(path, bytes)| (path.to_string(), bytes)) {
        if OwnSources::has(&path) {
            own.read(&path, bytes);
        }
    }
    let text = |path: &str| read.get(&ContextPath::new(path)).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let needs = || format!("the Debian packages in `[base.args]`, for {platform}");
    let Some(status) = text(wanted[0]) else {
        return Err(Fault::usage("the root has no packages of Debian: `/var/lib/dpkg/status` is missing")
            .needed_by(needs())
            .hint("use a root image of Debian: `[root] image` in `images.toml`"));
    };
    // The first is mostly a link to the second.
    let release = release(&text(wanted[1]).or_else(|| text(wanted[2])).unwrap_or_default());
    let (id, suite) = (release.get("ID").map(String::as_str), release.get("VERSION_CODENAME"));
    let (Some("debian"), Some(suite)) = (id, suite) else {
        let name = release.get("PRETTY_NAME").map_or("an unknown system", String::as_str);
        return Err(Fault::usage(format!("the root is `{name}`, not a release of Debian"))
            .needed_by(needs())
            .hint("without the recipe `system-packages` in `[base.stages]` docker installs its packages"));
    };
    let Some(architecture) = architecture(platform) else {
        return Err(Fault::usage(format!("Debian has no release for {platform}")).needed_by(needs()));
    };
    let root = AptRoot { suite, architecture, status: &status, own: &own };
    let cache = debian::cache(&tree.root.join("target"));
    let packages = packages::resolve(&cache, &root, names).map_err(|fault| fault.needed_by(needs()))?;
    let packages = SystemPackages { installed: installed(&status), packages };
    // A build would say so as well, after all wheels are downloaded.
    if [tree.policy.project.engine, tree.policy.ci.engine].contains(&Engine::Native) {
        let work = tree.root.join("target/native/work");
        let recipe = recipes::system::SystemPackages::new(&files, (suite, &packages), (&cache, &work));
        if let Err(fault) = recipe.produce(&(0..recipe.parts().len()).collect::<Vec<_>>()) {
            terminal::warn(&format!("{}: {}", fault.what, fault.causes.join("; ")));
        }
    }
    Ok((suite.clone(), packages))
}
