//! The native engine's side: `xtask build --engine native --push`, by the binary itself or through cargo's alias.

use super::peers::{Start, What};
use super::harness::{Harness, Seeds};
use crate::scenarios::{self, Sample};
use crate::workspace::Workspace;
use xtask_host::process::Command;
use xtask_host::tree::{binary, facts};
use xtask_model::fault::Fault;
use xtask_model::image::policy::ImageKind;
use xtask_model::spec::reference::Platform;

/// uv's cache, beneath `target/bench`.
const UV: &str = "uv";

/// Who calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The binary.
    Binary,
    /// `cargo xtask`.
    Alias,
    /// The binary, where uv has yet to be installed.
    WithoutUv,
}

/// A call of the copy's xtask with uv's cache of its own.
pub(super) fn call(workspace: &Workspace) -> Command {
    workspace.xtask().env("UV_CACHE_DIR", workspace.private_folder(UV))
}

/// The same where cargo has never compiled anything either.
pub(super) fn cold_call(workspace: &Workspace) -> Command {
    call(workspace).env("CARGO_TARGET_DIR", workspace.cargo_folder("cold"))
}

/// Builds and pushes.
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
        Caller::Alias => workspace.cargo("warm")?.env("UV_CACHE_DIR", workspace.private_folder(UV)).arg("xtask"),
    };
    scenarios::push(call.args([command, "--engine", "native"]), &to)
}

/// Leaves nothing of any build on this machine.
pub(super) fn forget(workspace: &Workspace) -> Result<(), Fault> {
    workspace.forget_native()?;
    workspace.remove_cargo_folder("cold")?;
    workspace.empty_private_folder(UV).map(drop)
}

/// What the registry holds before a build.
pub(super) fn seeds(harness: &Harness, start: Start) -> Result<Seeds, Fault> {
    let policy = &harness.workspace.tree.policy;
    let mut names = vec![format!("{}-root", policy.project.name)];
    if start != Start::Nothing {
        names.extend([policy.base.repository.clone(), policy.app.repository.clone()]);
    }
    Ok(Seeds { from: harness.before_native()?, names })
}

/// Stages the binary that an edit has brought, as if the compiler had just made it of the sources as they are.
fn stage(harness: &Harness) -> Result<(), Fault> {
    let tree = &harness.workspace.tree;
    let (Some(program), Some(binary)) = (&harness.new_program, &tree.policy.app.binary) else { return Ok(()) };
    let parsed = facts::parse(tree, ImageKind::App, &tree.policy.app.args)?;
    let any = "0".repeat(64).parse().expect("64 hex digits");
    let key = facts::app_key(tree, any, &parsed)?.binary;
    let recipe = key.expect("an app with a binary has its recipe in its key");
    binary::keep(&tree.root, binary, &Platform::host(), &recipe, program)
}
