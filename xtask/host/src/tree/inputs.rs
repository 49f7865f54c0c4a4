//! The Python packages of a base: what is asked for, and what is locked, whichever tool wrote it.
//!
//! Reads files through [`Files`] alone, so that a revision gives the same answers as the working folder. A lock of another tool
//! is translated in memory each time: there is no second lock to keep up to date. Engines that install from a file get the
//! translation as [`policy::TRANSLATED`], which [`write_translated`] writes.

pub mod projects;

use super::files::Files;
use crate::file;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use xtask_model::fault::Fault;
use xtask_model::image::policy::{self, Base, Policy, RequirementFiles};
use xtask_model::spec::lock::formats::{self, Format, LockInput, Targets, TranslatedLock};
use xtask_model::spec::lock::{self, Lock};
use xtask_model::spec::project::{self, Project, Selection};
use xtask_model::spec::requirements::{self, LocalProject, Requirements};

#[derive(Clone, Debug)]
pub struct Inputs {
    pub requirements: Requirements,
    pub lock: Lock,
}

/// The requirements of a repository, read from its files; paths are relative to the root.
pub fn requirements_at<F: Files + ?Sized>(files: &F, path: &Path) -> Result<Requirements, Fault> {
    requirements::read(path, &mut |file| text(files, file))
}

/// The text of a requirement file: a regular file of the repository, in an encoding that pip reads.
pub(super) fn text<F: Files + ?Sized>(files: &F, path: &Path) -> Result<String, Fault> {
    let bytes = files.regular(path, requirements::MAX_BYTES)?;
    requirements::encoding::decoded(&bytes).map_err(|why| {
        Fault::usage(format!("cannot read `{}`", path.display()))
            .cause(why)
            .hint(format!("convert it: `iconv -t UTF-8 -o new.txt {0} && mv new.txt {0}`", path.display()))
    })
}

/// Reads both, without comparing them.
pub fn read<F: Files + ?Sized>(files: &F, policy: &Policy) -> Result<Inputs, Fault> {
    let base = &policy.base;
    if base.format() != Format::Pip {
        let TranslatedLock { lock, asked, .. } = translation(files, policy)?;
        return Ok(Inputs { requirements: asked, lock });
    }
    let requirements = requirements(files, base)?;
    let text = lock_text(files, base)?;
    let overridden = requirements.overridden().clone();
    let lock = Lock { overridden, ..Lock::parse(base.lock.as_ref(), &text)? };
    Ok(Inputs { requirements, lock })
}

/// The lock, as far as it can be read: without what it is made from.
pub fn lock<F: Files + ?Sized>(files: &F, policy: &Policy) -> Result<Lock, Fault> {
    match policy.base.format() {
        Format::Pip => Lock::parse(policy.base.lock.as_ref(), &lock_text(files, &policy.base)?),
        _ => translation(files, policy).map(|found| found.lock),
    }
}

/// Requirements from the files of the policy, or from another tool's lock.
pub fn asked<F: Files + ?Sized>(files: &F, policy: &Policy) -> Result<Requirements, Fault> {
    match policy.base.format() {
        Format::Pip => requirements(files, &policy.base),
        _ => translation(files, policy).map(|found| found.asked),
    }
}

/// Checks that the lock is up to date with what it was made from, and for the root's Pythons.
///
/// # Errors
/// Drift, with the command that brings it up to date.
pub fn check<F: Files + ?Sized>(files: &F, policy: &Policy, found: &Inputs) -> Result<(), Fault> {
    let (base, Inputs { requirements, lock }) = (&policy.base, found);
    for python in policy.root.pythons() {
        match base.format() {
            Format::Pip => lock::check(requirements, &python, lock)?,
            _ => lock::check_python(&python, lock)?,
        }
    }
    if base.format() == Format::Pip {
        return Ok(());
    }
    let mut load = |path: &Path| files.read_text(path).ok().flatten();
    let causes = with_input(files, policy, |input| formats::stale(input, &mut load))?;
    if causes.is_empty() {
        return Ok(());
    }
    let what = format!("`{}` is out of date with {}", base.lock, base.requirements);
    let hint = format!("update it: `{}`", base.format().command());
    Err(causes.into_iter().fold(Fault::drift(what).hint(hint), Fault::cause))
}

/// Requirements from requirement files and projects, in order, including those of the repository's projects among them.
pub fn read_requirements<F: Files + ?Sized>(
    files: &F,
    named: &RequirementFiles,
    selection: &Selection,
) -> Result<Requirements, Fault> {
    let mut all = Requirements::default();
    for path in named.paths() {
        let path: &Path = path.as_ref();
        let found = match is_project(path) {
            false => requirements_at(files, path)?,
            true => Project::parse(path, &files.text(path)?)?.requirements(selection)?,
        };
        all = all.and(found);
    }
    let (mut next, mut names) = (0, BTreeSet::new());
    while let Some(local) = all.projects().get(next).cloned() {
        next += 1;
        let project = project(files, &local)?;
        names.extend(project.name());
        let repeated = all.projects()[..next - 1]
            .iter()
            .any(|other| (&other.folder, &other.extras) == (&local.folder, &local.extras));
        if !repeated {
            let selection = Selection { extras: local.extras.clone(), ..Selection::default() };
            let found =
                project.requirements(&selection).map_err(|fault| fault.needed_by(format!("`{}`", local.place)))?;
            all = all.and(found);
        }
    }
    all.leave_out(&names);
    Ok(all)
}

/// A project of the repository that a requirement file names.
pub fn project<F: Files + ?Sized>(files: &F, local: &LocalProject) -> Result<Project, Fault> {
    let mut texts = BTreeMap::new();
    for name in project::MANIFESTS {
        let path = local.folder.join(name);
        if let Some(text) = files.read_text(&path)? {
            Project::parse(&path, &text)?;
            texts.insert(name, text);
        }
    }
    let Some(name) = project::manifest(&|name| texts.get(name).cloned()) else {
        let shown = if local.folder.as_os_str().is_empty() { Path::new(".") } else { &local.folder };
        let what = format!("`{}` is not a project whose requirements can be read", shown.display());
        let names = project::MANIFESTS.map(|name| format!("`{name}`")).join(", ");
        let hint = "list what it requires in its `pyproject.toml` (`[project] dependencies`), or in the requirement file in place of this line";
        return Err(Fault::usage(what)
            .needed_by(format!("`{}`", local.place))
            .cause(format!("it has none of {names}"))
            .hint(hint));
    };
    Project::parse(&local.folder.join(name), &texts[name])
}

fn requirements<F: Files + ?Sized>(files: &F, base: &Base) -> Result<Requirements, Fault> {
    read_requirements(files, &base.requirements, &base.selection)
}

pub fn is_project(path: &Path) -> bool {
    path.to_str().is_some_and(project::is_manifest)
}

/// Projects of the repository that the lock of another tool names: an app copies their code.
pub fn local<F: Files + ?Sized>(files: &F, policy: &Policy) -> Result<Vec<String>, Fault> {
    match policy.base.format() {
        Format::Pip => Ok(Vec::new()),
        _ => Ok(translation(files, policy)?.local.into_iter().collect()),
    }
}

fn translation<F: Files + ?Sized>(files: &F, policy: &Policy) -> Result<TranslatedLock, Fault> {
    with_input(files, policy, formats::translate)
}

fn with_input<F: Files + ?Sized, T>(
    files: &F,
    policy: &Policy,
    work: impl FnOnce(&LockInput<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let base = &policy.base;
    let text = lock_text(files, base)?;
    let source = base.requirements.paths().first().map(|path| files.text(path.as_ref())).transpose()?;
    let pythons = policy.root.pythons();
    work(&LockInput {
        path: base.lock.as_ref(),
        text: &text,
        selection: &base.selection,
        source: source.as_deref(),
        targets: Targets { platforms: &policy.project.platforms, pythons: &pythons },
    })
}

fn lock_text<F: Files + ?Sized>(files: &F, base: &Base) -> Result<String, Fault> {
    let bytes = files.regular(base.lock.as_ref(), requirements::MAX_BYTES);
    let text = bytes.and_then(|bytes| {
        String::from_utf8(bytes).map_err(|error| Fault::usage("it is not UTF-8 text").cause(error.utf8_error()))
    });
    text.map_err(|fault| {
        // The reason is the last cause, or, where nothing caused it, what happened.
        let cause = fault.causes.last().unwrap_or(&fault.what).clone();
        Fault::usage(format!("cannot read the lock `{}`", base.lock))
            .needed_by("the base image's fingerprint")
            .cause(cause)
            .hint(format!("write it: `{}`", base.format().command()))
    })
}

/// Writes what engines install from, where the lock is another tool's. Called before each build that reads it.
pub fn write_translated(root: &Path, policy: &Policy) -> Result<(), Fault> {
    if policy.base.format() == Format::Pip {
        return Ok(());
    }
    let text = formats::printed(&lock(root, policy)?, policy.base.lock.as_ref());
    file::write(&root.join(policy::TRANSLATED), &text).map(drop)
}
