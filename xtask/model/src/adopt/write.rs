//! The files of an adopted repository.
//!
//! Pure. The stages of the base's Dockerfile are the texts that the native engine's recipes implement, so that they cannot differ.

use super::paths::below;
use super::stages::{AppStep, ENVIRONMENT, Folder, From, Kept, Placed, Translation, in_context, is_input};
use super::{Adoption, NewFile, Note, NoteKind, Request};
use crate::image::policy::{self, BUILD_PACKAGES, Policy, Provider, RelPath, SYSTEM_PACKAGES};
use crate::record::workflows::{self, PolicyLocation, RootDigests};
use crate::spec::dockerfile::{Command, Healthcheck, Kind};
use crate::spec::lock::formats::Format;
use crate::spec::lock::{self, ImagesLock};
use crate::spec::project::installed::{METADATA, PROGRAMS};
use crate::spec::project::is_manifest;
use crate::spec::reference::Reference;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The first line of every file that only this translation writes.
pub const MARK: &str = "# Written by `cargo xtask init`";

/// True if a text was written by an earlier translation, and does not count for the next.
pub fn is_written(text: &str) -> bool {
    text.starts_with(MARK) || text.starts_with("# Written by `cargo xtask")
}

const BASE: &str = include_str!("template/Dockerfile.base");
const MAIN: &str = include_str!("template/main.txt");
const STAGES: &str = include_str!("../../../native/src/recipes/Dockerfile.stages");
const INSTALL: &str = include_str!("../../../../dockerfiles/install.py");
const COMPILE: &str = include_str!("../../../../dockerfiles/compile.py");
const CHECK_IMPORTS: &str = include_str!("../../../../dockerfiles/check-imports.py");

/// The files of the repository: those of all apps are with the first.
pub(super) fn files(requests: &[Request<'_>], translations: Vec<Translation>) -> Vec<Adoption> {
    let folder = folder(requests);
    let writer = |(request, done)| Writer::new(request, folder, done);
    let mut writers: Vec<Writer<'_>> = requests.iter().zip(translations).map(writer).collect();
    let bases = share_bases(&mut writers);
    different_roots(&mut writers);
    let mut sources = Vec::new();
    for first in bases {
        sources.push((first, writers[first].write_base()));
    }
    let locks: Vec<String> = sources.iter().map(|(_, source)| source.installed.clone()).collect();
    for writer in &mut writers {
        writer.locks.clone_from(&locks);
        writer.write_app();
    }
    for (name, text) in SCRIPTS {
        writers[0].add(&format!("{folder}/{name}"), text.to_owned());
    }
    let policy = policy(&mut writers, &sources);
    writers[0].add(policy::FILE, policy.clone());
    writers[0].program();
    if requests[0].workflows.is_some() {
        let written = writers.iter().flat_map(|writer| &writer.files).map(|file| file.path.clone()).collect();
        writers[0].workflows(&policy, &written);
    }
    // Apps of one project have the same metadata.
    let mut known = BTreeSet::new();
    let adoption = |Writer { done, mut files, left_out, .. }: Writer<'_>| {
        files.retain(|file| known.insert(file.path.clone()));
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let mut notes = done.notes;
        notes.sort();
        notes.dedup();
        Adoption { files, notes, left_out, dropped: done.dropped, environments: done.environments }
    };
    writers.into_iter().map(adoption).collect()
}

/// Has apps that need the same below their own files share one base. Returns the position of the first app on each base; where there are
/// several bases, each has the name of that app.
fn share_bases(writers: &mut [Writer<'_>]) -> Vec<usize> {
    let mut firsts: Vec<usize> = Vec::new();
    let mut on = Vec::new();
    for (index, writer) in writers.iter().enumerate() {
        let same = |first: &&usize| writers[**first].base_parts() == writer.base_parts();
        let first = firsts.iter().find(same).copied().unwrap_or_else(|| {
            firsts.push(index);
            index
        });
        on.push(first);
    }
    for (index, first) in on.into_iter().enumerate() {
        writers[index].base_workdir = writers[first].done.workdir.clone();
        if firsts.len() > 1 {
            writers[index].base = writers[first].request.app.map(str::to_owned);
        }
    }
    firsts
}

/// A policy has one root.
fn different_roots(writers: &mut [Writer<'_>]) {
    let (image, python) = (writers[0].done.root_image.clone(), writers[0].done.python.clone());
    for writer in &mut writers[1..] {
        if (&writer.done.root_image, &writer.done.python) != (&image, &python) {
            let what = format!("FROM {}", writer.done.root_image);
            let reason =
                format!("a policy has one root, and the first Dockerfile is on `{image}` with Python {python}");
            let replacement =
                "give all the same one with `--root-image`, or leave this one out: `--dockerfile` names the others";
            writer.note(NoteKind::Missing, &what, &reason, replacement);
        }
    }
}

/// Folders of the Dockerfiles: the default, and the one for a repository with other files under those names.
const FOLDERS: [&str; 2] = ["dockerfiles", "images"];
const SCRIPTS: [(&str, &str); 3] =
    [("install.py", INSTALL), ("compile.py", COMPILE), ("check-imports.py", CHECK_IMPORTS)];

fn folder(requests: &[Request<'_>]) -> &'static str {
    let read = requests[0].read;
    let foreign = |name: &str| read(&format!("{}/{name}", FOLDERS[0])).is_some_and(|text| !is_written(&text));
    let of_app = |request: &Request<'_>| {
        let name = request.app.unwrap_or("fast");
        foreign(&format!("Dockerfile.{name}")) || foreign(&format!("Dockerfile.base-{name}"))
    };
    FOLDERS[usize::from(foreign("Dockerfile.base") || requests.iter().any(of_app))]
}

/// The packages of the base.
struct PackageSource {
    /// Keys of `[base]`.
    keys: String,
    /// The file that engines install from.
    installed: String,
}

/// An empty folder of the app.
struct EmptyFolder<'a> {
    number: usize,
    path: &'a str,
    folder: &'a Folder,
}

impl EmptyFolder<'_> {
    /// The folder above it and its name, if it is copied as an entry of another one: only then it has set-id and sticky bits. Without
    /// a link where that would give the folders above another owner and mode.
    fn entry(&self) -> Option<(&str, &str)> {
        let mode = u32::from_str_radix(self.folder.mode.as_ref()?, 8).unwrap_or_default();
        let (above, name) = self.path.rsplit_once('/')?;
        (above.is_empty() || mode > 0o777).then_some((above, name))
    }

    /// Path at which the stage makes it.
    fn made(&self) -> String {
        self.entry().map_or_else(|| self.path.to_owned(), |(_, name)| format!("/{}/{name}", self.number))
    }

    fn copy(&self) -> String {
        let link = if self.entry().is_some_and(|(above, _)| !above.is_empty()) { "" } else { " --link" };
        let mut text = format!("COPY{link} --from=folders");
        for (flag, value) in [("chown", &self.folder.owner), ("chmod", &self.folder.mode)] {
            text += &value.as_ref().map_or_else(String::new, |value| format!(" --{flag}={value}"));
        }
        match self.entry() {
            Some((above, _)) => text + &format!(" /{}/ {above}/\n", self.number),
            None => text + &format!(" {0} {0}\n", self.path),
        }
    }
}

struct Writer<'a> {
    request: &'a Request<'a>,
    /// Folder of the Dockerfiles and their scripts.
    folder: &'static str,
    /// Name of its base, where there are several.
    base: Option<String>,
    /// Folder in which the base's files begin.
    base_workdir: String,
    done: Translation,
    files: Vec<NewFile>,
    left_out: Vec<String>,
    /// Locks of all bases.
    locks: Vec<String>,
}

/// A text as TOML and as JSON quote it.
/// Compilers, with the headers that `apt-get` adds to them unless it is called without recommended packages.
fn build_packages(names: &[String]) -> Vec<String> {
    if names.is_empty() {
        return Vec::new();
    }
    let names = names.iter().map(|name| name.split('=').next().unwrap_or(name));
    let all: BTreeSet<String> = names.chain(["libc6-dev", "python3-dev"]).map(str::to_owned).collect();
    all.into_iter().collect()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list<S: AsRef<str>>(texts: &[S]) -> String {
    format!("[{}]", texts.iter().map(|text| quoted(text.as_ref())).collect::<Vec<_>>().join(", "))
}

/// Parts of a base.
type BaseParts<'a> = (&'a super::Input, [&'a Vec<String>; 2], &'a [Kept], &'a super::stages::Account);

impl<'a> Writer<'a> {
    fn new(request: &'a Request<'a>, folder: &'static str, done: Translation) -> Self {
        let base_workdir = done.workdir.clone();
        Self {
            request,
            folder,
            base: None,
            base_workdir,
            done,
            files: Vec::new(),
            left_out: Vec::new(),
            locks: Vec::new(),
        }
    }

    fn base_parts(&self) -> BaseParts<'_> {
        let Translation { input, system, build, base_runs, user, .. } = &self.done;
        (input, [system, build], base_runs, user)
    }

    fn base_file(&self) -> String {
        self.base.as_ref().map_or_else(|| "Dockerfile.base".to_owned(), |name| format!("Dockerfile.base-{name}"))
    }

    fn app_file(&self) -> String {
        format!("Dockerfile.{}", self.request.app.unwrap_or("fast"))
    }

    fn add(&mut self, path: &str, text: String) {
        self.files.push(NewFile { path: path.to_owned(), text });
    }

    fn note(&mut self, kind: NoteKind, what: &str, reason: &str, replacement: &str) {
        let [what, reason, replacement] = [what, reason, replacement].map(str::to_owned);
        self.done.notes.push(Note { kind, line: 0, what, reason, replacement });
    }

    fn needs_docker(&self) -> bool {
        self.done.notes.iter().any(|note| note.kind == NoteKind::Docker)
    }

    /// True if the native engine can build the base.
    fn base_is_native(&self) -> bool {
        self.done.base_runs.is_empty()
    }

    /// False if the project, or its lock, says that it is not for a Python.
    fn allows_python(&self, python: &str) -> bool {
        let lock = self.done.input.lock.map(|lock| in_context(self.request.context, lock.name()));
        let project = lock.as_ref().and_then(|lock| Format::of(lock).source(lock));
        let files = lock.into_iter().chain(project).chain(self.done.input.requirements.iter().cloned());
        files
            .filter_map(|path| Some((Format::of(&path), (self.request.read)(&path)?)))
            .all(|(format, text)| format.allows(&text, python))
    }

    fn write_base(&mut self) -> PackageSource {
        let source = self.source();
        let lock = source.installed.clone();
        let (folder, file) = (self.folder, self.base_file());
        let base = self.base(&lock);
        self.add(&format!("{folder}/{file}"), base);
        let ignore = format!(
            "{MARK}: lets in only what {file} copies.\n*\n!{folder}/installer.lock\n!{folder}/install.py\n!{folder}/compile.py\n\
             !{folder}/check-imports.py\n!{lock}\n"
        );
        self.add(&format!("{folder}/{file}.dockerignore"), ignore);
        source
    }

    fn write_app(&mut self) {
        let (folder, file) = (self.folder, self.app_file());
        for (path, text) in self.done.installed.iter().flat_map(|project| project.files.clone()).collect::<Vec<_>>() {
            self.add(&format!("{folder}/projects/{path}"), text);
        }
        let (app, sources) = self.app();
        self.add(&format!("{folder}/{file}"), app);
        let ignore = self.ignore(&sources);
        self.add(&format!("{folder}/{file}.dockerignore"), ignore);
    }

    /// Source of the base's packages: the lock of another tool, or requirements files with a lock of this build system.
    fn source(&mut self) -> PackageSource {
        let input = self.done.input.clone();
        let mut keys = String::new();
        let selects = |keys: &mut String, names: [(&str, &Vec<String>); 3]| {
            for (key, names) in names.into_iter().filter(|(_, names)| !names.is_empty()) {
                let _ = writeln!(keys, "{key} = {}", list(names));
            }
        };
        if let Some(lock) = input.lock.filter(|_| input.requirements.is_empty()) {
            let path = in_context(self.request.context, lock.name());
            let _ = writeln!(keys, "lock = {}", quoted(&path));
            let extras = if lock == super::LockFile::Pipenv { Vec::new() } else { input.extras.clone() };
            let members = if lock == super::LockFile::Uv { input.packages.clone() } else { Vec::new() };
            selects(&mut keys, [("extras", &extras), ("groups", &input.groups), ("members", &members)]);
            return PackageSource { keys, installed: policy::TRANSLATED.to_owned() };
        }
        let (projects, files): (Vec<String>, Vec<String>) =
            input.requirements.iter().cloned().partition(|path| is_manifest(path));
        let plain = input.names.is_empty() && input.constraints.is_empty() && input.options.is_empty();
        let requirements = if plain && !input.requirements.is_empty() {
            input.requirements.clone()
        } else {
            let path = format!("requirements-{}.txt", self.base.as_deref().unwrap_or("image"));
            let mut text = format!("{MARK}: the packages that the Dockerfile installs.\n");
            // An index that one command names is not the only one of the other.
            let several = !input.names.is_empty() && !input.requirements.is_empty();
            for line in &input.options {
                let line = if several { line.replace("--index-url ", "--extra-index-url ") } else { line.clone() };
                text += &format!("{line}\n");
            }
            for (flag, paths) in [("-r", &files), ("-c", &input.constraints)] {
                paths.iter().for_each(|path| text += &format!("{flag} {path}\n"));
            }
            input.names.iter().for_each(|name| text += &format!("{name}\n"));
            self.add(&path, text);
            [path].into_iter().chain(projects.iter().cloned()).collect()
        };
        let stem = match requirements.as_slice() {
            [one] if projects.is_empty() => one.rsplit_once('.').map_or(one.as_str(), |(stem, _)| stem).to_owned(),
            _ => self.base.as_ref().map_or_else(|| "requirements".to_owned(), |name| format!("requirements-{name}")),
        };
        let mut lock = format!("{stem}.lock");
        // A lock of another tool keeps its name.
        if (self.request.read)(&lock).is_some_and(|text| !text.contains("# requirements: ")) {
            lock = format!("{stem}-image.lock");
        }
        let written = if requirements.len() == 1 { quoted(&requirements[0]) } else { list(&requirements) };
        let _ = writeln!(keys, "requirements = {written}\nlock = {}", quoted(&lock));
        if !projects.is_empty() {
            selects(&mut keys, [("extras", &input.extras), ("groups", &input.groups), ("", &Vec::new())]);
        }
        PackageSource { keys, installed: lock }
    }

    /// A stage of the recipes by name, without its `FROM`.
    fn stage(&self, name: &str, lock: &str) -> String {
        let begin = format!("FROM scratch AS {name}\n");
        let text = STAGES.split_once(&begin).map_or("", |(_, rest)| rest);
        let text = text.split("\nFROM ").next().unwrap_or(text).trim_end();
        let last = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
        let text = text
            .replace("@installer@", &format!("{}/installer.lock", self.folder))
            .replace("@installer-name@", "installer.lock")
            .replace("@lock@", lock)
            .replace("@lock-name@", &last(lock))
            .replace("@scripts@", &format!("{}/", self.folder));
        format!("{text}\n")
    }

    fn base(&self, lock: &str) -> String {
        let Translation { user, system, base_runs, workdir, .. } = &self.done;
        let made = user.made;
        let user_args = if made {
            format!(
                "# The user of the app.\nARG USER_NAME={}\nARG USER_ID={}\nARG GROUP_ID={}\nARG USER_HOME={}\n",
                user.name, user.user, user.group, user.home
            )
        } else {
            String::new()
        };
        let system_stage = if system.is_empty() {
            "FROM ${ROOT_IMAGE} AS root\n".to_owned()
        } else {
            format!(
                "# Debian packages of every image: `[base.args]` of `images.toml` names them, `images.lock` pins them.\n\
                 ARG {SYSTEM_PACKAGES}=\"\"\nFROM ${{ROOT_IMAGE}} AS system\n{}\nFROM system AS root\n",
                self.stage("system-packages", lock)
            )
        };
        let user_stage = if made {
            format!(
                "\n# The user's entries, home and the folder `/app`.\nFROM root AS user\n{}\n",
                self.stage("user", lock)
            )
        } else {
            "\n".to_owned()
        };
        let copies = if made {
            "ARG USER_ID\nARG GROUP_ID\nARG USER_HOME\nCOPY --link --from=user /etc/passwd /etc/group /etc/\n\
             COPY --link --from=user --chown=${USER_ID}:${GROUP_ID} ${USER_HOME} ${USER_HOME}\n\
             COPY --link --from=user /app /app\n"
        } else {
            ""
        };
        let runs = if base_runs.is_empty() {
            String::new()
        } else {
            format!(
                "\n# Commands of the former Dockerfile that need none of the app's files.\nFROM assembled AS steps\n{}\n\nFROM steps AS base\n",
                self.commands(base_runs)
            )
        };
        let switch = match (made, user.user, user.group) {
            (true, ..) if base_runs.is_empty() => "USER ${USER_ID}:${GROUP_ID}".to_owned(),
            (false, 0, 0) => String::new(),
            (_, user, group) => format!("USER {user}:{group}"),
        };
        let text = BASE
            .replace("@lock-name@", if lock == policy::TRANSLATED { "the lock" } else { lock })
            .replace("@user-comment@", if made { ", the user" } else { "" })
            .replace("@user-args@", &user_args)
            .replace("@system@", &system_stage)
            .replace("@packages@", &self.stage("python-packages", lock))
            .replace("@user@", user_stage.trim_start_matches('\n'))
            .replace("@assembled@", if base_runs.is_empty() { "base" } else { "assembled" })
            .replace("@copies@", copies)
            .replace("@home@", if made { "    HOME=${USER_HOME} \\\n" } else { "" })
            .replace("@runs@", &runs)
            .replace("@workdir@", workdir)
            .replace("@user-switch@", &switch);
        format!("{MARK}; edit it as you like.\n{}\n", text.trim_end())
    }

    /// The app's Dockerfile, and the context's files that it copies.
    fn app(&self) -> (String, BTreeSet<String>) {
        let Translation { user, folders, kept, steps, .. } = &self.done;
        let mut sources = BTreeSet::new();
        let mut text = format!(
            "{MARK}; edit it as you like.\n# The app image: code on the base image. Copying and metadata only, if no stage runs \
             something.\n\n"
        );
        if !kept.is_empty() {
            for global in self.request.dockerfile.globals() {
                let _ = writeln!(text, "{}", self.request.dockerfile.instruction_text(global.line).unwrap_or_default());
            }
        }
        text += "ARG BASE_IMAGE\n";
        for index in kept {
            text += &self.kept(*index, &mut sources);
        }
        let folders: Vec<EmptyFolder<'_>> =
            folders.iter().enumerate().map(|(number, (path, folder))| EmptyFolder { number, path, folder }).collect();
        if !folders.is_empty() {
            text += "# Empty folders.\nFROM scratch AS folders\n";
            folders.iter().for_each(|folder| text += &format!("WORKDIR {}\n", folder.made()));
            text.push('\n');
        }
        text += "FROM ${BASE_IMAGE} AS app\n";
        let runs = steps.iter().any(|step| matches!(step, AppStep::Run(_)));
        let env = self.env();
        if runs {
            text += &env;
        }
        // A copy makes the folders above its own, with their usual mode: these come last.
        folders.iter().rev().for_each(|folder| text += &folder.copy());
        let account = format!("{}:{}", user.user, user.group);
        let mut around = Kept {
            user: account.clone(),
            workdir: self.base_workdir.clone(),
            env: self.done.env.clone(),
            ..Kept::default()
        };
        for (at, step) in steps.iter().enumerate() {
            match step {
                AppStep::Copy(placed) => {
                    let _ = writeln!(text, "{}", self.copy(placed, &mut sources));
                }
                AppStep::Run(kept) => text += &command(&mut around, kept),
            }
            if let Some((_, placed)) = self.done.metadata.as_ref().filter(|(after, _)| *after == at) {
                text += &self.installed(placed, &mut sources);
            }
        }
        if around.workdir != self.done.workdir {
            let _ = writeln!(text, "WORKDIR {}", self.done.workdir);
        }
        if !runs {
            text += &env;
        }
        if around.user != account || user.made {
            let _ = writeln!(text, "USER {account}");
        }
        text += &self.metadata();
        (text, sources)
    }

    /// Copies of the metadata and programs of installed projects.
    fn installed(&self, placed: &Placed, sources: &mut BTreeSet<String>) -> String {
        let folder = format!("{}/projects", self.folder);
        let owner = placed.owner.as_ref().map(|owner| format!(" --chown={owner}")).unwrap_or_default();
        let mut text = format!("COPY --link{owner} {folder}/{METADATA} {}/\n", placed.destination);
        if self.files.iter().any(|file| file.path.starts_with(&format!("{folder}/{PROGRAMS}/"))) {
            // BuildKit links no layer with a mode.
            let _ = writeln!(text, "COPY --chmod=0755 {folder}/{PROGRAMS} {ENVIRONMENT}/bin/");
        }
        sources.insert(folder);
        text
    }

    /// Commands of the stage `steps`. Variables are arguments there: the app's Dockerfile sets those that stay.
    fn commands(&self, all: &[Kept]) -> String {
        let mut around = Kept { user: "0:0".to_owned(), ..Kept::default() };
        let with_args = |kept: &Kept| {
            let mut kept = kept.clone();
            let env = kept.env.iter().filter(|(name, _)| name != "PATH").cloned();
            kept.args = kept
                .args
                .iter()
                .filter(|(name, _)| !kept.env.iter().any(|(other, _)| other == name))
                .cloned()
                .chain(env)
                .collect();
            kept
        };
        let text: String = all.iter().map(|kept| command(&mut around, &with_args(kept))).collect();
        text.trim_end().to_owned()
    }

    fn env(&self) -> String {
        let pairs: Vec<String> = self.done.env.iter().map(|(name, value)| format!("{name}={}", word(value))).collect();
        if pairs.is_empty() { String::new() } else { format!("ENV {}\n", pairs.join(" \\\n    ")) }
    }

    fn metadata(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.done.labels {
            let _ = writeln!(text, "LABEL {name}={}", word(value));
        }
        for ports in &self.done.expose {
            let _ = writeln!(text, "EXPOSE {ports}");
        }
        if !self.done.volumes.is_empty() {
            let _ = writeln!(text, "VOLUME {}", list(&self.done.volumes));
        }
        if let Some(signal) = &self.done.stop_signal {
            let _ = writeln!(text, "STOPSIGNAL {signal}");
        }
        if let Some(shell) = &self.done.shell {
            let _ = writeln!(text, "SHELL {}", list(shell));
        }
        match &self.done.healthcheck {
            None => {}
            Some(None) => text += "HEALTHCHECK NONE\n",
            Some(Some(Healthcheck { options, command })) => {
                text += "HEALTHCHECK";
                for (name, value) in options {
                    let _ = write!(text, " --{name}={value}");
                }
                let _ = writeln!(text, " CMD {}", spelled(command));
            }
        }
        for (keyword, command) in [("ENTRYPOINT", &self.done.entrypoint), ("CMD", &self.done.cmd)] {
            if let Some(command) = command {
                let _ = writeln!(text, "{keyword} {}", spelled(command));
            }
        }
        text
    }

    /// True if the app keeps its folder as its context: one of several, whose Dockerfile reads nothing outside of it.
    fn keeps_context(&self) -> bool {
        self.request.app.is_some() && !self.request.context.is_empty() && self.done.metadata.is_none()
    }

    /// The folder before the paths that the app's Dockerfile and ignore file have: the former context, where that is not kept.
    fn prefix(&self) -> &'a str {
        if self.keeps_context() { "" } else { self.request.context }
    }

    fn copy(&self, placed: &Placed, sources: &mut BTreeSet<String>) -> String {
        let mut words = vec![if placed.add { "ADD".to_owned() } else { "COPY".to_owned() }];
        let kept = match &placed.from {
            From::Context => None,
            From::Stage(index) => Some(self.stage_name(*index)),
            From::Image(name) => Some(name.clone()),
        };
        let here = |source: &String| match (&placed.from, crate::spec::dockerfile::remote(source)) {
            (From::Context, false) => in_context(self.prefix(), source),
            _ => source.clone(),
        };
        let named: Vec<String> =
            placed.sources.iter().map(here).map(|path| if path.is_empty() { ".".to_owned() } else { path }).collect();
        if placed.from == From::Context {
            sources.extend(named.iter().filter(|source| !crate::spec::dockerfile::remote(source)).cloned());
        }
        // BuildKit links no layer with a mode.
        if placed.mode.is_none() && !placed.parents {
            words.push("--link".to_owned());
        }
        words.extend(kept.map(|from| format!("--from={from}")));
        let flags = [("chown", &placed.owner), ("chmod", &placed.mode), ("checksum", &placed.checksum)];
        words.extend(flags.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?))));
        words.extend(placed.excludes.iter().map(|pattern| format!("--exclude={pattern}")));
        if placed.parents {
            words.push("--parents".to_owned());
        }
        let blanks = named.iter().any(|source| source.contains(' ')) || placed.destination.contains(' ');
        let heredocs: Vec<String> = placed
            .heredocs
            .iter()
            .map(|one| format!("<<{}", if one.expand { one.name.clone() } else { quoted(&one.name) }))
            .collect();
        let slash = if placed.into && placed.destination != "/" { "/" } else { "" };
        let destination = format!("{}{slash}", placed.destination);
        if blanks {
            let all: Vec<String> = named.into_iter().chain([destination]).collect();
            words.push(list(&all));
        } else {
            words.extend(named.into_iter().chain(heredocs).chain([destination]));
        }
        let mut text = words.join(" ");
        for heredoc in &placed.heredocs {
            let _ = write!(text, "\n{}{}", heredoc.content, heredoc.name);
        }
        text
    }

    fn stage_name(&self, index: usize) -> String {
        let name = self.request.dockerfile.stages()[index].name.clone();
        match name {
            Some(name) if !["app", "folders"].contains(&name.as_str()) => name,
            _ => format!("stage-{index}"),
        }
    }

    /// A stage of the Dockerfile as it is, with the names that it has here.
    fn kept(&self, index: usize, sources: &mut BTreeSet<String>) -> String {
        let stage = &self.request.dockerfile.stages()[index];
        let base = self
            .request
            .dockerfile
            .find_stage(&stage.base, index)
            .map_or_else(|| stage.base.clone(), |below| self.stage_name(below));
        let platform = stage.platform.as_ref().map(|platform| format!("--platform={platform} ")).unwrap_or_default();
        let mut text =
            format!("\n# As it was: only docker can build it.\nFROM {platform}{base} AS {}\n", self.stage_name(index));
        for instruction in &stage.instructions {
            let written = self.request.dockerfile.instruction_text(instruction.line).unwrap_or_default();
            match &instruction.kind {
                Kind::Copy(transfer) | Kind::Add(transfer) => {
                    let from = match &transfer.from {
                        None => From::Context,
                        Some(name) => self
                            .request
                            .dockerfile
                            .find_stage(name, index)
                            .map_or_else(|| From::Image(name.clone()), From::Stage),
                    };
                    let placed = Placed {
                        line: instruction.line,
                        add: matches!(instruction.kind, Kind::Add(_)),
                        from,
                        sources: transfer.sources.clone(),
                        heredocs: transfer.heredocs.clone(),
                        destination: transfer.destination.clone(),
                        into: false,
                        owner: transfer.chown.clone(),
                        mode: transfer.chmod.clone(),
                        excludes: transfer.excludes.clone(),
                        parents: transfer.parents,
                        checksum: transfer.checksum.clone(),
                    };
                    let _ = writeln!(text, "{}", self.copy(&placed, sources));
                }
                _ => {
                    let _ = writeln!(text, "{written}");
                }
            }
        }
        text.push('\n');
        text
    }

    /// An ignore file that lets in what the app copies, and leaves out what the former ignore file did.
    fn ignore(&mut self, sources: &BTreeSet<String>) -> String {
        let file = self.app_file();
        let mut text = format!("{MARK}: lets in only what {file} copies. A new file needs a line here.\n*\n");
        let mut allowed = BTreeSet::new();
        let written: BTreeSet<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        let mut left_out = BTreeSet::new();
        for source in sources {
            if source != "." && !source.is_empty() {
                allowed.insert(source.trim_end_matches('/').to_owned());
                continue;
            }
            let kept = if self.keeps_context() { self.request.context } else { "" };
            let own = |path: &'a String| if kept.is_empty() { Some(path.as_str()) } else { below(path, kept) };
            for path in self.request.files.iter().filter_map(own) {
                let top = path.split('/').next().unwrap_or(path);
                let out = is_outside(top, path == top) || is_input(path) && path == top || written.contains(path);
                if out {
                    left_out.insert(top.to_owned())
                } else {
                    allowed.insert(top.to_owned())
                };
            }
        }
        let covered = |path: &String| allowed.iter().any(|other| other != path && below(path, other).is_some());
        for path in allowed.iter().filter(|path| !covered(path)) {
            let _ = writeln!(text, "!{path}");
        }
        // A lock that is written later is in no image of theirs, and a change of it none of the app.
        for lock in self.locks.iter().filter(|lock| *lock != policy::TRANSLATED) {
            if allowed.iter().any(|folder| below(lock, folder).is_some()) {
                let _ = writeln!(text, "{lock}");
            }
        }
        text += "**/__pycache__\n**/*.pyc\n**/.pytest_cache\n**/.git\n";
        let prefix = if self.prefix().is_empty() { String::new() } else { format!("{}/", self.prefix()) };
        for line in self.request.ignore.unwrap_or_default().lines().map(str::trim) {
            let known = text.lines().any(|other| other == line);
            if line.is_empty() || line.starts_with('#') || known || ["*", "**", "."].contains(&line) {
                continue;
            }
            let (not, pattern) = line.strip_prefix('!').map_or(("", line), |rest| ("!", rest));
            let pattern = pattern.trim_start_matches("./").trim_start_matches('/');
            let _ = writeln!(text, "{not}{prefix}{pattern}");
        }
        let own = [
            "xtask",
            "target",
            "Cargo.toml",
            "Cargo.lock",
            "rust-toolchain.toml",
            "images.toml",
            "images.lock",
            ".cargo",
        ];
        let is_own = |name: &String| own.contains(&name.as_str()) || FOLDERS.contains(&name.as_str());
        self.left_out = left_out.into_iter().filter(|name| !allowed.contains(name) && !is_own(name)).collect();
        text
    }

    /// The table of a base, and those below it.
    fn base_table(&self, source: &PackageSource) -> String {
        let done = &self.done;
        let table = self.base.as_ref().map_or_else(|| "base".to_owned(), |name| format!("bases.{name}"));
        let mut text = format!("\n[{table}]\n");
        let named = self.folder != FOLDERS[0] || self.base.is_some();
        if named {
            let _ = writeln!(text, "dockerfile = \"{}/{}\"", self.folder, self.base_file());
        }
        if self.folder != FOLDERS[0] {
            let _ = writeln!(text, "installer = \"{}/installer.lock\"", self.folder);
        }
        text += &source.keys;
        let build = if self.request.compiles { build_packages(&done.build) } else { Vec::new() };
        if !done.system.is_empty() || !build.is_empty() {
            let _ = writeln!(text, "\n[{table}.args]");
        }
        for (name, packages) in [(SYSTEM_PACKAGES, &done.system), (BUILD_PACKAGES, &build)] {
            if !packages.is_empty() {
                let _ = writeln!(text, "{name} = {}", quoted(&packages.join(" ")));
            }
        }
        if self.base_is_native() {
            let _ = write!(
                text,
                "\n# What runs something in the base's Dockerfile, and the recipe that does the same without running it.\n\
                 [{table}.stages]\npackages = \"python-packages\"\n"
            );
            if !done.system.is_empty() {
                text += "system = \"system-packages\"\n";
            }
            if done.user.made {
                text += "user = \"user\"\n";
            }
        }
        text
    }

    /// The table of an app with its smoke tests.
    fn app_table(&mut self) -> String {
        let mut text = String::new();
        if let Some(name) = self.request.app {
            let _ = write!(
                text,
                "\n[[app]]\nname = {}\ndockerfile = \"{}/{}\"\n",
                quoted(name),
                self.folder,
                self.app_file()
            );
            if self.keeps_context() {
                let _ = writeln!(text, "context = {}", quoted(self.request.context));
            }
            if let Some(base) = &self.base {
                let _ = writeln!(text, "base = {}", quoted(base));
            }
            return text + &self.smoke("app.");
        }
        if self.folder != FOLDERS[0] {
            let _ = writeln!(text, "\n[app]\ndockerfile = \"{}/Dockerfile.fast\"", self.folder);
        }
        text + &self.smoke("")
    }

    /// The smoke tests in tables whose names begin with this.
    fn smoke(&mut self, of: &str) -> String {
        let done = &self.done;
        let mut text = format!("\n[{of}smoke]\nuser = {}\n", done.user.user);
        if done.entrypoint.is_none() {
            let _ = write!(
                text,
                "\n[[{of}smoke.run]]\nname = \"python\"\nargs = [\"python3\", \"-c\", \"import sys; print(sys.prefix)\"]\n"
            );
            let _ = writeln!(text, "contains = {}", quoted(ENVIRONMENT));
        }
        let url = self.url();
        if let Some(url) = &url {
            let _ = write!(
                text,
                "\n# Started without a network: a server that needs a database at start needs other `args`.\n[{of}smoke.serve]\n{}url = {}\n",
                self.serve_args(),
                quoted(url)
            );
            let what = "[smoke.serve]";
            let reason = "the test starts the server without a network and takes any answer below 500";
            self.note(
                NoteKind::Changed,
                what,
                reason,
                "if the server needs a database at start, remove the table, or give `args`",
            );
        }
        text
    }

    /// gunicorn writes to a folder for temporary files at once, and only `/dev/shm` can be written in a test.
    fn serve_args(&self) -> String {
        let args = match (&self.done.entrypoint, &self.done.cmd) {
            (None, Some(Command::Exec(words))) if words.iter().any(|word| word.ends_with("gunicorn")) => words.clone(),
            (None, Some(Command::Shell(text))) if text.contains("gunicorn") => {
                vec!["sh".to_owned(), "-c".to_owned(), text.clone()]
            }
            _ => return String::new(),
        };
        let args: Vec<String> = ["env", "TMPDIR=/dev/shm"].into_iter().map(str::to_owned).chain(args).collect();
        format!("args = {}\n", list(&args))
    }

    /// The page that the smoke test asks for: the health check's, or the front page of a known server.
    fn url(&self) -> Option<String> {
        let words = |command: &Command| match command {
            Command::Exec(words) => words.join(" "),
            Command::Shell(text) => text.clone(),
        };
        if let Some(Some(check)) = &self.done.healthcheck {
            let text = words(&check.command);
            if let Some(at) = text.find("http://").or_else(|| text.find("https://")) {
                let end = text[at..].find(['\'', '"', ' ', '\\', ')']).map_or(text.len(), |end| at + end);
                let url = text[at..end].replace("localhost", "127.0.0.1").replace("0.0.0.0", "127.0.0.1");
                if !url.contains('$') {
                    return Some(url);
                }
            }
        }
        let text =
            [&self.done.entrypoint, &self.done.cmd].into_iter().flatten().map(words).collect::<Vec<_>>().join(" ");
        let servers = [
            ("gunicorn", 8000),
            ("uvicorn", 8000),
            ("hypercorn", 8000),
            ("daphne", 8000),
            ("runserver", 8000),
            ("flask", 5000),
            ("fastapi", 8000),
            ("streamlit", 8501),
            ("waitress", 8080),
        ];
        let (_, port) = servers.iter().find(|(server, _)| text.contains(server))?;
        let all: Vec<&str> = text.split([' ', '=']).collect();
        let said = all.windows(2).find_map(|pair| {
            let is_flag = ["-b", "--bind", "--port", "-p", "--server.port", "runserver"].contains(&pair[0]);
            let number = pair[1].rsplit(':').next()?.trim_matches(['"', '\'']);
            is_flag.then(|| number.parse::<u16>().ok()).flatten()
        });
        let exposed = self.done.expose.first().and_then(|port| port.split('/').next()?.parse::<u16>().ok());
        Some(format!("http://127.0.0.1:{}/", said.or(exposed).unwrap_or(*port)))
    }

    /// The repository's own `xtask`: a package of one line, a workspace where there is none, the alias.
    fn program(&mut self) {
        let program = self.request.program;
        let has = |path: &str| {
            self.request.files.contains(path) && !(self.request.read)(path).is_some_and(|text| is_written(&text))
        };
        let cargo = has("Cargo.toml").then(|| (self.request.read)("Cargo.toml")).flatten();
        let toolchain = has("rust-toolchain.toml") || has("rust-toolchain");
        self.add(
            "xtask/Cargo.toml",
            format!(
                "{MARK}: the build system, with plugins of your own if you like.\n[package]\nname = \"repo-xtask\"\nversion = \"0.1.0\"\n\
                 edition = \"2024\"\npublish = false\n\n[[bin]]\nname = \"xtask\"\npath = \"src/main.rs\"\n\n[dependencies]\n\
                 image-xtask = {{ package = \"xtask\", git = {}, rev = {} }}\n",
                quoted(&program.git),
                quoted(&program.revision)
            ),
        );
        self.add("xtask/src/main.rs", MAIN.to_owned());
        match cargo {
            None => self.add(
                "Cargo.toml",
                format!("{MARK}: a workspace for `cargo xtask` alone.\n[workspace]\nresolver = \"3\"\nmembers = [\"xtask\"]\n"),
            ),
            Some(text) => match with_member(&text) {
                Some(edited) if edited == text => {}
                Some(edited) => self.add("Cargo.toml", edited),
                None => self.note(
                    NoteKind::Missing,
                    "Cargo.toml",
                    "it is a package without a workspace",
                    "add `[workspace]` with `members = [\"xtask\"]`, then run this again",
                ),
            },
        }
        if !toolchain {
            self.add(
                "rust-toolchain.toml",
                format!(
                    "{MARK}: the compiler of `cargo xtask`.\n[toolchain]\nchannel = {}\nprofile = \"minimal\"\n",
                    quoted(&program.toolchain)
                ),
            );
        }
        const ALIAS: &str = "[alias]\nxtask = \"run --quiet --package repo-xtask --bin xtask --\"\n";
        match has(".cargo/config.toml").then(|| (self.request.read)(".cargo/config.toml")).flatten() {
            None => self.add(".cargo/config.toml", format!("{MARK}.\n{ALIAS}")),
            Some(text) if text.contains("xtask = ") => {}
            Some(text) if text.contains("[alias]") => {
                let line = ALIAS.split_once('\n').map_or("", |(_, line)| line);
                self.add(".cargo/config.toml", text.replacen("[alias]\n", &format!("[alias]\n{line}"), 1));
            }
            Some(text) => self.add(".cargo/config.toml", format!("{}\n\n{ALIAS}", text.trim_end())),
        }
        // `target` ignores itself once something was built there.
        if !self.request.files.contains(".gitignore")
            || (self.request.read)(".gitignore").is_some_and(|text| is_written(&text))
        {
            self.add(".gitignore", format!("{MARK}.\n/target\n"));
        }
    }

    /// Workflows of the policy; `written` are the files that are new.
    fn workflows(&mut self, policy: &str, written: &BTreeSet<String>) {
        let is_file = |path: &RelPath| written.contains(path.as_str()) || self.request.files.contains(path.as_str());
        let Ok(policies) = policy::parse_all(policy, &is_file, &[]) else { return };
        let policies: Vec<&Policy> = policies.iter().collect();
        let gitlab = (self.request.read)(workflows::GITLAB_TOP).unwrap_or_default();
        let place = PolicyLocation::default().next_to(&gitlab);
        // A lock that cannot be read pins nothing; whoever reads it next says what is wrong with it.
        let pins = (self.request.read)(lock::images::PATH)
            .and_then(|text| ImagesLock::parse(lock::images::PATH.as_ref(), &text).ok());
        let root = RootDigests::of(&policies, &pins.unwrap_or_default());
        let Ok(generated) = workflows::generate(&policies, &place, root) else { return };
        for file in generated {
            let taken = (self.request.read)(&file.path).is_some_and(|text| !workflows::is_ours(&text, &place));
            if taken {
                self.note(
                    NoteKind::Changed,
                    &file.path,
                    "a workflow of another origin has this name, and is kept",
                    "rename it, then write ours: `cargo xtask workflows`",
                );
            } else {
                if file.path.starts_with(".gitlab/") && !gitlab.contains(&file.path) {
                    self.note(
                        NoteKind::Changed,
                        workflows::GITLAB_TOP,
                        &format!("it is kept, and does not include `{}`", file.path),
                        &format!("add to it: `include: [{{local: {}}}]`", file.path),
                    );
                }
                self.add(&file.path, file.text);
            }
        }
    }
}

/// The policy of all apps; `sources` are the packages of each base, with the position of its first app.
fn policy(writers: &mut [Writer<'_>], sources: &[(usize, PackageSource)]) -> String {
    let native = !writers.iter().any(Writer::needs_docker);
    let Writer { request, done, .. } = &writers[0];
    let provider = request.workflows;
    let platforms: Vec<String> = request.platforms.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "{MARK}; edit it as you like.\n# What this repository builds, and how. `cargo xtask doctor` checks it.\n\n[project]\nname = {}\nregistry = {}\n",
        quoted(request.name),
        quoted(&request.registry.to_string())
    );
    if let Some(source) = request.source {
        let _ = writeln!(text, "source = {}", quoted(source));
    }
    let _ = writeln!(text, "default-branch = {}\nplatforms = {}", quoted(request.branch), list(&platforms));
    if !native {
        text += "# Some stages run programs, which only docker does.\nengine = \"docker\"\n";
    }
    let mut installed: Vec<&String> = Vec::new();
    for project in writers.iter().flat_map(|writer| &writer.done.installed) {
        if !installed.contains(&&project.manifest) {
            installed.push(&project.manifest);
        }
    }
    if !installed.is_empty() {
        let _ = writeln!(
            text,
            "# Their metadata and programs are in `{}/projects`; `cargo xtask lock` writes them.\ninstalled = {}",
            writers[0].folder,
            list(&installed)
        );
    }
    let root = done.root_image.parse::<Reference>().map_or_else(|_| done.root_image.clone(), |image| image.to_string());
    let _ = writeln!(
        text,
        "\n# The OS and Python under everything. `cargo xtask lock` pins its digests in images.lock.\n[root]\nimage = {}\npython = {}",
        quoted(&root),
        quoted(&done.python)
    );
    let minor = done.python.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    if minor.is_some_and(|minor| minor <= 13) && writers.iter().all(|writer| writer.allows_python("3.13")) {
        let plain =
            |name: &&String| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
        let mut packages = vec!["apt".to_owned(), "libstdc++6".to_owned()];
        for name in writers.iter().flat_map(|writer| &writer.done.system).filter(plain) {
            if !packages.contains(name) {
                packages.push(name.clone());
            }
        }
        let _ = writeln!(
            text,
            "# The root where that image's registry cannot be reached.\nfallback = \"debian\"\nfallback-publishes = \"loopback\"\n\n\
             [root.debian]\nsuite = \"trixie\"\npython = \"3.13\"\npackages = {}",
            list(&packages)
        );
    }
    for (first, source) in sources {
        text += &writers[*first].base_table(source);
    }
    for writer in writers {
        text += &writer.app_table();
    }
    let engine = if native { "native" } else { "docker" };
    let provider = match provider {
        Some(Provider::GitLab) => "provider = \"gitlab\"\n",
        Some(Provider::GitHub) | None => "",
    };
    let _ = write!(
        text,
        "\n# Before anything is published; at the desk: `cargo xtask smoke`.\n[[step]]\nname = \"smoke\"\nuses = \"smoke\"\nonly = \"ci\"\n\n\
         [ci]\n{provider}engine = \"{engine}\"\n"
    );
    text
}

/// A workspace's manifest with `xtask` as a member; `None` where it has no workspace.
fn with_member(text: &str) -> Option<String> {
    let (before, after) = text.split_once("[workspace]")?;
    let (front, members) = after.split_once("members")?;
    let open = members.find('[')?;
    let close = members[open..].find(']')? + open;
    if members[open..close].contains("\"xtask\"") {
        return Some(text.to_owned());
    }
    let (list, rest) = members.split_at(open + 1);
    let comma = if rest.trim_start().starts_with(']') { "" } else { ", " };
    Some(format!("{before}[workspace]{front}members{list}\"xtask\"{comma}{rest}"))
}

/// Names at the top that no app needs: of version control, builds, documents and tests.
fn is_outside(name: &str, is_file: bool) -> bool {
    const NAMES: [&str; 24] = [
        "xtask",
        "dockerfiles",
        "images",
        "target",
        "images.toml",
        "images.lock",
        "Cargo.toml",
        "Cargo.lock",
        "rust-toolchain.toml",
        "Makefile",
        "Jenkinsfile",
        "LICENSE",
        "tests",
        "test",
        "docs",
        "node_modules",
        "venv",
        "env",
        "tox.ini",
        "noxfile.py",
        "mypy.ini",
        "pytest.ini",
        "justfile",
        "Procfile",
    ];
    let lower = name.to_ascii_lowercase();
    NAMES.contains(&name)
        || name.starts_with('.')
        || lower.starts_with("dockerfile")
        || lower.starts_with("docker-compose")
        || lower.starts_with("compose.")
        || is_file && (lower.ends_with(".md") || lower.ends_with(".rst") || lower.ends_with(".lock"))
}

/// A `RUN`, after the instructions that make its surroundings what they were.
fn command(around: &mut Kept, kept: &Kept) -> String {
    let mut text = String::new();
    if around.user != kept.user {
        let _ = writeln!(text, "USER {}", kept.user);
    }
    if around.workdir != kept.workdir {
        let _ = writeln!(text, "WORKDIR {}", kept.workdir);
    }
    if let Some(shell) = kept.shell.as_ref().filter(|_| around.shell != kept.shell) {
        let _ = writeln!(text, "SHELL {}", list(shell));
    }
    for pair in kept.args.iter().filter(|pair| !around.args.contains(pair) && !around.env.contains(pair)) {
        let _ = writeln!(text, "ARG {}={}", pair.0, word(&pair.1));
    }
    let _ = writeln!(text, "{}", kept.text);
    *around = Kept { env: std::mem::take(&mut around.env), ..kept.clone() };
    text
}

/// A value of `ENV` or `LABEL`, quoted where it needs quotes.
fn word(text: &str) -> String {
    let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "/._:-+,=@%$".contains(c));
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
}

fn spelled(command: &Command) -> String {
    match command {
        Command::Exec(words) => list(words),
        Command::Shell(text) => text.clone(),
    }
}
