//! The Dockerfiles that `init` translates, each with the build context and the ignore file that it is built with.

use super::Questions;
use crate::flags::InitFlags;
use std::collections::BTreeSet;
use std::path::Path;
use xtask_host::terminal;
use xtask_host::tree::adoption::Survey;
use xtask_model::adopt;
use xtask_model::adopt::compose::{self, ServiceBuild};
use xtask_model::fault::Fault;
use xtask_model::spec::dockerfile::{Dockerfile, Kind};

/// The Dockerfiles to translate: those that are named, or all but those for development and tests.
pub(super) fn dockerfiles(survey: &Survey, flags: &InitFlags, questions: &Questions) -> Result<Vec<String>, Fault> {
    let named: Vec<String> = flags.dockerfile.iter().map(|path| path.trim_start_matches("./").to_owned()).collect();
    let found = if named.is_empty() { survey.dockerfiles() } else { named };
    let names = |paths: &[String]| paths.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", ");
    let (development, mut chosen): (Vec<String>, Vec<String>) = match flags.dockerfile.as_slice() {
        [] => found.into_iter().partition(|path| adopt::is_for_development(path)),
        _ => (Vec::new(), found),
    };
    if chosen.is_empty() {
        let fault = Fault::usage(format!("`{}` has no Dockerfile", survey.root.display()));
        return Err(match development.as_slice() {
            [] => fault.hint("name it: `--dockerfile FILE`"),
            _ => fault
                .cause(format!("these are for development or tests: {}", names(&development)))
                .hint("name one all the same: `--dockerfile FILE`"),
        });
    }
    if !development.is_empty() {
        terminal::step("left out", &format!("{}: for development or tests", names(&development)));
    }
    if questions.asks && chosen.len() > 1 && flags.dockerfile.is_empty() {
        let all = chosen.join(" ");
        let answer = questions.ask("Which Dockerfiles?", &all)?;
        chosen = answer.split_whitespace().map(str::to_owned).collect();
    }
    for (flag, given) in [("--context", flags.context.is_some()), ("--target", flags.target.is_some())] {
        if given && chosen.len() > 1 {
            return Err(Fault::usage(format!("`{flag}` is for one Dockerfile, and there are several"))
                .cause(names(&chosen))
                .hint("name the one to translate: `--dockerfile FILE`"));
        }
    }
    Ok(chosen)
}

fn joined(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// The build context: the flag's, that of a compose file, or the folder that has the most of what the Dockerfile copies, which is its own
/// or one above.
fn context(
    survey: &Survey,
    dockerfile: &Dockerfile,
    flags: &InitFlags,
    composed: Option<&ServiceBuild>,
) -> Result<String, Fault> {
    if let Some(named) = &flags.context {
        let plain = named.trim_start_matches("./").trim_matches('/');
        let folder = if plain == "." { "" } else { plain };
        if !survey.root.join(folder).is_dir() {
            return Err(Fault::usage(format!("`--context {named}` is not a folder of the repository"))
                .cause(format!("the repository is `{}`", survey.root.display()))
                .hint("name a folder relative to it: `--context .` for the repository itself"));
        }
        return Ok(folder.to_owned());
    }
    if let Some(build) = composed.filter(|build| survey.root.join(&build.context).is_dir()) {
        return Ok(build.context.clone());
    }
    let mut sources = BTreeSet::new();
    for instruction in dockerfile.stages().iter().flat_map(|stage| &stage.instructions) {
        if let Kind::Copy(transfer) | Kind::Add(transfer) = &instruction.kind
            && transfer.from.is_none()
        {
            let plain = transfer.sources.iter().filter(|source| !source.contains(['*', '$', '?', ':']));
            sources.extend(plain.map(|source| source.trim_start_matches("./").trim_matches('/').to_owned()));
        }
    }
    let own = dockerfile.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut folders: Vec<String> =
        Path::new(own).ancestors().map(|folder| folder.to_string_lossy().into_owned()).collect();
    let manifest = ["requirements.txt", "pyproject.toml", "Pipfile", "setup.py"]
        .iter()
        .any(|name| survey.files.contains(&joined(own, name)));
    if !manifest {
        // A folder of Dockerfiles alone: `docker/Dockerfile` for the repository around it.
        folders.reverse();
    }
    let has = |folder: &String| {
        let exists = |source: &&String| *source != "." && survey.root.join(joined(folder, source)).exists();
        sources.iter().filter(exists).count()
    };
    let most = folders.iter().map(has).max().unwrap_or_default();
    Ok(folders.iter().find(|folder| has(folder) == most).cloned().unwrap_or_default())
}

/// A Dockerfile to translate.
pub(super) struct Source {
    pub parsed: Dockerfile,
    pub context: String,
    pub ignore: Option<String>,
}

impl Source {
    pub(super) fn read(survey: &Survey, path: &str, flags: &InitFlags, builds: &[ServiceBuild]) -> Result<Self, Fault> {
        let text = survey.text(path).ok_or_else(|| {
            Fault::usage(format!("cannot read the Dockerfile `{path}`"))
                .cause("it is missing, or not a text file of less than 1 MB")
                .hint("name one by its path in the repository: `--dockerfile FILE`")
        })?;
        let mut parsed = Dockerfile::parse(path, &text)?;
        if let Some(target) = &flags.target {
            parsed = parsed.with_target(target)?;
        }
        let composed = builds.iter().find(|build| build.dockerfile == path);
        let context = context(survey, &parsed, flags, composed)?;
        let target = composed.filter(|_| flags.target.is_none()).and_then(|build| build.target.as_deref());
        if let Some(target) = target.filter(|target| parsed.target().name.as_deref() != Some(*target)) {
            terminal::step(
                "compose",
                &format!("`{path}` builds the stage `{target}` there: `--target {target}` translates it"),
            );
        }
        let ignore = [format!("{path}.dockerignore"), joined(&context, ".dockerignore")];
        let ignore = ignore.iter().find_map(|path| survey.text(path));
        Ok(Self { parsed, context, ignore })
    }
}

/// Builds of the compose files, those without a word in their name first.
pub(super) fn builds(survey: &Survey) -> Vec<ServiceBuild> {
    let mut files: Vec<&String> = survey.files.iter().filter(|path| compose::is_compose(path)).collect();
    files.sort_by_key(|path| (path.matches('/').count(), path.matches('.').count(), path.len()));
    let mut all = Vec::new();
    for path in files {
        match compose::builds(path, &survey.text(path).unwrap_or_default()) {
            Ok(found) => all.extend(found),
            Err(why) => terminal::warn(&format!("`{path}` cannot be read: {why}")),
        }
    }
    all
}
