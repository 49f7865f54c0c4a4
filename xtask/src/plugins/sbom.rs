//! The plugin `sbom`: everything in an image, as SPDX 2.3, SPDX 3.0 and CycloneDX.
//!
//! The configuration of the artifact holds the contents of each layer. An app's SBOM is put together from them on a machine that has none of
//! the base's layers.

use super::{Artifact, Blob, Call, Description, Outcome, Plugin, Settings};
use serde::{Deserialize, Serialize};
use std::path::Path;
use xtask_host::registry::{Answer, Client, attach, publish};
use xtask_host::terminal;
use xtask_host::tree::binary;
use xtask_host::tree::facts::{self, Tree};
use xtask_model::fault::Fault;
use xtask_model::image::policy::plugin::{DEFAULT_SBOM_FORMATS, SBOM};
use xtask_model::image::rebase;
use xtask_model::spec::oci::annotation;
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository};
use xtask_model::supply::inventory::{self, Crate, Inventory, Layer, LayerContents};
use xtask_model::supply::licence::CrateLicences;
use xtask_model::supply::{self, cyclonedx, spdx};
use xtask_native::image::{Image, Place};
use xtask_native::inventory::{Described, Search, layers};

/// Media type of the contents of layers.
const CONTENTS: &str = "application/vnd.dev.xtask.layers.v1+json";

#[derive(Serialize, Deserialize)]
struct Contents {
    layers: Vec<(Digest, LayerContents)>,
}

pub(super) struct Sbom;

impl Plugin for Sbom {
    fn description(&self) -> &'static Description {
        &SBOM
    }

    fn prepare(&self, root: &Path, settings: &Settings) -> Result<(), Fault> {
        let Some(path) = settings.text(LICENCES) else { return Ok(()) };
        licences(settings, path, std::fs::read(root.join(path)).map_err(|error| error.to_string())).map(drop)
    }

    fn run(&self, call: &Call<'_>) -> Result<Outcome, Fault> {
        let subject = call.subject;
        let Some(place) = subject.place.clone() else {
            terminal::step(
                "sbom",
                &format!("{}: its layers are in the docker engine; it is written with `--push`", subject.kind),
            );
            return Ok(Outcome::default());
        };
        let image = Image::open(call.client, place, subject.digest, subject.platform)?;
        let found = inventory_of(call.tree, call.client, &image, (&subject.reference.repository, subject.platform))?;
        let mut outcome = Outcome::default();
        let formats = call.settings.texts("formats").unwrap_or_else(|| DEFAULT_SBOM_FORMATS.to_vec());
        for format in formats {
            let (media_type, bytes, file) = document(&found.inventory, format);
            outcome.files.push(call.write(&format!("{}-{}.{file}", subject.kind, subject.platform.dashed()), &bytes)?);
            let mut artifact = Artifact::of(media_type, bytes);
            if outcome.attach.is_empty() {
                let contents = serde_json::to_vec(&found.contents).expect("contents are valid JSON");
                artifact.config = Some(Blob::new(CONTENTS, contents));
            }
            outcome.attach.push(artifact);
        }
        Ok(outcome)
    }
}

/// A document of a format, with its media type and the end of its file's name.
pub fn document(inventory: &Inventory, format: &str) -> (&'static str, Vec<u8>, &'static str) {
    let version = env!("CARGO_PKG_VERSION");
    match format {
        "spdx" => (spdx::MEDIA_TYPE, spdx::document(inventory, version), "spdx.json"),
        "spdx3" => (spdx::v3::MEDIA_TYPE, spdx::v3::document(inventory, version), "spdx3.json"),
        _ => (cyclonedx::MEDIA_TYPE, cyclonedx::document(inventory, version), "cdx.json"),
    }
}

/// Contents of an image.
pub struct Found {
    pub inventory: Inventory,
    contents: Contents,
}

/// Lists what is in an image of this repository.
pub fn inventory_of(
    tree: &Tree,
    client: &Client,
    image: &Image,
    (repository, platform): (&Repository, &Platform),
) -> Result<Found, Fault> {
    let store = crate::store::open(&tree.root)?;
    let search =
        Search { client, store: &store, root: &tree.root, platform, described: &|| described(client, image, platform) };
    let contents = layers(image, &search)?;
    // A lock that cannot be read has failed the build, or is of another commit than the image.
    let lock = facts::unchecked_lock(tree).ok();
    let mut crates = crates(tree);
    if let Some(settings) = crate::plugins::settings_of(&tree.policy, SBOM.name)
        && let Some(path) = settings.text(LICENCES)
        && !crates.is_empty()
    {
        let file = tree.files.read(Path::new(path))?.ok_or_else(|| "there is no such file".to_owned());
        let licences = licences(settings, path, file)?;
        for one in &mut crates {
            one.licence = licences.get(&one.name, &one.version).map(str::to_owned);
        }
        let without = crates.iter().filter(|one| one.licence.is_none()).count();
        if without > 0 {
            terminal::detail(&format!("{without} crates have no licence in `{path}`; `{WRITE}` updates it"));
        }
    }
    let program = tree.policy.app.binary.as_ref();
    let program = program.map(|program| (program.name.as_str(), crates.as_slice()));
    let list = image.layers().map(|(layer, diff_id)| Layer { digest: layer.digest, diff_id, size: layer.size });
    let inventory = Inventory {
        repository: repository.to_string(),
        digest: image.digest,
        platform: platform.clone(),
        created: image.config.created.clone().unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned()),
        layers: list.collect(),
        components: inventory::components(&contents, lock.as_ref(), program),
    };
    Ok(Found { inventory, contents: Contents { layers: contents } })
}

/// The crates of the app's program; none without a program.
pub fn crates(tree: &Tree) -> Vec<Crate> {
    let program = tree.policy.app.binary.as_ref();
    program.and_then(|program| binary::crates(&*tree.files, &program.package).ok()).unwrap_or_default()
}

/// The setting with the file of the crates' licences.
pub const LICENCES: &str = "crate-licences";

const WRITE: &str = "cargo xtask sbom --write-licences";

/// Licences come from a file of the tree, never from this machine's cache of crates: the same commit gives the same SBOM anywhere.
fn licences(settings: &Settings, path: &str, file: Result<Vec<u8>, String>) -> Result<CrateLicences, Fault> {
    let text = file.and_then(|bytes| String::from_utf8(bytes).map_err(|error| error.to_string()));
    text.and_then(|text| CrateLicences::read(&text)).map_err(|why| {
        Fault::usage(format!("cannot read the licences of crates in `{path}`"))
            .cause(why)
            .needed_by(format!("`{LICENCES}` in {}", settings.place(LICENCES).unwrap_or("`images.toml`")))
            .hint(format!("write it: `{WRITE}`"))
    })
}

/// The contents of layers that are attached to the base of an image, to the image itself, or to the one that it was rebased from.
fn described(client: &Client, image: &Image, platform: &Platform) -> Described {
    let mut found = Described::new();
    let labels = &image.config.config.labels;
    let base = labels.get(annotation::BASE_NAME).zip(labels.get(annotation::BASE_DIGEST));
    let base = base.and_then(|(name, digest)| {
        let name: Reference = name.parse().ok()?;
        Some((name.repository, digest.parse::<Digest>().ok()?))
    });
    let own = match &image.place {
        Place::Registry(repository) => Some((repository.clone(), image.digest)),
        Place::Layout(_) => None,
    };
    // A root of another registry has none of our documents, and may be unreachable.
    let is_near = |one: &(Repository, Digest)| own.as_ref().is_some_and(|(own, _)| own.registry() == one.0.registry());
    let base = base.filter(is_near);
    // A rebased image has the layers of the one before above its root.
    let before = labels.get(rebase::FROM).and_then(|name| name.parse::<Reference>().ok());
    let before = before.and_then(|name| Some((name.repository, name.digest?)));
    for (repository, digest) in base.into_iter().chain(own).chain(before) {
        // Without it the layers are read, which takes longer.
        match attached(client, &repository, digest, platform) {
            Ok(layers) => found.extend(layers),
            Err(fault) => terminal::detail(&fault.what),
        }
    }
    found
}

fn attached(
    client: &Client,
    repository: &Repository,
    digest: Digest,
    platform: &Platform,
) -> Result<Vec<(Digest, LayerContents)>, Fault> {
    let Answer::Present(image) = publish::read(client, repository, digest)? else { return Ok(Vec::new()) };
    let digest = image.platforms.get(platform).map_or(digest, |manifest| manifest.digest);
    for media_type in supply::SBOMS {
        for artifact in attach::find(client, repository, &digest, media_type)? {
            if artifact.config.media_type == CONTENTS
                && let Ok(contents) = serde_json::from_slice::<Contents>(&artifact.config.bytes)
            {
                return Ok(contents.layers);
            }
        }
    }
    Ok(Vec::new())
}
