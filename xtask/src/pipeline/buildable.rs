//! Decides whether the engine can build an image, from the tree and the host's settings alone: before a root is built for it and
//! before anything is downloaded.

use super::Context;
use super::engine::BuildEngine;
use xtask_host::terminal;
use xtask_host::tree::facts::wheels::ByDocker;
use xtask_host::tree::{facts, secrets};
use xtask_model::fault::Fault;
use xtask_model::image::policy::ImageKind;
use xtask_native::preflight;

/// Refuses an image that the engine cannot build. An image that is reused needs no engine.
///
/// # Errors
/// For the native engine, the first instruction that it does not support; for docker, packages that it cannot build, and a folder of
/// packages that no step of a Dockerfile can read.
pub(super) fn check(context: &Context<'_>, kind: ImageKind) -> Result<(), Fault> {
    match (context.request.engine, kind) {
        (BuildEngine::Native, _) => preflight::check(context.tree, kind, &context.request.wanted.platforms),
        (BuildEngine::Docker, ImageKind::Base | ImageKind::Enhanced) => {
            if kind == ImageKind::Base {
                packages(context)?;
            }
            let wanted = facts::secrets(context.tree, kind)?;
            let checked = secrets::check_folders(&wanted, &|| facts::indexes(context.tree));
            checked.map_err(|fault| match kind {
                ImageKind::Base => fault.hint("or build with the native engine: `--engine native`"),
                ImageKind::App | ImageKind::Enhanced => fault,
            })
        }
        (BuildEngine::Docker, ImageKind::App) => Ok(()),
    }
}

/// Refuses packages without a wheel that docker can neither take nor compile.
fn packages(context: &Context<'_>) -> Result<(), Fault> {
    match context.by_docker()? {
        ByDocker::Nothing | ByDocker::Wheels { .. } => {}
        ByDocker::Compiles(names) => terminal::warn(&format!(
            "docker compiles {} with the newest build requirements of the index; `images.lock` pins those of the native engine",
            names.join(", ")
        )),
        ByDocker::Refused(fault) => return Err(fault.clone()),
    }
    Ok(())
}
