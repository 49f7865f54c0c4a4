//! The build for systems other than Linux: it compiles without warnings, and gives the digests of this one.

use super::background::Check;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use xtask_host::tree::binary;
use xtask_model::fault::{Exit, Fault};

/// Lints of that build, and the tests in it: those of the crate that talks to the system, and one that compares its images with
/// those of `full`, the program for Linux.
///
/// Only the crates of the workspace are compiled with the `cfg`: the libraries are those of the tests.
pub(super) fn checks(root: &Path, full: &Path) -> Result<[Check; 3], Fault> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |own| root.join(own));
    let own = target.join("portable");
    let compiler = compiler_with_cfg(&own)?;
    let cargo = |name: &'static str, args: &[&str], exit: Exit| {
        let hint = "what needs Linux belongs in `xtask/host/src/linux.rs` or `xtask/native/src/container/linux`";
        // The tests that need Docker run in the full build.
        let call = binary::cargo(root).args(args).env_remove("XTASK_REGISTRY").env_remove("XTASK_REQUIRE_REAL");
        Check { name, call, exit, hint: hint.to_owned() }
    };
    let test = |name: &'static str, args: &[&str]| {
        let mut check = cargo(name, args, Exit::Build);
        let call = check.call.env("RUSTC_WORKSPACE_WRAPPER", &compiler);
        // Programs get a folder of their own, and everything compiled on the way is shared.
        let call = call.env("CARGO_TARGET_DIR", &own).env("CARGO_BUILD_BUILD_DIR", &target);
        check.call = call.env("XTASK_TEST_FULL", full).env("XTASK_TEST_UV", root.join("target/tools/bin/uv"));
        check
    };
    let lints = cargo("portable lints", CLIPPY, Exit::Drift);
    let lints = Check { call: lints.call.env("CARGO_TARGET_DIR", &target), ..lints };
    Ok([
        lints,
        test("portable host", &["test", "--package", "xtask-host", "--lib"]),
        test("portable images", &["test", "--package", "xtask", "--test", "portable"]),
    ])
}

/// A compiler for `RUSTC_WORKSPACE_WRAPPER` that leaves out what needs Linux.
fn compiler_with_cfg(folder: &Path) -> Result<PathBuf, Fault> {
    let path = folder.join("rustc");
    let script = "#!/bin/sh\nexec \"$@\" --cfg xtask_portable\n";
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, script))
        .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)));
    written.map_err(|error| Fault::build(format!("cannot write `{}`", path.display())).cause(error))?;
    Ok(path)
}

const CLIPPY: &[&str] = &[
    "clippy",
    "--package",
    "xtask",
    "--package",
    "xtask-bench",
    "--package",
    "xtask-fuzz",
    "--",
    "-D",
    "warnings",
    "--cfg",
    "xtask_portable",
];
