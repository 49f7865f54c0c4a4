//! Growing bases, contexts and changes, for costs that must not grow with them.

use super::harness::{self, Harness, mount, read};
use super::native;
use super::subject::{Start, What};
use crate::sample::{self, Sample};
use crate::scenarios::{self, edit_template};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use xtask_host::registry::{Answer, publish};
use xtask_host::tree::uv::Upgrade;
use xtask_host::{file, process, terminal};
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

pub(super) fn without_steps(harness: &mut Harness) -> Result<(), Fault> {
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

/// A command that is measured among many files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Among {
    /// A build, nothing local.
    Cold,
    /// A build, everything warm.
    Warm,
    /// A plan for the last commit, from the one before it.
    Plan,
}

/// The app with this many additional unchanged files.
pub(super) fn among_files(harness: &mut Harness, count: usize, among: Among) -> Result<Sample, Fault> {
    let seeds = native::seeds(harness, Start::Cold)?;
    let namespace = harness.filled(format!("files-{count}"), &seeds)?;
    if harness.files != count {
        terminal::step("readying", &format!("{count} files"));
        harness.workspace.rewind()?;
        write_files(&harness.workspace.tree.root.join(COPIED).join("many"), count)?;
        // Committed, so that the template alone differs from the commit.
        without_steps(harness)?;
        harness.workspace.commit()?;
        harness.files = count;
        // From a clean tree, so that `latest` names the app with these files.
        cold(harness, &namespace)?;
        harness.edit_again()?;
        if among == Among::Warm {
            warm(harness, &namespace)?;
            harness.edit_again()?;
        }
    }
    match among {
        Among::Cold => cold(harness, &namespace),
        Among::Warm => warm(harness, &namespace),
        Among::Plan => {
            harness.workspace.commit()?;
            let plan = harness::call(&harness.workspace).args(["plan", "--base", "HEAD~1", "--head", "HEAD"]);
            sample::call(&plan.args(["--registry", &namespace.to_string()]))
        }
    }
}

fn warm(harness: &Harness, namespace: &Registry) -> Result<Sample, Fault> {
    native::stage(harness)?;
    scenarios::push(harness::call(&harness.workspace).args(["build", "--engine", "native"]), namespace)
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

/// The base with one more package, whose wheel has this many incompressible bytes.
pub(super) fn with_wheel(harness: &mut Harness, bytes: u64) -> Result<Sample, Fault> {
    let folder = harness.scratch().join("wheels");
    let path = folder.join("grown-1-py3-none-any.whl");
    let write = || {
        fs::create_dir_all(&folder)?;
        wheel(bytes, &mut BufWriter::new(File::create(&path)?))
    };
    write().map_err(|error| cannot_write(&path, &error))?;
    let base = harness.workspace.tree.policy.base.clone();
    let [requirements] = base.requirements.paths() else {
        return Err(Fault::usage("the policy names several requirement files, and this row edits one"));
    };
    let line = format!("--find-links {}\ngrown==1\n", folder.display());
    harness.workspace.edit(requirements, |text| format!("{text}{line}"))?;
    let text = scenarios::resolved(&harness.workspace, &Upgrade::Keep)?;
    file::write(&harness.workspace.tree.root.join(&base.lock), &text)?;
    let sample = native::build(harness, native::Caller::Binary, What::Base, Start::Nothing);
    fs::remove_file(&path).map_err(|error| cannot_write(&path, &error))?;
    sample
}

/// A wheel of the package `grown` with a file of this many random bytes, stored as they are.
fn wheel(bytes: u64, sink: &mut (impl Write + io::Seek)) -> io::Result<()> {
    const INFO: &str = "grown-1.dist-info";
    let too_large = |_| io::Error::other("a file of a wheel is too large for this archive");
    let size = u32::try_from(bytes).map_err(too_large)?;
    let record = format!("grown/data,,\n{INFO}/METADATA,,\n{INFO}/WHEEL,,\n{INFO}/RECORD,,\n");
    let texts = [
        ("METADATA", "Metadata-Version: 2.1\nName: grown\nVersion: 1\n"),
        ("WHEEL", "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        ("RECORD", &record),
    ];
    // The checksum of random bytes is known after them, so they are made twice from one seed.
    let mut data = Bytes { seed: bytes | 1, left: bytes };
    let mut crc = flate2::Crc::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match data.read(&mut piece)? {
            0 => break,
            count => crc.update(&piece[..count]),
        }
    }
    let mut files = vec![("grown/data".to_owned(), crc.sum(), size)];
    for (name, text) in texts {
        let mut crc = flate2::Crc::new();
        crc.update(text.as_bytes());
        files.push((format!("{INFO}/{name}"), crc.sum(), u32::try_from(text.len()).map_err(too_large)?));
    }
    let mut directory = Vec::new();
    for (index, (name, crc, size)) in files.iter().enumerate() {
        let start = u32::try_from(sink.stream_position()?).map_err(too_large)?;
        let length = u16::try_from(name.len()).map_err(too_large)?;
        // From the flags to the length of the extra field, the same in both records.
        let common =
            [&[0; 8][..], &crc.to_le_bytes(), &size.to_le_bytes(), &size.to_le_bytes(), &length.to_le_bytes(), &[0; 2]]
                .concat();
        sink.write_all(&[b"PK\x03\x04\x14\0", &*common, name.as_bytes()].concat())?;
        match index.checked_sub(1) {
            None => drop(io::copy(&mut Bytes { seed: bytes | 1, left: bytes }, sink)?),
            Some(text) => sink.write_all(texts[text].1.as_bytes())?,
        }
        directory
            .extend([b"PK\x01\x02\x14\x03\x14\0", &*common, &[0; 10], &start.to_le_bytes(), name.as_bytes()].concat());
    }
    let start = u32::try_from(sink.stream_position()?).map_err(too_large)?.to_le_bytes();
    let size = u32::try_from(directory.len()).map_err(too_large)?.to_le_bytes();
    let count = u16::try_from(files.len()).map_err(too_large)?.to_le_bytes();
    sink.write_all(&directory)?;
    sink.write_all(&[b"PK\x05\x06\0\0\0\0", &count[..], &count, &size, &start, &[0; 2]].concat())?;
    sink.flush()
}

/// Bytes that look random and are the same for one seed (xorshift).
struct Bytes {
    seed: u64,
    left: u64,
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        for piece in buffer[..most].chunks_mut(8) {
            self.seed ^= self.seed << 13;
            self.seed ^= self.seed >> 7;
            self.seed ^= self.seed << 17;
            piece.copy_from_slice(&self.seed.to_le_bytes()[..piece.len()]);
        }
        self.left -= most as u64;
        Ok(most)
    }
}

fn cold(harness: &Harness, namespace: &Registry) -> Result<Sample, Fault> {
    native::forget(&harness.workspace)?;
    rustix::fs::sync();
    scenarios::push(harness::cold_call(&harness.workspace).args(["build", "--engine", "native"]), namespace)
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
        File::create(&path).and_then(|mut made| layer(number, bytes / LAYERS, &mut made)).map_err(cannot)?;
        let hashed = File::open(&path).and_then(|mut made| file::hash(&mut made));
        let (digest, size) = hashed.map_err(cannot)?;
        harness.client.upload(&repository, &digest, size, &path)?;
        made.push(Descriptor::new(media_type::LAYER, digest, size));
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
        layer(7, 1_000_001, &mut File::create(&path).unwrap()).unwrap();
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
    fn a_wheel_is_read_by_the_native_engine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grown-1-py3-none-any.whl");
        wheel(1_000_001, &mut BufWriter::new(File::create(&path).unwrap())).unwrap();
        let wheel = xtask_native::wheel::Wheel::open(&path, "grown-1-py3-none-any.whl").unwrap();
        let names: Vec<&str> = wheel.entries().iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names[..2], ["grown-1.dist-info/METADATA", "grown-1.dist-info/RECORD"]);
        for entry in wheel.entries() {
            let bytes = wheel.read(entry).unwrap();
            assert_eq!(bytes.len() as u64, entry.size);
        }
        assert_eq!(wheel.get("grown/data").unwrap().size, 1_000_001);
    }

    #[test]
    fn files_are_spread_over_folders() {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 1001).unwrap();
        let count = |name: &str| fs::read_dir(folder.path().join(name)).unwrap().count();
        assert_eq!((count("000"), count("001")), (1000, 1));
    }
}
