//! Parts of roots: all bases of a project share them, so they are planned once, by the roots of every base in the registry.

use super::{changed, delete_all, gone};
use crate::flags::Global;
use crate::pipeline;
use std::collections::BTreeSet;
use std::time::Duration;
use xtask_host::registry::publish::parts;
use xtask_host::registry::{Client, survey};
use xtask_host::tree::facts::{self, Tree};
use xtask_host::{clock, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::bases::{PartSurvey, Verdict, prune_parts};
use xtask_model::image::policy::ImageKind;
use xtask_model::spec::lock::images;
use xtask_model::spec::reference::{Digest, Repository};
use xtask_native::files::part_id;
use xtask_native::recipes::python::PYTHON;

/// Deletion plan of parts, with the survey that it was made from.
pub(super) struct PartPruning {
    /// One for each base, whichever app is selected.
    trees: Vec<Tree>,
    client: Client,
    repository: Repository,
    surveyed: PartSurvey,
    pub verdicts: Vec<Verdict>,
}

impl PartPruning {
    pub(super) fn plan(global: &Global, older_than: Duration) -> Result<Self, Fault> {
        let trees = Global { app: Vec::new(), ..global.clone() }.trees_of_bases()?;
        let (client, repository) = (trees[0].client(), pipeline::root_repository(&trees[0]));
        // A registry may refuse to say that it has no such repository.
        let surveyed = survey_of(&client, &repository, &trees).unwrap_or_else(|fault| {
            terminal::warn(&format!("parts of roots are not looked at: {}", pipeline::one_line(&fault)));
            PartSurvey::default()
        });
        let verdicts = prune_parts(&surveyed, older_than, clock::now());
        Ok(Self { trees, client, repository, surveyed, verdicts })
    }

    /// Manifests to delete.
    pub(super) fn old(&self) -> BTreeSet<Digest> {
        gone(&self.verdicts)
    }

    pub(super) fn execute(&self) -> Result<(), Fault> {
        let old = self.old();
        if !old.is_empty() && survey_of(&self.client, &self.repository, &self.trees)? != self.surveyed {
            return Err(changed(&self.repository));
        }
        delete_all(&self.client, &self.repository, &old, "parts of roots")
    }
}

/// The parts, and which of them builds on known roots read.
fn survey_of(client: &Client, repository: &Repository, trees: &[Tree]) -> Result<PartSurvey, Fault> {
    let mut survey = PartSurvey { stored: survey::artifacts(client, repository, parts::is)?, ..PartSurvey::default() };
    if survey.stored.is_empty() {
        return Ok(survey);
    }
    let mut needs = |root: &Digest, why: String| survey.needed.insert(parts::tag(&part_id(root, &PYTHON)), why);
    for tree in trees {
        for (root, base) in survey::roots(client, &tree.repository(ImageKind::Base))? {
            needs(&root, format!("the base `{base}` is on its root"));
        }
        for root in facts::images_lock(tree)?.root.iter().flat_map(|pin| pin.platforms.values()) {
            needs(root, format!("`{}` pins its root", images::PATH));
        }
    }
    Ok(survey)
}
