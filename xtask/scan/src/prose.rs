//! Texts that people read, as words: of Markdown, templates, help and configuration all, of Rust the comments, the string literals and
//! the names of functions.
//!
//! Pure. In this crate because it looks at each character of a repository.

/// The words of a text that people read, in lower case, with blanks for line breaks.
#[derive(Default)]
pub struct Prose {
    words: String,
    /// Position of each line in `words`, and its number from 1.
    lines: Vec<(usize, usize)>,
}

impl Prose {
    /// The prose of a file by the ending of its name; none where people read nothing.
    pub fn of(path: &str, text: &str) -> Option<Self> {
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

    /// The number of the line with a place in [`Self::words`], from 1.
    pub fn line(&self, at: usize) -> usize {
        let next = self.lines.partition_point(|(start, _)| *start <= at);
        self.lines.get(next.saturating_sub(1)).map_or(1, |(_, line)| *line)
    }

    pub fn words(&self) -> &str {
        &self.words
    }

    /// The places of phrases as whole words, each with the phrase's number. Phrases are in lower case, and begin with a letter of ASCII.
    pub fn find(&self, phrases: &[&str]) -> Vec<(usize, usize)> {
        let mut by_letter = vec![Vec::new(); 256];
        for (number, phrase) in phrases.iter().enumerate() {
            by_letter[usize::from(phrase.as_bytes()[0])].push(number);
        }
        let words = self.words.as_bytes();
        let mut found = Vec::new();
        for at in 0..words.len() {
            if at > 0 && words[at - 1].is_ascii_alphanumeric() {
                continue;
            }
            for number in &by_letter[usize::from(words[at])] {
                let phrase = phrases[*number];
                if words[at..].starts_with(phrase.as_bytes()) && is_whole(&self.words, at, phrase.len()) {
                    found.push((at, *number));
                }
            }
        }
        found
    }
}

/// Lines with at least one of these words, with their numbers from 1.
pub fn lines_with<'t>(text: &'t str, words: &[&str]) -> Vec<(usize, &'t str)> {
    let has_one = |text: &str| words.iter().any(|word| text.contains(word));
    // Most files have none.
    if !has_one(text) {
        return Vec::new();
    }
    text.split('\n').enumerate().map(|(index, line)| (index + 1, line)).filter(|(_, line)| has_one(line)).collect()
}

/// The string literals of a Rust source, one a line: as they are printed, with `…` for each value.
pub fn literals(text: &str) -> String {
    let mut found = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (taken, read) = piece(rest, first);
        if let Some(read) = read.filter(|_| first != '/') {
            printed(&rest[read], first == 'r', &mut found);
            found.push('\n');
        }
        rest = &rest[taken..];
    }
    found
}

/// Adds a literal's text without its escapes and line breaks.
fn printed(literal: &str, is_raw: bool, found: &mut String) {
    let mut rest = literal;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            '\\' if !is_raw && after.starts_with('\n') => after.trim_start(),
            '\\' if !is_raw => {
                let escaped = after.chars().next().unwrap_or(' ');
                found.push(if matches!(escaped, 'n' | 't' | 'r') { ' ' } else { escaped });
                &after[escaped.len_utf8().min(after.len())..]
            }
            '{' | '}' if after.starts_with(c) => {
                found.push(c);
                &after[1..]
            }
            '{' => match after.find(['}', '{', '"', '\n']).filter(|end| after[*end..].starts_with('}')) {
                Some(end) => {
                    found.push('…');
                    &after[end + 1..]
                }
                None => {
                    found.push(c);
                    after
                }
            },
            '\n' => {
                found.push(' ');
                after
            }
            _ => {
                found.push(c);
                after
            }
        };
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

/// Reads the comments, the string literals, and the names of functions as words.
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

    #[test]
    fn phrases_are_found_as_whole_words_with_their_lines() {
        let prose =
            Prose::of("a.rs", "//! One two.\n//! Stone two\nlet one = 'o';\nfn two_one() {} // (ONE)\n").unwrap();
        let found: Vec<_> =
            prose.find(&["one", "one two"]).into_iter().map(|(at, number)| (prose.line(at), number)).collect();
        assert_eq!(found, [(1, 0), (1, 1), (4, 0), (4, 0)]);
        assert!(Prose::of("a.csv", "one").is_none());
        assert_eq!(lines_with("one\ntwo\nbe one\n", &["one", "three"]), [(1, "one"), (3, "be one")]);
        assert_eq!(lines_with("one\n", &["two"]), []);
    }

    #[test]
    fn literals_are_read_as_they_are_printed() {
        #[track_caller]
        fn check(text: &str, expected: &[&str]) {
            assert_eq!(literals(text).lines().collect::<Vec<_>>(), expected, "{text}");
        }
        check("// \"no\"\nlet a = \"one\"; /* \"no\" */ b('\"', \"\")", &["one", ""]);
        check(r#"format!("`{file}` has {} of {count:>3}, {{x}}\n\"q\"")"#, &["`…` has … of …, {x} \"q\""]);
        check("\"one \\\n    two\"", &["one two"]);
        check("r#\"a \"b\" \\d\"#", &["a \"b\" \\d"]);
    }
}
