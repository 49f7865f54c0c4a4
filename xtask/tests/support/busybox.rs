//! One static program that is a whole system.

use std::path::{Path, PathBuf};
use xtask::debian;

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

/// The program of Debian's package, kept below the `target` of a folder.
pub fn busybox(root: &Path) -> PathBuf {
    let host = debian::Host::read().unwrap();
    let archive = debian::Archive::open(&debian::cache(&root.join("target")), &host.suite)
        .unwrap_or_else(|fault| panic!("{fault}"));
    let packages = archive.fetch(&["busybox-static"]).unwrap_or_else(|fault| panic!("{fault}"));
    let folder = root.join("target/busybox");
    debian::unpack(&packages, &folder).unwrap_or_else(|fault| panic!("{fault}"));
    let found =
        ["usr/bin/busybox", "bin/busybox"].map(|path| folder.join(path)).into_iter().find(|path| path.is_file());
    found.expect("busybox-static has a busybox")
}
