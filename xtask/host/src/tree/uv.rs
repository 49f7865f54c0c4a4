//! uv, the program that resolves: where it is, how it is called.
//!
//! Runs programs and reads files; the lock that comes out is returned as a text and written by nobody here. Deterministic:
//! variables that would change *what* is chosen are kept from uv, those about *how to get it* are not.

mod build;
mod describe;
mod install;

pub use build::BuildRequest;
pub use describe::WheelTarget;
pub use install::install;

use crate::process::{self, Command};
use crate::scratch::Scratch;
use crate::tree::files::Files;
use crate::tree::inputs;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::policy::RequirementFiles;
use xtask_model::spec::lock::pip::PipSettings;
use xtask_model::spec::lock::{Header, Indexes, Lock, hashes};
use xtask_model::spec::project::{Project, Selection};
use xtask_model::spec::requirements::{self, LocalProject, Options, Requirements, normalised, secret};
use xtask_model::time::Timestamp;

/// Folder of downloaded tools, from the root of a repository.
const TOOLS: &str = "target/tools";

/// The lock of uv itself, from the root: the Docker build and [`install`] take it from there.
pub const INSTALLER_LOCK: &str = "dockerfiles/installer.lock";

/// Variables that would make one machine choose other versions than the next.
const CHOICES: [&str; 21] = [
    "UV_BUILD_CONSTRAINT",
    "UV_CONSTRAINT",
    "UV_CUSTOM_COMPILE_COMMAND",
    "UV_EXCLUDE",
    "UV_FORK_STRATEGY",
    "UV_NO_BINARY",
    "UV_NO_BINARY_PACKAGE",
    "UV_NO_BUILD",
    "UV_NO_BUILD_PACKAGE",
    "UV_NO_SOURCES",
    "UV_ONLY_BINARY",
    "UV_OVERRIDE",
    "UV_PRERELEASE",
    "UV_PROJECT",
    "UV_PYTHON",
    "UV_REQUIRE_HASHES",
    "UV_RESOLUTION",
    "UV_SYSTEM_PYTHON",
    "UV_TORCH_BACKEND",
    "UV_UPGRADE",
    "UV_WORKING_DIR",
];

/// Variables that would make one machine install other files than the next.
const INSTALLATION: [&str; 10] = [
    "UV_BREAK_SYSTEM_PACKAGES",
    "UV_COMPILE_BYTECODE",
    "UV_CONFIG_FILE",
    "UV_EXCLUDE_NEWER",
    "UV_LINK_MODE",
    "UV_NO_INSTALLER_METADATA",
    "UV_NO_VERIFY_HASHES",
    "UV_PREVIEW",
    "UV_PYTHON_PLATFORM",
    "VIRTUAL_ENV",
];

/// Bundles of certificates that say the system has a store of its own.
const STORES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uv {
    program: PathBuf,
    version: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Upgrade {
    #[default]
    Keep,
    All,
    Only(Vec<String>),
}

/// Leaves out what was uploaded lately: most releases with malicious code are found and withdrawn within days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cooldown {
    /// Files that were uploaded later do not count.
    pub before: Timestamp,
    /// Names of packages that are pinned to something newer and stay there.
    pub exempt: BTreeSet<String>,
}

impl Cooldown {
    pub fn of_days(now: Timestamp, days: u32) -> Self {
        let before = Timestamp::from_second(now.as_second() - i64::from(days) * 86_400);
        Self { before: before.unwrap_or(now), exempt: BTreeSet::new() }
    }

    fn limit(&self, command: Command) -> Command {
        let command = command.arg("--exclude-newer").arg(self.before.to_string());
        self.exempt.iter().fold(command, |command, name| {
            command.arg("--exclude-newer-package").arg(format!("{name}=2200-01-01T00:00:00Z"))
        })
    }
}

/// A request to resolve; paths are relative to the root.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub root: &'a Path,
    pub requirements: &'a RequirementFiles,
    /// Groups and extras of a `pyproject.toml` among the requirements.
    pub selection: &'a Selection,
    pub lock: &'a Path,
    /// The oldest Python that must be served: `3.12`.
    pub python: &'a str,
    pub upgrade: &'a Upgrade,
}

/// Finds uv: in `extra` places (programs or folders), on the PATH, among the tools of the root.
pub fn find(root: &Path, extra: &[PathBuf]) -> Result<Uv, Fault> {
    let extra = extra.iter().map(|place| if place.is_dir() { place.join("uv") } else { place.clone() });
    let places = extra.chain([PathBuf::from("uv"), root.join(TOOLS).join("bin/uv")]);
    let program = places.into_iter().find_map(process::found).ok_or_else(|| {
        Fault::missing("`uv` is neither on `PATH` nor in `target/tools/bin`")
            .hint("install it: `python3 -m pip install uv`, or let `cargo xtask quickstart` do it")
    })?;
    Uv::at(program)
}

/// Indexes for the packages of these requirements, by the settings of the repository at `root` and of this machine.
///
/// # Errors
/// A URL with a variable that is not set.
pub fn indexes(root: &Path, requirements: &Requirements) -> Result<Indexes, Fault> {
    let variable = |name: &str| std::env::var(name).ok();
    Indexes::gather(root, requirements, &variable, &mut |path| std::fs::read_to_string(path).ok())
}

impl Uv {
    /// The uv at this place, asked for its version.
    pub fn at(program: PathBuf) -> Result<Self, Fault> {
        let said = Command::new(&program).arg("--version").read(Exit::Missing)?;
        let version = said.strip_prefix("uv ").and_then(|rest| rest.split_whitespace().next());
        let version = version.ok_or_else(|| {
            Fault::missing(format!("`{}` is not uv", program.display())).cause(format!("`--version` says `{said}`"))
        })?;
        Ok(Self { version: version.to_owned(), program })
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// `0.13.9`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A call of uv that reaches the index as pip would on this machine; secrets are in its environment only.
    /// `options` are those of the requirement files it will read.
    pub fn command(&self, options: &Options) -> Command {
        let variable = |name: &str| std::env::var(name).ok();
        self.reaching(options, uv_names_indexes(&variable))
    }

    /// A call of a uv that reads no configuration file of its own, takes packages from these indexes, and installs as its
    /// arguments alone say; they have to say `--no-index`.
    pub fn installing(&self, indexes: &Indexes) -> Command {
        let command = self.reaching(&Options::default(), false).env("UV_NO_CONFIG", "1");
        let command = INSTALLATION.into_iter().chain(Indexes::replaced()).fold(command, Command::env_remove);
        indexes.for_uv().into_iter().fold(command, |command, (name, value)| command.env(name, value))
    }

    fn reaching(&self, options: &Options, indexed: bool) -> Command {
        let variable = |name: &str| std::env::var(name).ok();
        let settings = PipSettings::read(&variable, &mut |path| std::fs::read_to_string(path).ok());
        let told = settings.for_uv(&variable, options, indexed);
        let certificates = ["SSL_CERT_FILE", "SSL_CERT_DIR", "UV_SYSTEM_CERTS", "UV_NATIVE_TLS"];
        let mut command = Command::new(&self.program).env("UV_PYTHON_DOWNLOADS", "never").env("UV_NO_PROGRESS", "1");
        // uv brings certificates of its own; pip has trusted the system's since 24.2, and a proxy's certificate is among those.
        let untold = !told.contains_key("SSL_CERT_FILE") && certificates.iter().all(|name| variable(name).is_none());
        if untold && (cfg!(target_os = "macos") || STORES.iter().any(|store| Path::new(store).exists())) {
            command = command.env("UV_SYSTEM_CERTS", "true");
        }
        for (name, value) in told {
            command = command.env(name, value);
        }
        CHOICES.into_iter().fold(command, Command::env_remove)
    }

    /// Resolves requirements into the text of a lock, header and all. Twice gives the same bytes.
    ///
    /// # Errors
    /// Requirements that cannot be read or fulfilled (usage), an index that cannot be reached (network).
    pub fn resolve(&self, request: &Request<'_>) -> Result<String, Fault> {
        self.resolve_within(request, None)
    }

    /// The same, from what a cooldown leaves.
    pub fn resolve_within(&self, request: &Request<'_>, cooldown: Option<&Cooldown>) -> Result<String, Fault> {
        let found = inputs::read_requirements(request.root, request.requirements, request.selection)?;
        let projects: Vec<&Path> =
            request.requirements.paths().iter().map(AsRef::as_ref).filter(|path| is_uvs_project(path)).collect();
        no_hidden_choices(request.root, &projects)?;
        // uv takes `${NAME}` without a value as it is written, and is refused.
        indexes(request.root, &found)?;
        let folder = Scratch::new().map_err(|error| Fault::build("cannot make a temporary folder").cause(error))?;
        let out = folder.path().join("uv.lock");
        let before = before(request);
        if let Some((text, lock)) = &before {
            known(request, lock)?;
            save(&out, text)?;
        }
        let command =
            upgrades(self.compile(found.options(), request.python).arg("--output-file").arg(&out), request.upgrade);
        let command = match cooldown {
            Some(cooldown) => cooldown.limit(command),
            None => command,
        };
        let copies = copies(request, &found)?;
        let command = selecting(command, request.selection, &projects).arg("--");
        let paths = request.requirements.paths().iter().map(AsRef::<Path>::as_ref);
        let command = paths.clone().fold(command, |command, path| match &copies {
            Some(folder) if !is_uvs_project(path) => command.arg(folder.path().join(copied(path))),
            _ => command.arg(path),
        });
        let sources = request.requirements.to_string();
        run(&command.current_dir(request.root), &sources).map_err(|fault| match cooldown {
            Some(cooldown) if fault.exit == Exit::Usage => fault
                .cause(format!("files uploaded since {} do not count (cooldown)", cooldown.before))
                .hint("an index that does not state upload times (PEP 700) has nothing that is old enough: `--cooldown 0`"),
            _ => fault,
        })?;
        let mut body = std::fs::read_to_string(&out).map_err(|error| Fault::build("uv wrote no lock").cause(error))?;
        if let Some(folder) = &copies {
            body = body.replace(&format!("{}/", folder.path().display()), "");
            for path in paths.filter(|path| copied(path) != **path) {
                body = body.replace(&*copied(path).to_string_lossy(), &path.to_string_lossy());
            }
        }
        let python = format!(">={}", request.python);
        let header = Header { requirements: found.fingerprint(), python, resolver: format!("uv {}", self.version) };
        let text = format!("{}{}\n", header.print(&sources.replace('`', "")), body.trim_end());
        no_password(&text, request)?;
        // A build has users and passwords of its own: names of variables in a URL would be taken for them.
        let text: String = text.lines().map(|line| secret::without_user(line) + "\n").collect();
        let text = hashes::constrained(&found, &text, &Lock::parse(request.lock, &text)?)?;
        let lock = Lock::parse(request.lock, &text)?;
        // What is known of pins that stay is known still.
        let records = before.map(|(_, before)| before.records).unwrap_or_default();
        Ok(if records.is_empty() { text } else { records.written(&text, &lock.packages) })
    }

    /// A lock of uv itself in this version: what the Docker build installs with `pip install --require-hashes`.
    pub fn installer_lock(&self, version: &str, python: &str) -> Result<String, Fault> {
        let wanted: requirements::Version =
            version.parse().map_err(|why| Fault::usage(format!("cannot lock uv: {why}")))?;
        self.installer(&format!("uv=={wanted}\n"), python, None)
    }

    /// The same for the newest version that a cooldown leaves; `None` if that is not newer than this one.
    pub fn newer_installer_lock(&self, python: &str, cooldown: Option<&Cooldown>) -> Result<Option<String>, Fault> {
        match self.installer(&format!("uv>{}\n", self.version), python, cooldown) {
            Ok(text) => Ok(Some(text)),
            Err(fault) if fault.exit == Exit::Usage => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn installer(&self, wanted: &str, python: &str, cooldown: Option<&Cooldown>) -> Result<String, Fault> {
        let folder = Scratch::new().map_err(|error| Fault::build("cannot make a temporary folder").cause(error))?;
        let source = folder.path().join("installer.txt");
        save(&source, wanted)?;
        let command = self.compile(&Options::default(), python).arg("--no-annotate");
        let command = match cooldown {
            Some(cooldown) => cooldown.limit(command),
            None => command,
        };
        let command = command.arg("--").arg(&source);
        // Settings of a project around the current folder are not about uv itself.
        let body = run(&command.current_dir(folder.path()), "`uv`")?;
        Ok(format!("# Written by `cargo xtask lock`; do not edit.\n{}\n", body.trim_end()))
    }

    fn compile(&self, options: &Options, python: &str) -> Command {
        let variable = |name: &str| std::env::var(name).ok();
        let no_index = PipSettings::read(&variable, &mut |path| std::fs::read_to_string(path).ok()).no_index();
        let mut command = self
            .command(options)
            .args(["pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-strip-extras"])
            .args(["--python-version", python]);
        // uv reads none of these in a file.
        let [all, none] = [&options.all_releases, &options.only_final].map(|names| names.contains(":all:"));
        if options.pre || all {
            command = command.arg("--prerelease=allow");
        } else if none {
            command = command.arg("--prerelease=disallow");
        }
        for (names, way) in [(&options.all_releases, "allow"), (&options.only_final, "disallow")] {
            for name in names.iter().filter(|name| *name != ":all:") {
                command = command.arg("--prerelease-package").arg(format!("{name}={way}"));
            }
        }
        if !options.no_binary.is_empty() || !options.only_binary.is_empty() {
            command = command.arg("--emit-build-options");
        }
        if no_index { command.arg("--no-index") } else { command }
    }
}

/// Settings of uv in a repository that choose versions: they would change a lock without changing its fingerprint.
/// Those of a project among the requirements count in the fingerprint.
fn no_hidden_choices(root: &Path, projects: &[&Path]) -> Result<(), Fault> {
    const KEYS: [&str; 7] = [
        "build-constraint-dependencies",
        "constraint-dependencies",
        "exclude-dependencies",
        "fork-strategy",
        "override-dependencies",
        "prerelease",
        "resolution",
    ];
    for (file, way) in [("pyproject.toml", &["tool", "uv"][..]), ("uv.toml", &[])] {
        if projects.contains(&Path::new(file)) {
            continue;
        }
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        // uv reports a file that is not valid TOML.
        let whole = toml::from_str::<toml::Table>(&text).ok();
        let ours = whole.and_then(|whole| {
            way.iter().try_fold(whole, |table, key| table.get(*key).and_then(toml::Value::as_table).cloned())
        });
        let Some(ours) = ours else { continue };
        let pip = ours.get("pip").and_then(toml::Value::as_table);
        if let Some(key) =
            KEYS.iter().find(|key| ours.contains_key(**key) || pip.is_some_and(|pip| pip.contains_key(**key)))
        {
            return Err(Fault::usage(format!("`{key}` in `{file}` would change the lock but not its fingerprint"))
                .hint("write it in the requirements, or in a file that they name with `-c`"));
        }
    }
    Ok(())
}

/// True for a file that describes a project, and that uv reads without running a program of the project.
fn is_uvs_project(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "pyproject.toml")
}

/// The name of a file's copy: uv takes those of `setup.py` and `setup.cfg` for programs to run.
fn copied(path: &Path) -> PathBuf {
    match inputs::is_project(path) {
        true => PathBuf::from(format!("{}.txt", path.display())),
        false => path.to_owned(),
    }
}

/// Copies of the requirement files as uv reads them, where it does not read them as they are: in another encoding than UTF-8,
/// with options that only pip knows, or as projects that have no `pyproject.toml`.
fn copies(request: &Request<'_>, found: &Requirements) -> Result<Option<tempfile::TempDir>, Fault> {
    let root = request.root;
    let mut texts = Vec::new();
    let mut differ = false;
    for file in found.files().iter().filter(|file| !is_uvs_project(file)) {
        let bytes = root.regular(file, requirements::MAX_BYTES)?;
        let text = inputs::text(root, file)?;
        if inputs::is_project(file) {
            // Those that a line names are in the file of that line.
            if !request.requirements.paths().iter().any(|path| AsRef::<Path>::as_ref(path) == file) {
                continue;
            }
            differ = true;
            let lines = Project::parse(file, &text)?.lines(request.selection)?;
            texts.push((file, lines.iter().map(|line| format!("{line}\n")).collect()));
            continue;
        }
        let portable = requirements::portable(&text, root, &|local| local_lines(root, found, local));
        differ |= portable.is_some() || std::str::from_utf8(&bytes) != Ok(&text);
        texts.push((file, portable.unwrap_or(text)));
    }
    if !differ {
        return Ok(None);
    }
    let cannot = |error| Fault::build("cannot write a temporary file").cause(error);
    let folder = tempfile::tempdir().map_err(cannot)?;
    for (file, text) in texts {
        let path = folder.path().join(copied(file));
        std::fs::create_dir_all(path.parent().unwrap_or(folder.path())).map_err(cannot)?;
        save(&path, &text)?;
    }
    Ok(Some(folder))
}

/// Requirements of a project of the repository, without other projects of it. The project was read before.
fn local_lines(root: &Path, found: &Requirements, local: &LocalProject) -> Vec<String> {
    let names = found.projects().iter().filter_map(|local| inputs::project(root, local).ok()?.name());
    let names: BTreeSet<String> = names.collect();
    let selection = Selection { extras: local.extras.clone(), ..Selection::default() };
    let lines = inputs::project(root, local).and_then(|project| project.lines(&selection)).unwrap_or_default();
    let first = |line: &str| {
        let end = line.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c)).unwrap_or(line.len());
        normalised(&line[..end])
    };
    lines.into_iter().filter(|line| !names.contains(&first(line))).collect()
}

fn save(path: &Path, text: &str) -> Result<(), Fault> {
    std::fs::write(path, text).map_err(|error| Fault::build("cannot write a temporary file").cause(error))
}

/// The existing lock, if valid: uv keeps its pins.
fn before(request: &Request<'_>) -> Option<(String, Lock)> {
    let text = std::fs::read_to_string(request.root.join(request.lock)).ok()?;
    Lock::parse(request.lock, &text).ok().map(|lock| (text, lock))
}

/// Names to upgrade must be in the lock: uv ignores a misspelt one without a word.
fn known(request: &Request<'_>, lock: &Lock) -> Result<(), Fault> {
    let Upgrade::Only(names) = request.upgrade else { return Ok(()) };
    let locked = |name: &str| lock.packages.iter().any(|package| package.name == normalised(name));
    let Some(name) = names.iter().find(|name| !locked(name)) else { return Ok(()) };
    let near = lock.packages.iter().map(|package| package.name.as_str());
    let near = near.max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    let fault = Fault::usage(format!("`{name}` is not in `{}`", request.lock.display()));
    Err(match near.filter(|near| strsim::jaro_winkler(near, name) > 0.8) {
        Some(near) => fault.hint(format!("did you mean `{near}`?")),
        None => fault.hint("a new requirement is added by `cargo xtask lock` without options"),
    })
}

/// The groups and extras of projects.
fn selecting(mut command: Command, selection: &Selection, projects: &[&Path]) -> Command {
    for project in projects {
        if let Some(folder) = project.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            command = command.arg("--project").arg(folder);
        }
        for group in &selection.groups {
            command = command.arg("--group").arg(format!("{}:{group}", project.display()));
        }
    }
    if projects.is_empty() {
        return command;
    }
    selection.extras.iter().fold(command, |command, extra| command.args(["--extra", extra]))
}

fn upgrades(command: Command, upgrade: &Upgrade) -> Command {
    match upgrade {
        Upgrade::Keep => command,
        Upgrade::All => command.arg("--upgrade"),
        Upgrade::Only(names) => names.iter().fold(command, |command, name| command.arg("--upgrade-package").arg(name)),
    }
}

/// A lock is committed: a password that is written out in a URL would be published with it.
fn no_password(text: &str, request: &Request<'_>) -> Result<(), Fault> {
    let line = text.lines().find(|line| secret::has_password(line));
    line.map_or(Ok(()), |line| {
        Err(Fault::usage(format!(
            "the lock would contain a password: `{}`",
            secret::redacted(line.trim_end_matches([' ', '\\']))
        ))
        .needed_by(request.requirements.to_string())
        .hint("take it from the environment, as in `https://${USER}:${TOKEN}@…`"))
    })
}

fn run(command: &Command, needed_by: &str) -> Result<String, Fault> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = secret::redacted(String::from_utf8_lossy(&output.stderr).trim());
    let (exit, what, hint) = classified(&said);
    Err(Fault::new(exit, what).needed_by(needed_by).cause(said).hint(hint))
}

/// The fault of a failed installation, from uv's message.
pub fn install_fault(said: &str) -> Fault {
    let (exit, what, hint) = classified(said);
    let fault = match exit {
        Exit::Usage if is_unknown_to_the_index(said) => {
            Fault::build("uv cannot find a locked package on the package index")
                .hint("name its index where `cargo xtask lock` finds it: `--extra-index-url` in the requirements")
        }
        Exit::Usage => Fault::build("uv cannot install the packages"),
        _ => Fault::new(exit, what).hint(hint),
    };
    fault.cause(said)
}

/// Classifies uv's message: exit code, sentence and next step.
fn classified(said: &str) -> (Exit, &'static str, &'static str) {
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["No interpreter found", "No virtual environment or system Python"]) {
        return (Exit::Missing, "uv cannot find a Python interpreter", "install Python 3, with its `venv`");
    }
    if says(&["UnknownIssuer", "invalid peer certificate", "certificate"]) {
        let hint = "name the certificates of your network: `SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt`";
        return (Exit::Network, "cannot trust the package index", hint);
    }
    if says(&["401 Unauthorized", "403 Forbidden", "Missing credentials"]) {
        let hint = "give a user and password in `UV_DEFAULT_INDEX`, pip's configuration or `~/.netrc`";
        return (Exit::Network, "the package index refuses access", hint);
    }
    if says(&[
        "Failed to fetch",
        "error sending request",
        "Request failed",
        "HTTP status",
        "network connectivity is disabled",
    ]) {
        let hint = "check the network and `UV_DEFAULT_INDEX` or pip's `index-url`";
        return (Exit::Network, "cannot reach the package index", hint);
    }
    if says(&["No solution found", "unsatisfiable"]) {
        let hint = "loosen a specifier, or let pins move: `cargo xtask lock --upgrade`";
        return (Exit::Usage, "the requirements are unsatisfiable", hint);
    }
    (Exit::Usage, "uv cannot resolve the requirements", "read uv's message above")
}

/// True if uv's words say that an index does not have what is pinned.
fn is_unknown_to_the_index(said: &str) -> bool {
    [
        "was not found in the package registry",
        "there is no version of",
        "was not found in the provided package locations",
    ]
    .iter()
    .any(|words| said.contains(words))
}

/// True if a `uv.toml` of the user's or the machine's names indexes: then pip's are not wanted.
fn uv_names_indexes(variable: xtask_model::spec::lock::pip::Variables<'_>) -> bool {
    let named = variable("UV_CONFIG_FILE").map(PathBuf::from);
    let user = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| format!("{home}/.config")));
    let user = user.map(|folder| Path::new(&folder).join("uv/uv.toml"));
    let files = [named, user, Some(PathBuf::from("/etc/uv/uv.toml"))];
    files.into_iter().flatten().filter_map(|file| std::fs::read_to_string(file).ok()).any(|text| {
        text.lines().map(str::trim).any(|line| {
            ["[[index]]", "index-url", "extra-index-url", "index ", "index="].iter().any(|key| line.starts_with(key))
        })
    })
}

#[cfg(test)]
mod tests;
