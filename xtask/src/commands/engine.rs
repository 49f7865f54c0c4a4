//! `engine up|status|down`: the private engine on the command line.

use crate::engine::{self, Options, Status};
use crate::facts::find_root;
use crate::fault::{Exit, Fault};
use crate::flags::{EngineCommand, Format, Global};
use crate::ui;

/// Runs the subcommand.
pub fn run(global: &Global, command: &EngineCommand) -> anyhow::Result<()> {
    let root = find_root(global.root.as_deref())?;
    match command {
        EngineCommand::Up { registry_port } => {
            let state = engine::up(&root, &Options { name: None, registry_port: *registry_port })?;
            tell(global, &state)
        }
        EngineCommand::Status => match engine::status(&root, None)? {
            Status::Running(state) => tell(global, &state),
            Status::Absent => Err(Fault::new(Exit::Missing, "there is no private engine here").hint(UP).into()),
            Status::Stopped(_) => Err(Fault::new(Exit::Missing, "the private engine is stopped").hint(UP).into()),
            Status::Broken(_, why) => {
                Err(Fault::new(Exit::Missing, "the private engine is broken").cause(why).hint(UP).into())
            }
        },
        EngineCommand::Down { purge } => Ok(engine::down(&root, None, *purge).map(drop)?),
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
    for (name, value) in state.docker_env() {
        text += &format!("export {name}='{}'\n", value.to_string_lossy().replace('\'', r"'\''"));
    }
    text += &format!("export XTASK_REGISTRY='{}'\n", state.registry);
    super::print(&text)
}
