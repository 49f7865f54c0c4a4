//! `stats --replay A..B`: plans each commit against its first parent, as CI would without a registry, and sums up.
//!
//! Trees are read from git's objects by one process. A commit that changes nothing that was read for the one before has the same
//! inputs, and is not read again.

use crate::documents;
use crate::flags::{Format, Global};
use crate::pipeline::{Sources, Unreadable, one_line};
use std::path::Path;
use std::sync::Arc;
use xtask_host::tree::facts::Tree;
use xtask_host::tree::git::revision::{self, Revision};
use xtask_host::tree::git::{Git, Objects, Step};
use xtask_host::tree::watched::{Paths, Recorder};
use xtask_host::{file, process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::change::verification::{self, Needed};
use xtask_model::image::change::{self, ChangeFacts, Changes, Inputs, PlannedImage, Purpose};
use xtask_model::image::key::{BinaryKey, FileNames};
use xtask_model::image::policy::Policy;
use xtask_model::image::presence::Presence;
use xtask_model::record::census::{self, AppCensus, Census, Censuses, Class, ReplayedCommit};
use xtask_model::record::ledger::{BuildKind, Record};
use xtask_model::spec::reference::Platform;

/// Replays a range for each app and prints the result.
pub(super) fn run(
    global: &Global,
    trees: &[Tree],
    (from, to): (&str, &str),
    records: &[Record],
    html: Option<&Path>,
) -> anyhow::Result<()> {
    let tree = &trees[0];
    let objects = Arc::new(Objects::open(&Git::at(&tree.root), global.offline)?);
    let id = |name: &str| revision::commit(&objects, name)?.ok_or_else(|| revision::missing(name));
    let steps = Git::at(&tree.root).first_parents(&id(from)?, &id(to)?)?;
    let here: Vec<Record> = records.iter().filter(|record| is_here(record)).cloned().collect();
    let range = format!("{from}..{to}");
    let census = |tree: &Tree| -> Result<Census, Fault> {
        let global = global.of(tree);
        let replay = Replay { global: &global, tree, objects: &objects, before: Before::nothing() };
        let app = &tree.policy.app.name;
        // A base is recorded under the first of its apps.
        let of_app = |record: &&Record| record.app == *app || record.decision == BuildKind::BaseFast;
        let records: Vec<Record> = here.iter().filter(of_app).cloned().collect();
        let has_program = tree.policy.app.binary.is_some();
        Ok(census::count(&range, replay.all(&steps)?, &records, has_program))
    };
    let title = &tree.policy.project.name;
    let (json, text, page) = if tree.policy.app.name.is_none() {
        let census = census(tree)?;
        (serde_json::to_value(&census)?, census.text(), census.page(title))
    } else {
        let of = |tree: &Tree| -> Result<AppCensus, Fault> {
            let (name, base) = (tree.policy.app.name.clone().unwrap_or_default(), tree.policy.base.name.clone());
            Ok(AppCensus { name, base, census: census(tree)? })
        };
        let apps = trees.iter().map(of).collect::<Result<Vec<_>, Fault>>()?;
        let all = Censuses::of(&range, apps, &here);
        (serde_json::to_value(&all)?, all.text(), all.page(title))
    };
    match global.format {
        Format::Json => documents::CENSUS.print(&json)?,
        Format::Text | Format::Github | Format::Gitlab => crate::commands::print(&text)?,
    }
    if let Some(path) = html {
        file::write(path, &page)?;
        terminal::step("wrote", &format!("`{}`", path.display()));
    }
    Ok(())
}

/// Returns true if a build ran on this machine, at the desk.
fn is_here(record: &Record) -> bool {
    let machine = record.machine();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    !machine.ci && machine.builder.is_none() && machine.cores == cores && machine.platform == Some(Platform::host())
}

struct Replay<'a> {
    global: &'a Global,
    tree: &'a Tree,
    objects: &'a Arc<Objects>,
    before: Before,
}

/// Facts about the commit before.
struct Before {
    inputs: Result<Inputs, String>,
    /// Paths that were read for it.
    read: Paths,
    policy: Option<Policy>,
}

/// Needs of a commit, as far as its inputs could be read.
enum CommitNeeds {
    Decided(Box<ChangeFacts>, bool),
    Unreadable(String),
}

impl Before {
    fn nothing() -> Self {
        Self { inputs: Err("there is no commit before it".to_owned()), read: Paths::new(), policy: None }
    }
}

impl Replay<'_> {
    /// Replays the steps of a range, each against the one before.
    fn all(mut self, steps: &[Step]) -> Result<Vec<ReplayedCommit>, Fault> {
        if let Some(parent) = steps.first().map(|first| format!("{}^1", first.commit))
            && revision::commit(self.objects, &parent)?.is_some()
        {
            self.before = self.read(&parent)?.0;
        }
        steps.iter().map(|step| self.step(step)).collect()
    }

    /// Reads the inputs of a commit, and compares them with those of the one before.
    fn read(&self, name: &str) -> Result<(Before, CommitNeeds), Fault> {
        let revision = Revision::find(&self.tree.root, self.objects, name)?.ok_or_else(|| revision::missing(name))?;
        let (files, record) = Recorder::new(revision);
        let tree = match self.global.tree_of(Box::new(files)) {
            Ok(tree) => tree,
            Err(fault) => {
                let why = one_line(&fault);
                let before = Before { inputs: Err(why.clone()), read: record.paths(), policy: None };
                return Ok((before, CommitNeeds::Unreadable(why)));
            }
        };
        let (inputs, needs) = match Sources::read_all(&tree) {
            Ok(sources) => {
                let inputs = sources.inputs();
                let changes = self.before.inputs.as_ref().map_err(String::clone).map(|old| {
                    let changed = if program(old) == program(&inputs) { "" } else { "changed" };
                    let app = FileNames { sources: changed, ..tree.names(&sources.app().parsed) };
                    change::compare(old, &inputs, &tree.names(sources.base()), &app)
                });
                let known = self.before.inputs.as_ref().ok().and_then(program);
                let compiles = program(&inputs).is_some() && program(&inputs) != known;
                let facts = facts(changes, None, sources.pins.base.is_some());
                (Ok(inputs), CommitNeeds::Decided(facts, compiles))
            }
            Err(Unreadable::Base(fault)) => {
                let why = one_line(&fault);
                (Err(why.clone()), CommitNeeds::Decided(facts(Err(why.clone()), Some(why), false), true))
            }
            Err(Unreadable::Tree(fault)) => (Err(one_line(&fault)), CommitNeeds::Unreadable(one_line(&fault))),
        };
        Ok((Before { inputs, read: record.paths(), policy: Some(tree.policy) }, needs))
    }

    fn step(&mut self, step: &Step) -> Result<ReplayedCommit, Fault> {
        process::interrupted()?;
        let needs = if self.before.inputs.is_ok() && !touches(&self.before.read, &step.changed) {
            CommitNeeds::Decided(facts(Ok(Changes::default()), None, false), false)
        } else {
            let (before, needs) = self.read(&step.commit)?;
            self.before = before;
            needs
        };
        let (class, reasons) = match needs {
            CommitNeeds::Unreadable(why) => (Class::Unreadable, vec![why]),
            CommitNeeds::Decided(facts, compiles) => {
                let (work, reasons) = change::work_needed(&facts);
                (Class::of(work, compiles), reasons)
            }
        };
        let changed = Ok(step.changed.as_slice());
        // Which documents an image is made of is not looked up for each commit.
        let (purpose, in_images) = (Purpose::Change, Ok(&std::collections::BTreeSet::new()));
        let facts = verification::VerificationFacts { purpose, changed, in_images, untested: None, tested: None };
        let tests = match &self.before.policy {
            Some(policy) => verification::needed(&facts, &policy.ci.documents, &policy.ci.tests).0,
            None => Needed::All,
        };
        let Step { commit, subject, .. } = step.clone();
        Ok(ReplayedCommit { commit, subject, class, reasons, tests: tests.to_string() })
    }
}

/// Recipe of the program.
fn program(inputs: &Inputs) -> Option<&BinaryKey> {
    inputs.app.binary.as_ref()
}

/// Facts of a change for which no registry is asked.
fn facts(changes: Result<Changes, String>, no_base: Option<String>, pinned: bool) -> Box<ChangeFacts> {
    let image = || PlannedImage { reference: None, presence: Presence::NotAsked, decision: None };
    let (purpose, pinned_root) = (Purpose::Change, false);
    Box::new(ChangeFacts { purpose, changes, no_base, pinned, pinned_root, base: image(), app: image() })
}

/// Returns true if one of these files was read, or is in a folder that was listed.
fn touches(read: &Paths, changed: &[String]) -> bool {
    changed.iter().any(|path| Path::new(path).ancestors().any(|path| read.contains(path)))
}
