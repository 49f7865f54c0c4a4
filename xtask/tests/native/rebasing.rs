//! Published images on a newer root: read by other people's programs, run, refused where roots differ, and taken back.

use crate::fault_proxy::{Answer, Mishap};
use crate::fixture::{GATE, Outcome, actions, client, until};
use crate::supply::tools::program;
use crate::supply::{Signed, runs};
use crate::world::World;
use rustix::process::Signal;
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};
use xtask_host::registry::publish;
use xtask_model::image::rebase;
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::reference::{Digest, Platform};

const RELEASE: &str = "ID=debian\nVERSION_ID=\"13\"\nVERSION_CODENAME=trixie\n";

fn status(zlib: &str) -> String {
    format!(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\nVersion: 2.41-12\n\n\
         Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nSource: zlib\nVersion: {zlib}\n"
    )
}

/// Pushes a root whose tag `1` names it from now on.
fn push_root(world: &World, release: &str, zlib: &str) -> Digest {
    let marker = format!("zlib {zlib}\n");
    let status = status(zlib);
    let files = [("etc/marker", marker.as_str()), ("usr/lib/os-release", release), ("var/lib/dpkg/status", &status)];
    world.repo.engine.push_root_with(&world.root(), "1", &files)
}

/// A rebase that waits in a step until the gate exists.
fn gated(world: &World, gate: &std::path::Path) -> crate::fixture::Running {
    let mut running = world.repo.xtask(&["rebase"]).without_engine().env("GATE", gate).start();
    running.wait_for("step gate");
    running
}

/// A repository whose images are on the old root, which is pinned, and the digest of that root.
fn world(name: &str) -> Option<World> {
    let world = World::new(name)?;
    push_root(&world, RELEASE, "1:1.3.1");
    world.repo.edit(
        "images.toml",
        "# app settings",
        "# app settings\n\n[smoke]\n\n[[smoke.run]]\nname = \"page\"\nargs = []\ncontains = \"<p>\"\n",
    );
    world.repo.step(GATE);
    pin(&world);
    world.repo.commit("root");
    world.repo.xtask(&["build", "--push"]).without_engine().run().ok();
    Some(world)
}

/// Pins the root that its tag names, as `lock` would.
fn pin(world: &World) {
    let found = publish::read(&client(), &world.root(), "1".parse::<xtask_model::spec::reference::Tag>().unwrap());
    let found = found.unwrap().present().unwrap();
    let digest = found.platforms[&Platform::host()].digest;
    world.repo.write(
        "images.lock",
        &format!(
            "# Written by `cargo xtask lock`; do not edit.\n\n[root]\nimage = \"{}:1\"\n\n[root.platforms]\n\"{}\" = \"{digest}\"\n",
            world.root(),
            Platform::host()
        ),
    );
}

impl World {
    fn rebase(&self, args: &[&str]) -> Outcome {
        self.repo.xtask(&[&["rebase"], args].concat()).without_engine().run()
    }

    /// The digests of every tag that people use.
    fn names(&self) -> Vec<(String, String)> {
        let tags = [("app-base", "latest"), ("app", "latest"), ("app", "main")];
        tags.iter().map(|(name, tag)| (format!("{name}:{tag}"), self.repo.digest(name, tag))).collect()
    }

    fn layers(&self, name: &str, digest: &str) -> Vec<Descriptor> {
        self.manifest(name, digest).layers
    }
}

fn parsed(outcome: &Outcome) -> Value {
    let value: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(xtask::documents::REBASE.unlisted(&value), [""; 0], "{value:#}");
    value
}

#[test]
fn a_fix_of_the_root_reaches_base_and_app_without_a_build() {
    let Some(world) = world("rebased") else { return };
    let repo = &world.repo;
    let before = world.names();
    let (base_layers, app_layers) = (world.layers("app-base", "latest"), world.layers("app", "latest"));
    let root = push_root(&world, RELEASE, "1:1.3.1-2");
    // Nothing is known on a machine that has only the repository.
    std::fs::remove_dir_all(repo.path.join("target/native")).unwrap();

    let (dry, traffic) = world.traffic(|| world.rebase(&["--dry-run"]).ok().says("zlib1g 1:1.3.1 -> 1:1.3.1-2"));
    assert_eq!((traffic.writes(), dry.stdout), (Vec::new(), String::new()));
    let (outcome, traffic) = world.traffic(|| world.rebase(&["--format", "json"]).ok());
    let report = parsed(&outcome);
    let acted: Vec<&str> =
        report["images"].as_array().unwrap().iter().map(|one| one["action"].as_str().unwrap()).collect();
    assert_eq!(acted, ["rebased", "rebased"], "{report:#}");
    assert!(report["fixes"].to_string().contains("zlib1g"), "{report:#}");
    assert!(report["images"].to_string().contains("\"main\""), "both tags of the app move: {report:#}");
    let after = world.names();
    assert!(before.iter().zip(&after).all(|(before, after)| before.1 != after.1), "{before:?} {after:?}");

    // Only the root's layer is another one. The smoke test runs the app, and so reads its layers once; nothing else does.
    let (base, app) = (world.manifest("app-base", "latest"), world.manifest("app", "latest"));
    assert_eq!(base.layers[1..], base_layers[1..]);
    assert_eq!(app.layers[1..], app_layers[1..]);
    assert_ne!(app.layers[0].digest, app_layers[0].digest);
    assert!(traffic.read(&app.layers).iter().all(|times| *times <= 1), "{:?}", traffic.read(&app.layers));
    world.is_whole();

    // What it says of itself.
    let published = repo.published("app", "latest").unwrap();
    assert_eq!(rebase::before(&published).unwrap().digest.unwrap().to_string(), before[1].1);
    let config = repo.config("app", "latest");
    let base_now = repo.published("app-base", "latest").unwrap().platforms[&Platform::host()].digest;
    assert_eq!(config.config.labels["org.opencontainers.image.base.digest"], base_now.to_string());
    assert_ne!(config.config.labels[rebase::ROOT_FROM], config.config.labels[rebase::ROOT_TO]);
    assert_ne!(config.config.labels[rebase::ROOT_TO], root.to_string(), "the manifest's digest, not the index's");
    assert!(config.history[0].created_by.as_deref() == Some("busybox") && config.history.len() > 4);

    // It runs, with the new root's file.
    let rebased = repo.repository("app").digest(published.digest).to_string();
    let marker = repo.run(&rebased, &["/etc/marker"]);
    assert!(marker.contains("zlib 1:1.3.1-2"), "{marker}");
    read_by_others(&world);
    let before_it = format!("cargo xtask reproduce {}@{}", repo.repository("app"), before[1].1);
    repo.xtask(&["reproduce", &rebased]).without_engine().run().ends(2).says(&before_it);

    // A second call has nothing to do; neither has a build on the new root, for which these are the images of its keys.
    let (_, traffic) = world.traffic(|| world.rebase(&[]).ok().says("the images are on the newest root"));
    assert_eq!(traffic.writes(), [""; 0]);
    assert_eq!(world.names(), after);
    // The old root is pinned: a build of this commit changes nothing, and says so.
    let kept = repo.xtask(&["build", "--push"]).without_engine().run().ok().says("rebased");
    drop(kept.says("cargo xtask lock"));
    assert_eq!(world.names(), after);
    pin(&world);
    repo.commit("pin");
    let built = repo.xtask(&["build", "--push", "--format", "json"]).without_engine().run().ok().report();
    assert_eq!(built.actions(), actions("reused", "reused"), "{built:?}");
    assert_eq!(world.names(), after);
    // A commit pins the next root: a rebase on the pinned one comes before the build, which then finds its images.
    push_root(&world, RELEASE, "1:1.3.1-3");
    pin(&world);
    push_root(&world, RELEASE, "1:1.3.1-4");
    repo.commit("pin again");
    world.rebase(&["--locked"]).ok().says("zlib1g 1:1.3.1-2 -> 1:1.3.1-3");
    let built = repo.xtask(&["build", "--push", "--format", "json"]).without_engine().run().ok().report();
    assert_eq!(built.actions(), actions("reused", "reused"), "{built:?}");
}

/// Others read the same image.
fn read_by_others(world: &World) {
    let (Some(skopeo), Some(umoci)) = (program("skopeo"), program("umoci")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let image = format!("docker://{}:latest", world.repo.repository("app"));
    let copy = ["--insecure-policy", "copy", "--src-tls-verify=false", &image, "oci:image:app"];
    runs(Command::new(skopeo).args(copy).current_dir(folder.path()));
    let unpack = ["unpack", "--rootless", "--image", "image:app", "bundle"];
    runs(Command::new(umoci).args(unpack).current_dir(folder.path()));
    let text = |path: &str| std::fs::read_to_string(folder.path().join("bundle/rootfs").join(path)).unwrap();
    assert_eq!(text("etc/marker"), "zlib 1:1.3.1-2\n");
    assert!(text("etc/passwd").contains("app:x:10001"), "{}", text("etc/passwd"));
    assert_eq!(text("app/templates/page.html"), "<p>one</p>\n");
}

#[test]
fn images_that_docker_built_are_rebased_too() {
    let Some(world) = World::new("dockers") else { return };
    push_root(&world, RELEASE, "1:1.3.1");
    // Docker has a layer that nobody describes, of a command.
    world.repo.edit(
        "dockerfiles/Dockerfile.fast",
        "ENTRYPOINT",
        "USER 0\nRUN --network=none echo made > /made\nENTRYPOINT",
    );
    pin(&world);
    world.repo.commit("root");
    let build = |repo: &crate::fixture::Repo| repo.xtask(&["build", "--push", "--engine", "docker"]).run();
    build(&world.repo).ok();
    push_root(&world, RELEASE, "1:1.3.1-2");
    world.rebase(&[]).ok();
    world.is_whole();
    let app = world.repo.published("app", "latest").unwrap();
    let app = world.repo.repository("app").digest(app.digest).to_string();
    assert!(world.repo.run(&app, &["/etc/marker"]).contains("1:1.3.1-2"));
    assert_eq!(world.repo.run(&app, &["/made"]), "<p>one</p>\nmade");

    // A command that changes what the new root changes.
    world.repo.edit("dockerfiles/Dockerfile.fast", "> /made", "> /made && echo own > /etc/marker");
    world.repo.commit("hide");
    build(&world.repo).ok();
    let before = world.names();
    world.rebase(&[]).ends(6).says("hides `/etc/marker`, which the new root changes");
    assert_eq!(world.names(), before);
}

#[test]
fn what_cannot_be_rebased_keeps_its_tags() {
    let Some(world) = world("unfit") else { return };
    let before = world.names();
    #[track_caller]
    fn refused(world: &World, args: &[&str], code: i32, why: &str) {
        let before = world.names();
        world.rebase(args).ends(code).says(why);
        world.proxy.clear();
        assert_eq!(world.names(), before, "{why}");
    }
    let (_, traffic) = world.traffic(|| world.rebase(&[]).ok().says("the images are on the newest root"));
    assert_eq!(traffic.writes(), [""; 0]);

    // Another root with the same packages.
    push_root(&world, &format!("{RELEASE}# other bytes\n"), "1:1.3.1");
    let (_, traffic) = world.traffic(|| world.rebase(&[]).ok().says("no installed package has a newer version"));
    assert_eq!(traffic.writes(), [""; 0]);
    world.rebase(&["--force", "--dry-run"]).ok().says("would");
    let lock = world.repo.read("images.lock");
    world.rebase(&["--pin"]).ok().says("stays");
    assert_eq!(world.repo.read("images.lock"), lock, "no image is on that root");

    push_root(&world, "ID=debian\nVERSION_ID=\"14\"\nVERSION_CODENAME=forky\n", "1:1.3.1-2");
    refused(&world, &[], 6, "the old root is `debian 13`, the new one `debian 14`");
    push_root(&world, RELEASE, "1:1.3.1-2");
    refused(&world, &[&format!("{}:1", world.root())], 2, "it was not built by xtask: it has no fingerprint");
    refused(&world, &[&format!("{}:none", world.repo.repository("app"))], 5, "is not in the registry");
    refused(&world, &["--root-image", "127.0.0.1:1/other:1"], 2, "is another image than the root");
    refused(&world, &["--offline"], 2, "cannot be used with `--offline`");

    // The registry refuses, or answers with what it should not.
    let denied = || Mishap::Answer(Answer::new(403));
    world.proxy.on("PUT", "/app-base/manifests/", usize::MAX, denied());
    refused(&world, &[], 5, "403");
    world.proxy.on("PUT", "/app/manifests/main", usize::MAX, denied());
    refused(&world, &[], 5, "tags that had moved were moved back");
    world.proxy.on(
        "GET",
        &format!("/{}/manifests/1", world.root().path()),
        usize::MAX,
        Mishap::Answer(Answer::new(401)),
    );
    refused(&world, &[], 5, "the new root");

    // The app does not do what it has to.
    let page = "contains = \"<p>\"";
    world.repo.edit("images.toml", page, "contains = \"another page\"");
    refused(&world, &[], 4, "did not print the expected text");
    world.repo.edit("images.toml", "contains = \"another page\"", page);
    assert_eq!(world.names(), before);

    // A root of which a layer is lost.
    push_root(&world, RELEASE, "1:1.3.1-3");
    let root = publish::read(&client(), &world.root(), "1".parse::<xtask_model::spec::reference::Tag>().unwrap());
    let root = root.unwrap().present().unwrap().platforms[&Platform::host()].digest;
    let layer = publish::read_manifest(&client(), &world.root(), root).unwrap().layers[0].digest;
    world.lose("root", &layer);
    refused(&world, &[], 5, &layer.to_string());
}

#[test]
fn nothing_moves_when_it_is_interrupted_or_overtaken() {
    let Some(world) = world("overtaken") else { return };
    let before = world.names();
    push_root(&world, RELEASE, "1:1.3.1-2");
    let gate = world.repo.path.join("target/gate");
    let mut running = gated(&world, &gate);
    running.signal(Signal::INT);
    running.end().ends(130);
    assert_eq!(world.names(), before);
    let mut running = gated(&world, &gate);
    running.signal(Signal::KILL);
    assert_eq!(running.end().code, None);
    assert_eq!(world.names(), before);

    // Somebody moves a tag while the steps run.
    let running = gated(&world, &gate);
    let base = world.repo.published("app-base", "latest").unwrap().platforms[&Platform::host()].digest;
    let latest = "latest".parse::<xtask_model::spec::reference::Tag>().unwrap();
    publish::move_tag(&client(), &world.repo.repository("app-base"), base, &latest).unwrap();
    std::fs::write(&gate, "").unwrap();
    running.end().ends(6).says("app-base:latest` moved meanwhile").says("run this again");
    assert_eq!(world.names()[1..], before[1..]);
    world.is_whole();

    // What was interrupted is finished by the next call, and can be taken back. While tags move, an interruption waits.
    let moved = world.names();
    let put = |request: &crate::fault_proxy::Request| {
        request.method == "PUT" && request.target.ends_with("/app/manifests/latest")
    };
    world.proxy.on("PUT", "/app/manifests/latest", 1, Mishap::Delay(Duration::from_secs(1)));
    let seen = world.proxy.seen().iter().filter(|request| put(request)).count();
    let mut running = world.repo.xtask(&["rebase"]).without_engine().env("GATE", &gate).start();
    let moves = || world.proxy.seen().iter().filter(|request| put(request)).count() > seen;
    until(moves, || "no tag moves".to_owned());
    running.signal(Signal::INT);
    let code = running.end().code;
    assert!(matches!(code, Some(0 | 130)), "{code:?}");
    let rebased = world.names();
    assert!(moved.iter().zip(&rebased).all(|(before, after)| before.1 != after.1), "{rebased:?}");
    world.rebase(&["--undo", "--dry-run"]).ok();
    assert_eq!(world.names(), rebased);
    world.rebase(&["--undo"]).ok().says("moved");
    assert_eq!(world.names(), before, "the images that the rebased ones were made of");
    world.rebase(&["--undo"]).ends(2).says("no tag names a rebased image");
    // A build of this commit has nothing to do.
    world.repo.xtask(&["build", "--push"]).without_engine().run().ok();
    assert_eq!(world.names(), before);
    world.rebase(&["--pin"]).ok().says("images.lock");
    assert_eq!(world.names(), rebased, "the same images as before");
    world.repo.xtask(&["lock", "--check"]).run().ok();
}

#[test]
fn attested_images_get_statements_of_their_own() {
    let Some(signed) = Signed::new("attestedrebase") else { return };
    let world = &signed.world;
    let osv = world.repo.path.join("osv");
    std::fs::create_dir_all(&osv).unwrap();
    let record = serde_json::json!({
        "id": "CVE-2026-1", "modified": "2026-01-01T00:00:00Z",
        "affected": [{
            "package": {"ecosystem": "Debian:13", "name": "zlib"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1:1.3.1-2"}]}],
        }],
    });
    std::fs::write(osv.join("1.json"), record.to_string()).unwrap();
    world.repo.step("name = \"scan\"\nuses = \"scan\"\ndatabase = \"osv\"\nfail-on = \"never\"\nimages = [\"base\"]");
    push_root(world, RELEASE, "1:1.3.1");
    pin(world);
    world.repo.commit("root");
    let old = signed.push();
    let sbom = |name: &str| {
        signed.call(&["sbom", "--format", "json", &format!("{}:latest", world.repo.repository(name))]).ok().stdout
    };
    assert!(sbom("app-base").contains("zlib1g@1:1.3.1?"), "{}", sbom("app-base"));
    push_root(world, RELEASE, "1:1.3.1-2");
    let ((), traffic) = world.traffic(|| {
        drop(signed.call(&["rebase"]).ok().says("zlib1g 1:1.3.1 -> 1:1.3.1-2 (CVE-2026-1)"));
    });
    let own = &world.layers("app-base", "latest")[1..];
    assert!(traffic.read(own).iter().all(|times| *times == 0), "layers above the root are not downloaded");
    for name in ["app-base", "app"] {
        let image = format!("{}:latest", world.repo.repository(name));
        let verified = signed.call(&["verify", &image]).ok();
        for check in
            ["signature of the index", "signature for linux", "SBOMs for linux", "rebased: from", "gives its key"]
        {
            assert!(verified.stdout.contains(check), "{name} {check}: {}", verified.stdout);
        }
        assert!(sbom(name).contains("zlib1g@1:1.3.1-2?") || name == "app", "{}", sbom(name));
    }
    signed.call(&["verify", &old.to_string()]).ok();
    let writes = traffic.writes();
    let tag = |one: &String| one.ends_with("/app-base/manifests/latest");
    let first = writes.iter().position(tag).unwrap();
    let last = writes.iter().rposition(|one| one.contains("/app/manifests/sha256-")).unwrap();
    assert!(last < first, "everything is attached before the first tag moves: {writes:#?}");
}

#[test]
fn many_images_are_rebased_at_once() {
    let Some(world) = world("many") else { return };
    let count: usize = std::env::var("XTASK_TEST_IMAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    for number in 0..count {
        world.repo.git(&["checkout", "-q", "-b", &format!("branch{number}")]);
        world.repo.write("templates/page.html", &format!("<p>{number}</p>\n"));
        world.repo.commit("edit");
        world.repo.xtask(&["build-fast", "--push"]).without_engine().run().ok();
    }
    push_root(&world, RELEASE, "1:1.3.1-2");
    let began = Instant::now();
    let (outcome, traffic) = world.traffic(|| world.rebase(&["--all", "--format", "json"]).ok());
    let took = began.elapsed();
    let report = parsed(&outcome);
    println!("{} images in {} s ({took:?} with the start): {} requests", count + 2, report["seconds"], traffic.0.len());
    assert_eq!(report["images"].as_array().unwrap().len(), count + 2, "{report:#}");
    world.is_whole();
    for number in 0..count {
        let published = world.repo.published("app", &format!("branch{number}")).unwrap();
        assert!(rebase::before(&published).is_some(), "branch{number}");
    }
    // One manifest by its digest: no tag but its fingerprint's.
    push_root(&world, RELEASE, "1:1.3.1-3");
    let names = world.names();
    let manifest = world.repo.published("app", "latest").unwrap().platforms[&Platform::host()].digest;
    let image = world.repo.repository("app").digest(manifest).to_string();
    let report = parsed(&world.rebase(&[&image, "--format", "json"]).ok());
    let report = &report["images"][0];
    assert_eq!((report["action"].as_str(), report["tags"].as_array().map(Vec::len)), (Some("rebased"), Some(0)));
    assert_eq!(world.names(), names);
    let own = &report["fingerprint"].as_str().unwrap()[..12];
    assert_eq!(world.repo.digest("app", own), report["to"].as_str().unwrap());
    assert!(world.repo.run(&format!("{}:{own}", world.repo.repository("app")), &["/etc/marker"]).contains("1:1.3.1-3"));
}

#[test]
fn several_apps_are_rebased_with_the_base_that_they_share() {
    let Some(world) = World::new("rebased-apps") else { return };
    push_root(&world, RELEASE, "1:1.3.1");
    world.repo.edit("images.toml", "[app]\n# app settings\n", "[[app]]\nname = \"web\"\n\n[[app]]\nname = \"api\"\n");
    pin(&world);
    world.repo.commit("several");
    world.repo.xtask(&["build", "--push"]).without_engine().run().ok();
    let digests = || ["app-base", "app-web", "app-api"].map(|name| world.repo.digest(name, "latest"));
    let before = digests();
    push_root(&world, RELEASE, "1:1.3.1-2");
    let report = parsed(&world.rebase(&["--format", "json"]).ok());
    let images = report["images"].as_array().unwrap();
    assert!(images.iter().all(|image| image["action"] == "rebased"), "{report:#}");
    assert_eq!(images.len(), 3, "{report:#}");
    let after = digests();
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?} {after:?}");
    let base = world.repo.published("app-base", "latest").unwrap().platforms[&Platform::host()].digest.to_string();
    for (name, digest) in [("app-web", &after[1]), ("app-api", &after[2])] {
        let labels = world.repo.config(name, digest).config.labels;
        assert_eq!(labels["org.opencontainers.image.base.digest"], base, "{name}");
    }
    world.rebase(&[]).ok().says("nothing to rebase");
}

/// The registry under a name that is not loopback's: one that other people share.
fn shared(world: &World) {
    let repo = &world.repo;
    let own = repo.repository("app").registry().to_owned();
    let (_, port) = own.rsplit_once(':').unwrap();
    let other = format!("0.0.0.0:{port}");
    let policy = repo.read("images.toml");
    let line = format!("registry = \"{own}");
    assert!(policy.contains(&line), "{policy}");
    let text = policy.replace(&line, &format!("insecure-registries = [\"{other}\"]\nregistry = \"{other}"));
    repo.write("images.toml", &text);
    // Another app: this one's labels name its base by the other name of the registry.
    repo.write("templates/page.html", "<p>shared</p>\n");
    repo.commit("shared");
}

#[test]
fn at_a_desk_a_rebase_leaves_shared_tags_to_ci() {
    let Some(world) = world("rebase-desk") else { return };
    shared(&world);
    let call = |args: &[&str], ci: &str| world.repo.xtask(args).without_engine().env("CI", ci).run();
    call(&["build", "--push"], "true").ok();
    let before = world.names();
    push_root(&world, RELEASE, "1:1.3.1-2");
    for ci in ["false", "0"] {
        call(&["rebase"], ci).ok().says("`latest` stays: only CI moves it").says("`main` stays: only CI moves it");
        assert_eq!(world.names(), before);
    }
    call(&["rebase"], "1").ok();
    let rebased = world.names();
    assert!(before.iter().zip(&rebased).all(|(before, after)| before.1 != after.1), "{before:?} {rebased:?}");
    call(&["rebase", "--undo"], "no").ends(2).says("a person's call leaves these tags to CI");
    assert_eq!(world.names(), rebased);
    call(&["rebase", "--undo"], "true").ok();
    assert_eq!(world.names(), before);
}
