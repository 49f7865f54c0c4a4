//! From text to logical lines: directives, comments, continuations and here-documents, as BuildKit's parser reads them.
//!
//! Pure. Knows no instruction but by whether here-documents may follow it; the meaning of a line is read elsewhere.

use super::ParseError;
use super::limits::{Budget, Counts};
use super::words::{self, Quoting};

/// A here-document: the lines between `<<NAME` and `NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter without quotes; for `COPY` also the file's name.
    pub name: String,
    /// True if variables in it are replaced (false where the delimiter is quoted).
    pub expand: bool,
    /// True if leading tabs are stripped (`<<-`).
    pub chomp: bool,
    /// The content as it is written, each line with its newline.
    pub content: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Logical {
    /// 1-based line on which it begins.
    pub(super) line: usize,
    /// 1-based column on which it begins.
    pub(super) column: usize,
    pub(super) text: String,
    pub(super) heredocs: Vec<Heredoc>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ParserDirectives {
    pub(super) escape: char,
    /// Line and value of `# syntax=`.
    pub(super) syntax: Option<(usize, String)>,
}

pub(super) fn split(text: &str, counts: &mut Counts) -> Result<(ParserDirectives, Vec<Logical>), ParseError> {
    let raw: Vec<&str> = text.split_inclusive('\n').collect();
    let directives = directives(&raw)?;
    let mut logical = Vec::new();
    let mut next = 0;
    while next < raw.len() {
        let line = trim_newline(raw[next]);
        let start = next;
        next += 1;
        if is_comment(line) {
            continue;
        }
        let body = line.trim_start();
        let (part, mut continued) = continuation(body, directives.escape);
        if !continued && part.is_empty() {
            continue;
        }
        let mut joined = part.to_owned();
        while continued && next < raw.len() {
            let line = trim_newline(raw[next]);
            next += 1;
            if is_comment(line) || line.trim_start().is_empty() {
                continue;
            }
            let (part, more) = continuation(line, directives.escape);
            joined.push_str(part);
            continued = more;
        }
        if joined.trim().is_empty() {
            continue;
        }
        counts.instruction(start + 1)?;
        let column = line.chars().count() - body.chars().count() + 1;
        let mut instruction = Logical { line: start + 1, column, text: joined.trim().to_owned(), heredocs: Vec::new() };
        for mut heredoc in heredocs_announced(&instruction)? {
            next = read_heredoc(&raw, next, &mut heredoc, &instruction)?;
            instruction.heredocs.push(heredoc);
        }
        logical.push(instruction);
    }
    Ok((directives, logical))
}

fn trim_newline(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// The line without its continuation character, and whether it had one: a single escape before trailing blanks.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}

/// `# name=value` lines at the very top; anything else, another comment too, ends them.
fn directives(raw: &[&str]) -> Result<ParserDirectives, ParseError> {
    let mut found = ParserDirectives { escape: '\\', syntax: None };
    let mut seen = Vec::new();
    for (index, line) in raw.iter().enumerate() {
        let Some((name, value)) = directive(trim_newline(line)) else { break };
        if seen.contains(&name) {
            return Err(ParseError::new(index + 1, 1, format!("only one `{name}` directive can be used")));
        }
        match (name.as_str(), value) {
            ("escape", "\\" | "`") => found.escape = if value == "`" { '`' } else { '\\' },
            ("escape", _) => {
                return Err(ParseError::new(index + 1, 1, format!("cannot use `{value}` as the escape character"))
                    .hint("write `# escape=\\` or ``# escape=` ``"));
            }
            ("syntax", _) => found.syntax = Some((index + 1, value.to_owned())),
            _ => {}
        }
        seen.push(name);
    }
    Ok(found)
}

fn directive(line: &str) -> Option<(String, &str)> {
    let (name, value) = line.trim_start().strip_prefix('#')?.split_once('=')?;
    let name = name.trim().to_ascii_lowercase();
    let value = value.trim();
    (["syntax", "escape", "check"].contains(&name.as_str()) && !value.is_empty()).then_some((name, value))
}

/// The here-documents that follow this instruction: `RUN`, `COPY`, `ADD`, or one of them behind `ONBUILD`.
fn heredocs_announced(instruction: &Logical) -> Result<Vec<Heredoc>, ParseError> {
    let (keyword, mut rest) = split_word(&instruction.text);
    let mut keyword = keyword.to_ascii_uppercase();
    if keyword == "ONBUILD" {
        let (inner, after) = split_word(rest);
        keyword = inner.to_ascii_uppercase();
        rest = after;
    }
    if !["RUN", "COPY", "ADD"].contains(&keyword.as_str()) || !rest.contains("<<") || is_json(rest) {
        return Ok(Vec::new());
    }
    let raw = Quoting { raw_quotes: true, raw_escapes: true, keep_unset: true, ..Quoting::default() };
    // The escape is always the backslash here, whatever the directive says.
    let Ok(expanded) = words::expand(rest, '\\', raw, &Budget::default(), &|_| None) else { return Ok(Vec::new()) };
    let wrong = |word: &str, hint: &str| {
        let what = format!("`{word}` does not start a here-document of `{keyword}`");
        Err(ParseError::new(instruction.line, instruction.column, what).hint(hint.to_owned()))
    };
    for word in &expanded.words {
        // BuildKit takes neither for a here-document, and what follows for instructions or for files.
        if word.trim_start_matches(|c: char| c.is_ascii_digit()) == "<<-" {
            return wrong(word, "write the name directly behind it: `<<-EOF`");
        }
        if keyword != "RUN" && word.contains("<< ") && heredoc(word).is_some() {
            return wrong(word, "write the name directly behind it: `<<EOF`");
        }
    }
    Ok(expanded.words.iter().filter_map(|word| heredoc(word)).collect())
}

fn is_json(rest: &str) -> bool {
    let mut rest = rest.trim_start();
    while rest.starts_with("--") {
        rest = split_word(rest).1;
    }
    serde_json::from_str::<Vec<serde_json::Value>>(rest).is_ok()
}

/// A word `3<<-"NAME"` as the here-document it announces.
pub(super) fn heredoc(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    let rest = rest.trim_start();
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    // A delimiter's escape is always the backslash, whatever the directive says.
    let read = |raw_quotes: bool| {
        let quoting = Quoting { raw_quotes, keep_unset: true, ..Quoting::default() };
        words::expand(rest, '\\', quoting, &Budget::default(), &|_| None).ok()
    };
    let [name] = <[String; 1]>::try_from(read(false)?.words).ok()?;
    // Quotes that are gone from the name say that nothing is replaced; an escape in it says nothing.
    let quotes = |text: &str| text.matches(['"', '\'']).count();
    let expand = read(true)?.words.first().map(|raw| quotes(raw)) == Some(quotes(&name));
    Some(Heredoc { name, expand, chomp, content: String::new() })
}

fn read_heredoc(raw: &[&str], mut next: usize, doc: &mut Heredoc, at: &Logical) -> Result<usize, ParseError> {
    while next < raw.len() {
        let line = raw[next];
        next += 1;
        let end = trim_newline(line);
        let end = if doc.chomp { end.trim_start_matches('\t') } else { end };
        if end == doc.name {
            return Ok(next);
        }
        doc.content.push_str(if doc.chomp { line.trim_start_matches('\t') } else { line });
    }
    Err(ParseError::new(at.line, at.column, format!("here-document `{}` has no end", doc.name))
        .hint(format!("put `{}` on a line of its own after it", doc.name)))
}

pub(super) fn split_word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    match text.find(char::is_whitespace) {
        Some(at) => (&text[..at], text[at..].trim_start()),
        None => (text, ""),
    }
}
