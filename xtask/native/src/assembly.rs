//! Plans a Dockerfile's target without a daemon: its layers with their recipes, and the image's configuration.
//!
//! The result equals BuildKit's for the same file. Reads only the build context, and the base image's files only where
//! an instruction depends on them (`--link` never does). Writes nothing.

mod base;
mod config;
mod context;
mod copy;
mod fingerprint;
mod layers;
mod stages;
#[cfg(test)]
mod tests;
pub(crate) mod unsupported;

pub use base::{BaseFiles, FromImage, FromImages, Stat};
pub use config::CREATED;
use xtask_model::spec::dockerfile::{DEFAULT_PATH, Dockerfile, Inherited, Stage, StageBase};

use crate::layer::item::Item;
use crate::stage::{Earlier, Realise};
use layers::Layers;
use stages::Stages;
use std::collections::{BTreeMap, BTreeSet};
use unsupported::with_alternatives;
use xtask_host::tree::files::Files;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::ignore::Ignore;
use xtask_model::spec::oci::Config;
use xtask_model::spec::reference::{Digest, Platform};

pub struct Inputs<'a> {
    /// The Dockerfile, with its target set to the stage to build.
    pub dockerfile: &'a Dockerfile,
    pub args: &'a BTreeMap<String, String>,
    pub platform: &'a Platform,
    /// The build context.
    pub files: &'a dyn Files,
    pub ignore: &'a Ignore,
    /// Labels from the command line; they override those of the Dockerfile.
    pub labels: &'a BTreeMap<String, String>,
    pub images: &'a dyn FromImages,
    pub realised: &'a BTreeMap<String, &'a dyn Realise>,
    /// Context files that are identified by the recipe that makes them and may not exist yet. They count as executable.
    pub deferred: &'a BTreeMap<ContextPath, Digest>,
    /// Compression of layers; part of every recipe.
    pub codec: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerPlan {
    /// Name in reports: the instruction, or the part of a realised stage.
    pub name: String,
    /// Digest of everything that determines its contents.
    pub recipe: Digest,
    /// Files of [`Inputs::deferred`] that must exist when the layer is made.
    pub needs: BTreeSet<ContextPath>,
}

pub struct Assembly<'a> {
    /// Complete except for layer digests. Its history has an entry for each layer.
    pub config: Config,
    /// Layers of the image that the first `FROM` names.
    pub base: Vec<Digest>,
    pub layers: Vec<LayerPlan>,
    /// Numbers of these layers among the layers of all stages.
    numbers: Vec<usize>,
    all: Layers<'a>,
}

impl Assembly<'_> {
    /// Prepares these layers, by their numbers in [`Self::layers`]. Each recipe runs at most once.
    pub fn prepare(&self, wanted: &[usize], earlier: Option<&dyn Earlier>) -> Result<(), Fault> {
        let numbers: Vec<usize> = wanted.iter().map(|layer| self.numbers[*layer]).collect();
        self.all.prepare(&numbers, earlier)
    }

    /// Items of a layer, sorted by path.
    pub fn items(&self, layer: usize) -> Result<Vec<Item>, Fault> {
        self.all.items(self.numbers[layer])
    }

    /// Items of these layers, all at once.
    pub fn produce(&self, wanted: &[usize]) -> Result<Vec<Vec<Item>>, Fault> {
        self.prepare(wanted, None)?;
        wanted.iter().map(|layer| self.items(*layer)).collect()
    }

    /// The stage and its part that a layer is a copy of.
    pub fn part(&self, layer: usize) -> Option<(&dyn Realise, usize)> {
        self.all.part(self.numbers[layer])
    }
}

pub fn assemble<'a>(inputs: &'a Inputs<'a>) -> Result<Assembly<'a>, Fault> {
    let file = inputs.dockerfile;
    let stage_bases = file.stage_bases(inputs.args, inputs.platform)?;
    let (interpreted, below) = interpreted(file, &stage_bases, &|name| inputs.realised.contains_key(name))?;
    let realise = |stage: usize| inputs.realised.get(file.stages()[stage].name.as_deref()?).copied();
    let below: BTreeSet<usize> =
        below.into_iter().filter(|on| realise(*on).is_some_and(|stage| stage.is_base())).collect();
    let is_used = |stage: &usize| interpreted.contains(stage) || below.contains(stage);
    let mut stages =
        Stages { inputs, layers: Layers::default(), done: BTreeMap::new(), inherited: 0, selected: BTreeMap::new() };
    let mut images: BTreeMap<usize, usize> = BTreeMap::new();
    for stage_base in stage_bases.iter().filter(|stage_base| is_used(&stage_base.stage)) {
        if stage_base.on.is_none() && stage_base.base != "scratch" {
            let platform = stages.platform(stage_base)?;
            let place = format!("`{}:{}`", file.path(), file.stages()[stage_base.stage].line);
            let image = inputs.images.image(&stage_base.base, &platform).map_err(|fault| match fault.needed_by {
                Some(_) => fault,
                None => fault.needed_by(place),
            })?;
            images.insert(stage_base.stage, stages.layers.images.len());
            stages.layers.images.push(image);
        }
    }
    let inherits = |stage: usize| images.get(&stage).map(|image| inherited(&stages.layers.images[*image].config));
    let expanded = file.expand_over(inputs.args, inputs.platform, &inherits)?;
    let found: Vec<&Stage> = expanded.stages.iter().filter(|stage| interpreted.contains(&stage.index)).collect();
    stages.read_context(&found)?;
    for stage in expanded.stages.iter().filter(|stage| is_used(&stage.index)) {
        let stage_base = stage_bases.iter().find(|stage_base| stage_base.stage == stage.index);
        let stage_base = stage_base.expect("every expanded stage has a stage_base");
        let image = images.get(&stage.index).copied();
        match realise(stage.index).filter(|_| below.contains(&stage.index)) {
            Some(realise) => stages.realised(stage, stage_base, image, realise)?,
            None => stages.stage(stage, stage_base, image)?,
        }
    }
    let mut state = stages.done.remove(&file.target().index).expect("the target is always interpreted");
    state.description.label(inputs.labels);
    let image = state.chain.image.map(|image| stages.layers.images[image].config.rootfs.diff_ids.clone());
    Ok(Assembly {
        config: state.description.finish(),
        base: image.unwrap_or_default(),
        layers: state.chain.layers.iter().map(|layer| stages.layers.layers[*layer].plan.clone()).collect(),
        numbers: state.chain.layers,
        all: stages.layers,
    })
}

/// Stages to interpret: the target, the stages below it, and the stages these copy from, except those that recipes
/// make; and stages of recipes that others are built on.
fn interpreted(
    file: &Dockerfile,
    stage_bases: &[StageBase],
    realised: &dyn Fn(&str) -> bool,
) -> Result<(BTreeSet<usize>, BTreeSet<usize>), Fault> {
    let is_realised = |stage: &usize| file.stages()[*stage].name.as_deref().is_some_and(realised);
    let target = file.target();
    if is_realised(&target.index) {
        let what = format!("{}:{}: the target is a stage that a recipe makes", file.path(), target.line);
        return Err(with_alternatives(Fault::usage(what)));
    }
    let (mut found, mut below) = (BTreeSet::new(), BTreeSet::new());
    let mut open = vec![target.index];
    while let Some(stage) = open.pop() {
        if is_realised(&stage) || !found.insert(stage) {
            continue;
        }
        let on_of = |stage| {
            stage_bases.iter().find(|stage_base| stage_base.stage == stage).and_then(|stage_base| stage_base.on)
        };
        let mut on = on_of(stage);
        open.extend(file.copied_stages(stage, on));
        while let Some(realised) = on.filter(is_realised) {
            below.insert(realised);
            on = on_of(realised);
        }
        open.extend(on);
    }
    Ok((found, below))
}

/// Environment and triggers that a stage inherits from its image.
fn inherited(config: &Config) -> Inherited {
    let pair = |entry: &String| {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        (name.to_owned(), value.to_owned())
    };
    let mut env: Vec<(String, String)> = config.config.env.iter().map(pair).collect();
    if !env.iter().any(|(name, _)| name == "PATH") {
        env.push(("PATH".to_owned(), DEFAULT_PATH.to_owned()));
    }
    let triggers = config.config.other.get("OnBuild").and_then(|value| serde_json::from_value(value.clone()).ok());
    Inherited { env, triggers: triggers.unwrap_or_default() }
}
