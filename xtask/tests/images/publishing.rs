//! Contents of the registry after a build with `--push`, and the build's report.

use crate::fixture::{Repo, actions};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use xtask_model::image::key::{FINGERPRINT_LABEL, KEY_LABEL};

/// The names by which the image specification describes an image.
fn title(field: &str) -> String {
    format!("org.opencontainers.image.{field}")
}

#[test]
fn the_first_build_pushes_base_and_app_with_every_tag_and_label() {
    let Some(repo) = Repo::new("first") else { return };
    let commit = repo.git(&["rev-parse", "HEAD"]);
    repo.git(&["tag", "v1.2.3"]);
    let report = repo.push();
    assert_eq!(report.actions(), actions("built", "built"));
    let (base, app) = (report.digest("base"), report.digest("app"));
    let tags: Vec<String> = ["base", "app"].map(|kind| report.fingerprint(kind)[..12].to_owned()).to_vec();
    assert_eq!(repo.tags("app-base"), sorted(&[&tags[0], "latest"]));
    assert_eq!(repo.tags("app"), sorted(&[&tags[1], &commit[..12], "main", "1.2.3", "latest"]));
    assert_eq!(report.text("app", "reference"), format!("{}/app@{app}", repo.registry));
    for tag in repo.tags("app") {
        assert_eq!(repo.digest("app", &tag), app, "{tag}");
    }
    for tag in repo.tags("app-base") {
        assert_eq!(repo.digest("app-base", &tag), base, "{tag}");
    }

    let base_manifest = report.image("base")["platforms"].as_object().unwrap().values().next().unwrap().clone();
    let expected = [
        (title("source"), "https://example.com/app".to_owned()),
        (title("revision"), commit),
        (title("version"), "1.2.3".to_owned()),
        (FINGERPRINT_LABEL.to_owned(), report.fingerprint("app")),
    ];
    let config = repo.config("app", &app);
    let labels = &config.config.labels;
    let notes = &repo.published("app", &app).unwrap().notes;
    for (name, value) in &expected {
        assert_eq!(labels.get(name), Some(value), "label {name}");
        assert_eq!(notes.get(name), Some(value), "annotation {name}");
    }
    assert_eq!(labels[&title("base.name")], format!("{}/app-base", repo.registry));
    assert_eq!(labels[&title("base.digest")], base_manifest);
    assert_eq!(labels[&title("created")], notes[&title("created")]);
    assert!(labels[&title("created")].ends_with('Z'), "{labels:?}");
    for (kind, name) in [("base", "app-base"), ("app", "app")] {
        let notes = repo.published(name, &report.digest(kind)).unwrap().notes;
        let labels = repo.config(name, &report.digest(kind)).config.labels;
        assert_eq!(labels[KEY_LABEL], notes[KEY_LABEL], "{kind}");
        let key: serde_json::Value = serde_json::from_str(&notes[KEY_LABEL]).unwrap();
        assert_eq!(key["schema"], xtask_model::image::key::SCHEMA, "{kind}");
    }
    // The time of the commit, not of the build.
    assert_eq!(config.created.as_ref(), Some(&labels[&title("created")]));
    assert_eq!(repo.run(&report.text("app", "reference"), &[]), "<p>one</p>");
}

fn sorted(texts: &[&str]) -> Vec<String> {
    let mut texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    texts.sort();
    texts
}

#[test]
fn the_report_has_the_seconds_of_each_phase_and_the_bytes() {
    let Some(repo) = Repo::new("report") else { return };
    let report = repo.push();
    for kind in ["base", "app"] {
        let image = report.image(kind);
        let phases: BTreeMap<String, f64> = serde_json::from_value(
            image["seconds"]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| (p[0].as_str().unwrap().to_owned(), p[1].clone()))
                .collect(),
        )
        .unwrap();
        assert!(phases["build"] > 0.0 && phases["publish"] > 0.0, "{phases:?}");
        assert!(image["size"].as_u64().unwrap() > 100_000, "{image}");
        assert!(image["steps"][0].as_u64().unwrap() > 0, "{image}");
    }
    assert!(report.0["seconds"].as_f64().unwrap() > 0.0);
    // The ledger has the bytes of the layers: what was made, what came over the network, what went there.
    let ledger = xtask_model::record::ledger::parse(&repo.read(xtask_model::record::ledger::PATH));
    let bytes = ledger.records.last().unwrap().bytes;
    assert!([bytes.built, bytes.pushed].iter().all(|bytes| bytes.is_some_and(|bytes| bytes > 0)), "{bytes:?}");
    assert!(bytes.pulled.is_some() && bytes.reused.is_some(), "{bytes:?}");
}

#[test]
fn stdout_is_the_reference_by_digest_and_nothing_else() {
    let Some(repo) = Repo::new("stdout") else { return };
    let said = repo.xtask(&["build", "--push"]).run().ok();
    let reference = said.reference();
    assert_eq!(reference.digest.unwrap().to_string(), repo.digest("app", "latest"));
    let base = repo.xtask(&["build-base", "--push", "-q"]).run().ok();
    assert_eq!(base.reference().digest.unwrap().to_string(), repo.digest("app-base", "latest"));
    assert_eq!(base.stderr.lines().filter(|line| !line.starts_with("warning")).count(), 0, "{}", base.stderr);
}

#[test]
fn a_second_build_builds_nothing_says_so_and_needs_no_engine() {
    let Some(repo) = Repo::new("second") else { return };
    let first = repo.push();
    let said = repo.xtask(&["build", "--push", "--format", "json"]).without_engine().run().ok();
    let second = said.report();
    assert_eq!(second.actions(), actions("reused", "reused"));
    assert_eq!((second.digest("base"), second.digest("app")), (first.digest("base"), first.digest("app")));
    said.says("nothing to build");
}

#[test]
fn a_new_commit_that_changes_no_image_only_gets_its_tags() {
    let Some(repo) = Repo::new("retag") else { return };
    let first = repo.push();
    let commit = repo.write("README.md", "more\n").commit("docs");
    repo.git(&["tag", "v2.0.0"]);
    let second = repo.xtask(&["build", "--push", "--format", "json"]).without_engine().run().ok().report();
    assert_eq!(second.actions(), actions("reused", "reused"));
    for tag in [&commit[..12], "2.0.0", "main", "latest"] {
        assert_eq!(repo.digest("app", tag), first.digest("app"), "{tag}");
    }
}

/// Docker's client, which hides from BuildKit that it has to push, if `CLASSIC` is set: BuildKit pushes nothing from the classic store.
const CLIENT: &str = r#"#!/bin/sh
echo "$1 $2" >> "$CALLS"
if [ -n "$CLASSIC" ]; then
    for arg do
        shift
        case $arg in type=image,push=,*) arg="type=image,${arg#type=image,push=,}" ;; esac
        set -- "$@" "$arg"
    done
fi
exec "$CLIENT" "$@"
"#;

#[test]
fn an_image_is_pushed_once_by_buildkit_or_else_by_docker() {
    for (name, classic, pushes) in [("once", "", 0), ("classic", "1", 2)] {
        let Some(repo) = Repo::new(name) else { return };
        let (engine, bin) = (repo.engine.folder(), repo.path.join("target/bin"));
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("docker"), CLIENT).unwrap();
        std::fs::set_permissions(bin.join("docker"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&paths))).unwrap();
        let calls = repo.path.join("target/calls");
        let call = repo.xtask(&["build", "--push", "--engine", "docker", "--format", "json"]);
        let call = call.env("PATH", paths).env("CALLS", &calls).env("CLASSIC", classic);
        let call = call.env("CLIENT", engine.join("bin/docker")).env("DOCKER_CONFIG", engine.join("config"));
        let socket = format!("unix://{}", engine.join("run/docker.sock").display());
        let report = call.env("DOCKER_HOST", socket).run().ok().report();
        assert_eq!(report.digest("app"), repo.digest("app", "latest"));
        assert_eq!(repo.run(&report.text("app", "reference"), &[]), "<p>one</p>");
        let calls = std::fs::read_to_string(calls).unwrap();
        let counted = |call: &str| calls.lines().filter(|line| *line == call).count();
        assert_eq!((counted("buildx build"), counted("image push")), (2, pushes), "{calls}");
    }
}
