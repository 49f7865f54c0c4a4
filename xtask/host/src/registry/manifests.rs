//! Manifests and indexes: reading, asking, writing, deleting (distribution specification, "Pulling manifests" and following).
//!
//! Bytes are believed only with their digest; what they mean is not looked at, but for the media type they state.

use super::http::error_response::ErrorResponse;
use super::http::exchange::{ApiRequest, pull, push};
use super::{Answer, Client};
use crate::http::transport::{ExchangeError, HttpResponse, Payload};
use crate::http::url::encode;
use serde::Deserialize;
use std::fmt;
use std::time::Duration;
use ureq::http::Method;
use xtask_model::fault::Fault;
use xtask_model::spec::reference::{Digest, Reference, Repository, Tag};

/// The specification makes registries take 4 MiB; nobody's manifest is longer.
pub(super) const LONGEST: u64 = 4 << 20;

/// The pauses before a registry is asked again whether it lacks what a manifest names. distribution empties a blob's link
/// before it writes it again, so another job that sends the same blob hides it for a moment:
/// <https://github.com/distribution/distribution/issues/4489>.
const HIDDEN: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(100)];

pub(super) const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// By what a manifest is called within its repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A tag, which may move.
    Tag(Tag),
    /// A digest, which cannot.
    Digest(Digest),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl From<&Tag> for Name {
    fn from(tag: &Tag) -> Self {
        Self::Tag(tag.clone())
    }
}

impl From<Tag> for Name {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

impl From<Digest> for Name {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl From<&Digest> for Name {
    fn from(digest: &Digest) -> Self {
        Self::Digest(*digest)
    }
}

impl Name {
    pub(super) fn of(&self, repository: &Repository) -> Reference {
        match self {
            Self::Tag(tag) => repository.tag(tag),
            Self::Digest(digest) => repository.digest(*digest),
        }
    }
}

/// A manifest or index as the registry keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawManifest {
    /// The bytes over which the digest is.
    pub bytes: Vec<u8>,
    /// One of the OCI and docker types of manifests and indexes.
    pub media_type: String,
    /// The digest of the bytes.
    pub digest: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub media_type: String,
    pub digest: Digest,
    /// Its length in bytes, where the registry says it.
    pub size: Option<u64>,
}

#[derive(Deserialize)]
struct Stated {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
}

impl Client {
    /// Reads a manifest or index. Its digest is checked against the bytes, the name and the registry's own word.
    pub fn manifest(&self, repository: &Repository, name: impl Into<Name>) -> Result<Answer<RawManifest>, Fault> {
        let name = name.into();
        self.early.note_manifest(repository, &name);
        if let Some(manifest) = self.early.take(repository, &name) {
            return Ok(Answer::Present(manifest));
        }
        self.manifest_now(repository, name)
    }

    /// The manifest of a digest, as this client has read or written it before; else as the registry has it. For what is written next:
    /// a registry refuses a manifest whose parts it has lost.
    pub fn manifest_as_known(&self, repository: &Repository, digest: Digest) -> Result<Answer<RawManifest>, Fault> {
        let known = self.document(repository, digest);
        match known.and_then(|bytes| understood(bytes.to_vec(), None, Some(digest), &Name::Digest(digest)).ok()) {
            Some(known) => Ok(Answer::Present(known)),
            None => self.manifest(repository, digest),
        }
    }

    pub(super) fn manifest_now(&self, repository: &Repository, name: Name) -> Result<Answer<RawManifest>, Fault> {
        let what = format!("cannot read the manifest `{}`", name.of(repository));
        let (endpoint, url) = self.of(repository, &format!("manifests/{name}"))?;
        let ask = ApiRequest::new(&what, Method::GET, url, pull(repository)).header("accept", ACCEPTED.join(", "));
        let read = self.send(&endpoint, &ask, |reply| match reply.status {
            200 => checked(reply, &name).map(Ok),
            _ => Ok(Err(ErrorResponse::read(reply))),
        })?;
        match read {
            Ok(manifest) => {
                self.proven().insert(endpoint.name);
                self.remember_document(repository, manifest.digest, &manifest.bytes);
                Ok(Answer::Present(manifest))
            }
            Err(refusal) => self.absent(&endpoint, &what, &refusal),
        }
    }

    /// Asks for a manifest's type, digest and length. A registry that does not say the digest is asked for the manifest.
    pub fn head(&self, repository: &Repository, name: impl Into<Name>) -> Result<Answer<Head>, Fault> {
        let name = name.into();
        self.early.note_manifest(repository, &name);
        if let Some(found) = self.early.take(repository, &name) {
            return Ok(Answer::Present(Head {
                size: Some(found.bytes.len() as u64),
                media_type: found.media_type,
                digest: found.digest,
            }));
        }
        let what = format!("cannot ask for the manifest `{}`", name.of(repository));
        let (endpoint, url) = self.of(repository, &format!("manifests/{name}"))?;
        let ask = ApiRequest::new(&what, Method::HEAD, url, pull(repository)).header("accept", ACCEPTED.join(", "));
        let reply = match self.send_short(&endpoint, &ask, &[200])? {
            Ok(reply) => reply,
            Err(refusal) => return self.absent(&endpoint, &what, &refusal),
        };
        let said = said_digest(&reply).map_err(|broken| broken.fault(&what))?;
        let (Some(said), Some(media_type)) = (said, reply.media_type()) else {
            let size = |manifest: &RawManifest| Some(manifest.bytes.len() as u64);
            return Ok(self.manifest(repository, name)?.map(|manifest| Head {
                size: size(&manifest),
                media_type: manifest.media_type,
                digest: manifest.digest,
            }));
        };
        accepted(&reply, &media_type).map_err(|broken| broken.fault(&what))?;
        if let Name::Digest(asked) = name
            && asked != said
        {
            return Err(Fault::network(what).cause(format!("the registry answers with the digest `{said}`")));
        }
        Ok(Answer::Present(Head { media_type, digest: said, size: reply.length() }))
    }

    /// Writes a manifest or index, whose blobs exist already. Returns the digest of the bytes.
    pub fn put_manifest(
        &self,
        repository: &Repository,
        name: impl Into<Name>,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, Fault> {
        self.put_with_subject(repository, name, media_type, bytes).map(|(digest, _)| digest)
    }

    /// Writes a manifest. Returns true too if the registry says that it lists it as a referrer of its subject.
    pub(super) fn put_with_subject(
        &self,
        repository: &Repository,
        name: impl Into<Name>,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(Digest, bool), Fault> {
        let (name, digest) = (name.into(), Digest::of(bytes));
        self.early.forget(repository);
        let what = format!("cannot write the manifest `{}`", name.of(repository));
        if let Name::Digest(asked) = name
            && asked != digest
        {
            return Err(Fault::network(what).cause(format!("the digest of its bytes is `{digest}`")));
        }
        let (endpoint, url) = self.of(repository, &format!("manifests/{name}"))?;
        let ask = ApiRequest::new(&what, Method::PUT, url, push(repository))
            .header("content-type", media_type)
            .payload(Payload::Bytes(bytes));
        let mut again = HIDDEN.into_iter();
        let reply = loop {
            match self.send_short(&endpoint, &ask, &[201, 200, 202])? {
                Ok(reply) => break reply,
                Err(refusal) => match again.next().filter(|_| refusal.has("MANIFEST_BLOB_UNKNOWN")) {
                    Some(pause) => std::thread::sleep(pause),
                    None => return Err(self.not_pushed(&endpoint, repository, &what, &refusal)),
                },
            }
        };
        match said_digest(&reply).map_err(|broken| broken.fault(&what))? {
            Some(said) if said != digest => {
                Err(Fault::network(what).cause(format!("the registry stored `{said}` where `{digest}` was sent")))
            }
            _ => {
                self.remember_document(repository, digest, bytes);
                Ok((digest, reply.header("oci-subject").is_some()))
            }
        }
    }

    /// Deletes a manifest by its digest, with every tag on it, or one tag where the registry can do that.
    pub fn delete_manifest(&self, repository: &Repository, name: impl Into<Name>) -> Result<Answer<()>, Fault> {
        let name = name.into();
        self.early.forget(repository);
        let what = format!("cannot delete the manifest `{}`", name.of(repository));
        let (endpoint, url) = self.of(repository, &format!("manifests/{}", encode(&name.to_string())))?;
        let ask = ApiRequest::new(&what, Method::DELETE, url, push(repository));
        match self.send_short(&endpoint, &ask, &[202, 200, 204])? {
            Ok(_) => Ok(Answer::Present(())),
            Err(refusal) if refusal.status == 405 || refusal.has("UNSUPPORTED") => Err(refusal
                .fault(&what)
                .hint("enable deletion in the registry's configuration, or delete it in the registry's web page")),
            Err(refusal) => self.absent(&endpoint, &what, &refusal),
        }
    }
}

/// The manifest in an answer, when everything about it agrees.
fn checked(reply: HttpResponse, name: &Name) -> Result<RawManifest, ExchangeError> {
    let said = said_digest(&reply)?;
    let media_type = reply.media_type();
    if let Some(media_type) = &media_type {
        accepted(&reply, media_type)?;
    }
    let promised = reply.length();
    let url = reply.url.clone();
    let bytes = reply.bytes(LONGEST)?;
    if promised.is_some_and(|promised| promised != bytes.len() as u64) {
        let why = format!("`{url}`: the answer broke off after {} bytes", bytes.len());
        return Err(ExchangeError::passing(why));
    }
    understood(bytes, media_type, said, name).map_err(|why| ExchangeError::lasting(format!("`{url}`: {why}")))
}

/// The manifest of these bytes, when everything that the registry says about them agrees.
pub(super) fn understood(
    bytes: Vec<u8>,
    media_type: Option<String>,
    said: Option<Digest>,
    name: &Name,
) -> Result<RawManifest, String> {
    let wrong = Err;
    let digest = Digest::of(&bytes);
    if let Some(said) = said.filter(|said| *said != digest) {
        return wrong(format!("the registry calls it `{said}`, its bytes are `{digest}`"));
    }
    if let Name::Digest(asked) = name
        && *asked != digest
    {
        return wrong(format!("its bytes are `{digest}`"));
    }
    let Ok(stated) = serde_json::from_slice::<Stated>(&bytes) else {
        return wrong("it is not a manifest in JSON".to_owned());
    };
    match (media_type.or_else(|| stated.media_type.clone()), stated.media_type) {
        (Some(header), Some(inside)) if header != inside => {
            wrong(format!("the registry calls it `{header}`, its content says `{inside}`"))
        }
        (Some(media_type), _) if ACCEPTED.contains(&media_type.as_str()) => {
            Ok(RawManifest { bytes, media_type, digest })
        }
        (Some(other), _) => wrong(format!("`{other}` is not a manifest media type")),
        (None, _) => wrong("neither it nor the registry says its media type".to_owned()),
    }
}

/// Refuses an answer with another media type before its body is read.
fn accepted(reply: &HttpResponse, media_type: &str) -> Result<(), ExchangeError> {
    if ACCEPTED.contains(&media_type) {
        return Ok(());
    }
    Err(ExchangeError::lasting(format!(
        "`{}` answered with the media type `{media_type}`, which is not a manifest type",
        reply.url
    )))
}

/// `Docker-Content-Digest`, if present; other algorithms are ignored because they cannot be checked.
pub(super) fn said_digest(reply: &HttpResponse) -> Result<Option<Digest>, ExchangeError> {
    match reply.header("docker-content-digest").filter(|said| said.starts_with("sha256:")) {
        None => Ok(None),
        Some(said) => said.parse().map(Some).map_err(|error| {
            ExchangeError::lasting(format!("`{}` answered with a malformed digest: {error}", reply.url))
        }),
    }
}
