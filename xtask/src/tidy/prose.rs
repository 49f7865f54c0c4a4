//! Phrases that stop a reader: each has a plain word, and none may be in anything that people read. Doc comments that start with a
//! question word, and so make the reader find the statement.
//!
//! Pure. Reads Markdown, templates, help and configuration whole; of Rust the comments, the string literals and the names of functions.
//! A phrase may run over a line break.

use super::{Files, Violation};
use xtask_scan::prose::{Prose, lines_with};

/// A phrase in lower case, with what to write instead.
type Phrase = (&'static str, &'static str);

/// Matched as whole words, whatever their case.
const PHRASES: &[Phrase] = &[
    ("anew", "again"),
    ("answers to", "matches"),
    ("are not there", "are missing"),
    ("ask no", "do not ask any"),
    ("asks no", "does not ask any"),
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
    ("made sure of", "ensured"),
    ("make sure of", "ensure"),
    ("makes sure of", "ensures"),
    ("of ours", "our"),
    ("of yours", "your"),
    ("out of reach", "unreachable"),
    ("shall", "must, will"),
    ("so many", "this number of"),
    ("stand alone", "need nothing else"),
    ("stand as", "be"),
    ("stand at", "be at"),
    ("stand before", "be in front of"),
    ("stand below", "be below"),
    ("stand between", "be between"),
    ("stand elsewhere", "be in another place"),
    ("stand for", "mean"),
    ("stand here", "be here"),
    ("stand in", "be in"),
    ("stand next to", "be next to"),
    ("stand on", "be based on"),
    ("stand once", "be written once"),
    ("stand side by side", "be next to each other"),
    ("stand there", "be present"),
    ("stand under", "be under"),
    ("stand where", "be where"),
    ("stands", "is, means, is based on"),
    ("stood", "was, meant, was based on"),
    ("tell of", "report"),
    ("tells of", "reports"),
    ("told", "reported, said"),
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

/// "is there" for "exists": the phrase, and the words behind it with which it is a question.
const THERE: [&str; 6] = ["are there", "be there", "been there", "is there", "was there", "were there"];
const AFTER_THERE: [&str; 10] = ["a", "an", "another", "any", "anything", "enough", "no", "one", "something", "such"];

/// Words that no doc comment starts with.
const QUESTION_WORDS: [&str; 12] =
    ["How", "What", "Whatever", "When", "Whenever", "Where", "Wherever", "Whether", "Which", "Who", "Whose", "Why"];

/// This file, which lists the phrases, and a foreign text.
const NOT_READ: [&str; 2] = ["xtask/src/tidy/prose.rs", "LICENSE"];

/// Lines that may have a phrase: the file, a part of the line, and the reason.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("CHANGELOG.md", "the field `beside` of `explain`", "readers of the old JSON look for this name"),
    ("autoscaler/show/src/state.rs", "alias = \"stands\"", "states that older versions wrote have this name"),
];

/// Every phrase in every text that people read, and every doc comment that starts with a question word.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let read = |path: &str| !NOT_READ.contains(&path);
    let mut found: Vec<Violation> =
        files.texts().filter(|(path, _)| read(path)).flat_map(|(path, text)| found_in(path, text)).collect();
    for (path, part, _) in ALLOWED {
        if files.text(path).is_some_and(|text| !text.contains(part)) {
            let what = format!("the list of allowed phrases names `{part}`, which `{path}` does not have");
            found.push(Violation::new("xtask/src/tidy/prose.rs", 0, what, "remove it from `ALLOWED`"));
        }
    }
    found
}

fn found_in(path: &str, text: &str) -> Vec<Violation> {
    let mut found = phrases(path, text);
    if path.ends_with(".rs") {
        found.extend(questions(path, text));
    }
    found
}

/// Doc comments whose first line starts with a question word.
fn questions(path: &str, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut last = None;
    for (line, comment) in lines_with(text, &["///", "//!"]) {
        let Some((marker, words)) = doc_comment(comment) else { continue };
        let continues = last.replace((line, marker)) == Some((line - 1, marker));
        let first = words.trim_start().split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        if !continues && QUESTION_WORDS.contains(&first) {
            let what = format!("the doc comment starts with `{first}`");
            let repair = "start with a noun phrase or a verb: \"Path of\", \"Number of\", \"Returns true if\"";
            found.push(Violation::new(path, line, what, repair));
        }
    }
    found
}

/// The marker and the words of a line of a doc comment.
fn doc_comment(line: &str) -> Option<(&'static str, &str)> {
    let line = line.trim_start();
    let (marker, words) = ["///", "//!"].into_iter().find_map(|marker| Some((marker, line.strip_prefix(marker)?)))?;
    (!words.starts_with('/')).then_some((marker, words))
}

fn phrases(path: &str, text: &str) -> Vec<Violation> {
    let Some(prose) = Prose::of(path, text) else { return Vec::new() };
    let mut found = Vec::new();
    for (at, phrase, instead) in places(&prose) {
        let line = prose.line(at);
        let shown = || text.lines().nth(line - 1).unwrap_or_default();
        if ALLOWED.iter().any(|(file, part, _)| *file == path && shown().contains(part)) {
            continue;
        }
        found.push(Violation::new(path, line, format!("`{phrase}`"), format!("write plain English: {instead}")));
    }
    found.sort();
    found.dedup();
    found
}

/// Every phrase, with its place in the words of a text.
fn places(prose: &Prose) -> Vec<(usize, String, &'static str)> {
    let all: Vec<&str> = PHRASES.iter().map(|(phrase, _)| *phrase).chain(NO).chain(THERE).collect();
    let words = prose.words();
    let place = |(at, number): (usize, usize)| {
        if let Some((phrase, instead)) = PHRASES.get(number) {
            return Some((at, (*phrase).to_owned(), *instead));
        }
        let no = all[number];
        let after = words[at + no.len()..].trim_start().split(|c: char| !c.is_alphanumeric()).next();
        if THERE.contains(&no) {
            let is_question = after.is_some_and(|word| AFTER_THERE.contains(&word));
            return (!is_question).then(|| (at, no.to_owned(), "exists, is present"));
        }
        let before = words[..at].trim_end().rsplit(|c: char| !c.is_alphanumeric()).next();
        let noun = after.filter(|word| !word.is_empty() && !AFTER_NO.contains(word))?;
        before.is_none_or(|word| !BEFORE_NO.contains(&word)).then(|| (at, format!("{no} {noun}"), "is not a"))
    };
    prose.find(&all).into_iter().filter_map(place).collect()
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
    fn is_there_for_existence_is_found_and_a_question_is_not() {
        finds("a.md", "The file is there. All were there already.\n", &["1: `is there`", "1: `were there`"]);
        finds("a.md", "Is there a file, and are there any others? It has to be\nthere\n", &["1: `be there`"]);
    }

    #[test]
    fn a_doc_comment_that_starts_with_a_question_word_is_found() {
        let found = |line: usize, word: &str| format!("{line}: the doc comment starts with `{word}`");
        finds("a.rs", "//! What it is.\n\n/// Whether it is.\nfn a() {}\n", &[&found(1, "What"), &found(3, "Whether")]);
        finds("a.rs", "//! A.\n/// Why\n/// not.\nfn a() {}\n", &[&found(2, "Why")]);
        finds("a.rs", "struct A {\n    ///Where it is.\n    a: u8,\n}\n", &[&found(2, "Where")]);
        finds("autoscaler/src/a.rs", "/// What's left.\n", &[&found(1, "What")]);
    }

    #[test]
    fn other_comments_and_lines_that_continue_one_may_start_with_a_question_word() {
        finds("a.rs", "//! A path,\n//! which is short.\n//! Where it leads does not matter.\n", &[]);
        finds("a.rs", "/// A path.\n///\n/// What it names is a file.\nfn a() {} // What it does.\n", &[]);
        finds("a.rs", "// Why not.\n//// What it was.\nconst A: &str = \"/// What\"; // Who\n", &[]);
        finds("a.rs", "/// Whatsoever. What it is.\nfn a() {}\n", &[]);
        finds("a.md", "/// What it is.\n", &[]);
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
