//! The flags of a build, checked once against each other and against the policy. Later code sees only valid requests.

use super::engine::{self, BuildEngine};
use crate::flags::{BuildFlags, Global, Output};
use crate::steps::in_ci;
use xtask_host::docker::Docker;
use xtask_host::tree::facts::Tree;
use xtask_model::fault::Fault;
use xtask_model::image::plan::{Target, Wanted};
use xtask_model::image::policy::{ImageKind, Policy, SharedTags};
use xtask_model::spec::reference::{Platform, Repository};

/// A valid request.
#[derive(Clone, Debug)]
pub struct Request {
    pub wanted: Wanted,
    /// No registry is asked.
    pub offline: bool,
    /// Nothing is used that is not pinned.
    pub locked: bool,
    pub dry_run: bool,
    /// Nothing is built.
    pub reuse_only: bool,
    pub output: Option<Output>,
    /// Docker's builder.
    pub builder: Option<String>,
    /// Nothing that an earlier build left on this machine is used.
    pub(super) from_nothing: bool,
    /// Images go into folders of the tree alone: no engine gets them under a name.
    pub(super) contained: bool,
    pub(super) engine: BuildEngine,
}

/// True if this call moves no tag of a repository that other people rely on: it is a person's, and the policy leaves them to CI.
pub fn leaves_to_ci(policy: &Policy, repository: &Repository) -> bool {
    policy.project.shared_tags == SharedTags::Ci && !in_ci() && !repository.is_loopback()
}

impl Request {
    /// # Errors
    /// Flags that contradict each other, or that this tree or machine cannot satisfy.
    pub fn new(global: &Global, flags: &BuildFlags, target: Target, tree: &Tree) -> Result<Self, Fault> {
        let push = flags.publishes();
        if push {
            global.check_online("--push")?;
        }
        engine::check(flags, target)?;
        if let (Some(builder), false) = (&flags.builder, push) {
            return Err(Fault::usage(format!("`--builder {builder}` cannot load images into the local Docker"))
                .hint("add `--push`: the image then goes from the builder to the registry"));
        }
        if push && flags.output == Some(Output::Docker) {
            return Err(Fault::usage("`--push` cannot be used with `--output docker`")
                .cause("one publishes the image, the other keeps it on this machine")
                .hint("use one of them: `docker pull` brings a published image to this machine"));
        }
        if flags.output == Some(Output::Docker) && !Docker::is_available(&tree.root) {
            return Err(Fault::missing("no Docker engine responds, and there is no podman")
                .needed_by("`--output docker`")
                .hint("start Docker, or keep the image in a folder: `--output oci:DIR`"));
        }
        let known = &tree.policy.project.platforms;
        let platforms = match (flags.platform.as_slice(), push) {
            ([], true) => known.clone(),
            ([], false) => vec![Platform::host()],
            (named, _) => named.to_vec(),
        };
        if let Some(foreign) = platforms.iter().find(|platform| !known.contains(platform)) {
            return Err(Fault::usage(format!("`{foreign}` is not among the policy's platforms"))
                .hint("add it to `[project] platforms` in `images.toml`"));
        }
        if !push && platforms.len() > 1 {
            return Err(Fault::usage("the local store holds one platform of an image")
                .hint("name one with `--platform`, or publish them together with `--push`"));
        }
        let BuildFlags { force, no_latest, no_branch_tag, untested, dry_run, reuse_only, .. } = *flags;
        let left_to_ci = leaves_to_ci(&tree.policy, &tree.repository(ImageKind::App));
        Ok(Self {
            wanted: Wanted { target, push, platforms, force, no_latest, no_branch_tag, untested, left_to_ci },
            offline: global.offline,
            locked: global.locked,
            dry_run,
            reuse_only,
            output: flags.output.clone(),
            builder: flags.builder.clone(),
            from_nothing: false,
            contained: false,
            engine: engine::choose(tree, flags, target)?,
        })
    }

    /// The request of `build --push`, to be planned and not executed.
    pub fn question(global: &Global, tree: &Tree, target: Target) -> Self {
        let platforms = tree.policy.project.platforms.clone();
        Self {
            wanted: Wanted {
                target,
                push: !global.offline,
                platforms,
                force: false,
                no_latest: true,
                no_branch_tag: true,
                untested: true,
                left_to_ci: false,
            },
            offline: global.offline,
            locked: global.locked,
            dry_run: true,
            reuse_only: false,
            output: None,
            builder: None,
            from_nothing: false,
            contained: false,
            engine: BuildEngine::Native,
        }
    }

    /// The request to build an image for a platform again, from nothing, into a folder of the tree.
    pub(super) fn from_nothing(target: Target, platform: &Platform, engine: BuildEngine) -> Self {
        Self {
            wanted: Wanted {
                target,
                push: false,
                platforms: vec![platform.clone()],
                force: true,
                no_latest: true,
                no_branch_tag: true,
                untested: true,
                left_to_ci: true,
            },
            offline: false,
            locked: false,
            dry_run: false,
            reuse_only: false,
            output: None,
            builder: None,
            from_nothing: true,
            contained: true,
            engine,
        }
    }

    /// A root from Debian packages is built again: `--force` of a base is for the newest packages.
    pub(super) fn refreshes_root(&self) -> bool {
        self.wanted.force && !self.dry_run && matches!(self.wanted.target, Target::Base | Target::App)
    }
}
