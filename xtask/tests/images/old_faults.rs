//! Faults of the scripts that this replaces: one test for each of those that a build can show.

use crate::fixture::{COPYING_BASE, Repo, actions, platforms};

#[test]
fn fault_1_an_edit_of_the_base_dockerfile_is_a_new_base() {
    let Some(repo) = Repo::new("fault1") else { return };
    let before = repo.push();
    repo.edit("dockerfiles/Dockerfile.base", "mkdir -p /opt/venv", "mkdir -p /opt/venv/more").commit("edit");
    let said = repo.xtask(&["build", "--push", "--format", "json"]).run().ok();
    let after = said.report();
    assert_eq!(after.actions(), actions("built", "built"));
    assert_ne!(before.tags("base")[0], after.tags("base")[0]);
    assert_eq!(repo.run(&after.text("base", "reference"), &["ls", "-d", "/opt/venv/more"]), "/opt/venv/more");
    said.says("dockerfiles/Dockerfile.base line 6");
}

#[test]
fn fault_2_a_laptops_single_platform_base_is_not_taken_for_the_complete_one() {
    let Some(repo) = Repo::new("fault2") else { return };
    let (host, other) = platforms();
    repo.for_two_platforms().commit("two platforms");
    let laptop = repo.xtask(&["build-base", "--push", "--platform", &host, "--format", "json"]).run().ok().report();
    assert_eq!(repo.digest("app-base", "latest"), "", "an incomplete image is not the latest");
    let said = repo.xtask(&["build-base", "--push", "--format", "json"]).run().ok();
    let ci = said.report();
    said.says(&format!("{other} is not in the registry's index"));
    assert_eq!(ci.action("base"), "built");
    let platforms = ci.image("base")["platforms"].as_object().unwrap();
    assert_eq!(platforms.len(), 2);
    // What the laptop built is kept, byte for byte.
    assert_eq!(platforms[&host], laptop.image("base")["platforms"][&host]);
    assert_eq!(repo.digest("app-base", "latest"), ci.digest("base"));
}

#[test]
fn fault_3_the_app_is_built_on_the_base_of_its_own_tree_not_on_latest() {
    let Some(repo) = Repo::new("fault3") else { return };
    let ours = repo.xtask(&["build-base", "--push", "--format", "json"]).run().ok().report();
    // Another tree's base becomes `latest` before our app is built.
    let other = repo.clone("other");
    other.write("dockerfiles/check.txt", "other\n").commit("other");
    let theirs = other.xtask(&["build-base", "--push", "--format", "json"]).run().ok().report();
    assert_eq!(repo.digest("app-base", "latest"), theirs.digest("base"));
    let app = repo.xtask(&["build-fast", "--push", "--format", "json"]).run().ok().report();
    assert_eq!(app.digest("base"), ours.digest("base"));
    assert_eq!(repo.run(&app.text("app", "reference"), &["/opt/venv/check.txt"]), "<p>one</p>\ncheck");
    let labels = repo.config("app", &app.digest("app")).config.labels;
    let manifest = &ours.image("base")["platforms"][platforms().0];
    assert_eq!(labels["org.opencontainers.image.base.digest"], *manifest);
}

#[test]
fn fault_4_no_tool_of_the_host_makes_the_fingerprint_and_time_does_not_count() {
    let Some(repo) = Repo::new("fault4") else { return };
    let first = repo.push();
    // A machine with git and nothing else: no sha256sum, shasum, openssl or docker.
    let bare = repo.path.join("target/bare");
    std::fs::create_dir_all(&bare).unwrap();
    std::os::unix::fs::symlink(which::which("git").unwrap(), bare.join("git")).unwrap();
    let again = repo.clone("another place");
    let call = again.xtask(&["build", "--push", "--format", "json"]).env("PATH", &bare).without_engine();
    let second = call.run().ok().report();
    assert_eq!(second.actions(), actions("reused", "reused"));
    for kind in ["base", "app"] {
        assert_eq!(first.fingerprint(kind), second.fingerprint(kind));
    }
}

#[test]
fn fault_5_a_file_that_no_image_reads_rebuilds_nothing() {
    let Some(repo) = Repo::new("fault5") else { return };
    repo.push();
    repo.write("requirements-dev.txt", "pytest\n").write("docs/more.md", "x\n");
    repo.write("dockerfiles/Dockerfile.other", "FROM scratch\n").commit("dev requirements");
    let after = repo.xtask(&["build", "--push", "--format", "json"]).without_engine().run().ok().report();
    assert_eq!(after.actions(), actions("reused", "reused"));
}

#[test]
fn fault_7_every_transitive_package_counts_and_an_unanswered_requirement_is_refused() {
    let Some(repo) = Repo::new("fault7") else { return };
    repo.write("dockerfiles/Dockerfile.base", COPYING_BASE);
    repo.lock("scipy==1.16.3\n", &[("numpy", "2.3.1"), ("scipy", "1.16.3")]).commit("locked");
    let before = repo.push();
    // Nothing that is asked for changed; what it depends on did.
    repo.lock("scipy==1.16.3\n", &[("numpy", "2.3.2"), ("scipy", "1.16.3")]).commit("bump");
    let said = repo.xtask(&["build", "--push", "--format", "json"]).run().ok();
    assert_ne!(before.fingerprint("base"), said.report().fingerprint("base"));
    said.says("numpy 2.3.1 -> 2.3.2 (requirements-enhanced.lock)");
    // A requirement that the lock does not have fails the build.
    repo.write("requirements-enhanced.txt", "scipy==1.16.3\npandas\n");
    let said = repo.xtask(&["build", "--push"]).without_engine().run().ends(2);
    said.says("the lock is out of date with `requirements-enhanced.txt`")
        .says("`pandas` is missing from it")
        .says("cargo xtask lock");
}

#[test]
fn fault_8_a_base_and_its_app_of_one_push_are_built_by_one_command() {
    let Some(repo) = Repo::new("fault8") else { return };
    repo.push();
    repo.write("dockerfiles/check.txt", "second\n").write("templates/page.html", "<p>second</p>\n").commit("both");
    let report = repo.push();
    assert_eq!(report.actions(), actions("built", "built"));
    assert_eq!(repo.run(&report.text("app", "reference"), &["/opt/venv/check.txt"]), "<p>second</p>\nsecond");
}
