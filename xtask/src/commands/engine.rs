//! `engine up|status|down`: the private engine on the command line.

use crate::documents;
use crate::flags::{EngineCommand, Format, Global};
use std::collections::BTreeMap;
use xtask_host::docker::engine::{self, EngineOptions, Status};
use xtask_host::linux;
use xtask_host::terminal;
use xtask_host::tree::facts::find_root;
use xtask_model::fault::{Exit, Fault};

/// Runs the subcommand.
pub fn run(global: &Global, command: &EngineCommand) -> anyhow::Result<()> {
    if !matches!(command, EngineCommand::Up { .. }) {
        linux::require("the private engine")?;
    }
    let root = find_root(global.root.as_deref())?;
    match command {
        EngineCommand::Up { registry_port, registry_only } => {
            let name = registry_only.then(|| engine::REGISTRY_ALONE.to_owned());
            let options = EngineOptions { name, registry_port: *registry_port, registry_only: *registry_only };
            tell(global, &engine::up(&root, &options)?)
        }
        EngineCommand::Status => {
            let alone = engine::status(&root, Some(engine::REGISTRY_ALONE))?;
            tell(global, &running(engine::status(&root, None)?, alone)?)
        }
        EngineCommand::Down { purge } => {
            if !matches!(engine::status(&root, Some(engine::REGISTRY_ALONE))?, Status::Absent) {
                engine::down(&root, Some(engine::REGISTRY_ALONE), *purge)?;
            }
            Ok(engine::down(&root, None, *purge)?)
        }
    }
}

/// The running engine, or the registry that runs alone.
fn running(engine: Status, alone: Status) -> Result<engine::State, Fault> {
    let fault = match (engine, alone) {
        (Status::Running(state), _) | (Status::Absent | Status::Stopped(_), Status::Running(state)) => {
            return Ok(state);
        }
        (Status::Broken(_, why), _) => Fault::new(Exit::Missing, "the private engine is broken").cause(why),
        (Status::Stopped(_), _) => Fault::new(Exit::Missing, "the private engine is stopped"),
        (Status::Absent, Status::Broken(_, why)) => {
            Fault::new(Exit::Missing, "the private registry is broken").cause(why)
        }
        (Status::Absent, Status::Stopped(_)) => Fault::new(Exit::Missing, "the private registry is stopped"),
        (Status::Absent, Status::Absent) => Fault::new(Exit::Missing, "this repository has no private engine"),
    };
    Err(fault.hint(UP))
}

const UP: &str = "start or repair it: `cargo xtask engine up`";

/// Prints the environment of the engine, for `eval "$(cargo xtask engine status)"`.
fn tell(global: &Global, state: &engine::State) -> anyhow::Result<()> {
    terminal::step("registry", &state.registry);
    if global.format == Format::Json {
        return documents::ENGINE.print(state);
    }
    let mut text = String::new();
    let docker = if state.registry_only { BTreeMap::new() } else { state.docker_env() };
    for (name, value) in docker {
        text += &format!("export {name}='{}'\n", value.to_string_lossy().replace('\'', r"'\''"));
    }
    text += &format!("export XTASK_REGISTRY='{}'\n", state.registry);
    super::print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(registry_only: bool) -> engine::State {
        let mut state = engine::State::default();
        state.registry_only = registry_only;
        state
    }

    #[test]
    fn every_field_is_in_the_reference() {
        let mut json = serde_json::to_value(state(true)).unwrap();
        json["version"] = documents::ENGINE.version.into();
        assert_eq!(documents::ENGINE.unlisted(&json), [""; 0]);
    }

    #[test]
    fn a_registry_alone_is_found_next_to_a_stopped_engine() {
        let found = |engine, alone| running(engine, alone).map(|state| state.registry_only).map_err(|fault| fault.what);
        let alone = || Status::Running(state(true));
        assert_eq!(found(Status::Absent, alone()), Ok(true));
        assert_eq!(found(Status::Stopped(state(false)), alone()), Ok(true));
        assert_eq!(found(Status::Running(state(false)), alone()), Ok(false));
        let broken = found(Status::Broken(state(false), "why".to_owned()), alone());
        assert_eq!(broken, Err("the private engine is broken".to_owned()));
        let stopped = found(Status::Absent, Status::Stopped(state(true)));
        assert_eq!(stopped, Err("the private registry is stopped".to_owned()));
    }
}
