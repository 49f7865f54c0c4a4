//! Pure modules stay pure: they name nothing of the world in `std`, and no function of a module that does.
//!
//! Pure. The whole of `xtask-model` is pure, and each module whose header says so. Reads paths in the text, not types: a value
//! of an impure module may be used, its functions may not be called.

use super::{Files, Violation};
use std::collections::BTreeSet;
use xtask_scan::rust;

/// Sources of each crate, with the name by which other crates import it.
pub(super) const CRATES: [(&str, &str); 13] = [
    ("xtask/model/src/", "xtask_model"),
    ("xtask/scan/src/", "xtask_scan"),
    ("xtask/host/src/", "xtask_host"),
    ("xtask/native/src/", "xtask_native"),
    ("xtask/bench/src/", "xtask_bench"),
    ("xtask/fuzz/src/", "xtask_fuzz"),
    ("xtask/src/", "xtask"),
    ("autoscaler/src/", "autoscaler"),
    ("autoscaler/forecast/src/", "autoscaler_forecast"),
    ("autoscaler/floor/src/", "autoscaler_floor"),
    ("autoscaler/show/src/", "autoscaler_show"),
    ("autoscaler/cluster/src/", "autoscaler_cluster"),
    ("autoscaler/cli/src/", "autoscaler_cli"),
];

/// Crates that are pure as a whole. Another module is pure, with everything below it, if a sentence of its header begins with `Pure`.
const PURE: [&str; 2] = ["autoscaler_floor", "xtask_model"];

/// Beginnings of the paths that are read, next to the names of [`CRATES`].
const ROOTS: [&str; 5] = ["std::", "rustix::", "crate::", "super::", "self::"];

/// Beginnings of paths that reach the world.
const WORLD: [&str; 14] = [
    "rustix::",
    "std::env",
    "std::fs",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net::Tcp",
    "std::net::Udp",
    "std::net::ToSocketAddrs",
    "std::os::unix::net",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime::now",
];
/// Path of constants that are known when compiling.
const KNOWN: &str = "std::env::consts";

/// Calls that reach the world through a value, a type or a macro that needs no path.
const CALLS: [&str; 20] = [
    ".canonicalize()",
    ".elapsed()",
    ".exists()",
    ".is_dir()",
    ".is_file()",
    ".is_symlink()",
    ".read_dir()",
    ".read_link()",
    ".symlink_metadata()",
    ".to_socket_addrs()",
    ".try_exists()",
    "Instant::now(",
    "SystemTime::now(",
    "eprint!(",
    "eprintln!(",
    "print!(",
    "println!(",
    "use std as ",
    "use std::*",
    "use std;",
];

const REPAIR: &str = "pass the value as an argument, or move this code to an impure module";

/// Every path and call that leads out of a pure module into the world.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let pure = Purity::of(files);
    let mut found = Vec::new();
    for (path, code) in files.code() {
        let Some(module) = module(path) else { continue };
        if !pure.has(&module) || is_test(&module) {
            continue;
        }
        for (line, used) in paths(code) {
            if let Some(what) = pure.leads_out(files, &absolute(&module, &used)) {
                found.push(Violation::new(path, line, what, REPAIR));
            }
        }
        // A whole path to a call is one violation.
        let known: BTreeSet<usize> = found.iter().filter(|one| one.path == path).map(|one| one.line).collect();
        for (line, call) in calls(code).into_iter().filter(|(line, _)| !known.contains(line)) {
            found.push(Violation::new(path, line, format!("`{call}` in a pure module"), REPAIR));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// True for tests, which ask the real tools.
pub(super) fn is_test(module: &str) -> bool {
    module.split("::").any(|part| part == "tests" || part == "oracle" || part.ends_with("_tests"))
}

/// Calls of [`CALLS`], with their lines.
fn calls(code: &str) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        for call in CALLS {
            let is_whole = |at: usize| {
                let before = line[..at].chars().next_back();
                !before
                    .is_some_and(|c| "\"`".contains(c) || !call.starts_with('.') && (c.is_alphanumeric() || c == '_'))
            };
            if line.find(call).is_some_and(is_whole) {
                found.push((index + 1, call.trim_end_matches(['(', ' '])));
            }
        }
    }
    found
}

/// Pure modules, each with everything below it.
struct Purity(BTreeSet<String>);

impl Purity {
    fn of(files: &Files) -> Self {
        let named = files.texts().filter(|(_, text)| says_pure(text)).filter_map(|(path, _)| module(path));
        Self(PURE.map(str::to_owned).into_iter().chain(named).collect())
    }

    fn has(&self, module: &str) -> bool {
        let ends = module.match_indices("::").map(|(at, _)| at).chain([module.len()]);
        ends.into_iter().any(|end| self.0.contains(&module[..end]))
    }

    /// Reason why a path may not be used in a pure module.
    fn leads_out(&self, files: &Files, path: &str) -> Option<String> {
        let world = WORLD.iter().find(|world| path.starts_with(**world));
        if world.is_some() && !path.starts_with(KNOWN) {
            return Some(format!("`{path}` in a pure module"));
        }
        let parts: Vec<&str> = path.split("::").collect();
        let (src, _) = CRATES.iter().find(|(_, name)| *name == parts[0])?;
        let is_module = |count: usize| files.text(&format!("{src}{}.rs", parts[1..count].join("/"))).is_some();
        let depth = (2..=parts.len()).rev().find(|count| is_module(*count))?;
        let is_type = |part: &&str| part.starts_with(|c: char| c.is_ascii_uppercase());
        // A glob, a function or the module itself; a type without a function of it is a value's.
        let value = depth < parts.len() && parts[depth..].iter().all(is_type);
        (!self.has(&parts[..depth].join("::")) && !value).then(|| format!("`{path}` of an impure module in a pure one"))
    }
}

/// True if a sentence of a module's header begins with `Pure`.
fn says_pure(text: &str) -> bool {
    let header: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let header = header.join(" ");
    header.match_indices("Pure").any(|(at, word)| {
        let before = header[..at].trim_end();
        let after = header[at + word.len()..].chars().next();
        (before.is_empty() || before.ends_with('.')) && after.is_none_or(|c| c.is_ascii_punctuation())
    })
}

/// The module in a file, from its crate: `xtask_model::image::key`.
pub(super) fn module(path: &str) -> Option<String> {
    let (rest, name) = CRATES.iter().find_map(|(src, name)| Some((path.strip_prefix(src)?, name)))?;
    let rest = rest.strip_suffix(".rs")?;
    Some(if rest == "lib" { (*name).to_owned() } else { format!("{name}::{}", rest.replace('/', "::")) })
}

/// A path without `crate::`, `super::` and `self::`.
pub(super) fn absolute(module: &str, path: &str) -> String {
    let mut parts: Vec<&str> = module.split("::").collect();
    if let Some(rest) = path.strip_prefix("crate::") {
        return format!("{}::{rest}", parts[0]);
    }
    if !path.starts_with("super::") && !path.starts_with("self::") {
        return path.to_owned();
    }
    let mut rest = path.strip_prefix("self::").unwrap_or(path);
    while let Some(below) = rest.strip_prefix("super::") {
        parts.pop();
        rest = below;
    }
    parts.push(rest);
    parts.join("::")
}

/// Paths that begin at a root, with their lines.
pub(super) fn paths(code: &str) -> Vec<(usize, String)> {
    let crates = CRATES.map(|(_, name)| format!("{name}::"));
    rust::paths(code, &ROOTS.into_iter().chain(crates.iter().map(String::as_str)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(text: &str, expected: &[&str]) {
        let files = Files::made_up(&[
            ("xtask/model/src/image/plan.rs", text),
            ("xtask/model/src/fault.rs", "//! Pure."),
            ("xtask/host/src/process.rs", "//! Runs."),
            ("xtask/host/src/docker/engine/settings.rs", "//! Pure."),
        ]);
        let found: Vec<String> =
            check(&files).into_iter().map(|violation| format!("{}: {}", violation.line, violation.what)).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn the_world_is_found_however_it_is_named() {
        finds("use std::fs;\n", &["1: `std::fs` in a pure module"]);
        finds("use std::collections::BTreeMap;\nuse std::{fmt, env as e};\n", &["2: `std::env` in a pure module"]);
        finds(
            "use std::{\n    fmt,\n    time::{Duration, Instant},\n};\n",
            &["1: `std::time::Instant` in a pure module"],
        );
        finds("fn a() { std::process::exit(1) }\n", &["1: `std::process::exit` in a pure module"]);
        finds(
            "fn a() { let b = std::time::SystemTime::now(); }\n",
            &["1: `std::time::SystemTime::now` in a pure module"],
        );
        finds(
            "fn a() { let b = std::net::TcpStream::connect(c); }\n",
            &["1: `std::net::TcpStream::connect` in a pure module"],
        );
    }

    #[test]
    fn constants_of_the_compiler_are_not_the_world() {
        finds("use std::fmt;\nconst A: &str = std::env::consts::ARCH;\nuse std::net::Ipv4Addr;\n", &[]);
        finds("use std::time::SystemTime;\n// std::fs\n", &[]);
    }

    #[test]
    fn values_of_impure_modules_are_allowed_and_functions_are_not() {
        finds("use crate::fault::Fault;\nuse xtask_host::docker::engine::settings::text;\n", &[]);
        finds("use xtask_host::process::Command;\n", &[]);
        finds("pub(in xtask_host::process) fn a() {}\n", &[]);
        finds("use xtask_host::process;\n", &["1: `xtask_host::process` of an impure module in a pure one"]);
        finds("use xtask_host::process::*;\n", &["1: `xtask_host::process::*` of an impure module in a pure one"]);
        finds(
            "use xtask_host::{fault::Fault, process::find};\n",
            &["1: `xtask_host::process::find` of an impure module in a pure one"],
        );
        finds(
            "fn a() { xtask_host::process::Command::new(b) }\n",
            &["1: `xtask_host::process::Command::new` of an impure module in a pure one"],
        );
    }

    #[test]
    fn tests_may_touch_what_they_like() {
        finds("use std::fmt;\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n", &[]);
        finds("#[cfg(test)]\nmod tests;\nuse std::fs;\n", &["3: `std::fs` in a pure module"]);
    }

    #[test]
    fn calls_that_need_no_path_are_found() {
        for call in CALLS {
            let call = call.trim_end_matches(['(', ' ']);
            let text =
                format!("fn a(b: &Path) {{\n    {}{call}(x) y; }}\n", if call.starts_with('.') { "b" } else { "" });
            let text = if call.starts_with("use") { format!("\n{call} world;\n") } else { text };
            let text = text.replace(")(x)", ")").replace("; world;", ";").replace("* world;", "*;");
            finds(&text, &[&format!("2: `{call}` in a pure module")]);
        }
        finds("use std::os::unix::net::UnixStream;\n", &["1: `std::os::unix::net::UnixStream` in a pure module"]);
        finds("fn a() { rustix::process::geteuid(); }\n", &["1: `rustix::process::geteuid` in a pure module"]);
        finds("fn a() { my_print!(b); self.exists; \"println!(\" }\n", &[]);
    }

    #[test]
    fn a_header_says_that_a_module_is_pure() {
        let impure = "use std::fs;\n";
        let checked = |header: &str| {
            let files = Files::made_up(&[
                ("xtask/host/src/a.rs", &format!("{header}\n{impure}")),
                ("xtask/host/src/a/b.rs", impure),
            ]);
            check(&files).len()
        };
        for pure in ["//! Pure.", "//! What it is for.\n//!\n//! Pure: text in, values out.", "//! Read here. Pure."] {
            assert_eq!(checked(pure), 2, "{pure}");
        }
        for impure in ["//! Pure modules are elsewhere.", "//! Impure.", "//! It is Pure.", ""] {
            assert_eq!(checked(impure), 0, "{impure}");
        }
    }

    #[test]
    fn the_crates_that_are_pure_exist() {
        for pure in PURE {
            assert!(CRATES.iter().any(|(_, known)| *known == pure), "{pure}");
        }
    }
}
