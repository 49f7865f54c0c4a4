//! Destinations of an image: a layout, an archive, docker, or a folder of this machine; read back by programs of others.

use crate::fixture::{Call, Report, actions};
use crate::world::World;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use xtask_host::process::{self, Command};
use xtask_model::fault::Exit;
use xtask_model::spec::reference::{Digest, Platform};

/// A program of others, unless this machine lacks it and may.
pub(crate) fn tool(name: &str) -> Option<Command> {
    let found = process::found(name);
    if found.is_none() {
        assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "no `{name}` on the PATH");
        println!("skipped: no `{name}` on the PATH");
    }
    found.map(Command::new)
}

#[track_caller]
fn said(call: &Command) -> String {
    call.read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"))
}

/// The digest of the manifest of a report's app.
fn manifest(report: &Report) -> String {
    report.image("app")["platforms"][Platform::host().to_string()].as_str().unwrap().to_owned()
}

/// Has umoci unpack an image of a layout, and checks that what runs is present, whole and as it should be.
#[track_caller]
fn unpacks(umoci: Command, layout: &Path, tag: &str, page: &str) {
    let bundle = tempfile::tempdir().unwrap();
    let bundle = bundle.path().join("bundle");
    said(&umoci.args(["unpack", "--rootless", "--image"]).arg(format!("{}:{tag}", layout.display())).arg(&bundle));
    let rootfs = bundle.join("rootfs");
    let read = |path: &str| std::fs::read_to_string(rootfs.join(path)).unwrap();
    assert_eq!(read("app/templates/page.html"), page);
    assert!(
        read("etc/passwd").ends_with("\napp:x:10001:10001:app:/home/app:/usr/sbin/nologin\n"),
        "{}",
        read("etc/passwd")
    );
    assert_eq!(std::fs::read_link(rootfs.join("app/code/link")).unwrap(), Path::new("deep/a.py"));
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bundle.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["process"]["args"], serde_json::json!(["cat", "/app/templates/page.html"]));
}

#[test]
fn other_tools_read_a_layout_and_an_archive() {
    let Some(world) = World::new("outputs") else { return };
    let (Some(skopeo), Some(umoci)) = (tool("skopeo"), tool("umoci")) else { return };
    let folder = world.repo.path.join("target/out of here");
    std::fs::create_dir_all(&folder).unwrap();
    let (layout, archive) = (folder.join("layout"), folder.join("image.tar"));
    let outputs = [format!("oci:{}", layout.display()), format!("oci-archive:{}", archive.display())];
    for (way, push) in [("published", true), ("local", false)] {
        world.repo.write("templates/page.html", way).commit(way);
        let built = outputs.each_ref().map(|output| {
            let mut args = vec!["build", "--format", "json", "--output", output];
            args.extend(push.then_some("--push"));
            world.repo.xtask(&args).without_engine().run().ok().report()
        });
        let (digest, tag) = (manifest(&built[0]), built[0].tags("app")[0].clone());
        assert_eq!(manifest(&built[1]), digest, "{way}");

        let names = [format!("oci:{}:{tag}", layout.display()), format!("oci-archive:{}:{tag}", archive.display())];
        for name in &names {
            let raw = skopeo.clone().args(["inspect", "--raw", name]).output().unwrap();
            assert!(raw.status.success(), "{}", String::from_utf8_lossy(&raw.stderr));
            assert_eq!(Digest::of(&raw.stdout).to_string(), digest, "{way}: {name}");
            // skopeo checks every digest on its way.
            let target = tempfile::tempdir().unwrap();
            let target = format!("dir:{}", target.path().display());
            said(&skopeo.clone().args(["copy", "--insecure-policy", "--dest-decompress", name, &target]));
        }
        unpacks(umoci.clone(), &layout, &tag, way);
    }
    // The registry's image is the very same.
    let raw = format!("docker://{}/app:{}", world.repo.registry, world.repo.tags("app")[0]);
    let inspected = said(&skopeo.args(["inspect", "--tls-verify=false", &raw]));
    assert!(inspected.contains(xtask_model::image::key::FINGERPRINT_LABEL), "{inspected}");
}

#[test]
fn an_archive_is_the_same_whenever_it_is_written() {
    let Some(world) = World::new("archive") else { return };
    let write = |name: &str| {
        let file = world.repo.path.join("target").join(name);
        let output = format!("oci-archive:{}", file.display());
        world.repo.xtask(&["build", "--output", &output]).without_engine().run().ok();
        Digest::of(&std::fs::read(file).unwrap())
    };
    assert_eq!(write("one.tar"), write("two.tar"));
}

#[test]
fn a_local_build_without_docker_is_kept_and_found_again() {
    let Some(world) = World::new("here") else { return };
    let call = |args: &[&str]| world.repo.xtask(args).without_engine();
    let build = || call(&["build", "--format", "json"]).run().ok().report();
    let (first, traffic) = world.traffic(build);
    assert_eq!(first.actions(), actions("built", "built"));
    assert_eq!(traffic.writes(), Vec::<String>::new(), "nothing is published");
    let folders = |start: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(world.repo.path.join("target/images")).unwrap().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir() && path.file_name().unwrap().to_str().unwrap().starts_with(start))
            .collect()
    };
    assert_eq!((folders("base-").len(), folders("app-").len()), (1, 1));
    assert_eq!(call(&["run"]).run().ok().stdout, "<p>one</p>\n");
    let again = build();
    assert_eq!(again.actions(), actions("reused", "reused"));
    assert_eq!(again.digest("app"), first.digest("app"));
    world.repo.write("templates/page.html", "<p>two</p>\n");
    let (edited, traffic) = world.traffic(build);
    assert_eq!(edited.actions(), actions("reused", "built"));
    assert_eq!(edited.image("app")["steps"], serde_json::json!([3, 2]));
    assert_eq!(traffic.read(&world.manifest("root", "1").layers), [0]);
    assert_eq!(call(&["run"]).run().ok().stdout, "<p>two</p>\n");
    // A damaged layer is made again.
    let blobs = folders("app-").into_iter().flat_map(|folder| std::fs::read_dir(folder.join("blobs/sha256")).unwrap());
    for blob in blobs.flatten() {
        let text = std::fs::read(blob.path()).unwrap();
        // Blobs are shared by hard links: another file, not other bytes in this one.
        std::fs::remove_file(blob.path()).unwrap();
        std::fs::write(blob.path(), &text[..text.len() / 2]).unwrap();
    }
    let healed = build();
    assert_eq!(healed.actions(), actions("reused", "built"));
    assert_eq!(healed.digest("app"), edited.digest("app"));
    assert_eq!(call(&["run"]).run().ok().stdout, "<p>two</p>\n");
}

#[test]
fn with_docker_a_local_build_is_loaded_into_it() {
    let Some(world) = World::new("indocker") else { return };
    let build = || world.repo.xtask(&["build", "--format", "json"]).run().ok().report();
    let report = build();
    assert_eq!(report.actions(), actions("built", "built"));
    let engine = world.repo.engine;
    let mut ids = std::collections::BTreeSet::new();
    for tag in report.tags("app") {
        let name = format!("{}/app:{tag}", world.repo.registry);
        let shown = engine.docker(&["image", "inspect", "--format", "{{json .}}", &name]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        ids.insert(shown["Id"].as_str().unwrap().to_owned());
        assert_eq!(
            shown["Config"]["Labels"][xtask_model::image::key::FINGERPRINT_LABEL],
            report.fingerprint("app"),
            "{tag}"
        );
        let printed = engine.docker(&["run", "--rm", "--network=host", "--pull=never", &name]);
        assert_eq!(printed, "<p>one</p>");
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(report.tags("app").len(), 4, "the fingerprint's, the commit's, the branch's and `latest`");
    let again = build();
    assert_eq!(again.actions(), actions("reused", "reused"));
    assert_eq!(again.digest("app"), report.digest("app"));
}

/// The phases of the app's build: only the native engine has one called `assemble`.
fn engine_of(report: &Report) -> &'static str {
    let phases: Vec<&str> =
        report.image("app")["seconds"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    match (phases.contains(&"assemble"), phases.contains(&"build")) {
        (true, false) => "native",
        (false, true) => "docker",
        _ => panic!("{phases:?}"),
    }
}

#[test]
fn auto_uses_docker_if_available_and_native_otherwise() {
    let Some(world) = World::new("auto") else { return };
    let engines: BTreeMap<&str, fn(Call) -> Call> =
        BTreeMap::from([("docker", (|call| call) as fn(Call) -> Call), ("native", Call::without_engine)]);
    for (engine, surroundings) in engines {
        let args = ["build", "--push", "--force", "--engine", "auto", "--format", "json"];
        let report = surroundings(world.repo.xtask(&args)).run().ok().report();
        assert_eq!(engine_of(&report), engine);
    }
    // The policy says native, whatever answers.
    let report = world.repo.xtask(&["build", "--push", "--force", "--format", "json"]).run().ok().report();
    assert_eq!(engine_of(&report), "native");
    world.repo.xtask(&["build", "--engine", "docker"]).without_engine().run().ends(3).says("hint:");
    world.repo.xtask(&["build", "--output", "docker"]).without_engine().run().ends(3).says("no Docker engine responds");
}

/// Either engine follows `[base] compression`. Docker keeps a layer of its build cache unchanged, so only layers whose contents are new are
/// looked at.
#[test]
fn layers_are_compressed_as_configured() {
    use xtask_model::spec::oci::media_type::{LAYER_GZIP, LAYER_ZSTD};
    let Some(world) = World::new("compressed") else { return };
    let both = "compression = { docker = \"zstd\", native = \"gzip\" }";
    for (written, docker, native) in [
        ("compression = \"gzip\"", LAYER_GZIP, LAYER_GZIP),
        ("compression = \"zstd\"", LAYER_ZSTD, LAYER_ZSTD),
        (both, LAYER_ZSTD, LAYER_GZIP),
    ] {
        let new = format!("{} {written}\n", world.repo.registry);
        world.repo.write("templates/page.html", &new).write("dockerfiles/check.txt", &new);
        world.repo.set("base", written).commit(written);
        for (engine, expected) in [("native", native), ("docker", docker)] {
            world.wipe();
            let call = ["build", "--push", "--force", "--engine", engine, "--format", "json"];
            world.repo.xtask(&call).run().ok();
            world.is_whole();
            let root = world.manifest("root", "1").layers.len();
            for name in ["app-base", "app"] {
                let mut layers = world.manifest(name, "latest").layers.split_off(root);
                assert!(!layers.is_empty());
                if engine == "docker" {
                    layers.drain(..layers.len() - 1);
                }
                let found: Vec<&str> = layers.iter().map(|layer| layer.media_type.as_str()).collect();
                assert_eq!(found, vec![expected; found.len()], "{name} by {engine} with `{written}`");
            }
        }
        world.repo.edit("images.toml", &format!("{written}\n"), "").commit("nothing");
    }
}
