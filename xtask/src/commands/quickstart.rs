//! `quickstart`: from a fresh machine to a smoke-tested app in a registry, with one command.
//!
//! Installs nothing outside the repository's `target`, and says first what it is going to do.

use crate::announce;
use crate::flags::{BuildFlags, Global};
use crate::pipeline::{self, Target};
use crate::steps;
use std::io::{BufRead as _, IsTerminal as _};
use xtask_host::docker::{Docker, debian, engine};
use xtask_host::linux;
use xtask_host::terminal;
use xtask_host::tree::facts::Tree;
use xtask_host::tree::uv;
use xtask_model::fault::Fault;
use xtask_model::image::policy::{After, Engine};
use xtask_model::spec::reference::Platform;

/// Does it all.
pub fn run(global: &Global, yes: bool, engine: Option<Engine>) -> anyhow::Result<()> {
    let tree = global.any_tree()?;
    let has_registry = global.registry.is_some() || !pipeline::private_registries(&tree.root).is_empty();
    let start = start(&tree, engine.unwrap_or(tree.policy.project.engine), has_registry);
    let lacks_lock = |tree: &Tree| {
        let base = &tree.policy.base;
        [&base.lock, &base.installer].iter().any(|path| !tree.root.join(path).is_file())
    };
    let needs_lock = global.trees_of_bases()?.iter().any(lacks_lock);
    let needs_uv = needs_lock && uv::find(&tree.root, &[]).is_err();
    let mut todo = Vec::new();
    match start {
        Start::Nothing => {}
        Start::Engine => todo
            .push("start a private Docker engine and registry under `target/engine` (about 100 MB of Debian packages)"),
        Start::Registry => todo.push("start a private registry under `target/engine-registry`"),
    }
    if needs_uv {
        todo.push("install uv from the package index under `target/tools`");
    }
    if needs_lock {
        todo.push("resolve the requirements into the lock");
    }
    todo.push(match has_registry || start != Start::Nothing {
        true => "build the base and the app, smoke-test the app, push both",
        false => "build the base and the app on this machine, smoke-test the app",
    });
    for (index, what) in todo.iter().enumerate() {
        terminal::step(&format!("{}.", index + 1), what);
    }
    if (start != Start::Nothing || needs_uv) && !yes {
        confirm()?;
    }
    let mut global = global.clone();
    let state = match start {
        Start::Nothing => None,
        Start::Engine => Some(engine::up(&tree.root, &engine::EngineOptions::default())?),
        Start::Registry => {
            let name = Some(engine::REGISTRY_ALONE.to_owned());
            Some(engine::up(
                &tree.root,
                &engine::EngineOptions { name, registry_only: true, ..engine::EngineOptions::default() },
            )?)
        }
    };
    if needs_uv {
        uv::install(&tree.root)?;
    }
    if global.registry.is_none() {
        // The policy's registry belongs to the team; a first try does not write to it.
        let started = state.map(|state| state.registry.parse()).transpose();
        let started = started.map_err(|error| Fault::build(format!("cannot use the engine's registry: {error}")))?;
        global.registry = started.or_else(|| pipeline::private_registries(&tree.root).into_iter().next());
    }
    if needs_lock {
        super::lock::run(&global, &super::lock::Wanted::default(), false)?;
    }
    let push = global.registry.is_some();
    let flags = BuildFlags { push, platform: vec![Platform::host()], engine, ..BuildFlags::default() };
    let done = pipeline::run(&global, &flags, Target::App)?;
    announce::conclude(&done);
    for app in done.wanted() {
        let due = [After::Build, After::Push].into_iter().flat_map(|when| steps::due(&tree.policy, when, app.kind));
        let tested = due.into_iter().any(|step| step.uses("smoke"));
        if app.action != "built" || !tested {
            // A build runs the policy's steps; an image that existed already, or has no such step here, is asked now.
            super::smoke::run(&global, Some(&app.reference.to_string()))?;
        }
    }
    let push = global.registry.as_ref().map(|registry| format!(" --push --registry {registry}")).unwrap_or_default();
    terminal::step(
        "try",
        &format!("edit a template, then `cargo xtask build{push}`; `cargo xtask --help` for the rest"),
    );
    if start != Start::Nothing {
        terminal::step(
            "try",
            "`eval \"$(cargo xtask engine status)\"` points docker and xtask at what was started here",
        );
    }
    super::print(&done.wanted().map(|app| format!("{}\n", app.reference)).collect::<String>())
}

/// Service that has to be started first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Nothing,
    Engine,
    Registry,
}

/// Only Debian has the package of the registry; elsewhere images stay on this machine.
fn start(tree: &Tree, engine: Engine, has_registry: bool) -> Start {
    let answers = || {
        let Ok(docker) = Docker::find(&tree.root) else { return false };
        !docker.podman && docker.version().is_ok() && docker.buildx_version().is_ok()
    };
    match engine {
        Engine::Docker if !answers() => Start::Engine,
        _ if has_registry || !linux::PRESENT || debian::Host::read().is_err() => Start::Nothing,
        _ => Start::Registry,
    }
}

fn confirm() -> Result<(), Fault> {
    let declined =
        || Fault::usage("nothing was done").hint("`--yes` answers the question: `cargo xtask quickstart --yes`");
    if !std::io::stdin().is_terminal() {
        return Err(declined().cause("there is no terminal to ask"));
    }
    anstream::eprint!("Continue? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|error| declined().cause(error))?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") { Ok(()) } else { Err(declined()) }
}
