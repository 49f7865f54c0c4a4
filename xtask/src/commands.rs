//! One module for each command that is more than one call: it gathers facts, decides and reports.

pub mod analyze;
pub mod base;
pub mod bench;
pub mod bundle;
pub mod ci;
pub mod clean;
pub mod cluster;
pub mod doctor;
pub mod engine;
pub mod explain;
pub mod init;
pub mod lock;
pub mod man;
pub mod plan;
pub mod plugin;
pub mod prune;
pub mod quickstart;
pub mod rebase;
pub mod reference;
pub mod reproduce;
pub mod run;
pub mod sbom;
pub mod scan;
pub mod smoke;
pub mod stats;
pub mod test;
pub mod tidy;
pub mod verify;
pub mod watch;
pub mod workflows;

pub use crate::documents::print;

use std::path::Path;
use xtask_model::fault::Fault;
use xtask_model::spec::reference::Reference;

/// True if the repository is xtask's own: some commands check or measure its sources.
pub fn has_xtask_sources(root: &Path) -> bool {
    root.join("xtask/model/src/lib.rs").is_file()
}

/// Refuses a command that is about the sources of xtask, in a repository that only uses it.
fn needs_xtask_sources(root: &Path, command: &str, instead: &str) -> Result<(), Fault> {
    if has_xtask_sources(root) {
        return Ok(());
    }
    Err(Fault::usage(format!("`cargo xtask {command}` is for the repository that xtask's sources are in"))
        .hint(instead))
}

/// Reads the name of an image from the command line.
fn image_named(name: &str) -> Result<Reference, Fault> {
    name.parse().map_err(|error| {
        Fault::usage(format!("`{name}` is not the name of an image"))
            .cause(error)
            .hint("name an image like `ghcr.io/acme/app:latest`")
    })
}

fn not_published(image: &Reference) -> Fault {
    Fault::network(format!("`{image}` is not in the registry"))
        .hint("name a published image, or publish the one of this tree: `cargo xtask build --push`")
}
