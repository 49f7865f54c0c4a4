//! `cargo xtask plan`: finds the two trees, gathers the facts of both, has `change` decide, and tells it.

use crate::build;
use crate::flags::{Format, Global, PlanFlags};
use crate::survey::{Footing, Snapshot, Untaken, said};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xtask_host::registry::Answer;
use xtask_host::terminal;
use xtask_host::tree::facts::{self};
use xtask_host::tree::git::revision::{self, Revision};
use xtask_host::tree::git::{Git, Objects};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::change::{self, Changes, Decision, Facts, Machines, Plan, Presence, Purpose};
use xtask_model::image::commit::Commit;
use xtask_model::image::event::{self, Against};
use xtask_model::image::key::Names;
use xtask_model::image::policy::{ImageKind, Policy};
use xtask_model::image::tags;
use xtask_model::image::verification::{self, Needed};
use xtask_model::spec::reference::{Reference, Tag};

/// Runs the command.
pub fn run(global: &Global, flags: &PlanFlags) -> anyhow::Result<()> {
    let plan = plan(global, flags, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
    tell(global.format, &plan)
}

/// Plans. `variable` is the environment, where CI says what happened.
pub fn plan(global: &Global, flags: &PlanFlags, variable: &dyn Fn(&str) -> Option<String>) -> Result<Plan, Fault> {
    let root = facts::find_root(global.root.as_deref())?;
    let clone = Clone { objects: Arc::new(Objects::open(&Git::at(&root), global.offline)?), root };
    let (head, head_revision) = match &flags.head {
        Some(name) => {
            let revision = clone.revision(name)?;
            let id = revision.id.clone();
            (global.tree_of(Box::new(revision))?, Some(id))
        }
        None => (global.tree_of(Box::new(clone.root.clone()))?, None),
    };
    let head_name = head_revision.as_deref().unwrap_or("HEAD");
    if let Some(event) = clone.event(flags, variable)?
        && let Against::Deleted(name) = event.against
    {
        return Ok(nothing_left(event.purpose, head_revision, &name));
    }
    let (purpose, base) = clone.base(flags, variable, &head.policy.project.default_branch, head_name)?;
    let base_revision = base.as_ref().ok().map(|revision| revision.id.clone());
    let policy = head.policy.clone();
    let head = match Snapshot::take(head) {
        Ok(head) => head,
        Err(Untaken::Wrong(fault)) => return Err(fault),
        Err(Untaken::NoBase(fault)) => {
            let plan = from_scratch(purpose, base_revision, head_revision, &fault);
            return Ok(Plan { machines: Machines::needed(&policy, plan.decision, true), ..plan });
        }
    };
    let changed = match &base {
        Ok(revision) => {
            Git::at(&clone.root).changed(&revision.id, head_revision.as_deref()).map_err(|fault| with_help(&fault))
        }
        Err(why) => Err(why.clone()),
    };
    let compared = base.and_then(|revision| compare(global, revision, &head));
    let compiles = compared.as_ref().map_or(head.tree.policy.app.binary.is_some(), |(_, compiles)| *compiles);
    let changes = compared.map(|(changes, _)| changes);
    let Footing { base, app, .. } = head.footing(global)?;
    let (base_reference, app_reference) = (base.reference, app.reference);
    let pinned = head.pinned_base().is_some();
    let (base, app) = (base.presence, app.presence);
    let facts = Facts { purpose, changes: changes.clone(), no_base: None, pinned, base, app };
    let (decision, reasons) = change::decide(&facts);
    let Facts { base, app, .. } = facts;
    let changes = changes.ok();
    let commit = if purpose == Purpose::Change || flags.head.is_some() {
        None
    } else {
        Git::at(&clone.root).commit(variable)?
    };
    let tested = commit.and_then(|commit| tested(global, &head, app_reference.as_ref(), &commit));
    let (verification, verification_reason) = verify(&head.tree.policy, purpose, &changed, tested.as_deref());
    Ok(Plan {
        verification,
        verification_reason,
        machines: Machines::needed(&head.tree.policy, decision, compiles),
        compiles,
        decision,
        reasons,
        purpose,
        base_revision,
        head_revision,
        changes,
        base_reference,
        base,
        app_reference,
        app,
    })
}

fn verify(
    policy: &Policy,
    purpose: Purpose,
    changed: &Result<Vec<String>, String>,
    tested: Option<&str>,
) -> (Needed, String) {
    let changed = changed.as_deref().map_err(String::as_str);
    verification::needed(&verification::Facts { purpose, changed, tested }, &policy.ci.documents, &policy.ci.tests)
}

/// The tag of this commit, where it names this commit's app in the registry: CI puts it after the tests.
fn tested(global: &Global, head: &Snapshot, app: Option<&Reference>, commit: &Commit) -> Option<String> {
    let app = app.filter(|_| !global.offline)?;
    let tag = tags::of_commit(commit, &head.tree.policy.project.default_branch).all.into_iter().next()?;
    let client = build::impatient(&head.tree);
    let digest = |tag: &Tag| match client.head(&head.tree.repository(ImageKind::App), tag) {
        Ok(Answer::Present(found)) => Some(found.digest),
        _ => None,
    };
    let named = digest(&tag)?;
    (digest(app.tag.as_ref()?) == Some(named)).then(|| tag.to_string())
}

/// The differences of head to a revision, and whether the program is compiled; a reason where the revision's inputs cannot be read.
fn compare(global: &Global, revision: Revision, head: &Snapshot) -> Result<(Changes, bool), String> {
    let id = revision.id.clone();
    let old = global
        .tree_of(Box::new(revision))
        .map_err(Untaken::from)
        .and_then(Snapshot::take)
        .map_err(|why| format!("at `{}` {}", &id[..12], said(&why.fault())))?;
    let sources = head.sources_since(&old, &id);
    let names = (head.tree.names(&head.base), Names { sources: &sources, ..head.tree.names(&head.app) });
    let changes = change::compare(&old.inputs(), &head.inputs(), &names.0, &names.1);
    Ok((changes, head.compiles_since(&old, global)))
}

/// The plan for an event that removed what it is about.
fn nothing_left(purpose: Purpose, head_revision: Option<String>, name: &str) -> Plan {
    Plan {
        decision: Decision::Skip,
        reasons: vec![format!("{name} was deleted: there is nothing to build")],
        purpose,
        base_revision: None,
        head_revision,
        changes: Some(Changes::default()),
        base_reference: None,
        base: Presence::NotAsked,
        app_reference: None,
        app: Presence::NotAsked,
        verification: Needed::None,
        verification_reason: format!("{name} was deleted"),
        machines: Machines::One,
        compiles: false,
    }
}

fn from_scratch(purpose: Purpose, base_revision: Option<String>, head_revision: Option<String>, why: &Fault) -> Plan {
    let facts = Facts {
        purpose,
        changes: Err(said(why)),
        no_base: Some(said(why)),
        pinned: false,
        base: Presence::NotAsked,
        app: Presence::NotAsked,
    };
    let (decision, reasons) = change::decide(&facts);
    debug_assert_eq!(decision, Decision::Full);
    Plan {
        decision,
        reasons,
        purpose,
        base_revision,
        head_revision,
        changes: None,
        base_reference: None,
        base: facts.base,
        app_reference: None,
        app: facts.app,
        verification: Needed::All,
        verification_reason: "the base's inputs cannot be read".to_owned(),
        machines: Machines::Several,
        compiles: true,
    }
}

/// This clone of the repository, as far as git knows it.
struct Clone {
    root: PathBuf,
    objects: Arc<Objects>,
}

impl Clone {
    /// A revision that a person named: it has to be there.
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
        let Some(file) = file.filter(|_| flags.base.is_none()) else { return Ok(None) };
        let shown = file.display().to_string();
        let json = std::fs::read_to_string(&file).map_err(|error| {
            Fault::usage(format!("cannot read the event `{shown}`"))
                .cause(error)
                .hint("name the revision instead: `cargo xtask plan --base REV`")
        })?;
        let name = variable("GITHUB_EVENT_NAME").filter(|_| flags.event.is_none());
        event::read(name.as_deref(), variable("GITHUB_REF").as_deref(), &shown, &json).map(Some)
    }

    /// What asked, and the revision to compare with or why there is none.
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
        let found = match &event.against {
            Against::Nothing(why) => Err(why.clone()),
            Against::Deleted(name) => Err(format!("{name} was deleted")),
            Against::Revision(id) => self.known(id),
            Against::Common(id) => match Git::at(&self.root).merge_base(id, head) {
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
                "revision `{}` is not in this clone: it was pushed over, or the clone is shallow (`fetch-depth: 0`)",
                &id[..12.min(id.len())]
            )),
            Err(fault) => Err(with_help(&fault)),
        }
    }

    /// What a person's change is compared with: where it left the default branch; with nothing but uncommitted changes, the
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
        Some(hint) => format!("{}; {hint}", said(fault)),
        None => said(fault),
    }
}

fn tell(format: Format, plan: &Plan) -> anyhow::Result<()> {
    match format {
        Format::Text => {
            if let Some(base) = &plan.base_revision {
                terminal::step("compared", &format!("with commit `{}`", &base[..12.min(base.len())]));
            }
            super::print(&plan.text())
        }
        Format::Json => super::print(&format!("{}\n", serde_json::to_string_pretty(plan)?)),
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
