//! `python-packages`: installs the packages of a lock, without running the stage that does so under docker.
//!
//! The parts depend only on the lock, the platform and the Python version. The result equals, file by file, that of the
//! stage `packages`: tests compare both. Nothing is compiled from source, and uv's cache is never written to.
//!
//! The last part, the environment, depends on all others and on the root. Whatever part is made, every package is
//! installed and imported first: a known environment layer proves that these packages were checked together. If several
//! distributions have a file at one path, `install.py` decides which one is used, in both engines.

mod closure;
mod compile;
mod environment;
mod groups;
mod install;
mod interpreter;
mod record;
mod split;

use crate::layer::item::{Bytes, Content, Item};
use crate::recipes::stage::{Part, Realise, RootFiles};
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
use xtask_host::tree::inputs::{self, Inputs};
use xtask_host::tree::uv::{self, Uv};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::context::ContextPath;
use xtask_model::image::policy::Policy;
use xtask_model::quantity;
use xtask_model::spec::lock::{Lock, LockedPackage, Pin};
use xtask_model::spec::oci::Config;
use xtask_model::spec::reference::{Digest, Platform};
use xtask_model::spec::requirements::Requirements;

/// Path of the environment in the image, as in the Dockerfile.
pub const HOME: &str = "/opt/venv";

/// Increase it when the same inputs give other items.
const SCHEMA: u32 = 2;

/// Newest glibc that a wheel may need, unless the stage sets `MANYLINUX`.
const GLIBC: &str = "2_36";

#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub root: &'a Path,
    /// Paths of lock, requirements and the installer's lock; the root's Python, for a root that does not declare a version. The
    /// scripts are next to the Dockerfile.
    pub policy: &'a Policy,
    pub platform: &'a Platform,
    pub args: &'a BTreeMap<String, String>,
    /// Working folder; hard links need the file system of uv's cache.
    pub work: &'a Path,
}

/// Name prefix of installation folders.
pub const SCRATCH: &str = "packages-";

/// The recipe for one base and one platform. Files of its items exist while it lives.
pub struct PythonPackages<'a> {
    root_files: &'a dyn RootFiles,
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

/// Scripts next to the Dockerfile, which both engines run.
struct Scripts {
    install: PathBuf,
    compile: PathBuf,
    check: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Compiler {
    Root,
    /// A Python of this machine, whose byte code has the root's magic number.
    Host(Interpreter),
    /// No such Python on this machine; the image has no byte code.
    None,
    /// A Python must be installed: the root's cannot run on this operating system.
    Missing,
}

impl<'a> PythonPackages<'a> {
    /// Reads what determines the parts. Reads only the configuration of the root.
    ///
    /// # Errors
    /// An unreadable lock or script, a platform without wheels, a stage that compiles.
    pub fn new(request: &Request<'_>, root_files: &'a dyn RootFiles) -> Result<Self, Fault> {
        let Request { root, policy, platform, .. } = *request;
        let (base, own_python) = (&policy.base, policy.root.python.as_str());
        settings(request.args, platform, own_python)?;
        let read = |path: &Path| {
            std::fs::read_to_string(root.join(path))
                .map_err(|error| Fault::usage(format!("cannot read `{}`", path.display())).cause(error))
        };
        let Inputs { requirements, lock } = inputs::read(root, policy)?;
        let installer: &Path = base.installer.as_ref();
        let uv = install::pinned(installer, &read(installer)?)?;
        let direct: BTreeSet<String> = requirements.names().into_iter().map(str::to_owned).collect();
        let scripts = Path::new(base.dockerfile.as_str()).parent().unwrap_or(Path::new(""));
        let script = |name: &str| read(&scripts.join(name)).map(|text| Digest::of(text.as_bytes()));
        let (install, compile, check) = (script("install.py")?, script("compile.py")?, script("check-imports.py")?);

        // These programs run in other folders.
        let absolute = |path: &Path| {
            std::path::absolute(path)
                .map_err(|error| Fault::usage(format!("cannot resolve the path `{}`", path.display())).cause(error))
        };
        let (root, work) = (absolute(root)?, absolute(request.work)?);
        let config = root_files.config();
        let stated = version(config);
        let python = stated.clone().unwrap_or_else(|| own_python.to_owned());
        let environment = environment(&python, platform)?;
        let packages = environment.packages(&lock)?;
        wheels(&lock, &packages)?;
        let groups = groups::groups(&packages, &direct);
        let compiler = compiler(platform, &environment);
        let glibc = request.args.get("MANYLINUX").cloned().unwrap_or_else(|| GLIBC.to_owned());
        let layers = Digest::of(&serde_json::to_vec(&config.rootfs.diff_ids).expect("digests are valid JSON"));
        let recipe = |packages: &[LockedPackage]| {
            let pins: Vec<Pin> = packages.iter().map(Pin::from).collect();
            serde_json::json!({
                "recipe": "python-packages", "schema": SCHEMA, "home": HOME, "packages": pins, "python": python,
                "root": stated.is_none().then_some(layers), "uv": uv, "platform": platform.to_string(), "glibc": glibc,
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
        // The path of Python may differ between roots of one version. With the recipes of the other parts: a known
        // environment was checked with just these, on this root.
        let own = serde_json::json!({
            "recipe": "python-packages/environment", "schema": SCHEMA, "home": HOME, "python": environment.minor(),
            "path": paths(config), "root": layers, "install": install, "check": check, "compiler": compiler.proof(),
            "parts": parts.iter().map(|part| part.recipe).collect::<Vec<_>>(),
        });
        parts.push(part(format!("environment of Python {}", environment.minor()), &own));
        let at = |name: &str| root.join(scripts).join(name);
        let scripts = Scripts { install: at("install.py"), compile: at("compile.py"), check: at("check-imports.py") };
        Ok(Self {
            root_files,
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

    /// The environment itself, with the used files of paths that several parts have.
    fn environment(&self, used: Items) -> Result<Vec<Item>, Fault> {
        let config = self.root_files.config();
        let mut home = None;
        for folder in paths(config) {
            let python = ContextPath::new(format!("{}/python3", folder.trim_matches('/')));
            if self.root_files.has(&python)? {
                home = Some(folder);
                break;
            }
        }
        let home = home.ok_or_else(|| {
            Fault::usage("the root has no `python3` on its PATH")
                .hint("use a root image with Python: `[root]` in `images.toml`")
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

    /// Installs and checks every package; returns the items of the wanted groups.
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
        let config = self.root_files.config();
        let platform = self.platform.to_string();
        let indexes = uv::indexes(&self.root, &self.requirements)?;
        let wanted = install::InstallRequest {
            packages: &packages,
            environment: &self.environment,
            python: &self.python,
            glibc: &self.glibc,
            platform: &platform,
            indexes: &indexes,
            script: &self.scripts.install,
        };
        let (root, version) = (&self.root, &self.uv);
        // The root's files may need a download too, so both run at once.
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
                return Err(Fault::missing("`python3` is not on `PATH`")
                    .needed_by(format!("uv, which installs for {platform}"))
                    .hint("install any version of Python 3"));
            }
        };
        closure::check_installed(&self.whole(), &install::site(&prefix, &self.python))?;
        terminal::detail(&format!("{} packages installed in {}", packages.len(), quantity::seconds(began.elapsed())));
        let prove = |own: Option<&Interpreter>| {
            self.compile((&prefix, &shared), wanted_groups, own)?;
            self.import(own, folder.path(), packages.len())
        };
        prove(own.as_ref()).or_else(|fault| {
            // A package may need a file outside Python's own: try again with the whole root.
            let part = self.root_files.folder(Some(&interpreter::PYTHON));
            match (&own, part.and_then(|part| Ok((part, self.root_files.folder(None)?)))) {
                (Some(_), Ok((part, whole))) if part != whole => {
                    terminal::detail("Python's own files were not enough: trying the whole root");
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

    fn whole(&self) -> closure::ClosureCheck<'_> {
        closure::ClosureCheck {
            root: &self.root,
            asked: self.requirements.requirements(),
            lock: &self.lock,
            environment: &self.environment,
            platform: &self.platform,
            glibc: &self.glibc,
            uv: &self.uv,
        }
    }

    /// uv, installed with the root's Python if this machine has none.
    fn uv_by(&self, own: &Interpreter) -> Result<Uv, Fault> {
        install::uv(
            &self.root,
            &self.uv,
            Some(&|| {
                let pip = interpreter::pip(&self.root_files.folder(None)?, self.root_files.config(), &own.version);
                pip.map(|pip| own.command().arg(pip.join("pip"))).ok_or_else(|| {
                    Fault::missing("`uv` not found, and no Python to install it with")
                        .hint("install uv: `cargo xtask quickstart`")
                })
            }),
        )
    }

    /// The root's Python, from the files that it needs, or from the whole root if these are not enough.
    fn root_python(&self, home: &Path) -> Result<Interpreter, Fault> {
        let config = self.root_files.config();
        let part = self.root_files.folder(Some(&interpreter::PYTHON));
        part.and_then(|part| Interpreter::of_root(&part, config, home)).or_else(|fault| match fault.exit {
            Exit::Network => Err(fault),
            _ => Interpreter::of_root(&self.root_files.folder(None)?, config, home),
        })
    }

    /// Makes byte code for the wanted groups, and for each version of a shared path.
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

    /// Imports every package, known layers included; only the root's own Python proves something about the image.
    fn import(&self, own: Option<&Interpreter>, work: &Path, count: usize) -> Result<(), Fault> {
        let Some(own) = own.filter(|_| self.compiler == Compiler::Root) else {
            let platform = &self.platform;
            let why = format!("every package for {platform}: the root's Python cannot run on this machine");
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

/// Rejects settings of the stage that the recipe does not support; needs no root.
///
/// # Errors
/// Packages to compile with; a platform without wheels.
pub(super) fn settings(args: &BTreeMap<String, String>, platform: &Platform, python: &str) -> Result<(), Fault> {
    if let Some(packages) = args.get("BUILD_PACKAGES").filter(|packages| !packages.trim().is_empty()) {
        return Err(Fault::usage(format!("`BUILD_PACKAGES` requests compilers (`{packages}`)"))
            .needed_by("the recipe `python-packages`, which only installs wheels")
            .hint("build this base with docker: `--engine docker`"));
    }
    environment(python, platform).map(drop)
}

fn environment(python: &str, platform: &Platform) -> Result<Environment, Fault> {
    Environment::new(python, platform).ok_or_else(|| {
        Fault::usage(format!("cannot install packages for `{platform}` without running its root"))
            .cause("wheels are supported for `linux/amd64` and `linux/arm64`")
            .hint("build this base with docker: `--engine docker`")
    })
}

impl Compiler {
    /// Its entry in the environment's recipe: on Linux, a layer made without importing every package must differ from one
    /// that was made with it.
    fn proof(&self) -> serde_json::Value {
        match self {
            Self::Host(host) if linux::PRESENT => host.version.clone().into(),
            _ => self.to_json(),
        }
    }

    /// Its entry in a recipe: all Pythons with one magic number make the same byte code.
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

/// Error if no Python of this machine makes the root's byte code.
fn no_compiler(minor: &str) -> Fault {
    let magic = interpreter::magic(minor).map(|magic| format!(" (magic number {magic})")).unwrap_or_default();
    Fault::missing(format!("no Python {minor} on the PATH"))
        .needed_by("the packages' byte code: the root's own Python needs Linux")
        .cause(format!("only a CPython {minor}{magic} makes the byte code that the root's Python reads"))
        .hint(format!(
            "install it: `uv python install {minor}` or `brew install python@{minor}`; or build with `--engine docker`"
        ))
}

/// Rejects a lock that forbids wheels for these packages.
fn wheels(lock: &Lock, packages: &[LockedPackage]) -> Result<(), Fault> {
    let forbidden = |name: &str| lock.no_binary.contains(":all:") || lock.no_binary.contains(name);
    let names: Vec<&str> =
        packages.iter().map(|package| package.name.as_str()).filter(|name| forbidden(name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Fault::usage(format!("`--no-binary` in the requirements excludes the wheels of {}", names.join(", ")))
        .needed_by("the recipe `python-packages`, which only installs wheels")
        .hint("build this base with docker: `--engine docker`"))
}

/// The root's full Python version: a label in Debian roots of xtask, a variable in Python's images.
fn version(config: &Config) -> Option<String> {
    let variable = || config.config.env.iter().find_map(|line| line.strip_prefix("PYTHON_VERSION=").map(str::to_owned));
    root::python(config).or_else(variable)
}

fn paths(config: &Config) -> Vec<String> {
    // BuildKit's default.
    const DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let own = config.config.env.iter().find_map(|line| line.strip_prefix("PATH="));
    own.unwrap_or(DEFAULT).split(':').filter(|folder| folder.starts_with('/')).map(str::to_owned).collect()
}
