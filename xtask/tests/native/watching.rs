//! `watch`: what is saved runs, an error ends nothing, and Ctrl-C leaves no process.

use crate::fixture::{Call, Repo, until};
use crate::world::World;
use rustix::process::Signal;
use std::fs;
use std::time::Instant;
use xtask_model::spec::reference::Reference;

/// Makes the app print its page and run on; returns the argument by which its process is known.
fn runs_on(repo: &Repo, name: u32) -> String {
    let seconds = format!("{}{name}", 100_000 + std::process::id());
    let script = format!("[\"sh\", \"-c\", \"cat /app/templates/page.html >&2; exec sleep {seconds}\"]");
    repo.edit("dockerfiles/Dockerfile.fast", "[\"cat\", \"/app/templates/page.html\"]", &script).commit("runs on");
    seconds
}

/// The number of processes with this argument.
fn running(argument: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines
        .filter(|line| line.starts_with(b"sleep\0") && line.split(|b| *b == 0).any(|word| word == argument.as_bytes()))
        .count()
}

#[track_caller]
fn ends(argument: &str) {
    until(|| running(argument) == 0, || format!("`sleep {argument}` still runs"));
}

/// Saves, breaks and repairs files while `watch` runs the app.
#[track_caller]
fn follows(repo: &Repo, call: &Call, number: &str) {
    let mut watch = call.start();
    watch.wait_for("<p>one</p>").wait_for("watching runs `");
    until(|| running(number) == 1, || "the app does not run".to_owned());
    // No input of an image: no round.
    repo.write("README.md", "changed\n");
    let saved = Instant::now();
    repo.write("templates/page.html", "<p>two</p>\n");
    watch.wait_for("<p>two</p>").wait_for("changed `templates/page.html`");
    println!("from a save to its page: {:.2} s", saved.elapsed().as_secs_f64());
    until(|| running(number) == 1, || "not exactly one app runs".to_owned());
    repo.edit("dockerfiles/Dockerfile.fast", "COPY --link", "COPPY --link");
    watch.wait_for("dockerfiles/Dockerfile.fast:").wait_for("failed in").wait_for("what ran before still runs");
    assert_eq!(running(number), 1);
    // Repaired together with another save: one round for both.
    repo.write("templates/page.html", "<p>three</p>\n");
    repo.edit("dockerfiles/Dockerfile.fast", "COPPY --link", "COPY --link");
    watch.wait_for("<p>three</p>");
    // A comment is not an instruction.
    repo.edit("dockerfiles/Dockerfile.fast", "ARG BASE_IMAGE", "# A comment.\nARG BASE_IMAGE");
    watch.wait_for("no image changed: what runs was not restarted");
    watch.signal(Signal::INT);
    watch.end().ok().says("stopped after").keeps("README.md");
    ends(number);
}

#[test]
fn an_app_without_an_engine_follows_what_is_saved() {
    let Some(world) = World::new("watchbare") else { return };
    let number = runs_on(&world.repo, 1);
    follows(&world.repo, &world.repo.xtask(&["watch"]).without_engine(), &number);
    // Three pages, of which each differs in one layer.
    let folders = fs::read_dir(world.repo.path.join("target/native/images")).unwrap().flatten();
    let pages = folders.map(|entry| entry.path().join("app/templates/page.html")).filter(|path| path.is_file());
    let pages: Vec<_> = pages.map(|path| path.parent().unwrap().to_owned()).collect();
    assert_eq!(pages.len(), 3, "{pages:?}");
    for page in pages {
        let lower = page.join("../../bin/sh");
        assert!(!lower.exists(), "`{}` was unpacked with the page", lower.display());
    }
}

#[test]
fn an_app_in_docker_follows_what_is_saved() {
    let Some(world) = World::new("watchdocker") else { return };
    let number = runs_on(&world.repo, 2);
    follows(&world.repo, &world.repo.xtask(&["watch"]), &number);
}

#[test]
fn a_killed_watch_leaves_no_app_and_no_command() {
    let Some(world) = World::new("watchkilled") else { return };
    let number = runs_on(&world.repo, 3);
    let sleeps = format!("sleep {number}; true");
    // Also what a command has started, in its session or in another one.
    let other = format!("setsid sleep {number} & wait");
    let commands: [&[&str]; 4] = [
        &["watch"],
        &["watch", "--", "sleep", &number],
        &["watch", "--", "sh", "-c", &sleeps],
        &["watch", "--", "sh", "-c", &other],
    ];
    for args in commands {
        let mut watch = world.repo.xtask(args).without_engine().start();
        watch.wait_for("watching runs `");
        until(|| running(&number) == 1, || "nothing runs".to_owned());
        watch.signal(Signal::KILL);
        watch.end();
        ends(&number);
    }
    // Ctrl-C does the same.
    let mut watch = world.repo.xtask(&["watch", "--", "sh", "-c", &sleeps]).without_engine().start();
    watch.wait_for("watching runs `");
    until(|| running(&number) == 1, || "nothing runs".to_owned());
    watch.signal(Signal::INT);
    watch.end().ok();
    ends(&number);
}

#[test]
fn a_command_gets_each_pushed_image_and_no_shared_tag_moves() {
    let Some(world) = World::new("watchpush") else { return };
    let repo = &world.repo;
    let report = repo.push();
    let latest = repo.digest("app", "latest");
    // It fails for the second image.
    let script = "echo \"got $1 $IMAGE\" >> target/images.txt; ! grep -q two templates/page.html";
    let args = ["watch", "--push", "--", "sh", "-c", script, "sh", "image={}"];
    let folder = repo.path.to_str().unwrap();
    let mut watch = repo.xtask(&args).without_engine().through(&["env", "-C", folder]).start();
    watch.wait_for("watching pushed `");
    repo.write("templates/page.html", "<p>two</p>\n");
    watch.wait_for("`sh` failed (exit status: 1)").wait_for("it ran after the push of");
    repo.write("templates/page.html", "<p>three</p>\n");
    until(|| repo.read("target/images.txt").lines().count() == 3, || "the command did not run three times".to_owned());
    watch.signal(Signal::INT);
    watch.end().ok();
    let printed = repo.read("target/images.txt");
    let images: Vec<&str> = printed.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert!(
        printed.lines().zip(&images).all(|(line, image)| line == format!("got image={image} {image}")),
        "{printed}"
    );
    assert_eq!(images[0], report.text("app", "reference"));
    for image in images {
        let reference: Reference = image.parse().unwrap();
        assert!(repo.published("app", &reference.digest.unwrap().to_string()).is_some(), "{image}");
    }
    assert_eq!(repo.digest("app", "latest"), latest);
}

#[test]
fn after_a_failed_command_the_same_image_gets_it_again() {
    let Some(world) = World::new("watchagain") else { return };
    let repo = &world.repo;
    let one = repo.read("templates/page.html");
    // It leaves something behind before it fails, as half of a rollout does.
    let script = "echo \"$IMAGE\" >> target/images.txt; ! grep -q two templates/page.html";
    let folder = repo.path.to_str().unwrap();
    let args = ["watch", "--push", "--", "sh", "-c", script];
    let mut watch = repo.xtask(&args).without_engine().through(&["env", "-C", folder]).start();
    watch.wait_for("watching pushed `");
    repo.write("templates/page.html", "<p>two</p>\n");
    watch.wait_for("`sh` failed (exit status: 1)");
    // The edit is undone: the image before it is built, and the command has to run for it too.
    repo.write("templates/page.html", &one);
    until(
        || repo.read("target/images.txt").lines().count() == 3,
        || "the command did not run for the first image again".to_owned(),
    );
    watch.signal(Signal::INT);
    watch.end().ok();
    let printed = repo.read("target/images.txt");
    let images: Vec<&str> = printed.lines().collect();
    assert!(images[0] == images[2] && images[0] != images[1], "{printed}");
}

#[test]
fn a_policy_that_is_invalid_at_the_start_ends_nothing() {
    let Some(world) = World::new("watchinvalid") else { return };
    let repo = &world.repo;
    let number = runs_on(repo, 6);
    let valid = repo.read("images.toml");
    for invalid in [format!("{valid}\n[nonsense]\n"), "not TOML".to_owned(), String::new()] {
        repo.write("images.toml", &invalid);
        let mut watch = repo.xtask(&["watch"]).without_engine().start();
        watch.wait_for("failed in").wait_for("nothing runs");
        repo.write("images.toml", &valid);
        watch.wait_for("watching runs `");
        until(|| running(&number) == 1, || "the app does not run".to_owned());
        watch.signal(Signal::INT);
        watch.end().ok();
        ends(&number);
    }
}

/// A page that runs on, for another app.
const WORKER: &str = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY --link worker/page.txt /app/page.txt\n\
                      ENTRYPOINT [\"sh\", \"-c\", \"cat /app/page.txt >&2; exec sleep NUMBER\"]\n";

#[test]
fn each_of_several_apps_restarts_when_its_own_image_changes() {
    let Some(world) = World::new("watchseveral") else { return };
    let repo = &world.repo;
    let (web, worker) = (runs_on(repo, 4), format!("{}5", 100_000 + std::process::id()));
    let apps = "[[app]]\nname = \"web\"\n\n[[app]]\nname = \"worker\"\ndockerfile = \"worker/Dockerfile\"\n";
    repo.edit("images.toml", "[app]\n# app settings\n", apps);
    repo.write("worker/Dockerfile", &WORKER.replace("NUMBER", &worker)).write("worker/page.txt", "worker one\n");
    repo.commit("several");
    let process = |number: &str| {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let of = |path: &std::path::Path| {
            fs::read(path.join("cmdline")).is_ok_and(|line| line == format!("sleep\0{number}\0").into_bytes())
        };
        entries.map(|entry| entry.path()).find(|path| of(path))
    };
    let mut watch = repo.xtask(&["watch"]).without_engine().start();
    watch.wait_for("<p>one</p>").wait_for("worker one").wait_for("watching runs `");
    until(|| running(&web) == 1 && running(&worker) == 1, || "not both apps run".to_owned());
    let before = process(&web);
    repo.write("worker/page.txt", "worker two\n");
    watch.wait_for("worker two").wait_for("changed `worker/page.txt`");
    until(|| running(&worker) == 1, || "the worker does not run".to_owned());
    assert_eq!(process(&web), before, "the other app was restarted");
    watch.signal(Signal::INT);
    watch.end().ok();
    ends(&web);
    ends(&worker);
    // A command runs for each app, and knows which.
    let script = "echo \"$APP $IMAGE\" >> target/images.txt";
    let folder = repo.path.to_str().unwrap();
    let args = ["watch", "--push", "--", "sh", "-c", script];
    let mut watch = repo.xtask(&args).without_engine().through(&["env", "-C", folder]).start();
    watch.wait_for("watching pushed `");
    watch.signal(Signal::INT);
    watch.end().ok();
    let printed = repo.read("target/images.txt");
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("web ") && lines[1].starts_with("worker "), "{printed}");
    assert!(lines[0].contains("/app-web@") && lines[1].contains("/app-worker@"), "{printed}");
}
