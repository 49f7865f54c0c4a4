//! The compilation of the app's program by another thread, while what the app is built on is built.

use super::native;
use crate::pipeline::Context;
use crate::pipeline::dependencies::{CompiledProgram, Program};
use crate::pipeline::engine::BuildEngine;
use crate::pipeline::order::Image;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;
use xtask_host::process;
use xtask_model::fault::Fault;
use xtask_model::image::key::BinaryKey;
use xtask_model::image::plan::Decision;
use xtask_model::image::policy::ImageKind;
use xtask_model::spec::reference::Platform;

/// A running compilation. Dropping it ends it: no fault waits for a program that it makes useless.
pub(in crate::pipeline) struct Compilation<'scope> {
    recipe: BinaryKey,
    platforms: Vec<Platform>,
    thread: Option<ScopedJoinHandle<'scope, Result<CompiledProgram, Fault>>>,
}

impl<'scope> Compilation<'scope> {
    /// Starts the compilation that a plan needs in parallel with the build of a base, if any.
    pub(in crate::pipeline) fn start<'env, 'c: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        context: &Context<'c>,
        images: &[Image<'_>],
    ) -> Option<Self> {
        if context.request.dry_run {
            return None;
        }
        let (app, platforms) = app(images)?;
        let program = Program::of(context, app)?;
        // The native engine asks for the program when it finds no layer of it, unless there is time for it while the base is built.
        let waits = images.iter().all(|image| image.plan.kind == ImageKind::App || !image.plan.builds());
        if context.request.engine == BuildEngine::Native && (waits || native::has_binary(context, app, &program.recipe))
        {
            return None;
        }
        let (recipe, platforms) = (program.recipe.clone(), platforms.to_vec());
        let wanted = platforms.clone();
        let compile = move || {
            let mut done = CompiledProgram::default();
            for platform in &wanted {
                done.add(program.compile(platform)?);
            }
            Ok(done)
        };
        Some(Self { recipe, platforms, thread: Some(scope.spawn(compile)) })
    }

    /// Returns true if it gives the program that these images need.
    pub(in crate::pipeline) fn is_for(&self, images: &[Image<'_>]) -> bool {
        app(images).is_some_and(|(app, platforms)| {
            app.facts.binary.as_ref() == Some(&self.recipe) && platforms == self.platforms
        })
    }

    /// Waits for its end.
    pub(super) fn finish(mut self) -> Result<CompiledProgram, Fault> {
        let thread = self.thread.take().expect("it is taken once");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Compilation<'_> {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // More than once: it may start another program after the first is ended.
        while !thread.is_finished() {
            process::end_children();
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The app that is built, with its platforms.
fn app<'a>(images: &'a [Image<'a>]) -> Option<(&'a Image<'a>, &'a [Platform])> {
    let app = images.iter().find(|image| image.plan.kind == ImageKind::App)?;
    match &app.plan.decision {
        Decision::Build { platforms, .. } => Some((app, platforms)),
        Decision::Reuse { .. } => None,
    }
}
