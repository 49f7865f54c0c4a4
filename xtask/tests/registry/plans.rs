//! `plan` and `explain` with a real registry: published, lost, foreign and unreachable images.

use crate::{history, real_registry};
use history::{Repo, seed};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use real_registry::RealRegistry;
use std::collections::BTreeMap;
use std::path::Path;
use xtask::flags::{BuildFlags, Format, Global, PlanFlags};
use xtask::pipeline::{Sources, Target, Unreadable, plan_tree, planned};
use xtask_host::registry::{Answer, Client};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::change::{ChangePlan, Ready, Work};
use xtask_model::image::key::{AppKey, BaseKey, FINGERPRINT_LABEL, KEY_LABEL, Key};
use xtask_model::image::plan::Decision;
use xtask_model::image::policy::{Engine, ImageKind};
use xtask_model::image::presence::{Presence, REVISION};
use xtask_model::spec::oci::annotation;
use xtask_model::spec::reference::{Digest, Repository, Tag};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn global(root: &Path, registry: &str) -> Global {
    Global {
        root: Some(root.to_owned()),
        registry: Some(registry.parse().unwrap()),
        app: Vec::new(),
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
    committed_with(|policy| policy)
}

/// The same with an edit of its policy.
fn committed_with(edit: impl FnOnce(String) -> String) -> Repo {
    let (repo, mut state) = (Repo::new(), seed());
    let lock =
        format!("[root]\nimage = \"{ROOT}\"\n\n[root.platforms]\n\"linux/amd64\" = \"{}\"\n", Digest::of(b"root"));
    let policy = history::seeded("images.toml").replace("docker.io/library/python:3.12-slim", ROOT);
    state.insert("images.toml".to_owned(), (0o100_644, edit(policy).into_bytes()));
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
    let sources = Sources::read_all(&tree).map_err(Unreadable::fault).unwrap();
    let plan = plan_tree(global, &sources).unwrap();
    let base = sources.base_key(&plan.root.unwrap());
    let app = sources.app_key(&base.fingerprint());
    Here { base: (tree.repository(ImageKind::Base), base), app: (tree.repository(ImageKind::App), app), client }
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

/// The plan of the only app.
fn plan(global: &Global, flags: &PlanFlags, variable: &dyn Fn(&str) -> Option<String>) -> Result<ChangePlan, Fault> {
    xtask::commands::plan::plan(global, flags, variable).map(|plans| plans.all()[0].clone())
}

fn decide(global: &Global) -> Result<ChangePlan, Fault> {
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
    assert_eq!(found.decision, Work::BaseFast);
    assert!(found.reasons[0].ends_with("is not in the registry, although no input changed"), "{:?}", found.reasons);
    let (code, out, err) = explain(&global);
    assert_eq!((code, out.matches("nothing is published yet").count()), (0, 2), "{out}{err}");

    let tag = |key: &dyn Fn() -> xtask_model::image::key::Fingerprint| key().tag(12);
    let base_tag = tag(&|| before.base.1.fingerprint());
    let base = before.publish_base(&[base_tag.clone(), Tag::latest()]);
    let found = decide(&global).unwrap();
    assert_eq!((found.decision, found.base.ready()), (Work::Fast, Ready::Yes));
    assert_eq!(found.base.reference, Some(before.base.0.tag(&base_tag)));

    let app_tag = tag(&|| before.app.1.fingerprint());
    before.publish_app(Digest::of(b"an older build"), &[app_tag.clone(), Tag::latest()]);
    let found = decide(&global).unwrap();
    assert_eq!(found.decision, Work::Fast, "{:?}", found.reasons);
    assert!(matches!(found.app.ready(), Ready::No(why) if why.contains("different base")), "{:?}", found.app);
    before.publish_app(base, &[app_tag.clone(), Tag::latest()]);
    assert_eq!(decide(&global).unwrap().decision, Work::Skip);
    let (_, out, _) = explain(&global);
    assert_eq!(out.matches("nothing differs").count(), 2, "{out}");

    // A newer scipy in the lock, and a template: each is named, and the base has to be built.
    let lock = history::seeded("requirements-enhanced.lock");
    let line = lock.lines().find(|line| line.starts_with("scipy==")).unwrap();
    let version = line["scipy==".len()..].split([' ', ';']).next().unwrap();
    repo.file("requirements-enhanced.lock", &lock.replace(&format!("scipy=={version}"), "scipy==1.99.0"));
    repo.file("autoscaler/templates/new.html", "x\n");
    let found = decide(&global).unwrap();
    assert_eq!(found.decision, Work::BaseFast, "{:?}", found.reasons);
    let said = format!("scipy {version} -> 1.99.0 (requirements-enhanced.lock)");
    assert_eq!(found.reasons[0], format!("base: {said}"));
    let (_, out, _) = explain(&global);
    assert!(out.contains(&said) && out.contains("autoscaler/templates/new.html is new"), "{out}");

    // Another branch built that base already: the app alone is left.
    let after = here(&global);
    after.publish_base(&[after.base.1.fingerprint().tag(12)]);
    let found = decide(&global).unwrap();
    assert_eq!((found.decision, found.requirements_changed()), (Work::Fast, true));
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
    assert!(out.contains(":latest`\n  the registry lost it, although no input changed\n"), "{out}");
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
    says(&"1".repeat(40), "(which ones is unknown: revision `1111");
    // A commit whose sources are not those of the key says nothing about them.
    let now = repo.lines(&["rev-parse", "HEAD"])[0].clone();
    says(&now, &format!("(which ones is unknown: it was built from more than commit {})", &now[..12]));
}

#[test]
fn an_unreachable_registry_fails_open_in_a_plan_and_is_an_error_in_an_explanation() {
    let repo = committed();
    // A port that nobody listens on.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let global = global(repo.root(), &address.to_string());
    let found = decide(&global).unwrap();
    assert_eq!(found.decision, Work::BaseFast);
    assert!(matches!(found.base.presence, Presence::Unknown(_)));
    assert!(found.reasons[0].starts_with("whether the registry has the base cannot be known"), "{:?}", found.reasons);
    let (code, out, err) = explain(&global);
    assert_eq!((code, out.as_str()), (5, ""), "{err}");
    assert!(err.contains("--offline"), "{err}");
}

/// States of an image in the registry.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Absent,
    Whole,
    /// A clean-up deleted the manifest that its index lists.
    Lost,
    /// For the app: whole, and built on another base.
    OnAnotherBase,
}

impl Here {
    fn set(&self, repository: &Repository, labels: &BTreeMap<&str, String>, tag: &Tag, state: State) -> Digest {
        if let Answer::Present(found) = self.client.head(repository, tag).unwrap() {
            self.client.delete_manifest(repository, found.digest).unwrap();
        }
        if state == State::Absent {
            return Digest::of(b"absent");
        }
        if state != State::Lost {
            return self.put(repository, labels, std::slice::from_ref(tag));
        }
        let manifest = self.put(repository, labels, &[Tag::from_name("staging").unwrap()]);
        let size = self.client.manifest(repository, manifest).unwrap().present().unwrap().bytes.len();
        let platform = serde_json::json!({"os": "linux", "architecture": "amd64"});
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": INDEX, "annotations": labels,
            "manifests": [{"mediaType": MANIFEST, "digest": manifest, "size": size, "platform": platform}],
        });
        let index = index.to_string();
        self.client.put_manifest(repository, tag.clone(), INDEX, index.as_bytes()).unwrap();
        self.client.delete_manifest(repository, manifest).unwrap();
        Digest::of(index.as_bytes())
    }
}

/// `plan` and `build` gather facts in two ways, and decide alike from any state of the registry.
#[test]
fn plan_and_build_decide_alike_in_every_state_of_the_registry() {
    let Some(registry) = RealRegistry::start(false) else { return };
    // Without a fallback the root of the registry is the only one, whether it can be reached or not.
    let repo = committed_with(|policy| {
        let (before, rest) = policy.split_once("fallback = \"debian\"\n").unwrap();
        let (_, after) = rest.split_once("[base]\n").unwrap();
        format!("{before}\n[base]\n{after}")
    });
    let global = global(repo.root(), &format!("{}/acme", registry.address));
    let here = here(&global);
    let (base_tag, app_tag) = (here.base.1.fingerprint().tag(12), here.app.1.fingerprint().tag(12));
    let states = [State::Absent, State::Whole, State::Lost, State::OnAnotherBase];
    let strategy = (0_usize..3, 0_usize..4, any::<bool>(), any::<bool>());
    let config = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
    let law = |(base, app, force, fast): (usize, usize, bool, bool)| {
        let (base, app) = (states[base], states[app]);
        let digest = here.set(&here.base.0, &labels(&here.base.1), &base_tag, base);
        let mut own = labels(&here.app.1);
        let on = if app == State::OnAnotherBase { Digest::of(b"an older build") } else { digest };
        own.insert(annotation::BASE_DIGEST, on.to_string());
        here.set(&here.app.0, &own, &app_tag, app);

        let tree = global.tree_of(Box::new(repo.root().to_owned())).unwrap();
        let sources = Sources::read_all(&tree).map_err(Unreadable::fault).unwrap();
        let seen = plan_tree(&global, &sources).unwrap();
        let flags = BuildFlags { push: true, engine: Some(Engine::Docker), ..BuildFlags::default() };
        let built = planned(&global, &flags, Target::App).unwrap();
        let action = |decision: &Decision| match decision {
            Decision::Reuse { digest, platforms, .. } => format!("reuse {digest} {platforms:?}"),
            Decision::Build { platforms, reasons } => format!("build {platforms:?} {}", reasons[0]),
        };
        let seen = [seen.base, seen.app].map(|image| action(&image.decision.unwrap()));
        let built = [built.base, built.app].map(|image| action(&image.unwrap().decision));
        prop_assert_eq!(&seen, &built);
        let builds = [base != State::Whole, base != State::Whole || app != State::Whole];
        prop_assert_eq!(built.map(|action| action.starts_with("build")), builds);

        // `--force` builds both, and `build-fast` never builds a base.
        let target = if fast { Target::Fast } else { Target::App };
        match planned(&global, &BuildFlags { force, ..flags }, target) {
            Err(fault) => prop_assert!(fast && base != State::Whole, "{}", fault),
            Ok(plan) => {
                prop_assert!(!fast || base == State::Whole);
                prop_assert_eq!(plan.base.unwrap().builds(), !fast && (force || builds[0]));
                prop_assert_eq!(plan.app.unwrap().builds(), force || builds[1]);
            }
        }
        Ok(())
    };
    TestRunner::new(config).run(&strategy, law).unwrap_or_else(|error| panic!("{error}"));
}
