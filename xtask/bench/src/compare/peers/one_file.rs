//! docker's side with one Dockerfile for packages, program and app, as a team without a build system has it: `Dockerfile.enhanced`.
//!
//! Its cache mounts keep crates, compiled crates and wheels on the machine. A registry cache does not have them, so there the crates are
//! compiled in a layer of their own, as cargo-chef does.

use super::super::harness::{Harness, Seeds};
use super::super::rewrite;
use super::super::subject::{Peer, Start};
use crate::plain;
use crate::sample::Sample;
use std::collections::BTreeMap;
use xtask_host::docker::Built;
use xtask_host::terminal;
use xtask_model::fault::Fault;
use xtask_model::image::policy::{ImageKind, Registry};

/// Builds and pushes from the current tree.
pub(super) fn build(harness: &mut Harness, peer: Peer, start: Start) -> Result<Sample, Fault> {
    let cached = peer == Peer::OneFileCached;
    if cached && !harness.one_file_cached {
        terminal::step("readying", "the cache of one Dockerfile");
        harness.workspace.rewind()?;
        let to = harness.prefix("before-one-file")?;
        realise(harness, peer, &to)?;
        harness.one_file_cached = true;
        harness.edit_again()?;
    }
    let nothing = Seeds { from: harness.before_native()?, names: Vec::new() };
    let to = harness.namespace(peer.name(), start, &nothing)?;
    if start != Start::Warm {
        harness.workspace.forget_builds()?;
    }
    rustix::fs::sync();
    let built = realise(harness, peer, &to)?;
    if start != Start::Warm && !cached {
        super::check_cold(&built)?;
    }
    Ok(Sample { seconds: built.took.as_secs_f64(), ..Sample::default() })
}

fn realise(harness: &Harness, peer: Peer, to: &Registry) -> Result<Built, Fault> {
    let (workspace, root) = (&harness.workspace, &harness.root);
    let path = workspace.tree.dockerfile(ImageKind::Enhanced)?;
    let cached = peer == Peer::OneFileCached;
    let dockerfile = if cached {
        let text = workspace.tree.files.text(path.as_ref())?;
        let text = rewrite::crates_apart(path.as_str(), &text)?;
        super::write_dockerfile(workspace, peer, &path, &text)?.0
    } else {
        path
    };
    let from = (root.published(workspace, &harness.before_native()?)?.to_string(), BTreeMap::new());
    let secrets = plain::secrets(workspace, root)?;
    let name = format!("{}:bench", to.repository("app"));
    let build = plain::in_one_file(workspace, root, from, dockerfile, (&secrets, name))?;
    let cache = if cached { Some(super::cache_of(harness, "one-file", !harness.one_file_cached)?) } else { None };
    workspace.docker()?.build(&xtask_host::docker::Build { cache, ..build }, "one Dockerfile with plain docker")
}
