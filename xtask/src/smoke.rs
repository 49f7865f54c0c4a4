//! Runs a built image and asks it something, as the policy's `[smoke]` says.
//!
//! Every container runs with a read-only filesystem, no network, no capabilities and no new privileges: an image that needs
//! more than that fails here, not in the cluster.

use crate::docker::Docker;
use crate::fault::{Exit, Fault};
use crate::policy::{Smoke, SmokeServe};
use crate::process::{self, Command};
use crate::ui;
use std::process::Output;
use std::time::{Duration, Instant};

const CONFINED: [&str; 7] = [
    "run",
    "--network=none",
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--pull=missing",
    "--init=false",
];

/// One thing that an image showed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Shown {
    /// What it was.
    pub check: String,
    /// Seconds it took.
    pub seconds: f64,
}

/// Runs every check on `image`; `version` is the package's. Ends at the first that fails.
pub fn run(docker: &Docker, image: &str, smoke: &Smoke, version: Option<&str>) -> Result<Vec<Shown>, Fault> {
    let mut shown = Vec::new();
    let mut check = |name: &str, test: &mut dyn FnMut() -> Result<(), Fault>| -> Result<(), Fault> {
        process::interrupted()?;
        let began = Instant::now();
        test().map_err(|fault| fault.needed_by(format!("the smoke test of `{image}`")))?;
        let took = began.elapsed();
        ui::step("smoke", &format!("{name} ({})", ui::seconds(took)));
        shown.push(Shown { check: name.to_owned(), seconds: took.as_secs_f64() });
        Ok(())
    };
    if let Some(user) = smoke.user {
        check(&format!("runs as user {user}"), &mut || {
            let output = confined(docker).args(["--rm", "--entrypoint=id", image, "-u"]).output()?;
            expect(&output, &user.to_string(), "id -u")
        })?;
    }
    for wanted in &smoke.runs {
        let contains = wanted.contains.replace("{version}", version.unwrap_or(""));
        check(&wanted.name, &mut || {
            let output = confined(docker).args(["--rm", image]).args(&wanted.args).output()?;
            expect(&output, &contains, &wanted.args.join(" "))
        })?;
    }
    if let Some(serve) = &smoke.serve {
        check(&format!("serves {}", serve.url), &mut || served(docker, image, serve))?;
    }
    if shown.is_empty() {
        ui::warn("the policy has no `[smoke]` check: nothing was asked of the image");
    }
    Ok(shown)
}

fn confined(docker: &Docker) -> Command {
    docker.command().args(CONFINED)
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
        // Docker's own failure, not the program's.
        return Err(Fault::build("docker cannot run the image").cause(end(&err)));
    }
    let fault = Fault::build(format!("`{what}` did not answer as it should ({})", output.status));
    let fault = fault.cause(format!("expected `{contains}` in its output"));
    Err(fault.cause(end(if output.status.success() { &out } else { &err })))
}

/// A container that is removed whatever happens.
struct Running<'d> {
    docker: &'d Docker,
    id: String,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell.
        let _ = self.docker.command().args(["rm", "--force", "--volumes", &self.id]).output();
    }
}

fn served(docker: &Docker, image: &str, serve: &SmokeServe) -> Result<(), Fault> {
    // The question is asked from within, by the Python that every such image has: no port is opened anywhere.
    const ASK: &str = "import sys,urllib.request as r;sys.stdout.buffer.write(r.urlopen(sys.argv[1],timeout=5).read())";
    let id = confined(docker).arg("--detach").arg(image).args(&serve.args).read(Exit::Build)?;
    let container = Running { docker, id };
    let deadline = Instant::now() + Duration::from_secs(serve.seconds);
    loop {
        process::interrupted()?;
        let answer = docker.command().args(["exec", &container.id, "python3", "-c", ASK, &serve.url]).output()?;
        if expect(&answer, &serve.contains, &serve.url).is_ok() {
            return Ok(());
        }
        let state =
            docker.command().args(["inspect", "--format={{.State.Running}}", &container.id]).read(Exit::Build)?;
        if state != "true" || Instant::now() > deadline {
            let logs = docker.command().args(["logs", "--tail=20", &container.id]).output()?;
            let said = format!("{}{}", String::from_utf8_lossy(&logs.stdout), String::from_utf8_lossy(&logs.stderr));
            let why = if state == "true" { "it did not answer in time" } else { "it ended" };
            let fault = expect(&answer, &serve.contains, &serve.url).err().unwrap_or_else(|| Fault::build(why));
            return Err(fault.cause(why).cause(format!("its log:\n{}", said.trim())));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
