//! The native engine's side: `xtask build --engine native --push`, with the binary or through cargo's alias.

use super::harness::{Harness, Seeds};
use super::peers::{Start, What};
use crate::scenarios::{self, Sample};
use crate::workspace::Workspace;
use xtask_host::process::Command;
use xtask_host::tree::{binary, facts};
use xtask_model::fault::Fault;
use xtask_model::image::policy::ImageKind;
use xtask_model::spec::reference::Platform;

const UV: &str = "uv";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Binary,
    Alias,
    /// The binary, when uv must be installed first.
    WithoutUv,
}

/// The command with caches of its own.
fn cached(workspace: &Workspace, call: Command) -> Command {
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

pub(super) fn build(harness: &mut Harness, caller: Caller, what: What, start: Start) -> Result<Sample, Fault> {
    let seeds = seeds(harness, start)?;
    let to = harness.namespace("native", start, &seeds)?;
    let workspace = &harness.workspace;
    if start != Start::Warm {
        forget(workspace)?;
    }
    if caller == Caller::WithoutUv {
        workspace.forget_tools()?;
    }
    stage(harness)?;
    rustix::fs::sync();
    let command = if what == What::Base { "build-base" } else { "build" };
    let call = match caller {
        Caller::Binary | Caller::WithoutUv if start == Start::Warm => call(workspace),
        Caller::Binary | Caller::WithoutUv => cold_call(workspace),
        Caller::Alias => cached(workspace, workspace.cargo("warm")?).arg("xtask"),
    };
    scenarios::push(call.args([command, "--engine", "native"]), &to)
}

pub(super) fn forget(workspace: &Workspace) -> Result<(), Fault> {
    workspace.forget_native()?;
    workspace.remove_cargo_folder("cold")?;
    workspace.empty_private_folder(UV).map(drop)
}

pub(super) fn seeds(harness: &Harness, start: Start) -> Result<Seeds, Fault> {
    let policy = &harness.workspace.tree.policy;
    let mut names = vec![format!("{}-root", policy.project.name)];
    if start != Start::Nothing {
        names.extend([policy.base.repository.clone(), policy.app.repository.clone()]);
    }
    Ok(Seeds { from: harness.before_native()?, names })
}

/// Stages the binary of an edit, as if it had just been compiled from the current sources.
fn stage(harness: &Harness) -> Result<(), Fault> {
    let tree = &harness.workspace.tree;
    let (Some(program), Some(binary)) = (&harness.new_program, &tree.policy.app.binary) else { return Ok(()) };
    let parsed = facts::parse(tree, ImageKind::App, &tree.policy.app.args)?;
    let any = "0".repeat(64).parse().expect("64 hex digits");
    let key = facts::app_key(tree, any, &parsed)?.binary;
    let recipe = key.expect("the key of an app with a binary has its recipe");
    binary::keep(&tree.root, binary, &Platform::host(), &recipe, program)
}
