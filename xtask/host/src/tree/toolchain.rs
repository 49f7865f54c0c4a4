//! The Rust toolchain of the host: the version that counts in fingerprints, and the folder that an image compiles with where no
//! image with cargo can be pulled. It compiles nothing itself.

use crate::process::{self, Command};
use crate::tree::files::Files;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::{fs, io};
use xtask_model::fault::{Exit, Fault};
use xtask_model::spec::reference::Platform;

/// The named build context, and the stage of the Dockerfile that it takes the place of.
pub const CONTEXT: &str = "toolchain";

/// The toolchain as `rust-toolchain.toml` pins it by number, or else as `rustc -V` prints it.
pub fn version<F: Files + ?Sized>(repository: &F) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct File {
        toolchain: Toolchain,
    }
    #[derive(Deserialize)]
    struct Toolchain {
        channel: String,
    }
    if let Ok(Some(text)) = repository.read_text(Path::new("rust-toolchain.toml"))
        && let Ok(file) = toml::from_str::<File>(&text)
    {
        // `stable` moves under its name; a number does not.
        if file.toolchain.channel.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(file.toolchain.channel);
        }
    }
    let hint = "pin the toolchain in `rust-toolchain.toml`, or install Rust: https://rustup.rs";
    let rustc = process::find("rustc", "the app's fingerprint: it has the compiler's version", hint)?;
    Command::new(rustc).arg("-V").current_dir(repository.place()).read(Exit::Missing)
}

/// The toolchain that compiles this repository, where it can be carried into an image of the platform: one of rustup's, which is
/// whole in a folder of its own. A distribution's is strewn over the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portable {
    folder: PathBuf,
}

impl Portable {
    pub fn find(root: &Path, platform: &Platform) -> Option<Self> {
        if !cfg!(target_os = "linux") || *platform != Platform::host() {
            return None;
        }
        let rustc = process::found("rustc")?;
        let folder = Command::new(rustc).args(["--print", "sysroot"]).current_dir(root).read(Exit::Missing).ok()?;
        is_portable(Path::new(&folder), triple(platform).ok()?).then(|| Self { folder: folder.into() })
    }

    /// Folder that [`Self::stage`] writes to.
    pub fn place(root: &Path) -> PathBuf {
        root.join("target/images/toolchain")
    }

    /// Stages what compiling takes and nothing else: with its documentation and linters a toolchain is three times as large, and
    /// all of a context is sent.
    pub fn stage(&self, root: &Path) -> Result<PathBuf, Fault> {
        let place = Self::place(root);
        let cannot = |error: io::Error| {
            Fault::build(format!("cannot put the Rust toolchain into `{}`", place.display())).cause(error)
        };
        match fs::remove_dir_all(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
            _ => {}
        }
        fs::create_dir_all(place.join("bin")).map_err(cannot)?;
        for program in ["bin/cargo", "bin/rustc"] {
            link(&self.folder.join(program), &place.join(program)).map_err(cannot)?;
        }
        link_all(&self.folder.join("lib"), &place.join("lib")).map_err(cannot)?;
        Ok(place)
    }
}

/// A hard link, or a copy on another file system.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}

fn link_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        let Some(name) = entry.file_name() else { continue };
        match () {
            () if kind.is_dir() => link_all(&entry, &to.join(name))?,
            () if kind.is_symlink() => std::os::unix::fs::symlink(fs::read_link(&entry)?, to.join(name))?,
            () => link(&entry, &to.join(name))?,
        }
    }
    Ok(())
}

fn is_portable(folder: &Path, triple: &str) -> bool {
    let is_system = ["/", "/usr", "/usr/local"].iter().any(|system| folder == Path::new(system));
    let has = |path: &str| folder.join(path).is_file();
    !is_system
        && has("bin/cargo")
        && has("bin/rustc")
        && has("lib/rustlib/components")
        && folder.join("lib/rustlib").join(triple).join("lib").is_dir()
}

pub fn triple(platform: &Platform) -> Result<&'static str, Fault> {
    match (platform.architecture.as_str(), platform.variant.as_deref()) {
        ("amd64", None) => Ok("x86_64-unknown-linux-gnu"),
        ("arm64", None) => Ok("aarch64-unknown-linux-gnu"),
        ("arm", Some("v7")) => Ok("armv7-unknown-linux-gnueabihf"),
        ("ppc64le", None) => Ok("powerpc64le-unknown-linux-gnu"),
        ("s390x", None) => Ok("s390x-unknown-linux-gnu"),
        ("riscv64", None) => Ok("riscv64gc-unknown-linux-gnu"),
        _ => Err(Fault::usage(format!("cannot compile for {platform}: no Rust target is known for it"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIPLE: &str = "x86_64-unknown-linux-gnu";

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    #[test]
    fn a_toolchain_of_rustup_is_whole_in_its_folder() {
        let std = format!("lib/rustlib/{TRIPLE}/lib/libstd.rlib");
        let whole = folder(&["bin/cargo", "bin/rustc", "lib/rustlib/components", &std]);
        assert!(is_portable(whole.path(), TRIPLE));
        assert!(!is_portable(whole.path(), "aarch64-unknown-linux-gnu"));
        assert!(!is_portable(folder(&["bin/cargo", "bin/rustc", &std]).path(), TRIPLE));
        assert!(!is_portable(Path::new("/usr"), TRIPLE));
    }

    #[test]
    fn what_compiling_takes_is_staged_again() {
        let whole = folder(&[
            "bin/cargo",
            "bin/rustc",
            "bin/clippy-driver",
            "lib/libLLVM.so",
            "lib/rustlib/x/lib/std",
            "share/doc",
        ]);
        std::os::unix::fs::symlink("libLLVM.so", whole.path().join("lib/link")).unwrap();
        let root = folder(&["target/images/toolchain/lib/old"]);
        let place = Portable { folder: whole.path().to_owned() }.stage(root.path()).unwrap();
        for staged in ["bin/cargo", "bin/rustc", "lib/libLLVM.so", "lib/rustlib/x/lib/std", "lib/link"] {
            assert!(place.join(staged).is_file(), "{staged}");
        }
        for left in ["bin/clippy-driver", "share", "lib/old"] {
            assert!(!place.join(left).exists(), "{left}");
        }
    }

    #[test]
    fn what_compiles_this_has_its_triple() {
        assert!(triple(&Platform::host()).is_ok());
    }
}
