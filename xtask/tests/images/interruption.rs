//! Ctrl-C, SIGTERM and SIGKILL at the worst moment: no tag, nothing left running, and the next run heals.

use crate::fault_proxy::{FaultProxy, Mishap};
use crate::fixture::{GATE, Repo, actions, until};
use crate::real_engine::engine;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// The processes whose arguments hold a text.
fn processes(text: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(text)).count()
}

/// A repository that was published, then edited so that its base takes a minute, and the tags it had before.
fn slow(name: &str) -> Option<(Repo, [Vec<String>; 2], String)> {
    let repo = Repo::new(name)?;
    repo.push();
    repo.edit("dockerfiles/Dockerfile.base", "RUN mkdir", "ARG PAUSE=60\nRUN echo begun && sleep $PAUSE\nRUN mkdir");
    repo.commit("slow");
    let tags = ["app-base", "app"].map(|name| repo.tags(name));
    let latest = repo.digest("app", "latest");
    Some((repo, tags, latest))
}

#[track_caller]
fn heals(repo: &Repo, tags: &[Vec<String>; 2], latest: &str) {
    assert_eq!(["app-base", "app"].map(|name| repo.tags(name)), *tags);
    assert_eq!(repo.digest("app", "latest"), latest);
    repo.edit("dockerfiles/Dockerfile.base", "PAUSE=60", "PAUSE=0").commit("quick");
    let report = repo.push();
    assert_eq!(report.actions(), actions("built", "built"));
    assert_eq!(repo.digest("app", "latest"), report.digest("app"));
}

#[track_caller]
fn signalled(name: &str, signal: Signal) {
    let Some((repo, tags, latest)) = slow(name) else { return };
    let mut running = repo.xtask(&["build", "--push", "-v"]).start();
    running.wait_for(" begun");
    running.signal(signal);
    let said = running.end().ends(130);
    assert_eq!(said.stdout, "");
    said.says("error:").says("interrupted");
    let path = repo.path.to_str().unwrap();
    until(|| processes(path) == 0, || format!("processes of `{path}` still run"));
    heals(&repo, &tags, &latest);
}

#[test]
fn ctrl_c_ends_the_build_and_leaves_no_tag() {
    signalled("ctrlc", Signal::INT);
}

#[test]
fn sigterm_ends_the_build_and_leaves_no_tag() {
    signalled("term", Signal::TERM);
}

#[test]
fn a_kill_between_push_and_tag_leaves_no_tag() {
    let Some((repo, tags, latest)) = slow("kill") else { return };
    repo.edit("dockerfiles/Dockerfile.base", "PAUSE=60", "PAUSE=0").step(GATE).commit("gate");
    let gate = repo.path.join("target/gate");
    let mut running = repo.xtask(&["build", "--push", "-v"]).env("GATE", &gate).start();
    running.wait_for("waiting");
    running.signal(Signal::KILL);
    assert_eq!(running.end().code, None);
    std::fs::write(&gate, "").unwrap();
    // What was pushed has a name of its own, that nothing takes for an image that is whole.
    repo.edit("dockerfiles/Dockerfile.base", "PAUSE=0", "PAUSE=60");
    heals(&repo, &tags, &latest);
}

#[test]
fn ctrl_c_ends_the_wait_for_a_registry_that_does_not_answer() {
    let Some(engine) = engine() else { return };
    let proxy = FaultProxy::before(engine.registry().parse().unwrap());
    let repo = Repo::with_registry("silent", &proxy.host()).unwrap();
    proxy.on("*", "/v2/", usize::MAX, Mishap::Delay(Duration::from_secs(15)));
    let mut running = repo.xtask(&["build", "--push"]).start();
    until(|| !proxy.waiting().is_empty(), || "the registry was not asked".to_owned());
    let began = Instant::now();
    running.signal(Signal::INT);
    running.end().ends(130);
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
}
