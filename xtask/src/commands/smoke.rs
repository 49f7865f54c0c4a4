//! `smoke`: the policy's questions to an image that exists.

use crate::docker::Docker;
use crate::facts::{self, Tree};
use crate::fault::Fault;
use crate::flags::{Format, Global};
use crate::plan;
use crate::policy::ImageKind;
use crate::{smoke, ui};

/// Asks the named image, or the app that this tree's newest build named.
pub fn run(global: &Global, image: Option<&str>) -> anyhow::Result<()> {
    let tree = Tree::open(global)?;
    let docker = Docker::find(&tree.root)?;
    let image = match image {
        Some(image) => image.to_owned(),
        None => newest(&tree, &docker)?,
    };
    ui::step("smoke", &format!("`{image}`"));
    let shown = smoke::run(&docker, &image, &tree.policy.smoke, tree.version().as_deref())?;
    if global.format == Format::Json {
        super::print(&format!("{}\n", serde_json::to_string_pretty(&shown)?))?;
    }
    Ok(())
}

/// The app of the key that was built last: by its fingerprint's tag, in the store or in the registry.
fn newest(tree: &Tree, docker: &Docker) -> Result<String, Fault> {
    let none = || {
        Fault::usage("no app has been built here")
            .hint("build it: `cargo xtask build`; or name an image: `cargo xtask smoke IMAGE`")
    };
    let json = std::fs::read_to_string(tree.images().join("app.key.json")).map_err(|_| none())?;
    let key: crate::key::AppKey = serde_json::from_str(&json).map_err(|_| none())?;
    let (_, tag) = facts::tagged(tree, &key);
    let repository = tree.repository(ImageKind::App);
    let local = repository.tag(&tag).to_string();
    if docker.stored(&local)?.is_some() {
        return Ok(local);
    }
    match crate::publish::read(&tree.client(), &repository, tag)? {
        crate::registry::Answer::Present(found) => Ok(plan::host_manifest(&repository, &found)),
        crate::registry::Answer::Absent => Err(none()),
    }
}
