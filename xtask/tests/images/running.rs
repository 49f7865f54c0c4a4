//! Running what was built, with docker and without: the same answers both ways.

use crate::fixture::{Call, Repo};
use serde_json::Value;

/// A repository whose app has a user, a page, and something to be asked.
fn repo(name: &str) -> Option<Repo> {
    let repo = Repo::new(name)?;
    repo.edit("dockerfiles/Dockerfile.fast", "ENTRYPOINT", "EXPOSE 8080\nENTRYPOINT");
    let policy = repo.read("images.toml");
    let smoke = "[smoke]\nuser = 10001\n\n[[smoke.run]]\nname = \"page\"\nargs = []\ncontains = \"one\"\n";
    repo.write("images.toml", &format!("{policy}\n{smoke}")).commit("smoke");
    Some(repo)
}

/// Both ways of running it.
fn ways(call: impl Fn() -> Call) -> [Call; 2] {
    [call(), call().without_engine()]
}

#[test]
fn an_image_of_the_registry_answers_the_same_with_and_without_an_engine() {
    let Some(repo) = repo("twoways") else { return };
    let report = repo.push();
    let reference = report.text("app", "reference");
    let mut shown = Vec::new();
    for call in ways(|| repo.xtask(&["smoke", "--format", "json"])) {
        let outcome = call.run().ok();
        let checks: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(xtask::documents::SMOKE.unlisted(&checks), [""; 0]);
        shown.push(checks["checks"].as_array().unwrap().iter().map(|check| check["check"].clone()).collect::<Vec<_>>());
    }
    assert_eq!(shown[0], ["runs as user 10001", "page"]);
    assert_eq!(shown[0], shown[1]);
    for call in ways(|| repo.xtask(&["run"])) {
        assert_eq!(call.run().ok().stdout, "<p>one</p>\n");
    }
    for call in ways(|| repo.xtask(&["run", &reference, "--", "/etc/passwd", "/no/such/file"])) {
        let outcome = call.run().ends(1).says("/no/such/file");
        assert_eq!(outcome.stdout.lines().nth(1), Some("root:x:0:0:root:/root:/bin/sh"), "{outcome:?}");
    }
    let by_tag = reference.split('@').next().unwrap().to_owned() + ":latest";
    for call in ways(|| repo.xtask(&["run", &by_tag])) {
        assert_eq!(call.run().ok().stdout, "<p>one</p>\n");
    }
}

#[test]
fn a_smoke_test_that_fails_tells_why_with_and_without_an_engine() {
    let Some(repo) = repo("smokefails") else { return };
    repo.edit("images.toml", "contains = \"one\"", "contains = \"two\"");
    repo.edit("images.toml", "args = []", "args = [\"/no/such/file\"]").commit("wrong");
    repo.push();
    for call in ways(|| repo.xtask(&["smoke"])) {
        call.run()
            .ends(4)
            .says("`/no/such/file` did not print the expected text")
            .says("needed by: the smoke test")
            .says("No such file");
    }
}

#[test]
fn an_image_that_is_nowhere_is_said_with_and_without_an_engine() {
    let Some(repo) = repo("nowhere") else { return };
    for call in ways(|| repo.xtask(&["run", &format!("{}/app:none", repo.registry)])) {
        let outcome = call.run();
        assert!(matches!(outcome.code, Some(2 | 5)), "{outcome:?}");
    }
}
