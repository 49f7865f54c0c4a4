//! Reads a bundle and brings it into a registry.

use super::{DOCUMENT, Document, Part, REPOSITORY, SINCE, is_attached};
use crate::http::transport::BlobSource;
use crate::registry::parallel::some_at_once;
use crate::registry::{Client, attach, publish};
use crate::signing::PublicKey;
use crate::{file, process};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use xtask_model::fault::Fault;
use xtask_model::spec::oci::{Descriptor, Index, Manifest, annotation};
use xtask_model::spec::reference::{Digest, Repository, Tag};
use xtask_model::supply::signature::{self, SIGNATURE};

/// Uploads at once.
const AT_ONCE: usize = 4;

/// Part of the archive.
#[derive(Clone, Debug)]
struct Region {
    path: PathBuf,
    at: u64,
    size: u64,
}

impl BlobSource for Region {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.at + offset))?;
        Ok(Box::new(file.take(self.size.saturating_sub(offset))))
    }
}

/// A bundle of which every byte was checked.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    blobs: BTreeMap<Digest, Region>,
    parts: BTreeMap<String, Part>,
}

/// Result of loading a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Loaded {
    /// Images by tag, or by digest where they have none.
    pub images: Vec<String>,
    pub sent: usize,
    pub bytes: u64,
    /// Blobs that the registry had.
    pub present: usize,
}

impl Bundle {
    /// Reads and checks a bundle: every blob is the one of its name, and every manifest has all that it names.
    ///
    /// # Errors
    /// It is damaged, or something else than a bundle.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let wrong = |why: String| Fault::usage(format!("the bundle `{}` is damaged", path.display())).cause(why);
        let file = File::open(path).map_err(|error| {
            Fault::usage(format!("cannot read the bundle `{}`", path.display()))
                .cause(error)
                .hint("name an archive that `cargo xtask bundle create` wrote")
        })?;
        let (mut blobs, mut index) = (BTreeMap::new(), None);
        let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 20, file));
        for entry in archive.entries_with_seek().map_err(|error| wrong(error.to_string()))? {
            process::interrupted()?;
            let mut entry = entry.map_err(|error| wrong(error.to_string()))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            if entry.header().entry_type().is_dir() {
                continue;
            }
            if !entry.header().entry_type().is_file() {
                return Err(wrong(format!("`{name}` is not a regular file")));
            }
            let digest = name.strip_prefix("blobs/sha256/").map(|hex| format!("sha256:{hex}").parse::<Digest>());
            match (name.as_str(), digest) {
                (_, Some(Ok(digest))) => {
                    let region = Region { path: path.to_owned(), at: entry.raw_file_position(), size: entry.size() };
                    let hashed = file::hash(&mut entry).map_err(|error| wrong(error.to_string()))?;
                    let (came, size) = hashed;
                    if came != digest || size != region.size {
                        return Err(wrong(format!("the blob `{digest}` has {size} bytes with the digest `{came}`")));
                    }
                    if blobs.insert(digest, region).is_some() {
                        return Err(wrong(format!("it has the blob `{digest}` twice")));
                    }
                }
                ("index.json", _) if index.is_none() => {
                    let mut bytes = Vec::new();
                    let read = entry.take(DOCUMENT + 1).read_to_end(&mut bytes);
                    read.map_err(|error| wrong(error.to_string()))?;
                    let read: Index = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
                    index = Some(read);
                }
                ("oci-layout", _) => {}
                _ => return Err(wrong(format!("it has `{name}`, which is not a part of a bundle"))),
            }
        }
        let index = index.ok_or_else(|| {
            wrong("it has no `index.json`: it is not whole, or not an archive of an OCI layout".to_owned())
        })?;
        let mut bundle = Self { path: path.to_owned(), blobs, parts: BTreeMap::new() };
        bundle.read(&index).map_err(wrong)?;
        Ok(bundle)
    }

    fn read(&mut self, index: &Index) -> Result<(), String> {
        let since = index.annotations.contains_key(SINCE);
        for listed in &index.manifests {
            let name = listed.annotations.get(REPOSITORY).ok_or("its index lists a manifest of no repository")?;
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
                return Err(format!("`{name}` is not the last part of a repository's name"));
            }
            let mut part = self.parts.remove(name).unwrap_or_default();
            if let Some(tag) = listed.annotations.get(annotation::REF_NAME) {
                tag.parse::<Tag>().map_err(|error| error.to_string())?;
                part.tags.insert(tag.clone(), listed.digest);
            }
            let mut open = vec![(listed.digest, listed.media_type.clone())];
            while let Some((digest, media_type)) = open.pop() {
                if part.documents.contains_key(&digest) {
                    continue;
                }
                let document = self.document(&digest, &media_type)?;
                #[derive(serde::Deserialize)]
                struct Lists {
                    #[serde(default)]
                    manifests: Vec<Descriptor>,
                }
                let lists: Lists = serde_json::from_slice(&document.bytes).map_err(|error| error.to_string())?;
                open.extend(lists.manifests.into_iter().map(|one| (one.digest, one.media_type)));
                part.documents.insert(digest, document);
            }
            self.parts.insert(name.clone(), part);
        }
        for blob in self.parts.values().flat_map(|part| part.documents.values()).flat_map(|one| &one.blobs) {
            match self.blobs.get(&blob.digest) {
                Some(region) if region.size != blob.size => {
                    return Err(format!("the blob `{}` has {} bytes, not {}", blob.digest, region.size, blob.size));
                }
                Some(_) => {}
                None if since => {}
                None => return Err(format!("it lacks the blob `{}`", blob.digest)),
            }
        }
        Ok(())
    }

    fn document(&self, digest: &Digest, media_type: &str) -> Result<Document, String> {
        let region = self.blobs.get(digest).ok_or_else(|| format!("it lacks the manifest `{digest}`"))?;
        if region.size > DOCUMENT {
            return Err(format!("the manifest `{digest}` has {} bytes", region.size));
        }
        Document::read(self.bytes(region)?, media_type).map_err(|error| format!("the manifest `{digest}`: {error}"))
    }

    fn bytes(&self, region: &Region) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let read = region.open(0).and_then(|mut reader| reader.read_to_end(&mut bytes));
        read.map(|_| bytes).map_err(|error| error.to_string())
    }

    /// Checks that each image is signed by a key. Returns their number.
    ///
    /// # Errors
    /// One is not.
    pub fn verify(&self, key: &PublicKey) -> Result<usize, Fault> {
        let mut signed = 0;
        for (name, part) in &self.parts {
            // What is attached is signed with what it is attached to, by the provenance.
            let attached = |digest: &Digest| {
                let by_tag = part.tags.iter().any(|(tag, of)| is_attached(tag) && of == digest);
                by_tag || part.documents.get(digest).is_some_and(|one| one.subject.is_some())
            };
            // What an index lists is signed with it, by digest.
            let inner: BTreeSet<&Digest> = part.documents.values().flat_map(|one| &one.lists).collect();
            for digest in part.documents.keys().filter(|digest| !attached(digest) && !inner.contains(digest)) {
                if !self.is_signed(part, digest, key) {
                    return Err(Fault::drift(format!("the bundle `{}` is not verified", self.path.display()))
                        .cause(format!("`{name}@{digest}` has no signature by this key")));
                }
                signed += 1;
            }
        }
        Ok(signed)
    }

    fn is_signed(&self, part: &Part, digest: &Digest, key: &PublicKey) -> bool {
        let tag = attach::tag_of(digest, Some("sig"));
        let manifest = part.tags.get(tag.as_str()).and_then(|digest| part.documents.get(digest));
        let manifest = manifest.and_then(|one| serde_json::from_slice::<Manifest>(&one.bytes).ok());
        manifest.is_some_and(|manifest| {
            manifest.layers.iter().any(|layer| {
                let payload = self.blobs.get(&layer.digest).filter(|region| region.size < DOCUMENT);
                let payload = payload.and_then(|region| self.bytes(region).ok()).unwrap_or_default();
                let signature = layer.annotations.get(SIGNATURE).map_or("", String::as_str);
                signature::signed_digest(&payload) == Some(*digest) && key.verifies(&payload, signature)
            })
        })
    }

    /// Sends what the registry lacks; tags come last. Called again after an interruption, it sends the rest.
    ///
    /// # Errors
    /// The registry refuses something, or lacks what the bundle leaves out.
    pub fn load(&self, client: &Client, to: &dyn Fn(&str) -> Repository) -> Result<Loaded, Fault> {
        let mut loaded = Loaded::default();
        let mut left_out = Vec::new();
        for (name, part) in &self.parts {
            let repository = to(name);
            let blobs: Vec<Digest> = part.blobs().into_keys().collect();
            let had = client.has_blobs(&repository, &blobs, AT_ONCE)?;
            loaded.present += had.iter().filter(|had| **had).count();
            let lacking = blobs.iter().zip(had).filter(|(_, had)| !had).map(|(digest, _)| *digest);
            let (here, elsewhere): (Vec<Digest>, Vec<Digest>) =
                lacking.partition(|digest| self.blobs.contains_key(digest));
            left_out.extend(elsewhere.into_iter().map(|digest| repository.digest(digest).to_string()));
            if !left_out.is_empty() {
                continue;
            }
            let bytes = some_at_once(AT_ONCE, &here, |digest| {
                let region = &self.blobs[digest];
                client.upload(&repository, digest, region.size, region)?;
                Ok(region.size)
            })?;
            loaded.sent += bytes.len();
            loaded.bytes += bytes.iter().sum::<u64>();
        }
        if let Some(first) = left_out.first() {
            return Err(Fault::usage(format!(
                "the bundle leaves out {} blobs that the registry lacks",
                left_out.len()
            ))
            .cause(format!("the first is `{first}`"))
            .hint("make it again without `--since`, or with what `cargo xtask bundle have` lists in this registry"));
        }
        for (name, part) in &self.parts {
            let repository = to(name);
            put(client, &repository, part)?;
            let untagged = part
                .documents
                .iter()
                .filter(|(digest, one)| one.subject.is_none() && !part.tags.values().any(|tagged| tagged == *digest));
            let inner: BTreeSet<&Digest> = part.documents.values().flat_map(|one| &one.lists).collect();
            let untagged = untagged.filter(|(digest, _)| !inner.contains(digest));
            loaded.images.extend(untagged.map(|(digest, _)| repository.digest(*digest).to_string()));
        }
        // Every repository is whole before the first tag moves.
        for (name, part) in &self.parts {
            let repository = to(name);
            for (tag, digest) in part.names() {
                process::interrupted()?;
                let tag: Tag =
                    tag.parse().map_err(|error| Fault::usage(format!("`{tag}` is not a tag")).cause(error))?;
                publish::tag(client, &repository, *digest, &tag)?;
                loaded.images.push(repository.tag(&tag).to_string());
            }
        }
        Ok(loaded)
    }
}

/// Writes manifests: those that are listed before those that list them, then what is attached, with cosign's tags.
fn put(client: &Client, repository: &Repository, part: &Part) -> Result<(), Fault> {
    let mut done: BTreeSet<Digest> = BTreeSet::new();
    let mut unlisted: BTreeMap<Digest, Vec<Descriptor>> = BTreeMap::new();
    while done.len() < part.documents.len() {
        process::interrupted()?;
        let subject = |one: &Document| one.subject.filter(|subject| part.documents.contains_key(subject));
        let ready: Vec<(&Digest, &Document)> = part
            .documents
            .iter()
            .filter(|(digest, _)| !done.contains(digest))
            .filter(|(_, one)| one.lists.iter().chain(&subject(one)).all(|needed| done.contains(needed)))
            .collect();
        if ready.is_empty() {
            return Err(Fault::usage("the manifests of the bundle need each other in a circle"));
        }
        let put = some_at_once(AT_ONCE, &ready, |(digest, one)| {
            client.put_with_subject(repository, **digest, &one.media_type, &one.bytes)
        })?;
        for ((digest, one), (_, listed)) in ready.into_iter().zip(put) {
            done.insert(*digest);
            if let (Some(subject), false) = (one.subject, listed) {
                let mut descriptor = one.descriptor(*digest);
                if let Ok(manifest) = serde_json::from_slice::<Manifest>(&one.bytes) {
                    descriptor.annotations = manifest.annotations;
                }
                unlisted.entry(subject).or_default().push(descriptor);
            }
        }
    }
    for (subject, listed) in unlisted {
        attach::list(client, repository, &subject, &listed)?;
    }
    for (tag, digest) in part.tags.iter().filter(|(tag, _)| is_attached(tag)) {
        let tag: Tag = tag.parse().map_err(|error| Fault::usage(format!("`{tag}` is not a tag")).cause(error))?;
        publish::tag(client, repository, *digest, &tag)?;
    }
    Ok(())
}
