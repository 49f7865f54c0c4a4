//! pip's requirement files: what they ask for, apart from how they are written.
//!
//! Pure: files come from a closure of the caller's. Nothing is resolved, no marker evaluated and no environment variable
//! read: `${NAME}` stays as it is written, so that a meaning is the same on every machine.
//!
//! The format is pip's ("Requirements File Format"), with names by PEP 503, versions by PEP 440, requirements and markers
//! by PEP 508. Where pip takes something that a build by hash cannot use, it is refused with the reason.

mod cursor;
pub mod encoding;
mod environment;
pub(crate) mod lines;
mod local;
mod location;
mod marker;
mod names;
mod options;
mod portable;
mod requirement;
pub mod secret;
mod version;

pub use environment::Environment;
pub use local::LocalProject;
pub use location::{Checkout, LocationKind, PackageLocation};
pub use marker::{Marker, Operand};
pub use names::{distribution, normalised};
pub use options::Options;
pub use portable::portable;
pub use requirement::{NormalRequirement, Requirement, RequirementSource};
pub use version::{Specifier, Version};

use crate::fault::Fault;
use crate::spec::reference::Digest;
use lines::{Line, LineError, LocatedError};
use local::LocalRequirement;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// The version of [`RequirementsMeaning`]'s encoding; raised whenever the same files would get another fingerprint.
pub const SCHEMA: u32 = 1;

/// Bytes that a requirement file and the files it names may have together. Locks of thousands of packages are below.
pub const MAX_BYTES: usize = 16 << 20;

/// `-r` and `-c` lines, counted each time that one is read.
const MAX_NAMED: usize = 1000;

const MAX_DEPTH: usize = 32;

const MAX_LINES: usize = 100_000;

/// Bytes of one line with the lines that continue it: room for thousands of hashes.
const MAX_LINE: usize = 512 << 10;

const MAX_LOCATIONS: usize = 100;

const MAX_PROBLEMS: usize = 50;

/// Everything that a requirement file and the files it names ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    requirements: Vec<Requirement>,
    constraints: Vec<Requirement>,
    options: Options,
    locations: Vec<PackageLocation>,
    files: Vec<PathBuf>,
    /// Names of which a project takes versions that others do not accept.
    overridden: BTreeSet<String>,
    /// Settings of a project that choose versions.
    choices: serde_json::Map<String, serde_json::Value>,
    /// Projects of the repository, which are to be followed for what they require.
    projects: Vec<LocalProject>,
    /// Files of constraints that the network has; a lock is made with what they say then.
    remote_constraints: BTreeSet<String>,
    /// Notes about lines that pip ignores too, although a person may expect them to count.
    notes: Vec<String>,
    /// Every package has its hashes, whichever index it comes from.
    pinned: bool,
}

/// Canonical form: equal for two sets of files with the same requirements, however they are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequirementsMeaning {
    /// [`SCHEMA`].
    pub schema: u32,
    pub requirements: BTreeSet<NormalRequirement>,
    pub constraints: BTreeSet<NormalRequirement>,
    pub options: Options,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub overridden: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub remote_constraints: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub choices: serde_json::Map<String, serde_json::Value>,
}

impl Requirements {
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    pub fn constraints(&self) -> &[Requirement] {
        &self.constraints
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Indexes and pages of links in the order of the files, as they are written.
    pub fn locations(&self) -> &[PackageLocation] {
        &self.locations
    }

    /// Every file that was read, the first one first, each once, as it was given to the loader.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The distributions that are directly asked for, normalised.
    pub fn names(&self) -> BTreeSet<&str> {
        self.requirements.iter().map(|requirement| requirement.name.as_str()).collect()
    }

    pub fn meaning(&self) -> RequirementsMeaning {
        let entries = |list: &[Requirement]| list.iter().map(Requirement::meaning).collect();
        RequirementsMeaning {
            schema: SCHEMA,
            requirements: entries(&self.requirements),
            constraints: entries(&self.constraints),
            options: self.options.clone(),
            overridden: self.overridden.clone(),
            remote_constraints: self.remote_constraints.clone(),
            choices: self.choices.clone(),
        }
    }

    /// Projects of the repository among the requirements.
    pub fn projects(&self) -> &[LocalProject] {
        &self.projects
    }

    /// Leaves out what projects of the repository are: no index has them.
    pub fn leave_out(&mut self, names: &BTreeSet<String>) {
        self.requirements.retain(|one| !names.contains(&one.name));
    }

    /// Lines that pip reads and ignores in part.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Requirements of another tool's lock: packages, and the indexes and folders that they come from.
    pub fn of_lock(requirements: Vec<Requirement>, indexes: &[String], folders: &BTreeSet<String>) -> Self {
        let mut locations: Vec<PackageLocation> = Vec::new();
        for url in indexes {
            let index = PackageLocation::new(LocationKind::Locked, url);
            if !locations.contains(&index) {
                locations.push(index);
            }
        }
        locations.extend(folders.iter().map(|folder| PackageLocation::new(LocationKind::Links, folder)));
        Self { requirements, locations, pinned: true, ..Self::default() }
    }

    /// Takes in what a project says besides its dependencies.
    pub(crate) fn add_project(
        &mut self,
        constraints: Vec<Requirement>,
        overridden: BTreeSet<String>,
        choices: serde_json::Map<String, serde_json::Value>,
    ) {
        self.constraints.extend(constraints);
        self.overridden.extend(overridden);
        self.choices.extend(choices);
    }

    /// Takes in the indexes that a project's sources name, for which hashes decide as for those of a lock.
    pub(crate) fn add_sources(&mut self, indexes: &[(LocationKind, &str)]) {
        self.locations.extend(indexes.iter().map(|(kind, url)| PackageLocation::new(*kind, url)));
        self.pinned |= !indexes.is_empty();
    }

    /// Everything of both; the options of the later one count where both have the same.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.requirements.extend(other.requirements);
        self.constraints.extend(other.constraints);
        self.options.and(other.options);
        self.locations.extend(other.locations);
        for file in other.files {
            if !self.files.contains(&file) {
                self.files.push(file);
            }
        }
        self.overridden.extend(other.overridden);
        self.choices.extend(other.choices);
        self.projects.extend(other.projects);
        self.remote_constraints.extend(other.remote_constraints);
        self.notes.extend(other.notes);
        self.pinned |= other.pinned;
        self
    }

    /// Names of which a version is wanted that others do not accept.
    pub fn overridden(&self) -> &BTreeSet<String> {
        &self.overridden
    }

    /// True if a package may come from any of the indexes: its hashes say which file it is.
    pub fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// The sha256 of the meaning's JSON.
    pub fn fingerprint(&self) -> Digest {
        let json = serde_json::to_vec(&self.meaning()).expect("texts, numbers and lists of them have a JSON form");
        Digest::of(&json)
    }
}

/// Reads a requirement file and the files it names. `load` gets paths relative to where `path` is: `a/b.txt` for the
/// `-r b.txt` in `a/c.txt`.
///
/// # Errors
/// A fault of `load` and a limit at once; every bad line of every file together, as `file:line:column` with the line and a
/// caret.
pub fn read(path: &Path, load: &mut dyn FnMut(&Path) -> Result<String, Fault>) -> Result<Requirements, Fault> {
    let mut reader = FileReader {
        load,
        found: Requirements::default(),
        seen: BTreeSet::new(),
        open: Vec::new(),
        problems: Vec::new(),
        used: Used::default(),
    };
    reader.file(&lexical(path), false)?;
    let FileReader { found, problems, .. } = reader;
    if problems.is_empty() { Ok(found) } else { Err(fault(path, &problems)) }
}

fn fault(path: &Path, problems: &[LocatedError]) -> Fault {
    let shown: Vec<String> = problems.iter().map(LocatedError::to_string).collect();
    let count = if problems.len() == 1 { "a line".to_owned() } else { format!("{} lines", problems.len()) };
    Fault::usage(format!("cannot read {count} of the requirements\n\n{}", shown.join("\n\n")))
        .needed_by(format!("`{}`", path.display()))
}

/// Without `.` and with `..` taken back, so that one file has one name in a chain.
fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir
                if clean.components().next_back().is_some_and(|last| matches!(last, Component::Normal(_))) =>
            {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

struct FileReader<'a> {
    load: &'a mut dyn FnMut(&Path) -> Result<String, Fault>,
    found: Requirements,
    /// Files that were read, once as requirements and once as constraints at most.
    seen: BTreeSet<(PathBuf, bool)>,
    open: Vec<PathBuf>,
    problems: Vec<LocatedError>,
    used: Used,
}

#[derive(Default)]
struct Used {
    bytes: usize,
    lines: usize,
    named: usize,
}

fn limit(path: &Path, what: &str, most: usize) -> Fault {
    Fault::usage(format!("`{}` exceeds a limit of requirement files: at most {most} {what}", path.display()))
        .hint("split it, or remove lines that are repeated")
}

impl FileReader<'_> {
    fn file(&mut self, path: &Path, constraint: bool) -> Result<(), Fault> {
        if !self.seen.insert((path.to_owned(), constraint)) {
            return Ok(());
        }
        let source = (self.load)(path).map_err(|fault| match self.open.last() {
            Some(from) if fault.needed_by.is_none() => fault.needed_by(format!("`{}`", from.display())),
            _ => fault,
        })?;
        if !self.found.files.iter().any(|file| file == path) {
            self.found.files.push(path.to_owned());
        }
        self.used.bytes += source.len();
        if self.used.bytes > MAX_BYTES {
            return Err(limit(path, "bytes in all files together", MAX_BYTES));
        }
        let lines = lines::logical(&source);
        self.used.lines += lines.len();
        if self.used.lines > MAX_LINES {
            return Err(limit(path, "lines in all files together", MAX_LINES));
        }
        if lines.iter().any(|line| line.text.len() > MAX_LINE) {
            return Err(limit(path, "bytes in one line", MAX_LINE));
        }
        self.open.push(path.to_owned());
        for line in lines {
            match self.line(path, &line, constraint)? {
                Ok(()) => {}
                Err(bad) if self.problems.len() < MAX_PROBLEMS => {
                    self.problems.push(LocatedError::new(path, &source, &line, bad));
                }
                Err(_) => break,
            }
        }
        self.open.pop();
        Ok(())
    }

    /// The outer result is the loader's, the inner one the line's.
    fn line(&mut self, path: &Path, line: &Line, constraint: bool) -> Result<Result<(), LineError>, Fault> {
        if let Some(at) = line.continues_comment {
            return Ok(Err(LineError::new(
                at,
                "a comment that ends in a backslash continues on the next line: remove the backslash",
            )));
        }
        let blank = line.text.len() - line.text.trim_start().len();
        if line.text[blank..].starts_with('-') {
            return match options::read(&line.text[blank..]) {
                Ok(written) => self.options(path, (line, constraint), blank, &written),
                Err(bad) => Ok(Err(bad.within(blank))),
            };
        }
        if location::is_path(line.text.split_whitespace().next().unwrap_or_default()) {
            let split = options_begin(&line.text);
            return Ok(self.local(path, line, &line.text[..split], constraint).map_err(|bad| bad.within(blank)));
        }
        Ok(entry(path, line, constraint, &mut self.found.notes).map(|requirement| {
            if matches!(requirement.source, RequirementSource::Url(_)) {
                self.found.locations.extend(PackageLocation::of_line(&line.text));
            }
            if constraint { &mut self.found.constraints } else { &mut self.found.requirements }.push(requirement);
        }))
    }

    /// A path of the repository, alone on its line or behind `-e`.
    fn local(&mut self, path: &Path, line: &Line, text: &str, constraint: bool) -> Result<(), LineError> {
        if constraint {
            return Err(LineError::new(0, "a constraint is a name with versions: write `name==1.2.3`"));
        }
        let number = line.position(line.text.len() - line.text.trim_start().len()).0;
        match local::read(text.trim())? {
            LocalRequirement::Project(project) => {
                let place = format!("{}:{number}", path.display());
                self.found.projects.push(LocalProject { place, ..project });
            }
            LocalRequirement::File(requirement, folder) => {
                self.found.locations.push(PackageLocation::new(LocationKind::Links, &folder));
                self.found.options.find_links.insert(folder);
                self.found.requirements.push(Requirement { file: path.to_owned(), line: number, ..requirement });
            }
        }
        Ok(())
    }

    fn options(
        &mut self,
        path: &Path,
        (line, constraint): (&Line, bool),
        from: usize,
        written: &[options::WrittenOption],
    ) -> Result<Result<(), LineError>, Fault> {
        for option in written {
            let bad = |why: &str| Ok(Err(LineError::new(from + option.at, why)));
            match option.name {
                "--requirement" | "--constraint" => {
                    if let Err(bad) = self.nested(path, option)? {
                        return Ok(Err(bad.within(from)));
                    }
                }
                "--editable" if option.value.contains("://") && !option.value.starts_with("file:") => {
                    return bad(&requirement::checkout(&option.value));
                }
                "--editable" => {
                    if let Err(why) = self.local(path, line, &option.value, constraint) {
                        return Ok(Err(LineError::new(from + option.value_at, why.why)));
                    }
                }
                "--config-settings" if written[0].name == "--editable" => {
                    let number = line.position(from).0;
                    let note = "`--config-settings` has no effect: the project's code is copied, not built";
                    self.found.notes.push(format!("{}:{number}: {note}", path.display()));
                }
                "--hash" => return bad("expected a requirement before `--hash`"),
                _ if self.found.options.take(option) => {
                    self.found.locations.extend(option.location());
                    if self.found.locations.iter().filter(|place| place.kind != LocationKind::File).count()
                        > MAX_LOCATIONS
                    {
                        return Err(limit(path, "indexes and pages of links", MAX_LOCATIONS));
                    }
                }
                other => return bad(&format!("expected a requirement before `{other}`")),
            }
        }
        Ok(Ok(()))
    }

    fn nested(&mut self, path: &Path, option: &options::WrittenOption) -> Result<Result<(), LineError>, Fault> {
        let bad = |why: String| Ok(Err(LineError::new(option.value_at, why)));
        if option.value.contains("://") && option.name == "--constraint" {
            self.found.remote_constraints.insert(secret::without_user(&option.value));
            return Ok(Ok(()));
        }
        if option.value.contains("://") {
            return bad(
                "a file from the network can change after the lock is written: download it into the repository \
                        (`curl --remote-name …`), and name it here"
                    .to_owned(),
            );
        }
        if option.value.contains("${") {
            return bad("the name of a file cannot come from the environment: write it here".to_owned());
        }
        let inner = lexical(&path.parent().unwrap_or(Path::new("")).join(&option.value));
        if !inner.components().all(|part| matches!(part, Component::Normal(_))) || inner.as_os_str().is_empty() {
            return bad("this path is outside of the repository: a lock only reads files in the repository".to_owned());
        }
        self.used.named += 1;
        if self.used.named > MAX_NAMED {
            return Err(limit(path, "lines with `-r` or `-c`", MAX_NAMED));
        }
        if self.open.len() == MAX_DEPTH {
            return Err(limit(path, "files that name each other", MAX_DEPTH));
        }
        if let Some(index) = self.open.iter().position(|open| *open == inner) {
            let chain: Vec<String> =
                self.open[index..].iter().chain([&inner]).map(|file| format!("`{}`", file.display())).collect();
            return bad(format!("this file names itself: {}", chain.join(" -> ")));
        }
        self.file(&inner, option.name == "--constraint").map(Ok)
    }
}

/// A requirement with its options: `name==1 ; marker --hash=sha256:…`.
fn entry(path: &Path, line: &Line, constraint: bool, notes: &mut Vec<String>) -> Result<Requirement, LineError> {
    let split = options_begin(&line.text);
    let mut requirement = requirement::read(&line.text[..split])?;
    requirement.file = path.to_owned();
    requirement.line = line.position(line.text.len() - line.text.trim_start().len()).0;
    for option in options::read(&line.text[split..]).map_err(|bad| bad.within(split))? {
        match option.name {
            "--hash" => {
                let hash = options::hash(&option.value).map_err(|why| LineError::new(split + option.value_at, why))?;
                requirement.hashes.insert(hash);
            }
            "--global-option" => {
                let why = "`--global-option` is for builds with `setup.py`: remove it, and a wheel is installed";
                return Err(LineError::new(split + option.at, why));
            }
            other => notes.push(format!(
                "{}:{}: `{other}` has no effect behind a requirement, as in pip; write it on its own line",
                path.display(),
                requirement.line
            )),
        }
    }
    if constraint && !requirement.extras.is_empty() {
        return Err(LineError::new(line.text.find('[').unwrap_or(0), "a constraint cannot have extras"));
    }
    Ok(requirement)
}

/// Position of the first word that begins with a dash: pip splits there.
fn options_begin(text: &str) -> usize {
    let mut blank = false;
    for (at, c) in text.char_indices() {
        if blank && c == '-' {
            return at;
        }
        blank = c.is_whitespace();
    }
    text.len()
}

#[cfg(test)]
mod kinds;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
