//! Checks whether the native engine can build an image of the policy, before a build fails.
//!
//! Reads only the Dockerfile.

use crate::assembly::unsupported::{self, Candidate};
use crate::recipes;
use xtask_host::tree::binary;
use xtask_host::tree::facts::Tree;
use xtask_model::fault::Fault;
use xtask_model::image::policy::ImageKind;
use xtask_model::spec::dockerfile::Dockerfile;
use xtask_model::spec::reference::Platform;

/// Placeholder for the base image.
const IMAGE: &str = "image.invalid/any";

/// Checks an image for these platforms.
///
/// # Errors
/// The first unsupported instruction, with its line.
pub fn check(tree: &Tree, kind: ImageKind, platforms: &[Platform]) -> Result<(), Fault> {
    let path = tree.dockerfile(kind)?;
    let dockerfile = Dockerfile::parse(path.as_str(), &tree.files.text(path.as_ref())?)?;
    let policy = &tree.policy;
    for platform in platforms {
        let mut args = if kind == ImageKind::Base { policy.base.args.clone() } else { policy.app.args.clone() };
        args.extend(["ROOT_IMAGE", "BASE_IMAGE", "RUST_IMAGE"].map(|name| (name.to_owned(), IMAGE.to_owned())));
        if let Some(binary) = &policy.app.binary {
            args.insert("BINARY".to_owned(), binary::staged(platform, binary).to_string());
        }
        let stages = match kind {
            ImageKind::Base => {
                recipes::check(&dockerfile, &args, platform, &policy.base)?;
                recipes::settings(&dockerfile, &args, platform, policy)?;
                Some(&policy.base.stages)
            }
            ImageKind::App | ImageKind::Enhanced => None,
        };
        let realised = |name: &str| stages.is_some_and(|stages| stages.contains_key(name));
        let candidate = Candidate { dockerfile: &dockerfile, args: &args, platform, image: IMAGE, realised: &realised };
        unsupported::check(&candidate)?;
    }
    Ok(())
}
