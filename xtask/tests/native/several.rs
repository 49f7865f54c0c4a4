//! Several apps in one policy: each edit builds what it changes, a base that they share is built once, and bases share layers.

use crate::fixture::{Outcome, Report};
use crate::world::World;
use serde_json::Value;
use std::collections::BTreeSet;

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
    for command in [&["watch"][..], &["run"], &["verify"], &["sbom"]] {
        call(&world, command).ends(2).says("several: `web`, `worker`").says("`--app web`");
    }
    let output = format!("oci:{}", world.repo.path.join("target/out").display());
    call(&world, &["build", "--output", &output]).ends(2).says("`--output` takes one image");
    call(&world, &["build", "--output", &output, "--app", "web"]).ok();
    // Bases that any app uses are in use, whichever app is selected.
    let bases = call(&world, &["base", "list", "--format", "json", "--app", "web"]).ok().stdout;
    let bases: Value = serde_json::from_str(&bases).unwrap();
    assert!(bases["bases"][0]["used_by"].as_array().unwrap().len() >= 4, "{bases:#}");
    let records = std::fs::read_to_string(world.repo.path.join("target/ledger/builds.jsonl")).unwrap();
    assert!(records.contains("\"app\":\"web\"") && records.contains("\"app\":\"worker\""), "{records}");
    call(&world, &["stats", "--format", "json"]).ok();
    call(&world, &["workflows"]).ok();
    call(&world, &["prune"]).ok();
    call(&world, &["doctor", "--offline"]);
}
