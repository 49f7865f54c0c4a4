//! Layers of stages, made when somebody asks: a layer that is found elsewhere by its recipe is never worked out.
//!
//! Asks the layers of this Dockerfile before the images beneath. Reads files of the context only for their contents.

use super::beneath::{Image, Stat};
use super::copy::{self, Flags, Taken};
use super::gather;
use super::mode::Mode;
use super::owner::Owner;
use super::recipe::Recipe;
use super::taking::{self, Files};
use super::target::{Lookup, Made, Nothing, Sum, Target, resolve};
use crate::layer::item::{Bytes, Content, Item};
use crate::recipes::stage::Realise;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::dockerfile::Reads;
use xtask_model::spec::ignore::Ignore;
use xtask_model::spec::reference::Digest;

/// What a stage stands on so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Ground {
    /// The number of its image; `None` for `scratch`.
    pub(super) image: Option<usize>,
    /// The numbers of this Dockerfile's layers, lowest first.
    pub(super) layers: Vec<usize>,
}

impl Ground {
    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.image.is_none() && self.layers.is_empty()
    }
}

/// Where copied files come from.
pub(super) enum Origin<'a> {
    /// They are known.
    Known(Vec<Taken>),
    /// A stage of this Dockerfile.
    Stage { ground: Ground, reads: Vec<Reads> },
    /// A part of a stage that a recipe makes.
    Part {
        stage: usize,
        realise: &'a dyn Realise,
        number: usize,
        reads: Vec<Reads>,
        /// Whether no other part can hold what is named.
        alone: bool,
    },
}

/// A `COPY`.
pub(super) struct Job<'a> {
    /// The file and line, as messages show them.
    pub(super) place: String,
    pub(super) origin: Origin<'a>,
    pub(super) to: String,
    pub(super) owner: Option<Owner>,
    pub(super) mode: Option<Mode>,
    pub(super) excludes: Ignore,
    /// Whether it does not depend on what is beneath.
    pub(super) linked: bool,
}

/// A layer, perhaps made already.
pub(super) struct Layer<'a> {
    pub(super) recipe: Digest,
    /// What it stands on.
    pub(super) ground: Ground,
    /// How it is made; `None` where it was made at once.
    pub(super) job: Option<Job<'a>>,
    pub(super) made: OnceCell<Rc<[Made]>>,
}

/// The items of a part of a stage, by the stage's number and the part's.
type Parts = BTreeMap<(usize, usize), Rc<[Made]>>;

/// All layers of all stages.
#[derive(Default)]
pub(super) struct Layers<'a> {
    pub(super) images: Vec<Image<'a>>,
    pub(super) layers: Vec<Layer<'a>>,
    parts: RefCell<Parts>,
}

/// What a layer says of a path.
enum Seen {
    There(Stat),
    /// A file or link stands where the path has a folder: what is beneath does not count.
    Hidden,
    No,
}

impl<'a> Layers<'a> {
    /// Everything that determines what stands on a ground.
    pub(super) fn chain(&self, ground: &Ground) -> Digest {
        let image = ground.image.map_or(&[][..], |image| &self.images[image].config.rootfs.diff_ids);
        let mut recipe = Recipe::new("chain").number(image.len() as u64);
        for diff_id in image {
            recipe = recipe.digest(diff_id);
        }
        ground.layers.iter().fold(recipe, |recipe, layer| recipe.digest(&self.layers[*layer].recipe)).finish()
    }

    /// A ground as something to look at.
    pub(super) fn view<'v>(&'v self, ground: &'v Ground) -> View<'v, 'a> {
        View { layers: self, ground }
    }

    /// Makes the parts of realised stages that layers need, each recipe asked once.
    pub(super) fn prepare(&self, wanted: &[usize]) -> Result<(), Fault> {
        let mut missing: BTreeMap<usize, (&'a dyn Realise, Vec<usize>)> = BTreeMap::new();
        for layer in wanted {
            let Some(Job { origin: Origin::Part { stage, realise, number, .. }, .. }) = &self.layers[*layer].job else {
                continue;
            };
            let numbers = &mut missing.entry(*stage).or_insert_with(|| (*realise, Vec::new())).1;
            if !self.parts.borrow().contains_key(&(*stage, *number)) && !numbers.contains(number) {
                numbers.push(*number);
            }
        }
        for (stage, (realise, numbers)) in missing.into_iter().filter(|(_, (_, numbers))| !numbers.is_empty()) {
            let produced = realise.produce(&numbers)?;
            let made = |items: Vec<Item>| items.into_iter().map(|item| Made { item, sum: None }).collect();
            let produced = numbers.into_iter().map(|number| (stage, number)).zip(produced.into_iter().map(made));
            self.parts.borrow_mut().extend(produced);
        }
        Ok(())
    }

    /// What stands in a layer, by path.
    pub(super) fn made(&self, layer: usize) -> Result<Rc<[Made]>, Fault> {
        let Layer { made, job, ground, .. } = &self.layers[layer];
        if let Some(made) = made.get() {
            return Ok(made.clone());
        }
        let job = job.as_ref().expect("a layer that is not made has a job");
        let found: Rc<[Made]> = self.carry_out(layer, job, ground)?.into();
        Ok(made.get_or_init(|| found).clone())
    }

    fn carry_out(&self, layer: usize, job: &Job<'a>, ground: &Ground) -> Result<Vec<Made>, Fault> {
        let at_place = |fault: Fault| match fault.needed_by {
            Some(_) => fault,
            None => fault.needed_by(format!("`{}`", job.place)),
        };
        let taken = match &job.origin {
            Origin::Known(known) => known.clone(),
            Origin::Stage { ground, reads } => self.taken_from_stage(ground, reads, &job.place)?,
            Origin::Part { stage, number, reads, alone, .. } => {
                self.prepare(&[layer])?;
                let parts = self.parts.borrow();
                let part = parts.get(&(*stage, *number)).ok_or_else(|| {
                    Fault::build(format!("{}: the recipe made no part {number} of the stage", job.place))
                })?;
                let taken =
                    taken_from_part(part, reads).map_err(|why| Fault::usage(format!("{}: {why}", job.place)))?;
                if taken.is_empty() && *alone {
                    let what = format!("{}: the recipe of the stage made nothing that this names", job.place);
                    let hint = "links in front of a source are not followed in a stage with a recipe";
                    return Err(Fault::usage(what).hint(hint));
                }
                taken
            }
        };
        let view = self.view(ground);
        run(job, taken, if job.linked { &Nothing } else { &view }, &|owner| view.numbers(owner)).map_err(at_place)
    }

    /// What sources name among the files that a stage's own instructions made.
    fn taken_from_stage(&self, ground: &Ground, reads: &[Reads], place: &str) -> Result<Vec<Taken>, Fault> {
        let mut files = Files::new();
        self.prepare(&ground.layers)?;
        for layer in &ground.layers {
            taking::lay(&mut files, &self.made(*layer)?);
        }
        let view = self.view(ground);
        let resolved = |path: &ContextPath| resolve(path.as_bytes(), &|path| view.lookup(path));
        let wrong = |why: String| Fault::usage(format!("{place}: {why}"));
        let mut taken = Vec::new();
        for reads in reads {
            let (folder, pattern) = taking::lead(reads);
            let at = resolved(&folder)?;
            let is_file = files.get(&at).is_some_and(|made| made.item.content != Content::Dir);
            if let Some(image) = ground.image.filter(|_| !is_file) {
                let beneath = self.images[image].beneath;
                if beneath.any_below(&at)? || !files.contains_key(&at) && beneath.lookup(&at)?.is_some() {
                    let what = format!("{place}: `/{folder}` of the stage is, or is in part, its image's");
                    return Err(Fault::usage(what)
                        .hint("copy what the stage's own instructions made, file by file")
                        .hint("or build with `--engine docker`"));
                }
            }
            let missing = |path: &str| {
                let hint = "a stage gives what its own `COPY`, `ADD` and `WORKDIR` make";
                Fault::usage(format!("{place}: `/{path}` is not in the stage")).hint(hint)
            };
            let named = folder.to_string();
            match (reads, pattern) {
                (Reads::Parents { pivot, pattern }, _) => {
                    let found = taking::parents::<Lost>(&files, (pivot, pattern), &|path| Ok(resolved(path)?));
                    let found = found.map_err(|lost| match lost {
                        Lost::Why(why) => wrong(why),
                        Lost::Fault(fault) => fault,
                    })?;
                    let named = if pivot.is_empty() { pattern.clone() } else { format!("{pivot}/./{pattern}") };
                    taken.extend(found.ok_or_else(|| missing(&named))?);
                }
                (_, Some(pattern)) => {
                    for hit in taking::hits(&files, &at, pattern).map_err(wrong)? {
                        let at = resolved(&hit)?;
                        taken.push(taking::take(&files, &at, name(&hit)).ok_or_else(|| missing(&hit.to_string()))?);
                    }
                }
                _ => taken.push(taking::take(&files, &at, name(&folder)).ok_or_else(|| missing(&named))?),
            }
        }
        Ok(taken)
    }

    /// What a layer says of a path. A part of a realised stage is not made for a folder that is sure to be there.
    fn seen(&self, layer: usize, path: &ContextPath) -> Result<Seen, Fault> {
        let Layer { made, job, .. } = &self.layers[layer];
        if let (None, Some(job)) = (made.get(), job) {
            if let Some(seen) = job.foresee(path) {
                return Ok(seen);
            }
        }
        let made = self.made(layer)?;
        let find = |path: &ContextPath| made.binary_search_by(|made| made.item.path.cmp(path)).ok().map(|at| &made[at]);
        if let Some(found) = find(path) {
            return Ok(Seen::There(Stat::from(&found.item)));
        }
        let mut parent = path.parent();
        while let Some(folder) = parent {
            match find(&folder) {
                Some(found) if found.item.content != Content::Dir => return Ok(Seen::Hidden),
                Some(_) => break,
                None => parent = folder.parent(),
            }
        }
        Ok(Seen::No)
    }
}

/// Who answers what numbers an owner has.
type Numbers<'n> = &'n dyn Fn(&Owner) -> Result<(u32, u32), Fault>;

/// Copies everything that a job takes.
pub(super) fn run(
    job: &Job<'_>,
    taken: Vec<Taken>,
    below: &dyn Lookup,
    numbers: Numbers<'_>,
) -> Result<Vec<Made>, Fault> {
    let owner = job.owner.as_ref().map(numbers).transpose()?;
    let flags = Flags { owner, mode: job.mode.clone(), excludes: job.excludes.clone() };
    let mut target = Target::new(below);
    taken.into_iter().try_for_each(|taken| copy::copy(&mut target, taken, &job.to, &flags))?;
    target.finish()
}

/// Why a source cannot be taken: in one phrase, or because a layer cannot be read.
enum Lost {
    Why(String),
    Fault(Fault),
}

impl From<String> for Lost {
    fn from(why: String) -> Self {
        Self::Why(why)
    }
}

impl From<Fault> for Lost {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What sources name in a part of a realised stage; the error is one lowercase phrase.
fn taken_from_part(part: &[Made], reads: &[Reads]) -> Result<Vec<Taken>, String> {
    let mut files = Files::new();
    taking::lay(&mut files, part);
    let mut taken = Vec::new();
    for reads in reads {
        let (folder, pattern) = taking::lead(reads);
        match (reads, pattern) {
            (Reads::Parents { pivot, pattern }, _) => {
                let found = taking::parents::<String>(&files, (pivot, pattern), &|path| Ok(path.clone()))?;
                taken.extend(found.unwrap_or_default());
            }
            (_, Some(pattern)) => {
                let hits = taking::hits(&files, &folder, pattern)?;
                taken.extend(hits.iter().filter_map(|hit| taking::take(&files, hit, name(hit))));
            }
            _ => taken.extend(taking::take(&files, &folder, name(&folder))),
        }
    }
    Ok(taken)
}

fn name(path: &ContextPath) -> &[u8] {
    path.parts().next_back().unwrap_or_default()
}

/// Whether a part of a realised stage can hold something that a source names.
pub(super) fn concerns(under: &ContextPath, reads: &Reads) -> bool {
    let (lead, _) = taking::lead(reads);
    *under == lead || under.below(&lead).is_some() || lead.below(under).is_some()
}

impl Job<'_> {
    /// What is sure before anything is made: only of parts that depend on nothing beneath.
    fn foresee(&self, path: &ContextPath) -> Option<Seen> {
        let Origin::Part { realise, number, reads, .. } = &self.origin else { return None };
        if !self.linked {
            return None;
        }
        let owner = match &self.owner {
            Some(owner) => owner.if_numbers()?,
            None => (0, 0),
        };
        let folder = ContextPath::new(copy::joined("/", &self.to).trim_start_matches('/'));
        if folder.below(path).is_some() {
            return Some(Seen::There(Stat::folder(owner)));
        }
        let under = &realise.parts()[*number].under;
        let plain: Option<Vec<ContextPath>> =
            reads.iter().map(taking::lead).map(|(lead, pattern)| pattern.is_none().then_some(lead)).collect();
        // What stands below the part's own place in a folder that is copied is where that folder's copy is.
        let inside = |lead: &ContextPath| under.below(lead).map(|rest| folder.join(rest));
        let places: Option<Vec<ContextPath>> = plain?.iter().map(inside).collect();
        match path.below(&folder) {
            None if path != &folder => Some(Seen::No),
            None if self.to.ends_with('/') || places.is_some() => Some(Seen::There(Stat::folder(owner))),
            None => None,
            Some(_) => {
                let touches =
                    |place: &ContextPath| place == path || path.below(place).is_some() || place.below(path).is_some();
                (!places?.iter().any(touches)).then_some(Seen::No)
            }
        }
    }
}

/// The files of a ground.
pub(super) struct View<'v, 'a> {
    layers: &'v Layers<'a>,
    ground: &'v Ground,
}

impl Lookup for View<'_, '_> {
    fn lookup(&self, path: &ContextPath) -> Result<Option<Stat>, Fault> {
        for layer in self.ground.layers.iter().rev() {
            match self.layers.seen(*layer, path)? {
                Seen::There(stat) => return Ok(Some(stat)),
                Seen::Hidden => return Ok(None),
                Seen::No => {}
            }
        }
        self.ground.image.map_or(Ok(None), |image| self.layers.images[image].beneath.lookup(path))
    }
}

impl View<'_, '_> {
    /// A file's contents, links followed; empty where there is none.
    fn file(&self, path: &str) -> Result<Vec<u8>, Fault> {
        let path = resolve(path.as_bytes(), &|path| self.lookup(path))?;
        for layer in self.ground.layers.iter().rev() {
            match self.layers.seen(*layer, &path)? {
                Seen::No => continue,
                Seen::Hidden => return Ok(Vec::new()),
                Seen::There(_) => {}
            }
            let made = self.layers.made(*layer)?;
            let found = made.iter().find(|made| made.item.path == path);
            return match found.map(|made| &made.item.content) {
                Some(Content::File(bytes)) => gather::contents(bytes),
                _ => Ok(Vec::new()),
            };
        }
        let beneath = self.ground.image.map(|image| self.layers.images[image].beneath);
        Ok(beneath.map_or(Ok(None), |beneath| beneath.file(&path))?.unwrap_or_default())
    }

    /// An owner's numbers.
    pub(super) fn numbers(&self, owner: &Owner) -> Result<(u32, u32), Fault> {
        let passwd = if owner.needs_passwd() { self.file("etc/passwd")? } else { Vec::new() };
        let group = if owner.needs_group() { self.file("etc/group")? } else { Vec::new() };
        owner.numbers(&passwd, &group).map_err(|why| Fault::usage(why).hint("write the number instead of the name"))
    }
}

/// Items as they go into a layer. What was yet to be made has its size by now.
pub(super) fn items(made: &[Made]) -> Result<Vec<Item>, Fault> {
    let item = |made: &Made| {
        let mut item = made.item.clone();
        if let (Some(Sum::Recipe(_)), Content::File(Bytes::At { file, size })) = (&made.sum, &mut item.content) {
            *size = gather::size_now(file)?;
        }
        Ok(item)
    };
    made.iter().map(item).collect()
}
