//! Builds images: a valid request, then facts, then the plan, then its execution.
//!
//! `facts` gathers everything first and has `xtask_model::image::plan` decide. `order` turns an image of the plan into an order that
//! names no engine; `docker` and `native` translate it. Tags are written last, by `tagging`.

mod buildable;
mod checks;
mod claims;
mod dependencies;
mod docker;
mod engine;
mod execution;
mod expected;
mod export;
mod facts;
mod layouts;
mod native;
mod order;
mod rebuild;
mod record;
mod request;
mod root;
mod sources;
mod tagging;

pub use claims::survey as compare_with_commit;
pub use dependencies::{repository as dependencies_repository, to_pull};
pub use facts::{TreePlan, base_fingerprint, key_file, pinned_base, plan_tree};
pub use layouts::{KEPT, layouts as local_layouts, lock as lock_images, remove_layout};
pub use native::store;
pub use rebuild::{Again, PublishedKey, Rebuilt, from_nothing};
pub use request::Request;
pub use root::{debian_recipe, local_root, resolve_root, single_try_client};
pub use sources::{Sources, Unreadable, one_line};
pub use xtask_model::image::plan::Target;

use crate::flags::{BuildFlags, Global};
use crate::{leftovers, steps};
use checks::Checks;
use record::Trace;
use std::cell::{OnceCell, RefCell};
use std::path::{Path, PathBuf};
use xtask_host::docker::Docker;
use xtask_host::docker::engine as private;
use xtask_host::linux;
use xtask_host::registry::Client;
use xtask_host::tree::committed::Committed;
use xtask_host::tree::facts::Tree;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::plan::{Decision, Plan};
use xtask_model::image::policy::{ImageKind, Registry};
use xtask_model::record::report::{self, ImageReport, Report};
use xtask_model::spec::reference::{Platform, Reference};

/// A request for one tree, with the connections that serve it.
struct Context<'t> {
    tree: &'t Tree,
    request: Request,
    client: Client,
    docker: OnceCell<Docker>,
    /// The commit as a tree to compare with, once something was.
    committed: OnceCell<Committed>,
    /// Checks that published images are whole.
    checks: Checks,
    /// Compiled dependencies that came or went while the last image was built.
    dependencies: RefCell<Option<report::Dependencies>>,
}

impl<'t> Context<'t> {
    fn new(tree: &'t Tree, request: Request) -> Self {
        Self {
            tree,
            request,
            client: tree.client(),
            docker: OnceCell::new(),
            committed: OnceCell::new(),
            checks: Checks::default(),
            dependencies: RefCell::default(),
        }
    }

    fn committed(&self, id: &str) -> Result<&Committed, Fault> {
        if let Some(committed) = self.committed.get() {
            return Ok(committed);
        }
        let committed = Committed::open(&self.tree.root, id, self.request.offline)?;
        Ok(self.committed.get_or_init(|| committed))
    }

    /// Folder for what cargo compiles, where it is not the usual one.
    fn compiled(&self) -> Option<PathBuf> {
        self.request.from_nothing.then(|| self.tree.root.join("target/compiled"))
    }

    fn docker(&self) -> Result<&Docker, Fault> {
        if let Some(docker) = self.docker.get() {
            return Ok(docker);
        }
        let docker = Docker::find(&self.tree.root)?;
        let docker = match &self.request.builder {
            Some(name) => docker.with_context(name)?,
            None => docker,
        };
        Ok(self.docker.get_or_init(|| docker))
    }
}

/// Builds, publishes if asked to, and reports. With `--dry-run` prints the plan instead, and returns no images.
pub fn run(global: &Global, flags: &BuildFlags, target: Target) -> Result<Report, Fault> {
    let trace = Trace::begin();
    let tree = global.tree()?;
    let request = Request::new(global, flags, target, &tree)?;
    if !request.dry_run {
        leftovers::sweep(&tree);
    }
    // Held while images of this machine are read and built.
    let lock = if request.wanted.push || request.dry_run { None } else { Some(layouts::lock(&tree.images())?) };
    let context = Context::new(&tree, request);
    let done = build(&context, &trace);
    if !context.request.dry_run {
        trace.append(&context, done.as_ref().err());
    }
    let images = done?;
    if let Some(image) = images.last() {
        export::export(&context, image)?;
    }
    drop(lock);
    Ok(Report {
        images,
        seconds: trace.elapsed().as_secs_f64(),
        peak_memory: linux::peak_memory(),
        disk_written: linux::disk_written(),
    })
}

/// Builds, while the registry is asked for the parts that the last command needed: the next one mostly needs the same.
fn build(context: &Context<'_>, trace: &Trace) -> Result<Vec<ImageReport>, Fault> {
    if !context.request.wanted.push {
        return plan_and_execute(context, trace);
    }
    let expected = expected::Expected::of(context.tree);
    std::thread::scope(|scope| {
        let (expected, client) = (&expected, &context.client);
        scope.spawn(move || expected.ask(client));
        let done = plan_and_execute(context, trace);
        if !context.request.dry_run {
            expected.remember(client);
        }
        done
    })
}

fn plan_and_execute(context: &Context<'_>, trace: &Trace) -> Result<Vec<ImageReport>, Fault> {
    let sources = Sources::read(context.tree, context.request.wanted.target)?;
    let planned = facts::plan_build(context, &sources)?;
    if context.request.reuse_only {
        planned.plan.check_reuse()?;
    }
    let builds = planned.plan.images().filter(|image| image.builds());
    let kinds: Vec<ImageKind> = builds.map(|image| image.kind).collect();
    kinds.iter().try_for_each(|kind| buildable::check(context, *kind))?;
    if !context.request.dry_run && !kinds.is_empty() {
        steps::prepare(context.tree, &kinds)?;
    }
    let done = execution::execute(context, &sources, &planned, trace)?;
    if context.request.reuse_only && !context.request.dry_run {
        dependencies::name_tested(context)?;
    }
    Ok(done)
}

/// The plan of a build, which is not executed.
pub fn planned(global: &Global, flags: &BuildFlags, target: Target) -> Result<Plan, Fault> {
    let flags = BuildFlags { dry_run: true, ..flags.clone() };
    let tree = global.tree()?;
    let context = Context::new(&tree, Request::new(global, &flags, target, &tree)?);
    Ok(facts::plan_build(&context, &Sources::read(&tree, target)?)?.plan)
}

/// The app of this tree, where it was built already: on this machine, in a private registry that runs here, or in the registry.
/// Builds nothing.
///
/// # Errors
/// It was not built, or its name cannot be known.
pub fn this_app(global: &Global) -> Result<Reference, Fault> {
    let mut places = vec![(global.clone(), false)];
    if !global.offline {
        // `quickstart` publishes to the registry that it starts, which the policy does not name.
        let private = if global.registry.is_none() { private_registries(&global.tree()?.root) } else { Vec::new() };
        places.extend(private.into_iter().map(|here| (Global { registry: Some(here), ..global.clone() }, true)));
        places.push((global.clone(), true));
    }
    let mut missing: Option<(String, Vec<String>)> = None;
    for (global, push) in places {
        let platform = vec![Platform::host()];
        let flags = BuildFlags { push, platform, no_latest: true, ..BuildFlags::default() };
        let app = match (planned(&global, &flags, Target::App), &mut missing) {
            (Ok(plan), _) => plan.app.expect("an app is planned"),
            // The app is not on this machine, and that this registry does not answer is one more reason.
            (Err(fault), Some((_, reasons))) if fault.exit == Exit::Network => {
                reasons.push(one_line(&fault));
                continue;
            }
            (Err(fault), _) => return Err(fault),
        };
        let shown = app.shown();
        match app.decision {
            Decision::Reuse { digest, .. } => return Ok(app.repository.digest(digest)),
            Decision::Build { reasons, .. } => missing = Some((shown, reasons)),
        }
    }
    let (reference, reasons) = missing.expect("there is a place to look in");
    let fault = Fault::usage(format!("the app of this tree, `{reference}`, has not been built"));
    Err(reasons.into_iter().fold(fault, Fault::cause).hint("build it: `cargo xtask build`"))
}

/// Registries that `engine up` and `quickstart` started for this repository, and that run.
pub fn private_registries(root: &Path) -> Vec<Registry> {
    let running = |name| match private::status(root, name) {
        Ok(private::Status::Running(state)) => state.registry.parse().ok(),
        _ => None,
    };
    [None, Some(private::REGISTRY_ALONE)].into_iter().filter_map(running).collect()
}
