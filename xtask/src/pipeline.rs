//! Builds images: a valid request, then facts, then the plan, then its execution.
//!
//! `facts` gathers everything first and has `xtask_model::image::plan` decide. `order` turns an image of the plan into an order that
//! names no engine; `docker` and `native` translate it. Tags are written last, by `tagging`.

mod buildable;
mod checks;
mod claims;
mod contained;
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
mod root_registry;
mod sources;
mod tagging;

pub use claims::survey as compare_with_commit;
pub use contained::{Contained, build as build_contained};
pub use dependencies::{repository as dependencies_repository, to_pull};
pub use facts::{TreePlan, base_fingerprint, key_file, pinned_base, plan_tree};
pub use layouts::{KEPT, layouts as local_layouts, lock as lock_images, remove_layout};
pub use rebuild::{Again, PublishedKey, Rebuilt, from_nothing};
pub use request::{Request, leaves_to_ci};
pub use root::{debian_recipe, local_root, repository as root_repository, resolve_root};
pub use root_registry::single_try_client;
pub use sources::{Sources, Unreadable, one_line};
pub use xtask_model::image::plan::Target;

use crate::flags::{BuildFlags, Global};
use crate::{leftovers, steps};
use checks::Checks;
use execution::Compilation;
use order::Image;
use record::Trace;
use root::DebianImage;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::Scope;
use std::time::Instant;
use xtask_host::docker::Docker;
use xtask_host::docker::engine as private;
use xtask_host::linux;
use xtask_host::registry::Client;
use xtask_host::tree::committed::Committed;
use xtask_host::tree::facts::wheels::{self, ByDocker};
use xtask_host::tree::facts::{RootImage, Tree};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::plan::{Decision, Plan};
use xtask_model::image::policy::{ImageKind, Registry};
use xtask_model::record::report::{self, ImageReport, Report};
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository};
use xtask_native::push::published::EarlierImage;

/// A request for one tree, with the connections that serve it.
struct Context<'t> {
    tree: &'t Tree,
    request: Request,
    client: &'t Client,
    docker: OnceCell<Docker>,
    /// Method by which docker installs packages without a wheel, once it was decided.
    by_docker: OnceCell<ByDocker>,
    /// The commit as a tree to compare with, once something was.
    committed: OnceCell<Committed>,
    /// Checks that published images are whole.
    checks: Checks,
    /// Compiled dependencies that came or went while the last image was built.
    dependencies: RefCell<Option<report::DependencyTransfer>>,
    /// Published bases of this repository, whose layers can be mounted.
    bases: RefCell<Vec<PublishedBase>>,
}

/// A published base: its repository, and each platform's image.
type PublishedBase = (Repository, BTreeMap<Platform, EarlierImage>);

impl<'t> Context<'t> {
    fn new(tree: &'t Tree, request: Request, client: &'t Client) -> Self {
        Self {
            tree,
            request,
            client,
            docker: OnceCell::new(),
            by_docker: OnceCell::new(),
            committed: OnceCell::new(),
            checks: Checks::default(),
            dependencies: RefCell::default(),
            bases: RefCell::default(),
        }
    }

    fn committed(&self, id: &str) -> Result<&Committed, Fault> {
        if let Some(committed) = self.committed.get() {
            return Ok(committed);
        }
        let committed = Committed::open(self.tree, id, self.request.offline)?;
        Ok(self.committed.get_or_init(|| committed))
    }

    fn by_docker(&self) -> Result<&ByDocker, Fault> {
        if let Some(known) = self.by_docker.get() {
            return Ok(known);
        }
        let found = wheels::by_docker(self.tree)?;
        Ok(self.by_docker.get_or_init(|| found))
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

/// Builds, publishes if asked to, and reports: every app that is meant, or every base where bases are built. With `--dry-run` prints the
/// plan instead, and returns no images.
pub fn run(global: &Global, flags: &BuildFlags, target: Target) -> Result<Report, Fault> {
    let began = Instant::now();
    let trees = match target {
        Target::Base => without_pinned(global.trees_of_bases()?)?,
        Target::Enhanced if global.app.is_empty() => with_enhanced(global.trees()?),
        Target::App | Target::Fast | Target::Enhanced => global.trees()?,
    };
    let first = &trees[0];
    let client = first.client();
    let context = |tree| Ok(Context::new(tree, Request::new(global, flags, target, tree)?, &client));
    let contexts = trees.iter().map(context).collect::<Result<Vec<Context<'_>>, Fault>>()?;
    if !flags.dry_run {
        leftovers::sweep(first);
    }
    // Held while images of this machine are read and built.
    let lock = if flags.publishes() || flags.dry_run { None } else { Some(layouts::lock(&first.images())?) };
    let images = build(&contexts)?;
    drop(lock);
    Ok(Report {
        images,
        seconds: began.elapsed().as_secs_f64(),
        peak_memory: linux::peak_memory(),
        disk_written: linux::disk_written(),
    })
}

/// Leaves out bases that are pinned: another one would not be used. If all are, the first is refused for it.
fn without_pinned(mut trees: Vec<Tree>) -> Result<Vec<Tree>, Fault> {
    if trees.len() == 1 {
        return Ok(trees);
    }
    let mut pinned = Vec::new();
    for tree in &trees {
        pinned.push(xtask_host::tree::facts::images_lock(tree)?.pinned(tree.policy.base.name.as_deref()).is_some());
    }
    if pinned.contains(&false) {
        for (tree, _) in trees.iter().zip(&pinned).filter(|(_, pinned)| **pinned) {
            let what = format!("{}: `images.lock` pins it", tree.policy.shown(ImageKind::Base));
            xtask_host::terminal::step("left out", &what);
        }
        let mut pinned = pinned.into_iter();
        trees.retain(|_| pinned.next() == Some(false));
    }
    Ok(trees)
}

/// Leaves out apps without a Dockerfile that builds from scratch. If none has one, the first is refused for it.
fn with_enhanced(mut trees: Vec<Tree>) -> Vec<Tree> {
    let has_one = |tree: &Tree| tree.policy.app.enhanced.is_some();
    if trees.iter().any(has_one) {
        for tree in trees.iter().filter(|tree| !has_one(tree)) {
            let what = format!("{}: it has no `enhanced` in `images.toml`", tree.policy.shown(ImageKind::App));
            xtask_host::terminal::step("left out", &what);
        }
        trees.retain(has_one);
    }
    trees
}

/// Builds, while the registry is asked for the parts that the last command needed: the next one mostly needs the same.
fn build(contexts: &[Context<'_>]) -> Result<Vec<ImageReport>, Fault> {
    let first = &contexts[0];
    if !first.request.wanted.push {
        return plan_and_execute(contexts);
    }
    let expected = expected::Expected::of(contexts.iter().map(|context| context.tree));
    std::thread::scope(|scope| {
        let (expected, client) = (&expected, first.client);
        scope.spawn(move || expected.ask(client));
        let done = plan_and_execute(contexts);
        if !first.request.dry_run {
            expected.remember(client);
        }
        done
    })
}

/// Planned work for one tree's request.
struct Work<'c, 't> {
    context: &'c Context<'t>,
    sources: Sources<'t>,
    planned: facts::Planned,
    trace: Trace,
}

/// Plans every app before anything is built: what one of them is refused for costs no build of another.
fn plan_and_execute(contexts: &[Context<'_>]) -> Result<Vec<ImageReport>, Fault> {
    let mut work = contexts.iter().map(Work::plan).collect::<Result<Vec<_>, Fault>>()?;
    std::thread::scope(|scope| {
        let mut compilation = build_roots(scope, &mut work)?;
        let known: Vec<PublishedBase> = work.iter().filter_map(|work| work.planned.published_base()).collect();
        let mut bases = execution::Bases::default();
        let mut reports = Vec::new();
        let mut exports = Vec::new();
        for work in &work {
            let Work { context, trace, .. } = work;
            trace.resume();
            let built = bases.values().map(order::BaseImage::known);
            context.bases.replace(known.iter().cloned().chain(built).collect());
            let mut done = execution::execute(work, &mut bases, &mut compilation);
            if done.is_ok() && context.request.reuse_only && !context.request.dry_run {
                done = dependencies::name_tested(context).and(done);
            }
            if !context.request.dry_run {
                trace.append(context, done.as_ref().err());
            }
            let done = done?;
            exports.extend(done.last().cloned().map(|image| (*context, image)));
            reports.extend(done);
        }
        export::export(&exports)?;
        Ok(reports)
    })
}

/// Builds and publishes the roots that plans need first, each once, and plans again on them: only then keys are known. The program
/// needs no root: its compilation, which is returned, runs meanwhile.
fn build_roots<'scope, 't: 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: &mut [Work<'_, 't>],
) -> Result<Option<Compilation<'scope>>, Fault> {
    let due = |work: &Work<'_, 't>| DebianImage::due(work.context.tree, &work.context.request, &work.planned);
    let compile = |work: &Work<'_, 't>| due(work).and_then(|_| Compilation::start(scope, work.context, &work.images()));
    let compilation = work.iter().find_map(compile);
    let mut roots: BTreeMap<Reference, RootImage> = BTreeMap::new();
    for work in work.iter_mut() {
        let Some(wanted) = due(work) else { continue };
        work.trace.resume();
        let root = match roots.get(&wanted.reference()) {
            Some(root) => Ok(root.clone()),
            None => work.trace.root(|| wanted.build(work.context)),
        };
        let planned = root.and_then(|root| {
            let planned = facts::plan_build_on(work.context, &work.sources, &root)?;
            roots.insert(wanted.reference(), root);
            Ok(planned)
        });
        work.trace.pause();
        work.planned = work.trace.recorded(work.context, planned)?;
    }
    Ok(compilation.filter(|compilation| work.iter().any(|work| compilation.is_for(&work.images()))))
}

impl<'c, 't> Work<'c, 't> {
    fn plan(context: &'c Context<'t>) -> Result<Self, Fault> {
        let trace = Trace::begin();
        let planned = planned_by(context);
        trace.pause();
        let (sources, planned) = trace.recorded(context, planned)?;
        Ok(Self { context, sources, planned, trace })
    }

    fn images(&self) -> Vec<Image<'_>> {
        self.planned.images(&self.sources).collect()
    }
}

fn planned_by<'t>(context: &Context<'t>) -> Result<(Sources<'t>, facts::Planned), Fault> {
    let sources = Sources::read(context.tree, context.request.wanted.target)?;
    let planned = facts::plan_build(context, &sources)?;
    if context.request.reuse_only {
        planned.plan.check_reuse()?;
    }
    // Nothing is built for an image that the engine cannot build.
    let builds = planned.plan.images().filter(|image| image.builds());
    let kinds: Vec<ImageKind> = builds.map(|image| image.kind).collect();
    kinds.iter().try_for_each(|kind| buildable::check(context, *kind))?;
    if !context.request.dry_run && !kinds.is_empty() {
        steps::prepare(context.tree, &kinds)?;
    }
    Ok((sources, planned))
}

/// The plan of a build, which is not executed.
pub fn planned(global: &Global, flags: &BuildFlags, target: Target) -> Result<Plan, Fault> {
    let flags = BuildFlags { dry_run: true, ..flags.clone() };
    let tree = global.tree()?;
    let client = tree.client();
    let context = Context::new(&tree, Request::new(global, &flags, target, &tree)?, &client);
    Ok(facts::plan_build(&context, &Sources::read(&tree, target)?)?.plan)
}

/// The app of this tree, where it was built already: on this machine, in a private registry that runs here, or in the registry.
/// Builds nothing.
///
/// Returned with the digest of its manifest for this machine.
///
/// # Errors
/// It was not built, or its name cannot be known.
pub fn this_app(global: &Global) -> Result<(Reference, Digest), Fault> {
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
            Decision::Reuse { digest, platforms, .. } => {
                let manifest = platforms.get(&Platform::host()).copied().unwrap_or(digest);
                return Ok((app.repository.digest(digest), manifest));
            }
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
