//! Projects of the repository: what they require, where their code is in the image, and what an installation adds to it.
//!
//! Pure.

use super::{
    AppStep, ENVIRONMENT, From, Installed, Item, Placed, StageImage, Translator, absolute, below, extras, in_context,
};
use crate::adopt::{Input, NoteKind, is_for_development};
use crate::spec::dockerfile::Command;
use crate::spec::project::{self, Project, Selection, is_manifest};
use crate::spec::requirements;
use std::collections::BTreeSet;
use std::path::Path;

/// A project of the repository.
struct RepositoryProject {
    /// From the root; empty at the top.
    folder: String,
    manifest: String,
    project: Project,
}

/// Location of a project's packages.
struct Code {
    /// The folder that Python has to find.
    folder: String,
    /// The packages in it; all of its packages, if none are named.
    packages: Vec<String>,
}

impl RepositoryProject {
    fn inner(&self, name: &str) -> String {
        in_context(&self.folder, name)
    }
}

/// True for the text of a command line that names a project, or the archives of one.
pub(super) fn is_project(name: &str) -> bool {
    let bare = name.split('[').next().unwrap_or(name);
    bare == "." || bare.starts_with("./") || bare.starts_with('/')
}

impl Translator<'_> {
    fn local(&self, folder: &str) -> Option<RepositoryProject> {
        let path = |name: &str| in_context(folder, name);
        let read = |name: &str| self.request.files.get(&path(name)).and_then(|path| (self.request.read)(path));
        let manifest = path(project::manifest(&read)?);
        let project = Project::parse(Path::new(&manifest), &(self.request.read)(&manifest)?).ok()?;
        Some(RepositoryProject { folder: folder.to_owned(), manifest, project })
    }

    /// The project of the context, and those with a `pyproject.toml`, by the paths of their manifests.
    fn locals(&self) -> Vec<RepositoryProject> {
        let named = self.request.files.iter().filter(|path| path.rsplit('/').next() == Some("pyproject.toml"));
        let named = named.filter(|path| !is_for_development(path));
        let folders = named.map(|path| path.rsplit_once('/').map_or("", |(folder, _)| folder));
        let folders: BTreeSet<&str> = folders.chain([self.request.context]).collect();
        let mut found: Vec<RepositoryProject> = folders.into_iter().filter_map(|folder| self.local(folder)).collect();
        found.sort_by(|one, other| one.manifest.cmp(&other.manifest));
        found
    }

    fn has_python(&self, folder: &str) -> bool {
        let mut files = self.request.files.iter().filter(|file| file.ends_with(".py"));
        files.any(|file| below(file, folder).is_some_and(|rest| !rest.is_empty()))
    }

    fn code(&self, local: &RepositoryProject) -> Option<Code> {
        let whole = |folder: String| Code { folder, packages: Vec::new() };
        let of = |packages: Vec<String>| Code { folder: local.folder.clone(), packages };
        let named = local.project.folder().into_iter().chain(["src".to_owned()]).map(|name| local.inner(&name));
        if let Some(folder) = named.into_iter().find(|folder| self.has_python(folder)) {
            return Some(whole(folder));
        }
        if !local.project.is_package() {
            return None;
        }
        let package = local.project.name().map(|name| name.replace('-', "_")).unwrap_or_default();
        if self.has_python(&local.inner(&package)) {
            return Some(of(vec![package]));
        }
        let packages: BTreeSet<String> = self
            .request
            .files
            .iter()
            .filter_map(|file| {
                below(&format!("/{file}"), &absolute("/", &local.folder))?
                    .strip_suffix("/__init__.py")
                    .map(str::to_owned)
            })
            .filter(|name| !name.contains('/') && !is_for_development(name))
            .collect();
        match packages.is_empty() || local.folder != self.request.context {
            true => (!local.folder.is_empty()).then(|| whole(local.folder.clone())),
            false => Some(of(packages.into_iter().collect())),
        }
    }

    /// The folder of the image that Python has to find, and the step that copies it.
    fn place(&self, code: &Code) -> Option<(usize, String)> {
        let within = code.packages.first().map_or("", String::as_str);
        let source = in_context(&code.folder, within);
        self.done.steps.iter().enumerate().find_map(|(at, step)| {
            let AppStep::Copy(placed) = step else { return None };
            let sources = placed.sources.iter().filter(|_| placed.from == From::Context);
            let rest = sources.map(|one| in_context(self.request.context, one)).find_map(|one| {
                if one.is_empty() { Some(source.clone()) } else { below(&source, &one).map(str::to_owned) }
            })?;
            let place = absolute(&placed.destination, &rest);
            let parent = place.strip_suffix(within).filter(|_| !within.is_empty()).map(|path| absolute("/", path));
            (within.is_empty() || parent.is_some()).then(|| (at, parent.unwrap_or(place)))
        })
    }

    /// Folders in which Python finds projects of the repository, and the projects that are installed.
    pub(super) fn python_path(&mut self, image: &StageImage, builders: &BTreeSet<usize>) {
        let Input { lock, requirements, projects: installs, .. } = &self.done.input;
        let (installs, before) = (*installs, self.done.env.iter().position(|(name, _)| name == "PYTHONPATH"));
        let reads = installs || lock.is_some() || requirements.iter().any(|path| is_manifest(path));
        if !reads || before.is_some() && !installs {
            return;
        }
        let mut places: Vec<String> = Vec::new();
        for local in self.locals() {
            let code = self.code(&local);
            let place = code.as_ref().and_then(|code| self.place(code));
            let Some((at, place)) = place.or_else(|| self.copied_code(&local, code, image, builders)) else { continue };
            if installs {
                self.install(&local, (at, &place), image);
            }
            places.push(place);
        }
        if let Some(at) = before {
            let (_, known) = self.done.env.remove(at);
            let missing = places.iter().filter(|place| !known.split(':').any(|one| one == *place));
            let all: Vec<&str> = [known.as_str()].into_iter().chain(missing.map(String::as_str)).collect();
            self.done.env.insert(at, ("PYTHONPATH".to_owned(), all.join(":")));
        } else if !places.is_empty() {
            let code = format!("Python finds its code in {}", places.join(" and "));
            self.add(NoteKind::Changed, 0, "PYTHONPATH", "the code of the project is not in the environment", &code);
            self.done.env.push(("PYTHONPATH".to_owned(), places.join(":")));
        }
    }

    /// A copy of the code of the project, which only its installation brings into the former image.
    fn copied_code(
        &mut self,
        local: &RepositoryProject,
        code: Option<Code>,
        image: &StageImage,
        builders: &BTreeSet<usize>,
    ) -> Option<(usize, String)> {
        if !self.done.input.projects || local.folder != self.request.context || !local.project.is_package() {
            return None;
        }
        let changes = |item: &Item| match item {
            Item::Run { .. } => true,
            Item::Copy(placed) => placed.from != From::Context,
            Item::Owner { .. } | Item::Mode { .. } | Item::Folders(_) => false,
        };
        let changed = builders.iter().flat_map(|index| &self.images[index].items).any(changes);
        let what = format!("install {}", local.manifest);
        let Some(code) = code.filter(|_| !changed) else {
            let reason = "its installation brings the project's code into the image, and no line copies it";
            let replacement =
                "copy its packages, with what programs add to them, and set `PYTHONPATH`; or accept that: `--partial`";
            self.add(NoteKind::Missing, 0, &what, reason, replacement);
            return None;
        };
        let workdir = if image.workdir == "/" { "/app" } else { &image.workdir };
        let sources = match code.packages.as_slice() {
            [] => vec![code.folder.clone()],
            packages => packages.iter().map(|name| in_context(&code.folder, name)).collect(),
        };
        for source in sources {
            let source = below(&source, self.request.context).unwrap_or(&source).to_owned();
            let destination = absolute(workdir, &source);
            let reason = "its installation brought the project's code into the image";
            self.add(NoteKind::Changed, 0, &what, reason, &format!("`{source}` is copied to `{destination}`"));
            self.done.steps.push(AppStep::Copy(Placed { sources: vec![source], destination, ..Placed::default() }));
        }
        self.place(&code)
    }

    /// Gives the app the metadata and programs of a project.
    fn install(&mut self, local: &RepositoryProject, (at, place): (usize, &str), image: &StageImage) {
        if !local.project.is_package() {
            return;
        }
        match local.project.installed(ENVIRONMENT) {
            Ok(files) => {
                self.done.installed.push(Installed { manifest: local.manifest.clone(), files });
                let AppStep::Copy(copied) = &self.done.steps[at] else { return };
                let placed = Placed { destination: place.to_owned(), owner: copied.owner.clone(), ..Placed::default() };
                self.done.metadata.get_or_insert((at, placed));
            }
            // No project, but the settings of one.
            Err(_) if local.project.name().is_none() => {}
            Err(fault) => {
                let hint = fault.hints.first().cloned().unwrap_or_default();
                let text = [&image.entrypoint, &image.cmd].map(|command| match command {
                    Some(Command::Exec(words)) => words.join(" "),
                    Some(Command::Shell(text)) => text.clone(),
                    None => String::new(),
                });
                let words: Vec<&str> = text.iter().flat_map(|text| text.split_whitespace()).collect();
                let called = local
                    .project
                    .programs()
                    .into_iter()
                    .find(|name| words.iter().any(|word| word.rsplit('/').next().unwrap_or(word) == name));
                let (kind, what) = match &called {
                    Some(name) => (NoteKind::Missing, format!("{}; `{name}` is one of its programs", fault.what)),
                    None => (NoteKind::Changed, fault.what),
                };
                self.add(kind, 0, &format!("install {}", local.manifest), &what, &hint);
            }
        }
    }

    pub(super) fn input(&mut self, mut input: Input) {
        let projects: Vec<String> = input.names.iter().filter(|name| is_project(name)).cloned().collect();
        if !self.request.requirements.is_empty() {
            let requirements = self.request.requirements.to_vec();
            if !projects.is_empty() && self.local(self.request.context).is_none() {
                self.no_project(&projects);
            }
            self.done.input =
                Input { requirements, projects: input.projects || !projects.is_empty(), ..Input::default() };
            return;
        }
        input.names.retain(|name| !is_project(name));
        input.projects |= !projects.is_empty() || input.requirements.iter().any(|path| self.names_projects(path));
        let lock = input.lock.map(|lock| in_context(self.request.context, lock.name()));
        if let Some(path) = lock.filter(|_| input.requirements.is_empty()) {
            self.locked(&path, &mut input);
        } else if !projects.is_empty() {
            self.required(&projects, &mut input);
        } else if input.requirements.is_empty() && input.names.is_empty() {
            let reason = "no command of the Dockerfile installs Python packages";
            let replacement = "name the file that lists them: `--requirements FILE`";
            self.add(NoteKind::Missing, 0, self.request.dockerfile.path(), reason, replacement);
        }
        self.done.input = input;
    }

    /// True if a requirements file has lines with projects of the repository.
    fn names_projects(&self, path: &str) -> bool {
        let mut load = |path: &Path| Ok((self.request.read)(&path.to_string_lossy()).unwrap_or_default());
        requirements::read(Path::new(path), &mut load).is_ok_and(|found| !found.projects().is_empty())
    }

    fn no_project(&mut self, projects: &[String]) {
        let names = project::MANIFESTS.map(|name| format!("`{name}`")).join(", ");
        let reason = format!("the context has none of {names}, which say what the project is");
        let what = format!("pip install {}", projects.join(" "));
        let replacement =
            "name the folder of the project: `--context DIR`; or a file with the packages: `--requirements FILE`";
        self.add(NoteKind::Missing, 0, &what, &reason, replacement);
    }

    /// The project itself: its packages are the base's, and its code is the app's.
    fn required(&mut self, projects: &[String], input: &mut Input) {
        let Some(local) = self.local(self.request.context) else { return self.no_project(projects) };
        let (path, what) = (local.manifest.clone(), format!("pip install {}", projects.join(" ")));
        for project in projects {
            let listed = project.split_once('[').map(|(_, rest)| rest.trim_end_matches(']'));
            let names = listed.iter().flat_map(|listed| listed.split(',')).map(|extra| extra.trim().to_owned());
            input.extras.extend(names);
        }
        let files = local.project.dependency_files();
        let files: Vec<String> = files.iter().map(|file| local.inner(file)).collect();
        let lines = local.project.lines(&Selection::default());
        let reason = match lines {
            _ if !files.is_empty() => {
                let missing: Vec<String> =
                    files.into_iter().filter(|file| !input.requirements.contains(file)).collect();
                // A file that pins what the project asks for says all of it.
                if input.requirements.is_empty() {
                    input.requirements = missing;
                }
                format!("the packages of `{}`, which `{path}` names, are in the base", input.requirements.join("`, `"))
            }
            Ok(lines) if lines.is_empty() && !input.requirements.is_empty() => {
                format!("`{path}` requires nothing itself")
            }
            Ok(_) => {
                input.requirements.push(path.clone());
                format!("the packages of `{path}` are in the base")
            }
            Err(_) if !input.requirements.is_empty() => format!(
                "only a build knows what `{path}` requires: the packages of `{}` are in the base",
                input.requirements.join("`, `")
            ),
            Err(fault) => {
                let replacement = "list them in a file, and name it: `--requirements FILE`";
                return self.add(NoteKind::Missing, 0, &what, &fault.what, replacement);
            }
        };
        let reason = format!("{reason}, and the project's code is the app's");
        self.add(NoteKind::Changed, 0, &what, &reason, "Python finds the code by `PYTHONPATH`");
    }

    /// The lock of another tool, which the base uses as it is.
    fn locked(&mut self, path: &str, input: &mut Input) {
        if !self.request.files.contains(path) {
            let reason = "the Dockerfile installs from this lock, and the repository does not have it";
            self.add(NoteKind::Missing, 0, path, reason, "write it with its tool, and commit it");
        }
        if !input.names.is_empty() {
            let reason = format!("they are installed besides `{path}`");
            let replacement = "add them to the project, so that the lock has them";
            self.add(NoteKind::Missing, 0, &input.names.join(" "), &reason, replacement);
        }
        if input.extras.iter().any(|extra| extra == "*") {
            let folder = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
            let text = (self.request.read)(&format!("{folder}pyproject.toml")).unwrap_or_default();
            input.extras = extras(&text);
        }
    }
}
