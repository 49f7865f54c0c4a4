//! Builds one image for one platform without a daemon: plans layers, reuses known ones, makes the others, and uploads.
//! Writes no tags.

use crate::assembly::{Assembly, Inputs, LayerPlan, assemble};
use crate::files::read_layer;
use crate::image::{Image, Place, oci_layer};
use crate::inventory;
use crate::layer::item::Item;
use crate::layer::{self, Codec, Written};
use crate::push::deliver::{self, Delivery, ImageLayer, LayerPlace};
use crate::push::published::{self, PublishedLayers};
use crate::stage::{Earlier, TakeLayer};
use crate::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use xtask_host::registry::Client;
use xtask_host::registry::layout::Layout;
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::image::presence::CheckRecord;
use xtask_model::record::report::Imports;
use xtask_model::spec::oci::{Config, Descriptor, Manifest, RootFs, media_type};
use xtask_model::spec::reference::{Digest, Platform, Repository};
use xtask_model::supply::inventory::LayerContents;

pub struct Order<'a> {
    pub inputs: Inputs<'a>,
    /// The base image; `None` for `scratch`.
    pub base: Option<&'a Image>,
    pub codec: Codec,
    /// Makes context files that are known by recipe, when a layer needs them.
    pub make: &'a dyn Fn(&BTreeSet<ContextPath>) -> Result<(), Fault>,
    /// Creation time, RFC 3339.
    pub created: Option<String>,
    pub store: &'a Store,
    pub published: &'a PublishedLayers,
    /// Makes all layers, even known ones.
    pub force: bool,
}

#[derive(Clone, Copy)]
pub enum Destination<'a> {
    Repository(&'a Repository),
    Layout(&'a Layout),
}

pub struct Built {
    pub digest: Digest,
    pub manifest: Manifest,
    /// Number of layers on the base, and how many of them were reused.
    pub layers: [usize; 2],
    /// Bytes sent to the registry.
    pub sent: u64,
    pub took: Vec<(&'static str, Duration)>,
    /// Modules that the recipes imported.
    pub imports: Option<Imports>,
    /// Location of their record in the image.
    pub checked: Option<CheckRecord>,
}

pub fn build(client: &Client, order: &Order<'_>, destination: Destination<'_>) -> Result<Built, Fault> {
    let mut clock = Clock::start();
    let assembly = assemble(&order.inputs)?;
    clock.lap("assemble");
    let mut built = match put_together(client, order, &assembly, destination, false, &mut clock)? {
        Some(built) => built,
        None => {
            terminal::warn("the registry lost layers that its manifests name; building them again");
            let again = put_together(client, order, &assembly, destination, true, &mut clock)?;
            again.ok_or_else(|| Fault::network("the registry loses layers that were just pushed"))?
        }
    };
    built.took = clock.laps;
    built.imports = order.inputs.realised.values().find_map(|stage| stage.imports());
    Ok(built)
}

/// Layers for a dry run, each with whether it is known.
pub fn plan(order: &Order<'_>) -> Result<Vec<(LayerPlan, bool)>, Fault> {
    let assembly = assemble(&order.inputs)?;
    let known = |plan: &LayerPlan| {
        !order.force
            && (order.published.layer(&plan.recipe).or(order.published.other_layer(&plan.recipe)).is_some()
                || matches!(order.store.get(&plan.recipe), Ok(Some(_))))
    };
    Ok(assembly.layers.iter().map(|plan| (plan.clone(), known(plan))).collect())
}

/// One attempt. `None` if the registry lacks a layer that its manifests name; with `distrust`, every layer is checked.
fn put_together(
    client: &Client,
    order: &Order<'_>,
    assembly: &Assembly<'_>,
    destination: Destination<'_>,
    distrust: bool,
    clock: &mut Clock,
) -> Result<Option<Built>, Fault> {
    let find = |plan: &LayerPlan| match order.force {
        true => Ok(None),
        false => find(client, order, plan, destination, distrust),
    };
    let found = assembly.layers.iter().map(find).collect::<Result<Vec<Option<ImageLayer>>, Fault>>()?;
    let named = found.iter().flatten().count();
    clock.lap("find");
    let base: Vec<ImageLayer> = base_layers(order, destination, distrust).collect();
    let (manifest, checks, sent) = match destination {
        Destination::Repository(repository) => {
            let delivery = Delivery::new(
                client,
                repository,
                (order.base, order.published.others()),
                (Some(order.store), distrust),
            );
            // Blobs are harmless until a manifest names them: they are sent while other layers are made and checked.
            let (all, manifest) = delivery.during(|deliver| {
                base.iter().chain(found.iter().flatten()).cloned().for_each(deliver);
                let before = (!order.force && !distrust)
                    .then(|| Before::new(client, repository, order, assembly, &found))
                    .flatten();
                let earlier = before.as_ref().map(|before| before as &dyn Earlier);
                let making = Making { order, assembly, earlier, deliver: &|layer| deliver(layer) };
                let all: Vec<ImageLayer> = base.iter().cloned().chain(making.all(found.clone(), clock)?).collect();
                let (config, manifest) = documents(order, assembly, &all)?;
                client.upload(repository, &manifest.config.digest, manifest.config.size, &config)?;
                Ok((all, manifest))
            })?;
            // Some registries accept a manifest whose layers are missing.
            let Some(sent) = delivery.sent() else { return Ok(None) };
            let bytes = json(&manifest)?;
            let put = client.put_manifest(repository, Digest::of(&bytes), media_type::MANIFEST, &bytes);
            if let Err(fault) = put {
                let lost = !distrust && deliver::lacks(client, repository, &all)?;
                return if lost { Ok(None) } else { Err(fault) };
            }
            let sent = sent + manifest.config.size;
            (manifest, checks_of(&all), sent)
        }
        Destination::Layout(layout) => {
            let making = Making { order, assembly, earlier: None, deliver: &drop };
            let all: Vec<ImageLayer> = base.into_iter().chain(making.all(found, clock)?).collect();
            let (config, manifest) = documents(order, assembly, &all)?;
            deliver::to_layout(client, layout, &all, order.base)?;
            layout.put_bytes(&config)?;
            layout.put_bytes(&json(&manifest)?)?;
            (manifest, checks_of(&all), 0)
        }
    };
    clock.lap("send");
    let digest = Digest::of(&json(&manifest)?);
    let checked = checks.map(|(layer, (version, size))| CheckRecord { image: digest, layer, version, size });
    let layers = [assembly.layers.len(), named];
    Ok(Some(Built { digest, manifest, layers, sent, took: Vec::new(), imports: None, checked }))
}

/// The layer with the note of checks that ended well.
fn checks_of(layers: &[ImageLayer]) -> Option<(Digest, (u32, u64))> {
    layers.iter().find_map(|layer| Some((layer.descriptor.digest, layer.checks?)))
}

fn base_layers<'a>(
    order: &'a Order<'_>,
    destination: Destination<'a>,
    distrust: bool,
) -> impl Iterator<Item = ImageLayer> + 'a {
    order.base.into_iter().flat_map(Image::layers).map(move |(descriptor, diff_id)| {
        // A layer that the repository has lost is mounted again: the base image still has it.
        let named = matches!(destination, Destination::Repository(_)) && order.published.has_blob(&descriptor.digest);
        let place = if named && !distrust { LayerPlace::Repository } else { LayerPlace::Base };
        ImageLayer { descriptor: oci_layer(descriptor), diff_id, place, checks: None }
    })
}

/// Makes the layers that were not found.
struct Making<'a> {
    order: &'a Order<'a>,
    assembly: &'a Assembly<'a>,
    earlier: Option<&'a dyn Earlier>,
    /// Takes each layer when it is written, which is before it was checked.
    deliver: &'a (dyn Fn(ImageLayer) + Sync),
}

/// A layer to write.
struct Unwritten<'a> {
    index: usize,
    name: &'a str,
    items: Vec<Item>,
    note: Option<Vec<u8>>,
}

/// A written layer, and what is in it.
type Finished = (Written, LayerContents);

impl Making<'_> {
    /// All layers, the known ones and those that are made here.
    fn all(&self, mut layers: Vec<Option<ImageLayer>>, clock: &mut Clock) -> Result<Vec<ImageLayer>, Fault> {
        let Self { order, assembly, .. } = *self;
        let missing: Vec<usize> = (0..layers.len()).filter(|index| layers[*index].is_none()).collect();
        if missing.is_empty() {
            return Ok(layers.into_iter().flatten().collect());
        }
        let needs: BTreeSet<ContextPath> =
            missing.iter().flat_map(|index| assembly.layers[*index].needs.iter().cloned()).collect();
        if !needs.is_empty() {
            (order.make)(&needs)?;
            clock.lap("compile");
        }
        assembly.prepare(&missing, self.earlier)?;
        clock.lap("produce");
        let written = self.write(missing)?;
        clock.lap("compress");
        // A recipe is known only when what its stage promises was checked.
        order.inputs.realised.values().try_for_each(|stage| stage.finish())?;
        if !order.inputs.realised.is_empty() {
            clock.lap("check");
        }
        for (index, (Written { descriptor, diff_id, note, .. }, contents)) in written {
            let checks = assembly.part(index).and_then(|(stage, part)| stage.checked(part));
            let checks = checks.map(|version| (version, note));
            let recipe = &assembly.layers[index].recipe;
            let stored = order.store.remember(recipe, (descriptor, diff_id), checks)?;
            order.store.put_contents(&stored.diff_id, order.inputs.platform, &contents)?;
            let descriptor = published::with_recipe(stored.descriptor, recipe, &stored.diff_id);
            layers[index] =
                Some(ImageLayer { descriptor, diff_id: stored.diff_id, place: LayerPlace::File(stored.path), checks });
        }
        Ok(layers.into_iter().flatten().collect())
    }

    /// Writes layers, several at once, the largest first. A layer is listed when a thread is about to take it: there may be more entries than
    /// should be in memory at once. The cores are divided between the layers, because each thread of a layer holds some of its bytes.
    fn write(&self, mut layers: Vec<usize>) -> Result<BTreeMap<usize, Finished>, Fault> {
        let assembly = self.assembly;
        let size = |index: usize| assembly.part(index).map_or(0, |(stage, part)| stage.size(part));
        layers.sort_by_key(|index| std::cmp::Reverse(size(*index)));
        let at_once = threads().min(layers.len()).max(1);
        let Order { store, codec, inputs: Inputs { platform, .. }, .. } = *self.order;
        let writer = Writer { store, codec, platform, deliver: self.deliver, threads: threads().div_ceil(at_once) };
        let finished = Mutex::new(BTreeMap::new());
        let (queue, waiting) = sync_channel::<Unwritten<'_>>(0);
        let waiting = Arc::new(Mutex::new(waiting));
        let run = |waiting: Arc<Mutex<Receiver<Unwritten<'_>>>>| {
            let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
            while let Ok(layer) = next() {
                let index = layer.index;
                let done = writer.write(layer)?;
                finished.lock().unwrap_or_else(PoisonError::into_inner).insert(index, done);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let run = &run;
            let start = |waiting: Arc<_>| scope.spawn(move || run(waiting));
            let threads: Vec<_> = (0..at_once).map(|_| start(waiting.clone())).collect();
            drop(waiting);
            let list = |index: usize| {
                let note = assembly.part(index).and_then(|(stage, part)| stage.note(part));
                Ok(Unwritten { index, name: &assembly.layers[index].name, items: assembly.items(index)?, note })
            };
            let send = || {
                for index in layers {
                    // Where all threads have ended because of a fault, nobody takes a layer.
                    if queue.send(list(index)?).is_err() {
                        break;
                    }
                }
                Ok(())
            };
            let all: Result<(), Fault> = send();
            drop(queue);
            let ended = threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            ended.fold(all, Result::and)
        })?;
        Ok(finished.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writer of layers, on several threads.
struct Writer<'a> {
    store: &'a Store,
    codec: Codec,
    platform: &'a Platform,
    deliver: &'a (dyn Fn(ImageLayer) + Sync),
    /// For each layer.
    threads: usize,
}

impl Writer<'_> {
    fn write(&self, layer: Unwritten<'_>) -> Result<Finished, Fault> {
        let Unwritten { name, items, note, .. } = layer;
        let Self { store, codec, platform, threads, .. } = *self;
        process::interrupted()?;
        terminal::detail(&format!("layer {name}: {} entries", items.len()));
        let done = store.write_layer(|sink| layer::write_with_note(&items, note.as_deref(), codec, threads, sink))?;
        drop(note);
        let place = LayerPlace::File(store.blob(&done.descriptor.digest));
        (self.deliver)(ImageLayer { descriptor: done.descriptor.clone(), diff_id: done.diff_id, place, checks: None });
        Ok((done, inventory::of_items(&items, platform)?))
    }
}

/// Largest layer that is read into memory for its note, in bytes.
const NOTED: u64 = 16 << 20;

/// An earlier image of the repository, with the layers that this build names again.
struct Before<'a> {
    client: &'a Client,
    place: Place,
    record: &'a CheckRecord,
    /// The layer that has it.
    layer: &'a Descriptor,
    /// Layers by the recipes of their parts.
    layers: BTreeMap<Digest, (Descriptor, Digest)>,
}

impl<'a> Before<'a> {
    /// `None` if no image of the repository says what was checked.
    fn new(
        client: &'a Client,
        repository: &Repository,
        order: &'a Order<'_>,
        assembly: &Assembly<'_>,
        found: &[Option<ImageLayer>],
    ) -> Option<Self> {
        let (record, layer) = order.published.records().first()?;
        let of_part = |(index, layer): (usize, &Option<ImageLayer>)| {
            let layer = layer.as_ref().filter(|layer| matches!(layer.place, LayerPlace::Repository))?;
            let (stage, part) = assembly.part(index)?;
            Some((stage.parts()[part].recipe, (layer.descriptor.clone(), layer.diff_id)))
        };
        let layers = found.iter().enumerate().filter_map(of_part).collect();
        Some(Self { client, place: Place::Registry(repository.clone()), record, layer, layers })
    }
}

impl Earlier for Before<'_> {
    fn name(&self) -> String {
        self.record.image.to_string()
    }

    fn note(&self, checks: u32) -> Option<Vec<u8>> {
        let CheckRecord { version, size, .. } = *self.record;
        if version != checks || self.layer.size > NOTED {
            return None;
        }
        let read = self.place.blob(self.client, self.layer).map(|bytes| layer::note::read(&bytes, size));
        read.unwrap_or_else(|fault| {
            terminal::detail(&fault.what);
            None
        })
    }

    fn size(&self, recipe: &Digest) -> Option<u64> {
        self.layers.get(recipe).map(|(layer, _)| layer.size)
    }

    fn read(&self, recipe: &Digest, take: &mut TakeLayer<'_>) -> Result<(), Fault> {
        let (layer, _) = self
            .layers
            .get(recipe)
            .ok_or_else(|| Fault::build(format!("no layer with the recipe `{recipe}` in `{}`", self.name())))?;
        read_layer(self.client, &self.place, (layer, None), take)
    }
}

/// A known layer: one that a manifest of the repository names, one in the store, or one of another repository of the registry.
fn find(
    client: &Client,
    order: &Order<'_>,
    plan: &LayerPlan,
    destination: Destination<'_>,
    distrust: bool,
) -> Result<Option<ImageLayer>, Fault> {
    let checks_in = |layer: &Descriptor| {
        let record = order.published.record_in(&layer.digest)?;
        Some((record.version, record.size))
    };
    if let (Destination::Repository(repository), Some((descriptor, diff_id))) =
        (destination, order.published.layer(&plan.recipe))
        && (!distrust || client.has_blob(repository, &descriptor.digest)?)
    {
        let checks = checks_in(descriptor);
        return Ok(Some(ImageLayer { descriptor: descriptor.clone(), diff_id, place: LayerPlace::Repository, checks }));
    }
    let Some(stored) = order.store.get(&plan.recipe)? else {
        // What only another repository has is mounted from it; an attempt that trusts nothing makes it.
        let other = order.published.other_layer(&plan.recipe).filter(|_| !distrust);
        return Ok(match (destination, other) {
            (Destination::Repository(_), Some((descriptor, diff_id))) => {
                let (place, checks) = (LayerPlace::Elsewhere, checks_in(descriptor));
                Some(ImageLayer { descriptor: descriptor.clone(), diff_id, place, checks })
            }
            _ => None,
        });
    };
    // Reads it once; a damaged layer is made again.
    Ok(order.store.open_layer(&stored)?.map(|_| ImageLayer {
        descriptor: published::with_recipe(stored.descriptor, &plan.recipe, &stored.diff_id),
        diff_id: stored.diff_id,
        place: LayerPlace::File(stored.path),
        checks: stored.checks,
    }))
}

fn documents(order: &Order<'_>, assembly: &Assembly<'_>, layers: &[ImageLayer]) -> Result<(Vec<u8>, Manifest), Fault> {
    let mut config: Config = assembly.config.clone();
    config.rootfs = RootFs::new(layers.iter().map(|layer| layer.diff_id).collect());
    if let Some(created) = &order.created {
        config.created = Some(created.clone());
    }
    let bytes = json(&config)?;
    let descriptor = Descriptor::new(media_type::CONFIG, Digest::of(&bytes), bytes.len() as u64);
    let manifest = Manifest::new(descriptor, layers.iter().map(|layer| layer.descriptor.clone()).collect());
    Ok((bytes, manifest))
}

fn json(document: &impl serde::Serialize) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(document).map_err(|error| Fault::build("cannot serialise a document of the image").cause(error))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Time by phase; a repeated phase adds up.
struct Clock {
    since: Instant,
    laps: Vec<(&'static str, Duration)>,
}

impl Clock {
    fn start() -> Self {
        Self { since: Instant::now(), laps: Vec::new() }
    }

    fn lap(&mut self, name: &'static str) {
        let took = self.since.elapsed();
        self.since = Instant::now();
        match self.laps.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += took,
            None => self.laps.push((name, took)),
        }
    }
}
