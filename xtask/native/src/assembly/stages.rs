//! Interprets the instructions of a Dockerfile's stages in order.
//!
//! Copies nothing: layers are planned here and made on demand.

use super::base::Stat;
use super::config::Description;
use super::context::Context;
use super::copy::mode::Mode;
use super::copy::owner::Owner;
use super::copy::target::{CopiedItem, Lookup as _, Nothing, Sum, Target, resolve};
use super::copy::{Selected, SelectedNode, destination};
use super::fingerprint::LayerFingerprint;
use super::layers::{CopyJob, CopySource, LayerChain, Layers, StageLayer, may_contain, run};
use super::{Inputs, LayerPlan, unsupported};
use crate::layer::item::{Bytes, Content};
use crate::stage::{Part, Realise};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, ObjectFormat, ObjectId};
use xtask_model::spec::dockerfile::{Instruction, Kind, Reads, Source, Stage, StageBase, Transfer, remote};
use xtask_model::spec::ignore::Ignore;
use xtask_model::spec::reference::{Digest, Platform};

/// Limit on layers of an image; a container runtime mounts far fewer.
const LAYERS: usize = 500;

/// Limit on the history that all stages together inherit, in bytes.
const HISTORIES: usize = 16_000_000;

#[derive(Clone)]
pub(super) struct StageState {
    pub(super) description: Description,
    pub(super) chain: LayerChain,
}

/// A source, and the entries that it selects.
type SourceFiles = (Source, Vec<Selected>);

pub(super) struct Stages<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) layers: Layers<'a>,
    pub(super) done: BTreeMap<usize, StageState>,
    pub(super) inherited: usize,
    /// Context files of each `COPY` and `ADD`, by stage and instruction, one list for each source.
    pub(super) selected: BTreeMap<(usize, usize), Vec<SourceFiles>>,
}

impl<'a> Stages<'a> {
    fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.inputs.dockerfile.path())
    }

    fn wrong(&self, line: usize, why: impl std::fmt::Display) -> Fault {
        Fault::usage(format!("{}: {why}", self.place(line)))
    }

    fn context(&self) -> Context<'a> {
        Context { files: self.inputs.files, ignore: self.inputs.ignore, deferred: self.inputs.deferred }
    }

    /// Reads the context files of these stages in one walk.
    pub(super) fn read_context(&mut self, stages: &[&Stage]) -> Result<(), Fault> {
        let (mut sources, mut owners) = (Vec::new(), Vec::new());
        for stage in stages {
            for (index, instruction) in stage.instructions.iter().enumerate() {
                let (Kind::Copy(transfer) | Kind::Add(transfer)) = &instruction.kind else { continue };
                if transfer.from.is_some() {
                    continue;
                }
                let add = matches!(instruction.kind, Kind::Add(_));
                for text in transfer.sources.iter().filter(|text| !(add && remote(text))) {
                    owners.push((stage.index, index));
                    sources.push(Source {
                        place: self.place(instruction.line),
                        line: instruction.line,
                        reads: transfer.reads(text),
                        excludes: transfer.excludes.clone(),
                    });
                }
            }
        }
        let context = self.context();
        for ((owner, selected), source) in owners.into_iter().zip(context.select(&sources)?).zip(sources) {
            let adds =
                stages.iter().find(|stage| stage.index == owner.0).map(|stage| &stage.instructions[owner.1].kind);
            if matches!(adds, Some(Kind::Add(transfer)) if transfer.unpack != Some(false)) {
                context.refuse_archives(&selected, &source)?;
            }
            self.selected.entry(owner).or_default().push((source, selected));
        }
        Ok(())
    }

    /// Initial state of a stage.
    fn base(&self, stage: &Stage, stage_base: &StageBase, image: Option<usize>) -> Result<StageState, Fault> {
        Ok(match (stage_base.on, image) {
            (Some(on), _) => {
                let Some(base) = self.done.get(&on) else {
                    let what = format!("a stage cannot be built on `{}`, which a recipe makes", stage.base);
                    return Err(unsupported::with_alternatives(self.wrong(stage.line, what)));
                };
                StageState { description: base.description.next_stage(), chain: base.chain.clone() }
            }
            (None, Some(image)) => StageState {
                description: Description::over(&self.layers.images[image].config),
                chain: LayerChain { image: Some(image), layers: Vec::new() },
            },
            (None, None) => {
                StageState { description: Description::scratch(self.inputs.platform), chain: LayerChain::default() }
            }
        })
    }

    /// A stage that a recipe makes, for those that are built on it: one layer for each part.
    pub(super) fn realised(
        &mut self,
        stage: &Stage,
        stage_base: &StageBase,
        image: Option<usize>,
        realise: &'a dyn Realise,
    ) -> Result<(), Fault> {
        let mut state = self.base(stage, stage_base, image)?;
        for (number, part) in realise.parts().iter().enumerate() {
            state.description.remember(format!("RUN # {}", part.name), true);
            let recipe = self.recipe("stage").digest(&part.recipe).finish();
            let plan = LayerPlan { name: part.name.clone(), recipe, needs: BTreeSet::new() };
            let job = CopyJob {
                place: self.place(stage.line),
                origin: CopySource::Whole { stage: stage.index, realise, number },
                to: "/".to_owned(),
                owner: None,
                mode: None,
                excludes: Ignore::none(),
                linked: true,
            };
            self.add(&mut state, plan, Some(job), RefCell::default());
        }
        self.done.insert(stage.index, state);
        Ok(())
    }

    pub(super) fn stage(&mut self, stage: &Stage, stage_base: &StageBase, image: Option<usize>) -> Result<(), Fault> {
        let mut state = self.base(stage, stage_base, image)?;
        self.inherited += state.description.history_bytes;
        if self.inherited > HISTORIES {
            let what = format!("stages inherit more than {HISTORIES} bytes of history, the limit of a Dockerfile");
            return Err(self.wrong(stage.line, what));
        }
        for (index, instruction) in stage.instructions.iter().enumerate() {
            self.instruction(&mut state, stage, index)?;
            if state.chain.layers.len() > LAYERS {
                let what = format!("more than {LAYERS} layers, the limit of an image");
                return Err(self.wrong(instruction.line, what).hint("copy several files with one instruction"));
            }
        }
        self.done.insert(stage.index, state);
        Ok(())
    }

    pub(super) fn platform(&self, stage_base: &StageBase) -> Result<Platform, Fault> {
        let Some(written) = stage_base.platform.as_ref().filter(|text| !text.is_empty()) else {
            return Ok(self.inputs.platform.clone());
        };
        let line = self.inputs.dockerfile.stages()[stage_base.stage].line;
        written.parse().map_err(|error| self.wrong(line, error))
    }

    fn instruction(&mut self, state: &mut StageState, stage: &Stage, index: usize) -> Result<(), Fault> {
        let instruction = &stage.instructions[index];
        let line = instruction.line;
        unsupported::check_instruction(self.inputs.dockerfile, stage.index, instruction)?;
        match &instruction.kind {
            Kind::Copy(transfer) | Kind::Add(transfer) => self.copy(state, stage, index, transfer),
            Kind::Workdir(folder) => self.workdir(state, line, folder),
            kind => {
                let text = self.inputs.dockerfile.instruction_text(line).unwrap_or_default();
                let done = state.description.apply(kind, text).map_err(|why| self.wrong(line, why))?;
                debug_assert!(done, "every other instruction changes the configuration");
                Ok(())
            }
        }
    }

    fn copy(&mut self, state: &mut StageState, stage: &Stage, index: usize, transfer: &Transfer) -> Result<(), Fault> {
        let Instruction { line, kind, .. } = &stage.instructions[index];
        let (line, keyword) = (*line, kind.keyword());
        let owner = transfer.chown().map(Owner::parse).transpose().map_err(|why| self.wrong(line, why))?;
        let names = owner.as_ref().is_some_and(|owner| owner.if_numbers().is_none());
        if names && state.chain.is_empty() {
            return Err(unsupported::unresolvable_owner(self.inputs.dockerfile, line, transfer));
        }
        let mode = transfer.chmod().map(Mode::parse).transpose().map_err(|why| self.wrong(line, why))?;
        let excludes =
            Ignore::from_patterns(transfer.excludes.iter().map(String::as_str)).map_err(|why| self.wrong(line, why))?;
        let created_by = history(keyword, transfer);
        let to = destination(state.description.working_dir(), &transfer.destination);
        let job = |origin: CopySource<'a>, linked: bool| CopyJob {
            place: format!("{}:{line}", self.inputs.dockerfile.path()),
            origin,
            to: to.clone(),
            owner: owner.clone(),
            mode: mode.clone(),
            excludes: excludes.clone(),
            linked,
        };
        let linked = transfer.is_linked();
        if let Some(from) = &transfer.from {
            let reads: Vec<Reads> = transfer.sources.iter().map(|source| transfer.reads(source)).collect();
            let number = self.inputs.dockerfile.find_stage(from, stage.index).expect("checked before");
            if let Some(chain) = self.done.get(&number).map(|done| done.chain.clone()) {
                let source = self.layers.chain_id(&chain);
                let job = job(CopySource::Stage { chain, reads }, linked);
                self.plan_later(state, job, transfer, &source, (created_by.clone(), created_by));
                return Ok(());
            }
            let name = self.inputs.dockerfile.stages()[number].name.as_deref().unwrap_or_default();
            let realise: &'a dyn Realise = *self.inputs.realised.get(name).ok_or_else(|| {
                unsupported::with_alternatives(self.wrong(line, format!("the stage `{from}` has no recipe")))
            })?;
            for (number_of_part, reads, alone) in self.parts(line, realise, &reads)? {
                let part: &Part = &realise.parts()[number_of_part];
                let origin = CopySource::Part { stage: number, realise, number: number_of_part, reads, alone };
                let names = (format!("{created_by} # {}", part.name), part.name.clone());
                let recipe = part.recipe;
                let job = job(origin, linked);
                self.plan_later(state, job, transfer, &recipe, names);
            }
            return Ok(());
        }
        let (sources, whole): (Vec<Source>, Vec<Vec<Selected>>) =
            self.selected.remove(&(stage.index, index)).unwrap_or_default().into_iter().unzip();
        let heredocs: Vec<Selected> = heredocs(transfer).collect();
        let selected: Vec<Selected> = whole.iter().flatten().chain(&heredocs).cloned().collect();
        let linked = linked || state.chain.is_empty();
        if selected.is_empty() {
            state.description.remember(created_by, false);
            return Ok(());
        }
        // `--exclude` was applied when the context was read.
        let job = CopyJob { excludes: Ignore::none(), ..job(CopySource::Known(Vec::new()), linked) };
        let is_whole = |node: &SelectedNode| matches!(node.sum, Some(Sum::Whole(_)));
        if selected.iter().flat_map(|selected| &selected.nodes).any(is_whole) {
            if linked && names {
                return Err(self.wrong(line, NO_NAMES));
            }
            let contents = fingerprint(&selected);
            let job =
                CopyJob { origin: CopySource::Context { context: self.context(), sources, whole, heredocs }, ..job };
            self.plan_later(state, job, transfer, &contents, (created_by.clone(), created_by));
            return Ok(());
        }
        if !linked {
            let contents = fingerprint(&selected);
            let job = CopyJob { origin: CopySource::Known(selected), ..job };
            self.plan_later(state, job, transfer, &contents, (created_by.clone(), created_by));
            return Ok(());
        }
        let numbers = |owner: &Owner| owner.if_numbers().ok_or_else(|| Fault::usage(NO_NAMES));
        let made = run(&job, selected, &Nothing, &numbers)
            .map_err(|fault| Fault { what: format!("{}: {}", job.place, fault.what), ..fault })?;
        self.plan_now(state, created_by, made);
        Ok(())
    }

    /// Parts that may contain the sources: number, sources, and whether no other part may contain them.
    fn parts(
        &self,
        line: usize,
        realise: &dyn Realise,
        reads: &[Reads],
    ) -> Result<Vec<(usize, Vec<Reads>, bool)>, Fault> {
        let concerned = |reads: &Reads| -> Vec<usize> {
            let parts = realise.parts().iter().enumerate();
            parts.filter(|(_, part)| may_contain(&part.under, reads)).map(|(number, _)| number).collect()
        };
        let mut found: BTreeMap<usize, (Vec<Reads>, bool)> = BTreeMap::new();
        for reads in reads {
            let parts = concerned(reads);
            if parts.is_empty() {
                let places: BTreeSet<String> =
                    realise.parts().iter().map(|part| format!("`/{}`", part.under)).take(5).collect();
                let places: Vec<String> = places.into_iter().collect();
                return Err(self
                    .wrong(line, "the recipe of the stage makes no file that matches the source")
                    .hint(format!("it makes files below {}", places.join(", "))));
            }
            for number in &parts {
                let (all, alone) = found.entry(*number).or_insert_with(|| (Vec::new(), false));
                all.push(reads.clone());
                *alone |= parts.len() == 1;
            }
        }
        Ok(found.into_iter().map(|(number, (reads, alone))| (number, reads, alone)).collect())
    }

    /// Plans a layer that is made on demand. `source` identifies what is copied.
    fn plan_later(
        &mut self,
        state: &mut StageState,
        job: CopyJob<'a>,
        transfer: &Transfer,
        source: &Digest,
        (created_by, name): (String, String),
    ) {
        let mut recipe = self.recipe("copy").digest(source).text(job.to.as_bytes());
        recipe = recipe.maybe(transfer.chown()).maybe(transfer.chmod()).texts(&transfer.excludes);
        let reads = match &job.origin {
            CopySource::Known(_) | CopySource::Context { .. } | CopySource::Whole { .. } => &[][..],
            CopySource::Stage { reads, .. } | CopySource::Part { reads, .. } => reads,
        };
        recipe = recipe.number(reads.len() as u64);
        for reads in reads {
            recipe = match reads {
                Reads::Path(path) => recipe.text(b"path").text(path.as_bytes()),
                Reads::Glob(glob) => recipe.text(b"glob").text(glob.as_bytes()),
                Reads::Parents { pivot, pattern } => {
                    recipe.text(b"parents").text(pivot.as_bytes()).text(pattern.as_bytes())
                }
            };
        }
        let recipe = match job.linked {
            true => recipe.text(b"on anything"),
            false => recipe.text(b"on").digest(&self.layers.chain_id(&state.chain)),
        };
        let needs = match &job.origin {
            CopySource::Context { whole, .. } => {
                let nodes = whole.iter().flatten().flat_map(|selected| &selected.nodes);
                self.needs(nodes.map(|n| (&n.content, &n.sum)))
            }
            CopySource::Known(selected) => {
                self.needs(selected.iter().flat_map(|selected| &selected.nodes).map(|n| (&n.content, &n.sum)))
            }
            _ => BTreeSet::new(),
        };
        state.description.remember(created_by, true);
        let plan = LayerPlan { name, recipe: recipe.finish(), needs };
        self.add(state, plan, Some(job), RefCell::default());
    }

    fn plan_now(&mut self, state: &mut StageState, created_by: String, made: Vec<CopiedItem>) {
        state.description.remember(created_by.clone(), !made.is_empty());
        if made.is_empty() {
            return;
        }
        let recipe = self.recipe("items").made(&made).finish();
        let needs = self.needs(made.iter().map(|made| (&made.item.content, &made.sum)));
        let plan = LayerPlan { name: created_by, recipe, needs };
        self.add(state, plan, None, RefCell::new(Some(Rc::from(made))));
    }

    fn add(
        &mut self,
        state: &mut StageState,
        plan: LayerPlan,
        job: Option<CopyJob<'a>>,
        made: RefCell<Option<Rc<[CopiedItem]>>>,
    ) {
        let chain = state.chain.clone();
        state.chain.layers.push(self.layers.layers.len());
        self.layers.layers.push(StageLayer { plan, chain, job, made });
    }

    fn recipe(&self, kind: &str) -> LayerFingerprint {
        LayerFingerprint::new(kind).text(self.inputs.codec.as_bytes())
    }

    /// Context files that must exist when the layer is made.
    fn needs<'n>(&self, contents: impl Iterator<Item = (&'n Content, &'n Option<Sum>)>) -> BTreeSet<ContextPath> {
        let known: BTreeMap<_, _> =
            self.inputs.deferred.keys().map(|path| (self.inputs.files.place().join(path.to_path()), path)).collect();
        let path = |(content, sum): (&Content, &Option<Sum>)| match (content, sum) {
            (Content::File(Bytes::At { file, .. }), Some(Sum::Recipe(_))) => {
                known.get(file).map(|path| (*path).clone())
            }
            _ => None,
        };
        contents.filter_map(path).collect()
    }

    /// Sets the working folder, and creates it if it is missing.
    fn workdir(&mut self, state: &mut StageState, line: usize, written: &str) -> Result<(), Fault> {
        let folder = state.description.set_working_dir(written);
        let created_by = format!("WORKDIR {folder}");
        let at_place = |fault: Fault| match fault.needed_by {
            Some(_) => fault,
            None => fault.needed_by(format!("`{}`", self.place(line))),
        };
        let make = || {
            let view = self.layers.view(&state.chain);
            let path = resolve(folder.as_bytes(), &|path| view.lookup(path))?;
            if path.as_bytes().is_empty() || view.lookup(&path)?.is_some_and(|stat| stat.is_folder()) {
                return Ok(Vec::new());
            }
            let user = &state.description.config.config.user;
            let owner = if user.is_empty() {
                (0, 0)
            } else {
                view.numbers(&Owner::parse(user).map_err(|why| self.wrong(line, why))?)?
            };
            let mut target = Target::new(&view);
            target.make_folders(&path, &Stat::folder(owner))?;
            target.finish()
        };
        let made = make().map_err(at_place)?;
        self.plan_now(state, created_by, made);
        Ok(())
    }
}

const NO_NAMES: &str = "an owner's name needs an image to look it up in";

fn heredocs(transfer: &Transfer) -> impl Iterator<Item = Selected> {
    transfer.heredocs.iter().map(|heredoc| {
        let bytes = heredoc.content.as_bytes();
        let node = SelectedNode {
            rest: ContextPath::default(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            content: Content::File(Bytes::Here(bytes.into())),
            sum: Some(Sum::Contents(ObjectId::new(ObjectFormat::Sha256, Digest::of(bytes).as_bytes()))),
        };
        Selected { name: heredoc.name.as_bytes().to_vec(), nodes: vec![node] }
    })
}

/// History entry of a copy, as BuildKit writes it.
fn history(keyword: &str, transfer: &Transfer) -> String {
    let mut text = keyword.to_owned();
    if transfer.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", transfer.chown()), ("chmod", transfer.chmod())] {
        if let Some(value) = value {
            text.push_str(&format!(" --{flag}={value}"));
        }
    }
    let heredocs = transfer.heredocs.iter().map(|heredoc| format!("<<{}", heredoc.name));
    for word in transfer.sources.iter().cloned().chain(heredocs).chain([transfer.destination.clone()]) {
        text.push(' ');
        text.push_str(&word);
    }
    text
}

fn fingerprint(selected: &[Selected]) -> Digest {
    let mut recipe = LayerFingerprint::new("selected").number(selected.len() as u64);
    for selected in selected {
        let made: Vec<CopiedItem> = selected.nodes.iter().map(SelectedNode::as_made).collect();
        recipe = recipe.text(&selected.name).made(&made);
    }
    recipe.finish()
}
