//! The tags of a commit: two of them never share a name, those that move never go back, and where a registry lets none move,
//! the error names what leaves them out.

use crate::fault_proxy::{Answer, Mishap, Request};
use crate::fixture::{Repo, actions, until};
use crate::world::World;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Writes the page and commits it; returns the commit.
fn page(repo: &Repo, text: &str) -> String {
    repo.write("templates/page.html", text).commit(text)
}

/// The world with a remote of its repository, at A, and C pushed by force over B, each built in its turn.
fn replaced(name: &str) -> Option<(World, Repo, [String; 3], [String; 2])> {
    let world = World::new(name)?;
    let remote = world.repo.clone("remote");
    remote.git(&["checkout", "-q", "--detach"]);
    world.repo.git(&["remote", "add", "origin", remote.path.to_str().unwrap()]);
    let a = world.repo.git(&["rev-parse", "HEAD"]);
    world.repo.push();
    let b = page(&world.repo, "B");
    world.repo.git(&["push", "-q", "origin", "main"]);
    let built_b = world.repo.push().digest("app");
    world.repo.git(&["reset", "-q", "--hard", &a]);
    let c = page(&world.repo, "C");
    world.repo.git(&["push", "-q", "--force", "origin", "main"]);
    let built_c = world.repo.push().digest("app");
    Some((world, remote, [a, b, c], [built_b, built_c]))
}

#[test]
fn a_job_of_a_commit_that_a_force_push_replaced_moves_no_tag_back() {
    let Some((world, _remote, [a, b, c], [built_b, built_c])) = replaced("replaced") else { return };
    let repo = &world.repo;
    for tag in ["latest", "main"] {
        assert_eq!(repo.digest("app", tag), built_c, "the branch's newest commit replaced `{tag}`");
    }
    for commit in [&b, &a] {
        repo.git(&["checkout", "-q", "-B", "main", commit]);
        let again = repo.push();
        assert_eq!(again.actions(), actions("reused", "reused"));
        assert!(again.text("app", "latest_stays").contains(&c[..12]) || commit == &a, "{again:?}");
        assert!(!again.tags("app").contains(&"main".to_owned()), "{again:?}");
        let kept = again.image("app")["kept"].to_string();
        assert!(kept.contains("app:main` stays: it names the image of"), "{kept}");
    }
    for tag in ["latest", "main"] {
        assert_eq!(repo.digest("app", tag), built_c);
    }
    assert_eq!(repo.digest("app", &b[..12]), built_b, "the commit's own tag is its own");
}

#[test]
fn a_branch_that_was_reset_moves_its_tags() {
    let Some((world, remote, [a, ..], _)) = replaced("back") else { return };
    let repo = &world.repo;
    repo.git(&["checkout", "-q", "-B", "main", &a]);
    repo.git(&["push", "-q", "--force", "origin", "main"]);
    let report = repo.push();
    assert_eq!(report.actions(), actions("reused", "reused"));
    assert_eq!(repo.digest("app", "latest"), report.digest("app"));
    assert_eq!(remote.git(&["rev-parse", "main"]), a);
}

#[test]
fn without_a_remote_the_event_names_the_replaced_commit() {
    let Some((world, remote, [a, b, c], [_, built_c])) = replaced("event") else { return };
    let repo = &world.repo;
    // A private repository, of which CI keeps no credentials.
    std::fs::remove_dir_all(&remote.path).unwrap();
    repo.git(&["reset", "-q", "--hard", &a]);
    let d = page(repo, "D");
    let event = |before: &str, attempt: &str| {
        let json = format!("{{\"ref\":\"refs/heads/main\",\"before\":\"{before}\",\"after\":\"{d}\",\"forced\":true}}");
        repo.write("target/event.json", &json);
        let call = repo.xtask(&["build", "--push", "--format", "json"]).env("GITHUB_REF", "refs/heads/main");
        let call = call.env("GITHUB_EVENT_NAME", "push").env("GITHUB_RUN_ATTEMPT", attempt);
        call.env("GITHUB_EVENT_PATH", repo.path.join("target/event.json")).run().ok().report()
    };
    for (before, attempt) in [(&b, "1"), (&c, "2")] {
        let report = event(before, attempt);
        assert!(report.text("app", "latest_stays").contains("`origin` did not answer"), "{report:?}");
        assert_eq!(repo.digest("app", "latest"), built_c);
    }
    let report = event(&c, "1");
    assert_eq!(repo.digest("app", "latest"), report.digest("app"));
}

#[test]
fn a_later_commit_of_older_contents_keeps_latest() {
    let Some(world) = World::new("contents") else { return };
    let repo = &world.repo;
    let first = repo.push();
    let b = page(repo, "B");
    // The commit after B has the contents of the one before, and its job is done first.
    let c = page(repo, "<p>one</p>\n");
    let report = repo.push();
    assert_eq!((report.actions(), report.digest("app")), (actions("reused", "reused"), first.digest("app")));
    repo.git(&["checkout", "-q", "-B", "main", &b]);
    let report = repo.push();
    assert_eq!(report.text("app", "latest_stays"), "it names the image of a later commit");
    for tag in ["latest", "main", &c[..12]] {
        assert_eq!(repo.digest("app", tag), first.digest("app"), "{tag}");
    }
    // What was built again and again changes nothing, and writes nothing.
    repo.git(&["checkout", "-q", "-B", "main", &c]);
    let (_, traffic) = world.traffic(|| repo.push());
    assert_eq!(traffic.writes(), Vec::<String>::new());
}

#[test]
fn a_job_that_is_overtaken_while_it_writes_leaves_the_tag_at_the_later_commit() {
    // The later commit has an image of its own, or the one that the tag named before.
    for (name, held, content) in [
        ("tag", "latest", "C"),
        ("announcement", "xtask-tag-.move-latest", "C"),
        ("older-image", "xtask-tag-.move-latest", "A"),
    ] {
        let Some(world) = World::new(name) else { return };
        let repo = &world.repo;
        page(repo, "A");
        repo.push();
        let overtaken = page(repo, "B");
        let other = repo.clone("other job");
        page(&other, content);
        let passes = Arc::new(AtomicBool::new(false));
        world.proxy.on("PUT", &format!("/app/manifests/{held}"), 1, Mishap::Hold(Arc::clone(&passes)));
        let running = repo.xtask(&["build", "--push", "--format", "json"]).without_engine().start();
        until(|| !world.proxy.waiting().is_empty(), || format!("nothing writes `{held}`"));
        let later = other.push();
        assert_eq!(repo.digest("app", "latest"), later.digest("app"));
        passes.store(true, Ordering::SeqCst);
        let report = running.end().ok().report();
        assert_eq!(repo.digest("app", "latest"), later.digest("app"), "{held}: {report:?}");
        assert!(report.text("app", "latest_stays").starts_with("it names the image of `"), "{report:?}");
        assert!(!report.tags("app").contains(&"latest".to_owned()), "{report:?}");
        assert_eq!(repo.digest("app", &overtaken[..12]), report.digest("app"));
        // The job of the earlier commit again.
        repo.push();
        assert_eq!(repo.digest("app", "latest"), later.digest("app"));
    }
}

#[test]
fn a_job_that_is_ended_while_it_is_overtaken_leaves_the_tag_or_repairs_it_when_it_runs_again() {
    ended_while_overtaken("ended-while-overtaken", rustix::process::Signal::TERM);
    ended_while_overtaken("killed-while-overtaken", rustix::process::Signal::KILL);
}

fn ended_while_overtaken(name: &str, signal: rustix::process::Signal) {
    let Some(world) = World::new(name) else { return };
    let repo = &world.repo;
    page(repo, "A");
    repo.push();
    let overtaken = page(repo, "B");
    let other = repo.clone("other job");
    page(&other, "C");
    let passes = Arc::new(AtomicBool::new(false));
    world.proxy.on("PUT", "/app/manifests/latest", 1, Mishap::Hold(Arc::clone(&passes)));
    let mut running = repo.xtask(&["build", "--push"]).without_engine().start();
    until(|| !world.proxy.waiting().is_empty(), || "nothing writes `latest`".to_owned());
    let later = other.push();
    running.signal(signal);
    if signal == rustix::process::Signal::KILL {
        running.end();
        // Its request was on the way.
        passes.store(true, Ordering::SeqCst);
        let of_killed = || repo.digest("app", &overtaken[..12]);
        until(|| repo.digest("app", "latest") == of_killed(), || "the request did not arrive".to_owned());
        repo.push();
    } else {
        passes.store(true, Ordering::SeqCst);
        running.end();
    }
    assert_eq!(repo.digest("app", "latest"), later.digest("app"));
}

#[test]
fn a_branch_named_like_a_release_or_a_commit_does_not_get_its_tag() {
    let Some(world) = World::new("namespace") else { return };
    let repo = &world.repo;
    repo.git(&["tag", "v1.2.3"]);
    let released = repo.push();
    let commit = repo.git(&["rev-parse", "--short=12", "HEAD"]);
    let fingerprint = released.fingerprint("app");
    for branch in ["1.2.3", "latest", &commit, &fingerprint[..12], "v1.2.3"] {
        repo.git(&["checkout", "-q", "-b", branch]);
        page(repo, branch);
        let said = repo.xtask(&["build", "--push", "--format", "json"]).run().ok();
        let tags = said.report().tags("app");
        assert_eq!(tags.len(), 2, "fingerprint and commit: {tags:?}");
        let note = format!("branch `{branch}` gets no tag: ");
        assert!(said.report().image("app")["kept"][0].as_str().unwrap().starts_with(&note));
        said.says(&note);
        for tag in ["1.2.3", "latest", "main", &commit, &fingerprint[..12]] {
            assert_eq!(repo.digest("app", tag), released.digest("app"), "{branch}: {tag}");
        }
    }
}

#[test]
fn two_branches_with_the_same_tag_form_get_different_tags() {
    let Some(world) = World::new("branches") else { return };
    let repo = &world.repo;
    repo.push();
    let mut tags = BTreeSet::new();
    for branch in ["feature-a", "feature+a", "feature_a", "Feature-a", "MAIN"] {
        repo.git(&["checkout", "-q", "-b", branch]);
        page(repo, branch);
        tags.insert(repo.push().tags("app").pop().unwrap());
    }
    assert_eq!(tags.len(), 5, "{tags:?}");
    assert!(tags.contains("feature-a") && !tags.contains("MAIN"), "{tags:?}");
}

#[test]
fn a_version_moves_only_for_its_own_git_tag() {
    let Some(world) = World::new("version") else { return };
    let repo = &world.repo;
    repo.git(&["tag", "v1.0.0"]);
    let first = repo.push();
    page(repo, "two");
    repo.git(&["tag", "--force", "v1.0.0"]);
    let build = |name: &str| {
        let call = repo.xtask(&["build", "--push", "--format", "json"]);
        let call = if name.is_empty() { call } else { call.env("GITHUB_REF", name) };
        call.run().ok().report()
    };
    for run in ["", "refs/heads/main"] {
        build(run);
        assert_eq!(repo.digest("app", "1.0.0"), first.digest("app"), "{run}");
    }
    let report = build("refs/tags/v1.0.0");
    assert_eq!(repo.digest("app", "1.0.0"), report.digest("app"));
}

#[test]
fn a_rollback_is_not_undone_by_a_build_of_the_same_commit() {
    let Some(world) = World::new("rollback") else { return };
    let repo = &world.repo;
    let first = repo.push();
    repo.write("dockerfiles/check.txt", "two\n").commit("another base");
    let second = repo.push();
    let latest = || repo.digest("app-base", "latest");
    assert_eq!(latest(), second.digest("base"));
    repo.xtask(&["base", "rollback", "--yes"]).run().ok().says("moved");
    assert_eq!(latest(), first.digest("base"));
    let report = repo.push();
    assert_eq!(report.actions(), actions("reused", "reused"));
    assert!(report.text("base", "latest_stays").contains("rolled back"), "{report:?}");
    assert_eq!(latest(), first.digest("base"));
    // A later commit moves it forwards, as is said.
    page(repo, "later");
    repo.push();
    assert_eq!(latest(), second.digest("base"));
    // Moved back, and forwards again by hand: builds of that commit have it again.
    repo.xtask(&["base", "rollback", "--yes"]).run().ok();
    repo.xtask(&["base", "rollback", &second.tags("base")[0], "--yes"]).run().ok();
    repo.push();
    assert_eq!(latest(), second.digest("base"));
}

#[test]
fn the_age_of_an_image_counts_from_its_build() {
    let Some(world) = World::new("age") else { return };
    // Its commits are of 2023.
    world.repo.push();
    let listed = world.repo.xtask(&["base", "list"]).run().ok();
    assert!(listed.stdout.contains(" min "), "{}", listed.stdout);
    world.repo.write("dockerfiles/check.txt", "two\n").commit("another base");
    world.repo.push();
    let prune = ["base", "prune", "--keep", "0", "--older-than", "1h"];
    world.repo.xtask(&prune).run().ok().says(" min old");
    assert!(!world.repo.xtask(&prune).run().ok().stderr.contains("delete `"));
}

/// Every write of a tag that was written before is refused, as Amazon ECR does.
fn immutable(world: &World) {
    let written: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    for seen in world.proxy.seen().iter().filter(|seen| seen.method == "PUT") {
        written.lock().unwrap().insert(seen.target.clone());
    }
    let again = move |request: &Request| {
        !request.target.contains("sha256:") && !written.lock().unwrap().insert(request.target.clone())
    };
    let message = "The image tag already exists and cannot be overwritten because the tag is immutable.";
    let refusal = format!("{{\"errors\": [{{\"code\": \"TAG_INVALID\", \"message\": \"{message}\"}}]}}");
    world.proxy.on_where("PUT", "/manifests/", again, Mishap::Answer(Answer::new(400).body(refusal)));
}

#[test]
fn immutable_tags_are_reported_with_a_way_to_skip_them() {
    let Some(world) = World::new("immutable") else { return };
    let repo = &world.repo;
    let first = repo.push();
    immutable(&world);
    repo.git(&["checkout", "-q", "-b", "topic"]);
    repo.push();
    // Nothing to do, and another commit of the same contents: nothing moves, and nothing fails.
    assert_eq!(repo.push().actions(), actions("reused", "reused"));
    repo.write("README.md", "more\n").commit("docs");
    assert_eq!(repo.push().actions(), actions("reused", "reused"));
    repo.write("README.md", "even more\n").commit("docs");
    assert_eq!(repo.push().actions(), actions("reused", "reused"));
    let commit = page(repo, "two");
    let said = repo.xtask(&["build", "--push"]).run().ends(5).says("immutable").says("`--no-branch-tag`");
    said.says("moving-tags = [\"latest\"]");
    assert!(!repo.digest("app", &commit[..12]).is_empty(), "the commit has its name all the same");
    repo.xtask(&["build", "--push", "--no-branch-tag"]).run().ok();
    // The default branch, by the policy.
    repo.git(&["checkout", "-q", "main"]);
    page(repo, "three");
    repo.xtask(&["build", "--push", "--no-branch-tag"]).run().ends(5).says("`--no-latest`");
    repo.edit("images.toml", "[project]\n", "[project]\nmoving-tags = []\n").commit("policy");
    let report = repo.push();
    assert_eq!(report.tags("app").len(), 2, "{report:?}");
    assert_eq!(report.text("app", "latest_stays"), "the policy's `moving-tags` leaves it out");
    assert_eq!(repo.digest("app", "latest"), first.digest("app"));
}

#[test]
fn smoke_without_an_argument_tests_this_trees_app() {
    let Some(world) = World::new("smoke") else { return };
    let repo = &world.repo;
    let cat = "[[smoke.run]]\nname = \"page\"\nargs = []\ncontains = \"<p>one</p>\"\n";
    repo.write("images.toml", &format!("{}\n[smoke]\n\n{cat}", repo.read("images.toml"))).commit("smoke");
    let first = repo.push();
    repo.write("templates/page.html", "<p>two</p>\n");
    let second = repo.push();
    // This tree's app is the one that was not built last.
    repo.write("templates/page.html", "<p>one</p>\n");
    repo.xtask(&["smoke"]).without_engine().run().ok().says(&first.digest("app")).keeps(&second.digest("app"));
    repo.write("templates/page.html", "<p>three</p>\n");
    let missing = repo.xtask(&["smoke"]).without_engine().run().ends(2);
    missing.says("has not been built").says("`cargo xtask build`").says("`cargo xtask smoke IMAGE`");
    repo.xtask(&["run"]).without_engine().run().ends(2).says("has not been built");
}

#[test]
fn a_job_of_ci_runs_the_same_checks_on_an_image_once() {
    let Some(world) = World::new("smoke-once") else { return };
    let repo = &world.repo;
    let cat = "[[smoke.run]]\nname = \"page\"\nargs = []\ncontains = \"<p>one</p>\"\n";
    repo.write("images.toml", &format!("{}\n[smoke]\n\n{cat}", repo.read("images.toml")));
    repo.step("name = \"smoke\"\nuses = \"smoke\"\nafter = \"build\"\nonly = \"ci\"").commit("smoke");
    let job = |args: &[&str], attempt: &str| {
        let call = repo.xtask(args).without_engine().env("CI", "true").env("GITHUB_JOB", "images");
        call.env("GITHUB_RUN_ID", "7").env("GITHUB_RUN_ATTEMPT", attempt).run().ok()
    };
    let earlier = "passed earlier in this job";
    // Published from a desk, where the step is not due: nothing was tested.
    repo.push();
    job(&["smoke"], "1").keeps(earlier).says("page (");
    repo.write("templates/page.html", "<p>one</p> two\n").commit("page");
    job(&["build", "--push"], "1").says("page (");
    job(&["smoke"], "1").says(earlier);
    job(&["smoke"], "2").keeps(earlier).says("page (");
    repo.xtask(&["smoke"]).without_engine().run().ok().keeps(earlier).says("page (");
}

#[test]
fn a_reason_names_what_it_compares_with() {
    let Some(world) = World::new("reason") else { return };
    let repo = &world.repo;
    let build = |args: &[&str]| repo.xtask(&[&["build"], args].concat()).without_engine().run().ok();
    build(&[]);
    page(repo, "two");
    build(&[]).says("because templates/page.html was edited since the last build on this machine");
    build(&["--push"]);
    page(repo, "three");
    build(&["--push"]).says("because templates/page.html was edited since `latest`");
    repo.write("dockerfiles/check.txt", "two\n");
    let missing = repo.xtask(&["build-fast"]).without_engine().run().ends(2);
    missing.says("changed since the last build on this machine: dockerfiles/check.txt was edited");
}

#[test]
fn a_record_lists_what_was_edited() {
    let Some(world) = World::new("record") else { return };
    world.repo.push();
    page(&world.repo, "two");
    world.repo.push();
    let ledger = xtask_model::record::ledger::parse(&world.repo.read(xtask_model::record::ledger::PATH));
    let changes: Vec<_> = ledger.records.iter().map(xtask_model::record::ledger::Record::change).collect();
    assert_eq!(changes, [None, Some(xtask_model::image::key::EditKind::Files)]);
    assert!(ledger.records.iter().all(xtask_model::record::ledger::Record::is_pushed));
}
