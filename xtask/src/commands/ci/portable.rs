//! The build for systems other than Linux: it compiles without warnings, and gives the digests of this one.

use super::background::Check;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use xtask_host::process::Command;
use xtask_host::tree::binary;
use xtask_model::fault::{Exit, Fault};

/// Tests in that build, of which is linted what differs from the one for Linux: those of the crate that talks to the system, and one that compares its images
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

/// Calls a compiler as cargo asks, `rustc RUSTC ARGUMENTS`, through clippy where it finds code that the build for Linux has not: in the
/// crates whose text names the `cfg`, and in the test of images. The rest was linted there: 13 s of processor time.
const COMPILER: &str = "\
#!/bin/sh
case ${CARGO_PKG_NAME:-}/${CARGO_CRATE_NAME:-} in
    xtask-host/* | xtask-native/* | xtask/portable) set -- clippy-driver \"$@\" ;;
esac
exec \"$@\" --cfg xtask_portable -D warnings
";

/// A compiler for `RUSTC_WORKSPACE_WRAPPER` that leaves out what needs Linux, and allows no warning.
fn compiler_with_cfg(folder: &Path) -> Result<PathBuf, Fault> {
    let path = folder.join("rustc");
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, COMPILER))
        .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)));
    written.map_err(|error| Fault::build(format!("cannot write `{}`", path.display())).cause(error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of Rust below a folder, with their paths.
    fn texts(folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                texts(&path, found);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                found.push((path.display().to_string(), std::fs::read_to_string(path).unwrap()));
            }
        }
    }

    #[test]
    fn what_differs_on_other_systems_is_linted() {
        let mut found = Vec::new();
        texts(Path::new(env!("CARGO_MANIFEST_DIR")), &mut found);
        let differs = |text: &str| text.lines().any(|line| line.contains("cfg") && line.contains("xtask_portable)"));
        found.retain(|(path, text)| differs(text) && !path.ends_with("commands/ci/portable.rs"));
        assert!(!found.is_empty());
        for (path, _) in found {
            let known = ["xtask/host/src/", "xtask/native/src/", "xtask/tests/portable.rs"];
            assert!(known.iter().any(|known| path.contains(known)), "{path}: `COMPILER` does not lint it");
        }
    }

    #[test]
    fn the_compiler_lints_these_crates_alone() {
        let folder = tempfile::tempdir().unwrap();
        let compiler = compiler_with_cfg(folder.path()).unwrap();
        let called = |package: &str, name: &str| {
            let call = Command::new(&compiler).args(["echo", "rustc"]).env("PATH", folder.path());
            let driver = folder.path().join("clippy-driver");
            std::fs::write(&driver, "#!/bin/sh\necho linted\n").unwrap();
            std::fs::set_permissions(&driver, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::write(folder.path().join("echo"), "#!/bin/sh\necho \"$@\"\n").unwrap();
            std::fs::set_permissions(folder.path().join("echo"), std::fs::Permissions::from_mode(0o755)).unwrap();
            call.env("CARGO_PKG_NAME", package).env("CARGO_CRATE_NAME", name).read(Exit::Build).unwrap()
        };
        let plain = "rustc --cfg xtask_portable -D warnings";
        for (package, name, expected) in [
            ("xtask-host", "xtask_host", "linted"),
            ("xtask-native", "xtask_native", "linted"),
            ("xtask", "portable", "linted"),
            ("xtask", "xtask", plain),
            ("xtask-model", "xtask_model", plain),
            ("", "", plain),
        ] {
            assert_eq!(called(package, name), expected, "{package} {name}");
        }
    }
}
