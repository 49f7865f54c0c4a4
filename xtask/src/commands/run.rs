//! `run`: an image with this terminal, by the engine at hand.

use super::smoke::this_trees;
use crate::container::{Launch, Manner, Runner};
use crate::facts::Tree;
use crate::flags::Global;
use crate::{leftovers, ui};
use std::process::ExitCode;

/// Runs the named image, or the app of this tree; the exit is the program's.
pub fn run(global: &Global, image: Option<&str>, args: &[String]) -> anyhow::Result<ExitCode> {
    let tree = Tree::open(global)?;
    leftovers::sweep(&tree);
    let image = match image {
        Some(image) => image.to_owned(),
        None => this_trees(global, "run")?,
    };
    let runner = Runner::at_hand(&tree)?;
    ui::step("running", &format!("`{image}`; Ctrl-C ends it"));
    let launch = Launch { entrypoint: None, args: args.to_vec(), manner: Manner::Open };
    Ok(ExitCode::from(runner.image(&image)?.attach(&launch)?))
}
