//! A part of a document or a page that a test reads counts as code: a small change of such a file runs no test that reads it.
//!
//! Pure. A lock among the tests has the digest of each part that they read. An edit of the part needs an edit of the lock, and that is a
//! change of code, whose tests run. A document that a test names is in the lock, or a change of it runs more than a small set of tests.

use super::{Files, Violation};
use std::collections::BTreeSet;
use xtask_model::image::policy::{self, Policy, Selected};
use xtask_model::spec::reference::Digest;

/// The lock, which belongs to the tests of xtask.
const LOCK: &str = "xtask/tests/documents.lock";

/// The part of a file that tests read.
enum TestedPart {
    /// The fenced blocks that a comment names: `<!-- example: edit -->`.
    Marked,
    /// The first block that begins with this line.
    Fence(&'static str),
    Whole,
}

/// Returns the part that tests read; none for a file that no test reads.
fn part_of(path: &str) -> Option<TestedPart> {
    match path {
        "docs/adoption.md" => Some(TestedPart::Fence("```text")),
        "docs/images/terminal.txt" => Some(TestedPart::Whole),
        "README.md" | "CONTRIBUTING.md" => Some(TestedPart::Marked),
        _ if path.strip_prefix("docs/").is_some_and(|name| name.ends_with(".md") && !name.contains('/')) => {
            Some(TestedPart::Marked)
        }
        _ => None,
    }
}

/// The lines that tests read; empty where they read none.
fn read_by_tests(part: &TestedPart, text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut found: Vec<&str> = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let begins = match part {
            TestedPart::Whole => return text.to_owned(),
            TestedPart::Fence(first) => lines[at] == *first && found.is_empty(),
            TestedPart::Marked => at > 0 && lines[at].starts_with("```") && is_mark(lines[at - 1]),
        };
        if begins {
            let end =
                lines[at + 1..].iter().position(|line| line.starts_with("```")).map_or(lines.len(), |end| at + end + 2);
            found.extend(&lines[at.saturating_sub(usize::from(matches!(part, TestedPart::Marked)))..end]);
            at = end;
        } else {
            at += 1;
        }
    }
    found.join("\n")
}

/// True for the comment before a block that tests read. Generated parts have marks of their own.
fn is_mark(line: &str) -> bool {
    line.starts_with("<!-- ") && line.ends_with(" -->") && !line.starts_with("<!-- generated")
}

pub(super) fn check(files: &Files) -> Vec<Violation> {
    if !files.exists("xtask/tests") {
        return Vec::new();
    }
    let lock = files.text(LOCK).unwrap_or_default();
    let locked: BTreeSet<&str> = lock.lines().filter(|line| !line.starts_with('#')).collect();
    let mut expected = BTreeSet::new();
    let mut found = Vec::new();
    for (path, text) in files.texts() {
        let Some(part) = part_of(path) else { continue };
        let read = read_by_tests(&part, text);
        if read.is_empty() {
            continue;
        }
        let line = format!("{} {path}", &Digest::of(read.as_bytes()).hex()[..16]);
        if !locked.contains(line.as_str()) {
            let repair = format!("run `cargo test -p xtask --test examples`, and write `{line}` into `{LOCK}`");
            found.push(Violation::new(path, 0, format!("a part that tests read is not the one in `{LOCK}`"), repair));
        }
        expected.insert(line);
    }
    let paths: BTreeSet<&str> = expected.iter().filter_map(|line| Some(line.split_once(' ')?.1)).collect();
    for line in &locked {
        if !line.split_once(' ').is_some_and(|(_, path)| paths.contains(path)) {
            found.push(Violation::new(LOCK, 0, format!("`{line}` names no part that tests read"), "remove the line"));
        }
    }
    found.extend(not_covered(files, &paths));
    found
}

/// Files that tests name, and a change of which would run a small set of tests alone.
fn not_covered(files: &Files, locked: &BTreeSet<&str>) -> Vec<Violation> {
    // Whether the files that the policy names exist is for a build to say.
    let Some(policy) = files.text(policy::FILE).and_then(|text| policy::parse(text, &|_| true).ok()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (source, text) in files.texts().filter(|(path, _)| path.ends_with(".rs") && path.contains("/tests/")) {
        let package = source.split('/').next().unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            for named in line.split('"').skip(1).step_by(2) {
                let begins = ["docs/", "templates/", "samples/"].iter().any(|folder| named.starts_with(folder));
                let below = format!("{package}/{named}");
                let path = [named, &below].into_iter().find(|path| begins && files.text(path).is_some());
                let Some(path) = path.filter(|path| is_small(&policy, path) && !locked.contains(path)) else {
                    continue;
                };
                let what = format!("a change of `{path}`, which this test reads, does not run it");
                let repair = format!(
                    "take it out of `[ci] documents` and of the `[[ci.tests]]` without `long` in `{}`",
                    policy::FILE
                );
                found.push(Violation::new(source, number + 1, what, repair));
            }
        }
    }
    found
}

/// True if a change of this file alone runs tests that compile nothing.
fn is_small(policy: &Policy, path: &str) -> bool {
    let covers = |tests: &&Selected| tests.paths.ignores(path.as_bytes());
    policy.ci.documents.ignores(path.as_bytes()) || policy.ci.tests.iter().find(covers).is_some_and(|tests| !tests.long)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = include_str!("../../../images.toml");
    const GUIDE: &str =
        "# Guide\nprose\n<!-- example: edit -->\n```console\n$ a\nb\n```\nprose\n```console\n$ c\n```\n";

    fn found(guide: &str, lock: &str, test: &str) -> Vec<String> {
        let files = [
            ("docs/guide.md", guide),
            (LOCK, lock),
            (policy::FILE, POLICY),
            ("xtask/tests/a.rs", test),
            ("autoscaler/tests/b.rs", test),
            ("autoscaler/templates/a.html", ""),
            ("autoscaler/templates/list.html", ""),
            ("docs/b.svg", ""),
        ];
        check(&Files::made_up(&files))
            .iter()
            .map(|violation| format!("{} {}", violation.path, violation.what))
            .collect()
    }

    #[test]
    fn an_edit_of_what_tests_read_needs_an_edit_of_their_lock() {
        let read = read_by_tests(&TestedPart::Marked, GUIDE);
        assert_eq!(read, "<!-- example: edit -->\n```console\n$ a\nb\n```");
        let lock = format!("# x\n{} docs/guide.md\n", &Digest::of(read.as_bytes()).hex()[..16]);
        assert!(found(GUIDE, &lock, "").is_empty());
        assert!(found(&GUIDE.replace("prose", "other prose").replace("$ c", "$ d"), &lock, "").is_empty());
        for edited in [GUIDE.replace("\nb\n", "\nB\n"), GUIDE.replace("example: edit", "example: other")] {
            assert_eq!(found(&edited, &lock, "").len(), 1, "{edited}");
        }
        assert_eq!(found(GUIDE, "", "").len(), 1);
        assert_eq!(found("# Guide\n", &lock, "").len(), 1, "a line without a part");
    }

    #[test]
    fn a_file_that_a_test_reads_is_in_no_small_set() {
        let lock = format!(
            "{} docs/guide.md\n",
            &Digest::of(read_by_tests(&TestedPart::Marked, GUIDE).as_bytes()).hex()[..16]
        );
        assert!(found(GUIDE, &lock, "read(\"docs/guide.md\"); read(\"templates/list.html\");").is_empty());
        for test in ["read(\"docs/b.svg\")", "read(\"templates/a.html\")"] {
            assert!(!found(GUIDE, &lock, test).is_empty(), "{test}");
        }
    }
}
