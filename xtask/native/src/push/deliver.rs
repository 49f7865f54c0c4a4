//! Sends an image's blobs to a repository or a layout. Writes no tags.
//!
//! Existing blobs are not sent; blobs of other repositories in the registry are mounted, as the store remembers or their manifests say; the
//! others are streamed, several at once.

use crate::image::{Image, Place};
use crate::store::Store;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use xtask_host::process;
use xtask_host::registry::layout::Layout;
use xtask_host::registry::{Client, Mount};
use xtask_host::scratch::Scratch;
use xtask_model::fault::Fault;
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::reference::{Digest, Repository};

/// A layer of this many bytes that was made here is sent without the question whether the repository has it: the answer, mostly no,
/// takes as long as the bytes.
const UNASKED: u64 = 16 << 10;

/// Number of parallel transfers. More are not faster on one connection.
const AT_ONCE: usize = 4;

#[derive(Clone, Debug)]
pub struct ImageLayer {
    pub descriptor: Descriptor,
    /// Uncompressed digest.
    pub diff_id: Digest,
    pub place: LayerPlace,
    /// Version of the checks that its note was made after, and the note's bytes.
    pub checks: Option<(u32, u64)>,
}

#[derive(Clone, Debug)]
pub enum LayerPlace {
    /// In the repository, as one of its manifests says.
    Repository,
    File(PathBuf),
    Base,
    /// In another repository of the registry.
    Elsewhere,
}

/// Layers on their way to a repository.
pub(crate) struct Delivery<'a> {
    client: &'a Client,
    repository: &'a Repository,
    base: Option<&'a Image>,
    /// Other repositories of the registry, by the layers that they have.
    others: &'a BTreeMap<Digest, Repository>,
    /// It remembers where layers were sent to.
    store: Option<&'a Store>,
    /// Every layer is checked, and a missing one is a fault.
    distrust: bool,
    sent: AtomicU64,
    lost: AtomicBool,
}

impl<'a> Delivery<'a> {
    pub(crate) fn new(
        client: &'a Client,
        repository: &'a Repository,
        (base, others): (Option<&'a Image>, &'a BTreeMap<Digest, Repository>),
        (store, distrust): (Option<&'a Store>, bool),
    ) -> Self {
        let (sent, lost) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { client, repository, base, others, store, distrust, sent, lost }
    }

    /// Sends the layers that `work` hands over, while it works. A fault of the work is the one that counts.
    pub(crate) fn during<T>(
        &self,
        work: impl FnOnce(&(dyn Fn(ImageLayer) + Sync)) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (queue, waiting) = channel::<ImageLayer>();
        let (waiting, failed) = (Mutex::new(waiting), Mutex::new(None));
        let stop = AtomicBool::new(false);
        let run = || loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Some(layer) = next.ok().filter(|_| !stop.load(Ordering::Relaxed)) else { return };
            if let Err(fault) = process::interrupted().and_then(|()| self.layer(&layer)) {
                stop.store(true, Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
            }
        };
        let done = std::thread::scope(|scope| {
            (0..AT_ONCE).for_each(|_| drop(scope.spawn(run)));
            // Where all threads have ended because of a fault, nobody takes a layer.
            let done = work(&|layer| drop(queue.send(layer)));
            stop.fetch_or(done.is_err(), Ordering::Relaxed);
            drop(queue);
            done
        })?;
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(done), Err)
    }

    /// The bytes that were sent, or `None` if the repository lacks a layer that its manifests name.
    pub(crate) fn sent(self) -> Option<u64> {
        (!self.lost.into_inner()).then(|| self.sent.into_inner())
    }

    fn layer(&self, layer: &ImageLayer) -> Result<(), Fault> {
        let Self { client, repository, base, others, distrust, .. } = *self;
        let (digest, size) = (&layer.descriptor.digest, layer.descriptor.size);
        let other = others.get(digest).filter(|_| !matches!(layer.place, LayerPlace::Repository));
        let ask = match (&layer.place, base.map(|image| &image.place)) {
            (LayerPlace::Base, Some(Place::Registry(from))) if from == repository => return Ok(()),
            _ if other.is_some() => false,
            // A mount reports whether the blob exists.
            (LayerPlace::Base, Some(Place::Registry(from))) => from.registry() != repository.registry(),
            (LayerPlace::File(_), _) => size > UNASKED,
            _ => true,
        };
        let just_seen = !distrust && client.had_blob(repository, digest);
        if just_seen || ask && client.has_blob(repository, digest)? {
            return Ok(());
        }
        if matches!(layer.place, LayerPlace::Repository) && !distrust {
            self.lost.store(true, Ordering::Relaxed);
            return Ok(());
        }
        self.sent.fetch_add(size, Ordering::Relaxed);
        let file = local_file(layer, base);
        let below = of_base(layer, base).map(|(_, place)| place);
        let from = match (other, below) {
            (Some(other), _) => Some(other),
            (None, Some(Place::Registry(from))) if from.registry() == repository.registry() => Some(from),
            _ => None,
        };
        let session = from.map(|from| client.mount(repository, digest, from)).transpose()?;
        let session = session.or_else(|| self.mounted_as_before(layer));
        if let Some(Mount::Mounted) = session {
            self.sent.fetch_sub(size, Ordering::Relaxed);
            return Ok(());
        }
        let (source, _folder) = match (file, below, other) {
            (Some(file), ..) => (file, None),
            (None, Some(place), _) => with_folder(fetched(client, place, &layer.descriptor)?),
            (None, None, Some(other)) if client.has_blob(other, digest)? => {
                with_folder(fetched(client, &Place::Registry(other.clone()), &layer.descriptor)?)
            }
            // The other repository lost it: another attempt makes it.
            (None, None, Some(_)) => {
                self.lost.store(true, Ordering::Relaxed);
                return Ok(());
            }
            (None, None, None) => {
                return Err(Fault::network(format!("the registry lost the layer `{}`", repository.digest(*digest)))
                    .hint("build it again with `--force`"));
            }
        };
        match session {
            Some(Mount::Session(session)) => client.upload_into(session, digest, size, &source),
            _ => client.upload(repository, digest, size, &source),
        }?;
        if let (Some(store), LayerPlace::File(_)) = (self.store, &layer.place) {
            store.put_place(&layer.diff_id, repository);
        }
        Ok(())
    }

    /// Mounts a layer of this machine from the repository that it was sent to before. A refusal only costs time: that repository may be
    /// of another project.
    fn mounted_as_before(&self, layer: &ImageLayer) -> Option<Mount> {
        let place = self.store.filter(|_| matches!(layer.place, LayerPlace::File(_)))?.place(&layer.diff_id)?;
        let is_other = place != *self.repository && place.registry() == self.repository.registry();
        is_other.then(|| self.client.mount(self.repository, &layer.descriptor.digest, &place).ok())?
    }
}

/// Brings layers of an image to a repository, but for those that it is known to have: mounted within one registry, copied from another. Returns
/// the bytes that were sent.
///
/// # Errors
/// A layer is missing, or the registry refuses it.
pub fn bring(
    client: &Client,
    repository: &Repository,
    image: &Image,
    has: &dyn Fn(&Digest) -> bool,
) -> Result<u64, Fault> {
    let layer = |(descriptor, diff_id): (&Descriptor, Digest)| ImageLayer {
        descriptor: descriptor.clone(),
        diff_id,
        place: LayerPlace::Base,
        checks: None,
    };
    let layers: Vec<ImageLayer> = image.layers().filter(|(layer, _)| !has(&layer.digest)).map(layer).collect();
    let none = BTreeMap::new();
    let delivery = Delivery::new(client, repository, (Some(image), &none), (None, false));
    delivery.during(|deliver| {
        layers.into_iter().for_each(deliver);
        Ok(())
    })?;
    Ok(delivery.sent().unwrap_or_default())
}

/// Returns true if the repository lacks a layer that its manifests name.
pub fn lacks(client: &Client, repository: &Repository, layers: &[ImageLayer]) -> Result<bool, Fault> {
    let lacks = AtomicBool::new(false);
    at_once(layers, |layer| {
        if matches!(layer.place, LayerPlace::Repository) && !client.has_blob(repository, &layer.descriptor.digest)? {
            lacks.store(true, Ordering::Relaxed);
        }
        Ok(())
    })?;
    Ok(lacks.into_inner())
}

pub fn to_layout(client: &Client, layout: &Layout, layers: &[ImageLayer], base: Option<&Image>) -> Result<(), Fault> {
    at_once(layers, |layer| {
        let digest = &layer.descriptor.digest;
        if layout.blob_size(digest) == Some(layer.descriptor.size) {
            return Ok(());
        }
        let file = local_file(layer, base);
        if file.is_none() && layout.link_shared(digest, layer.descriptor.size) {
            return Ok(());
        }
        match (file, base) {
            // Hard links on one file system; blobs are never modified.
            (Some(file), _) => {
                let target = layout.blob_path(digest);
                if std::fs::hard_link(&file, &target).is_ok() {
                    return Ok(());
                }
                let open = std::fs::File::open(&file)
                    .map_err(|error| Fault::build(format!("cannot read `{}`", file.display())).cause(error))?;
                layout.put_blob(open, Some(digest)).map(drop)
            }
            (None, Some(image)) => {
                let mut writer = layout.writer()?;
                image.place.copy_layer(client, &layer.descriptor, &mut writer)?;
                writer.finish(Some(digest)).map(drop)
            }
            (None, None) => Err(Fault::build(format!("layer `{digest}` not found on this machine"))),
        }
    })
}

/// The base image and its location, for a layer of the base.
fn of_base<'i>(layer: &ImageLayer, base: Option<&'i Image>) -> Option<(&'i Image, &'i Place)> {
    base.filter(|_| matches!(layer.place, LayerPlace::Base)).map(|image| (image, &image.place))
}

fn local_file(layer: &ImageLayer, base: Option<&Image>) -> Option<PathBuf> {
    match (&layer.place, of_base(layer, base)) {
        (LayerPlace::File(file), _) => Some(file.clone()),
        (_, Some((_, Place::Layout(from)))) => Some(from.blob_path(&layer.descriptor.digest)),
        _ => None,
    }
}

fn with_folder((file, folder): (PathBuf, Scratch)) -> (PathBuf, Option<Scratch>) {
    (file, Some(folder))
}

/// Downloads a layer to a file in a temporary folder.
fn fetched(client: &Client, place: &Place, layer: &Descriptor) -> Result<(PathBuf, Scratch), Fault> {
    let cannot = |error| Fault::build("cannot write a temporary file").cause(error);
    let folder = Scratch::new().map_err(cannot)?;
    let path = folder.path().join("layer");
    let mut file = std::fs::File::create_new(&path).map_err(cannot)?;
    place.copy_layer(client, layer, &mut file)?;
    Ok((path, folder))
}

/// Runs `work` for each layer, several at once; stops at the first fault.
fn at_once(layers: &[ImageLayer], work: impl Fn(&ImageLayer) -> Result<(), Fault> + Sync) -> Result<(), Fault> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    let run = || {
        while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(fault) = process::interrupted().and_then(|()| work(layer)) {
                next.store(layers.len(), Ordering::Relaxed);
                failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(fault);
            }
        }
    };
    match layers.len().min(AT_ONCE) {
        0 => {}
        1 => run(),
        threads => std::thread::scope(|scope| {
            (1..threads).for_each(|_| drop(scope.spawn(run)));
            run();
        }),
    }
    failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).map_or(Ok(()), Err)
}
