//! Import cycles: sibling modules, each with everything below it, import each other in one direction only.
//!
//! Pure. A module and those below it may use each other. A name that a module takes from one below it counts as that one's, so that
//! `super::Name` leads to where the name is defined. Reads paths in the text, as [`edges`](super::edges).

use super::edges::{absolute, is_test, module, paths};
use super::{Files, Violation};
use std::collections::{BTreeMap, BTreeSet};
use xtask_scan::rust;

/// Imports between the children of one module: from, to, and the first place with its path.
type Imports = BTreeMap<String, BTreeMap<String, (String, usize, String)>>;

/// Every import between siblings that is part of a cycle.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let mut found = Vec::new();
    for imports in imports(files).values() {
        for (from, targets) in imports {
            for (to, (path, line, used)) in targets {
                if reaches(imports, to, from) {
                    let what = format!("`{used}`: `{from}` imports `{to}`, which imports it");
                    let repair = "move what both need below one of them, or into a module of its own";
                    found.push(Violation::new(path, *line, what, repair));
                }
            }
        }
    }
    found
}

/// Imports between siblings, by the module that both are children of.
fn imports(files: &Files) -> BTreeMap<String, Imports> {
    let sources = files.code().filter_map(|(path, code)| Some((module(path)?, (path, code))));
    let modules: Modules<'_> = sources.filter(|(module, _)| !is_test(module)).collect();
    let taken: BTreeMap<&str, BTreeMap<String, String>> =
        modules.iter().map(|(module, (_, code))| (module.as_str(), taken(&modules, module, code))).collect();
    let mut all: BTreeMap<String, Imports> = BTreeMap::new();
    for (from, (path, code)) in &modules {
        for (line, used) in paths(code) {
            let target = defined_in(&modules, &taken, &absolute(from, &used));
            let Some((parent, from, to)) = target.and_then(|to| siblings(from, &to)) else { continue };
            let place = ((*path).to_owned(), line, used);
            all.entry(parent).or_default().entry(from).or_default().entry(to).or_insert(place);
        }
    }
    all
}

/// Path and code of each module.
type Modules<'f> = BTreeMap<String, (&'f str, &'f str)>;

/// Names that a module takes from those below it, with the module of each.
fn taken(modules: &Modules<'_>, module: &str, code: &str) -> BTreeMap<String, String> {
    let below = rust::own_uses(code).into_iter().filter_map(|path| {
        let path = format!("{module}::{}", path.strip_prefix("self::").unwrap_or(&path));
        let (target, name) = split(modules, &path)?;
        let name = name.filter(|_| target != module)?;
        Some((name.to_owned(), target.to_owned()))
    });
    below.collect()
}

/// The deepest module on a path, and the first name behind it.
fn split<'p>(modules: &Modules<'_>, path: &'p str) -> Option<(&'p str, Option<&'p str>)> {
    let mut ends = [path.len()].into_iter().chain(path.rmatch_indices("::").map(|(at, _)| at));
    let end = ends.find(|end| modules.contains_key(&path[..*end]))?;
    let name = path[end..].strip_prefix("::").and_then(|rest| rest.split("::").next());
    Some((&path[..end], name))
}

/// The module in which the item of a path is defined.
fn defined_in(modules: &Modules<'_>, taken: &BTreeMap<&str, BTreeMap<String, String>>, path: &str) -> Option<String> {
    let (module, name) = split(modules, path)?;
    let mut module = module.to_owned();
    while let Some(below) = name.and_then(|name| taken.get(module.as_str())?.get(name)) {
        module.clone_from(below);
    }
    Some(module)
}

/// The module above both, and their names there; `None` where one is above the other, or they are of different crates.
fn siblings(one: &str, other: &str) -> Option<(String, String, String)> {
    let (one, other): (Vec<&str>, Vec<&str>) = (one.split("::").collect(), other.split("::").collect());
    let common = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
    let names = (one.get(common)?, other.get(common)?);
    (common > 0).then(|| (one[..common].join("::"), (*names.0).to_owned(), (*names.1).to_owned()))
}

fn reaches(imports: &Imports, from: &str, to: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(next) = open.pop() {
        if next == to {
            return true;
        }
        if seen.insert(next) {
            open.extend(imports.get(next).into_iter().flatten().map(|(name, _)| name.as_str()));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(texts: &[(&str, &str)], expected: &[&str]) {
        let texts: Vec<(String, &str)> =
            texts.iter().map(|(name, text)| (format!("xtask/host/src/{name}.rs"), *text)).collect();
        let texts: Vec<(&str, &str)> = texts.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let found: Vec<String> = check(&Files::made_up(&texts)).into_iter().map(|one| one.what).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn siblings_that_import_each_other_are_found() {
        let found =
            ["`super::b::B`: `a` imports `b`, which imports it", "`crate::a`: `b` imports `a`, which imports it"];
        finds(&[("a", "use super::b::B;\n"), ("b", "fn b() { crate::a() }\n")], &found);
        finds(&[("a", "use super::b::B;\n"), ("b", "fn b() {}\n")], &[]);
    }

    #[test]
    fn a_module_counts_with_everything_below_it() {
        let found = [
            "`crate::b::deep::B`: `a` imports `b`, which imports it",
            "`crate::c`: `b` imports `c`, which imports it",
            "`crate::a::A`: `c` imports `a`, which imports it",
        ];
        let texts = [
            ("a", ""),
            ("a/deep", "use crate::b::deep::B;\n"),
            ("b", "use crate::c;\n"),
            ("b/deep", ""),
            ("c", "use crate::a::A;\n"),
        ];
        finds(&texts, &found);
    }

    #[test]
    fn a_module_and_those_below_it_may_use_each_other() {
        finds(&[("a", "mod b;\npub use b::B;\n"), ("a/b", "use super::A;\n")], &[]);
    }

    #[test]
    fn names_that_a_parent_takes_lead_to_their_module() {
        let found =
            ["`super::C`: `b` imports `c`, which imports it", "`super::b::B`: `c` imports `b`, which imports it"];
        let texts = [("a", "pub use c::{C, D};\n"), ("a/b", "use super::C;\n"), ("a/c", "use super::b::B;\n")];
        finds(&texts, &found);
    }

    #[test]
    fn tests_do_not_count() {
        let texts = [
            ("a", "#[cfg(test)]\nmod tests {\n    use crate::b;\n}\n"),
            ("b", "use crate::a;\n"),
            ("a/tests", "use crate::b;\n"),
        ];
        finds(&texts, &[]);
    }
}
