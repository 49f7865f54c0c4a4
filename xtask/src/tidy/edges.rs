//! Pure modules stay pure: they name nothing of the world in `std`, and no function of a module that does.
//!
//! The whole of `xtask-model` is pure, and some modules of other crates. Pure itself. Reads paths in the text, not types: a value
//! of an impure module may be used, its functions may not be called.

use super::{Files, Violation};

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

/// Pure modules, each with everything below it.
const PURE: &[&str] = &[
    "autoscaler_floor",
    "xtask::commands::test::tally",
    "xtask::reference::picture",
    "xtask::reference::policy",
    "xtask::reference::schema",
    "xtask::tidy::edges",
    "xtask::tidy::names",
    "xtask::tidy::portable",
    "xtask::tidy::prose",
    "xtask::tidy::text",
    "xtask_bench::compare::rewrite",
    "xtask_host::docker::engine::settings",
    "xtask_host::http::url",
    "xtask_host::index::netrc",
    "xtask_host::registry::http::challenge",
    "xtask_model",
    "xtask_scan::id",
    "xtask_scan::imports",
    "xtask_scan::prose",
    "xtask_scan::tree",
    "xtask_native::assembly::base",
    "xtask_native::assembly::config",
    "xtask_native::assembly::copy",
    "xtask_native::assembly::fingerprint",
    "xtask_native::container::program",
    "xtask_native::layer::item",
    "xtask_native::recipes::python::environment",
    "xtask_native::recipes::python::groups",
    "xtask_native::recipes::python::record",
];

/// Paths of the standard library that reach the world.
const WORLD: [&str; 12] = [
    "std::env",
    "std::fs",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net::Tcp",
    "std::net::Udp",
    "std::net::ToSocketAddrs",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime::now",
];
/// Path of constants that are known when compiling.
const KNOWN: &str = "std::env::consts";

/// Every path that leads out of a pure module into the world.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in files.texts() {
        let Some(module) = module(path) else { continue };
        // Tests ask the real tools.
        if !is_pure(&module) || module.ends_with("::tests") || module.ends_with("::oracle") {
            continue;
        }
        let code = without_tests(text);
        for (line, used) in paths(&code) {
            if let Some(what) = leads_out(files, &absolute(&module, &used)) {
                let repair = "pass the value as an argument, or move this code to an impure module";
                found.push(Violation::new(path, line, what, repair));
            }
        }
    }
    found.dedup();
    found
}

/// The module in a file, from its crate: `xtask_model::image::key`.
fn module(path: &str) -> Option<String> {
    let (rest, name) = CRATES.iter().find_map(|(src, name)| Some((path.strip_prefix(src)?, name)))?;
    let rest = rest.strip_suffix(".rs")?;
    Some(if rest == "lib" { (*name).to_owned() } else { format!("{name}::{}", rest.replace('/', "::")) })
}

fn is_pure(module: &str) -> bool {
    let is_in = |pure: &str| module.strip_prefix(pure).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    PURE.iter().any(|pure| is_in(pure))
}

/// Reason why a path may not be used in a pure module.
fn leads_out(files: &Files, path: &str) -> Option<String> {
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
    (!is_pure(&parts[..depth].join("::")) && !value).then(|| format!("`{path}` of an impure module in a pure one"))
}

/// A path without `crate::`, `super::` and `self::`.
fn absolute(module: &str, path: &str) -> String {
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

/// The text without comments and test modules; lines keep their numbers.
pub(super) fn without_tests(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            match lines.next() {
                Some(item) if item.ends_with('{') => break,
                _ => code.push('\n'),
            }
        } else if !line.trim_start().starts_with("//") {
            code.push_str(line);
        }
        code.push('\n');
    }
    code
}

/// Every path that begins at a root, groups of `use` spread out, with its line.
pub(super) fn paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let roots = ["std::", "rustix::", "crate::", "super::", "self::"].map(str::to_owned);
    for root in roots.into_iter().chain(CRATES.map(|(_, name)| format!("{name}::"))) {
        for (at, _) in code.match_indices(&root) {
            let before = code[..at].chars().next_back();
            // The path of a visibility only says who may use the item.
            let visibility = code[..at].ends_with("pub(in ");
            if visibility || before.is_some_and(|c| c.is_alphanumeric() || "_:\"`".contains(c)) {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            spread(&mut code[at..].chars().peekable(), "", &mut |path| found.push((line, path)));
        }
    }
    found.sort();
    found
}

/// Reads one path, or a group of paths, behind `prefix`.
fn spread(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, prefix: &str, each: &mut dyn FnMut(String)) {
    let mut path = prefix.to_owned();
    while let Some(&next) = rest.peek() {
        match next {
            '{' => {
                rest.next();
                loop {
                    while rest.peek().is_some_and(|c| c.is_whitespace() || *c == ',') {
                        rest.next();
                    }
                    match rest.peek() {
                        Some('}') | None => break,
                        Some(_) => spread(rest, &path, each),
                    }
                }
                rest.next();
                return;
            }
            c if c.is_alphanumeric() || c == '_' || c == ':' || c == '*' => {
                path.push(c);
                rest.next();
            }
            _ => break,
        }
    }
    // ` as name` says nothing of where the path leads; what cannot be read is passed over, so that this ends.
    while rest.peek().is_some_and(|c| !matches!(c, ',' | '}' | ';' | '\n')) && !prefix.is_empty() {
        rest.next();
    }
    each(path.trim_end_matches(':').trim_end_matches("::self").to_owned());
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
    fn every_pure_module_exists() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for pure in PURE {
            let (name, rest) = pure.split_once("::").unwrap_or((pure, "lib"));
            let (src, _) = CRATES.iter().find(|(_, known)| *known == name).unwrap();
            let path = format!("{src}{}.rs", rest.replace("::", "/"));
            assert!(root.join(&path).is_file(), "`{pure}` is listed as pure, but `{path}` does not exist");
        }
    }
}
