//! Adopted repositories against what they had before: `init --prove` with real docker, on a root with Python and pip; and the examples
//! built by both engines, which have to agree.

use crate::{debian_root, example, python_root, real_engine};
use example::{REVISION, ROOT};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use xtask_host::registry::layout::Layout;
use xtask_host::registry::{Client, ClientOptions};
use xtask_host::tree::context::WorkTree;
use xtask_host::tree::facts::Tree;
use xtask_model::adopt::proof;
use xtask_model::image::policy::ImageKind;
use xtask_model::spec::reference::Platform;
use xtask_native::image::{Image, Place};
use xtask_native::{listing, preflight};

/// A copy of an example, for an engine.
struct Example {
    copy: example::Example,
    engine: &'static real_engine::Engine,
}

impl std::ops::Deref for Example {
    type Target = example::Example;

    fn deref(&self) -> &example::Example {
        &self.copy
    }
}

impl Example {
    fn new(engine: &'static real_engine::Engine, name: &'static str, parts: &[&str]) -> Self {
        Self { copy: example::Example::new(name, parts), engine }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut call = self.xtask(args);
        let mut env = self.engine.state.docker_env();
        let path = example::with_uv(&env["PATH"]);
        env.insert("PATH", path);
        call.envs(env);
        call
    }

    #[track_caller]
    fn ends(&self, args: &[&str], code: i32) -> (String, String) {
        let Output { status, stdout, stderr } = self.command(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (said, printed) = (text(stderr), text(stdout));
        assert_eq!(status.code(), Some(code), "{said}\n{printed}");
        (said, printed)
    }

    /// All paths, without contents.
    fn paths(&self) -> BTreeSet<PathBuf> {
        let (mut found, mut open) = (BTreeSet::new(), vec![self.path()]);
        while let Some(next) = open.pop() {
            for entry in std::fs::read_dir(&next).unwrap().flatten() {
                found.insert(entry.path());
                if entry.file_type().unwrap().is_dir() {
                    open.push(entry.path());
                }
            }
        }
        found
    }
}

/// Flags of `init` for the root of the tests.
fn init<'a>(root: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let flags = [
        "init",
        "--yes",
        "--registry",
        "ghcr.io/acme",
        "--xtask-rev",
        REVISION,
        "--no-workflows",
        "--root-image",
        root,
    ];
    [&flags[..], more].concat()
}

/// Compares a report with the one in the guide: its lines without numbers and names of single things.
#[track_caller]
fn recorded(printed: &str) {
    let path = Path::new(ROOT).join("docs/adoption.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("```text\n").unwrap();
    let (shown, after) = rest.split_once("```\n").unwrap();
    let plain = |text: &str| -> Vec<String> {
        let line = |line: &str| {
            let line: String = line.chars().map(|c| if c.is_ascii_digit() { ' ' } else { c }).collect();
            let named = if line.starts_with(' ') { line.split(": `").next().unwrap_or(&line) } else { "" };
            named.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        text.lines().map(line).collect()
    };
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return std::fs::write(&path, format!("{before}```text\n{printed}```\n{after}")).unwrap();
    }
    assert_eq!(plain(shown), plain(printed), "update: UPDATE_EXPECT=1 cargo test -p xtask --test machine adoption");
}

#[test]
fn the_flask_example_is_proved_and_an_edit_of_what_was_written_is_found() {
    let Some(engine) = real_engine::engine() else { return };
    let root = python_root::shared(engine);
    let example = Example::new(engine, "flask", &["before"]);
    // Compilers are 250 MB, and their causes those of one.
    example.edit("Dockerfile", "build-essential", "make");
    let name = format!("proof-{}", std::process::id());
    let (said, printed) = example.ends(&init(&root, &["--prove", "--name", &name]), 0);
    println!("{said}\n{printed}");
    assert!(said.contains("`FROM python:3.12-slim` is the root of the new images"), "{said}");
    for part in ["Python distributions", "the same question, asked with Python", "a Debian package that compiles"] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    recorded(
        &printed.replace(&root, "registry.example/python:3.13-slim").replace(&["", "home", "shop"].join("/"), "~"),
    );
    // It wrote what `init` alone writes.
    let alone = Example::new(engine, "flask", &["before"]);
    alone.ends(&init(&root, &["--offline"]), 0);
    let names = |example: &Example| {
        let root = example.path();
        example.paths().iter().map(|path| path.strip_prefix(&root).unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(names(&example), names(&alone));
    let images = engine.docker(&["image", "ls", "--all"]);
    assert!(!images.contains(&name), "{images}");

    example.edit("dockerfiles/Dockerfile.fast", "ENV SHOP_TITLE=\"Corner shop\"", "ENV SHOP_TITLE=Shop");
    example.edit("dockerfiles/Dockerfile.fast", "--chown=1000:1000 /data", "--chown=0:0 /data");
    let (said, printed) = example.ends(&init(&root, &["--prove", "--format", "json"]), 6);
    assert!(said.contains("kept") && said.contains("`Env SHOP_TITLE`: old Corner shop, new Shop"), "{said}");
    let document: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(xtask::documents::PROOF.unlisted(&document), [""; 0]);
    let differences = document["proofs"][0]["differences"].as_array().unwrap();
    let unexplained: Vec<&str> =
        differences.iter().filter(|one| one["cause"].is_null()).map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(unexplained, ["/data", "Env SHOP_TITLE"]);
}

#[test]
fn without_docker_buildah_proves_the_flask_example() {
    let Some(engine) = real_engine::engine() else { return };
    if xtask_host::process::found("buildah").is_none() {
        assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "cannot run: buildah is not installed");
        return println!("skipped: buildah is not installed");
    }
    let root = python_root::shared(engine);
    let example = Example::new(engine, "flask", &["before"]);
    example.edit("Dockerfile", "build-essential", "make");
    let ends = |code: i32| {
        let mut call = example.xtask(&init(&root, &["--prove", "--format", "json"]));
        // A folder of docker's configuration without any.
        call.env("DOCKER_HOST", "unix:///nonexistent/docker.sock").env("DOCKER_CONFIG", example.folder.path());
        let Output { status, stdout, stderr } = call.output().unwrap();
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!(status.code(), Some(code), "{said}");
        (said, serde_json::from_slice::<Value>(&stdout).unwrap_or_default())
    };
    let (said, document) = ends(0);
    assert_eq!(document["proofs"][0]["engine"], "buildah", "{said}\n{document:#}");
    // Buildah leaves the health check out of its image: that of the Dockerfile is compared.
    let different = |document: &Value| -> Vec<String> {
        let differences = document["proofs"][0]["differences"].as_array().unwrap();
        let unexplained = differences.iter().filter(|one| one["cause"].is_null());
        unexplained.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(different(&document), [""; 0]);
    example.edit("dockerfiles/Dockerfile.fast", "--interval=30s", "--interval=40s");
    example.edit("dockerfiles/Dockerfile.fast", "--chown=1000:1000 /data", "--chown=0:0 /data");
    assert_eq!(different(&ends(6).1), ["/data", "Healthcheck"]);
    let target = example.path().join("target");
    let left = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(xtask_host::scratch::SHARED);
    assert!(!std::fs::read_dir(target).into_iter().flatten().flatten().any(|entry| left(&entry.file_name())));
}

#[test]
fn an_interrupted_proof_leaves_nothing() {
    let Some(engine) = real_engine::engine() else { return };
    let root = python_root::shared(engine);
    let example = Example::new(engine, "services", &["before"]);
    example.ends(&init(&root, &["--offline"]), 0);
    let before = example.paths();
    let mut call = example.command(&init(&root, &["--prove"]));
    let mut proof = call.stderr(std::process::Stdio::null()).spawn().unwrap();
    // In the middle of the work: the copy of the repository has its locks.
    let has_lock = || example.paths().iter().any(|path| path.ends_with("new/images.lock"));
    while !has_lock() {
        assert!(proof.try_wait().unwrap().is_none(), "it ended too early");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&proof), rustix::process::Signal::INT).unwrap();
    assert_eq!(proof.wait().unwrap().code(), Some(130));
    assert_eq!(example.paths(), before);
}

/// An engine's image of an app, in a layout.
fn image(example: &Example, engine: &str, app: Option<&str>) -> Image {
    let out = example.path().join("target").join(format!("{engine}-{}", app.unwrap_or("app")));
    let (output, registry) = (format!("oci:{}", out.display()), example.registry());
    let app: Vec<&str> = app.iter().flat_map(|app| ["--app", app]).collect();
    example.ends(&[&["build", "--engine", engine, "--registry", &registry, "--output", &output], &app[..]].concat(), 0);
    let layout = Layout::open_or_create(&out).unwrap();
    let (_, found) = layout.list().unwrap().into_iter().next().unwrap();
    Image::open(&Client::new(ClientOptions::default()), Place::Layout(layout), found.digest, &Platform::host()).unwrap()
}

impl Example {
    /// A name of its own for the images that an engine keeps: what one engine built is nothing that the other finds.
    fn registry(&self) -> String {
        let own = self.folder.path().file_name().unwrap().to_string_lossy().to_ascii_lowercase();
        format!("{}/adoption-{}", self.engine.registry(), own.trim_start_matches(['.', '_']))
    }

    /// The example as `init` leaves it, on the Debian root, with its locks; or why there are none.
    fn adopted(engine: &'static real_engine::Engine, name: &'static str) -> Result<Self, String> {
        let example = Self::new(engine, name, &["before", "after"]);
        for script in ["install.py", "compile.py", "check-imports.py"] {
            let path = format!("dockerfiles/{script}");
            std::fs::copy(Path::new(ROOT).join(&path), example.path().join(&path)).unwrap();
        }
        let (_, root, _) = debian_root::shared();
        std::fs::create_dir_all(example.path().join("target/images")).unwrap();
        std::os::unix::fs::symlink(root, example.path().join("target/images/root")).unwrap();
        let locked = example.command(&["lock"]).output().unwrap();
        match locked.status.code() {
            Some(0) => Ok(example),
            // An index of its own that this machine does not reach.
            Some(5) => Err(String::from_utf8_lossy(&locked.stderr).into_owned()),
            _ => panic!("{}", String::from_utf8_lossy(&locked.stderr)),
        }
    }

    /// Builds and publishes by an engine as CI does, where the policy's smoke test comes first.
    #[track_caller]
    fn publishes(&self, engine: &str) {
        let registry = self.registry();
        let mut call = self.command(&["build", "--engine", engine, "--push", "--registry", &registry]);
        let done = call.env("CI", "true").output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.contains("smoke"), "{}: {said}", self.name);
    }

    /// The same files in another folder, where nothing was built.
    fn again(&self) -> Self {
        let copy = example::Example::new(self.name, &[]);
        let example = Self { copy, engine: self.engine };
        let copied = Command::new("cp").args(["-a", "--"]).arg(self.path()).arg(example.folder.path()).status();
        assert!(copied.unwrap().success());
        example
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let listed = self.engine.docker(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
        for name in listed.lines().filter(|name| name.starts_with(&self.registry())) {
            self.engine.docker(&["image", "rm", "--force", name]);
        }
    }
}

/// Reason why the native engine cannot build an app of an example, in the words of its own check.
fn refused_natively(tree: &Tree) -> Option<String> {
    let platforms = &tree.policy.project.platforms;
    let check = |kind| preflight::check(tree, kind, platforms);
    check(ImageKind::Base).and_then(|()| check(ImageKind::App)).err().map(|fault| fault.to_string())
}

/// Compares every app of an example by both engines. Returns why it was not compared, if it was not.
fn agree(engine: &'static real_engine::Engine, name: &'static str) -> Result<usize, String> {
    let example = Example::adopted(engine, name)?;
    let trees = Tree::all(None, Box::new(WorkTree::new(&example.path())), &[]).unwrap();
    if let Some(why) = trees.iter().find_map(refused_natively) {
        example.publishes("docker");
        return Err(why);
    }
    let own = example.path().join("target/tools/uv").exists();
    assert!(!own || std::env::var_os("XTASK_TEST_UV").is_none(), "{name} installed a uv of its own, for five seconds");
    let client = Client::new(ClientOptions::default());
    let other = example.again();
    for tree in &trees {
        let app = tree.policy.app.name.as_deref();
        let (docker, native) = (image(&example, "docker", app), image(&other, "native", app));
        let [one, other] = listing::pair(&client, &docker, &native).unwrap();
        let proof = proof::compare(
            proof::ComparedImage { files: &one, config: &docker.config.config },
            proof::ComparedImage { files: &other, config: &native.config.config },
            &proof::Known::default(),
        );
        // Which base, and so which build of it, is all that an engine may say differently.
        let names: Vec<&str> = proof.differences.iter().map(|one| one.name.as_str()).collect();
        let base = ["digest", "name"].map(|part| format!("Labels org.opencontainers.image.base.{part}"));
        assert_eq!(names, base, "{name}\n{proof}");
        // Inside the environment too, where `compare` looks at what is installed.
        let paths: BTreeSet<&String> = one.nodes.keys().chain(other.nodes.keys()).collect();
        let differ: Vec<String> = paths
            .into_iter()
            .filter(|path| one.nodes.get(*path) != other.nodes.get(*path))
            .map(|path| format!("{path}: docker {:?}, native {:?}", one.nodes.get(path), other.nodes.get(path)))
            .collect();
        assert_eq!(differ, [""; 0], "{name}");
    }
    other.publishes("native");
    Ok(trees.len())
}

/// Compares an example. Some need docker alone, or an index that a machine may not reach: those need not be compared `everywhere`.
#[track_caller]
fn is_the_same_by_both_engines(name: &'static str, everywhere: bool) {
    let Some(engine) = real_engine::engine() else { return };
    match agree(engine, name) {
        Ok(apps) => println!("{name}: {apps} apps are the same"),
        Err(why) if everywhere => panic!("{name} was not compared: {why}"),
        Err(why) => println!("{name}: not compared: {why}"),
    }
}

#[test]
fn the_flask_example_is_the_same_by_both_engines() {
    is_the_same_by_both_engines("flask", true);
}

#[test]
fn the_fastapi_example_is_the_same_by_both_engines() {
    is_the_same_by_both_engines("fastapi", true);
}

#[test]
fn the_services_example_is_the_same_by_both_engines() {
    is_the_same_by_both_engines("services", true);
}

#[test]
fn the_django_example_is_the_same_by_both_engines() {
    is_the_same_by_both_engines("django", false);
}

#[test]
fn the_torch_example_is_the_same_by_both_engines() {
    is_the_same_by_both_engines("torch", false);
}
