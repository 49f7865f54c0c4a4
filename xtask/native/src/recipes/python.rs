//! `python-packages`: makes layers of the wheels of a lock, without running the stage that installs them under docker.
//!
//! The parts depend only on the lock, the platform and the Python version. The result equals, file by file, that of the
//! stage `packages`: tests compare both. What has no wheel is built from source first, by `recipes::source`. A layer has the compressed bytes of its wheels; files
//! are unpacked only for the compiler and the import check, in memory where that is possible.
//!
//! The last part, the environment, depends on all others and on the root. Whatever part is made, every package is
//! unpacked and imported first: a known environment layer proves that these packages were checked together. If several
//! distributions have a file at one path, `install.py` decides which one is used, in both engines.

mod bytecode;
mod closure;
mod compile;
mod describe;
mod distribution;
mod earlier;
mod early;
mod environment;
mod gather;
mod groups;
mod installed;
mod interpreter;
mod items;
mod record;
mod shared;
mod unpack;
mod wheels;

use crate::layer::item::{Bytes, Content, Item};
use crate::recipes::source::{self, Needed, Sources};
use crate::root;
use crate::stage::{Earlier, Part, Realise, RootFiles};
use compile::{ChunkName, ImportCheck};
use distribution::EnvironmentPlace;
use earlier::EarlierPackages;
use environment::Environment;
use gather::{Gathered, Gathering, WheelSource};
use groups::Group;
use installed::Installed;
pub use interpreter::PYTHON;
use interpreter::{Interpreter, RootPython};
use items::{Items, LayerItems, folders};
use shared::Shared;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use unpack::Folder;
use wheels::version_folder;
use xtask_host::linux;
use xtask_host::scratch::Scratch;
use xtask_host::terminal;
use xtask_host::tree::inputs::{self, Inputs};
use xtask_host::tree::uv;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::context::ContextPath;
use xtask_model::image::policy::{BUILD_PACKAGES, Policy};
use xtask_model::quantity;
use xtask_model::record::report::Imports;
use xtask_model::spec::lock::checked::{self, Checked};
use xtask_model::spec::lock::{Lock, LockedPackage, Pin, sources};
use xtask_model::spec::oci::Config;
use xtask_model::spec::reference::{Digest, Platform};
use xtask_model::spec::requirements::Requirements;

/// Path of the environment in the image, as in the Dockerfile.
pub const HOME: &str = "/opt/venv";

/// Increase it when the same inputs give other items.
const SCHEMA: u32 = 4;

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
    /// Working folder, for what does not fit into memory.
    pub work: &'a Path,
}

/// Name prefix of folders with unpacked packages.
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
    sources: Sources<'a>,
    /// Packages that are built from source.
    needed: BTreeMap<String, Needed>,
    build_packages: BTreeSet<String>,
    groups: Vec<Group>,
    /// Digest of everything that an import depends on, but for the packages.
    setting: Digest,
    parts: Vec<Part>,
    made: Mutex<Vec<Made>>,
}

/// Paths in a wheel's `RECORD`.
///
/// # Errors
/// The reason, in a few words.
pub fn recorded_paths(record: &str) -> Result<Vec<String>, String> {
    Ok(record::parse(record)?.into_iter().map(|row| row.path).collect())
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
    /// An unreadable lock or script, a platform without wheels.
    pub fn new(request: &Request<'_>, sources: Sources<'a>, root_files: &'a dyn RootFiles) -> Result<Self, Fault> {
        let Request { root, policy, platform, .. } = *request;
        let (base, own_python) = (&policy.base, policy.root.python.as_str());
        settings(platform, own_python)?;
        let read = |path: &Path| {
            std::fs::read_to_string(root.join(path))
                .map_err(|error| Fault::usage(format!("cannot read `{}`", path.display())).cause(error))
        };
        let Inputs { requirements, lock } = inputs::read(root, policy)?;
        let installer: &Path = base.installer.as_ref();
        let uv = wheels::pinned(installer, &read(installer)?)?;
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
        let build_packages = sources::build_packages(request.args.get(BUILD_PACKAGES).map_or("", String::as_str));
        let needed = sources.needed(&lock, &packages, (platform, environment.markers()), &build_packages);
        only_wheels(&lock, packages.iter().filter(|package| !needed.contains_key(&package.name)))?;
        let groups = groups::groups(&packages, &direct);
        let compiler = compiler(platform, &environment);
        let glibc = request.args.get("MANYLINUX").cloned().unwrap_or_else(|| GLIBC.to_owned());
        let layers = Digest::of(&serde_json::to_vec(&config.rootfs.diff_ids).expect("digests are valid JSON"));
        let recipe = |packages: &[LockedPackage]| {
            let pins: Vec<Pin> = packages.iter().map(Pin::from).collect();
            let mut recipe = serde_json::json!({
                "recipe": "python-packages", "schema": SCHEMA, "home": HOME, "packages": pins, "python": python,
                "root": stated.is_none().then_some(layers), "platform": platform.to_string(), "glibc": glibc,
                "script": compile, "compiler": compiler.to_json(),
            });
            let built: Vec<Digest> = packages.iter().filter_map(|one| Some(needed.get(&one.name)?.id)).collect();
            if !built.is_empty() {
                // Without the address of a source that a URL names.
                recipe["built"] = serde_json::json!({ "wheels": built });
            }
            recipe
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
        let setting = serde_json::json!({
            "recipe": "python-packages/environment", "schema": SCHEMA, "home": HOME, "python": environment.minor(),
            "path": paths(config), "root": layers, "install": install, "check": check, "compiler": compiler.proof(),
            "record": checked::VERSION,
        });
        let own = serde_json::json!({
            "setting": setting,
            "parts": parts.iter().map(|part| part.recipe).collect::<Vec<_>>(),
        });
        parts.push(part(format!("environment of Python {}", environment.minor()), &own));
        let at = |name: &str| root.join(scripts).join(name);
        let setting = serde_json::json!([setting, python, platform.to_string(), glibc, compile]);
        let setting = Digest::of(setting.to_string().as_bytes());
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
            sources,
            needed,
            build_packages,
            groups,
            setting,
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

    /// Unpacks, compiles and checks every package; the wanted groups are those of which layers are made.
    fn packages(&self, wanted: &BTreeSet<usize>, earlier: Option<&dyn Earlier>) -> Result<Made, Fault> {
        if self.compiler == Compiler::Missing {
            return Err(no_compiler(&self.environment.minor()));
        }
        let locked: Vec<LockedPackage> = self.groups.iter().flat_map(|group| group.packages.iter().cloned()).collect();
        // What is not imported here says nothing about what was imported elsewhere.
        let known = earlier.filter(|_| self.compiler == Compiler::Root);
        let known = known.and_then(|earlier| EarlierPackages::read(earlier, &self.setting, &locked, self.layers()));
        let gathered = match known.map(|known| self.gather(&locked, wanted, Some(&known))).transpose()?.flatten() {
            Some(gathered) => gathered,
            None => self.gather(&locked, wanted, None)?.expect("without an earlier image nothing is missing from it"),
        };
        let (gathered, own) = gathered;
        let Gathered { downloads, installed, fetched, restored, folder, shared, others, from, described, compiled } =
            gathered;
        let own = own.map(|own| own.in_home(&folder.home())).transpose()?;
        let unpacked = Unpacked { folder: &folder, installed: &installed, shared: &shared };
        let (judge, script) = (self.judge(own.as_ref())?, &self.scripts.install);
        let (judged, compiled) = std::thread::scope(|scope| {
            let judging = scope.spawn(|| shared::judge(&shared, (&fetched, &others), (&judge, script)));
            let compiled = self.compiled(&unpacked, (wanted, &compiled), own.clone());
            // The import check takes longest, so it begins as soon as it can.
            let compiled = compiled.map(|own| {
                let own = own.filter(|_| self.compiler == Compiler::Root);
                own.map(|own| ImportCheck::start(own, &self.scripts.check, folder.path()))
            });
            (judging.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), compiled)
        });
        match judged {
            Err(fault) if fault.exit != Exit::Usage && own.is_some() => match self.whole_root(&folder)? {
                Some(whole) => shared::judge(&shared, (&fetched, &others), (&whole, script))?,
                None => return Err(fault),
            },
            judged => judged?,
        }
        let import = compiled?;
        let imported: BTreeSet<String> =
            fetched.keys().cloned().chain(restored.iter().map(|package| package.name.clone())).collect();
        let known = others.keys().filter(|name| !imported.contains(*name)).cloned().collect();
        let imports = Imports { packages: imported.into_iter().collect(), known, from };
        let mut packages = described.unwrap_or(fetched);
        // Without what is only of the installation.
        for package in &locked {
            packages.entry(package.name.clone()).and_modify(|one| one.pin = Pin::from(package));
        }
        let checked = Checked { version: checked::VERSION, setting: self.setting, packages, shared: shared.owners };
        let (parts, passed, finished) = (BTreeSet::new(), false, false);
        Ok(Made { import, parts, installed, restored, folder, checked, imports, passed, finished, downloads })
    }

    /// The recipe of each package's layer.
    fn layers(&self) -> BTreeMap<String, Digest> {
        let of_group = |(group, part): (&Group, &Part)| {
            let recipe = part.recipe;
            group.packages.iter().map(move |package| (package.name.clone(), recipe)).collect::<Vec<_>>()
        };
        self.groups.iter().zip(&self.parts).flat_map(of_group).collect()
    }

    /// Unpacks packages, and the root's Python.
    fn gather(
        &self,
        locked: &[LockedPackage],
        wanted: &BTreeSet<usize>,
        known: Option<&EarlierPackages<'_>>,
    ) -> Result<Option<(Gathered, Option<RootPython>)>, Fault> {
        let folder = version_folder(&self.python);
        let built = self.built()?;
        let groups = wanted.iter().flat_map(|index| &self.groups[*index].packages);
        // What was built is installed from where it is kept, by either engine: the address of its source is not its own.
        let installed = |package: &LockedPackage| {
            let url = package.url.clone().filter(|_| !built.contains_key(&package.name));
            LockedPackage { url, ..package.clone() }
        };
        let locked: Vec<LockedPackage> = locked.iter().map(installed).collect();
        let gathering = Gathering {
            locked: &locked,
            wanted: groups.map(|package| &*package.name).collect(),
            known,
            wheels: self.wheels(&built),
            place: EnvironmentPlace { home: HOME, folder: &folder },
            work: &self.work,
            whole: self.whole(),
            script: &self.scripts.compile,
        };
        // The root's files may need a download too, so both run at once.
        let python = |home: &Path| {
            let own = (self.compiler == Compiler::Root).then(|| self.root_python());
            let compiler = match (&self.compiler, &own) {
                (Compiler::Root, Some(Ok(own))) => own.in_home(home).ok(),
                (Compiler::Host(host), _) => Some(host.clone()),
                _ => None,
            };
            // Another version is an error when all packages are known.
            (own, compiler.filter(|found| self.is_own_version(found)))
        };
        let (gathered, own) = gathering.run(python)?;
        let (Some(gathered), own) = (gathered, own.transpose()?) else { return Ok(None) };
        Ok(Some((gathered, own)))
    }

    /// The Python that runs `install.py`.
    fn judge(&self, own: Option<&Interpreter>) -> Result<Interpreter, Fault> {
        let host = || {
            Interpreter::of_host("python3").ok_or_else(|| {
                Fault::missing("`python3` is not on `PATH`")
                    .needed_by("`install.py`, which compares the files of packages")
                    .hint("install any version of Python 3")
            })
        };
        own.map_or_else(host, |own| Ok(own.clone()))
    }

    /// The wheels of the packages that are built from source.
    pub(super) fn built(&self) -> Result<source::Wheels, Fault> {
        if self.needed.is_empty() {
            return Ok(source::Wheels::new());
        }
        let place = source::SharedInputs {
            root_files: self.root_files,
            indexes: &uv::indexes(&self.root, &self.requirements)?,
            python: &self.python,
            platform: &self.platform,
            glibc: &self.glibc,
            build_packages: &self.build_packages,
        };
        self.sources.wheels(&self.needed, &place)
    }

    fn wheels<'b>(&'b self, built: &'b source::Wheels) -> WheelSource<'b> {
        let Self { root, requirements, python, platform, glibc, .. } = self;
        WheelSource { root, requirements, python, platform, glibc, built }
    }

    /// Makes byte code; returns the interpreter that can do so: Python's own files of the root may not be enough.
    fn compiled(
        &self,
        unpacked: &Unpacked<'_>,
        wanted: (&BTreeSet<usize>, &BTreeSet<ChunkName>),
        own: Option<Interpreter>,
    ) -> Result<Option<Interpreter>, Fault> {
        let Err(fault) = self.compile(unpacked, wanted, own.as_ref()) else { return Ok(own) };
        let whole = match own {
            Some(_) => self.whole_root(unpacked.folder)?,
            None => None,
        };
        let Some(whole) = whole else { return Err(fault) };
        self.compile(unpacked, wanted, Some(&whole)).map(|()| Some(whole))
    }

    /// The interpreter with all files of the root; `None` if it has no others than were used.
    fn whole_root(&self, folder: &Folder) -> Result<Option<Interpreter>, Fault> {
        let (part, whole) = (self.root_files.folder(Some(&PYTHON))?, self.root_files.folder(None)?);
        if part == whole {
            return Ok(None);
        }
        terminal::detail("Python's own files were not enough: trying the whole root");
        RootPython::new(&whole, self.root_files.config())?.in_home(&folder.home()).map(Some)
    }

    /// Ends an import check. What was not unpacked at first is added where it turns out to be needed.
    fn imported(&self, made: &mut Made) -> Result<(), Fault> {
        let count = made.imports.packages.len();
        let Some(import) = made.import.take() else {
            let why = format!("every package for {}: the root's Python cannot run on this machine", self.platform);
            terminal::step("passed over", &format!("the import of {why}"));
            return Ok(());
        };
        let began = Instant::now();
        let first = import.end();
        let passed = first.or_else(|failed| {
            terminal::detail("the packages cannot be imported without test suites: trying again with these");
            // Their layers have test suites too, but a failure need not be fast.
            let Ok(built) = self.built() else { return Err(failed) };
            let fetched = self.wheels(&built).fetch(&made.restored, made.downloads.path(), &|_, _| ());
            let Ok(fetched) = fetched else { return Err(failed) };
            let folder = version_folder(&self.python);
            let place = EnvironmentPlace { home: HOME, folder: &folder };
            made.folder.unpack(&made.installed, true, &place)?;
            for package in made.restored.iter().rev() {
                let distribution = Installed::read(&fetched[&package.name], package, &place)?;
                made.folder.unpack_one(&distribution, true)?;
            }
            let again = |python: &Interpreter| compile::import(python, &self.scripts.check, made.folder.path());
            let own = self.root_python()?.in_home(&made.folder.home())?;
            again(&own).or_else(|fault| match self.whole_root(&made.folder)? {
                Some(whole) => again(&whole),
                None => Err(fault),
            })
        })?;
        made.passed = true;
        passed.iter().for_each(|what| terminal::step("passed over", &format!("the import of {what}")));
        let waited = quantity::seconds(began.elapsed());
        terminal::detail(&format!("{count} packages imported; waited for {waited}"));
        Ok(())
    }

    /// Items of a group, or those that the environment's layer has of paths that several parts have.
    fn listed(&self, made: &Made, group: Option<&Group>) -> Result<Items, Fault> {
        let python_folder = version_folder(&self.python);
        let place = EnvironmentPlace { home: HOME, folder: &python_folder };
        let code = |name: &str, path: &str, own: bool| {
            let size =
                |file: &Path| std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
            let (used, own_version) = (made.folder.home().join(path), made.folder.own(name).join(path));
            let found =
                [used, own_version].into_iter().skip(usize::from(own)).find_map(|file| Some((size(&file)?, file)));
            found.map(|(size, file)| (file, size))
        };
        let owners = &made.checked.shared;
        let writer = LayerItems { place: &place, owners, code: &code };
        let of_group = |(index, group): (usize, &Group)| {
            group.packages.iter().map(move |package| (package.name.clone(), index)).collect::<Vec<_>>()
        };
        let part_of: BTreeMap<String, usize> = self.groups.iter().enumerate().flat_map(of_group).collect();
        let mut out = Items::new();
        for one in &made.installed {
            let is_wanted = match group {
                Some(group) => group.packages.iter().any(|package| package.name == one.name),
                None => owners.values().any(|owners| owners.contains(&one.name)),
            };
            if is_wanted {
                let distribution = one.distribution(&place)?;
                let items = writer.distribution(&distribution);
                out.extend(if group.is_some() { items } else { writer.used(&distribution, &items, &part_of) });
            }
        }
        Ok(out)
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

    /// The root's Python, from the files that it needs, or from the whole root if these are not enough.
    fn root_python(&self) -> Result<RootPython, Fault> {
        let config = self.root_files.config();
        let part = self.root_files.folder(Some(&PYTHON));
        part.and_then(|part| RootPython::new(&part, config)).or_else(|fault| match fault.exit {
            Exit::Network => Err(fault),
            _ => RootPython::new(&self.root_files.folder(None)?, config),
        })
    }

    fn is_own_version(&self, python: &Interpreter) -> bool {
        python.version.starts_with(&format!("{}.", self.environment.minor()))
    }

    /// Makes byte code for the wanted groups, and for each version of a shared path; some chunks were compiled before.
    fn compile(
        &self,
        unpacked: &Unpacked<'_>,
        (wanted, compiled): (&BTreeSet<usize>, &BTreeSet<ChunkName>),
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
        if !self.is_own_version(compiler) {
            return Err(Fault::usage(format!("the root has Python {}, not {}", compiler.version, self.python))
                .hint("correct `[root] python` in `images.toml`"));
        }
        let began = Instant::now();
        let python_folder = version_folder(&self.python);
        let place = EnvironmentPlace { home: HOME, folder: &python_folder };
        let groups = wanted.iter().map(|index| &self.groups[*index]);
        let names: BTreeSet<&str> = groups.flat_map(|group| &group.packages).map(|package| &*package.name).collect();
        let site = format!("{HOME}/{}", place.site());
        let compiler = bytecode::CompileScript { interpreter: compiler, script: &self.scripts.compile, site: &site };
        let chunks = compile::sources(unpacked, (&names, compiled), &place)?;
        let files = compile::BytecodeFiles { home: unpacked.folder.home(), place: &place };
        compiler.compile(&chunks, &|source| files.read(source), &|source, code| files.write(source, code))?;
        terminal::detail(&format!("byte code made in {}", quantity::seconds(began.elapsed())));
        Ok(())
    }
}

impl Realise for PythonPackages<'_> {
    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn finish(&self) -> Result<(), Fault> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.iter_mut().filter(|made| !made.finished).try_for_each(|made| {
            made.finished = true;
            self.imported(made)
        })
    }

    fn check(&self) -> Result<(), Fault> {
        closure::check(&self.whole(), &|| uv::indexes(&self.root, &self.requirements))
    }

    fn prepare(&self, wanted: &[usize], earlier: Option<&dyn Earlier>) -> Result<(), Fault> {
        if wanted.is_empty() || self.groups.is_empty() {
            return Ok(());
        }
        let groups = wanted.iter().copied().filter(|index| *index < self.groups.len()).collect();
        let made = Made { parts: wanted.iter().copied().collect(), ..self.packages(&groups, earlier)? };
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(made);
        Ok(())
    }

    fn items(&self, part: usize) -> Result<Vec<Item>, Fault> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let made = made.iter().rev().find(|made| made.parts.contains(&part));
        let items = match (made, self.groups.get(part)) {
            (Some(made), group) => self.listed(made, group)?,
            (None, None) => Items::new(),
            (None, Some(group)) => return Err(Fault::build(format!("the layer of {} was not prepared", group.name))),
        };
        if part < self.groups.len() { Ok(items.into_values().collect()) } else { self.environment(items) }
    }

    fn size(&self, part: usize) -> u64 {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let of_part = self.groups.get(part).into_iter().flat_map(|group| &group.packages);
        let names: BTreeSet<&str> = of_part.map(|package| &*package.name).collect();
        let installed = made.last().into_iter().flat_map(|made| &made.installed);
        installed.filter(|one| names.contains(&*one.name)).map(|one| one.size).sum()
    }

    fn note(&self, part: usize) -> Option<Vec<u8>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let made = made.last().filter(|_| part == self.groups.len())?;
        Some(serde_json::to_vec(&made.checked).expect("a record is valid JSON"))
    }

    fn imports(&self) -> Option<Imports> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.last().filter(|made| made.passed).map(|made| made.imports.clone())
    }

    fn checked(&self, part: usize) -> Option<u32> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.last().filter(|made| made.passed && part == self.groups.len()).map(|_| checked::VERSION)
    }
}

/// Files that hold the items' bytes, and an import check that may run meanwhile.
struct Made {
    // Dropped first: it uses the folder.
    import: Option<ImportCheck>,
    parts: BTreeSet<usize>,
    installed: Vec<Installed>,
    /// Packages whose files came from layers.
    restored: Vec<LockedPackage>,
    folder: Folder,
    checked: Checked,
    imports: Imports,
    /// True if all was imported.
    passed: bool,
    finished: bool,
    downloads: Scratch,
}

/// Packages as files of this machine.
struct Unpacked<'a> {
    folder: &'a Folder,
    installed: &'a [Installed],
    shared: &'a Shared,
}

/// Rejects settings of the stage that the recipe does not support; needs no root.
///
/// # Errors
/// A platform without wheels.
pub(super) fn settings(platform: &Platform, python: &str) -> Result<(), Fault> {
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
fn only_wheels<'p>(lock: &Lock, packages: impl Iterator<Item = &'p LockedPackage>) -> Result<(), Fault> {
    let forbidden = |name: &str| lock.no_binary.contains(":all:") || lock.no_binary.contains(name);
    let names: Vec<&str> = packages.map(|package| package.name.as_str()).filter(|name| forbidden(name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Fault::usage(format!("`--no-binary` in the requirements excludes the wheels of {}", names.join(", ")))
        .needed_by("the recipe `python-packages`")
        .hint("record how they are built from source: `cargo xtask lock`"))
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
