//! The recipes that the policy names for stages of the base's Dockerfile, each with the arguments of its stage.

use super::python::{PythonPackages, Request};
use super::stage::{Foundation, Realise};
use super::user::User;
use crate::dockerfile::{Dockerfile, Kind};
use crate::facts::Tree;
use crate::fault::Fault;
use crate::policy::Recipe;
use crate::reference::Platform;
use std::collections::BTreeMap;
use std::path::Path;

/// The realised stages of a base's Dockerfile, by name. Nothing is made yet, and of the foundation only its configuration is
/// asked.
pub fn stages<'a>(
    tree: &Tree,
    dockerfile: &Dockerfile,
    args: &BTreeMap<String, String>,
    platform: &Platform,
    foundation: &'a dyn Foundation,
    work: &Path,
) -> Result<BTreeMap<String, Box<dyn Realise + 'a>>, Fault> {
    let mut stages: BTreeMap<String, Box<dyn Realise + 'a>> = BTreeMap::new();
    for (name, recipe) in &tree.policy.base.stages {
        let args = arguments(dockerfile, name, args, platform)?;
        let stage: Box<dyn Realise + 'a> = match recipe {
            Recipe::PythonPackages => {
                let request = Request {
                    root: &tree.root,
                    base: &tree.policy.base,
                    platform,
                    python: &tree.policy.root.python,
                    args: &args,
                    work,
                };
                Box::new(PythonPackages::new(&request, foundation)?)
            }
            Recipe::User => Box::new(User::new(&args, foundation)?),
        };
        stages.insert(name.clone(), stage);
    }
    Ok(stages)
}

/// The arguments of a stage with their values.
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
