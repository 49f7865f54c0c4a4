//! An image of which the registry lost a part counts as missing: `plan`, `build` and `doctor` report it, and a build repairs it.
//! And what is planned without an image that it is built on.

use crate::fixture::{Outcome, actions, client};
use crate::world::World;
use xtask_host::registry::{self, publish};
use xtask_model::spec::reference::{Platform, Tag};

/// A part that is taken out of the registry.
type Lose = fn(&World, &str);

/// Removes a manifest of an index, as a clean-up of what looks unused does.
fn lose_manifest(world: &World, name: &str) {
    let found = world.repo.published(name, "latest").unwrap();
    let digest = found.platforms[&Platform::host()].digest;
    client().delete_manifest(&world.repo.repository(name), digest).unwrap();
}

fn lose_config(world: &World, name: &str) {
    let digest = world.manifest(name, "latest").config.digest;
    world.lose(name, &digest);
}

fn lose_layer(world: &World, name: &str) {
    let digest = world.manifest(name, "latest").layers.last().unwrap().digest;
    world.lose(name, &digest);
}

fn call(world: &World, args: &[&str]) -> Outcome {
    world.repo.xtask(args).without_engine().run()
}

#[test]
fn a_lost_part_counts_as_missing_and_is_built_again() {
    let parts: [(&str, Lose); 3] = [("manifest", lose_manifest), ("config", lose_config), ("layer", lose_layer)];
    for (what, lose) in parts {
        let Some(world) = World::new(&format!("lost{what}")) else { return };
        let first = world.repo.push();
        for (name, decision, expected) in
            [("app-base", "base+fast", actions("built", "built")), ("app", "fast", actions("reused", "built"))]
        {
            lose(&world, name);
            let plan = call(&world, &["plan", "--base", "HEAD"]).ok().stdout;
            assert!(plan.starts_with(decision) && plan.contains("the registry lost the "), "{what} of {name}: {plan}");
            call(&world, &["doctor"]).says("is incomplete: the registry lost the ");
            call(&world, &["build", "--push", "--reuse-only"]).ends(6).says("the registry lost the ");
            if name == "app-base" {
                call(&world, &["build-fast", "--push"]).ends(2).says("is not whole in the registry");
            }
            let report = world.repo.push();
            assert_eq!(report.actions(), expected, "{what} of {name}");
            assert_eq!(report.digest("base"), first.digest("base"), "the same bytes once more");
            world.is_whole();
            let plan = call(&world, &["plan", "--base", "HEAD"]).ok().stdout;
            assert!(plan.starts_with("skip"), "{what} of {name}: {plan}");
            assert_eq!(world.repo.push().actions(), actions("reused", "reused"), "{what} of {name}");
        }
    }
}

#[test]
fn a_pinned_base_that_lost_a_part_is_refused() {
    let Some(world) = World::new("lostpin") else { return };
    world.repo.push();
    call(&world, &["base", "pin"]).ok();
    world.repo.commit("pin");
    lose_layer(&world, "app-base");
    for args in [&["build", "--push"][..], &["plan"], &["base", "pin"]] {
        call(&world, args).ends(2).says("the registry lost the layer");
    }
}

/// Clean-ups delete manifests that have no tag, an index's among them.
#[test]
fn every_manifest_has_a_tag_of_its_own() {
    let Some(world) = World::new("tagged") else { return };
    world.repo.push();
    world.repo.write("templates/page.html", "two").commit("edit");
    world.repo.push();
    let client = client();
    for name in ["app-base", "app"] {
        let repository = world.repo.repository(name);
        let tags = client.tags(&repository).unwrap().present().unwrap();
        let tagged = |tag: &Tag| client.head(&repository, tag).unwrap().present().unwrap().digest;
        let named: Vec<_> = tags.iter().map(tagged).collect();
        for digest in &named {
            let registry::Answer::Present(found) = publish::read(&client, &repository, *digest).unwrap() else {
                panic!("`{digest}` is missing")
            };
            assert!(found.listed().iter().all(|child| named.contains(child)), "{name}: {tags:?}");
        }
    }
    // Nor does a prune take it.
    call(&world, &["base", "prune", "--keep", "5", "--yes"]).ok().keeps("untag");
    let plan = call(&world, &["plan", "--base", "HEAD"]).ok().stdout;
    assert!(plan.starts_with("skip"), "{plan}");
}

/// Base and app are to be built: the app's layers cannot be looked up, and are shown all the same.
#[test]
fn a_dry_run_shows_images_on_a_base_that_is_not_built_yet() {
    let Some(world) = World::new("dry") else { return };
    let (said, traffic) = world.traffic(|| call(&world, &["build", "--push", "--dry-run"]).ok());
    assert!(said.stdout.contains("templates /app/templates"), "{}", said.stdout);
    assert!(said.stdout.contains("dockerfiles/check.txt"), "{}", said.stdout);
    said.keeps("0000000000000000").says("is built first");
    assert_eq!(traffic.writes(), Vec::<String>::new());
    assert_eq!(traffic.count("*", "sha256:0000"), 0);
    let local = call(&world, &["build", "--dry-run"]).ok();
    assert!(local.stdout.contains("templates /app/templates"), "{}", local.stdout);
}

#[test]
fn offline_opens_no_connection() {
    let Some(world) = World::new("offline") else { return };
    let host = crate::fixture::platforms().0;
    let root = world.repo.digest("root", "1");
    world.repo.write(
        "images.lock",
        &format!("[root]\nimage = \"{}:1\"\n\n[root.platforms]\n\"{host}\" = \"{root}\"\n", world.root()),
    );
    world.repo.commit("pin");
    for args in [
        &["build", "--dry-run", "--offline"][..],
        &["build-base", "--dry-run", "--offline"],
        &["plan", "--offline", "--base", "HEAD"],
        &["doctor", "--offline"],
        &["explain", "--offline"],
    ] {
        let (said, traffic) = world.traffic(|| call(&world, args));
        said.ok();
        assert!(traffic.0.is_empty(), "{args:?}: {:?}", traffic.0);
    }
    let dry = call(&world, &["build", "--dry-run", "--offline"]).ok();
    assert!(dry.stdout.contains("templates /app/templates"), "{}", dry.stdout);
    // What needs the registry says so.
    let (said, traffic) = world.traffic(|| call(&world, &["build", "--offline"]));
    said.ends(2).says("`--offline`");
    assert!(traffic.0.is_empty(), "{:?}", traffic.0);
}
