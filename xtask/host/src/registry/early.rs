//! Answers of a registry that a command needs later, asked for while it does something else.
//!
//! An early answer counts for five seconds. That of a tag counts once, and only until this client writes to its repository: whoever
//! looks at the tag again asks the registry.

use super::loopback::Documents;
use super::{Client, Name, RawManifest};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use xtask_model::spec::oci::{Index, Manifest};
use xtask_model::spec::reference::{Digest, Repository, Tag};

/// Time for which an early answer counts: it covers one command that does not wait for anything.
const FRESH: Duration = Duration::from_secs(5);

/// Questions about one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Questions {
    /// Manifests and indexes that were read or asked for, by tag or digest.
    pub manifests: BTreeSet<String>,
    /// Configurations that were read.
    pub configs: BTreeSet<Digest>,
    /// Blobs that the repository has.
    pub blobs: BTreeSet<Digest>,
}

/// Questions that a client has asked, and the answers that came early.
#[derive(Default)]
pub(super) struct Early {
    /// Held while manifests are asked for: whoever needs one waits for it.
    documents_under_way: Mutex<()>,
    /// The same for blobs.
    blobs_under_way: Mutex<()>,
    manifests: Mutex<BTreeMap<(Repository, Name), (Instant, RawManifest)>>,
    /// Blobs that a repository has, as it said at this time.
    blobs: Mutex<BTreeMap<(Repository, Digest), Instant>>,
    asked: Mutex<BTreeMap<Repository, Questions>>,
    /// The tags that are asked from now on belong to what is built, and are of no use to the next command.
    building: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Early {
    /// Notes that a manifest is asked for.
    pub(super) fn note_manifest(&self, repository: &Repository, name: &Name) {
        if !self.building.load(Ordering::Relaxed) {
            lock(&self.asked).entry(repository.clone()).or_default().manifests.insert(name.to_string());
        }
    }

    /// Notes that somebody needs to know of a blob.
    fn note_blob(&self, repository: &Repository, digest: &Digest) {
        lock(&self.asked).entry(repository.clone()).or_default().blobs.insert(*digest);
    }

    /// Notes that a manifest was read for what it says, however old the answer.
    pub(super) fn note_document(&self, repository: &Repository, digest: Digest) {
        lock(&self.asked).entry(repository.clone()).or_default().manifests.insert(digest.to_string());
    }

    /// Notes that a configuration was read.
    pub(super) fn note_config(&self, repository: &Repository, digest: Digest) {
        lock(&self.asked).entry(repository.clone()).or_default().configs.insert(digest);
    }

    /// An early answer that still counts.
    pub(super) fn take(&self, repository: &Repository, name: &Name) -> Option<RawManifest> {
        drop(lock(&self.documents_under_way));
        let mut manifests = lock(&self.manifests);
        let key = (repository.clone(), name.clone());
        let (at, manifest) = match name {
            Name::Tag(_) => manifests.remove(&key)?,
            Name::Digest(_) => manifests.get(&key)?.clone(),
        };
        (at.elapsed() < FRESH).then_some(manifest)
    }

    /// True if there is an early answer.
    #[cfg(test)]
    fn has(&self, repository: &Repository, tag: &Tag) -> bool {
        drop(lock(&self.documents_under_way));
        lock(&self.manifests).contains_key(&(repository.clone(), Name::from(tag)))
    }

    /// Forgets the answers about a repository's manifests: it is being written to.
    pub(super) fn forget(&self, repository: &Repository) {
        drop(lock(&self.documents_under_way));
        lock(&self.manifests).retain(|(of, _), _| of != repository);
    }

    fn forget_all(&self) {
        self.building.store(true, Ordering::Relaxed);
        drop(lock(&self.documents_under_way));
        lock(&self.manifests).clear();
    }
}

impl Client {
    /// Asks these questions before anything needs the answers. A registry that does not answer is asked again when it matters, and
    /// the fault is reported then. Manifests are asked for only on this machine.
    pub fn ask_early(&self, questions: &BTreeMap<Repository, Questions>) {
        let blobs_wait = lock(&self.early.blobs_under_way);
        let documents_wait = lock(&self.early.documents_under_way);
        for (repository, asked) in questions {
            self.ask_for_documents_early(repository, asked);
        }
        drop(documents_wait);
        for (repository, asked) in questions {
            self.ask_for_blobs_early(repository, &asked.blobs);
        }
        drop(blobs_wait);
    }

    /// Asks for the images of these tags and for all their parts before anything needs the answers, where it is not known which of them
    /// a command needs.
    pub fn ask_for_images_early(&self, images: &BTreeMap<Repository, BTreeSet<Tag>>) {
        let blobs_wait = lock(&self.early.blobs_under_way);
        let documents_wait = lock(&self.early.documents_under_way);
        let mut layers = Vec::new();
        for (repository, tags) in images {
            let mut asked = Questions { manifests: tags.iter().map(Tag::to_string).collect(), ..Questions::default() };
            let tagged = self.ask_for_documents_early(repository, &asked);
            let indexes = tagged.iter().filter_map(|found| serde_json::from_slice::<Index>(&found.bytes).ok());
            asked.manifests =
                indexes.flat_map(|index| index.manifests).map(|listed| listed.digest.to_string()).collect();
            let found = self.ask_for_documents_early(repository, &asked);
            let parts: Vec<Manifest> =
                found.iter().filter_map(|found| serde_json::from_slice(&found.bytes).ok()).collect();
            let configs = parts.iter().map(|manifest| manifest.config.digest).collect();
            self.ask_for_documents_early(repository, &Questions { configs, ..Questions::default() });
            let blobs: BTreeSet<Digest> =
                parts.iter().flat_map(|manifest| &manifest.layers).map(|layer| layer.digest).collect();
            layers.push((repository, blobs));
        }
        drop(documents_wait);
        layers.iter().for_each(|(repository, blobs)| self.ask_for_blobs_early(repository, blobs));
        drop(blobs_wait);
    }

    fn ask_for_blobs_early(&self, repository: &Repository, blobs: &BTreeSet<Digest>) {
        let seen = |digest: &&Digest| !lock(&self.early.blobs).contains_key(&(repository.clone(), **digest));
        let digests: Vec<Digest> = blobs.iter().filter(seen).copied().collect();
        let found = self.ask_for_blobs(repository, &digests, 2).unwrap_or_default();
        let present = digests.iter().zip(found).filter(|(_, found)| *found);
        present.for_each(|(digest, _)| self.saw_blob(repository, digest));
    }

    /// Returns the manifests that the registry has.
    fn ask_for_documents_early(&self, repository: &Repository, asked: &Questions) -> Vec<RawManifest> {
        let name = |text: &String| match text.parse() {
            Ok(digest) => Some(Name::Digest(digest)),
            Err(_) => text.parse::<Tag>().ok().map(Name::Tag),
        };
        let names: Vec<Name> = asked.manifests.iter().filter_map(name).collect();
        let configs: Vec<Digest> = asked.configs.iter().copied().collect();
        let Documents { manifests, configs } =
            self.documents_in_a_row(repository, &names, &configs).unwrap_or_default();
        for (digest, bytes) in configs {
            self.remember_document(repository, digest, &bytes);
            self.saw_blob(repository, &digest);
        }
        let now = Instant::now();
        for (name, manifest) in &manifests {
            self.remember_document(repository, manifest.digest, &manifest.bytes);
            lock(&self.early.manifests).insert((repository.clone(), name.clone()), (now, manifest.clone()));
        }
        manifests.into_iter().map(|(_, manifest)| manifest).collect()
    }

    /// The questions that were asked since the client was made, without those that were only asked early: a list of them would never
    /// become shorter.
    pub fn asked(&self) -> BTreeMap<Repository, Questions> {
        lock(&self.early.asked).clone()
    }

    /// Forgets early answers about manifests, before something is built: this and other programs may write to their repositories from
    /// now on.
    pub fn forget_early(&self) {
        self.early.forget_all();
    }

    /// True if the repository has just said that it has the blob.
    pub fn had_blob(&self, repository: &Repository, digest: &Digest) -> bool {
        drop(lock(&self.early.blobs_under_way));
        let had = self.just_saw_blob(repository, digest);
        if had {
            self.early.note_blob(repository, digest);
        }
        had
    }

    /// Remembers that the repository has a blob about which it was asked.
    pub(super) fn found_blob(&self, repository: &Repository, digest: &Digest) {
        self.early.note_blob(repository, digest);
        self.saw_blob(repository, digest);
    }

    /// True if it has just said so, without a note for the next command to ask early.
    pub(super) fn just_saw_blob(&self, repository: &Repository, digest: &Digest) -> bool {
        let known = lock(&self.early.blobs);
        known.get(&(repository.clone(), *digest)).is_some_and(|asked| asked.elapsed() < FRESH)
    }

    pub(super) fn saw_blob(&self, repository: &Repository, digest: &Digest) {
        lock(&self.early.blobs).insert((repository.clone(), *digest), Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::ClientOptions;
    use crate::registry::publish::{self, completeness};
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::sync::atomic::AtomicUsize;
    use xtask_model::image::key::FINGERPRINT_LABEL;
    use xtask_model::spec::oci::{Descriptor, media_type};

    const INDEX: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

    fn with_registry(check: impl FnOnce(&Client, &Repository, &AtomicUsize)) {
        with_registry_of(&[], |client, repository, read, _| check(client, repository, read));
    }

    /// A registry that has these documents by the ends of their paths, `INDEX` under every other name, and takes everything; the number
    /// of manifests that were read, and of all requests.
    fn with_registry_of(
        documents: &[(String, &str, String)],
        check: impl FnOnce(&Client, &Repository, &AtomicUsize, &AtomicUsize),
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (read, all, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for connection in listener.incoming() {
                    if done.load(Ordering::SeqCst) == 1 {
                        break;
                    }
                    let mut connection = BufReader::new(connection.unwrap());
                    let (read, all) = (&read, &all);
                    scope.spawn(move || serve(&mut connection, documents, read, all));
                }
            });
            let repository: Repository = format!("{address}/some/app").parse().unwrap();
            let client = Client::new(ClientOptions { tries: 1, ..ClientOptions::default() });
            check(&client, &repository, &read, &all);
            drop(client);
            done.store(1, Ordering::SeqCst);
            drop(std::net::TcpStream::connect(address).unwrap());
        });
    }

    fn serve(
        connection: &mut BufReader<std::net::TcpStream>,
        documents: &[(String, &str, String)],
        read: &AtomicUsize,
        all: &AtomicUsize,
    ) {
        loop {
            let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
            if connection.read_line(&mut first).unwrap_or(0) == 0 {
                return;
            }
            while connection.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            std::io::copy(&mut std::io::Read::take(&mut *connection, length), &mut std::io::sink()).unwrap();
            all.fetch_add(1, Ordering::SeqCst);
            let path = first.split(' ').nth(1).unwrap_or_default();
            let document = documents.iter().find(|(name, ..)| first.starts_with("GET ") && path.ends_with(name));
            let answer = if let Some((_, kind, text)) = document {
                let bytes = text.len();
                format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {bytes}\r\n\r\n{text}")
            } else if first.starts_with("GET /v2/some/app/manifests/") {
                read.fetch_add(1, Ordering::SeqCst);
                let (kind, bytes) = (media_type::INDEX, INDEX.len());
                format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {bytes}\r\n\r\n{INDEX}")
            } else if first.starts_with("PUT ") {
                "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n".to_owned()
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()
            };
            if connection.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn tag(name: &str) -> Tag {
        name.parse().unwrap()
    }

    #[test]
    fn an_early_answer_about_a_tag_counts_once_and_until_a_write() {
        with_registry(|client, repository, read| {
            let digest = Digest::of(INDEX.as_bytes());
            let names = ["main", "latest", "1.0"].map(str::to_owned).into_iter().chain([digest.to_string()]);
            let asked = Questions { manifests: names.collect(), ..Questions::default() };
            client.ask_early(&BTreeMap::from([(repository.clone(), asked)]));
            assert_eq!(read.load(Ordering::SeqCst), 4);
            assert!(client.early.has(repository, &tag("main")));
            assert!(client.manifest(repository, tag("main")).unwrap().present().is_some());
            assert_eq!(read.load(Ordering::SeqCst), 4, "the early answer");
            assert!(!client.early.has(repository, &tag("main")));
            client.manifest(repository, tag("main")).unwrap();
            assert_eq!(read.load(Ordering::SeqCst), 5, "asked again");
            for _ in 0..2 {
                client.manifest(repository, digest).unwrap();
            }
            assert_eq!(read.load(Ordering::SeqCst), 5, "what a digest names does not change");
            assert_eq!(client.head(repository, tag("latest")).unwrap().present().unwrap().digest, digest);
            client.put_manifest(repository, tag("other"), media_type::INDEX, INDEX.as_bytes()).unwrap();
            assert!(!client.early.has(repository, &tag("1.0")));
            let asked = Questions { manifests: BTreeSet::from(["1.1".to_owned()]), ..Questions::default() };
            client.ask_early(&BTreeMap::from([(repository.clone(), asked)]));
            client.forget_early();
            assert!(!client.early.has(repository, &tag("1.1")));
            read.fetch_sub(1, Ordering::SeqCst);
            client.manifest(repository, tag("1.0")).unwrap();
            assert_eq!(read.load(Ordering::SeqCst), 6, "a write ends what came early");
        });
    }

    #[test]
    fn an_image_that_came_early_is_read_and_checked_without_a_question() {
        let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#.to_owned();
        let part = |media_type: &str, bytes: &[u8]| Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64);
        let layers = [&b"one"[..], b"two"].map(|layer| part(media_type::LAYER_GZIP, layer)).to_vec();
        let manifest = Manifest::new(part(media_type::CONFIG, config.as_bytes()), layers);
        let manifest = serde_json::to_string(&manifest).unwrap();
        let listed = part(media_type::MANIFEST, manifest.as_bytes()).with_platform(&"linux/amd64".parse().unwrap());
        let mut index = Index::new(vec![listed]);
        index.annotations.insert(FINGERPRINT_LABEL.to_owned(), "0".repeat(64));
        let index = serde_json::to_string(&index).unwrap();
        let digest = |text: &String| Digest::of(text.as_bytes()).to_string();
        let documents = [
            (digest(&config), "application/octet-stream", config),
            (digest(&manifest), media_type::MANIFEST, manifest),
            ("latest".to_owned(), media_type::INDEX, index),
        ];
        with_registry_of(&documents, |client, repository, _, all| {
            let tags = BTreeSet::from([Tag::latest()]);
            client.ask_for_images_early(&BTreeMap::from([(repository.clone(), tags)]));
            let asked = all.load(Ordering::SeqCst);
            assert_eq!(asked, 5, "index, manifest, configuration and two layers");
            let mut found = publish::read(client, repository, Tag::latest()).unwrap().present().unwrap();
            completeness::check(&mut found, client, repository).unwrap();
            assert!(found.lost.is_empty() && found.platforms.len() == 1);
            let manifest = found.platforms.values().next().unwrap().digest;
            let manifest = publish::read_manifest(client, repository, manifest).unwrap();
            assert_eq!(publish::read_config(client, repository, &manifest).unwrap().os, "linux");
            assert_eq!(all.load(Ordering::SeqCst), asked);
            let listed = &client.asked()[repository];
            assert_eq!(listed.manifests.len(), 2, "the next command asks for them by name");
            assert_eq!(listed.blobs.len(), 3);
        });
    }

    #[test]
    fn questions_are_remembered_by_kind() {
        with_registry(|client, repository, _| {
            client.manifest(repository, tag("main")).unwrap();
            assert!(client.has_blob(repository, &Digest::of(b"layer")).unwrap());
            let asked = client.asked().remove(repository).unwrap();
            assert_eq!(asked.manifests, BTreeSet::from(["main".to_owned()]));
            assert_eq!(asked.blobs, BTreeSet::from([Digest::of(b"layer")]));
            let text = serde_json::to_string(&asked).unwrap();
            let next = Client::new(ClientOptions { tries: 1, ..ClientOptions::default() });
            let unneeded = Questions { blobs: BTreeSet::from([Digest::of(b"old layer")]), ..asked.clone() };
            next.ask_early(&BTreeMap::from([(repository.clone(), unneeded)]));
            assert!(next.has_blobs(repository, &[Digest::of(b"layer")], 1).unwrap()[0]);
            let needed = next.asked().remove(repository).unwrap();
            assert_eq!(needed.blobs, asked.blobs, "what nobody needed is not asked again");
            assert_eq!(serde_json::from_str::<Questions>(&text).unwrap(), asked);
        });
    }
}
