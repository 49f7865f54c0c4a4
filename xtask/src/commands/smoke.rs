//! `smoke`: the policy's questions to an image that exists.

use crate::flags::{Format, Global};
use crate::smoke::{self, Memory, PassedCheck};
use crate::{documents, leftovers, pipeline};
use xtask_host::terminal;
use xtask_host::tree::facts::Tree;
use xtask_model::fault::Fault;
use xtask_model::quantity;
use xtask_model::spec::reference::{Digest, Reference};
use xtask_native::container::Runner;

/// Asks the named image, or each app of this tree.
pub fn run(global: &Global, image: Option<&str>) -> anyhow::Result<()> {
    let trees = if image.is_some() { vec![global.tree_for(image)?] } else { global.trees()? };
    leftovers::sweep(&trees[0]);
    let mut shown = Vec::new();
    for tree in &trees {
        let checks = match image {
            Some(image) => run_on(tree, image)?,
            None => of_this_tree(global, tree)?,
        };
        let app = &tree.policy.app.name;
        shown.extend(checks.into_iter().map(|check| smoke::PassedCheck { app: app.clone(), ..check }));
    }
    if global.format == Format::Json {
        documents::SMOKE.print_list("checks", &shown)?;
    }
    Ok(())
}

fn run_on(tree: &Tree, image: &str) -> Result<Vec<PassedCheck>, Fault> {
    let runner = Runner::available(tree)?;
    let runnable = runner.image(image)?;
    terminal::step("smoke", &format!("`{image}`"));
    smoke::run(&runnable, &tree.policy.smoke, tree.version().as_deref())
}

/// Asks the app of a tree, unless it passed the same checks earlier in this job of CI: in a step of its build.
fn of_this_tree(global: &Global, tree: &Tree) -> Result<Vec<PassedCheck>, Fault> {
    let (image, manifest) = this_app(&global.of(tree), "smoke")?;
    let version = tree.version();
    let what = (&tree.policy.smoke, version.as_deref());
    let memory = Memory::of(&tree.root, manifest, what, &|name| std::env::var(name).ok());
    let Some(passed) = memory.passed() else { return run_on(tree, &image.to_string()) };
    terminal::step("smoke", &format!("`{image}` passed earlier in this job"));
    for check in &passed {
        let took = quantity::seconds(std::time::Duration::from_secs_f64(check.seconds));
        terminal::step("smoke", &format!("{} ({took}, earlier)", check.check));
    }
    Ok(passed)
}

/// The name of this tree's app; where it was not built, `command` is how to name another image.
pub(super) fn this_trees(global: &Global, command: &str) -> Result<String, Fault> {
    this_app(global, command).map(|(app, _)| app.to_string())
}

fn this_app(global: &Global, command: &str) -> Result<(Reference, Digest), Fault> {
    let hint = |fault: Fault| fault.hint(format!("name an image: `cargo xtask {command} IMAGE`"));
    pipeline::this_app(global).map_err(hint)
}
