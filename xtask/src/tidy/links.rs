//! Links and pictures in Markdown point at files that are committed.
//!
//! Pure. Does not check addresses on the network.

use super::{Files, Violation};

/// Every broken link.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let mut found = Vec::new();
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

/// What links and pictures of a line name, but for addresses.
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
}
