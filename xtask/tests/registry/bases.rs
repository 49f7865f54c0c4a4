//! The published bases, over the real binary and distribution's own registry: list, pin, rollback, prune.

use crate::real_registry;
use real_registry::RealRegistry;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use xtask_host::clock;
use xtask_host::registry::publish::parts::{self, LayerPart};
use xtask_host::registry::publish::{self, Publication, platform_tag};
use xtask_host::registry::survey::{SurveyRequest, survey};
use xtask_host::registry::{Answer, Client, ClientOptions};
use xtask_model::image::key::Fingerprint;
use xtask_model::image::presence::{CREATED, REVISION};
use xtask_model::spec::oci::{Config, Descriptor, Execution, Manifest, RootFs, media_type};
use xtask_model::spec::reference::{Digest, Platform, Repository, Tag};
use xtask_native::files::part_id;
use xtask_native::recipes::python::PYTHON;

/// A registry with a repository for the tests, and a client of it.
struct Scene {
    registry: RealRegistry,
    client: Client,
    folder: tempfile::TempDir,
    commits: [String; 2],
}

/// The platform of the repository's policy.
fn platform() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn git(folder: &Path, args: &[&str]) -> String {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgSign=false"];
    let output = Command::new("git").current_dir(folder).args(identity).args(args).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Scene {
    fn new() -> Option<Self> {
        let registry = RealRegistry::start(false)?;
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let files = "images.toml dockerfiles requirements-enhanced.txt requirements-enhanced.lock Cargo.toml Cargo.lock autoscaler";
        for name in files.split(' ') {
            let status = Command::new("cp").arg("-r").arg(source.join(name)).arg(folder.path()).status().unwrap();
            assert!(status.success(), "cannot copy {name}");
        }
        // The binary's key is read from the whole workspace's manifests.
        for member in ["xtask", "xtask/model", "xtask/scan", "xtask/host", "xtask/native", "xtask/bench", "xtask/fuzz"]
        {
            let manifest = format!("{member}/Cargo.toml");
            std::fs::create_dir_all(folder.path().join(member)).unwrap();
            std::fs::copy(source.join(&manifest), folder.path().join(&manifest)).unwrap();
        }
        // A root of which nobody can be asked.
        let policy = std::fs::read_to_string(folder.path().join("images.toml")).unwrap();
        std::fs::write(folder.path().join("images.toml"), policy.replace("docker.io/", "127.0.0.99:9/")).unwrap();
        let pin = format!(
            "[root]\nimage = \"127.0.0.99:9/library/python:3.12-slim\"\n[root.platforms]\n\"linux/amd64\" = \"{}\"\n",
            Digest::of(b"root")
        );
        std::fs::write(folder.path().join("images.lock"), pin).unwrap();
        git(folder.path(), &["init", "-q", "-b", "main"]);
        git(folder.path(), &["add", "."]);
        git(folder.path(), &["commit", "-q", "-m", "one"]);
        let first = git(folder.path(), &["rev-parse", "HEAD"]);
        git(folder.path(), &["commit", "-q", "--allow-empty", "-m", "two"]);
        let commits = [first, git(folder.path(), &["rev-parse", "HEAD"])];
        Some(Self { registry, client: Client::new(ClientOptions::default()), folder, commits })
    }

    fn repository(&self, name: &str) -> Repository {
        format!("{}/{name}", self.registry.address).parse().unwrap()
    }

    fn xtask(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["--root", self.folder.path().to_str().unwrap(), "--registry", &self.registry.address.to_string()])
            .args(args)
            .env_remove("CI")
            .output()
            .unwrap()
    }

    #[track_caller]
    fn says(&self, args: &[&str], exit: i32, parts: &[&str]) -> String {
        let output = self.xtask(args);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(exit), "{said}");
        for part in parts {
            assert!(said.contains(part), "`{part}` is not in\n{said}");
        }
        said
    }

    fn blob(&self, repository: &Repository, media_type: &str, content: &[u8]) -> Descriptor {
        let digest = Digest::of(content);
        self.client.upload(repository, &digest, content.len() as u64, &content.to_vec()).unwrap();
        Descriptor::new(media_type, digest, content.len() as u64)
    }

    /// Pushes one platform's manifest as an engine does.
    fn push(
        &self,
        repository: &Repository,
        tag: &Tag,
        platform: &Platform,
        labels: BTreeMap<String, String>,
    ) -> Digest {
        let layer = self.blob(repository, media_type::LAYER_GZIP, format!("layer of {tag} {platform}").as_bytes());
        let config = Config {
            created: None,
            architecture: platform.architecture.clone(),
            variant: None,
            os: platform.os.clone(),
            config: Execution { labels, ..Execution::default() },
            rootfs: RootFs::new(vec![layer.digest]),
            history: Vec::new(),
            other: BTreeMap::new(),
        };
        let config = self.blob(repository, media_type::CONFIG, &serde_json::to_vec(&config).unwrap());
        let bytes = serde_json::to_vec(&Manifest::new(config, vec![layer])).unwrap();
        self.client.put_manifest(repository, platform_tag(tag, platform), media_type::MANIFEST, &bytes).unwrap()
    }

    /// Publishes an image as a build does. Returns its tag, its digest and its platform's manifest.
    fn publish(&self, image: (&str, &str), days: u64, commit: &str, tags: &[&str], on: Option<Digest>) -> Image {
        self.publish_for(image, days, commit, tags, (on, &platform()))
    }

    fn publish_for(
        &self,
        (repository, name): (&str, &str),
        days: u64,
        commit: &str,
        tags: &[&str],
        (on, platform): (Option<Digest>, &Platform),
    ) -> Image {
        let repository = self.repository(repository);
        let fingerprint: Fingerprint = Digest::of(name.as_bytes()).hex().parse().unwrap();
        let tag = fingerprint.tag(12);
        let created = clock::now() - Duration::from_secs(86_400 * days);
        let mut labels = BTreeMap::new();
        labels.insert(REVISION.to_owned(), commit.to_owned());
        labels.insert(CREATED.to_owned(), created.to_string());
        let notes = publish::notes(&fingerprint, "{}".to_owned(), &labels);
        if let Some(base) = on {
            publish::base_labels(&mut labels, "base", &base);
        }
        let manifest = self.push(&repository, &tag, platform, labels);
        let built = BTreeMap::from([(platform.clone(), manifest)]);
        let publication =
            Publication { repository: &repository, fingerprint, tag: tag.clone(), built, notes, replace: false };
        let digest = publish::publish(&self.client, &publication).unwrap().published.digest;
        for name in tags {
            publish::tag(&self.client, &repository, digest, &name.parse().unwrap()).unwrap();
        }
        Image { tag: tag.to_string(), digest, manifest }
    }

    fn digest(&self, repository: &str, name: &str) -> Option<Digest> {
        let repository = self.repository(repository);
        let head = match name.parse::<Digest>() {
            Ok(digest) => self.client.head(&repository, digest),
            Err(_) => self.client.head(&repository, name.parse::<Tag>().unwrap()),
        };
        head.unwrap().present().map(|head| head.digest)
    }
}

struct Image {
    tag: String,
    digest: Digest,
    manifest: Digest,
}

#[test]
fn a_base_is_listed_with_the_apps_that_use_it() {
    let Some(scene) = Scene::new() else { return };
    scene.says(&["base", "list"], 0, &["has no base"]);
    let base = scene.publish(("autoscaler-base", "one"), 3, &scene.commits[0], &["latest"], None);
    let arm = "linux/arm64".parse().unwrap();
    let partial = scene.publish_for(("autoscaler-base", "two"), 2, &scene.commits[1], &[], (None, &arm));
    scene.publish(("autoscaler", "app"), 1, &scene.commits[1], &["main", "1.2.3"], Some(base.manifest));
    let said = scene.says(&["base", "list"], 0, &["lacks linux/amd64", "3 days", "1.2.3, main"]);
    let line = said.lines().find(|line| line.starts_with(&base.tag)).unwrap();
    assert!(line.ends_with("latest") && line.contains("1.2.3, main"), "{line}");
    let json = scene.xtask(&["base", "list", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(xtask::documents::BASES.unlisted(&json), [""; 0]);
    let json = &json["bases"];
    assert_eq!((&json[0]["complete"], &json[1]["complete"]), (&false.into(), &true.into()));
    assert_eq!((json[0]["digest"].as_str(), &json[1]["latest"]), (Some(&*partial.digest.to_string()), &true.into()));
    assert_eq!(json[1]["used_by"][0], "1.2.3");
    assert_eq!(json[1]["this_tree"], false);
    scene.says(&["base", "list", "--offline"], 2, &["cannot be used with `--offline`"]);
}

#[test]
fn fifty_apps_are_listed_with_their_bases() {
    let Some(scene) = Scene::new() else { return };
    let bases: Vec<Image> =
        (0..4).map(|n| scene.publish(("autoscaler-base", &format!("base {n}")), n, "c", &[], None)).collect();
    for number in 0..50 {
        let on = bases[number % 4].manifest;
        scene.publish(("autoscaler", &format!("app {number}")), 1, "c", &[&format!("branch-{number}")], Some(on));
    }
    let (bases, apps) = (scene.repository("autoscaler-base"), scene.repository("autoscaler"));
    let began = Instant::now();
    let found = survey(&SurveyRequest {
        client: &scene.client,
        bases: &bases,
        apps: std::slice::from_ref(&apps),
        platforms: &[platform()],
        tag_length: 12,
        referrers: false,
    })
    .unwrap();
    let took = began.elapsed();
    println!("54 images were surveyed in {took:?}");
    assert_eq!((found.bases.len(), found.apps.len(), found.strays.len()), (4, 50, 0));
    assert!(found.bases.iter().all(|base| found.users(base).count() >= 12));
}

#[test]
fn a_prune_deletes_what_nothing_refers_to_and_nothing_else() {
    let Some(scene) = Scene::new() else { return };
    let newest = scene.publish(("autoscaler-base", "newest"), 1, "c", &["latest"], None);
    let used = scene.publish(("autoscaler-base", "used"), 90, "c", &[], None);
    let named = scene.publish(("autoscaler-base", "named"), 91, "c", &["release"], None);
    let unused = scene.publish(("autoscaler-base", "unused"), 92, "c", &[], None);
    let stale = scene.publish(("autoscaler-base", "stale"), 93, "c", &[], None);
    scene.publish(("autoscaler", "app"), 80, "c", &["1.0.0"], Some(used.manifest));
    let old = scene.publish(("autoscaler", "old app"), 80, "c", &[], Some(stale.manifest));
    let stray = scene.push(
        &scene.repository("autoscaler-base"),
        &"aaaaaaaaaaaa".parse().unwrap(),
        &platform(),
        BTreeMap::from([(CREATED.to_owned(), "2020-01-01T00:00:00Z".to_owned())]),
    );
    let plan = ["base", "prune", "--keep", "1"];
    let said = scene.says(
        &plan,
        0,
        &[
            "the app `1.0.0` is built on it",
            "the tag `release` names it",
            "no app is built on it",
            "keeps its own layers",
            "the build that pushed it was interrupted",
            "nothing was deleted",
        ],
    );
    assert!(scene.digest("autoscaler-base", &unused.tag).is_some(), "{said}");
    let json = scene.xtask(&[&plan[..], &["--format", "json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(xtask::documents::PRUNE.unlisted(&json), [""; 0], "{json:#}");
    scene.says(&[&plan[..], &["--yes"]].concat(), 0, &["deleted 5 manifests"]);
    for gone in [&unused, &stale] {
        for name in [gone.tag.clone(), gone.digest.to_string(), gone.manifest.to_string()] {
            assert_eq!(scene.digest("autoscaler-base", &name), None, "{name}");
        }
    }
    assert_eq!(scene.digest("autoscaler-base", &stray.to_string()), None);
    for kept in [&newest, &used, &named] {
        let base = scene.repository("autoscaler-base");
        let found = publish::read(&scene.client, &base, kept.tag.parse::<Tag>().unwrap()).unwrap().present().unwrap();
        assert_eq!(found.digest, kept.digest);
        assert_eq!(scene.digest("autoscaler-base", &kept.manifest.to_string()), Some(kept.manifest));
    }
    // The app whose base went is whole: its layers are in its own repository.
    let apps = scene.repository("autoscaler");
    let manifest = publish::read_manifest(&scene.client, &apps, old.manifest).unwrap();
    assert!(manifest.layers.iter().all(|layer| scene.client.has_blob(&apps, &layer.digest).unwrap()));
    let again = scene.says(&[&plan[..], &["--yes"]].concat(), 0, &[]);
    assert!(again.contains("nothing to delete") && !again.contains("delete `"), "{again}");
}

#[test]
fn a_part_of_a_root_goes_when_no_base_is_on_the_root() {
    let Some(scene) = Scene::new() else { return };
    let root = scene.repository("autoscaler-root");
    let part = |name: &str| {
        let id = part_id(&Digest::of(name.as_bytes()), &PYTHON);
        let layer = LayerPart { tar: name.as_bytes(), table: name.as_bytes().to_vec() };
        parts::keep(&scene.client, &root, &id, std::iter::once(Ok(layer))).unwrap();
        parts::tag(&id).to_string()
    };
    // `images.lock` pins this one.
    let [pinned, used, unused] = ["root", "used", "unused"].map(part);
    let image = scene.push(&root, &"debian".parse().unwrap(), &platform(), BTreeMap::new());
    let base = scene.publish(("autoscaler-base", "base"), 90, "c", &[], None);
    let key = format!("{{\"root\":{{\"digests\":{{\"linux/amd64\":\"{}\"}}}}}}", Digest::of(b"used"));
    let fingerprint: Fingerprint = Digest::of(b"on a root").hex().parse().unwrap();
    let on_root = Publication {
        repository: &scene.repository("autoscaler-base"),
        fingerprint,
        tag: fingerprint.tag(12),
        built: BTreeMap::from([(platform(), base.manifest)]),
        notes: publish::notes(&fingerprint, key, &BTreeMap::new()),
        replace: false,
    };
    let on_root = publish::publish(&scene.client, &on_root).unwrap().published.digest;
    let young = scene.says(&["prune"], 0, &[&format!("keep `{unused}`"), " min old", "nothing to delete"]);
    assert!(!young.contains("delete `"), "{young}");
    let plan = ["prune", "--older-than", "0m"];
    let said = scene.says(&plan, 0, &["`images.lock` pins its root", "is on its root", "nothing was deleted"]);
    let line = said.lines().find(|line| line.contains(&unused)).unwrap();
    assert!(line.contains("delete") && line.ends_with("old, and no base is on its root"), "{said}");
    let json = scene.xtask(&[&plan[..], &["--format", "json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(xtask::documents::PRUNE.unlisted(&json), [""; 0], "{json:#}");
    assert_eq!(json["parts"].as_array().unwrap().len(), 3, "{json:#}");
    scene.says(&[&plan[..], &["--yes"]].concat(), 0, &["deleted 1 manifests of parts of roots"]);
    assert_eq!(scene.digest("autoscaler-root", &unused), None);
    assert!(scene.digest("autoscaler-root", &pinned).is_some() && scene.digest("autoscaler-root", &used).is_some());
    assert_eq!(scene.digest("autoscaler-root", &image.to_string()), Some(image), "a root is not a part");
    // The base of a root goes, and then its part.
    scene.client.delete_manifest(&scene.repository("autoscaler-base"), on_root).unwrap();
    scene.says(&[&plan[..], &["--yes"]].concat(), 0, &["deleted 1 manifests of parts of roots"]);
    assert_eq!(scene.digest("autoscaler-root", &used), None);
    assert!(scene.digest("autoscaler-root", &pinned).is_some());
}

#[test]
fn an_app_goes_with_its_deleted_branch_unless_it_is_in_use() {
    let Some(scene) = Scene::new() else { return };
    let app = |name: &str, tags: &[&str]| scene.publish(("autoscaler", name), 90, "c", tags, None);
    let main = app("main", &["main", "1.0.0"]);
    let [topic, runs, tagged, plain] =
        [("t", &["topic"][..]), ("r", &["gone"]), ("l", &["later"]), ("p", &[])].map(|(name, tags)| app(name, tags));
    let apps = scene.repository("autoscaler");
    // A signature of an image that is gone, and one of an image that goes.
    let sign = |digest: &Digest| {
        let config = scene.blob(&apps, media_type::CONFIG, b"{}");
        let layer = scene.blob(&apps, "text/plain", digest.to_string().as_bytes());
        let bytes = serde_json::to_vec(&Manifest::new(config, vec![layer])).unwrap();
        let tag: Tag = format!("sha256-{}.sig", digest.hex()).parse().unwrap();
        scene.client.put_manifest(&apps, tag, media_type::MANIFEST, &bytes).unwrap()
    };
    let (lost, with) = (sign(&Digest::of(b"gone")), sign(&plain.digest));
    let keeps = sign(&main.digest);
    let running = scene.folder.path().join("running.txt");
    std::fs::write(&running, format!("- image: {apps}@{}\n", runs.manifest)).unwrap();
    let plan = ["prune", "--keep", "0", "--every-name", "--in-use", running.to_str().unwrap()];
    // This clone has no remote: no branch counts as deleted.
    scene.says(&plan, 0, &["does not know every branch", "the tag `topic` names it", "nothing was deleted"]);
    let folder = scene.folder.path();
    git(folder, &["remote", "add", "origin", "https://example.com/app"]);
    for branch in ["main", "later"] {
        git(folder, &["update-ref", &format!("refs/remotes/origin/{branch}"), "HEAD"]);
    }
    scene.says(&plan, 0, &["the branch of its tag `topic` is deleted", "it is in use", "the tag `later` names it"]);
    let json = scene.xtask(&[&plan[..], &["--format", "json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(xtask::documents::PRUNE.unlisted(&json), [""; 0], "{json:#}");
    // A list that names nothing, and a command that fails.
    std::fs::write(folder.join("empty.txt"), "").unwrap();
    let empty = folder.join("empty.txt");
    scene.says(&["prune", "--in-use", empty.to_str().unwrap()], 2, &["lists no image"]);
    scene.says(&["prune", "--", "false"], 4, &["false"]);
    // This registry deletes no tag alone, which is said.
    scene.says(&[&plan[..], &["--yes"]].concat(), 0, &["deleted "]);
    for gone in [&topic, &plain] {
        for name in [gone.digest, gone.manifest] {
            assert_eq!(scene.digest("autoscaler", &name.to_string()), None, "{name}");
        }
    }
    for gone in [lost, with] {
        assert_eq!(scene.digest("autoscaler", &gone.to_string()), None, "{gone}");
    }
    for kept in [&main, &runs, &tagged] {
        let tag: Tag = kept.tag.parse().unwrap();
        let found = publish::read(&scene.client, &apps, tag).unwrap().present().unwrap();
        assert_eq!(found.digest, kept.digest);
        assert_eq!(scene.digest("autoscaler", &kept.manifest.to_string()), Some(kept.manifest));
    }
    assert_eq!(scene.digest("autoscaler", &keeps.to_string()), Some(keeps));
}

#[test]
fn a_prune_waits_for_a_build_on_this_machine() {
    let Some(scene) = Scene::new() else { return };
    let images = scene.folder.path().join("target/images");
    let layouts: Vec<_> = (0..5).map(|number| images.join(format!("base-{number:012}-linux-amd64"))).collect();
    for layout in &layouts {
        std::fs::create_dir_all(layout).unwrap();
        std::fs::write(layout.join("index.json"), "{}").unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let stored = || layouts.iter().filter(|layout| layout.exists()).count();
    let lock = std::fs::File::create(images.join("lock")).unwrap();
    lock.lock().unwrap();
    // What only shows its plan waits for nobody.
    scene.says(&["base", "prune"], 0, &["not one of the newest 3 on this machine", "nothing was deleted"]);
    std::thread::scope(|scope| {
        let prune = scope.spawn(|| scene.says(&["base", "prune", "--yes"], 0, &["waiting", "deleted 2 layouts"]));
        std::thread::sleep(Duration::from_secs(2));
        assert!(!prune.is_finished() && stored() == 5, "a build is at work");
        lock.unlock().unwrap();
        prune.join().unwrap();
    });
    assert_eq!(stored(), 3);
}

#[test]
fn a_manifest_that_two_bases_share_stays_while_one_of_them_does() {
    let Some(scene) = Scene::new() else { return };
    let repository = scene.repository("autoscaler-base");
    let kept = scene.publish(("autoscaler-base", "kept"), 1, "c", &["latest"], None);
    let fingerprint: Fingerprint = Digest::of(b"other").hex().parse().unwrap();
    let notes = BTreeMap::from([(CREATED.to_owned(), "2020-01-01T00:00:00Z".to_owned())]);
    let publication = Publication {
        repository: &repository,
        fingerprint,
        tag: fingerprint.tag(12),
        built: BTreeMap::from([(platform(), kept.manifest)]),
        notes: publish::notes(&fingerprint, "{}".to_owned(), &notes),
        replace: false,
    };
    let other = publish::publish(&scene.client, &publication).unwrap().published.digest;
    scene.says(&["base", "prune", "--keep", "1", "--yes"], 0, &["deleted 1 manifests"]);
    assert_eq!(scene.digest("autoscaler-base", &other.to_string()), None);
    assert_eq!(scene.digest("autoscaler-base", &kept.manifest.to_string()), Some(kept.manifest));
}

#[test]
fn latest_moves_back_only_with_yes_and_to_a_complete_base() {
    let Some(scene) = Scene::new() else { return };
    let old = scene.publish(("autoscaler-base", "old"), 9, &scene.commits[0], &[], None);
    let side = scene.publish(("autoscaler-base", "side"), 8, &format!("{}-dirty", scene.commits[0]), &[], None);
    let arm = "linux/arm64".parse().unwrap();
    let partial = scene.publish_for(("autoscaler-base", "partial"), 7, &scene.commits[0], &[], (None, &arm));
    let new = scene.publish(("autoscaler-base", "new"), 1, &scene.commits[1], &["latest"], None);
    scene.says(&["base", "rollback"], 0, &[&new.tag, &old.tag, "moves `latest` forward again", "add `--yes`"]);
    assert_eq!(scene.digest("autoscaler-base", "latest"), Some(new.digest));
    scene.says(&["base", "rollback", &partial.tag, "--yes"], 2, &["is not complete", "it lacks linux/amd64"]);
    scene.says(&["base", "rollback", "--yes"], 0, &["moved"]);
    assert_eq!(scene.digest("autoscaler-base", "latest"), Some(old.digest));
    scene.says(&["base", "rollback", "--yes"], 2, &["no complete base of an earlier commit"]);
    scene.says(&["base", "rollback", &side.tag, "--yes"], 0, &["moved"]);
    assert_eq!(scene.digest("autoscaler-base", "latest"), Some(side.digest));
}

#[test]
fn a_pinned_base_is_used_whatever_the_requirements_say() {
    let Some(scene) = Scene::new() else { return };
    let base = scene.publish(("autoscaler-base", "one"), 3, &scene.commits[0], &["latest"], None);
    let file = scene.folder.path().join("images.lock");
    let before = std::fs::read_to_string(&file).unwrap();
    scene.says(&["base", "pin", "nosuch"], 2, &["base `nosuch` is not in the registry"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    scene.says(&["base", "pin"], 0, &["wrote `images.lock`", &base.tag]);
    let pinned = std::fs::read_to_string(&file).unwrap();
    assert!(pinned.contains(&format!("[base]\ndigest = \"{}\"", base.digest)) && pinned.contains("[root.platforms]"));
    scene.says(&["base", "list"], 0, &["latest, pinned"]);
    scene.says(&["build-base"], 2, &["the base is pinned", "cargo xtask base pin --remove"]);
    let doctor = scene.xtask(&["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stderr);
    assert!(doctor.contains("note pinned base: builds use"), "{doctor}");
    // The requirements change, which would ask for another base.
    std::fs::write(scene.folder.path().join("requirements-enhanced.txt"), "six\n").unwrap();
    let plan = scene.says(&["build", "--push", "--dry-run", "--engine", "docker"], 0, &["pinned", "reusing base"]);
    assert!(
        plan.contains(&format!("BASE_IMAGE={}", scene.repository("autoscaler-base").digest(base.manifest))),
        "{plan}"
    );
    let plan =
        scene.says(&["plan", "--base", "HEAD"], 0, &["fast\n", "the base is pinned in `images.lock`: none is built"]);
    assert!(!plan.contains("base+fast"), "{plan}");
    scene.says(&["build", "--offline", "--dry-run"], 2, &["a pinned base cannot be used with `--offline`"]);
    scene.says(&["base", "pin", "--remove"], 0, &["builds follow the requirements again"]);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("[base]"));
    scene.says(&["base", "pin", "--remove"], 0, &["no base is pinned"]);
    // One that the registry lost is no reason to build another in silence.
    scene.says(&["base", "pin"], 0, &[]);
    scene.client.delete_manifest(&scene.repository("autoscaler-base"), base.digest).unwrap();
    scene.says(
        &["build", "--push", "--dry-run"],
        2,
        &["is not in the registry", "needed by: `[base]` of `images.lock`"],
    );
    assert_eq!(scene.client.head(&scene.repository("autoscaler-base"), base.digest).unwrap(), Answer::Absent);
}

#[test]
fn a_record_travels_with_its_image() {
    let Some(scene) = Scene::new() else { return };
    let repository = scene.repository("autoscaler");
    let record = xtask_model::record::ledger::parse_line(&format!(
        r#"{{"schema":1,"when":"{}","decision":"fast","seconds":2.5,"cores":4,"ci":true}}"#,
        clock::now()
    ))
    .unwrap();
    let fingerprint: Fingerprint = Digest::of(b"app").hex().parse().unwrap();
    let tag = fingerprint.tag(12);
    let manifest = scene.push(&repository, &tag, &platform(), BTreeMap::new());
    let mut notes = publish::notes(&fingerprint, "{}".to_owned(), &BTreeMap::new());
    notes.insert(xtask_model::record::ledger::annotation(&platform()), record.compact());
    let built = BTreeMap::from([(platform(), manifest)]);
    let publication =
        Publication { repository: &repository, fingerprint, tag: tag.clone(), built, notes, replace: false };
    let digest = publish::publish(&scene.client, &publication).unwrap().published.digest;
    // Two tags of one image are one build, and a record that is on the disk as well is not another.
    publish::tag(&scene.client, &repository, digest, &"main".parse().unwrap()).unwrap();
    scene.says(&["stats"], 0, &["no build was recorded"]);
    scene.says(&["stats", "--from-registry", "--format", "json"], 0, &["\"builds\": 1,", "\"median\": 2.5"]);
    xtask_host::tree::ledger::append(scene.folder.path(), &record).unwrap();
    scene.says(&["stats", "--from-registry", "--format", "json"], 0, &["\"builds\": 1,"]);
    scene.says(&["stats", "--from-registry", "--offline"], 2, &["cannot be used with `--offline`"]);
    // Another machine adds its platform, and builds it again: each has its last record there.
    let other: Platform = "linux/arm64".parse().unwrap();
    for (seconds, replace) in [(3.5, false), (4.5, true)] {
        let manifest = scene.push(&repository, &tag, &other, BTreeMap::new());
        let slower = xtask_model::record::ledger::Record { seconds, platform: Some(other.clone()), ..record.clone() };
        let notes = BTreeMap::from([(xtask_model::record::ledger::annotation(&other), slower.compact())]);
        let notes = publish::notes(&fingerprint, "{}".to_owned(), &notes);
        let built = BTreeMap::from([(other.clone(), manifest)]);
        let publication = Publication { repository: &repository, fingerprint, tag: tag.clone(), built, notes, replace };
        publish::publish(&scene.client, &publication).unwrap();
        let median = format!("\"median\": {seconds:?}");
        scene.says(
            &["stats", "--from-registry", "--format", "json"],
            0,
            &["\"builds\": 2,", "\"median\": 2.5", &median],
        );
    }
}
