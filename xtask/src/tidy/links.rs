//! Links and pictures in Markdown, and paths that documents name, lead to files that are committed.
//!
//! Pure. Does not check addresses on the network.

use super::{Files, Violation};

/// Every broken link, and every path that leads nowhere.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let mut found = named(files);
    for (path, text) in files.texts().filter(|(path, _)| path.ends_with(".md")) {
        let mut code = false;
        for (index, line) in text.lines().enumerate() {
            code ^= line.trim_start().starts_with("```");
            for target in targets(line).filter(|_| !code) {
                let file = target.split(['#', '?']).next().unwrap_or_default();
                if !file.is_empty() && !resolved(path, file).is_some_and(|file| files.exists(&file)) {
                    let what = format!("the link leads to `{target}`, which does not exist");
                    found.push(Violation::new(path, index + 1, what, "correct it, or commit the file"));
                }
            }
        }
    }
    found
}

/// Texts that look like a path and are none: the branch of `lock --pull-request`.
const NO_PATHS: [&str; 1] = ["xtask/lock"];

/// Paths in backquotes that lead nowhere, in documents of the top folder, in `docs`, and in the README of any folder, whose paths may begin
/// in that folder. A module may be written without `.rs`, and a source file by the end of its path. In a table below a heading that is a
/// folder, the first column has what is in the folder.
fn named(files: &Files) -> Vec<Violation> {
    let is_document = |path: &str| !path.contains('/') || path.starts_with("docs/") || path.ends_with("/README.md");
    let is_there = |path: &str| files.exists(path) || files.exists(&format!("{path}.rs"));
    let is_end = |path: &str| files.paths().any(|file| file.strip_suffix(path).is_some_and(|rest| rest.ends_with('/')));
    let mut found = Vec::new();
    for (path, text) in files.texts().filter(|(path, _)| path.ends_with(".md") && is_document(path)) {
        let (mut code, mut folder) = (false, None);
        let own = path.strip_suffix("/README.md").unwrap_or_default();
        for (line, number) in text.lines().zip(1..) {
            code ^= line.trim_start().starts_with("```");
            if code {
                continue;
            }
            if line.starts_with('#') {
                folder = quoted(line).find(|name| files.exists(name));
            }
            let mut absent = |name: &str| {
                let what = format!("`{name}` does not exist");
                found.push(Violation::new(path, number, what, "correct the path, or commit the file"));
            };
            for name in quoted(line).filter(|name| !NO_PATHS.contains(name)) {
                let top = name.split_once('/').map(|(top, _)| top).filter(|top| !top.is_empty());
                let has_it = |folder: &str| is_there(format!("{folder}{name}").trim_end_matches('/'));
                let is_below = |folder: &str| top.is_some_and(|top| files.exists(&format!("{folder}{top}")));
                let mut folders = vec![String::new()];
                folders.extend((!own.is_empty()).then(|| format!("{own}/")));
                folders.retain(|folder| is_below(folder));
                let is_missing = match folders.is_empty() {
                    true => name.ends_with(".rs") && !is_end(name),
                    false => !folders.iter().any(|folder| has_it(folder)),
                };
                if is_missing {
                    absent(name);
                }
            }
            let first = line.strip_prefix('|').and_then(|rest| rest.split('|').next()).unwrap_or_default();
            for name in folder.iter().flat_map(|folder| quoted(first).map(move |name| format!("{folder}/{name}"))) {
                if !is_there(name.trim_end_matches('/')) {
                    absent(&name);
                }
            }
        }
    }
    found
}

/// Texts in backquotes that may be paths.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    let is_path = |text: &&str| text.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c));
    line.split('`').skip(1).step_by(2).filter(is_path)
}

/// Targets of the links and pictures in a line, except addresses.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let inline = line.match_indices("](").map(|(at, found)| (at + found.len(), ')'));
    let html = ["src=\"", "href=\"", "srcset=\""]
        .into_iter()
        .flat_map(move |name| line.match_indices(name).map(|(at, found)| (at + found.len(), '"')));
    let defined = line.strip_prefix('[').and_then(|rest| rest.split_once(']')?.1.strip_prefix(": ")).map(str::trim);
    let spans = inline.chain(html).filter_map(move |(at, end)| line[at..].split(end).next());
    let spans = spans.chain(defined).map(|target| target.split(' ').next().unwrap_or_default());
    spans
        .map(|target| target.trim_matches(['<', '>']))
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
}

/// A target from the root; none where it leads out of the repository.
fn resolved(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = match target.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => from.split('/').collect(),
    };
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(text: &str, expected: &[&str]) {
        let files = Files::made_up(&[("docs/adr/0001.md", text), ("README.md", ""), ("docs/images/a.png", "")]);
        let found: Vec<String> =
            check(&files).into_iter().map(|violation| format!("{}: {}", violation.line, violation.what)).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn links_lead_somewhere() {
        finds("[a](../../README.md#b) ![c](../images/a.png \"d\") [e](../images) [f](/README.md) [g](#here)\n", &[]);
        finds("[a](https://acme.com/x) <img src=\"../images/a.png\"> [b]: x\n", &[]);
        finds("x\n[a](README.md)\n", &["2: the link leads to `README.md`, which does not exist"]);
        finds("<img src=\"a.png\">\n", &["1: the link leads to `a.png`, which does not exist"]);
        finds("[a](../../../x.md)\n", &["1: the link leads to `../../../x.md`, which does not exist"]);
        finds("[a]: b.md\n", &["1: the link leads to `b.md`, which does not exist"]);
        finds("```\n[a](b.md)\n```\n", &[]);
    }

    #[track_caller]
    fn names(path: &str, text: &str, expected: &[&str]) {
        let others =
            [("xtask/src/pipeline/facts.rs", ""), ("docs/a.md", ""), ("app/src/a.rs", ""), ("app/b/src/c.rs", "")];
        let files = Files::made_up(&[&others[..], &[(path, text)]].concat());
        let found: Vec<String> =
            check(&files).into_iter().map(|violation| format!("{}: {}", violation.line, violation.what)).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn paths_in_documents_exist() {
        let there =
            "`xtask/src/pipeline/facts.rs`, `xtask/src/pipeline/`, `pipeline/facts.rs`, `xtask/src/pipeline/facts`\n";
        names("ARCHITECTURE.md", there, &[]);
        names("docs/b.md", "`ghcr.io/acme`, `/opt/venv`, `xtask/lock`, `cargo xtask/a`\n```\n`xtask/c`\n```\n", &[]);
        names("docs/b.md", "a\n`xtask/src/plan.rs`\n", &["2: `xtask/src/plan.rs` does not exist"]);
        names(
            "docs/b.md",
            "`src/facts.rs` or `cts.rs`\n",
            &["1: `src/facts.rs` does not exist", "1: `cts.rs` does not exist"],
        );
        names("xtask/tests/a.md", "`xtask/src/plan.rs`\n", &[]);
        names("app/README.md", "`src/a.rs`, `src/a`, `src/`, `b/src/c.rs`, `xtask/src/pipeline/`\n", &[]);
        names("app/README.md", "`xtask/src/plan.rs`\n", &["1: `xtask/src/plan.rs` does not exist"]);
        names("app/README.md", "`src/c.rs`\n", &["1: `src/c.rs` does not exist"]);
    }

    #[test]
    fn a_table_below_a_folder_has_what_is_in_it() {
        let table =
            "### `xtask/src`\n\n| where | what |\n|---|---|\n| `pipeline/`, `pipeline/facts` | a `b` |\n| `c` | |\n";
        names("ARCHITECTURE.md", table, &["6: `xtask/src/c` does not exist"]);
        names("ARCHITECTURE.md", &format!("{table}## Other\n| `d` | |\n"), &["6: `xtask/src/c` does not exist"]);
    }
}
