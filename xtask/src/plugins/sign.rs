//! The plugin `sign`: signatures and attestations in the form of cosign.
//!
//! The key of this machine signs, or the cosign program with a key that only it can use. Every signature is over bytes that are made here, so
//! that it exists before a tag names the image.

use super::{Artifact, Blob, Call, Description, Outcome, Plugin, Settings};
use std::path::Path;
use xtask_host::process::{self, Command};
use xtask_host::scratch::{self, Scratch};
use xtask_host::signing::identity::{self, Identity};
use xtask_host::signing::{self, PrivateKey, PublicKey};
use xtask_host::terminal;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::policy::plugin::{KEYLESS, SIGN, is_reference};
use xtask_model::spec::reference::{Digest, Repository};
use xtask_model::supply::provenance;
use xtask_model::supply::signature::{
    self, ATTESTATIONS, ENVELOPE, Envelope, EnvelopeSignature, PAYLOAD, PREDICATE_TYPE, SIGNATURE, SIGNATURES,
};
use xtask_native::image::Image;

/// Annotations of a signature without a key.
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const BUNDLE: &str = "dev.sigstore.cosign/bundle";

pub struct Sign;

impl Plugin for Sign {
    fn description(&self) -> &'static Description {
        &SIGN
    }

    fn prepare(&self, root: &Path, settings: &Settings) -> Result<(), Fault> {
        let signer = Signer::new(root, settings)?;
        // A branch may sign as itself; only what the policy's identity signed is verified.
        if let (Signer::Keyless(identity), Some(wanted)) = (&signer, settings.text("identity"))
            && let Some(name) = identity.name().filter(|name| name != wanted)
        {
            terminal::warn(&format!("images are signed by `{name}`; `verify` accepts `{wanted}` alone"));
        }
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Outcome, Fault> {
        let signer = Signer::new(&call.tree.root, call.settings)?;
        let subject = call.subject;
        let digest = match subject.place.clone() {
            Some(place) => Image::open(call.client, place, subject.digest, subject.platform)?.digest,
            None => subject.digest,
        };
        let mut attach = vec![signer.signature(&subject.reference.repository, digest)?];
        let artifacts = call.done.values().flat_map(|outcome| &outcome.attach);
        let statements = artifacts.flat_map(|artifact| &artifact.documents);
        let statements: Vec<&Blob> = statements.filter(|blob| blob.media_type == provenance::MEDIA_TYPE).collect();
        if !statements.is_empty() {
            let envelopes = statements.into_iter().map(|statement| signer.envelope(statement));
            attach.push(Artifact {
                artifact_type: ATTESTATIONS.to_owned(),
                documents: envelopes.collect::<Result<_, _>>()?,
                config: None,
                annotations: std::collections::BTreeMap::new(),
                suffix: Some("att"),
            });
        }
        Ok(Outcome { attach, ..Outcome::default() })
    }

    fn index(
        &self,
        root: &Path,
        settings: &Settings,
        (repository, digest): (&Repository, Digest),
    ) -> Result<Vec<Artifact>, Fault> {
        Ok(vec![Signer::new(root, settings)?.signature(repository, digest)?])
    }
}

enum Signer {
    Key(Box<PrivateKey>),
    /// The cosign program with this key, whose public key may be known.
    Cosign(String, Option<PublicKey>),
    /// The cosign program with the identity of this job.
    Keyless(Identity),
}

struct Signed {
    signature: String,
    certificate: Option<String>,
    bundle: Option<String>,
}

impl Signer {
    fn new(root: &Path, settings: &Settings) -> Result<Self, Fault> {
        if let Some(key) = settings.text("cosign") {
            process::find("cosign", "a `sign` step with `cosign`", "install cosign 2.2 or later")?;
            if key == KEYLESS {
                return identity(settings).map(Self::Keyless);
            }
            if !is_reference(key) {
                signing::check_encrypted(&root.join(key))?;
            }
            // A path is one of the repository, wherever this is called.
            let key = if is_reference(key) { key.to_owned() } else { root.join(key).display().to_string() };
            return Ok(Self::Cosign(key, public_key(root, settings)?));
        }
        let key = PrivateKey::of_environment(root, &|name| std::env::var(name).ok())
            .map_err(|fault| fault.needed_by("the `sign` step of `images.toml`"))?;
        let public = public_key(root, settings)?;
        if public.as_ref().is_some_and(|public| *public != key.public()) {
            let name = settings.text("public-key").unwrap_or_default();
            return Err(Fault::usage("the private key is not the one of the policy")
                .cause(format!("its public key is not the one in `{name}`"))
                .hint(format!("write `{name}` again: `openssl pkey -in KEY -pubout -out {name}`")));
        }
        Ok(Self::Key(Box::new(key)))
    }

    fn sign(&self, message: &[u8]) -> Result<Signed, Fault> {
        match self {
            Self::Key(key) => Ok(Signed { signature: key.sign(message)?, certificate: None, bundle: None }),
            Self::Cosign(key, public) => {
                let signed = by_cosign(&With::Key(key), message)?;
                if public.as_ref().is_some_and(|public| !public.verifies(message, &signed.signature)) {
                    return Err(Fault::usage("the key of cosign is not the one of the policy")
                        .cause("its signature is not by the key that `public-key` names")
                        .hint(format!("write the file again: `cosign public-key --key {}`", process::quoted(key))));
                }
                Ok(signed)
            }
            Self::Keyless(identity) => by_cosign(&With::Identity(identity), message),
        }
    }

    fn signature(&self, repository: &Repository, digest: Digest) -> Result<Artifact, Fault> {
        let payload = signature::payload(&repository.to_string(), digest);
        let signed = self.sign(&payload)?;
        let mut blob = Blob::new(PAYLOAD, payload);
        blob.annotations.insert(SIGNATURE.to_owned(), signed.signature);
        blob.annotations.extend(signed.certificate.map(|text| (CERTIFICATE.to_owned(), text)));
        blob.annotations.extend(signed.bundle.map(|text| (BUNDLE.to_owned(), text)));
        Ok(Artifact {
            artifact_type: SIGNATURES.to_owned(),
            documents: vec![blob],
            config: None,
            annotations: std::collections::BTreeMap::new(),
            suffix: Some("sig"),
        })
    }

    fn envelope(&self, statement: &Blob) -> Result<Blob, Fault> {
        let signed = self.sign(&signature::to_sign(&statement.media_type, &statement.bytes))?;
        let envelope = Envelope {
            payload_type: statement.media_type.clone(),
            payload: signing::base64(&statement.bytes),
            signatures: vec![EnvelopeSignature { keyid: String::new(), sig: signed.signature }],
        };
        let mut blob = Blob::new(ENVELOPE, serde_json::to_vec(&envelope).expect("an envelope is valid JSON"));
        blob.annotations.insert(SIGNATURE.to_owned(), String::new());
        blob.annotations.insert(PREDICATE_TYPE.to_owned(), provenance::PREDICATE.to_owned());
        blob.annotations.extend(signed.certificate.map(|text| (CERTIFICATE.to_owned(), text)));
        blob.annotations.extend(signed.bundle.map(|text| (BUNDLE.to_owned(), text)));
        Ok(blob)
    }
}

/// The identity of this job, by the issuer that `verify` asks for.
fn identity(settings: &Settings) -> Result<Identity, Fault> {
    let identity = Identity::of_environment(&|name| std::env::var(name).ok())
        .map_err(|fault| fault.needed_by("the `sign` step of `images.toml` with `cosign = \"keyless\"`"))?;
    match settings.text("issuer").filter(|wanted| *wanted != identity.issuer()) {
        None => Ok(identity),
        Some(wanted) => Err(Fault::usage("the identity of this job is by another issuer than the policy's")
            .cause(format!("`issuer` is `{wanted}`, the token says `{}`", identity.issuer()))
            .hint(format!("set `issuer` in {}", settings.place("issuer").unwrap_or("`images.toml`")))),
    }
}

/// Key or identity that cosign signs with.
enum With<'a> {
    Key(&'a str),
    Identity(&'a Identity),
}

/// Has the cosign program sign. Passwords and tokens reach it by variables, never as arguments.
fn by_cosign(with: &With<'_>, message: &[u8]) -> Result<Signed, Fault> {
    let cannot = |error: std::io::Error| Fault::build("cannot sign by cosign").cause(error);
    let folder = Scratch::new_in(&std::env::temp_dir(), scratch::SHARED).map_err(cannot)?;
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("message"), message).map_err(cannot)?;
    let call = Command::new("cosign").arg("sign-blob").arg("--yes").arg("--output-signature").arg(at("signature"));
    let call = match with {
        With::Key(key) => call.arg("--key").arg(key).arg("--tlog-upload=false"),
        With::Identity(identity) => {
            let call = call.arg("--output-certificate").arg(at("certificate")).arg("--bundle").arg(at("bundle"));
            // The token that was checked, and no other.
            identity::REQUEST.into_iter().fold(call, Command::env_remove).env(identity::TOKEN, identity.token())
        }
    };
    call.arg(at("message")).read(Exit::Build)?;
    let read = |name: &str| std::fs::read_to_string(at(name)).map(|text| text.trim().to_owned());
    let signature = read("signature").map_err(cannot)?;
    if let With::Key(_) = with {
        return Ok(Signed { signature, certificate: None, bundle: None });
    }
    let certificate = read("certificate").map_err(cannot)?;
    // The file is Base64 of PEM.
    let certificate =
        signing::from_base64(&certificate).and_then(|pem| String::from_utf8(pem).ok()).unwrap_or(certificate);
    let bundle: serde_json::Value = serde_json::from_str(&read("bundle").map_err(cannot)?)
        .map_err(|error| Fault::build("cannot read the bundle of cosign").cause(error))?;
    Ok(Signed { signature, certificate: Some(certificate), bundle: Some(bundle["rekorBundle"].to_string()) })
}

/// The public key of a step; `None` for keyless signatures.
pub fn public_key(root: &Path, settings: &Settings) -> Result<Option<PublicKey>, Fault> {
    settings.text("public-key").map(|path| PublicKey::read(&root.join(path))).transpose()
}
