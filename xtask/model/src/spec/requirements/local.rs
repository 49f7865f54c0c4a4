//! Paths of the repository in a requirement file: a project, or a file of a distribution.
//!
//! Pure. A project is followed for what it requires; its code is a matter of the app, which copies it. As in pip, paths are
//! relative to the folder where it is called, which is the top of the repository.

use super::lines::LineError;
use super::names::{distribution, normalised};
use super::requirement::{Requirement, RequirementSource};
use super::version::Specifier;
use super::{lexical, marker};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// A folder with a project: `-e .`, `./libs/shop[web]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalProject {
    /// From the top of the repository; empty for the top itself.
    pub folder: PathBuf,
    pub extras: BTreeSet<String>,
    /// File and line that name it: `requirements.txt:3`.
    pub place: String,
}

pub(super) enum LocalRequirement {
    Project(LocalProject),
    /// A wheel or archive, with the folder that has it.
    File(Requirement, String),
}

/// Reads a path with extras and a marker.
pub(super) fn read(text: &str) -> Result<LocalRequirement, LineError> {
    let bad = |why: &str| Err(LineError::new(0, why));
    let (word, condition) = text.split_once(" ;").map_or((text, None), |(word, rest)| (word, Some(rest)));
    let word = word.trim();
    if word.contains(char::is_whitespace) {
        return bad("expected a path, ` ; ` and a marker, or the end of the line");
    }
    let word = word.split('#').next().unwrap_or_default();
    let path = word.strip_prefix("file://").or_else(|| word.strip_prefix("file:")).unwrap_or(word);
    let (path, extras) = match path.strip_suffix(']').and_then(|rest| rest.rsplit_once('[')) {
        Some((path, extras)) => (path, extras),
        None => (path, ""),
    };
    let extras = extras.split(',').map(normalised).filter(|extra| !extra.is_empty()).collect();
    if path.contains("${") {
        return bad("a path cannot come from the environment: write it here");
    }
    if path.contains(['*', '?']) {
        return bad("a pattern is not a path, in pip neither: name each file");
    }
    let clean = lexical(Path::new(path));
    if !clean.components().all(|part| matches!(part, Component::Normal(_))) || path.starts_with('~') {
        return bad("this path is outside of the repository: publish the distribution, or copy it into the repository");
    }
    let marker = condition.map(|text| text.parse::<super::Marker>()).transpose();
    let marker: Option<marker::Marker> = marker.map_err(|why| LineError::new(text.find(';').unwrap_or(0), why))?;
    let Some((name, version)) = distribution(&path.replace('+', "%2B")) else {
        return match marker {
            None => Ok(LocalRequirement::Project(LocalProject { folder: clean, extras, place: String::new() })),
            Some(_) => {
                bad("a project of the repository cannot have a marker: write it at the requirements of the project")
            }
        };
    };
    let pin = Specifier::new("==", &version).map_err(|why| LineError::new(0, why))?;
    let source = RequirementSource::Index(BTreeSet::from([pin]));
    let folder = clean.parent().unwrap_or(Path::new("")).to_string_lossy().into_owned();
    let folder = if folder.is_empty() { ".".to_owned() } else { folder };
    let (file, hashes) = (PathBuf::new(), BTreeSet::new());
    Ok(LocalRequirement::File(Requirement { name, extras, source, marker, hashes, file, line: 0 }, folder))
}
