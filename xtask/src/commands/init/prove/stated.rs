//! The proof where no engine can build the repository's own Dockerfile: the versions that its files pin, and the configuration that its
//! Dockerfile gives without running anything.

use super::Source;
use crate::pipeline::Contained;
use std::collections::BTreeMap;
use xtask_host::registry::layout::Layout;
use xtask_host::registry::{Client, ClientOptions};
use xtask_host::tree::context::WorkTree;
use xtask_host::tree::facts::Tree;
use xtask_host::tree::inputs;
use xtask_model::adopt::Adoption;
use xtask_model::adopt::proof::{self, Known, Proof, Stated};
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::image::order::FromPlace;
use xtask_model::spec::dockerfile::{Dockerfile, Kind};
use xtask_model::spec::ignore::Ignore;
use xtask_model::spec::lock::formats::Format;
use xtask_model::spec::oci::{Config, Execution};
use xtask_model::spec::reference::Platform;
use xtask_model::spec::requirements::RequirementSource;
use xtask_native::assembly::{self, BaseFiles, FromImage, FromImages, Inputs, Stat, assemble};
use xtask_native::image::{Image, Place};
use xtask_native::listing;

/// Compares what can be known with the new image.
pub(super) fn compare(
    (source, adoption): (&Source, &Adoption),
    tree: &Tree,
    new: &Contained,
    known: &Known,
) -> Result<Proof, Fault> {
    let client = tree.client();
    let platform = Platform::host();
    let config = configuration(source, new, &platform)?;
    let files = listing::one(&client, &new.image)?;
    let versions = pinned(tree)?;
    let stated = Stated { versions: &versions, config: &config, environments: &adoption.environments };
    let image = proof::ComparedImage { files: &files, config: &new.image.config.config };
    Ok(proof::compare_stated(&stated, image, known))
}

/// Versions that the repository's own files pin: of its lock, or of its requirement files.
fn pinned(tree: &Tree) -> Result<BTreeMap<String, String>, Fault> {
    if tree.policy.base.format() != Format::Pip {
        // Another tool's lock, which both images are installed from.
        let lock = inputs::lock(&*tree.files, &tree.policy)?;
        let packages = lock.packages.into_iter().filter(|package| package.marker.is_none());
        return Ok(packages.map(|package| (package.name, package.version)).collect());
    }
    let asked = inputs::asked(&*tree.files, &tree.policy)?;
    let version = |requirement: &xtask_model::spec::requirements::Requirement| {
        let RequirementSource::Index(specifiers) = &requirement.source else { return None };
        let pin = specifiers.iter().find(|specifier| specifier.is_pin())?;
        Some((requirement.name.clone(), pin.version().to_owned()))
    };
    Ok(asked.requirements().iter().filter(|one| one.marker.is_none()).filter_map(version).collect())
}

/// The configuration of a Dockerfile's target on the root of the new image: that of its instructions that run and copy nothing.
pub(super) fn configuration(source: &Source, new: &Contained, platform: &Platform) -> Result<Execution, Fault> {
    let place = match &new.root.place {
        FromPlace::Layout(folder) => Place::Layout(Layout::open_or_create(folder)?),
        FromPlace::Registry | FromPlace::NotBuilt => Place::Registry(new.root.repository.clone()),
    };
    let client = Client::new(ClientOptions::default());
    let root = &Image::open(&client, place, new.root.digest, platform)?.config;
    let dockerfile = &source.parsed;
    let bases = dockerfile.stage_bases(&BTreeMap::new(), platform)?;
    let mut stages = Vec::new();
    let mut next = Some(dockerfile.target().index);
    while let Some(stage) = next {
        stages.push(stage);
        next = bases.iter().find(|base| base.stage == stage).and_then(|base| base.on);
    }
    let text = |line| dockerfile.instruction_text(line).unwrap_or_default().to_owned();
    let mut lines: Vec<String> = dockerfile.globals().iter().map(|global| text(global.line)).collect();
    lines.push("FROM root".to_owned());
    for stage in stages.into_iter().rev() {
        let kept = dockerfile.stages()[stage].instructions.iter();
        let kept = kept.filter(|one| !matches!(one.kind, Kind::Run(_) | Kind::Copy(_) | Kind::Add(_)));
        lines.extend(kept.map(|one| text(one.line)));
    }
    let plain = Dockerfile::parse(dockerfile.path(), &(lines.join("\n") + "\n"))?;
    let (none, no_args, images) = (BTreeMap::new(), BTreeMap::new(), Root(root));
    let folder = std::env::temp_dir();
    let inputs = Inputs {
        dockerfile: &plain,
        args: &no_args,
        platform,
        files: &WorkTree::new(&folder),
        ignore: &Ignore::parse(".dockerignore", b"*")?,
        labels: &no_args,
        images: &images,
        realised: &none,
        deferred: &BTreeMap::new(),
        codec: "none",
    };
    let assembly: assembly::Assembly<'_> = assemble(&inputs)?;
    Ok(assembly.config.config)
}

/// The root by its configuration alone: no instruction that is kept reads a file.
struct Root<'a>(&'a Config);

impl BaseFiles for Root<'_> {
    fn lookup(&self, _: &ContextPath) -> Result<Option<Stat>, Fault> {
        Ok(None)
    }

    fn file(&self, _: &ContextPath) -> Result<Option<Vec<u8>>, Fault> {
        Ok(None)
    }

    fn any_below(&self, _: &ContextPath) -> Result<bool, Fault> {
        Ok(false)
    }
}

impl FromImages for Root<'_> {
    fn image(&self, _: &str, _: &Platform) -> Result<FromImage<'_>, Fault> {
        Ok(FromImage { config: self.0.clone(), files: self })
    }
}
