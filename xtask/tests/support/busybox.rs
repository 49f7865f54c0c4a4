//! One static program that is a whole system.

use std::path::{Path, PathBuf};
use xtask_host::docker::debian;

/// The programs of busybox that every image of the tests has.
pub const PROGRAMS: [&str; 16] = [
    "sh",
    "cat",
    "cp",
    "echo",
    "env",
    "false",
    "grep",
    "head",
    "id",
    "ls",
    "mkdir",
    "sha256sum",
    "sleep",
    "test",
    "true",
    "wc",
];

/// The program of Debian's package, kept below the `target` of a folder: fetched once, and there whole or not at all.
pub fn busybox(root: &Path) -> PathBuf {
    let kept = root.join("target/busybox-static");
    if kept.is_file() {
        return kept;
    }
    let host = debian::Host::read().unwrap();
    let archive = debian::Archive::open(&debian::cache(&root.join("target")), &host.suite)
        .unwrap_or_else(|fault| panic!("{fault}"));
    let packages = archive.fetch(&["busybox-static"]).unwrap_or_else(|fault| panic!("{fault}"));
    let folder = tempfile::Builder::new().prefix("busybox-").tempdir_in(root.join("target")).unwrap();
    debian::unpack(&packages, folder.path()).unwrap_or_else(|fault| panic!("{fault}"));
    let places = ["usr/bin/busybox", "bin/busybox"].map(|path| folder.path().join(path));
    let found = places.iter().find(|path| path.is_file()).expect("busybox-static has a busybox");
    std::fs::rename(found, &kept).unwrap();
    kept
}
