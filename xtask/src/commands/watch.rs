//! `watch`: builds on every save, and restarts what runs an image that changed. Where the policy has several apps, each of them.
//!
//! The files to wait for are those that were read for the plan, so a file that changes no image starts no round. They are polled: the
//! system's word on some hundred known paths costs less than a millisecond, works on file systems that report no events, and needs no
//! library (`notify` and its ten crates take 2.3 s of processor time to compile, which every first build would wait for).

use crate::flags::{BuildFlags, Format, Global, WatchFlags};
use crate::pipeline::{self, Sources, Target};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use xtask_host::process::{self, ProcessGroup};
use xtask_host::terminal;
use xtask_host::tree::facts;
use xtask_host::tree::watched::{Paths, Recorder, Stamps};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::policy::ImageKind;
use xtask_model::quantity;
use xtask_model::spec::reference::Reference;
use xtask_native::container::subprocess;
use xtask_native::container::{Launch, Manner, RunnableImage, Runner, Running};

/// Pause between two looks at the files.
const PAUSE: Duration = Duration::from_millis(50);

/// Time without a change after which a save is complete: editors and `git checkout` write several files.
const SETTLED: Duration = Duration::from_millis(50);

/// Time that a program gets to end before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Builds and runs until Ctrl-C.
pub fn run(global: &Global, flags: &WatchFlags) -> anyhow::Result<()> {
    if global.format != Format::Text {
        return Err(Fault::usage("`watch` prints text only").hint("leave out `--format`").into());
    }
    let root = facts::find_root(global.root.as_deref())?;
    let runner = OnceCell::new();
    // The policy is read when it is needed: one that is invalid at the start ends nothing, as one that becomes invalid later. Builds
    // sweep what killed commands have left.
    let start = || -> Result<&Runner, Fault> {
        match runner.get() {
            Some(runner) => Ok(runner),
            None => {
                let found = Runner::available(&global.any_tree()?)?;
                Ok(runner.get_or_init(|| found))
            }
        }
    };
    let mut watch = Watch { global, flags, root: &root, runner: &start, apps: BTreeMap::new(), rounds: 0 };
    let mut before = Stamps::take(&root, &watch.paths());
    let mut changed: Vec<PathBuf> = Vec::new();
    loop {
        watch.round(&changed);
        // A change of a Dockerfile or the policy may have added files. They may have changed while they were not watched.
        let added: Paths = watch.paths().difference(&before.paths()).cloned().collect();
        if !added.is_empty() && process::interrupted().is_ok() {
            before.join(Stamps::take(&root, &added));
            watch.rebuild_silently();
        }
        match watch.wait(&before) {
            Some((now, what)) => (before, changed) = (now, what),
            None => break,
        }
    }
    watch.stop();
    terminal::step("stopped", &format!("after {} rounds", watch.rounds));
    Ok(())
}

struct Watch<'a, 'r> {
    global: &'a Global,
    flags: &'a WatchFlags,
    root: &'a Path,
    runner: &'a dyn Fn() -> Result<&'r Runner, Fault>,
    /// By name, where the policy has several.
    apps: BTreeMap<Option<String>, App<'r>>,
    rounds: usize,
}

#[derive(Default)]
struct App<'r> {
    /// The image that is known to run, or whose command succeeded after its push. `None` while this is not known, such as after a
    /// command that failed: what it did before it failed stays, and the same image needs it again.
    image: Option<Reference>,
    running: Option<RunningProgram<'r>>,
}

/// Image of an app, with the app's name where the policy has several.
type Built = (Option<String>, Reference);

/// Runner of the image.
enum RunningProgram<'r> {
    App(Running<'r>, #[allow(dead_code, reason = "its files stay for as long as the value")] RunnableImage<'r>),
    Command(ProcessGroup),
}

impl RunningProgram<'_> {
    fn ended(&mut self) -> Option<Option<ExitStatus>> {
        match self {
            // What cannot be asked does not run.
            Self::App(app, _) => (!app.runs().unwrap_or(false)).then_some(None),
            Self::Command(command) => match command.ended() {
                Ok(None) => None,
                Ok(status) => Some(status),
                Err(_) => Some(None),
            },
        }
    }

    fn end(self) {
        match self {
            Self::App(app, image) => {
                app.end(STOP_TIMEOUT);
                drop(image);
            }
            Self::Command(command) => command.end(STOP_TIMEOUT),
        }
    }
}

impl<'r> Watch<'_, 'r> {
    /// The files that decide about the images of this tree, those of an invalid one up to the first error.
    fn paths(&self) -> Paths {
        let (files, seen) = Recorder::new(self.root.to_owned());
        // What is wrong with a tree is the build's to say.
        for tree in self.global.trees_of(Box::new(files)).unwrap_or_default() {
            let _ = Sources::read_all(&tree);
        }
        // The state of builds changes with each of them, and decides about none.
        seen.paths().into_iter().filter(|path| !path.starts_with("target")).collect()
    }

    fn build(&self) -> Result<Vec<Built>, Fault> {
        let WatchFlags { push, platform, engine, .. } = self.flags.clone();
        // A save is not a commit whose tests have passed.
        let flags = BuildFlags { push, platform, engine, untested: push, ..BuildFlags::default() };
        let built = || pipeline::run(self.global, &flags, Target::App);
        // Later rounds are a line each.
        let report = if self.rounds == 1 { built() } else { terminal::hushed(built) };
        let apps = report?.images.into_iter().filter(|image| image.kind == ImageKind::App);
        Ok(apps.map(|image| (image.name, image.reference)).collect())
    }

    /// Builds, and restarts what runs the image if it is another one. An error is printed, and ends nothing.
    fn round(&mut self, changed: &[PathBuf]) {
        self.rounds += 1;
        let began = Instant::now();
        let what = some(changed);
        if self.rounds > 1 {
            terminal::step("changed", &what);
        }
        let done = self.build().and_then(|images| self.show(images));
        let took = quantity::seconds(began.elapsed());
        match done {
            Ok(done) => terminal::step("watching", &format!("{} in {took}", done.unwrap_or_else(|| self.unchanged()))),
            Err(fault) if fault.exit == Exit::Interrupted => {}
            Err(fault) => {
                terminal::error(&fault.to_string());
                let runs = self.apps.values().any(|app| app.running.is_some());
                let kept = match (runs, self.flags.push) {
                    (true, _) => "; what ran before still runs",
                    (false, false) => "; nothing runs",
                    (false, true) => "",
                };
                terminal::step("watching", &format!("failed in {took}{kept}"));
            }
        }
    }

    /// Builds for what changed unseen; says something only if an image changed.
    fn rebuild_silently(&mut self) {
        if let Ok(images) = terminal::hushed(|| self.build()) {
            let known =
                |(name, image): &Built| self.apps.get(name).is_some_and(|app| app.image.as_ref() == Some(image));
            let changed: Vec<Built> = images.into_iter().filter(|built| !known(built)).collect();
            match self.show(changed) {
                Ok(Some(done)) => terminal::step("watching", &done),
                Ok(None) => {}
                Err(fault) => terminal::error(&fault.to_string()),
            }
        }
    }

    fn unchanged(&self) -> String {
        match self.flags.push {
            true => "no image changed".to_owned(),
            false => "no image changed: what runs was not restarted".to_owned(),
        }
    }

    /// Runs images unless they run already, or pushes end with the command; returns what was done, `None` if nothing was.
    ///
    /// # Errors
    /// The first failure, after the images of the other apps were shown too.
    fn show(&mut self, images: Vec<Built>) -> Result<Option<String>, Fault> {
        let (mut done, mut failed) = (Vec::new(), None);
        for built in images {
            let shown = if self.flags.push { self.push(&built) } else { self.start(&built) };
            match shown {
                Ok(what) => done.extend(what),
                Err(fault) if fault.exit == Exit::Interrupted => return Err(fault),
                Err(_) if failed.is_some() => {}
                Err(fault) => {
                    failed = Some(match built.0 {
                        Some(name) => fault.needed_by(format!("app `{name}`")),
                        None => fault,
                    });
                }
            }
        }
        match failed {
            Some(fault) => Err(fault),
            None => Ok((!done.is_empty()).then(|| done.join(", "))),
        }
    }

    /// Runs the command for an image that was pushed and is another one than before.
    fn push(&mut self, (name, image): &Built) -> Result<Option<String>, Fault> {
        if self.apps.get(name).is_some_and(|app| app.image.as_ref() == Some(image)) {
            return Ok(None);
        }
        if let Some(app) = self.apps.get_mut(name) {
            app.image = None;
        }
        if !self.flags.command.is_empty() {
            let mut command = self.command(name.as_deref(), image).start_group()?;
            let status = command.wait().map_err(|error| Fault::missing("cannot wait for the command").cause(error))?;
            process::interrupted()?;
            if !status.success() {
                let what = format!("`{}` failed ({status})", self.flags.command[0]);
                return Err(Fault::build(what).cause(format!("it ran after the push of `{image}`")));
            }
        }
        self.apps.entry(name.clone()).or_default().image = Some(image.clone());
        Ok(Some(format!("pushed `{image}`")))
    }

    /// Runs an image unless it runs already.
    fn start(&mut self, (name, image): &Built) -> Result<Option<String>, Fault> {
        let app = self.apps.entry(name.clone()).or_default();
        if app.image.as_ref() == Some(image) && app.running.is_some() {
            return Ok(None);
        }
        let hushed = app.image.is_some();
        let prepare = || -> Result<Option<RunnableImage<'r>>, Fault> {
            if self.flags.command.is_empty() { (self.runner)()?.image(&image.to_string()).map(Some) } else { Ok(None) }
        };
        let prepared = if hushed { terminal::hushed(prepare) } else { prepare() }?;
        // The old program may have the port that the new one needs.
        if let Some(running) = app.running.take() {
            running.end();
        }
        app.image = None;
        let program = match prepared {
            Some(app) => {
                let launch = Launch { entrypoint: None, args: Vec::new(), manner: Manner::Open };
                RunningProgram::App(app.serve(&launch)?, app)
            }
            None => RunningProgram::Command(self.command(name.as_deref(), image).start_group()?),
        };
        let app = self.apps.entry(name.clone()).or_default();
        (app.running, app.image) = (Some(program), Some(image.clone()));
        Ok(Some(format!("runs `{image}`")))
    }

    fn command(&self, app: Option<&str>, image: &Reference) -> process::Command {
        let image = image.to_string();
        let words: Vec<String> = self.flags.command.iter().map(|word| word.replace("{}", &image)).collect();
        let command = process::Command::new(&words[0]).args(&words[1..]).env("IMAGE", &image);
        subprocess::supervised(match app {
            Some(app) => command.env("APP", app),
            None => command,
        })
    }

    /// Ends what runs.
    fn stop(&mut self) {
        self.apps.values_mut().filter_map(|app| app.running.take()).for_each(RunningProgram::end);
    }

    /// Waits until files have changed and settled; `None` after Ctrl-C. Reports a program that ends meanwhile.
    fn wait(&mut self, before: &Stamps) -> Option<(Stamps, Vec<PathBuf>)> {
        let paths = before.paths();
        loop {
            process::interrupted().ok()?;
            let mut now = Stamps::take(self.root, &paths);
            if now != *before {
                loop {
                    std::thread::sleep(SETTLED);
                    process::interrupted().ok()?;
                    let later = Stamps::take(self.root, &paths);
                    if later == now {
                        break;
                    }
                    now = later;
                }
                let changed = before.changed(&now);
                if !changed.is_empty() {
                    return Some((now, changed));
                }
            }
            for (name, app) in &mut self.apps {
                if let Some(status) = app.running.as_mut().and_then(RunningProgram::ended) {
                    app.running = None;
                    let of = name.as_ref().map(|name| format!(" of app {name}")).unwrap_or_default();
                    let how = status.map(|status| format!(" ({status})")).unwrap_or_default();
                    let what = format!("what ran the image{of} has ended{how}; it starts again after a change");
                    terminal::step("ended", &what);
                }
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// A changed file, and how many more there are.
fn some(changed: &[PathBuf]) -> String {
    match changed {
        [] => String::new(),
        [first] => format!("`{}`", first.display()),
        [first, rest @ ..] => format!("`{}` and {} more", first.display(), rest.len()),
    }
}
