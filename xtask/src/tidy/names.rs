//! A type's name has one meaning in a crate: no two modules define it.
//!
//! Pure. A type in a function counts as well: a reader meets its name in the same places. An associated type does not, and tests may name
//! theirs as they like.

use super::edges::CRATES;
use super::{Files, Violation};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Files whose types repeat a name for a reason.
const REPEATS: [(&str, &str); 1] =
    [("elsewhere.rs", "it has the names of the module for Linux next to it, and is compiled in its place")];

/// Every later definition of a name.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let mut first: BTreeMap<(&str, String), (&str, usize)> = BTreeMap::new();
    let mut found = Vec::new();
    for (path, code) in files.code() {
        let Some((src, _)) = CRATES.iter().find(|(src, _)| path.starts_with(src)) else { continue };
        if REPEATS.iter().any(|(place, _)| path.ends_with(place)) || is_test(files, path) {
            continue;
        }
        for (line, name) in code.lines().zip(1..).filter_map(|(text, line)| Some((line, defined(text)?))) {
            match first.entry((src, name.to_owned())) {
                Entry::Occupied(known) => {
                    let (other, at) = known.get();
                    let what = format!("the type `{name}` is also defined in `{other}:{at}`");
                    found.push(Violation::new(
                        path,
                        line,
                        what,
                        "name one after its own meaning, or make them one type",
                    ));
                }
                Entry::Vacant(free) => _ = free.insert((path, line)),
            }
        }
    }
    found
}

/// The type that a line defines.
fn defined(line: &str) -> Option<&str> {
    let code = line.trim_start();
    let is_indented = code.len() < line.len();
    let line = match code.strip_prefix("pub") {
        Some(rest) => {
            rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |(_, rest)| rest).trim_start()
        }
        None => code,
    };
    let (kind, rest) = line.strip_prefix("unsafe ").unwrap_or(line).split_once(' ')?;
    // An indented `type` belongs to a trait.
    let is_type = ["struct", "enum", "trait", "union"].contains(&kind) || (kind == "type" && !is_indented);
    is_type.then(|| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()).flatten()
}

/// True for a module that its parent compiles for tests alone.
fn is_test(files: &Files, path: &str) -> bool {
    let Some((folder, name)) = path.rsplit_once('/') else { return false };
    let declared = format!("mod {};", name.trim_end_matches(".rs"));
    let parents = [format!("{folder}.rs"), format!("{folder}/lib.rs"), format!("{folder}/main.rs")];
    parents.iter().filter_map(|parent| files.text(parent)).any(|text| {
        let lines: Vec<&str> = text.lines().collect();
        lines.windows(2).any(|pair| pair[0].starts_with("#[cfg(test)]") && pair[1].ends_with(&declared))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(files: &[(&str, &str)], expected: &[&str]) {
        let found: Vec<String> = check(&Files::made_up(files))
            .into_iter()
            .map(|violation| format!("{}:{}: {}", violation.path, violation.line, violation.what))
            .collect();
        assert_eq!(found, expected, "{files:?}");
    }

    #[test]
    fn a_second_meaning_of_a_name_is_found() {
        let one = ("xtask/host/src/a.rs", "use b::C;\n\npub(super) struct Found<'a>(&'a str);\n");
        for other in ["enum Found {}", "pub type Found = u8;", "pub trait Found: Sized {}", "pub(crate) struct Found;"]
        {
            let expected = ["xtask/host/src/b/c.rs:2: the type `Found` is also defined in `xtask/host/src/a.rs:3`"];
            finds(&[one, ("xtask/host/src/b/c.rs", &format!("//! Found.\n{other}\n"))], &expected);
        }
    }

    #[test]
    fn a_type_in_a_function_counts() {
        let text = "struct Found;\nfn a() {\n    #[derive(Deserialize)]\n    struct Found;\n}\n";
        let expected = ["xtask/host/src/a.rs:4: the type `Found` is also defined in `xtask/host/src/a.rs:1`"];
        finds(&[("xtask/host/src/a.rs", text)], &expected);
        let two = "fn b() {\n    enum Found {}\n}\n";
        let expected = ["xtask/host/src/b.rs:2: the type `Found` is also defined in `xtask/host/src/a.rs:1`"];
        finds(&[("xtask/host/src/a.rs", "struct Found;\n"), ("xtask/host/src/b.rs", two)], &expected);
    }

    #[test]
    fn other_crates_associated_types_and_tests_have_their_own_names() {
        let one = ("xtask/host/src/a.rs", "struct Found;\nimpl A for B {\n    type Found = u8;\n}\n");
        finds(&[one, ("xtask/src/a.rs", "struct Found;\n"), ("xtask/tests/a.rs", "struct Found;\n")], &[]);
        finds(&[one, ("xtask/host/src/b.rs", "struct FoundIt;\nimpl Found for A {}\nuse a::Found;\n")], &[]);
        finds(&[one, ("xtask/host/src/b.rs", "#[cfg(test)]\nmod tests {\nstruct Found;\n}\n")], &[]);
        let parent = ("xtask/host/src/lib.rs", "mod a;\n#[cfg(test)]\nmod oracle;\nmod other;\n");
        finds(&[one, parent, ("xtask/host/src/oracle.rs", "struct Found;\n")], &[]);
        let expected = ["xtask/host/src/other.rs:1: the type `Found` is also defined in `xtask/host/src/a.rs:1`"];
        finds(&[one, parent, ("xtask/host/src/other.rs", "struct Found;\n")], &expected);
    }
}
