//! `sbom`: what is in an image, and what changed between two.

use crate::flags::{Format, Global, SbomFlags, SbomType};
use crate::{documents, plugins};
use std::path::Path;
use xtask_host::registry::{Answer, Client, attach, publish};
use xtask_host::tree::binary;
use xtask_host::tree::facts::Tree;
use xtask_host::{file, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::policy::plugin::SBOM;
use xtask_model::spec::reference::{Platform, Reference, Repository, Tag};
use xtask_model::supply::inventory::{self, Component};
use xtask_model::supply::licence::CrateLicences;
use xtask_model::supply::{cyclonedx, spdx};
use xtask_native::container::unpacked::ImageStore;
use xtask_native::image::{Image, Place};

/// Prints a document, or the differences.
pub fn run(global: &Global, flags: &SbomFlags) -> anyhow::Result<()> {
    let named = flags.image.as_deref().or(flags.diff.first().map(String::as_str));
    let tree = global.tree_for(named)?;
    if flags.write_licences {
        return Ok(write_licences(&tree)?);
    }
    let client = tree.client();
    let platform = flags.platform.clone().unwrap_or_else(Platform::host);
    if let [old, new] = flags.diff.as_slice() {
        let read = |name: &String| components(&tree, &client, &open(&tree, &client, name, &platform)?, &platform);
        let (old, new) = (read(old)?, read(new)?);
        let changes = inventory::diff(&old, &new);
        return match global.format {
            Format::Json => documents::SBOM_DIFF.print_list("changes", &changes),
            Format::Text | Format::Github | Format::Gitlab if changes.is_empty() => super::print("nothing differs\n"),
            Format::Text | Format::Github | Format::Gitlab => super::print(&(changes.join("\n") + "\n")),
        };
    }
    let opened = open(&tree, &client, &name(global, flags.image.as_deref(), "sbom")?, &platform)?;
    let (format, media_type) = match flags.kind {
        SbomType::Cyclonedx => ("cyclonedx", cyclonedx::MEDIA_TYPE),
        SbomType::Spdx => ("spdx", spdx::MEDIA_TYPE),
        SbomType::Spdx3 => ("spdx3", spdx::v3::MEDIA_TYPE),
    };
    let bytes = match attached(&client, &opened, media_type)? {
        Some(bytes) => bytes,
        None => {
            let found = plugins::inventory_of(&tree, &client, &opened.image, (&opened.repository, &platform))?;
            plugins::document(&found.inventory, format).1
        }
    };
    super::print(&(String::from_utf8_lossy(&bytes).into_owned() + "\n"))
}

/// Writes the file with the licences of the program's crates.
fn write_licences(tree: &Tree) -> Result<(), Fault> {
    let setting =
        crate::plugins::settings_of(&tree.policy, SBOM.name).and_then(|settings| settings.text(plugins::LICENCES));
    let path = setting.ok_or_else(|| {
        Fault::usage("`images.toml` names no file for the licences of crates")
            .hint("add `crate-licences = \"crates.licences\"` to the step with `uses = \"sbom\"`")
    })?;
    let crates = plugins::crates(tree);
    if crates.is_empty() {
        return Err(Fault::usage("the app has no program of crates").hint("`[app] binary` in `images.toml` names one"));
    }
    let mut licences = binary::licences(&tree.root, &crates)?;
    // What a person wrote for a manifest without a licence stays.
    let before = std::fs::read_to_string(tree.root.join(path)).ok();
    let before = before.and_then(|text| CrateLicences::read(&text).ok()).unwrap_or_default();
    for one in &crates {
        if let (None, Some(written)) = (licences.get(&one.name, &one.version), before.get(&one.name, &one.version)) {
            licences.insert(&one.name, &one.version, written.to_owned());
        }
    }
    let without: Vec<&str> = crates
        .iter()
        .filter(|one| licences.get(&one.name, &one.version).is_none())
        .map(|one| one.name.as_str())
        .collect();
    if !without.is_empty() {
        terminal::warn(&format!("the manifests of these crates state no licence: {}", without.join(", ")));
    }
    let wrote = file::write(&tree.root.join(path), &licences.text())?;
    let what = if wrote { "wrote" } else { "unchanged" };
    terminal::step(what, &format!("`{path}`: {} crates", crates.len() - without.len()));
    Ok(())
}

/// An image with the repository that it belongs to.
pub(super) struct Opened {
    pub(super) image: Image,
    pub(super) repository: Repository,
}

/// The name of an image: the one that `command` was given, else that of this tree's app.
pub(super) fn name(global: &Global, given: Option<&str>, command: &str) -> Result<String, Fault> {
    given.map_or_else(|| super::smoke::this_trees(global, command), |name| Ok(name.to_owned()))
}

/// Opens an image of a registry or of a layout.
pub(super) fn open(tree: &Tree, client: &Client, name: &str, platform: &Platform) -> Result<Opened, Fault> {
    let reference: Option<Reference> = name.parse().ok();
    let repository = reference.as_ref().map(|reference| reference.repository.clone());
    if let Some(found) = ImageStore::of(tree).find(name)? {
        let (layout, manifest) = found.parts();
        let image = Image::open(client, Place::Layout(layout), manifest.digest, platform)?;
        let repository = repository.filter(|_| !Path::new(name).is_dir());
        let repository = repository.unwrap_or_else(|| tree.repository(xtask_model::image::policy::ImageKind::App));
        return Ok(Opened { image, repository });
    }
    let reference = super::image_named(name)?;
    let repository = reference.repository.clone();
    let digest = match reference.digest {
        Some(digest) => digest,
        None => {
            let tag = reference.tag.clone().unwrap_or_else(Tag::latest);
            match client.head(&repository, tag)? {
                Answer::Present(found) => found.digest,
                Answer::Absent => return Err(super::not_published(&reference)),
            }
        }
    };
    Ok(Opened { image: Image::open(client, Place::Registry(repository.clone()), digest, platform)?, repository })
}

/// The newest document of a type that is attached to an image.
fn attached(client: &Client, opened: &Opened, media_type: &str) -> Result<Option<Vec<u8>>, Fault> {
    let Place::Registry(repository) = &opened.image.place else { return Ok(None) };
    let found = attach::find(client, repository, &opened.image.digest, media_type)?;
    Ok(found.into_iter().next_back().and_then(|artifact| artifact.documents.into_iter().next()).map(|blob| blob.bytes))
}

/// Contents of an image, by the SBOM that is attached to it, or by its layers.
pub(super) fn components(
    tree: &Tree,
    client: &Client,
    opened: &Opened,
    platform: &Platform,
) -> Result<Vec<Component>, Fault> {
    if let Some(bytes) = attached(client, opened, cyclonedx::MEDIA_TYPE)? {
        let what = format!("cannot read the SBOM of `{}`", opened.repository.digest(opened.image.digest));
        return cyclonedx::read(&bytes).map_err(|why| Fault::network(what).cause(why));
    }
    let found = plugins::inventory_of(tree, client, &opened.image, (&opened.repository, platform))?;
    Ok(found.inventory.components)
}

/// Refuses an image without a manifest; used where every platform counts.
pub(super) fn published(
    client: &Client,
    reference: &Reference,
) -> Result<xtask_model::image::presence::Published, Fault> {
    let read = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => publish::read(client, &reference.repository, *digest)?,
        (None, Some(tag)) => publish::read(client, &reference.repository, tag)?,
        (None, None) => publish::read(client, &reference.repository, Tag::latest())?,
    };
    read.present().ok_or_else(|| super::not_published(reference))
}
