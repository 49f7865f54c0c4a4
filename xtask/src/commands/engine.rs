//! `engine up|status|down`: the private engine on the command line.

use crate::engine::{self, Options, Status};
use crate::facts::find_root;
use crate::fault::{Exit, Fault};
use crate::flags::{EngineCommand, Format, Global};
use crate::ui;
use std::collections::BTreeMap;

/// Runs the subcommand.
pub fn run(global: &Global, command: &EngineCommand) -> anyhow::Result<()> {
    let root = find_root(global.root.as_deref())?;
    match command {
        EngineCommand::Up { registry_port, registry_only } => {
            let name = registry_only.then(|| engine::REGISTRY_ALONE.to_owned());
            let options = Options { name, registry_port: *registry_port, registry_only: *registry_only };
            tell(global, &engine::up(&root, &options)?)
        }
        EngineCommand::Status => match engine::status(&root, None)? {
            Status::Running(state) => tell(global, &state),
            Status::Absent if let Ok(Status::Running(state)) = engine::status(&root, Some(engine::REGISTRY_ALONE)) => {
                tell(global, &state)
            }
            Status::Absent => Err(Fault::new(Exit::Missing, "there is no private engine here").hint(UP).into()),
            Status::Stopped(_) => Err(Fault::new(Exit::Missing, "the private engine is stopped").hint(UP).into()),
            Status::Broken(_, why) => {
                Err(Fault::new(Exit::Missing, "the private engine is broken").cause(why).hint(UP).into())
            }
        },
        EngineCommand::Down { purge } => {
            if !matches!(engine::status(&root, Some(engine::REGISTRY_ALONE))?, Status::Absent) {
                engine::down(&root, Some(engine::REGISTRY_ALONE), *purge)?;
            }
            Ok(engine::down(&root, None, *purge).map(drop)?)
        }
    }
}

const UP: &str = "`cargo xtask engine up` starts it, or heals it";

/// The environment that reaches the engine, for `eval "$(cargo xtask engine status)"`.
fn tell(global: &Global, state: &engine::State) -> anyhow::Result<()> {
    ui::step("registry", &state.registry);
    if global.format == Format::Json {
        return super::print(&format!("{}\n", serde_json::to_string_pretty(state)?));
    }
    let mut text = String::new();
    let docker = if state.registry_only { BTreeMap::new() } else { state.docker_env() };
    for (name, value) in docker {
        text += &format!("export {name}='{}'\n", value.to_string_lossy().replace('\'', r"'\''"));
    }
    text += &format!("export XTASK_REGISTRY='{}'\n", state.registry);
    super::print(&text)
}
