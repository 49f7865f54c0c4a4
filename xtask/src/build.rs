//! Builds images: facts, then the plan (`planning`), then its execution (`execution`), step by step as the plan says.
//!
//! `inquiry` and `foundation` decide what is built on which root, `call` writes docker's arguments. Tags are written last, and only by `publish`.

mod call;
mod checks;
mod claims;
mod engine;
mod execution;
mod export;
mod foundation;
mod inquiry;
mod layouts;
mod native;
mod planning;
mod record;
mod tagging;

pub use checks::Checks;
pub use claims::survey as compare_with_commit;
pub use foundation::{debian_recipe, impatient, resolve_root, root_client};
pub use inquiry::{Inquiry, pinned_base};
pub use layouts::lock as lock_images;
pub use planning::base_fingerprint;

use crate::flags::{BuildFlags, Global, Output};
use crate::leftovers;
use engine::Engine;
use record::{Seen, Trace};
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;
use xtask_host::docker::Docker;
use xtask_host::docker::engine as private;
use xtask_host::registry::Client;
use xtask_host::tree::facts::Tree;
use xtask_host::tree::git::remote::RemoteHead;
use xtask_host::{clock, linux};
use xtask_model::fault::Fault;
use xtask_model::image::plan::{Decision, Difference, Wish};
use xtask_model::image::policy::{ImageKind, Registry, SharedTags};
use xtask_model::record::report::{ImageReport, Report};
use xtask_model::spec::reference::{Platform, Reference};
use xtask_model::time::Timestamp;

/// What is to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The base.
    Base,
    /// The base where it has to be, then the app.
    App,
    /// The app on a base that has to exist.
    Fast,
    /// The app from scratch.
    Enhanced,
}

/// Builds, publishes if asked to, and reports. With `dry_run` says what would be done instead, and returns no images.
pub fn run(global: &Global, flags: &BuildFlags, target: Target) -> Result<Report, Fault> {
    let push = flags.push || flags.output == Some(Output::Registry);
    let flags = &BuildFlags { push, ..flags.clone() };
    let session = Session::open(global, flags, target)?;
    let done = session.plan_and_execute(target);
    if !flags.dry_run {
        session.append_record(done.as_ref().err());
    }
    let images = done?;
    if let Some(image) = images.last() {
        session.export(image)?;
    }
    let seconds = session.began.elapsed().as_secs_f64();
    Ok(Report { images, seconds, peak_memory: linux::peak_memory() })
}

/// The app of this tree, as it is now, where it was built already: on this machine, in a private registry that runs here, else in the
/// registry. Builds nothing.
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
    let mut missing = None;
    for (global, push) in places {
        let platform = vec![Platform::host()];
        let flags = BuildFlags { push, platform, dry_run: true, no_latest: true, ..BuildFlags::default() };
        let Some(app) = Session::open(&global, &flags, Target::App)?.plan(Target::App)?.app else { continue };
        match app.plan.decision {
            Decision::Reuse { digest, .. } => return Ok(app.plan.repository.digest(digest)),
            Decision::Build { reasons, .. } => missing = Some((app.plan.repository.tag(&app.plan.tag), reasons)),
        }
    }
    let (reference, reasons) = missing.expect("a plan for an app has one");
    let fault = Fault::usage(format!("the app of this tree, `{reference}`, has not been built"));
    Err(reasons.into_iter().fold(fault, Fault::cause).hint("build it: `cargo xtask build`"))
}

/// Registries that `engine up` and `quickstart` started for this repository, and that run.
fn private_registries(root: &Path) -> Vec<Registry> {
    let running = |name| match private::status(root, name) {
        Ok(private::Status::Running(state)) => state.registry.parse().ok(),
        _ => None,
    };
    [None, Some(private::REGISTRY_ALONE)].into_iter().filter_map(running).collect()
}

/// One command's view of the world: what was asked for, the tree, and whom to ask.
struct Session<'a> {
    tree: Tree,
    global: &'a Global,
    flags: &'a BuildFlags,
    wish: Wish,
    /// A root from Debian's packages is made anew: the newest packages are what `--force` of a base is for.
    fresh_root: bool,
    client: Client,
    engine: Engine,
    docker: OnceCell<Docker>,
    /// Whether published images are whole.
    checks: Checks,
    began: Instant,
    /// The same moment on the calendar.
    when: Timestamp,
    trace: RefCell<Trace>,
    /// Each image's inputs that are not the commit's.
    differences: RefCell<BTreeMap<ImageKind, Vec<Difference>>>,
    /// Held while images of this machine are looked at and built.
    _lock: Option<File>,
    /// Written beside the build, by another thread.
    seen: Mutex<Seen>,
    /// At which commit the branch is, once a remote was asked.
    remote: OnceCell<RemoteHead>,
}

impl<'a> Session<'a> {
    fn open(global: &'a Global, flags: &'a BuildFlags, target: Target) -> Result<Self, Fault> {
        let (began, when) = (Instant::now(), clock::now());
        if flags.push && global.offline {
            return Err(Fault::usage("`--push` publishes to a registry, and `--offline` asks none"));
        }
        if let (Some(builder), false) = (&flags.builder, flags.push) {
            return Err(Fault::usage(format!("what `{builder}` builds does not come to this machine's Docker"))
                .hint("add `--push`: the image then goes from the builder to the registry"));
        }
        if flags.push && flags.output == Some(Output::Docker) {
            return Err(Fault::usage("`--push` publishes to a registry, and `--output docker` keeps the image here"));
        }
        let tree = global.tree()?;
        if flags.output == Some(Output::Docker) && !Docker::at_hand(&tree.root) {
            return Err(Fault::missing("no Docker engine answers")
                .needed_by("`--output docker`")
                .hint("start Docker, or keep the image in a folder: `--output oci:DIR`"));
        }
        if !flags.dry_run {
            leftovers::sweep(&tree);
        }
        let platforms = match (flags.platform.as_slice(), flags.push) {
            ([], true) => tree.policy.project.platforms.clone(),
            ([], false) => vec![Platform::host()],
            (named, _) => named.to_vec(),
        };
        if let Some(foreign) = platforms.iter().find(|platform| !tree.policy.project.platforms.contains(platform)) {
            return Err(Fault::usage(format!("`{foreign}` is not among the policy's platforms"))
                .hint("add it to `[project] platforms` in `images.toml`"));
        }
        if !flags.push && platforms.len() > 1 {
            return Err(Fault::usage("the local store holds one platform of an image")
                .hint("name one with `--platform`, or publish them together with `--push`"));
        }
        let engine = engine::choose(&tree, flags, target)?;
        let BuildFlags { push, force, no_latest, no_branch_tag, untested, .. } = *flags;
        let shared = tree.policy.project.shared_tags == SharedTags::Anywhere;
        let left_to_ci = !shared && !record::in_ci() && !tree.repository(ImageKind::App).is_loopback();
        let wish = Wish { push, platforms, force, no_latest, no_branch_tag, untested, left_to_ci };
        let client = tree.client();
        let lock = if flags.push || flags.dry_run { None } else { Some(layouts::lock(&tree.images())?) };
        let fresh_root = flags.force && !flags.dry_run && matches!(target, Target::Base | Target::App);
        Ok(Self {
            tree,
            global,
            flags,
            wish,
            fresh_root,
            client,
            engine,
            docker: OnceCell::new(),
            checks: Checks::default(),
            began,
            when,
            trace: RefCell::default(),
            differences: RefCell::default(),
            _lock: lock,
            seen: Mutex::default(),
            remote: OnceCell::new(),
        })
    }

    fn plan_and_execute(&self, target: Target) -> Result<Vec<ImageReport>, Fault> {
        let planned = self.plan(target)?;
        if self.flags.reuse_only {
            planned.refuse_building()?;
        }
        self.execute(&planned)
    }

    /// Whom this session asks.
    fn inquiry(&self) -> Inquiry<'_> {
        Inquiry {
            tree: &self.tree,
            client: &self.client,
            wish: &self.wish,
            offline: self.global.offline,
            locked: self.global.locked,
            fresh_root: self.fresh_root,
            checks: &self.checks,
        }
    }

    fn docker(&self) -> Result<&Docker, Fault> {
        if let Some(docker) = self.docker.get() {
            return Ok(docker);
        }
        let docker = Docker::find(&self.tree.root)?;
        let docker = match &self.flags.builder {
            Some(name) => docker.reaching(name)?,
            None => docker,
        };
        Ok(self.docker.get_or_init(|| docker))
    }
}
