//! The build for systems other than Linux: it compiles without warnings, and gives the digests of this one.

use super::background::Check;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use xtask_host::process::Command;
use xtask_host::tree::binary;
use xtask_model::fault::{Exit, Fault};

/// Tests in that build, which is linted as it is compiled: those of the crate that talks to the system, and one that compares its images
/// with those of `full`, the program for Linux. The bench is compiled with the latter, and nothing else of it runs.
///
/// Only the crates of the workspace are compiled with the `cfg`. Cargo gives libraries the features that the named packages ask for: with
/// `--workspace` they are those of the tests, compiled already.
pub(super) fn checks(root: &Path, full: &Path) -> Result<[Check; 2], Fault> {
    let compiler = compiler_with_cfg(&folder(root))?;
    let test = |name: &'static str, args: &[&str]| {
        let hint = "what needs Linux belongs in `xtask/host/src/linux.rs` or `xtask/native/src/container/linux`";
        // The tests that need Docker run in the full build.
        let call = binary::cargo(root).args(args).env_remove("XTASK_REGISTRY").env_remove("XTASK_REQUIRE_REAL");
        let call = apart(call, root).env("RUSTC_WORKSPACE_WRAPPER", &compiler);
        let call = call.env("XTASK_TEST_FULL", full).env("XTASK_TEST_UV", root.join("target/tools/bin/uv"));
        Check { name, call, exit: Exit::Build, hint: hint.to_owned() }
    };
    Ok([
        test("portable host", &["test", "--package", "xtask-host", "--lib"]),
        test("portable images", &["test", "--workspace", "--test", "portable", "--bin", "xtask-bench"]),
    ])
}

/// A call of cargo whose programs get a folder of their own, so that they replace none that a test runs. Everything compiled on the way
/// is shared.
pub(super) fn apart(call: Command, root: &Path) -> Command {
    call.env("CARGO_TARGET_DIR", folder(root)).env("CARGO_BUILD_BUILD_DIR", target(root))
}

fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |own| root.join(own))
}

fn folder(root: &Path) -> PathBuf {
    target(root).join("portable")
}

/// A compiler for `RUSTC_WORKSPACE_WRAPPER` that leaves out what needs Linux, and lints.
fn compiler_with_cfg(folder: &Path) -> Result<PathBuf, Fault> {
    let path = folder.join("rustc");
    let script = "#!/bin/sh\nexec clippy-driver \"$@\" --cfg xtask_portable -D warnings\n";
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, script))
        .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)));
    written.map_err(|error| Fault::build(format!("cannot write `{}`", path.display())).cause(error))?;
    Ok(path)
}
