//! `run`: runs an image with this terminal, by the available engine.

use super::smoke::this_trees;
use crate::flags::Global;
use crate::leftovers;
use std::process::ExitCode;
use xtask_native::container::{Launch, Manner, Runner};

/// Runs the named image, or the app of this tree; the exit is the program's.
pub fn run(global: &Global, image: Option<&str>, args: &[String]) -> anyhow::Result<ExitCode> {
    let tree = if image.is_some() { global.any_tree()? } else { global.tree()? };
    leftovers::sweep(&tree);
    let image = match image {
        Some(image) => image.to_owned(),
        None => this_trees(global, "run")?,
    };
    let runner = Runner::available(&tree)?;
    let launch = Launch { entrypoint: None, args: args.to_vec(), manner: Manner::Open };
    Ok(ExitCode::from(runner.image(&image)?.attach(&launch)?))
}
