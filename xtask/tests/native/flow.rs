//! The usual way: what is built, sent, mounted and requested, and what is in the registry afterwards.

use crate::fixture::{Repo, actions};
use crate::world::{NAMES, World, listing};
use std::collections::{BTreeMap, BTreeSet};
use xtask_native::push::published::{DIFF_ID, RECIPE};

#[test]
fn the_second_build_builds_nothing_and_writes_nothing() {
    let Some(world) = World::new("second") else { return };
    let first = world.repo.push();
    assert_eq!(first.actions(), actions("built", "built"));
    world.is_whole();
    let (second, traffic) = world.traffic(|| world.repo.push());
    assert_eq!(second.actions(), actions("reused", "reused"));
    assert_eq!(second.digest("app"), first.digest("app"));
    assert_eq!(traffic.writes(), Vec::<String>::new());
    // An image exists only when it is whole: its configuration and its layers are asked for once each. That of the base may be read
    // instead, as the first build did.
    let blobs = NAMES.map(|name| world.manifest(name, "latest").layers.len() + 1).iter().sum::<usize>();
    assert!((blobs - 1..=blobs).contains(&traffic.count("HEAD", "/blobs/")));
    assert!(traffic.0.len() - blobs <= 16, "{} requests", traffic.0.len());
}

#[test]
fn a_template_edit_on_a_cold_runner_makes_and_sends_one_layer() {
    let Some(world) = World::new("cold") else { return };
    let first = world.repo.push();
    let before = world.manifest("app", "latest");
    world.repo.write("templates/page.html", "<p>two</p>\n").commit("edit");
    let cold = world.repo.clone("runner");
    let (said, traffic) = world.traffic(|| cold.xtask(&["build", "--push", "--format", "json"]).without_engine().run());
    let report = said.ok().report();
    assert_eq!(report.actions(), actions("reused", "built"));
    assert_eq!(report.digest("base"), first.digest("base"));
    assert_eq!(report.image("app")["steps"], serde_json::json!([3, 2]), "{report:?}");

    let after = world.manifest("app", "latest");
    let new: Vec<_> = after.layers.iter().filter(|layer| !before.layers.contains(layer)).collect();
    assert_eq!(new.len(), 1, "{after:?}");
    assert_eq!(new[0], after.layers.last().unwrap());
    let (sent, bytes) = traffic.sent();
    let expected = [new[0].digest.to_string(), after.config.digest.to_string()];
    assert_eq!(sent, expected.into());
    assert_eq!(bytes, new[0].size + after.config.size);
    assert_eq!(traffic.read(&after.layers).iter().sum::<usize>(), 0, "no layer is read");
    assert_eq!(traffic.mounted(), 0, "the base is in the registry already");
    world.is_whole();
    assert_eq!(world.repo.run(&report.text("app", "reference"), &[]), "<p>two</p>");
}

#[test]
fn base_layers_are_mounted_and_never_read() {
    let Some(world) = World::new("mounted") else { return };
    let base = world.repo.xtask(&["build-base", "--push", "--format", "json"]).run().ok().report();
    let below = world.manifest("app-base", &base.digest("base")).layers;
    // On another machine, which has none of them.
    let cold = world.repo.clone("runner");
    let (said, traffic) = world.traffic(|| cold.xtask(&["build", "--push", "--format", "json"]).without_engine().run());
    assert_eq!(said.ok().report().actions(), actions("reused", "built"));
    assert_eq!(traffic.read(&below), vec![0; below.len()]);
    assert_eq!(traffic.mounted(), below.len());
    let own = world.manifest("app", "latest").layers.split_off(below.len());
    assert_eq!(own.len(), 3);
    assert_eq!(traffic.sent().0.len(), own.len() + 1, "its layers and its configuration");
    assert!(own.iter().all(|layer| layer.annotations.contains_key(RECIPE) && layer.annotations.contains_key(DIFF_ID)));
    world.is_whole();
}

#[test]
fn a_second_repository_mounts_the_layers_that_this_machine_sent() {
    let Some(world) = World::new("secondplace") else { return };
    world.repo.push();
    let layers = world.manifest("app", "latest").layers;
    let digests: BTreeSet<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
    let push = |name: &str| {
        let to = format!("{}/{name}", world.root().registry());
        let build = || world.repo.xtask(&["build", "--push", "--format", "json", "--registry", &to]).run();
        let (said, traffic) = world.traffic(build);
        assert_eq!(said.ok().report().actions(), actions("built", "built"));
        traffic.sent().0.intersection(&digests).cloned().collect::<Vec<_>>()
    };
    assert_eq!(push("second"), [""; 0]);
    // What the first repository has lost is sent.
    let lost = layers.last().unwrap().digest;
    world.lose("app", &lost);
    assert_eq!(push("third"), [lost.to_string()]);
}

#[test]
fn the_root_is_read_once_for_its_accounts() {
    let Some(world) = World::new("rootonce") else { return };
    let root = world.manifest("root", "1").layers;
    let (said, traffic) = world.traffic(|| world.repo.xtask(&["build-base", "--push"]).run());
    said.ok();
    assert_eq!(traffic.read(&root), [1], "the recipe `user` adds to its `/etc/passwd`");
    world.repo.write("dockerfiles/check.txt", "two\n").commit("edit");
    let (said, traffic) = world.traffic(|| world.repo.xtask(&["build-base", "--push", "--format", "json"]).run());
    assert_eq!(said.ok().report().image("base")["steps"], serde_json::json!([5, 4]));
    assert_eq!(traffic.read(&root), [0]);
}

#[test]
fn a_copy_without_link_reads_the_base_once() {
    let Some(world) = World::new("unlinked") else { return };
    world.repo.edit("dockerfiles/Dockerfile.fast", "COPY --link --chown=0:0 templates", "COPY --chown=0:0 templates");
    world.repo.commit("unlinked");
    let base = world.repo.xtask(&["build-base", "--push", "--format", "json"]).run().ok().report();
    let below = world.manifest("app-base", &base.digest("base")).layers;
    let cold = world.repo.clone("runner");
    let build = |repo: &Repo| world.traffic(|| repo.push());
    let (report, traffic) = build(&cold);
    assert_eq!(report.actions(), actions("reused", "built"));
    assert_eq!(traffic.read(&below), vec![1; below.len()]);
    cold.write("templates/page.html", "<p>two</p>\n").commit("edit");
    let (report, traffic) = build(&cold);
    assert_eq!(report.actions(), actions("reused", "built"));
    assert_eq!(traffic.read(&below), vec![0; below.len()], "its files are remembered");
    world.is_whole();
    assert_eq!(world.repo.run(&report.text("app", "reference"), &[]), "<p>two</p>");
}

/// Documents that an engine leaves in the registry, without what names the engine itself.
fn published(world: &World) -> BTreeMap<String, serde_json::Value> {
    let mut all = BTreeMap::new();
    for name in ["app-base", "app"] {
        let tags = world.repo.tags(name);
        let config = world.repo.config(name, "latest");
        let mut notes = world.repo.published(name, "latest").unwrap().notes;
        notes.retain(|name, _| {
            !name.starts_with(xtask_model::record::ledger::ANNOTATION)
                && !name.starts_with(xtask_model::image::presence::BUILT)
        });
        // The base's digest differs with the engine: it is that of compressed layers.
        let mut labels = config.config.labels.clone();
        if name == "app" {
            labels.remove("org.opencontainers.image.base.digest");
        }
        let other = serde_json::json!({
            "env": config.config.env, "user": config.config.user, "entrypoint": config.config.entrypoint,
            "created": config.created, "os": config.os, "architecture": config.architecture,
        });
        all.insert(format!("{name} tags"), serde_json::json!(tags));
        all.insert(format!("{name} notes"), serde_json::json!(notes));
        all.insert(format!("{name} labels"), serde_json::json!(labels));
        all.insert(format!("{name} config"), other);
    }
    all
}

#[test]
fn tags_labels_and_annotations_equal_dockers() {
    let Some(world) = World::new("asdocker") else { return };
    world.repo.git(&["tag", "v1.2.3"]);
    let by = |engine: &str| {
        let call = world.repo.xtask(&["build", "--push", "--engine", engine, "--format", "json"]);
        let report = call.run().ok().report();
        assert_eq!(report.actions(), actions("built", "built"));
        world.is_whole();
        (report.tags("app"), report.fingerprint("app"), published(&world))
    };
    let native = by("native");
    world.wipe();
    let docker = by("docker");
    assert_eq!((native.0, native.1), (docker.0, docker.1));
    for (name, found) in native.2 {
        assert_eq!(found, docker.2[&name], "{name}");
    }
}

#[test]
fn latest_moves_only_from_a_clean_default_branch() {
    let Some(world) = World::new("latest") else { return };
    let repo = &world.repo;
    let first = repo.push();
    repo.write("templates/page.html", "<p>dirty</p>\n");
    let dirty = repo.push();
    let why = dirty.text("app", "latest_stays");
    assert!(why.ends_with("`templates/page.html` (differs from the commit)"), "{why}");
    assert_eq!(dirty.tags("app"), [dirty.fingerprint("app")[..12].to_owned()]);
    repo.git(&["switch", "-qc", "fix/a-b"]);
    repo.write("templates/page.html", "<p>branch</p>\n").commit("branch");
    let branch = repo.push();
    assert_eq!(branch.text("app", "latest_stays"), "`fix/a-b` is not the default branch `main`");
    assert_eq!(repo.digest("app", "latest"), first.digest("app"));
    assert_eq!(repo.digest("app", branch.tags("app").last().unwrap()), branch.digest("app"));
    repo.git(&["switch", "-q", "main"]);
    repo.git(&["merge", "-q", "--ff-only", "fix/a-b"]);
    let merged = repo.push();
    assert_eq!(merged.actions(), actions("reused", "reused"));
    assert_eq!(repo.digest("app", "latest"), branch.digest("app"));
    // Back to a commit before it, as where jobs overtake each other.
    repo.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let older = repo.xtask(&["build", "--push", "--force", "--format", "json"]).run().ok().report();
    assert_eq!(older.actions(), actions("built", "built"));
    assert_eq!(older.text("app", "latest_stays"), "it names the image of a later commit");
    assert_eq!(repo.digest("app", "latest"), branch.digest("app"));
    world.is_whole();
}

#[test]
fn force_makes_every_layer_again() {
    let Some(world) = World::new("force") else { return };
    let first = world.repo.push();
    let (forced, traffic) =
        world.traffic(|| world.repo.xtask(&["build", "--push", "--force", "--format", "json"]).run());
    let forced = forced.ok().report();
    assert_eq!(forced.actions(), actions("built", "built"));
    for (kind, layers) in [("base", 5), ("app", 3)] {
        assert_eq!(forced.image(kind)["steps"], serde_json::json!([layers, 0]), "{kind}");
        // The same inputs give the same bytes, made again or not.
        assert_eq!(forced.image(kind)["platforms"], first.image(kind)["platforms"], "{kind}");
    }
    assert!(traffic.count("PUT", "/manifests/") >= 4, "{:?}", traffic.writes());
    world.is_whole();
}

#[test]
fn a_dry_run_lists_layers_and_changes_nothing() {
    let Some(world) = World::new("dry") else { return };
    world.repo.push();
    world.repo.write("templates/page.html", "<p>two</p>\n").commit("edit");
    let before = listing(&world.repo.path.join("target/native"));
    let (said, traffic) = world.traffic(|| world.repo.xtask(&["build", "--push", "--dry-run"]).run());
    let said = said.ok();
    assert_eq!(traffic.writes(), Vec::<String>::new());
    let lines: Vec<&str> = said.stdout.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(lines, ["named", "named", "made"], "{}", said.stdout);
    assert!(said.stdout.lines().last().unwrap().contains("templates"), "{}", said.stdout);
    assert!(!before.is_empty() && before == listing(&world.repo.path.join("target/native")));
}

#[test]
fn the_report_has_phases_and_bytes() {
    let Some(world) = World::new("report") else { return };
    let report = world.repo.push();
    for (kind, name) in [("base", "app-base"), ("app", "app")] {
        let image = report.image(kind);
        let phases: BTreeMap<String, f64> = serde_json::from_value(serde_json::Value::Object(
            image["seconds"]
                .as_array()
                .unwrap()
                .iter()
                .map(|pair| (pair[0].as_str().unwrap().to_owned(), pair[1].clone()))
                .collect(),
        ))
        .unwrap();
        for phase in ["assemble", "find", "produce", "compress", "send", "publish"] {
            assert!(phases.contains_key(phase), "{kind}: {phases:?}");
        }
        let manifest = world.manifest(name, "latest");
        let size = manifest.config.size + manifest.layers.iter().map(|layer| layer.size).sum::<u64>();
        assert_eq!(image["size"], size, "{kind}");
    }
}
