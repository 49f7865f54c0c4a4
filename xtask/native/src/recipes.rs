//! Recipes that the policy assigns to stages of the base's Dockerfile.

pub mod python;
mod reference;
pub mod source;
pub mod system;
pub mod user;

use crate::files::ImageFiles;
use crate::recipes::python::{PythonPackages, Request};
use crate::recipes::source::Sources;
use crate::recipes::system::SystemPackages;
use crate::recipes::user::UserStage;
use crate::stage::{Realise, RootFiles};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use xtask_host::docker::debian;
use xtask_host::tree::facts::{self, Tree};
use xtask_model::fault::Fault;
use xtask_model::image::policy::{BUILD_PACKAGES, Base, Policy, Recipe};
use xtask_model::spec::dockerfile::{Dockerfile, Kind};
use xtask_model::spec::oci::Config;
use xtask_model::spec::reference::Platform;

/// Inputs of realised stages in addition to the tree.
pub struct Surroundings<'a, 'w> {
    pub root_files: &'a dyn RootFiles,
    /// Working folder, for what does not fit into memory.
    pub work: &'w Path,
    pub sources: Sources<'a>,
}

/// The stage with the recipe `system-packages`, on which the others are built. Makes nothing yet.
pub fn system<'a>(
    tree: &Tree,
    platform: &Platform,
    root: &'a ImageFiles<'a>,
    work: &Path,
) -> Result<Option<(String, SystemPackages<'a>)>, Fault> {
    let mut stages = tree.policy.base.stages.iter();
    let Some((name, _)) = stages.find(|(_, recipe)| **recipe == Recipe::SystemPackages) else { return Ok(None) };
    let pins = facts::images_lock(tree)?;
    let Some(pin) = facts::system_pin(tree, &pins)? else { return Ok(None) };
    let cache = debian::cache(&tree.root.join("target"));
    let packages = facts::system_packages(pin, platform)?;
    Ok(Some((name.clone(), SystemPackages::new(root, (&pin.suite, packages), (&cache, work)))))
}

/// Realised stages of a base's Dockerfile by name, but for the one of [`system()`]. Makes nothing yet, and reads only the root's
/// configuration.
pub fn stages<'a>(
    tree: &Tree,
    dockerfile: &Dockerfile,
    args: &BTreeMap<String, String>,
    platform: &Platform,
    surroundings: Surroundings<'a, '_>,
) -> Result<BTreeMap<String, Box<dyn Realise + 'a>>, Fault> {
    let mut stages: BTreeMap<String, Box<dyn Realise + 'a>> = BTreeMap::new();
    check(dockerfile, args, platform, &tree.policy.base)?;
    let Surroundings { root_files, work, sources } = surroundings;
    no_triggers(dockerfile, root_files.config())?;
    for (name, recipe) in &tree.policy.base.stages {
        let args = arguments(dockerfile, name, args, platform)?;
        let stage: Box<dyn Realise + 'a> = match recipe {
            Recipe::PythonPackages => {
                let request = Request { root: &tree.root, policy: &tree.policy, platform, args: &args, work };
                Box::new(PythonPackages::new(&request, sources.clone(), root_files)?)
            }
            Recipe::SystemPackages => continue,
            Recipe::User => Box::new(UserStage::new(&args, root_files)?),
        };
        stages.insert(name.clone(), stage);
    }
    Ok(stages)
}

/// The wheels of a base's packages that have none on the index: known ones, and built ones.
///
/// # Errors
/// The policy has no stage with the recipe `python-packages`; whatever building a wheel needs or fails with.
pub fn built_wheels(
    tree: &Tree,
    dockerfile: &Dockerfile,
    args: &BTreeMap<String, String>,
    platform: &Platform,
    surroundings: Surroundings<'_, '_>,
) -> Result<BTreeMap<String, (PathBuf, String)>, Fault> {
    let mut stages = tree.policy.base.stages.iter();
    let (stage, _) = stages
        .find(|(_, recipe)| **recipe == Recipe::PythonPackages)
        .ok_or_else(|| Fault::usage("no stage of the base has the recipe `python-packages`"))?;
    let args = arguments(dockerfile, stage, args, platform)?;
    let Surroundings { root_files, work, sources } = surroundings;
    let request = Request { root: &tree.root, policy: &tree.policy, platform, args: &args, work };
    PythonPackages::new(&request, sources, root_files)?.built()
}

/// Rejects a stage whose text differs from what its recipe implements.
pub fn check(
    dockerfile: &Dockerfile,
    args: &BTreeMap<String, String>,
    platform: &Platform,
    base: &Base,
) -> Result<(), Fault> {
    base.stages.iter().try_for_each(|(stage, recipe)| {
        let args = match recipe {
            Recipe::PythonPackages => &without_build_packages(args),
            Recipe::SystemPackages | Recipe::User => args,
        };
        reference::check(dockerfile, stage, *recipe, (args, platform), base)
    })
}

/// The arguments without the packages that the recipe installs in a container, where the Dockerfile has a stage for them.
fn without_build_packages(args: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut args = args.clone();
    args.remove(BUILD_PACKAGES);
    args
}

/// Rejects settings that a recipe of the policy does not support.
pub fn settings(
    dockerfile: &Dockerfile,
    args: &BTreeMap<String, String>,
    platform: &Platform,
    policy: &Policy,
) -> Result<(), Fault> {
    let python = |recipe: &Recipe| *recipe == Recipe::PythonPackages;
    for stage in policy.base.stages.iter().filter(|(_, recipe)| python(recipe)).map(|(stage, _)| stage) {
        arguments(dockerfile, stage, &without_build_packages(args), platform)?;
        python::settings(platform, &policy.root.python)?;
    }
    Ok(())
}

/// Rejects a root with triggers: docker would run them in the stages, and a recipe cannot.
fn no_triggers(dockerfile: &Dockerfile, root: &Config) -> Result<(), Fault> {
    let triggers = root.config.other.get("OnBuild").and_then(|value| value.as_array());
    let Some(first) = triggers.and_then(|triggers| triggers.first()) else { return Ok(()) };
    let what =
        format!("{}: the root image has the trigger `ONBUILD {}`", dockerfile.path(), first.as_str().unwrap_or("…"));
    Err(Fault::usage(what)
        .cause("docker would run it in stages that have recipes; a recipe cannot")
        .hint("build this base with docker: `--engine docker`"))
}

fn arguments(
    dockerfile: &Dockerfile,
    stage: &str,
    given: &BTreeMap<String, String>,
    platform: &Platform,
) -> Result<BTreeMap<String, String>, Fault> {
    let expanded = dockerfile.clone().with_target(stage)?.expand(given, platform)?;
    let found = expanded.stages.iter().find(|known| known.name.as_deref() == Some(stage));
    let instructions = found.into_iter().flat_map(|stage| &stage.instructions);
    let mut args = BTreeMap::new();
    for instruction in instructions {
        if let Kind::Arg(pairs) = &instruction.kind {
            args.extend(pairs.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))));
        }
    }
    Ok(args)
}
