//! Several who build at once, add to one image, or own a tag already.

use crate::fixture::{COPYING_BASE, GATE, Repo, actions, client, platforms};
use crate::real_engine::engine;
use xtask_model::image::key::FINGERPRINT_LABEL;
use xtask_model::spec::oci::{Index, media_type};
use xtask_model::spec::reference::Tag;

#[test]
fn of_two_jobs_with_one_base_the_later_adopts_the_earliers() {
    let Some(repo) = Repo::new("race") else { return };
    repo.step(GATE).commit("gate");
    let other = repo.clone("other job");
    // Another commit labels its image otherwise: what it builds has another digest.
    other.commit("same files");
    let gate = repo.path.join("target/gate");
    let call = repo.xtask(&["build", "--push", "--format", "json", "-v"]).env("GATE", &gate);
    let mut slow = call.start();
    slow.wait_for("waiting");
    let winner = other.push();
    std::fs::write(&gate, "").unwrap();
    let loser = slow.end().ok();
    loser.report();
    let report = loser.report();
    assert_eq!(winner.action("base"), "built");
    assert_eq!(report.action("base"), "adopted");
    assert_eq!(report.digest("base"), winner.digest("base"));
    loser.says("another job published");
    assert_eq!(repo.digest("app-base", &report.tags("base")[0]), winner.digest("base"));
    // The loser's app is built on the winner's base, and so is the same app as the winner's.
    assert_eq!(report.fingerprint("app"), winner.fingerprint("app"));
    let labels = repo.config("app", &report.digest("app")).config.labels;
    assert_eq!(labels["org.opencontainers.image.base.digest"], winner.image("base")["platforms"][platforms().0]);
    assert_eq!(repo.push().actions(), actions("reused", "reused"));
}

#[test]
fn two_jobs_at_the_same_moment_leave_one_whole_image() {
    let Some(repo) = Repo::new("moment") else { return };
    repo.lock("scipy==1.16.3\n", &[("numpy", "2.3.1"), ("scipy", "1.16.3")]).commit("not in the cache");
    let other = repo.clone("other job");
    let args = ["build", "--push", "--format", "json"];
    let (one, two) = (repo.xtask(&args).start(), other.xtask(&args).start());
    let (one, two) = (one.end().ok().report(), two.end().ok().report());
    // A registry cannot compare and swap: the job that wrote its index last is right, and the other one mostly sees that.
    for (kind, name) in [("base", "app-base"), ("app", "app")] {
        let reports = [&one, &two].map(|report| report.digest(kind));
        let tag = one.tags(kind)[0].clone();
        assert!(reports.contains(&repo.digest(name, &tag)), "{kind}: {reports:?}");
        reports.iter().for_each(|digest| drop(repo.config(name, digest)));
    }
    assert_eq!(repo.push().actions(), actions("reused", "reused"));
}

#[test]
fn adding_a_platform_merges_into_the_index_and_only_then_moves_latest() {
    let Some(repo) = Repo::new("platforms") else { return };
    let (host, other) = platforms();
    repo.for_two_platforms().commit("two platforms");
    let build = |platform: &str| {
        repo.xtask(&["build", "--push", "--platform", platform, "--format", "json"]).run().ok().report()
    };
    let first = build(&host);
    assert_eq!(first.text("app", "latest_stays"), format!("the image lacks {other}"));
    assert_eq!((repo.digest("app-base", "latest"), repo.digest("app", "latest")), (String::new(), String::new()));
    let second = build(&other);
    assert_eq!(second.actions(), actions("built", "built"));
    for (kind, name) in [("base", "app-base"), ("app", "app")] {
        let both = second.image(kind)["platforms"].as_object().unwrap().clone();
        assert_eq!(both.keys().map(String::as_str).collect::<Vec<_>>(), ["linux/amd64", "linux/arm64"]);
        assert_eq!(both[&host], first.image(kind)["platforms"][&host]);
        assert_eq!(repo.digest(name, "latest"), second.digest(kind));
    }
    // Each platform's app is built on its own platform's base.
    let found = repo.published("app", "latest").unwrap();
    for (platform, descriptor) in &found.platforms {
        let base = xtask_host::registry::publish::base_digest(&client(), &repo.repository("app"), descriptor)
            .unwrap()
            .unwrap();
        assert_eq!(second.image("base")["platforms"][platform.to_string()], base.to_string(), "{platform}");
    }
    assert_eq!(repo.push().actions(), actions("reused", "reused"));
}

/// Puts an index under the base's fingerprint tag that carries this fingerprint, or none.
fn foreign(repo: &Repo, fingerprint: Option<String>) -> String {
    let report = repo.xtask(&["build-base", "--push", "--format", "json"]).run().ok().report();
    let tag: Tag = report.tags("base")[0].parse().unwrap();
    let root =
        xtask_host::registry::publish::read(&client(), &repo.engine.root_repository(), "1".parse::<Tag>().unwrap());
    let found = repo.published("app-base", tag.as_str()).unwrap();
    let mut manifests: Vec<_> = found.platforms.values().cloned().collect();
    if fingerprint.is_none() {
        // What somebody else pushed: an image that says nothing of itself.
        let root = root.unwrap().present().unwrap();
        manifests = root.platforms.values().cloned().collect();
        let names: Vec<String> =
            manifests.iter().map(|d| repo.engine.root_repository().digest(d.digest).to_string()).collect();
        let target = format!("{}:copy", repo.repository("app-base"));
        repo.engine.docker(&[&["buildx", "imagetools", "create", "-t", &target][..], &[&names[0]]].concat());
        manifests.truncate(1);
    }
    let mut index = Index::new(manifests);
    index.annotations.extend(fingerprint.map(|text| (FINGERPRINT_LABEL.to_owned(), text)));
    let bytes = serde_json::to_vec(&index).unwrap();
    client().put_manifest(&repo.repository("app-base"), tag.clone(), media_type::INDEX, &bytes).unwrap();
    tag.to_string()
}

#[track_caller]
fn is_refused(repo: &Repo, tag: &str, because: &str) {
    let before = repo.digest("app-base", tag);
    for command in [&["build", "--push"][..], &["build-fast", "--push"], &["build-base", "--push", "--force"]] {
        let said = repo.xtask(command).run().ends(6);
        said.says(&format!("error: `{}/app-base:{tag}` names another image", repo.registry))
            .says(because)
            .says("hint:");
        assert_eq!(repo.digest("app-base", tag), before, "{command:?}");
    }
}

#[test]
fn a_foreign_image_under_the_fingerprints_tag_is_an_error() {
    let Some(repo) = Repo::new("foreign") else { return };
    let tag = foreign(&repo, None);
    is_refused(&repo, &tag, "another tool pushed it");
}

#[test]
fn another_key_with_the_same_tag_is_an_error() {
    let Some(repo) = Repo::new("collision") else { return };
    let tag = foreign(&repo, Some("f".repeat(64)));
    is_refused(&repo, &tag, &format!("its fingerprint is {}", "f".repeat(64)));
}

#[test]
fn a_builder_behind_a_docker_context_builds_and_the_image_ends_in_the_registry() {
    let Some(engine) = engine() else { return };
    let name = format!("second-{}", std::process::id());
    let options = xtask_host::docker::engine::EngineOptions {
        name: Some(name.clone()),
        ..xtask_host::docker::engine::EngineOptions::default()
    };
    let second = xtask_host::docker::engine::up(&engine.root, &options).unwrap_or_else(|fault| panic!("{fault}"));
    let done = std::panic::catch_unwind(|| {
        let repo = Repo::new("builder").unwrap();
        repo.write("dockerfiles/Dockerfile.base", COPYING_BASE).commit("copies");
        let host = second.docker_env()["DOCKER_HOST"].to_str().unwrap().to_owned();
        let config = repo.path.join("target/.docker");
        let create = ["context", "create", &name, "--docker", &format!("host={host}")];
        engine.command(&create).env("DOCKER_CONFIG", &config).read(xtask_model::fault::Exit::Build).unwrap();
        let said = repo.xtask(&["build", "--push", "--builder", &name, "--format", "json", "-v"]).run().ok();
        let report = said.report();
        said.says(&format!("building with \"{name}\" instance"));
        assert_eq!(repo.digest("app", "latest"), report.digest("app"));
        // The second engine has it, the first has not.
        let reference = format!("{}/app-base:{}-linux-", repo.registry, report.tags("base")[0]);
        let names = |list: String| list.contains(reference.rsplit_once(':').unwrap().0);
        let list = ["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"];
        assert!(names(second.command().args(list).read(xtask_model::fault::Exit::Build).unwrap()));
        assert!(!names(engine.docker(&list)));
        let missing = repo.xtask(&["build", "--push", "--force", "--builder", "no-such-builder"]).run();
        assert!(matches!(missing.code, Some(2..=4)), "{missing:?}");
        missing.says("no-such-builder").says("hint:");
    });
    xtask_host::docker::engine::down(&engine.root, Some(&name), true).unwrap_or_else(|fault| panic!("{fault}"));
    done.unwrap();
}

#[test]
fn two_local_builds_in_one_working_copy_both_end_well() {
    let Some(repo) = Repo::new("twolocal") else { return };
    for path in ["one", "two", "three"] {
        repo.write("dockerfiles/check.txt", path);
        let args = ["build", "--format", "json"];
        let (one, two) = (repo.xtask(&args).start(), repo.xtask(&args).start());
        let (one, two) = (one.end().ok().report(), two.end().ok().report());
        assert_eq!(one.digest("base"), two.digest("base"));
        let after = repo.xtask(&args).run().ok().report();
        assert_eq!(after.actions(), actions("reused", "reused"));
    }
}
