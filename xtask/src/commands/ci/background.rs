//! Checks that run at the lowest priority during the tests, which wait for engines and limits as long as they compute.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use xtask_host::process::{self, Command};
use xtask_host::terminal;
use xtask_model::fault::{Exit, Fault};

/// A call whose success is the check.
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) call: Command,
    pub(super) exit: Exit,
    pub(super) hint: String,
}

impl Check {
    /// Runs to the end. What it printed is shown if it fails, whole and not between the lines of the tests.
    fn run(&self) -> anyhow::Result<()> {
        let low = self.call.clone().env("CARGO_TERM_COLOR", "never");
        let low = if process::found("nice").is_some() { low.wrapped_by("nice", ["-n", "19"]) } else { low };
        let mut said = Vec::new();
        let status = low.stream(|line| said.push(line.to_owned()))?;
        if status.success() {
            return Ok(());
        }
        Err(self.call.failed(self.exit, status).cause(said.join("\n")).hint(&self.hint).into())
    }
}

/// Time that each check took, and the first failure, which ends them.
#[derive(Default)]
pub(super) struct Checked {
    pub(super) seconds: Vec<(&'static str, Duration)>,
    pub(super) failure: Option<anyhow::Error>,
}

/// Runs `tests`, and `checks` in their order at the same time, from the moment on at which it calls what it is given: compilers wait for
/// each other. Tests that fail end the checks.
pub(super) fn run<T>(
    checks: &[Check],
    tests: impl FnOnce(&mut (dyn FnMut() + Send)) -> anyhow::Result<T>,
) -> (anyhow::Result<T>, Checked) {
    let (begin, begun) = mpsc::channel::<()>();
    let ended = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let background = scope.spawn(move || {
            let mut checked = Checked::default();
            if begun.recv().is_err() {
                return checked;
            }
            for check in checks {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                terminal::step("background", check.name);
                let began = Instant::now();
                let done = check.run();
                checked.seconds.push((check.name, began.elapsed()));
                if let Err(failure) = done {
                    checked.failure = Some(failure);
                    break;
                }
            }
            checked
        });
        let mut first = Some(begin);
        let tested = tests(&mut || {
            // Later runners compile nothing.
            if let Some(begin) = first.take() {
                let _ = begin.send(());
            }
        });
        drop(first);
        if tested.is_err() {
            ended.store(true, Ordering::SeqCst);
            process::end_children();
            return (tested, background.join().unwrap_or_default());
        }
        let checked = background.join().unwrap_or_else(|_| Checked {
            failure: Some(Fault::build("a check ended by a panic").into()),
            ..Checked::default()
        });
        (tested, checked)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &'static str, script: &str) -> Check {
        Check { name, call: Command::new("sh").args(["-c", script]), exit: Exit::Drift, hint: "mend it".to_owned() }
    }

    fn names(checked: &Checked) -> Vec<&'static str> {
        checked.seconds.iter().map(|(name, _)| *name).collect()
    }

    #[test]
    fn checks_begin_when_the_tests_have_been_compiled() {
        let folder = tempfile::tempdir().unwrap();
        let compiled = folder.path().join("compiled");
        let one = check("one", &format!("test -e {}", compiled.display()));
        let (tested, checked) = run(&[one, check("two", "true")], |begin| {
            std::fs::write(&compiled, "").unwrap();
            begin();
            begin();
            Ok(7)
        });
        assert_eq!(tested.unwrap(), 7);
        assert!(checked.failure.is_none());
        assert_eq!(names(&checked), ["one", "two"]);
    }

    #[test]
    fn the_first_failure_ends_the_checks_and_shows_what_was_printed() {
        let checks = [check("one", "echo warned; exit 3"), check("two", "true")];
        let (tested, checked) = run(&checks, |begin| {
            begin();
            Ok(())
        });
        tested.unwrap();
        let failure = format!("{:?}", checked.failure.as_ref().unwrap());
        assert!(failure.contains("warned") && failure.contains("mend it"), "{failure}");
        assert_eq!(names(&checked), ["one"]);
    }

    #[test]
    fn tests_that_fail_before_they_run_start_no_check() {
        let (tested, checked) = run(&[check("one", "true")], |_| anyhow::bail!("does not compile"));
        assert_eq!(tested.map(|()| 0).unwrap_err().to_string(), "does not compile");
        assert!(checked.seconds.is_empty() && checked.failure.is_none());
    }
}
