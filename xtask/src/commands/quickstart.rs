//! `quickstart`: from a fresh machine to a smoke-tested app in a registry, with one command.
//!
//! Installs nothing outside the repository's `target`, and says first what it is going to do.

use crate::build::{self, Target};
use crate::docker::Docker;
use crate::engine;
use crate::facts::Tree;
use crate::fault::Fault;
use crate::flags::{BuildFlags, Global};
use crate::lock::uv;
use crate::reference::Platform;
use crate::{report, ui};
use std::io::{BufRead as _, IsTerminal as _};

/// Does it all.
pub fn run(global: &Global, yes: bool) -> anyhow::Result<()> {
    let tree = Tree::open(global)?;
    let needs_engine = !has_engine(&tree);
    let needs_lock =
        !tree.root.join(&tree.policy.base.lock).is_file() || !tree.root.join(&tree.policy.base.installer).is_file();
    let needs_uv = needs_lock && uv::find(&tree.root, &[]).is_err();
    let mut todo = Vec::new();
    if needs_engine {
        todo.push("start a private Docker engine and registry under `target/engine` (about 100 MB of Debian packages)");
    }
    if needs_uv {
        todo.push("install uv from the package index under `target/tools`");
    }
    if needs_lock {
        todo.push("resolve the requirements into the lock");
    }
    todo.push("build the base and the app, smoke-test the app, push both");
    for (index, what) in todo.iter().enumerate() {
        ui::step(&format!("{}.", index + 1), what);
    }
    if (needs_engine || needs_uv) && !yes {
        confirm()?;
    }
    let mut global = global.clone();
    if needs_engine {
        engine::up(&tree.root, &engine::Options::default())?;
    }
    if needs_uv {
        uv::install(&tree.root)?;
    }
    if global.registry.is_none() {
        // The policy's registry belongs to the team; a first try does not write to it.
        if let engine::Status::Running(state) = engine::status(&tree.root, None)? {
            global.registry = Some(
                state
                    .registry
                    .parse()
                    .map_err(|error| Fault::build(format!("cannot use the engine's registry: {error}")))?,
            );
        }
    }
    if needs_lock {
        super::lock::run(&global, false, &[])?;
    }
    let push = global.registry.is_some();
    let flags = BuildFlags { push, platform: vec![Platform::host()], ..BuildFlags::default() };
    let done = build::run(&global, &flags, Target::App)?;
    report::conclude(&done);
    let Some(app) = done.images.last() else { return Ok(()) };
    if app.action != "built" {
        // A build runs the policy's steps; an image that was there already is asked again.
        super::smoke::run(&global, Some(&app.reference.to_string()))?;
    }
    let docker = Docker::find(&tree.root)?;
    ui::step("try", "edit a template, then `cargo xtask build`; `cargo xtask --help` for the rest");
    if docker.private {
        ui::step("try", "`eval \"$(cargo xtask engine status)\"` points docker and xtask at the private engine");
    }
    super::print(&format!("{}\n", app.reference))
}

/// Whether an engine with buildx answers.
fn has_engine(tree: &Tree) -> bool {
    let Ok(docker) = Docker::find(&tree.root) else { return false };
    docker.version().is_ok() && docker.buildx_version().is_ok()
}

fn confirm() -> Result<(), Fault> {
    let declined =
        || Fault::usage("nothing was done").hint("`--yes` answers the question: `cargo xtask quickstart --yes`");
    if !std::io::stdin().is_terminal() {
        return Err(declined().cause("there is no terminal to ask"));
    }
    anstream::eprint!("Go on? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|error| declined().cause(error))?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") { Ok(()) } else { Err(declined()) }
}
