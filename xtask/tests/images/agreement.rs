//! `plan` says what `build` then does, whatever the root, the base and the registry have been through.

use crate::fault_proxy::{Answer, FaultProxy};
use crate::fixture::{Repo, actions, platforms};
use xtask_model::image::policy;
use xtask_model::spec::reference::Digest;

/// Compares the decision of `plan` for a change since this revision with that of a dry run, and with a real build.
#[track_caller]
fn agrees(repo: &Repo, since: &str, decision: &str) {
    let (base, app) = match decision {
        "skip" => ("reused", "reused"),
        "fast" => ("reused", "built"),
        _ => ("built", "built"),
    };
    let plan = || {
        let said = repo.xtask(&["plan", "--base", since, "--format", "json"]).run().ok();
        serde_json::from_str::<serde_json::Value>(&said.stdout).unwrap()
    };
    let planned = plan();
    assert_eq!(planned["decision"], decision, "{planned:#}");
    let dry = repo.xtask(&["build", "--push", "--dry-run"]).run().ok();
    let built = |name: &str| if dry.stdout.contains(&format!("Dockerfile.{name}")) { "built" } else { "reused" };
    assert_eq!((built("base"), built("fast")), (base, app), "{planned:#}\n{dry:?}");
    let report = repo.push();
    assert_eq!(report.actions(), actions(base, app), "{planned:#}");
    let name = |kind: &str| planned[kind]["reference"].as_str().unwrap_or_default().to_owned();
    // A pinned base is known by its digest, another by its tag.
    assert!(
        [&report.digest("base"), &report.tags("base")[0]].iter().any(|end| name("base").ends_with(*end)),
        "{planned:#}"
    );
    assert!(name("app").ends_with(&report.tags("app")[0]), "{planned:#}");
    let after = plan();
    let actions = ["base", "app"].map(|kind| &after[kind]["decision"]["action"]);
    assert_eq!(actions, ["reuse", "reuse"], "{after:#}");
}

#[test]
fn an_ordinary_life() {
    let Some(repo) = Repo::new("ordinary") else { return };
    agrees(&repo, "HEAD", "base+fast");
    agrees(&repo, "HEAD", "skip");
    repo.write("templates/page.html", "<p>two</p>\n").commit("template");
    agrees(&repo, "HEAD~1", "fast");
    repo.write("dockerfiles/check.txt", "two\n").commit("base");
    agrees(&repo, "HEAD~1", "base+fast");
    repo.write("README.md", "two\n").commit("document");
    agrees(&repo, "HEAD~1", "skip");
}

#[test]
fn a_base_that_was_built_again_needs_its_app_again() {
    let Some(repo) = Repo::new("again") else { return };
    let before = repo.push();
    repo.commit("another revision, so another manifest even within one second");
    let after = repo.xtask(&["build-base", "--push", "--force", "--format", "json"]).run().ok().report();
    assert_eq!(before.fingerprint("base"), after.fingerprint("base"));
    assert_ne!(before.digest("base"), after.digest("base"));
    let said = repo.xtask(&["plan", "--base", "HEAD"]).run().ok();
    assert!(said.stdout.contains("app: it was built on a different base (expected sha256:"), "{}", said.stdout);
    let told = repo.xtask(&["explain"]).run().ok();
    assert!(told.stdout.contains("it was built on a different base"), "{}", told.stdout);
    agrees(&repo, "HEAD", "fast");
    agrees(&repo, "HEAD", "skip");
}

#[test]
fn a_pinned_base_is_not_built_whatever_is_edited() {
    let Some(repo) = Repo::new("pinned") else { return };
    repo.push();
    repo.xtask(&["base", "pin"]).run().ok();
    repo.commit("pin");
    agrees(&repo, "HEAD", "skip");
    repo.write("dockerfiles/check.txt", "two\n").commit("an edit of the base");
    agrees(&repo, "HEAD~1", "skip");
    let waits = repo.xtask(&["plan", "--base", "HEAD~1"]).run().ok();
    assert!(waits.stdout.contains("it waits, the base is pinned in `images.lock`"), "{}", waits.stdout);
    let told = repo.xtask(&["explain"]).run().ok();
    assert!(told.stdout.contains("it is pinned in `images.lock`"), "{}", told.stdout);
    assert!(!told.stdout.contains("this tree's key is in the registry already"), "{}", told.stdout);
    repo.write("templates/page.html", "<p>two</p>\n").commit("template");
    agrees(&repo, "HEAD~1", "fast");
    // The app's own layers are compressed as the policy says now, whatever the pinned base was built with.
    repo.set("base", "compression = \"zstd\"").commit("compression");
    agrees(&repo, "HEAD~1", "fast");
    repo.write("templates/page.html", "<p>three</p>\n").commit("template");
    // The weekly rebuild has no base to build either.
    repo.write("target/event.json", "{\"schedule\": \"17 4 * * 1\"}");
    let event = repo.path.join("target/event.json");
    let weekly = repo.xtask(&["plan", "--event", event.to_str().unwrap()]).run().ok();
    assert!(weekly.stdout.starts_with("fast\n"), "{}", weekly.stdout);
    repo.xtask(&["base", "pin", "--remove"]).run().ok();
    repo.commit("let it go");
    agrees(&repo, "HEAD~1", "base+fast");
}

#[test]
fn a_pinned_base_that_is_gone_is_refused_by_both() {
    let Some(repo) = Repo::new("gone") else { return };
    repo.push();
    repo.xtask(&["base", "pin"]).run().ok();
    let pinned = repo.read("images.lock");
    let digest = repo.digest("app-base", "latest");
    repo.write("images.lock", &pinned.replace(&digest, &Digest::of(b"nothing").to_string()));
    for args in [&["plan"][..], &["build", "--push", "--dry-run"]] {
        repo.xtask(args).run().ends(2).says("the pinned base").says("is not in the registry");
    }
}

/// A repository whose root is pinned in this registry, and whose fallback is in its own.
fn on_a_foreign_root(name: &str, registry: &str, settings: &str) -> Option<Repo> {
    let repo = Repo::new(name)?;
    let wanted = format!("{}:1", repo.engine.root_repository());
    let text = repo.read("images.toml").replace(&wanted, &format!("{registry}/root:1"));
    let settings = format!("python = \"3.12\"\nfallback = \"debian\"\n{settings}");
    let text = text.replace("python = \"3.12\"\n", &settings);
    repo.write("images.toml", &text);
    let host = platforms().0;
    let pin = Digest::of(b"nobody has it");
    repo.write(
        "images.lock",
        &format!("[root]\nimage = \"{registry}/root:1\"\n\n[root.platforms]\n\"{host}\" = \"{pin}\"\n"),
    );
    repo.commit("a root of another registry");
    let policy = policy::parse(&text, &|_| true).unwrap_or_else(|fault| panic!("{fault}"));
    let recipe = xtask::pipeline::debian_recipe(policy.root.fallback.as_ref().unwrap());
    let tag = format!("{}-{}", &recipe.fingerprint().hex()[..12], host.replace('/', "-"));
    repo.engine.push_root(&format!("{}/app-root", repo.registry).parse().unwrap(), &tag, "fallback");
    Some(repo)
}

/// An address at which nobody listens.
const NOWHERE: &str = "127.0.0.99:9";

/// A pinned root that nobody serves, and its fallback in the registry.
#[test]
fn an_unreachable_pinned_root_leaves_images_on_the_fallback() {
    let Some(repo) = on_a_foreign_root("fallback", NOWHERE, "fallback-publishes = \"loopback\"\n") else { return };
    agrees(&repo, "HEAD", "base+fast");
    agrees(&repo, "HEAD", "skip");
    repo.write("templates/page.html", "<p>two</p>\n").commit("template");
    agrees(&repo, "HEAD~1", "fast");
    let listed = repo.xtask(&["base", "list"]).run().ok();
    assert!(listed.stdout.contains("it is this tree's base"), "{}", listed.stdout);
    let told = repo.xtask(&["explain"]).run().ok();
    assert_eq!(told.stdout.matches("nothing differs").count(), 2, "{}", told.stdout);
    // The base's own tag is that of the fallback.
    assert!(repo.published("app-base", "latest").unwrap().key().unwrap().contains("debian:"));
}

#[test]
fn images_on_the_fallback_root_get_no_names_unless_the_policy_says_so() {
    for settings in ["", "fallback-publishes = \"never\"\n"] {
        let Some(repo) = on_a_foreign_root("unnamed", NOWHERE, settings) else { return };
        repo.git(&["tag", "v1.2.3"]);
        let said = repo.xtask(&["build", "--push", "--format", "json"]).run().ok();
        let said = said.says("is on the fallback root `debian:trixie`").says("`[root] fallback-publishes` is `never`");
        let report = said.report();
        for (kind, name) in [("base", "app-base"), ("app", "app")] {
            assert_eq!(repo.tags(name), [&report.fingerprint(kind)[..12]], "{kind}");
            assert!(report.text(kind, "latest_stays").contains("fallback root"), "{report:?}");
        }
        // Nor when they exist already, nor by going back, nor on a base that is pinned.
        repo.push();
        let fallback = repo.tags("app-base").remove(0);
        repo.xtask(&["base", "rollback", &fallback, "--yes"]).run().ends(2).says("it is on the fallback root");
        repo.xtask(&["base", "rollback", "--yes"]).run().ends(2);
        repo.xtask(&["base", "pin", &fallback]).run().ok();
        repo.commit("pin");
        repo.push();
        assert_eq!((repo.tags("app-base").len(), repo.tags("app").len()), (1, 1));
    }
    let Some(repo) = on_a_foreign_root("named", NOWHERE, "fallback-publishes = \"always\"\n") else { return };
    repo.git(&["tag", "v1.2.3"]);
    repo.push();
    assert!(["1.2.3", "latest", "main"].iter().all(|tag| repo.tags("app").contains(&(*tag).to_owned())));
    assert!(repo.tags("app-base").contains(&"latest".to_owned()));
}

/// A root's registry that answers, whatever it says, is no reason for another operating system.
#[test]
fn a_root_that_is_refused_chooses_no_fallback() {
    let error = |status: u16, code: &str| {
        Answer::new(status).body(format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"as scripted\"}}]}}"))
    };
    let challenge = error(401, "UNAUTHORIZED").header("www-authenticate", "Basic realm=x");
    for (name, answer, says) in [
        ("denied", error(403, "DENIED"), "403 Forbidden"),
        ("unauthorized", error(401, "UNAUTHORIZED"), "401 Unauthorized"),
        ("limited", error(429, "TOOMANYREQUESTS").header("retry-after", "0"), "429 Too Many Requests"),
        ("broken", Answer::new(500), "500 Internal Server Error"),
        ("portal", Answer::new(200).header("content-type", "text/html").body("log in"), "text/html"),
        ("helper", challenge, "docker-credential-gone"),
    ] {
        let registry = FaultProxy::alone();
        let scripted = answer.clone();
        registry.reply("*", "", move |_| scripted.clone());
        let Some(repo) = on_a_foreign_root(name, &registry.host(), "fallback-publishes = \"always\"\n") else { return };
        repo.write("target/docker/config.json", "{\"credsStore\": \"gone\"}");
        for pinned in [true, false] {
            if !pinned {
                std::fs::remove_file(repo.path.join("images.lock")).unwrap();
                repo.commit("not pinned");
            }
            let config = repo.path.join("target/docker");
            let push = repo.xtask(&["build", "--push"]).env("DOCKER_CONFIG", config.clone()).run();
            push.ends(5).says(says).says("this one was reached").keeps("cannot be reached");
            let plan = repo.xtask(&["plan", "--base", "HEAD"]).env("DOCKER_CONFIG", config).run().ok();
            assert!(plan.stdout.contains("whether the registry has the base cannot be known"), "{}", plan.stdout);
        }
        assert!(repo.tags("app-base").is_empty() && repo.tags("app").is_empty(), "{name}");
    }
}

#[test]
fn what_is_only_to_be_named_is_never_built() {
    let Some(repo) = Repo::new("named") else { return };
    let refused = |what: &str, because: &str| {
        for command in ["build", "build-fast"] {
            let said = repo.xtask(&[command, "--push", "--reuse-only"]).without_engine().run();
            // `build-fast` has words of its own for a base that is missing.
            if command == "build" || what == "app" {
                said.ends(6).says(&format!("{what} `")).says("would have to be built").says(because);
            } else {
                said.ends(2).says("is not in the registry");
            }
        }
    };
    refused("base", "is not in the registry");
    assert!(repo.tags("app-base").is_empty() && repo.tags("app").is_empty());
    let pushed = repo.push();
    repo.git(&["tag", "v1.2.3"]);
    repo.xtask(&["build", "--push", "--reuse-only"]).without_engine().run().ok();
    assert_eq!(repo.digest("app", "1.2.3"), pushed.digest("app"), "the digest that was tested");
    repo.write("templates/page.html", "<p>two</p>\n").commit("not built");
    refused("app", "templates/page.html was edited");
    repo.xtask(&["build", "--push", "--reuse-only", "--force"]).run().ends(2);
}
