//! `cargo xtask explain`: compares this tree with the published images, or two commits, difference by difference.

use crate::documents;
use crate::flags::{Format, Global};
use crate::pipeline::{self, Sources, Unreadable, one_line};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use xtask_host::registry::{Answer, Client, publish};
use xtask_host::tree::context::WorkTree;
use xtask_host::tree::facts::{self, RootImage, RootPlace, Tree};
use xtask_host::tree::git::Revision;
use xtask_model::fault::Fault;
use xtask_model::image::change::{self, PlannedImage, Ready};
use xtask_model::image::key::{AppKey, BaseKey, FileNames, Key, app_changes, base_changes};
use xtask_model::image::policy::ImageKind;
use xtask_model::image::presence::{Presence, Published};
use xtask_model::image::tags::{self, BranchTag};
use xtask_model::spec::reference::{Reference, Tag};
use xtask_native::root::PACKAGES_LABEL;

/// One image's explanation.
#[derive(Debug, Serialize)]
struct Explained {
    image: ImageKind,
    /// Its name, where the policy names several of its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// This tree's image, or the newer commit's.
    this: String,
    compared_with: String,
    /// In a few words, where there are no differences to name.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<String>,
    differences: Vec<String>,
    /// Of the program that is compiled.
    #[serde(skip_serializing_if = "Option::is_none")]
    dependencies: Option<String>,
}

/// Runs the command; with no commits, compares with what is published.
pub fn run(global: &Global, commits: &[String]) -> anyhow::Result<()> {
    let explained = match commits {
        [] => published(global)?,
        [old] => between(global, old, None)?,
        [old, new] => between(global, old, Some(new))?,
        _ => {
            return Err(Fault::usage(format!("`--commit` is given {} times", commits.len()))
                .cause("it names one commit to compare with this tree, or two to compare with each other")
                .hint("compare two commits: `cargo xtask explain --commit OLD --commit NEW`")
                .into());
        }
    };
    match global.format {
        Format::Json => documents::EXPLAIN.print_list("images", &explained),
        Format::Text | Format::Github | Format::Gitlab => super::print(&explained.iter().map(text).collect::<String>()),
    }
}

fn text(explained: &Explained) -> String {
    let name = explained.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let Explained { image, this, compared_with, .. } = explained;
    let mut text = format!("{image}{name} {this}, compared with {compared_with}\n");
    for line in explained.verdict.iter().chain(&explained.differences) {
        text += &format!("  {line}\n");
    }
    if let Some(dependencies) = &explained.dependencies {
        text += &format!("  dependencies: {dependencies}\n");
    }
    text
}

/// Adds an image to those that are explained, unless another app on the same base brought it.
fn add(all: &mut Vec<Explained>, tree: &Tree, explained: Explained) {
    let explained = Explained { name: tree.policy.name(explained.image).map(str::to_owned), ..explained };
    if !all.iter().any(|known| known.image == explained.image && known.name == explained.name) {
        all.push(explained);
    }
}

/// Compares the trees of two commits, or of a commit and this tree.
fn between(global: &Global, old: &str, new: Option<&String>) -> Result<Vec<Explained>, Fault> {
    let root = facts::find_root(global.root.as_deref())?;
    let at = |global: &Global, name: &str| -> Result<(String, Vec<Tree>), Fault> {
        let revision = Revision::open(&root, name, global.offline)?;
        let id = revision.id[..12].to_owned();
        let trees = global.trees_of(Box::new(revision));
        Ok((id.clone(), trees.map_err(|fault| fault.needed_by(format!("commit `{id}`")))?))
    };
    // An app that is new has no older tree, whatever was selected.
    let (old_id, old) = at(&Global { app: Vec::new(), ..global.clone() }, old)?;
    let (new_name, new) = match new {
        Some(new) => at(global, new).map(|(id, trees)| (format!("at `{id}`"), trees))?,
        None => ("of this tree".to_owned(), global.trees_of(Box::new(WorkTree::new(&root)))?),
    };
    let explain = |image, differences: Vec<String>, nothing: &str| Explained {
        image,
        name: None,
        this: new_name.clone(),
        compared_with: format!("the one at `{old_id}`"),
        verdict: differences.is_empty().then(|| nothing.to_owned()),
        differences,
        dependencies: None,
    };
    let mut explained = Vec::new();
    for new in &new {
        let Some(old) = old.iter().find(|old| old.policy.app.name == new.policy.app.name) else {
            add(&mut explained, new, explain(ImageKind::App, Vec::new(), "it is new: there was no such app"));
            continue;
        };
        let read = |tree| Sources::read_all(tree).map_err(Unreadable::fault);
        let old = read(old).map_err(|fault| fault.needed_by(format!("commit `{old_id}`")))?;
        let new = read(new).map_err(|fault| match new_name.strip_prefix("at ") {
            Some(id) => fault.needed_by(format!("commit {id}")),
            None => fault,
        })?;
        let sources = new.sources_since(&old, &old_id);
        let names = (new.tree.names(new.base()), FileNames { sources: &sources, ..new.tree.names(&new.app().parsed) });
        let changes = change::compare(&old.inputs(), &new.inputs(), &names.0, &names.1);
        let waits = |change| format!("{change}; it waits, another base is pinned");
        let base = changes.base.into_iter().chain(changes.waiting.into_iter().map(waits)).collect();
        add(&mut explained, new.tree, explain(ImageKind::Base, base, "nothing differs"));
        add(&mut explained, new.tree, explain(ImageKind::App, changes.app, "nothing differs"));
    }
    Ok(explained)
}

/// An image that existed before, with its key.
struct EarlierBuild<K> {
    name: String,
    key: Option<K>,
    published: Option<Published>,
}

/// Compares this tree with what is published, or, offline, with what was built here last.
fn published(global: &Global) -> Result<Vec<Explained>, Fault> {
    let root = facts::find_root(global.root.as_deref())?;
    let mut explained = Vec::new();
    for tree in global.trees_of(Box::new(WorkTree::new(&root)))? {
        for image in published_app(&global.of(&tree), &tree)? {
            add(&mut explained, &tree, image);
        }
    }
    Ok(explained)
}

/// The same for one app.
fn published_app(global: &Global, tree: &Tree) -> Result<[Explained; 2], Fault> {
    let here = Sources::read_all(tree).map_err(Unreadable::fault)?;
    let client = (!global.offline).then(|| pipeline::single_try_client(tree));
    let base: Option<EarlierBuild<BaseKey>> = before(tree, client.as_ref(), ImageKind::Base)?;
    let app: Option<EarlierBuild<AppKey>> = before(tree, client.as_ref(), ImageKind::App)?;
    let plan = pipeline::plan_tree(global, &here)?;
    let pinned = here.pins.base.is_some();
    let old_base = base.as_ref().and_then(|base| base.key.as_ref());
    let base_key = here.base_key(&plan.root.clone().unwrap_or_else(|_| assumed_root(tree, old_base)));
    let app_key = plan.app_key.unwrap_or_else(|| here.app_key(&base_key.fingerprint()));
    let mut differences =
        old_base.map(|old| base_changes(old, &base_key, &tree.names(here.base()))).unwrap_or_default();
    if let Some(published) = base.as_ref().and_then(|base| base.published.as_ref()) {
        differences.extend(root_packages(tree, client.as_ref(), published, old_base, &base_key));
    }
    if let (Err(why), Some(_), false) = (&plan.root, old_base, pinned) {
        differences.push(format!("its root could not be compared: {why}"));
    }
    let mut explained_base = explain(client.is_some(), ImageKind::Base, plan.base, base, differences);
    if pinned {
        let waits = "it is pinned in `images.lock`: none is built of what differs from the published one";
        explained_base.verdict = Some(waits.to_owned());
    }
    let compiles = app.as_ref().and_then(|app| app.key.as_ref()).is_none_or(|old| old.binary != app_key.binary);
    let differences = app
        .as_ref()
        .and_then(|app| {
            let old = app.key.as_ref()?;
            let revision = app.published.as_ref().and_then(Published::revision);
            let sources = revision.map(|revision| here.sources_since_published(global, old, revision));
            let names = FileNames { sources: &sources.unwrap_or_default(), ..tree.names(&here.app().parsed) };
            Some(app_changes(old, &app_key, &names))
        })
        .unwrap_or_default();
    let dependencies = if compiles { pipeline::to_pull(tree) } else { None };
    let app = explain(client.is_some(), ImageKind::App, plan.app, app, differences);
    Ok([explained_base, Explained { dependencies, ..app }])
}

/// The root of the published base, for where ours cannot be known: then nothing is said of it.
fn assumed_root(tree: &Tree, old: Option<&BaseKey>) -> RootImage {
    let wanted = &tree.policy.root.image;
    let place = RootPlace::Registry(wanted.repository.clone());
    match old {
        Some(old) => RootImage { name: old.root.image.clone(), digests: old.root.digests.clone(), place },
        None => RootImage { name: wanted.to_string(), digests: BTreeMap::new(), place },
    }
}

fn before<K: DeserializeOwned>(
    tree: &Tree,
    client: Option<&Client>,
    kind: ImageKind,
) -> Result<Option<EarlierBuild<K>>, Fault> {
    let Some(client) = client else {
        let key = std::fs::read_to_string(pipeline::key_file(tree, kind))
            .ok()
            .and_then(|json| serde_json::from_str(&json).ok());
        return Ok(key.map(|key| EarlierBuild {
            name: "the last one built here".to_owned(),
            key: Some(key),
            published: None,
        }));
    };
    let repository = tree.repository(kind);
    let default = &tree.policy.project.default_branch;
    let branch = match tags::branch_tag(default, default) {
        BranchTag::Same(tag) | BranchTag::Other(tag, _) => Some(tag),
        BranchTag::None(_) => None,
    };
    for tag in [Some(Tag::latest()), branch].into_iter().flatten() {
        let reference: Reference = repository.tag(&tag);
        let answer = publish::read(client, &repository, tag).map_err(|fault| {
            fault.needed_by("what is published").hint("`--offline` compares with what was built here last")
        })?;
        if let Answer::Present(found) = answer {
            let key = found.key().and_then(|json| serde_json::from_str(json).ok());
            return Ok(Some(EarlierBuild { name: format!("`{reference}`"), key, published: Some(found) }));
        }
    }
    Ok(None)
}

fn explain<K>(
    online: bool,
    image: ImageKind,
    found: PlannedImage,
    before: Option<EarlierBuild<K>>,
    mut differences: Vec<String>,
) -> Explained {
    let ready = found.ready();
    // A reference by digest is a pinned base: not of this tree's key.
    let pinned = found.reference.as_ref().is_some_and(|reference| reference.digest.is_some());
    let this = found.reference.map_or_else(|| "of this tree".to_owned(), |reference| format!("`{reference}`"));
    let Some(before) = before else {
        let (compared_with, verdict) = match (ready, online) {
            (Ready::Yes, _) => ("what is published", "it is in the registry, and `latest` names nothing"),
            (_, true) => ("what is published", "nothing is published yet"),
            (_, false) => ("what was built here", "nothing was built here yet"),
        };
        let verdict = Some(verdict.to_owned());
        let compared_with = compared_with.to_owned();
        return Explained { image, name: None, this, compared_with, verdict, differences, dependencies: None };
    };
    let lost = match &found.presence {
        Presence::Registry(published) => !published.lost.is_empty(),
        Presence::NotAsked | Presence::Unknown(_) | Presence::Absent | Presence::Local(_) => true,
    };
    let verdict = match (&before.key, &ready) {
        (None, _) => Some("it carries no key that this version can read: nothing can be compared".to_owned()),
        (Some(_), _) if !differences.is_empty() => None,
        (Some(_), Ready::No(_)) if lost => Some("the registry lost it, although no input changed".to_owned()),
        (Some(_), Ready::No(why)) => Some(format!("{why}, although no input changed")),
        (Some(_), Ready::Yes | Ready::Unknown(_) | Ready::NotAsked) => Some("nothing differs".to_owned()),
    };
    if ready == Ready::Yes && verdict.is_none() && !pinned {
        differences.push("an image of this tree's key is in the registry already".to_owned());
    }
    Explained { image, name: None, this, compared_with: before.name, verdict, differences, dependencies: None }
}

/// The Debian packages in which two roots differ, where the labels of both are available.
fn root_packages(
    tree: &Tree,
    client: Option<&Client>,
    published: &Published,
    old: Option<&BaseKey>,
    new: &BaseKey,
) -> Vec<String> {
    let (Some(client), Some(old)) = (client, old) else { return Vec::new() };
    if old.root.digests == new.root.digests {
        return Vec::new();
    }
    let labels = || -> Result<Option<BTreeMap<String, String>>, Fault> {
        let repository = tree.repository(ImageKind::Base);
        let Some(descriptor) = published.platforms.values().next() else { return Ok(None) };
        let manifest = publish::read_manifest(client, &repository, descriptor.digest)?;
        let config = publish::read_config(client, &repository, &manifest)?;
        Ok(config.config.labels.get(PACKAGES_LABEL).and_then(|json| serde_json::from_str(json).ok()))
    };
    let before = match labels() {
        Ok(Some(before)) => before,
        Ok(None) => return Vec::new(),
        Err(fault) => return vec![format!("the published root's packages cannot be read: {}", one_line(&fault))],
    };
    let Some(now) = pipeline::local_root(tree) else { return Vec::new() };
    package_changes(&before, &now.packages.into_iter().collect())
}

fn package_changes(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let mut changes = Vec::new();
    for (name, version) in now {
        match before.get(name) {
            None => changes.push(format!("{name} {version} is new (root)")),
            Some(old) if old != version => changes.push(format!("{name} {old} -> {version} (root)")),
            Some(_) => {}
        }
    }
    changes.extend(before.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("{name} is gone (root)")));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roots_packages_are_named() {
        let packages = |list: &[(&str, &str)]| {
            list.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
        };
        let before = packages(&[("a", "1"), ("libc6", "2.41-1"), ("z", "1")]);
        let now = packages(&[("b", "2"), ("libc6", "2.41-2"), ("z", "1")]);
        assert_eq!(
            package_changes(&before, &now),
            ["b 2 is new (root)", "libc6 2.41-1 -> 2.41-2 (root)", "a is gone (root)"]
        );
    }
}
