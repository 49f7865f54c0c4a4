//! The blobs that a build will ask a registry for: those that the last one asked for. They are asked for while the tree is read, so that
//! the checks of the images do not wait.
//!
//! A blob that is not listed is asked for when it is needed. The list saves time and decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use xtask_host::file;
use xtask_host::registry::Client;
use xtask_host::tree::facts::Tree;
use xtask_model::image::policy::ImageKind;
use xtask_model::spec::reference::{Digest, Repository};

/// Blobs by repository.
type Blobs = BTreeMap<String, BTreeSet<Digest>>;

pub(super) struct Expected {
    list: PathBuf,
    repositories: [Repository; 2],
}

impl Expected {
    pub(super) fn of(tree: &Tree) -> Self {
        let repositories = [ImageKind::Base, ImageKind::App].map(|kind| tree.repository(kind));
        Self { list: tree.images().join("expected.json"), repositories }
    }

    /// Asks for the listed blobs of this tree's repositories.
    pub(super) fn ask(&self, client: &Client) {
        let listed = std::fs::read(&self.list).ok().and_then(|text| serde_json::from_slice::<Blobs>(&text).ok());
        let Some(listed) = listed else { return };
        for repository in &self.repositories {
            if let Some(blobs) = listed.get(&repository.to_string()) {
                client.ask_early(repository, &blobs.iter().copied().collect::<Vec<_>>());
            }
        }
    }

    /// Lists the blobs that this command has seen. A list that cannot be written costs the next command time alone.
    pub(super) fn remember(&self, client: &Client) {
        let mut blobs = Blobs::new();
        for (repository, digest) in client.blobs_seen() {
            blobs.entry(repository.to_string()).or_default().insert(digest);
        }
        if let Ok(text) = serde_json::to_string(&blobs) {
            let _ = file::write(&self.list, &text);
        }
    }
}
