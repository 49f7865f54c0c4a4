//! Builds one image for one platform without a daemon: plans layers, reuses known ones, makes the others, and uploads.
//! Writes no tags.

use crate::assembly::{Assembly, Inputs, LayerPlan, assemble};
use crate::image::{Image, oci_layer};
use crate::inventory;
use crate::layer::item::{Content, Item};
use crate::layer::{self, Codec, Written};
use crate::push::deliver::{self, ImageLayer, LayerPlace};
use crate::push::published::{self, PublishedLayers};
use crate::store::Store;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use xtask_host::registry::Client;
use xtask_host::registry::layout::Layout;
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::oci::{Config, Descriptor, Manifest, RootFs, media_type};
use xtask_model::spec::reference::{Digest, Repository};

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
    let mut layers = Vec::new();
    let mut missing = Vec::new();
    for (index, plan) in assembly.layers.iter().enumerate() {
        let found = if order.force { None } else { find(client, order, plan, destination, distrust)? };
        if found.is_none() {
            missing.push(index);
        }
        layers.push(found);
    }
    let named = layers.iter().flatten().count();
    clock.lap("find");
    if !missing.is_empty() {
        let needs: BTreeSet<ContextPath> =
            missing.iter().flat_map(|index| assembly.layers[*index].needs.iter().cloned()).collect();
        if !needs.is_empty() {
            (order.make)(&needs)?;
            clock.lap("compile");
        }
        let produced = assembly.produce(&missing)?;
        clock.lap("produce");
        let made: Vec<(&LayerPlan, Vec<Item>)> =
            missing.iter().map(|index| &assembly.layers[*index]).zip(produced).collect();
        let written = write_layers(order.store, order.codec, &made)?;
        // A recipe is known only when what its stage promises was checked.
        order.inputs.realised.values().try_for_each(|stage| stage.finish())?;
        for ((index, (plan, items)), written) in missing.into_iter().zip(made).zip(written) {
            let stored = order.store.remember(&plan.recipe, written.descriptor, written.diff_id)?;
            inventory::remember(order.store, &stored.diff_id, &items, order.inputs.platform)?;
            let descriptor = published::with_recipe(stored.descriptor, &plan.recipe, &stored.diff_id);
            layers[index] =
                Some(ImageLayer { descriptor, diff_id: stored.diff_id, place: LayerPlace::File(stored.path) });
        }
        clock.lap("compress");
    }
    let own: Vec<ImageLayer> = layers.into_iter().flatten().collect();
    let base = order.base.into_iter().flat_map(|image| {
        image.layers().map(|(descriptor, diff_id)| {
            // A layer that the repository has lost is mounted again: the base image still has it.
            let named =
                matches!(destination, Destination::Repository(_)) && order.published.has_blob(&descriptor.digest);
            let there = named && !distrust;
            let place = if there { LayerPlace::Repository } else { LayerPlace::Base };
            ImageLayer { descriptor: oci_layer(descriptor), diff_id, place }
        })
    });
    let all: Vec<ImageLayer> = base.chain(own).collect();
    let (config, manifest) = documents(order, assembly, &all)?;
    let sent = match destination {
        Destination::Repository(repository) => {
            let (digest, size) = (manifest.config.digest, manifest.config.size);
            let sent = std::thread::scope(|scope| {
                let config = scope.spawn(|| client.upload(repository, &digest, size, &config));
                let sent =
                    deliver::to_repository(client, repository, &all, (order.base, order.published.others()), distrust)?;
                config.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Ok::<_, Fault>(sent)
            })?;
            // Some registries accept a manifest whose layers are missing.
            let Some(sent) = sent else { return Ok(None) };
            let bytes = json(&manifest)?;
            let put = client.put_manifest(repository, Digest::of(&bytes), media_type::MANIFEST, &bytes);
            if let Err(fault) = put {
                let lost = !distrust && deliver::lacks(client, repository, &all)?;
                return if lost { Ok(None) } else { Err(fault) };
            }
            sent + size
        }
        Destination::Layout(layout) => {
            deliver::to_layout(client, layout, &all, order.base)?;
            layout.put_bytes(&config)?;
            layout.put_bytes(&json(&manifest)?)?;
            0
        }
    };
    clock.lap("send");
    let digest = Digest::of(&json(&manifest)?);
    Ok(Some(Built { digest, manifest, layers: [assembly.layers.len(), named], sent, took: Vec::new() }))
}

/// A known layer: one that a manifest of the repository names, one in the store, or one of another repository of the registry.
fn find(
    client: &Client,
    order: &Order<'_>,
    plan: &LayerPlan,
    destination: Destination<'_>,
    distrust: bool,
) -> Result<Option<ImageLayer>, Fault> {
    if let (Destination::Repository(repository), Some((descriptor, diff_id))) =
        (destination, order.published.layer(&plan.recipe))
        && (!distrust || client.has_blob(repository, &descriptor.digest)?)
    {
        return Ok(Some(ImageLayer { descriptor: descriptor.clone(), diff_id, place: LayerPlace::Repository }));
    }
    let Some(stored) = order.store.get(&plan.recipe)? else {
        // What only another repository has is mounted from it; an attempt that trusts nothing makes it.
        let other = order.published.other_layer(&plan.recipe).filter(|_| !distrust);
        return Ok(match (destination, other) {
            (Destination::Repository(_), Some((descriptor, diff_id))) => {
                Some(ImageLayer { descriptor: descriptor.clone(), diff_id, place: LayerPlace::Elsewhere })
            }
            _ => None,
        });
    };
    // Reads it once; a damaged layer is made again.
    Ok(order.store.open_layer(&stored)?.map(|_| ImageLayer {
        descriptor: published::with_recipe(stored.descriptor, &plan.recipe, &stored.diff_id),
        diff_id: stored.diff_id,
        place: LayerPlace::File(stored.path),
    }))
}

/// Writes layers, several at once, the largest first. The cores are divided between the layers, because each thread of a layer
/// holds some of its bytes.
fn write_layers(store: &Store, codec: Codec, made: &[(&LayerPlan, Vec<Item>)]) -> Result<Vec<Written>, Fault> {
    let size = |items: &[Item]| -> u64 {
        let bytes = items.iter().map(|item| match &item.content {
            Content::File(bytes) => bytes.size(),
            Content::Dir | Content::Symlink(_) => 0,
        });
        bytes.sum()
    };
    let mut largest: Vec<usize> = (0..made.len()).collect();
    largest.sort_by_key(|index| std::cmp::Reverse(size(&made[*index].1)));
    let (next, written) = (AtomicUsize::new(0), Mutex::new(vec![None; made.len()]));
    let at_once = threads().min(made.len()).max(1);
    let run = || {
        while let Some(index) = largest.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (plan, items) = &made[*index];
            process::interrupted()?;
            terminal::detail(&format!("layer {}: {} entries", plan.name, items.len()));
            let done = store.write_layer(|sink| layer::write(items, codec, threads().div_ceil(at_once), sink))?;
            written.lock().unwrap_or_else(PoisonError::into_inner)[*index] = Some(done);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..at_once).map(|_| scope.spawn(run)).collect();
        let own: Result<(), Fault> = run();
        let ended =
            others.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ended.fold(own, Result::and)
    })?;
    Ok(written.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect())
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
