//! Decides whether the engine can build an image, from the tree and the host's settings alone: before a root is made for it and
//! before anything is downloaded.

use super::Session;
use super::engine::Engine;
use super::planning::Planned;
use xtask_host::tree::facts;
use xtask_host::tree::secrets;
use xtask_model::fault::Fault;
use xtask_model::image::plan::Decision;
use xtask_model::image::policy::ImageKind;
use xtask_native::support;

impl Session<'_> {
    /// Refuses a plan that builds what the engine cannot build. An image that is reused needs no engine.
    pub(super) fn check_planned(&self, planned: &Planned) -> Result<(), Fault> {
        let images = planned.base.iter().chain(&planned.app);
        images
            .filter(|image| matches!(image.plan.decision, Decision::Build { .. }))
            .try_for_each(|image| self.check_buildable(image.plan.kind))
    }

    /// Refuses an image that the engine cannot build.
    ///
    /// # Errors
    /// For the native engine, the first instruction that it does not support; for docker, a folder of packages that no step of a
    /// Dockerfile can read.
    pub(super) fn check_buildable(&self, kind: ImageKind) -> Result<(), Fault> {
        match (self.engine, kind) {
            (Engine::Native, _) => support::refusal(&self.tree, kind, &self.wish.platforms),
            (Engine::Docker, ImageKind::Base | ImageKind::Enhanced) => {
                let wanted = facts::secrets(&self.tree, kind)?;
                let checked = secrets::check_folders(&wanted, &|| facts::indexes(&self.tree));
                checked.map_err(|fault| match kind {
                    ImageKind::Base => fault.hint("or build with the native engine: `--engine native`"),
                    ImageKind::App | ImageKind::Enhanced => fault,
                })
            }
            (Engine::Docker, ImageKind::App) => Ok(()),
        }
    }
}
