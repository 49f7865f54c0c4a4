//! Wrong use, missing tools, odd paths, and the plan that is shown instead of carried out.

use crate::fixture::{Repo, actions};

#[test]
fn an_invalid_policy_is_a_usage_error() {
    let Some(repo) = Repo::new("policy") else { return };
    repo.edit("images.toml", "[base]", "[base]\nepohc = 1");
    let said = repo.xtask(&["build", "--push"]).without_engine().run().ends(2);
    said.says("images.toml:12:1: unknown key `epohc`").says("did you mean `epoch`?");
}

#[test]
fn wrong_flags_are_wrong_use() {
    let Some(repo) = Repo::new("flags") else { return };
    for args in [
        &["build", "--push", "--offline"][..],
        &["build", "--platform", "linux/s390x"],
        &["build", "--platform", "sparkling"],
        &["bild"],
        &["build", "--locked", "--push"],
    ] {
        let said = repo.xtask(args).without_engine().run().ends(2);
        assert_eq!(said.stdout, "", "{args:?}");
        said.says("error:");
    }
    repo.xtask(&["build", "--locked", "--push"]).run().ends(2).says("is not pinned").says("cargo xtask lock");
}

#[test]
fn a_root_that_does_not_exist_is_wrong_use() {
    let Some(repo) = Repo::new("noroot") else { return };
    repo.edit("images.toml", ":1\"", ":nope\"");
    repo.xtask(&["build", "--push"]).run().ends(2).says("does not exist").says("[root] image");
}

#[test]
fn a_missing_docker_is_a_missing_tool() {
    let Some(repo) = Repo::new("nodocker") else { return };
    std::fs::remove_file(repo.path.join("target/engine")).unwrap();
    let bare = repo.path.join("target/bare");
    std::fs::create_dir_all(&bare).unwrap();
    std::os::unix::fs::symlink(which::which("git").unwrap(), bare.join("git")).unwrap();
    let said = repo.xtask(&["build", "--push", "--engine", "docker"]).env("PATH", &bare).run().ends(3);
    said.says("`docker` is not on `PATH`").says("cargo xtask engine up");
    assert!(repo.tags("app-base").is_empty());
}

#[test]
fn an_engine_that_does_not_answer_is_a_missing_tool() {
    let Some(repo) = Repo::new("noengine") else { return };
    let path = format!("{}:/usr/bin:/bin", repo.engine.folder().join("bin").display());
    let config = repo.engine.folder().join("config");
    let call = repo
        .xtask(&["build", "--push", "--engine", "docker"])
        .without_engine()
        .env("PATH", path)
        .env("DOCKER_CONFIG", config);
    call.run().ends(3).says("no Docker engine responds").says("hint:");
}

#[test]
fn a_failing_dockerfile_ends_with_its_own_words_and_no_tag() {
    let Some(repo) = Repo::new("broken") else { return };
    repo.edit("dockerfiles/Dockerfile.base", "RUN mkdir", "RUN echo the wheel is square && false\nRUN mkdir")
        .commit("x");
    let said = repo.xtask(&["build", "--push"]).run().ends(4);
    said.says("the wheel is square").says("needed by: `dockerfiles/Dockerfile.base`").says("hint:");
    assert!(repo.tags("app-base").is_empty());
}

#[test]
fn a_dry_run_prints_commands_that_can_be_pasted_and_changes_nothing() {
    let Some(repo) = Repo::new("dry 'run'") else { return };
    let said = repo.xtask(&["build-base", "--push", "--dry-run"]).run().ok();
    assert!(repo.tags("app-base").is_empty());
    assert!(!repo.path.join("target/images").exists());
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines.len(), 1, "{}", said.stdout);
    let pasted = std::process::Command::new("sh")
        .args(["-c", lines[0]])
        .env_remove("DOCKER_HOST")
        .env("HOME", repo.path.join("target"))
        .current_dir(repo.path.join("target"))
        .output()
        .unwrap();
    assert!(pasted.status.success(), "{}\n{}", lines[0], String::from_utf8_lossy(&pasted.stderr));
    let metadata: serde_json::Value = serde_json::from_str(&repo.read("target/metadata.json")).unwrap();
    let built = repo.xtask(&["build-base", "--push", "--format", "json"]).run().ok().report();
    let platform = xtask_model::spec::reference::Platform::host().to_string();
    assert_eq!(metadata["containerimage.digest"], built.image("base")["platforms"][platform]);
}

#[test]
fn a_dry_run_of_base_and_app_prints_both() {
    let Some(repo) = Repo::new("drytwo") else { return };
    let said = repo.xtask(&["build", "--dry-run"]).run().ok();
    assert_eq!(said.stdout.lines().count(), 2, "{}", said.stdout);
    said.says("is not on this machine");
    assert!(!repo.path.join("target/images").exists());
}

#[test]
fn odd_paths_build_to_the_same_images() {
    let Some(plain) = Repo::new("odd") else { return };
    for path in ["templates/-rf", "templates/a b's \"c\".txt", "templates/größe, ü=1.txt", "templates/$HOME `id`.txt"]
    {
        plain.write(path, path);
    }
    plain.commit("odd files");
    let odd = plain.clone("-o d'd \"ö\", ü=1");
    for args in [&["build", "--format", "json"][..], &["build", "--push", "--format", "json"]] {
        let report = odd.xtask(args).run().ok().report();
        assert_eq!(report.action("app"), "built", "{args:?}");
    }
    let report = plain.push();
    assert_eq!(report.actions(), actions("reused", "reused"));
    let listed = plain.run(&report.text("app", "reference"), &["/app/templates/-rf", "/app/templates/a b's \"c\".txt"]);
    assert_eq!(listed, "<p>one</p>\ntemplates/-rftemplates/a b's \"c\".txt");
}
