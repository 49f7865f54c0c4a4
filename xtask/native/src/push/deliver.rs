//! Brings an image's blobs to where it goes: a repository, or a layout. Names nothing: tags are `publish`'s.
//!
//! What is there is not sent; what another repository of the registry has is mounted; everything else is streamed, several
//! layers at once.

use crate::image::{Image, Place};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use xtask_host::process;
use xtask_host::registry::layout::Layout;
use xtask_host::registry::{Client, Mount};
use xtask_host::scratch::Scratch;
use xtask_model::fault::Fault;
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::reference::{Digest, Repository};

/// Layers that are on their way at one moment. More do not go faster over one line.
const AT_ONCE: usize = 4;

/// One layer of the image to be.
#[derive(Clone, Debug)]
pub struct Layer {
    /// What points at it.
    pub descriptor: Descriptor,
    /// Its uncompressed digest.
    pub diff_id: Digest,
    /// Where its bytes are.
    pub origin: Origin,
}

/// Where a layer's bytes are.
#[derive(Clone, Debug)]
pub enum Origin {
    /// In the repository already, as one of its manifests says.
    There,
    /// In a file.
    File(PathBuf),
    /// In the image beneath.
    Beneath,
}

/// Brings the layers to a repository; returns the bytes that were sent, or nothing where the repository lacks a layer that one of
/// its manifests names. With `distrust` nothing is said to be there that was not asked for, and what is lost is a fault.
pub fn to_repository(
    client: &Client,
    repository: &Repository,
    layers: &[Layer],
    beneath: Option<&Image>,
    distrust: bool,
) -> Result<Option<u64>, Fault> {
    let (sent, lost) = (AtomicU64::new(0), AtomicBool::new(false));
    at_once(layers, |layer| {
        let (digest, size) = (&layer.descriptor.digest, layer.descriptor.size);
        let ask = match (&layer.origin, beneath.map(|image| &image.place)) {
            (Origin::Beneath, Some(Place::Registry(from))) if from == repository => return Ok(()),
            // A mount says itself whether the blob is there.
            (Origin::Beneath, Some(Place::Registry(from))) => from.registry() != repository.registry(),
            _ => true,
        };
        if ask && client.has_blob(repository, digest)? {
            return Ok(());
        }
        if matches!(layer.origin, Origin::There) && !distrust {
            lost.store(true, Ordering::Relaxed);
            return Ok(());
        }
        sent.fetch_add(size, Ordering::Relaxed);
        match (&layer.origin, beneath) {
            (Origin::There, _) => {
                Err(Fault::network(format!("the registry lost the layer `{}`", repository.digest(*digest)))
                    .hint("build again with `--force`: it is then made anew"))
            }
            (Origin::File(file), _) => client.upload(repository, digest, size, file),
            (Origin::Beneath, Some(image)) => match &image.place {
                Place::Layout(layout) => client.upload(repository, digest, size, &layout.blob_path(digest)),
                Place::Registry(from) if from.registry() == repository.registry() => {
                    match client.mount(repository, digest, from)? {
                        Mount::Mounted => {
                            sent.fetch_sub(size, Ordering::Relaxed);
                            Ok(())
                        }
                        Mount::Session(session) => {
                            let copy = fetched(client, image, &layer.descriptor)?;
                            client.upload_into(session, digest, size, &copy.path)
                        }
                    }
                }
                Place::Registry(_) => {
                    let copy = fetched(client, image, &layer.descriptor)?;
                    client.upload(repository, digest, size, &copy.path)
                }
            },
            (Origin::Beneath, None) => unreachable!("a layer beneath has an image that it is of"),
        }
    })?;
    Ok((!lost.into_inner()).then(|| sent.into_inner()))
}

/// Whether the repository lacks a layer that it was said to have.
pub fn lacks(client: &Client, repository: &Repository, layers: &[Layer]) -> Result<bool, Fault> {
    let lacks = AtomicBool::new(false);
    at_once(layers, |layer| {
        if matches!(layer.origin, Origin::There) && !client.has_blob(repository, &layer.descriptor.digest)? {
            lacks.store(true, Ordering::Relaxed);
        }
        Ok(())
    })?;
    Ok(lacks.into_inner())
}

/// Brings the layers into a layout.
pub fn to_layout(client: &Client, layout: &Layout, layers: &[Layer], beneath: Option<&Image>) -> Result<(), Fault> {
    at_once(layers, |layer| {
        let digest = &layer.descriptor.digest;
        if layout.blob_size(digest) == Some(layer.descriptor.size) {
            return Ok(());
        }
        let file = match (&layer.origin, beneath.map(|image| &image.place)) {
            (Origin::File(file), _) => Some(file.clone()),
            _ if layout.link_shared(digest, layer.descriptor.size) => return Ok(()),
            (Origin::Beneath, Some(Place::Layout(from))) => Some(from.blob_path(digest)),
            _ => None,
        };
        match (file, beneath) {
            // On one file system nothing is copied; blobs are never written to again.
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
                image.copy_layer(client, &layer.descriptor, &mut writer)?;
                writer.finish(Some(digest)).map(drop)
            }
            (None, None) => Err(Fault::build(format!("layer `{digest}` is nowhere on this machine"))),
        }
    })
}

/// A layer of the image beneath as a file, for a registry that wants to see it.
fn fetched(client: &Client, image: &Image, layer: &Descriptor) -> Result<Fetched, Fault> {
    let cannot = |error| Fault::build("cannot write a temporary file").cause(error);
    let folder = Scratch::new().map_err(cannot)?;
    let path = folder.path().join("layer");
    let mut file = std::fs::File::create_new(&path).map_err(cannot)?;
    image.copy_layer(client, layer, &mut file)?;
    Ok(Fetched { path, _folder: folder })
}

/// A layer's file, for as long as the value lives.
struct Fetched {
    path: PathBuf,
    _folder: Scratch,
}

/// Does the same with each layer, several at once; the first fault ends it.
fn at_once(layers: &[Layer], work: impl Fn(&Layer) -> Result<(), Fault> + Sync) -> Result<(), Fault> {
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
