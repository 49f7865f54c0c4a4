//! The same image with plain `docker build`, as a team with one Dockerfile and no build system would do it.
//!
//! Uses the same options as xtask's builds (secrets, compression, no provenance), so that both sides do the same work.

use super::workspace::Workspace;
use std::collections::BTreeMap;
use std::path::Path;
use xtask_host::docker::{self, Build, NamedContext, Output};
use xtask_host::tree::facts;
use xtask_host::tree::secrets::Secrets;
use xtask_host::tree::toolchain::{self, Portable};
use xtask_model::fault::Fault;
use xtask_model::image::key::{BaseKey, RootKey};
use xtask_model::image::policy::{ImageKind, Registry, RelPath};
use xtask_model::spec::reference::{Digest, Platform, Reference};

/// Builds the app from scratch from the current tree, and pushes it. Needs an xtask build before it, for the same root.
pub(super) fn build(workspace: &Workspace) -> Result<docker::Built, Fault> {
    let root = root(&workspace.tree.root)?;
    let secrets = secrets(workspace, &root)?;
    let name = format!("{}:bench", workspace.registry()?.repository("plain"));
    let dockerfile = workspace.tree.dockerfile(ImageKind::Enhanced)?;
    let build = in_one_file(workspace, &root, root.from(workspace)?, dockerfile, (&secrets, name))?;
    workspace.docker()?.build(&build, "the same with plain docker")
}

/// Host settings for a build of everything in one file.
pub(super) fn secrets(workspace: &Workspace, root: &Root) -> Result<Secrets, Fault> {
    let parsed = facts::parse(&workspace.tree, ImageKind::Enhanced, &BTreeMap::new())?;
    Secrets::collect(&parsed.secrets, root.suite())
}

/// Options of a build of everything in one file, from a root with the contexts that it needs.
pub(super) fn in_one_file(
    workspace: &Workspace,
    root: &Root,
    (from, mut contexts): (String, BTreeMap<String, NamedContext>),
    dockerfile: RelPath,
    (secrets, name): (&Secrets, String),
) -> Result<Build, Fault> {
    let policy = &workspace.tree.policy;
    let rust = policy.app.binary.as_ref().and_then(|binary| binary.rust_image.as_ref()).map(ToString::to_string);
    let rust = match rust.filter(|_| root.suite().is_none()) {
        Some(rust) => rust,
        None => {
            if let Some(own) = Portable::find(&workspace.tree.root, &Platform::host()) {
                let folder = own.stage(&workspace.tree.root)?;
                contexts.insert(toolchain::CONTEXT.to_owned(), NamedContext::Folder(folder));
            }
            from.clone()
        }
    };
    let args = BTreeMap::from([("ROOT_IMAGE".to_owned(), from), ("RUST_IMAGE".to_owned(), rust)]);
    Ok(Build { contexts, ..order(workspace, dockerfile, args, secrets, name)? })
}

/// Options of a build of the copy that is pushed.
pub(super) fn order(
    workspace: &Workspace,
    dockerfile: RelPath,
    args: BTreeMap<String, String>,
    secrets: &Secrets,
    name: String,
) -> Result<Build, Fault> {
    Ok(Build {
        context: workspace.tree.root.clone(),
        root: workspace.tree.root.clone(),
        dockerfile,
        target: None,
        platform: Platform::host(),
        args,
        inherited_args: Secrets::proxies(),
        contexts: BTreeMap::new(),
        labels: BTreeMap::new(),
        secrets: secrets.files().clone(),
        names: vec![name],
        outputs: vec![Output::Push],
        compression: workspace.tree.policy.base.compression.docker,
        source_date_epoch: None,
        builder: None,
        host_network: workspace.docker()?.lacks_bridge()?,
        no_cache: false,
        cache: None,
        by_hand: true,
    })
}

pub(super) struct Root {
    key: RootKey,
}

pub(super) fn root(tree: &Path) -> Result<Root, Fault> {
    let path = tree.join("target/images/base.key.json");
    let cannot = |cause: &dyn std::fmt::Display| {
        Fault::build("cannot find the root of the base").cause(cause).needed_by("plain docker build")
    };
    let text = std::fs::read_to_string(&path).map_err(|error| cannot(&error))?;
    let key: BaseKey = serde_json::from_str(&text).map_err(|error| cannot(&error))?;
    Ok(Root { key: key.root })
}

impl Root {
    pub(super) fn suite(&self) -> Option<&str> {
        self.key.image.strip_prefix("debian:")
    }

    fn digest(&self) -> Result<Digest, Fault> {
        self.key.digests.get(&Platform::host()).copied().ok_or_else(|| {
            Fault::usage(format!("the root `{}` has no manifest for {}", self.key.image, Platform::host()))
        })
    }

    /// Reference for `FROM` after a base was pushed to this registry, which then has a Debian root too.
    pub(super) fn published(&self, workspace: &Workspace, registry: &Registry) -> Result<Reference, Fault> {
        let policy = &workspace.tree.policy;
        Ok(match self.suite() {
            Some(_) => registry.repository(&format!("{}-root", policy.project.name)).digest(self.digest()?),
            None => policy.root.image.repository.digest(self.digest()?),
        })
    }

    fn from(&self, workspace: &Workspace) -> Result<(String, BTreeMap<String, NamedContext>), Fault> {
        let digest = self.digest()?;
        if self.suite().is_none() {
            return Ok((workspace.tree.policy.root.image.repository.digest(digest).to_string(), BTreeMap::new()));
        }
        let place = NamedContext::Layout { folder: workspace.tree.root.join("target/images/root"), digest };
        // A bare `root` would also match the Dockerfile's stage of that name.
        let name = workspace.registry()?.repository("root").digest(digest).to_string();
        Ok((name.clone(), BTreeMap::from([(name, place)])))
    }
}
