//! `latest` moves only forwards, and only from a clean tree of the default branch.

use crate::fixture::{Repo, actions};

/// Checks that `latest` names the same image before and after `act` on a tree that has been pushed and edited, and that the app's report
/// gives the reason.
#[track_caller]
fn stays(name: &str, why: &str, args: &[&str], act: impl FnOnce(&Repo)) {
    let Some(repo) = Repo::new(name) else { return };
    repo.push();
    let latest = repo.digest("app", "latest");
    repo.write("templates/page.html", "<p>two</p>\n");
    act(&repo);
    let all = [&["build", "--push", "--format", "json"], args].concat();
    let report = repo.xtask(&all).run().ok().report();
    assert_eq!(report.actions(), actions("reused", "built"));
    assert_eq!(report.text("app", "latest_stays"), why);
    assert_eq!(repo.digest("app", "latest"), latest);
    assert!(!report.tags("app").contains(&"latest".to_owned()));
    assert_eq!(repo.digest("app", &report.tags("app")[0]), report.digest("app"));
}

#[test]
fn another_branch_does_not_move_it() {
    stays("branch", "`fix/a-b` is not the default branch `main`", &[], |repo| {
        repo.git(&["switch", "-qc", "fix/a-b"]);
        repo.commit("on a branch");
    });
}

#[test]
fn a_detached_head_does_not_move_it() {
    stays("detached", "no branch is checked out", &[], |repo| {
        repo.commit("ahead");
        repo.git(&["checkout", "-q", "--detach"]);
    });
}

#[test]
fn an_edited_input_does_not_move_it_and_gets_no_name_of_the_commit() {
    let Some(repo) = Repo::new("dirty") else { return };
    let first = repo.push();
    repo.write("templates/page.html", "<p>not committed</p>\n");
    let report = repo.push();
    let short = &repo.git(&["rev-parse", "HEAD"])[..12];
    let why = format!("the image is not made of commit {short}: `templates/page.html` (differs from the commit)");
    assert_eq!(report.text("app", "latest_stays"), why);
    // The base is the commit's, whatever the app is.
    assert!(report.image("base").get("latest_stays").is_none(), "{report:?}");
    assert_eq!(report.tags("app"), [report.fingerprint("app")[..12].to_owned()]);
    for tag in first.tags("app") {
        assert_eq!(repo.digest("app", &tag), first.digest("app"), "{tag}");
    }
    let labels = repo.config("app", &report.digest("app")).config.labels;
    assert!(labels["org.opencontainers.image.revision"].ends_with("-dirty"));
}

#[test]
fn it_stays_with_no_latest() {
    stays("flag", "`--no-latest`", &["--no-latest"], |repo| drop(repo.commit("two")));
}

#[test]
fn an_older_commit_does_not_move_it_backwards() {
    let Some(repo) = Repo::new("older") else { return };
    let old = repo.git(&["rev-parse", "HEAD"]);
    repo.write("templates/page.html", "<p>two</p>\n").write("dockerfiles/check.txt", "two\n").commit("two");
    let new = repo.push();
    // The default branch of this working copy is behind, as where jobs overtake each other.
    repo.git(&["reset", "-q", "--hard", &old]);
    let report = repo.push();
    assert_eq!(report.actions(), actions("built", "built"));
    for (kind, name) in [("base", "app-base"), ("app", "app")] {
        assert_eq!(report.text(kind, "latest_stays"), "it names the image of a later commit");
        assert_eq!(repo.digest(name, "latest"), new.digest(kind));
    }
    // Nor does reusing move it.
    let report = repo.push();
    assert_eq!(report.actions(), actions("reused", "reused"));
    assert_eq!(repo.digest("app", "latest"), new.digest("app"));
    // Forwards again.
    repo.git(&["merge", "-q", "--ff-only", "ORIG_HEAD"]);
    repo.write("templates/page.html", "<p>three</p>\n").commit("three");
    let newest = repo.push();
    assert_eq!(repo.digest("app", "latest"), newest.digest("app"));
}

#[test]
fn a_shallow_clone_moves_it_only_for_the_branchs_newest_commit() {
    let Some(repo) = Repo::new("shallow") else { return };
    repo.write("templates/page.html", "<p>two</p>\n").commit("two");
    let old = repo.clone("old");
    repo.write("templates/page.html", "<p>three</p>\n").commit("three");
    let new = repo.push();
    // A clone of one commit, which has never heard of the newer one.
    let url = format!("file://{}", old.path.display());
    let shallow = repo.clone("shallow copy");
    shallow.git(&["fetch", "-q", "--depth=1", &url, "main"]);
    shallow.git(&["reset", "-q", "--hard", "FETCH_HEAD"]);
    shallow.git(&["reflog", "expire", "--expire=now", "--all"]);
    shallow.git(&["update-ref", "-d", "refs/remotes/origin/main"]);
    shallow.git(&["gc", "-q", "--prune=now"]);
    let report = shallow.push();
    let why = report.text("app", "latest_stays");
    assert!(why.contains("a commit that this clone does not have (`main` of `origin` is at `"), "{why}");
    assert_eq!(repo.digest("app", "latest"), new.digest("app"));
    // Once the branch exists, it follows, whatever the clone knows of what was before.
    shallow.write("templates/page.html", "<p>four</p>\n").commit("four");
    repo.git(&["checkout", "-q", "--detach"]);
    shallow.git(&["push", "-q", "--force", "origin", "HEAD:main"]);
    let report = shallow.push();
    assert_eq!(repo.digest("app", "latest"), report.digest("app"));
}
