//! `verify`: signatures, provenance and SBOMs of a published image, and whether it is what its commit gives.

use super::sbom::published;
use crate::documents;
use crate::flags::{Format, Global};
use crate::pipeline::{Sources, Unreadable};
use crate::plugins::{Settings, sign};
use serde::Serialize;
use std::path::Path;
use xtask_host::process::{self, Command};
use xtask_host::registry::{Client, attach, publish};
use xtask_host::signing::{self, PublicKey};
use xtask_host::tree::facts::{self, RootImage, RootPlace, Tree};
use xtask_host::tree::git::Revision;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::key::{AppKey, BaseKey, Key as _};
use xtask_model::image::policy::ImageKind;
use xtask_model::image::policy::plugin::{KEYLESS, SIGN};
use xtask_model::image::presence::Published;
use xtask_model::image::rebase;
use xtask_model::spec::reference::{Digest, Platform, Reference, Repository};
use xtask_model::supply;
use xtask_model::supply::provenance::{self, ProvenanceStatement};
use xtask_model::supply::signature::{self, Envelope, SIGNATURE};

#[derive(Serialize)]
struct CheckResult {
    check: String,
    result: String,
}

#[derive(Serialize)]
struct Verified {
    image: String,
    checks: Vec<CheckResult>,
}

/// Checks everything; ends at the first thing that is wrong.
pub fn run(global: &Global, image: Option<&str>, key: Option<&Path>) -> anyhow::Result<()> {
    let tree = global.tree_for(image)?;
    let global = &global.of(&tree);
    let client = tree.client();
    let name = match image {
        Some(image) => image.to_owned(),
        None => super::smoke::this_trees(global, "verify")?,
    };
    let reference = super::image_named(&name)?;
    let found = published(&client, &reference)?;
    let repository = &reference.repository;
    let verifier = Verifier::new(&tree, key)?;
    let mut checks = Vec::new();
    let mut passed = |check: String, result: String| checks.push(CheckResult { check, result });
    passed("signature of the index".to_owned(), verifier.signature(&client, repository, found.digest)?);
    let mut commits = Vec::new();
    for (platform, manifest) in &found.platforms {
        process::interrupted()?;
        passed(format!("signature for {platform}"), verifier.signature(&client, repository, manifest.digest)?);
        let statement = verifier.provenance(&client, repository, manifest.digest)?;
        let fingerprint = found.fingerprint().map(|fingerprint| fingerprint.to_string());
        if statement.fingerprint.is_none() || statement.fingerprint != fingerprint {
            return Err(wrong(&repository.digest(manifest.digest), "its provenance is of another key")
                .cause(format!("the statement says {}, the image {}", said(&statement.fingerprint), said(&fingerprint)))
                .into());
        }
        passed(format!("provenance for {platform}"), format!("built by `{}`", statement.builder));
        let count = sboms(&client, repository, manifest.digest, &statement)?;
        if count > 0 {
            passed(format!("SBOMs for {platform}"), format!("{count}, by digest in the provenance"));
        }
        commits.push(statement.commit);
    }
    if let Some(before) = rebase::before(&found) {
        passed("rebased".to_owned(), format!("from `{before}`, by the root in its key"));
    }
    let commit = source(global, &tree, &client, (&reference, &found), &commits)?;
    passed("source".to_owned(), commit);
    let verified = Verified { image: repository.digest(found.digest).to_string(), checks };
    match global.format {
        Format::Json => documents::VERIFY.print(&verified),
        Format::Text | Format::Github | Format::Gitlab => {
            let lines = verified.checks.iter().map(|one| format!("  {}: {}\n", one.check, one.result));
            super::print(&format!("{} is verified\n{}", verified.image, lines.collect::<String>()))
        }
    }
}

fn said(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or("nothing")
}

fn wrong(what: &Reference, why: &str) -> Fault {
    Fault::drift(format!("`{what}` is not verified")).cause(why)
}

/// Method of checking signatures.
enum Verifier {
    Key(PublicKey),
    /// By the cosign program.
    Keyless {
        identity: String,
        issuer: String,
    },
}

impl Verifier {
    fn new(tree: &Tree, key: Option<&Path>) -> Result<Self, Fault> {
        if let Some(key) = key {
            return PublicKey::read(key).map(Self::Key);
        }
        let none = || {
            Fault::usage("no key to verify with: `images.toml` has no step with `uses = \"sign\"`")
                .hint("name the public key: `cargo xtask verify --key FILE`")
        };
        let settings: &Settings = crate::plugins::settings_of(&tree.policy, SIGN.name).ok_or_else(none)?;
        if let Some(key) = sign::public_key(&tree.root, settings)? {
            return Ok(Self::Key(key));
        }
        match (settings.text("cosign"), settings.text("identity"), settings.text("issuer")) {
            (Some(KEYLESS), Some(identity), Some(issuer)) => {
                process::find("cosign", "signatures without a key", "install cosign 2.2 or later")?;
                Ok(Self::Keyless { identity: identity.to_owned(), issuer: issuer.to_owned() })
            }
            _ => Err(none()),
        }
    }

    /// Checks that a digest is signed.
    fn signature(&self, client: &Client, repository: &Repository, digest: Digest) -> Result<String, Fault> {
        let what = repository.digest(digest);
        let key = match self {
            Self::Key(key) => key,
            Self::Keyless { identity, issuer } => {
                by_cosign(&["verify"], identity, issuer, &what)?;
                return Ok(format!("by `{identity}`"));
            }
        };
        let Some(found) = attach::find_tagged(client, repository, &digest, "sig")? else {
            return Err(wrong(&what, "it has no signature")
                .hint("an image from before the step `sign` has none: build it again with `--force --push`"));
        };
        let signed = found.documents.iter().any(|blob| {
            let signature = blob.annotations.get(SIGNATURE).map_or("", String::as_str);
            signature::signed_digest(&blob.bytes) == Some(digest) && key.verifies(&blob.bytes, signature)
        });
        match signed {
            true => Ok("by the key".to_owned()),
            false => Err(wrong(&what, "none of its signatures is by this key")),
        }
    }

    /// The provenance of a manifest, which must be signed too.
    fn provenance(
        &self,
        client: &Client,
        repository: &Repository,
        digest: Digest,
    ) -> Result<ProvenanceStatement, Fault> {
        let what = repository.digest(digest);
        if let Self::Keyless { identity, issuer } = self {
            by_cosign(&["verify-attestation", "--type", "slsaprovenance1"], identity, issuer, &what)?;
        }
        let Some(found) = attach::find_tagged(client, repository, &digest, "att")? else {
            return Err(wrong(&what, "it has no signed provenance")
                .hint("`uses = \"provenance\"` before `uses = \"sign\"` in `images.toml` makes one"));
        };
        let mut why = "none of its attestations is by this key".to_owned();
        for blob in &found.documents {
            match self.statement(&blob.bytes) {
                Some(bytes) => match provenance::read(&bytes) {
                    Ok(statement) if statement.subjects.contains(&digest) => return Ok(statement),
                    Ok(_) => "its provenance is about another image".clone_into(&mut why),
                    Err(error) => why = format!("its provenance cannot be read: {error}"),
                },
                None => continue,
            }
        }
        Err(wrong(&what, &why))
    }

    /// The payload of an envelope with a good signature.
    fn statement(&self, envelope: &[u8]) -> Option<Vec<u8>> {
        let envelope: Envelope = serde_json::from_slice(envelope).ok()?;
        let payload = signing::from_base64(&envelope.payload)?;
        let message = signature::to_sign(&envelope.payload_type, &payload);
        let good = match self {
            Self::Key(key) => envelope.signatures.iter().any(|one| key.verifies(&message, &one.sig)),
            // The cosign program has checked every attestation of the image.
            Self::Keyless { .. } => true,
        };
        good.then_some(payload)
    }
}

fn by_cosign(command: &[&str], identity: &str, issuer: &str, what: &Reference) -> Result<(), Fault> {
    let call = Command::new("cosign").args(command);
    let call = call.args(["--certificate-identity", identity, "--certificate-oidc-issuer", issuer]);
    call.arg(what.to_string()).read(Exit::Drift).map(drop)
}

/// Checks that each SBOM is the one that the provenance names; returns how many there are.
fn sboms(
    client: &Client,
    repository: &Repository,
    digest: Digest,
    statement: &ProvenanceStatement,
) -> Result<usize, Fault> {
    let mut count = 0;
    for media_type in supply::SBOMS {
        let uri = format!("urn:media-type:{media_type}");
        let wanted: Vec<&String> = statement
            .byproducts
            .iter()
            .filter(|one| one.uri.as_deref() == Some(&uri))
            .filter_map(|one| one.digest.get("sha256"))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let found = attach::find(client, repository, &digest, media_type)?;
        let found: Vec<String> =
            found.iter().flat_map(|artifact| &artifact.documents).map(|blob| Digest::of(&blob.bytes).hex()).collect();
        if !wanted.iter().all(|hex| found.contains(hex)) {
            return Err(wrong(&repository.digest(digest), "its SBOM is not the one in its provenance")
                .cause(format!("no `{media_type}` with the digest `sha256:{}` is attached", wanted[0])));
        }
        // Whatever else is attached was not made by the build.
        if found.iter().any(|hex| !wanted.contains(&hex)) {
            return Err(wrong(&repository.digest(digest), "an SBOM is attached that is not in its provenance"));
        }
        count += wanted.len();
    }
    Ok(count)
}

/// Checks that the commit which the image claims gives the image's key.
fn source(
    global: &Global,
    tree: &Tree,
    client: &Client,
    (reference, found): (&Reference, &Published),
    commits: &[Option<String>],
) -> Result<String, Fault> {
    let name = reference.repository.digest(found.digest);
    let Some(commit) = found.revision() else { return Ok("the image claims no commit".to_owned()) };
    if let Some(commit) = commit.strip_suffix("-dirty") {
        return Err(
            wrong(&name, "it was built from changes on top of its commit").cause(format!("the commit is `{commit}`"))
        );
    }
    if commits.iter().any(|signed| signed.as_deref() != Some(commit)) {
        return Err(wrong(&name, "its provenance is of another commit").cause(format!("the image claims `{commit}`")));
    }
    let kind = match reference.repository == tree.repository(ImageKind::Base) {
        true => ImageKind::Base,
        false => ImageKind::App,
    };
    let wanted = found.fingerprint().ok_or_else(|| wrong(&name, "it has no fingerprint"))?;
    let of = |published: &Published| {
        published.key().and_then(|json| serde_json::from_str::<BaseKey>(json).ok()).ok_or_else(|| {
            wrong(&name, "the key of its base cannot be read").hint("it was built by another version of xtask")
        })
    };
    let root = facts::find_root(global.root.as_deref())?;
    let at_commit = global.tree_of(Box::new(Revision::open(&root, commit, global.offline)?))?;
    let sources = Sources::read_all(&at_commit).map_err(Unreadable::fault)?;
    let given = match kind {
        ImageKind::Base => sources.base_key(&root_of(&of(found)?)).fingerprint(),
        ImageKind::App | ImageKind::Enhanced => {
            let key: Option<AppKey> = found.key().and_then(|json| serde_json::from_str(json).ok());
            if key.is_some_and(|key| key.scratch.is_some()) {
                return Ok(format!(
                    "`{}`; the key of an image from scratch is not compared",
                    &commit[..12.min(commit.len())]
                ));
            }
            let base = base_of(client, tree, &reference.repository, found)?;
            let base = match sources.pins.base {
                Some(_) => base.fingerprint().ok_or_else(|| wrong(&name, "its base has no fingerprint"))?,
                None => sources.base_key(&root_of(&of(&base)?)).fingerprint(),
            };
            sources.app_key(&base).fingerprint()
        }
    };
    if given != wanted {
        return Err(wrong(&name, "its commit gives another key")
            .cause(format!("commit `{commit}` gives {given}, the image has {wanted}"))
            .hint(format!("compare them: `cargo xtask explain --commit {commit}`")));
    }
    Ok(format!("commit `{}` gives its key", &commit[..12.min(commit.len())]))
}

/// The image that the first platform's image was built on.
fn base_of(client: &Client, tree: &Tree, repository: &Repository, found: &Published) -> Result<Published, Fault> {
    let name = repository.digest(found.digest);
    let platform: Option<(&Platform, _)> = found.platforms.iter().next();
    let (_, manifest) = platform.ok_or_else(|| wrong(&name, "it has no platform"))?;
    let digest = publish::base_digest(client, repository, manifest)?.ok_or_else(|| wrong(&name, "it names no base"))?;
    let bases = tree.repository(ImageKind::Base);
    let base = publish::read(client, &bases, digest)?.present();
    base.ok_or_else(|| Fault::network(format!("its base `{}` is not in the registry", bases.digest(digest))))
}

/// The root as a key has it: what the commit's own lock cannot say of a root from packages.
fn root_of(key: &BaseKey) -> RootImage {
    let repository: Repository = "127.0.0.1/root".parse().expect("a constant name");
    RootImage {
        name: key.root.image.clone(),
        digests: key.root.digests.clone(),
        place: RootPlace::Registry(repository),
    }
}
