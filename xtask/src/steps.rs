//! The policy's `[[step]]`s: what runs around a build, in file order.
//!
//! A step sees an image that exists by digest. One that runs after `build` runs before anything is published, so its failure
//! keeps every tag where it was.

use crate::smoke;
use std::path::Path;
use std::time::{Duration, Instant};
use xtask_host::process::{self, Command};
use xtask_host::terminal;
use xtask_model::fault::Fault;
use xtask_model::image::policy::{Action, After, ImageKind, Policy, Step};
use xtask_model::quantity;
use xtask_model::spec::reference::{Digest, Platform, Reference};
use xtask_native::container::Runner;

/// The image that steps are run for.
pub struct Subject<'a> {
    /// Which image.
    pub kind: ImageKind,
    /// Its name by digest.
    pub reference: &'a Reference,
    /// Its digest.
    pub digest: Digest,
    /// What it was built for.
    pub platform: &'a Platform,
    /// Compressed bytes, where they are known.
    pub size: Option<u64>,
    /// The package's version.
    pub version: Option<&'a str>,
}

/// Runs the steps that are due; returns the seconds of each. `runner` is asked for when an image has to be run.
pub fn run(
    policy: &Policy,
    root: &Path,
    when: After,
    runner: &dyn Fn() -> Result<Runner, Fault>,
    subject: &Subject<'_>,
) -> Result<Vec<(String, Duration)>, Fault> {
    let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    let due = |step: &&Step| step.after == when && step.images.contains(&subject.kind) && (in_ci || !step.only_in_ci);
    let mut times = Vec::new();
    for step in policy.steps.iter().filter(due) {
        process::interrupted()?;
        let began = Instant::now();
        match &step.action {
            Action::Smoke => smoke_test(policy, runner, subject)?,
            Action::SizeBudget(max) => size_budget(step, *max, subject)?,
            Action::Run(command) => external(step, command, root, subject)?,
        }
        times.push((format!("step {}", step.name), began.elapsed()));
    }
    Ok(times)
}

fn smoke_test(policy: &Policy, runner: &dyn Fn() -> Result<Runner, Fault>, subject: &Subject<'_>) -> Result<(), Fault> {
    if subject.platform.architecture != Platform::host().architecture {
        terminal::warn(&format!(
            "the {} for {} cannot be run here: no smoke test of it",
            subject.kind, subject.platform
        ));
        return Ok(());
    }
    let runner = runner()?;
    smoke::run(&runner.image(&subject.reference.to_string())?, &policy.smoke, subject.version).map(drop)
}

fn size_budget(step: &Step, max: u64, subject: &Subject<'_>) -> Result<(), Fault> {
    let Some(size) = subject.size else {
        terminal::step("size", &format!("{}: the compressed size is known once it is pushed", subject.kind));
        return Ok(());
    };
    if size <= max {
        terminal::step("size", &format!("{} {} of {}", subject.kind, quantity::bytes(size), quantity::bytes(max)));
        return Ok(());
    }
    let over = quantity::bytes(size - max);
    Err(Fault::build(format!("the {} is {}, {over} over its budget", subject.kind, quantity::bytes(size)))
        .needed_by(format!("step `{}`", step.name))
        .hint("`cargo xtask build-base --analyze` shows where the bytes are; `max` in `images.toml` is the budget"))
}

fn external(step: &Step, command: &[String], root: &Path, subject: &Subject<'_>) -> Result<(), Fault> {
    let output = root.join("target/steps").join(&step.name);
    std::fs::create_dir_all(&output)
        .map_err(|error| Fault::build(format!("cannot make the output folder of step `{}`", step.name)).cause(error))?;
    let call = command_of(step, command, root, &output, subject);
    let mut progress = terminal::Progress::begin("step", &step.name);
    let mut said = Vec::new();
    let status = call.stream(|line| {
        progress.line(line);
        said.push(line.to_owned());
    });
    progress.end();
    let status = status.map_err(|fault| fault.needed_by(format!("step `{}` of `images.toml`", step.name)))?;
    if status.success() {
        return Ok(());
    }
    let end = said[said.len().saturating_sub(20)..].join("\n");
    let fault =
        Fault::build(format!("step `{}` failed ({status})", step.name)).needed_by(format!("`{}`", subject.reference));
    Err(if end.is_empty() { fault } else { fault.cause(end) })
}

fn command_of(step: &Step, command: &[String], root: &Path, output: &Path, subject: &Subject<'_>) -> Command {
    // A program of the repository is named by its path in it; any other is looked up.
    let program = &command[0];
    let program = if program.contains('/') { root.join(program) } else { program.into() };
    Command::new(program)
        .args(&command[1..])
        .current_dir(root)
        .env("XTASK_STEP", &step.name)
        .env("XTASK_IMAGE", subject.reference.to_string())
        .env("XTASK_DIGEST", subject.digest.to_string())
        .env("XTASK_KIND", subject.kind.to_string())
        .env("XTASK_PLATFORM", subject.platform.to_string())
        .env("XTASK_OUTPUT", output)
}

/// The program that a step needs from the system, for `doctor`.
pub fn needed(step: &Step) -> Option<&str> {
    match &step.action {
        Action::Run(command) => command.first().map(String::as_str),
        Action::Smoke | Action::SizeBudget(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask_model::fault::Exit;

    fn step(action: Action) -> Step {
        Step { name: "probe".to_owned(), after: After::Build, only_in_ci: false, images: vec![ImageKind::App], action }
    }

    #[track_caller]
    fn subject(test: impl FnOnce(&Subject<'_>)) {
        let digest = Digest::of(b"x");
        let reference: Reference = format!("127.0.0.1:1/app@{digest}").parse().unwrap();
        let platform = Platform::host();
        let size = Some(2_000_000);
        test(&Subject {
            kind: ImageKind::App,
            reference: &reference,
            digest,
            platform: &platform,
            size,
            version: None,
        });
    }

    #[test]
    fn a_command_gets_the_image_by_its_environment() {
        let root = tempfile::tempdir().unwrap();
        let command = ["sh", "-c", "printf '%s %s' \"$XTASK_KIND\" \"$XTASK_IMAGE\" > \"$XTASK_OUTPUT/a b\""];
        let command = command.map(str::to_owned).to_vec();
        subject(|subject| {
            external(&step(Action::Run(command.clone())), &command, root.path(), subject).unwrap();
            let written = std::fs::read_to_string(root.path().join("target/steps/probe/a b")).unwrap();
            assert_eq!(written, format!("app {}", subject.reference));
        });
    }

    #[test]
    fn a_failing_command_ends_the_build_with_its_own_words() {
        let root = tempfile::tempdir().unwrap();
        let command = ["sh", "-c", "echo no licence >&2; exit 9"].map(str::to_owned).to_vec();
        subject(|subject| {
            let fault = external(&step(Action::Run(command.clone())), &command, root.path(), subject).unwrap_err();
            assert_eq!((fault.exit, fault.causes), (Exit::Build, vec!["no licence".to_owned()]));
        });
    }

    #[test]
    fn a_budget_is_a_limit() {
        subject(|subject| {
            assert!(size_budget(&step(Action::Smoke), 2_000_000, subject).is_ok());
            let fault = size_budget(&step(Action::Smoke), 1_500_000, subject).unwrap_err();
            assert_eq!(fault.what, "the app is 2.0 MB, 500.0 kB over its budget");
        });
    }
}
