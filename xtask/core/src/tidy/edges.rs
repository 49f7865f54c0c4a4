//! Pure modules stay pure: they name nothing of the world in `std`, and no function of a module that does.
//!
//! Pure itself. Reads paths in the text, not types: a value of an impure module may be taken, its functions may not be called.

use super::{Files, Violation};

/// Where modules are; `crate::` in the first finds those of the second, too.
const SRC: [&str; 2] = ["xtask/src/", "xtask/core/src/"];

/// The pure modules; what is below one is pure too, but for the impure ones.
const PURE: &[&str] = &[
    "bench/compare/rewrite",
    "commands/test/tally",
    "container/program",
    "context/path",
    "context/selection",
    "dockerfile",
    "engine/settings",
    "fault",
    "ignore",
    "key",
    "lock",
    "native/assembly/beneath",
    "native/assembly/config",
    "native/assembly/copy",
    "native/assembly/duration",
    "native/assembly/mode",
    "native/assembly/owner",
    "native/assembly/ports",
    "native/assembly/recipe",
    "native/assembly/taking",
    "native/assembly/target",
    "native/item",
    "native/python/environment",
    "native/python/groups",
    "native/python/record",
    "oci",
    "plan",
    "policy",
    "reference",
    "registry/challenge",
    "registry/url",
    "requirements",
    "tags",
    "tidy/edges",
    "tidy/text",
];
const IMPURE: [&str; 2] = ["lock/file", "lock/uv"];

/// What reaches the world.
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
    "std::time::SystemTime",
];
/// What is known when compiling.
const KNOWN: &str = "std::env::consts";

/// Every path that leads out of a pure module into the world.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in files.texts() {
        let within = SRC.iter().find_map(|src| path.strip_prefix(src));
        let Some(module) = within.and_then(|path| path.strip_suffix(".rs")) else { continue };
        // Tests ask the real tools.
        if !is_pure(module) || module.ends_with("/tests") || module.ends_with("/oracle") {
            continue;
        }
        let code = without_tests(text);
        for (line, used) in paths(&code) {
            let absolute = absolute(module, &used);
            if let Some(what) = leads_out(files, &absolute) {
                found.push(Violation::new(
                    path,
                    line,
                    what,
                    "give the module the value instead, or move this out of it",
                ));
            }
        }
    }
    found.dedup();
    found
}

fn within(module: &str, parent: &str) -> bool {
    module.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_pure(module: &str) -> bool {
    PURE.iter().any(|pure| within(module, pure)) && !IMPURE.iter().any(|impure| within(module, impure))
}

/// Why a path may not stand in a pure module.
fn leads_out(files: &Files, path: &str) -> Option<String> {
    let world = WORLD.iter().find(|world| path.starts_with(**world));
    if world.is_some() && !path.starts_with(KNOWN) {
        return Some(format!("`{path}` in a pure module"));
    }
    let parts: Vec<&str> = path.strip_prefix("crate::")?.split("::").collect();
    let is_module = |count: usize| {
        let module = parts[..count].join("/");
        SRC.iter().any(|src| files.text(&format!("{src}{module}.rs")).is_some())
    };
    let depth = (1..=parts.len()).rev().find(|count| is_module(*count))?;
    let module = parts[..depth].join("/");
    let is_type = |part: &&str| part.starts_with(|c: char| c.is_ascii_uppercase());
    // A glob, a function or the module itself; a type without a function of it is a value's.
    let value = depth < parts.len() && parts[depth..].iter().all(is_type);
    (!is_pure(&module) && !value).then(|| format!("`{path}` of an impure module in a pure one"))
}

/// `super::` from the root.
fn absolute(module: &str, path: &str) -> String {
    let mut folders: Vec<&str> = module.split('/').collect();
    let mut rest = path;
    if !rest.starts_with("super::") && !rest.starts_with("self::") {
        return path.to_owned();
    }
    rest = rest.strip_prefix("self::").unwrap_or(rest);
    while let Some(below) = rest.strip_prefix("super::") {
        folders.pop();
        rest = below;
    }
    let parts: Vec<&str> = std::iter::once("crate").chain(folders).chain([rest]).collect();
    parts.join("::")
}

/// The text without comments and test modules; lines keep their numbers.
fn without_tests(text: &str) -> String {
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
fn paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in ["std::", "crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || "_:\"`".contains(c)) {
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
            ("xtask/src/plan.rs", text),
            ("xtask/core/src/fault.rs", "//! Pure."),
            ("xtask/core/src/lock.rs", "//! Pure."),
            ("xtask/core/src/lock/uv.rs", "//! Runs."),
            ("xtask/src/process.rs", "//! Runs."),
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
            "fn a() { let b = std::net::TcpStream::connect(c); }\n",
            &["1: `std::net::TcpStream::connect` in a pure module"],
        );
    }

    #[test]
    fn what_is_known_when_compiling_is_not_the_world() {
        finds("use std::fmt;\nconst A: &str = std::env::consts::ARCH;\nuse std::net::Ipv4Addr;\n", &[]);
        finds("// std::fs\n", &[]);
    }

    #[test]
    fn values_cross_the_border_and_functions_do_not() {
        finds("use crate::process::Command;\n", &[]);
        finds("use crate::process;\n", &["1: `crate::process` of an impure module in a pure one"]);
        finds("use crate::process::*;\n", &["1: `crate::process::*` of an impure module in a pure one"]);
        finds(
            "use crate::{fault::Fault, process::find};\n",
            &["1: `crate::process::find` of an impure module in a pure one"],
        );
        finds(
            "fn a() { crate::process::Command::new(b) }\n",
            &["1: `crate::process::Command::new` of an impure module in a pure one"],
        );
        finds("use super::process::find;\n", &["1: `crate::process::find` of an impure module in a pure one"]);
        finds("use crate::lock::{self, check};\n", &[]);
        finds("use crate::lock::uv::find;\n", &["1: `crate::lock::uv::find` of an impure module in a pure one"]);
    }

    #[test]
    fn tests_may_touch_what_they_like() {
        finds("use std::fmt;\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n", &[]);
        finds("#[cfg(test)]\nmod tests;\nuse std::fs;\n", &["3: `std::fs` in a pure module"]);
    }

    #[test]
    fn the_pure_modules_are_there() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        for module in PURE.iter().chain(&IMPURE) {
            let found = SRC.iter().any(|src| root.join(format!("{src}{module}.rs")).is_file());
            assert!(found, "`{module}` is named here and is no module");
        }
    }
}
