//! The work of a laptop on any system, by the real program: plan, explain, lock, doctor, and native builds on a root of a registry.
//!
//! The same test runs in the build for Linux and in the one without what needs Linux (`--cfg xtask_portable`). The layers of the
//! images are written down here, so that every system has to give the same. `XTASK_TEST_FULL` names an xtask for Linux: then both
//! programs have to give the same images, byte code included.

#![allow(clippy::disallowed_methods, reason = "the program under test, run as a person's shell would run it")]

#[path = "support/fault_proxy.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod fault_proxy;
#[path = "support/sources.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod sources;

use expect_test::{Expect, expect};
use fault_proxy::{Answer, FaultProxy};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use xtask_host::registry::layout::Layout;
use xtask_host::tree::uv::{self, Upgrade, Uv};
use xtask_model::spec::oci::{Config, Manifest, media_type};
use xtask_model::spec::project::Selection;
use xtask_model::spec::reference::{Digest, Platform};

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Platform of the images on every machine: files are copied, and nothing of the image runs.
const PLATFORM: &str = "linux/amd64";

/// A root image in a registry that has nothing else, and a repository whose images are built on it.
struct World {
    folder: tempfile::TempDir,
    platform: Platform,
    _registry: FaultProxy,
}

impl World {
    fn new(root: Vec<u8>, python: &str, platform: &str) -> Self {
        let registry = registry(root, python, platform);
        let folder = tempfile::tempdir().unwrap();
        let world = Self { folder, platform: platform.parse().unwrap(), _registry: registry };
        let minor = python.rsplit_once('.').unwrap().0;
        world.write(
            "images.toml",
            &format!(
                "[project]\nname = \"app\"\nregistry = \"{host}/team\"\nsource = \"https://example.com/app\"\n\
                 platforms = [\"{platform}\"]\nengine = \"native\"\n\n[root]\nimage = \"{host}/root:1\"\npython = \"{minor}\"\n\n\
                 [base]\n\n[base.stages]\nuser = \"user\"\n\n[app]\n",
                host = world._registry.host()
            ),
        );
        let base = sources::native_base("COPY --link dockerfiles/check.txt /opt/\n");
        world.write("dockerfiles/Dockerfile.base", &base).write("dockerfiles/Dockerfile.fast", sources::NATIVE_FAST);
        let root = world.folder.path();
        sources::begin(root);
        sources::code(root, "#!/bin/sh\necho tool\n", &sources::long());
        sources::lock(root, minor, "", &[]);
        world.git(&["init", "-q", "-b", "main"]);
        world
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        sources::write(self.folder.path(), path, text);
        self
    }

    #[track_caller]
    fn git(&self, args: &[&str]) {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.folder.path()).args(["-c", "user.name=a", "-c", "user.email=a@example.com"]);
        git.args(["-c", "commit.gpgsign=false"]).args(args);
        for name in ["GIT_COMMITTER_DATE", "GIT_AUTHOR_DATE"] {
            git.env(name, "1700000000 +0000");
        }
        assert!(git.status().unwrap().success(), "{args:?}");
    }

    fn commit(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
    }

    fn call(&self, program: &Path, args: &[&str]) -> Output {
        let mut call = Command::new(program);
        call.arg("--root").arg(self.folder.path()).args(args).env_clear().stdin(Stdio::null());
        for name in ["PATH", "LANG", "TMPDIR"] {
            call.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        // Nobody's credentials, and no engine.
        call.env("HOME", self.at("target")).env("XTASK_STORE", self.at("target/native/store"));
        call.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
        call.output().unwrap()
    }

    #[track_caller]
    fn said(&self, args: &[&str]) -> String {
        let output = self.call(Path::new(XTASK), args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {}\n{error}", output.status);
        String::from_utf8(output.stdout).unwrap() + &error
    }

    /// Builds everything from nothing with this program; the base's and the app's manifests.
    #[track_caller]
    fn built(&self, program: &Path) -> [(Digest, Manifest); 2] {
        for made in ["target/images", "target/native"] {
            let _ = std::fs::remove_dir_all(self.at(made));
        }
        let output = self.call(program, &["build", "--format", "json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let images = report["images"].as_array().unwrap();
        ["base", "app"].map(|kind| {
            let image = images.iter().find(|image| image["kind"] == kind).unwrap();
            let digest: Digest = image["digest"].as_str().unwrap().parse().unwrap();
            (digest, self.manifest(&digest))
        })
    }

    /// The manifest of this digest, or of the index of this digest, in one of the repository's layouts.
    #[track_caller]
    fn manifest(&self, digest: &Digest) -> Manifest {
        let images = self.at("target/images");
        let entries = std::fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().path());
        let folders = entries.chain([images]).filter(|folder| folder.join("oci-layout").is_file());
        for layout in folders.map(|folder| Layout::open_or_create(&folder).unwrap()) {
            for (_, descriptor) in layout.list().unwrap() {
                let Ok(Some(found)) = layout.manifest_for(&descriptor, &self.platform) else { continue };
                if [descriptor.digest, found.digest].contains(digest) {
                    return layout.read_json(&found).unwrap();
                }
            }
        }
        panic!("no image {digest}")
    }
}

/// A registry that has `root:1` and nothing else.
fn registry(root: Vec<u8>, python: &str, platform: &str) -> FaultProxy {
    let platform: Platform = platform.parse().unwrap();
    let mut gzip =
        flate2::GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), flate2::Compression::none());
    gzip.write_all(&root).unwrap();
    let layer = gzip.finish().unwrap();
    let config: Config = serde_json::from_value(json!({
        "architecture": platform.architecture, "os": "linux",
        "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin", format!("PYTHON_VERSION={python}")]},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&root)]},
    }))
    .unwrap();
    let config = serde_json::to_vec(&config).unwrap();
    let descriptor =
        |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::MANIFEST, "config": descriptor(media_type::CONFIG, &config),
        "layers": [descriptor(media_type::LAYER_GZIP, &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let blobs: BTreeMap<String, Vec<u8>> =
        [layer, config].map(|bytes| (format!("/v2/root/blobs/{}", Digest::of(&bytes)), bytes)).into();
    let named = ["1".to_owned(), Digest::of(&manifest).to_string()].map(|name| format!("/v2/root/manifests/{name}"));
    let registry = FaultProxy::alone();
    for method in ["GET", "HEAD"] {
        let (blobs, named, manifest) = (blobs.clone(), named.clone(), manifest.clone());
        registry.reply(method, "/v2/", move |request| match request.target.as_str() {
            "/v2/" => Answer::new(200).body("{}"),
            target if named.iter().any(|name| name == target) => Answer::new(200)
                .header("content-type", media_type::MANIFEST)
                .header("docker-content-digest", Digest::of(&manifest).to_string())
                .header("content-length", manifest.len().to_string())
                .body(manifest.clone()),
            target => match blobs.get(target) {
                Some(bytes) => Answer::new(200).body(bytes.clone()),
                None => Answer::new(404).body(r#"{"errors":[{"code":"NAME_UNKNOWN","message":"unknown"}]}"#),
            },
        });
    }
    registry
}

/// Adds a file to a layer: its path and mode.
fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, path, bytes).unwrap();
}

/// A root that looks as if it had a Python, and is the same on every machine.
fn small_root() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
    add(&mut tar, "etc/group", 0o644, b"root:x:0:\n");
    add(&mut tar, "usr/bin/python3", 0o755, b"no program\n");
    tar.into_inner().unwrap()
}

/// Compressed and uncompressed digests of a manifest's own layers, without those of its root.
fn layers([base, app]: &[(Digest, Manifest); 2], expected: Expect) {
    let mut text = String::new();
    for (kind, (_, manifest)) in [("base", base), ("app", app)] {
        for layer in &manifest.layers {
            text += &format!("{kind} {} {}\n", &layer.digest.hex()[..16], layer.size);
        }
    }
    expected.assert_eq(&text);
}

#[test]
fn images_have_the_same_layers_on_every_system() {
    let world = World::new(small_root(), "3.12.1", PLATFORM);
    world.commit("begin");
    let built = world.built(Path::new(XTASK));
    layers(
        &built,
        expect![[r#"
        base 200d82a44e2768b2 4119
        base 77ced17a6457056e 215
        base ac2e9fd62b11b80a 177
        base 854714c93ebc50ca 136
        base 1dd168de0b8e1aa8 105
        base 695313818e84711b 161
        app 200d82a44e2768b2 4119
        app 77ced17a6457056e 215
        app ac2e9fd62b11b80a 177
        app 854714c93ebc50ca 136
        app 1dd168de0b8e1aa8 105
        app 695313818e84711b 161
        app bfd70892448a0de5 206
        app e1a32b8064047676 748
        app 0c381562bacd1391 199
    "#]],
    );
    if let Some(full) = std::env::var_os("XTASK_TEST_FULL") {
        assert_eq!(world.built(Path::new(&full)), built, "the program for Linux gives other images");
    }
}

#[test]
fn questions_are_answered_without_linux() {
    let world = World::new(small_root(), "3.12.1", PLATFORM);
    world.commit("begin");
    world.write("templates/page.html", "<p>two</p>\n").commit("edit");
    assert!(world.said(&["plan", "--base", "HEAD~1", "--offline"]).contains("fast"));
    world.said(&["explain", "--offline"]);
    world.said(&["lock", "--check"]);
    let found: Value =
        serde_json::from_slice(&world.call(Path::new(XTASK), &["doctor", "--format", "json"]).stdout).unwrap();
    let found = found.get("findings").unwrap_or(&found);
    let bad: Vec<&Value> = found.as_array().unwrap().iter().filter(|finding| finding["state"] == "bad").collect();
    assert_eq!(bad, Vec::<&Value>::new());
}

#[cfg(not(all(target_os = "linux", not(xtask_portable))))]
#[test]
fn what_needs_linux_is_refused_with_a_way_out() {
    let world = World::new(small_root(), "3.12.1", PLATFORM);
    world.commit("begin");
    world.built(Path::new(XTASK));
    for (args, what) in [
        (&["engine", "up"][..], "a private Docker engine needs Linux"),
        (&["engine", "up", "--registry-only"], "a private registry needs Linux"),
        (&["engine", "status"], "the private engine needs Linux"),
        (&["run"], "running an image without an engine needs Linux"),
    ] {
        let output = world.call(Path::new(XTASK), args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(what) && said.contains("Docker Desktop"), "{said}");
    }
}

/// A Python of this machine: program, full version.
fn host_python() -> Option<(PathBuf, String)> {
    let told = "import sys; print(sys.executable); print('%d.%d.%d' % sys.version_info[:3])";
    let output = Command::new("python3").args(["-I", "-c", told]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (program, version) = text.trim().split_once('\n')?;
    Some((PathBuf::from(program), version.to_owned()))
}

/// A root with this machine's Python: the program, its library, and what its loader loads.
fn root_with_python(program: &Path, version: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
    add(&mut tar, "etc/group", 0o644, b"root:x:0:\n");
    add(&mut tar, "usr/bin/python3", 0o755, &std::fs::read(program.canonicalize().unwrap()).unwrap());
    let needed = Command::new("ldd").arg(program).output().unwrap();
    for line in String::from_utf8(needed.stdout).unwrap().lines() {
        // `libm.so.6 => /lib/…/libm.so.6 (0x…)`, and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
        let mut words = line.split_whitespace().filter(|word| word.starts_with('/'));
        let Some(path) = words.next() else { continue };
        let at = if line.contains("=>") {
            format!("usr/lib/{}", path.rsplit('/').next().unwrap())
        } else {
            path[1..].to_owned()
        };
        add(&mut tar, &at, 0o755, &std::fs::read(path).unwrap());
    }
    let folder = format!("python{}", version.rsplit_once('.').unwrap().0);
    let library = program.canonicalize().unwrap().parent().unwrap().parent().unwrap().join("lib").join(&folder);
    let mut open = vec![library.clone()];
    while let Some(next) = open.pop() {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap().to_str().unwrap();
            if ["__pycache__", "test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages"].contains(&name)
            {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else if path.is_file() && path.extension().is_some_and(|kind| kind == "py" || kind == "so") {
                let below = path.strip_prefix(&library).unwrap().to_str().unwrap();
                add(&mut tar, &format!("usr/lib/{folder}/{below}"), 0o644, &std::fs::read(&path).unwrap());
            }
        }
    }
    tar.into_inner().unwrap()
}

/// Writes a wheel of a package with modules enough for byte code that differs where anything can.
const WHEEL: &str = r#"
import base64, hashlib, sys, zipfile
name, info = "made_up", "made_up-1.0.dist-info"
files = {f"{name}/m{n}.py": f"import os\nKIND = {{'http', 'https', 'n{n}'}}\ndef open(x={n}.5): return 'a.b' in ('n{n}', b'x')\n" for n in range(60)}
files[f"{name}/__init__.py"] = ""
files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n"
files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
hashed = lambda text: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
files[f"{info}/RECORD"] = "".join(f"{path},sha256={hashed(text)},{len(text)}\n" for path, text in files.items()) + f"{info}/RECORD,,\n"
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    for path, text in files.items():
        wheel.writestr(zipfile.ZipInfo(path), text)
"#;

/// The stage that installs packages, before the one that makes the user, and its files in the base.
fn with_packages(world: &World, uv: &Uv, python: &str) {
    let wheels = world.at("target/wheels");
    std::fs::create_dir_all(&wheels).unwrap();
    let wheel = wheels.join("made_up-1.0-py3-none-any.whl");
    assert!(Command::new("python3").args(["-I", "-c", WHEEL]).arg(&wheel).status().unwrap().success());
    for name in ["Dockerfile.base", "install.py", "compile.py", "check-imports.py"] {
        std::fs::copy(Path::new(REPOSITORY).join("dockerfiles").join(name), world.at("dockerfiles").join(name))
            .unwrap();
    }
    let text = std::fs::read_to_string(world.at("images.toml")).unwrap();
    world.write("images.toml", &text.replace("user = \"user\"", "packages = \"python-packages\"\nuser = \"user\""));
    let wanted = format!("--no-index\n--find-links {}\nmade-up==1.0\n", wheels.display());
    world.write("requirements-enhanced.txt", &wanted);
    let pin = format!("uv=={} \\\n    --hash=sha256:{}\n", uv.version(), "0".repeat(64));
    world.write("dockerfiles/installer.lock", &pin);
    std::fs::create_dir_all(world.at("target/tools/bin")).unwrap();
    std::os::unix::fs::symlink(uv.program(), world.at("target/tools/bin/uv")).unwrap();
    std::fs::remove_file(world.at("requirements-enhanced.lock")).unwrap();
    let request = uv::Request {
        root: world.folder.path(),
        requirements: &vec!["requirements-enhanced.txt".parse().unwrap()].into(),
        selection: &Selection::default(),
        lock: Path::new("requirements-enhanced.lock"),
        python: python.rsplit_once('.').unwrap().0,
        upgrade: &Upgrade::Keep,
    };
    world.write("requirements-enhanced.lock", &uv.resolve(&request).unwrap_or_else(|fault| panic!("{fault}")));
}

#[test]
fn byte_code_is_the_same_by_this_machines_python_as_by_the_roots() {
    let skipped = |why: &str| {
        assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "cannot run: {why}");
        println!("skipped: {why}");
    };
    let extra: Vec<PathBuf> = std::env::var_os("XTASK_TEST_UV").into_iter().map(PathBuf::from).collect();
    let Ok(uv) = uv::find(Path::new(REPOSITORY), &extra) else { return skipped("no uv") };
    let Some((program, version)) = host_python() else { return skipped("no `python3` on the PATH") };
    let full = std::env::var_os("XTASK_TEST_FULL").map(PathBuf::from);
    let root = if full.is_some() || cfg!(all(target_os = "linux", not(xtask_portable))) {
        root_with_python(&program, &version)
    } else {
        small_root()
    };
    let world = World::new(root, &version, &Platform::host().to_string());
    with_packages(&world, &uv, &version);
    world.commit("packages");
    let built = world.built(Path::new(XTASK));
    if let Some(full) = full {
        assert_eq!(world.built(&full), built, "the program for Linux gives other images");
    }
}

#[cfg(not(all(target_os = "linux", not(xtask_portable))))]
#[test]
fn a_missing_python_is_named_before_anything_is_installed() {
    let Ok(uv) = uv::find(Path::new(REPOSITORY), &[]) else { return println!("skipped: no uv") };
    let Some((_, version)) = host_python() else { return println!("skipped: no `python3` on the PATH") };
    // No machine has it.
    let world = World::new(small_root(), "3.99.0", &Platform::host().to_string());
    with_packages(&world, &uv, &version);
    world.commit("packages");
    let output = world.call(Path::new(XTASK), &["build"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("no Python 3.99 on the PATH") && said.contains("uv python install 3.99"), "{said}");
}
