//! `python-packages`: the environment of a lock's packages, made without running the stage that would make it.
//!
//! The parts follow from the lock, the platform and Python's version alone. What is made is, file by file, what the stage
//! `packages` of the Dockerfile makes: the tests compare both. Nothing is compiled from source, and no file of uv's cache is
//! ever written to.
//!
//! The last part, the environment, follows from all others and from the root, and whatever part is made, every package is installed
//! and imported first: a known layer of it proves that just these packages were checked together. Which of several distributions'
//! files is used at one path is settled by `install.py`, in both engines.

mod closure;
mod compile;
mod environment;
mod groups;
mod install;
mod interpreter;
mod record;
mod split;

use crate::layer::item::{Bytes, Content, Item};
use crate::recipes::stage::{Foundation, Part, Realise};
use crate::root;
use environment::Environment;
use groups::Group;
use install::{Shared, version_folder};
use interpreter::Interpreter;
use split::{Installed, Items, Split, folders};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;
use xtask_host::linux;
use xtask_host::scratch::Scratch;
use xtask_host::terminal;
use xtask_host::tree::uv::{self, Uv};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::context::ContextPath;
use xtask_model::image::policy::Base;
use xtask_model::quantity;
use xtask_model::spec::lock::{Lock, LockedPackage, Pin};
use xtask_model::spec::oci::Config;
use xtask_model::spec::reference::{Digest, Platform};
use xtask_model::spec::requirements::Requirements;

/// Where the environment stands in the image, as the Dockerfile says too.
pub const HOME: &str = "/opt/venv";

/// Goes up whenever the same inputs would give another part other items.
const SCHEMA: u32 = 2;

/// The newest glibc that a wheel may ask for, unless the stage's `MANYLINUX` says another.
const GLIBC: &str = "2_36";

/// What the recipe is told.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The repository.
    pub root: &'a Path,
    /// Its base: where lock, requirements and the installer's lock are. The scripts stand beside the Dockerfile.
    pub base: &'a Base,
    /// What the image is for.
    pub platform: &'a Platform,
    /// The root's Python as the policy says it, `3.12`: for a root that does not tell its own.
    pub python: &'a str,
    /// The arguments of the stage, with their defaults.
    pub args: &'a BTreeMap<String, String>,
    /// A folder for what is in the making; best on the file system of uv's cache, whose files are then linked.
    pub work: &'a Path,
}

/// How names of folders start in which packages are installed.
pub const SCRATCH: &str = "packages-";

/// The recipe for one base and one platform. The files of the items that it made last as long as it does.
pub struct PythonPackages<'a> {
    foundation: &'a dyn Foundation,
    root: PathBuf,
    work: PathBuf,
    platform: Platform,
    environment: Environment,
    python: String,
    glibc: String,
    uv: String,
    scripts: Scripts,
    requirements: Requirements,
    lock: Lock,
    compiler: Compiler,
    groups: Vec<Group>,
    parts: Vec<Part>,
    made: Mutex<Vec<Scratch>>,
}

/// The scripts beside the Dockerfile, which both engines run.
struct Scripts {
    install: PathBuf,
    compile: PathBuf,
    check: PathBuf,
}

/// Who makes the byte code.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Compiler {
    /// The root's own Python.
    Root,
    /// A Python of this machine, whose byte code has the root's magic number.
    Host(Interpreter),
    /// Nobody: no such Python is here, and the image does without.
    None,
    /// A Python of this machine that is yet to be installed: the root's runs on no machine of this system.
    Missing,
}

impl<'a> PythonPackages<'a> {
    /// Reads what determines the parts. Nothing of the foundation is asked for but its configuration.
    ///
    /// # Errors
    /// A lock or script that cannot be read, a platform for which there are no wheels, a stage that is told to compile.
    pub fn new(request: &Request<'_>, foundation: &'a dyn Foundation) -> Result<Self, Fault> {
        let Request { root, base, platform, .. } = *request;
        settings(request.args, platform, request.python)?;
        let read = |path: &Path| {
            std::fs::read_to_string(root.join(path))
                .map_err(|error| Fault::usage(format!("cannot read `{}`", path.display())).cause(error))
        };
        let text = read(base.lock.as_ref()).map_err(|fault| fault.hint("write it: `cargo xtask lock`"))?;
        let lock = Lock::parse(base.lock.as_ref(), &text)?;
        let installer: &Path = base.installer.as_ref();
        let uv = install::pinned(installer, &read(installer)?)?;
        let requirements = uv::requirements(root, base.requirements.as_ref())?;
        let direct: BTreeSet<String> = requirements.names().into_iter().map(str::to_owned).collect();
        let scripts = Path::new(base.dockerfile.as_str()).parent().unwrap_or(Path::new(""));
        let script = |name: &str| read(&scripts.join(name)).map(|text| Digest::of(text.as_bytes()));
        let (install, compile, check) = (script("install.py")?, script("compile.py")?, script("check-imports.py")?);

        // Programs that are told of files are run in other folders.
        let absolute = |path: &Path| {
            std::path::absolute(path)
                .map_err(|error| Fault::usage(format!("cannot tell where `{}` is", path.display())).cause(error))
        };
        let (root, work) = (absolute(root)?, absolute(request.work)?);
        let config = foundation.config();
        let told = version(config);
        let python = told.clone().unwrap_or_else(|| request.python.to_owned());
        let environment = environment(&python, platform)?;
        let packages = environment.packages(&lock)?;
        wheels(&lock, &packages)?;
        let groups = groups::groups(&packages, &direct);
        let compiler = compiler(platform, &environment);
        let glibc = request.args.get("MANYLINUX").cloned().unwrap_or_else(|| GLIBC.to_owned());
        let layers = Digest::of(&serde_json::to_vec(&config.rootfs.diff_ids).expect("digests are texts"));
        let recipe = |packages: &[LockedPackage]| {
            let pins: Vec<Pin> = packages.iter().map(Pin::from).collect();
            serde_json::json!({
                "recipe": "python-packages", "schema": SCHEMA, "home": HOME, "packages": pins, "python": python,
                "root": told.is_none().then_some(layers), "uv": uv, "platform": platform.to_string(), "glibc": glibc,
                "script": compile, "compiler": compiler.to_json(),
            })
        };
        let under = ContextPath::new(HOME.trim_start_matches('/'));
        let part = |name: String, recipe: &serde_json::Value| Part {
            name,
            recipe: Digest::of(recipe.to_string().as_bytes()),
            under: under.clone(),
        };
        let mut parts: Vec<Part> =
            groups.iter().map(|group| part(group.name.clone(), &recipe(&group.packages))).collect();
        // Where Python is may differ between two roots of one version. The other parts: that this one is known says that just these
        // were checked together, on this root.
        let own = serde_json::json!({
            "recipe": "python-packages/environment", "schema": SCHEMA, "home": HOME, "python": environment.minor(),
            "path": paths(config), "root": layers, "install": install, "check": check, "compiler": compiler.proof(),
            "parts": parts.iter().map(|part| part.recipe).collect::<Vec<_>>(),
        });
        parts.push(part(format!("environment of Python {}", environment.minor()), &own));
        let at = |name: &str| root.join(scripts).join(name);
        let scripts = Scripts { install: at("install.py"), compile: at("compile.py"), check: at("check-imports.py") };
        Ok(Self {
            foundation,
            scripts,
            requirements,
            lock,
            root,
            work,
            platform: platform.clone(),
            environment,
            python,
            glibc,
            uv,
            compiler,
            groups,
            parts,
            made: Mutex::default(),
        })
    }

    /// The environment itself, on what is used of paths that several parts have.
    fn environment(&self, used: Items) -> Result<Vec<Item>, Fault> {
        let config = self.foundation.config();
        let mut home = None;
        for folder in paths(config) {
            let python = ContextPath::new(format!("{}/python3", folder.trim_matches('/')));
            if self.foundation.has(&python)? {
                home = Some(folder);
                break;
            }
        }
        let home = home.ok_or_else(|| {
            Fault::usage("the root has no `python3` on its PATH")
                .hint("name a root with Python in the policy: `[root]`")
        })?;
        let folder = version_folder(&self.python);
        let mut out = used;
        let mut put = |path: &str, content: Content| {
            let path = ContextPath::new(format!("{}/{path}", HOME.trim_start_matches('/')));
            let mode = if matches!(content, Content::File(_)) { 0o644 } else { 0o755 };
            folders(&mut out, HOME, &path);
            out.insert(path.clone(), Item { path, mode, uid: 0, gid: 0, content });
        };
        put("pyvenv.cfg", Content::File(Bytes::Here(interpreter::configuration(&home).into_bytes().into())));
        put("bin/python3", Content::Symlink(format!("{}/python3", home.trim_end_matches('/')).into_bytes()));
        put("bin/python", Content::Symlink(b"python3".to_vec()));
        put(&format!("bin/{folder}"), Content::Symlink(b"python3".to_vec()));
        put(&format!("lib/{folder}/site-packages"), Content::Dir);
        Ok(out.into_values().collect())
    }

    /// Every package, installed and checked; of the groups that are wanted, by their numbers, the items.
    fn packages(&self, wanted_groups: &BTreeSet<usize>) -> Result<Split, Fault> {
        if self.compiler == Compiler::Missing {
            return Err(no_compiler(&self.environment.minor()));
        }
        let packages: Vec<LockedPackage> =
            self.groups.iter().flat_map(|group| group.packages.iter().cloned()).collect();
        let cannot =
            |error: std::io::Error| Fault::build(format!("cannot write `{}`", self.work.display())).cause(error);
        std::fs::create_dir_all(&self.work).map_err(cannot)?;
        let folder = Scratch::new_in(&self.work, SCRATCH).map_err(cannot)?;
        let (prefix, home) = (folder.path().join("installed"), folder.path().join("environment"));
        std::fs::create_dir_all(prefix.join("lib")).map_err(cannot)?;
        std::fs::create_dir_all(&home).map_err(cannot)?;
        std::os::unix::fs::symlink("../installed/lib", home.join("lib")).map_err(cannot)?;

        let began = Instant::now();
        let config = self.foundation.config();
        let platform = self.platform.to_string();
        let indexes = uv::indexes(&self.root, &self.requirements)?;
        let wanted = install::Wanted {
            packages: &packages,
            environment: &self.environment,
            python: &self.python,
            glibc: &self.glibc,
            platform: &platform,
            indexes: &indexes,
            script: &self.scripts.install,
        };
        let (root, version) = (&self.root, &self.uv);
        // The root's files may have to come from afar too: both at once.
        let (installed, own) = std::thread::scope(|scope| {
            let installing = scope.spawn(|| {
                let Some(host) = Interpreter::of_host("python3") else { return Ok(None) };
                let shared = install::install(&install::uv(root, version, None)?, &host, &wanted, &prefix)?;
                Ok::<_, Fault>(Some((host, shared)))
            });
            let own = (self.compiler == Compiler::Root).then(|| self.root_python(&home));
            (installing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), own)
        });
        let (host, own) = (installed?, own.transpose()?);
        let (asked, shared) = match (host, &own) {
            (Some(done), _) => done,
            (None, Some(own)) => (own.clone(), install::install(&self.uv_by(own)?, own, &wanted, &prefix)?),
            (None, None) => {
                return Err(Fault::missing("`python3` is not on the PATH")
                    .needed_by(format!("uv, which installs for {platform}"))
                    .hint("install Python 3, of whatever version"));
            }
        };
        closure::check_installed(&self.whole(), &install::site(&prefix, &self.python))?;
        terminal::detail(&format!("{} packages installed in {}", packages.len(), quantity::seconds(began.elapsed())));
        let prove = |own: Option<&Interpreter>| {
            self.compile((&prefix, &shared), wanted_groups, own)?;
            self.import(own, folder.path(), packages.len())
        };
        prove(own.as_ref()).or_else(|fault| {
            // Perhaps a package asks for what is no part of Python: the whole root has the last word.
            let part = self.foundation.folder(Some(&interpreter::PYTHON));
            match (&own, part.and_then(|part| Ok((part, self.foundation.folder(None)?)))) {
                (Some(_), Ok((part, whole))) if part != whole => {
                    terminal::detail("Python and its libraries were not enough: once more with all of the root");
                    prove(Some(&Interpreter::of_root(&whole, config, &home)?))
                }
                _ => Err(fault),
            }
        })?;

        let began = Instant::now();
        let installed = Installed {
            prefix: &prefix,
            python: &self.python,
            asked: &version_folder(&asked.version),
            interpreter: &asked.program.to_string_lossy(),
            shared: &shared,
        };
        let of_group = |(index, group): (usize, &Group)| {
            group.packages.iter().map(move |package| (package.name.clone(), index)).collect::<Vec<_>>()
        };
        let part_of: BTreeMap<String, usize> = self.groups.iter().enumerate().flat_map(of_group).collect();
        let items = split::split(&installed, HOME, &part_of, wanted_groups)?;
        terminal::detail(&format!("split in {}", quantity::seconds(began.elapsed())));
        self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(folder);
        Ok(items)
    }

    /// All that belongs into the environment.
    fn whole(&self) -> closure::Wanted<'_> {
        closure::Wanted {
            root: &self.root,
            asked: self.requirements.requirements(),
            lock: &self.lock,
            environment: &self.environment,
            platform: &self.platform,
            glibc: &self.glibc,
            uv: &self.uv,
        }
    }

    /// uv, where this machine has no Python to install it with: by the root's.
    fn uv_by(&self, own: &Interpreter) -> Result<Uv, Fault> {
        install::uv(
            &self.root,
            &self.uv,
            Some(&|| {
                let pip = interpreter::pip(&self.foundation.folder(None)?, self.foundation.config(), &own.version);
                pip.map(|pip| own.command().arg(pip.join("pip"))).ok_or_else(|| {
                    Fault::missing("`uv` is not there, and neither is a Python to install it with")
                        .hint("install uv: `cargo xtask quickstart`")
                })
            }),
        )
    }

    /// The root's Python: of the files that it needs, or where they do not make one, of all.
    fn root_python(&self, home: &Path) -> Result<Interpreter, Fault> {
        let config = self.foundation.config();
        let part = self.foundation.folder(Some(&interpreter::PYTHON));
        part.and_then(|part| Interpreter::of_root(&part, config, home)).or_else(|fault| match fault.exit {
            Exit::Network => Err(fault),
            _ => Interpreter::of_root(&self.foundation.folder(None)?, config, home),
        })
    }

    /// Makes byte code for the groups that are wanted, and for every version of a path that several distributions have.
    fn compile(
        &self,
        (prefix, shared): (&Path, &Shared),
        wanted: &BTreeSet<usize>,
        own: Option<&Interpreter>,
    ) -> Result<(), Fault> {
        let compiler = match (&self.compiler, own) {
            (Compiler::Root, Some(own)) => own,
            (Compiler::Host(host), _) => host,
            _ => {
                let minor = self.environment.minor();
                terminal::warn(&format!(
                    "no byte code for {}: neither does the root's Python run here, nor is there a Python {minor}; \
                     the first import of a module takes longer",
                    self.platform
                ));
                return Ok(());
            }
        };
        if !compiler.version.starts_with(&format!("{}.", self.environment.minor())) {
            return Err(Fault::usage(format!("the root has Python {}, not {}", compiler.version, self.python))
                .hint("correct `[root] python` in `images.toml`"));
        }
        let began = Instant::now();
        let there = format!("{HOME}/lib/{}/site-packages", version_folder(&self.python));
        let groups = wanted.iter().map(|index| &self.groups[*index]);
        let names: BTreeSet<&str> = groups.flat_map(|group| &group.packages).map(|package| &*package.name).collect();
        let script = &self.scripts.compile;
        if !names.is_empty() {
            compile::compile(compiler, script, (&install::site(prefix, &self.python), &there), &names)?;
        }
        for folder in shared.folders().into_values().map(|folder| install::site(&folder, &self.python)) {
            if folder.exists() {
                compile::compile(compiler, script, (&folder, &there), &BTreeSet::new())?;
            }
        }
        terminal::detail(&format!("byte code made in {}", quantity::seconds(began.elapsed())));
        Ok(())
    }

    /// Imports every package, those of known layers too; only the root's own Python says something about the image.
    fn import(&self, own: Option<&Interpreter>, work: &Path, count: usize) -> Result<(), Fault> {
        let Some(own) = own.filter(|_| self.compiler == Compiler::Root) else {
            let platform = &self.platform;
            let why = format!("every package for {platform}: the root's Python does not run on this machine");
            terminal::step("passed over", &format!("the import of {why}"));
            return Ok(());
        };
        let began = Instant::now();
        let passed = compile::import(own, &self.scripts.check, work)?;
        passed.iter().for_each(|what| terminal::step("passed over", &format!("the import of {what}")));
        terminal::detail(&format!("{count} packages imported in {}", quantity::seconds(began.elapsed())));
        Ok(())
    }
}

impl Realise for PythonPackages<'_> {
    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn check(&self) -> Result<(), Fault> {
        closure::check(&self.whole(), &|| uv::indexes(&self.root, &self.requirements))
    }

    fn produce(&self, wanted: &[usize]) -> Result<Vec<Vec<Item>>, Fault> {
        let groups: BTreeSet<usize> = wanted.iter().copied().filter(|index| *index < self.groups.len()).collect();
        let nothing = wanted.is_empty() || self.groups.is_empty();
        let mut made = if nothing { Split::default() } else { self.packages(&groups)? };
        let mut used = Some(std::mem::take(&mut made.used));
        wanted
            .iter()
            .map(|index| match made.parts.remove(index) {
                Some(items) => Ok(items.into_values().collect()),
                None => self.environment(used.take().unwrap_or_default()),
            })
            .collect()
    }
}

/// Refuses settings of the stage that the recipe does not support: what can be known before there is a root.
///
/// # Errors
/// Packages to compile with; a platform for which no wheels are chosen.
pub(super) fn settings(args: &BTreeMap<String, String>, platform: &Platform, python: &str) -> Result<(), Fault> {
    if let Some(packages) = args.get("BUILD_PACKAGES").filter(|packages| !packages.trim().is_empty()) {
        return Err(Fault::usage(format!("`BUILD_PACKAGES` asks for `{packages}`, to compile with"))
            .needed_by("the recipe `python-packages`, which compiles nothing")
            .hint("build this base with docker: `--engine docker`"));
    }
    environment(python, platform).map(drop)
}

fn environment(python: &str, platform: &Platform) -> Result<Environment, Fault> {
    Environment::new(python, platform).ok_or_else(|| {
        Fault::usage(format!("cannot install packages for `{platform}` without running its root"))
            .cause("wheels are chosen for `linux/amd64` and `linux/arm64`")
            .hint("build this base with docker: `--engine docker`")
    })
}

impl Compiler {
    /// Its part of the environment's recipe: on Linux, a layer that was made without the import of every package differs from
    /// one that was made with it.
    fn proof(&self) -> serde_json::Value {
        match self {
            Self::Host(host) if linux::PRESENT => host.version.clone().into(),
            _ => self.to_json(),
        }
    }

    /// Its part of a recipe: all Pythons of one magic number give the same byte code.
    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Root | Self::Host(_) | Self::Missing => "root".into(),
            Self::None => serde_json::Value::Null,
        }
    }
}

fn compiler(platform: &Platform, environment: &Environment) -> Compiler {
    if linux::PRESENT && *platform == Platform::host() {
        return Compiler::Root;
    }
    let minor = environment.minor();
    let mut names = [format!("python{minor}"), "python3".to_owned(), "python".to_owned()].into_iter();
    let fits = names.find_map(|name| Interpreter::of_host(&name).filter(|host| host.compiles_for(&minor)));
    fits.map_or(if linux::PRESENT { Compiler::None } else { Compiler::Missing }, Compiler::Host)
}

/// The fault where no Python of this machine makes the root's byte code.
fn no_compiler(minor: &str) -> Fault {
    let magic = interpreter::magic(minor).map(|magic| format!(" (magic number {magic})")).unwrap_or_default();
    Fault::missing(format!("no Python {minor} on the PATH"))
        .needed_by("the packages' byte code: the root's own Python needs Linux")
        .cause(format!("only a CPython {minor}{magic} makes the byte code that the root's Python reads"))
        .hint(format!(
            "install it: `uv python install {minor}` or `brew install python@{minor}`; or build with `--engine docker`"
        ))
}

/// Packages that the lock forbids to install from wheels.
fn wheels(lock: &Lock, packages: &[LockedPackage]) -> Result<(), Fault> {
    let forbidden = |name: &str| lock.no_binary.contains(":all:") || lock.no_binary.contains(name);
    let names: Vec<&str> =
        packages.iter().map(|package| package.name.as_str()).filter(|name| forbidden(name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Fault::usage(format!("`--no-binary` in the requirements forbids the wheels of {}", names.join(", ")))
        .needed_by("the recipe `python-packages`, which compiles nothing")
        .hint("build this base with docker: `--engine docker`"))
}

/// Python's full version, where a root tells it: our Debian root by a label, Python's own images by a variable.
fn version(config: &Config) -> Option<String> {
    let variable = || config.config.env.iter().find_map(|line| line.strip_prefix("PYTHON_VERSION=").map(str::to_owned));
    root::python(config).or_else(variable)
}

/// The folders in which the image's programs are looked for.
fn paths(config: &Config) -> Vec<String> {
    // What BuildKit takes for an image that says nothing.
    const DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let own = config.config.env.iter().find_map(|line| line.strip_prefix("PATH="));
    own.unwrap_or(DEFAULT).split(':').filter(|folder| folder.starts_with('/')).map(str::to_owned).collect()
}
