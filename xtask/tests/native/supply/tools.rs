//! Programs of others that the tests of the supply chain compare with.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use xtask_host::docker::debian;
use xtask_host::tree::uv;
use xtask_model::fault::Exit;
use xtask_model::spec::reference::Digest;
use xtask_model::spec::requirements;

/// The repository, under whose `target` tools are kept.
fn repository() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).canonicalize().unwrap()
}

/// Returns a tool that was found. If it is missing, says why a test ends here, and fails where every tool is required.
fn found<T>(what: Result<T, impl Display>) -> Option<T> {
    what.map_err(|why| {
        assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "cannot run: {why}");
        println!("skipped: {why}");
    })
    .ok()
}

/// A program of this machine.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    found(which::which(name).map_err(|_| format!("`{name}` is not installed")))
}

/// The cosign that `XTASK_TEST_COSIGN` names, that of `PATH`, or the one of Debian's package.
pub(super) fn cosign() -> Option<PathBuf> {
    let named = std::env::var_os("XTASK_TEST_COSIGN").map(PathBuf::from);
    if let Some(named) = named.or_else(|| which::which("cosign").ok()) {
        return Some(named);
    }
    let target = repository().join("target");
    found(debian::program(&debian::cache(&target), &target.join("tools"), "cosign"))
}

/// `PATH` with the folder of a program before the others.
pub(super) fn path_with(program: &Path) -> OsString {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let own = program.parent().map(Path::to_owned);
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&folders))).unwrap()
}

/// Folder of the Python libraries that a lock pins.
pub(super) fn readers() -> Option<PathBuf> {
    found(installed())
}

fn installed() -> Result<PathBuf, String> {
    let repository = repository();
    let lock = format!("{}/tests/support/sbom.lock", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read(&lock).unwrap();
    let tools = repository.join("target/tools");
    let folder = tools.join(format!("sbom-{}", &Digest::of(&text).hex()[..12]));
    if folder.is_dir() {
        return Ok(folder);
    }
    std::fs::create_dir_all(&tools).unwrap();
    let made = tempfile::tempdir_in(&tools).unwrap();
    let extra: Vec<PathBuf> = std::env::var_os("XTASK_TEST_UV").into_iter().map(PathBuf::from).collect();
    let install = match uv::find(&repository, &extra) {
        Ok(uv) => uv.command(&requirements::Options::default()).args(["pip", "install", "--quiet"]),
        Err(_) => xtask_host::process::Command::new("python3").args(["-m", "pip", "install", "--quiet"]),
    };
    let install = install.args(["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", &lock, "--target"]);
    install.arg(made.path()).read(Exit::Network).map_err(|fault| fault.to_string())?;
    match std::fs::rename(made.path(), &folder) {
        Err(error) if !folder.is_dir() => Err(format!("`{}` was not installed: {error}", folder.display())),
        _ => Ok(folder),
    }
}
