//! `plan` and `explain` with a real registry: published, lost, foreign and unreachable images.

#![allow(clippy::disallowed_methods, reason = "the program under test, run as a person's shell would run it")]

#[allow(dead_code, unreachable_pub, reason = "shared with another test")]
mod history;
#[path = "support/real_registry.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod real_registry;

use history::{Repo, seed};
use real_registry::RealRegistry;
use std::collections::BTreeMap;
use std::path::Path;
use xtask::commands::plan::plan;
use xtask::flags::{Format, Global, PlanFlags};
use xtask::survey::{Snapshot, Untaken};
use xtask_host::registry::Client;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::change::{Decision, Presence};
use xtask_model::image::key::{AppKey, BaseKey, FINGERPRINT_LABEL, KEY_LABEL, Key};
use xtask_model::image::policy::ImageKind;
use xtask_model::image::presence::REVISION;
use xtask_model::spec::oci::annotation;
use xtask_model::spec::reference::{Digest, Repository, Tag};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn global(root: &Path, registry: &str) -> Global {
    Global {
        root: Some(root.to_owned()),
        registry: Some(registry.parse().unwrap()),
        format: Format::Text,
        locked: false,
        offline: false,
        verbose: false,
        quiet: true,
    }
}

/// A root of which nobody is asked: its registry answers nowhere.
const ROOT: &str = "127.0.0.99:9/library/python:3.12-slim";

/// A committed repository whose root is pinned.
fn committed() -> Repo {
    let (repo, mut state) = (Repo::new(), seed());
    let lock =
        format!("[root]\nimage = \"{ROOT}\"\n\n[root.platforms]\n\"linux/amd64\" = \"{}\"\n", Digest::of(b"root"));
    let policy = history::seeded("images.toml").replace("docker.io/library/python:3.12-slim", ROOT);
    state.insert("images.toml".to_owned(), (0o100_644, policy.into_bytes()));
    state.insert("images.lock".to_owned(), (0o100_644, lock.into_bytes()));
    repo.import(&[state]);
    repo.checkout_branch("main");
    repo
}

struct Here {
    client: Client,
    base: (Repository, BaseKey),
    app: (Repository, AppKey),
}

fn here(global: &Global) -> Here {
    let tree = global.tree_of(Box::new(global.root.clone().unwrap())).unwrap();
    let client = tree.client();
    let here = Snapshot::take(tree).map_err(Untaken::fault).unwrap();
    let (base, app) = here.keys(&here.footing(global).unwrap().root.unwrap());
    let repository = |kind| here.tree.repository(kind);
    Here { base: (repository(ImageKind::Base), base), app: (repository(ImageKind::App), app), client }
}

impl Here {
    /// An image of these labels under these tags, as small as an image can be.
    fn put(&self, repository: &Repository, labels: &BTreeMap<&str, String>, tags: &[Tag]) -> Digest {
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {"Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        let config = config.to_string().into_bytes();
        let digest = Digest::of(&config);
        self.client.upload(repository, &digest, config.len() as u64, &config).unwrap();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": config.len()},
        });
        let manifest = manifest.to_string();
        for tag in tags {
            self.client.put_manifest(repository, tag.clone(), MANIFEST, manifest.as_bytes()).unwrap();
        }
        Digest::of(manifest.as_bytes())
    }

    /// The base under its tag and `latest`, or under its tag alone.
    fn publish_base(&self, tags: &[Tag]) -> Digest {
        self.put(&self.base.0, &labels(&self.base.1), tags)
    }

    /// The app on this base.
    fn publish_app(&self, base: Digest, tags: &[Tag]) {
        self.publish_app_of("", base, tags);
    }

    /// The same, built from this revision.
    fn publish_app_of(&self, revision: &str, base: Digest, tags: &[Tag]) {
        let mut labels = labels(&self.app.1);
        labels.insert(REVISION, revision.to_owned());
        labels.insert(annotation::BASE_DIGEST, base.to_string());
        self.put(&self.app.0, &labels, tags);
    }
}

fn labels(key: &impl Key) -> BTreeMap<&'static str, String> {
    BTreeMap::from([(FINGERPRINT_LABEL, key.fingerprint().to_string()), (KEY_LABEL, key.json())])
}

fn decide(global: &Global) -> Result<xtask_model::image::change::Plan, Fault> {
    plan(global, &PlanFlags { base: Some("HEAD".to_owned()), ..PlanFlags::default() }, &|_| None)
}

fn explain(global: &Global) -> (i32, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["explain", "--registry", &global.registry.as_ref().unwrap().to_string(), "--root"]);
    let output = command.arg(global.root.as_ref().unwrap()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_the_registry_holds_decides_too() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let repo = committed();
    let global = global(repo.root(), &format!("{}/acme", registry.address));
    let before = here(&global);

    let found = decide(&global).unwrap();
    assert_eq!(found.decision, Decision::BaseFast);
    assert!(found.reasons[0].ends_with("is not in the registry; nothing of yours changed"), "{:?}", found.reasons);
    let (code, out, err) = explain(&global);
    assert_eq!((code, out.matches("nothing is published yet").count()), (0, 2), "{out}{err}");

    let tag = |key: &dyn Fn() -> xtask_model::image::key::Fingerprint| key().tag(12);
    let base_tag = tag(&|| before.base.1.fingerprint());
    let base = before.publish_base(&[base_tag.clone(), Tag::latest()]);
    let found = decide(&global).unwrap();
    assert_eq!((found.decision, &found.base), (Decision::Fast, &Presence::Present));
    assert_eq!(found.base_reference, Some(before.base.0.tag(&base_tag)));

    let app_tag = tag(&|| before.app.1.fingerprint());
    before.publish_app(Digest::of(b"an older build"), &[app_tag.clone(), Tag::latest()]);
    let found = decide(&global).unwrap();
    assert_eq!(found.decision, Decision::Fast, "{:?}", found.reasons);
    assert!(matches!(found.app, Presence::Stale(_)), "{:?}", found.app);
    before.publish_app(base, &[app_tag.clone(), Tag::latest()]);
    assert_eq!(decide(&global).unwrap().decision, Decision::Skip);
    let (_, out, _) = explain(&global);
    assert_eq!(out.matches("nothing differs").count(), 2, "{out}");

    // A newer scipy in the lock, and a template: each is named, and the base has to be built.
    let lock = history::seeded("requirements-enhanced.lock");
    let line = lock.lines().find(|line| line.starts_with("scipy==")).unwrap();
    let version = line["scipy==".len()..].split([' ', ';']).next().unwrap();
    repo.file("requirements-enhanced.lock", &lock.replace(&format!("scipy=={version}"), "scipy==1.99.0"));
    repo.file("autoscaler/templates/new.html", "x\n");
    let found = decide(&global).unwrap();
    assert_eq!(found.decision, Decision::BaseFast, "{:?}", found.reasons);
    let said = format!("scipy {version} -> 1.99.0 (requirements-enhanced.lock)");
    assert_eq!(found.reasons[0], format!("base: {said}"));
    let (_, out, _) = explain(&global);
    assert!(out.contains(&said) && out.contains("autoscaler/templates/new.html is new"), "{out}");

    // Another branch built that base already: the app alone is left.
    let after = here(&global);
    after.publish_base(&[after.base.1.fingerprint().tag(12)]);
    let found = decide(&global).unwrap();
    assert_eq!((found.decision, found.requirements_changed()), (Decision::Fast, true));
    repo.git(&["checkout", "-q", "."]);
    repo.git(&["clean", "-fdq"]);

    // Something else under the tag is an error, and never a base.
    before.put(&before.base.0, &BTreeMap::new(), std::slice::from_ref(&base_tag));
    let fault = decide(&global).unwrap_err();
    assert_eq!(fault.exit, Exit::Drift, "{fault}");
}

#[test]
fn a_loss_of_the_registry_is_distinguished_from_a_change() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let repo = committed();
    let global = global(repo.root(), &format!("{}/acme", registry.address));
    let here = here(&global);
    here.publish_base(&[Tag::latest()]);
    let (code, out, err) = explain(&global);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(":latest`\n  the registry lost it, nothing of yours changed\n"), "{out}");
}

#[test]
fn changed_sources_of_a_published_program_are_named() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let repo = committed();
    let global = global(repo.root(), &format!("{}/acme", registry.address));
    let here = here(&global);
    let base = here.publish_base(&[Tag::latest()]);
    let id = repo.lines(&["rev-parse", "HEAD"])[0].clone();
    let short = &id[..12];
    repo.file("autoscaler/src/main.rs", "fn main() { }\n");
    // Another commit than the one that was published is checked out, and nothing of the key says which files it held.
    repo.commit("code");
    let says = |revision: &str, said: &str| {
        here.publish_app_of(revision, base, &[Tag::latest()]);
        let (code, out, err) = explain(&global);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains(&format!("\n  sources of autoscaler/autoscaler {said}")), "{out}");
    };
    says(&id, &format!("changed since {short}: autoscaler/src/main.rs\n"));
    says(&format!("{id}-dirty"), &format!("changed since {short}: autoscaler/src/main.rs\n"));
    says(&"1".repeat(40), "(which ones cannot be told: revision `1111");
    // A commit whose sources are not those of the key says nothing about them.
    let now = repo.lines(&["rev-parse", "HEAD"])[0].clone();
    says(&now, &format!("(which ones cannot be told: it was built from more than commit {})", &now[..12]));
}

#[test]
fn an_unreachable_registry_fails_open_in_a_plan_and_is_an_error_in_an_explanation() {
    let repo = committed();
    // A port that nobody listens on.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let global = global(repo.root(), &address.to_string());
    let found = decide(&global).unwrap();
    assert_eq!(found.decision, Decision::BaseFast);
    assert!(matches!(found.base, Presence::Unknown(_)));
    assert!(found.reasons[0].starts_with("whether the registry has the base cannot be known"), "{:?}", found.reasons);
    let (code, out, err) = explain(&global);
    assert_eq!((code, out.as_str()), (5, ""), "{err}");
    assert!(err.contains("--offline"), "{err}");
}
