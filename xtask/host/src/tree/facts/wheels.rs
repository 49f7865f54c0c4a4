//! Packages of the base without a wheel where they are used, and what builds them.

use super::{Tree, compiles, images_lock, targets, unchecked_lock};
use xtask_model::fault::Fault;
use xtask_model::image::policy::Recipe;
use xtask_model::spec::dockerfile::Dockerfile;
use xtask_model::spec::lock::{Lock, LockedPackage, sources};

/// Packages of the lock that have no wheel where they are used, each with the places.
pub fn without_wheel<'l>(tree: &Tree, lock: &'l Lock) -> Result<Vec<(&'l LockedPackage, String)>, Fault> {
    if lock.packages.iter().all(|package| lock.records.without_wheel(package).next().is_none()) {
        return Ok(Vec::new());
    }
    let targets = targets(tree)?;
    let missing = |package: &'l LockedPackage| {
        let here = |place: &&str| targets.iter().any(|target| target.name == **place);
        let places: Vec<&str> = lock.records.without_wheel(package).filter(here).collect();
        (!places.is_empty())
            .then(|| (package, format!("{} has no wheel for {}", sources::shown(package), places.join(", "))))
    };
    Ok(lock.packages.iter().filter_map(missing).collect())
}

/// Those of them that nothing says how to build: `images.lock` does not, and the Dockerfile has no compilers.
pub fn unbuildable(tree: &Tree, lock: &Lock) -> Result<Vec<String>, Fault> {
    let missing = without_wheel(tree, lock)?;
    if missing.is_empty() || compiles(tree)? {
        return Ok(Vec::new());
    }
    let pins = images_lock(tree)?.sources;
    let open = missing.into_iter().filter(|(package, _)| !pins.iter().any(|pin| pin.is_of(package)));
    Ok(open.map(|(_, shown)| shown).collect())
}

/// True if the step of the base's Dockerfile that installs packages takes wheels that were built before.
fn takes_wheels(tree: &Tree) -> Result<bool, Fault> {
    let path = &tree.policy.base.dockerfile;
    let dockerfile = Dockerfile::parse(path.as_str(), &tree.files.text(path.as_ref())?)?;
    Ok(tree.policy.base.stages.values().any(|recipe| *recipe == Recipe::PythonPackages)
        && dockerfile.takes_context(sources::CONTEXT, sources::PLACE))
}

/// Method by which docker installs packages that have no wheel. A package is shown as `name 1.2 has no wheel for …`.
pub enum ByDocker {
    /// There are none.
    Nothing,
    /// It gets wheels that the native engine built as `images.lock` says, and its Dockerfile takes them.
    Wheels {
        /// It can compile them too.
        compiles: bool,
        lock: Lock,
    },
    /// It compiles the packages of these names, with the newest build requirements of the index.
    Compiles(Vec<String>),
    /// It cannot.
    Refused(Fault),
}

/// Decides how docker installs the packages of the lock that have no wheel. Docker has no hash for checkouts of git, and without compilers
/// its Dockerfile takes only wheels.
pub fn by_docker(tree: &Tree) -> Result<ByDocker, Fault> {
    let lock = unchecked_lock(tree)?;
    let missing = without_wheel(tree, &lock)?;
    if missing.is_empty() {
        return Ok(ByDocker::Nothing);
    }
    let checkouts: Vec<&str> = missing.iter().filter_map(|(package, _)| sources::checkout(package)).collect();
    let compiles = checkouts.is_empty() && compiles(tree)?;
    if takes_wheels(tree)? {
        let pins = images_lock(tree)?.sources;
        if missing.iter().all(|(package, _)| pins.iter().any(|pin| pin.is_of(package))) {
            return Ok(ByDocker::Wheels { compiles, lock });
        }
    }
    if compiles {
        return Ok(ByDocker::Compiles(missing.iter().map(|(package, _)| package.name.to_string()).collect()));
    }
    let native = "build with the native engine, which builds their wheels once: `--engine native`";
    if !checkouts.is_empty() {
        let fault = Fault::usage("docker cannot install checkouts of git, which have no hash");
        return Ok(ByDocker::Refused(checkouts.iter().fold(fault, Fault::cause).hint(native)));
    }
    let fault = Fault::usage("packages have no wheel, and the base's Dockerfile does not compile packages");
    let fault = missing.iter().map(|(_, shown)| shown).fold(fault, Fault::cause);
    let fault = fault
        .hint(native)
        .hint("or compile them by docker: `BUILD_PACKAGES = \"gcc libc6-dev python3-dev\"` in `[base.args]`")
        .hint(format!(
            "or let docker take those wheels: an empty stage `FROM scratch AS {name}`, and `--mount=type=bind,from={name},target={}` in the \
             step that installs packages",
            sources::PLACE,
            name = sources::CONTEXT
        ));
    Ok(ByDocker::Refused(fault))
}

/// Packages without a wheel of which nothing says how they are built.
pub fn no_wheel(missing: &[String]) -> Fault {
    let fault = Fault::usage("packages have no wheel, and `images.lock` does not say how they are built");
    missing.iter().fold(fault, Fault::cause).hint("pin their build requirements: `cargo xtask lock`")
}
