//! The native engine's side: `xtask build --engine native --push`, with the binary or through cargo's alias; and the same with docker.

use super::harness::{self, Harness, Seeds, cached, call, cold_call};
use super::subject::{Start, What};
use crate::sample::Sample;
use crate::scenarios;
use crate::workspace::Workspace;
use std::ffi::OsStr;
use xtask_host::process;
use xtask_host::terminal;
use xtask_host::tree::{binary, facts};
use xtask_model::fault::Fault;
use xtask_model::image::dependencies;
use xtask_model::image::policy::ImageKind;
use xtask_model::spec::reference::Platform;

/// Registry namespace of the state before the change, with the program's compiled crates.
const WITH_PROGRAM: &str = "before-program";

/// Registry namespace of the state before the change, with a base by docker's engine: one of the native engine has twice as many
/// layers, for each of which docker does work in every build.
const BY_DOCKER: &str = "before-docker";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Binary,
    Alias,
    /// The binary, when uv must be installed first.
    WithoutUv,
    /// The binary without `--push`: the image stays on this machine.
    Local,
    /// The binary with docker's engine.
    Docker,
}

impl Caller {
    fn engine(self) -> &'static str {
        if self == Self::Docker { "docker" } else { "native" }
    }
}

pub(super) fn build(harness: &mut Harness, caller: Caller, what: What, start: Start) -> Result<Sample, Fault> {
    let seeds = match (caller, what, start) {
        (Caller::Docker, ..) => docker_seeds(harness, start)?,
        (_, What::Program, Start::Cold) => program_seeds(harness)?,
        _ => seeds(harness, start)?,
    };
    let who = if caller == Caller::Docker { "xtask-docker" } else { "native" };
    let to = harness.namespace(who, start, &seeds)?;
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
        Caller::Local => call(workspace),
        Caller::Binary | Caller::WithoutUv | Caller::Docker if start == Start::Warm => call(workspace),
        Caller::Binary | Caller::WithoutUv | Caller::Docker => cold_call(workspace),
        Caller::Alias => cached(workspace, workspace.cargo("warm")?).arg("xtask"),
    };
    let call = call.args([command, "--engine", caller.engine()]);
    if caller == Caller::Local {
        return scenarios::reported(&call.args(["--registry", &to.to_string()]));
    }
    let call = match (&harness.trace, process::found("strace")) {
        (Some(summary), Some(strace)) => {
            let flags =
                ["--follow-forks", "--seccomp-bpf", "--summary-only", "--trace=open,openat,openat2", "--output"];
            call.wrapped_by(strace, flags.iter().map(OsStr::new).chain([summary.as_os_str()]))
        }
        _ => call,
    };
    scenarios::push(call, &to)
}

/// Publishes the unchanged tree from another machine's folder, as CI of the default branch does: with its compiled crates.
fn publish_program(harness: &mut Harness) -> Result<(), Fault> {
    if !harness.program_published {
        terminal::step("readying", "the crates of the program");
        harness.workspace.rewind()?;
        let nothing = Seeds { names: Vec::new(), ..seeds(harness, Start::Nothing)? };
        let from = harness.filled(WITH_PROGRAM.to_owned(), &nothing)?;
        forget(&harness.workspace)?;
        let call = cold_call(&harness.workspace).args(["build", "--engine", "native"]).env("CI", "true");
        scenarios::push(call, &from)?;
        harness.program_published = true;
        harness.edit_again()?;
    }
    Ok(())
}

/// The program compiled from changed sources, and the app with it.
pub(super) fn build_program(harness: &mut Harness, caller: Caller, start: Start) -> Result<Sample, Fault> {
    if start == Start::Cold {
        publish_program(harness)?;
    }
    build(harness, caller, What::Program, start)
}

pub(super) fn forget(workspace: &Workspace) -> Result<(), Fault> {
    workspace.forget_native()?;
    workspace.remove_cargo_folder("cold")?;
    workspace.empty_private_folder(harness::UV).map(drop)
}

fn program_seeds(harness: &Harness) -> Result<Seeds, Fault> {
    let seeds = seeds(harness, Start::Cold)?;
    let crates = dependencies::repository(&harness.workspace.tree.policy.app.repository);
    Ok(Seeds { from: harness.prefix(WITH_PROGRAM)?, names: [seeds.names, vec![crates]].concat() })
}

/// Publishes the unchanged tree with docker's engine, on first use.
fn docker_seeds(harness: &mut Harness, start: Start) -> Result<Seeds, Fault> {
    if !harness.is_filled(BY_DOCKER) {
        terminal::step("readying", "base and app with docker's engine");
        harness.workspace.rewind()?;
        let nothing = seeds(harness, Start::Nothing)?;
        let from = harness.filled(BY_DOCKER.to_owned(), &nothing)?;
        scenarios::push(call(&harness.workspace).args(["build", "--engine", Caller::Docker.engine()]), &from)?;
        harness.edit_again()?;
    }
    Ok(Seeds { from: harness.prefix(BY_DOCKER)?, ..seeds(harness, start)? })
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
pub(super) fn stage(harness: &Harness) -> Result<(), Fault> {
    let tree = &harness.workspace.tree;
    let (Some(program), Some(binary)) = (&harness.new_program, &tree.policy.app.binary) else { return Ok(()) };
    let parsed = facts::parse(tree, ImageKind::App, &tree.policy.app.args)?;
    let any = "0".repeat(64).parse().expect("64 hex digits");
    let key = facts::app_key(tree, any, &parsed)?.binary;
    let recipe = key.expect("the key of an app with a binary has its recipe");
    binary::keep(&tree.root, binary, &Platform::host(), &recipe, program)
}
