//! Both engines over one registry: either builds on what the other has built, takes it for what it is, and tells of it alike.

use crate::fixture::{Report, actions};
use crate::world::World;
use serde_json::Value;

fn build(world: &World, what: &str, engine: &str) -> Report {
    world.repo.xtask(&[what, "--push", "--engine", engine, "--format", "json"]).run().ok().report()
}

/// What runs when the app is asked for the users that it knows, and for its page.
#[track_caller]
fn runs(world: &World, report: &Report, page: &str) {
    let reference = report.text("app", "reference");
    assert_eq!(world.repo.run(&reference, &[]), page);
    let engine = world.repo.engine;
    let tool = ["run", "--rm", "--network=host", "--entrypoint=/usr/local/bin/tool", &reference];
    let users = engine.docker(&tool);
    assert!(users.ends_with("app:x:10001:10001:app:/home/app:/usr/sbin/nologin"), "{users}");
}

#[track_caller]
fn on_a_base_of_another(base: &str, app: &str) {
    let Some(world) = World::new(&format!("{app}on{base}")) else { return };
    let beneath = build(&world, "build-base", base);
    let report = build(&world, "build", app);
    assert_eq!(report.actions(), actions("reused", "built"));
    assert_eq!(report.digest("base"), beneath.digest("base"));
    world.is_whole();
    runs(&world, &report, "<p>one</p>");
    // Whoever comes later takes both, whichever engine made them.
    for engine in ["docker", "native"] {
        let (again, traffic) = world.traffic(|| build(&world, "build", engine));
        assert_eq!(again.actions(), actions("reused", "reused"), "{engine}");
        assert_eq!(again.digest("app"), report.digest("app"), "{engine}");
        assert_eq!(traffic.writes(), Vec::<String>::new());
    }
    // And builds on: the one engine's layers are beneath the other's.
    world.repo.write("templates/page.html", "<p>two</p>\n").commit("edit");
    let edited = build(&world, "build", base);
    assert_eq!(edited.actions(), actions("reused", "built"));
    world.is_whole();
    runs(&world, &edited, "<p>two</p>");
}

#[test]
fn an_app_by_docker_on_a_base_by_native() {
    on_a_base_of_another("native", "docker");
}

#[test]
fn an_app_by_native_on_a_base_by_docker() {
    on_a_base_of_another("docker", "native");
}

/// Docker's layers are of its own making, but the files in them are the same, so that the image runs the same.
#[test]
fn what_is_beneath_can_be_looked_into_whoever_made_it() {
    let Some(world) = World::new("lookinto") else { return };
    world.repo.edit(
        "dockerfiles/Dockerfile.fast",
        "COPY --link --chown=0:0 templates",
        "COPY --chown=app:app templates",
    );
    world.repo.commit("asks who `app` is");
    build(&world, "build-base", "docker");
    let report = build(&world, "build", "native");
    assert_eq!(report.actions(), actions("reused", "built"));
    runs(&world, &report, "<p>one</p>");
    let owner =
        ["run", "--rm", "--network=host", "--entrypoint=ls", &report.text("app", "reference"), "-ln", "/app/templates"];
    let listed = world.repo.engine.docker(&owner);
    assert!(listed.contains("10001"), "{listed}");
}

#[test]
fn plan_explain_and_base_list_know_images_of_either() {
    let Some(world) = World::new("told") else { return };
    let repo = &world.repo;
    let plan = |since: &str| -> Value {
        serde_json::from_str(&repo.xtask(&["plan", "--base", since, "--format", "json"]).run().ok().stdout).unwrap()
    };
    assert_eq!(plan("HEAD")["decision"], "base+fast");
    let built = repo.push();
    let planned = plan("HEAD");
    assert_eq!(planned["decision"], "skip", "{planned:#}");
    for kind in ["base", "app"] {
        assert_eq!(planned[kind]["answer"], "present", "{planned:#}");
    }
    let told = repo.xtask(&["explain"]).run().ok().stdout;
    assert_eq!(told.matches("nothing differs").count(), 2, "{told}");
    let listed = |what: &str| {
        let rows = repo.xtask(&["base", "list", "--format", "json"]).run().ok().stdout;
        let rows: Value = serde_json::from_str(&rows).unwrap();
        let row = rows
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["latest"] == true)
            .unwrap_or_else(|| panic!("{rows:#}"))
            .clone();
        assert_eq!((&row["this_tree"], &row["complete"]), (&Value::Bool(true), &Value::Bool(true)), "{what}: {row:#}");
        row
    };
    let of_native = listed("native");
    assert!(of_native["used_by"].as_array().unwrap().iter().any(|tag| tag == "latest"), "{of_native:#}");

    repo.write("templates/page.html", "<p>two</p>\n").commit("template");
    assert_eq!(plan("HEAD~1")["decision"], "fast");
    let told = repo.xtask(&["explain"]).run().ok().stdout;
    assert!(told.contains("templates/page.html"), "{told}");
    repo.lock("scipy>=1.16\n", &[("scipy", "1.17.0")]).commit("lock");
    assert_eq!(plan("HEAD~1")["decision"], "base+fast");
    let told = repo.xtask(&["explain"]).run().ok().stdout;
    assert!(told.contains("scipy 1.16.3 -> 1.17.0"), "{told}");
    let after = repo.push();
    assert_eq!(after.actions(), actions("built", "built"));
    assert_ne!(after.digest("base"), built.digest("base"));
    listed("edited");

    // A base that docker makes anew of the same key wants its app anew, as ever.
    build(&world, "build-base", "docker");
    let forced = repo.xtask(&["build-base", "--push", "--engine", "docker", "--force"]).run().ok();
    forced.reference();
    assert_eq!(plan("HEAD")["decision"], "fast");
    assert_eq!(repo.push().actions(), actions("reused", "built"));
    assert_eq!(plan("HEAD")["decision"], "skip");
    listed("docker");
}
