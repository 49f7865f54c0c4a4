//! Layers of stages, made on demand: a layer that is found elsewhere by its recipe is never computed.
//!
//! Looks in this Dockerfile's layers before the base images. Reads context files only for their contents.

use super::LayerPlan;
use super::base::{FromImage, Stat};
use super::context;
use super::copy::mode::Mode;
use super::copy::owner::Owner;
use super::copy::select::{self, FileMap, Rules};
use super::copy::target::{CopiedItem, Lookup, Nothing, Sum, Target, resolve};
use super::copy::{self, Flags, Selected};
use super::fingerprint::LayerFingerprint;
use crate::layer::item::{Bytes, Content, Item};
use crate::layer::packed;
use crate::stage::{Earlier, Realise};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::dockerfile::{Reads, Source};
use xtask_model::spec::ignore::Ignore;
use xtask_model::spec::reference::Digest;

/// The image and the layers of a stage so far.
#[derive(Clone, Debug, Default)]
pub(super) struct LayerChain {
    /// Number of its image; `None` for `scratch`.
    pub(super) image: Option<usize>,
    /// Numbers of this Dockerfile's layers, lowest first.
    pub(super) layers: Vec<usize>,
}

impl LayerChain {
    pub(super) fn is_empty(&self) -> bool {
        self.image.is_none() && self.layers.is_empty()
    }
}

pub(super) enum CopySource<'a> {
    Known(Vec<Selected>),
    /// Files of the context, some of them in folders that are not listed yet.
    Context {
        context: context::Context<'a>,
        sources: Vec<Source>,
        /// Entries that each source selects.
        whole: Vec<Vec<Selected>>,
        heredocs: Vec<Selected>,
    },
    Stage {
        chain: LayerChain,
        reads: Vec<Reads>,
    },
    /// A part of a stage that a recipe makes.
    Part {
        stage: usize,
        realise: &'a dyn Realise,
        number: usize,
        reads: Vec<Reads>,
        /// True if only this part can contain the source.
        alone: bool,
    },
    /// A part of such a stage as it is, for the stages that are built on it.
    Whole {
        stage: usize,
        realise: &'a dyn Realise,
        number: usize,
    },
}

pub(super) struct CopyJob<'a> {
    /// `FILE:LINE` for messages.
    pub(super) place: String,
    pub(super) origin: CopySource<'a>,
    pub(super) to: String,
    pub(super) owner: Option<Owner>,
    pub(super) mode: Option<Mode>,
    pub(super) excludes: Ignore,
    /// True if it is independent of lower layers.
    pub(super) linked: bool,
}

pub(super) struct StageLayer<'a> {
    pub(super) plan: LayerPlan,
    pub(super) chain: LayerChain,
    /// `None` if the layer was made when it was planned.
    pub(super) job: Option<CopyJob<'a>>,
    pub(super) made: RefCell<Option<Rc<[CopiedItem]>>>,
}

#[derive(Default)]
pub(super) struct Layers<'a> {
    pub(super) images: Vec<FromImage<'a>>,
    pub(super) layers: Vec<StageLayer<'a>>,
    /// Parts of stages that were prepared, by the numbers of both.
    prepared: RefCell<BTreeSet<(usize, usize)>>,
}

enum PathState {
    Present(Stat),
    /// A parent of the path is a file or link here, which hides lower layers.
    Hidden,
    Absent,
}

impl<'a> Layers<'a> {
    /// Digest of everything below the next layer.
    pub(super) fn chain_id(&self, chain: &LayerChain) -> Digest {
        let image = chain.image.map_or(&[][..], |image| &self.images[image].config.rootfs.diff_ids);
        let mut recipe = LayerFingerprint::new("chain").number(image.len() as u64);
        for diff_id in image {
            recipe = recipe.digest(diff_id);
        }
        chain.layers.iter().fold(recipe, |recipe, layer| recipe.digest(&self.layers[*layer].plan.recipe)).finish()
    }

    pub(super) fn view<'v>(&'v self, chain: &'v LayerChain) -> View<'v, 'a> {
        View { layers: self, chain }
    }

    /// Prepares the parts of realised stages that these layers need; each recipe runs once.
    pub(super) fn prepare(&self, wanted: &[usize], earlier: Option<&dyn Earlier>) -> Result<(), Fault> {
        let mut missing: BTreeMap<usize, (&'a dyn Realise, Vec<usize>)> = BTreeMap::new();
        for layer in wanted {
            let (stage, realise, number) = match self.layers[*layer].job.as_ref().map(|job| &job.origin) {
                Some(
                    CopySource::Part { stage, realise, number, .. } | CopySource::Whole { stage, realise, number },
                ) => (stage, realise, number),
                _ => continue,
            };
            let numbers = &mut missing.entry(*stage).or_insert_with(|| (*realise, Vec::new())).1;
            if !self.prepared.borrow().contains(&(*stage, *number)) && !numbers.contains(number) {
                numbers.push(*number);
            }
        }
        for (stage, (realise, numbers)) in missing.into_iter().filter(|(_, (_, numbers))| !numbers.is_empty()) {
            realise.prepare(&numbers, earlier)?;
            self.prepared.borrow_mut().extend(numbers.into_iter().map(|number| (stage, number)));
        }
        Ok(())
    }

    /// The stage and its part that a layer is a copy of.
    pub(super) fn part(&self, layer: usize) -> Option<(&'a dyn Realise, usize)> {
        match &self.layers[layer].job.as_ref()?.origin {
            CopySource::Part { realise, number, .. } => Some((*realise, *number)),
            _ => None,
        }
    }

    /// Items for the layer file. What no other layer has asked for is not kept.
    pub(super) fn items(&self, layer: usize) -> Result<Vec<Item>, Fault> {
        let StageLayer { made, job, chain, .. } = &self.layers[layer];
        match job {
            Some(job) if job.linked && made.borrow().is_none() => {
                self.execute(layer, job, chain)?.into_iter().map(item).collect()
            }
            _ => self.made(layer)?.iter().cloned().map(item).collect(),
        }
    }

    pub(super) fn made(&self, layer: usize) -> Result<Rc<[CopiedItem]>, Fault> {
        let StageLayer { made, job, chain, .. } = &self.layers[layer];
        if let Some(made) = &*made.borrow() {
            return Ok(made.clone());
        }
        let job = job.as_ref().expect("a planned layer has a job");
        let found: Rc<[CopiedItem]> = self.execute(layer, job, chain)?.into();
        Ok(made.borrow_mut().insert(found).clone())
    }

    fn execute(&self, layer: usize, job: &CopyJob<'a>, chain: &LayerChain) -> Result<Vec<CopiedItem>, Fault> {
        let at_place = |fault: Fault| match fault.needed_by {
            Some(_) => fault,
            None => fault.needed_by(format!("`{}`", job.place)),
        };
        let selected = match &job.origin {
            CopySource::Whole { realise, number, .. } => {
                self.prepare(&[layer], None)?;
                return part(*realise, *number);
            }
            CopySource::Known(known) => known.clone(),
            CopySource::Context { context, sources, whole, heredocs } => {
                let mut selected = context.list(sources, whole)?;
                selected.extend_from_slice(heredocs);
                selected
            }
            CopySource::Stage { chain, reads } => self.select_from_stage(chain, reads, &job.place)?,
            CopySource::Part { realise, number, reads, alone, .. } => {
                self.prepare(&[layer], None)?;
                let selected = select_from_part(part(*realise, *number)?, reads, &job.place)?;
                if selected.is_empty() && *alone {
                    let what = format!("{}: the recipe of the stage made no file that matches the source", job.place);
                    let hint = "in a stage with a recipe, links in the source path are not followed";
                    return Err(Fault::usage(what).hint(hint));
                }
                selected
            }
        };
        let view = self.view(chain);
        run(job, selected, if job.linked { &Nothing } else { &view }, &|owner| view.numbers(owner)).map_err(at_place)
    }

    fn select_from_stage(&self, chain: &LayerChain, reads: &[Reads], place: &str) -> Result<Vec<Selected>, Fault> {
        let mut files = FileMap::new();
        self.prepare(&chain.layers, None)?;
        for layer in &chain.layers {
            select::apply_layer(&mut files, self.made(*layer)?.iter().cloned());
        }
        let view = self.view(chain);
        let resolved = |path: &ContextPath| resolve(path.as_bytes(), &|path| view.lookup(path));
        let invalid = |why: String| Fault::usage(format!("{place}: {why}"));
        let rules = Rules { resolved: &resolved, invalid: &invalid };
        let mut selected = Vec::new();
        for reads in reads {
            let (folder, _) = select::fixed_prefix(reads);
            let at = resolved(&folder)?;
            let is_file = files.get(&at).is_some_and(|made| made.item.content != Content::Dir);
            if let Some(image) = chain.image.filter(|_| !is_file) {
                let base = self.images[image].files;
                if base.any_below(&at)? || !files.contains_key(&at) && base.lookup(&at)?.is_some() {
                    let what =
                        format!("{place}: `/{folder}` of the stage comes, at least in part, from its base image");
                    return Err(Fault::usage(what)
                        .hint("copy single files that the stage's own instructions made")
                        .hint("or build with `--engine docker`"));
                }
            }
            let found = select::select(&files, reads, &at, &rules)?;
            selected.extend(found.map_err(|path| {
                Fault::usage(format!("{place}: `/{path}` is not in the stage"))
                    .hint("only what a stage's own `COPY`, `ADD` and `WORKDIR` make can be copied from it")
            })?);
        }
        Ok(selected)
    }

    /// Does not make a part of a realised stage for a folder that certainly exists.
    fn seen(&self, layer: usize, path: &ContextPath) -> Result<PathState, Fault> {
        let StageLayer { made, job, .. } = &self.layers[layer];
        if let (None, Some(job)) = (&*made.borrow(), job) {
            if let Some(seen) = job.predict(path) {
                return Ok(seen);
            }
        }
        let made = self.made(layer)?;
        let find = |path: &ContextPath| made.binary_search_by(|made| made.item.path.cmp(path)).ok().map(|at| &made[at]);
        if let Some(found) = find(path) {
            return Ok(PathState::Present(Stat::from(&found.item)));
        }
        match path.folders().find_map(|folder| find(&folder)) {
            Some(found) if found.item.content != Content::Dir => Ok(PathState::Hidden),
            _ => Ok(PathState::Absent),
        }
    }
}

/// Resolves an owner to numeric ids.
type Numbers<'n> = &'n dyn Fn(&Owner) -> Result<(u32, u32), Fault>;

pub(super) fn run(
    job: &CopyJob<'_>,
    selected: Vec<Selected>,
    below: &dyn Lookup,
    numbers: Numbers<'_>,
) -> Result<Vec<CopiedItem>, Fault> {
    let owner = job.owner.as_ref().map(numbers).transpose()?;
    let flags = Flags { owner, mode: job.mode.clone(), excludes: job.excludes.clone() };
    let mut target = Target::new(below);
    selected.into_iter().try_for_each(|selected| copy::copy(&mut target, selected, &job.to, &flags))?;
    target.finish()
}

fn part(realise: &dyn Realise, number: usize) -> Result<Vec<CopiedItem>, Fault> {
    Ok(realise.items(number)?.into_iter().map(|item| CopiedItem { item, sum: None }).collect())
}

fn select_from_part(part: Vec<CopiedItem>, reads: &[Reads], place: &str) -> Result<Vec<Selected>, Fault> {
    let mut files = FileMap::new();
    select::apply_layer(&mut files, part);
    let invalid = |why: String| Fault::usage(format!("{place}: {why}"));
    let rules = Rules { resolved: &|path| Ok(path.clone()), invalid: &invalid };
    let mut selected = Vec::new();
    for reads in reads {
        let found = select::select(&files, reads, &select::fixed_prefix(reads).0, &rules)?;
        selected.extend(found.unwrap_or_default());
    }
    Ok(selected)
}

/// Returns true if a part of a realised stage may contain what a source names.
pub(super) fn may_contain(under: &ContextPath, reads: &Reads) -> bool {
    let (prefix, _) = select::fixed_prefix(reads);
    *under == prefix || under.below(&prefix).is_some() || prefix.below(under).is_some()
}

impl CopyJob<'_> {
    /// State of a path that is known before the layer is made; only for parts that do not depend on lower layers.
    fn predict(&self, path: &ContextPath) -> Option<PathState> {
        if !self.linked {
            return None;
        }
        if let CopySource::Whole { realise, .. } = &self.origin {
            return (!realise.may_have(path)).then_some(PathState::Absent);
        }
        let owner = match &self.owner {
            Some(owner) => owner.if_numbers()?,
            None => (0, 0),
        };
        let folder = ContextPath::new(copy::joined("/", &self.to).trim_start_matches('/'));
        let CopySource::Part { realise, number, reads, .. } = &self.origin else {
            let apart = folder != *path && folder.below(path).is_none() && path.below(&folder).is_none();
            return (apart && matches!(self.origin, CopySource::Context { .. })).then_some(PathState::Absent);
        };
        if folder.below(path).is_some() {
            return Some(PathState::Present(Stat::folder(owner)));
        }
        let under = &realise.parts()[*number].under;
        let plain: Option<Vec<ContextPath>> = reads
            .iter()
            .map(select::fixed_prefix)
            .map(|(prefix, pattern)| pattern.is_none().then_some(prefix))
            .collect();
        // A file below the part's own path keeps its relative path in the copy.
        let inside = |prefix: &ContextPath| under.below(prefix).map(|rest| folder.join(rest));
        let places: Option<Vec<ContextPath>> = plain?.iter().map(inside).collect();
        match path.below(&folder) {
            None if path != &folder => Some(PathState::Absent),
            None if self.to.ends_with('/') || places.is_some() => Some(PathState::Present(Stat::folder(owner))),
            None => None,
            Some(_) => {
                let touches =
                    |place: &ContextPath| place == path || path.below(place).is_some() || place.below(path).is_some();
                (!places?.iter().any(touches)).then_some(PathState::Absent)
            }
        }
    }
}

pub(super) struct View<'v, 'a> {
    layers: &'v Layers<'a>,
    chain: &'v LayerChain,
}

impl Lookup for View<'_, '_> {
    fn lookup(&self, path: &ContextPath) -> Result<Option<Stat>, Fault> {
        for layer in self.chain.layers.iter().rev() {
            match self.layers.seen(*layer, path)? {
                PathState::Present(stat) => return Ok(Some(stat)),
                PathState::Hidden => return Ok(None),
                PathState::Absent => {}
            }
        }
        self.chain.image.map_or(Ok(None), |image| self.layers.images[image].files.lookup(path))
    }
}

impl View<'_, '_> {
    /// Contents of a file, links followed; empty if missing.
    fn file(&self, path: &str) -> Result<Vec<u8>, Fault> {
        let path = resolve(path.as_bytes(), &|path| self.lookup(path))?;
        for layer in self.chain.layers.iter().rev() {
            match self.layers.seen(*layer, &path)? {
                PathState::Absent => continue,
                PathState::Hidden => return Ok(Vec::new()),
                PathState::Present(_) => {}
            }
            let made = self.layers.made(*layer)?;
            let found = made.iter().find(|made| made.item.path == path);
            return match found.map(|made| &made.item.content) {
                Some(Content::File(bytes)) => packed::contents(bytes),
                _ => Ok(Vec::new()),
            };
        }
        let base = self.chain.image.map(|image| self.layers.images[image].files);
        Ok(base.map_or(Ok(None), |base| base.file(&path))?.unwrap_or_default())
    }

    pub(super) fn numbers(&self, owner: &Owner) -> Result<(u32, u32), Fault> {
        let passwd = if owner.needs_passwd() { self.file("etc/passwd")? } else { Vec::new() };
        let group = if owner.needs_group() { self.file("etc/group")? } else { Vec::new() };
        owner.numbers(&passwd, &group).map_err(|why| Fault::usage(why).hint("use the number instead of the name"))
    }
}

/// An item for the layer file. A file that was made late gets its size here.
fn item(made: CopiedItem) -> Result<Item, Fault> {
    let mut item = made.item;
    if let (Some(Sum::Recipe(_)), Content::File(Bytes::At { file, size })) = (&made.sum, &mut item.content) {
        *size = context::size_now(file)?;
    }
    Ok(item)
}
