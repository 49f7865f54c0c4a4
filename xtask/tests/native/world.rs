//! A repository with a registry of its own behind a proxy, and what a test may ask of both.

use crate::fault_proxy::{FaultProxy, Request};
use crate::fixture::{Repo, client};
use crate::real_engine::engine;
use crate::real_registry::RealRegistry;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use xtask_host::registry::publish;
use xtask_host::registry::{Answer, Client};
use xtask_model::spec::oci::{Descriptor, Manifest};
use xtask_model::spec::reference::{Digest, Platform, Repository};
use xtask_native::layer::{Limits, Reader};

/// The repositories of the images.
pub(crate) const NAMES: [&str; 2] = ["app-base", "app"];

/// The repository, the proxy, and the folder that holds the registry's blobs.
pub(crate) struct World {
    pub repo: Repo,
    pub proxy: FaultProxy,
    store: PathBuf,
    /// Images that were read whole before.
    whole: RefCell<BTreeSet<Digest>>,
    /// Layers likewise, by repository, digest and uncompressed digest.
    layers: RefCell<BTreeSet<(String, Digest, Digest)>>,
    _registry: RealRegistry,
}

impl World {
    /// A committed repository that the native engine builds; nothing is published but the root.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let engine = engine()?;
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let registry = RealRegistry::start_at(&engine.registry_program(), folder, &store, false);
        let proxy = FaultProxy::before(registry.address);
        let repo = Repo::with_registry(name, &proxy.host())?;
        let world =
            Self { repo, proxy, store, whole: RefCell::default(), layers: RefCell::default(), _registry: registry };
        world.push_root();
        world.repo.for_native(&world.root());
        Some(world)
    }

    /// The folder of the registry.
    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    /// Repository of the root.
    pub(crate) fn root(&self) -> Repository {
        self.repo.repository("root")
    }

    fn push_root(&self) {
        self.repo.engine.push_root(&self.root(), "1", "");
    }

    /// Takes everything out of the registry but the root.
    pub(crate) fn wipe(&self) {
        std::fs::remove_dir_all(self.store.join("docker")).unwrap();
        self.whole.borrow_mut().clear();
        self.layers.borrow_mut().clear();
        self.push_root();
    }

    /// Takes a blob out of a repository, whatever names it.
    #[track_caller]
    pub(crate) fn lose(&self, name: &str, digest: &Digest) {
        let repository = self.repo.repository(name);
        let link = format!("docker/registry/v2/repositories/{}/_layers/sha256/{}", repository.path(), digest.hex());
        std::fs::remove_dir_all(self.store.join(link)).unwrap();
    }

    /// The manifest of this machine's image under a name.
    #[track_caller]
    pub(crate) fn manifest(&self, name: &str, tag: &str) -> Manifest {
        let found = self.repo.published(name, tag).unwrap_or_else(|| panic!("there is no `{name}:{tag}`"));
        let digest = found.platforms[&Platform::host()].digest;
        publish::read_manifest(&client(), &self.repo.repository(name), digest).unwrap()
    }

    /// Reads every image that a tag names to its last byte: documents, layers, their digests, compressed and not. What was whole
    /// once is not read again.
    #[track_caller]
    pub(crate) fn is_whole(&self) {
        let client = client();
        for name in NAMES {
            let repository = self.repo.repository(name);
            let Answer::Present(tags) = client.tags(&repository).unwrap() else { continue };
            for tag in tags {
                let Answer::Present(head) = client.head(&repository, tag.clone()).unwrap() else {
                    panic!("`{name}:{tag}` is in the index but missing from the registry")
                };
                if self.whole.borrow().contains(&head.digest) {
                    continue;
                }
                let found = publish::read(&client, &repository, head.digest).unwrap().present();
                let found = found.unwrap_or_else(|| panic!("`{name}:{tag}` names nothing"));
                assert!(found.platforms.contains_key(&Platform::host()), "`{name}:{tag}` lacks this platform");
                found.platforms.values().for_each(|image| self.read_whole(&client, &repository, image));
                self.whole.borrow_mut().insert(head.digest);
            }
        }
    }

    #[track_caller]
    fn read_whole(&self, client: &Client, repository: &Repository, image: &Descriptor) {
        let read = publish::read_manifest(client, repository, image.digest);
        let manifest = read.unwrap_or_else(|fault| panic!("{fault}"));
        let config = publish::read_config(client, repository, &manifest).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(manifest.layers.len(), config.rootfs.diff_ids.len(), "{image:?}");
        for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            let key = (repository.to_string(), layer.digest, *diff_id);
            if self.layers.borrow().contains(&key) {
                assert!(client.has_blob(repository, &layer.digest).unwrap(), "{layer:?}");
                continue;
            }
            let mut bytes = Vec::new();
            let answer = client.blob(repository, &layer.digest, layer.size, &mut bytes);
            assert_eq!(answer.unwrap_or_else(|fault| panic!("{fault}")), Answer::Present(()), "{layer:?}");
            let mut reader = Reader::open(BufReader::new(&bytes[..]), Some(diff_id), Limits::default()).unwrap();
            while reader.next().unwrap_or_else(|fault| panic!("{fault}")).is_some() {}
            self.layers.borrow_mut().insert(key);
        }
    }

    /// Requests to the registry while something is done.
    pub(crate) fn traffic<T>(&self, work: impl FnOnce() -> T) -> (T, Traffic) {
        let before = self.proxy.seen().len();
        let done = work();
        (done, Traffic(self.proxy.seen().split_off(before)))
    }
}

/// Requests, as the proxy saw them.
pub(crate) struct Traffic(pub Vec<Request>);

impl Traffic {
    fn of(&self, method: &str, part: &str) -> impl Iterator<Item = &Request> {
        self.0.iter().filter(move |request| request.method == method && request.target.contains(part))
    }

    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.of(method, part).count()
    }

    /// Requests that may change something.
    pub(crate) fn writes(&self) -> Vec<String> {
        let writes = self.0.iter().filter(|request| !matches!(request.method.as_str(), "GET" | "HEAD"));
        writes.map(|request| format!("{} {}", request.method, request.target)).collect()
    }

    /// The digests of the blobs that were sent whole, and the bytes of all that was sent.
    pub(crate) fn sent(&self) -> (BTreeSet<String>, u64) {
        let digests = self.of("PUT", "/blobs/uploads/").filter_map(|request| {
            let (_, digest) = request.target.split_once("digest=")?;
            Some(digest.split('&').next()?.replace("%3A", ":"))
        });
        let bytes = self.0.iter().filter(|request| request.target.contains("/blobs/")).map(|request| request.length);
        (digests.collect(), bytes.sum())
    }

    /// Number of times that each of these layers was read.
    pub(crate) fn read(&self, layers: &[Descriptor]) -> Vec<usize> {
        layers.iter().map(|layer| self.count("GET", &format!("/blobs/{}", layer.digest))).collect()
    }

    /// The blobs that were mounted from another repository.
    pub(crate) fn mounted(&self) -> usize {
        self.count("POST", "mount=sha256")
    }
}

/// All files below a folder with their contents.
pub(crate) fn listing(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            match entry.path() {
                path if kind.is_dir() => open.push(path),
                path if kind.is_file() => found.push((path.clone(), std::fs::read(&path).unwrap())),
                path => found.push((path, Vec::new())),
            }
        }
    }
    found.sort();
    found
}
