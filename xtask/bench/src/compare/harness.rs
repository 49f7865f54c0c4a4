//! State of a comparison: the copy and its engine, the registry before a change, and a registry namespace for each
//! build, so that no build finds another's images.

use super::subject::{self, Pulled, Start};
use crate::plain::{self, Root};
use crate::scenarios;
use crate::workspace::Workspace;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use xtask_host::process::Command;
use xtask_host::registry::{Answer, Client, Mount, Name, publish};
use xtask_host::terminal;
use xtask_host::tree::binary;
use xtask_host::tree::facts::Tree;
use xtask_model::fault::Fault;
use xtask_model::image::policy::Registry;
use xtask_model::spec::oci::{Index, Manifest, media_type};
use xtask_model::spec::reference::{Digest, Platform, Repository};

pub(super) type Edit = fn(&mut Harness) -> Result<(), Fault>;

pub(super) const UV: &str = "uv";

/// Registry namespace of the state before the change, for the native engine.
const BEFORE: &str = "before";

pub struct Harness {
    pub workspace: Workspace,
    /// For requests that are not measured.
    pub(super) client: Client,
    pub(super) root: Root,
    /// The state before the change for other builders; made on first use.
    pub(super) before: Option<subject::Before>,
    pub(super) new_program: Option<PathBuf>,
    /// True if the registry has what the row of a compiled program starts from: for the native engine, and for docker.
    pub(super) program_published: bool,
    pub(super) one_file_cached: bool,
    /// File for strace's summary of the next command of the native engine.
    pub(super) trace: Option<PathBuf>,
    pub(super) files: usize,
    /// The lock of a large base, once it was resolved.
    pub(super) large: Option<String>,
    /// Names of apps that a row pulls.
    pub(super) pulled: Vec<(Pulled, String)>,
    namespaces: BTreeSet<String>,
    /// Number of edits so far; each is different.
    pub(super) number: u32,
    /// Edits of this row.
    pub(super) round: u32,
    edit: Edit,
}

pub(super) struct Seeds {
    pub(super) from: Registry,
    pub(super) names: Vec<String>,
}

/// The command with caches of its own.
pub(super) fn cached(workspace: &Workspace, call: Command) -> Command {
    let uv = workspace.private_folder(UV);
    call.env("XTASK_CACHE_DIR", uv.join("xtask")).env("UV_CACHE_DIR", uv)
}

pub(super) fn call(workspace: &Workspace) -> Command {
    cached(workspace, workspace.xtask())
}

/// With an empty cargo target folder too.
pub(super) fn cold_call(workspace: &Workspace) -> Command {
    call(workspace).env("CARGO_TARGET_DIR", workspace.cargo_folder("cold"))
}

impl Harness {
    /// Copies the repository, starts the engine, and publishes the unchanged tree.
    pub fn open(tree: &Tree) -> Result<Self, Fault> {
        let mut workspace = Workspace::open(tree)?;
        workspace.compile()?;
        workspace.engine_up()?;
        terminal::step("readying", "base and app with the native engine");
        let before = prefix(&workspace, BEFORE)?;
        scenarios::push(call(&workspace).args(["build", "--engine", "native"]), &before)?;
        let scratch = workspace.empty_private_folder("scratch")?;
        if let Some(binary) = &workspace.tree.policy.app.binary {
            copy_file(&workspace.tree.root.join(binary::staged(&Platform::host(), binary)), &scratch.join("program"))?;
        }
        Ok(Self {
            client: workspace.tree.client(),
            root: plain::root(&workspace.tree.root)?,
            workspace,
            before: None,
            new_program: None,
            program_published: false,
            one_file_cached: false,
            trace: None,
            files: 0,
            large: None,
            pulled: Vec::new(),
            namespaces: BTreeSet::new(),
            number: 0,
            round: 0,
            edit: |_| Ok(()),
        })
    }

    pub(super) fn begin(&mut self, edit: Edit) -> Result<(), Fault> {
        self.edit = edit;
        self.new_program = None;
        self.files = 0;
        self.round = 0;
        self.workspace.rewind()
    }

    /// Undoes the last edit and makes another of the same kind.
    pub fn edit_again(&mut self) -> Result<(), Fault> {
        self.workspace.reset()?;
        self.number += 1;
        self.round += 1;
        (self.edit)(self)
    }

    pub(super) fn scratch(&self) -> PathBuf {
        self.workspace.private_folder("scratch")
    }

    pub(super) fn program(&self) -> PathBuf {
        self.new_program.clone().unwrap_or_else(|| self.scratch().join("program"))
    }

    pub(super) fn prefix(&self, name: &str) -> Result<Registry, Fault> {
        prefix(&self.workspace, name)
    }

    /// Repository to which the native engine published the unchanged tree.
    pub(super) fn before_native(&self) -> Result<Registry, Fault> {
        self.prefix(BEFORE)
    }

    /// Repository to which a builder pushes: the same namespace for each warm build, else a new one with the seeds.
    pub(super) fn namespace(&mut self, who: &str, start: Start, seeds: &Seeds) -> Result<Registry, Fault> {
        let name = match start {
            Start::Warm => format!("warm-{who}"),
            Start::Cold | Start::Nothing => format!("run-{}-{who}", self.namespaces.len()),
        };
        self.filled(name, seeds)
    }

    pub(super) fn is_filled(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// A registry namespace, filled on first use.
    pub(super) fn filled(&mut self, name: String, seeds: &Seeds) -> Result<Registry, Fault> {
        let namespace = self.prefix(&name)?;
        if self.namespaces.insert(name) {
            for name in &seeds.names {
                copy_repository(&self.client, &seeds.from.repository(name), &namespace.repository(name))?;
            }
        }
        Ok(namespace)
    }
}

fn prefix(workspace: &Workspace, name: &str) -> Result<Registry, Fault> {
    let text = format!("{}/{name}", workspace.registry()?);
    text.parse().map_err(|error| Fault::build(format!("cannot use the registry `{text}`: {error}")))
}

/// Copies every tag to another repository of the same registry.
fn copy_repository(client: &Client, from: &Repository, to: &Repository) -> Result<(), Fault> {
    for tag in client.tags(from)?.present().unwrap_or_default() {
        let digest = copy_manifest(client, from, to, (&tag).into())?;
        publish::tag(client, to, digest, &tag)?;
    }
    Ok(())
}

fn copy_manifest(client: &Client, from: &Repository, to: &Repository, name: Name) -> Result<Digest, Fault> {
    let Answer::Present(found) = client.manifest(from, name.clone())? else {
        return Err(Fault::network(format!("`{name}` of `{from}` is missing in the registry")));
    };
    if media_type::is_index(&found.media_type) {
        let index: Index = read(&found.bytes)?;
        for child in &index.manifests {
            copy_manifest(client, from, to, child.digest.into())?;
        }
    } else {
        let manifest: Manifest = read(&found.bytes)?;
        let blobs: BTreeSet<Digest> =
            manifest.layers.iter().chain([&manifest.config]).map(|blob| blob.digest).collect();
        for blob in &blobs {
            mount(client, from, to, blob)?;
        }
    }
    client.put_manifest(to, found.digest, &found.media_type, &found.bytes)
}

pub(super) fn mount(client: &Client, from: &Repository, to: &Repository, blob: &Digest) -> Result<(), Fault> {
    match client.mount(to, blob, from)? {
        Mount::Mounted => Ok(()),
        Mount::Session(session) => {
            client.cancel(session)?;
            Err(Fault::network(format!("the registry cannot mount `{blob}` of `{from}` in `{to}`")))
        }
    }
}

pub(super) fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(|error| Fault::network("cannot read a manifest").cause(error))
}

pub(super) fn copy_file(from: &Path, to: &Path) -> Result<(), Fault> {
    let cannot = |error| Fault::build(format!("cannot copy `{}` to `{}`", from.display(), to.display())).cause(error);
    fs::copy(from, to).map(drop).map_err(cannot)
}
