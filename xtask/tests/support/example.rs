//! Copies of the repositories in `examples`, and the program under test on them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
pub const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

/// A copy of an example, in a folder of its own.
pub struct Example {
    pub folder: TempDir,
    pub name: &'static str,
}

impl Example {
    /// Of folders of the example: `before`, which `init` reads, and `after`, which it writes.
    pub fn new(name: &'static str, parts: &[&str]) -> Self {
        let example = Self { folder: tempfile::tempdir().unwrap(), name };
        for part in parts {
            copy(&Path::new(ROOT).join("examples").join(name).join(part), &example.path());
        }
        example
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path().join(path)).unwrap()
    }

    /// Replaces a text, which has to exist.
    pub fn edit(&self, path: &str, old: &str, new: &str) {
        let text = self.read(path);
        assert!(text.contains(old), "{text}");
        self.write(path, &text.replace(old, new));
    }

    pub fn xtask(&self, args: &[&str]) -> Command {
        let mut call = Command::new(env!("CARGO_BIN_EXE_xtask"));
        call.args(args).arg("--root").arg(self.path()).env_remove("XTASK_REGISTRY").env_remove("CI");
        call.stdin(Stdio::null()).env("PATH", with_uv(&std::env::var_os("PATH").unwrap_or_default()));
        call
    }
}

/// A `PATH` with the tests' uv: each copy would install one of its own.
pub fn with_uv(paths: &OsStr) -> OsString {
    let uv = std::env::var_os("XTASK_TEST_UV").map(PathBuf::from).and_then(|uv| Some(uv.parent()?.to_owned()));
    std::env::join_paths(uv.into_iter().chain(std::env::split_paths(paths))).unwrap()
}

/// Copies the files of a folder, and below it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let place = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &place),
            false => drop(std::fs::copy(entry.path(), place).unwrap()),
        }
    }
}

/// The texts of a folder by their paths in it.
pub fn files(folder: &Path) -> BTreeMap<String, String> {
    let (mut found, mut open) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}
