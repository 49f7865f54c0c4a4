//! Several apps in one policy: each edit builds what it changes, a base that they share is built once, and bases share layers.

use crate::fixture::{Outcome, Report};
use crate::world::World;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use xtask_model::fault::Exit;
use xtask_model::spec::lock::ImagesLock;
use xtask_model::spec::lock::images::RootPin;

const APPS: &str = "[[app]]\nname = \"web\"\n\n[[app]]\nname = \"worker\"\ndockerfile = \"worker/Dockerfile\"\n";

const WORKER: &str = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY --link code /app/code\nCOPY --link worker/main.py /app/\n\
                      ENTRYPOINT [\"cat\", \"/app/main.py\"]\n";

/// Two apps on one base: both copy `code`.
fn world(name: &str) -> Option<World> {
    let world = World::new(name)?;
    world.repo.edit("images.toml", "[app]\n# app settings\n", APPS);
    world.repo.write("worker/Dockerfile", WORKER).write("worker/main.py", "print(1)\n");
    world.repo.commit("several");
    Some(world)
}

fn call(world: &World, args: &[&str]) -> Outcome {
    world.repo.xtask(args).without_engine().run()
}

/// The images of a report that were built: `base`, `app:web`.
fn built(report: &Report) -> BTreeSet<String> {
    let images = report.0["images"].as_array().unwrap();
    let built = images.iter().filter(|image| image["action"] == "built");
    built
        .map(|image| match image["name"].as_str() {
            Some(name) => format!("{}:{name}", image["kind"].as_str().unwrap()),
            None => image["kind"].as_str().unwrap().to_owned(),
        })
        .collect()
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn push(world: &World) -> Report {
    call(world, &["build", "--push", "--format", "json"]).ok().report()
}

fn planned(world: &World, base: &str) -> Value {
    let plan = call(world, &["plan", "--base", base, "--format", "json"]).ok().stdout;
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(xtask::documents::PLAN.unlisted(&plan), Vec::<String>::new());
    plan
}

fn affected(plan: &Value) -> BTreeSet<String> {
    plan["affected"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_edit_builds_what_it_changes_and_a_shared_base_once() {
    let Some(world) = world("several") else { return };
    let first = push(&world);
    assert_eq!(built(&first), names(&["base", "app:web", "app:worker"]));
    assert_eq!(first.0["images"].as_array().unwrap().len(), 3, "the base is built once: {first:?}");
    for app in ["app-web", "app-worker"] {
        assert!(world.repo.tags(app).contains(&"latest".to_owned()), "{app}");
    }
    let (second, traffic) = world.traffic(|| push(&world));
    assert_eq!((built(&second), traffic.writes()), (names(&[]), Vec::new()));
    for (path, images) in [
        ("templates/page.html", &["app:web"][..]),
        ("worker/main.py", &["app:worker"]),
        ("code/deep/a.py", &["app:web", "app:worker"]),
        ("dockerfiles/check.txt", &["base", "app:web", "app:worker"]),
        ("README.md", &[]),
    ] {
        world.repo.write(path, &format!("{path}\n")).commit(path);
        let plan = planned(&world, "HEAD~1");
        assert_eq!(affected(&plan), names(images), "{path}: {plan:#}");
        assert_eq!(built(&push(&world)), names(images), "{path}");
    }
    let explained = call(&world, &["explain", "--commit", "HEAD~1", "--format", "json"]).ok().stdout;
    let explained: Value = serde_json::from_str(&explained).unwrap();
    assert_eq!(xtask::documents::EXPLAIN.unlisted(&explained), Vec::<String>::new());
    assert_eq!(explained["images"].as_array().unwrap().len(), 3, "{explained:#}");
}

#[test]
fn one_app_is_selected_by_its_name() {
    let Some(world) = world("selected") else { return };
    let one = call(&world, &["build", "--push", "--app", "worker", "--format", "json"]).ok().report();
    assert_eq!(built(&one), names(&["base", "app:worker"]));
    let both = call(&world, &["build", "--push"]).ok();
    let lines: Vec<&str> = both.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "a line for each app: {both:?}");
    assert!(lines[0].contains("/app-web@") && lines[1].contains("/app-worker@"), "{both:?}");
    call(&world, &["build", "--app", "wrker"]).ends(2).says("`images.toml` has no app `wrker`").says("`web`, `worker`");
    for command in [&["run"][..], &["verify"], &["sbom"]] {
        call(&world, command).ends(2).says("several: `web`, `worker`").says("`--app web`");
    }
    // Bases that any app uses are in use, whichever app is selected.
    let bases = call(&world, &["base", "list", "--format", "json", "--app", "web"]).ok().stdout;
    let bases: Value = serde_json::from_str(&bases).unwrap();
    assert!(bases["bases"][0]["used_by"].as_array().unwrap().len() >= 4, "{bases:#}");
    let records = std::fs::read_to_string(world.repo.path.join("target/ledger/builds.jsonl")).unwrap();
    assert!(records.contains("\"app\":\"web\"") && records.contains("\"app\":\"worker\""), "{records}");
    call(&world, &["stats", "--format", "json"]).ok();
    call(&world, &["workflows"]).ok();
    call(&world, &["prune"]).ok();
    one_document_has_each(&world);
    call(&world, &["doctor", "--offline"]);
}

/// `prune`, `base prune` and `stats --replay` say of each app, or base, what they do.
#[track_caller]
fn one_document_has_each(world: &World) {
    let document = |document: &xtask::documents::Document, args: &[&str]| -> Value {
        let printed: Value = serde_json::from_str(&call(world, args).ok().stdout).unwrap();
        assert_eq!(document.unlisted(&printed), [""; 0], "{printed:#}");
        printed
    };
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let prune = ["prune", "--format", "json", "--keep", "0", "--older-than", "0m"];
    let pruned = document(&xtask::documents::PRUNE, &prune);
    assert_eq!(names(&pruned["images"]), ["web", "worker"]);
    let one = document(&xtask::documents::PRUNE, &[&prune[..], &["--app", "worker"]].concat());
    assert_eq!(one["registry"], pruned["images"][1]["registry"], "of one app it is as it was");
    let page = world.repo.path.join("target/replay.html");
    let replay = ["stats", "--replay", "HEAD~1..HEAD", "--format", "json", "--html", page.to_str().unwrap()];
    let replayed = document(&xtask::documents::CENSUS, &replay);
    assert_eq!(names(&replayed["apps"]), ["web", "worker"]);
    let text = std::fs::read_to_string(page).unwrap();
    assert!(text.contains("Kinds of commits of app worker"), "{text}");
}

#[test]
fn other_tools_find_each_app_in_a_layout_by_its_name() {
    let Some(world) = world("outputs") else { return };
    let Some(skopeo) = crate::outputs::tool("skopeo") else { return };
    let repo = &world.repo;
    let out = repo.path.join("target/out");
    let output = format!("oci:{}", out.display());
    let built = call(&world, &["build", "--output", &output, "--format", "json"]).ok().report();
    let names: Vec<String> = ["web", "worker"]
        .iter()
        .map(|app| {
            let image = built.0["images"].as_array().unwrap().iter().find(|image| image["name"] == *app).unwrap();
            format!("app-{app}:{}", image["tags"][0].as_str().unwrap())
        })
        .collect();
    let layout = xtask_host::registry::layout::Layout::open_or_create(&out).unwrap();
    let listed = |layout: &xtask_host::registry::layout::Layout| {
        let mut names: Vec<String> = layout.list().unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    };
    assert_eq!(listed(&layout), names);
    // A name leads another tool to its image.
    let archive = repo.path.join("target/out.tar");
    call(&world, &["build", "--output", &format!("oci-archive:{}", archive.display())]).ok();
    for (name, file) in names.iter().zip(["/app/templates/page.html", "/app/main.py"]) {
        for place in [format!("oci:{}", out.display()), format!("oci-archive:{}", archive.display())] {
            let inspect = skopeo.clone().args(["inspect", "--config", &format!("{place}:{name}")]);
            let config: Value = serde_json::from_str(&inspect.read(Exit::Build).unwrap()).unwrap();
            assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["cat", file]), "{place}:{name}");
        }
    }
    // One app alone is one more image of the layout.
    call(&world, &["build", "--output", &output, "--app", "web"]).ok();
    assert_eq!(listed(&layout), names);
}

const VARIANTS: &str = "[bases.plain]\n\n[bases.more]\ndockerfile = \"dockerfiles/Dockerfile.more\"\n\n\
                        [[app]]\nname = \"web\"\nbase = \"plain\"\n\n[[app]]\nname = \"gpu\"\nbase = \"more\"\n";

#[test]
fn variants_of_a_base_share_what_is_equal() {
    let Some(world) = World::new("variants") else { return };
    let repo = &world.repo;
    repo.edit("images.toml", "[app]\n# app settings\n", VARIANTS);
    let more = repo.read("dockerfiles/Dockerfile.base").replace("ENV PATH", "COPY --link extra /opt/extra\nENV PATH");
    repo.write("dockerfiles/Dockerfile.more", &more).write("extra/a.txt", "extra\n").commit("variants");
    let (report, traffic) = world.traffic(|| push(&world));
    assert_eq!(built(&report), names(&["base:plain", "base:more", "app:web", "app:gpu"]));
    let [plain, variant] = ["app-plain-base", "app-more-base"].map(|name| world.manifest(name, "latest"));
    let shared: Vec<_> = variant.layers.iter().filter(|layer| plain.layers.contains(layer)).collect();
    assert_eq!(shared.len(), variant.layers.len() - 1, "all but one layer are those of the other base");
    assert_eq!(traffic.count("PUT", "/app-more-base/blobs/"), 2, "its own layer and its configuration are sent");
    // A machine without a store gives a new variant the layers of the others, and makes what is new.
    let bases = "[bases.third]\ndockerfile = \"dockerfiles/Dockerfile.third\"\n\n[bases.plain]";
    repo.edit("images.toml", "[bases.plain]", bases).edit("images.toml", "base = \"plain\"", "base = \"third\"");
    repo.edit("images.toml", "\n[bases.plain]\n", "");
    repo.write("dockerfiles/Dockerfile.third", &more.replace("extra /opt", "code /opt")).commit("third");
    let cold = repo.clone("runner");
    let call = || cold.xtask(&["build", "--push", "--format", "json"]).without_engine().run().ok().report();
    let (report, traffic) = world.traffic(call);
    assert_eq!(built(&report), names(&["base:third", "app:web"]));
    let layers = report.0["images"][0]["steps"].as_array().unwrap();
    assert_eq!(layers[0].as_u64().unwrap() - 1, layers[1].as_u64().unwrap(), "one layer is made: {report:?}");
    assert_eq!(traffic.count("PUT", "/app-third-base/blobs/"), 2);
    // An edit of what one base copies builds that base and its apps.
    repo.write("extra/a.txt", "other\n").commit("extra");
    assert_eq!(affected(&planned(&world, "HEAD~1")), names(&["base:more", "app:gpu"]));
    // Each base is pinned by its own name.
    call_for_pin(&world);
}

#[test]
fn the_base_of_another_project_gives_its_layers() {
    let Some(world) = World::new("otherproject") else { return };
    let base = world.repo.push().digest("base");
    let layers = world.manifest("app-base", &base).layers.len();
    let other = world.repo.clone("other project");
    let named = |from: &str| format!("[base]\nrepository = \"shop-base\"\nlayers-from = [\"{from}\"]\n");
    other.edit("images.toml", "[base]\n", &named(&world.repo.repository("app-base").to_string()));
    other.write("dockerfiles/check.txt", "another base\n").commit("shop");
    let call = || other.xtask(&["build-base", "--push", "--format", "json"]).without_engine().run().ok();
    let (done, traffic) = world.traffic(call);
    let steps = &done.report().0["images"][0]["steps"];
    assert!(layers > 2 && traffic.mounted() >= layers - 2, "{steps}: {} of {layers} layers mounted", traffic.mounted());
    assert_eq!(traffic.count("PUT", "/shop-base/blobs/"), 2, "the layer that differs and the configuration are sent");
    // A base that does not exist, or is in another registry, is named and ends nothing.
    other.edit("images.toml", "/app-base\"]", "/misspelt-base\", \"ghcr.io/acme/shop-base\"]");
    other.write("dockerfiles/check.txt", "one more\n").commit("misspelt");
    call().says("no layers from `").says("/misspelt-base`: it has no `latest`").says(&format!(
        "no layers from `ghcr.io/acme/shop-base`: layers are mounted only within one registry, and the base is in `{}`",
        world.repo.repository("app-base").registry()
    ));
}

#[track_caller]
fn call_for_pin(world: &World) {
    let tag = world.repo.tags("app-third-base").into_iter().find(|tag| tag != "latest").unwrap();
    call(world, &["base", "pin", &tag]).ends(2).says("base third, base more").says("`--app");
    call(world, &["base", "pin", &tag, "--app", "web"]).ok();
    assert!(world.repo.read("images.lock").contains("[bases]\n\"third\" = "));
    call(world, &["build-base", "--push"]).ok().says("base third: `images.lock` pins it");
    call(world, &["base", "pin", "--remove", "--app", "web"]).ok();
}

/// Made-up repositories: which folders each app copies, on which base.
#[derive(Clone, Debug)]
struct MadeUp {
    apps: Vec<(Vec<bool>, usize)>,
    bases: usize,
    /// Folders, then files of bases, then a file that no image copies.
    edit: usize,
}

const FOLDERS: usize = 3;

impl MadeUp {
    fn base_of(&self, app: usize) -> usize {
        // Every base is used.
        if app < self.bases { app } else { self.apps[app].1 % self.bases }
    }

    fn write(&self, world: &World) {
        let repo = &world.repo;
        let policy = repo.read("images.toml");
        let begin = policy.split("[base]").next().unwrap();
        let mut text = format!("{begin}[base]\ntag-length = 12\n");
        for base in 0..self.bases {
            text += &format!("[bases.b{base}]\ndockerfile = \"b{base}/Dockerfile\"\n");
            let dockerfile =
                format!("ARG ROOT_IMAGE\nFROM ${{ROOT_IMAGE}}\nCOPY requirements-enhanced.lock b{base}/file /b/\n");
            repo.write(&format!("b{base}/Dockerfile"), &dockerfile).write(&format!("b{base}/file"), "0\n");
        }
        for (app, (copies, _)) in self.apps.iter().enumerate() {
            text += &format!(
                "[[app]]\nname = \"a{app}\"\nbase = \"b{}\"\ndockerfile = \"a{app}/Dockerfile\"\n",
                self.base_of(app)
            );
            let mut dockerfile = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n".to_owned();
            for folder in (0..FOLDERS).filter(|folder| copies[*folder]) {
                dockerfile += &format!("COPY f{folder} /f{folder}\n");
            }
            repo.write(&format!("a{app}/Dockerfile"), &dockerfile);
        }
        for folder in 0..FOLDERS {
            repo.write(&format!("f{folder}/file"), "0\n");
        }
        repo.write("images.toml", &text).commit("made up");
    }

    /// Path that the edit changes, and the images that it has to affect.
    fn edited(&self) -> (String, BTreeSet<String>) {
        let mut affected = BTreeSet::new();
        let path = match self.edit {
            folder if folder < FOLDERS => {
                let copies = |app: &usize| self.apps[*app].0[folder];
                affected.extend((0..self.apps.len()).filter(copies).map(|app| format!("app:a{app}")));
                format!("f{folder}/file")
            }
            base if base < FOLDERS + self.bases => {
                let base = base - FOLDERS;
                affected.insert(format!("base:b{base}"));
                let on_it = |app: &usize| self.base_of(*app) == base;
                affected.extend((0..self.apps.len()).filter(on_it).map(|app| format!("app:a{app}")));
                format!("b{base}/file")
            }
            _ => "unread.txt".to_owned(),
        };
        (path, affected)
    }
}

/// The name of each image by its fingerprint.
fn references(plan: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for app in plan["apps"].as_array().unwrap() {
        for (kind, name) in [("base", &app["on"]), ("app", &app["name"])] {
            let reference = app[kind]["reference"].as_str().unwrap_or_else(|| panic!("no reference: {app:#}"));
            found.insert(format!("{kind}:{}", name.as_str().unwrap()), reference.to_owned());
        }
    }
    found
}

/// Makes plans without a registry possible.
fn pin_root(world: &World) {
    let root = world.repo.published("root", "1").unwrap();
    let platforms = root.platforms.iter().map(|(platform, found)| (platform.clone(), found.digest)).collect();
    let pin = RootPin { image: world.root().tag(&"1".parse().unwrap()), platforms };
    world.repo.write("images.lock", &ImagesLock { root: Some(pin), ..ImagesLock::default() }.to_string());
}

#[test]
fn the_affected_images_are_those_whose_keys_change() {
    let Some(world) = World::new("keys") else { return };
    pin_root(&world);
    let plan = |base: &str| -> Value {
        let said = call(&world, &["plan", "--offline", "--base", base, "--format", "json"]).ok().stdout;
        serde_json::from_str(&said).unwrap()
    };
    let apps = proptest::collection::vec((proptest::collection::vec(any::<bool>(), FOLDERS), 0_usize..3), 3..5);
    let made_up = (apps, 1_usize..4, 0..FOLDERS + 4);
    let law = |(apps, bases, edit): (Vec<(Vec<bool>, usize)>, usize, usize)| {
        let made_up = MadeUp { apps, bases, edit };
        made_up.write(&world);
        let before = references(&plan("HEAD"));
        let (path, expected) = made_up.edited();
        world.repo.write(&path, "1\n").commit("edit");
        let plan = plan("HEAD~1");
        let after = references(&plan);
        let changed: BTreeSet<String> = after
            .iter()
            .filter(|(name, reference)| before.get(*name) != Some(reference))
            .map(|(name, _)| name.clone())
            .collect();
        prop_assert_eq!(&affected(&plan), &changed, "{:?}", made_up);
        prop_assert_eq!(&changed, &expected, "{:?}", made_up);
        Ok(())
    };
    let config =
        ProptestConfig { cases: 16, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config).run(&made_up, law).unwrap_or_else(|error| panic!("{error}"));
}

/// An app whose files and ignore file are in a folder of their own, and one of the whole repository.
fn with_context(name: &str) -> Option<World> {
    let world = World::new(name)?;
    let apps = "[[app]]\nname = \"api\"\ndockerfile = \"services/api/Dockerfile\"\ncontext = \"services/api\"\n\n\
                [[app]]\nname = \"worker\"\ndockerfile = \"worker/Dockerfile\"\n";
    let api = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY --link . /app/\nENTRYPOINT [\"cat\", \"/app/main.py\"]\n";
    let repo = &world.repo;
    repo.edit("images.toml", "[app]\n# app settings\n", apps);
    repo.write("services/api/Dockerfile", api).write("services/api/main.py", "print('api')\n");
    repo.write("services/api/.dockerignore", "*.txt\n/Dockerfile\n").write("services/api/sub/a.py", "a\n");
    repo.write("services/other/main.py", "other\n").write("services/api-docs/x.py", "x\n");
    repo.write("worker/Dockerfile", WORKER).write("worker/main.py", "print(1)\n");
    repo.commit("a context");
    Some(world)
}

#[test]
fn a_change_outside_of_a_context_rebuilds_nothing() {
    let Some(world) = with_context("contexts") else { return };
    pin_root(&world);
    world.repo.commit("pin");
    push(&world);
    let plan = || -> Value {
        let said = call(&world, &["plan", "--offline", "--base", "HEAD~1", "--format", "json"]).ok().stdout;
        serde_json::from_str(&said).unwrap()
    };
    let folders =
        ["services/api", "services/api/sub", "services/other", "services/api-docs", "services", "docs", "app", "api"];
    let place =
        (proptest::sample::select(folders.to_vec()), "[a-d]{1,2}", proptest::sample::select(vec!["py", "txt", "md"]));
    let edited = std::cell::RefCell::new(Vec::new());
    let law = |(folder, name, end): (&str, String, &str)| {
        let path = format!("{folder}/{name}.{end}");
        world.repo.write(&path, &format!("{}\n", edited.borrow().len())).commit(&path);
        let ignored = end == "txt" && folder == "services/api";
        let inside = folder == "services/api" || folder.starts_with("services/api/");
        let expected = if inside && !ignored { names(&["app:api"]) } else { names(&[]) };
        prop_assert_eq!(affected(&plan()), expected, "{}", path);
        edited.borrow_mut().push(inside);
        Ok(())
    };
    let config =
        ProptestConfig { cases: 24, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config).run(&place, law).unwrap_or_else(|error| panic!("{error}"));
    let edited: BTreeSet<bool> = edited.into_inner().into_iter().collect();
    assert_eq!(edited.len(), 2, "files in and outside of it were edited");
    // What is edited in it is built, and the other app is not.
    world.repo.write("services/api/main.py", "print('two')\n").commit("api");
    assert_eq!(built(&push(&world)), names(&["app:api"]));
}

#[test]
fn a_context_means_the_same_to_both_engines_and_to_docker_itself() {
    let Some(world) = with_context("contextengines") else { return };
    let repo = &world.repo;
    let listed = |reference: &str| {
        let script = "cd /app && find . -type f | sort | xargs sha256sum";
        repo.engine.docker(&["run", "--rm", "--network=host", "--entrypoint=sh", reference, "-c", script])
    };
    let build = |engine: &str, args: &[&str]| {
        let args = [&["build", "--push", "--app", "api", "--engine", engine, "--format", "json"], args].concat();
        let report = repo.xtask(&args).run().ok().report();
        let image = report.0["images"].as_array().unwrap().last().unwrap().clone();
        (image["reference"].as_str().unwrap().to_owned(), image["fingerprint"].as_str().unwrap().to_owned(), report)
    };
    let (native, key, report) = build("native", &[]);
    let files = listed(&native);
    assert!(files.contains("./main.py") && files.contains("./sub/a.py") && !files.contains("Dockerfile"), "{files}");
    let (docker, other_key, _) = build("docker", &["--force"]);
    assert_eq!((other_key, listed(&docker)), (key, files.clone()));
    // As a person does it.
    let base = report.text("base", "reference");
    let (file, context) = (repo.path.join("services/api/Dockerfile"), repo.path.join("services/api"));
    let tag = format!("xtask-apps-context-{}", std::process::id());
    let argument = format!("BASE_IMAGE={base}");
    repo.engine.docker(&[
        "build",
        "--network=host",
        "--load",
        "-t",
        &tag,
        "--build-arg",
        &argument,
        "-f",
        file.to_str().unwrap(),
        context.to_str().unwrap(),
    ]);
    let by_hand = listed(&tag);
    repo.engine.docker(&["image", "rm", &tag]);
    assert_eq!(by_hand, files);
    // An image from scratch has the same context.
    let scratch =
        "ARG ROOT_IMAGE\nFROM ${ROOT_IMAGE}\nCOPY main.py /app/main.py\nENTRYPOINT [\"cat\", \"/app/main.py\"]\n";
    repo.write("services/api/Dockerfile.enhanced", scratch);
    repo.edit(
        "images.toml",
        "context = \"services/api\"\n",
        "context = \"services/api\"\nenhanced = \"services/api/Dockerfile.enhanced\"\n",
    );
    repo.commit("from scratch");
    let full = repo.xtask(&["build-enhanced", "--push"]).run().ok().reference();
    assert_eq!(repo.run(&full.to_string(), &[]), "print('api')");
    // A folder that is missing is named.
    repo.edit("images.toml", "context = \"services/api\"", "context = \"services/apo\"");
    call(&world, &["build", "--app", "api"]).ends(2).says("`services/apo` is not a folder of the repository");
}
