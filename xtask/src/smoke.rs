//! Runs the policy's `[smoke]` checks on a built image.
//!
//! Every container runs with a read-only filesystem, no network, no capabilities and no new privileges: an image that needs
//! more than that fails here, not in the cluster.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};
use xtask_host::{file, process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::change::event;
use xtask_model::image::policy::{Smoke, SmokeServe};
use xtask_model::quantity;
use xtask_model::spec::reference::Digest;
use xtask_native::container::{Launch, RunnableImage};

/// A check that passed.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PassedCheck {
    /// Name of the check.
    pub check: String,
    /// Seconds it took.
    pub seconds: f64,
    /// The app, where the policy names several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
}

/// Runs every check on `image`; `version` is the package's. Ends at the first that fails.
pub fn run(image: &RunnableImage<'_>, smoke: &Smoke, version: Option<&str>) -> Result<Vec<PassedCheck>, Fault> {
    let mut shown = Vec::new();
    let mut check = |name: &str, test: &mut dyn FnMut() -> Result<(), Fault>| -> Result<(), Fault> {
        process::interrupted()?;
        let began = Instant::now();
        test().map_err(|fault| fault.needed_by(format!("the smoke test of `{}`", image.name())))?;
        let took = began.elapsed();
        terminal::step("smoke", &format!("{name} ({})", quantity::seconds(took)));
        shown.push(PassedCheck { check: name.to_owned(), seconds: took.as_secs_f64(), app: None });
        Ok(())
    };
    if let Some(user) = smoke.user {
        check(&format!("runs as user {user}"), &mut || {
            let id = Launch { entrypoint: Some("id".to_owned()), ..Launch::confined(&["-u".to_owned()]) };
            let output = image.run(&id)?;
            expect(&output, &user.to_string(), "id -u")
        })?;
    }
    for wanted in &smoke.runs {
        let contains = wanted.contains.replace("{version}", version.unwrap_or(""));
        check(&wanted.name, &mut || {
            let output = image.run(&Launch::confined(&wanted.args))?;
            expect(&output, &contains, &wanted.args.join(" "))
        })?;
    }
    if let Some(serve) = &smoke.serve {
        check(&format!("serves {}", serve.url), &mut || served(image, serve))?;
    }
    if shown.is_empty() {
        terminal::warn("the policy has no `[smoke]` check: nothing was tested");
    }
    Ok(shown)
}

/// An image with its checks, which a step of a CI job can leave for the later ones: they do not run the same checks again.
pub struct Memory {
    /// None outside of CI: somebody who asks there wants to see them run.
    file: Option<PathBuf>,
}

impl Memory {
    /// `digest` is the manifest's; `variable` is the environment, where CI names the job.
    pub fn of(
        root: &Path,
        digest: Digest,
        (smoke, version): (&Smoke, Option<&str>),
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let named = |job| Digest::of(format!("{job}\n{digest}\n{version:?}\n{smoke:?}").as_bytes());
        let file = event::job(variable).map(|job| root.join("target/smoke").join(named(job).hex()));
        Self { file }
    }

    /// The checks that passed earlier in this job.
    pub fn passed(&self) -> Option<Vec<PassedCheck>> {
        serde_json::from_slice(&std::fs::read(self.file.as_ref()?).ok()?).ok()
    }

    pub fn keep(&self, shown: &[PassedCheck]) -> Result<(), Fault> {
        let Some(file) = self.file.as_ref().filter(|_| !shown.is_empty()) else { return Ok(()) };
        file::write(file, &serde_json::to_string(shown).expect("checks are JSON")).map(drop)
    }
}

fn expect(output: &Output, contains: &str, what: &str) -> Result<(), Fault> {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() && out.contains(contains) {
        return Ok(());
    }
    let end = |text: &str| {
        let lines: Vec<&str> = text.trim_end().lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    };
    if output.status.code() == Some(125) {
        // The engine's own failure, not the program's.
        return Err(Fault::build("the engine cannot run the image")
            .cause(end(&err))
            .hint("see what it lacks: `cargo xtask doctor`; where neither docker nor podman is on `PATH`, images run in namespaces"));
    }
    let fault = Fault::build(format!("`{what}` did not print the expected text ({})", output.status));
    let fault = fault.cause(format!("expected `{contains}` in its output"));
    Err(fault.cause(end(if output.status.success() { &out } else { &err })))
}

fn served(image: &RunnableImage<'_>, serve: &SmokeServe) -> Result<(), Fault> {
    // The question is asked from within, by the Python that every such image has: no port is opened anywhere.
    const ASK: &str = "import sys,urllib.request as r;sys.stdout.buffer.write(r.urlopen(sys.argv[1],timeout=5).read())";
    const ASK_FOR_ANY: &str = "import sys,urllib.request as r,urllib.error as e
try: r.urlopen(sys.argv[1],timeout=5)
except e.HTTPError as a: a.code<500 or sys.exit(f'status {a.code}')";
    let (ask, contains) = match &serve.contains {
        Some(text) => (ASK, text.as_str()),
        None => (ASK_FOR_ANY, ""),
    };
    let mut container = image.start(&Launch::confined(&serve.args))?;
    let deadline = Instant::now() + Duration::from_secs(serve.seconds);
    loop {
        process::interrupted()?;
        // A container that has ended cannot be asked any more: its log tells why.
        let answer = container.exec(&["python3", "-c", ask, &serve.url]);
        let shown = answer.and_then(|answer| expect(&answer, contains, &serve.url));
        let Err(fault) = shown else { return Ok(()) };
        let runs = container.runs()?;
        if !runs || Instant::now() > deadline {
            let why = if runs { "it did not answer in time" } else { "it exited" };
            return Err(fault.cause(why).cause(format!("its log:\n{}", container.log(20)?.trim())));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask_model::image::policy::SmokeRun;

    #[test]
    fn checks_count_for_the_same_image_in_the_same_job_alone() {
        let folder = tempfile::tempdir().unwrap();
        let check = |args: &str| Smoke {
            runs: vec![SmokeRun { name: "a".to_owned(), args: vec![args.to_owned()], contains: String::new() }],
            ..Smoke::default()
        };
        let (smoke, other) = (check("--version"), check("--help"));
        let github = |attempt: &'static str| {
            move |name: &str| match name {
                "GITHUB_RUN_ID" => Some("7".to_owned()),
                "GITHUB_RUN_ATTEMPT" => Some(attempt.to_owned()),
                "GITHUB_JOB" => Some("images".to_owned()),
                _ => None,
            }
        };
        let memory = |image: &str, smoke: &Smoke, version: &str, variable: &dyn Fn(&str) -> Option<String>| {
            Memory::of(folder.path(), Digest::of(image.as_bytes()), (smoke, Some(version)), variable)
        };
        let passed = vec![PassedCheck { check: "a".to_owned(), seconds: 0.5, app: None }];
        let first = memory("x", &smoke, "1", &github("1"));
        assert_eq!(first.passed(), None);
        first.keep(&[]).unwrap();
        assert_eq!(first.passed(), None, "nothing was tested");
        first.keep(&passed).unwrap();
        assert_eq!(memory("x", &smoke, "1", &github("1")).passed(), Some(passed.clone()));
        for other in [
            memory("y", &smoke, "1", &github("1")),
            memory("x", &other, "1", &github("1")),
            memory("x", &smoke, "2", &github("1")),
            memory("x", &smoke, "1", &github("2")),
        ] {
            assert_eq!(other.passed(), None);
        }
        let desk = memory("x", &smoke, "1", &|_| None);
        desk.keep(&passed).unwrap();
        assert_eq!(desk.passed(), None);
    }
}
