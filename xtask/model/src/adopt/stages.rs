//! Reads the stages of a Dockerfile as what they leave in the image: files, packages, a user, folders, configuration.
//!
//! Pure. Stages that only install packages are read for their inputs. A stage whose files the image takes, and that runs something
//! else, is kept as it is for docker.

mod projects;

use super::accounts;
use super::effect::{CommandEffect, Created};
use super::paths::{absolute, below};
use super::run;
use super::system::{self, PackagePurpose};
use super::{Input, Note, NoteKind, Request, roots, shell};
use crate::fault::Fault;
use crate::spec::dockerfile::{
    Command, Healthcheck, Heredoc, Instruction, Kind, Mount, Run, Stage, StageBase, Transfer,
};
use std::collections::{BTreeMap, BTreeSet};

/// The environment of the new images.
pub(super) use crate::spec::project::installed::ENVIRONMENT;

/// Parts of the images.
#[derive(Clone, Debug, Default)]
pub(super) struct Translation {
    pub root_image: String,
    pub python: String,
    /// The Dockerfile is on an image of Python.
    pub is_python: bool,
    pub input: Input,
    /// Debian packages of the root.
    pub system: Vec<String>,
    /// Debian packages of the stage that compiles.
    pub build: Vec<String>,
    /// Debian packages of the Dockerfile that the images do without.
    pub dropped: Vec<String>,
    /// Folders that the Dockerfile installs packages into.
    pub environments: Vec<String>,
    pub user: Account,
    pub workdir: String,
    pub env: Vec<(String, String)>,
    pub labels: Vec<(String, String)>,
    pub expose: Vec<String>,
    pub volumes: Vec<String>,
    pub stop_signal: Option<String>,
    pub shell: Option<Vec<String>>,
    pub healthcheck: Option<Option<Healthcheck>>,
    pub entrypoint: Option<Command>,
    pub cmd: Option<Command>,
    /// `RUN`s that need no file of the app.
    pub base_runs: Vec<Kept>,
    /// The app's files and the `RUN`s between them.
    pub steps: Vec<AppStep>,
    /// Folders with owner and mode.
    pub folders: BTreeMap<String, Folder>,
    /// Projects whose metadata and programs the app has.
    pub installed: Vec<Installed>,
    /// After which step their metadata is copied, where to, and its owner.
    pub metadata: Option<(usize, Placed)>,
    /// Stages that are kept as they are.
    pub kept: BTreeSet<usize>,
    pub notes: Vec<Note>,
}

/// A project that the app has as if it were installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Installed {
    pub manifest: String,
    /// Texts of its metadata and programs, by path.
    pub files: BTreeMap<String, String>,
}

/// The user that the app runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub name: String,
    pub user: u32,
    pub group: u32,
    pub home: String,
    /// True if the image makes the entry.
    pub made: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AppStep {
    Copy(Placed),
    Run(Kept),
}

/// A `RUN` that stays, with what it finds around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub text: String,
    pub user: String,
    pub workdir: String,
    pub shell: Option<Vec<String>>,
    /// Names and values of `ARG`, then those of `ENV`, which hide an `ARG` of the same name.
    pub args: Vec<(String, String)>,
    pub env: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Folder {
    pub owner: Option<String>,
    pub mode: Option<String>,
}

/// Files that a `COPY` or `ADD` puts into an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Placed {
    pub line: usize,
    pub add: bool,
    pub from: From,
    pub sources: Vec<String>,
    pub heredocs: Vec<Heredoc>,
    /// Absolute.
    pub destination: String,
    /// The destination is a folder that the sources are put into.
    pub into: bool,
    pub owner: Option<String>,
    pub mode: Option<String>,
    pub excludes: Vec<String>,
    pub parents: bool,
    pub checksum: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum From {
    #[default]
    Context,
    Stage(usize),
    Image(String),
}

/// An instruction's effect, in order.
#[derive(Clone, Debug)]
enum Item {
    Copy(Placed),
    Run { line: usize, shown: String, kept: Kept, mounts: Vec<Mount> },
    Owner { line: usize, owner: String, paths: Vec<String> },
    Mode { line: usize, mode: String, paths: Vec<String>, shown: String },
    Folders(Vec<String>),
}

/// A stage with everything below it.
#[derive(Clone, Debug, Default)]
struct StageImage {
    /// The image at the bottom.
    image: String,
    items: Vec<Item>,
    input: Input,
    /// Line, package manager and packages.
    system: Vec<(usize, &'static str, Vec<String>)>,
    environments: BTreeSet<String>,
    /// Folders of wheels, and exported requirements files.
    intermediate: BTreeSet<String>,
    /// Lines and accounts, in the order of the commands.
    accounts: Vec<(usize, Created)>,
    workdir: String,
    user: String,
    args: Vec<(String, String)>,
    env: Vec<(String, String)>,
    /// Stages whose wheels a `RUN` installs from where it mounts them.
    mounted: BTreeSet<usize>,
    /// Packages of the operating system come from others than Debian too.
    foreign: bool,
    labels: Vec<(String, String)>,
    expose: Vec<String>,
    volumes: Vec<String>,
    stop_signal: Option<String>,
    shell: Option<Vec<String>>,
    healthcheck: Option<Option<Healthcheck>>,
    entrypoint: Option<Command>,
    cmd: Option<Command>,
    notes: Vec<Note>,
}

pub(super) fn translate(request: &Request<'_>) -> Result<Translation, Fault> {
    let platform = request.platforms.first().cloned().unwrap_or_else(crate::spec::reference::Platform::host);
    let none = BTreeMap::new();
    let expanded = request.dockerfile.expand(&none, &platform)?;
    let bases = request.dockerfile.stage_bases(&none, &platform)?;
    let mut reader = StageReader { request, bases: &bases, images: BTreeMap::new() };
    for stage in &expanded.stages {
        let image = reader.image(stage);
        reader.images.insert(stage.index, image);
    }
    let target = request.dockerfile.target().index;
    let mut translator =
        Translator { request, images: &reader.images, done: Translation::default(), accounts: BTreeMap::new() };
    translator.translate(&reader.images[&target]);
    let mut done = translator.done;
    done.notes.sort_by(|one, other| (one.line, &one.what).cmp(&(other.line, &other.what)));
    done.notes.dedup();
    Ok(done)
}

struct StageReader<'a> {
    request: &'a Request<'a>,
    bases: &'a [StageBase],
    images: BTreeMap<usize, StageImage>,
}

impl StageReader<'_> {
    fn image(&self, stage: &Stage) -> StageImage {
        let base = self.bases.iter().find(|base| base.stage == stage.index);
        let below = base.and_then(|base| base.on).and_then(|on| self.images.get(&on)).cloned();
        let mut image = below.unwrap_or_else(|| StageImage {
            image: base.map_or_else(|| stage.base.clone(), |base| base.base.clone()),
            workdir: "/".to_owned(),
            user: "0".to_owned(),
            ..StageImage::default()
        });
        for instruction in &stage.instructions {
            self.instruction(stage, instruction, &mut image);
        }
        image
    }

    fn instruction(&self, stage: &Stage, instruction: &Instruction, image: &mut StageImage) {
        let line = instruction.line;
        let set = |pairs: &mut Vec<(String, String)>, (name, value): &(String, String)| {
            pairs.retain(|(known, _)| known != name);
            pairs.push((name.clone(), value.clone()));
        };
        match &instruction.kind {
            Kind::Env(pairs) => pairs.iter().for_each(|pair| set(&mut image.env, pair)),
            Kind::Label(pairs) => pairs.iter().for_each(|pair| set(&mut image.labels, pair)),
            Kind::Copy(transfer) => self.copy(stage, line, transfer, false, image),
            Kind::Add(transfer) => self.copy(stage, line, transfer, true, image),
            Kind::Run(run) => self.run(stage, line, run, image),
            Kind::Workdir(path) => image.workdir = absolute(&image.workdir, path),
            Kind::User(user) => image.user.clone_from(user),
            Kind::Expose(ports) => image.expose.extend(ports.iter().cloned()),
            Kind::Volume(paths) => image.volumes.extend(paths.iter().cloned()),
            Kind::Stopsignal(signal) => image.stop_signal = Some(signal.clone()),
            Kind::Shell(words) => image.shell = Some(words.clone()),
            Kind::Healthcheck(check) => image.healthcheck = Some(check.clone()),
            Kind::Entrypoint(command) => {
                image.entrypoint = Some(command.clone());
                // As docker does: an entry point takes the command of the image below away.
                image.cmd = image
                    .cmd
                    .take()
                    .filter(|_| stage.instructions.iter().any(|other| matches!(other.kind, Kind::Cmd(_))));
            }
            Kind::Cmd(command) => image.cmd = Some(command.clone()),
            Kind::Onbuild(_) => {
                image.notes.push(self.note(NoteKind::Missing, line, "no image is built on the app", "remove it"))
            }
            Kind::Arg(pairs) => {
                for (name, value) in pairs {
                    if let Some(value) = value {
                        set(&mut image.args, &(name.clone(), value.clone()));
                    }
                }
            }
            Kind::Maintainer(_) => {}
        }
    }

    fn note(&self, kind: NoteKind, line: usize, reason: &str, replacement: &str) -> Note {
        let text = self.request.dockerfile.instruction_text(line).unwrap_or_default();
        note(kind, line, text, reason, replacement)
    }

    fn copy(&self, stage: &Stage, line: usize, transfer: &Transfer, add: bool, image: &mut StageImage) {
        let from = match &transfer.from {
            None => From::Context,
            Some(name) => match self.request.dockerfile.find_stage(name, stage.index) {
                Some(index) => From::Stage(index),
                None => From::Image(name.clone()),
            },
        };
        let many = transfer.sources.len() + transfer.heredocs.len() > 1;
        let into = many || transfer.destination.ends_with('/') || [".", ".."].contains(&transfer.destination.as_str());
        image.items.push(Item::Copy(Placed {
            line,
            add,
            from,
            sources: transfer.sources.clone(),
            heredocs: transfer.heredocs.clone(),
            destination: absolute(&image.workdir, &transfer.destination),
            into,
            owner: transfer.chown().map(str::to_owned).filter(|owner| owner != "root" && owner != "root:root"),
            mode: transfer.chmod().map(str::to_owned),
            excludes: transfer.excludes.clone(),
            parents: transfer.parents,
            checksum: transfer.checksum.clone(),
        }));
    }

    fn run(&self, stage: &Stage, line: usize, run: &Run, image: &mut StageImage) {
        let whole = self.request.dockerfile.instruction_text(line).unwrap_or_default().to_owned();
        let text = shell_text(run);
        let run_of = |text: String, shown: &str, image: &StageImage| Item::Run {
            line,
            shown: shown.to_owned(),
            kept: Kept {
                text,
                user: image.user.clone(),
                workdir: image.workdir.clone(),
                shell: image.shell.clone(),
                args: image.args.clone(),
                env: image.env.clone(),
            },
            mounts: run.mounts.clone(),
        };
        let mut variables: BTreeMap<String, String> = image.args.iter().chain(&image.env).cloned().collect();
        if self.request.platforms.len() > 1 {
            // They are others for each platform.
            variables.retain(|name, _| !name.starts_with("TARGET"));
        }
        image.foreign |= adds_a_source(&text, image);
        let packages = ["apt-get ", "apt ", "aptitude "].iter().any(|program| text.contains(program));
        let found = shell::commands(&text, &variables).filter(|_| !(image.foreign && packages));
        let Some(found) = found else {
            let installs = ["pip install", "pip3 install", "poetry install", "uv sync", "uv pip", "pipenv install"];
            if installs.iter().any(|words| text.contains(words)) {
                let replacement =
                    "write the installation as a RUN of its own, without conditions that only the build knows";
                image.notes.push(self.note(
                    NoteKind::Missing,
                    line,
                    "it installs packages between commands that run only sometimes",
                    replacement,
                ));
            }
            let item = run_of(whole.clone(), &whole, image);
            image.items.push(item);
            return;
        };
        image.notes.extend(found.decided.iter().map(|name| decided(line, name, &variables[name])));
        let mut others = Vec::new();
        let mut known = false;
        let workdir = image.workdir.clone();
        for one in &found.all {
            match run::effect(one, &image.workdir) {
                CommandEffect::Nothing if one.program() == "cd" => {
                    image.workdir = absolute(&image.workdir, &one.args()[0]);
                    others.push(one.text.clone());
                }
                CommandEffect::Other if one.program() == "update-ca-certificates" && !has_certificates(image) => {}
                CommandEffect::Other if self.links_programs(one, image) => {
                    known = true;
                    let reason = "the programs of packages are on `PATH`";
                    image.notes.push(note(NoteKind::Changed, line, &one.text, reason, "it makes no links"));
                }
                CommandEffect::Other if one.program() == "rm" && self.removes_archives(one, image) => known = true,
                CommandEffect::Other => others.push(one.text.clone()),
                effect => {
                    if matches!(one.program(), "export" | "set") {
                        others.push(one.text.clone());
                    } else {
                        known |= effect != CommandEffect::Nothing;
                    }
                    if one.forgiven && matches!(effect, CommandEffect::Python(_)) {
                        let reason = "the build went on without these packages where they could not be installed";
                        let kept = "the base has them, or fails";
                        image.notes.push(note(NoteKind::Changed, line, &one.text, reason, kept));
                    }
                    self.effect((line, &one.text), effect, run, image);
                }
            }
        }
        image.workdir = workdir;
        if text.contains("install.python-poetry.org") {
            let home = image.env.iter().find(|(name, _)| name == "POETRY_HOME");
            image.intermediate.insert(home.map_or_else(|| format!("{}/.local", run::HOME), |(_, home)| home.clone()));
        }
        let around = ["set ", "export ", "cd "];
        let alone = others.iter().all(|text: &String| around.iter().any(|word| text.starts_with(word)));
        if alone {
            let stages = run.mounts.iter().filter_map(|mount| mount.from.as_ref());
            image.mounted.extend(stages.filter_map(|name| self.request.dockerfile.find_stage(name, stage.index)));
            return;
        }
        let flags: Vec<&str> = whole.split(' ').skip(1).take_while(|word| word.starts_with("--")).collect();
        let text = match (known, flags.as_slice()) {
            (false, _) => whole.clone(),
            (true, []) => format!("RUN {}", others.join(" && ")),
            (true, flags) => format!("RUN {} {}", flags.join(" "), others.join(" && ")),
        };
        let item = run_of(text, &format!("RUN {}", others.join(" && ")), image);
        image.items.push(item);
    }

    /// True for links to programs of an environment in a folder of `PATH`.
    fn links_programs(&self, one: &shell::Simple, image: &StageImage) -> bool {
        let (options, paths): (Vec<&String>, Vec<&String>) = one.args().iter().partition(|arg| arg.starts_with('-'));
        let Some((place, targets)) = paths.split_last() else { return false };
        let mut places = DEFAULT_FOLDERS.iter();
        let on_path =
            places.any(|folder| below(place.trim_end_matches('/'), folder).is_some_and(|rest| !rest.contains('/')));
        let environments: Vec<&String> =
            self.images.values().chain([image]).flat_map(|image| &image.environments).collect();
        let is_program = |target: &&String| {
            environments.iter().any(|one| below(target, one).is_some_and(|rest| rest.starts_with("bin/")))
        };
        let symbolic = options.iter().any(|option| option.contains('s'));
        one.program() == "ln"
            && one.plain
            && symbolic
            && on_path
            && !targets.is_empty()
            && targets.iter().all(is_program)
    }

    /// True if all that is removed are caches and archives of packages, which the new images do not have.
    fn removes_archives(&self, one: &shell::Simple, image: &StageImage) -> bool {
        let made = |folder: &str| {
            let stages = self.images.values().chain([image]);
            let mut places = stages.flat_map(|image| &image.intermediate);
            places.any(|place| below(place, folder).is_some() || below(folder, place).is_some())
        };
        let is_archive = |path: &String| {
            let path = absolute(&image.workdir, path);
            let inside = image.items.iter().all(|item| match item {
                Item::Copy(placed) => {
                    let archive = matches!(placed.from, From::Stage(_))
                        && placed.sources.iter().all(|one| made(&absolute("/", one)));
                    archive
                        || below(&placed.destination, &path).is_none() && below(&path, &placed.destination).is_none()
                }
                Item::Run { .. } => false,
                Item::Owner { .. } | Item::Mode { .. } | Item::Folders(_) => true,
            });
            inside
                && !["/usr", "/etc", "/var", "/lib", "/bin", "/opt"].iter().any(|folder| below(&path, folder).is_some())
        };
        let mut paths = one.args().iter().filter(|arg| !arg.starts_with('-'));
        one.plain && paths.all(|path| run::is_cache(path) || is_archive(path))
    }

    fn effect(&self, (line, text): (usize, &str), effect: CommandEffect, run: &Run, image: &mut StageImage) {
        match effect {
            CommandEffect::Nothing | CommandEffect::Other => {}
            CommandEffect::System { manager, names } => image.system.push((line, manager, names)),
            CommandEffect::Python(mut input) => {
                input.requirements = self.context_paths(&input.requirements, run, image, (line, text));
                input.constraints = self.context_paths(&input.constraints, run, image, (line, text));
                let earlier = self.images.values().chain([&*image]).any(|image| !image.intermediate.is_empty());
                if std::mem::take(&mut input.made) && !earlier {
                    // Nothing else in a repository makes archives of packages.
                    input.names.push(".".to_owned());
                }
                image.intermediate.extend(input.wheels.take());
                if let Some(place) = input.place.take() {
                    image.environments.insert(place);
                }
                if input.lock.is_some() {
                    let venv = image.env.iter().find(|(name, _)| name == "UV_PROJECT_ENVIRONMENT");
                    let venv = venv.map_or_else(|| ".venv".to_owned(), |(_, path)| path.clone());
                    image.environments.insert(absolute(&image.workdir, &venv));
                }
                image.input.add(input);
            }
            CommandEffect::Environment(path) => {
                image.environments.insert(path);
            }
            CommandEffect::Account(created) => image.accounts.push((line, created)),
            CommandEffect::Folders(paths) => {
                image.items.push(Item::Folders(paths.iter().map(|path| absolute(&image.workdir, path)).collect()));
            }
            CommandEffect::Owner { owner, paths, .. } => {
                let paths = paths.iter().map(|path| absolute(&image.workdir, path)).collect();
                image.items.push(Item::Owner { line, owner, paths });
            }
            CommandEffect::Mode { mode, paths, .. } => {
                let paths = paths.iter().map(|path| absolute(&image.workdir, path)).collect();
                image.items.push(Item::Mode { line, mode, paths, shown: text.to_owned() });
            }
            CommandEffect::Unknown(reason, replacement) => {
                image.notes.push(note(NoteKind::Missing, line, text, reason, replacement));
            }
        }
    }

    /// Requirement files of a command as paths of the repository.
    fn context_paths(
        &self,
        paths: &[String],
        run: &Run,
        image: &mut StageImage,
        (line, text): (usize, &str),
    ) -> Vec<String> {
        let mut found = Vec::new();
        for path in paths {
            if path.contains("://") {
                let why = "a requirements file of the network has no fixed contents";
                image.notes.push(note(NoteKind::Missing, line, text, why, "commit the file, and name it"));
                continue;
            }
            let place = absolute(&image.workdir, path);
            let mounted = run.mounts.iter().find(|mount| {
                mount.kind == "bind"
                    && mount.from.is_none()
                    && mount.target.as_ref().is_some_and(|target| absolute(&image.workdir, target) == place)
            });
            let mounted = mounted.and_then(|mount| mount.source.clone().or(mount.target.clone()));
            let copied = || self.copied(image, &place);
            let last = path.rsplit('/').next().unwrap_or(path).to_owned();
            let candidates = [mounted, copied(), Some(path.trim_start_matches("./").to_owned()), Some(last)];
            let exists = |path: &String| self.request.files.contains(&in_context(self.request.context, path));
            match candidates.into_iter().flatten().find(exists) {
                Some(source) => found.push(in_context(self.request.context, &source)),
                None if image.input.lock.is_some() || self.images.values().any(|image| image.input.lock.is_some()) => {}
                None => {
                    let why = "no file of the repository is this requirements file";
                    let replacement = "name the file that lists the packages: `--requirements FILE`";
                    image.notes.push(note(NoteKind::Missing, line, text, why, replacement));
                }
            }
        }
        found
    }

    /// The file of the context that is at a place of an image.
    fn copied(&self, image: &StageImage, place: &str) -> Option<String> {
        image.items.iter().rev().find_map(|item| {
            let Item::Copy(placed) = item else { return None };
            let source = || located(placed, place, self.request).into_iter().next();
            match placed.from {
                From::Context => source().map(|(source, _)| source),
                From::Stage(index) => {
                    let (source, _) = source()?;
                    self.copied(self.images.get(&index)?, &absolute("/", &source))
                }
                From::Image(_) => None,
            }
        })
    }
}

/// The commands of a `RUN` as a shell reads them.
fn shell_text(run: &Run) -> String {
    match (&run.command, run.heredocs.as_slice()) {
        (Command::Shell(text), [heredoc]) if text.trim_start().starts_with("<<") && !text.trim().contains(' ') => {
            heredoc.content.clone()
        }
        (Command::Shell(_), [_, ..]) => String::from("if # a here-document of another program"),
        (Command::Shell(text), []) => text.clone(),
        (Command::Exec(words), _) => words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
    }
}

/// The note on a variable that decides which commands run.
fn decided(line: usize, name: &str, value: &str) -> Note {
    let reason = format!("it decides which commands run; builds give no build arguments, and its value is `{value}`");
    let replacement = "for another one, change it in the Dockerfile first";
    note(NoteKind::Changed, line, &format!("${name}"), &reason, replacement)
}

/// True if a command or a copy adds a repository of packages that is not Debian's own.
fn adds_a_source(text: &str, image: &StageImage) -> bool {
    let places = ["/etc/apt/sources.list", "/etc/apt/keyrings", "add-apt-repository", "apt-key"];
    let copied = |item: &Item| matches!(item, Item::Copy(placed) if placed.destination.starts_with("/etc/apt/"));
    places.iter().any(|place| text.contains(place)) || image.items.iter().any(copied)
}

/// True if a certificate was copied to where `update-ca-certificates` finds it.
fn has_certificates(image: &StageImage) -> bool {
    let is_certificate = |item: &Item| matches!(item, Item::Copy(placed) if placed.destination.starts_with("/usr/local/share/ca-certificates"));
    image.items.iter().any(is_certificate)
}

fn note(kind: NoteKind, line: usize, text: &str, reason: &str, replacement: &str) -> Note {
    let mut what: String = text.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    if what.chars().count() > 90 {
        what = what.chars().take(89).chain(['…']).collect();
    }
    Note { kind, line, what, reason: reason.to_owned(), replacement: replacement.to_owned() }
}

/// A path of the Dockerfile's context from the repository's root.
pub(super) fn in_context(context: &str, path: &str) -> String {
    absolute(&format!("/{context}"), path.trim_start_matches('/')).trim_start_matches('/').to_owned()
}

fn is_folder(request: &Request<'_>, path: &str) -> bool {
    let path = in_context(request.context, path);
    path.is_empty() || request.files.iter().any(|file| below(file, &path).is_some_and(|rest| !rest.is_empty()))
}

/// Sources of a copy that give what is at `path` of its image, each with its place relative to `path`.
fn located(placed: &Placed, path: &str, request: &Request<'_>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for source in &placed.sources {
        let name = source.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let folder = match placed.from {
            From::Context => is_folder(request, source),
            // A name with a dot is taken for a file.
            _ => !name.contains('.') || source.ends_with('/'),
        };
        let place = match (placed.into && !folder, name) {
            (true, name) => absolute(&placed.destination, name),
            (false, _) => placed.destination.clone(),
        };
        if let Some(rest) = below(&place, path) {
            found.push((source.clone(), rest.to_owned()));
        } else if let Some(rest) = below(path, &place).filter(|_| folder) {
            found.push((format!("{}/{rest}", source.trim_end_matches('/')), String::new()));
        }
    }
    found
}

struct Translator<'a> {
    request: &'a Request<'a>,
    images: &'a BTreeMap<usize, StageImage>,
    done: Translation,
    accounts: BTreeMap<String, Account>,
}

/// Files that only installers read.
const INPUTS: [&str; 12] = [
    "pyproject.toml",
    "uv.lock",
    "poetry.lock",
    "Pipfile",
    "Pipfile.lock",
    "pdm.lock",
    "poetry.toml",
    "uv.toml",
    "setup.cfg",
    "constraints.txt",
    ".python-version",
    "requirements",
];

/// True for a file that only an installation of packages reads.
pub fn is_input(path: &str) -> bool {
    let name = path.trim_end_matches('/').trim_end_matches('*').rsplit('/').next().unwrap_or_default();
    let name = name.trim_start_matches('*');
    INPUTS.contains(&name)
        || path.starts_with("requirements/")
        || (name.starts_with("requirements") || name.ends_with("requirements.txt")) && !name.ends_with(".py")
}

impl Translator<'_> {
    fn add(&mut self, kind: NoteKind, line: usize, text: &str, reason: &str, replacement: &str) {
        self.done.notes.push(note(kind, line, text, reason, replacement));
    }

    fn text(&self, line: usize) -> String {
        self.request.dockerfile.instruction_text(line).unwrap_or_default().to_owned()
    }

    fn translate(&mut self, image: &StageImage) {
        self.done.notes.extend(image.notes.iter().cloned());
        self.accounts(image);
        self.root(image);
        self.done.user = self.account(&image.user, 0);
        self.done.workdir = if image.workdir == "/" { "/app".to_owned() } else { image.workdir.clone() };
        let mut environments = image.environments.clone();
        let mut input = image.input.clone();
        let mut system = image.system.clone();
        let mut builders = image.mounted.clone();
        for item in &image.items {
            self.item(item, &mut environments, &mut builders);
        }
        let mut build = Vec::new();
        for index in &builders {
            let builder = &self.images[index];
            input.add(builder.input.clone());
            build.extend(builder.system.iter().cloned());
            environments.extend(builder.environments.iter().cloned());
            self.done.notes.extend(builder.notes.iter().cloned());
        }
        // A stage that the image is built on is not a builder of it.
        build.retain(|one| !system.contains(one));
        self.input(input);
        let asks = self.healthcheck(image, &environments);
        self.packages(&mut system, &build, asks && !self.calls_a_downloader(image));
        self.done.environments = environments.iter().cloned().collect();
        self.configuration(image, &environments);
        self.python_path(image, &builders);
    }

    fn accounts(&mut self, image: &StageImage) {
        let known =
            [("root", 0, 0, "/root"), ("nobody", 65534, 65534, "/nonexistent"), ("www-data", 33, 33, "/var/www")];
        for (name, user, group, home) in known {
            let account = Account { name: name.to_owned(), user, group, home: home.to_owned(), made: false };
            self.accounts.insert(name.to_owned(), account);
        }
        let created: Vec<&Created> = image.accounts.iter().map(|(_, created)| created).collect();
        let mut numbers = accounts::numbers(&created).into_iter();
        for (line, created) in &image.accounts {
            let Created::User(new) = created else { continue };
            let (id, group) = numbers.next().expect("every new user has numbers");
            let home = new.home.clone().unwrap_or_else(|| ["/home", new.name.as_str()].join("/"));
            let account = Account { name: new.name.clone(), user: id, group, home, made: true };
            if new.id.is_none() {
                let reason = format!("the command leaves the number to the system; the new image has {id}:{group}");
                self.add(NoteKind::Changed, *line, &self.text(*line), &reason, "name another one: `useradd --uid`");
            }
            self.accounts.insert(new.name.clone(), account);
        }
    }

    /// The account that `USER` or an owner names.
    fn account(&mut self, text: &str, line: usize) -> Account {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let by_number = |number: u32| self.accounts.values().find(|account| account.user == number).cloned();
        let account = match user.parse::<u32>() {
            Ok(number) => Some(by_number(number).unwrap_or_else(|| Account {
                name: "app".to_owned(),
                user: number,
                group: group.and_then(|group| group.parse().ok()).unwrap_or(0),
                home: "/home/app".to_owned(),
                made: true,
            })),
            Err(_) => self.accounts.get(user).cloned(),
        };
        let Some(mut account) = account else {
            self.add(NoteKind::Missing, line, text, "no command creates this user", "use its number");
            return Account::default();
        };
        match group.map(|group| (group.parse::<u32>(), self.accounts.get(group))) {
            Some((Ok(number), _)) => account.group = number,
            Some((_, Some(other))) => account.group = other.group,
            _ => {}
        }
        account
    }

    fn owner(&mut self, text: &str, line: usize) -> Option<String> {
        if text.contains('$') {
            self.add(NoteKind::Missing, line, text, "the owner is known only to the shell", "write its number");
            return None;
        }
        // `:group` keeps the user.
        let text = if text.starts_with(':') { format!("root{text}") } else { text.trim_end_matches(':').to_owned() };
        let account = self.account(&text, line);
        Some(format!("{}:{}", account.user, account.group)).filter(|owner| owner != "0:0")
    }

    fn root(&mut self, image: &StageImage) {
        let line = self.request.dockerfile.target().line;
        let from = format!("FROM {}", image.image);
        let given = self.request.python.map(str::to_owned);
        let given = given.or_else(|| roots::version(self.request.root_image?.rsplit(':').next().unwrap_or_default()));
        let known = roots::root(&image.image, given.as_deref().unwrap_or(roots::PYTHON));
        self.done.is_python = known.as_ref().is_some_and(|root| root.was_python);
        if let Some((root, reason)) = known.as_ref().and_then(|root| Some((root, root.reason?))) {
            self.add(NoteKind::Changed, line, &from, reason, &format!("the root is `{}`", root.image));
        }
        let said = known.as_ref().and_then(|root| root.python.clone());
        self.done.root_image = match (self.request.root_image, &known) {
            (Some(given), _) => given.to_owned(),
            (None, Some(root)) => format!("docker.io/library/{}", root.image),
            (None, None) => {
                let reason = "only roots with Python alone are known: its own packages would not be in the environment";
                self.add(NoteKind::Missing, line, &from, reason, "name the root: `--root-image python:3.12-slim`");
                image.image.clone()
            }
        };
        self.done.python = match (given.or(said), &known) {
            (Some(python), _) => python,
            (None, Some(_)) if self.request.root_image.is_none() => {
                let reason = "the image's name does not say which Python it has";
                let python = format!("it is Python {}; another one: `--python 3.12`", roots::PYTHON);
                self.add(NoteKind::Changed, line, &from, reason, &python);
                roots::PYTHON.to_owned()
            }
            (None, None) if self.request.root_image.is_none() => String::new(),
            _ => {
                let reason = "the tag does not say which Python it has";
                self.add(NoteKind::Missing, line, &from, reason, "name its version: `--python 3.12`");
                String::new()
            }
        };
    }

    fn item(&mut self, item: &Item, environments: &mut BTreeSet<String>, builders: &mut BTreeSet<usize>) {
        match item {
            Item::Copy(placed) => self.copy(placed, environments, builders),
            Item::Run { line, shown, kept, mounts } => {
                let first = !self.done.steps.iter().any(|step| matches!(step, AppStep::Copy(_)));
                let reason = "it runs a program";
                let account = self.account(&kept.user, *line);
                let user = format!("{}:{}", account.user, account.group);
                // The base has neither the app's files nor other stages.
                let first = first && user == "0:0" && !mounts.iter().any(|mount| mount.kind == "bind");
                let (stage, place) = if first { ("steps", "base") } else { ("app", "app") };
                let stage = format!(
                    "it stays a `RUN` in the stage `{stage}` of the {place}'s Dockerfile, which only docker builds"
                );
                self.add(NoteKind::Docker, *line, shown, reason, &stage);
                for (name, value) in kept.args.iter().filter(|(name, _)| shell::mentions(&kept.text, name)) {
                    let reason = format!("builds give no build arguments; its value is `{value}`");
                    let place = format!("edit it in the {place}'s Dockerfile");
                    self.add(NoteKind::Changed, *line, &format!("ARG {name}"), &reason, &place);
                }
                let target = self.request.dockerfile.target().index;
                for name in mounts.iter().filter_map(|mount| mount.from.as_ref()) {
                    if let Some(index) = self.request.dockerfile.find_stage(name, target) {
                        self.keep(index);
                    }
                }
                let kept = Kept { user, text: mapped(&kept.text, environments), ..kept.clone() };
                if first {
                    self.done.base_runs.push(kept);
                } else {
                    self.done.steps.push(AppStep::Run(kept));
                }
            }
            Item::Folders(paths) => {
                for path in paths {
                    self.done.folders.entry(path.clone()).or_default();
                }
            }
            Item::Owner { line, owner, paths } => {
                let owner = self.owner(owner, *line);
                for path in paths {
                    self.own(path, owner.as_ref());
                }
                if self.done.steps.iter().any(|step| matches!(step, AppStep::Run(_))) {
                    // For what the programs before it wrote.
                    let text = format!("RUN chown -R {} {}", owner.as_deref().unwrap_or("0:0"), paths.join(" "));
                    self.done.steps.push(self.of_root(text));
                }
            }
            Item::Mode { line, mode, paths, shown } => {
                for path in paths {
                    self.mode((*line, shown), mode, path);
                }
            }
        }
    }

    /// A `RUN` that needs nothing but root's rights.
    fn of_root(&self, text: String) -> AppStep {
        AppStep::Run(Kept { text, user: "0:0".to_owned(), workdir: self.done.workdir.clone(), ..Kept::default() })
    }

    fn own(&mut self, path: &str, owner: Option<&String>) {
        let mut inner = None;
        for step in &mut self.done.steps {
            let AppStep::Copy(placed) = step else { continue };
            if below(&placed.destination, path).is_some() {
                placed.owner = owner.cloned();
            } else if placed.from == From::Context {
                let found = located(placed, path, self.request).into_iter().next();
                let found = found.filter(|(source, _)| exists(self.request, source));
                inner = inner.or(found.map(|(source, _)| Placed {
                    sources: vec![source],
                    destination: path.to_owned(),
                    into: false,
                    owner: owner.cloned(),
                    ..placed.clone()
                }));
            }
        }
        match inner {
            Some(placed) => self.done.steps.push(AppStep::Copy(placed)),
            None => self.done.folders.entry(path.to_owned()).or_default().owner = owner.cloned(),
        }
    }

    fn mode(&mut self, (line, shown): (usize, &str), mode: &str, path: &str) {
        let octal = match mode {
            "+x" | "a+x" | "ugo+x" | "u+x" => "0755",
            mode => mode,
        };
        // A folder, or one that was made on the way to one.
        let copied =
            |step: &AppStep| matches!(step, AppStep::Copy(placed) if below(&placed.destination, path).is_some());
        let made = self.done.folders.keys().any(|folder| below(folder, path).is_some());
        if made && !self.done.steps.iter().any(copied) {
            self.done.folders.entry(path.to_owned()).or_default().mode = Some(octal.to_owned());
            return;
        }
        let found = self.done.steps.iter().rev().find_map(|step| match step {
            AppStep::Copy(placed) => {
                let (source, rest) = located(placed, path, self.request).into_iter().next()?;
                let is_file = placed.from == From::Context
                    && rest.is_empty()
                    && self.request.files.contains(&in_context(self.request.context, &source));
                is_file.then(|| Placed {
                    sources: vec![source],
                    destination: path.to_owned(),
                    into: false,
                    mode: Some(octal.to_owned()),
                    ..placed.clone()
                })
            }
            AppStep::Run(_) => None,
        });
        match found {
            Some(placed) => {
                let same = |step: &AppStep| matches!(step, AppStep::Copy(known) if known.sources == placed.sources && known.line == placed.line);
                // A copy of this file alone gets the mode itself.
                match self.done.steps.iter().position(same) {
                    Some(at) => self.done.steps[at] = AppStep::Copy(placed),
                    None => self.done.steps.push(AppStep::Copy(placed)),
                }
            }
            None => {
                let stage = "it stays a `RUN` of the app's Dockerfile, which only docker builds";
                self.add(NoteKind::Docker, line, shown, "it changes files that no COPY of the Dockerfile names", stage);
                self.done.steps.push(self.of_root(format!("RUN chmod {mode} {path}")));
            }
        }
    }

    fn copy(&mut self, placed: &Placed, environments: &mut BTreeSet<String>, builders: &mut BTreeSet<usize>) {
        let mut placed = placed.clone();
        let line = placed.line;
        if let Some(owner) = placed.owner.take() {
            placed.owner = self.owner(&owner, line);
        }
        match placed.from.clone() {
            From::Context => {
                let remote: Vec<String> =
                    placed.sources.iter().filter(|one| crate::spec::dockerfile::remote(one)).cloned().collect();
                if let Some(url) = remote.first() {
                    let stage = "the app's Dockerfile keeps it, and only docker builds that";
                    self.add(NoteKind::Docker, line, &format!("ADD {url}"), "it downloads a file", stage);
                }
                placed.sources.retain(|source| !is_input(source));
                if !placed.sources.is_empty() || !placed.heredocs.is_empty() {
                    self.done.steps.push(AppStep::Copy(placed));
                }
            }
            From::Image(name) => {
                if name.contains("astral-sh/uv") {
                    return;
                }
                let stage = "the app's Dockerfile keeps it, and only docker builds that";
                self.add(NoteKind::Docker, line, &self.text(line), "it copies from another image", stage);
                self.done.steps.push(AppStep::Copy(placed));
            }
            From::Stage(index) => {
                for source in placed.sources.clone() {
                    self.copy_from(index, &Placed { sources: vec![source], ..placed.clone() }, environments, builders);
                }
            }
        }
    }

    /// One path of another stage: the environment, files of the context, or something that the stage makes.
    fn copy_from(
        &mut self,
        index: usize,
        placed: &Placed,
        environments: &mut BTreeSet<String>,
        builders: &mut BTreeSet<usize>,
    ) {
        let images = self.images;
        let (Some(image), Some(source)) = (images.get(&index), placed.sources.first()) else { return };
        if image.image.contains("astral-sh/uv") && image.items.is_empty() && image.input.is_empty() {
            return;
        }
        let path = absolute("/", source);
        let installs = !image.input.is_empty();
        let site = installs
            && (path.starts_with("/usr/local/lib/python")
                || path == "/usr/local"
                || path.starts_with("/usr/local/bin"));
        let is_environment = image.environments.iter().any(|one| below(&path, one).is_some());
        if is_environment || site {
            builders.insert(index);
            if is_environment && !placed.destination.starts_with("/usr/local") {
                environments.insert(placed.destination.clone());
            }
            return;
        }
        let is_intermediate = image.intermediate.iter().any(|one| below(&path, one).is_some());
        if is_intermediate || is_input(&path) {
            builders.insert(index);
            return;
        }
        let has_environment = image.environments.iter().any(|one| below(one, &path).is_some());
        // What a stage below both has run, the app has run too.
        let shared = |line: &usize| {
            let same = |item: &Item| matches!(item, Item::Run { line: other, .. } if other == line);
            self.images[&self.request.dockerfile.target().index].items.iter().any(same)
        };
        let runs = image.items.iter().any(|item| matches!(item, Item::Run { line, .. } if !shared(line)));
        let mut found = Vec::new();
        if !runs {
            self.files_of(index, &path, &placed.destination, &mut found);
        }
        if has_environment {
            builders.insert(index);
            for one in &image.environments {
                if let Some(rest) = below(one, &path) {
                    environments.insert(absolute(&placed.destination, rest));
                }
            }
        }
        if !runs && (has_environment || !found.is_empty()) {
            for mut one in found {
                one.sources.retain(|source| !is_input(source));
                one.owner = placed.owner.clone();
                one.line = placed.line;
                if !one.sources.is_empty() {
                    self.done.steps.push(AppStep::Copy(one));
                }
            }
            return;
        }
        let name = self.request.dockerfile.stages()[index].name.clone().unwrap_or_else(|| index.to_string());
        let stage = format!("the stage `{name}` stays as it is, and only docker builds it");
        self.add(NoteKind::Docker, placed.line, &self.text(placed.line), "the files are made by programs", &stage);
        self.keep(index);
        self.done.steps.push(AppStep::Copy(placed.clone()));
    }

    /// Files of the context that another stage has below a path.
    fn files_of(&self, index: usize, path: &str, destination: &str, found: &mut Vec<Placed>) {
        let Some(image) = self.images.get(&index) else { return };
        for item in &image.items {
            let Item::Copy(placed) = item else { continue };
            for (source, rest) in located(placed, path, self.request) {
                let place = absolute(destination, &rest);
                match placed.from {
                    From::Context if exists(self.request, &source) => {
                        let into = placed.into && rest.is_empty() && placed.sources.len() > 1;
                        found.push(Placed { sources: vec![source], destination: place, into, ..placed.clone() });
                    }
                    From::Stage(other) => self.files_of(other, &absolute("/", &source), &place, found),
                    From::Context | From::Image(_) => {}
                }
            }
        }
    }

    fn keep(&mut self, index: usize) {
        if !self.done.kept.insert(index) {
            return;
        }
        let stage = &self.request.dockerfile.stages()[index];
        if let Some(below) = self.request.dockerfile.find_stage(&stage.base, index) {
            self.keep(below);
        }
        for other in self.request.dockerfile.copied_stages(index, None) {
            self.keep(other);
        }
    }

    fn packages(
        &mut self,
        system: &mut Vec<(usize, &'static str, Vec<String>)>,
        build: &[(usize, &'static str, Vec<String>)],
        asks: bool,
    ) {
        let push = |list: &mut Vec<String>, name: &str| {
            if !list.iter().any(|known| known == name) {
                list.push(name.to_owned());
            }
        };
        let given: Vec<String> = self.request.system_packages.to_vec();
        given.iter().for_each(|name| push(&mut self.done.system, name));
        let first = system.first().map_or_else(|| self.request.dockerfile.target().line, |(line, ..)| *line);
        for (line, manager, names) in std::mem::take(system) {
            let (mut unknown, apk) = (Vec::new(), manager == "apk");
            for name in &names {
                match system::purpose(name) {
                    PackagePurpose::Runtime if apk && name.ends_with("-dev") => {}
                    PackagePurpose::Build(libraries) => {
                        if !apk {
                            push(&mut self.done.build, name);
                        }
                        push(&mut self.done.dropped, name);
                        let reason = "it is needed to compile packages, which the app does not do";
                        let mut replacement =
                            "wheels need no compiler; a package without one: `BUILD_PACKAGES` in `[base.args]`"
                                .to_owned();
                        if !libraries.is_empty() {
                            replacement +=
                                &format!(", and `--system-package {}`", libraries.join(" --system-package "));
                        }
                        self.add(NoteKind::Changed, line, &format!("install {name}"), reason, &replacement);
                    }
                    PackagePurpose::Present => {}
                    PackagePurpose::Asks if asks => {
                        push(&mut self.done.dropped, name);
                        let reason = "only the health check calls it";
                        self.add(
                            NoteKind::Changed,
                            line,
                            &format!("install {name}"),
                            reason,
                            "the health check asks with Python",
                        );
                    }
                    PackagePurpose::Runtime if apk => match system::of_alpine(name) {
                        Some(debian) => push(&mut self.done.system, debian),
                        None => unknown.push(name.clone()),
                    },
                    PackagePurpose::Asks | PackagePurpose::Runtime => push(&mut self.done.system, name),
                }
            }
            if !unknown.is_empty() && given.is_empty() {
                let reason = "names of Alpine's packages are not Debian's";
                let replacement = "name Debian's, or none: `--system-package NAME`, `--system-package none`";
                self.add(NoteKind::Missing, line, &format!("apk add {}", unknown.join(" ")), reason, replacement);
            }
        }
        self.done.system.retain(|name| name != "none");
        for (_, _, names) in build.iter().filter(|(_, manager, _)| *manager != "apk") {
            for name in names.iter().filter(|name| !matches!(system::purpose(name), PackagePurpose::Present)) {
                push(&mut self.done.build, name);
            }
        }
        if !self.done.system.is_empty() {
            let what = format!("install {}", self.done.system.join(" "));
            let stage =
                "`SYSTEM_PACKAGES` in `[base.args]`: `cargo xtask lock` pins them, and both engines install them";
            self.add(NoteKind::Changed, first, &what, "the root needs packages of the operating system", stage);
        }
    }

    /// True if a command of the image calls curl or wget.
    fn calls_a_downloader(&self, image: &StageImage) -> bool {
        let says = |text: &str| text.contains("curl") || text.contains("wget");
        let command = |command: &Option<Command>| match command {
            Some(Command::Exec(words)) => words.iter().any(|word| says(word)),
            Some(Command::Shell(text)) => says(text),
            None => false,
        };
        let runs = image.items.iter().any(|item| matches!(item, Item::Run { kept, .. } if says(&kept.text)));
        let scripts = self.request.files.iter().filter(|path| path.ends_with(".sh"));
        let scripts = scripts.filter_map(|path| (self.request.read)(path)).any(|text| says(&text));
        command(&image.entrypoint) || command(&image.cmd) || runs || scripts
    }

    /// The health check; true if it no longer needs curl or wget.
    fn healthcheck(&mut self, image: &StageImage, environments: &BTreeSet<String>) -> bool {
        let Some(Some(check)) = &image.healthcheck else {
            self.done.healthcheck.clone_from(&image.healthcheck);
            // Then nothing says what a downloader is for.
            return false;
        };
        let text = match &check.command {
            Command::Exec(words) => words.join(" "),
            Command::Shell(text) => text.clone(),
        };
        let asks = shell::commands(&text, &BTreeMap::new()).map(|found| found.all).filter(|all| all.len() == 1);
        let url = asks.and_then(|all| {
            let one = &all[0];
            let calls = ["curl", "wget"].contains(&one.program());
            let urls: Vec<&String> = one
                .args()
                .iter()
                .filter(|arg| arg.contains("://") || arg.starts_with("localhost") || arg.starts_with("127."))
                .collect();
            (calls && one.plain && urls.len() == 1).then(|| urls[0].clone())
        });
        let command = match &url {
            Some(url) => {
                let url = if url.contains("://") { url.clone() } else { format!("http://{url}") };
                let ask = format!("import urllib.request as r; r.urlopen('{url}', timeout=5)");
                let reason = "the root has Python, and need not have curl or wget";
                let checks = |instruction: &&Instruction| matches!(instruction.kind, Kind::Healthcheck(_));
                let mut stages = self.request.dockerfile.stages().iter().flat_map(|stage| &stage.instructions);
                let line = stages.rfind(checks).map_or(0, |instruction| instruction.line);
                self.add(NoteKind::Changed, line, &format!("HEALTHCHECK CMD {text}"), reason, "it asks with Python");
                Command::Exec(vec!["python3".to_owned(), "-c".to_owned(), ask])
            }
            None => command(&check.command, environments),
        };
        self.done.healthcheck = Some(Some(Healthcheck { options: check.options.clone(), command }));
        url.is_some()
    }

    fn configuration(&mut self, image: &StageImage, environments: &BTreeSet<String>) {
        let tools = ["PIP_", "UV_", "POETRY_", "PIPENV_", "DEBIAN_FRONTEND"];
        let base = ["VIRTUAL_ENV", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "HOME"];
        for (name, value) in &image.env {
            let value = mapped(value, environments);
            match name.as_str() {
                "PATH" => {
                    let known = |part: &&str| {
                        !part.is_empty()
                            && !part.starts_with(ENVIRONMENT)
                            && !DEFAULT_FOLDERS.contains(part)
                            && !part.contains("/.local/bin")
                            && !part.contains("poetry")
                    };
                    let own: Vec<&str> = value.split(':').filter(known).collect();
                    if !own.is_empty() {
                        self.done.env.push((name.clone(), format!("{}:$PATH", own.join(":"))));
                    }
                }
                name if tools.iter().any(|tool| name.starts_with(tool)) || base.contains(&name) && name != "HOME" => {}
                _ => self.done.env.push((name.clone(), value)),
            }
        }
        self.done.labels.clone_from(&image.labels);
        self.done.expose.clone_from(&image.expose);
        self.done.volumes.clone_from(&image.volumes);
        self.done.stop_signal.clone_from(&image.stop_signal);
        self.done.shell.clone_from(&image.shell);
        self.done.entrypoint = image.entrypoint.as_ref().map(|one| command(one, environments));
        self.done.cmd = image.cmd.as_ref().map(|one| command(one, environments));
        for script in self.request.files.iter().filter(|path| path.ends_with(".sh")) {
            let used = format!("{:?}{:?}", image.entrypoint, image.cmd);
            let name = script.rsplit('/').next().unwrap_or(script);
            let text =
                if used.contains(name) { (self.request.read)(script).unwrap_or_default() } else { String::new() };
            if let Some((at, line)) = text
                .lines()
                .enumerate()
                .find(|(_, line)| ["uv run", "poetry run", "pipenv run"].iter().any(|tool| line.contains(tool)))
            {
                let what = format!("{script}:{}: {}", at + 1, line.trim());
                self.add(
                    NoteKind::Missing,
                    0,
                    &what,
                    "the image has no such tool",
                    "call the program itself: the environment is on `PATH`",
                );
            }
        }
    }
}

const DEFAULT_FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

fn exists(request: &Request<'_>, source: &str) -> bool {
    let path = in_context(request.context, source);
    source.contains(['*', '?', '[']) || request.files.contains(&path) || is_folder(request, source)
}

/// The names of a project's extras.
fn extras(text: &str) -> Vec<String> {
    let Ok(project) = text.parse::<toml::Table>() else { return Vec::new() };
    let standard = project.get("project").and_then(|project| project.get("optional-dependencies"));
    let poetry = project.get("tool").and_then(|tool| tool.get("poetry")?.get("extras"));
    let names = |table: &toml::Value| table.as_table().map(|table| table.keys().cloned().collect::<Vec<_>>());
    standard.or(poetry).and_then(names).unwrap_or_default()
}

/// A text with the places of environments replaced.
fn mapped(text: &str, environments: &BTreeSet<String>) -> String {
    let mut all: Vec<&String> =
        environments.iter().filter(|one| one.as_str() != "/" && !one.starts_with("/usr")).collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.len()));
    let mut text = text.to_owned();
    for one in all {
        let mut done = String::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find(one.as_str()) {
            let (before, after) = (&rest[..at], &rest[at + one.len()..]);
            let starts = !before.ends_with(|c: char| c.is_ascii_alphanumeric() || "/._-".contains(c));
            let ends = !after.starts_with(|c: char| c.is_ascii_alphanumeric() || "._-".contains(c));
            done += before;
            done += if starts && ends { ENVIRONMENT } else { one };
            rest = after;
        }
        text = done + rest;
    }
    text
}

/// A command without the tool that starts it in its environment.
fn command(command: &Command, environments: &BTreeSet<String>) -> Command {
    match command {
        Command::Exec(words) => {
            let words: Vec<String> = words.iter().map(|word| without_runner(&mapped(word, environments))).collect();
            let Some(count) = runner(&words) else { return Command::Exec(words) };
            let python = needs_python(&words[count]).then(|| "python".to_owned());
            Command::Exec(python.into_iter().chain(words[count..].iter().cloned()).collect())
        }
        Command::Shell(text) => Command::Shell(without_runner(&mapped(text, environments))),
    }
}

/// Number of words of `uv run` with its options at the begin of a command.
fn runner<S: AsRef<str>>(words: &[S]) -> Option<usize> {
    let tool = words.first()?.as_ref().rsplit('/').next()?;
    if !["uv", "poetry", "pipenv", "pdm", "rye", "hatch"].contains(&tool) || words.get(1)?.as_ref() != "run" {
        return None;
    }
    let mut at = 2;
    while let Some(word) = words.get(at).map(AsRef::as_ref).filter(|word| word.starts_with('-') && *word != "-m") {
        let valued =
            ["--extra", "--group", "--package", "--with", "--env-file", "--directory", "--project", "--python", "-p"];
        at += if valued.contains(&word) { 2 } else { 1 };
        if word == "--" {
            break;
        }
    }
    (at < words.len()).then_some(at)
}

/// True if the tool gives this to Python.
fn needs_python(word: &str) -> bool {
    word == "-m" || word.ends_with(".py")
}

/// A shell text without `uv run`, wherever a command begins.
fn without_runner(text: &str) -> String {
    if !text.contains(" run ") {
        return text.to_owned();
    }
    let words: Vec<&str> = text.split(' ').collect();
    let mut kept: Vec<&str> = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let starts =
            kept.last().is_none_or(|word| ["&&", "||", ";", "exec", "|"].contains(word) || word.ends_with(';'));
        match runner(&words[at..]).filter(|_| starts) {
            Some(count) => {
                at += count;
                kept.extend(needs_python(words[at]).then_some("python"));
                kept.push(words[at]);
                at += 1;
            }
            None => {
                kept.push(words[at]);
                at += 1;
            }
        }
    }
    kept.join(" ")
}
