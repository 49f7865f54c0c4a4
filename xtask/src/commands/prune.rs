//! `prune`: deletes old apps in the registry, and what only saves builds time: compiled dependencies and parts of roots.

mod parts;

use crate::documents;
use crate::flags::{Format, Global, PruneFlags};
use crate::pipeline;
use parts::PartPruning;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use xtask_host::process::Command;
use xtask_host::registry::survey::{self, SurveyRequest};
use xtask_host::registry::{Answer, Client};
use xtask_host::tree::facts::Tree;
use xtask_host::tree::git::Git;
use xtask_host::{clock, process, terminal};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::bases::{self, AppRules, AppSurvey, Pruning, Rules, Stored, Verdict, prune_apps};
use xtask_model::image::policy::ImageKind;
use xtask_model::image::tags::{BranchTag, branch_tag};
use xtask_model::quantity;
use xtask_model::spec::reference::{Digest, Reference, Repository, Tag};

/// Runs the command.
pub fn run(global: &Global, flags: &PruneFlags) -> anyhow::Result<()> {
    global.check_online("prune")?;
    let trees = global.trees()?;
    let listed = listed(&trees[0], flags)?;
    // Every app is planned before anything is deleted.
    let branches = branches(&trees[0])?;
    if branches.is_none() {
        terminal::warn("this clone does not know every branch: tags of deleted branches stay");
        terminal::step(
            "",
            "a full clone with a remote `origin` does; in a shallow one: `git fetch --unshallow --prune origin`",
        );
    }
    let plan = |tree| AppPruning::plan(flags, tree, (&listed, branches.clone()));
    let apps = trees.iter().map(plan).collect::<Result<Vec<_>, Fault>>()?;
    let parts = PartPruning::plan(global, flags.older_than)?;
    if global.format == Format::Json {
        print_document(apps.iter().map(AppPruning::document).collect(), Some(&parts.verdicts))?;
    } else {
        for app in &apps {
            show(&app.plan.verdicts);
            show(&app.dependencies);
        }
        show(&parts.verdicts);
    }
    let is_empty = parts.old().is_empty() && apps.iter().all(AppPruning::is_empty);
    if is_empty || !flags.yes {
        let what = if is_empty { "to delete" } else { "was deleted; to delete it, add `--yes`" };
        terminal::step("nothing", what);
        return Ok(());
    }
    apps.iter().filter(|app| !app.is_empty()).try_for_each(AppPruning::execute)?;
    Ok(parts.execute()?)
}

pub(super) fn show(verdicts: &[Verdict]) {
    for verdict in verdicts {
        let size = if verdict.size > 0 { format!(", {}", quantity::bytes(verdict.size)) } else { String::new() };
        let verb = if verdict.keep { "keep" } else { "delete" };
        terminal::step(verb, &format!("`{}`{size}: {}", verdict.name, verdict.reasons.join("; ")));
    }
}

/// Prints what is deleted as one document: that of one image, or of several by their names, and what all of them share.
pub(super) fn print_document(mut plans: Vec<(Option<String>, Value)>, parts: Option<&[Verdict]>) -> anyhow::Result<()> {
    let mut document = match plans.as_mut_slice() {
        [(_, only)] => only.take(),
        several => {
            several.iter_mut().for_each(|(name, plan)| plan["name"] = json!(name));
            json!({"images": plans.into_iter().map(|(_, plan)| plan).collect::<Vec<_>>()})
        }
    };
    if let Some(parts) = parts {
        document["parts"] = json!(parts);
    }
    documents::PRUNE.print(&document)
}

/// Deletes manifests in any order.
fn delete_all(client: &Client, repository: &Repository, digests: &BTreeSet<Digest>, what: &str) -> Result<(), Fault> {
    for digest in digests {
        process::interrupted()?;
        client.delete_manifest(repository, digest)?;
    }
    if !digests.is_empty() {
        terminal::step("deleted", &format!("{} manifests of {what}", digests.len()));
    }
    Ok(())
}

/// The fault of a repository that is not as it was when the deletion was planned.
fn changed(repository: &Repository) -> Fault {
    Fault::drift(format!("`{repository}` changed while the plan was shown: nothing was deleted in it"))
        .hint("run this again")
}

/// Digests of what does not stay.
fn gone(verdicts: &[Verdict]) -> BTreeSet<Digest> {
    verdicts.iter().filter(|one| !one.keep).map(|one| one.digest).collect()
}

/// Deletion plan of an app, with the survey that it was made from.
struct AppPruning<'t> {
    tree: &'t Tree,
    client: Client,
    /// Repository of the app, and of its compiled dependencies.
    repositories: [Repository; 2],
    surveyed: (AppSurvey, Vec<Stored>),
    plan: Pruning,
    dependencies: Vec<Verdict>,
}

impl<'t> AppPruning<'t> {
    fn plan(
        flags: &PruneFlags,
        tree: &'t Tree,
        (listed, branches): (&RunningImage, Option<BTreeSet<Tag>>),
    ) -> Result<Self, Fault> {
        let client = tree.client();
        let (bases, apps) = (tree.repository(ImageKind::Base), tree.repository(ImageKind::App));
        if bases == apps {
            return Err(Fault::usage(format!("apps and bases share the repository `{apps}`"))
                .hint("`cargo xtask base prune` knows what both need"));
        }
        let (digests, tags) = in_use(listed, &apps)?;
        let now = clock::now();
        let rules = Rules { keep: flags.keep, older_than: flags.older_than, now, this_tree: None, pinned: None };
        let rules = AppRules { rules, branches, every_name: flags.every_name, digests, tags };
        let repositories = [apps, pipeline::dependencies_repository(tree)];
        let surveyed = survey_of(&client, tree, &repositories)?;
        let plan = prune_apps(&surveyed.0, &rules);
        let dependencies = bases::prune_dependencies(surveyed.1.clone(), flags.keep, flags.older_than, now);
        Ok(Self { tree, client, repositories, surveyed, plan, dependencies })
    }

    fn document(&self) -> (Option<String>, Value) {
        let value = json!({"registry": self.plan, "layouts": [], "dependencies": self.dependencies});
        (self.tree.policy.app.name.clone(), value)
    }

    /// Manifests of compiled dependencies to delete.
    fn old(&self) -> BTreeSet<Digest> {
        gone(&self.dependencies)
    }

    fn is_empty(&self) -> bool {
        self.plan.is_empty() && self.old().is_empty()
    }

    fn execute(&self) -> Result<(), Fault> {
        let [apps, compiled] = &self.repositories;
        if survey_of(&self.client, self.tree, &self.repositories)? != self.surveyed {
            return Err(changed(apps));
        }
        delete_all(&self.client, compiled, &self.old(), "compiled dependencies")?;
        if self.plan.is_empty() { Ok(()) } else { delete(&self.client, apps, &self.plan) }
    }
}

/// The app's images, and its compiled dependencies.
fn survey_of(
    client: &Client,
    tree: &Tree,
    [apps, compiled]: &[Repository; 2],
) -> Result<(AppSurvey, Vec<Stored>), Fault> {
    let request = SurveyRequest {
        client,
        bases: apps,
        apps: &[],
        platforms: &tree.policy.project.platforms,
        tag_length: tree.policy.base.tag_length,
        referrers: true,
    };
    let survey = survey::apps_of(&request)?;
    let dependencies = match tree.policy.app.binary {
        Some(_) => survey::artifacts(client, compiled, |_| true),
        None => Ok(Vec::new()),
    };
    // A registry may refuse to say that it has no such repository.
    let dependencies = dependencies.unwrap_or_else(|fault| {
        terminal::warn(&format!("compiled dependencies are not looked at: {}", pipeline::one_line(&fault)));
        Vec::new()
    });
    Ok((survey, dependencies))
}

fn delete(client: &Client, apps: &Repository, plan: &Pruning) -> Result<(), Fault> {
    let mut deleted = 0;
    for digest in &plan.digests {
        process::interrupted()?;
        deleted += usize::from(client.delete_manifest(apps, digest)? != Answer::Absent);
    }
    let mut left = Vec::new();
    for tag in &plan.tags {
        process::interrupted()?;
        if let Err(fault) = client.delete_manifest(apps, tag.clone()) {
            terminal::detail(&fault.to_string());
            left.push(format!("`{tag}`"));
        }
    }
    let tags = plan.tags.len() - left.len();
    terminal::step(
        "deleted",
        &format!("{deleted} manifests and {tags} tags; layers go with the registry's next garbage collection"),
    );
    if !left.is_empty() {
        terminal::warn(&format!("the registry deletes no tag alone: {} stay with their images", left.join(", ")));
    }
    Ok(())
}

/// Tags of the branches that exist.
fn branches(tree: &Tree) -> Result<Option<BTreeSet<Tag>>, Fault> {
    let default = &tree.policy.project.default_branch;
    let Some(mut names) = Git::at(&tree.root).branches()? else { return Ok(None) };
    if !names.contains(default) {
        return Ok(None);
    }
    names.extend(tree.commit.as_ref().and_then(|commit| commit.branch.clone()));
    let tag = |name: &String| match branch_tag(name, default) {
        BranchTag::Same(tag) | BranchTag::Other(tag, _) => Some(tag),
        BranchTag::None(_) => None,
    };
    Ok(Some(names.iter().filter_map(tag).collect()))
}

/// List of the images that run somewhere.
struct RunningImage {
    text: String,
    /// The file and the command that list it.
    sources: Vec<String>,
}

fn listed(tree: &Tree, flags: &PruneFlags) -> Result<RunningImage, Fault> {
    let mut text = String::new();
    let mut sources = Vec::new();
    if let Some(path) = &flags.in_use {
        let cannot = |error| {
            Fault::usage(format!("cannot read `{}`", path.display()))
                .cause(error)
                .hint("name a file that lists what runs: `--in-use FILE`")
        };
        text += &std::fs::read_to_string(path).map_err(cannot)?;
        sources.push(format!("`{}`", path.display()));
    }
    if let [program, args @ ..] = flags.command.as_slice() {
        text.push(' ');
        text += &Command::new(program).args(args).current_dir(&tree.root).read(Exit::Build)?;
        sources.push(format!("`{}`", flags.command.join(" ")));
    }
    Ok(RunningImage { text, sources })
}

/// Images of an app that run.
fn in_use(
    RunningImage { text, sources }: &RunningImage,
    apps: &Repository,
) -> Result<(BTreeSet<Digest>, BTreeSet<Tag>), Fault> {
    let (digests, tags) = named(text, apps);
    if !sources.is_empty() {
        let sources = sources.join(" and ");
        if digests.is_empty() && tags.is_empty() {
            return Err(Fault::usage(format!("{sources} lists no image of `{apps}`"))
                .cause("a list that is empty by mistake would delete what is in use")
                .hint("without a list, leave it out"));
        }
        terminal::step("in use", &format!("{} digests and {} tags, by {sources}", digests.len(), tags.len()));
    }
    Ok((digests, tags))
}

/// Digests and tags of a repository in any text.
fn named(text: &str, apps: &Repository) -> (BTreeSet<Digest>, BTreeSet<Tag>) {
    let (mut digests, mut tags) = (BTreeSet::new(), BTreeSet::new());
    for word in text.split(|c: char| c.is_whitespace() || "\"',;[]{}()<>=".contains(c)) {
        let word = word.rsplit("://").next().unwrap_or_default();
        if let Some(at) = word.find("sha256:") {
            digests.extend(word.get(at..at + 71).and_then(|digest| digest.parse::<Digest>().ok()));
        }
        if let Ok(Reference { repository, tag: Some(tag), .. }) = word.parse::<Reference>()
            && repository == *apps
        {
            tags.insert(tag);
        }
    }
    (digests, tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_in_any_text() {
        let apps: Repository = "ghcr.io/acme/app".parse().unwrap();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let text = format!(
            "image: \"ghcr.io/acme/app:main\"\n- imageID: docker-pullable://ghcr.io/acme/app@{one}\n{{\"i\":\"containerd://{two}\"}}\n\
             other: ghcr.io/acme/other:1.0\nsha256:short"
        );
        let (digests, tags) = named(&text, &apps);
        assert_eq!(digests, [one, two].into());
        assert_eq!(tags, ["main".parse().unwrap()].into());
        assert_eq!(named("", &apps), (BTreeSet::new(), BTreeSet::new()));
    }
}
