//! Messages that the document about troubleshooting quotes are in the sources, so that a search for a message finds its row.
//!
//! Pure. A message is found where one string literal outside of tests contains all of it, with `…` for each value.

use super::{Files, Violation};
use xtask_scan::prose::{lines_with, literals};

const DOCUMENT: &str = "docs/troubleshooting.md";

/// Every message that nothing prints.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let Some(document) = files.text(DOCUMENT) else { return Vec::new() };
    let is_source = |path: &str| path.starts_with("xtask/") && path.contains("/src/") && path.ends_with(".rs");
    let is_test = |path: &str| path.ends_with("/tests.rs") || path.contains("/tests/");
    let sources = files.code().filter(|(path, _)| is_source(path) && !is_test(path));
    let printed: Vec<String> = sources.map(|(_, code)| literals(code)).collect();
    let is_printed = |message: &str| printed.iter().any(|literals| !lines_with(literals, &[message]).is_empty());
    let absent = quoted(document).into_iter().filter(|(_, message)| !is_printed(message));
    let violation = |(line, message): (usize, &str)| {
        let what = format!("no program prints the message `{message}`");
        Violation::new(DOCUMENT, line, what, "quote it as it is printed, with `…` for each value")
    };
    absent.map(violation).collect()
}

/// Messages with their lines: texts in backquotes in the first column of a table whose head is `message`, and in sentences those with
/// a colon.
fn quoted(document: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut is_code, mut is_table) = (false, false);
    for (line, number) in document.lines().zip(1..) {
        is_code ^= line.starts_with("```");
        let first = line.strip_prefix('|').and_then(|rest| rest.split('|').next()).map(str::trim);
        is_table = first.is_some_and(|first| is_table || first == "message");
        match first {
            _ if is_code => {}
            Some(first) if is_table => found.extend(spans(first).map(|message| (number, message))),
            Some(_) => {}
            None => found.extend(spans(line).filter(|text| text.contains(": ")).map(|message| (number, message))),
        }
    }
    found
}

/// Texts between backquotes. Two backquotes on each side, with blanks inside, are around a text that has some.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let from = &rest[rest.find('`')?..];
        let fence = &from[..from.len() - from.trim_start_matches('`').len()];
        let (text, after) = from[fence.len()..].split_once(fence)?;
        rest = after;
        Some(text.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(document: &str, expected: &[&str]) {
        let source = "fault(format!(\"`{file}` has no range of {ENOUGH} numbers\"));\n#[cfg(test)]\nmod tests {\n \"only a test\"\n}\n";
        let tests = ("xtask/model/src/a/tests.rs", "\"only a test\"");
        let sources = [("xtask/host/src/a.rs", source), tests, ("xtask/tests/a.rs", "\"only a test\"")];
        let files = Files::made_up(&[&sources[..], &[(DOCUMENT, document)]].concat());
        let found: Vec<String> =
            check(&files).into_iter().map(|violation| format!("{}: {}", violation.line, violation.what)).collect();
        assert_eq!(found, expected, "{document}");
    }

    #[test]
    fn messages_are_quoted_as_they_are_printed() {
        let table = |row: &str| format!("| message | cause |\n|---|---|\n| {row} | `not a message` |\n");
        finds(&table("`has no range of … numbers`"), &[]);
        finds(&table("`` `…` has no range of … numbers ``"), &[]);
        finds(&table("words alone"), &[]);
        finds(
            &table("`has no range of 65535 numbers`"),
            &["3: no program prints the message `has no range of 65535 numbers`"],
        );
        finds(&table("`made up`"), &["3: no program prints the message `made up`"]);
        finds(&table("`only a test`"), &["3: no program prints the message `only a test`"]);
        finds("| symptom | cause |\n|---|---|\n| `made up` | |\n", &[]);
        finds(
            "Run `cargo x`: `a: made up`.\n```\n`b: made up`\n```\n",
            &["1: no program prints the message `a: made up`"],
        );
    }
}
