//! Runs the policy's `[smoke]` checks on a built image.
//!
//! Every container runs with a read-only filesystem, no network, no capabilities and no new privileges: an image that needs
//! more than that fails here, not in the cluster.

use std::process::Output;
use std::time::{Duration, Instant};
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::policy::{Smoke, SmokeServe};
use xtask_model::quantity;
use xtask_native::container::{Launch, RunnableImage};

/// A check that passed.
#[derive(Clone, Debug, serde::Serialize)]
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
