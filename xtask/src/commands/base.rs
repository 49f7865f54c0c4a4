//! `base`: list, pin, roll back and prune the published bases.
//!
//! Every command that changes something prints the change first; what cannot be undone needs `--yes`.

use crate::documents;
use crate::flags::{BaseCommand, Format, Global};
use crate::pipeline;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use xtask_host::registry::publish::{self, records};
use xtask_host::registry::survey::{self, SurveyRequest};
use xtask_host::registry::{Answer, Client};
use xtask_host::tree::facts::{self, Tree};
use xtask_host::tree::git::Git;
use xtask_host::{clock, file, process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::bases::{self, Pruning, PublishedBase, Rules, Survey, Verdict};
use xtask_model::image::key::Fingerprint;
use xtask_model::image::policy::ImageKind;
use xtask_model::quantity;
use xtask_model::spec::lock::{self, ImagesLock};
use xtask_model::spec::reference::{Digest, Platform, Repository, Tag};

/// Number of local layouts to keep besides this tree's.
const LAYOUTS: usize = 3;

/// Runs one of them.
pub fn run(global: &Global, command: &BaseCommand) -> anyhow::Result<()> {
    if let BaseCommand::Pin { remove: true, .. } = command {
        return Ok(unpin(&one(global)?)?);
    }
    global.check_online("base")?;
    let open = |tree| BaseRepository::open(global, tree);
    match command {
        BaseCommand::List => list(global, global.trees_of_bases()?.into_iter().map(open)),
        BaseCommand::Pin { name, .. } => Ok(open(one(global)?)?.pin(name.as_deref())?),
        BaseCommand::Rollback { name, yes } => Ok(open(one(global)?)?.rollback(name.as_deref(), *yes)?),
        BaseCommand::Prune { keep, older_than, yes } => {
            let all = global.trees_of_bases()?.into_iter().map(open).collect::<Result<Vec<_>, Fault>>()?;
            prune(global, &all, (*keep, *older_than), *yes)
        }
    }
}

/// A tree of the one base that is meant.
pub(super) fn one(global: &Global) -> Result<Tree, Fault> {
    let mut trees = global.trees_of_bases()?;
    if trees.len() == 1 {
        return Ok(trees.remove(0));
    }
    let names: Vec<String> = trees.iter().map(|tree| tree.policy.shown(ImageKind::Base)).collect();
    let app = trees[0].policy.app.name.as_deref().unwrap_or_default();
    Err(Fault::usage(format!("this is for one base, and `images.toml` has several: {}", names.join(", ")))
        .hint(format!("name an app that is on it: `--app {app}`")))
}

/// Prints the bases of every base's repository.
fn list(global: &Global, all: impl Iterator<Item = Result<BaseRepository, Fault>>) -> anyhow::Result<()> {
    let mut listed = Vec::new();
    for bases in all {
        let bases = bases?;
        let (survey, mine) = bases.survey_and_mine(global, false)?;
        let rows = bases.rows(&survey, mine);
        if global.format == Format::Json {
            listed.extend(rows.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?);
        } else if rows.is_empty() {
            let what = format!("`{}` has no base; build one: `cargo xtask build-base --push`", bases.bases);
            terminal::step("none", &what);
        } else {
            let head = bases.tree.policy.name(ImageKind::Base).map(|name| format!("{name}:\n"));
            super::print(&(head.unwrap_or_default() + &table(&rows)))?;
        }
    }
    if global.format == Format::Json { documents::BASES.print_list("bases", &listed) } else { Ok(()) }
}

/// Deletion plan of one base, with the survey that it was made from.
struct PlannedPruning {
    survey: Survey,
    plan: Pruning,
    layouts: Layouts,
}

/// Plans every base before anything is deleted, and carries the plans out.
fn prune(global: &Global, all: &[BaseRepository], limits: (usize, Duration), yes: bool) -> anyhow::Result<()> {
    // A running build may use a layout that is to be deleted, or be about to replace it.
    let lock = if yes { Some(pipeline::lock_images(&all[0].tree.images())?) } else { None };
    let plans = all.iter().map(|bases| bases.plan_pruning(global, limits)).collect::<Result<Vec<_>, Fault>>()?;
    if global.format == Format::Json {
        let of = |(bases, planned): (&BaseRepository, &PlannedPruning)| {
            let value = serde_json::json!({"registry": planned.plan, "layouts": planned.layouts.verdicts});
            (bases.tree.policy.name(ImageKind::Base).map(str::to_owned), value)
        };
        super::prune::print_document(all.iter().zip(&plans).map(of).collect(), None)?;
    } else {
        for PlannedPruning { plan, layouts, .. } in &plans {
            super::prune::show(&plan.verdicts);
            super::prune::show(&layouts.verdicts);
        }
    }
    if plans.iter().all(|planned| planned.plan.is_empty() && planned.layouts.gone.is_empty()) {
        terminal::step("nothing", "to delete");
        return Ok(());
    }
    if !yes {
        terminal::step("nothing", "was deleted; to delete it, add `--yes`");
        return Ok(());
    }
    plans.iter().try_for_each(|planned| planned.layouts.remove())?;
    drop(lock);
    Ok(all.iter().zip(&plans).try_for_each(|(bases, planned)| bases.delete(&planned.plan, &planned.survey))?)
}

/// Values that all subcommands need.
struct BaseRepository {
    tree: Tree,
    client: Client,
    bases: Repository,
    /// Those of every app on it.
    apps: Vec<Repository>,
    pinned: Option<Digest>,
}

/// A base as `list` shows it.
#[derive(Serialize)]
struct Row<'a> {
    /// The name of the base, where the policy names several.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(flatten)]
    base: &'a PublishedBase,
    age: String,
    complete: bool,
    latest: bool,
    pinned: bool,
    /// Absent if this tree's fingerprint is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    this_tree: Option<bool>,
    used_by: Vec<&'a Tag>,
}

impl BaseRepository {
    fn open(global: &Global, tree: Tree) -> Result<Self, Fault> {
        let name = tree.policy.base.name.as_deref();
        let pinned = facts::images_lock(&tree)?.pinned(name);
        // Whichever app is selected: a base that another one uses is in use.
        let all = Global { app: Vec::new(), ..global.clone() }.trees()?;
        let on_it = all.iter().filter(|other| other.policy.base.name.as_deref() == name);
        let apps = on_it.map(|tree| tree.repository(ImageKind::App)).collect();
        let bases = tree.repository(ImageKind::Base);
        Ok(Self { client: tree.client(), tree, bases, apps, pinned })
    }

    fn survey(&self, referrers: bool) -> Result<Survey, Fault> {
        survey::survey(&SurveyRequest {
            client: &self.client,
            bases: &self.bases,
            apps: &self.apps,
            platforms: &self.tree.policy.project.platforms,
            tag_length: self.tree.policy.base.tag_length,
            referrers,
        })
    }

    /// The survey and, if it is known, this tree's fingerprint, gathered in parallel.
    fn survey_and_mine(&self, global: &Global, referrers: bool) -> Result<(Survey, Option<Fingerprint>), Fault> {
        let (survey, mine) = std::thread::scope(|scope| {
            let mine = scope.spawn(|| pipeline::base_fingerprint(global, &self.tree, &self.client));
            (self.survey(referrers), mine.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let mine =
            mine.inspect_err(|fault| terminal::warn(&format!("cannot determine this tree's base: {}", fault.what)));
        Ok((survey?, mine.ok()))
    }

    fn rows<'a>(&'a self, survey: &'a Survey, mine: Option<Fingerprint>) -> Vec<Row<'a>> {
        let now = clock::now();
        survey
            .bases
            .iter()
            .map(|base| Row {
                name: self.tree.policy.name(ImageKind::Base),
                age: bases::age(base.since(), now),
                complete: base.is_complete(),
                latest: base.is_latest(),
                pinned: self.pinned.is_some_and(|digest| base.is(&digest)),
                this_tree: mine.map(|mine| base.fingerprint == Some(mine)),
                used_by: used_by(survey, base),
                base,
            })
            .collect()
    }

    fn pin(&self, name: Option<&str>) -> Result<(), Fault> {
        let survey = self.survey(false)?;
        let base = bases::pin(&survey, name)?;
        self.refuse_lost(base)?;
        let name = self.tree.policy.base.name.as_deref();
        let lock = facts::images_lock(&self.tree)?.with_pin(name, Some(base.digest));
        if file::write(&self.tree.root.join(lock::images::PATH), &lock.to_string())? {
            terminal::step("wrote", &format!("`{}`", lock::images::PATH));
        }
        terminal::step("pinned", &format!("`{}` ({})", base.name(), base.digest));
        terminal::step("", "builds use it, whatever the requirements say, where `images.lock` is committed");
        terminal::step("", "remove the pin: `cargo xtask base pin --remove`");
        Ok(())
    }

    /// Refuses a base of which the registry lost a layer or a configuration; a survey looks at manifests alone.
    fn refuse_lost(&self, base: &PublishedBase) -> Result<(), Fault> {
        let Answer::Present(mut found) = publish::read(&self.client, &self.bases, base.digest)? else { return Ok(()) };
        xtask_host::registry::publish::completeness::check(&mut found, &self.client, &self.bases)?;
        let platforms: Vec<Platform> = base.platforms.keys().cloned().collect();
        match found.lost_reason(&platforms) {
            None => Ok(()),
            Some(lost) => Err(Fault::usage(format!("base `{}` is incomplete", base.name()))
                .cause(lost)
                .hint("build it again: `cargo xtask build-base --push` on its commit")),
        }
    }

    fn rollback(&self, name: Option<&str>, yes: bool) -> Result<(), Fault> {
        let mut survey = self.survey(false)?;
        let publishes = self.tree.policy.root.fallback_publishes.allows(&self.bases);
        if name.is_none() && !publishes {
            survey.bases.retain(|base| base.is_latest() || !base.is_on_fallback());
        }
        let git = Git::at(&self.tree.root);
        let to = bases::rollback(&survey, name, &|first, second| git.ancestry(first, second))?;
        if to.is_on_fallback() && !publishes {
            return Err(Fault::usage(format!("`latest` cannot name `{}`", to.name()))
                .cause(format!("it is on the fallback root `{}`", to.root.as_deref().unwrap_or_default()))
                .hint("name another base, or allow it: `[root] fallback-publishes` in `images.toml`"));
        }
        self.refuse_lost(to)?;
        let now = clock::now();
        let described = |base: &PublishedBase| {
            let commit = base.revision.as_deref().map_or("no commit", |revision| &revision[..12.min(revision.len())]);
            format!(
                "`{}` ({}, of {commit}, {} old)",
                base.name(),
                bases::short(&base.digest),
                bases::age(base.since(), now)
            )
        };
        match survey.latest() {
            Some(from) => terminal::step("from", &described(from)),
            None => terminal::step("from", "nothing: there is no `latest`"),
        }
        terminal::step("to", &described(to));
        terminal::step("", "apps do not change; the next build of a later commit moves `latest` forward again");
        terminal::step("", "(a build of this commit does not); to keep a base, pin it: `cargo xtask base pin`");
        if !yes {
            terminal::step("nothing", "was changed; to change it, add `--yes`");
            return Ok(());
        }
        let mark = records::read(&self.client, &self.bases, &Tag::latest())?;
        let since = bases::after_rollback(survey.latest(), mark, to, &|first, second| git.ancestry(first, second))?;
        if let (Some(since), Answer::Present(image)) = (since, publish::read(&self.client, &self.bases, to.digest)?) {
            records::write(&self.client, &self.bases, &Tag::latest(), &image, &since)?;
        }
        publish::tag(&self.client, &self.bases, to.digest, &Tag::latest())?;
        terminal::step("moved", &format!("`{}` to {}", self.bases.tag(&Tag::latest()), to.digest));
        Ok(())
    }

    fn plan_pruning(&self, global: &Global, (keep, older_than): (usize, Duration)) -> Result<PlannedPruning, Fault> {
        let (survey, mine) = self.survey_and_mine(global, true)?;
        let rules = Rules { keep, older_than, now: clock::now(), this_tree: mine, pinned: self.pinned };
        Ok(PlannedPruning { plan: bases::prune(&survey, &rules), survey, layouts: Layouts::plan(&self.tree, mine)? })
    }

    /// Executes the plan, unless the registry changed since it was made.
    fn delete(&self, plan: &Pruning, before: &Survey) -> Result<(), Fault> {
        if !plan.digests.is_empty() && self.survey(true)? != *before {
            return Err(Fault::drift("the registry changed while the plan was shown: nothing was deleted in it")
                .hint("run this again"));
        }
        let mut deleted = 0;
        for digest in &plan.digests {
            process::interrupted()?;
            self.client.delete_manifest(&self.bases, digest)?;
            deleted += 1;
        }
        if deleted > 0 {
            terminal::step(
                "deleted",
                &format!("{deleted} manifests; their layers go with the registry's next garbage collection"),
            );
        }
        Ok(())
    }
}

/// Removes the pin, and the file if it pins nothing else.
fn unpin(tree: &Tree) -> Result<(), Fault> {
    let lock = facts::images_lock(tree)?;
    let name = tree.policy.base.name.as_deref();
    let Some(digest) = lock.pinned(name) else {
        terminal::step("nothing", "no base is pinned");
        return Ok(());
    };
    let path = tree.root.join(lock::images::PATH);
    let lock = lock.with_pin(name, None);
    if lock == ImagesLock::default() {
        std::fs::remove_file(&path)
            .map_err(|error| Fault::usage(format!("cannot remove `{}`", lock::images::PATH)).cause(error))?;
    } else {
        file::write(&path, &lock.to_string())?;
    }
    terminal::step("unpinned", &format!("{digest}: builds follow the requirements again"));
    Ok(())
}

fn table(rows: &[Row<'_>]) -> String {
    let head = ["TAG", "DIGEST", "AGE", "SIZE", "PLATFORMS", "USED BY", "NOTES"].map(str::to_owned);
    let mut lines = vec![head];
    for row in rows {
        let mut notes = Vec::new();
        let mut note = |holds: bool, text: &str| {
            if holds {
                notes.push(text.to_owned());
            }
        };
        note(row.latest, "latest");
        note(row.this_tree == Some(true), "it is this tree's base");
        note(row.pinned, "pinned");
        note(!row.base.lost.is_empty(), "lost manifests");
        note(row.base.fingerprint.is_none(), "not ours");
        notes.extend(row.base.missing.iter().map(|platform| format!("lacks {platform}")));
        let platforms: Vec<String> = row.base.platforms.keys().map(ToString::to_string).collect();
        let digest = bases::short(&row.base.digest);
        let size = quantity::bytes(row.base.size);
        let name = row.base.name();
        lines.push([name, digest, row.age.clone(), size, platforms.join(" "), users(&row.used_by), notes.join(", ")]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let print = |line: &[String; 7]| {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    lines.iter().map(print).collect()
}

/// Tags of the apps on a base: names such as branches first, then fingerprints and commits.
fn used_by<'a>(survey: &'a Survey, base: &'a PublishedBase) -> Vec<&'a Tag> {
    let names = survey.users(base).flat_map(|app| &app.names);
    names.chain(survey.users(base).flat_map(|app| &app.marks)).collect()
}

/// The first three, and how many more.
fn users(tags: &[&Tag]) -> String {
    let first: Vec<String> = tags.iter().take(3).map(ToString::to_string).collect();
    match (tags.len(), tags.len().saturating_sub(3)) {
        (0, _) => "-".to_owned(),
        (_, 0) => first.join(", "),
        (_, more) => format!("{} and {more} more", first.join(", ")),
    }
}

/// The bases on this machine: folders with an OCI layout each.
struct Layouts {
    verdicts: Vec<Verdict>,
    gone: Vec<PathBuf>,
}

impl Layouts {
    fn plan(tree: &Tree, mine: Option<Fingerprint>) -> Result<Self, Fault> {
        let prefix = tree.layout_prefix(ImageKind::Base);
        let mine = mine.map(|mine| format!("{prefix}{}-", mine.tag(tree.policy.base.tag_length)));
        let mut found = layouts(&tree.images(), &prefix)?;
        found.sort_by_key(|(_, made)| std::cmp::Reverse(*made));
        let mut plan = Self { verdicts: Vec::new(), gone: Vec::new() };
        for (index, (path, _)) in found.into_iter().enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let reason = match (&mine, index) {
                (Some(mine), _) if name.starts_with(mine.as_str()) => "it is this tree's base".to_owned(),
                (_, ..LAYOUTS) => format!("one of the newest {LAYOUTS} on this machine"),
                _ => format!("not one of the newest {LAYOUTS} on this machine"),
            };
            let keep = !reason.starts_with("not");
            let size = bytes_of(&path.join("blobs/sha256"));
            plan.verdicts.push(Verdict {
                digest: Digest::of(name.as_bytes()),
                name,
                size,
                keep,
                reasons: vec![reason],
            });
            if !keep {
                plan.gone.push(path);
            }
        }
        Ok(plan)
    }

    fn remove(&self) -> Result<(), Fault> {
        for path in &self.gone {
            process::interrupted()?;
            // Renamed first, so that a half-deleted layout is never used.
            let partial = path.with_extension("partial");
            std::fs::rename(path, &partial)
                .and_then(|()| std::fs::remove_dir_all(&partial))
                .map_err(|error| Fault::build(format!("cannot remove `{}`", path.display())).cause(error))?;
        }
        if !self.gone.is_empty() {
            terminal::step("deleted", &format!("{} layouts on this machine", self.gone.len()));
        }
        Ok(())
    }
}

fn layouts(folder: &Path, prefix: &str) -> Result<Vec<(PathBuf, SystemTime)>, Fault> {
    let cannot = |error| Fault::usage(format!("cannot read `{}`", folder.display())).cause(error);
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(cannot)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(cannot)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(prefix) || path.extension().is_some() || !path.join("index.json").is_file() {
            continue;
        }
        let made = std::fs::metadata(path.join("index.json")).and_then(|meta| meta.modified()).map_err(cannot)?;
        found.push((path, made));
    }
    Ok(found)
}

fn bytes_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}
