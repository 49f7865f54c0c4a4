//! `cargo xtask explain`: what is published beside this tree, or one commit beside another, difference by difference.

use crate::build;
use crate::documents;
use crate::flags::{Format, Global};
use crate::survey::{Found, Snapshot, Untaken, said};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use xtask_host::registry::{Answer, Client, publish};
use xtask_host::tree::facts::{self, RootImage, RootPlace};
use xtask_host::tree::git::Revision;
use xtask_model::fault::Fault;
use xtask_model::image::change::{self, Presence};
use xtask_model::image::key::{AppKey, BaseKey, Names, app_changes, base_changes};
use xtask_model::image::policy::ImageKind;
use xtask_model::image::presence::Published;
use xtask_model::image::tags::{self, OfBranch};
use xtask_model::spec::reference::{Reference, Tag};
use xtask_native::root::PACKAGES_LABEL;

/// One image's explanation.
#[derive(Debug, Serialize)]
struct Explained {
    image: ImageKind,
    /// This tree's image, or the newer commit's.
    this: String,
    #[serde(rename = "compared_with")]
    beside: String,
    /// In a few words, where there are no differences to name.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<String>,
    differences: Vec<String>,
}

/// Runs the command; with no commits, compares with what is published.
pub fn run(global: &Global, commits: &[String]) -> anyhow::Result<()> {
    let explained = match commits {
        [] => published(global)?,
        [old] => between(global, old, None)?,
        [old, new] => between(global, old, Some(new))?,
        _ => return Err(Fault::usage("`--commit` is for one commit or two").into()),
    };
    match global.format {
        Format::Json => documents::EXPLAIN.print_list("images", &explained),
        Format::Text | Format::Github => super::print(&explained.iter().map(text).collect::<String>()),
    }
}

fn text(explained: &Explained) -> String {
    let mut text = format!("{} {}, beside {}\n", explained.image, explained.this, explained.beside);
    for line in explained.verdict.iter().chain(&explained.differences) {
        text += &format!("  {line}\n");
    }
    text
}

/// Two trees.
fn between(global: &Global, old: &str, new: Option<&String>) -> Result<Vec<Explained>, Fault> {
    let root = facts::find_root(global.root.as_deref())?;
    let at = |name: &str| -> Result<(String, Snapshot), Fault> {
        let revision = Revision::open(&root, name, global.offline)?;
        let id = revision.id[..12].to_owned();
        let tree = global.tree_of(Box::new(revision)).and_then(|tree| Snapshot::take(tree).map_err(Untaken::fault));
        Ok((id.clone(), tree.map_err(|fault| fault.needed_by(format!("commit `{id}`")))?))
    };
    let (old_id, old) = at(old)?;
    let (new_name, new) = match new {
        Some(new) => at(new).map(|(id, tree)| (format!("at `{id}`"), tree))?,
        None => {
            let tree = global.tree_of(Box::new(root.clone()))?;
            ("of this tree".to_owned(), Snapshot::take(tree).map_err(Untaken::fault)?)
        }
    };
    let sources = new.sources_since(&old, &old_id);
    let names = (new.tree.names(&new.base), Names { sources: &sources, ..new.tree.names(&new.app) });
    let changes = change::compare(&old.inputs(), &new.inputs(), &names.0, &names.1);
    let explain = |image, differences: Vec<String>| Explained {
        image,
        this: new_name.clone(),
        beside: format!("the one at `{old_id}`"),
        verdict: differences.is_empty().then(|| "nothing differs".to_owned()),
        differences,
    };
    let waits = |change| format!("{change}; it waits, another base is pinned");
    let base = changes.base.into_iter().chain(changes.waiting.into_iter().map(waits)).collect();
    Ok(vec![explain(ImageKind::Base, base), explain(ImageKind::App, changes.app)])
}

/// An image that was there before, with its key.
struct Before<K> {
    name: String,
    key: Option<K>,
    published: Option<Published>,
}

/// This tree, and what is published (or, offline, what was built here last).
fn published(global: &Global) -> Result<Vec<Explained>, Fault> {
    let root = facts::find_root(global.root.as_deref())?;
    let here = Snapshot::take(global.tree_of(Box::new(root))?).map_err(Untaken::fault)?;
    let client = (!global.offline).then(|| build::impatient(&here.tree));
    let base: Option<Before<BaseKey>> = before(&here, client.as_ref(), ImageKind::Base)?;
    let app: Option<Before<AppKey>> = before(&here, client.as_ref(), ImageKind::App)?;
    let footing = here.footing(global)?;
    let old_base = base.as_ref().and_then(|base| base.key.as_ref());
    let root = footing.root.clone().unwrap_or_else(|_| assumed_root(&here, old_base));
    let (base_key, app_key) = here.keys(&root);
    let app_key = footing.app_key.unwrap_or(app_key);
    let mut differences =
        old_base.map(|old| base_changes(old, &base_key, &here.tree.names(&here.base))).unwrap_or_default();
    if let Some(published) = base.as_ref().and_then(|base| base.published.as_ref()) {
        differences.extend(root_packages(&here, client.as_ref(), published, old_base, &base_key));
    }
    if let (Err(why), Some(_), None) = (&footing.root, old_base, here.pinned_base()) {
        differences.push(format!("its root could not be compared: {why}"));
    }
    let mut explained = vec![explain(client.as_ref(), ImageKind::Base, footing.base, base, differences)];
    if here.pinned_base().is_some() {
        let waits = "it is pinned in `images.lock`: none is built of what differs from the published one";
        explained[0].verdict = Some(waits.to_owned());
    }
    let differences = app
        .as_ref()
        .and_then(|app| {
            let old = app.key.as_ref()?;
            let revision = app.published.as_ref().and_then(Published::revision);
            let sources = revision.map(|revision| here.sources_since_published(global, old, revision));
            let names = Names { sources: &sources.unwrap_or_default(), ..here.tree.names(&here.app) };
            Some(app_changes(old, &app_key, &names))
        })
        .unwrap_or_default();
    explained.push(explain(client.as_ref(), ImageKind::App, footing.app, app, differences));
    Ok(explained)
}

/// The root of the published base, for where ours cannot be known: then nothing is said of it.
fn assumed_root(here: &Snapshot, old: Option<&BaseKey>) -> RootImage {
    let wanted = &here.tree.policy.root.image;
    let place = RootPlace::Registry(wanted.repository.clone());
    match old {
        Some(old) => RootImage { name: old.root.image.clone(), digests: old.root.digests.clone(), place },
        None => RootImage { name: wanted.to_string(), digests: BTreeMap::new(), place },
    }
}

fn before<K: DeserializeOwned>(
    here: &Snapshot,
    client: Option<&Client>,
    kind: ImageKind,
) -> Result<Option<Before<K>>, Fault> {
    let Some(client) = client else {
        let file = here.tree.images().join(format!("{kind}.key.json"));
        let key = std::fs::read_to_string(file).ok().and_then(|json| serde_json::from_str(&json).ok());
        return Ok(key.map(|key| Before {
            name: "the last one built here".to_owned(),
            key: Some(key),
            published: None,
        }));
    };
    let repository = here.tree.repository(kind);
    let default = &here.tree.policy.project.default_branch;
    let branch = match tags::of_branch(default, default) {
        OfBranch::Same(tag) | OfBranch::Other(tag, _) => Some(tag),
        OfBranch::None(_) => None,
    };
    for tag in [Some(Tag::latest()), branch].into_iter().flatten() {
        let reference: Reference = repository.tag(&tag);
        let answer = publish::read(client, &repository, tag).map_err(|fault| {
            fault.needed_by("what is published").hint("`--offline` compares with what was built here last")
        })?;
        if let Answer::Present(found) = answer {
            let key = found.key().and_then(|json| serde_json::from_str(json).ok());
            return Ok(Some(Before { name: format!("`{reference}`"), key, published: Some(found) }));
        }
    }
    Ok(None)
}

fn explain<K>(
    client: Option<&Client>,
    image: ImageKind,
    found: Found,
    before: Option<Before<K>>,
    mut differences: Vec<String>,
) -> Explained {
    // What stands there under a digest is a pinned base: not of this tree's key.
    let pinned = found.reference.as_ref().is_some_and(|reference| reference.digest.is_some());
    let this = found.reference.map_or_else(|| "of this tree".to_owned(), |reference| format!("`{reference}`"));
    let presence = found.presence;
    let Some(before) = before else {
        let (beside, verdict) = match (&presence, client) {
            (Presence::Present, _) => ("what is published", "it is in the registry, and `latest` names nothing"),
            (_, Some(_)) => ("what is published", "nothing is published yet"),
            (_, None) => ("what was built here", "nothing was built here yet"),
        };
        let verdict = Some(verdict.to_owned());
        return Explained { image, this, beside: beside.to_owned(), verdict, differences };
    };
    let verdict = match (&before.key, &presence) {
        (None, _) => Some("it carries no key that this version can read: nothing can be compared".to_owned()),
        (Some(_), Presence::Absent(_)) if differences.is_empty() => {
            Some("the registry lost it, nothing of yours changed".to_owned())
        }
        (Some(_), Presence::Stale(why)) if differences.is_empty() => Some(format!("{why}, nothing of yours changed")),
        (Some(_), _) if differences.is_empty() => Some("nothing differs".to_owned()),
        _ => None,
    };
    if presence == Presence::Present && verdict.is_none() && !pinned {
        differences.push("an image of this tree's key is in the registry already".to_owned());
    }
    Explained { image, this, beside: before.name, verdict, differences }
}

/// The Debian packages in which two roots differ, where the labels of both are at hand.
fn root_packages(
    here: &Snapshot,
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
        let repository = here.tree.repository(ImageKind::Base);
        let Some(descriptor) = published.platforms.values().next() else { return Ok(None) };
        let manifest = publish::read_manifest(client, &repository, descriptor.digest)?;
        let config = publish::read_config(client, &repository, &manifest)?;
        Ok(config.config.labels.get(PACKAGES_LABEL).and_then(|json| serde_json::from_str(json).ok()))
    };
    let before = match labels() {
        Ok(Some(before)) => before,
        Ok(None) => return Vec::new(),
        Err(fault) => return vec![format!("the published root's packages cannot be read: {}", said(&fault))],
    };
    let Some(now) = here.local_root() else { return Vec::new() };
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
