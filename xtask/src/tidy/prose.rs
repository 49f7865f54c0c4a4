//! Phrases that stop a reader: each has a plain word, and none may be in anything that people read.
//!
//! Pure. Reads Markdown, templates, help and configuration whole; of Rust the comments, the string literals and the names of functions.
//! A phrase may run over a line break.

use super::{Files, Violation};

/// A phrase in lower case, with what to write instead.
type Phrase = (&'static str, &'static str);

/// Matched as whole words, whatever their case.
const PHRASES: &[Phrase] = &[
    ("anew", "again"),
    ("answers to", "matches"),
    ("are not there", "are missing"),
    ("asks none", "cannot be used with"),
    ("at hand", "available"),
    ("beneath", "under, below"),
    ("beside", "next to, with"),
    ("comes to", "reaches, becomes"),
    ("did not hold", "was invalid"),
    ("do not hold", "are invalid"),
    ("does not hold", "is invalid"),
    ("go on", "continue"),
    ("goes on", "continues"),
    ("is not there", "is missing"),
    ("it is there", "it is present"),
    ("make sure of", "ensure"),
    ("makes sure of", "ensures"),
    ("of ours", "our"),
    ("of yours", "your"),
    ("out of reach", "unreachable"),
    ("shall", "must, will"),
    ("so many", "this number of"),
    ("stand for", "mean"),
    ("stand in", "be in"),
    ("stand on", "be based on"),
    ("stand under", "be under"),
    ("stands for", "means"),
    ("stands in", "is in"),
    ("stands on", "is based on"),
    ("stands there", "is there"),
    ("stands under", "is under"),
    ("stood for", "meant"),
    ("stood in", "was in"),
    ("stood on", "was based on"),
    ("stood under", "was under"),
    ("tell of", "report"),
    ("tells of", "reports"),
    ("they are there", "they are present"),
    ("told", "reported, said"),
    ("what is there", "what exists"),
    ("what of", "which"),
    ("whence", "from where"),
    ("whom", "who"),
];

/// "is no X": the phrase, and the words behind it with which it is plain English.
const NO: [&str; 5] = ["are no", "be no", "is no", "was no", "were no"];
const AFTER_NO: [&str; 11] =
    ["longer", "more", "less", "such", "better", "worse", "different", "closer", "faster", "slower", "reason"];
/// Words before "is no" with which it is plain English: "there is no lock".
const BEFORE_NO: [&str; 4] = ["there", "where", "if", "which"];

/// This file, which lists the phrases, and the generated or foreign texts.
const NOT_READ: [&str; 3] = ["xtask/src/tidy/prose.rs", "LICENSE", "CHANGELOG.md"];

/// Lines that may have a phrase: the file, a part of the line, and the reason.
const ALLOWED: &[(&str, &str, &str)] = &[];

/// Every phrase in every text that people read.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let read = |path: &str| !NOT_READ.contains(&path);
    let mut found: Vec<Violation> =
        files.texts().filter(|(path, _)| read(path)).flat_map(|(path, text)| phrases(path, text)).collect();
    for (path, part, _) in ALLOWED {
        if files.text(path).is_some_and(|text| !text.contains(part)) {
            let what = format!("the list of allowed phrases names `{part}`, which `{path}` does not have");
            found.push(Violation::new("xtask/src/tidy/prose.rs", 0, what, "remove it from `ALLOWED`"));
        }
    }
    found
}

fn phrases(path: &str, text: &str) -> Vec<Violation> {
    let Some(prose) = Prose::of(path, text) else { return Vec::new() };
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, phrase, instead) in prose.find() {
        let line = prose.line(at);
        let shown = lines.get(line - 1).copied().unwrap_or_default();
        if ALLOWED.iter().any(|(file, part, _)| *file == path && shown.contains(part)) {
            continue;
        }
        found.push(Violation::new(path, line, format!("`{phrase}`"), format!("write plain English: {instead}")));
    }
    found.sort();
    found.dedup();
    found
}

/// The words of a text that people read, in lower case, with blanks for line breaks.
#[derive(Default)]
struct Prose {
    words: String,
    /// Where each line begins in `words`, and its number from 1.
    lines: Vec<(usize, usize)>,
}

impl Prose {
    /// The prose of a file by the ending of its name; none where people read nothing.
    fn of(path: &str, text: &str) -> Option<Self> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let mut prose = Self::default();
        match name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("rs") => rust(text, &mut prose),
            Some("md" | "html" | "txt" | "toml" | "yml" | "yaml" | "py" | "tpl") => prose.whole(text),
            _ if name.starts_with("Dockerfile") || path.starts_with(".ci/") => prose.whole(text),
            _ => return None,
        }
        Some(prose)
    }

    fn whole(&mut self, text: &str) {
        for (index, line) in text.lines().enumerate() {
            self.add(index + 1, line.trim_start().trim_start_matches(['#', '>', '*', '-', ' ']));
        }
    }

    fn add(&mut self, line: usize, words: &str) {
        self.lines.push((self.words.len(), line));
        self.words.extend(words.split_whitespace().flat_map(|word| [word, " "]).flat_map(str::chars).map(lower));
        if words.trim().is_empty() {
            // A paragraph ends: no phrase runs over it.
            self.words.push('\n');
        }
    }

    fn line(&self, at: usize) -> usize {
        let next = self.lines.partition_point(|(start, _)| *start <= at);
        self.lines.get(next.saturating_sub(1)).map_or(1, |(_, line)| *line)
    }

    /// Every phrase, with its place in `words`.
    fn find(&self) -> Vec<(usize, String, &'static str)> {
        let words = self.words.as_str();
        let mut found = Vec::new();
        for (phrase, instead) in PHRASES {
            let whole = |at: &usize| is_whole(words, *at, phrase.len());
            found.extend(
                words
                    .match_indices(phrase)
                    .map(|(at, _)| at)
                    .filter(whole)
                    .map(|at| (at, (*phrase).to_owned(), *instead)),
            );
        }
        for no in NO {
            for (at, _) in words.match_indices(no).filter(|(at, _)| is_whole(words, *at, no.len())) {
                let after = words[at + no.len()..].trim_start().split(|c: char| !c.is_alphanumeric()).next();
                let before = words[..at].trim_end().rsplit(|c: char| !c.is_alphanumeric()).next();
                let noun = after.filter(|word| !word.is_empty() && !AFTER_NO.contains(word));
                if let Some(noun) = noun.filter(|_| before.is_none_or(|word| !BEFORE_NO.contains(&word))) {
                    found.push((at, format!("{no} {noun}"), "is not a"));
                }
            }
        }
        found
    }
}

/// Byte for byte, so that places stay the same.
fn lower(c: char) -> char {
    c.to_ascii_lowercase()
}

fn is_whole(words: &str, at: usize, length: usize) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    !words[..at].ends_with(inside) && !words[at + length..].starts_with(inside)
}

/// What of Rust is read: comments, string literals, and the names of functions as words.
fn rust(text: &str, prose: &mut Prose) {
    let mut rest = text;
    let mut line = 1;
    while let Some(c) = rest.chars().next() {
        let (taken, read) = piece(rest, c);
        if let Some(read) = read {
            for (index, part) in rest[read].split('\n').enumerate() {
                prose.add(line + index, &part.trim_start().trim_start_matches(['/', '!']).replace("\\n", " "));
            }
        }
        if let Some(name) = rest.strip_prefix("fn ").filter(|_| taken == 1) {
            let name = name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            prose.add(line, "");
            prose.add(line, &name.replace('_', " "));
            prose.add(line, "");
        }
        line += rest[..taken].matches('\n').count();
        rest = &rest[taken..];
    }
}

/// The length of the comment, literal or character at the start, and which part of it people read.
fn piece(rest: &str, first: char) -> (usize, Option<std::ops::Range<usize>>) {
    let ends = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at);
    match first {
        '/' if rest.starts_with("//") => {
            let end = ends("\n", 0);
            (end, Some(0..end))
        }
        '/' if rest.starts_with("/*") => {
            let end = ends("*/", 2);
            ((end + 2).min(rest.len()), Some(2..end))
        }
        '"' => {
            let mut escaped = false;
            let closes = |c: char| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            };
            let end = rest[1..].find(closes).map_or(rest.len(), |at| 1 + at);
            ((end + 1).min(rest.len()), Some(1..end))
        }
        'r' if rest[1..].trim_start_matches('#').starts_with('"') => {
            let hashes = rest[1..].len() - rest[1..].trim_start_matches('#').len();
            let (start, close) = (hashes + 2, format!("\"{}", "#".repeat(hashes)));
            let end = ends(&close, start);
            ((end + close.len()).min(rest.len()), Some(start..end))
        }
        // A quote in a character literal opens nothing.
        '\'' if rest.starts_with("'\"'") => (3, None),
        '\'' if rest.starts_with("'\\") => (ends("'", 3.min(rest.len())).saturating_add(1).min(rest.len()), None),
        c if c.is_alphanumeric() || c == '_' => {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            // `fn` is looked at by the caller, and `r"` or `br"` begins a literal.
            if rest.starts_with("fn ") { (1, None) } else { (word(rest, end), None) }
        }
        c => (c.len_utf8(), None),
    }
}

/// The length of a word, without the `r` of a raw literal at its end.
fn word(rest: &str, end: usize) -> usize {
    let raw = rest[..end].ends_with('r') && rest[end..].starts_with(['"', '#']);
    if raw && end > 1 { end - 1 } else { end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(path: &str, text: &str, expected: &[&str]) {
        let found: Vec<String> =
            check(&Files::made_up(&[(path, text)])).into_iter().map(|v| format!("{}: {}", v.line, v.what)).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn every_phrase_is_found_in_markdown() {
        for (phrase, _) in PHRASES {
            finds("a.md", &format!("One line.\nNow {phrase} it.\n"), &[&format!("2: `{phrase}`")]);
        }
    }

    #[test]
    fn only_whole_words_count() {
        finds("a.md", "besides, a shallow stand-in; handsome; renewed; shallow\n", &[]);
        finds("a.md", "Beside it\n", &["1: `beside`"]);
    }

    #[test]
    fn a_phrase_may_run_over_a_line_break_but_not_over_a_paragraph() {
        finds("a.md", "it does not\nhold\n", &["1: `does not hold`"]);
        finds("a.rs", "//! it does\n//! not hold\n", &["1: `does not hold`"]);
        finds("a.md", "it does not\n\nhold\n", &[]);
    }

    #[test]
    fn is_no_thing_is_found_and_there_is_no_thing_is_not() {
        finds("a.md", "`x` is no name.\n", &["1: `is no name`"]);
        finds("a.md", "There is no name. It is no longer here, and where there is no other.\n", &[]);
    }

    #[test]
    fn of_rust_comments_literals_and_names_of_functions_are_read() {
        finds("a.rs", "//! A.\nfn it_is_told_at_once() {}\n", &["2: `told`"]);
        finds("a.rs", "//! A.\nconst A: &str = \"is \\\"told\\\"\";\n", &["2: `told`"]);
        finds("a.rs", "//! A.\nconst A: &str = r#\"a \"told\" b\"#; // beneath\n", &["2: `beneath`", "2: `told`"]);
        finds("a.rs", "//! A.\nlet a = ['\"', b]; let told = beneath(told);\n", &[]);
        finds("a.rs", "//! A.\n/* whom\n anew */\n", &["2: `whom`", "3: `anew`"]);
    }

    #[test]
    fn data_is_not_read() {
        finds("a.csv", "told\n", &[]);
        finds("a.lock", "told\n", &[]);
        finds("LICENSE", "shall\n", &[]);
    }
}
