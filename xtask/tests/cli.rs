//! The command line over the real program: stdout, stderr and exit codes, in repositories of its own.
//!
//! `UPDATE_EXPECT=1 cargo test -p xtask --test cli` updates the snapshots after a change of flags.

#![allow(clippy::disallowed_methods, reason = "the program under test, run as a person's shell would")]

use clap::CommandFactory as _;
use expect_test::{Expect, expect, expect_file};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// xtask in a folder, with nothing of this machine's environment that it would listen to.
fn xtask(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(args).current_dir(folder).stdin(Stdio::null());
    let heard = ["XTASK_", "DOCKER_", "GITHUB_", "CI_", "COLUMNS", "CLICOLOR", "RUST_BACKTRACE", "GIT_"];
    for (name, _) in std::env::vars_os() {
        if heard.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

fn text(bytes: &[u8]) -> String {
    let lines: Vec<String> = String::from_utf8_lossy(bytes).lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Output of a command as one text.
fn shown(output: &Output) -> String {
    let code = output.status.code().map_or_else(|| "a signal".to_owned(), |code| code.to_string());
    let mut text_of = format!("exit: {code}\n");
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !bytes.is_empty() {
            text_of += &format!("--- {name}\n{}\n", text(bytes));
        }
    }
    text_of
}

#[track_caller]
fn check(folder: &Path, args: &[&str], expected: Expect) {
    let output = xtask(folder, args).output().unwrap();
    let folder = folder.canonicalize().unwrap();
    expected.assert_eq(&shown(&output).replace(&*folder.to_string_lossy(), "[here]"));
}

/// A repository with this one's policy in a path with blanks, umlauts and quotes.
fn repository() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a repository 'of' Jörg");
    fs::create_dir_all(root.join("dockerfiles")).unwrap();
    let copied =
        ["images.toml", "requirements-enhanced.txt", "requirements-enhanced.lock", "dockerfiles/installer.lock"];
    let dockerfiles = ["base", "fast", "enhanced"].map(|name| format!("dockerfiles/Dockerfile.{name}"));
    for file in copied.into_iter().chain(dockerfiles.iter().map(String::as_str)) {
        fs::copy(Path::new(ROOT).join(file), root.join(file)).unwrap();
    }
    (folder, root)
}

#[track_caller]
fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "`{from}` is not in `{}`", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Every command with the words that lead to it.
fn commands(command: &clap::Command, words: &[String], all: &mut Vec<Vec<String>>) {
    all.push(words.to_vec());
    for sub in command.get_subcommands() {
        commands(sub, &[words, &[sub.get_name().to_owned()]].concat(), all);
    }
}

#[test]
fn every_command_has_its_help() {
    let mut all = Vec::new();
    commands(&xtask::flags::Flags::command(), &[], &mut all);
    assert!(all.len() > 15, "{} commands", all.len());
    let folder = tempfile::tempdir().unwrap();
    for words in all {
        let args: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let output = xtask(folder.path(), &args).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", shown(&output));
        let name = if words.is_empty() { "xtask".to_owned() } else { words.join("-") };
        let file = format!("{}/tests/help/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        expect_file![file].assert_eq(&format!("{}\n", text(&output.stdout)));
    }
}

#[test]
fn no_command_is_a_question_for_help() {
    let output = xtask(Path::new(ROOT), &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("Start here:"), "{}", shown(&output));
}

#[test]
fn misspelt_words_are_answered_with_the_nearest() {
    let here = tempfile::tempdir().unwrap();
    check(
        here.path(),
        &["biuld"],
        expect![[r#"
        exit: 2
        --- stderr
        error: unrecognized subcommand 'biuld'

          tip: some similar subcommands exist: 'build-enhanced', 'bundle', 'build-base', 'build-fast', 'build'

        Usage: cargo xtask [OPTIONS] <COMMAND>

        For more information, try '--help'.
    "#]],
    );
    check(
        here.path(),
        &["build", "--pus"],
        expect![[r#"
        exit: 2
        --- stderr
        error: unexpected argument '--pus' found

          tip: a similar argument exists: '--push'

        Usage: cargo xtask build --push

        For more information, try '--help'.
    "#]],
    );
    check(
        here.path(),
        &["engine", "upp"],
        expect![[r#"
        exit: 2
        --- stderr
        error: unrecognized subcommand 'upp'

          tip: a similar subcommand exists: 'up'

        Usage: cargo xtask engine [OPTIONS] <COMMAND>

        For more information, try '--help'.
    "#]],
    );
    check(
        here.path(),
        &["man", "biuld"],
        expect![[r#"
        exit: 2
        --- stderr
        error: there is no command `biuld`

        hint: did you mean `build`?
    "#]],
    );
}

#[test]
fn flags_that_do_not_fit_are_refused() {
    let here = tempfile::tempdir().unwrap();
    check(
        here.path(),
        &["-q", "-v", "doctor"],
        expect![[r#"
        exit: 2
        --- stderr
        error: the argument '--quiet' cannot be used with '--verbose'

        Usage: cargo xtask --quiet <COMMAND>

        For more information, try '--help'.
    "#]],
    );
    check(
        here.path(),
        &["lock", "--check", "--upgrade"],
        expect![[r#"
        exit: 2
        --- stderr
        error: the argument '--check' cannot be used with '--upgrade'

        Usage: cargo xtask lock --check

        For more information, try '--help'.
    "#]],
    );
    check(
        here.path(),
        &["build", "--platform", "amd64"],
        expect![[r#"
        exit: 2
        --- stderr
        error: invalid value 'amd64' for '--platform <OS/ARCH>': `amd64` is not a platform like `linux/amd64` or `linux/arm64`

        For more information, try '--help'.
    "#]],
    );
    check(
        here.path(),
        &["build", "--registry", "https://a"],
        expect![[r#"
            exit: 2
            --- stderr
            error: invalid value 'https://a' for '--registry <HOST[/PREFIX]>': `https:` is not a registry host

            For more information, try '--help'.
        "#]],
    );
    check(
        here.path(),
        &["bench", "--runs", "0"],
        expect![[r#"
        exit: 2
        --- stderr
        error: invalid value '0' for '--runs <RUNS>': 0 is not in 1..100

        For more information, try '--help'.
    "#]],
    );
}

#[test]
fn a_folder_without_a_policy_is_refused() {
    let here = tempfile::tempdir().unwrap();
    check(
        here.path(),
        &["doctor"],
        expect![[r#"
        exit: 2
        --- stderr
        error: neither this folder nor a parent folder has an `images.toml`

        hint: go to the repository, or name it: `--root DIR`
    "#]],
    );
    check(
        here.path(),
        &["--root", ".", "build"],
        expect![[r#"
        exit: 2
        --- stderr
        error: `.` has no `images.toml`

        hint: name the folder that contains it: `--root DIR`
    "#]],
    );
    check(
        here.path(),
        &["build", "--root", "no/such"],
        expect![[r#"
        exit: 2
        --- stderr
        error: cannot open the repository `no/such`
          cause: No such file or directory (os error 2)

        hint: name an existing folder: `--root DIR`
    "#]],
    );
}

#[test]
fn requests_that_cannot_be_served_are_refused_first_and_with_a_hint() {
    let (_folder, root) = repository();
    let init = Command::new("git").arg("-C").arg(&root).args(["init", "-q"]).status().unwrap();
    assert!(init.success());
    let online = "run this again without `--offline`";
    let name = "name an image like `ghcr.io/acme/app:latest`";
    let docker = "use the docker engine: `--engine docker`";
    let cases: [(&[&str], &str, &str); 18] = [
        (&["build", "--push", "--offline"], "`--push` cannot be used with `--offline`", online),
        (&["prune", "--offline"], "`prune` cannot be used with `--offline`", online),
        (&["base", "list", "--offline"], "`base` cannot be used with `--offline`", online),
        (&["rebase", "--offline"], "`rebase` cannot be used with `--offline`", online),
        (&["reproduce", "--offline"], "`reproduce` cannot be used with `--offline`", online),
        (&["bundle", "have", "--offline"], "`bundle` cannot be used with `--offline`", online),
        (&["stats", "--from-registry", "--offline"], "`--from-registry` cannot be used with `--offline`", online),
        (&["build", "--builder", "x", "--engine", "native"], "the native engine cannot build this", docker),
        (&["build", "--builder", "x", "--engine", "native", "--push"], "the native engine cannot build this", docker),
        (&["build", "--push", "--output", "docker"], "`--push` cannot be used with `--output docker`", "`docker pull`"),
        (&["build", "--format", "github"], "`--format github` is for `plan`", "`cargo xtask plan --format github`"),
        (
            &["explain", "--commit", "a", "--commit", "b", "--commit", "c"],
            "`--commit` is given 3 times",
            "`cargo xtask explain --commit OLD --commit NEW`",
        ),
        (&["bundle", "load", "nosuch.tar"], "cannot read the bundle `nosuch.tar`", "`cargo xtask bundle create`"),
        (&["prune", "--in-use", "nosuch"], "cannot read `nosuch`", "`--in-use FILE`"),
        (&["sbom", "A B"], "`A B` is not the name of an image", "valid names are"),
        (&["verify", "A B"], "`A B` is not the name of an image", name),
        (&["rebase", "A B"], "`A B` is not the name of an image", name),
        (&["bundle", "create", "-o", "x.tar", "A B"], "`A B` is not the name of an image", name),
    ];
    for (args, what, hint) in cases {
        let output = xtask(&root, args).output().unwrap();
        let said = shown(&output);
        assert!(said.starts_with(&format!("exit: 2\n--- stderr\nerror: {what}\n")), "{args:?}: {said}");
        let hints: Vec<&str> = said.lines().filter(|line| line.starts_with("hint: ")).collect();
        assert!(matches!(hints.as_slice(), [one] if one.contains(hint)), "{args:?}: {said}");
    }
    let said = shown(&xtask(&root, &["run", "ghcr.io/acme/nosuch:1", "--offline"]).output().unwrap());
    assert!(!said.contains("running"), "{said}");
}

#[test]
fn all_errors_of_an_invalid_policy_are_reported_together() {
    let (_folder, root) = repository();
    edit(&root.join("images.toml"), "suite = \"trixie\"", "siute = \"trixie\"");
    edit(&root.join("images.toml"), "user = 10001", "user = -1");
    check(
        &root,
        &["tidy"],
        expect![[r#"
            exit: 2
            --- stderr
            error: `images.toml` is invalid: 2 problems
            images.toml:21:1: unknown key `siute` in `[root.debian]`
              hint: did you mean `suite`?
            images.toml:51:8: `smoke.user` is not a whole number from 0 to 4294967294

            hint: edit `images.toml`; `docs/reference.md` lists every key
        "#]],
    );
    fs::write(root.join("images.toml"), "[project\n").unwrap();
    check(
        &root,
        &["build", "--dry-run"],
        expect![[r#"
        exit: 2
        --- stderr
        error: `images.toml` is invalid
        images.toml:1:9: unclosed table, expected `]`

        hint: edit `images.toml`; `docs/reference.md` lists every key
    "#]],
    );
}

#[test]
fn a_repository_may_be_in_any_path() {
    let (folder, root) = repository();
    check(
        &root,
        &["lock", "--check"],
        expect![[r#"
        exit: 0
        --- stderr
             checked 9 packages match `requirements-enhanced.txt`
    "#]],
    );
    check(
        &root.join("dockerfiles"),
        &["--quiet", "lock", "--check"],
        expect![[r#"
        exit: 0
    "#]],
    );
    check(
        folder.path(),
        &["lock", "--check", "--quiet", "--root", "a repository 'of' Jörg"],
        expect![[r#"
        exit: 0
    "#]],
    );
}

#[test]
fn clean_lists_what_no_build_needs_and_deletes_it_when_asked() {
    let (_folder, root) = repository();
    let write = |path: &str, days: u64| {
        let path = root.join("target").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "twelve bytes").unwrap();
        let made = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 24 * 60 * 60);
        fs::File::open(&path).unwrap().set_modified(made).unwrap();
        let folder = fs::File::open(path.parent().unwrap()).unwrap();
        folder.set_modified(made).unwrap();
    };
    for number in 1..=6 {
        write(&format!("images/app-{number}-linux-amd64/index.json"), number);
    }
    write("images/base-1-linux-amd64/index.json", 100);
    write("images/app-7-linux-amd64.partial/index.json", 0);
    write("release/incremental/tool-0old/s/x", 0);
    fs::File::open(root.join("target/release/incremental/tool-0old"))
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    write("release/incremental/tool-1new/x", 1);
    for (name, days) in [("0old", 8), ("1new", 6)] {
        write(&format!("native/images/{name}/app/page"), days);
        write(&format!("native/images/{name}.lock"), days);
    }
    check(
        &root,
        &["clean"],
        expect![[r#"
            exit: 0
            --- stdout
                  12 B  target/images/app-6-linux-amd64: not one of the 5 newest images of this kind
                  12 B  target/native/images/0old: unpacked for a container, unused for 7 days
                  12 B  target/images/app-7-linux-amd64.partial: left by a build that did not finish
                  12 B  target/release/incremental/tool-0old: incremental compilation, unused for 7 days
            --- stderr
                 nothing was deleted; to delete 48 B, add `--yes`
        "#]],
    );
    assert!(root.join("target/images/app-6-linux-amd64").exists());
    let done = xtask(&root, &["clean", "--yes"]).output().unwrap();
    assert!(done.status.success(), "{}", shown(&done));
    let exists = |path: &str| root.join("target").join(path).exists();
    assert!(!exists("images/app-6-linux-amd64") && !exists("images/app-7-linux-amd64.partial"));
    assert!(!exists("release/incremental/tool-0old") && exists("release/incremental/tool-1new"));
    assert!(exists("images/app-5-linux-amd64") && exists("images/base-1-linux-amd64"));
    assert!(!exists("native/images/0old") && !exists("native/images/0old.lock") && exists("native/images/1new/app"));
    check(
        &root,
        &["clean"],
        expect![[r#"
            exit: 0
            --- stderr
                 nothing to delete under `target`
        "#]],
    );
}

#[test]
fn the_first_compilation_says_so_without_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let source = format!("{ROOT}/xtask/scan/build.rs");
    let compiled = Command::new(rustc).args(["--edition=2024", "-o"]).arg(&script).arg(source).status().unwrap();
    assert!(compiled.success());
    // The shell is in cargo's place: it keeps what the script prints. A session of its own has no terminal.
    let call = ["-w", "sh", "-c", "said=$(\"$0\" 2>&1); test -n \"$said\""];
    let output = Command::new("setsid").args(call).arg(&script).stdin(Stdio::null()).output().unwrap();
    assert_eq!(shown(&output), "exit: 0\n--- stderr\n   compiling xtask; the first time takes about a minute\n");
}

#[test]
fn clean_deletes_compiled_units_that_no_build_uses() {
    let (_folder, root) = repository();
    let target = root.join("target/debug");
    let write = |path: &str, days: u64| {
        let path = target.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "twelve bytes").unwrap();
        let made = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 24 * 60 * 60);
        let times = fs::FileTimes::new().set_modified(made).set_accessed(made);
        fs::File::open(&path).unwrap().set_times(times).unwrap();
    };
    write(".cargo-lock", 0);
    for (hash, days) in [("0000000000000000", 8), ("1111111111111111", 8), ("2222222222222222", 6)] {
        write(&format!(".fingerprint/itoa-{hash}/lib-itoa"), days);
        write(&format!("deps/libitoa-{hash}.rlib"), days);
        write(&format!("build/itoa-{hash}/output"), days);
    }
    // Cargo works: nothing is deleted.
    let lock = fs::File::options().write(true).open(target.join(".cargo-lock")).unwrap();
    lock.lock().unwrap();
    check(
        &root,
        &["clean", "--yes"],
        expect![[r#"
            exit: 0
            --- stderr
                left out compiled units of `target/debug`: cargo works there
                 nothing to delete under `target`
        "#]],
    );
    drop(lock);
    check(
        &root,
        &["clean", "--yes"],
        expect![[r#"
            exit: 0
            --- stdout
                  72 B  target/debug: 2 compiled units, unused for 7 days
            --- stderr
                 deleted 72 B
        "#]],
    );
    for folder in [".fingerprint", "deps", "build"] {
        let left = fs::read_dir(target.join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<String> = left.map(|name| name.into_string().unwrap()).collect();
        assert!(left.len() == 1 && left[0].contains("2222222222222222"), "{folder}: {left:?}");
    }
}

#[test]
fn drift_has_its_own_exit_code() {
    let (_folder, root) = repository();
    edit(&root.join("requirements-enhanced.txt"), "numpy>=2.2,<3", "numpy>=99");
    check(
        &root,
        &["lock", "--check"],
        expect![[r#"
        exit: 6
        --- stderr
        error: the lock is out of date with `requirements-enhanced.txt`
          cause: numpy 2.5.5 is locked, but `numpy>=99` is required

        hint: update it: `cargo xtask lock`
    "#]],
    );
}

#[test]
fn a_reader_that_closes_the_pipe_is_not_an_error() {
    for args in [&["completions", "bash"][..], &["man"], &["--help"], &["build", "--help"]] {
        let mut child = xtask(Path::new(ROOT), args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {}", shown(&output));
    }
}

/// Documents carry a version, and every field has a meaning in the reference.
#[test]
fn documents_have_a_version_and_only_listed_fields() {
    use xtask::documents::{self, Document};
    let (_folder, root) = repository();
    let policy = "[project]\nname = \"a\"\nregistry = \"ghcr.io/a\"\n[root]\nimage = \"a:1\"\npython = \"3.12\"\n";
    fs::write(root.join("images.toml"), policy).unwrap();
    fs::write(root.join("dockerfiles/Dockerfile.base"), "ARG ROOT_IMAGE\nFROM ${ROOT_IMAGE}\n").unwrap();
    fs::write(root.join("dockerfiles/Dockerfile.fast"), "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n").unwrap();
    let git = |args: &[&str]| {
        let who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
        assert!(Command::new("git").arg("-C").arg(&root).args(who).args(args).status().unwrap().success());
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "one"]);
    edit(&root.join("dockerfiles/Dockerfile.base"), "FROM ", "ARG MORE=1\nFROM ");
    let cases: [(&[&str], &Document); 4] = [
        (&["plan", "--offline", "--base", "HEAD"], &documents::PLAN),
        (&["explain", "--offline"], &documents::EXPLAIN),
        (&["doctor", "--offline"], &documents::DOCTOR),
        (&["stats"], &documents::STATS),
    ];
    for (args, document) in cases {
        let output = xtask(&root, &[args, &["--format", "json"]].concat()).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{args:?}: {error}\n{}", shown(&output)));
        assert_eq!(document.unlisted(&json), [""; 0], "{json:#}");
        assert_eq!(json["version"], document.version, "{json:#}");
    }
}

#[test]
fn completions_and_pages_know_every_command() {
    let names: Vec<String> =
        xtask::flags::Flags::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for args in [["completions", "bash"], ["completions", "zsh"], ["completions", "fish"], ["man", ""]] {
        let args: Vec<&str> = args.into_iter().filter(|arg| !arg.is_empty()).collect();
        let output = xtask(Path::new(ROOT), &args).output().unwrap();
        assert!(output.status.success(), "{}", shown(&output));
        let script = text(&output.stdout).replace("\\-", "-");
        let missing: Vec<&String> = names.iter().filter(|name| !script.contains(name.as_str())).collect();
        assert!(missing.is_empty(), "{args:?} lacks {missing:?}");
    }
    let page = text(&xtask(Path::new(ROOT), &["man", "engine", "up"]).output().unwrap().stdout);
    assert!(page.contains(r"\-\-registry\-port"), "{page}");
}

/// A repository with a policy in `folder`, a foreign workflow at the top, and everything committed.
fn with_workflow(folder: &str, name: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let own = place.path().join(folder);
    std::fs::create_dir_all(own.join("dockerfiles")).unwrap();
    for file in
        ["images.toml", "requirements-enhanced.txt", "dockerfiles/Dockerfile.base", "dockerfiles/Dockerfile.fast"]
    {
        std::fs::copy(source.join(file), own.join(file)).unwrap();
    }
    std::fs::copy(source.join("dockerfiles/Dockerfile.enhanced"), own.join("dockerfiles/Dockerfile.enhanced")).unwrap();
    std::fs::write(own.join("Cargo.lock"), "").unwrap();
    let workflows = place.path().join(".github/workflows");
    std::fs::create_dir_all(&workflows).unwrap();
    std::fs::write(workflows.join(name), "name: mine\non: push\n").unwrap();
    let status = Command::new("git").arg("-C").arg(place.path()).args(["init", "-q"]).status().unwrap();
    assert!(status.success());
    place
}

fn workflows(root: &std::path::Path, args: &[&str]) -> (Option<i32>, String) {
    let mut call = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = call.arg("--root").arg(root).arg("workflows").args(args).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_workflow_that_someone_else_wrote_is_not_replaced() {
    let place = with_workflow("", "release.yml");
    let folder = place.path().join(".github/workflows");
    let (code, said) = workflows(place.path(), &[]);
    assert_eq!(code, Some(2), "{said}");
    for part in ["`.github/workflows/release.yml` was not written by", "-name: mine", "+name: release", "`mv "] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(std::fs::read_to_string(folder.join("release.yml")).unwrap(), "name: mine\non: push\n");
    assert!(!folder.join("ci.yml").exists(), "not one of them is written");
    assert_eq!(workflows(place.path(), &["--check"]).0, Some(6));
    std::fs::rename(folder.join("release.yml"), folder.join("other.yml")).unwrap();
    assert_eq!(workflows(place.path(), &[]).0, Some(0));
    // What was written by us is replaced, edits included.
    let written = std::fs::read_to_string(folder.join("ci.yml")).unwrap();
    std::fs::write(folder.join("ci.yml"), written.replace("cargo xtask ci", "true")).unwrap();
    assert_eq!(workflows(place.path(), &["--check"]).0, Some(6));
    assert_eq!(workflows(place.path(), &[]).0, Some(0));
    assert_eq!(std::fs::read_to_string(folder.join("ci.yml")).unwrap(), written);
}

#[test]
fn workflows_of_a_policy_below_the_top_go_where_github_reads_them() {
    let place = with_workflow("services/app", "ci.yml");
    let (code, said) = workflows(&place.path().join("services/app"), &[]);
    assert_eq!(code, Some(0), "{said}");
    let folder = place.path().join(".github/workflows");
    let text = std::fs::read_to_string(folder.join("services-app-ci.yml")).unwrap();
    assert!(text.contains("working-directory: services/app") && text.contains("'services/app/Cargo.lock'"), "{text}");
    assert_eq!(std::fs::read_to_string(folder.join("ci.yml")).unwrap(), "name: mine\non: push\n");
    assert!(!place.path().join("services/app/.github").exists());
    assert_eq!(workflows(&place.path().join("services/app"), &["--check"]).0, Some(0));
}

/// The policy says `native`: a stage that its recipe does not implement, and an argument that nothing declares, end no build with less
/// in the image than the Dockerfile says.
#[test]
fn doctor_names_the_engines_of_each_image_and_the_line_that_forbids_one() {
    let (_folder, root) = repository();
    let asked = |args: &[&str]| shown(&xtask(&root, args).output().unwrap());
    edit(&root.join("images.toml"), "[project]\n", "[project]\nengine = \"native\"\n");
    let good = asked(&["doctor", "--offline"]);
    for kind in ["base", "app"] {
        assert!(good.contains(&format!("good engines of the {kind} image: docker, native")), "{good}");
    }
    let dockerfile = root.join("dockerfiles/Dockerfile.base");
    edit(
        &dockerfile,
        "COPY requirements-enhanced.lock ./\n",
        "RUN uv pip install gunicorn\nCOPY requirements-enhanced.lock ./\n",
    );
    let text = fs::read_to_string(&dockerfile).unwrap();
    let line = text.lines().position(|line| line.contains("gunicorn")).unwrap() + 1;
    let bad = asked(&["doctor", "--offline"]);
    let said = format!(
        "bad engines of the base image: dockerfiles/Dockerfile.base:{line}: the recipe `python-packages` does not implement this `RUN`"
    );
    assert!(bad.contains(&said), "{bad}");
    assert!(bad.starts_with("exit: 2\n"), "{bad}");
}

/// A [`repository`] whose base has all files that its Dockerfile copies.
fn repository_with_base() -> (TempDir, PathBuf) {
    let (folder, root) = repository();
    for name in ["install.py", "compile.py", "check-imports.py"] {
        let path = Path::new("dockerfiles").join(name);
        fs::copy(Path::new(ROOT).join(&path), root.join(&path)).unwrap();
    }
    (folder, root)
}

/// The native engine knows from the files alone what it cannot build: no root is downloaded or made for it.
#[test]
fn what_native_cannot_build_is_refused_before_a_root_is_made() {
    let (_folder, root) = repository_with_base();
    let text = fs::read_to_string(root.join("dockerfiles/Dockerfile.base")).unwrap();
    let added = text.replace("mkdir -p \"${USER_HOME}\" /app", "mkdir -p \"${USER_HOME}\" /app && chmod 1777 /app");
    let run = text.replace("WORKDIR /app\nUSER", "RUN true\nWORKDIR /app\nUSER");
    for (dockerfile, said) in [(&added, "the recipe `user` does not implement this `RUN`"), (&run, "Dockerfile.base:")]
    {
        assert!(dockerfile != &text);
        fs::write(root.join("dockerfiles/Dockerfile.base"), dockerfile).unwrap();
        for args in [&["build-base"][..], &["build-base", "--dry-run"], &["build-base", "--force"]] {
            let args = [args, &["--offline", "--engine", "native"]].concat();
            let output = shown(&xtask(&root, &args).output().unwrap());
            assert!(output.starts_with("exit: 2\n") && output.contains(said), "{args:?}: {output}");
            assert!(output.contains("`--engine docker`"), "{output}");
        }
    }
    assert!(!root.join("target/root").exists(), "a root was begun");
}

/// A step of a Dockerfile cannot read a folder of this machine.
#[test]
fn docker_refuses_a_folder_of_wheels_before_a_root_is_made() {
    let (_folder, root) = repository_with_base();
    let mut call = xtask(&root, &["build-base", "--offline", "--engine", "docker"]);
    let output = shown(&call.env("UV_FIND_LINKS", "/srv/wheels").output().unwrap());
    assert!(output.starts_with("exit: 2\n"), "{output}");
    for part in ["docker cannot read the packages in `/srv/wheels`", "`--engine native`", "`--find-links https://…`"]
    {
        assert!(output.contains(part), "{output}");
    }
    let mut doctor = xtask(&root, &["doctor", "--offline"]);
    let output = shown(&doctor.env("UV_FIND_LINKS", "/srv/wheels").output().unwrap());
    assert!(output.contains("docker cannot read the packages in `/srv/wheels`"), "{output}");
    assert!(!root.join("target/root").exists(), "a root was begun");
}

#[test]
fn a_dry_run_without_a_root_lists_the_root_and_what_is_built_on_it() {
    let (_folder, root) = repository_with_base();
    let output =
        shown(&xtask(&root, &["build-base", "--dry-run", "--offline", "--engine", "native"]).output().unwrap());
    assert!(output.starts_with("exit: 0\n"), "{output}");
    for part in [
        "planned root `debian:trixie` from Debian packages",
        "planned base `ghcr.io/acme/autoscaler-base` for ",
        "because its root is built first",
        "made  COPY --link --from=packages /opt/venv /opt/venv",
    ] {
        assert!(output.contains(part), "{part}: {output}");
    }
    assert!(!output.contains("unknown`") && !root.join("target/root").exists(), "{output}");
}

/// A name that is misspelt would leave the image as it is, by either engine.
#[test]
fn an_argument_of_the_policy_that_nothing_declares_is_refused() {
    for (table, file) in [("base", "dockerfiles/Dockerfile.base"), ("app", "dockerfiles/Dockerfile.fast")] {
        let (_folder, root) = repository();
        let policy = "[project]\nname = \"a\"\nregistry = \"ghcr.io/a\"\n[root]\nimage = \"a:1\"\npython = \"3.12\"\n";
        fs::write(root.join("images.toml"), format!("{policy}[{table}]\nargs = {{ USR_ID = \"7\" }}\n")).unwrap();
        for (name, image) in [("base", "ROOT_IMAGE"), ("fast", "BASE_IMAGE")] {
            let text = format!("ARG {image}\nFROM ${{{image}}}\n");
            fs::write(root.join(format!("dockerfiles/Dockerfile.{name}")), text).unwrap();
        }
        let output = shown(&xtask(&root, &["plan", "--offline"]).output().unwrap());
        let said = format!("`USR_ID` in `[{table}] args` has no effect: `{file}` has no `ARG USR_ID`");
        assert!(output.contains(&said) && output.starts_with("exit: 2\n"), "{output}");
    }
}
