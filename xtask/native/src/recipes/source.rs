//! Packages without a wheel: built once from source, in the root's own Python, and then a wheel like any other.
//!
//! A wheel is known by everything that it is made of: source, root, platform, pinned build requirements, build packages. It is
//! looked for in the user's cache and in the base's repository before it is built, and kept in both. A build runs in a container
//! of its own without a network; only the build packages are installed with one, before.

mod inspect;

pub use inspect::{Inspected, inspect};

use crate::container::bare::Bare;
use crate::container::{Launch, Manner};
use crate::layer;
use crate::stage::RootFiles;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Instant;
use xtask_host::index::{self, Cache, Fetched, WheelRequest};
use xtask_host::registry::Client;
use xtask_host::registry::publish::wheels::{self, KeptWheel};
use xtask_host::scratch::Scratch;
use xtask_host::terminal;
use xtask_host::tree::git::source::{self, SourceArchive};
use xtask_host::tree::secrets::Secrets;
use xtask_model::fault::{Exit, Fault};
use xtask_model::quantity;
use xtask_model::spec::lock::closure::pins_of;
use xtask_model::spec::lock::sources::{self, SourcePin, checkout};
use xtask_model::spec::lock::{Indexes, Lock, LockedPackage};
use xtask_model::spec::oci::Execution;
use xtask_model::spec::reference::{Digest, Platform, Repository};
use xtask_model::spec::requirements::{Checkout, Environment, Version};
use xtask_model::spec::sdist::Compilers;
use xtask_model::spec::wheel::{Tags, WheelName};

const SCRIPT: &str = include_str!("source/build.py");

/// Folder of a build's inputs in the container.
const INPUTS: &str = "xtask-build";

/// Lines of a failed build that are shown.
const SHOWN: usize = 40;

/// Longest wheel of a build, in bytes.
const LONGEST: usize = 1 << 30;

/// A source archive on this machine.
pub struct Source {
    pub path: PathBuf,
    /// As a pin names it: a digest, or the URL of a commit.
    pub from: String,
    /// Folder of the project below the archive's own.
    pub subdirectory: String,
    /// Paths of submodules that it lacks.
    pub submodules: Vec<String>,
}

/// Fetches the sources of packages, in their order: archives of an index, or commits of git, below a folder.
///
/// # Errors
/// Whatever an index or a git server refuses or does not have.
pub fn fetch(packages: &[LockedPackage], indexes: &Indexes, folder: &Path) -> Result<Vec<Source>, Fault> {
    let archives: Vec<LockedPackage> = packages.iter().filter(|one| checkout(one).is_none()).cloned().collect();
    let mut archives =
        if archives.is_empty() { Vec::new() } else { index::fetch_archives(&archives, indexes)? }.into_iter();
    let mut found = Vec::new();
    for (number, package) in packages.iter().enumerate() {
        let Some((url, of)) = checkout(package).and_then(|url| Some((url, Checkout::parse(url)?))) else {
            let archive =
                archives.next().ok_or_else(|| Fault::build(format!("no archive of {} was fetched", package.name)))?;
            let fragment =
                package.url.as_deref().and_then(|url| url.split_once('#')).map_or("", |(_, fragment)| fragment);
            let below = fragment.split('&').find_map(|part| part.strip_prefix("subdirectory=")).unwrap_or_default();
            let (path, from) = (archive.path, archive.sha256.to_string());
            found.push(Source { path, from, subdirectory: below.to_owned(), submodules: Vec::new() });
            continue;
        };
        let place = folder.join(format!("git-{number}"));
        std::fs::create_dir_all(&place).map_err(|error| Fault::build("cannot make a temporary folder").cause(error))?;
        terminal::step("fetching", &format!("{} at commit {}", of.url, &of.commit[..12]));
        // The same address with the user and password that the requirements take from the environment.
        let with_user = Checkout::parse(indexes.url(url)).map_or(of.url, |found| found.url);
        let SourceArchive { path, submodules } = source::archive(&of, with_user, &place)?;
        found.push(Source { path, from: url.to_owned(), subdirectory: of.subdirectory.to_owned(), submodules });
    }
    Ok(found)
}

/// Container that builds wheels for a platform on this machine.
///
/// # Errors
/// Another machine's platform; a machine without namespaces.
pub fn builder(platform: &Platform) -> Result<Bare, Fault> {
    if *platform != Platform::host() {
        let what = format!("packages without a wheel cannot be built for {platform} on this machine");
        return Err(Fault::usage(what)
            .cause(format!("the root's Python runs only on {platform}"))
            .hint(format!("build the base on a machine of {platform} with `--push`: others use its wheels")));
    }
    Bare::find()
}

/// The base's repository, where built wheels are kept.
#[derive(Clone, Copy)]
pub struct Kept<'a> {
    pub client: &'a Client,
    pub repository: &'a Repository,
    /// True if this build publishes.
    pub push: bool,
}

/// Inputs for building packages without a wheel for a base.
#[derive(Clone, Default)]
pub struct Sources<'a> {
    /// Those of `images.lock`.
    pub pins: Vec<SourcePin>,
    /// The root as the base's key names it for this platform.
    pub root: Option<Digest>,
    /// The root of every other platform: a wheel that was built there may be for all.
    pub others: Vec<(Platform, Digest)>,
    /// The suite of a root from Debian's packages, whose packages come from the host's mirror.
    pub suite: Option<String>,
    /// `None` where no registry is asked.
    pub kept: Option<Kept<'a>>,
    pub cache: Cache,
}

/// A package that is built.
#[derive(Clone, Debug)]
pub(super) struct Needed {
    package: LockedPackage,
    pin: SourcePin,
    /// Digest over everything that its wheel is made of.
    pub(super) id: Digest,
}

/// Inputs that all builds of a base share.
pub(super) struct SharedInputs<'a> {
    pub root_files: &'a dyn RootFiles,
    pub indexes: &'a Indexes,
    /// The root's Python: `3.13.5`.
    pub python: &'a str,
    pub platform: &'a Platform,
    pub glibc: &'a str,
    pub build_packages: &'a BTreeSet<String>,
}

/// Path and name of each wheel, by package.
pub(super) type Wheels = BTreeMap<String, (PathBuf, String)>;

impl Sources<'_> {
    /// The packages of a lock that have no wheel here and are built, by name.
    pub(super) fn needed(
        &self,
        lock: &Lock,
        packages: &[LockedPackage],
        (platform, environment): (&Platform, &Environment),
        build_packages: &BTreeSet<String>,
    ) -> BTreeMap<String, Needed> {
        let target = format!("{platform} {}", environment.minor());
        let lacks = |package: &&LockedPackage| lock.records.without_wheel(package).any(|place| place == target);
        let needed = |package: &LockedPackage| {
            let pin = self.pins.iter().find(|pin| pin.is_of(package))?.clone();
            let id = pin.key().wheel(&self.root?, platform, build_packages);
            Some((package.name.clone(), Needed { package: package.clone(), pin, id }))
        };
        packages.iter().filter(lacks).filter_map(needed).collect()
    }

    /// The wheels of these packages: known ones, and built ones.
    pub(super) fn wheels(&self, needed: &BTreeMap<String, Needed>, place: &SharedInputs<'_>) -> Result<Wheels, Fault> {
        let (mut found, mut missing) = (Wheels::new(), Vec::new());
        for one in needed.values() {
            match self.known(one, place)? {
                Some(wheel) => drop(found.insert(one.package.name.clone(), wheel)),
                None => missing.push(one),
            }
        }
        if !missing.is_empty() {
            found.extend(self.built(&missing, place)?);
        }
        Ok(found)
    }

    /// A wheel of the cache or the repository: of this platform, or one of another platform that fits every one.
    fn known(&self, one: &Needed, place: &SharedInputs<'_>) -> Result<Option<(PathBuf, String)>, Fault> {
        let key = one.pin.key();
        let others = self.others.iter().map(|(platform, root)| (key.wheel(root, platform, place.build_packages), true));
        for (id, is_others) in [(one.id, false)].into_iter().chain(others) {
            if let Some((filename, path)) = self.cache.built(&id)
                && one.fits(&filename, place).is_ok()
            {
                self.keep(one, &filename, &path)?;
                return Ok(Some((path, filename)));
            }
            let Some(KeptWheel { filename, bytes }) = self.published(&id)? else { continue };
            match one.fits(&filename, place) {
                Ok(()) => {}
                Err(_) if is_others => continue,
                Err(why) => {
                    let what = format!("the wheel `{}` in the base's repository does not fit", wheels::tag(&id));
                    let hint = "delete this tag in the registry; the next build makes the wheel again";
                    return Err(Fault::build(what).cause(why).hint(hint));
                }
            }
            terminal::step("reused", &format!("{}, built before from the same source", one.shown()));
            let path = self.cache.keep_built(&one.id, &filename, &bytes)?;
            if is_others {
                self.keep(one, &filename, &path)?;
            }
            return Ok(Some((path, filename)));
        }
        Ok(None)
    }

    fn published(&self, id: &Digest) -> Result<Option<KeptWheel>, Fault> {
        let Some(kept) = &self.kept else { return Ok(None) };
        match wheels::read(kept.client, kept.repository, id) {
            // A registry that is unreachable saves no work.
            Err(fault) if fault.unreachable && !kept.push => Ok(None),
            read => read,
        }
    }

    /// Puts a wheel into the repository, where this build publishes.
    fn keep(&self, one: &Needed, filename: &str, path: &Path) -> Result<(), Fault> {
        let Some(kept) = self.kept.filter(|kept| kept.push) else { return Ok(()) };
        let bytes = std::fs::read(path)
            .map_err(|error| Fault::build(format!("cannot read `{}`", path.display())).cause(error))?;
        let wheel = KeptWheel { filename: filename.to_owned(), bytes };
        wheels::keep(kept.client, kept.repository, &one.id, &wheel).map_err(|fault| fault.needed_by(one.shown()))
    }

    fn built(&self, missing: &[&Needed], place: &SharedInputs<'_>) -> Result<Wheels, Fault> {
        let names: Vec<String> = missing.iter().map(|one| one.shown()).collect();
        let needed_by = format!("building from source: {}", names.join(", "));
        let cannot = |fault: Fault| fault.needed_by(needed_by.clone());
        let bare = builder(place.platform).map_err(|fault| {
            cannot(fault).hint("or compile them by docker: `BUILD_PACKAGES` in `[base.args]`, with `--engine docker`")
        })?;
        let scratch = Scratch::new().map_err(|error| Fault::build("cannot make a temporary folder").cause(error))?;
        // Of several archives the one that is pinned.
        let pinned = |one: &&Needed| LockedPackage { hashes: [one.pin.from.clone()].into(), ..one.package.clone() };
        let packages: Vec<LockedPackage> = missing.iter().map(pinned).collect();
        let archives = fetch(&packages, place.indexes, scratch.path())?;
        let root = place.root_files.folder(None)?;
        let mut found = Wheels::new();
        for (one, source) in missing.iter().zip(&archives) {
            let began = Instant::now();
            terminal::step("building", &format!("the wheel of {}, which the index does not have", one.shown()));
            let inputs = scratch.path().join(format!("inputs-{}", one.package.name));
            let is_pure = one.prepare(source, &inputs, place)?.is_pure();
            let compiles = !place.build_packages.is_empty();
            let mut output = self.run(&bare, (&root, &inputs), place, compiles && !is_pure)?;
            if !output.status.success() && compiles && is_pure {
                terminal::detail("the build failed without the build packages: trying it with them");
                output = self.run(&bare, (&root, &inputs), place, true)?;
            }
            let wheel = one.judged(output, place)?;
            let path = self.cache.keep_built(&one.id, &wheel.filename, &wheel.bytes)?;
            self.keep(one, &wheel.filename, &path)?;
            terminal::step("built", &format!("`{}` in {}", wheel.filename, quantity::seconds(began.elapsed())));
            found.insert(one.package.name.clone(), (path, wheel.filename));
        }
        Ok(found)
    }

    /// Runs the build in a container without a network, in which the build packages are installed first if it is compiled.
    fn run(
        &self,
        bare: &Bare,
        (root, inputs): (&Path, &Path),
        place: &SharedInputs<'_>,
        is_compiled: bool,
    ) -> Result<Output, Fault> {
        let env = place.root_files.config().config.env.clone();
        let image = Execution { working_dir: "/".to_owned(), env, ..Execution::default() };
        let argv = ["python3", "-I", &format!("/{INPUTS}/build.py")].map(str::to_owned).to_vec();
        let files = [inputs, root].into_iter().collect();
        if !is_compiled {
            return bare.run(&files, &image, &Launch::offline(&argv));
        }
        let wanted = ["ca", "apt-sources"].map(str::to_owned).into();
        apt(inputs, &Secrets::collect(&wanted, self.suite.as_deref())?)?;
        let sleep = ["sh", "-c", "while sleep 3600; do :; done"].map(str::to_owned).to_vec();
        let launch = Launch { entrypoint: None, args: sleep, manner: Manner::Open };
        let mut container = bare.start(&files, &image, &launch)?;
        let list: Vec<String> = place.build_packages.iter().cloned().collect();
        terminal::step("installing", &format!("build packages in the container: {}", list.join(" ")));
        let install = ["sh".to_owned(), format!("/{INPUTS}/apt.sh")];
        let installed = container.exec(&[&install[..], &list[..]].concat())?;
        if !installed.status.success() {
            let fault = Fault::build("cannot install the build packages in the root").needed_by(list.join(" "));
            let fault = last_lines(&installed).iter().fold(fault, Fault::cause);
            return Err(
                fault.hint("the root needs apt, and a mirror that is reachable; or build by docker: `--engine docker`")
            );
        }
        container.exec_offline(&argv)
    }
}

/// Writes what installs the build packages, as the Dockerfile's stage does. A proxy may have a password: it is in a file.
fn apt(inputs: &Path, secrets: &Secrets) -> Result<(), Fault> {
    const SCRIPT: &str = "\
set -e
. /xtask-build/proxies
export DEBIAN_FRONTEND=noninteractive
ca=
if [ -f /xtask-build/ca ]; then ca='-o Acquire::https::CAInfo=/xtask-build/ca'; fi
apt-get -o APT::Sandbox::User=root $ca update
apt-get -o APT::Sandbox::User=root $ca install -y --no-install-recommends \"$@\"
";
    let proxy = |name: &&str| {
        let value = std::env::var(name).ok()?;
        Some(format!("export {name}='{}'\n", value.replace('\'', "'\\''")))
    };
    let proxies: String = Secrets::proxies().iter().filter_map(proxy).collect();
    let write = || -> std::io::Result<()> {
        let folder = inputs.join(INPUTS);
        std::fs::write(folder.join("apt.sh"), SCRIPT)?;
        std::fs::write(folder.join("proxies"), &proxies)?;
        for (name, file) in secrets.files() {
            match *name {
                "ca" => drop(std::fs::copy(file, folder.join("ca"))?),
                "apt-sources" => {
                    let lists = inputs.join("etc/apt/sources.list.d");
                    std::fs::create_dir_all(&lists)?;
                    std::fs::copy(file, lists.join("build.sources"))?;
                }
                _ => {}
            }
        }
        Ok(())
    };
    write().map_err(|error| Fault::build("cannot write a temporary file").cause(error))
}

impl Needed {
    fn shown(&self) -> String {
        sources::shown(&self.package)
    }

    /// Puts the source, the build requirements and the script into a folder; returns the compilers that it probably needs.
    fn prepare(&self, source: &Source, inputs: &Path, place: &SharedInputs<'_>) -> Result<Compilers, Fault> {
        let environment = Environment::new(place.python, place.platform);
        let inspected = inspect(&source.path, &self.shown(), &source.subdirectory)?;
        let build: Vec<LockedPackage> = pins_of(&self.pin.build, &environment).0.into_values().cloned().collect();
        let wanted = WheelRequest {
            packages: &build,
            indexes: place.indexes,
            python: place.python,
            platform: place.platform,
            glibc: place.glibc,
        };
        let fetched = if build.is_empty() { Fetched::Wheels(Vec::new()) } else { index::fetch(&wanted)? };
        let Fetched::Wheels(wheels) = fetched else {
            return Err(Fault::usage(format!("cannot fetch the build requirements of {}", self.shown()))
                .cause("the package index needs a program for its passwords")
                .hint("give the user and password in the environment or in `~/.netrc`"));
        };
        let plan = serde_json::json!({
            "source": "source", "subdirectory": source.subdirectory, "epoch": layer::TIME,
            "backend": inspected.system.backend, "path": inspected.system.path,
            "wheels": wheels.iter().map(|wheel| &wheel.filename).collect::<Vec<_>>(),
        });
        let write = || -> std::io::Result<()> {
            let folder = inputs.join(INPUTS);
            std::fs::create_dir_all(folder.join("wheels"))?;
            std::fs::write(folder.join("build.py"), SCRIPT)?;
            std::fs::write(folder.join("plan.json"), plan.to_string())?;
            std::fs::copy(&source.path, folder.join("source"))?;
            for wheel in &wheels {
                std::fs::copy(&wheel.path, folder.join("wheels").join(&wheel.filename))?;
            }
            Ok(())
        };
        write().map_err(|error| Fault::build("cannot write a temporary file").cause(error))?;
        Ok(inspected.compilers)
    }

    /// The wheel in a build's output.
    fn judged(&self, output: Output, place: &SharedInputs<'_>) -> Result<KeptWheel, Fault> {
        let failed = || Fault::build(format!("cannot build {} from source", self.shown()));
        if !output.status.success() {
            return Err(with_hint(last_lines(&output).iter().fold(failed(), Fault::cause), &output));
        }
        let wrong = |why: &str| failed().cause(why);
        let end =
            output.stdout.iter().position(|byte| *byte == b'\n').ok_or_else(|| wrong("the build printed no wheel"))?;
        let head: serde_json::Value =
            serde_json::from_slice(&output.stdout[..end]).map_err(|error| failed().cause(error))?;
        let filename = head["filename"].as_str().unwrap_or_default().to_owned();
        let bytes = output.stdout[end + 1..].to_vec();
        if bytes.len() > LONGEST {
            return Err(wrong("the wheel is longer than 1 GiB"));
        }
        self.fits(&filename, place).map_err(|why| wrong(&why))?;
        Ok(KeptWheel { filename, bytes })
    }

    /// The reason why a wheel is not the one of this package and place.
    fn fits(&self, filename: &str, place: &SharedInputs<'_>) -> Result<(), String> {
        let wheel: WheelName = filename.parse()?;
        let locked = self.package.version.parse::<Version>().ok();
        if wheel.name != self.package.name || locked.is_some_and(|locked| locked != wheel.version) {
            return Err(format!("`{filename}` is not {}", self.shown()));
        }
        let machine = Environment::new(place.python, place.platform).machine().to_owned();
        let tags = Tags::cpython(place.python, &machine, place.glibc)?;
        match tags.rank(&wheel) {
            Some(_) => Ok(()),
            None => {
                Err(format!("`{filename}` is for another Python or platform than {} {}", place.platform, place.python))
            }
        }
    }
}

/// The last lines of what a program printed.
fn last_lines(output: &Output) -> Vec<String> {
    let text =
        String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr }).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(SHOWN)..].iter().map(|line| (*line).to_owned()).collect()
}

/// The next step, from the words of a build.
fn with_hint(fault: Fault, output: &Output) -> Fault {
    let said = String::from_utf8_lossy(&output.stderr);
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["Network is unreachable", "name resolution", "Name or service not known", "Connection refused"]) {
        return Fault { exit: Exit::Build, ..fault }
            .hint("a build has no network: what it downloads has to be a build requirement, `build-system.requires`");
    }
    if says(&["while it runs, which `build-system.requires`"]) {
        return fault.hint("pin a version that lists it, or compile by docker: `BUILD_PACKAGES` in `[base.args]`");
    }
    let compiler =
        ["'gcc'", "'cc'", "gcc: not found", "compiler", "Python.h", ".h: No such file", "cargo", "cmake", "rustc"];
    if says(&compiler) {
        return fault.hint(
            "if a compiler or header is missing, name its Debian package: `BUILD_PACKAGES = \"gcc libc6-dev python3-dev\"` in `[base.args]`",
        );
    }
    fault.hint("the last lines of the build's output are above")
}
