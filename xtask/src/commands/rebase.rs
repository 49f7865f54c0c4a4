//! `rebase`: a newer root under published images, without building them.
//!
//! Reads everything first and decides what fits; then writes manifests, runs the steps of the policy on them, and moves tags last. Layers above
//! the root are named again and not read.

mod images;
mod make;
mod roots;
mod tags;

use crate::documents;
use crate::flags::{Format, Global, RebaseFlags};
use crate::pipeline::leaves_to_ci;
use crate::{leftovers, steps};
use images::{Images, Rebasable};
use make::Maker;
use roots::Roots;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use xtask_host::registry::Client;
use xtask_host::tree::facts::{self, Tree};
use xtask_host::{file, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::plan;
use xtask_model::image::policy::ImageKind;
use xtask_model::image::rebase::root::Fix;
use xtask_model::quantity;
use xtask_model::spec::lock::ImagesLock;
use xtask_model::spec::lock::images::{PATH, RootPin};
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository, Tag};

/// Images that are read, or made, at once.
const AT_ONCE: usize = 8;

/// Values that every part needs.
struct RebaseContext<'a> {
    tree: &'a Tree,
    client: &'a Client,
}

#[derive(Debug, Serialize)]
struct Report {
    images: Vec<ImageReport>,
    /// By root and platform.
    fixes: BTreeMap<String, Vec<Fix>>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct ImageReport {
    /// A tag of the image, or its digest.
    image: String,
    kind: ImageKind,
    /// `rebased`, `present`, `current` or `unfixed`.
    action: &'static str,
    from: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    tags: Vec<String>,
    kept: Vec<String>,
}

/// Runs the command.
pub fn run(global: &Global, flags: &RebaseFlags) -> anyhow::Result<()> {
    global.check_online("rebase")?;
    let began = Instant::now();
    let trees = match flags.images.first() {
        Some(image) => vec![global.tree_for(Some(image))?],
        None => global.trees()?,
    };
    if !flags.dry_run {
        leftovers::sweep(&trees[0]);
    }
    let client = trees[0].client();
    let mut report = Report { images: Vec::new(), fixes: BTreeMap::new(), seconds: 0.0 };
    for tree in &trees {
        let done = of_app(global, flags, &RebaseContext { tree, client: &client })?;
        report.fixes.extend(done.fixes);
        // The base of several apps is rebased with the first.
        let is_new = |image: &ImageReport| !report.images.iter().any(|known| known.image == image.image);
        let new: Vec<ImageReport> = done.images.into_iter().filter(is_new).collect();
        report.images.extend(new);
    }
    finish(global, report, began)
}

/// Rebases an app with its base, or the images that were named.
fn of_app(global: &Global, flags: &RebaseFlags, context: &RebaseContext<'_>) -> Result<Report, Fault> {
    let tree = context.tree;
    if flags.undo {
        let named = images::named(context, flags)?;
        return undone(context, flags, named);
    }
    let images = Images::read(context, flags)?;
    let roots = Roots::read(context, &images, (flags.root_image.as_ref(), global.locked))?;
    let done = rebased(context, flags, (&images, &roots))?;
    let unfixed = done.images.iter().any(|image| image.action == "unfixed");
    if flags.pin && unfixed {
        terminal::step("note", &format!("`{PATH}` stays: a build on the new root would build everything (`--force`)"));
    } else if flags.pin && !flags.dry_run {
        pin(tree, &roots)?;
    } else if done.images.iter().any(|image| image.to.is_some()) {
        remind(tree, &roots)?;
    }
    Ok(done)
}

/// Plans, and does it.
fn rebased(
    context: &RebaseContext<'_>,
    flags: &RebaseFlags,
    (images, roots): (&Images, &Roots),
) -> Result<Report, Fault> {
    let mut report = Report { images: Vec::new(), fixes: roots.fixes(), seconds: 0.0 };
    let mut wanted = BTreeSet::new();
    for image in images.all() {
        let action = match roots.verdict(images.root_of(image)) {
            roots::Verdict::Current => "current",
            roots::Verdict::Unfixed if !flags.force => "unfixed",
            roots::Verdict::Unfixed | roots::Verdict::Fixed => {
                wanted.insert(image.id());
                "rebased"
            }
        };
        // A base that only the apps need was not named.
        if image.is_named() {
            report.images.push(ImageReport {
                image: image.shown(),
                kind: image.kind(),
                action,
                from: image.published.digest,
                to: None,
                fingerprint: None,
                tags: Vec::new(),
                kept: image.kept.iter().map(|(tag, why)| format!("`{tag}` stays: {why}")).collect(),
            });
        }
    }
    roots.announce();
    let wanted: Vec<&Rebasable> = images.all().filter(|image| wanted.contains(&image.id())).collect();
    if wanted.is_empty() {
        let why = match report.images.iter().any(|image| image.action == "unfixed") {
            true => "no installed package has a newer version in the new root (`--force` rebases anyway)",
            false => "the images are on the newest root",
        };
        terminal::step("nothing", &format!("to rebase: {why}"));
        return Ok(report);
    }
    roots.check(context, images, &wanted)?;
    if flags.dry_run {
        for image in &wanted {
            terminal::step("would", &format!("rebase {} `{}`", image.kind(), image.shown()));
            image.kept.iter().for_each(|(tag, why)| terminal::step("kept", &format!("`{tag}` stays: {why}")));
        }
        terminal::step("nothing", "was changed: `--dry-run`");
        return Ok(report);
    }
    let kinds: BTreeSet<ImageKind> = wanted.iter().map(|image| image.kind()).collect();
    steps::prepare(context.tree, &kinds.into_iter().collect::<Vec<_>>())?;
    let maker = Maker::new(context, images, roots);
    let made = maker.make(&wanted)?;
    let moved = tags::publish(context, &made)?;
    for image in &mut report.images {
        let Some(done) = made.iter().find(|done| done.image.is_named() && done.image.shown() == image.image) else {
            continue;
        };
        image.action = if done.is_new() { "rebased" } else { "present" };
        image.fingerprint = Some(done.fingerprint.to_string());
        let put = &moved[&done.image.id()];
        image.to = Some(put.digest);
        image.tags = put.tags.iter().map(ToString::to_string).collect();
        let names = |tag: &String| format!("{}:{tag}", done.image.repository);
        terminal::step("rebased", &format!("{} `{}` as {}", image.kind, image.image, put.digest));
        image.tags.iter().for_each(|tag| terminal::step("moved", &format!("`{}`", names(tag))));
        image.kept.iter().for_each(|why| terminal::step("kept", why));
    }
    maker.after_push(&made)?;
    Ok(report)
}

/// Moves tags back.
fn undone(context: &RebaseContext<'_>, flags: &RebaseFlags, named: Vec<images::NamedImage>) -> Result<Report, Fault> {
    let undone = tags::undo(context, named, flags.dry_run)?;
    let images = undone.into_iter().map(|one| {
        let image = format!("{}:{}", one.repository, one.tag);
        terminal::step(if flags.dry_run { "would" } else { "moved" }, &format!("`{image}` back to {}", one.to));
        ImageReport {
            image,
            kind: one.kind,
            action: "undone",
            from: one.from,
            to: (!flags.dry_run).then_some(one.to),
            fingerprint: None,
            tags: vec![one.tag.to_string()],
            kept: Vec::new(),
        }
    });
    Ok(Report { images: images.collect(), fixes: BTreeMap::new(), seconds: 0.0 })
}

fn finish(global: &Global, mut report: Report, began: Instant) -> anyhow::Result<()> {
    report.seconds = began.elapsed().as_secs_f64();
    terminal::step("finished", &format!("{} images in {}", report.images.len(), quantity::seconds(began.elapsed())));
    match global.format {
        Format::Json => documents::REBASE.print(&report),
        Format::Text | Format::Github | Format::Gitlab => {
            let lines = report.images.iter().filter_map(|image| {
                let name: Reference = image.image.parse().ok()?;
                Some(format!("{}\n", name.repository.digest(image.to?)))
            });
            super::print(&lines.collect::<String>())
        }
    }
}

/// The pin of the new root, where it is the policy's.
fn new_pin(tree: &Tree, roots: &Roots) -> Option<RootPin> {
    let image = &tree.policy.root.image;
    let digests: &BTreeMap<Platform, Digest> = roots.new_digests(&image.to_string())?;
    Some(RootPin { image: image.clone(), platforms: digests.clone() })
}

/// Writes the new root into `images.lock`, so that builds use the images.
fn pin(tree: &Tree, roots: &Roots) -> Result<(), Fault> {
    let Some(root) = new_pin(tree, roots) else { return Ok(()) };
    let lock = ImagesLock { root: Some(root), ..facts::images_lock(tree)? };
    if file::write(&tree.root.join(PATH), &lock.to_string())? {
        terminal::step("wrote", &format!("`{PATH}`: commit it, so that builds use the new root"));
    }
    Ok(())
}

/// Says what the next build does.
fn remind(tree: &Tree, roots: &Roots) -> Result<(), Fault> {
    let lock = facts::images_lock(tree)?;
    if lock.pinned(tree.policy.base.name.as_deref()).is_some() {
        terminal::warn(&format!("`{PATH}` pins a base: builds use it, on its own root"));
        return Ok(());
    }
    if let (Some(pinned), Some(new)) = (&lock.root, new_pin(tree, roots))
        && *pinned != new
    {
        terminal::step("note", &format!("`{PATH}` pins the old root: a build of a later commit uses it again"));
        terminal::step("", "pin the new one, whose images then need no build: `cargo xtask lock`, or `--pin`");
    }
    Ok(())
}

/// One image that failed, with its name.
fn about(image: &Rebasable, fault: Fault) -> Fault {
    match fault.needed_by {
        None => fault.needed_by(format!("the rebase of `{}`", image.shown())),
        Some(_) => fault,
    }
}

/// The folder of what is known of roots.
fn folder(tree: &Tree) -> std::path::PathBuf {
    tree.root.join("target/native/rebase")
}

/// Reason for a tag to stay at a person's desk, as with `build --push`; `None` for one that moves.
fn left_to_ci(tree: &Tree, repository: &Repository, tag: &Tag) -> Option<&'static str> {
    let stays = leaves_to_ci(&tree.policy, repository) && plan::is_shared(tag, &tree.policy.project.default_branch);
    stays.then_some(plan::LEFT_TO_CI)
}
