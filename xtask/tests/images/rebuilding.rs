//! Edits, the images that each of them rebuilds, and the reasons in the report.

use crate::fixture::{Outcome, Repo, Report, actions};

/// Builds twice with an edit between; both reports and what the second said.
#[track_caller]
fn edited(name: &str, edit: impl FnOnce(&Repo)) -> Option<(Report, Report, Outcome)> {
    let repo = Repo::new(name)?;
    let before = repo.push();
    edit(&repo);
    repo.commit("edit");
    let said = repo.xtask(&["build", "--push", "--format", "json"]).run().ok();
    Some((before, said.report(), said))
}

/// The edit changes the base, and so the app, for this reason.
#[track_caller]
fn rebuilds_all(name: &str, because: &str, edit: impl FnOnce(&Repo)) {
    let Some((before, after, said)) = edited(name, edit) else { return };
    assert_eq!(after.actions(), actions("built", "built"));
    assert_ne!(before.digest("base"), after.digest("base"));
    assert_ne!(before.digest("app"), after.digest("app"));
    assert_ne!(before.fingerprint("base"), after.fingerprint("base"));
    said.says(because);
}

/// The edit changes no image.
#[track_caller]
fn rebuilds_nothing(name: &str, edit: impl FnOnce(&Repo)) {
    let Some((before, after, _)) = edited(name, edit) else { return };
    assert_eq!(after.actions(), actions("reused", "reused"));
    assert_eq!((before.digest("base"), before.digest("app")), (after.digest("base"), after.digest("app")));
}

#[test]
fn a_template_edit_rebuilds_only_the_app() {
    let edit = |repo: &Repo| _ = repo.write("templates/page.html", "<p>two</p>\n");
    let Some((before, after, said)) = edited("template", edit) else { return };
    assert_eq!(after.actions(), actions("reused", "built"));
    assert_eq!(before.digest("base"), after.digest("base"));
    assert_ne!(before.digest("app"), after.digest("app"));
    said.says("templates/page.html was edited");
}

#[test]
fn comments_and_order_of_requirements_and_lock_rebuild_nothing() {
    rebuilds_nothing("comments", |repo| {
        repo.lock("# why\nscipy==1.16.3 # here\n\n", &[("scipy", "1.16.3")]);
        let lock = repo.read("requirements-enhanced.lock");
        repo.write("requirements-enhanced.lock", &format!("{lock}    # via -r requirements-enhanced.txt\n\n"));
    });
}

#[test]
fn comments_and_blank_lines_of_dockerfiles_rebuild_nothing() {
    rebuilds_nothing("blank", |repo| {
        for path in ["dockerfiles/Dockerfile.base", "dockerfiles/Dockerfile.fast"] {
            repo.write(path, &format!("# new\n\n{}", repo.read(path)));
        }
    });
}

#[test]
fn a_locked_version_rebuilds_all() {
    rebuilds_all("version", "scipy 1.16.3 -> 1.17.0 (requirements-enhanced.lock)", |repo| {
        repo.lock("scipy>=1.16\n", &[("scipy", "1.17.0")]);
    });
}

#[test]
fn a_file_that_the_base_copies_rebuilds_all() {
    rebuilds_all("copied", "dockerfiles/check.txt was edited", |repo| _ = repo.write("dockerfiles/check.txt", "x\n"));
}

#[test]
fn a_build_argument_rebuilds_all() {
    rebuilds_all("argument", "build argument GREETING is new", |repo| {
        repo.set("base", "args = { GREETING = \"hi; $(id) 'x'\" }");
    });
}

#[test]
fn a_root_that_moved_rebuilds_all_and_a_pinned_one_does_not_move() {
    let Some(repo) = Repo::new("root") else { return };
    let root = repo.repository("root");
    repo.engine.push_root(&root, "1", "one");
    repo.edit("images.toml", &format!("{}:1", repo.engine.root_repository()), &format!("{root}:1"));
    repo.commit("own root");
    let first = repo.push();
    repo.engine.push_root(&root, "1", "two");
    let said = repo.xtask(&["build", "--push", "--format", "json"]).run().ok();
    let second = said.report();
    assert_eq!(second.actions(), actions("built", "built"));
    said.says(&format!("because root {root}:1 linux/"));
    assert_ne!(first.digest("base"), second.digest("base"));

    // Pinned to the first again, whatever the tag says: that base exists already.
    let key: serde_json::Value = {
        let notes = repo.published("app-base", &first.digest("base")).unwrap().notes;
        serde_json::from_str(&notes[xtask_model::image::key::KEY_LABEL]).unwrap()
    };
    let mut lock = format!("[root]\nimage = \"{root}:1\"\n\n[root.platforms]\n");
    for (platform, digest) in key["root"]["digests"].as_object().unwrap() {
        lock += &format!("\"{platform}\" = {digest}\n");
    }
    repo.write("images.lock", &lock).commit("pin");
    let third = repo.xtask(&["build", "--push", "--locked", "--format", "json"]).run().ok().report();
    assert_eq!(third.digest("base"), first.digest("base"));
    assert_eq!(third.action("base"), "reused");
}

#[test]
fn force_builds_what_exists_and_replaces_it() {
    let Some(repo) = Repo::new("force") else { return };
    let first = repo.push();
    repo.commit("another revision, so another manifest");
    let forced = repo.xtask(&["build", "--push", "--force", "--format", "json"]).run().ok().report();
    assert_eq!(forced.actions(), actions("built", "built"));
    assert_eq!(forced.fingerprint("base"), first.fingerprint("base"));
    assert_ne!(forced.digest("base"), first.digest("base"));
    for name in ["app-base", "app"] {
        let kind = if name == "app" { "app" } else { "base" };
        for tag in repo.tags(name) {
            let expected =
                if tag == first.0["images"][1]["tags"][1] { first.digest(kind) } else { forced.digest(kind) };
            assert_eq!(repo.digest(name, &tag), expected, "{name}:{tag}");
        }
    }
}

#[test]
fn build_fast_without_a_base_is_an_error_that_names_the_command() {
    let Some(repo) = Repo::new("nobase") else { return };
    let said = repo.xtask(&["build-fast", "--push"]).without_engine().run().ends(2);
    assert_eq!(said.stdout, "");
    let reference = said.stderr.split('`').find(|part| part.contains("/app-base:")).unwrap().to_owned();
    let error = format!(
        "error: base image `{reference}` is not in the registry\n  needed by: `dockerfiles/Dockerfile.fast`\n  cause: it was \
         never built, or it was removed: no input is known to have changed\n\n\
         hint: build it: `cargo xtask build-base --push`, or let `cargo xtask build --push` do both\n"
    );
    said.says(&error);
    assert!(repo.tags("app").is_empty() && repo.tags("app-base").is_empty());
    // With an older base there, the error says what changed since.
    repo.xtask(&["build-base", "--push"]).run().ok();
    repo.lock("scipy>=1.16\n", &[("scipy", "1.17.0")]);
    let said = repo.xtask(&["build-fast", "--push"]).without_engine().run().ends(2);
    said.says("  cause: changed since `latest`: scipy 1.16.3 -> 1.17.0 (requirements-enhanced.lock)");
    assert!(repo.tags("app").is_empty());
}

#[test]
fn build_fast_with_a_base_names_it_by_digest() {
    let Some(repo) = Repo::new("fast") else { return };
    repo.xtask(&["build-base", "--push"]).run().ok();
    let dry = repo.xtask(&["build-fast", "--push", "--dry-run"]).run().ok();
    let from = format!("BASE_IMAGE={}/app-base@sha256:", repo.registry);
    assert!(dry.stdout.contains(&from), "{}", dry.stdout);
    let built = repo.xtask(&["build-fast", "--push", "--format", "json"]).run().ok().report();
    assert_eq!(built.actions(), actions("reused", "built"));
}
