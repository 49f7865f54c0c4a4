//! `init`: adopts another repository. Reads its Dockerfile, reports what becomes of each line, and writes the files of this build system.
//!
//! Decides nothing about the translation, which is `xtask_model::adopt`. Writes after everything was read, checked and reported.

mod prove;
mod sources;
mod staged;

use self::sources::Source;
use self::staged::Staged;
use crate::flags::{Global, InitFlags};
use std::collections::BTreeSet;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use xtask_host::process::{self, Command};
use xtask_host::terminal;
use xtask_host::tree::adoption::{self, FileState, Survey};
use xtask_model::adopt::{self, Adoption, NewFile, NoteKind, Program, Request, diff};
use xtask_model::fault::Fault;
use xtask_model::image::policy::{self, Provider, Registry};
use xtask_model::record::workflows::GITLAB_TOP;
use xtask_model::spec::reference::Platform;

pub fn run(global: &Global, flags: &InitFlags) -> anyhow::Result<()> {
    let named = global.root.clone().unwrap_or_else(|| PathBuf::from("."));
    let survey = Survey::read(&named)?;
    let questions = Questions { asks: !flags.yes && !flags.dry_run && std::io::stdin().is_terminal() };
    let paths = sources::dockerfiles(&survey, flags, &questions)?;
    let builds = sources::builds(&survey);
    let source = |path: &String| Source::read(&survey, path, flags, &builds);
    let sources = paths.iter().map(source).collect::<Result<Vec<_>, _>>()?;
    let read = |path: &str| survey.text(path);
    let repository = Repository::new(global, flags, &survey, &read, &questions)?;
    let sources = repository.with_python(sources)?;
    let paths: Vec<String> = sources.iter().map(|source| source.parsed.path().to_owned()).collect();
    let names = if paths.len() > 1 { adopt::app_names(&paths) } else { Vec::new() };
    let name = |at: usize| names.get(at).map(String::as_str);
    let mut requests: Vec<Request<'_>> =
        sources.iter().enumerate().map(|(at, source)| repository.request(source, name(at))).collect();
    let mut adoptions = adopt::adopt_all(&requests)?;
    for (path, adoption) in paths.iter().zip(&adoptions) {
        report(&survey, path, adoption);
    }
    let is_kept = flags.prove && survey.files.contains(policy::FILE);
    let needs_docker = adoptions.iter().any(Adoption::needs_docker);
    let complete = adoptions.iter().all(|adoption| adoption.missing().next().is_none());
    if complete {
        let staged = Staged::new(&survey, &files_of(&adoptions))?;
        staged.engines(needs_docker)?;
        if !is_kept && staged.wheels(global.offline) {
            requests.iter_mut().for_each(|request| request.compiles = true);
            adoptions = adopt::adopt_all(&requests)?;
        }
    }
    let files = files_of(&adoptions);
    if flags.dry_run {
        for file in &files {
            super::print(&format!("==> {} <==\n{}\n", file.path, file.text))?;
        }
    }
    if is_kept {
        terminal::step(
            "kept",
            &format!("`{}` and the files of an earlier `init`: they are what is proved", policy::FILE),
        );
    } else if complete || flags.partial || flags.dry_run {
        write(&survey.root, &files, flags)?;
    }
    if !complete && !flags.partial {
        return Err(incomplete(&paths, &adoptions).into());
    }
    if flags.prove {
        let (paths, sources, names, adoptions) = (&paths[..], &sources[..], &names[..], &adoptions[..]);
        return prove::run(&prove::ProofSubject { global, flags, survey: &survey, paths, sources, names, adoptions });
    }
    if !flags.dry_run {
        next(needs_docker);
    }
    Ok(())
}

fn files_of(adoptions: &[Adoption]) -> Vec<NewFile> {
    adoptions.iter().flat_map(|adoption| adoption.files.clone()).collect()
}

/// Facts that all Dockerfiles of a repository share.
struct Repository<'a> {
    survey: &'a Survey,
    flags: &'a InitFlags,
    read: &'a dyn Fn(&str) -> Option<String>,
    name: String,
    registry: Registry,
    branch: String,
    platforms: Vec<Platform>,
    program: Program,
}

impl<'a> Repository<'a> {
    fn new(
        global: &Global,
        flags: &'a InitFlags,
        survey: &'a Survey,
        read: &'a dyn Fn(&str) -> Option<String>,
        questions: &Questions,
    ) -> Result<Self, Fault> {
        let name = match &flags.name {
            Some(name) => name.clone(),
            None => questions.ask("Name of the project?", &project_name(&survey.root))?,
        };
        let registry = registry(global, survey, questions)?;
        let branch = flags.default_branch.clone().or(survey.branch.clone()).unwrap_or_else(|| "main".to_owned());
        let platforms = if flags.platform.is_empty() {
            vec!["linux/amd64".parse::<Platform>().expect("a constant is a platform")]
        } else {
            flags.platform.clone()
        };
        Ok(Self { survey, flags, read, name, registry, branch, platforms, program: program(flags)? })
    }

    fn request<'b>(&'b self, source: &'b Source, app: Option<&'b str>) -> Request<'b> {
        Request {
            name: &self.name,
            app,
            registry: &self.registry,
            source: self.survey.remote.as_deref().filter(|url| url.starts_with("https://")),
            branch: &self.branch,
            platforms: &self.platforms,
            dockerfile: &source.parsed,
            context: &source.context,
            files: &self.survey.files,
            ignore: source.ignore.as_deref(),
            read: self.read,
            root_image: self.flags.root_image.as_deref(),
            python: self.flags.python.as_deref(),
            requirements: &self.flags.requirements,
            system_packages: &self.flags.system_package,
            compiles: false,
            workflows: (!self.flags.no_workflows).then(|| provider(self.flags, self.survey)),
            program: &self.program,
        }
    }

    /// The Dockerfiles with Python, unless none has it or they are named.
    fn with_python(&self, sources: Vec<Source>) -> Result<Vec<Source>, Fault> {
        if !self.flags.dockerfile.is_empty() {
            return Ok(sources);
        }
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for source in sources {
            let python = adopt::is_python(&self.request(&source, None))?;
            if python { found.push(source) } else { others.push(source) }
        }
        if found.is_empty() {
            return Ok(others);
        }
        if !others.is_empty() {
            let names: Vec<String> = others.iter().map(|source| format!("`{}`", source.parsed.path())).collect();
            let why = "no command installs Python packages; `--dockerfile` names those to translate";
            terminal::step("left out", &format!("{}: {why}", names.join(", ")));
        }
        Ok(found)
    }
}

/// The fault of Dockerfiles of which something is missing.
fn incomplete(paths: &[String], adoptions: &[Adoption]) -> Fault {
    let of = |(path, adoption): (&String, &Adoption)| {
        adoption.missing().map(|note| format!("{}: {note}", place(path, note.line))).collect::<Vec<_>>()
    };
    let missing: Vec<Vec<String>> = paths.iter().zip(adoptions).map(of).collect();
    let named: Vec<String> = paths
        .iter()
        .zip(&missing)
        .filter(|(_, missing)| !missing.is_empty())
        .map(|(path, _)| format!("`{path}`"))
        .collect();
    let what = format!("{} cannot be translated whole; nothing was written", named.join(", "));
    let fault = missing.into_iter().flatten().fold(Fault::drift(what), Fault::cause);
    let fault = fault.hint("answer with the flags above, or write the rest: `--partial`");
    match named.len() < paths.len() {
        true => fault.hint("or leave out a Dockerfile: `--dockerfile` names the others, once for each"),
        false => fault,
    }
}

/// Questions on a terminal; elsewhere the defaults.
struct Questions {
    asks: bool,
}

impl Questions {
    fn ask(&self, question: &str, default: &str) -> Result<String, Fault> {
        if !self.asks {
            return Ok(default.to_owned());
        }
        anstream::eprint!("{question} [{default}] ");
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        read.map_err(|error| Fault::usage("cannot read the answer").cause(error))?;
        process::interrupted()?;
        Ok(Some(answer.trim()).filter(|answer| !answer.is_empty()).unwrap_or(default).to_owned())
    }
}

fn project_name(root: &Path) -> String {
    let name = root.file_name().map_or_else(String::new, |name| name.to_string_lossy().to_ascii_lowercase());
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let plain = plain.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    if plain.is_empty() { "app".to_owned() } else { plain }
}

/// The service that runs workflows: the one that is asked for, or that the repository uses.
fn provider(flags: &InitFlags, survey: &Survey) -> Provider {
    let on_gitlab = || {
        let github = survey.files.iter().any(|file| file.starts_with(".github/workflows/"));
        let remote = survey.remote.as_deref().is_some_and(|url| url.starts_with("https://gitlab.com/"));
        survey.text(GITLAB_TOP).is_some() || remote && !github
    };
    flags.ci.unwrap_or_else(|| if on_gitlab() { Provider::GitLab } else { Provider::GitHub })
}

fn registry(global: &Global, survey: &Survey, questions: &Questions) -> Result<Registry, Fault> {
    if let Some(registry) = &global.registry {
        return Ok(registry.clone());
    }
    // What an earlier call wrote.
    let text = survey.text(policy::FILE).unwrap_or_default();
    let known = text.lines().find_map(|line| line.strip_prefix("registry = \"")?.strip_suffix('"'));
    if let Some(Ok(registry)) = known.map(str::parse) {
        return Ok(registry);
    }
    let remote = survey.remote.as_deref().unwrap_or_default();
    let owner =
        |host: &str| remote.strip_prefix(host).and_then(|rest| rest.split('/').next()).map(str::to_ascii_lowercase);
    let derived = owner("https://github.com/").map(|owner| format!("ghcr.io/{owner}"));
    // GitLab's registry has images below the path of the project alone.
    let project =
        remote.strip_prefix("https://gitlab.com/").map(|path| path.trim_end_matches('/').to_ascii_lowercase());
    let derived = derived
        .or_else(|| project.map(|path| format!("registry.gitlab.com/{}", path.strip_suffix(".git").unwrap_or(&path))));
    let text = match derived {
        Some(derived) => questions.ask("Registry of the images?", &derived)?,
        None if questions.asks => questions.ask("Registry of the images, like `ghcr.io/acme`?", "")?,
        None => String::new(),
    };
    if text.is_empty() {
        return Err(Fault::usage("the registry of the images is unknown").hint("name it: `--registry ghcr.io/OWNER`"));
    }
    text.parse().map_err(|error: String| Fault::usage(error))
}

/// The source that the new `xtask` depends on: this program's own.
fn program(flags: &InitFlags) -> Result<Program, Fault> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(here).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let revision = flags.xtask_rev.clone().or_else(|| git(&["rev-parse", "HEAD"])).ok_or_else(|| {
        Fault::usage("the commit of this program is unknown")
            .cause(format!("`{}` is not a git repository", here.display()))
            .hint("name it: `--xtask-rev COMMIT`")
    })?;
    let url = flags.xtask_git.clone().unwrap_or_else(|| env!("CARGO_PKG_REPOSITORY").to_owned());
    let channel = TOOLCHAIN.lines().find_map(|line| line.strip_prefix("channel = "));
    let toolchain = channel.map_or("stable", |channel| channel.trim_matches('"')).to_owned();
    Ok(Program { git: url, revision, toolchain })
}

/// The compiler that this program is tested with.
const TOOLCHAIN: &str = include_str!("../../../rust-toolchain.toml");

fn place(path: &str, line: usize) -> String {
    if line == 0 { path.to_owned() } else { format!("{path}:{line}") }
}

/// Prints what becomes of the lines: what is missing first, then what only docker does, then what changes.
fn report(survey: &Survey, path: &str, adoption: &Adoption) {
    terminal::step("read", &format!("`{path}` in `{}`, {} files", survey.root.display(), survey.files.len()));
    for note in &adoption.notes {
        let verb = match note.kind {
            NoteKind::Missing => "missing",
            NoteKind::Docker => "docker only",
            NoteKind::Changed => "changed",
        };
        terminal::step(verb, &format!("{}: {note}", place(path, note.line)));
    }
    if !adoption.left_out.is_empty() {
        terminal::step(
            "left out",
            &format!("{} (the app's ignore file lets in what is listed there)", adoption.left_out.join(", ")),
        );
    }
}

/// Writes the files that are new, and with `--force` those that differ.
fn write(root: &Path, files: &[NewFile], flags: &InitFlags) -> Result<(), Fault> {
    let (mut new, mut replaced, mut unchanged) = (Vec::new(), BTreeSet::new(), 0);
    let mut conflicts = Vec::new();
    for file in files {
        match adoption::state(root, file)? {
            FileState::New => new.push(file),
            FileState::Unchanged => unchanged += 1,
            FileState::Differs(old) => {
                if flags.force || flags.dry_run {
                    anstream::eprint!("{}", diff::unified(&file.path, &old, &file.text));
                }
                conflicts.push(file.path.clone());
                replaced.insert(file.path.as_str());
                new.push(file);
            }
        }
    }
    if flags.dry_run {
        let differ =
            if conflicts.is_empty() { String::new() } else { format!("; {} exist and differ", conflicts.len()) };
        terminal::step("dry run", &format!("{} files would be written, {unchanged} are unchanged{differ}", new.len()));
        return Ok(());
    }
    if !conflicts.is_empty() && !flags.force {
        let fault = Fault::usage("files exist and differ from what would be written; nothing was written");
        let fault = conflicts.iter().map(|path| format!("`{path}`")).fold(fault, Fault::cause);
        return Err(fault.hint("show the differences: `--dry-run`; replace the files: `--force`"));
    }
    adoption::place(root, &new, &replaced)?;
    for file in &new {
        terminal::step(
            if replaced.contains(file.path.as_str()) { "replaced" } else { "wrote" },
            &format!("`{}`", file.path),
        );
    }
    if unchanged > 0 {
        terminal::step("unchanged", &format!("{unchanged} files"));
    }
    Ok(())
}

fn next(needs_docker: bool) {
    terminal::step("next", "`cargo xtask lock` resolves the requirements; commit the locks too");
    let engine = if needs_docker { "with docker" } else { "without docker" };
    terminal::step(
        "next",
        &format!("`cargo xtask build` builds the base and the app {engine}, `cargo xtask smoke` tests the app"),
    );
}
