//! The policy's steps around a build: a failing one keeps every tag where it was.

use crate::fixture::{Repo, actions};

#[test]
fn an_app_over_its_size_budget_gets_no_tag() {
    let Some(repo) = Repo::new("budget") else { return };
    let first = repo.push();
    repo.step("name = \"size\"\nuses = \"size-budget\"\nmax = \"1 kB\"\nimages = [\"app\"]");
    repo.write("templates/page.html", "<p>two</p>\n").commit("budget");
    let tags = repo.tags("app");
    repo.xtask(&["build", "--push"]).run().ends(4).says("over its budget").says("needed by: step `size`");
    assert_eq!(repo.tags("app"), tags);
    assert_eq!(repo.digest("app", "latest"), first.digest("app"));
    repo.edit("images.toml", "1 kB", "100 MB").commit("a larger budget");
    let report = repo.push();
    assert_eq!(report.actions(), actions("reused", "built"));
    assert_eq!(repo.digest("app", "latest"), report.digest("app"));
}

#[test]
fn a_step_that_fails_after_the_build_leaves_no_tag_and_the_next_run_heals() {
    let Some(repo) = Repo::new("failingstep") else { return };
    repo.step(
        "name = \"check\"\nafter = \"build\"\nimages = [\"base\"]\nrun = [\"test\", \"!\", \"-e\", \"target/broken\"]",
    );
    repo.commit("step");
    repo.write("target/broken", "");
    repo.xtask(&["build", "--push"]).run().ends(4).says("step `check` failed");
    assert!(repo.tags("app-base").is_empty() && repo.tags("app").is_empty());
    std::fs::remove_file(repo.path.join("target/broken")).unwrap();
    assert_eq!(repo.push().actions(), actions("built", "built"));
}

#[test]
fn a_step_gets_the_image_by_its_environment_and_runs_when_it_is_due() {
    let Some(repo) = Repo::new("env") else { return };
    let run = "run = [\"sh\", \"-c\", \"env | grep ^XTASK_ | sort > \\\"$XTASK_OUTPUT/seen\\\"\"]";
    repo.step(&format!("name = \"before\"\nafter = \"build\"\nimages = [\"app\"]\n{run}"));
    repo.step(&format!("name = \"behind\"\nafter = \"push\"\nimages = [\"app\", \"base\"]\n{run}"));
    repo.step(&format!("name = \"ci\"\nafter = \"build\"\nonly = \"ci\"\nimages = [\"app\"]\n{run}"));
    repo.commit("steps");
    let report = repo.push();
    let seen = |step: &str| repo.read(&format!("target/steps/{step}/seen"));
    for (step, digest) in [("before", report.text("app", "digest")), ("behind", report.text("app", "digest"))] {
        let text = seen(step);
        let platform = &report.image("app")["platforms"][xtask_model::spec::reference::Platform::host().to_string()];
        for line in [
            "XTASK_KIND=app".to_owned(),
            format!("XTASK_STEP={step}"),
            format!("XTASK_PLATFORM={}", xtask_model::spec::reference::Platform::host()),
            format!("XTASK_DIGEST={}", platform.as_str().unwrap()),
            format!("XTASK_IMAGE={}/app@{}", repo.registry, platform.as_str().unwrap()),
            format!("XTASK_OUTPUT={}", repo.path.join("target/steps").join(step).display()),
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line} ({digest}):\n{text}");
        }
    }
    assert!(!repo.path.join("target/steps/ci").exists(), "a step for CI ran without CI");
    let phases = report.image("app")["seconds"].to_string();
    assert!(phases.contains("step before") && phases.contains("step behind"), "{phases}");
    repo.write("templates/page.html", "<p>two</p>\n").commit("two");
    repo.xtask(&["build", "--push"]).env("CI", "true").run().ok();
    assert!(seen("ci").contains("XTASK_KIND=app"));
}

#[test]
fn a_step_has_a_folder_for_each_of_several_images() {
    let Some(repo) = Repo::new("folders") else { return };
    repo.edit("images.toml", "[app]\n# app settings\n", "[[app]]\nname = \"web\"\n\n[[app]]\nname = \"worker\"\n");
    let run = "run = [\"sh\", \"-c\", \"echo $XTASK_IMAGE > \\\"$XTASK_OUTPUT/seen\\\"\"]";
    repo.step(&format!("name = \"see\"\nafter = \"build\"\nimages = [\"app\", \"base\"]\n{run}")).commit("steps");
    repo.push();
    for (folder, repository) in [("base", "app-base"), ("app+web", "app-web"), ("app+worker", "app-worker")] {
        let seen = repo.read(&format!("target/steps/see/{folder}/seen"));
        assert!(seen.contains(&format!("/{repository}@sha256:")), "{folder}: {seen}");
    }
}

#[test]
fn a_step_whose_program_is_missing_is_a_missing_tool() {
    let Some(repo) = Repo::new("noprogram") else { return };
    repo.step("name = \"sign\"\nafter = \"build\"\nimages = [\"base\"]\nrun = [\"no-such-program\"]").commit("step");
    repo.xtask(&["build", "--push"]).run().ends(3).says("no-such-program").says("step `sign`");
    assert!(repo.tags("app-base").is_empty());
}
