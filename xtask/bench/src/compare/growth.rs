//! Growing bases, contexts and changes, for costs that must not grow with them.

use super::harness::{Harness, mount, read};
use super::native;
use super::peers::{Start, What};
use crate::scenarios::{self, Sample, edit_template};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::Path;
use xtask_host::registry::{Answer, publish};
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::policy::{FILE, Registry};
use xtask_model::quantity;
use xtask_model::spec::oci::{Config, Descriptor, DescriptorPlatform, Index, Manifest, media_type};
use xtask_model::spec::reference::{Digest, Platform, Repository};

/// A folder that the app's Dockerfile copies.
const COPIED: &str = "autoscaler/samples";

/// Number of layers added to a base, whatever its size: a registry checks each layer of a manifest.
const LAYERS: u64 = 10;

/// Edits a template, and removes the limit on an image's size.
pub(super) fn edit(harness: &mut Harness) -> Result<(), Fault> {
    edit_template(&harness.workspace, harness.number)?;
    without_steps(harness)
}

fn without_steps(harness: &Harness) -> Result<(), Fault> {
    let mut broken = None;
    harness.workspace.edit(FILE, |text| match text.parse::<toml::Table>() {
        Ok(mut policy) => {
            policy.remove("step");
            policy.to_string()
        }
        Err(error) => {
            broken = Some(error);
            text
        }
    })?;
    match broken {
        None => Ok(()),
        Some(error) => Err(Fault::usage(format!("cannot read `{}`", FILE)).cause(error)),
    }
}

/// The app on a base with this many additional bytes of incompressible data; nothing local.
pub(super) fn on_base(harness: &mut Harness, bytes: u64) -> Result<Sample, Fault> {
    let seeds = native::seeds(harness, Start::Cold)?;
    let name = format!("base-{bytes}");
    let is_new = !harness.is_filled(&name);
    let namespace = harness.filled(name, &seeds)?;
    if is_new {
        terminal::step("readying", &format!("a base that is {} larger", quantity::bytes(bytes)));
        grow(harness, &namespace.repository(&harness.workspace.tree.policy.base.repository), bytes)?;
        // The published app must use it too.
        cold(harness, &namespace)?;
        harness.edit_again()?;
    }
    cold(harness, &namespace)
}

/// The app with this many additional unchanged files; nothing local.
pub(super) fn among_files(harness: &mut Harness, count: usize) -> Result<Sample, Fault> {
    let seeds = native::seeds(harness, Start::Cold)?;
    let namespace = harness.filled(format!("files-{count}"), &seeds)?;
    if harness.files != count {
        terminal::step("readying", &format!("{count} files"));
        harness.workspace.rewind()?;
        write_files(&harness.workspace.tree.root.join(COPIED).join("many"), count)?;
        harness.workspace.commit()?;
        harness.files = count;
        // From a clean tree, so that `latest` names the app with these files.
        cold(harness, &namespace)?;
        harness.edit_again()?;
    }
    cold(harness, &namespace)
}

/// The app with a new file of this many incompressible bytes.
pub(super) fn with_file(harness: &mut Harness, bytes: u64) -> Result<Sample, Fault> {
    let path = harness.workspace.tree.root.join(COPIED).join("grown.bin");
    let mut file = File::create(&path).map_err(|error| cannot_write(&path, &error))?;
    random(bytes, &mut file).map_err(|error| cannot_write(&path, &error))?;
    let sample = native::build(harness, native::Caller::Binary, What::App, Start::Cold);
    fs::remove_file(&path).map_err(|error| cannot_write(&path, &error))?;
    sample
}

fn cold(harness: &Harness, namespace: &Registry) -> Result<Sample, Fault> {
    native::forget(&harness.workspace)?;
    rustix::fs::sync();
    scenarios::push(native::cold_call(&harness.workspace).args(["build", "--engine", "native"]), namespace)
}

fn write_files(folder: &Path, count: usize) -> Result<(), Fault> {
    for number in 0..count {
        let folder = folder.join(format!("{:03}", number / 1000));
        if number % 1000 == 0 {
            fs::create_dir_all(&folder).map_err(|error| cannot_write(&folder, &error))?;
        }
        let path = folder.join(format!("{number:06}.txt"));
        fs::write(&path, format!("file {number} of {count}\n")).map_err(|error| cannot_write(&path, &error))?;
    }
    Ok(())
}

/// Adds layers to the base of every tag of a repository, and moves the tags.
fn grow(harness: &Harness, repository: &Repository, bytes: u64) -> Result<(), Fault> {
    let client = &harness.client;
    let layers = padding(harness, bytes)?;
    let store = harness.before_native()?.repository(PADDING);
    for layer in &layers {
        mount(client, &store, repository, &layer.digest)?;
    }
    for tag in client.tags(repository)?.present().unwrap_or_default() {
        let Answer::Present(found) = client.manifest(repository, &tag)? else { continue };
        if !media_type::is_index(&found.media_type) {
            continue;
        }
        let mut index: Index = read(&found.bytes)?;
        for child in &mut index.manifests {
            let platform = child.platform.as_ref().and_then(DescriptorPlatform::platform);
            if platform == Some(Platform::host()) {
                let grown = grown(harness, repository, child.digest, &layers)?;
                (child.digest, child.size) = grown;
            }
        }
        let bytes = json(&index)?;
        let digest = client.put_manifest(repository, Digest::of(&bytes), &found.media_type, &bytes)?;
        publish::tag(client, repository, digest, &tag)?;
    }
    Ok(())
}

/// Adds layers to one platform's manifest; returns its digest and size.
fn grown(
    harness: &Harness,
    repository: &Repository,
    digest: Digest,
    layers: &[Descriptor],
) -> Result<(Digest, u64), Fault> {
    let client = &harness.client;
    let mut manifest: Manifest = publish::read_manifest(client, repository, digest)?;
    let mut config: Config = publish::read_config(client, repository, &manifest)?;
    manifest.layers.extend(layers.iter().cloned());
    config.rootfs.diff_ids.extend(layers.iter().map(|layer| layer.digest));
    config.history.clear();
    let bytes = json(&config)?;
    manifest.config.digest = Digest::of(&bytes);
    manifest.config.size = bytes.len() as u64;
    client.upload(repository, &manifest.config.digest, manifest.config.size, &bytes)?;
    let bytes = json(&manifest)?;
    let digest = client.put_manifest(repository, Digest::of(&bytes), media_type::MANIFEST, &bytes)?;
    Ok((digest, bytes.len() as u64))
}

const PADDING: &str = "padding";

/// [`LAYERS`] layers with this many random bytes in total, in the registry.
fn padding(harness: &Harness, bytes: u64) -> Result<Vec<Descriptor>, Fault> {
    let repository = harness.before_native()?.repository(PADDING);
    let path = harness.scratch().join("padding");
    let mut made = Vec::new();
    for number in 0..LAYERS {
        process::interrupted()?;
        let cannot = |error| cannot_write(&path, &error);
        let mut hashed = Hashed { file: File::create(&path).map_err(cannot)?, state: Sha256::new(), size: 0 };
        layer(number, bytes / LAYERS, &mut hashed).map_err(cannot)?;
        let digest = Digest::from_bytes(hashed.state.finalize().into());
        harness.client.upload(&repository, &digest, hashed.size, &path)?;
        made.push(Descriptor::new(media_type::LAYER, digest, hashed.size));
    }
    let _ = fs::remove_file(&path);
    Ok(made)
}

fn layer(number: u64, bytes: u64, sink: &mut impl Write) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(format!("opt/padding/{number}"))?;
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_cksum();
    sink.write_all(header.as_bytes())?;
    random(bytes, sink)?;
    // Up to a full block, and two empty ones at the end.
    let rest = (512 - bytes % 512) % 512;
    sink.write_all(&vec![0; usize::try_from(rest).unwrap_or(0) + 1024])
}

pub(super) fn random(count: u64, sink: &mut impl Write) -> io::Result<()> {
    io::copy(&mut File::open("/dev/urandom")?.take(count), sink).map(drop)
}

struct Hashed {
    file: File,
    state: Sha256,
    size: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.state.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn json(document: &impl Serialize) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(document).map_err(|error| Fault::build("cannot serialise a document of the image").cause(error))
}

fn cannot_write(path: &Path, error: &io::Error) -> Fault {
    Fault::build(format!("cannot write `{}`", path.display())).cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_a_valid_tar_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("layer");
        let mut hashed = Hashed { file: File::create(&path).unwrap(), state: Sha256::new(), size: 0 };
        layer(7, 1_000_001, &mut hashed).unwrap();
        assert_eq!(path.metadata().unwrap().len(), hashed.size);
        let mut archive = tar::Archive::new(File::open(&path).unwrap());
        let entries: Vec<(String, u64)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.path().unwrap().display().to_string(), entry.size())
            })
            .collect();
        assert_eq!(entries, [("opt/padding/7".to_owned(), 1_000_001)]);
    }

    #[test]
    fn files_are_spread_over_folders() {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 1001).unwrap();
        let count = |name: &str| fs::read_dir(folder.path().join(name)).unwrap().count();
        assert_eq!((count("000"), count("001")), (1000, 1));
    }
}
