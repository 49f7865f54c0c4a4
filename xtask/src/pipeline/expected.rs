//! The questions that a build will ask a registry: those that the last one asked. They are asked while the tree is read, so that
//! the checks of the images do not wait.
//!
//! A question that is not listed is asked when it is needed. The list saves time and decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use xtask_host::file;
use xtask_host::registry::{Client, Questions};
use xtask_host::tree::facts::Tree;
use xtask_model::image::policy::ImageKind;
use xtask_model::spec::reference::Repository;

pub(super) struct Expected {
    list: PathBuf,
    repositories: BTreeSet<Repository>,
}

impl Expected {
    /// The questions about one repository's trees, of which there is at least one.
    pub(super) fn of<'t>(trees: impl Iterator<Item = &'t Tree>) -> Self {
        let (mut list, mut repositories) = (PathBuf::new(), BTreeSet::new());
        for tree in trees {
            list = tree.images().join("expected.json");
            repositories.insert(super::root::repository(tree));
            repositories.extend([ImageKind::Base, ImageKind::App].map(|kind| tree.repository(kind)));
        }
        Self { list, repositories }
    }

    /// Asks the listed questions about this tree's repositories.
    pub(super) fn ask(&self, client: &Client) {
        let listed = std::fs::read(&self.list).ok();
        let listed = listed.and_then(|text| serde_json::from_slice::<BTreeMap<String, Questions>>(&text).ok());
        let Some(mut listed) = listed else { return };
        let own = self.repositories.iter();
        let own = own.filter_map(|repository| Some((repository.clone(), listed.remove(&repository.to_string())?)));
        client.ask_early(&own.collect());
    }

    /// Lists the questions of this command. A list that cannot be written costs the next command time alone.
    pub(super) fn remember(&self, client: &Client) {
        let asked: BTreeMap<String, Questions> =
            client.asked().into_iter().map(|(repository, asked)| (repository.to_string(), asked)).collect();
        if let Ok(text) = serde_json::to_string(&asked) {
            let _ = file::write(&self.list, &text);
        }
    }
}
