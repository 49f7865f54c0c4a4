//! A copy of the repository in `target/bench`, with its own engine and cargo folders.
//!
//! Writes only below the repository's `target`. The engine is stopped and the copy removed when the [`Workspace`] is
//! dropped; the next run removes what a killed run left.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;
use xtask::flags::{Format, Global};
use xtask::pipeline;
use xtask_host::docker::{Docker, debian, engine};
use xtask_host::linux;
use xtask_host::process::{self, Command};
use xtask_host::registry::layout::Layout;
use xtask_host::terminal;
use xtask_host::tree::facts::Tree;
use xtask_host::tree::uv::{self, Uv};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::policy::Registry;
use xtask_model::quantity;
use xtask_model::spec::reference::Platform;
use xtask_native::root;

pub struct Workspace {
    pub tree: Tree,
    pub original: PathBuf,
    /// `target/bench` of the original.
    folder: PathBuf,
    engine: Option<engine::State>,
    /// True if both sides have built on this engine.
    pub warm: bool,
    pub compiled: bool,
    _lock: File,
}

/// Variables that would redirect a measured xtask, cargo or docker, or make it do more than for a developer.
const FOREIGN: [&str; 14] = [
    "BUILDX_BUILDER",
    "CARGO_BUILD_TARGET",
    "CARGO_MANIFEST_DIR",
    "CARGO_PKG_NAME",
    "CI",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "RUSTFLAGS",
    "RUST_LOG",
    "SOURCE_DATE_EPOCH",
    "UV_CACHE_DIR",
    "XTASK_CACHE_DIR",
    "XTASK_REGISTRY",
];

const PRIVATE: [&str; 4] = ["buildah", "scratch", "uv", "wheels"];

/// The copy's first commit; not a tag, because tags are versions.
const FIRST: &str = "refs/bench/first";

impl Workspace {
    /// Copies the repository. Fails if another bench is running.
    pub fn open(tree: &Tree) -> Result<Self, Fault> {
        let folder = tree.root.join("target/bench");
        fs::create_dir_all(&folder).map_err(|error| cannot_write(&folder, &error))?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(|error| cannot_write(&path, &error))?;
        lock.try_lock().map_err(|_| {
            Fault::usage("another `cargo xtask bench` is running")
                .cause("two at a time would affect each other's measurements")
        })?;
        let copy = folder.join("tree");
        clear(&folder)?;
        terminal::step("copying", &format!("the repository to `{}`", copy.display()));
        copy_tree(&tree.root, &copy)?;
        share_root(&tree.root, &copy)?;
        let global = Global {
            root: Some(copy),
            registry: None,
            app: Vec::new(),
            format: Format::Text,
            locked: false,
            offline: false,
            verbose: false,
            quiet: false,
        };
        let tree_copy = global.tree()?;
        Ok(Self {
            tree: tree_copy,
            original: tree.root.clone(),
            folder,
            engine: None,
            warm: false,
            compiled: false,
            _lock: lock,
        })
    }

    /// Folder for cargo's output: `warm` is kept between runs, others are removed at the end.
    pub fn cargo_folder(&self, name: &str) -> PathBuf {
        self.folder.join(format!("cargo-{name}"))
    }

    pub fn remove_cargo_folder(&self, name: &str) -> Result<(), Fault> {
        remove(&self.cargo_folder(name))
    }

    /// cargo in the copy, independent of the calling cargo and CI.
    pub fn cargo(&self, folder: &str) -> Result<Command, Fault> {
        let cargo = process::find("cargo", "measuring", "install Rust: https://rustup.rs")?;
        Ok(self.isolated(Command::new(cargo)).env("CARGO_TARGET_DIR", self.cargo_folder(folder)))
    }

    pub fn xtask(&self) -> Command {
        let warm = self.cargo_folder("warm");
        self.isolated(Command::new(warm.join("debug/xtask"))).env("CARGO_TARGET_DIR", warm)
    }

    /// A command in the copy, independent of the calling cargo, docker and CI.
    pub fn isolated(&self, call: Command) -> Command {
        let call = FOREIGN.iter().fold(call.current_dir(&self.tree.root), |call, name| call.env_remove(name));
        call.env("XTASK_STORE", self.tree.root.join("target/native/store"))
    }

    /// One of `PRIVATE`; removed with the copy.
    pub fn private_folder(&self, name: &str) -> PathBuf {
        debug_assert!(PRIVATE.contains(&name));
        self.folder.join(name)
    }

    /// Empties a folder of [`Workspace::private_folder`], and unmounts what is in it.
    pub fn empty_private_folder(&self, name: &str) -> Result<PathBuf, Fault> {
        let folder = self.private_folder(name);
        remove_mounted(&folder)?;
        fs::create_dir_all(&folder).map_err(|error| cannot_write(&folder, &error))?;
        Ok(folder)
    }

    pub fn compile(&mut self) -> Result<(), Fault> {
        if !self.compiled {
            terminal::step("compiling", "xtask in the copy");
            super::sample::call(&self.cargo("warm")?.args(["build", "--locked", "--package", "xtask"]))?;
            self.compiled = true;
        }
        Ok(())
    }

    pub fn forget_tools(&self) -> Result<(), Fault> {
        remove(&self.tree.root.join("target/tools"))
    }

    pub fn commit(&self) -> Result<(), Fault> {
        commit(&self.tree.root)
    }

    pub fn rewind(&self) -> Result<(), Fault> {
        git(&self.tree.root, &["reset", "--quiet", "--hard", FIRST])?;
        git(&self.tree.root, &["clean", "--quiet", "-d", "--force"]).map(drop)
    }

    /// Removes results of builds, as on a new runner: layer store, staged program, records. The root and `target/tools`
    /// stay.
    pub fn forget_native(&self) -> Result<(), Fault> {
        let target = self.tree.root.join("target");
        for folder in ["native", "image", "ledger"] {
            remove(&target.join(folder))?;
        }
        let images = target.join("images");
        for entry in fs::read_dir(&images).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && entry.file_name() != OsStr::new("root") {
                remove(&path)?;
            } else if path.is_file() {
                fs::remove_file(&path).map_err(|error| cannot_write(&path, &error))?;
            }
        }
        Ok(())
    }

    /// An empty `CARGO_HOME` with the settings of the real one (mirrors, proxies).
    pub fn empty_cargo_home(&self) -> Result<PathBuf, Fault> {
        let home = self.cargo_folder("home");
        remove(&home)?;
        fs::create_dir_all(&home).map_err(|error| cannot_write(&home, &error))?;
        let real = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let real = real.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
        for name in ["config.toml", "credentials.toml"] {
            let settings = real.as_ref().map(|real| real.join(name)).filter(|path| path.is_file());
            if let Some(settings) = settings {
                // A link, so that credentials are not copied.
                std::os::unix::fs::symlink(&settings, home.join(name)).map_err(|error| cannot_write(&home, &error))?;
            }
        }
        Ok(home)
    }

    pub fn registry(&self) -> Result<Registry, Fault> {
        let state = self.engine.as_ref().ok_or_else(no_engine)?;
        state.registry.parse().map_err(|error| Fault::build(format!("cannot use the engine's registry: {error}")))
    }

    pub fn docker(&self) -> Result<Docker, Fault> {
        self.engine.as_ref().map(Docker::of_engine).ok_or_else(no_engine)
    }

    pub fn engine_up(&mut self) -> Result<(), Fault> {
        if self.engine.is_none() {
            let began = Instant::now();
            self.engine = Some(engine::up(&self.tree.root, &engine::EngineOptions::default())?);
            terminal::detail(&format!("engine up in {}", quantity::seconds(began.elapsed())));
        }
        Ok(())
    }

    /// Starts an empty engine: no build cache, no images, no downloads, an empty registry.
    pub fn fresh_engine(&mut self) -> Result<(), Fault> {
        self.engine_down()?;
        self.engine_up()
    }

    /// Empties the engine's build cache and image store, but not the registry.
    pub fn forget_builds(&self) -> Result<(), Fault> {
        let docker = self.docker()?;
        docker.buildx().args(["prune", "--all", "--force"]).read(Exit::Build)?;
        docker.command().args(["system", "prune", "--all", "--force"]).read(Exit::Build).map(drop)
    }

    fn engine_down(&mut self) -> Result<(), Fault> {
        self.warm = false;
        self.engine = None;
        engine::down(&self.tree.root, None, true)
    }

    /// Returns true if a build can start without making a root image: there is no fallback, or its root was shared.
    pub fn has_root(&self) -> Result<bool, Fault> {
        let Some(debian) = &self.tree.policy.root.fallback else { return Ok(true) };
        let layout = Layout::open_or_create(&self.tree.root.join("target/images/root"))?;
        Ok(root::find(&pipeline::debian_recipe(debian), &layout, &Platform::host())?.is_some())
    }

    pub fn reset(&self) -> Result<(), Fault> {
        git(&self.tree.root, &["checkout", "--quiet", "--", "."]).map(drop)
    }

    pub fn edit(&self, path: impl AsRef<Path>, change: impl FnOnce(String) -> String) -> Result<(), Fault> {
        let path = self.tree.root.join(path);
        let text = fs::read_to_string(&path)
            .map_err(|error| Fault::usage(format!("cannot read `{}`", path.display())).cause(error))?;
        fs::write(&path, change(text)).map_err(|error| cannot_write(&path, &error))
    }

    /// uv: from `XTASK_TEST_UV`, the machine, the repository, or a new installation in the copy.
    pub fn uv(&self) -> Result<Uv, Fault> {
        let named: Vec<PathBuf> = std::env::var_os("XTASK_TEST_UV").map(PathBuf::from).into_iter().collect();
        let found = uv::find(&self.tree.root, &named).or_else(|_| uv::find(&self.original, &[]));
        found.or_else(|_| {
            terminal::step("installing", "uv, which resolves requirements");
            uv::install(&self.tree.root)
        })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        for done in [self.engine_down(), clear(&self.folder)] {
            if let Err(fault) = done {
                terminal::warn(&format!("{fault}; the next `cargo xtask bench` tries again"));
            }
        }
    }
}

fn no_engine() -> Fault {
    Fault::missing("the engine is not running")
}

/// Removes leftovers of a run: the copy's engine, the copy, cold cargo folders.
fn clear(folder: &Path) -> Result<(), Fault> {
    let copy = folder.join("tree");
    if copy.join("target/engine").exists() {
        engine::down(&copy, None, true)?;
    }
    remove(&copy)?;
    for name in PRIVATE {
        remove_mounted(&folder.join(name))?;
    }
    for entry in fs::read_dir(folder).map_err(|error| cannot_write(folder, &error))?.flatten() {
        let name = entry.file_name();
        if name.as_bytes().starts_with(b"cargo-") && name != OsStr::new("cargo-warm") {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Copies tracked and untracked files as they are on disk, and makes a repository with one commit.
fn copy_tree(from: &Path, to: &Path) -> Result<(), Fault> {
    let listed = git(from, &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    for name in listed.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = Path::new(OsStr::from_bytes(name));
        let (source, target) = (from.join(name), to.join(name));
        let cannot = |error| cannot_write(&target, &error);
        // Deleted, but still in the index.
        let Ok(meta) = source.symlink_metadata() else { continue };
        fs::create_dir_all(target.parent().unwrap_or(to)).map_err(cannot)?;
        if meta.is_symlink() {
            let to = fs::read_link(&source).map_err(cannot)?;
            std::os::unix::fs::symlink(to, &target).map_err(cannot)?;
        } else if meta.is_file() {
            fs::copy(&source, &target).map_err(cannot)?;
            // Keeps times: cargo compiles files with new times again.
            let times = fs::FileTimes::new().set_modified(meta.modified().map_err(cannot)?);
            File::options().write(true).open(&target).and_then(|file| file.set_times(times)).map_err(cannot)?;
        }
    }
    git(to, &["init", "--quiet", "--initial-branch", "main"])?;
    commit(to)?;
    git(to, &["update-ref", FIRST, "HEAD"]).map(drop)
}

fn commit(folder: &Path) -> Result<(), Fault> {
    git(folder, &["add", "--all"])?;
    let who = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"];
    git(folder, &[&who[..], &["commit", "--quiet", "--message", "bench"]].concat()).map(drop)
}

fn git(folder: &Path, args: &[&str]) -> Result<Vec<u8>, Fault> {
    let call = Command::new("git").arg("-C").arg(folder).args(args).env("GIT_CONFIG_NOSYSTEM", "1");
    let call = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"].iter().fold(call, |call, name| call.env_remove(name));
    let output = call.output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(call.failed(Exit::Usage, output.status).cause(String::from_utf8_lossy(&output.stderr).trim()))
}

/// Shares what takes minutes to make and is not measured: the Debian root and Debian packages.
fn share_root(from: &Path, to: &Path) -> Result<(), Fault> {
    let root = from.join("target/images/root");
    if root.join("index.json").is_file() {
        link_folder(&root, &to.join("target/images/root"))?;
    }
    let cache = from.join("target/debian");
    let link = to.join("target/debian");
    fs::create_dir_all(&cache).map_err(|error| cannot_write(&cache, &error))?;
    fs::create_dir_all(to.join("target")).map_err(|error| cannot_write(&link, &error))?;
    debug_assert!(debian::cache(&to.join("target")).is_absolute());
    std::os::unix::fs::symlink(&cache, &link).map_err(|error| cannot_write(&link, &error))
}

/// Copies a folder; blobs, which never change, as hard links.
fn link_folder(from: &Path, to: &Path) -> Result<(), Fault> {
    let cannot = |error| cannot_write(to, &error);
    fs::create_dir_all(to).map_err(cannot)?;
    for entry in fs::read_dir(from).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(cannot)?.is_dir() {
            link_folder(&source, &target)?;
        } else if !from.ends_with("blobs/sha256") || fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target).map_err(cannot)?;
        }
    }
    Ok(())
}

fn remove_mounted(folder: &Path) -> Result<(), Fault> {
    if folder.exists() {
        let real = folder.canonicalize().map_err(|error| cannot_write(folder, &error))?;
        linux::unmount_under(&real)?;
    }
    remove(folder)
}

fn remove(folder: &Path) -> Result<(), Fault> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::build(format!("cannot remove `{}`", folder.display())).cause(error))
        }
        _ => Ok(()),
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Fault {
    Fault::build(format!("cannot write `{}`", path.display())).cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_matches_the_tree_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        for (name, text) in [("kept", "1"), ("gone", "2"), ("sub/edited", "3"), (".gitignore", "/target\n")] {
            fs::write(from.join(name), text).unwrap();
        }
        git(&from, &["init", "--quiet"]).unwrap();
        git(&from, &["add", "--all"]).unwrap();
        fs::remove_file(from.join("gone")).unwrap();
        fs::write(from.join("sub/edited"), "4").unwrap();
        fs::write(from.join("a new one"), "5").unwrap();
        fs::create_dir(from.join("target")).unwrap();
        fs::write(from.join("target/out"), "6").unwrap();

        copy_tree(&from, &to).unwrap();

        let read = |name: &str| fs::read_to_string(to.join(name)).ok();
        assert_eq!(read("kept").as_deref(), Some("1"));
        assert_eq!(read("sub/edited").as_deref(), Some("4"));
        assert_eq!(read("a new one").as_deref(), Some("5"));
        assert_eq!((read("gone"), read("target/out")), (None, None));
        assert_eq!(git(&to, &["status", "--porcelain"]).unwrap(), b"");
        let time = |path: PathBuf| path.metadata().unwrap().modified().unwrap();
        assert_eq!(time(from.join("kept")), time(to.join("kept")));
    }
}
