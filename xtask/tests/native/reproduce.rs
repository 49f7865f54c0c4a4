//! `reproduce`: a published image is built again from its commit and nothing else, and whatever differs is named.

use crate::fixture::{Outcome, Repo, client};
use crate::world::World;
use flate2::read::MultiGzDecoder;
use serde_json::Value;
use std::io::Read as _;
use xtask_host::registry::publish;
use xtask_model::image::key::{FINGERPRINT_LABEL, KEY_LABEL};
use xtask_model::spec::oci::{Config, Descriptor, Index, Manifest, media_type};
use xtask_model::spec::reference::{Digest, Platform, Tag};

/// Text of the template, and the same text after somebody tampered with it.
const PAGE: [&[u8]; 2] = [b"<p>one</p>\n", b"<p>0ne</p>\n"];

fn reproduce(repo: &Repo, args: &[&str]) -> Outcome {
    let args = [&["reproduce", "--format", "json"], args].concat();
    repo.xtask(&args).without_engine().run()
}

#[track_caller]
fn push(world: &World) -> String {
    let built = world.repo.xtask(&["build", "--push"]).without_engine().run().ok();
    built.reference().to_string()
}

/// The results by image and platform.
#[track_caller]
fn results(outcome: &Outcome) -> Vec<(String, Value)> {
    let printed: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
    assert_eq!(xtask::documents::REPRODUCE.unlisted(&printed), [""; 0], "{printed:#}");
    let images = printed["images"].as_array().unwrap();
    images.iter().map(|image| (image["image"].as_str().unwrap().to_owned(), image["platforms"][0].clone())).collect()
}

/// Publishes a changed image of `name` under the tag of its key, with documents that fit together.
fn republish(world: &World, name: &str, change: impl FnOnce(&mut Manifest, &mut Config)) {
    let (repository, client, host) = (world.repo.repository(name), client(), Platform::host());
    let found = world.repo.published(name, "latest").unwrap();
    let mut manifest = publish::read_manifest(&client, &repository, found.platforms[&host].digest).unwrap();
    let mut config = publish::read_config(&client, &repository, &manifest).unwrap();
    change(&mut manifest, &mut config);
    let bytes = serde_json::to_vec(&config).unwrap();
    let digest = Digest::of(&bytes);
    client.upload(&repository, &digest, bytes.len() as u64, &bytes).unwrap();
    manifest.config = Descriptor::new(media_type::CONFIG, digest, bytes.len() as u64);
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let digest = client.put_manifest(&repository, Digest::of(&bytes), media_type::MANIFEST, &bytes).unwrap();
    let listed = Descriptor::new(media_type::MANIFEST, digest, bytes.len() as u64).with_platform(&host);
    let index = Index { manifests: vec![listed], ..found.index.unwrap() };
    let bytes = serde_json::to_vec(&index).unwrap();
    let fingerprint = found.notes[FINGERPRINT_LABEL].as_str();
    for tag in [&fingerprint[..12], "latest"] {
        client.put_manifest(&repository, tag.parse::<Tag>().unwrap(), media_type::INDEX, &bytes).unwrap();
    }
}

/// Replaces bytes of an app's last layer, which has the templates.
fn tamper(world: &World) {
    let (repository, client) = (world.repo.repository("app"), client());
    republish(world, "app", |manifest, config| {
        let layer = manifest.layers.last_mut().unwrap();
        let mut packed = Vec::new();
        client.blob(&repository, &layer.digest, layer.size, &mut packed).unwrap();
        let mut tar = Vec::new();
        MultiGzDecoder::new(&packed[..]).read_to_end(&mut tar).unwrap();
        let at = tar.windows(PAGE[0].len()).position(|bytes| bytes == PAGE[0]).unwrap();
        tar[at..at + PAGE[1].len()].copy_from_slice(PAGE[1]);
        let digest = Digest::of(&tar);
        client.upload(&repository, &digest, tar.len() as u64, &tar).unwrap();
        *layer = Descriptor {
            annotations: layer.annotations.clone(),
            ..Descriptor::new(media_type::LAYER, digest, tar.len() as u64)
        };
        *config.rootfs.diff_ids.last_mut().unwrap() = digest;
    });
}

#[test]
fn a_published_image_is_what_its_commit_gives() {
    let Some(world) = World::new("again") else { return };
    let app = push(&world);
    // Neither an edit, nor a later commit, nor a lost store matters.
    world.repo.write("templates/page.html", "later").commit("later");
    world.repo.write("code/deep/a.py", "edited and not committed");
    let _ = std::fs::remove_dir_all(world.repo.path.join("target/native"));
    let base = format!("{}:latest", world.repo.repository("app-base"));
    for image in [&app, &base] {
        let (done, traffic) = world.traffic(|| reproduce(&world.repo, &[image]).ok());
        let [(_, result)] = &results(&done)[..] else { panic!("{done:?}") };
        assert_eq!((&result["result"], &result["engine"]), (&"the same digest".into(), &"native".into()));
        assert_eq!(result["published"], result["rebuilt"]);
        assert_eq!(traffic.writes(), [""; 0], "nothing is published");
    }
    let status = world.repo.git(&["status", "--porcelain", "--branch"]);
    assert!(status.contains("code/deep/a.py") && world.repo.git(&["worktree", "list"]).lines().count() == 1);
}

#[test]
fn a_version_that_was_tagged_later_does_not_count() {
    let Some(world) = World::new("versions") else { return };
    world.repo.git(&["tag", "v1.2.3"]);
    let tagged = push(&world);
    assert_eq!(
        world.repo.config("app", tagged.split_once('@').unwrap().1).config.labels["org.opencontainers.image.version"],
        "1.2.3"
    );
    world.repo.write("templates/page.html", "untagged").commit("untagged");
    let untagged = push(&world);
    world.repo.git(&["tag", "v2.0.0"]);
    for image in [tagged, untagged] {
        reproduce(&world.repo, &[&image]).ok();
    }
}

#[test]
fn a_tampered_layer_is_named_by_path_and_bytes() {
    let Some(world) = World::new("tampered") else { return };
    push(&world);
    tamper(&world);
    let image = format!("{}:latest", world.repo.repository("app"));
    let done = reproduce(&world.repo, &[&image]).ends(6).says("/app/templates/page.html");
    let (_, result) = &results(&done)[0];
    let differences = result["differences"].as_array().unwrap();
    let layer = differences.iter().find(|one| one["path"] == "/app/templates/page.html").unwrap();
    let what = layer["what"].as_str().unwrap();
    assert!(what.starts_with("contents differ at offset 3 of 11 bytes: it has `306e65"), "{what}");
    assert!(what.contains("\"0ne</p>\\n\"") && what.contains("\"one</p>\\n\""), "{what}");
    assert_eq!(differences.len(), 1, "{differences:#?}");
    assert_ne!(result["published"], result["rebuilt"]);
}

#[test]
fn a_changed_configuration_is_named_by_its_field() {
    let Some(world) = World::new("configured") else { return };
    push(&world);
    republish(&world, "app", |_, config| config.config.user = "0:0".to_owned());
    let image = format!("{}:latest", world.repo.repository("app"));
    let done = reproduce(&world.repo, &[&image]).ends(6);
    done.says("configuration: `config.User`: `\"0:0\"`, built again `\"10001:10001\"`");
}

#[test]
fn an_image_that_no_build_can_give_is_refused_with_the_reason() {
    let Some(world) = World::new("impossible") else { return };
    let other = world.repo.clone("behind");
    world.repo.write("templates/page.html", "ahead").commit("ahead");
    let app = push(&world);
    let commit = world.repo.git(&["rev-parse", "HEAD"]);
    reproduce(&other, &[&app]).ends(2).says(commit.trim()).says("is not in this clone").says("git fetch");
    reproduce(&world.repo, &["--shadow"]).ends(2).says("`[ci] shadow` is not set");
    reproduce(&world.repo, &["--offline", &app]).ends(2).says("`--offline`");

    let older = |_: &mut Manifest, config: &mut Config| {
        let key = config.config.labels.get_mut(KEY_LABEL).unwrap();
        assert!(key.contains("\"schema\":3"), "{key}");
        *key = key.replace("\"schema\":3", "\"schema\":2");
    };
    republish(&world, "app", older);
    let image = format!("{}:latest", world.repo.repository("app"));
    reproduce(&world.repo, &[&image]).ends(2).says("its key has schema 2").says("git worktree add");

    world.repo.write("templates/page.html", "dirty");
    let dirty = push(&world);
    reproduce(&world.repo, &[&dirty]).ends(2).says("cannot be reproduced").says("changes on top of commit");
    let root = format!("{}:1", world.root());
    reproduce(&world.repo, &[&root]).ends(2).says("it was not built by xtask");
}

#[test]
fn a_sample_of_what_is_reused_is_built_again() {
    let Some(world) = World::new("shadow") else { return };
    let policy = world.repo.read("images.toml");
    let with = |share: &str| {
        world
            .repo
            .write("images.toml", &format!("{policy}\n[ci]\nengine = \"native\"\nshadow = {share}\n"))
            .commit(share)
    };
    with("1.0");
    push(&world);
    let planned = world.repo.xtask(&["plan", "--format", "json"]).without_engine().run().ok();
    let planned: Value = serde_json::from_str(&planned.stdout).unwrap();
    assert_eq!(xtask::documents::PLAN.unlisted(&planned), [""; 0]);
    assert_eq!(planned["shadow"], serde_json::json!(["base", "app"]));
    let (done, traffic) = world.traffic(|| reproduce(&world.repo, &["--shadow"]).ok());
    let results = results(&done);
    assert_eq!(results.len(), 2, "{results:#?}");
    assert!(results.iter().all(|(_, result)| result["result"] == "the same digest"), "{results:#?}");
    assert_eq!(traffic.writes(), [""; 0], "nothing is published");

    tamper(&world);
    reproduce(&world.repo, &["--shadow"]).ends(6).says("/app/templates/page.html");
    // A share that leaves both out says so, and builds nothing.
    with("0.0000001");
    let done = reproduce(&world.repo, &["--shadow"]).ok().says("not in the sample");
    assert_eq!(self::results(&done), []);
}

#[test]
fn an_image_of_docker_has_the_same_files() {
    let Some(repo) = Repo::new("dockers") else { return };
    let app = repo.xtask(&["build", "--push", "--engine", "docker"]).run().ok().reference().to_string();
    let base = format!("{}:latest", repo.repository("app-base"));
    for image in [&app, &base] {
        let done = repo.xtask(&["reproduce", "--format", "json", image]).run().ok();
        let (_, result) = &results(&done)[0];
        assert_eq!(result["engine"], "docker");
        let said = result["result"].as_str().unwrap();
        assert!(["the same digest", "the same files and configuration"].contains(&said), "{said}");
    }
}

#[test]
fn a_compiled_program_is_compiled_again() {
    let Some(world) = World::new("program") else { return };
    let repo = &world.repo;
    repo.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"tool\"]\n");
    repo.write("tool/Cargo.toml", "[package]\nname = \"tool\"\nversion = \"4.5.6\"\nedition = \"2024\"\n");
    let source = "fn main() { std::env::args().nth(1).expect(\"one argument\"); }\n";
    repo.write("tool/src/main.rs", source);
    repo.write("rust-toolchain.toml", include_str!("../../../rust-toolchain.toml"));
    repo.write("Cargo.lock", "version = 4\n\n[[package]]\nname = \"tool\"\nversion = \"4.5.6\"\n");
    repo.write(".dockerignore", "target\n!target/image\n.git\n");
    let fast = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nARG BINARY=target/release/tool\nCOPY --link ${BINARY} /app/tool\n";
    repo.write("dockerfiles/Dockerfile.fast", fast);
    repo.write("images.toml", &format!("{}\n[app.binary]\npackage = \"tool\"\n", repo.read("images.toml")));
    repo.commit("a program");
    let app = push(&world);
    // Folders of cargo that somebody set are not those of a build from nothing.
    let shared = repo.path.join("target");
    let again = || {
        let args = ["reproduce", "--format", "json", &app];
        repo.xtask(&args).without_engine().env("CARGO_TARGET_DIR", &shared).run()
    };
    let done = again().ok().says("compiling");
    assert_eq!(results(&done)[0].1["result"], "the same digest");
    // Another toolchain is another key, and nothing is compiled to find that out.
    let config = repo.config("app", app.split_once('@').unwrap().1);
    assert!(config.config.labels[KEY_LABEL].contains("\"toolchain\":"));
    republish(&world, "app", |_, config| {
        let labels = &mut config.config.labels;
        let key: Value = serde_json::from_str(&labels[KEY_LABEL]).unwrap();
        let toolchain = key["binary"]["toolchain"].to_string();
        let key = labels[KEY_LABEL].replace(&toolchain, "\"1.2.3\"");
        labels.insert(FINGERPRINT_LABEL.to_owned(), "ab".repeat(32));
        labels.insert(KEY_LABEL.to_owned(), key);
    });
    let image = format!("{}:latest", repo.repository("app"));
    let said = reproduce(repo, &[&image]).ends(6).says("another key").says("1.2.3");
    said.keeps("compiling");
}
