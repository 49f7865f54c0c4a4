//! Rules about single lines: white space, unfinished code, hosts and paths that belong to one machine, module headers.
//!
//! Pure. The words are written in halves, so that this file does not contain them.

use super::{Files, Violation};
use std::path::Path;
use xtask_scan::prose::lines_with;

/// Every violation in every text.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in files.texts() {
        found.extend(white_space(path, text));
        found.extend(machine_paths(path, text, files.root()));
        if !path.ends_with(".lock") {
            found.extend(hosts(path, text));
        }
        if path.ends_with(".rs") {
            found.extend(unfinished(path, text));
            found.extend(header(path, text));
            found.extend(skips(path, text));
        }
    }
    found
}

fn white_space(path: &str, text: &str) -> Vec<Violation> {
    let ends = |(_, line): &(usize, &str)| line.ends_with([' ', '\t', '\r']);
    let lines = text.split('\n').enumerate().map(|(index, line)| (index + 1, line));
    let mut found: Vec<Violation> = lines
        .filter(ends)
        .map(|(line, _)| Violation::new(path, line, "white space at the end of the line", "remove it"))
        .collect();
    if !text.is_empty() && !text.ends_with('\n') {
        found.push(Violation::new(path, text.lines().count(), "the file does not end with a line feed", "add one"));
    }
    found
}

const UNFINISHED: [&str; 4] =
    [concat!("to", "do!"), concat!("unim", "plemented!"), concat!("db", "g!"), concat!("#[ig", "nore")];

fn unfinished(path: &str, text: &str) -> Vec<Violation> {
    let find = |(line, text): (usize, &str)| {
        let word = UNFINISHED.iter().find(|word| begins_a_word(text, word))?;
        Some(Violation::new(path, line, format!("`{word}`"), "finish it, or remove it"))
    };
    lines_with(text, &UNFINISHED).into_iter().filter_map(find).collect()
}

fn begins_a_word(text: &str, word: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| !text[..at].ends_with(letter))
}

/// First labels of hosts that serve packages.
const LABELS: [&str; 8] = ["deb", "security", "snapshot", "pypi", "files", "registry", "static", "index"];
/// Package indexes by name.
const INDEXES: [&str; 4] = [
    concat!("deb", ".debian.org"),
    concat!("pypi", ".org"),
    concat!("python", "hosted.org"),
    concat!("static", ".crates.io"),
];
/// Names that are nobody's host, and the one by which docker's own configuration knows Docker Hub.
const HARMLESS: [&str; 5] = [".lan", ".invalid", ".example", ".test", "index.docker.io"];

fn hosts(path: &str, text: &str) -> Vec<Violation> {
    let repair = "take it from the host's own configuration of apt, pip or uv";
    let find = |(line, text): (usize, &str)| {
        let named = INDEXES.iter().find(|index| text.contains(**index)).map(|index| (*index).to_owned());
        let host = named.or_else(|| urls(text).find(|host| serves_packages(host)).map(str::to_owned))?;
        Some(Violation::new(path, line, format!("`{host}` serves packages to some and not to others"), repair))
    };
    let words = [&INDEXES[..], &["://"]].concat();
    lines_with(text, &words).into_iter().filter_map(find).collect()
}

fn serves_packages(host: &str) -> bool {
    let label = host.split_once('.').map(|(label, _)| label);
    label.is_some_and(|label| LABELS.contains(&label)) && !HARMLESS.iter().any(|end| host.ends_with(end))
}

/// The hosts of the URLs in a line, without ports.
fn urls(text: &str) -> impl Iterator<Item = &str> {
    let end = |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-');
    let starts =
        text.match_indices("://").filter(|(at, _)| text[..*at].ends_with("http") || text[..*at].ends_with("https"));
    starts.map(move |(at, _)| text[at + 3..].split(end).next().unwrap_or_default())
}

/// Folders of which every machine has its own, and the one of the images' user.
const HOMES: [&str; 4] = [concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];
const IMAGE_HOME: &str = concat!("/ho", "me/app");

fn machine_paths(path: &str, text: &str, root: &Path) -> Vec<Violation> {
    // In a container every machine is the same.
    let dockerfile = path.rsplit('/').next().is_some_and(|name| name.starts_with("Dockerfile"));
    let root = root.to_string_lossy();
    // The checkout of a runner may be as short as `/build`, which is any word.
    let is_long = root.matches('/').count() > 1;
    let words: Vec<&str> = HOMES.into_iter().chain(is_long.then_some(&*root)).collect();
    let find = |(line, text): (usize, &str)| {
        let home = HOMES.iter().find(|home| {
            text.match_indices(**home).any(|(at, _)| is_absolute(&text[..at]) && !text[at..].starts_with(IMAGE_HOME))
        });
        let here = (is_long && text.contains(&*root)).then_some(&*root);
        let named = home.copied().filter(|_| !dockerfile).or(here)?;
        Some(Violation::new(
            path,
            line,
            format!("`{named}` is a path of one machine"),
            "name it from the root, or from a variable",
        ))
    };
    lines_with(text, &words).into_iter().filter_map(find).collect()
}

/// Returns true if a `/` after this text begins a path.
fn is_absolute(before: &str) -> bool {
    !before.ends_with(|c: char| c.is_alphanumeric() || "._-~}>)]*:/".contains(c))
}

fn header(path: &str, text: &str) -> Option<Violation> {
    let module = path.ends_with(".rs") && path.split('/').any(|folder| folder == "src");
    (module && !text.starts_with("//!"))
        .then(|| Violation::new(path, 1, "the module does not say what it is for", "begin it with `//!`"))
}

const SKIPPED: &str = concat!("ln!(\"skip", "ped: ");
const REQUIRED: &str = concat!("XTASK_REQUIRE", "_REAL");

/// A test that can be skipped fails where nothing may be.
fn skips(path: &str, text: &str) -> Option<Violation> {
    let line = text.lines().position(|line| line.contains(SKIPPED))?;
    let what = "a test is skipped even where nothing may be";
    (!text.contains(REQUIRED))
        .then(|| Violation::new(path, line + 1, what, format!("fail there when `{REQUIRED}` is 1")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(path: &str, text: &str, expected: &[&str]) {
        let found: Vec<String> = check(&Files::made_up(&[(path, text)]))
            .into_iter()
            .map(|violation| format!("{}: {}", violation.line, violation.what))
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn lines_end_where_their_words_do() {
        finds("a.md", "one\ntwo\n", &[]);
        finds(
            "a.md",
            "one \ntwo\t\n",
            &["1: white space at the end of the line", "2: white space at the end of the line"],
        );
        finds("a.md", "one\r\n", &["1: white space at the end of the line"]);
        finds("a.md", "one", &["1: the file does not end with a line feed"]);
        finds("a.md", "", &[]);
    }

    #[test]
    fn unfinished_code_is_found_in_code_only() {
        for word in UNFINISHED {
            finds("a.rs", &format!("fn a() {{ {word} }}\n"), &[&format!("1: `{word}`")]);
            finds("a.md", &format!("{word}\n"), &[]);
        }
        finds("a.rs", &format!("my_{}();\n", UNFINISHED[2]), &[]);
    }

    #[test]
    fn hosts_of_packages_stay_in_locks() {
        for label in LABELS {
            let text = format!("see https://{label}.acme.com/x\n");
            finds("a.md", &text, &[&format!("1: `{label}.acme.com` serves packages to some and not to others")]);
            finds("a.lock", &text, &[]);
        }
        for index in INDEXES {
            finds("a.py", &format!("{index}\n"), &[&format!("1: `{index}` serves packages to some and not to others")]);
        }
        finds("a.md", "https://docs.acme.com/static.html https://registry.lan:5000/ https://registry.example/\n", &[]);
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        for home in HOMES {
            finds("a.rs", &format!("//! {home}me/x\n"), &[&format!("1: `{home}` is a path of one machine")]);
            finds("a.sh", &format!("cd \"{home}me\"\n"), &[&format!("1: `{home}` is a path of one machine")]);
            finds("d/Dockerfile.base", &format!("RUN ls {home}.cache\n"), &[]);
            finds("a.sh", &format!("cd target{home}me https://acme.com{home}x\n"), &[]);
        }
        finds("a.toml", &format!("home = \"{IMAGE_HOME}\"\n"), &[]);
        finds("Dockerfile", "COPY /made/up/x /\n", &["1: `/made/up` is a path of one machine"]);
    }

    #[test]
    fn skips_know_where_they_are_forbidden() {
        let skip = format!("print{SKIPPED}no docker\");\n");
        finds("xtask/tests/a.rs", &skip, &["1: a test is skipped even where nothing may be"]);
        finds("xtask/tests/a.rs", &format!("{skip}{REQUIRED}\n"), &[]);
    }

    #[test]
    fn modules_say_what_they_are_for() {
        finds("xtask/src/a.rs", "use b;\n", &["1: the module does not say what it is for"]);
        finds("autoscaler/src/a/b.rs", "use b;\n", &["1: the module does not say what it is for"]);
        finds("xtask/src/a.rs", "//! A.\nuse b;\n", &[]);
        finds("xtask/tests/a.rs", "use b;\n", &[]);
    }
}
