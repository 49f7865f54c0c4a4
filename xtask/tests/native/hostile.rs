//! A malicious root under a base that has to read it: a clear error or the right image, and nothing
//! outside the repository's `target`, whatever its layers say.

use crate::fixture::{Outcome, client};
use crate::world::{World, listing};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use xtask_host::registry::publish::parts::{self, LayerPart};
use xtask_model::fault::Fault;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::oci::{Descriptor, Manifest, media_type};
use xtask_model::spec::reference::{Digest, Platform, Tag};
use xtask_native::files::{ImageFiles, Parts, part_id};
use xtask_native::image::{Image, Place};
use xtask_native::stage::{RootFiles as _, Selection};
use xtask_native::store::Store;

/// A layer and what is said of it.
struct Layer {
    bytes: Vec<u8>,
    diff_id: Digest,
    /// Length according to the manifest.
    size: u64,
}

impl Layer {
    fn new(tar: &[u8]) -> Self {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(tar).unwrap();
        let bytes = gzip.finish().unwrap();
        Self { diff_id: Digest::of(tar), size: bytes.len() as u64, bytes }
    }

    /// A file or name of a gibibyte of zeros, as a layer that is a thousandth of that. All that is said of it is true.
    fn bomb(beginning: &tar::Header) -> Self {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut hash = Sha256::new();
        let zeros = vec![0; 1 << 20];
        // The end of the archive is two more records of zeros.
        let parts = std::iter::once(&beginning.as_bytes()[..]).chain([&zeros[..]; 1 << 10]).chain([&zeros[..1024]]);
        for part in parts {
            gzip.write_all(part).unwrap();
            hash.update(part);
        }
        let bytes = gzip.finish().unwrap();
        Self { diff_id: Digest::from_bytes(hash.finalize().into()), size: bytes.len() as u64, bytes }
    }
}

/// A header with a name that no library would write.
fn header(name: &str, kind: tar::EntryType, size: u64, link: &str) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    let fields = header.as_gnu_mut().unwrap();
    fields.name[..name.len()].copy_from_slice(name.as_bytes());
    fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header
}

/// A tar file of these entries: `f NAME CONTENTS`, `l NAME TARGET`, `h NAME TARGET`, `d NAME`.
fn tar(lines: &[&str]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for line in lines {
        let mut words = line.splitn(3, ' ');
        let (kind, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or_default());
        let (kind, data, link) = match kind {
            "f" => (tar::EntryType::Regular, rest, ""),
            "l" => (tar::EntryType::Symlink, "", rest),
            "h" => (tar::EntryType::Link, "", rest),
            _ => (tar::EntryType::Directory, "", ""),
        };
        tar.append(&header(name, kind, data.len() as u64, link), data.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Puts the layers as an image under the name of the repository's root.
fn push(world: &World, layers: &[Layer]) {
    let (client, root) = (client(), world.root());
    let send = |bytes: &Vec<u8>| {
        let digest = Digest::of(bytes);
        client.upload(&root, &digest, bytes.len() as u64, bytes).unwrap_or_else(|fault| panic!("{fault}"));
        digest
    };
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
    let platform = Platform::host().to_string();
    let (os, architecture) = platform.split_once('/').unwrap();
    let config = serde_json::json!({
        "architecture": architecture, "os": os, "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let descriptor = Descriptor::new(media_type::CONFIG, send(&config), config.len() as u64);
    let layer = |layer: &Layer| Descriptor::new(media_type::LAYER_GZIP, send(&layer.bytes), layer.size);
    let manifest = Manifest::new(descriptor, layers.iter().map(layer).collect());
    let bytes = serde_json::to_vec(&manifest).unwrap();
    client.put_manifest(&root, "1".parse::<Tag>().unwrap(), media_type::MANIFEST, &bytes).unwrap();
}

/// A folder next to the repository, which a layer must not reach.
struct Outside(PathBuf);

impl Outside {
    fn of(world: &World) -> Self {
        let folder = world.repo.path.parent().unwrap().join("outside");
        fs::create_dir_all(&folder).unwrap();
        if !folder.join("passwd").exists() {
            fs::write(folder.join("passwd"), "secret:x:1:1:::\n").unwrap();
        }
        Self(folder)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// It is as it was, and so is the repository itself.
    #[track_caller]
    fn is_untouched(&self, world: &World) {
        let all = listing(self.0.parent().unwrap());
        let beside: Vec<&Path> =
            all.iter().map(|(path, _)| path.as_path()).filter(|path| !path.starts_with(&world.repo.path)).collect();
        assert_eq!(beside, [self.0.join("passwd")]);
        assert_eq!(fs::read_to_string(self.0.join("passwd")).unwrap(), "secret:x:1:1:::\n");
        assert_eq!(world.repo.git(&["status", "--porcelain"]), "");
        assert!(!Path::new("/tmp/xtask-escaped").exists());
    }
}

/// Unpacks the root, as a recipe that runs its Python has it.
fn unpack(world: &World) -> Result<(), Fault> {
    let (client, target) = (client(), world.repo.path.join("target"));
    let store = Store::open(&target.join("native/store"), u64::MAX)?;
    let digest = world.repo.published("root", "1").unwrap().digest;
    let image = Image::open(&client, Place::Registry(world.root()), digest, &Platform::host())?;
    ImageFiles::new(&client, &store, &image, "image.invalid/base", &world.repo.path).folder(None).map(drop)
}

/// Builds the base on such a root.
fn build(world: &World, layers: &[Layer]) -> Outcome {
    push(world, layers);
    let outside = Outside::of(world);
    let outcome = world.repo.xtask(&["build-base", "--push", "--format", "json"]).without_engine().run();
    outside.is_untouched(world);
    world.is_whole();
    outcome
}

/// It is refused, for this reason.
#[track_caller]
fn refused(name: &str, says: &str, layers: &[Layer]) {
    let Some(world) = World::new(name) else { return };
    let outcome = build(&world, layers);
    assert!(matches!(outcome.code, Some(4 | 5)), "{outcome:?}");
    assert_eq!(outcome.stdout, "");
    outcome.says("error: ").says(says).keeps("panicked");
    assert!(world.repo.tags("app-base").is_empty());
    assert!(unpack(&world).is_err());
    Outside::of(&world).is_untouched(&world);
    // Nor is it remembered as something good.
    let again = world.repo.xtask(&["build-base", "--push"]).without_engine().run();
    assert!(matches!(again.code, Some(4 | 5)), "{again:?}");
}

/// It does no harm: the users of the base are those of the root and ours.
#[track_caller]
fn harmless(name: &str, lines: impl FnOnce(&str) -> Vec<String>, users: &str) {
    let Some(world) = World::new(name) else { return };
    let lines = lines(Outside::of(&world).path());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    build(&world, &[Layer::new(&tar(&lines))]).ok();
    unpack(&world).unwrap_or_else(|fault| panic!("{fault}"));
    Outside::of(&world).is_untouched(&world);
    let passwd = world.manifest("app-base", "latest").layers[1].digest;
    let (client, mut bytes) = (client(), Vec::new());
    client.blob(&world.repo.repository("app-base"), &passwd, 1 << 20, &mut bytes).unwrap_err();
    let mut text = String::new();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap() == Path::new("etc/passwd") {
            entry.read_to_string(&mut text).unwrap();
        }
    }
    assert_eq!(text, format!("{users}app:x:10001:10001:app:/home/app:/usr/sbin/nologin\n"));
}

#[test]
fn names_that_lead_out() {
    for name in ["../../../tmp/xtask-escaped", "a/../../../../../../tmp/xtask-escaped"] {
        refused("dots", "cannot read layer", &[Layer::new(&tar(&[&format!("f {name} x"), "f etc/passwd root\n"]))]);
    }
}

#[test]
fn absolute_names() {
    let layers = [Layer::new(&tar(&["f /tmp/xtask-escaped x", "f etc/passwd root"]))];
    refused("absolute", "is absolute", &layers);
}

#[test]
fn links_that_lead_out_are_not_followed() {
    // `/etc` is a link to a folder of the host, `passwd` in it a file that is not the image's.
    let lines = |outside: &str| vec![format!("l etc {outside}")];
    harmless("linkout", lines, "");
    // A file of the host by its name.
    let lines = |outside: &str| vec!["d etc/".to_owned(), format!("l etc/passwd {outside}/passwd")];
    harmless("filelink", lines, "");
}

#[test]
fn writing_through_a_link_of_a_lower_layer_stays_inside() {
    let Some(world) = World::new("through") else { return };
    let outside = Outside::of(&world);
    let lower = format!("l etc {}", outside.path());
    let layers = [&[&*lower][..], &["f etc/passwd evil", "f etc/more evil"]];
    let outcome = build(&world, &layers.map(|lines| Layer::new(&tar(lines))));
    assert!(matches!(outcome.code, Some(0 | 4)), "{outcome:?}");
    outcome.keeps("panicked").keeps("secret");
    let _ = unpack(&world);
    outside.is_untouched(&world);
}

#[test]
fn a_hard_link_has_the_contents_of_its_target() {
    let lines = |_: &str| {
        ["d usr/", "f usr/passwd root:x:0:0:::/bin/sh", "d etc/", "h etc/passwd usr/passwd"].map(str::to_owned).to_vec()
    };
    harmless("hardlink", lines, "root:x:0:0:::/bin/sh");
}

#[test]
fn a_hard_link_to_the_host() {
    let layers = [Layer::new(&tar(&["d etc/", "h etc/passwd ../../../../../../etc/hostname"]))];
    refused("hardout", "cannot read", &layers);
    let layers = [Layer::new(&tar(&["d etc/", "h etc/passwd /etc/hostname"]))];
    refused("hardabsolute", "is absolute", &layers);
}

#[test]
fn a_layer_with_another_digest_than_in_its_configuration() {
    let tar = tar(&["d etc/", "f etc/passwd root"]);
    let layer = Layer { diff_id: Digest::of(b"another"), ..Layer::new(&tar) };
    refused("diffid", "digest", &[layer]);
}

#[test]
fn a_layer_with_another_size_than_in_its_manifest() {
    for difference in [-1, 1] {
        let mut layer = Layer::new(&tar(&["d etc/", "f etc/passwd root"]));
        layer.size = layer.size.checked_add_signed(difference).unwrap();
        refused("length", "bytes", &[layer]);
    }
}

#[test]
fn a_file_that_claims_to_be_larger_than_its_layer() {
    let tar = [header("etc/passwd", tar::EntryType::Regular, 1 << 20, "").as_bytes().as_slice(), b"root"].concat();
    refused("claims", "it is truncated", &[Layer::new(&tar)]);
    let tar = header("etc/passwd", tar::EntryType::Regular, 1 << 50, "").as_bytes().to_vec();
    refused("claimsmuch", "cannot read layer", &[Layer::new(&tar)]);
}

#[test]
fn a_layer_that_is_not_an_archive() {
    let noise: Vec<u8> = (0..5000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let size = noise.len() as u64;
    refused("noise", "cannot read layer", &[Layer { diff_id: Digest::of(&noise), size, bytes: noise }]);
}

/// A build that a layer of a few megabytes wants to fill the memory, or the disk.
#[track_caller]
fn bomb(name: &str, says: &str, beginning: &tar::Header) {
    let Some(world) = World::new(name) else { return };
    push(&world, &[Layer::bomb(beginning)]);
    let outside = Outside::of(&world);
    // Less room than the bomb has: who holds it whole is ended by the system. Each thread reserves 64 MB of addresses, used or not.
    let call = world.repo.xtask(&["build-base", "--push"]).without_engine();
    let outcome = call.through(&["sh", "-c", "ulimit -v 1000000; exec \"$@\"", "sh"]).run();
    assert!(matches!(outcome.code, Some(4 | 5)), "{outcome:?}");
    outcome.says("error: ").says(says).keeps("panicked");
    outside.is_untouched(&world);
    let left: u64 = listing(&world.repo.path.join("target/native")).iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert!(left < 10_000_000, "{left} bytes are left");
}

#[test]
fn an_account_file_of_a_gigabyte_of_zeros() {
    bomb("bombfile", "it is larger than", &header("etc/passwd", tar::EntryType::Regular, 1 << 30, ""));
}

#[test]
fn a_name_that_is_a_gigabyte_long() {
    bomb("bombname", "cannot read layer", &header("././@LongLink", tar::EntryType::GNULongName, 1 << 30, ""));
}

/// Files below `lib`, as a recipe selects what Python needs.
const PART: Selection = Selection { name: "lib", has: |path| path.as_bytes().starts_with(b"lib/") };

/// The part on a machine of which only the folder exists: its files, and whether `lib/a` and `lib/gone` are in the image.
fn part_in(folder: &Path, world: &World, image: &Image, push: bool) -> (Vec<(PathBuf, String)>, [bool; 2]) {
    let client = client();
    let store = Store::open(&folder.join("store"), u64::MAX).unwrap();
    let parts = Parts { repository: world.root(), push };
    let files = ImageFiles::new(&client, &store, image, "image.invalid/base", folder).with_parts(parts);
    let unpacked = files.folder(Some(&PART)).unwrap_or_else(|fault| panic!("{fault}"));
    let below = |(path, bytes): (PathBuf, Vec<u8>)| {
        (path.strip_prefix(&unpacked).unwrap().to_owned(), String::from_utf8(bytes).unwrap())
    };
    let found = listing(&unpacked).into_iter().map(below).collect();
    let has = ["lib/a", "lib/gone"].map(|path| files.has(&ContextPath::new(path)).unwrap());
    files.share(&PART);
    (found, has)
}

/// A root of two layers, and its part in the registry.
struct Shared {
    world: World,
    image: Image,
    id: Digest,
}

impl Shared {
    fn new(name: &str) -> Option<Self> {
        let world = World::new(name)?;
        let layer = |lines: &[&str]| Layer::new(&tar(lines));
        let lower = layer(&["f lib/a old", "f lib/gone x", "f share/a x", "l usr lib"]);
        push(&world, &[lower, layer(&["f lib/a new", "f lib/.wh.gone "])]);
        let digest = world.repo.published("root", "1").unwrap().digest;
        let image = Image::open(&client(), Place::Registry(world.root()), digest, &Platform::host()).unwrap();
        let id = part_id(&image.digest, &PART);
        let shared = Self { world, image, id };
        shared.read(1, true);
        shared.read(0, false);
        Some(shared)
    }

    /// Reads the part on a new machine that publishes: how often each layer is read, and whether something is written to the registry.
    #[track_caller]
    fn read(&self, layers: usize, writes: bool) {
        self.read_in(tempfile::tempdir().unwrap().path(), true, (layers, writes));
    }

    #[track_caller]
    fn read_in(&self, folder: &Path, push: bool, (layers, writes): (usize, bool)) {
        let (found, traffic) = self.world.traffic(|| part_in(folder, &self.world, &self.image, push));
        let file = |path: &str, text: &str| (PathBuf::from(path), text.to_owned());
        assert_eq!(found, (vec![file("lib/a", "new"), file("usr", "")], [true, false]));
        assert_eq!(traffic.read(&self.image.manifest.layers), [layers; 2]);
        assert_eq!(!traffic.writes().is_empty(), writes, "{:?}", traffic.writes());
    }

    /// The part's files in the registry: for each layer the tar file and the table of contents.
    fn stored(&self) -> Vec<Descriptor> {
        let found = parts::find(&client(), &self.world.root(), &self.id, 2).unwrap().unwrap();
        found.into_iter().flat_map(|layer| [layer.tar, layer.table]).collect()
    }

    /// Puts another part under its tag: two layers like this.
    fn replace(&self, tar: &[u8], table: &[u8]) {
        let layer = || Ok(LayerPart { tar, table: gzip(table) });
        parts::keep(&client(), &self.world.root(), &self.id, [layer(), layer()].into_iter()).unwrap();
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.world.store().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    /// A build that publishes refuses the part and replaces it; the next one reads what it wrote.
    #[track_caller]
    fn heals(&self) {
        self.read(1, true);
        self.read(0, false);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// The tables of contents of a part.
fn tables(shared: &Shared) -> Vec<u8> {
    let table = &shared.stored()[1];
    let found = client().blob_bytes(&shared.world.root(), &table.digest, table.size).unwrap().present().unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&found[..]).read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_part_of_a_root_with_a_lost_or_damaged_file_is_refused_and_replaced() {
    let Some(shared) = Shared::new("lostparts") else { return };
    for number in 0..4 {
        shared.world.lose("root", &shared.stored()[number].digest);
        shared.heals();
        // Too short, and of another digest: the registry still says that it has it.
        let path = shared.blob(&shared.stored()[number].digest);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        shared.heals();
        let path = shared.blob(&shared.stored()[number].digest);
        fs::write(&path, vec![b'x'; bytes.len()]).unwrap();
        shared.heals();
    }
    // A machine that has its own files does not read the part, and sees what is lost.
    let folder = tempfile::tempdir().unwrap();
    shared.replace(b"x", b"x");
    shared.read_in(folder.path(), true, (1, true));
    shared.world.lose("root", &shared.stored()[2].digest);
    shared.read_in(folder.path(), true, (0, true));
    shared.read(0, false);
}

#[test]
fn a_part_of_a_root_whose_content_cannot_be_read_is_refused_and_replaced() {
    let Some(shared) = Shared::new("parts") else { return };
    let (other, table) = (Layer::new(&tar(&["f lib/a other"])).bytes, tables(&shared));
    // No table of contents is damaged in silence, and there are as many as layers.
    shared.replace(&other, b"no table");
    shared.heals();
    parts::keep(&client(), &shared.world.root(), &shared.id, std::iter::empty::<Result<LayerPart<&[u8], _>, _>>())
        .unwrap();
    shared.heals();
    // Whole files with the right tables, that are not archives, or end in the middle of one, or lead out of the folder.
    let cut = &tar(&["f lib/a other"])[..700];
    for content in [b"no archive".to_vec(), Vec::new(), other[..other.len() / 2].to_vec(), gzip(cut)] {
        shared.replace(&content, &table);
        shared.heals();
    }
    shared.replace(&Layer::new(&tar(&["f ../out x"])).bytes, &table);
    shared.heals();
    // A build that does not publish reads the layers once, and the next one that does replaces the part.
    shared.replace(b"no archive", &table);
    let folder = tempfile::tempdir().unwrap();
    shared.read_in(folder.path(), false, (1, false));
    shared.read_in(folder.path(), false, (0, false));
    shared.read_in(folder.path(), true, (0, true));
    shared.read(0, false);
}
