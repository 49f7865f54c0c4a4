//! One private engine with its registry for all tests of a process, and a tiny root image in that registry.
//!
//! `XTASK_TEST_ENGINE_ROOT` names a folder whose `target/engine` is used and left running. Without it an engine is brought up
//! in a temporary folder, and a shell that waits for the end of this process takes it down, however that end comes.

use crate::busybox::{PROGRAMS, busybox};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::OnceLock;
use xtask_host::docker::debian;
use xtask_host::docker::engine::{self, State};
use xtask_host::process::Command;
use xtask_host::registry::layout::Layout;
use xtask_host::registry::publish;
use xtask_host::registry::{Client, ClientOptions};
use xtask_model::fault::Exit;
use xtask_model::spec::oci::{self, Descriptor, media_type};
use xtask_model::spec::reference::{Digest, Platform, Repository, Tag};

/// The engine and other things that a test needs.
pub struct Engine {
    pub state: State,
    /// The workspace-like folder in whose `target` it lives.
    pub root: PathBuf,
    busybox: PathBuf,
    /// Ends the engine when this process ends.
    _keeper: Option<Child>,
}

/// The engine, or `None`, said aloud, where this machine cannot have one.
pub fn engine() -> Option<&'static Engine> {
    static ENGINE: OnceLock<Option<Engine>> = OnceLock::new();
    ENGINE.get_or_init(|| possible().then(start)).as_ref().or_else(|| {
        println!("skipped: there is no engine");
        None
    })
}

fn possible() -> bool {
    let why = if !rustix::process::geteuid().is_root() {
        "not root"
    } else if debian::Host::read().is_err() {
        "not a Debian host"
    } else {
        return true;
    };
    assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "cannot run: {why}");
    println!("skipped: {why}");
    false
}

fn start() -> Engine {
    let (root, ours) = match std::env::var_os("XTASK_TEST_ENGINE_ROOT") {
        Some(root) => (PathBuf::from(root), false),
        None => (tempfile::tempdir().unwrap().keep(), true),
    };
    let keeper = ours.then(|| keep(&root));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let known = root.join("target/engine/state.json").is_file();
    let options = engine::EngineOptions { registry_port: (!known).then_some(port), ..engine::EngineOptions::default() };
    let state = engine::up(&root, &options).unwrap_or_else(|fault| panic!("{fault}"));
    let busybox = busybox(&root);
    let engine = Engine { state, root, busybox, _keeper: keeper };
    engine.push_root(&engine.root_repository(), "1", "");
    engine
}

/// A shell in a process group of its own that waits for our end of its stdin to close.
fn keep(root: &Path) -> Child {
    std::fs::write(root.join("images.toml"), "").unwrap();
    std::process::Command::new("sh")
        .args(["-c", "cat; \"$0\" --root \"$1\" engine down --purge && rm -rf -- \"$1\"", env!("CARGO_BIN_EXE_xtask")])
        .arg(root)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap()
}

impl Engine {
    /// The registry's host and port.
    pub fn registry(&self) -> &str {
        &self.state.registry
    }

    /// The folder of the engine.
    pub fn folder(&self) -> &Path {
        &self.state.folder
    }

    /// The registry's own program, for a registry of a test's own.
    pub fn registry_program(&self) -> PathBuf {
        self.state.folder.join("packages/usr/bin/docker-registry")
    }

    /// Repository of the tiny root, under tag `1`.
    pub fn root_repository(&self) -> Repository {
        format!("{}/e2e/root", self.registry()).parse().unwrap()
    }

    /// Calls the engine's docker; returns its stdout.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> String {
        self.command(args).read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"))
    }

    /// A call of the engine's docker.
    pub fn command(&self, args: &[&str]) -> Command {
        self.state.command().args(args)
    }

    /// Pushes busybox as an image for two platforms: nothing of it is run for the foreign one. Another `marker` makes
    /// another image. Returns the digest of the index.
    pub fn push_root(&self, repository: &Repository, tag: &str, marker: &str) -> Digest {
        self.push_root_with(repository, tag, &[("etc/marker", marker)])
    }

    /// The same with these files in it.
    pub fn push_root_with(&self, repository: &Repository, tag: &str, files: &[(&str, &str)]) -> Digest {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(&folder.path().join("layout")).unwrap();
        let client = Client::new(ClientOptions::default());
        let tar = self.system(files);
        let (diff, size) = layout.put_bytes(&tar).unwrap();
        let mut index = Vec::new();
        for architecture in ["amd64", "arm64"] {
            let platform: Platform = format!("linux/{architecture}").parse().unwrap();
            let config = serde_json::json!({
                "architecture": architecture, "os": "linux",
                "config": {"Env": ["PATH=/bin"]},
                "rootfs": {"type": "layers", "diff_ids": [diff]},
                "history": [{"created_by": "busybox"}],
            });
            let config = layout.put_json(media_type::CONFIG, &config).unwrap();
            let manifest = oci::Manifest::new(config, vec![Descriptor::new(media_type::LAYER, diff, size)]);
            let image = layout.put_json(media_type::MANIFEST, &manifest).unwrap();
            let own = Tag::from_name(&format!("{tag}-{architecture}")).unwrap();
            publish::send(&client, &layout, &image, repository, &own).unwrap_or_else(|fault| panic!("{fault}"));
            index.push(image.with_platform(&platform));
        }
        let bytes = serde_json::to_vec(&oci::Index::new(index)).unwrap();
        client.put_manifest(repository, tag.parse::<Tag>().unwrap(), media_type::INDEX, &bytes).unwrap();
        Digest::of(&bytes)
    }

    fn system(&self, files: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind: tar::EntryType, mode: u32, data: &[u8], link: Option<&str>| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(data.len() as u64);
            match link {
                Some(link) => tar.append_link(&mut header, path, link).unwrap(),
                None => tar.append_data(&mut header, path, data).unwrap(),
            }
        };
        for (folder, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("root/", 0o700)] {
            add(folder, tar::EntryType::Directory, mode, &[], None);
        }
        add("bin/busybox", tar::EntryType::Regular, 0o755, &std::fs::read(&self.busybox).unwrap(), None);
        for program in PROGRAMS {
            add(&format!("bin/{program}"), tar::EntryType::Symlink, 0o777, &[], Some("busybox"));
        }
        add("etc/passwd", tar::EntryType::Regular, 0o644, b"root:x:0:0:root:/root:/bin/sh\n", None);
        for (path, text) in files {
            add(path, tar::EntryType::Regular, 0o644, text.as_bytes(), None);
        }
        tar.into_inner().unwrap()
    }
}
