//! `smoke`: the policy's questions to an image that exists.

use crate::container::Runner;
use crate::facts::{self, Tree};
use crate::fault::Fault;
use crate::flags::{Format, Global};
use crate::policy::ImageKind;
use crate::{leftovers, smoke, ui};

/// Asks the named image, or the app that was built last.
pub fn run(global: &Global, image: Option<&str>) -> anyhow::Result<()> {
    let tree = Tree::open(global)?;
    leftovers::sweep(&tree);
    let runner = Runner::at_hand(&tree)?;
    let image = match image {
        Some(image) => image.to_owned(),
        None => newest(&tree, "smoke")?,
    };
    ui::step("smoke", &format!("`{image}`"));
    let shown = smoke::run(&runner.image(&image)?, &tree.policy.smoke, tree.version().as_deref())?;
    if global.format == Format::Json {
        super::print(&format!("{}\n", serde_json::to_string_pretty(&shown)?))?;
    }
    Ok(())
}

/// The app that was built or found last; where there is none, `command` is how to name one.
pub(super) fn newest(tree: &Tree, command: &str) -> Result<String, Fault> {
    std::fs::read_to_string(facts::last_reference(tree, ImageKind::App)).map(|text| text.trim().to_owned()).map_err(
        |_| {
            Fault::usage("no app has been built here")
                .hint(format!("build it: `cargo xtask build`; or name an image: `cargo xtask {command} IMAGE`"))
        },
    )
}
