//! `cargo xtask plan`: finds the two trees, plans the newer one as `build` does, has `change` classify the work, and prints it.

use crate::documents;
use crate::flags::{Format, Global, PlanFlags};
use crate::pipeline::{self, Sources, TreePlan, Unreadable, one_line};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xtask_host::registry::Answer;
use xtask_host::terminal;
use xtask_host::tree::context::WorkTree;
use xtask_host::tree::facts::{self, Tree};
use xtask_host::tree::git::revision::{self, Revision};
use xtask_host::tree::git::{Git, Objects};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::change::event::{self, Comparison};
use xtask_model::image::change::verification::{self, Needed};
use xtask_model::image::change::{
    self, ChangeFacts, ChangePlan, Changes, Machines, PlannedImage, Plans, Purpose, Ready, Work,
};
use xtask_model::image::commit::Commit;
use xtask_model::image::key::FileNames;
use xtask_model::image::policy::{ImageKind, Policy, SharedTags};
use xtask_model::image::presence::Presence;
use xtask_model::image::{shadow, tags};
use xtask_model::spec::reference::Tag;

/// Runs the command.
pub fn run(global: &Global, flags: &PlanFlags) -> anyhow::Result<()> {
    let plan = plan(global, flags, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
    tell(global.format, &plan)
}

/// Plans. `variable` is the environment, where CI says what happened.
pub fn plan(global: &Global, flags: &PlanFlags, variable: &dyn Fn(&str) -> Option<String>) -> Result<Plans, Fault> {
    let root = facts::find_root(global.root.as_deref())?;
    let clone = Clone { objects: Arc::new(Objects::open(&Git::at(&root), global.offline)?), root };
    let (heads, head_revision) = match &flags.head {
        Some(name) => {
            let revision = clone.revision(name)?;
            let id = revision.id.clone();
            (global.trees_of(Box::new(revision))?, Some(id))
        }
        None => (global.trees_of(Box::new(WorkTree::new(&clone.root)))?, None),
    };
    let head_name = head_revision.as_deref().unwrap_or("HEAD");
    if let Some(event) = clone.event(flags, variable)?
        && let Comparison::Deleted(name) = event.comparison
    {
        let deleted = |head: &Tree| {
            ChangePlan {
                decision: Work::Skip,
                reasons: vec![format!("{name} was deleted: there is nothing to build")],
                changes: Some(Changes::default()),
                verification: Needed::None,
                verification_reason: format!("{name} was deleted"),
                machines: Machines::One,
                compiles: false,
                ..unasked(event.purpose, None, head_revision.clone())
            }
            .of(&head.policy)
        };
        return Ok(Plans::new(heads.iter().map(deleted).collect()));
    }
    let (purpose, base) = clone.base(flags, variable, &heads[0].policy.project.default_branch, head_name)?;
    let changed = match &base {
        Ok(revision) => {
            Git::at(&clone.root).changed(&revision.id, head_revision.as_deref()).map_err(|fault| with_help(&fault))
        }
        Err(why) => Err(why.clone()),
    };
    let base_revision = base.as_ref().ok().map(|revision| revision.id.clone());
    // An app that is new has no older tree, whatever was selected.
    let all = Global { app: Vec::new(), ..global.clone() };
    let older = base.and_then(|revision| {
        let id = revision.id.clone();
        all.trees_of(Box::new(revision)).map_err(|fault| unreadable(&id, &fault))
    });
    let from_ci = clone.event(flags, variable)?.is_some();
    let older = Older { purpose, revision: base_revision, trees: older, changed, from_ci };
    let of = |head: &Tree| plan_app(global, &clone, (head, head_revision.as_deref()), &older, variable);
    Ok(Plans::new(heads.iter().map(of).collect::<Result<_, Fault>>()?))
}

/// Revision that head is compared with.
struct Older {
    purpose: Purpose,
    revision: Option<String>,
    /// Its trees, or why they cannot be read.
    trees: Result<Vec<Tree>, String>,
    /// The files in which head differs.
    changed: Result<Vec<String>, String>,
    /// CI's event names it, and CI may give a tag to head.
    from_ci: bool,
}

fn plan_app(
    global: &Global,
    clone: &Clone,
    (head, head_revision): (&Tree, Option<&str>),
    older: &Older,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<ChangePlan, Fault> {
    let purpose = older.purpose;
    let (base_revision, head_id) = (older.revision.clone(), head_revision.map(str::to_owned));
    let sources = match Sources::read_all(head) {
        Ok(sources) => sources,
        Err(Unreadable::Tree(fault)) => return Err(fault),
        Err(Unreadable::Base(fault)) if head.policy.app.name.is_some() => {
            return Err(fault.hint("an app from scratch takes the place of a base only where the policy has one app"));
        }
        Err(Unreadable::Base(fault)) => {
            let why = one_line(&fault);
            let plan = unasked(purpose, base_revision, head_id);
            let (base, app) = (plan.base.clone(), plan.app.clone());
            let changes = Err(why.clone());
            let (pinned, pinned_root) = (false, false);
            let facts = ChangeFacts { purpose, changes, no_base: Some(why), pinned, pinned_root, base, app };
            let (decision, reasons) = change::work_needed(&facts);
            let machines = Machines::needed(&head.policy, decision, true);
            return Ok(ChangePlan { decision, reasons, machines, ..plan });
        }
    };
    let documents: Vec<&str> = older
        .changed
        .iter()
        .flatten()
        .filter(|path| head.policy.ci.documents.ignores(path.as_bytes()))
        .map(String::as_str)
        .collect();
    let compared = older.trees.as_ref().map_err(String::clone).and_then(|trees| {
        let id = older.revision.as_deref().unwrap_or_default();
        let before = trees.iter().find(|tree| tree.policy.app.name == head.policy.app.name);
        let before = before.ok_or_else(|| format!("at `{}` there was no such app", &id[..12.min(id.len())]))?;
        compare(global, (before, id), &sources, &documents)
    });
    let compiles = compared.as_ref().map_or(head.policy.app.binary.is_some(), |compared| compared.compiles);
    let (changes, in_images) = match compared {
        Ok(TreeComparison { changes, in_images, .. }) => (Ok(changes), in_images),
        Err(why) => (Err(why.clone()), Err(why)),
    };
    let TreePlan { base, app, .. } = pipeline::plan_tree(global, &sources)?;
    // A merge queue tests the commit that the default branch then gets. Nothing else about a change is known before its own tests.
    let default = Some(&head.policy.project.default_branch);
    let commit = match purpose == Purpose::Change {
        _ if head_revision.is_some() => None,
        false => Git::at(&clone.root).commit(variable)?,
        true if older.from_ci && app.ready() == Ready::Yes => {
            Git::at(&clone.root).commit(variable)?.filter(|commit| commit.branch.as_ref() == default)
        }
        true => None,
    };
    let sampled = match head.policy.ci.shadow {
        None => Vec::new(),
        Some(_) => {
            let here = if head_revision.is_none() { Git::at(&clone.root).commit(variable)? } else { None };
            let commit = head_revision.or(here.as_ref().map(|commit| commit.id.as_str()));
            sample(&head.policy, commit, [(ImageKind::Base, &base), (ImageKind::App, &app)])
        }
    };
    let tested = commit.and_then(|commit| tested(head, &app, &commit));
    let asks = older.from_ci && purpose == Purpose::Change && !global.offline;
    let untested = base_revision.as_deref().filter(|_| asks).and_then(|id| untested(head, id));
    let (pinned, pinned_root) = (sources.pins.base.is_some(), sources.pins.root.is_some());
    let facts = ChangeFacts { purpose, changes, no_base: None, pinned, pinned_root, base, app };
    let (decision, reasons) = change::work_needed(&facts);
    let changed = older.changed.as_deref().map_err(String::as_str);
    let facts_of_tests = verification::VerificationFacts {
        purpose,
        changed,
        in_images: in_images.as_ref().map_err(String::as_str),
        untested: untested.as_deref(),
        tested: tested.as_deref(),
    };
    let ci = &head.policy.ci;
    let (verification, verification_reason) = verification::needed(&facts_of_tests, &ci.documents, &ci.tests);
    let ChangeFacts { changes, base, app, .. } = facts;
    let builds = compiles && matches!(decision, Work::Fast | Work::BaseFast) && head_revision.is_none();
    let dependencies = if builds { pipeline::to_pull(head) } else { None };
    let plan = ChangePlan {
        app_name: None,
        base_name: None,
        decision,
        reasons,
        purpose,
        base_revision,
        head_revision: head_id,
        changes: changes.ok(),
        base,
        app,
        verification,
        verification_reason,
        machines: Machines::needed(&head.policy, decision, compiles),
        compiles,
        dependencies,
        shadow: sampled,
    };
    Ok(plan.of(&head.policy))
}

fn unreadable(id: &str, fault: &Fault) -> String {
    format!("at `{}` {}", &id[..12.min(id.len())], one_line(fault))
}

/// The images that are reused and in the sample that is built again.
fn sample(policy: &Policy, commit: Option<&str>, images: [(ImageKind, &PlannedImage); 2]) -> Vec<ImageKind> {
    let (Some(share), Some(commit)) = (policy.ci.shadow, commit) else { return Vec::new() };
    let sampled = |image: &PlannedImage| {
        image.reused().is_some_and(|(_, fingerprint)| shadow::is_sampled(share, commit, &fingerprint))
    };
    images.into_iter().filter(|(_, image)| sampled(image)).map(|(kind, _)| kind).collect()
}

/// The tag of this commit, where it names this commit's app in the registry: CI puts it after the tests.
fn tested(tree: &Tree, app: &PlannedImage, commit: &Commit) -> Option<String> {
    let Presence::Registry(app) = &app.presence else { return None };
    if puts_untested(tree) {
        return None;
    }
    let tag = tags::of_commit(commit, &tree.policy.project.default_branch).all.into_iter().next()?;
    let client = pipeline::single_try_client(tree);
    let named = client.head(&tree.repository(ImageKind::App), tag.clone()).ok()?.present()?.digest;
    (named == app.digest).then(|| tag.to_string())
}

/// True if a `--push` without tests gives commits their tags. A registry of this machine is for trying CI out.
fn puts_untested(tree: &Tree) -> bool {
    tree.policy.project.shared_tags == SharedTags::Anywhere && !tree.repository(ImageKind::App).is_loopback()
}

/// Reason why nothing shows that the tests of a commit passed: CI puts its tag after them, and they failed or have not ended yet.
fn untested(tree: &Tree, id: &str) -> Option<String> {
    let short = &id[..12.min(id.len())];
    if puts_untested(tree) {
        return Some(format!(
            "with `[project] shared-tags = \"anywhere\"` no tag shows that the tests of `{short}` passed, on which this change is based"
        ));
    }
    let tag = Tag::from_name(short)?;
    match pipeline::single_try_client(tree).head(&tree.repository(ImageKind::App), tag) {
        Ok(Answer::Present(_)) => None,
        Ok(Answer::Absent) => Some(format!(
            "no tag in the registry shows that the tests of `{short}` passed, on which this change is based"
        )),
        Err(fault) => Some(format!("whether the tests of `{short}` passed is unknown: {}", one_line(&fault))),
    }
}

/// The differences of head to an older tree.
struct TreeComparison {
    changes: Changes,
    /// The program is compiled.
    compiles: bool,
    /// Changed documents that an image of either tree is made of, or why that is unknown.
    in_images: Result<BTreeSet<String>, String>,
}

/// Compares with an older tree; a reason where the older inputs cannot be read.
fn compare(
    global: &Global,
    (tree, id): (&Tree, &str),
    head: &Sources<'_>,
    documents: &[&str],
) -> Result<TreeComparison, String> {
    let old = Sources::read_all(tree).map_err(|why| unreadable(id, &why.fault()))?;
    let sources = head.sources_since(&old, id);
    let base_names = head.tree.names(head.base());
    let app_names = FileNames { sources: &sources, ..head.tree.names(&head.app().parsed) };
    let changes = change::compare(&old.inputs(), &head.inputs(), &base_names, &app_names);
    let in_images = in_images(&[head, &old], documents).map_err(|fault| one_line(&fault));
    Ok(TreeComparison { changes, compiles: compiles_since(head, &old, global), in_images })
}

/// The documents that an image of one of these trees is made of.
fn in_images(trees: &[&Sources<'_>], documents: &[&str]) -> Result<BTreeSet<String>, Fault> {
    let mut found = BTreeSet::new();
    for sources in trees.iter().filter(|_| !documents.is_empty()) {
        let made = sources.are_made_of(documents)?;
        found.extend(documents.iter().zip(made).filter(|(_, made)| *made).map(|(path, _)| (*path).to_owned()));
    }
    Ok(found)
}

/// Returns true if a build compiles the program: its sources changed, or the older tree's image with that program is missing.
fn compiles_since(head: &Sources<'_>, old: &Sources<'_>, global: &Global) -> bool {
    let program = |sources: &Sources<'_>| sources.app().binary().cloned();
    if program(head).is_none() || program(old) != program(head) {
        return program(head).is_some();
    }
    // Where one machine compiles for the only platform, a wrong guess costs time alone.
    let several = head.tree.policy.project.platforms.len() > 1;
    several && !pipeline::plan_tree(global, old).is_ok_and(|old| old.app.ready() == Ready::Yes)
}

/// A plan for which no registry was asked.
fn unasked(purpose: Purpose, base_revision: Option<String>, head_revision: Option<String>) -> ChangePlan {
    let image = || PlannedImage { reference: None, presence: Presence::NotAsked, decision: None };
    ChangePlan {
        app_name: None,
        base_name: None,
        decision: Work::Full,
        reasons: Vec::new(),
        purpose,
        base_revision,
        head_revision,
        changes: None,
        base: image(),
        app: image(),
        verification: Needed::All,
        verification_reason: "the base's inputs cannot be read".to_owned(),
        machines: Machines::Several,
        compiles: true,
        dependencies: None,
        shadow: Vec::new(),
    }
}

/// This clone of the repository, as far as git knows it.
struct Clone {
    root: PathBuf,
    objects: Arc<Objects>,
}

impl Clone {
    /// A revision that a person named: it has to exist.
    fn revision(&self, name: &str) -> Result<Revision, Fault> {
        Revision::find(&self.root, &self.objects, name)?.ok_or_else(|| revision::missing(name))
    }

    /// The event that CI or a flag names; none where a revision is named instead.
    fn event(
        &self,
        flags: &PlanFlags,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<event::Event>, Fault> {
        let file = flags.event.clone().or_else(|| variable("GITHUB_EVENT_PATH").map(PathBuf::from));
        if flags.base.is_some() {
            return Ok(None);
        }
        let Some(file) = file else { return event::of_gitlab(variable) };
        let shown = file.display().to_string();
        let json = std::fs::read_to_string(&file).map_err(|error| {
            Fault::usage(format!("cannot read the event `{shown}`"))
                .cause(error)
                .hint("name the revision instead: `cargo xtask plan --base REV`")
        })?;
        let name = variable("GITHUB_EVENT_NAME").filter(|_| flags.event.is_none());
        event::read(name.as_deref(), variable("GITHUB_REF").as_deref(), &shown, &json).map(Some)
    }

    /// The purpose, and the revision to compare with or why there is none.
    #[allow(clippy::type_complexity, reason = "two answers, one of them with a reason instead")]
    fn base(
        &self,
        flags: &PlanFlags,
        variable: &dyn Fn(&str) -> Option<String>,
        default_branch: &str,
        head: &str,
    ) -> Result<(Purpose, Result<Revision, String>), Fault> {
        if let Some(name) = &flags.base {
            return Ok((Purpose::Change, Ok(self.revision(name)?)));
        }
        let Some(event) = self.event(flags, variable)? else {
            return Ok((Purpose::Change, self.local(default_branch, head)));
        };
        let found = match &event.comparison {
            Comparison::Nothing(why) => Err(why.clone()),
            Comparison::Deleted(name) => Err(format!("{name} was deleted")),
            Comparison::Revision(id) => self.known(id),
            Comparison::Common(id) => match Git::at(&self.root).merge_base(id, head) {
                Ok(Some(common)) => self.known(&common),
                // What both have in common is beyond a shallow clone; the revision itself compares as well.
                Ok(None) => self.known(id),
                Err(fault) => Err(with_help(&fault)),
            },
        };
        Ok((event.purpose, found))
    }

    fn known(&self, id: &str) -> Result<Revision, String> {
        match Revision::find(&self.root, &self.objects, id) {
            Ok(Some(revision)) => Ok(revision),
            Ok(None) => Err(format!(
                "revision `{}` is not in this clone: it was pushed over, or the clone is shallow (`fetch-depth: 0`; on GitLab `GIT_DEPTH: 0`)",
                &id[..12.min(id.len())]
            )),
            Err(fault) => Err(with_help(&fault)),
        }
    }

    /// The revision that a person's change is compared with: where it left the default branch; with nothing but uncommitted changes, the
    /// commit; a commit of the default branch itself, with the one before it.
    fn local(&self, default_branch: &str, head: &str) -> Result<Revision, String> {
        let commit = |name: &str| revision::commit(&self.objects, name).map_err(|fault| with_help(&fault));
        let Some(id) = commit(head)? else {
            // A commit that git cannot read is not a repository without one.
            let found = Git::at(&self.root).commit(&|_| None).map_err(|fault| with_help(&fault))?;
            return Err(found.map_or("the repository has no commits", |_| "git does not find the commit").to_owned());
        };
        for name in [format!("refs/remotes/origin/{default_branch}"), format!("refs/heads/{default_branch}")] {
            let Some(default) = commit(&name)? else { continue };
            if default == id {
                break;
            }
            let common = Git::at(&self.root).merge_base(&default, &id).map_err(|fault| with_help(&fault))?;
            match common {
                Some(common) if common != id => return self.known(&common),
                Some(_) => break,
                None => {}
            }
        }
        if head == "HEAD" {
            return self.known(&id);
        }
        match commit(&format!("{id}^1"))? {
            Some(parent) => self.known(&parent),
            None => Err("there is no commit before it".to_owned()),
        }
    }
}

/// A fault in one line, with the command that helps.
fn with_help(fault: &Fault) -> String {
    match fault.hints.first() {
        Some(hint) => format!("{}; {hint}", one_line(fault)),
        None => one_line(fault),
    }
}

fn tell(format: Format, plan: &Plans) -> anyhow::Result<()> {
    match format {
        Format::Text => {
            if let Some(base) = plan.base_revision() {
                terminal::step("compared", &format!("with commit `{}`", &base[..12.min(base.len())]));
            }
            super::print(&plan.text())
        }
        Format::Json => documents::PLAN.print(plan),
        Format::Gitlab => {
            for line in plan.text().lines() {
                terminal::step("plan", line.trim());
            }
            let outputs = plan.outputs();
            super::print(&outputs.iter().map(|(name, value)| change::dotenv_line(name, value)).collect::<String>())
        }
        Format::Github => {
            let outputs: String = plan.outputs().iter().map(|(name, value)| change::output_line(name, value)).collect();
            hand_over("GITHUB_OUTPUT", &outputs)?;
            hand_over("GITHUB_STEP_SUMMARY", &plan.markdown())?;
            for line in plan.text().lines() {
                terminal::step("plan", line.trim());
            }
            Ok(())
        }
    }
}

/// Appends to the file that a variable of CI names; without one, to stdout.
fn hand_over(variable: &str, text: &str) -> anyhow::Result<()> {
    let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) else { return super::print(text) };
    let cannot = |error: std::io::Error| {
        Fault::new(Exit::Usage, format!("cannot write `{}`", Path::new(&path).display()))
            .needed_by(format!("`{variable}`"))
            .cause(error)
    };
    let mut file = std::fs::File::options().create(true).append(true).open(&path).map_err(cannot)?;
    file.write_all(text.as_bytes()).map_err(cannot)?;
    Ok(())
}
