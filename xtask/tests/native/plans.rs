//! Agreement of `build` with `plan` and `--dry-run`, whatever the registry and the tree have been through.

use crate::fixture::{Outcome, client};
use crate::world::{NAMES, World};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::Cell;
use xtask_model::spec::reference::Platform;

/// Something that happens between two builds.
const EVENTS: usize = 8;

fn happen(world: &World, event: usize, count: &Cell<usize>) {
    let repo = &world.repo;
    count.set(count.get() + 1);
    let text = format!("{}\n", count.get());
    let published = |name: &str| repo.published(name, "latest");
    match event {
        0 => _ = repo.write("templates/page.html", &text).commit("template"),
        1 => _ = repo.write("dockerfiles/check.txt", &text).commit("base"),
        2 => _ = repo.write("README.md", &text).commit("document"),
        3 => _ = repo.write("templates/page.html", &text),
        4 | 5 => {
            let name = NAMES[event - 4];
            let Some(found) = published(name) else { return };
            client().delete_manifest(&repo.repository(name), found.digest).unwrap();
        }
        6 => {
            let Some(found) = published("app-base") else { return };
            let manifest = found.platforms[&Platform::host()].digest;
            // An earlier event may have deleted it.
            let _ = client().delete_manifest(&repo.repository("app-base"), manifest);
        }
        _ => {
            repo.commit("another revision, so another manifest");
            repo.xtask(&["build-base", "--push", "--force"]).without_engine().run().ok();
        }
    }
}

#[test]
fn a_build_does_what_a_plan_says() {
    let Some(world) = World::new("plans") else { return };
    let count = Cell::new(0);
    let call = |args: &[&str]| -> Outcome { world.repo.xtask(args).without_engine().run().ok() };
    let config =
        ProptestConfig { cases: 12, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() };
    let law = |events: Vec<usize>| {
        events.iter().for_each(|event| happen(&world, *event, &count));
        let plan: serde_json::Value =
            serde_json::from_str(&call(&["plan", "--base", "HEAD", "--format", "json"]).stdout).unwrap();
        prop_assert_eq!(xtask::documents::PLAN.unlisted(&plan), Vec::<String>::new());
        let said = ["base", "app"].map(|kind| plan[kind]["decision"]["action"].as_str().unwrap_or("none").to_owned());
        let dry = call(&["build", "--push", "--dry-run"]).stderr;
        let shown =
            ["base", "app"].map(|kind| if dry.contains(&format!("reusing {kind}")) { "reuse" } else { "build" });
        let report = call(&["build", "--push", "--format", "json"]).report();
        let done = ["base", "app"].map(|kind| if report.action(kind) == "reused" { "reuse" } else { "build" });
        prop_assert_eq!(said, done, "{:?}: {:#}", &events, plan);
        prop_assert_eq!(shown, done, "{:?}: {}", &events, dry);
        Ok(())
    };
    let events = prop::collection::vec(0..EVENTS, 0..3);
    TestRunner::new(config).run(&events, law).unwrap_or_else(|error| panic!("{error}"));
}
