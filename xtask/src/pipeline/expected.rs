//! The questions that a build will ask a registry: those that the last one asked. They are asked while the tree is read, so that
//! the checks of the images do not wait.
//!
//! A command that finds no list, such as the first one in a clone, asks for the images of the tags that it compares with. A question that
//! is not asked early is asked when it is needed. The list saves time and decides nothing.

use super::tagging::branch_tag;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use xtask_host::file;
use xtask_host::registry::{Client, Questions};
use xtask_host::tree::facts::Tree;
use xtask_model::image::policy::ImageKind;
use xtask_model::spec::reference::{Repository, Tag};

pub(super) struct Expected {
    list: PathBuf,
    /// Repositories with the tags that a build reads.
    repositories: BTreeMap<Repository, BTreeSet<Tag>>,
}

impl Expected {
    /// The questions about one repository's trees, of which there is at least one.
    pub(super) fn of<'t>(trees: impl Iterator<Item = &'t Tree>) -> Self {
        let (mut list, mut repositories) = (PathBuf::new(), BTreeMap::new());
        for tree in trees {
            list = tree.images().join("expected.json");
            let app = branch_tag(tree).into_iter().chain([Tag::latest()]).collect();
            repositories.insert(super::root::repository(tree), BTreeSet::new());
            repositories.insert(tree.repository(ImageKind::Base), BTreeSet::from([Tag::latest()]));
            repositories.insert(tree.repository(ImageKind::App), app);
        }
        Self { list, repositories }
    }

    /// Asks the listed questions about this tree's repositories, and for the images of those about which none are listed.
    pub(super) fn ask(&self, client: &Client) {
        let listed = std::fs::read(&self.list).ok();
        let listed = listed.and_then(|text| serde_json::from_slice::<BTreeMap<String, Questions>>(&text).ok());
        let mut listed = listed.unwrap_or_default();
        let (mut own, mut unlisted) = (BTreeMap::new(), BTreeMap::new());
        for (repository, tags) in &self.repositories {
            match listed.remove(&repository.to_string()) {
                Some(questions) => drop(own.insert(repository.clone(), questions)),
                None => drop(unlisted.insert(repository.clone(), tags.clone())),
            }
        }
        client.ask_early(&own);
        client.ask_for_images_early(&unlisted);
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
