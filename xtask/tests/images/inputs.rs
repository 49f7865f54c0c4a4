//! An image carries a commit's names only where it is made of the commit, and holds nothing that its key does not cover.

use crate::fixture::{Repo, actions};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

#[test]
fn a_secret_that_git_ignores_is_refused_and_no_tag_moves() {
    let Some(repo) = Repo::new("secretenv") else { return };
    repo.write(".gitignore", "target\n*.env\n").commit("ignore");
    let first = repo.push();
    repo.write("templates/prod.env", "SECRET=1\n");
    assert_eq!(repo.git(&["status", "--porcelain"]), "", "git calls this clean");
    for args in [&["build", "--push"][..], &["build"], &["build", "--push", "--dry-run"], &["doctor"]] {
        let said = repo.xtask(args).run().ends(2);
        said.says("`templates/prod.env`").says(".gitignore:2 `*.env`").says("`.dockerignore`").says("allow-ignored");
    }
    for tag in first.tags("app") {
        assert_eq!(repo.digest("app", &tag), first.digest("app"), "{tag}");
    }
    // Left out by the ignore file: the image is the commit's again.
    repo.write(".dockerignore", "target\n.git\n**/*.env\n");
    let report = repo.push();
    assert_eq!(report.tags("app"), first.tags("app"));
    assert_eq!(report.digest("app"), first.digest("app"));
    // Allowed by the policy: built, and without the commit's names.
    repo.write(".dockerignore", "target\n.git\n");
    repo.edit("images.toml", "[root]", "allow-ignored = [\"templates/*.env\"]\n\n[root]").commit("allow");
    let report = repo.push();
    assert_eq!(report.tags("app"), [report.fingerprint("app")[..12].to_owned()]);
    assert!(report.text("app", "latest_stays").contains("`templates/prod.env` (ignored by git"), "{report:?}");
    assert_eq!(report.image("app")["differences"][0]["path"], "templates/prod.env");
    assert_eq!(repo.digest("app", "latest"), first.digest("app"));
}

#[test]
fn inputs_that_git_calls_clean_and_that_differ_withhold_the_names() {
    let Some(repo) = Repo::new("cleanforgit") else { return };
    let first = repo.push();
    let differs = |what: &str| {
        assert_eq!(repo.git(&["status", "--porcelain"]), "", "{what}");
        let said = repo.xtask(&["build", "--push", "--format", "json"]).run().ok();
        let report = said.report();
        assert_eq!(report.tags("app"), [report.fingerprint("app")[..12].to_owned()], "{what}");
        assert_eq!(repo.digest("app", "latest"), first.digest("app"), "{what}");
        said.says("is not made of commit").says(what);
    };
    fs::create_dir(repo.path.join("templates/old")).unwrap();
    differs("`templates/old`: an empty folder, which git does not record");
    fs::remove_dir(repo.path.join("templates/old")).unwrap();
    repo.git(&["update-index", "--skip-worktree", "templates/page.html"]);
    repo.write("templates/page.html", "<p>two</p>\n");
    differs("`templates/page.html`: differs from the commit");
    repo.git(&["update-index", "--no-skip-worktree", "templates/page.html"]);
    repo.git(&["checkout", "-q", "templates/page.html"]);
    // The reverse: what no image reads withholds nothing.
    repo.write("notes.txt", "untracked\n").write("README.md", "edited\n");
    let report = repo.push();
    assert_eq!((report.tags("app"), report.digest("app")), (first.tags("app"), first.digest("app")));
    assert!(report.image("app").get("differences").is_none(), "{report:?}");
}

#[test]
fn a_checkout_with_another_umask_gives_the_same_image() {
    let Some(repo) = Repo::new("umask") else { return };
    repo.write("templates/deep/tool", "#!/bin/sh\n");
    fs::set_permissions(repo.path.join("templates/deep/tool"), Permissions::from_mode(0o755)).unwrap();
    repo.commit("tool");
    let strict = repo.clone("strict");
    let modes = |repo: &Repo, folder: u32, file: u32, tool: u32| {
        for (path, mode) in [
            ("templates", folder),
            ("templates/deep", folder),
            ("dockerfiles/check.txt", file),
            ("templates/page.html", file),
            ("templates/deep/tool", tool),
        ] {
            fs::set_permissions(repo.path.join(path), Permissions::from_mode(mode)).unwrap();
        }
    };
    // As umask 077 makes them, with bits that git knows nothing of.
    modes(&strict, 0o700, 0o600, 0o4700);
    let report = strict.push();
    assert_eq!(report.actions(), actions("built", "built"));
    let reference = report.text("app", "reference");
    let found =
        listed(&repo, &reference, &["/app/templates/deep", "/app/templates/page.html", "/app/templates/deep/tool"]);
    for (line, mode) in found.iter().zip(["drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"]) {
        assert!(line.starts_with(&format!("{mode} 0:0 ")), "{line}");
    }
    assert_eq!(repo.run(&reference, &[]), "<p>one</p>", "the image's user can read it");
    assert!(
        report.tags("app").contains(&"latest".to_owned()),
        "modes that git does not record do not count as a difference"
    );
    // Group-writable files of another day are the same image, and contents of the same length are not.
    modes(&repo, 0o775, 0o664, 0o775);
    assert_eq!(repo.push().actions(), actions("reused", "reused"));
    strict.write("templates/page.html", "<p>two</p>\n");
    let edited = strict.push();
    assert_eq!(repo.run(&edited.text("app", "reference"), &[]), "<p>two</p>");
}

#[test]
fn times_and_owners_of_a_checkout_reach_no_image() {
    let Some(repo) = Repo::new("times") else { return };
    let day = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let page = repo.path.join("templates/page.html");
    // Contents that no engine has a layer of.
    repo.write("templates/page.html", &repo.registry).commit("own contents");
    fs::File::options().write(true).open(&page).unwrap().set_modified(day).unwrap();
    std::os::unix::fs::chown(&page, Some(1234), Some(1234)).unwrap();
    let reference = repo.push().text("app", "reference");
    let found = listed(&repo, &reference, &["/app/templates/page.html"]);
    assert!(found[0].starts_with("-rw-r--r-- 0:0 2026-01-01 00:00:00 "), "{found:?}");
}

/// Mode, owner, time and name of files in an image.
fn listed(repo: &Repo, reference: &str, paths: &[&str]) -> Vec<String> {
    let front = ["run", "--rm", "--network=host", "--env=TZ=UTC", "--entrypoint=ls", reference, "-lnd", "--full-time"];
    let said = repo.engine.docker(&[&front[..], paths].concat());
    let mut found: Vec<String> = Vec::new();
    for path in paths {
        let line = said.lines().find(|line| line.ends_with(&format!(" {path}"))).unwrap_or_else(|| panic!("{said}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        let [mode, _, uid, gid, _, day, time, ..] = words[..] else { panic!("{line}") };
        found.push(format!("{mode} {uid}:{gid} {day} {time} {path}"));
    }
    found
}

#[test]
fn the_whole_repository_as_context_contains_no_state_of_xtask() {
    let Some(repo) = Repo::new("whole") else { return };
    fs::remove_file(repo.path.join(".dockerignore")).unwrap();
    repo.write(".gitignore", "");
    repo.write(
        "dockerfiles/Dockerfile.fast",
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY . /app/\nCMD [\"ls\", \"-A\", \"/app\"]\n",
    );
    // The engine's link in `target` is the test's own, and is to be ignored like all of it.
    repo.write("target/.gitignore", "*\n").commit("whole");
    let said = repo.xtask(&["build", "--push"]).run().ends(2);
    said.says("`.git` would be copied into the image").says("add a line `.git` to `.dockerignore`");
    repo.write(".dockerignore", ".git\n").commit("leave git out");
    repo.write("target/big", "x");
    let first = repo.push();
    assert!(first.tags("app").contains(&"latest".to_owned()), "{first:?}");
    let listed = repo.run(&first.text("app", "reference"), &[]);
    assert!(listed.contains("images.toml") && !listed.contains("target"), "{listed}");
    let second = repo.push();
    assert_eq!(second.actions(), actions("reused", "reused"));
    let copy = repo.clone("copy");
    assert_eq!(copy.push().digest("app"), first.digest("app"), "a second checkout is the same image");
}

#[test]
fn target_ignores_itself() {
    let Some(repo) = Repo::new("itself") else { return };
    repo.write(".gitignore", "").commit("no rule");
    repo.xtask(&["build", "--push"]).run().ok();
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
}

/// A program that leaves a trace when anything runs it.
fn trap(folder: &Path) -> (String, std::path::PathBuf) {
    let (program, trace) = (folder.join("trap"), folder.join("was-run"));
    fs::write(&program, format!("#!/bin/sh\necho \"$0 $*\" >> '{}'\nexit 1\n", trace.display())).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    (program.display().to_string(), trace)
}

#[test]
fn no_program_that_the_repositorys_configuration_names_is_run() {
    let Some(repo) = Repo::new("hostile") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (program, trace) = trap(folder.path());
    repo.write(".gitattributes", "*.html filter=evil diff=evil\n").commit("attributes");
    for key in [
        "core.fsmonitor",
        "core.pager",
        "core.editor",
        "core.sshCommand",
        "core.gitProxy",
        "core.askPass",
        "core.alternateRefsCommand",
        "credential.helper",
        "diff.external",
        "diff.evil.textconv",
        "diff.evil.command",
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "gpg.program",
        "pager.log",
        "pager.status",
        "sequence.editor",
        "gc.recentObjectsHook",
        "uploadpack.packObjectsHook",
    ] {
        repo.git(&["config", key, &program]);
    }
    repo.git(&["config", "log.showSignature", "true"]);
    let hooks = folder.path().join("hooks");
    fs::create_dir(&hooks).unwrap();
    for hook in ["post-index-change", "reference-transaction", "post-checkout", "pre-auto-gc", "fsmonitor-watchman"] {
        fs::copy(&program, hooks.join(hook)).unwrap();
    }
    repo.git(&["config", "core.hooksPath", hooks.to_str().unwrap()]);
    // An edit, so that whoever asks for the state of the tree has to look.
    repo.write("templates/page.html", "<p>two</p>\n");
    let _ = fs::remove_file(&trace);
    let calls: [&[&str]; 9] = [
        &["build", "--push"],
        &["build"],
        &["build", "--push", "--dry-run"],
        &["doctor"],
        &["plan"],
        &["explain"],
        &["stats"],
        &["workflows", "--check"],
        &["base", "list"],
    ];
    for args in calls {
        let said = repo.xtask(args).run();
        let ran = fs::read_to_string(&trace).unwrap_or_default();
        assert_eq!(ran, "", "`{}` ran it: {said:?}", args.join(" "));
    }
}

#[test]
fn a_lazy_fetch_runs_no_program_of_the_repository() {
    let Some(repo) = Repo::new("lazy") else { return };
    repo.git(&["config", "uploadpack.allowFilter", "true"]);
    // Git's ids say which files differ; what an earlier Dockerfile means takes its contents, which a partial clone lacks.
    let fast = fs::read_to_string(repo.path.join("dockerfiles/Dockerfile.fast")).unwrap();
    repo.write("dockerfiles/Dockerfile.fast", &format!("# Two.\n{fast}"));
    repo.write("templates/page.html", "<p>two</p>\n").commit("two");
    let folder = tempfile::tempdir().unwrap();
    let (program, trace) = trap(folder.path());
    let url = format!("file://{}", repo.path.display());
    let partial = repo.clone("partial");
    fs::remove_dir_all(&partial.path).unwrap();
    repo.git(&["clone", "-q", "--filter=blob:none", &url, partial.path.to_str().unwrap()]);
    partial.git(&["config", "remote.origin.uploadpack", &program]);
    let said = partial.xtask(&["plan", "--base", "HEAD~1"]).run();
    assert!(!trace.exists(), "{said:?}");
    assert!(format!("{said:?}").contains("nothing is fetched"), "{said:?}");
    partial.git(&["config", "--unset", "remote.origin.uploadpack"]);
    let said = partial.xtask(&["plan", "--base", "HEAD~1"]).run().ok();
    assert!(said.stdout.contains("templates/page.html was edited"), "{said:?}");
}

#[test]
fn a_failing_git_is_an_error_in_its_own_words() {
    let Some(repo) = Repo::new("gitfails") else { return };
    repo.push();
    let object = repo.git(&["rev-parse", "HEAD"]);
    let object = repo.path.join(".git/objects").join(&object[..2]).join(&object[2..]);
    let whole = fs::read(&object).unwrap();
    fs::set_permissions(&object, Permissions::from_mode(0o644)).unwrap();
    for (broken, words, helps) in [(&b"broken"[..], "corrupt", "git fsck"), (b"", "is empty", "git fsck")] {
        fs::write(&object, broken).unwrap();
        repo.xtask(&["build", "--push"]).run().ends(2).says(words).says(helps);
        // A plan that cannot compare builds, and says why.
        let plan = repo.xtask(&["plan"]).run().ok();
        assert!(plan.stdout.contains(words) && plan.stdout.contains(helps), "{plan:?}");
    }
    fs::write(&object, whole).unwrap();
    let config = repo.read(".git/config");
    repo.write(".git/config", "[core\n");
    repo.xtask(&["build", "--push"]).run().ends(2).says("bad config line 1").says("correct `");
    repo.write(".git/config", &config);
    let head = repo.read(".git/HEAD");
    repo.write(".git/HEAD", "garbage\n");
    repo.xtask(&["build", "--push"]).run().ends(2).says("not a git repository").says("repair it");
    repo.write(".git/HEAD", &head);
    let main = repo.read(".git/refs/heads/main");
    repo.write(".git/refs/heads/main", "garbage\n");
    repo.xtask(&["build", "--push"]).run().ends(2).says("names no commit");
    repo.write(".git/refs/heads/main", &main);
    repo.push();
    // Another owner, as in a container that a folder is mounted into.
    std::os::unix::fs::chown(&repo.path, Some(1234), Some(1234)).unwrap();
    std::os::unix::fs::chown(repo.path.join(".git"), Some(1234), Some(1234)).unwrap();
    for args in [&["build", "--push"][..], &["build"], &["doctor"]] {
        let said = repo.xtask(args).run().ends(2);
        said.says("dubious ownership").says("git config --global --add safe.directory").keeps("commit it");
    }
    let plan = repo.xtask(&["plan"]).run().ok();
    assert!(plan.stdout.contains("dubious ownership") && plan.stdout.contains("safe.directory"), "{plan:?}");
}
