//! The engine of a build: the one that was asked for, else the one that is available.

use super::Context;
use crate::flags::BuildFlags;
use xtask_host::docker::{self, Docker};
use xtask_host::tree::facts::Tree;
use xtask_model::fault::Fault;
use xtask_model::image::plan::Target;
use xtask_model::image::policy;
use xtask_native::container::Runner;

/// A builder of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BuildEngine {
    /// The docker and buildx command lines.
    Docker,
    /// No daemon.
    Native,
}

/// Reason why only docker can do what the flags ask for.
fn only_docker(flags: &BuildFlags, target: Target) -> Option<String> {
    match (&flags.builder, target) {
        (Some(builder), _) => Some(format!("`{builder}` is a builder of docker")),
        (None, Target::Enhanced) => Some("an image from scratch runs programs while it is built".to_owned()),
        (None, Target::Base | Target::App | Target::Fast) => None,
    }
}

/// Refuses `--engine native` for what only docker can do.
pub(super) fn check(flags: &BuildFlags, target: Target) -> Result<(), Fault> {
    match (flags.engine, only_docker(flags, target)) {
        (Some(policy::Engine::Native), Some(why)) => Err(Fault::usage("the native engine cannot build this")
            .cause(why)
            .hint("use the docker engine: `--engine docker`")),
        _ => Ok(()),
    }
}

/// Chooses: the command line, then the policy, then docker where it answers. [`check`] came before.
pub(super) fn choose(tree: &Tree, flags: &BuildFlags, target: Target) -> Result<BuildEngine, Fault> {
    let asked = flags.engine.unwrap_or(tree.policy.project.engine);
    match (asked, only_docker(flags, target)) {
        (_, only_docker @ Some(_)) | (policy::Engine::Docker, only_docker @ None) => match Docker::find(&tree.root) {
            Ok(docker) if docker.podman => {
                Err(only_docker.into_iter().fold(docker::podman_cannot_build(), Fault::cause))
            }
            // Whoever needs it says that it is missing.
            Ok(_) | Err(_) => Ok(BuildEngine::Docker),
        },
        (policy::Engine::Native, None) => Ok(BuildEngine::Native),
        (policy::Engine::Auto, None) if Docker::can_build(&tree.root) => Ok(BuildEngine::Docker),
        (policy::Engine::Auto, None) => Ok(BuildEngine::Native),
    }
}

impl Context<'_> {
    /// The docker or podman into whose store local images go; without one they stay in layouts.
    pub(super) fn local_docker(&self) -> Result<Option<&Docker>, Fault> {
        match self.request.engine {
            _ if self.request.contained => Ok(None),
            BuildEngine::Docker => self.docker().map(Some),
            BuildEngine::Native if Docker::is_available(&self.tree.root) => self.docker().map(Some),
            BuildEngine::Native => Ok(None),
        }
    }

    /// Runs images: by the engine that built them, or by what is available.
    pub(super) fn runner(&self) -> Result<Runner, Fault> {
        match (self.request.engine, self.local_docker()?) {
            (BuildEngine::Docker, _) => Ok(Runner::docker(self.docker()?.clone())),
            (BuildEngine::Native, Some(_)) => Runner::available(self.tree),
            (BuildEngine::Native, None) => Runner::bare(self.tree),
        }
    }
}
