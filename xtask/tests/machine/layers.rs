//! Layers as others read them, what writing one costs in memory, and a store whose processes are killed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use xtask_host::process::{self, Command};
use xtask_host::registry::layout::Layout;
use xtask_model::fault::Exit;
use xtask_model::image::context::ContextPath;
use xtask_model::image::policy::Compression;
use xtask_model::spec::oci::{Config, Execution, Manifest, RootFs, media_type};
use xtask_model::spec::reference::{Digest, Platform};
use xtask_native::layer::item::{Bytes, Content, Item};
use xtask_native::layer::{Codec, Limits, Reader, write};
use xtask_native::store::Store;

const CODECS: [Compression; 2] = [Compression::Gzip, Compression::Zstd];

fn item(path: impl Into<Vec<u8>>, mode: u32, content: Content) -> Item {
    Item { path: ContextPath::new(path), mode, uid: 65_532, gid: 3_000_000, content }
}

fn file(path: impl Into<Vec<u8>>, mode: u32, bytes: Vec<u8>) -> Item {
    item(path, mode, Content::File(Bytes::Here(Arc::from(bytes))))
}

/// Everything that a layer may hold, several blocks of it.
fn items() -> Vec<Item> {
    let text: Vec<u8> = (0..700_000_u32).flat_map(|number| number.to_string().into_bytes()).collect();
    let long = "long".repeat(60);
    let mut items = vec![
        item("bin", 0o755, Content::Dir),
        file("bin/program", 0o4755, b"#!/bin/sh\n".to_vec()),
        item("bin/sh", 0o777, Content::Symlink(b"program".to_vec())),
        file("empty", 0o600, Vec::new()),
        item(long.clone(), 0o1777, Content::Dir),
        file(format!("{long}/{long}"), 0o644, b"far".to_vec()),
        item(format!("{long}/link"), 0o777, Content::Symlink(format!("{long}/{long}").into_bytes())),
        file("new\nline", 0o644, b"line".to_vec()),
        file("text", 0o644, text),
        file("zero", 0o644, vec![0; 3 << 20]),
        file("ünï", 0o644, b"umlaut".to_vec()),
    ];
    items.sort_by(|one, two| one.path.cmp(&two.path));
    items
}

/// `path kind mode owner digest-or-target`, as the programs below say it.
fn expected(items: &[Item]) -> Vec<String> {
    let line = |item: &Item| {
        let path = String::from_utf8_lossy(item.path.as_bytes()).escape_debug().to_string();
        let (uid, gid) = (item.uid, item.gid);
        match &item.content {
            Content::Dir => format!("{path} d {:o} {uid}:{gid}", item.mode),
            Content::Symlink(target) => format!("{path} l {uid}:{gid} {}", String::from_utf8_lossy(target)),
            Content::File(Bytes::Here(bytes)) => {
                format!("{path} f {:o} {uid}:{gid} {}", item.mode, Digest::of(bytes).hex())
            }
            Content::File(Bytes::At { .. } | Bytes::Packed(_)) => unreachable!("all bytes are in memory"),
        }
    };
    items.iter().map(line).collect()
}

/// The program, unless this machine lacks it and may.
fn tool(name: &str) -> Option<PathBuf> {
    let found = process::found(name);
    if found.is_none() {
        assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "no `{name}` on the PATH");
        println!("skipped: no `{name}` on the PATH");
    }
    found
}

const PYTHON: &str = r#"
import hashlib, sys, tarfile
with tarfile.open(sys.argv[1], "r:*", encoding="utf-8") as archive:
    for entry in archive:
        path = entry.name.replace("\n", "\\n")
        owner = f"{entry.uid}:{entry.gid}"
        assert entry.mtime == 1767225600 and entry.uname == entry.gname == ""
        if entry.isdir():
            print(f"{path} d {entry.mode:o} {owner}")
        elif entry.issym():
            print(f"{path} l {owner} {entry.linkname}")
        else:
            digest = hashlib.sha256(archive.extractfile(entry).read()).hexdigest()
            print(f"{path} f {entry.mode:o} {owner} {digest}")
"#;

#[test]
fn python_reads_written_layers() {
    let Some(python) = tool("python3") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("layer");
    let items = items();
    // tarfile knows zstd from Python 3.14 on only.
    write(&items, Codec::new(Compression::Gzip), 2, fs::File::create(&path).unwrap()).unwrap();
    let said = Command::new(python).args(["-c", PYTHON]).arg(&path).read(Exit::Build).unwrap();
    assert_eq!(said.lines().collect::<Vec<_>>(), expected(&items));
}

#[test]
fn tar_unpacks_written_layers() {
    let Some(tar) = tool("tar") else { return };
    let Some(zstd) = tool("zstd") else { return };
    let Some(gzip) = tool("gzip") else { return };
    let items = items();
    for (compression, program) in CODECS.iter().zip([gzip, zstd]) {
        let folder = tempfile::tempdir().unwrap();
        let packed = folder.path().join("layer");
        write(&items, Codec::new(*compression), 2, fs::File::create(&packed).unwrap()).unwrap();
        let plain = Command::new(program).arg("-dc").stdin(fs::read(&packed).unwrap()).output().unwrap();
        assert!(plain.status.success());
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        let unpack = Command::new(&tar).args(["-xp", "--no-same-owner", "-C"]).arg(&root).stdin(plain.stdout);
        let output = unpack.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        same_tree(&root, &items);
    }
}

fn same_tree(root: &Path, items: &[Item]) {
    let mut count = 0;
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            count += 1;
            if path.symlink_metadata().unwrap().is_dir() {
                folders.push(path);
            }
        }
    }
    assert_eq!(count, items.len());
    for item in items {
        let path = root.join(item.path.to_path());
        let metadata = path.symlink_metadata().unwrap();
        match &item.content {
            Content::Symlink(target) => {
                assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes(), target)
            }
            Content::File(Bytes::Here(bytes)) => assert!(fs::read(&path).unwrap() == **bytes, "{}", item.path),
            _ => assert!(metadata.is_dir()),
        }
        if !metadata.is_symlink() {
            assert_eq!(metadata.permissions().mode() & 0o7777, item.mode, "{}", item.path);
        }
    }
}

/// An image of two layers, one of each compression, in a layout.
fn image(folder: &Path) -> (Layout, Vec<Item>) {
    let layout = Layout::open_or_create(folder).unwrap();
    let items = items();
    let (lower, upper): (Vec<Item>, Vec<Item>) =
        items.iter().cloned().partition(|item| item.path < ContextPath::new("n"));
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for (items, compression) in [(lower, Compression::Gzip), (upper, Compression::Zstd)] {
        let mut writer = layout.writer().unwrap();
        let written = write(&items, Codec::new(compression), 2, &mut writer).unwrap();
        writer.finish(Some(&written.descriptor.digest)).unwrap();
        layers.push(written.descriptor);
        diff_ids.push(written.diff_id);
    }
    let platform = Platform::host();
    let config = Config {
        created: None,
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        config: Execution::default(),
        rootfs: RootFs::new(diff_ids),
        history: Vec::new(),
        other: Default::default(),
    };
    let config = layout.put_json(media_type::CONFIG, &config).unwrap();
    let manifest = layout.put_json(media_type::MANIFEST, &Manifest::new(config, layers)).unwrap();
    layout.set("latest", &manifest).unwrap();
    (layout, items)
}

#[test]
fn skopeo_reads_and_recompresses_an_image_of_such_layers() {
    let Some(skopeo) = tool("skopeo") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (layout, items) = image(&folder.path().join("layout"));
    let source = format!("oci:{}:latest", layout.folder().display());
    let copied = folder.path().join("copied");
    // To plain layers: skopeo decompresses both, and compares with what they are named by.
    let target = format!("dir:{}", copied.display());
    let copy = Command::new(skopeo).args(["copy", "--insecure-policy", "--dest-decompress", &source, &target]);
    let output = copy.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let manifest: Manifest = serde_json::from_slice(&fs::read(copied.join("manifest.json")).unwrap()).unwrap();
    let config: Config = serde_json::from_slice(&fs::read(copied.join(manifest.config.digest.hex())).unwrap()).unwrap();
    let mut paths = Vec::new();
    for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
        assert_eq!(layer.digest, *diff_id, "it is the tar file itself now");
        let file = fs::File::open(copied.join(layer.digest.hex())).unwrap();
        let mut reader = Reader::open(file, Some(diff_id), Limits::default()).unwrap();
        while let Some(entry) = reader.next().unwrap() {
            paths.push(entry.path);
        }
    }
    paths.sort();
    assert_eq!(paths, items.into_iter().map(|item| item.path).collect::<Vec<_>>());
}

#[test]
fn umoci_unpacks_an_image_of_such_layers() {
    let Some(umoci) = tool("umoci") else { return };
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(&folder.path().join("layout")).unwrap();
    // Of zstd, Debian's umoci knows nothing.
    let items = items();
    let mut writer = layout.writer().unwrap();
    let written = write(&items, Codec::new(Compression::Gzip), 2, &mut writer).unwrap();
    writer.finish(None).unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [written.diff_id]},
    });
    let config = layout.put_json(media_type::CONFIG, &config).unwrap();
    let manifest = layout.put_json(media_type::MANIFEST, &Manifest::new(config, vec![written.descriptor])).unwrap();
    layout.set("latest", &manifest).unwrap();
    let bundle = folder.path().join("bundle");
    let image = format!("{}:latest", layout.folder().display());
    let unpack = Command::new(umoci).args(["unpack", "--rootless", "--image", &image]).arg(&bundle);
    let output = unpack.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    same_tree(&bundle.join("rootfs"), &items);
}

const MEASURED: &str = "XTASK_TEST_LAYER_OF";

/// Writes a layer where the test below asks this program to.
#[test]
fn write_a_large_layer() {
    let Some(path) = std::env::var_os(MEASURED).map(PathBuf::from) else { return };
    for (compression, size) in [(Compression::Zstd, 256 << 20), (Compression::Gzip, 2 << 30)] {
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        let items = [item("sparse", 0o644, Content::File(Bytes::At { file: path.clone(), size }))];
        let written = write(&items, Codec::new(compression), 2, std::io::sink()).unwrap();
        // Its group needs an extended header.
        assert_eq!(written.bytes, size + 3 * 512 + 1024);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap());
}

#[test]
#[allow(clippy::disallowed_methods, reason = "this test program again")]
fn memory_does_not_grow_with_a_file() {
    if !Path::new("/proc/self/status").is_file() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse");
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["layers::write_a_large_layer", "--exact", "--nocapture"])
        .env(MEASURED, &path)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let peak =
        said.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let peak = peak.unwrap_or_else(|| panic!("{said}"));
    assert!(peak < 64 << 10, "{peak} KiB");
}

const KILLED: &str = "XTASK_TEST_STORE";

/// Fills a store without an end, where the test below asks this program to.
#[test]
fn fill_a_store() {
    let Some(folder) = std::env::var_os(KILLED).map(PathBuf::from) else { return };
    for round in 0_u32.. {
        let store = Store::open(&folder, 3 << 20).unwrap();
        for number in 0..6_u32 {
            let recipe = Digest::of(&[round % 7, number].map(u32::to_le_bytes).concat());
            let text: Vec<u8> = (0..40_000 * number).flat_map(|one| (one ^ round).to_le_bytes()).collect();
            let items = [file("file", 0o644, text)];
            let written = store.write_layer(|sink| write(&items, Codec::new(Compression::Gzip), 2, sink)).unwrap();
            let layer = store.remember(&recipe, (written.descriptor, written.diff_id), None).unwrap();
            let opened = store.open_layer(&layer).unwrap().unwrap();
            let mut reader = Reader::open(opened, Some(&layer.diff_id), Limits::default()).unwrap();
            let toc = xtask_native::layer::toc::of(&mut reader).unwrap();
            store.put_toc(&layer.diff_id, &toc).unwrap();
        }
        store.prune().unwrap();
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "this test program again, killed by its handle")]
fn a_store_survives_killed_processes() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut seen = 0;
    for round in 0..30_u64 {
        let mut children: Vec<_> = (0..2)
            .map(|_| {
                std::process::Command::new(std::env::current_exe().unwrap())
                    .args(["layers::fill_a_store", "--exact", "--nocapture"])
                    .env(KILLED, &store)
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        // Steps that share no factor with what a round of the child takes.
        std::thread::sleep(Duration::from_micros(30_000 + round * 17_389 % 240_000));
        for child in &mut children {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        seen += whole(&store);
    }
    assert!(seen > 30, "{seen} layers were checked");
    let store = Store::open(&store, 0).unwrap();
    let pruned = store.prune().unwrap();
    assert_eq!((pruned.left, pruned.busy), (0, false));
}

/// Checks that everything the store lists is whole. Returns the number of layers.
fn whole(folder: &Path) -> usize {
    let store = Store::open(folder, u64::MAX).unwrap();
    let mut layers = 0;
    for note in fs::read_dir(folder.join("recipes")).unwrap() {
        let name = note.unwrap().file_name().into_string().unwrap();
        if name.starts_with(".partial-") {
            continue;
        }
        let recipe: Digest = format!("sha256:{name}").parse().unwrap();
        let layer = store.get(&recipe).unwrap().expect("a record of a layer that is missing");
        let file = store.open_layer(&layer).unwrap().expect("a layer that is not what it is named by");
        let mut reader = Reader::open(file, Some(&layer.diff_id), Limits::default()).unwrap();
        while reader.next().unwrap().is_some() {}
        layers += 1;
    }
    // Pruning with room for all only clears away; what was whole stays.
    let pruned = store.prune().unwrap();
    assert!(!pruned.busy);
    let partial = |part: &str| {
        fs::read_dir(folder.join(part))
            .unwrap()
            .any(|file| file.unwrap().file_name().to_string_lossy().starts_with(".partial-"))
    };
    assert!(!["recipes", "outlines", "blobs/sha256"].into_iter().any(partial));
    layers
}
