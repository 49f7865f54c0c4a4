//! `smoke`: the policy's questions to an image that exists.

use crate::flags::{Format, Global};
use crate::{documents, leftovers, pipeline, smoke};
use xtask_host::terminal;
use xtask_model::fault::Fault;
use xtask_native::container::Runner;

/// Asks the named image, or each app of this tree.
pub fn run(global: &Global, image: Option<&str>) -> anyhow::Result<()> {
    let trees = if image.is_some() { vec![global.tree_for(image)?] } else { global.trees()? };
    leftovers::sweep(&trees[0]);
    let runner = Runner::available(&trees[0])?;
    let mut shown = Vec::new();
    for tree in &trees {
        let image = match image {
            Some(image) => image.to_owned(),
            None => this_trees(&global.of(tree), "smoke")?,
        };
        terminal::step("smoke", &format!("`{image}`"));
        let checks = smoke::run(&runner.image(&image)?, &tree.policy.smoke, tree.version().as_deref())?;
        let app = &tree.policy.app.name;
        shown.extend(checks.into_iter().map(|check| smoke::PassedCheck { app: app.clone(), ..check }));
    }
    if global.format == Format::Json {
        documents::SMOKE.print_list("checks", &shown)?;
    }
    Ok(())
}

/// The app of this tree; where it was not built, `command` is how to name another image.
pub(super) fn this_trees(global: &Global, command: &str) -> Result<String, Fault> {
    let app = pipeline::this_app(global)
        .map_err(|fault| fault.hint(format!("name an image: `cargo xtask {command} IMAGE`")))?;
    Ok(app.to_string())
}
