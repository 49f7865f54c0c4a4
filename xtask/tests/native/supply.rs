//! SBOMs, provenance and signatures of real images: read by other people's programs, refused when they were tampered with, and there before
//! any tag moves.

mod readers;
mod referrers;
mod signing;
pub(crate) mod tools;

use self::tools::program;
use crate::fault_proxy::{Answer, FaultProxy, Mishap};
use crate::fixture::{Outcome, Repo, client};
use crate::real_registry::RealRegistry;
use crate::world::World;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask_host::registry::attach::{self, Artifact};
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::reference::{Digest, Platform, Reference};
use xtask_model::supply::spdx;

const STEPS: [&str; 3] = [
    "name = \"sbom\"\nuses = \"sbom\"\nimages = [\"app\", \"base\"]",
    "name = \"provenance\"\nuses = \"provenance\"\nimages = [\"app\", \"base\"]",
    "name = \"sign\"\nuses = \"sign\"\npublic-key = \"sign.pub\"\nimages = [\"app\", \"base\"]",
];

const STATUS: &str = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\nVersion: 2.41-12\n\n\
                      Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nSource: zlib\nVersion: 1:1.3.1\nDepends: libc6 (>= 2.14)\n";

/// A repository with keys, whose app has packages of two kinds.
pub(crate) struct Signed {
    pub(crate) world: World,
    key: PathBuf,
    _keys: tempfile::TempDir,
}

impl Signed {
    pub(crate) fn new(name: &str) -> Option<Self> {
        let world = World::new(name)?;
        let keys = tempfile::tempdir().unwrap();
        let key = new_key(keys.path(), "sign.key");
        let repo = &world.repo;
        let public = std::fs::read_to_string(public_of(&key)).unwrap();
        repo.write("sign.pub", &public).write("debian/status", STATUS);
        let site = "code/lib/python3.12/site-packages";
        repo.write(
            &format!("{site}/six-1.17.0.dist-info/METADATA"),
            "Metadata-Version: 2.4\nName: six\nVersion: 1.17.0\nLicense-Expression: MIT\n",
        );
        repo.write(
            &format!("{site}/scipy-1.16.3.dist-info/METADATA"),
            "Metadata-Version: 2.4\nName: scipy\nVersion: 1.16.3\nLicense: Own (c)\nRequires-Dist: six>=1\n",
        );
        repo.edit(
            "dockerfiles/Dockerfile.fast",
            "ENTRYPOINT",
            "COPY --link debian/status /var/lib/dpkg/status\nENTRYPOINT",
        );
        for step in STEPS {
            repo.step(step);
        }
        repo.commit("supply");
        Some(Self { world, key, _keys: keys })
    }

    fn repo(&self) -> &Repo {
        &self.world.repo
    }

    pub(crate) fn call(&self, args: &[&str]) -> Outcome {
        self.repo().xtask(args).env("XTASK_SIGNING_KEY_FILE", &self.key).without_engine().run()
    }

    /// `build --push`; the app's reference by digest.
    #[track_caller]
    pub(crate) fn push(&self) -> Reference {
        self.call(&["build", "--push"]).ok().reference()
    }

    /// The descriptor of the app's manifest.
    fn manifest(&self, name: &str, index: &Reference) -> Descriptor {
        let found = self.repo().published(name, &index.digest.unwrap().to_string()).unwrap();
        found.platforms[&Platform::host()].clone()
    }

    /// `verify` fails and says why.
    #[track_caller]
    fn refuses(&self, image: &Reference, why: &str) {
        self.call(&["verify", &image.to_string()]).ends(6).says(why);
    }
}

fn openssl(args: &[&str]) {
    let done = Command::new("openssl").args(args).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn new_key(folder: &Path, name: &str) -> PathBuf {
    let key = folder.join(name);
    let text = key.to_str().unwrap();
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", text]);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    openssl(&["pkey", "-in", text, "-pubout", "-out", public_of(&key).to_str().unwrap()]);
    key
}

fn public_of(key: &Path) -> PathBuf {
    key.with_extension("pub")
}

#[track_caller]
pub(crate) fn runs(command: &mut Command) -> String {
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{command:?}\n{said}");
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn tampered_things_are_refused() {
    let Some(signed) = Signed::new("tampered") else { return };
    let app = signed.push();
    let (repo, client) = (signed.repo(), client());
    let repository = repo.repository("app");
    let manifest = signed.manifest("app", &app);
    signed.call(&["verify", &app.to_string()]).ok();
    // Another key.
    let other = new_key(signed.key.parent().unwrap(), "other.key");
    let flag = public_of(&other);
    signed
        .call(&["verify", "--key", flag.to_str().unwrap(), &app.to_string()])
        .ends(6)
        .says("none of its signatures is by this key");
    // An index that nobody signed: with another annotation.
    let found = client.manifest(&repository, app.digest.unwrap()).unwrap().present().unwrap();
    let text =
        String::from_utf8(found.bytes).unwrap().replacen("\"annotations\":{", "\"annotations\":{\"a\":\"b\",", 1);
    let moved =
        client.put_manifest(&repository, Digest::of(text.as_bytes()), &found.media_type, text.as_bytes()).unwrap();
    signed.refuses(&repository.digest(moved), "it has no signature");
    // Its own signature moved to it.
    let copy = |from: &Digest, to: &Digest, suffix: &str| {
        let bytes = client.manifest(&repository, attach::tag_of(from, Some(suffix))).unwrap().present().unwrap();
        client.put_manifest(&repository, attach::tag_of(to, Some(suffix)), &bytes.media_type, &bytes.bytes).unwrap();
    };
    copy(&app.digest.unwrap(), &moved, "sig");
    signed.refuses(&repository.digest(moved), "none of its signatures is by this key");
    // The provenance of another image.
    repo.write("templates/page.html", "two").commit("two");
    let second = signed.push();
    let second_manifest = signed.manifest("app", &second);
    copy(&manifest.digest, &second_manifest.digest, "att");
    signed.refuses(&second, "its provenance is about another image");
    // An SBOM that the build did not make.
    let lie = Artifact::of(spdx::MEDIA_TYPE, b"{\"packages\": []}".to_vec());
    attach::attach(&client, &repository, &manifest, &[lie]).unwrap();
    signed.refuses(&app, "its SBOM is not the one in its provenance");
    // A statement whose payload was changed after it was signed.
    repo.write("templates/page.html", "three").commit("three");
    let third = signed.push();
    let third_manifest = signed.manifest("app", &third);
    let mut artifact = attach::find_tagged(&client, &repository, &third_manifest.digest, "att").unwrap().unwrap();
    let text = String::from_utf8(artifact.documents[0].bytes.clone()).unwrap();
    let mut envelope: Value = serde_json::from_str(&text).unwrap();
    let payload = xtask_host::signing::from_base64(envelope["payload"].as_str().unwrap()).unwrap();
    let payload = String::from_utf8(payload).unwrap().replace("urn:xtask:builder:local", "urn:xtask:builder:other");
    envelope["payload"] = xtask_host::signing::base64(payload.as_bytes()).into();
    artifact.documents[0].bytes = envelope.to_string().into_bytes();
    let forged = Artifact {
        artifact_type: xtask_model::supply::signature::ATTESTATIONS.to_owned(),
        documents: artifact.documents,
        config: None,
        annotations: Default::default(),
        suffix: Some("att"),
    };
    attach::attach(&client, &repository, &third_manifest, &[forged]).unwrap();
    signed.refuses(&third, "none of its attestations is by this key");
    // A layer and a manifest whose bytes the registry has changed.
    let blob = |digest: &Digest| {
        let hex = digest.hex();
        signed.world.store().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    };
    let layer = signed.world.manifest("app", "latest").layers.pop().unwrap();
    let whole = std::fs::read(blob(&layer.digest)).unwrap();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(blob(&layer.digest), &changed).unwrap();
    let archive = signed.key.with_extension("tar");
    let create = ["bundle", "create", "-o", archive.to_str().unwrap(), &third.to_string()];
    signed.call(&create).ends(5).says(&layer.digest.to_string());
    assert!(!archive.exists());
    std::fs::write(blob(&layer.digest), &whole).unwrap();
    signed.call(&create).ok();
    let text = std::fs::read_to_string(blob(&third_manifest.digest)).unwrap();
    std::fs::write(blob(&third_manifest.digest), text.replacen("sha256:", "sha256:0", 1)).unwrap();
    std::fs::remove_file(&archive).unwrap();
    signed.call(&create).ends(5).says(&third_manifest.digest.to_string());
    assert!(!archive.exists());
}

#[test]
fn an_image_that_is_not_what_its_commit_gives_is_refused() {
    let Some(signed) = Signed::new("claims") else { return };
    let repo = signed.repo();
    signed.push();
    // Built from another tree than the commit it will claim: the history is rewritten under it.
    repo.write("templates/page.html", "secret").write("templates/more.html", "more");
    let app = signed.push();
    signed.refuses(&app, "it was built from changes on top of its commit");
}

#[test]
fn no_tag_moves_when_something_cannot_be_attached() {
    let Some(signed) = Signed::new("halfway") else { return };
    let first = signed.push();
    let latest = |signed: &Signed| signed.repo().digest("app", "latest");
    for (round, part) in [".sig", ".att", "/app/manifests/sha256-", "/app/blobs/uploads/"].iter().enumerate() {
        let repo = signed.repo();
        let before = latest(&signed);
        repo.write("templates/page.html", &format!("round {round}")).commit("round");
        let refusal = Answer::new(403).body("{\"errors\": [{\"code\": \"DENIED\", \"message\": \"as scripted\"}]}");
        signed.world.proxy.on("PUT", part, 100, Mishap::Answer(refusal.clone()));
        signed.call(&["build", "--push"]).ends(5);
        signed.world.proxy.clear();
        assert_eq!(latest(&signed), before, "{part}");
        // One answer that fails is tried again.
        let busy = Answer::new(503).header("retry-after", "0");
        signed.world.proxy.on("PUT", part, 1, Mishap::Answer(busy));
        let healed = signed.push();
        signed.world.proxy.clear();
        assert_eq!(latest(&signed), healed.digest.unwrap().to_string());
        signed.call(&["verify", &healed.to_string()]).ok();
    }
    signed.call(&["verify", &first.to_string()]).ok();
}

#[test]
fn a_key_that_others_may_read_stops_the_build_before_anything_is_built() {
    let Some(signed) = Signed::new("openkey") else { return };
    std::fs::set_permissions(&signed.key, std::fs::Permissions::from_mode(0o640)).unwrap();
    signed.call(&["build", "--push"]).ends(2).says("its mode is 640").says("chmod 600");
    assert!(signed.repo().tags("app-base").is_empty());
    signed.repo().xtask(&["build", "--push"]).without_engine().run().ends(2).says("there is no key to sign with");
    let wrong = new_key(signed.key.parent().unwrap(), "another.key");
    let call = signed.repo().xtask(&["build", "--push"]).env("XTASK_SIGNING_KEY_FILE", &wrong).without_engine();
    call.run().ends(2).says("the private key is not the one of the policy");
    // The problems of several steps are reported at once.
    let repo = signed.repo();
    repo.edit("images.toml", "uses = \"sbom\"", "uses = \"sbom\"\ncrate-licences = \"crates.licences\"");
    let both = signed.call(&["build", "--push"]).ends(2).says("its mode is 640");
    both.says("cannot read the licences of crates in `crates.licences`").says("sbom --write-licences");
    repo.write("crates.licences", "\"a 1\" = 1\n");
    signed.call(&["build", "--push"]).ends(2).says("its mode is 640").says("invalid type");
    assert!(signed.repo().tags("app-base").is_empty());
}

#[test]
fn a_key_in_a_variable_signs_and_is_shown_nowhere() {
    let Some(signed) = Signed::new("variable") else { return };
    let key = std::fs::read_to_string(&signed.key).unwrap();
    let secret = key.lines().nth(1).unwrap();
    let call = signed.repo().xtask(&["build", "--push", "--verbose"]).env("XTASK_SIGNING_KEY", &key).without_engine();
    let app = call.run().ok().keeps(secret).reference();
    signed.call(&["verify", &app.to_string()]).ok();
    let sent = signed.world.proxy.seen();
    assert!(sent.iter().any(|request| request.method == "PUT" && request.length > 0));
    for request in sent {
        assert!(!String::from_utf8_lossy(&request.body).contains(secret), "{}", request.target);
    }
    // A build of the same image replaces an SBOM that another one attached.
    let manifest = signed.manifest("app", &app);
    let lie = Artifact::of(spdx::MEDIA_TYPE, b"{\"packages\": []}".to_vec());
    attach::attach(&client(), &signed.repo().repository("app"), &manifest, &[lie]).unwrap();
    signed.refuses(&app, "its SBOM is not the one in its provenance");
    let again = signed.call(&["build", "--push", "--force"]).ok().reference();
    assert_eq!(signed.manifest("app", &again).digest, manifest.digest, "the same image");
    signed.call(&["verify", &again.to_string()]).ok();
    let steps = crate::world::listing(&signed.repo().path.join("target/steps"));
    assert!(!steps.is_empty() && steps.iter().all(|(_, bytes)| !String::from_utf8_lossy(bytes).contains(secret)));
}

#[test]
fn an_image_that_was_published_without_a_signature_is_built_again_where_it_is_signed() {
    let Some(signed) = Signed::new("unsigned") else { return };
    let repo = signed.repo();
    repo.edit("images.toml", "public-key = \"sign.pub\"", "public-key = \"sign.pub\"\nonly = \"ci\"").commit("in CI");
    // At a desk, which has no key.
    let desk = repo.xtask(&["build", "--push"]).without_engine().run().ok().reference();
    signed.call(&["verify", &desk.to_string()]).ends(6).says("it has no signature");
    let in_ci = || {
        repo.xtask(&["build", "--push", "--format", "json"])
            .env("XTASK_SIGNING_KEY_FILE", &signed.key)
            .env("CI", "1")
            .without_engine()
    };
    let report = in_ci().run().ok().report();
    assert_eq!(report.actions(), crate::fixture::actions("built", "built"));
    assert!(report.image("app")["reasons"].to_string().contains("is not signed"), "{report:?}");
    let app = repo.repository("app").digest(report.digest("app").parse().unwrap());
    signed.call(&["verify", &app.to_string()]).ok();
    assert_eq!(repo.digest("app", "latest"), report.digest("app"));
    assert_eq!(in_ci().run().ok().report().actions(), crate::fixture::actions("reused", "reused"));
}

/// A database of one record, in OSV's own format.
const RECORD: &str = r#"{"id": "GHSA-aaaa-bbbb-cccc", "aliases": ["CVE-2026-1001"], "summary": "scipy reads past the end",
    "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
    "affected": [{"package": {"ecosystem": "PyPI", "name": "scipy"},
    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.17.0"}]}]}]}"#;

fn statement(expires: &str) -> String {
    format!(
        r#"{{"@context": "https://openvex.dev/ns/v0.2.0", "@id": "own", "author": "us", "timestamp": "2026-01-01T00:00:00Z", "version": 1,
        "statements": [{{"vulnerability": {{"name": "CVE-2026-1001"}}, "products": [{{"@id": "pkg:pypi/scipy"}}], "status": "not_affected",
        "justification": "vulnerable_code_not_in_execute_path", "expires": "{expires}"}}]}}"#
    )
}

#[test]
fn a_vulnerability_stops_an_image_until_it_is_fixed_or_dismissed() {
    let Some(world) = World::new("scan") else { return };
    let repo = &world.repo;
    let site = "code/lib/python3.12/site-packages/scipy-1.16.3.dist-info/METADATA";
    repo.write(site, "Metadata-Version: 2.4\nName: scipy\nVersion: 1.16.3\n").write("osv/GHSA.json", RECORD);
    let step = "name = \"scan\"\nuses = \"scan\"\ndatabase = \"osv\"\nimages = [\"app\"]";
    repo.step(step).commit("scan");
    let call = |args: &[&str]| repo.xtask(args).without_engine().run();
    call(&["build", "--push"]).ends(4).says("scipy 1.16.3 has CVE-2026-1001 (critical): fixed in 1.17.0");
    assert!(repo.tags("app").is_empty(), "no tag moved");
    // Bad settings and statements stop it before anything is built.
    let policy = repo.read("images.toml");
    repo.edit("images.toml", "database = \"osv\"", "database = \"none\"\nvex = \"vex/own.json\"")
        .write("vex/own.json", "{}");
    call(&["build", "--push"]).ends(2).says("`vex/own.json`: missing field");
    repo.edit("images.toml", "uses = \"scan\"", "uses = \"scan\"\nfail-on = \"worst\"\nfail-off = 1");
    call(&["build", "--push"]).ends(2).says("`step.fail-on` is not one of").says("`step.fail-off`");

    repo.write("images.toml", &policy).edit(
        "images.toml",
        "database = \"osv\"",
        "database = \"osv\"\nvex = [\"vex/own.json\"]",
    );
    repo.write("vex/own.json", &statement("2999-12-31")).commit("statement");
    let app = call(&["build", "--push"]).ok().says("1 dismissed").reference().to_string();
    let sarif = format!("target/steps/scan/app-{}.sarif", Platform::host().dashed());
    if let Some(read) = readers::read(&[&repo.path.join(&sarif)]) {
        assert_eq!(read.unwrap()["sarif"], serde_json::json!(["CVE-2026-1001"]));
    }
    let sarif: Value = serde_json::from_str(&repo.read(&sarif)).unwrap();
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(result["suppressions"][0]["status"], "accepted");
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "requirements-enhanced.lock");
    let line = usize::try_from(place["region"]["startLine"].as_u64().unwrap()).unwrap();
    assert!(repo.read("requirements-enhanced.lock").lines().nth(line - 1).unwrap().starts_with("scipy==1.16.3"));

    let found = call(&["scan", &app, "--format", "json"]).ok();
    // A password in an address is refused before a registry is asked.
    let asked = world.proxy.seen().len();
    call(&["scan", &app, "--database", "https://user:m4rker@example.com/osv"])
        .ends(2)
        .says("without a user name")
        .keeps("m4rker");
    assert_eq!(world.proxy.seen().len(), asked);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(xtask::documents::SCAN.unlisted(&found), [""; 0], "{found:#}");
    assert_eq!(found["vulnerabilities"][0]["fixed"], "1.17.0");
    repo.write("vex/own.json", &statement("2020-01-01"));
    let over = call(&["scan", &app]).ends(6).says("too severe");
    assert!(over.stdout.contains("ended on 2020-01-01") && over.stdout.contains("!  critical 9.8"), "{}", over.stdout);
    call(&["scan", &app, "--fail-on", "never"]).ok();

    // An archive with a signature, and what somebody changed in it.
    let keys = tempfile::tempdir().unwrap();
    let key = new_key(keys.path(), "sign.key");
    let public = std::fs::read_to_string(public_of(&key)).unwrap();
    repo.write("db.pub", &public).write("vex/own.json", &statement("2999-12-31"));
    repo.edit("images.toml", "database = \"osv\"", "database = \"osv.zip\"\npublic-key = \"db.pub\"");
    let archive = repo.path.join("osv.zip");
    let zip = |record: &str| {
        let script = "import sys, zipfile\nzipfile.ZipFile(sys.argv[1], 'w').writestr('GHSA.json', sys.argv[2])";
        runs(Command::new("python3").args(["-c", script]).arg(&archive).arg(record));
    };
    zip(RECORD);
    call(&["scan", &app]).ends(2).says("its signature `.sig` cannot be read");
    let raw = keys.path().join("raw");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    openssl(&["dgst", "-sha256", "-sign", &path(&key), "-out", &path(&raw), &path(&archive)]);
    repo.write("osv.zip.sig", &xtask_host::signing::base64(&std::fs::read(&raw).unwrap()));
    call(&["scan", &app]).ok();
    zip(&RECORD.replace("1.17.0", "1.16.0"));
    call(&["scan", &app]).ends(2).says("is damaged").says("its signature is not by the key");
}

#[test]
fn a_bundle_carries_images_with_everything_attached() {
    let Some(signed) = Signed::new("bundle") else { return };
    let repo = signed.repo();
    signed.push();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let names = [format!("{}:main", repo.repository("app")), format!("{}:latest", repo.repository("app-base"))];
    let create = |file: &str, more: &[&str]| {
        let args = [&["bundle", "create", "-o", file][..], more, &[&names[0], &names[1]]].concat();
        signed.call(&args)
    };
    let (first, second) = (at("first.tar"), at("second.tar"));
    create(&first, &[]).ok();
    let bytes = std::fs::read(&first).unwrap();
    // What was interrupted is continued, and gives the same archive; a damaged rest is written again.
    // Blobs are in the order of their digests: in half of an archive the first may be the largest, and not be whole.
    let nearly = &bytes[..bytes.len() - 2048];
    std::fs::write(format!("{second}.partial"), nearly).unwrap();
    create(&second, &[]).ok().says("continues");
    assert!(std::fs::read(&second).unwrap() == bytes);
    let mut half = bytes[..bytes.len() / 2].to_vec();
    std::fs::write(format!("{second}.partial"), &half).unwrap();
    create(&second, &[]).ok();
    assert!(std::fs::read(&second).unwrap() == bytes);
    half[512] ^= 1;
    std::fs::write(format!("{second}.partial"), &half).unwrap();
    create(&second, &[]).ok();
    assert!(std::fs::read(&second).unwrap() == bytes);
    if let Some(skopeo) = program("skopeo") {
        let said = runs(Command::new(skopeo).arg("inspect").arg(format!("oci-archive:{first}:main")));
        assert!(said.contains("org.opencontainers.image.revision"), "{said}");
    }

    let store = tempfile::tempdir().unwrap();
    let path = store.path().join("store");
    let other = RealRegistry::start_at(&repo.engine.registry_program(), store, &path, false);
    let proxy = FaultProxy::before(other.address);
    let to = format!("{}/far", proxy.host());
    let load =
        |file: &str, more: &[&str]| signed.call(&[&["bundle", "load", file, "--registry", &to][..], more].concat());
    let tags = || client().tags(&format!("{to}/app").parse().unwrap()).unwrap();
    // Every byte is checked before anything is sent.
    let mut damaged = bytes.clone();
    damaged[512] ^= 1;
    std::fs::write(&second, &damaged).unwrap();
    load(&second, &[]).ends(2).says("is damaged");
    std::fs::write(&second, &bytes[..bytes.len() / 2]).unwrap();
    load(&second, &[]).ends(2).says("is damaged");
    let stranger = public_of(&new_key(folder.path(), "other.key"));
    load(&first, &["--key", stranger.to_str().unwrap()]).ends(6).says("has no signature by this key");
    assert_eq!(tags(), xtask_host::registry::Answer::Absent);
    // A tag that cannot be written is written by the next call, which sends nothing else.
    let refusal = Answer::new(403).body("{\"errors\": [{\"code\": \"DENIED\", \"message\": \"as scripted\"}]}");
    proxy.on("PUT", "/app/manifests/main", 100, Mishap::Answer(refusal));
    load(&first, &[]).ends(5);
    proxy.clear();
    let public = repo.path.join("sign.pub");
    let loaded = load(&first, &["--key", public.to_str().unwrap(), "--format", "json"]).ok();
    let loaded: Value = serde_json::from_str(&loaded.stdout).unwrap();
    assert_eq!(xtask::documents::BUNDLE_LOAD.unlisted(&loaded), [""; 0], "{loaded:#}");
    assert_eq!((&loaded["sent"], loaded["images"].as_array().unwrap().len()), (&Value::from(0), 2));
    let verify = || signed.call(&["verify", &format!("{to}/app:main"), "--registry", &to]).ok();
    verify();

    // The next image without what the other side has.
    let have = signed.call(&["bundle", "have", "--registry", &to]).ok().stdout;
    std::fs::write(at("have.json"), have).unwrap();
    repo.write("templates/page.html", "next").commit("next");
    signed.push();
    let small = create(&second, &["--since", &at("have.json"), "--format", "json"]).ok();
    let small: Value = serde_json::from_str(&small.stdout).unwrap();
    assert_eq!(xtask::documents::BUNDLE_CREATE.unlisted(&small), [""; 0], "{small:#}");
    assert!(small["left_out"].as_u64().unwrap() > 3, "{small:#}");
    assert!(std::fs::metadata(&second).unwrap().len() < bytes.len() as u64 / 2);
    load(&second, &[]).ok();
    verify();
    let elsewhere = format!("{}/empty", proxy.host());
    let refused = signed.call(&["bundle", "load", &second, "--registry", &elsewhere]).ends(2);
    refused.says("leaves out").says("bundle have");
}

#[test]
fn an_app_on_another_machine_reads_no_layer_of_the_base() {
    let Some(signed) = Signed::new("nolayers") else { return };
    signed.push();
    let base = signed.world.manifest("app-base", "latest");
    let elsewhere = signed.repo().clone("elsewhere");
    elsewhere.write("templates/page.html", "<p>two</p>").commit("two");
    let call = elsewhere.xtask(&["build", "--push"]).env("XTASK_SIGNING_KEY_FILE", &signed.key).without_engine();
    let (app, traffic) = signed.world.traffic(|| call.run().ok().reference());
    assert_eq!(traffic.read(&base.layers), vec![0; base.layers.len()], "layers of the base were downloaded");
    let diff =
        signed.call(&["sbom", "--diff", &app.to_string(), &format!("{}:latest", signed.repo().repository("app"))]).ok();
    assert_eq!(diff.stdout, "nothing differs\n");
}

#[test]
fn a_program_attaches_what_its_outcome_names_and_may_stop_the_build() {
    let Some(world) = World::new("protocol") else { return };
    let repo = &world.repo;
    let script = "run = [\"sh\", \"checks/run.sh\"]";
    repo.step(&format!("name = \"own\"\n{script}"));
    repo.write(
        "checks/run.sh",
        "set -e\ngrep -q '\"kind\":\"app\"' \"$XTASK_REQUEST\"\necho '{\"found\": 1}' > \"$XTASK_OUTPUT/found.json\"\n\
         echo '{\"protocol\": 1, \"attach\": [{\"artifact_type\": \"application/vnd.example.found+json\", \"file\": \"found.json\"}]}' > \"$XTASK_OUTCOME\"\n",
    );
    repo.commit("step");
    let app = repo.push();
    let found = world.repo.published("app", &app.digest("app")).unwrap();
    let manifest = found.platforms[&Platform::host()].digest;
    let (client, repository) = (client(), repo.repository("app"));
    let attached = attach::find(&client, &repository, &manifest, "application/vnd.example.found+json").unwrap();
    assert_eq!(attached[0].documents[0].bytes, b"{\"found\": 1}\n");
    for (outcome, why) in [
        (
            "{\"protocol\": 1, \"passed\": false, \"findings\": [{\"severity\": \"error\", \"message\": \"a GPL licence\"}]}",
            "a GPL licence",
        ),
        (
            "{\"protocol\": 1, \"attach\": [{\"artifact_type\": \"a/b\", \"file\": \"../../../images.toml\"}]}",
            "outside the output folder",
        ),
        ("{\"protocol\": 9}", "version 9 of the protocol"),
    ] {
        repo.write("checks/run.sh", &format!("echo '{outcome}' > \"$XTASK_OUTCOME\"\n"));
        repo.write("templates/page.html", why).commit("again");
        repo.xtask(&["build", "--push"]).without_engine().run().ends(4).says(why).says("own");
        assert_eq!(repo.digest("app", "latest"), app.digest("app"));
    }
}

#[test]
fn steps_that_do_not_wait_for_each_other_run_in_parallel() {
    let Some(world) = World::new("parallel") else { return };
    let meet = |own: &str, other: &str| {
        let script = format!(
            "touch target/{own}; i=0; while ! test -e target/{other}; do i=$((i+1)); test $i -lt 400 || exit 1; sleep 0.05; done"
        );
        format!("name = \"{own}\"\nneeds = []\nrun = [\"sh\", \"-c\", \"{script}\"]")
    };
    world.repo.step(&meet("one", "two")).step(&meet("two", "one"));
    world
        .repo
        .step("name = \"last\"\nneeds = [\"one\", \"two\"]\nrun = [\"test\", \"-e\", \"target/two\"]")
        .commit("steps");
    let seconds = world.repo.push().image("app")["seconds"].to_string();
    for step in ["step one", "step two", "step last"] {
        assert!(seconds.contains(step), "{seconds}");
    }
}
